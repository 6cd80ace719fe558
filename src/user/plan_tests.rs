use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::runtime::events::EventType;

use super::*;
use crate::{
    api::{ConditionType, EtcdUserStatus, condition},
    kubernetes::secret::SecretView,
    pki::{Issuer, ReissueReason, Usage},
    reporting::publish::Report,
    user::{
        fixtures::{Fixture, names},
        status::{UserOutcome, bug, expiry, report},
    },
};

fn user(name: &str, spec: &str) -> EtcdUser {
    let mut user = EtcdUser::new(name, serde_saphyr::from_str(spec).unwrap());
    user.metadata.namespace = Some("ns".into());
    user.metadata.uid = Some(format!("uid-of-{name}"));
    user.metadata.generation = Some(1);
    user.metadata.creation_timestamp = Some(Time("2026-03-01T00:00:00Z".parse().unwrap()));
    user
}

fn app() -> EtcdUser {
    user("app", "clusterRef: {name: demo}")
}

/// The observed state for a new user of a healthy cluster.
fn around(user: &EtcdUser, fixture: &Fixture) -> ObservedUser {
    ObservedUser {
        uid: Uid::of(&user.metadata).unwrap(),
        names: names(),
        cluster: Some(fixture.cluster.clone()),
        authority: Some(fixture.authority.clone()),
        secret: None,
        others: vec![],
    }
}

/// A user with a certificate: the fixture, the user and its observed state.
fn served() -> (Fixture, EtcdUser, ObservedUser) {
    let mut fixture = Fixture::new();
    let user = app();
    let mut observed = around(&user, &fixture);
    let UserPlan::Issue(change) = plan(&user, &observed, fixture.now) else { panic!("no Secret exists yet") };
    let mut secret = SecretView::default();
    secret.meta.owner_references = Some(vec![OwnerReference {
        controller: Some(true),
        kind: "EtcdUser".into(),
        name: "app".into(),
        uid: "uid-of-app".into(),
        ..OwnerReference::default()
    }]);
    fixture.issue(&mut secret, &change.secret);
    observed.secret = Some(secret.into());
    observed.authority = Some(fixture.authority.clone());
    (fixture, user, observed)
}

fn issued(plan: &UserPlan) -> (Vec<&ReissueReason>, Vec<&str>) {
    let UserPlan::Issue(change) = plan else { panic!("{plan:?}") };
    let SecretChange { leaves, files, .. } = &change.secret;
    (leaves.iter().map(|leaf| &leaf.why).collect(), files.keys().map(String::as_str).collect())
}

fn refused(plan: &UserPlan) -> (Reason, &str) {
    let UserPlan::Blocked(Obstacle::Refused(note)) = plan else { panic!("{plan:?}") };
    (note.reason, &note.message)
}

fn waiting(plan: &UserPlan) -> (Reason, &str) {
    let UserPlan::Blocked(Obstacle::Waiting(note)) = plan else { panic!("{plan:?}") };
    (note.reason, &note.message)
}

fn suspended(plan: &UserPlan) -> Reason {
    let UserPlan::Blocked(Obstacle::Suspended(note)) = plan else { panic!("{plan:?}") };
    note.reason
}

#[test]
fn a_new_user_is_issued_a_client_certificate() {
    let fixture = Fixture::new();
    let UserPlan::Issue(change) = plan(&app(), &around(&app(), &fixture), fixture.now) else { panic!() };
    let change = change.secret;
    assert_eq!((change.name.as_str(), change.type_, &change.version), ("app-etcd-tls", "kubernetes.io/tls", &None));
    assert_eq!(change.labels[label::USER], "app");
    assert_eq!(change.files.keys().collect::<Vec<_>>(), ["ca.crt", "endpoints"]);
    assert_eq!(change.files["endpoints"], b"https://demo.ns.svc:2379");
    let [leaf] = change.leaves.as_slice() else { panic!() };
    assert_eq!((leaf.spec.common_name.as_str(), leaf.spec.usage, leaf.domain), ("app", Usage::Client, Domain::Client));
    assert!(leaf.spec.dns_names.is_empty() && leaf.spec.ip_addresses.is_empty());
    assert_eq!(leaf.holder, Holder::User { name: "app".into(), uid: "uid-of-app".into() });
}

