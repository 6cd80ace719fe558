//! Clusters as an earlier version left them, which did not try an authority before it signed.

use super::ISOLATED;
use crate::{
    api::IssuerSpec,
    cluster::{
        fixtures::Fixture,
        plan::{
            issuers::{
                RETRY,
                tests::{authority, ca_secret, cert_manager, set_issuer},
            },
            rotation::tests::{domain, settle, transitions},
        },
    },
    names::{annotation as key, member_key},
    pki::{Authority, Domain, Phase},
};

/// The previous authority, of the issuer to which a domain is changed in this phase, is refused from now on.
fn refused_in(of: Domain, phase: &str, before: IssuerSpec) -> (Fixture, Option<Authority>) {
    refused_from(of, phase, before, ca_secret("company"))
}

/// The same with this issuer of the authority that is refused.
fn refused_from(of: Domain, phase: &str, before: IssuerSpec, issuer: IssuerSpec) -> (Fixture, Option<Authority>) {
    let mut fixture = Fixture::bootstrapped("{}");
    let mut previous = None;
    if before != IssuerSpec::default() {
        set_issuer(&mut fixture, of, before);
        let good = authority("good", &fixture);
        previous = Some(Authority::load(good.certificate().pem().as_bytes(), good.key_pem()).unwrap());
        fixture.set_external(of, good, vec![]);
        settle(&mut fixture, &[], &[]);
    }
    set_issuer(&mut fixture, of, issuer);
    let refused = authority("servers only", &fixture);
    fixture.set_external(of, refused, vec![]);
    for _ in 0..300 {
        fixture.pass();
        if domain(&fixture, of).phase.map(Phase::as_str) == Some(phase) {
            break;
        }
    }
    assert_eq!(domain(&fixture, of).phase.map(Phase::as_str), Some(phase));
    // An earlier version did not record which authority signed the peer leaf that a pod has started with.
    for member in fixture.observed.members.values_mut() {
        let annotations = member.pod.as_mut().unwrap().metadata.annotations.as_mut().unwrap();
        let bundles = annotations.get_mut(key::BUNDLES).unwrap();
        *bundles = bundles.split(";peer-leaf=").next().unwrap().to_owned();
    }
    fixture.unacceptable.insert("servers only".into());
    fixture.allows_outage = true;
    (fixture, previous)
}

/// Makes passes until the rotation is complete. Until then not everybody trusts everybody.
fn heal(fixture: &mut Fixture, of: Domain) {
    for _ in 0..400 {
        fixture.pass();
        if domain(fixture, of).phase.is_none() {
            return;
        }
    }
    panic!("it does not heal: {:#?}", fixture.changes());
}

fn wait(fixture: &mut Fixture, passes: u32) {
    for _ in 0..passes {
        fixture.pass();
    }
}

#[test]
fn clients_that_are_locked_out_are_let_in_again_with_the_issuer_of_before() {
    let (mut fixture, _) = refused_in(Domain::Client, "Reissuing", IssuerSpec::default());
    wait(&mut fixture, 200);
    assert!(fixture.observed.list.is_err() && fixture.has_quorum(), "the operator is locked out, and etcd runs");
    let taken = fixture.taken.len();
    set_issuer(&mut fixture, Domain::Client, IssuerSpec::default());
    heal(&mut fixture, Domain::Client);
    assert_eq!(transitions(&fixture, taken), ["PrepareCA", "ReplaceCA", "FinishRotation"]);
    assert!(!fixture.trusted(member_key::CLIENT_CA).contains("servers only"));
}

#[test]
fn members_that_refuse_only_clients_are_restarted_one_after_the_other() {
    let (mut fixture, _) = refused_in(Domain::Client, "Reissuing", IssuerSpec::default());
    wait(&mut fixture, 100);
    set_issuer(&mut fixture, Domain::Client, IssuerSpec::default());
    fixture.allows_outage = false;
    for _ in 0..100 {
        fixture.pass();
        assert!(fixture.has_quorum(), "{:?}", fixture.taken);
    }
    assert!(fixture.observed.list.is_ok());
}

#[test]
fn members_that_refuse_each_other_connect_again_with_the_issuer_of_before() {
    let (mut fixture, _) = refused_in(Domain::Peer, "Dropping", IssuerSpec::default());
    wait(&mut fixture, 200);
    assert!(fixture.healthy_members() < 3, "a restarted member does not rejoin");
    let taken = fixture.taken.len();
    set_issuer(&mut fixture, Domain::Peer, IssuerSpec::default());
    fixture.now += ISOLATED;
    heal(&mut fixture, Domain::Peer);
    assert_eq!(transitions(&fixture, taken), ["PrepareCA", "ReplaceCA", "FinishRotation"]);
    assert_eq!(fixture.healthy_members(), 3);
}

#[test]
fn members_that_refuse_each_other_connect_again_with_the_next_good_authority() {
    for of in Domain::ALL {
        let phase = if of == Domain::Client { "Reissuing" } else { "Dropping" };
        let (mut fixture, previous) = refused_in(of, phase, ca_secret("before"));
        wait(&mut fixture, 200);
        set_issuer(&mut fixture, of, ca_secret("before"));
        fixture.set_external(of, previous.unwrap(), vec![]);
        fixture.now += ISOLATED;
        heal(&mut fixture, of);
        assert_eq!((domain(&fixture, of).active.name.as_str(), fixture.healthy_members()), ("good", 3));
    }
}

#[test]
fn an_issuer_of_cert_manager_is_asked_until_it_has_another_authority() {
    for (of, phase) in [(Domain::Client, "Reissuing"), (Domain::Peer, "Reissuing"), (Domain::Peer, "Dropping")] {
        let (mut fixture, previous) = refused_from(of, phase, ca_secret("before"), cert_manager("pki"));
        wait(&mut fixture, 200);
        let taken = fixture.taken.len();
        wait(&mut fixture, 200);
        assert_eq!(transitions(&fixture, taken), [] as [&str; 0], "{of} in {phase}");
        fixture.set_external(of, previous.unwrap(), vec![]);
        fixture.now += ISOLATED.max(RETRY);
        heal(&mut fixture, of);
        assert_eq!((domain(&fixture, of).active.name.as_str(), fixture.healthy_members()), ("good", 3), "{of} in {phase}");
    }
}

#[test]
fn a_refusal_without_another_authority_changes_nothing() {
    let (mut fixture, _) = refused_in(Domain::Client, "Reissuing", IssuerSpec::default());
    let taken = fixture.taken.len();
    wait(&mut fixture, 300);
    assert_eq!(transitions(&fixture, taken), [] as [&str; 0]);
}

#[test]
fn a_member_that_has_just_been_restarted_is_not_why_an_authority_is_replaced() {
    let mut fixture = Fixture::bootstrapped(r#"{"replicas": 2}"#);
    for name in ["good", "better"] {
        set_issuer(&mut fixture, Domain::Peer, ca_secret(name));
        let next = authority(name, &fixture);
        fixture.set_external(Domain::Peer, next, vec![]);
        // The member that is not restarted has run for long, and has no connection while the other one starts.
        fixture.now += ISOLATED * 2;
        let taken = fixture.taken.len();
        fixture.allows_outage = true;
        heal(&mut fixture, Domain::Peer);
        for _ in 0..400 {
            fixture.pass();
        }
        assert!(!transitions(&fixture, taken).iter().any(|step| step == "ReplaceCA"), "{:?}", transitions(&fixture, taken));
        assert_eq!(domain(&fixture, Domain::Peer).active.name, name);
    }
}
