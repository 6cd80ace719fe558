//! When it is said that the CA of an external issuer expires soon.

use super::*;
use crate::{
    api::{ConditionType, condition},
    cluster::{
        fixtures::Fixture,
        plan::{
            issuers::tests::authority_below,
            rotation::tests::{DAY, advance_time, settle},
        },
    },
    pki::Authority,
    reporting::publish::Report,
};

const CA_SECRET: &str = "{replicas: 1, tls: {client: {issuer: {caSecret: {name: company}}}}}";
const CERT_MANAGER: &str = "{replicas: 1, tls: {client: {issuer: {certManager: {name: pki}}}}}";

/// A cluster whose client CA is external and valid for this many days.
fn bootstrapped(spec: &str, days: i32) -> Fixture {
    let mut fixture = Fixture::new(spec);
    let company = Authority::create("company", DAY * days, fixture.now).unwrap();
    fixture.set_external(Domain::Client, company, vec![]);
    settle(&mut fixture, &[], &[]);
    fixture
}

/// The warnings, this many days later.
fn later(fixture: &mut Fixture, days: i32) -> Vec<String> {
    advance_time(fixture, DAY * days, &[], &[]);
    warnings(fixture)
}

fn warnings(fixture: &mut Fixture) -> Vec<String> {
    let upcoming = fixture.changes().upcoming;
    let soon = upcoming.iter().filter(|note| note.reason == Reason::CAExpiresSoon);
    soon.map(|note| note.message.clone()).collect()
}

#[test]
fn a_ca_is_warned_of_at_most_a_year_before_it_expires() {
    let mut fixture = bootstrapped(CA_SECRET, 1300);
    assert!(warnings(&mut fixture).is_empty());
    assert!(later(&mut fixture, 1300 - 366).is_empty());
    fixture.now += DAY * 2;
    let report = fixture.pass().report;
    let degraded = condition(&report.status.conditions, ConditionType::Degraded).unwrap();
    assert_eq!((degraded.status.as_str(), degraded.reason.as_str()), ("True", "CAExpiresSoon"));
    let end = fixture.external[&Domain::Client].1.authority.not_after();
    for words in
        [format!("the client CA \"company\" expires at {end:.0}"), "kubectl -n ns create secret generic company".to_owned()]
    {
        assert!(degraded.message.contains(&words), "{}", degraded.message);
    }
    let is_said = |report: &Report| report.events.iter().any(|event| event.reason == "CAExpiresSoon");
    assert!(is_said(&report) && !is_said(&fixture.pass().report), "it is said once");
    let renewed = Authority::create("renewed", DAY * 3650, fixture.now).unwrap();
    fixture.set_external(Domain::Client, renewed, vec![]);
    assert!(warnings(&mut fixture).is_empty(), "the new one is being distributed");
    assert!(later(&mut fixture, 1).is_empty());
}

#[test]
fn a_ca_that_lives_shorter_is_warned_of_when_three_tenths_are_left() {
    for (spec, days, quiet) in [(CA_SECRET, 90, 62), (CERT_MANAGER, 90, 62), (CERT_MANAGER, 30, 20), (CA_SECRET, 400, 279)] {
        let mut fixture = bootstrapped(spec, days);
        assert!(warnings(&mut fixture).is_empty(), "{days} days");
        assert!(later(&mut fixture, quiet).is_empty(), "{days} days");
        let warned = later(&mut fixture, 2);
        assert_eq!(warned.len(), 1, "{days} days: {warned:?}");
        assert!(spec == CA_SECRET || warned[0].ends_with("Renew the CA that Issuer pki signs with"), "{warned:?}");
    }
}

#[test]
fn a_ca_is_warned_of_once_it_cuts_certificates_short() {
    let mut fixture = bootstrapped(CA_SECRET, 80);
    assert_eq!(warnings(&mut fixture).len(), 1, "certificates are valid for 90 days by default");
    fixture.cluster.spec.tls.client.certificate.duration = crate::api::Duration("240h".into());
    assert!(later(&mut fixture, 1).is_empty());
}

#[test]
fn a_built_in_ca_is_never_warned_of() {
    let mut fixture = Fixture::bootstrapped("replicas: 1");
    for _ in 0..30 {
        assert!(later(&mut fixture, 60).is_empty());
    }
}

#[test]
fn a_root_that_expires_first_is_warned_of() {
    let mut fixture = Fixture::new(CA_SECRET);
    let (company, root) = authority_below("company", 3650, 1000, &fixture);
    fixture.set_external(Domain::Client, company, vec![root]);
    settle(&mut fixture, &[], &[]);
    assert!(later(&mut fixture, 690).is_empty());
    let warned = later(&mut fixture, 20);
    assert!(warned[0].starts_with("CA \"an offline root\", which is above the client CA \"company\", expires at"), "{warned:?}");
}
