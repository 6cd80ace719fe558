//! Clients that watch without pause and continue as etcd's own client does: when a watch ends they go to the next member, and watch
//! from the revision after the last one that they have seen. While one watches, etcd takes 5 s + 2 x the election timeout to stop.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use etcd_client::{EventType, WatchOptions, WatchStream};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    namespace::{Identity, TIMEOUT},
    tools::until,
    writer::{self, Figures},
};

/// A member that does not accept a watch within this time is passed over.
const TRY: Duration = Duration::from_secs(1);
/// The pause before the next member is tried.
const PAUSE: Duration = Duration::from_millis(50);

/// One watcher for each member, which begins there.
pub struct Watchers {
    watchers: Vec<Arc<Mutex<Watched>>>,
    tasks: Vec<JoinHandle<()>>,
}

/// What one watcher has seen.
#[derive(Debug, Default)]
struct Watched {
    /// The keys that were written.
    written: BTreeSet<String>,
    /// The revision to continue from, once it has watched.
    next: Option<i64>,
    /// How many of its watches ended.
    ended: u32,
    /// The longest time without a watch.
    gap: Duration,
}

/// The results of the watchers.
pub struct Seen {
    watchers: usize,
    ended: u32,
    gap: Duration,
}

impl Watchers {
    /// Starts a watcher of all keys at each of these endpoints, and returns when each watches.
    pub async fn start(user: &Identity, endpoints: &[String]) -> Self {
        let watchers: Vec<Arc<Mutex<Watched>>> = endpoints.iter().map(|_| Arc::default()).collect();
        let tasks = watchers.iter().enumerate().map(|(first, watched)| {
            let members = endpoints.iter().cycle().skip(first).take(endpoints.len()).map(|endpoint| user.at(endpoint)).collect();
            tokio::spawn(watch(members, Arc::clone(watched)))
        });
        let started = Self { tasks: tasks.collect(), watchers };
        until("every member has a watcher", TIMEOUT, || async {
            let left = started.watchers.iter().filter(|watched| watched.lock().unwrap().next.is_none()).count();
            if left == 0 { Ok(()) } else { Err(format!("{left} do not watch")) }
        })
        .await;
        started
    }

    /// Waits until every watcher has seen every acknowledged write of writers that were started later, and stops them.
    pub async fn stop(self, figures: &Figures) -> Seen {
        until("every watcher has seen every write", TIMEOUT, || async {
            let unseen = |watched: &Arc<Mutex<Watched>>| {
                let watched = watched.lock().unwrap();
                figures.acknowledged().filter(|key| !watched.written.contains(*key)).count()
            };
            let unseen: Vec<usize> = self.watchers.iter().map(unseen).collect();
            if unseen.iter().all(|count| *count == 0) { Ok(()) } else { Err(format!("not seen: {unseen:?}")) }
        })
        .await;
        let mut seen = Seen { watchers: self.watchers.len(), ended: 0, gap: Duration::ZERO };
        for watched in &self.watchers {
            let watched = watched.lock().unwrap();
            seen.ended += watched.ended;
            seen.gap = seen.gap.max(watched.gap);
        }
        seen
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { watchers, ended, gap } = self;
        write!(f, "{watchers} watchers, 0 writes missed, {ended} watches ended, longest without one {} ms", gap.as_millis())
    }
}

async fn watch(members: Vec<Identity>, watched: Arc<Mutex<Watched>>) {
    let mut without: Option<Instant> = None;
    for member in members.iter().cycle() {
        let next = watched.lock().unwrap().next;
        let Some(mut stream) = open(member, next).await else {
            sleep(PAUSE).await;
            continue;
        };
        while let Ok(Some(answer)) = stream.message().await {
            if answer.canceled() {
                break;
            }
            let mut watched = watched.lock().unwrap();
            if let Some(since) = without.take() {
                watched.gap = watched.gap.max(since.elapsed());
            }
            // The first answer has the current revision. A watch that continues has not seen it yet.
            if answer.created() && watched.next.is_none() {
                watched.next = answer.header().map(|header| header.revision() + 1);
            }
            for event in answer.events() {
                let Some(kv) = event.kv() else { continue };
                watched.next = Some(kv.mod_revision() + 1);
                if event.event_type() == EventType::Put {
                    watched.written.insert(kv.key_str().unwrap().to_owned());
                }
            }
        }
        watched.lock().unwrap().ended += 1;
        without = Some(without.unwrap_or_else(Instant::now));
    }
}

/// A watch of all keys, from a revision on.
async fn open(member: &Identity, revision: Option<i64>) -> Option<WatchStream> {
    let channel = etcd_client::Channel::Tonic(writer::connect(member));
    let options = WatchOptions::new().with_all_keys().with_start_revision(revision.unwrap_or_default());
    let watch = async { etcd_client::Client::from_channel(channel, None).await.ok()?.watch("\0", Some(options)).await.ok() };
    timeout(TRY, watch).await.ok()?
}
