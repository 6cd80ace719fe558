//! When one authority follows the other, and how far a rotation that somebody asked for has come.
//!
//! Each domain has an active authority, which signs, and the next one, which is trusted already. With authorities of life D and
//! leaves of life L an authority is the next one for P = (D - L - M) / 2 and then the active one for P, where M = L / 2 is for
//! delays: so it never signs a leaf that would outlive it, and is trusted for long before it signs. What has signed before is
//! trusted until it expires, which is after the last leaf that it signed.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{BACKDATING, Certificate, PkiError};

/// How far a rotation that somebody asked for has come. It is stored with the authorities and only moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// What is being done.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
}

/// A phase of a rotation that somebody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// A new authority has been made, and everybody is to trust it before it signs: members take it up when they are restarted.
    Distributing,
    /// It signs, and everybody is to show a certificate of it.
    Reissuing,
    /// The one before is trusted no more, and members are to forget it: they are restarted.
    Dropping,
}

impl Phase {
    /// All, in their order.
    pub const ALL: [Self; 3] = [Self::Distributing, Self::Reissuing, Self::Dropping];

    /// Reads what [`Phase::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }

    /// As it is written in a status.
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

/// When an authority was made.
pub fn made_at(authority: &Certificate) -> Timestamp {
    authority.not_before().checked_add(BACKDATING).unwrap_or(authority.not_before())
}

/// For how long an authority is the next one, and after that the active one, where leaves live for `leaf`: P.
pub fn term(authority: &Certificate, leaf: SignedDuration) -> SignedDuration {
    let life = authority.not_after().duration_since(made_at(authority));
    ((life - leaf - leaf / 2) / 2).max(SignedDuration::ZERO)
}

/// When the next authority is to become the active one: in time, and in any case before the active one gets too old to sign leaves of
/// their full life, as where a succession was late or lives were other ones.
pub fn succeeds_at(active: &Certificate, next: &Certificate, leaf: SignedDuration) -> Timestamp {
    let in_time = made_at(next).checked_add(term(next, leaf)).unwrap_or(Timestamp::MAX);
    let latest = active.not_after().checked_sub(leaf).and_then(|at| at.checked_sub(leaf / 2)).unwrap_or(Timestamp::MIN);
    in_time.min(latest)
}

/// By when every member should have started with the next authority among those that it trusts. Those that have not are
/// restarted from then on.
pub fn known_by(active: &Certificate, next: &Certificate, leaf: SignedDuration) -> Timestamp {
    let made = made_at(next);
    made.checked_add(succeeds_at(active, next, leaf).duration_since(made) / 2).unwrap_or(Timestamp::MAX)
}
