//! One pass over an `EtcdUser`: observe -> plan -> act -> report, as for a cluster. Plan and report are pure.

mod act;
#[cfg(test)]
mod fixtures;
mod observe;
pub mod plan;
pub mod status;

use std::time::Duration;

use kube::ResourceExt;

use self::{
    act::issue,
    observe::observe,
    plan::{Obstacle, UserPlan, plan},
    status::{UserOutcome, expiry, report},
};
use crate::{api::EtcdUser, context::Context, kubernetes::error::WriteError, reporting::publish::write_report};

/// After a change: the watch needs a moment to report it.
const SOON: Duration = Duration::from_millis(500);
/// While an external issuer has not signed yet. Its answer triggers no pass.
const PENDING: Duration = Duration::from_secs(2);
/// After a failure, whose cause may not be watched.
const RETRY: Duration = Duration::from_secs(10);
/// If nothing is pending. A renewal is due after hours at the earliest, and everything that a user waits for triggers a pass.
const IDLE: Duration = Duration::from_secs(60);

/// One pass. Returns when the next one is due unless something triggers it before.
///
/// # Errors
/// When the status could not be written. Everything else that goes wrong is in the status.
pub async fn pass(context: &Context, user: &EtcdUser) -> Result<Duration, WriteError> {
    let now = (context.clock)();
    // Every object that the API server returns has a uid.
    let Some(observed) = observe(context, user) else { return Ok(IDLE) };
    let (outcome, next) = match plan(user, &observed, now) {
        UserPlan::Blocked(obstacle) => (UserOutcome::Blocked(obstacle), IDLE),
        UserPlan::Nothing => (UserOutcome::Ready, IDLE),
        UserPlan::Issue(change) => {
            let outcome = issue(context, user, &observed, *change, now).await;
            let next = after_issuing(&outcome);
            (outcome, next)
        }
    };
    let report = report(user, &observed, &outcome, now);
    context.metrics.user(observed.names.namespace(), &user.name_any(), expiry(user, &observed, &report.status));
    let is_outdated = write_report(context, user, user.status.as_ref(), &report).await?;
    Ok(if is_outdated { SOON } else { next })
}

/// When the next pass is due after an attempt to issue.
fn after_issuing(outcome: &UserOutcome) -> Duration {
    match outcome {
        UserOutcome::Written(_) | UserOutcome::Conflict => SOON,
        UserOutcome::Blocked(Obstacle::Suspended(_)) => PENDING,
        UserOutcome::Blocked(Obstacle::Refused(_) | Obstacle::Waiting(_)) | UserOutcome::Failed(_) | UserOutcome::Ready => RETRY,
    }
}
