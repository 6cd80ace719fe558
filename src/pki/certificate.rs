//! Certificates, and bundles of them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use x509_parser::{
    asn1_rs::{Any, Tag},
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_X509_EXT_NAME_CONSTRAINTS,
    prelude::FromDer,
    time::ASN1Time,
};

use super::{error::PkiError, key::KeyDigest, pem, serial::Serial};

/// The certificate of a leaf or an authority, without its private key. Two certificates are equal if their DER is equal. Clones
/// share the content.
#[derive(Clone, Debug)]
pub struct Certificate(pub(super) Arc<Content>);

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.0.der == other.0.der
    }
}

impl Eq for Certificate {}

/// The contents of a certificate.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is an extension of its own")]
pub(super) struct Content {
    der: Arc<[u8]>,
    pem: Box<str>,
    serial: Serial,
    common_name: String,
    not_before: Timestamp,
    not_after: Timestamp,
    dns_names: BTreeSet<String>,
    ip_addresses: BTreeSet<IpAddr>,
    is_ca: bool,
    server_auth: bool,
    client_auth: bool,
    subject_key_id: Option<Box<[u8]>>,
    derived_key_id: Box<[u8]>,
    authority_key_id: Option<Box<[u8]>>,
    has_name_constraints: bool,
    key_digest: KeyDigest,
    fingerprint: Box<str>,
    /// The DER of the first authority whose signature was verified. It is kept, because verifying signatures is the most
    /// expensive part of a pass.
    pub(super) signer: OnceLock<Arc<[u8]>>,
    /// Whether it is signed with its own key, if that was checked.
    pub(super) self_signed: OnceLock<bool>,
}

