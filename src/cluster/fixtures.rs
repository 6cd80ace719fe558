//! A small world for tests: a Kubernetes that remembers what a plan asks for, a kubelet, and members that answer.
//!
//! Authorities and leaves are real. Time moves only when a test says so. Of etcd there are the rules by which members come, start
//! and go, and every pass is checked against what must never happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::apps::v1::StatefulSetStatus,
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Pod,
        PodCondition, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::de::DeserializeOwned;

use super::{
    act::Acted,
    build,
    observed::{
        Answer, Authorities, Observed, ObservedMember, Offered, SecretView, SeenSecret, StartState, annotation, is_private,
        running_since, start_state,
    },
    plan::{self, AuthorityRequest, Inquiry, Left, Object, ObjectVersion, Plan, Rotate, SecretChange, Source, Step},
    seen::Seen,
    status::{self, Judgement, Report},
    validate::{ValidatedCluster, validate},
};
use crate::{
    api::EtcdCluster,
    etcd, issuing,
    names::{MemberName, Names, annotation as key, authority_key, bootstrap_key, member_key},
    pki::{Authority, Certificate, Domain, Holder, Issuer, LeafSpec, Ledger, Offer, digest_of_private_pem, read_bundle},
};

/// The uid of the cluster.
pub const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";
/// etcd's ID of the cluster that the members founded.
pub const CLUSTER_ID: u64 = 0xc1;
/// The authority of an issuer of somebody else's, and what is public of it.
type Theirs = (Arc<Authority>, Offer);
/// A second.
pub const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// The cluster `demo` in the namespace `ns`, with a spec in YAML.
pub fn cluster(spec: &str) -> EtcdCluster {
    let mut cluster = EtcdCluster::new("demo", serde_saphyr::from_str(spec).unwrap());
    cluster.metadata.namespace = Some("ns".into());
    cluster.metadata.uid = Some(UID.into());
    cluster.metadata.generation = Some(1);
    cluster
}

/// The names of its objects.
pub fn names() -> Names {
    Names::new("demo", "ns", "cluster.local")
}

/// etcd's ID of a member.
pub fn member_id(name: &MemberName) -> u64 {
    0xa0 + u64::from(name.ordinal())
}

/// What happened in a pass.
pub struct Pass {
    /// What was planned, and done unless it was refused or the cluster is paused.
    pub plan: Plan,
    /// What was told.
    pub report: Report,
}

/// A cluster and all that there is around it.
pub struct World {
    /// The object.
    pub cluster: EtcdCluster,
    /// What Kubernetes remembers.
    pub observed: Observed,
    /// The time.
    pub now: Timestamp,
    /// Members that run and do not answer.
    pub silent: BTreeSet<MemberName>,
    /// The versions of etcd that members run, where it is another one than is wanted.
    pub versions: BTreeMap<MemberName, String>,
    /// Whether no member believes another.
    pub divided: bool,
    /// Members whose pods are not started.
    pub down: BTreeSet<MemberName>,
    /// Whether kubelets start pods and refresh files.
    pub kubelet: bool,
    /// The members, as a quorum of them knows.
    pub etcd: Vec<etcd::Member>,
    /// The ID of the leader.
    pub leader: u64,
    /// The steps that were taken, by name and member.
    pub taken: Vec<String>,
    /// How many passes a learner takes to catch up.
    pub catching_up: u32,
    /// Whether the next step gets lost on its way.
    pub lossy: bool,
    /// After how many writes from now on the operator dies.
    pub dies_after: Option<usize>,
    /// How many times it has died before a write.
    pub deaths: u32,
    /// How far each member's data goes, where it is not as far as that of most.
    pub revisions: BTreeMap<MemberName, u64>,
    /// Members whose pods stay when they should go: their nodes are dead.
    pub stuck: BTreeSet<MemberName>,
    /// By which authorities issuers sign that are not the built-in one, and those above them.
    pub theirs: BTreeMap<Domain, Theirs>,
    /// Issuers that sign nothing.
    pub refusing: BTreeSet<String>,
    /// The longest life that issuers give who are asked to sign.
    pub longest: SignedDuration,
    /// Members of which a survivor that was forced to start alone knows no more: none of them must start again.
    forgotten: BTreeSet<u64>,
    /// Which member runs in a pod: the pod's uid and, if its process came up, etcd's ID of it and since how many passes.
    running: BTreeMap<MemberName, (String, Option<u64>, u32)>,
    /// Whose data is on a claim, by the claim's uid.
    data: BTreeMap<String, u64>,
    /// Members of which the operator sees no trace.
    hidden: BTreeMap<MemberName, ObservedMember>,
    /// Members whose data is lost.
    lost: BTreeSet<u64>,
    added: u64,
    /// The files that each pod sees.
    mounted: BTreeMap<MemberName, SeenSecret>,
    /// The private keys of the authorities, by domain: the cache does not keep them.
    keys: BTreeMap<Domain, BTreeMap<String, ByteString>>,
    /// The files with which each pod has started.
    started: BTreeMap<MemberName, (String, SeenSecret)>,
    writes: u32,
}

impl World {
    /// Nothing but the cluster's object.
    pub fn new(spec: &str) -> Self {
        Self {
            cluster: cluster(spec),
            observed: Observed::default(),
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            silent: BTreeSet::new(),
            versions: BTreeMap::new(),
            divided: false,
            down: BTreeSet::new(),
            kubelet: true,
            etcd: vec![],
            leader: 0,
            taken: vec![],
            catching_up: 2,
            lossy: false,
            dies_after: None,
            deaths: 0,
            revisions: BTreeMap::new(),
            stuck: BTreeSet::new(),
            theirs: BTreeMap::new(),
            refusing: BTreeSet::new(),
            longest: SignedDuration::MAX,
            forgotten: BTreeSet::new(),
            running: BTreeMap::new(),
            data: BTreeMap::new(),
            hidden: BTreeMap::new(),
            lost: BTreeSet::new(),
            added: 0,
            mounted: BTreeMap::new(),
            keys: BTreeMap::new(),
            started: BTreeMap::new(),
            writes: 0,
        }
    }

