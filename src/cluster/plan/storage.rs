//! The storage of members. The claims: which are created, and which are expanded, one after the other; and which members have other
//! storage than the spec asks for (they are replaced by `moves.rs`).

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{EmptyDirVolumeSource, PersistentVolumeClaim},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    changes::{Changes, PodPatch},
    input::Input,
    start::{StartStates, is_bootstrapped_together},
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            claims::{
                capacity, changed_storage, describe_expansion, file_system_pending, has_expansion_failed, has_to_grow,
                is_growing, is_smaller, is_too_small, largest_database, needed_for, other_storage,
            },
            roster::Roster,
        },
        objects::{self, ClaimSource, Claimed, MetadataChanges, StartState},
        observed::ObservedMember,
        validated::needed_in_pod,
    },
    ids::Uid,
    kubernetes::{
        cached::Cached,
        object::Object,
        ownership::{annotation, belongs},
        quantity,
    },
    names::{MemberName, annotation as key},
};

/// Plans the claims of all members.
pub fn plan(input: &Input, members: &StartStates) -> Changes {
    let mut changes = Changes::default();
    changes.extend(members.iter().filter_map(|(name, state)| claim(input, name, state, members.len())));
    changes.merge(expand(input, members));
    changes.pods.extend(input.observed.members.iter().filter_map(|(name, member)| synced(input, name, member)));
    changes
}

/// The claim of a member, if it has to be applied. The claim of a member that has started is never recreated, because an empty
/// claim would count as its data.
fn claim(input: &Input, name: &MemberName, state: &StartState, members: usize) -> Option<Changes> {
    let Input { observed, facts, .. } = input;
    let member = observed.members.get(name);
    if member.is_some_and(|member| member.claim_unread) || in_pod(input, member).is_some() {
        return None;
    }
    let existing = member.and_then(|member| member.claim.as_ref());
    let is_being_deleted = existing.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
    if (existing.is_some() && !is_being_deleted) || *state != StartState::Existing {
        let claimed = existing.map_or_else(|| made_now(input), |existing| kept(input, existing));
        return Some(Changes { objects: vec![unless_applied(input, name, &claimed, existing)?], ..Changes::default() });
    }
    let claim = facts.names.claim(name);
    let message = if is_being_deleted && member.is_some_and(ObservedMember::is_healthy) {
        let first = if members == 1 { "set spec.replicas to 3, and then " } else { "" };
        format!(
            "{name} loses its data as soon as its pod ends: PersistentVolumeClaim {claim} is being deleted. To have it replaced before \
             that, {first}set annotation {}={name}",
            key::REPLACE
        )
    } else {
        let how = if is_being_deleted { "is being deleted" } else { "is missing, or has lost its labels" };
        let otherwise = if observed.has_come_up() { "" } else { "; otherwise delete the EtcdCluster and create it again" };
        format!(
            "{name} has lost its data: PersistentVolumeClaim {claim} {how}. It will be replaced if the others are a quorum without \
             it{otherwise}"
        )
    };
    Some(Changes::default().problem(Reason::ClaimLost, message))
}

/// The volume of its pod in which a member has its data, or is to have it; `None` if that is in the volume of a claim. A member keeps what it
/// has until it is replaced. Members that bootstrap a cluster together get claims, whatever the spec has become meanwhile (`start.rs`).
pub fn in_pod(input: &Input, member: Option<&ObservedMember>) -> Option<EmptyDirVolumeSource> {
    let desired = || made_in_pod(input).filter(|_| !is_bootstrapped_together(input));
    let Some(member) = member else { return desired() };
    let is_open = member.claim.is_none() && !member.claim_unread && member.stateful_set.is_none();
    if is_open { desired() } else { member.volume_in_pod().cloned() }
}

