//! The API server's validation of the schemas in `crds/`: types and CEL rules.

use std::sync::LazyLock;

use kube::core::cel::Validator;
use serde_json::{Value, json};

use super::*;

/// The schemas of `EtcdCluster` and `EtcdUser`, generated once: they are large.
static SCHEMAS: LazyLock<[Value; 2]> = LazyLock::new(|| {
    crds().unwrap().map(|crd| {
        let schema = crd.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        serde_json::to_value(schema.unwrap()).unwrap()
    })
});

/// The messages of the rules of `schema` that refuse to replace `old` by `new`.
fn refusals(schema: &Value, new: &Value, old: Option<&Value>) -> Vec<String> {
    let errors = Validator::new().validate(schema, new, old).err();
    errors.map(|errors| errors.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// `spec` with all defaults, which the API server fills in.
fn complete(name: &str, spec: &Value) -> Value {
    let spec: EtcdClusterSpec = serde_json::from_value(spec.clone()).unwrap();
    json!({ "metadata": { "name": name }, "spec": spec })
}

fn cluster(name: &str, spec: &Value, old: Option<&Value>) -> Vec<String> {
    refusals(&SCHEMAS[0], &complete(name, spec), old.map(|spec| complete(name, spec)).as_ref())
}

fn user(name: &str, spec: &Value, old: Option<&Value>) -> Vec<String> {
    let complete = |spec: &Value| {
        let spec: EtcdUserSpec = serde_json::from_value(spec.clone()).unwrap();
        json!({ "metadata": { "name": name }, "spec": spec })
    };
    refusals(&SCHEMAS[1], &complete(spec), old.map(complete).as_ref())
}

#[track_caller]
fn refused(refusals: &[String], part: &str, what: &Value) {
    assert!(refusals.len() == 1 && refusals[0].contains(part), "{what}: {part:?} was expected, found {refusals:#?}");
}

#[track_caller]
fn passes(refusals: &[String], what: &Value) {
    assert!(refusals.is_empty(), "{what}: {refusals:#?}");
}

fn client(field: &str, value: &Value) -> Value {
    json!({ "tls": { "client": { field: value } } })
}

/// `value` with the defaults of `schema`, which the API server fills in.
fn filled(schema: &Value, mut value: Value) -> Value {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let given = value.get(name).or_else(|| property.get("default")).cloned();
        if let (Some(given), Some(object)) = (given, value.as_object_mut()) {
            object.insert(name.clone(), filled(property, given));
        }
    }
    value
}

#[test]
fn an_empty_spec_is_complete() {
    passes(&cluster("demo", &json!({}), None), &json!({}));
    // So it is on the API server, which fills in the defaults of the schema.
    let spec = filled(&SCHEMAS[0]["properties"]["spec"], json!({}));
    assert_eq!(spec, serde_json::to_value(EtcdClusterSpec::default()).unwrap());
    assert_eq!(serde_json::from_value::<EtcdClusterSpec>(json!({})).unwrap(), EtcdClusterSpec::default());
}

#[test]
fn invalid_specs_are_refused_with_a_reason() {
    let (long_name, sixty) = ("a".repeat(64), "a".repeat(60));
    let tls = |authority: &str, certificate: &str| json!({ "authority": { "duration": authority }, "certificate": { "duration": certificate } });
    for (spec, part) in [
        (json!({ "replicas": 0 }), "must be 1 to 9"),
        (json!({ "replicas": 10 }), "must be 1 to 9"),
        (json!({ "replicas": -1 }), "must be 1 to 9"),
        (json!({ "version": "latest" }), "three numbers"),
        (json!({ "version": "" }), "three numbers"),
        (json!({ "version": "3.6" }), "three numbers"),
        (json!({ "version": "3.6.016" }), "three numbers"),
        (json!({ "version": "3.6.0-rc.1" }), "three numbers"),
        (json!({ "version": "v3.6.16" }), "without the v"),
        (json!({ "version": "3.5.31" }), "not supported"),
        (json!({ "version": "3.4.40" }), "not supported"),
        (json!({ "version": "3.6.3" }), "not supported"),
        (json!({ "version": "3.8.0" }), "not supported"),
        (client("certificate", &json!({ "duration": "90d" })), "must be a duration"),
        (client("certificate", &json!({ "duration": "" })), "must be a duration"),
        (client("certificate", &json!({ "duration": "-5h" })), "must be a duration"),
        (client("certificate", &json!({ "duration": "1.5h" })), "must be a duration"),
        (client("authority", &json!({ "duration": "9999999h" })), "must be a duration"),
        (client("certificate", &json!({ "duration": "59m" })), "at least 1h"),
        (json!({ "tls": { "client": tls("100h", "26h") } }), "four times"),
        (json!({ "tls": { "peer": tls("100h", "26h") } }), "four times"),
        (client("extraSANs", &json!({ "dnsNames": ["not a name"] })), "DNS name"),
        (client("extraSANs", &json!({ "dnsNames": ["ok", "Etcd.example.com"] })), "DNS name"),
        (client("extraSANs", &json!({ "dnsNames": ["a.*.com"] })), "DNS name"),
        (client("extraSANs", &json!({ "dnsNames": [format!("{long_name}.com")] })), "DNS name"),
        (client("extraSANs", &json!({ "dnsNames": ["10.0.0.1"] })), "addresses belong in ipAddresses"),
        (client("extraSANs", &json!({ "ipAddresses": ["etcd.example.com"] })), "IPv4 or IPv6"),
        (client("extraSANs", &json!({ "ipAddresses": ["10.0.0.0/8"] })), "IPv4 or IPv6"),
        (json!({ "image": { "digest": "sha256:abc" } }), "64 hexadecimal"),
        (json!({ "image": { "repository": "" } }), "repository without tag"),
        (json!({ "image": { "repository": "Bad Repo" } }), "repository without tag"),
        (json!({ "image": { "repository": "example.com:5000/etcd:v3.6.16" } }), "repository without tag"),
        (json!({ "image": { "tag": "a b" } }), "image's tag"),
        (json!({ "storage": { "size": "big" } }), "quantity above 0"),
        (json!({ "storage": { "size": "0" } }), "quantity above 0"),
        (json!({ "etcd": { "quotaBackendSize": "-1Gi" } }), "quantity above 0"),
        (json!({ "etcd": { "quotaBackendSize": "16383Ki" } }), "at least 16Mi"),
        (json!({ "etcd": { "featureGates": { "AllAlpha": true } } }), "must be a feature gate of etcd: CompactHashCheck"),
        (
            json!({ "etcd": { "featureGates": { "PriorityRequest": true } } }),
            "etcd 3.6 does not have FastLeaseKeepAlive and PriorityRequest",
        ),
        (
            json!({ "version": "3.5.35", "etcd": { "featureGates": { "CompactHashCheck": false } } }),
            "etcd 3.5 has no feature gates",
        ),
        (json!({ "etcd": { "featureGates": { "LeaseCheckpointPersist": true } } }), "needs LeaseCheckpoint"),
        (
            json!({ "etcd": { "featureGates": { "LeaseCheckpointPersist": true, "LeaseCheckpoint": false } } }),
            "needs LeaseCheckpoint",
        ),
        (
            json!({ "etcd": { "featureGates": { "InitialCorruptCheck": true }, "extraArgs": { "experimental-initial-corrupt-check": "true" } } }),
            "remove the flag from extraArgs",
        ),
        (json!({ "tls": { "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] } }), "HTTP/2 needs"),
        (json!({ "tls": { "cipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"] } }), "have ECDSA keys"),
        (
            json!({ "tls": { "minVersion": "TLS1.3", "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"] } }),
            "those of TLS 1.2",
        ),
        (json!({ "service": { "loadBalancerClass": "example.com/a" } }), "only for type LoadBalancer"),
        (json!({ "etcd": { "heartbeatInterval": "1s" } }), "five times"),
        (json!({ "etcd": { "heartbeatInterval": "1ms" } }), "at least 10ms"),
        (json!({ "etcd": { "electionTimeout": "1m" } }), "at most 50s"),
        (json!({ "etcd": { "autoCompaction": { "retention": "5x" } } }), "retention must be"),
        (json!({ "storage": { "emptyDir": { "sizeLimit": "4Gi" }, "storageClassName": "fast" } }), "exclude each other"),
        (json!({ "replicas": 2, "storage": { "emptyDir": { "sizeLimit": "4Gi" } } }), "acceptDataLoss"),
        (json!({ "storage": { "emptyDir": { "sizeLimit": "2400Mi" } } }), "448Mi for the write-ahead log"),
        (
            json!({ "storage": { "emptyDir": { "sizeLimit": "2Gi" } }, "etcd": { "quotaBackendSize": "1700M" } }),
            "448Mi for the write-ahead log",
        ),
        (
            json!({
                "storage": { "emptyDir": { "sizeLimit": "4Gi", "medium": "Memory" } },
                "pod": { "resources": { "limits": { "memory": "4300Mi" } } },
            }),
            "256Mi for etcd",
        ),
        (json!({ "etcd": { "autoCompaction": { "mode": "Revision" } } }), "retention must be"),
        (json!({ "etcd": { "extraArgs": { "--max-txn-ops": "1" } } }), "without the dashes"),
    ] {
        refused(&cluster("demo", &spec, None), part, &spec);
    }
    for (name, part) in [("1demo", "begin with a letter"), ("a.b", "begin with a letter"), (&sixty[..50], "49 characters")] {
        refused(&cluster(name, &json!({}), None), part, &json!(name));
    }
    assert_eq!(MAX_NAME_LENGTH, 49);
    passes(&cluster(&sixty[..MAX_NAME_LENGTH], &json!({}), None), &json!(sixty));
}

#[test]
fn valid_specs_pass() {
    for spec in [
        json!({ "replicas": 1 }),
        json!({ "replicas": 2 }),
        json!({ "replicas": 9 }),
        json!({ "version": "3.5.32" }),
        json!({ "version": "3.5.100" }),
        json!({ "version": "3.7.0" }),
        client("extraSANs", &json!({ "dnsNames": ["etcd", "*.example.com"], "ipAddresses": ["203.0.113.7", "2001:db8::1"] })),
        json!({ "tls": { "client": { "authority": { "duration": "4h" }, "certificate": { "duration": "1h" } } } }),
        json!({ "tls": { "peer": { "certificate": { "duration": "60m" } } } }),
        json!({ "image": { "repository": "localhost:5000/a/b_c/etcd", "tag": "v3.6.16-0" } }),
        json!({ "image": { "repository": "[::1]:5000/etcd" } }),
        json!({ "image": { "repository": "etcd", "digest": format!("sha256:{}", "0".repeat(64)) } }),
        json!({ "storage": { "size": 8_589_934_592_u64, "storageClassName": "fast" } }),
        json!({ "storage": { "size": "1.5Gi" } }),
        json!({ "storage": { "emptyDir": { "sizeLimit": "4Gi", "medium": "Memory" } } }),
        json!({ "storage": { "emptyDir": { "sizeLimit": "2496Mi" } }, "pod": { "resources": { "limits": { "memory": "1Gi" } } } }),
        json!({
            "storage": { "emptyDir": { "sizeLimit": "4Gi", "medium": "Memory" } },
            "pod": { "resources": { "limits": { "memory": "4352Mi", "cpu": 1 } } },
        }),
        json!({ "replicas": 1, "storage": { "emptyDir": { "sizeLimit": "4Gi", "acceptDataLoss": true } } }),
        json!({ "storage": { "size": "1e9" }, "etcd": { "quotaBackendSize": "256e6" } }),
        json!({ "storage": { "size": "1E9" }, "etcd": { "quotaBackendSize": "256E6" } }),
        json!({ "etcd": { "quotaBackendSize": "16Mi", "logLevel": "fatal" } }),
        json!({ "etcd": { "featureGates": { "LeaseCheckpointPersist": true, "LeaseCheckpoint": true } } }),
        json!({ "etcd": { "featureGates": { "LeaseCheckpointPersist": false } } }),
        json!({ "version": "3.7.3", "etcd": { "featureGates": { "PriorityRequest": true }, "extraArgs": { "max-wals": "5" } } }),
        json!({ "tls": { "cipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"] } }),
        json!({ "etcd": { "autoCompaction": { "retention": "0" } } }),
        json!({ "etcd": { "autoCompaction": { "mode": "Revision", "retention": "10000" } } }),
    ] {
        passes(&cluster("demo", &spec, None), &spec);
    }
}

#[test]
fn only_reserved_flags_are_refused() {
    let arg = |flag: &str| json!({ "etcd": { "extraArgs": { "metrics": "basic", flag: "x" } } });
    for flag in [
        "name",
        "data-dir",
        "wal-dir",
        "config-file",
        "listen-client-urls",
        "listen-metrics-urls",
        "advertise-client-urls",
        "initial-cluster",
        "initial-advertise-peer-urls",
        "cert-file",
        "key-file",
        "trusted-ca-file",
        "client-cert-auth",
        "client-crl-file",
        "peer-cert-allowed-hostname",
        "peer-auto-tls",
        "auto-tls",
        "cipher-suites",
        "tls-min-version",
        "force-new-cluster",
        "unsafe-no-fsync",
        "strict-reconfig-check",
        "heartbeat-interval",
        "election-timeout",
        "quota-backend-bytes",
        "auto-compaction-mode",
        "auth-token",
        "log-level",
        "feature-gates",
        "discovery-srv",
        "experimental-peer-skip-client-san-verification",
    ] {
        refused(&cluster("demo", &arg(flag), None), "a flag is reserved", &json!(flag));
    }
    for flag in ["max-txn-ops", "log-format", "max-request-bytes", "experimental-initial-corrupt-check"] {
        passes(&cluster("demo", &arg(flag), None), &json!(flag));
    }
}

#[test]
fn every_field_can_be_changed() {
    let zeros = format!("sha256:{}", "0".repeat(64));
    let base = json!({});
    for spec in [
        json!({ "version": "3.6.15" }),
        json!({ "version": "3.7.3" }),
        json!({ "version": "3.5.35" }),
        json!({ "storage": { "retention": "Delete" } }),
        json!({ "etcd": { "quotaBackendSize": "4Gi", "extraArgs": { "max-txn-ops": "512" } } }),
        json!({ "pod": { "labels": { "a": "b" }, "resources": { "limits": { "memory": "1Gi" } } } }),
        json!({ "pod": { "template": { "spec": { "runtimeClassName": "gvisor" } } } }),
        json!({ "service": { "labels": { "a": "b" }, "annotations": { "a": "b" } } }),
        json!({ "service": { "type": "NodePort" } }),
        json!({ "tls": { "minVersion": "TLS1.3" } }),
        json!({ "tls": { "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"] } }),
        json!({ "etcd": { "logLevel": "debug", "featureGates": { "CompactHashCheck": true } } }),
        client("authority", &json!({ "duration": "50000h" })),
        json!({ "tls": { "peer": { "authority": { "duration": "50000h" } } } }),
        json!({ "image": { "tag": "v3.6.16" } }),
        json!({ "image": { "digest": zeros } }),
        client("certificate", &json!({ "duration": "24h" })),
        json!({ "tls": { "peer": { "certificate": { "duration": "24h" } } } }),
        client("extraSANs", &json!({ "dnsNames": ["etcd.example.com"] })),
        json!({ "paused": true }),
        json!({ "storage": { "size": "16Gi", "storageClassName": "fast" } }),
        json!({ "replicas": 4 }),
        json!({ "image": { "repository": "example.com/etcd" } }),
        json!({ "image": { "pullPolicy": "Always" } }),
        json!({ "image": { "pullSecrets": [{ "name": "registry" }] } }),
    ] {
        passes(&cluster("demo", &spec, Some(&base)), &spec);
        passes(&cluster("demo", &base, Some(&spec)), &spec);
    }
}

#[test]
fn the_minor_version_is_not_changed_while_data_is_in_the_pods() {
    let (volumes, pods) = (json!({}), json!({ "emptyDir": { "sizeLimit": "4Gi" } }));
    let spec = |version: &str, storage: &Value| json!({ "version": version, "storage": storage });
    for (old, new) in [(&pods, &pods), (&volumes, &pods), (&pods, &volumes)] {
        let new_minor = cluster("demo", &spec("3.7.3", new), Some(&spec("3.6.16", old)));
        refused(&new_minor, "the minor version cannot be changed with spec.storage.emptyDir", new);
        let new_patch = cluster("demo", &spec("3.6.15", new), Some(&spec("3.6.16", old)));
        passes(&new_patch, new);
    }
    passes(&cluster("demo", &spec("3.7.3", &volumes), Some(&spec("3.6.16", &volumes))), &volumes);
}

#[test]
fn no_minor_version_is_skipped() {
    let (old, new) = (json!({ "version": "3.5.35" }), json!({ "version": "3.7.3" }));
    refused(&cluster("demo", &new, Some(&old)), "one minor version at a time", &new);
    refused(&cluster("demo", &old, Some(&new)), "one minor version at a time", &old);
}

#[test]
fn the_class_of_a_load_balancer_is_changed_only_with_the_type() {
    let balancer = |class: &str| json!({ "service": { "type": "LoadBalancer", "loadBalancerClass": class } });
    let (none, other) = (json!({ "service": { "type": "LoadBalancer" } }), json!({}));
    for (old, new) in [(&balancer("a"), &balancer("b")), (&balancer("a"), &none), (&none, &balancer("a"))] {
        refused(&cluster("demo", new, Some(old)), "Kubernetes does not change the loadBalancerClass", new);
    }
    for (old, new) in [(&other, &balancer("a")), (&balancer("a"), &other), (&balancer("a"), &balancer("a"))] {
        passes(&cluster("demo", new, Some(old)), new);
    }
}

/// The paths of all fields of a schema that have no fields below them, or whose fields are those of Kubernetes.
fn leaves(schema: &Value, path: &str, found: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if property["properties"].is_object() {
            leaves(property, &path, found);
        } else {
            found.push(path);
        }
    }
}

