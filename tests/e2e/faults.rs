//! Clusters recover from faults, and the status reports them.

use std::{process::Command, sync::Arc, time::Instant};

use etcd_warden::api::{EtcdClusterStatus, MemberRole, MemberStatus};
use k8s_openapi::api::{
    core::v1::{PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{Api, ResourceExt, api::EvictParams};
use serde_json::json;

use crate::{
    harness::Scenario,
    members::kill_processes,
    namespace::{TIMEOUT, TestNamespace},
    tools::{process, until},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(drained_while_a_member_is_down),
        scenario!(all_pods_killed),
        scenario!(processes_killed),
        scenario!(claim_lost),
        scenario!(member_that_hangs),
    ]
}

const PODS: [&str; 3] = ["demo-0-0", "demo-1-0", "demo-2-0"];

/// All members are killed at once, twice, while clients write. The cluster is the same, and no acknowledged write is lost.
async fn all_pods_killed(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let id = ns.status("demo").await.cluster_id;
    let writers = Writers::start(&user).await;
    for round in ["first", "second"] {
        user.etcdctl(["put", round, "kept"]).await.success();
        let began = Instant::now();
        futures::future::join_all(PODS.map(|pod| ns.kill(pod))).await;
        until("the status reports the failure", TIMEOUT, || async {
            let status = ns.status("demo").await;
            if status.ready.as_deref() == Some("3/3") { Err("the status says 3/3".to_owned()) } else { Ok(()) }
        })
        .await;
        ns.until_condition("demo", "Available", "False", "QuorumLost", TIMEOUT).await;
        ns.until_ready("demo").await;
        ns.measure(format!("all members killed ({round}): ready after {:.1} s", began.elapsed().as_secs_f32()));
        for written in ["first", "second"].into_iter().take_while(|written| *written <= round) {
            assert_eq!(user.etcdctl(["get", written, "--print-value-only"]).await.success(), "kept\n");
        }
    }
    assert_eq!(ns.status("demo").await.cluster_id, id);
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("all members killed twice: {figures}"));
    figures.assert_nothing_lost();
}

/// The process of the leader is killed, and then all at once. No acknowledged write is lost.
async fn processes_killed(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    for count in [1, 3] {
        let mut members = ns.until_ready("demo").await.members;
        members.sort_by_key(|member| member.role != Some(MemberRole::Leader));
        let killed: Vec<_> = members.iter().take(count).map(|member| member.name.as_str()).collect();
        let began = Instant::now();
        kill_processes(&ns, &killed).await;
        let now = ns.until_ready("demo").await;
        ns.measure(format!("{count} of 3 processes killed: ready after {:.1} s", began.elapsed().as_secs_f32()));
        let same = |member: &MemberStatus| now.members.iter().any(|now| now.id == member.id);
        assert!(members.iter().all(same), "{members:?} and now {now:?}");
    }
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("the leader killed, then all: {figures}"));
    figures.assert_nothing_lost();
}

