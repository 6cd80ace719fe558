//! The condition `Available`: whether a quorum of voters is healthy.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    Input,
    members::{describe_down, is_about_to_be_ready},
};
use crate::{
    api::{ConditionType, Reason, condition, is_true, reason_of},
    cluster::{
        facts::{lost_quorum, readiness::refusing},
        observed::{ObservedMember, name_of},
        outcome::Decision,
    },
    etcd,
    reporting::{
        condition::{Announced, Finding, since},
        note::Note,
    },
};

fn available(is_true: bool, note: Note, announced: Announced) -> Finding {
    Finding { kind: ConditionType::Available, is_true, note, announced }
}

/// The condition `Available`.
pub fn finding(input: &Input) -> Finding {
    let Input { observed, facts, decision, outcome, .. } = input;
    if let Some(blocked) = decision.blocked() {
        return available(false, blocked.clone(), Announced::AsWarning);
    }
    if let (Some(invalid), false) = (decision.invalid(), observed.has_come_up()) {
        return available(false, Note::new(Reason::InvalidSpec, invalid.to_string()), Announced::Silently);
    }
    let mut down: Vec<_> = observed.members.iter().filter_map(|(name, member)| describe_down(name, member)).collect();
    match &observed.list {
        Err(problem) if down.is_empty() => down.push(problem.clone()),
        Err(_) => {}
        Ok(list) => {
            let member = |voter: &etcd::Member| observed.members.get_key_value(&name_of(facts.names, list, voter)?);
            let voters: Vec<_> = list.voters().collect();
            // A voter counts as healthy while its pod is about to be ready: the kubelet may not have probed it yet.
            let is_healthy =
                |(name, member): (_, &ObservedMember)| member.is_healthy() || is_about_to_be_ready(input, name, member);
            let healthy = voters.iter().filter(|voter| member(voter).is_some_and(is_healthy)).count();
            if healthy > voters.len() / 2 {
                let message = format!("{healthy} of {} voters are healthy{}", voters.len(), even_number(decision));
                return available(true, Note::new(Reason::QuorumHealthy, message), Announced::Normally);
            }
            let unknown = voters.iter().filter(|voter| member(voter).is_none());
            down.extend(unknown.map(|voter| format!("etcd lists a member {} that the operator did not add", voter.id)));
        }
    }
    // Whether there is a quorum is not known then.
    if let Some(refusing) = refusing(observed) {
        let message = format!("no client may be accepted: {refusing}");
        return available(false, Note::new(Reason::CertificateRefused, message), Announced::AsWarning);
    }
    let taken = decision.changes().and_then(|changes| changes.name_taken.as_ref()).or(outcome.name_taken.as_ref());
    let why = taken.cloned().unwrap_or_else(|| down.join("; "));
    if !observed.has_come_up() || is_starting_adopted_data(input) {
        let message = format!("the cluster has not come up yet: {why}");
        return available(false, Note::new(Reason::Bootstrapping, message), Announced::Silently);
    }
    if let Some(evidence) = lost_quorum::quorum_evidence(observed) {
        return available(false, unreachable(input, &evidence, &why), Announced::AsWarning);
    }
    // Recovery is not suggested while members are being restarted.
    let is_restarting = decision.changes().is_some_and(|changes| !changes.restarting.is_empty());
    let message = match (&observed.list, taken) {
        (Err(_), None) if !is_restarting => no_list(input),
        _ => format!("fewer than a quorum of voters are healthy: {why}"),
    };
    available(false, Note::new(Reason::QuorumLost, message), Announced::AsWarning)
}

/// Whether members are starting with the data of a deleted cluster and have had little time for it. The cluster has an ID already,
/// but it has never been available under this `EtcdCluster`.
fn is_starting_adopted_data(input: &Input) -> bool {
    let before = condition(&input.observed.status.conditions, ConditionType::Available);
    before.is_some_and(|before| {
        let is_bootstrapping = reason_of(before) == Some(Reason::Bootstrapping);
        is_bootstrapping && input.now.duration_since(before.last_transition_time.0) < ADOPTED_START
    })
}

/// How long members that start with adopted data may take before the quorum counts as lost. It is longer than a usual start, so that
/// no recovery is suggested too early.
const ADOPTED_START: SignedDuration = SignedDuration::from_mins(2);

/// Since when the cluster has not been available. The time is in messages, because tables have no column for the time of a transition.
fn unavailable_since(input: &Input) -> Time {
    let before = condition(&input.observed.status.conditions, ConditionType::Available).filter(|before| !is_true(before));
    since(before.map(|before| &before.last_transition_time), input.now)
}

/// The note while etcd has a quorum that the operator cannot reach.
fn unreachable(input: &Input, evidence: &str, why: &str) -> Note {
    let (since, is_recovering) = (unavailable_since(input), is_recovering(input.decision));
    let advice = if is_recovering { "The cluster is being recovered: see Progressing" } else { "Do not recover the cluster" };
    let message = format!(
        "etcd has a quorum, because {evidence}, but since {} fewer than a quorum of voters are healthy and can be \
         reached: {why}. {advice}",
        since.0
    );
    Note::new(Reason::MembersUnreachable, message)
}

fn is_recovering(decision: &Decision) -> bool {
    decision.changes().is_some_and(|changes| changes.is_recovering)
}

/// The message while no quorum confirms a member list.
fn no_list(input: &Input) -> String {
    let Input { observed, facts, decision, .. } = input;
    let since = unavailable_since(input);
    let described = lost_quorum::describe(facts.names, observed, is_recovering(decision));
    format!("quorum has been lost since {}. {described}", since.0)
}

/// The disadvantage of an even number of members, as a suffix for a message.
fn even_number(decision: &Decision) -> String {
    match decision.cluster() {
        Some(cluster) if cluster.replicas.is_multiple_of(2) => {
            let (even, odd) = (cluster.replicas, cluster.replicas - 1);
            format!("; an even number of members ({even}) tolerates no more failures than {odd}")
        }
        _ => String::new(),
    }
}
