//! Which objects the API server accepts and refuses, by the rules in the CRDs.

use axum::http::{Method, Request};
use etcd_warden::api::EtcdClusterSpec;
use serde_json::{Value, json};

use crate::namespace::TestNamespace;

/// Creates or changes an object in a dry run.
async fn ask(ns: &TestNamespace<'_>, method: Method, plural: &str, name: &str, spec: &Value) -> Result<Value, String> {
    let collection = format!("/apis/etcd-warden.dev/v1alpha1/namespaces/{}/{plural}", ns.name);
    let (path, media) = match method {
        Method::POST => (collection, "application/json"),
        _ => (format!("{collection}/{name}"), "application/merge-patch+json"),
    };
    let kind = if plural == "etcdusers" { "EtcdUser" } else { "EtcdCluster" };
    let body = json!({ "apiVersion": "etcd-warden.dev/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}?dryRun=All&fieldValidation=Strict"))
        .header("content-type", media)
        .body(body.to_string().into_bytes())
        .unwrap();
    ns.client.request(request).await.map_err(|error| match error {
        kube::Error::Api(status) => status.message.clone(),
        other => panic!("{other}"),
    })
}

async fn create_cluster(ns: &TestNamespace<'_>, name: &str, spec: &Value) -> Result<Value, String> {
    ask(ns, Method::POST, "etcdclusters", name, spec).await
}

async fn create_user(ns: &TestNamespace<'_>, name: &str, spec: &Value) -> Result<Value, String> {
    ask(ns, Method::POST, "etcdusers", name, spec).await
}

#[track_caller]
fn refused(answer: Result<Value, String>, part: &str, what: &Value) {
    let message = answer.expect_err(&format!("{what} should have been refused: {part}"));
    assert!(message.contains(part), "{what}: {part:?} was expected, the API server says {message:?}");
}

#[track_caller]
fn accepted(answer: Result<Value, String>, what: &Value) {
    answer.unwrap_or_else(|message| panic!("{what}: {message}"));
}

fn client(field: &str, value: &Value) -> Value {
    json!({ "tls": { "client": { field: value } } })
}

#[tokio::test]
async fn an_empty_spec_is_filled_in() {
    let ns = TestNamespace::new("defaults").await;
    let made = create_cluster(&ns, "demo", &json!({})).await.unwrap();
    assert_eq!(made["spec"], serde_json::to_value(EtcdClusterSpec::default()).unwrap());
    let nulls = json!({ "replicas": null, "tls": null, "storage": { "size": null }, "pod": null });
    assert_eq!(create_cluster(&ns, "demo", &nulls).await.unwrap()["spec"], made["spec"]);
    let user = create_user(&ns, "app", &json!({ "clusterRef": { "name": "demo" } })).await.unwrap();
    assert_eq!(user["spec"], json!({ "clusterRef": { "name": "demo" }, "certificate": { "duration": "2160h" } }));
    refused(create_user(&ns, "app", &json!({})).await, "spec.clusterRef: Required value", &json!({}));
    refused(create_cluster(&ns, "demo", &Value::Null).await, "spec: Required value", &Value::Null);
}

