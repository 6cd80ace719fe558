//! Revoking certificates.

use super::{
    check::{Check, RecheckError},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    pki::{Domain, Holder},
};

/// Revokes every certificate of holders that no longer exist, adds missing entries to the revocation list, and removes the private keys
/// of certificates that an external issuer was asked for and that are not pending any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// The domain.
    pub domain: Domain,
    /// Users or members.
    pub holders: Vec<Holder>,
    /// The keys of the authorities' Secret that hold these private keys. If one was removed by mistake, the certificate is requested again.
    pub pending: Vec<String>,
}

impl Revoke {
    fn names(&self) -> String {
        self.holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    fn no_longer_exists(holder: &Holder, check: &Check) -> bool {
        match holder {
            Holder::User { uid, .. } => !check.fresh.users.contains(uid),
            Holder::Member { name } => {
                let member = check.cluster.names.parse_member(name);
                member.is_some_and(|member| check.ensure_unlisted(&member).is_ok())
            }
            Holder::Operator => false,
        }
    }
}

impl Definition for Revoke {
    fn name(&self) -> &'static str {
        "Revoke"
    }
    fn progressing(&self) -> Reason {
        Reason::RevokingCertificates
    }
    fn done(&self) -> Reason {
        Reason::CertificatesRevoked
    }
    fn describe(&self) -> String {
        if self.holders.is_empty() && !self.pending.is_empty() {
            format!("removing {} unused private keys of the {} domain", self.pending.len(), self.domain)
        } else if self.holders.is_empty() {
            format!("restoring the revocation list of the {} domain, which differs from what was revoked", self.domain)
        } else {
            format!("revoking the {} certificates of {}", self.domain, self.names())
        }
    }
    fn reads(&self) -> Vec<Read> {
        let users = self.holders.iter().filter_map(|holder| match holder {
            Holder::User { name, .. } => Some(Read::User(name.clone())),
            Holder::Member { .. } | Holder::Operator => None,
        });
        [Read::Members].into_iter().chain(users).collect()
    }

    /// Keeps only the holders that still do not exist.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        self.holders.retain(|holder| Self::no_longer_exists(holder, check));
        Ok(())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::Revoke { domain: self.domain, holders: self.holders.clone(), pending: self.pending.clone() }]
    }
    fn describe_done(&self, _: &Check, changed: usize) -> String {
        let certificates = if changed == 1 { "certificate" } else { "certificates" };
        match self.holders.as_slice() {
            [] => format!("restored the revocation list of the {} domain: added {changed} {certificates}", self.domain),
            _ => format!("revoked {changed} {} {certificates} of {}", self.domain, self.names()),
        }
    }
}
