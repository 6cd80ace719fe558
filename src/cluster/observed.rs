//! The observed state: the data that [`super::observe`] gathers and the pure stages read.
//!
//! Failed reads are part of the data. Private keys are not: where a Secret has one, the cache keeps a digest of its public key
//! (see [`crate::cache`]).

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, EmptyDirVolumeSource, PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::core::ObjectMeta;

use crate::{
    api::{DomainStatus, EtcdClusterStatus, MemberStatus},
    certificates::{issuers::IssuerAnswer, secret::CachedSecret},
    etcd::{self, Version},
    ids::{ClusterId, MemberId, Uid},
    kubernetes::{
        cached::Cached,
        ownership::{annotation, belongs},
        pod::pod_ready,
    },
    member_pod::data_in_pod,
    names::{MemberName, Names, annotation as key, authority_key},
    pki::{Domain, PerDomain},
};

/// One cluster as it was observed.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The last status.
    pub status: EtcdClusterStatus,
    /// The Service for clients.
    pub client_service: Option<Cached<Service>>,
    /// The headless Service.
    pub peer_service: Option<Cached<Service>>,
    /// The PodDisruptionBudget.
    pub disruption_budget: Option<Cached<PodDisruptionBudget>>,
    /// The ConfigMap with the trust bundle for clients.
    pub ca_config: Option<Cached<ConfigMap>>,
    /// The ConfigMap that members read at each start.
    pub bootstrap: Option<Cached<ConfigMap>>,
    /// The Secrets of the authorities.
    pub authorities: PerDomain<Option<CachedSecret>>,
    /// The Secret with the operator's identity.
    pub operator: Option<CachedSecret>,
    /// Every member that an object, the last status or etcd's member list names.
    pub members: BTreeMap<MemberName, ObservedMember>,
    /// etcd's member list, confirmed by a quorum, or why it is not available.
    pub list: Result<etcd::MemberList, String>,
    /// The names of all `EtcdUser`s in the namespace that may hold certificates, by uid. The ledger records which of them hold one of this
    /// cluster.
    pub users: BTreeMap<Uid, String>,
    /// The Secrets of the cluster's users by the names of the users. Empty unless the client authority is being rotated.
    pub user_secrets: BTreeMap<String, CachedSecret>,
    /// What the external issuers in the spec answered about their authorities.
    pub issuer_answers: PerDomain<Option<IssuerAnswer>>,
}

impl Default for Observed {
    /// Nothing exists.
    fn default() -> Self {
        Self {
            status: EtcdClusterStatus::default(),
            client_service: None,
            peer_service: None,
            disruption_budget: None,
            ca_config: None,
            bootstrap: None,
            authorities: PerDomain::default(),
            operator: None,
            members: BTreeMap::new(),
            list: Err("no member was asked".into()),
            users: BTreeMap::new(),
            user_secrets: BTreeMap::new(),
            issuer_answers: PerDomain::default(),
        }
    }
}

impl Observed {
    /// The entry of a member in etcd's member list.
    pub fn listed(&self, names: &Names, member: &MemberName) -> Option<&etcd::Member> {
        listed(names, self.list.as_ref().ok()?, member)
    }

    /// The last status of a member.
    pub fn reported(&self, member: &MemberName) -> Option<&MemberStatus> {
        self.status.members.iter().find(|reported| reported.name == member.as_str())
    }

    /// The last status of a domain.
    pub fn reported_domain(&self, domain: Domain) -> Option<&DomainStatus> {
        self.status.certificates.as_ref()?.domain(domain)
    }

    /// Whether the authorities of a domain are being rotated in phases.
    pub fn is_rotating(&self, domain: Domain) -> bool {
        self.authorities[domain].as_ref().is_some_and(|secret| secret.data.contains_key(authority_key::ROTATION))
    }

    /// Whether a member runs another minor version than the desired one, or may be downgraded.
    pub fn changes_minor(&self, desired: Option<Version>) -> bool {
        let differs = |status: &etcd::MemberStatus| {
            let runs = Version::parse(&status.version).map(|version| version.minor);
            status.downgrade.is_some() || runs != desired.map(|version| version.minor)
        };
        self.has_come_up() && self.members.values().filter_map(|member| member.etcd.status()).any(differs)
    }

    /// Whether the cluster has ever been up. Then it has an ID, and new members can only join it.
    pub fn has_come_up(&self) -> bool {
        self.status.cluster_id.is_some()
    }
}

