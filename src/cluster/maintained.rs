//! A cluster whose spec is invalid, as far as its certificates are concerned. Pure.
//!
//! The spec may have been stored under the rules of an older version. Whatever is wrong with it, certificates expire and users are
//! deleted meanwhile. So what certificates need is taken from those that exist, and from the spec only where it is valid.

use std::{collections::BTreeSet, sync::Arc};

use kube::core::ObjectMeta;

use super::{facts::Facts, observed::Observed, validate::validated, validated::ValidatedCluster};
use crate::{
    api::{EtcdCluster, EtcdClusterSpec, StorageSpec},
    certificates::{contents::LOOPBACK, lifetimes::lifetimes},
    names::member_key,
    pki::{Certificate, Domain},
};

/// The input of [`maintain`](super::plan::maintain).
pub struct Maintained {
    /// The cluster. Only its names, owner, retention, lifetimes, issuers and additional names are those of the cluster that exists;
    /// everything else is a default, and nothing is requested.
    pub cluster: Arc<ValidatedCluster>,
    /// The observation, without the answers of issuers that sign nothing yet.
    pub observed: Observed,
}

impl Maintained {
    /// What is known of a cluster with an invalid spec; `None` if it does not exist yet. `domain` is the DNS domain of the Kubernetes
    /// cluster. An invalid lifetime counts as the default.
    pub fn of(object: &EtcdCluster, domain: &str, observed: &Observed, facts: &Facts) -> Option<Self> {
        if !facts.is_bootstrapped {
            return None;
        }
        let EtcdClusterSpec { tls, paused, storage, .. } = &object.spec;
        let storage = StorageSpec { retention: storage.retention, ..StorageSpec::default() };
        let spec = EtcdClusterSpec { paused: *paused, storage, ..EtcdClusterSpec::default() };
        let metadata = ObjectMeta { annotations: None, ..object.metadata.clone() };
        let mut cluster = validated(&EtcdCluster { metadata, spec, status: None }, domain).ok()?;
        let mut observed = observed.clone();
        for domain in Domain::ALL {
            if let Ok(lifetimes) = lifetimes(domain, tls) {
                cluster.lifetimes[domain] = lifetimes;
            }
            if let Some(authorities) = facts.authorities.state[domain].ready() {
                cluster.issuers[domain] = authorities.issuers.next.clone();
            }
            // An answer is that of the issuer in the spec.
            if tls.issuer(domain).issuer() != cluster.issuers[domain] {
                observed.issuer_answers[domain] = None;
            }
        }
        for (name, member) in &observed.members {
            let leaf = member.secret.as_ref().and_then(|secret| secret.certificate(member_key::SERVER_CRT)?.ok());
            let Some(leaf) = leaf else { continue };
            let own: BTreeSet<String> = cluster.names.server_sans(name).into_iter().collect();
            cluster.extra_names.extend(leaf.dns_names().difference(&own).cloned());
            cluster.extra_addresses.extend(additional_addresses(&leaf));
        }
        Some(Self { cluster: cluster.into(), observed })
    }
}

fn additional_addresses(leaf: &Certificate) -> impl Iterator<Item = std::net::IpAddr> {
    leaf.ip_addresses().iter().filter(|address| !LOOPBACK.contains(address)).copied()
}
