//! etcd's rules for versions, as they were observed with 3.5.35, 3.6.16 and 3.7.3: which processes start on which data, the version of
//! the cluster, and downgrades.

use std::collections::{BTreeMap, BTreeSet};

use etcd_warden::etcd::{Class, Version};

use crate::etcd::{Disk, Etcd, Millis, Start, Volume};

/// How often the leader looks at the versions of all members.
const MONITORED: Millis = 4_000;

#[derive(Clone, Debug)]
pub struct Versions {
    /// The minor version of the cluster.
    pub cluster: u32,
    /// When the leader looks at the versions next.
    next: Millis,
    /// To which one a downgrade is enabled.
    pub downgrade: Option<u32>,
    /// The minor version of what is on each volume.
    storage: BTreeMap<Volume, u32>,
    /// The volumes on which 3.7 panics, because 3.6 has not written a snapshot of raft's log since a member ran 3.5.
    unprepared: BTreeSet<Volume>,
}

impl Default for Versions {
    fn default() -> Self {
        Self { cluster: 6, next: 0, downgrade: None, storage: BTreeMap::new(), unprepared: BTreeSet::new() }
    }
}

impl Versions {
    /// Why a process ends at once with the data on a volume.
    pub fn refuse(&mut self, volume: Volume, start: &Start, disks: &BTreeMap<Volume, Disk>) -> Option<&'static str> {
        let minor = start.version.minor;
        if disks.is_empty() {
            self.cluster = minor;
        }
        if minor < self.cluster || self.storage.get(&volume).is_some_and(|storage| minor < *storage) {
            return Some("the version is lower than that of the cluster or of the storage");
        }
        match minor {
            // Its entries are in the logs of all.
            5 => self.unprepared.extend(disks.keys().copied().chain([volume])),
            6 if self.cluster == 6 && start.snapshots => {
                self.unprepared.remove(&volume);
            }
            7 if self.unprepared.contains(&volume) => return Some("it panics, because of an entry of 3.5 in raft's log"),
            _ => {}
        }
        None
    }

    /// The minor version of the data on a volume. 3.5 does not report it.
    pub fn storage(&self, volume: Volume, minor: u32) -> Option<Version> {
        (minor > 5).then(|| Version { major: 3, minor: self.storage.get(&volume).copied().unwrap_or(self.cluster), patch: 0 })
    }
}

impl Etcd {
    /// The members agree on the version of the cluster, and the storage of one of them follows it. The leader looks at the versions once in a
    /// while (`server/etcdserver/server.go`, `monitorVersionInterval`).
    pub fn agree(&mut self, now: Millis) {
        let Some(members) = self.members().filter(|_| self.versions.next <= now) else { return };
        let mut running = vec![];
        for member in members {
            match self.processes.get(&member.place).filter(|process| process.id == member.id && !process.cut) {
                Some(process) => running.push((process.volume, process.version.minor)),
                // Without the version of every member nothing is decided.
                None => return,
            }
        }
        let minors = || running.iter().map(|(_, minor)| *minor);
        let (Some(lowest), Some(highest)) = (minors().min(), minors().max()) else { return };
        if highest - lowest > 1 {
            self.broken.push(format!("members run 3.{lowest} and 3.{highest}"));
        }
        self.versions.next = now + MONITORED;
        if self.versions.downgrade == Some(highest) {
            self.versions.downgrade = None;
        }
        self.versions.cluster = self.versions.downgrade.unwrap_or(lowest);
        let cluster = self.versions.cluster;
        let behind = running.iter().find(|(volume, _)| self.versions.storage.get(volume) != Some(&cluster));
        if let Some((volume, _)) = behind {
            self.versions.storage.insert(*volume, cluster);
        }
    }

    pub fn enable_downgrade(&mut self, to: u32) -> Result<(), Class> {
        if self.versions.cluster != to + 1 || self.versions.downgrade.is_some() {
            return Err(Class::Other);
        }
        self.versions.downgrade = Some(to);
        Ok(())
    }

    pub fn cancel_downgrade(&mut self) -> Result<(), Class> {
        self.versions.downgrade.take().map(|_| ()).ok_or(Class::Other)
    }
}
