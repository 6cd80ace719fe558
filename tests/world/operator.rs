//! The operator: its caches, and passes whose stages are the real ones where they are pure. A pass is a list of deeds, so that
//! anything may happen between two of them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, LazyLock},
};

use etcd_warden::{
    api::EtcdCluster,
    cluster::{
        act::Acted,
        build,
        observed::{Answer, Observed, ObservedMember, SecretView, SeenSecret, annotation, pod_ready, running_since},
        plan::{self, AuthorityRequest, Fresh, LeafRequest, Object, Plan, PodNote, SecretChange, Step},
        seen::Seen,
        status::{self, Judgement},
        validate::{ValidatedCluster, validate},
    },
    etcd::{Change, Class, Member, MemberList, MemberStatus},
    names::{MemberName, annotation as key, bootstrap_key, member_key},
    pki::{Domain, Holder},
};
use jiff::SignedDuration;

use crate::{
    certificates,
    etcd::{Id, Listed, Millis, Place},
    kubernetes::{Cache, News, PLACES, Refused, Slot, is_validated_as, member, names, place},
    run::World,
    time,
};

/// When a plan with nothing to do has the cluster looked at again.
const IDLE: Millis = 12_000;
/// While a cluster is founded, a pod that has just started is not asked (`observe.rs`).
const STARTING: SignedDuration = SignedDuration::from_secs(15);

/// A running operator.
#[derive(Clone)]
pub struct Operator {
    pub cache: Cache,
    next: Millis,
    /// How far its clock is off.
    pub clock: Millis,
    job: Option<Arc<Job>>,
    queue: VecDeque<Deed>,
    /// What the members showed in a last pass that found nothing to do, to await or to tell; `None` since anything else happened.
    rests: Option<Sight>,
    /// After how many more deeds it dies.
    pub dies_after: Option<u8>,
    /// After how many more deeds one of them gets lost, and whether it has taken effect.
    pub loses: Option<(u8, bool)>,
}

/// What the members show of themselves to an operator with this clock. How far their logs go is not in it: nothing follows from
/// that but who leads after a leader that goes.
#[derive(Clone, PartialEq)]
struct Sight {
    clock: Millis,
    leader: Option<Place>,
    list: Option<Vec<Listed>>,
    members: [Option<Shown>; PLACES as usize],
}

/// What one of them shows: the pod's uid, whether it can be reached, the version of what it serves, its ID, and whether it answers
/// and follows the leader.
type Shown = (String, bool, Option<String>, Option<(Id, bool, bool)>);

fn sight(world: &World, operator: &Operator) -> Sight {
    let shown = |place: Place| {
        let kept = world.kubernetes.pods.get(&place)?;
        let reached = kept.running() && world.silent_until[usize::from(place)] <= world.now;
        let mounted = kept.mounted.as_ref().and_then(|secret| secret.meta.resource_version.clone());
        let process = world.etcd.processes.get(&place);
        let answers = process.map(|process| (process.id, process.serving, world.etcd.follows(place)));
        Some((kept.uid.clone(), reached, mounted, answers))
    };
    Sight {
        clock: operator.clock,
        leader: world.etcd.leader,
        list: world.etcd.members().map(<[Listed]>::to_vec),
        members: std::array::from_fn(|place| shown(Place::try_from(place).unwrap_or(PLACES))),
    }
}

/// What a pass goes on.
struct Job {
    cluster: Seen<EtcdCluster>,
    observed: Observed,
    judgement: Judgement,
}

impl Job {
    fn valid(&self) -> &Arc<ValidatedCluster> {
        match &self.judgement {
            Judgement::Planned(valid, _) => valid,
            Judgement::Invalid(invalid) => panic!("{invalid}"),
        }
    }

    fn planned(&self) -> (&ValidatedCluster, &Plan) {
        match &self.judgement {
            Judgement::Planned(valid, plan) => (valid, plan),
            Judgement::Invalid(invalid) => panic!("{invalid}"),
        }
    }
}

