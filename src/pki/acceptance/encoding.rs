//! What Go reads of a certificate octet by octet: it takes DER only, where other programs take other forms of BER too. The order is
//! that of `parseCertificate` in `crypto/x509` of Go 1.26.

use std::fmt;

use x509_parser::oid_registry::Oid;

use super::case::Case;
use crate::pki::der::{Element, element, sequence};

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// The extensions whose content Go reads, in the octets of their identifiers.
const BELOW_2_5_29: [u8; 2] = [0x55, 0x1d];
const ACCESS: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 1, 1];

/// The kinds of keys that Go reads.
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const DSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];

/// Why Go does not read a certificate. As a text it follows the name of the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A time of another form.
    Time(BadTime),
    /// An object identifier with a number of 2^31 or more.
    Identifier {
        /// It, in dotted form.
        oid: String,
        /// Where it is.
        place: &'static str,
    },
    /// Two signature algorithms.
    Algorithms,
    /// A distribution point with the name of another kind.
    DistributionPoint,
    /// An element of another form.
    Form(&'static str),
}

/// A time of another form than DER has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadTime {
    /// The field.
    field: &'static str,
    /// What it contains.
    text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => time.fmt(f),
            Self::Identifier { oid, place } => write!(
                f,
                "has the object identifier {oid} in {place}, and they read no number of 2147483648 or more in one; have it issued \
                 with another object identifier there, or without"
            ),
            Self::Algorithms => f.write_str(
                "names another algorithm beside its signature (signatureAlgorithm) than in what is signed (signature); have it issued \
                 again",
            ),
            Self::DistributionPoint => f.write_str(
                "has nameRelativeToCRLIssuer in crlDistributionPoints, which they do not read; have it issued with fullName there, or \
                 without",
            ),
            Self::Form(what) => {
                write!(f, "has {what} in a form that is not DER, or not that of RFC 5280; have it issued again with {what} in that form")
            }
        }
    }
}

impl fmt::Display for BadTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, text } = self;
        write!(
            f,
            "has {text:?} as its {field}, which is not a time as certificates have it; have it issued with YYMMDDhhmmssZ there, or \
             YYYYMMDDhhmmssZ from 2050 on"
        )
    }
}

/// Times that Go does not read.
pub(super) fn times(case: &Case<'_>, at: usize) -> Option<String> {
    of_kind(case, at, |fault| matches!(fault, Fault::Time(_)))
}

/// Object identifiers that Go does not read.
pub(super) fn identifiers(case: &Case<'_>, at: usize) -> Option<String> {
    of_kind(case, at, |fault| matches!(fault, Fault::Identifier { .. }))
}

/// Another signature algorithm in what is signed than beside the signature.
pub(super) fn algorithms(case: &Case<'_>, at: usize) -> Option<String> {
    of_kind(case, at, |fault| *fault == Fault::Algorithms)
}

/// Distribution points that Go does not read.
pub(super) fn distribution_points(case: &Case<'_>, at: usize) -> Option<String> {
    of_kind(case, at, |fault| *fault == Fault::DistributionPoint)
}

/// Everything else that is not DER.
pub(super) fn forms(case: &Case<'_>, at: usize) -> Option<String> {
    of_kind(case, at, |fault| matches!(fault, Fault::Form(_)))
}

fn of_kind(case: &Case<'_>, at: usize, is_meant: fn(&Fault) -> bool) -> Option<String> {
    fault(case.links[at].certificate.der()).filter(is_meant).map(|fault| fault.to_string())
}

/// The first of the times of a certificate that is not of the form that DER and RFC 5280 prescribe.
pub(super) fn time_in_another_form(der: &[u8]) -> Option<BadTime> {
    let fields = sequence(sequence_content(der)?)?;
    let validity = fields.get(if fields.first()?.0 == 0xa0 { 4 } else { 3 })?.1;
    let mut times = Input(validity);
    ["notBefore", "notAfter"].into_iter().find_map(|field| {
        let (tag, text) = times.any()?;
        (!is_exact_time(tag, text)).then(|| bad_time(field, text))
    })
}

