//! The effects of steps.

use std::collections::BTreeMap;

use crate::{
    certificates::transition::Transition,
    etcd::Change,
    ids::Uid,
    kubernetes::resources::Resources,
    names::MemberName,
    pki::{Domain, Holder},
};

/// A change that a step makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// etcd's members or leader change. The request goes to the leader: only it knows whether a learner has caught up, and only
    /// it can transfer leadership.
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
    /// Annotations are written to the StatefulSet of a member, if it still has this uid.
    AnnotateStatefulSet {
        /// The member.
        member: MemberName,
        /// The uid of its StatefulSet.
        uid: Uid,
        /// The annotations.
        annotations: BTreeMap<&'static str, String>,
    },
    /// Annotations are written to the pod of a member, if it still has this uid.
    AnnotatePod {
        /// The member.
        member: MemberName,
        /// The uid of its pod.
        uid: Uid,
        /// The annotations.
        annotations: BTreeMap<&'static str, String>,
    },
    /// The resources of a running pod's etcd container are changed, if it still has this uid and Kubernetes does it.
    Resize {
        /// The member.
        member: MemberName,
        /// The uid of its pod.
        uid: Uid,
        /// The resources.
        resources: Resources,
    },
    /// The cluster becomes the owner of a Secret that a deleted cluster left, if it still has this uid. Secrets with private keys
    /// are replaced with the contents that were read, and never patched.
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
    /// A pod is evicted, if it still has this uid and the disruption budgets allow it.
    Evict {
        /// The member.
        member: MemberName,
        /// The uid of its pod.
        uid: Uid,
    },
    /// Every certificate of these holders is revoked, missing entries are added to the revocation list, and pending private keys are removed.
    Revoke {
        /// The domain.
        domain: Domain,
        /// The holders.
        holders: Vec<Holder>,
        /// The keys of the authorities' Secret that hold the private keys.
        pending: Vec<String>,
    },
    /// A domain's authorities change.
    ChangeAuthorities(Box<Transition>),
}

/// The kinds of objects that steps delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletable {
    /// A PodDisruptionBudget.
    DisruptionBudget,
    /// A PersistentVolumeClaim, with its data.
    Claim,
    /// A StatefulSet.
    StatefulSet,
    /// A pod, bypassing the disruption budgets.
    Pod,
}
