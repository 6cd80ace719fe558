//! Members are added, removed, restarted and replaced while clients write, and no write is lost.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use etcd_warden::api::{ConditionType, EtcdCluster, EtcdClusterStatus, MemberRole, MemberStatus, condition};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    harness::Scenario,
    history::Histories,
    namespace::{Identity, TIMEOUT, TestNamespace},
    tools::{kubectl, process, run, until},
    watcher::Watchers,
    writer::{Writers, fill},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(one_to_seven_and_back).long(),
        scenario!(two_of_five_lost).long(),
        scenario!(scaled_up_and_down),
        scenario!(scaled_up_while_nobody_writes),
        scenario!(claims_lost),
        scenario!(scale_up_reverted),
        scenario!(restarted),
        scenario!(invalid_pod_template),
        scenario!(quorum_lost),
    ]
}

/// The cluster is scaled from one member to three, five, three and one.
async fn scaled_up_and_down(ns: Arc<TestNamespace>) {
    through(&ns, &[1, 3, 5, 3, 1]).await;
}

/// New members of a cluster with a long log are sent a snapshot, and those of etcd 3.6 then wait for the next entry of the log. It
/// would come with the next compaction, after five minutes.
async fn scaled_up_while_nobody_writes(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    // etcd makes a snapshot after 10,000 entries, and keeps 5,000 of those before it.
    fill(&user, 12_000).await;
    let began = Instant::now();
    scale(&ns, 3).await;
    ns.until_ready("demo").await;
    ns.measure(format!("1 -> 3 members in {:.1} s while nobody writes", began.elapsed().as_secs_f32()));
    voters(&user, 3).await;
}

/// Six members are added by one change of the spec, and removed by another one.
async fn one_to_seven_and_back(ns: Arc<TestNamespace>) {
    through(&ns, &[1, 7, 1]).await;
}

/// Scales a cluster through these numbers of members.
async fn through(ns: &TestNamespace, numbers: &[i32]) {
    let user = ns.cluster_and_user("demo", numbers[0].unsigned_abs(), json!({})).await;
    let id = ns.status("demo").await.cluster_id;
    let writers = Writers::start(&user).await;
    for pair in numbers.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let began = Instant::now();
        scale(ns, to).await;
        ns.kubectl(["wait", "--for=condition=Ready", "--timeout=150s", "etcd/demo"]).await.success();
        assert_eq!(ns.status("demo").await.ready_replicas, to, "Ready is not True before all members are healthy");
        let status = ns.until_ready("demo").await;
        ns.measure(format!("{from} -> {to} members in {:.1} s", began.elapsed().as_secs_f32()));
        assert_eq!(status.members.iter().map(|member| member.name.clone()).collect::<Vec<_>>(), names(to));
        assert_eq!((status.replicas, status.cluster_id.as_ref()), (to, id.as_ref()));
        voters(&user, to.unsigned_abs() as usize).await;
        let claims = ns.kubectl(["get", "pvc", "-o", "name"]).await.success();
        let expected: Vec<_> = names(to).iter().map(|name| format!("persistentvolumeclaim/data-{name}")).collect();
        assert_eq!(claims.lines().collect::<Vec<_>>(), expected);
    }
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("{numbers:?} members: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    ns.has_no_event("demo", "QuorumLost").await;
}

async fn scale(ns: &TestNamespace, to: i32) {
    ns.kubectl(["scale", "etcd", "demo", &format!("--replicas={to}")]).await.success();
}

fn names(count: i32) -> Vec<String> {
    (0..count).map(|ordinal| format!("demo-{ordinal}")).collect()
}