#[derive(Clone)]
enum Deed {
    Authorities(usize),
    Ledger,
    Secret(usize),
    Object(usize),
    Note(usize),
    EndReplacement,
    Read,
    Take(Box<Step>, Option<MemberName>),
    Report,
}

/// What came of a deed.
#[derive(Clone, Copy)]
enum Done {
    Yes,
    /// The pass goes on, and the next one comes soon.
    No,
}

impl Operator {
    pub fn new(cache: Cache, now: Millis) -> Self {
        Self { cache, next: now, clock: 0, job: None, queue: VecDeque::new(), rests: None, dies_after: None, loses: None }
    }

    pub fn idle(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Lets an operator go on. Returns whether it is still alive.
pub fn advance(world: &mut World, index: usize) -> bool {
    let now = world.now;
    let mut operator = std::mem::take(&mut world.operators[index]).expect("it runs");
    match world.kubernetes.watch(&mut operator.cache, now) {
        News::None => {}
        News::Status => operator.rests = None,
        News::Other => {
            operator.next = operator.next.min(now);
            operator.rests = None;
        }
    }
    if operator.queue.is_empty() && operator.next <= now {
        begin(world, &mut operator);
    }
    while let Some(deed) = operator.queue.pop_front() {
        if operator.dies_after.as_mut().is_some_and(|left| left.checked_sub(1).map(|less| *left = less).is_none()) {
            world.note(|| format!("operator {index} dies"));
            return false;
        }
        let lost = operator.loses.as_mut().and_then(|(left, after)| match left.checked_sub(1) {
            Some(less) => {
                *left = less;
                None
            }
            None => Some(*after),
        });
        if lost.is_some() {
            operator.loses = None;
        }
        let job = operator.job.clone().expect("deeds have a job");
        let done = match lost {
            Some(false) if !matches!(deed, Deed::Read) => {
                world.note(|| format!("operator {index}: a deed gets lost"));
                Done::No
            }
            _ => act(world, &mut operator, &job, &deed),
        };
        let done = if lost == Some(true) { Done::No } else { done };
        if matches!(done, Done::No) {
            operator.next = operator.next.min(now + 500);
            operator.rests = None;
        }
        // A plan made without knowing who the founders are, or how they start, ends here.
        let founds = !job.planned().1.preflight.is_empty();
        if let (Deed::Object(at), Done::No) = (&deed, done)
            && (founds || lost.is_none())
            && job.planned().1.objects[*at].name == names().bootstrap_config()
        {
            operator.queue.retain(|deed| matches!(deed, Deed::Report));
        }
        // What was not written down is not handed out.
        if matches!((deed, done), (Deed::Ledger, Done::No)) {
            operator.queue.retain(|deed| !matches!(deed, Deed::Secret(_)));
        }
        if world.interleaves() {
            break;
        }
    }
    world.operators[index] = Some(operator);
    true
}

/// Observes, validates and plans.
fn begin(world: &mut World, operator: &mut Operator) {
    let now = time(world.now + operator.clock);
    let is_as_before = |sight: &Sight| *sight == self::sight(world, operator);
    // A plan follows from what is observed and from the time. Here all of the first is as it was when there was nothing to do, to
    // await or to tell, and of the second depends then only when a certificate is renewed: months from now. So this pass would be
    // like the one before it.
    if operator.rests.as_ref().is_some_and(is_as_before) {
        operator.next = world.now + IDLE;
        return;
    }
    let Some(cluster) = operator.cache.things.cluster(Slot::Cluster).cloned() else { return };
    let known = operator.job.as_ref().filter(|job| is_validated_as(&job.cluster, &cluster));
    let mut valid = known.map_or_else(|| validated(&cluster), |job| job.valid().clone());
    let mut observed = observe(world, operator, &cluster);
    if world.forgets {
        valid = Arc::new(ValidatedCluster::clone(&valid));
        forget(&mut observed);
    }
    let plan = plan::plan(&valid, &observed, now);
    world.passes += 1;
    world.note(|| {
        let objects: Vec<_> = plan.objects.iter().map(Object::describe).collect();
        let step = plan.step.as_ref().map(Step::in_words);
        let said: Vec<_> = plan.waits.iter().chain(&plan.problems).map(|note| note.message.as_str()).collect();
        format!("pass: {objects:?} {} secrets {} notes; {step:?}; {said:?}", plan.secrets.len(), plan.pods.len())
    });
    operator.next = world.now + Millis::try_from(plan.next_check.as_millis()).unwrap_or_default();
    let says_nothing =
        plan.refused.is_none() && plan.waits.is_empty() && plan.problems.is_empty() && plan.certificates.is_empty();
    operator.rests = (says_nothing && plan.is_empty()).then(|| sight(world, operator));
    let mut queue = VecDeque::new();
    if plan.refused.is_none() && !valid.paused {
        let is_bootstrap = |at: &usize| plan.objects[*at].name == names().bootstrap_config();
        queue.extend((0..plan.objects.len()).filter(is_bootstrap).map(Deed::Object));
        queue.extend((0..plan.authorities.len()).map(Deed::Authorities));
        let is_set = |at: &usize| plan.objects[*at].resource.kind == "StatefulSet";
        queue.extend((0..plan.objects.len()).filter(|at| !is_set(at) && !is_bootstrap(at)).map(Deed::Object));
        if plan.secrets.iter().any(|change| !change.leaves.is_empty()) {
            queue.push_back(Deed::Ledger);
        }
        queue.extend((0..plan.secrets.len()).map(Deed::Secret));
        queue.extend((0..plan.objects.len()).filter(is_set).map(Deed::Object));
        queue.extend((0..plan.pods.len()).map(Deed::Note));
        if plan.wishes.iter().any(|wish| wish.annotation == key::REPLACE) {
            queue.push_back(Deed::EndReplacement);
        }
        if plan.step.is_some() {
            queue.push_back(Deed::Read);
        }
    }
    queue.push_back(Deed::Report);
    operator.queue = queue;
    operator.job = Some(Arc::new(Job { cluster, observed, judgement: Judgement::Planned(valid, Box::new(plan)) }));
}

/// The real thing, which follows from the spec and from what is in these metadata, and is made once of each: what is built of it
/// stays with it.
fn validated(cluster: &EtcdCluster) -> Arc<ValidatedCluster> {
    type Known = HashMap<(String, Option<BTreeMap<String, String>>), Arc<ValidatedCluster>>;
    thread_local! {
        static KNOWN: RefCell<Known> = RefCell::default();
    }
    let spec = serde_json::to_string(&cluster.spec).expect("it is JSON");
    let valid = || Arc::new(validate(cluster, "cluster.local").expect("the spec is a good one"));
    KNOWN.with_borrow_mut(|known| {
        // There are thousands of wishes, and most worlds have none.
        if known.len() >= 500 {
            known.clear();
        }
        known.entry((spec, cluster.metadata.annotations.clone())).or_insert_with(valid).clone()
    })
}

/// What `observe.rs` gathers: objects from the caches, and what members answer.
fn observe(world: &World, operator: &Operator, cluster: &EtcdCluster) -> Observed {
    let things = &operator.cache.things;
    let names = names();
    let secret = |slot| things.secret(slot).cloned();
    let bootstrap = things.config(Slot::Bootstrap).cloned();
    let mut traced = [false; PLACES as usize];
    let mut trace =
        |name: &str| names.parse_member(name).into_iter().for_each(|member| traced[usize::from(place(&member))] = true);
    for text in bootstrap
        .iter()
        .flat_map(|config| config.data.iter().flatten())
        .filter_map(|(key, _)| key.strip_suffix(bootstrap_key::STATE_SUFFIX))
    {
        trace(text);
    }
    cluster.status.iter().flat_map(|status| &status.members).for_each(|member| trace(&member.name));
    let find = |place: Place| ObservedMember {
        claim: things.claim(Slot::Claim(place)).cloned(),
        stateful_set: things.set(Slot::Set(place)).cloned(),
        pod: things.pod(Slot::Pod(place)).cloned(),
        secret: secret(Slot::Secret(place)),
        ..ObservedMember::default()
    };
    let has = |place: Place| things.claim(Slot::Claim(place)).is_some() || things.set(Slot::Set(place)).is_some();
    let mut observed = Observed {
        status: cluster.status.clone().unwrap_or_default(),
        client_service: things.service(Slot::ClientService).cloned(),
        peer_service: things.service(Slot::PeerService).cloned(),
        disruption_budget: things.budget(Slot::Budget).cloned(),
        ca_config: things.config(Slot::CaConfig).cloned(),
        client_authority: secret(Slot::ClientCa),
        peer_authority: secret(Slot::PeerCa),
        operator: secret(Slot::Operator),
        members: (0..PLACES)
            .filter(|place| traced[usize::from(*place)] || has(*place))
            .map(|place| (member(place), find(place)))
            .collect(),
        bootstrap,
        ..Observed::default()
    };
    if observed.operator.is_none() {
        observed.list = Err("the operator has no certificate for it yet".into());
        return observed;
    }
    let founding = observed.status.cluster_id.is_none();
    let now = time(world.now + operator.clock);
    for (name, member) in &mut observed.members {
        let Some(pod) = &member.pod else { continue };
        match running_since(pod) {
            None => member.etcd = Answer::NotAsked("its container does not run".into()),
            Some(since) if founding && !pod_ready(pod) && now.duration_since(since) < STARTING => {
                member.etcd = Answer::NotAsked("it is starting".into());
            }
            Some(_) => {
                let place = place(name);
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                member.etcd = ask(world, place, uid);
                let confirmed = annotation(&pod.metadata, key::TLS_CONFIRMED);
                let secret = member.secret.as_ref().map(SeenSecret::fingerprint);
                if secret.is_some() && secret != confirmed {
                    member.peer_leaf = Some(served(world, place, uid, member_key::PEER_CRT));
                }
            }
        }
    }
    let answers = observed.members.values().filter_map(|member| member.etcd.status());
    observed.list = list(world, answers);
    for listed in observed.list.iter().flat_map(|list| &list.members).filter_map(|m| names.member_at(m.peer_urls.first()?)) {
        let place = place(&listed);
        observed.members.entry(listed).or_insert_with(|| find(place));
    }
    observed
}

/// Leaves of what was observed only the objects, and not what has been found out about them.
fn forget(observed: &mut Observed) {
    fn all<K: Clone, F: Default>(seen: &mut Option<Seen<K, F>>) {
        // Whoever may have changed it has to find out everything anew.
        let _: Option<&mut K> = seen.as_deref_mut();
    }
    all(&mut observed.bootstrap);
    all(&mut observed.client_service);
    all(&mut observed.peer_service);
    all(&mut observed.disruption_budget);
    all(&mut observed.ca_config);
    all(&mut observed.client_authority);
    all(&mut observed.peer_authority);
    all(&mut observed.operator);
    for member in observed.members.values_mut() {
        all(&mut member.claim);
        all(&mut member.stateful_set);
        all(&mut member.pod);
        all(&mut member.secret);
    }
}

/// The leaf that a pod serves, if it is the one that runs.
fn served(world: &World, place: Place, uid: &str, key: &str) -> Result<Vec<u8>, String> {
    let kept = world.kubernetes.pods.get(&place).filter(|kept| kept.uid == uid && kept.running());
    let kept = kept.filter(|_| world.etcd.processes.contains_key(&place) && world.silent_until[usize::from(place)] <= world.now);
    let mounted = kept.and_then(|kept| kept.mounted.as_ref()).ok_or("no connection within 2.5 s")?;
    Ok(mounted.certificate(key).ok_or("nothing")?.map_err(|e| e.to_string())?.der().to_vec())
}

fn ask(world: &World, place: Place, uid: &str) -> Answer {
    match (served(world, place, uid, member_key::SERVER_CRT), world.etcd.processes.get(&place)) {
        (Ok(leaf), Some(process)) if process.serving => {
            let best = world.etcd.members().unwrap_or_else(|| world.etcd.best());
            let follows = world.etcd.follows(place);
            let leader = world.etcd.leader.filter(|_| follows).and_then(|leader| Some(world.etcd.processes.get(&leader)?.id));
            let applied = world.etcd.applied(place) as u64;
            let status = MemberStatus {
                cluster_id: world.etcd.disks[&process.volume].cluster,
                member_id: process.id,
                leader: leader.unwrap_or_default(),
                raft_term: 2,
                raft_index: applied,
                raft_applied_index: applied,
                is_learner: best.iter().any(|m| m.id == process.id && m.learner),
                version: "3.6.16".into(),
                db_size: 20_480,
                errors: vec![],
            };
            Answer::Reached(leaf, Ok(status))
        }
        (Ok(_), _) => Answer::Unreachable("does not answer on port 2379 yet".into()),
        (Err(problem), _) => Answer::Unreachable(problem),
    }
}

/// What is said of a member that has published itself.
fn serving(place: Place) -> &'static Member {
    static MEMBERS: LazyLock<Vec<Member>> = LazyLock::new(|| {
        let known = |name: MemberName| Member {
            id: 0,
            name: name.to_string(),
            peer_urls: vec![names().peer_url(&name)],
            client_urls: vec![names().client_url(&name)],
            is_learner: false,
        };
        (0..PLACES).map(|place| known(member(place))).collect()
    });
    &MEMBERS[usize::from(place)]
}

/// A list from the first voter that a quorum stands behind.
fn list<'a>(world: &World, mut answers: impl Iterator<Item = &'a MemberStatus>) -> Result<MemberList, String> {
    let asked = answers.any(|status| !status.is_learner && status.leader != 0);
    let members = world.etcd.members().filter(|_| asked).ok_or("no member answers")?;
    let members = members.iter().map(|listed| {
        let known = serving(listed.place);
        let (name, client_urls) = if listed.named { (known.name.clone(), known.client_urls.clone()) } else { Default::default() };
        Member { id: listed.id, name, peer_urls: known.peer_urls.clone(), client_urls, is_learner: listed.learner }
    });
    Ok(MemberList { cluster_id: world.etcd.cluster_id().unwrap_or_default(), members: members.collect() })
}

