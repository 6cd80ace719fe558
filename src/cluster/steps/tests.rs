//! The recheck of each step against changes since it was planned.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetStatus},
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};

use super::*;
use crate::{
    certificates::transition::{Change, Transition},
    cluster::{
        fixtures::{CLUSTER_ID, Fixture, names},
        objects,
    },
    etcd,
    ids::{ClusterId, MemberId, Uid},
    names::{MemberName, annotation as key},
    pki::{Domain, Holder},
};

/// A cluster, and the fresh reads of it.
type Read = (Arc<ValidatedCluster>, Fresh);

/// Reads everything of a fixture that a step may need.
fn fresh(fixture: &mut Fixture) -> Read {
    fixture.plan();
    let observed = &fixture.observed;
    let answer = |name: &MemberName| observed.members[name].etcd.status().map(|status| (name.clone(), status.clone()));
    let answers: BTreeMap<_, _> = observed.members.keys().filter_map(answer).collect();
    let lists = answers.keys().filter_map(|name| Some((name.clone(), observed.list.clone().ok()?)));
    let fresh = Fresh {
        pods: observed.members.iter().filter_map(|(name, m)| Some((name.clone(), m.pod.clone()?))).collect(),
        lists: lists.collect(),
        answers,
        list: observed.list.clone().ok(),
        ..Fresh::default()
    };
    (fixture.valid(), fresh)
}

/// Why the step is not taken, or `right`.
fn recheck(step: &Step, (cluster, fresh): &Read) -> String {
    step.recheck(cluster, Some(CLUSTER_ID), fresh).map_or_else(|error| error.to_string(), |_| "right".into())
}

fn annotate(fixture: &mut Fixture, key: &str, value: &str) {
    fixture.cluster.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
}

fn restart(fixture: &mut Fixture, ordinal: u32) -> Step {
    let pod_uid = Uid::of(&fixture.pod(ordinal).metadata).unwrap();
    RestartMember { member: names().member(ordinal), pod_uid }.into()
}

#[test]
fn a_healthy_voter_is_removed_only_if_that_is_desired_and_all_others_are_healthy() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let step = |fixture: &Fixture, ordinal| Step::from(RemoveMember { member: names().member(ordinal), id: fixture.id(ordinal) });
    assert_eq!(recheck(&step(&fixture, 2), &fresh(&mut fixture)), "demo-2 is healthy");
    fixture.cluster.spec.replicas = 2;
    assert_eq!(recheck(&step(&fixture, 2), &fresh(&mut fixture)), "right");
    let leader = fixture.leader;
    fixture.leader = fixture.id(2);
    assert_eq!(recheck(&step(&fixture, 2), &fresh(&mut fixture)), "demo-2 is the leader");
    fixture.leader = leader;
    let other_id = Step::from(RemoveMember { member: names().member(2), id: MemberId(7) });
    assert_eq!(recheck(&other_id, &fresh(&mut fixture)), "demo-2 is not the member 7");
    fixture.silent.insert(names().member(1));
    assert_eq!(recheck(&step(&fixture, 2), &fresh(&mut fixture)), "only 1 of the 2 others are healthy");
    assert_eq!(recheck(&step(&fixture, 1), &fresh(&mut fixture)), "right");
    fixture.silent.insert(names().member(0));
    assert_eq!(recheck(&step(&fixture, 1), &fresh(&mut fixture)), "no quorum confirms a member list");
}

#[test]
fn a_requested_restart_waits_until_the_others_are_healthy() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    let (leader, follower) = (restart(&mut fixture, 0), restart(&mut fixture, 1));
    fixture.leader = fixture.id(0);
    assert_eq!(recheck(&follower, &fresh(&mut fixture)), "right");
    assert_eq!(recheck(&leader, &fresh(&mut fixture)), "demo-0 is the leader");
    fixture.silent.insert(names().member(2));
    assert_eq!(recheck(&follower, &fresh(&mut fixture)), "only 1 of the 2 others are healthy");
    let unhealthy = restart(&mut fixture, 2);
    assert_eq!(recheck(&unhealthy, &fresh(&mut fixture)), "right");
    let other = Step::from(RestartMember { member: names().member(2), pod_uid: "another".into() });
    assert_eq!(recheck(&other, &fresh(&mut fixture)), "the pod of demo-2 has been replaced");
    fixture.cluster.metadata.annotations = None;
    assert_eq!(recheck(&unhealthy, &fresh(&mut fixture)), "demo-2 has been restarted");
}

