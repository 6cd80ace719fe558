//! A world and its time: what happens to it, what goes on by itself, and whether it becomes as desired in the end.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use etcd_warden::{
    api::{EtcdCluster, EtcdClusterSpec, Medium, Reason, StorageSpec},
    certificates::{requests::LeafRequest, transition::Change},
    cluster::objects::{class_of, requested_size},
    etcd::Version,
    ids::Uid,
    kubernetes::{pod::pod_ready, secret::SecretView},
    names::{MemberName, annotation as key},
    pki::Domain,
};
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{Condition, ObjectMeta},
};
use serde_json::json;

use crate::{
    certificates::{self, Leaf},
    etcd::{Etcd, Listed, Millis, Place, Volume},
    kubernetes::{Kubernetes, PLACES, Slot, capacity, member, names},
    operator::{self, Operator},
    rng::Rng,
    script::{Event, Script, Storage},
    time,
};

/// How often everything is looked at.
const TICK: Millis = 250;
/// How long a world is given to become as desired once nothing more happens to it.
const PATIENCE: Millis = 1_800_000;
/// How long nothing must happen before a world counts as done.
const QUIET: Millis = 15_000;
/// Where a member is that is none of the cluster's.
const UNKNOWN: Place = PLACES + 1;
/// How many days pass at once.
const DAYS: u16 = 10;
const DAY: Millis = 24 * 3_600_000;
/// The same where an operator that has nothing to do has seen everything.
const SHORT: Millis = 3_000;
/// After what time in which it was as desired a world must not be written to any more.
const RESTLESS: Millis = 120_000;

/// How many leaves were issued, and the last one.
type Issued = (u32, Option<Arc<Leaf>>);

/// What is recorded of a world.
#[derive(Clone)]
pub struct Trace {
    /// Whether also passes and what came to nothing.
    everything: bool,
    /// What happened, and when.
    pub lines: Vec<String>,
    /// Since when seconds are counted.
    pub since: Millis,
    /// The members whose pods are ready.
    ready: Vec<Place>,
}

#[derive(Clone)]
pub struct World {
    pub now: Millis,
    pub kubernetes: Kubernetes,
    pub etcd: Etcd,
    /// Each runs or is dead.
    pub operators: Vec<Option<Box<Operator>>>,
    /// Whether operators derive everything again in each pass, and keep nothing of it as the program does.
    pub forgets: bool,
    /// When a dead operator is started again; the second one, only until then.
    starts_at: Millis,
    second_until: Millis,
    pub silent_until: [Millis; PLACES as usize],
    cut_until: [Millis; PLACES as usize],
    /// The domains whose next new authority will be one whose certificates members refuse.
    refused_next: Vec<Domain>,
    /// The names of such authorities.
    pub refused: BTreeSet<String>,
    pub rng: Rng,
    /// How many leaves each holder was issued for each use, and the last one.
    issued: BTreeMap<(String, &'static str), Issued>,
    pub passes: u64,
    /// When an operator wrote last.
    written_at: Millis,
    /// How much has happened that no operator could know of.
    pub surprises: u64,
    decided: (Millis, u64),
    pub broken: Vec<String>,
    pub trace: Option<Trace>,
    pub calm: bool,
}

fn cluster(replicas: u8, storage: Storage) -> EtcdCluster {
    let mut spec: EtcdClusterSpec = serde_json::from_value(json!({ "replicas": replicas })).expect("a spec");
    spec.storage = storage_spec(storage);
    let mut cluster = EtcdCluster::new("demo", spec);
    cluster.metadata = cluster_meta(1);
    cluster
}

fn storage_spec(storage: Storage) -> StorageSpec {
    let spec = match storage {
        Storage::Claims { size, class: None } => json!({ "size": format!("{size}Gi") }),
        Storage::Claims { size, class } => json!({ "size": format!("{size}Gi"), "storageClassName": class }),
        Storage::Pods { memory } => {
            let medium = if memory { "Memory" } else { "" };
            json!({ "emptyDir": { "sizeLimit": "8Gi", "medium": medium, "acceptDataLoss": true } })
        }
    };
    serde_json::from_value(spec).expect("a spec")
}

/// The metadata of the cluster's object when it is created for the nth time.
fn cluster_meta(number: u32) -> ObjectMeta {
    ObjectMeta {
        name: Some("demo".into()),
        namespace: Some("ns".into()),
        uid: Some(format!("0a1b2c3d-0000-4000-8000-{number:012x}")),
        generation: Some(1),
        ..ObjectMeta::default()
    }
}

/// A world with a cluster that is as desired, made once for each number of members and each storage; by each thread, so that none waits for another
/// that asks the same of the same object.
fn bootstrapped(replicas: u8, storage: Storage) -> World {
    thread_local! {
        static BOOTSTRAPPED: [[OnceCell<World>; 10]; 3] = const { [const { [const { OnceCell::new() }; 10] }; 3] };
    }
    let kind = match storage {
        Storage::Claims { .. } => 0,
        Storage::Pods { memory } => 1 + usize::from(memory),
    };
    let bootstrap = || {
        let mut world = World::new(replicas, storage, 0);
        world.calm = true;
        world.heal();
        assert_eq!(world.broken, Vec::<String>::new(), "a cluster of {replicas} can be bootstrapped");
        world.kubernetes.forget();
        world.operators[0] = Some(Operator::new(world.kubernetes.list(), world.now).into());
        world
    };
    BOOTSTRAPPED.with(|worlds| worlds[kind][usize::from(replicas)].get_or_init(bootstrap).clone())
}

impl World {
    fn new(replicas: u8, storage: Storage, seed: u64) -> Self {
        let kubernetes = Kubernetes::new(cluster(replicas, storage));
        let first = Operator::new(kubernetes.list(), 0);
        Self {
            now: 0,
            kubernetes,
            etcd: Etcd::default(),
            operators: vec![Some(first.into()), None],
            forgets: false,
            starts_at: 0,
            second_until: 0,
            silent_until: [0; PLACES as usize],
            cut_until: [0; PLACES as usize],
            refused_next: vec![],
            refused: BTreeSet::new(),
            rng: Rng::new(seed),
            issued: BTreeMap::new(),
            passes: 0,
            written_at: 0,
            surprises: 0,
            decided: (0, 0),
            broken: vec![],
            trace: None,
            calm: false,
        }
    }