/// The entry of a member of this cluster in a member list.
pub fn listed<'a>(names: &Names, list: &'a etcd::MemberList, member: &MemberName) -> Option<&'a etcd::Member> {
    list.members.iter().find(|listed| name_text(names, list, listed) == Some(member.as_str()))
}

/// The member of this cluster that an entry of the member list describes. It is identified by its peer URL; if that was changed,
/// by its name, unless another entry has the URL of the member with this name.
pub fn name_of(names: &Names, list: &etcd::MemberList, listed: &etcd::Member) -> Option<MemberName> {
    names.parse_member(name_text(names, list, listed)?)
}

fn name_text<'a>(names: &Names, list: &etcd::MemberList, listed: &'a etcd::Member) -> Option<&'a str> {
    fn name_by_url<'a>(names: &Names, listed: &'a etcd::Member) -> Option<&'a str> {
        listed.peer_urls.iter().find_map(|url| names.text_at(url))
    }
    let is_free = |name: &str| !list.members.iter().any(|other| name_by_url(names, other) == Some(name));
    name_by_url(names, listed).or_else(|| Some(listed.name.as_str()).filter(|name| names.is_member(name) && is_free(name)))
}

/// One member as it was observed.
#[derive(Clone, Debug, Default)]
pub struct ObservedMember {
    /// Its PersistentVolumeClaim.
    pub claim: Option<Cached<PersistentVolumeClaim>>,
    /// Whether reading the claim failed: it may exist.
    pub claim_unread: bool,
    /// Its StatefulSet.
    pub stateful_set: Option<Cached<StatefulSet>>,
    /// Its pod.
    pub pod: Option<Cached<Pod>>,
    /// For how long this operator has seen etcd's container run in its pod, by the monotonic clock of this process.
    pub seen_running: SignedDuration,
    /// The Secret with its certificates.
    pub secret: Option<CachedSecret>,
    /// What it answered on port 2379.
    pub etcd: Probe,
    /// Whether it accepts the operator's client certificate of the next authority. It is tried only during a rotation.
    pub trial: Option<Trial>,
    /// The members that accept its connections on port 2380. They are read only while the peer authority is being rotated.
    pub active_peers: Option<Result<BTreeSet<MemberId>, String>>,
    /// What its metrics say about versions. They are read only while the minor version is being changed.
    pub versions: Option<Result<etcd::VersionMetrics, String>>,
    /// The member list in its own data. It is read only while the minor version is being changed.
    pub own_list: Option<Result<etcd::MemberList, String>>,
    /// The leaf certificate that it presents on port 2380 (DER). It is read only until its pod is confirmed.
    pub peer_leaf: Option<Result<Vec<u8>, String>>,
    /// The node of its volume. It is looked up only while no node accepts its pod, and once the member has been down for
    /// `spec.repair.lostNode`.
    pub volume_node: VolumeNode,
    /// Why Kubernetes refuses to create its pod, in the API server's words. It is read only while it has none.
    pub refusal: Option<String>,
    /// How recent its data is. It is read only while no quorum confirms a member list.
    pub progress: Option<Result<etcd::Progress, String>>,
}

/// The node on which a member's volume can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum VolumeNode {
    /// It was not looked up, could not be read, or the volume can be used on more than one node.
    #[default]
    Unknown,
    /// The node exists.
    Exists,
    /// The node is permanently gone. The text is the evidence.
    Gone(String),
}

/// What a member answered.
#[derive(Clone, Debug)]
pub enum Probe {
    /// It was not asked. The text says why.
    Skipped(String),
    /// It could not be reached. The text says why.
    Unreachable(String),
    /// It refuses the operator's certificate. It presented this leaf certificate (DER), if it came so far; the text says how it
    /// refuses.
    Refused(Option<Vec<u8>>, String),
    /// It presented this leaf certificate (DER), and returned its status or an error.
    Reached(Vec<u8>, Result<etcd::MemberStatus, String>),
}

/// Whether a member accepts a client certificate that it was never shown before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It answered a request over a connection with this certificate.
    Accepted,
    /// It refuses the certificate. The text is its alert.
    Refused(String),
    /// It did not answer, for this reason.
    Unknown(String),
}

impl Default for Probe {
    fn default() -> Self {
        Self::Skipped("it has no pod".into())
    }
}

impl Probe {
    /// The member's status.
    pub fn status(&self) -> Option<&etcd::MemberStatus> {
        match self {
            Self::Reached(_, Ok(status)) => Some(status),
            _ => None,
        }
    }

