//! A small world for tests: a Kubernetes that remembers what a plan asks for, a kubelet, and members that answer.
//!
//! Authorities and leaves are real. Time moves only when a test says so.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateRunning, ContainerStatus, Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::de::DeserializeOwned;

use super::{
    act::Acted,
    build,
    observed::{Answer, Observed, ObservedMember, SecretView, annotation},
    plan::{self, AuthorityRequest, Object, Plan, SecretChange, Step},
    status::{self, Judgement, Report},
    validate::{ValidatedCluster, validate},
};
use crate::{
    api::EtcdCluster,
    etcd,
    names::{MemberName, Names, annotation as key, authority_key, bootstrap_key, member_key},
    pki::{Authority, Domain, Holder, Ledger},
};

/// The uid of the cluster.
pub const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";
/// etcd's ID of the cluster that the members founded.
pub const CLUSTER_ID: u64 = 0xc1;
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
    /// Whether kubelets start pods and refresh files.
    pub kubelet: bool,
    /// The files that each pod sees.
    mounted: BTreeMap<MemberName, SecretView>,
    authorities: BTreeMap<Domain, Authority>,
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
            kubelet: true,
            mounted: BTreeMap::new(),
            authorities: BTreeMap::new(),
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
        let judgement = Judgement::Planned(Box::new(self.valid()), Box::new(plan.clone()));
        status::report(&self.cluster, &self.observed, &judgement, acted, self.now)
    }

    /// One pass, after which a second goes by.
    pub fn pass(&mut self) -> Pass {
        let plan = self.plan();
        let report = self.report_on(&plan, &Acted::default());
        if plan.refused.is_none() && !self.cluster.spec.paused {
            self.perform(&plan);
        }
        self.observed.status = report.status.clone();
        self.cluster.status = Some(report.status.clone());
        self.now += SECOND;
        Pass { plan, report }
    }

    /// Passes until nothing is planned and the status stays, and says how many of them planned something.
    pub fn settle(&mut self) -> usize {
        let mut busy = 0;
        for _ in 0..20 {
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
        let names = names();
        let written = self.observed.bootstrap.iter().flat_map(|config| config.data.iter().flatten());
        let written: Vec<_> =
            written.filter_map(|(key, _)| names.parse_member(key.strip_suffix(bootstrap_key::STATE_SUFFIX)?)).collect();
        for name in written {
            self.observed.members.entry(name).or_default();
        }
        for (name, member) in &mut self.observed.members {
            if self.kubelet {
                start_pod(&names, name, member, &mut self.mounted, self.now);
            }
            let answer = |mounted: &SecretView| {
                let leaf = |key: &str| mounted.certificate(key).unwrap().unwrap().der().to_vec();
                if self.silent.contains(name) {
                    return (Answer::Unreachable("connection refused".into()), None);
                }
                (Answer::Reached(leaf(member_key::SERVER_CRT), Ok(etcd_status(name))), Some(Ok(leaf(member_key::PEER_CRT))))
            };
            (member.etcd, member.peer_leaf) = match (&member.pod, self.mounted.get(name)) {
                (Some(pod), Some(mounted)) if super::observed::running_since(pod).is_some() => answer(mounted),
                _ => (Answer::default(), None),
            };
        }
        let answering = self.observed.members.values().filter(|member| member.etcd.status().is_some()).count();
        self.observed.list = if answering > self.observed.members.len() / 2 {
            Ok(etcd::MemberList { cluster_id: CLUSTER_ID, members: self.observed.members.keys().map(listed).collect() })
        } else {
            Err("no member answers".into())
        };
    }

    fn perform(&mut self, plan: &Plan) {
        for request in &plan.authorities {
            self.create_authorities(request);
        }
        for object in &plan.objects {
            self.apply(object);
        }
        for change in &plan.secrets {
            self.change_secret(change);
        }
        for note in &plan.pods {
            let (name, member) = self.observed.members.iter_mut().find(|(name, _)| names().pod(name) == note.pod).unwrap();
            let pod = member.pod.as_mut().unwrap();
            assert_eq!(pod.metadata.uid.as_ref(), Some(&note.uid));
            pod.metadata.labels.get_or_insert_default().extend(note.labels.clone());
            pod.metadata.annotations.get_or_insert_default().extend(note.annotations.clone());
            if self.kubelet && note.annotations.contains_key(key::TLS_TOUCHED) {
                self.mounted.insert(name.clone(), member.secret.clone().unwrap());
            }
        }
        match &plan.step {
            None => {}
            Some(Step::LockBootstrap { cluster_id, members }) => {
                for (name, id, uid) in members {
                    let claim = self.observed.members.get_mut(name).unwrap().claim.as_mut().unwrap();
                    assert_eq!(claim.metadata.uid.as_ref(), Some(uid));
                    let written = [(key::CLUSTER_ID, format!("{cluster_id:x}")), (key::MEMBER_ID, format!("{id:x}"))];
                    let written = written.map(|(key, value)| (key.to_owned(), value));
                    claim.metadata.annotations.get_or_insert_default().extend(written);
                }
            }
            Some(Step::Revoke { users }) => self.revoke(users),
            Some(Step::RestartMember { member, .. }) => self.observed.members.get_mut(member).unwrap().pod = None,
        }
    }

    fn version(&mut self) -> String {
        self.writes += 1;
        self.writes.to_string()
    }

    /// The authorities' Secret of a domain.
    pub fn authority_secret(&mut self, domain: Domain) -> &mut Option<SecretView> {
        match domain {
            Domain::Client => &mut self.observed.client_authority,
            Domain::Peer => &mut self.observed.peer_authority,
        }
    }

    fn create_authorities(&mut self, request: &AuthorityRequest) {
        let [active, next] =
            request.common_names.each_ref().map(|name| Authority::create(name, request.duration, self.now).unwrap());
        let digest = |authority: &Authority| authority.certificate().key_digest().to_hex().into_bytes();
        let data = [
            (authority_key::ACTIVE_CRT, active.certificate().pem().into()),
            (authority_key::ACTIVE_KEY, digest(&active)),
            (authority_key::NEXT_CRT, next.certificate().pem().into()),
            (authority_key::NEXT_KEY, digest(&next)),
            (authority_key::CRL, active.sign_crl([], self.now).unwrap()),
            (authority_key::LEDGER, Ledger::default().to_json().unwrap()),
        ];
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let mut meta = build::retained(&self.valid(), request.secret.clone());
        meta.resource_version = Some(self.version());
        assert!(self.authority_secret(request.domain).is_none(), "authorities are made once");
        *self.authority_secret(request.domain) = Some(SecretView { meta, type_: "Opaque".into(), data });
        self.authorities.insert(request.domain, active);
    }

    fn with_ledger<T>(&mut self, domain: Domain, change: impl FnOnce(&Authority, &mut Ledger) -> T) -> T {
        let secret = match domain {
            Domain::Client => self.observed.client_authority.as_mut().unwrap(),
            Domain::Peer => self.observed.peer_authority.as_mut().unwrap(),
        };
        let authority = &self.authorities[&domain];
        let mut ledger = Ledger::from_json(&secret.data[authority_key::LEDGER]).unwrap();
        let revoked: Vec<_> = ledger.revoked().collect();
        let result = change(authority, &mut ledger);
        if revoked != ledger.revoked().collect::<Vec<_>>() {
            secret.data.insert(authority_key::CRL.into(), authority.sign_crl(ledger.revoked(), self.now).unwrap());
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
            let leaf = self.with_ledger(request.domain, |authority, ledger| {
                let leaf = authority.issue(&request.spec, now).unwrap();
                ledger.record(&leaf.certificate, request.holder.clone());
                leaf
            });
            secret.data.insert(request.keys[0].into(), leaf.certificate.pem().into());
            secret.data.insert(request.keys[1].into(), leaf.key.public_digest().to_hex().into());
        }
    }

    fn change_secret(&mut self, change: &SecretChange) {
        let new = SecretView { meta: build::owned(&self.valid(), change.name.clone()), ..SecretView::default() };
        let member = self.observed.members.keys().find(|name| names().member_secret(name) == change.name).cloned();
        let there = match &member {
            Some(name) => self.observed.members.get_mut(name).unwrap().secret.take(),
            None => self.observed.operator.take(),
        };
        assert_eq!(there.as_ref().and_then(|secret| secret.meta.resource_version.as_ref()), change.version.as_ref());
        let mut secret = there.unwrap_or(new);
        self.issue(&mut secret, change);
        match &member {
            Some(name) => self.observed.members.get_mut(name).unwrap().secret = Some(secret),
            None => self.observed.operator = Some(secret),
        }
    }

    fn revoke(&mut self, users: &[(String, String)]) {
        let now = self.now;
        let meant = |holder: &Holder| matches!(holder, Holder::User { uid, .. } if users.iter().any(|(_, gone)| gone == uid));
        self.with_ledger(Domain::Client, |_, ledger| ledger.revoke(|issued| meant(&issued.holder), now));
    }

    fn apply(&mut self, object: &Object) {
        let version = self.version();
        let observed = &mut self.observed;
        let member = names().parse_member(object.name.trim_start_matches("data-"));
        match object.resource.kind.as_str() {
            "StatefulSet" => put(&mut observed.members.entry(member.unwrap()).or_default().stateful_set, object, &version),
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
fn put<K: Resource<DynamicType = ()> + DeserializeOwned>(there: &mut Option<K>, object: &Object, version: &str) {
    let mut new: K = serde_json::from_value(object.body.clone()).unwrap();
    let old = there.as_ref().map(|old| old.meta().clone()).unwrap_or_default();
    assert_eq!(object.uid, old.uid, "{}", object.describe());
    let meta = new.meta_mut();
    meta.uid = old.uid.or_else(|| Some(format!("uid-{version}")));
    meta.resource_version = Some(version.into());
    for (key, value) in old.annotations.into_iter().flatten() {
        meta.annotations.get_or_insert_default().entry(key).or_insert(value);
    }
    *there = Some(new);
}

/// Makes the pod of a StatefulSet that has none, ready at once, if all that it mounts is there.
fn start_pod(
    names: &Names,
    name: &MemberName,
    member: &mut ObservedMember,
    mounted: &mut BTreeMap<MemberName, SecretView>,
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
    member.pod = Some(Pod { metadata: meta, status: Some(status), ..Pod::default() });
    mounted.insert(name.clone(), secret.clone());
}

fn etcd_status(name: &MemberName) -> etcd::MemberStatus {
    etcd::MemberStatus {
        cluster_id: CLUSTER_ID,
        member_id: member_id(name),
        leader: 0xa0,
        raft_term: 2,
        raft_index: 10,
        raft_applied_index: 10,
        is_learner: false,
        version: "3.6.16".into(),
        db_size: 20_480,
        errors: vec![],
    }
}

fn listed(name: &MemberName) -> etcd::Member {
    etcd::Member {
        id: member_id(name),
        name: name.to_string(),
        peer_urls: vec![names().peer_url(name)],
        client_urls: vec![names().client_url(name)],
        is_learner: false,
    }
}

/// The annotation of a claim, once its member has been written down.
pub fn locked(member: &ObservedMember) -> bool {
    member.claim.as_ref().is_some_and(|claim| annotation(&claim.metadata, key::MEMBER_ID).is_some())
}
