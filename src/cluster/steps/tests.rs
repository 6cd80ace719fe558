//! Each step against what may have changed since it was planned.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetStatus},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::*;
use crate::{
    certificates::transition::{Change, Transition},
    cluster::{
        fixtures::{CLUSTER_ID, World, names},
        objects,
    },
    etcd,
    ids::{ClusterId, MemberId, Uid},
    names::{MemberName, annotation as key},
    pki::{Domain, Holder},
};

/// A cluster, and what a fresh read of it gives.
type Read = (Arc<ValidatedCluster>, Fresh);

/// A world, its cluster, and what a fresh read of all of it gives.
fn fresh(world: &mut World) -> Read {
    world.plan();
    let observed = &world.observed;
    let with = |of: &MemberName| observed.members[of].etcd.status().map(|status| (of.clone(), status.clone()));
    let answers: BTreeMap<_, _> = observed.members.keys().filter_map(with).collect();
    let lists = answers.keys().filter_map(|name| Some((name.clone(), observed.list.clone().ok()?)));
    let fresh = Fresh {
        pods: observed.members.iter().filter_map(|(name, m)| Some((name.clone(), m.pod.clone()?))).collect(),
        lists: lists.collect(),
        answers,
        list: observed.list.clone().ok(),
        ..Fresh::default()
    };
    (world.valid(), fresh)
}

fn why(step: &Step, (cluster, fresh): &Read) -> String {
    step.recheck(cluster, Some(CLUSTER_ID), fresh).map_or_else(|error| error.to_string(), |_| "right".into())
}

fn annotate(world: &mut World, key: &str, value: &str) {
    world.cluster.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
}

fn restart(world: &mut World, ordinal: u32) -> Step {
    let pod_uid = Uid::of(&world.pod(ordinal).metadata).unwrap();
    RestartMember { member: names().member(ordinal), pod_uid }.into()
}

#[test]
fn a_healthy_voter_is_removed_only_if_that_is_desired_and_all_others_are_healthy() {
    let mut world = World::bootstrapped("replicas: 3");
    let step = |world: &World, ordinal| Step::from(RemoveMember { member: names().member(ordinal), id: world.id(ordinal) });
    assert_eq!(why(&step(&world, 2), &fresh(&mut world)), "demo-2 is healthy");
    world.cluster.spec.replicas = 2;
    assert_eq!(why(&step(&world, 2), &fresh(&mut world)), "right");
    let leader = world.leader;
    world.leader = world.id(2);
    assert_eq!(why(&step(&world, 2), &fresh(&mut world)), "demo-2 leads");
    world.leader = leader;
    let wrong = Step::from(RemoveMember { member: names().member(2), id: MemberId(7) });
    assert_eq!(why(&wrong, &fresh(&mut world)), "demo-2 is not the member 7");
    world.silent.insert(names().member(1));
    assert_eq!(why(&step(&world, 2), &fresh(&mut world)), "only 1 of the 2 others are healthy");
    assert_eq!(why(&step(&world, 1), &fresh(&mut world)), "right");
    world.silent.insert(names().member(0));
    assert_eq!(why(&step(&world, 1), &fresh(&mut world)), "no quorum gives a member list");
}

#[test]
fn a_restart_waits_for_the_others() {
    let mut world = World::bootstrapped("replicas: 3");
    annotate(&mut world, key::RESTARTED_AT, "now");
    let (leader, follower) = (restart(&mut world, 0), restart(&mut world, 1));
    world.leader = world.id(0);
    assert_eq!(why(&follower, &fresh(&mut world)), "right");
    assert_eq!(why(&leader, &fresh(&mut world)), "demo-0 leads");
    world.silent.insert(names().member(2));
    assert_eq!(why(&follower, &fresh(&mut world)), "only 1 of the 2 others are healthy");
    let sick = restart(&mut world, 2);
    assert_eq!(why(&sick, &fresh(&mut world)), "right");
    let other = Step::from(RestartMember { member: names().member(2), pod_uid: "another".into() });
    assert_eq!(why(&other, &fresh(&mut world)), "the pod of demo-2 is another one");
    world.cluster.metadata.annotations = None;
    assert_eq!(why(&sick, &fresh(&mut world)), "demo-2 has been restarted");
}

#[test]
fn no_member_is_restarted_while_the_pod_of_another_is_deleted() {
    let mut world = World::bootstrapped("replicas: 3");
    annotate(&mut world, key::RESTARTED_AT, "now");
    world.leader = world.id(0);
    let step = restart(&mut world, 1);
    let (cluster, mut fresh) = fresh(&mut world);
    assert_eq!(why(&step, &(cluster.clone(), fresh.clone())), "right");
    let pod = fresh.pods.get_mut(&names().member(2)).unwrap();
    pod.metadata.deletion_timestamp = Some(Time(world.now));
    assert_eq!(why(&step, &(cluster, fresh)), "only 1 of the 2 others are healthy");
}