/// The issuer may sign with another authority than before, whatever else is wrong with the cluster's spec.
#[test]
fn the_issuers_of_a_spec_are_probed_if_they_and_the_lifetimes_are_valid() {
    let fixture = Fixture::new();
    let probes = |spec: &str| {
        let mut observed = around(&app(), &fixture);
        observed.cluster.as_mut().unwrap().spec = serde_saphyr::from_str(spec).unwrap();
        let UserPlan::Issue(change) = plan(&app(), &observed, fixture.now) else { panic!("{spec}") };
        change.probes
    };
    let manager = "certManager: {name: ca}";
    let client = format!("client: {{issuer: {{{manager}}}, certificate: {{duration: 24h}}}}");
    let found = probes(&format!("{{replicas: 0, tls: {{{client}}}}}")).unwrap();
    assert_eq!(found.client.issuer.to_string(), "Issuer ca");
    assert_eq!((found.client.owner.kind.as_str(), found.client.owner.name.as_str()), ("EtcdCluster", "demo"));
    assert_eq!(found.client.leaf.common_name, common_name::ISSUER_PROBE);
    assert_eq!(found.client.leaf.duration, SignedDuration::from_hours(24));
    assert_eq!(found.peer.issuer, Issuer::BuiltIn);
    for invalid in [
        format!("client: {{issuer: {{{manager}, caSecret: {{name: ca}}}}}}"),
        format!("client: {{issuer: {{{manager}}}}}, peer: {{issuer: {{{manager}}}}}"),
        "peer: {certificate: {duration: 5m}}".into(),
    ] {
        assert_eq!(probes(&format!("{{tls: {{{invalid}}}}}")), None, "{invalid}");
    }
}

#[test]
fn nothing_is_done_until_the_renewal() {
    let (fixture, user, observed) = served();
    let at = |hours| plan(&user, &observed, fixture.now + SignedDuration::from_hours(hours));
    assert_eq!(at(0), UserPlan::Nothing);
    // Renewals are spread over the twentieth of the lifetime before that.
    assert_eq!(at(1440 - 108 - 1), UserPlan::Nothing);
    assert_eq!(issued(&at(1440)), (vec![&ReissueReason::Due], vec![]));
    assert_eq!(issued(&at(2161)), (vec![&ReissueReason::Expired], vec![]));
}

#[test]
fn what_was_issued_is_renewed_although_the_lifetime_is_invalid() {
    let (fixture, mut user, observed) = served();
    user.spec.certificate.duration = crate::api::Duration("5m".into());
    let at = |hours| plan(&user, &observed, fixture.now + SignedDuration::from_hours(hours));
    let UserPlan::Blocked(Obstacle::Suspended(note)) = at(0) else { panic!("{:?}", at(0)) };
    assert_eq!((note.reason, note.message.contains("at least 1h")), (Reason::InvalidSpec, true));
    assert_eq!(issued(&at(1440)), (vec![&ReissueReason::Due], vec![]));
}

#[test]
fn what_is_missing_from_the_secret_is_restored() {
    let (fixture, user, observed) = served();
    let without = |key: &str| {
        let mut observed = observed.clone();
        observed.secret.as_mut().unwrap().data.remove(key);
        plan(&user, &observed, fixture.now)
    };
    assert_eq!(issued(&without("tls.crt")), (vec![&ReissueReason::Missing], vec![]));
    assert_eq!(issued(&without("tls.key")), (vec![&ReissueReason::KeyDoesNotFit], vec![]));
    assert_eq!(issued(&without("ca.crt")), (vec![], vec!["ca.crt"]));
    assert_eq!(issued(&without("endpoints")), (vec![], vec!["endpoints"]));
    let mut shorter = user.clone();
    shorter.spec.certificate.duration = crate::api::Duration("24h".into());
    assert_eq!(issued(&plan(&shorter, &observed, fixture.now)), (vec![&ReissueReason::TooLong], vec![]));
}

