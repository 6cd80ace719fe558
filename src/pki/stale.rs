//! Whether a leaf still does.

use std::{fmt, ops::Range};

use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA256, digest};

use super::{BACKDATING, Certificate, KeyDigest, LeafSpec, PkiError};

/// How much longer than wanted a leaf may live before it counts as too long.
const SLACK: SignedDuration = SignedDuration::from_mins(1);

/// Why a leaf must be made anew. Displayed as an event says it, after "the certificate".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stale {
    /// There is none.
    Missing,
    /// It is not exactly one certificate in PEM.
    Unreadable(String),
    /// Its private key is missing, unreadable or that of another one.
    KeyDoesNotFit,
    /// It is not the issuing authority that signed it.
    WrongIssuer,
    /// It is outside of its validity.
    Expired,
    /// It is for other names or addresses.
    Names,
    /// It is for other uses.
    Usage,
    /// It has another common name.
    CommonName,
    /// It has been revoked.
    Revoked,
    /// It was issued to another holder.
    Holder,
    /// It lives longer than is wanted now.
    TooLong,
    /// It does not come with the certificates that are shown with it.
    Chain,
    /// The time to renew it has come.
    Due,
}

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::Unreadable(why) => return write!(f, "is unreadable: {why}"),
            Self::KeyDoesNotFit => "has no private key that fits",
            Self::WrongIssuer => "is not signed by the issuing authority",
            Self::Expired => "has expired or is not valid yet",
            Self::Names => "is for other names or addresses",
            Self::Usage => "is for other uses",
            Self::CommonName => "has another common name",
            Self::Revoked => "is revoked",
            Self::Holder => "was issued to another holder",
            Self::TooLong => "is valid for longer than wanted",
            Self::Chain => "does not come with those of the authorities above it",
            Self::Due => "is due for renewal",
        })
    }
}

/// The most pressing reason why a leaf must be made anew, if there is one.
///
/// [`Stale::WrongIssuer`] comes after what is wrong with the leaf itself: while authorities change, a leaf of the one before
/// still serves if it is otherwise sound.
///
/// `leaf` is the certificate as it was read, `None` where there is none; `key` is the digest of the private key stored beside
/// it, `None` where there is none or it is unreadable.
pub fn stale(
    leaf: Option<Result<&Certificate, &PkiError>>,
    key: Option<KeyDigest>,
    spec: &LeafSpec,
    issuer: &Certificate,
    spread: Spread,
    now: Timestamp,
) -> Option<Stale> {
    let leaf = match leaf {
        None => return Some(Stale::Missing),
        Some(Err(why)) => return Some(Stale::Unreadable(why.to_string())),
        Some(Ok(leaf)) => leaf,
    };
    let life = leaf.not_after().duration_since(leaf.not_before());
    let longest = spec.duration.saturating_add(BACKDATING).saturating_add(SLACK);
    let usage = (leaf.server_auth(), leaf.client_auth(), leaf.is_ca());
    [
        (key != Some(leaf.key_digest()), Stale::KeyDoesNotFit),
        (now < leaf.not_before() || now > leaf.not_after(), Stale::Expired),
        (leaf.dns_names() != &spec.dns_names || leaf.ip_addresses() != &spec.ip_addresses, Stale::Names),
        (usage != (spec.usage.server(), spec.usage.client(), false), Stale::Usage),
        (leaf.common_name() != spec.common_name, Stale::CommonName),
        (!leaf.is_signed_by(issuer), Stale::WrongIssuer),
        (life > longest, Stale::TooLong),
        (renewal(leaf, spec.duration, issuer, spread).is_some_and(|at| now >= at), Stale::Due),
    ]
    .into_iter()
    .find_map(|(applies, why)| applies.then_some(why))
}

/// Where in the time in which renewals are spread a holder has its place: what was made in one minute must not be renewed in one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread(u8);

impl Spread {
    /// The place of a holder with this name, always the same.
    pub fn of(name: &str) -> Self {
        Self(digest(&SHA256, name.as_bytes()).as_ref()[0])
    }

    /// How much earlier than at two thirds of its life: up to a twentieth of that.
    fn lead(self, life: SignedDuration) -> SignedDuration {
        life / 20 / 255 * i32::from(self.0)
    }
}

/// From when on a leaf is [`Stale::Due`]: at two thirds of its real life or a little before, but not before a new one would outlive
/// it by a sixth of its life. `None` if it never would, because its issuer ends too soon: then only another issuer helps, and a
/// new leaf at each look would help nobody. Where a shorter life was given than is wanted, no longer one is expected.
pub fn renewal(leaf: &Certificate, wanted: SignedDuration, issuer: &Certificate, spread: Spread) -> Option<Timestamp> {
    let life = leaf.not_after().duration_since(leaf.not_before());
    let renew_at = leaf.renew_at().checked_sub(spread.lead(life)).unwrap_or(leaf.renew_at());
    let expected = wanted.min(life);
    let worthwhile = leaf.not_after().checked_add(expected / 6).ok().filter(|end| *end <= issuer.not_after())?;
    Some(worthwhile.checked_sub(expected).map_or(renew_at, |at| at.max(renew_at)))
}

/// From when until when a leaf that is not stale stays so: until it is due, or has expired.
pub fn lasting(leaf: &Certificate, wanted: SignedDuration, issuer: &Certificate, spread: Spread) -> Range<Timestamp> {
    let end = leaf.not_after();
    leaf.not_before()..renewal(leaf, wanted, issuer, spread).map_or(end, |due| due.min(end))
}
