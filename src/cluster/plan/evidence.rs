//! What shows that a member can't come back, so that deleting what is left of it loses nothing.
//!
//! A pod that is slow, a node that does not answer, a volume that is not attached: none of that is evidence. It takes data that is
//! gone, a node of which somebody said that it is gone, data with which etcd ends again and again, or the word of the user.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{
    membership::{Entry, Roster},
    recovery::is_given_up,
};
use crate::{
    cluster::{
        observed::{Home, Observed, annotation},
        validate::ValidatedCluster,
    },
    etcd,
    names::{MemberName, annotation as key},
};

/// Why a member that does not serve will not come back.
pub fn of_loss(
    cluster: &ValidatedCluster,
    observed: &Observed,
    roster: &Roster,
    (name, entry): (&MemberName, &Entry),
    now: Timestamp,
) -> Option<String> {
    if entry.serves() {
        return None;
    }
    let down = down_for(observed, name, now);
    lost_data(entry)
        .or_else(|| lost_node(entry).filter(|_| down >= cluster.repair.lost_node))
        .or_else(|| crash_loop(roster, name, entry).filter(|_| down >= cluster.repair.crash_loop))
}

/// How long a member has been down, as was last reported.
pub fn down_for(observed: &Observed, name: &MemberName, now: Timestamp) -> SignedDuration {
    let reported = observed.reported(name).filter(|member| !member.ready);
    let since = reported.and_then(|member| member.since.as_ref()?.parse::<Timestamp>().ok());
    since.map_or(SignedDuration::ZERO, |since| now.duration_since(since))
}

/// Its claim is gone, is another incarnation's, or has lost its volume.
fn lost_data(entry: &Entry) -> Option<String> {
    let Some(claim) = &entry.member.claim else {
        return (!entry.member.claim_unread).then(|| "its claim is gone".into());
    };
    let written = annotation(&claim.metadata, key::MEMBER_ID);
    if claim.metadata.deletion_timestamp.is_some() {
        Some("its claim is being deleted".into())
    } else if written.is_some_and(|written| !etcd::is_id(written, entry.listed.id)) {
        Some("its claim has the data of another member".into())
    } else if is_given_up(entry.member) {
        Some("its data was given up in a recovery".into())
    } else if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        Some("the volume of its claim is gone".into())
    } else {
        None
    }
}

/// The only node that has its volume is gone.
fn lost_node(entry: &Entry) -> Option<String> {
    match &entry.member.home {
        Home::Gone(words) => Some(words.clone()),
        Home::There | Home::Unknown => None,
    }
}

/// Restarts of a container after which it is no accident any more.
const RESTARTS: i32 = 3;

/// The exit codes of a process that no signal has ended.
const BY_ITSELF: std::ops::RangeInclusive<i32> = 1..=127;

/// etcd ends again and again, though it serves elsewhere with the same settings: the data with which it starts is at fault. That
/// memory ran out is not, nor an end by a signal, as the kubelet gives to what is slow to start. And a container may not start for
/// other reasons long after it has ended: its image cannot be pulled, or its volume is not attached.
fn crash_loop(roster: &Roster, name: &MemberName, entry: &Entry) -> Option<String> {
    let pod = entry.member.pod.as_ref().filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let state = container.state.as_ref()?;
    let last = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let ended = state.terminated.as_ref().or(last)?;
    let waits = state.waiting.as_ref().is_none_or(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
    let looping = container.restart_count >= RESTARTS && state.running.is_none() && waits;
    if !looping || ended.reason.as_deref() == Some("OOMKilled") || !BY_ITSELF.contains(&ended.exit_code) {
        return None;
    }
    let settings = settings(pod, name)?;
    let others = roster.voters.iter().filter(|(_, voter)| voter.serves());
    let same = |(other, voter): (&MemberName, &Entry)| {
        voter.member.pod.as_ref().and_then(|pod| self::settings(pod, other)).as_ref() == Some(&settings)
    };
    others.into_iter().any(same).then(|| {
        format!(
            "its container has ended {} times, last with exit code {}, though others serve with the same settings",
            container.restart_count, ended.exit_code
        )
    })
}

/// What a pod starts etcd with, but for the name of its member.
fn settings(pod: &Pod, member: &MemberName) -> Option<(Option<String>, Vec<String>, Vec<String>)> {
    let container = pod.spec.as_ref()?.containers.first()?;
    let alike = |text: &String| text.replace(member.as_str(), "");
    let variable = |variable: &k8s_openapi::api::core::v1::EnvVar| format!("{}={:?}", variable.name, variable.value);
    let arguments = container.args.iter().flatten().map(alike).collect();
    Some((container.image.clone(), arguments, container.env.iter().flatten().map(variable).collect()))
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
