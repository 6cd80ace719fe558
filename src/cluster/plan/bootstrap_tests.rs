//! Bootstrapping a cluster, and recording the members that have started.

use std::collections::BTreeSet;

use crate::{
    api::{ConditionType, EtcdClusterStatus, Reason, condition},
    cluster::{
        fixtures::{self, CLUSTER_ID, Fixture, names, objects, reasons},
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
    let mut fixture = Fixture::new("{}");
    let first = fixture.pass().changes();
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

    let second = fixture.pass().changes();
    assert_eq!(objects(&second), ["ConfigMap demo-ca"]);
    let all = vec![member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT];
    let mut expected = vec![("demo-operator-tls".to_owned(), vec!["tls.crt"])];
    expected.extend((0..3).map(|ordinal| (format!("demo-{ordinal}-tls"), all.clone())));
    assert_eq!(leaves(&second), expected);
    assert!(second.authorities.is_empty() && second.preflight.is_empty());

    let third = fixture.pass().changes();
    assert_eq!(objects(&third), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);

    let fourth = fixture.pass().changes();
    let Some(Step::RecordMembers(record)) = &fourth.step else { panic!("{:?}", fourth.step) };
    assert_eq!((record.cluster_id, record.members.len()), (CLUSTER_ID, 3));
    assert_eq!(fourth.pods.len(), 3, "all members serve the certificates in their Secrets");
    assert_eq!(states(&fixture), ["new"; 3]);

    assert_eq!(objects(&fixture.pass().changes()), ["ConfigMap demo-bootstrap"]);
    assert_eq!(states(&fixture), ["existing"; 3]);
    assert!(fixture.is_idle());
}

#[test]
fn a_stateful_set_is_applied_only_after_its_secret() {
    let mut fixture = Fixture::new("{}");
    fixture.pass();
    fixture.pass();
    fixture.member(1).secret = None;
    assert_eq!(objects(&fixture.changes()), ["StatefulSet demo-0", "StatefulSet demo-2"]);
}

#[test]
fn a_bootstrapping_member_that_has_not_started_stays_new_without_its_recorded_state() {
    for is_recorded in [true, false] {
        let mut fixture = Fixture::new("{}");
        fixture.down.insert(names().member(2));
        while fixture.observed.status.cluster_id.is_none() {
            fixture.pass();
        }
        let url = names().peer_url(&names().member(2));
        assert!(fixture.etcd.iter().any(|member| member.peer_urls == [url.clone()] && member.name.is_empty()));
        if !is_recorded {
            // The watch lags, or the ConfigMap was deleted.
            fixture.observed.bootstrap = None;
        }
        fixture.pass();
        let data = fixture.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
        assert_eq!((data["demo-2.state"].as_str(), data["demo-0.state"].as_str()), ("new", "existing"));
        assert_eq!(data["demo-2.cluster"].split(',').count(), 3);
        fixture.down.clear();
        fixture.settle();
        assert_eq!(fixture.ordinals(), [0, 1, 2]);
    }
}

/// It has perhaps voted, and acknowledged a write.
#[test]
fn a_member_that_loses_its_claim_before_its_start_is_recorded_does_not_start_again() {
    let mut fixture = before_recording();
    fixture.plan();
    let mut observed = fixture.observed.clone();
    observed.members.get_mut(&names().member(1)).unwrap().claim = None;
    let changes = fixture.plan_on(&observed).changes().unwrap().clone();
    assert_eq!(objects(&changes), ["ConfigMap demo-bootstrap"], "there is no other claim");
    assert_eq!(reasons(&changes.problems), [Reason::ClaimLost]);

    // It exists, and the API server cannot be asked.
    observed.members.get_mut(&names().member(1)).unwrap().claim_unread = true;
    let changes = fixture.plan_on(&observed).changes().unwrap().clone();
    assert_eq!(objects(&changes), [] as [&str; 0]);
    assert_eq!(reasons(&changes.problems), []);
}

#[test]
fn members_of_another_operators_unfinished_bootstrap_are_ignored() {
    let mut fixture = Fixture::new("{replicas: 2}");
    fixture.pass();
    let mut other = Fixture::new("{replicas: 5}");
    other.pass();
    for (name, member) in &other.observed.members {
        fixture.observed.members.entry(name.clone()).or_default().claim.clone_from(&member.claim);
    }
    assert_eq!(fixture.observed.members.len(), 5);
    fixture.pass();
    let data = fixture.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
    assert!(data["demo-0.cluster"].split(',').count() == 2 && !data.contains_key("demo-2.state"), "{data:?}");
}

// Objects of others.

/// A new cluster that finds the objects of another cluster of the same name, as far as `keep` keeps them.
fn with_objects_of_another_cluster(keep: impl FnOnce(&mut Fixture)) -> Fixture {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.cluster.metadata.uid = Some("another".into());
    fixture.cluster.status = None;
    fixture.observed.status = EtcdClusterStatus::default();
    fixture.kubelet = false;
    keep(&mut fixture);
    fixture
}

#[test]
fn objects_of_a_cluster_that_is_being_deleted_are_not_adopted() {
    let mut fixture = with_objects_of_another_cluster(|_| {});
    for _ in 0..3 {
        let pass = fixture.pass();
        assert_eq!(pass.blocked().map(|note| note.reason), Some(Reason::NameTaken));
    }
}

#[test]
fn a_cluster_is_not_bootstrapped_if_a_name_is_taken() {
    let mut fixture = with_objects_of_another_cluster(|fixture| {
        let client_service = fixture.observed.client_service.take();
        fixture.observed = Observed { client_service, ..Observed::default() };
    });
    let blocked = fixture.blocked();
    assert_eq!(blocked.reason, Reason::NameTaken);
    let owner = "Service demo cannot be used: it belongs to EtcdCluster demo (uid";
    assert!(blocked.message.starts_with(owner), "{}", blocked.message);
}

#[test]
fn a_member_that_lost_all_objects_is_still_known() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.observed.bootstrap = None;
    *fixture.member(1) = ObservedMember::default();
    let plan = fixture.changes();
    assert_eq!(objects(&plan)[0], "ConfigMap demo-bootstrap");
    assert_eq!(reasons(&plan.problems), [Reason::ClaimLost]);
    fixture.pass();
    assert_eq!(states(&fixture), ["existing"; 3]);
}

