//! Creating and changing the authorities of a domain.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Api, api::PostParams};

use super::{error::IssueError, recipient::Recipient};
use crate::{
    certificates::{
        authority_secret::{apply, create},
        transition::{AuthorityRequest, Change, NewAuthority, Salvage, Transition},
    },
    context::Context,
    kubernetes::{apply::post, error::WriteError, secret::KeySecret},
    names::tls_key,
    pki::{ExternalAuthority, Issuer},
};

/// By how much two clocks may differ.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_hours(1);

/// Creates the authorities of a domain, the active and the next one, in a Secret of their own with this metadata. If the Secret
/// already exists, created by an earlier pass that the watch has not reported yet, nothing is done. Returns whether they were created.
///
/// # Errors
/// If the Secret belongs to someone else or cannot be written, or an external authority has changed.
pub async fn create_authorities(
    context: &Context,
    recipient: &Recipient<'_>,
    request: &AuthorityRequest,
    metadata: ObjectMeta,
    now: Timestamp,
) -> Result<bool, IssueError> {
    let secrets = recipient.secrets(&context.client);
    if let Some(existing) = KeySecret::get(&secrets, &request.secret).await? {
        recipient.check_owner(&existing)?;
        return Ok(false);
    }
    let external = external_secret(&secrets, &[&request.active, &request.next], now).await?;
    let key = external.as_ref().map(|secret| secret.bytes(tls_key::KEY));
    let contents = create(request, key, now).map_err(|source| IssueError::Pki { name: request.secret.clone(), source })?;
    let mut secret = new_secret(metadata);
    secret.0.data = Some(contents);
    secret.create(&secrets).await?;
    Ok(true)
}

/// Changes the authorities of a domain. The metadata is that of the Secret if it has to be created. Returns the number of
/// changes.
///
/// # Errors
/// [`IssueError::AuthorityChanged`] if the authorities are not those that the plan has seen; [`IssueError::ClockSkew`] if they
/// are replaced because they have expired, and the API server's clock differs.
pub async fn change_authorities(
    context: &Context,
    recipient: &Recipient<'_>,
    transition: &Transition,
    metadata: ObjectMeta,
    now: Timestamp,
) -> Result<usize, IssueError> {
    let secrets = recipient.secrets(&context.client);
    let Transition { secret: name, change, .. } = transition;
    if let Change::Switch { immediately: true, .. } | Change::Renew { .. } = change {
        check_clock(&secrets, name, now).await?;
    }
    let existing = KeySecret::get(&secrets, name).await?;
    let salvage = match change {
        Change::Prepare { salvage, .. } => salvage.as_ref(),
        _ => None,
    };
    if let Some(salvage) = salvage {
        check_salvage(salvage, existing.as_ref(), name)?;
    }
    let is_new = existing.is_none();
    // A Secret that no longer exists can be restored only from what members still trust.
    let mut secret = match existing {
        Some(existing) => existing,
        None if salvage.is_some() => new_secret(metadata),
        None => return Err(IssueError::AuthorityChanged(name.clone())),
    };
    if !is_new {
        recipient.check_owner(&secret)?;
    }
    let external = external_secret(&secrets, &new_authorities(change), now).await?;
    let key = external.as_ref().map(|secret| secret.bytes(tls_key::KEY));
    let contents = secret.0.data.get_or_insert_default();
    if !apply(contents, transition, key, now).map_err(|source| IssueError::Pki { name: name.clone(), source })? {
        return Err(IssueError::AuthorityChanged(name.clone()));
    }
    if is_new {
        secret.create(&secrets).await?;
    } else {
        secret.replace(&secrets).await?;
    }
    Ok(1)
}

/// Checks that an unusable Secret of authorities is the version that the plan has seen: it may have been restored from a backup.
fn check_salvage(salvage: &Salvage, existing: Option<&KeySecret>, name: &str) -> Result<(), IssueError> {
    let version = existing.and_then(|existing| existing.0.metadata.resource_version.as_ref());
    if version == salvage.version.as_ref() {
        return Ok(());
    }
    Err(match (existing, &salvage.version) {
        (Some(existing), None) => {
            let owner = "it lacks the labels that the operator selects by; restore them".to_owned();
            WriteError::Foreign { object: existing.describe(), owner }.into()
        }
        _ => IssueError::AuthorityChanged(name.to_owned()),
    })
}

fn new_secret(metadata: ObjectMeta) -> KeySecret {
    KeySecret(Secret { metadata, type_: Some("Opaque".into()), ..Secret::default() })
}

/// The authorities that a change adds and that may be external.
fn new_authorities(change: &Change) -> Vec<&NewAuthority> {
    match change {
        Change::Prepare { next, .. } => vec![next],
        Change::Renew { active, next } => vec![active, next],
        Change::Switch { .. } | Change::Replace { .. } | Change::Drop | Change::Finish => vec![],
    }
}

/// The user's Secret with the private key of an external authority, if it still holds the authority that the plan has seen.
async fn external_secret(
    secrets: &Api<Secret>,
    authorities: &[&NewAuthority],
    now: Timestamp,
) -> Result<Option<KeySecret>, IssueError> {
    let external = authorities.iter().find_map(|new| match new {
        NewAuthority::External(Issuer::CaSecret { name }, external) => Some((name, external)),
        _ => None,
    });
    let Some((name, external)) = external else { return Ok(None) };
    let changed = || IssueError::AuthorityChanged(name.clone());
    let secret = KeySecret::get(secrets, name).await?.ok_or_else(changed)?;
    let existing =
        ExternalAuthority::of_secret(secret.bytes(tls_key::CRT), secret.bytes(tls_key::KEY), secret.bytes(tls_key::CA), now);
    let existing = existing.map_err(|source| IssueError::Pki { name: name.clone(), source })?;
    if existing.authority != external.authority {
        return Err(changed());
    }
    Ok(Some(secret))
}

/// Checks that the API server's clock is close to the operator's. The API server sets the creation time of new objects, in a dry
/// run too. `name` is the Secret of the authorities that have expired by the operator's clock.
///
/// # Errors
/// [`IssueError::ClockSkew`] if they differ by more than an hour.
pub async fn check_clock(secrets: &Api<Secret>, name: &str, now: Timestamp) -> Result<(), IssueError> {
    let metadata = ObjectMeta { generate_name: Some(format!("{name}-")), ..ObjectMeta::default() };
    let probe = Secret { metadata, ..Secret::default() };
    let dated = secrets.create(&PostParams { dry_run: true, ..post() }, &probe).await;
    let dated = dated.map_err(|e| WriteError::of("a Secret that is created in a dry run to learn the time", e))?;
    match dated.metadata.creation_timestamp {
        Some(Time(api_server)) if api_server.duration_since(now).abs() > CLOCK_SKEW => {
            Err(IssueError::ClockSkew { name: name.to_owned(), operator: now, api_server })
        }
        _ => Ok(()),
    }
}
