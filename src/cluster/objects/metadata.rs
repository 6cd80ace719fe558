//! The metadata that all objects of a cluster have.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    cluster::validated::ValidatedCluster,
    names::{annotation, label},
};

/// The metadata of an object that is deleted with its cluster.
pub fn owned(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.names.namespace().into()),
        labels: Some(label::of_cluster(cluster.names.cluster())),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// The metadata of an object that stays when its cluster is deleted, if data is retained. An annotation records the uid of its
/// cluster.
pub fn retained(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    let mut meta = owned(cluster, name);
    let mut annotations = BTreeMap::from([(annotation::CLUSTER_UID.to_owned(), cluster.uid.to_string())]);
    if cluster.retains() {
        meta.owner_references = None;
        annotations.insert(annotation::KEEP.into(), annotation::KEEP_VALUE.into());
        annotations.insert(annotation::EXTRANEOUS.into(), annotation::EXTRANEOUS_VALUE.into());
    }
    meta.annotations = Some(annotations);
    meta
}

/// Whether an existing object stays when its cluster is deleted, other than desired, or lacks the annotations that keep it from being
/// pruned, as one of an earlier version of the operator does.
pub fn is_retention_outdated(cluster: &ValidatedCluster, meta: &ObjectMeta) -> bool {
    let is_owned = meta.owner_references.iter().flatten().any(|owner| owner.uid == cluster.owner.uid);
    let is_kept = [annotation::KEEP, annotation::EXTRANEOUS]
        .iter()
        .all(|key| meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(*key)));
    is_owned == cluster.retains() || cluster.retains() && !is_kept
}

/// Makes an existing object stay when its cluster is deleted, or not stay any more.
pub fn set_retention(cluster: &ValidatedCluster, meta: &mut ObjectMeta) {
    let desired = retained(cluster, String::new());
    let owners = meta.owner_references.take().unwrap_or_default().into_iter().filter(|owner| owner.uid != cluster.owner.uid);
    let owners: Vec<_> = owners.chain(desired.owner_references.into_iter().flatten()).collect();
    meta.owner_references = Some(owners).filter(|owners| !owners.is_empty());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.retain(|key, _| key != annotation::KEEP && key != annotation::EXTRANEOUS);
    annotations.extend(desired.annotations.into_iter().flatten());
}
