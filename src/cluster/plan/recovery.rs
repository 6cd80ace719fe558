//! Quorum lost: how far each member got, and the way out that a cluster's user may ask for.
//!
//! The user names a survivor. Its data alone becomes the cluster, and what others have beside is lost. The same data must not serve
//! twice: two of the others that come back later, from nodes that were dead, would be a quorum of the cluster that was, under the
//! same IDs. So the others are stopped and their data is given up before anything is forced, and what is done next follows from what
//! there is:
//!
//! | there is | so |
//! | --- | --- |
//! | the wish, and nothing that speaks against it | the others' StatefulSets are scaled to 0. Until here, taking the wish off undoes all |
//! | no pod of another, and none to come | the others' claims are marked: given up for the survivor. From here on none of them starts again |
//! | the mark on all of them | the survivor's template gets `--force-new-cluster`, and its pod is made anew |
//! | a list, and the flag | the wish is taken off; the flag is not wanted any more |
//! | no wish, and the flag on a pod | that pod is made anew. Before that nobody is added and no client is let in, so there is nothing that a container that starts again could forget |
//! | neither wish nor flag | the others are not listed: what they had is revoked and deleted, and the cluster grows, as ever |

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};

use super::{EndedWish, Note, Plan, Step, why_not_ready};
use crate::{
    api,
    cluster::{
        build,
        observed::{Observed, ObservedMember, annotation, belongs},
        validate::ValidatedCluster,
    },
    etcd::Progress,
    names::{MemberName, Names, annotation as key},
};

/// What a recovery asks of the rest of the plan.
#[derive(Debug, Default)]
pub struct Recovery {
    /// Who must not run.
    pub stopped: BTreeSet<MemberName>,
    /// Whose next pod starts as a cluster of one.
    pub forced: Option<MemberName>,
    /// Whether somebody runs, or may be about to, as a cluster of one: nobody comes, goes or is restarted meanwhile.
    pub is_exclusive: bool,
    /// The next step.
    pub step: Option<Step>,
}

/// How long quorum has been lost before anybody is stopped: an election looks the same while it lasts, and so does a call that came
/// too late.
const ELECTION: SignedDuration = SignedDuration::from_secs(10);

/// What a recovery that goes on is told under.
pub const RECOVERING: &str = "Recovering";

/// What is to be done for a recovery, or why it is not.
pub fn plan(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp, plan: &mut Plan) -> Recovery {
    let stopped = observed.members.iter().filter(|(_, member)| given_up(member).is_some()).map(|(name, _)| name.clone());
    let mut recovery = Recovery { stopped: stopped.collect(), ..Recovery::default() };
    let goes_on = match &observed.list {
        Ok(_) => end(cluster, observed, &mut recovery, plan),
        Err(_) => begin(cluster, observed, now, &mut recovery),
    };
    match goes_on {
        Ok(Some(words)) => plan.waits.push(Note::new(RECOVERING, words)),
        Ok(None) => {}
        Err(why) => {
            let wish = cluster.recover_from.as_deref().unwrap_or_default();
            let message = format!("annotation {}={wish} is refused, and nothing was touched: {why}", key::RECOVER_FROM);
            plan.problems.push(Note::new("RecoveryRefused", message));
        }
    }
    recovery
}

/// What goes on, in words, or why nothing does though it was wished for.
type Course = Result<Option<String>, String>;

/// With a list there is a quorum: either nothing is to be recovered, or the survivor has come up and is to forget that it was
/// forced.
fn end(cluster: &ValidatedCluster, observed: &Observed, recovery: &mut Recovery, plan: &mut Plan) -> Course {
    let wish = cluster.recover_from.as_deref().map(Wish::read);
    // It must not wait for the day on which quorum is lost.
    let unwish = |plan: &mut Plan| {
        let wish = cluster.recover_from.as_deref().unwrap_or_default();
        let message =
            format!("there is a quorum, so nothing was touched, and annotation {}={wish} is taken off", key::RECOVER_FROM);
        plan.wishes.push(EndedWish { warns: true, ..EndedWish::new(key::RECOVER_FROM).told("RecoveryRefused", message) });
        Ok(None)
    };
    let Some((name, member)) = observed.members.iter().find(|(_, member)| bears_flag(member)) else {
        return if wish.is_some() { unwish(plan) } else { Ok(None) };
    };
    recovery.is_exclusive = true;
    if let Some(wish) = wish {
        if wish.survivor != name.as_str() {
            return unwish(plan);
        }
        // First of all: without the wish nobody is forced again.
        let message = format!("{name} is a cluster of one, with the data that it had; what only others had is lost");
        plan.wishes.push(EndedWish::new(key::RECOVER_FROM).told("Recovered", message));
    } else {
        recovery.step = restart(name, member, false);
    }
    if member.is_doomed() {
        plan.problems.push(Note::new(
            "CannotRestart",
            format!(
                "{name} has the only data, and its claim is being deleted and goes with its pod: it is neither restarted without --force-new-cluster, nor are others added. Save its data with `etcdctl snapshot save`"
            ),
        ));
    }
    Ok(Some(format!(
        "{name} is a cluster of one; its pod is made anew without --force-new-cluster before clients are led to it and others are added"
    )))
}

