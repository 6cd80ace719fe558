use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, EtcdClusterStatus, TlsSpec, duration::duration_rule};

/// The longest name of an `EtcdCluster`. The pods of a StatefulSet carry its name and a hash of up to eleven characters in
/// a label, which has 63 at most, and the StatefulSet's name is the cluster's with `-` and an ordinal of up to two digits.
pub const MAX_NAME_LENGTH: usize = 49;

/// A secured etcd cluster. The operator issues every certificate from authorities of its own, starts the members with TLS on
/// every port that clients and peers use, and keeps them as this object says.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "etcd-warden.dev",
    version = "v1alpha1",
    kind = "EtcdCluster",
    plural = "etcdclusters",
    shortname = "etcd",
    category = "all",
    category = "etcd-warden",
    namespaced,
    derive = "PartialEq",
    status = "EtcdClusterStatus",
    scale = r#"{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas","labelSelectorPath":".status.selector"}"#,
    doc = "A secured etcd cluster. The operator issues every certificate from authorities of its own, starts the members with TLS on every port that clients and peers use, and keeps them as this object says.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.ready","description":"Healthy members of the desired ones"}"#,
    printcolumn = r#"{"name":"Available","type":"string","jsonPath":".status.conditions[?(@.type==\"Available\")].status","description":"Whether a quorum is healthy"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.conditions[?(@.type==\"Progressing\")].reason","description":"What is in progress or pending"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
    printcolumn = r#"{"name":"Certs","type":"string","jsonPath":".status.certificates.expires","description":"When the first certificate expires, if it were not renewed"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Available\")].reason"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Available\")].message"}"#,
    validation = Rule::new("self.metadata.name.size() <= 49").message("metadata.name is too long for the objects made from it: 49 characters at most"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes a Service's name: it must begin with a letter and hold only lower case letters, digits and -")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.version == oldSelf.version").message("spec.version cannot be changed yet"),
    validation = Rule::new("self.storage == oldSelf.storage").message("spec.storage cannot be changed yet"),
    validation = Rule::new("self.etcd == oldSelf.etcd").message("spec.etcd cannot be changed yet"),
    validation = Rule::new("self.pod == oldSelf.pod").message("spec.pod cannot be changed yet"),
    validation = Rule::new("self.service == oldSelf.service").message("spec.service cannot be changed yet"),
    validation = Rule::new("self.tls.minVersion == oldSelf.tls.minVersion").message("spec.tls.minVersion cannot be changed yet"),
    validation = Rule::new("self.tls.client.authority == oldSelf.tls.client.authority").message("spec.tls.client.authority cannot be changed yet"),
    validation = Rule::new("self.tls.peer.authority == oldSelf.tls.peer.authority").message("spec.tls.peer.authority cannot be changed yet"),
    validation = Rule::new("has(self.image.tag) == has(oldSelf.image.tag) && (!has(self.image.tag) || self.image.tag == oldSelf.image.tag)").message("spec.image.tag cannot be changed yet: it decides the version that runs"),
    validation = Rule::new("has(self.image.digest) == has(oldSelf.image.digest) && (!has(self.image.digest) || self.image.digest == oldSelf.image.digest)").message("spec.image.digest cannot be changed yet: it decides the version that runs")
)]
pub struct EtcdClusterSpec {
    /// The number of members, 1 to 9. A cluster of 3 goes on without one of them, of 5 without two, of 7 without three; one of 1
    /// is down whenever its pod is. An even number survives no more failures than one less, and a status says so. A change adds
    /// or removes one member at a time.
    #[serde(default = "default_replicas")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 9").message("must be 1 to 9"))]
    pub replicas: i32,
    /// The version of etcd, such as 3.6.16, without a `v`: 3.5.32 or newer, of 3.5, 3.6 or 3.7. It decides the flags that
    /// members are started with, and the image's tag unless `image.tag` says otherwise. It cannot be changed yet.
    #[serde(default = "default_version")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("!self.startsWith('v')").message("write the version without the v, like 3.6.16"))]
    #[x_kube(validation = Rule::new("self.startsWith('v') || self.matches('^(0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})$')").message("must be a version of three numbers, like 3.6.16"))]
    #[x_kube(validation = Rule::new("!self.matches('^(0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})$') || self.matches('^3[.]([67][.][0-9]+|5[.](3[2-9]|[4-9][0-9]|[0-9]{3,4}))$')").message("is not supported: 3.5.32 or newer, of 3.5, 3.6 or 3.7"))]
    pub version: String,
    /// Where each member keeps its data. It cannot be changed yet.
    #[serde(default)]
    pub storage: StorageSpec,
    /// Where etcd's image comes from.
    #[serde(default)]
    pub image: ImageSpec,
    /// The certificates. Every port that clients and peers use has TLS with certificates on both sides; there is no plaintext
    /// mode.
    #[serde(default)]
    pub tls: TlsSpec,
    /// etcd's own settings. They cannot be changed yet.
    #[serde(default)]
    pub etcd: EtcdSpec,
    /// The members' pods. It cannot be changed yet.
    #[serde(default)]
    pub pod: PodSpec,
    /// The Service for clients. It cannot be changed yet.
    #[serde(default)]
    pub service: ServiceSpec,
    /// When a member that does not come back by itself is replaced.
    #[serde(default)]
    pub repair: RepairSpec,
    /// While true the operator changes nothing of this cluster, certificates included; it goes on reporting its state.
    #[serde(default)]
    pub paused: bool,
}

