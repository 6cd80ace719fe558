//! Changes the resources of pods while they run, one after the other, each complete before the next one begins: resources with which a member
//! gets into trouble reach one of them.
//!
//! What Kubernetes does not change in this way is changed by restarts (`rollout.rs`).

use super::{
    changes::{Changes, PodPatch},
    input::{Input, Pending},
    rollout::{Rollout, wait_for},
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            ongoing::ongoing_since,
            pods::is_in_effect,
            resize::{Resize, has_begun},
            roster::{Roster, RosterEntry, first},
        },
        objects::MetadataChanges,
        settings::Settings,
        steps::ResizeMember,
    },
    ids::Uid,
    kubernetes::ownership::annotation,
    names::{MemberName, annotation as key},
};

/// Changes the resources of a member: first of the one with which it has begun, then of an unhealthy one, last of the leader.
pub fn plan(input: &Input, roster: &Roster, rollout: &Rollout, pending: &Pending) -> Changes {
    let resized = roster.voters.iter().filter_map(|(name, voter)| Some((name, voter, rollout.in_place(name, voter.member)?)));
    let resized: Vec<_> = resized.collect();
    let (left, all, since) = (resized.len(), roster.voters.len(), ongoing_since(input.observed, Reason::Resizing));
    if left == 0 {
        return Changes::default();
    }
    let message = format!("the resources of {left} of {all} members have yet to be changed{since}");
    let change = Some(format!("pod.resources ({}/{all})", all - left));
    let changes = Changes { change, ..Changes::default().progress(Reason::Resizing, message) };
    let done = resized.iter().filter(|(.., resize)| *resize == Resize::Done);
    let pods: Vec<_> = done.filter_map(|(name, voter, _)| complete(input, name, voter)).collect();
    if !pods.is_empty() {
        return Changes { pods, ..changes };
    }
    if let Some((name, _, resize)) = resized.iter().find(|(.., resize)| *resize != Resize::Due) {
        return describe(changes, name, resize);
    }
    let begun = resized.iter().find(|(_, voter, _)| voter.member.pod.as_deref().is_some_and(has_begun));
    // A member that is restarted because its pod could not be changed is the first one with these resources.
    let is_restarting = roster.voters.iter().any(|(name, voter)| rollout.is_outdated(name, voter.member));
    let next = begun.map(|(name, voter, _)| (*name, *voter));
    let next = next.or_else(|| first(resized.iter().map(|(name, voter, _)| (*name, *voter))).filter(|_| !is_restarting));
    let Some((name, voter)) = next else { return changes };
    let is_applied = !pending.stateful_sets.contains(name) && voter.member.stateful_set.as_deref().is_some_and(is_in_effect);
    if !is_applied || rollout.stays_outdated(name, voter.member) {
        return changes;
    }
    if begun.is_none()
        && voter.is_healthy()
        && let Some(until) = wait_for(input, roster, pending)
    {
        return changes.progress(Reason::Resizing, format!("the resources of {name} will be changed once {until}"));
    }
    let uid = voter.member.pod.as_ref().and_then(|pod| Uid::of(&pod.metadata));
    Changes { step: uid.map(|pod_uid| ResizeMember { member: name.clone(), pod_uid }.into()), ..changes }
}

/// Records that a pod has the resources of the spec, so that it is not changed again.
fn complete(input: &Input, name: &MemberName, voter: &RosterEntry) -> Option<PodPatch> {
    let meta = &voter.member.pod.as_ref()?.metadata;
    let settings = Settings::parse(annotation(meta, key::SETTINGS)?)?.with_resources_of(&input.cluster.settings);
    let annotations = [(key::SETTINGS.to_owned(), Some(settings.text())), (key::RESIZING.to_owned(), None)].into();
    let changes = MetadataChanges { annotations, ..MetadataChanges::default() };
    Some(PodPatch { pod: input.facts.names.pod(name), uid: Uid::of(meta)?, changes })
}

/// Says why a change takes long.
fn describe(changes: Changes, name: &MemberName, resize: &Resize) -> Changes {
    let restart = format!("set annotation {} to have the members restarted instead", key::RESTARTED_AT);
    match resize {
        Resize::Deferred(words) => {
            let message =
                format!("the node of {name} does not have them now: {words}. They are given as soon as it has; or {restart}");
            changes.progress(Reason::Resizing, message)
        }
        Resize::Failed(words) => {
            let message = format!(
                "{name} is not given the resources of the spec: {words}. Kubernetes tries again, and no other member is changed before. \
                 Correct spec.pod.resources, or {restart}"
            );
            changes.problem(Reason::CannotResize, message)
        }
        Resize::Due | Resize::InProgress | Resize::Infeasible(_) | Resize::Done => {
            changes.progress(Reason::Resizing, format!("the resources of {name} are being changed"))
        }
    }
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
