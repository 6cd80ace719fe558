//! Clusters as an earlier version left them, which did not try an authority before it signed.

use super::ISOLATED;
use crate::{
    api::IssuerSpec,
    cluster::{
        fixtures::World,
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
fn refused_in(of: Domain, phase: &str, before: IssuerSpec) -> (World, Option<Authority>) {
    refused_from(of, phase, before, ca_secret("company"))
}

/// The same with this issuer of the authority that is refused.
fn refused_from(of: Domain, phase: &str, before: IssuerSpec, issuer: IssuerSpec) -> (World, Option<Authority>) {
    let mut world = World::bootstrapped("{}");
    let mut previous = None;
    if before != IssuerSpec::default() {
        set_issuer(&mut world, of, before);
        let good = authority("good", &world);
        previous = Some(Authority::load(good.certificate().pem().as_bytes(), good.key_pem()).unwrap());
        world.set_external(of, good, vec![]);
        settle(&mut world, &[], &[]);
    }
    set_issuer(&mut world, of, issuer);
    let refused = authority("servers only", &world);
    world.set_external(of, refused, vec![]);
    for _ in 0..300 {
        world.pass();
        if domain(&world, of).phase.map(Phase::as_str) == Some(phase) {
            break;
        }
    }
    assert_eq!(domain(&world, of).phase.map(Phase::as_str), Some(phase));
    // An earlier version did not record which authority signed the peer leaf that a pod has started with.
    for member in world.observed.members.values_mut() {
        let annotations = member.pod.as_mut().unwrap().metadata.annotations.as_mut().unwrap();
        let bundles = annotations.get_mut(key::BUNDLES).unwrap();
        *bundles = bundles.split(";peer-leaf=").next().unwrap().to_owned();
    }
    world.unacceptable.insert("servers only".into());
    world.allows_outage = true;
    (world, previous)
}

/// Makes passes until the rotation is complete. Until then not everybody trusts everybody.
fn heal(world: &mut World, of: Domain) {
    for _ in 0..400 {
        world.pass();
        if domain(world, of).phase.is_none() {
            return;
        }
    }
    panic!("it does not heal: {:#?}", world.changes());
}

fn wait(world: &mut World, passes: u32) {
    for _ in 0..passes {
        world.pass();
    }
}

#[test]
fn clients_that_are_locked_out_are_let_in_again_with_the_issuer_of_before() {
    let (mut world, _) = refused_in(Domain::Client, "Reissuing", IssuerSpec::default());
    wait(&mut world, 200);
    assert!(world.observed.list.is_err() && world.has_quorum(), "the operator is locked out, and etcd runs");
    let taken = world.taken.len();
    set_issuer(&mut world, Domain::Client, IssuerSpec::default());
    heal(&mut world, Domain::Client);
    assert_eq!(transitions(&world, taken), ["PrepareCA", "ReplaceCA", "FinishRotation"]);
    assert!(!world.trusted(member_key::CLIENT_CA).contains("servers only"));
}

#[test]
fn members_that_refuse_only_clients_are_restarted_one_after_the_other() {
    let (mut world, _) = refused_in(Domain::Client, "Reissuing", IssuerSpec::default());
    wait(&mut world, 100);
    set_issuer(&mut world, Domain::Client, IssuerSpec::default());
    world.allows_outage = false;
    for _ in 0..100 {
        world.pass();
        assert!(world.has_quorum(), "{:?}", world.taken);
    }
    assert!(world.observed.list.is_ok());
}

#[test]
fn members_that_refuse_each_other_connect_again_with_the_issuer_of_before() {
    let (mut world, _) = refused_in(Domain::Peer, "Dropping", IssuerSpec::default());
    wait(&mut world, 200);
    assert!(world.healthy_members() < 3, "a restarted member does not rejoin");
    let taken = world.taken.len();
    set_issuer(&mut world, Domain::Peer, IssuerSpec::default());
    world.now += ISOLATED;
    heal(&mut world, Domain::Peer);
    assert_eq!(transitions(&world, taken), ["PrepareCA", "ReplaceCA", "FinishRotation"]);
    assert_eq!(world.healthy_members(), 3);
}

#[test]
fn members_that_refuse_each_other_connect_again_with_the_next_good_authority() {
    for of in Domain::ALL {
        let phase = if of == Domain::Client { "Reissuing" } else { "Dropping" };
        let (mut world, previous) = refused_in(of, phase, ca_secret("before"));
        wait(&mut world, 200);
        set_issuer(&mut world, of, ca_secret("before"));
        world.set_external(of, previous.unwrap(), vec![]);
        world.now += ISOLATED;
        heal(&mut world, of);
        assert_eq!((domain(&world, of).active.name.as_str(), world.healthy_members()), ("good", 3));
    }
}

#[test]
fn an_issuer_of_cert_manager_is_asked_until_it_has_another_authority() {
    for (of, phase) in [(Domain::Client, "Reissuing"), (Domain::Peer, "Reissuing"), (Domain::Peer, "Dropping")] {
        let (mut world, previous) = refused_from(of, phase, ca_secret("before"), cert_manager("pki"));
        wait(&mut world, 200);
        let taken = world.taken.len();
        wait(&mut world, 200);
        assert_eq!(transitions(&world, taken), [] as [&str; 0], "{of} in {phase}");
        world.set_external(of, previous.unwrap(), vec![]);
        world.now += ISOLATED.max(RETRY);
        heal(&mut world, of);
        assert_eq!((domain(&world, of).active.name.as_str(), world.healthy_members()), ("good", 3), "{of} in {phase}");
    }
}

#[test]
fn a_refusal_without_another_authority_changes_nothing() {
    let (mut world, _) = refused_in(Domain::Client, "Reissuing", IssuerSpec::default());
    let taken = world.taken.len();
    wait(&mut world, 300);
    assert_eq!(transitions(&world, taken), [] as [&str; 0]);
}

#[test]
fn a_member_that_has_just_been_restarted_is_not_why_an_authority_is_replaced() {
    let mut world = World::bootstrapped(r#"{"replicas": 2}"#);
    for name in ["good", "better"] {
        set_issuer(&mut world, Domain::Peer, ca_secret(name));
        let next = authority(name, &world);
        world.set_external(Domain::Peer, next, vec![]);
        // The member that is not restarted has run for long, and has no connection while the other one starts.
        world.now += ISOLATED * 2;
        let taken = world.taken.len();
        world.allows_outage = true;
        heal(&mut world, Domain::Peer);
        for _ in 0..400 {
            world.pass();
        }
        assert!(!transitions(&world, taken).iter().any(|step| step == "ReplaceCA"), "{:?}", transitions(&world, taken));
        assert_eq!(domain(&world, Domain::Peer).active.name, name);
    }
}
