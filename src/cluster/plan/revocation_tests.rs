//! Revoking certificates.

use crate::{
    cluster::{
        plan::tests::{annotations, leaves, with_user},
        steps::Revoke,
    },
    names::{annotation as key, authority_key, member_key},
    pki::{Domain, Holder, Ledger, crl_serials},
};

#[test]
fn certificates_of_deleted_users_are_revoked_and_members_get_the_list() {
    let mut world = with_user("u1");
    world.observed.users = ["u1".into()].into();
    assert!(world.is_idle(), "the user exists");
    // The same name, but another object.
    world.observed.users = ["u2".into()].into();
    let holders = vec![Holder::User { name: "app".into(), uid: "u1".into() }];
    assert_eq!(world.pass().changes().step, Some(Revoke { domain: Domain::Client, holders }.into()));

    let written = world.pass().changes();
    assert_eq!(leaves(&written), [("demo-0-tls".to_owned(), vec![])], "the list is written and no leaf is issued");
    assert_eq!(written.secrets[0].files.keys().collect::<Vec<_>>(), [member_key::CLIENT_CRL]);
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_TOUCHED]);
    assert_eq!(annotations(&world.pass().changes()), [key::TLS_CONFIRMED]);
    assert!(world.is_idle());
    let listed = crl_serials(&world.member(0).secret.as_ref().unwrap().data[member_key::CLIENT_CRL]).unwrap();
    let secret = world.observed.authorities.client.as_ref().unwrap();
    let ledger = Ledger::from_json(&secret.data[authority_key::LEDGER]).unwrap();
    assert_eq!(listed, ledger.revoked().map(|(serial, _)| serial).collect());
    assert_eq!(listed.len(), 1);
}

#[test]
fn an_incomplete_revocation_list_is_restored() {
    let mut world = with_user("u1");
    world.observed.users = ["u2".into()].into();
    let before = world.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::CRL].clone();
    world.settle();
    // As if restored from a backup.
    world.authority_secret(Domain::Client).as_mut().unwrap().data.insert(authority_key::CRL.into(), before);
    assert_eq!(world.changes().step, Some(Revoke { domain: Domain::Client, holders: vec![] }.into()));
}

#[test]
fn nothing_is_revoked_while_the_authority_is_lost() {
    let mut world = with_user("u1");
    world.observed.authorities.client = None;
    assert_eq!(world.changes().step, None);
}