#[test]
fn no_member_is_restarted_while_the_pod_of_another_is_being_deleted() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    fixture.leader = fixture.id(0);
    let step = restart(&mut fixture, 1);
    let (cluster, mut fresh) = fresh(&mut fixture);
    assert_eq!(recheck(&step, &(cluster.clone(), fresh.clone())), "right");
    let pod = fresh.pods.get_mut(&names().member(2)).unwrap();
    pod.metadata.deletion_timestamp = Some(Time(fixture.now));
    assert_eq!(recheck(&step, &(cluster, fresh)), "only 1 of the 2 others are healthy");
}

#[test]
fn a_pod_that_was_never_ready_is_restarted_without_a_request() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let step = restart(&mut fixture, 1);
    let (cluster, mut fresh) = fresh(&mut fixture);
    assert_eq!(recheck(&step, &(cluster.clone(), fresh.clone())), "demo-1 has been restarted");
    fresh.answers.remove(&names().member(1));
    let pod = fresh.pods.get_mut(&names().member(1)).unwrap();
    pod.status.as_mut().unwrap().conditions = None;
    assert_eq!(recheck(&step, &(cluster.clone(), fresh.clone())), "demo-1 has been restarted", "it was confirmed");
    let pod = fresh.pods.get_mut(&names().member(1)).unwrap();
    pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    assert_eq!(recheck(&step, &(cluster.clone(), fresh.clone())), "right");
    fresh.answers.remove(&names().member(2));
    assert_eq!(recheck(&step, &(cluster.clone(), fresh.clone())), "demo-1 has been restarted", "the quorum may need it");
    fresh.list = None;
    assert_eq!(recheck(&step, &(cluster, fresh)), "right");
}

#[test]
fn a_restart_does_not_lose_the_only_data() {
    for (replicas, expected) in
        [(1, "the PersistentVolumeClaim of demo-0 is being deleted, and the others are no quorum without its data"), (3, "right")]
    {
        let mut fixture = Fixture::bootstrapped(&format!("replicas: {replicas}"));
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        if replicas > 1 {
            fixture.leader = fixture.id(1);
        }
        let step = restart(&mut fixture, 0);
        let (cluster, mut fresh) = fresh(&mut fixture);
        let deletion = Time(fixture.now);
        fresh.claim = Some(PersistentVolumeClaim {
            metadata: ObjectMeta { deletion_timestamp: Some(deletion), ..ObjectMeta::default() },
            ..PersistentVolumeClaim::default()
        });
        assert_eq!(recheck(&step, &(cluster.clone(), fresh.clone())), expected);
        // Nor is the pod restarted if it cannot start, or if its forced start is to change.
        let pod = fresh.pods.get_mut(&names().member(0)).unwrap();
        let forced = objects::forced(objects::stateful_set(&cluster, &names().member(0), &cluster.release, ""));
        (pod.spec, fresh.list) = (forced.spec.template.spec, None);
        let set = objects::stateful_set(&cluster, &names().member(0), &cluster.release, "");
        fresh.sets.insert(names().member(0), StatefulSet { status: Some(StatefulSetStatus::default()), ..set }.into());
        let with_safe_claim = |fresh: &Fresh| recheck(&step, &(cluster.clone(), Fresh { claim: None, ..fresh.clone() }));
        let refused = "the PersistentVolumeClaim of demo-0 is being deleted, and the others are no quorum without its data";
        assert_eq!(
            (recheck(&step, &(cluster.clone(), fresh.clone())).as_str(), with_safe_claim(&fresh).as_str()),
            (refused, "right")
        );
        let pod = fresh.pods.get_mut(&names().member(0)).unwrap();
        let unscheduled = serde_json::json!({ "conditions": [{ "type": "PodScheduled", "status": "False" }] });
        (pod.spec, pod.status) = (None, serde_json::from_value(unscheduled).unwrap());
        fresh.sets.clear();
        assert_eq!(
            (recheck(&step, &(cluster.clone(), fresh.clone())).as_str(), with_safe_claim(&fresh).as_str()),
            (refused, "right")
        );
    }
}

#[test]
fn a_learner_is_added_only_if_there_is_none_and_all_voters_are_healthy() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let step = Step::from(AddLearner { member: names().member(3), replaces: false });
    assert_eq!(recheck(&step, &fresh(&mut fixture)), "there already are 3 voters");
    fixture.cluster.spec.replicas = 4;
    let (cluster, mut read) = fresh(&mut fixture);
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "right");
    read.claim = Some(PersistentVolumeClaim::default());
    let found = recheck(&step, &(cluster, read));
    assert_eq!(found, "PersistentVolumeClaim data-demo-3 cannot be used: it exists before demo-3 was added");
    let again = Step::from(AddLearner { member: names().member(2), replaces: false });
    assert_eq!(recheck(&again, &fresh(&mut fixture)), "demo-2 is a member");
    fixture.silent.insert(names().member(2));
    assert_eq!(recheck(&step, &fresh(&mut fixture)), "only 2 of 3 voters are healthy");
    fixture.silent.clear();
    fixture.etcd[1].is_learner = true;
    assert_eq!(recheck(&step, &fresh(&mut fixture)), "there already is a learner");
}

