//! The controllers.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{http::Readiness, metrics::Metrics};

/// What the controllers are started with.
pub struct Options {
    /// The API server.
    pub client: kube::Client,
    /// The namespaces that are watched; all when empty.
    pub namespaces: Vec<String>,
    /// The DNS domain of the Kubernetes cluster, `cluster.local`.
    pub cluster_domain: String,
    /// Where work is counted.
    pub metrics: Arc<Metrics>,
    /// Where readiness is told.
    pub readiness: Readiness,
    /// Ends the controllers.
    pub stop: CancellationToken,
}

/// Why the controllers ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {}

/// Runs the controllers until they are stopped.
pub async fn run(options: Options) -> Result<(), Error> {
    options.stop.cancelled().await;
    Ok(())
}