/// Every member is restarted once, the leader last.
async fn restarted(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    // While clients watch, etcd takes 7 s to stop.
    let watchers = Watchers::start(&user, &ns.member_endpoints(3)).await;
    let writers = Writers::start(&user).await;
    let histories = Histories::start(&user).await;
    let mut led = None;
    // On a slow machine etcd may elect a member that has already been restarted; then leadership is not moved, and the restart is
    // repeated.
    for request in ["first", "second", "third"] {
        restart(&ns, request).await;
        led = former_leader(&ns).await;
        if led.is_some() {
            break;
        }
    }
    let led = led.expect("leadership is moved");
    let pods = ns.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let made: Vec<_> = pods.iter().map(|pod| (pod.name_any(), pod.creation_timestamp())).collect();
    let last = made.iter().find(|(pod, _)| *pod == format!("{led}-0")).unwrap();
    assert!(made.iter().all(|(_, at)| *at <= last.1), "{led} led: {made:?}");
    let history = histories.stop(&ns).await;
    let figures = writers.stop().await.checked(&user).await;
    let seen = watchers.stop(&figures).await;
    ns.measure(format!("restart: {figures}; {seen}; {history}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    ns.has_no_event("demo", "MemberDown").await;
    let events = ns.events("demo").await;
    let closed = events.iter().filter(|(reason, _)| reason == "MemberRestarted").count();
    assert!(closed >= 3, "each restart has a closing event: {events:?}");
}

/// Restarts every member.
pub async fn restart(ns: &TestNamespace, request: &str) {
    let before = incarnations(ns).await;
    let began = Instant::now();
    ns.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": request } } })).await;
    until("every pod is replaced", TIMEOUT, || async {
        let now = incarnations(ns).await;
        if now.is_disjoint(&before) && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    ns.measure(format!("three members restarted in {:.1} s", began.elapsed().as_secs_f32()));
}

/// The member from which leadership was first moved.
async fn former_leader(ns: &TestNamespace) -> Option<String> {
    let events = ns.events("demo").await;
    let (_, note) = events.into_iter().find(|(reason, _)| reason == "LeaderMoved")?;
    let (led, _) = note.strip_prefix("moved leadership from ").unwrap().split_once(" to ").unwrap();
    Some(led.to_owned())
}

/// A change of the spec with which no member starts stops at the first member, even if the cluster is scaled down meanwhile. Taking it
/// back mends that member.
async fn invalid_pod_template(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let before = incarnations(&ns).await;
    let writers = Writers::start(&user).await;
    let repository = ns.get::<EtcdCluster>("demo").await.unwrap().spec.image.repository;
    let image = |repository: &str| json!({ "spec": { "image": { "repository": repository } } });
    let no_image = async || {
        until("the image of the first pod cannot be pulled", TIMEOUT, || async {
            let members = ns.status("demo").await.members;
            let message: Vec<_> = members.iter().filter_map(|member| member.message.as_deref()).collect();
            if message.iter().any(|it| it.contains("cannot be pulled")) { Ok(()) } else { Err(format!("{message:?}")) }
        })
        .await;
    };
    ns.patch::<EtcdCluster>("demo", image("registry.invalid/etcd")).await;
    no_image().await;
    assert_eq!(incarnations(&ns).await.intersection(&before).count(), 2, "the others are not restarted");
    ns.patch::<EtcdCluster>("demo", image(&repository)).await;
    ns.until_ready("demo").await;
    assert_eq!(incarnations(&ns).await.intersection(&before).count(), 2, "the others are not restarted");
    voters(&user, 3).await;

    let before = incarnations(&ns).await;
    ns.patch::<EtcdCluster>("demo", image("registry.invalid/etcd")).await;
    no_image().await;
    scale(&ns, 1).await;
    let message = ns.until_condition("demo", "Degraded", "True", "CannotScaleDown", TIMEOUT).await;
    ns.measure(format!("an invalid pod template: {message}"));
    assert_eq!(incarnations(&ns).await.intersection(&before).count(), 2, "the others are not restarted");
    ns.patch::<EtcdCluster>("demo", image(&repository)).await;
    ns.until_ready("demo").await;
    voters(&user, 1).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("an invalid pod template, corrected: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// The PersistentVolumeClaim of a follower is lost, then that of the leader. Each member is replaced by a new one of its name.
async fn claims_lost(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let histories = Histories::start(&user).await;
    for role in [MemberRole::Follower, MemberRole::Leader] {
        let status = ns.status("demo").await;
        let member = status.members.into_iter().find(|member| member.role == Some(role)).unwrap();
        let began = Instant::now();
        lose(&ns, &member.name).await;
        until_replaced(&ns, &[member]).await;
        ns.measure(format!("the claim of the {role:?} lost: ready after {:.1} s", began.elapsed().as_secs_f32()));
        voters(&user, 3).await;
    }
    let history = histories.stop(&ns).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("two members replaced: {figures}; {history}"));
    figures.assert_nothing_lost();
}

/// Two of five members, among them the leader, are killed and restart. Then their volumes are lost at the same time: both members
/// are removed, and new ones are added one after the other.
async fn two_of_five_lost(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 5, json!({})).await;
    let writers = Writers::start(&user).await;
    let status = ns.status("demo").await;
    let (leaders, others): (Vec<_>, Vec<_>) =
        status.members.into_iter().partition(|member| member.role == Some(MemberRole::Leader));
    let two: Vec<_> = leaders.into_iter().chain(others).take(2).collect();
    let names: Vec<_> = two.iter().map(|member| member.name.as_str()).collect();
    kill_processes(&ns, &names).await;
    let back = ns.until_ready("demo").await;
    assert_eq!(back.members.iter().filter(|member| two.iter().any(|of| of.id == member.id)).count(), 2);

    let began = Instant::now();
    for member in &two {
        lose(&ns, &member.name).await;
    }
    until_replaced(&ns, &two).await;
    ns.measure(format!("two of five disks lost: ready after {:.1} s", began.elapsed().as_secs_f32()));
    voters(&user, 5).await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("two of five killed, then lost: {figures}"));
    figures.assert_nothing_lost();
}

/// Scaling up is reverted when it cannot continue, and when it is in progress.
async fn scale_up_reverted(ns: Arc<TestNamespace>) {
    // A StorageClass that provides volumes only at first.
    let class = |provisioner: &str| {
        json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": ns.name },
            "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
        })
        .to_string()
    };
    let remove_class = async || kubectl(["delete", "storageclass", &ns.name]).await.success();
    ns.apply(&class("rancher.io/local-path")).await.success();
    let user = ns.cluster_and_user("demo", 3, json!({ "storage": { "storageClassName": ns.name } })).await;
    let before = ns.status("demo").await;
    let writers = Writers::start(&user).await;
    remove_class().await;
    ns.apply(&class("kubernetes.io/no-provisioner")).await.success();
    scale(&ns, 5).await;
    let message = until("the status says what is pending", TIMEOUT, || async {
        let status = ns.status("demo").await;
        let progressing = condition(&status.conditions, ConditionType::Progressing).cloned().ok_or("nothing")?;
        let wait = "PersistentVolumeClaim data-demo-3 is Pending";
        if progressing.message.contains(wait) { Ok(progressing.message) } else { Err(progressing.message) }
    })
    .await;
    ns.measure(format!("a volume that is never bound: {message}"));
    let shown = ns.kubectl(["get", "etcd", "demo"]).await.success();
    ns.measure(format!("kubectl get etcd: {}", shown.lines().last().unwrap_or_default()));
    assert!(shown.contains("3/5") && shown.contains("Joining"), "{shown}");
    remove_class().await;
    scale(&ns, 3).await;
    assert_eq!(ns.until_ready("demo").await.members.len(), 3);
    voters(&user, 3).await;

    // A PersistentVolumeClaim that the API server refuses.
    let quota = json!({ "hard": { "persistentvolumeclaims": "3" } });
    ns.try_create::<ResourceQuota>("three", quota).await.unwrap();
    scale(&ns, 4).await;
    let message = ns.until_condition("demo", "Degraded", "True", "KubernetesRefused", TIMEOUT).await;
    assert!(message.contains("exceeded quota: three"), "{message}");
    scale(&ns, 3).await;
    assert_eq!(ns.until_ready("demo").await.members.len(), 3);
    ns.delete::<ResourceQuota>("three").await;

    ns.apply(&class("rancher.io/local-path")).await.success();
    scale(&ns, 5).await;
    until("the fourth member is added", TIMEOUT, || async {
        let list = user.etcdctl(["member", "list"]).await.result()?;
        if list.lines().count() == 4 { Ok(()) } else { Err(list) }
    })
    .await;
    scale(&ns, 3).await;
    let after = ns.until_ready("demo").await;
    remove_class().await;
    voters(&user, 3).await;
    let id = |status: &EtcdClusterStatus| status.members.iter().map(|member| member.id).collect::<Vec<_>>();
    assert_eq!(id(&after), id(&before));
    let claims = ns.kubectl(["get", "pvc", "-o", "name"]).await.success();
    assert_eq!(claims.lines().count(), 3, "{claims}");
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("3 -> 5 reverted three times: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// Without quorum neither a change of `replicas` nor a request to replace a member has an effect, and the status says why.
async fn quorum_lost(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    user.etcdctl(["put", "before", "kept"]).await.success();
    lose(&ns, "demo-1").await;
    lose(&ns, "demo-2").await;
    let message = ns.until_condition("demo", "Available", "False", "QuorumLost", TIMEOUT).await;
    ns.measure(format!("quorum lost: {message}"));
    let before = ns.status("demo").await;
    let kept = ns.get::<PersistentVolumeClaim>("data-demo-0").await.unwrap().uid();
    ns.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/replace": "demo-1" } } })).await;
    for to in [5, 1] {
        scale(&ns, to).await;
        until("the status is about the new number", TIMEOUT, || async {
            let cluster = ns.get::<EtcdCluster>("demo").await.unwrap();
            let status = cluster.status.unwrap();
            let seen = status.observed_generation == cluster.metadata.generation;
            let waits = condition(&status.conditions, ConditionType::Degraded).is_some_and(|c| c.status == "True");
            if seen && waits { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }
    let now = ns.status("demo").await;
    ns.until_condition("demo", "Available", "False", "QuorumLost", TIMEOUT).await;
    let members =
        |status: &EtcdClusterStatus| status.members.iter().map(|member| (member.name.clone(), member.id)).collect::<Vec<_>>();
    assert_eq!((members(&now), now.cluster_id), (members(&before), before.cluster_id));
    let claims = ns.kubectl(["get", "pvc", "-o", "name"]).await.success();
    assert_eq!(claims, "persistentvolumeclaim/data-demo-0\n");
    assert_eq!(ns.get::<PersistentVolumeClaim>("data-demo-0").await.unwrap().uid(), kept);
    let sets = ns.kubectl(["get", "statefulset", "-o", "name"]).await.success();
    assert_eq!(sets.lines().count(), 3, "{sets}");
}

/// Deletes a member's PersistentVolumeClaim and its pod, so that the volume is deleted.
async fn lose(ns: &TestNamespace, member: &str) {
    ns.delete::<PersistentVolumeClaim>(&format!("data-{member}")).await;
    ns.kill(&format!("{member}-0")).await;
}

/// Waits until these members are replaced and the cluster is ready.
async fn until_replaced(ns: &TestNamespace, lost: &[MemberStatus]) {
    until("other members have their names", 2 * TIMEOUT, || async {
        let status = ns.ready("demo").await?;
        let same = status.members.iter().find(|now| lost.iter().any(|of| of.id == now.id));
        same.map_or(Ok(()), |same| Err(format!("{same:?}")))
    })
    .await;
}

/// Kills the processes of members, and waits until their containers are restarted.
pub async fn kill_processes(ns: &TestNamespace, members: &[&str]) {
    let pods: Vec<_> = members.iter().map(|member| format!("{member}-0")).collect();
    let before = join_all(pods.iter().map(|pod| ns.incarnation(pod))).await;
    for pod in &pods {
        let uid = ns.get::<Pod>(pod).await.unwrap().uid().unwrap();
        run("kill", ["-9", &process("etcd", &uid)]).await.success();
    }
    until("their containers are restarted", TIMEOUT, || async {
        let now = join_all(pods.iter().map(|pod| ns.incarnation(pod))).await;
        let same = before.iter().zip(&now).any(|(before, now)| before == now);
        if same { Err(format!("{now:?}")) } else { Ok(()) }
    })
    .await;
}

/// The uids of all pods.
pub async fn incarnations(ns: &TestNamespace) -> BTreeSet<String> {
    let pods = ns.api::<Pod>().list(&ListParams::default()).await.unwrap();
    pods.into_iter().filter_map(|pod| pod.uid()).collect()
}

/// Checks that etcd has this number of voters and no learner.
pub async fn voters(user: &Identity, count: usize) {
    let list = user.etcdctl(["member", "list"]).await.success();
    assert_eq!(list.lines().filter(|line| line.ends_with("false") && line.contains("started")).count(), count, "{list}");
    assert_eq!(list.lines().count(), count, "{list}");
}
