//! Whether a leaf has to be issued again, and when.

use std::{fmt, ops::Range};

use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA256, digest};

use super::{
    authority::{BACKDATING, LeafSpec},
    certificate::{Certificate, two_thirds},
    error::PkiError,
    key::KeyDigest,
};

/// How much longer than desired the lifetime of a leaf may be.
const SLACK: SignedDuration = SignedDuration::from_mins(1);

/// Why a leaf has to be issued again. In events the text follows "the certificate".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReissueReason {
    /// It does not exist.
    Missing,
    /// It is not exactly one certificate in PEM.
    Unreadable(String),
    /// Its private key is missing, unreadable or belongs to another certificate.
    KeyDoesNotFit,
    /// It is not signed by the issuing authority.
    WrongIssuer,
    /// It has expired or is not valid yet.
    Expired,
    /// It is valid for other names or addresses.
    Names,
    /// It is valid for other usages. The text says which.
    Usage(String),
    /// It has another common name.
    CommonName,
    /// It has been revoked.
    Revoked,
    /// It was issued to another holder.
    Holder,
    /// It is valid for longer than desired.
    TooLong,
    /// The intermediate certificates that are presented with it are missing or different.
    Chain,
    /// It is time to renew it.
    Due,
}

impl fmt::Display for ReissueReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist",
            Self::Unreadable(why) => return write!(f, "is unreadable: {why}"),
            Self::KeyDoesNotFit => "has no matching private key",
            Self::WrongIssuer => "is not signed by the issuing CA",
            Self::Expired => "has expired or is not valid yet",
            Self::Names => "is for other names or addresses",
            Self::Usage(uses) => return write!(f, "is for other uses: {uses}"),
            Self::CommonName => "has another common name",
            Self::Revoked => "is revoked",
            Self::Holder => "was issued to another holder",
            Self::TooLong => "is valid for longer than desired",
            Self::Chain => "does not come with its intermediate CA certificates",
            Self::Due => "is due for renewal",
        })
    }
}

/// The most urgent reason why a leaf has to be issued again, if there is one.
///
/// [`ReissueReason::WrongIssuer`] comes after the problems of the leaf itself: during a rotation a leaf of the previous authority
/// is still accepted if it is otherwise valid.
///
/// `leaf` is the certificate as it was read, `None` if there is none; `key` is the digest of the private key stored beside it,
/// `None` if there is none or it is unreadable. `is_external`: another program has signed it, which decides when it begins. Some let it
/// begin an hour earlier or at midnight, so only what is left of its lifetime counts.
pub fn reissue_reason(
    leaf: Option<Result<&Certificate, &PkiError>>,
    key: Option<KeyDigest>,
    spec: &LeafSpec,
    issuer: &Certificate,
    is_external: bool,
    jitter: RenewalJitter,
    now: Timestamp,
) -> Option<ReissueReason> {
    let leaf = match leaf {
        None => return Some(ReissueReason::Missing),
        Some(Err(why)) => return Some(ReissueReason::Unreadable(why.to_string())),
        Some(Ok(leaf)) => leaf,
    };
    let life = leaf.not_after().duration_since(if is_external { now } else { leaf.not_before() });
    let longest = spec.duration.saturating_add(BACKDATING).saturating_add(SLACK);
    let uses = other_uses(leaf, spec);
    [
        (key != Some(leaf.key_digest()), ReissueReason::KeyDoesNotFit),
        (now < leaf.not_before() || now > leaf.not_after(), ReissueReason::Expired),
        (leaf.dns_names() != &spec.dns_names || leaf.ip_addresses() != &spec.ip_addresses, ReissueReason::Names),
        (uses.is_some(), ReissueReason::Usage(uses.unwrap_or_default())),
        (leaf.common_name() != spec.common_name, ReissueReason::CommonName),
        (!leaf.is_signed_by(issuer), ReissueReason::WrongIssuer),
        (life > longest, ReissueReason::TooLong),
        (renewal(leaf, spec.duration, issuer, jitter).is_some_and(|at| now >= at), ReissueReason::Due),
    ]
    .into_iter()
    .find_map(|(applies, why)| applies.then_some(why))
}