    /// A world with a cluster that is as desired, or is still to be bootstrapped.
    pub fn begin(replicas: u8, storage: Storage, bootstraps: bool, seed: u64) -> Self {
        let mut world = if bootstraps { Self::new(replicas, storage, 0) } else { bootstrapped(replicas, storage) };
        world.rng = Rng::new(seed ^ 0x5eed);
        world.calm = false;
        world
    }

    /// Runs a script to its end and until the world is as desired.
    pub fn run(script: &Script, traced: bool) -> Self {
        let mut world = Self::begin(script.replicas, script.storage, script.bootstraps, script.seed);
        world.forgets = script.seed.is_multiple_of(500);
        world.etcd.is_quiet = script.seed.is_multiple_of(4);
        let has_memory = script.events.iter().any(|(_, event)| matches!(event, Event::Memory(_)));
        // What forgets that it was refused asks again and again.
        world.kubernetes.resizes = !has_memory || world.forgets || !script.seed.is_multiple_of(3);
        if traced {
            world.record(true);
        }
        for (gap, event) in &script.events {
            world.go(*gap);
            if !world.broken.is_empty() {
                return world;
            }
            world.note(|| format!("--- {event:?}"));
            world.happen(event);
        }
        let after = world.rng.between(0, 8_000);
        world.go(after);
        world.heal();
        world
    }

