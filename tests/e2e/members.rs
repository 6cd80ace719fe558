//! Members come, go, are restarted and are replaced while clients write, and no write is lost.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use etcd_warden::api::{ConditionType, EtcdCluster, EtcdClusterStatus, MemberStatus, condition};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota};
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    harness::Scenario,
    tools::{kubectl, process, run, until},
    world::{Identity, PATIENCE, World},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(one_to_seven_and_back).long(),
        scenario!(two_of_five_lost).long(),
        scenario!(grown_and_shrunk),
        scenario!(claims_lost),
        scenario!(growing_taken_back),
        scenario!(restarted),
        scenario!(a_bad_template),
        scenario!(quorum_lost),
    ]
}

/// One member becomes three, five, three and one again.
async fn grown_and_shrunk(world: Arc<World>) {
    through(&world, &[1, 3, 5, 3, 1]).await;
}

/// One edit, six members more; another, and they are gone.
async fn one_to_seven_and_back(world: Arc<World>) {
    through(&world, &[1, 7, 1]).await;
}

/// Takes a cluster from one number of members to the next.
async fn through(world: &World, numbers: &[i32]) {
    let user = world.cluster_and_user("demo", numbers[0].unsigned_abs(), json!({})).await;
    let id = world.status("demo").await.cluster_id;
    let writers = Writers::start(&user).await;
    for pair in numbers.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let began = Instant::now();
        scale(world, to).await;
        let status = world.until_ready("demo").await;
        world.measure(format!("{from} -> {to} members in {:.1} s", began.elapsed().as_secs_f32()));
        assert_eq!(status.members.iter().map(|member| member.name.clone()).collect::<Vec<_>>(), names(to));
        assert_eq!((status.replicas, status.cluster_id.as_ref()), (to, id.as_ref()));
        voters(&user, to.unsigned_abs() as usize).await;
        let claims = world.kubectl(["get", "pvc", "-o", "name"]).await.success();
        let wanted: Vec<_> = names(to).iter().map(|name| format!("persistentvolumeclaim/data-{name}")).collect();
        assert_eq!(claims.lines().collect::<Vec<_>>(), wanted);
    }
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("{numbers:?} members: {figures}"));
    figures.nothing_is_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    world.is_never_told("demo", "QuorumLost").await;
}

async fn scale(world: &World, to: i32) {
    world.kubectl(["scale", "etcd", "demo", &format!("--replicas={to}")]).await.success();
}

fn names(count: i32) -> Vec<String> {
    (0..count).map(|ordinal| format!("demo-{ordinal}")).collect()
}

/// Every member is restarted once, the leader last.
async fn restarted(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let mut led = None;
    // On a machine that is slow etcd may elect one that has been restarted, and then nobody leads who is the last.
    for wish in ["first", "second", "third"] {
        restart(&world, wish).await;
        led = gave_up(&world).await;
        if led.is_some() {
            break;
        }
    }
    let led = led.expect("leadership is moved");
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap().items;
    let made: Vec<_> = pods.iter().map(|pod| (pod.name_any(), pod.creation_timestamp())).collect();
    let last = made.iter().find(|(pod, _)| *pod == format!("{led}-0")).unwrap();
    assert!(made.iter().all(|(_, at)| *at <= last.1), "{led} led: {made:?}");
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("restart: {figures}"));
    figures.nothing_is_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    world.is_never_told("demo", "MemberDown").await;
}