    /// A cluster that has been founded and is as wanted.
    pub fn founded(spec: &str) -> Self {
        let mut world = Self::new(spec);
        world.settle();
        world
    }

    /// The cluster with its spec checked.
    pub fn valid(&self) -> ValidatedCluster {
        validate(&self.cluster, "cluster.local").unwrap()
    }

    /// The member with an ordinal.
    pub fn member(&mut self, ordinal: u32) -> &mut ObservedMember {
        self.observed.members.get_mut(&names().member(ordinal)).unwrap()
    }

    /// A member's pod.
    pub fn pod(&mut self, ordinal: u32) -> &mut Pod {
        self.member(ordinal).pod.as_mut().unwrap()
    }

    /// What would be planned now.
    pub fn plan(&mut self) -> Plan {
        self.look();
        plan::plan(&self.valid(), &self.observed, self.now)
    }

    /// What would be told now, where nothing is done.
    pub fn report(&mut self) -> Report {
        let plan = self.plan();
        self.report_on(&plan, &Acted::default())
    }

    /// What would be told of a plan of which this came.
    pub fn report_on(&self, plan: &Plan, acted: &Acted) -> Report {
        let judgement = Judgement::Planned(Arc::new(self.valid()), Box::new(plan.clone()));
        status::report(&self.cluster, &self.observed, &judgement, acted, self.now)
    }

    /// One pass, after which a second goes by.
    pub fn pass(&mut self) -> Pass {
        let plan = self.plan();
        let report = self.report_on(&plan, &Acted::default());
        if plan.refused.is_none() && !self.cluster.spec.paused {
            self.perform(&plan);
        }
        if self.observed.list.is_ok() && self.cluster.status.as_ref().is_some_and(|status| status.cluster_id.is_some()) {
            assert!(self.has_quorum() || self.voters() < 3, "quorum was lost by {:?}", self.taken.last());
        }
        if self.observed.status != report.status && self.lives_for(1) == 1 {
            self.observed.status = report.status.clone();
            self.cluster.status = Some(report.status.clone());
        }
        self.now += SECOND;
        Pass { plan, report }
    }

    /// How many of so many writes the operator lives to make in this pass.
    fn lives_for(&mut self, writes: usize) -> usize {
        let made = writes.min(self.dies_after.unwrap_or(writes));
        self.deaths += u32::from(made < writes);
        self.dies_after = self.dies_after.map(|left| left - made);
        made
    }

    /// Passes until nothing is planned and the status stays, and says how many of them planned something.
    pub fn settle(&mut self) -> usize {
        let mut busy = 0;
        for _ in 0..150 {
            let before = self.observed.status.clone();
            let pass = self.pass();
            if pass.plan.is_empty() && pass.report.status == before {
                return busy;
            }
            busy += usize::from(!pass.plan.is_empty());
        }
        panic!("never settles: {:#?}", self.plan());
    }

