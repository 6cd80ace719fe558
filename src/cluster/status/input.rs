//! The input of a report.

use jiff::Timestamp;

use crate::{
    api::EtcdCluster,
    cluster::{
        facts::Facts,
        observed::Observed,
        outcome::{Decision, Outcome},
    },
};

/// The input of a report.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The object.
    pub cluster: &'a EtcdCluster,
    /// What existed at the beginning of the pass.
    pub observed: &'a Observed,
    /// Facts derived from the observation.
    pub facts: &'a Facts<'a>,
    /// What was decided.
    pub decision: &'a Decision,
    /// The result of the decision.
    pub outcome: &'a Outcome,
    /// The time.
    pub now: Timestamp,
}