/// Has every member restarted.
async fn restart(world: &World, wish: &str) {
    let before = incarnations(world).await;
    let began = Instant::now();
    world.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": wish } } })).await;
    until("every pod is another one", PATIENCE, || async {
        let now = incarnations(world).await;
        if now.is_disjoint(&before) && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    world.until_ready("demo").await;
    world.measure(format!("three members restarted in {:.1} s", began.elapsed().as_secs_f32()));
}

/// The first member that led and had leadership moved to another one.
async fn gave_up(world: &World) -> Option<String> {
    let events = world.events("demo").await;
    let (_, note) = events.into_iter().find(|(reason, _)| reason == "LeaderMoved")?;
    let (led, _) = note.strip_prefix("moved leadership from ").unwrap().split_once(" to ").unwrap();
    Some(led.to_owned())
}

/// A restart with a template of which no pod can be started stops at the first member, even if the cluster is made smaller
/// meanwhile. Taken back, it goes on by itself.
async fn a_bad_template(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    let before = incarnations(&world).await;
    let writers = Writers::start(&user).await;
    let repository = world.get::<EtcdCluster>("demo").await.unwrap().spec.image.repository;
    let image = |repository: &str| json!({ "spec": { "image": { "repository": repository } } });
    let restart = async |at: Option<&str>| {
        let annotations = json!({ "etcd-warden.dev/restarted-at": at });
        world.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": annotations } })).await;
    };
    let no_image = async || {
        until("the first pod finds no image", PATIENCE, || async {
            let members = world.status("demo").await.members;
            let message: Vec<_> = members.iter().filter_map(|member| member.message.as_deref()).collect();
            if message.iter().any(|it| it.contains("cannot be pulled")) { Ok(()) } else { Err(format!("{message:?}")) }
        })
        .await;
    };
    world.patch::<EtcdCluster>("demo", image("registry.invalid/etcd")).await;
    until("the template is another one", PATIENCE, || async {
        let sets = world.kubectl(["get", "statefulset", "-o", "yaml"]).await.success();
        let changed = sets.matches("image: registry.invalid/etcd").count();
        if changed == 3 { Ok(()) } else { Err(format!("{changed} of 3")) }
    })
    .await;
    world.until_ready("demo").await;
    assert_eq!(incarnations(&world).await, before, "by itself a new template restarts nobody");
    restart(Some("now")).await;
    no_image().await;
    assert_eq!(incarnations(&world).await.intersection(&before).count(), 2, "the others are not restarted");
    world.patch::<EtcdCluster>("demo", image(&repository)).await;
    restart(None).await;
    world.until_ready("demo").await;
    voters(&user, 3).await;

    let before = incarnations(&world).await;
    world.patch::<EtcdCluster>("demo", image("registry.invalid/etcd")).await;
    restart(Some("later")).await;
    no_image().await;
    scale(&world, 1).await;
    let says = world.until_condition("demo", "Degraded", "True", "CannotScaleDown", PATIENCE).await;
    world.measure(format!("a bad template: {says}"));
    assert_eq!(incarnations(&world).await.intersection(&before).count(), 2, "the others are not restarted");
    // The restart of the only member that remains would be an outage.
    restart(None).await;
    world.patch::<EtcdCluster>("demo", image(&repository)).await;
    world.until_ready("demo").await;
    voters(&user, 1).await;
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("a bad template, and back: {figures}"));
    figures.nothing_is_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// The claim of a follower is lost, then that of the leader. Each is replaced under its name by a new member.
async fn claims_lost(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    for role in ["Follower", "Leader"] {
        let status = world.status("demo").await;
        let member = status.members.into_iter().find(|member| member.role.as_deref() == Some(role)).unwrap();
        let began = Instant::now();
        lose(&world, &member.name).await;
        until_replaced(&world, &[member]).await;
        world.measure(format!("the claim of the {role} lost: as wanted after {:.1} s", began.elapsed().as_secs_f32()));
        voters(&user, 3).await;
    }
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("two members replaced: {figures}"));
    figures.nothing_is_lost();
}

/// Two of five members are killed, the leader among them, and come back. Then their disks are lost at the same time: both are
/// removed, and others come in their places one after the other.
async fn two_of_five_lost(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 5, json!({})).await;
    let writers = Writers::start(&user).await;
    let status = world.status("demo").await;
    let (leaders, others): (Vec<_>, Vec<_>) =
        status.members.into_iter().partition(|member| member.role.as_deref() == Some("Leader"));
    let two: Vec<_> = leaders.into_iter().chain(others).take(2).collect();
    let names: Vec<_> = two.iter().map(|member| member.name.as_str()).collect();
    kill_processes(&world, &names).await;
    let back = world.until_ready("demo").await;
    assert_eq!(back.members.iter().filter(|member| two.iter().any(|of| of.id == member.id)).count(), 2);

    let began = Instant::now();
    for member in &two {
        lose(&world, &member.name).await;
    }
    until_replaced(&world, &two).await;
    world.measure(format!("two of five disks lost: as wanted after {:.1} s", began.elapsed().as_secs_f32()));
    voters(&user, 5).await;
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("two of five killed, then lost: {figures}"));
    figures.nothing_is_lost();
}

