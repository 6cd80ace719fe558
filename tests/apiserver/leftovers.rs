//! What becomes of a cluster's objects when it is deleted, and of a cluster that comes after it.

use etcd_warden::api::EtcdCluster;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    state::{everything, kinds, whole},
    world::{World, until},
};

/// Deletes what belongs to nobody any more, as the garbage collector does.
async fn collect(world: &World<'_>, owner: &str) {
    for ((kind, name), object) in everything(world).await {
        if object.owner_references().iter().any(|reference| reference.uid == owner) {
            let resource = kinds().into_iter().find(|resource| resource.kind == kind).unwrap();
            let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, &resource);
            let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
            api.patch(&name, &PatchParams::default(), &patch).await.unwrap();
            api.delete(&name, &DeleteParams::default()).await.unwrap();
            until("it is gone", async || api.get_opt(&name).await.unwrap().is_none().then_some(())).await;
        }
    }
}

#[tokio::test]
async fn claims_and_authorities_stay_and_are_not_taken_over() {
    let world = World::new("retain").await;
    let operator = world.operator();
    let old = world.cluster("demo", json!({})).await.uid().unwrap();
    world.founded("demo").await;
    operator.quiet(1).await;
    world.delete::<EtcdCluster>("demo").await;
    collect(&world, &old).await;
    let left = everything(&world).await;
    let names: Vec<_> = left.keys().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names, ["data-demo-0", "data-demo-1", "data-demo-2", "demo-client-ca", "demo-peer-ca"]);

    world.cluster("demo", json!({})).await;
    let refused = world.reports("demo", "Available", "LeftoverData").await.message;
    for (_, name) in left.keys() {
        assert!(refused.contains(name), "{refused}");
    }
    // What it says to do is what there is to do.
    let (_, command) = refused.split_once("kubectl ").unwrap();
    let (command, _) = command.split_once('`').unwrap();
    operator.quiet(1).await;
    let now = everything(&world).await;
    assert!(left.iter().all(|(id, object)| now[id].resource_version() == object.resource_version()));
    assert_eq!(now.len(), left.len());
    let arguments: Vec<_> = command.split(' ').chain(["--wait=false"]).collect();
    world.server.kubectl(&arguments);
    // Whatever protects claims from being deleted while pods use them is not here.
    for id in left.keys().filter(|(kind, _)| kind == "PersistentVolumeClaim") {
        let patch = r#"{"metadata":{"finalizers":null}}"#;
        world.server.kubectl(&["-n", &world.namespace, "patch", "pvc", &id.1, "-p", patch]);
    }
    world.founded("demo").await;
    whole(&world, "demo").await;
    operator.stop().await;
}

#[tokio::test]
async fn without_retention_nothing_stays() {
    let world = World::new("delete").await;
    let operator = world.operator();
    let spec = json!({ "storage": { "retention": "Delete" } });
    let old = world.cluster("demo", spec.clone()).await.uid().unwrap();
    world.founded("demo").await;
    operator.quiet(1).await;
    world.delete::<EtcdCluster>("demo").await;

    // The next one comes before the garbage collector: it waits, and takes nothing for its own.
    let before = everything(&world).await;
    let new = world.cluster("demo", spec).await.uid().unwrap();
    world.reports("demo", "Progressing", "Blocked").await;
    operator.quiet(1).await;
    let now = everything(&world).await;
    assert!(before.iter().all(|(id, object)| now[id].resource_version() == object.resource_version()));
    assert_eq!(now.len(), before.len());
    collect(&world, &old).await;
    world.founded("demo").await;
    operator.quiet(1).await;
    whole(&world, "demo").await;
    let all = everything(&world).await;
    assert!(all.values().all(|object| object.owner_references().iter().any(|owner| owner.uid == new)));
    operator.stop().await;
}
