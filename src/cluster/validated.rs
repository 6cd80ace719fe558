//! A cluster whose spec has been checked: names and values in their types.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::{
    api::{AutoCompaction, ClientAuth, PodSpec, PullPolicy, Retention, ServiceSpec, StorageSpec, TlsVersion},
    certificates::{lifetimes::Lifetimes, transition::NewAuthority},
    etcd::Version,
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
    /// The version of etcd.
    pub version: Version,
    /// The image, with tag or digest.
    pub image: String,
    /// When it is pulled.
    pub pull_policy: PullPolicy,
    /// The Secrets to pull it with.
    pub pull_secrets: Vec<String>,
    /// The volumes.
    pub storage: StorageSpec,
    /// The oldest accepted TLS version.
    pub min_tls: TlsVersion,
    /// Whether clients must present a certificate.
    pub client_auth: ClientAuth,
    /// How long certificates are valid.
    pub lifetimes: PerDomain<Lifetimes>,
    /// The issuer of each domain's certificates.
    pub issuers: PerDomain<Issuer>,
    /// Further DNS names of the server certificates.
    pub extra_names: BTreeSet<String>,
    /// Further addresses of the server certificates.
    pub extra_addresses: BTreeSet<IpAddr>,
    /// etcd's settings.
    pub etcd: EtcdSettings,
    /// The pods.
    pub pod: PodSpec,
    /// The Service for clients.
    pub service: ServiceSpec,
    /// When members that do not come back are replaced.
    pub repair: Repair,
    /// Whether nothing is changed.
    pub paused: bool,
    /// What the user requests by annotations.
    pub requests: Requests,
}

/// What the user of a cluster requests by annotations of the `EtcdCluster`.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Every pod that was created with another value is restarted.
    pub restarted_at: Option<String>,
    /// The name of the member to replace.
    pub replace: Option<String>,
    /// The name of the member to recover from, perhaps with `,force`.
    pub recover_from: Option<String>,
    /// The domains whose authorities are to be rotated.
    pub rotate: BTreeSet<Domain>,
    /// The words of that request that name no domain.
    pub rotate_unknown: Vec<String>,
}

impl ValidatedCluster {
    /// Whether claims and authorities outlive the cluster.
    pub fn retains(&self) -> bool {
        self.storage.retention == Retention::Retain
    }

    /// A built-in authority of this generation. Each has a different common name, so that no verifier takes one for another.
    pub fn built_in_authority(&self, domain: Domain, generation: u32) -> NewAuthority {
        NewAuthority::BuiltIn { common_name: self.authority_name(domain, generation), duration: self.lifetimes[domain].authority }
    }

    /// The common name of a built-in authority.
    pub fn authority_name(&self, domain: Domain, generation: u32) -> String {
        // A common name has at most 64 characters. The uid tells apart the authorities of two clusters with the same name.
        let name: String = self.names.cluster().chars().take(40).collect();
        let uid: String = self.uid.as_str().chars().take(8).collect();
        format!("{name} {domain} {uid} {generation}")
    }
}

/// How long a member must have been down before evidence that it cannot come back counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Its container crashes repeatedly.
    pub crash_loop: SignedDuration,
    /// The node of its volume is gone.
    pub lost_node: SignedDuration,
    /// Someone else added it, and it never started.
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
    /// Further flags.
    pub extra_args: BTreeMap<String, String>,
}
