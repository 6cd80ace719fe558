//! Why something was not issued.

use jiff::Timestamp;

use crate::{
    kubernetes::error::WriteError,
    pki::{Issuer, PkiError},
};

/// Why something was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The Secret of an authority does not exist or has changed since the plan was made.
    #[error("the CA in Secret {0} has changed meanwhile")]
    AuthorityChanged(String),
    /// The contents of a Secret with an authority cannot be used, or a certificate could not be created.
    #[error("the CA in Secret {name} cannot be used: {source}")]
    Pki {
        /// The Secret.
        name: String,
        /// The problem.
        source: PkiError,
    },
    /// Authorities have expired according to the operator's clock, which may be wrong.
    #[error(
        "the CA in Secret {name} has expired by the operator's clock ({operator:.0}), but the API server's says {api_server:.0}; one of \
         them is wrong"
    )]
    ClockSkew {
        /// The Secret.
        name: String,
        /// The time by the operator's clock.
        operator: Timestamp,
        /// The time by the API server's clock.
        api_server: Timestamp,
    },
    /// An issuer has not signed yet.
    #[error("waiting for {issuer}: {why}")]
    Pending {
        /// The issuer.
        issuer: Issuer,
        /// What is known about the request.
        why: String,
    },
    /// An issuer does not sign, or signs something else than was requested.
    #[error("{issuer} cannot be used: {why}")]
    Issuer {
        /// The issuer.
        issuer: Issuer,
        /// The problem.
        why: String,
    },
    /// An issuer signs with another authority than before. The certificates that it signed are held back until that authority is
    /// trusted.
    #[error("{issuer} signs with CA {name:?} now, which has to be trusted everywhere before its certificates are used")]
    OtherAuthority {
        /// The issuer.
        issuer: Issuer,
        /// The name of the authority.
        name: String,
    },
    /// cert-manager is not installed.
    #[error("the API server does not know CertificateRequests: install cert-manager, or choose another issuer")]
    NoCertManager,
    /// An object could not be read or written.
    #[error(transparent)]
    Write(#[from] WriteError),
}