/// What is inside of the outermost sequence.
fn sequence_content(der: &[u8]) -> Option<&[u8]> {
    let ((_, content), _) = element(der)?;
    let whole = content.len() - element(content)?.1.len();
    content.get(..whole)
}

/// Why a certificate cannot be read, if that is known: Go does not read it, or a time in it is of another form.
pub fn why_unreadable(der: &[u8]) -> Option<String> {
    let time = || time_in_another_form(der).map(|time| time.to_string());
    fault(der).map(|fault| fault.to_string()).or_else(time)
}

/// Why Go does not read a certificate; `None` if it does, as far as the form of its elements is concerned, or if it is none at all.
fn fault(der: &[u8]) -> Option<Fault> {
    certificate(Input(der).any()?.1).err()
}

fn certificate(content: &[u8]) -> Result<(), Fault> {
    let mut whole = Input(content);
    let mut fields = Input(whole.read(SEQUENCE, "its fields")?);
    if let Some(version) = fields.optional(0xa0, "its version")? {
        Input(version).integer("its version")?;
    }
    fields.integer("its serial number")?;
    let algorithm = fields.read(SEQUENCE, "its signature algorithm")?;
    if whole.read(SEQUENCE, "its signature algorithm")? != algorithm {
        return Err(Fault::Algorithms);
    }
    Input(algorithm).identifier("its signature algorithm")?;
    name(fields.read(SEQUENCE, "its issuer")?, "its issuer")?;
    let mut validity = Input(fields.read(SEQUENCE, "its validity")?);
    for field in ["notBefore", "notAfter"] {
        validity.time(field)?;
    }
    name(fields.read(SEQUENCE, "its subject")?, "its subject")?;
    public_key(fields.read(SEQUENCE, "its public key")?)?;
    for unique in [0x81, 0x82] {
        fields.optional(unique, "its unique identifiers")?;
    }
    if let Some(list) = fields.optional(0xa3, "its extensions")? {
        extensions(list)?;
    }
    whole.bits("its signature")
}

fn name(parts: &[u8], place: &'static str) -> Result<(), Fault> {
    let mut parts = Input(parts);
    while !parts.is_empty() {
        let mut part = Input(parts.read(SET, place)?);
        while !part.is_empty() {
            let mut attribute = Input(part.read(SEQUENCE, place)?);
            attribute.identifier(place)?;
            attribute.any().ok_or(Fault::Form(place))?;
        }
    }
    Ok(())
}

fn public_key(content: &[u8]) -> Result<(), Fault> {
    let place = "its public key";
    let mut fields = Input(content);
    let mut algorithm = Input(fields.read(SEQUENCE, place)?);
    let kind = algorithm.identifier(place)?;
    let octets = fields.0;
    fields.bits(place)?;
    let key = Input(octets).read(BIT_STRING, place)?.get(1..).unwrap_or_default();
    if kind == EC {
        algorithm.identifier(place)?;
    } else if kind == RSA {
        let mut numbers = Input(Input(key).read(SEQUENCE, place)?);
        numbers.integer(place)?;
        numbers.integer(place)?;
    } else if kind == DSA {
        Input(key).integer(place)?;
        let mut numbers = Input(algorithm.read(SEQUENCE, place)?);
        (0..3).try_for_each(|_| numbers.integer(place))?;
    }
    Ok(())
}

fn extensions(list: &[u8]) -> Result<(), Fault> {
    let place = "its extensions";
    let mut list = Input(Input(list).read(SEQUENCE, place)?);
    let mut all = vec![];
    while !list.is_empty() {
        let mut fields = Input(list.read(SEQUENCE, place)?);
        let id = fields.identifier(place)?;
        fields.optional(BOOLEAN, "critical")?.map_or(Ok(()), |octets| boolean(octets, "critical"))?;
        all.push((id, fields.read(OCTET_STRING, place)?));
    }
    // Go reads them all before it reads the content of one.
    all.into_iter().try_for_each(|(id, value)| extension(id, Input(value)))
}

