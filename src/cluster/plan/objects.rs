//! Objects that are derived from the spec and the members, and notes about unhealthy members.

use k8s_openapi::api::core::v1::Secret;

use super::{
    bootstrap,
    changes::{Changes, PodPatch},
    input::Input,
    overwritten,
    raft_entry::may_wait,
    recovery::Recovery,
    start::StartStates,
    storage,
    versions::Versions,
};
use crate::{
    api::Reason,
    certificates::requests::SecretChange,
    cluster::{
        facts::readiness::{down_since, why_not_ready},
        objects::{self, PodMetadata},
        observed::ObservedMember,
        steps::DeleteBudget,
        validated::ValidatedCluster,
    },
    etcd::Version,
    ids::Uid,
    kubernetes::{object::Object, ownership::belongs, pod::is_terminating},
    names::MemberName,
    reporting::note::Note,
};

/// Which of the two Services an object is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum For {
    Peers,
    Clients,
}

/// What a StatefulSet follows from besides the spec.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SetInputs {
    member: MemberName,
    bundles: String,
    /// The medium and the size of the volume in its pod.
    in_pod: Option<(Option<String>, Option<String>)>,
    /// Members may keep another quota than that of the spec.
    quota: i64,
    is_forced: bool,
    is_stopped: bool,
    /// Version, image and [`prepares`](crate::cluster::release::Release::prepares), if it is not the release of the spec.
    held: Option<(Version, String, Option<u32>)>,
}

/// Plans all objects except StatefulSets and those that depend on authorities.
pub fn plan(input: &Input, members: &StartStates) -> Changes {
    let Input { cluster, desired, observed, facts, .. } = input;
    let mut changes = Changes { bootstrap: bootstrap::config_map(input, members), ..Changes::default() };
    let services = [
        desired.unless_applied(&For::Peers, || objects::peer_service(cluster), observed.peer_service.as_ref()),
        desired.unless_applied(&For::Clients, || objects::client_service(cluster), observed.client_service.as_ref()),
    ];
    changes.objects.extend(services.into_iter().flatten());
    changes.objects.extend(disruption_budget(input, members));
    changes.merge(storage::plan(input, members));
    if !facts.is_bootstrapped {
        let created_later =
            members.keys().map(|member| Object::new(&objects::stateful_set(cluster, member, &cluster.release, "")));
        let created_later =
            created_later.chain([Object::new(&objects::ca_config(cluster, String::new()))]).chain(secrets(cluster, members));
        changes.preflight = changes.bootstrap.iter().chain(&changes.objects).cloned().chain(created_later).collect();
    }
    changes
}

/// The Secrets that the cluster will have, by their names.
fn secrets(cluster: &ValidatedCluster, members: &StartStates) -> Vec<Object> {
    let names = &cluster.names;
    let of_members = members.keys().map(|member| names.member_secret(member));
    let all = of_members.chain([names.client_authority(), names.peer_authority(), names.operator_secret()]);
    all.map(|name| Object::new(&Secret { metadata: objects::owned(cluster, name), ..Secret::default() })).collect()
}

fn disruption_budget(input: &Input, members: &StartStates) -> Option<Object> {
    let Input { cluster, desired, observed, .. } = input;
    // Once the cluster has come up, an existing budget is not changed while no quorum confirms a member list.
    let is_fixed = observed.has_come_up() && observed.disruption_budget.is_some();
    let voters = match &observed.list {
        Ok(list) => Some(list.voters().count()),
        Err(_) => (!is_fixed).then_some(members.len()),
    };
    let voters = voters.filter(|voters| objects::is_redundant(cluster, *voters))?;
    let build = || objects::disruption_budget(cluster, voters);
    desired.unless_applied(&voters, build, observed.disruption_budget.as_ref())
}

/// The StatefulSets of members whose certificates exist.
///
/// A new StatefulSet waits for new leaves in the Secret that an earlier member of its name left: its template says which authority signed
/// the leaf with which the pod starts, and `secrets` are only being changed. If the data is going to be in the pod, it waits for trust bundles
/// too, because that pod is not restarted to load others.
pub fn stateful_sets(
    input: &Input,
    members: &StartStates,
    recovery: &Recovery,
    versions: &Versions,
    secrets: &[SecretChange],
) -> Changes {
    let mut changes = Changes::default();
    let waits = |name: &MemberName| {
        let member = input.observed.members.get(name);
        let secret = input.facts.names.member_secret(name);
        let is_due = |change: &SecretChange| {
            !change.leaves.is_empty() || change.is_written_now() && storage::in_pod(input, member).is_some()
        };
        member.is_none_or(|member| member.stateful_set.is_none())
            && secrets.iter().any(|change| change.name == secret && is_due(change))
    };
    for name in members.keys().filter(|name| !waits(name)) {
        changes.stateful_sets.extend(stateful_set(input, name, recovery, versions).map(|object| (name.clone(), object)));
    }
    changes
}