/// Draining nodes evicts every pod as soon as Kubernetes allows it. While a member is down, no other one can be evicted.
async fn drained_while_a_member_is_down(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let uid = async |pod: &str| ns.get::<Pod>(pod).await.unwrap().uid().unwrap();
    let counted = async |healthy: i32| {
        until(&format!("the budget counts {healthy}"), TIMEOUT, || async {
            let status = ns.get::<PodDisruptionBudget>("demo").await.and_then(|budget| budget.status).unwrap();
            if status.current_healthy == Some(healthy) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    };
    counted(3).await;
    let stopped = Stopped::new(process("etcd", &uid("demo-2-0").await));
    counted(2).await;
    let before = [uid("demo-0-0").await, uid("demo-1-0").await];
    // Only a few times: after a minute and a half the kubelet restarts the hanging member.
    for _ in 0..3 {
        for pod in &PODS[..2] {
            let refused = evict(&ns, pod).await.unwrap_err();
            assert!(refused.contains("disruption budget"), "{pod}: {refused}");
        }
        // The Service may still route to the hanging member.
        let put = || async { user.etcdctl(["put", "while", "one is down", "--command-timeout=5s"]).await.result() };
        until("a write succeeds", TIMEOUT, put).await;
    }
    assert_eq!([uid("demo-0-0").await, uid("demo-1-0").await], before);
    drop(stopped);
    ns.until_ready("demo").await;

    // When all members are healthy, each can be evicted in turn, and never two at once.
    for pod in PODS {
        until("the eviction is allowed", TIMEOUT, || evict(&ns, pod)).await;
    }
    ns.until_ready("demo").await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("a drain, at first with one member down: {figures}"));
    figures.assert_nothing_lost();
}

/// Evicts a pod as `kubectl drain` does. Returns the refusal.
async fn evict(ns: &TestNamespace, pod: &str) -> Result<(), String> {
    // A client that retries would hide the refusal.
    let mut config = kube::Config::infer().await.unwrap();
    config.default_retry = false;
    let pods: Api<Pod> = Api::namespaced(kube::Client::try_from(config).unwrap(), &ns.name);
    pods.evict(pod, &EvictParams::default()).await.map(drop).map_err(|e| e.to_string())
}

/// A killed member restarts with its data. A member whose PersistentVolumeClaim is being deleted continues, and this is reported.
/// Once its data is lost, it is replaced by a new member, and never restarted without data.
async fn claim_lost(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let began = Instant::now();
    ns.kill("demo-2-0").await;
    let status = until_status(&ns, "a member was killed", |status| status.ready.as_deref() != Some("3/3")).await;
    ns.measure(format!("a killed member is in the status after {:.1} s", began.elapsed().as_secs_f32()));
    assert!(status.members[2].message.is_some(), "{:?}", status.members[2]);
    let status = ns.until_ready("demo").await;

    user.etcdctl(["put", "before", "kept"]).await.success();
    // The claim is only marked for deletion while a pod uses it.
    ns.delete::<PersistentVolumeClaim>("data-demo-1").await;
    let began = Instant::now();
    let message = ns.until_condition("demo", "Degraded", "True", "ClaimLost", TIMEOUT).await;
    assert!(message.contains("PersistentVolumeClaim data-demo-1 is being deleted"), "{message}");
    ns.measure(format!("a claim that is being deleted is in the status after {:.1} s", began.elapsed().as_secs_f32()));
    ns.kill("demo-1-0").await;
    let now = ns.until_ready("demo").await;
    assert_ne!(now.members[1].id, status.members[1].id, "it is another member");
    assert_eq!((&now.members[0].id, &now.members[2].id), (&status.members[0].id, &status.members[2].id));
    user.etcdctl(["put", "after", "kept"]).await.success();
    assert_eq!(user.etcdctl(["get", "before", "--print-value-only"]).await.success(), "kept\n");
}

/// A suspended process does not answer, but its pod is still ready for some time. The status reports the failure earlier.
async fn member_that_hangs(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    // A follower is chosen, so that no election interferes.
    let status = ns.status("demo").await;
    let follower = status.members.iter().find(|member| member.role == Some(MemberRole::Follower)).unwrap().name.clone();
    let uid = ns.get::<Pod>(&format!("{follower}-0")).await.unwrap().uid().unwrap();
    let process = process("etcd", &uid);
    let began = Instant::now();
    let stopped = Stopped::new(process);
    let status = until_status(&ns, "a member hangs", |status| status.ready.as_deref() == Some("2/3")).await;
    let took = began.elapsed();
    ns.measure(format!("a hanging member is in the status after {:.1} s", took.as_secs_f32()));
    let sick = status.members.iter().find(|member| member.name == follower).unwrap();
    ns.measure(format!("its message: {}", sick.message.as_deref().unwrap_or_default()));
    // While the pod is ready, the Service may route a client to it, and at the next attempt to another one.
    until("a put succeeds", TIMEOUT, || async {
        user.etcdctl(["put", "while", "it hangs", "--command-timeout=2s"]).await.result()
    })
    .await;
    ns.until_condition("demo", "Available", "True", "", TIMEOUT).await;
    ns.until_condition("demo", "Degraded", "True", "MemberDown", TIMEOUT).await;
    drop(stopped);
    ns.until_ready("demo").await;
    assert!(took.as_secs() < 30, "{took:?}");
}

/// Waits until the status meets a condition.
async fn until_status(ns: &TestNamespace, what: &str, is: impl Fn(&EtcdClusterStatus) -> bool) -> EtcdClusterStatus {
    until(&format!("the status reports that {what}"), TIMEOUT, || async {
        let status = ns.status("demo").await;
        if is(&status) { Ok(status) } else { Err(format!("{:?} {:?}", status.ready, status.members)) }
    })
    .await
}

/// A process that is suspended until this is dropped.
struct Stopped(String);

impl Stopped {
    fn new(process: String) -> Self {
        assert!(Self::signal("-STOP", &process));
        Self(process)
    }
    fn signal(signal: &str, process: &str) -> bool {
        Command::new("kill").args([signal, process]).status().unwrap().success()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Kubernetes may have ended the process.
        Self::signal("-CONT", &self.0);
    }
}
