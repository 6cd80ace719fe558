//! Errors of certificates, keys and what is stored with them.

use jiff::Timestamp;

/// Why something cannot be read, used or created. It never contains a part of a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// The text does not consist of PEM blocks.
    #[error("not readable as PEM: {0}")]
    Pem(&'static str),
    /// A PEM block of another kind than expected.
    #[error("holds a block of another kind than {expected}: {found}")]
    Label {
        /// The kind of block.
        expected: &'static str,
        /// What it holds, and what mends it if that is known.
        found: String,
    },
    /// Not exactly one block.
    #[error("holds {found} {expected} blocks where one is expected")]
    Count {
        /// The kind of block.
        expected: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The content of a block is not a certificate.
    #[error("not a certificate: {0}")]
    Certificate(String),
    /// The content of a block is not a private key that can be used.
    #[error("not a supported private key in PKCS#8 (ECDSA P-256 or P-384, Ed25519, RSA)")]
    Key,
    /// A private key of another program that cannot be read or used. The text says what mends it.
    #[error("{0}")]
    ForeignKey(String),
    /// The private key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyDoesNotFit,
    /// A certificate that cannot be used to sign others.
    #[error("cannot act as a CA: {0}")]
    NotAuthority(&'static str),
    /// The authority has expired or is not valid yet.
    #[error("the CA is valid from {not_before} to {not_after} only")]
    AuthorityNotValid {
        /// When its validity begins.
        not_before: Timestamp,
        /// When it ends.
        not_after: Timestamp,
    },
    /// A lifetime that is not positive or ends after the year 9999.
    #[error("not a possible lifetime")]
    Lifetime,
    /// A name that cannot be written into a certificate.
    #[error("{0:?} cannot be a name in a certificate")]
    Name(String),
    /// A certificate or a revocation list could not be signed.
    #[error("signing failed: {0}")]
    Sign(String),
    /// Not a revocation list in DER.
    #[error("not a revocation list: {0}")]
    RevocationList(String),
    /// Not a ledger.
    #[error("not a ledger: {0}")]
    Ledger(String),
    /// Not the state of a rotation.
    #[error("not the state of a rotation: {0}")]
    Rotation(String),
    /// Not a record of the issuers of a domain's authorities.
    #[error("not a record of issuers: {0}")]
    Issuers(String),
    /// An external authority or one of its ancestors cannot be used.
    #[error("{0}")]
    Chain(String),
    /// An external authority of which a verifier would refuse the leaves.
    #[error("{why}")]
    Refused {
        /// The rule, by its name in the table.
        rule: &'static str,
        /// Who refuses which certificate, why, and what mends it.
        why: String,
    },
    /// A leaf that verifiers would refuse although they trust the authority that signed it.
    #[error("a certificate that it signed would not be accepted: {0}")]
    NotAccepted(String),
    /// Not a serial number.
    #[error("{0:?} is not a serial number in hexadecimal digits")]
    Serial(String),
    /// The system's random generator failed.
    #[error("the system's random generator failed")]
    Random,
}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error.to_string())
    }
}
