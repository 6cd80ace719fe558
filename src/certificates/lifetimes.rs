//! How long certificates are valid.

use jiff::SignedDuration;

use crate::api::Duration;

/// How long the certificates of a domain are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// An authority.
    pub authority: SignedDuration,
    /// A leaf certificate.
    pub leaf: SignedDuration,
}

/// Shorter-lived leaf certificates would be renewed more often than clock skew and rollouts allow.
const SHORTEST_LEAF: SignedDuration = SignedDuration::from_hours(1);

/// The lifetime of leaf certificates in a field of a spec.
///
/// # Errors
/// What is wrong with it.
pub fn leaf_lifetime(field: &str, duration: &Duration) -> Result<SignedDuration, String> {
    let leaf = duration.length().map_err(|e| format!("{field}: {e}"))?;
    if leaf < SHORTEST_LEAF { Err(format!("{field} is {duration}: it must be at least 1h")) } else { Ok(leaf) }
}