/// The volume that a new member gets in its pod. It is as large as the largest of the others if that of the spec is too small for the quota that
/// members keep: a pod that takes more is evicted.
fn made_in_pod(input: &Input) -> Option<EmptyDirVolumeSource> {
    let volume = objects::empty_dir(&input.cluster.storage)?;
    let Some(needed) = too_small_in_pod(input) else { return Some(volume) };
    let sizes = input.observed.members.values().filter_map(|member| member.volume_in_pod()?.size_limit.as_ref());
    let largest = sizes.max_by_key(|size| quantity::nano(&size.0)).cloned();
    let size = largest.filter(|size| quantity::bytes(size).is_some_and(|bytes| bytes >= needed));
    Some(EmptyDirVolumeSource { size_limit: size.or_else(|| Some(Quantity(quantity::rounded(needed)))), ..volume })
}

/// How many bytes a volume in a pod needs for the quota that members keep, if the spec asks for less.
fn too_small_in_pod(input: &Input) -> Option<i64> {
    let volume = input.cluster.storage.empty_dir.as_ref()?;
    let needed = needed_in_pod(input.cluster.etcd.quota);
    quantity::bytes(&volume.size_limit).is_some_and(|bytes| bytes < needed).then_some(needed)
}

fn unless_applied(
    input: &Input,
    name: &MemberName,
    claimed: &Claimed,
    existing: Option<&Cached<PersistentVolumeClaim>>,
) -> Option<Object> {
    let ClaimSource { size, storage_class_name } = &claimed.source;
    let source = (size.0.clone(), storage_class_name.clone());
    let inputs = (name.clone(), claimed.size.0.clone(), claimed.class.clone(), source);
    input.desired.unless_applied(&inputs, || objects::claim(input.cluster, name, claimed), existing)
}

/// What a new claim asks for. If the desired size is too small for the data, the volumes of the others are not replaced by such ones, and a
/// new one is as large as the largest of them.
fn made_now(input: &Input) -> Claimed {
    let (claimed, observed) = (Claimed::of(&input.cluster.storage), input.observed);
    if !is_too_small(&claimed.size, observed) {
        return claimed;
    }
    let claims = observed.members.values().filter_map(|member| objects::requested_size(member.claim.as_deref()?));
    // With the data in the pods there may be no other claim.
    let needed = Quantity(quantity::rounded(needed_for(observed)));
    let largest =
        claims.chain([&claimed.size, &needed]).max_by_key(|size| quantity::nano(&size.0)).unwrap_or(&claimed.size).clone();
    Claimed { size: largest.clone(), source: ClaimSource { size: largest, ..claimed.source }, ..claimed }
}

/// What an existing claim still requests. A claim that records no source was made by an earlier version, for which the fields could
/// not be changed.
fn kept(input: &Input, existing: &PersistentVolumeClaim) -> Claimed {
    let desired = ClaimSource::of(&input.cluster.storage);
    let size = objects::requested_size(existing).unwrap_or(&desired.size);
    let is_same = quantity::nano(&size.0) == quantity::nano(&desired.size.0);
    let mut source = ClaimSource::recorded(existing).unwrap_or_else(|| desired.clone());
    // It was expanded by hand, or its volume was larger from the beginning.
    if is_smaller(&source.size, &desired.size) && !has_to_grow(existing, &desired.size) && capacity(existing).is_some() {
        source.size.clone_from(&desired.size);
    }
    // Without a class it gets one only as long as it has no volume.
    let is_open = objects::class_of(existing).is_none() && capacity(existing).is_none();
    let class = if is_open { desired.storage_class_name.as_ref() } else { objects::class_of(existing) };
    // It is what Kubernetes has chosen already.
    if desired.storage_class_name.is_some() && class == desired.storage_class_name.as_ref() {
        source.storage_class_name.clone_from(&desired.storage_class_name);
    }
    let size = if is_same { desired.size } else { size.clone() };
    Claimed { size, class: class.cloned(), source }
}

/// A bound claim of a member.
type Owned<'a> = (&'a MemberName, &'a ObservedMember, &'a Cached<PersistentVolumeClaim>);

