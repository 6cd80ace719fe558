//! What must never happen, looked at when an operator decides and when it has acted. What etcd's model finds by itself, such as
//! a lost write or a second cluster, is found there.

use etcd_warden::{
    certificates::{secret::CachedSecret, transition::Change},
    cluster::{
        steps::{
            AddLearner, ChangeAuthorities, DeleteClaim, DeleteStatefulSet, DiscardData, Effect, MoveLeader, Promote,
            RemoveMember, RemoveUnstarted, ResizeMember, RestartMember, Step,
        },
        validated::ValidatedCluster,
    },
    member_pod::etcd_container,
    names::{MemberName, annotation as key, member_key, tls_key},
    pki::Certificate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    certificates,
    etcd::{Id, Listed, Place},
    kubernetes::{PLACES, Slot, place},
    run::World,
    time,
};

impl World {
    /// Whether a step is right, by what is true in the moment in which an operator read it.
    pub fn judge(&mut self, step: &Step, valid: &ValidatedCluster) {
        self.decide();
        if let Some(wrong) = self.wrong(step, valid) {
            self.broken.push(format!("{}: {wrong}", step.describe()));
        }
    }

    fn wrong(&self, step: &Step, valid: &ValidatedCluster) -> Option<String> {
        let members = self.etcd.members().unwrap_or_else(|| self.etcd.best());
        let listed = |member: &MemberName| members.iter().find(|m| m.place == place(member));
        let others = |but: Id| {
            let others: Vec<&Listed> = members.iter().filter(|m| !m.learner && m.id != but).collect();
            (others.len(), others.iter().filter(|m| self.is_healthy(m)).count())
        };
        match step {
            Step::RemoveMember(RemoveMember { member, id }) => {
                let listed = listed(member).filter(|m| m.id == id.0 && !m.learner)?;
                let (all, healthy) = others(id.0);
                if self.is_healthy(listed) && healthy < all {
                    return Some(format!("it is healthy, and of {all} others {healthy} are"));
                }
                // A member that is replaced because of its storage goes only when another one is there in its place.
                let is_asked = valid.requests.replace.as_deref() == Some(member.as_str());
                let is_whole = self.is_healthy(listed) && self.is_ready(listed) && self.lives(listed).is_some();
                if is_whole && !is_asked && healthy < valid.replicas as usize {
                    return Some(format!("it is healthy, and only {healthy} others of {} are there", valid.replicas));
                }
                (healthy <= all / 2).then(|| format!("only {healthy} of {all} others are healthy"))
            }
            Step::RestartMember(RestartMember { member, pod_uid: _ }) => {
                let listed = listed(member).filter(|m| !m.learner && self.etcd.processes.contains_key(&m.place))?;
                if self.kubernetes.is_in_pod(listed.place) {
                    return Some("its data is in its pod".into());
                }
                let (all, healthy) = others(listed.id);
                if self.is_healthy(listed) && healthy < all {
                    return Some(format!("it is healthy, and of {all} others {healthy} are"));
                }
                // Another operator may have applied another spec meanwhile.
                let is_alone = self.operators.iter().flatten().next().is_none();
                if is_alone && self.is_healthy(listed) && !self.is_restart_asked_for(listed.place) {
                    return Some("it is healthy, and nothing asks for its restart".into());
                }
                // The one that is restarted counts for quorum and not for those that keep it.
                (all > 1 && healthy <= all.div_ceil(2) && self.has_quorum())
                    .then(|| format!("only {healthy} of {all} others are healthy"))
            }
            Step::ResizeMember(ResizeMember { member, pod_uid: _ }) => {
                let listed = listed(member)?;
                let (all, healthy) = others(listed.id);
                let pod = self.kubernetes.things.pod(Slot::Pod(listed.place))?;
                let has_begun = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key::RESIZING));
                (self.is_healthy(listed) && !has_begun && healthy < all)
                    .then(|| format!("it is healthy, and of {all} others {healthy} are"))
            }
            Step::Promote(Promote { member, id: _ }) => {
                let up = listed(member).is_some_and(|m| self.etcd.processes.get(&m.place).is_some_and(|p| p.id == m.id));
                (!up).then(|| "it does not run".into())
            }
            Step::AddLearner(AddLearner { member: _, replaces: _ }) => {
                members.iter().any(|m| m.learner).then(|| "there already is a learner".into())
            }
            Step::DeleteClaim(DeleteClaim { member, .. }) | Step::DeleteStatefulSet(DeleteStatefulSet { member, .. }) => {
                listed(member).map(|_| "it is a member".into())
            }
            Step::MoveLeader(MoveLeader { to, .. }) => {
                let to = members.iter().find(|m| m.id == to.0 && !m.learner);
                (!to.is_some_and(|to| self.is_healthy(to))).then(|| "the next leader is not healthy".into())
            }
            Step::DiscardData(DiscardData { survivor, claims }) => {
                let running = claims.iter().find(|(member, _)| self.etcd.processes.contains_key(&place(member)));
                let is_furthest = self.survivor(members).is_some_and(|furthest| furthest == *survivor);
                let running = running.map(|(member, _)| format!("{member} runs"));
                running.or_else(|| (!is_furthest).then(|| format!("{survivor} is not the one to recover from")))
            }
            Step::RemoveUnstarted(RemoveUnstarted { id, .. }) => {
                let listed = members.iter().find(|m| m.id == id.0)?;
                let (all, healthy) = others(id.0);
                let has_started = listed.named || listed.place < PLACES;
                (has_started || healthy <= all / 2)
                    .then(|| format!("it has started, or only {healthy} of {all} others are healthy"))
            }
            Step::ChangeAuthorities(ChangeAuthorities(transition)) => {
                let signs = matches!(transition.change, Change::Switch { immediately: false, .. });
                let next = self.kubernetes.things.secret(Slot::authority(transition.domain)).filter(|_| signs)?;
                let next = next.authorities().ok()?.next.common_name();
                // One that the operator did not add has never started.
                let known = members.iter().filter(|m| m.place < PLACES).count();
                (known > 1 && self.refused.contains(next)).then(|| format!("members refuse what {next:?} signs"))
            }
            Step::EnableDowngrade(_) if members.iter().any(|m| m.learner || !self.is_healthy(m)) => {
                Some("a member is not healthy".into())
            }
            // What is adopted shows later: whether every write is there.
            Step::EnableDowngrade(_)
            | Step::CancelDowngrade(_)
            | Step::DisarmAlarm(_)
            | Step::Adopt(_)
            | Step::RecordMembers(_)
            | Step::Revoke(_)
            | Step::DeleteBudget(_) => None,
        }
    }

    /// Whether the next pod of a member would be created from something else than its pod, its pod is being resized or was started as a cluster of
    /// one, or its volume is being expanded.
    fn is_restart_asked_for(&self, place: Place) -> bool {
        let things = &self.kubernetes.things;
        let (Some(pod), Some(set)) = (things.pod(Slot::Pod(place)), things.set(Slot::Set(place))) else { return true };
        let of = |meta: Option<&ObjectMeta>, key: &str| meta?.annotations.as_ref()?.get(key).cloned();
        let keys = [key::SETTINGS, key::BUNDLES, key::RESTARTED_AT, key::PREPARED_FOR];
        let next = set.spec.template.metadata.as_ref();
        let is_resized = of(Some(&pod.metadata), key::RESIZING).is_some();
        let claim = things.claim(Slot::Claim(place));
        let is_expanded = claim.is_some_and(|claim| claim.status.as_ref().is_some_and(|status| status.conditions.is_some()));
        let arguments = pod.spec.as_ref().and_then(etcd_container).and_then(|container| container.args.as_ref());
        let is_forced = arguments.into_iter().flatten().any(|argument| argument == "--force-new-cluster");
        is_resized || is_expanded || is_forced || keys.iter().any(|key| of(Some(&pod.metadata), key) != of(next, key))
    }

    /// Every certificate that is presented must be trusted by all that verify it, with what they have started with: members among
    /// themselves, the operator, and clients that have the published trust bundle.
    pub fn check_trust(&mut self) {
        let now = time(self.now);
        let things = &self.kubernetes.things;
        // Before that nothing runs.
        let (Some(operator), Some(config)) = (things.secret(Slot::Operator), things.config(Slot::CaConfig)) else { return };
        let is_valid = |certificate: &Certificate| certificate.not_before() <= now && now <= certificate.not_after();
        let trusts = |bundle: &[Certificate], leaf: &Certificate| {
            is_valid(leaf) && bundle.iter().any(|authority| is_valid(authority) && leaf.is_signed_by(authority))
        };
        let leaf = |secret: &CachedSecret, key: &str| secret.certificate(key).expect("a leaf").expect("a certificate");
        let published = config.data.as_ref().map(|data| data[tls_key::CA].as_bytes()).unwrap_or_default();
        let listed = self.etcd.members().unwrap_or_else(|| self.etcd.best());
        let running: Vec<(Place, &CachedSecret, &CachedSecret)> = self
            .kubernetes
            .pods
            .iter()
            .filter(|(place, _)| self.etcd.processes.get(place).is_some_and(|process| listed.iter().any(|m| m.id == process.id)))
            .filter_map(|(place, kept)| Some((*place, kept.started_with.as_ref()?, kept.mounted.as_ref()?)))
            .collect();
        let mut broken = vec![];
        if running.iter().filter(|(_, _, files)| self.presents_refused(files)).count() > 1 {
            broken.push("more than one member presents a certificate that others refuse".into());
        }
        let [operators, published] = [operator.data[tls_key::CA].as_slice(), published].map(certificates::bundle);
        let operators_leaf = leaf(operator, tls_key::CRT);
        for (place, started, mounted) in &running {
            let [peers, clients] =
                [member_key::PEER_CA, member_key::CLIENT_CA].map(|key| certificates::bundle(&started.data[key]));
            for (other, _, files) in &running {
                // No member connects to itself, and what all refuse need not be trusted.
                let presented = leaf(files, member_key::PEER_CRT);
                if place != other && !trusts(&peers, &presented) && !self.presents_refused(files) {
                    let trusted: Vec<_> = peers.iter().map(Certificate::common_name).collect();
                    broken.push(format!("{place} does not trust {other}: it started with {trusted:?}"));
                }
                if !trusts(&clients, &leaf(files, member_key::CLIENT_CRT)) {
                    broken.push(format!("{place} does not trust etcdctl in the pod of {other}"));
                }
            }
            if !trusts(&clients, &operators_leaf) {
                broken.push(format!("{place} does not trust the operator"));
            }
            let server = leaf(mounted, member_key::SERVER_CRT);
            for (bundle, client) in [(&operators, "the operator"), (&published, "a client")] {
                if !trusts(bundle, &server) {
                    broken.push(format!("{client} does not trust {place}"));
                }
            }
        }
        self.broken.append(&mut broken);
    }

    /// Whether a member with these files presents a peer leaf that others refuse.
    pub fn presents_refused(&self, files: &CachedSecret) -> bool {
        // Most worlds have no such authority.
        if self.refused.is_empty() {
            return false;
        }
        let leaf = files.certificate(member_key::PEER_CRT).and_then(Result::ok);
        let bundle = certificates::bundle(&files.data[member_key::PEER_CA]);
        let signer = leaf.and_then(|leaf| bundle.iter().find(|authority| leaf.is_signed_by(authority)).cloned());
        signer.is_some_and(|signer| self.refused.contains(signer.common_name()))
    }

    /// Whether Kubernetes checks an effect against what others do meanwhile: an eviction of a pod that is ready, where there is a
    /// disruption budget.
    pub fn is_fenced(&self, effect: &Effect) -> bool {
        let Effect::Evict { member, uid: _ } = effect else { return false };
        let is_ready = self.kubernetes.pods.get(&place(member)).is_some_and(|kept| kept.ready);
        is_ready && self.kubernetes.things.budget(Slot::Budget).is_some() && self.is_unsurprised()
    }

    /// Whether a step that was taken has cost quorum: by what the operator could have known, if nothing came between. Another operator
    /// is no excuse where Kubernetes checks.
    pub fn after(&mut self, step: &Step, before: bool, was_fenced: bool) {
        let voters = self.etcd.members().unwrap_or_else(|| self.etcd.best()).iter().filter(|m| !m.learner).count();
        let announced = matches!(step, Step::RestartMember(_)) && voters < 3;
        if before && !announced && !self.has_quorum() && (was_fenced || self.is_as_decided()) {
            self.broken.push(format!("{}: quorum is lost", step.describe()));
        }
    }
}
