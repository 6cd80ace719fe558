//! The alarm NOSPACE: it stays when space has become free or the quota has been raised, and etcd refuses every write as long as it does.

use std::collections::BTreeSet;

use super::{changes::Changes, input::Input, rollout::Rollout};
use crate::{
    cluster::{
        facts::{roster::Roster, space::has_room},
        observed::ObservedMember,
        steps::DisarmAlarm,
    },
    etcd::MemberStatus,
    ids::MemberId,
};

/// Disarms the alarm once every member runs with its quota and has room. The operator cannot ask a member that it did not add.
pub fn disarm(input: &Input, roster: &Roster, rollout: &Rollout) -> Changes {
    let statuses = || input.observed.members.values().filter_map(|member| member.etcd.status());
    let raised_by: BTreeSet<_> = statuses().flat_map(MemberStatus::out_of_space).collect();
    let quota = input.cluster.etcd.quota;
    let has_space = |member: &ObservedMember| member.etcd.status().is_some_and(|status| has_room(status.db_size, quota));
    let mut members = roster.voters.iter().chain(&roster.learners);
    let all = members.all(|(name, entry)| has_space(entry.member) && !rollout.is_outdated(name, entry.member));
    let is_known = |id: &MemberId| roster.voters.values().chain(roster.learners.values()).any(|entry| entry.listed.id == *id);
    if raised_by.is_empty() || !all || !raised_by.iter().all(is_known) {
        return Changes::default();
    }
    Changes::step(DisarmAlarm { raised_by, quota })
}

#[cfg(test)]
#[path = "space_tests.rs"]
mod tests;
