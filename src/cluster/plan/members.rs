//! Which members there are, how they start, and what they wait for.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ConfigMap, ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    Note, Object, Plan, PodNote, Step, drift, evidence,
    membership::Roster,
    recovery::{Recovery, is_current, pod_bears_flag, template_bears_flag},
};
use crate::{
    cluster::{
        build,
        observed::{
            Observed, ObservedMember, StartState, annotation, belongs, is_unscheduled, pod_condition, pod_ready, running_since,
            start_state,
        },
        validate::ValidatedCluster,
    },
    etcd,
    names::{MemberName, annotation as key, bootstrap_key},
};

/// How each member starts if it finds no data.
pub type Members = BTreeMap<MemberName, StartState>;

/// Why a cluster may not be founded: there are objects of its names that are not its own.
pub fn refuse(cluster: &ValidatedCluster, observed: &Observed) -> Option<Note> {
    if is_founded(cluster, observed) {
        return None;
    }
    // Claims are judged by whether they can be taken over.
    let foreign: Vec<_> = foreign(cluster, observed).into_iter().filter(|other| other.kind != "PersistentVolumeClaim").collect();
    (!foreign.is_empty()).then(|| {
        let message = format!("{}. Nothing was touched: remove it, or choose another name for the cluster", in_words(&foreign));
        Note::new("NameTaken", message)
    })
}

/// Whether the objects of the cluster have been begun. Only what is the cluster's own says so: what another cluster of this name
/// has left behind, or what is still being collected of it, does not.
fn is_founded(cluster: &ValidatedCluster, observed: &Observed) -> bool {
    let begun = |meta: &ObjectMeta| belongs(meta, &cluster.uid);
    let started = |member: &ObservedMember| {
        let claim = member.claim.as_ref().map(|claim| &claim.metadata);
        claim.is_some_and(|meta| begun(meta) && annotation(meta, key::MEMBER_ID).is_some())
    };
    observed.status.cluster_id.is_some()
        || observed.bootstrap.as_ref().is_some_and(|config| begun(&config.metadata))
        || observed.members.values().any(started)
}

/// An object of one of our names that is another's though it carries the operator's label.
struct Foreign {
    kind: &'static str,
    name: String,
    owner: String,
    /// Whether it is a claim that names no owner, and is a member's by all else.
    is_stripped: bool,
}

