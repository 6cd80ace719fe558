use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::runtime::events::EventType;

use super::*;
use crate::{
    api::EtcdUserStatus,
    cluster::{
        fixtures::{World, names},
        observed::SecretView,
        status::Report,
    },
    pki::Stale,
    user::status::{Outcome, READY, expiry, report},
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

/// What there is around a user of a cluster that serves.
fn around(world: &World) -> Observed {
    Observed {
        names: names(),
        cluster: Some(world.cluster.clone()),
        authority: world.observed.client_authority.clone(),
        secret: None,
        others: vec![],
    }
}

/// A served user: the world, the user and what there is around it.
fn served() -> (World, EtcdUser, Observed) {
    let mut world = World::founded("replicas: 1");
    let (user, mut observed) = (app(), around(&world));
    let Plan::Issue(change) = plan(&user, &observed, world.now) else { panic!("there is no Secret yet") };
    let mut secret = SecretView::default();
    secret.meta.owner_references = Some(vec![OwnerReference {
        controller: Some(true),
        kind: "EtcdUser".into(),
        name: "app".into(),
        uid: "uid-of-app".into(),
        ..OwnerReference::default()
    }]);
    world.issue(&mut secret, &change);
    observed.secret = Some(secret.into());
    observed.authority = world.observed.client_authority.clone();
    (world, user, observed)
}

fn issued(plan: &Plan) -> (Vec<&Stale>, Vec<&str>) {
    let Plan::Issue(change) = plan else { panic!("{plan:?}") };
    (change.leaves.iter().map(|leaf| &leaf.why).collect(), change.files.keys().map(String::as_str).collect())
}

fn refused(plan: &Plan) -> (&'static str, &str) {
    let Plan::Refused(note) = plan else { panic!("{plan:?}") };
    (note.reason, &note.message)
}

fn waiting(plan: &Plan) -> (&'static str, &str) {
    let (Plan::Waiting(note) | Plan::Held(note)) = plan else { panic!("{plan:?}") };
    (note.reason, &note.message)
}

#[test]
fn a_new_user_is_issued_a_client_certificate() {
    let world = World::founded("replicas: 1");
    let Plan::Issue(change) = plan(&app(), &around(&world), world.now) else { panic!() };
    assert_eq!((change.name.as_str(), change.type_, &change.version), ("app-etcd-tls", "kubernetes.io/tls", &None));
    assert_eq!(change.labels[label::USER], "app");
    assert_eq!(change.files.keys().collect::<Vec<_>>(), ["ca.crt", "endpoints"]);
    assert_eq!(change.files["endpoints"], b"https://demo.ns.svc:2379");
    let [leaf] = change.leaves.as_slice() else { panic!() };
    assert_eq!((leaf.spec.common_name.as_str(), leaf.spec.usage, leaf.domain), ("app", Usage::Client, Domain::Client));
    assert!(leaf.spec.dns_names.is_empty() && leaf.spec.ip_addresses.is_empty());
    assert_eq!(leaf.holder, Holder::User { name: "app".into(), uid: "uid-of-app".into() });
}

#[test]
fn a_served_user_is_left_alone_until_the_renewal() {
    let (world, user, observed) = served();
    let at = |hours| plan(&user, &observed, world.now + SignedDuration::from_hours(hours));
    assert_eq!(at(0), Plan::Nothing);
    // Renewals are spread over the last twentieth of the life before.
    assert_eq!(at(1440 - 108 - 1), Plan::Nothing);
    assert_eq!(issued(&at(1440)), (vec![&Stale::Due], vec![]));
    assert_eq!(issued(&at(2161)), (vec![&Stale::Expired], vec![]));
}

#[test]
fn what_is_missing_from_the_secret_is_put_back() {
    let (world, user, observed) = served();
    let without = |key: &str| {
        let mut observed = observed.clone();
        observed.secret.as_mut().unwrap().data.remove(key);
        plan(&user, &observed, world.now)
    };
    assert_eq!(issued(&without("tls.crt")), (vec![&Stale::Missing], vec![]));
    assert_eq!(issued(&without("tls.key")), (vec![&Stale::KeyDoesNotFit], vec![]));
    assert_eq!(issued(&without("ca.crt")), (vec![], vec!["ca.crt"]));
    assert_eq!(issued(&without("endpoints")), (vec![], vec!["endpoints"]));
    let mut shorter = user.clone();
    shorter.spec.certificate.duration = crate::api::Duration("24h".into());
    assert_eq!(issued(&plan(&shorter, &observed, world.now)), (vec![&Stale::TooLong], vec![]));
}

#[test]
fn names_of_the_operators_own_are_refused() {
    let world = World::founded("replicas: 1");
    for (user, about) in [
        (user("root", "clusterRef: {name: demo}"), "root is the operator's own"),
        (user("app", "{clusterRef: {name: demo}, commonName: root}"), "root is the operator's own"),
        (user("app", "{clusterRef: {name: demo}, commonName: 'etcd-warden:server'}"), "the operator's own"),
        (user("app", "{clusterRef: {name: demo}, commonName: ''}"), "1 to 64 characters"),
        (user(&"a".repeat(65), "clusterRef: {name: demo}"), "1 to 64 characters"),
        (user("app", "{clusterRef: {name: demo}, certificate: {duration: 59m}}"), "spec.certificate.duration is 59m"),
        (user("app", "{clusterRef: {name: demo}, certificate: {duration: 90d}}"), "is not a duration"),
    ] {
        let plan = plan(&user, &around(&world), world.now);
        let (reason, message) = refused(&plan);
        assert_eq!(reason, "InvalidSpec");
        assert!(message.contains(about), "{message}");
    }
}

#[test]
fn of_two_with_one_name_the_older_has_it() {
    let (world, app, mut observed) = served();
    let mut twin = user("twin", "{clusterRef: {name: demo}, commonName: app}");
    observed.others = vec![twin.clone()];
    assert_eq!(plan(&app, &observed, world.now), Plan::Nothing, "of one age, the lesser uid is the older");
    let seen_by = |_: &EtcdUser| Observed { others: vec![app.clone()], ..around(&world) };
    let plan_of_twin = plan(&twin, &seen_by(&twin), world.now);
    let (reason, message) = refused(&plan_of_twin);
    assert_eq!(reason, "CommonNameTaken");
    assert!(message.contains("EtcdUser app has the common name app already"), "{message}");

    twin.metadata.creation_timestamp = Some(Time("2026-02-01T00:00:00Z".parse().unwrap()));
    assert!(matches!(plan(&twin, &seen_by(&twin), world.now), Plan::Issue(_)));
    observed.others = vec![twin.clone()];
    assert_eq!(refused(&plan(&app, &observed, world.now)).0, "CommonNameTaken");

    twin.spec.cluster_ref.name = "other".into();
    observed.others = vec![twin];
    assert_eq!(plan(&app, &observed, world.now), Plan::Nothing, "each cluster has names of its own");
}

#[test]
fn of_two_with_one_secret_the_older_has_it() {
    let (world, app, observed) = served();
    let twin = user("twin", "{clusterRef: {name: other}, secretName: app-etcd-tls}");
    let plan = plan(&twin, &Observed { others: vec![app], ..observed }, world.now);
    let (reason, message) = refused(&plan);
    assert_eq!(reason, "SecretNameTaken");
    assert!(message.contains("EtcdUser app has the Secret app-etcd-tls already"), "{message}");
}

#[test]
fn a_secret_that_is_anothers_is_never_written() {
    let (world, user, mut observed) = served();
    observed.secret.as_mut().unwrap().meta.owner_references = None;
    let plan = plan(&user, &observed, world.now);
    let (reason, message) = refused(&plan);
    assert_eq!(reason, "NameTaken");
    assert!(message.contains("Secret app-etcd-tls cannot be used: etcd-warden did not make it"), "{message}");
}

#[test]
fn what_is_not_there_yet_is_waited_for() {
    let (world, user, observed) = served();
    let none = Observed { cluster: None, ..observed.clone() };
    assert_eq!(
        waiting(&plan(&user, &none, world.now)),
        ("ClusterNotFound", "there is no EtcdCluster demo in this namespace; waiting for it")
    );
    let mut starting = Observed { authority: None, ..observed.clone() };
    starting.cluster.as_mut().unwrap().status = None;
    assert_eq!(waiting(&plan(&user, &starting, world.now)).0, "ClusterNotReady");
    let lost = Observed { authority: None, ..observed.clone() };
    assert_eq!(waiting(&plan(&user, &lost, world.now)).0, "AuthorityLost");
    let mut other = observed.clone();
    other.authority.as_mut().unwrap().meta.annotations = None;
    other.authority.as_mut().unwrap().meta.owner_references = None;
    assert_eq!(waiting(&plan(&user, &other, world.now)).0, "AuthorityLost");
    let mut paused = observed;
    paused.cluster.as_mut().unwrap().spec.paused = true;
    assert_eq!(waiting(&plan(&user, &paused, world.now)).0, "ClusterPaused");
}

// What is told.

fn told(user: &EtcdUser, observed: &Observed, outcome: &Outcome, now: Timestamp) -> (String, String, Report<EtcdUserStatus>) {
    let report = report(user, observed, outcome, now);
    let condition = crate::api::condition(&report.status.conditions, READY).unwrap();
    (condition.status.clone(), condition.reason.clone(), report)
}

#[test]
fn a_user_is_ready_once_the_secret_holds_a_certificate() {
    let (world, mut user, observed) = served();
    let new = Observed { secret: None, ..observed.clone() };
    let (status, reason, report) = told(&user, &new, &Outcome::Issued(Some("does not exist".into())), world.now);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Issuing"));
    assert!(report.events.is_empty());
    let [done] = report.done.as_slice() else { panic!("one thing was done") };
    assert_eq!(done.reason, "CertificateIssued");
    assert_eq!(
        done.note.as_deref().unwrap(),
        "issued a certificate for app in Secret app-etcd-tls: the certificate does not exist"
    );

    user.status = Some(report.status);
    let (status, reason, report) = told(&user, &observed, &Outcome::Ready, world.now);
    assert_eq!((status.as_str(), reason.as_str()), ("True", "Issued"));
    assert_eq!(report.status.secret_name.as_deref(), Some("app-etcd-tls"));
    assert_eq!(report.status.common_name.as_deref(), Some("app"));
    assert!(report.status.serial.is_some() && report.status.certificate_expires.is_some());
    user.status = Some(report.status.clone());
    let (.., again) = told(&user, &observed, &Outcome::Ready, world.now + SignedDuration::from_hours(100));
    assert_eq!(again.status, report.status, "an idle pass writes nothing");
    assert!(again.events.is_empty() && again.done.is_empty());
}

#[test]
fn a_user_with_a_good_certificate_stays_ready_while_nothing_can_be_issued() {
    let (world, user, observed) = served();
    let paused = Outcome::Held(Note::new("ClusterPaused", "paused"));
    let ready = |observed: &Observed, now| told(&user, observed, &paused, now).0;
    assert_eq!(ready(&observed, world.now), "True");
    assert_eq!(ready(&observed, world.now + SignedDuration::from_hours(2161)), "False", "it has expired");
    assert_eq!(ready(&Observed { secret: None, ..observed.clone() }, world.now), "False");
    assert_eq!(ready(&Observed { cluster: None, ..observed.clone() }, world.now), "False", "nobody accepts it");
    let mut other = observed;
    let certificates = other.cluster.as_mut().unwrap().status.as_mut().unwrap().certificates.as_mut().unwrap();
    certificates.client.as_mut().unwrap().active.key_id = "00".into();
    assert_eq!(ready(&other, world.now), "False", "the members trust another authority");
}

#[test]
fn a_refusal_is_a_warning_told_once() {
    let (world, mut user, observed) = served();
    let outcome = Outcome::Refused(Note::new("CommonNameTaken", "taken"));
    let (status, reason, report) = told(&user, &observed, &outcome, world.now);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "CommonNameTaken"));
    assert_eq!(report.events.len(), 1);
    assert!(matches!(report.events[0].type_, EventType::Warning));
    user.status = Some(report.status);
    assert!(told(&user, &observed, &outcome, world.now).2.events.is_empty());
}

#[test]
fn the_end_of_a_certificate_is_told_unless_it_is_not_to_be_renewed() {
    let (world, mut user, observed) = served();
    let told = |user: &EtcdUser, observed: &Observed| {
        let status = report(user, observed, &Outcome::Ready, world.now).status;
        expiry(user, observed, &status)
    };
    let leaf = observed.secret.as_ref().unwrap().certificate(tls_key::CRT).unwrap().unwrap();
    assert_eq!(told(&user, &observed), Some(leaf.not_after()));
    assert_eq!(told(&user, &Observed { secret: None, ..observed.clone() }), None);
    assert_eq!(told(&user, &Observed { cluster: None, ..observed.clone() }), None);
    user.metadata.annotations = Some([(annotation::REVOKE.to_owned(), String::new())].into());
    assert_eq!(told(&user, &observed), None);
}
