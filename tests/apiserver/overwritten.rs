//! A webhook that changes what the operator writes.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    namespace::{TestNamespace, until},
    webhook::Webhook,
};

/// Rewrites the registry of a StatefulSet's image, as Kyverno and registry mirrors do, and adds a toleration.
fn use_mirror(set: &Value) -> Vec<Value> {
    let pod = &set["spec"]["template"]["spec"];
    let image = pod["containers"][0]["image"].as_str().unwrap();
    let mut patch = vec![];
    if !image.starts_with("mirror.example.com/") {
        let field = "/spec/template/spec/containers/0/image";
        patch.push(json!({ "op": "replace", "path": field, "value": format!("mirror.example.com/{image}") }));
    }
    if pod["tolerations"].is_null() {
        let toleration = json!({ "key": "example.com/pool", "operator": "Exists", "effect": "NoSchedule" });
        patch.push(json!({ "op": "add", "path": "/spec/template/spec/tolerations", "value": [toleration] }));
    }
    patch
}

/// A field that a webhook rewrites is applied once and then reported. Other fields are still reverted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_that_a_webhook_rewrites_is_not_fought() {
    let ns = TestNamespace::new("webhook").await;
    let webhook = Webhook::install(ns.client.clone(), &ns.name, "apps/statefulsets", use_mirror).await;
    let sets = ns.api::<StatefulSet>();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    let operator = ns.operator();
    let message = ns.reports("demo", "Degraded", "FieldOverwritten").await.message;
    let image = |set: &StatefulSet| set.spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
    let mirrored = image(&sets.get("demo-0").await.unwrap());
    let original = mirrored.strip_prefix("mirror.example.com/").unwrap();
    let field = format!("spec.template.spec.containers[etcd].image (\"{mirrored}\" instead of \"{original}\")");
    assert!(message.contains(&field), "{message}");
    operator.quiet(5).await;
    let writes = operator.tap.writes().iter().filter(|seen| seen.path.ends_with("/statefulsets/demo-0")).count();
    assert!(writes <= 4, "{writes} writes");

    let pod = sets.get("demo-0").await.unwrap().spec.template.spec.unwrap();
    assert_eq!(pod.tolerations.unwrap_or_default().len(), 1, "what is added beside the operator's fields is left alone");

    let edit = json!({ "spec": { "template": { "spec": { "terminationGracePeriodSeconds": 5 } } } });
    sets.patch("demo-0", &PatchParams::default(), &Patch::Merge(edit)).await.map(drop).unwrap();
    until("it is reverted", async || {
        let set = sets.get("demo-0").await.unwrap();
        (set.spec.template.spec?.termination_grace_period_seconds == Some(30)).then_some(())
    })
    .await;
    operator.quiet(5).await;
    webhook.remove().await;
    operator.stop().await;
}