    /// What the watches, the kubelets and the members tell at the moment.
    fn look(&mut self) {
        self.trace();
        self.run();
        let (quorum, leader) = (self.has_quorum(), self.leader);
        for (name, member) in &mut self.observed.members {
            let id = self.running.get(name).and_then(|(_, id, _)| *id);
            if let Some(pod) = &mut member.pod {
                let voter = self.etcd.iter().any(|m| Some(m.id) == id && !m.is_learner);
                let ready = if voter && quorum && !build::is_forced(pod.spec.as_ref()) { "True" } else { "False" };
                if let Some(condition) = pod.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()).next() {
                    condition.status = ready.into();
                }
            }
            let answer = |mounted: &SeenSecret, id: u64| {
                let leaf = |key: &str| mounted.certificate(key).unwrap().unwrap().der().to_vec();
                if self.silent.contains(name) {
                    return (Answer::Unreachable("connection refused".into()), None);
                }
                if !quorum {
                    return (Answer::Unreachable("does not answer on port 2379 yet".into()), None);
                }
                let is_learner = self.etcd.iter().any(|m| m.id == id && m.is_learner);
                let applied = self.revisions.get(name).copied().unwrap_or(100);
                let mut status = etcd::MemberStatus { leader, is_learner, raft_applied_index: applied, ..etcd_status(id) };
                if let Some(version) = self.versions.get(name) {
                    status.version.clone_from(version);
                }
                (Answer::Reached(leaf(member_key::SERVER_CRT), Ok(status)), Some(Ok(leaf(member_key::PEER_CRT))))
            };
            (member.etcd, member.peer_leaf) = match (&member.pod, self.mounted.get(name), id) {
                (Some(pod), Some(mounted), Some(id)) if running_since(pod).is_some() => answer(mounted, id),
                _ => (Answer::default(), None),
            };
            let asked = !quorum && self.observed.status.cluster_id.is_some() && id.is_some();
            member.progress = asked.then(|| {
                let is_learner = self.etcd.iter().any(|m| Some(m.id) == id && m.is_learner);
                let revision = self.revisions.get(name).copied().unwrap_or(100);
                let progress = etcd::Progress { revision, has_leader: false, is_learner };
                if self.silent.contains(name) { Err("does not listen on port 2381".into()) } else { Ok(progress) }
            });
        }
        self.observed.list = if quorum {
            Ok(etcd::MemberList { cluster_id: CLUSTER_ID, members: self.etcd.clone() })
        } else {
            Err("no member answers".into())
        };
        for listed in self.observed.list.iter().flat_map(|list| &list.members) {
            if let Some(name) = listed.peer_urls.first().and_then(|url| names().member_at(url)) {
                let hidden = self.hidden.remove(&name).unwrap_or_default();
                self.observed.members.entry(name).or_insert(hidden);
            }
        }
    }

    /// The operator sees only members of which there is a trace.
    fn trace(&mut self) {
        let names = names();
        let written = self.observed.bootstrap.iter().flat_map(|config| config.data.iter().flatten());
        let mut traced: BTreeSet<_> =
            written.filter_map(|(key, _)| names.parse_member(key.strip_suffix(bootstrap_key::STATE_SUFFIX)?)).collect();
        traced.extend(self.observed.status.members.iter().filter_map(|member| names.parse_member(&member.name)));
        let mut all = std::mem::take(&mut self.observed.members);
        all.append(&mut self.hidden);
        for name in &traced {
            all.entry(name.clone()).or_default();
        }
        let has_trace =
            |name: &MemberName, m: &ObservedMember| traced.contains(name) || m.claim.is_some() || m.stateful_set.is_some();
        for (name, member) in all {
            let into = if has_trace(&name, &member) { &mut self.observed.members } else { &mut self.hidden };
            into.insert(name, member);
        }
    }

    /// What kubelets and etcd do by themselves.
    fn run(&mut self) {
        let names = names();
        for (name, member) in &mut self.observed.members {
            if self.kubelet {
                let wanted = member.stateful_set.as_ref().is_some_and(|set| set.spec.replicas != Some(0));
                if !wanted && self.stuck.contains(name) {
                    if let Some(pod) = &mut member.pod {
                        pod.metadata.deletion_timestamp.get_or_insert(Time(self.now));
                    }
                } else if !wanted {
                    member.pod = None;
                } else if !self.down.contains(name) {
                    start_pod(&names, name, member, &mut self.mounted, self.now);
                    let pod = member.pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
                    if let Some(uid) = pod.filter(|uid| self.started.get(name).is_none_or(|(of, _)| of != uid)) {
                        self.started.insert(name.clone(), (uid, self.mounted[name].clone()));
                    }
                }
                if let Some(status) = member.stateful_set.as_mut().and_then(|set| set.status.as_mut()) {
                    status.replicas = i32::from(member.pod.is_some());
                }
            }
            let pod = member.pod.as_ref().and_then(|pod| pod.metadata.uid.clone());
            let runs = self.running.get(name).map(|(uid, ..)| uid.clone());
            match pod {
                None => drop(self.running.remove(name)),
                Some(uid) if runs.as_ref() == Some(&uid) => {}
                Some(uid) => drop(self.running.insert(name.clone(), (uid, None, 0))),
            }
        }
        let members = &self.observed.members;
        self.running.retain(|name, _| members.contains_key(name));
        let starting: Vec<_> = self.running.iter().filter(|(_, (_, id, _))| id.is_none()).map(|(name, _)| name.clone()).collect();
        for name in starting {
            let id = self.boot(&name);
            self.running.get_mut(&name).unwrap().1 = id;
        }
        for (_, id, since) in self.running.values_mut() {
            *since += 1;
            // A member that is removed stops.
            if !self.etcd.iter().any(|m| Some(m.id) == *id) {
                *id = None;
            }
        }
        if self.has_quorum() {
            for member in &mut self.etcd {
                let name = names.member_at(&member.peer_urls[0]);
                let runs = name.as_ref().and_then(|name| self.running.get(name)).is_some_and(|(_, id, _)| *id == Some(member.id));
                if let Some(name) = name.filter(|_| runs) {
                    member.name = name.to_string();
                }
            }
            let voters: Vec<_> = self.serving();
            if !voters.contains(&self.leader) {
                self.leader = voters[0];
            }
        }
    }

    /// Starts a member as etcd does, and says under which ID it runs, if it does.
    fn boot(&mut self, name: &MemberName) -> Option<u64> {
        let claim = self.observed.members[name].claim.as_ref()?.metadata.uid.clone()?;
        let url = names().peer_url(name);
        let listed = |etcd: &[etcd::Member]| etcd.iter().find(|m| m.peer_urls == [url.clone()]).cloned();
        if let Some(id) = self.data.get(&claim).copied() {
            assert!(!self.forgotten.contains(&id), "{name} starts with data that was given up: it could be a second cluster");
            let pod = self.observed.members[name].pod.as_ref();
            if pod.is_some_and(|pod| build::is_forced(pod.spec.as_ref())) {
                self.start_alone(name, id);
            }
            let here = listed(&self.etcd);
            assert!(
                here.as_ref().is_none_or(|here| here.id == id),
                "{name} was removed and added again, and starts with the data that it had"
            );
            return here.map(|here| here.id);
        }
        let config = self.observed.bootstrap.as_ref()?;
        let entries = config.data.as_ref()?.get(&bootstrap_key::cluster(name))?;
        let urls: BTreeSet<_> = entries.split(',').filter_map(|entry| Some(entry.split_once('=')?.1.to_owned())).collect();
        match start_state(config, name, &names().initial_entry(name))? {
            StartState::New => {
                let founders = urls.iter().filter_map(|url| names().member_at(url));
                if self.etcd.is_empty() {
                    self.etcd = founders.map(|name| founder(&name)).collect();
                }
            }
            StartState::Joining(_) | StartState::Existing => {
                let there: BTreeSet<_> = self.etcd.iter().flat_map(|m| m.peer_urls.clone()).collect();
                // A member that is alone finds nobody to ask.
                if urls != there || urls.len() == 1 {
                    return None;
                }
            }
        }
        let here = listed(&self.etcd)?;
        assert!(!self.data.values().any(|id| *id == here.id), "{name} starts under its old ID without its data");
        assert!(!self.lost.contains(&here.id), "{name} starts under its old ID without its data");
        self.data.insert(claim, here.id);
        Some(here.id)
    }

    /// What `--force-new-cluster` does: whoever else there was is forgotten.
    fn start_alone(&mut self, name: &MemberName, id: u64) {
        let others = self.running.iter().filter(|(other, _)| *other != name);
        assert!(others.into_iter().all(|(_, (_, id, _))| id.is_none()), "another runs while {name} is forced to be alone");
        let url = names().peer_url(name);
        self.forgotten.extend(self.etcd.iter().map(|m| m.id).filter(|other| *other != id));
        self.etcd.retain(|member| member.id == id);
        assert!(self.etcd.iter().all(|member| member.peer_urls == [url.clone()]) && self.etcd.len() == 1);
        self.leader = id;
    }

    /// The process of a member ends and is started again in its pod.
    pub fn restart_container(&mut self, ordinal: u32) {
        if let Some((_, id, _)) = self.running.get_mut(&names().member(ordinal)) {
            *id = None;
        }
    }

    /// Whether a pod or a template starts a member alone.
    pub fn is_anyone_forced(&self) -> bool {
        self.observed.members.values().any(|member| {
            member.pod.as_ref().is_some_and(|pod| build::is_forced(pod.spec.as_ref()))
                || member.stateful_set.as_ref().is_some_and(|set| build::is_forced(set.spec.template.spec.as_ref()))
        })
    }

    /// The voters that serve.
    fn serving(&self) -> Vec<u64> {
        let voters = self.etcd.iter().filter(|member| !member.is_learner);
        let up = |member: &&etcd::Member| {
            let name = names().member_at(&member.peer_urls[0]);
            let runs = |name: &MemberName| {
                let pod = self.observed.members.get(name).and_then(|member| member.pod.as_ref());
                !self.silent.contains(name)
                    && pod.is_some_and(|pod| running_since(pod).is_some())
                    && self.running.get(name).is_some_and(|(_, id, _)| *id == Some(member.id))
            };
            name.is_some_and(|name| runs(&name))
        };
        voters.filter(up).map(|member| member.id).collect()
    }

    fn voters(&self) -> usize {
        self.etcd.iter().filter(|member| !member.is_learner).count()
    }

    /// Whether a quorum serves.
    pub fn has_quorum(&self) -> bool {
        !self.divided && self.serving().len() > self.voters() / 2
    }

    /// The ordinals of the voters, in order.
    pub fn ordinals(&self) -> Vec<u32> {
        let voters = self.etcd.iter().filter(|member| !member.is_learner);
        let mut ordinals: Vec<_> = voters.filter_map(|m| Some(names().member_at(&m.peer_urls[0])?.ordinal())).collect();
        ordinals.sort_unstable();
        ordinals
    }

    /// etcd's ID of the member with an ordinal.
    pub fn id(&self, ordinal: u32) -> u64 {
        let url = names().peer_url(&names().member(ordinal));
        self.etcd.iter().find(|member| member.peer_urls == [url.clone()]).unwrap().id
    }

    /// Its claim is lost, and its pod with it.
    pub fn lose(&mut self, ordinal: u32) {
        let member = self.member(ordinal);
        member.pod = None;
        if let Some(claim) = member.claim.take() {
            let id = self.data.remove(claim.metadata.uid.as_ref().unwrap());
            self.lost.extend(id);
        }
        self.running.remove(&names().member(ordinal));
    }

    /// Its pod is gone, and none is started until it is up again.
    pub fn stop(&mut self, ordinal: u32) {
        self.member(ordinal).pod = None;
        self.down.insert(names().member(ordinal));
    }

    /// Its container ends again and again, so that it does not serve.
    pub fn crash(&mut self, ordinal: u32) {
        let name = names().member(ordinal);
        let status = self.pod(ordinal).status.as_mut().unwrap();
        let container = &mut status.container_statuses.as_mut().unwrap()[0];
        let waiting = ContainerStateWaiting { reason: Some("CrashLoopBackOff".into()), message: None };
        let ended =
            ContainerStateTerminated { exit_code: 2, reason: Some("Error".into()), ..ContainerStateTerminated::default() };
        container.restart_count = 5;
        container.state = Some(ContainerState { waiting: Some(waiting), ..ContainerState::default() });
        container.last_state = Some(ContainerState { terminated: Some(ended), ..ContainerState::default() });
        self.silent.insert(name);
    }

    fn take(&mut self, step: &Step) {
        let of = match step {
            Step::AddLearner { member }
            | Step::Promote { member, .. }
            | Step::RemoveMember { member, .. }
            | Step::MoveLeader { member, .. }
            | Step::DeleteStatefulSet { member, .. }
            | Step::DeleteClaim { member, .. }
            | Step::RestartMember { member, .. } => format!(" {member}"),
            Step::RemoveUnstarted { id } => format!(" {id:x}"),
            Step::GiveUp { survivor, .. } => format!(" for {survivor}"),
            Step::LockBootstrap { .. }
            | Step::Revoke { .. }
            | Step::Rotate(_)
            | Step::DeleteBudget { .. }
            | Step::TakeOver { .. } => String::new(),
        };
        if self.try_to_take(step) {
            self.taken.push(format!("{}{of}", step.name()));
        }
        assert!(self.etcd.iter().filter(|member| member.is_learner).count() <= 1, "two learners");
    }

    /// Takes a step as Kubernetes and etcd do, and says whether they did.
    fn try_to_take(&mut self, step: &Step) -> bool {
        let serving = self.serving();
        let voters = self.voters();
        match step {
            Step::LockBootstrap { cluster_id, members } => {
                for (name, id, uid) in members {
                    let claim = self.observed.members.get_mut(name).unwrap().claim.as_mut().unwrap();
                    assert_eq!(claim.metadata.uid.as_ref(), Some(uid));
                    let written = [(key::CLUSTER_ID, format!("{cluster_id:x}")), (key::MEMBER_ID, format!("{id:x}"))];
                    let written = written.map(|(key, value)| (key.to_owned(), value));
                    claim.metadata.annotations.get_or_insert_default().extend(written);
                }
            }
            Step::Revoke { domain, holders } => self.revoke(*domain, holders),
            Step::AddLearner { member } => {
                let url = names().peer_url(member);
                assert!(!self.is_anyone_forced(), "a container that starts again would forget {member}");
                assert!(!self.etcd.iter().any(|m| m.peer_urls == [url.clone()]), "{member} is there");
                assert_eq!(serving.len(), voters, "one that is down comes first");
                let there = self.observed.members.get(member).or_else(|| self.hidden.get(member));
                assert!(there.is_none_or(|there| there.claim.is_none()), "there is a claim before {member} was added");
                self.added += 1;
                let id = 0x1000 + self.added;
                self.etcd.push(etcd::Member {
                    id,
                    name: String::new(),
                    client_urls: vec![],
                    is_learner: true,
                    ..founder(member)
                });
            }
            Step::Promote { member, id } => {
                let caught_up = self.running.get(member).is_some_and(|(_, of, n)| of == &Some(*id) && *n > self.catching_up);
                if !caught_up {
                    return false;
                }
                self.etcd.iter_mut().find(|m| m.id == *id).unwrap().is_learner = false;
            }
            Step::RemoveMember { member, id } => {
                let listed = self.etcd.iter().find(|m| m.id == *id).unwrap();
                if !listed.is_learner {
                    let is_up = serving.contains(id);
                    let others = serving.len() - usize::from(is_up);
                    assert!(others > (voters - 1) / 2, "without {member} there is no quorum");
                    assert!(!is_up || serving.len() == voters, "{member} is healthy and another is down");
                    assert!(!is_up || self.leader != *id, "{member} leads");
                }
                self.etcd.retain(|m| m.id != *id);
            }
            Step::RemoveUnstarted { id } => {
                let listed = self.etcd.iter().find(|m| m.id == *id).unwrap();
                assert!(listed.name.is_empty(), "it has started");
                assert!(listed.is_learner || serving.len() > (voters - 1) / 2, "without it there is no quorum");
                self.etcd.retain(|m| m.id != *id);
            }
            Step::TakeOver { objects, from } => self.take_over(objects, from),
            Step::MoveLeader { from, to, .. } => {
                assert!(serving.contains(to) && *from == self.leader);
                self.leader = *to;
            }
            Step::DeleteBudget { .. } => self.observed.disruption_budget = None,
            Step::DeleteStatefulSet { member, .. } => {
                assert!(!self.is_listed(member));
                self.observed.members.get_mut(member).unwrap().stateful_set = None;
            }
            Step::DeleteClaim { member, uid } => {
                let there = self.observed.members.get_mut(member).unwrap();
                assert!(there.pod.is_none() && there.stateful_set.is_none(), "somebody may write to it");
                assert_eq!(there.claim.take().unwrap().metadata.uid.as_ref(), Some(uid));
                assert!(!self.is_listed(member));
                self.data.remove(uid);
            }
            Step::GiveUp { survivor, claims } => self.give_up(survivor, claims),
            Step::Rotate(rotate) => self.rotate(rotate),
            Step::RestartMember { member, pod_uid } => {
                let id = self.running.get(member).and_then(|(_, id, _)| *id);
                // Without quorum no pod is ready, and of one that is not the budget says nothing.
                let is_up = self.has_quorum() && id.is_some_and(|id| serving.contains(&id));
                if is_up {
                    let budget =
                        self.observed.disruption_budget.as_ref().and_then(|budget| budget.spec.as_ref()?.min_available.clone());
                    let kept = match budget {
                        Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(kept)) => {
                            usize::try_from(kept).unwrap()
                        }
                        _ => 0,
                    };
                    if serving.len() <= kept {
                        return false;
                    }
                    assert!(voters < 3 || serving.len() == voters, "another is down");
                    assert!(voters < 2 || Some(self.leader) != id, "the leader is moved first");
                }
                let there = self.observed.members.get_mut(member).unwrap();
                assert_eq!(there.pod.take().unwrap().metadata.uid.as_ref(), Some(pod_uid));
                self.running.remove(member);
            }
        }
        true
    }

    fn give_up(&mut self, survivor: &MemberName, claims: &[(MemberName, String)]) {
        for (member, uid) in claims {
            let there = self.observed.members.get_mut(member).unwrap();
            assert!(there.pod.is_none(), "it may be in use");
            let claim = there.claim.as_mut().unwrap();
            assert_eq!(claim.metadata.uid.as_ref(), Some(uid));
            claim.metadata.annotations.get_or_insert_default().insert(key::GIVEN_UP_FOR.into(), survivor.to_string());
        }
    }

    fn take_over(&mut self, objects: &[Left], from: &str) {
        let uid = self.cluster.metadata.uid.clone().unwrap();
        for left in objects {
            let claims = self.observed.members.values_mut().filter_map(|member| member.claim.as_mut());
            let secrets = [&mut self.observed.client_authority, &mut self.observed.peer_authority];
            let secrets = secrets.into_iter().flatten().map(|secret| &mut secret.meta);
            let mut metas = secrets.chain(claims.map(|claim| &mut claim.metadata));
            let meta = metas.find(|meta| meta.name.as_ref() == Some(&left.name)).unwrap();
            let before = meta.annotations.get_or_insert_default().insert(key::CLUSTER_UID.into(), uid.clone());
            assert_eq!(before.as_deref(), Some(from));
        }
    }

    /// Whoever shows a leaf must be believed by whoever verifies it, with what that one has started with: members among
    /// themselves, the operator and the members, and clients that hold these leaves and `ca.crt`s.
    pub fn check_trust(&mut self, leaves: &[Certificate], bundles: &[Vec<u8>]) {
        self.look();
        let now = self.now;
        let believed = |leaf: &Certificate, bundle: &[u8]| {
            let authorities = read_bundle(bundle).unwrap();
            let valid = |certificate: &Certificate| certificate.not_before() <= now && now <= certificate.not_after();
            valid(leaf) && authorities.iter().any(|authority| valid(authority) && leaf.is_signed_by(authority))
        };
        let leaf = |secret: &SeenSecret, key: &str| Certificate::clone(&secret.certificate(key).unwrap().unwrap());
        let there = self.observed.operator.clone().zip(self.observed.ca_config.clone());
        // Before that nobody runs.
        let Some((operator, config)) = there else { return };
        let config = config.data.clone().unwrap();
        // Nobody talks to one that has been removed, or does not run.
        let is_there = |name: &MemberName| self.running.contains_key(name) && self.is_listed(name);
        for (name, (_, started)) in self.started.iter().filter(|(name, _)| is_there(name)) {
            let mounted = &self.mounted[name];
            for (other, files) in self.mounted.iter().filter(|(other, _)| is_there(other)) {
                let peer = leaf(files, member_key::PEER_CRT);
                assert!(believed(&peer, &started.data[member_key::PEER_CA]), "{now}: {name} does not believe {other}");
                let client = leaf(files, member_key::CLIENT_CRT);
                assert!(
                    believed(&client, &started.data[member_key::CLIENT_CA]),
                    "{now}: {name} does not believe {other}'s etcdctl"
                );
            }
            for client in leaves.iter().chain([&leaf(&operator, "tls.crt")]).filter(|leaf| leaf.not_after() >= now) {
                assert!(believed(client, &started.data[member_key::CLIENT_CA]), "{now}: {name} does not believe a client");
            }
            let server = leaf(mounted, member_key::SERVER_CRT);
            let known = [operator.data["ca.crt"].clone(), config["ca.crt"].clone().into_bytes()];
            for bundle in bundles.iter().chain(&known) {
                assert!(believed(&server, bundle), "{now}: a client does not believe {name}");
            }
        }
    }

    /// The names of the authorities that members have started with.
    pub fn trusted(&self, key: &str) -> BTreeSet<String> {
        let bundles = self.started.values().map(|(_, files)| read_bundle(&files.data[key]).unwrap());
        bundles.flatten().map(|authority| authority.common_name().to_owned()).collect()
    }

    fn is_listed(&self, member: &MemberName) -> bool {
        self.etcd.iter().any(|m| m.peer_urls == [names().peer_url(member)])
    }

    fn perform(&mut self, plan: &Plan) {
        for inquiry in plan.inquiries.iter().take(self.lives_for(plan.inquiries.len())) {
            self.inquire(*inquiry);
        }
        for request in plan.authorities.iter().take(self.lives_for(plan.authorities.len())) {
            self.create_authorities(request);
        }
        for object in plan.objects.iter().take(self.lives_for(plan.objects.len())) {
            self.apply(object);
        }
        for change in plan.secrets.iter().take(self.lives_for(plan.secrets.len())) {
            self.change_secret(change);
        }
        for note in plan.pods.iter().take(self.lives_for(plan.pods.len())) {
            let (name, member) = self.observed.members.iter_mut().find(|(name, _)| names().pod(name) == note.pod).unwrap();
            let pod = member.pod.as_mut().unwrap();
            assert_eq!(pod.metadata.uid.as_ref(), Some(&note.uid));
            pod.metadata.labels.get_or_insert_default().extend(note.labels.clone());
            pod.metadata.annotations.get_or_insert_default().extend(note.annotations.clone());
            if self.kubelet && note.annotations.contains_key(key::TLS_TOUCHED) {
                self.mounted.insert(name.clone(), member.secret.clone().unwrap());
            }
        }
        for wish in plan.wishes.iter().take(self.lives_for(plan.wishes.len())) {
            let annotations = self.cluster.metadata.annotations.get_or_insert_default();
            annotations.remove(wish.annotation);
            annotations.extend(wish.left.clone().map(|left| (wish.annotation.to_owned(), left)));
        }
        if let Some(step) = plan.step.as_ref().filter(|_| !std::mem::take(&mut self.lossy) && self.lives_for(1) == 1) {
            self.take(step);
        }
    }

    fn version(&mut self) -> String {
        self.writes += 1;
        self.writes.to_string()
    }

    /// The authorities' Secret of a domain.
    pub fn authority_secret(&mut self, domain: Domain) -> &mut Option<SeenSecret> {
        match domain {
            Domain::Client => &mut self.observed.client_authority,
            Domain::Peer => &mut self.observed.peer_authority,
        }
    }

    /// An issuer that is not the built-in one signs by this authority from now on.
    pub fn bring(&mut self, domain: Domain, authority: Authority, above: Vec<Certificate>) {
        let offer = Offer { authority: authority.certificate().clone(), above };
        if let Issuer::CaSecret { .. } = self.valid().issuer(domain) {
            self.observed.offers.insert(domain, Offered { asked: None, answer: Ok(offer.clone()) });
        }
        self.theirs.insert(domain, (Arc::new(authority), offer));
    }

    /// The private key that a Secret of somebody else's holds.
    fn their_key(&self, domain: Domain, source: &Source) -> Option<Vec<u8>> {
        let Source::Offered(Issuer::CaSecret { .. }, _) = source else { return None };
        Some(self.theirs[&domain].0.key_pem().to_vec())
    }

    /// What issuers are asked for and say. One that is asked answers at once.
    fn inquire(&mut self, inquiry: Inquiry) {
        match inquiry {
            Inquiry::Ask(domain) => {
                let answer = Ok(self.theirs[&domain].1.clone());
                self.observed.offers.insert(domain, Offered { asked: Some(self.now), answer });
            }
            Inquiry::Forget(domain) => drop(self.observed.offers.remove(&domain)),
        }
    }

    /// The domains of these leaves whose issuers sign by an authority that does not sign here yet, or sign nothing.
    fn held_back(&mut self, change: &SecretChange) -> BTreeSet<Domain> {
        let mut held = BTreeSet::new();
        for domain in change.leaves.iter().map(|leaf| leaf.domain).collect::<BTreeSet<_>>() {
            let authorities = Authorities::read(self.authority_secret(domain).as_ref().unwrap()).unwrap();
            if self.refusing.contains(&authorities.issuers.active.to_string()) {
                held.insert(domain);
            } else if !authorities.issuers.active.has_key() && *self.theirs[&domain].0.certificate() != authorities.active {
                self.inquire(Inquiry::Ask(domain));
                held.insert(domain);
            }
        }
        held
    }

    fn create_authorities(&mut self, request: &AuthorityRequest) {
        let data = issuing::found(request, self.their_key(request.domain, &request.source).as_deref(), self.now).unwrap();
        assert!(self.authority_secret(request.domain).is_none(), "authorities are made once");
        self.put_authorities(request.domain, request.secret.clone(), data);
    }

    /// Writes an authorities' Secret. What is watched of it has no private keys.
    fn put_authorities(&mut self, domain: Domain, name: String, data: BTreeMap<String, ByteString>) {
        let mut meta = build::retained(&self.valid(), name);
        meta.resource_version = Some(self.version());
        let (keys, mut public): (BTreeMap<_, _>, BTreeMap<_, _>) = data.into_iter().partition(|(key, _)| is_private(key));
        for (key, pem) in &keys {
            let digest = digest_of_private_pem(&pem.0).unwrap().to_hex();
            public.insert(key.clone(), ByteString(digest.into_bytes()));
        }
        let data = public.into_iter().map(|(key, value)| (key, value.0)).collect();
        self.keys.insert(domain, keys);
        *self.authority_secret(domain) = Some(SecretView { meta, type_: "Opaque".into(), data }.into());
    }

    /// What an authorities' Secret really holds.
    fn authority_data(&mut self, domain: Domain) -> BTreeMap<String, ByteString> {
        let view = self.authority_secret(domain).as_ref().map(|secret| secret.data.clone()).unwrap_or_default();
        let mut data: BTreeMap<_, _> = view.into_iter().map(|(key, value)| (key, ByteString(value))).collect();
        let keys = self.keys.get(&domain).cloned().unwrap_or_default();
        data.extend(keys.into_iter().filter(|(key, _)| data.contains_key(key)).collect::<Vec<_>>());
        data
    }

    fn rotate(&mut self, rotate: &Rotate) {
        let mut data = self.authority_data(rotate.domain);
        let theirs = self.their_key(rotate.domain, &rotate.source);
        assert!(issuing::turn(&mut data, rotate, theirs.as_deref(), self.now).unwrap(), "it was planned on what is there");
        self.put_authorities(rotate.domain, rotate.secret.clone(), data);
    }

    fn with_ledger<T>(&mut self, domain: Domain, change: impl FnOnce(&Authority, &mut Ledger) -> T) -> T {
        let theirs = self.theirs.get(&domain).map(|(authority, _)| authority.clone());
        let key = self.keys[&domain].get(authority_key::ACTIVE_KEY).cloned();
        let now = self.now;
        let secret = self.authority_secret(domain).as_mut().unwrap();
        let load = |key: ByteString| Authority::load(&secret.data[authority_key::ACTIVE_CRT], &key.0).unwrap();
        let authority = key.map(|key| Arc::new(load(key))).or(theirs).unwrap();
        let mut ledger = Ledger::from_json(&secret.data[authority_key::LEDGER]).unwrap();
        let revoked: Vec<_> = ledger.revoked().collect();
        let result = change(&authority, &mut ledger);
        if revoked != ledger.revoked().collect::<Vec<_>>() {
            secret.data.insert(authority_key::CRL.into(), authority.sign_crl(ledger.revoked(), now).unwrap());
        }
        secret.data.insert(authority_key::LEDGER.into(), ledger.to_json().unwrap());
        result
    }

    /// Issues what a change asks for into a Secret.
    pub fn issue(&mut self, secret: &mut SecretView, change: &SecretChange) {
        secret.meta.resource_version = Some(self.version());
        secret.meta.labels.get_or_insert_default().extend(change.labels.clone());
        secret.type_ = change.type_.into();
        secret.data.extend(change.files.clone());
        for request in &change.leaves {
            let now = self.now;
            let longest = if request.at_once { SignedDuration::MAX } else { self.longest };
            let given = LeafSpec { duration: request.spec.duration.min(longest), ..request.spec.clone() };
            let mut leaf = self.with_ledger(request.domain, |authority, ledger| {
                let leaf = authority.issue(&given, now).unwrap();
                ledger.record(&leaf.certificate, request.holder.clone());
                leaf
            });
            leaf.chain = Authorities::read(self.authority_secret(request.domain).as_ref().unwrap()).unwrap().chain.clone();
            secret.data.insert(request.keys[0].into(), leaf.pem().into());
            secret.data.insert(request.keys[1].into(), leaf.key.public_digest().to_hex().into());
        }
    }

    fn change_secret(&mut self, change: &SecretChange) {
        let held = self.held_back(change);
        if !held.is_empty() {
            let left = change.without(|leaf| held.contains(&leaf.domain));
            return left.iter().for_each(|change| self.change_secret(change));
        }
        let new = SecretView { meta: build::owned(&self.valid(), change.name.clone()), ..SecretView::default() };
        let member = self.observed.members.keys().find(|name| names().member_secret(name) == change.name).cloned();
        let there = match &member {
            Some(name) => self.observed.members.get_mut(name).unwrap().secret.take(),
            None => self.observed.operator.take(),
        };
        assert_eq!(there.as_ref().and_then(|secret| secret.meta.resource_version.as_ref()), change.version.as_ref());
        let mut secret = there.unwrap_or_else(|| new.into());
        self.issue(&mut secret, change);
        match &member {
            Some(name) => self.observed.members.get_mut(name).unwrap().secret = Some(secret),
            None => self.observed.operator = Some(secret),
        }
    }

    fn revoke(&mut self, domain: Domain, holders: &[Holder]) {
        let now = self.now;
        self.with_ledger(domain, |_, ledger| ledger.revoke(|issued| holders.contains(&issued.holder), now));
    }

    fn apply(&mut self, object: &Object) {
        let version = self.version();
        let observed = &mut self.observed;
        let member = names().parse_member(object.name.trim_start_matches("data-"));
        match object.resource.kind.as_str() {
            "StatefulSet" => {
                let set = &mut observed.members.entry(member.unwrap()).or_default().stateful_set;
                put(set, object, &version);
                // Its controller sees it at once.
                let status = StatefulSetStatus { observed_generation: Some(1), ..StatefulSetStatus::default() };
                let set = set.as_mut().unwrap();
                (set.metadata.generation, set.status) = (Some(1), Some(status));
            }
            "PersistentVolumeClaim" => put(&mut observed.members.entry(member.unwrap()).or_default().claim, object, &version),
            "PodDisruptionBudget" => put(&mut observed.disruption_budget, object, &version),
            "Service" if object.name == names().peer_service() => put(&mut observed.peer_service, object, &version),
            "Service" => put(&mut observed.client_service, object, &version),
            "ConfigMap" if object.name == names().ca_config() => put(&mut observed.ca_config, object, &version),
            "ConfigMap" => put(&mut observed.bootstrap, object, &version),
            other => panic!("nobody applies a {other}"),
        }
    }
}