/// Where a member keeps its data: a PersistentVolumeClaim for each.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// The size of each member's volume. It should be at least twice `etcd.quotaBackendSize`.
    #[serde(default = "default_storage_size")]
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = positive_quantity())]
    pub size: Quantity,
    /// The StorageClass; the cluster's default class when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What becomes of the volumes and of the authorities' keys when the `EtcdCluster` is deleted.
    #[serde(default)]
    pub retention: Retention,
}

fn positive_quantity() -> Rule {
    Rule::new("isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))")
        .message("must be a quantity above 0, such as 8Gi")
}

/// What becomes of data when its cluster is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retention {
    /// The claims and the authorities' Secrets stay.
    #[default]
    Retain,
    /// The claims and the authorities' Secrets are deleted with the cluster.
    Delete,
}

/// Where etcd's image comes from. A change takes effect at each member's next start, at once for a member that has not been
/// able to start.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// The repository.
    #[serde(default = "default_repository")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^([-A-Za-z0-9._:\\\\[\\\\]]+/)?[a-z0-9]([-a-z0-9._/]*[a-z0-9])?$')").message("must be a repository without tag or digest, such as registry.example.com/etcd"))]
    pub repository: String,
    /// The tag; `v` and the version when it is not given. It must be the image of `version`. It cannot be changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][-A-Za-z0-9_.]*$')").message("must be an image's tag, such as v3.6.16"))]
    pub tag: Option<String>,
    /// A digest such as `sha256:...`, which the image then must have. It cannot be changed yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("must be sha256: and 64 hexadecimal digits"))]
    pub digest: Option<String>,
    /// When the image is pulled.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Secrets in the cluster's namespace with credentials for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub pull_secrets: Vec<LocalObjectReference>,
}

/// When an image is pulled.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// When the node does not have it.
    #[default]
    IfNotPresent,
    /// At every start.
    Always,
    /// Never.
    Never,
}