impl Certificate {
    /// The certificate of a text that holds one `CERTIFICATE` block and nothing else.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::from_der(&pem::single(text, pem::CERTIFICATE)?)
    }

    /// The first certificate of a text that holds `CERTIFICATE` blocks and nothing else, and the others: a leaf, and the
    /// intermediate certificates that are presented with it.
    pub fn with_chain(text: &[u8]) -> Result<(Self, Vec<Self>), PkiError> {
        let mut all = read_bundle(text)?.into_iter();
        let leaf = all.next().ok_or(PkiError::Count { expected: pem::CERTIFICATE, found: 0 })?;
        Ok((leaf, all.collect()))
    }

    /// The certificate with this DER.
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let read = parse(der)?;
        let common_name = read.subject().iter_common_name().last().map(|name| text(name.attr_value())).unwrap_or_default();
        let (dns_names, ip_addresses) = alternative_names(&read)?;
        let extended = read.extended_key_usage().map_err(unreadable)?.map(|extension| extension.value);
        let (subject_key_id, authority_key_id) = key_ids(&read)?;
        let is_ca = read.basic_constraints().map_err(unreadable)?.is_some_and(|extension| extension.value.ca);
        Ok(Self(Arc::new(Content {
            der: der.into(),
            pem: pem::encode(der, pem::CERTIFICATE)?.as_str().into(),
            serial: if is_ca { Serial::of_authority(read.raw_serial()) } else { Serial::from_der_integer(read.raw_serial()) }
                .ok_or_else(|| PkiError::Certificate("its serial number is negative or too long".into()))?,
            common_name,
            not_before: timestamp(read.validity().not_before),
            not_after: timestamp(read.validity().not_after),
            dns_names,
            ip_addresses,
            is_ca,
            // Without the extension a certificate may be used for everything.
            server_auth: extended.is_none_or(|usage| usage.any || usage.server_auth),
            client_auth: extended.is_none_or(|usage| usage.any || usage.client_auth),
            subject_key_id,
            derived_key_id: derived_key_id(&read),
            authority_key_id,
            has_name_constraints: read.extensions().iter().any(|extension| extension.oid == OID_X509_EXT_NAME_CONSTRAINTS),
            key_digest: KeyDigest::of(read.public_key().raw),
            fingerprint: KeyDigest::of(der).to_hex()[..16].into(),
            signer: OnceLock::new(),
            self_signed: OnceLock::new(),
        })))
    }

    /// One `CERTIFICATE` block, which ends with a newline.
    pub fn pem(&self) -> &str {
        &self.0.pem
    }
    /// The certificate as it was signed.
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }
    /// The serial number.
    pub fn serial(&self) -> Serial {
        self.0.serial
    }
    /// The subject's common name, which etcd uses as a user's name; empty if there is none. The last one if there are several, as
    /// in Go.
    pub fn common_name(&self) -> &str {
        &self.0.common_name
    }
    /// The first moment of its validity.
    pub fn not_before(&self) -> Timestamp {
        self.0.not_before
    }
    /// The last second of its validity.
    pub fn not_after(&self) -> Timestamp {
        self.0.not_after
    }
    /// The DNS names that it is valid for.
    pub fn dns_names(&self) -> &BTreeSet<String> {
        &self.0.dns_names
    }
    /// The addresses that it is valid for.
    pub fn ip_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.0.ip_addresses
    }
    /// Whether it is the certificate of an authority.
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }
    /// Checks that an authority with this certificate may sign now.
    ///
    /// # Errors
    /// [`PkiError::AuthorityNotValid`].
    pub fn check_valid_authority(&self, now: Timestamp) -> Result<(), PkiError> {
        let (not_before, not_after) = (self.0.not_before, self.0.not_after);
        if now < not_before || now >= not_after {
            return Err(PkiError::AuthorityNotValid { not_before, not_after });
        }
        Ok(())
    }
    /// Whether it may sign for some names only.
    pub(super) fn has_name_constraints(&self) -> bool {
        self.0.has_name_constraints
    }
    /// Its fields.
    ///
    /// # Errors
    /// None: it was readable before.
    pub(super) fn read(&self) -> Result<X509Certificate<'_>, PkiError> {
        parse(&self.0.der)
    }
    /// Whether an authority with this certificate may sign certificates (keyUsage).
    pub(super) fn signs_certificates(&self) -> bool {
        parse(&self.0.der)
            .is_ok_and(|read| read.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign())))
    }
    /// Whether an authority with this certificate may sign revocation lists (keyUsage).
    pub(super) fn signs_lists(&self) -> bool {
        parse(&self.0.der).is_ok_and(|read| read.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign())))
    }
    /// How many other authorities may be between it and a leaf, if that is limited.
    pub(super) fn path_length(&self) -> Option<u32> {
        parse(&self.0.der).ok()?.basic_constraints().ok()??.value.path_len_constraint
    }
    /// The DER of its subject, as it is in it.
    pub(super) fn subject_der(&self) -> Result<Vec<u8>, PkiError> {
        Ok(parse(self.der())?.subject().as_raw().to_vec())
    }
    /// The DER of its `SubjectPublicKeyInfo`.
    pub(super) fn key_info(&self) -> Result<Vec<u8>, PkiError> {
        Ok(parse(self.der())?.public_key().raw.to_vec())
    }
    /// Whether a server may use it.
    pub fn server_auth(&self) -> bool {
        self.0.server_auth
    }
    /// Whether a client may use it.
    pub fn client_auth(&self) -> bool {
        self.0.client_auth
    }
    /// The identifier of its key: the one that it contains, otherwise the one that RFC 5280 (4.2.1.2) derives from the key. The
    /// operator's authorities write it into the certificates that they sign.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.written_key_id().or(Some(&self.0.derived_key_id))
    }
    /// The identifier of its key, if it contains one. Verifiers know no other.
    pub(super) fn written_key_id(&self) -> Option<&[u8]> {
        self.0.subject_key_id.as_deref()
    }
    /// The identifier of the key that signed it.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.0.authority_key_id.as_deref()
    }
    /// The digest of its public key.
    pub fn key_digest(&self) -> KeyDigest {
        self.0.key_digest
    }
    /// The first 16 hexadecimal digits of the SHA-256 of its DER, which identify it.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }
    /// When two thirds of its lifetime are over. Its actual lifetime counts, not the requested one.
    pub fn renew_at(&self) -> Timestamp {
        two_thirds(self.0.not_before, self.0.not_after)
    }
}

