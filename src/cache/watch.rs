//! Watches: each keeps the objects of one kind in a store.

use std::{collections::BTreeSet, fmt::Debug, hash::Hash, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        WatchStreamExt,
        reflector::{self, Lookup, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// A custom resource, which this version of the operator may be unable to read.
pub type Guarded<K> = DeserializeGuard<K>;

/// What a watch reports.
pub(super) enum Watched<'a, K> {
    /// The object was created or changed.
    Applied(&'a K),
    /// The object was deleted.
    Deleted(&'a K),
    /// The object is being listed. The store has its version when all are listed.
    Found(&'a K),
    /// All objects have been listed, and the store has no others.
    Listed,
}

impl<'a, K> Watched<'a, K> {
    pub(super) fn of(event: &'a watcher::Event<K>) -> Option<Self> {
        match event {
            watcher::Event::Apply(object) => Some(Self::Applied(object)),
            watcher::Event::Delete(object) => Some(Self::Deleted(object)),
            watcher::Event::Init => None,
            watcher::Event::InitApply(object) => Some(Self::Found(object)),
            watcher::Event::InitDone => Some(Self::Listed),
        }
    }
}

impl<K: Lookup<DynamicType: Eq + Hash + Clone> + Clone + 'static> Watched<'_, K> {
    /// Calls `then` with each object that may have changed in the store.
    pub(super) fn each_changed(&self, store: &Store<K>, mut then: impl FnMut(&K)) {
        match self {
            Self::Applied(object) | Self::Deleted(object) => then(object),
            Self::Found(_) => {}
            Self::Listed => store.state().iter().for_each(|object| then(object)),
        }
    }
}

/// The kinds that cannot be read: their objects have not been listed yet, or their watch is interrupted.
pub type Unread = BTreeSet<String>;

/// If a watch that was interrupted reports no error for this long, it has been resumed: nothing else shows that as long as no
/// object changes. An attempt takes a minute at most, and the next one begins within a minute.
const RESUMED: Duration = Duration::from_secs(150);

/// Whether one watch works.
struct Reading {
    kind: String,
    namespace: Option<String>,
    is_listed: bool,
    unread: watch::Sender<Unread>,
}

impl Reading {
    fn new(kind: String, namespace: Option<String>, unread: watch::Sender<Unread>) -> Self {
        unread.send_if_modified(|kinds| kinds.insert(kind.clone()));
        Self { kind, namespace, is_listed: false, unread }
    }

    fn works(&mut self) {
        if self.unread.send_if_modified(|kinds| kinds.remove(&self.kind)) && self.is_listed {
            tracing::info!(kind = self.kind, namespace = self.namespace, "watch resumed");
        }
        self.is_listed = true;
    }

    fn failed(&self, error: &watcher::Error) {
        self.unread.send_if_modified(|kinds| kinds.insert(self.kind.clone()));
        let (kind, namespace) = (&self.kind, &self.namespace);
        if is_not_served(error) {
            tracing::warn!(kind, namespace, "the API server does not know this kind: are the CRDs installed?");
        } else {
            tracing::warn!(kind, namespace, %error, "watch interrupted, will be resumed");
        }
    }
}

fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Calls `seen` with what a watch reports, until it ends.
async fn follow<K>(
    mut events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Unpin,
    mut reading: Reading,
    seen: impl Fn(&Watched<'_, K>),
) {
    loop {
        match timeout(RESUMED, events.next()).await {
            Ok(Some(Ok(event))) => {
                let Some(watched) = Watched::of(&event) else { continue };
                seen(&watched);
                if !matches!(watched, Watched::Found(_)) {
                    reading.works();
                }
            }
            Ok(Some(Err(error))) => reading.failed(&error),
            Ok(None) => break,
            Err(_) if reading.is_listed => reading.works(),
            Err(_) => {}
        }
    }
}

/// How the objects of a scope are watched.
pub(super) struct Watch<'a> {
    pub(super) client: &'a Client,
    pub(super) namespace: Option<&'a str>,
    pub(super) stop: &'a CancellationToken,
    pub(super) unread: watch::Sender<Unread>,
}

impl Watch<'_> {
    /// Keeps the objects of a kind, after `modify`, and calls `seen` with what the watch reports, and with the store.
    pub(super) fn keep<K>(
        &self,
        config: watcher::Config,
        modify: fn(&mut K),
        seen: impl Fn(&Watched<'_, K>, &Store<K>) + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
        K::DynamicType: Eq + Hash + Clone,
    {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (reader, writer) = reflector::store();
        let events = watcher(api, config).default_backoff().modify(move |object| {
            object.meta_mut().managed_fields = None;
            modify(object);
        });
        let events = reflector::reflector(writer, events).boxed();
        let (store, stop) = (reader.clone(), self.stop.clone());
        let reading = Reading::new(K::kind(&()).into_owned(), self.namespace.map(str::to_owned), self.unread.clone());
        tokio::spawn(async move {
            // Without one of its watches the operator would act on objects as they were: if one ends, the process ends.
            let _ended = stop.clone().drop_guard();
            stop.run_until_cancelled(follow(events, reading, move |watched: &Watched<'_, K>| seen(watched, &store))).await;
        });
        reader
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;
    use tokio::{sync::mpsc, time::sleep};

    use super::*;

    type Event = watcher::Result<watcher::Event<ConfigMap>>;

    fn failure() -> Event {
        Err(watcher::Error::NoResourceVersion)
    }

    #[tokio::test(start_paused = true)]
    async fn an_interrupted_watch_is_reported_until_it_is_resumed() {
        let (sender, unread) = watch::channel(Unread::new());
        let reading = Reading::new("ConfigMap".into(), None, sender);
        let (events, queue) = mpsc::unbounded_channel::<Event>();
        let events_of =
            |queue| stream::unfold(queue, async |mut queue: mpsc::UnboundedReceiver<Event>| Some((queue.recv().await?, queue)));
        let watch = tokio::spawn(follow(Box::pin(events_of(queue)), reading, |_| {}));
        let is_read_after = async |event: Event| {
            events.send(event).unwrap();
            sleep(Duration::from_secs(1)).await;
            unread.borrow().is_empty()
        };

        // It is not read before all objects have been listed, however long that takes.
        assert!(!is_read_after(failure()).await);
        assert!(!is_read_after(Ok(watcher::Event::Init)).await);
        sleep(RESUMED * 2).await;
        assert!(!is_read_after(Ok(watcher::Event::InitApply(ConfigMap::default()))).await);
        assert!(is_read_after(Ok(watcher::Event::InitDone)).await);

        // An event shows that it was resumed; so does silence.
        assert!(!is_read_after(failure()).await);
        assert!(is_read_after(Ok(watcher::Event::Apply(ConfigMap::default()))).await);
        assert!(!is_read_after(failure()).await);
        sleep(Duration::from_secs(RESUMED.as_secs() - 5)).await;
        assert!(!is_read_after(failure()).await);
        sleep(RESUMED).await;
        assert!(unread.borrow().is_empty());

        drop(events);
        watch.await.unwrap();
    }
}