    /// Records what helps to understand what went wrong.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if self.trace.as_ref().is_some_and(|trace| trace.everything) {
            self.tell(text);
        }
    }

    /// Records something that was done or reported.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            let passed = now - trace.since;
            let (days, seconds) = (passed / DAY, (passed % DAY) as f64 / 1_000.0);
            let days = if days == 0 { String::new() } else { format!("{days} d ") };
            trace.lines.push(format!("{days:>6}{seconds:>7.2} s  {}", text()));
        }
    }

    /// Records what is done and reported from now on, or also `everything` else that happens.
    pub fn record(&mut self, everything: bool) {
        self.trace = Some(Trace { everything, lines: vec![], since: self.now, ready: self.ready() });
    }

    /// The members whose pods are ready.
    fn ready(&self) -> Vec<Place> {
        self.kubernetes.pods.iter().filter(|(_, kept)| kept.ready).map(|(place, _)| *place).collect()
    }

    /// Records which pods have become ready, or are no longer.
    fn tell_ready(&mut self) {
        // Most worlds are not traced, and pods are looked at in every tick.
        if self.trace.is_none() {
            return;
        }
        let ready = self.ready();
        let before = self.trace.as_mut().map(|trace| std::mem::replace(&mut trace.ready, ready.clone())).unwrap_or_default();
        let changed = |these: &[Place], those: &[Place]| these.iter().copied().filter(|place| !those.contains(place)).collect();
        let (new, gone): (Vec<Place>, Vec<Place>) = (changed(&ready, &before), changed(&before, &ready));
        for place in new {
            self.tell(|| format!("pod {} is ready", names().pod(&member(place))));
        }
        for place in gone {
            self.tell(|| format!("pod {} is no longer ready", names().pod(&member(place))));
        }
    }

    /// Whether something else goes on between this action of an operator and the next.
    pub fn interleaves(&mut self) -> bool {
        !self.calm && self.rng.one_in(6)
    }

    /// An operator writes.
    pub fn written(&mut self) {
        self.written_at = self.now;
    }

    /// Issues the next leaf to a holder, by the active authority of a Secret.
    pub fn issue(&mut self, request: &LeafRequest, secret: &SecretView) -> Arc<Leaf> {
        let (generation, last) = self.issued.entry((request.holder.to_string(), request.keys.certificate)).or_default();
        *generation += 1;
        last.insert(certificates::leaf(secret, request, *generation, time(self.now))).clone()
    }

    /// The last leaf that was issued for such a request.
    pub fn issued(&self, request: &LeafRequest) -> Option<Arc<Leaf>> {
        self.issued.get(&(request.holder.to_string(), request.keys.certificate))?.1.clone()
    }

    /// Time passes.
    pub fn go(&mut self, millis: Millis) {
        let until = self.now + millis;
        while self.now < until && self.broken.is_empty() {
            self.now += TICK;
            self.tick();
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        for place in 0..PLACES {
            let cut = self.cut_until[usize::from(place)] > now;
            if let Some(process) = self.etcd.processes.get_mut(&place)
                && process.cut != cut
            {
                process.cut = cut;
                process.since = now;
            }
        }
        self.kubernetes.tick(&mut self.etcd, now, &mut self.rng);
        self.tell_ready();
        for place in self.etcd.tick(now, &mut self.rng) {
            self.note(|| format!("{place} has been removed and ends"));
        }
        if now % 1_000 == 0 {
            self.etcd.write(now);
        }
        for index in 0..self.operators.len() {
            if index == 1 && self.second_until <= now {
                self.operators[1] = None;
            } else if self.operators[index].is_none() {
                if self.starts_at <= now {
                    self.operators[index] = Some(Operator::new(self.kubernetes.list(), now).into());
                }
            } else if !operator::advance(self, index) {
                self.starts_at = now + self.rng.between(500, 4_000);
            }
        }
        self.broken.append(&mut self.etcd.broken);
        self.broken.append(&mut self.kubernetes.broken);
        if std::mem::take(&mut self.kubernetes.files_changed) {
            self.check_trust();
        }
        let learners = self.etcd.members().unwrap_or_default().iter().filter(|m| m.learner).count();
        if learners > 1 {
            self.broken.push("there are two learners".into());
        }
    }

    fn members(&self) -> Vec<Listed> {
        self.etcd.members().unwrap_or_else(|| self.etcd.best()).to_vec()
    }

    /// The volume with a member's data, unless it is about to go.
    pub fn lives(&self, listed: &Listed) -> Option<Volume> {
        let volume = self.etcd.disk_of(listed.id).filter(|_| listed.place < PLACES)?;
        if let Some(kept) = self.kubernetes.pods.get(&listed.place).filter(|kept| kept.in_pod) {
            return (kept.deleting.is_none() && self.kubernetes.volume(listed.place) == Some(volume)).then_some(volume);
        }
        let claim = self.kubernetes.things.claim(Slot::Claim(listed.place))?;
        (self.kubernetes.volume(listed.place) == Some(volume) && claim.metadata.deletion_timestamp.is_none()).then_some(volume)
    }

    /// Whether a majority of the voters' disks lives without this one.
    fn can_spare(&self, place: Place) -> bool {
        let voters: Vec<_> = self.members().into_iter().filter(|m| !m.learner).collect();
        let left = voters.iter().filter(|m| m.place != place && self.lives(m).is_some()).count();
        left > voters.len() / 2
    }

    /// Whether the data in a member's pod may be lost: a majority must be left, even if an operator is just about to remove another
    /// member. No claim brings it back.
    fn may_lose_pod(&self, place: Place) -> bool {
        if !self.kubernetes.is_in_pod(place) {
            return true;
        }
        let voters: Vec<_> = self.members().into_iter().filter(|m| !m.learner).collect();
        if !voters.iter().any(|m| m.place == place) {
            return true;
        }
        let left = voters.iter().filter(|m| m.place != place && self.lives(m).is_some()).count();
        let cluster = self.kubernetes.cluster();
        let is_asked = cluster.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key::REPLACE));
        let is_removing = is_asked || voters.len() > usize::try_from(cluster.spec.replicas).unwrap_or_default();
        left > voters.len() / 2 && (!is_removing || left - 1 > (voters.len() - 1) / 2)
    }

    /// Whether any member has its data in its pod, or is to have it there.
    fn uses_pods(&self) -> bool {
        let desired = self.kubernetes.cluster().spec.storage.empty_dir.is_some();
        desired || (0..PLACES).any(|place| self.kubernetes.is_in_pod(place))
    }

    /// Pods are deleted, but for those with data that must not be lost.
    fn kill(&mut self, place: Place) {
        if self.may_lose_pod(place) {
            self.kubernetes.delete_pod(place, self.now, &mut self.rng);
        }
    }

    /// Something happens.
    pub fn happen(&mut self, event: &Event) {
        self.surprises += 1;
        let now = self.now;
        match *event {
            Event::Scale(replicas) => self.edit_spec(|spec| spec.replicas = replicas.into()),
            Event::Storage(storage) => self.edit_spec(|spec| spec.storage = storage_spec(storage)),
            Event::Version(version) => self.change_version(version),
            Event::Quota(mebibytes) => self.edit_spec(|spec| spec.etcd.quota_backend_size.0 = format!("{mebibytes}Mi")),
            Event::Flag { is_refused } => {
                let value = if is_refused { "many" } else { "512" };
                self.edit_spec(|spec| drop(spec.etcd.extra_args.insert("max-txn-ops".into(), value.into())));
            }
            Event::Memory(mebibytes) => self.edit_spec(|spec| {
                let limit = [("memory".to_owned(), Quantity(format!("{mebibytes}Mi")))].into();
                spec.pod.resources.limits = Some(limit);
            }),
            Event::Restart(at) => self.request(key::RESTARTED_AT, Some(at.to_string())),
            Event::Replace(place) => self.request(key::REPLACE, Some(member(place).to_string())),
            Event::KillPod(place) => self.kill(place),
            Event::KillAllPods => (0..PLACES).for_each(|place| self.kill(place)),
            Event::Crash(place) => self.etcd.stop(place),
            Event::Drain(place) if !self.may_lose_pod(place) => {}
            Event::Drain(place) => drop(self.kubernetes.evict(place, None, now, &mut self.rng)),
            Event::LoseClaim(place) => {
                if self.can_spare(place) && self.kubernetes.delete_claim(place, None, now).is_ok() {
                    self.kubernetes.delete_pod(place, now, &mut self.rng);
                }
            }
            Event::Wipe(place) => {
                if let Some(volume) = self.kubernetes.volume(place).filter(|_| self.can_spare(place) && self.may_lose_pod(place))
                {
                    self.etcd.lose(volume);
                }
            }
            Event::NodeDown(place, millis) => {
                self.kubernetes.down_until[usize::from(place)] = now + millis;
                self.etcd.stop(place);
                // The node is started again, if not even the network was down alone.
                let volume = self.kubernetes.volume(place).filter(|_| self.kubernetes.is_in_memory(place));
                if let Some(volume) = volume.filter(|_| self.may_lose_pod(place)) {
                    self.etcd.lose(volume);
                }
            }
            Event::Silence(place, millis) => self.silent_until[usize::from(place)] = now + millis,
            Event::Cut(place, millis) => self.cut_until[usize::from(place)] = now + millis,
            Event::Behind(place, millis) => {
                if let Some(process) = self.etcd.processes.get_mut(&place) {
                    process.behind_until = now + millis;
                }
            }
            Event::RemoveByHand(place) => {
                let listed = self.members().into_iter().find(|m| m.place == place);
                if let (Some(listed), Some(leader)) = (listed, self.etcd.leader)
                    && self.can_spare(place)
                {
                    let _ = self.etcd.remove(leader, listed.id, now);
                }
            }
            Event::LoseBudget => {
                let uid = self.kubernetes.things.budget(Slot::Budget).and_then(|budget| Uid::of(&budget.metadata));
                let _ = uid.map(|uid| self.kubernetes.delete_budget(&uid));
            }
            Event::Lag { operator, kind, millis } => {
                self.operator(operator, |operator| operator.cache.lag_until[kind] = now + millis);
            }
            Event::LagAll { operator, millis } => {
                self.operator(operator, |operator| operator.cache.lag_until.fill(now + millis));
            }
            Event::Lose { operator, after, effective } => {
                self.operator(operator, |operator| operator.loses = Some((after, effective)));
            }
            Event::Die { operator, after } => self.operator(operator, |operator| operator.dies_after = Some(after)),
            Event::Clock { operator, off } => self.operator(operator, |operator| operator.clock = off),
            Event::Second(millis) => self.second_until = now + millis,
            Event::Rotate(domains) => self.request(key::ROTATE_CA, Some(domains.into())),
            Event::RotateRefused(domains) => {
                self.refused_next.extend(domains.split(',').filter_map(Domain::parse));
                self.request(key::ROTATE_CA, Some(domains.into()));
            }
            Event::Days(days) => self.pass_days(days),
            Event::LoseAllBut(place) => self.lose_all_but(place),
            Event::Recreate => self.recreate(),
            Event::Quiet => self.etcd.is_quiet = true,
            Event::AddUnknown { learner } => drop(self.etcd.add_unknown(UNKNOWN, learner, now)),
        }
    }

    /// The version of the spec is changed, if the API server allows it.
    fn change_version(&mut self, version: &'static str) {
        let minor = |version: &str| Version::parse(version).map_or(0, |version| version.minor);
        let cluster = self.kubernetes.cluster();
        let old = minor(&cluster.spec.version);
        if cluster.spec.storage.empty_dir.is_some() && old != minor(version) {
            return;
        }
        // Before a cluster has come up, only a version that does not fit its data is changed.
        let has_come_up = cluster.status.as_ref().is_some_and(|status| status.version.is_some() && status.cluster_id.is_some());
        if old.abs_diff(minor(version)) < 2 && (has_come_up || self.etcd.versions.cluster == minor(version)) {
            self.edit_spec(|spec| spec.version = version.into());
        }
    }

    /// Days pass on a cluster that is as desired. It is looked at as often as needed to renew each certificate in time.
    fn pass_days(&mut self, days: u16) {
        self.heal();
        for _ in 0..days / DAYS {
            if !self.broken.is_empty() {
                return;
            }
            self.now += Millis::from(DAYS) * DAY;
            self.kubernetes.files_changed = true;
            self.operators.iter_mut().flatten().for_each(|operator| operator.wake(self.now));
            self.settle(SHORT);
        }
    }

    /// All volumes are lost but that of one voter, or of the first if that is none; unless the cluster has only just started, and has
    /// nothing to recover.
    fn lose_all_but(&mut self, place: Place) {
        let members = self.members();
        let has_come_up = self.kubernetes.cluster().status.as_ref().is_some_and(|status| status.cluster_id.is_some());
        if self.uses_pods() || !has_come_up || !members.iter().all(|m| m.learner || self.etcd.recorded.contains(&m.id)) {
            return;
        }
        let voters = || members.iter().filter(|m| !m.learner && self.lives(m).is_some());
        let Some(survivor) = voters().find(|m| m.place == place).or_else(|| voters().next()).copied() else { return };
        for other in members.iter().filter(|m| m.place != survivor.place && m.place < PLACES) {
            if self.rng.one_in(2) && self.kubernetes.delete_claim(other.place, None, self.now).is_ok() {
                self.kubernetes.delete_pod(other.place, self.now, &mut self.rng);
            } else if let Some(volume) = self.kubernetes.volume(other.place) {
                self.etcd.lose(volume);
            }
        }
    }

    /// A cluster that is as desired is deleted and created again. Its claims and CAs stay. With data in the pods nothing would stay.
    fn recreate(&mut self) {
        self.heal();
        if self.uses_pods() {
            return;
        }
        let old = self.kubernetes.cluster();
        let mut new = EtcdCluster::new("demo", old.spec.clone());
        let number = old.metadata.uid.as_deref().and_then(|uid| u32::from_str_radix(uid.get(24..)?, 16).ok()).unwrap_or_default();
        new.metadata = cluster_meta(number + 1);
        self.kubernetes.recreate_cluster(new);
    }

    fn operator(&mut self, index: u8, change: impl FnOnce(&mut Operator)) {
        if let Some(operator) = &mut self.operators[usize::from(index)] {
            change(operator);
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut EtcdCluster)) {
        let mut cluster = self.kubernetes.cluster().clone();
        change(&mut cluster);
        self.kubernetes.put_cluster(cluster);
    }

    fn edit_spec(&mut self, change: impl FnOnce(&mut EtcdClusterSpec)) {
        self.edit(|cluster| {
            change(&mut cluster.spec);
            cluster.metadata.generation = cluster.metadata.generation.map(|generation| generation + 1);
        });
    }

    fn request(&mut self, key: &str, value: Option<String>) {
        self.edit(|cluster| {
            let annotations = cluster.metadata.annotations.get_or_insert_default();
            match value {
                Some(value) => drop(annotations.insert(key.into(), value)),
                None => drop(annotations.remove(key)),
            }
        });
    }

    /// Nothing more happens to the world, and it has to become as desired and stay so.
    pub fn heal(&mut self) {
        self.note(|| "--- nothing more happens".into());
        self.second_until = 0;
        self.silent_until.fill(0);
        self.cut_until.fill(0);
        self.kubernetes.down_until.fill(0);
        self.etcd.processes.values_mut().for_each(|process| process.behind_until = 0);
        if let Some(operator) = &mut self.operators[0] {
            operator.cache.lag_until.fill(0);
            (operator.loses, operator.dies_after, operator.clock) = (None, None, 0);
        }
        self.settle(QUIET);
    }

    /// Until the world is as desired and nothing has happened for so long.
    fn settle(&mut self, quiet: Millis) {
        let end = self.now + PATIENCE;
        let mut good_since = self.now;
        let mut asked_at = self.now;
        while self.broken.is_empty() {
            self.go(TICK);
            if !self.is_as_desired() {
                good_since = self.now;
            }
            if self.now - good_since.max(self.written_at) >= quiet {
                return;
            }
            if self.now - good_since >= RESTLESS {
                self.broken.push("it is as desired for long, and still written to".into());
            }
            if self.now - asked_at >= 15_000 {
                asked_at = self.now;
                self.ask();
            }
            if self.now > end {
                self.broken.push("it does not become as desired".into());
            }
        }
    }

    /// What only a user can do: name the member whose volume came back empty, or the one to recover from, take back a request that
    /// names no member, and remove a member that is none of the cluster's.
    fn ask(&mut self) {
        if self.take_flag_back() {
            return;
        }
        let members = self.members();
        if let Some(survivor) = self.survivor(&members) {
            self.ask_to_recover(&survivor);
            return;
        }
        if let Some(unknown) = members.iter().find(|m| m.place >= PLACES) {
            let removed = self.etcd.leader.is_some_and(|leader| self.etcd.remove(leader, unknown.id, self.now).is_ok());
            self.note(|| format!("the user removes the unknown member: {removed}"));
            return;
        }
        if self.replace_refused() || self.go_back() || self.fit_version() {
            return;
        }
        let request = self.kubernetes.cluster().metadata.annotations.as_ref().and_then(|all| all.get(key::REPLACE)).cloned();
        let named = |m: &Listed| Some(member(m.place).to_string()) == request;
        let born = |m: &&Listed| self.etcd.born.contains(&m.id);
        // What was in a pod is known to be gone.
        let is_open = |m: &&Listed| !self.kubernetes.is_in_pod(m.place) && self.etcd.disk_of(m.id).is_none();
        let wiped = members.iter().filter(born).find(is_open).copied();
        match wiped {
            // There is one request at a time, and this one is needed.
            Some(wiped) if !named(&wiped) => {
                self.note(|| format!("the user asks for {} to be replaced", wiped.place));
                self.request(key::REPLACE, Some(member(wiped.place).to_string()));
            }
            None if request.is_some() && !members.iter().any(named) => self.request(key::REPLACE, None),
            _ => {}
        }
    }

    /// The user has an authority replaced that members refuse, as the status asks for.
    fn replace_refused(&mut self) -> bool {
        let conditions = self.kubernetes.cluster().status.iter().flat_map(|status| &status.conditions);
        let is_reported = conditions.into_iter().any(|condition| condition.reason == Reason::CertificateRefused.as_str());
        let is_refused = |domain: &Domain| {
            let secret = self.kubernetes.things.secret(Slot::authority(*domain));
            let authorities = secret.and_then(|secret| secret.authorities().ok());
            authorities.is_some_and(|authorities| self.refused.contains(authorities.next.common_name()))
        };
        let domains: Vec<_> = Domain::ALL.into_iter().filter(is_refused).map(|domain| domain.to_string()).collect();
        if !is_reported || domains.is_empty() {
            return false;
        }
        self.tell(|| format!("the user asks for another CA of {}", domains.join(",")));
        self.request(key::ROTATE_CA, Some(domains.join(",")));
        true
    }

    /// The user takes back a flag with which a member does not start, as its container's last words say.
    fn take_flag_back(&mut self) -> bool {
        let cluster = self.kubernetes.cluster();
        let is_refused = cluster.spec.etcd.extra_args.get("max-txn-ops").is_some_and(|value| value == "many");
        let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
        let is_down = |condition: &Condition| condition.type_ == "Degraded" && condition.message.contains("CrashLoopBackOff");
        let is_reported = conditions.into_iter().any(is_down);
        if is_refused && is_reported {
            self.tell(|| "the user takes the flag back".into());
            self.edit_spec(|spec| drop(spec.etcd.extra_args.remove("max-txn-ops")));
        }
        is_refused && is_reported
    }

    /// The user takes back a version that is refused, as the status asks for.
    fn go_back(&mut self) -> bool {
        let conditions = self.kubernetes.cluster().status.iter().flat_map(|status| &status.conditions);
        let is_refused = conditions.into_iter().any(|condition| condition.reason == Reason::CannotChangeVersion.as_str());
        if is_refused && self.kubernetes.cluster().spec.storage.empty_dir.is_some() {
            self.tell(|| "the user wants volumes until the version is changed".into());
            self.edit_spec(|spec| spec.storage = storage_spec(Storage::DEFAULT));
        } else if is_refused {
            self.tell(|| "the user changes the version to the one between".into());
            self.change_version("3.6.16");
        }
        is_refused
    }

    /// The user has created the cluster again, on data of another minor version, with which etcd does not start.
    fn fit_version(&mut self) -> bool {
        let (agreed, version) = (self.etcd.versions.cluster, self.kubernetes.cluster().spec.version.clone());
        let fits = Version::parse(&version).is_some_and(|version| version.minor == agreed);
        if fits || !self.etcd.processes.is_empty() || self.etcd.disks.is_empty() {
            return false;
        }
        self.tell(|| format!("the user changes the version to 3.{agreed}, which the data has"));
        self.change_version(["3.5.35", "3.6.16", "3.7.3"][agreed.min(7) as usize - 5]);
        true
    }

    /// The authorities of a domain change: the next one may be one whose certificates members refuse.
    pub fn changed(&mut self, domain: Domain, change: &Change) {
        let own = || self.members().iter().filter(|m| m.place < PLACES).count();
        match change {
            Change::Prepare { next, .. } if self.refused_next.contains(&domain) => {
                let name = next.common_name().to_owned();
                self.note(|| format!("members will refuse what {name:?} signs"));
                self.refused_next.retain(|other| *other != domain);
                self.refused.insert(name);
            }
            // In a cluster of one no other member can refuse its peer certificate. One that was added by hand never runs.
            Change::Switch { .. } if domain == Domain::Peer && own() <= 1 => self.refused.clear(),
            _ => {}
        }
    }

    /// The user insists if a recovery is refused, and knows why.
    fn ask_to_recover(&mut self, survivor: &MemberName) {
        let cluster = self.kubernetes.cluster();
        let request = cluster.metadata.annotations.as_ref().and_then(|all| all.get(key::RECOVER_FROM));
        let refused = cluster.status.iter().flat_map(|status| &status.conditions);
        let is_refused = refused.into_iter().any(|condition| condition.reason == Reason::RecoveryRefused.as_str());
        let next = match request {
            None => survivor.to_string(),
            Some(asked) if is_refused && asked == survivor.as_str() => format!("{survivor}{}", key::FORCE),
            Some(_) => return,
        };
        self.tell(|| format!("the user asks for a recovery from {next}"));
        self.request(key::RECOVER_FROM, Some(next));
    }

    /// The member to recover from, if no quorum can come again.
    pub fn survivor(&self, members: &[Listed]) -> Option<MemberName> {
        let voters = || members.iter().filter(|m| !m.learner);
        let living: Vec<_> = voters().filter_map(|m| Some((m, self.lives(m)?))).collect();
        let is_lost = self.etcd.leader.is_none() && living.len() <= voters().count() / 2;
        let furthest = living.into_iter().filter(|_| is_lost).max_by_key(|(_, volume)| self.etcd.disks[volume].committed());
        furthest.map(|(m, _)| member(m.place))
    }

    /// Whether the members are those that are desired, all of them are healthy, and nothing is left of others.
    fn is_as_desired(&self) -> bool {
        let Some(members) = self.etcd.members() else { return false };
        let cluster = self.kubernetes.cluster();
        let desired = usize::try_from(cluster.spec.replicas).unwrap_or_default();
        let is_member = |place: Place| members.iter().any(|m| m.place == place);
        let things = &self.kubernetes.things;
        let restarted = cluster.metadata.annotations.as_ref().and_then(|all| all.get(key::RESTARTED_AT));
        let is_rotated = |domain| {
            let secret = things.secret(Slot::authority(domain));
            secret.and_then(|secret| secret.authorities().ok()).is_some_and(|authorities| authorities.rotation.is_none())
        };
        let requested = cluster.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key::ROTATE_CA));
        let complete = |place: Place| {
            let pod = things.pod(Slot::Pod(place));
            let made = pod.and_then(|pod| pod.metadata.annotations.as_ref()?.get(key::RESTARTED_AT));
            let runs = self.etcd.processes.get(&place).map(|process| process.version.to_string());
            let settings = |meta: Option<&ObjectMeta>| meta?.annotations.as_ref()?.get(key::SETTINGS).cloned();
            let desired = things.set(Slot::Set(place)).and_then(|set| settings(set.spec.template.metadata.as_ref()));
            pod.is_some_and(|pod| pod_ready(pod))
                && runs.as_ref() == Some(&cluster.spec.version)
                && settings(pod.map(|pod| &pod.metadata)) == desired
                && self.kubernetes.has_resources(place)
                && (restarted.is_none() || made == restarted)
                && things.set(Slot::Set(place)).is_some()
                && self.is_stored(place)
        };
        let nothing = |place: Place| {
            things.pod(Slot::Pod(place)).is_none()
                && things.set(Slot::Set(place)).is_none()
                && things.claim(Slot::Claim(place)).is_none()
        };
        members.len() == desired
            && members.iter().all(|m| !m.learner && self.is_healthy(m))
            && !requested
            && Domain::ALL.into_iter().all(is_rotated)
            && (0..PLACES).all(|place| if is_member(place) { complete(place) } else { nothing(place) })
            && self.operators[0].as_ref().is_some_and(|operator| operator.idle())
    }

    /// Whether a member has its data where it is desired.
    fn is_stored(&self, place: Place) -> bool {
        let desired = &self.kubernetes.cluster().spec.storage;
        if let Some(volume) = &desired.empty_dir {
            return self.kubernetes.is_in_pod(place) && self.kubernetes.is_in_memory(place) == (volume.medium == Medium::Memory);
        }
        self.kubernetes.things.claim(Slot::Claim(place)).is_some_and(|claim| {
            let (has, asks) = (capacity(claim), requested_size(claim));
            claim.metadata.deletion_timestamp.is_none()
                && class_of(claim) == desired.storage_class_name.as_ref()
                && has == Some(&desired.size)
                && asks == Some(&desired.size)
        })
    }

    /// Whether a kubelet has found a member to be ready.
    pub fn is_ready(&self, listed: &Listed) -> bool {
        self.kubernetes.pods.get(&listed.place).is_some_and(|kept| kept.ready)
    }

    /// Whether a member is healthy, as an operator could see now.
    pub fn is_healthy(&self, listed: &Listed) -> bool {
        let process = self.etcd.processes.get(&listed.place).filter(|process| process.id == listed.id);
        let kept = self.kubernetes.pods.get(&listed.place);
        process.is_some_and(|process| process.serving)
            && self.etcd.follows(listed.place)
            && kept.is_some_and(|kept| kept.deleting.is_none())
            && self.silent_until[usize::from(listed.place)] <= self.now
    }

    /// Members whose process is about to end.
    fn doomed(&self) -> Vec<Place> {
        self.kubernetes.pods.iter().filter(|(_, kept)| kept.deleting.is_some()).map(|(place, _)| *place).collect()
    }

    /// Whether those that will go on are a quorum.
    pub fn has_quorum(&self) -> bool {
        self.etcd.has_quorum(&self.doomed())
    }

    /// An operator has decided, on what it read in this very moment.
    pub fn decide(&mut self) {
        self.decided = (self.now, self.surprises);
    }

    /// Whether nothing can have happened since.
    pub fn is_as_decided(&self) -> bool {
        self.decided == (self.now, self.surprises)
    }

    /// Whether nothing has happened since, but for what operators did and what follows from that.
    pub fn is_unsurprised(&self) -> bool {
        self.decided.1 == self.surprises
    }

    /// What was recorded.
    pub fn lines(&self) -> String {
        self.trace.iter().flat_map(|trace| &trace.lines).fold(String::new(), |text, line| text + line + "\n")
    }

    /// The state of a world that went wrong.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        let mut line = |what: String| {
            text.push_str(&what);
            text.push('\n');
        };
        line(format!("members (leader at {:?}):", self.etcd.leader));
        for m in self.members() {
            let process = self.etcd.processes.get(&m.place).map(|p| (p.id == m.id, p.serving));
            line(format!(
                "  {} {:x} learner {} named {} process {process:?} disk {:?}",
                m.place,
                m.id,
                m.learner,
                m.named,
                self.lives(&m)
            ));
        }
        for (place, kept) in &self.kubernetes.pods {
            line(format!("  pod {place} {} running {} deleting {:?}", kept.uid, kept.running(), kept.deleting));
        }
        let cluster = self.kubernetes.cluster();
        line(format!("desired {} {:?}", cluster.spec.replicas, cluster.metadata.annotations));
        for condition in cluster.status.iter().flat_map(|status| &status.conditions) {
            line(format!("  {} {} {}: {}", condition.type_, condition.status, condition.reason, condition.message));
        }
        text
    }
}
