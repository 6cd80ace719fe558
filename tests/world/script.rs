//! What happens to a world from outside, as data: so that a run can be replayed, and shrunk by leaving things out.

use crate::{
    etcd::{Millis, Place},
    kubernetes::KINDS,
    rng::Rng,
};

/// Where members have their data: `spec.storage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In volumes of claims, of so many Gi.
    Claims { size: u8, class: Option<&'static str> },
    /// In their pods.
    Pods { memory: bool },
}

impl Storage {
    /// The default of the spec.
    pub const DEFAULT: Self = Self::Claims { size: 8, class: None };

    fn any(rng: &mut Rng) -> Self {
        match rng.below(9) {
            0..=1 => Self::Pods { memory: false },
            2 => Self::Pods { memory: true },
            _ => Self::Claims { size: rng.pick(&[4, 8, 8, 16]), class: rng.pick(&[None, None, Some("fast")]) },
        }
    }
}

/// A run: a world of so many members, and what happens to it.
#[derive(Clone, Debug)]
pub struct Script {
    pub seed: u64,
    /// Whether the cluster is still to be bootstrapped when it begins.
    pub bootstraps: bool,
    pub replicas: u8,
    pub storage: Storage,
    /// What happens, and how long after what came before.
    pub events: Vec<(Millis, Event)>,
}

