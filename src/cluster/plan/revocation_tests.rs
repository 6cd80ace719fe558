//! Revoking certificates.

use std::collections::BTreeSet;

use crate::{
    certificates::requests::pending_key,
    cluster::{
        fixtures::Fixture,
        plan::{
            rotation::tests::{domain, request, settle},
            tests::{annotations, leaves, with_user},
        },
        steps::{Revoke, Step},
    },
    names::{annotation as key, authority_key, member_key, tls_key},
    pki::{Domain, Holder, Ledger, Phase, PrivateKey, crl_serials},
};

#[test]
fn certificates_of_deleted_users_are_revoked_and_members_get_the_list() {
    let mut fixture = with_user("u1");
    fixture.observed.users = [("u1".into(), "app".into())].into();
    assert!(fixture.is_idle(), "the user exists");
    // The same name, but another object.
    fixture.observed.users = [("u2".into(), "app".into())].into();
    let holders = vec![Holder::User { name: "app".into(), uid: "u1".into() }];
    assert_eq!(fixture.pass().changes().step, Some(Revoke { domain: Domain::Client, holders, pending: vec![] }.into()));

    let written = fixture.pass().changes();
    assert_eq!(leaves(&written), [("demo-0-tls".to_owned(), vec![])], "the list is written and no leaf is issued");
    assert_eq!(written.secrets[0].files.keys().collect::<Vec<_>>(), [member_key::CLIENT_CRL]);
    assert_eq!(annotations(&fixture.pass().changes()), [key::TLS_TOUCHED]);
    assert_eq!(annotations(&fixture.pass().changes()), [key::TLS_CONFIRMED]);
    assert!(fixture.is_idle());
    let listed = crl_serials(&fixture.member(0).secret.as_ref().unwrap().data[member_key::CLIENT_CRL]).unwrap();
    let secret = fixture.observed.authorities.client.as_ref().unwrap();
    let ledger = Ledger::from_json(&secret.data[authority_key::LEDGER]).unwrap();
    assert_eq!(listed, ledger.revoked().map(|(serial, _)| serial).collect());
    assert_eq!(listed.len(), 1);
}

#[test]
fn an_incomplete_revocation_list_is_restored() {
    let mut fixture = with_user("u1");
    fixture.observed.users = [("u2".into(), "app".into())].into();
    let before = fixture.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::CRL].clone();
    fixture.settle();
    // As if restored from a backup.
    fixture.authority_secret(Domain::Client).as_mut().unwrap().data.insert(authority_key::CRL.into(), before);
    assert_eq!(fixture.changes().step, Some(Revoke { domain: Domain::Client, holders: vec![], pending: vec![] }.into()));
}

#[test]
fn nothing_is_revoked_while_the_authority_is_lost() {
    let mut fixture = with_user("u1");
    fixture.observed.authorities.client = None;
    assert_eq!(fixture.changes().step, None);
}

#[test]
fn private_keys_that_nobody_waits_for_are_removed() {
    let mut fixture = with_user("u1");
    fixture.observed.users = [("u1".into(), "app".into())].into();
    let user = |uid: &str| pending_key(&Holder::User { name: "app".into(), uid: uid.into() }, tls_key::CRT);
    let member = |name: &str, key: &str| pending_key(&Holder::Member { name: name.into() }, key);
    let needed = [
        user("u1"),
        pending_key(&Holder::Operator, tls_key::CRT),
        member("demo-0", member_key::SERVER_CRT),
        member("demo-0", member_key::CLIENT_CRT),
    ];
    // No authority is tried.
    let next = pending_key(&Holder::Operator, tls_key::NEXT_CRT);
    let unused = [user("u0"), member("demo-1", member_key::SERVER_CRT), next];
    let data = &mut fixture.authority_secret(Domain::Client).as_mut().unwrap().data;
    data.extend(needed.iter().chain(&unused).map(|key| (key.clone(), b"digest".to_vec())));
    let Some(Step::Revoke(step)) = fixture.pass().changes().step else { panic!("nothing is removed") };
    assert_eq!((step.holders.len(), step.pending.iter().collect::<BTreeSet<_>>()), (0, unused.iter().collect()));
    fixture.settle();
    let data = &fixture.authority_secret(Domain::Client).as_ref().unwrap().data;
    assert!(needed.iter().all(|key| data.contains_key(key)) && unused.iter().all(|key| !data.contains_key(key)));
    // Members may be added at any time while no list is known.
    fixture.authority_secret(Domain::Client).as_mut().unwrap().data.extend(unused.map(|key| (key, vec![])));
    fixture.silent.insert(crate::cluster::fixtures::names().member(0));
    assert_eq!(fixture.changes().step, None);
}

#[test]
fn the_operator_waits_for_a_certificate_of_the_next_authority_while_it_is_tried() {
    let mut fixture = Fixture::bootstrapped("{}");
    let next = pending_key(&Holder::Operator, tls_key::NEXT_CRT);
    request(&mut fixture, "client");
    let is_tried = |fixture: &Fixture| domain(fixture, Domain::Client).phase == Some(Phase::Distributing);
    while !is_tried(&fixture) {
        fixture.pass();
    }
    let key = PrivateKey::generate().unwrap().pem().to_vec();
    fixture.authority_secret(Domain::Client).as_mut().unwrap().data.insert(next.clone(), key);
    let has_key = |fixture: &mut Fixture| fixture.authority_secret(Domain::Client).as_ref().unwrap().data.contains_key(&next);
    while is_tried(&fixture) {
        assert!(has_key(&mut fixture), "an issuer may take any time to sign");
        fixture.pass();
    }
    settle(&mut fixture, &[], &[]);
    assert!(!has_key(&mut fixture), "nothing waits for the certificate any more");
}
