//! What Kubernetes refuses to others, or in other words than expected.

use etcd_warden::{
    ids::Uid,
    kubernetes::apply::{Eviction, budgets_of, evict, never_allows},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::namespace::TestNamespace;

const WORDS: &str = "pods \"demo-0-0\" is forbidden: failed quota: team: must specify limits.memory for: etcd";

/// Creates an event about a StatefulSet, as the StatefulSet controller does.
async fn event(ns: &TestNamespace<'_>, name: &str, uid: &str, reason: &str, words: &str, at: Timestamp) {
    let message = format!("create Pod demo-0-0 in StatefulSet demo-0 failed error: {words}");
    let object: Event = serde_json::from_value(json!({
        "metadata": { "name": name },
        "involvedObject": { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo-0", "namespace": ns.name, "uid": uid },
        "reason": reason,
        "message": message,
        "type": "Warning",
        "firstTimestamp": at.to_string(),
        "lastTimestamp": at.to_string(),
        "count": 1,
        "source": { "component": "statefulset-controller" },
    }))
    .unwrap();
    let events: Api<Event> = ns.api();
    events.create(&PostParams::default(), &object).await.unwrap();
}

/// Only the StatefulSet controller's own event about this StatefulSet and its present pod says why there is none.
#[tokio::test]
async fn a_pod_that_kubernetes_refuses_is_reported() {
    let ns = TestNamespace::new("refused").await;
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    let operator = ns.operator();
    ns.bootstrapped("demo").await;
    let set: StatefulSet = ns.api().get("demo-0").await.unwrap();
    let (uid, now) = (set.uid().unwrap(), Timestamp::now());
    event(&ns, "other", "00000000-0000-0000-0000-000000000000", "FailedCreate", "another set", now).await;
    event(&ns, "success", &uid, "SuccessfulCreate", "another reason", now).await;
    event(&ns, "before", &uid, "FailedCreate", "an earlier pod", now - SignedDuration::from_hours(1)).await;
    operator.wait_for_passes(3).await;
    ns.bootstrapped("demo").await;

    event(&ns, "refused", &uid, "FailedCreate", WORDS, now).await;
    let message = ns.reports("demo", "Degraded", "KubernetesRefused").await.message;
    assert_eq!(message, format!("demo-0: its pod is refused: {WORDS}"));

    // Once there is a pod, its own state counts.
    let template: Value = serde_json::to_value(&set.spec.template).unwrap();
    let pod = json!({ "metadata": { "labels": template["metadata"]["labels"] }, "spec": template["spec"] });
    ns.create::<Pod>("demo-0-0", pod).await.unwrap();
    ns.bootstrapped("demo").await;
    operator.stop().await;
}

/// Kubernetes answers with an internal error, and evicts the pod once only one budget is left.
#[tokio::test]
async fn a_pod_with_two_disruption_budgets_is_not_evicted() {
    let ns = TestNamespace::new("budgets").await;
    let labels = json!({ "app": "etcd" });
    let container = json!({ "name": "etcd", "image": "etcd" });
    ns.create::<Pod>("demo-0-0", json!({ "metadata": { "labels": labels }, "spec": { "containers": [container] } }))
        .await
        .unwrap();
    // Budgets do not apply to a pod that is Pending.
    let pods: Api<Pod> = ns.api();
    let running = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
    let pod = pods.patch_status("demo-0-0", &PatchParams::default(), &Patch::Merge(running)).await.unwrap();
    let uid = Uid::from(pod.uid().unwrap().as_str());
    let exists = json!([{ "key": "app", "operator": "Exists" }]);
    for (name, selector) in [
        ("demo", json!({ "matchLabels": labels })),
        ("everything", json!({})),
        ("expression", json!({ "matchExpressions": exists })),
        ("other", json!({ "matchLabels": { "app": "other" } })),
    ] {
        let spec = json!({ "minAvailable": 0, "selector": selector });
        ns.create::<PodDisruptionBudget>(name, json!({ "spec": spec })).await.unwrap();
    }
    let budgets: Api<PodDisruptionBudget> = ns.api();
    let selecting = async || {
        let selecting = budgets_of(&budgets, pod.metadata.labels.as_ref().unwrap()).await.unwrap();
        selecting.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    assert_eq!(evict(&pods, "demo-0-0", &uid).await.unwrap(), Eviction::SeveralBudgets);
    assert_eq!(selecting().await, ["demo", "everything", "expression"]);
    ns.delete::<PodDisruptionBudget>("everything").await;
    assert_eq!(evict(&pods, "demo-0-0", &uid).await.unwrap(), Eviction::SeveralBudgets);
    ns.delete::<PodDisruptionBudget>("expression").await;
    // The controller of budgets, which would allow it, does not run here.
    assert_eq!(evict(&pods, "demo-0-0", &uid).await.unwrap(), Eviction::Disallowed);
    // What the controller writes for one pod and `minAvailable: 1`, and for a pod that is down at the moment.
    for (expected, desired, healthy, never) in [(1, 1, 1, true), (3, 2, 2, false)] {
        let status = json!({ "status": {
            "observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": healthy, "desiredHealthy": desired,
            "expectedPods": expected,
        } });
        let written = budgets.patch_status("demo", &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
        assert_eq!(evict(&pods, "demo-0-0", &uid).await.unwrap(), Eviction::Disallowed);
        assert_eq!(never_allows(&written), never);
    }
}