#[tokio::test]
async fn invalid_clusters_are_refused_with_a_reason() {
    let ns = TestNamespace::new("bad").await;
    let lives =
        |authority: &str, leaf: &str| json!({ "authority": { "duration": authority }, "certificate": { "duration": leaf } });
    let arg = |flag: &str| json!({ "etcd": { "extraArgs": { "metrics": "basic", flag: "x" } } });
    for (spec, part) in [
        (json!({ "replicas": 0 }), "must be 1 to 9"),
        (json!({ "replicas": 10 }), "must be 1 to 9"),
        (json!({ "replicas": -1 }), "must be 1 to 9"),
        (json!({ "replicas": "3" }), "must be of type integer"),
        (json!({ "version": "latest" }), "must be a version of three numbers"),
        (json!({ "version": "3.6" }), "must be a version of three numbers"),
        (json!({ "version": "3.6.0-rc.1" }), "must be a version of three numbers"),
        (json!({ "version": "v3.6.16" }), "write the version without the v"),
        (json!({ "version": "3.5.31" }), "is not supported: 3.5 from 3.5.32"),
        (json!({ "version": "3.8.0" }), "is not supported: 3.5 from 3.5.32"),
        (client("certificate", &json!({ "duration": "90d" })), "must be a duration such as 2160h"),
        (client("certificate", &json!({ "duration": "" })), "must be a duration such as 2160h"),
        (client("certificate", &json!({ "duration": "-5h" })), "must be a duration such as 2160h"),
        (client("certificate", &json!({ "duration": 5 })), "must be of type string"),
        (client("authority", &json!({ "duration": "9999999h" })), "must be a duration such as 2160h"),
        (client("certificate", &json!({ "duration": "59m" })), "must be at least 1h"),
        (json!({ "tls": { "client": lives("100h", "26h") } }), "at least four times certificate.duration"),
        (json!({ "tls": { "peer": lives("100h", "26h") } }), "at least four times certificate.duration"),
        (client("extraSANs", &json!({ "dnsNames": ["not a name"] })), "each must be a DNS name in lower case"),
        (client("extraSANs", &json!({ "dnsNames": ["10.0.0.1"] })), "addresses belong in ipAddresses"),
        (client("extraSANs", &json!({ "ipAddresses": ["etcd.example.com"] })), "each must be an IPv4 or IPv6 address"),
        (json!({ "tls": { "client": { "clientAuth": "Optional" } } }), "supported values: \"Required\", \"None\""),
        (json!({ "tls": { "minVersion": "TLS1.1" } }), "supported values: \"TLS1.2\", \"TLS1.3\""),
        (json!({ "image": { "digest": "sha256:abc" } }), "64 hexadecimal digits"),
        (json!({ "image": { "repository": "etcd:v3.6.16" } }), "repository without tag"),
        (json!({ "image": { "tag": "v3.6.15" } }), "spec.image.tag names another version of etcd than spec.version"),
        (json!({ "storage": { "size": "big" } }), "quantity above 0"),
        (json!({ "storage": { "size": 0 } }), "quantity above 0"),
        (json!({ "storage": { "emptyDir": {} } }), "spec.storage.emptyDir.sizeLimit: Required value"),
        (
            json!({ "storage": { "storageClassName": "fast", "emptyDir": { "sizeLimit": "8Gi" } } }),
            "emptyDir and storageClassName exclude each other",
        ),
        (json!({ "etcd": { "electionTimeout": "400ms" } }), "at least five times heartbeatInterval"),
        (json!({ "etcd": { "electionTimeout": "1m" } }), "must be at most 50s"),
        (json!({ "etcd": { "autoCompaction": { "mode": "Revision" } } }), "retention must be a duration such as 5m"),
        (arg("--max-txn-ops"), "without the dashes in front"),
        (json!({ "etcd": { "quotaBackendSize": "1Mi" } }), "must be at least 16Mi"),
        (json!({ "etcd": { "logLevel": "dpanic" } }), "supported values: \"debug\""),
        (json!({ "etcd": { "featureGates": { "AllAlpha": true } } }), "each must be a feature gate of etcd"),
        (
            json!({ "etcd": { "featureGates": { "PriorityRequest": true } } }),
            "etcd 3.6 does not have FastLeaseKeepAlive and PriorityRequest",
        ),
        (
            json!({ "version": "3.5.35", "etcd": { "featureGates": { "CompactHashCheck": true } } }),
            "etcd 3.5 has no feature gates",
        ),
        (json!({ "etcd": { "featureGates": { "LeaseCheckpointPersist": true } } }), "needs LeaseCheckpoint"),
        (
            json!({ "etcd": { "featureGates": { "LeaseCheckpoint": true }, "extraArgs": { "experimental-enable-lease-checkpoint": "true" } } }),
            "remove the flag from extraArgs",
        ),
        (json!({ "tls": { "cipherSuites": ["TLS_AES_128_GCM_SHA256"] } }), "supported values: \"TLS_ECDHE_ECDSA"),
        (json!({ "tls": { "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] } }), "HTTP/2 needs"),
        (json!({ "tls": { "cipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"] } }), "have ECDSA keys"),
        (
            json!({ "tls": { "minVersion": "TLS1.3", "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"] } }),
            "with minVersion TLS1.3 they cannot be set",
        ),
        (json!({ "service": { "loadBalancerClass": "example.com/a" } }), "loadBalancerClass is only for type LoadBalancer"),
        (arg("feature-gates"), "a flag is reserved"),
        (arg("initial-cluster"), "a flag is reserved"),
        (arg("client-cert-auth"), "a flag is reserved"),
        (arg("peer-crl-file"), "a flag is reserved"),
        (arg("force-new-cluster"), "a flag is reserved"),
        (arg("data-dir"), "a flag is reserved"),
    ] {
        refused(create_cluster(&ns, "demo", &spec).await, part, &spec);
    }
    let long = "a".repeat(50);
    for (name, part) in [
        (long.as_str(), "metadata.name is too long for the objects made from it: 49 characters at most"),
        ("1demo", "it must begin with a letter"),
        ("a.b", "it must begin with a letter"),
        ("Demo", "lowercase RFC 1123 subdomain"),
    ] {
        refused(create_cluster(&ns, name, &json!({})).await, part, &json!(name));
    }
    accepted(create_cluster(&ns, &long[1..], &json!({})).await, &json!(long));
}

#[tokio::test]
async fn valid_clusters_are_accepted() {
    let ns = TestNamespace::new("good").await;
    for spec in [
        json!({ "replicas": 1, "version": "3.5.32" }),
        json!({ "replicas": 9, "version": "3.7.0" }),
        client("extraSANs", &json!({ "dnsNames": ["etcd", "*.example.com"], "ipAddresses": ["203.0.113.7", "2001:db8::1"] })),
        json!({ "tls": { "peer": { "authority": { "duration": "4h" }, "certificate": { "duration": "60m" } } } }),
        json!({ "image": { "repository": "[::1]:5000/etcd", "digest": format!("sha256:{}", "0".repeat(64)) } }),
        json!({ "storage": { "size": 8_589_934_592_u64, "storageClassName": "fast", "retention": "Delete" } }),
        json!({ "etcd": { "autoCompaction": { "mode": "Revision", "retention": "10000" }, "extraArgs": { "max-txn-ops": "512" } } }),
        json!({ "version": "3.7.3", "etcd": { "logLevel": "debug", "featureGates": { "PriorityRequest": true, "LeaseCheckpoint": false } } }),
        json!({ "tls": { "cipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] } }),
        json!({ "service": { "type": "LoadBalancer", "loadBalancerClass": "example.com/a" } }),
        json!({ "pod": { "template": { "metadata": { "labels": { "a": "b" } }, "spec": { "containers": [{ "name": "a", "image": "b" }] } } } }),
        json!({ "pod": { "tolerations": [{ "operator": "Exists" }], "resources": { "limits": { "memory": "1Gi" } } } }),
    ] {
        accepted(create_cluster(&ns, "demo", &spec).await, &spec);
    }
}

#[tokio::test]
async fn every_field_can_be_changed() {
    let ns = TestNamespace::new("change").await;
    ns.cluster("demo", json!({})).await;
    let change = async |spec: &Value| ask(&ns, Method::PATCH, "etcdclusters", "demo", spec).await;
    for spec in [
        client("certificate", &json!({ "duration": "24h" })),
        json!({ "tls": { "peer": { "certificate": { "duration": "24h" } } } }),
        client("extraSANs", &json!({ "dnsNames": ["etcd.example.com"], "ipAddresses": ["203.0.113.7"] })),
        json!({ "paused": true }),
        json!({ "version": "3.6.15", "tls": { "minVersion": "TLS1.3" } }),
        json!({ "etcd": { "quotaBackendSize": "4Gi", "extraArgs": { "max-txn-ops": "512" } } }),
        json!({ "pod": { "labels": { "a": "b" }, "resources": { "limits": { "memory": "1Gi" } } } }),
        json!({ "service": { "type": "NodePort" }, "storage": { "retention": "Delete" } }),
        json!({ "storage": { "size": "16Gi", "storageClassName": "fast" } }),
        json!({ "service": { "type": "LoadBalancer", "loadBalancerClass": "example.com/a", "labels": { "a": "b" } } }),
        json!({ "etcd": { "logLevel": "debug", "featureGates": { "CompactHashCheck": true } } }),
        json!({ "tls": { "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"] } }),
        json!({ "pod": { "template": { "spec": { "runtimeClassName": "gvisor" } } } }),
        client("authority", &json!({ "duration": "50000h" })),
        json!({ "replicas": 4 }),
        json!({ "image": { "repository": "example.com/etcd", "pullPolicy": "Always", "pullSecrets": [{ "name": "registry" }] } }),
        // The same values in another form.
        json!({ "replicas": 3, "storage": { "size": "8Gi" }, "pod": {} }),
    ] {
        accepted(change(&spec).await, &spec);
    }
    accepted(
        change(&json!({ "storage": { "storageClassName": null, "emptyDir": { "sizeLimit": "8Gi" } } })).await,
        &json!("emptyDir"),
    );
    let minor = json!({ "version": "3.7.3" });
    ns.cluster("pods", json!({ "storage": { "emptyDir": { "sizeLimit": "8Gi" } } })).await;
    let change = async |spec: &Value| ask(&ns, Method::PATCH, "etcdclusters", "pods", spec).await;
    accepted(change(&json!({ "version": "3.6.15" })).await, &json!("another patch"));
    refused(change(&minor).await, "the minor version cannot be changed with spec.storage.emptyDir", &minor);
}

#[tokio::test]
async fn invalid_users_are_refused_with_a_reason() {
    let ns = TestNamespace::new("users").await;
    let of = |field: &str, value: Value| json!({ "clusterRef": { "name": "demo" }, field: value });
    let long = "a".repeat(64);
    for (name, spec, part) in [
        ("root", of("certificate", json!({})), "the common name root is the operator's own"),
        ("app", of("commonName", json!("root")), "are the operator's own: choose another commonName"),
        ("app", of("commonName", json!("etcd-warden:peer")), "are the operator's own: choose another commonName"),
        ("app", of("commonName", json!("a\nb")), "must be without control characters"),
        ("app", of("commonName", json!("")), "should be at least 1 chars long"),
        ("app", of("commonName", json!(format!("{long}a"))), " 64"),
        ("app", of("commonName", json!("ä".repeat(65))), " 64"),
        ("app", of("secretName", json!("A_b")), "must be the name of a Secret"),
        ("app", of("certificate", json!({ "duration": "59m" })), "must be at least 1h"),
        ("app", of("certificate", json!({ "duration": "soon" })), "must be a duration such as 2160h"),
        ("app", of("permissions", json!([])), "unknown field \"spec.permissions\""),
        (&long, of("certificate", json!({})), "63 characters at most"),
    ] {
        refused(create_user(&ns, name, &spec).await, part, &spec);
    }
    for (name, spec) in [
        (&long[1..], of("certificate", json!({ "duration": "1h" }))),
        ("root", of("commonName", json!("someone"))),
        ("app", of("commonName", json!("ä".repeat(64)))),
        ("0.a", of("secretName", json!("a.b-c"))),
    ] {
        accepted(create_user(&ns, name, &spec).await, &spec);
    }
    ns.user("app", of("certificate", json!({}))).await;
    let change = async |spec: &Value| ask(&ns, Method::PATCH, "etcdusers", "app", spec).await;
    for (spec, field) in [
        (json!({ "commonName": "other" }), "spec.commonName"),
        (json!({ "secretName": "other" }), "spec.secretName"),
        (json!({ "clusterRef": { "name": "other" } }), "spec.clusterRef"),
    ] {
        refused(change(&spec).await, &format!("{field} cannot be changed: create another EtcdUser"), &spec);
    }
    let shorter = json!({ "certificate": { "duration": "24h" } });
    accepted(change(&shorter).await, &shorter);
}

#[tokio::test]
async fn tables_have_the_expected_columns() {
    let ns = TestNamespace::new("tables").await;
    ns.cluster("demo", json!({})).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    let operator = ns.operator();
    ns.user_reports("app", "Issued").await;
    // All certificates are issued, but no pod serves them.
    ns.reports("demo", "CertificatesReady", "Confirming").await;
    operator.stop().await;
    // The kinds are given by their short names.
    let rows = |kind: &str, more: &[&str]| {
        let table = ns.server.kubectl(&[&["-n", &ns.name, "get", kind], more].concat());
        let rows: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split("  ").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect())
            .collect();
        rows
    };
    let year = (jiff::Zoned::now().year()).to_string();
    let clusters = rows("etcd", &["-o", "wide"]);
    assert_eq!(clusters[0], ["NAME", "READY", "AVAILABLE", "PROGRESS", "VERSION", "CHANGE", "CERTS", "AGE", "REASON", "MESSAGE"]);
    // No member runs a version yet, and none is being changed.
    assert_eq!(clusters[1][..4], ["demo", "0/3", "False", "WaitingForMembers"]);
    assert!(clusters[1][4].ends_with('Z') && clusters[1][4][..4] >= *year, "{clusters:?}");
    assert_eq!(clusters[1][6], "Bootstrapping");
    assert!(clusters[1][7].contains("demo-0: it has no pod yet"), "{clusters:?}");
    assert_eq!(rows("etcd", &[])[0].len(), 8);
    let users = rows("etcduser", &[]);
    assert_eq!(users[0], ["NAME", "CLUSTER", "READY", "SECRET", "EXPIRES", "AGE"]);
    assert_eq!(users[1][..4], ["app", "demo", "True", "app-etcd-tls"]);
    assert!(users[1][4].ends_with('Z'), "{users:?}");
    // The categories contain the custom resources.
    assert!(ns.server.kubectl(&["-n", &ns.name, "get", "etcd-warden"]).contains("etcduser"));
    assert!(ns.server.kubectl(&["-n", &ns.name, "get", "all"]).contains("etcdcluster.etcd-warden.dev/demo"));
    let explained = ns.server.kubectl(&["explain", "etcdcluster.spec.storage.retention"]);
    assert!(explained.contains("Whether the PersistentVolumeClaims"), "{explained}");
}
