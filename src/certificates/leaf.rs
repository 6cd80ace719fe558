//! Leaf certificates that a Secret must hold.

use crate::pki::{Domain, LeafSpec};

/// A leaf certificate that a Secret must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredLeaf {
    /// The domain whose active authority signs it.
    pub domain: Domain,
    /// Its contents.
    pub spec: LeafSpec,
    /// Where the Secret holds it.
    pub keys: LeafKeys,
}

/// The keys of a Secret for a certificate and its private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafKeys {
    /// The certificate.
    pub certificate: &'static str,
    /// Its private key.
    pub private_key: &'static str,
}
