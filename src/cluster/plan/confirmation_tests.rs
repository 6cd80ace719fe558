//! Confirming that members present their certificates.

use crate::{
    api::{Duration, Reason},
    cluster::{
        fixtures::{Fixture, SECOND, names, reasons},
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
fn renewed() -> Fixture {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.kubelet = false;
    fixture.cluster.spec.tls.client.extra_sans.dns_names = vec!["etcd.example.com".into()];
    assert_eq!(fixture.pass().changes().secrets.len(), 1);
    fixture
}

#[test]
fn a_pod_with_a_renewed_leaf_is_touched_again_until_confirmed() {
    let mut fixture = renewed();
    let touch = fixture.pass().changes();
    assert_eq!(annotations(&touch), [key::TLS_TOUCHED]);
    assert_eq!(touch.next_check(), SOON);
    assert_eq!(reasons(&touch.certificates), [Reason::NotServedYet]);
    for _ in 0..4 {
        assert!(fixture.pass().is_idle(), "the kubelet has 5 s");
    }
    assert_eq!(annotations(&fixture.pass().changes()), [key::TLS_TOUCHED]);
    fixture.kubelet = true;
    for _ in 0..4 {
        fixture.pass();
    }
    assert_eq!(annotations(&fixture.pass().changes()), [key::TLS_TOUCHED], "now the kubelet refreshes the files");
    let confirmed = fixture.pass().changes();
    assert_eq!(annotations(&confirmed), [key::TLS_CONFIRMED]);
    assert!(confirmed.certificates.is_empty());
    let idle = fixture.changes();
    assert!(idle.is_empty());
    assert_eq!(idle.next_check(), IDLE);
}

#[test]
fn the_peer_leaf_is_confirmed_on_the_peer_port() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.kubelet = false;
    fixture.cluster.spec.tls.peer.certificate.duration = Duration("24h".into());
    assert_eq!(leaves(&fixture.pass().changes()), [("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])]);
    let is_confirmed = |fixture: &mut Fixture| {
        let secret = fixture.member(0).secret.as_ref().unwrap().fingerprint().to_owned();
        fixture.pod(0).metadata.annotations.as_ref().unwrap().get(key::TLS_CONFIRMED) == Some(&secret)
    };
    for _ in 0..20 {
        assert_eq!(reasons(&fixture.pass().changes().certificates), [Reason::NotServedYet]);
        assert!(!is_confirmed(&mut fixture));
    }
    fixture.kubelet = true;
    fixture.settle();
    assert!(is_confirmed(&mut fixture));
}

#[test]
fn a_pod_whose_peer_port_does_not_answer_is_touched_once() {
    let mut fixture = renewed();
    let with_silent_peer_port = |fixture: &mut Fixture| {
        fixture.plan();
        let mut observed = fixture.observed.clone();
        let member = observed.members.get_mut(&names().member(0)).unwrap();
        let secret = member.secret.as_ref().unwrap();
        let served = secret.certificate(member_key::SERVER_CRT).unwrap().unwrap().der().to_vec();
        let Probe::Reached(_, status) = member.etcd.clone() else { panic!() };
        member.etcd = Probe::Reached(served, status);
        member.peer_leaf = Some(Err("timed out".into()));
        match fixture.plan_on(&observed) {
            Plan::Change(changes) => changes,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(annotations(&with_silent_peer_port(&mut fixture)), [key::TLS_TOUCHED]);
    fixture.pass();
    fixture.now += SECOND * 60;
    let plan = with_silent_peer_port(&mut fixture);
    assert!(plan.is_empty());
    assert!(plan.certificates[0].message.contains("timed out"), "{}", plan.certificates[0].message);
}

#[test]
fn a_pod_that_cannot_be_reached_is_touched_once() {
    let mut fixture = renewed();
    fixture.silent.insert(names().member(0));
    assert_eq!(annotations(&fixture.pass().changes()), [key::TLS_TOUCHED], "its leaf may have expired");
    fixture.now += SECOND * 60;
    let plan = fixture.changes();
    assert!(plan.is_empty());
    assert_eq!(plan.next_check(), PENDING);
}

#[test]
fn a_pod_that_started_unobserved_is_touched_once_for_certificates_issued_since() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.silent.insert(names().member(0));
    fixture.now += SECOND * 11;
    let pod = fixture.pod(0);
    pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    assert_eq!(
        annotations(&fixture.changes()),
        [key::TLS_TOUCHED],
        "it has run for some time, and its certificates may have expired"
    );
    fixture.pass();
    assert_eq!(annotations(&fixture.changes()), [""; 0], "only once, because the member cannot be asked whether that helped");
}
