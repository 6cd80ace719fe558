//! The delays before the next pass after a failure, and the jitter that spreads passes over time.
//!
//! Nothing here reads a clock or uses random numbers: the jitter is a hash of the object's key.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// The wait after the first failure.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);

/// Counts the consecutive failures of each object.
#[derive(Debug)]
pub struct Backoff<K> {
    failures: Mutex<HashMap<K, u32>>,
}

impl<K> Default for Backoff<K> {
    fn default() -> Self {
        Self { failures: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Backoff<K> {
    /// Counts a failure and returns how long to wait before the next attempt: 1 s, doubled with each consecutive failure, at most
    /// 5 min, minus a jitter of up to a quarter.
    pub fn failed(&self, key: &K) -> Duration {
        let mut failures = self.failures();
        let count = failures.entry(key.clone()).or_default();
        let wait = FIRST.saturating_mul(1_u32.checked_shl(*count).unwrap_or(u32::MAX)).min(LONGEST);
        *count = count.saturating_add(1);
        wait.saturating_sub(jitter(&(key, *count), wait / 4))
    }

    /// Resets the count of an object whose pass succeeded, or that no longer exists.
    pub fn succeeded(&self, key: &K) {
        self.failures().remove(key);
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<K, u32>> {
        // A count is valid at any time, also after a panic.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A duration in `0..max` that is constant for `key`. Added to a repeated delay, it spreads the passes over objects that were all
/// read when the operator started.
pub fn jitter<K: Hash + ?Sized>(key: &K, max: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    // The high 32 bits of the hash as a fraction of 2^32.
    let fraction = u128::from(hasher.finish() >> 32);
    let nanos = (max.as_nanos() * fraction) >> 32;
    // It fits if `max` is below 584 years.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_minutes() {
        let backoff = Backoff::default();
        let waits: Vec<_> = (0..80).map(|_| backoff.failed(&"a")).collect();
        for (count, wait) in waits.iter().enumerate() {
            let whole = Duration::from_secs(1 << count.min(20)).min(LONGEST);
            assert!(*wait <= whole && *wait > whole * 3 / 4, "{count}: {wait:?} of {whole:?}");
        }
    }

    #[test]
    fn failures_are_counted_for_each_object_until_it_succeeds() {
        let backoff = Backoff::default();
        let first = backoff.failed(&"a");
        for _ in 0..5 {
            backoff.failed(&"a");
        }
        assert!(backoff.failed(&"b") <= Duration::from_secs(1));
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed(&"a"), first);
        backoff.succeeded(&"a");
        backoff.succeeded(&"b");
        assert!(backoff.failures().is_empty());
    }

    #[test]
    fn jitter_is_spread_evenly() {
        let max = Duration::from_secs(100);
        let mut tenths = [0; 10];
        for key in 0..1000 {
            let at = jitter(&format!("ns/cluster-{key}"), max);
            assert!(at < max);
            tenths[usize::try_from(at.as_secs() / 10).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|n| (60..=140).contains(n)), "{tenths:?}");
        assert_eq!(jitter("a", max), jitter("a", max));
        assert_eq!(jitter("a", Duration::ZERO), Duration::ZERO);
    }
}