#[test]
fn a_deleted_bootstrap_config_is_recreated_and_started_members_stay_existing() {
    for passes in [4, 5, 9] {
        let mut fixture = Fixture::new("{}");
        for _ in 0..passes {
            fixture.pass();
        }
        assert!(fixture.observed.members.values().all(ObservedMember::has_started));
        fixture.observed.bootstrap = None;
        fixture.pass();
        assert_eq!(states(&fixture), ["existing"; 3], "after {passes} passes");
    }
    let mut fixture = Fixture::new("{}");
    fixture.pass();
    fixture.observed.bootstrap = None;
    fixture.pass();
    assert_eq!(states(&fixture), ["new"; 3], "no member has started yet");
}

#[test]
fn the_recorded_list_of_a_started_member_has_only_itself() {
    let fixture = Fixture::bootstrapped("{}");
    let data = fixture.observed.bootstrap.unwrap().data.clone().unwrap();
    assert_eq!(data["demo-1.cluster"], "demo-1=https://demo-1-0.demo-peers.ns.svc:2380");
    assert_eq!(data[bootstrap_key::TOKEN], fixtures::UID);
}

/// A fixture whose members have started and are not recorded yet.
fn before_recording() -> Fixture {
    let mut fixture = Fixture::new("{}");
    for _ in 0..3 {
        fixture.pass();
    }
    fixture
}

/// The members that are recorded if the observation is changed like this.
fn recorded_members(fixture: &mut Fixture, change: impl FnOnce(&mut Observed)) -> BTreeSet<String> {
    fixture.plan();
    let mut observed = fixture.observed.clone();
    change(&mut observed);
    match fixture.plan_on(&observed).step() {
        Some(Step::RecordMembers(record)) => record.members.iter().map(|member| member.name.to_string()).collect(),
        _ => BTreeSet::new(),
    }
}