#[test]
fn every_field_has_exactly_one_row_in_the_table_of_fields() {
    let mut found = vec![];
    leaves(&SCHEMAS[0]["properties"]["spec"], "", &mut found);
    let covers =
        |row: &Field, leaf: &str| leaf.strip_prefix(row.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    for leaf in &found {
        let rows: Vec<_> = FIELDS.iter().filter(|row| covers(row, leaf)).map(|row| row.path).collect();
        assert_eq!(rows.len(), 1, "spec.{leaf}: {rows:?}");
    }
    for row in FIELDS {
        assert!(found.iter().any(|leaf| covers(row, leaf)), "spec.{} does not exist", row.path);
    }
}

#[test]
fn invalid_users_are_refused() {
    let of = |spec: Value| {
        let mut spec = spec;
        spec["clusterRef"] = json!({ "name": "demo" });
        spec
    };
    let long = "a".repeat(64);
    for (name, spec, part) in [
        ("root", json!({}), "operator's own"),
        ("app", json!({ "commonName": "root" }), "operator's own"),
        ("app", json!({ "commonName": "etcd-warden:peer" }), "operator's own"),
        ("app", json!({ "commonName": "a\nb" }), "control characters"),
        ("app", json!({ "secretName": "A_b" }), "name of a Secret"),
        ("app", json!({ "secretName": "a..b" }), "name of a Secret"),
        ("app", json!({ "certificate": { "duration": "5m" } }), "at least 1h"),
        (&long, json!({}), "63 characters"),
    ] {
        let spec = of(spec);
        refused(&user(name, &spec, None), part, &spec);
    }
    for (name, spec) in [
        ("app", json!({})),
        (&long[1..], json!({})),
        ("root", json!({ "commonName": "someone" })),
        ("app", json!({ "commonName": "Ünï Côde/1", "secretName": "a.b-c" })),
    ] {
        let spec = of(spec);
        passes(&user(name, &spec, None), &spec);
    }
    let base = of(json!({}));
    for field in ["commonName", "secretName"] {
        let spec = of(json!({ field: "other" }));
        refused(&user("app", &spec, Some(&base)), &format!("spec.{field} cannot be changed"), &spec);
    }
    let moved = json!({ "clusterRef": { "name": "other" } });
    refused(&user("app", &moved, Some(&base)), "spec.clusterRef cannot be changed", &moved);
    let shorter = of(json!({ "certificate": { "duration": "24h" } }));
    passes(&user("app", &shorter, Some(&base)), &shorter);
}

#[test]
fn schemas_have_no_nullable_fields_and_only_known_formats() {
    fn walk(value: &Value, path: &str, visit: &mut impl FnMut(&str, &str, &Value)) {
        for (key, child) in value.as_object().into_iter().flatten() {
            visit(path, key, child);
            walk(child, &format!("{path}.{key}"), visit);
        }
        for child in value.as_array().into_iter().flatten() {
            walk(child, &format!("{path}[]"), visit);
        }
    }
    for schema in SCHEMAS.iter() {
        walk(schema, "", &mut |path, key, value| {
            assert!(key != "nullable", "{path} is nullable");
            // Formats that Kubernetes does not know cause a warning at each apply.
            if let (true, Some(format)) = (key == "format", value.as_str()) {
                assert!(["int32", "int64", "date-time"].contains(&format), "{path} has the format {format}");
            }
        });
    }
}