/// Writes a larger size to one claim after the other: the next one only when the volume of the one before has its new size, so that a
/// driver which fails does so for one member. Nothing else waits for that.
fn expand(input: &Input, members: &StartStates) -> Changes {
    let Input { cluster, desired, observed, facts, now } = *input;
    let size = &cluster.storage.size;
    if cluster.storage.empty_dir.is_some() {
        return Changes::default();
    }
    let claims = observed.members.iter().filter(|(name, _)| members.contains_key(name)).filter_map(|(name, member)| {
        let claim = member.claim.as_ref().filter(|claim| belongs(&claim.metadata, facts.uid))?;
        // What is replaced is not expanded before.
        let stays = claim.metadata.deletion_timestamp.is_none() && changed_storage(claim, &cluster.storage).is_empty();
        stays.then_some((name, member, claim))
    });
    let claims: Vec<Owned> = claims.collect();
    let growing = claims.iter().find(|(_, _, claim)| is_growing(claim, size));
    let refusal = |claim: &PersistentVolumeClaim| desired.refusal(&Uid::of(&claim.metadata)?, now);
    let small = claims.iter().copied().filter(|(_, _, claim)| has_to_grow(claim, size));
    let (refused, open): (Vec<Owned>, Vec<Owned>) = small.partition(|(_, _, claim)| refusal(claim).is_some());
    let mut changes = describe_refused(input, &refused, refusal);
    if let Some((.., claim)) = growing.or_else(|| open.first()) {
        let done = claims.iter().filter(|(_, _, claim)| !is_growing(claim, size) && !has_to_grow(claim, size)).count();
        let from = capacity(claim).map(|from| from.0.as_str()).unwrap_or_default();
        changes.change = Some(format!("storage.size {from} -> {} ({done}/{})", size.0, claims.len()));
    }
    if let Some((name, _, claim)) = growing {
        changes = describe_growing(input, claim, changes);
        let asks_more = objects::requested_size(claim).is_some_and(|requested| is_smaller(size, requested));
        if !asks_more || !has_expansion_failed(claim) {
            return changes;
        }
        // What a driver has failed to do can be reverted in part: a claim may ask for less again, as long as that is more than its volume
        // has (Kubernetes, `RecoverVolumeExpansionFailure`).
        return match refusal(claim) {
            Some(words) => changes.problem(
                Reason::CannotExpandVolume,
                format!("PersistentVolumeClaim {} still requests the larger size: {words}", facts.names.claim(name)),
            ),
            None => Changes { expansion: resized(input, name, claim), ..changes },
        };
    }
    // The full volume of a member may be why it is down.
    let Some((name, _, existing)) = open.iter().find(|(_, member, _)| !member.is_healthy()).or_else(|| open.first()) else {
        return changes;
    };
    changes.expansion = resized(input, name, existing);
    let message =
        format!("{} of {} volumes have yet to be expanded to {}; next: that of {name}", open.len(), claims.len(), size.0);
    changes.progress(Reason::ExpandingVolume, message)
}

/// A claim that asks for the desired size.
fn resized(input: &Input, name: &MemberName, existing: &Cached<PersistentVolumeClaim>) -> Option<Object> {
    let (size, kept) = (&input.cluster.storage.size, kept(input, existing));
    let source = ClaimSource { size: size.clone(), ..kept.source };
    unless_applied(input, name, &Claimed { size: size.clone(), source, ..kept }, Some(existing))
}

/// Makes the kubelet expand the file system of a pod's volume: it does so when it syncs the pod, which is every 60 to 90 s, and whenever the
/// pod is changed.
fn synced(input: &Input, name: &MemberName, member: &ObservedMember) -> Option<PodPatch> {
    let (since, pod) = (file_system_pending(member.claim.as_ref()?)?.to_string(), member.pod.as_ref()?);
    if annotation(&pod.metadata, key::EXPANSION) == Some(since.as_str()) {
        return None;
    }
    let changes =
        MetadataChanges { annotations: [(key::EXPANSION.to_owned(), Some(since))].into(), ..MetadataChanges::default() };
    Some(PodPatch { pod: input.facts.names.pod(name), uid: Uid::of(&pod.metadata)?, changes })
}

