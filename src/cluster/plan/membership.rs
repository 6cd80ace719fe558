//! Which members are added, promoted, replaced and removed: the steps that touch the quorum. Restarts (`rollout.rs`) and
//! changes of resources (`resize.rs`) are the last of them.
//!
//! Nothing is decided without a member list that a quorum confirmed. **No step makes a cluster lose its quorum**: a healthy voter
//! is removed only while all others are healthy, and its successor joins before the next one is removed. A dead voter is removed
//! as soon as the healthy ones are a quorum of the rest, even if another one is dead: with two of five lost, three of three
//! remain, whereas a successor that joined first would make it three of four. New members join one after the other. etcd's own
//! checks (strict reconfiguration, one learner) are a second safeguard. Members whose storage has to change are healthy: of those the
//! successor joins first (`moves.rs`).

use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::{
    changes::{AT_ONCE, Changes, CompletedRequest, SOON, first_step},
    evidence,
    input::{Input, Pending},
    leadership::move_leader,
    moves::Moves,
    recovery::Recovery,
    resize,
    rollout::{self, Rollout},
    space,
    start::recorded,
    trial,
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            ongoing::ongoing_since,
            pods::is_stuck,
            readiness::down_since,
            roster::{Remainder, Roster, RosterEntry},
        },
        objects::StartState,
        observed::ObservedMember,
        steps::{AddLearner, DeleteClaim, DeleteStatefulSet, Promote, RemoveMember, RemoveUnstarted, Step},
    },
    etcd,
    ids::Uid,
    kubernetes::ownership::belongs,
    member_pod::running_since,
    names::{MemberName, annotation as key},
};

/// The next step towards the desired members, and notes about it.
pub fn plan(
    input: &Input,
    recovery: &Recovery,
    rollout: &Rollout,
    pending: &Pending,
    restarting: &BTreeSet<MemberName>,
) -> Changes {
    if recovery.is_exclusive {
        return Changes::default();
    }
    let Some(roster) = &input.facts.roster else { return rollout.versions.changes.clone() };
    let mut changes = unknown_members(roster);
    for (name, _) in roster.unlisted.iter().filter(|(_, member)| has_own_objects(input, member)) {
        let since = ongoing_since(input.observed, Reason::RemovingMember);
        let message = format!("{name} was removed; its pod, StatefulSet and PersistentVolumeClaim are being deleted{since}");
        changes = changes.progress(Reason::RemovingMember, message);
    }
    changes.merge(complete_replacement(input, roster));
    let moves = Moves::of(input, roster, rollout);
    changes.merge(moves.describe(input, roster));
    changes.merge(first_step(&[
        &|| delete_objects(input, roster),
        &|| space::disarm(input, roster, rollout),
        &|| remove_unstarted(input, roster),
        &|| learner(input, roster, &moves),
        &|| replace(input, roster, rollout),
        &|| scale_down(input, roster, &moves, rollout, restarting),
        &|| scale_up(input, roster, &moves),
        &|| rollout.versions.changes.clone(),
        &|| rollout::restart(input, roster, rollout, pending),
        &|| resize::plan(input, roster, rollout, pending),
    ]));
    changes
}

/// Why a member has to be replaced: the user requests it, or it cannot come back.
fn why_replaced(input: &Input, roster: &Roster, name: &MemberName, entry: &RosterEntry) -> Option<String> {
    let requested = is_replacement_requested(input, name).then(|| "its replacement was requested".to_owned());
    requested.or_else(|| evidence::of_loss(input, roster, name, entry))
}

/// Why a member that cannot start and has its data in its pod is replaced: what it would be restarted for may mend it.
fn why_mended(rollout: &Rollout, name: &MemberName, voter: &RosterEntry) -> Option<String> {
    let is_stuck = voter.member.pod.as_deref().is_some_and(is_stuck);
    let is_due = !voter.is_healthy() && is_stuck && voter.member.is_in_pod() && rollout.is_outdated(name, voter.member);
    is_due.then(|| "it cannot start, its data is in its pod, and its settings have changed".into())
}

