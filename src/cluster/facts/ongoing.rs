//! What the last status says is in progress, and since when.

use crate::{
    api::{ConditionType, EtcdClusterStatus, Reason, condition},
    cluster::observed::Observed,
};

/// Since when what has this reason has been in progress, as a suffix for a message about it.
pub fn ongoing_since(observed: &Observed, reason: Reason) -> String {
    let since = observed.status.progressing_since.as_ref().filter(|_| is_ongoing(&observed.status, reason));
    since.map(|since| format!(" (since {})", since.0)).unwrap_or_default()
}

/// Whether a status says that what has this reason is in progress.
pub fn is_ongoing(status: &EtcdClusterStatus, reason: Reason) -> bool {
    let progressing = condition(&status.conditions, ConditionType::Progressing).filter(|it| it.status == "True");
    let current = progressing.and_then(|it| Reason::parse(&it.reason));
    current.is_some_and(|current| current == reason || SCALING.contains(&current) && SCALING.contains(&reason))
}

/// The reasons that are reported while members come and go, and for the steps between: together they are one change.
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