#[test]
fn no_member_is_added_while_another_starts_as_a_cluster_of_one() {
    let mut fixture = Fixture::bootstrapped("replicas: 1");
    fixture.cluster.spec.replicas = 3;
    let step = Step::from(AddLearner { member: names().member(1), replaces: false });
    let (cluster, read) = fresh(&mut fixture);
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "right");
    let forced = objects::forced(objects::stateful_set(&cluster, &names().member(0), &cluster.release, ""));
    let mut pod = read.clone();
    pod.pods.get_mut(&names().member(0)).unwrap().spec.clone_from(&forced.spec.template.spec);
    assert_eq!(recheck(&step, &(cluster.clone(), pod)), "a member starts as a cluster of one");
    let mut template = read;
    template.sets.insert(names().member(0), forced.into());
    assert_eq!(recheck(&step, &(cluster, template)), "a member starts as a cluster of one");
}

#[test]
fn data_is_discarded_only_if_nothing_can_use_it() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let step = Step::from(DiscardData { survivor: names().member(0), claims: vec![(names().member(1), "uid".into())] });
    let (cluster, mut read) = fresh(&mut fixture);
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "there is a quorum");
    read.list = None;
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "demo-1 is not stopped", "it has a pod");
    read.pods.remove(&names().member(1));
    read.sets.insert(names().member(1), objects::stateful_set(&cluster, &names().member(1), &cluster.release, "").into());
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "demo-1 is not stopped", "a pod will be created");
    read.sets.clear();
    assert_eq!(recheck(&step, &(cluster, read)), "right");
}

#[test]
fn an_unknown_member_is_removed_only_if_it_never_started_and_is_not_needed() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let (cluster, mut read) = fresh(&mut fixture);
    let step = Step::from(RemoveUnstarted { id: MemberId(7) });
    let list = read.list.as_mut().unwrap();
    let peer_urls = vec!["https://192.0.2.1:2380".into()];
    list.members.push(etcd::Member { id: MemberId(7), name: String::new(), peer_urls, is_learner: false });
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "right");
    read.list.as_mut().unwrap().members[3].name = "started".into();
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "7 has started, or is no member");
    read.list.as_mut().unwrap().members[3].name.clear();
    read.answers.remove(&names().member(0));
    assert_eq!(recheck(&step, &(cluster.clone(), read.clone())), "right");
    read.answers.remove(&names().member(1));
    assert_eq!(recheck(&step, &(cluster, read)), "only 1 of the 3 others are healthy");
}

#[test]
fn only_a_learner_that_answers_is_promoted() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let step = Step::from(Promote { member: names().member(2), id: fixture.id(2) });
    assert_eq!(recheck(&step, &fresh(&mut fixture)), format!("demo-2 is not the learner {}", fixture.id(2)));
    fixture.etcd[2].is_learner = true;
    assert_eq!(recheck(&step, &fresh(&mut fixture)), "right");
    fixture.silent.insert(names().member(2));
    assert_eq!(recheck(&step, &fresh(&mut fixture)), "demo-2 does not answer");
}

#[test]
fn leadership_moves_from_the_leader_to_a_healthy_voter() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    fixture.leader = fixture.id(0);
    let step = |fixture: &Fixture, from: u32, to: u32| {
        let (member, successor) = (names().member(from), names().member(to));
        Step::from(MoveLeader { member, from: fixture.id(from), successor, to: fixture.id(to) })
    };
    assert_eq!(recheck(&step(&fixture, 0, 1), &fresh(&mut fixture)), "right");
    assert_eq!(recheck(&step(&fixture, 1, 2), &fresh(&mut fixture)), "demo-1 is not the leader");
    fixture.silent.insert(names().member(1));
    assert_eq!(recheck(&step(&fixture, 0, 1), &fresh(&mut fixture)), "the next leader is not healthy");
}

