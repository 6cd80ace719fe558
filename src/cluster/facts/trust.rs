//! Which authorities the process in a pod trusts.
//!
//! etcd reads its trust bundles only when it starts (`client/pkg/transport/listener.go`), so a pod trusts the authorities that were in
//! the bundles when it was created. An annotation of the pod names them.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    certificates::{authorities::Authorities, secret::PEER_LEAF},
    kubernetes::ownership::annotation,
    names::annotation as key,
    pki::Domain,
};

/// The fingerprints of the authorities of a domain that a pod, or the pods of a template, trust. A container that restarted later
/// may trust additional ones.
pub fn trusted_by(meta: &ObjectMeta, domain: Domain) -> impl Iterator<Item = &str> {
    started_with(meta, domain.as_str())
}

/// The fingerprints of the authorities that signed the peer leaf with which a pod has started.
pub fn peer_leaf_of(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    started_with(meta, PEER_LEAF)
}

fn started_with<'a>(meta: &'a ObjectMeta, part: &str) -> impl Iterator<Item = &'a str> {
    let all = annotation(meta, key::BUNDLES).unwrap_or_default();
    let part = all.split(';').filter_map(|part| part.split_once('=')).find(|(name, _)| *name == part);
    part.into_iter().flat_map(|(_, names)| names.split(',')).filter(|name| !name.is_empty())
}

/// Whether a pod trusts none of the authorities of a domain that its template has, so that neither side accepts the other's
/// certificates. That happens only if all authorities expired, or were refused, before they were replaced.
pub fn shares_no_trusted_ca(pod: &Pod, set: &StatefulSet) -> bool {
    Domain::ALL.into_iter().any(|domain| shares_no_trusted_ca_of(domain, pod, set))
}

/// The same of one domain.
pub fn shares_no_trusted_ca_of(domain: Domain, pod: &Pod, set: &StatefulSet) -> bool {
    let Some(template) = &set.spec.template.metadata else { return false };
    if annotation(&pod.metadata, key::BUNDLES) == annotation(template, key::BUNDLES) {
        return false;
    }
    let trusted = || trusted_by(&pod.metadata, domain);
    trusted().next().is_some() && !trusted_by(template, domain).any(|name| trusted().any(|other| other == name))
}

/// Which authorities of a domain every pod must trust.
pub struct TrustRequirement {
    domain: Domain,
    required: String,
    /// If set, a pod must trust no others.
    allowed: Option<BTreeSet<String>>,
}

impl TrustRequirement {
    /// The next authority must be trusted.
    pub fn next(authorities: &Authorities, domain: Domain) -> Self {
        Self { domain, required: authorities.next.fingerprint().to_owned(), allowed: None }
    }

    /// The next authority must be trusted, and no previous ones.
    pub fn only_current(authorities: &Authorities, domain: Domain) -> Self {
        let allowed = authorities.trusted().map(|authority| authority.fingerprint().to_owned()).collect();
        Self { allowed: Some(allowed), ..Self::next(authorities, domain) }
    }

    /// Whether a pod meets the requirement.
    pub fn is_met(&self, pod: &Pod) -> bool {
        let trusted = || trusted_by(&pod.metadata, self.domain);
        let is_allowed = |name: &str| self.allowed.as_ref().is_none_or(|allowed| allowed.contains(name));
        trusted().all(is_allowed) && trusted().any(|name| name == self.required)
    }
}
