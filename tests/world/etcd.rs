//! A model of etcd: members with logs on disks, elections, the log's replication, and the rules for adding, starting and removing
//! members. `reality.rs` compares it with real processes.
//!
//! A log is data: which members have persisted an entry is known, so whether an acknowledged write survives is looked up and not
//! assumed. Members are known by the place of their URL, which for a pod is its ordinal.

use std::collections::{BTreeMap, BTreeSet};

use etcd_warden::etcd::{Class, Version};

use crate::{rng::Rng, versions::Versions};

pub type Id = u64;
pub type Millis = i64;
/// Where a member listens: the ordinal of its pod.
pub type Place = u8;
pub type Volume = u32;

/// How long members must have been connected before etcd counts on them (`HealthInterval`).
const CONNECTED: Millis = 5_000;
/// From the loss of a leader to the next one, at least.
const ELECTION: Millis = 1_000;
/// From its removal until a member stops.
const STOPPING: Millis = 1_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Begin,
    Write(u32),
    Add {
        id: Id,
        place: Place,
        learner: bool,
    },
    Promote(Id),
    Remove(Id),
    Publish(Id),
    /// An entry that changes nothing.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    term: u32,
    what: What,
}

/// A member as a member list has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    pub id: Id,
    pub place: Place,
    pub named: bool,
    pub learner: bool,
}

/// What is on a volume.
#[derive(Clone, Debug)]
pub struct Disk {
    pub id: Id,
    pub cluster: u64,
    log: Vec<Entry>,
    /// How many entries of the log are committed and applied, and the members that follow from them.
    commit: usize,
    pub members: Vec<Listed>,
    removed: Vec<Id>,
}

impl Disk {
    fn apply(&mut self, commit: usize) {
        for at in self.commit..commit {
            match self.log[at].what {
                // Judged again when it is applied: one that was committed late may come after another.
                What::Add { id, .. } if self.removed.contains(&id) => {}
                What::Add { place, learner, .. } if self.members.iter().any(|m| m.place == place || (learner && m.learner)) => {}
                What::Add { id, place, learner } => self.members.push(Listed { id, place, named: false, learner }),
                What::Promote(id) => self.members.iter_mut().filter(|m| m.id == id).for_each(|m| m.learner = false),
                What::Publish(id) => self.members.iter_mut().filter(|m| m.id == id).for_each(|m| m.named = true),
                What::Remove(id) => {
                    self.members.retain(|m| m.id != id);
                    self.removed.push(id);
                }
                What::Begin | What::Write(_) | What::Nothing => {}
            }
        }
        self.commit = self.commit.max(commit);
    }

    fn position(&self) -> (u32, usize) {
        (self.log.last().map_or(0, |entry| entry.term), self.log.len())
    }

    /// How many entries are committed.
    pub fn committed(&self) -> usize {
        self.commit
    }

    fn voters(&self) -> impl Iterator<Item = &Listed> {
        self.members.iter().filter(|m| !m.learner)
    }

    fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    fn member(&self, id: Id) -> Option<&Listed> {
        self.members.iter().find(|m| m.id == id)
    }

    fn holds(&self, write: u32) -> bool {
        self.log.iter().any(|entry| entry.what == What::Write(write))
    }
}

/// A running process.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: Id,
    pub volume: Volume,
    pub version: Version,
    /// Whether it has written a snapshot of raft's log.
    pub has_snapshot: bool,
    pub since: Millis,
    /// Whether it has published itself, without which its client port is silent.
    pub serving: bool,
    /// Until when it takes nothing from the leader.
    pub behind_until: Millis,
    /// Whether no other member hears it.
    pub cut: bool,
    /// It was sent the leader's snapshot, and serves only once this many entries are committed.
    pub serves_from: Option<usize>,
    removed_at: Option<Millis>,
}

