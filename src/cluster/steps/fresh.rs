//! Fresh reads for a step.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::leftover::Leftover;
use crate::{etcd, ids::Uid, kubernetes::cached::Cached, names::MemberName};

/// Something that is read again for a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// All pods and StatefulSets of the cluster, the status of each member, and the member list that a quorum confirms.
    Members,
    /// The member list of each voter, from the voter itself. A voter that returns one has applied everything that was committed
    /// before.
    EachVotersList,
    /// The pod and the StatefulSet of a member, by name: a pod that lost its labels may use the claim too.
    ByName(MemberName),
    /// The claim of a member.
    Claim(MemberName),
    /// An object that a deleted cluster left.
    Leftover(Leftover),
    /// An `EtcdUser` by its name.
    User(String),
}

/// The results of fresh reads. Failed reads are missing.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    /// The pods, by member.
    pub pods: BTreeMap<MemberName, Cached<Pod>>,
    /// The StatefulSets, by member.
    pub sets: BTreeMap<MemberName, Cached<StatefulSet>>,
    /// The status of each member that answers.
    pub answers: BTreeMap<MemberName, etcd::MemberStatus>,
    /// The member list that a quorum confirmed.
    pub list: Option<etcd::MemberList>,
    /// The member list of each voter, from the voter itself.
    pub lists: BTreeMap<MemberName, etcd::MemberList>,
    /// The claim of the member that the step concerns.
    pub claim: Option<PersistentVolumeClaim>,
    /// The objects that a deleted cluster left.
    pub leftovers: Vec<ObjectMeta>,
    /// The uids of the users that exist and are not revoked.
    pub users: BTreeSet<Uid>,
}

impl Fresh {
    /// The leader, according to its own status.
    pub fn leader(&self) -> Option<&MemberName> {
        self.answers.iter().find(|(_, status)| status.leads()).map(|(name, _)| name)
    }
}
