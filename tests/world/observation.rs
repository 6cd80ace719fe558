//! What an operator observes in a pass, and what it reads afresh for a step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use etcd_warden::{
    api::EtcdCluster,
    certificates::secret::CachedSecret,
    cluster::{
        observed::{Observed, ObservedMember, Probe, Trial},
        steps::{Fresh, Leftover, LeftoverKind, Read},
    },
    etcd::{Member, MemberList, MemberStatus, Progress, Version, VersionMetrics},
    ids::{ClusterId, MemberId},
    kubernetes::{cached::Cached, ownership::annotation, pod::pod_ready},
    member_pod::running_since,
    names::{MemberName, annotation as key, bootstrap_key, member_key, tls_key},
    pki::{Domain, PerDomain},
};
use jiff::SignedDuration;
use k8s_openapi::{api::core::v1::PersistentVolumeClaim, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::{
    certificates,
    etcd::{Listed, Place},
    kubernetes::{PLACES, Slot, member, named, names, place},
    operator::Operator,
    run::World,
    time,
};

/// While a cluster is bootstrapped, a pod that has just started is not asked (`observe.rs`).
const STARTING: SignedDuration = SignedDuration::from_secs(15);

/// What `observe.rs` gathers: objects from the caches, and what members answer.
pub fn observe(world: &World, operator: &Operator, cluster: &EtcdCluster) -> Observed {
    let names = names();
    let mut observed = cached(operator, cluster);
    read_unwatched_claims(world, &mut observed);
    if observed.operator.is_none() {
        observed.list = Err("the operator has no certificate for it yet".into());
        return observed;
    }
    let bootstrapping = observed.status.cluster_id.is_none();
    let now = time(world.now + operator.clock);
    for (name, member) in &mut observed.members {
        let Some(pod) = &member.pod else { continue };
        member.seen_running = operator.seen_running(place(name), world.now);
        match running_since(pod) {
            None => member.etcd = Probe::Skipped("its container does not run".into()),
            Some(since) if bootstrapping && !pod_ready(pod) && now.duration_since(since) < STARTING => {
                member.etcd = Probe::Skipped("it is starting".into());
            }
            Some(_) => {
                let place = place(name);
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                member.etcd = ask(world, place, uid);
                member.trial = observed.operator.as_ref().and_then(|operator| trial(world, place, &member.etcd, operator));
                let confirmed = annotation(&pod.metadata, key::TLS_CONFIRMED);
                let secret = member.secret.as_ref().map(CachedSecret::fingerprint);
                if secret.is_some() && secret != confirmed {
                    member.peer_leaf = Some(served(world, place, uid, member_key::PEER_CRT));
                }
            }
        }
    }
    let answers = observed.members.values().filter_map(|member| member.etcd.status());
    observed.list = list(world, answers);
    if observed.list.is_err() && observed.has_come_up() {
        for (name, member) in &mut observed.members {
            let pod = member.pod.as_ref().filter(|pod| running_since(pod).is_some());
            member.progress = pod.map(|pod| progress(world, place(name), pod.metadata.uid.as_deref().unwrap_or_default()));
        }
    }
    if observed.is_rotating(Domain::Peer) {
        for (name, member) in &mut observed.members {
            let pod = member.pod.as_ref().filter(|pod| running_since(pod).is_some());
            member.active_peers =
                pod.map(|pod| active_peers(world, place(name), pod.metadata.uid.as_deref().unwrap_or_default()));
        }
    }
    if observed.changes_minor(Version::parse(&cluster.spec.version)) {
        for (name, member) in &mut observed.members {
            let pod = member.pod.as_ref().filter(|pod| running_since(pod).is_some());
            member.versions = pod.map(|pod| versions(world, place(name), pod.metadata.uid.as_deref().unwrap_or_default()));
            // Without a leader it may be any.
            member.own_list = member.etcd.status().map(|status| list(world, std::iter::once(status)));
        }
    }
    // A member may be listed before anything else of it exists.
    for listed in observed.list.iter().flat_map(|list| &list.members).filter_map(|m| names.member_at(m.peer_urls.first()?)) {
        let place = place(&listed);
        observed.members.entry(listed).or_insert_with(|| find(operator, place));
    }
    observed
}

/// What is in the caches.
fn cached(operator: &Operator, cluster: &EtcdCluster) -> Observed {
    let things = &operator.cache.things;
    let names = names();
    let bootstrap = things.config(Slot::Bootstrap).cloned();
    let mut traced = [false; PLACES as usize];
    let mut trace =
        |name: &str| names.parse_member(name).into_iter().for_each(|member| traced[usize::from(place(&member))] = true);
    let entries = bootstrap.iter().flat_map(|config| config.data.iter().flatten());
    entries.filter_map(|(key, _)| key.strip_suffix(bootstrap_key::STATE_SUFFIX)).for_each(&mut trace);
    cluster.status.iter().flat_map(|status| &status.members).for_each(|member| trace(&member.name));
    let has = |place: Place| things.claim(Slot::Claim(place)).is_some() || things.set(Slot::Set(place)).is_some();
    Observed {
        status: cluster.status.clone().unwrap_or_default(),
        client_service: things.service(Slot::ClientService).cloned(),
        peer_service: things.service(Slot::PeerService).cloned(),
        disruption_budget: things.budget(Slot::Budget).cloned(),
        ca_config: things.config(Slot::CaConfig).cloned(),
        authorities: PerDomain::from_fn(|domain| things.secret(Slot::authority(domain)).cloned()),
        operator: things.secret(Slot::Operator).cloned(),
        members: (0..PLACES)
            .filter(|place| traced[usize::from(*place)] || has(*place))
            .map(|place| (member(place), find(operator, place)))
            .collect(),
        bootstrap,
        ..Observed::default()
    }
}

/// Reads the claims that the watch does not have although their members have other objects.
fn read_unwatched_claims(world: &World, observed: &mut Observed) {
    let status = &observed.status;
    let is_reported = |name: &MemberName| status.members.iter().any(|reported| reported.name == name.as_str());
    for (name, member) in &mut observed.members {
        if member.claim.is_none() && !member.is_in_pod() && (is_reported(name) || member.stateful_set.is_some()) {
            member.claim = world.kubernetes.things.claim(Slot::Claim(place(name))).cloned();
        }
    }
}

/// A member as it is in the caches.
fn find(operator: &Operator, place: Place) -> ObservedMember {
    let things = &operator.cache.things;
    ObservedMember {
        claim: things.claim(Slot::Claim(place)).cloned(),
        stateful_set: things.set(Slot::Set(place)).cloned(),
        pod: things.pod(Slot::Pod(place)).cloned(),
        secret: things.secret(Slot::Secret(place)).cloned(),
        ..ObservedMember::default()
    }
}

/// Leaves of what was observed only the objects, and not what was derived from them.
pub fn forget(observed: &mut Observed) {
    fn all<K: Clone, D: Default>(cached: &mut Option<Cached<K, D>>) {
        *cached = cached.as_deref().map(|object| object.clone().into());
    }
    all(&mut observed.bootstrap);
    all(&mut observed.client_service);
    all(&mut observed.peer_service);
    all(&mut observed.disruption_budget);
    all(&mut observed.ca_config);
    all(&mut observed.authorities.client);
    all(&mut observed.authorities.peer);
    all(&mut observed.operator);
    for member in observed.members.values_mut() {
        all(&mut member.claim);
        all(&mut member.stateful_set);
        all(&mut member.pod);
        all(&mut member.secret);
    }
}

/// The leaf that a pod presents, if it is the one that runs.
fn served(world: &World, place: Place, uid: &str, key: &str) -> Result<Vec<u8>, String> {
    let kept = world.kubernetes.pods.get(&place).filter(|kept| kept.uid == uid && kept.running());
    let kept = kept.filter(|_| world.etcd.processes.contains_key(&place) && world.silent_until[usize::from(place)] <= world.now);
    let mounted = kept.and_then(|kept| kept.mounted.as_ref()).ok_or("no connection within 2.5 s")?;
    Ok(mounted.certificate(key).ok_or("nothing")?.map_err(|e| e.to_string())?.der().to_vec())
}

fn ask(world: &World, place: Place, uid: &str) -> Probe {
    match (served(world, place, uid, member_key::SERVER_CRT), world.etcd.processes.get(&place)) {
        (Ok(leaf), Some(process)) if process.serving => {
            let best = world.etcd.members().unwrap_or_else(|| world.etcd.best());
            let follows = world.etcd.follows(place);
            let leader = world.etcd.leader.filter(|_| follows).and_then(|leader| world.etcd.processes.get(&leader));
            let status = MemberStatus {
                cluster_id: ClusterId(world.etcd.disks[&process.volume].cluster),
                member_id: MemberId(process.id),
                leader: leader.map(|leader| MemberId(leader.id)),
                raft_applied_index: world.etcd.applied(place) as u64,
                is_learner: best.iter().any(|m| m.id == process.id && m.learner),
                version: process.version.to_string(),
                storage: world.etcd.versions.storage(process.volume, process.version.minor),
                downgrade: world.etcd.versions.downgrade.map(|minor| Version { major: 3, minor, patch: 0 }),
                db_size: 20_480,
                errors: vec![],
            };
            Probe::Reached(leaf, Ok(status))
        }
        (Ok(_), _) => Probe::Unreachable("does not answer on port 2379 yet".into()),
        (Err(problem), _) => Probe::Unreachable(problem),
    }
}

/// Whether a member accepts the operator's certificate of the next authority, if it has one.
fn trial(world: &World, place: Place, answer: &Probe, operator: &CachedSecret) -> Option<Trial> {
    let leaf = operator.certificate(tls_key::NEXT_CRT)?.ok()?;
    let kept = world.kubernetes.pods.get(&place)?;
    let bundle = certificates::bundle(kept.started_with.as_ref()?.data.get(member_key::CLIENT_CA)?);
    let signer = bundle.iter().find(|authority| leaf.is_signed_by(authority));
    Some(match answer.problem() {
        Some(problem) => Trial::Unknown(problem.to_owned()),
        None if signer.is_some_and(|signer| !world.refused.contains(signer.common_name())) => Trial::Accepted,
        None => Trial::Refused("BadCertificate".into()),
    })
}

/// How far the data of the member in a pod goes, as its metrics say.
fn progress(world: &World, place: Place, uid: &str) -> Result<Progress, String> {
    served(world, place, uid, member_key::SERVER_CRT).map_err(|_| "does not listen on port 2381")?;
    let listed = |m: &&Listed| m.place == place;
    let is_learner = world.etcd.best().iter().find(listed).is_some_and(|m| m.learner);
    Ok(Progress { revision: world.etcd.applied(place) as u64, has_leader: world.etcd.follows(place), is_learner })
}

/// What the metrics of the member in a pod say about versions.
fn versions(world: &World, place: Place, uid: &str) -> Result<VersionMetrics, String> {
    served(world, place, uid, member_key::SERVER_CRT).map_err(|_| "does not listen on port 2381")?;
    Ok(VersionMetrics {
        cluster: Some(world.etcd.versions.cluster),
        has_snapshot: world.etcd.processes.get(&place).is_some_and(|process| process.has_snapshot),
    })
}

/// The members that accept the connections of the member in a pod, as its metrics say.
fn active_peers(world: &World, place: Place, uid: &str) -> Result<BTreeSet<MemberId>, String> {
    served(world, place, uid, member_key::SERVER_CRT).map_err(|_| "does not listen on port 2381")?;
    let kept = world.kubernetes.pods.get(&place);
    // Connections that stand are not checked again, and each one is made with the files of the moment.
    let is_refused = |files: &Option<CachedSecret>| files.as_ref().is_some_and(|files| world.presents_refused(files));
    if kept.is_some_and(|kept| is_refused(&kept.started_with) && is_refused(&kept.mounted)) {
        return Ok(BTreeSet::new());
    }
    Ok(world.etcd.active_peers(place).map(MemberId).collect())
}

/// The entry of a member that has published itself.
fn published(place: Place) -> &'static Member {
    static MEMBERS: LazyLock<Vec<Member>> = LazyLock::new(|| {
        let published = |name: MemberName| Member {
            id: MemberId::default(),
            name: name.to_string(),
            peer_urls: vec![names().peer_url(&name)],
            is_learner: false,
        };
        (0..PLACES).map(|place| published(member(place))).collect()
    });
    &MEMBERS[usize::from(place)]
}

