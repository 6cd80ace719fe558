//! Promoting a learner to a voter.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{api::Reason, etcd::Change, ids::MemberId, names::MemberName};

/// Promotes a learner to a voter. etcd refuses it until the learner has caught up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promote {
    /// The member.
    pub member: MemberName,
    /// Its ID.
    pub id: MemberId,
}

impl Definition for Promote {
    fn name(&self) -> &'static str {
        "Promote"
    }
    fn progressing(&self) -> Reason {
        Reason::PromotingLearner
    }
    fn done(&self) -> Reason {
        Reason::LearnerPromoted
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("promoting {} to a voter as soon as it has caught up", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// The member must answer: a voter that does not run could cost the quorum.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Self { member, id } = self;
        let is_learner = check.listed(member)?.is_some_and(|listed| listed.id == *id && listed.is_learner);
        ensure(is_learner, || format!("{member} is not the learner {id}"))?;
        let answers = check.fresh.answers.get(member).is_some_and(|status| status.member_id == *id);
        ensure(answers, || format!("{member} does not answer"))?;
        Ok(())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::Promote { id: self.id })]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("{} has caught up and is a voter now", self.member)
    }
}
