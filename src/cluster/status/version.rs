//! The version in the status.

use std::collections::BTreeSet;

use super::Input;
use crate::{api::UpgradeStatus, etcd::Version};

/// The version that all members run, and the change of it that is in progress.
pub fn status(input: &Input) -> (Option<String>, Option<UpgradeStatus>) {
    let Input { observed, decision, .. } = input;
    let old = &observed.status;
    let running: Vec<Version> = observed.members.values().filter_map(|member| member.version()).collect();
    let different: BTreeSet<_> = running.iter().collect();
    let is_same = different.len() == 1 && running.len() == observed.members.len();
    let before = old.version.clone().or_else(|| different.first().map(ToString::to_string));
    let version = if is_same { different.first().map(ToString::to_string) } else { before };
    let (Some(cluster), Some(from)) = (decision.cluster(), version.clone()) else { return (version, old.upgrade.clone()) };
    let to = cluster.release.version;
    let updated = running.iter().filter(|version| **version == to).count();
    let count = |number: usize| i32::try_from(number).unwrap_or_default();
    let upgrade = UpgradeStatus { from, to: to.to_string(), updated: count(updated), members: count(observed.members.len()) };
    let is_complete = upgrade.from == upgrade.to;
    (version, Some(upgrade).filter(|_| !is_complete))
}
