//! What users read: conditions and events, and the one place that writes them.

pub mod condition;
pub mod event;
pub mod note;
pub mod publish;
