//! What an operator does in a pass, one action at a time, in the order of the plan.

use std::{collections::BTreeMap, sync::Arc};

use etcd_warden::{
    api::EtcdCluster,
    certificates::{
        issuers::IssuerProbe,
        requests::{LeafRequest, SecretChange},
        transition::{AuthorityRequest, Transition},
    },
    cluster::{
        objects::{self, MetadataChanges},
        plan::changes::{CompletedRequest, PodPatch, Write},
        steps::{Check, Deletable, Effect, Fresh, Step},
        validated::ValidatedCluster,
    },
    etcd::{Change, Class},
    ids::{ClusterId, MemberId, Uid},
    kubernetes::{desired::Desired, object::Object, ownership::belongs, secret::SecretView},
    names::{MemberName, annotation as key},
    pki::{Domain, Holder},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    certificates,
    etcd::{Id, Place},
    kubernetes::{Refused, Slot, named, names, place},
    observation::read,
    operator::{Job, Operator},
    run::World,
    time,
};

/// Something that an operator does, and between which and the next one anything may happen.
#[derive(Clone)]
pub enum Action {
    /// The bootstrap ConfigMap is applied.
    Bootstrap(Object),
    /// The authority of an external issuer is asked for.
    IssuerProbe(IssuerProbe),
    /// The first authorities of a domain are created.
    Authorities(AuthorityRequest),
    /// A CA Secret is to stay when the cluster is deleted, or not to stay any more.
    Retention(Domain),
    /// An object is applied.
    Apply(Object),
    /// All leaves of these changes are recorded.
    Ledger(Arc<[SecretChange]>),
    /// One of the changes is made.
    Secret(Arc<[SecretChange]>, usize),
    /// A pod is labelled and annotated.
    Pod(PodPatch),
    /// A member is asked for an entry of raft's log that changes nothing.
    RaftEntry(MemberName),
    /// Annotations of completed requests are removed.
    Completed(Vec<CompletedRequest>),
    /// What a step depends on is read afresh.
    Read(Step),
    /// One of the effects of a step.
    Effect(Arc<Taking>, usize),
    /// The status is written.
    Report,
}

/// A step that is still right.
pub struct Taking {
    step: Step,
    effects: Vec<Effect>,
    /// What it was decided on.
    valid: Arc<ValidatedCluster>,
    known: Option<ClusterId>,
    fresh: Fresh,
    /// What the operator remembers, and the time by its clock.
    desired: Arc<Desired>,
    at: Timestamp,
}

/// What came of an action.
#[derive(Clone, Copy)]
pub enum Done {
    Yes,
    /// The pass goes on, and the next one comes soon.
    No,
}

/// The actions that a write consists of.
pub fn of(write: Write) -> Vec<Action> {
    match write {
        Write::Bootstrap(object) => vec![Action::Bootstrap(object.clone())],
        Write::IssuerProbe(probe) => vec![Action::IssuerProbe(probe)],
        Write::Authorities(request) => vec![Action::Authorities(request.clone())],
        Write::Object(object) | Write::Expand(object) | Write::StatefulSet(object) => vec![Action::Apply(object.clone())],
        Write::Retention(domain) => vec![Action::Retention(domain)],
        Write::Secrets(changes) => {
            let changes: Arc<[SecretChange]> = changes.into();
            let issues = changes.iter().any(|change| !change.leaves.is_empty());
            let ledger = issues.then(|| Action::Ledger(changes.clone()));
            ledger.into_iter().chain((0..changes.len()).map(|at| Action::Secret(changes.clone(), at))).collect()
        }
        Write::Pod(patch) => vec![Action::Pod(patch.clone())],
        Write::RaftEntry(member) => vec![Action::RaftEntry(member.clone())],
        Write::Completed(requests) => vec![Action::Completed(requests.to_vec())],
        Write::Step(step) => vec![Action::Read(step.clone())],
    }
}

