//! Bootstrapping a cluster, and recording the members that have started.

use std::collections::BTreeSet;

use crate::{
    api::{ConditionType, EtcdClusterStatus, Reason, condition},
    cluster::{
        fixtures::{self, CLUSTER_ID, World, names, objects, reasons},
        observed::{Observed, ObservedMember, Probe},
        outcome::Outcome,
        plan::tests::{ONE, leaves, states},
        steps::Step,
    },
    ids::{ClusterId, MemberId},
    names::{annotation as key, bootstrap_key, member_key},
};

// Bootstrap.

#[test]
fn a_cluster_is_bootstrapped_in_stages() {
    let mut world = World::new("{}");
    let first = world.pass().changes();
    assert_eq!(first.authorities.len(), 2);
    assert!(first.secrets.is_empty() && first.step.is_none());
    let desired = [
        "ConfigMap demo-bootstrap",
        "Service demo-peers",
        "Service demo",
        "PodDisruptionBudget demo",
        "PersistentVolumeClaim data-demo-0",
        "PersistentVolumeClaim data-demo-1",
        "PersistentVolumeClaim data-demo-2",
    ];
    assert_eq!(objects(&first), desired);
    assert_eq!(
        first.preflight.len(),
        desired.len() + 3 + 1 + 6,
        "the names of StatefulSets, of the ConfigMap for clients and of Secrets are checked before anything is created"
    );

    let second = world.pass().changes();
    assert_eq!(objects(&second), ["ConfigMap demo-ca"]);
    let all = vec![member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT];
    let mut expected = vec![("demo-operator-tls".to_owned(), vec!["tls.crt"])];
    expected.extend((0..3).map(|ordinal| (format!("demo-{ordinal}-tls"), all.clone())));
    assert_eq!(leaves(&second), expected);
    assert!(second.authorities.is_empty() && second.preflight.is_empty());

    let third = world.pass().changes();
    assert_eq!(objects(&third), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);

    let fourth = world.pass().changes();
    let Some(Step::RecordMembers(record)) = &fourth.step else { panic!("{:?}", fourth.step) };
    assert_eq!((record.cluster_id, record.members.len()), (CLUSTER_ID, 3));
    assert_eq!(fourth.pods.len(), 3, "all members serve the certificates in their Secrets");
    assert_eq!(states(&world), ["new"; 3]);

    assert_eq!(objects(&world.pass().changes()), ["ConfigMap demo-bootstrap"]);
    assert_eq!(states(&world), ["existing"; 3]);
    assert!(world.is_idle());
}

#[test]
fn a_stateful_set_is_applied_only_after_its_secret() {
    let mut world = World::new("{}");
    world.pass();
    world.pass();
    world.member(1).secret = None;
    assert_eq!(objects(&world.changes()), ["StatefulSet demo-0", "StatefulSet demo-2"]);
}

#[test]
fn a_bootstrapping_member_that_has_not_started_stays_new_without_its_recorded_state() {
    for is_recorded in [true, false] {
        let mut world = World::new("{}");
        world.down.insert(names().member(2));
        while world.observed.status.cluster_id.is_none() {
            world.pass();
        }
        let url = names().peer_url(&names().member(2));
        assert!(world.etcd.iter().any(|member| member.peer_urls == [url.clone()] && member.name.is_empty()));
        if !is_recorded {
            // The watch lags, or the ConfigMap was deleted.
            world.observed.bootstrap = None;
        }
        world.pass();
        let data = world.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
        assert_eq!((data["demo-2.state"].as_str(), data["demo-0.state"].as_str()), ("new", "existing"));
        assert_eq!(data["demo-2.cluster"].split(',').count(), 3);
        world.down.clear();
        world.settle();
        assert_eq!(world.ordinals(), [0, 1, 2]);
    }
}

/// It has perhaps voted, and acknowledged a write.
#[test]
fn a_member_that_loses_its_claim_before_its_start_is_recorded_does_not_start_again() {
    let mut world = before_recording();
    world.plan();
    let mut observed = world.observed.clone();
    observed.members.get_mut(&names().member(1)).unwrap().claim = None;
    let changes = world.plan_on(&observed).changes().unwrap().clone();
    assert_eq!(objects(&changes), ["ConfigMap demo-bootstrap"], "there is no other claim");
    assert_eq!(reasons(&changes.problems), [Reason::ClaimLost]);

    // It exists, and the API server cannot be asked.
    observed.members.get_mut(&names().member(1)).unwrap().claim_unread = true;
    let changes = world.plan_on(&observed).changes().unwrap().clone();
    assert_eq!(objects(&changes), [] as [&str; 0]);
    assert_eq!(reasons(&changes.problems), []);
}

