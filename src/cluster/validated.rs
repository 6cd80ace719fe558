//! A cluster whose spec has been validated: names and values have types of their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::SignedDuration;
use k8s_openapi::{api::core::v1::PodTemplateSpec, apimachinery::pkg::apis::meta::v1::OwnerReference};

use crate::{
    api::{
        AutoCompaction, CipherSuite, ClientAuth, LogLevel, PodSpec, PullPolicy, Retention, ServiceSpec, StorageSpec, TlsVersion,
    },
    certificates::{lifetimes::Lifetimes, transition::NewAuthority},
    cluster::{release::Release, requests::Requests, settings::Settings},
    ids::Uid,
    names::Names,
    pki::{Domain, Issuer, PerDomain},
};

/// A cluster whose spec is valid.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    /// The names of its objects.
    pub names: Names,
    /// The uid of the `EtcdCluster`.
    pub uid: Uid,
    /// The owner reference of objects that are deleted with the cluster.
    pub owner: OwnerReference,
    /// The desired number of members.
    pub replicas: u32,
    /// The etcd that members run.
    pub release: Release,
    /// The image pull policy.
    pub pull_policy: PullPolicy,
    /// The image pull secrets.
    pub pull_secrets: Vec<String>,
    /// The volumes.
    pub storage: StorageSpec,
    /// The minimum TLS version.
    pub min_tls: TlsVersion,
    /// The cipher suites of TLS 1.2; all if there are none.
    pub cipher_suites: Vec<CipherSuite>,
    /// Whether clients must present a certificate.
    pub client_auth: ClientAuth,
    /// How long certificates are valid.
    pub lifetimes: PerDomain<Lifetimes>,
    /// The issuer of each domain's certificates.
    pub issuers: PerDomain<Issuer>,
    /// Additional DNS names of the server certificates.
    pub extra_names: BTreeSet<String>,
    /// Additional IP addresses of the server certificates.
    pub extra_addresses: BTreeSet<IpAddr>,
    /// etcd's settings.
    pub etcd: EtcdSettings,
    /// The pods.
    pub pod: PodSpec,
    /// What the spec adds to the template of pods.
    pub template: PodTemplateSpec,
    /// The fields for which members are restarted.
    pub settings: Settings,
    /// The same as they are recorded on pods with this release.
    pub recorded: String,
    /// The Service for clients.
    pub service: ServiceSpec,
    /// When members that cannot recover are replaced.
    pub repair: Repair,
    /// Whether the cluster is paused: the operator changes nothing.
    pub paused: bool,
    /// What the user requests by annotations.
    pub requests: Requests,
}

impl ValidatedCluster {
    /// Whether claims and CA Secrets are retained when the cluster is deleted.
    pub fn retains(&self) -> bool {
        // Without the data the authorities are of no use.
        self.storage.retention == Retention::Retain && self.storage.empty_dir.is_none()
    }

    /// A built-in authority of this generation. Each has a different common name, so that verifiers cannot confuse them.
    pub fn built_in_authority(&self, domain: Domain, generation: u32) -> NewAuthority {
        NewAuthority::BuiltIn { common_name: self.authority_name(domain, generation), duration: self.lifetimes[domain].authority }
    }

    /// The common name of a built-in authority.
    pub fn authority_name(&self, domain: Domain, generation: u32) -> String {
        // A common name has at most 64 characters. The uid distinguishes the authorities of two clusters with the same name.
        let name: String = self.names.cluster().chars().take(40).collect();
        let uid: String = self.uid.as_str().chars().take(8).collect();
        format!("{name} {domain} {uid} {generation}")
    }
}

/// What a volume needs beside the database: the write-ahead log has five full files of 64 MB, one that is written and one that is prepared
/// (etcd `--max-wals`, `server/storage/wal`).
pub const WAL: i64 = 7 * (64 << 20);

/// How many bytes a volume in a pod needs for a quota.
pub fn needed_in_pod(quota: i64) -> i64 {
    quota.saturating_add(WAL)
}

/// How long a member must have been down before it is replaced because of evidence that it cannot recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Its container crashes repeatedly.
    pub crash_loop: SignedDuration,
    /// The node of its volume is gone.
    pub lost_node: SignedDuration,
    /// The operator did not add it, and it never started.
    pub unstarted: SignedDuration,
}

/// etcd's settings, in the units of its flags.
#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// Milliseconds.
    pub heartbeat_interval: i128,
    /// Milliseconds.
    pub election_timeout: i128,
    /// Bytes.
    pub quota: i64,
    /// Compaction.
    pub compaction: AutoCompaction,
    /// The least level of what is logged.
    pub log_level: LogLevel,
    /// Feature gates.
    pub feature_gates: BTreeMap<String, bool>,
    /// Additional flags.
    pub extra_args: BTreeMap<String, String>,
}