/// Does it.
pub fn act(world: &mut World, operator: &mut Operator, job: &Job, action: &Action) -> Done {
    match action {
        Action::Bootstrap(object) | Action::Apply(object) => {
            world.written();
            let applied = world.kubernetes.apply(object);
            if applied.is_ok() {
                world.tell(|| format!("applied {}", object.describe()));
            }
            done(applied)
        }
        Action::IssuerProbe(probe) => {
            world.broken.push(format!("{probe:?}: no issuer is external"));
            Done::No
        }
        Action::Authorities(request) => create(world, &job.valid, request),
        Action::Retention(domain) => set_retention(world, &job.valid, *domain),
        Action::Ledger(changes) => record(world, changes),
        Action::Secret(changes, at) => change_secret(world, &job.valid, &changes[*at]),
        Action::Pod(patch) => patch_pod(world, patch),
        Action::RaftEntry(member) => advance(world, member),
        Action::Completed(requests) => complete(world, job, requests),
        Action::Read(step) => recheck(world, operator, job, step),
        Action::Effect(taking, at) => take(world, taking, *at),
        Action::Report => report(world, operator, job),
    }
}

fn done(result: Result<(), Refused>) -> Done {
    if result.is_ok() { Done::Yes } else { Done::No }
}

fn create(world: &mut World, valid: &ValidatedCluster, request: &AuthorityRequest) -> Done {
    let slot = Slot::authority(request.domain);
    if world.kubernetes.things.secret(slot).is_some() {
        return Done::No;
    }
    world.written();
    let mut secret = certificates::authority_data(request, time(world.now));
    secret.meta = objects::retained(valid, request.secret.clone());
    secret.meta.uid = Some(format!("uid-of-{}", request.secret));
    world.tell(|| {
        format!("created Secret {} with {:?} and {:?}", request.secret, request.active.common_name(), request.next.common_name())
    });
    world.kubernetes.put_secret(slot, secret);
    Done::Yes
}

fn set_retention(world: &mut World, valid: &ValidatedCluster, domain: Domain) -> Done {
    let slot = Slot::authority(domain);
    let Some(secret) = world.kubernetes.things.secret(slot).filter(|secret| belongs(&secret.meta, &valid.uid)) else {
        return Done::No;
    };
    let mut secret = SecretView::clone(secret);
    world.written();
    objects::set_retention(valid, &mut secret.meta);
    world.kubernetes.put_secret(slot, secret);
    Done::Yes
}

fn slot_of(change: &SecretChange) -> Slot {
    Slot::secret(&change.name).expect("the operator issues for itself and for members")
}

/// Whether a Secret is still what a change was planned on.
fn is_current(world: &World, change: &SecretChange) -> bool {
    let existing = world.kubernetes.things.secret(slot_of(change)).and_then(|secret| secret.meta.resource_version.as_ref());
    existing == change.version.as_ref()
}

/// Everything that is issued in a pass is recorded before it is handed out.
fn record(world: &mut World, changes: &[SecretChange]) -> Done {
    world.written();
    for domain in Domain::ALL {
        let changes = changes.iter().filter(|change| is_current(world, change));
        let requests: Vec<LeafRequest> =
            changes.flat_map(|change| &change.leaves).filter(|leaf| leaf.domain == domain).cloned().collect();
        let slot = Slot::authority(domain);
        let Some(secret) = world.kubernetes.things.secret(slot).filter(|_| !requests.is_empty()).cloned() else { continue };
        let now = time(world.now);
        let secret = certificates::with_ledger(&secret, now, |ledger| {
            for request in &requests {
                let leaf = world.issue(request, &secret);
                ledger.record(&leaf.certificate, request.holder.clone());
            }
        });
        world.kubernetes.put_secret(slot, secret);
    }
    Done::Yes
}

