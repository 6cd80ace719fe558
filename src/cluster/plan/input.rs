//! What planners decide on.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    cluster::{facts::Facts, observed::Observed, validated::ValidatedCluster},
    kubernetes::desired::Desired,
    names::MemberName,
};

/// What a plan is made from.
pub struct Input<'a> {
    /// The desired state.
    pub cluster: &'a ValidatedCluster,
    /// What follows from the desired state alone.
    pub desired: &'a Desired,
    /// What exists.
    pub observed: &'a Observed,
    /// What follows from what exists.
    pub facts: &'a Facts<'a>,
    /// The time.
    pub now: Timestamp,
}

/// What is written before the step, as far as steps depend on it.
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