fn foreign(cluster: &ValidatedCluster, observed: &Observed) -> Vec<Foreign> {
    let mut all: Vec<(&'static str, &ObjectMeta)> = vec![];
    all.extend(observed.client_service.as_ref().map(|o| ("Service", &o.metadata)));
    all.extend(observed.peer_service.as_ref().map(|o| ("Service", &o.metadata)));
    all.extend(observed.disruption_budget.as_ref().map(|o| ("PodDisruptionBudget", &o.metadata)));
    all.extend(observed.ca_config.as_ref().map(|o| ("ConfigMap", &o.metadata)));
    all.extend(observed.bootstrap.as_ref().map(|o| ("ConfigMap", &o.metadata)));
    all.extend(observed.operator.as_ref().map(|o| ("Secret", &o.meta)));
    // An authority's Secret that is another's is a lost authority, and told as that.
    for member in observed.members.values() {
        all.extend(member.claim.as_ref().map(|o| ("PersistentVolumeClaim", &o.metadata)));
        all.extend(member.stateful_set.as_ref().map(|o| ("StatefulSet", &o.metadata)));
        all.extend(member.secret.as_ref().map(|o| ("Secret", &o.meta)));
    }
    let is_used = |claim: &str| {
        observed.members.iter().any(|(name, member)| uses_claim(cluster, member) && cluster.names.claim(name) == claim)
    };
    let others = all.into_iter().filter(|(_, meta)| !belongs(meta, &cluster.uid));
    let of = |(kind, meta): (&'static str, &ObjectMeta)| {
        let name = meta.name.clone().unwrap_or_default();
        let nobodys = meta.owner_references.is_none() && annotation(meta, key::CLUSTER_UID).is_none();
        let is_stripped = kind == "PersistentVolumeClaim" && nobodys && is_used(&name);
        Foreign { kind, name, owner: drift::owner(meta), is_stripped }
    };
    others.map(of).collect()
}

/// Whether the pod of a StatefulSet of the cluster's mounts this claim, and it has a volume.
fn uses_claim(cluster: &ValidatedCluster, member: &ObservedMember) -> bool {
    let (Some(set), Some(claim)) = (&member.stateful_set, &member.claim) else { return false };
    let is_bound = claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
    is_bound && belongs(&set.metadata, &cluster.uid)
}

fn in_words(foreign: &[Foreign]) -> String {
    foreign.iter().map(|o| format!("{} {} cannot be used: {}", o.kind, o.name, o.owner)).collect::<Vec<_>>().join("; ")
}

/// Takes out of a plan whatever would change an object that is another's.
pub fn leave_foreign(cluster: &ValidatedCluster, observed: &Observed, plan: &mut Plan) {
    let foreign = foreign(cluster, observed);
    if foreign.is_empty() {
        return;
    }
    let is = |kind: &str, name: &str| foreign.iter().any(|other| other.kind == kind && other.name == name);
    plan.objects.retain(|object| !is(&object.resource.kind, &object.name));
    let (stripped, foreign): (Vec<_>, Vec<_>) = foreign.into_iter().partition(|other| other.is_stripped);
    if !foreign.is_empty() {
        plan.problems.push(Note::new("NameTaken", format!("{}. It was not touched: remove it", in_words(&foreign))));
    }
    let claims = observed.members.keys().map(|member| (member, cluster.names.claim(member)));
    for (member, claim) in claims.filter(|(_, claim)| stripped.iter().any(|other| other.name == *claim)) {
        plan.problems.push(Note::new("AnnotationsLost", restoration(cluster, observed, member, &claim)));
    }
}

/// How a claim becomes a member's again that has lost what was written on it.
fn restoration(cluster: &ValidatedCluster, observed: &Observed, member: &MemberName, claim: &str) -> String {
    let reported = observed.reported(member);
    let listed = observed.listed(&cluster.names, member).map(|listed| format!("{:x}", listed.id));
    let id = listed.or_else(|| reported?.id.clone()).map(|id| format!(" {}={id}", key::MEMBER_ID));
    let of = observed.status.cluster_id.as_ref().map(|of| format!(" {}={of}", key::CLUSTER_ID));
    format!(
        "PersistentVolumeClaim {claim} has lost the annotations that say whose it is, and {member} uses it: do not remove it. Put them back: `kubectl -n {} annotate pvc {claim} {}={}{}{}`",
        cluster.names.namespace(),
        key::CLUSTER_UID,
        cluster.uid,
        of.unwrap_or_default(),
        id.unwrap_or_default(),
    )
}

/// The members: those that were written down when the cluster was founded, or are found by what they left. Only a cluster
/// that has not been founded takes its members from the number that is wanted.
///
/// One that etcd does not list any more is none, and nothing is made for it.
pub fn known(cluster: &ValidatedCluster, observed: &Observed, roster: Option<&Roster>) -> Members {
    if !is_founded(cluster, observed) {
        return (0..cluster.replicas).map(|ordinal| (cluster.names.member(ordinal), StartState::New)).collect();
    }
    let listed = |name: &MemberName| roster.is_none_or(|roster| !roster.unlisted.contains_key(name));
    let traced = |member: &ObservedMember| member.stateful_set.is_some() || member.claim.is_some();
    // Of a member that has lost everything, the last report still tells.
    let reported = |name: &MemberName| {
        observed.status.cluster_id.is_some() && observed.status.members.iter().any(|member| member.name == name.as_str())
    };
    // Founders are those that were written down. What another operator has begun that counted otherwise would be a second cluster.
    let founding = observed.status.cluster_id.is_none() && bootstrap_of(cluster, observed).is_some();
    let known = |name: &MemberName, member: &ObservedMember| {
        let left = if founding { member.has_started() } else { traced(member) || reported(name) };
        roster.is_some() || written(cluster, observed, name).is_some() || left
    };
    let members = observed.members.iter().filter(|(name, member)| listed(name) && known(name, member));
    members.map(|(name, member)| (name.clone(), start(cluster, observed, roster, name, member))).collect()
}

fn written(cluster: &ValidatedCluster, observed: &Observed, name: &MemberName) -> Option<StartState> {
    start_state(bootstrap_of(cluster, observed)?, name, &cluster.names.initial_entry(name))
}

/// The bootstrap ConfigMap, if it is the cluster's.
fn bootstrap_of<'a>(cluster: &ValidatedCluster, observed: &'a Observed) -> Option<&'a ConfigMap> {
    observed.bootstrap.as_deref().filter(|config| belongs(&config.metadata, &cluster.uid))
}

