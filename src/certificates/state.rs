//! Whether the certificate authorities of a domain are those that were reported.

use std::sync::Arc;

use super::{authorities::Authorities, secret::CachedSecret};
use crate::{
    api::{AuthorityStatus, DomainStatus},
    digest::is_hex,
    ids::Uid,
    kubernetes::ownership::belongs,
    pki::{Certificate, Phase},
};

/// The observed state of the authorities of a domain.
#[derive(Clone, Debug)]
pub enum AuthorityState {
    /// They have never been created.
    Absent,
    /// They are usable and those that were reported.
    Ready(Arc<Authorities>),
    /// They were created and are now missing, unreadable, or different from those that were reported. The text says which.
    Lost(String),
}

impl AuthorityState {
    /// The authorities, unless they are absent or lost.
    pub fn ready(&self) -> Option<&Arc<Authorities>> {
        match self {
            Self::Ready(authorities) => Some(authorities),
            Self::Absent | Self::Lost(_) => None,
        }
    }
}

/// The state of the authorities in the Secret `name` of the cluster with this uid. `reported` is their status, `trusted` whether
/// members may already trust some.
///
/// Authorities are created only while no member or client can trust any. Later, a Secret that is missing or holds other
/// authorities is a loss to be reported: new ones would cut off every member and client that trusts the old ones.
pub fn authority_state(
    secret: Option<&CachedSecret>,
    name: &str,
    reported: Option<&DomainStatus>,
    uid: &Uid,
    trusted: bool,
) -> AuthorityState {
    let lost = |problem: &str| AuthorityState::Lost(format!("Secret {name}{problem}"));
    let Some(secret) = secret else {
        return if trusted || reported.is_some() { lost(" is missing, or has lost its labels") } else { AuthorityState::Absent };
    };
    if !belongs(&secret.meta, uid) {
        return lost(" does not belong to this cluster");
    }
    match secret.authorities() {
        Err(problem) => lost(&format!(": {problem}")),
        Ok(authorities) if reported.is_some_and(|reported| !follows(authorities, reported)) => {
            lost(" holds other CAs than the members trust")
        }
        Ok(authorities) => AuthorityState::Ready(authorities.clone()),
    }
}

fn is_reported(authority: &Certificate, reported: &AuthorityStatus) -> bool {
    authority.subject_key_id().is_some_and(|id| is_hex(&reported.key_id, id))
}

/// Whether authorities are those that were reported, or are the result of a single transition from those: the next one became
/// active, another next one was prepared, or new ones were created after both had expired.
fn follows(authorities: &Authorities, reported: &DomainStatus) -> bool {
    let preparing = authorities.rotation.is_some_and(|rotation| rotation.phase == Phase::Distributing);
    let same =
        is_reported(&authorities.active, &reported.active) && (preparing || is_reported(&authorities.next, &reported.next));
    // After both had expired nothing was trusted.
    let renewed = authorities.rotation.filter(|rotation| rotation.phase == Phase::Dropping).is_some_and(|rotation| {
        [&reported.active, &reported.next].into_iter().all(|authority| authority.expires.0 <= rotation.since)
    });
    same || is_reported(&authorities.active, &reported.next) || renewed
}

/// Whether the status describes the current authorities. Only then does the next transition begin.
pub fn matches_status(authorities: &Authorities, reported: &DomainStatus) -> bool {
    is_reported(&authorities.active, &reported.active)
        && is_reported(&authorities.next, &reported.next)
        && authorities.rotation.map(|rotation| rotation.phase) == reported.phase
}
