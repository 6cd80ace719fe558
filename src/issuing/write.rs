//! Secrets with leaves: their state before anything is signed for them, and writing them once everything is recorded.

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::PostParams};
use zeroize::Zeroize;

use super::recipient::Recipient;
use crate::{
    certificates::requests::{IssuedLeaf, SecretChange},
    kubernetes::{apply::post, error::WriteError, secret::KeySecret},
    names::annotation,
};

/// The state of a Secret before leaves are issued for it.
pub enum SecretState {
    /// It does not exist and has to be created.
    Missing,
    /// It exists and has to be changed.
    Present(Box<KeySecret>),
    /// An earlier pass created it, which the watch has not reported yet.
    UpToDate,
}

/// Reads the Secret that is to be changed, so that nothing is issued for a Secret that belongs to others or is up to date.
///
/// # Errors
/// If it belongs to someone else, or is not the version that the plan has seen.
pub async fn secret_state(
    secrets: &Api<Secret>,
    recipient: &Recipient<'_>,
    change: &SecretChange,
) -> Result<SecretState, WriteError> {
    let Some(existing) = KeySecret::get(secrets, &change.name).await? else {
        // If the plan has seen it and it no longer exists, the next pass creates it.
        return if change.version.is_some() {
            Err(WriteError::Conflict(format!("Secret {}", change.name)))
        } else {
            Ok(SecretState::Missing)
        };
    };
    recipient.check_owner(&existing)?;
    let labels = existing.0.metadata.labels.as_ref();
    let is_labelled = change.labels.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    match &change.version {
        Some(seen) if existing.0.metadata.resource_version.as_ref() != Some(seen) => {
            Err(WriteError::Conflict(existing.describe()))
        }
        // If it has its labels and the watch has not reported it, it is new. Without its labels the watch never reports it, so
        // they are restored.
        None if is_labelled => Ok(SecretState::UpToDate),
        _ => Ok(SecretState::Present(Box::new(existing))),
    }
}

/// Checks by a dry run that the API server accepts the Secret. Entries stay in the ledger until they expire: if a quota or a
/// policy refused the Secret and leaves were signed for it in each pass, they would soon fill the authorities' Secret.
///
/// # Errors
/// If it does not accept it.
pub async fn rehearse(
    secrets: &Api<Secret>,
    recipient: &Recipient<'_>,
    change: &SecretChange,
    state: &SecretState,
) -> Result<(), WriteError> {
    let parameters = PostParams { dry_run: true, ..post() };
    let name = format!("Secret {}", change.name);
    let result = match state {
        SecretState::UpToDate => return Ok(()),
        SecretState::Missing => {
            let mut secret = new_secret(recipient, change);
            let keys = change.leaves.iter().flat_map(|leaf| [leaf.keys.certificate, leaf.keys.private_key]);
            let data = secret.0.data.get_or_insert_default();
            data.extend(keys.map(|key| (key.to_owned(), ByteString(vec![]))));
            secrets.create(&parameters, &secret.0).await.map_err(|e| WriteError::of(name, e))?
        }
        SecretState::Present(secret) => {
            secrets.replace(&change.name, &parameters, &secret.0).await.map_err(|e| WriteError::of_change(name, e))?
        }
    };
    drop(KeySecret(result));
    Ok(())
}

/// A new Secret without contents.
fn new_secret<L>(recipient: &Recipient<'_>, change: &SecretChange<L>) -> KeySecret {
    let metadata = recipient.metadata(&change.name, change.labels.clone());
    KeySecret(Secret { metadata, type_: Some(change.type_.into()), ..Secret::default() })
}

/// Writes a Secret with the leaves that were issued for it.
///
/// # Errors
/// If it has changed since it was read, or the API server refuses it.
pub async fn write(
    secrets: &Api<Secret>,
    recipient: &Recipient<'_>,
    change: &SecretChange<IssuedLeaf>,
    state: SecretState,
    now: Timestamp,
) -> Result<(), WriteError> {
    let (mut secret, is_new) = match state {
        SecretState::UpToDate => return Ok(()),
        SecretState::Missing => (new_secret(recipient, change), true),
        SecretState::Present(secret) => (*secret, false),
    };
    let metadata = &mut secret.0.metadata;
    metadata.labels.get_or_insert_default().extend(change.labels.clone());
    metadata.annotations.get_or_insert_default().insert(annotation::WRITTEN_AT.into(), format!("{now:.0}"));
    for key in &change.obsolete {
        remove(&mut secret, key);
    }
    for (key, content) in &change.files {
        put(&mut secret, key, content.clone());
    }
    for IssuedLeaf { request, leaf } in &change.leaves {
        put(&mut secret, request.keys.certificate, leaf.pem().into_bytes());
        put(&mut secret, request.keys.private_key, leaf.key.pem().to_vec());
    }
    if is_new { secret.create(secrets).await } else { secret.replace(secrets).await }
}

/// Puts contents into a Secret and wipes the previous ones, which may be a private key.
pub fn put(secret: &mut KeySecret, key: &str, content: Vec<u8>) {
    let previous = secret.0.data.get_or_insert_default().insert(key.to_owned(), ByteString(content));
    if let Some(mut previous) = previous {
        previous.0.zeroize();
    }
}

/// Removes contents from a Secret and wipes them.
pub fn remove(secret: &mut KeySecret, key: &str) {
    if let Some(mut previous) = secret.0.data.as_mut().and_then(|data| data.remove(key)) {
        previous.0.zeroize();
    }
}