#[test]
fn members_of_another_operators_unfinished_bootstrap_are_ignored() {
    let mut world = World::new("{replicas: 2}");
    world.pass();
    let mut other = World::new("{replicas: 5}");
    other.pass();
    for (name, member) in &other.observed.members {
        world.observed.members.entry(name.clone()).or_default().claim.clone_from(&member.claim);
    }
    assert_eq!(world.observed.members.len(), 5);
    world.pass();
    let data = world.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
    assert!(data["demo-0.cluster"].split(',').count() == 2 && !data.contains_key("demo-2.state"), "{data:?}");
}

// Objects of others.

/// A new cluster that finds the objects of another cluster of the same name, as far as `keep` keeps them.
fn with_objects_of_another_cluster(keep: impl FnOnce(&mut World)) -> World {
    let mut world = World::bootstrapped(ONE);
    world.cluster.metadata.uid = Some("another".into());
    world.cluster.status = None;
    world.observed.status = EtcdClusterStatus::default();
    world.kubelet = false;
    keep(&mut world);
    world
}

#[test]
fn objects_of_a_cluster_that_is_being_deleted_are_not_adopted() {
    let mut world = with_objects_of_another_cluster(|_| {});
    for _ in 0..3 {
        let pass = world.pass();
        assert_eq!(pass.blocked().map(|note| note.reason), Some(Reason::NameTaken));
    }
}

#[test]
fn a_cluster_is_not_bootstrapped_if_a_name_is_taken() {
    let mut world = with_objects_of_another_cluster(|world| {
        let client_service = world.observed.client_service.take();
        world.observed = Observed { client_service, ..Observed::default() };
    });
    let blocked = world.blocked();
    assert_eq!(blocked.reason, Reason::NameTaken);
    let owner = "Service demo cannot be used: it belongs to EtcdCluster demo (uid";
    assert!(blocked.message.starts_with(owner), "{}", blocked.message);
}

#[test]
fn a_member_that_lost_all_objects_is_still_known() {
    let mut world = World::bootstrapped("{}");
    world.observed.bootstrap = None;
    *world.member(1) = ObservedMember::default();
    let plan = world.changes();
    assert_eq!(objects(&plan)[0], "ConfigMap demo-bootstrap");
    assert_eq!(reasons(&plan.problems), [Reason::ClaimLost]);
    world.pass();
    assert_eq!(states(&world), ["existing"; 3]);
}

#[test]
fn a_deleted_bootstrap_config_is_recreated_and_started_members_stay_existing() {
    for passes in [4, 5, 9] {
        let mut world = World::new("{}");
        for _ in 0..passes {
            world.pass();
        }
        assert!(world.observed.members.values().all(ObservedMember::has_started));
        world.observed.bootstrap = None;
        world.pass();
        assert_eq!(states(&world), ["existing"; 3], "after {passes} passes");
    }
    let mut world = World::new("{}");
    world.pass();
    world.observed.bootstrap = None;
    world.pass();
    assert_eq!(states(&world), ["new"; 3], "no member has started yet");
}

#[test]
fn the_recorded_list_of_a_started_member_has_only_itself() {
    let world = World::bootstrapped("{}");
    let data = world.observed.bootstrap.unwrap().data.clone().unwrap();
    assert_eq!(data["demo-1.cluster"], "demo-1=https://demo-1-0.demo-peers.ns.svc:2380");
    assert_eq!(data[bootstrap_key::TOKEN], fixtures::UID);
}

/// A world whose members have started and are not recorded yet.
fn before_recording() -> World {
    let mut world = World::new("{}");
    for _ in 0..3 {
        world.pass();
    }
    world
}

