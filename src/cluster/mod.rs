//! One pass over an `EtcdCluster`: observe -> validate -> plan -> act -> report.
//!
//! | stage | file | pure |
//! | --- | --- | --- |
//! | observe | `observe.rs`, its data in `observed.rs` | no |
//! | validate | `validate.rs` | yes |
//! | plan | `plan/`, with what `build/` makes | yes |
//! | act | `act.rs`, the steps in `step.rs` | no |
//! | report | `status.rs` | yes; written here |

pub mod act;
pub mod build;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod observe;
pub mod observed;
pub mod plan;
pub mod seen;
pub mod status;
mod step;
pub mod validate;

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use self::{
    act::Acted,
    observe::{Identities, Identity},
    observed::Observed,
    status::{Judgement, Report},
    validate::{Invalid, ValidatedCluster},
};
use crate::{
    api::EtcdCluster,
    cache::{Scope, Triggers},
    etcd::Dialer,
    k8s::WriteError,
    metrics::Metrics,
};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

/// What a pass needs beside its object.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What is known of Kubernetes' objects.
    pub scope: Arc<Scope>,
    /// How members are asked.
    pub dialer: Arc<dyn Dialer>,
    /// The operator's identities towards the clusters.
    pub identities: Identities,
    /// In whose name events are published.
    pub reporter: Reporter,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Whom to look at next.
    pub triggers: Triggers,
    /// The DNS domain of the Kubernetes cluster.
    pub domain: String,
    /// Ends the pass while that costs nothing.
    pub stop: CancellationToken,
    /// The time.
    pub clock: fn() -> Timestamp,
}

/// One pass. Returns when the next one is due, if nothing happens before.
///
/// # Errors
/// When the status could not be written. Everything else that goes wrong is in the status.
pub async fn pass(context: &Context, cluster: &EtcdCluster) -> Result<Duration, WriteError> {
    let now = (context.clock)();
    let name = cluster.name_any();
    let namespace = cluster.namespace().unwrap_or_default();
    let (observed, identity, validated) = tokio::select! {
        // Nothing has been done yet that would have to be finished.
        () = context.stop.cancelled() => return Ok(Duration::ZERO),
        seen = look(context, cluster, now) => seen,
    };
    let (judgement, acted) = match validated {
        Err(invalid) => (Judgement::Invalid(invalid), Acted::default()),
        Ok(validated) => {
            let plan = plan::plan(&validated, &observed, now);
            let acted = if validated.paused || plan.refused.is_some() {
                Acted::default()
            } else {
                act::act(context, cluster, &validated, &observed, &plan, identity.as_ref(), now).await
            };
            (Judgement::Planned(Arc::new(validated), Box::new(plan)), acted)
        }
    };
    let report = status::report(cluster, &observed, &judgement, &acted, now);
    context.metrics.cluster(&namespace, &name, status::metrics(&report.status, &observed));
    let stale = write_report(context, cluster, cluster.status.as_ref(), &report).await?;
    // Users may wait for an authority that was made just now.
    if !acted.done.is_empty() {
        for user in context.scope.users.state() {
            if let Ok(user) = &user.0
                && user.spec.cluster_ref.name == name
                && user.namespace().as_deref() == Some(&namespace)
            {
                context.triggers.user(&user.name_any(), &namespace);
            }
        }
    }
    let next = match &judgement {
        Judgement::Planned(_, plan) => plan.next_check,
        Judgement::Invalid(_) => Duration::from_secs(12),
    };
    Ok(if acted.again || stale { next.min(Duration::from_millis(500)) } else { next })
}

/// Observes and validates. What issuers offer is tried with what the spec wants signed, so only where that makes sense.
async fn look(
    context: &Context,
    cluster: &EtcdCluster,
    now: Timestamp,
) -> (Observed, Option<Identity>, Result<ValidatedCluster, Invalid>) {
    let (mut observed, identity) = observe::observe(context, cluster, now).await;
    let validated = validate::validate(cluster, &context.domain);
    if let Ok(validated) = &validated {
        observed.offers = observe::find_offers(context, validated, now).await;
    }
    (observed, identity, validated)
}

/// Publishes what was done, writes the status if it differs, then publishes what changed in it. Returns whether the object was
/// newer than what the pass saw: then nothing was written, and the next pass reports on what it is now.
pub async fn write_report<K, S>(context: &Context, object: &K, old: Option<&S>, report: &Report<S>) -> Result<bool, WriteError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned,
    S: PartialEq + Serialize,
{
    let reference = object.object_ref(&());
    for event in &report.done {
        publish(context, event, &reference).await;
    }
    if old != Some(&report.status) {
        let api: Api<K> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
        match crate::k8s::apply_status(&api, &object.name_any(), &object.meta().resource_version, &report.status).await {
            Ok(()) => {}
            Err(WriteError::Conflict(_)) => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    for event in &report.events {
        publish(context, event, &reference).await;
    }
    Ok(false)
}

/// Publishes an event and logs it. That an event can't be published must not stop a pass.
pub async fn publish(context: &Context, event: &Event, reference: &k8s_openapi::api::core::v1::ObjectReference) {
    let note = event.note.as_deref().unwrap_or_default();
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
    match event.type_ {
        EventType::Normal => tracing::info!(namespace, name, reason = event.reason, "{note}"),
        EventType::Warning => tracing::warn!(namespace, name, reason = event.reason, "{note}"),
    }
    // One that is kept takes the next event of this reason for a repeat, and drops what that one says.
    let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
    if let Err(error) = recorder.publish(event, reference).await {
        tracing::warn!(namespace, name, error = crate::k8s::reason(&error), "event not published");
    }
}