/// What `step.rs` reads before a step.
fn read(world: &World, step: &Step) -> Fresh {
    let mut fresh = Fresh::default();
    for place in 0..PLACES {
        let Some(pod) = world.kubernetes.things.pod(Slot::Pod(place)) else { continue };
        fresh.pods.insert(member(place), pod.clone());
        if let Answer::Reached(_, Ok(status)) = ask(world, place, pod.metadata.uid.as_deref().unwrap_or_default()) {
            fresh.answers.insert(member(place), status);
        }
    }
    fresh.list = list(world, fresh.answers.values()).ok();
    // One that takes nothing from the leader cannot give a list that a quorum confirms.
    let applies = |name: &MemberName| world.etcd.processes.get(&place(name)).is_some_and(|it| it.behind_until <= world.now);
    let lists = fresh.answers.iter().filter(|(name, _)| applies(name));
    fresh.lists = lists.filter_map(|(name, status)| Some((name.clone(), list(world, [status].into_iter()).ok()?))).collect();
    if let Step::AddLearner { member } | Step::RestartMember { member, .. } = step {
        fresh.claim = world.kubernetes.things.claim(Slot::Claim(place(member))).map(|claim| claim.metadata.clone());
    }
    fresh
}

fn act(world: &mut World, operator: &mut Operator, job: &Job, deed: &Deed) -> Done {
    let now = time(world.now + operator.clock);
    let (valid, plan) = job.planned();
    match deed {
        Deed::Authorities(at) => create(world, valid, &plan.authorities[*at]),
        Deed::Object(at) => {
            world.written();
            of(world.kubernetes.apply(&plan.objects[*at]))
        }
        Deed::Ledger => ledger(world, plan),
        Deed::Secret(at) => change_secret(world, valid, &plan.secrets[*at]),
        Deed::Note(at) => annotate(world, &plan.pods[*at]),
        Deed::EndReplacement => {
            let mut cluster = world.kubernetes.cluster().clone();
            if cluster.metadata.resource_version == job.cluster.metadata.resource_version {
                world.written();
                cluster.metadata.annotations.get_or_insert_default().remove(key::REPLACE);
                world.kubernetes.put_cluster(cluster);
            }
            Done::No
        }
        Deed::Read => {
            let step = plan.step.as_ref().expect("it is planned");
            let fresh = read(world, step);
            match plan::recheck(step, valid, job.observed.status.cluster_id.as_deref(), &fresh) {
                Err(why) => world.note(|| format!("not taken: {}: {why}", step.in_words())),
                Ok(step) => {
                    world.judge(&step);
                    let leader = plan::leader(&fresh).cloned();
                    operator.queue.push_front(Deed::Take(Box::new(step), leader));
                    return Done::Yes;
                }
            }
            Done::No
        }
        Deed::Take(step, leader) => {
            world.written();
            let (before, fenced) = (world.has_quorum(), world.is_fenced(step));
            let taken = take(world, valid, step, leader.as_ref());
            world.note(|| format!("{}: {taken:?}", step.in_words()));
            world.after(step, before, fenced);
            Done::No
        }
        Deed::Report => {
            let report = status::report(&job.cluster, &job.observed, &job.judgement, &Acted::default(), now);
            if job.cluster.status.as_ref() == Some(&report.status) {
                return Done::Yes;
            }
            let there = world.kubernetes.cluster();
            if there.metadata.resource_version != job.cluster.metadata.resource_version {
                return Done::No;
            }
            let (metadata, spec) = (there.metadata.clone(), there.spec.clone());
            world.written();
            operator.rests = None;
            world.kubernetes.put_cluster(EtcdCluster { metadata, spec, status: Some(report.status) });
            Done::Yes
        }
    }
}

