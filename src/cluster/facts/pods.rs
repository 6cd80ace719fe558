//! Facts about a member's pod, StatefulSet and claim.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ContainerStatus, Pod, PodSpec},
};

use crate::{
    cluster::{
        objects,
        observed::ObservedMember,
        settings::{Change, Settings},
    },
    kubernetes::{
        ownership::annotation,
        pod::{is_unscheduled, pod_ready, waiting_reason},
    },
    member_pod::{added_statuses, etcd_status},
    names::annotation as key,
};

/// Whether etcd's container cannot start, or has been restarted and is not running.
pub fn is_stuck(pod: &Pod) -> bool {
    let has_ended = |container: &ContainerStatus| {
        container.restart_count > 0 && container.state.as_ref().is_none_or(|state| state.running.is_none())
    };
    cannot_start(pod) || etcd_status(pod).is_some_and(has_ended)
}

/// Whether etcd has never run in a pod, and the scheduler or the kubelet reports why: about its container, or about one that others
/// added and that may have to start first. A container that is being created may run soon.
fn cannot_start(pod: &Pod) -> bool {
    let has_run = |container: &ContainerStatus| {
        let state = container.state.as_ref();
        container.restart_count > 0
            || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || container.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
    };
    let is_refused = |container: &ContainerStatus| waiting_reason(container).is_some();
    let is_any_refused = || etcd_status(pod).into_iter().chain(added_statuses(pod)).any(is_refused);
    !etcd_status(pod).is_some_and(has_run) && (is_unscheduled(pod) || is_any_refused())
}

/// Whether a pod is not ready, and was never confirmed to serve its certificates.
pub fn has_never_served(pod: &Pod) -> bool {
    !pod_ready(pod) && annotation(&pod.metadata, key::TLS_CONFIRMED).is_none()
}

/// Whether a StatefulSet has no pod and its controller creates none.
pub fn is_stopped(set: &StatefulSet) -> bool {
    let pods = set.status.as_ref().map(|status| status.replicas);
    is_in_effect(set) && set.spec.replicas == Some(0) && pods == Some(0)
}

/// Whether the controller has observed the current generation of a StatefulSet, so that the next pod is created from its
/// template.
pub fn is_in_effect(set: &StatefulSet) -> bool {
    set.status.as_ref().is_some_and(|status| status.observed_generation == set.metadata.generation)
}

/// The fields of the spec that have changed since a pod was created: `desired` are the settings that it should have, and `template`
/// is what it would be created from now. A pod that an older operator created does not tell its settings, but the process in it does.
pub fn changed_settings(pod: &Pod, desired: &str, template: Option<&PodSpec>) -> Vec<Change> {
    match annotation(&pod.metadata, key::SETTINGS) {
        Some(settings) if settings == desired => vec![],
        Some(settings) => {
            let parse = |text: &str| Settings::parse(text).unwrap_or_default();
            parse(settings).changes_to(&parse(desired))
        }
        None if objects::runs_like(pod.spec.as_ref(), template) => vec![],
        None => vec![Change { path: "image or settings of etcd", values: None }],
    }
}

/// Changes as a list in a sentence.
pub fn describe_changes(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Whether a pod was created to start as a cluster of one (`--force-new-cluster`).
pub fn pod_is_forced(pod: &Pod) -> bool {
    objects::is_forced(pod.spec.as_ref())
}

/// Whether the next pod of a StatefulSet starts as a cluster of one (`--force-new-cluster`).
pub fn template_is_forced(set: &StatefulSet) -> bool {
    objects::is_forced(set.spec.template.spec.as_ref())
}

/// Whether a member's pod or its template starts as a cluster of one.
pub fn is_forced(member: &ObservedMember) -> bool {
    member.pod.as_deref().is_some_and(pod_is_forced) || member.stateful_set.as_deref().is_some_and(template_is_forced)
}

/// The member in favor of which a member's data was discarded. A claim that is being deleted no longer matters.
pub fn discarded_for(member: &ObservedMember) -> Option<&str> {
    let claim = &member.claim.as_ref()?.metadata;
    annotation(claim, key::DISCARDED_FOR).filter(|_| claim.deletion_timestamp.is_none())
}
