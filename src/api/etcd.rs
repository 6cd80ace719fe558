//! Settings of etcd itself.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{KubeSchema, core::Rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Duration,
    duration::duration_rule,
    quantity::{at_least, positive_quantity},
};

/// Settings of etcd itself. Each is described in etcd's documentation under the flag that is named here.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = set_once())]
#[x_kube(validation = duration_rule(&["self.electionTimeout", "self.heartbeatInterval"], "duration(self.electionTimeout).getMilliseconds() >= 5 * duration(self.heartbeatInterval).getMilliseconds()").message("electionTimeout must be at least five times heartbeatInterval"))]
pub struct EtcdSpec {
    /// How often the leader sends heartbeats to its followers (`--heartbeat-interval`). It should be about the round-trip time
    /// between members.
    #[serde(default = "default_heartbeat_interval")]
    #[x_kube(validation = duration_rule(&["self"], "duration(self) >= duration('10ms')").message("must be at least 10ms"))]
    pub heartbeat_interval: Duration,
    /// How long a follower waits for a heartbeat before it starts an election (`--election-timeout`): at least five times
    /// `heartbeatInterval` and at most 50s.
    #[serde(default = "default_election_timeout")]
    #[x_kube(validation = duration_rule(&["self"], "duration(self) <= duration('50s')").message("must be at most 50s, etcd's own limit"))]
    pub election_timeout: Duration,
    /// The size of the database at which etcd refuses writes (`--quota-backend-bytes`), at least 16Mi. etcd suggests at most 8Gi, and
    /// logs a warning above: a member with more data takes long to start and to be copied.
    #[serde(default = "default_quota")]
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = positive_quantity())]
    #[x_kube(validation = at_least(LEAST_QUOTA))]
    pub quota_backend_size: Quantity,
    /// The automatic compaction of the history of keys (`--auto-compaction-mode`, `--auto-compaction-retention`).
    #[serde(default)]
    pub auto_compaction: AutoCompaction,
    /// The least level of what etcd logs (`--log-level`). `debug` also makes etcd serve its profiles on port 2379, below `/debug/pprof`.
    #[serde(default)]
    pub log_level: LogLevel,
    /// Feature gates of etcd (`--feature-gates`), by their names: `{"CompactHashCheck": true}`. etcd 3.5 has none. Gates that a version
    /// does not have are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = known_gates())]
    #[x_kube(validation = Rule::new("!('LeaseCheckpointPersist' in self) || !self['LeaseCheckpointPersist'] || 'LeaseCheckpoint' in self && self['LeaseCheckpoint']").message("LeaseCheckpointPersist needs LeaseCheckpoint"))]
    pub feature_gates: BTreeMap<String, bool>,
    /// Additional flags of etcd, without the leading dashes: `{"max-txn-ops": "512"}`. Flags that the operator sets itself and
    /// flags that would endanger the data are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[a-z][a-z0-9-]{0,63}$'))").message("each must be the name of a flag without the dashes in front, such as max-txn-ops"))]
    #[x_kube(validation = not_reserved())]
    pub extra_args: BTreeMap<String, String>,
}

/// The smallest `quotaBackendSize`. etcd takes less, but is full after a few large requests (`max-request-bytes` is 1.5 MiB).
pub const LEAST_QUOTA: &str = "16Mi";

/// The least level of what etcd logs.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    #[default]
    Info,
    /// What may need attention.
    Warn,
    /// What failed.
    Error,
    /// Only what ends etcd with a panic.
    Panic,
    /// Only what ends etcd.
    Fatal,
}

impl LogLevel {
    /// As etcd calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Fatal => "fatal",
        }
    }
}

/// A feature gate of etcd.
#[derive(Clone, Copy, Debug)]
pub struct FeatureGate {
    /// Its name.
    pub name: &'static str,
    /// The first minor version of etcd 3 that has it.
    pub since: u32,
    /// The experimental flag that it replaces. etcd refuses to start with both.
    pub flag: Option<&'static str>,
}

const fn gate(name: &'static str, since: u32, flag: Option<&'static str>) -> FeatureGate {
    FeatureGate { name, since, flag }
}

