//! Plan -> writes. First what may be done again, then the one step, after checking on fresh reads that it is still right.

use std::{borrow::Cow, collections::BTreeMap};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;

use super::{
    Context, build,
    observe::Identity,
    observed::{Authorities, Observed, SeenSecret, hex},
    plan::{self, AuthorityRequest, Inquiry, LeafRequest, Note, Object, ObjectVersion, Plan, SecretChange, Step},
    step::{StepError, Taking},
    validate::ValidatedCluster,
};
use crate::{
    api::EtcdCluster,
    issuing::{self, Desk, IssueError, Target},
    k8s::{self, WriteError},
    pki::{Domain, Leaf},
};

/// What came of a plan.
#[derive(Debug, Default)]
pub struct Acted {
    /// What was done that a user may want to know of.
    pub done: Vec<Note>,
    /// What was done that costs clients something.
    pub warned: Vec<Note>,
    /// What keeps the step from being taken for a moment.
    pub waits: Vec<Note>,
    /// What could not be done.
    pub failed: Vec<Note>,
    /// What issuers have not given yet, or will not give.
    pub issuers: Vec<Note>,
    /// Whether something changed under the plan, so that the next pass should come soon.
    pub again: bool,
}

impl Acted {
    fn note(&mut self, error: &WriteError) {
        match error {
            WriteError::Conflict(_) => self.again = true,
            WriteError::Foreign { .. } => self.failed.push(Note::new("NameTaken", error.to_string())),
            WriteError::Refused { .. } => self.failed.push(Note::new("KubernetesRefused", error.to_string())),
        }
    }
    fn note_issue(&mut self, error: &IssueError) {
        match error {
            IssueError::Write(error) => self.note(error),
            IssueError::AuthorityChanged(_) => self.again = true,
            IssueError::Pki { .. } => self.failed.push(Note::new("IssuingFailed", error.to_string())),
            IssueError::Awaited { .. } => self.note_issuer("WaitingForIssuer", error),
            IssueError::OtherAuthority { .. } => self.note_issuer("OtherAuthority", error),
            IssueError::Issuer { .. } => self.note_issuer("IssuerFailed", error),
            IssueError::NoCertManager => self.note_issuer("CertManagerMissing", error),
            IssueError::Clock { .. } => self.failed.push(Note::new("ClockWrong", error.to_string())),
        }
    }
}

impl Acted {
    fn note_issuer(&mut self, reason: &'static str, error: &IssueError) {
        let note = Note::new(reason, error.to_string());
        // It says the same for each certificate that it is asked for.
        if !self.issuers.contains(&note) {
            self.issuers.push(note);
        }
    }
}

/// Does what is planned.
pub async fn act(
    context: &Context,
    seen: &EtcdCluster,
    cluster: &ValidatedCluster,
    observed: &Observed,
    plan: &Plan,
    identity: Option<&Identity>,
    now: Timestamp,
) -> Acted {
    let mut acted = Acted::default();
    let actor = Actor { context, seen, cluster, namespace: cluster.names.namespace(), now };
    if !actor.preflight(plan, &mut acted).await {
        return acted;
    }
    // The bootstrap comes first: whoever makes it decides who the founders are. A plan made without knowing it ends here.
    let bootstrap = cluster.names.bootstrap_config();
    let (bootstrap, others): (Vec<_>, Vec<_>) = plan.objects.iter().partition(|object| object.name == bootstrap);
    for error in actor.apply(&bootstrap).await {
        acted.note(&error);
    }
    let founds = !plan.preflight.is_empty();
    if acted.again || founds && !acted.failed.is_empty() {
        return acted;
    }
    // StatefulSets come after the Secrets, ConfigMaps and claims that their pods need.
    let (sets, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|object| object.resource.kind == "StatefulSet");
    actor.inquire(plan, &mut acted).await;
    actor.create_authorities(plan, &mut acted).await;
    let applied = actor.apply(&others).await;
    actor.change_secrets(observed, plan, &mut acted).await;
    for error in applied.into_iter().chain(actor.apply(&sets).await) {
        acted.note(&error);
    }
    actor.annotate_pods(plan, &mut acted).await;
    actor.end_wishes(plan, &mut acted).await;
    if let Some(step) = &plan.step {
        actor.take(step, observed, identity, &mut acted).await;
    }
    acted
}

/// What everything that is done needs.
pub struct Actor<'a> {
    /// The operator's means.
    pub context: &'a Context,
    /// The cluster's object, as the pass sees it.
    pub seen: &'a EtcdCluster,
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// Its namespace.
    pub namespace: &'a str,
    /// The time of the pass.
    pub now: Timestamp,
}

