//! Removing a member.

use super::{
    check::{Check, RecheckError, changed, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{api::Reason, etcd::Change, ids::MemberId, names::MemberName};

/// Removes a member from etcd's list. Its ID is never used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveMember {
    /// The member.
    pub member: MemberName,
    /// Its ID.
    pub id: MemberId,
}

impl Definition for RemoveMember {
    fn name(&self) -> &'static str {
        "RemoveMember"
    }
    fn progressing(&self) -> Reason {
        Reason::RemovingMember
    }
    fn done(&self) -> Reason {
        Reason::MemberRemoved
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("removing {} from the members", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// The healthy members that remain must be a quorum. A healthy member is removed only if that is desired, all others are
    /// healthy, and it is not the leader.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Self { member, id } = self;
        let listed = check.listed(member)?.filter(|listed| listed.id == *id);
        let Some(listed) = listed else { return changed(format!("{member} is not the member {id}")) };
        if listed.is_learner {
            return Ok(());
        }
        let others = check.voters(Some(*id))?;
        ensure(others.are_quorum(), || format!("only {} of the {} others are healthy", others.healthy, others.all))?;
        if check.is_healthy(listed) {
            let is_requested = check.cluster.requests.replace.as_deref() == Some(member.as_str());
            let (voters, desired) = (others.all + 1, check.cluster.replicas as usize);
            ensure(voters > desired || is_requested, || format!("{member} is healthy"))?;
            let is_settled = voters >= desired && !check.list()?.members.iter().any(|m| m.is_learner);
            ensure(voters > desired || is_settled, || format!("{member} is healthy, and another change is in progress"))?;
            ensure(others.healthy == others.all, || {
                format!("{member} is healthy, and only {} of the {} others are", others.healthy, others.all)
            })?;
            ensure(!check.leads(*id), || format!("{member} is the leader"))?;
        }
        Ok(())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::Remove { id: self.id })]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("removed {} ({}) from the members", self.member, self.id)
    }
}
