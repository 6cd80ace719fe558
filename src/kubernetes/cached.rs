//! Objects that were read, and what was derived from them.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// One version of an object, and what was derived from it. Each result is computed once and discarded with the version. The
/// caches hold objects in this form, so a pass over an unchanged cluster does not parse or compare anything again. Clones share
/// the object and the results.
pub struct Cached<K, D = Drift> {
    object: Arc<K>,
    derived: Arc<D>,
}

impl<K, D> Cached<K, D> {
    /// An object with earlier results for this version.
    pub fn new(object: Arc<K>, derived: Arc<D>) -> Self {
        Self { object, derived }
    }

    /// The results so far. They may be reused with another version that leads to the same results.
    pub fn derived(&self) -> &Arc<D> {
        &self.derived
    }
}

impl<K, D: Default> From<Arc<K>> for Cached<K, D> {
    fn from(object: Arc<K>) -> Self {
        Self { object, derived: Arc::default() }
    }
}

impl<K, D: Default> From<K> for Cached<K, D> {
    fn from(object: K) -> Self {
        Arc::new(object).into()
    }
}

impl<K, D> Clone for Cached<K, D> {
    fn clone(&self) -> Self {
        Self { object: self.object.clone(), derived: self.derived.clone() }
    }
}

impl<K: fmt::Debug, D> fmt::Debug for Cached<K, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

impl<K, D> Deref for Cached<K, D> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.object
    }
}

/// Tests change objects in place.
#[cfg(test)]
impl<K: Clone, D: Default> std::ops::DerefMut for Cached<K, D> {
    fn deref_mut(&mut self) -> &mut K {
        self.derived = Arc::default();
        Arc::make_mut(&mut self.object)
    }
}

/// What is derived from an object that the operator applies.
#[derive(Default)]
pub struct Drift {
    /// The digest of the desired fields that the object was found to have.
    covers: Mutex<Option<Arc<str>>>,
}

impl<K> Cached<K> {
    /// Whether the object has the desired fields with this digest. `compare` is called if that is not known yet.
    pub fn covers(&self, digest: &Arc<str>, compare: impl FnOnce(&K) -> bool) -> bool {
        let mut known = self.derived.covers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(digest) {
            return true;
        }
        let same = compare(&self.object);
        if same {
            *known = Some(digest.clone());
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_discarded_with_the_version() {
        let mut object: Cached<Vec<u8>> = vec![1].into();
        let clone = object.clone();
        let desired: Arc<str> = "[1]".into();
        assert!(object.covers(&desired, |existing| *existing == [1]));
        assert!(clone.covers(&"[1]".into(), |_| unreachable!("it is known")));
        object.push(2);
        assert!(!object.covers(&desired, |existing| *existing == [1]));
        assert!(clone.covers(&desired, |_| unreachable!("it is known")) && *clone == [1]);
    }
}
