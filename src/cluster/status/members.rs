//! The members in the status.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::{Input, certificates::expiry};
use crate::{
    api::{MemberRole, MemberStatus, Reason, UnknownMemberStatus},
    cluster::{
        facts::{lost_quorum::describe_progress, ongoing::is_ongoing, pods::pod_is_forced, readiness::why_not_ready},
        observed::{Observed, ObservedMember, name_of},
    },
    etcd,
    kubernetes::{
        ownership::belongs,
        pod::{is_terminating, pod_condition},
        quantity::rounded,
    },
    member_pod::running_since,
    names::{MemberName, Names},
    reporting::{
        condition::{seconds, since},
        note::Note,
    },
};

/// The members.
pub fn statuses(input: &Input) -> Vec<MemberStatus> {
    let Input { observed, facts, .. } = input;
    // A member whose StatefulSet belongs to the cluster is a member, even if its claim is foreign.
    let is_foreign = |member: &ObservedMember| {
        let claim = member.claim.as_ref().map(|claim| &claim.metadata);
        let set = member.stateful_set.as_ref().map(|set| &set.metadata);
        set.or(claim).is_some_and(|meta| !belongs(meta, facts.uid))
    };
    // A removed member without any objects is no longer reported.
    let is_removed_completely = |name: &MemberName, member: &ObservedMember| {
        let has_nothing = member.claim.is_none() && member.stateful_set.is_none() && member.pod.is_none();
        has_nothing && is_removed(facts.names, observed, name)
    };
    let members = observed.members.iter().filter(|(name, member)| !is_foreign(member) && !is_removed_completely(name, member));
    members.map(|(name, member)| status(input, name, member)).collect()
}

/// Members that etcd lists at URLs which are not this cluster's.
pub fn unknown(input: &Input) -> Vec<UnknownMemberStatus> {
    let Input { observed, facts, now, .. } = input;
    let Ok(list) = &observed.list else { return observed.status.unknown_members.clone() };
    let unknown = |listed: &etcd::Member| {
        let before = observed.status.unknown_members.iter().find(|before| before.id == listed.id);
        UnknownMemberStatus {
            id: listed.id,
            name: listed.name.clone(),
            peer_url: listed.peer_urls.join(","),
            since: since(before.map(|before| &before.since), *now),
        }
    };
    let mut all: Vec<_> =
        list.members.iter().filter(|listed| name_of(facts.names, list, listed).is_none()).map(unknown).collect();
    all.sort_by_key(|unknown| unknown.id);
    all
}

fn status(input: &Input, name: &MemberName, member: &ObservedMember) -> MemberStatus {
    let Input { observed, facts, now, .. } = input;
    let etcd = member.etcd.status();
    let role = etcd.map(|status| match status {
        status if status.is_learner => MemberRole::Learner,
        status if status.leads() => MemberRole::Leader,
        _ => MemberRole::Follower,
    });
    let before = observed.reported(name);
    // Without a member list, a member that lost all objects keeps its last ID.
    let listed = observed.listed(facts.names, name).map(|listed| listed.id);
    let answered = etcd.map(|status| status.member_id);
    let id = listed.or(answered).or_else(|| member.recorded_ids().1).or_else(|| before?.id);
    // The last status of a previous member of this name is ignored.
    let was_promoted = |before: &MemberStatus| is_learner(before) && role.is_some_and(|role| role != MemberRole::Learner);
    let healthy = member.is_healthy();
    let unchanged = before.filter(|before| before.ready == healthy && before.id == id && !was_promoted(before));
    MemberStatus {
        name: name.to_string(),
        id,
        role,
        ready: healthy,
        since: Some(since(unchanged.and_then(|before| before.since.as_ref()), *now)),
        message: (!healthy).then(|| why_not_ready(member)),
        progress: describe_progress(member),
        version: etcd.map(|status| status.version.clone()),
        db_size: etcd.map(|status| rounded(status.db_size)),
        certificate_expires: member.secret.as_ref().and_then(expiry).map(seconds),
    }
}

/// Whether a quorum no longer lists a member: its objects are being deleted.
pub fn is_removed(names: &Names, observed: &Observed, name: &MemberName) -> bool {
    let list = observed.list.as_ref().ok().filter(|list| observed.status.cluster_id == Some(list.cluster_id));
    list.is_some() && observed.listed(names, name).is_none()
}

/// How long a pod may be not ready although its member answers: the kubelet probes every 2 s, or later if it is busy.
const STARTING: SignedDuration = SignedDuration::from_secs(15);

/// Whether a member answers and its pod is about to be ready. The pod of a learner is not ready before the learner is promoted.
/// After that, as after the start of its container, the kubelet may not have probed it yet.
pub fn is_about_to_be_ready(input: &Input, name: &MemberName, member: &ObservedMember) -> bool {
    // The pod of a member that starts as a cluster of one is never ready.
    let can_be_ready = |pod: &&Pod| !is_terminating(pod) && !pod_is_forced(pod);
    let (Some(status), Some(pod), false) =
        (member.etcd.status(), member.pod.as_deref().filter(can_be_ready), member.is_healthy())
    else {
        return false;
    };
    let Some(started) = running_since(pod) else { return status.is_learner };
    let before = input.observed.reported(name).filter(|before| !before.ready && !was_ready(pod, started));
    let promoted =
        before.and_then(|before| if is_learner(before) { Some(input.now) } else { before.since.as_ref().map(|since| since.0) });
    let is_recent = |since: Timestamp| input.now.duration_since(since) < STARTING;
    status.is_learner || promoted.into_iter().chain([started]).any(is_recent)
}

/// Whether a pod that is not ready was ready after its container started.
fn was_ready(pod: &Pod, started: Timestamp) -> bool {
    let changed = pod_condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    changed.is_some_and(|changed| changed.0 > started)
}

fn is_learner(reported: &MemberStatus) -> bool {
    reported.role == Some(MemberRole::Learner)
}

/// Describes a member that is not healthy.
pub fn describe_down(name: &MemberName, member: &ObservedMember) -> Option<String> {
    (!member.is_healthy()).then(|| format!("{name}: {}", why_not_ready(member)))
}

/// The members that were being restarted and are healthy again.
pub fn restarted(input: &Input) -> impl Iterator<Item = Note> {
    let Input { observed, now, .. } = *input;
    let restarting =
        [Reason::RollingRestart, Reason::RestartingMember, Reason::RotatingCA, Reason::Upgrading, Reason::Downgrading];
    let was_restarting = restarting.into_iter().any(|reason| is_ongoing(&observed.status, reason));
    let is_back = move |(name, member): (&MemberName, &ObservedMember)| {
        let before = observed.reported(name).filter(|before| !before.ready && !is_learner(before))?;
        let same = member.is_healthy() && member.etcd.status().map(|status| status.member_id) == before.id;
        let seconds = now.duration_since(before.since.as_ref()?.0).as_secs();
        let note = Note::new(Reason::MemberRestarted, format!("{name} is healthy again, {seconds} s after it was restarted"));
        Some(note).filter(|_| same)
    };
    observed.members.iter().filter(move |_| was_restarting).filter_map(is_back)
}