fn of(result: Result<(), Refused>) -> Done {
    if result.is_ok() { Done::Yes } else { Done::No }
}

fn create(world: &mut World, valid: &ValidatedCluster, request: &AuthorityRequest) -> Done {
    let slot = authority(request.domain);
    if world.kubernetes.things.secret(slot).is_some() {
        return Done::No;
    }
    world.written();
    let mut secret = certificates::authority_data(request);
    secret.meta = build::retained(valid, request.secret.clone());
    world.kubernetes.put_secret(slot, secret);
    Done::Yes
}

fn authority(domain: Domain) -> Slot {
    match domain {
        Domain::Client => Slot::ClientCa,
        Domain::Peer => Slot::PeerCa,
    }
}

fn slot_of(change: &SecretChange) -> Slot {
    let member = change.name.strip_suffix("-tls").and_then(|name| names().parse_member(name));
    member.map_or(Slot::Operator, |member| Slot::Secret(place(&member)))
}

/// Whether a Secret is still what a change was planned on.
fn is_current(world: &World, change: &SecretChange) -> bool {
    let there = world.kubernetes.things.secret(slot_of(change)).and_then(|secret| secret.meta.resource_version.as_ref());
    there == change.version.as_ref()
}

/// Everything that is issued in a pass is written down before it is handed out.
fn ledger(world: &mut World, plan: &Plan) -> Done {
    world.written();
    for domain in [Domain::Client, Domain::Peer] {
        let changes = plan.secrets.iter().filter(|change| is_current(world, change));
        let requests: Vec<LeafRequest> =
            changes.flat_map(|change| &change.leaves).filter(|leaf| leaf.domain == domain).cloned().collect();
        let Some(secret) = world.kubernetes.things.secret(authority(domain)).filter(|_| !requests.is_empty()) else { continue };
        let secret = secret.clone();
        let secret = certificates::with_ledger(domain, &secret, |ledger| {
            for request in &requests {
                let generation = world.issue(request);
                ledger.record(&certificates::leaf(request, generation).certificate, request.holder.clone());
            }
        });
        world.kubernetes.put_secret(authority(domain), secret);
    }
    Done::Yes
}

