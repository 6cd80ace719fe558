//! Who is to become a member and who is to go: the steps that touch quorum, of which restarts are the last (`restart.rs`).
//!
//! Nothing is decided without a list that a quorum confirmed. **No step takes a cluster that has quorum below it**: a healthy
//! voter goes only while all others serve, and another takes its place before the next goes; a dead one goes as soon as the healthy
//! are a quorum of what remains, even if another one is dead: with two of five lost, three of three remain, where one replaced before
//! the other goes would be three of four meanwhile. New ones come one after the other. etcd's own checks (strict reconfiguration,
//! one learner) are the last fence behind this.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    CONFIRMING, EndedWish, Note, Plan, Step, certificates, evidence,
    members::{since, why_not_ready},
    restart::{Wanted, restart, tried},
};
use crate::{
    api::{self, EtcdClusterStatus},
    cluster::{
        observed::{Observed, ObservedMember, belongs, name_of, running_since},
        validate::ValidatedCluster,
    },
    etcd,
    names::{MemberName, annotation as key},
};

/// etcd's members, matched with what there is of them.
pub struct Roster<'a> {
    /// Voters that bear a name of this cluster's.
    pub voters: BTreeMap<MemberName, Entry<'a>>,
    /// Learners that bear a name of this cluster's.
    pub learners: BTreeMap<MemberName, Entry<'a>>,
    /// Members at URLs that are not this cluster's: somebody else added them.
    pub strangers: Vec<&'a etcd::Member>,
    /// What there is of members that etcd does not list: they have been removed.
    pub unlisted: BTreeMap<MemberName, &'a ObservedMember>,
}

/// A member that etcd lists.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// What etcd says of it.
    pub listed: &'a etcd::Member,
    /// What there is of it.
    pub member: &'a ObservedMember,
}

impl Entry<'_> {
    /// Whether it serves as the member that etcd lists.
    pub fn serves(&self) -> bool {
        self.member.serves() && self.member.etcd.status().is_some_and(|status| status.member_id == self.listed.id)
    }

    /// Whether it answers as the member that etcd lists, and its pod stays.
    fn answers(&self) -> bool {
        let stays = self.member.pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
        stays && self.member.etcd.status().is_some_and(|status| status.member_id == self.listed.id)
    }

    pub(super) fn leads(&self) -> bool {
        self.member.etcd.status().is_some_and(|status| status.leader == self.listed.id)
    }
}

impl<'a> Roster<'a> {
    /// The members, if a quorum says who they are and it is the cluster that was founded.
    pub fn read(cluster: &ValidatedCluster, observed: &'a Observed) -> Option<Self> {
        let list = observed.list.as_ref().ok()?;
        if !list.is_of(observed.status.cluster_id.as_ref()?) {
            return None;
        }
        let mut roster = Self {
            voters: BTreeMap::new(),
            learners: BTreeMap::new(),
            strangers: vec![],
            unlisted: observed.members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        };
        for listed in &list.members {
            let name = name_of(&cluster.names, list, listed);
            match name.and_then(|name| Some((roster.unlisted.remove(&name)?, name))) {
                None => roster.strangers.push(listed),
                Some((member, name)) if listed.is_learner => {
                    roster.learners.insert(name, Entry { listed, member });
                }
                Some((member, name)) => {
                    roster.voters.insert(name, Entry { listed, member });
                }
            }
        }
        Some(roster)
    }

    /// Whether etcd does not list a member of this name: it has been removed, or has never been added.
    pub fn is_gone(&self, member: &MemberName) -> bool {
        !self.voters.contains_key(member) && !self.learners.contains_key(member)
    }

    /// All members with a vote, strangers too.
    pub(super) fn votes(&self) -> usize {
        self.voters.len() + self.strangers.iter().filter(|member| !member.is_learner).count()
    }

    fn serving(&self) -> usize {
        self.voters.values().filter(|voter| voter.serves()).count()
    }

    pub(super) fn all_serve(&self) -> bool {
        self.serving() == self.votes()
    }