/// How a member is started, if it has no data.
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub token: u64,
    pub list: Vec<Place>,
    pub new: bool,
    /// Whether it starts as a cluster of one if it has data (`--force-new-cluster`).
    pub forced: bool,
    pub version: Version,
    /// Whether it writes a snapshot of raft's log soon.
    pub snapshots: bool,
    /// Whether its data is in its pod.
    pub in_pod: bool,
    /// Whether it has a flag that etcd does not accept.
    pub is_refused: bool,
}

/// What came of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boot {
    Runs,
    /// It ended, because of this.
    Ends(&'static str),
}

#[derive(Clone, Debug, Default)]
pub struct Etcd {
    pub disks: BTreeMap<Volume, Disk>,
    pub processes: BTreeMap<Place, Process>,
    pub leader: Option<Place>,
    term: u32,
    leaderless_since: Millis,
    /// The members to which the leader has sent entries since it leads.
    matched: Vec<Id>,
    writes: u32,
    pub acked: Vec<u32>,
    /// Whether there are no writes, and the log is so long that a new member is sent a snapshot instead.
    pub is_quiet: bool,
    /// What went wrong that must not.
    pub broken: Vec<String>,
    /// The clusters that were bootstrapped.
    pub clusters: Vec<u64>,
    /// Members that had data once.
    pub born: Vec<Id>,
    /// Members that are recorded on their claims, so that they must not come again without their data.
    pub recorded: Vec<Id>,
    /// The data of a cluster whose survivor was started as a cluster of one: none of it must be used again.
    abandoned: BTreeSet<Volume>,
    pub versions: Versions,
}

fn hash(parts: &[u64]) -> u64 {
    parts.iter().fold(0xcbf2_9ce4_8422_2325, |sum, part| Rng::new(sum ^ part.wrapping_mul(0x0100_0000_01b3)).next()).max(1)
}

/// The ID of a member that bootstraps a cluster.
fn first_id(place: Place, token: u64) -> Id {
    hash(&[1, place.into(), token])
}

impl Etcd {
    fn disk(&self, place: Place) -> Option<&Disk> {
        self.disks.get(&self.processes.get(&place)?.volume)
    }

    /// Whether two processes hear each other.
    fn connected(&self, one: Place, other: Place) -> bool {
        let up = |place| self.processes.get(&place).is_some_and(|process: &Process| one == other || !process.cut);
        up(one) && up(other)
    }

    /// The process of a listed member, if it runs under its ID and is heard from `place`.
    fn heard(&self, place: Place, member: &Listed) -> Option<&Process> {
        let process = self.processes.get(&member.place).filter(|process| process.id == member.id)?;
        self.connected(place, member.place).then_some(process)
    }

    fn heard_voters(&self, place: Place) -> usize {
        self.disk(place).map_or(0, |disk| disk.voters().filter(|voter| self.heard(place, voter).is_some()).count())
    }

    /// The members, as a quorum knows them.
    pub fn members(&self) -> Option<&[Listed]> {
        let leader = self.leader?;
        self.disk(leader).map(|disk| disk.members.as_slice())
    }

    pub fn cluster_id(&self) -> Option<u64> {
        self.disk(self.leader?).map(|disk| disk.cluster)
    }

    /// The members as the most advanced disk has them, for when no quorum can be asked.
    pub fn best(&self) -> &[Listed] {
        self.disks.values().max_by_key(|disk| (disk.commit, disk.position())).map_or(&[], |disk| disk.members.as_slice())
    }

    /// Whether a member follows the leader.
    pub fn follows(&self, place: Place) -> bool {
        let Some(process) = self.processes.get(&place) else { return false };
        let listed = |disk: &Disk| disk.member(process.id).is_some();
        self.leader.is_some_and(|leader| self.connected(leader, place)) && self.disks.get(&process.volume).is_some_and(listed)
    }

    /// The members of its list that accept a member's connections.
    pub fn active_peers(&self, place: Place) -> impl Iterator<Item = Id> {
        let members = self.disk(place).map_or(&[][..], |disk| disk.members.as_slice());
        members.iter().filter(move |m| m.place != place && self.heard(place, m).is_some()).map(|m| m.id)
    }

    pub fn applied(&self, place: Place) -> usize {
        self.disk(place).map_or(0, |disk| disk.commit)
    }

