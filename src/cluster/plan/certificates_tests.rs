//! Authorities and leaves.

use std::collections::BTreeSet;

use jiff::SignedDuration;

use crate::{
    api::{Duration, Reason, Retention},
    certificates::secret::CachedSecret,
    cluster::{
        fixtures::{World, names, reasons},
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
            let mut world = World::bootstrapped("{}");
            lose(world.authority_secret(domain));
            world.now += days(61);
            let plan = world.changes();
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
    let mut world = World::bootstrapped(ONE);
    world.observed.authorities.client = None;
    world.observed.status.certificates = None;
    world.cluster.status = None;
    let plan = world.changes();
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
        let mut world = World::bootstrapped(ONE);
        change(&mut world);
        assert_eq!(leaves(&world.changes()), expected, "{what}");
        world.settle();
        assert!(world.is_idle(), "{what}");
    }
}

#[test]
fn leaves_with_different_lifetimes_are_renewed_separately() {
    let mut world = World::bootstrapped("{replicas: 1, tls: {peer: {certificate: {duration: 24h}}}}");
    world.now += SignedDuration::from_hours(17);
    assert_eq!(leaves(&world.changes()), [("demo-0-tls".to_owned(), vec![member_key::PEER_CRT])]);
    world.now += days(100);
    let expired: Vec<_> = world.changes().secrets.iter().flat_map(|c| c.leaves.clone()).map(|leaf| leaf.why).collect();
    assert_eq!(expired, [ReissueReason::Expired, ReissueReason::Expired, ReissueReason::Expired, ReissueReason::Expired]);
    world.settle();
}

#[test]
fn a_longer_lifetime_takes_effect_at_the_next_renewal() {
    let mut world = World::bootstrapped(ONE);
    world.cluster.spec.tls.client.certificate.duration = Duration("4320h".into());
    assert!(world.is_idle());
}

#[test]
fn a_deleted_member_secret_is_recreated() {
    let mut world = World::bootstrapped(ONE);
    world.member(0).secret = None;
    let plan = world.changes();
    assert_eq!(plan.secrets.len(), 1);
    assert_eq!((plan.secrets[0].leaves.len(), plan.secrets[0].files.len(), plan.secrets[0].version.as_ref()), (3, 4, None));
    world.settle();
}

#[test]
fn certificates_that_were_swapped_between_members_are_reissued() {
    let mut world = World::bootstrapped("{}");
    let data = |world: &mut World, ordinal| world.member(ordinal).secret.as_ref().unwrap().data.clone();
    let (one, two) = (data(&mut world, 0), data(&mut world, 1));
    world.member(0).secret.as_mut().unwrap().data = two;
    world.member(1).secret.as_mut().unwrap().data = one;
    let all = vec![member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT];
    assert_eq!(leaves(&world.changes()), [("demo-0-tls".to_owned(), all.clone()), ("demo-1-tls".to_owned(), all)]);
    world.settle();
    // Of the three certificates, this one does not name its member.
    for ordinal in [0, 1] {
        let leaf = world.member(ordinal).secret.as_ref().unwrap().certificate(member_key::CLIENT_CRT).unwrap().unwrap();
        let ledger = world.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::LEDGER].clone();
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
    let mut world = World::bootstrapped("{ storage: { retention: Delete } }");
    let are_owned = |world: &World| {
        world.observed.authorities.iter().all(|(_, secret)| secret.as_ref().unwrap().meta.owner_references.is_some())
    };
    assert!(are_owned(&world));
    for (retention, owned) in [(Retention::Retain, false), (Retention::Delete, true)] {
        world.cluster.spec.storage.retention = retention;
        world.settle();
        assert_eq!(are_owned(&world), owned);
        assert!(world.is_idle());
    }
    // An earlier version of the operator did not keep others from pruning them.
    world.cluster.spec.storage.retention = Retention::Retain;
    world.settle();
    for domain in Domain::ALL {
        let secret = world.authority_secret(domain).as_mut().unwrap();
        secret.meta.annotations.as_mut().unwrap().remove(annotation::KEEP);
    }
    world.settle();
    for (_, secret) in world.observed.authorities.iter() {
        assert_eq!(secret.as_ref().unwrap().meta.annotations.as_ref().unwrap()[annotation::KEEP], annotation::KEEP_VALUE);
    }
    // With the data in the pods nothing is left that they could be used for.
    world.cluster.spec.storage.retention = Retention::Retain;
    world.settle();
    world.cluster.spec.storage.empty_dir = Some(serde_saphyr::from_str("sizeLimit: 4Gi").unwrap());
    world.pass();
    assert!(are_owned(&world));
}
