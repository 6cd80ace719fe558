//! The alarm NOSPACE: it stays when space has become free or the quota has been raised, and etcd refuses every write as long as it does.

use std::collections::BTreeSet;

use super::{changes::Changes, input::Input, rollout::Rollout};
use crate::cluster::{
    facts::{roster::Roster, space::has_room},
    observed::ObservedMember,
    steps::DisarmAlarm,
};

/// Disarms the alarm once every member runs with the quota of the spec and has room.
pub fn disarm(input: &Input, roster: &Roster, rollout: &Rollout) -> Changes {
    let statuses = || input.observed.members.values().filter_map(|member| member.etcd.status());
    let raised_by: BTreeSet<_> = statuses().flat_map(|status| status.out_of_space()).collect();
    let has_space =
        |member: &ObservedMember| member.etcd.status().is_some_and(|status| has_room(status, input.cluster.etcd.quota));
    let mut members = roster.voters.iter().chain(&roster.learners);
    let all = members.all(|(name, entry)| has_space(entry.member) && !rollout.is_outdated(name, entry.member));
    if raised_by.is_empty() || !all { Changes::default() } else { Changes::step(DisarmAlarm { raised_by }) }
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
