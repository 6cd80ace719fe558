//! Recovery from a lost quorum. The user requests it by naming a survivor.
//!
//! The cluster continues with the survivor's data alone, and writes that only other members have are lost. No two clusters may
//! serve under the same IDs: a majority of the previous members that comes back later, on nodes that were dead, would be a quorum of
//! the previous cluster. So the others are stopped and their data is discarded before the survivor is forced. What is done follows
//! from what exists:
//!
//! | what exists | what is done |
//! | --- | --- |
//! | the request, and no reason to refuse it | the StatefulSets of the others are scaled to 0. Up to this point, removing the request undoes everything |
//! | no pod of another member, and none will be created | the claims of the others are marked as discarded. From then on none of them starts again |
//! | all claims are marked | the survivor's template gets `--force-new-cluster`, and its pod is recreated |
//! | a member list, and the flag | the request is removed, and the flag is no longer desired |
//! | no request, and a pod with the flag | the others are not listed: their certificates are revoked and their objects are deleted. Then that pod is recreated. Until then no member is added and the Service routes no client to it, so a container that restarts with the flag loses nothing |
//! | neither request nor flag | the cluster is scaled up |

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;

use super::{
    changes::{Changes, CompletedRequest, RequestEvent},
    input::Input,
};
use crate::{
    api::{ConditionType, Reason, condition},
    cluster::{
        facts::{
            lost_quorum::{follower, holds_data, join_names, progress, progress_problem, ready_pod, voters},
            pods::{discarded_for, is_forced, is_in_effect, is_stopped, pod_is_forced, template_is_forced},
        },
        observed::ObservedMember,
        steps::{DiscardData, RestartMember, Step},
        validated::EtcdSettings,
    },
    ids::Uid,
    kubernetes::{
        ownership::belongs,
        pod::{is_terminating, node_of},
    },
    names::{MemberName, annotation as key},
    reporting::note::Note,
};

/// What a recovery requires of the rest of the plan.
#[derive(Default)]
pub struct Recovery {
    /// The members that must not run.
    pub stopped: BTreeSet<MemberName>,
    /// The member whose next pod starts as a cluster of one.
    pub forced: Option<MemberName>,
    /// Whether a member runs, or may be about to run, as a cluster of one: no member is added, removed or restarted meanwhile.
    pub is_exclusive: bool,
    /// The next step.
    pub step: Option<Step>,
    /// Notes, and requests that are complete.
    pub changes: Changes,
}

/// How long the quorum must have been lost before members are stopped: 10 s with etcd's default election timeout. During an election,
/// or after a call that timed out, the quorum seems to be lost as well. A member starts an election after one to two election timeouts
/// without a leader.
fn election(etcd: &EtcdSettings) -> SignedDuration {
    SignedDuration::from_secs(8) + SignedDuration::from_millis_i128(etcd.election_timeout) * 2
}

/// Plans a recovery, or reports why it is refused.
pub fn plan(input: &Input) -> Recovery {
    if input.observed.list.is_ok() {
        return finish(input);
    }
    start(input).unwrap_or_else(|why| {
        let request = input.cluster.requests.recover_from.as_deref().unwrap_or_default();
        let message = format!("annotation {}={request} is refused, and nothing was changed: {why}", key::RECOVER_FROM);
        Recovery { changes: Changes::default().problem(Reason::RecoveryRefused, message), ..Recovery::without_progress(input) }
    })
}

impl Recovery {
    /// A recovery that does nothing now. Members whose data was discarded stay stopped.
    fn without_progress(input: &Input) -> Self {
        let stopped = input.observed.members.iter().filter(|(_, member)| discarded_for(member).is_some());
        Self { stopped: stopped.map(|(name, _)| name.clone()).collect(), ..Self::default() }
    }

    /// The same one, with what is reported as being in progress.
    fn progress(self, message: impl Into<String>) -> Self {
        let changes = Changes { is_recovering: true, ..self.changes }.progress(Reason::Recovering, message);
        Self { changes, ..self }
    }
}

/// With a member list there is a quorum: either there is nothing to recover, or the survivor has started and must be restarted
/// without the flag.
fn finish(input: &Input) -> Recovery {
    let none = Recovery::without_progress(input);
    let request = input.cluster.requests.recover_from.as_deref();
    let refused =
        Changes { completed: request.map(|request| refuse(input, request)).into_iter().collect(), ..Changes::default() };
    let Some((name, member)) = input.observed.members.iter().find(|(_, member)| is_forced(member)) else {
        return Recovery { changes: refused, ..none };
    };
    let (step, completed) = match request.map(Request::read) {
        // The request is removed first: without it no member is forced again.
        Some(Request { survivor, .. }) if survivor == name.as_str() => (None, Some(accept(input, name))),
        Some(_) => return Recovery { is_exclusive: true, changes: refused, ..none },
        None => (restart(name, member, false), None),
    };
    let changes = Changes { completed: completed.into_iter().collect(), ..Changes::default() };
    let changes = if member.loses_claim_with_pod() {
        let message = format!(
            "{name} has the only data, and its PersistentVolumeClaim is being deleted: the data is lost when its pod ends. So it is not \
             restarted without --force-new-cluster, and no members are added. Save its data first: forward port 2379 of its pod, and run `etcdctl snapshot save` on your machine"
        );
        changes.problem(Reason::CannotRestart, message)
    } else {
        changes
    };
    Recovery { is_exclusive: true, step, changes, ..none }.progress(format!(
        "{name} is a cluster of one; it is restarted without --force-new-cluster before clients can reach it and members are added"
    ))
}