fn change_secret(world: &mut World, valid: &ValidatedCluster, change: &SecretChange) -> Done {
    let slot = slot_of(change);
    if !is_current(world, change) {
        return Done::No;
    }
    world.written();
    let new = || SecretView { meta: build::owned(valid, change.name.clone()), ..SecretView::default() };
    let mut secret = world.kubernetes.things.secret(slot).map_or_else(new, |secret| SecretView::clone(secret));
    secret.meta.labels.get_or_insert_default().extend(change.labels.clone());
    secret.type_ = change.type_.into();
    secret.data.extend(change.files.clone());
    for request in &change.leaves {
        let leaf = certificates::leaf(request, world.issued(request));
        secret.data.insert(request.keys[0].into(), leaf.certificate.pem().into());
        secret.data.insert(request.keys[1].into(), leaf.key_digest.clone().into());
    }
    world.kubernetes.put_secret(slot, secret);
    Done::Yes
}

fn annotate(world: &mut World, note: &PodNote) -> Done {
    world.written();
    let Some(member) = note.pod.strip_suffix("-0").and_then(|name| names().parse_member(name)) else { return Done::No };
    let with: Vec<_> = note.annotations.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    of(world.kubernetes.annotate_pod(place(&member), &note.uid, &with, world.now, &mut world.rng))
}

