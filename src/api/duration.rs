//! Durations in Go's notation, which etcd's flags and Kubernetes' fields use.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A length of time in Go's notation: `2160h`, `90m`, `100ms`, `1h30m`.
///
/// The text is kept as the user wrote it and checked only by [`Duration::length`]. So an invalid value in a stored object leads
/// to a message in its status, and the object can still be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Duration(pub String);

/// A text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write it like 2160h, 90m or 1h30m")]
pub struct InvalidDuration(String);

impl Duration {
    /// A whole number of hours.
    pub fn hours(hours: u32) -> Self {
        Self(format!("{hours}h"))
    }

    /// The length that the text stands for; never negative.
    ///
    /// # Errors
    /// When it is not a sequence of numbers with the units `h`, `m`, `s` or `ms`, as Go's `time.ParseDuration` accepts it.
    pub fn length(&self) -> Result<SignedDuration, InvalidDuration> {
        parse(&self.0).ok_or_else(|| InvalidDuration(self.0.clone()))
    }
}

/// The CEL expression for whether the text at `path` is a duration. CEL's own `duration()` fails with a message of its own above
/// 292 years, so the number of digits is bounded.
fn is_duration(path: &str) -> String {
    format!("{path} != '' && {path}.matches('^([0-9]{{1,6}}h)?([0-9]{{1,6}}m)?([0-9]{{1,6}}s)?([0-9]{{1,6}}ms)?$')")
}

/// A CEL rule about durations that is evaluated only if each of `paths` is a duration. If one is not, another rule reports it.
pub(super) fn duration_rule(paths: &[&str], rule: &str) -> Rule {
    let are: Vec<_> = paths.iter().map(|path| is_duration(path)).collect();
    Rule::new(format!("!({}) || {rule}", are.join(" && ")))
}

fn parse(text: &str) -> Option<SignedDuration> {
    // jiff also reads signs, fractions, days and words, which Go or the CRD's rule refuse.
    let is_plain = text.bytes().all(|octet| octet.is_ascii_digit() || b"hms".contains(&octet));
    text.parse().ok().filter(|_| is_plain)
}

impl FromStr for Duration {
    type Err = InvalidDuration;
    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        let duration = Self(text.to_owned());
        duration.length().map(|_| duration)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // With this limit the API server can bound the cost of the rules that read the field.
        json_schema!({ "type": "string", "maxLength": 32, "x-kubernetes-validations": [{
            "rule": is_duration("self"),
            "message": "must be a duration such as 2160h, 90m or 1h30m, of less than 1000000h"
        }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read() {
        for (text, seconds) in [("2160h", 7_776_000), ("90m", 5400), ("1h30m", 5400), ("1s", 1), ("0s", 0)] {
            assert_eq!(Duration(text.into()).length().map(|d| d.as_secs()), Ok(seconds), "{text}");
        }
        assert_eq!(Duration("100ms".into()).length().map(|d| d.as_millis()), Ok(100));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "h", "90", "1d", "-1h", "1.5h", "1 h", "9999999999999999999h", "9223372036854775807h", "é"] {
            assert!(Duration(text.into()).length().is_err(), "{text:?}");
        }
    }
}