/// Whether the user requests that a member is replaced.
fn is_replacement_requested(input: &Input, name: &MemberName) -> bool {
    input.cluster.requests.replace.as_deref() == Some(name.as_str())
}

/// A request to replace a member is complete once the member was removed. A request that names no member is reported.
fn complete_replacement(input: &Input, roster: &Roster) -> Changes {
    let Some(name) = &input.cluster.requests.replace else { return Changes::default() };
    let member = input.facts.names.parse_member(name);
    if member.as_ref().is_some_and(|member| roster.lists(member)) {
        return Changes::default();
    }
    let is_known = |member| roster.unlisted.contains_key(&member) || member.ordinal() < input.cluster.replicas;
    if member.is_some_and(is_known) {
        let request = input.cluster.requests.replacement(name);
        Changes { completed: vec![CompletedRequest::removed(key::REPLACE, None, Some(request))], ..Changes::default() }
    } else {
        let message = format!("annotation {} names {name:?}, which is not a member", key::REPLACE);
        Changes::default().problem(Reason::MemberNotFound, message)
    }
}

fn unknown_members(roster: &Roster) -> Changes {
    roster.unknown.iter().fold(Changes::default(), |changes, unknown| {
        let message = format!(
            "etcd lists a member {} ({}) at {} that the operator did not add; it is left alone. Remove it with etcdctl if it is not yours",
            unknown.id,
            if unknown.name.is_empty() { "never started" } else { &unknown.name },
            unknown.peer_urls.join(","),
        );
        changes.problem(Reason::UnknownMember, message)
    })
}

/// Whether a removed member still has objects.
fn has_own_objects(input: &Input, member: &ObservedMember) -> bool {
    let has_claim = member.claim.as_ref().is_some_and(|claim| belongs(&claim.metadata, input.facts.uid));
    has_claim || member.has_own_set(input.facts.uid)
}

/// Deletes the objects of a removed member: first its StatefulSet, then its claim, once no pod can write to it.
fn delete_objects(input: &Input, roster: &Roster) -> Changes {
    let delete = |(name, member): (&MemberName, &&ObservedMember)| -> Option<Step> {
        let is_own = |meta: &_| belongs(meta, input.facts.uid);
        if let Some(set) = member.stateful_set.as_ref().filter(|set| is_own(&set.metadata)) {
            let is_being_deleted = set.metadata.deletion_timestamp.is_some();
            let step = DeleteStatefulSet { member: name.clone(), uid: Uid::of(&set.metadata)? };
            return (!is_being_deleted).then(|| step.into());
        }
        let claim = member.claim.as_ref().filter(|claim| is_own(&claim.metadata))?;
        let is_due = member.pod.is_none() && claim.metadata.deletion_timestamp.is_none();
        let step = DeleteClaim { member: name.clone(), uid: Uid::of(&claim.metadata)? };
        is_due.then(|| step.into())
    };
    Changes { step: roster.unlisted.iter().find_map(delete), ..Changes::default() }
}

/// Deletes the objects of the members that a recovery has left behind, before its survivor is restarted without the flag. While that one
/// is down there is no member list, and what has objects is taken for a member: it would be started and reported as down.
pub fn delete_left_behind(input: &Input, recovery: &Recovery) -> Changes {
    let roster = input.facts.roster.as_ref().filter(|_| recovery.is_exclusive && recovery.step.is_some());
    roster.map(|roster| delete_objects(input, roster)).unwrap_or_default()
}

