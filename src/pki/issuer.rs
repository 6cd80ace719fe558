//! Who signs the certificates of a domain.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::PkiError;

/// Who signs the certificates of a domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Issuer {
    /// The operator, by authorities that it makes itself.
    #[default]
    BuiltIn,
    /// The operator, by the authority in a Secret of the cluster's namespace.
    CaSecret {
        /// The Secret.
        name: String,
    },
    /// cert-manager, or what serves its `CertificateRequests`. The authority's key is not known here.
    CertManager {
        /// Its issuer.
        name: String,
        /// The kind of that: `Issuer`, `ClusterIssuer` or another one's.
        kind: String,
        /// The API group of that.
        group: String,
    },
}

impl Issuer {
    /// Whether the operator holds the key of the authority.
    pub fn has_key(&self) -> bool {
        !matches!(self, Self::CertManager { .. })
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("the built-in issuer"),
            Self::CaSecret { name } => write!(f, "the authority in Secret {name}"),
            Self::CertManager { name, kind, group } if group == "cert-manager.io" => write!(f, "{kind} {name}"),
            Self::CertManager { name, kind, group } => write!(f, "{kind}.{group} {name}"),
        }
    }
}

/// Whose authorities the active and the next one of a domain are. It is stored with them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuers {
    /// Whose the active one is.
    pub active: Issuer,
    /// Whose the next one is.
    pub next: Issuer,
}

impl Issuers {
    /// Reads what [`Issuers::to_json`] wrote. Where there is nothing, the operator made both.
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
