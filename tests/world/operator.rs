//! The operator: its caches, and passes whose stages are the real ones where they are pure. A pass is a list of actions, so that
//! anything may happen between two of them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use etcd_warden::{
    api::{EtcdCluster, EtcdClusterStatus},
    cluster::{
        facts::Facts,
        outcome::{Decision, Outcome},
        plan::{
            self,
            changes::{Changes, Plan},
            input::Input,
        },
        status,
        steps::Step,
        validate::validate,
        validated::ValidatedCluster,
    },
    ids::ClusterId,
    kubernetes::{cached::Cached, desired::Desired, object::Object},
    member_pod::running_since,
};
use jiff::{SignedDuration, Timestamp};

use crate::{
    actions::{self, Action, Done},
    etcd::{Id, Listed, Millis, Place},
    kubernetes::{Cache, News, PLACES, Slot, is_validated_as},
    observation::{forget, observe},
    run::World,
    time,
};

/// When a plan with nothing to do has the cluster looked at again.
const IDLE: Millis = 12_000;
/// When the next pass comes after something changed under a plan.
const AGAIN: Millis = 500;

/// A running operator.
#[derive(Clone)]
pub struct Operator {
    pub cache: Cache,
    next: Millis,
    /// How far its clock is off.
    pub clock: Millis,
    job: Option<Arc<Job>>,
    pub queue: VecDeque<Action>,
    /// What the members showed in a last pass that found nothing to do, to await or to report; `None` since anything else happened.
    rests: Option<Sight>,
    /// The container of etcd that it sees running in each pod: the pod's uid and when the container started; and since when it sees it.
    running: [Option<(Container, Millis)>; PLACES as usize],
    /// After how many more actions it dies.
    pub dies_after: Option<u8>,
    /// After how many more actions one of them gets lost, and whether it has taken effect.
    pub loses: Option<(u8, bool)>,
}

/// The uid of a pod, and when its container started.
type Container = (Option<String>, Timestamp);

/// What the members show of themselves to an operator with this clock. How far their logs go is not in it: nothing follows from
/// that but which member leads after a leader that stops.
#[derive(Clone, PartialEq)]
struct Sight {
    clock: Millis,
    leader: Option<Place>,
    list: Option<Vec<Listed>>,
    members: [Option<Shown>; PLACES as usize],
}

/// What one of them shows: the pod's uid, whether it can be reached, the version of the Secret that it presents, its ID, and whether
/// it answers and follows the leader.
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
pub struct Job {
    pub cluster: Cached<EtcdCluster>,
    pub valid: Arc<ValidatedCluster>,
    pub desired: Arc<Desired>,
    /// The ID of the cluster that was bootstrapped.
    pub known: Option<ClusterId>,
    /// Whether the plan was made before the cluster was bootstrapped.
    bootstraps: bool,
    /// What it reports.
    pub status: EtcdClusterStatus,
}

impl Operator {
    pub fn new(cache: Cache, now: Millis) -> Self {
        Self {
            cache,
            next: now,
            clock: 0,
            job: None,
            queue: VecDeque::new(),
            rests: None,
            running: Default::default(),
            dies_after: None,
            loses: None,
        }
    }

    pub fn idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Something else may follow from the next pass than from the last one.
    pub fn disturb(&mut self) {
        self.rests = None;
    }

    /// Time has passed: it looks at the cluster now.
    pub fn wake(&mut self, now: Millis) {
        self.next = now;
        self.rests = None;
    }

    /// Takes notice of the containers that run, as `cache/running.rs` does.
    fn see_running(&mut self, now: Millis) {
        for place in 0..PLACES {
            let pod = self.cache.things.pod(Slot::Pod(place));
            let container = pod.and_then(|pod| Some((pod.metadata.uid.clone(), running_since(pod)?)));
            let seen = &mut self.running[usize::from(place)];
            if seen.as_ref().map(|(container, _)| container) != container.as_ref() {
                *seen = container.map(|container| (container, now));
            }
        }
    }

