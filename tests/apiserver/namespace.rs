//! Common parts of the tests: a namespace for each, an operator, and waiting for conditions.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use etcd_warden::{
    api::{ConditionType, EtcdCluster, EtcdUser, Reason, condition},
    controllers,
    etcd::{self, Dialer},
    http::Readiness,
    metrics::Metrics,
    names::label,
};
use jiff::Timestamp;
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Namespace},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    server::{self, Server},
    tap::Tap,
};

/// Long enough on a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The type of conditions with this text.
fn type_of(kind: &str) -> ConditionType {
    ConditionType::parse(kind).unwrap_or_else(|| panic!("{kind} is not a type of conditions"))
}

/// Repeats `probe` until it returns a value.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    until_ok(async || probe().await.ok_or_else(|| what.to_owned())).await
}

/// Repeats `probe` until it returns a value. Reports its last error otherwise.
pub async fn until_ok<T>(mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut last = "no attempt was made".to_owned();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let found = tokio::time::timeout(TIMEOUT, async {
        loop {
            tick.tick().await;
            match probe().await {
                Ok(found) => return found,
                Err(problem) => last = problem,
            }
        }
    });
    found.await.ok().unwrap_or_else(|| panic!("not within {TIMEOUT:?}: {last}"))
}

/// A namespace for one test.
pub struct TestNamespace<'a> {
    /// Its server.
    pub server: &'a Server,
    /// The administrator's client.
    pub client: Client,
    /// Its name.
    pub name: String,
}

impl TestNamespace<'static> {
    /// A new namespace on the shared server.
    pub async fn new(name: &str) -> Self {
        TestNamespace::on(server::shared().await, name).await
    }
}

impl<'a> TestNamespace<'a> {
    /// A new namespace.
    pub async fn on(server: &'a Server, name: &str) -> Self {
        static GIVEN: AtomicU32 = AtomicU32::new(0);
        let client = server.client();
        let name = format!("{name}-{}", GIVEN.fetch_add(1, Ordering::Relaxed));
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Self { server, client, name }
    }

    /// The objects of a kind.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates an object from its fields without defaults.
    pub async fn create<K>(&self, name: &str, mut rest: Value) -> kube::Result<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        rest["metadata"]["name"] = name.into();
        let object: K = serde_json::from_value(rest).unwrap();
        self.api().create(&PostParams::default(), &object).await
    }

    /// Creates an `EtcdCluster`.
    pub async fn cluster(&self, name: &str, spec: Value) -> EtcdCluster {
        self.create(name, json!({ "spec": spec })).await.unwrap()
    }

    /// Creates an `EtcdUser`.
    pub async fn user(&self, name: &str, spec: Value) -> EtcdUser {
        self.create(name, json!({ "spec": spec })).await.unwrap()
    }

    /// Deletes an object and waits until it is gone.
    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let api = self.api::<K>();
        api.delete(name, &DeleteParams::default()).await.unwrap();
        until("it is gone", async || api.get_metadata_opt(name).await.unwrap().is_none().then_some(())).await;
    }

    /// Waits until a condition of a cluster has this reason, and returns it.
    pub async fn reports(&self, cluster: &str, kind: &str, reason: &str) -> Condition {
        assert!(Reason::parse(reason).is_some(), "{reason} is not a reason");
        let clusters: Api<EtcdCluster> = self.api();
        until_ok(async || {
            let there = clusters.get(cluster).await.unwrap();
            let status = there.status.unwrap_or_default();
            let condition = condition(&status.conditions, type_of(kind)).cloned();
            let condition = condition.filter(|c| c.reason == reason && c.observed_generation == there.metadata.generation);
            condition.ok_or_else(|| format!("EtcdCluster {cluster} is {kind} {reason}: {:#?}", status.conditions))
        })
        .await
    }

    /// Waits until a cluster has all objects except its pods.
    pub async fn bootstrapped(&self, cluster: &str) {
        let sets: Api<StatefulSet> = self.api();
        let selector = ListParams::default().labels(&format!("{}={cluster}", label::INSTANCE));
        until_ok(async || {
            let there = self.api::<EtcdCluster>().get(cluster).await.unwrap();
            let status = there.status.clone().unwrap_or_default();
            let is = |kind, reason| {
                let condition = condition(&status.conditions, type_of(kind));
                condition.is_some_and(|c| c.reason == reason && c.observed_generation == there.metadata.generation)
            };
            let members = sets.list(&selector).await.unwrap().items.len();
            let made = i32::try_from(members) == Ok(there.spec.replicas)
                && is("Progressing", "WaitingForMembers")
                && is("CertificatesReady", "Confirming")
                && is("Degraded", "Healthy");
            made.then_some(()).ok_or_else(|| format!("EtcdCluster {cluster} is bootstrapped: {:#?}", status.conditions))
        })
        .await;
    }

    /// Waits until the condition of a user has this reason, and returns it.
    pub async fn user_reports(&self, user: &str, reason: &str) -> Condition {
        assert!(Reason::parse(reason).is_some(), "{reason} is not a reason");
        let users: Api<EtcdUser> = self.api();
        until(&format!("EtcdUser {user} is {reason}"), async || {
            let there = users.get(user).await.unwrap();
            let status = there.status.filter(|status| status.observed_generation == there.metadata.generation)?;
            condition(&status.conditions, ConditionType::Ready).cloned().filter(|condition| condition.reason == reason)
        })
        .await
    }

    /// The minor version of the API server.
    pub async fn minor(&self) -> u32 {
        let version = self.client.apiserver_version().await.unwrap();
        version.minor.trim_end_matches('+').parse().unwrap()
    }

    /// An operator for this namespace.
    pub fn operator(&self) -> Operator {
        self.operator_with(Tap::default())
    }

    /// An operator for this namespace whose requests go through `tap`.
    pub fn operator_with(&self, tap: Tap) -> Operator {
        Operator::start(self.server.tapped(&tap), tap, vec![self.name.clone()])
    }

    /// An operator for this namespace with another clock than the machine's.
    pub fn operator_with_clock(&self, clock: fn() -> Timestamp) -> Operator {
        self.operator_by(Arc::new(etcd::Client::default()), clock)
    }

    /// An operator for this namespace that connects to members by `dialer`.
    pub fn operator_with_dialer(&self, dialer: Arc<dyn Dialer>) -> Operator {
        self.operator_by(dialer, Timestamp::now)
    }

    /// The same with another clock than the machine's.
    pub fn operator_by(&self, dialer: Arc<dyn Dialer>, clock: fn() -> Timestamp) -> Operator {
        let tap = Tap::default();
        Operator::start_with(self.server.tapped(&tap), tap, vec![self.name.clone()], dialer, clock)
    }
}

