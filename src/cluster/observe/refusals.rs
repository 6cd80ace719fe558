//! The pods that Kubernetes refuses to the StatefulSet controller. Only the events of their StatefulSets say why.

use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, ResourceExt, api::ListParams};

use crate::{cluster::observed::Observed, context::Context, names::Names};

/// Finds out why members have no pod although their StatefulSets should have created one.
pub async fn find(context: &Context, names: &Names, observed: &mut Observed) {
    let events: Api<Event> = Api::namespaced(context.client.clone(), names.namespace());
    let status = &observed.status;
    let without_pod = observed.members.iter_mut().filter_map(|(name, member)| {
        let reported = status.members.iter().find(|reported| reported.name == name.as_str());
        // A pod that was ready in the last pass has ended since, and its successor is being created.
        let is_new = reported.is_some_and(|reported| reported.ready);
        let set = member.stateful_set.as_ref().filter(|set| member.pod.is_none() && !is_new && set.spec.replicas != Some(0))?;
        let since = reported.and_then(|reported| reported.since.as_ref()).map(|since| since.0);
        Some((set.uid()?, since, &mut member.refusal))
    });
    let events = &events;
    join_all(without_pod.map(|(uid, since, refusal)| async move {
        let of_set = ListParams::default().fields(&format!("involvedObject.uid={uid},reason={FAILED_CREATE}"));
        // Without permission to list events the reason is unknown. That is not an error.
        *refusal = events.list(&of_set).await.ok().and_then(|events| latest(&events.items, since));
    }))
    .await;
}

/// The reason of the StatefulSet controller's events about pods that it could not create
/// (Kubernetes `pkg/controller/statefulset/stateful_pod_control.go`).
const FAILED_CREATE: &str = "FailedCreate";

/// The end of the controller's own words in such an event. The API server's follow.
const PREFIX: &str = " failed error: ";

/// By how much the operator's clock may be ahead of the controller's.
const SKEW: SignedDuration = SignedDuration::from_secs(30);

/// What the API server said last, not before `since`. Events about earlier pods exist for an hour.
fn latest(events: &[Event], since: Option<Timestamp>) -> Option<String> {
    let dated = events.iter().filter_map(|event| Some((time(event)?, event.message.as_deref()?)));
    let recent = dated.filter(|(at, _)| since.is_none_or(|since| *at >= since - SKEW));
    let (_, message) = recent.max_by_key(|(at, _)| *at)?;
    Some(message.split_once(PREFIX).map_or(message, |(_, words)| words).to_owned())
}

/// When an event happened last. Which of the fields is set depends on the version of the recorder.
fn time(event: &Event) -> Option<Timestamp> {
    let repeated = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let times = [event.last_timestamp.as_ref(), event.first_timestamp.as_ref()].map(|time| time.map(|time| time.0));
    times.into_iter().chain([repeated, event.event_time.as_ref().map(|time| time.0)]).flatten().max()
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    fn event(fields: &str) -> Event {
        serde_saphyr::from_str(&format!("{{ metadata: {{}}, involvedObject: {{}}, {fields} }}")).unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn the_last_words_of_the_api_server_are_quoted() {
        let words = "create Pod demo-0-0 in StatefulSet demo-0 failed error: pods \"demo-0-0\" is forbidden: failed quota: team";
        let quota =
            event(&format!("message: '{words}', firstTimestamp: 2026-03-01T12:00:00Z, lastTimestamp: 2026-03-01T12:05:00Z"));
        let policy = event("message: denied, eventTime: 2026-03-01T12:00:00.000000Z");
        let repeated = event(
            "message: denied, eventTime: 2026-03-01T12:00:00.000000Z, series: { lastObservedTime: '2026-03-01T12:06:00.000000Z' }",
        );
        let quoted = "pods \"demo-0-0\" is forbidden: failed quota: team";
        assert_eq!(latest(&[policy.clone(), quota.clone()], None).as_deref(), Some(quoted));
        assert_eq!(latest(&[repeated, quota.clone()], None).as_deref(), Some("denied"));
        assert_eq!(latest(&[event("message: denied")], None), None, "it has no time");
        // Those about an earlier pod of the member do not count.
        assert_eq!(latest(slice::from_ref(&quota), Some(at("2026-03-01T12:05:30Z"))).as_deref(), Some(quoted));
        assert_eq!(latest(&[quota, policy], Some(at("2026-03-01T12:05:31Z"))), None);
    }
}