    /// Why its status is unknown.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Skipped(reason) | Self::Unreachable(reason) | Self::Refused(_, reason) | Self::Reached(_, Err(reason)) => {
                Some(reason)
            }
            Self::Reached(_, Ok(_)) => None,
        }
    }

    /// How it refuses the operator's certificate.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused(_, reason) => Some(reason),
            _ => None,
        }
    }
}

impl ObservedMember {
    /// Whether its pod is ready.
    pub fn pod_ready(&self) -> bool {
        self.pod.as_deref().is_some_and(pod_ready)
    }

    /// The volume of its pod in which its data is; `None` if it is in that of a claim, or it has no StatefulSet.
    pub fn volume_in_pod(&self) -> Option<&EmptyDirVolumeSource> {
        let set = self.stateful_set.as_ref().filter(|_| self.claim.is_none() && !self.claim_unread)?;
        data_in_pod(set.spec.template.spec.as_ref()?)
    }

    /// Whether its data is in its pod, so that it is lost with the pod.
    pub fn is_in_pod(&self) -> bool {
        self.volume_in_pod().is_some()
    }

    /// The metadata on which is recorded that it has started. It is that of its claim, which is there as long as the data is; if the data is
    /// in its pod, that of its StatefulSet, which names the pod.
    pub fn record(&self) -> Option<&ObjectMeta> {
        let claim = self.claim.as_ref().map(|claim| &claim.metadata);
        claim.or_else(|| self.stateful_set.as_ref().filter(|_| self.is_in_pod()).map(|set| &set.metadata))
    }

    /// Whether it has been observed running before: then its ID is recorded.
    pub fn has_started(&self) -> bool {
        self.record().is_some_and(|record| annotation(record, key::MEMBER_ID).is_some())
    }

    /// The cluster ID and the member ID that are recorded, where they are valid.
    pub fn recorded_ids(&self) -> (Option<ClusterId>, Option<MemberId>) {
        let record = self.record();
        let cluster = record.and_then(|meta| annotation(meta, key::CLUSTER_ID)?.parse().ok());
        (cluster, record.and_then(|meta| annotation(meta, key::MEMBER_ID)?.parse().ok()))
    }

    /// Whether its pod is the one that has its data, if the data is in a pod.
    pub fn has_pod_with_data(&self) -> bool {
        let recorded = self.record().filter(|_| self.is_in_pod()).and_then(|meta| annotation(meta, key::DATA_POD));
        recorded.is_some_and(|uid| self.pod.as_ref().is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid)))
    }

    /// Whether its claim is being deleted: then its data is lost when its pod ends, because the claim exists only as long as a
    /// pod uses it.
    pub fn loses_claim_with_pod(&self) -> bool {
        self.claim.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
    }

    /// Whether its data is lost when its pod ends.
    pub fn loses_data_with_pod(&self) -> bool {
        self.loses_claim_with_pod() || self.has_pod_with_data()
    }

    /// Whether its pod was created from an older template than that of its StatefulSet.
    pub fn is_outdated(&self) -> bool {
        let desired = self.stateful_set.as_ref().and_then(|set| set.status.as_ref()?.update_revision.as_deref());
        let actual = self.pod.as_ref().and_then(|pod| pod.metadata.labels.as_ref()?.get("controller-revision-hash"));
        desired.zip(actual).is_some_and(|(desired, actual)| desired != actual)
    }

    /// Whether its next pod will have something that this one lacks. Labels, annotations and resources are changed while a pod runs, and
    /// a pod is then older than its template and lacks nothing.
    pub fn lacks_changes(&self) -> bool {
        let digest = |meta: Option<&ObjectMeta>| annotation(meta?, key::TEMPLATE).map(str::to_owned);
        let next = self.stateful_set.as_ref().and_then(|set| digest(set.spec.template.metadata.as_ref()));
        self.is_outdated() && (next.is_none() || next != digest(self.pod.as_ref().map(|pod| &pod.metadata)))
    }

    /// Whether it is healthy: its pod is ready and it answers the operator over TLS.
    pub fn is_healthy(&self) -> bool {
        self.pod_ready() && self.etcd.status().is_some()
    }

    /// The version of etcd that it runs, if it answers.
    pub fn version(&self) -> Option<Version> {
        Version::parse(&self.etcd.status()?.version)
    }

    /// Whether its StatefulSet belongs to the cluster with this uid.
    pub fn has_own_set(&self, uid: &Uid) -> bool {
        self.stateful_set.as_ref().is_some_and(|set| belongs(&set.metadata, uid))
    }
}