/// A running operator.
pub struct Operator {
    /// Its requests.
    pub tap: Tap,
    /// Its metrics.
    metrics: Arc<Metrics>,
    /// Its readiness.
    pub readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// Starts an operator.
    pub fn start(client: Client, tap: Tap, namespaces: Vec<String>) -> Self {
        Self::start_with(client, tap, namespaces, Arc::new(etcd::Client::default()), Timestamp::now)
    }

    fn start_with(client: Client, tap: Tap, namespaces: Vec<String>, dialer: Arc<dyn Dialer>, clock: fn() -> Timestamp) -> Self {
        let (metrics, readiness, stop) = (Arc::new(Metrics::new()), Readiness::default(), CancellationToken::new());
        let options = controllers::Options {
            client,
            dialer,
            namespaces,
            cluster_domain: "cluster.local".into(),
            metrics: metrics.clone(),
            readiness: readiness.clone(),
            judges_authorities: true,
            stop: stop.clone(),
        };
        Self { tap, metrics, readiness, stop, task: tokio::spawn(controllers::run_by(options, clock)) }
    }

    /// Stops it. Passes that have begun are finished.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Stops it at once.
    pub async fn kill(self) {
        self.task.abort();
        // The watches are tasks of their own.
        self.stop.cancel();
        let _ = self.task.await;
    }

    /// Whether its metrics have a series that begins with this text.
    pub fn has_series(&self, series: &str) -> bool {
        self.metrics.encode().lines().any(|line| line.starts_with(series))
    }

    /// How many passes it has finished.
    fn passes(&self) -> u64 {
        let metrics = self.metrics.encode();
        let counts = metrics.lines().filter(|line| line.starts_with("etcd_warden_reconciles_total{"));
        counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// Waits until it has finished `count` more passes.
    pub async fn wait_for_passes(&self, count: u64) {
        let since = self.passes();
        until("passes", async || (self.passes() >= since + count).then_some(())).await;
    }

    /// Waits until it has finished `count` consecutive passes without a write.
    pub async fn quiet(&self, count: u64) {
        let (mut writes, mut since) = (self.tap.writes().len(), self.passes());
        until_ok(async || {
            let seen = self.tap.writes();
            if seen.len() != writes {
                (writes, since) = (seen.len(), self.passes());
            }
            // The pass that was running at the last write does not count.
            (self.passes() > since + count)
                .then_some(())
                .ok_or_else(|| format!("the operator is quiet; its last writes are {:#?}", &seen[seen.len().saturating_sub(5)..]))
        })
        .await;
    }
}
