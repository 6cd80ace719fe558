//! Whether a step is still right, decided on fresh reads. What several steps ask is here.

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
    /// An object exists that must not be used, and that the plan cannot see.
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

/// Fails unless something holds.
pub fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), RecheckError> {
    if holds { Ok(()) } else { changed(otherwise()) }
}

/// The voters other than one of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Others {
    /// Their number.
    pub all: usize,
    /// How many of them are healthy.
    pub healthy: usize,
}

impl Others {
    /// Whether the healthy ones are a quorum of the others.
    pub fn are_quorum(self) -> bool {
        self.healthy > self.all / 2
    }

    /// Whether the healthy ones are a quorum of all, the one included.
    pub fn can_spare(self) -> bool {
        self.healthy > self.all.div_ceil(2)
    }
}

/// What a precondition is decided on.
pub struct Check<'a> {
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// What was read afresh.
    pub fresh: &'a Fresh,
    /// The member list, if it is that of the cluster that was bootstrapped.
    list: Option<&'a etcd::MemberList>,
}

impl<'a> Check<'a> {
    /// A check of the cluster whose ID is `known` once it was bootstrapped.
    pub fn new(cluster: &'a ValidatedCluster, known: Option<ClusterId>, fresh: &'a Fresh) -> Self {
        let list = fresh.list.as_ref().filter(|list| known.is_none_or(|known| known == list.cluster_id));
        Self { cluster, fresh, list }
    }

    /// The member list.
    ///
    /// # Errors
    /// When no quorum gives one.
    pub fn list(&self) -> Result<&'a etcd::MemberList, RecheckError> {
        self.list.map_or_else(|| changed("no quorum gives a member list"), Ok)
    }

    /// Whether a quorum gives a member list.
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

    /// All voters, or all but one.
    pub fn voters(&self, but: Option<MemberId>) -> Result<Others, RecheckError> {
        let others: Vec<_> = self.list()?.voters().filter(|voter| Some(voter.id) != but).collect();
        Ok(Others { all: others.len(), healthy: others.iter().filter(|voter| self.is_healthy(voter)).count() })
    }

    /// Whether a member leads, by its own word.
    pub fn leads(&self, id: MemberId) -> bool {
        self.fresh.answers.values().any(|status| status.member_id == id && status.leads())
    }
}