/// etcd's own settings; each is described in etcd's documentation under the flag that is named here.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = duration_rule(&["self.electionTimeout", "self.heartbeatInterval"], "duration(self.electionTimeout).getMilliseconds() >= 5 * duration(self.heartbeatInterval).getMilliseconds()").message("electionTimeout must be at least five times heartbeatInterval"))]
pub struct EtcdSpec {
    /// How often a leader tells its followers that it is there (`--heartbeat-interval`): about the round trip between members.
    #[serde(default = "default_heartbeat_interval")]
    #[x_kube(validation = duration_rule(&["self"], "duration(self) >= duration('10ms')").message("must be at least 10ms"))]
    pub heartbeat_interval: Duration,
    /// How long a follower waits for the leader before it calls an election (`--election-timeout`): at least five heartbeats
    /// and at most 50s.
    #[serde(default = "default_election_timeout")]
    #[x_kube(validation = duration_rule(&["self"], "duration(self) <= duration('50s')").message("must be at most 50s, etcd's own limit"))]
    pub election_timeout: Duration,
    /// How large the database may grow before etcd refuses writes (`--quota-backend-bytes`).
    #[serde(default = "default_quota")]
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = positive_quantity())]
    pub quota_backend_size: Quantity,
    /// How history is removed (`--auto-compaction-mode`, `--auto-compaction-retention`).
    #[serde(default)]
    pub auto_compaction: AutoCompaction,
    /// Further flags for etcd, without the dashes in front: `{"max-txn-ops": "512"}`. Flags that the operator sets itself, or that
    /// would endanger the data, are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[a-z][a-z0-9-]{0,63}$'))").message("each must be the name of a flag without the dashes in front, such as max-txn-ops"))]
    #[x_kube(validation = not_reserved())]
    pub extra_args: BTreeMap<String, String>,
}

/// Beginnings of the flags that are the operator's own. Beginnings and not names: whatever begins like this is about addresses,
/// certificates, identity or data in any of the versions, and one that a newer patch adds is as dangerous.
pub const RESERVED_FLAGS: [&str; 37] = [
    "name",
    "data-dir",
    "wal-dir",
    "config-file",
    "initial",
    "listen",
    "advertise",
    "discovery",
    "peer",
    "client",
    "cert",
    "key",
    "trusted",
    "auto-tls",
    "tls",
    "self-signed",
    "cipher",
    "force",
    "unsafe",
    "experimental-peer",
    "strict",
    "heartbeat",
    "election",
    "quota-backend",
    "auto-compaction",
    "auth",
    "proxy",
    "version",
    "help",
    "max-learners",
    "bcrypt",
    "raft-read",
    "snapshot-count",
    "host-whitelist",
    "enable-v2",
    "downgrade",
    "next-cluster",
];

fn not_reserved() -> Rule {
    // The API server bounds the cost of messages too, by too little for naming the flag.
    Rule::new(format!("self.all(k, !k.matches('^({})'))", RESERVED_FLAGS.join("|"))).message("a flag is reserved: those for names, addresses, certificates, storage, membership, heartbeat, election, quota and compaction are the operator's own or have a field of their own")
}

/// How etcd removes history.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.retention == '0' || (self.mode == 'Periodic' ? self.retention.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') : self.retention.matches('^[0-9]{1,18}$'))").message("retention must be a duration such as 5m where mode is Periodic, and a number of revisions such as 10000 where it is Revision; 0 keeps everything"))]
pub struct AutoCompaction {
    /// Whether history is kept for a time or for a number of revisions.
    #[serde(default)]
    pub mode: CompactionMode,
    /// How much history is kept: a duration such as `5m` or a number of revisions such as `10000`; `0` keeps everything.
    #[serde(default = "default_compaction_retention")]
    #[schemars(length(min = 1, max = 32))]
    pub retention: String,
}

/// What etcd's history is measured in.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompactionMode {
    /// Time.
    #[default]
    Periodic,
    /// Revisions.
    Revision,
}

/// The members' pods. Whatever is set here, they run as a user without privileges, with a read-only root file system and
/// without a service account's token, as the `restricted` Pod Security Standard asks.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Processor and memory of the etcd container.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// Where pods may run. When it is not given, members of one cluster prefer different nodes and zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How pods are spread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Further labels. Those of the operator (`app.kubernetes.io/name`, `/instance`, `/managed-by` and `etcd-warden.dev/*`) win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Further annotations. Those of the operator (`etcd-warden.dev/*`) win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The Service for clients, which has the cluster's name and port 2379.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// How the Service is reached. Names and addresses under which clients outside reach it belong in
    /// `tls.client.extraSANs`.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// When a member is replaced by a new one under its name, which copies all data from the others. It takes evidence
