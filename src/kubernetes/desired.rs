//! The objects that follow from one spec, and whether they have to be applied: decided without asking the API server, so that a
//! cluster without pending changes costs no request.

use std::{
    any::{Any, TypeId},
    cell::OnceCell,
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};

use kube::Resource;
use serde::Serialize;

use super::{
    cached::Cached,
    covers::covers,
    object::{Object, ObjectVersion},
};

/// What is derived from one spec, computed once for each version of the spec. Only the digests of objects are kept, unless
/// [`Desired::keeping_bodies`] is used.
#[derive(Debug, Default)]
pub struct Desired {
    known: Mutex<HashMap<TypeId, Known>>,
    keeps_bodies: bool,
}

/// Results of one type, by their inputs besides the spec.
type Known = HashMap<String, Arc<dyn Any + Send + Sync>>;

/// The digest of the desired fields of a `K`.
struct Digest<K>(Arc<str>, PhantomData<fn() -> K>);

/// The desired fields of a `K`.
struct Body<K>(Object, PhantomData<fn() -> K>);

impl Desired {
    /// Keeps whole objects, for a process with few specs that are applied often.
    pub fn keeping_bodies() -> Self {
        Self { keeps_bodies: true, ..Self::default() }
    }

    /// The result of `make`, computed once for the spec and `inputs`.
    pub fn get<T: Send + Sync + 'static>(&self, inputs: &str, make: impl FnOnce() -> T) -> Arc<T> {
        if let Some(known) = self.known().get(&TypeId::of::<T>()).and_then(|known| known.get(inputs)) {
            return known.clone().downcast().unwrap_or_else(|_| unreachable!("results are kept by their types"));
        }
        let result = Arc::new(make());
        self.known().entry(TypeId::of::<T>()).or_default().insert(inputs.to_owned(), result.clone());
        result
    }

    /// The desired object, if it has to be applied: it does not exist, a desired field has another value, or other fields were
    /// applied last, so that a field may remain that is no longer desired. `inputs` are its inputs besides the spec.
    pub fn unless_applied<K: Resource<DynamicType = ()> + Serialize + 'static>(
        &self,
        inputs: &str,
        build: impl Fn() -> K,
        existing: Option<&Cached<K>>,
    ) -> Option<Object> {
        let body = OnceCell::new();
        let object = || {
            body.get_or_init(|| {
                let new = || Object::new(&build());
                if self.keeps_bodies { self.get(inputs, || Body::<K>(new(), PhantomData)).0.clone() } else { new() }
            })
        };
        let digest = self.get(inputs, || Digest::<K>(object().digest().into(), PhantomData));
        if existing.is_some_and(|existing| existing.covers(&digest.0, |existing| covers(existing, &object().body))) {
            return None;
        }
        Some(Object { seen: existing.and_then(|existing| ObjectVersion::of(existing.meta())), ..object().clone() })
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<TypeId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