#[test]
fn reserved_and_impossible_names_are_refused() {
    let fixture = Fixture::new();
    for (user, about) in [
        (user("root", "clusterRef: {name: demo}"), "root is the operator's own"),
        (user("app", "{clusterRef: {name: demo}, commonName: root}"), "root is the operator's own"),
        (user("app", "{clusterRef: {name: demo}, commonName: 'etcd-warden:server'}"), "the operator's own"),
        (user("app", "{clusterRef: {name: demo}, commonName: ''}"), "1 to 64 characters"),
        (user(&"a".repeat(65), "clusterRef: {name: demo}"), "1 to 64 characters"),
        (user("app", &format!("{{clusterRef: {{name: demo}}, commonName: {}}}", "ä".repeat(65))), "1 to 64 characters"),
        (user("app", "{clusterRef: {name: demo}, certificate: {duration: 59m}}"), "spec.certificate.duration is 59m"),
        (user("app", "{clusterRef: {name: demo}, certificate: {duration: 90d}}"), "is not a duration"),
    ] {
        let plan = plan(&user, &around(&user, &fixture), fixture.now);
        let (reason, message) = refused(&plan);
        assert_eq!(reason, Reason::InvalidSpec);
        assert!(message.contains(about), "{message}");
    }
}

#[test]
fn a_common_name_may_have_64_characters_of_several_octets() {
    let fixture = Fixture::new();
    let user = user("app", &format!("{{clusterRef: {{name: demo}}, commonName: {}}}", "ä".repeat(64)));
    let plan = plan(&user, &around(&user, &fixture), fixture.now);
    assert_eq!(issued(&plan).0, [&ReissueReason::Missing]);
}

#[test]
fn of_two_users_with_one_common_name_the_older_has_precedence() {
    let (fixture, app, mut observed) = served();
    let mut twin = user("twin", "{clusterRef: {name: demo}, commonName: app}");
    observed.others = vec![twin.clone()];
    assert_eq!(
        plan(&app, &observed, fixture.now),
        UserPlan::Nothing,
        "of two of one age, the one with the lesser uid counts as older"
    );
    let around_twin = |twin: &EtcdUser| ObservedUser { others: vec![app.clone()], ..around(twin, &fixture) };
    let plan_of_twin = plan(&twin, &around_twin(&twin), fixture.now);
    let (reason, message) = refused(&plan_of_twin);
    assert_eq!(reason, Reason::CommonNameTaken);
    assert!(message.contains("EtcdUser app has the common name app already"), "{message}");

    twin.metadata.creation_timestamp = Some(Time("2026-02-01T00:00:00Z".parse().unwrap()));
    assert!(matches!(plan(&twin, &around_twin(&twin), fixture.now), UserPlan::Issue(_)));
    observed.others = vec![twin.clone()];
    assert_eq!(refused(&plan(&app, &observed, fixture.now)).0, Reason::CommonNameTaken);

    twin.spec.cluster_ref.name = "other".into();
    observed.others = vec![twin];
    assert_eq!(plan(&app, &observed, fixture.now), UserPlan::Nothing, "each cluster has common names of its own");
}

#[test]
fn of_two_users_with_one_secret_the_older_has_precedence() {
    let (fixture, app, observed) = served();
    let twin = user("twin", "{clusterRef: {name: other}, secretName: app-etcd-tls}");
    let uid = Uid::of(&twin.metadata).unwrap();
    let plan = plan(&twin, &ObservedUser { uid, others: vec![app], ..observed }, fixture.now);
    let (reason, message) = refused(&plan);
    assert_eq!(reason, Reason::SecretNameTaken);
    assert!(message.contains("EtcdUser app has the Secret app-etcd-tls already"), "{message}");
}

#[test]
fn a_secret_of_someone_else_is_never_written() {
    let (fixture, user, mut observed) = served();
    observed.secret.as_mut().unwrap().meta.owner_references = None;
    let plan = plan(&user, &observed, fixture.now);
    let (reason, message) = refused(&plan);
    assert_eq!(reason, Reason::NameTaken);
    assert!(message.contains("Secret app-etcd-tls cannot be used: it was not created by etcd-warden"), "{message}");
}

