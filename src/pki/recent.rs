//! What was found out recently. A pass asks the same of the same certificates several times, and the next pass again: reading
//! them, and verifying signatures above all, is most of what deciding costs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ring::digest;

/// Results by a digest of what they follow from, at most `LIMIT` of them.
pub(super) struct Recent<V, const LIMIT: usize>(Mutex<BTreeMap<[u8; 32], V>>);

impl<V: Clone, const LIMIT: usize> Recent<V, LIMIT> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// What follows from `parts`, which is found out unless it is known.
    pub(super) fn get<E>(&self, parts: &[&[u8]], find_out: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let key = digest(parts);
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

/// A digest of parts, another one for other parts.
pub(super) fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_found_out_again_and_failures_are_not_kept() {
        static RECENT: Recent<u8, 2> = Recent::new();
        assert_eq!(RECENT.get(&[b"a"], || Err("why")), Err("why"));
        assert_eq!(RECENT.get::<()>(&[b"a"], || Ok(1)), Ok(1));
        assert_eq!(RECENT.get::<()>(&[b"a"], || Ok(2)), Ok(1));
        assert_eq!(RECENT.get::<()>(&[b"a", b""], || Ok(3)), Ok(3), "another question");
        assert_eq!(RECENT.get::<()>(&[b"b"], || Ok(4)), Ok(4));
        assert_eq!(RECENT.get::<()>(&[b"a"], || Ok(5)), Ok(5), "the limit was reached");
    }
}