    /// The disk that holds a member's data.
    pub fn disk_of(&self, id: Id) -> Option<Volume> {
        self.disks.iter().find(|(_, disk)| disk.id == id).map(|(volume, _)| *volume)
    }

    /// Starts a member as etcd does (`etcdserver/bootstrap.go`).
    pub fn start(&mut self, place: Place, volume: Volume, start: &Start, now: Millis) -> Boot {
        let run = |id| Process {
            id,
            volume,
            version: start.version,
            has_snapshot: start.snapshots,
            since: now,
            serving: false,
            behind_until: 0,
            cut: false,
            serves_from: None,
            removed_at: None,
        };
        if self.processes.values().any(|other| other.version.minor.abs_diff(start.version.minor) > 1) {
            self.broken
                .push(format!("{place} starts with 3.{} while another member runs a version two away", start.version.minor));
        }
        if self.abandoned.contains(&volume) {
            self.broken.push(format!("{place} starts with the data of the cluster before its recovery"));
        }
        if start.is_refused {
            return Boot::Ends("a flag has a value that is not valid");
        }
        if let Some(why) = self.versions.refuse(volume, start, &self.disks) {
            return Boot::Ends(why);
        }
        if start.forced && self.disks.contains_key(&volume) {
            self.force(place, volume);
        }
        if let Some(disk) = self.disks.get(&volume) {
            let id = disk.id;
            // Peers answer 410 to one that they know to be removed, and it ends with code 0.
            let is_known = self.processes.iter().any(|(_, peer)| !peer.cut && self.disks[&peer.volume].removed.contains(&id));
            if is_known || disk.removed.contains(&id) {
                return Boot::Ends("the member has been permanently removed");
            }
            self.processes.insert(place, run(id));
            return Boot::Runs;
        }
        if !start.list.contains(&place) {
            return Boot::Ends("couldn't find local name in the initial cluster configuration");
        }
        let peers: Vec<Place> = start.list.iter().copied().filter(|peer| *peer != place).collect();
        let peer =
            |of: &Self, place: &Place| of.processes.get(place).filter(|p| !p.cut).and_then(|p| of.disks.get(&p.volume)).cloned();
        if start.new {
            let id = first_id(place, start.token);
            let bootstrapped =
                peers.iter().filter_map(|place| peer(self, place)).any(|disk| disk.member(id).is_some_and(|m| m.named));
            if bootstrapped {
                return Boot::Ends("member has already been bootstrapped");
            }
            let mut list = start.list.clone();
            list.sort_unstable();
            let cluster = list.iter().fold(hash(&[2, start.token]), |sum, place| hash(&[sum, (*place).into()]));
            let add = |place: &Place| Entry {
                term: 1,
                what: What::Add { id: first_id(*place, start.token), place: *place, learner: false },
            };
            let log: Vec<_> = list.iter().map(add).collect();
            self.check_vote(place, id, start);
            self.begin(place, volume, id, cluster, log);
            self.processes.insert(place, run(id));
            return Boot::Runs;
        }
        let Some(remote) = peers.iter().find_map(|place| peer(self, place)) else {
            return Boot::Ends("could not retrieve cluster information from the given URLs");
        };
        if remote.members.len() != start.list.len() {
            return Boot::Ends("member count is unequal");
        }
        if !remote.members.iter().all(|member| start.list.contains(&member.place)) {
            return Boot::Ends("no match found for existing member");
        }
        let Some(me) = remote.members.iter().find(|member| member.place == place).copied() else {
            return Boot::Ends("no match found for existing member");
        };
        let lists = |leader| self.disk(leader).is_some_and(|disk| disk.member(me.id).is_some());
        let was_sent = self.leader.is_some_and(lists) && self.matched.contains(&me.id);
        self.check_vote(place, me.id, start);
        self.begin(place, volume, me.id, remote.cluster, vec![]);
        if was_sent {
            // The leader goes on from entries that it has forgotten. Another leader would send it everything again.
            self.disks.remove(&volume);
            return Boot::Ends("tocommit is out of range");
        }
        self.processes.insert(place, run(me.id));
        Boot::Runs
    }

