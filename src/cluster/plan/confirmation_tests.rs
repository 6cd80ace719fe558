//! Confirming that members present their certificates.

use crate::{
    api::{Duration, Reason},
    cluster::{
        fixtures::{SECOND, World, names, reasons},
        observed::Probe,
        plan::{
            changes::{IDLE, PENDING, Plan, SOON},
            tests::{ONE, annotations, leaves},
        },
    },
    names::{annotation as key, member_key},
};

// Confirmation.

/// A member whose Secret was renewed and not yet refreshed by its kubelet.
fn renewed() -> World {
    let mut world = World::bootstrapped(ONE);
    world.kubelet = false;
    world.cluster.spec.tls.client.extra_sans.dns_names = vec!["etcd.example.com".into()];
    assert_eq!(world.pass().changes().secrets.len(), 1);
    world
}

#[test]
fn a_pod_with_a_renewed_leaf_is_touched_again_until_confirmed() {
    let mut world = renewed();
    let touch = world.pass().changes();
    assert_eq!(annotations(&touch), [key::TLS_TOUCHED]);
    assert_eq!(touch.next_check(), SOON);
    assert_eq!(reasons(&touch.certificates), [Reason::NotServedYet]);
    for _ in 0..4 {
        assert!(world.pass().is_idle(), "the kubelet has 5 s");
    }
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED]);
    world.kubelet = true;
    for _ in 0..4 {
        world.pass();
    }
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED], "now the kubelet refreshes the files");
    let confirmed = world.pass().changes();
    assert_eq!(annotations(&confirmed), [key::TLS_CONFIRMED]);
    assert!(confirmed.certificates.is_empty());
    let idle = world.changes();
    assert!(idle.is_empty());
    assert_eq!(idle.next_check(), IDLE);
}

#[test]
fn the_peer_leaf_is_confirmed_on_the_peer_port() {
    let mut world = World::bootstrapped(ONE);
    world.kubelet = false;
    world.cluster.spec.tls.peer.certificate.duration = Duration("24h".into());
    assert_eq!(leaves(&world.pass().changes()), [("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])]);
    let is_confirmed = |world: &mut World| {
        let secret = world.member(0).secret.as_ref().unwrap().fingerprint().to_owned();
        world.pod(0).metadata.annotations.as_ref().unwrap().get(key::TLS_CONFIRMED) == Some(&secret)
    };
    for _ in 0..20 {
        assert_eq!(reasons(&world.pass().changes().certificates), [Reason::NotServedYet]);
        assert!(!is_confirmed(&mut world));
    }
    world.kubelet = true;
    world.settle();
    assert!(is_confirmed(&mut world));
}

#[test]
fn a_pod_whose_peer_port_does_not_answer_is_touched_once() {
    let mut world = renewed();
    let with_silent_peer_port = |world: &mut World| {
        world.plan();
        let mut observed = world.observed.clone();
        let member = observed.members.get_mut(&names().member(0)).unwrap();
        let secret = member.secret.as_ref().unwrap();
        let served = secret.certificate(member_key::SERVER_CRT).unwrap().unwrap().der().to_vec();
        let Probe::Reached(_, status) = member.etcd.clone() else { panic!() };
        member.etcd = Probe::Reached(served, status);
        member.peer_leaf = Some(Err("timed out".into()));
        match world.plan_on(&observed) {
            Plan::Change(changes) => changes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(annotations(&with_silent_peer_port(&mut world)), [key::TLS_TOUCHED]);
    world.pass();
    world.now += SECOND * 60;
    let plan = with_silent_peer_port(&mut world);
    assert!(plan.is_empty());
    assert!(plan.certificates[0].message.contains("timed out"), "{}", plan.certificates[0].message);
}

#[test]
fn a_pod_that_cannot_be_reached_is_touched_once() {
    let mut world = renewed();
    world.silent.insert(names().member(0));
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED], "its leaf may have expired");
    world.now += SECOND * 60;
    let plan = world.changes();
    assert!(plan.is_empty());
    assert_eq!(plan.next_check(), PENDING);
}

#[test]
fn a_pod_that_started_unobserved_is_touched_once_for_certificates_issued_since() {
    let mut world = World::bootstrapped(ONE);
    world.silent.insert(names().member(0));
    world.now += SECOND * 11;
    let pod = world.pod(0);
    pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    assert_eq!(
        annotations(&world.changes()),
        [key::TLS_TOUCHED],
        "it has run for some time, and its certificates may have expired"
    );
    world.pass();
    assert_eq!(annotations(&world.changes()), [""; 0], "only once, because the member cannot be asked whether that helped");
}
