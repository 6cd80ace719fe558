//! What every step defines.

use std::fmt::Debug;

use super::{
    check::{Check, RecheckError},
    effect::Effect,
    fresh::Read,
};
use crate::{api::Reason, cluster::observed::Observed, names::MemberName, reporting::note::Note};

/// What every step defines.
pub trait Definition: Debug + Send + Sync {
    /// Its name, for metrics and logs.
    fn name(&self) -> &'static str;

    /// The reason of `Progressing` while it is being taken.
    fn progressing(&self) -> Reason;

    /// The reason of the event once it was taken.
    fn done(&self) -> Reason;

    /// What is being done: `adding demo-3 as a learner`.
    fn describe(&self) -> String;

    /// The member that it is about, if it is about one.
    fn member(&self) -> Option<&MemberName> {
        None
    }

    /// What has to be read afresh before it is taken.
    fn reads(&self) -> Vec<Read>;

    /// Decides on fresh reads whether it is still right, and keeps what of it is.
    ///
    /// # Errors
    /// Why it is not right any more.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError>;

    /// What it changes, in this order. An effect that changes nothing ends the step.
    fn effects(&self, check: &Check) -> Vec<Effect>;

    /// What was done, for the event. `changed` is the number of things that its last effect changed.
    fn describe_done(&self, check: &Check, changed: usize) -> String;

    /// What it costs clients, if anything, by what the plan has seen.
    fn cost(&self, _observed: &Observed) -> Option<Note> {
        None
    }
}
