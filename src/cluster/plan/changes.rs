//! What a plan consists of.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    api::Reason,
    certificates::{issuers::IssuerProbe, requests::SecretChange, transition::AuthorityRequest},
    cluster::{objects::MetadataChanges, requests::Request, steps::Step},
    ids::Uid,
    kubernetes::object::Object,
    names::MemberName,
    pki::Domain,
    reporting::note::Note,
};

/// What a pass does.
#[derive(Clone, Debug)]
pub enum Plan {
    /// Nothing, for this reason.
    Blocked(Note),
    /// Only this step, which adopts what a deleted cluster of this name left.
    Adopt(Step),
    /// These changes; none if everything is up to date.
    Change(Box<Changes>),
}

impl Plan {
    /// Its step.
    pub fn step(&self) -> Option<&Step> {
        match self {
            Self::Blocked(_) => None,
            Self::Adopt(step) => Some(step),
            Self::Change(changes) => changes.step.as_ref(),
        }
    }

    /// Its changes, unless the plan is blocked or adopts leftovers first.
    pub fn changes(&self) -> Option<&Changes> {
        match self {
            Self::Change(changes) => Some(changes),
            Self::Blocked(_) | Self::Adopt(_) => None,
        }
    }

    /// When the next pass is due, unless an event triggers it earlier.
    pub fn next_check(&self) -> Duration {
        match self {
            Self::Blocked(_) => IDLE,
            Self::Adopt(_) => PENDING,
            Self::Change(changes) => changes.next_check(),
        }
    }
}

/// The interval between passes without pending changes. A member that stops answering is detected within twice this time.
pub const IDLE: Duration = Duration::from_secs(12);
/// The interval between passes with pending changes.
pub const PENDING: Duration = Duration::from_secs(2);
/// The interval between passes while a member is about to serve a new certificate or to join.
pub const SOON: Duration = Duration::from_secs(1);
/// The interval between passes while a new member's container has just been started: etcd answers within a second, and no event says so.
pub const AT_ONCE: Duration = Duration::from_millis(250);

/// Changes of a cluster, and notes about them. Each planner contributes some; the plan merges them. All are idempotent except the
/// [`Step`].
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// All objects that will be created. Before the first one is, none of them may exist with another owner.
    pub preflight: Vec<Object>,
    /// The bootstrap ConfigMap.
    pub bootstrap: Option<Object>,
    /// The requests that reveal the authorities of external issuers.
    pub issuer_probes: Vec<IssuerProbe>,
    /// The authorities to create.
    pub authorities: Vec<AuthorityRequest>,
    /// The objects to apply, except for StatefulSets and the bootstrap ConfigMap.
    pub objects: Vec<Object>,
    /// The claim whose volume is expanded.
    pub expansion: Option<Object>,
    /// The domains whose CA Secrets are to stay, or not to stay any more, when the cluster is deleted.
    pub retention: Vec<Domain>,
    /// The Secrets to create or change.
    pub secrets: Vec<SecretChange>,
    /// The StatefulSets to apply.
    pub stateful_sets: BTreeMap<MemberName, Object>,
    /// The pods to label and annotate.
    pub pods: Vec<PodPatch>,
    /// The member that is asked for an entry of raft's log that changes nothing, because a started member may wait for one.
    pub raft_entry: Option<MemberName>,
    /// The user's requests that are complete.
    pub completed: Vec<CompletedRequest>,
    /// The one change that cannot be undone.
    pub step: Option<Step>,
    /// The members that are down because they are being restarted.
    pub restarting: BTreeSet<MemberName>,
    /// Whether the cluster is being recovered from the data of one member.
    pub is_recovering: bool,
    /// Why names of the cluster are taken, if other objects have some.
    pub name_taken: Option<String>,
    /// From what to what the running members are being changed, in a few words.
    pub change: Option<String>,
    /// What is in progress or pending.
    pub progress: Vec<Note>,
    /// What needs attention.
    pub problems: Vec<Note>,
    /// What is going to need attention.
    pub upcoming: Vec<Note>,
    /// The authorities that are lost: nothing of their domains can be signed.
    pub lost: Vec<Note>,
    /// What else keeps certificates from being ready.
    pub certificates: Vec<Note>,
    /// Additional notes about valid certificates.
    pub remarks: Vec<String>,
    /// When the next pass is due at the latest.
    pub check_within: Option<Duration>,
}