#[test]
fn a_pod_that_was_never_ready_is_restarted_without_a_request() {
    let mut world = World::bootstrapped("replicas: 3");
    let step = restart(&mut world, 1);
    let (cluster, mut fresh) = fresh(&mut world);
    assert_eq!(why(&step, &(cluster.clone(), fresh.clone())), "demo-1 has been restarted");
    fresh.answers.remove(&names().member(1));
    let pod = fresh.pods.get_mut(&names().member(1)).unwrap();
    pod.status.as_mut().unwrap().conditions = None;
    assert_eq!(why(&step, &(cluster.clone(), fresh.clone())), "demo-1 has been restarted", "it was confirmed");
    let pod = fresh.pods.get_mut(&names().member(1)).unwrap();
    pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    assert_eq!(why(&step, &(cluster.clone(), fresh.clone())), "right");
    fresh.answers.remove(&names().member(2));
    assert_eq!(why(&step, &(cluster.clone(), fresh.clone())), "demo-1 has been restarted", "it may be what makes them a quorum");
    fresh.list = None;
    assert_eq!(why(&step, &(cluster, fresh)), "right");
}

#[test]
fn a_restart_does_not_take_the_only_data() {
    for (replicas, wanted) in [(1, "the claim of demo-0 goes with its pod, and the others are no quorum"), (3, "right")] {
        let mut world = World::bootstrapped(&format!("replicas: {replicas}"));
        annotate(&mut world, key::RESTARTED_AT, "now");
        if replicas > 1 {
            world.leader = world.id(1);
        }
        let step = restart(&mut world, 0);
        let (cluster, mut fresh) = fresh(&mut world);
        let going = Time(world.now);
        fresh.claim = Some(ObjectMeta { deletion_timestamp: Some(going), ..ObjectMeta::default() });
        assert_eq!(why(&step, &(cluster.clone(), fresh.clone())), wanted);
        // Nor one of a pod that cannot start, or that starts alone or has.
        let pod = fresh.pods.get_mut(&names().member(0)).unwrap();
        let forced = objects::forced(objects::stateful_set(&cluster, &names().member(0), ""));
        (pod.spec, fresh.list) = (forced.spec.template.spec, None);
        let set = objects::stateful_set(&cluster, &names().member(0), "");
        fresh.sets.insert(names().member(0), StatefulSet { status: Some(StatefulSetStatus::default()), ..set }.into());
        let unless_doomed = |fresh: &Fresh| why(&step, &(cluster.clone(), Fresh { claim: None, ..fresh.clone() }));
        let doomed = "the claim of demo-0 goes with its pod, and the others are no quorum";
        assert_eq!((why(&step, &(cluster.clone(), fresh.clone())).as_str(), unless_doomed(&fresh).as_str()), (doomed, "right"));
        let pod = fresh.pods.get_mut(&names().member(0)).unwrap();
        let unscheduled = serde_json::json!({ "conditions": [{ "type": "PodScheduled", "status": "False" }] });
        (pod.spec, pod.status) = (None, serde_json::from_value(unscheduled).unwrap());
        fresh.sets.clear();
        assert_eq!((why(&step, &(cluster.clone(), fresh.clone())).as_str(), unless_doomed(&fresh).as_str()), (doomed, "right"));
    }
}

#[test]
fn a_learner_is_added_only_if_there_is_none_and_all_are_healthy() {
    let mut world = World::bootstrapped("replicas: 3");
    let step = Step::from(AddLearner { member: names().member(3) });
    assert_eq!(why(&step, &fresh(&mut world)), "there are 3 voters");
    world.cluster.spec.replicas = 4;
    let (cluster, mut read) = fresh(&mut world);
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "right");
    read.claim = Some(ObjectMeta::default());
    let found = why(&step, &(cluster, read));
    assert_eq!(found, "PersistentVolumeClaim data-demo-3 cannot be used: it exists before demo-3 was added");
    let again = Step::from(AddLearner { member: names().member(2) });
    assert_eq!(why(&again, &fresh(&mut world)), "demo-2 is a member");
    world.silent.insert(names().member(2));
    assert_eq!(why(&step, &fresh(&mut world)), "only 2 of 3 voters are healthy");
    world.silent.clear();
    world.etcd[1].is_learner = true;
    assert_eq!(why(&step, &fresh(&mut world)), "there is a learner");
}