#[test]
fn a_user_waits_for_what_does_not_exist_yet() {
    let (fixture, user, observed) = served();
    let none = ObservedUser { cluster: None, ..observed.clone() };
    assert_eq!(
        waiting(&plan(&user, &none, fixture.now)),
        (Reason::ClusterNotFound, "there is no EtcdCluster demo in this namespace; waiting for it")
    );
    let mut starting = ObservedUser { authority: None, ..observed.clone() };
    starting.cluster.as_mut().unwrap().status = None;
    assert_eq!(waiting(&plan(&user, &starting, fixture.now)).0, Reason::ClusterNotReady);
    let lost = ObservedUser { authority: None, ..observed.clone() };
    assert_eq!(suspended(&plan(&user, &lost, fixture.now)), Reason::CALost);
    let mut other = observed.clone();
    other.authority.as_mut().unwrap().meta.annotations = None;
    other.authority.as_mut().unwrap().meta.owner_references = None;
    assert_eq!(suspended(&plan(&user, &other, fixture.now)), Reason::CALost);
    let mut paused = observed;
    paused.cluster.as_mut().unwrap().spec.paused = true;
    assert_eq!(suspended(&plan(&user, &paused, fixture.now)), Reason::ClusterPaused);
}

#[test]
fn a_revoked_user_gets_no_certificate() {
    let (fixture, mut user, observed) = served();
    user.metadata.annotations = Some([(key::REVOKE.to_owned(), String::new())].into());
    let revoked = |observed: &ObservedUser| {
        let plan = plan(&user, observed, fixture.now);
        let (reason, message) = refused(&plan);
        assert_eq!(reason, Reason::Revoked);
        message.to_owned()
    };
    assert!(revoked(&observed).contains("are being revoked by EtcdCluster demo"), "{}", revoked(&observed));
    let without = ObservedUser { uid: "uid-of-another".into(), secret: None, ..observed };
    assert!(revoked(&without).contains("remove annotation etcd-warden.dev/revoke"), "{}", revoked(&without));
}

// The status.

fn reported(
    user: &EtcdUser,
    observed: &ObservedUser,
    outcome: &UserOutcome,
    now: Timestamp,
) -> (String, String, Report<EtcdUserStatus>) {
    let report = report(user, observed, outcome, now);
    let condition = condition(&report.status.conditions, ConditionType::Ready).unwrap();
    (condition.status.clone(), condition.reason.clone(), report)
}

#[test]
fn a_user_is_ready_once_the_secret_holds_a_certificate() {
    let (fixture, mut user, observed) = served();
    let new = ObservedUser { secret: None, ..observed.clone() };
    let (status, reason, report) = reported(&user, &new, &UserOutcome::Written(Some(ReissueReason::Missing)), fixture.now);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Issuing"));
    assert!(report.events.is_empty());
    let [done] = report.done.as_slice() else { panic!("one thing was done") };
    assert_eq!(done.reason, "CertificateIssued");
    assert_eq!(
        done.note.as_deref().unwrap(),
        "issued a certificate for app in Secret app-etcd-tls: the certificate does not exist"
    );

    user.status = Some(report.status);
    let (status, reason, report) = reported(&user, &observed, &UserOutcome::Ready, fixture.now);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Issued"));
    assert_eq!(report.status.secret_name.as_deref(), Some("app-etcd-tls"));
    assert_eq!(report.status.common_name.as_deref(), Some("app"));
    assert!(report.status.serial.is_some() && report.status.certificate_expires.is_some());
    user.status = Some(report.status.clone());
    let (.., again) = reported(&user, &observed, &UserOutcome::Ready, fixture.now + SignedDuration::from_hours(100));
    assert_eq!(again.status, report.status, "an idle pass writes nothing");
    assert!(again.events.is_empty() && again.done.is_empty());
}

#[test]
fn a_user_with_a_good_certificate_stays_ready_while_nothing_can_be_issued() {
    let (fixture, user, observed) = served();
    let paused = UserOutcome::Blocked(Obstacle::Suspended(Note::new(Reason::ClusterPaused, "paused")));
    let ready = |observed: &ObservedUser, now| reported(&user, observed, &paused, now).0;
    assert_eq!(ready(&observed, fixture.now), "True");
    assert_eq!(ready(&observed, fixture.now + SignedDuration::from_hours(2161)), "False", "it has expired");
    assert_eq!(ready(&ObservedUser { secret: None, ..observed.clone() }, fixture.now), "False");
    assert_eq!(ready(&ObservedUser { cluster: None, ..observed.clone() }, fixture.now), "False", "no member accepts it");
    let mut other = observed;
    let certificates = other.cluster.as_mut().unwrap().status.as_mut().unwrap().certificates.as_mut().unwrap();
    certificates.client.as_mut().unwrap().active.key_id = "00".into();
    assert_eq!(ready(&other, fixture.now), "False", "the members trust another authority");
}

