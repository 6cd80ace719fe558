//! A downgrade that is enabled is part of the data.

use etcd_warden::etcd::{Change, Client, Dialer, Version};

use crate::{Cluster, ask, free_ports, program, until};

/// So it comes back with a snapshot that was saved meanwhile, and is canceled as any other one that is not desired.
#[tokio::test]
async fn an_enabled_downgrade_comes_with_a_snapshot_and_is_canceled() {
    for (version, lower) in [("3.6.16", 5), ("3.7.3", 6)] {
        let (client, mut cluster) = (Client::default(), Cluster::prepare(1));
        cluster.version = version;
        cluster.members.push(cluster.spawn(0));
        cluster.healthy().await;
        let (member, tls) = (cluster.members[0].client(), cluster.tls());
        let target = Some(Version { major: 3, minor: lower, patch: 0 });
        until("the downgrade is enabled", async || {
            client.change(&member, &tls, &Change::EnableDowngrade { to: lower }).await.ok()
        })
        .await;
        assert_eq!(ask(&cluster.members[0], &tls).await.status.unwrap().downgrade, target, "{version}");
        let snapshot = cluster.dir.path().join("snapshot.db");
        let saved = cluster.etcdctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
        assert!(saved.status.success(), "{version}: {saved:?}");

        cluster.members.clear();
        std::fs::remove_dir_all(cluster.dir.path().join("m0")).unwrap();
        cluster.ports = vec![free_ports()];
        let url = format!("https://127.0.0.1:{}", cluster.ports[0][1]);
        let restored = std::process::Command::new(program(version, "etcdutl"))
            .current_dir(cluster.dir.path())
            .args(["snapshot", "restore", "snapshot.db", "--name=m0", "--data-dir=m0", "--initial-cluster-token=test"])
            .args([format!("--initial-cluster=m0={url}"), format!("--initial-advertise-peer-urls={url}")])
            .output()
            .unwrap();
        assert!(restored.status.success(), "{version}: {restored:?}");
        cluster.members.push(cluster.spawn(0));
        cluster.healthy().await;
        let member = cluster.members[0].client();
        let downgrade = async || ask(&cluster.members[0], &tls).await.status.unwrap().downgrade;
        assert_eq!(downgrade().await, target, "{version}: it comes with the snapshot");
        client.change(&member, &tls, &Change::CancelDowngrade).await.unwrap();
        assert_eq!(downgrade().await, None, "{version}");
    }
}
