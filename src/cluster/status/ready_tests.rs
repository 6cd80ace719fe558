use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    api::{ConditionType, EtcdClusterSpec, Reason, condition},
    cluster::{
        fixtures::{Fixture, names},
        outcome::Outcome,
        plan::changes::Plan,
    },
    names::annotation as key,
    reporting::{note::Note, publish::Report},
};

const THREE: &str = "{}";

/// `Ready` in a report.
fn ready(report: &Report) -> Condition {
    condition(&report.status.conditions, ConditionType::Ready).unwrap().clone()
}

fn change(fixture: &mut Fixture, change: impl FnOnce(&mut EtcdClusterSpec)) {
    change(&mut fixture.cluster.spec);
    *fixture.cluster.metadata.generation.as_mut().unwrap() += 1;
}

/// Makes passes until `Progressing` is False and the certificates are ready. Returns `Ready` of each pass.
fn passes(fixture: &mut Fixture) -> Vec<Condition> {
    let mut all = vec![];
    loop {
        assert!(all.len() < 150, "{:?}", all.last());
        let report = fixture.pass().report;
        all.push(ready(&report));
        let status = |kind| condition(&report.status.conditions, kind).unwrap().status.as_str();
        if (status(ConditionType::Progressing), status(ConditionType::CertificatesReady)) == ("False", "True") {
            return all;
        }
    }
}

/// The last condition is True, all before are False.
fn assert_turns_ready(all: &[Condition]) {
    let (last, before) = all.split_last().unwrap();
    assert!(!before.is_empty() && before.iter().all(|condition| condition.status == "False"), "{before:?}");
    assert_eq!((last.status.as_str(), last.reason.as_str()), ("True", "UpToDate"));
}

#[test]
fn a_new_cluster_becomes_ready_once() {
    let mut fixture = Fixture::new(THREE);
    let all = passes(&mut fixture);
    assert_eq!(all[0].reason, "Bootstrapping");
    assert_turns_ready(&all);
}

#[test]
fn a_cluster_is_not_ready_until_a_change_has_arrived() {
    let mut fixture = Fixture::bootstrapped(THREE);
    change(&mut fixture, |spec| spec.replicas = 5);
    let all = passes(&mut fixture);
    assert_eq!(all[0].reason, "ScalingUp");
    assert_eq!(all[0].observed_generation, Some(2));
    assert_turns_ready(&all);
}

#[test]
fn a_cluster_is_not_ready_until_changed_certificates_are_served() {
    let mut fixture = Fixture::bootstrapped(THREE);
    change(&mut fixture, |spec| spec.tls.client.extra_sans.dns_names.push("etcd.example.com".into()));
    let all = passes(&mut fixture);
    assert!(all.iter().any(|condition| condition.reason == "NotServedYet"), "{all:?}");
    assert_turns_ready(&all);
}

#[test]
fn a_change_that_changes_nothing_is_ready_in_the_same_pass() {
    let mut fixture = Fixture::bootstrapped(THREE);
    change(&mut fixture, |_| ());
    let now = ready(&fixture.pass().report);
    assert_eq!((now.status.as_str(), now.observed_generation), ("True", Some(2)));
}

#[test]
fn a_cluster_stays_ready_while_certificates_are_renewed() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.now += SignedDuration::from_hours(24 * 61);
    let all = passes(&mut fixture);
    assert!(all.len() > 2, "something is renewed");
    assert!(all.iter().all(|condition| condition.status == "True"), "{all:?}");
}

#[test]
fn a_requested_restart_is_not_upkeep() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "1".to_owned())].into());
    let all = passes(&mut fixture);
    assert_eq!(all[0].reason, "RollingRestart");
    assert_turns_ready(&all);
}

#[test]
fn a_requested_rotation_is_not_upkeep() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.cluster.metadata.annotations = Some([(key::ROTATE_CA.to_owned(), "client".to_owned())].into());
    let first = ready(&fixture.pass().report);
    assert_eq!((first.status.as_str(), first.reason.as_str()), ("False", "PreparingCA"));
}

#[test]
fn a_degraded_cluster_is_not_ready() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.silent.insert(names().member(1));
    let down = ready(&fixture.pass().report);
    assert_eq!((down.status.as_str(), down.reason.as_str()), ("False", "MemberDown"));
}

/// Otherwise a tool that waits for it would wait until someone else has acted.
#[test]
fn advice_for_later_leaves_a_cluster_ready() {
    let mut fixture = Fixture::bootstrapped(THREE);
    for (reason, is_ready) in [(Reason::CAExpiresSoon, true), (Reason::FieldOverwritten, true), (Reason::QuotaTooSmall, false)] {
        let mut changes = fixture.changes();
        changes.problems.push(Note::new(reason, "a problem"));
        let report = fixture.report_on(&Plan::Change(Box::new(changes)), &Outcome::default());
        let degraded = condition(&report.status.conditions, ConditionType::Degraded).unwrap();
        assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", reason.as_str()));
        assert_eq!(ready(&report).status == "True", is_ready, "{reason:?}");
    }
}

#[test]
fn a_paused_cluster_is_ready_unless_changes_are_pending() {
    let mut fixture = Fixture::bootstrapped(THREE);
    change(&mut fixture, |spec| spec.paused = true);
    assert_eq!(ready(&fixture.pass().report).status, "True");
    change(&mut fixture, |spec| spec.replicas = 5);
    for _ in 0..2 {
        let pending = ready(&fixture.pass().report);
        assert_eq!((pending.status.as_str(), pending.reason.as_str()), ("False", "Paused"));
        assert!(pending.message.contains("spec.paused is true, so this is not done: ") && pending.message.contains("demo-3"));
    }
    change(&mut fixture, |spec| spec.paused = false);
    assert_turns_ready(&passes(&mut fixture));
}
