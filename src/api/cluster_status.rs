use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, MemberId};
use crate::pki::{Domain, Phase};

/// The state of the cluster as the operator last observed it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdClusterStatus {
    /// The generation of the spec that this status refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available`: a quorum of voters is healthy. `Progressing`: a change is in progress or pending. `Degraded`: something needs
    /// attention, although the cluster may be available. `CertificatesReady`: every member presents the certificates of its Secret.
    /// `Ready`: the cluster is as its spec says, that is, it is available, not degraded, and nothing that the spec or an annotation asks
    /// for is in progress or pending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Since when `Progressing` has had its current reason. The condition's `lastTransitionTime` is when its status last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressing_since: Option<Time>,
    /// The number of healthy members and of desired members, such as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The number of healthy members.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The number of members.
    #[serde(default)]
    pub replicas: i32,
    /// A label selector for the members' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The version of etcd that all members run. While it is being changed: the version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The change of the version that is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<UpgradeStatus>,
    /// From what to what the running members are being changed, and how many of them have been: `version 3.6.16 -> 3.7.3 (1/3)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// etcd's ID of the cluster, in hexadecimal, as `etcdctl` prints it. It is set when the cluster has been bootstrapped and
    /// never changes.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    /// The URLs for clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// The members.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// Members in etcd's member list that the operator did not add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub unknown_members: Vec<UnknownMemberStatus>,
    /// The certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
    /// The requests by annotations that were completed. The same annotation with the same value is not done again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub requests: Vec<CompletedRequestStatus>,
}

/// A change of the version, up or down.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UpgradeStatus {
    /// The version that all members ran before.
    pub from: String,
    /// The version of the spec.
    pub to: String,
    /// The number of members that run it.
    pub updated: i32,
    /// The number of members.
    pub members: i32,
}

/// A request by an annotation that was completed.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CompletedRequestStatus {
    /// The annotation without its prefix, such as `replace`; for a rotation with its trust domain, such as `rotate-ca/client`.
    pub name: String,
    /// What was requested.
    pub value: String,
    /// When it was completed.
    pub completed_at: Time,
}

/// A member in etcd's member list that the operator did not add.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownMemberStatus {
    /// etcd's ID of the member, in hexadecimal.
    pub id: MemberId,
    /// Its name, empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its peer URL.
    #[serde(default)]
    pub peer_url: String,
    /// Since when it has been observed.
    pub since: Time,
}

/// What a member does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberRole {
    /// It has a vote, and all writes go through it.
    Leader,
    /// It has a vote.
    Follower,
    /// It has no vote yet.
    Learner,
}

fn role(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": [MemberRole::Leader, MemberRole::Follower, MemberRole::Learner] })
}

fn phase(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "enum": Phase::ALL })
}

/// A member.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name, which is also that of its StatefulSet.
    pub name: String,
    /// etcd's ID of the member, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MemberId>,
    /// `Leader`, `Follower` or `Learner`; absent if the member does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "role")]
    pub role: Option<MemberRole>,
    /// Whether it is healthy: its pod is ready and it answers the operator over TLS.
    #[serde(default)]
    pub ready: bool,
    /// Since when it has been healthy or not. For a voter that was a learner, at the earliest since its promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why it is not healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Without a quorum: how recent its data is, such as `revision 1234`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The version of etcd that it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The size of its database, rounded up to a power of two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_size: Option<String>,
    /// When the first of its certificates expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_expires: Option<Time>,
}

/// The certificates of a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificatesStatus {
    /// When the first certificate of any member expires, unless it is renewed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// The client domain, port 2379.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<DomainStatus>,
    /// The peer domain, port 2380.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<DomainStatus>,
}

/// A trust domain.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    /// The certificate authority that signs.
    pub active: AuthorityStatus,
    /// The certificate authority that is already trusted and will sign next. With an external issuer it is the active one.
    pub next: AuthorityStatus,
    /// Certificate authorities that no longer sign and are still trusted, until they expire or a rotation is complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<AuthorityStatus>,
    /// The phase of a CA rotation that was requested or that a change of the issuer started: `Distributing` (members are
    /// restarted to trust the new CA before it signs), `Reissuing` (the new CA issues new certificates to replace those of the
    /// previous CA), `Dropping` (members are restarted to no longer trust the previous CA). Absent while there is no rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "phase")]
    pub phase: Option<Phase>,
    /// Since when the rotation has been in this phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// When the first certificate of this domain that a member serves expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

/// A certificate authority.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// The common name of its subject.
    pub name: String,
    /// Its subject key identifier in hexadecimal. It is the authority key identifier of the certificates that it signed.
    pub key_id: String,
    /// When its certificate expires.
    pub expires: Time,
    /// The external issuer that it belongs to; absent for a built-in CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

impl CertificatesStatus {
    /// The status of a domain.
    pub fn domain(&self, domain: Domain) -> Option<&DomainStatus> {
        match domain {
            Domain::Client => self.client.as_ref(),
            Domain::Peer => self.peer.as_ref(),
        }
    }
}
