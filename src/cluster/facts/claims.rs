//! Facts about a member's claim: how large its volume is, and whether it is being expanded.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{EmptyDirVolumeSource, PersistentVolumeClaim, PersistentVolumeClaimCondition, Pod},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    api::StorageSpec,
    cluster::{
        objects::{self, ClaimSource},
        observed::{Observed, ObservedMember},
        validated::WAL,
    },
    kubernetes::quantity,
    member_pod::running_since,
    names::MemberName,
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

/// The fields of `spec.storage` for which a claim cannot be changed, and that have changed since it was made, with their old and new
/// values. A volume that has no more than the desired size does not have to shrink: its expansion was requested and not made.
pub fn changed_storage(claim: &PersistentVolumeClaim, desired: &StorageSpec) -> Vec<String> {
    let Some(made_from) = ClaimSource::recorded(claim) else { return vec![] };
    let size = capacity(claim).or_else(|| objects::requested_size(claim)).unwrap_or(&made_from.size);
    let shrinks = is_smaller(&desired.size, &made_from.size) && is_smaller(&desired.size, size);
    let class = |name: Option<&String>| name.cloned().unwrap_or_else(|| "the default".into());
    let (old, new) = (made_from.storage_class_name.as_ref(), desired.storage_class_name.as_ref());
    // The default may be the class that is desired.
    let moves = old != new && (new.is_none() || objects::class_of(claim) != new);
    let size = shrinks.then(|| format!("storage.size {} -> {}", made_from.size.0, desired.size.0));
    let class = moves.then(|| format!("storage.storageClassName {} -> {}", class(old), class(new)));
    size.into_iter().chain(class).collect()
}

/// The fields of `spec.storage` for which a member has to be replaced, with their old and new values.
pub fn other_storage(member: &ObservedMember, desired: &StorageSpec) -> Vec<String> {
    match (&member.claim, member.volume_in_pod(), objects::empty_dir(desired)) {
        (Some(_), _, Some(_)) => vec!["storage.emptyDir is set".into()],
        (Some(claim), _, None) => changed_storage(claim, desired),
        (None, Some(_), None) => vec!["storage.emptyDir is not set any more".into()],
        (None, Some(old), Some(new)) => {
            let text = |text: Option<String>| text.filter(|text| !text.is_empty()).unwrap_or_else(|| "\"\"".into());
            let limit = |volume: &EmptyDirVolumeSource| volume.size_limit.clone().unwrap_or_default().0;
            let (old_limit, new_limit) = (limit(old), limit(&new));
            let is_same = quantity::nano(&old_limit) == quantity::nano(&new_limit);
            let medium = old.medium.as_deref().unwrap_or_default() != new.medium.as_deref().unwrap_or_default();
            let medium =
                medium.then(|| format!("storage.emptyDir.medium {} -> {}", text(old.medium.clone()), text(new.medium.clone())));
            let limit = (!is_same).then(|| format!("storage.emptyDir.sizeLimit {old_limit} -> {new_limit}"));
            medium.into_iter().chain(limit).collect()
        }
        (None, None, _) => vec![],
    }
}

/// The member with the largest database, and its size.
pub fn largest_database(observed: &Observed) -> Option<(&MemberName, i64)> {
    let sizes = observed.members.iter().filter_map(|(name, member)| Some((name, member.etcd.status()?.db_size)));
    sizes.max_by_key(|(_, size)| *size)
}

/// How many bytes the volume of a claim needs for the largest database: twice its size, because a defragmentation and a snapshot from the
/// leader write it again beside the old one, and the write-ahead log.
pub fn needed_for(observed: &Observed) -> i64 {
    largest_database(observed).map_or(0, |(_, size)| size.saturating_mul(2).saturating_add(WAL))
}

/// Whether a volume of this size is too small for the largest database.
pub fn is_too_small(size: &Quantity, observed: &Observed) -> bool {
    quantity::bytes(size).is_some_and(|bytes| bytes < needed_for(observed))
}

