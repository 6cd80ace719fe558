//! What tests have in common: a namespace of their own, an operator, and the conditions that they wait for.

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
    controllers, etcd,
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

/// Long enough on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The type of conditions with this text.
fn type_of(kind: &str) -> ConditionType {
    ConditionType::parse(kind).unwrap_or_else(|| panic!("{kind} is no type of conditions"))
}

/// Tries until `probe` gives something.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    until_ok(async || probe().await.ok_or_else(|| what.to_owned())).await
}

/// Tries until `probe` gives something, and tells what was the matter with the last try.
pub async fn until_ok<T>(mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let mut last = "nothing was tried".to_owned();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let found = tokio::time::timeout(PATIENCE, async {
        loop {
            tick.tick().await;
            match probe().await {
                Ok(found) => return found,
                Err(problem) => last = problem,
            }
        }
    });
    found.await.ok().unwrap_or_else(|| panic!("not within {PATIENCE:?}: {last}"))
}

/// A namespace of a test's own.
pub struct World<'a> {
    /// The server it is on.
    pub server: &'a Server,
    /// The administrator's client.
    pub client: Client,
    /// Its name.
    pub namespace: String,
}

impl World<'static> {
    /// A new one on the shared server.
    pub async fn new(name: &str) -> Self {
        World::on(server::shared().await, name).await
    }
}

impl<'a> World<'a> {
    /// A new one.
    pub async fn on(server: &'a Server, name: &str) -> Self {
        static GIVEN: AtomicU32 = AtomicU32::new(0);
        let client = server.client();
        let namespace = format!("{name}-{}", GIVEN.fetch_add(1, Ordering::Relaxed));
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        Self { server, client, namespace }
    }

    /// The objects of a kind.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Creates an object from what is not default of it.
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
        assert!(Reason::parse(reason).is_some(), "{reason} is no reason");
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

    /// Waits until a cluster has everything but its pods.
    pub async fn founded(&self, cluster: &str) {
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
            made.then_some(()).ok_or_else(|| format!("EtcdCluster {cluster} is founded: {:#?}", status.conditions))
        })
        .await;
    }

    /// Waits until the condition of a user has this reason, and returns it.
    pub async fn user_reports(&self, user: &str, reason: &str) -> Condition {
        assert!(Reason::parse(reason).is_some(), "{reason} is no reason");
        let users: Api<EtcdUser> = self.api();
        until(&format!("EtcdUser {user} is {reason}"), async || {
            let there = users.get(user).await.unwrap();
            let status = there.status.filter(|status| status.observed_generation == there.metadata.generation)?;
            condition(&status.conditions, ConditionType::Ready).cloned().filter(|condition| condition.reason == reason)
        })
        .await
    }

    /// An operator for this namespace.
    pub fn operator(&self) -> Operator {
        self.operator_with(Tap::default())
    }

    /// An operator for this namespace whose requests go through `tap`.
    pub fn operator_with(&self, tap: Tap) -> Operator {
        Operator::start(self.server.tapped(&tap), tap, vec![self.namespace.clone()])
    }

    /// An operator for this namespace with another clock than the machine's.
    pub fn operator_by(&self, clock: fn() -> Timestamp) -> Operator {
        let tap = Tap::default();
        Operator::start_by(self.server.tapped(&tap), tap, vec![self.namespace.clone()], clock)
    }
}

/// A running operator.
pub struct Operator {
    /// Its requests.
    pub tap: Tap,
    /// What it counts.
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// Starts one.
    pub fn start(client: Client, tap: Tap, namespaces: Vec<String>) -> Self {
        Self::start_by(client, tap, namespaces, Timestamp::now)
    }

    fn start_by(client: Client, tap: Tap, namespaces: Vec<String>, clock: fn() -> Timestamp) -> Self {
        let (metrics, stop) = (Arc::new(Metrics::new()), CancellationToken::new());
        let options = controllers::Options {
            client,
            dialer: Arc::new(etcd::Client::default()),
            namespaces,
            cluster_domain: "cluster.local".into(),
            metrics: metrics.clone(),
            readiness: Readiness::default(),
            stop: stop.clone(),
        };
        Self { tap, metrics, stop, task: tokio::spawn(controllers::run_by(options, clock)) }
    }

    /// Lets it finish what it has begun, and ends it.
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }

    /// Ends it where it is.
    pub async fn kill(self) {
        self.task.abort();
        // What it watches with are tasks of their own.
        self.stop.cancel();
        let _ = self.task.await;
    }

    /// Whether its metrics have a series that begins so.
    pub fn tells(&self, series: &str) -> bool {
        self.metrics.encode().lines().any(|line| line.starts_with(series))
    }

    /// How many passes it has made.
    fn passes(&self) -> u64 {
        let metrics = self.metrics.encode();
        let counts = metrics.lines().filter(|line| line.starts_with("etcd_warden_reconciles_total{"));
        counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// Waits until it has made `count` passes more.
    pub async fn passed(&self, count: u64) {
        let since = self.passes();
        until("passes", async || (self.passes() >= since + count).then_some(())).await;
    }

    /// Waits until it has made `count` passes in a row without a write.
    pub async fn quiet(&self, count: u64) {
        let (mut writes, mut since) = (self.tap.writes().len(), self.passes());
        until_ok(async || {
            let seen = self.tap.writes();
            if seen.len() != writes {
                (writes, since) = (seen.len(), self.passes());
            }
            // The one that was under way when the last write was seen does not count.
            (self.passes() > since + count)
                .then_some(())
                .ok_or_else(|| format!("the operator is quiet; at last it wrote {:#?}", &seen[seen.len().saturating_sub(5)..]))
        })
        .await;
    }
}