#[test]
fn only_named_members_that_answer_with_their_listed_id_are_recorded() {
    let mut fixture = before_recording();
    let all: BTreeSet<_> = ["demo-0", "demo-1", "demo-2"].map(str::to_owned).into();
    let others: BTreeSet<_> = ["demo-1", "demo-2"].map(str::to_owned).into();
    let list = |observed: &mut Observed| observed.list.as_ref().unwrap().clone();
    assert_eq!(recorded_members(&mut fixture, |_| {}), all);
    let unnamed = |observed: &mut Observed| {
        let mut list = list(observed);
        list.members[0].name.clear();
        observed.list = Ok(list);
    };
    assert_eq!(recorded_members(&mut fixture, unnamed), others);
    let elsewhere = |observed: &mut Observed| {
        let mut list = list(observed);
        list.members[0].id = MemberId(7);
        observed.list = Ok(list);
    };
    assert_eq!(recorded_members(&mut fixture, elsewhere), others);
    let silent = |observed: &mut Observed| {
        observed.members.get_mut(&names().member(0)).unwrap().etcd = Probe::Unreachable("refused".into());
    };
    assert_eq!(recorded_members(&mut fixture, silent), others);
    assert_eq!(recorded_members(&mut fixture, |observed| observed.list = Err("no quorum".into())), BTreeSet::new());
    let second = |observed: &mut Observed| observed.status.cluster_id = Some(ClusterId(0xbad));
    assert_eq!(recorded_members(&mut fixture, second), BTreeSet::new(), "members of a second cluster are not recorded");
}

#[test]
fn a_wrong_id_on_a_claim_is_corrected_while_its_member_answers() {
    for key in [key::MEMBER_ID, key::CLUSTER_ID] {
        let mut fixture = Fixture::bootstrapped("{}");
        let edited = |fixture: &mut Fixture| {
            let claim = fixture.member(1).claim.as_mut().unwrap();
            claim.metadata.annotations.as_mut().unwrap().insert(key.into(), "bad".into())
        };
        let before = edited(&mut fixture);
        fixture.silent.insert(names().member(1));
        assert_eq!(recorded_members(&mut fixture, |_| {}), BTreeSet::new(), "it is unknown which member has the data");
        fixture.silent.clear();
        assert_eq!(recorded_members(&mut fixture, |_| {}), BTreeSet::from(["demo-1".to_owned()]));
        fixture.settle();
        assert_eq!(edited(&mut fixture), before);
    }
}

/// It must not be reported as foreign: removing it would remove data.
#[test]
fn a_claim_that_has_lost_its_annotations_is_not_reported_as_foreign() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.pass();
    let claim = fixture.member(1).claim.as_mut().unwrap();
    (claim.metadata.annotations, claim.metadata.owner_references) = (None, None);
    assert_eq!(reasons(&fixture.changes().problems), [Reason::NameTaken], "without a volume it has no data");
    fixture.member(1).claim.as_mut().unwrap().spec.as_mut().unwrap().volume_name = Some("pv".into());
    for _ in 0..3 {
        let pass = fixture.pass();
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
    let claim = &mut fixture.member(1).claim.as_mut().unwrap().metadata;
    claim.annotations = Some([(key::CLUSTER_UID.to_owned(), fixtures::UID.to_owned())].into());
    fixture.settle();
    assert!(fixture.member(1).has_started(), "the other annotations are restored while the member answers");
    assert!(fixture.changes().problems.is_empty());
}

/// Changing the URL of a member with etcdctl does not make it another member.
#[test]
fn a_member_whose_url_was_changed_is_identified_by_its_name() {
    let mut fixture = Fixture::bootstrapped("{}");
    let plan = fixture.plan();
    fixture.observed.list.as_mut().unwrap().members[1].peer_urls = vec!["https://elsewhere:2380".into()];
    let status = fixture.report_on(&plan, &Outcome::default()).status;
    assert!(status.unknown_members.is_empty(), "{:?}", status.unknown_members);
    assert_eq!(condition(&status.conditions, ConditionType::Available).unwrap().message, "3 of 3 voters are healthy");
    fixture.member(1).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
    let plan = fixture.plan_on(&fixture.observed);
    let Some(Step::RecordMembers(record)) = plan.step() else { panic!("{plan:?}") };
    assert_eq!(record.members[0].name, names().member(1));
}

#[test]
fn members_that_start_later_are_recorded_later() {
    let mut fixture = before_recording();
    fixture.silent.insert(names().member(2));
    fixture.pass();
    fixture.pass();
    assert_eq!(states(&fixture), ["existing", "existing", "new"]);
    fixture.silent.clear();
    fixture.settle();
    assert_eq!(states(&fixture), ["existing"; 3]);
}
