//! One pass over an `EtcdCluster`: observe -> validate -> plan -> act -> report.
//!
//! | stage | where | pure |
//! | --- | --- | --- |
//! | observe | `observe/`; the data is in `observed.rs`, the facts derived from it in `facts/` | only `facts/` |
//! | validate | `validate.rs`; the data is in `validated.rs` | yes |
//! | plan | `plan/`, with the objects of `objects/` and the steps of `steps/` | yes |
//! | act | `act/` | no |
//! | report | `status/`; `pass` writes the status | yes |

pub(crate) mod act;
pub(crate) mod dial;
pub mod facts;
#[cfg(test)]
pub(crate) mod fixtures;
pub(crate) mod leaves;
pub(crate) mod maintained;
pub mod objects;
pub(crate) mod observe;
pub mod observed;
pub mod outcome;
pub mod plan;
pub mod release;
pub mod requests;
pub mod settings;
pub(crate) mod specs;
pub mod status;
pub mod steps;
pub mod validate;
pub mod validated;

use std::time::Duration;

use kube::ResourceExt;

use self::{
    act::Actor,
    facts::Facts,
    outcome::{Decision, Outcome},
    plan::changes,
    specs::Specs,
};
use crate::{
    api::EtcdCluster, context::Context, ids::Uid, kubernetes::error::WriteError, names::Names, reporting::publish::write_report,
};

/// Makes one pass. Returns the time until the next pass is due, unless an event triggers it earlier.
///
/// # Errors
/// If the status could not be written. All other problems are reported in the status.
pub async fn pass(context: &Context, specs: &Specs, object: &EtcdCluster) -> Result<Duration, WriteError> {
    let now = (context.clock)();
    let names = Names::new(&object.name_any(), &object.namespace().unwrap_or_default(), &context.domain);
    // Every object that the API server returns has a uid.
    let Some(uid) = Uid::of(&object.metadata) else { return Ok(changes::IDLE) };
    let (observed, identity) = tokio::select! {
        // Nothing has been changed yet.
        () = context.stop.cancelled() => return Ok(Duration::ZERO),
        observed = observe::observe(context, object, &names, now) => observed,
    };
    let facts = Facts::of(&names, &uid, &observed, now);
    let spec = specs.of(object, &context.domain);
    let desired = spec.desired.clone();
    let decision = Decision::of(spec, object, &context.domain, &observed, &facts, now);
    let outcome = match decision.executed() {
        Some((cluster, plan)) => {
            let (desired, observed, identity) = (&desired, &observed, identity.as_ref());
            Actor { context, object, cluster, desired, observed, identity, now }.act(plan).await
        }
        None => Outcome::default(),
    };
    let report = status::report(&status::Input {
        cluster: object,
        observed: &observed,
        facts: &facts,
        decision: &decision,
        outcome: &outcome,
        now,
    });
    let state = status::metrics::state(&report.status, &observed, &decision);
    context.metrics.cluster(names.namespace(), names.cluster(), state);
    // Removing the annotation of a completed request has changed nothing else.
    let newer = outcome.version.as_ref().map(|version| {
        let mut newer = object.clone();
        newer.metadata.resource_version = Some(version.clone());
        newer
    });
    let is_outdated = write_report(context, newer.as_ref().unwrap_or(object), object.status.as_ref(), &report).await?;
    // A user may be waiting for an authority that this pass created or found again.
    if !outcome.done.is_empty() || !report.events.is_empty() {
        trigger_users(context, &names);
    }
    let next = decision.plan().map_or(changes::IDLE, plan::changes::Plan::next_check);
    Ok(if outcome.again || is_outdated { next.min(AGAIN) } else { next })
}

/// When the next pass is due if an object changed after it was observed.
const AGAIN: Duration = Duration::from_millis(500);

fn trigger_users(context: &Context, names: &Names) {
    for user in context.scope.users.of_cluster(names.namespace(), names.cluster()) {
        context.triggers.user(&user.name_any(), names.namespace());
    }
}