/// How a member starts if it finds no data.
fn start(
    cluster: &ValidatedCluster,
    observed: &Observed,
    roster: Option<&Roster>,
    name: &MemberName,
    member: &ObservedMember,
) -> StartState {
    let claim = member.claim.as_ref().map(|claim| &claim.metadata).filter(|meta| belongs(meta, &cluster.uid));
    if claim.is_some_and(|meta| annotation(meta, key::MEMBER_ID).is_some()) {
        return StartState::Existing;
    }
    if let (Some(roster), Ok(list)) = (roster, &observed.list)
        && let Some(learner) = roster.learners.get(name)
    {
        // One that has published its name has started, and without its data it must not start again.
        let joins = learner.listed.name.is_empty();
        return if joins { StartState::Joining(joining(cluster, list)) } else { StartState::Existing };
    }
    // One of the founders that a quorum knows as never started: nothing has been promised in its name. What is written of it may be
    // wrong, where it was written without knowing this.
    let is_unstarted = |roster: &Roster| roster.voters.get(name).is_some_and(|voter| voter.listed.name.is_empty());
    if claim.is_some() && roster.is_some_and(is_unstarted) {
        return StartState::New;
    }
    // Where nothing is known of a member any more, not starting is the one mistake that can be mended.
    let founded = observed.status.cluster_id.is_some();
    match written(cluster, observed, name) {
        Some(StartState::New) if !founded || claim.is_some() => StartState::New,
        None if !founded => StartState::New,
        Some(StartState::Joining(list)) if roster.is_none() => StartState::Joining(list),
        _ => StartState::Existing,
    }
}

/// The list with which a learner starts. etcd compares the number and the URLs of the members, and of the names only the joiner's
/// own.
fn joining(cluster: &ValidatedCluster, list: &etcd::MemberList) -> String {
    let entry = |listed: &etcd::Member| {
        let url = listed.peer_urls.first()?;
        Some(match cluster.names.member_at(url) {
            Some(member) => cluster.names.initial_entry(&member),
            None => format!("{}={url}", listed.name),
        })
    };
    let mut entries: Vec<_> = list.members.iter().filter_map(entry).collect();
    entries.sort();
    entries.join(",")
}

/// The list that a founder was given which has not started. It keeps that, whoever has gone since: etcd takes the cluster's ID from
/// it.
fn given<'a>(cluster: &ValidatedCluster, observed: &'a Observed, name: &MemberName) -> Option<&'a String> {
    let list = bootstrap_of(cluster, observed)?.data.as_ref()?.get(&bootstrap_key::cluster(name))?;
    // Itself alone is what was written of it by mistake, and no founders' list but of a cluster of one.
    (*list != cluster.names.initial_entry(name)).then_some(list)
}

/// How members start, and all that it follows from.
fn bootstrap(cluster: &ValidatedCluster, observed: &Observed, members: &Members) -> (String, impl FnOnce() -> ConfigMap) {
    let founders = members.iter().filter(|(_, state)| **state == StartState::New);
    let given: Vec<_> = founders.filter_map(|(name, _)| Some((name, given(cluster, observed, name)?))).collect();
    let starts = members.iter().flat_map(|(name, state)| match state {
        StartState::New => [name.as_str(), " is new", "", "\n"],
        StartState::Joining(list) => [name.as_str(), " joins ", list, "\n"],
        StartState::Existing => [name.as_str(), " exists", "", "\n"],
    });
    let of = starts.chain(given.iter().flat_map(|(name, list)| [name.as_str(), " was given ", list, "\n"])).collect();
    let build = move || {
        let mut config = build::bootstrap(cluster, members);
        let given = given.into_iter().map(|(name, list)| (bootstrap_key::cluster(name), list.clone()));
        config.data.get_or_insert_default().extend(given);
        config
    };
    (of, build)
}

