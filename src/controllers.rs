//! The controllers: which passes are triggered and how they are run.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{join, join_all},
    stream,
};
use jiff::Timestamp;
use kube::{
    Client, Resource, ResourceExt,
    core::ObjectMeta,
    runtime::{
        controller::{self, Action, Config, applier},
        events::{Event, EventType, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{EtcdCluster, EtcdUser, Reason},
    backoff::{Backoff, jitter},
    cache::{self, Guarded, Triggers, Unread},
    cluster::{self, specs::Specs},
    context::Context,
    etcd::Dialer,
    host,
    http::{Gate, Readiness},
    identity::Identities,
    kubernetes::error::WriteError,
    metrics::Metrics,
    names::FIELD_MANAGER,
    panics::{self, Panic},
    reporting::{
        note::Note,
        publish::{publish, write_report},
    },
    slots::Slots,
    user,
};

/// The options of the controllers.
pub struct Options {
    /// The API server.
    pub client: Client,
    /// Connections to members.
    pub dialer: Arc<dyn Dialer>,
    /// The namespaces that are watched; all when empty.
    pub namespaces: Vec<String>,
    /// The DNS domain of the Kubernetes cluster, `cluster.local`.
    pub cluster_domain: String,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The readiness of the process.
    pub readiness: Readiness,
    /// Whether the authority of an issuer is judged before anything is changed. Only tests of what happens with one that is not
    /// acceptable set this to false; the program has no setting for it.
    pub judges_authorities: bool,
    /// Stops the controllers.
    pub stop: CancellationToken,
}

/// [`Slots`] limit how many passes are made at the same time.
const UNLIMITED: u16 = 0;

/// Changes of an object within this time cause one pass.
const DEBOUNCE: Duration = Duration::from_millis(20);

/// Runs the controllers until they are stopped. Passes that have begun are finished.
pub async fn run(options: Options) {
    run_by(options, Timestamp::now).await;
}

/// Runs the controllers with another clock than the machine's.
pub async fn run_by(options: Options, clock: fn() -> Timestamp) {
    let caches = options.readiness.gate("caches");
    if !options.judges_authorities {
        tracing::warn!("THIS IS A TEST: the CAs of issuers are not judged before they are used");
    }
    let watched: Vec<Option<&str>> = if options.namespaces.is_empty() {
        vec![None]
    } else {
        options.namespaces.iter().map(|name| Some(name.as_str())).collect()
    };
    join_all(watched.into_iter().map(|namespace| run_scope(&options, namespace, &caches, clock).boxed())).await;
}

/// Runs the controllers of a scope as soon as its objects have been read. A namespace may not exist any more, or not permit it: that
/// stops no other one. Without any that could be read the operator is not ready. One that cannot be read any more later does not
/// change that: another replica, with the same permissions, could not read it either.
async fn run_scope(options: &Options, namespace: Option<&str>, caches: &Gate, clock: fn() -> Timestamp) {
    let name = namespace.unwrap_or_default();
    let is_read = |is_read| {
        options.metrics.namespace_read(name, is_read);
        // If all namespaces are watched, the gate says the same.
        if namespace.is_some() {
            options.readiness.read(name, is_read);
        }
    };
    is_read(false);
    let started = options.stop.run_until_cancelled(Controllers::start(options, namespace, clock)).await;
    let Some(controllers) = started else { return };
    caches.open();
    tracing::info!(namespace, "all objects have been read once; reconciling");
    let unread = controllers.passes.context.scope.unread.clone();
    join(controllers.run(), report_reading(unread, is_read)).await;
}

/// Reports whether all kinds of a scope can be read, until its watches end.
async fn report_reading(mut unread: watch::Receiver<Unread>, is_read: impl Fn(bool)) {
    loop {
        is_read(unread.borrow_and_update().is_empty());
        if unread.changed().await.is_err() {
            return;
        }
    }
}

/// The controllers of one scope: a namespace or all of them.
struct Controllers {
    passes: Arc<Passes>,
    clusters: mpsc::UnboundedReceiver<ObjectRef<Guarded<EtcdCluster>>>,
    users: mpsc::UnboundedReceiver<ObjectRef<Guarded<EtcdUser>>>,
}

/// What the passes of a scope share.
struct Passes {
    context: Context,
    specs: Specs,
}

/// A kind of objects over which passes are made.
trait Reconciled: Resource<DynamicType = ()> + Clone + Send + Sync + 'static {
    const KIND: &'static str;

    /// One pass. Returns when the next one is due.
    fn pass(&self, passes: &Passes) -> impl Future<Output = Result<Duration, WriteError>> + Send;

    /// Reports that a pass failed because of a bug.
    fn report_bug(&self, passes: &Passes, note: Note) -> impl Future<Output = Result<bool, WriteError>> + Send;

    /// Removes what is kept about an object that no longer exists.
    fn forget(passes: &Passes, namespace: &str, name: &str);
}

impl Reconciled for EtcdCluster {
    const KIND: &'static str = "EtcdCluster";

    async fn pass(&self, passes: &Passes) -> Result<Duration, WriteError> {
        cluster::pass(&passes.context, &passes.specs, self).await
    }

    async fn report_bug(&self, Passes { context, .. }: &Passes, note: Note) -> Result<bool, WriteError> {
        let report = cluster::status::bug(self, note, (context.clock)());
        write_report(context, self, self.status.as_ref(), &report).await
    }

    fn forget(Passes { context, specs }: &Passes, namespace: &str, name: &str) {
        context.metrics.forget_cluster(namespace, name);
        context.identities.forget(namespace, name);
        specs.forget(namespace, name);
    }
}

impl Reconciled for EtcdUser {
    const KIND: &'static str = "EtcdUser";

    async fn pass(&self, passes: &Passes) -> Result<Duration, WriteError> {
        user::pass(&passes.context, self).await
    }

    async fn report_bug(&self, Passes { context, .. }: &Passes, note: Note) -> Result<bool, WriteError> {
        let report = user::status::bug(self, note, (context.clock)());
        write_report(context, self, self.status.as_ref(), &report).await
    }

    fn forget(Passes { context, .. }: &Passes, namespace: &str, name: &str) {
        context.metrics.user(namespace, name, None);
    }
}

/// Why a pass failed. The object is tried again with increasing delays.
#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error("the status was not written: {0}")]
    Write(#[from] WriteError),
    #[error(transparent)]
    Panic(#[from] Panic),
}

impl PassError {
    /// The outcome of the pass in the metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Write(_) => "error",
            Self::Panic(_) => "panic",
        }
    }
}