/// Server-side apply, as far as it matters here: what is applied replaces what was, but for the uid and for annotations that
/// somebody else wrote.
fn put<K: Resource<DynamicType = ()> + DeserializeOwned>(there: &mut Option<Seen<K>>, object: &Object, version: &str) {
    let mut new: K = serde_json::from_value(serde_json::Value::clone(&object.body)).unwrap();
    let old = there.as_ref().map(|old| old.meta().clone()).unwrap_or_default();
    assert_eq!(object.seen, there.as_ref().map(|old| ObjectVersion::of(old.meta())), "{}", object.describe());
    let meta = new.meta_mut();
    meta.uid = old.uid.or_else(|| Some(format!("uid-{version}")));
    meta.resource_version = Some(version.into());
    for (key, value) in old.annotations.into_iter().flatten() {
        meta.annotations.get_or_insert_default().entry(key).or_insert(value);
    }
    *there = Some(new.into());
}

/// Makes the pod of a StatefulSet that has none, ready at once, if all that it mounts is there.
fn start_pod(
    names: &Names,
    name: &MemberName,
    member: &mut ObservedMember,
    mounted: &mut BTreeMap<MemberName, SeenSecret>,
    now: Timestamp,
) {
    let (Some(set), Some(secret), Some(_), None) = (&member.stateful_set, &member.secret, &member.claim, &member.pod) else {
        return;
    };
    let template = set.spec.template.metadata.clone().unwrap();
    let meta = ObjectMeta { name: Some(names.pod(name)), uid: Some(format!("uid-of-{name}-at-{now}")), ..template };
    let running = ContainerStateRunning { started_at: Some(Time(now)) };
    let container = ContainerStatus {
        name: "etcd".into(),
        state: Some(ContainerState { running: Some(running), ..ContainerState::default() }),
        ..ContainerStatus::default()
    };
    let ready = PodCondition { type_: "Ready".into(), status: "True".into(), ..PodCondition::default() };
    let status = PodStatus { conditions: Some(vec![ready]), container_statuses: Some(vec![container]), ..PodStatus::default() };
    member.pod = Some(Pod { metadata: meta, spec: set.spec.template.spec.clone(), status: Some(status) }.into());
    mounted.insert(name.clone(), secret.clone());
}

fn etcd_status(id: u64) -> etcd::MemberStatus {
    etcd::MemberStatus {
        cluster_id: CLUSTER_ID,
        member_id: id,
        leader: 0,
        raft_term: 2,
        raft_index: 10,
        raft_applied_index: 10,
        is_learner: false,
        version: "3.6.16".into(),
        db_size: 20_480,
        errors: vec![],
    }
}

fn founder(name: &MemberName) -> etcd::Member {
    etcd::Member {
        id: member_id(name),
        name: String::new(),
        peer_urls: vec![names().peer_url(name)],
        client_urls: vec![names().client_url(name)],
        is_learner: false,
    }
}

/// The annotation of a claim, once its member has been written down.
pub fn locked(member: &ObservedMember) -> bool {
    member.claim.as_ref().is_some_and(|claim| annotation(&claim.metadata, key::MEMBER_ID).is_some())
}
