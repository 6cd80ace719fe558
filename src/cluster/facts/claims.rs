//! Facts about a member's claim: how large its volume is, and whether it is being expanded.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    cluster::objects,
    kubernetes::{pod::running_since, quantity},
};

/// The file system still has to be expanded, by the kubelet or when the pod starts again (Kubernetes, `core/v1`).
const FILE_SYSTEM: &str = "FileSystemResizePending";

/// The driver reports an error. It tries again.
const ERRORS: [&str; 2] = ["ControllerResizeError", "NodeResizeError"];

/// The size of the volume, once the claim is bound.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage")
}

/// Whether one size is smaller than another.
pub fn is_smaller(one: &Quantity, other: &Quantity) -> bool {
    quantity::nano(&one.0) < quantity::nano(&other.0)
}

/// Whether the size that a claim asks for has to be changed to this one. The API server changes only that of a bound claim.
pub fn has_to_grow(claim: &PersistentVolumeClaim, desired: &Quantity) -> bool {
    let is_less = |size: Option<&Quantity>| size.is_some_and(|size| is_smaller(size, desired));
    is_less(objects::requested_size(claim)) && is_less(capacity(claim))
}

/// Whether a claim asks for this size, and its volume does not have it yet.
pub fn is_growing(claim: &PersistentVolumeClaim, desired: &Quantity) -> bool {
    let asks = objects::requested_size(claim).is_some_and(|size| !is_smaller(size, desired));
    asks && capacity(claim).is_some_and(|size| is_smaller(size, desired))
}

fn conditions(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &PersistentVolumeClaimCondition> {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.status == "True")
}

/// What Kubernetes says about an expansion in progress.
pub fn describe_expansion(claim: &PersistentVolumeClaim) -> Option<String> {
    let messages: Vec<_> = conditions(claim)
        .map(|condition| condition.message.as_deref().filter(|message| !message.is_empty()).unwrap_or(&condition.type_))
        .collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Whether the driver has failed to expand a volume.
pub fn has_expansion_failed(claim: &PersistentVolumeClaim) -> bool {
    conditions(claim).any(|condition| ERRORS.contains(&condition.type_.as_str()))
}

/// Since when the file system of a volume waits for the next start of a pod. With most drivers the kubelet expands it while the pod runs;
/// with the others a pod has to be started again, says Kubernetes. One that has started since then would gain nothing.
pub fn waits_for_restart(claim: &PersistentVolumeClaim, pod: &Pod) -> Option<Timestamp> {
    let pending = conditions(claim).find(|condition| condition.type_ == FILE_SYSTEM)?;
    let since = pending.last_transition_time.as_ref()?.0;
    running_since(pod).is_some_and(|started| started < since).then_some(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(requested: &str, capacity: &str, condition: &str) -> PersistentVolumeClaim {
        let yaml = format!(
            "{{ spec: {{ resources: {{ requests: {{ storage: {requested} }} }} }}, status: {{ capacity: {capacity}, conditions: [{condition}] }} }}"
        );
        serde_saphyr::from_str(&yaml).unwrap()
    }

    #[test]
    fn a_claim_grows_only_once_it_is_bound_and_until_its_volume_has_the_size() {
        let desired = Quantity("16Gi".into());
        for (requested, capacity, expected) in [
            ("8Gi", "{}", (false, false)),
            ("8Gi", "{ storage: 8Gi }", (true, false)),
            // A volume that was there before the claim may be larger.
            ("8Gi", "{ storage: 20Gi }", (false, false)),
            ("16384Mi", "{ storage: 8Gi }", (false, true)),
            ("16Gi", "{ storage: 16Gi }", (false, false)),
            ("32Gi", "{ storage: 16Gi }", (false, false)),
        ] {
            let claim = claim(requested, capacity, "");
            assert_eq!((has_to_grow(&claim, &desired), is_growing(&claim, &desired)), expected, "{requested} {capacity}");
        }
    }

    #[test]
    fn a_pod_that_runs_since_before_the_volume_was_expanded_has_to_start_again() {
        let pending = |status: &str| {
            let condition = format!(
                "{{ type: FileSystemResizePending, status: '{status}', message: waiting, lastTransitionTime: 2026-03-01T12:00:00Z }}"
            );
            claim("16Gi", "{ storage: 8Gi }", &condition)
        };
        let pod = |started: &str| -> Pod {
            let state = format!("{{ running: {{ startedAt: {started} }} }}");
            let status = format!("{{ name: etcd, ready: true, restartCount: 0, image: i, imageID: i, state: {state} }}");
            serde_saphyr::from_str(&format!("{{ status: {{ containerStatuses: [{status}] }} }}")).unwrap()
        };
        let waits = |claim: &PersistentVolumeClaim, started: &str| waits_for_restart(claim, &pod(started)).is_some();
        assert!(waits(&pending("True"), "2026-03-01T11:00:00Z"));
        assert!(!waits(&pending("True"), "2026-03-01T12:00:01Z"), "it has started since");
        assert!(!waits(&pending("False"), "2026-03-01T11:00:00Z"));
        assert!(!waits(&claim("16Gi", "{ storage: 16Gi }", ""), "2026-03-01T11:00:00Z"));
        assert_eq!(describe_expansion(&pending("True")).as_deref(), Some("waiting"));
        assert_eq!(describe_expansion(&pending("False")), None);
    }
}
