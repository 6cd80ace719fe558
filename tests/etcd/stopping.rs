//! How long etcd takes to stop.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    time::Instant,
};

use etcd_warden::etcd::{Client, Dialer};
use futures::future::join_all;

use crate::{Cluster, ask, until};

/// The grace period of pods follows from this. The operator holds no stream, so it delays nothing.
#[tokio::test]
async fn a_member_stops_at_once_unless_a_client_watches() {
    let stopping = |version: &'static str| async move {
        for is_watched in [false, true] {
            let mut cluster = Cluster::prepare(1);
            cluster.version = version;
            // The operator leaves the gateway on. Without it etcd does not wait for clients.
            let flags = ["--heartbeat-interval=50", "--election-timeout=500", "--enable-grpc-gateway=true"];
            cluster.members.push(cluster.spawn_with(0, &flags));
            cluster.healthy().await;
            let tls = cluster.tls();
            ask(&cluster.members[0], &tls).await.status.unwrap();
            Client::default().members(&cluster.members[0].client(), &tls).await.unwrap();
            let mut client = is_watched.then(|| watch(&cluster, "key"));
            if let Some(client) = &client {
                until("it watches", async || {
                    assert!(cluster.etcdctl(&["put", "key", "value"]).status.success());
                    (fs::metadata(&client.seen).unwrap().len() > 0).then_some(())
                })
                .await;
            }
            let began = Instant::now();
            cluster.members[0].signal("TERM");
            until("it ends", async || cluster.members[0].child.try_wait().unwrap()).await;
            let took = began.elapsed().as_secs_f32();
            // 5 s + 2 x 0.5 s.
            let expected = if is_watched { 5.9..10.0 } else { 0.0..5.0 };
            assert!(expected.contains(&took), "{version}, watched: {is_watched}: {took} s");
            if let Some(client) = &mut client {
                client.child.kill().unwrap();
                client.child.wait().unwrap();
            }
        }
    };
    join_all(["3.5.35", "3.6.16", "3.7.3"].map(stopping)).await;
}

/// A client that watches.
struct Watching {
    child: Child,
    /// The file with what it has seen.
    seen: PathBuf,
}

fn watch(cluster: &Cluster, key: &str) -> Watching {
    let seen = cluster.dir.path().join("seen");
    let mut command = cluster.command(&["watch", key]);
    let child = command.stdout(File::create(&seen).unwrap()).stderr(Stdio::null()).spawn().unwrap();
    Watching { child, seen }
}
