//! Whether an object has all fields that are desired, so that nothing needs to be applied.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::quantity;

/// A desired field that an object does not have.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The path of the field.
    pub path: Vec<Segment>,
    /// The desired value.
    pub desired: Value,
    /// The value that the object has; null if it has none.
    pub found: Value,
}

/// A part of the path of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// A field of an object.
    Field(String),
    /// An element of a list, by the value of its key.
    Element(String),
}

/// The path of the field, as `spec.template.spec.containers[etcd].image`, and both values if they are short.
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, segment) in self.path.iter().enumerate() {
            match segment {
                Segment::Field(name) if name.contains(['.', '/']) => write!(f, "[{name}]")?,
                Segment::Field(name) if n == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Element(key) => write!(f, "[{key}]")?,
            }
        }
        let is_short = |value: &Value| !value.is_object() && !value.is_array();
        match (&self.found, &self.desired) {
            (found, desired) if !is_short(found) || !is_short(desired) => Ok(()),
            (Value::Null, desired) => write!(f, " (missing instead of {desired})"),
            (found, desired) => write!(f, " ({found} instead of {desired})"),
        }
    }
}

/// Whether `existing` has every field of `desired`. It may have more fields, which the API server or others have set. But a
/// selector is compared as a whole, because an additional label changes which objects it selects.
pub fn covers(existing: &impl Serialize, desired: &Value) -> bool {
    differences(existing, desired).is_empty()
}

/// The fields of `desired` that `existing` does not have.
pub fn differences(existing: &impl Serialize, desired: &Value) -> Vec<Difference> {
    differences_of(&serde_json::to_value(existing).unwrap_or_default(), desired)
}

fn differences_of(existing: &Value, desired: &Value) -> Vec<Difference> {
    let mut found = vec![];
    compare(existing, desired, false, &Path::Root, &mut found);
    found
}

/// The path to a value. It is written down only where values differ.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, String),
}

impl Path<'_> {
    fn segments(&self) -> Vec<Segment> {
        let (parent, last) = match self {
            Self::Root => return vec![],
            Self::Field(parent, name) => (parent, Segment::Field((*name).to_owned())),
            Self::Element(parent, key) => (parent, Segment::Element(key.clone())),
        };
        [parent.segments(), vec![last]].concat()
    }
}

fn compare(existing: &Value, desired: &Value, exactly: bool, path: &Path, found: &mut Vec<Difference>) {
    let difference = |path: &Path, existing: &Value, desired: &Value| Difference {
        path: path.segments(),
        desired: desired.clone(),
        found: existing.clone(),
    };
    match (existing, desired) {
        (Value::Object(fields), Value::Object(desired_fields)) => {
            for (name, desired) in desired_fields {
                let path = Path::Field(path, name);
                match fields.get(name) {
                    Some(existing) => compare(existing, desired, exactly || name == "selector", &path, found),
                    // The API server omits empty values.
                    None if !exactly && is_empty(desired) => {}
                    None => found.push(difference(&path, &Value::Null, desired)),
                }
            }
            if exactly && fields.keys().any(|name| !desired_fields.contains_key(name)) {
                found.push(difference(path, existing, desired));
            }
        }
        // Server-side apply merges lists of objects by their keys, so elements of others are kept.
        (Value::Array(list), Value::Array(desired)) if !exactly && desired.iter().all(Value::is_object) => {
            let is_missing = |desired: &&Value| !list.iter().any(|existing| differences_of(existing, desired).is_empty());
            for desired in desired.iter().filter(is_missing) {
                let key = key_of(desired);
                let path = Path::Element(path, key.clone().unwrap_or_default());
                match list.iter().find(|existing| key.is_some() && key_of(existing) == key) {
                    Some(existing) => compare(existing, desired, false, &path, found),
                    None => found.push(difference(&path, &Value::Null, desired)),
                }
            }
        }
        (Value::Array(list), Value::Array(desired_list)) if list.len() == desired_list.len() => {
            for (n, (existing, desired)) in list.iter().zip(desired_list).enumerate() {
                compare(existing, desired, exactly, &Path::Element(path, n.to_string()), found);
            }
        }
        // The API server may write a quantity in another form.
        (Value::String(text), Value::String(desired_text))
            if !exactly && quantity::nano(text).is_some_and(|value| Some(value) == quantity::nano(desired_text)) => {}
        _ if existing == desired => {}
        _ => found.push(difference(path, existing, desired)),
    }
}

