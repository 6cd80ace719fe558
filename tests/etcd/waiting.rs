//! Members that wait for an entry of raft's log.

use std::fs;

use etcd_warden::etcd::{Change, Client, DialError, Dialer};
use futures::{StreamExt, TryStreamExt, stream};

use crate::{Cluster, Etcd, ask, free_ports, requests, until};

/// More than the number of entries that a member may lag behind before it accepts no requests (`maxGapBetweenApplyAndCommitIndex`).
const LARGE: u32 = 6_000;

/// The reason for asking for such an entry: a new member of etcd 3.6 is sent the snapshot of a large log, and then is silent until
/// the next entry. There are no writes here.
#[tokio::test]
async fn a_new_member_of_a_large_cluster_in_which_nobody_writes_answers_after_an_entry_of_the_log() {
    let (client, mut cluster) = (Client::default(), Cluster::prepare(1));
    let tls = cluster.tls();
    let snapshots = ["--snapshot-count=100", "--snapshot-catchup-entries=5"];
    cluster.members.push(cluster.spawn_with(0, &snapshots));
    cluster.healthy().await;
    let writer = requests::client(&cluster, 0).await;
    let write = |i: u32| {
        let mut writer = writer.clone();
        async move { writer.put(format!("key{}", i % 100), "value", None).await.map(drop) }
    };
    stream::iter(0..LARGE).map(write).buffer_unordered(64).try_collect::<()>().await.unwrap();

    let first = cluster.members[0].client();
    let learner = silent_learner(&client, &mut cluster, &snapshots).await;
    // Reading does not help, not even what a quorum has to confirm.
    for _ in 0..2 {
        client.members(&first, &tls).await.unwrap();
        let silent = DialError::Silent { port: learner.client_port };
        assert_eq!(client.ask(&learner.client(), &tls).await.unwrap_err(), silent);
    }
    client.advance(&first, &tls).await.unwrap();
    let status = until("it answers", async || client.ask(&learner.client(), &tls).await.ok()?.status.ok()).await;
    assert!(status.is_learner);
    // Nothing else waits for a write.
    let promote = Change::Promote { id: status.member_id };
    until("it is promoted", async || client.change(&first, &tls, &promote).await.ok()).await;
    cluster.members.push(learner);
    cluster.healthy().await;
}

/// Adds learners to a cluster of one with a large log, until one is sent the snapshot before its name is in the log. A learner that
/// proposes its name in time is not silent, and is removed again.
async fn silent_learner(client: &Client, cluster: &mut Cluster, snapshots: &[&str; 2]) -> Etcd {
    let (first, tls) = (cluster.members[0].client(), cluster.tls());
    for attempt in 1..=10 {
        let name = format!("m{attempt}");
        let [client_port, peer_port] = free_ports();
        let peer_url = format!("https://127.0.0.1:{peer_port}");
        client.change(&first, &tls, &Change::AddLearner { peer_url: peer_url.clone() }).await.unwrap();
        let initial = format!("m0=https://127.0.0.1:{},{name}={peer_url}", cluster.members[0].peer_port);
        let arguments = ["--initial-cluster-state=existing", snapshots[0], snapshots[1]];
        let learner = Etcd::spawn(cluster.dir.path(), &name, client_port, peer_port, &initial, &arguments);
        let answered = until("it answers, or cannot propose its name", async || {
            let log = fs::read_to_string(&learner.log).ok()?;
            if log.contains("too many requests") {
                return Some(None);
            }
            client.ask(&learner.client(), &tls).await.ok()?.status.ok().map(Some)
        })
        .await;
        let Some(status) = answered else { return learner };
        client.change(&first, &tls, &Change::Remove { id: status.member_id }).await.unwrap();
    }
    panic!("ten learners answered although nobody wrote")
}

#[tokio::test]
async fn an_entry_of_the_log_changes_nothing() {
    for version in ["3.5.35", "3.6.16", "3.7.3"] {
        let (client, mut cluster) = (Client::default(), Cluster::prepare(1));
        cluster.version = version;
        cluster.members.push(cluster.spawn(0));
        cluster.healthy().await;
        let (member, tls) = (cluster.members[0].client(), cluster.tls());
        let state = async || {
            let status = ask(&cluster.members[0], &tls).await.status.unwrap();
            let read = requests::client(&cluster, 0).await.get("key", None).await.unwrap();
            (status.raft_applied_index, read.header().unwrap().revision())
        };
        // With authentication, the operator's user is root.
        let commands: [&[&str]; 4] = [
            &["put", "key", "value"],
            &["user", "add", "root", "--no-password"],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ];
        for command in commands {
            let done = cluster.etcdctl(command);
            assert!(done.status.success(), "{version}: {done:?}");
            let (index, revision) = state().await;
            client.advance(&member, &tls).await.unwrap();
            let (after, same) = state().await;
            assert!(after > index && same == revision, "{version}, after {command:?}: {after}, {same}");
        }
    }
}