/// Everything but StatefulSets and what depends on authorities.
pub fn plan_objects(cluster: &ValidatedCluster, observed: &Observed, members: &Members, plan: &mut Plan) {
    let nobody = ObservedMember::default();
    let built = &cluster.built;
    let (starts, bootstrap) = bootstrap(cluster, observed, members);
    let mut objects = vec![
        built.unless_applied(&starts, bootstrap, observed.bootstrap.as_ref()),
        built.unless_applied("peers", || build::peer_service(cluster), observed.peer_service.as_ref()),
        built.unless_applied("clients", || build::client_service(cluster), observed.client_service.as_ref()),
    ];
    // Once there are members, and without a list that a quorum confirms, a budget that is there stays as it is.
    let unknown = observed.status.cluster_id.is_some() && observed.disruption_budget.is_some();
    let voters = match &observed.list {
        Ok(list) => Some(list.voters().count()),
        Err(_) => (!unknown).then_some(members.len()),
    };
    if let Some(voters) = voters.filter(|voters| build::is_redundant(cluster, *voters)) {
        let budget = || build::disruption_budget(cluster, voters);
        objects.push(built.unless_applied(&voters.to_string(), budget, observed.disruption_budget.as_ref()));
    }
    for (name, state) in members {
        let member = observed.members.get(name).unwrap_or(&nobody);
        if member.claim_unread {
            continue;
        }
        let there = member.claim.as_ref();
        let going = there.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
        // An empty claim would be taken for the member's data: a member that has started never gets a new one by itself.
        if (there.is_none() || going) && *state == StartState::Existing {
            let claim = cluster.names.claim(name);
            let serves = observed.members.get(name).is_some_and(ObservedMember::serves);
            plan.problems.push(Note::new("ClaimLost", if going && serves {
                let first = if members.len() == 1 { "set spec.replicas to 3, and then " } else { "" };
                format!(
                    "{name} loses its data as soon as its pod ends: PersistentVolumeClaim {claim} is being deleted. To have it replaced before that, {first}set annotation {}={name}",
                    key::REPLACE
                )
            } else {
                let how = if going { "is being deleted" } else { "is gone, or without its labels" };
                format!("{name} has lost its data: PersistentVolumeClaim {claim} {how}. It will be replaced, if the others are a quorum without it")
            }));
        } else {
            let (size, class) = there.map(|claim| build::kept(claim)).unwrap_or_default();
            let class = class.map_or([""; 2], |class| [" of ", class]).concat();
            let of = [name.as_str(), " ", size.map_or("", |size| &size.0), &class].concat();
            let claim = || build::claim(cluster, name, there.map(|claim| &**claim));
            objects.push(built.unless_applied(&of, claim, there));
        }
    }
    plan.objects.extend(objects.into_iter().flatten());
    if !is_founded(cluster, observed) {
        let later = members.keys().map(|member| Object::new(&build::stateful_set(cluster, member, "")));
        let later = later.chain([Object::new(&build::ca_config(cluster, String::new()))]);
        plan.preflight = plan.objects.iter().cloned().chain(later).collect();
    }
}

/// The StatefulSets of members whose certificates are there.
pub fn plan_stateful_sets(
    cluster: &ValidatedCluster,
    observed: &Observed,
    members: &Members,
    recovery: &Recovery,
    plan: &mut Plan,
) {
    for name in members.keys() {
        let Some(member) = observed.members.get(name) else { continue };
        let Some(secret) = member.secret.as_ref().filter(|secret| belongs(&secret.meta, &cluster.uid)) else { continue };
        let Some(bundles) = secret.bundles() else { continue };
        let (forced, stopped) = (recovery.forced.as_ref() == Some(name), recovery.stopped.contains(name));
        if stopped && member.stateful_set.is_none() {
            continue;
        }
        let wanted = || {
            let wanted = build::stateful_set(cluster, name, bundles);
            let wanted = if forced { build::forced(wanted) } else { wanted };
            if stopped { build::stopped(wanted) } else { wanted }
        };
        let words = [if forced { " forced" } else { "" }, if stopped { " stopped" } else { "" }].concat();
        let of = [name.as_str(), " ", bundles, &words].concat();
        plan.objects.extend(cluster.built.unless_applied(&of, wanted, member.stateful_set.as_ref()));
    }
}

/// Gives pods back the labels that they have lost: without them Services and the disruption budget leave them out, and their
/// StatefulSet lets them go.
pub fn plan_pod_labels(cluster: &ValidatedCluster, observed: &Observed, plan: &mut Plan) {
    for (name, member) in &observed.members {
        let Some(pod) = member.pod.as_ref().filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { continue };
        let there = |key: &String| pod.metadata.labels.as_ref()?.get(key);
        let wanted = cluster.built.get(name.as_str(), || build::member_labels(cluster.names.cluster(), name));
        let lost = wanted.iter().filter(|(key, value)| there(key) != Some(value));
        let labels: BTreeMap<_, _> = lost.map(|(key, value)| (key.clone(), value.clone())).collect();
        if !labels.is_empty() {
            plan.pods.push(PodNote {
                pod: pod.metadata.name.clone().unwrap_or_default(),
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                labels,
                annotations: BTreeMap::new(),
            });
        }
    }
}

