//! Quorum is lost permanently: the status says which data is left, and the cluster is recovered from one member.

use std::{process::Command, sync::Arc, time::Instant};

use etcd_warden::api::EtcdCluster;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    harness::Scenario,
    members::kill_processes,
    namespace::{Identity, TIMEOUT, TestNamespace},
    operator,
    tools::{process, until},
    writer::{Writers, key},
};

pub fn scenarios() -> Vec<Scenario> {
    // The operator is killed during the recovery.
    vec![scenario!(quorum_lost_and_recovered).alone(), scenario!(hanging_member_is_discarded)]
}

const RECOVER: &str = "etcd-warden.dev/recover-from";

/// Two of three volumes are lost permanently. Nothing happens until the user names the survivor. Then the cluster is recovered
/// from it and scaled up to three members, with the same IDs and data.
async fn quorum_lost_and_recovered(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let before = ns.status("demo").await;
    let writers = Writers::start(&user).await;
    until_much_is_written(&user).await;

    // While there is a quorum, a recovery is refused.
    request(&ns, Some("demo-0")).await;
    until_request_removed(&ns).await;
    request(&ns, None).await;
    ns.until_condition("demo", "Degraded", "False", "Healthy", TIMEOUT).await;

    // The PersistentVolumeClaims of two members are lost.
    let began = Instant::now();
    for claim in ["data-demo-1", "data-demo-2"] {
        ns.delete::<PersistentVolumeClaim>(claim).await;
    }
    futures::future::join_all(["demo-1-0", "demo-2-0"].map(|pod| ns.kill(pod))).await;
    let lost = until("the status says what is lost", TIMEOUT, || async {
        let message = ns.until_condition("demo", "Available", "False", "QuorumLost", TIMEOUT).await;
        let all = [
            "demo-1 has no data (PersistentVolumeClaim data-demo-1 is missing)",
            "data-demo-2 is missing",
            "demo-0 has data up to",
        ];
        if all.iter().all(|words| message.contains(words)) { Ok(message) } else { Err(message) }
    })
    .await;
    ns.measure(format!("a lost quorum is fully reported after {:.1} s: {lost}", began.elapsed().as_secs_f32()));
    assert!(lost.starts_with("quorum has been lost since 20"), "{lost}");
    assert!(lost.contains("1 of 3 members have data: that is no quorum"), "{lost}");
    assert!(
        lost.contains(&format!("`kubectl -n {} annotate etcd demo {RECOVER}=demo-0`", ns.name)),
        "the message contains the command: {lost}"
    );
    let status = ns.status("demo").await;
    assert!(status.members[0].progress.as_ref().is_some_and(|progress| progress.starts_with("revision ")), "{status:?}");
    let figures = writers.stop().await;

    for (value, why) in [
        ("demo-7", "demo-7 is not a member with data"),
        ("demo-1", "demo-1 is not a member with data"),
        ("everyone", "everyone is not a member with data"),
    ] {
        request(&ns, Some(value)).await;
        refused(&ns, why).await;
    }
    let pods = ns.api::<Pod>().list(&ListParams::default()).await.unwrap();
    assert!(pods.iter().any(|pod| pod.name_any() == "demo-1-0"), "no member was stopped");

    let began = Instant::now();
    request(&ns, None).await;
    ns.kubectl(["annotate", "etcd", "demo", &format!("{RECOVER}=demo-0")]).await.success();
    // The operator is killed while the survivor starts alone, and the survivor is restarted.
    until("the survivor starts alone", TIMEOUT, || async {
        let pod = ns.kubectl(["get", "pod", "demo-0-0", "-o", "yaml"]).await.result()?;
        if pod.contains("force-new-cluster") && pod.contains("startedAt") { Ok(()) } else { Err(pod) }
    })
    .await;
    operator::kill(&ns).await;
    // The operator may already have ended this phase.
    let is_forced =
        |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && format!("{:?}", pod.spec).contains("--force-new-cluster");
    if ns.get::<Pod>("demo-0-0").await.as_ref().is_some_and(is_forced) {
        kill_processes(&ns, &["demo-0"]).await;
        until("it has started alone again", TIMEOUT, || async {
            let pod = ns.get::<Pod>("demo-0-0").await.unwrap().status.unwrap_or_default();
            let restarts: i32 = pod.container_statuses.iter().flatten().map(|status| status.restart_count).sum();
            let is = |kind: &str| pod.conditions.iter().flatten().any(|it| it.type_ == kind && it.status == "True");
            assert!(!is("Ready"), "the Service would route clients to it, whose writes could be lost");
            if restarts > 0 && is("ContainersReady") { Ok(()) } else { Err(format!("{pod:?}")) }
        })
        .await;
        ns.measure("the survivor was started with the flag twice, and no client was routed to it".to_owned());
    }
    operator::scale(2).await;
    let status = ns.until_ready("demo").await;
    ns.measure(format!("recovered and scaled up to 3 in {:.1} s", began.elapsed().as_secs_f32()));
    assert_eq!(status.cluster_id, before.cluster_id);
    assert_eq!(status.members[0].id, before.members[0].id, "it is the survivor");
    assert!(status.members[1..].iter().all(|member| before.members.iter().all(|old| old.id != member.id)), "{status:?}");
    let cluster = ns.get::<EtcdCluster>("demo").await.unwrap();
    assert!(!cluster.annotations().contains_key(RECOVER), "the request is removed");
    let pods = ns.kubectl(["get", "pods", "-o", "yaml"]).await.success();
    assert!(!pods.contains("force-new-cluster"), "no pod has the flag any more");
    until("events are published", TIMEOUT, || async {
        let events = ns.events("demo").await;
        let has = |reason: &str| events.iter().any(|(of, _)| of == reason);
        if ["RecoveryRefused", "PodRestarted", "QuorumLost"].into_iter().all(has) { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .await;

    let figures = figures.checked(&user).await;
    ns.measure(format!("quorum lost: {figures}"));
    user.etcdctl(["put", "after", "it"]).await.success();

    // With a healthy cluster a forced request changes nothing.
    request(&ns, Some("demo-0,force")).await;
    until_request_removed(&ns).await;
    let again = ns.until_ready("demo").await;
    assert_eq!(again.members, status.members);
}

/// One of three volumes is lost and another member hangs: it has data, but its progress is unknown. The user forces a recovery
/// without it, and its data is never served again.
async fn hanging_member_is_discarded(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let before = ns.status("demo").await;
    let writers = Writers::start(&user).await;
    until_much_is_written(&user).await;
    ns.delete::<PersistentVolumeClaim>("data-demo-2").await;
    let uid = ns.get::<Pod>("demo-1-0").await.unwrap().uid().unwrap();
    let hangs = Command::new("kill").args(["-STOP", &process("etcd", &uid)]).status().unwrap();
    assert!(hangs.success());
    ns.kill("demo-2-0").await;
    let lost = until("the status says what is lost", TIMEOUT, || async {
        let message = ns.until_condition("demo", "Available", "False", "QuorumLost", TIMEOUT).await;
        let all = ["demo-0 has data up to revision", "demo-1 has data, but its revision is unknown", "demo-2 has no data"];
        if all.iter().all(|words| message.contains(words)) { Ok(message) } else { Err(message) }
    })
    .await;
    assert!(lost.contains("becomes available again without loss as soon as 2 of them run"), "{lost}");
    let figures = writers.stop().await;
    request(&ns, Some("demo-0")).await;
    refused(&ns, "2 of 3 members run, and are a quorum as soon as they reach each other").await;

    let began = Instant::now();
    request(&ns, Some("demo-0,force")).await;
    let message = until("the hanging member is stopped", TIMEOUT, || async {
        let message = ns.until_condition("demo", "Progressing", "True", "Recovering", TIMEOUT).await;
        if message.contains("pod demo-1-0") { Ok(message) } else { Err(message) }
    })
    .await;
    assert!(message.contains("stopping all members but demo-0"), "{message}");
    let status = ns.until_ready("demo").await;
    ns.measure(format!(
        "recovered without a hanging member in {:.1} s, of which 30 s are its grace period",
        began.elapsed().as_secs_f32()
    ));
    assert_eq!((&status.cluster_id, &status.members[0].id), (&before.cluster_id, &before.members[0].id));
    assert_ne!(status.members[1].id, before.members[1].id, "it is another member");
    let events = ns.events("demo").await;
    assert!(events.iter().any(|(reason, note)| reason == "DataDiscarded" && note.contains("the data of demo-1 ")), "{events:?}");
    let figures = figures.checked(&user).await;
    ns.measure(format!("recovered without a hanging member: {figures}"));
}

async fn until_much_is_written(user: &Identity) {
    until("enough is written", TIMEOUT, || async {
        let held = user.etcdctl(["get", &key("kept", 100), "--keys-only"]).await.result()?;
        if held.is_empty() { Err("too few writes".to_owned()) } else { Ok(()) }
    })
    .await;
}

async fn request(ns: &TestNamespace, value: Option<&str>) {
    ns.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { RECOVER: value } } })).await;
}

async fn refused(ns: &TestNamespace, why: &str) {
    until(&format!("it is refused: {why}"), TIMEOUT, || async {
        let message = ns.until_condition("demo", "Degraded", "True", "RecoveryRefused", TIMEOUT).await;
        if message.contains(why) { Ok(()) } else { Err(message) }
    })
    .await;
}

/// While there is a quorum, the request is removed and an event is published.
async fn until_request_removed(ns: &TestNamespace) {
    until("the request is removed", TIMEOUT, || async {
        let cluster = ns.get::<EtcdCluster>("demo").await.unwrap();
        let events = ns.events("demo").await;
        let is_reported = events.iter().any(|(reason, note)| reason == "RecoveryRefused" && note.contains("there is a quorum"));
        if is_reported && !cluster.annotations().contains_key(RECOVER) {
            Ok(())
        } else {
            Err(format!("{:?}", cluster.annotations()))
        }
    })
    .await;
}