/// The feature gates of all supported versions (etcd `server/features/etcd_features.go`). Those that set several at once are left out.
pub const FEATURE_GATES: [FeatureGate; 9] = [
    gate("CompactHashCheck", 6, Some("experimental-compact-hash-check-enabled")),
    gate("FastLeaseKeepAlive", 7, None),
    gate("InitialCorruptCheck", 6, Some("experimental-initial-corrupt-check")),
    gate("LeaseCheckpoint", 6, Some("experimental-enable-lease-checkpoint")),
    gate("LeaseCheckpointPersist", 6, Some("experimental-enable-lease-checkpoint-persist")),
    gate("PriorityRequest", 7, None),
    gate("SetMemberLocalAddr", 6, None),
    gate("StopGRPCServiceOnDefrag", 6, Some("experimental-stop-grpc-service-on-defrag")),
    gate("TxnModeWriteWithSharedBuffer", 6, Some("experimental-txn-mode-write-with-shared-buffer")),
];

/// The names of the feature gates that this minor version of etcd 3 is the first to have, and of newer ones.
fn gates_since(minor: u32) -> impl Iterator<Item = &'static str> {
    FEATURE_GATES.iter().filter(move |gate| gate.since >= minor).map(|gate| gate.name)
}

fn known_gates() -> Rule {
    let names: Vec<_> = gates_since(0).collect();
    Rule::new(format!("self.all(k, k in ['{}'])", names.join("', '")))
        .message(&*format!("each must be a feature gate of etcd: {}", names.join(", ")))
}

/// A rule about the whole spec: gates that etcd 3.6 does not have are refused with it.
pub(super) fn gates_of_3_6() -> Rule {
    let newer: Vec<_> = gates_since(7).collect();
    Rule::new(format!(
        "!self.version.startsWith('3.6.') || !has(self.etcd.featureGates) || !self.etcd.featureGates.exists(k, k in ['{}'])",
        newer.join("', '")
    ))
    .message(&*format!("spec.etcd.featureGates: etcd 3.6 does not have {}", newer.join(" and ")))
}

/// etcd refuses to start with both a feature gate and the flag that it replaces.
fn set_once() -> Rule {
    let flags = FEATURE_GATES.iter().filter_map(|gate| Some((gate.name, gate.flag?)));
    let both: Vec<_> = flags.map(|(name, flag)| format!("'{name}' in self.featureGates && '{flag}' in self.extraArgs")).collect();
    Rule::new(format!("!has(self.featureGates) || !has(self.extraArgs) || !({})", both.join(" || ")))
        .message("a feature gate and the experimental flag that it replaces are set: remove the flag from extraArgs")
}

/// Flags that users may not set.
#[derive(Clone, Copy, Debug)]
pub struct ReservedFlag {
    /// What their names begin with. In every supported version all flags with this prefix are meant, and a flag that a newer patch
    /// release adds is as dangerous.
    pub prefix: &'static str,
    /// Why, or what to set instead.
    pub why: &'static str,
}

const fn reserved(prefix: &'static str, why: &'static str) -> ReservedFlag {
    ReservedFlag { prefix, why }
}

const OWN_CERTIFICATES: &str = "the operator issues all certificates; see spec.tls";
const OWN_ADDRESSES: &str = "the operator sets all addresses";
const OWN_START: &str = "the operator decides how members start";
const NO_AUTHENTICATION: &str = "etcd's users and roles are not managed yet";

/// The flags that etcd 3.6 has, 3.5 has not, and that are not reserved. Their names in 3.5 begin with `experimental-`, which 3.6 still accepts
/// and 3.7 does not (`etcd --help` of 3.5.35, 3.6.16 and 3.7.3).
pub const FLAGS_OF_3_6: [&str; 18] = [
    "bootstrap-defrag-threshold-megabytes",
    "compact-hash-check-time",
    "compaction-batch-limit",
    "compaction-sleep-interval",
    "corrupt-check-time",
    "distributed-tracing-address",
    "distributed-tracing-instance-id",
    "distributed-tracing-sampling-rate",
    "distributed-tracing-service-name",
    "downgrade-check-time",
    "enable-distributed-tracing",
    "log-format",
    "max-learners",
    "memory-mlock",
    "snapshot-catchup-entries",
    "warning-apply-duration",
    "warning-unary-request-duration",
    "watch-progress-notify-interval",
];