    /// Pods come and go, so a voter that has its data in its pod must never start again without it: it may have voted.
    fn check_vote(&mut self, place: Place, id: Id, start: &Start) {
        let votes = self.members().unwrap_or_else(|| self.best()).iter().any(|m| m.id == id && !m.learner);
        if start.in_pod && votes && self.born.contains(&id) {
            self.broken.push(format!("{place} starts again without the data in its pod, and has a vote"));
        }
    }

    /// A member's data becomes a cluster of one: entries that are not committed are dropped, and all other members removed.
    fn force(&mut self, place: Place, volume: Volume) {
        if let Some(other) = self.processes.keys().find(|other| **other != place) {
            self.broken.push(format!("{place} starts as a cluster of one while {other} runs"));
        }
        let disk = self.disks.get_mut(&volume).expect("it is there");
        disk.log.truncate(disk.commit);
        let (term, id) = (self.term, disk.id);
        let others: Vec<Id> = disk.members.iter().map(|m| m.id).filter(|other| *other != id).collect();
        disk.log.extend(others.into_iter().map(|other| Entry { term, what: What::Remove(other) }));
        disk.apply(disk.log.len());
        // What only others had is lost.
        let disk = &self.disks[&volume];
        self.acked.retain(|write| disk.holds(*write));
        let old: Vec<Volume> = self.disks.keys().copied().filter(|other| *other != volume).collect();
        for other in old {
            self.disks.remove(&other);
            self.abandoned.insert(other);
        }
        self.leader = None;
    }

    /// An empty disk becomes that of a member.
    fn begin(&mut self, place: Place, volume: Volume, id: Id, cluster: u64, log: Vec<Entry>) {
        if !self.clusters.contains(&cluster) {
            self.clusters.push(cluster);
        }
        if self.clusters.len() > 1 {
            self.broken.push(format!("a second cluster is bootstrapped by {place}"));
        }
        if self.recorded.contains(&id) {
            self.broken.push(format!("{place} starts under its old ID without its data"));
        }
        if !self.born.contains(&id) {
            self.born.push(id);
        }
        let commit = log.len();
        let mut disk = Disk { id, cluster, log, commit: 0, members: vec![], removed: vec![] };
        disk.apply(commit);
        self.disks.insert(volume, disk);
    }

    pub fn stop(&mut self, place: Place) {
        self.processes.remove(&place);
        if self.leader == Some(place) {
            self.leader = None;
        }
    }

    /// A volume is lost, with what is on it.
    pub fn lose(&mut self, volume: Volume) {
        self.disks.remove(&volume);
        let gone: Vec<Place> = self.processes.iter().filter(|(_, p)| p.volume == volume).map(|(place, _)| *place).collect();
        for place in gone {
            self.stop(place);
        }
    }

    /// What etcd does by itself. Returns the places whose process has ended because it was removed.
    pub fn tick(&mut self, now: Millis, rng: &mut Rng) -> Vec<Place> {
        if self.leader.is_some_and(|leader| !self.leads(leader)) {
            self.leader = None;
        }
        match self.leader {
            None if now - self.leaderless_since >= ELECTION => self.elect(now, rng),
            None => {}
            Some(_) => self.leaderless_since = now,
        }
        self.replicate(now);
        self.publish(now);
        self.agree(now);
        let mut ended = vec![];
        if self.processes.values().all(|process| self.disks[&process.volume].removed.is_empty()) {
            return ended;
        }
        for place in self.processes.keys().copied().collect::<Vec<_>>() {
            let process = &self.processes[&place];
            let is_removed = self.disks[&process.volume].removed.contains(&process.id)
                || self.leader.is_some_and(|leader| {
                    self.connected(leader, place) && self.disk(leader).is_some_and(|disk| disk.removed.contains(&process.id))
                });
            if !is_removed {
                continue;
            }
            let at = *self.processes.get_mut(&place).expect("it is there").removed_at.get_or_insert(now);
            if now - at >= STOPPING {
                self.stop(place);
                ended.push(place);
            }
        }
        ended
    }

