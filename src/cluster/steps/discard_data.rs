//! Discarding the data of all members but one, before a cluster is recovered from that one.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    cluster::facts::{lost_quorum::join_names, pods::is_stopped},
    ids::Uid,
    names::{MemberName, annotation as key},
};

/// Records on the claims of members that their data is discarded: no member is started with it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscardData {
    /// The member whose data is kept.
    pub survivor: MemberName,
    /// The members, and the uids of their claims.
    pub claims: Vec<(MemberName, Uid)>,
}

impl Definition for DiscardData {
    fn name(&self) -> &'static str {
        "DiscardData"
    }
    fn progressing(&self) -> Reason {
        Reason::DiscardingData
    }
    fn done(&self) -> Reason {
        Reason::DataDiscarded
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.survivor)
    }
    fn describe(&self) -> String {
        format!(
            "discarding the data of {} to recover the cluster from {}",
            join_names(self.claims.iter().map(|(name, _)| name)),
            self.survivor
        )
    }
    fn reads(&self) -> Vec<Read> {
        let each = self.claims.iter().map(|(member, _)| Read::ByName(member.clone()));
        [Read::Members].into_iter().chain(each).collect()
    }

    /// The data must not be in use: there is no quorum and no pod, and none will be created.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let fresh = check.fresh;
        ensure(fresh.list.is_none(), || "there is a quorum".into())?;
        for (member, _) in &self.claims {
            let may_run = fresh.pods.contains_key(member) || fresh.sets.get(member).is_some_and(|set| !is_stopped(set));
            ensure(!may_run, || format!("{member} is not stopped"))?;
        }
        Ok(())
    }

    fn effects(&self, check: &Check) -> Vec<Effect> {
        let discard = |(member, uid): &(MemberName, Uid)| Effect::AnnotateClaim {
            name: check.cluster.names.claim(member),
            uid: uid.clone(),
            annotations: [(key::DISCARDED_FOR, self.survivor.to_string())].into(),
        };
        self.claims.iter().map(discard).collect()
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!(
            "discarded the data of {} to recover the cluster from {}",
            join_names(self.claims.iter().map(|(name, _)| name)),
            self.survivor
        )
    }
}
