//! Validated spec -> Kubernetes objects. Pure: what is built here is applied by [`super::act`] and nowhere else.

mod config;
mod services;
mod stateful_set;

use std::collections::BTreeMap;

pub use config::{bootstrap, ca_config};
use k8s_openapi::{
    api::{
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
pub use services::{client_service, peer_service};
pub use stateful_set::{asks_clients, forced, is_forced, stateful_set, stopped};

use super::validate::ValidatedCluster;
use crate::{
    names::{MemberName, annotation, label},
    quantity,
};

/// The labels that select the pods of a cluster.
pub fn selector(cluster: &str) -> BTreeMap<String, String> {
    [(label::NAME, label::NAME_VALUE), (label::INSTANCE, cluster), (label::MANAGED_BY, label::MANAGED_BY_VALUE)]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// The labels of what belongs to one member.
pub fn member_labels(cluster: &str, member: &MemberName) -> BTreeMap<String, String> {
    let mut labels = selector(cluster);
    labels.insert(label::MEMBER.into(), member.to_string());
    labels
}

/// The metadata of an object that goes with its cluster.
pub fn owned(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.names.namespace().into()),
        labels: Some(selector(cluster.names.cluster())),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The metadata of an object that stays when its cluster goes and data is to be retained. It says itself whose it is.
pub fn retained(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    let mut meta = owned(cluster, name);
    meta.annotations = Some([(annotation::CLUSTER_UID.to_owned(), cluster.uid.clone())].into());
    if cluster.retains() {
        meta.owner_references = None;
    }
    meta
}

/// The claim of a member. One that is there keeps its class, and if it was made larger by hand, its size: a claim can't shrink.
pub fn claim(cluster: &ValidatedCluster, member: &MemberName, there: Option<&PersistentVolumeClaim>) -> PersistentVolumeClaim {
    let (requested, class) = there.map(kept).unwrap_or_default();
    let grown = requested.filter(|size| quantity::milli(&size.0) > quantity::milli(&cluster.storage.size.0));
    let mut metadata = retained(cluster, cluster.names.claim(member));
    metadata.labels = Some(member_labels(cluster.names.cluster(), member));
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), grown.unwrap_or(&cluster.storage.size).clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: class.or(cluster.storage.storage_class_name.as_ref()).cloned(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// What a claim that is there may keep: its size and its class.
pub fn kept(claim: &PersistentVolumeClaim) -> (Option<&Quantity>, Option<&String>) {
    let Some(spec) = &claim.spec else { return (None, None) };
    let size = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    (size, spec.storage_class_name.as_ref())
}

/// Whether `voters` members have a disruption budget. Of one member, or of two where no more are wanted, none can be spared; a budget
/// would only make nodes impossible to drain.
pub fn is_redundant(cluster: &ValidatedCluster, voters: usize) -> bool {
    voters > 2 || (voters == 2 && cluster.replicas > 2)
}

/// The disruption budget for `voters` members: as many as a quorum stay, and a pod that is not ready is in nobody's way.
pub fn disruption_budget(cluster: &ValidatedCluster, voters: usize) -> PodDisruptionBudget {
    let quorum = i32::try_from(voters / 2 + 1).unwrap_or(i32::MAX);
    PodDisruptionBudget {
        metadata: owned(cluster, cluster.names.disruption_budget()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(quorum)),
            selector: Some(LabelSelector { match_labels: Some(selector(cluster.names.cluster())), ..LabelSelector::default() }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests;
