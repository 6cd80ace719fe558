//! Certificates as they are read, and bundles of them.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use jiff::Timestamp;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_SIG_ED25519},
    prelude::FromDer,
    public_key::PublicKey,
    time::ASN1Time,
    x509::AttributeTypeAndValue,
};

use super::{
    KeyDigest, PkiError, Serial, pem,
    recent::{Digest, Recent, digest},
};

static READ: Recent<Digest, Certificate, 512> = Recent::new();
static BUNDLES: Recent<Digest, Vec<Certificate>, 256> = Recent::new();
static VERIFIED: Recent<[Digest; 2], bool, 16_384> = Recent::new();
static ROOTS: Recent<Digest, bool, 512> = Recent::new();

/// A certificate: what is public of a leaf or an authority. Two are equal when their DER is. Copies cost nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate(Arc<Content>);

/// What is in one.
#[derive(Debug, PartialEq, Eq)]
struct Content {
    der: Box<[u8]>,
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
    authority_key_id: Option<Box<[u8]>>,
    key_digest: KeyDigest,
    fingerprint: Box<str>,
    /// Of the DER: what is known of this certificate is kept under it.
    digest: Digest,
}

impl Certificate {
    /// The certificate of a text that holds one `CERTIFICATE` block and nothing else.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        READ.get(digest(text), || Self::from_der(&pem::single(text, pem::CERTIFICATE)?))
    }

    /// The first certificate of a text that holds `CERTIFICATE` blocks and nothing else, and the others: a leaf, and what is shown with
    /// it.
    pub fn with_chain(text: &[u8]) -> Result<(Self, Vec<Self>), PkiError> {
        match Self::from_pem(text) {
            Err(PkiError::Count { found: 2.., .. }) => {
                let mut all = read_bundle(text)?;
                let leaf = all.remove(0);
                Ok((leaf, all))
            }
            single => Ok((single?, vec![])),
        }
    }

    /// The certificate with this DER.
    pub fn from_der(der: &[u8]) -> Result<Self, PkiError> {
        let read = parse(der)?;
        let common_name =
            read.subject().iter_common_name().last().map(AttributeTypeAndValue::as_str).transpose().map_err(unreadable)?;
        let alternative = read.subject_alternative_name().map_err(unreadable)?;
        let mut dns_names = BTreeSet::new();
        let mut ip_addresses = BTreeSet::new();
        for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(name) => drop(dns_names.insert((*name).to_owned())),
                GeneralName::IPAddress(octets) => drop(ip_addresses.insert(ip_address(octets)?)),
                _ => {}
            }
        }
        let extended = read.extended_key_usage().map_err(unreadable)?.map(|extension| extension.value);
        let (mut subject_key_id, mut authority_key_id) = (None, None);
        for extension in read.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => subject_key_id = Some(id.0.into()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    authority_key_id = id.key_identifier.as_ref().map(|id| id.0.into());
                }
                ParsedExtension::ParseError { error } => return Err(PkiError::Certificate(error.to_string())),
                _ => {}
            }
        }
        Ok(Self(Arc::new(Content {
            der: der.into(),
            pem: pem::encode(der, pem::CERTIFICATE)?.as_str().into(),
            serial: Serial::from_der_integer(read.raw_serial())
                .ok_or_else(|| PkiError::Certificate("its serial number is negative or too long".into()))?,
            common_name: common_name.unwrap_or_default().to_owned(),
            not_before: timestamp(read.validity().not_before),
            not_after: timestamp(read.validity().not_after),
            dns_names,
            ip_addresses,
            is_ca: read.basic_constraints().map_err(unreadable)?.is_some_and(|extension| extension.value.ca),
            // Without the extension a certificate is good for everything.
            server_auth: extended.is_none_or(|usage| usage.any || usage.server_auth),
            client_auth: extended.is_none_or(|usage| usage.any || usage.client_auth),
            subject_key_id,
            authority_key_id,
            key_digest: KeyDigest::of(read.public_key().raw),
            fingerprint: KeyDigest::of(der).to_hex()[..16].into(),
            digest: digest(der),
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
    /// The subject's common name, which etcd takes for a user's name; empty without one. The last one, if it has several, as
    /// Go sees it.
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
    /// The DNS names it is for.
    pub fn dns_names(&self) -> &BTreeSet<String> {
        &self.0.dns_names
    }
    /// The addresses it is for.
    pub fn ip_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.0.ip_addresses
    }
    /// Whether it is an authority's.
    pub fn is_ca(&self) -> bool {
        self.0.is_ca
    }
    /// Whether an authority with it may sign now.
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
    /// Whether an authority with it may sign certificates (keyUsage).
    pub(super) fn signs_certificates(&self) -> bool {
        parse(&self.0.der)
            .is_ok_and(|read| read.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign())))
    }
    /// Whether an authority with it may sign revocation lists (keyUsage).
    pub(super) fn signs_lists(&self) -> bool {
        parse(&self.0.der).is_ok_and(|read| read.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign())))
    }
    /// How many authorities there may be between it and a leaf, if that is limited.
    pub(super) fn path_length(&self) -> Option<u32> {
        parse(&self.0.der).ok()?.basic_constraints().ok()??.value.path_len_constraint
    }
    /// Whether its name says that it was signed by this one, whatever the signature says.
    pub(super) fn names_as_issuer(&self, authority: &Certificate) -> bool {
        let (Ok(read), Ok(issuer)) = (parse(self.der()), parse(authority.der())) else { return false };
        read.issuer().as_raw() == issuer.subject().as_raw()
    }
    /// Whether its key is of a kind that can be verified with here.
    pub(super) fn has_known_key(&self) -> bool {
        let Ok(read) = parse(self.der()) else { return false };
        let key = read.public_key();
        let curve = || key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => rsa.key_size() >= 2048,
            Ok(PublicKey::EC(_)) => curve().is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384),
            _ => key.algorithm.algorithm == OID_SIG_ED25519,
        }
    }
    /// Whether it is a root: its own key signed it.
    pub fn is_self_signed(&self) -> bool {
        let is_root =
            |read: X509Certificate| read.issuer().as_raw() == read.subject().as_raw() && read.verify_signature(None).is_ok();
        ROOTS.get(self.0.digest, || parse(&self.0.der).map(is_root)).unwrap_or_default()
    }
    /// Whether an authority signed it, by the name and the signature alone: what others make may lack key identifiers.
    pub fn is_below(&self, authority: &Certificate) -> bool {
        let (Ok(read), Ok(issuer)) = (parse(&self.0.der), parse(&authority.0.der)) else { return false };
        read.issuer().as_raw() == issuer.subject().as_raw() && read.verify_signature(Some(issuer.public_key())).is_ok()
    }
    /// Whether a server may show it.
    pub fn server_auth(&self) -> bool {
        self.0.server_auth
    }
    /// Whether a client may show it.
    pub fn client_auth(&self) -> bool {
        self.0.client_auth
    }
    /// The name of its key.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.0.subject_key_id.as_deref()
    }
    /// The name of the key that signed it.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.0.authority_key_id.as_deref()
    }
    /// The digest of its public key.
    pub fn key_digest(&self) -> KeyDigest {
        self.0.key_digest
    }

    /// The first 16 hexadecimal digits of the SHA-256 of its DER, which tell it from every other.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }
    /// Two thirds of its real life: from its begin to its end as they are, not as they were asked for.
    pub fn renew_at(&self) -> Timestamp {
        let (begin, end) = (self.0.not_before.as_second(), self.0.not_after.as_second());
        Timestamp::from_second(begin + (end - begin) * 2 / 3).unwrap_or(self.0.not_after)
    }

    /// Whether an authority signed it: the names and the key identifiers agree and the signature verifies.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let verified = VERIFIED.get([self.0.digest, authority.0.digest], || Ok::<_, PkiError>(self.verify(authority)));
        verified.unwrap_or_default()
    }

    fn verify(&self, authority: &Certificate) -> bool {
        let (Ok(leaf), Ok(issuer)) = (parse(&self.0.der), parse(&authority.0.der)) else { return false };
        self.0.authority_key_id.is_some()
            && self.0.authority_key_id == authority.0.subject_key_id
            && leaf.issuer().as_raw() == issuer.subject().as_raw()
            && leaf.verify_signature(Some(issuer.public_key())).is_ok()
    }
}

/// Certificates one after the other in PEM: the form of a file of trusted authorities.
pub fn bundle<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    certificates.into_iter().map(Certificate::pem).collect()
}

/// The certificates of a text that holds `CERTIFICATE` blocks and nothing else, in their order; there may be none.
pub fn read_bundle(text: &[u8]) -> Result<Vec<Certificate>, PkiError> {
    BUNDLES.get(digest(text), || pem::blocks(text, pem::CERTIFICATE)?.iter().map(|der| Certificate::from_der(der)).collect())
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(PkiError::Certificate("something follows it".into())),
        Err(error) => Err(unreadable(error)),
    }
}

fn unreadable(error: impl std::fmt::Display) -> PkiError {
    PkiError::Certificate(error.to_string())
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
