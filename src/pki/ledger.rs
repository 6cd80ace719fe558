//! The ledger: which certificates a domain has issued, so that those of a deleted user or a removed member can be revoked.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ids::Uid;

use super::{certificate::Certificate, error::PkiError, serial::Serial};

/// How long a certificate stays in the ledger after its expiry, for members whose clocks are behind.
const KEPT: SignedDuration = SignedDuration::from_hours(1);

/// The holder of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Holder {
    /// The operator.
    Operator,
    /// A member.
    Member {
        /// Its name.
        name: String,
    },
    /// An `EtcdUser`.
    User {
        /// The object's name.
        name: String,
        /// The object's uid: another user with the same name may be created later.
        uid: Uid,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("the operator"),
            Self::Member { name } => write!(f, "member {name}"),
            Self::User { name, .. } => write!(f, "EtcdUser {name}"),
        }
    }
}

/// A certificate that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// Its serial.
    pub serial: Serial,
    /// Its holder.
    pub holder: Holder,
    /// When it expires.
    pub not_after: Timestamp,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Timestamp>,
}

/// The certificates that were issued and have not expired, ordered by serial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<Serial, Issued>);

impl Ledger {
    /// Reads what [`Ledger::to_json`] wrote.
    pub fn from_json(text: &[u8]) -> Result<Self, PkiError> {
        let entries: Vec<Issued> = serde_json::from_slice(text).map_err(|error| PkiError::Ledger(error.to_string()))?;
        Ok(Self(entries.into_iter().map(|issued| (issued.serial, issued)).collect()))
    }

    /// A JSON array on one line, the same for the same content.
    pub fn to_json(&self) -> Result<Vec<u8>, PkiError> {
        serde_json::to_vec(&self.entries().collect::<Vec<_>>()).map_err(|error| PkiError::Ledger(error.to_string()))
    }

    /// Records a certificate. An existing entry is not changed, whether revoked or not.
    pub fn record(&mut self, certificate: &Certificate, holder: Holder) {
        if let Entry::Vacant(entry) = self.0.entry(certificate.serial()) {
            let (serial, not_after) = (certificate.serial(), certificate.not_after());
            entry.insert(Issued { serial, holder, not_after, revoked: None });
        }
    }

    /// Revokes all selected certificates that are not revoked yet. Returns how many.
    pub fn revoke(&mut self, selected: impl Fn(&Issued) -> bool, now: Timestamp) -> usize {
        let revoked = self.0.values_mut().filter(|issued| issued.revoked.is_none() && selected(issued));
        // Revocation lists contain whole seconds only.
        revoked.map(|issued| issued.revoked = Some(Timestamp::from_second(now.as_second()).unwrap_or(now))).count()
    }

    /// Removes certificates that expired more than an hour ago, revoked or not, because they are no longer accepted.
    pub fn prune(&mut self, now: Timestamp) {
        self.0.retain(|_, issued| now.duration_since(issued.not_after) <= KEPT);
    }

    /// The revoked serials and the times of revocation, ordered by serial: the content of a revocation list.
    pub fn revoked(&self) -> impl Iterator<Item = (Serial, Timestamp)> + '_ {
        self.entries().filter_map(|issued| Some((issued.serial, issued.revoked?)))
    }

    /// Whether a certificate is revoked.
    pub fn is_revoked(&self, serial: Serial) -> bool {
        self.0.get(&serial).is_some_and(|issued| issued.revoked.is_some())
    }

    /// Whether a certificate with this serial was recorded.
    pub fn knows(&self, serial: Serial) -> bool {
        self.0.contains_key(&serial)
    }

    /// The holder of the certificate with this serial, if it was recorded.
    pub fn holder(&self, serial: Serial) -> Option<&Holder> {
        self.0.get(&serial).map(|issued| &issued.holder)
    }

    /// All entries, ordered by serial.
    pub fn entries(&self) -> impl Iterator<Item = &Issued> {
        self.0.values()
    }
}
