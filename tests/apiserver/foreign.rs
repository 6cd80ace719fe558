//! Objects under a cluster's names that belong to others are reported and never changed.

use std::collections::BTreeMap;

use etcd_warden::names::label;
use kube::{
    Api, ResourceExt,
    api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use crate::{
    namespace::{TestNamespace, until},
    state::{check_complete, everything, kinds},
};

/// The kind of every object that the operator creates, and its name in a cluster `x`.
const OBJECTS: [(&str, &str); 11] = [
    ("ConfigMap", "x-bootstrap"),
    ("ConfigMap", "x-ca"),
    ("PersistentVolumeClaim", "data-x-0"),
    ("PodDisruptionBudget", "x"),
    ("Secret", "x-0-tls"),
    ("Secret", "x-client-ca"),
    ("Secret", "x-operator-tls"),
    ("Secret", "x-peer-ca"),
    ("Service", "x"),
    ("Service", "x-peers"),
    ("StatefulSet", "x-0"),
];

/// A cluster for each of the objects, and the name of the object in it.
fn clusters() -> impl Iterator<Item = (String, &'static str, String)> {
    OBJECTS.iter().enumerate().map(|(n, (kind, name))| {
        let cluster = format!("c{n}");
        let object = name.replacen('x', &cluster, 1);
        (cluster, *kind, object)
    })
}

fn api(ns: &TestNamespace<'_>, kind: &str) -> Api<DynamicObject> {
    let resource = kinds().into_iter().find(|resource| resource.kind == kind).unwrap();
    Api::namespaced_with(ns.client.clone(), &ns.name, &resource)
}

/// Creates an object that belongs to others. With the operator's labels for `cluster` it is in the operator's watches.
async fn make(ns: &TestNamespace<'_>, kind: &str, name: &str, cluster: Option<&str>) -> DynamicObject {
    let selector = json!({ "matchLabels": { "a": "b" } });
    let data: Value = match kind {
        "ConfigMap" => json!({ "data": { "mine": "mine" } }),
        "Secret" => json!({ "type": "Opaque", "data": { "mine": "bWluZQ==" } }),
        "Service" => json!({ "spec": { "ports": [{ "port": 80 }] } }),
        "PodDisruptionBudget" => json!({ "spec": { "minAvailable": 1, "selector": selector } }),
        "PersistentVolumeClaim" => {
            json!({ "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } } })
        }
        _ => json!({ "spec": { "serviceName": "mine", "selector": selector, "template": {
            "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "mine", "image": "mine" }] } } } }),
    };
    let labels = cluster.map(|cluster| {
        let labels = [(label::MANAGED_BY, "etcd-warden"), (label::INSTANCE, cluster), (label::MEMBER, &format!("{cluster}-0"))];
        labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    });
    let metadata = ObjectMeta { name: Some(name.into()), labels, ..ObjectMeta::default() };
    let resource: ApiResource = kinds().into_iter().find(|resource| resource.kind == kind).unwrap();
    let mut object = DynamicObject::new(name, &resource).data(data);
    object.metadata = metadata;
    api(ns, kind).create(&PostParams::default(), &object).await.unwrap()
}

/// Deletes an object at once, without waiting for finalizers, whose controllers do not run here.
async fn remove(ns: &TestNamespace<'_>, kind: &str, name: &str) {
    let api = api(ns, kind);
    let patch = kube::api::Patch::Merge(json!({ "metadata": { "finalizers": null } }));
    let uid = api.patch(name, &kube::api::PatchParams::default(), &patch).await.unwrap().uid();
    api.delete(name, &kube::api::DeleteParams::default()).await.unwrap();
    // The operator may create its own object at once.
    until("it is gone", async || {
        let there = api.get_opt(name).await.unwrap();
        there.is_none_or(|there| there.uid() != uid).then_some(())
    })
    .await;
}

fn versions(objects: &BTreeMap<(String, String), DynamicObject>) -> BTreeMap<&(String, String), Option<String>> {
    objects.iter().map(|(id, object)| (id, object.resource_version())).collect()
}

async fn before_the_cluster(labelled: bool) {
    let ns = TestNamespace::new("foreign").await;
    for (cluster, kind, object) in clusters() {
        make(&ns, kind, &object, labelled.then_some(&cluster)).await;
    }
    let before = everything(&ns).await;
    for (cluster, kind, _) in clusters() {
        // A single member has no PodDisruptionBudget.
        let replicas = if kind == "PodDisruptionBudget" { 3 } else { 1 };
        ns.cluster(&cluster, json!({ "replicas": replicas })).await;
    }
    let operator = ns.operator();
    for (cluster, kind, object) in clusters() {
        let data =
            labelled && (kind == "PersistentVolumeClaim" || object.ends_with("-client-ca") || object.ends_with("-peer-ca"));
        let reason = if data { "LeftoverData" } else { "NameTaken" };
        let message = ns.reports(&cluster, "Degraded", reason).await.message;
        assert!(message.contains(&format!("{kind} {object}")), "{message}");
        assert!(data || message.contains("it was not created by etcd-warden"), "{message}");
    }
    operator.quiet(11).await;
    let now = everything(&ns).await;
    assert_eq!(versions(&now), versions(&before), "nothing was created");

    // Once they are deleted, the clusters are bootstrapped.
    for (_, kind, object) in clusters() {
        remove(&ns, kind, &object).await;
    }
    for (cluster, ..) in clusters() {
        ns.bootstrapped(&cluster).await;
        check_complete(&ns, &cluster).await;
    }
    operator.stop().await;
}

#[tokio::test]
async fn existing_objects_without_the_operators_labels() {
    before_the_cluster(false).await;
}

#[tokio::test]
async fn existing_objects_with_the_operators_labels() {
    before_the_cluster(true).await;
}

async fn after_the_cluster(labelled: bool) {
    let ns = TestNamespace::new("usurped").await;
    let operator = ns.operator();
    for (cluster, kind, _) in clusters() {
        // A single member has no PodDisruptionBudget.
        let replicas = if kind == "PodDisruptionBudget" { 3 } else { 1 };
        ns.cluster(&cluster, json!({ "replicas": replicas })).await;
    }
    for (cluster, ..) in clusters() {
        ns.bootstrapped(&cluster).await;
    }
    operator.quiet(1).await;
    operator.stop().await;
    for (cluster, kind, object) in clusters() {
        remove(&ns, kind, &object).await;
        make(&ns, kind, &object, labelled.then_some(&cluster)).await;
    }
    let before = everything(&ns).await;

    let operator = ns.operator();
    for (cluster, kind, object) in clusters() {
        let authority = object.ends_with("-client-ca") || object.ends_with("-peer-ca");
        let reason = if authority { "CALost" } else { "NameTaken" };
        let message = ns.reports(&cluster, "Degraded", reason).await.message;
        let there = if authority { format!("Secret {object}") } else { format!("{kind} {object} cannot be used") };
        assert!(message.contains(&there), "{message}");
    }
    operator.quiet(11).await;
    let now = everything(&ns).await;
    assert_eq!(versions(&now), versions(&before));

    for (cluster, kind, object) in clusters() {
        remove(&ns, kind, &object).await;
        if object.ends_with("-client-ca") || object.ends_with("-peer-ca") {
            // A new authority would cut off members and clients that trust the old one.
            ns.reports(&cluster, "CertificatesReady", "CALost").await;
        } else if kind == "PersistentVolumeClaim" {
            // The member may have run with the claim that is gone.
            ns.reports(&cluster, "Degraded", "ClaimLost").await;
        } else {
            ns.bootstrapped(&cluster).await;
            check_complete(&ns, &cluster).await;
        }
    }
    operator.stop().await;
}

#[tokio::test]
async fn replaced_objects_without_the_operators_labels() {
    after_the_cluster(false).await;
}

#[tokio::test]
async fn replaced_objects_with_the_operators_labels() {
    after_the_cluster(true).await;
}

/// A new object is applied with a resourceVersion that none has. Each version of Kubernetes has to refuse that for an object that exists.
#[tokio::test]
async fn an_apply_of_a_new_object_never_changes_an_existing_one() {
    let ns = TestNamespace::new("absent").await;
    let existing = make(&ns, "ConfigMap", "existing", None).await;
    let configs = api(&ns, "ConfigMap");
    let apply = async |name: &str| {
        let body = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "resourceVersion": "1" }, "data": { "mine": "ours" },
        });
        configs.patch(name, &PatchParams::apply("etcd-warden").force(), &Patch::Apply(&body)).await
    };
    let Err(kube::Error::Api(refused)) = apply("existing").await else { panic!("it is applied") };
    assert_eq!(refused.code, 409, "{refused:?}");
    assert_eq!(configs.get("existing").await.unwrap(), existing);
    assert_eq!(apply("new").await.unwrap().data["data"]["mine"], "ours");
}
