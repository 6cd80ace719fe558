//! What Go's `crypto/x509` refuses to parse, though others read it. etcd does not start with such a certificate in its trust
//! bundle, and a Go program refuses a peer that presents one.

use std::net::IpAddr;

use x509_parser::{
    extensions::X509Extension,
    oid_registry::{
        OID_KEY_TYPE_DSA, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_PKCS1_RSAENCRYPTION, OID_PKIX_AUTHORITY_INFO_ACCESS, OID_SIG_ED25519,
        OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_BASIC_CONSTRAINTS, OID_X509_EXT_CERTIFICATE_POLICIES,
        OID_X509_EXT_NAME_CONSTRAINTS, OID_X509_EXT_SUBJECT_ALT_NAME, OID_X509_EXT_SUBJECT_KEY_IDENTIFIER,
    },
    prelude::AlgorithmIdentifier,
};

use super::{
    case::{Case, Link},
    uri::{is_domain, is_readable},
};
use crate::pki::{
    constraints::{NameConstraints, Subtree, tag},
    der::{elements, sequence},
};

/// Strings whose characters are not of their type.
pub(super) fn strings(case: &Case<'_>, at: usize) -> Option<String> {
    let read = &case.links[at].read;
    for (whose, name) in [("subject", read.subject()), ("issuer", read.issuer())] {
        for attribute in name.iter_attributes() {
            let value = attribute.attr_value();
            if !is_string(value.tag().0, value.data) {
                let (text, kind) = (String::from_utf8_lossy(value.data), kind_of_string(value.tag().0));
                return Some(format!(
                    "has {text:?} in its {whose} as {kind}, which does not allow these characters; have it issued with UTF8String \
                     (openssl req -utf8, string_mask = utf8only)"
                ));
            }
        }
    }
    None
}

fn kind_of_string(tag: u32) -> String {
    match tag {
        12 => "UTF8String".into(),
        18 => "NumericString".into(),
        19 => "PrintableString".into(),
        22 => "IA5String".into(),
        30 => "BMPString".into(),
        _ => format!("a string type that Go does not support (tag {tag})"),
    }
}

fn is_string(tag: u32, octets: &[u8]) -> bool {
    match tag {
        12 => std::str::from_utf8(octets).is_ok(),
        18 => octets.iter().all(|octet| octet.is_ascii_digit() || *octet == b' '),
        19 => octets.iter().all(|octet| octet.is_ascii_alphanumeric() || b" '()+,-./:=?*&".contains(octet)),
        20 => true,
        22 => octets.is_ascii(),
        30 => {
            let points = octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            let ended = octets.ends_with(&[0, 0]) && octets.len().is_multiple_of(2);
            let last = (octets.len() / 2).saturating_sub(usize::from(ended));
            octets.len().is_multiple_of(2)
                && points.take(last).all(|point| !matches!(point, 0xfffe | 0xffff | 0xfdd0..=0xfdef | 0xd800..=0xdfff))
        }
        _ => false,
    }
}

/// Extensions that must not be critical.
pub(super) fn never_critical(case: &Case<'_>, at: usize) -> Option<String> {
    let names = [
        (OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, "subjectKeyIdentifier"),
        (OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, "authorityKeyIdentifier"),
        (OID_PKIX_AUTHORITY_INFO_ACCESS, "authorityInfoAccess"),
    ];
    let is_critical = |oid: &_| case.links[at].extension(oid).is_some_and(|extension| extension.critical);
    let (_, name) = names.iter().find(|(oid, _)| is_critical(oid))?;
    Some(format!("has {name} as a critical extension, which it must not be; have it issued with {name} not critical"))
}

/// Versions after 3.
pub(super) fn version(case: &Case<'_>, at: usize) -> Option<String> {
    let version = case.links[at].read.version().0.saturating_add(1);
    (version > 3).then(|| format!("is of version {version}; have it issued with version 3"))
}

/// The same extension twice.
pub(super) fn duplicates(case: &Case<'_>, at: usize) -> Option<String> {
    let all = case.links[at].read.extensions();
    let mut twice = all.iter().enumerate().filter(|(at, one)| all[..*at].iter().any(|other| other.oid == one.oid));
    let (_, extension) = twice.next()?;
    Some(format!("has the extension {} twice; have it issued with it once", extension.oid))
}

/// Public keys in a form that Go does not know.
pub(super) fn public_key(case: &Case<'_>, at: usize) -> Option<String> {
    let key = case.links[at].read.public_key();
    let (algorithm, octets) = (&key.algorithm, &key.subject_public_key.data[..]);
    let kind = &algorithm.algorithm;
    let what = if *kind == OID_PKCS1_RSAENCRYPTION {
        (!is_rsa(algorithm, octets))
            .then_some("an RSA key without the parameters NULL, or with a modulus or exponent out of range")
    } else if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY {
        (!is_known_curve(algorithm) || octets.first() != Some(&4))
            .then_some("an EC key that is not on a named curve P-224, P-256, P-384 or P-521, or whose point is compressed")
    } else if *kind == OID_SIG_ED25519 {
        (algorithm.parameters.is_some() || octets.len() != 32).then_some("an Ed25519 key of another form than RFC 8410 has")
    } else if *kind == OID_KEY_TYPE_DSA {
        algorithm.parameters.is_none().then_some("a DSA key without parameters")
    } else {
        None
    };
    what.map(|what| {
        format!("has {what}; use a CA with another key (openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256)")
    })
}