/// A list from the first voter whose list a quorum confirms.
fn list<'a>(world: &World, mut answers: impl Iterator<Item = &'a MemberStatus>) -> Result<MemberList, String> {
    let asked = answers.any(|status| !status.is_learner && status.leader.is_some());
    let members = world.etcd.members().filter(|_| asked).ok_or("no member answers")?;
    let members = members.iter().map(|listed| {
        if listed.place >= PLACES {
            let peer_urls = vec![format!("https://192.0.2.{}:2380", listed.place)];
            return Member { id: MemberId(listed.id), name: String::new(), peer_urls, is_learner: listed.learner };
        }
        let published = published(listed.place);
        let name = if listed.named { published.name.clone() } else { String::new() };
        Member { id: MemberId(listed.id), name, peer_urls: published.peer_urls.clone(), is_learner: listed.learner }
    });
    Ok(MemberList { cluster_id: ClusterId(world.etcd.cluster_id().unwrap_or_default()), members: members.collect() })
}

/// What is read before a step.
pub fn read(world: &World, reads: &[Read]) -> Fresh {
    let mut fresh = Fresh::default();
    for read in reads {
        match read {
            Read::Members => read_members(world, &mut fresh),
            Read::EachVotersList => fresh.lists = each_voters_list(world, &fresh),
            Read::ByName(member) => read_objects(world, place(member), &mut fresh),
            Read::Claim(member) => {
                fresh.claim =
                    world.kubernetes.things.claim(Slot::Claim(place(member))).map(|claim| PersistentVolumeClaim::clone(claim));
            }
            Read::Leftover(leftover) => fresh.leftovers.extend(read_leftover(world, leftover)),
            // A user in this world does not exist.
            Read::User(_) => {}
        }
    }
    fresh
}

