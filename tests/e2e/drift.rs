//! What somebody changes by hand comes back, and what others add stays.

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
    tools::until,
    world::{PATIENCE, World, value},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(drift_is_mended)]
}

async fn drift_is_mended(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    user.etcdctl(["put", "a", "b"]).await.success();
    let incarnation = world.incarnation("demo-1-0").await;

    mended::<Service>(&world, "demo", json!({ "spec": { "selector": { "app.kubernetes.io/instance": "other" } } })).await;
    mended::<Service>(&world, "demo-peers", json!({ "spec": { "publishNotReadyAddresses": false } })).await;
    mended::<Service>(&world, "demo", json!({ "metadata": { "labels": { "app.kubernetes.io/instance": "other" } } })).await;
    mended::<Service>(&world, "demo", json!({ "spec": { "selector": { "more": "labels" } } })).await;
    let port = json!({ "name": "etcd-client-ssl", "port": 2378, "targetPort": 2379 });
    mended::<Service>(&world, "demo", json!({ "spec": { "ports": [port] } })).await;
    mended::<ConfigMap>(&world, "demo-ca", json!({ "data": { "ca.crt": "edited" } })).await;
    mended::<ConfigMap>(&world, "demo-bootstrap", json!({ "data": { "demo-0.state": "new" } })).await;
    mended::<StatefulSet>(&world, "demo-0", json!({ "spec": { "updateStrategy": { "type": "RollingUpdate" } } })).await;
    let args = world.get::<StatefulSet>("demo-1").await.map(|set| value(&set)).unwrap();
    let mut containers = args["spec"]["template"]["spec"]["containers"].clone();
    containers[0]["args"] = json!(["--edited"]);
    mended::<StatefulSet>(&world, "demo-1", json!({ "spec": { "template": { "spec": { "containers": containers } } } })).await;
    mended::<PodDisruptionBudget>(&world, "demo", json!({ "spec": { "minAvailable": 1 } })).await;

    deleted::<Service>(&world, "demo").await;
    deleted::<Service>(&world, "demo-peers").await;
    deleted::<ConfigMap>(&world, "demo-ca").await;
    deleted::<ConfigMap>(&world, "demo-bootstrap").await;
    deleted::<PodDisruptionBudget>(&world, "demo").await;
    world.until_ready("demo").await;
    assert_eq!(world.incarnation("demo-1-0").await, incarnation, "mending restarted a member");
    let bootstrap = world.get::<ConfigMap>("demo-bootstrap").await.unwrap().data.unwrap();
    for member in ["demo-0", "demo-1", "demo-2"] {
        assert_eq!(bootstrap[&format!("{member}.state")], "existing", "a member that has started may not found a cluster");
    }

    // Its pod goes with it and comes back with its data.
    deleted::<StatefulSet>(&world, "demo-2").await;
    world.until_ready("demo").await;
    assert_eq!(user.etcdctl(["get", "a", "--print-value-only"]).await.success(), "b\n");

    // What another manager has added is none of the operator's business.
    world.patch::<Service>("demo", json!({ "metadata": { "annotations": { "example.com/note": "theirs" } } })).await;
    mended::<Service>(&world, "demo", json!({ "spec": { "selector": { "app.kubernetes.io/instance": "other" } } })).await;
    let service = world.get::<Service>("demo").await.unwrap();
    assert_eq!(service.annotations().get("example.com/note").map(String::as_str), Some("theirs"));
}

/// Edits an object, and waits until every field that the operator applied is as it was.
async fn mended<K>(world: &World, name: &str, patch: Value)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Serialize + Clone + Debug,
{
    let before = wanted(&world.get::<K>(name).await.unwrap());
    world.patch::<K>(name, patch.clone()).await;
    until(&format!("{name} is mended after {patch}"), PATIENCE, || async {
        let now = wanted(&world.get::<K>(name).await.ok_or("it is gone")?);
        // A list of another length, or a value that was added, is drift as well.
        if now == before { Ok(()) } else { Err(differences(&before, &now)) }
    })
    .await;
}

/// An object without what changes by itself or is added by others.
fn wanted<K: Resource<DynamicType = ()> + Serialize>(object: &K) -> Value {
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

/// Deletes an object and waits until another one is in its place.
async fn deleted<K>(world: &World, name: &str)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let before = world.get::<K>(name).await.unwrap().uid();
    world.delete::<K>(name).await;
    until(&format!("{name} is made again"), PATIENCE, || async {
        let now = world.get::<K>(name).await.ok_or("it is gone")?;
        if now.uid() != before && now.meta().deletion_timestamp.is_none() {
            Ok(())
        } else {
            Err("it is being deleted".to_owned())
        }
    })
    .await;
}
