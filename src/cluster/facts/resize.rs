//! How far a pod is whose resources are changed while it runs.
//!
//! The API server writes them to the pod's spec. The kubelet then decides whether its node has them (condition `PodResizePending`, reason
//! `Deferred` or `Infeasible`), and gives them to the running container (condition `PodResizeInProgress`). It gives no memory limit that is
//! below what the container uses: that condition has the reason `Error` then, and the kubelet tries again (`pkg/kubelet/allocation`,
//! `pkg/kubelet/kuberuntime`, `doPodResizeAction`). So the spec of a pod says what it is to have, and only its status what it has.

use k8s_openapi::api::core::v1::{Pod, PodCondition, ResourceRequirements};

use crate::{
    cluster::settings::Settings,
    kubernetes::{ownership::annotation, pod::pod_condition, resources::Resources},
    member_pod::{etcd_container, etcd_status},
    names::annotation as key,
};

/// How far a change is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The resources have to be written to the pod.
    Due,
    /// The kubelet has not given them to the container yet.
    InProgress,
    /// The node does not have them at the moment. The text is the kubelet's.
    Deferred(String),
    /// The kubelet does not give them to a running container. The text is the kubelet's.
    Infeasible(String),
    /// The kubelet could not give them to the container, and tries again. The text is the kubelet's.
    Failed(String),
    /// The container has them.
    Done,
}

/// What is written to a pod so that it has these resources: in place of those with which it was created, and of those that it was being
/// given. `None` if it cannot be changed, or does not tell with which ones it was created.
pub fn resources(pod: &Pod, desired: &ResourceRequirements) -> Option<Resources> {
    let created = Settings::parse(annotation(&pod.metadata, key::SETTINGS)?)?.resources()?;
    let resizing = annotation(&pod.metadata, key::RESIZING).map(|text| serde_json::from_str(text).unwrap_or_default());
    Resources::of(desired, [created].iter().chain(&resizing))
}

/// Whether the resources of a pod are being changed.
pub fn has_begun(pod: &Pod) -> bool {
    annotation(&pod.metadata, key::RESIZING).is_some()
}

/// How far the change to these resources is; `None` if it cannot be made.
pub fn progress(pod: &Pod, desired: &ResourceRequirements) -> Option<Resize> {
    let resources = resources(pod, desired)?;
    if !resources.are_in(pod.spec.as_ref().and_then(etcd_container)?.resources.as_ref()) {
        return Some(Resize::Due);
    }
    // Kubernetes 1.33 does not count the changes of pods.
    let generation = pod.metadata.generation;
    let is_current = |observed: Option<i64>| observed.zip(generation).is_none_or(|(observed, generation)| observed >= generation);
    let condition = |kind: &str| pod_condition(pod, kind).filter(|condition| condition.status == "True");
    let (pending, giving) = (condition("PodResizePending"), condition("PodResizeInProgress"));
    if let Some(pending) = pending.filter(|pending| is_current(pending.observed_generation)) {
        let is_infeasible = pending.reason.as_deref() == Some("Infeasible");
        return Some(if is_infeasible { Resize::Infeasible(words(pending)) } else { Resize::Deferred(words(pending)) });
    }
    if let Some(failed) = giving.filter(|giving| giving.reason.as_deref() == Some("Error")) {
        return Some(Resize::Failed(without_amounts(&words(failed))));
    }
    let observed = pod.status.as_ref().and_then(|status| status.observed_generation);
    let is_given = match observed {
        Some(_) => is_current(observed),
        None => resources.are_about(etcd_status(pod).and_then(|container| container.resources.as_ref())),
    };
    Some(if pending.is_none() && giving.is_none() && is_given { Resize::Done } else { Resize::InProgress })
}

fn words(condition: &PodCondition) -> String {
    condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default()
}

