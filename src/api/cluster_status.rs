use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, MemberId};
use crate::pki::Domain;

/// What the operator last saw of the cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdClusterStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Available`: a quorum of voters serves. `Progressing`: something is being done or awaited. `Degraded`: something needs
    /// attention though the cluster may serve. `CertificatesReady`: every member serves the certificates that it should.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Since when what `Progressing` names has been going on. Its time of transition tells since when anything has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressing_since: Option<Time>,
    /// Healthy members of the desired ones, such as `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The number of members that serve.
    #[serde(default)]
    pub ready_replicas: i32,
    /// The number of members.
    #[serde(default)]
    pub replicas: i32,
    /// A label selector for the members' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// etcd's own ID of the cluster, in hexadecimal, as `etcdctl` prints it. It is set once the cluster has come up and never
    /// changes.
    #[serde(default, rename = "clusterID", skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<ClusterId>,
    /// The URLs for clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<String>,
    /// Each member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub members: Vec<MemberStatus>,
    /// Members that etcd lists and that the operator did not add.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub unknown_members: Vec<UnknownMemberStatus>,
    /// The certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<CertificatesStatus>,
}

/// A member that etcd lists and that the operator did not add.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownMemberStatus {
    /// etcd's ID of the member, in hexadecimal.
    pub id: MemberId,
    /// Its name, empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its URL for other members.
    #[serde(default)]
    pub peer_url: String,
    /// Since when it has been seen.
    pub since: Time,
}

/// One member.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name, which is also that of its StatefulSet.
    pub name: String,
    /// etcd's ID of the member, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<MemberId>,
    /// `Leader`, `Follower` or `Learner`; absent when the member does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Whether it serves: its pod is ready and it answers the operator over TLS.
    #[serde(default)]
    pub ready: bool,
    /// Since when it serves, or does not; a voter that has been a learner, at the earliest since it has its vote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why it does not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Where no quorum serves: how far its data goes, such as `revision 1234`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The version that it runs.
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
    /// When the first certificate of any member expires, if it were not renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
    /// Port 2379.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<DomainStatus>,
    /// Port 2380.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<DomainStatus>,
}

/// One domain of trust.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainStatus {
    /// The authority that signs.
    pub active: AuthorityStatus,
    /// The authority that is trusted already and signs next; the active one itself, where the issuer is not the built-in one.
    pub next: AuthorityStatus,
    /// Authorities that sign no more and are still trusted, until they expire or a rotation in phases is over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retiring: Vec<AuthorityStatus>,
    /// How far a rotation that was asked for, or a change of the issuer, has come: `Distributing` (members are restarted to trust the
    /// new authority before it signs), `Reissuing` (its certificates take the place of those of the one before), `Dropping` (members
    /// are restarted to forget that one). Absent while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Time>,
    /// When the first leaf of this domain that a member serves expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Time>,
}

/// A certificate authority.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityStatus {
    /// The common name of its subject.
    pub name: String,
    /// Its subject key identifier in hexadecimal, as in the authority key identifier of the certificates that it signed.
    pub key_id: String,
    /// When its certificate expires.
    pub expires: Time,
    /// Whose it is, where it is not the operator's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

impl CertificatesStatus {
    /// What is reported of a domain.
    pub fn domain(&self, domain: Domain) -> Option<&DomainStatus> {
        match domain {
            Domain::Client => self.client.as_ref(),
            Domain::Peer => self.peer.as_ref(),
        }
    }
}
