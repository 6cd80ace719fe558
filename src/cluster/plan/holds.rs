//! Whether what there is has all that is wanted, told while it is serialized: most of it is wanted as it is, and JSON of it would be
//! thrown away.

use std::fmt;

use serde::{
    Serialize, Serializer,
    ser::{Impossible, SerializeMap, SerializeSeq, SerializeStruct, SerializeTuple, SerializeTupleStruct},
};
use serde_json::{Map, Value};

use crate::quantity;

/// Whether `there` has every field of `wanted`. It may have more: what the API server fills in and what others own. But a
/// selector is a whole, and with one more label it selects nothing.
pub fn holds(there: &impl Serialize, wanted: &Value) -> bool {
    there.serialize(Against { wanted, whole: false }).is_ok()
}

/// That something is as wanted. What differs ends the comparison, as an error would.
type Told = Result<(), fmt::Error>;

fn told(holds: bool) -> Told {
    holds.then_some(()).ok_or(fmt::Error)
}

/// The API server leaves out what is empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// What a thing is held against, and whether it must be just that.
#[derive(Clone, Copy)]
struct Against<'a> {
    wanted: &'a Value,
    whole: bool,
}

impl<'a> Against<'a> {
    fn fields(self) -> Result<Fields<'a>, fmt::Error> {
        let wanted = self.wanted.as_object().ok_or(fmt::Error)?;
        let left = wanted.values().filter(|value| self.whole || !is_empty(value)).count();
        Ok(Fields { wanted, whole: self.whole, left, key: None })
    }

    fn list(self) -> Result<List<'a>, fmt::Error> {
        let wanted = self.wanted.as_array().ok_or(fmt::Error)?;
        // Lists of objects are merged by their keys when they are applied, so what others add to them stays.
        Ok(if !self.whole && wanted.iter().all(Value::is_object) {
            List::Merged(wanted.iter().map(|wanted| (wanted, false)).collect())
        } else {
            List::Replaced { left: wanted, whole: self.whole }
        })
    }
}

macro_rules! numbers {
    ($($name:ident $type:ty),*) => {
        $(fn $name(self, there: $type) -> Told {
            told(*self.wanted == there)
        })*
    };
}

impl<'a> Serializer for Against<'a> {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = Impossible<(), fmt::Error>;
    type SerializeMap = Fields<'a>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Impossible<(), fmt::Error>;

    numbers! {
        serialize_bool bool, serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_u8 u8,
        serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_f32 f32, serialize_f64 f64
    }

    fn serialize_str(self, there: &str) -> Told {
        let Value::String(wanted) = self.wanted else { return told(false) };
        let same_quantity = || quantity::milli(there).is_some_and(|value| Some(value) == quantity::milli(wanted));
        told(there == wanted || !self.whole && same_quantity())
    }
    fn serialize_char(self, there: char) -> Told {
        self.serialize_str(there.encode_utf8(&mut [0; 4]))
    }
    fn serialize_bytes(self, there: &[u8]) -> Told {
        there.serialize(self)
    }
    fn serialize_none(self) -> Told {
        told(self.wanted.is_null())
    }
    fn serialize_some<T: Serialize + ?Sized>(self, there: &T) -> Told {
        there.serialize(self)
    }
    fn serialize_unit(self) -> Told {
        told(self.wanted.is_null())
    }
    fn serialize_unit_struct(self, _: &'static str) -> Told {
        told(self.wanted.is_null())
    }
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Told {
        self.serialize_str(variant)
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, there: &T) -> Told {
        there.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(self, _: &'static str, _: u32, variant: &'static str, there: &T) -> Told {
        let mut fields = self.fields()?;
        fields.field(variant, there)?;
        fields.told()
    }
    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a>, fmt::Error> {
        self.list()
    }
    fn serialize_tuple(self, _: usize) -> Result<List<'a>, fmt::Error> {
        self.list()
    }
    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'a>, fmt::Error> {
        self.list()
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Fields<'a>, fmt::Error> {
        self.fields()
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a>, fmt::Error> {
        self.fields()
    }
    // Nothing in Kubernetes' objects is of these kinds.
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), fmt::Error>, fmt::Error> {
        Err(fmt::Error)
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Impossible<(), fmt::Error>, fmt::Error> {
        Err(fmt::Error)
    }
}

/// The fields of an object, as they come.
struct Fields<'a> {
    wanted: &'a Map<String, Value>,
    whole: bool,
    /// How many that must be there have yet to come.
    left: usize,
    key: Option<Value>,
}