fn stateful_set(input: &Input, name: &MemberName, recovery: &Recovery, versions: &Versions) -> Option<Object> {
    let Input { cluster, desired, observed, facts, .. } = input;
    let member = observed.members.get(name)?;
    let bundles = member.secret.as_ref().filter(|secret| belongs(&secret.meta, facts.uid))?.bundles()?;
    let (forced, stopped) = (recovery.forced.as_ref() == Some(name), recovery.stopped.contains(name));
    if stopped && member.stateful_set.is_none() {
        return None;
    }
    let (in_pod, held) = (storage::in_pod(input, Some(member)), versions.held(name, Some(member)));
    let build = || {
        let set = objects::stateful_set_with(cluster, name, held.unwrap_or(&cluster.release), bundles, in_pod.clone());
        let set = if forced { objects::forced(set) } else { set };
        if stopped { objects::stopped(set) } else { set }
    };
    let inputs = SetInputs {
        member: name.clone(),
        bundles: bundles.to_owned(),
        in_pod: in_pod.as_ref().map(|volume| (volume.medium.clone(), volume.size_limit.clone().map(|size| size.0))),
        quota: cluster.etcd.quota,
        is_forced: forced,
        is_stopped: stopped,
        held: held.map(|release| (release.version, release.image.clone(), release.prepares)),
    };
    desired.unless_applied(&inputs, build, member.stateful_set.as_ref())
}

/// Changes labels and annotations of running pods: those of the spec follow it, and the operator's own labels are restored. Without
/// them Services and the disruption budget ignore a pod, and its StatefulSet releases it.
pub fn pod_metadata(input: &Input) -> Changes {
    let Input { cluster, desired, observed, facts, now } = input;
    let mut changes = Changes::default();
    for (name, member) in &observed.members {
        let Some(pod) = member.pod.as_ref().filter(|pod| !is_terminating(pod)) else { continue };
        let metadata = desired.get(name, || PodMetadata::of(cluster, name));
        let written = metadata.changes_of(&pod.metadata);
        let Some(uid) = Uid::of(&pod.metadata).filter(|_| !written.is_empty()) else { continue };
        let pod = facts.names.pod(name);
        match desired.overwritten_fields(&uid, &written.drift, *now) {
            Some(by) => {
                let message = overwritten::describe(input, &format!("Pod {pod}"), &written.drift, &by);
                changes = changes.problem(Reason::FieldOverwritten, message);
            }
            None => changes.pods.push(PodPatch { pod, uid, changes: written }),
        }
    }
    changes
}

/// What a member may wait for while the operator asks for an entry of raft's log.
const MAY_WAIT: &str = "; it may wait for the next write, so the operator makes one that changes nothing";

/// Reports the members that are not healthy, and why. `planned` is what else is planned.
pub fn waiting_members(input: &Input, members: &StartStates, recovery: &Recovery, planned: &Changes) -> Changes {
    let Changes { restarting, raft_entry, .. } = planned;
    let absent = ObservedMember::default();
    let mut changes = Changes::default();
    for name in members.keys().filter(|name| !recovery.stopped.contains(name)) {
        let member = input.observed.members.get(name).unwrap_or(&absent);
        if !member.is_healthy() {
            let waits = if raft_entry.is_some() && may_wait(member) { MAY_WAIT } else { "" };
            let why = format!("{}{}{waits}", why_not_ready(member), down_since(input.observed, name));
            changes.progress.push(if restarting.contains(name) {
                Note::new(Reason::RollingRestart, format!("{name} is restarting: {why}"))
            } else {
                Note::new(Reason::WaitingForMembers, format!("{name}: {why}"))
            });
        }
    }
    changes
}

/// Deletes a disruption budget that has no redundancy to protect: it would prevent nodes from being drained.
pub fn delete_budget(input: &Input) -> Changes {
    let step = || {
        let budget = input.observed.disruption_budget.as_ref()?;
        let voters = input.observed.list.as_ref().ok()?.voters().count();
        let is_needed = objects::is_redundant(input.cluster, voters) || budget.metadata.deletion_timestamp.is_some();
        let is_own = belongs(&budget.metadata, input.facts.uid);
        Some(DeleteBudget { uid: Uid::of(&budget.metadata)? }).filter(|_| is_own && !is_needed)
    };
    step().map(Changes::step).unwrap_or_default()
}

#[cfg(test)]
#[path = "objects_tests.rs"]
mod tests;
