//! The version goes up and down by one minor at a time, and settings change, while clients write.

use std::{sync::Arc, time::Instant};

use etcd_warden::api::EtcdCluster;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    history::Histories,
    members::incarnations,
    namespace::{Identity, TIMEOUT, TestNamespace},
    tools::until,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(taken_back).long(), scenario!(up_and_down), scenario!(settings), scenario!(wrong_images).long()]
}

/// The history is kept, so that hashes of it can be compared.
fn of_version(version: &str) -> Value {
    json!({ "version": version, "etcd": { "autoCompaction": { "retention": "0" } } })
}

pub async fn set_version(ns: &TestNamespace, version: &str) {
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "version": version } })).await;
}

/// Waits until all members run a version.
pub async fn until_version(ns: &TestNamespace, version: &str) {
    until(&format!("all run {version}"), 2 * TIMEOUT, || async {
        let status = ns.ready("demo").await?;
        let running: Vec<_> = status.members.iter().filter_map(|member| member.version.clone()).collect();
        let is_complete = status.version.as_deref() == Some(version) && status.upgrade.is_none() && status.change.is_none();
        if is_complete && running == [version; 3] {
            Ok(())
        } else {
            Err(format!("{running:?} {:?} {:?}", status.version, status.upgrade))
        }
    })
    .await;
}

/// The hash of each member's history up to a revision.
async fn hashes(ns: &TestNamespace, user: &Identity, revision: u64) -> Vec<u64> {
    let endpoints = ns.member_endpoints(3).join(",");
    let revision = revision.to_string();
    // A follower may not have applied it yet.
    let answer = until(&format!("every member has revision {revision}"), TIMEOUT, || async {
        user.etcdctl(["endpoint", "hashkv", "--endpoints", &endpoints, "--rev", &revision, "-w", "json"]).await.result()
    })
    .await;
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let hash = |member: &Value| {
        assert_eq!(member["HashKV"]["compact_revision"].as_i64().unwrap_or_default(), -1, "{member}");
        member["HashKV"]["hash"].as_u64().unwrap()
    };
    answer.as_array().unwrap().iter().map(hash).collect()
}

/// The present revision.
async fn revision(user: &Identity) -> u64 {
    let answer: Value = serde_json::from_str(&user.etcdctl(["get", "none", "-w", "json"]).await.success()).unwrap();
    answer["header"]["revision"].as_u64().unwrap()
}

/// Changes the version, and compares the history before and after.
async fn hop(ns: &TestNamespace, user: &Identity, version: &str) {
    let at = revision(user).await;
    let before = hashes(ns, user, at).await;
    let began = Instant::now();
    set_version(ns, version).await;
    let shown = until("the change is shown", TIMEOUT, || async {
        let shown = ns.kubectl(["get", "etcd", "demo"]).await.result()?;
        if shown.contains(&format!("-> {version} (")) { Ok(shown) } else { Err(shown) }
    })
    .await;
    until_version(ns, version).await;
    ns.measure(format!("to {version} in {:.1} s; {}", began.elapsed().as_secs_f32(), shown.lines().last().unwrap_or_default()));
    let after = hashes(ns, user, at).await;
    assert_eq!(before, after, "the history up to {at}");
    assert!(after.iter().all(|hash| *hash == after[0]), "{after:?}");
}

/// 3.5 -> 3.6 -> 3.7 -> 3.6 -> 3.5.
async fn up_and_down(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, of_version("3.5.35")).await;
    let (writers, histories) = (Writers::start(&user).await, Histories::start(&user).await);
    for version in ["3.6.16", "3.7.3", "3.6.16", "3.5.35"] {
        hop(&ns, &user, version).await;
    }
    let history = histories.stop(&ns).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("3.5 -> 3.6 -> 3.7 -> 3.6 -> 3.5: {figures}; {history}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    ns.has_no_event("demo", "QuorumLost").await;
    ns.has_no_event("demo", "MemberDown").await;
}

/// How many members run a version.
async fn running(ns: &TestNamespace, version: &str) -> usize {
    ns.status("demo").await.members.iter().filter(|member| member.version.as_deref() == Some(version)).count()
}

