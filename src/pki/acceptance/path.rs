//! What OpenSSL refuses of the certificates from the authority up to its root. It applies to clients of the members only: Go and
//! rustls stop at the authority.

use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_SUBJECT_ALT_NAME},
    prelude::AlgorithmIdentifier,
    public_key::PublicKey,
};

use super::{
    case::{Case, Link},
    encoding::time_in_another_form,
    trust::{unknown_critical, unused_bits, uses},
};
use crate::pki::{
    constraints::{Name, canonical, tag},
    der::{element, elements, sequence},
};

/// The critical extensions that OpenSSL knows (`X509_supported_extension`), in dotted form.
const KNOWN: [&str; 14] = [
    "2.16.840.1.113730.1.1",
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.19",
    "2.5.29.32",
    "2.5.29.31",
    "2.5.29.37",
    "1.3.6.1.5.5.7.1.7",
    "1.3.6.1.5.5.7.1.8",
    "1.3.6.1.5.5.7.48.1.5",
    "2.5.29.36",
    "2.5.29.30",
    "2.5.29.33",
    "2.5.29.54",
];

/// A path that ends before its root.
pub(super) fn root(case: &Case<'_>, at: usize) -> Option<String> {
    let is_last = at + 1 == case.links.len() && !case.is_complete();
    is_last.then(|| {
        let issuer = case.links[at].certificate.issuer_name();
        format!(
            "is signed by {issuer:?}, whose certificate did not come with the answer, and they verify up to a root; have the issuer \
             return the certificates up to the root (in ca.crt of its Secret for an Issuer of the kind ca), or use caSecret with the root in \
             ca.crt"
        )
    })
}

/// Times that are not of the form that DER and RFC 5280 prescribe.
pub(super) fn times(case: &Case<'_>, at: usize) -> Option<String> {
    time_in_another_form(case.links[at].certificate.der()).map(|time| time.to_string())
}

/// Critical extensions that OpenSSL does not know.
pub(super) fn critical_extensions(case: &Case<'_>, at: usize) -> Option<String> {
    let all = case.links[at].read.extensions();
    let is_known = |oid: String| KNOWN.contains(&oid.as_str());
    let unknown = all.iter().find(|extension| extension.critical && !is_known(extension.oid.to_id_string()))?;
    Some(unknown_critical(unknown))
}

/// Extended key usages without the one of servers. `anyExtendedKeyUsage` does not count.
pub(super) fn extended_key_usage(case: &Case<'_>, at: usize) -> Option<String> {
    let uses = uses(&case.links[at])?;
    let gated = ["1.3.6.1.4.1.311.10.3.3", "2.16.840.1.113730.4.1"];
    let is_gated = uses.other.iter().any(|other| gated.contains(&other.to_id_string().as_str()));
    (!uses.server_auth && !is_gated).then(|| {
        "has an extendedKeyUsage without serverAuth, and they apply it to every certificate below it; have it issued without \
         extendedKeyUsage, or with serverAuth and clientAuth"
            .into()
    })
}

/// Names below an authority that it does not permit: those of the leaves, and those of the authorities between.
pub(super) fn names(case: &Case<'_>, at: usize) -> Option<String> {
    let constraints = case.links[at].constraints()?;
    let leaf = [&case.subject].into_iter().chain(&case.names).cloned();
    let between = case.below(at).filter(|link| !link.is_self_issued()).flat_map(names_of);
    let why = leaf.chain(between).find_map(|name| constraints.refusal(&name))?;
    Some(format!("{why} (nameConstraints); have it issued with nameConstraints that permit it, or without"))
}