fn read_objects(world: &World, place: Place, fresh: &mut Fresh) {
    let things = &world.kubernetes.things;
    fresh.pods.extend(things.pod(Slot::Pod(place)).map(|pod| (member(place), pod.clone())));
    fresh.sets.extend(things.set(Slot::Set(place)).map(|set| (member(place), set.clone())));
}

fn read_members(world: &World, fresh: &mut Fresh) {
    (0..PLACES).for_each(|place| read_objects(world, place, fresh));
    for (name, pod) in &fresh.pods {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if let Probe::Reached(_, Ok(status)) = ask(world, place(name), uid) {
            fresh.answers.insert(name.clone(), status);
        }
    }
    fresh.list = list(world, fresh.answers.values()).ok();
}

/// The list of each member that answers. One that takes nothing from the leader cannot give a list that a quorum confirms.
fn each_voters_list(world: &World, fresh: &Fresh) -> BTreeMap<MemberName, MemberList> {
    let applies = |name: &MemberName| world.etcd.processes.get(&place(name)).is_some_and(|it| it.behind_until <= world.now);
    let lists = fresh.answers.iter().filter(|(name, _)| applies(name));
    lists.filter_map(|(name, status)| Some((name.clone(), list(world, [status].into_iter()).ok()?))).collect()
}

fn read_leftover(world: &World, leftover: &Leftover) -> Option<ObjectMeta> {
    let things = &world.kubernetes.things;
    match leftover.kind {
        LeftoverKind::Secret => {
            let slot = Slot::secret(&leftover.name)?;
            things.secret(slot).map(|secret| secret.meta.clone())
        }
        LeftoverKind::Claim => {
            let place = named(&leftover.name, |member| names().claim(member))?;
            things.claim(Slot::Claim(place)).map(|claim| claim.metadata.clone())
        }
    }
}
