//! Who signed a certificate.

use std::sync::Arc;

use x509_parser::{
    asn1_rs::{Oid, Tag},
    certificate::X509Certificate,
    error::X509Error,
    objects::{oid_registry, oid2sn},
    oid_registry::{OID_EC_P256, OID_NIST_EC_P384, OID_PKCS1_RSASSAPSS, OID_SIG_ED25519},
    public_key::PublicKey,
    signature_algorithm::RsaSsaPssParams,
    x509::SubjectPublicKeyInfo,
};

use super::certificate::{Certificate, parse};

/// The sizes of RSA keys whose signatures can be verified here, in bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Signatures that are not in OpenSSL's table of pairs of a hash and a kind of key (`crypto/objects/obj_xref.txt`): RSA with
/// SHA-512/224 and SHA-512/256, and ECDSA with SHA-3.
const UNKNOWN_TO_OPENSSL: [&str; 6] = [
    "1.2.840.113549.1.1.15",
    "1.2.840.113549.1.1.16",
    "2.16.840.1.101.3.4.3.9",
    "2.16.840.1.101.3.4.3.10",
    "2.16.840.1.101.3.4.3.11",
    "2.16.840.1.101.3.4.3.12",
];

/// What is known about a signature.
#[derive(PartialEq, Eq)]
enum Signature {
    /// The key made it.
    Good,
    /// Another key made it.
    Wrong,
    /// It is of a kind that cannot be verified here. OpenSSL knows more kinds.
    Unknown,
}

impl Certificate {
    /// Whether it names this authority as its issuer, whether or not its signature verifies.
    pub(super) fn names_as_issuer(&self, authority: &Certificate) -> bool {
        let (Ok(read), Ok(issuer)) = (parse(self.der()), parse(authority.der())) else { return false };
        read.issuer().as_raw() == issuer.subject().as_raw()
    }

    /// Whether it is a root: its names are the same, and so are its key identifiers, or its own key made the signature. The
    /// signature of a certificate that is trusted itself is not verified, so it may be of any kind if the identifiers are the same.
    pub fn is_self_signed(&self) -> bool {
        let by_own_key = || parse(self.der()).map_or(Signature::Wrong, |read| signature(&read, read.public_key()));
        let is_own = || match (self.authority_key_id(), self.written_key_id()) {
            (Some(authority), Some(own)) => authority == own || by_own_key() == Signature::Good,
            _ => by_own_key() != Signature::Wrong,
        };
        *self.0.self_signed.get_or_init(|| self.names_as_issuer(self) && is_own())
    }

    /// Whether it is of the same authority as another one: renewed, with the same name and key.
    pub(super) fn is_same_authority(&self, other: &Certificate) -> bool {
        let (Ok(read), Ok(other_read)) = (parse(self.der()), parse(other.der())) else { return false };
        read.subject().as_raw() == other_read.subject().as_raw() && self.key_digest() == other.key_digest()
    }

