//! Users change etcd's members by hand, or wish for what can't be. It is told, and nothing of theirs is undone.

use std::sync::Arc;

use etcd_warden::api::{ConditionType, EtcdCluster, condition};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::json;

use crate::{
    harness::Scenario,
    members::voters,
    tools::until,
    world::{PATIENCE, World},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(members_changed_by_hand), scenario!(wishes_that_cannot_be), scenario!(claims_changed_by_hand)]
}

/// A learner and a voter that somebody added and never started are reported and stay; a member that somebody removed is replaced.
async fn members_changed_by_hand(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    for added in [["--learner=true", "https://192.0.2.1:2380"], ["--learner=false", "https://192.0.2.2:2380"]] {
        let [learner, url] = added;
        until("etcd adds it", PATIENCE, || async {
            user.etcdctl(["member", "add", "mine", learner, &format!("--peer-urls={url}")]).await.result()
        })
        .await;
        let says = world.until_condition("demo", "Degraded", "True", "UnknownMember", PATIENCE).await;
        assert!(says.contains(url) && says.contains("never started"), "{says}");
        world.kubectl(["scale", "etcd", "demo", "--replicas=4"]).await.success();
        // It would be in the way of growing, and says so.
        let says = until_says(&world, ConditionType::Degraded, "the operator did not add").await;
        world.measure(format!("{url} added by hand: {says}"));
        let list = user.etcdctl(["member", "list"]).await.success();
        assert_eq!(list.lines().count(), 4, "{list}");
        world.kubectl(["scale", "etcd", "demo", "--replicas=3"]).await.success();
        // By whoever added it, or in the end by the operator.
        if learner == "--learner=true" {
            let stranger = list.lines().find(|line| line.contains(url)).and_then(|line| line.split(',').next()).unwrap();
            user.etcdctl(["member", "remove", stranger]).await.success();
        } else {
            world.patch::<EtcdCluster>("demo", json!({ "spec": { "repair": { "unstarted": "10s" } } })).await;
        }
        world.until_ready("demo").await;
        voters(&user, 3).await;
    }
    let events = world.events("demo").await;
    assert_eq!(events.iter().filter(|(reason, _)| reason == "UnstartedMemberRemoved").count(), 1, "{events:?}");

    let before = world.status("demo").await;
    let removed = before.members.iter().find(|member| member.role.as_deref() == Some("Follower")).unwrap();
    user.etcdctl(["member", "remove", &removed.id.unwrap().to_string()]).await.success();
    until("another member has its name", PATIENCE, || async {
        let status = world.ready("demo").await?;
        let same = status.members.iter().any(|member| member.id == removed.id);
        if same { Err("it is the same".to_owned()) } else { Ok(()) }
    })
    .await;
    voters(&user, 3).await;
    let figures = writers.stop().await.checked(&user).await;
    world.measure(format!("members changed by hand: {figures}"));
    figures.nothing_is_lost();
}

/// No members at all, and another one in place of a member that is none.
async fn wishes_that_cannot_be(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 1, json!({})).await;
    for none in [["scale", "etcd", "demo", "--replicas=0"], ["scale", "etcd", "demo", "--replicas=10"]] {
        let refused = world.kubectl(none).await.failure();
        assert!(refused.contains("must be 1 to 9"), "{refused}");
    }
    let wish = async |member: Option<&str>| {
        let annotations = json!({ "etcd-warden.dev/replace": member });
        world.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": annotations } })).await;
    };
    for nobody in ["demo-7", "demo", "demo-0-0", ""] {
        wish(Some(nobody)).await;
        let says = until_says(&world, ConditionType::Degraded, &format!("names {nobody}, which is not a member")).await;
        world.until_condition("demo", "Degraded", "True", "MemberNotFound", PATIENCE).await;
        world.measure(format!("replace {nobody:?}: {says}"));
    }
    // Nor one without which there would be none.
    let before = world.status("demo").await.members;
    wish(Some("demo-0")).await;
    let says = world.until_condition("demo", "Degraded", "True", "CannotReplace", PATIENCE).await;
    world.measure(format!("replace the only member: {says}"));
    wish(None).await;
    let after = world.until_ready("demo").await.members;
    assert_eq!(after[0].id, before[0].id);
    voters(&user, 1).await;
}