    /// Whether a leader still is one: it has a quorum, and is a voter.
    fn leads(&self, leader: Place) -> bool {
        let Some(disk) = self.disk(leader) else { return false };
        let id = self.processes[&leader].id;
        disk.member(id).is_some_and(|m| !m.learner) && self.heard_voters(leader) >= disk.quorum()
    }

    fn elect(&mut self, now: Millis, rng: &mut Rng) {
        let mut candidates: Vec<Place> = self.processes.keys().copied().collect();
        if !candidates.is_empty() {
            let first = usize::try_from(rng.below(candidates.len() as u64)).unwrap_or_default();
            candidates.rotate_left(first);
        }
        let winner = candidates.into_iter().find(|place| {
            let disk = self.disk(*place).expect("a process has a disk");
            let id = self.processes[place].id;
            let votes = disk.voters().filter(|voter| {
                let grants = |process: &Process| self.disks[&process.volume].position() <= disk.position();
                self.heard(*place, voter).is_some_and(grants)
            });
            disk.member(id).is_some_and(|m| !m.learner) && votes.count() >= disk.quorum()
        });
        if let Some(winner) = winner {
            self.lead(winner, now);
        }
    }

    fn lead(&mut self, place: Place, now: Millis) {
        self.term += 1;
        self.leader = Some(place);
        self.leaderless_since = now;
        self.matched.clear();
        let lost = self.acked.iter().find(|write| !self.disk(place).is_some_and(|disk| disk.holds(**write)));
        if let Some(lost) = lost {
            self.broken.push(format!("the acknowledged write {lost} is lost: {place} leads without it"));
        }
        self.propose(What::Begin, now);
    }

    /// The leader's log goes to those that hear it, and what a quorum has persisted is committed.
    fn replicate(&mut self, now: Millis) {
        let Some(leader) = self.leader else { return };
        let Some(source) = self.disk(leader) else { return };
        let (length, commit, volume) = (source.log.len(), source.commit, self.processes[&leader].volume);
        let lagging: Vec<(Volume, Place)> = source
            .members
            .iter()
            .filter(|m| m.place != leader)
            .filter_map(|m| Some((self.heard(leader, m)?, m.place)))
            .filter(|(process, _)| process.behind_until <= now)
            .map(|(process, place)| (process.volume, place))
            .filter(|(volume, _)| {
                let disk = &self.disks[volume];
                disk.log.len() != length || disk.commit != commit || disk.log.last() != source.log.last()
            })
            .collect();
        for (lagging, _) in &lagging {
            let disk = self.disks.get_mut(lagging).expect("it is there");
            let (id, mut log) = (disk.id, std::mem::take(&mut disk.log));
            let is_new = self.is_quiet && log.is_empty();
            let source = &self.disks[&volume].log;
            let same = if source.starts_with(&log) { log.len() } else { 0 };
            log.truncate(same);
            log.extend_from_slice(&source[same..]);
            self.disks.get_mut(lagging).expect("it is there").log = log;
            if is_new && let Some(process) = self.processes.values_mut().find(|process| process.volume == *lagging) {
                process.serves_from = Some(commit + 1);
            }
            if !self.matched.contains(&id) {
                self.matched.push(id);
            }
        }
        self.commit(leader);
        let commit = self.disks[&volume].commit;
        for (volume, _) in lagging {
            self.disks.get_mut(&volume).expect("it is there").apply(commit);
        }
    }

