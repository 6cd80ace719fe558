//! Members come, go, are restarted and are replaced while clients write, and no write is lost.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use etcd_warden::api::EtcdCluster;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use serde_json::json;

use crate::{
    harness::Scenario,
    tools::until,
    world::{Identity, PATIENCE, World},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(grown_and_shrunk), scenario!(restarted), scenario!(claims_lost)]
}

/// One member becomes three, five, three and one again.
async fn grown_and_shrunk(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 1, json!({})).await;
    let id = world.status("demo").await.cluster_id;
    let writers = Writers::start(&user).await;
    let mut from = 1;
    for to in [3, 5, 3, 1] {
        let began = Instant::now();
        world.kubectl(["scale", "etcd", "demo", &format!("--replicas={to}")]).await.success();
        let status = world.until_ready("demo").await;
        world.measure(format!("{from} -> {to} members in {:.1} s", began.elapsed().as_secs_f32()));
        let names: Vec<_> = status.members.iter().map(|member| member.name.clone()).collect();
        assert_eq!(names, (0..to).map(|ordinal| format!("demo-{ordinal}")).collect::<Vec<_>>());
        assert_eq!((status.replicas, status.cluster_id.as_ref()), (to, id.as_ref()));
        voters(&user, usize::try_from(to).unwrap()).await;
        from = to;
    }
    let figures = writers.stop().await;
    world.measure(format!("1 -> 3 -> 5 -> 3 -> 1: {figures}"));
    figures.nothing_is_lost(&user).await;
    assert_eq!(figures.failed, 0, "{figures}");
    let claims = world.kubectl(["get", "pvc", "-o", "name"]).await.success();
    assert_eq!(claims, "persistentvolumeclaim/data-demo-0\n");
}

/// Every member is restarted once, the leader last.
async fn restarted(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    let before = incarnations(&world).await;
    let writers = Writers::start(&user).await;
    let began = Instant::now();
    world.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } })).await;
    until("every pod is another one", PATIENCE, || async {
        let now = incarnations(&world).await;
        if now.is_disjoint(&before) && now.len() == 3 { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    world.until_ready("demo").await;
    world.measure(format!("three members restarted in {:.1} s", began.elapsed().as_secs_f32()));
    let figures = writers.stop().await;
    world.measure(format!("restart: {figures}"));
    figures.nothing_is_lost(&user).await;
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
        world.delete::<PersistentVolumeClaim>(&format!("data-{}", member.name)).await;
        world.kill(&format!("{}-0", member.name)).await;
        until("another member has its name", PATIENCE, || async {
            let status = world.status("demo").await;
            let now = status.members.into_iter().find(|other| other.name == member.name).ok_or("it is gone")?;
            if now.id != member.id && now.ready { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
        world.until_ready("demo").await;
        world.measure(format!("the claim of the {role} lost: as wanted after {:.1} s", began.elapsed().as_secs_f32()));
        voters(&user, 3).await;
    }
    let figures = writers.stop().await;
    world.measure(format!("two members replaced: {figures}"));
    figures.nothing_is_lost(&user).await;
}

/// What tells the pods from those that came before them.
pub async fn incarnations(world: &World) -> BTreeSet<String> {
    let pods = world.api::<Pod>().list(&kube::api::ListParams::default()).await.unwrap();
    pods.into_iter().filter_map(|pod| pod.uid()).collect()
}

/// etcd itself has so many voters, and no learner.
pub async fn voters(user: &Identity, count: usize) {
    let list = user.etcdctl(["member", "list"]).await.success();
    assert_eq!(list.lines().filter(|line| line.ends_with("false") && line.contains("started")).count(), count, "{list}");
    assert_eq!(list.lines().count(), count, "{list}");
}
