//! etcd's members, matched with the objects of the cluster.

use std::collections::BTreeMap;

use super::readiness::why_not_ready;
use crate::{
    cluster::observed::{Observed, ObservedMember, name_of},
    etcd,
    kubernetes::pod::is_terminating,
    names::{MemberName, Names},
};

/// etcd's members, matched with the objects of the cluster.
pub struct Roster<'a> {
    /// Voters that are members of this cluster.
    pub voters: BTreeMap<MemberName, RosterEntry<'a>>,
    /// Learners that are members of this cluster.
    pub learners: BTreeMap<MemberName, RosterEntry<'a>>,
    /// Members at URLs that are not this cluster's: the operator did not add them.
    pub unknown: Vec<&'a etcd::Member>,
    /// Members that have objects but are not listed by etcd: they were removed, or never added.
    pub unlisted: BTreeMap<MemberName, &'a ObservedMember>,
}

/// A member that etcd lists.
#[derive(Clone, Copy)]
pub struct RosterEntry<'a> {
    /// Its entry in etcd's list.
    pub listed: &'a etcd::Member,
    /// Its objects and answers.
    pub member: &'a ObservedMember,
}

impl RosterEntry<'_> {
    /// Whether it is healthy, and is the member that etcd lists.
    pub fn is_healthy(&self) -> bool {
        self.member.is_healthy() && self.has_listed_id()
    }

    /// Whether it answers, is the member that etcd lists, and its pod is not being deleted.
    pub fn answers(&self) -> bool {
        self.member.pod.as_ref().is_some_and(|pod| !is_terminating(pod)) && self.has_listed_id()
    }

    /// Whether it is the leader.
    pub fn leads(&self) -> bool {
        self.member.etcd.status().is_some_and(|status| status.leader == Some(self.listed.id))
    }

    fn has_listed_id(&self) -> bool {
        self.member.etcd.status().is_some_and(|status| status.member_id == self.listed.id)
    }
}

/// The first of several voters that are restarted: an unhealthy one, otherwise a follower. The leader is the last.
pub fn first<'a, 'r>(
    voters: impl Iterator<Item = (&'r MemberName, &'r RosterEntry<'a>)>,
) -> Option<(&'r MemberName, &'r RosterEntry<'a>)>
where
    'a: 'r,
{
    let voters: Vec<_> = voters.collect();
    let unhealthy = voters.iter().find(|(_, voter)| !voter.is_healthy());
    unhealthy.or_else(|| voters.iter().find(|(_, voter)| !voter.leads())).or_else(|| voters.first()).copied()
}

/// The voters that remain if one of them is removed.
pub struct Remainder {
    /// The number of the other voters.
    pub others: usize,
    /// How many of them are healthy.
    pub healthy: usize,
    /// Whether the voter may be removed: the healthy others are a quorum of the rest, and a healthy voter is removed only if all
    /// voters are healthy.
    pub allows_removal: bool,
}

impl<'a> Roster<'a> {
    /// The members, if a quorum confirmed the list and it is that of the cluster that was bootstrapped.
    pub fn read(names: &Names, observed: &'a Observed) -> Option<Self> {
        let list = observed.list.as_ref().ok()?;
        if observed.status.cluster_id != Some(list.cluster_id) {
            return None;
        }
        let mut roster = Self {
            voters: BTreeMap::new(),
            learners: BTreeMap::new(),
            unknown: vec![],
            unlisted: observed.members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        };
        for listed in &list.members {
            let name = name_of(names, list, listed);
            match name.and_then(|name| Some((roster.unlisted.remove(&name)?, name))) {
                None => roster.unknown.push(listed),
                Some((member, name)) if listed.is_learner => {
                    roster.learners.insert(name, RosterEntry { listed, member });
                }
                Some((member, name)) => {
                    roster.voters.insert(name, RosterEntry { listed, member });
                }
            }
        }
        Some(roster)
    }

    /// Whether etcd lists a member of this name.
    pub fn lists(&self, member: &MemberName) -> bool {
        self.voters.contains_key(member) || self.learners.contains_key(member)
    }

    /// The number of members with a vote, unknown ones included.
    pub fn votes(&self) -> usize {
        self.voters.len() + self.unknown.iter().filter(|member| !member.is_learner).count()
    }

    /// The number of healthy voters.
    pub fn healthy(&self) -> usize {
        self.voters.values().filter(|voter| voter.is_healthy()).count()
    }

    /// Whether all voters are healthy.
    pub fn all_healthy(&self) -> bool {
        self.healthy() == self.votes()
    }

    /// Whether all voters answer: they are healthy, or will be as soon as their pods are ready.
    pub fn all_answer(&self) -> bool {
        self.voters.values().filter(|voter| voter.answers()).count() == self.votes()
    }

    /// The voters that remain if one of them is removed.
    pub fn without(&self, voter: &RosterEntry) -> Remainder {
        let (others, healthy) = (self.votes() - 1, self.healthy() - usize::from(voter.is_healthy()));
        Remainder { others, healthy, allows_removal: healthy > others / 2 && (!voter.is_healthy() || self.all_healthy()) }
    }

    /// The voter to which leadership is moved before `leader` stops: the one that has applied most of the log, because it catches
    /// up first.
    pub fn successor(&self, leader: &MemberName) -> Option<(&MemberName, &RosterEntry<'a>)> {
        let others = self.voters.iter().filter(|(name, voter)| *name != leader && voter.is_healthy());
        let applied = |voter: &RosterEntry| voter.member.etcd.status().map(|status| status.raft_applied_index);
        // Of equal voters, the first: it would be removed last.
        others.rev().max_by_key(|(_, voter)| applied(voter))
    }

    /// The voters that do not answer, and why, as a suffix for a message.
    pub fn describe_silent(&self) -> String {
        let silent = self.voters.iter().filter(|(_, voter)| !voter.answers());
        let silent = silent.map(|(name, voter)| format!("{name}: {}", why_not_ready(voter.member)));
        let unknown = self.unknown.iter().filter(|member| !member.is_learner);
        let unknown = unknown.map(|member| format!("{}: the operator did not add it and does not ask it", member.id));
        let silent: Vec<_> = silent.chain(unknown).collect();
        if silent.is_empty() { String::new() } else { format!(" ({})", silent.join("; ")) }
    }
}