    /// Whether an authority signed it: the names and the key identifiers match, and the signature verifies.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        self.authority_key_id().is_some() && self.authority_key_id() == authority.subject_key_id() && self.is_below(authority)
    }

    /// Whether an authority signed it. Only the name and the signature are checked, because external certificates may lack key
    /// identifiers.
    pub(super) fn is_below(&self, authority: &Certificate) -> bool {
        if self.0.signer.get().is_some_and(|signer| **signer == *authority.der()) {
            return true;
        }
        let is_below = self.signature_of(authority) == Signature::Good;
        if is_below {
            // Another authority with the same key and name may already be stored.
            let _ = self.0.signer.set(Arc::from(authority.der()));
        }
        is_below
    }

    /// Whether an authority is the one above this authority. If its signature cannot be verified here, the names and the key
    /// identifiers decide: only clients with OpenSSL go on to the authority above the one that signs, and OpenSSL verifies it itself.
    pub(super) fn may_be_below(&self, authority: &Certificate) -> bool {
        let named = match (self.authority_key_id(), authority.written_key_id()) {
            (Some(id), Some(other)) => id == other,
            _ => true,
        };
        self.is_below(authority) || named && self.signature_of(authority) == Signature::Unknown
    }

    fn signature_of(&self, authority: &Certificate) -> Signature {
        let (Ok(read), Ok(issuer)) = (parse(self.der()), parse(authority.der())) else { return Signature::Wrong };
        if read.issuer().as_raw() != issuer.subject().as_raw() {
            return Signature::Wrong;
        }
        signature(&read, issuer.public_key())
    }

    /// Whether the signature is of a kind that can be verified here, if this authority made it.
    pub(super) fn is_verifiable(&self, authority: &Certificate) -> bool {
        self.signature_of(authority) != Signature::Unknown
    }

    /// The algorithm of its signature, such as `ecdsa-with-SHA512`.
    pub(super) fn signature_algorithm(&self) -> String {
        parse(self.der()).map_or_else(|_| String::new(), |read| name(&read.signature_algorithm.algorithm))
    }

    /// Whether OpenSSL (3.0) does not know which kind of key makes its signature.
    pub(super) fn has_signature_unknown_to_openssl(&self) -> bool {
        parse(self.der())
            .is_ok_and(|read| UNKNOWN_TO_OPENSSL.contains(&read.signature_algorithm.algorithm.to_id_string().as_str()))
    }

    /// The name of its issuer, such as `C=DE, CN=Root`.
    pub(super) fn issuer_name(&self) -> String {
        parse(self.der()).map_or_else(|_| String::new(), |read| read.issuer().to_string())
    }

    /// Whether signatures of its key can be verified here.
    pub(super) fn has_supported_key(&self) -> bool {
        parse(self.der()).is_ok_and(|read| is_supported(read.public_key()))
    }

    /// Whether OpenSSL refuses its key wherever it is in a chain: RSA of less than 2048 bits, or a curve whose parameters are written
    /// out.
    pub(super) fn has_refused_key(&self) -> bool {
        let Ok(read) = parse(self.der()) else { return false };
        match read.public_key().parsed() {
            Ok(PublicKey::RSA(rsa)) => rsa.key_size() < *RSA_BITS.start(),
            Ok(PublicKey::EC(_)) => curve(read.public_key()).is_none(),
            _ => false,
        }
    }

    /// What kind of key it has.
    pub(super) fn describe_key(&self) -> String {
        let Ok(read) = parse(self.der()) else { return String::new() };
        let key = read.public_key();
        match key.parsed() {
            _ if key.algorithm.algorithm == OID_PKCS1_RSASSAPSS => "RSA for RSASSA-PSS only".into(),
            Ok(PublicKey::RSA(rsa)) => format!("RSA of {} bits", rsa.key_size()),
            Ok(PublicKey::EC(_)) => match curve(key) {
                Some(curve) => format!("on the curve {}", name(&curve)),
                None => "on a curve whose parameters are written out".into(),
            },
            _ => name(&key.algorithm.algorithm),
        }
    }
}

/// The name of an object identifier, or its numbers.
fn name(oid: &Oid) -> String {
    oid2sn(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned)
}

/// The curve that a key names.
fn curve<'a>(key: &'a SubjectPublicKeyInfo) -> Option<Oid<'a>> {
    key.algorithm.parameters.as_ref().filter(|parameters| parameters.tag() == Tag::Oid)?.as_oid().ok()
}

fn is_supported(key: &SubjectPublicKeyInfo) -> bool {
    match key.parsed() {
        _ if key.algorithm.algorithm == OID_PKCS1_RSASSAPSS => false,
        Ok(PublicKey::RSA(rsa)) => RSA_BITS.contains(&rsa.key_size()),
        Ok(PublicKey::EC(_)) => curve(key).is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384),
        _ => key.algorithm.algorithm == OID_SIG_ED25519,
    }
}

/// What is known about the signature of a certificate, if this key made it. If it names two algorithms, no verifier says that it is
/// good.
fn signature(read: &X509Certificate, key: &SubjectPublicKeyInfo) -> Signature {
    if read.tbs_certificate.signature != read.signature_algorithm {
        return Signature::Unknown;
    }
    match read.verify_signature(Some(key)) {
        Ok(()) => Signature::Good,
        Err(X509Error::SignatureUnsupportedAlgorithm) => Signature::Unknown,
        Err(_) if !is_supported(key) || has_other_salt(read) => Signature::Unknown,
        Err(_) => Signature::Wrong,
    }
}

/// Whether a signature is of RSASSA-PSS with a salt that is not as long as its hash. Go and `ring` do not verify it.
fn has_other_salt(read: &X509Certificate) -> bool {
    let algorithm = &read.signature_algorithm;
    let parameters = algorithm.parameters.as_ref().filter(|_| algorithm.algorithm == OID_PKCS1_RSASSAPSS);
    let Some(Ok(parameters)) = parameters.map(RsaSsaPssParams::try_from) else { return false };
    let hash = match name(parameters.hash_algorithm_oid()).as_str() {
        "sha256" => 32,
        "sha384" => 48,
        _ => 64,
    };
    parameters.salt_length() != hash
}
