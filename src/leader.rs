//! Leader election: of several replicas of the operator only the holder of a `coordination.k8s.io/v1` Lease acts.
//!
//! Every write contains the resourceVersion that was read, so of two candidates one fails with a conflict. Clocks of different
//! machines are never compared: a lease has expired when *this process* has observed it unchanged for its duration. A leader
//! measures from the time before it sent its last confirmed renewal, and resigns after [`DEADLINE`]. Candidates measure from the
//! time after they observed that renewal, and wait for [`LEASE`].
//!
//! The difference between the two covers requests of the leader that are still in flight. A process that was suspended for longer
//! than that may complete a request later, so the lease alone is not sufficient: every step checks its precondition again on a
//! fresh read, and sends it along if the server can check it.

use std::{future::Future, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{http::Gate, names::FIELD_MANAGER};

/// How long a candidate must have observed a lease unchanged before it takes it over.
pub const LEASE: Duration = Duration::from_secs(15);
/// [`LEASE`] in seconds, as it is written into the lease.
const LEASE_SECONDS: i32 = 15;
/// How long after its last confirmed renewal a leader resigns. It is 5 s less than [`LEASE`], so that the process has exited
/// before another one becomes the leader.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How often the lease is renewed. Renewals are the only writes of an idle operator, so they are as rare as possible: half of
/// [`DEADLINE`] leaves time for at least three attempts of [`TRY`], which is enough for a restart of the API server.
const RENEW: Duration = Duration::from_secs(5);
/// The time between the starts of a failed renewal and of the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// The timeout of one attempt.
const TRY: Duration = Duration::from_millis(1600);
/// How often a candidate reads the lease.
const POLL: Duration = Duration::from_secs(2);

/// What a candidate does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// There is no lease: it creates it.
    Create,
    /// The lease has no holder or has expired: it takes it.
    Take,
    /// The lease is held: it waits. The holder may have the same identity, because another process may have been given the same
    /// one. If it was this process, in a write whose answer was lost, waiting does no harm.
    Wait,
}