    fn commit(&mut self, leader: Place) {
        loop {
            let Some(disk) = self.disk(leader) else { return };
            // One after the other: a change of the members counts for what follows it.
            let next = (disk.commit + 1..=disk.log.len()).find(|at| {
                let entry = disk.log[at - 1];
                let has = |disk: &Disk| disk.log.get(at - 1) == Some(&entry);
                let holders = disk.voters().filter(|voter| {
                    let on = self.processes.get(&voter.place).filter(|p| p.id == voter.id).map(|p| p.volume);
                    on.or_else(|| self.disk_of(voter.id)).is_some_and(|volume| has(&self.disks[&volume]))
                });
                entry.term == self.term && holders.count() >= disk.quorum()
            });
            let Some(next) = next else { return };
            let volume = self.processes[&leader].volume;
            let disk = self.disks.get_mut(&volume).expect("a leader has a disk");
            // Up to the first change of the members, which may change who must hold the rest.
            let until = (disk.commit + 1..=next)
                .find(|at| matches!(disk.log[at - 1].what, What::Add { .. } | What::Promote(_) | What::Remove(_)))
                .unwrap_or(next);
            disk.apply(until);
        }
    }

    /// Members publish themselves, and serve once they have.
    fn publish(&mut self, now: Millis) {
        let Some(leader) = self.leader else { return };
        if self.processes.values().all(|process| process.serving) {
            return;
        }
        for place in self.processes.keys().copied().collect::<Vec<_>>() {
            let process = &self.processes[&place];
            let waits = process.serves_from.is_some_and(|from| self.applied(leader) < from);
            if process.serving || waits || process.behind_until > now || !self.connected(leader, place) {
                continue;
            }
            let id = process.id;
            let Some(listed) = self.disk(leader).and_then(|disk| disk.member(id)).copied() else { continue };
            if self.disk(place).is_none_or(|disk| disk.member(id).is_none()) {
                continue;
            }
            if listed.named || self.propose(What::Publish(id), now) {
                self.processes.get_mut(&place).expect("it is there").serving = true;
            }
        }
    }

    /// Puts an entry into the leader's log, and says whether it is committed.
    fn propose(&mut self, what: What, now: Millis) -> bool {
        let Some(leader) = self.leader else { return false };
        let (term, volume) = (self.term, self.processes[&leader].volume);
        let disk = self.disks.get_mut(&volume).expect("a leader has a disk");
        disk.log.push(Entry { term, what });
        let at = disk.log.len();
        self.replicate(now);
        let committed = self.disks[&volume].commit >= at;
        if !self.leads(leader) {
            self.leader = None;
        }
        committed
    }

    /// A client writes; it is acknowledged if it is committed.
    pub fn write(&mut self, now: Millis) -> bool {
        if self.is_quiet || self.leader.is_none_or(|leader| !self.processes[&leader].serving) {
            return false;
        }
        self.writes += 1;
        let write = self.writes;
        let acked = self.propose(What::Write(write), now);
        if acked {
            self.acked.push(write);
        }
        acked
    }

    // What clients ask of the leader.

    pub fn advance(&mut self, at: Place, now: Millis) -> Result<(), Class> {
        self.ready(at)?;
        if self.propose(What::Nothing, now) { Ok(()) } else { Err(Class::Timeout) }
    }

    fn ready(&self, place: Place) -> Result<&Disk, Class> {
        if self.leader != Some(place) {
            return Err(if self.leader.is_none() { Class::NoLeader } else { Class::NotLeader });
        }
        self.disk(place).filter(|_| self.leads(place)).ok_or(Class::Timeout)
    }

    /// The voters with which a member has been connected for long enough, itself too.
    fn connected_since(&self, place: Place, disk: &Disk, now: Millis) -> usize {
        let long = |process: &Process| now - process.since >= CONNECTED;
        let me = self.processes.get(&place);
        let voters = disk
            .voters()
            .filter(|voter| voter.place == place || (me.is_some_and(long) && self.heard(place, voter).is_some_and(long)));
        voters.count()
    }

