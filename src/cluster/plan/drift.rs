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

use crate::{
    cluster::{observed::fingerprint, seen::Seen},
    names::annotation,
    quantity,
};

/// An object to be applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Its kind.
    pub resource: ApiResource,
    /// Its name.
    pub name: String,
    /// Its uid, if it is there.
    pub uid: Option<String>,
    /// What is wanted of it.
    pub body: Arc<Value>,
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
            uid: None,
            body: Arc::new(body),
        }
    }

    /// Whether this object, as it was read, holds all that is wanted.
    pub fn is_held_by(&self, there: &Value) -> bool {
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

/// What is to be applied of a `K`.
struct Wanted<K>(Object, PhantomData<fn() -> K>);

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
        let wanted = self.get(of, || Wanted(Object::new(&build()), PhantomData::<fn() -> K>));
        if existing.is_some_and(|existing| existing.is_as(&wanted.0.body, holds)) {
            return None;
        }
        Some(Object { uid: existing.and_then(|existing| existing.meta().uid.clone()), ..wanted.0.clone() })
    }
}

/// Whether `there` has every field of `wanted`. It may have more: what the API server fills in and what others own. But a
/// selector is a whole, and with one more label it selects nothing.
fn holds(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            // The API server takes selectors as a whole, so what others add to one is drift.
            let same =
                |key: &str, there: &Value, value: &Value| if key == "selector" { there == value } else { holds(there, value) };
            wanted.iter().all(|(key, value)| there.get(key).map_or_else(|| is_empty(value), |there| same(key, there, value)))
        }
        // Lists of objects are merged by their keys when they are applied, so what others add to them stays.
        (Value::Array(there), Value::Array(wanted)) if wanted.iter().all(Value::is_object) => {
            wanted.iter().all(|wanted| there.iter().any(|there| holds(there, wanted)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| holds(there, wanted))
        }
        (Value::String(there), Value::String(wanted)) => {
            there == wanted || quantity::milli(there).is_some_and(|value| Some(value) == quantity::milli(wanted))
        }
        _ => there == wanted,
    }
}

/// The API server leaves out what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[0-9a-zGi.]{0,4}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_is_there_as_wanted_is_held(value in values()) {
            prop_assert!(holds(&value, &value));
        }

        #[test]
        fn what_is_added_to_an_object_is_no_drift(value in values(), more in values()) {
            let mut there = json!({ "wanted": value });
            let wanted = there.clone();
            there["more"] = more;
            prop_assert!(holds(&there, &wanted));
        }
    }

    #[test]
    fn what_the_server_drops_or_writes_otherwise_is_no_drift() {
        assert!(holds(&json!({}), &json!({"key": "", "list": [], "map": {"a": null}})));
        assert!(!holds(&json!({"key": "x"}), &json!({"key": ""})), "empty is wanted and something is there");
        assert!(holds(&json!({"memory": "1536Mi"}), &json!({"memory": "1.5Gi"})));
    }

    #[test]
    fn what_others_add_is_no_drift() {
        let wanted = json!({"spec": {"replicas": 1, "template": {
            "containers": [{"name": "a", "cpu": "0.5", "env": ""}], "tolerations": []}}});
        let there = json!({"spec": {"replicas": 1, "extra": 1, "template": {
            "containers": [{"name": "injected"}, {"name": "a", "cpu": "500m", "image": "x"}]}}});
        assert!(holds(&there, &wanted));
    }

    #[test]
    fn what_differs_is() {
        let wanted = json!({"a": [1, 2], "b": "x"});
        for there in [
            json!({"a": [1, 2]}),
            json!({"a": [1, 3], "b": "x"}),
            json!({"a": [1, 2, 3], "b": "x"}),
            json!({"a": [1, 2], "b": "y"}),
        ] {
            assert!(!holds(&there, &wanted), "{there}");
        }
        let port = |target: i32| json!([{"port": 2379, "target": target}]);
        assert!(!holds(&port(1), &port(2379)) && !holds(&json!([]), &port(2379)));
        let wanted = json!({"selector": {"a": "b"}});
        assert!(holds(&wanted, &wanted));
        assert!(!holds(&json!({"selector": {"a": "b", "c": "d"}}), &wanted));
    }
}
