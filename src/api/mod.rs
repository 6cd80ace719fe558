//! The custom resources and nothing else. The doc comments here become the descriptions in `crds/`, which are the
//! users' reference, and every default lives here once.

mod cluster;
mod duration;
mod user;

pub use cluster::*;
pub use duration::{Duration, InvalidDuration};
pub use user::*;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition, apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::CustomResourceExt;

/// The API group of every resource, label and annotation of the operator.
pub const GROUP: &str = "etcd-warden.dev";

/// The definition of each resource.
pub fn crds() -> [CustomResourceDefinition; 2] {
    [EtcdCluster::crd(), EtcdUser::crd()]
}

/// The condition of type `kind`, if it has been reported.
pub fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == kind)
}
