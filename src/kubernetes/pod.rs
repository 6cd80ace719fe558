//! The state of pods.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};

/// Whether a pod is ready and not being deleted.
pub fn pod_ready(pod: &Pod) -> bool {
    !is_terminating(pod) && pod_condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Whether a pod is being deleted.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether no node accepts a pod.
pub fn is_unscheduled(pod: &Pod) -> bool {
    !is_terminating(pod) && pod_condition(pod, "PodScheduled").is_some_and(|scheduled| scheduled.status == "False")
}

/// A condition that the kubelet or the scheduler set.
pub fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// The node that a pod runs on.
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// Why a container waits, if the kubelet reports more than that it is being created.
pub fn waiting_reason(container: &ContainerStatus) -> Option<&str> {
    let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    (reason != "ContainerCreating" && reason != "PodInitializing").then_some(reason)
}
