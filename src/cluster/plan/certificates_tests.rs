//! Authorities and leaves.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::{
    api::{Duration, Reason, Retention},
    certificates::secret::CachedSecret,
    cluster::{
        fixtures::{Fixture, names, reasons},
        plan::tests::{Change, Leaves, ONE, days, leaves},
    },
    kubernetes::secret::SecretView,
    names::{annotation, authority_key, member_key},
    pki::{Authority, Domain, Holder, Ledger, ReissueReason},
};

// Authorities.

#[test]
fn a_lost_authority_is_never_recreated() {
    type Loss = fn(&mut Option<CachedSecret>);
    let losses: [(&str, Loss); 6] = [
        ("is missing", |secret| *secret = None),
        ("active.crt is missing", |secret| secret.as_mut().unwrap().data.clear()),
        ("active.key is missing", |secret| drop(secret.as_mut().unwrap().data.remove(authority_key::ACTIVE_KEY))),
        ("next.crt", |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::NEXT_CRT.into(), b"edited".to_vec()))),
        ("does not belong to this cluster", |secret| secret.as_mut().unwrap().meta.annotations = None),
        ("holds other CAs", |secret| {
            let now = "2026-03-01T12:00:00Z".parse().unwrap();
            let other = Authority::create("other", SignedDuration::from_hours(9999), now).unwrap();
            let data = &mut secret.as_mut().unwrap().data;
            data.insert(authority_key::ACTIVE_CRT.into(), other.certificate().pem().into());
            data.insert(authority_key::ACTIVE_KEY.into(), other.certificate().key_digest().to_hex().into());
        }),
    ];
    for domain in [Domain::Client, Domain::Peer] {
        for (problem, lose) in losses {
            let mut fixture = Fixture::bootstrapped("{}");
            lose(fixture.authority_secret(domain));
            fixture.now += days(61);
            let plan = fixture.changes();
            assert!(plan.authorities.is_empty());
            let lost: Vec<_> = plan.lost.iter().filter(|note| note.reason == Reason::CALost).collect();
            assert_eq!(lost.len(), 1, "{problem}");
            assert!(lost[0].message.contains(problem), "{problem}: {}", lost[0].message);
            let domains: BTreeSet<_> = plan.secrets.iter().flat_map(|change| &change.leaves).map(|leaf| leaf.domain).collect();
            assert_eq!(domains, [domain.other()].into(), "the other domain still issues");
        }
    }
}

#[test]
fn no_authority_is_created_while_members_may_trust_another() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.observed.authorities.client = None;
    fixture.observed.status.certificates = None;
    fixture.cluster.status = None;
    let plan = fixture.changes();
    assert!(plan.authorities.is_empty(), "the members' Secrets exist");
    assert!(reasons(&plan.lost).contains(&Reason::CALost));
}

// Leaves.

