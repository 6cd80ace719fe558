//! Spec -> [`ValidatedCluster`]. Pure.
//!
//! The CRD's rules refuse most of this at apply time; here it is decided for good, because an object may have been stored
//! under older rules, and because nothing that follows should have to doubt what it is given.

use std::{collections::BTreeMap, collections::BTreeSet, fmt, net::IpAddr};

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::{
    api::{
        AutoCompaction, CertManagerIssuer, ClientAuth, CompactionMode, Duration, EtcdCluster, EtcdClusterSpec, IssuerSpec,
        MAX_NAME_LENGTH, ONE_FOR_BOTH, PodSpec, PullPolicy, RESERVED_FLAGS, RepairSpec, Retention, ServiceSpec, StorageSpec,
        TlsVersion,
    },
    cluster::plan::Built,
    names::{Names, annotation},
    pki::{Domain, Issuer},
    quantity,
};

/// A cluster whose spec makes sense, with names and values in their types.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    /// The names of its objects.
    pub names: Names,
    /// The uid of the `EtcdCluster`.
    pub uid: String,
    /// What objects that go with the cluster are owned by.
    pub owner: OwnerReference,
    /// The number of members wanted.
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
    /// The oldest TLS version accepted.
    pub min_tls: TlsVersion,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// The lives of the client domain's certificates.
    pub client: Lives,
    /// The lives of the peer domain's certificates.
    pub peer: Lives,
    /// Further DNS names of the server leaves.
    pub extra_names: BTreeSet<String>,
    /// Further addresses of the server leaves.
    pub extra_addresses: BTreeSet<IpAddr>,
    /// etcd's settings.
    pub etcd: EtcdSettings,
    /// The pods.
    pub pod: PodSpec,
    /// The Service for clients.
    pub service: ServiceSpec,
    /// When members are given up.
    pub repair: Repair,
    /// Whether nothing is to be changed.
    pub paused: bool,
    /// The value with which every pod is to have been made.
    pub restarted_at: Option<String>,
    /// The member that its user wants replaced.
    pub replace: Option<String>,
    /// The member from whose data its user wants the cluster made anew.
    pub recover_from: Option<String>,
    /// Who is to sign the certificates of the client domain.
    pub client_issuer: Issuer,
    /// Who is to sign those of the peer domain.
    pub peer_issuer: Issuer,
    /// The domains whose authorities its user wants replaced.
    pub rotate: BTreeSet<Domain>,
    /// What of that wish names no domain.
    pub rotate_unknown: Vec<String>,
    /// What has been built of it.
    pub built: Built,
}

impl ValidatedCluster {
    /// Whether claims and authorities outlive the cluster.
    pub fn retains(&self) -> bool {
        self.storage.retention == Retention::Retain
    }

    /// How long certificates of a domain are valid.
    pub fn lives(&self, domain: Domain) -> Lives {
        match domain {
            Domain::Client => self.client,
            Domain::Peer => self.peer,
        }
    }

    /// Who is to sign the certificates of a domain.
    pub fn issuer(&self, domain: Domain) -> &Issuer {
        match domain {
            Domain::Client => &self.client_issuer,
            Domain::Peer => &self.peer_issuer,
        }
    }

    /// The common name of an authority, another one for each generation: no verifier must take one for the other.
    pub fn authority_name(&self, domain: Domain, generation: u32) -> String {
        // It has 64 characters at most; the uid tells the authorities of two clusters of one name apart.
        let name: String = self.names.cluster().chars().take(40).collect();
        let uid: String = self.uid.chars().take(8).collect();
        format!("{name} {domain} {uid} {generation}")
    }
}

/// How long certificates of one domain are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// An authority.
    pub authority: SignedDuration,
    /// A leaf.
    pub leaf: SignedDuration,
}

/// How long a member must have been down before evidence against it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Its container ends again and again.
    pub crash_loop: SignedDuration,
    /// The node of its volume is gone.
    pub lost_node: SignedDuration,
    /// Somebody else added it, and it never started.
    pub unstarted: SignedDuration,
}

/// etcd's settings, as its flags want them.
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

