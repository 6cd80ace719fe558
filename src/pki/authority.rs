//! Authorities and the leaves that they issue.

use std::{collections::BTreeSet, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::{
    certificate::{Certificate, bundle},
    constraints::{Name, refusal},
    error::PkiError,
    key::{PrivateKey, key_pair},
    serial::Serial,
    sign::{self, Unsigned},
    verify::verify,
};

/// How long before its creation a certificate begins to be valid, for peers whose clocks are behind.
pub const BACKDATING: SignedDuration = SignedDuration::from_mins(5);

/// What a leaf may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Usage {
    /// By a server.
    Server,
    /// By a client.
    Client,
    /// By both, for connections between members.
    Both,
}

impl Usage {
    /// Whether a server may use it.
    pub(super) fn server(self) -> bool {
        self != Self::Client
    }

    /// Whether a client may use it.
    pub(super) fn client(self) -> bool {
        self != Self::Server
    }
}

/// The contents of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSpec {
    /// The subject's common name.
    pub common_name: String,
    /// All DNS names.
    pub dns_names: BTreeSet<String>,
    /// All addresses.
    pub ip_addresses: BTreeSet<IpAddr>,
    /// Those of the names and addresses, as text, that are left out where the authority, or one above it, may not sign for them.
    pub optional: BTreeSet<String>,
    /// What it may be used for.
    pub usage: Usage,
    /// How long it is valid after its creation.
    pub duration: SignedDuration,
}

impl LeafSpec {
    /// A request for a certificate with these names for a key, in PEM (PKCS#10). It contains neither usage nor duration.
    ///
    /// # Errors
    /// If a name cannot be written into a certificate.
    pub fn request(&self, key: &PrivateKey) -> Result<String, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, self.common_name.as_str());
        params.subject_alt_names = self.alternative_names()?;
        Ok(params.serialize_request(&*key_pair(key.pem())?)?.pem()?)
    }

    /// All names that it is for.
    pub(super) fn names(&self) -> impl Iterator<Item = Name> {
        self.dns_names.iter().map(|name| Name::dns(name)).chain(self.ip_addresses.iter().copied().map(Name::ip))
    }

    /// The same contents without those optional names for which the authority, or one above it, may not sign.
    #[must_use]
    pub fn within<'a>(&self, path: impl IntoIterator<Item = &'a Certificate>) -> Self {
        let mut spec = self.clone();
        for authority in path {
            let stays =
                |text: &str, name: Name| !self.optional.contains(text) || refusal(authority, [name].into_iter()).is_none();
            spec.dns_names.retain(|name| stays(name, Name::dns(name)));
            spec.ip_addresses.retain(|address| stays(&address.to_string(), Name::ip(*address)));
        }
        spec
    }

    fn alternative_names(&self) -> Result<Vec<SanType>, PkiError> {
        let name = |name: &String| name.as_str().try_into().map(SanType::DnsName).map_err(|_| PkiError::Name(name.clone()));
        let mut all: Vec<_> = self.dns_names.iter().map(name).collect::<Result<_, _>>()?;
        all.extend(self.ip_addresses.iter().copied().map(SanType::IpAddress));
        Ok(all)
    }
}

/// A leaf that was just issued. Its private key exists nowhere else.
pub struct Leaf {
    /// The certificate.
    pub certificate: Certificate,
    /// Its private key.
    pub key: PrivateKey,
    /// The intermediate certificates that are presented with it, for peers that trust only the root.
    pub chain: Vec<Certificate>,
}

impl Leaf {
    /// The certificate and the intermediate ones: the form of a server's or client's certificate file.
    pub fn pem(&self) -> String {
        bundle([&self.certificate].into_iter().chain(&self.chain))
    }
}

/// A certificate that may sign others, with its private key. It has no `Debug`.
pub struct Authority {
    certificate: Certificate,
    key: PrivateKey,
    pair: Zeroizing<KeyPair>,
}

impl Authority {
    /// Creates a self-signed one: ECDSA P-256, valid from 5 minutes before `now` until `duration` after it.
    ///
    /// The common name must be different for each generation, so that no verifier confuses them.
    pub fn create(common_name: &str, duration: SignedDuration, now: Timestamp) -> Result<Self, PkiError> {
        let key = PrivateKey::generate()?;
        let pair = key_pair(key.pem())?;
        let mut params = params(common_name, now.checked_sub(BACKDATING).map_err(|_| PkiError::Lifetime)?, end(now, duration)?)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let signed = params.self_signed(&*pair)?;
        Ok(Self { certificate: Certificate::from_der(signed.der())?, key, pair })
    }