fn change_secret(world: &mut World, valid: &ValidatedCluster, change: &SecretChange) -> Done {
    let slot = slot_of(change);
    if !is_current(world, change) {
        return Done::No;
    }
    world.written();
    let new = || SecretView { meta: objects::owned(valid, change.name.clone()), ..SecretView::default() };
    let mut secret = world.kubernetes.things.secret(slot).map_or_else(new, |secret| SecretView::clone(secret));
    secret.meta.labels.get_or_insert_default().extend(change.labels.clone());
    secret.type_ = change.type_.into();
    secret.data.retain(|key, _| !change.obsolete.contains(&key.as_str()));
    secret.data.extend(change.files.clone());
    for request in &change.leaves {
        let Some(leaf) = world.issued(request) else { return Done::No };
        secret.data.insert(request.keys.certificate.into(), leaf.certificate.pem().into());
        secret.data.insert(request.keys.private_key.into(), leaf.key_digest.clone().into());
    }
    world.tell(|| {
        let issued: Vec<_> = change.leaves.iter().map(|request| request.keys.certificate).collect();
        let issued = if issued.is_empty() { "trust bundles and lists".into() } else { issued.join(", ") };
        format!("{} Secret {}: {issued}", if change.version.is_some() { "updated" } else { "created" }, change.name)
    });
    world.kubernetes.put_secret(slot, secret);
    Done::Yes
}

fn patch_pod(world: &mut World, patch: &PodPatch) -> Done {
    world.written();
    let Some(place) = named(&patch.pod, |member| names().pod(member)) else { return Done::No };
    let World { kubernetes, rng, now, .. } = world;
    done(kubernetes.patch_pod(place, &patch.uid, &patch.changes, *now, rng))
}

/// Removes annotations of the cluster, if it is as it was seen: its user may request something else by now.
fn complete(world: &mut World, job: &Job, requests: &[CompletedRequest]) -> Done {
    let mut cluster = world.kubernetes.cluster().clone();
    if cluster.metadata.resource_version == job.cluster.metadata.resource_version {
        world.written();
        let annotations = cluster.metadata.annotations.get_or_insert_default();
        for request in requests {
            match &request.remaining {
                Some(remaining) => drop(annotations.insert(request.annotation.into(), remaining.clone())),
                None => drop(annotations.remove(request.annotation)),
            }
            world.tell(|| match &request.remaining {
                Some(remaining) => format!("set annotation {}={remaining}", request.annotation),
                None => format!("removed annotation {}", request.annotation),
            });
        }
        world.kubernetes.put_cluster(cluster);
    }
    Done::No
}

/// Reads what a step depends on. If it is still right, its effects come next.
fn recheck(world: &mut World, operator: &mut Operator, job: &Job, step: &Step) -> Done {
    let fresh = read(world, &step.definition().reads());
    match step.recheck(&job.valid, job.known, &fresh) {
        Err(why) => {
            world.note(|| format!("not taken: {}: {why}", step.describe()));
            Done::No
        }
        Ok(step) => {
            world.judge(&step, &job.valid);
            let check = Check::new(&job.valid, job.known, &fresh);
            let effects = step.definition().effects(&check);
            let count = effects.len();
            let (desired, at) = (job.desired.clone(), time(world.now + operator.clock));
            let taking = Arc::new(Taking { step, effects, valid: job.valid.clone(), known: job.known, fresh, desired, at });
            (0..count).rev().for_each(|at| operator.queue.push_front(Action::Effect(taking.clone(), at)));
            Done::Yes
        }
    }
}

fn take(world: &mut World, taking: &Taking, at: usize) -> Done {
    let effect = &taking.effects[at];
    world.written();
    let (before, fenced) = (world.has_quorum(), world.is_fenced(effect));
    let taken = change(world, taking, effect);
    world.note(|| format!("{}: {taken:?}", taking.step.describe()));
    if let Ok(changed) = taken
        && at + 1 == taking.effects.len()
    {
        let check = Check::new(&taking.valid, taking.known, &taking.fresh);
        world.tell(|| format!("{}: {}", taking.step.name(), taking.step.definition().describe_done(&check, changed)));
    }
    world.after(&taking.step, before, fenced);
    if taken.is_ok() { Done::Yes } else { Done::No }
}

