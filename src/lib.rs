//! etcd-warden: a Kubernetes operator for secured etcd clusters.

pub mod api;
pub mod backoff;
pub mod http;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod operator;
pub mod telemetry;
