//! A cluster is bootstrapped with all its objects, nothing is written twice, and changes by others are reverted.

use etcd_warden::api::EtcdCluster;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use crate::{
    namespace::{TestNamespace, until, until_ok},
    state::{Recorded, certificate, check_complete, everything},
};

#[tokio::test]
async fn objects_that_are_up_to_date_are_not_written_again() {
    let ns = TestNamespace::new("twice").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({})).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.bootstrapped("demo").await;
    ns.user_reports("app", "Issued").await;
    operator.quiet(2).await;
    // Two for each member, one for the operator and one for the user; each certificate was issued once.
    assert_eq!(check_complete(&ns, "demo").await, Recorded { client: 8, peer: 3 });
    operator.stop().await;

    let restarted = ns.operator();
    restarted.quiet(4).await;
    assert!(restarted.tap.writes().is_empty(), "{:#?}", restarted.tap.writes());
    restarted.stop().await;
}

/// Every field is set; the API server stores some of them in another form.
#[tokio::test]
async fn fields_that_the_api_server_rewrites_are_not_written_again() {
    let ns = TestNamespace::new("otherwise").await;
    let operator = ns.operator();
    let spec = json!({
        "replicas": 5,
        "version": "3.5.35",
        "storage": { "size": 10_737_418_240_u64, "storageClassName": "fast", "retention": "Delete" },
        "image": { "repository": "example.com/etcd", "tag": "x", "pullPolicy": "Always", "pullSecrets": [{ "name": "registry" }] },
        "tls": { "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"], "client": { "extraSANs": { "dnsNames": ["etcd.example.com"], "ipAddresses": ["2001:DB8::1"] } } },
        "etcd": { "quotaBackendSize": "2147483648", "logLevel": "warn", "extraArgs": { "max-txn-ops": "512" } },
        "pod": {
            "resources": { "requests": { "cpu": 0.5, "memory": "1024Mi" }, "limits": { "cpu": "1000m" } },
            "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["ssd"] }] }] } } },
            "nodeSelector": { "a": "b" },
            "tolerations": [{ "operator": "Exists" }, { "key": "k", "value": "", "effect": "NoExecute", "tolerationSeconds": 0 }],
            "topologySpreadConstraints": [{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {} }],
            "priorityClassName": "high",
            "labels": { "team": "" }, "annotations": { "note": "" },
            "template": { "metadata": { "labels": { "more": "" } }, "spec": {
                "hostAliases": [{ "ip": "192.0.2.1", "hostnames": ["registry.example.com"] }],
                "initContainers": [{ "name": "prepare", "image": "busybox", "restartPolicy": "Always", "resources": { "limits": { "cpu": 0.5, "memory": "1024Mi" } } }],
                "containers": [
                    { "name": "proxy", "image": "proxy:1", "ports": [{ "containerPort": 9000 }],
                      "readinessProbe": { "httpGet": { "port": 9000 } }, "env": [{ "name": "A", "value": "" }] },
                    { "name": "etcd", "env": [{ "name": "GOMAXPROCS", "value": "2" }],
                      "volumeMounts": [{ "name": "more", "mountPath": "/more" }] },
                ],
                "volumes": [{ "name": "more", "emptyDir": { "sizeLimit": "1024Mi" } }],
            } },
        },
        "service": { "type": "LoadBalancer", "loadBalancerClass": "example.com/a", "labels": { "a": "" }, "annotations": { "a": "" } },
    });
    ns.cluster("demo", spec).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    check_complete(&ns, "demo").await;
    operator.stop().await;
    let restarted = ns.operator();
    restarted.quiet(2).await;
    assert!(restarted.tap.writes().is_empty(), "{:#?}", restarted.tap.writes());
    restarted.stop().await;
}

/// The API server keeps a quantity of a custom resource as it is written, and `1e9` is one.
#[tokio::test]
async fn quantities_with_an_exponent_are_accepted() {
    let ns = TestNamespace::new("exponent").await;
    let operator = ns.operator();
    let spec = json!({ "replicas": 1, "storage": { "size": "1e9" }, "etcd": { "quotaBackendSize": "256e6" } });
    ns.cluster("demo", spec).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    check_complete(&ns, "demo").await;
    let claim = ns.api::<PersistentVolumeClaim>().get("data-demo-0").await.unwrap();
    assert_eq!(claim.spec.unwrap().resources.unwrap().requests.unwrap()["storage"].0, "1e9");
    let set = ns.api::<StatefulSet>().get("demo-0").await.unwrap();
    let set = serde_json::to_string(&set.spec.template).unwrap();
    assert!(set.contains("--quota-backend-bytes=256000000"), "{set}");
    operator.stop().await;
    let restarted = ns.operator();
    restarted.quiet(2).await;
    assert!(restarted.tap.writes().is_empty(), "{:#?}", restarted.tap.writes());
    restarted.stop().await;
}

