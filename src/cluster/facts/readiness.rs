//! Why a member is not healthy, and for how long.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::containers;
use crate::{
    cluster::observed::{Observed, ObservedMember},
    kubernetes::pod::{is_terminating, node_of, pod_condition},
    names::MemberName,
};

/// Why a member is not healthy: the problem that the kubelet or the scheduler reports, or else the error of the operator's own
/// call.
pub fn why_not_ready(member: &ObservedMember) -> String {
    let Some(pod) = &member.pod else {
        return member.refusal.as_ref().map_or("it has no pod yet".into(), |words| format!("its pod is refused: {words}"));
    };
    let pending = pod_problem(pod).map(|problem| match unbound_claim(member) {
        Some(claim) => format!("{problem}; {claim}"),
        None => problem,
    });
    match (pending, member.etcd.problem()) {
        (Some(problem), _) => problem,
        // The cause may be the node, too little memory, or whatever keeps it from starting.
        (None, Some(problem)) => {
            let node = node_of(pod).map(|node| format!("its node is {node}"));
            let first_start = || containers::previous_end(pod).filter(|_| !member.has_started());
            let ended = containers::out_of_memory(pod).or_else(first_start);
            [Some(problem.to_owned()), node, ended].into_iter().flatten().collect::<Vec<_>>().join("; ")
        }
        (None, None) => "its pod is not ready".into(),
    }
}

/// The members that refuse the operator's certificate, and how. Clients have certificates of the same authority.
pub fn refusing(observed: &Observed) -> Option<String> {
    let members = observed.members.iter();
    let messages: Vec<_> = members.filter_map(|(name, member)| Some(format!("{name} {}", member.etcd.refusal()?))).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Describes a claim that is not bound, with its StorageClass: the scheduler's message names neither.
fn unbound_claim(member: &ObservedMember) -> Option<String> {
    let claim = member.claim.as_ref()?;
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let class = match claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref()) {
        Some(class) => format!("StorageClass {class}"),
        None => "no StorageClass, and there is no default one".into(),
    };
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    (phase != "Bound").then(|| format!("PersistentVolumeClaim {name} is {phase} ({class})"))
}

fn pod_problem(pod: &Pod) -> Option<String> {
    if is_terminating(pod) {
        return Some(format!(
            "its pod is being deleted{}",
            node_of(pod).map(|node| format!(" on node {node}")).unwrap_or_default()
        ));
    }
    if let Some(scheduled) = pod_condition(pod, "PodScheduled").filter(|scheduled| scheduled.status == "False") {
        // The scheduler appends a part about preemption, which is irrelevant here: ". not found", ". preemption: ...".
        let message = scheduled.message.as_deref().unwrap_or("no reason given");
        return Some(format!("its pod is not scheduled: {}", message.trim_end_matches(" not found").trim_end_matches('.')));
    }
    rejection(pod).or_else(|| containers::problem(pod))
}

/// Why a kubelet does not run a pod, or has ended it: it found too little memory for it, or evicted it. Such a pod never runs again.
fn rejection(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref().filter(|status| status.phase.as_deref() == Some("Failed"))?;
    let words: Vec<_> = [&status.reason, &status.message].into_iter().flatten().map(|text| text.trim_end_matches('.')).collect();
    Some(format!("its pod has failed: {}", if words.is_empty() { "no reason given".to_owned() } else { words.join(": ") }))
}

/// Since when a member is not healthy, as a suffix for a message about it.
pub fn down_since(observed: &Observed, name: &MemberName) -> String {
    let reported = observed.reported(name).filter(|reported| !reported.ready);
    let since = reported.and_then(|reported| reported.since.as_ref());
    since.map(|since| format!(" (since {})", since.0)).unwrap_or_default()
}

/// How long a member has not been healthy, according to the last status.
pub fn down_for(observed: &Observed, name: &MemberName, now: Timestamp) -> SignedDuration {
    let reported = observed.reported(name).filter(|member| !member.ready);
    let since = reported.and_then(|member| member.since.as_ref());
    since.map_or(SignedDuration::ZERO, |since| now.duration_since(since.0))
}