/// Growing is undone by shrinking back, where it can't get on and in its middle.
async fn growing_taken_back(world: Arc<World>) {
    // A class of which volumes can be had at first and then no more.
    let class = |provisioner: &str| {
        format!(
            "{{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {{name: {}}}, provisioner: {provisioner}, \
             volumeBindingMode: WaitForFirstConsumer}}",
            world.namespace
        )
    };
    let remove_class = async || kubectl(["delete", "storageclass", &world.namespace]).await.success();
    world.apply(&class("rancher.io/local-path")).await.success();
    let user = world.cluster_and_user("demo", 3, json!({ "storage": { "storageClassName": world.namespace } })).await;
    let before = world.status("demo").await;
    let writers = Writers::start(&user).await;
    remove_class().await;
    world.apply(&class("kubernetes.io/no-provisioner")).await.success();
    scale(&world, 5).await;
    let says = until("the status says what is awaited", PATIENCE, || async {
        let status = world.status("demo").await;
        let progressing = condition(&status.conditions, ConditionType::Progressing).cloned().ok_or("nothing")?;
        let wait = "PersistentVolumeClaim data-demo-3 is Pending";
        if progressing.message.contains(wait) { Ok(progressing.message) } else { Err(progressing.message) }
    })
    .await;
    world.measure(format!("a volume that binds never: {says}"));
    let shown = world.kubectl(["get", "etcd", "demo"]).await.success();
    world.measure(format!("kubectl get etcd: {}", shown.lines().last().unwrap_or_default()));
    assert!(shown.contains("3/5") && shown.contains("Joining"), "{shown}");
    remove_class().await;
    scale(&world, 3).await;
    assert_eq!(world.until_ready("demo").await.members.len(), 3);
    voters(&user, 3).await;

    // A claim that is refused.
    let quota = json!({ "hard": { "persistentvolumeclaims": "3" } });
    world.try_create::<ResourceQuota>("three", quota).await.unwrap();
    scale(&world, 4).await;
    let says = world.until_condition("demo", "Degraded", "True", "KubernetesRefused", PATIENCE).await;
    assert!(says.contains("exceeded quota: three"), "{says}");
    scale(&world, 3).await;
    assert_eq!(world.until_ready("demo").await.members.len(), 3);
    world.delete::<ResourceQuota>("three").await;

    world.apply(&class("rancher.io/local-path")).await.success();
    scale(&world, 5).await;
    until("the fourth member is added", PATIENCE, || async {
        let list = user.etcdctl(["member", "list"]).await.result()?;
        if list.lines().count() == 4 { Ok(()) } else { Err(list) }
    })
    .await;
    scale(&world, 3).await;
    let after = world.until_ready("demo").await;
    remove_class().await;
    voters(&user, 3).await;
    let id = |status: &EtcdClusterStatus| status.members.iter().map(|member| member.id).collect::<Vec<_>>();
    assert_eq!(id(&after), id(&before));
    let claims = world.kubectl(["get", "pvc", "-o", "name"]).await.success();
    assert_eq!(claims.lines().count(), 3, "{claims}");
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("3 -> 5 taken back three times: {figures}"));
    figures.nothing_is_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// Without quorum nothing is guessed at: neither a number nor a wish changes anything, and the status says why.