impl Controllers {
    async fn start(options: &Options, namespace: Option<&str>, clock: fn() -> Timestamp) -> Self {
        let (to_clusters, clusters) = mpsc::unbounded_channel();
        let (to_users, users) = mpsc::unbounded_channel();
        let triggers = Triggers { clusters: to_clusters, users: to_users };
        let scope = cache::start(&options.client, namespace, &triggers, &options.stop).await;
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: host::name() };
        let context = Context {
            client: options.client.clone(),
            scope,
            dialer: options.dialer.clone(),
            identities: Identities::default(),
            reporter,
            metrics: options.metrics.clone(),
            triggers,
            domain: options.cluster_domain.clone(),
            judges_authorities: options.judges_authorities,
            stop: options.stop.clone(),
            clock,
        };
        Self { passes: Arc::new(Passes { context, specs: Specs::default() }), clusters, users }
    }

    async fn run(self) {
        let Self { passes, clusters, users } = self;
        let scope = &passes.context.scope;
        join(
            control(scope.clusters.clone(), clusters, passes.clone()),
            control(scope.users.store.clone(), users, passes.clone()),
        )
        .await;
    }
}

/// Runs a pass for each triggered object of a kind, and the next pass when it is due.
async fn control<K: Reconciled>(
    store: Store<Guarded<K>>,
    triggers: mpsc::UnboundedReceiver<ObjectRef<Guarded<K>>>,
    passes: Arc<Passes>,
) {
    let triggers = stream::unfold(triggers, |mut triggers| async move { Some((triggers.recv().await?, triggers)) });
    let stop = passes.context.stop.clone();
    let queue = triggers.take_until(stop.cancelled_owned()).map(Ok::<_, std::convert::Infallible>);
    let backoff: Arc<Backoff<ObjectRef<Guarded<K>>>> = Arc::default();
    let (succeeded, failures) = (backoff.clone(), backoff.clone());
    let slots: Arc<Slots<ObjectRef<Guarded<K>>>> = Arc::default();
    let running = slots.clone();
    applier(
        move |object: Arc<Guarded<K>>, passes: Arc<Passes>| {
            let (slots, backoff) = (running.clone(), succeeded.clone());
            async move {
                let key = ObjectRef::from_obj(&*object);
                let result = slots.run(&key, || timed(&object, &passes).boxed()).await;
                if result.is_ok() {
                    backoff.succeeded(&key);
                }
                result
            }
            .boxed()
        },
        move |object, error: &PassError, _| {
            let key = ObjectRef::from_obj(&*object);
            let wait = failures.failed(&key);
            tracing::warn!(kind = K::KIND, object = %key, %error, ?wait, "the pass failed");
            Action::requeue(wait)
        },
        passes.clone(),
        store,
        queue,
        Config::default().concurrency(UNLIMITED).debounce(DEBOUNCE),
    )
    .for_each(|result| {
        // The deletion of the object triggered the pass.
        if let Err(controller::Error::ObjectNotFound(gone)) = result {
            let namespace = gone.namespace.as_deref().unwrap_or_default();
            let key = ObjectRef::new(&gone.name).within(namespace);
            backoff.succeeded(&key);
            slots.forget(&key);
            K::forget(&passes, namespace, &gone.name);
        }
        std::future::ready(())
    })
    .await;
}

