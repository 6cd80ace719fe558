//! The host that the operator runs on.

use std::fs;

/// The host name, which is the name of the operator's pod.
pub fn name() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