impl Actor<'_> {
    /// The Secrets of the cluster's namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), self.namespace)
    }

    /// Before the first object: none of the names may be taken, so that nothing is half made.
    async fn preflight(&self, plan: &Plan, acted: &mut Acted) -> bool {
        let check = |object| k8s::preflight(&self.context.client, self.namespace, object, &self.cluster.uid);
        let mut names: Vec<Object> = plan.preflight.clone();
        if !names.is_empty() {
            names.extend(self.secret_names());
        }
        for error in join_all(names.iter().map(check)).await.into_iter().filter_map(Result::err) {
            acted.note(&error);
        }
        acted.failed.is_empty()
    }

    fn secret_names(&self) -> Vec<Object> {
        let names = &self.cluster.names;
        let members = (0..self.cluster.replicas).map(|ordinal| names.member_secret(&names.member(ordinal)));
        let others = [names.client_authority(), names.peer_authority(), names.operator_secret()];
        let secret = |name| Object::new(&Secret { metadata: build::owned(self.cluster, name), ..Secret::default() });
        members.chain(others).map(secret).collect()
    }

    async fn apply(&self, objects: &[&Object]) -> Vec<WriteError> {
        let apply = |object| k8s::apply(&self.context.client, self.namespace, object, &self.cluster.uid);
        join_all(objects.iter().map(|object| apply(object))).await.into_iter().filter_map(Result::err).collect()
    }

    /// Where certificates are issued.
    pub fn desk(&self) -> Desk<'_> {
        let cluster = self.cluster;
        Desk { client: &self.context.client, names: &cluster.names, cluster: Some(cluster), owner: cluster.owner.clone() }
    }

    async fn inquire(&self, plan: &Plan, acted: &mut Acted) {
        for inquiry in &plan.inquiries {
            let (Inquiry::Ask(domain) | Inquiry::Forget(domain)) = *inquiry;
            let life = self.cluster.lives(domain).leaf;
            if let Err(error) = self.desk().inquire(self.cluster, *inquiry, life).await {
                acted.note_issue(&error);
            }
        }
    }

    async fn create_authorities(&self, plan: &Plan, acted: &mut Acted) {
        let secrets = self.secrets();
        let metadata = |request: &AuthorityRequest| build::retained(self.cluster, request.secret.clone());
        let uid = &self.cluster.uid;
        let creating = plan
            .authorities
            .iter()
            .map(|request| issuing::create_authorities(&secrets, request, metadata(request), uid, self.now));
        let results = join_all(creating).await;
        for (request, result) in plan.authorities.iter().zip(results) {
            match result {
                Ok(false) => acted.again = true,
                Ok(true) => acted.done.push(Note::new(
                    "AuthoritiesCreated",
                    format!("made the {} authorities in Secret {}", request.domain, request.secret),
                )),
                Err(error) => acted.note_issue(&error),
            }
        }
    }

    /// Issues all leaves of a domain with one write of its ledger, then writes the Secrets.
    async fn change_secrets(&self, observed: &Observed, plan: &Plan, acted: &mut Acted) {
        let secrets = self.secrets();
        let uid = &self.cluster.uid;
        let metadata = |change: &SecretChange| build::owned(self.cluster, change.name.clone());
        let target = async |change| issuing::target(&secrets, change, &metadata(change), uid).await;
        let targets = join_all(plan.secrets.iter().map(target)).await;
        let mut writing = vec![];
        for (change, target) in plan.secrets.iter().zip(targets) {
            match target {
                Ok(Target::Done) => acted.again = true,
                Ok(target) => writing.push((Cow::Borrowed(change), target)),
                Err(error) => acted.note(&error),
            }
        }
        // All first: what one has signed would be in its ledger for nothing if another can't.
        for domain in Domain::ALL {
            if let Err(error) = self.prepare(observed, domain, &mut writing, acted).await {
                return acted.note_issue(&error);
            }
        }
        let (changes, targets): (Vec<_>, Vec<_>) = writing.into_iter().unzip();
        let mut issued: Vec<(&LeafRequest, Leaf)> = vec![];
        for domain in Domain::ALL {
            let requests = requests(changes.iter(), domain);
            match self.issue(observed, domain, &requests).await {
                Ok(leaves) => issued.extend(requests.into_iter().zip(leaves)),
                // Without its leaves no Secret is written: it is made or changed as a whole.
                Err(error) => return acted.note_issue(&error),
            }
        }
        let writes = changes.iter().zip(targets).map(|(change, target)| {
            let leaves = change.leaves.iter().filter_map(|request| {
                let position = issued.iter().position(|(of, _)| std::ptr::eq(*of, request))?;
                Some(issued.swap_remove(position).1)
            });
            let leaves = leaves.collect();
            issuing::write(&secrets, change, target, leaves, metadata(change), self.now)
        });
        let writes: Vec<_> = writes.collect();
        for (change, result) in changes.iter().zip(join_all(writes).await) {
            if let Err(error) = result {
                acted.note(&error);
                continue;
            }
            for leaf in &change.leaves {
                self.context.metrics.leaf_issued(leaf.kind());
            }
            if !change.leaves.is_empty() {
                let message = format!("issued certificates in Secret {}: {}", change.name, change.leaves_in_words());
                acted.done.push(Note::new("CertificatesIssued", message));
            }
        }
    }

    /// Keeps of these changes what does not need leaves of a domain that cannot be issued now.
    async fn prepare(
        &self,
        observed: &Observed,
        domain: Domain,
        writing: &mut Vec<(Cow<'_, SecretChange>, Target)>,
        acted: &mut Acted,
    ) -> Result<(), IssueError> {
        let requests = requests(writing.iter().map(|(change, _)| change), domain);
        if requests.is_empty() {
            return Ok(());
        }
        let expected = self.expected(observed, domain)?;
        let problems = self.desk().prepare(domain, &expected, &requests, self.now).await?;
        let held: Vec<LeafRequest> =
            requests.iter().zip(&problems).filter(|(_, problem)| problem.is_some()).map(|(held, _)| (*held).clone()).collect();
        problems.iter().flatten().for_each(|problem| acted.note_issue(problem));
        let all = std::mem::take(writing).into_iter();
        writing.extend(all.filter_map(|(change, target)| {
            if change.leaves.iter().any(|leaf| held.contains(leaf)) {
                Some((Cow::Owned(change.without(|leaf| held.contains(leaf))?), target))
            } else {
                Some((change, target))
            }
        }));
        Ok(())
    }

    async fn issue(&self, observed: &Observed, domain: Domain, requests: &[&LeafRequest]) -> Result<Vec<Leaf>, IssueError> {
        if requests.is_empty() {
            return Ok(vec![]);
        }
        let expected = self.expected(observed, domain)?;
        self.desk().issue(domain, &expected, requests, self.now).await
    }

    /// The subject key identifier of a domain's active authority as it was observed.
    fn expected(&self, observed: &Observed, domain: Domain) -> Result<String, IssueError> {
        let changed = || IssueError::AuthorityChanged(self.cluster.names.authority(domain));
        expected_authority(observed.authority(domain)).ok_or_else(changed)
    }

    async fn annotate_pods(&self, plan: &Plan, acted: &mut Acted) {
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), self.namespace);
        let results =
            join_all(plan.pods.iter().map(|note| k8s::annotate(&pods, &note.pod, &note.uid, &note.labels, &note.annotations)))
                .await;
        for (note, result) in plan.pods.iter().zip(results) {
            match result {
                Err(kube::Error::Api(status)) if status.is_not_found() => acted.again = true,
                Err(error) => acted.note(&WriteError::of(format!("Pod {}", note.pod), error)),
                Ok(()) => {}
            }
        }
    }

    /// Takes the wishes that are over off the cluster, if it is as it was seen: its user may wish for something else by now.
    async fn end_wishes(&self, plan: &Plan, acted: &mut Acted) {
        if plan.wishes.is_empty() {
            return;
        }
        let clusters: Api<EtcdCluster> = Api::namespaced(self.context.client.clone(), self.namespace);
        let name = self.cluster.names.cluster();
        let left: BTreeMap<_, _> = plan.wishes.iter().map(|wish| (wish.annotation, &wish.left)).collect();
        let seen = ObjectVersion::of(&self.seen.metadata);
        if let Err(error) = k8s::annotate_version(&clusters, name, &seen, &left).await {
            return acted.note(&WriteError::of(format!("EtcdCluster {name}"), error));
        }
        acted.again = true;
        for wish in &plan.wishes {
            let told = if wish.warns { &mut acted.warned } else { &mut acted.done };
            told.extend(wish.told.clone());
        }
    }

    async fn take(&self, step: &Step, observed: &Observed, identity: Option<&Identity>, acted: &mut Acted) {
        let taking = Taking { actor: self, observed, identity };
        match taking.take(step).await {
            Ok(Some(message)) => {
                self.context.metrics.step(step.name());
                acted.again = true;
                acted.done.push(Note::new(step.name(), message));
                acted.warned.extend(plan::outage(step, observed));
            }
            Ok(None) => acted.again = true,
            Err(StepError::NotNow(why)) => {
                acted.again = true;
                acted.waits.push(Note::new(step.name(), format!("not yet: {why}")));
            }
            Err(StepError::Write(error)) => acted.note(&error),
            Err(StepError::Issue(error)) => acted.note_issue(&error),
            // A learner that has not caught up yet, or connections that are not 5 s old, are what is being waited for.
            Err(StepError::Etcd(error)) if error.class().passes() => {
                acted.again = true;
                acted.waits.push(Note::new(step.name(), format!("etcd {error}")));
            }
            Err(StepError::Etcd(error)) => acted.failed.push(Note::new("EtcdRefused", format!("{}: {error}", step.name()))),
        }
    }
}

/// The leaves of a domain among these changes.
fn requests<'a>(changes: impl Iterator<Item = &'a Cow<'a, SecretChange>>, domain: Domain) -> Vec<&'a LeafRequest> {
    changes.flat_map(|change| &change.leaves).filter(|leaf| leaf.domain == domain).collect()
}

/// The subject key identifier of the active authority that was observed.
pub fn expected_authority(secret: Option<&SeenSecret>) -> Option<String> {
    Authorities::read(secret?).ok()?.active.subject_key_id().map(hex)
}