/// Lets a step take effect. Returns how many things have changed; an error says why nothing has.
fn change(world: &mut World, taking: &Taking, effect: &Effect) -> Result<usize, String> {
    let (now, kubernetes) = (world.now, &mut world.kubernetes);
    let changed = match effect {
        Effect::ChangeMembers(change) => return change_members(world, taking.fresh.leader(), change).map(|()| 1),
        Effect::AnnotateClaim { name, uid, annotations } => return annotate_claim(world, name, uid, annotations).map(|()| 1),
        Effect::AnnotateStatefulSet { member, uid, annotations } => {
            world.etcd.recorded.extend(recorded_id(annotations));
            kubernetes.annotate_set(place(member), uid, annotations)
        }
        Effect::AnnotatePod { member, uid, annotations } => {
            let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), Some(value.clone()))).collect();
            let changes = MetadataChanges { annotations, ..MetadataChanges::default() };
            kubernetes.patch_pod(place(member), uid, &changes, now, &mut world.rng)
        }
        Effect::Resize { uid, .. } if !kubernetes.resizes => {
            let words = "the server could not find the requested resource";
            taking.desired.refuse(uid, words, taking.at);
            return Err(words.into());
        }
        Effect::Resize { member, uid, resources } => kubernetes.resize(place(member), uid, resources, now, &mut world.rng),
        Effect::Revoke { domain, holders, .. } => return revoke(world, *domain, holders),
        Effect::Delete { kind: Deletable::DisruptionBudget, name: _, uid } => kubernetes.delete_budget(uid),
        Effect::Delete { kind: Deletable::Claim, name, uid } => {
            let place = named(name, |member| names().claim(member)).ok_or("it is no member's")?;
            kubernetes.delete_claim(place, Some(uid), now)
        }
        Effect::Delete { kind: Deletable::StatefulSet, name, uid } => {
            let place = named(name, MemberName::to_string).ok_or("it is no member's")?;
            kubernetes.delete_set(place, uid)
        }
        Effect::Delete { kind: Deletable::Pod, name, uid } => {
            let place = named(name, |member| names().pod(member)).ok_or("it is no member's")?;
            kubernetes.delete_pod_with(place, uid, now, &mut world.rng)
        }
        Effect::Evict { member, uid } => kubernetes.evict(place(member), Some(uid), now, &mut world.rng),
        Effect::ChangeAuthorities(transition) => return change_authorities(world, transition).map(|()| 1),
        Effect::AdoptSecret { name, uid } => return adopt_secret(world, &taking.valid.uid, name, uid).map(|()| 1),
    };
    changed.map(|()| 1).map_err(|why| format!("{why:?}"))
}

/// Whether the operator reaches the process in a pod of the moment before.
fn is_reached(world: &World, place: Place) -> bool {
    let serves = world.etcd.processes.get(&place).is_some_and(|process| process.serving);
    serves && world.silent_until[usize::from(place)] <= world.now
}

/// A member is asked for an entry of raft's log. What comes of it, the next pass shows.
fn advance(world: &mut World, member: &MemberName) -> Done {
    let (place, now) = (place(member), world.now);
    let done = if is_reached(world, place) { world.etcd.advance(place, now) } else { Err(Class::Unavailable) };
    world.tell(|| format!("asked {member} for an entry of raft's log: {done:?}"));
    Done::Yes
}

fn change_members(world: &mut World, leader: Option<&MemberName>, change: &Change) -> Result<(), String> {
    let now = world.now;
    let leader = place(leader.ok_or("no member leads")?);
    if !is_reached(world, leader) {
        return Err(format!("{:?}", Class::Unavailable));
    }
    let etcd = &mut world.etcd;
    let changed = match change {
        Change::AddLearner { peer_url } => {
            let member = names().member_at(peer_url).expect("a member's URL");
            etcd.add_learner(leader, place(&member), now)
        }
        Change::Promote { id } => etcd.promote(leader, id.0, now),
        Change::Remove { id } => etcd.remove(leader, id.0, now),
        Change::MoveLeader { to } => etcd.move_leader(leader, to.0, now),
        Change::EnableDowngrade { to } => etcd.enable_downgrade(*to),
        Change::CancelDowngrade => etcd.cancel_downgrade(),
        // No member of a world runs out of space.
        Change::DisarmSpace { .. } => Err(Class::Other),
    };
    changed.map_err(|class| format!("{class:?}"))
}

