//! Edits of a cluster that reach existing objects without a restart.

use std::collections::BTreeMap;

use etcd_warden::{api::EtcdCluster, names::annotation};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Service},
};
use kube::api::{ObjectMeta, PostParams};
use serde_json::{Value, json};

use crate::{
    bootstrap::change,
    namespace::{TestNamespace, until_ok},
};

fn values<const N: usize>(map: Option<BTreeMap<String, String>>, keys: [&str; N]) -> [Option<String>; N] {
    let map = map.unwrap_or_default();
    keys.map(|key| map.get(key).cloned())
}

fn some(texts: &[Option<&str>]) -> Vec<Option<String>> {
    texts.iter().map(|text| text.map(str::to_owned)).collect()
}

/// Waits until these labels and annotations of an object are as expected.
async fn becomes<const N: usize>(
    read: impl AsyncFn() -> ObjectMeta,
    keys: [&str; N],
    labels: [Option<&str>; N],
    annotations: [Option<&str>; N],
) {
    until_ok(async || {
        let meta = read().await;
        let found = [values(meta.labels.clone(), keys).to_vec(), values(meta.annotations.clone(), keys).to_vec()];
        let wanted = [some(&labels), some(&annotations)];
        if found == wanted { Ok(()) } else { Err(format!("{found:?} is {wanted:?}: {meta:#?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_is_removed_from_the_spec_is_removed_from_the_service() {
    let ns = TestNamespace::new("service").await;
    let operator = ns.operator();
    let both = json!({ "ours": "1", "kept": "1" });
    let service = json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/a", "labels": both, "annotations": both });
    ns.cluster("demo", json!({ "replicas": 1, "service": service })).await;
    ns.bootstrapped("demo").await;
    let services = ns.api::<Service>();
    let read = async || services.get("demo").await.unwrap().metadata;
    let keys = ["ours", "kept", "theirs"];
    becomes(read, keys, [Some("1"), Some("1"), None], [Some("1"), Some("1"), None]).await;
    let theirs = json!({ "metadata": { "labels": { "theirs": "1" }, "annotations": { "theirs": "1" } } });
    change::<Service>(&ns, "demo", theirs).await;

    let edited = json!({ "ours": null, "kept": "2" });
    change::<EtcdCluster>(&ns, "demo", json!({ "spec": { "service": { "labels": edited, "annotations": edited } } })).await;
    becomes(read, keys, [None, Some("2"), Some("1")], [None, Some("2"), Some("1")]).await;
    let plain = json!({ "type": "ClusterIP", "loadBalancerClass": null });
    change::<EtcdCluster>(&ns, "demo", json!({ "spec": { "service": plain } })).await;
    until_ok(async || {
        let spec = services.get("demo").await.unwrap().spec.unwrap();
        let is_plain = spec.type_.as_deref() == Some("ClusterIP") && spec.load_balancer_class.is_none();
        if is_plain { Ok(()) } else { Err(format!("{spec:?} is plain")) }
    })
    .await;
    operator.quiet(2).await;
    operator.stop().await;
}

#[tokio::test]
async fn labels_and_annotations_reach_a_running_pod() {
    let ns = TestNamespace::new("live").await;
    let operator = ns.operator();
    let both = json!({ "ours": "1", "kept": "1" });
    ns.cluster("demo", json!({ "replicas": 1, "pod": { "labels": both, "annotations": both } })).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    let set = ns.api::<StatefulSet>().get("demo-0").await.unwrap();
    let template = set.spec.template;
    let mut pod = Pod { metadata: template.metadata.unwrap(), spec: template.spec, status: None };
    pod.metadata.name = Some("demo-0-0".into());
    pod.metadata.labels.as_mut().unwrap().insert("theirs".into(), "1".into());
    let pods = ns.api::<Pod>();
    let uid = pods.create(&PostParams::default(), &pod).await.unwrap().metadata.uid;

    let edited = json!({ "ours": null, "kept": "2", "new": "1" });
    change::<EtcdCluster>(&ns, "demo", json!({ "spec": { "pod": { "labels": edited, "annotations": edited } } })).await;
    let read = async || pods.get("demo-0-0").await.unwrap().metadata;
    let keys = ["ours", "kept", "new", "theirs"];
    becomes(read, keys, [None, Some("2"), Some("1"), Some("1")], [None, Some("2"), Some("1"), None]).await;
    let none: Value = json!({ "ours": null, "kept": null, "new": null });
    change::<EtcdCluster>(&ns, "demo", json!({ "spec": { "pod": { "labels": none, "annotations": none } } })).await;
    let keys = ["kept", "new", "theirs", annotation::FROM_SPEC];
    becomes(read, keys, [None, None, Some("1"), None], [None; 4]).await;
    assert_eq!(read().await.uid, uid, "it was not restarted");
    operator.quiet(2).await;
    operator.stop().await;
}
