//! Planned changes of a domain's certificate authorities. Each is one write of one Secret.

use jiff::SignedDuration;

use crate::pki::{Certificate, Domain, ExternalAuthority, Issuer};

/// Where an authority comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewAuthority {
    /// The operator creates it.
    BuiltIn {
        /// The common name, a different one for each generation.
        common_name: String,
        /// How long it is valid.
        duration: SignedDuration,
    },
    /// It is the authority of this issuer.
    External(Issuer, Box<ExternalAuthority>),
}

impl NewAuthority {
    /// The common name of its subject.
    pub fn common_name(&self) -> &str {
        match self {
            Self::BuiltIn { common_name, .. } => common_name,
            Self::External(_, external) => external.authority.common_name(),
        }
    }
}

/// The first authorities of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRequest {
    /// The domain.
    pub domain: Domain,
    /// The Secret that will hold them.
    pub secret: String,
    /// The active one.
    pub active: NewAuthority,
    /// The next one.
    pub next: NewAuthority,
}

/// A change of a domain's authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The domain.
    pub domain: Domain,
    /// The Secret of the authorities.
    pub secret: String,
    /// The fingerprints of the active and the next authority that the plan has seen; `None` if they are lost.
    pub seen: Option<[String; 2]>,
    /// The change.
    pub change: Change,
}

/// What changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Another authority becomes the next one, because the existing ones may be compromised, are lost, or another issuer is desired.
    /// A rotation in phases begins.
    Prepare {
        /// The next authority.
        next: NewAuthority,
        /// Whether the one that was to be the next is still trusted until the rotation is complete, because a member presents a leaf
        /// of it.
        keeps: bool,
        /// What members still trust, if the existing authorities are lost.
        salvage: Option<Salvage>,
    },
    /// The next authority becomes the active one.
    Switch {
        /// The one after it, if it is built in.
        next: NewAuthority,
        /// Whether it does not wait for members to trust it, because the active authority has expired.
        immediately: bool,
    },
    /// The next authority becomes the active one, and no previous one is trusted: members refuse what the active one signs. They are
    /// restarted.
    Replace {
        /// The one after it, if it is built in.
        next: NewAuthority,
    },
    /// Previous authorities are no longer trusted.
    Drop,
    /// The rotation is complete.
    Finish,
    /// Both authorities have expired, so that nothing is trusted: two others are created, and members are restarted with them.
    Renew {
        /// The active authority.
        active: NewAuthority,
        /// The next one.
        next: NewAuthority,
    },
}

/// What the members' Secrets still hold of authorities that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// The resourceVersion of the unusable Secret, if it exists.
    pub version: Option<String>,
    /// The certificate of the authority that signed.
    pub active: Certificate,
    /// All others that are trusted beside it.
    pub others: Vec<Certificate>,
    /// The revocation list, DER.
    pub crl: Vec<u8>,
}