/// The ID of a member that is recorded.
fn recorded_id(annotations: &BTreeMap<&'static str, String>) -> Option<Id> {
    let id: Option<MemberId> = annotations.get(key::MEMBER_ID).map(|id| id.parse().expect("a member's ID"));
    id.map(|id| id.0)
}

fn annotate_claim(world: &mut World, name: &str, uid: &Uid, annotations: &BTreeMap<&'static str, String>) -> Result<(), String> {
    let place = named(name, |member| names().claim(member)).ok_or("it is no member's")?;
    world.etcd.recorded.extend(recorded_id(annotations));
    world.kubernetes.annotate_claim(place, uid, annotations).map_err(|why| format!("{why:?}"))
}

fn change_authorities(world: &mut World, transition: &Transition) -> Result<(), String> {
    let slot = Slot::authority(transition.domain);
    let secret = world.kubernetes.things.secret(slot).ok_or("there is no CA")?;
    let secret = certificates::after(secret, transition, time(world.now)).ok_or("there are other CAs")?;
    world.changed(transition.domain, &transition.change);
    world.kubernetes.put_secret(slot, secret);
    Ok(())
}

fn adopt_secret(world: &mut World, cluster: &Uid, name: &str, uid: &Uid) -> Result<(), String> {
    let slot = Slot::secret(name).ok_or("it is not the cluster's")?;
    let secret = world.kubernetes.things.secret(slot).filter(|secret| secret.meta.uid.as_deref() == Some(uid.as_str()));
    let mut secret = SecretView::clone(secret.ok_or("it is another")?);
    secret.meta.annotations.get_or_insert_default().insert(key::CLUSTER_UID.into(), cluster.to_string());
    world.kubernetes.put_secret(slot, secret);
    Ok(())
}

fn revoke(world: &mut World, domain: Domain, holders: &[Holder]) -> Result<usize, String> {
    let slot = Slot::authority(domain);
    let secret = world.kubernetes.things.secret(slot).ok_or("there is no CA")?;
    let now = time(world.now);
    let mut revoked = 0;
    let secret = certificates::with_ledger(secret, now, |ledger| {
        revoked = ledger.revoke(|issued| holders.contains(&issued.holder), now);
    });
    if revoked == 0 {
        return Err("nothing is left to revoke".into());
    }
    world.kubernetes.put_secret(slot, secret);
    Ok(revoked)
}

/// Records the conditions that have another status or reason than before.
fn tell_conditions(world: &mut World, job: &Job) {
    if world.trace.is_none() {
        return;
    }
    let known = job.cluster.status.iter().flat_map(|status| status.conditions.clone()).collect::<Vec<_>>();
    for new in &job.status.conditions {
        let is_same = |old: &Condition| (&old.type_, &old.status, &old.reason) == (&new.type_, &new.status, &new.reason);
        if !known.iter().any(is_same) {
            world.tell(|| format!("{}={} {}: {}", new.type_, new.status, new.reason, new.message));
        }
    }
}

/// Writes the status, if the cluster is as it was seen.
fn report(world: &mut World, operator: &mut Operator, job: &Job) -> Done {
    if job.cluster.status.as_ref() == Some(&job.status) {
        return Done::Yes;
    }
    let existing = world.kubernetes.cluster();
    if existing.metadata.resource_version != job.cluster.metadata.resource_version {
        return Done::No;
    }
    let (metadata, spec) = (existing.metadata.clone(), existing.spec.clone());
    tell_conditions(world, job);
    world.written();
    operator.disturb();
    world.kubernetes.put_cluster(EtcdCluster { metadata, spec, status: Some(job.status.clone()) });
    Done::Yes
}
