//! Something to tell a user.

use crate::api::Reason;

/// A reason and a sentence: the content of a condition or an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The reason.
    pub reason: Reason,
    /// The message.
    pub message: String,
}

impl Note {
    /// A note.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The messages of several notes.
pub fn messages<'a>(notes: impl IntoIterator<Item = &'a Note>) -> String {
    notes.into_iter().map(|note| note.message.as_str()).collect::<Vec<_>>().join("; ")
}