fn extension(id: &[u8], mut value: Input<'_>) -> Result<(), Fault> {
    if id == ACCESS {
        return access("authorityInfoAccess", value);
    }
    match id.strip_prefix(&BELOW_2_5_29) {
        Some([14]) => value.read(OCTET_STRING, "subjectKeyIdentifier").map(drop),
        Some([15]) => value.bits("keyUsage"),
        Some([19]) => basic_constraints("basicConstraints", value),
        Some([31]) => points("crlDistributionPoints", value),
        Some([32]) => policies("certificatePolicies", value),
        Some([33]) => mappings("policyMappings", value),
        Some([35]) => {
            let place = "authorityKeyIdentifier";
            Input(value.read(SEQUENCE, place)?).optional(0x80, place).map(drop)
        }
        Some([36]) => policy_constraints("policyConstraints", value),
        Some([37]) => uses("extendedKeyUsage", value),
        Some([54]) => value.integer("inhibitAnyPolicy"),
        _ => Ok(()),
    }
}

fn access(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut list = Input(value.read(SEQUENCE, place)?);
    while !list.is_empty() {
        let mut one = Input(list.read(SEQUENCE, place)?);
        one.identifier(place)?;
        one.optional(0x86, place)?;
    }
    Ok(())
}

fn basic_constraints(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut fields = Input(value.read(SEQUENCE, place)?);
    fields.optional(BOOLEAN, place)?.map_or(Ok(()), |octets| boolean(octets, place))?;
    fields.optional(INTEGER, place)?.map_or(Ok(()), |octets| integer(octets, place))
}

fn points(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut list = Input(value.read(SEQUENCE, place)?);
    while !list.is_empty() {
        let Some(name) = Input(list.read(SEQUENCE, place)?).optional(0xa0, place)? else { continue };
        let mut name = Input(name);
        if name.peek() == Some(0xa1) {
            return Err(Fault::DistributionPoint);
        }
        let mut names = Input(name.read(0xa0, place)?);
        while names.peek() == Some(0x86) {
            names.read(0x86, place)?;
        }
    }
    Ok(())
}

fn policies(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut list = Input(value.read(SEQUENCE, place)?);
    while !list.is_empty() {
        let id = Input(list.read(SEQUENCE, place)?).read(IDENTIFIER, place)?;
        let begins = |at: usize| at == 0 || id[at - 1] < 0x80;
        let is_padded = (0..id.len()).any(|at| begins(at) && id[at] == 0x80);
        if is_padded || id.last().is_none_or(|last| *last >= 0x80) {
            return Err(Fault::Form(place));
        }
    }
    Ok(())
}

fn mappings(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut list = Input(value.read(SEQUENCE, place)?);
    while !list.is_empty() {
        let mut one = Input(list.read(SEQUENCE, place)?);
        one.read(IDENTIFIER, place)?;
        one.read(IDENTIFIER, place)?;
    }
    Ok(())
}

fn policy_constraints(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut fields = Input(value.read(SEQUENCE, place)?);
    for tag in [0x80, 0x81] {
        fields.optional(tag, place)?.map_or(Ok(()), |octets| integer(octets, place))?;
    }
    Ok(())
}

fn uses(place: &'static str, mut value: Input<'_>) -> Result<(), Fault> {
    let mut list = Input(value.read(SEQUENCE, place)?);
    while !list.is_empty() {
        list.identifier(place)?;
    }
    Ok(())
}

