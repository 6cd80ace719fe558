//! Manual changes are reverted, and additions by others are kept.

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{Resource, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    namespace::{TIMEOUT, TestNamespace, value},
    tools::until,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(drift_is_reverted)]
}

async fn drift_is_reverted(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    user.etcdctl(["put", "a", "b"]).await.success();
    let incarnation = ns.incarnation("demo-1-0").await;

    reverted::<Service>(&ns, "demo", json!({ "spec": { "selector": { "app.kubernetes.io/instance": "other" } } })).await;
    reverted::<Service>(&ns, "demo-peers", json!({ "spec": { "publishNotReadyAddresses": false } })).await;
    reverted::<Service>(&ns, "demo", json!({ "metadata": { "labels": { "app.kubernetes.io/instance": "other" } } })).await;
    reverted::<Service>(&ns, "demo", json!({ "spec": { "selector": { "more": "labels" } } })).await;
    let port = json!({ "name": "etcd-client-ssl", "port": 2378, "targetPort": 2379 });
    reverted::<Service>(&ns, "demo", json!({ "spec": { "ports": [port] } })).await;
    reverted::<ConfigMap>(&ns, "demo-ca", json!({ "data": { "ca.crt": "edited" } })).await;
    reverted::<ConfigMap>(&ns, "demo-bootstrap", json!({ "data": { "demo-0.state": "new" } })).await;
    reverted::<StatefulSet>(&ns, "demo-0", json!({ "spec": { "updateStrategy": { "type": "RollingUpdate" } } })).await;
    let args = ns.get::<StatefulSet>("demo-1").await.map(|set| value(&set)).unwrap();
    let mut containers = args["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["args"] = json!(["--edited"]);
    reverted::<StatefulSet>(&ns, "demo-1", json!({ "spec": { "template": { "spec": { "containers": containers } } } })).await;
    reverted::<PodDisruptionBudget>(&ns, "demo", json!({ "spec": { "minAvailable": 1 } })).await;

    recreated::<Service>(&ns, "demo").await;
    recreated::<Service>(&ns, "demo-peers").await;
    recreated::<ConfigMap>(&ns, "demo-ca").await;
    recreated::<ConfigMap>(&ns, "demo-bootstrap").await;
    recreated::<PodDisruptionBudget>(&ns, "demo").await;
    ns.until_ready("demo").await;
    assert_eq!(ns.incarnation("demo-1-0").await, incarnation, "reverting a change restarted a member");
    let bootstrap = ns.get::<ConfigMap>("demo-bootstrap").await.unwrap().data.unwrap();
    for member in ["demo-0", "demo-1", "demo-2"] {
        assert_eq!(bootstrap[&format!("{member}.state")], "existing", "a member that has started must not bootstrap a cluster");
    }

    // Its pod is deleted with it and is recreated with its data.
    recreated::<StatefulSet>(&ns, "demo-2").await;
    ns.until_ready("demo").await;
    assert_eq!(user.etcdctl(["get", "a", "--print-value-only"]).await.success(), "b\n");

    // Fields of other managers are kept.
    ns.patch::<Service>("demo", json!({ "metadata": { "annotations": { "example.com/note": "theirs" } } })).await;
    reverted::<Service>(&ns, "demo", json!({ "spec": { "selector": { "app.kubernetes.io/instance": "other" } } })).await;
    let service = ns.get::<Service>("demo").await.unwrap();
    assert_eq!(service.annotations().get("example.com/note").map(String::as_str), Some("theirs"));
}

/// Changes an object, and waits until every field that the operator applied has its previous value.
async fn reverted<K>(ns: &TestNamespace, name: &str, patch: Value)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Serialize + Clone + Debug,
{
    let before = applied_fields(&ns.get::<K>(name).await.unwrap());
    ns.patch::<K>(name, patch.clone()).await;
    until(&format!("{name} is reverted after {patch}"), TIMEOUT, || async {
        let now = applied_fields(&ns.get::<K>(name).await.ok_or("it is gone")?);
        // Additional values and list elements are drift as well.
        if now == before { Ok(()) } else { Err(differences(&before, &now)) }
    })
    .await;
}

/// The fields of an object that the operator applies.
fn applied_fields<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
    let mut object = value(object);
    let labels = object["metadata"]["labels"].take();
    let (spec, data) = (object["spec"].take(), object["data"].take());
    json!({ "labels": labels, "spec": spec, "data": data })
}

fn differences(before: &Value, now: &Value) -> String {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => {
            let keys: std::collections::BTreeSet<_> = before.keys().chain(now.keys()).collect();
            let differ = keys.into_iter().filter(|key| before.get(*key) != now.get(*key));
            let null = Value::Null;
            differ
                .map(|key| format!("{key}: {}", differences(before.get(key).unwrap_or(&null), now.get(key).unwrap_or(&null))))
                .collect::<Vec<_>>()
                .join(", ")
        }
        _ => format!("{now} instead of {before}"),
    }
}

/// Deletes an object and waits until it is recreated.
async fn recreated<K>(ns: &TestNamespace, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let before = ns.get::<K>(name).await.unwrap().uid();
    ns.delete::<K>(name).await;
    until(&format!("{name} is recreated"), TIMEOUT, || async {
        let now = ns.get::<K>(name).await.ok_or("it is gone")?;
        if now.uid() != before && now.meta().deletion_timestamp.is_none() {
            Ok(())
        } else {
            Err("it is being deleted".to_owned())
        }
    })
    .await;
}
