//! External issuers: what is known about the certificate authorities that they sign with.

use jiff::Timestamp;

use crate::pki::{Domain, ExternalAuthority};

/// A request to an external issuer that reveals its authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerProbe {
    /// A certificate is requested that will not be used, because the answer reveals the authority.
    Request(Domain),
    /// The answer is discarded, because it is no longer needed or may be outdated.
    Discard(Domain),
}

/// What is known about the authority of an external issuer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerAnswer {
    /// When the probe was requested; `None` if the authority is read from a Secret and nothing has to be requested.
    pub requested_at: Option<Timestamp>,
    /// The authority, or why it is not known.
    pub authority: Result<ExternalAuthority, IssuerProblem>,
}

/// Why the authority of an external issuer is not known. The texts say more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerProblem {
    /// The issuer has not answered yet.
    Pending(String),
    /// The issuer has no authority that can be used.
    Unusable(String),
}
