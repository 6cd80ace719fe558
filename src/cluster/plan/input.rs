//! The input of planners.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    cluster::{facts::Facts, observed::Observed, validated::ValidatedCluster},
    kubernetes::desired::Desired,
    names::MemberName,
};

/// The input of a plan.
pub struct Input<'a> {
    /// The desired state.
    pub cluster: &'a ValidatedCluster,
    /// A cache of what is derived from the desired state alone.
    pub desired: &'a Desired,
    /// What exists.
    pub observed: &'a Observed,
    /// Facts derived from what exists.
    pub facts: &'a Facts<'a>,
    /// The time.
    pub now: Timestamp,
}

/// The writes that are made before the step, as far as steps depend on them.
pub struct Pending {
    /// Whether a Secret is written.
    pub secrets: bool,
    /// The members whose StatefulSets are applied.
    pub stateful_sets: BTreeSet<MemberName>,
    /// Whether a pod is labelled or annotated.
    pub pods: bool,
    /// Whether certificates are being issued, or are not served yet.
    pub certificates: bool,
}