/// Removes a request that was fulfilled: the member that it names is a cluster of one.
fn accept(input: &Input, survivor: &MemberName) -> CompletedRequest {
    let message =
        format!("{survivor} is a cluster of one, with the data that it had; writes that only other members had are lost");
    let event = RequestEvent::Accepted(Note::new(Reason::Recovered, message));
    CompletedRequest::removed(key::RECOVER_FROM, Some(event), input.cluster.requests.recovery())
}

/// Refuses a request while there is a quorum, and removes it: it must not take effect when the quorum is lost later.
fn refuse(input: &Input, request: &str) -> CompletedRequest {
    let message =
        format!("there is a quorum, so nothing was changed, and annotation {}={request} was removed", key::RECOVER_FROM);
    let event = RequestEvent::Refused(Note::new(Reason::RecoveryRefused, message));
    CompletedRequest::removed(key::RECOVER_FROM, Some(event), input.cluster.requests.recovery())
}

/// Without a member list: from the request to the forced start.
///
/// # Errors
/// Why the request is refused.
fn start(input: &Input) -> Result<Recovery, String> {
    let Input { cluster, observed, .. } = input;
    let none = Recovery::without_progress(input);
    let Some(request) = cluster.requests.recover_from.as_deref().map(Request::read) else {
        let Some(survivor) = observed.members.values().find_map(discarded_for) else { return Ok(none) };
        let message = format!(
            "waiting for {survivor} to start; the data of {} was discarded. If it does not start, set annotation {}={survivor} again",
            join_names(&none.stopped),
            key::RECOVER_FROM,
        );
        return Ok(none.progress(message));
    };
    let found = input.facts.names.parse_member(request.survivor).and_then(|name| observed.members.get_key_value(&name));
    let Some((survivor, member)) = found.filter(|(_, member)| holds_data(member)) else {
        return Err(format!("{} is not a member with data", request.survivor));
    };
    let others: BTreeMap<_, _> = observed.members.iter().filter(|(name, _)| *name != survivor).collect();
    if !is_forced(member) && !others.values().any(|other| discarded_for(other) == Some(request.survivor)) {
        check_allowed(input, &request, member, &others)?;
        if !is_lost_for_long(input) {
            return Ok(none.progress(format!(
                "{survivor} becomes a cluster of one if the quorum stays lost for {} s",
                election(&cluster.etcd).as_secs()
            )));
        }
    }
    Ok(force(input, survivor, member, &others))
}

/// Stops the other members, discards their data, and starts the survivor alone.
fn force(
    input: &Input,
    survivor: &MemberName,
    member: &ObservedMember,
    others: &BTreeMap<&MemberName, &ObservedMember>,
) -> Recovery {
    let stopping = Recovery { stopped: others.keys().map(|name| (*name).clone()).collect(), ..Recovery::default() };
    let running: Vec<_> = others.iter().filter_map(|(name, other)| may_run(input, name, other)).collect();
    if !running.is_empty() {
        return stopping.progress(format!(
            "stopping all members but {survivor}, from whose data the cluster is recovered: {}",
            running.join("; ")
        ));
    }
    let unread: Vec<_> = others.iter().filter(|(_, other)| other.claim_unread).map(|(name, _)| *name).collect();
    if !unread.is_empty() {
        return stopping.progress(format!(
            "the PersistentVolumeClaims of {} cannot be read, and their data must be discarded first",
            join_names(unread)
        ));
    }
    let is_discarded = |member: &ObservedMember| discarded_for(member) == Some(survivor.as_str());
    let to_discard = others.iter().filter(|(_, other)| !is_discarded(other)).filter_map(|(name, other)| {
        let claim = &other.claim.as_ref().filter(|claim| belongs(&claim.metadata, input.facts.uid))?.metadata;
        // A claim that is being deleted may stay for long, but no new pod can use it.
        Some(((*name).clone(), Uid::of(claim)?)).filter(|_| claim.deletion_timestamp.is_none())
    });
    let claims: Vec<_> = to_discard.collect();
    if !claims.is_empty() {
        let step = Some(DiscardData { survivor: survivor.clone(), claims }.into());
        return Recovery { step, ..stopping }.progress(format!("discarding the data of all members but {survivor}"));
    }
    let forced = Some(survivor.clone());
    Recovery { forced, step: restart(survivor, member, true), ..stopping }
        .progress(format!("starting {survivor} alone, with its data"))
}

