//! What the kubelet reports about the containers of a pod.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::last_words::last_words;
use crate::{
    kubernetes::pod::{is_terminating, waiting_reason},
    member_pod::{added_statuses, etcd_status, running_since},
};

/// The kubelet's reason for a container that exceeded its memory limit, or that was killed because its node had no memory left.
const OOM_KILLED: &str = "OOMKilled";

/// The kubelet's reasons for a container whose process ended. The exit code says as much.
const ENDED: [&str; 2] = ["Error", "Completed"];

/// How long after its start a container is taken for one that may end again.
pub const STARTED: SignedDuration = SignedDuration::from_mins(1);

/// How many restarts of a container are not taken for a sign that it keeps exiting: a new member may have to wait for others.
const USUAL_RESTARTS: i32 = 1;

/// Why etcd does not run in a pod: because of its container, or because of one that others added.
pub fn problem(pod: &Pod) -> Option<String> {
    let own = etcd_status(pod).and_then(|container| Some(format!("its container {}", state(pod, container)?)));
    own.or_else(|| {
        added_statuses(pod).find_map(|container| Some(format!("its container {} {}", container.name, added(pod, container)?)))
    })
}

/// The problem of a container that others added. One that ended without an error has done its work.
fn added(pod: &Pod, container: &ContainerStatus) -> Option<String> {
    let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    state(pod, container).filter(|_| ended.is_none_or(|ended| ended.exit_code != 0))
}

fn state(pod: &Pod, container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let Some(waiting) = &state.waiting else {
        return Some(format!("ended with {}", end(pod, container, state.terminated.as_ref()?)));
    };
    let reason = match waiting.reason.as_deref() {
        None => "no reason given",
        Some(_) => waiting_reason(container)?,
    };
    // The kubelet's message about its back-off contains a time that changes, and hides how the container ended.
    let detail = match last_end(container) {
        Some(ended) => format!("it ended with {}", end(pod, container, ended)),
        None if reason.contains("Image") => format!("image {} cannot be pulled", container.image),
        None => waiting.message.clone().unwrap_or_default(),
    };
    let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
    Some(format!("is waiting: {reason}{detail}"))
}

fn last_end(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.last_state.as_ref()?.terminated.as_ref()
}

fn end(pod: &Pod, container: &ContainerStatus, ended: &ContainerStateTerminated) -> String {
    let reason = match ended.reason.as_deref() {
        Some(OOM_KILLED) => Some(format!("{OOM_KILLED}{}", memory(pod, &container.name))),
        reason => {
            let parts = [
                reason.filter(|reason| !ENDED.contains(reason)).map(str::to_owned),
                ended.message.as_deref().and_then(last_words),
            ];
            Some(parts.into_iter().flatten().collect::<Vec<_>>().join(": ")).filter(|reason| !reason.is_empty())
        }
    };
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    format!("exit code {}{reason}", ended.exit_code)
}

/// What limits the memory of a container, as a suffix for a message. The limits of init containers are not observed.
fn memory(pod: &Pod, name: &str) -> String {
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.iter().find(|container| container.name == name));
    let limit = container.map(|container| container.resources.as_ref()?.limits.as_ref()?.get("memory"));
    match limit {
        Some(Some(limit)) => format!(": its memory limit is {}", limit.0),
        Some(None) => ": it has no memory limit, so its node has run out of memory".into(),
        None => String::new(),
    }
}

/// How etcd's container ended the last time, if it was because of its memory and no pod has replaced it.
pub fn out_of_memory(pod: &Pod) -> Option<String> {
    let container = etcd_status(pod)?;
    let now = container.state.as_ref().and_then(|state| state.terminated.as_ref());
    let ended = now.or_else(|| last_end(container)).filter(|ended| is_out_of_memory(ended))?;
    Some(describe_last_end(pod, container, ended))
}

/// Whether etcd keeps exiting: it has been restarted more than once in its pod, and does not run for long. The pod of a member
/// that starts within the usual time never shows that.
pub fn is_crashing(pod: &Pod, now: Timestamp) -> bool {
    let is_restarted = etcd_status(pod).is_some_and(|container| container.restart_count > USUAL_RESTARTS);
    is_restarted && !is_terminating(pod) && running_since(pod).is_none_or(|since| now.duration_since(since) < STARTED)
}

/// How etcd's container ended the last time, if it runs again.
pub fn previous_end(pod: &Pod) -> Option<String> {
    let container = etcd_status(pod)?;
    Some(describe_last_end(pod, container, last_end(container)?))
}

fn describe_last_end(pod: &Pod, container: &ContainerStatus, ended: &ContainerStateTerminated) -> String {
    format!("its container last ended with {}", end(pod, container, ended))
}

