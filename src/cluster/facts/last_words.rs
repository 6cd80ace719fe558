//! What a container said before it ended.

use serde_json::{Map, Value};

/// How much of it is quoted, in characters.
const LONGEST: usize = 300;

/// The levels with which etcd logs why it ends (`zap`).
const LAST_LEVELS: [&str; 2] = ["fatal", "panic"];

/// The fields of an entry of etcd's log that do not say what has happened.
const BESIDES: [&str; 7] = ["level", "ts", "logger", "caller", "stacktrace", "msg", "error"];

/// The reason in the message that the kubelet has of a container that ended. With an error code it is the end of its log, at most 80 lines
/// and 2 KiB (kubelet `kuberuntime_container.go`), so the lines before the reason may be about anything, and those after it a stack trace or
/// a description of all flags.
pub fn last_words(message: &str) -> Option<String> {
    let lines = || message.lines().rev().map(str::trim_end).filter(|line| !line.is_empty());
    let is_last =
        |entry: &Map<String, Value>| entry.get("level").and_then(Value::as_str).is_some_and(|it| LAST_LEVELS.contains(&it));
    let is_said = |line: &&str| !line.starts_with(char::is_whitespace) && !line.ends_with(':');
    let words = lines().filter_map(entry).find(is_last).map(|entry| describe(&entry));
    let words = words.or_else(|| lines().find(|line| line.starts_with("panic: ")).map(str::to_owned));
    let words = words.or_else(|| {
        let line = lines().find(is_said).or_else(|| lines().next())?.trim();
        Some(entry(line).map_or_else(|| line.to_owned(), |entry| describe(&entry)))
    })?;
    let short: String = words.chars().take(LONGEST).collect();
    Some(if short.len() < words.len() { short + "..." } else { short })
}

/// A line of etcd's log.
fn entry(line: &str) -> Option<Map<String, Value>> {
    serde_json::from_str::<Map<String, Value>>(line).ok().filter(|entry| entry.contains_key("msg"))
}

fn describe(entry: &Map<String, Value>) -> String {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let error = text("error").map(|error| format!(": {error}")).unwrap_or_default();
    let others = entry.iter().filter(|(key, _)| !BESIDES.contains(&key.as_str()));
    let others: Vec<_> = others.filter_map(|(key, value)| Some(format!("{key} {}", value.as_str()?))).collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("{}{error}{others}", text("msg").unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is the end of what etcd 3.6.16 wrote (3.5.35 for the second one) before it ended.
    #[test]
    fn the_reason_for_which_etcd_ends_is_found_in_its_log() {
        for (message, expected) in [
            (
                concat!(
                    r#"{"level":"info","ts":"2026-03-01T12:00:00Z","caller":"embed/etcd.go:1","msg":"closing etcd server"}"#,
                    "\n",
                    r#"{"level":"fatal","ts":"2026-03-01T12:00:00Z","caller":"etcdmain/etcd.go:183","msg":"discovery failed","error":"cannot access data directory: permission denied","stacktrace":"main.main\n\tmain.go:31"}"#,
                ),
                "discovery failed: cannot access data directory: permission denied",
            ),
            (
                r#"{"level":"fatal","ts":"2026-03-01T12:00:00Z","caller":"membership/downgrade.go:69","msg":"invalid downgrade; server version is lower than determined cluster version","current-server-version":"3.5.35","determined-cluster-version":"3.6","stacktrace":"x"}"#,
                "invalid downgrade; server version is lower than determined cluster version (current-server-version 3.5.35, \
                 determined-cluster-version 3.6)",
            ),
            (
                r#"{"level":"warn","ts":"2026-03-01T12:00:00Z","caller":"etcdmain/etcd.go:66","msg":"failed to verify flags","error":"too short"}"#,
                "failed to verify flags: too short",
            ),
            (
                "flag provided but not defined: -nope\nUsage:\n\n  etcd [flags]\n    Start an etcd server.\n",
                "flag provided but not defined: -nope",
            ),
            (
                concat!(
                    r#"{"level":"panic","ts":"2026-03-01T12:00:00Z","msg":"failed to recover v3 backend","error":"no space left on device"}"#,
                    "\npanic: failed to recover v3 backend\n\ngoroutine 1 [running]:\nmain.main()\n\tmain.go:31 +0x28\n",
                ),
                "failed to recover v3 backend: no space left on device",
            ),
            (
                "panic: unrecognized level: \"foo\"\n\ngoroutine 1 [running]:\nmain.main()\n\tmain.go:31 +0x28\n",
                "panic: unrecognized level: \"foo\"",
            ),
        ] {
            assert_eq!(last_words(message).as_deref(), Some(expected));
        }
    }

    #[test]
    fn long_words_are_cut_short() {
        assert_eq!(last_words(&"ä".repeat(300)), Some("ä".repeat(300)));
        assert_eq!(last_words(&"ä".repeat(301)), Some("ä".repeat(300) + "..."));
        assert_eq!(last_words(" \n"), None);
        assert_eq!(last_words("starting\n  no space left\n").as_deref(), Some("starting"));
        assert_eq!(last_words("  no space left\n").as_deref(), Some("no space left"));
    }
}
