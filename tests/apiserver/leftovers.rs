//! Objects that remain after a cluster is deleted, and a new cluster of the same name.

use etcd_warden::api::EtcdCluster;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    namespace::{TestNamespace, until},
    state::{check_complete, everything, kinds},
};

/// Deletes the objects of a deleted owner, as the garbage collector does.
async fn collect(ns: &TestNamespace<'_>, owner: &str) {
    for ((kind, name), object) in everything(ns).await {
        if object.owner_references().iter().any(|reference| reference.uid == owner) {
            let resource = kinds().into_iter().find(|resource| resource.kind == kind).unwrap();
            let api: Api<DynamicObject> = Api::namespaced_with(ns.client.clone(), &ns.name, &resource);
            let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
            api.patch(&name, &PatchParams::default(), &patch).await.unwrap();
            api.delete(&name, &DeleteParams::default()).await.unwrap();
            until("it is gone", async || api.get_opt(&name).await.unwrap().is_none().then_some(())).await;
        }
    }
}

#[tokio::test]
async fn claims_and_authorities_are_retained_and_not_taken_over() {
    let ns = TestNamespace::new("retain").await;
    let operator = ns.operator();
    let old = ns.cluster("demo", json!({})).await.uid().unwrap();
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    ns.delete::<EtcdCluster>("demo").await;
    collect(&ns, &old).await;
    let left = everything(&ns).await;
    let names: Vec<_> = left.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["data-demo-0", "data-demo-1", "data-demo-2", "demo-client-ca", "demo-peer-ca"]);

    ns.cluster("demo", json!({})).await;
    let refused = ns.reports("demo", "Available", "LeftoverData").await.message;
    for (_, name) in left.keys() {
        assert!(refused.contains(name), "{refused}");
    }
    // The command in the message is sufficient.
    let (_, command) = refused.split_once("kubectl ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    operator.quiet(1).await;
    let now = everything(&ns).await;
    assert!(left.iter().all(|(id, object)| now[id].resource_version() == object.resource_version()));
    assert_eq!(now.len(), left.len());
    let arguments: Vec<_> = command.split(' ').chain(["--wait=false"]).collect();
    ns.server.kubectl(&arguments);
    // The controller that removes the finalizer of claims does not run here.
    for id in left.keys().filter(|(kind, _)| kind == "PersistentVolumeClaim") {
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        ns.server.kubectl(&["-n", &ns.name, "patch", "pvc", &id.1, "-p", patch]);
    }
    ns.bootstrapped("demo").await;
    check_complete(&ns, "demo").await;
    operator.stop().await;
}

/// Removes the references to a deleted owner, as the garbage collector does after `kubectl delete --cascade=orphan`.
async fn orphan(ns: &TestNamespace<'_>, owner: &str) {
    for ((kind, name), object) in everything(ns).await {
        if object.owner_references().iter().any(|reference| reference.uid == owner) {
            let resource = kinds().into_iter().find(|resource| resource.kind == kind).unwrap();
            let api: Api<DynamicObject> = Api::namespaced_with(ns.client.clone(), &ns.name, &resource);
            let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": null } }));
            api.patch(&name, &PatchParams::default(), &patch).await.unwrap();
        }
    }
}

/// With either retention, nothing is changed until the user has removed what the deleted cluster left, and the data is kept.
#[tokio::test]
async fn a_cluster_that_was_deleted_without_its_objects_can_be_created_again() {
    for retention in ["Retain", "Delete"] {
        let ns = TestNamespace::new("orphan").await;
        let operator = ns.operator();
        let spec = json!({ "storage": { "retention": retention } });
        let old = ns.cluster("demo", spec.clone()).await.uid().unwrap();
        ns.bootstrapped("demo").await;
        operator.quiet(1).await;
        operator.stop().await;
        ns.delete::<EtcdCluster>("demo").await;
        orphan(&ns, &old).await;
        let left = everything(&ns).await;

        let operator = ns.operator();
        ns.cluster("demo", spec).await;
        let refused = ns.reports("demo", "Available", "LeftoverObjects").await.message;
        operator.quiet(1).await;
        let now = everything(&ns).await;
        assert!(left.iter().all(|(id, object)| now[id].resource_version() == object.resource_version()));
        assert_eq!(now.len(), left.len());
        // The command in the message is sufficient, and keeps data and authorities.
        let (_, command) = refused.split_once("kubectl ").unwrap();
        let (command, _) = command.split_once('`').unwrap();
        ns.server.kubectl(&command.split(' ').chain(["--wait=false"]).collect::<Vec<_>>());
        // Members that have never started have no data that could be adopted, and that is said next.
        let refused = ns.reports("demo", "Available", "LeftoverData").await.message;
        let kept = ["data-demo-0", "data-demo-1", "data-demo-2", "demo-client-ca", "demo-peer-ca"];
        assert!(kept.iter().all(|name| refused.contains(name)), "{refused}");
        let names: Vec<_> = everything(&ns).await.into_keys().map(|(_, name)| name).collect();
        assert_eq!(names, kept);
        operator.stop().await;
    }
}

#[tokio::test]
async fn without_retention_everything_is_deleted() {
    let ns = TestNamespace::new("delete").await;
    let operator = ns.operator();
    let spec = json!({ "storage": { "retention": "Delete" } });
    let old = ns.cluster("demo", spec.clone()).await.uid().unwrap();
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    ns.delete::<EtcdCluster>("demo").await;

    // The next cluster is created before the garbage collector has run: it waits and uses none of the old objects.
    let before = everything(&ns).await;
    let new = ns.cluster("demo", spec).await.uid().unwrap();
    ns.reports("demo", "Progressing", "Blocked").await;
    operator.quiet(1).await;
    let now = everything(&ns).await;
    assert!(before.iter().all(|(id, object)| now[id].resource_version() == object.resource_version()));
    assert_eq!(now.len(), before.len());
    collect(&ns, &old).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    check_complete(&ns, "demo").await;
    let all = everything(&ns).await;
    assert!(all.values().all(|object| object.owner_references().iter().any(|owner| owner.uid == new)));
    operator.stop().await;
}
