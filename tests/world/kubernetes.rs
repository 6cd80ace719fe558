//! A model of Kubernetes: objects with versions and the watches that tell of them, the StatefulSet controller, kubelets, claims
//! and their volumes, evictions and the disruption budget.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use etcd_warden::{
    api::EtcdCluster,
    cache::slim,
    certificates::secret::CachedSecret,
    cluster::objects::{MetadataChanges, StartState, class_of, is_forced, requested_size, start_state},
    etcd::Version,
    ids::Uid,
    kubernetes::{
        cached::Cached,
        object::{Object, ObjectVersion},
        ownership::annotation,
        resources::Resources,
        secret::SecretView,
    },
    member_pod::{data_in_pod, etcd_container},
    names::{MemberName, Names, annotation as key, bootstrap_key},
    pki::Domain,
};
use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetStatus},
        core::v1::{
            ConfigMap, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
            PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod, PodCondition, PodSpec, PodStatus, ResourceRequirements,
            Service,
        },
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{ObjectMeta, Time},
        util::intstr::IntOrString,
    },
};
use kube::Resource;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    certificates,
    etcd::{Etcd, Millis, Place, Start, Volume},
    rng::Rng,
    time,
};

/// How many ordinals there are.
pub const PLACES: Place = 10;

/// Where an object is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    Cluster,
    Bootstrap,
    CaConfig,
    PeerService,
    ClientService,
    Budget,
    ClientCa,
    PeerCa,
    Operator,
    Claim(Place),
    Set(Place),
    Pod(Place),
    Secret(Place),
}

const SLOTS: usize = 9 + 4 * PLACES as usize;
/// The kinds that are watched, each by a watch of its own.
pub const KINDS: usize = 8;

impl Slot {
    /// That of a domain's authorities.
    pub fn authority(domain: Domain) -> Self {
        match domain {
            Domain::Client => Self::ClientCa,
            Domain::Peer => Self::PeerCa,
        }
    }

    /// That of the Secret with this name.
    pub fn secret(name: &str) -> Option<Self> {
        let names = names();
        if name == names.operator_secret() {
            return Some(Self::Operator);
        }
        let authority = Domain::ALL.into_iter().find(|domain| name == names.authority(*domain)).map(Self::authority);
        authority.or_else(|| named(name, |member| names.member_secret(member)).map(Self::Secret))
    }

    fn index(self) -> usize {
        let member = |kind: usize, place: Place| 9 + kind * usize::from(PLACES) + usize::from(place);
        match self {
            Self::Cluster => 0,
            Self::Bootstrap => 1,
            Self::CaConfig => 2,
            Self::PeerService => 3,
            Self::ClientService => 4,
            Self::Budget => 5,
            Self::ClientCa => 6,
            Self::PeerCa => 7,
            Self::Operator => 8,
            Self::Claim(place) => member(0, place),
            Self::Set(place) => member(1, place),
            Self::Pod(place) => member(2, place),
            Self::Secret(place) => member(3, place),
        }
    }

    fn kind(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Bootstrap | Self::CaConfig => 1,
            Self::PeerService | Self::ClientService => 2,
            Self::Budget => 3,
            Self::ClientCa | Self::PeerCa | Self::Operator | Self::Secret(_) => 4,
            Self::Claim(_) => 5,
            Self::Set(_) => 6,
            Self::Pod(_) => 7,
        }
    }
}

/// An object.
#[derive(Clone)]
pub enum Thing {
    Cluster(Cached<EtcdCluster>),
    Config(Cached<ConfigMap>),
    Service(Cached<Service>),
    Budget(Cached<PodDisruptionBudget>),
    Secret(CachedSecret),
    Claim(Cached<PersistentVolumeClaim>),
    Set(Cached<StatefulSet>),
    Pod(Cached<Pod>),
}

impl Thing {
    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Cluster(thing) => &thing.metadata,
            Self::Config(thing) => &thing.metadata,
            Self::Service(thing) => &thing.metadata,
            Self::Budget(thing) => &thing.metadata,
            Self::Secret(thing) => &thing.meta,
            Self::Claim(thing) => &thing.metadata,
            Self::Set(thing) => &thing.metadata,
            Self::Pod(thing) => &thing.metadata,
        }
    }
}

/// What a watch has reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum News {
    None,
    /// That a status has been written. The real operator looks at that at once, and here it waits for the next pass: it would be
    /// every fifth one and would hardly ever find anything.
    Status,
    Other,
}

/// Whether two states of a cluster's object differ in nothing that is validated: with each change of the spec its generation grows.
pub fn is_validated_as(one: &EtcdCluster, other: &EtcdCluster) -> bool {
    let (one, other) = (&one.metadata, &other.metadata);
    (&one.uid, one.generation, &one.annotations) == (&other.uid, other.generation, &other.annotations)
}

/// Objects by their slots: what the API server has, or what a watch has reported.
#[derive(Clone)]
pub struct Things(Vec<Option<Thing>>);

macro_rules! getter {
    ($name:ident, $variant:ident, $type:ty) => {
        pub fn $name(&self, slot: Slot) -> Option<&$type> {
            match self.0[slot.index()].as_ref()? {
                Thing::$variant(thing) => Some(thing),
                _ => None,
            }
        }
    };
}

