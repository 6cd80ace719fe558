//! Conditions of a status.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::runtime::events::{Event, EventType};

use super::{event::event, note::Note};
use crate::api::{ConditionType, is_true, reason_of};

/// What a condition says.
pub struct Finding {
    /// The type of the condition.
    pub kind: ConditionType,
    /// Whether it is True.
    pub is_true: bool,
    /// Reason and message.
    pub note: Note,
    /// The event that announces it.
    pub announced: Announced,
}

/// Whether an event announces a condition when its status or reason changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// By no event.
    Silently,
    /// By an event of the type Normal.
    Normally,
    /// By an event of the type Warning.
    AsWarning,
}

impl Finding {
    /// The condition. It keeps the time of the last transition unless its status changes.
    pub fn condition(&self, before: Option<&Condition>, generation: Option<i64>, now: Timestamp) -> Condition {
        let unchanged = before.filter(|before| is_true(before) == self.is_true);
        Condition {
            type_: self.kind.as_str().into(),
            status: if self.is_true { "True" } else { "False" }.into(),
            reason: self.note.reason.as_str().into(),
            message: self.note.message.clone(),
            observed_generation: generation,
            last_transition_time: since(unchanged.map(|before| &before.last_transition_time), now),
        }
    }

    /// The event, if status or reason have changed. For a new condition that is False there is none unless it is a warning.
    pub fn event(&self, before: Option<&Condition>) -> Option<Event> {
        let changed = before.is_none_or(|before| is_true(before) != self.is_true || reason_of(before) != Some(self.note.reason));
        let type_ = match self.announced {
            Announced::Normally if before.is_some() || self.is_true => EventType::Normal,
            Announced::AsWarning => EventType::Warning,
            Announced::Normally | Announced::Silently => return None,
        };
        changed.then(|| event(type_, &self.note))
    }
}

/// Since when something is as it is now: since the reported time, if there is one. A time in the future was reported by a clock that was
/// ahead, and everything that waits for its end would wait as long as that.
pub fn since(reported: Option<&Time>, now: Timestamp) -> Time {
    reported.filter(|reported| reported.0 <= now).cloned().unwrap_or_else(|| seconds(now))
}

/// A time in whole seconds, as the API stores it: with fractions it would differ from what is read back.
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}