/// Says what members wait for.
pub fn note_waits(observed: &Observed, members: &Members, recovery: &Recovery, plan: &mut Plan) {
    let nobody = ObservedMember::default();
    for name in members.keys().filter(|name| !recovery.stopped.contains(name)) {
        let member = observed.members.get(name).unwrap_or(&nobody);
        if !member.serves() {
            let why = format!("{}{}", why_not_ready(member), since(observed, name));
            plan.waits.push(if plan.restarting.contains(name) {
                Note::new("Restarting", format!("{name} is being restarted: {why}"))
            } else {
                Note::new("WaitingForMembers", format!("{name}: {why}"))
            });
        }
    }
}

/// Since when a member does not serve, as was last reported, to be put behind what is said of it.
pub fn since(observed: &Observed, name: &MemberName) -> String {
    let reported = observed.reported(name).filter(|reported| !reported.ready);
    let since = reported.and_then(|reported| reported.since.as_ref());
    since.map(|since| format!(" (since {since})")).unwrap_or_default()
}

/// Why a member does not serve, in the words of whoever knows best: the kubelet, the scheduler, or our own call.
pub fn why_not_ready(member: &ObservedMember) -> String {
    let Some(pod) = &member.pod else { return "it has no pod yet".into() };
    let pending = pod_problem(pod).map(|problem| match unbound(member) {
        Some(claim) => format!("{problem}; {claim}"),
        None => problem,
    });
    match (pending, member.etcd.problem()) {
        (Some(problem), _) => problem,
        // It may be the node that is dead.
        (None, Some(problem)) => {
            format!("{problem}{}", node(pod).map(|node| format!("; its node is {node}")).unwrap_or_default())
        }
        (None, None) => "its pod is not ready".into(),
    }
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// A claim that has no volume, with the name of the class that is to make one: the scheduler's message has neither.
fn unbound(member: &ObservedMember) -> Option<String> {
    let claim = member.claim.as_ref()?;
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class =
        class.map_or_else(|| "no StorageClass, and there is no default one".into(), |class| format!("StorageClass {class}"));
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    (phase != "Bound").then(|| format!("PersistentVolumeClaim {name} is {phase} ({class})"))
}

fn pod_problem(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(format!("its pod is being deleted{}", node(pod).map(|node| format!(" on node {node}")).unwrap_or_default()));
    }
    let status = pod.status.as_ref()?;
    if let Some(scheduled) = pod_condition(pod, "PodScheduled").filter(|scheduled| scheduled.status == "False") {
        // The scheduler appends what it says of preemption, which is nothing: ". not found", ". preemption: ...".
        let message =
            scheduled.message.as_deref().unwrap_or("no reason given").trim_end_matches(" not found").trim_end_matches('.');
        return Some(format!("its pod is not scheduled: {message}"));
    }
    let container = status.container_statuses.iter().flatten().next()?;
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or("no reason given");
        // The back-off's own message carries a time that grows, and hides what the last start ended with.
        let ended = container.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let detail = match ended {
            Some(ended) => format!("it ended with exit code {}", ended.exit_code),
            None if reason.contains("Image") => format!("image {} cannot be pulled", container.image),
            None => waiting.message.clone().unwrap_or_default(),
        };
        return (reason != "ContainerCreating" && reason != "PodInitializing").then(|| {
            if detail.is_empty() {
                format!("its container waits: {reason}")
            } else {
                format!("its container waits: {reason}: {detail}")
            }
        });
    }
    let terminated = state.terminated.as_ref()?;
    Some(format!("its container ended with exit code {}", terminated.exit_code))
}

