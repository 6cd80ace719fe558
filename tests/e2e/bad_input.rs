//! Invalid input is refused with a message that says what to do, and nothing is created or lost.

use std::{sync::Arc, time::Instant};

use etcd_warden::{api::EtcdCluster, names::FIELD_MANAGER};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, ResourceQuota, Secret, Service},
};
use kube::{
    Api,
    api::{DynamicObject, ListParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    namespace::{TIMEOUT, TestNamespace, merge},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(refused_at_apply),
        scenario!(cannot_be_changed),
        scenario!(image_that_cannot_be_pulled),
        scenario!(missing_storage_class),
        scenario!(too_little_memory),
        scenario!(pods_refused_by_a_quota),
        scenario!(names_taken),
    ]
}

/// `kubectl apply` of each spec fails with this message.
async fn refused_at_apply(ns: Arc<TestNamespace>) {
    let long = "a".repeat(50);
    let tls = |domain: &str, field: Value| json!({ "tls": { domain: field } });
    let sans = |field: &str, value: &str| json!({ "tls": { "client": { "extraSANs": { field: [value] } } } });
    let leaf = |duration: &str| tls("client", json!({ "certificate": { "duration": duration } }));
    let duration = "must be a duration such as 2160h, 90m or 1h30m";
    let cases: Vec<(&str, Value, &str)> = vec![
        ("demo", json!({ "replicas": 0 }), "must be 1 to 9"),
        ("demo", json!({ "replicas": 10 }), "must be 1 to 9"),
        ("demo", json!({ "replicas": -1 }), "must be 1 to 9"),
        ("demo", json!({ "version": "latest" }), "must be a version of three numbers, like 3.6.16"),
        ("demo", json!({ "version": "3.6" }), "must be a version of three numbers, like 3.6.16"),
        ("demo", json!({ "version": "3.5.31" }), "is not supported: 3.5 from 3.5.32"),
        ("demo", json!({ "version": "3.4.40" }), "is not supported: 3.5 from 3.5.32"),
        ("demo", json!({ "version": "v3.6.16" }), "write the version without the v, like 3.6.16"),
        ("demo", leaf("90 days"), duration),
        ("demo", leaf(""), duration),
        ("demo", tls("peer", json!({ "certificate": { "duration": "1d" } })), duration),
        ("demo", tls("peer", json!({ "authority": { "duration": "long" } })), duration),
        ("demo", json!({ "etcd": { "heartbeatInterval": "fast" } }), duration),
        ("demo", leaf("59m"), "must be at least 1h"),
        ("demo", leaf("12000h"), "authority.duration must be at least four times certificate.duration"),
        (
            "demo",
            tls("peer", json!({ "authority": { "duration": "3h" }, "certificate": { "duration": "1h" } })),
            "authority.duration must be at least four times certificate.duration",
        ),
        ("demo", sans("dnsNames", "not a name"), "each must be a DNS name in lower case"),
        ("demo", sans("dnsNames", "Upper.example.com"), "each must be a DNS name in lower case"),
        ("demo", sans("dnsNames", "192.0.2.1"), "addresses belong in ipAddresses"),
        ("demo", sans("ipAddresses", "etcd.example.com"), "each must be an IPv4 or IPv6 address"),
        ("demo", sans("ipAddresses", "192.0.2.300"), "each must be an IPv4 or IPv6 address"),
        (&long, json!({}), "is too long for the objects made from it: 49 characters at most"),
        (
            "1demo",
            json!({}),
            "it must begin with a letter and end with a letter or digit, and hold only lower case letters, digits and -",
        ),
        (
            "de.mo",
            json!({}),
            "it must begin with a letter and end with a letter or digit, and hold only lower case letters, digits and -",
        ),
        ("demo", json!({ "etcd": { "extraArgs": { "data-dir": "/tmp" } } }), "is reserved"),
        ("demo", json!({ "etcd": { "extraArgs": { "client-cert-auth": "false" } } }), "is reserved"),
        ("demo", json!({ "etcd": { "extraArgs": { "--max-txn-ops": "5" } } }), "without the dashes in front"),
        ("demo", json!({ "unknown": 1 }), "unknown field \"spec.unknown\""),
    ];
    for (name, spec, words) in cases {
        let manifest = manifest("EtcdCluster", name, &spec);
        let complaint = ns.apply(&manifest).await.failure();
        assert!(complaint.contains(words), "{name} {spec}: {complaint}");
    }
    for (name, spec, words) in [
        ("root", json!({}), "the common name root is the operator's own"),
        ("app", json!({ "commonName": "root" }), "are the operator's own: choose another commonName"),
        ("app", json!({ "commonName": "etcd-warden:peer" }), "are the operator's own: choose another commonName"),
        ("app", json!({ "secretName": "No_Secret" }), "must be the name of a Secret"),
        ("app", json!({ "certificate": { "duration": "1m" } }), "must be at least 1h"),
        (&"u".repeat(65), json!({}), "63 characters at most"),
    ] {
        let mut spec = spec;
        merge(&mut spec, json!({ "clusterRef": { "name": "demo" } }));
        let complaint = ns.apply(&manifest("EtcdUser", name, &spec)).await.failure();
        assert!(complaint.contains(words), "{name} {spec}: {complaint}");
    }
    nothing_was_created(&ns).await;
}

