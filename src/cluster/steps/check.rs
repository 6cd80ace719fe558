//! The check of a step's precondition, on fresh reads. This file has the parts that several steps need.

use super::fresh::Fresh;
use crate::{
    cluster::{
        observed::{listed, name_of},
        validated::ValidatedCluster,
    },
    etcd,
    ids::{ClusterId, MemberId},
    kubernetes::pod::is_terminating,
    names::MemberName,
};

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecheckError {
    /// Something has changed since the step was planned.
    #[error("{0}")]
    Changed(String),
    /// An object that the plan did not know exists, and must not be used.
    #[error("{object} cannot be used: {owner}")]
    InTheWay {
        /// Its kind and name.
        object: String,
        /// Its owner.
        owner: String,
    },
}

/// Fails because something has changed since the step was planned.
pub fn changed<T>(why: impl Into<String>) -> Result<T, RecheckError> {
    Err(RecheckError::Changed(why.into()))
}

/// Fails unless a condition holds.
pub fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Result<(), RecheckError> {
    if condition { Ok(()) } else { changed(otherwise()) }
}

/// The voters, except for one of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// Their number.
    pub all: usize,
    /// How many of them are healthy.
    pub healthy: usize,
}

impl Others {
    /// Whether the healthy ones are a quorum if the excepted voter is removed.
    pub fn are_quorum(self) -> bool {
        self.healthy > self.all / 2
    }

    /// Whether the healthy ones are a quorum of all voters, including the excepted one.
    pub fn can_spare(self) -> bool {
        self.healthy > self.all.div_ceil(2)
    }
}

/// The input of a precondition.
pub struct Check<'a> {
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// The fresh reads.
    pub fresh: &'a Fresh,
    /// The member list, if it is that of the cluster that was bootstrapped.
    list: Option<&'a etcd::MemberList>,
}

impl<'a> Check<'a> {
    /// A check of a cluster. `known` is its ID, once it was bootstrapped.
    pub fn new(cluster: &'a ValidatedCluster, known: Option<ClusterId>, fresh: &'a Fresh) -> Self {
        let list = fresh.list.as_ref().filter(|list| known.is_none_or(|known| known == list.cluster_id));
        Self { cluster, fresh, list }
    }

    /// The member list.
    ///
    /// # Errors
    /// If no quorum confirms one.
    pub fn list(&self) -> Result<&'a etcd::MemberList, RecheckError> {
        self.list.map_or_else(|| changed("no quorum confirms a member list"), Ok)
    }

    /// Whether there is a member list that a quorum confirmed.
    pub fn has_list(&self) -> bool {
        self.list.is_some()
    }

    /// The entry of a member in the member list.
    pub fn listed(&self, member: &MemberName) -> Result<Option<&'a etcd::Member>, RecheckError> {
        Ok(listed(&self.cluster.names, self.list()?, member))
    }

    /// Fails if a member is listed.
    pub fn ensure_unlisted(&self, member: &MemberName) -> Result<(), RecheckError> {
        ensure(self.listed(member)?.is_none(), || format!("{member} is a member"))
    }

    /// Whether a voter answers under its ID and sees a leader, and its pod is not being deleted.
    pub fn is_healthy(&self, voter: &etcd::Member) -> bool {
        let Some(name) = self.list.and_then(|list| name_of(&self.cluster.names, list, voter)) else { return false };
        let stays = self.fresh.pods.get(&name).is_some_and(|pod| !is_terminating(pod));
        let answer = self.fresh.answers.get(&name);
        stays && answer.is_some_and(|status| status.member_id == voter.id && status.leader.is_some() && !status.is_learner)
    }

    /// Counts all voters, or all but one.
    pub fn voters(&self, but: Option<MemberId>) -> Result<Others, RecheckError> {
        let others: Vec<_> = self.list()?.voters().filter(|voter| Some(voter.id) != but).collect();
        Ok(Others { all: others.len(), healthy: others.iter().filter(|voter| self.is_healthy(voter)).count() })
    }

    /// Whether a member is the leader, according to its own status.
    pub fn leads(&self, id: MemberId) -> bool {
        self.fresh.answers.values().any(|status| status.member_id == id && status.leads())
    }
}
