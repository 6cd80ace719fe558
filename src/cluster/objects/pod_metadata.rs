//! The labels and annotations of pods that are changed while the pods run.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::GROUP,
    cluster::validated::ValidatedCluster,
    digest::fingerprint,
    kubernetes::{
        covers::{Difference, Segment},
        ownership::annotation,
    },
    names::{CONTAINER, MemberName, annotation as key, label},
};

/// The labels of the pod of a member, and the annotations that come from the spec.
#[derive(Clone, Debug)]
pub struct PodMetadata {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    record: Option<String>,
}

/// The keys that come from the spec, as they are recorded on a pod: one that is removed from the spec is removed from the pod, and
/// what others have added to the pod stays.
#[derive(Default, Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    labels: BTreeSet<String>,
    #[serde(default)]
    annotations: BTreeSet<String>,
    /// A digest of keys and values.
    #[serde(default)]
    digest: String,
}

/// What has to be written to a pod. A key with the value `None` is removed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MetadataChanges {
    /// The labels.
    pub labels: BTreeMap<String, Option<String>>,
    /// The annotations.
    pub annotations: BTreeMap<String, Option<String>>,
    /// What others have changed since it was written.
    pub drift: Vec<Difference>,
}

/// Labels that the controller of StatefulSets sets.
const OF_CONTROLLER: [&str; 3] =
    ["controller-revision-hash", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"];

/// Whether the operator sets an annotation. The spec does not set it.
pub(super) fn is_own_annotation(key: &str) -> bool {
    key.split_once('/').is_some_and(|(group, _)| group == GROUP)
}

/// Whether the operator or the controller of StatefulSets sets a label. The spec does not set it.
pub(super) fn is_own_label(key: &str) -> bool {
    is_own_annotation(key) || OF_CONTROLLER.contains(&key) || label::of_cluster("").contains_key(key)
}

fn without(map: &BTreeMap<String, String>, is_own: fn(&str) -> bool) -> BTreeMap<String, String> {
    map.iter().filter(|(key, _)| !is_own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Record {
    /// The text of a record; `None` if there is nothing to record.
    fn text(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Option<String> {
        if labels.is_empty() && annotations.is_empty() {
            return None;
        }
        let both = serde_json::to_string(&(labels, annotations)).unwrap_or_default();
        let record = Self {
            labels: labels.keys().cloned().collect(),
            annotations: annotations.keys().cloned().collect(),
            digest: fingerprint([("metadata", both.as_bytes())].into_iter()),
        };
        serde_json::to_string(&record).ok()
    }
}

impl PodMetadata {
    /// Those of the pod of a member.
    pub fn of(cluster: &ValidatedCluster, member: &MemberName) -> Self {
        let mut labels = without(&cluster.pod.labels, is_own_label);
        let annotations = without(&cluster.pod.annotations, is_own_annotation);
        let record = Record::text(&labels, &annotations);
        labels.extend(label::of_member(cluster.names.cluster(), member));
        Self { labels, annotations, record }
    }

    /// The labels and annotations of a new pod.
    pub(super) fn of_template(self) -> [BTreeMap<String, String>; 2] {
        // The container that `kubectl logs` and `exec` mean if others are injected.
        let mut annotations: BTreeMap<_, _> = [(key::DEFAULT_CONTAINER.into(), CONTAINER.into())].into();
        annotations.extend(self.annotations);
        annotations.extend(self.record.map(|record| (key::FROM_SPEC.into(), record)));
        [self.labels, annotations]
    }

    /// What has to be written to a running pod.
    pub fn changes_of(&self, pod: &ObjectMeta) -> MetadataChanges {
        let text = annotation(pod, key::FROM_SPEC);
        let is_written = text == self.record.as_deref();
        // A record that cannot be read names no keys.
        let record: Record = text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let empty = BTreeMap::new();
        let (labels, annotations) = (pod.labels.as_ref().unwrap_or(&empty), pod.annotations.as_ref().unwrap_or(&empty));
        let mut found = MetadataChanges {
            labels: changes(labels, &self.labels, record.labels, is_own_label),
            annotations: changes(annotations, &self.annotations, record.annotations, is_own_annotation),
            drift: vec![],
        };
        if let Some(default) = found.annotations.get_mut(key::DEFAULT_CONTAINER).filter(|value| value.is_none()) {
            *default = Some(CONTAINER.into());
        }
        if is_written {
            found.drift = found.left_in(pod);
        } else {
            found.annotations.insert(key::FROM_SPEC.into(), self.record.clone());
        }
        found
    }
}

fn changes(
    existing: &BTreeMap<String, String>,
    desired: &BTreeMap<String, String>,
    recorded: BTreeSet<String>,
    is_own: fn(&str) -> bool,
) -> BTreeMap<String, Option<String>> {
    let set = desired.iter().filter(|(key, value)| existing.get(*key) != Some(value));
    let set = set.map(|(key, value)| (key.clone(), Some(value.clone())));
    let obsolete = recorded.into_iter().filter(|key| !desired.contains_key(key) && existing.contains_key(key) && !is_own(key));
    set.chain(obsolete.map(|key| (key, None))).collect()
}

impl MetadataChanges {
    /// Whether nothing has to be written.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.annotations.is_empty()
    }

    /// Changes the metadata of a pod as the API server does.
    pub fn apply_to(&self, pod: &mut ObjectMeta) {
        let apply = |existing: &mut Option<BTreeMap<String, String>>, changes: &BTreeMap<String, Option<String>>| {
            let existing = existing.get_or_insert_default();
            for (key, value) in changes {
                match value {
                    Some(value) => drop(existing.insert(key.clone(), value.clone())),
                    None => drop(existing.remove(key)),
                }
            }
        };
        apply(&mut pod.labels, &self.labels);
        apply(&mut pod.annotations, &self.annotations);
    }

    /// What a pod does not have of them.
    pub fn left_in(&self, pod: &ObjectMeta) -> Vec<Difference> {
        let part = |part: &str, changes: &BTreeMap<String, Option<String>>, existing: Option<&BTreeMap<String, String>>| {
            let text = |value: Option<&String>| value.map_or(Value::Null, |value| value.as_str().into());
            let found = |key: &String| existing.and_then(|existing| existing.get(key));
            let left = changes.iter().filter(|(key, value)| found(key) != value.as_ref());
            let difference = |(key, value): (&String, &Option<String>)| Difference {
                path: ["metadata", part, key].map(|segment| Segment::Field(segment.to_owned())).into(),
                desired: text(value.as_ref()),
                found: text(found(key)),
            };
            left.map(difference).collect::<Vec<_>>()
        };
        let labels = part("labels", &self.labels, pod.labels.as_ref());
        [labels, part("annotations", &self.annotations, pod.annotations.as_ref())].concat()
    }
}