impl Things {
    fn new() -> Self {
        Self(vec![None; SLOTS])
    }
    getter!(cluster, Cluster, Cached<EtcdCluster>);
    getter!(config, Config, Cached<ConfigMap>);
    getter!(service, Service, Cached<Service>);
    getter!(budget, Budget, Cached<PodDisruptionBudget>);
    getter!(secret, Secret, CachedSecret);
    getter!(claim, Claim, Cached<PersistentVolumeClaim>);
    getter!(set, Set, Cached<StatefulSet>);
    getter!(pod, Pod, Cached<Pod>);
}

/// What a watch has reported so far.
#[derive(Clone)]
pub struct Cache {
    pub things: Things,
    seen: [usize; KINDS],
    /// Until when each watch is silent.
    pub lag_until: [Millis; KINDS],
}

/// Why a write was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is not what it was, or is there already.
    Conflict,
    NotFound,
    /// The disruption budget.
    Budget,
}

#[derive(Clone, Debug)]
enum Container {
    Waiting { until: Millis },
    Running { since: Millis },
}

/// What a kubelet knows of a pod.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Kept {
    pub uid: String,
    volume: Option<Volume>,
    /// Whether that is a volume of the pod itself.
    pub in_pod: bool,
    /// Whether that is in memory.
    in_memory: bool,
    container: Container,
    crashes: u32,
    started: bool,
    pub deleting: Option<Millis>,
    pub ready: bool,
    probe_at: Millis,
    /// The files that the container sees.
    pub mounted: Option<CachedSecret>,
    /// The files that the process has started with: it reads trust bundles once.
    pub started_with: Option<CachedSecret>,
    /// Whether it starts as a cluster of one (`--force-new-cluster`).
    forced: bool,
    /// The version in the pod's image.
    version: Version,
    /// Whether its process writes a snapshot of raft's log soon.
    snapshots: bool,
    /// Whether it has a flag that etcd does not accept.
    is_refused: bool,
    refresh_at: Option<Millis>,
    /// The generation of the pod that the kubelet has seen, and when it looks at a newer one.
    observed: i64,
    resize_at: Option<Millis>,
    /// What the container has been given, and whether its node does not give it what it is to have.
    given: Option<ResourceRequirements>,
    infeasible: bool,
}

impl Kept {
    pub fn running(&self) -> bool {
        matches!(self.container, Container::Running { .. })
    }
}

#[derive(Clone)]
pub struct Kubernetes {
    pub things: Things,
    log: [Vec<(Slot, Option<Thing>)>; KINDS],
    version: u64,
    pub pods: BTreeMap<Place, Kept>,
    /// When a controller looks at a StatefulSet next.
    set_at: [Millis; PLACES as usize],
    /// Nodes that are down, and until when.
    pub down_until: [Millis; PLACES as usize],
    volumes: BTreeMap<String, Volume>,
    next_volume: Volume,
    /// Whether there may be objects of a cluster that was deleted.
    collects_garbage: bool,
    /// Whether a file that something trusts or presents has changed since this was last reset.
    pub files_changed: bool,
    /// Whether the API server changes the resources of running pods.
    pub resizes: bool,
    /// What went wrong that must not.
    pub broken: Vec<String>,
}

pub fn names() -> &'static Names {
    static NAMES: LazyLock<Names> = LazyLock::new(|| Names::new("demo", "ns", "cluster.local"));
    &NAMES
}

pub fn member(place: Place) -> MemberName {
    static MEMBERS: LazyLock<[MemberName; PLACES as usize]> =
        LazyLock::new(|| std::array::from_fn(|place| names().member(u32::try_from(place).expect("it is small"))));
    MEMBERS[usize::from(place)].clone()
}

pub fn place(member: &MemberName) -> Place {
    Place::try_from(member.ordinal()).unwrap_or(PLACES)
}

/// The place of the member of which one kind of object, named like this, has this name.
pub fn named(name: &str, name_of: impl Fn(&MemberName) -> String) -> Option<Place> {
    (0..PLACES).find(|place| name_of(&member(*place)) == name)
}

/// The version in the image of a pod.
fn version(pod: Option<&PodSpec>) -> Version {
    let image = pod.and_then(etcd_container).and_then(|container| container.image.as_deref());
    image.and_then(|image| Version::parse(image.rsplit_once(":v")?.1)).expect("the image has a version as its tag")
}

/// The resources of etcd's container in the spec of a pod, with those that the API server gives it.
fn resources(pod: Option<&Cached<Pod>>) -> Option<ResourceRequirements> {
    etcd_container(pod?.spec.as_ref()?)?.resources.clone()
}

/// A flag with a value that etcd does not accept.
const REFUSED_FLAG: &str = "--max-txn-ops=many";

/// Whether the process in a pod has a flag.
fn has_flag(pod: Option<&PodSpec>, flag: &str) -> bool {
    let arguments = pod.and_then(etcd_container).and_then(|container| container.args.as_ref());
    arguments.into_iter().flatten().any(|argument| argument.starts_with(flag))
}