#[test]
fn only_the_leaf_that_needs_it_is_reissued() {
    let server = member_key::SERVER_CRT;
    let all_server = vec![("demo-0-tls".to_owned(), vec![server])];
    let changes: [(&str, Change, Leaves); 6] = [
        ("missing", |w| drop(w.member(0).secret.as_mut().unwrap().data.remove(member_key::SERVER_CRT)), all_server.clone()),
        (
            "unreadable",
            |w| drop(w.member(0).secret.as_mut().unwrap().data.insert(member_key::SERVER_CRT.into(), b"x".to_vec())),
            all_server.clone(),
        ),
        (
            "another key",
            |w| {
                let data = &mut w.member(0).secret.as_mut().unwrap().data;
                let other = data[member_key::PEER_KEY].clone();
                data.insert(member_key::SERVER_KEY.into(), other);
            },
            all_server.clone(),
        ),
        ("other names", |w| w.cluster.spec.tls.client.extra_sans.dns_names = vec!["etcd.example.com".into()], all_server.clone()),
        (
            "shortened",
            |w| w.cluster.spec.tls.peer.certificate.duration = Duration("24h".into()),
            vec![("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])],
        ),
        (
            "operator's",
            |w| drop(w.observed.operator.as_mut().unwrap().data.remove("tls.key")),
            vec![("demo-operator-tls".to_owned(), vec!["tls.crt"])],
        ),
    ];
    for (what, change, expected) in changes {
        let mut fixture = Fixture::bootstrapped(ONE);
        change(&mut fixture);
        assert_eq!(leaves(&fixture.changes()), expected, "{what}");
        fixture.settle();
        assert!(fixture.is_idle(), "{what}");
    }
}

#[test]
fn leaves_with_different_lifetimes_are_renewed_separately() {
    let mut fixture = Fixture::bootstrapped("{replicas: 1, tls: {peer: {certificate: {duration: 24h}}}}");
    fixture.now += SignedDuration::from_hours(17);
    assert_eq!(leaves(&fixture.changes()), [("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])]);
    fixture.now += days(100);
    let expired: Vec<_> = fixture.changes().secrets.iter().flat_map(|c| c.leaves.clone()).map(|leaf| leaf.why).collect();
    assert_eq!(expired, [ReissueReason::Expired, ReissueReason::Expired, ReissueReason::Expired, ReissueReason::Expired]);
    fixture.settle();
}

#[test]
fn a_longer_lifetime_takes_effect_at_the_next_renewal() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.cluster.spec.tls.client.certificate.duration = Duration("4320h".into());
    assert!(fixture.is_idle());
}

#[test]
fn a_deleted_member_secret_is_recreated() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.member(0).secret = None;
    let plan = fixture.changes();
    assert_eq!(plan.secrets.len(), 1);
    assert_eq!((plan.secrets[0].leaves.len(), plan.secrets[0].files.len(), plan.secrets[0].version.as_ref()), (3, 4, None));
    fixture.settle();
}

#[test]
fn certificates_that_were_swapped_between_members_are_reissued() {
    let mut fixture = Fixture::bootstrapped("{}");
    let data = |fixture: &mut Fixture, ordinal| fixture.member(ordinal).secret.as_ref().unwrap().data.clone();
    let (one, two) = (data(&mut fixture, 0), data(&mut fixture, 1));
    fixture.member(0).secret.as_mut().unwrap().data = two;
    fixture.member(1).secret.as_mut().unwrap().data = one;
    let all = vec![member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT];
    assert_eq!(leaves(&fixture.changes()), [("demo-0-tls".to_owned(), all.clone()), ("demo-1-tls".to_owned(), all)]);
    fixture.settle();
    // Of the three certificates, this one does not name its member.
    for ordinal in [0, 1] {
        let leaf = fixture.member(ordinal).secret.as_ref().unwrap().certificate(member_key::CLIENT_CRT).unwrap().unwrap();
        let ledger = fixture.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::LEDGER].clone();
        let holder = Holder::Member { name: names().member(ordinal).to_string() };
        assert_eq!(Ledger::from_json(&ledger).unwrap().holder(leaf.serial()), Some(&holder));
    }
}

#[test]
fn secrets_that_were_created_together_are_renewed_at_different_times() {
    let secret = |uid: &str| {
        let mut secret = SecretView::default();
        secret.meta.uid = Some(uid.into());
        CachedSecret::from(secret).jitter()
    };
    assert_ne!(secret("one"), secret("two"));
    assert_eq!(secret("one"), secret("one"));
}

#[test]
fn cas_stay_or_go_with_the_cluster_as_the_spec_says_now() {
    let mut fixture = Fixture::bootstrapped("{ storage: { retention: Delete } }");
    let are_owned = |fixture: &Fixture| {
        fixture.observed.authorities.iter().all(|(_, secret)| secret.as_ref().unwrap().meta.owner_references.is_some())
    };
    assert!(are_owned(&fixture));
    for (retention, owned) in [(Retention::Retain, false), (Retention::Delete, true)] {
        fixture.cluster.spec.storage.retention = retention;
        fixture.settle();
        assert_eq!(are_owned(&fixture), owned);
        assert!(fixture.is_idle());
    }
    // An earlier version of the operator did not keep others from pruning them.
    fixture.cluster.spec.storage.retention = Retention::Retain;
    fixture.settle();
    for domain in Domain::ALL {
        let secret = fixture.authority_secret(domain).as_mut().unwrap();
        secret.meta.annotations.as_mut().unwrap().remove(annotation::KEEP);
    }
    fixture.settle();
    for (_, secret) in fixture.observed.authorities.iter() {
        assert_eq!(secret.as_ref().unwrap().meta.annotations.as_ref().unwrap()[annotation::KEEP], annotation::KEEP_VALUE);
    }
    // With the data in the pods nothing is left that they could be used for.
    fixture.cluster.spec.storage.retention = Retention::Retain;
    fixture.settle();
    fixture.cluster.spec.storage.empty_dir = Some(serde_saphyr::from_str("sizeLimit: 4Gi").unwrap());
    fixture.pass();
    assert!(are_owned(&fixture));
}