fn manifest(kind: &str, name: &str, spec: &Value) -> String {
    json!({ "apiVersion": "etcd-warden.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec }).to_string()
}

async fn nothing_was_created(ns: &TestNamespace) {
    let listed = ns.kubectl(["get", "statefulset,pod,pvc,secret,service,pdb,etcd", "-o", "name"]).await.success();
    assert_eq!(listed, "");
    let maps = ns.kubectl(["get", "configmap", "-o", "name"]).await.success();
    assert_eq!(maps, "configmap/kube-root-ca.crt\n");
}

/// Changes that etcd or the operator cannot make are refused with a message; other changes are accepted.
async fn cannot_be_changed(ns: Arc<TestNamespace>) {
    // The cluster is paused, so that nothing is created.
    ns.create_cluster("demo", 1, json!({ "paused": true, "version": "3.5.35" })).await;
    let in_pods = json!({ "emptyDir": { "sizeLimit": "8Gi", "acceptDataLoss": true } });
    for (complaint, change) in [
        ("one minor version at a time", json!({ "version": "3.7.3" })),
        ("the minor version cannot be changed with spec.storage.emptyDir", json!({ "version": "3.6.16", "storage": in_pods })),
    ] {
        let patch = json!({ "spec": change }).to_string();
        let refused = ns.kubectl(["patch", "etcd", "demo", "--type=merge", "-p", &patch]).await.failure();
        assert!(refused.contains(complaint), "{change}: {refused}");
    }
    for change in [
        json!({ "tls": { "client": { "certificate": { "duration": "1000h" }, "extraSANs": { "dnsNames": ["a.example.com"] } } } }),
        json!({ "image": { "repository": "example.com/etcd", "pullPolicy": "Never", "pullSecrets": [{ "name": "x" }] } }),
        json!({ "paused": true }),
    ] {
        let patch = json!({ "spec": change }).to_string();
        ns.kubectl(["patch", "etcd", "demo", "--type=merge", "-p", &patch]).await.success();
    }
}

/// The status says that the image cannot be pulled. Once the spec is corrected, the cluster becomes ready without further help.
async fn image_that_cannot_be_pulled(ns: Arc<TestNamespace>) {
    ns.create_cluster("demo", 1, json!({ "image": { "repository": "example.invalid/etcd" } })).await;
    let message = ns.until_condition("demo", "Progressing", "True", "WaitingForMembers", TIMEOUT).await;
    assert!(message.contains("demo-0"), "{message}");
    crate::tools::until("the status names the image", TIMEOUT, || async {
        let status = ns.status("demo").await;
        let message = status.members.first().and_then(|member| member.message.clone()).unwrap_or_default();
        if message.contains("image example.invalid/etcd:v3.6.16 cannot be pulled") { Ok(()) } else { Err(message) }
    })
    .await;
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "image": { "repository": "gcr.io/etcd-development/etcd" } } })).await;
    ns.until_ready("demo").await;
}

async fn missing_storage_class(ns: Arc<TestNamespace>) {
    ns.create_cluster("demo", 1, json!({ "storage": { "storageClassName": "nowhere" } })).await;
    crate::tools::until("the status names the class", TIMEOUT, || async {
        let status = ns.status("demo").await;
        let message = status.members.first().and_then(|member| member.message.clone()).unwrap_or_default();
        if message.contains("PersistentVolumeClaim data-demo-0 is Pending (StorageClass nowhere)") {
            Ok(())
        } else {
            Err(message)
        }
    })
    .await;
}

/// A memory limit that is too low, as the default of a `LimitRange` often is, is named.
async fn too_little_memory(ns: Arc<TestNamespace>) {
    let spec = json!({ "etcd": { "quotaBackendSize": "256Mi" }, "pod": { "resources": { "limits": { "memory": "8Mi" } } } });
    ns.create_cluster("demo", 1, spec).await;
    let message = ns.until_condition("demo", "Degraded", "True", "OOMKilled", TIMEOUT).await;
    assert!(message.contains("exit code 137 (OOMKilled: its memory limit is 8Mi)"), "{message}");
}

/// A quota that the pods do not fit is named in the API server's words. Once it is gone, the command in the documentation helps at once.
async fn pods_refused_by_a_quota(ns: Arc<TestNamespace>) {
    let quota = json!({ "hard": { "requests.memory": "2Gi", "limits.memory": "4Gi" } });
    ns.try_create::<ResourceQuota>("team", quota).await.unwrap();
    ns.create_cluster("demo", 1, json!({})).await;
    let started = Instant::now();
    let message = ns.until_condition("demo", "Degraded", "True", "KubernetesRefused", TIMEOUT).await;
    let after = started.elapsed().as_secs();
    ns.measure(format!("a pod that a quota refuses is reported {after} s after the cluster is created"));
    assert!(after < 30, "{after} s");
    assert!(message.contains("demo-0: its pod is refused: pods \"demo-0-0\" is forbidden: failed quota: team"), "{message}");
    ns.delete::<ResourceQuota>("team").await;
    ns.kubectl(["annotate", "statefulset", "demo-0", "retry=now"]).await.success();
    ns.until_ready("demo").await;
}

