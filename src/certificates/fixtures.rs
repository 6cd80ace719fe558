//! Secrets with authorities and leaves, as the watches show them, for the tests of every kind of object.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    authority_secret::Contents,
    requests::{LeafRequest, SecretChange},
    secret::CachedSecret,
};
use crate::{
    kubernetes::secret::{SecretView, is_private},
    names::authority_key,
    pki::{Authority, Leaf, Ledger, digest_of_private_pem},
};

/// The contents of a Secret as the watch shows them, with digests in place of private keys; and the private keys.
pub fn watched(contents: Contents) -> (BTreeMap<String, Vec<u8>>, Contents) {
    let (keys, public): (Contents, Contents) = contents.into_iter().partition(|(key, _)| is_private(key));
    let digests = keys.iter().map(|(key, pem)| (key.clone(), digest_of_private_pem(&pem.0).unwrap().to_hex().into_bytes()));
    (public.into_iter().map(|(key, value)| (key, value.0)).chain(digests).collect(), keys)
}

/// Changes the ledger in the Secret of authorities, and the revocation list with it.
pub fn with_ledger<T>(
    secret: &mut CachedSecret,
    authority: &Authority,
    now: Timestamp,
    change: impl FnOnce(&mut Ledger) -> T,
) -> T {
    let mut ledger = Ledger::from_json(&secret.data[authority_key::LEDGER]).unwrap();
    let revoked: Vec<_> = ledger.revoked().collect();
    let result = change(&mut ledger);
    if revoked != ledger.revoked().collect::<Vec<_>>() {
        secret.data.insert(authority_key::CRL.into(), authority.sign_crl(ledger.revoked(), now).unwrap());
    }
    secret.data.insert(authority_key::LEDGER.into(), ledger.to_json().unwrap());
    result
}

/// Writes everything of a change but its leaves into a Secret, as this version of it.
pub fn write(secret: &mut SecretView, change: &SecretChange, version: String) {
    secret.meta.resource_version = Some(version);
    secret.meta.labels.get_or_insert_default().extend(change.labels.clone());
    secret.type_ = change.type_.into();
    secret.data.retain(|key, _| !change.obsolete.contains(&key.as_str()));
    secret.data.extend(change.files.clone());
}

/// Writes a leaf into a Secret.
pub fn write_leaf(secret: &mut SecretView, request: &LeafRequest, leaf: &Leaf) {
    secret.data.insert(request.keys.certificate.into(), leaf.pem().into());
    secret.data.insert(request.keys.private_key.into(), leaf.key.public_digest().to_hex().into());
}
