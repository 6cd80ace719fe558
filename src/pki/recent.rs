//! What was found out recently. A pass asks the same of the same certificates several times, and the next pass again: reading
//! them, and verifying signatures above all, is most of what deciding costs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ring::digest;

/// Results by what they follow from or a digest of it, at most `LIMIT` of them.
pub(super) struct Recent<K, V, const LIMIT: usize>(Mutex<BTreeMap<K, V>>);

impl<K: Ord, V: Clone, const LIMIT: usize> Recent<K, V, LIMIT> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What follows from `key`, which is found out unless it is known.
    pub(super) fn get<E>(&self, key: K, find_out: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known().get(&key) {
            return Ok(value.clone());
        }
        let value = find_out()?;
        let mut known = known();
        // Starting anew is as good as knowing which is the oldest: all that is in use is back within a pass.
        if known.len() >= LIMIT {
            known.clear();
        }
        known.insert(key, value.clone());
        Ok(value)
    }
}

/// A digest of what is too long to be kept.
pub(super) type Digest = [u8; 32];

/// The digest of a text.
pub(super) fn digest(text: &[u8]) -> Digest {
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, text).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_found_out_again_and_failures_are_not_kept() {
        static RECENT: Recent<&str, u8, 2> = Recent::new();
        assert_eq!(RECENT.get("a", || Err("why")), Err("why"));
        assert_eq!(RECENT.get::<()>("a", || Ok(1)), Ok(1));
        assert_eq!(RECENT.get::<()>("a", || Ok(2)), Ok(1));
        assert_eq!(RECENT.get::<()>("", || Ok(3)), Ok(3), "another question");
        assert_eq!(RECENT.get::<()>("b", || Ok(4)), Ok(4));
        assert_eq!(RECENT.get::<()>("a", || Ok(5)), Ok(5), "the limit was reached");
    }
}
