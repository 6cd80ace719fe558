//! Users change etcd's members manually, or request something impossible. This is reported, and not undone.

use std::sync::Arc;

use etcd_warden::api::{ConditionType, EtcdCluster, MemberRole, condition};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim, policy::v1::PodDisruptionBudget};
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    members::voters,
    namespace::{TIMEOUT, TestNamespace},
    tools::until,
    webhook::Webhook,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(members_changed_manually),
        scenario!(impossible_requests),
        scenario!(claims_changed_manually),
        scenario!(sidecar_first),
        scenario!(another_disruption_budget),
    ]
}

/// A learner and a voter that were added manually and never started are reported. A member that was removed manually is replaced.
async fn members_changed_manually(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    for added in [["--learner=true", "https://192.0.2.1:2380"], ["--learner=false", "https://192.0.2.2:2380"]] {
        let [learner, url] = added;
        until("etcd adds it", TIMEOUT, || async {
            user.etcdctl(["member", "add", "unknown", learner, &format!("--peer-urls={url}")]).await.result()
        })
        .await;
        let message = ns.until_condition("demo", "Degraded", "True", "UnknownMember", TIMEOUT).await;
        assert!(message.contains(url) && message.contains("never started"), "{message}");
        ns.kubectl(["scale", "etcd", "demo", "--replicas=4"]).await.success();
        // It prevents scaling up, which is reported.
        let message = until_message(&ns, ConditionType::Degraded, "the operator did not add").await;
        ns.measure(format!("{url} added by hand: {message}"));
        let list = user.etcdctl(["member", "list"]).await.success();
        assert_eq!(list.lines().count(), 4, "{list}");
        ns.kubectl(["scale", "etcd", "demo", "--replicas=3"]).await.success();
        // The learner is removed manually, the voter by the operator.
        if learner == "--learner=true" {
            let stranger = list.lines().find(|line| line.contains(url)).and_then(|line| line.split(',').next()).unwrap();
            user.etcdctl(["member", "remove", stranger]).await.success();
        } else {
            ns.patch::<EtcdCluster>("demo", json!({ "spec": { "repair": { "unstarted": "10s" } } })).await;
        }
        ns.until_ready("demo").await;
        voters(&user, 3).await;
    }
    let events = ns.events("demo").await;
    assert_eq!(events.iter().filter(|(reason, _)| reason == "UnstartedMemberRemoved").count(), 1, "{events:?}");

    let before = ns.status("demo").await;
    let removed = before.members.iter().find(|member| member.role == Some(MemberRole::Follower)).unwrap();
    user.etcdctl(["member", "remove", &removed.id.unwrap().to_string()]).await.success();
    until("another member has its name", TIMEOUT, || async {
        let status = ns.ready("demo").await?;
        let same = status.members.iter().any(|member| member.id == removed.id);
        if same { Err("it is the same".to_owned()) } else { Ok(()) }
    })
    .await;
    voters(&user, 3).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("members changed by hand: {figures}"));
    figures.assert_nothing_lost();
}

/// An invalid number of members, and the replacement of a member that does not exist.
async fn impossible_requests(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    for none in [["scale", "etcd", "demo", "--replicas=0"], ["scale", "etcd", "demo", "--replicas=10"]] {
        let refused = ns.kubectl(none).await.failure();
        assert!(refused.contains("must be 1 to 9"), "{refused}");
    }
    let request = async |member: Option<&str>| {
        let annotations = json!({ "etcd-warden.dev/replace": member });
        ns.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": annotations } })).await;
    };
    for name in ["demo-7", "demo", "demo-0-0", ""] {
        request(Some(name)).await;
        let message = until_message(&ns, ConditionType::Degraded, &format!("names {name:?}, which is not a member")).await;
        ns.until_condition("demo", "Degraded", "True", "MemberNotFound", TIMEOUT).await;
        ns.measure(format!("replace {name:?}: {message}"));
    }
    // The only member cannot be replaced.
    let before = ns.status("demo").await.members;
    request(Some("demo-0")).await;
    let message = ns.until_condition("demo", "Degraded", "True", "CannotReplace", TIMEOUT).await;
    ns.measure(format!("replace the only member: {message}"));
    request(None).await;
    let after = ns.until_ready("demo").await.members;
    assert_eq!(after[0].id, before[0].id);
    voters(&user, 1).await;
}