#[test]
fn objects_are_deleted_only_if_etcd_does_not_list_their_member() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let claim = |ordinal| Step::from(DeleteClaim { member: names().member(ordinal), uid: "uid".into() });
    let set = |ordinal| Step::from(DeleteStatefulSet { member: names().member(ordinal), uid: "uid".into() });
    assert_eq!(recheck(&claim(2), &fresh(&mut fixture)), "demo-2 is a member");
    assert_eq!(recheck(&set(2), &fresh(&mut fixture)), "demo-2 is a member");
    assert_eq!(recheck(&claim(3), &fresh(&mut fixture)), "right");
    let (cluster, mut read) = fresh(&mut fixture);
    read.pods.insert(names().member(3), Pod::default().into());
    assert_eq!(recheck(&claim(3), &(cluster.clone(), read.clone())), "demo-3 has a pod, which may write to it");
    read.list.as_mut().unwrap().cluster_id = ClusterId(0xbad);
    assert_eq!(recheck(&set(3), &(cluster, read)), "no quorum confirms a member list");
    assert_eq!(recheck(&Step::from(DeleteBudget { uid: "uid".into() }), &fresh(&mut fixture)), "there are 3 voters now");
}

#[test]
fn only_certificates_of_holders_that_no_longer_exist_are_revoked() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let member = |ordinal: u32| Holder::Member { name: names().member(ordinal).to_string() };
    let user = |uid: &str| Holder::User { name: "app".into(), uid: uid.into() };
    let holders = vec![member(2), member(3), user("old"), user("new"), Holder::Operator];
    let (cluster, mut read) = fresh(&mut fixture);
    read.users.insert("new".into());
    let step = Step::from(Revoke { domain: Domain::Client, holders, pending: vec![] });
    let revoke = |list: Vec<Holder>| Ok(Step::from(Revoke { domain: Domain::Client, holders: list, pending: vec![] }));
    assert_eq!(step.recheck(&cluster, Some(CLUSTER_ID), &read), revoke(vec![member(3), user("old")]));
    read.list = None;
    assert_eq!(step.recheck(&cluster, Some(CLUSTER_ID), &read), revoke(vec![user("old")]));
}

/// Otherwise a new member could take the ID of the removed one from a voter that lags.
#[test]
fn no_member_is_added_before_every_voter_has_applied_the_removal_of_its_predecessor() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    let before = fresh(&mut fixture).1.list.unwrap();
    fixture.lose(2);
    let is_removed = |fixture: &Fixture| {
        fixture.taken.iter().any(|taken| taken == "DeleteClaim demo-2" || taken == "DeleteStatefulSet demo-2")
    };
    for _ in 0..20 {
        if !is_removed(&fixture) {
            fixture.pass();
        }
    }
    let step = Step::from(AddLearner { member: names().member(2), replaces: false });
    let (cluster, fresh) = fresh(&mut fixture);
    let with_list_of_voter = |list: Option<etcd::MemberList>| {
        let mut fresh = fresh.clone();
        fresh.lists.remove(&names().member(1));
        fresh.lists.extend(list.map(|list| (names().member(1), list)));
        recheck(&step, &(cluster.clone(), fresh))
    };
    assert_eq!(with_list_of_voter(fresh.list.clone()), "right");
    assert_eq!(with_list_of_voter(Some(before)), "demo-1 still lists demo-2");
    assert_eq!(with_list_of_voter(None), "demo-1 may not have applied the last change: it returns no member list");
}

/// Otherwise leaves that it signs would not be trusted by members whose pods were created without it.
#[test]
fn an_authority_signs_only_if_every_pod_was_created_with_it() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    annotate(&mut fixture, key::ROTATE_CA, "peer");
    let transition = (0..200).find_map(|_| match fixture.changes().step {
        Some(Step::ChangeAuthorities(step)) if matches!(step.0.change, Change::Switch { .. }) => Some(*step.0),
        _ => {
            fixture.pass();
            None
        }
    });
    let transition = transition.unwrap();
    let next = transition.seen.clone().unwrap()[1].clone();
    let (cluster, mut fresh) = fresh(&mut fixture);
    let step = |transition: Transition| Step::from(ChangeAuthorities(Box::new(transition)));
    assert_eq!(recheck(&step(transition.clone()), &(cluster.clone(), fresh.clone())), "right");
    for bundles in ["client=a,b;peer=c,d".into(), format!("client=a,{next};peer=c,d"), String::new()] {
        let pod = fresh.pods.get_mut(&names().member(1)).unwrap();
        pod.metadata.annotations.as_mut().unwrap().insert(key::BUNDLES.into(), bundles.clone());
        let found = recheck(&step(transition.clone()), &(cluster.clone(), fresh.clone()));
        assert_eq!(found, "demo-1 has not started with the next peer CA", "{bundles}");
    }
    // The previous authority has expired: no member trusts another, and waiting would not help.
    let Change::Switch { next, .. } = transition.change.clone() else { panic!("{transition:?}") };
    let immediate = Transition { change: Change::Switch { next, immediately: true }, ..transition.clone() };
    assert_eq!(recheck(&step(immediate), &(cluster.clone(), fresh.clone())), "right");
    // The pod of a removed member exists until the next step.
    let url = names().peer_url(&names().member(1));
    fresh.list.as_mut().unwrap().members.retain(|member| member.peer_urls != [url.clone()]);
    assert_eq!(recheck(&step(transition), &(cluster, fresh)), "right");
}