impl Kubernetes {
    pub fn new(cluster: EtcdCluster) -> Self {
        let mut new = Self {
            things: Things::new(),
            log: Default::default(),
            version: 0,
            pods: BTreeMap::new(),
            set_at: [0; PLACES as usize],
            down_until: [0; PLACES as usize],
            volumes: BTreeMap::new(),
            next_volume: 0,
            collects_garbage: false,
            files_changed: false,
            resizes: true,
            broken: vec![],
        };
        new.put_cluster(cluster);
        new
    }

    /// Everything that was reported is forgotten, so that copies are small; only caches that are up to date stay valid.
    pub fn forget(&mut self) {
        self.log = Default::default();
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    fn put(&mut self, slot: Slot, thing: Option<Thing>) {
        self.things.0[slot.index()].clone_from(&thing);
        self.log[slot.kind()].push((slot, thing));
    }

    /// A cache that has just been filled.
    pub fn list(&self) -> Cache {
        Cache { things: self.things.clone(), seen: std::array::from_fn(|kind| self.log[kind].len()), lag_until: [0; KINDS] }
    }

    /// What watches tell until now.
    pub fn watch(&self, cache: &mut Cache, now: Millis) -> News {
        let mut news = News::None;
        for kind in 0..KINDS {
            if cache.lag_until[kind] > now {
                continue;
            }
            for (slot, thing) in &self.log[kind][cache.seen[kind]..] {
                let known = &mut cache.things.0[slot.index()];
                news = news.max(match (known.as_ref(), thing.as_ref()) {
                    (Some(Thing::Cluster(one)), Some(Thing::Cluster(other))) if is_validated_as(one, other) => News::Status,
                    _ => News::Other,
                });
                known.clone_from(thing);
            }
            cache.seen[kind] = self.log[kind].len();
        }
        news
    }

    pub fn cluster(&self) -> &EtcdCluster {
        self.things.cluster(Slot::Cluster).expect("it is never deleted")
    }

    pub fn put_cluster(&mut self, mut cluster: EtcdCluster) {
        cluster.metadata.resource_version = Some(self.next_version());
        self.put(Slot::Cluster, Some(Thing::Cluster(cluster.into())));
    }

    pub fn put_secret(&mut self, slot: Slot, mut secret: SecretView) {
        self.files_changed |= slot == Slot::Operator;
        secret.meta.resource_version = Some(self.next_version());
        let derived = certificates::derived(&secret);
        self.put(slot, Some(Thing::Secret(Cached::new(Arc::new(secret), derived))));
    }

    fn put_claim(&mut self, place: Place, mut claim: PersistentVolumeClaim) {
        claim.metadata.resource_version = Some(self.next_version());
        self.put(Slot::Claim(place), Some(Thing::Claim(claim.into())));
    }

    /// Writes the status of a StatefulSet. What was derived from it is about what is applied, and that stays.
    fn put_set_status(&mut self, place: Place, old: &Cached<StatefulSet>, status: StatefulSetStatus) {
        let mut set = StatefulSet::clone(old);
        set.status = Some(status);
        set.metadata.resource_version = Some(self.next_version());
        self.put(Slot::Set(place), Some(Thing::Set(Cached::new(Arc::new(set), old.derived().clone()))));
    }

    pub fn put_pod(&mut self, place: Place, mut pod: Pod) {
        pod.metadata.resource_version = Some(self.next_version());
        self.put(Slot::Pod(place), Some(Thing::Pod(pod.into())));
    }

    /// The cluster's object is deleted, everything that it owns goes with it, and another one of its name is created.
    pub fn recreate_cluster(&mut self, cluster: EtcdCluster) {
        self.put_cluster(cluster);
        self.collects_garbage = true;
    }

    /// Deletes objects whose owner does not exist: what the previous cluster had, and what an operator that has not seen the new one
    /// still creates.
    fn collect_garbage(&mut self) {
        let uid = self.cluster().metadata.uid.clone().unwrap_or_default();
        let owned = [
            Slot::Bootstrap,
            Slot::CaConfig,
            Slot::PeerService,
            Slot::ClientService,
            Slot::Budget,
            Slot::ClientCa,
            Slot::PeerCa,
            Slot::Operator,
        ];
        let members = (0..PLACES).flat_map(|place| [Slot::Set(place), Slot::Secret(place)]);
        for slot in owned.into_iter().chain(members) {
            let owners = self.things.0[slot.index()].iter().flat_map(|thing| thing.meta().owner_references.iter().flatten());
            if owners.into_iter().any(|owner| owner.uid != uid) {
                self.put(slot, None);
            }
        }
    }

    /// Server-side apply, as `kubernetes::apply` uses it.
    pub fn apply(&mut self, object: &Object) -> Result<(), Refused> {
        let names = names();
        let of = |name_of: fn(&MemberName) -> String| named(&object.name, name_of).expect("a member's object");
        let slot = match object.resource.kind.as_str() {
            "StatefulSet" => Slot::Set(of(MemberName::to_string)),
            "PersistentVolumeClaim" => Slot::Claim(of(|member| self::names().claim(member))),
            "PodDisruptionBudget" => Slot::Budget,
            "Service" if object.name == names.peer_service() => Slot::PeerService,
            "Service" => Slot::ClientService,
            "ConfigMap" if object.name == names.ca_config() => Slot::CaConfig,
            "ConfigMap" => Slot::Bootstrap,
            other => panic!("the operator applies no {other}"),
        };
        let version = self.next_version();
        self.files_changed |= slot == Slot::CaConfig;
        let thing = match self.things.0[slot.index()].clone() {
            Some(Thing::Set(old)) => Thing::Set(changed(&old, object, &version)?),
            Some(Thing::Claim(old)) => {
                let new = changed(&old, object, &version)?;
                self.check_claim(&old, &new);
                Thing::Claim(new)
            }
            Some(Thing::Budget(old)) => Thing::Budget(changed(&old, object, &version)?),
            Some(Thing::Service(old)) => Thing::Service(changed(&old, object, &version)?),
            Some(Thing::Config(old)) => Thing::Config(changed(&old, object, &version)?),
            Some(_) => panic!("{slot:?} is another kind"),
            None if object.seen.is_some() => return Err(Refused::Conflict),
            None => match slot {
                Slot::Set(_) => Thing::Set(made(object, &version)),
                Slot::Claim(_) => Thing::Claim(bound(&made(object, &version))),
                Slot::Budget => Thing::Budget(made(object, &version)),
                Slot::PeerService | Slot::ClientService => Thing::Service(made(object, &version)),
                _ => Thing::Config(made(object, &version)),
            },
        };
        self.put(slot, Some(thing));
        Ok(())
    }

    /// What the API server refuses to change in a claim.
    fn check_claim(&mut self, old: &PersistentVolumeClaim, new: &PersistentVolumeClaim) {
        let shrinks = requested_size(new).zip(requested_size(old)).is_some_and(|(new, old)| is_less(new, old));
        if shrinks || class_of(new) != class_of(old) {
            self.broken.push(format!("claim {:?} is changed in a way that the API server refuses", old.metadata.name));
        }
    }

    /// Merges annotations into a StatefulSet that must be the one with this uid.
    pub fn annotate_set(&mut self, place: Place, uid: &Uid, annotations: &BTreeMap<&'static str, String>) -> Result<(), Refused> {
        let set = self.things.set(Slot::Set(place)).ok_or(Refused::NotFound)?;
        check(&set.metadata, uid)?;
        let mut set = StatefulSet::clone(set);
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        set.metadata.annotations.get_or_insert_default().extend(annotations);
        set.metadata.resource_version = Some(self.next_version());
        self.put(Slot::Set(place), Some(Thing::Set(set.into())));
        Ok(())
    }

    /// Merges annotations into a claim that must be the one with this uid.
    pub fn annotate_claim(
        &mut self,
        place: Place,
        uid: &Uid,
        annotations: &BTreeMap<&'static str, String>,
    ) -> Result<(), Refused> {
        let claim = self.things.claim(Slot::Claim(place)).ok_or(Refused::NotFound)?;
        check(&claim.metadata, uid)?;
        let mut claim = PersistentVolumeClaim::clone(claim);
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        claim.metadata.annotations.get_or_insert_default().extend(annotations);
        self.put_claim(place, claim);
        Ok(())
    }

    /// Merges labels and annotations into a pod that must be the one with this uid.
    pub fn patch_pod(
        &mut self,
        place: Place,
        uid: &Uid,
        changes: &MetadataChanges,
        now: Millis,
        rng: &mut Rng,
    ) -> Result<(), Refused> {
        let pod = self.things.pod(Slot::Pod(place)).ok_or(Refused::NotFound)?;
        check(&pod.metadata, uid)?;
        let mut pod = Pod::clone(pod);
        changes.apply_to(&mut pod.metadata);
        self.put_pod(place, pod);
        // The kubelet refreshes the files of a pod when the pod changes.
        if let Some(kept) = self.pods.get_mut(&place) {
            kept.refresh_at = Some(now + rng.between(100, 1_500));
        }
        Ok(())
    }

    pub fn delete_budget(&mut self, uid: &Uid) -> Result<(), Refused> {
        let existing = self.things.budget(Slot::Budget).ok_or(Refused::NotFound)?;
        check(&existing.metadata, uid)?;
        self.put(Slot::Budget, None);
        Ok(())
    }

    pub fn delete_set(&mut self, place: Place, uid: &Uid) -> Result<(), Refused> {
        let existing = self.things.set(Slot::Set(place)).ok_or(Refused::NotFound)?;
        check(&existing.metadata, uid)?;
        self.put(Slot::Set(place), None);
        Ok(())
    }

    /// The claim stays until no pod uses it (`pvc-protection`).
    pub fn delete_claim(&mut self, place: Place, uid: Option<&Uid>, now: Millis) -> Result<(), Refused> {
        let existing = self.things.claim(Slot::Claim(place)).ok_or(Refused::NotFound)?;
        if let Some(uid) = uid {
            check(&existing.metadata, uid)?;
        }
        if existing.metadata.deletion_timestamp.is_none() {
            let mut claim = PersistentVolumeClaim::clone(existing);
            claim.metadata.deletion_timestamp = Some(Time(time(now)));
            self.put_claim(place, claim);
        }
        Ok(())
    }

    /// A pod is to go: its process gets its signal, and it is gone when that has ended.
    pub fn delete_pod(&mut self, place: Place, now: Millis, rng: &mut Rng) {
        let Some(kept) = self.pods.get_mut(&place).filter(|kept| kept.deleting.is_none()) else { return };
        kept.deleting = Some(now + rng.between(200, 2_000));
        kept.ready = false;
        self.show(place, now);
    }

    /// The same with a pod that must be the one with this uid.
    pub fn delete_pod_with(&mut self, place: Place, uid: &Uid, now: Millis, rng: &mut Rng) -> Result<(), Refused> {
        let kept = self.pods.get(&place).ok_or(Refused::NotFound)?;
        if kept.uid != uid.as_str() {
            return Err(Refused::Conflict);
        }
        self.delete_pod(place, now, rng);
        Ok(())
    }

    /// The Eviction API (`registry/core/pod/storage/eviction.go`), where a pod that is not ready may always go.
    pub fn evict(&mut self, place: Place, uid: Option<&Uid>, now: Millis, rng: &mut Rng) -> Result<(), Refused> {
        let kept = self.pods.get(&place).filter(|kept| kept.deleting.is_none()).ok_or(Refused::NotFound)?;
        if uid.is_some_and(|uid| kept.uid != uid.as_str()) {
            return Err(Refused::Conflict);
        }
        let budget = self.things.budget(Slot::Budget).and_then(|budget| budget.spec.as_ref()?.min_available.clone());
        if let Some(IntOrString::Int(least)) = budget.filter(|_| kept.ready) {
            let healthy = self.pods.values().filter(|kept| kept.ready && kept.deleting.is_none()).count();
            if i32::try_from(healthy).unwrap_or_default() <= least {
                return Err(Refused::Budget);
            }
        }
        self.delete_pod(place, now, rng);
        Ok(())
    }

    /// The volume with a member's data: that of its pod, or the one that its claim is bound to.
    pub fn volume(&self, place: Place) -> Option<Volume> {
        let in_pod = self.pods.get(&place).filter(|kept| kept.in_pod);
        in_pod.map_or_else(|| self.claimed(place), |kept| kept.volume)
    }

    /// Whether a member has its data in its pod.
    pub fn is_in_pod(&self, place: Place) -> bool {
        self.pods.get(&place).is_some_and(|kept| kept.in_pod)
    }

    /// Whether a member has its data in memory, which is lost when its node is started again.
    pub fn is_in_memory(&self, place: Place) -> bool {
        self.pods.get(&place).is_some_and(|kept| kept.in_memory)
    }

    /// The volume that a member's claim is bound to.
    fn claimed(&self, place: Place) -> Option<Volume> {
        self.volumes.get(self.things.claim(Slot::Claim(place))?.metadata.uid.as_deref()?).copied()
    }

    /// What controllers and kubelets do by themselves.
    pub fn tick(&mut self, etcd: &mut Etcd, now: Millis, rng: &mut Rng) {
        if self.collects_garbage {
            self.collect_garbage();
        }
        for place in 0..PLACES {
            if self.is_empty(place) {
                self.set_at[usize::from(place)] = 0;
                continue;
            }
            self.bind(place, etcd, rng);
            self.control(place, now, rng);
            if self.pods.contains_key(&place) && self.down_until[usize::from(place)] <= now {
                self.keep(place, etcd, now, rng);
            } else if self.pods.contains_key(&place) {
                etcd.stop(place);
                self.probe(place, false, now);
            }
        }
    }

    /// Whether a member has neither claim nor StatefulSet nor pod.
    fn is_empty(&self, place: Place) -> bool {
        let is_none = |slot: Slot| self.things.0[slot.index()].is_none();
        is_none(Slot::Claim(place)) && is_none(Slot::Set(place)) && !self.pods.contains_key(&place)
    }

    /// Claims are bound when they are created, their volumes grow when they ask for more, and they are gone when no pod uses them.
    fn bind(&mut self, place: Place, etcd: &mut Etcd, rng: &mut Rng) {
        let Some(claim) = self.things.claim(Slot::Claim(place)) else { return };
        let uid = claim.metadata.uid.as_deref().unwrap_or_default();
        if claim.metadata.deletion_timestamp.is_some() && !self.pods.contains_key(&place) {
            if let Some(volume) = self.volumes.remove(uid) {
                etcd.lose(volume);
            }
            self.put(Slot::Claim(place), None);
        } else if !self.volumes.contains_key(uid) {
            self.next_volume += 1;
            self.volumes.insert(uid.to_owned(), self.next_volume);
        } else if is_small(claim) && rng.one_in(12) {
            let mut claim = PersistentVolumeClaim::clone(claim);
            claim.status.clone_from(&bound(&claim.clone().into()).status);
            self.put_claim(place, claim);
        }
    }

    /// The StatefulSet controller and the garbage collector.
    fn control(&mut self, place: Place, now: Millis, rng: &mut Rng) {
        let at = &mut self.set_at[usize::from(place)];
        let Some(set) = self.things.set(Slot::Set(place)) else {
            *at = 0;
            if self.pods.contains_key(&place) {
                self.delete_pod(place, now, rng);
            }
            return;
        };
        let (stopped, has_pod) = (set.spec.replicas == Some(0), self.pods.contains_key(&place));
        // Of the number of pods only whether it has come to 0 is of interest.
        let replicas = i32::from(!stopped || has_pod);
        let is_current =
            |status: &StatefulSetStatus| status.observed_generation == set.metadata.generation && status.replicas == replicas;
        let current = set.status.as_ref().is_some_and(is_current);
        if current && has_pod != stopped {
            *at = 0;
            return;
        }
        if *at == 0 {
            *at = now + rng.between(50, 600);
        }
        if *at > now {
            return;
        }
        *at = 0;
        let set = set.clone();
        if !current {
            let mut status = set.status.clone().unwrap_or_default();
            (status.observed_generation, status.replicas) = (set.metadata.generation, replicas);
            status.update_revision = annotation(&set.metadata, key::APPLIED).map(str::to_owned);
            self.put_set_status(place, &set, status);
        }
        if stopped {
            self.delete_pod(place, now, rng);
        } else if !has_pod {
            self.make_pod(place, &set, now, rng);
        }
    }

    fn make_pod(&mut self, place: Place, set: &StatefulSet, now: Millis, rng: &mut Rng) {
        let uid = format!("pod-{}", self.version);
        let mut meta = set.spec.template.metadata.clone().unwrap_or_default();
        let in_pod = set.spec.template.spec.as_ref().and_then(data_in_pod);
        self.next_volume += u32::from(in_pod.is_some());
        let revision = annotation(&set.metadata, key::APPLIED).unwrap_or_default().to_owned();
        meta.labels.get_or_insert_default().insert("controller-revision-hash".into(), revision);
        (meta.name, meta.uid, meta.generation) = (Some(names().pod(&member(place))), Some(uid.clone()), Some(1));
        self.pods.insert(
            place,
            Kept {
                uid,
                volume: in_pod.map(|_| self.next_volume),
                in_pod: in_pod.is_some(),
                in_memory: in_pod.is_some_and(|volume| volume.medium.as_deref() == Some("Memory")),
                container: Container::Waiting { until: now + rng.between(200, 2_500) },
                crashes: 0,
                started: false,
                deleting: None,
                ready: false,
                probe_at: 0,
                mounted: None,
                started_with: None,
                forced: is_forced(set.spec.template.spec.as_ref()),
                version: version(set.spec.template.spec.as_ref()),
                snapshots: has_flag(set.spec.template.spec.as_ref(), "--snapshot-count="),
                is_refused: has_flag(set.spec.template.spec.as_ref(), REFUSED_FLAG),
                refresh_at: None,
                observed: 1,
                resize_at: None,
                given: None,
                infeasible: false,
            },
        );
        let mut pod = Pod { metadata: meta, spec: set.spec.template.spec.clone(), ..Pod::default() };
        // Operators keep no more of it.
        slim(&mut pod);
        let given =
            pod.spec.iter_mut().flat_map(|spec| &mut spec.containers).filter_map(|container| container.resources.as_mut());
        given.for_each(|given| Resources::of(&given.clone(), []).iter().for_each(|resources| resources.apply_to(given)));
        self.put_pod(place, pod);
    }

    /// A kubelet.
    fn keep(&mut self, place: Place, etcd: &mut Etcd, now: Millis, rng: &mut Rng) {
        let kept = self.pods.get_mut(&place).expect("it is there");
        if let Some(gone_at) = kept.deleting {
            etcd.stop(place);
            if gone_at <= now {
                let volume = kept.volume.filter(|_| kept.in_pod);
                if let Some(volume) = volume {
                    etcd.lose(volume);
                }
                self.pods.remove(&place);
                self.put(Slot::Pod(place), None);
            }
            return;
        }
        if kept.refresh_at.is_some_and(|at| at <= now) {
            kept.refresh_at = None;
            kept.mounted = self.things.secret(Slot::Secret(place)).cloned();
            self.files_changed = true;
        }
        if kept.resize_at.is_some_and(|at| at <= now) {
            self.give(place);
            self.show(place, now);
        }
        let kept = self.pods.get_mut(&place).expect("it is there");
        match kept.container {
            Container::Running { since: _ } if !etcd.processes.contains_key(&place) => {
                // The back-off of restarts, shorter than in reality.
                kept.crashes += 1;
                let delay = 1_000 << kept.crashes.min(5);
                kept.container = Container::Waiting { until: now + delay };
                kept.ready = false;
                self.show(place, now);
            }
            Container::Running { .. } => {
                // The readiness probe of a cluster of one fails, so that no client reaches it.
                let ready = etcd.processes[&place].serving && etcd.follows(place) && !is_learner(etcd, place) && !kept.forced;
                if ready != kept.ready && kept.probe_at == 0 {
                    kept.probe_at = now + if ready { rng.between(100, 1_500) } else { rng.between(1_000, 8_000) };
                }
                self.probe(place, ready, now);
            }
            Container::Waiting { until } if until <= now => self.start(place, etcd, now, rng),
            Container::Waiting { .. } => {}
        }
    }

    fn probe(&mut self, place: Place, ready: bool, now: Millis) {
        let kept = self.pods.get_mut(&place).expect("it is there");
        if ready == kept.ready {
            kept.probe_at = 0;
        } else if kept.probe_at == 0 {
            kept.probe_at = now + 3_000;
        } else if kept.probe_at <= now {
            (kept.ready, kept.probe_at) = (ready, 0);
            self.show(place, now);
        }
    }

    fn start(&mut self, place: Place, etcd: &mut Etcd, now: Millis, rng: &mut Rng) {
        let volume = self.things.claim(Slot::Claim(place)).filter(|claim| claim.metadata.deletion_timestamp.is_none());
        let volume = volume.and_then(|_| self.claimed(place));
        if let Some(claim) = self.things.claim(Slot::Claim(place)).filter(|_| volume.is_some())
            && let Some(survivor) = annotation(&claim.metadata, key::DISCARDED_FOR)
        {
            self.broken.push(format!("{place} starts with data that was discarded in favor of {survivor}"));
        }
        let secret = self.things.secret(Slot::Secret(place)).cloned();
        let env = self.env(place);
        let kept = self.pods.get_mut(&place).expect("it is there");
        // A pod that was started keeps its volume, whatever becomes of the claim.
        kept.volume = kept.volume.or(volume);
        let (Some(volume), Some(secret), Some(env)) = (kept.volume, secret, env) else {
            kept.container = Container::Waiting { until: now + rng.between(500, 3_000) };
            return;
        };
        kept.mounted = Some(kept.mounted.take().filter(|_| kept.started).unwrap_or(secret));
        kept.started_with.clone_from(&kept.mounted);
        self.files_changed = true;
        (kept.started, kept.container) = (true, Container::Running { since: now });
        kept.given = resources(self.things.pod(Slot::Pod(place)));
        // A process that ends at once is found gone when the kubelet looks next. How often a container has ended is never forgotten.
        let (forced, version, snapshots, in_pod, is_refused) =
            (kept.forced, kept.version, kept.snapshots, kept.in_pod, kept.is_refused);
        etcd.start(place, volume, &Start { forced, version, snapshots, in_pod, is_refused, ..env }, now);
        self.show(place, now);
    }

    /// What the container reads when it starts.
    fn env(&self, place: Place) -> Option<Start> {
        let config = self.things.config(Slot::Bootstrap)?;
        let (names, member) = (names(), member(place));
        let list = config.data.as_ref()?.get(&bootstrap_key::cluster(&member))?;
        let of = |entry: &str| Some(crate::kubernetes::place(&names.member_at(entry.split_once('=')?.1)?));
        let new = matches!(start_state(config, &member, &names.initial_entry(&member))?, StartState::New);
        Some(Start {
            token: 1,
            list: list.split(',').filter_map(of).collect(),
            new,
            forced: false,
            version: self.pods[&place].version,
            snapshots: false,
            in_pod: false,
            is_refused: false,
        })
    }

    /// Changes the resources of a running pod (`pods/resize`).
    pub fn resize(&mut self, place: Place, uid: &Uid, resources: &Resources, now: Millis, rng: &mut Rng) -> Result<(), Refused> {
        let pod = self.things.pod(Slot::Pod(place)).ok_or(Refused::NotFound)?;
        check(&pod.metadata, uid)?;
        let mut pod = Pod::clone(pod);
        let containers = pod.spec.iter_mut().flat_map(|spec| &mut spec.containers);
        containers.into_iter().for_each(|container| resources.apply_to(container.resources.get_or_insert_default()));
        pod.metadata.generation = pod.metadata.generation.map(|generation| generation + 1);
        self.put_pod(place, pod);
        if let Some(kept) = self.pods.get_mut(&place) {
            kept.resize_at = Some(now + rng.between(100, 3_000));
        }
        Ok(())
    }

    /// A kubelet gives a container the resources in the spec of its pod, if its node has them.
    fn give(&mut self, place: Place) {
        let Some(pod) = self.things.pod(Slot::Pod(place)) else { return };
        let (generation, resources) = (pod.metadata.generation, resources(Some(pod)));
        let limit = resources.as_ref().and_then(|resources| resources.limits.as_ref()?.get("memory").cloned());
        let mebibytes = limit.and_then(|limit| limit.0.strip_suffix("Mi")?.parse::<u32>().ok());
        let kept = self.pods.get_mut(&place).expect("it is there");
        kept.observed = generation.unwrap_or(1);
        kept.resize_at = None;
        kept.infeasible = mebibytes.is_some_and(|mebibytes| mebibytes > 12_288);
        if !kept.infeasible {
            kept.given = resources;
        }
    }

    /// Whether a running pod has the resources of its template.
    pub fn has_resources(&self, place: Place) -> bool {
        let template = self.things.set(Slot::Set(place)).and_then(|set| set.spec.template.spec.as_ref());
        let desired = template.and_then(etcd_container).and_then(|container| container.resources.clone()).unwrap_or_default();
        let has = |given: &Option<ResourceRequirements>| {
            Resources::of(&desired, []).is_some_and(|desired| desired.are_in(Some(&given.clone().unwrap_or_default())))
        };
        let spec = resources(self.things.pod(Slot::Pod(place)));
        has(&spec) && self.pods.get(&place).is_some_and(|kept| has(&kept.given) && !kept.infeasible)
    }

    /// Writes what a kubelet knows of a pod into the pod.
    fn show(&mut self, place: Place, now: Millis) {
        let kept = &self.pods[&place];
        let Some(pod) = self.things.pod(Slot::Pod(place)) else { return };
        let mut pod = Pod::clone(pod);
        if kept.deleting.is_some() {
            pod.metadata.deletion_timestamp = Some(Time(time(now)));
        }
        let terminated = || ContainerState {
            terminated: Some(ContainerStateTerminated { exit_code: 1, ..Default::default() }),
            ..Default::default()
        };
        let state = match kept.container {
            Container::Running { since } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(time(since))) }),
                ..ContainerState::default()
            },
            Container::Waiting { .. } => ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(if kept.crashes > 0 { "CrashLoopBackOff" } else { "ContainerCreating" }.into()),
                    message: None,
                }),
                ..ContainerState::default()
            },
        };
        let container = ContainerStatus {
            name: "etcd".into(),
            state: Some(state),
            restart_count: i32::try_from(kept.crashes).unwrap_or_default(),
            last_state: (kept.crashes > 0).then(terminated),
            resources: kept.given.clone(),
            ..ContainerStatus::default()
        };
        let ready = PodCondition {
            type_: "Ready".into(),
            status: if kept.ready { "True" } else { "False" }.into(),
            ..PodCondition::default()
        };
        let infeasible = kept.infeasible.then(|| PodCondition {
            type_: "PodResizePending".into(),
            status: "True".into(),
            reason: Some("Infeasible".into()),
            observed_generation: Some(kept.observed),
            ..PodCondition::default()
        });
        pod.status = Some(PodStatus {
            conditions: Some([ready].into_iter().chain(infeasible).collect()),
            container_statuses: Some(vec![container]),
            observed_generation: Some(kept.observed),
            ..PodStatus::default()
        });
        self.put_pod(place, pod);
    }
}

