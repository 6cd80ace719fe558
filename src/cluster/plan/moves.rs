//! Members that are replaced although they are healthy: their storage is another one than the spec asks for, or they have to be restarted
//! and would lose their data, because it is in their pods.
//!
//! **One more member is added first.** With three voters the new one is the fourth, copies all data as a learner, is promoted, and only
//! then one of the old ones is removed. So there are never fewer healthy voters than the desired number, and a fault during the change is
//! tolerated as before. If the old one was removed first, as a member is that cannot come back, two of two would remain, and none of them
//! could be spared until the new one has caught up. A cluster of one can be changed only in this way. The new member takes the lowest
//! free name, so the names change: `demo-0` becomes `demo-3`. All is decided from what exists. If the change is reverted halfway, the
//! members that are already new are replaced instead, and a learner is removed.

use std::collections::BTreeMap;

use super::{
    changes::Changes,
    input::Input,
    rollout::Rollout,
    storage::{why_moved, why_not_moved},
    trial,
};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            ongoing::ongoing_since,
            roster::{Roster, RosterEntry},
        },
        observed::ObservedMember,
    },
    names::MemberName,
};

/// The voters that are to be replaced although they may be healthy, and why.
#[derive(Default)]
pub struct Moves {
    due: BTreeMap<MemberName, String>,
    /// Why they are not replaced.
    refused: Option<String>,
}

impl Moves {
    /// The voters that are to be replaced.
    pub fn of(input: &Input, roster: &Roster, rollout: &Rollout) -> Self {
        let restart = |name: &MemberName, member: &ObservedMember| {
            let is_due = member.is_in_pod() && rollout.is_outdated(name, member);
            is_due.then(|| "it has to be restarted, and its data is in its pod".to_owned())
        };
        let why = |(name, voter): (&MemberName, &RosterEntry)| {
            Some((name.clone(), why_moved(input, voter.member).or_else(|| restart(name, voter.member))?))
        };
        let mut due: BTreeMap<_, _> = roster.voters.iter().filter_map(why).collect();
        if due.is_empty() {
            due.extend(for_trial(input, roster));
        }
        if due.is_empty() {
            return Self::default();
        }
        match why_not_moved(input) {
            None => Self { due, refused: None },
            refused => Self { due: BTreeMap::new(), refused },
        }
    }

    /// How many voters there are to be in addition to the desired number.
    pub fn surplus(&self) -> usize {
        usize::from(!self.due.is_empty())
    }

    /// Why a learner is not the one that is wanted any more.
    pub fn why_unwanted(&self, input: &Input, learner: &ObservedMember) -> Option<String> {
        why_moved(input, learner).filter(|_| self.refused.is_none())
    }

    /// Whether a voter is to be replaced.
    pub fn has(&self, name: &MemberName) -> bool {
        self.due.contains_key(name)
    }

    /// Whether there is one voter more than desired, so that one of those that are to be replaced is removed.
    pub fn is_surplus(&self, input: &Input, roster: &Roster) -> bool {
        roster.voters.len() == input.cluster.replicas as usize + 1 && !self.due.is_empty()
    }

    /// The voter that is removed next: one that does not lead, so that leadership moves only once.
    pub fn next<'r>(&self, roster: &'r Roster<'_>) -> Option<(&'r MemberName, &str)> {
        let mut due = roster.voters.iter().filter_map(|(name, voter)| Some((name, voter, self.due.get(name)?.as_str())));
        let first = due.clone().next();
        let (name, _, why) = due.find(|(_, voter, _)| !voter.leads()).or(first)?;
        Some((name, why))
    }

    /// What is to be done, or why it is not.
    pub fn describe(&self, input: &Input, roster: &Roster) -> Changes {
        let changes = Changes::default();
        if let Some(why) = &self.refused {
            return changes.problem(Reason::CannotReplace, why);
        }
        let Some((name, why)) = self.due.iter().next() else { return changes };
        let (left, desired) = (self.due.len(), input.cluster.replicas as usize);
        let edits = roster.voters.get(name).and_then(|voter| why_moved(input, voter.member));
        let change = edits.map(|edits| format!("{edits} ({}/{desired})", desired.saturating_sub(left)));
        let changes = Changes { change, ..changes };
        let (all, since) = (roster.voters.len(), ongoing_since(input.observed, Reason::ReplacingMember));
        let message = format!("{left} of {all} members have yet to be replaced ({why}), each by one that is added before{since}");
        changes.progress(Reason::ReplacingMember, message)
    }
}

/// The voter that is replaced only because another member is needed to try a certificate of the next authority, and why.
fn for_trial(input: &Input, roster: &Roster) -> Option<(MemberName, String)> {
    // One that has been added, and shows that the next authority is refused, stays: without it, another one would be added to try it again.
    let is_one_more = roster.voters.len() + roster.learners.len() == input.cluster.replicas as usize + 1;
    let is_witness = |name: &MemberName, entry: &RosterEntry| trial::is_only_witness(input, name, entry.member);
    let why = if trial::needs_member(input) {
        "a new member is to try a certificate of the next CA"
    } else if is_one_more && roster.voters.iter().chain(&roster.learners).any(|(name, entry)| is_witness(name, entry)) {
        "a new member shows that a certificate of the next CA is refused"
    } else {
        return None;
    };
    let mut others = roster.voters.iter().rev().filter(|(name, voter)| !is_witness(name, voter)).peekable();
    let last = others.peek().copied();
    let (name, _) = others.find(|(_, voter)| !voter.leads()).or(last)?;
    Some((name.clone(), why.to_owned()))
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