/// A change of the version is taken back half way, in both directions; a version that skips one is refused.
async fn taken_back(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, of_version("3.6.16")).await;
    let writers = Writers::start(&user).await;
    for half in ["3.5.35", "3.7.3"] {
        set_version(&ns, half).await;
        until(&format!("one member runs {half}"), 2 * TIMEOUT, || async {
            if running(&ns, half).await > 0 { Ok(()) } else { Err(format!("{:?}", ns.status("demo").await.upgrade)) }
        })
        .await;
        let patch = json!({ "spec": { "version": if half == "3.5.35" { "3.7.3" } else { "3.5.35" } } }).to_string();
        let refused = ns.kubectl(["patch", "etcd", "demo", "--type=merge", "-p", &patch]).await.failure();
        assert!(refused.contains("one minor version at a time"), "{refused}");
        set_version(&ns, "3.6.16").await;
        until_version(&ns, "3.6.16").await;
    }
    // The spec may be edited faster than members follow.
    set_version(&ns, "3.5.35").await;
    until_version(&ns, "3.5.35").await;
    set_version(&ns, "3.6.16").await;
    set_version(&ns, "3.7.3").await;
    let message = ns.until_condition("demo", "Degraded", "True", "CannotChangeVersion", TIMEOUT).await;
    assert!(message.contains("set spec.version to one of 3.6 first"), "{message}");
    set_version(&ns, "3.6.16").await;
    until_version(&ns, "3.6.16").await;
    // The cluster version follows some seconds after the last member.
    set_version(&ns, "3.5.35").await;
    until_version(&ns, "3.5.35").await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("changes of the version that are taken back: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// Several edits at once are one round, in which each member is restarted once. Labels need no restart.
async fn settings(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let before = incarnations(&ns).await;
    let edits = json!({ "spec": {
        "etcd": { "quotaBackendSize": "4Gi", "electionTimeout": "2s", "extraArgs": { "max-txn-ops": "512" } },
        "pod": { "resources": { "requests": { "cpu": "20m" } }, "labels": { "team": "a" } },
        "tls": { "minVersion": "TLS1.3" },
        "service": { "annotations": { "team": "a" } },
    } });
    let began = Instant::now();
    ns.patch::<EtcdCluster>("demo", edits).await;
    until("every pod is replaced", TIMEOUT, || async {
        let now = incarnations(&ns).await;
        if now.is_disjoint(&before) && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    ns.measure(format!("six edits at once in {:.1} s", began.elapsed().as_secs_f32()));
    let after = incarnations(&ns).await;
    for pod in ns.api::<Pod>().list(&ListParams::default()).await.unwrap() {
        let arguments = pod.spec.as_ref().unwrap().containers[0].args.clone().unwrap();
        for flag in
            ["--quota-backend-bytes=4294967296", "--election-timeout=2000", "--max-txn-ops=512", "--tls-min-version=TLS1.3"]
        {
            assert!(arguments.iter().any(|argument| argument == flag), "{}: {flag} is not in {arguments:?}", pod.name_any());
        }
    }
    // The same values in other words change nothing.
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "etcd": { "quotaBackendSize": "4096Mi", "electionTimeout": "2000ms" } } }))
        .await;
    ns.until_ready("demo").await;
    assert_eq!(incarnations(&ns).await, after);

    // A setting with which etcd does not start stops at the first member, and is taken back.
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "etcd": { "extraArgs": { "max-txn-ops": "many" } } } })).await;
    let message = until("the reason in etcd's log", TIMEOUT, || async {
        let message = ns.until_condition("demo", "Degraded", "True", "MemberDown", TIMEOUT).await;
        let is_quoted = message.contains(r#"exit code 2 (invalid value "many" for flag -max-txn-ops"#);
        if is_quoted { Ok(message) } else { Err(message) }
    })
    .await;
    ns.measure(format!("a setting with which etcd does not start: {message}"));
    assert_eq!(incarnations(&ns).await.intersection(&after).count(), 2, "the others are not restarted");
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "etcd": { "extraArgs": { "max-txn-ops": "512" } } } })).await;
    ns.until_ready("demo").await;
    assert_eq!(incarnations(&ns).await.intersection(&after).count(), 2, "the others are not restarted");
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("settings changed: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// A version whose image contains another one, or that does not exist, stops at the first member, and is taken back.
async fn wrong_images(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "version": "3.7.3", "image": { "tag": "mirror" } } })).await;
    let message = ns.until_condition("demo", "Degraded", "True", "CannotChangeVersion", 2 * TIMEOUT).await;
    assert!(message.contains("contains etcd 3.6.16"), "{message}");
    ns.measure(format!("an image of another version: {message}"));
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "version": "3.6.16", "image": { "tag": null } } })).await;
    until_version(&ns, "3.6.16").await;
    let digest = format!("sha256:{}", "0".repeat(64));
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "image": { "digest": digest } } })).await;
    until("the image of the first pod cannot be pulled", TIMEOUT, || async {
        let members = ns.status("demo").await.members;
        let message: Vec<_> = members.iter().filter_map(|member| member.message.as_deref()).collect();
        if message.iter().any(|it| it.contains("cannot be pulled")) { Ok(()) } else { Err(format!("{message:?}")) }
    })
    .await;
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "image": { "digest": null } } })).await;
    until_version(&ns, "3.6.16").await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("images that do not fit: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}