#[tokio::test]
async fn changes_and_deletions_by_others_are_reverted() {
    let ns = TestNamespace::new("drift").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({})).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    let before = everything(&ns).await;

    change::<Service>(&ns, "demo", json!({ "spec": { "selector": { "app.kubernetes.io/instance": "other" } } })).await;
    change::<Service>(&ns, "demo-peers", json!({ "spec": { "publishNotReadyAddresses": false } })).await;
    change::<ConfigMap>(
        &ns,
        "demo-bootstrap",
        json!({ "metadata": { "labels": null }, "data": { "demo-0.cluster": null, "token": "x" } }),
    )
    .await;
    change::<PodDisruptionBudget>(&ns, "demo", json!({ "spec": { "minAvailable": 0 } })).await;
    change::<StatefulSet>(&ns, "demo-0", json!({ "spec": { "replicas": 0 } })).await;
    // Without its labels the operator no longer watches it.
    change::<StatefulSet>(&ns, "demo-1", json!({ "metadata": { "labels": null } })).await;
    change::<PersistentVolumeClaim>(&ns, "data-demo-1", json!({ "metadata": { "labels": null } })).await;
    change::<Secret>(&ns, "demo-1-tls", json!({ "metadata": { "labels": null }, "data": { "server.key": null } })).await;
    change::<Secret>(&ns, "demo-operator-tls", json!({ "data": { "tls.crt": "AAAA", "ca.crt": null } })).await;
    ns.delete::<ConfigMap>("demo-ca").await;
    ns.delete::<StatefulSet>("demo-2").await;
    ns.delete::<Secret>("demo-2-tls").await;

    until_ok(async || {
        let now = everything(&ns).await;
        let differs = before.iter().find(|(id, object)| now.get(id).map(essence) != Some(essence(object)));
        match differs {
            Some((id, object)) => Err(format!("{id:?} is as before: {:#?}, {:#?}", now.get(id).map(essence), essence(object))),
            None => Ok(()),
        }
    })
    .await;
    operator.quiet(1).await;
    // One for the operator, three for member 2, and three for member 1, because a Secret without labels is not in the cache.
    assert_eq!(check_complete(&ns, "demo").await, Recorded { client: 12, peer: 5 });
    operator.stop().await;
}

/// A webhook or another controller may add elements to lists. Removing them would lead to an endless conflict.
#[tokio::test]
async fn additions_by_others_are_kept() {
    let ns = TestNamespace::new("added").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    let port = json!({ "name": "etcd-client-ssl", "port": 2379 });
    let added = json!({ "name": "added", "port": 1 });
    change::<Service>(&ns, "demo", json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "ports": [port, added] } })).await;
    let mut set = ns.api::<StatefulSet>().get("demo-0").await.unwrap();
    let mut sidecar = set.spec.template.spec.as_ref().unwrap().containers[0].clone();
    sidecar.name = "sidecar".into();
    set.spec.template.spec.as_mut().unwrap().containers.insert(0, sidecar);
    ns.api().replace("demo-0", &PostParams::default(), &set).await.unwrap();
    operator.quiet(2).await;
    let writes = operator.tap.writes().len();
    operator.quiet(2).await;
    assert_eq!(operator.tap.writes().len(), writes);
    assert_eq!(ns.api::<Service>().get("demo").await.unwrap().spec.unwrap().ports.unwrap().len(), 2);
    let set = ns.api::<StatefulSet>().get("demo-0").await.unwrap();
    assert_eq!(set.spec.template.spec.unwrap().containers.len(), 2);
    operator.stop().await;
}

/// Changes a part of an object, as a user would.
/// Changes an object as its user does.
pub async fn change<K>(ns: &TestNamespace<'_>, name: &str, patch: Value)
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    let api: Api<DynamicObject> = Api::namespaced_with(ns.client.clone(), &ns.name, &ApiResource::erase::<K>(&()));
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

/// The contents of an object, without values that differ each time it is created.
fn essence(object: &DynamicObject) -> Value {
    let mut data = object.data.clone();
    for volatile in ["/data", "/status", "/spec/clusterIP", "/spec/clusterIPs"] {
        if let Some(value) = data.pointer_mut(volatile) {
            // Only the keys count, because the values are issued.
            *value = value.as_object().map(|map| map.keys().cloned().collect::<Value>()).unwrap_or_default();
        }
    }
    json!({ "labels": object.metadata.labels, "owners": object.metadata.owner_references, "data": data })
}

#[tokio::test]
async fn changes_of_the_spec_take_effect() {
    let ns = TestNamespace::new("change").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    let names = async || certificate(&ns.api::<Secret>().get("demo-0-tls").await.unwrap(), "server.crt").dns_names().clone();
    let before = check_complete(&ns, "demo").await;
    assert!(!names().await.contains("etcd.example.com"));

    // A paused cluster is not changed.
    let patch = json!({ "spec": {
        "paused": true,
        "image": { "repository": "example.com/etcd" },
        "tls": { "client": { "extraSANs": { "dnsNames": ["etcd.example.com"] } }, "peer": { "certificate": { "duration": "24h" } } },
    } });
    change::<EtcdCluster>(&ns, "demo", patch).await;
    ns.reports("demo", "Progressing", "Paused").await;
    assert_eq!(check_complete(&ns, "demo").await, before);
    change::<EtcdCluster>(&ns, "demo", json!({ "spec": { "paused": false } })).await;

    until("the certificate has the new name", async || names().await.contains("etcd.example.com").then_some(())).await;
    until("the image is the new one", async || {
        let set = ns.api::<StatefulSet>().get("demo-0").await.unwrap();
        let image = set.spec.template.spec?.containers.first()?.image.clone()?;
        (image == "example.com/etcd:v3.6.16").then_some(())
    })
    .await;
    operator.quiet(1).await;
    // One server certificate and one peer certificate; the in-pod client's and the operator's are unchanged.
    assert_eq!(check_complete(&ns, "demo").await, Recorded { client: before.client + 1, peer: before.peer + 1 });
    let peer = certificate(&ns.api::<Secret>().get("demo-0-tls").await.unwrap(), "peer.crt");
    assert!(peer.not_after() < jiff::Timestamp::now() + jiff::SignedDuration::from_hours(25));
    operator.stop().await;
}
