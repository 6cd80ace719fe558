//! Versions of etcd, and what the operator knows about each minor release.

use std::fmt::{self, Debug};

/// A version of etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Always 3 for now.
    pub major: u32,
    /// It determines the flags.
    pub minor: u32,
    /// The patch.
    pub patch: u32,
}

/// A minor release that members may run. To support another one, add its row to [`RELEASES`].
#[derive(Clone, Copy, Debug)]
pub struct Release {
    /// Its number.
    pub minor: u32,
    /// The oldest patch that members may run.
    pub oldest: u32,
    /// Why older ones are refused.
    pub why: &'static str,
    /// The oldest patch from which an upgrade to the next minor may start.
    pub upgradable: u32,
    /// Whether a member of the minor before must have written a snapshot of raft's log before it is upgraded.
    pub needs_snapshot: bool,
    /// Whether etcd has the downgrade API (`Maintenance/Downgrade`) and reports the version of its storage.
    pub has_downgrade: bool,
    /// The flag that turns off the check of peers' addresses.
    pub skip_address_check: &'static str,
}

/// The minor releases, the oldest first. Downgrades are possible to the row before, upgrades to the row after.
///
/// Sources: etcd's upgrade guides to 3.6 (all members run 3.5.32 or newer) and 3.7 (3.6.11 or newer); etcd-io/etcd#20340 (3.6.0 to
/// 3.6.3 end with "too many learners" after a member was replaced). Observed with 3.7.3: it panics at its
/// start if raft's log has an entry of a member of 3.5 after the last snapshot on disk (`etcdserver/apply/apply.go`, `Apply`).
pub const RELEASES: [Release; 3] = [
    Release {
        minor: 5,
        oldest: 32,
        why: "members of older patches cannot be upgraded safely",
        upgradable: 32,
        needs_snapshot: false,
        has_downgrade: false,
        skip_address_check: "experimental-peer-skip-client-san-verification",
    },
    Release {
        minor: 6,
        oldest: 4,
        why: "older patches may not start again after a member was replaced (etcd-io/etcd#20340)",
        upgradable: 11,
        needs_snapshot: false,
        has_downgrade: true,
        skip_address_check: "peer-skip-client-san-verification",
    },
    Release {
        minor: 7,
        oldest: 0,
        why: "",
        upgradable: 0,
        needs_snapshot: true,
        has_downgrade: true,
        skip_address_check: "peer-skip-client-san-verification",
    },
];

impl Version {
    /// Reads `3.6.16`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.').map(|part| {
            let digits = !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse().ok()).flatten()
        });
        let version = Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? };
        parts.next().is_none().then_some(version)
    }

    /// What is known about its minor release.
    pub fn release(self) -> Option<&'static Release> {
        RELEASES.iter().find(|release| self.major == 3 && release.minor == self.minor)
    }

    /// Whether members may run it.
    pub fn is_supported(self) -> bool {
        self.release().is_some_and(|release| self.patch >= release.oldest)
    }
}

/// The supported versions, in words.
pub fn supported() -> String {
    let from = |release: &Release| format!("3.{0} from 3.{0}.{1}", release.minor, release.oldest);
    RELEASES.iter().map(from).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_releases_is_in_order_and_without_gaps() {
        for pair in RELEASES.windows(2) {
            assert_eq!(pair[0].minor + 1, pair[1].minor);
        }
        for release in RELEASES {
            assert!(release.upgradable >= release.oldest || release.minor == RELEASES[2].minor, "{release:?}");
        }
    }
}
