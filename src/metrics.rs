//! The operator's metrics for Prometheus. Every name begins with `etcd_warden_`.
//!
//! Label values are bounded: fixed words, kinds, and the names of existing clusters and users. They are never error messages.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};

use crate::pki::{Domain, PerDomain, Phase};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    step: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NamespaceLabels {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DomainLabels {
    namespace: String,
    name: String,
    domain: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UserLabels {
    namespace: String,
    user: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuthorityLabels {
    namespace: String,
    name: String,
    domain: &'static str,
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    namespace: String,
    name: String,
    domain: &'static str,
    phase: &'static str,
}

/// The roles of authorities.
const ROLES: [&str; 2] = ["active", "next"];

/// The state of one cluster after a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterState {
    /// Members that are healthy.
    pub ready: i32,
    /// Members that are desired.
    pub desired: i32,
    /// Whether a quorum of voters is healthy.
    pub available: bool,
    /// Whether every member presents its desired certificates.
    pub certificates_ready: bool,
    /// When the operator's own certificate expires, if it has one.
    pub operator_expiry: Option<Timestamp>,
    /// The trust domains.
    pub domains: PerDomain<DomainState>,
}

/// The state of one trust domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainState {
    /// When the first of the members' certificates expires, if there are any.
    pub expiry: Option<Timestamp>,
    /// When the active and the next authority expire, if there are any.
    pub authorities: Option<[Timestamp; 2]>,
    /// The phase of a CA rotation, if there is one.
    pub phase: Option<Phase>,
}

/// The registry and all metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    reconcile_seconds: Family<KindLabels, Histogram>,
    leader: Gauge,
    namespaces: Family<NamespaceLabels, Gauge>,
    ready: Family<ClusterLabels, Gauge>,
    desired: Family<ClusterLabels, Gauge>,
    available: Family<ClusterLabels, Gauge>,
    certificates_ready: Family<ClusterLabels, Gauge>,
    expiry: Family<DomainLabels, Gauge>,
    operator_expiry: Family<ClusterLabels, Gauge>,
    user_expiry: Family<UserLabels, Gauge>,
    authorities: Family<AuthorityLabels, Gauge>,
    rotation: Family<PhaseLabels, Gauge>,
    requests: Family<MethodLabels, Counter>,
    steps: Family<StepLabels, Counter>,
    leaves: Family<KindLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// A registry in which nothing has been counted.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("etcd_warden"),
            reconciles: Family::default(),
            // 5 ms to 20 s.
            reconcile_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.005, 2.0, 13))),
            leader: Gauge::default(),
            namespaces: Family::default(),
            ready: Family::default(),
            desired: Family::default(),
            available: Family::default(),
            certificates_ready: Family::default(),
            expiry: Family::default(),
            operator_expiry: Family::default(),
            user_expiry: Family::default(),
            authorities: Family::default(),
            rotation: Family::default(),
            requests: Family::default(),
            steps: Family::default(),
            leaves: Family::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("build", "The version of the operator", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        r.register("reconciles", "Passes over an object, by kind and outcome: ok, error or panic", self.reconciles.clone());
        r.register_with_unit(
            "reconcile_duration",
            "How long a pass over an object took",
            Unit::Seconds,
            self.reconcile_seconds.clone(),
        );
        r.register("leader", "1 while this process is the leader", self.leader.clone());
        r.register(
            "namespace_read",
            "1 while the objects of a namespace can be read, which is necessary to reconcile them; namespace is empty if all are watched",
            self.namespaces.clone(),
        );
        r.register("cluster_members_ready", "Members that are healthy", self.ready.clone());
        r.register("cluster_members_desired", "Members that are desired", self.desired.clone());
        r.register("cluster_available", "1 while a quorum of voters is healthy", self.available.clone());
        r.register_with_unit(
            "certificate_expiry_timestamp",
            "When the first of the members' certificates expires, in seconds since 1970, by trust domain",
            Unit::Seconds,
            self.expiry.clone(),
        );
        r.register_with_unit(
            "operator_certificate_expiry_timestamp",
            "When the operator's own client certificate for the cluster expires, in seconds since 1970",
            Unit::Seconds,
            self.operator_expiry.clone(),
        );
        r.register_with_unit(
            "user_certificate_expiry_timestamp",
            "When the certificate of an EtcdUser expires, in seconds since 1970",
            Unit::Seconds,
            self.user_expiry.clone(),
        );
        r.register(
            "certificates_ready",
            "1 while every member presents its desired certificates",
            self.certificates_ready.clone(),
        );
        r.register_with_unit(
            "authority_expiry_timestamp",
            "When a CA expires, in seconds since 1970, by trust domain and role: active or next",
            Unit::Seconds,
            self.authorities.clone(),
        );
        r.register(
            "rotation_phase",
            "1 for the current phase of a CA rotation that was requested or that a change of the issuer started; no series while there is none",
            self.rotation.clone(),
        );
        r.register("kubernetes_requests", "Requests to the Kubernetes API, by method; a watch is one GET", self.requests.clone());
        r.register("steps", "Steps taken, by name: changes that cannot be undone or that affect the quorum", self.steps.clone());
        r.register("leaves_issued", "Certificates issued, by use: server, peer, member, operator or user", self.leaves.clone());
    }

    /// All metrics in the `OpenMetrics` text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only if a value cannot be encoded, and all values are numbers.
        if let Err(error) = text::encode(&mut text, &self.registry) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        text
    }

    /// Counts a pass over an object of `kind`; `outcome` is `ok`, `error` or `panic`.
    pub fn reconciled(&self, kind: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ReconcileLabels { kind, outcome }).inc();
        self.reconcile_seconds.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// Records whether this process is the leader.
    pub fn leading(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Records whether the objects of a namespace can be read. If all namespaces are watched, its name is empty.
    pub fn namespace_read(&self, namespace: &str, is_read: bool) {
        self.namespaces.get_or_create(&NamespaceLabels { namespace: namespace.into() }).set(is_read.into());
    }

    /// Records the state of a cluster.
    pub fn cluster(&self, namespace: &str, name: &str, state: ClusterState) {
        let labels = ClusterLabels { namespace: namespace.into(), name: name.into() };
        self.ready.get_or_create(&labels).set(state.ready.into());
        self.desired.get_or_create(&labels).set(state.desired.into());
        self.available.get_or_create(&labels).set(state.available.into());
        self.certificates_ready.get_or_create(&labels).set(state.certificates_ready.into());
        set(&self.operator_expiry, &labels, state.operator_expiry.map(Timestamp::as_second));
        for (domain, state) in state.domains.iter() {
            self.domain(namespace, name, domain, *state);
        }
    }

    /// A time that is not known has no series, because alerts compare it with the current time.
    fn domain(&self, namespace: &str, name: &str, domain: Domain, state: DomainState) {
        let domain = domain.as_str();
        let at = || (namespace.to_owned(), name.to_owned());
        let (namespace, name) = at();
        set(&self.expiry, &DomainLabels { namespace, name, domain }, state.expiry.map(Timestamp::as_second));
        for (index, role) in ROLES.into_iter().enumerate() {
            let expiry = state.authorities.map(|expiries| expiries[index]);
            let (namespace, name) = at();
            set(&self.authorities, &AuthorityLabels { namespace, name, domain, role }, expiry.map(Timestamp::as_second));
        }
        for phase in Phase::ALL {
            let (namespace, name) = at();
            let labels = PhaseLabels { namespace, name, domain, phase: phase.as_str() };
            set(&self.rotation, &labels, (state.phase == Some(phase)).then_some(1));
        }
    }

    /// Removes a cluster that no longer exists.
    pub fn forget_cluster(&self, namespace: &str, name: &str) {
        let labels = ClusterLabels { namespace: namespace.into(), name: name.into() };
        for family in [&self.ready, &self.desired, &self.available, &self.certificates_ready, &self.operator_expiry] {
            family.remove(&labels);
        }
        for domain in Domain::ALL {
            self.domain(namespace, name, domain, DomainState::default());
        }
    }

    /// Records when the certificate of a user expires, if it has one. A user that no longer exists has none.
    pub fn user(&self, namespace: &str, user: &str, expiry: Option<Timestamp>) {
        let labels = UserLabels { namespace: namespace.into(), user: user.into() };
        set(&self.user_expiry, &labels, expiry.map(Timestamp::as_second));
    }

    /// Counts a request to the Kubernetes API.
    pub fn requested(&self, method: &Method) {
        let method = match *method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "other",
        };
        self.requests.get_or_create(&MethodLabels { method }).inc();
    }

    /// Counts a step, by its name.
    pub fn step(&self, step: &'static str) {
        self.steps.get_or_create(&StepLabels { step }).inc();
    }

    /// Counts a certificate, by its use: `server`, `peer`, `member`, `operator` or `user`.
    pub fn leaf_issued(&self, kind: &'static str) {
        self.leaves.get_or_create(&KindLabels { kind }).inc();
    }
}

