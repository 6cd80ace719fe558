//! The PodDisruptionBudget.

use k8s_openapi::{
    api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata::owned;
use crate::{cluster::validated::ValidatedCluster, names::label};

/// Whether a cluster with this many voters has redundancy that a disruption budget can protect. A single member, or two if no
/// more are desired, are all needed: a budget would only prevent nodes from being drained.
pub fn is_redundant(cluster: &ValidatedCluster, voters: usize) -> bool {
    voters > 2 || (voters == 2 && cluster.replicas > 2)
}

/// The disruption budget for this many voters: a quorum stays available, and a pod that is not ready may always be evicted.
pub fn disruption_budget(cluster: &ValidatedCluster, voters: usize) -> PodDisruptionBudget {
    let quorum = i32::try_from(voters / 2 + 1).unwrap_or(i32::MAX);
    PodDisruptionBudget {
        metadata: owned(cluster, cluster.names.disruption_budget()),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(quorum)),
            selector: Some(LabelSelector {
                match_labels: Some(label::of_cluster(cluster.names.cluster())),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