#[test]
fn no_member_is_added_while_another_starts_or_would_start_alone() {
    let mut world = World::bootstrapped("replicas: 1");
    world.cluster.spec.replicas = 3;
    let step = Step::from(AddLearner { member: names().member(1) });
    let (cluster, read) = fresh(&mut world);
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "right");
    let forced = objects::forced(objects::stateful_set(&cluster, &names().member(0), ""));
    let mut pod = read.clone();
    pod.pods.get_mut(&names().member(0)).unwrap().spec.clone_from(&forced.spec.template.spec);
    assert_eq!(why(&step, &(cluster.clone(), pod)), "a member starts as a cluster of one");
    let mut template = read;
    template.sets.insert(names().member(0), forced.into());
    assert_eq!(why(&step, &(cluster, template)), "a member starts as a cluster of one");
}

#[test]
fn data_is_discarded_only_if_nothing_can_use_it() {
    let mut world = World::bootstrapped("replicas: 3");
    let step = Step::from(DiscardData { survivor: names().member(0), claims: vec![(names().member(1), "uid".into())] });
    let (cluster, mut read) = fresh(&mut world);
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "there is a quorum");
    read.list = None;
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "demo-1 is not stopped", "it has a pod");
    read.pods.remove(&names().member(1));
    read.sets.insert(names().member(1), objects::stateful_set(&cluster, &names().member(1), "").into());
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "demo-1 is not stopped", "it gets one");
    read.sets.clear();
    assert_eq!(why(&step, &(cluster, read)), "right");
}

#[test]
fn an_unknown_member_is_removed_only_if_it_never_started_and_is_not_needed() {
    let mut world = World::bootstrapped("replicas: 3");
    let (cluster, mut read) = fresh(&mut world);
    let step = Step::from(RemoveUnstarted { id: MemberId(7) });
    let list = read.list.as_mut().unwrap();
    let peer_urls = vec!["https://192.0.2.1:2380".into()];
    list.members.push(etcd::Member { id: MemberId(7), name: String::new(), peer_urls, is_learner: false });
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "right");
    read.list.as_mut().unwrap().members[3].name = "started".into();
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "7 has started, or is no member");
    read.list.as_mut().unwrap().members[3].name.clear();
    read.answers.remove(&names().member(0));
    assert_eq!(why(&step, &(cluster.clone(), read.clone())), "right");
    read.answers.remove(&names().member(1));
    assert_eq!(why(&step, &(cluster, read)), "only 1 of the 3 others are healthy");
}

#[test]
fn only_a_learner_that_answers_is_promoted() {
    let mut world = World::bootstrapped("replicas: 3");
    let step = Step::from(Promote { member: names().member(2), id: world.id(2) });
    assert_eq!(why(&step, &fresh(&mut world)), format!("demo-2 is not the learner {}", world.id(2)));
    world.etcd[2].is_learner = true;
    assert_eq!(why(&step, &fresh(&mut world)), "right");
    world.silent.insert(names().member(2));
    assert_eq!(why(&step, &fresh(&mut world)), "demo-2 does not answer");
}

#[test]
fn leadership_moves_from_the_leader_to_a_healthy_voter() {
    let mut world = World::bootstrapped("replicas: 3");
    world.leader = world.id(0);
    let step = |world: &World, from: u32, to: u32| {
        let (member, successor) = (names().member(from), names().member(to));
        Step::from(MoveLeader { member, from: world.id(from), successor, to: world.id(to) })
    };
    assert_eq!(why(&step(&world, 0, 1), &fresh(&mut world)), "right");
    assert_eq!(why(&step(&world, 1, 2), &fresh(&mut world)), "demo-1 does not lead");
    world.silent.insert(names().member(1));
    assert_eq!(why(&step(&world, 0, 1), &fresh(&mut world)), "the next leader is not healthy");
}

#[test]
fn objects_are_deleted_only_if_etcd_does_not_list_their_member() {
    let mut world = World::bootstrapped("replicas: 3");
    let claim = |ordinal| Step::from(DeleteClaim { member: names().member(ordinal), uid: Uid::default() });
    let set = |ordinal| Step::from(DeleteStatefulSet { member: names().member(ordinal), uid: Uid::default() });
    assert_eq!(why(&claim(2), &fresh(&mut world)), "demo-2 is a member");
    assert_eq!(why(&set(2), &fresh(&mut world)), "demo-2 is a member");
    assert_eq!(why(&claim(3), &fresh(&mut world)), "right");
    let (cluster, mut read) = fresh(&mut world);
    read.pods.insert(names().member(3), Pod::default().into());
    assert_eq!(why(&claim(3), &(cluster.clone(), read.clone())), "demo-3 has a pod, which may write to it");
    read.list.as_mut().unwrap().cluster_id = ClusterId(0xbad);
    assert_eq!(why(&set(3), &(cluster, read)), "no quorum gives a member list");
    assert_eq!(why(&Step::from(DeleteBudget { uid: Uid::default() }), &fresh(&mut world)), "there are 3 voters now");
}

