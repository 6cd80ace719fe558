//! Facts about the members while there is no quorum: which of them have data, how recent it is, and what the user can do.

use std::collections::BTreeMap;

use super::{pods::discarded_for, readiness::why_not_ready};
use crate::{
    cluster::observed::{Observed, ObservedMember},
    etcd::Progress,
    kubernetes::pod::is_terminating,
    names::{MemberName, Names, annotation as key},
};

/// Whether a member has data with which it can start.
pub fn holds_data(member: &ObservedMember) -> bool {
    let claim_stays = member.claim.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_none());
    let pod_stays = member.has_pod_with_data() && member.pod.as_deref().is_some_and(|pod| !is_terminating(pod));
    (claim_stays || pod_stays) && member.has_started() && discarded_for(member).is_none()
}

/// How recent a member's data is.
pub fn progress(member: &ObservedMember) -> Option<Progress> {
    member.progress.as_ref()?.as_ref().ok().copied()
}

/// How recent a member's data is, for its status. It is left out while there is a leader, because it would change with every
/// write.
pub fn describe_progress(member: &ObservedMember) -> Option<String> {
    progress(member).filter(|progress| !progress.has_leader).map(|progress| format!("revision {}", progress.revision))
}

/// Why it is unknown how recent a member's data is.
pub fn progress_problem(member: &ObservedMember) -> String {
    match &member.progress {
        Some(Err(problem)) => format!("it {problem}"),
        _ => why_not_ready(member),
    }
}

/// A member that sees a leader.
pub fn follower(observed: &Observed) -> Option<&MemberName> {
    observed.members.iter().find(|(_, member)| sees_leader(member) == Some(true)).map(|(name, _)| name)
}

/// Whether a member sees a leader, if it says so.
fn sees_leader(member: &ObservedMember) -> Option<bool> {
    let measured = progress(member).map(|progress| progress.has_leader);
    measured.or_else(|| member.etcd.status().map(|status| status.leader.is_some()))
}

/// Why etcd has a quorum, even if the operator cannot reach it; `None` if there may be none.
pub fn quorum_evidence(observed: &Observed) -> Option<String> {
    if let Some(name) = follower(observed) {
        return Some(format!("{name} sees a leader"));
    }
    let sees_none = |member: &ObservedMember| sees_leader(member) == Some(false);
    if !observed.members.values().any(sees_none) {
        return ready_pod(observed).map(|name| format!("the pod of {name} is ready, which requires a quorum"));
    }
    // What a member says is newer than what the kubelet has written about its own pod. The others may be a quorum without it.
    let voters = voters(observed);
    let ready: Vec<_> =
        voters.iter().filter(|(_, member)| member.pod_ready() && !sees_none(member)).map(|(name, _)| *name).collect();
    (ready.len() > voters.len() / 2)
        .then(|| format!("the pods of {} are ready, which requires a quorum", join_names(ready.iter().copied())))
}

/// A member with a ready pod. The kubelet's readiness probe is a read that a quorum confirms.
pub fn ready_pod(observed: &Observed) -> Option<&MemberName> {
    observed.members.iter().find(|(_, member)| member.pod_ready()).map(|(name, _)| name)
}

/// The members with a vote, as far as they are known without a member list. A removed member has no StatefulSet any more; adopted members
/// have none at first. A vote too few only makes a recovery need more confirmation; a vote too many could hide a quorum.
pub fn voters(observed: &Observed) -> BTreeMap<&MemberName, &ObservedMember> {
    let members = &observed.members;
    let any_set = members.values().any(|member| member.stateful_set.is_some());
    let has_vote = |member: &ObservedMember| {
        (member.stateful_set.is_some() || !any_set) && !progress(member).is_some_and(|progress| progress.is_learner)
    };
    members.iter().filter(|(_, member)| has_vote(member)).collect()
}

/// The message for the user of a cluster that lost its quorum: which members have data, how recent it is, and what can be done.
pub fn describe(names: &Names, observed: &Observed, recovering: bool) -> String {
    let members = &observed.members;
    let each = |(name, member): (&MemberName, &ObservedMember)| match (holds_data(member), describe_progress(member)) {
        (true, Some(progress)) => format!("{name} has data up to {progress}"),
        (true, None) => format!("{name} has data, but its revision is unknown ({})", progress_problem(member)),
        (false, _) => format!("{name} has no data ({})", why_no_data(names, name, member)),
    };
    let described = members.iter().map(each).collect::<Vec<_>>().join("; ");
    if recovering {
        return format!("{described}. The cluster is being recovered: see Progressing");
    }
    if let Some(name) = follower(observed) {
        return format!("{described}. {name} sees a leader, so there is a quorum that the operator cannot reach: do not recover");
    }
    let voters = voters(observed);
    let holders: Vec<_> = voters.iter().filter(|(_, member)| holds_data(member)).collect();
    // Of equally recent members, the first.
    let best = holders.iter().rev().max_by_key(|(_, member)| progress(member).map(|progress| progress.revision));
    let Some((best, member)) = best else {
        let remedy =
            if members.values().all(ObservedMember::is_in_pod) { ": delete the EtcdCluster, and create it again" } else { "" };
        return format!("{described}. No data is left to recover from{remedy}");
    };
    let quorum = voters.len() / 2 + 1;
    let running = holders.iter().filter(|(_, member)| progress(member).is_some()).count();
    if voters.len() == 1 && running == 0 {
        return format!("{described}. The cluster becomes available again without loss as soon as it runs");
    }
    let wait = if holders.len() < quorum {
        "that is no quorum, so the cluster cannot become available again by itself".into()
    } else if running >= quorum {
        format!(
            "{running} of them run and see no leader, so they cannot reach each other, or etcd lists members that never started"
        )
    } else {
        format!("the cluster becomes available again without loss as soon as {quorum} of them run")
    };
    let remedy = if member.is_in_pod() {
        format!(
            "save the data of {best} with `etcdctl snapshot save`, after forwarding port 2379 of its pod. A cluster with its data in the pods \
             cannot be recovered"
        )
    } else {
        let command = format!("kubectl -n {} annotate etcd {} {}={best}", names.namespace(), names.cluster(), key::RECOVER_FROM);
        format!("`{command}` creates a new cluster from the data of {best}; writes that only other members have are lost")
    };
    format!(
        "{described}. {} of {} members have data: {wait}. If no other member can come back: {remedy}",
        holders.len(),
        voters.len(),
    )
}

fn why_no_data(names: &Names, name: &MemberName, member: &ObservedMember) -> String {
    let claim = names.claim(name);
    match &member.claim {
        None if member.is_in_pod() && member.has_started() => "its pod, which had it, is gone or is being deleted".into(),
        None if member.is_in_pod() => "it has never started".into(),
        None => format!("PersistentVolumeClaim {claim} is missing"),
        Some(existing) if existing.metadata.deletion_timestamp.is_some() => {
            format!("PersistentVolumeClaim {claim} is being deleted")
        }
        Some(_) => match discarded_for(member) {
            Some(survivor) => format!("it was discarded to recover the cluster from {survivor}"),
            None => "it has never started".into(),
        },
    }
}

/// Names separated by commas.
pub fn join_names<'a>(names: impl IntoIterator<Item = &'a MemberName>) -> String {
    names.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
