//! What every pass needs besides its object.

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

/// What a pass needs besides its object.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// The objects that are watched.
    pub scope: Arc<Scope>,
    /// Connections to members.
    pub dialer: Arc<dyn Dialer>,
    /// The operator's identities towards the clusters.
    pub identities: Identities,
    /// The name under which events are published.
    pub reporter: Reporter,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Requests for passes over other objects.
    pub triggers: Triggers,
    /// The DNS domain of the Kubernetes cluster.
    pub domain: String,
    /// Stops the operator. A pass ends as long as it has changed nothing.
    pub stop: CancellationToken,
    /// The clock.
    pub clock: fn() -> Timestamp,
}
