//! Errors that pass by themselves, as real members answer them.

use etcd_client::{Permission, PermissionType};
use etcd_warden::etcd::{Change, Class, Client, Dialer, EtcdError};
use futures::future::{Either, join, select};
use std::{pin::pin, time::Duration};

use crate::{Cluster, ask, requests, until};

const VERSIONS: [&str; 3] = ["3.5.35", "3.6.16", "3.7.3"];

async fn cluster(version: &'static str, count: usize) -> Cluster {
    let mut cluster = Cluster::prepare(count);
    cluster.version = version;
    cluster.members = (0..count).map(|i| cluster.spawn(i)).collect();
    cluster.healthy().await;
    cluster
}

/// Writes until a write fails.
async fn failing(client: &mut etcd_client::Client) -> EtcdError {
    let writing = async || client.put("key", "value", None).await.err();
    until("a write fails", writing).await.into()
}

#[tokio::test]
async fn requests_during_a_change_of_users_fail_for_a_moment() {
    for version in VERSIONS {
        let cluster = cluster(version, 1).await;
        for command in
            [&["user", "add", "root", "--no-password"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]]
        {
            assert!(cluster.etcdctl(command).status.success());
        }
        let mut admin = requests::client(&cluster, 0).await;
        admin.role_add("role").await.unwrap();
        let changing = async {
            for i in 0.. {
                let permission = Permission::new(PermissionType::Read, format!("key{}", i % 100));
                admin.role_grant_permission("role", permission).await.unwrap();
            }
        };
        let mut user = requests::client(&cluster, 0).await;
        let error = match select(pin!(changing), pin!(failing(&mut user))).await {
            Either::Left(_) => unreachable!("it does not end"),
            Either::Right((error, _)) => error,
        };
        assert!(error.to_string().contains(" is old"), "{version}: {error}");
        assert!(error.class().is_transient(), "{version}: {error}");
    }
}

/// While a leader hands over its leadership, raft drops all requests. etcd translates neither this error nor its own about a
/// successor that does not take over.
#[tokio::test]
async fn requests_while_leadership_is_moved_fail_for_a_moment() {
    for version in VERSIONS {
        let cluster = cluster(version, 3).await;
        let tls = cluster.tls();
        let status = ask(&cluster.members[0], &tls).await.status.unwrap();
        let mut members = vec![];
        for member in &cluster.members {
            members.push(ask(member, &tls).await.status.unwrap().member_id);
        }
        let leader = members.iter().position(|id| Some(*id) == status.leader).unwrap();
        let other = (leader + 1) % 3;
        cluster.members[other].signal("STOP");
        let target = cluster.members[leader].client();
        let client = Client { change: Duration::from_secs(2), ..Client::default() };
        let change = Change::MoveLeader { to: members[other] };
        let mut user = requests::client(&cluster, leader).await;
        let (moved, dropped) = join(client.change(&target, &tls, &change), failing(&mut user)).await;
        assert!(dropped.to_string().contains("raft proposal dropped"), "{version}: {dropped}");
        assert!(dropped.class().is_transient(), "{version}: {dropped}");
        let moved = moved.unwrap_err();
        assert_eq!(moved.class(), Class::Timeout, "{version}: {moved}");
    }
}

#[tokio::test]
async fn a_removal_that_would_leave_too_few_started_members_is_refused_for_now() {
    for version in VERSIONS {
        let cluster = cluster(version, 2).await;
        let tls = cluster.tls();
        // etcd adds no member in the first 5 s of a connection between the members.
        until("a member is added", async || {
            let added = cluster.etcdctl(&["member", "add", "m2", "--peer-urls=https://127.0.0.1:1"]);
            added.status.success().then_some(())
        })
        .await;
        let id = ask(&cluster.members[1], &tls).await.status.unwrap().member_id;
        let error = Client::default().change(&cluster.members[0].client(), &tls, &Change::Remove { id }).await.unwrap_err();
        assert_eq!(error.class(), Class::NotEnoughStarted, "{version}: {error}");
        assert!(error.class().is_transient());
    }
}
