//! Why a member is not healthy, and for how long.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::{
    cluster::observed::{Observed, ObservedMember},
    kubernetes::pod::{containers, is_terminating, node_of, pod_condition, waiting_reason},
    names::MemberName,
};

/// Why a member is not healthy: the problem that the kubelet or the scheduler reports, or else the error of the operator's own
/// call.
pub fn why_not_ready(member: &ObservedMember) -> String {
    let Some(pod) = &member.pod else { return "it has no pod yet".into() };
    let pending = pod_problem(pod).map(|problem| match unbound_claim(member) {
        Some(claim) => format!("{problem}; {claim}"),
        None => problem,
    });
    match (pending, member.etcd.problem()) {
        (Some(problem), _) => problem,
        // The cause may be the node.
        (None, Some(problem)) => match node_of(pod) {
            Some(node) => format!("{problem}; its node is {node}"),
            None => problem.to_owned(),
        },
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
    let container = containers(pod).next()?;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = match waiting.reason.as_deref() {
            None => "no reason given",
            Some(_) => waiting_reason(container)?,
        };
        // The kubelet's message about its back-off contains a time that changes, and hides how the container ended.
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let detail = match ended {
            Some(ended) => format!("it ended with exit code {}", ended.exit_code),
            None if reason.contains("Image") => format!("image {} cannot be pulled", container.image),
            None => waiting.message.clone().unwrap_or_default(),
        };
        let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
        return Some(format!("its container is waiting: {reason}{detail}"));
    }
    let terminated = state.terminated.as_ref()?;
    Some(format!("its container ended with exit code {}", terminated.exit_code))
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
