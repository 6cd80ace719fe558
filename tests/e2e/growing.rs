//! The volumes of a running cluster grow on a real CSI driver: that of `hack/cluster/csi`, with Kubernetes' own provisioner and resizer.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use etcd_warden::api::EtcdCluster;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    members::voters,
    namespace::{TIMEOUT, TestNamespace},
    tools::{process, root, run, until},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(grown).long()]
}

async fn grow(ns: &TestNamespace, cluster: &str, size: &str) {
    ns.patch::<EtcdCluster>(cluster, json!({ "spec": { "storage": { "size": size } } })).await;
}

/// A class of the driver with further parameters.
async fn class(ns: &TestNamespace, kind: &str, parameters: Value) -> String {
    let name = format!("{kind}-{}", ns.name);
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": name },
        "provisioner": "csi.etcd-warden.dev", "allowVolumeExpansion": true, "parameters": parameters,
    });
    ns.apply(&class.to_string()).await.success();
    name
}

/// What each claim asks for, and what its volume has.
async fn sizes(ns: &TestNamespace) -> BTreeMap<String, (String, String)> {
    let claims = ns.api::<PersistentVolumeClaim>().list(&ListParams::default()).await.unwrap();
    let sizes = claims.into_iter().map(|claim| {
        let requested = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let capacity = claim.status.as_ref().and_then(|status| status.capacity.as_ref()?.get("storage"));
        let text = |size: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>| size.cloned().unwrap_or_default().0;
        (claim.name_any(), (text(requested), text(capacity)))
    });
    sizes.collect()
}

/// Waits until the volume of this claim has a size.
async fn until_grown(ns: &TestNamespace, claim: &str, size: &str) {
    until(&format!("{claim} has {size}"), TIMEOUT * 2, || async {
        let sizes = sizes(ns).await;
        if sizes[claim].1 == size { Ok(()) } else { Err(format!("{sizes:?}")) }
    })
    .await;
}

/// The bytes of the file system that the etcd of a pod writes to.
async fn file_system(ns: &TestNamespace, pod: &str) -> u64 {
    let uid = ns.get::<Pod>(pod).await.unwrap().uid().unwrap();
    let path = format!("/proc/{}/root/var/lib/etcd", process("etcd", &uid));
    let shown = run("stat", ["--file-system", "--format=%b %S", &path]).await.success();
    shown.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
}

/// Three volumes are expanded one after the other, while clients write and every process goes on. Then a driver refuses, which is reported
/// until the change is reverted, wholly or in part; and one expands a file system only when a pod starts.
async fn grown(ns: Arc<TestNamespace>) {
    run(root().join("hack/cluster/csi"), [] as [&str; 0]).await.success();
    let user = ns.cluster_and_user("demo", 3, json!({ "storage": { "storageClassName": "csi" } })).await;
    let pods = ["demo-0-0", "demo-1-0", "demo-2-0"];
    let mut before = vec![];
    for pod in pods {
        before.push(ns.incarnation(pod).await);
        assert!(file_system(&ns, pod).await < 1 << 30);
    }
    let writers = Writers::start(&user).await;
    let began = Instant::now();
    grow(&ns, "demo", "2Gi").await;
    until("all volumes are expanded", TIMEOUT * 2, || async {
        let sizes = sizes(&ns).await;
        let (grown, others): (Vec<_>, Vec<_>) = sizes.values().partition(|(_, capacity)| capacity == "2Gi");
        let growing = others.iter().filter(|(requested, _)| requested == "2Gi").count();
        assert!(growing <= 1, "more than one is expanded at the same time: {sizes:?}");
        if grown.len() == 3 { Ok(()) } else { Err(format!("{sizes:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    ns.measure(format!("three volumes expanded in {:.1} s", began.elapsed().as_secs_f32()));
    for (pod, before) in pods.into_iter().zip(before) {
        assert_eq!(ns.incarnation(pod).await, before, "{pod} was restarted");
        assert!(file_system(&ns, pod).await > 19 << 26, "etcd sees the larger volume");
    }
    voters(&user, 3).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("three volumes expanded: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");

    let (limited, restarted) = tokio::join!(refused(&ns), grown_at_a_start(&ns));
    for class in [limited, restarted] {
        ns.kubectl(["delete", "storageclass", &class]).await.success();
    }
}

/// The driver cannot expand a volume as far as that.
async fn refused(ns: &TestNamespace) -> String {
    let class = class(ns, "limited", json!({ "limit": "1500000000" })).await;
    ns.create_cluster("limited", 1, json!({ "storage": { "storageClassName": class } })).await;
    ns.until_ready("limited").await;
    grow(ns, "limited", "2Gi").await;
    let message = ns.until_condition("limited", "Degraded", "True", "CannotExpandVolume", TIMEOUT).await;
    ns.measure(format!("the driver refuses: {message}"));
    assert!(message.contains("data-limited-0") && message.contains("at most 1500000000 bytes"), "{message}");
    grow(ns, "limited", "1Gi").await;
    ns.until_ready("limited").await;
    // The claim still asks for 2Gi.
    grow(ns, "limited", "1200Mi").await;
    until_grown(ns, "data-limited-0", "1200Mi").await;
    ns.until_ready("limited").await;
    // The namespace may not have more.
    let hard = json!({ format!("{class}.storageclass.storage.k8s.io/requests.storage"): "1300Mi" });
    ns.try_create::<ResourceQuota>("volumes", json!({ "hard": hard })).await.unwrap();
    until("the quota is in force", TIMEOUT, || async {
        let status = ns.get::<ResourceQuota>("volumes").await.unwrap().status.unwrap_or_default();
        status.used.filter(|used| !used.is_empty()).map(drop).ok_or_else(|| "it has no status".to_owned())
    })
    .await;
    grow(ns, "limited", "1400Mi").await;
    let message = ns.until_condition("limited", "Degraded", "True", "CannotExpandVolume", TIMEOUT).await;
    ns.measure(format!("a quota of the namespace: {message}"));
    assert!(message.contains("exceeded quota: volumes"), "{message}");
    ns.delete::<ResourceQuota>("volumes").await;
    grow(ns, "limited", "1300Mi").await;
    until_grown(ns, "data-limited-0", "1300Mi").await;
    ns.until_ready("limited").await;
    class
}

/// The driver does not expand a file system in use, so the member is restarted, and then it has the larger volume.
async fn grown_at_a_start(ns: &TestNamespace) -> String {
    let class = class(ns, "at-a-start", json!({ "online": "false" })).await;
    ns.create_cluster("restarted", 1, json!({ "storage": { "storageClassName": class } })).await;
    ns.until_ready("restarted").await;
    let before = ns.incarnation("restarted-0-0").await;
    let began = Instant::now();
    grow(ns, "restarted", "2Gi").await;
    until_grown(ns, "data-restarted-0", "2Gi").await;
    ns.until_ready("restarted").await;
    ns.measure(format!("a volume expanded by a restart in {:.1} s", began.elapsed().as_secs_f32()));
    assert_ne!(ns.incarnation("restarted-0-0").await, before, "only a restart expands it");
    assert!(file_system(ns, "restarted-0-0").await > 19 << 26);
    class
}
