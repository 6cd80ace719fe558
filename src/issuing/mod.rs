//! The one place where keys are made and authorities sign.
//!
//! The order is always: sign, write down what was signed in the authority's Secret, hand it out. So whatever anyone holds is
//! in the ledger and can be revoked, wherever the operator died. Before that the API server is asked whether it would take the
//! Secret, for what is in the ledger stays there until it expires.

mod authorities;
mod cert_manager;
mod leaves;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, api::PostParams, core::ObjectMeta};

pub use authorities::{Data, create_authorities, found, rotate, turn};
pub use cert_manager::{CertificateRequest, find_offer};
pub use leaves::Desk;

use crate::{
    cluster::{
        observed::belongs,
        plan::{SecretChange, owner_in_words},
    },
    k8s::{KeySecret, WriteError, post},
    names::annotation,
    pki::{Issuer, Leaf, PkiError},
};

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The authority's Secret is gone, or is not what the plan was made with.
    #[error("the authority in Secret {0} changed meanwhile")]
    AuthorityChanged(String),
    /// Its contents can't be used.
    #[error("the authority in Secret {name} cannot be used: {source}")]
    Pki {
        /// The Secret.
        name: String,
        /// Why not.
        source: PkiError,
    },
    /// Our clock may be wrong, by which authorities have expired.
    #[error(
        "the authority in Secret {name} has expired by the operator's clock ({ours:.0}), but the API server's says {theirs:.0}; one of them is wrong"
    )]
    Clock {
        /// The Secret.
        name: String,
        /// What our clock says.
        ours: Timestamp,
        /// What the API server's says.
        theirs: Timestamp,
    },
    /// An issuer has yet to sign.
    #[error("waiting for {issuer}: {why}")]
    Awaited {
        /// Who.
        issuer: Issuer,
        /// What is known of it.
        why: String,
    },
    /// An issuer does not sign, or signs something else than it was asked for.
    #[error("{issuer} cannot be used: {why}")]
    Issuer {
        /// Who.
        issuer: Issuer,
        /// What it did.
        why: String,
    },
    /// An issuer signs by another authority than before. What it signed is held back until that one is trusted.
    #[error("{issuer} signs by {name:?} now, which has to be trusted everywhere before its certificates are used")]
    OtherAuthority {
        /// Who.
        issuer: Issuer,
        /// The name of the authority.
        name: String,
    },
    /// There is nobody to ask.
    #[error("the API server does not know CertificateRequests: install cert-manager, or choose another issuer")]
    NoCertManager,
    /// A Secret could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

fn check_owner(secret: &KeySecret, uid: &str) -> Result<(), WriteError> {
    if belongs(&secret.0.metadata, uid) {
        return Ok(());
    }
    Err(WriteError::Foreign { object: secret.describe(), owner: owner_in_words(&secret.0.metadata) })
}

/// What has to be done about a Secret before leaves are issued for it.
pub enum Target {
    /// It is to be made.
    Make,
    /// It is there and is to be changed.
    Change(Box<KeySecret>),
    /// It was made or changed by an earlier pass that our watch has not told of yet.
    Done,
}

/// Reads the Secret that a change is about, or that is to be made with this metadata, so that nothing is issued for someone
/// else's Secret or in vain.
pub async fn target(
    secrets: &Api<Secret>,
    change: &SecretChange,
    metadata: &ObjectMeta,
    uid: &str,
) -> Result<Target, WriteError> {
    let target = find(secrets, change, uid).await?;
    if !change.leaves.is_empty() {
        rehearse(secrets, change, metadata, &target).await?;
    }
    Ok(target)
}

/// Asks the API server whether it would take the Secret, and writes nothing. What was signed stays in the ledger until it expires;
/// signed in each pass for a Secret that a quota or a policy refuses, it would soon fill the authority's Secret for good.
async fn rehearse(
    secrets: &Api<Secret>,
    change: &SecretChange,
    metadata: &ObjectMeta,
    target: &Target,
) -> Result<(), WriteError> {
    let parameters = PostParams { dry_run: true, ..post() };
    let name = format!("Secret {}", change.name);
    let made = match target {
        Target::Done => return Ok(()),
        Target::Make => {
            let mut secret = new_secret(change, metadata.clone());
            let data = secret.0.data.get_or_insert_default();
            data.extend(change.leaves.iter().flat_map(|leaf| leaf.keys).map(|key| (key.to_owned(), ByteString(vec![]))));
            secrets.create(&parameters, &secret.0).await.map_err(|e| WriteError::of(name, e))?
        }
        Target::Change(secret) => {
            secrets.replace(&change.name, &parameters, &secret.0).await.map_err(|e| WriteError::of_change(name, e))?
        }
    };
    drop(KeySecret(made));
    Ok(())
}

/// A Secret as it is to be made, without its leaves.
fn new_secret(change: &SecretChange, mut metadata: ObjectMeta) -> KeySecret {
    metadata.labels.get_or_insert_default().extend(change.labels.clone());
    KeySecret(Secret { metadata, type_: Some(change.type_.into()), ..Secret::default() })
}

async fn find(secrets: &Api<Secret>, change: &SecretChange, uid: &str) -> Result<Target, WriteError> {
    let Some(there) = KeySecret::get(secrets, &change.name).await? else {
        // One that we saw and that is gone is made anew by the next pass, which knows it.
        return if change.version.is_some() {
            Err(WriteError::Conflict(format!("Secret {}", change.name)))
        } else {
            Ok(Target::Make)
        };
    };
    check_owner(&there, uid)?;
    let labels = there.0.metadata.labels.as_ref();
    let labelled = change.labels.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value));
    match &change.version {
        Some(seen) if there.0.metadata.resource_version.as_ref() != Some(seen) => Err(WriteError::Conflict(there.describe())),
        // Unknown to our watch though it has the labels: it is new. Without them the watch will never tell, so it is mended.
        None if labelled => Ok(Target::Done),
        _ => Ok(Target::Change(Box::new(there))),
    }
}

/// Writes a Secret with the leaves that were issued for it, in the order of the change's requests.
pub async fn write(
    secrets: &Api<Secret>,
    change: &SecretChange,
    target: Target,
    leaves: Vec<Leaf>,
    metadata: ObjectMeta,
    now: Timestamp,
) -> Result<(), WriteError> {
    let (mut secret, make) = match target {
        Target::Done => return Ok(()),
        Target::Make => (new_secret(change, metadata), true),
        Target::Change(secret) => (*secret, false),
    };
    let metadata = &mut secret.0.metadata;
    metadata.labels.get_or_insert_default().extend(change.labels.clone());
    metadata.annotations.get_or_insert_default().insert(annotation::WRITTEN_AT.into(), format!("{now:.0}"));
    let data = secret.0.data.get_or_insert_default();
    data.extend(change.files.iter().map(|(key, value)| (key.clone(), ByteString(value.clone()))));
    for (request, leaf) in change.leaves.iter().zip(leaves) {
        let [certificate, key] = request.keys;
        data.insert(certificate.into(), ByteString(leaf.pem().into_bytes()));
        data.insert(key.into(), ByteString(leaf.key.pem().to_vec()));
    }
    if make { secret.create(secrets).await } else { secret.replace(secrets).await }
}
