//! A change of each field has the effect on a running cluster that its row in the table of fields says.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    api::{Effect, FIELDS},
    cluster::{
        fixtures::{Fixture, cluster},
        plan::tests::assert_up_to_date,
    },
    ids::{MemberId, Uid},
};

/// A field, its value before where it is not the default, and another one.
type Edit = (&'static str, Value, Value);

fn edits() -> Vec<Edit> {
    let none = || Value::Null;
    let small = || json!({ "requests": { "memory": "512Mi" } });
    vec![
        ("replicas", none(), json!(5)),
        ("version", none(), json!("3.6.17")),
        ("storage.size", none(), json!("20Gi")),
        ("storage.storageClassName", none(), json!("fast")),
        ("storage.retention", none(), json!("Delete")),
        ("storage.emptyDir.medium", none(), json!("Memory")),
        ("storage.emptyDir.sizeLimit", none(), json!("6Gi")),
        ("storage.emptyDir.acceptDataLoss", none(), json!(true)),
        ("image.repository", none(), json!("registry.example.com/etcd")),
        ("image.tag", none(), json!("v3.6.16")),
        ("image.digest", none(), json!(format!("sha256:{}", "1".repeat(64)))),
        ("image.pullPolicy", none(), json!("Always")),
        ("image.pullSecrets", none(), json!([{ "name": "registry" }])),
        ("tls.minVersion", none(), json!("TLS1.3")),
        ("tls.cipherSuites", none(), json!(["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"])),
        ("tls.client.authority.duration", none(), json!("40000h")),
        ("tls.client.certificate.duration", none(), json!("3000h")),
        ("tls.client.clientAuth", none(), json!("None")),
        ("tls.client.extraSANs", none(), json!({ "dnsNames": ["etcd.example.com"] })),
        ("tls.peer.authority.duration", none(), json!("40000h")),
        ("tls.peer.certificate.duration", none(), json!("3000h")),
        ("etcd.heartbeatInterval", none(), json!("150ms")),
        ("etcd.electionTimeout", none(), json!("2s")),
        ("etcd.quotaBackendSize", none(), json!("4Gi")),
        ("etcd.autoCompaction.mode", none(), json!("Revision")),
        ("etcd.autoCompaction.retention", none(), json!("1h")),
        ("etcd.logLevel", none(), json!("warn")),
        ("etcd.featureGates", none(), json!({ "InitialCorruptCheck": true })),
        ("etcd.extraArgs", none(), json!({ "max-txn-ops": "512" })),
        ("pod.resources", small(), json!({ "requests": { "memory": "768Mi" } })),
        ("pod.affinity", none(), json!({ "nodeAffinity": {} })),
        ("pod.nodeSelector", none(), json!({ "disk": "fast" })),
        ("pod.tolerations", none(), json!([{ "key": "dedicated" }])),
        (
            "pod.topologySpreadConstraints",
            none(),
            json!([{ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway" }]),
        ),
        ("pod.priorityClassName", none(), json!("high")),
        ("pod.labels", none(), json!({ "team": "a" })),
        ("pod.annotations", none(), json!({ "team": "a" })),
        ("pod.userIDs", none(), json!("Assigned")),
        ("pod.template", none(), json!({ "spec": { "runtimeClassName": "sandboxed" } })),
        ("service.type", none(), json!("NodePort")),
        ("service.loadBalancerClass", none(), json!("internal")),
        ("service.labels", none(), json!({ "team": "a" })),
        ("service.annotations", none(), json!({ "team": "a" })),
        ("repair", none(), json!({ "lostNode": "1h" })),
        ("paused", none(), json!(true)),
    ]
}

/// The rest of the spec with which a field has a meaning.
fn base(path: &str) -> Value {
    if path.starts_with("storage.emptyDir") {
        json!({ "storage": { "emptyDir": { "sizeLimit": "5Gi" } } })
    } else if path == "service.loadBalancerClass" {
        json!({ "service": { "type": "LoadBalancer" } })
    } else if path == "etcd.autoCompaction.mode" {
        json!({ "etcd": { "autoCompaction": { "retention": "0" } } })
    } else {
        json!({})
    }
}

/// Sets a value in a spec.
fn set(spec: &mut Value, path: &str, value: Value) {
    if value.is_null() {
        return;
    }
    let target = path.split('.').fold(spec, |target, name| &mut target[name]);
    *target = value;
}

/// What runs: the uid of each pod, and the ID of each member.
fn running(fixture: &Fixture) -> (BTreeMap<String, Uid>, BTreeSet<MemberId>) {
    let pods = fixture.observed.members.iter().filter_map(|(name, member)| {
        let pod = member.pod.as_ref()?;
        Some((name.to_string(), Uid::of(&pod.metadata)?))
    });
    (pods.collect(), fixture.etcd.iter().map(|member| member.id).collect())
}

#[test]
fn each_field_takes_effect_as_its_row_says() {
    let edits = edits();
    let covered: BTreeSet<_> = edits.iter().map(|(path, ..)| *path).collect();
    // A change of the issuer is a rotation, which has tests of its own.
    let others = FIELDS.iter().filter(|field| field.effect != Effect::Rotation).map(|field| field.path).collect();
    assert_eq!(covered, others, "each field has an edit here");
    for (path, before, after) in edits {
        let effect = FIELDS.iter().find(|field| field.path == path).unwrap().effect;
        let mut spec = base(path);
        set(&mut spec, path, before);
        let mut fixture = Fixture::bootstrapped(&spec.to_string());
        let ((pods, ids), taken) = (running(&fixture), fixture.taken.len());
        set(&mut spec, path, after);
        fixture.cluster.spec = cluster(&spec.to_string()).spec;
        assert!(fixture.spec().cluster.is_ok(), "{path} is valid");
        assert_ne!(fixture.cluster.spec, cluster(&base(path).to_string()).spec, "{path}");
        if path == "image.digest" {
            // The name of the image does not tell it.
            fixture.versions = fixture.observed.members.keys().map(|name| (name.clone(), "3.6.16".to_owned())).collect();
        }
        for _ in 0..400 {
            let before = fixture.observed.status.clone();
            let pass = fixture.pass();
            if pass.is_idle() && pass.report.status == before {
                break;
            }
        }
        if path != "paused" {
            assert_up_to_date(&mut fixture);
        }
        let (new_pods, new_ids) = running(&fixture);
        let took = |kind: &str| fixture.taken[taken..].iter().filter(|step| step.starts_with(kind)).count();
        let kept = pods.iter().filter(|(name, uid)| new_pods.get(*name) == Some(uid)).count();
        let has_ids = ids.is_subset(&new_ids);
        let steps = (took("RestartMember"), took("ResizeMember"), took("RemoveMember"));
        let (expected_kept, expected_ids, expected_steps) = match effect {
            Effect::Live => (3, true, (0, 0, 0)),
            Effect::Restart(_) => (0, true, (3, 0, 0)),
            Effect::InPlace(_) => (3, true, (0, 3, 0)),
            Effect::Replace => (0, false, (0, 0, 3)),
            Effect::Rotation => unreachable!("it has no edit here"),
        };
        assert_eq!(
            (kept, has_ids, steps),
            (expected_kept, expected_ids, expected_steps),
            "{path}: {:?}",
            &fixture.taken[taken..]
        );
    }
}