/// A text of elements, which is read from its beginning.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element. Its tag has one octet, and its length as few as possible.
    fn any(&mut self) -> Option<Element<'a>> {
        let ((tag, content), rest) = element(self.0)?;
        let header = self.0.len() - rest.len() - content.len();
        let digits = content.len().to_be_bytes().iter().skip_while(|octet| **octet == 0).count();
        let shortest = if content.len() < 0x80 { 2 } else { 2 + digits };
        self.0 = rest;
        (tag & 0x1f != 0x1f && header == shortest).then_some((tag, content))
    }

    /// The next element, which must have this tag.
    fn read(&mut self, tag: u8, place: &'static str) -> Result<&'a [u8], Fault> {
        self.any().filter(|(found, _)| *found == tag).map(|(_, content)| content).ok_or(Fault::Form(place))
    }

    /// The next element if it has this tag.
    fn optional(&mut self, tag: u8, place: &'static str) -> Result<Option<&'a [u8]>, Fault> {
        if self.peek() == Some(tag) { self.read(tag, place).map(Some) } else { Ok(None) }
    }

    fn integer(&mut self, place: &'static str) -> Result<(), Fault> {
        integer(self.read(INTEGER, place)?, place)
    }

    fn bits(&mut self, place: &'static str) -> Result<(), Fault> {
        let (unused, octets) = self.read(BIT_STRING, place)?.split_first().ok_or(Fault::Form(place))?;
        let is_padded = octets.last().map_or(*unused > 0, |last| *unused < 8 && last.trailing_zeros() < u32::from(*unused));
        if *unused > 7 || is_padded { Err(Fault::Form(place)) } else { Ok(()) }
    }

    fn time(&mut self, field: &'static str) -> Result<(), Fault> {
        let (tag, text) = self.any().ok_or(Fault::Form(field))?;
        if is_time(tag, text) { Ok(()) } else { Err(Fault::Time(bad_time(field, text))) }
    }

    /// An object identifier, each of whose numbers is less than 2^31.
    fn identifier(&mut self, place: &'static str) -> Result<&'a [u8], Fault> {
        let id = self.read(IDENTIFIER, place)?;
        let is_complete = id.last().is_some_and(|last| *last < 0x80);
        let mut numbers = id.split_inclusive(|octet| *octet < 0x80);
        if !is_complete || numbers.clone().any(|octets| octets.first() == Some(&0x80)) {
            return Err(Fault::Form(place));
        }
        let is_large = |octets: &[u8]| octets.len() > 5 || octets.len() == 5 && octets[0] > 0x87;
        if numbers.any(is_large) {
            return Err(Fault::Identifier { oid: dotted(id), place });
        }
        Ok(id)
    }
}

/// An object identifier as its numbers. Those of UUIDs have 128 bits; if one has more, its octets are shown.
fn dotted(id: &[u8]) -> String {
    let number =
        |octets: &[u8]| octets.iter().try_fold(0u128, |all, octet| Some(all.checked_mul(128)? | u128::from(octet & 0x7f)));
    let numbers: Option<Vec<_>> = id.split_inclusive(|octet| *octet < 0x80).map(number).collect();
    let Some((first, rest)) = numbers.as_ref().and_then(|numbers| numbers.split_first()) else {
        return Oid::new(id.into()).to_id_string();
    };
    let begin = (*first / 40).min(2);
    let all = [begin, first - begin * 40].into_iter().chain(rest.iter().copied());
    all.map(|number| number.to_string()).collect::<Vec<_>>().join(".")
}

fn boolean(octets: &[u8], place: &'static str) -> Result<(), Fault> {
    if matches!(octets, [0 | 0xff]) { Ok(()) } else { Err(Fault::Form(place)) }
}

fn integer(octets: &[u8], place: &'static str) -> Result<(), Fault> {
    match octets {
        [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => Err(Fault::Form(place)),
        _ => Ok(()),
    }
}

fn bad_time(field: &'static str, text: &[u8]) -> BadTime {
    BadTime { field, text: String::from_utf8_lossy(text).into_owned() }
}

/// Whether a time is of the form that DER and RFC 5280 prescribe: with seconds, without a fraction of them, and in UTC.
fn is_exact_time(tag: u8, text: &[u8]) -> bool {
    let digits = match tag {
        UTC_TIME => 12,
        GENERALIZED_TIME => 14,
        _ => return false,
    };
    text.strip_suffix(b"Z").is_some_and(|rest| rest.len() == digits && rest.iter().all(u8::is_ascii_digit))
}

/// Whether Go reads a time: in another time zone too, and without seconds if it is a `UTCTime`.
fn is_time(tag: u8, text: &[u8]) -> bool {
    let digits = text.iter().take_while(|octet| octet.is_ascii_digit()).count();
    let is_long_enough = match tag {
        UTC_TIME => matches!(digits, 10 | 12),
        GENERALIZED_TIME => digits == 14,
        _ => false,
    };
    is_long_enough && is_zone(&text[digits..])
}

/// Whether Go reads a time zone: Z, or how much it differs, if it does.
fn is_zone(text: &[u8]) -> bool {
    match text {
        b"Z" => true,
        [b'+' | b'-', offset @ ..] => {
            let number =
                str::from_utf8(offset).ok().filter(|offset| offset.len() == 4).and_then(|offset| offset.parse::<u32>().ok());
            number.is_some_and(|number| number > 0 && number / 100 <= 24 && number % 100 < 60)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        for (tag, text, go, exact) in [
            (UTC_TIME, "260101000000Z", true, true),
            (UTC_TIME, "260101000000+0100", true, false),
            (UTC_TIME, "260101000000-0130", true, false),
            (UTC_TIME, "2601010000Z", true, false),
            (UTC_TIME, "260101000000+0000", false, false),
            (UTC_TIME, "260101000000-0000", false, false),
            (UTC_TIME, "260101000000+0060", false, false),
            (UTC_TIME, "260101000000+01", false, false),
            (UTC_TIME, "260101000000", false, false),
            (UTC_TIME, "20260101000000Z", false, false),
            (GENERALIZED_TIME, "20260101000000Z", true, true),
            (GENERALIZED_TIME, "20260101000000+0100", true, false),
            (GENERALIZED_TIME, "20260101000000.5Z", false, false),
            (GENERALIZED_TIME, "202601010000Z", false, false),
            (GENERALIZED_TIME, "260101000000Z", false, false),
            (0x16, "260101000000Z", false, false),
        ] {
            assert_eq!((is_time(tag, text.as_bytes()), is_exact_time(tag, text.as_bytes())), (go, exact), "{text}");
        }
    }

    #[test]
    fn object_identifiers_are_shown_in_numbers() {
        let uuid = [
            0x69, 0x83, 0xf0, 0x9d, 0xa7, 0xeb, 0xcf, 0xde, 0xe0, 0xc7, 0xa1, 0xa7, 0xb2, 0xc0, 0x94, 0x8c, 0xc8, 0xf9, 0xd7,
            0x76,
        ];
        assert_eq!(dotted(&uuid), "2.25.329800735698586629295641978511506172918");
        assert_eq!((dotted(&[0x2a, 3]), dotted(&[0x55, 0x1d]), dotted(&[0x01])), ("1.2.3".into(), "2.5.29".into(), "0.1".into()));
    }

    #[test]
    fn elements_are_read_as_go_reads_them() {
        let read = |octets: &[u8]| Input(octets).identifier("x").map(|_| ());
        assert_eq!(read(&[6, 3, 0x55, 0x1d, 15]), Ok(()));
        assert_eq!(read(&[6, 6, 0x69, 0x87, 0xff, 0xff, 0xff, 0x7f]), Ok(()));
        for large in [&[6, 6, 0x69, 0x88, 0x80, 0x80, 0x80, 0][..], &[6, 7, 0x69, 0x81, 0x80, 0x80, 0x80, 0x80, 0]] {
            assert!(matches!(read(large), Err(Fault::Identifier { .. })), "{large:?}");
        }
        for bad in [&[6, 0][..], &[6, 2, 0x55, 0x80], &[6, 3, 0x55, 0x80, 1], &[5, 0], &[6, 0x81, 1, 5], &[0x1f, 1, 5]] {
            assert_eq!(read(bad), Err(Fault::Form("x")), "{bad:?}");
        }
        for (octets, good) in
            [(&[0][..], true), (&[0, 0x80], true), (&[0xff, 0x7f], true), (&[], false), (&[0, 1], false), (&[0xff, 0x80], false)]
        {
            assert_eq!(integer(octets, "x").is_ok(), good, "{octets:?}");
        }
        for (octets, good) in [
            (&[3, 2, 0, 5][..], true),
            (&[3, 2, 1, 6], true),
            (&[3, 1, 0], true),
            (&[3, 2, 1, 5], false),
            (&[3, 1, 1], false),
            (&[3, 2, 8, 0], false),
            (&[3, 0], false),
        ] {
            assert_eq!(Input(octets).bits("x").is_ok(), good, "{octets:?}");
        }
        assert_eq!([&[0][..], &[0xff], &[1], &[]].map(|octets| boolean(octets, "x").is_ok()), [true, true, false, false]);
    }
}
