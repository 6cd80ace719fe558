//! Things as they were read.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError},
};

/// A thing as it was read, together with what has been found out about it: each of that is found out once, however often it is
/// asked, and all of it is forgotten where the thing is changed. Copies cost nothing.
///
/// The operator reads things anew in each pass and keeps nothing of what it found out: for a thousand clusters that would cost more
/// memory than it saves time. The simulated world keeps its things, and passes in it cost a tenth.
pub struct Seen<K, F = Content> {
    thing: Arc<K>,
    found: Arc<F>,
}

impl<K, F> Seen<K, F> {
    /// What has been found out so far.
    pub(super) fn found(&self) -> &F {
        &self.found
    }

    /// Whether this is the very same, and not one that is equal.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.thing, &other.thing)
    }
}

impl<K, F: Default> From<Arc<K>> for Seen<K, F> {
    fn from(thing: Arc<K>) -> Self {
        Self { thing, found: Arc::default() }
    }
}

impl<K, F: Default> From<K> for Seen<K, F> {
    fn from(thing: K) -> Self {
        Arc::new(thing).into()
    }
}

impl<K, F> Clone for Seen<K, F> {
    fn clone(&self) -> Self {
        Self { thing: self.thing.clone(), found: self.found.clone() }
    }
}

impl<K: fmt::Debug, F> fmt::Debug for Seen<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.thing.fmt(f)
    }
}

impl<K, F> Deref for Seen<K, F> {
    type Target = K;

    fn deref(&self) -> &K {
        &self.thing
    }
}

impl<K: Clone, F: Default> DerefMut for Seen<K, F> {
    fn deref_mut(&mut self) -> &mut K {
        self.found = Arc::default();
        Arc::make_mut(&mut self.thing)
    }
}

/// What is found out about an object of Kubernetes.
#[derive(Default)]
pub struct Content {
    /// A digest of what it was last found to be as wanted by.
    wanted: Mutex<Option<Arc<str>>>,
}

impl<K> Seen<K> {
    /// Whether it is as what is `wanted`, of which this is a digest, as `compare` tells.
    pub(super) fn is_as(&self, wanted: &Arc<str>, compare: impl FnOnce(&K) -> bool) -> bool {
        let mut known = self.found.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| Arc::ptr_eq(known, wanted) || known == wanted) {
            return true;
        }
        let same = compare(&self.thing);
        if same {
            *known = Some(wanted.clone());
        }
        same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_out_is_forgotten_where_the_thing_is_changed() {
        let mut seen: Seen<Vec<u8>> = vec![1].into();
        let copy = seen.clone();
        let wanted: Arc<str> = "[1]".into();
        assert!(seen.is_as(&wanted, |there| *there == [1]));
        assert!(copy.is_as(&"[1]".into(), |_| unreachable!("it is known")));
        seen.push(2);
        assert!(!seen.is_as(&wanted, |there| *there == [1]));
        assert!(copy.is_as(&wanted, |_| unreachable!("it is known")) && *copy == [1]);
    }
}
