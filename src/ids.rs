//! The IDs that distinguish objects and members with the same name.

use std::{fmt, num::ParseIntError, str::FromStr, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The uid of a Kubernetes object. Another object of the same name has a different one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uid(Arc<str>);

impl Uid {
    /// The uid of an object that was read. Every object that the API server returns has one.
    pub fn of(meta: &ObjectMeta) -> Option<Self> {
        meta.uid.as_deref().map(Self::from)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An ID that etcd assigns. It is written in hexadecimal digits without leading zeros, as by etcdctl; upper and lower case are
/// accepted.
macro_rules! etcd_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;
            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                u64::from_str_radix(text, 16).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIntError;
            fn try_from(text: String) -> Result<Self, ParseIntError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string" })
            }
        }
    };
}

etcd_id! {
    /// etcd's ID of a cluster.
    ClusterId
}
etcd_id! {
    /// etcd's ID of a member. It is not used again after the member was removed.
    MemberId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_written_as_by_etcdctl_and_read_in_upper_and_lower_case() {
        assert_eq!(MemberId(0xa0).to_string(), "a0");
        for text in ["a0", "A0", "00a0"] {
            assert_eq!(text.parse(), Ok(MemberId(0xa0)), "{text}");
        }
        for text in ["", "0xa0", "g", "10000000000000000"] {
            assert!(text.parse::<ClusterId>().is_err(), "{text}");
        }
        assert_eq!(serde_json::to_string(&ClusterId(0xc1)).unwrap(), "\"c1\"");
        assert_eq!(serde_json::from_str::<ClusterId>("\"c1\"").unwrap(), ClusterId(0xc1));
    }
}
