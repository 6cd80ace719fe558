//! The issuers in a spec, and what is known about the certificate authorities that external ones sign with.

use jiff::Timestamp;

use crate::{
    api::{ONE_FOR_BOTH, TlsSpec},
    pki::{Domain, ExternalAuthority, Issuer, PerDomain},
};

/// The issuers in a spec.
///
/// # Errors
/// All problems of them.
pub fn issuers(tls: &TlsSpec) -> Result<PerDomain<Issuer>, Vec<String>> {
    let mut problems = vec![];
    let issuers = PerDomain::from_fn(|domain| {
        let spec = tls.issuer(domain);
        if spec.ca_secret.is_some() && spec.cert_manager.is_some() {
            problems.push(format!("spec.tls.{domain}.issuer must be either caSecret or certManager"));
        }
        spec.issuer()
    });
    if issuers.client != Issuer::BuiltIn && issuers.client == issuers.peer {
        problems.push(ONE_FOR_BOTH.to_owned());
    }
    if problems.is_empty() { Ok(issuers) } else { Err(problems) }
}

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