/// The annotations of a PersistentVolumeClaim are changed, then removed. Then the claim of the only member is deleted while its
/// pod cannot start: the correction of the spec must not lead to the loss of the data.
async fn claims_changed_manually(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    user.etcdctl(["put", "before", "kept"]).await.success();
    let written = async || ns.get::<PersistentVolumeClaim>("data-demo-0").await.unwrap().annotations().clone();
    let before = written().await;
    let is_restored = async || {
        until("the annotations are restored", TIMEOUT, || async {
            let now = written().await;
            let same = |key: &str| now.get(key) == before.get(key);
            let all = ["etcd-warden.dev/cluster-uid", "etcd-warden.dev/cluster-id", "etcd-warden.dev/member-id"];
            if all.into_iter().all(same) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    };
    let edited = json!({ "metadata": { "annotations": { "etcd-warden.dev/member-id": "bad" } } });
    ns.patch::<PersistentVolumeClaim>("data-demo-0", edited).await;
    is_restored().await;

    let own = before.keys().filter(|key| key.starts_with("etcd-warden.dev/"));
    let nothing: serde_json::Map<_, _> = own.map(|key| (key.clone(), serde_json::Value::Null)).collect();
    let stripped = json!({ "metadata": { "annotations": nothing, "ownerReferences": null } });
    ns.patch::<PersistentVolumeClaim>("data-demo-0", stripped).await;
    let message = ns.until_condition("demo", "Degraded", "True", "AnnotationsLost", TIMEOUT).await;
    ns.measure(format!("a claim without annotations: {message}"));
    let command = message.split('`').nth(1).unwrap().to_owned();
    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    crate::tools::run("kubectl", &arguments).await.success();
    is_restored().await;
    ns.until_ready("demo").await;

    let image = |repository: &str| json!({ "spec": { "image": { "repository": repository } } });
    ns.patch::<EtcdCluster>("demo", image("example.invalid/etcd")).await;
    ns.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } })).await;
    until_message(&ns, ConditionType::Progressing, "cannot be pulled").await;
    let pod = ns.incarnation("demo-0-0").await;
    ns.kubectl(["delete", "pvc", "data-demo-0", "--wait=false"]).await.success();
    ns.until_condition("demo", "Degraded", "True", "ClaimLost", TIMEOUT).await;
    ns.patch::<EtcdCluster>("demo", image("gcr.io/etcd-development/etcd")).await;
    until("the status is about the corrected spec", TIMEOUT, || async {
        let cluster = ns.get::<EtcdCluster>("demo").await.unwrap();
        let set = ns.get::<StatefulSet>("demo-0").await.unwrap();
        let seen = cluster.status.unwrap().observed_generation == cluster.metadata.generation;
        let applied = set.status.is_some_and(|status| status.observed_generation == set.metadata.generation);
        if seen && applied { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert_eq!(ns.incarnation("demo-0-0").await, pod);
    assert!(ns.get::<PersistentVolumeClaim>("data-demo-0").await.is_some(), "its data is still there");
}

/// Waits until the message of a condition contains a text.
async fn until_message(ns: &TestNamespace, kind: ConditionType, words: &str) -> String {
    until(&format!("{kind} has the message {words}"), TIMEOUT, || async {
        let conditions = ns.status("demo").await.conditions;
        let message = condition(&conditions, kind).map(|condition| condition.message.clone()).unwrap_or_default();
        if message.contains(words) { Ok(message) } else { Err(message) }
    })
    .await
}

/// A webhook puts a container before etcd's, as service meshes do. The container named `etcd` is looked at, wherever it is: nothing is
/// restarted but on request.
async fn sidecar_first(ns: Arc<TestNamespace>) {
    let webhook = Webhook::install(ns.client.clone(), &ns.name, "/pods", put_proxy_first).await;
    ns.cluster_and_user("demo", 1, json!({})).await;
    let before = ns.incarnation("demo-0-0").await;
    // An issued user takes several passes.
    ns.create_user("other", "demo").await;
    ns.user_identity("other").await;
    ns.until_ready("demo").await;
    assert_eq!(ns.incarnation("demo-0-0").await, before, "it is not restarted");
    let containers = ns.kubectl(["get", "pod", "demo-0-0", "-o", "jsonpath={.spec.containers[*].name}"]).await.success();
    assert_eq!(containers, "proxy etcd");
    ns.kubectl(["exec", "demo-0-0", "--", "etcdctl", "endpoint", "health"]).await.success();

    let request = json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } });
    ns.patch::<EtcdCluster>("demo", request).await;
    until("it is restarted", TIMEOUT, || async {
        let closed = ns.events("demo").await.iter().filter(|(reason, _)| reason == "MemberRestarted").count();
        if closed == 1 { Ok(()) } else { Err(format!("{closed} times")) }
    })
    .await;
    ns.until_ready("demo").await;
    let restarted = ns.incarnation("demo-0-0").await;
    assert_ne!(restarted, before);
    ns.create_user("third", "demo").await;
    ns.user_identity("third").await;
    ns.until_ready("demo").await;
    assert_eq!(ns.incarnation("demo-0-0").await, restarted, "it is restarted once");
    webhook.remove().await;
}

fn put_proxy_first(pod: &Value) -> Vec<Value> {
    if pod["spec"]["containers"].as_array().is_some_and(|containers| containers.len() > 1) {
        return vec![];
    }
    let proxy = json!({
        "name": "proxy",
        "image": "docker.io/library/busybox:1.35",
        "command": ["/bin/busybox"],
        "args": ["sleep", "1000000"],
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "runAsUser": 65532 },
    });
    vec![json!({ "op": "add", "path": "/spec/containers/0", "value": proxy })]
}

/// Kubernetes evicts no pod that two disruption budgets select, so no member can be restarted. The condition says so, and its command
/// helps.
async fn another_disruption_budget(ns: Arc<TestNamespace>) {
    ns.cluster_and_user("demo", 3, json!({})).await;
    let everything = json!({ "minAvailable": 1, "selector": {} });
    ns.try_create::<PodDisruptionBudget>("team", everything).await.unwrap();
    let request = json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } });
    ns.patch::<EtcdCluster>("demo", request).await;
    let message = until_message(&ns, ConditionType::Degraded, "more than one PodDisruptionBudget selects").await;
    let command = format!("kubectl -n {} delete pdb team", ns.name);
    assert!(message.contains(&command), "{message}");
    ns.kubectl(["delete", "pdb", "team"]).await.success();
    until("every member is restarted", TIMEOUT, || async {
        let closed = ns.events("demo").await.iter().filter(|(reason, _)| reason == "MemberRestarted").count();
        if closed == 3 { Ok(()) } else { Err(format!("{closed} restarts are complete")) }
    })
    .await;
    ns.until_ready("demo").await;
}
