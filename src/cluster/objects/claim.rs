//! The PersistentVolumeClaim of a member.

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::metadata::{member_labels, retained};
use crate::{cluster::validated::ValidatedCluster, kubernetes::quantity, names::MemberName};

/// The claim of a member. An existing claim keeps its StorageClass, and its size if that is larger: a claim cannot shrink.
pub fn claim(cluster: &ValidatedCluster, member: &MemberName, existing: Option<&PersistentVolumeClaim>) -> PersistentVolumeClaim {
    let (size, class) = existing.map(size_and_class).unwrap_or_default();
    let desired = &cluster.storage.size;
    let larger = size.filter(|size| quantity::nano(&size.0) > quantity::nano(&desired.0));
    let mut metadata = retained(cluster, cluster.names.claim(member));
    metadata.labels = Some(member_labels(cluster.names.cluster(), member));
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), larger.unwrap_or(desired).clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: class.or(cluster.storage.storage_class_name.as_ref()).cloned(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The fields of an existing claim that it may keep: its size and its StorageClass.
pub fn size_and_class(claim: &PersistentVolumeClaim) -> (Option<&Quantity>, Option<&String>) {
    let Some(spec) = &claim.spec else { return (None, None) };
    let size = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("storage"));
    (size, spec.storage_class_name.as_ref())
}