/// What identifies an element of a list for server-side apply, in the lists that the operator applies.
fn key_of(element: &Value) -> Option<String> {
    let key = ["name", "uid", "port", "containerPort", "mountPath", "key"].into_iter().find_map(|key| element.get(key))?;
    Some(key.as_str().map_or_else(|| key.to_string(), str::to_owned))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[0-9a-zGi.]{0,4}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_value_covers_itself(value in values()) {
            prop_assert!(covers(&value, &value));
        }

        #[test]
        fn an_additional_field_is_no_drift(value in values(), more in values()) {
            let mut existing = json!({ "desired": value });
            let desired = existing.clone();
            existing["more"] = more;
            prop_assert!(covers(&existing, &desired));
        }
    }

    #[test]
    fn omitted_empty_values_and_rewritten_quantities_are_no_drift() {
        assert!(covers(&json!({}), &json!({"key": "", "list": [], "map": {"a": null}})));
        assert!(!covers(&json!({"key": "x"}), &json!({"key": ""})), "an empty value is desired and another one exists");
        assert!(covers(&json!({"memory": "1536Mi"}), &json!({"memory": "1.5Gi"})));
    }

    #[test]
    fn fields_and_list_elements_of_others_are_no_drift() {
        let desired = json!({"spec": {"replicas": 1, "template": {
            "containers": [{"name": "a", "cpu": "0.5", "env": ""}], "tolerations": []}}});
        let existing = json!({"spec": {"replicas": 1, "extra": 1, "template": {
            "containers": [{"name": "injected"}, {"name": "a", "cpu": "500m", "image": "x"}]}}});
        assert!(covers(&existing, &desired));
    }

    #[test]
    fn differences_have_the_path_of_the_field() {
        let container = |image: &str| json!({ "name": "etcd", "image": image, "args": ["--a", "--b"] });
        let object = |containers: Value, bundles: &str| {
            json!({ "metadata": { "annotations": { "etcd-warden.dev/bundles": bundles } },
                "spec": { "selector": { "a": "b" }, "template": { "containers": containers, "tolerations": [] } } })
        };
        let desired = object(json!([container("a")]), "x");
        let described = |existing: &Value| differences(existing, &desired).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(described(&object(json!([{ "name": "proxy" }, container("a")]), "x")), Vec::<String>::new());
        assert_eq!(
            described(&object(json!([{ "name": "proxy" }, container("mirror/a")]), "y")),
            [
                "metadata.annotations[etcd-warden.dev/bundles] (\"y\" instead of \"x\")",
                "spec.template.containers[etcd].image (\"mirror/a\" instead of \"a\")"
            ]
        );
        assert_eq!(described(&object(json!([]), "x")), ["spec.template.containers[etcd]"]);
        let mut args = desired.clone();
        args["spec"]["template"]["containers"][0]["args"] = json!(["--a"]);
        assert_eq!(described(&args), ["spec.template.containers[etcd].args"]);
        args["spec"]["template"]["containers"][0]["args"] = json!(["--a", "--c"]);
        assert_eq!(described(&args), ["spec.template.containers[etcd].args[1] (\"--c\" instead of \"--b\")"]);
        args = desired.clone();
        args["spec"]["selector"] = json!({ "a": "b", "c": "d" });
        args["metadata"] = json!({});
        assert_eq!(described(&args), ["metadata.annotations", "spec.selector"]);
    }

    #[test]
    fn other_values_are_drift() {
        let desired = json!({"a": [1, 2], "b": "x"});
        for existing in [
            json!({"a": [1, 2]}),
            json!({"a": [1, 3], "b": "x"}),
            json!({"a": [1, 2, 3], "b": "x"}),
            json!({"a": [1, 2], "b": "y"}),
        ] {
            assert!(!covers(&existing, &desired), "{existing}");
        }
        let port = |target: i32| json!([{"port": 2379, "target": target}]);
        assert!(!covers(&port(1), &port(2379)) && !covers(&json!([]), &port(2379)));
        let desired = json!({"selector": {"a": "b"}});
        assert!(covers(&desired, &desired));
        assert!(!covers(&json!({"selector": {"a": "b", "c": "d"}}), &desired));
    }
}