/// All reserved flags. The first one that fits a flag has its reason.
pub const RESERVED_FLAGS: [ReservedFlag; 44] = [
    reserved("name", "the operator names the members"),
    reserved("data-dir", "the data is on the member's volume"),
    reserved("wal-dir", "the data is on the member's volume"),
    reserved("config-file", "with it etcd ignores all other flags"),
    reserved("initial", OWN_START),
    reserved("listen", OWN_ADDRESSES),
    reserved("advertise", OWN_ADDRESSES),
    reserved("discovery", OWN_START),
    reserved("peer", OWN_CERTIFICATES),
    reserved("client-cert-auth", "set spec.tls.client.clientAuth"),
    reserved("client", OWN_CERTIFICATES),
    reserved("cert", OWN_CERTIFICATES),
    reserved("key", OWN_CERTIFICATES),
    reserved("trusted", OWN_CERTIFICATES),
    reserved("auto-tls", OWN_CERTIFICATES),
    reserved("tls-min-version", "set spec.tls.minVersion"),
    reserved("tls", "members accept the newest version of TLS; set spec.tls.minVersion for the oldest"),
    reserved("self-signed", OWN_CERTIFICATES),
    reserved("cipher", "set spec.tls.cipherSuites"),
    reserved("force", "it makes a member forget the others; for a lost quorum see annotation etcd-warden.dev/recover-from"),
    reserved("unsafe", "it can lose data"),
    reserved("experimental-peer", OWN_CERTIFICATES),
    reserved("strict", "without the check a change of the members can lose the quorum"),
    reserved("heartbeat", "set spec.etcd.heartbeatInterval"),
    reserved("election", "set spec.etcd.electionTimeout"),
    reserved("quota-backend", "set spec.etcd.quotaBackendSize"),
    reserved("auto-compaction-mode", "set spec.etcd.autoCompaction.mode"),
    reserved("auto-compaction", "set spec.etcd.autoCompaction.retention"),
    reserved("log-level", "set spec.etcd.logLevel"),
    reserved("feature-gates", "set spec.etcd.featureGates"),
    reserved("auth", NO_AUTHENTICATION),
    reserved("bcrypt", NO_AUTHENTICATION),
    reserved("proxy", "a proxy is no member"),
    reserved("version", "with it etcd only prints its version"),
    reserved("help", "with it etcd only prints its flags"),
    reserved("max-learners", "the operator adds one learner at a time"),
    reserved("raft-read", "shorter timeouts interrupt the connections between members"),
    reserved("raft-write", "shorter timeouts interrupt the connections between members"),
    reserved("snapshot-count", "the operator relies on etcd's own value when a member catches up"),
    reserved("host-whitelist", "it would lock out clients of names that it does not list"),
    reserved("enable-v2", "the v2 API bypasses revisions and backups"),
    reserved("experimental-enable-v2", "the v2 API bypasses revisions and backups"),
    reserved("downgrade", "the operator changes versions"),
    reserved("next-cluster", "the operator changes versions"),
];

fn not_reserved() -> Rule {
    // The API server limits the cost of message expressions, so the message cannot name the flag.
    let prefixes: Vec<_> = RESERVED_FLAGS.iter().map(|flag| flag.prefix).collect();
    Rule::new(format!("self.all(k, !k.matches('^({})'))", prefixes.join("|"))).message("a flag is reserved: those for names, addresses, certificates, storage, membership, heartbeat, election, quota, compaction, log level and feature gates are the operator's own or have a field of their own")
}

/// The automatic compaction of the history of keys.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.retention == '0' || (self.mode == 'Periodic' ? self.retention.matches('^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$') : self.retention.matches('^[0-9]{1,18}$'))").message("retention must be a duration such as 5m where mode is Periodic, and a number of revisions such as 10000 where it is Revision; 0 keeps everything"))]
pub struct AutoCompaction {
    /// Whether `retention` is a duration (`Periodic`) or a number of revisions (`Revision`).
    #[serde(default)]
    pub mode: CompactionMode,
    /// How much history is kept: a duration such as `5m` or a number of revisions such as `10000`; `0` keeps everything.
    #[serde(default = "default_compaction_retention")]
    #[schemars(length(min = 1, max = 32))]
    pub retention: String,
}

/// The unit of `retention`.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CompactionMode {
    /// A duration.
    #[default]
    Periodic,
    /// A number of revisions.
    Revision,
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
fn default_compaction_retention() -> String {
    "5m".into()
}

impl Default for EtcdSpec {
    fn default() -> Self {
        Self {
            heartbeat_interval: default_heartbeat_interval(),
            election_timeout: default_election_timeout(),
            quota_backend_size: default_quota(),
            auto_compaction: AutoCompaction::default(),
            log_level: LogLevel::default(),
            feature_gates: BTreeMap::new(),
            extra_args: BTreeMap::new(),
        }
    }
}
impl Default for AutoCompaction {
    fn default() -> Self {
        Self { mode: CompactionMode::default(), retention: default_compaction_retention() }
    }
}
