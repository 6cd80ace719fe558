//! The custom resources. Their doc comments become the descriptions in `crds/`, which users read as the reference. Every default
//! is defined here and nowhere else.

mod cluster;
mod cluster_status;
mod conditions;
mod duration;
mod etcd;
mod fields;
mod quantity;
mod tls;
mod user;

pub use cluster::*;
pub use cluster_status::*;
pub use conditions::*;
pub use duration::{Duration, InvalidDuration};
pub use etcd::*;
pub use fields::{Effect, FIELDS, Field, Form, table};
pub use tls::*;
pub use user::*;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every resource, label and annotation of the operator.
pub const GROUP: &str = "etcd-warden.dev";

/// The definition of each resource.
///
/// # Errors
/// Never: a definition is JSON both ways.
pub fn crds() -> serde_json::Result<[CustomResourceDefinition; 2]> {
    Ok([without_nulls(&EtcdCluster::crd())?, without_nulls(&EtcdUser::crd())?])
}

/// `crd` without nullable fields. The API server then replaces a `null` by the default of the field, or refuses it. Otherwise it
/// would store the `null`, which is neither the default nor an absent field.
fn without_nulls(crd: &CustomResourceDefinition) -> serde_json::Result<CustomResourceDefinition> {
    fn strip(value: &mut serde_json::Value) {
        if let Some(object) = value.as_object_mut() {
            object.retain(|key, value| key != "nullable" || !value.is_boolean());
            object.values_mut().for_each(strip);
        } else if let Some(list) = value.as_array_mut() {
            list.iter_mut().for_each(strip);
        }
    }
    let mut value = serde_json::to_value(crd)?;
    strip(&mut value);
    serde_json::from_value(value)
}

#[cfg(test)]
mod tests;
