//! Whether an object is as it should be, decided without asking the API server, so that a cluster with nothing to do costs no
//! request at all.

use std::{
    any::{Any, TypeId},
    collections::BTreeMap,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, core::ApiResource};
use serde::Serialize;
use serde_json::Value;

use super::holds::holds;
use crate::{
    cluster::{observed::fingerprint, seen::Seen},
    names::annotation,
};

/// An object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// As what it was seen; `None` if it is not there. As anything else it is not changed.
    pub seen: Option<ObjectVersion>,
    /// What is wanted of it.
    pub body: Arc<Value>,
}

/// One state of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectVersion {
    /// Which object of its name.
    pub uid: String,
    /// Which state of it.
    pub resource_version: String,
}

impl ObjectVersion {
    /// The version of an object that was read.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self { uid: meta.uid.clone().unwrap_or_default(), resource_version: meta.resource_version.clone().unwrap_or_default() }
    }
}

impl Object {
    /// What is wanted, whatever there is.
    pub fn new<K: Resource<DynamicType = ()> + Serialize>(wanted: &K) -> Self {
        let mut body = serde_json::to_value(wanted).unwrap_or_default();
        let digest = fingerprint([("body", body.to_string().as_bytes())].into_iter());
        body["metadata"]["annotations"][annotation::APPLIED] = Value::String(digest);
        Self {
            resource: ApiResource::erase::<K>(&()),
            name: wanted.meta().name.clone().unwrap_or_default(),
            seen: None,
            body: Arc::new(body),
        }
    }

    /// Whether this object, as it was read, holds all that is wanted.
    pub fn is_held_by(&self, there: &impl Serialize) -> bool {
        holds(there, &self.body)
    }

    /// Its kind and name, for messages.
    pub fn describe(&self) -> String {
        format!("{} {}", self.resource.kind, self.name)
    }
}

/// What has been made of one spec, each by its type and by what it follows from besides the spec.
#[derive(Debug, Default)]
pub struct Built(Mutex<BTreeMap<TypeId, Made>>);

/// Things of one type, by what they follow from.
type Made = BTreeMap<String, Arc<dyn Any + Send + Sync>>;

/// What is to be applied of a `K`, and the digest of it that it bears.
struct Wanted<K>(Object, Arc<str>, PhantomData<fn() -> K>);

impl<K: Resource<DynamicType = ()> + Serialize> Wanted<K> {
    fn new(wanted: &K) -> Self {
        let object = Object::new(wanted);
        let digest = object.body["metadata"]["annotations"][annotation::APPLIED].as_str().unwrap_or_default().into();
        Self(object, digest, PhantomData)
    }
}

impl Clone for Built {
    /// Of a copy, which may be changed, nothing has been made.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Built {
    /// What is made `of` this and the spec, unless it has been before.
    pub fn get<T: Send + Sync + 'static>(&self, of: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut built = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let built = built.entry(TypeId::of::<T>()).or_default();
        let known = built.get(of).cloned().unwrap_or_else(|| {
            let new = Arc::new(make());
            built.insert(of.to_owned(), new.clone());
            new
        });
        known.downcast().unwrap_or_else(|_| unreachable!("it is kept by its type"))
    }

    /// What is wanted, if it is not what there is: either a field that is wanted has another value, or what was applied last
    /// was not this, so a field may be there that is wanted no longer. It is built unless one is known `of` the same.
    pub fn unless_applied<K: Resource<DynamicType = ()> + Serialize + 'static>(
        &self,
        of: &str,
        build: impl FnOnce() -> K,
        existing: Option<&Seen<K>>,
    ) -> Option<Object> {
        let wanted = self.get(of, || Wanted::new(&build()));
        if existing.is_some_and(|existing| existing.is_as(&wanted.1, |there| holds(there, &wanted.0.body))) {
            return None;
        }
        Some(Object { seen: existing.map(|existing| ObjectVersion::of(existing.meta())), ..wanted.0.clone() })
    }
}

/// Who an object belongs to, in words.
pub fn owner(meta: &ObjectMeta) -> String {
    match meta.owner_references.iter().flatten().next() {
        Some(owner) => format!("it belongs to {} {} (uid {})", owner.kind, owner.name, owner.uid),
        None => match meta.annotations.iter().flatten().find(|(key, _)| *key == annotation::CLUSTER_UID) {
            Some((_, uid)) => format!("it is left from an EtcdCluster that was deleted (uid {uid})"),
            None => "etcd-warden did not make it".into(),
        },
    }
}
