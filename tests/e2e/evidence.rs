//! Members that cannot recover are replaced, on evidence and not before.

use std::{
    panic::{AssertUnwindSafe, resume_unwind},
    path::PathBuf,
    sync::Arc,
};

use etcd_warden::api::{MemberRole, MemberStatus};
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    harness::Scenario,
    namespace::{TIMEOUT, TestNamespace},
    tools::{kubectl, until},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(data_corrupted), scenario!(node_lost).alone()]
}

async fn follower(ns: &TestNamespace) -> MemberStatus {
    let members = ns.status("demo").await.members;
    members.into_iter().find(|member| member.role == Some(MemberRole::Follower)).unwrap()
}

/// Waits until a new member has its name, and the cluster is ready.
async fn until_replaced(ns: &TestNamespace, member: &MemberStatus) {
    until("another member has its name", TIMEOUT * 2, || async {
        let status = ns.status("demo").await;
        let now = status.members.into_iter().find(|other| other.name == member.name).ok_or("it is gone")?;
        if now.id != member.id && now.ready { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
}

/// The directory of a member's volume on the node.
async fn directory(ns: &TestNamespace, member: &str) -> PathBuf {
    let claim = ns.get::<PersistentVolumeClaim>(&format!("data-{member}")).await.unwrap();
    let volumes: Api<PersistentVolume> = Api::all(ns.client.clone());
    let volume = volumes.get(&claim.spec.unwrap().volume_name.unwrap()).await.unwrap().spec.unwrap();
    let local = volume.local.map(|local| local.path);
    local.or(volume.host_path.map(|host| host.path)).unwrap().into()
}

/// A member whose write-ahead log is corrupted is in a crash loop, and is replaced after the time in the spec.
async fn data_corrupted(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({ "repair": { "crashLoop": "10s" } })).await;
    let writers = Writers::start(&user).await;
    let member = follower(&ns).await;
    let wal = directory(&ns, &member.name).await.join("member-data/member/wal");
    for log in std::fs::read_dir(wal).unwrap() {
        let path = log.unwrap().path();
        let length = std::fs::metadata(&path).unwrap().len();
        std::fs::write(&path, vec![0x5a; usize::try_from(length).unwrap().min(1 << 20)]).unwrap();
    }
    ns.kill(&format!("{}-0", member.name)).await;
    until_replaced(&ns, &member).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("a member with a corrupted log replaced: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    let events = ns.events("demo").await;
    assert!(events.iter().any(|(reason, _)| reason == "MemberRemoved"), "{events:?}");
}

/// A member whose volume is on a lost node is replaced. There is only one node, so its label that the volume's node affinity
/// refers to is changed.
async fn node_lost(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({ "repair": { "lostNode": "10s" } })).await;
    let writers = Writers::start(&user).await;
    let nodes: Api<Node> = Api::all(ns.client.clone());
    let node = nodes.list(&ListParams::default()).await.unwrap().items.remove(0);
    let host = node.labels()["kubernetes.io/hostname"].clone();
    let name = |host: &str| format!("kubernetes.io/hostname={host}");
    let member = follower(&ns).await;
    kubectl(["label", "node", &node.name_any(), &name("another"), "--overwrite"]).await.success();
    ns.kill(&format!("{}-0", member.name)).await;
    let removed = until("it is removed", TIMEOUT, || async {
        let events = ns.events("demo").await;
        let found = events.into_iter().find(|(reason, _)| reason == "MemberRemoved");
        found.ok_or_else(|| "it is a member".to_owned())
    });
    // The following scenarios need the label, so it is restored in any case.
    let removed = AssertUnwindSafe(removed).catch_unwind().await;
    kubectl(["label", "node", &node.name_any(), &name(&host), "--overwrite"]).await.success();
    let (_, message) = removed.unwrap_or_else(|panic| resume_unwind(panic));
    assert!(message.contains(&member.name), "{message}");
    until_replaced(&ns, &member).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("a member whose node is gone replaced: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}