/// Whether a container ended because of its memory.
pub fn is_out_of_memory(ended: &ContainerStateTerminated) -> bool {
    ended.reason.as_deref() == Some(OOM_KILLED)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with these states of its containers. That of etcd has a memory limit of 8Mi, that of `proxy` none.
    fn pod(statuses: &str, init: &str) -> Pod {
        let etcd = "{ name: etcd, resources: { limits: { memory: 8Mi } } }";
        let yaml = format!(
            "{{ spec: {{ containers: [{{ name: proxy }}, {etcd}] }}, status: {{ containerStatuses: {statuses}, initContainerStatuses: {init} }} }}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    fn status(name: &str, state: &str) -> String {
        format!("{{ name: {name}, ready: false, restartCount: 1, image: i, imageID: i, {state} }}")
    }

    fn described(etcd: &str, proxy: &str) -> Option<String> {
        problem(&pod(&format!("[{}, {}]", status("proxy", proxy), status("etcd", etcd)), "[]"))
    }

    const RUNS: &str = "state: { running: {} }";

    #[test]
    fn the_reason_for_the_end_of_a_container_is_quoted() {
        for (ended, expected) in [
            ("exitCode: 1, reason: Error", "exit code 1"),
            ("exitCode: 137, reason: Error", "exit code 137"),
            ("exitCode: 137, reason: OOMKilled", "exit code 137 (OOMKilled: its memory limit is 8Mi)"),
            ("exitCode: 128, reason: StartError, message: no such file", "exit code 128 (StartError: no such file)"),
            ("exitCode: 1, reason: Error, message: \"starting\\nno space left\\n\"", "exit code 1 (no space left)"),
            ("exitCode: 128, reason: ContainerCannotRun", "exit code 128 (ContainerCannotRun)"),
        ] {
            let loops = format!(
                "state: {{ waiting: {{ reason: CrashLoopBackOff, message: back-off 10s }} }}, lastState: {{ terminated: {{ {ended} }} }}"
            );
            let waiting = format!("its container is waiting: CrashLoopBackOff: it ended with {expected}");
            assert_eq!(described(&loops, RUNS), Some(waiting));
            let ends = format!("state: {{ terminated: {{ {ended} }} }}");
            assert_eq!(described(&ends, RUNS), Some(format!("its container ended with {expected}")));
        }
        let unlimited = described(RUNS, "state: { terminated: { exitCode: 137, reason: OOMKilled } }").unwrap();
        assert_eq!(
            unlimited,
            "its container proxy ended with exit code 137 (OOMKilled: it has no memory limit, so its node has run out of memory)"
        );
    }

    #[test]
    fn a_container_that_others_added_is_named_if_etcd_has_no_problem_of_its_own() {
        let refused = "state: { waiting: { reason: ErrImagePull } }";
        assert_eq!(described(RUNS, refused).unwrap(), "its container proxy is waiting: ErrImagePull: image i cannot be pulled");
        assert_eq!(described(refused, refused).unwrap(), "its container is waiting: ErrImagePull: image i cannot be pulled");
        assert_eq!(described(RUNS, "state: { terminated: { exitCode: 0 } }"), None, "it has done its work");
        assert_eq!(described(RUNS, RUNS), None);
        let initializing = status("etcd", "state: { waiting: { reason: PodInitializing } }");
        let init = pod(&format!("[{initializing}]"), &format!("[{}]", status("istio-init", refused)));
        assert_eq!(problem(&init).unwrap(), "its container istio-init is waiting: ErrImagePull: image i cannot be pulled");
    }

    #[test]
    fn a_container_crashes_if_it_was_restarted_more_than_once_and_does_not_run_for_long() {
        let now: Timestamp = "2026-03-01T12:00:59Z".parse().unwrap();
        let runs = "state: { running: { startedAt: 2026-03-01T12:00:00Z } }";
        let waits = "state: { waiting: { reason: CrashLoopBackOff } }";
        for (restarts, state, seconds, expected) in
            [(1, waits, 0, false), (2, waits, 0, true), (2, runs, 0, true), (2, runs, 1, false), (1, runs, 0, false)]
        {
            let status = format!("{{ name: etcd, ready: false, restartCount: {restarts}, image: i, imageID: i, {state} }}");
            let pod = pod(&format!("[{status}]"), "[]");
            let now = now + SignedDuration::from_secs(seconds);
            assert_eq!(is_crashing(&pod, now), expected, "{restarts} restarts, {state}, {now}");
        }
    }

    #[test]
    fn only_the_memory_of_etcd_counts() {
        let killed = "state: { running: {} }, lastState: { terminated: { exitCode: 137, reason: OOMKilled } }";
        let of = |etcd: &str, proxy: &str| {
            out_of_memory(&pod(&format!("[{}, {}]", status("proxy", proxy), status("etcd", etcd)), "[]"))
        };
        assert_eq!(of(killed, RUNS).unwrap(), "its container last ended with exit code 137 (OOMKilled: its memory limit is 8Mi)");
        assert_eq!(of(RUNS, killed), None);
        let since = "state: { terminated: { exitCode: 1 } }, lastState: { terminated: { exitCode: 137, reason: OOMKilled } }";
        assert_eq!(of(since, RUNS), None, "it has ended for another reason since");
    }
}