/// The members that have been seen started for the first time, or of whose claims somebody has made another member's: their data
/// would be given up at the next restart.
pub fn lock_bootstrap(cluster: &ValidatedCluster, observed: &Observed) -> Option<Step> {
    let list = observed.list.as_ref().ok()?;
    // Members that founded a second cluster by mistake are a fault to be reported, not to be written down.
    if observed.status.cluster_id.as_ref().is_some_and(|known| !list.is_of(known)) {
        return None;
    }
    let members: Vec<_> = observed
        .members
        .iter()
        .filter_map(|(name, member)| {
            let claim = &member.claim.as_ref()?.metadata;
            // It has published its name through raft, and it is the one that answers at this address.
            let listed = observed.listed(&cluster.names, name).filter(|listed| !listed.name.is_empty())?;
            let answers = member.etcd.status().is_some_and(|status| status.member_id == listed.id);
            let bears = |key, id| annotation(claim, key).is_some_and(|text| etcd::is_id(text, id));
            let written = bears(key::CLUSTER_ID, list.cluster_id) && bears(key::MEMBER_ID, listed.id);
            let stays = claim.deletion_timestamp.is_none();
            (answers && !written && stays && belongs(claim, &cluster.uid))
                .then(|| (name.clone(), listed.id, claim.uid.clone().unwrap_or_default()))
        })
        .collect();
    (!members.is_empty()).then_some(Step::LockBootstrap { cluster_id: list.cluster_id, members })
}

/// A disruption budget that a cluster without redundancy has no use for: it would keep its nodes from ever being drained.
pub fn delete_budget(cluster: &ValidatedCluster, observed: &Observed) -> Option<Step> {
    let budget = &observed.disruption_budget.as_ref().filter(|budget| belongs(&budget.metadata, &cluster.uid))?.metadata;
    let voters = observed.list.as_ref().ok()?.voters().count();
    let wanted = build::is_redundant(cluster, voters) || budget.deletion_timestamp.is_some();
    (!wanted).then(|| Step::DeleteBudget { uid: budget.uid.clone().unwrap_or_default() })
}

/// A member whose pod can't start, or has never served, and was made from a template that has changed since: the user has mended
/// what keeps it from that, or has taken back what does. Not one whose data would go with the pod: that is not mended by a restart.
pub fn restart_stuck(observed: &Observed, now: Timestamp, plan: &Plan) -> Option<Step> {
    observed.members.iter().find_map(|(name, member)| {
        let (pod, set) = (member.pod.as_ref()?, member.stateful_set.as_ref()?);
        let current = !plan.changes_set(name) && is_current(set);
        let going = pod.metadata.deletion_timestamp.is_some();
        // By the kubelet's clock and by our own, one of which may be wrong.
        let runs_for = running_since(pod).map(|since| now.duration_since(since));
        let starting = runs_for.is_none_or(|time| time.min(evidence::down_for(observed, name, now)) < FIRST_START);
        let silent = has_never_served(pod) && member.etcd.status().is_none() && !starting;
        // Who starts as a cluster of one is the recovery's to say.
        let forced = template_bears_flag(set) && !pod_bears_flag(pod);
        (current && member.is_older_than_template() && !going && (is_stuck(pod) || silent) && !forced && !member.is_doomed())
            .then(|| Step::RestartMember { member: name.clone(), pod_uid: pod.metadata.uid.clone().unwrap_or_default() })
    })
}

/// Whether a pod's container cannot run, or has ended again and does not run at the moment.
pub fn is_stuck(pod: &Pod) -> bool {
    let ends = |pod: &Pod| {
        pod.status
            .iter()
            .flat_map(|status| status.container_statuses.iter().flatten())
            .any(|container| container.restart_count > 0 && container.state.as_ref().is_none_or(|state| state.running.is_none()))
    };
    never_started(pod) || ends(pod)
}

/// How long etcd may take to serve after its first start in a pod, until a changed template is a reason to make the pod anew.
const FIRST_START: SignedDuration = SignedDuration::from_mins(1);

/// Whether a pod is not ready, and was never seen to serve its certificates.
pub fn has_never_served(pod: &Pod) -> bool {
    !pod_ready(pod) && annotation(&pod.metadata, key::TLS_CONFIRMED).is_none()
}

/// Whether no container of this pod has ever run and somebody says that it can't: no node takes it, or the kubelet has a reason. One
/// that is just being made says nothing yet, and may run before that is told.
fn never_started(pod: &Pod) -> bool {
    let containers = || pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let started = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        container.restart_count > 0
            || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || container.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    };
    let is_refused = |container: &ContainerStatus| {
        let waiting =
            container.state.as_ref().and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
        waiting.is_some_and(|reason| reason != "ContainerCreating" && reason != "PodInitializing")
    };
    !containers().any(started) && (is_unscheduled(pod) || containers().any(is_refused))
}
