//! The metrics of a cluster.

use super::certificates::first_expiry;
use crate::{
    api::{ConditionType, EtcdClusterStatus, condition, is_true},
    cluster::{observed::Observed, outcome::Decision},
    metrics::{ClusterState, DomainState},
    names::tls_key,
    pki::PerDomain,
};

/// The state of a cluster for the metrics, derived from its status.
pub fn state(status: &EtcdClusterStatus, observed: &Observed, decision: &Decision) -> ClusterState {
    let is_true = |kind| condition(&status.conditions, kind).is_some_and(is_true);
    let desired = decision.cluster().map_or(status.replicas, |cluster| i32::try_from(cluster.replicas).unwrap_or_default());
    ClusterState {
        ready: status.ready_replicas,
        desired,
        available: is_true(ConditionType::Available),
        certificates_ready: is_true(ConditionType::CertificatesReady),
        operator_expiry: observed.operator.as_ref().and_then(|secret| Some(secret.certificate(tls_key::CRT)?.ok()?.not_after())),
        domains: PerDomain::from_fn(|domain| {
            let reported = status.certificates.as_ref().and_then(|certificates| certificates.domain(domain));
            DomainState {
                expiry: first_expiry(observed, domain),
                authorities: reported.map(|reported| [reported.active.expires.0, reported.next.expires.0]),
                phase: reported.and_then(|reported| reported.phase),
            }
        }),
    }
}