fn is_learner(etcd: &Etcd, place: Place) -> bool {
    etcd.members().unwrap_or_default().iter().any(|m| m.place == place && m.learner)
}

fn check(meta: &ObjectMeta, uid: &Uid) -> Result<(), Refused> {
    if meta.uid.as_deref() == Some(uid.as_str()) { Ok(()) } else { Err(Refused::Conflict) }
}

fn made<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned>(object: &Object, version: &str) -> Cached<K> {
    let mut new: K = K::deserialize(&*object.body).expect("it is what it says");
    let meta = new.meta_mut();
    (meta.uid, meta.resource_version, meta.generation) = (Some(format!("uid-{version}")), Some(version.into()), Some(1));
    compared(new, object)
}

/// An object as it was applied. It is compared with the desired fields here, where they are at hand: an operator would build them again.
fn compared<K: Serialize>(new: K, object: &Object) -> Cached<K> {
    let new = Cached::from(new);
    new.covers(&object.digest().into(), |new| object.is_covered_by(new));
    new
}

/// A claim with a volume.
fn bound(claim: &Cached<PersistentVolumeClaim>) -> Cached<PersistentVolumeClaim> {
    let (size, derived) = (requested_size(claim).expect("it asks for a size").clone(), claim.derived().clone());
    let mut claim = PersistentVolumeClaim::clone(claim);
    claim.status = Some(PersistentVolumeClaimStatus {
        phase: Some("Bound".into()),
        capacity: Some([("storage".to_owned(), size)].into()),
        ..PersistentVolumeClaimStatus::default()
    });
    Cached::new(Arc::new(claim), derived)
}

