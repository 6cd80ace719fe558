//! Deleting objects that are no longer needed: a PodDisruptionBudget without redundancy to protect, and the objects of removed
//! members.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::{Deletable, Effect},
    fresh::Read,
};
use crate::{api::Reason, cluster::objects, ids::Uid, names::MemberName};

/// Deletes the PodDisruptionBudget, because the cluster has no redundancy that it could protect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteBudget {
    /// Its uid.
    pub uid: Uid,
}

impl Definition for DeleteBudget {
    fn name(&self) -> &'static str {
        "DeleteBudget"
    }
    fn progressing(&self) -> Reason {
        Reason::DeletingDisruptionBudget
    }
    fn done(&self) -> Reason {
        Reason::DisruptionBudgetDeleted
    }
    fn describe(&self) -> String {
        "deleting the PodDisruptionBudget, because there is no redundancy to protect".into()
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let votes = check.list()?.voters().count();
        ensure(!objects::is_redundant(check.cluster, votes), || format!("there are {votes} voters now"))?;
        Ok(())
    }
    fn effects(&self, check: &Check) -> Vec<Effect> {
        let name = check.cluster.names.disruption_budget();
        vec![Effect::Delete { kind: Deletable::DisruptionBudget, name, uid: self.uid.clone() }]
    }
    fn describe_done(&self, check: &Check, _: usize) -> String {
        let name = check.cluster.names.disruption_budget();
        format!("deleted PodDisruptionBudget {name}: with fewer than 3 members there is no redundancy to protect")
    }
}

/// Deletes the StatefulSet of a removed member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteStatefulSet {
    /// The member.
    pub member: MemberName,
    /// The uid of its StatefulSet.
    pub uid: Uid,
}

impl Definition for DeleteStatefulSet {
    fn name(&self) -> &'static str {
        "DeleteStatefulSet"
    }
    fn progressing(&self) -> Reason {
        Reason::DeletingStatefulSet
    }
    fn done(&self) -> Reason {
        Reason::StatefulSetDeleted
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("deleting the StatefulSet of the removed member {}", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        check.ensure_unlisted(&self.member)?;
        Ok(())
    }
    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::Delete { kind: Deletable::StatefulSet, name: self.member.to_string(), uid: self.uid.clone() }]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("deleted StatefulSet {} of the removed member", self.member)
    }
}

/// Deletes the claim of a removed member, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteClaim {
    /// The member.
    pub member: MemberName,
    /// The uid of its claim.
    pub uid: Uid,
}

impl Definition for DeleteClaim {
    fn name(&self) -> &'static str {
        "DeleteClaim"
    }
    fn progressing(&self) -> Reason {
        Reason::DeletingClaim
    }
    fn done(&self) -> Reason {
        Reason::ClaimDeleted
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("deleting the PersistentVolumeClaim of the removed member {}", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members, Read::ByName(self.member.clone())]
    }

    /// No pod may be able to write to it.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        check.ensure_unlisted(&self.member)?;
        ensure(!check.fresh.pods.contains_key(&self.member), || format!("{} has a pod, which may write to it", self.member))?;
        Ok(())
    }

    fn effects(&self, check: &Check) -> Vec<Effect> {
        vec![Effect::Delete { kind: Deletable::Claim, name: check.cluster.names.claim(&self.member), uid: self.uid.clone() }]
    }
    fn describe_done(&self, check: &Check, _: usize) -> String {
        format!("deleted PersistentVolumeClaim {} of the removed member {}", check.cluster.names.claim(&self.member), self.member)
    }
}