fn take(world: &mut World, valid: &ValidatedCluster, step: &Step, leader: Option<&MemberName>) -> Result<(), String> {
    let now = world.now;
    if let Some(change) = plan::change(step, valid) {
        let leader = place(leader.ok_or("no member leads")?);
        // What the operator reaches is the process in the leader's pod of the moment before.
        let reached = world.etcd.processes.get(&leader).is_some_and(|process| process.serving);
        if !reached || world.silent_until[usize::from(leader)] > now {
            return Err(format!("{:?}", Class::Unavailable));
        }
        let etcd = &mut world.etcd;
        let done = match change {
            Change::AddLearner { peer_url } => {
                let member = names().member_at(&peer_url).expect("a member's URL");
                etcd.add_learner(leader, place(&member), now)
            }
            Change::Promote { id } => etcd.promote(leader, id, now),
            Change::Remove { id } => etcd.remove(leader, id, now),
            Change::MoveLeader { to } => etcd.move_leader(leader, to, now),
        };
        return done.map_err(|class| format!("{class:?}"));
    }
    let kubernetes = &mut world.kubernetes;
    let done = match step {
        Step::LockBootstrap { cluster_id, members } => {
            let mut done = Ok(());
            for (name, id, uid) in members {
                let with = [(key::CLUSTER_ID, format!("{cluster_id:x}")), (key::MEMBER_ID, format!("{id:x}"))];
                done = done.and(kubernetes.annotate_claim(place(name), uid, &with));
                world.etcd.written_down.push(*id);
            }
            done
        }
        Step::Revoke { domain, holders } => {
            revoke(world, *domain, holders);
            Ok(())
        }
        Step::DeleteBudget { uid } => kubernetes.delete_budget(uid),
        Step::DeleteStatefulSet { member, uid } => kubernetes.delete_set(place(member), uid),
        Step::DeleteClaim { member, uid } => kubernetes.delete_claim(place(member), Some(uid), now),
        Step::RestartMember { member, pod_uid } => kubernetes.evict(place(member), Some(pod_uid), now, &mut world.rng),
        _ => Ok(()),
    };
    done.map_err(|why| format!("{why:?}"))
}

fn revoke(world: &mut World, domain: Domain, holders: &[Holder]) {
    let Some(secret) = world.kubernetes.things.secret(authority(domain)) else { return };
    let now = time(world.now);
    let secret = certificates::with_ledger(domain, secret, |ledger| {
        ledger.revoke(|issued| holders.contains(&issued.holder), now);
    });
    world.kubernetes.put_secret(authority(domain), secret);
}
