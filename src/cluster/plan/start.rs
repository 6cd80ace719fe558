//! The members of a cluster, and how each starts if it finds no data.

use std::collections::BTreeMap;

use super::input::Input;
use crate::{
    cluster::{
        facts::roster::Roster,
        objects::{StartState, start_state},
        observed::ObservedMember,
    },
    etcd,
    kubernetes::ownership::belongs,
    names::{MemberName, Names},
};

/// How each member starts if it finds no data.
pub type StartStates = BTreeMap<MemberName, StartState>;

/// The members: those that were recorded when the cluster was bootstrapped, or have objects, or are in the last status. Only a
/// cluster that has not been bootstrapped takes its members from the desired number. Nothing is created for a member that etcd no
/// longer lists.
///
/// If the data is in the pods, one member bootstraps the cluster alone, and the others join it. Members that bootstrap a cluster together
/// have IDs that follow from their names: a pod that is lost before its member is recorded would start again under the same ID, after it
/// has perhaps voted. A member that joins has an ID of its own, and no vote until it is recorded.
pub fn states(input: &Input) -> StartStates {
    let Input { cluster, observed, facts, .. } = input;
    if !facts.is_bootstrapped {
        let first = if cluster.storage.empty_dir.is_some() { 1 } else { cluster.replicas };
        return (0..first).map(|ordinal| (facts.names.member(ordinal), StartState::New)).collect();
    }
    let roster = facts.roster.as_ref();
    let is_listed = |name: &MemberName| roster.is_none_or(|roster| !roster.unlisted.contains_key(name));
    let has_objects = |member: &ObservedMember| member.stateful_set.is_some() || member.claim.is_some();
    // A member that lost everything is still in the last status.
    let is_reported = |name: &MemberName| observed.has_come_up() && observed.reported(name).is_some();
    // Only the recorded members bootstrap the cluster. Objects that another operator created for a different number of members
    // are ignored, because those members would bootstrap a second cluster.
    let is_bootstrapping = !observed.has_come_up() && facts.bootstrap.is_some();
    let is_known = |name: &MemberName, member: &ObservedMember| {
        let has_traces = if is_bootstrapping { member.has_started() } else { has_objects(member) || is_reported(name) };
        roster.is_some() || recorded(input, name).is_some() || has_traces
    };
    let members = observed.members.iter().filter(|(name, member)| is_listed(name) && is_known(name, member));
    members.map(|(name, member)| (name.clone(), state(input, name, member))).collect()
}

/// How a member starts according to the bootstrap ConfigMap that members read.
pub fn recorded(input: &Input, name: &MemberName) -> Option<StartState> {
    start_state(input.facts.bootstrap?, name, &input.facts.names.initial_entry(name))
}

/// Whether several members bootstrap the cluster together, and none of them is known to have started.
pub fn is_bootstrapped_together(input: &Input) -> bool {
    let new = input.observed.members.keys().filter(|name| recorded(input, name) == Some(StartState::New));
    new.count() > 1
}

fn state(input: &Input, name: &MemberName, member: &ObservedMember) -> StartState {
    let Input { observed, facts, .. } = input;
    let has_record = member.record().is_some_and(|record| belongs(record, facts.uid));
    if has_record && member.has_started() {
        return StartState::Existing;
    }
    let roster = facts.roster.as_ref();
    if let (Some(roster), Ok(list)) = (roster, &observed.list)
        && let Some(learner) = roster.learners.get(name)
    {
        // A learner that has published its name has started. Without its data it must not start again.
        let has_not_started = learner.listed.name.is_empty();
        return if has_not_started { StartState::Joining(joining_list(facts.names, list)) } else { StartState::Existing };
    }
    // A voter that never started, according to a quorum, has acknowledged nothing. Its recorded state may be wrong, because it
    // may have been written without a member list.
    let never_started = |roster: &Roster| roster.voters.get(name).is_some_and(|voter| voter.listed.name.is_empty());
    if has_record && !member.is_in_pod() && roster.is_some_and(never_started) {
        return StartState::New;
    }
    // Its claim was there before its StatefulSet. What it has acknowledged is gone with it, even if no start was recorded yet.
    let has_lost_claim = member.stateful_set.is_some() && member.claim.is_none() && !member.claim_unread && !member.is_in_pod();
    // If nothing is known about a member any more, it is not started: that is the only mistake that can be repaired. Kubernetes replaces a
    // pod and the data in it at any time, so the one that bootstraps a cluster alone in its pod is new only until that has come up: no
    // member is added before.
    match recorded(input, name) {
        Some(StartState::New) | None if !observed.has_come_up() && !has_lost_claim => StartState::New,
        Some(StartState::New) if has_record && !member.is_in_pod() => StartState::New,
        Some(StartState::Joining(list)) if roster.is_none() => StartState::Joining(list),
        _ => StartState::Existing,
    }
}

/// The member list with which a learner starts. etcd compares the number and the URLs of the members, and only the learner's own
/// name (`server/etcdserver/bootstrap.go`).
fn joining_list(names: &Names, list: &etcd::MemberList) -> String {
    let entry = |listed: &etcd::Member| {
        let url = listed.peer_urls.first()?;
        Some(match names.member_at(url) {
            Some(member) => names.initial_entry(&member),
            None => format!("{}={url}", listed.name),
        })
    };
    let mut entries: Vec<_> = list.members.iter().filter_map(entry).collect();
    entries.sort();
    entries.join(",")
}
