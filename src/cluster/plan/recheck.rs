//! Whether a step is still right, decided on what was read just now. Pure.
//!
//! A plan is made from caches, which are behind, and of answers that may be seconds old; meanwhile another operator may have
//! acted. So nothing that cannot be taken back is done before it is decided again here, on nothing but fresh reads, that the
//! cluster can bear it. The reason for it is the one that the plan has seen.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    Step,
    adoption::{Left, is_left},
    members::{has_never_served, is_stuck},
    recovery::{is_current, is_stopped, pod_bears_flag, template_bears_flag},
    rotation::{Rotate, Turn, believes_nobody, started_with},
};
use crate::{
    cluster::{
        build,
        observed::{annotation, listed, name_of, pod_ready},
        seen::Seen,
        validate::ValidatedCluster,
    },
    etcd::{self, Change, MemberStatus},
    names::{MemberName, annotation as key},
    pki::Holder,
};

/// What was read freshly for a step. What could not be read is not there.
#[derive(Clone, Debug, Default)]
pub struct Fresh {
    /// The pods, by member.
    pub pods: BTreeMap<MemberName, Seen<Pod>>,
    /// The StatefulSets, by member.
    pub sets: BTreeMap<MemberName, StatefulSet>,
    /// What members say of themselves.
    pub answers: BTreeMap<MemberName, MemberStatus>,
    /// The members, as a quorum knows them.
    pub list: Option<etcd::MemberList>,
    /// The same as each voter gives it itself, before a member is added. Who does has applied what was committed until then.
    pub lists: BTreeMap<MemberName, etcd::MemberList>,
    /// The claim of the member that is to be added or restarted.
    pub claim: Option<ObjectMeta>,
    /// What there is of the objects that are to be taken over.
    pub left: Vec<ObjectMeta>,
    /// The uids of the users that there are, of those whose certificates are to be revoked.
    pub users: BTreeSet<String>,
}

/// Why a step is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotNow {
    /// Something is not any more as it was when the step was planned.
    #[error("{0}")]
    Changed(String),
    /// There is an object that must not be used, and the plan cannot see it.
    #[error("{object} cannot be used: {owner}")]
    InTheWay {
        /// Its kind and name.
        object: String,
        /// Whose it is.
        owner: String,
    },
}

fn changed<T>(why: impl Into<String>) -> Result<T, NotNow> {
    Err(NotNow::Changed(why.into()))
}

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), NotNow> {
    if holds { Ok(()) } else { changed(otherwise()) }
}

/// What of a step is still right: all of it, or of several holders those that are gone. `known` is the ID of the cluster that
/// was founded.
///
/// # Errors
/// Why it is not right any more.
pub fn recheck(step: &Step, cluster: &ValidatedCluster, known: Option<&str>, fresh: &Fresh) -> Result<Step, NotNow> {
    let check = Check { cluster, fresh, list: fresh.list.as_ref().filter(|list| is_known(list, known)) };
    match step {
        Step::LockBootstrap { cluster_id, members } => check.lock_bootstrap(*cluster_id, members)?,
        Step::Revoke { domain, holders } => {
            let holders = holders.iter().filter(|holder| check.is_gone(holder)).cloned().collect();
            return Ok(Step::Revoke { domain: *domain, holders });
        }
        // Whether the authorities are those that were seen is checked where they are changed.
        Step::Rotate(rotate) => check.rotate(rotate)?,
        Step::TakeOver { objects, from } => check.take_over(objects, from)?,
        Step::AddLearner { member } => check.add_learner(member)?,
        Step::Promote { member, id } => check.promote(member, *id)?,
        Step::RemoveMember { member, id } => check.remove(member, *id)?,
        Step::RemoveUnstarted { id } => check.remove_unstarted(*id)?,
        Step::MoveLeader { member, from, to, .. } => check.move_leader(member, *from, *to)?,
        Step::DeleteBudget { .. } => {
            let votes = check.list()?.voters().count();
            ensure(!build::is_redundant(cluster, votes), || format!("there are {votes} voters now"))?;
        }
        Step::DeleteStatefulSet { member, .. } => check.is_unlisted(member)?,
        Step::DeleteClaim { member, .. } => {
            check.is_unlisted(member)?;
            ensure(!fresh.pods.contains_key(member), || format!("{member} has a pod, which may write to it"))?;
        }
        Step::GiveUp { claims, .. } => check.give_up(claims)?,
        Step::RestartMember { member, pod_uid } => check.restart(member, pod_uid)?,
    }
    Ok(step.clone())
}

