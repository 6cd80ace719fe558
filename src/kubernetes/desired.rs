//! The objects that follow from one spec, and whether they have to be applied: decided without asking the API server, so that a
//! cluster without pending changes costs no request.

use std::{
    any::{Any, TypeId},
    cell::OnceCell,
    collections::HashMap,
    hash::Hash,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use kube::{
    Resource,
    api::{DynamicObject, ObjectMeta},
};
use serde::Serialize;

use super::{
    cached::Cached,
    covers::{Difference, Segment, covers, differences},
    object::{Object, ObjectVersion},
    ownership::annotation,
};
use crate::{
    ids::Uid,
    names::{FIELD_MANAGER, annotation::APPLIED},
};

/// What is derived from one spec, computed once for each version of the spec, and what became of it. Of objects only the digests are
/// kept.
#[derive(Debug, Default)]
pub struct Desired {
    /// [`Results`] by their types.
    known: Mutex<HashMap<TypeId, Box<dyn Any + Send>>>,
    /// What others overwrite, by the uids of the objects.
    fights: Mutex<HashMap<Uid, Fight>>,
    /// What the API server has refused to change, by the uids of the objects: its words, and when.
    refusals: Mutex<HashMap<Uid, (String, Timestamp)>>,
}

/// That others overwrite fields of an object each time that they are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overwritten {
    /// The field manager that has done it, if the API server knows. Admission webhooks have none.
    pub manager: Option<String>,
}

/// Fields of one object that were applied, and that others changed.
#[derive(Debug)]
struct Fight {
    /// The paths of the fields.
    paths: Vec<Vec<Segment>>,
    manager: Option<String>,
    /// How often they were applied without effect.
    lost: u32,
    /// When they were applied last.
    at: Timestamp,
}

/// How often fields that others have changed are applied again. If the API server's answer already has other values, once.
const PATIENCE: u32 = 5;

/// When overwritten fields are applied again, and refused changes tried again: what was the cause may have been corrected.
const RETRY: SignedDuration = SignedDuration::from_mins(10);

fn paths(differences: &[Difference]) -> Vec<Vec<Segment>> {
    differences.iter().map(|difference| difference.path.clone()).collect()
}

/// The other field manager that manages a field.
fn manager_of(meta: &ObjectMeta, path: &[Segment]) -> Option<String> {
    let entries = meta.managed_fields.iter().flatten().filter(|entry| entry.manager.as_deref() != Some(FIELD_MANAGER));
    let mut managing = entries.filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| manages(&fields.0, path)));
    managing.next()?.manager.clone()
}

/// Whether a set of fields, in the form of `managedFields`, has a path.
fn manages(fields: &serde_json::Value, path: &[Segment]) -> bool {
    let Some((first, rest)) = path.split_first() else { return true };
    let is_first = |key: &str| match first {
        Segment::Field(name) => key.strip_prefix("f:") == Some(name),
        Segment::Element(name) => key.starts_with("k:") && key.contains(&format!("\"{name}\"")),
    };
    fields.as_object().into_iter().flatten().any(|(key, inner)| is_first(key) && manages(inner, rest))
}

/// Results of one type, by inputs of one type.
type Results<I, T> = HashMap<I, Arc<T>>;

/// The digest of the desired fields of a `K`.
struct Digest<K>(Arc<str>, PhantomData<fn() -> K>);

impl Desired {
    /// The result of `make`, computed once for the spec and `inputs`. The results are kept apart by the types of both.
    pub fn get<I, T>(&self, inputs: &I, make: impl FnOnce() -> T) -> Arc<T>
    where
        I: ToOwned<Owned: Eq + Hash + Send + 'static> + Eq + Hash + ?Sized,
        T: Send + Sync + 'static,
    {
        if let Some(known) = self.results(|known: &mut Results<I::Owned, T>| known.get(inputs).cloned()) {
            return known;
        }
        let result = Arc::new(make());
        self.results(|known| known.insert(inputs.to_owned(), result.clone()));
        result
    }

    /// The desired object, if it has to be applied: it does not exist, a desired field has another value, or other fields were
    /// applied last, so that a field may remain that is no longer desired. `inputs` are its inputs besides the spec.
    pub fn unless_applied<I, K>(&self, inputs: &I, build: impl Fn() -> K, existing: Option<&Cached<K>>) -> Option<Object>
    where
        I: ToOwned<Owned: Eq + Hash + Send + 'static> + Eq + Hash + ?Sized,
        K: Resource<DynamicType = ()> + Serialize + 'static,
    {
        let body = OnceCell::new();
        let object = || body.get_or_init(|| Object::new(&build()));
        let digest = self.get(inputs, || Digest::<K>(object().digest().into(), PhantomData));
        if existing.is_some_and(|existing| existing.covers(&digest.0, |existing| covers(existing, &object().body))) {
            return None;
        }
        let seen = existing.and_then(|existing| ObjectVersion::of(existing.meta()));
        // A change that drops the annotation changes what was applied as well.
        let was_applied =
            |existing: &&Cached<K>| annotation(existing.meta(), APPLIED).is_none_or(|applied| applied == &*digest.0);
        let drift = existing.filter(was_applied).map(|existing| differences(&**existing, &object().body)).unwrap_or_default();
        Some(Object { seen, drift, ..object().clone() })
    }