async fn timed<K: Reconciled>(object: &Guarded<K>, passes: &Passes) -> Result<Action, PassError> {
    let started = Instant::now();
    let result = once(object, passes).await;
    let outcome = result.as_ref().map_or_else(PassError::outcome, |_| "ok");
    passes.context.metrics.reconciled(K::KIND, outcome, started.elapsed());
    result
}

async fn once<K: Reconciled>(object: &Guarded<K>, passes: &Passes) -> Result<Action, PassError> {
    let object = match &object.0 {
        Err(invalid) => {
            report_unreadable(K::KIND, &invalid.metadata, &invalid.error, &passes.context).await;
            return Ok(Action::await_change());
        }
        // Everything that belongs to a cluster or a user is deleted with it by its owner reference.
        Ok(object) if object.meta().deletion_timestamp.is_some() => return Ok(Action::await_change()),
        Ok(object) => object,
    };
    match panics::caught(object.pass(passes)).await {
        Ok(next) => {
            let next = next?;
            // A jitter spreads the passes over clusters that were created at the same time.
            Ok(Action::requeue(next + jitter(&(object.name_any(), object.namespace()), next / 4)))
        }
        Err(panic) => {
            let note = Note::new(Reason::InternalError, panic.to_string());
            if let Ok(Err(error)) = panics::caught(object.report_bug(passes, note)).await {
                tracing::warn!(kind = K::KIND, object = object.name_any(), %error, "the status was not written");
            }
            Err(panic.into())
        }
    }
}

/// Reports an object that cannot be read, because it was created with the schema of another version. It is not changed.
async fn report_unreadable(kind: &'static str, meta: &ObjectMeta, error: &impl Display, context: &Context) {
    let reference = k8s_openapi::api::core::v1::ObjectReference {
        api_version: Some(format!("{}/v1alpha1", crate::api::GROUP)),
        kind: Some(kind.into()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..Default::default()
    };
    let event = Event {
        type_: EventType::Warning,
        reason: Reason::Unreadable.to_string(),
        note: Some(format!("this version of the operator cannot read the object and does not change anything: {error}")),
        action: "Skip".into(),
        secondary: None,
    };
    publish(context, &event, &reference).await;
}