fn conditions(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &PersistentVolumeClaimCondition> {
    let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.status == "True")
}

/// What Kubernetes says about an expansion in progress. That a file system has yet to be expanded is said in other words: Kubernetes asks
/// for a restart of the pod then, which few drivers need.
pub fn describe_expansion(claim: &PersistentVolumeClaim) -> Option<String> {
    let words = |condition: &'_ PersistentVolumeClaimCondition| match condition.type_.as_str() {
        FILE_SYSTEM => "its file system has yet to be expanded".to_owned(),
        other => condition.message.clone().filter(|message| !message.is_empty()).unwrap_or_else(|| other.to_owned()),
    };
    let messages: Vec<_> = conditions(claim).map(words).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Whether the driver has failed to expand a volume.
pub fn has_expansion_failed(claim: &PersistentVolumeClaim) -> bool {
    conditions(claim).any(|condition| ERRORS.contains(&condition.type_.as_str()))
}

/// Since when the file system of a volume has yet to be expanded by the kubelet.
pub fn file_system_pending(claim: &PersistentVolumeClaim) -> Option<Timestamp> {
    let pending = conditions(claim).find(|condition| condition.type_ == FILE_SYSTEM)?;
    Some(pending.last_transition_time.as_ref()?.0)
}

/// Since when the file system of a volume waits for the next start of a pod. With most drivers the kubelet expands it while the pod runs;
/// with the others a pod has to be started again, says Kubernetes. One that has started since then would gain nothing.
pub fn waits_for_restart(claim: &PersistentVolumeClaim, pod: &Pod) -> Option<Timestamp> {
    let since = file_system_pending(claim)?;
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
    fn a_smaller_size_and_another_class_are_changes_that_a_claim_cannot_follow() {
        let desired = |size: &str, class: Option<&str>| StorageSpec {
            size: Quantity(size.into()),
            storage_class_name: class.map(Into::into),
            ..StorageSpec::default()
        };
        let made = |source: &str, class: &str, capacity: &str| -> PersistentVolumeClaim {
            let metadata = format!("{{ annotations: {{ etcd-warden.dev/storage: '{source}' }} }}");
            let status = format!("{{ capacity: {{ storage: {capacity} }} }}");
            serde_saphyr::from_str(&format!(
                "{{ metadata: {metadata}, spec: {{ storageClassName: {class} }}, status: {status} }}"
            ))
            .unwrap()
        };
        let (plain, fast) = (r#"{"size":"16Gi"}"#, r#"{"size":"16Gi","storageClassName":"fast"}"#);
        for (claim, desired, expected) in [
            (made(plain, "fast", "16Gi"), desired("16Gi", None), ""),
            (made(plain, "fast", "16Gi"), desired("20Gi", None), ""),
            (made(plain, "fast", "16Gi"), desired("8Gi", None), "storage.size 16Gi -> 8Gi"),
            (made(plain, "fast", "8Gi"), desired("8Gi", None), ""),
            (made(plain, "fast", "16Gi"), desired("16Gi", Some("fast")), ""),
            (made(plain, "fast", "16Gi"), desired("16Gi", Some("slow")), "storage.storageClassName the default -> slow"),
            (made(fast, "fast", "16Gi"), desired("16Gi", None), "storage.storageClassName fast -> the default"),
            (
                made(fast, "fast", "16Gi"),
                desired("1Gi", Some("slow")),
                "storage.size 16Gi -> 1Gi, storage.storageClassName fast -> slow",
            ),
        ] {
            assert_eq!(changed_storage(&claim, &desired).join(", "), expected);
        }
        assert!(changed_storage(&claim("16Gi", "{ storage: 16Gi }", ""), &desired("1Gi", Some("slow"))).is_empty());
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
        assert_eq!(describe_expansion(&pending("True")).as_deref(), Some("its file system has yet to be expanded"));
        assert_eq!(describe_expansion(&pending("False")), None);
    }
}