fn is_known(list: &etcd::MemberList, known: Option<&str>) -> bool {
    known.is_none_or(|known| list.is_of(known))
}

/// The change of the members that a step is. It is to be sent to the leader, who alone can judge learners and give up its place.
pub fn change(step: &Step, cluster: &ValidatedCluster) -> Option<Change> {
    match step {
        Step::AddLearner { member } => Some(Change::AddLearner { peer_url: cluster.names.peer_url(member) }),
        Step::Promote { id, .. } => Some(Change::Promote { id: *id }),
        Step::RemoveMember { id, .. } | Step::RemoveUnstarted { id } => Some(Change::Remove { id: *id }),
        Step::MoveLeader { to, .. } => Some(Change::MoveLeader { to: *to }),
        _ => None,
    }
}

/// The member that leads, by its own word.
pub fn leader(fresh: &Fresh) -> Option<&MemberName> {
    let leads = |status: &MemberStatus| status.leader == status.member_id;
    fresh.answers.iter().find(|(_, status)| leads(status)).map(|(name, _)| name)
}

struct Check<'a> {
    cluster: &'a ValidatedCluster,
    fresh: &'a Fresh,
    list: Option<&'a etcd::MemberList>,
}

impl Check<'_> {
    fn list(&self) -> Result<&etcd::MemberList, NotNow> {
        self.list.map_or_else(|| changed("no quorum says who the members are"), Ok)
    }

    /// The member of this name that etcd lists.
    fn listed(&self, member: &MemberName) -> Result<Option<&etcd::Member>, NotNow> {
        Ok(listed(&self.cluster.names, self.list()?, member))
    }

    fn is_unlisted(&self, member: &MemberName) -> Result<(), NotNow> {
        ensure(self.listed(member)?.is_none(), || format!("{member} is a member"))
    }

    /// Whether a voter answers under its ID and is in touch with a leader, and its pod stays.
    fn serves(&self, voter: &etcd::Member) -> bool {
        let Some(name) = self.list.and_then(|list| name_of(&self.cluster.names, list, voter)) else { return false };
        let stays = self.fresh.pods.get(&name).is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        let answer = self.fresh.answers.get(&name);
        stays && answer.is_some_and(|status| status.member_id == voter.id && status.leader != 0 && !status.is_learner)
    }

    /// The voters but one, and how many of them serve.
    fn others(&self, but: u64) -> Result<(usize, usize), NotNow> {
        let others: Vec<_> = self.list()?.voters().filter(|m| m.id != but).collect();
        Ok((others.len(), others.iter().filter(|voter| self.serves(voter)).count()))
    }

    fn lock_bootstrap(&self, cluster_id: u64, members: &[(MemberName, u64, String)]) -> Result<(), NotNow> {
        ensure(self.list()?.cluster_id == cluster_id, || "the members are in another cluster".into())?;
        for (name, id, _) in members {
            let started = self.listed(name)?.is_some_and(|listed| listed.id == *id && !listed.name.is_empty());
            ensure(started, || format!("{name} is not the member {id:x}"))?;
        }
        Ok(())
    }

    fn is_gone(&self, holder: &Holder) -> bool {
        match holder {
            Holder::User { uid, .. } => !self.fresh.users.contains(uid),
            Holder::Member { name } => {
                let member = self.cluster.names.parse_member(name);
                member.is_some_and(|member| self.is_unlisted(&member).is_ok())
            }
            Holder::Operator => false,
        }
    }

    /// An authority signs only if every member that runs was made with it, as long as the one before it can.
    fn rotate(&self, rotate: &Rotate) -> Result<(), NotNow> {
        let Some([_, next]) = rotate.seen.as_ref().filter(|_| rotate.turn == Turn::Switch && !rotate.at_once) else {
            return Ok(());
        };
        for (name, pod) in &self.fresh.pods {
            let knows = started_with(&pod.metadata, rotate.domain).any(|name| name == next);
            // Nobody talks to one that has been removed. In a rotation in phases what is left of it goes only after this.
            let is_gone = self.listed(name).is_ok_and(|listed| listed.is_none());
            ensure(knows || is_gone, || format!("{name} has not started with the next {} authority", rotate.domain))?;
        }
        Ok(())
    }

    /// All of it must still be the deleted cluster's, and nobody's who would delete it.
    fn take_over(&self, objects: &[Left], from: &str) -> Result<(), NotNow> {
        for left in objects {
            let there = self.fresh.left.iter().find(|there| there.uid.as_ref() == Some(&left.uid));
            let is_as_seen = there.is_some_and(|meta| annotation(meta, key::CLUSTER_UID) == Some(from) && is_left(meta));
            ensure(is_as_seen, || format!("{} is not what it was", left.describe()))?;
        }
        Ok(())
    }

    /// It may have been added by a call that seemed to fail, or by another operator.
    fn add_learner(&self, member: &MemberName) -> Result<(), NotNow> {
        let list = self.list()?;
        ensure(!list.members.iter().any(|m| m.is_learner), || "there is a learner".into())?;
        self.is_unlisted(member)?;
        let (voters, serving) = self.others(0)?;
        ensure(voters < self.cluster.replicas as usize, || format!("there are {voters} voters"))?;
        ensure(serving == voters, || format!("only {serving} of {voters} voters serve"))?;
        self.has_been_forgotten(member)?;
        // Who is started as a cluster of one forgets everybody that was added.
        let forced = self.fresh.pods.values().any(|pod| pod_bears_flag(pod)) || self.fresh.sets.values().any(template_bears_flag);
        ensure(!forced, || "a member starts as a cluster of one".into())?;
        // A claim that is there would be taken for the new member's data.
        if self.fresh.claim.is_some() {
            let object = format!("PersistentVolumeClaim {}", self.cluster.names.claim(member));
            return Err(NotNow::InTheWay { object, owner: format!("it is there before {member} was added") });
        }
        Ok(())
    }

    /// A joiner takes its ID from the first voter that it can ask. One that has not applied yet that the last member of this
    /// name was removed would give it the ID of that one, under which it must not come again without its data.
    fn has_been_forgotten(&self, member: &MemberName) -> Result<(), NotNow> {
        let (names, list) = (&self.cluster.names, self.list()?);
        for voter in list.voters().filter_map(|voter| name_of(names, list, voter)) {
            let Some(list) = self.fresh.lists.get(&voter) else {
                return changed(format!("{voter} may be behind: it does not say who the members are"));
            };
            ensure(listed(names, list, member).is_none(), || format!("{voter} still lists {member}"))?;
        }
        Ok(())
    }

    /// A vote for one that does not run could cost quorum.
    fn promote(&self, member: &MemberName, id: u64) -> Result<(), NotNow> {
        let learner = self.listed(member)?.is_some_and(|listed| listed.id == id && listed.is_learner);
        ensure(learner, || format!("{member} is not the learner {id:x}"))?;
        let answers = self.fresh.answers.get(member).is_some_and(|status| status.member_id == id);
        ensure(answers, || format!("{member} does not answer"))
    }

    /// Those that remain and serve must be a quorum without it. One that serves goes only if that is wanted, while all others
    /// serve, and after it has given up leadership.
    fn remove(&self, member: &MemberName, id: u64) -> Result<(), NotNow> {
        let listed = self.listed(member)?.filter(|listed| listed.id == id);
        let Some(listed) = listed else { return changed(format!("{member} is not the member {id:x}")) };
        if listed.is_learner {
            return Ok(());
        }
        let (others, serving) = self.others(id)?;
        ensure(serving > others / 2, || format!("only {serving} of the {others} others serve"))?;
        if !self.serves(listed) {
            return Ok(());
        }
        let named = self.cluster.replace.as_deref() == Some(member.as_str());
        let (voters, wanted) = (others + 1, self.cluster.replicas as usize);
        ensure(voters > wanted || named, || format!("{member} serves"))?;
        let whole = voters >= wanted && !self.list()?.members.iter().any(|m| m.is_learner);
        ensure(voters > wanted || whole, || format!("{member} serves, and another change is not over"))?;
        ensure(serving == others, || format!("{member} serves, and only {serving} of the {others} others do"))?;
        ensure(!self.leads(id), || format!("{member} leads"))
    }

    /// Nobody has started it meanwhile, and those that serve are a quorum without it.
    fn remove_unstarted(&self, id: u64) -> Result<(), NotNow> {
        let listed = self.list()?.members.iter().find(|listed| listed.id == id && listed.name.is_empty());
        let Some(listed) = listed else { return changed(format!("{id:x} has started, or is no member")) };
        let (others, serving) = self.others(id)?;
        ensure(listed.is_learner || serving > others / 2, || format!("only {serving} of the {others} others serve"))
    }

    fn leads(&self, id: u64) -> bool {
        self.fresh.answers.values().any(|status| status.member_id == id && status.leader == id)
    }

    fn move_leader(&self, member: &MemberName, from: u64, to: u64) -> Result<(), NotNow> {
        ensure(self.leads(from), || format!("{member} does not lead"))?;
        let to = self.list()?.voters().find(|listed| listed.id == to);
        ensure(to.is_some_and(|to| self.serves(to)), || "the next leader does not serve".into())
    }

    /// Nobody may be using the data: there is no quorum, no pod, and none will be made.
    fn give_up(&self, claims: &[(MemberName, String)]) -> Result<(), NotNow> {
        ensure(self.fresh.list.is_none(), || "there is a quorum".into())?;
        for (member, _) in claims {
            let runs = self.fresh.pods.contains_key(member) || self.fresh.sets.get(member).is_some_and(|set| !is_stopped(set));
            ensure(!runs, || format!("{member} is not stopped"))?;
        }
        Ok(())
    }

    /// Whether a pod was made from a template that has, or has lost, the flag of a recovery since. A pod that is to forget the
    /// others is not made as long as there is a list.
    fn is_turned(&self, member: &MemberName, pod: &Pod) -> bool {
        let set = self.fresh.sets.get(member).filter(|set| is_current(set));
        match (pod_bears_flag(pod), set.map(template_bears_flag)) {
            (false, Some(true)) => self.fresh.list.is_none(),
            (true, Some(false)) => true,
            _ => false,
        }
    }

    /// No restart takes data along that the others are no quorum without. But for that a pod that can't start may always be
    /// made anew. Otherwise a restart was asked for, and without the member the others must be a quorum: one that does not
    /// answer the operator may still be what makes them one. With fewer than 3 voters there is no such choice.
    fn restart(&self, member: &MemberName, pod_uid: &str) -> Result<(), NotNow> {
        let pod = self.fresh.pods.get(member);
        let pod = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(pod_uid) && pod.metadata.deletion_timestamp.is_none());
        let Some(pod) = pod else { return changed(format!("the pod of {member} is another one")) };
        let listed = self.listed(member);
        let (others, serving) = listed.as_ref().ok().copied().flatten().map_or(Ok((0, 0)), |listed| self.others(listed.id))?;
        let is_spare = serving > others.div_ceil(2);
        let doomed = self.fresh.claim.as_ref().is_some_and(|claim| claim.deletion_timestamp.is_some());
        ensure(is_spare || !doomed, || format!("the claim of {member} goes with its pod, and the others are no quorum"))?;
        let unbelieving = self.fresh.sets.get(member).is_some_and(|set| believes_nobody(pod, set));
        if self.is_turned(member, pod) || is_stuck(pod) || unbelieving {
            return Ok(());
        }
        // Where nobody gives a list nobody serves, and one that never has is not what is missing.
        if has_never_served(pod) && !self.fresh.answers.contains_key(member) && (is_spare || self.list.is_none()) {
            return Ok(());
        }
        let wanted = self.cluster.restarted_at.as_deref();
        let asked = wanted.is_some_and(|at| annotation(&pod.metadata, key::RESTARTED_AT) != Some(at));
        let template = self.fresh.sets.get(member).map(|set| &set.spec.template);
        let changed_since = template.is_some_and(|template| {
            let bundles = template.metadata.as_ref().and_then(|meta| annotation(meta, key::BUNDLES));
            let asks = build::asks_clients(pod.spec.as_ref()) != build::asks_clients(template.spec.as_ref());
            asks || bundles.is_some_and(|bundles| annotation(&pod.metadata, key::BUNDLES) != Some(bundles))
        });
        ensure(asked || changed_since, || format!("{member} has been restarted"))?;
        let Some(listed) = listed? else { return changed(format!("{member} is no member")) };
        if listed.is_learner {
            return Ok(());
        }
        ensure(others < 2 || is_spare, || format!("only {serving} of the {others} others serve"))?;
        if self.serves(listed) || pod_ready(pod) {
            ensure(serving == others, || format!("{member} serves, and only {serving} of the {others} others do"))?;
            ensure(others == 0 || !self.leads(listed.id), || format!("{member} leads"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "recheck_tests.rs"]
mod tests;