/// Sets a series, or removes it.
fn set<L: Clone + Eq + std::hash::Hash>(family: &Family<L, Gauge>, labels: &L, value: Option<i64>) {
    match value {
        Some(value) => {
            family.get_or_create(labels).set(value);
        }
        None => {
            family.remove(labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(metrics: &Metrics) -> Vec<String> {
        metrics.encode().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn work_is_counted_with_bounded_labels() {
        let metrics = Metrics::new();
        metrics.reconciled("EtcdCluster", "ok", Duration::from_millis(30));
        metrics.reconciled("EtcdCluster", "ok", Duration::from_millis(30));
        metrics.requested(&Method::PATCH);
        metrics.step("RecordMembers");
        metrics.leaf_issued("server");
        metrics.leading(true);
        metrics.namespace_read("a", false);
        let series = series(&metrics);
        for line in [
            r#"etcd_warden_reconciles_total{kind="EtcdCluster",outcome="ok"} 2"#,
            r#"etcd_warden_reconcile_duration_seconds_count{kind="EtcdCluster"} 2"#,
            r#"etcd_warden_kubernetes_requests_total{method="PATCH"} 1"#,
            r#"etcd_warden_steps_total{step="RecordMembers"} 1"#,
            r#"etcd_warden_leaves_issued_total{kind="server"} 1"#,
            "etcd_warden_leader 1",
            r#"etcd_warden_namespace_read{namespace="a"} 0"#,
        ] {
            assert!(series.iter().any(|s| s == line), "{line} is not in {series:#?}");
        }
        assert!(series.iter().all(|s| s.starts_with("etcd_warden_")));
    }

    #[test]
    fn a_deleted_cluster_has_no_series() {
        let metrics = Metrics::new();
        let empty = series(&metrics);
        let expiry = Some(Timestamp::from_second(1_800_000_000).unwrap());
        let domain = DomainState { expiry, authorities: expiry.map(|expiry| [expiry; 2]), phase: Some(Phase::Dropping) };
        let state = ClusterState {
            ready: 2,
            desired: 3,
            available: true,
            certificates_ready: true,
            operator_expiry: expiry,
            domains: PerDomain { client: domain, peer: domain },
        };
        metrics.cluster("ns", "demo", state);
        let now = series(&metrics);
        for line in [
            r#"etcd_warden_cluster_members_ready{namespace="ns",name="demo"} 2"#,
            r#"etcd_warden_cluster_members_desired{namespace="ns",name="demo"} 3"#,
            r#"etcd_warden_cluster_available{namespace="ns",name="demo"} 1"#,
            r#"etcd_warden_certificates_ready{namespace="ns",name="demo"} 1"#,
            r#"etcd_warden_certificate_expiry_timestamp_seconds{namespace="ns",name="demo",domain="peer"} 1800000000"#,
            r#"etcd_warden_operator_certificate_expiry_timestamp_seconds{namespace="ns",name="demo"} 1800000000"#,
            r#"etcd_warden_authority_expiry_timestamp_seconds{namespace="ns",name="demo",domain="client",role="next"} 1800000000"#,
            r#"etcd_warden_rotation_phase{namespace="ns",name="demo",domain="peer",phase="Dropping"} 1"#,
        ] {
            assert!(now.iter().any(|s| s == line), "{line} is not in {now:#?}");
        }
        metrics.cluster(
            "ns",
            "demo",
            ClusterState { domains: PerDomain { client: DomainState::default(), peer: domain }, ..state },
        );
        assert!(!metrics.encode().contains(r#"domain="client""#));
        metrics.forget_cluster("ns", "demo");
        assert_eq!(series(&metrics), empty);
    }

    #[test]
    fn a_deleted_user_has_no_series() {
        let metrics = Metrics::new();
        let empty = series(&metrics);
        metrics.user("ns", "app", Some(Timestamp::from_second(1_800_000_000).unwrap()));
        let line = r#"etcd_warden_user_certificate_expiry_timestamp_seconds{namespace="ns",user="app"} 1800000000"#;
        assert!(series(&metrics).iter().any(|s| s == line), "{:#?}", series(&metrics));
        metrics.user("ns", "app", None);
        assert_eq!(series(&metrics), empty);
    }
}
