//! Removing a member that the operator did not add.

use super::{
    check::{Check, RecheckError, changed, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{api::Reason, etcd::Change, ids::MemberId};

/// Removes a member that the operator did not add and that never started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveUnstarted {
    /// Its ID.
    pub id: MemberId,
}

impl Definition for RemoveUnstarted {
    fn name(&self) -> &'static str {
        "RemoveUnstarted"
    }
    fn progressing(&self) -> Reason {
        Reason::RemovingUnstartedMember
    }
    fn done(&self) -> Reason {
        Reason::UnstartedMemberRemoved
    }
    fn describe(&self) -> String {
        format!("removing member {}, which the operator did not add and which never started", self.id)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// It must not have started meanwhile, and the healthy members must be a quorum without it.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Self { id } = self;
        let listed = check.list()?.members.iter().find(|listed| listed.id == *id && listed.name.is_empty());
        let Some(listed) = listed else { return changed(format!("{id} has started, or is no member")) };
        let others = check.voters(Some(*id))?;
        ensure(listed.is_learner || others.are_quorum(), || {
            format!("only {} of the {} others are healthy", others.healthy, others.all)
        })?;
        Ok(())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::Remove { id: self.id })]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("removed member {}, which the operator did not add and which never started", self.id)
    }
}