fn describe_growing(input: &Input, claim: &PersistentVolumeClaim, changes: Changes) -> Changes {
    let (name, size) = (claim.metadata.name.as_deref().unwrap_or_default(), &input.cluster.storage.size.0);
    let from = capacity(claim).map(|size| size.0.as_str()).unwrap_or_default();
    let why = describe_expansion(claim).map(|why| format!(": {why}")).unwrap_or_default();
    let changes = changes.progress(
        Reason::ExpandingVolume,
        format!("the volume of PersistentVolumeClaim {name} is being expanded from {from} to {size}{why}"),
    );
    if !has_expansion_failed(claim) {
        return changes;
    }
    let message = format!(
        "the volume of PersistentVolumeClaim {name} was not expanded to {size}{why}. Kubernetes tries again, and no other volume is \
         expanded before"
    );
    changes.problem(Reason::CannotExpandVolume, message)
}

/// What the API server says if the StorageClass of a claim does not allow expansion (Kubernetes,
/// `plugin/pkg/admission/storage/persistentvolume/resize/admission.go`). The reason is `Forbidden`, as for an exceeded quota, for which the
/// remedy is another one; so only the words tell the two apart.
const NOT_EXPANDABLE: &str = "must support resize";

/// Reports the claims to which the API server refuses to write a larger size: their StorageClass does not allow it, or a quota does not.
fn describe_refused(input: &Input, refused: &[Owned], words: impl Fn(&PersistentVolumeClaim) -> Option<String>) -> Changes {
    let mut classes: BTreeMap<&str, Vec<&Owned>> = BTreeMap::new();
    for owned in refused {
        classes.entry(objects::class_of(owned.2).map(String::as_str).unwrap_or_default()).or_default().push(owned);
    }
    let message = |(class, claims): (&str, Vec<&Owned>)| {
        let names: Vec<_> = claims.iter().map(|(name, ..)| input.facts.names.claim(name)).collect();
        let (first, _, claim) = claims.first()?;
        let words = words(claim)?;
        let remedy = if words.contains(NOT_EXPANDABLE) {
            format!(
                "Set allowVolumeExpansion to true in StorageClass {class}, if its driver can expand volumes; or have one member after the \
                 other replaced by one with a larger volume, beginning with annotation {}={first}; or revert the change of \
                 spec.storage.size. ",
                key::REPLACE
            )
        } else {
            String::new()
        };
        Some(format!(
            "the volumes of {} (StorageClass {class}) are not expanded to {}: {}. {remedy}It is tried again every 10 minutes",
            names.join(", "),
            input.cluster.storage.size.0,
            words.trim_end_matches('.'),
        ))
    };
    let messages = classes.into_iter().filter_map(message);
    messages.fold(Changes::default(), |changes, message| changes.problem(Reason::CannotExpandVolume, message))
}

/// Whether voters are to be replaced because they have other storage than the spec asks for.
pub fn moves_are_due(input: &Input, roster: &Roster) -> bool {
    roster.voters.values().any(|voter| why_moved(input, voter.member).is_some()) && why_not_moved(input).is_none()
}

/// Why a member has other storage than the spec asks for.
pub fn why_moved(input: &Input, member: &ObservedMember) -> Option<String> {
    let changed = other_storage(member, &input.cluster.storage);
    (!changed.is_empty()).then(|| changed.join(", "))
}

/// Why no member is replaced by one with this storage.
pub fn why_not_moved(input: &Input) -> Option<String> {
    if let Some(volume) = &input.cluster.storage.empty_dir {
        return too_small_in_pod(input).map(|needed| {
            format!(
                "no member gets a volume of {} (spec.storage.emptyDir.sizeLimit) in its pod: members keep a larger quota than that of the \
                 spec, and the volume needs room for that and 448Mi for the write-ahead log, {} in all",
                volume.size_limit.0,
                quantity::rounded(needed)
            )
        });
    }
    let size = &input.cluster.storage.size;
    let (name, database) = largest_database(input.observed).filter(|_| is_too_small(size, input.observed))?;
    Some(format!(
        "no member gets a volume of {} (spec.storage.size): the database of {name} has up to {}, and a volume needs room for twice the \
         database plus 448Mi for the write-ahead log. Choose a larger size, or compact and defragment first. A new member gets a volume as \
         large as those of the others",
        size.0,
        quantity::rounded(database),
    ))
}

#[cfg(test)]
#[path = "storage_tests.rs"]
mod tests;
