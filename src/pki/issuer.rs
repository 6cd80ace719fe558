//! Issuers: what signs the certificates of a domain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::PkiError;

/// What signs the certificates of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Issuer {
    /// The operator, with authorities that it creates itself.
    #[default]
    BuiltIn,
    /// The operator, with the authority in a Secret of the cluster's namespace.
    CaSecret {
        /// The name of the Secret.
        name: String,
    },
    /// cert-manager, or another controller that signs its `CertificateRequests`. The operator does not have the private key.
    CertManager {
        /// The name of its issuer object.
        name: String,
        /// The kind of the issuer object: `Issuer`, `ClusterIssuer`, or one of another API group.
        kind: String,
        /// The API group of the issuer object.
        group: String,
    },
}

impl Issuer {
    /// Whether the operator holds the private key of the authority.
    pub fn has_key(&self) -> bool {
        !matches!(self, Self::CertManager { .. })
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in issuer"),
            Self::CaSecret { name } => write!(f, "the CA in Secret {name}"),
            Self::CertManager { name, kind, group } if group == "cert-manager.io" => write!(f, "{kind} {name}"),
            Self::CertManager { name, kind, group } => write!(f, "{kind}.{group} {name}"),
        }
    }
}

/// Which issuers the active and the next authority of a domain belong to. It is stored with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuers {
    /// The issuer of the active authority.
    pub active: Issuer,
    /// The issuer of the next authority.
    pub next: Issuer,
}

impl Issuers {
    /// Reads what [`Issuers::to_json`] wrote. An empty text means that both authorities are built in.
    pub fn from_json(text: &[u8]) -> Result<Self, PkiError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(text).map_err(|error| PkiError::Issuers(error.to_string()))
    }

    /// A JSON object on one line.
    pub fn to_json(&self) -> Result<Vec<u8>, PkiError> {
        serde_json::to_vec(self).map_err(|error| PkiError::Issuers(error.to_string()))
    }
}
