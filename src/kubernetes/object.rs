//! Objects to be applied.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::ApiResource};
use serde::Serialize;
use serde_json::Value;

use super::covers::{Difference, covers};
use crate::{digest::fingerprint, ids::Uid, names::annotation};

/// An object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// The version that the plan has seen; `None` if the object does not exist. If it has changed since, it is not applied.
    pub seen: Option<ObjectVersion>,
    /// The desired fields.
    pub body: Arc<Value>,
    /// The desired fields that the object no longer has although they were applied before: others have changed them.
    pub drift: Vec<Difference>,
}

/// One version of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectVersion {
    /// It differs from that of other objects of this name.
    pub uid: Uid,
    /// It differs from that of other versions.
    pub resource_version: String,
}

impl ObjectVersion {
    /// The version of an object that was read. Every object that the API server returns has one.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        Some(Self { uid: Uid::of(meta)?, resource_version: meta.resource_version.clone()? })
    }
}

impl Object {
    /// The object with these fields. It has a digest of them in [`annotation::APPLIED`].
    pub fn new<K: Resource<DynamicType = ()> + Serialize>(desired: &K) -> Self {
        let mut body = serde_json::to_value(desired).unwrap_or_default();
        let digest = fingerprint([("body", body.to_string().as_bytes())].into_iter());
        body["metadata"]["annotations"][annotation::APPLIED] = Value::String(digest);
        Self {
            resource: ApiResource::erase::<K>(&()),
            name: desired.meta().name.clone().unwrap_or_default(),
            seen: None,
            body: Arc::new(body),
            drift: vec![],
        }
    }

    /// The digest of the desired fields.
    pub fn digest(&self) -> &str {
        self.body["metadata"]["annotations"][annotation::APPLIED].as_str().unwrap_or_default()
    }

    /// Whether an object that was read has all desired fields.
    pub fn is_covered_by(&self, existing: &impl Serialize) -> bool {
        covers(existing, &self.body)
    }

    /// Its kind and name, for messages.
    pub fn describe(&self) -> String {
        format!("{} {}", self.resource.kind, self.name)
    }
}
