//! What must never happen, looked at when an operator decides and when it has acted. What etcd's model finds by itself, such as
//! a lost write or a second cluster, is found there.

use etcd_warden::{
    cluster::steps::{
        AddLearner, DeleteClaim, DeleteStatefulSet, Effect, MoveLeader, Promote, RemoveMember, RestartMember, Step,
    },
    names::MemberName,
};

use crate::{
    etcd::{Id, Listed},
    kubernetes::{Slot, place},
    run::World,
};

impl World {
    /// Whether a step is right, by what is true in the moment in which an operator read it.
    pub fn judge(&mut self, step: &Step) {
        self.decide();
        if let Some(wrong) = self.wrong(step) {
            self.broken.push(format!("{}: {wrong}", step.describe()));
        }
    }

    fn wrong(&self, step: &Step) -> Option<String> {
        let members = self.etcd.members().unwrap_or_else(|| self.etcd.best());
        let listed = |member: &MemberName| members.iter().find(|m| m.place == place(member));
        let others = |but: Id| {
            let others: Vec<&Listed> = members.iter().filter(|m| !m.learner && m.id != but).collect();
            (others.len(), others.iter().filter(|m| self.is_healthy(m)).count())
        };
        match step {
            Step::RemoveMember(RemoveMember { member, id }) => {
                let listed = listed(member).filter(|m| m.id == id.0 && !m.learner)?;
                let (all, healthy) = others(id.0);
                if self.is_healthy(listed) && healthy < all {
                    return Some(format!("it is healthy, and of {all} others {healthy} are"));
                }
                (healthy <= all / 2).then(|| format!("only {healthy} of {all} others are healthy"))
            }
            Step::RestartMember(RestartMember { member, pod_uid: _ }) => {
                let listed = listed(member).filter(|m| !m.learner && self.etcd.processes.contains_key(&m.place))?;
                let (all, healthy) = others(listed.id);
                if self.is_healthy(listed) && healthy < all {
                    return Some(format!("it is healthy, and of {all} others {healthy} are"));
                }
                // The one that is restarted counts for quorum and not for those that keep it.
                (all > 1 && healthy <= all.div_ceil(2) && self.has_quorum())
                    .then(|| format!("only {healthy} of {all} others are healthy"))
            }
            Step::Promote(Promote { member, id: _ }) => {
                let up = listed(member).is_some_and(|m| self.etcd.processes.get(&m.place).is_some_and(|p| p.id == m.id));
                (!up).then(|| "it does not run".into())
            }
            Step::AddLearner(AddLearner { member: _ }) => members.iter().any(|m| m.learner).then(|| "there is a learner".into()),
            Step::DeleteClaim(DeleteClaim { member, .. }) | Step::DeleteStatefulSet(DeleteStatefulSet { member, .. }) => {
                listed(member).map(|_| "it is a member".into())
            }
            Step::MoveLeader(MoveLeader { to, .. }) => {
                let to = members.iter().find(|m| m.id == to.0 && !m.learner);
                (!to.is_some_and(|to| self.is_healthy(to))).then(|| "the next leader is not healthy".into())
            }
            // Another cluster left nothing, no member is added by hand, no survivor is named and no authority expires or is rotated.
            Step::Adopt(_) | Step::DiscardData(_) | Step::RemoveUnstarted(_) | Step::ChangeAuthorities(_) => {
                Some("there is no cause".into())
            }
            Step::RecordMembers(_) | Step::Revoke(_) | Step::DeleteBudget(_) => None,
        }
    }

    /// Whether Kubernetes checks an effect against what others do meanwhile: an eviction of a pod that is ready, where there is a
    /// disruption budget.
    pub fn is_fenced(&self, effect: &Effect) -> bool {
        let Effect::Evict { member, uid: _ } = effect else { return false };
        let is_ready = self.kubernetes.pods.get(&place(member)).is_some_and(|kept| kept.ready);
        is_ready && self.kubernetes.things.budget(Slot::Budget).is_some() && self.is_unsurprised()
    }

    /// Whether a step that was taken has cost quorum: by what the operator could have known, if nothing came between. Another operator
    /// is no excuse where Kubernetes checks.
    pub fn after(&mut self, step: &Step, before: bool, was_fenced: bool) {
        let voters = self.etcd.members().unwrap_or_else(|| self.etcd.best()).iter().filter(|m| !m.learner).count();
        let announced = matches!(step, Step::RestartMember(_)) && voters < 3;
        if before && !announced && !self.has_quorum() && (was_fenced || self.is_as_decided()) {
            self.broken.push(format!("{}: quorum is lost", step.describe()));
        }
    }
}
