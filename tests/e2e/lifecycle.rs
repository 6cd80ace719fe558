//! Deleting, recreating and pausing clusters.

use std::{collections::BTreeMap, sync::Arc};

use etcd_warden::{
    api::{EtcdCluster, EtcdClusterStatus},
    names::label,
};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Secret, Service},
};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    harness::Scenario,
    members::incarnations,
    namespace::{TIMEOUT, TestNamespace},
    tools::{kubectl, until},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(deleted_with_its_data),
        scenario!(deleted_and_adopted),
        scenario!(leftover_data_without_an_authority),
        scenario!(recreated_at_once),
        scenario!(deleted_without_its_objects),
        scenario!(paused),
    ]
}

/// What `Retain` keeps of one member.
const KEPT: [&str; 3] = ["persistentvolumeclaim/data-demo-0", "secret/demo-client-ca", "secret/demo-peer-ca"];
const KINDS: &str = "statefulset,pod,pvc,secret,service,configmap,pdb";

async fn managed_objects(ns: &TestNamespace) -> Vec<String> {
    let selector = format!("--selector={}", label::MANAGED);
    let listed = ns.kubectl(["get", KINDS, "-o", "name", &selector]).await.success();
    listed.lines().map(str::to_owned).collect()
}

async fn deleted_with_its_data(ns: Arc<TestNamespace>) {
    ns.create_cluster("demo", 1, json!({})).await;
    ns.until_ready("demo").await;
    ns.delete::<EtcdCluster>("demo").await;
    until("nothing is left", TIMEOUT, || async {
        let left = managed_objects(&ns).await;
        if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
    })
    .await;
    // A new cluster of this name can be created.
    ns.create_cluster("demo", 1, json!({})).await;
    ns.until_ready("demo").await;
}

/// Deletes a cluster that retains its data, and waits until only that is left.
async fn delete_but_keep(ns: &TestNamespace, kept: &[&str]) {
    ns.delete::<EtcdCluster>("demo").await;
    until("only data and authorities are left", TIMEOUT, || async {
        let left = managed_objects(ns).await;
        if left == kept { Ok(()) } else { Err(left.join(" ")) }
    })
    .await;
}

/// With `Retain`, the default, data and authorities are kept, and a new cluster of that name adopts them: it has the same data
/// and IDs, and existing clients are accepted. A member whose PersistentVolumeClaim was deleted meanwhile is replaced.
async fn deleted_and_adopted(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({ "storage": { "retention": "Retain" } })).await;
    user.etcdctl(["put", "key", "value"]).await.success();
    let before = ns.status("demo").await;
    let authority = ns.secret("demo-client-ca").await;
    let mut kept = vec!["secret/app-etcd-tls"];
    kept.splice(
        0..0,
        ["persistentvolumeclaim/data-demo-0", "persistentvolumeclaim/data-demo-1", "persistentvolumeclaim/data-demo-2"],
    );
    kept.extend(["secret/demo-client-ca", "secret/demo-peer-ca"]);
    delete_but_keep(&ns, &kept).await;
    ns.delete::<PersistentVolumeClaim>("data-demo-1").await;

    ns.create_cluster("demo", 3, json!({})).await;
    let after = ns.until_ready("demo").await;
    assert_eq!(user.etcdctl(["get", "key", "--print-value-only"]).await.success().trim(), "value");
    assert_eq!(after.cluster_id, before.cluster_id);
    for (before, after) in before.members.iter().zip(&after.members) {
        assert_eq!(before.id == after.id, before.name != "demo-1", "{before:?} {after:?}");
    }
    assert_eq!(ns.secret("demo-client-ca").await["active.crt"], authority["active.crt"]);
    let events = ns.events("demo").await;
    assert!(events.iter().any(|(reason, _)| reason == "Adopted"), "{events:?}");
}

/// Leftover objects that do not fit together are not adopted and not changed.
async fn leftover_data_without_an_authority(ns: Arc<TestNamespace>) {
    ns.create_cluster("demo", 1, json!({ "storage": { "retention": "Retain" } })).await;
    ns.until_ready("demo").await;
    delete_but_keep(&ns, &KEPT).await;
    ns.delete::<Secret>("demo-peer-ca").await;
    let before = versions(&ns).await;

    ns.create_cluster("demo", 1, json!({})).await;
    stays_refused(&ns, &before).await;
    // The same while objects of the deleted cluster are still being deleted.
    ns.kubectl(["delete", "etcd", "demo"]).await.success();
    ns.create_cluster("demo", 1, json!({})).await;
    stays_refused(&ns, &before).await;
    // The command in the message is sufficient. It does not wait: kubectl would wait for the deletion of the new cluster's objects if
    // they are created under the same names between its first look at them and its watch.
    let selector = "--selector=app.kubernetes.io/managed-by=etcd-warden,app.kubernetes.io/instance=demo";
    ns.kubectl(["delete", "--wait=false", "pvc,secret", selector]).await.success();
    ns.until_ready("demo").await;
}

