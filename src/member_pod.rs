//! What a member's pod has: etcd's container, those that others added, and the volume with the data.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EmptyDirVolumeSource, Pod, PodSpec};

use crate::names::{CONTAINER, DATA_VOLUME};

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