    pub fn add_learner(&mut self, at: Place, place: Place, now: Millis) -> Result<(), Class> {
        let disk = self.ready(at)?;
        let voters = disk.voters().count();
        if voters > 1 && self.connected_since(at, disk, now) < voters.div_ceil(2) + 1 {
            return Err(Class::Unhealthy);
        }
        let id = hash(&[3, place.into(), now.unsigned_abs() / 1000]);
        if disk.member(id).is_some() {
            // "member ID already exist"
            return Err(Class::PeerUrlExists);
        }
        // One that was added and removed in this very second (`membership.ErrIDRemoved`).
        if disk.removed.contains(&id) {
            return Err(Class::MemberNotFound);
        }
        if disk.members.iter().any(|m| m.place == place) {
            return Err(Class::PeerUrlExists);
        }
        if disk.members.iter().any(|m| m.learner) {
            return Err(Class::TooManyLearners);
        }
        let done = self.propose(What::Add { id, place, learner: true }, now);
        if done { Ok(()) } else { Err(Class::Timeout) }
    }

    /// A user adds a member that is none of the cluster's, and never starts it.
    pub fn add_unknown(&mut self, place: Place, learner: bool, now: Millis) -> Result<(), Class> {
        let leader = self.leader.ok_or(Class::NoLeader)?;
        let disk = self.ready(leader)?;
        let voters = disk.voters().count();
        if disk.members.iter().any(|m| m.learner || !m.named) || self.connected_since(leader, disk, now) < voters {
            return Err(Class::Unhealthy);
        }
        let id = hash(&[4, place.into(), now.unsigned_abs()]);
        if self.propose(What::Add { id, place, learner }, now) { Ok(()) } else { Err(Class::Timeout) }
    }

    pub fn promote(&mut self, at: Place, id: Id, now: Millis) -> Result<(), Class> {
        let disk = self.ready(at)?;
        let listed = disk.member(id).copied().ok_or(Class::MemberNotFound)?;
        if !listed.learner {
            return Err(Class::NotLearner);
        }
        let log = self.disk_of(id).map_or(0, |volume| self.disks[&volume].log.len());
        if self.heard(at, &listed).is_none() || log * 10 < disk.log.len() * 9 {
            return Err(Class::LearnerNotReady);
        }
        let started = disk.voters().filter(|m| m.named).count() + usize::from(listed.named);
        if started < disk.voters().count().div_ceil(2) + 1 {
            return Err(Class::NotEnoughStarted);
        }
        if self.propose(What::Promote(id), now) { Ok(()) } else { Err(Class::Timeout) }
    }

    pub fn remove(&mut self, at: Place, id: Id, now: Millis) -> Result<(), Class> {
        let disk = self.ready(at)?;
        let listed = disk.member(id).copied().ok_or(Class::MemberNotFound)?;
        if !listed.learner {
            let voters = disk.voters().count();
            let started = disk.voters().filter(|m| m.named && m.id != id).count();
            if started < (voters - 1) / 2 + 1 {
                return Err(Class::NotEnoughStarted);
            }
            let active = self.heard(at, &listed).is_some();
            if active && self.connected_since(at, disk, now) < 2 + (voters - 1) / 2 {
                return Err(Class::Unhealthy);
            }
        }
        if self.propose(What::Remove(id), now) { Ok(()) } else { Err(Class::Timeout) }
    }

    pub fn move_leader(&mut self, at: Place, to: Id, now: Millis) -> Result<(), Class> {
        let disk = self.ready(at)?;
        let target = disk.member(to).filter(|m| !m.learner).copied().ok_or(Class::BadLeader)?;
        let process = self.heard(at, &target).ok_or(Class::BadLeader)?;
        // It must have the whole log first.
        if process.behind_until > now || self.disks[&process.volume].position() < disk.position() {
            return Err(Class::Timeout);
        }
        self.lead(target.place, now);
        Ok(())
    }

    /// Whether the voters that run, but for those in `doomed`, are a quorum.
    pub fn has_quorum(&self, doomed: &[Place]) -> bool {
        let members = self.members().unwrap_or_else(|| self.best());
        let voters = members.iter().filter(|m| !m.learner);
        let up = |m: &&Listed| {
            !doomed.contains(&m.place) && self.processes.get(&m.place).is_some_and(|process| process.id == m.id && !process.cut)
        };
        let (all, up) = voters.fold((0, 0), |(all, n), m| (all + 1, n + usize::from(up(&m))));
        all > 0 && up > all / 2
    }
}