/// Removes a member that the operator did not add and that has not started for a long time: it may raise the quorum, and it
/// prevents others from being added.
fn remove_unstarted(input: &Input, roster: &Roster) -> Changes {
    let is_old = |unknown: &&&etcd::Member| {
        let reported = input.observed.status.unknown_members.iter().find(|reported| reported.id == unknown.id);
        let is_due =
            reported.is_some_and(|reported| input.now.duration_since(reported.since.0) >= input.cluster.repair.unstarted);
        unknown.name.is_empty() && is_due
    };
    let Some(unknown) = roster.unknown.iter().find(is_old) else { return Changes::default() };
    let remaining = roster.votes() - 1;
    if unknown.is_learner || roster.healthy() > remaining / 2 {
        Changes::step(RemoveUnstarted { id: unknown.id })
    } else {
        Changes::default()
    }
}

/// Promotes a learner, or removes it if it is no longer desired or can never join.
fn learner(input: &Input, roster: &Roster, moves: &Moves) -> Changes {
    let Some((name, learner)) = roster.learners.iter().next() else { return Changes::default() };
    let id = learner.listed.id;
    // Its claim is created after it was added, so a missing claim is no evidence at first.
    let has_set = learner.member.stateful_set.is_some();
    let lost = why_replaced(input, roster, name, learner).filter(|_| is_replacement_requested(input, name) || has_set);
    // It has copied nothing that others do not have.
    let lost = lost.or_else(|| moves.why_unwanted(input, learner.member));
    let mut changes = Changes::default();
    if let Some(why) = &lost {
        let since = ongoing_since(input.observed, Reason::ReplacingMember);
        changes = changes.progress(Reason::ReplacingMember, format!("{name} is being replaced: {why}{since}"));
    }
    // A learner for which no certificates can be issued would block the restarts that make members trust another
    // authority.
    let is_stranded = !has_set && !input.facts.authorities.can_issue;
    if lost.is_some() || is_stranded || roster.voters.len() >= input.cluster.replicas as usize + moves.surplus() {
        return Changes { step: Some(RemoveMember { member: name.clone(), id }.into()), ..changes };
    }
    let since = down_since(input.observed, name);
    // It is promoted only once its ID is recorded, and no container of it reads any more that it joins: it must not start again under this ID
    // without its data.
    let answers = learner.member.etcd.status().is_some_and(|status| status.member_id == id && status.is_learner);
    let is_recorded = learner.member.has_started() && (!learner.member.is_in_pod() || learner.member.has_pod_with_data());
    let is_recorded = is_recorded && recorded(input, name) == Some(StartState::Existing);
    if answers && is_recorded {
        let message = format!("{name} is a learner{since}");
        let changes = changes.progress(Reason::CatchingUp, message);
        return Changes { step: Some(Promote { member: name.clone(), id }.into()), ..changes };
    }
    let changes = changes.progress(Reason::Joining, format!("{name} was added as a learner and has to start{since}"));
    match learner.member.pod.as_deref().and_then(running_since) {
        Some(since) if input.now.duration_since(since) < JUST_STARTED => changes.check_within(AT_ONCE),
        Some(_) => changes.check_within(SOON),
        None => changes,
    }
}

/// For how long after the start of its container a learner is asked more often whether it answers.
const JUST_STARTED: SignedDuration = SignedDuration::from_secs(5);

