//! What every pass needs in addition to its object.

use std::sync::Arc;

use jiff::Timestamp;
use kube::{Client, runtime::events::Reporter};
use tokio_util::sync::CancellationToken;

use crate::{
    cache::{Scope, Triggers},
    etcd::Dialer,
    identity::Identities,
    metrics::Metrics,
};

/// What a pass needs in addition to its object.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The objects that are watched.
    pub scope: Arc<Scope>,
    /// Connections to members.
    pub dialer: Arc<dyn Dialer>,
    /// The operator's client certificates for the clusters.
    pub identities: Identities,
    /// The name under which events are published.
    pub reporter: Reporter,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Requests for passes over other objects.
    pub triggers: Triggers,
    /// The DNS domain of the Kubernetes cluster.
    pub domain: String,
    /// Whether the authority of an issuer is judged before anything is changed.
    pub judges_authorities: bool,
    /// Stops the operator. A pass that has not changed anything yet is ended.
    pub stop: CancellationToken,
    /// The clock.
    pub clock: fn() -> Timestamp,
}