/// Without a list: from the wish to the forced start.
fn begin(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp, recovery: &mut Recovery) -> Course {
    let Some(wish) = cluster.recover_from.as_deref().map(Wish::read) else {
        let survivor = observed.members.values().find_map(given_up);
        return Ok(survivor.map(|survivor| {
            format!(
                "{survivor} is awaited, for which the data of {} was given up. If it does not come, set annotation {}={survivor} again",
                list(&recovery.stopped),
                key::RECOVER_FROM,
            )
        }));
    };
    let found = cluster.names.parse_member(wish.survivor).and_then(|name| observed.members.get_key_value(&name));
    let Some((survivor, member)) = found.filter(|(_, member)| holds_data(member)) else {
        return Err(format!("{} is no member with data", wish.survivor));
    };
    let others: BTreeMap<_, _> = observed.members.iter().filter(|(name, _)| *name != survivor).collect();
    let is_given_up = |member: &ObservedMember| given_up(member) == Some(wish.survivor);
    if !bears_flag(member) && !others.values().any(|other| is_given_up(other)) {
        reasons_against(cluster, observed, &wish, member, &others)?;
        if !is_lost_for_good(observed, now) {
            return Ok(Some(format!("{survivor} becomes a cluster of one if quorum stays lost for {} s", ELECTION.as_secs())));
        }
    }
    recovery.stopped = others.keys().map(|name| (*name).clone()).collect();
    let running: Vec<_> = others.iter().filter_map(|(name, other)| may_run(cluster, name, other)).collect();
    if !running.is_empty() {
        return Ok(Some(format!(
            "stopping all members but {survivor}, from whose data the cluster is made anew: {}",
            running.join("; ")
        )));
    }
    let unread: Vec<_> = others.iter().filter(|(_, other)| other.claim_unread).map(|(name, _)| *name).collect();
    if !unread.is_empty() {
        return Ok(Some(format!("the claims of {} cannot be read, and their data must be given up first", list(unread))));
    }
    let left = others.iter().filter(|(_, other)| !is_given_up(other)).filter_map(|(name, other)| {
        let claim = &other.claim.as_ref().filter(|claim| belongs(&claim.metadata, &cluster.uid))?.metadata;
        // No new pod gets a claim that is being deleted, and it may stay like that for long.
        Some(((*name).clone(), claim.uid.clone()?)).filter(|_| claim.deletion_timestamp.is_none())
    });
    let left: Vec<_> = left.collect();
    if !left.is_empty() {
        recovery.step = Some(Step::GiveUp { survivor: survivor.clone(), claims: left });
        return Ok(Some(format!("giving up the data of all members but {survivor}")));
    }
    recovery.forced = Some(survivor.clone());
    recovery.step = restart(survivor, member, true);
    Ok(Some(format!("starting {survivor} alone, with its data")))
}

fn is_lost_for_good(observed: &Observed, now: Timestamp) -> bool {
    let available = api::condition(&observed.status.conditions, "Available").filter(|condition| condition.status == "False");
    available.is_some_and(|condition| now.duration_since(condition.last_transition_time.0) >= ELECTION)
}

/// What an `EtcdCluster` asks for.
struct Wish<'a> {
    survivor: &'a str,
    is_forced: bool,
}

impl<'a> Wish<'a> {
    fn read(text: &'a str) -> Self {
        match text.strip_suffix(key::FORCE) {
            Some(survivor) => Self { survivor, is_forced: true },
            None => Self { survivor: text, is_forced: false },
        }
    }
}