/// When two thirds of the time between these moments are over.
pub(super) fn two_thirds(begin: Timestamp, end: Timestamp) -> Timestamp {
    let seconds = end.as_second() - begin.as_second();
    Timestamp::from_second(begin.as_second() + seconds * 2 / 3).unwrap_or(end)
}

/// Certificates in PEM, one after the other: the form of a trust bundle.
pub fn bundle<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates.into_iter().map(Certificate::pem).collect()
}

/// The certificates of a text that holds `CERTIFICATE` blocks and nothing else, in their order; there may be none.
pub fn read_bundle(text: &[u8]) -> Result<Vec<Certificate>, PkiError> {
    pem::blocks(text, pem::CERTIFICATE)?.iter().map(|der| Certificate::from_der(der)).collect()
}

/// Reads a certificate's DER.
pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::Certificate("there is data after it".into())),
        Err(error) => Err(unreadable(error)),
    }
}

fn unreadable(error: impl std::fmt::Display) -> PkiError {
    PkiError::Certificate(error.to_string())
}

/// The DNS names and the addresses that a certificate is valid for.
fn alternative_names(read: &X509Certificate) -> Result<(BTreeSet<String>, BTreeSet<IpAddr>), PkiError> {
    let alternative = read.subject_alternative_name().map_err(unreadable)?;
    let (mut dns_names, mut ip_addresses) = (BTreeSet::new(), BTreeSet::new());
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match name {
            GeneralName::DNSName(name) => drop(dns_names.insert((*name).to_owned())),
            GeneralName::IPAddress(octets) => drop(ip_addresses.insert(ip_address(octets)?)),
            _ => {}
        }
    }
    Ok((dns_names, ip_addresses))
}

/// The identifier of a key.
type KeyId = Option<Box<[u8]>>;

/// The SHA-1 of a certificate's public key (RFC 5280, 4.2.1.2, method 1).
fn derived_key_id(read: &X509Certificate) -> Box<[u8]> {
    digest(&SHA1_FOR_LEGACY_USE_ONLY, &read.public_key().subject_public_key.data).as_ref().into()
}

/// The identifiers of a certificate's key and of the key that signed it. Every extension must be readable.
fn key_ids(read: &X509Certificate) -> Result<(KeyId, KeyId), PkiError> {
    let (mut subject, mut authority) = (None, None);
    for extension in read.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject = Some(id.0.into()),
            ParsedExtension::AuthorityKeyIdentifier(id) => authority = id.key_identifier.as_ref().map(|id| id.0.into()),
            ParsedExtension::ParseError { error } => return Err(PkiError::Certificate(error.to_string())),
            _ => {}
        }
    }
    Ok((subject, authority))
}

/// The text of an attribute of a name. It may be of any string type: authorities of Windows have names in UTF-16.
fn text(value: &Any) -> String {
    let units = |octets: &[u8]| <[u8; 2]>::try_from(octets).map(u16::from_be_bytes).unwrap_or_default();
    let code_points =
        |octets: &[u8]| <[u8; 4]>::try_from(octets).ok().and_then(|octets| char::from_u32(u32::from_be_bytes(octets)));
    match value.tag() {
        Tag::BmpString => String::from_utf16_lossy(&value.data.chunks(2).map(units).collect::<Vec<_>>()),
        Tag::UniversalString => {
            value.data.chunks(4).map(|octets| code_points(octets).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
        }
        Tag::T61String => value.data.iter().copied().map(char::from).collect(),
        _ => String::from_utf8_lossy(value.data).into_owned(),
    }
}

fn ip_address(octets: &[u8]) -> Result<IpAddr, PkiError> {
    <[u8; 4]>::try_from(octets)
        .map(|octets| Ipv4Addr::from(octets).into())
        .or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into()))
        .map_err(|_| PkiError::Certificate("an address in it is neither IPv4 nor IPv6".into()))
}

fn timestamp(time: ASN1Time) -> Timestamp {
    // "Never" is 9999-12-31T23:59:59Z (RFC 5280, 4.1.2.5), a day later than the last timestamp.
    Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
}