/// The size of a claim's volume.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage")
}

fn is_less(one: &Quantity, other: &Quantity) -> bool {
    let gibibytes =
        |size: &Quantity| size.0.strip_suffix("Gi").and_then(|number| number.parse::<u32>().ok()).expect("so many Gi");
    one != other && gibibytes(one) < gibibytes(other)
}

/// Whether a claim asks for more than its volume has.
fn is_small(claim: &PersistentVolumeClaim) -> bool {
    capacity(claim).zip(requested_size(claim)).is_some_and(|(has, asks)| is_less(has, asks))
}

/// What is applied replaces what was, but for what others wrote.
fn changed<K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Applied>(
    old: &Cached<K>,
    object: &Object,
    version: &str,
) -> Result<Cached<K>, Refused> {
    let was = old.meta();
    if object.seen != ObjectVersion::of(was) {
        return Err(Refused::Conflict);
    }
    let mut new: K = K::deserialize(&*object.body).expect("it is what it says");
    new.keep(old);
    let meta = new.meta_mut();
    (meta.uid, meta.resource_version) = (was.uid.clone(), Some(version.into()));
    meta.generation = was.generation.map(|generation| generation + 1);
    meta.deletion_timestamp.clone_from(&was.deletion_timestamp);
    for (key, value) in was.annotations.iter().flatten() {
        meta.annotations.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
    }
    Ok(compared(new, object))
}

/// What an object keeps when it is applied again.
trait Applied {
    fn keep(&mut self, _old: &Self) {}
}

impl Applied for StatefulSet {
    fn keep(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
}
impl Applied for PersistentVolumeClaim {
    fn keep(&mut self, old: &Self) {
        self.status.clone_from(&old.status);
    }
}
impl Applied for PodDisruptionBudget {}
impl Applied for Service {}
impl Applied for ConfigMap {}
