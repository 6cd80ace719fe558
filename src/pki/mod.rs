//! Certificates: authorities, leaves, bundles, revocation lists, the ledger of issued certificates, and the decision whether a
//! leaf has to be issued again.
//!
//! Everything here is pure: no client, no runtime and no clock (`now` is a parameter). Randomness comes from the system's
//! generator. Private keys are kept as PEM in memory that is wiped, and have no `Debug`. Nothing is cached here: `certificates`
//! keeps parsed contents together with their Secret.
//!
//! Each file uses only the preceding ones: error, domain, der, pem, tlv, serial, key, request, issuer, certificate, signature, chain,
//! constraints, verify, ledger, `foreign_key`, sign, authority, acceptance,
//! revocation, `foreign_bundle`, external, rotation, reissue.

mod acceptance;
mod authority;
mod certificate;
mod chain;
mod constraints;
mod der;
mod domain;
mod error;
mod external;
mod foreign_bundle;
mod foreign_key;
#[cfg(test)]
mod foreign_tests;
mod issuer;
mod key;
mod ledger;
mod pem;
mod reissue;
mod request;
mod revocation;
pub(crate) mod rotation;
mod serial;
mod sign;
mod signature;
#[cfg(test)]
mod tests;
mod tlv;
mod verify;

pub use acceptance::rules as acceptance_rules;
pub use authority::{Authority, BACKDATING, Leaf, LeafSpec, Usage};
pub use certificate::{Certificate, bundle, read_bundle};
pub use chain::{parent, path, presented_chain, renewed_first};
pub use domain::{Domain, PerDomain};
pub use error::PkiError;
pub use external::ExternalAuthority;
pub use issuer::{Issuer, Issuers};
pub use key::{KeyDigest, PrivateKey, digest_of_private_pem};
pub use ledger::{Holder, Issued, Ledger};
pub use reissue::{ReissueReason, RenewalJitter, current_window, reissue_reason, renewal};
pub use request::digest_of_request;
pub use revocation::{crl_serials, sign_crl_without_key};
pub use rotation::{Phase, Rotation};
pub use serial::Serial;
pub use verify::verify;
