//! The condition `Progressing`: what is in progress or pending.

use super::{Input, requests::repeated};
use crate::{
    api::{ConditionType, Reason},
    cluster::{
        observed::Observed,
        outcome::{Decision, Outcome},
        plan::changes::{Changes, Plan},
    },
    kubernetes::object::Object,
    names::annotation as key,
    reporting::{
        condition::{Announced, Finding},
        note::{Note, messages},
    },
};

fn progressing(is_true: bool, reason: Reason, message: impl Into<String>, announced: Announced) -> Finding {
    Finding { kind: ConditionType::Progressing, is_true, note: Note::new(reason, message), announced }
}

/// The condition `Progressing`.
pub fn finding(input: &Input) -> Finding {
    let (cluster, plan) = match input.decision {
        Decision::Invalid(invalid) => {
            return progressing(false, Reason::InvalidSpec, invalid.to_string(), Announced::Silently);
        }
        Decision::Maintained(invalid, cluster, _) if !cluster.paused => {
            let message = format!("nothing but certificates is changed, because the spec is invalid: {invalid}");
            return progressing(false, Reason::InvalidSpec, message, Announced::Silently);
        }
        Decision::Maintained(_, cluster, plan) | Decision::Planned(cluster, plan) => (cluster, plan),
    };
    if let Plan::Blocked(_) = plan {
        return progressing(false, Reason::Blocked, "no changes are made; see Available", Announced::Silently);
    }
    if cluster.paused {
        let message = "spec.paused is true: nothing is changed, certificates included";
        return progressing(false, Reason::Paused, message, Announced::Normally);
    }
    if let Some(Note { reason, message }) = unfinished(input) {
        progressing(true, reason, message, Announced::Silently)
    } else {
        let message = format!("no changes pending{}{}", outdated(input.observed), repeated(input));
        progressing(false, Reason::UpToDate, message, Announced::Silently)
    }
}

/// What is in progress or pending, whether the cluster is paused or not.
pub fn unfinished(input: &Input) -> Option<Note> {
    match input.decision.plan()? {
        Plan::Adopt(step) => Some(Note::new(step.definition().progressing(), step.describe())),
        Plan::Change(changes) => in_progress(changes, input.outcome),
        Plan::Blocked(_) => None,
    }
}

/// The members whose pods lack something that their next ones will have, as a suffix for a message. They are not restarted for that.
fn outdated(observed: &Observed) -> String {
    let members = observed.members.iter().filter(|(_, member)| member.lacks_changes());
    let names: Vec<_> = members.map(|(name, _)| name.to_string()).collect();
    if names.is_empty() {
        return String::new();
    }
    let names = names.join(", ");
    format!("; the pods of {names} are outdated and will be updated at their next restart (annotation {})", key::RESTARTED_AT)
}

/// What is in progress or pending, the current step first. The reason is that of the longest operation, so that it does not
/// change with every pass.
fn in_progress(changes: &Changes, outcome: &Outcome) -> Option<Note> {
    let notes: Vec<_> = changes.progress.iter().chain(&outcome.pending).collect();
    if let Some(first) = notes.first() {
        let step = changes.step.as_ref().filter(|_| outcome.pending.is_empty()).map(|step| step.describe() + "; ");
        return Some(Note::new(first.reason, step.unwrap_or_default() + &messages(notes.iter().copied())));
    }
    if let Some(step) = &changes.step {
        return Some(Note::new(step.definition().progressing(), step.describe()));
    }
    if let Some(first) = changes.certificates.first() {
        return Some(Note::new(first.reason, messages(&changes.certificates)));
    }
    let objects = changes
        .bootstrap
        .iter()
        .chain(&changes.objects)
        .chain(&changes.expansion)
        .chain(changes.stateful_sets.values())
        .map(Object::describe);
    let secrets = changes.secrets.iter().map(|change| format!("Secret {}", change.name));
    let authorities = changes.retention.iter().map(|domain| format!("the retention of the {domain} CA"));
    let pods = changes.pods.iter().map(|patch| format!("Pod {}", patch.pod));
    let all: Vec<_> = objects.chain(authorities).chain(secrets).chain(pods).collect();
    (!all.is_empty()).then(|| Note::new(Reason::ApplyingObjects, format!("applying {}", all.join(", "))))
}
