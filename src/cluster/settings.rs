//! The fields of a spec for which members are restarted or resized, as they are recorded on the pods that were created from them. Pure.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::api::core::v1::ResourceRequirements;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::{Duration, Effect, EtcdClusterSpec, FIELDS, Field, Form},
    digest,
    kubernetes::quantity,
};

/// The values of all fields for which members are restarted or resized, by the paths of the fields. A pod carries those that it was created
/// from, so whether it has to be restarted depends on the spec alone: neither on what a newer operator writes into templates, nor
/// on what admission webhooks change in pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Settings(BTreeMap<String, Value>);

/// The field with the resources of etcd's container.
const RESOURCES: &str = "pod.resources";

/// A longer value is recorded as its digest.
const LONGEST: usize = 256;

/// A field in which two settings differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Its path below `spec`.
    pub path: &'static str,
    /// The texts of the old and the new value, if both are short.
    pub values: Option<(String, String)>,
}

impl Settings {
    /// The settings of a spec.
    pub fn of(spec: &EtcdClusterSpec) -> Self {
        let spec = serde_json::to_value(spec).unwrap_or_default();
        let value = |field: &Field| {
            let pointer = format!("/{}", field.path.replace('.', "/"));
            let value = spec.pointer(&pointer).filter(|value| !is_empty(value))?;
            Some((field.path.to_owned(), recorded(value)))
        };
        Self(recorded_fields().filter_map(value).collect())
    }

    /// Those that say which etcd runs.
    #[must_use]
    pub fn release(&self) -> Self {
        Self(self.0.iter().filter(|(path, _)| is_release(path)).map(|(path, value)| (path.clone(), value.clone())).collect())
    }

    /// The same settings with another release.
    #[must_use]
    pub fn with_release(&self, release: &Self) -> Self {
        let others = self.0.iter().filter(|(path, _)| !is_release(path));
        Self(others.chain(&release.0).map(|(path, value)| (path.clone(), value.clone())).collect())
    }

    /// The same settings with another value of a field.
    #[must_use]
    pub fn with(&self, path: &str, value: &str) -> Self {
        let mut settings = self.0.clone();
        settings.insert(path.to_owned(), value.into());
        Self(settings)
    }

    /// The same settings with the resources of others.
    #[must_use]
    pub fn with_resources_of(&self, other: &Self) -> Self {
        let mut settings = self.0.clone();
        match other.0.get(RESOURCES) {
            Some(resources) => drop(settings.insert(RESOURCES.to_owned(), resources.clone())),
            None => drop(settings.remove(RESOURCES)),
        }
        Self(settings)
    }

    /// Reads what is recorded on a pod.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// What is recorded on a pod.
    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The value of a field, if it is a text.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path)?.as_str()
    }

    /// The resources of etcd's container, unless they are so long that only their digest is recorded.
    pub fn resources(&self) -> Option<ResourceRequirements> {
        let recorded = self.0.get(RESOURCES);
        recorded.map_or_else(|| Some(ResourceRequirements::default()), |value| ResourceRequirements::deserialize(value).ok())
    }

    /// The fields in which `new` differs. A field that is not recorded has its default, because an older operator did not know it.
    pub fn changes_to(&self, new: &Self) -> Vec<Change> {
        // A pod that an older operator created is compared in every pass.
        static DEFAULT: LazyLock<Settings> = LazyLock::new(|| Settings::of(&EtcdClusterSpec::default()));
        let value = |settings: &Self, path: &str| settings.0.get(path).or_else(|| DEFAULT.0.get(path)).cloned();
        let change = |field: &'static Field| {
            let (old, new) = (value(self, field.path), value(new, field.path));
            let form = field.effect.recorded()?;
            let is_same = old.as_ref().map(|old| canonical(old, form)) == new.as_ref().map(|new| canonical(new, form));
            let text = |value: Option<Value>| match value {
                Some(Value::String(text)) if text.len() <= 64 => Some(text),
                _ => None,
            };
            (!is_same).then(|| Change { path: field.path, values: text(old).zip(text(new)) })
        };
        recorded_fields().filter_map(change).collect()
    }
}

impl Change {
    /// Whether Kubernetes may do it while the pod runs.
    pub fn is_in_place(&self) -> bool {
        FIELDS.iter().any(|field| field.path == self.path && matches!(field.effect, Effect::InPlace(_)))
    }
}

/// Whether a field says which etcd runs.
fn is_release(path: &str) -> bool {
    matches!(path, "version" | "image.repository" | "image.tag" | "image.digest")
}

fn recorded_fields() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| field.effect.recorded().is_some())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(object) => object.is_empty(),
        Value::Array(array) => array.is_empty(),
        _ => false,
    }
}

fn recorded(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= LONGEST { value.clone() } else { digest::fingerprint([("", text.as_bytes())].into_iter()).into() }
}

/// The value in a form in which equal values have the same text.
fn canonical(value: &Value, form: Form) -> Value {
    match (value, form) {
        (Value::String(text), Form::Quantity) => {
            quantity::nano(text).map_or_else(|| value.clone(), |nano| nano.to_string().into())
        }
        (Value::String(text), Form::Duration) => {
            Duration(text.clone()).length().map_or_else(|_| value.clone(), |length| length.as_nanos().to_string().into())
        }
        (Value::Object(object), _) => {
            object.iter().map(|(key, value)| (key.clone(), canonical(value, form))).collect::<serde_json::Map<_, _>>().into()
        }
        _ => value.clone(),
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.values {
            Some((old, new)) => write!(f, "{} {old} -> {new}", self.path),
            None => f.write_str(self.path),
        }
    }
}