fn is_rsa(algorithm: &AlgorithmIdentifier<'_>, octets: &[u8]) -> bool {
    let is_null = algorithm.parameters.as_ref().is_some_and(|parameters| parameters.tag().0 == 5 && parameters.data.is_empty());
    let parts = sequence(octets).unwrap_or_default();
    let [(2, modulus), (2, exponent), ..] = parts[..] else { return false };
    let is_positive = |number: &[u8]| number.first().is_some_and(|first| *first < 0x80) && number.iter().any(|octet| *octet != 0);
    is_null && is_positive(modulus) && is_positive(exponent) && exponent.len() <= 8
}

fn is_known_curve(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    let curve = algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let known = ["1.3.132.0.33", "1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];
    curve.is_some_and(|curve| known.contains(&curve.to_id_string().as_str()))
}

/// Alternative names that Go does not read.
pub(super) fn alternative_names(case: &Case<'_>, at: usize) -> Option<String> {
    let extension = case.links[at].extension(&OID_X509_EXT_SUBJECT_ALT_NAME)?;
    let bad = sequence(extension.value)?.into_iter().find(|(kind, name)| !is_alternative_name(kind ^ 0x80, name))?;
    let text = String::from_utf8_lossy(bad.1).into_owned();
    Some(format!("has {text:?} in subjectAltName, which is not a name of its kind; have it issued without this name"))
}

fn is_alternative_name(kind: u8, name: &[u8]) -> bool {
    match kind {
        1 | 2 => name.is_ascii(),
        6 => std::str::from_utf8(name).is_ok_and(is_readable),
        7 => matches!(name.len(), 4 | 16),
        _ => true,
    }
}

/// Name constraints that Go does not read.
pub(super) fn constraints(case: &Case<'_>, at: usize) -> Option<String> {
    let link = &case.links[at];
    link.extension(&OID_X509_EXT_NAME_CONSTRAINTS)?;
    let mend = "have it issued with nameConstraints as RFC 5280 describes them, or without";
    let Some(constraints) = link.constraints().filter(|all| all.subtrees().next().is_some()) else {
        return Some(format!("has nameConstraints that are empty or not readable; {mend}"));
    };
    let bad = constraints.subtrees().find(|subtree| !is_constraint(subtree))?;
    Some(format!("has the name constraint {bad}, which is not valid; {mend}"))
}

fn is_constraint(subtree: &Subtree<'_>) -> bool {
    let text = || std::str::from_utf8(subtree.base).ok().filter(|text| text.is_ascii());
    match subtree.tag {
        tag::DNS => text().is_some_and(|name| is_domain(name, true)),
        tag::EMAIL => text().is_some_and(is_email),
        tag::URI => text().is_some_and(|name| is_domain(name, true) && name.parse::<IpAddr>().is_err()),
        tag::IP => {
            let mask = &subtree.base[subtree.base.len() / 2..];
            let ones = mask.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1));
            matches!(subtree.base.len(), 8 | 32) && ones.is_sorted_by(|one, next| one >= next)
        }
        _ => true,
    }
}

/// Whether a constraint is a domain, or one email address.
fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else { return is_domain(text, true) };
    let is_atom = |octet: u8| octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&octet);
    let has_form = !local.starts_with('.') && !local.ends_with('.') && !local.contains("..") && !local.is_empty();
    has_form && local.bytes().all(is_atom) && is_domain(domain, false)
}

/// Extensions of a form that Go does not read.
pub(super) fn forms(case: &Case<'_>, at: usize) -> Option<String> {
    let link = &case.links[at];
    let has = |oid: &_, is_good: fn(&X509Extension<'_>) -> bool| link.extension(oid).is_some_and(|extension| !is_good(extension));
    let name = if has(&OID_X509_EXT_BASIC_CONSTRAINTS, is_basic_constraints) {
        "basicConstraints"
    } else if has(&OID_X509_EXT_CERTIFICATE_POLICIES, are_policies) {
        "certificatePolicies"
    } else {
        return None;
    };
    Some(format!("has {name} of a form that is not valid; have it issued with {name} as RFC 5280 describes it"))
}

/// Whether each boolean is of the form that DER has.
fn is_basic_constraints(extension: &X509Extension<'_>) -> bool {
    let parts = sequence(extension.value).unwrap_or_default();
    parts.iter().all(|(tag, content)| match tag {
        1 => matches!(content, [0 | 0xff]),
        2 => content.first().is_some_and(|first| *first < 0x80) && content.len() <= 8,
        _ => true,
    })
}

/// Whether no policy is there twice.
fn are_policies(extension: &X509Extension<'_>) -> bool {
    let Some(policies) = sequence(extension.value) else { return false };
    let ids: Vec<_> = policies.iter().map(|(_, policy)| elements(policy).and_then(|parts| parts.first().copied())).collect();
    (0..ids.len()).all(|at| ids[at].is_some() && !ids[..at].contains(&ids[at]))
}

/// Whether Go reads the constraints of a certificate, but not all kinds of names in them.
pub(super) fn has_unknown_constraints(link: &Link<'_>) -> bool {
    let known = [tag::DNS, tag::EMAIL, tag::IP, tag::URI];
    link.constraints().is_some_and(|all: NameConstraints<'_>| all.subtrees().any(|subtree| !known.contains(&subtree.tag)))
}
