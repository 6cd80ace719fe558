//! Whether each member serves its current certificates.
//!
//! The kubelet refreshes mounted Secrets by itself within 60 to 90 s, and at once when an annotation of the pod changes (kubelet
//! `pkg/kubelet/config`, `UpdatePods`). etcd reads its leaf certificates at every handshake, so the next handshake shows which
//! ones it serves.

use jiff::{SignedDuration, Timestamp};

use super::{
    changes::{Changes, PodPatch, SOON},
    input::Input,
};
use crate::{
    api::Reason,
    certificates::{requests::SecretChange, secret::CachedSecret},
    cluster::{
        objects::MetadataChanges,
        observed::{ObservedMember, Probe},
    },
    ids::Uid,
    kubernetes::{ownership::annotation, pod::is_terminating},
    member_pod::running_since,
    names::{MemberName, annotation as key, member_key},
};

/// How long the kubelet may take to refresh the mounted files before the annotation is written again.
const TOUCH_AGAIN: SignedDuration = SignedDuration::from_secs(5);

/// How long after its start a pod's mounted files count as current, so that the pod is not touched.
const NEW: SignedDuration = SignedDuration::from_secs(10);

/// Makes kubelets refresh changed Secrets, and records which members serve their current certificates. Every note about
/// certificates is about a member that does not.
pub fn plan(input: &Input, secrets: &[SecretChange]) -> Changes {
    let mut changes = Changes::default();
    for (name, member) in &input.observed.members {
        let secret = input.facts.names.member_secret(name);
        let is_changing = secrets.iter().any(|change| change.name == secret && change.is_written_now());
        if !is_changing {
            changes.extend(confirm(input, name, member));
        }
    }
    changes
}

fn confirm(input: &Input, name: &MemberName, member: &ObservedMember) -> Option<Changes> {
    let now = input.now;
    let (secret, pod) = (member.secret.as_ref()?, member.pod.as_ref()?);
    if is_terminating(pod) || matches!(member.etcd, Probe::Skipped(_)) {
        return None;
    }
    let version = secret.fingerprint();
    let confirmed = annotation(&pod.metadata, key::TLS_CONFIRMED);
    let serves = serves_its_leaves(member, secret);
    if confirmed == Some(version) && serves != Ok(false) {
        return None;
    }
    let touched = annotation(&pod.metadata, key::TLS_TOUCHED).and_then(|text| text.split_once('@'));
    let touched_at =
        touched.filter(|(touched_version, _)| *touched_version == version).and_then(|(_, at)| at.parse::<Timestamp>().ok());
    let is_new = running_since(pod).is_none_or(|since| now.duration_since(since) < NEW);
    let is_refreshed = touched_at.is_some() || (confirmed.is_none() && is_new);
    // An unreachable member is reported elsewhere. But an expired certificate makes it unreachable, so its pod is touched once.
    if is_refreshed && matches!(member.etcd, Probe::Unreachable(_)) {
        return None;
    }
    let is_due_again = touched_at.is_none_or(|at| now.duration_since(at) >= TOUCH_AGAIN);
    let touch = || (key::TLS_TOUCHED, format!("{version}@{now:.0}"));
    let patch = match &serves {
        Ok(true) if is_refreshed => Some((key::TLS_CONFIRMED, version.to_owned())),
        Ok(_) if is_due_again => Some(touch()),
        // If the served leaf is unknown, the pod is touched once; touching it again would not help.
        Err(_) if !is_refreshed => Some(touch()),
        _ => None,
    };
    let mut changes = Changes::default().check_within(SOON);
    changes = match serves {
        Ok(true) => changes,
        Ok(false) => changes.certificate(Reason::NotServedYet, format!("{name} does not present its new certificates yet")),
        Err(problem) => {
            let message = format!("the certificates that {name} presents could not be read: {problem}");
            changes.certificate(Reason::NotServedYet, message)
        }
    };
    if let (Some((annotation, value)), Some(uid)) = (patch, Uid::of(&pod.metadata)) {
        let annotations = [(annotation.to_owned(), Some(value))].into();
        let written = MetadataChanges { annotations, ..MetadataChanges::default() };
        changes.pods.push(PodPatch { pod: input.facts.names.pod(name), uid, changes: written });
    }
    Some(changes)
}

/// Whether a member serves the leaf certificates of its Secret on both ports, or why that is not known.
fn serves_its_leaves(member: &ObservedMember, secret: &CachedSecret) -> Result<bool, String> {
    let matches = |der: &[u8], key: &str| secret.certificate(key).and_then(Result::ok).is_some_and(|leaf| leaf.der() == der);
    match (&member.etcd, &member.peer_leaf) {
        (Probe::Skipped(problem) | Probe::Unreachable(problem) | Probe::Refused(None, problem), _) => Err(problem.clone()),
        (Probe::Reached(server, _) | Probe::Refused(Some(server), _), _) if !matches(server, member_key::SERVER_CRT) => Ok(false),
        (_, Some(Ok(peer))) => Ok(matches(peer, member_key::PEER_CRT)),
        (_, Some(Err(problem))) => Err(problem.clone()),
        (_, None) => Err("port 2380 was not asked".into()),
    }
}

#[cfg(test)]
#[path = "confirmation_tests.rs"]
mod tests;
