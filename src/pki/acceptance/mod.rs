//! Whether the programs that verify certificates accept an authority: the rules of Go (members, and clients such as etcdctl), of OpenSSL (other
//! clients) and of rustls (the operator).
//!
//! An external authority is judged by them before anything is changed for it. They are one table. `tests/authorities.rs` compares
//! its verdict with those of the programs themselves over some hundred authorities; a rule that they have and the table has not
//! is a disagreement there.
//!
//! A peer of either domain trusts the authority alone. Go parses each certificate of a trust bundle and each that a peer
//! presents, and verifies a leaf up to the authority. OpenSSL goes on to the root, with what clients have in `ca.crt`. rustls
//! reads nothing of a trusted certificate but its name, its key and its name constraints.

mod case;
mod encoding;
mod path;
mod readable;
mod trust;
mod uri;

pub(super) use self::encoding::why_unreadable;

use self::case::Case;
use super::{authority::LeafSpec, certificate::Certificate, domain::Domain, error::PkiError};

/// Who refuses, and which certificates it looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Go, when it parses a trust bundle or the certificates of a peer.
    GoParsing,
    /// Go, when it is presented with the certificates of a peer in a TLS handshake.
    GoHandshake,
    /// Go, when it verifies a certificate that the authority signed.
    GoVerifying,
    /// The operator, which uses rustls, when it verifies a certificate that the authority signed.
    Operator,
    /// OpenSSL, when it verifies a member's certificate up to the root.
    OpenSsl,
}

/// One rule: why a certificate of a chain is refused, as it follows the certificate's name.
struct Rule {
    name: &'static str,
    by: By,
    refuses: fn(&Case<'_>, usize) -> Option<String>,
}

const fn rule(name: &'static str, by: By, refuses: fn(&Case<'_>, usize) -> Option<String>) -> Rule {
    Rule { name, by, refuses }
}

/// All rules. That each certificate of the chain is one of a CA, is valid now, permits the CAs below it and has an RSA or EC key that
/// OpenSSL accepts is not among them: without that there is no path to a root ([`ExternalAuthority`](super::ExternalAuthority)).
const RULES: [Rule; 28] = [
    rule("strings", By::GoParsing, readable::strings),
    rule("never-critical", By::GoParsing, readable::never_critical),
    rule("version", By::GoParsing, readable::version),
    rule("duplicates", By::GoParsing, readable::duplicates),
    rule("public-key", By::GoParsing, readable::public_key),
    rule("alternative-names", By::GoParsing, readable::alternative_names),
    rule("constraints", By::GoParsing, readable::constraints),
    rule("forms", By::GoParsing, readable::forms),
    rule("times", By::GoParsing, encoding::times),
    rule("identifiers", By::GoParsing, encoding::identifiers),
    rule("algorithms", By::GoParsing, encoding::algorithms),
    rule("distribution-points", By::GoParsing, encoding::distribution_points),
    rule("encoding", By::GoParsing, encoding::forms),
    rule("presented-key", By::GoHandshake, trust::presented_key),
    rule("extended-key-usage", By::GoVerifying, trust::extended_key_usage),
    rule("critical-extensions", By::GoVerifying, trust::critical_extensions),
    rule("names", By::GoVerifying, trust::names),
    rule("directory-names", By::Operator, trust::directory_names),
    rule("limits", By::Operator, trust::limits),
    rule("unused-bits", By::Operator, trust::unused_bits),
    rule("openssl-root", By::OpenSsl, path::root),
    rule("openssl-times", By::OpenSsl, path::times),
    rule("openssl-extended-key-usage", By::OpenSsl, path::extended_key_usage),
    rule("openssl-critical-extensions", By::OpenSsl, path::critical_extensions),
    rule("openssl-names", By::OpenSsl, path::names),
    rule("openssl-key", By::OpenSsl, path::key),
    rule("openssl-signature", By::OpenSsl, path::signature),
    rule("openssl-authority-key", By::OpenSsl, path::authority_key),
];

/// The names of all rules, which [`PkiError::Refused`] has.
pub fn rules() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.name)
}

impl By {
    /// The places in the chain that it looks at.
    fn places(self, case: &Case<'_>) -> std::ops::Range<usize> {
        let all = case.links.len();
        match self {
            // A root is not presented, and is in the bundle of clients only.
            Self::GoParsing if case.domain == Domain::Peer && case.is_complete() => 0..all.saturating_sub(1).max(1),
            Self::GoParsing => 0..all,
            // Members present all but the root.
            Self::GoHandshake => 0..all - usize::from(case.is_complete()),
            Self::GoVerifying | Self::Operator => 0..1,
            Self::OpenSsl if case.domain == Domain::Client => 0..all,
            Self::OpenSsl => 0..0,
        }
    }

    /// Who refuses.
    fn name(self) -> &'static str {
        match self {
            Self::GoParsing | Self::GoHandshake | Self::GoVerifying => "etcd and clients in Go",
            Self::Operator => "the operator",
            Self::OpenSsl => "clients that use OpenSSL",
        }
    }
}

/// Checks that the programs that verify certificates accept the leaves of an authority that have the names of this one. `path` is the authority and those
/// above it, each signed by the next one; it may end before the root.
///
/// # Errors
/// [`PkiError::Refused`] with the first rule that refuses it: which certificate, which program refuses it, why, and what mends it.
pub(super) fn judge<'a>(
    path: impl IntoIterator<Item = &'a Certificate>,
    domain: Domain,
    leaf: &LeafSpec,
) -> Result<(), PkiError> {
    let case = Case::of(path, domain, leaf)?;
    for Rule { name: rule, by, refuses } in &RULES {
        if let Some((link, why)) = by.places(&case).find_map(|at| Some((&case.links[at], refuses(&case, at)?))) {
            let name = link.certificate.common_name();
            return Err(PkiError::Refused { rule, why: format!("{} would refuse it: {name:?} {why}", by.name()) });
        }
    }
    Ok(())
}
