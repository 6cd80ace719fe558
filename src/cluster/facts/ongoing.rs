//! What is in progress according to the last status, and since when.

use crate::{
    api::{ConditionType, EtcdClusterStatus, Reason, condition, is_true, reason_of},
    cluster::observed::Observed,
};

/// Since when the operation with this reason has been in progress, as a suffix for a message about it.
pub fn ongoing_since(observed: &Observed, reason: Reason) -> String {
    let since = observed.status.progressing_since.as_ref().filter(|_| is_ongoing(&observed.status, reason));
    since.map(|since| format!(" (since {})", since.0)).unwrap_or_default()
}

/// Whether the operation with this reason is in progress according to a status.
pub fn is_ongoing(status: &EtcdClusterStatus, reason: Reason) -> bool {
    let progressing = condition(&status.conditions, ConditionType::Progressing).filter(|progressing| is_true(progressing));
    let current = progressing.and_then(reason_of);
    current.is_some_and(|current| current == reason || SCALING.contains(&current) && SCALING.contains(&reason))
}

/// The reasons that are reported while members are added and removed, and for the steps in between. Together they count as one
/// operation.
const SCALING: [Reason; 9] = [
    Reason::ScalingUp,
    Reason::Joining,
    Reason::CatchingUp,
    Reason::ScalingDown,
    Reason::RemovingMember,
    Reason::WaitingForMembers,
    Reason::RecordingMembers,
    Reason::RevokingCertificates,
    Reason::DeletingDisruptionBudget,
];