/// Removes a voter that cannot come back or whose replacement is requested, if the healthy voters are a quorum without it. A new
/// member then takes its name.
fn replace(input: &Input, roster: &Roster, rollout: &Rollout) -> Changes {
    let why = |name: &MemberName, voter: &RosterEntry| {
        why_replaced(input, roster, name, voter).or_else(|| why_mended(rollout, name, voter))
    };
    let lost: Vec<_> = roster.voters.iter().filter_map(|(name, voter)| Some((name, voter, why(name, voter)?))).collect();
    // A member that is down is replaced before a healthy one that the user names.
    let Some((name, voter, why)) = lost.iter().find(|(_, voter, _)| !voter.is_healthy()).or_else(|| lost.first()) else {
        return Changes::default();
    };
    let (desired, since) = (input.cluster.replicas, ongoing_since(input.observed, Reason::ReplacingMember));
    // A healthy voter is replaced only once the previous change is complete: two changes at once could leave a single copy of the
    // data.
    if voter.is_healthy() && (!roster.learners.is_empty() || roster.voters.len() < desired as usize) {
        let message = format!("{name} will be replaced ({why}) once there are {desired} voters{since}");
        return Changes::default().progress(Reason::ReplacingMember, message);
    }
    // Its data is kept as long as no successor can join.
    if voter.is_healthy() && voter.member.secret.is_some() && !input.facts.authorities.can_issue {
        let message =
            format!("{name} will be replaced ({why}) once a new member can be given certificates; see CertificatesReady");
        return Changes::default().progress(Reason::ReplacingMember, message);
    }
    let Remainder { others, healthy, allows_removal } = roster.without(voter);
    if !allows_removal {
        let cause = if others == 0 {
            "it is the only voter. Set spec.replicas to 3 first".to_owned()
        } else if healthy > others / 2 {
            format!(
                "it is healthy, and only {healthy} of the {others} others are: those that are down must come back or be replaced first"
            )
        } else {
            format!("only {healthy} of the {others} others are healthy: removing it would cost the quorum")
        };
        let message = format!("{name} has to be replaced ({why}), but {cause}");
        return Changes::default().problem(Reason::CannotReplace, message);
    }
    let changes = Changes::default().progress(Reason::ReplacingMember, format!("{name} is being replaced: {why}{since}"));
    Changes { step: remove(roster, name, voter), ..changes }
}

/// Describes the current and the desired number of voters, and since when the cluster has been scaling.
fn scaling(input: &Input, roster: &Roster) -> String {
    let since = ongoing_since(input.observed, Reason::ScalingUp);
    format!("from {} to {} members{since}", roster.voters.len(), input.cluster.replicas)
}

/// Removes a voter that is no longer desired: an unhealthy one first, then one whose claim is being deleted, then one whose storage has to
/// change, otherwise the last.
///
/// A voter that was just restarted, or given other resources, and is not healthy yet is not removed. While it exists, a template with which
/// no member becomes healthy does not reach the others. Without it the change would continue with the next member, and so break all of
/// them.
fn scale_down(input: &Input, roster: &Roster, moves: &Moves, rollout: &Rollout, restarting: &BTreeSet<MemberName>) -> Changes {
    if roster.voters.len() <= input.cluster.replicas as usize {
        return Changes::default();
    }
    let restarted = rollout.unhealthy_after_change(roster);
    // While one is replaced, another one that is down for a moment is none too many.
    let is_replacing = moves.is_surplus(input, roster);
    let is_unwanted = |name: &MemberName| Some(name) != restarted && (!is_replacing || moves.has(name));
    let unhealthy = roster.voters.iter().rev().find(|(name, voter)| !voter.is_healthy() && is_unwanted(name));
    let losing_data = roster.voters.iter().rev().find(|(_, voter)| voter.member.loses_claim_with_pod());
    // One that tries a certificate would have to be followed by another one.
    let last = || {
        let spared = roster.voters.iter().rev().find(|(_, voter)| !trial::tries(input, voter.member));
        spared.or_else(|| roster.voters.iter().next_back())
    };
    let moving = || moves.next(roster).and_then(|(name, _)| roster.voters.get_key_value(name));
    let Some((name, voter)) = unhealthy.or(losing_data).or_else(moving).or_else(last) else {
        return Changes::default();
    };
    let scaling = scaling(input, roster);
    if let (Some(restarted), None) = (restarted, unhealthy) {
        let changes = Changes::default().progress(Reason::ScalingDown, format!("{scaling}, once {restarted} is healthy again"));
        if restarting.contains(restarted) {
            return changes;
        }
        let message = format!(
            "{restarted} was restarted and is not healthy. It is not removed, because the other members could fail in the same way when \
             they are restarted. Fix what keeps it from starting, or revert the change of the spec for which it was restarted"
        );
        return changes.problem(Reason::CannotScaleDown, message);
    }
    let (doing, cannot) = if is_replacing {
        (Reason::ReplacingMember, Reason::CannotReplace)
    } else {
        (Reason::ScalingDown, Reason::CannotScaleDown)
    };
    let changes = Changes::default().progress(doing, format!("{scaling}; next: {name}"));
    let Remainder { others, healthy, allows_removal } = roster.without(voter);
    if !allows_removal {
        let message = format!("only {healthy} of the {others} members that would remain are healthy{}", roster.describe_silent());
        // The kubelet may not have noticed yet that the new member is ready.
        let is_about_to_be = is_replacing && roster.all_answer();
        return if is_about_to_be { changes } else { changes.problem(cannot, message) };
    }
    Changes { step: remove(roster, name, voter), ..changes }
}