#[test]
fn a_running_pod_is_given_other_resources_only_if_nothing_else_differs_and_the_others_are_healthy() {
    let mut fixture = Fixture::bootstrapped("{ pod: { resources: { limits: { memory: 256Mi } } } }");
    fixture.cluster.spec.pod.resources = serde_saphyr::from_str("{ limits: { memory: 512Mi } }").unwrap();
    let sets = |fixture: &Fixture| -> BTreeMap<MemberName, _> {
        let sets = fixture.observed.members.iter().filter_map(|(name, m)| Some((name.clone(), m.stateful_set.clone()?)));
        sets.collect()
    };
    let step = |fixture: &mut Fixture, ordinal| -> Step {
        let pod_uid = Uid::of(&fixture.pod(ordinal).metadata).unwrap();
        ResizeMember { member: names().member(ordinal), pod_uid }.into()
    };
    let (first, second) = (step(&mut fixture, 1), step(&mut fixture, 2));
    let read = |fixture: &mut Fixture| {
        let (cluster, read) = fresh(fixture);
        (cluster, Fresh { sets: sets(fixture), ..read })
    };
    assert_eq!(recheck(&first, &read(&mut fixture)), "demo-1 has the resources of its template");
    // The pass writes the templates.
    fixture.loses_next_step = true;
    fixture.pass();
    assert_eq!(recheck(&first, &read(&mut fixture)), "right");
    let other = Step::from(ResizeMember { member: names().member(1), pod_uid: "another".into() });
    assert_eq!(recheck(&other, &read(&mut fixture)), "the pod of demo-1 has been replaced");
    fixture.silent.insert(names().member(2));
    assert_eq!(recheck(&first, &read(&mut fixture)), "only 1 of the 2 others are healthy");
    assert_eq!(recheck(&second, &read(&mut fixture)), "right", "less may be why it is not healthy");
    let annotations = fixture.pod(1).metadata.annotations.as_mut().unwrap();
    annotations.insert(key::RESIZING.into(), r#"{"limits":{"memory":"4Mi"}}"#.into());
    assert_eq!(recheck(&first, &read(&mut fixture)), "right", "it is given what it had");
    let mut fresh = read(&mut fixture);
    let meta = fresh.1.sets.get_mut(&names().member(1)).unwrap().spec.template.metadata.as_mut().unwrap();
    let settings = meta.annotations.as_mut().unwrap().get_mut(key::SETTINGS).unwrap();
    *settings = settings.replace("\"etcd.electionTimeout\":\"1s\"", "\"etcd.electionTimeout\":\"2s\"");
    assert_eq!(recheck(&first, &fresh), "demo-1 has to be restarted for etcd.electionTimeout 1s -> 2s, pod.resources");
}

#[test]
fn the_alarm_is_disarmed_if_every_member_of_the_cluster_has_room() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.db_size = 1000;
    let id = fixture.id(0);
    fixture.alarms.insert(id);
    let of = |quota| Step::from(DisarmAlarm { raised_by: [id].into(), quota });
    let read = fresh(&mut fixture);
    assert_eq!(recheck(&of(1060), &read), "right");
    assert!(recheck(&of(1040), &read).contains("has 1000 of 1040 bytes"));
    let other = DisarmAlarm { raised_by: [MemberId(0x98)].into(), quota: 1060 }.into();
    assert!(recheck(&other, &read).contains("the alarm is not raised"));
    // One that the operator did not add is never asked.
    let unknown =
        etcd::Member { id: MemberId(0x99), name: String::new(), peer_urls: vec!["https://other:2380".into()], is_learner: true };
    fixture.etcd.push(unknown);
    let read = fresh(&mut fixture);
    assert_eq!(recheck(&of(1060), &read), "right");
    fixture.silent.insert(names().member(1));
    let read = fresh(&mut fixture);
    assert!(recheck(&of(1060), &read).contains("does not answer"));
}