/// `seen_since` is when this version of `lease` was first observed.
fn decide(lease: Option<&Lease>, seen_since: Instant, now: Instant) -> Decision {
    let Some(lease) = lease else { return Decision::Create };
    if holder(lease).is_none() {
        return Decision::Take;
    }
    // The duration is the one that the holder declared, because the holder may be another version of the operator.
    let duration = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    let duration = duration.and_then(|s| u64::try_from(s).ok()).map_or(LEASE, Duration::from_secs);
    if now.saturating_duration_since(seen_since) >= duration { Decision::Take } else { Decision::Wait }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// `lease` as it is once `me` has acquired or renewed it.
fn held(mut lease: Lease, me: &str, now: Timestamp) -> Lease {
    let renewed = holder(&lease) == Some(me);
    let spec = lease.spec.get_or_insert_default();
    if !renewed {
        // As in Kubernetes' own components, the first acquisition does not count.
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        spec.acquire_time = Some(MicroTime(now));
    }
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = Some(LEASE_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// `lease` as it is once its holder has released it, so that a candidate can take it at once.
fn released(mut lease: Lease) -> Lease {
    let spec = lease.spec.get_or_insert_default();
    *spec = LeaseSpec { lease_transitions: spec.lease_transitions, ..LeaseSpec::default() };
    lease
}

/// A candidate.
#[derive(Clone)]
pub struct Elector {
    leases: Api<Lease>,
    name: String,
    me: String,
}

impl Elector {
    /// A candidate for the lease `name` in `namespace`. Each process should have a different `identity`. Even if two have the
    /// same, only one of them leads.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.into(), me: identity.into() }
    }

    /// Waits until this process leads; `None` if it was stopped before. `standby` is opened once the lease has been read, because
    /// the candidate is then ready to take over.
    pub async fn acquire(&self, stop: &CancellationToken, standby: &Gate) -> Option<Leadership> {
        let (mut seen, mut failure, mut leader) = (None, None, None);
        loop {
            let began = Instant::now();
            // This is not cancelled by `stop`: a lease that was just acquired must be released.
            match within(began + TRY, self.attempt(&mut seen)).await {
                Ok(Attempt::Leads(lease)) => {
                    standby.open();
                    tracing::info!(lease = self.name, identity = self.me, "leading");
                    return Some(Leadership::begin(self.clone(), *lease, began));
                }
                Ok(Attempt::Follows(holder)) => {
                    standby.open();
                    failure = None;
                    if leader != holder {
                        tracing::info!(lease = self.name, leader = holder, "standing by");
                        leader = holder;
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    // It is logged once and not in every attempt.
                    if failure.as_ref() != Some(&text) {
                        tracing::warn!(lease = self.name, error = text, "the lease could not be read or taken");
                        failure = Some(text);
                    }
                }
            }
            stop.run_until_cancelled(sleep_until(began + POLL)).await?;
        }
    }

    /// Reads the lease and takes it if possible. `seen` is the last observed version of the lease, and when it was first
    /// observed.
    async fn attempt(&self, seen: &mut Option<(String, Instant)>) -> kube::Result<Attempt> {
        let lease = self.leases.get_opt(&self.name).await?;
        let now = Instant::now();
        let version = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone()).unwrap_or_default();
        let since = match seen {
            Some((last, since)) if *last == version => *since,
            _ => now,
        };
        *seen = Some((version, since));
        let written = match decide(lease.as_ref(), since, now) {
            Decision::Wait => return Ok(Attempt::Follows(lease.as_ref().and_then(holder).map(str::to_owned))),
            Decision::Create => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let lease = held(Lease { metadata, spec: None }, &self.me, Timestamp::now());
                self.leases.create(&params(), &lease).await
            }
            Decision::Take => self.replace(&held(lease.unwrap_or_default(), &self.me, Timestamp::now())).await,
        };
        match written {
            Ok(lease) => Ok(Attempt::Leads(Box::new(lease))),
            // Another candidate was faster; the next read shows which one.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(Attempt::Follows(None)),
            Err(error) => Err(error),
        }
    }

    /// Renews `lease`, which this process held when it was last read or written.
    async fn renew(&self, lease: &Lease) -> kube::Result<Renewal> {
        match self.replace(&held(lease.clone(), &self.me, Timestamp::now())).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(Renewal::Lost(None)),
            written => return written.map(|lease| Renewal::Renewed(Box::new(lease))),
        }
        // Another process holds it, it was changed in another way, or the last write succeeded although its answer was lost.
        match self.leases.get_opt(&self.name).await? {
            Some(lease) if holder(&lease) == Some(&self.me) => {
                self.replace(&held(lease, &self.me, Timestamp::now())).await.map(|lease| Renewal::Renewed(Box::new(lease)))
            }
            lease => Ok(Renewal::Lost(lease.as_ref().and_then(holder).map(str::to_owned))),
        }
    }

    async fn replace(&self, lease: &Lease) -> kube::Result<Lease> {
        self.leases.replace(&self.name, &params(), lease).await
    }

    /// Renews the lease until `release` is cancelled, and then returns it; `None` if leadership can no longer be proven. `proven`
    /// is when the last confirmed write was sent.
    async fn hold(&self, mut lease: Lease, mut proven: Instant, release: &CancellationToken) -> Option<Lease> {
        let mut next = proven + RENEW;
        loop {
            if release.run_until_cancelled(sleep_until(next)).await.is_none() {
                return Some(lease);
            }
            let (sent, deadline) = (Instant::now(), proven + DEADLINE);
            if sent >= deadline {
                tracing::error!(lease = self.name, "the lease could not be renewed in time");
                return None;
            }
            match within(deadline.min(sent + TRY), self.renew(&lease)).await {
                Ok(Renewal::Renewed(renewed)) => (lease, proven, next) = (*renewed, sent, sent + RENEW),
                Ok(Renewal::Lost(holder)) => {
                    tracing::error!(lease = self.name, holder, "another process holds the lease");
                    return None;
                }
                Err(error) => {
                    tracing::warn!(lease = self.name, %error, "the lease could not be renewed");
                    next = deadline.min(sent + RETRY);
                }
            }
        }
    }

    async fn release(&self, lease: Lease) {
        match within(Instant::now() + TRY, self.replace(&released(lease))).await {
            Ok(_) => tracing::info!(lease = self.name, "released"),
            Err(error) => tracing::warn!(lease = self.name, %error, "the lease was not released and has to expire"),
        }
    }
}

enum Attempt {
    Leads(Box<Lease>),
    Follows(Option<String>),
}

enum Renewal {
    Renewed(Box<Lease>),
    Lost(Option<String>),
}

/// Why a call about the lease failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("no answer in time")]
    Timeout,
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

async fn within<T>(deadline: Instant, call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    Ok(timeout_at(deadline, call).await.map_err(|_| CallError::Timeout)??)
}

fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

/// Leadership. It is renewed in the background, and released when it is dropped.
pub struct Leadership {
    lost: CancellationToken,
    release: DropGuard,
    task: JoinHandle<()>,
}

impl Leadership {
    fn begin(elector: Elector, lease: Lease, proven: Instant) -> Self {
        let (lost, release) = (CancellationToken::new(), CancellationToken::new());
        // A guard signals the loss for every reason for which the task ends.
        let (guard, asked) = (lost.clone().drop_guard(), release.clone());
        let task = tokio::spawn(async move {
            let _guard = guard;
            if let Some(lease) = elector.hold(lease, proven, &asked).await {
                elector.release(lease).await;
            }
        });
        Self { lost, release: release.drop_guard(), task }
    }

    /// Resolves when leadership can no longer be proven. The process must then exit at once.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Releases the lease, so that another candidate takes it within two seconds. No pass may be running. It takes less than four
    /// seconds, even if the API server does not answer.
    pub async fn release(self) {
        drop(self.release);
        // The task is never aborted, and a panic in it has been reported.
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests;
