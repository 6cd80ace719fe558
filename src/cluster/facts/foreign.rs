//! Objects under the cluster's names that do not belong to it, though they carry the operator's label.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    cluster::observed::{Observed, ObservedMember},
    ids::Uid,
    kubernetes::ownership::{annotation, belongs, describe_owner, was_written},
    names::{Names, annotation as key, label},
};

/// An object that does not belong to the cluster.
pub struct ForeignObject {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its owner, for messages.
    pub owner: String,
    /// Whether it is a claim that names no owner although a member of the cluster uses it: it has lost its annotations.
    pub is_stripped_claim: bool,
    /// Whether it was left by an `EtcdCluster` of this name that was deleted without what it owns (`--cascade=orphan`). Claims are
    /// not among them: they may be adopted.
    pub is_orphan: bool,
}

/// Objects under the cluster's names that do not belong to the cluster with this uid. The authorities' Secrets are not among
/// them: if they do not belong to the cluster, the authorities are lost.
pub fn find_objects(names: &Names, uid: &Uid, observed: &Observed) -> Vec<ForeignObject> {
    let mut all: Vec<(&'static str, &ObjectMeta)> = vec![];
    all.extend(observed.client_service.as_ref().map(|o| ("Service", &o.metadata)));
    all.extend(observed.peer_service.as_ref().map(|o| ("Service", &o.metadata)));
    all.extend(observed.disruption_budget.as_ref().map(|o| ("PodDisruptionBudget", &o.metadata)));
    all.extend(observed.ca_config.as_ref().map(|o| ("ConfigMap", &o.metadata)));
    all.extend(observed.bootstrap.as_ref().map(|o| ("ConfigMap", &o.metadata)));
    all.extend(observed.operator.as_ref().map(|o| ("Secret", &o.meta)));
    for member in observed.members.values() {
        all.extend(member.claim.as_ref().map(|o| ("PersistentVolumeClaim", &o.metadata)));
        all.extend(member.stateful_set.as_ref().map(|o| ("StatefulSet", &o.metadata)));
        all.extend(member.secret.as_ref().map(|o| ("Secret", &o.meta)));
    }
    let is_used =
        |claim: &str| observed.members.iter().any(|(name, member)| uses_claim(uid, member) && names.claim(name) == claim);
    let foreign = all.into_iter().filter(|(_, meta)| !belongs(meta, uid)).map(|(kind, meta)| {
        let name = meta.name.clone().unwrap_or_default();
        let names_no_owner = meta.owner_references.is_none() && annotation(meta, key::CLUSTER_UID).is_none();
        let is_stripped_claim = kind == "PersistentVolumeClaim" && names_no_owner && is_used(&name);
        let is_orphan = kind != "PersistentVolumeClaim" && is_orphan(names, meta);
        ForeignObject { kind, name, owner: describe_owner(meta), is_stripped_claim, is_orphan }
    });
    foreign.collect()
}

/// Whether the operator wrote an object for a cluster of this name, and it no longer has an owner: the garbage collector has
/// removed its owner reference.
fn is_orphan(names: &Names, meta: &ObjectMeta) -> bool {
    let has_label =
        |key: &str, value: &str| meta.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|it| it == value);
    let is_labelled = has_label(label::MANAGED_BY, label::MANAGED_BY_VALUE) && has_label(label::INSTANCE, names.cluster());
    meta.owner_references.iter().flatten().next().is_none() && is_labelled && was_written(meta)
}

/// Whether a StatefulSet of the cluster mounts the claim, and the claim has a volume.
fn uses_claim(uid: &Uid, member: &ObservedMember) -> bool {
    let is_bound = member.claim.as_ref().is_some_and(|claim| claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some()));
    is_bound && member.has_own_set(uid)
}

/// Describes why these objects cannot be used.
pub fn describe<'a>(foreign: impl IntoIterator<Item = &'a ForeignObject>) -> String {
    let each = foreign.into_iter().map(|o| format!("{} {} cannot be used: {}", o.kind, o.name, o.owner));
    each.collect::<Vec<_>>().join("; ")
}