    /// Loads one that was created earlier, or elsewhere. Its key may be in the form of another program
    /// ([`PrivateKey::of_certificate`]).
    ///
    /// # Errors
    /// If the certificate or the key is unreadable, they do not belong together, or the certificate may not sign others.
    pub fn load(certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let certificate = Certificate::from_pem(certificate)?;
        let key = PrivateKey::of_certificate(key, &certificate)?;
        Self::of(certificate, key)
    }

    /// The authority with this certificate and its private key.
    ///
    /// # Errors
    /// If the certificate may not sign others.
    pub fn of(certificate: Certificate, key: PrivateKey) -> Result<Self, PkiError> {
        if !certificate.is_ca() {
            return Err(PkiError::NotAuthority("its certificate is not a CA certificate (basicConstraints)"));
        }
        if !certificate.signs_certificates() {
            return Err(PkiError::NotAuthority("its certificate may not sign certificates (keyUsage)"));
        }
        let pair = key_pair(key.pem())?;
        Ok(Self { certificate, key, pair })
    }

    /// The certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The private key: one `PRIVATE KEY` block.
    pub fn key_pem(&self) -> &[u8] {
        self.key.pem()
    }

    /// Creates a key and a certificate for it, valid from 5 minutes before `now` until the specified duration after it, and never
    /// outside of the authority's own validity.
    ///
    /// # Errors
    /// If the authority is not valid now, the specification cannot be written into a certificate, or the certificate would not be
    /// accepted: an external authority may be limited to some names.
    pub fn issue(&self, spec: &LeafSpec, now: Timestamp) -> Result<Leaf, PkiError> {
        self.check_valid(now)?;
        let not_before =
            now.checked_sub(BACKDATING).map_or(self.certificate.not_before(), |t| t.max(self.certificate.not_before()));
        let not_after = end(now, spec.duration)?.min(self.certificate.not_after());
        let mut params = params(&spec.common_name, not_before, not_after)?;
        // It is set explicitly, because only then the extension and a key identifier are written.
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if spec.usage.server() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if spec.usage.client() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.subject_alt_names = spec.alternative_names()?;
        let key = PrivateKey::generate()?;
        let unsigned = params.signed_by(&*key_pair(key.pem())?, &self.placeholder())?;
        let certificate = Certificate::from_der(&self.sign(unsigned.der())?)?;
        if !certificate.is_signed_by(&self.certificate) {
            return Err(PkiError::Sign("the certificate does not verify".into()));
        }
        verify(&certificate, &self.certificate, now)?;
        Ok(Leaf { certificate, key, chain: vec![] })
    }

    /// Checks that it is valid now; otherwise it must not sign.
    ///
    /// # Errors
    /// [`PkiError::AuthorityNotValid`].
    pub fn check_valid(&self, now: Timestamp) -> Result<(), PkiError> {
        self.certificate.check_valid_authority(now)
    }

    /// The issuer for what [`Authority::sign`] is going to sign.
    pub(super) fn placeholder(&self) -> Issuer<'static, Unsigned<'_>> {
        sign::placeholder(&self.certificate, &self.pair)
    }

    /// Signs a certificate or revocation list that was created with [`Authority::placeholder`]. Returns its DER.
    pub(super) fn sign(&self, unsigned: &[u8]) -> Result<Vec<u8>, PkiError> {
        sign::sign(unsigned, &self.certificate, &self.pair)
    }
}

/// The parameters that all certificates have in common. It replaces the library's defaults: a validity from 1975 to 4096, another
/// common name, and a serial that is derived from the key.
fn params(common_name: &str, not_before: Timestamp, not_after: Timestamp) -> Result<CertificateParams, PkiError> {
    if common_name.is_empty() {
        return Err(PkiError::Name(String::new()));
    }
    let mut params = CertificateParams::default();
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    params.serial_number = Some(SerialNumber::from_slice(Serial::random()?.octets()));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    Ok(params)
}

fn end(now: Timestamp, duration: SignedDuration) -> Result<Timestamp, PkiError> {
    if !duration.is_positive() {
        return Err(PkiError::Lifetime);
    }
    now.checked_add(duration).map_err(|_| PkiError::Lifetime)
}

/// A moment in the form that the library expects. Certificates contain whole seconds only.
pub(super) fn date(at: Timestamp) -> Result<OffsetDateTime, PkiError> {
    OffsetDateTime::from_unix_timestamp(at.as_second()).map_err(|_| PkiError::Lifetime)
}
