//! The storage of a running cluster changes: size, StorageClass, from claims to pods and back; and members that have their data in their
//! pods lose them.

use std::{sync::Arc, time::Instant};

use etcd_warden::api::{EtcdCluster, MemberRole};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    members::voters,
    namespace::{TIMEOUT, TestNamespace},
    tools::until,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(class_and_size_changed), scenario!(expansion_refused), scenario!(data_in_pods), scenario!(one_member)]
}

async fn change(ns: &TestNamespace, storage: Value) {
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "storage": storage } })).await;
}

/// Waits until the change has begun and is complete.
async fn until_replaced(ns: &TestNamespace, what: &str) {
    let began = Instant::now();
    let before: Vec<_> = ns.status("demo").await.members.into_iter().map(|member| member.id).collect();
    until(&format!("{what}: every member is another one"), TIMEOUT * 2, || async {
        let status = ns.ready("demo").await?;
        let old = status.members.iter().filter(|member| before.contains(&member.id)).count();
        if old == 0 { Ok(()) } else { Err(format!("{old} are left")) }
    })
    .await;
    ns.measure(format!("{what}: {} members replaced in {:.1} s", before.len(), began.elapsed().as_secs_f32()));
}

async fn claims(ns: &TestNamespace) -> Vec<PersistentVolumeClaim> {
    ns.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items
}

/// A StorageClass of the same provisioner under another name.
async fn another_class(ns: &TestNamespace) -> String {
    let name = format!("other-{}", ns.name);
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
    });
    ns.apply(&class.to_string()).await.success();
    name
}

/// Members are replaced by ones with another class, and with smaller volumes, while clients write.
async fn class_and_size_changed(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let class = another_class(&ns).await;
    change(&ns, json!({ "storageClassName": class })).await;
    until_replaced(&ns, "another class").await;
    change(&ns, json!({ "size": "900Mi" })).await;
    until_replaced(&ns, "a smaller size").await;
    voters(&user, 3).await;
    for claim in claims(&ns).await {
        let spec = claim.spec.clone().unwrap();
        let size = spec.resources.and_then(|resources| resources.requests).unwrap()["storage"].0.clone();
        assert_eq!((spec.storage_class_name.as_deref(), size.as_str()), (Some(class.as_str()), "900Mi"), "{}", claim.name_any());
    }
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("storage changed: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    // Too small for the write-ahead log.
    change(&ns, json!({ "size": "100Mi" })).await;
    let message = ns.until_condition("demo", "Degraded", "True", "CannotReplace", TIMEOUT).await;
    assert!(message.contains("100Mi") && message.contains("448Mi"), "{message}");
    change(&ns, json!({ "size": "900Mi" })).await;
    ns.until_ready("demo").await;
    ns.kubectl(["delete", "storageclass", &class]).await.success();
}

/// The class does not allow expansion: that is said, and other work goes on.
async fn expansion_refused(ns: Arc<TestNamespace>) {
    ns.cluster_and_user("demo", 1, json!({})).await;
    change(&ns, json!({ "size": "2Gi" })).await;
    let message = ns.until_condition("demo", "Degraded", "True", "CannotExpandVolume", TIMEOUT).await;
    ns.measure(format!("a class that does not expand: {message}"));
    let class = claims(&ns).await[0].spec.clone().unwrap().storage_class_name.unwrap();
    assert!(message.contains(&format!("StorageClass {class}")) && message.contains("allowVolumeExpansion"), "{message}");
    // A new member has the new size.
    ns.kubectl(["scale", "etcd", "demo", "--replicas=2"]).await.success();
    until("the second member is healthy", TIMEOUT, || async {
        let status = ns.status("demo").await;
        if status.ready.as_deref() == Some("2/2") { Ok(()) } else { Err(format!("{:?}", status.ready)) }
    })
    .await;
    let second = ns.get::<PersistentVolumeClaim>("data-demo-1").await.unwrap();
    assert_eq!(second.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0, "2Gi");
    change(&ns, json!({ "size": "1Gi" })).await;
    ns.until_ready("demo").await;
}

/// Members have their data in their pods: a deleted pod is a lost member, a restart is a replacement. Then the data moves into claims, and
/// back.
async fn data_in_pods(ns: Arc<TestNamespace>) {
    let in_pods = json!({ "emptyDir": { "medium": "Memory", "sizeLimit": "640Mi" } });
    let more = json!({ "storage": in_pods, "etcd": { "quotaBackendSize": "128Mi" } });
    let user = ns.cluster_and_user("demo", 3, more).await;
    assert!(claims(&ns).await.is_empty());
    let writers = Writers::start(&user).await;
    let before = ns.status("demo").await;
    let follower = before.members.iter().find(|member| member.role == Some(MemberRole::Follower)).unwrap();
    ns.delete::<Pod>(&format!("{}-0", follower.name)).await;
    until("another member has its name", TIMEOUT, || async {
        let status = ns.ready("demo").await?;
        let same = status.members.iter().any(|member| member.id == follower.id);
        if same { Err("it is the same".to_owned()) } else { Ok(()) }
    })
    .await;
    let request = json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } });
    ns.patch::<EtcdCluster>("demo", request).await;
    until_replaced(&ns, "a restart").await;
    change(&ns, json!({ "emptyDir": null })).await;
    until_replaced(&ns, "from pods to claims").await;
    assert_eq!(claims(&ns).await.len(), 3);
    change(&ns, in_pods).await;
    until_replaced(&ns, "from claims to pods").await;
    assert!(claims(&ns).await.is_empty());
    voters(&user, 3).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("data in pods: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    let refused = ns.kubectl(["scale", "etcd", "demo", "--replicas=1"]).await.failure();
    assert!(refused.contains("acceptDataLoss"), "{refused}");
}

/// The only member is replaced, which is possible because the new one joins first.
async fn one_member(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    user.etcdctl(["put", "before", "kept"]).await.success();
    let class = another_class(&ns).await;
    change(&ns, json!({ "storageClassName": class })).await;
    until_replaced(&ns, "the only member").await;
    assert!(user.etcdctl(["get", "before"]).await.success().contains("kept"));
    voters(&user, 1).await;
    ns.kubectl(["delete", "storageclass", &class]).await.success();
}