    /// For how long it has seen the container of a member run.
    pub fn seen_running(&self, place: Place, now: Millis) -> SignedDuration {
        let since = self.running[usize::from(place)].as_ref().map(|(_, since)| *since);
        since.map(|since| SignedDuration::from_millis(now - since)).unwrap_or_default()
    }

    /// Whether it dies before its next action.
    fn dies(&mut self) -> bool {
        let Some(left) = &mut self.dies_after else { return false };
        match left.checked_sub(1) {
            Some(less) => *left = less,
            None => return true,
        }
        false
    }

    /// If its next action gets lost: whether it has taken effect.
    fn loses_next(&mut self) -> Option<bool> {
        let (left, effective) = self.loses.as_mut()?;
        if let Some(less) = left.checked_sub(1) {
            *left = less;
            return None;
        }
        let effective = *effective;
        self.loses = None;
        Some(effective)
    }

    /// Skips what must not follow an action that was not done. `ends` is whether without the bootstrap ConfigMap the pass ends.
    fn skip_after(&mut self, action: &Action, ends: bool) {
        match action {
            // A plan made without knowing which members bootstrap the cluster, or how they start, ends here.
            Action::Bootstrap(_) if ends => self.queue.retain(|next| matches!(next, Action::Report)),
            // What is not in the ledger is not handed out.
            Action::Ledger(_) => self.queue.retain(|next| !matches!(next, Action::Secret(..))),
            // An effect that changes nothing ends the step.
            Action::Effect(..) => self.queue.retain(|next| !matches!(next, Action::Effect(..))),
            Action::Bootstrap(_)
            | Action::IssuerProbe(_)
            | Action::Authorities(_)
            | Action::Retention(_)
            | Action::Apply(_)
            | Action::Secret(..)
            | Action::Pod(_)
            | Action::RaftEntry(_)
            | Action::Completed(_)
            | Action::Read(_)
            | Action::Report => {}
        }
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
    while let Some(action) = operator.queue.pop_front() {
        if operator.dies() {
            world.note(|| format!("operator {index} dies"));
            return false;
        }
        let lost = operator.loses_next();
        let job = operator.job.clone().expect("actions have a job");
        let done = match lost {
            Some(false) if !matches!(action, Action::Read(_)) => {
                world.note(|| format!("operator {index}: an action gets lost"));
                Done::No
            }
            _ => actions::act(world, &mut operator, &job, &action),
        };
        let done = if lost == Some(true) { Done::No } else { done };
        // Whatever a step changed, the next pass shows.
        if matches!(done, Done::No) || matches!(action, Action::Effect(..)) {
            operator.next = operator.next.min(now + AGAIN);
            operator.rests = None;
        }
        if matches!(done, Done::No) {
            operator.skip_after(&action, job.bootstraps || lost.is_none());
        }
        if world.interleaves() {
            break;
        }
    }
    world.operators[index] = Some(operator);
    true
}

/// Observes, validates, plans and prepares the report.
fn begin(world: &mut World, operator: &mut Operator) {
    operator.see_running(world.now);
    let now = time(world.now + operator.clock);
    let is_as_before = |sight: &Sight| *sight == self::sight(world, operator);
    // A plan follows from what is observed and from the time. Here all of the first is as it was when there was nothing to do, to
    // await or to report, and of the second depends then only when a certificate is renewed: months from now. So this pass would be
    // like the one before it.
    if operator.rests.as_ref().is_some_and(is_as_before) {
        operator.next = world.now + IDLE;
        return;
    }
    let Some(cluster) = operator.cache.things.cluster(Slot::Cluster).cloned() else { return };
    let known = operator.job.as_ref().filter(|job| is_validated_as(&job.cluster, &cluster));
    // What an operator learns of pods is not for other worlds.
    let own = |desired| if world.kubernetes.resizes { desired } else { Arc::default() };
    let (valid, mut desired) = if let Some(job) = known {
        (job.valid.clone(), job.desired.clone())
    } else {
        let (valid, desired) = validated(&cluster);
        (valid, own(desired))
    };
    let mut observed = observe(world, operator, &cluster);
    if world.forgets {
        desired = Arc::default();
        forget(&mut observed);
    }
    let facts = Facts::of(&valid.names, &valid.uid, &observed, now);
    let input = Input { cluster: &valid, desired: &desired, observed: &observed, facts: &facts, now };
    let plan = plan::plan(&input);
    world.passes += 1;
    world.note(|| describe(&plan));
    operator.next = world.now + Millis::try_from(plan.next_check().as_millis()).unwrap_or_default();
    let is_quiet = |changes: &Changes| {
        let Changes { progress, problems, upcoming, lost, certificates, .. } = changes;
        changes.is_empty() && [progress, problems, upcoming, lost, certificates].into_iter().all(Vec::is_empty)
    };
    operator.rests = plan.changes().is_some_and(is_quiet).then(|| sight(world, operator));
    let mut queue: VecDeque<Action> = match &plan {
        Plan::Change(changes) if !valid.paused => changes.in_order().into_iter().flat_map(actions::of).collect(),
        Plan::Adopt(step) if !valid.paused => [Action::Read(step.clone())].into(),
        Plan::Blocked(_) | Plan::Adopt(_) | Plan::Change(_) => VecDeque::new(),
    };
    queue.push_back(Action::Report);
    operator.queue = queue;
    let bootstraps = plan.changes().is_some_and(|changes| !changes.preflight.is_empty());
    let decision = Decision::Planned(valid.clone(), plan);
    let outcome = Outcome::default();
    let input =
        status::Input { cluster: &cluster, observed: &observed, facts: &facts, decision: &decision, outcome: &outcome, now };
    let status = status::report(&input).status;
    let known = observed.status.cluster_id;
    operator.job = Some(Arc::new(Job { cluster, valid, desired, known, bootstraps, status }));
}

/// A plan, for a trace.
fn describe(plan: &Plan) -> String {
    match plan {
        Plan::Blocked(note) => format!("pass: blocked: {}", note.message),
        Plan::Adopt(step) => format!("pass: {}", step.describe()),
        Plan::Change(changes) => {
            let objects: Vec<_> = changes
                .bootstrap
                .iter()
                .chain(&changes.objects)
                .chain(&changes.expansion)
                .chain(changes.stateful_sets.values())
                .map(Object::describe)
                .collect();
            let step = changes.step.as_ref().map(Step::describe);
            let notes: Vec<_> = changes
                .progress
                .iter()
                .chain(&changes.problems)
                .chain(&changes.upcoming)
                .map(|note| note.message.as_str())
                .collect();
            format!("pass: {objects:?} {} secrets {} pods; {step:?}; {notes:?}", changes.secrets.len(), changes.pods.len())
        }
    }
}

/// A validated cluster, and what follows from it alone.
type Validated = (Arc<ValidatedCluster>, Arc<Desired>);

/// The cluster as it is really validated, which follows from the spec and from what is in these metadata, and is made once of each.
fn validated(cluster: &EtcdCluster) -> Validated {
    type Known = HashMap<(Option<String>, String, Option<BTreeMap<String, String>>), Validated>;
    thread_local! {
        static KNOWN: RefCell<Known> = RefCell::default();
    }
    let spec = serde_json::to_string(&cluster.spec).expect("it is JSON");
    let valid = || Arc::new(validate(cluster, "cluster.local").expect("the spec is valid"));
    KNOWN.with_borrow_mut(|known| {
        // There are thousands of requests, and most worlds have none.
        if known.len() >= 500 {
            known.clear();
        }
        let make = || (valid(), Arc::default());
        known.entry((cluster.metadata.uid.clone(), spec, cluster.metadata.annotations.clone())).or_insert_with(make).clone()
    })
}
