//! Whether an object has all fields that are desired, so that nothing needs to be applied.

use serde::Serialize;
use serde_json::Value;

use super::quantity;

/// Whether `existing` has every field of `desired`. It may have more fields, which the API server or others have set. But a
/// selector is compared as a whole, because an additional label changes which objects it selects.
pub fn covers(existing: &impl Serialize, desired: &Value) -> bool {
    serde_json::to_value(existing).is_ok_and(|existing| value_covers(&existing, desired, false))
}

fn value_covers(existing: &Value, desired: &Value, exactly: bool) -> bool {
    match (existing, desired) {
        (Value::Object(existing), Value::Object(desired)) => {
            let has = |(key, desired): (&String, &Value)| match existing.get(key) {
                Some(existing) => value_covers(existing, desired, exactly || key == "selector"),
                // The API server omits empty values.
                None => !exactly && is_empty(desired),
            };
            desired.iter().all(has) && !(exactly && existing.keys().any(|key| !desired.contains_key(key)))
        }
        // Server-side apply merges lists of objects by their keys, so elements of others are kept.
        (Value::Array(existing), Value::Array(desired)) if !exactly && desired.iter().all(Value::is_object) => {
            desired.iter().all(|desired| existing.iter().any(|existing| value_covers(existing, desired, false)))
        }
        (Value::Array(existing), Value::Array(desired)) => {
            let pairs = existing.iter().zip(desired);
            existing.len() == desired.len()
                && pairs.into_iter().all(|(existing, desired)| value_covers(existing, desired, exactly))
        }
        // The API server may write a quantity in another form.
        (Value::String(existing), Value::String(desired)) => {
            existing == desired
                || !exactly && quantity::nano(existing).is_some_and(|value| Some(value) == quantity::nano(desired))
        }
        _ => existing == desired,
    }
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