/// Removes a voter. If it is the leader, leadership is moved first: otherwise clients would wait for an election.
fn remove(roster: &Roster, name: &MemberName, voter: &RosterEntry) -> Option<Step> {
    if voter.is_healthy() && voter.leads() {
        return move_leader(roster, name, voter);
    }
    Some(RemoveMember { member: name.clone(), id: voter.listed.id }.into())
}

/// Adds a learner with the lowest free ordinal.
fn scale_up(input: &Input, roster: &Roster, moves: &Moves) -> Changes {
    let desired = input.cluster.replicas;
    if roster.voters.len() >= desired as usize + moves.surplus() || !roster.learners.is_empty() {
        return Changes::default();
    }
    // The new member is one more than desired, until the one that it replaces is removed.
    let replaces = roster.voters.len() >= desired as usize;
    // etcd allows only one learner, and the operator does not remove one that it did not add.
    if let Some(unknown) = roster.unknown.iter().find(|member| member.is_learner) {
        let message = format!("etcd accepts no other learner besides {}, which the operator did not add", unknown.id);
        return Changes::default().problem(Reason::CannotScaleUp, message);
    }
    let mut names = (0..=desired).map(|ordinal| input.facts.names.member(ordinal));
    let Some(name) = names.find(|name| !roster.voters.contains_key(name)) else { return Changes::default() };
    let changes = match moves.next(roster).filter(|_| replaces) {
        Some((old, why)) => Changes::default().progress(Reason::ReplacingMember, format!("{name} is to replace {old} ({why})")),
        None => Changes::default().progress(Reason::ScalingUp, format!("{}; next: {name}", scaling(input, roster))),
    };
    // All voters must answer, but need not be ready: the kubelet may not have noticed yet that the member promoted last is ready.
    if replaces && roster.all_answer() && !roster.all_healthy() {
        return changes;
    }
    if !roster.all_answer() {
        let (healthy, votes, silent) = (roster.healthy(), roster.votes(), roster.describe_silent());
        let message = format!(
            "only {healthy} of {votes} voters are healthy: those that are down must come back or be replaced first{silent}"
        );
        let reason = if replaces { Reason::CannotReplace } else { Reason::CannotScaleUp };
        return changes.problem(reason, message);
    }
    if !input.facts.authorities.can_issue {
        return if input.facts.authorities.in_force {
            let message = format!("{name} will be added once the CA of an issuer has been replaced; see CertificatesReady");
            changes.progress(Reason::ScalingUp, message)
        } else {
            let message = format!("{name} cannot be given certificates: a CA is lost or has expired; see CertificatesReady");
            changes.problem(Reason::CannotScaleUp, message)
        };
    }
    // One that bootstrapped the cluster would bootstrap another one if it lost its data now.
    if roster.voters.keys().any(|voter| recorded(input, voter) == Some(StartState::New)) {
        return changes;
    }
    // The objects of the previous member of this name are deleted first, and a request to replace it is completed first.
    let is_free = !roster.unlisted.contains_key(&name) && !is_replacement_requested(input, &name);
    Changes { step: is_free.then(|| AddLearner { member: name, replaces }.into()), ..changes }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
