//! What is found wrong in a spec.

use std::fmt;

use jiff::SignedDuration;

use crate::api::Duration;

/// The problems of a spec: at least one sentence, each of which says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<String>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// The problems that were found so far.
pub struct Problems(pub Vec<String>);

impl Problems {
    /// Adds one.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// Adds those of a part of the spec, or returns that part.
    pub fn of<T>(&mut self, part: Result<T, Vec<String>>) -> Option<T> {
        part.map_err(|mut problems| self.0.append(&mut problems)).ok()
    }
}

/// The length of a duration, unless it is none.
pub fn check_duration(field: &str, duration: &Duration, problems: &mut Problems) -> Option<SignedDuration> {
    duration.length().map_err(|e| problems.add(format!("{field}: {e}"))).ok()
}