#[derive(Clone, Debug)]
pub enum Event {
    /// `spec.replicas`.
    Scale(u8),
    /// `spec.storage`.
    Storage(Storage),
    /// `spec.version`.
    Version(&'static str),
    /// `spec.etcd.quotaBackendSize`, in MiB: one of the settings for which members are restarted.
    Quota(u32),
    /// `spec.etcd.extraArgs`: a flag with a value with which etcd does not start, or another one.
    Flag { is_refused: bool },
    /// `spec.pod.resources.limits.memory`, in MiB. Nodes give a running pod 12,288 at most, and a volume in memory takes 8,192.
    Memory(u32),
    /// The annotation `restarted-at`.
    Restart(u8),
    /// The annotation `replace`.
    Replace(Place),
    /// A pod is deleted.
    KillPod(Place),
    /// All of them are.
    KillAllPods,
    /// A process dies.
    Crash(Place),
    /// A pod is evicted, as when a node is drained.
    Drain(Place),
    /// A claim and its pod are deleted, and the volume with them.
    LoseClaim(Place),
    /// A volume comes back empty.
    Wipe(Place),
    /// A node is down for so long.
    NodeDown(Place, Millis),
    /// The operator cannot reach a member.
    Silence(Place, Millis),
    /// The members do not hear one of them.
    Cut(Place, Millis),
    /// A member takes nothing from the leader.
    Behind(Place, Millis),
    /// A member is removed with etcdctl.
    RemoveByHand(Place),
    /// The disruption budget is deleted.
    LoseBudget,
    /// A watch reports nothing.
    Lag { operator: u8, kind: usize, millis: Millis },
    /// All watches report nothing.
    LagAll { operator: u8, millis: Millis },
    /// A write or a call gets lost, before or after it has taken effect.
    Lose { operator: u8, after: u8, effective: bool },
    /// The operator dies between two actions.
    Die { operator: u8, after: u8 },
    /// Its clock is off.
    Clock { operator: u8, off: Millis },
    /// A second operator acts too, for so long.
    Second(Millis),
    /// The annotation `rotate-ca`.
    Rotate(&'static str),
    /// The same, and members will refuse what the next authority of each domain signs, although they trust it.
    RotateRefused(&'static str),
    /// So many days pass, in which an operator runs, and certificates and CAs are renewed.
    Days(u16),
    /// The volumes of all members but this one are lost.
    LoseAllBut(Place),
    /// The cluster's object is deleted and created again.
    Recreate,
    /// From now on there are no writes, and new members are sent a snapshot.
    Quiet,
    /// A member that is none of the cluster's is added with etcdctl.
    AddUnknown { learner: bool },
}

impl Script {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let replicas = rng.pick(&[1, 2, 3, 3, 3, 3, 4, 5, 5]);
        let bootstraps = rng.one_in(16);
        let count = rng.between(1, 9);
        let gap = |rng: &mut Rng| match rng.below(4) {
            0 => 0,
            1 => rng.between(0, 1_500),
            2 => rng.between(0, 6_000),
            _ => rng.between(2_000, 20_000),
        };
        let mut events: Vec<_> = (0..count).map(|_| (gap(&mut rng), Event::any(&mut rng))).collect();
        // Each request differs from those before.
        let restarts = events.iter_mut().filter_map(|(_, event)| if let Event::Restart(at) = event { Some(at) } else { None });
        for (at, restart) in (1..).zip(restarts) {
            *restart = at;
        }
        let rare = match rng.below(40) {
            0..=33 => 0,
            34..=36 => 1,
            several => several - 35,
        };
        for _ in 0..rare {
            let at = usize::try_from(rng.below(events.len() as u64 + 1)).unwrap_or_default();
            events.insert(at, (gap(&mut rng), Event::rare(&mut rng)));
        }
        let storage = match rng.below(16) {
            0 => Storage::Pods { memory: rng.one_in(3) },
            _ => Storage::DEFAULT,
        };
        Self { seed, bootstraps, replicas, storage, events }
    }
}

impl Event {
    /// Something that takes long, or that a cluster meets once in its life.
    fn rare(rng: &mut Rng) -> Self {
        match rng.below(24) {
            20..=23 => Self::Storage(Storage::any(rng)),
            12..=18 => Self::Version(rng.pick(&["3.5.35", "3.5.36", "3.6.15", "3.6.16", "3.7.2", "3.7.3"])),
            19 => match rng.pick(&[0, 0, 1, 64, 4096, 9_216, 10_240, 16_384]) {
                flag @ (0 | 1) => Self::Flag { is_refused: flag == 0 },
                quota @ (64 | 4096) => Self::Quota(quota),
                memory => Self::Memory(memory),
            },
            10..=11 => Self::RotateRefused(rng.pick(&["client", "peer", "client,peer"])),
            0..=3 => Self::Rotate(rng.pick(&["client", "peer", "client,peer"])),
            4 => Self::Days(rng.pick(&[100, 400, 1_500])),
            5..=6 => Self::LoseAllBut(Place::try_from(rng.below(3)).unwrap_or_default()),
            7..=8 => Self::Recreate,
            _ => Self::AddUnknown { learner: rng.one_in(2) },
        }
    }

    fn any(rng: &mut Rng) -> Self {
        let place = |rng: &mut Rng| Place::try_from(rng.below(5)).unwrap_or_default();
        let short = |rng: &mut Rng| rng.between(500, 12_000);
        let long = |rng: &mut Rng| rng.between(2_000, 60_000);
        let byte = |rng: &mut Rng, end| u8::try_from(rng.below(end)).unwrap_or_default();
        match rng.below(37) {
            36 => Self::Storage(Storage::any(rng)),
            0..=5 => Self::Scale(rng.pick(&[1, 2, 3, 3, 4, 5, 5, 7])),
            6..=8 => Self::Restart(byte(rng, 200)),
            9..=10 => Self::Replace(place(rng)),
            11..=12 => Self::KillPod(place(rng)),
            13 => Self::KillAllPods,
            14 => Self::Crash(place(rng)),
            15 => Self::Drain(place(rng)),
            16..=17 => Self::LoseClaim(place(rng)),
            18 => Self::Wipe(place(rng)),
            19..=20 => Self::NodeDown(place(rng), long(rng)),
            21 => Self::Silence(place(rng), long(rng)),
            22 => Self::Cut(place(rng), long(rng)),
            23 => Self::Behind(place(rng), long(rng)),
            24 => Self::RemoveByHand(place(rng)),
            25 => Self::LoseBudget,
            26..=27 => Self::Lag { operator: byte(rng, 2), kind: usize::from(byte(rng, KINDS as u64)), millis: long(rng) },
            28 => Self::LagAll { operator: byte(rng, 2), millis: short(rng) },
            29..=30 => Self::Lose { operator: byte(rng, 2), after: byte(rng, 12), effective: rng.one_in(2) },
            31..=32 => Self::Die { operator: byte(rng, 2), after: byte(rng, 12) },
            33 => Self::Clock { operator: byte(rng, 2), off: rng.between(-240_000, 3_600_000) },
            _ => Self::Second(long(rng)),
        }
    }
}
