//! Moving leadership.

use crate::{
    cluster::{
        facts::roster::{Roster, RosterEntry},
        steps::{MoveLeader, Step},
    },
    names::MemberName,
};

/// Moves leadership away from a leader that is about to stop.
pub fn move_leader(roster: &Roster, name: &MemberName, leader: &RosterEntry) -> Option<Step> {
    let (successor, next) = roster.successor(name)?;
    let (from, to) = (leader.listed.id, next.listed.id);
    Some(MoveLeader { member: name.clone(), from, to, successor: successor.clone() }.into())
}
