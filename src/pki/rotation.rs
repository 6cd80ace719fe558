//! When the next authority becomes the active one, and the phases of a rotation.
//!
//! Each domain has an active authority, which signs, and a next one, which is already trusted. If authorities are valid for D and
//! leaves for L, an authority is the next one for P = (D - L - M) / 2 and then the active one for P, where M = L / 2 allows for
//! delays: it never signs a leaf that would outlive it, and is trusted long before it signs. After that it is trusted until it
//! expires, which is later than the last leaf that it signed.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{authority::BACKDATING, certificate::Certificate, error::PkiError};

/// How far a rotation in phases has come: one that was requested, or that another issuer or a lost authority requires. It is
/// stored with the authorities and only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// Its current phase.
    pub phase: Phase,
    /// Since when it is in this phase.
    pub since: Timestamp,
}

/// A phase of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// The next authority was created, and must be trusted everywhere before it signs: members read it when they are restarted.
    Distributing,
    /// It is the active one, and all certificates are issued again.
    Reissuing,
    /// The previous one is no longer trusted. Members are restarted, because they trust it until then.
    Dropping,
}

impl Phase {
    /// All phases in their order.
    pub const ALL: [Self; 3] = [Self::Distributing, Self::Reissuing, Self::Dropping];

    /// Its name, as in a status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Distributing => "Distributing",
            Self::Reissuing => "Reissuing",
            Self::Dropping => "Dropping",
        }
    }
}

impl Rotation {
    /// Reads what [`Rotation::to_json`] wrote.
    pub fn from_json(text: &[u8]) -> Result<Self, PkiError> {
        serde_json::from_slice(text).map_err(|error| PkiError::Rotation(error.to_string()))
    }

    /// A JSON object on one line.
    pub fn to_json(self) -> Result<Vec<u8>, PkiError> {
        serde_json::to_vec(&self).map_err(|error| PkiError::Rotation(error.to_string()))
    }
}

/// When an authority was created.
fn created_at(authority: &Certificate) -> Timestamp {
    authority.not_before().checked_add(BACKDATING).unwrap_or(authority.not_before())
}

/// For how long an authority is the next one, and then the active one, if leaves are valid for `leaf`: P.
fn term(authority: &Certificate, leaf: SignedDuration) -> SignedDuration {
    let life = authority.not_after().duration_since(created_at(authority));
    ((life - leaf - leaf / 2) / 2).max(SignedDuration::ZERO)
}

/// When the next authority has to become the active one: after its term, but before the active one is too old to sign leaves of
/// the full lifetime, in case the previous succession was late or lifetimes were changed.
pub fn succeeds_at(active: &Certificate, next: &Certificate, leaf: SignedDuration) -> Timestamp {
    let regular = created_at(next).checked_add(term(next, leaf)).unwrap_or(Timestamp::MAX);
    let latest = active.not_after().checked_sub(leaf).and_then(|at| at.checked_sub(leaf / 2)).unwrap_or(Timestamp::MIN);
    regular.min(latest)
}

/// When every member should trust the next authority at the latest. From then on members that do not trust it are restarted.
pub fn trusted_by(active: &Certificate, next: &Certificate, leaf: SignedDuration) -> Timestamp {
    let created = created_at(next);
    created.checked_add(succeeds_at(active, next, leaf).duration_since(created) / 2).unwrap_or(Timestamp::MAX)
}