/// The kubelet's words without the numbers that it puts in brackets: what a container uses changes all the time.
fn without_amounts(words: &str) -> String {
    let (mut kept, mut rest) = (String::new(), words);
    while let Some((before, after)) = rest.split_once(" (") {
        kept += before;
        rest = match after.split_once(')') {
            Some((amount, after)) if amount.bytes().all(|byte| byte.is_ascii_digit()) => after,
            _ => {
                kept += " (";
                after
            }
        };
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = r#"{"pod.resources":{"limits":{"memory":"256Mi"}}}"#;

    fn limited(memory: &str) -> ResourceRequirements {
        serde_saphyr::from_str(&format!("{{ limits: {{ memory: {memory} }} }}")).unwrap()
    }

    /// A pod that was created with a limit of 256Mi and has this one in its spec. `seen` is the generation that the kubelet has seen; it has
    /// this limit in its status, and these conditions.
    fn pod(memory: &str, seen: Option<i64>, given: &str, conditions: &str) -> Pod {
        let resources = |memory: &str| format!("{{ limits: {{ memory: {memory} }}, requests: {{ memory: {memory} }} }}");
        let seen = seen.map(|seen| format!("observedGeneration: {seen}, ")).unwrap_or_default();
        let status =
            format!("{{ name: etcd, ready: true, restartCount: 0, image: i, imageID: i, resources: {} }}", resources(given));
        serde_saphyr::from_str(&format!(
            "{{ metadata: {{ generation: 2, annotations: {{ etcd-warden.dev/settings: '{SETTINGS}' }} }}, \
             spec: {{ containers: [{{ name: etcd, resources: {} }}] }}, \
             status: {{ {seen}conditions: [{conditions}], containerStatuses: [{status}] }} }}",
            resources(memory)
        ))
        .unwrap()
    }

    #[test]
    fn only_the_status_of_a_pod_shows_what_its_container_has() {
        let condition = |kind: &str, seen: i64, reason: &str, message: &str| {
            format!("{{ type: {kind}, status: 'True', observedGeneration: {seen}, reason: {reason}, message: '{message}' }}")
        };
        let pending = |seen, reason: &str| condition("PodResizePending", seen, reason, "it does not fit");
        let error = condition("PodResizeInProgress", 2, "Error", "limit (4096) below usage (8192, v2) (1)");
        let progress = |pod: &Pod| progress(pod, &limited("512Mi")).unwrap();
        for (pod, expected) in vec![
            (pod("256Mi", Some(2), "256Mi", ""), Resize::Due),
            (pod("512Mi", Some(1), "256Mi", ""), Resize::InProgress),
            (pod("512Mi", Some(2), "512Mi", ""), Resize::Done),
            // Some runtimes do not report it.
            (pod("0.5Gi", Some(2), "256Mi", ""), Resize::Done),
            (pod("512Mi", Some(2), "256Mi", &condition("PodResizeInProgress", 2, "''", "")), Resize::InProgress),
            (pod("512Mi", Some(2), "256Mi", &error), Resize::Failed("limit below usage (8192, v2)".into())),
            (pod("512Mi", Some(2), "256Mi", &pending(2, "Deferred")), Resize::Deferred("it does not fit".into())),
            (pod("512Mi", Some(2), "256Mi", &pending(2, "Infeasible")), Resize::Infeasible("it does not fit".into())),
            // It is about what was written before.
            (pod("512Mi", Some(1), "256Mi", &pending(1, "Infeasible")), Resize::InProgress),
            // Kubernetes 1.33.
            (pod("512Mi", None, "256Mi", ""), Resize::InProgress),
            (pod("512Mi", None, "536870000", ""), Resize::Done),
        ] {
            assert_eq!(progress(&pod), expected, "{pod:?}");
        }
    }

    #[test]
    fn what_a_pod_was_being_given_is_taken_back() {
        let mut pod = pod("256Mi", Some(2), "256Mi", "");
        let resizing = r#"{"limits":{"cpu":"1"}}"#.to_owned();
        pod.metadata.annotations.as_mut().unwrap().insert(key::RESIZING.into(), resizing);
        let resources = resources(&pod, &limited("256Mi")).unwrap();
        let expected =
            serde_json::json!({ "limits": { "cpu": null, "memory": "256Mi" }, "requests": { "cpu": null, "memory": "256Mi" } });
        assert_eq!(resources.patch("etcd")["spec"]["containers"][0]["resources"], expected);
        assert!(has_begun(&pod));
        pod.metadata.annotations = None;
        assert_eq!(progress(&pod, &limited("256Mi")), None, "a pod of an older operator");
    }
}