async fn quorum_lost(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    user.etcdctl(["put", "before", "kept"]).await.success();
    lose(&world, "demo-1").await;
    lose(&world, "demo-2").await;
    let says = world.until_condition("demo", "Available", "False", "QuorumLost", PATIENCE).await;
    world.measure(format!("quorum lost: {says}"));
    let before = world.status("demo").await;
    let kept = world.get::<PersistentVolumeClaim>("data-demo-0").await.unwrap().uid();
    world.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/replace": "demo-1" } } })).await;
    for to in [5, 1] {
        scale(&world, to).await;
        until("the status is about the new number", PATIENCE, || async {
            let cluster = world.get::<EtcdCluster>("demo").await.unwrap();
            let status = cluster.status.unwrap();
            let seen = status.observed_generation == cluster.metadata.generation;
            let waits = condition(&status.conditions, ConditionType::Degraded).is_some_and(|c| c.status == "True");
            if seen && waits { Ok(()) } else { Err(format!("{:?}", status.conditions)) }
        })
        .await;
    }
    let now = world.status("demo").await;
    world.until_condition("demo", "Available", "False", "QuorumLost", PATIENCE).await;
    let members =
        |status: &EtcdClusterStatus| status.members.iter().map(|member| (member.name.clone(), member.id)).collect::<Vec<_>>();
    assert_eq!((members(&now), now.cluster_id), (members(&before), before.cluster_id));
    let claims = world.kubectl(["get", "pvc", "-o", "name"]).await.success();
    assert_eq!(claims, "persistentvolumeclaim/data-demo-0\n");
    assert_eq!(world.get::<PersistentVolumeClaim>("data-demo-0").await.unwrap().uid(), kept);
    let sets = world.kubectl(["get", "statefulset", "-o", "name"]).await.success();
    assert_eq!(sets.lines().count(), 3, "{sets}");
}

/// Deletes a member's claim and ends its pod, so that the volume goes.
async fn lose(world: &World, member: &str) {
    world.delete::<PersistentVolumeClaim>(&format!("data-{member}")).await;
    world.kill(&format!("{member}-0")).await;
}

/// Waits until other members have the names of these, and all is well.
async fn until_replaced(world: &World, lost: &[MemberStatus]) {
    until("other members have their names", 2 * PATIENCE, || async {
        let status = world.ready("demo").await?;
        let same = status.members.iter().find(|now| lost.iter().any(|of| of.id == now.id));
        same.map_or(Ok(()), |same| Err(format!("{same:?}")))
    })
    .await;
}

/// Kills the processes of members, and waits until their containers have been started again.
pub async fn kill_processes(world: &World, members: &[&str]) {
    let pods: Vec<_> = members.iter().map(|member| format!("{member}-0")).collect();
    let before = join_all(pods.iter().map(|pod| world.incarnation(pod))).await;
    for pod in &pods {
        let uid = world.get::<Pod>(pod).await.unwrap().uid().unwrap();
        run("kill", ["-9", &process("etcd", &uid)]).await.success();
    }
    until("their containers are others", PATIENCE, || async {
        let now = join_all(pods.iter().map(|pod| world.incarnation(pod))).await;
        let same = before.iter().zip(&now).any(|(before, now)| before == now);
        if same { Err(format!("{now:?}")) } else { Ok(()) }
    })
    .await;
}

/// What tells the pods from those that came before them.
pub async fn incarnations(world: &World) -> BTreeSet<String> {
    let pods = world.api::<Pod>().list(&ListParams::default()).await.unwrap();
    pods.into_iter().filter_map(|pod| pod.uid()).collect()
}

/// etcd itself has so many voters, and no learner.
pub async fn voters(user: &Identity, count: usize) {
    let list = user.etcdctl(["member", "list"]).await.success();
    assert_eq!(list.lines().filter(|line| line.ends_with("false") && line.contains("started")).count(), count, "{list}");
    assert_eq!(list.lines().count(), count, "{list}");
}
