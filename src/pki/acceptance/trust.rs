//! What Go refuses of the authority that members trust. Members and clients in Go, and those that use rustls, stop at it.

use x509_parser::{
    extensions::{ExtendedKeyUsage, ParsedExtension, X509Extension},
    oid_registry::{OID_X509_EXT_EXTENDED_KEY_USAGE, OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME},
    public_key::PublicKey,
};

use super::{
    case::{Case, Link},
    readable::has_unknown_constraints,
};
use crate::pki::{constraints::tag, der::sequence};

/// The longest RSA key in bits that Go takes in a TLS handshake.
const LONGEST_RSA: usize = 8192;

/// RSA keys that are too long for a TLS handshake.
pub(super) fn presented_key(case: &Case<'_>, at: usize) -> Option<String> {
    let PublicKey::RSA(key) = case.links[at].read.public_key().parsed().ok()? else { return None };
    let bits = bits(key.modulus);
    (bits > LONGEST_RSA).then(|| {
        format!(
            "has an RSA key of {bits} bits, members present its certificate with theirs, and a TLS handshake takes {LONGEST_RSA} bits \
             at most; use a CA below another one with a shorter key (openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096)"
        )
    })
}

/// Signatures of which some bits are said to be unused. rustls reads no such certificate.
pub(super) fn unused_bits(case: &Case<'_>, at: usize) -> Option<String> {
    let unused = case.links[at].read.signature_value.unused_bits;
    (unused > 0).then(|| format!("has a signature with {unused} unused bits, which none has; have it issued again"))
}

/// How many bits a number has.
fn bits(number: &[u8]) -> usize {
    let digits = &number[number.iter().take_while(|octet| **octet == 0).count()..];
    digits.first().map_or(0, |first| digits.len() * 8 - first.leading_zeros() as usize)
}

/// Critical extensions that Go does not know.
pub(super) fn critical_extensions(case: &Case<'_>, at: usize) -> Option<String> {
    let link = &case.links[at];
    let unknown = link.read.extensions().iter().find(|extension| extension.critical && !is_known(link, extension))?;
    Some(unknown_critical(unknown))
}

/// How a critical extension is refused that a verifier does not know.
pub(super) fn unknown_critical(extension: &X509Extension<'_>) -> String {
    format!(
        "has the critical extension {}, which they do not know; have it issued with this extension not critical, or without it",
        extension.oid
    )
}

fn is_known(link: &Link<'_>, extension: &X509Extension<'_>) -> bool {
    let id = extension.oid.to_id_string();
    if extension.oid == OID_X509_EXT_NAME_CONSTRAINTS {
        return !has_unknown_constraints(link);
    }
    if extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME {
        let known = |(kind, _): &(u8, &[u8])| matches!(kind ^ 0x80, 1 | 2 | 6 | 7);
        return sequence(extension.value).is_some_and(|names| names.iter().any(known));
    }
    let known = ["14", "15", "19", "31", "32", "33", "35", "36", "37", "54"];
    id.strip_prefix("2.5.29.").is_some_and(|last| known.contains(&last))
}

/// The extended key usage, if there is the extension.
pub(super) fn uses<'l>(link: &'l Link<'_>) -> Option<&'l ExtendedKeyUsage<'l>> {
    match link.extension(&OID_X509_EXT_EXTENDED_KEY_USAGE)?.parsed_extension() {
        ParsedExtension::ExtendedKeyUsage(uses) => Some(uses),
        _ => None,
    }
}

/// Extended key usages that leave out a use. Leaves of both domains are presented by servers and by clients.
pub(super) fn extended_key_usage(case: &Case<'_>, at: usize) -> Option<String> {
    let uses = uses(&case.links[at])?;
    if uses.any || (uses.server_auth && uses.client_auth) || is_empty(uses) {
        return None;
    }
    let missing: Vec<_> = [("serverAuth", uses.server_auth), ("clientAuth", uses.client_auth)]
        .into_iter()
        .filter_map(|(name, has)| (!has).then_some(name))
        .collect();
    Some(format!(
        "has an extendedKeyUsage without {}, and they apply it to every certificate that it signs; have it issued without \
         extendedKeyUsage, or with serverAuth and clientAuth",
        missing.join(" and ")
    ))
}

fn is_empty(uses: &ExtendedKeyUsage<'_>) -> bool {
    let one = uses.code_signing || uses.email_protection || uses.time_stamping || uses.ocsp_signing || uses.any;
    !one && !uses.server_auth && !uses.client_auth && uses.other.is_empty()
}

/// Names that the authority may not sign for.
pub(super) fn names(case: &Case<'_>, at: usize) -> Option<String> {
    let constraints = case.links[at].constraints()?;
    let why = case.names.iter().find_map(|name| constraints.refusal(name))?;
    Some(format!("{why} (nameConstraints); have it issued with nameConstraints that permit it, or without"))
}

/// Constraints on distinguished names: rustls implements none, so it refuses every certificate below them.
pub(super) fn directory_names(case: &Case<'_>, at: usize) -> Option<String> {
    let is_constrained = case.links[at].constraints()?.has(tag::DIRECTORY);
    is_constrained.then(|| "has nameConstraints with dirName, which it does not support; have it issued without them".into())
}

/// Constraints with `minimum` or `maximum`: rustls reads neither.
pub(super) fn limits(case: &Case<'_>, at: usize) -> Option<String> {
    let is_limited = case.links[at].constraints()?.subtrees().any(|subtree| subtree.has_limits);
    is_limited
        .then(|| "has nameConstraints with minimum or maximum, which it does not support; have it issued without them".into())
}