/// A version of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Always 3 for now.
    pub major: u32,
    /// Decides the flags.
    pub minor: u32,
    /// The patch.
    pub patch: u32,
}

impl Version {
    /// The oldest that is served: from here on a member of 3.5 can be upgraded to 3.6 safely (etcd's upgrade guide to 3.6).
    pub const OLDEST: Self = Self { major: 3, minor: 5, patch: 32 };
    /// The newest minor whose flags are known.
    pub const NEWEST_MINOR: u32 = 7;

    /// Reads `3.6.16`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What is wrong with a spec: sentences that say what to do, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// The cluster with everything checked, where the cluster's DNS domain is `domain`.
///
/// # Errors
/// All that is wrong with the spec.
pub fn validate(cluster: &EtcdCluster, domain: &str) -> Result<ValidatedCluster, Invalid> {
    let mut wrong = Problems(vec![]);
    let spec = &cluster.spec;
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    check_name(name, &mut wrong);
    if !(1..=9).contains(&spec.replicas) {
        wrong.say(format!("spec.replicas is {}: it must be 1 to 9", spec.replicas));
    }
    let version = check_version(&spec.version, &mut wrong);
    let client = check_lives("client", &spec.tls.client.authority.duration, &spec.tls.client.certificate.duration, &mut wrong);
    let peer = check_lives("peer", &spec.tls.peer.authority.duration, &spec.tls.peer.certificate.duration, &mut wrong);
    let extra_names = check_names(&spec.tls.client.extra_sans.dns_names, &mut wrong);
    let extra_addresses = check_addresses(&spec.tls.client.extra_sans.ip_addresses, &mut wrong);
    let issuers = [("client", &spec.tls.client.issuer), ("peer", &spec.tls.peer.issuer)];
    let [client_issuer, peer_issuer] = issuers.map(|(domain, spec)| check_issuer(domain, spec, &mut wrong));
    if client_issuer != Issuer::BuiltIn && client_issuer == peer_issuer {
        wrong.say(ONE_FOR_BOTH);
    }
    let etcd = check_etcd(spec, &mut wrong);
    let repair = check_repair(&spec.repair, &mut wrong);
    if quantity::bytes(&spec.storage.size).is_none() {
        wrong.say(format!("spec.storage.size {:?} is no size: write it like 8Gi", spec.storage.size.0));
    }
    let owner = cluster.controller_owner_ref(&());
    let rotate = cluster.annotations().get(annotation::ROTATE_CA).map(String::as_str).unwrap_or_default();
    let (rotate, rotate_unknown) = domains(rotate);
    let (Some(version), Some(client), Some(peer), Some(etcd), Some(repair), Some(owner), Some(uid), []) =
        (version, client, peer, etcd, repair, owner, cluster.metadata.uid.clone(), wrong.0.as_slice())
    else {
        return Err(Invalid(wrong.0));
    };
    Ok(ValidatedCluster {
        names: Names::new(name, namespace, domain),
        uid,
        owner,
        replicas: spec.replicas.unsigned_abs(),
        version,
        image: image(spec, version),
        pull_policy: spec.image.pull_policy,
        pull_secrets: spec.image.pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        storage: spec.storage.clone(),
        min_tls: spec.tls.min_version,
        client_auth: spec.tls.client.client_auth,
        client,
        peer,
        extra_names,
        extra_addresses,
        etcd,
        pod: spec.pod.clone(),
        service: spec.service.clone(),
        repair,
        paused: spec.paused,
        restarted_at: cluster.annotations().get(annotation::RESTARTED_AT).cloned(),
        replace: cluster.annotations().get(annotation::REPLACE).cloned(),
        recover_from: cluster.annotations().get(annotation::RECOVER_FROM).cloned(),
        client_issuer,
        peer_issuer,
        rotate,
        rotate_unknown,
        built: Built::default(),
    })
}

/// The domains that a text names, and the rest of it.
fn domains(text: &str) -> (BTreeSet<Domain>, Vec<String>) {
    let (mut known, mut unknown) = (BTreeSet::new(), vec![]);
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match Domain::ALL.into_iter().find(|domain| domain.to_string() == word) {
            Some(domain) => drop(known.insert(domain)),
            None => unknown.push(word.to_owned()),
        }
    }
    (known, unknown)
}

