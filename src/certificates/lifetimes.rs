//! How long certificates are valid.

use jiff::SignedDuration;

use crate::{
    api::{Duration, TlsSpec},
    pki::Domain,
};

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
/// A certificate cannot expire after the year 9999 (RFC 5280, 4.1.2.5).
const LONGEST_AUTHORITY: SignedDuration = SignedDuration::from_hours(24 * 365 * 100);

/// The lifetimes of a domain's certificates.
///
/// # Errors
/// All problems of them.
pub fn lifetimes(domain: Domain, tls: &TlsSpec) -> Result<Lifetimes, Vec<String>> {
    let (authority, leaf) = match domain {
        Domain::Client => (&tls.client.authority.duration, &tls.client.certificate.duration),
        Domain::Peer => (&tls.peer.authority.duration, &tls.peer.certificate.duration),
    };
    let field = format!("spec.tls.{domain}.authority.duration");
    let authority_lifetime = length(&field, authority);
    let leaf_lifetime = leaf_lifetime(&format!("spec.tls.{domain}.certificate.duration"), leaf);
    let lifetimes = match (authority_lifetime, leaf_lifetime) {
        (Ok(authority), Ok(leaf)) => Lifetimes { authority, leaf },
        (authority, leaf) => return Err(authority.err().into_iter().chain(leaf.err()).collect()),
    };
    let mut problems = vec![];
    // An authority is trusted for half of its lifetime before it signs, so that half must be longer than leaves are in use.
    if lifetimes.leaf.checked_mul(4).is_none_or(|four| lifetimes.authority < four) {
        problems.push(format!("{field} is {authority}: it must be at least four times certificate.duration ({leaf})"));
    }
    if lifetimes.authority > LONGEST_AUTHORITY {
        problems.push(format!("{field} is {authority}: it must be at most a hundred years"));
    }
    if problems.is_empty() { Ok(lifetimes) } else { Err(problems) }
}

/// The lifetime of leaf certificates in a field of a spec.
///
/// # Errors
/// What is wrong with it.
pub fn leaf_lifetime(field: &str, duration: &Duration) -> Result<SignedDuration, String> {
    let leaf = length(field, duration)?;
    if leaf < SHORTEST_LEAF { Err(format!("{field} is {duration}: it must be at least 1h")) } else { Ok(leaf) }
}

fn length(field: &str, duration: &Duration) -> Result<SignedDuration, String> {
    duration.length().map_err(|e| format!("{field}: {e}"))
}