#[test]
fn only_certificates_of_holders_that_are_gone_are_revoked() {
    let mut world = World::bootstrapped("replicas: 3");
    let member = |ordinal: u32| Holder::Member { name: names().member(ordinal).to_string() };
    let user = |uid: &str| Holder::User { name: "app".into(), uid: uid.into() };
    let holders = vec![member(2), member(3), user("old"), user("new"), Holder::Operator];
    let (cluster, mut read) = fresh(&mut world);
    read.users.insert("new".into());
    let step = Step::from(Revoke { domain: Domain::Client, holders });
    let of = |list: Vec<Holder>| Ok(Step::from(Revoke { domain: Domain::Client, holders: list }));
    assert_eq!(step.recheck(&cluster, Some(CLUSTER_ID), &read), of(vec![member(3), user("old")]));
    read.list = None;
    assert_eq!(step.recheck(&cluster, Some(CLUSTER_ID), &read), of(vec![user("old")]));
}

/// A new member would take the ID of the removed one from a voter that lags.
#[test]
fn no_member_is_added_before_every_voter_knows_that_the_last_one_of_its_name_was_removed() {
    let mut world = World::bootstrapped("replicas: 3");
    let before = fresh(&mut world).1.list.unwrap();
    world.lose(2);
    let is_over =
        |world: &World| world.taken.iter().any(|taken| taken == "DeleteClaim demo-2" || taken == "DeleteStatefulSet demo-2");
    for _ in 0..20 {
        if !is_over(&world) {
            world.pass();
        }
    }
    let step = Step::from(AddLearner { member: names().member(2) });
    let (cluster, fresh) = fresh(&mut world);
    let behind = |list: Option<etcd::MemberList>| {
        let mut fresh = fresh.clone();
        fresh.lists.remove(&names().member(1));
        fresh.lists.extend(list.map(|list| (names().member(1), list)));
        why(&step, &(cluster.clone(), fresh))
    };
    assert_eq!(behind(fresh.list.clone()), "right");
    assert_eq!(behind(Some(before)), "demo-1 still lists demo-2");
    assert_eq!(behind(None), "demo-1 may lag: it gives no member list");
}

/// A member that presents what it signs would be trusted by no member that was created without it.
#[test]
fn no_authority_signs_that_a_pod_was_created_without() {
    let mut world = World::bootstrapped("replicas: 3");
    annotate(&mut world, key::ROTATE_CA, "peer");
    let transition = (0..200).find_map(|_| match world.changes().step {
        Some(Step::ChangeAuthorities(step)) if matches!(step.0.change, Change::Switch { .. }) => Some(*step.0),
        _ => {
            world.pass();
            None
        }
    });
    let transition = transition.unwrap();
    let next = transition.seen.clone().unwrap()[1].clone();
    let (cluster, mut fresh) = fresh(&mut world);
    let step = |transition: Transition| Step::from(ChangeAuthorities(Box::new(transition)));
    assert_eq!(why(&step(transition.clone()), &(cluster.clone(), fresh.clone())), "right");
    for bundles in ["client=a,b;peer=c,d".into(), format!("client=a,{next};peer=c,d"), String::new()] {
        let pod = fresh.pods.get_mut(&names().member(1)).unwrap();
        pod.metadata.annotations.as_mut().unwrap().insert(key::BUNDLES.into(), bundles.clone());
        let found = why(&step(transition.clone()), &(cluster.clone(), fresh.clone()));
        assert_eq!(found, "demo-1 has not started with the next peer CA", "{bundles}");
    }
    // The previous one has expired: no one trusts anyone, and waiting would not help.
    let Change::Switch { next, .. } = transition.change.clone() else { panic!("{transition:?}") };
    let immediate = Transition { change: Change::Switch { next, immediately: true }, ..transition.clone() };
    assert_eq!(why(&step(immediate), &(cluster.clone(), fresh.clone())), "right");
    // The pod of a member that has been removed is there until the next step.
    let url = names().peer_url(&names().member(1));
    fresh.list.as_mut().unwrap().members.retain(|member| member.peer_urls != [url.clone()]);
    assert_eq!(why(&step(transition), &(cluster, fresh)), "right");
}
