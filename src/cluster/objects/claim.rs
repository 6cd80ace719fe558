//! The PersistentVolumeClaim of a member.

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Serialize};

use super::metadata::retained;
use crate::{
    api::StorageSpec,
    cluster::validated::ValidatedCluster,
    kubernetes::ownership::annotation,
    names::{MemberName, annotation as key, label},
};

/// What a claim asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// The size of the volume.
    pub size: Quantity,
    /// The StorageClass.
    pub class: Option<String>,
    /// What the claim was made from.
    pub source: ClaimSource,
}

/// The fields of `spec.storage` that a claim was made from. They are recorded on it, so that a change of the spec can be told from a
/// claim that was expanded by hand, and from a StorageClass that Kubernetes has chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimSource {
    /// `spec.storage.size`.
    pub size: Quantity,
    /// `spec.storage.storageClassName`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

impl Claimed {
    /// What a new claim asks for.
    pub fn of(storage: &StorageSpec) -> Self {
        let source = ClaimSource::of(storage);
        Self { size: source.size.clone(), class: source.storage_class_name.clone(), source }
    }
}

impl ClaimSource {
    /// That of a claim which is made now.
    pub fn of(storage: &StorageSpec) -> Self {
        Self { size: storage.size.clone(), storage_class_name: storage.storage_class_name.clone() }
    }

    /// That of an existing claim, if it is recorded.
    pub fn recorded(claim: &PersistentVolumeClaim) -> Option<Self> {
        serde_json::from_str(annotation(&claim.metadata, key::STORAGE)?).ok()
    }

    /// What is recorded.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The claim of a member.
pub fn claim(cluster: &ValidatedCluster, member: &MemberName, claimed: &Claimed) -> PersistentVolumeClaim {
    let mut metadata = retained(cluster, cluster.names.claim(member));
    metadata.labels = Some(label::of_member(cluster.names.cluster(), member));
    metadata.annotations.get_or_insert_default().insert(key::STORAGE.into(), claimed.source.text());
    PersistentVolumeClaim {
        metadata,
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), claimed.size.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: claimed.class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

/// The size that an existing claim asks for.
pub fn requested_size(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// The StorageClass of an existing claim.
pub fn class_of(claim: &PersistentVolumeClaim) -> Option<&String> {
    claim.spec.as_ref()?.storage_class_name.as_ref()
}