/// The names of an authority: its subject, the email addresses in that, and its alternative names.
fn names_of(link: &Link<'_>) -> Vec<Name> {
    let subject = link.read.subject();
    let directory = canonical(subject.as_raw()).map(|content| Name { tag: tag::DIRECTORY, content });
    let emails = subject.iter_email().map(|email| Name { tag: tag::EMAIL, content: email.attr_value().data.to_vec() });
    let alternative = link.extension(&OID_X509_EXT_SUBJECT_ALT_NAME).and_then(|extension| sequence(extension.value));
    let alternative = alternative.unwrap_or_default().into_iter().map(|(kind, content)| {
        let distinguished = || canonical(content).unwrap_or_default();
        Name { tag: kind, content: if kind == tag::DIRECTORY { distinguished() } else { content.to_vec() } }
    });
    directory.into_iter().filter(|name| !name.content.is_empty()).chain(emails).chain(alternative).collect()
}

/// DSA keys of less than 112 bits of security, which is the least at OpenSSL's security level 2. Such keys of other kinds are refused
/// before.
pub(super) fn key(case: &Case<'_>, at: usize) -> Option<String> {
    let key = case.links[at].read.public_key();
    let PublicKey::DSA(_) = key.parsed().ok()? else { return None };
    let parameters = elements(key.algorithm.parameters.as_ref()?.data)?;
    let prime = parameters.first()?.1;
    let used = prime.len() - prime.iter().take_while(|octet| **octet == 0).count();
    (used < 2048 / 8).then(|| "has a DSA key of less than 2048 bits; use a CA with an EC key".into())
}

/// Signatures by MD5 or SHA-1, or with unused bits. That of the root is not verified.
pub(super) fn signature(case: &Case<'_>, at: usize) -> Option<String> {
    if at + 1 == case.links.len() {
        return None;
    }
    if let Some(why) = unused_bits(case, at) {
        return Some(why);
    }
    let hash = weak_hash(&case.links[at].read.signature_algorithm)?;
    Some(format!("is signed with {hash}; have it issued with SHA-256 (openssl x509 -req -sha256)"))
}

fn weak_hash(algorithm: &AlgorithmIdentifier<'_>) -> Option<&'static str> {
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.4" => Some("MD5"),
        "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" | "1.3.14.3.2.29" => Some("SHA-1"),
        // The hash of RSA-PSS is SHA-1 if its parameters do not name one.
        "1.2.840.113549.1.1.10" => {
            let parameters = algorithm.parameters.as_ref().and_then(|any| elements(any.data)).unwrap_or_default();
            let named = parameters.iter().find(|(tag, _)| *tag == 0xa0).and_then(|(_, hash)| element(hash));
            let id = named.and_then(|((_, hash), _)| elements(hash)).and_then(|parts| parts.first().copied());
            matches!(id, None | Some((6, [0x2b, 0x0e, 0x03, 0x02, 0x1a]))).then_some("SHA-1")
        }
        _ => None,
    }
}

/// Authority key identifiers that name another authority than the one above.
pub(super) fn authority_key(case: &Case<'_>, at: usize) -> Option<String> {
    let link = &case.links[at];
    let above = case.links.get(at + 1).unwrap_or(link);
    let extension = link.extension(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER)?;
    let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else { return None };
    let key = id.key_identifier.as_ref().zip(above.certificate.written_key_id());
    let serial = id.authority_cert_serial.is_some_and(|serial| serial != above.read.raw_serial());
    let directory = |name: &GeneralName<'_>| match name {
        GeneralName::DirectoryName(name) => canonical(name.as_raw()),
        _ => None,
    };
    let issuer = id.authority_cert_issuer.as_ref().and_then(|names| names.iter().find_map(directory));
    let differs = key.is_some_and(|(named, has)| named.0 != has)
        || serial
        || issuer.is_some_and(|issuer| Some(issuer) != canonical(above.read.issuer().as_raw()));
    differs.then(|| {
        let above = above.certificate.common_name();
        format!(
            "names another certificate than that of {above:?} above it in authorityKeyIdentifier; put the certificate that it \
             names into ca.crt, or have it issued again by the one that is there"
        )
    })
}
