//! Panics: a bug in the code that one object reaches must not stop the work on all others.
//!
//! [`caught`] and [`caught_in`] end a panic where it concerns one object. Any other task that ends ends the process, which is then
//! started again: a watch or a lease that is not continued would be worse than a restart.

use std::{
    cell::RefCell,
    fmt,
    future::Future,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use futures::FutureExt;

thread_local! {
    /// Where this thread panicked last. Only the hook knows it.
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Code panicked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Panic {
    /// The file, line and column. The panic's message is only logged, because everybody may read events.
    location: String,
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { location } = self;
        let (version, repository) = (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_REPOSITORY"));
        write!(
            f,
            "this is a bug in etcd-warden {version}: it panicked at {location} while it reconciled this object. Other objects are not \
            affected. It tries again, after 5 minutes at the latest. Report it at {repository}/issues with the operator's log: \
            kubectl logs -l app.kubernetes.io/name=etcd-warden --tail=-1"
        )
    }
}

/// The result of a future, or that it panicked. What it shares with others must be valid after a panic at any point.
///
/// # Errors
/// When it panicked.
pub async fn caught<T>(future: impl Future<Output = T>) -> Result<T, Panic> {
    observe();
    AssertUnwindSafe(future).catch_unwind().await.map_err(|_| last())
}

/// The result of a function, or that it panicked.
///
/// # Errors
/// When it panicked.
pub fn caught_in<T>(function: impl FnOnce() -> T) -> Result<T, Panic> {
    observe();
    panic::catch_unwind(AssertUnwindSafe(function)).map_err(|_| last())
}

fn last() -> Panic {
    // A future is polled, and its panic caught, by one thread.
    Panic { location: LOCATION.take().unwrap_or_else(|| "an unknown place".into()) }
}

/// From now on all panics are logged, by the previous hook if there is no log.
pub fn observe() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let location = info.location().map(ToString::to_string);
            if tracing::dispatcher::has_been_set() {
                let payload = info.payload();
                let text = payload.downcast_ref::<&str>().copied();
                let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
                tracing::error!(location, panic = text, "this is a bug");
            } else {
                before(info);
            }
            LOCATION.set(location);
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics() -> u32 {
        let empty: Vec<u32> = vec![];
        empty[empty.len()]
    }

    #[tokio::test]
    async fn a_panic_becomes_an_error_that_says_where_and_nothing_else() {
        let of_future = caught(async { panics() }).await.unwrap_err();
        let of_function = caught_in(panics).unwrap_err();
        assert_eq!(of_future, of_function);
        let text = of_future.to_string();
        assert!(text.contains("panicked at src/panics.rs:") && text.contains("/issues"), "{text}");
        assert!(!text.contains("out of bounds"), "{text}");
        assert_eq!(caught(async { 1 }).await, Ok(1));
    }
}