/// What is written on a claim is taken off, then another member's ID is written on it. Then the claim of the only member is deleted
/// while its pod cannot start: what mends that must not take the data.
async fn claims_changed_by_hand(world: Arc<World>) {
    let user = world.cluster_and_user("demo", 1, json!({})).await;
    user.etcdctl(["put", "before", "kept"]).await.success();
    let written = async || world.get::<PersistentVolumeClaim>("data-demo-0").await.unwrap().annotations().clone();
    let before = written().await;
    let is_mended = async || {
        until("it is written down again", PATIENCE, || async {
            let now = written().await;
            let same = |key: &str| now.get(key) == before.get(key);
            let all = ["etcd-warden.dev/cluster-uid", "etcd-warden.dev/cluster-id", "etcd-warden.dev/member-id"];
            if all.into_iter().all(same) { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    };
    let edited = json!({ "metadata": { "annotations": { "etcd-warden.dev/member-id": "bad" } } });
    world.patch::<PersistentVolumeClaim>("data-demo-0", edited).await;
    is_mended().await;

    let ours = before.keys().filter(|key| key.starts_with("etcd-warden.dev/"));
    let nothing: serde_json::Map<_, _> = ours.map(|key| (key.clone(), serde_json::Value::Null)).collect();
    let stripped = json!({ "metadata": { "annotations": nothing, "ownerReferences": null } });
    world.patch::<PersistentVolumeClaim>("data-demo-0", stripped).await;
    let says = world.until_condition("demo", "Degraded", "True", "AnnotationsLost", PATIENCE).await;
    world.measure(format!("a claim without annotations: {says}"));
    let command = says.split('`').nth(1).unwrap().to_owned();
    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    crate::tools::run("kubectl", &arguments).await.success();
    is_mended().await;
    world.until_ready("demo").await;

    let image = |repository: &str| json!({ "spec": { "image": { "repository": repository } } });
    world.patch::<EtcdCluster>("demo", image("example.invalid/etcd")).await;
    world.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { "etcd-warden.dev/restarted-at": "now" } } })).await;
    until_says(&world, ConditionType::Progressing, "cannot be pulled").await;
    let pod = world.incarnation("demo-0-0").await;
    world.kubectl(["delete", "pvc", "data-demo-0", "--wait=false"]).await.success();
    world.until_condition("demo", "Degraded", "True", "ClaimLost", PATIENCE).await;
    world.patch::<EtcdCluster>("demo", image("gcr.io/etcd-development/etcd")).await;
    until("the status is about the mended spec", PATIENCE, || async {
        let cluster = world.get::<EtcdCluster>("demo").await.unwrap();
        let set = world.get::<StatefulSet>("demo-0").await.unwrap();
        let seen = cluster.status.unwrap().observed_generation == cluster.metadata.generation;
        let applied = set.status.is_some_and(|status| status.observed_generation == set.metadata.generation);
        if seen && applied { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert_eq!(world.incarnation("demo-0-0").await, pod);
    assert!(world.get::<PersistentVolumeClaim>("data-demo-0").await.is_some(), "its data is still there");
}

/// Waits until the message of a condition contains something.
async fn until_says(world: &World, kind: ConditionType, words: &str) -> String {
    until(&format!("{kind} says {words}"), PATIENCE, || async {
        let conditions = world.status("demo").await.conditions;
        let message = condition(&conditions, kind).map(|condition| condition.message.clone()).unwrap_or_default();
        if message.contains(words) { Ok(message) } else { Err(message) }
    })
    .await
}
