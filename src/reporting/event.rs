//! Events.

use kube::runtime::events::{Event, EventType};

use super::note::Note;

/// The event with the content of a note.
pub fn event(type_: EventType, note: &Note) -> Event {
    let reason = note.reason.as_str();
    Event { type_, reason: reason.into(), note: Some(truncated(&note.message)), action: reason.into(), secondary: None }
}

/// One event for each reason, with the messages of all events that have it.
pub fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut joined: Vec<Event> = vec![];
    for event in events {
        let Some(same) = joined.iter_mut().find(|other| other.reason == event.reason) else {
            joined.push(event);
            continue;
        };
        let (before, note) = (same.note.take().unwrap_or_default(), event.note.unwrap_or_default());
        same.note = Some(if before.contains(&note) { before } else { truncated(&format!("{before}; {note}")) });
        if matches!(event.type_, EventType::Warning) {
            same.type_ = EventType::Warning;
        }
    }
    joined
}

/// The beginning of a text: an event's note has at most 1024 bytes (`events.k8s.io/v1`).
fn truncated(text: &str) -> String {
    match text.char_indices().find(|(at, c)| at + c.len_utf8() > 1020) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