    /// Records what the API server made of an object.
    pub fn record(&self, object: &Object, result: &DynamicObject, now: Timestamp) {
        self.record_fields(&result.metadata, &object.drift, &differences(result, &object.body), now);
    }

    /// The same for a part of an object: `drift` is what others had changed before it was written, and `left` what the answer of the
    /// API server still does not have.
    pub fn record_fields(&self, result: &ObjectMeta, drift: &[Difference], left: &[Difference], now: Timestamp) {
        let Some(uid) = Uid::of(result) else { return };
        let mut fights = self.fights.lock().unwrap_or_else(PoisonError::into_inner);
        if !left.is_empty() {
            let manager = left.iter().find_map(|difference| manager_of(result, &difference.path));
            fights.insert(uid, Fight { paths: paths(left), manager, lost: PATIENCE, at: now });
        } else if !drift.is_empty() {
            let paths = paths(drift);
            let before = fights.remove(&uid).filter(|fight| fight.paths == paths && now.duration_since(fight.at) < RETRY);
            fights.insert(uid, Fight { paths, manager: None, lost: before.map_or(1, |fight| fight.lost + 1), at: now });
        }
    }

    /// Whether it is useless to apply an object now, because others overwrite it at once. It is tried again after [`RETRY`].
    pub fn overwritten(&self, object: &Object, now: Timestamp) -> Option<Overwritten> {
        self.overwritten_fields(&object.seen.as_ref()?.uid, &object.drift, now)
    }

    /// The same for a part of an object: `drift` is what others have changed of it.
    pub fn overwritten_fields(&self, uid: &Uid, drift: &[Difference], now: Timestamp) -> Option<Overwritten> {
        let fights = self.fights.lock().unwrap_or_else(PoisonError::into_inner);
        let fight = fights.get(uid)?;
        let is_same = !drift.is_empty() && fight.paths == paths(drift);
        let is_lost = fight.lost >= PATIENCE && now.duration_since(fight.at) < RETRY;
        (is_same && is_lost).then(|| Overwritten { manager: fight.manager.clone() })
    }

    /// Records that the API server refuses to change the object with this uid, and its words.
    pub fn refuse(&self, uid: &Uid, words: &str, now: Timestamp) {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.clone(), (words.to_owned(), now));
    }

    /// With which words the API server has refused a change of the object with this uid. The change is tried again after [`RETRY`],
    /// and when the spec changes.
    pub fn refusal(&self, uid: &Uid, now: Timestamp) -> Option<String> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.get(uid).filter(|(_, at)| now.duration_since(*at) < RETRY).map(|(words, _)| words.clone())
    }

    /// What `act` makes of the results of one type.
    fn results<I: Send + 'static, T: Send + Sync + 'static, R>(&self, act: impl FnOnce(&mut Results<I, T>) -> R) -> R {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let results = known.entry(TypeId::of::<Results<I, T>>()).or_insert_with(|| Box::new(Results::<I, T>::new()));
        act(results.downcast_mut().unwrap_or_else(|| unreachable!("results are kept by their types")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn another_field_manager_is_named() {
        let fields = |fields: serde_json::Value| json!({ "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields });
        let own = |manager: &str, entry: serde_json::Value| {
            let mut entry = fields(entry);
            entry["manager"] = manager.into();
            entry
        };
        let image = json!({ "f:spec": { "f:containers": { "k:{\"name\":\"etcd\"}": { "f:image": {} } } } });
        let other = json!({ "f:spec": { "f:containers": { "k:{\"name\":\"proxy\"}": { "f:image": {} } } } });
        let meta =
            |entries: serde_json::Value| -> ObjectMeta { serde_json::from_value(json!({ "managedFields": entries })).unwrap() };
        let field = |name: &str| Segment::Field(name.into());
        let path = [field("spec"), field("containers"), Segment::Element("etcd".into()), field("image")];
        let entries = json!([own(FIELD_MANAGER, image.clone()), own("mesh", other.clone()), own("kyverno", image.clone())]);
        assert_eq!(manager_of(&meta(entries), &path).as_deref(), Some("kyverno"));
        assert_eq!(manager_of(&meta(json!([own(FIELD_MANAGER, image), own("mesh", other)])), &path), None);
    }
}