fn is_lost_for_long(input: &Input) -> bool {
    let available = condition(&input.observed.status.conditions, ConditionType::Available);
    available
        .filter(|condition| condition.status == "False")
        .is_some_and(|condition| input.now.duration_since(condition.last_transition_time.0) >= election(&input.cluster.etcd))
}

/// A request to recover.
struct Request<'a> {
    survivor: &'a str,
    /// Whether the user accepts that data which only others may have is lost.
    is_forced: bool,
}

impl<'a> Request<'a> {
    fn read(text: &'a str) -> Self {
        match text.strip_suffix(key::FORCE) {
            Some(survivor) => Self { survivor, is_forced: true },
            None => Self { survivor: text, is_forced: false },
        }
    }
}

/// Fails if there is a reason to refuse a recovery that has not begun.
fn check_allowed(
    input: &Input,
    request: &Request,
    member: &ObservedMember,
    others: &BTreeMap<&MemberName, &ObservedMember>,
) -> Result<(), String> {
    let (observed, survivor) = (input.observed, request.survivor);
    if input.cluster.paused {
        return Err("spec.paused is true".into());
    }
    if !observed.has_come_up() {
        return Err("the cluster has not come up yet".into());
    }
    if member.is_in_pod() {
        return Err(format!(
            "the data of {survivor} is in its pod, which would have to be created again. Save it: forward port 2379 of its pod, and run \
             `etcdctl snapshot save` on your machine"
        ));
    }
    if let Some(name) = follower(observed) {
        return Err(format!("{name} sees a leader, so there is a quorum that the operator cannot reach"));
    }
    if progress(member).is_some_and(|progress| progress.is_learner) {
        return Err(format!("{survivor} is a learner, which never had a vote"));
    }
    if let Some(name) = ready_pod(observed) {
        return Err(format!("the pod of {name} is ready, which requires a quorum"));
    }
    if request.is_forced {
        return Ok(());
    }
    let voters = voters(observed);
    let other_voters = || voters.iter().filter(|(name, _)| name.as_str() != survivor);
    let running = other_voters().filter(|(_, voter)| voter.progress.is_some()).count() + 1;
    let all = other_voters().count() + 1;
    if running > all / 2 {
        return Err(format!(
            "{running} of {all} members run, and are a quorum as soon as they reach each other. To recover anyway, set the annotation to {survivor}{}",
            key::FORCE
        ));
    }
    check_most_recent(member, others, request.survivor)
}

/// Fails if another member may have data that the survivor lacks.
fn check_most_recent(
    member: &ObservedMember,
    others: &BTreeMap<&MemberName, &ObservedMember>,
    survivor: &str,
) -> Result<(), String> {
    let anyway = format!("To recover anyway, set the annotation to {survivor}{}", key::FORCE);
    let Some(own) = progress(member) else {
        let problem = progress_problem(member);
        return Err(format!("the revision of {survivor} is unknown: {problem}. {anyway}"));
    };
    for (name, other) in others {
        match progress(other) {
            Some(progress) if progress.revision > own.revision => {
                let (latest, revision) = (progress.revision, own.revision);
                return Err(format!("{name} has data up to revision {latest}, and {survivor} only to {revision}. {anyway}"));
            }
            None if other.progress.is_some() => {
                let problem = progress_problem(other);
                return Err(format!("{name} runs, and its revision is unknown: {problem}. {anyway}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why a member may be running, or may be started.
fn may_run(input: &Input, name: &MemberName, member: &ObservedMember) -> Option<String> {
    let pod = input.facts.names.pod(name);
    if let Some(existing) = &member.pod {
        return Some(match node_of(existing).filter(|_| is_terminating(existing)) {
            Some(node) => format!(
                "pod {pod} on node {node} is being deleted; if that node is permanently gone, delete the Node, or the pod with `kubectl -n {} \
                 delete pod {pod} --force`",
                input.facts.names.namespace(),
            ),
            None => format!("pod {pod} exists"),
        });
    }
    let set = member.stateful_set.as_ref()?;
    (!is_stopped(set)).then(|| format!("StatefulSet {name} is not scaled to 0 yet"))
}

/// Restarts a member if only one of its pod and its template is forced, unless its data would be lost with the pod.
fn restart(name: &MemberName, member: &ObservedMember, forced: bool) -> Option<Step> {
    let (pod, set) = (member.pod.as_ref()?, member.stateful_set.as_ref()?);
    let is_due = is_in_effect(set) && template_is_forced(set) == forced && pod_is_forced(pod) != forced;
    let stays = !is_terminating(pod) && !member.loses_data_with_pod();
    let step = RestartMember { member: name.clone(), pod_uid: Uid::of(&pod.metadata)? };
    (is_due && stays).then(|| step.into())
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
