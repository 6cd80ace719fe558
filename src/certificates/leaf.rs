//! Leaf certificates that a Secret must hold.

use crate::pki::{Domain, LeafSpec};

/// A leaf certificate that a Secret must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredLeaf {
    /// The domain whose authority signs it.
    pub domain: Domain,
    /// Which of the domain's authorities signs it.
    pub signed_by: SignedBy,
    /// Its contents.
    pub spec: LeafSpec,
    /// Where the Secret holds it.
    pub keys: LeafKeys,
}

/// Which authority of a domain signs a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SignedBy {
    /// The active one.
    #[default]
    Active,
    /// The next one. Its leaves show whether members accept them, before the active one stops signing.
    Next,
}

/// The keys of a Secret for a certificate and its private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafKeys {
    /// The certificate.
    pub certificate: &'static str,
    /// Its private key.
    pub private_key: &'static str,
}