/// that the member cannot come back, as its data is deleted with it; that a pod is slow, or cannot be scheduled, is none. However
/// long these are, a member is replaced only while the others that serve are a quorum without it, one at a time. A claim or a volume
/// that is lost needs no time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairSpec {
    /// How long a member must have been down, its container ending again and again though another member serves with the same
    /// settings: what is left to be at fault is its data. It should be longer than a full disk or a short outage of the volume's
    /// storage lasts, as those end a container too.
    #[serde(default = "default_crash_loop")]
    #[x_kube(validation = repair_time())]
    pub crash_loop: Duration,
    /// How long a member must have been down whose volume is on a node that is gone: the Node was deleted, or has the taint
    /// `node.kubernetes.io/out-of-service`. Both are said by someone who knows that the node will not be back, so this only
    /// leaves a moment to take a mistake back.
    #[serde(default = "default_lost_node")]
    #[x_kube(validation = repair_time())]
    pub lost_node: Duration,
    /// How long a member that someone else added may stay without ever starting, before it is removed again: as a voter it
    /// counts against the quorum, as a learner it keeps others from being added. One that has started is never removed.
    #[serde(default = "default_unstarted")]
    #[x_kube(validation = repair_time())]
    pub unstarted: Duration,
}

fn repair_time() -> Rule {
    duration_rule(&["self"], "duration(self) >= duration('10s')").message("must be at least 10s")
}

/// How a Service is reached.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// From within Kubernetes.
    #[default]
    ClusterIP,
    /// Also through a port of every node.
    NodePort,
    /// Also through a load balancer.
    LoadBalancer,
}

fn default_replicas() -> i32 {
    3
}
fn default_version() -> String {
    "3.6.16".into()
}
fn default_storage_size() -> Quantity {
    Quantity("8Gi".into())
}
fn default_repository() -> String {
    "gcr.io/etcd-development/etcd".into()
}
fn default_heartbeat_interval() -> Duration {
    Duration("100ms".into())
}
fn default_election_timeout() -> Duration {
    Duration("1s".into())
}
fn default_quota() -> Quantity {
    Quantity("2Gi".into())
}
fn default_crash_loop() -> Duration {
    Duration("10m".into())
}
fn default_lost_node() -> Duration {
    Duration("1m".into())
}
fn default_unstarted() -> Duration {
    Duration("10m".into())
}
fn default_compaction_retention() -> String {
    "5m".into()
}

impl Default for EtcdClusterSpec {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            version: default_version(),
            storage: StorageSpec::default(),
            image: ImageSpec::default(),
            tls: TlsSpec::default(),
            etcd: EtcdSpec::default(),
            pod: PodSpec::default(),
            service: ServiceSpec::default(),
            repair: RepairSpec::default(),
            paused: false,
        }
    }
}
impl Default for StorageSpec {
    fn default() -> Self {
        Self { size: default_storage_size(), storage_class_name: None, retention: Retention::default() }
    }
}
impl Default for ImageSpec {
    fn default() -> Self {
        Self {
            repository: default_repository(),
            tag: None,
            digest: None,
            pull_policy: PullPolicy::default(),
            pull_secrets: vec![],
        }
    }
}
impl Default for EtcdSpec {
    fn default() -> Self {
        Self {
            heartbeat_interval: default_heartbeat_interval(),
            election_timeout: default_election_timeout(),
            quota_backend_size: default_quota(),
            auto_compaction: AutoCompaction::default(),
            extra_args: BTreeMap::new(),
        }
    }
}
impl Default for RepairSpec {
    fn default() -> Self {
        Self { crash_loop: default_crash_loop(), lost_node: default_lost_node(), unstarted: default_unstarted() }
    }
}
impl Default for AutoCompaction {
    fn default() -> Self {
        Self { mode: CompactionMode::default(), retention: default_compaction_retention() }
    }
}