#[test]
fn a_user_is_not_ready_while_no_member_lets_the_operator_in() {
    let (fixture, user, mut observed) = served();
    assert_eq!(reported(&user, &observed, &UserOutcome::Ready, fixture.now).0, "True");
    let conditions = &mut observed.cluster.as_mut().unwrap().status.as_mut().unwrap().conditions;
    let available = conditions.iter_mut().find(|condition| condition.type_ == "Available").unwrap();
    (available.status, available.reason) = ("False".into(), "CertificateRefused".into());
    for outcome in [UserOutcome::Ready, UserOutcome::Written(None), UserOutcome::Conflict] {
        let (status, reason, report) = reported(&user, &observed, &outcome, fixture.now);
        assert_eq!((status.as_str(), reason.as_str()), ("False", "CertificateRefused"), "{outcome:?}");
        let message = &condition(&report.status.conditions, ConditionType::Ready).unwrap().message;
        assert!(message.ends_with("see condition Available of EtcdCluster demo"), "{message}");
    }
}

#[test]
fn a_refusal_is_reported_once_by_a_warning() {
    let (fixture, mut user, observed) = served();
    let outcome = UserOutcome::Blocked(Obstacle::Refused(Note::new(Reason::CommonNameTaken, "taken")));
    let (status, reason, report) = reported(&user, &observed, &outcome, fixture.now);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "CommonNameTaken"));
    assert_eq!(report.events.len(), 1);
    assert!(matches!(report.events[0].type_, EventType::Warning));
    user.status = Some(report.status);
    assert!(reported(&user, &observed, &outcome, fixture.now).2.events.is_empty());
}

/// The certificate is as good as before.
#[test]
fn a_panic_is_reported_once_and_changes_nothing_else() {
    let (fixture, mut user, observed) = served();
    let note = || Note::new(Reason::InternalError, "panicked at src/user/plan.rs:1");
    for (outcome, status) in [
        (UserOutcome::Ready, "True"),
        (UserOutcome::Blocked(Obstacle::Refused(Note::new(Reason::CommonNameTaken, "taken"))), "False"),
    ] {
        let before = report(&user, &observed, &outcome, fixture.now).status;
        user.status = Some(before.clone());
        let found = bug(&user, note(), fixture.now + SignedDuration::from_hours(1));
        let ready = condition(&found.status.conditions, ConditionType::Ready).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), (status, "InternalError"));
        assert_eq!(ready.message, "panicked at src/user/plan.rs:1");
        assert_eq!(ready.last_transition_time, before.conditions[0].last_transition_time, "the status of the condition stays");
        assert_eq!(EtcdUserStatus { conditions: before.conditions.clone(), ..found.status.clone() }, before);
        let events: Vec<_> = found.events.iter().map(|event| event.reason.as_str()).collect();
        assert_eq!((events, found.done.len()), (vec!["InternalError"], 0));
        assert!(matches!(found.events[0].type_, EventType::Warning));
        user.status = Some(found.status);
        assert!(bug(&user, note(), fixture.now).events.is_empty(), "once");
        user.status = None;
    }
    let new = bug(&user, note(), fixture.now).status;
    assert_eq!(condition(&new.conditions, ConditionType::Ready).unwrap().status, "False", "it was never ready");
}

#[test]
fn the_expiry_of_a_certificate_is_reported_if_it_will_be_renewed() {
    let (fixture, mut user, observed) = served();
    let reported = |user: &EtcdUser, observed: &ObservedUser| {
        let status = report(user, observed, &UserOutcome::Ready, fixture.now).status;
        expiry(user, observed, &status)
    };
    let leaf = observed.secret.as_ref().unwrap().certificate(tls_key::CRT).unwrap().unwrap();
    assert_eq!(reported(&user, &observed), Some(leaf.not_after()));
    assert_eq!(reported(&user, &ObservedUser { secret: None, ..observed.clone() }), None);
    assert_eq!(reported(&user, &ObservedUser { cluster: None, ..observed.clone() }), None);
    user.metadata.annotations = Some([(key::REVOKE.to_owned(), String::new())].into());
    assert_eq!(reported(&user, &observed), None);
}