/// What is different in the uses of a leaf, if it matters. Some issuers give both uses, whatever was requested. The second use gives
/// nothing away if a server's leaf has it: no user has the operator's common names. A client's leaf may have it if no
/// verifier takes it for a server's: if it has no names, and its common name, which OpenSSL takes for a host name then, is none.
fn other_uses(leaf: &Certificate, spec: &LeafSpec) -> Option<String> {
    if leaf.is_ca() {
        return Some("it is a CA certificate".into());
    }
    let (asked, given) = ((spec.usage.server(), spec.usage.client()), (leaf.server_auth(), leaf.client_auth()));
    let is_missing = asked.0 && !given.0 || asked.1 && !given.1;
    let is_server_too = given.0 && !asked.0;
    let has_host_name = !leaf.dns_names().is_empty() || !leaf.ip_addresses().is_empty() || is_host_name(leaf.common_name());
    let uses = |(server, client): (bool, bool)| match (server, client) {
        (true, true) => "server auth and client auth",
        (true, false) => "server auth",
        (false, true) => "client auth",
        (false, false) => "neither server auth nor client auth",
    };
    let count = |(server, client): (bool, bool)| if server && client { "were" } else { "was" };
    (is_missing || is_server_too && has_host_name)
        .then(|| format!("{} {} requested, {} {} given", uses(asked), count(asked), uses(given), count(given)))
}

/// Whether clients may take a common name for one that a server of a cluster has: those have several parts, or are `localhost`.
fn is_host_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    (name.contains('.') || name.eq_ignore_ascii_case("localhost")) && name.chars().all(allowed)
}

/// By how much a holder's leaves are renewed earlier than others, so that leaves that were issued at the same time are renewed at
/// different times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RenewalJitter(u8);

impl RenewalJitter {
    /// The jitter of a holder with this name. It is constant.
    pub fn of(name: &str) -> Self {
        Self(digest(&SHA256, name.as_bytes()).as_ref()[0])
    }

    /// How much earlier than at two thirds of its lifetime a leaf is renewed: up to a twentieth of its lifetime.
    fn lead(self, life: SignedDuration) -> SignedDuration {
        life / 20 / 255 * i32::from(self.0)
    }
}

/// When a leaf becomes [`ReissueReason::Due`]: at two thirds of its actual lifetime or slightly before, but only once a new leaf
/// would outlive it by a sixth of its lifetime. `None` if a new leaf never would, because the issuing authority expires too soon:
/// until another authority signs, the leaf would be issued again in every pass. If the lifetime is shorter than desired, a new
/// leaf is not expected to live longer. If it is longer, the leaf began before it was signed, and the time before does not count.
pub fn renewal(leaf: &Certificate, desired: SignedDuration, issuer: &Certificate, jitter: RenewalJitter) -> Option<Timestamp> {
    let signed_at = leaf.not_after().checked_sub(desired.saturating_add(BACKDATING)).unwrap_or(leaf.not_before());
    let begin = signed_at.max(leaf.not_before());
    let life = leaf.not_after().duration_since(begin);
    let renew_at = two_thirds(begin, leaf.not_after());
    let renew_at = renew_at.checked_sub(jitter.lead(life)).unwrap_or(renew_at);
    let expected = desired.min(life);
    let worthwhile = leaf.not_after().checked_add(expected / 6).ok().filter(|end| *end <= issuer.not_after())?;
    Some(worthwhile.checked_sub(expected).map_or(renew_at, |at| at.max(renew_at)))
}

/// The period in which a leaf that is up to date remains so: until it is due or has expired.
pub fn current_window(
    leaf: &Certificate,
    desired: SignedDuration,
    issuer: &Certificate,
    jitter: RenewalJitter,
) -> Range<Timestamp> {
    let end = leaf.not_after();
    leaf.not_before()..renewal(leaf, desired, issuer, jitter).map_or(end, |due| due.min(end))
}
