//! Requests by annotations, in a manifest that is applied again and again.

use etcd_warden::{
    api::{EtcdCluster, EtcdClusterStatus},
    names::annotation,
};
use k8s_openapi::api::events::v1::Event;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::namespace::{TestNamespace, until};

async fn request(clusters: &Api<EtcdCluster>, value: &str) {
    let patch = json!({ "metadata": { "annotations": { annotation::ROTATE_CA: value } } });
    clusters.patch("demo", &PatchParams::default(), &Patch::Merge(patch)).await.map(drop).unwrap();
}

/// The requests that the status remembers.
fn completed(status: Option<EtcdClusterStatus>) -> Vec<(String, String)> {
    status.unwrap_or_default().requests.into_iter().map(|request| (request.name, request.value)).collect()
}

#[tokio::test]
async fn a_request_that_is_applied_again_and_again_is_done_once() {
    let ns = TestNamespace::new("requests").await;
    let clusters = ns.api::<EtcdCluster>();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    let operator = ns.operator();
    ns.bootstrapped("demo").await;
    let started = async || {
        let events = ns.api::<Event>().list(&ListParams::default()).await.unwrap().items;
        events.iter().filter(|event| event.reason.as_deref() == Some("RotationStarted")).count()
    };
    request(&clusters, "peer").await;
    until("it is remembered and its annotation is removed", async || {
        let cluster = clusters.get("demo").await.unwrap();
        let is_set = cluster.annotations().contains_key(annotation::ROTATE_CA);
        let phase = cluster.status.as_ref()?.certificates.as_ref()?.peer.as_ref()?.phase;
        let is_done = completed(cluster.status) == [("rotate-ca/peer".to_owned(), "peer".to_owned())];
        (is_done && !is_set && phase.is_some()).then_some(())
    })
    .await;
    assert_eq!(started().await, 1);
    for _ in 0..3 {
        request(&clusters, "peer").await;
        operator.wait_for_passes(3).await;
        let cluster = clusters.get("demo").await.unwrap();
        assert_eq!(cluster.annotations()[annotation::ROTATE_CA], "peer", "the tool and the operator do not fight");
    }
    assert_eq!(started().await, 1, "nothing else has started");

    // Another value is another request.
    request(&clusters, "peer,client@2").await;
    let both = [("rotate-ca/client", "client@2"), ("rotate-ca/peer", "peer@2")];
    until("it is remembered", async || {
        let cluster = clusters.get("demo").await.unwrap();
        let is_set = cluster.annotations().contains_key(annotation::ROTATE_CA);
        let completed = completed(cluster.status);
        let is_done = completed.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(both);
        (is_done && !is_set).then_some(())
    })
    .await;
    operator.stop().await;
}
