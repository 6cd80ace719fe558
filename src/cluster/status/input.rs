//! What a report is made from.

use jiff::Timestamp;

use crate::{
    api::EtcdCluster,
    cluster::{
        facts::Facts,
        observed::Observed,
        outcome::{Decision, Outcome},
    },
};

/// What a report is made from.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The object.
    pub cluster: &'a EtcdCluster,
    /// What existed at the beginning of the pass.
    pub observed: &'a Observed,
    /// What follows from that.
    pub facts: &'a Facts<'a>,
    /// What was decided.
    pub decision: &'a Decision,
    /// What came of it.
    pub outcome: &'a Outcome,
    /// The time.
    pub now: Timestamp,
}