impl Fields<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, key: &str, there: &T) -> Told {
        let Some(wanted) = self.wanted.get(key) else { return told(!self.whole) };
        self.left -= usize::from(self.whole || !is_empty(wanted));
        // The API server takes selectors as a whole, so what others add to one is drift.
        there.serialize(Against { wanted, whole: self.whole || key == "selector" })
    }

    fn told(&self) -> Told {
        told(self.left == 0)
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, there: &T) -> Told {
        self.field(key, there)
    }
    fn end(self) -> Told {
        self.told()
    }
}

impl SerializeMap for Fields<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Told {
        self.key = serde_json::to_value(key).ok();
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, there: &T) -> Told {
        let key = self.key.take();
        self.field(key.as_ref().and_then(Value::as_str).ok_or(fmt::Error)?, there)
    }
    fn end(self) -> Told {
        self.told()
    }
}

/// The elements of a list, as they come.
enum List<'a> {
    /// Each that is wanted, and whether it has come.
    Merged(Vec<(&'a Value, bool)>),
    /// Those that have yet to come, in their order.
    Replaced { left: &'a [Value], whole: bool },
}

impl List<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, there: &T) -> Told {
        match self {
            Self::Merged(all) => {
                for (wanted, has_come) in all.iter_mut().filter(|(_, has_come)| !has_come) {
                    *has_come = there.serialize(Against { wanted, whole: false }).is_ok();
                }
                Ok(())
            }
            Self::Replaced { left, whole } => {
                let (wanted, rest) = left.split_first().ok_or(fmt::Error)?;
                *left = rest;
                there.serialize(Against { wanted, whole: *whole })
            }
        }
    }

    fn told(&self) -> Told {
        told(match self {
            Self::Merged(all) => all.iter().all(|(_, has_come)| *has_come),
            Self::Replaced { left, .. } => left.is_empty(),
        })
    }
}

macro_rules! lists {
    ($($trait:ident $element:ident),*) => {
        $(impl $trait for List<'_> {
            type Ok = ();
            type Error = fmt::Error;

            fn $element<T: Serialize + ?Sized>(&mut self, there: &T) -> Told {
                self.element(there)
            }
            fn end(self) -> Told {
                self.told()
            }
        })*
    };
}

lists! { SerializeSeq serialize_element, SerializeTuple serialize_element, SerializeTupleStruct serialize_field }

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
        fn whatever_is_there_as_wanted_is_held(value in values()) {
            prop_assert!(holds(&value, &value));
        }

        #[test]
        fn what_is_added_to_an_object_is_no_drift(value in values(), more in values()) {
            let mut there = json!({ "wanted": value });
            let wanted = there.clone();
            there["more"] = more;
            prop_assert!(holds(&there, &wanted));
        }
    }

    #[test]
    fn what_the_server_drops_or_writes_otherwise_is_no_drift() {
        assert!(holds(&json!({}), &json!({"key": "", "list": [], "map": {"a": null}})));
        assert!(!holds(&json!({"key": "x"}), &json!({"key": ""})), "empty is wanted and something is there");
        assert!(holds(&json!({"memory": "1536Mi"}), &json!({"memory": "1.5Gi"})));
    }

    #[test]
    fn what_others_add_is_no_drift() {
        let wanted = json!({"spec": {"replicas": 1, "template": {
            "containers": [{"name": "a", "cpu": "0.5", "env": ""}], "tolerations": []}}});
        let there = json!({"spec": {"replicas": 1, "extra": 1, "template": {
            "containers": [{"name": "injected"}, {"name": "a", "cpu": "500m", "image": "x"}]}}});
        assert!(holds(&there, &wanted));
    }

    #[test]
    fn what_differs_is() {
        let wanted = json!({"a": [1, 2], "b": "x"});
        for there in [
            json!({"a": [1, 2]}),
            json!({"a": [1, 3], "b": "x"}),
            json!({"a": [1, 2, 3], "b": "x"}),
            json!({"a": [1, 2], "b": "y"}),
        ] {
            assert!(!holds(&there, &wanted), "{there}");
        }
        let port = |target: i32| json!([{"port": 2379, "target": target}]);
        assert!(!holds(&port(1), &port(2379)) && !holds(&json!([]), &port(2379)));
        let wanted = json!({"selector": {"a": "b"}});
        assert!(holds(&wanted, &wanted));
        assert!(!holds(&json!({"selector": {"a": "b", "c": "d"}}), &wanted));
    }
}
