//! What certificates are made of: authorities, leaves, bundles, revocation lists, the ledger of what was issued, and the
//! decision whether a leaf still does.
//!
//! Everything here is pure: no client, no runtime and no clock (`now` is a parameter). Randomness comes from the system's
//! generator. Private keys are kept as PEM in memory that is wiped, and have no `Debug`.

mod authority;
mod certificate;
mod issuer;
mod key;
mod ledger;
mod offer;
mod pem;
mod recent;
mod revocation;
pub mod rotation;
mod serial;
mod stale;
#[cfg(test)]
mod tests;

use std::fmt;

use jiff::Timestamp;

pub use authority::{Authority, BACKDATING, Leaf, LeafSpec, Usage};
pub use certificate::{Certificate, bundle, read_bundle};
pub use issuer::{Issuer, Issuers};
pub use key::{KeyDigest, PrivateKey, digest_of_private_pem};
pub use ledger::{Holder, Issued, Ledger};
pub use offer::{Offer, above, chain, verify};
pub use revocation::{crl_serials, sign_crl_without_key};
pub use rotation::{Phase, Rotation};
pub use serial::Serial;
pub use stale::{Spread, Stale, lasting, renewal, stale};

/// What a certificate is trusted for. The domains share nothing: a certificate of the peer domain is full control of the
/// cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Domain {
    /// Port 2379: the members' server leaves and everybody's client leaves.
    Client,
    /// Port 2380: what members show each other.
    Peer,
}

impl Domain {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Peer];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something is not what it should be, or could not be made. Never holds anything of a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// The text is not PEM blocks and nothing else.
    #[error("not readable as PEM: {0}")]
    Pem(&'static str),
    /// A PEM block of another kind than expected.
    #[error("holds a block of another kind than {0}")]
    Label(&'static str),
    /// Not exactly one block.
    #[error("holds {found} {wanted} blocks where one is expected")]
    Count {
        /// The kind of block.
        wanted: &'static str,
        /// How many there are.
        found: usize,
    },
    /// What is in the block is no certificate.
    #[error("not a certificate: {0}")]
    Certificate(String),
    /// What is in the block is no private key that can be used.
    #[error("not a private key in PKCS#8 that is supported (ECDSA P-256 or P-384, Ed25519, RSA)")]
    Key,
    /// The key belongs to another certificate.
    #[error("the private key is not the one of the certificate")]
    KeyDoesNotFit,
    /// A certificate that cannot be used to sign others.
    #[error("cannot act as an authority: {0}")]
    NotAuthority(&'static str),
    /// The authority has expired or is not yet valid.
    #[error("the authority is valid from {not_before} to {not_after} only")]
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
    /// A certificate or a list could not be made.
    #[error("signing failed: {0}")]
    Sign(String),
    /// Not a revocation list in DER.
    #[error("not a revocation list: {0}")]
    RevocationList(String),
    /// Not a ledger.
    #[error("not a ledger: {0}")]
    Ledger(String),
    /// Not how far a rotation has come.
    #[error("not the state of a rotation: {0}")]
    Rotation(String),
    /// Not whose authorities there are.
    #[error("not a record of issuers: {0}")]
    Issuers(String),
    /// An authority that somebody else has made, or one above it, cannot be used.
    #[error("{0}")]
    Chain(String),
    /// Whoever trusts the authority would not believe its leaf.
    #[error("a certificate of it would not be believed: {0}")]
    Unbelievable(String),
    /// Not a serial number.
    #[error("{0:?} is not a serial number in hexadecimal digits")]
    Serial(String),
    /// The system's random generator failed.
    #[error("no random numbers to be had")]
    Random,
}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> Self {
        Self::Sign(error.to_string())
    }
}
