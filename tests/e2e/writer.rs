//! Clients that write without pause and retry as etcd's own client does: a write has failed if it has not succeeded 5 s after its
//! first attempt.

use std::{
    collections::BTreeSet,
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::{task::JoinHandle, time::timeout};
use tonic::transport::Channel;

use crate::{
    clients::{self, Files},
    namespace::Identity,
    tools::until,
};

/// A write that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An attempt that takes longer is repeated.
const TRY: Duration = Duration::from_secs(1);
/// The pause before each attempt and write, which leaves the machine time for etcd.
const PAUSE: Duration = Duration::from_millis(5);

/// Two writers: one keeps its connection until a write fails, the other opens a new one for each write. Certificates are read at
/// each connection.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Figures>>,
}

/// The results of the writers.
#[derive(Debug, Default)]
pub struct Figures {
    pub written: u32,
    pub failed: u32,
    /// How many of these were acknowledged too late, by the last attempt.
    late: u32,
    failed_attempts: u32,
    /// Attempts that failed because the kept connection was closed.
    pub broken: u32,
    slowest: Duration,
    /// The keys of all acknowledged writes. Each write has a key of its own.
    acknowledged: BTreeSet<String>,
    /// How many of these do not exist any more.
    lost: Option<usize>,
}

impl Writers {
    /// Starts the writers, and returns when each has written once.
    pub async fn start(user: &Identity) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = vec![];
        for (name, fresh) in [("kept", false), ("fresh", true)] {
            let user = user.clone();
            let stop = Arc::clone(&stop);
            // Keys of earlier writers are deleted.
            user.etcdctl(["del", &format!("{name}/"), "--prefix"]).await.success();
            until("the first write", crate::namespace::TIMEOUT, || async {
                put(&mut connect(&user), &key(name, 0)).await.map_err(|failure| format!("{failure:?}"))
            })
            .await;
            tasks.push(tokio::spawn(write(user, name, fresh, stop)));
        }
        Self { stop, tasks }
    }

    /// Stops the writers, and returns the sum of their results.
    pub async fn stop(self) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Figures::default();
        for task in self.tasks {
            let figures = task.await.unwrap();
            all.written += figures.written;
            all.failed += figures.failed;
            all.late += figures.late;
            all.failed_attempts += figures.failed_attempts;
            all.broken += figures.broken;
            all.slowest = all.slowest.max(figures.slowest);
            all.acknowledged.extend(figures.acknowledged);
        }
        all
    }
}

impl Figures {
    /// The keys of all acknowledged writes.
    pub fn acknowledged(&self) -> impl Iterator<Item = &String> {
        self.acknowledged.iter()
    }

    /// Counts the acknowledged writes that were lost.
    pub async fn checked(mut self, user: &Identity) -> Self {
        let mut lost = self.acknowledged.clone();
        for name in ["kept/", "fresh/"] {
            for held in user.etcdctl(["get", name, "--prefix", "--keys-only"]).await.success().lines() {
                lost.remove(held);
            }
        }
        self.lost = Some(lost.len());
        self
    }

    /// Checks that no acknowledged write was lost.
    pub fn assert_nothing_lost(&self) {
        assert_eq!(self.lost, Some(0), "{self}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.slowest.as_millis();
        write!(f, "{} writes, {} failed", self.written, self.failed)?;
        if self.late > 0 {
            write!(f, " ({} late)", self.late)?;
        }
        if let Some(lost) = self.lost {
            write!(f, ", {lost} lost")?;
        }
        write!(f, ", {} failed first attempts, {} connections broken, slowest {slowest} ms", self.failed_attempts, self.broken)
    }
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failure {
    /// The connection was closed, or could not be opened.
    Broken,
    /// etcd took too long, or refused the write.
    Refused,
}

/// The key of a writer's write of this number.
pub fn key(writer: &str, number: u32) -> String {
    format!("{writer}/{number:06}")
}

async fn write(user: Identity, name: &str, fresh: bool, stop: Arc<AtomicBool>) -> Figures {
    let mut figures = Figures { acknowledged: [key(name, 0)].into(), ..Figures::default() };
    let mut client = connect(&user);
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let key = key(name, number);
        if fresh {
            client = connect(&user);
        }
        let mut written = put(&mut client, &key).await;
        if let Err(failure) = &written {
            figures.failed_attempts += 1;
            figures.broken += u32::from(!fresh && matches!(failure, Failure::Broken));
        }
        while written.is_err() && began.elapsed() < TIMEOUT {
            tokio::time::sleep(PAUSE).await;
            client = connect(&user);
            written = put(&mut client, &key).await;
        }
        let took = began.elapsed();
        figures.slowest = figures.slowest.max(took);
        // The last attempt may end after the limit.
        if written.is_ok() && took <= TIMEOUT {
            figures.written += 1;
        } else {
            figures.failed += 1;
            figures.late += u32::from(written.is_ok());
        }
        if written.is_ok() {
            figures.acknowledged.insert(key);
        }
        tokio::time::sleep(PAUSE).await;
    }
    figures
}

/// Makes this many writes, many at a time, and returns when all are acknowledged.
pub async fn fill(user: &Identity, writes: u32) {
    let channel = connect(user);
    let write = |number: u32| {
        let channel = channel.clone();
        async move {
            let key = key("fill", number % 100);
            until("a write", crate::namespace::TIMEOUT, || async {
                put(&mut channel.clone(), &key).await.map_err(|failure| format!("{failure:?}"))
            })
            .await;
        }
    };
    stream::iter(0..writes).for_each_concurrent(64, write).await;
}

async fn put(channel: &mut Channel, key: &str) -> Result<(), Failure> {
    let write = async {
        let channel = etcd_client::Channel::Tonic(channel.clone());
        let mut client = etcd_client::Client::from_channel(channel, None).await?;
        client.put(key, "", None).await
    };
    match timeout(TRY, write).await {
        Ok(Ok(_)) => Ok(()),
        // A status without a source is etcd's own answer.
        Ok(Err(etcd_client::Error::GRpcStatus(status))) if status.source().is_none() => Err(Failure::Refused),
        Ok(Err(_)) => Err(Failure::Broken),
        Err(_) => Err(Failure::Refused),
    }
}

/// A channel that connects when it is used, and reconnects when its connection is closed.
pub fn connect(user: &Identity) -> Channel {
    let (crt, key) = user.pair.clone().unwrap();
    let host = user.endpoint.strip_prefix("https://").unwrap().strip_suffix(":2379").unwrap();
    clients::connect(&Files { ca: user.ca.clone(), crt, key }, host, 2379)
}
