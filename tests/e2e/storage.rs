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
    tools::until,
    world::{TIMEOUT, World},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(class_and_size_changed), scenario!(expansion_refused), scenario!(data_in_pods), scenario!(one_member)]
}

async fn change(world: &World, storage: Value) {
    world.patch::<EtcdCluster>("demo", json!({ "spec": { "storage": storage } })).await;
}

/// Waits until the change has begun and is complete.
async fn until_replaced(world: &World, what: &str) {
    let began = Instant::now();
    let before: Vec<_> = world.status("demo").await.members.into_iter().map(|member| member.id).collect();
    until(&format!("{what}: every member is another one"), TIMEOUT * 2, || async {
        let status = world.ready("demo").await?;
        let old = status.members.iter().filter(|member| before.contains(&member.id)).count();
        if old == 0 { Ok(()) } else { Err(format!("{old} are left")) }
    })
    .await;
    world.measure(format!("{what}: {} members replaced in {:.1} s", before.len(), began.elapsed().as_secs_f32()));
}

async fn claims(world: &World) -> Vec<PersistentVolumeClaim> {
    world.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap().items
}

/// A StorageClass of the same provisioner under another name.
async fn another_class(world: &World) -> String {
    let name = format!("other-{}", world.namespace);
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
        "provisioner": "rancher.io/local-path", "volumeBindingMode": "WaitForFirstConsumer",
    });
    world.apply(&class.to_string()).await.success();
    name
}

/// Members are replaced by ones with another class, and with smaller volumes, while clients write.
async fn class_and_size_changed(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let class = another_class(&world).await;
    change(&world, json!({ "storageClassName": class })).await;
    until_replaced(&world, "another class").await;
    change(&world, json!({ "size": "900Mi" })).await;
    until_replaced(&world, "a smaller size").await;
    voters(&user, 3).await;
    for claim in claims(&world).await {
        let spec = claim.spec.clone().unwrap();
        let size = spec.resources.and_then(|resources| resources.requests).unwrap()["storage"].0.clone();
        assert_eq!((spec.storage_class_name.as_deref(), size.as_str()), (Some(class.as_str()), "900Mi"), "{}", claim.name_any());
    }
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("storage changed: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    // Too small for the write-ahead log.
    change(&world, json!({ "size": "100Mi" })).await;
    let message = world.until_condition("demo", "Degraded", "True", "CannotReplace", TIMEOUT).await;
    assert!(message.contains("100Mi") && message.contains("448Mi"), "{message}");
    change(&world, json!({ "size": "900Mi" })).await;
    world.until_ready("demo").await;
    world.kubectl(["delete", "storageclass", &class]).await.success();
}

/// The class does not allow expansion: that is said, and other work goes on.
async fn expansion_refused(world: Arc<World>) {
    world.cluster_and_user("demo", 1, json!({})).await;
    change(&world, json!({ "size": "2Gi" })).await;
    let message = world.until_condition("demo", "Degraded", "True", "CannotExpandVolume", TIMEOUT).await;
    world.measure(format!("a class that does not expand: {message}"));
    let class = claims(&world).await[0].spec.clone().unwrap().storage_class_name.unwrap();
    assert!(message.contains(&format!("StorageClass {class}")) && message.contains("allowVolumeExpansion"), "{message}");
    // A new member has the new size.
    world.kubectl(["scale", "etcd", "demo", "--replicas=2"]).await.success();
    until("the second member is healthy", TIMEOUT, || async {
        let status = world.status("demo").await;
        if status.ready.as_deref() == Some("2/2") { Ok(()) } else { Err(format!("{:?}", status.ready)) }
    })
    .await;
    let second = world.get::<PersistentVolumeClaim>("data-demo-1").await.unwrap();
    assert_eq!(second.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0, "2Gi");
    change(&world, json!({ "size": "1Gi" })).await;
    world.until_ready("demo").await;
}

/// Members have their data in their pods: a deleted pod is a lost member, a restart is a replacement. Then the data moves into claims, and
/// back.
async fn data_in_pods(world: Arc<World>) {
    let in_pods = json!({ "emptyDir": { "medium": "Memory", "sizeLimit": "640Mi" } });
    let more = json!({ "storage": in_pods, "etcd": { "quotaBackendSize": "128Mi" } });
    let user = world.cluster_and_user("demo", 3, more).await;
    assert!(claims(&world).await.is_empty());
    let writers = Writers::start(&user).await;
    let before = world.status("demo").await;
    let follower = before.members.iter().find(|member| member.role == Some(MemberRole::Follower)).unwrap();
    world.delete::<Pod>(&format!("{}-0", follower.name)).await;
    until("another member has its name", TIMEOUT, || async {
        let status = world.ready("demo").await?;
        let same = status.members.iter().any(|member| member.id == follower.id);
        if same { Err("it is the same".to_owned()) } else { Ok(()) }
    })
    .await;
    let request = json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } });
    world.patch::<EtcdCluster>("demo", request).await;
    until_replaced(&world, "a restart").await;
    change(&world, json!({ "emptyDir": null })).await;
    until_replaced(&world, "from pods to claims").await;
    assert_eq!(claims(&world).await.len(), 3);
    change(&world, in_pods).await;
    until_replaced(&world, "from claims to pods").await;
    assert!(claims(&world).await.is_empty());
    voters(&user, 3).await;
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("data in pods: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    let refused = world.kubectl(["scale", "etcd", "demo", "--replicas=1"]).await.failure();
    assert!(refused.contains("acceptDataLoss"), "{refused}");
}

/// The only member is replaced, which is possible because the new one joins first.
async fn one_member(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 1, json!({})).await;
    user.etcdctl(["put", "before", "kept"]).await.success();
    let class = another_class(&world).await;
    change(&world, json!({ "storageClassName": class })).await;
    until_replaced(&world, "the only member").await;
    assert!(user.etcdctl(["get", "before"]).await.success().contains("kept"));
    voters(&user, 1).await;
    world.kubectl(["delete", "storageclass", &class]).await.success();
}