struct Problems(Vec<String>);

impl Problems {
    fn say(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }
}

fn image(spec: &EtcdClusterSpec, version: Version) -> String {
    let image = &spec.image;
    let tag = image.tag.clone().unwrap_or_else(|| format!("v{version}"));
    match &image.digest {
        Some(digest) => format!("{}:{tag}@{digest}", image.repository),
        None => format!("{}:{tag}", image.repository),
    }
}

fn check_name(name: &str, wrong: &mut Problems) {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > MAX_NAME_LENGTH {
        wrong.say(format!("the name is too long for the objects made from it: {MAX_NAME_LENGTH} characters at most"));
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(label) || name.ends_with('-') {
        wrong.say("the name becomes a Service's: it must begin with a letter and hold only lower case letters, digits and -");
    }
}

fn check_version(text: &str, wrong: &mut Problems) -> Option<Version> {
    let version = Version::parse(text);
    match version {
        None if text.starts_with('v') => wrong.say(format!("spec.version is {text:?}: write it without the v, like 3.6.16")),
        None => wrong.say(format!("spec.version is {text:?}: it must be three numbers, like 3.6.16")),
        Some(v) if v < Version::OLDEST || v.major > 3 || v.minor > Version::NEWEST_MINOR => wrong.say(format!(
            "spec.version {v} is not supported: {} or newer, up to 3.{}",
            Version::OLDEST,
            Version::NEWEST_MINOR
        )),
        Some(_) => {}
    }
    version
}

fn check_duration(field: &str, duration: &Duration, wrong: &mut Problems) -> Option<SignedDuration> {
    duration.length().map_err(|e| wrong.say(format!("{field}: {e}"))).ok()
}

/// A leaf of less than an hour would be renewed more often than clocks and rollouts allow for.
const SHORTEST_LEAF: SignedDuration = SignedDuration::from_hours(1);
/// Certificates beyond the year 9999 can't be written (RFC 5280, 4.1.2.5).
const LONGEST_AUTHORITY: SignedDuration = SignedDuration::from_hours(24 * 365 * 100);

/// Checks the lives of a domain's or a user's certificates.
pub fn check_leaf(field: &str, duration: &Duration) -> Result<SignedDuration, String> {
    let leaf = duration.length().map_err(|e| format!("{field}: {e}"))?;
    if leaf < SHORTEST_LEAF { Err(format!("{field} is {duration}: it must be at least 1h")) } else { Ok(leaf) }
}

fn check_lives(domain: &str, authority: &Duration, leaf: &Duration, wrong: &mut Problems) -> Option<Lives> {
    let field = format!("spec.tls.{domain}.authority.duration");
    let authority_life = check_duration(&field, authority, wrong);
    let leaf_life =
        check_leaf(&format!("spec.tls.{domain}.certificate.duration"), leaf).map_err(|problem| wrong.say(problem)).ok();
    let lives = Lives { authority: authority_life?, leaf: leaf_life? };
    // An authority is trusted for half of its life before it signs, so that half must outlast the leaves in use.
    if lives.leaf.checked_mul(4).is_none_or(|four| lives.authority < four) {
        wrong.say(format!("{field} is {authority}: it must be at least four times certificate.duration ({leaf})"));
    }
    if lives.authority > LONGEST_AUTHORITY {
        wrong.say(format!("{field} is {authority}: a hundred years at most"));
    }
    Some(lives)
}

/// Who is to sign certificates, by the spec.
fn issuer(spec: &IssuerSpec) -> Issuer {
    match (&spec.ca_secret, &spec.cert_manager) {
        (Some(secret), _) => Issuer::CaSecret { name: secret.name.clone() },
        (None, Some(CertManagerIssuer { name, kind, group })) => {
            Issuer::CertManager { name: name.clone(), kind: kind.clone(), group: group.clone() }
        }
        (None, None) => Issuer::BuiltIn,
    }
}

fn check_issuer(domain: &str, spec: &IssuerSpec, wrong: &mut Problems) -> Issuer {
    if spec.ca_secret.is_some() && spec.cert_manager.is_some() {
        wrong.say(format!("spec.tls.{domain}.issuer must be either caSecret or certManager"));
    }
    issuer(spec)
}

/// Less than a container or a node takes to come up again would make a fault of what is none.
const SHORTEST_REPAIR: SignedDuration = SignedDuration::from_secs(10);

fn check_repair(spec: &RepairSpec, wrong: &mut Problems) -> Option<Repair> {
    let mut check = |name: &str, duration: &Duration| {
        let field = format!("spec.repair.{name}");
        let length = check_duration(&field, duration, wrong)?;
        if length < SHORTEST_REPAIR {
            wrong.say(format!("{field} is {duration}: it must be at least 10s"));
        }
        Some(length)
    };
    let crash_loop = check("crashLoop", &spec.crash_loop);
    let lost_node = check("lostNode", &spec.lost_node);
    let unstarted = check("unstarted", &spec.unstarted);
    Some(Repair { crash_loop: crash_loop?, lost_node: lost_node?, unstarted: unstarted? })
}

fn check_names(names: &[String], wrong: &mut Problems) -> BTreeSet<String> {
    for name in names {
        let labels = name.strip_prefix("*.").unwrap_or(name);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.parse::<IpAddr>().is_ok() {
            wrong.say(format!("spec.tls.client.extraSANs.dnsNames: {name:?} is an address: write it into ipAddresses"));
        } else if labels.len() > 253 || !labels.split('.').all(label) {
            wrong.say(format!("spec.tls.client.extraSANs.dnsNames: {name:?} is not a DNS name in lower case"));
        }
    }
    names.iter().cloned().collect()
}

fn check_addresses(addresses: &[String], wrong: &mut Problems) -> BTreeSet<IpAddr> {
    let parse = |text: &String| {
        let problem = format!("spec.tls.client.extraSANs.ipAddresses: {text:?} is not an IP address");
        text.parse().map_err(|_| wrong.say(problem)).ok()
    };
    addresses.iter().filter_map(parse).collect()
}

fn check_etcd(spec: &EtcdClusterSpec, wrong: &mut Problems) -> Option<EtcdSettings> {
    let etcd = &spec.etcd;
    let heartbeat = check_duration("spec.etcd.heartbeatInterval", &etcd.heartbeat_interval, wrong);
    let election = check_duration("spec.etcd.electionTimeout", &etcd.election_timeout, wrong);
    let quota = quantity::bytes(&etcd.quota_backend_size);
    if quota.is_none() {
        wrong.say(format!("spec.etcd.quotaBackendSize {:?} is no size: write it like 2Gi", etcd.quota_backend_size.0));
    }
    for name in etcd.extra_args.keys() {
        let flag = !name.is_empty()
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !flag {
            wrong.say(format!("spec.etcd.extraArgs: {name:?} is not a flag's name; write it without the dashes in front"));
        } else if RESERVED_FLAGS.iter().any(|reserved| name.starts_with(reserved)) {
            wrong.say(format!(
                "spec.etcd.extraArgs: {name} is reserved: the operator sets it itself or it has a field of its own"
            ));
        }
    }
    let retention = &etcd.auto_compaction.retention;
    let sensible = match etcd.auto_compaction.mode {
        CompactionMode::Periodic => retention == "0" || Duration(retention.clone()).length().is_ok(),
        CompactionMode::Revision => retention.parse::<u64>().is_ok(),
    };
    if !sensible {
        wrong.say(format!(
            "spec.etcd.autoCompaction.retention {retention:?} does not fit the mode: a duration such as 5m for Periodic, a number of revisions for Revision"
        ));
    }
    let (heartbeat, election) = (heartbeat?.as_millis(), election?.as_millis());
    if heartbeat < 10 || election < 5 * heartbeat || election > 50_000 {
        wrong.say("spec.etcd.electionTimeout must be at least five times heartbeatInterval and at most 50s, heartbeatInterval at least 10ms");
    }
    Some(EtcdSettings {
        heartbeat_interval: heartbeat,
        election_timeout: election,
        quota: quota?,
        compaction: etcd.auto_compaction.clone(),
        extra_args: etcd.extra_args.clone(),
    })
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
