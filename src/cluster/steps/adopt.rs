//! Adopting the objects that a deleted cluster of the same name left.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
    leftover::{Leftover, LeftoverKind, is_leftover},
};
use crate::{api::Reason, ids::Uid, kubernetes::ownership::annotation, names::annotation as key};

/// Makes the cluster the owner of the objects that a deleted cluster of this name left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopt {
    /// The objects, in the order in which they are adopted.
    pub objects: Vec<Leftover>,
    /// The uid of the deleted cluster.
    pub from: Uid,
}

impl Adopt {
    fn names(&self) -> String {
        self.objects.iter().map(Leftover::describe).collect::<Vec<_>>().join(", ")
    }
}

impl Definition for Adopt {
    fn name(&self) -> &'static str {
        "Adopt"
    }
    fn progressing(&self) -> Reason {
        Reason::Adopting
    }
    fn done(&self) -> Reason {
        Reason::Adopted
    }
    fn describe(&self) -> String {
        format!("adopting what a deleted EtcdCluster of this name left: {}", self.names())
    }
    fn reads(&self) -> Vec<Read> {
        self.objects.iter().cloned().map(Read::Leftover).collect()
    }

    /// All objects must still belong to the deleted cluster, and none may be about to be deleted.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        for object in &self.objects {
            let existing = check.fresh.leftovers.iter().find(|meta| meta.uid.as_deref() == Some(object.uid.as_str()));
            let is_unchanged =
                existing.is_some_and(|meta| annotation(meta, key::CLUSTER_UID) == Some(self.from.as_str()) && is_leftover(meta));
            ensure(is_unchanged, || format!("{} has changed", object.describe()))?;
        }
        Ok(())
    }

    fn effects(&self, check: &Check) -> Vec<Effect> {
        let adopt = |Leftover { kind, name, uid }: Leftover| match kind {
            LeftoverKind::Secret => Effect::AdoptSecret { name, uid },
            LeftoverKind::Claim => {
                Effect::AnnotateClaim { name, uid, annotations: [(key::CLUSTER_UID, check.cluster.uid.to_string())].into() }
            }
        };
        self.objects.iter().cloned().map(adopt).collect()
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("adopted what a deleted EtcdCluster of this name left: {}", self.names())
    }
}
