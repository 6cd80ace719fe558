//! Settings of pods and of the Service change on a running cluster, while clients write.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use etcd_warden::api::EtcdCluster;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Service};
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    members::incarnations,
    namespace::{TIMEOUT, TestNamespace},
    tools::until,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(settings).long(), scenario!(without_a_restart), scenario!(user_ids).long()]
}

async fn change(ns: &TestNamespace, spec: Value) {
    ns.patch::<EtcdCluster>("demo", json!({ "spec": spec })).await;
}

/// Waits until no pod is one of these and all members are ready.
async fn until_restarted(ns: &TestNamespace, before: &BTreeSet<String>) {
    until("every pod is replaced", TIMEOUT, || async {
        let now = incarnations(ns).await;
        if now.is_disjoint(before) && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
}

async fn pods(ns: &TestNamespace) -> Vec<Pod> {
    ns.api::<Pod>().list(&ListParams::default()).await.unwrap().items
}

/// Settings that have a field of their own, and those that a template adds, reach every member in one round. A template that takes away what
/// the operator needs is refused with the path, and restarts nothing.
async fn settings(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let before = incarnations(&ns).await;
    let sidecar = json!({
        "name": "sidecar", "image": "docker.io/library/busybox:1.35",
        "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"],
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    let template = json!({ "spec": {
        "hostAliases": [{ "ip": "192.0.2.1", "hostnames": ["store.example.com"] }],
        "containers": [sidecar, { "name": "etcd", "env": [{ "name": "GOGC", "value": "50" }] }],
        "volumes": [{ "name": "scratch", "emptyDir": {} }],
    } });
    let tolerations = json!([{ "key": "dedicated", "operator": "Equal", "value": "etcd", "effect": "NoSchedule" }]);
    let began = Instant::now();
    change(
        &ns,
        json!({ "pod": {
            "tolerations": tolerations, "priorityClassName": "system-cluster-critical",
            "nodeSelector": { "kubernetes.io/os": "linux" }, "template": template,
        } }),
    )
    .await;
    until_restarted(&ns, &before).await;
    ns.measure(format!("settings of pods in {:.1} s", began.elapsed().as_secs_f32()));
    let after = incarnations(&ns).await;
    for pod in pods(&ns).await {
        let spec: PodSpec = pod.spec.unwrap();
        let etcd = spec.containers.iter().find(|container| container.name == "etcd").unwrap();
        assert!(spec.containers.iter().any(|container| container.name == "sidecar"));
        assert!(etcd.env.iter().flatten().any(|variable| variable.name == "GOGC" && variable.value.as_deref() == Some("50")));
        assert!(spec.host_aliases.iter().flatten().any(|alias| alias.ip == "192.0.2.1"));
        assert!(spec.volumes.iter().flatten().any(|volume| volume.name == "scratch"));
        assert!(spec.tolerations.iter().flatten().any(|toleration| toleration.key.as_deref() == Some("dedicated")));
        assert_eq!(spec.priority_class_name.as_deref(), Some("system-cluster-critical"));
        assert_eq!(spec.node_selector.unwrap()["kubernetes.io/os"], "linux");
    }

    for (template, path) in [
        (json!({ "spec": { "containers": [{ "$patch": "delete", "name": "etcd" }] } }), "containers"),
        (json!({ "spec": { "volumes": [{ "name": "tls", "emptyDir": {} }] } }), "volumes"),
        (json!({ "spec": { "containers": [{ "name": "etcd", "readinessProbe": null }] } }), "readinessProbe"),
    ] {
        // A merge patch would take `null` as "remove this field".
        let patch = json!([{ "op": "replace", "path": "/spec/pod/template", "value": template }]).to_string();
        ns.kubectl(["patch", "etcd", "demo", "--type=json", "-p", &patch]).await.success();
        // The one before is reported until the next pass.
        let message = until("the path of what is refused", TIMEOUT, || async {
            let message = ns.until_condition("demo", "Degraded", "True", "InvalidSpec", TIMEOUT).await;
            if message.contains("spec.pod.template") && message.contains(path) { Ok(message) } else { Err(message) }
        })
        .await;
        ns.measure(format!("refused: {message}"));
    }
    assert_eq!(incarnations(&ns).await, after);
    let patch = json!([{ "op": "remove", "path": "/spec/pod/template" }]).to_string();
    ns.kubectl(["patch", "etcd", "demo", "--type=json", "-p", &patch]).await.success();
    until_restarted(&ns, &after).await;
    assert!(pods(&ns).await.iter().all(|pod| pod.spec.as_ref().unwrap().containers.len() == 1));
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("settings of pods: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// Labels and annotations reach running pods, also those that a user takes away again; the type of the Service changes while clients use it.
async fn without_a_restart(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let before = incarnations(&ns).await;
    let until_all_have = async |label: Option<&str>, annotation: Option<&str>| {
        until("all pods have the labels", TIMEOUT, || async {
            let pods = pods(&ns).await;
            let has = |pod: &Pod| {
                let found = (pod.labels().get("team").map(String::as_str), pod.annotations().get("note").map(String::as_str));
                found == (label, annotation)
            };
            if pods.len() == 3 && pods.iter().all(has) { Ok(()) } else { Err(format!("{pods:?}")) }
        })
        .await;
    };
    change(&ns, json!({ "pod": { "labels": { "team": "a" }, "annotations": { "note": "one" } } })).await;
    until_all_have(Some("a"), Some("one")).await;
    change(&ns, json!({ "pod": { "labels": { "team": "b" }, "annotations": { "note": null } } })).await;
    until_all_have(Some("b"), None).await;

    for kind in ["NodePort", "ClusterIP"] {
        change(&ns, json!({ "service": { "type": kind, "annotations": { "kind": kind } } })).await;
        until("the Service has this type", TIMEOUT, || async {
            let service = ns.get::<Service>("demo").await.unwrap();
            let spec = service.spec.as_ref().unwrap();
            let has_port = spec.ports.iter().flatten().any(|port| port.node_port.is_some());
            let is_applied = spec.type_.as_deref() == Some(kind)
                && service.annotations().get("kind").map(String::as_str) == Some(kind)
                && has_port == (kind == "NodePort");
            if is_applied { Ok(()) } else { Err(format!("{service:?}")) }
        })
        .await;
    }
    ns.until_ready("demo").await;
    assert_eq!(incarnations(&ns).await, before, "no pod is restarted");
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("without a restart: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// Where nothing assigns user IDs the first pod does not start without them; a template that names them mends it although it is down.
async fn user_ids(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let before = incarnations(&ns).await;
    change(&ns, json!({ "pod": { "userIDs": "Assigned" } })).await;
    let message = until("the first member says why it does not start", TIMEOUT, || async {
        let members = ns.status("demo").await.members;
        let mut messages = members.into_iter().filter_map(|member| member.message);
        messages.find(|message| message.contains("runAsNonRoot")).ok_or_else(|| "no message".to_owned())
    })
    .await;
    ns.measure(format!("without user IDs: {message}"));
    assert_eq!(incarnations(&ns).await.intersection(&before).count(), 2, "the others are not restarted");
    let ids = json!({ "spec": { "securityContext": { "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532 } } });
    change(&ns, json!({ "pod": { "template": ids } })).await;
    until_restarted(&ns, &before).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("user IDs: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}