/// A write of a plan, or several that may be made concurrently.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// The bootstrap ConfigMap. The pass ends if it was changed meanwhile, or, while the cluster is being bootstrapped, after any
    /// failure.
    Bootstrap(&'a Object),
    /// The request that reveals the authority of an external issuer.
    IssuerProbe(IssuerProbe),
    /// The first authorities of a domain.
    Authorities(&'a AuthorityRequest),
    /// An object is applied.
    Object(&'a Object),
    /// A larger size is written to a claim. If the API server refuses it, that is remembered and not repeated at once.
    Expand(&'a Object),
    /// Whether a CA Secret stays when the cluster is deleted.
    Retention(Domain),
    /// Secrets. All leaves of a domain are recorded in its ledger before the first Secret is written.
    Secrets(&'a [SecretChange]),
    /// A StatefulSet is applied.
    StatefulSet(&'a Object),
    /// A pod is labelled and annotated.
    Pod(&'a PodPatch),
    /// A member is asked for an entry of raft's log that changes nothing.
    RaftEntry(&'a MemberName),
    /// Annotations of completed requests are removed.
    Completed(&'a [CompletedRequest]),
    /// The step, if its precondition still holds.
    Step(&'a Step),
}

impl Changes {
    /// All writes in the order in which they are made. The bootstrap ConfigMap comes first, because the operator that creates it
    /// decides which members bootstrap the cluster. StatefulSets come after the Secrets, ConfigMaps and claims that their pods need.
    pub fn in_order(&self) -> Vec<Write<'_>> {
        let mut writes: Vec<Write> = vec![];
        writes.extend(self.bootstrap.as_ref().map(Write::Bootstrap));
        writes.extend(self.issuer_probes.iter().copied().map(Write::IssuerProbe));
        writes.extend(self.authorities.iter().map(Write::Authorities));
        writes.extend(self.objects.iter().map(Write::Object));
        writes.extend(self.expansion.as_ref().map(Write::Expand));
        writes.extend(self.retention.iter().copied().map(Write::Retention));
        writes.extend((!self.secrets.is_empty()).then_some(Write::Secrets(&self.secrets)));
        writes.extend(self.stateful_sets.values().map(Write::StatefulSet));
        writes.extend(self.pods.iter().map(Write::Pod));
        writes.extend(self.raft_entry.as_ref().map(Write::RaftEntry));
        writes.extend((!self.completed.is_empty()).then_some(Write::Completed(&self.completed)));
        writes.extend(self.step.as_ref().map(Write::Step));
        writes
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.in_order().is_empty()
    }

    /// When the next pass is due, unless an event triggers it earlier.
    pub fn next_check(&self) -> Duration {
        let pending = !self.is_empty() || !self.progress.is_empty();
        let longest = if pending { PENDING } else { IDLE };
        self.check_within.map_or(longest, |within| within.min(longest))
    }

    /// Adds what another planner contributes.
    pub fn merge(&mut self, mut other: Self) {
        // Every field is named, so that a new one cannot be forgotten.
        let Self {
            preflight,
            bootstrap,
            issuer_probes,
            authorities,
            objects,
            expansion,
            retention,
            secrets,
            stateful_sets,
            pods,
            raft_entry,
            completed,
            step,
            restarting,
            is_recovering,
            name_taken,
            change,
            progress,
            problems,
            upcoming,
            lost,
            certificates,
            remarks,
            check_within,
        } = &mut other;
        self.preflight.append(preflight);
        self.bootstrap = self.bootstrap.take().or(bootstrap.take());
        self.issuer_probes.append(issuer_probes);
        self.authorities.append(authorities);
        self.objects.append(objects);
        self.expansion = self.expansion.take().or(expansion.take());
        self.retention.append(retention);
        self.secrets.append(secrets);
        self.stateful_sets.append(stateful_sets);
        self.pods.append(pods);
        self.raft_entry = self.raft_entry.take().or(raft_entry.take());
        self.completed.append(completed);
        self.step = self.step.take().or(step.take());
        self.restarting.append(restarting);
        self.is_recovering |= *is_recovering;
        self.name_taken = self.name_taken.take().or(name_taken.take());
        self.change = self.change.take().or(change.take());
        self.progress.append(progress);
        self.problems.append(problems);
        self.upcoming.append(upcoming);
        self.lost.append(lost);
        self.certificates.append(certificates);
        self.remarks.append(remarks);
        self.check_within = self.check_within.into_iter().chain(*check_within).min();
    }

    /// A contribution that consists of a step.
    pub fn step(step: impl Into<Step>) -> Self {
        Self { step: Some(step.into()), ..Self::default() }
    }

    /// Reports something that is in progress or pending.
    #[must_use]
    pub fn progress(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.progress.push(Note::new(reason, message));
        self
    }

    /// Reports something that needs attention.
    #[must_use]
    pub fn problem(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.problems.push(Note::new(reason, message));
        self
    }

    /// Reports that authorities are lost.
    pub fn lost(message: impl Into<String>) -> Self {
        Self { lost: vec![Note::new(Reason::CALost, message)], ..Self::default() }
    }

    /// Reports something else that keeps certificates from being ready.
    #[must_use]
    pub fn certificate(mut self, reason: Reason, message: impl Into<String>) -> Self {
        self.certificates.push(Note::new(reason, message));
        self
    }

    /// Schedules the next pass within this time.
    #[must_use]
    pub fn check_within(mut self, time: Duration) -> Self {
        self.check_within = Some(self.check_within.map_or(time, |within| within.min(time)));
        self
    }
}

impl Extend<Self> for Changes {
    fn extend<I: IntoIterator<Item = Self>>(&mut self, contributions: I) {
        for contribution in contributions {
            self.merge(contribution);
        }
    }
}

/// What the planners up to the first one with a step contribute.
pub fn first_step(planners: &[&dyn Fn() -> Changes]) -> Changes {
    let mut changes = Changes::default();
    for plan in planners {
        changes.merge(plan());
        if changes.step.is_some() {
            break;
        }
    }
    changes
}

/// A request of the user, an annotation of the `EtcdCluster`, that is completely or partly fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletedRequest {
    /// The annotation's name.
    pub annotation: &'static str,
    /// What remains of its value. `None`: the annotation is removed.
    pub remaining: Option<String>,
    /// The event about it, if no other event says so.
    pub event: Option<RequestEvent>,
    /// What is remembered in the status, so that the same annotation does nothing.
    pub requests: Vec<Request>,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEvent {
    /// It was fulfilled, or is about to be.
    Accepted(Note),
    /// It was refused.
    Refused(Note),
}

impl CompletedRequest {
    /// A request whose annotation is removed.
    pub fn removed(annotation: &'static str, event: Option<RequestEvent>, request: Option<Request>) -> Self {
        Self { annotation, remaining: None, event, requests: request.into_iter().collect() }
    }
}

/// Labels and annotations to be written to a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPatch {
    /// The pod.
    pub pod: String,
    /// Its uid.
    pub uid: Uid,
    /// What is written.
    pub changes: MetadataChanges,
}
