//! What steps change.

use std::collections::BTreeMap;

use crate::{
    certificates::transition::Transition,
    etcd::Change,
    ids::Uid,
    names::MemberName,
    pki::{Domain, Holder},
};

/// Something that a step changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// etcd's members or leader change. The request goes to the leader, which alone can judge learners and give up leadership.
    ChangeMembers(Change),
    /// Annotations are written to a claim, if it still has this uid.
    AnnotateClaim {
        /// Its name.
        name: String,
        /// Its uid.
        uid: Uid,
        /// The annotations.
        annotations: BTreeMap<&'static str, String>,
    },
    /// A Secret that a deleted cluster left becomes the cluster's own, if it still has this uid. Secrets with private keys are
    /// replaced as they were read, and never patched.
    AdoptSecret {
        /// Its name.
        name: String,
        /// Its uid.
        uid: Uid,
    },
    /// An object is deleted, if it still has this uid.
    Delete {
        /// Its kind.
        kind: Deletable,
        /// Its name.
        name: String,
        /// Its uid.
        uid: Uid,
    },
    /// A pod is evicted, if it still has this uid. The disruption budgets have the last word.
    Evict {
        /// The member.
        member: MemberName,
        /// The uid of its pod.
        uid: Uid,
    },
    /// Every certificate of these holders is revoked, and whatever the revocation list lacks is added.
    Revoke {
        /// The domain.
        domain: Domain,
        /// The holders.
        holders: Vec<Holder>,
    },
    /// A domain's authorities change.
    ChangeAuthorities(Box<Transition>),
}

/// The kinds of objects that steps delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletable {
    /// A PodDisruptionBudget.
    DisruptionBudget,
    /// A PersistentVolumeClaim, and the data with it.
    Claim,
    /// A StatefulSet.
    StatefulSet,
    /// A pod, past the disruption budgets.
    Pod,
}
