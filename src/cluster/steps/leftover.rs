//! Objects that a deleted cluster of the same name left.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::ids::Uid;

/// An object that a deleted cluster left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its kind.
    pub kind: LeftoverKind,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Uid,
}

/// The kinds of objects that may outlive their cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftoverKind {
    /// The Secret of a domain's authorities.
    Secret,
    /// The PersistentVolumeClaim of a member.
    Claim,
}

impl Leftover {
    /// Its kind and name.
    pub fn describe(&self) -> String {
        let kind = match self.kind {
            LeftoverKind::Secret => "Secret",
            LeftoverKind::Claim => "PersistentVolumeClaim",
        };
        format!("{kind} {}", self.name)
    }

    /// The object with this metadata.
    pub fn of(kind: LeftoverKind, meta: &ObjectMeta) -> Option<Self> {
        Some(Self { kind, name: meta.name.clone()?, uid: Uid::of(meta)? })
    }
}

/// Whether an object is retained: an object that has an owner or is being deleted will be gone soon.
pub fn is_leftover(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_none() && meta.owner_references.iter().flatten().next().is_none()
}
