//! How many passes are made at the same time.
//!
//! A pass mostly waits for members and the API server. Those of a cluster whose members hang take many seconds, so they must not
//! occupy what others need: a pass that takes long moves to slots of its own, and so begins the next one of that object.

use std::{
    collections::HashSet,
    future::Future,
    hash::Hash,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

/// How many passes begin at the same time.
const QUICK: usize = 16;
/// How many take longer than [`LONG`] at the same time. With up to 8 s for each, several hundred clusters whose members all hang have a
/// pass within half a minute.
const SLOW: usize = 128;
/// A pass over a cluster whose members answer is shorter.
const LONG: Duration = Duration::from_millis(500);

/// The slots of one kind of objects.
#[derive(Debug)]
pub struct Slots<K> {
    quick: Semaphore,
    slow: Semaphore,
    /// The objects whose last pass took long.
    lingering: Mutex<HashSet<K>>,
}

impl<K> Default for Slots<K> {
    fn default() -> Self {
        Self { quick: Semaphore::new(QUICK), slow: Semaphore::new(SLOW), lingering: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash> Slots<K> {
    /// Makes a pass over an object as soon as there is a slot.
    pub async fn run<T, F: Future<Output = T>>(&self, key: &K, pass: impl FnOnce() -> F) -> T {
        // Until it begins, a pass takes no memory: thousands may wait. The semaphores are never closed.
        if self.lingering().contains(key) {
            let _slot = self.slow.acquire().await;
            let began = Instant::now();
            let result = pass().await;
            if began.elapsed() < LONG {
                self.forget(key);
            }
            return result;
        }
        let slot = self.quick.acquire().await;
        let mut pass = pin!(pass());
        if let Ok(result) = timeout(LONG, &mut pass).await {
            return result;
        }
        self.lingering().insert(key.clone());
        let _slower = tokio::select! {
            biased;
            result = &mut pass => return result,
            slower = self.slow.acquire() => slower,
        };
        drop(slot);
        pass.await
    }

    /// Forgets an object whose passes are short again, or that no longer exists.
    pub fn forget(&self, key: &K) {
        self.lingering().remove(key);
    }

    fn lingering(&self) -> MutexGuard<'_, HashSet<K>> {
        // A set of keys is valid at any time, also after a panic.
        self.lingering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{join, join_all};
    use tokio::time::sleep;

    use super::*;

    /// The longest that a pass takes if no member answers.
    const HANG: Duration = Duration::from_secs(8);

    async fn round(slots: &Slots<u32>, keys: std::ops::Range<u32>, takes: Duration) -> Duration {
        let began = Instant::now();
        join_all(keys.map(|key| async move { slots.run(&key, || sleep(takes)).await })).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn passes_that_hang_delay_others_by_seconds_once_and_then_not_at_all() {
        let slots = Slots::default();
        let quick = Duration::from_millis(50);
        let (hanging, others) = join(round(&slots, 0..300, HANG), round(&slots, 300..600, quick)).await;
        assert!(hanging <= Duration::from_secs(30) && others <= Duration::from_secs(20), "{hanging:?}, {others:?}");
        let (hanging, others) = join(round(&slots, 0..300, HANG), round(&slots, 300..600, quick)).await;
        assert!(hanging <= Duration::from_secs(30) && others <= Duration::from_secs(1), "{hanging:?}, {others:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_answers_again_is_one_like_all_others() {
        let slots = Slots::default();
        slots.run(&1, || sleep(HANG)).await;
        assert!(slots.lingering().contains(&1));
        slots.run(&1, || sleep(HANG)).await;
        assert!(slots.lingering().contains(&1));
        slots.run(&1, || sleep(LONG / 2)).await;
        assert!(slots.lingering().is_empty());
        assert_eq!((slots.quick.available_permits(), slots.slow.available_permits()), (QUICK, SLOW));
    }

    #[tokio::test(start_paused = true)]
    async fn passes_are_made_at_the_same_time_up_to_a_limit() {
        let slots = Slots::default();
        let took = round(&slots, 0..160, LONG / 5).await;
        assert!(took >= LONG * 2 && took < LONG * 3, "{took:?}");
        assert!(slots.lingering().is_empty());
        // More than all slots: each waits for its turn, and none is lost.
        assert!(round(&slots, 0..1000, HANG).await < HANG * 9);
        assert_eq!((slots.quick.available_permits(), slots.slow.available_permits()), (QUICK, SLOW));
    }
}
