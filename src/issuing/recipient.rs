//! The object for which certificates are issued.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{Api, Client};

use super::error::IssueError;
use crate::{
    certificates::{probes::ProbeSpec, secret::CachedSecret},
    ids::Uid,
    kubernetes::{
        error::WriteError,
        ownership::{belongs, describe_owner},
        secret::KeySecret,
    },
    names::Names,
    pki::{Domain, PerDomain},
};

/// The object for which certificates are issued, and what is known about its cluster.
pub struct Recipient<'a> {
    /// The names of the cluster's objects.
    pub names: &'a Names,
    /// The uid of the `EtcdCluster` or `EtcdUser` that the Secrets belong to.
    pub uid: &'a Uid,
    /// The owner of the Secrets and `CertificateRequest`s that are created.
    pub owner: &'a OwnerReference,
    /// The labels of `CertificateRequest`s.
    pub labels: BTreeMap<String, String>,
    /// How to probe the issuers in the cluster's spec; `None` if they or the lifetimes are invalid: then no issuer is probed.
    pub probes: Option<PerDomain<ProbeSpec>>,
    /// The authorities' Secrets as they were observed.
    pub authorities: PerDomain<Option<&'a CachedSecret>>,
}

impl Recipient<'_> {
    /// The Secrets of the cluster's namespace.
    pub fn secrets(&self, client: &Client) -> Api<Secret> {
        Api::namespaced(client.clone(), self.names.namespace())
    }

    /// The probe of a domain's issuer, if that part of the cluster's spec is valid.
    pub fn probe(&self, domain: Domain) -> Option<&ProbeSpec> {
        self.probes.as_ref().map(|probes| &probes[domain])
    }

    /// The metadata of an object that is deleted with its owner.
    pub fn metadata(&self, name: &str, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.names.namespace().to_owned()),
            labels: Some(labels),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        }
    }

    /// The subject key identifier of the active authority that was observed in a domain.
    ///
    /// # Errors
    /// If none was observed, or it cannot be read.
    pub fn observed_key_id(&self, domain: Domain) -> Result<&[u8], IssueError> {
        let authorities = self.authorities[domain].and_then(|secret| secret.authorities().ok());
        let key_id = authorities.and_then(|authorities| authorities.active.subject_key_id());
        key_id.ok_or_else(|| IssueError::AuthorityChanged(self.names.authority(domain)))
    }

    /// Checks that a Secret belongs to the object.
    ///
    /// # Errors
    /// [`WriteError::Foreign`] if it does not.
    pub fn check_owner(&self, secret: &KeySecret) -> Result<(), WriteError> {
        if belongs(&secret.0.metadata, self.uid) {
            return Ok(());
        }
        Err(WriteError::Foreign { object: secret.describe(), owner: describe_owner(&secret.0.metadata) })
    }
}