    /// How many would remain without a voter, how many of these serve, and whether they are a quorum that it may leave: while it
    /// serves itself, only if all others do.
    fn without(&self, voter: &Entry) -> (usize, usize, bool) {
        let (remaining, serving) = (self.votes() - 1, self.serving() - usize::from(voter.serves()));
        (remaining, serving, serving > remaining / 2 && (!voter.serves() || self.all_serve()))
    }

    /// Whether all serve, or will as soon as their pods are ready.
    fn all_answer(&self) -> bool {
        self.voters.values().filter(|voter| voter.answers()).count() == self.votes()
    }

    /// The voter to which leadership goes before `leaver` stops: the one whose log is longest, as it will serve first.
    fn successor(&self, leaver: &MemberName) -> Option<(&MemberName, &Entry<'a>)> {
        let others = self.voters.iter().filter(|(name, voter)| *name != leaver && voter.serves());
        let advanced = |voter: &Entry| voter.member.etcd.status().map(|status| status.raft_applied_index);
        // Of equals the first, as it is the last that would go.
        others.rev().max_by_key(|(_, voter)| advanced(voter))
    }

    /// Has leadership given up, before the leader goes or is restarted.
    pub(super) fn move_leader(&self, name: &MemberName, leader: &Entry) -> Option<Step> {
        let (successor, next) = self.successor(name)?;
        let (from, to) = (leader.listed.id, next.listed.id);
        Some(Step::MoveLeader { member: name.clone(), from, to, successor: successor.clone() })
    }

    /// The voters that do not answer, each with why.
    pub(super) fn silent_in_words(&self) -> String {
        let silent = self.voters.iter().filter(|(_, voter)| !voter.answers());
        let silent = silent.map(|(name, voter)| format!("{name}: {}", why_not_ready(voter.member)));
        let strangers = self.strangers.iter().filter(|member| !member.is_learner);
        let strangers = strangers.map(|member| format!("{:x}: the operator did not add it, and does not ask it", member.id));
        let silent: Vec<_> = silent.chain(strangers).collect();
        if silent.is_empty() { String::new() } else { format!(" ({})", silent.join("; ")) }
    }
}

