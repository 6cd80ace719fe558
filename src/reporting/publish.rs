//! Writing a status and publishing events.

use kube::{
    Api, Resource, ResourceExt,
    core::NamespaceResourceScope,
    runtime::events::{Event, EventType, Recorder},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{event::event, note::Note};
use crate::{
    api::{EtcdClusterStatus, Reason},
    context::Context,
    kubernetes::{
        apply::apply_status,
        error::{WriteError, reason},
    },
};

/// What a pass reports.
pub struct Report<S = EtcdClusterStatus> {
    /// The status.
    pub status: S,
    /// Events about changes of the status. They are published once it is written.
    pub events: Vec<Event>,
    /// Events about what the pass did. They are published in any case.
    pub done: Vec<Event>,
}

/// Publishes what was done, writes the status if it changed, then publishes the events about that. Returns whether the object was
/// newer than what the pass had seen: then the status was not written, and the next pass reports.
///
/// # Errors
/// When the status could not be written for another reason.
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
        match apply_status(&api, &object.name_any(), &object.meta().resource_version, &report.status).await {
            Ok(()) => {}
            Err(WriteError::Conflict(_)) => return Ok(true),
            Err(error) => {
                if let Some(words) = error.refusal() {
                    publish(context, &not_accepted(words, report), &reference).await;
                }
                return Err(error);
            }
        }
    }
    for event in &report.events {
        publish(context, event, &reference).await;
    }
    Ok(false)
}

/// That the API server does not accept a status, with what it would have said. Before Kubernetes 1.33 each write of a status is judged by
/// all rules of the CRD, those about the stored spec included, which may be older than the rules (`apiextensions-apiserver`,
/// `pkg/registry/customresource/status_strategy.go`).
fn not_accepted<S>(words: &str, report: &Report<S>) -> Event {
    let news = report.events.iter().filter_map(|event| Some(format!("{}: {}", event.reason, event.note.as_ref()?)));
    let news = news.collect::<Vec<_>>().join("; ");
    let news = if news.is_empty() { news } else { format!("It would report {news}. ") };
    let message = format!("the status could not be written and is out of date. {news}The API server says: {words}");
    event(EventType::Warning, &Note::new(Reason::StatusNotAccepted, message))
}

/// Publishes an event and logs it. A failure is logged and does not stop the pass.
pub async fn publish(context: &Context, event: &Event, reference: &k8s_openapi::api::core::v1::ObjectReference) {
    let note = event.note.as_deref().unwrap_or_default();
    let (namespace, name) = (reference.namespace.as_deref().unwrap_or_default(), reference.name.as_deref().unwrap_or_default());
    match event.type_ {
        EventType::Normal => tracing::info!(namespace, name, reason = event.reason, "{note}"),
        EventType::Warning => tracing::warn!(namespace, name, reason = event.reason, "{note}"),
    }
    // A recorder that is kept would take the next event with this reason for a repetition, and drop its message.
    let recorder = Recorder::new(context.client.clone(), context.reporter.clone());
    if let Err(error) = recorder.publish(event, reference).await {
        tracing::warn!(namespace, name, error = reason(&error), "event not published");
    }
}
