//! Steps: each is checked again on fresh reads, then taken.

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, EvictParams, ListParams, Preconditions},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::{
    act::{Actor, expected_authority},
    observe::{self, Identity},
    observed::{Observed, annotation},
    plan::{Step, is_current, is_stopped, never_started, pod_bears_flag, template_bears_flag},
};
use crate::{
    api::EtcdUser,
    etcd::{Change, EtcdError, MemberList},
    issuing::{self, IssueError},
    k8s::{self, WriteError},
    names::{CLIENT_PORT, MemberName, annotation as key, label},
    pki::{Domain, Holder, Issued},
};

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Kubernetes.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An authority.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// etcd.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// What a step needs beside itself.
pub struct Taking<'a> {
    /// The means.
    pub actor: &'a Actor<'a>,
    /// What it was planned on.
    pub observed: &'a Observed,
    /// The identity towards the members.
    pub identity: Option<&'a Identity>,
}

/// What was done, for an event; `None` where the step is not right any more.
type Taken = Result<Option<String>, StepError>;

impl Taking<'_> {
    /// Takes a step.
    pub async fn take(&self, step: &Step) -> Taken {
        match step {
            Step::LockBootstrap { cluster_id, members } => self.lock_bootstrap(*cluster_id, members).await,
            Step::Revoke { domain, holders } => self.revoke(*domain, holders).await,
            Step::AddLearner { member } => self.add_learner(member).await,
            Step::Promote { member, id } => self.promote(member, *id).await,
            Step::RemoveMember { member, id } => self.remove(member, *id).await,
            Step::MoveLeader { member, from, to } => self.move_leader(member, *from, *to).await,
            Step::DeleteBudget { uid } => self.delete_budget(uid).await,
            Step::DeleteStatefulSet { member, uid } => {
                let sets: Api<StatefulSet> = self.namespaced();
                self.delete(member, &sets, &member.to_string(), uid).await
            }
            Step::DeleteClaim { member, uid } => {
                let claims: Api<PersistentVolumeClaim> = self.namespaced();
                self.delete(member, &claims, &self.actor.cluster.names.claim(member), uid).await
            }
            Step::GiveUp { survivor, claims } => self.give_up(survivor, claims).await,
            Step::RestartMember { member, pod_uid } => self.restart(member, pod_uid).await,
        }
    }

    fn namespaced<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.actor.context.client.clone(), self.actor.namespace)
    }

    fn now(&self) -> Timestamp {
        self.actor.now
    }

    /// The members as a quorum knows them now, if it is the cluster that was founded.
    async fn list(&self) -> Option<MemberList> {
        let names = &self.actor.cluster.names;
        let list = observe::member_list(self.actor.context, names, self.observed, self.identity?).await.ok()?;
        let known = self.observed.status.cluster_id.as_ref();
        known.is_none_or(|known| *known == format!("{:x}", list.cluster_id)).then_some(list)
    }

    /// Sends a change to the leader, who alone can judge learners and give up its place.
    async fn change(&self, change: &Change) -> Result<bool, StepError> {
        let Some(identity) = self.identity else { return Ok(false) };
        let leads = |status: &crate::etcd::MemberStatus| status.leader == status.member_id;
        let leader = self.observed.members.iter().find(|(_, member)| member.etcd.status().is_some_and(leads));
        let Some((name, Some(pod))) = leader.map(|(name, member)| (name, member.pod.as_ref())) else { return Ok(false) };
        let target = observe::target(&self.actor.cluster.names, name, pod, CLIENT_PORT);
        self.actor.context.dialer.change(&target, &identity.0, change).await?;
        Ok(true)
    }

    /// Writes on the claims who their members are, if a quorum says so now.
    async fn lock_bootstrap(&self, cluster_id: u64, members: &[(MemberName, u64, String)]) -> Taken {
        let names = &self.actor.cluster.names;
        let Some(list) = self.list().await else { return Ok(None) };
        let still = |(name, id, _): &(MemberName, u64, String)| {
            let url = names.peer_url(name);
            list.members.iter().any(|m| m.id == *id && !m.name.is_empty() && m.peer_urls.contains(&url))
        };
        if list.cluster_id != cluster_id || !members.iter().all(still) {
            return Ok(None);
        }
        let claims: Api<PersistentVolumeClaim> = self.namespaced();
        for (name, id, uid) in members {
            let claim = names.claim(name);
            let annotations = json!({ key::CLUSTER_ID: format!("{cluster_id:x}"), key::MEMBER_ID: format!("{id:x}") });
            let written = k8s::annotate(&claims, &claim, uid, &json!({}), &annotations).await;
            written.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {claim}"), e))?;
        }
        let names: Vec<_> = members.iter().map(|(name, ..)| name.to_string()).collect();
        Ok(Some(format!("{} started in cluster {cluster_id:x}; without their data they will not start again", names.join(", "))))
    }

    /// Revokes what holders had who are gone, if they are gone now.
    async fn revoke(&self, domain: Domain, holders: &[Holder]) -> Taken {
        let users: Api<EtcdUser> = self.namespaced();
        let list = self.list().await;
        let mut gone = vec![];
        for holder in holders {
            let is_gone = match holder {
                Holder::User { name, uid } => {
                    let there = users.get_metadata_opt(name).await.map_err(|e| WriteError::of(format!("EtcdUser {name}"), e))?;
                    there.is_none_or(|there| there.metadata.uid.as_ref() != Some(uid))
                }
                Holder::Member { name } => {
                    let names = &self.actor.cluster.names;
                    let url = names.parse_member(name).map(|member| names.peer_url(&member));
                    list.as_ref().zip(url).is_some_and(|(list, url)| !list.members.iter().any(|m| m.peer_urls.contains(&url)))
                }
                Holder::Operator => false,
            };
            if is_gone {
                gone.push(holder);
            }
        }
        let (secret, name) = self.actor.authority(self.observed, domain);
        let Some(expected) = expected_authority(secret) else { return Ok(None) };
        let meant = |issued: &Issued| gone.contains(&&issued.holder);
        let count = issuing::revoke(&self.actor.secrets(), &name, &expected, meant, self.now()).await?;
        let names: Vec<_> = gone.iter().map(ToString::to_string).collect();
        Ok((count > 0).then(|| format!("revoked {count} certificates of the {domain} domain; gone: {}", names.join(", "))))
    }

    async fn add_learner(&self, member: &MemberName) -> Taken {
        let peer_url = self.actor.cluster.names.peer_url(member);
        let Some(list) = self.list().await else { return Ok(None) };
        // It may have been added by a call that seemed to fail.
        if list.members.iter().any(|m| m.is_learner || m.peer_urls.contains(&peer_url)) {
            return Ok(None);
        }
        // Who is started as a cluster of one forgets everybody that was added.
        if self.is_anyone_forced().await? {
            return Ok(None);
        }
        // A claim that is there would be taken for the new member's data.
        let claims: Api<PersistentVolumeClaim> = self.namespaced();
        let claim = self.actor.cluster.names.claim(member);
        let there =
            claims.get_metadata_opt(&claim).await.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {claim}"), e))?;
        if there.is_some() {
            let object = format!("PersistentVolumeClaim {claim}");
            return Err(WriteError::Foreign { object, owner: format!("it is there before {member} was added") }.into());
        }
        let done = self.change(&Change::AddLearner { peer_url }).await?;
        Ok(done.then(|| format!("added {member} as a learner")))
    }

    async fn promote(&self, member: &MemberName, id: u64) -> Taken {
        let done = self.change(&Change::Promote { id }).await?;
        Ok(done.then(|| format!("{member} has caught up and has a vote now")))
    }

    /// Removes a member, if those that remain and serve are a quorum without it, as they answer now.
    async fn remove(&self, member: &MemberName, id: u64) -> Taken {
        let names = &self.actor.cluster.names;
        let (Some(list), Some(identity)) = (self.list().await, self.identity) else { return Ok(None) };
        let url = names.peer_url(member);
        let listed = list.members.iter().find(|m| m.id == id && m.peer_urls.contains(&url));
        let Some(listed) = listed else { return Ok(None) };
        let others: Vec<_> = list.members.iter().filter(|m| !m.is_learner && m.id != id).collect();
        let answers = others.iter().map(|other| async {
            let name = other.peer_urls.first().and_then(|url| names.member_at(url))?;
            let pod = self.observed.members.get(&name)?.pod.as_ref()?;
            let target = observe::target(names, &name, pod, CLIENT_PORT);
            self.actor.context.dialer.ask(&target, &identity.0).await.ok()?.status.ok()
        });
        let serving = join_all(answers).await.into_iter().flatten().count();
        if !listed.is_learner && serving <= others.len() / 2 {
            return Ok(None);
        }
        let done = self.change(&Change::Remove { id }).await?;
        Ok(done.then(|| format!("removed {member} ({id:x}) from the members")))
    }

    async fn move_leader(&self, member: &MemberName, from: u64, to: u64) -> Taken {
        let leads = |status: &crate::etcd::MemberStatus| status.leader == from;
        if !self.observed.members.get(member).is_some_and(|m| m.etcd.status().is_some_and(leads)) {
            return Ok(None);
        }
        let done = self.change(&Change::MoveLeader { to }).await?;
        Ok(done.then(|| format!("{to:x} leads in place of {member}")))
    }

    /// Deletes what is left of a member, if etcd does not list it now and the object is the one that was seen.
    async fn delete<K>(&self, member: &MemberName, api: &Api<K>, name: &str, uid: &str) -> Taken
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let url = self.actor.cluster.names.peer_url(member);
        let Some(list) = self.list().await else { return Ok(None) };
        if list.members.iter().any(|m| m.peer_urls.contains(&url)) {
            return Ok(None);
        }
        let deleted = delete(api, name, uid).await?;
        Ok(deleted.then(|| format!("deleted {} {name} of {member}, which has been removed", K::kind(&()))))
    }

    async fn delete_budget(&self, uid: &str) -> Taken {
        let budgets: Api<PodDisruptionBudget> = self.namespaced();
        let name = self.actor.cluster.names.disruption_budget();
        let deleted = delete(&budgets, &name, uid).await?;
        Ok(deleted.then(|| format!("deleted PodDisruptionBudget {name}: with fewer than 3 members there is no redundancy")))
    }

    /// Whether a pod starts as a cluster of one, or would, where the template of its member is as it is now.
    async fn is_anyone_forced(&self) -> Result<bool, WriteError> {
        let ours = ListParams::default().labels(&format!("{}={}", label::INSTANCE, self.actor.cluster.names.cluster()));
        let (pods, sets): (Api<Pod>, Api<StatefulSet>) = (self.namespaced(), self.namespaced());
        let pods = pods.list(&ours).await.map_err(|e| WriteError::of("Pods", e))?;
        let sets = sets.list(&ours).await.map_err(|e| WriteError::of("StatefulSets", e))?;
        Ok(pods.iter().any(pod_bears_flag) || sets.iter().any(template_bears_flag))
    }

    /// Why the pod of a member is to be made anew for a recovery, if it is: what it was made from does not say any more how it is to
    /// start. A pod that is to forget the others is none as long as there is a list.
    async fn turn_of(&self, member: &MemberName, pod: &Pod) -> Result<Option<&'static str>, WriteError> {
        let sets: Api<StatefulSet> = self.namespaced();
        let name = member.to_string();
        let set = sets.get_opt(&name).await.map_err(|e| WriteError::of(format!("StatefulSet {name}"), e))?;
        let Some(set) = set.filter(is_current) else { return Ok(None) };
        Ok(match (pod_bears_flag(pod), template_bears_flag(&set)) {
            (false, true) if self.list().await.is_none() => Some("it starts as a cluster of one, with the data that it has"),
            (true, false) => Some("it has started as a cluster of one, and must not do so again"),
            _ => None,
        })
    }

    /// Writes on claims that their data was given up, if nobody can be using it: there is no pod and none will be made.
    async fn give_up(&self, survivor: &MemberName, claims: &[(MemberName, String)]) -> Taken {
        let names = &self.actor.cluster.names;
        if self.list().await.is_some() {
            return Ok(None);
        }
        let (pods, sets): (Api<Pod>, Api<StatefulSet>) = (self.namespaced(), self.namespaced());
        for (member, _) in claims {
            let (pod, name) = (names.pod(member), member.to_string());
            let set = sets.get_opt(&name).await.map_err(|e| WriteError::of(format!("StatefulSet {name}"), e))?;
            let there = pods.get_opt(&pod).await.map_err(|e| WriteError::of(format!("Pod {pod}"), e))?;
            if there.is_some() || set.is_some_and(|set| !is_stopped(&set)) {
                return Ok(None);
            }
        }
        let api: Api<PersistentVolumeClaim> = self.namespaced();
        let mark = json!({ key::GIVEN_UP_FOR: survivor.to_string() });
        for (member, uid) in claims {
            let claim = names.claim(member);
            let written = k8s::annotate(&api, &claim, uid, &json!({}), &mark).await;
            written.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {claim}"), e))?;
        }
        let members: Vec<_> = claims.iter().map(|(member, _)| member.to_string()).collect();
        Ok(Some(format!("the data of {} was given up for that of {survivor}", members.join(", "))))
    }

    /// Lets a pod be made anew. It is evicted and not deleted, so the disruption budget has the last word.
    async fn restart(&self, member: &MemberName, pod_uid: &str) -> Taken {
        let name = self.actor.cluster.names.pod(member);
        let pods: Api<Pod> = self.namespaced();
        let refused = |e| WriteError::of(format!("Pod {name}"), e);
        let pod = pods.get_opt(&name).await.map_err(refused)?;
        let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(pod_uid)) else { return Ok(None) };
        let wanted = self.actor.cluster.restarted_at.as_deref();
        let asked = wanted.is_some_and(|at| annotation(&pod.metadata, key::RESTARTED_AT) != Some(at));
        let forcing = self.turn_of(member, &pod).await?;
        if !asked && !never_started(&pod) && forcing.is_none() {
            return Ok(None);
        }
        let preconditions = Preconditions { uid: Some(pod_uid.into()), resource_version: None };
        let delete_options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let parameters = EvictParams { delete_options: Some(delete_options), ..EvictParams::default() };
        match pods.evict(&name, &parameters).await {
            // The budget says not now.
            Err(kube::Error::Api(status)) if status.code == 429 => return Ok(None),
            result => result.map_err(refused)?,
        };
        let why = if let Some(why) = forcing {
            why
        } else if never_started(&pod) {
            "it has never started, and what it was made from has changed"
        } else {
            "a restart was asked for"
        };
        Ok(Some(format!("the pod of {member} is made anew: {why}")))
    }
}

/// Deletes the object with this uid, and says whether it was there.
async fn delete<K>(api: &Api<K>, name: &str, uid: &str) -> Result<bool, WriteError>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let preconditions = Preconditions { uid: Some(uid.into()), resource_version: None };
    match api.delete(name, &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(error) => Err(WriteError::of(format!("{} {name}", K::kind(&())), error)),
        Ok(_) => Ok(true),
    }
}
