//! etcd-warden: a Kubernetes operator for secured etcd clusters.

pub mod api;
pub mod backoff;
pub mod cache;
pub mod cluster;
pub mod etcd;
pub mod http;
pub mod issuing;
pub mod k8s;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod operator;
pub mod pki;
pub mod quantity;
pub mod telemetry;
pub mod user;
