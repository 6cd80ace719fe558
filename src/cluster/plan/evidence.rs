//! Evidence that a member cannot come back, so that deleting its objects loses nothing.
//!
//! A slow pod, a node that does not answer or a volume that is not attached is no evidence. Evidence is data that is gone, a node
//! that an administrator declared gone, data with which etcd crashes repeatedly, or the user's request.

use k8s_openapi::api::core::v1::{EnvVar, Pod};

use super::input::Input;
use crate::{
    cluster::{
        facts::{
            containers::is_out_of_memory,
            pods::discarded_for,
            readiness::down_for,
            roster::{Roster, RosterEntry},
        },
        observed::VolumeNode,
    },
    kubernetes::{ownership::annotation, pod::is_terminating},
    member_pod::{etcd_container, etcd_status},
    names::{MemberName, annotation as key},
};

/// Why an unhealthy member cannot come back, if there is evidence for that.
pub fn of_loss(input: &Input, roster: &Roster, name: &MemberName, entry: &RosterEntry) -> Option<String> {
    if entry.is_healthy() {
        return None;
    }
    let down = down_for(input.observed, name, input.now);
    let repair = input.cluster.repair;
    lost_data(entry)
        .or_else(|| lost_node(entry).filter(|_| down >= repair.lost_node))
        .or_else(|| crash_loop(roster, name, entry).filter(|_| down >= repair.crash_loop))
}

/// Its claim is missing, has the data of another member, or has lost its volume.
fn lost_data(entry: &RosterEntry) -> Option<String> {
    if entry.member.is_in_pod() {
        return lost_pod(entry);
    }
    let Some(claim) = &entry.member.claim else {
        return (!entry.member.claim_unread).then(|| "its PersistentVolumeClaim is missing".into());
    };
    let is_recorded = annotation(&claim.metadata, key::MEMBER_ID).is_some();
    if claim.metadata.deletion_timestamp.is_some() {
        Some("its PersistentVolumeClaim is being deleted".into())
    } else if is_recorded && entry.member.recorded_ids().1 != Some(entry.listed.id) {
        Some("its claim has the data of another member".into())
    } else if discarded_for(entry.member).is_some() {
        Some("its data was discarded in a recovery".into())
    } else if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        Some("the volume of its PersistentVolumeClaim is gone".into())
    } else {
        None
    }
}

/// The pod that had its data is gone or is going. A member that is not recorded has perhaps never started.
fn lost_pod(entry: &RosterEntry) -> Option<String> {
    let id = entry.member.recorded_ids().1?;
    if id != entry.listed.id {
        Some("its pod has the data of another member".into())
    } else if !entry.member.has_pod_with_data() {
        Some("its pod was deleted, and its data with it".into())
    } else if entry.member.pod.as_deref().is_some_and(is_terminating) {
        Some("its pod is being deleted, and its data with it".into())
    } else {
        None
    }
}

/// The only node that has its volume is gone.
fn lost_node(entry: &RosterEntry) -> Option<String> {
    match &entry.member.volume_node {
        VolumeNode::Gone(why) => Some(why.clone()),
        VolumeNode::Exists | VolumeNode::Unknown => None,
    }
}

/// The number of container restarts that counts as a crash loop.
const RESTARTS: i32 = 3;

/// The exit codes of a process that was not killed by a signal.
const NOT_KILLED: std::ops::RangeInclusive<i32> = 1..=127;

/// etcd crashes repeatedly although other members are healthy with the same settings, so its data must be damaged. Running out of
/// memory is no evidence, and neither is termination by a signal, which the kubelet sends to containers that start too slowly. A
/// container that waits for anything but the crash back-off is no evidence either: its image may be unavailable, or its volume
/// not attached.
///
/// A member that has its data in its pod is never restarted with other settings, and has run with those that it has. A volume in memory is
/// empty after its node was started again, and etcd then ends at each start.
fn crash_loop(roster: &Roster, name: &MemberName, entry: &RosterEntry) -> Option<String> {
    let pod = entry.member.pod.as_ref().filter(|pod| !is_terminating(pod))?;
    let container = etcd_status(pod)?;
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = state.terminated.as_ref().or(last)?;
    let is_backing_off = state.waiting.as_ref().is_none_or(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
    let is_looping = container.restart_count >= RESTARTS && state.running.is_none() && is_backing_off;
    if !is_looping || is_out_of_memory(ended) || !NOT_KILLED.contains(&ended.exit_code) {
        return None;
    }
    let ended = format!("its container has ended {} times, last with exit code {}", container.restart_count, ended.exit_code);
    if entry.member.is_in_pod() {
        return Some(format!("{ended}, and its data is in its pod"));
    }
    let own = settings(pod, name)?;
    let has_same = |(other, voter): (&MemberName, &RosterEntry)| {
        voter.is_healthy() && voter.member.pod.as_ref().and_then(|pod| settings(pod, other)).as_ref() == Some(&own)
    };
    roster.voters.iter().any(has_same).then(|| format!("{ended}, although others are healthy with the same settings"))
}

/// What a pod was created from, except for the name of its member: image, arguments and environment of etcd, the fields of the spec, and the
/// CAs in its trust bundles. A container that the spec adds, for example, may be why etcd ends.
fn settings(pod: &Pod, member: &MemberName) -> Option<Vec<String>> {
    let container = etcd_container(pod.spec.as_ref()?)?;
    let without_name = |text: &String| text.replace(member.as_str(), "");
    let variable = |variable: &EnvVar| format!("{}={:?}", variable.name, variable.value);
    let recorded = [key::SETTINGS, key::BUNDLES].map(|key| annotation(&pod.metadata, key).unwrap_or_default().to_owned());
    let arguments = container.args.iter().flatten().map(without_name);
    let variables = container.env.iter().flatten().map(variable);
    Some(container.image.iter().cloned().chain(recorded).chain(arguments).chain(variables).collect())
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