/// The cluster is refused, and the next pass changes nothing.
async fn stays_refused(ns: &TestNamespace, before: &BTreeMap<String, Option<String>>) {
    let message = ns.until_condition("demo", "Available", "False", "LeftoverData", TIMEOUT).await;
    for name in ["data-demo-0", "demo-client-ca", "Secret demo-peer-ca is missing", "kubectl"] {
        assert!(message.contains(name), "{message}");
    }
    let poke = json!({ "spec": { "image": { "pullPolicy": "Never" } } });
    ns.patch::<EtcdCluster>("demo", poke).await;
    let generation = ns.get::<EtcdCluster>("demo").await.unwrap().metadata.generation;
    until("a pass has seen the change", TIMEOUT, || async {
        let seen = ns.status("demo").await.observed_generation;
        if seen == generation { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    ns.until_condition("demo", "Available", "False", "LeftoverData", TIMEOUT).await;
    assert_eq!(managed_objects(ns).await, KEPT[..2]);
    assert_eq!(versions(ns).await, *before);
}

async fn versions(ns: &TestNamespace) -> BTreeMap<String, Option<String>> {
    let managed = ListParams::default().labels(label::MANAGED);
    let claims = ns.api::<PersistentVolumeClaim>().list(&managed).await.unwrap().items;
    let secrets = ns.api::<Secret>().list(&managed).await.unwrap().items;
    let claims = claims.into_iter().map(|claim| (claim.name_any(), claim.resource_version()));
    claims.chain(secrets.into_iter().map(|secret| (secret.name_any(), secret.resource_version()))).collect()
}

/// A cluster that is recreated while the old one of its name is being deleted waits for the end of the deletion, and adopts the
/// data.
async fn recreated_at_once(ns: Arc<TestNamespace>) {
    let retained = json!({ "storage": { "retention": "Retain" } });
    let user = ns.cluster_and_user("demo", 1, retained.clone()).await;
    user.etcdctl(["put", "key", "value"]).await.success();
    let pod = ns.incarnation("demo-0-0").await;
    ns.delete::<EtcdCluster>("demo").await;
    ns.create_cluster("demo", 1, retained).await;
    ns.until_ready("demo").await;
    assert_ne!(ns.incarnation("demo-0-0").await, pod);
    assert_eq!(user.etcdctl(["get", "key", "--print-value-only"]).await.success().trim(), "value");
}

/// `kubectl delete --cascade=orphan` leaves everything running. A cluster that is created again says so with the command that removes it,
/// and then has its data again.
async fn deleted_without_its_objects(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    user.etcdctl(["put", "key", "value"]).await.success();
    let before = ns.status("demo").await;
    let pods = incarnations(&ns).await;
    ns.kubectl(["delete", "etcdcluster", "demo", "--cascade=orphan", "--timeout=120s"]).await.success();
    ns.create_cluster("demo", 3, json!({})).await;
    let message = ns.until_condition("demo", "Available", "False", "LeftoverObjects", TIMEOUT).await;
    assert_eq!(incarnations(&ns).await, pods, "its members go on");
    assert_eq!(user.etcdctl(["get", "key", "--print-value-only"]).await.success().trim(), "value");

    let (_, command) = message.split_once("`kubectl ").expect("the message has a command");
    let (command, _) = command.split_once('`').expect("the command has an end");
    kubectl(command.split(' ').chain(["--timeout=120s"])).await.success();
    let after = ns.until_ready("demo").await;
    assert_eq!(user.etcdctl(["get", "key", "--print-value-only"]).await.success().trim(), "value");
    assert_eq!(after.cluster_id, before.cluster_id);
    let ids =
        |status: &EtcdClusterStatus| status.members.iter().map(|member| (member.name.clone(), member.id)).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before));
}

/// While a cluster is paused, nothing is changed. Afterwards all changes are made.
async fn paused(ns: Arc<TestNamespace>) {
    ns.create_cluster("demo", 1, json!({})).await;
    ns.until_ready("demo").await;
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "paused": true } })).await;
    ns.until_condition("demo", "Progressing", "False", "Paused", TIMEOUT).await;

    ns.patch::<Service>(
        "demo",
        json!({ "spec": { "ports": [{ "name": "etcd-client-ssl", "port": 2378, "targetPort": 2379 }] } }),
    )
    .await;
    ns.delete::<Service>("demo-peers").await;
    let sans = json!({ "spec": { "tls": { "client": { "extraSANs": { "dnsNames": ["etcd.example.com"] } } } } });
    ns.patch::<EtcdCluster>("demo", sans).await;
    let secret = ns.secret("demo-0-tls").await;
    // The status is still reported: it is about this generation, so a pass has seen all of these changes.
    let generation = ns.get::<EtcdCluster>("demo").await.unwrap().metadata.generation;
    until("the status is of the newest generation", TIMEOUT, || async {
        let status = ns.status("demo").await;
        if status.observed_generation == generation { Ok(()) } else { Err(format!("{:?}", status.observed_generation)) }
    })
    .await;
    let service = ns.get::<Service>("demo").await.unwrap();
    assert_eq!(service.spec.unwrap().ports.unwrap()[0].port, 2378);
    assert!(ns.get::<Service>("demo-peers").await.is_none());
    assert_eq!(ns.secret("demo-0-tls").await, secret);
    assert!(ns.get::<StatefulSet>("demo-0").await.is_some());
    // Health is reported too. Kubernetes does not create this pod again, and neither does the operator.
    ns.kubectl(["delete", "statefulset", "demo-0", "--cascade=orphan"]).await.success();
    ns.delete::<Pod>("demo-0-0").await;
    ns.until_condition("demo", "Available", "False", "QuorumLost", TIMEOUT).await;
    assert_eq!(ns.status("demo").await.ready.as_deref(), Some("0/1"));
    assert!(ns.get::<StatefulSet>("demo-0").await.is_none());

    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "paused": false } })).await;
    ns.until_ready("demo").await;
    assert!(ns.get::<Service>("demo-peers").await.is_some());
    assert_ne!(ns.secret("demo-0-tls").await["server.crt"], secret["server.crt"]);
}
