//! The controllers: which passes are triggered and how they are run.

use std::{fmt::Display, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all, stream};
use jiff::Timestamp;
use kube::{
    Client, Resource, ResourceExt,
    api::DynamicObject,
    core::ObjectMeta,
    runtime::{
        controller::{self, Action, Config, applier},
        events::{Event, EventType, Reporter},
        reflector::{ObjectRef, Store},
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{EtcdCluster, EtcdUser, Reason},
    backoff::{Backoff, jitter},
    cache::{self, Guarded, Scope, Triggers},
    cluster::{self, specs::Specs},
    context::Context,
    etcd::Dialer,
    http::Readiness,
    identity::Identities,
    kubernetes::error::WriteError,
    metrics::Metrics,
    names::FIELD_MANAGER,
    reporting::publish::publish,
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

/// How many objects of one kind have a pass at the same time. Passes mostly wait for members.
const CONCURRENCY: u16 = 16;

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
    let watched: Vec<Option<String>> =
        if options.namespaces.is_empty() { vec![None] } else { options.namespaces.iter().cloned().map(Some).collect() };
    let scopes = watched.into_iter().map(|namespace| Controllers::start(&options, namespace, clock));
    let controllers = tokio::select! {
        () = options.stop.cancelled() => return,
        controllers = join_all(scopes) => controllers,
    };
    caches.open();
    tracing::info!("all objects have been read once; reconciling");
    join_all(controllers.into_iter().map(|controllers| controllers.run(&options.stop))).await;
}

/// The controllers of one scope: a namespace or all of them.
struct Controllers {
    context: Arc<Context>,
    clusters: mpsc::UnboundedReceiver<ObjectRef<Guarded<EtcdCluster>>>,
    users: mpsc::UnboundedReceiver<ObjectRef<Guarded<EtcdUser>>>,
}

impl Controllers {
    async fn start(options: &Options, namespace: Option<String>, clock: fn() -> Timestamp) -> Self {
        let (to_clusters, clusters) = mpsc::unbounded_channel();
        let (to_users, users) = mpsc::unbounded_channel();
        let triggers = Triggers { clusters: to_clusters, users: to_users };
        let scope = cache::start(&options.client, namespace.as_deref(), &triggers, &options.stop).await;
        let reporter = Reporter { controller: FIELD_MANAGER.into(), instance: std::env::var("HOSTNAME").ok() };
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
        Self { context: Arc::new(context), clusters, users }
    }

    async fn run(self, stop: &CancellationToken) {
        let Self { context, clusters, users } = self;
        let scope: &Scope = &context.scope;
        let specs: Arc<Specs> = Arc::default();
        let forget_cluster = |gone: &ObjectRef<DynamicObject>| {
            let namespace = gone.namespace.as_deref().unwrap_or_default();
            context.metrics.forget_cluster(namespace, &gone.name);
            context.identities.forget(namespace, &gone.name);
            specs.forget(namespace, &gone.name);
        };
        let forget_user = |gone: &ObjectRef<DynamicObject>| {
            context.metrics.user(gone.namespace.as_deref().unwrap_or_default(), &gone.name, None);
        };
        let kept = specs.clone();
        let pass_cluster = move |context: Arc<Context>, cluster: Arc<EtcdCluster>| {
            let specs = kept.clone();
            async move { cluster::pass(&context, &specs, &cluster).await }
        };
        let pass_user = |context: Arc<Context>, user: Arc<EtcdUser>| async move { user::pass(&context, &user).await };
        futures::future::join(
            control("EtcdCluster", scope.clusters.clone(), clusters, context.clone(), stop, pass_cluster, forget_cluster),
            control("EtcdUser", scope.users.clone(), users, context.clone(), stop, pass_user, forget_user),
        )
        .await;
    }
}

/// Runs a pass for each triggered object of a kind, and the next pass when it is due.
async fn control<K, F>(
    kind: &'static str,
    store: Store<Guarded<K>>,
    triggers: mpsc::UnboundedReceiver<ObjectRef<Guarded<K>>>,
    context: Arc<Context>,
    stop: &CancellationToken,
    pass: impl Fn(Arc<Context>, Arc<K>) -> F + Send + Sync + 'static,
    forget: impl Fn(&ObjectRef<DynamicObject>),
) where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Duration, WriteError>> + Send + 'static,
{
    let triggers = stream::unfold(triggers, |mut triggers| async move { Some((triggers.recv().await?, triggers)) });
    let queue = triggers.take_until(stop.clone().cancelled_owned()).map(Ok::<_, std::convert::Infallible>);
    let backoff: Arc<Backoff<ObjectRef<Guarded<K>>>> = Arc::default();
    let pass = Arc::new(pass);
    let (failures, forgotten) = (backoff.clone(), backoff.clone());
    applier(
        move |object: Arc<Guarded<K>>, context: Arc<Context>| {
            let (pass, backoff) = (pass.clone(), backoff.clone());
            Box::pin(async move {
                let key = ObjectRef::from_obj(&*object);
                let started = Instant::now();
                let result = once(kind, &object, &context, &*pass).await;
                let outcome = if result.is_ok() { "ok" } else { "error" };
                context.metrics.reconciled(kind, outcome, started.elapsed());
                if result.is_ok() {
                    backoff.succeeded(&key);
                }
                result
            })
        },
        move |object, error: &WriteError, _| {
            let key = ObjectRef::from_obj(&*object);
            let wait = failures.failed(&key);
            tracing::warn!(kind, object = %key, %error, ?wait, "status not written");
            Action::requeue(wait)
        },
        context,
        store,
        queue,
        Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE),
    )
    .for_each(|result| {
        // The deletion of the object triggered the pass.
        if let Err(controller::Error::ObjectNotFound(gone)) = result {
            forgotten.succeeded(&ObjectRef::new(&gone.name).within(gone.namespace.as_deref().unwrap_or_default()));
            forget(&gone);
        }
        std::future::ready(())
    })
    .await;
}

async fn once<K, F>(
    kind: &'static str,
    object: &Guarded<K>,
    context: &Arc<Context>,
    pass: &(impl Fn(Arc<Context>, Arc<K>) -> F + Send + Sync),
) -> Result<Action, WriteError>
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Duration, WriteError>> + Send + 'static,
{
    match &object.0 {
        Err(invalid) => {
            report_unreadable(kind, &invalid.metadata, &invalid.error, context).await;
            Ok(Action::await_change())
        }
        // Everything that belongs to a cluster or a user is deleted with it by its owner reference.
        Ok(object) if object.meta().deletion_timestamp.is_some() => Ok(Action::await_change()),
        Ok(object) => {
            let next = pass(context.clone(), Arc::new(object.clone())).await?;
            // A jitter spreads the passes over clusters that were created at the same time.
            Ok(Action::requeue(next + jitter(&(object.name_any(), object.namespace()), next / 4)))
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