/// The members that are recorded if the observation is changed like this.
fn recorded_members(world: &mut World, change: impl FnOnce(&mut Observed)) -> BTreeSet<String> {
    world.plan();
    let mut observed = world.observed.clone();
    change(&mut observed);
    match world.plan_on(&observed).step() {
        Some(Step::RecordMembers(record)) => record.members.iter().map(|member| member.name.to_string()).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn only_named_members_that_answer_with_their_listed_id_are_recorded() {
    let mut world = before_recording();
    let all: BTreeSet<_> = ["demo-0", "demo-1", "demo-2"].map(str::to_owned).into();
    let others: BTreeSet<_> = ["demo-1", "demo-2"].map(str::to_owned).into();
    let list = |observed: &mut Observed| observed.list.as_ref().unwrap().clone();
    assert_eq!(recorded_members(&mut world, |_| {}), all);
    let unnamed = |observed: &mut Observed| {
        let mut list = list(observed);
        list.members[0].name.clear();
        observed.list = Ok(list);
    };
    assert_eq!(recorded_members(&mut world, unnamed), others);
    let elsewhere = |observed: &mut Observed| {
        let mut list = list(observed);
        list.members[0].id = MemberId(7);
        observed.list = Ok(list);
    };
    assert_eq!(recorded_members(&mut world, elsewhere), others);
    let silent = |observed: &mut Observed| {
        observed.members.get_mut(&names().member(0)).unwrap().etcd = Probe::Unreachable("refused".into());
    };
    assert_eq!(recorded_members(&mut world, silent), others);
    assert_eq!(recorded_members(&mut world, |observed| observed.list = Err("no quorum".into())), BTreeSet::new());
    let second = |observed: &mut Observed| observed.status.cluster_id = Some(ClusterId(0xbad));
    assert_eq!(recorded_members(&mut world, second), BTreeSet::new(), "members of a second cluster are not recorded");
}

#[test]
fn a_wrong_id_on_a_claim_is_corrected_while_its_member_answers() {
    for key in [key::MEMBER_ID, key::CLUSTER_ID] {
        let mut world = World::bootstrapped("{}");
        let edited = |world: &mut World| {
            let claim = world.member(1).claim.as_mut().unwrap();
            claim.metadata.annotations.as_mut().unwrap().insert(key.into(), "bad".into())
        };
        let before = edited(&mut world);
        world.silent.insert(names().member(1));
        assert_eq!(recorded_members(&mut world, |_| {}), BTreeSet::new(), "it is unknown which member has the data");
        world.silent.clear();
        assert_eq!(recorded_members(&mut world, |_| {}), BTreeSet::from(["demo-1".to_owned()]));
        world.settle();
        assert_eq!(edited(&mut world), before);
    }
}

/// It must not be reported as foreign: removing it would remove data.
#[test]
fn a_claim_that_has_lost_its_annotations_is_not_reported_as_foreign() {
    let mut world = World::bootstrapped("{}");
    world.pass();
    let claim = world.member(1).claim.as_mut().unwrap();
    (claim.metadata.annotations, claim.metadata.owner_references) = (None, None);
    assert_eq!(reasons(&world.changes().problems), [Reason::NameTaken], "without a volume it has no data");
    world.member(1).claim.as_mut().unwrap().spec.as_mut().unwrap().volume_name = Some("pv".into());
    for _ in 0..3 {
        let pass = world.pass();
        assert!(pass.is_idle(), "{:?}", pass.plan);
        assert_eq!(pass.report.status.members.len(), 3, "it is a member");
        let problems = pass.changes().problems;
        assert_eq!(reasons(&problems), [Reason::AnnotationsLost]);
        let uid = fixtures::UID;
        let command = format!(
            "`kubectl -n ns annotate pvc data-demo-1 etcd-warden.dev/cluster-uid={uid} etcd-warden.dev/cluster-id=c1 etcd-warden.dev/member-id=a1`"
        );
        assert!(problems[0].message.ends_with(&command), "{}", problems[0].message);
    }
    let claim = &mut world.member(1).claim.as_mut().unwrap().metadata;
    claim.annotations = Some([(key::CLUSTER_UID.to_owned(), fixtures::UID.to_owned())].into());
    world.settle();
    assert!(world.member(1).has_started(), "the other annotations are restored while the member answers");
    assert!(world.changes().problems.is_empty());
}

/// Changing the URL of a member with etcdctl does not make it another member.
#[test]
fn a_member_whose_url_was_changed_is_identified_by_its_name() {
    let mut world = World::bootstrapped("{}");
    let plan = world.plan();
    world.observed.list.as_mut().unwrap().members[1].peer_urls = vec!["https://elsewhere:2380".into()];
    let status = world.report_on(&plan, &Outcome::default()).status;
    assert!(status.unknown_members.is_empty(), "{:?}", status.unknown_members);
    assert_eq!(condition(&status.conditions, ConditionType::Available).unwrap().message, "3 of 3 voters are healthy");
    world.member(1).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
    let plan = world.plan_on(&world.observed);
    let Some(Step::RecordMembers(record)) = plan.step() else { panic!("{plan:?}") };
    assert_eq!(record.members[0].name, names().member(1));
}

#[test]
fn members_that_start_later_are_recorded_later() {
    let mut world = before_recording();
    world.silent.insert(names().member(2));
    world.pass();
    world.pass();
    assert_eq!(states(&world), ["existing", "existing", "new"]);
    world.silent.clear();
    world.settle();
    assert_eq!(states(&world), ["existing"; 3]);
}
