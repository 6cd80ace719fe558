//! Steps: each is checked again on fresh reads, by [`plan::recheck`], then taken.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Secret},
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
    build,
    observe::{self, Identity},
    observed::{Observed, annotation},
    plan::{self, Fresh, Left, NotNow, Rotate, Step, Turn, recheck},
};
use crate::{
    api::EtcdUser,
    etcd::{Change, EtcdError},
    issuing::{self, IssueError},
    k8s::{self, KeySecret, WriteError},
    names::{CLIENT_PORT, MemberName, annotation as key, label},
    pki::{Domain, Holder, Issued},
};

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It is not right at the moment.
    #[error("{0}")]
    NotNow(String),
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
    /// Takes a step, or what of it is still right.
    pub async fn take(&self, step: &Step) -> Taken {
        let fresh = self.read(step).await?;
        let cluster = self.actor.cluster;
        let step = match recheck(step, cluster, self.observed.status.cluster_id.as_deref(), &fresh) {
            Ok(step) => step,
            Err(NotNow::Changed(why)) => {
                tracing::info!(step = step.name(), why, "not taken");
                return Err(StepError::NotNow(why));
            }
            Err(NotNow::InTheWay { object, owner }) => return Err(WriteError::Foreign { object, owner }.into()),
        };
        if let Some(change) = plan::change(&step, cluster) {
            return self.change(&fresh, &step, &change).await;
        }
        match &step {
            Step::LockBootstrap { cluster_id, members } => self.lock_bootstrap(*cluster_id, members).await,
            Step::Revoke { domain, holders } => self.revoke(*domain, holders).await,
            Step::Rotate(rotate) => self.rotate(rotate).await,
            Step::TakeOver { objects, .. } => self.take_over(objects).await,
            Step::DeleteBudget { uid } => self.delete_budget(uid).await,
            Step::DeleteStatefulSet { member, uid } => {
                let sets: Api<StatefulSet> = self.namespaced();
                self.delete(member, &sets, member.as_str(), uid).await
            }
            Step::DeleteClaim { member, uid } => {
                let claims: Api<PersistentVolumeClaim> = self.namespaced();
                self.delete(member, &claims, &cluster.names.claim(member), uid).await
            }
            Step::GiveUp { survivor, claims } => self.give_up(survivor, claims).await,
            Step::RestartMember { member, pod_uid } => self.restart(&fresh, member, pod_uid).await,
            Step::AddLearner { .. }
            | Step::Promote { .. }
            | Step::RemoveMember { .. }
            | Step::RemoveUnstarted { .. }
            | Step::MoveLeader { .. } => Ok(None),
        }
    }

    fn namespaced<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.actor.context.client.clone(), self.actor.namespace)
    }

    /// Reads what tells whether a step is still right.
    async fn read(&self, step: &Step) -> Result<Fresh, StepError> {
        let (context, names) = (self.actor.context, &self.actor.cluster.names);
        let pods: Api<Pod> = self.namespaced();
        let labels = build::selector(names.cluster()).into_iter().map(|(key, value)| format!("{key}={value}"));
        let ours = ListParams::default().labels(&labels.collect::<Vec<_>>().join(","));
        let pods = pods.list(&ours).await.map_err(|e| WriteError::of("the pods", e))?;
        let member = |pod: &Pod| names.parse_member(pod.metadata.labels.as_ref()?.get(label::MEMBER)?);
        let mut fresh = Fresh::default();
        fresh.pods.extend(pods.items.into_iter().filter_map(|pod| Some((member(&pod)?, pod.into()))));
        let sets: Api<StatefulSet> = self.namespaced();
        let sets = sets.list(&ours).await.map_err(|e| WriteError::of("the StatefulSets", e))?;
        fresh
            .sets
            .extend(sets.items.into_iter().filter_map(|set| Some((names.parse_member(set.metadata.name.as_deref()?)?, set))));
        // A pod without its labels could write to a claim too.
        for member in step.data_of() {
            let pod = self.namespaced::<Pod>().get_opt(&names.pod(member)).await;
            let pod = pod.map_err(|e| WriteError::of(format!("Pod {}", names.pod(member)), e))?;
            fresh.pods.extend(pod.map(|pod| (member.clone(), pod.into())));
            let set = self.namespaced::<StatefulSet>().get_opt(member.as_str()).await;
            let set = set.map_err(|e| WriteError::of(format!("StatefulSet {member}"), e))?;
            fresh.sets.extend(set.map(|set| (member.clone(), set)));
        }
        if let Some(identity) = self.identity {
            let asking = fresh.pods.iter().map(|(name, pod)| async move {
                let target = observe::target(names, name, pod, CLIENT_PORT);
                Some((name.clone(), context.dialer.ask(&target, &identity.0).await.ok()?.status.ok()?))
            });
            let answers: BTreeMap<_, _> = join_all(asking).await.into_iter().flatten().collect();
            let answering = answers.iter().filter_map(|(name, status)| Some((name, &**fresh.pods.get(name)?, status)));
            fresh.list = observe::member_list(context, names, answering, identity).await.ok();
            if matches!(step, Step::AddLearner { .. }) {
                let asking =
                    answers.keys().filter_map(|name| Some((name, fresh.pods.get(name)?))).map(|(name, pod)| async move {
                        let target = observe::target(names, name, pod, CLIENT_PORT);
                        Some((name.clone(), context.dialer.members(&target, &identity.0).await.ok()?))
                    });
                fresh.lists = join_all(asking).await.into_iter().flatten().collect();
            }
            fresh.answers = answers;
        }
        if let Step::AddLearner { member } | Step::RestartMember { member, .. } = step {
            let claims: Api<PersistentVolumeClaim> = self.namespaced();
            let claim = names.claim(member);
            let there = claims.get_metadata_opt(&claim).await;
            fresh.claim = there.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {claim}"), e))?.map(|it| it.metadata);
        }
        if let Step::TakeOver { objects, .. } = step {
            let (claims, secrets): (Api<PersistentVolumeClaim>, Api<Secret>) = (self.namespaced(), self.namespaced());
            for left in objects {
                let there = if left.claim {
                    claims.get_metadata_opt(&left.name).await.map(|there| there.map(|there| there.metadata))
                } else {
                    secrets.get_metadata_opt(&left.name).await.map(|there| there.map(|there| there.metadata))
                };
                let there = there.map_err(|e| WriteError::of(left.describe(), e))?;
                fresh.left.extend(there);
            }
        }
        if let Step::Revoke { holders, .. } = step {
            let users: Api<EtcdUser> = self.namespaced();
            for holder in holders {
                let Holder::User { name, .. } = holder else { continue };
                let there = users.get_metadata_opt(name).await.map_err(|e| WriteError::of(format!("EtcdUser {name}"), e))?;
                let may = there.filter(|there| annotation(&there.metadata, key::REVOKE).is_none());
                fresh.users.extend(may.and_then(|there| there.metadata.uid));
            }
        }
        Ok(fresh)
    }

    /// Sends a change of the members to the leader.
    async fn change(&self, fresh: &Fresh, step: &Step, change: &Change) -> Taken {
        let leader = plan::leader(fresh).and_then(|leader| Some((leader, fresh.pods.get(leader)?)));
        let (Some(identity), Some((leader, pod))) = (self.identity, leader) else { return Ok(None) };
        let target = observe::target(&self.actor.cluster.names, leader, pod, CLIENT_PORT);
        self.actor.context.dialer.change(&target, &identity.0, change).await?;
        Ok(Some(match step {
            Step::AddLearner { member } => format!("added {member} as a learner"),
            Step::Promote { member, .. } => format!("{member} has caught up and has a vote now"),
            Step::RemoveMember { member, id } => format!("removed {member} ({id:x}) from the members"),
            Step::MoveLeader { member, successor, .. } => format!("{successor} leads in place of {member}"),
            _ => step.in_words(),
        }))
    }

    /// Writes on the claims who their members are.
    async fn lock_bootstrap(&self, cluster_id: u64, members: &[(MemberName, u64, String)]) -> Taken {
        let claims: Api<PersistentVolumeClaim> = self.namespaced();
        for (name, id, uid) in members {
            let claim = self.actor.cluster.names.claim(name);
            let annotations = json!({ key::CLUSTER_ID: format!("{cluster_id:x}"), key::MEMBER_ID: format!("{id:x}") });
            let written = k8s::annotate(&claims, &claim, uid, &json!({}), &annotations).await;
            written.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {claim}"), e))?;
        }
        let names: Vec<_> = members.iter().map(|(name, ..)| name.to_string()).collect();
        Ok(Some(format!("{} started in cluster {cluster_id:x}; without their data they will not start again", names.join(", "))))
    }

    /// Revokes what holders had who are gone.
    async fn revoke(&self, domain: Domain, gone: &[Holder]) -> Taken {
        let Some(expected) = expected_authority(self.observed.authority(domain)) else { return Ok(None) };
        let meant = |issued: &Issued| gone.contains(&issued.holder);
        let count = self.actor.desk().revoke(domain, &expected, meant, self.actor.now).await?;
        let names: Vec<_> = gone.iter().map(ToString::to_string).collect();
        Ok((count > 0).then(|| format!("revoked {count} certificates of the {domain} domain; gone: {}", names.join(", "))))
    }

    /// Changes the authorities of a domain.
    async fn rotate(&self, rotate: &Rotate) -> Taken {
        let Actor { cluster, now, .. } = self.actor;
        let metadata = build::retained(cluster, rotate.secret.clone());
        issuing::rotate(&self.actor.secrets(), rotate, metadata, &cluster.uid, *now).await?;
        let (domain, name) = (rotate.domain, rotate.name());
        Ok(Some(match rotate.turn {
            Turn::Prepare => format!("the {domain} authority is being rotated: {name:?} is trusted before it signs"),
            Turn::Switch => format!("the next {domain} authority signs now"),
            Turn::Drop => {
                format!("all certificates are of the new {domain} authority; that of before is taken out of all bundles")
            }
            Turn::Renew => format!("all {domain} authorities had expired; there are others, with which members are restarted"),
            Turn::Finish => format!("the {domain} authority has been rotated: nobody trusts or shows that of before"),
        }))
    }

    /// Makes each object the cluster's.
    async fn take_over(&self, objects: &[Left]) -> Taken {
        let claims: Api<PersistentVolumeClaim> = self.namespaced();
        let ours = json!({ key::CLUSTER_UID: self.actor.cluster.uid });
        for left in objects {
            if left.claim {
                let taken = k8s::annotate(&claims, &left.name, &left.uid, &json!({}), &ours).await;
                taken.map_err(|e| WriteError::of(left.describe(), e))?;
            } else if !self.take_over_secret(left).await? {
                return Ok(None);
            }
        }
        let names: Vec<_> = objects.iter().map(Left::describe).collect();
        Ok(Some(format!("took over what a deleted EtcdCluster of this name had left: {}", names.join(", "))))
    }

    /// Keys are replaced as they were read, and never patched.
    async fn take_over_secret(&self, left: &Left) -> Result<bool, StepError> {
        let secrets = self.actor.secrets();
        let secret = KeySecret::get(&secrets, &left.name).await?;
        let Some(mut secret) = secret.filter(|secret| secret.0.metadata.uid.as_ref() == Some(&left.uid)) else {
            return Ok(false);
        };
        let annotations = secret.0.metadata.annotations.get_or_insert_default();
        annotations.insert(key::CLUSTER_UID.into(), self.actor.cluster.uid.clone());
        secret.replace(&secrets).await?;
        Ok(true)
    }

    /// Deletes what is left of a member, if the object is the one that was seen.
    async fn delete<K>(&self, member: &MemberName, api: &Api<K>, name: &str, uid: &str) -> Taken
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let deleted = delete(api, name, uid).await?;
        Ok(deleted.then(|| format!("deleted {} {name} of {member}, which has been removed", K::kind(&()))))
    }

    async fn delete_budget(&self, uid: &str) -> Taken {
        let budgets: Api<PodDisruptionBudget> = self.namespaced();
        let name = self.actor.cluster.names.disruption_budget();
        let deleted = delete(&budgets, &name, uid).await?;
        Ok(deleted.then(|| format!("deleted PodDisruptionBudget {name}: with fewer than 3 members there is no redundancy")))
    }

    /// Writes on claims that their data was given up.
    async fn give_up(&self, survivor: &MemberName, claims: &[(MemberName, String)]) -> Taken {
        let api: Api<PersistentVolumeClaim> = self.namespaced();
        let mark = json!({ key::GIVEN_UP_FOR: survivor.to_string() });
        for (member, uid) in claims {
            let claim = self.actor.cluster.names.claim(member);
            let written = k8s::annotate(&api, &claim, uid, &json!({}), &mark).await;
            written.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {claim}"), e))?;
        }
        let members: Vec<_> = claims.iter().map(|(member, _)| member.to_string()).collect();
        Ok(Some(format!("the data of {} was given up for that of {survivor}", members.join(", "))))
    }

    /// Lets a pod be made anew. It is evicted and not deleted, so the disruption budget has the last word; but of members that
    /// believe nobody the budget would keep a quorum that is none.
    async fn restart(&self, fresh: &Fresh, member: &MemberName, pod_uid: &str) -> Taken {
        let name = self.actor.cluster.names.pod(member);
        let pods: Api<Pod> = self.namespaced();
        let preconditions = Preconditions { uid: Some(pod_uid.into()), resource_version: None };
        let delete_options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let parameters = EvictParams { delete_options: Some(delete_options), ..EvictParams::default() };
        let pod = fresh.pods.get(member).map(|pod| &**pod);
        if pod.zip(fresh.sets.get(member)).is_some_and(|(pod, set)| plan::believes_nobody(pod, set)) {
            let deleted = delete(&pods, &name, pod_uid).await?;
            return Ok(
                deleted.then(|| format!("the pod of {member} is made anew: it has started with authorities that have expired"))
            );
        }
        match pods.evict(&name, &parameters).await {
            Ok(_) => {
                let wanted = self.actor.cluster.restarted_at.as_deref();
                let template = fresh.sets.get(member).is_some_and(plan::template_bears_flag);
                let why = match (pod.is_some_and(plan::pod_bears_flag), template) {
                    (false, true) => "it starts as a cluster of one, with the data that it has",
                    (true, false) => "it has started as a cluster of one, and must not do so again",
                    _ if pod.is_some_and(plan::is_stuck) => "it cannot start, and what it was made from has changed",
                    _ if pod.is_some_and(plan::has_never_served) => "it has never served, and what it was made from has changed",
                    _ if pod.is_some_and(|pod| annotation(&pod.metadata, key::RESTARTED_AT) == wanted) => {
                        "it is to take up what has changed"
                    }
                    _ => "a restart was asked for",
                };
                Ok(Some(format!("the pod of {member} is made anew: {why}")))
            }
            Err(kube::Error::Api(status)) if status.code == 429 => {
                Err(StepError::NotNow(format!("the disruption budget does not allow a disruption of {member}")))
            }
            Err(error) => Err(WriteError::of(format!("Pod {name}"), error).into()),
        }
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
