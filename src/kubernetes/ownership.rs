//! Which cluster or user an object belongs to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{ids::Uid, names::annotation as key};

/// The value of an annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Whether an object belongs to the `EtcdCluster` or `EtcdUser` with this uid: it is controlled by it, or, if it may outlive its
/// cluster, names it in an annotation.
pub fn belongs(meta: &ObjectMeta, uid: &Uid) -> bool {
    is_controlled_by(meta, uid.as_str()) || annotation(meta, key::CLUSTER_UID) == Some(uid.as_str())
}

/// Whether the object with this uid controls an object.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true) && owner.uid == uid)
}

/// Whether the operator wrote an object, for whichever cluster.
pub fn was_written(meta: &ObjectMeta) -> bool {
    annotation(meta, key::APPLIED).or_else(|| annotation(meta, key::WRITTEN_AT)).is_some()
}

/// The owner of an object, for a message about an object that cannot be used.
pub fn describe_owner(meta: &ObjectMeta) -> String {
    match meta.owner_references.iter().flatten().next() {
        Some(owner) => format!("it belongs to {} {} (uid {})", owner.kind, owner.name, owner.uid),
        None => match annotation(meta, key::CLUSTER_UID) {
            Some(uid) => format!("it was left by a deleted EtcdCluster (uid {uid})"),
            None if was_written(meta) => "etcd-warden created it, and it has no owner any more".into(),
            None => "it was not created by etcd-warden".into(),
        },
    }
}
