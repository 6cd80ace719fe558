//! The definition of a step.

use std::fmt::Debug;

use super::{
    check::{Check, RecheckError},
    effect::Effect,
    fresh::Read,
};
use crate::{api::Reason, cluster::observed::Observed, names::MemberName, reporting::note::Note};

/// The definition of a step.
pub trait Definition: Debug + Send + Sync {
    /// Its name, for metrics and logs.
    fn name(&self) -> &'static str;

    /// The reason of `Progressing` while the step is planned.
    fn progressing(&self) -> Reason;

    /// The reason of the event after the step was taken.
    fn done(&self) -> Reason;

    /// Describes what is being done: `adding demo-3 as a learner`.
    fn describe(&self) -> String;

    /// The member that the step concerns, if it concerns only one.
    fn member(&self) -> Option<&MemberName> {
        None
    }

    /// What has to be read again before the step is taken.
    fn reads(&self) -> Vec<Read>;

    /// Checks on fresh reads whether the step is still right, and drops the parts that are not.
    ///
    /// # Errors
    /// Why it is no longer right.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError>;

    /// The effects, in order. An effect that changes nothing ends the step.
    fn effects(&self, check: &Check) -> Vec<Effect>;

    /// Describes what was done, for the event. `changed` is the number of changes that the last effect made.
    fn describe_done(&self, check: &Check, changed: usize) -> String;

    /// How the step disrupts clients, if it does, according to the observation.
    fn cost(&self, _observed: &Observed) -> Option<Note> {
        None
    }
}
