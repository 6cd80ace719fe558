//! An entry of raft's log that changes nothing, for members that wait for one.
//!
//! A member serves its client port once it has published itself through raft. In etcd 3.6 one that was sent the leader's snapshot
//! cannot do so before raft's log has another entry: "too many requests" (seen with 3.6.16; 3.5 and 3.7 come by themselves). On a
//! cluster without writes this would be the next periodic compaction, or never.

use super::changes::Changes;
use super::input::Input;
use crate::{
    cluster::{
        facts::roster::RosterEntry,
        observed::{ObservedMember, Probe},
    },
    kubernetes::pod::pod_ready,
    member_pod::running_since,
};

/// Asks the leader for such an entry while a listed member runs and does not answer.
pub fn plan(input: &Input) -> Changes {
    let Some(roster) = &input.facts.roster else { return Changes::default() };
    let may_wait = |entry: &RosterEntry| may_wait(entry.member);
    let is_needed = roster.voters.values().chain(roster.learners.values()).any(may_wait);
    let leader = roster.voters.iter().find(|(_, voter)| voter.answers() && voter.leads());
    Changes { raft_entry: leader.filter(|_| is_needed).map(|(name, _)| name.clone()), ..Changes::default() }
}

/// Whether a member may wait for an entry of raft's log: it runs, and has not served its client port yet.
pub fn may_wait(member: &ObservedMember) -> bool {
    let is_starting = member.pod.as_deref().is_some_and(|pod| running_since(pod).is_some() && !pod_ready(pod));
    is_starting && matches!(member.etcd, Probe::Unreachable(_))
}

#[cfg(test)]
#[path = "raft_entry_tests.rs"]
mod tests;
