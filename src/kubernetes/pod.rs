//! The state of pods.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EmptyDirVolumeSource, Pod, PodCondition, PodSpec};

use crate::names::{CONTAINER, DATA_VOLUME};

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

/// The container that runs etcd, in a pod or a template.
pub fn etcd_container(spec: &PodSpec) -> Option<&Container> {
    spec.containers.iter().find(|container| container.name == CONTAINER)
}

/// The volume of the pod itself in which the data is, in a template; `None` if it is in that of a claim.
pub fn data_in_pod(spec: &PodSpec) -> Option<&EmptyDirVolumeSource> {
    spec.volumes.as_ref()?.iter().find(|volume| volume.name == DATA_VOLUME)?.empty_dir.as_ref()
}

/// The state of the container that runs etcd.
pub fn etcd_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == CONTAINER)
}

/// The states of the containers that others added to a pod, for example a service mesh.
pub fn added_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let lists = pod.status.iter().flat_map(|status| [&status.init_container_statuses, &status.container_statuses]);
    lists.flat_map(|list| list.iter().flatten()).filter(|status| status.name != CONTAINER)
}

/// When etcd's container started, if it is running.
pub fn running_since(pod: &Pod) -> Option<Timestamp> {
    Some(etcd_status(pod)?.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0)
}

/// Why a container waits, if the kubelet reports more than that it is being created.
pub fn waiting_reason(container: &ContainerStatus) -> Option<&str> {
    let reason = container.state.as_ref()?.waiting.as_ref()?.reason.as_deref()?;
    (reason != "ContainerCreating" && reason != "PodInitializing").then_some(reason)
}
