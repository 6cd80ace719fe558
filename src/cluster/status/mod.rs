//! Last status, observation, plan and its result -> new status and events. Pure.

mod available;
mod certificates;
mod degraded;
mod input;
mod members;
pub(crate) mod metrics;
mod progressing;
mod ready;
mod requests;
mod version;

use jiff::Timestamp;
use kube::{ResourceExt, runtime::events::EventType};

pub use input::Input;

use crate::{
    api::{ConditionType, EtcdCluster, EtcdClusterStatus, condition},
    cluster::{
        facts::ongoing::is_ongoing,
        observed::{Observed, ObservedMember},
    },
    ids::{ClusterId, Uid},
    kubernetes::ownership::{annotation, belongs},
    names::{annotation as key, label},
    reporting::{
        condition::{Announced, Finding, since},
        event::{event, joined},
        note::Note,
        publish::Report,
    },
};

/// The report of a pass.
pub fn report(input: &Input) -> Report {
    let Input { cluster, observed, facts, decision, outcome, now } = *input;
    let old = &observed.status;
    // Leftovers of another cluster of this name are not members of this one.
    let members = if decision.blocked().is_some() { vec![] } else { members::statuses(input) };
    let desired = match decision.cluster() {
        Some(cluster) => cluster.replicas,
        None => u32::try_from(members.len()).unwrap_or_default(),
    };
    let ready = members.iter().filter(|member| member.ready).count();
    let certificates = certificates::status(input, &members);
    let (version, upgrade) = version::status(input);
    let mut status = EtcdClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: vec![],
        ready: Some(format!("{ready}/{desired}")),
        ready_replicas: i32::try_from(ready).unwrap_or_default(),
        replicas: i32::try_from(members.len()).unwrap_or_default(),
        selector: Some(label::selector_text(&cluster.name_any())),
        version,
        upgrade,
        change: decision.changes().and_then(|changes| changes.change.clone()),
        cluster_id: old.cluster_id.or_else(|| recorded_cluster_id(facts.uid, observed)),
        endpoints: vec![facts.names.endpoint()],
        members,
        unknown_members: members::unknown(input),
        certificates,
        requests: requests::completed(input),
        progressing_since: None,
    };
    let (available, degraded) = (available::finding(input), degraded::finding(input));
    let (ready, progressing) = (ready::finding(input, &available, &degraded), progressing::finding(input));
    let before = old.progressing_since.as_ref().filter(|_| is_ongoing(old, progressing.note.reason));
    status.progressing_since = progressing.is_true.then(|| since(before, now));
    let findings = [available, progressing, degraded, certificates::finding(input), ready];
    let mut events = vec![];
    for finding in findings {
        let before = condition(&old.conditions, finding.kind);
        events.extend(finding.event(before));
        status.conditions.push(finding.condition(before, cluster.metadata.generation, now));
    }
    events.extend(members::restarted(input).map(|note| event(EventType::Normal, &note)));
    let disruptions = outcome.disruptions.iter().map(|note| event(EventType::Warning, note));
    let done = disruptions.chain(outcome.done.iter().map(|note| event(EventType::Normal, note))).collect();
    Report { status, events: joined(events), done: joined(done) }
}

/// The report of a pass that failed because of a bug: everything else stays as it was reported last.
pub fn bug(cluster: &EtcdCluster, note: Note, now: Timestamp) -> Report {
    let mut status = cluster.status.clone().unwrap_or_default();
    let finding = Finding { kind: ConditionType::Degraded, is_true: true, note, announced: Announced::AsWarning };
    let before = condition(&status.conditions, finding.kind).cloned();
    let events = finding.event(before.as_ref()).into_iter().collect();
    let degraded = finding.condition(before.as_ref(), cluster.metadata.generation, now);
    match status.conditions.iter_mut().find(|condition| condition.type_ == degraded.type_) {
        Some(there) => *there = degraded,
        None => status.conditions.push(degraded),
    }
    Report { status, events, done: vec![] }
}

/// The cluster ID that is recorded for the members. With it, an accidental second bootstrap is noticed.
fn recorded_cluster_id(uid: &Uid, observed: &Observed) -> Option<ClusterId> {
    let records = observed.members.values().filter_map(ObservedMember::record);
    let mut recorded =
        records.filter(|meta| belongs(meta, uid)).filter_map(|meta| annotation(meta, key::CLUSTER_ID)?.parse().ok());
    recorded.next()
}

#[cfg(test)]
mod tests;