/// An object under a cluster's name that belongs to others is never changed, and nothing else is created. Once it is deleted, the
/// cluster is bootstrapped.
async fn names_taken(ns: Arc<TestNamespace>) {
    let metadata = |name: &str| json!({ "name": name, "labels": { "mine": "yes" } });
    let service = json!({ "metadata": metadata("one"), "spec": { "ports": [{ "port": 80 }] } });
    let secret = json!({ "metadata": metadata("two-0-tls"), "stringData": { "server.crt": "mine" } });
    let config = json!({ "metadata": metadata("three-bootstrap"), "data": { "token": "mine" } });
    let selector = json!({ "app": "mine" });
    let set = json!({
        "metadata": metadata("four-0"),
        "spec": {
            "replicas": 0,
            "selector": { "matchLabels": selector },
            "serviceName": "mine",
            "template": { "metadata": { "labels": selector }, "spec": { "containers": [{ "name": "a", "image": "a" }] } },
        },
    });
    let claim = json!({
        "metadata": metadata("data-five-0"),
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    });
    // It has the operator's labels, but belongs to others.
    let mut authority = json!({ "metadata": metadata("six-client-ca"), "stringData": { "active.crt": "mine" } });
    authority["metadata"]["labels"] =
        json!({ "app.kubernetes.io/managed-by": "etcd-warden", "app.kubernetes.io/instance": "six" });
    let taken = [
        ("one", "Service one", create::<Service>(&ns, &service).await),
        ("two", "Secret two-0-tls", create::<Secret>(&ns, &secret).await),
        ("three", "ConfigMap three-bootstrap", create::<ConfigMap>(&ns, &config).await),
        ("four", "StatefulSet four-0", create::<StatefulSet>(&ns, &set).await),
        ("five", "PersistentVolumeClaim data-five-0", create::<PersistentVolumeClaim>(&ns, &claim).await),
        ("six", "Secret six-client-ca", create::<Secret>(&ns, &authority).await),
    ];
    for (cluster, ..) in &taken {
        ns.create_cluster(cluster, 1, json!({})).await;
    }
    for (cluster, object, before) in &taken {
        let message = ns.until_condition(cluster, "Degraded", "True", "", TIMEOUT).await;
        assert!(message.contains(object), "{cluster}: {message}");
        ns.until_condition(cluster, "Available", "False", "", TIMEOUT).await;
        before.is_untouched(&ns).await;
        let of_cluster = ListParams::default().labels(&format!("app.kubernetes.io/instance={cluster},mine!=yes"));
        assert_eq!(ns.api::<Secret>().list(&of_cluster).await.unwrap().items.len(), usize::from(*cluster == "six"));
        assert_eq!(ns.api::<StatefulSet>().list(&of_cluster).await.unwrap().items.len(), 0);
        assert_eq!(ns.api::<PersistentVolumeClaim>().list(&of_cluster).await.unwrap().items.len(), 0);
        assert_eq!(ns.api::<Service>().list(&of_cluster).await.unwrap().items.len(), 0);
        assert_eq!(ns.api::<ConfigMap>().list(&of_cluster).await.unwrap().items.len(), 0);
    }
    for (cluster, _, object) in taken.iter().take(2) {
        object.remove(&ns).await;
        ns.until_ready(cluster).await;
    }
}

/// An object that belongs to others.
struct Foreign {
    resource: ApiResource,
    name: String,
    uid: Option<String>,
}

async fn create<K: kube::Resource<DynamicType = ()>>(ns: &TestNamespace, object: &Value) -> Foreign {
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(ns.client.clone(), &ns.name, &resource);
    let mut object = object.clone();
    merge(&mut object, json!({ "apiVersion": resource.api_version, "kind": resource.kind }));
    let made = api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    Foreign { resource, name: made.metadata.name.unwrap(), uid: made.metadata.uid }
}

impl Foreign {
    fn api(&self, ns: &TestNamespace) -> Api<DynamicObject> {
        Api::namespaced_with(ns.client.clone(), &ns.name, &self.resource)
    }
    /// Checks that it is the same object and that the operator has written no field of it. Kubernetes' own controllers may have.
    async fn is_untouched(&self, ns: &TestNamespace) {
        let meta = self.api(ns).get(&self.name).await.unwrap().metadata;
        assert_eq!(meta.uid, self.uid, "{} is another object", self.name);
        let managers: Vec<_> = meta.managed_fields.into_iter().flatten().filter_map(|entry| entry.manager).collect();
        assert!(!managers.contains(&FIELD_MANAGER.to_owned()), "{} was written: {managers:?}", self.name);
    }
    async fn remove(&self, ns: &TestNamespace) {
        drop(self.api(ns).delete(&self.name, &kube::api::DeleteParams::default()).await.unwrap());
    }
}