/// The next step towards the members that are wanted, and what is to be said about it.
pub fn step(
    cluster: &ValidatedCluster,
    observed: &Observed,
    roster: &Roster,
    wanted: &Wanted,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Step> {
    note_strangers(roster, plan);
    let why = |name: &MemberName, entry: &Entry| {
        let asked = is_named(cluster, name).then(|| "its user asks for it".to_owned());
        asked.or_else(|| evidence::of_loss(cluster, observed, roster, (name, entry), now))
    };
    for (name, _) in roster.unlisted.iter().filter(|(_, member)| has_left(cluster, member)) {
        plan.waits.push(Note::new(
            "Removing",
            format!("{name} has been removed; its pod, its StatefulSet and its claim go{}", ongoing_since(observed, "Removing")),
        ));
    }
    if cluster.replace.as_ref().is_some_and(|name| is_settled(cluster, roster, name, plan)) {
        plan.wishes.push(EndedWish::new(key::REPLACE));
    }
    teardown(cluster, roster)
        .or_else(|| unstarted(cluster, observed, roster, now))
        .or_else(|| learner(cluster, observed, roster, &why, now, plan))
        .or_else(|| replace(cluster, observed, roster, wanted, &why, plan))
        .or_else(|| shrink(cluster, observed, roster, wanted, plan))
        .or_else(|| grow(cluster, observed, roster, now, plan))
        .or_else(|| restart(wanted, cluster, observed, roster, plan))
}

/// Whether a member's user wants it replaced.
fn is_named(cluster: &ValidatedCluster, name: &MemberName) -> bool {
    cluster.replace.as_deref() == Some(name.as_str())
}

/// Whether the wish to replace a member is over: the member has been removed. One that names no member is reported.
fn is_settled(cluster: &ValidatedCluster, roster: &Roster, name: &str, plan: &mut Plan) -> bool {
    let member = cluster.names.parse_member(name);
    if member.as_ref().is_some_and(|member| !roster.is_gone(member)) {
        return false;
    }
    let traced = |member| roster.unlisted.contains_key(&member) || member.ordinal() < cluster.replicas;
    let removed = member.is_some_and(traced);
    if !removed {
        plan.problems.push(Note::new("NoSuchMember", format!("annotation {} names {name}, which is no member", key::REPLACE)));
    }
    removed
}

fn note_strangers(roster: &Roster, plan: &mut Plan) {
    for stranger in &roster.strangers {
        plan.problems.push(Note::new(
            "UnknownMember",
            format!(
                "etcd lists a member {:x} ({}) at {} that the operator did not add; it is left alone. Remove it with etcdctl if it is not yours",
                stranger.id,
                if stranger.name.is_empty() { "never started" } else { &stranger.name },
                stranger.peer_urls.join(","),
            ),
        ));
    }
}

/// Whether there is something left of a member that etcd has removed.
fn has_left(cluster: &ValidatedCluster, member: &ObservedMember) -> bool {
    let set = member.stateful_set.as_ref().map(|set| &set.metadata);
    let claim = member.claim.as_ref().map(|claim| &claim.metadata);
    set.into_iter().chain(claim).any(|meta| belongs(meta, &cluster.uid))
}

/// What is left of a member that etcd has removed: its StatefulSet, then, when no pod can write to it any more, its claim.
fn teardown(cluster: &ValidatedCluster, roster: &Roster) -> Option<Step> {
    roster.unlisted.iter().find_map(|(name, member)| {
        if let Some(set) = member.stateful_set.as_ref().filter(|set| belongs(&set.metadata, &cluster.uid)) {
            let going = set.metadata.deletion_timestamp.is_some();
            return (!going)
                .then(|| Step::DeleteStatefulSet { member: name.clone(), uid: set.metadata.uid.clone().unwrap_or_default() });
        }
        let claim = member.claim.as_ref().filter(|claim| belongs(&claim.metadata, &cluster.uid))?;
        (member.pod.is_none() && claim.metadata.deletion_timestamp.is_none())
            .then(|| Step::DeleteClaim { member: name.clone(), uid: claim.metadata.uid.clone().unwrap_or_default() })
    })
}

/// A member that somebody else added long ago and that has never started goes again: it may count against the quorum, and
/// keeps others from being added.
fn unstarted(cluster: &ValidatedCluster, observed: &Observed, roster: &Roster, now: Timestamp) -> Option<Step> {
    let since =
        |id: &str| observed.status.unknown_members.iter().find(|unknown| unknown.id == id)?.since.parse::<Timestamp>().ok();
    let is_old = |stranger: &&&etcd::Member| {
        let since = since(&format!("{:x}", stranger.id));
        stranger.name.is_empty() && since.is_some_and(|since| now.duration_since(since) >= cluster.repair.unstarted)
    };
    let stranger = roster.strangers.iter().find(is_old)?;
    let remaining = roster.votes() - 1;
    let safe = stranger.is_learner || roster.serving() > remaining / 2;
    safe.then_some(Step::RemoveUnstarted { id: stranger.id })
}

/// A learner becomes a voter, or goes if it is not wanted any more or can never join.
fn learner(
    cluster: &ValidatedCluster,
    observed: &Observed,
    roster: &Roster,
    why: &impl Fn(&MemberName, &Entry) -> Option<String>,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Step> {
    let (name, learner) = roster.learners.iter().next()?;
    let id = learner.listed.id;
    // Its claim is made after it was added, so that there is none yet says nothing.
    let lost = why(name, learner).filter(|_| is_named(cluster, name) || learner.member.stateful_set.is_some());
    if let Some(why) = &lost {
        plan.waits
            .push(Note::new("Replacing", format!("{name} is being replaced: {why}{}", ongoing_since(observed, "Replacing"))));
    }
    // One that can't be given certificates would keep the members from being restarted for those of another authority.
    let stranded = learner.member.stateful_set.is_none() && !certificates::can_issue(cluster, observed, now);
    if lost.is_some() || stranded || roster.voters.len() >= cluster.replicas as usize {
        return Some(Step::RemoveMember { member: name.clone(), id });
    }
    // It gets its vote only once it is written down who it is: an empty voter must not come back under its ID.
    let answers = learner.member.etcd.status().is_some_and(|status| status.member_id == id && status.is_learner);
    if answers && learner.member.has_started() {
        let since = since(observed, name);
        let message = format!("{name} is a learner and catches up{since}; it gets its vote when it has");
        plan.waits.push(Note::new("CatchingUp", message));
        return Some(Step::Promote { member: name.clone(), id });
    }
    plan.waits.push(Note::new("Joining", format!("{name} was added as a learner and is to start{}", since(observed, name))));
    if learner.member.pod.as_deref().and_then(running_since).is_some() {
        plan.next_check = plan.next_check.min(CONFIRMING);
    }
    None
}

/// A voter that can't come back is removed, so that another takes its name: if the healthy are a quorum without it.
fn replace(
    cluster: &ValidatedCluster,
    observed: &Observed,
    roster: &Roster,
    wanted: &Wanted,
    why: &impl Fn(&MemberName, &Entry) -> Option<String>,
    plan: &mut Plan,
) -> Option<Step> {
    // One that is down before one that its user names.
    let lost: Vec<_> = roster.voters.iter().filter_map(|(name, voter)| Some((name, voter, why(name, voter)?))).collect();
    let (name, voter, why) = lost.iter().find(|(_, voter, _)| !voter.serves()).or_else(|| lost.first())?;
    // One that serves waits until the change before is over: two at once could leave a single copy of the data.
    if voter.serves() && (!roster.learners.is_empty() || roster.voters.len() < cluster.replicas as usize) {
        let wanted = cluster.replicas;
        let message = format!(
            "{name} is to be replaced ({why}) as soon as there are {wanted} voters{}",
            ongoing_since(observed, "Replacing")
        );
        plan.waits.push(Note::new("Replacing", message));
        return None;
    }
    // What it has is better than that nobody can take its place.
    if voter.serves() && voter.member.secret.is_some() && !wanted.can_issue {
        let message =
            format!("{name} is to be replaced ({why}) as soon as another can be given certificates; see CertificatesReady");
        plan.waits.push(Note::new("Replacing", message));
        return None;
    }
    let (remaining, others, may_go) = roster.without(voter);
    if !may_go {
        let cause = if remaining == 0 {
            "it is the only voter. Set spec.replicas to 3 first".to_owned()
        } else if others > remaining / 2 {
            format!("it serves, and only {others} of the {remaining} others do: one that is down comes first")
        } else {
            format!("only {others} of the {remaining} others serve: removing it would cost quorum")
        };
        plan.problems.push(Note::new("CannotReplace", format!("{name} is to be replaced ({why}), but {cause}")));
        return None;
    }
    plan.waits.push(Note::new("Replacing", format!("{name} is being replaced: {why}{}", ongoing_since(observed, "Replacing"))));
    go(name, voter, roster)
}

/// Since when what has this reason has been going on, to be put behind what is said of it.
pub(super) fn ongoing_since(observed: &Observed, reason: &str) -> String {
    let since = observed.status.progressing_since.as_ref().filter(|_| is_ongoing(&observed.status, reason));
    since.map(|since| format!(" (since {since})")).unwrap_or_default()
}

/// Whether a status says that what has this reason goes on.
pub fn is_ongoing(status: &EtcdClusterStatus, reason: &str) -> bool {
    let progressing = api::condition(&status.conditions, "Progressing").filter(|it| it.status == "True");
    progressing.is_some_and(|it| it.reason == reason || [&it.reason, reason].iter().all(|reason| RESIZING.contains(reason)))
}

/// What is told while members come and go, which is one change in several steps, and of what is done between these.
const RESIZING: [&str; 9] =
    ["Growing", "Joining", "CatchingUp", "Shrinking", "Removing", "WaitingForMembers", "LockBootstrap", "Revoke", "DeleteBudget"];

/// From how many members to how many, and since when something has been going on.
fn resizing(cluster: &ValidatedCluster, observed: &Observed, roster: &Roster) -> String {
    format!("from {} to {} members{}", roster.voters.len(), cluster.replicas, ongoing_since(observed, "Growing"))
}

/// One voter less: a sick one first, then one whose data will not stay, else the last.
///
/// But not one that was just restarted and does not serve yet. It is what keeps a template with which nobody serves from the
/// others: without it the restart would go on to the next, and so to the last.
fn shrink(cluster: &ValidatedCluster, observed: &Observed, roster: &Roster, wanted: &Wanted, plan: &mut Plan) -> Option<Step> {
    if roster.voters.len() <= cluster.replicas as usize {
        return None;
    }
    let tried = tried(wanted, roster);
    let sick = roster.voters.iter().rev().find(|(name, voter)| !voter.serves() && Some(*name) != tried);
    let doomed = roster.voters.iter().rev().find(|(_, voter)| voter.member.is_doomed());
    let (name, voter) = sick.or(doomed).or_else(|| roster.voters.iter().next_back())?;
    let (remaining, others, may_go) = roster.without(voter);
    if let (Some(tried), None) = (tried, sick) {
        let message = format!("{}, as soon as {tried} serves again", resizing(cluster, observed, roster));
        plan.waits.push(Note::new("Shrinking", message));
        if plan.restarting.contains(tried) {
            return None;
        }
        plan.problems.push(Note::new(
            "CannotShrink",
            format!(
                "{tried} has been restarted and does not serve: as long as it is not known whether the others would, it stays. \
                 Mend or take back what keeps it from serving; if it was restarted because of annotation {}, that can be taken off",
                key::RESTARTED_AT
            ),
        ));
        return None;
    }
    plan.waits.push(Note::new("Shrinking", format!("{}; {name} goes next", resizing(cluster, observed, roster))));
    if !may_go {
        plan.problems
            .push(Note::new("CannotShrink", format!("only {others} of the {remaining} members that would remain serve")));
        return None;
    }
    go(name, voter, roster)
}

/// Removes a voter, after it has given up leadership: its clients would otherwise wait for an election.
fn go(name: &MemberName, voter: &Entry, roster: &Roster) -> Option<Step> {
    let id = voter.listed.id;
    if voter.serves() && voter.leads() {
        return roster.move_leader(name, voter);
    }
    Some(Step::RemoveMember { member: name.clone(), id })
}

/// One member more, as a learner, of the lowest ordinal of which there is nothing.
fn grow(cluster: &ValidatedCluster, observed: &Observed, roster: &Roster, now: Timestamp, plan: &mut Plan) -> Option<Step> {
    if roster.voters.len() >= cluster.replicas as usize || !roster.learners.is_empty() {
        return None;
    }
    // etcd has one learner at most, and this one is not ours to remove.
    if let Some(stranger) = roster.strangers.iter().find(|member| member.is_learner) {
        let message = format!("etcd takes no learner beside {:x}, which the operator did not add", stranger.id);
        plan.problems.push(Note::new("CannotGrow", message));
        return None;
    }
    let name =
        (0..cluster.replicas).map(|ordinal| cluster.names.member(ordinal)).find(|name| !roster.voters.contains_key(name))?;
    plan.waits.push(Note::new("Growing", format!("{}; {name} comes next", resizing(cluster, observed, roster))));
    // The one that came last has its vote, and the kubelet may have yet to see that its pod is ready.
    if !roster.all_answer() {
        plan.problems.push(Note::new(
            "CannotGrow",
            format!(
                "only {} of {} voters serve: a member that is down comes first{}",
                roster.serving(),
                roster.votes(),
                roster.silent_in_words()
            ),
        ));
        return None;
    }
    if !certificates::can_issue(cluster, observed, now) {
        if certificates::is_in_force(cluster, observed, now) {
            let message = format!("{name} is added when an issuer's authority has been replaced; see CertificatesReady");
            plan.waits.push(Note::new("Growing", message));
            return None;
        }
        let message = format!("{name} cannot be given certificates: an authority is lost or has expired; see CertificatesReady");
        plan.problems.push(Note::new("CannotGrow", message));
        return None;
    }
    // What the member that had this name before has left is deleted first, and the wish to replace it is over.
    let settled = !roster.unlisted.contains_key(&name) && !is_named(cluster, &name);
    settled.then_some(Step::AddLearner { member: name })
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
