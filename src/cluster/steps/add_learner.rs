//! Adding a member as a learner.

use super::{
    check::{Check, RecheckError, changed, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    cluster::{
        facts::pods::{pod_is_forced, template_is_forced},
        observed::{listed, name_of},
    },
    etcd::Change,
    names::MemberName,
};

/// Adds a member as a learner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddLearner {
    /// The member.
    pub member: MemberName,
    /// Whether it takes the place of a healthy member that is removed afterwards, so that there is one voter more for a while.
    pub replaces: bool,
}

impl Definition for AddLearner {
    fn name(&self) -> &'static str {
        "AddLearner"
    }
    fn progressing(&self) -> Reason {
        Reason::AddingLearner
    }
    fn done(&self) -> Reason {
        Reason::LearnerAdded
    }
    fn member(&self) -> Option<&MemberName> {
        Some(&self.member)
    }
    fn describe(&self) -> String {
        format!("adding {} as a learner", self.member)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members, Read::EachVotersList, Read::Claim(self.member.clone())]
    }

    /// A call that seemed to fail, or another operator, may have added it already.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Self { member, replaces } = &*self;
        let list = check.list()?;
        ensure(!list.members.iter().any(|m| m.is_learner), || "there already is a learner".into())?;
        check.ensure_unlisted(member)?;
        let voters = check.voters(None)?;
        ensure(voters.all < check.cluster.replicas as usize + usize::from(*replaces), || {
            format!("there already are {} voters", voters.all)
        })?;
        ensure(voters.healthy == voters.all, || format!("only {} of {} voters are healthy", voters.healthy, voters.all))?;
        self.ensure_removal_applied(check)?;
        // A member that starts as a cluster of one drops every member that was added.
        let fresh = check.fresh;
        let forced = fresh.pods.values().any(|pod| pod_is_forced(pod)) || fresh.sets.values().any(|set| template_is_forced(set));
        ensure(!forced, || "a member starts as a cluster of one".into())?;
        // That of a previous member of this name may have its data in it.
        ensure(!fresh.pods.contains_key(member), || format!("the pod of a previous {member} still exists"))?;
        // An existing claim would count as the new member's data.
        if fresh.claim.is_some() {
            let object = format!("PersistentVolumeClaim {}", check.cluster.names.claim(member));
            return Err(RecheckError::InTheWay { object, owner: format!("it exists before {member} was added") });
        }
        Ok(())
    }

    fn effects(&self, check: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::AddLearner { peer_url: check.cluster.names.peer_url(&self.member) })]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("added {} as a learner", self.member)
    }
}

impl AddLearner {
    /// A new member takes its ID from the first voter that it can reach. A voter that has not yet applied the removal of the
    /// previous member of this name would give it the ID of that member, under which it must not start without the data.
    fn ensure_removal_applied(&self, check: &Check) -> Result<(), RecheckError> {
        let (names, list) = (&check.cluster.names, check.list()?);
        for voter in list.voters().filter_map(|voter| name_of(names, list, voter)) {
            let Some(list) = check.fresh.lists.get(&voter) else {
                return changed(format!("{voter} may not have applied the last change: it returns no member list"));
            };
            ensure(listed(names, list, &self.member).is_none(), || format!("{voter} still lists {}", self.member))?;
        }
        Ok(())
    }
}