/// Fails with what speaks against a recovery that has not begun.
fn reasons_against(
    cluster: &ValidatedCluster,
    observed: &Observed,
    wish: &Wish,
    member: &ObservedMember,
    others: &BTreeMap<&MemberName, &ObservedMember>,
) -> Result<(), String> {
    let survivor = wish.survivor;
    if cluster.paused {
        return Err("spec.paused is true".into());
    }
    if observed.status.cluster_id.is_none() {
        return Err("the cluster has not come up yet".into());
    }
    if let Some(name) = follower(observed) {
        return Err(format!("{name} sees a leader, so there is a quorum that the operator cannot reach"));
    }
    if progress(member).is_some_and(|progress| progress.is_learner) {
        return Err(format!("{survivor} is a learner, which never had a vote"));
    }
    // A kubelet's look at a member is a read that a quorum confirms, whatever the operator can reach.
    if let Some((name, _)) = observed.members.iter().find(|(_, member)| member.pod_ready()) {
        return Err(format!("the pod of {name} is ready, which it is with a quorum only"));
    }
    if wish.is_forced {
        return Ok(());
    }
    let running = others.values().filter(|other| other.progress.is_some()).count() + 1;
    let all = others.len() + 1;
    if running > all / 2 {
        return Err(format!(
            "{running} of {all} members run, which are a quorum as soon as they find each other. To go on without them, set it to {survivor}{}",
            key::FORCE
        ));
    }
    let anyway = format!("If that is to be lost, set it to {survivor}{}", key::FORCE);
    let Some(own) = progress(member) else {
        return Err(format!("how far {survivor} got cannot be read: {}. {anyway}", not_read(member)));
    };
    for (name, other) in others {
        match progress(other) {
            Some(progress) if progress.revision > own.revision => {
                let (far, near) = (progress.revision, own.revision);
                return Err(format!("{name} got further, to revision {far}; {survivor} has {near}. {anyway}"));
            }
            None if other.progress.is_some() => {
                return Err(format!("{name} runs, and how far it got cannot be read: {}. {anyway}", not_read(other)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Why a member may have a process, or get one.
fn may_run(cluster: &ValidatedCluster, name: &MemberName, member: &ObservedMember) -> Option<String> {
    let pod = cluster.names.pod(name);
    if let Some(there) = &member.pod {
        let node = there.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        return Some(match (node, &there.metadata.deletion_timestamp) {
            (Some(node), Some(_)) => format!(
                "pod {pod} on node {node} is being deleted; if that node is gone for good, delete the Node, or the pod with `kubectl -n {} delete pod {pod} --force`",
                cluster.names.namespace(),
            ),
            _ => format!("pod {pod} is there"),
        });
    }
    let set = member.stateful_set.as_ref()?;
    (!is_stopped(set)).then(|| format!("StatefulSet {name} is not scaled to 0 yet"))
}

/// Whether a StatefulSet has no pod and its controller makes none.
pub fn is_stopped(set: &StatefulSet) -> bool {
    let pods = set.status.as_ref().map(|status| status.replicas);
    is_current(set) && set.spec.replicas == Some(0) && pods == Some(0)
}

/// Whether the controller makes pods from what a StatefulSet says now.
pub fn is_current(set: &StatefulSet) -> bool {
    set.status.as_ref().is_some_and(|status| status.observed_generation == set.metadata.generation)
}

/// Has the pod of a member made anew where only the other one of pod and template bears the flag, and its data does not go with it.
fn restart(name: &MemberName, member: &ObservedMember, forced: bool) -> Option<Step> {
    let (pod, set) = (member.pod.as_ref()?, member.stateful_set.as_ref()?);
    let due = is_current(set) && template_bears_flag(set) == forced && pod_bears_flag(pod) != forced;
    let stays = pod.metadata.deletion_timestamp.is_none() && !member.is_doomed();
    (due && stays).then(|| Step::RestartMember { member: name.clone(), pod_uid: pod.metadata.uid.clone().unwrap_or_default() })
}

/// Whether a pod was made to start as a cluster of one.
pub fn pod_bears_flag(pod: &Pod) -> bool {
    build::is_forced(pod.spec.as_ref())
}

/// Whether a StatefulSet's next pod starts as a cluster of one.
pub fn template_bears_flag(set: &StatefulSet) -> bool {
    build::is_forced(set.spec.template.spec.as_ref())
}

fn bears_flag(member: &ObservedMember) -> bool {
    member.pod.as_deref().is_some_and(pod_bears_flag) || member.stateful_set.as_deref().is_some_and(template_bears_flag)
}

/// The member for which a member's data was given up. A claim that is being deleted is of no more concern.
fn given_up(member: &ObservedMember) -> Option<&str> {
    let claim = &member.claim.as_ref()?.metadata;
    annotation(claim, key::GIVEN_UP_FOR).filter(|_| claim.deletion_timestamp.is_none())
}

/// Whether a member has data with which it can start.
fn holds_data(member: &ObservedMember) -> bool {
    let stays = member.claim.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_none());
    stays && member.has_started() && given_up(member).is_none()
}

fn progress(member: &ObservedMember) -> Option<Progress> {
    member.progress.as_ref()?.as_ref().ok().copied()
}

/// How far a member's data goes, for its status. While there is a leader that changes with every write.
pub fn progress_in_words(member: &ObservedMember) -> Option<String> {
    progress(member).filter(|progress| !progress.has_leader).map(|progress| format!("revision {}", progress.revision))
}

fn not_read(member: &ObservedMember) -> String {
    match &member.progress {
        Some(Err(problem)) => format!("it {problem}"),
        _ => why_not_ready(member),
    }
}

/// A member that sees a leader.
fn follower(observed: &Observed) -> Option<&MemberName> {
    observed.members.iter().find(|(_, member)| progress(member).is_some_and(|p| p.has_leader)).map(|(name, _)| name)
}

fn list<'a>(names: impl IntoIterator<Item = &'a MemberName>) -> String {
    names.into_iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What there is to say of a cluster that was founded and of which nobody gives a list: who has data, how far, and what to do.
pub fn lost_in_words(names: &Names, observed: &Observed, recovering: bool) -> String {
    let members = &observed.members;
    let tell = |(name, member): (&MemberName, &ObservedMember)| match (holds_data(member), progress_in_words(member)) {
        (true, Some(progress)) => format!("{name} has data, up to {progress}"),
        (true, None) => format!("{name} has data, how far is not known ({})", not_read(member)),
        (false, _) => format!("{name} has no data ({})", no_data(names, name, member)),
    };
    let told: Vec<_> = members.iter().map(tell).collect();
    let holders: Vec<_> = members.iter().filter(|(_, member)| holds_data(member)).collect();
    let quorum = members.len() / 2 + 1;
    let advice = if recovering {
        "It is being recovered: see Progressing".into()
    } else if let Some(name) = follower(observed) {
        format!(
            "{name} sees a leader, so there is a quorum, and it is the operator that cannot reach it: nothing is to be recovered"
        )
    } else {
        // Of equals the first.
        let best = holders.iter().rev().max_by_key(|(_, member)| progress(member).map(|progress| progress.revision));
        let Some((best, _)) = best else { return format!("{}. No data is left to recover from", told.join("; ")) };
        let command = format!("kubectl -n {} annotate etcd {} {}={best}", names.namespace(), names.cluster(), key::RECOVER_FROM);
        let wait = if holders.len() < quorum {
            "those that have data are no quorum and cannot serve by themselves".into()
        } else {
            format!("the cluster serves again, with nothing lost, as soon as {quorum} of those that have data run")
        };
        format!(
            "Of {} members {} have data: {wait}. If no more can come back: `{command}` makes a new cluster of the data of {best}; what only others have is lost then",
            members.len(),
            holders.len()
        )
    };
    format!("{}. {advice}", told.join("; "))
}

fn no_data(names: &Names, name: &MemberName, member: &ObservedMember) -> String {
    let claim = names.claim(name);
    match &member.claim {
        None => format!("PersistentVolumeClaim {claim} is gone"),
        Some(there) if there.metadata.deletion_timestamp.is_some() => format!("PersistentVolumeClaim {claim} is being deleted"),
        Some(_) => match given_up(member) {
            Some(survivor) => format!("it was given up for {survivor}"),
            None => "it has never started".into(),
        },
    }
}

/// Whether a member is listed without being able to start, because what it has was given up.
pub fn is_given_up(member: &ObservedMember) -> bool {
    given_up(member).is_some()
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
