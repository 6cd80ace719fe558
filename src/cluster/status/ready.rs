//! The condition `Ready`: whether the cluster is as its spec says. Tools that know no `EtcdCluster` wait for it, such as Flux and
//! everything else that uses kstatus (sigs.k8s.io/cli-utils, `pkg/kstatus`): True with the current generation is finished, False is
//! in progress.

use super::{Input, degraded, progressing};
use crate::{
    api::{ConditionType, Reason, condition, is_true},
    cluster::outcome::Decision,
    reporting::{
        condition::{Announced, Finding},
        note::Note,
    },
};

/// The condition `Ready`, given `Available` and `Degraded`. Advice for later, such as `CAExpiresSoon`, keeps no tool waiting.
pub fn finding(input: &Input, available: &Finding, degraded: &Finding) -> Finding {
    let is_fault = degraded.is_true && !degraded::is_advice(degraded.note.reason);
    let faults = [(!available.is_true).then_some(&available.note), is_fault.then_some(&degraded.note)];
    let fault = faults.into_iter().flatten().next().cloned();
    let unmet =
        fault.or_else(|| progressing::unfinished(input).filter(|_| !is_upkeep(input)).map(|note| unless_paused(input, note)));
    let is_true = unmet.is_none();
    let note = unmet.unwrap_or_else(|| Note::new(Reason::UpToDate, "the cluster is as its spec says"));
    Finding { kind: ConditionType::Ready, is_true, note, announced: Announced::Silently }
}

/// Whether what is unfinished only keeps the cluster as it is: it was ready with this spec, no annotation requests anything, and
/// nothing but certificates and objects is being renewed. Otherwise every renewal would make it not ready for a few seconds.
fn is_upkeep(input: &Input) -> bool {
    let is_requested = input.decision.cluster().is_some_and(|cluster| cluster.requests.is_pending());
    let before = condition(&input.observed.status.conditions, ConditionType::Ready);
    let was_ready =
        before.is_some_and(|before| is_true(before) && before.observed_generation == input.cluster.metadata.generation);
    let changes = input.decision.changes();
    was_ready && !is_requested && input.outcome.pending.is_empty() && changes.is_some_and(|changes| changes.progress.is_empty())
}

fn unless_paused(input: &Input, note: Note) -> Note {
    match input.decision {
        Decision::Planned(cluster, _) if cluster.paused => {
            Note::new(Reason::Paused, format!("spec.paused is true, so this is not done: {}", note.message))
        }
        _ => note,
    }
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
