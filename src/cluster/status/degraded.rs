//! The condition `Degraded`: what needs attention.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    Input, certificates,
    members::{describe_down, is_about_to_be_ready, is_removed},
};
use crate::{
    api::{ConditionType, Reason, condition, reason_of},
    cluster::{
        facts::{
            containers::{STARTED, is_crashing, out_of_memory},
            readiness::refusing,
        },
        observed::{ObservedMember, name_of},
        outcome::Decision,
    },
    etcd,
    kubernetes::pod::is_terminating,
    member_pod::running_since,
    names::{MemberName, annotation as key},
    reporting::{
        condition::{Announced, Finding},
        note::{Note, messages},
    },
};

/// The condition `Degraded`.
pub fn finding(input: &Input) -> Finding {
    let problems = problems(input);
    let kind = ConditionType::Degraded;
    if let Some(first) = problems.first() {
        Finding { kind, is_true: true, note: Note::new(first.reason, messages(&problems)), announced: Announced::AsWarning }
    } else {
        let note = Note::new(Reason::Healthy, "nothing needs attention");
        Finding { kind, is_true: false, note, announced: Announced::Normally }
    }
}

fn problems(input: &Input) -> Vec<Note> {
    let Input { observed, decision, outcome, .. } = input;
    let mut problems: Vec<Note> = vec![];
    if let (Ok(list), Some(known)) = (&observed.list, observed.status.cluster_id)
        && list.cluster_id != known
    {
        let message = format!("the members are in etcd cluster {}, not {known}", list.cluster_id);
        problems.push(Note::new(Reason::ClusterIDChanged, message));
    }
    if let Some(invalid) = decision.invalid() {
        let goes_on = matches!(decision, Decision::Maintained(..));
        let suffix = if goes_on { ". Only certificates are still issued, renewed and revoked" } else { "" };
        problems.push(Note::new(Reason::InvalidSpec, format!("{invalid}{suffix}")));
    }
    problems.extend(decision.blocked().cloned());
    if let Some(changes) = decision.changes() {
        problems.extend(changes.problems.iter().cloned());
    }
    let faults: Vec<_> = certificates::faults(input).filter(|fault| !problems.contains(fault)).cloned().collect();
    problems.extend(faults);
    problems.extend(outcome.failed.iter().cloned());
    if decision.blocked().is_none() {
        problems.extend(refusing(observed).map(|message| Note::new(Reason::CertificateRefused, message)));
    }
    problems.extend(down_members(input));
    problems.extend(etcd_errors(input));
    problems.extend(decision.changes().into_iter().flat_map(|changes| changes.upcoming.iter().cloned()));
    // The first problem decides the reason, and so alerts and events.
    problems.sort_by_key(|problem| is_advice(problem.reason));
    problems
}

/// Whether a problem only needs attention some time, while the cluster is as its spec says. It comes after all others.
pub fn is_advice(reason: Reason) -> bool {
    matches!(reason, Reason::CAExpiresSoon | Reason::FieldOverwritten)
}

/// The members that are down. A member that has never started, is about to be ready or is being restarted is not down:
/// `Progressing` reports it. A member that was down before counts as down until it is healthy, and so does one that cannot start:
/// it keeps exiting, has too little memory, or Kubernetes refuses its pod.
fn down_members(input: &Input) -> Vec<Note> {
    let Input { observed, facts, decision, now, .. } = input;
    if decision.blocked().is_some() {
        return vec![];
    }
    let before = condition(&observed.status.conditions, ConditionType::Degraded).and_then(reason_of);
    let was_down = matches!(before, Some(Reason::MemberDown | Reason::OOMKilled));
    let is_excused = |name: &MemberName, member: &ObservedMember| {
        is_about_to_be_ready(input, name, member) || !was_down && decision.is_restarting(name)
    };
    let note = |name: &MemberName, member: &ObservedMember| {
        let known = match &member.pod {
            Some(pod) if has_no_memory(pod, *now) => Some(Reason::OOMKilled),
            None if member.refusal.is_some() => Some(Reason::KubernetesRefused),
            _ => None,
        };
        // One that refuses the operator is reported as that.
        let is_refusing = member.etcd.refusal().is_some();
        let needs_attention = || if member.has_started() { !is_excused(name, member) } else { cannot_start(member, *now) };
        let is_reported = known.is_some() || !is_refusing && needs_attention();
        let is_down = is_reported && !is_removed(facts.names, observed, name);
        describe_down(name, member).filter(|_| is_down).map(|message| Note::new(known.unwrap_or(Reason::MemberDown), message))
    };
    observed.members.iter().filter_map(|(name, member)| note(name, member)).collect()
}

/// Whether a member that has never started keeps exiting, or its container has not even been started for long: its volume is not
/// provided, no node has room for it, or its image cannot be pulled.
fn cannot_start(member: &ObservedMember, now: Timestamp) -> bool {
    let waits = |pod: &Pod| {
        let created = pod.metadata.creation_timestamp.as_ref();
        running_since(pod).is_none() && created.is_some_and(|created| now.duration_since(created.0) >= STARTING)
    };
    member.etcd.status().is_none() && member.pod.as_deref().is_some_and(|pod| is_crashing(pod, now) || waits(pod))
}

/// How long the first start of a member's container may take. Until then it is only in progress.
const STARTING: SignedDuration = SignedDuration::from_mins(5);

/// Whether etcd has ended because of its memory, and has not run for long since.
fn has_no_memory(pod: &Pod, now: Timestamp) -> bool {
    let is_recent = running_since(pod).is_none_or(|since| now.duration_since(since) < STARTED);
    is_recent && !is_terminating(pod) && out_of_memory(pod).is_some()
}

/// The errors that etcd reports, in particular alarms: a cluster with the alarm NOSPACE is healthy and refuses every write. Each
/// member reports the alarms of all members.
fn etcd_errors(input: &Input) -> Option<Note> {
    let statuses = input.observed.members.values().filter_map(|member| member.etcd.status());
    let errors: BTreeSet<_> = statuses.flat_map(|status| &status.errors).map(|error| describe_error(input, error)).collect();
    let errors: Vec<_> = errors.into_iter().collect();
    (!errors.is_empty()).then(|| Note::new(Reason::EtcdReportsErrors, errors.join("; ")))
}

fn describe_error(input: &Input, error: &str) -> String {
    let Some((id, alarm)) = etcd::alarm(error) else { return format!("etcd reports {}", error.trim()) };
    // The one that has raised it may not answer.
    let list = input.observed.list.as_ref().ok();
    let listed = list.and_then(|list| list.members.iter().find(|member| member.id == id).map(|member| (list, member)));
    let name = listed.and_then(|(list, member)| Some(name_of(input.facts.names, list, member)?.to_string()));
    let name = name.unwrap_or_else(|| format!("member {id}"));
    match alarm {
        etcd::NOSPACE => format!(
            "{name} has raised the alarm NOSPACE: its database has reached spec.etcd.quotaBackendSize, and etcd refuses every write. \
             Delete keys, compact and defragment, or set a larger quota; the alarm is disarmed once every member has room"
        ),
        etcd::CORRUPT => format!(
            "{name} has raised the alarm CORRUPT: its data differs from that of the others. Compare the members with etcdctl endpoint \
             hashkv, and have the one that differs replaced by annotation {}",
            key::REPLACE
        ),
        other => format!("{name} has raised the alarm {other}"),
    }
}
