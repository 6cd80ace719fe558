//! Moving leadership before the leader stops.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{api::Reason, etcd::Change, ids::MemberId, names::MemberName};

/// Makes another voter the leader, so that clients need not wait for an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveLeader {
    /// The leader.
    pub member: MemberName,
    /// Its ID.
    pub from: MemberId,
    /// The next leader.
    pub successor: MemberName,
    /// Its ID.
    pub to: MemberId,
}

impl Definition for MoveLeader {
    fn name(&self) -> &'static str {
        "MoveLeader"
    }
    fn progressing(&self) -> Reason {
        Reason::MovingLeader
    }
    fn done(&self) -> Reason {
        Reason::LeaderMoved
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("moving leadership from {} to {}", self.member, self.successor)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        ensure(check.leads(self.from), || format!("{} is not the leader", self.member))?;
        let to = check.list()?.voters().find(|listed| listed.id == self.to);
        ensure(to.is_some_and(|to| check.is_healthy(to)), || "the next leader is not healthy".into())?;
        Ok(())
    }
    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::MoveLeader { to: self.to })]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("moved leadership from {} to {}", self.member, self.successor)
    }
}
