//! etcd-warden: a Kubernetes operator for secured etcd clusters.

pub mod api;
pub mod etcd;
pub mod names;
pub mod pki;
