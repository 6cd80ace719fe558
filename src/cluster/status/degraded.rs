//! The condition `Degraded`: what needs attention.

use std::collections::BTreeSet;

use super::{
    Input,
    members::{describe_down, is_about_to_be_ready, is_removed},
};
use crate::{
    api::{ConditionType, Reason, condition},
    cluster::{observed::Observed, outcome::Decision},
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
    if let Decision::Invalid(invalid) = decision {
        problems.push(Note::new(Reason::InvalidSpec, invalid.to_string()));
    }
    problems.extend(decision.blocked().cloned());
    if let Some(changes) = decision.changes() {
        problems.extend(changes.problems.iter().cloned());
        problems.extend(changes.certificates.iter().filter(|note| note.reason == Reason::CALost).cloned());
    }
    problems.extend(outcome.failed.iter().cloned());
    problems.extend(down_members(input));
    problems.extend(etcd_errors(observed));
    // What is going to happen comes after what has happened: the first problem decides the reason, and so alerts and events.
    problems.sort_by_key(|problem| problem.reason == Reason::CAExpiresSoon);
    problems
}

/// The members that are down. A member that has never started, is about to be ready or is being restarted is not down:
/// `Progressing` reports it. A member that was down before counts as down until it is healthy.
fn down_members(input: &Input) -> Vec<Note> {
    let Input { observed, facts, decision, .. } = input;
    if decision.blocked().is_some() {
        return vec![];
    }
    let degraded = condition(&observed.status.conditions, ConditionType::Degraded);
    let was_down = degraded.is_some_and(|before| before.reason == Reason::MemberDown.as_str());
    let is_excused = |name, member| is_about_to_be_ready(input, name, member) || !was_down && decision.is_restarting(name);
    let down = observed
        .members
        .iter()
        .filter(|(name, member)| member.has_started() && !is_excused(name, member) && !is_removed(facts.names, observed, name));
    let messages = down.filter_map(|(name, member)| describe_down(name, member));
    messages.map(|message| Note::new(Reason::MemberDown, message)).collect()
}

/// The errors that etcd reports, in particular alarms: a cluster with the alarm NOSPACE is healthy and refuses every write. Each
/// member reports the alarms of all members.
fn etcd_errors(observed: &Observed) -> Option<Note> {
    let statuses = observed.members.values().filter_map(|member| member.etcd.status());
    let errors: BTreeSet<_> = statuses.flat_map(|status| &status.errors).map(|error| error.trim()).collect();
    let errors: Vec<_> = errors.into_iter().collect();
    (!errors.is_empty()).then(|| Note::new(Reason::EtcdReportsErrors, format!("etcd reports {}", errors.join(", "))))
}
