//! Versions of etcd.

use std::fmt::{self, Debug};

/// A version of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Always 3 for now.
    pub major: u32,
    /// It determines the flags.
    pub minor: u32,
    /// The patch.
    pub patch: u32,
}

impl Version {
    /// The oldest supported version: from this patch on a member of 3.5 can be upgraded to 3.6 safely (etcd's upgrade guide to
    /// 3.6).
    pub const OLDEST: Self = Self { major: 3, minor: 5, patch: 32 };
    /// The newest minor whose flags are known.
    pub const NEWEST_MINOR: u32 = 7;

    /// Reads `3.6.16`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
