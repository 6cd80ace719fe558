//! Executes the effects of steps. Each returns the number of changes that it made.

use std::{collections::BTreeMap, fmt::Debug};

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Secret},
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;

use super::{
    Actor,
    step::{Hindrance, StepError},
};
use crate::{
    cluster::{
        dial, objects,
        steps::{Deletable, Effect, Fresh},
    },
    etcd::Change,
    ids::Uid,
    issuing,
    kubernetes::{
        apply::{Eviction, Resized, annotate, budgets_of, delete, evict, never_allows, resize},
        error::WriteError,
        resources::Resources,
        secret::KeySecret,
    },
    names::{CLIENT_PORT, CONTAINER, MemberName},
};

impl Actor<'_> {
    /// Executes an effect.
    pub async fn execute(&self, effect: &Effect, fresh: &Fresh) -> Result<usize, StepError> {
        match effect {
            Effect::ChangeMembers(change) => self.change_members(change, fresh).await,
            Effect::AnnotateClaim { name, uid, annotations } => {
                let written = self.annotate::<PersistentVolumeClaim>(name, uid, annotations).await;
                Ok(written.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {name}"), e))?)
            }
            Effect::AnnotateStatefulSet { member, uid, annotations } => {
                let written = self.annotate::<StatefulSet>(member.as_str(), uid, annotations).await;
                Ok(written.map_err(|e| WriteError::of(format!("StatefulSet {member}"), e))?)
            }
            Effect::AnnotatePod { member, uid, annotations } => {
                let pod = self.cluster.names.pod(member);
                let written = self.annotate::<Pod>(&pod, uid, annotations).await;
                Ok(written.map_err(|e| WriteError::of_change(format!("Pod {pod}"), e))?)
            }
            Effect::Resize { member, uid, resources } => self.resize(member, uid, resources).await,
            Effect::AdoptSecret { name, uid } => self.adopt_secret(name, uid).await,
            Effect::Delete { kind, name, uid } => self.delete(*kind, name, uid).await,
            Effect::Evict { member, uid } => self.evict(member, uid, fresh).await,
            Effect::Revoke { domain, holders, pending } => {
                Ok(issuing::revoke(self.context, &self.recipient(), *domain, holders, pending, self.now).await?)
            }
            Effect::ChangeAuthorities(transition) => {
                let metadata = objects::retained(self.cluster, transition.secret.clone());
                Ok(issuing::change_authorities(self.context, &self.recipient(), transition, metadata, self.now).await?)
            }
        }
    }

    async fn change_members(&self, change: &Change, fresh: &Fresh) -> Result<usize, StepError> {
        let leader = fresh.leader().and_then(|leader| Some((leader, fresh.pods.get(leader)?)));
        let (Some(identity), Some((leader, pod))) = (self.identity, leader) else { return Ok(0) };
        let target = dial::target(&self.cluster.names, leader, pod, CLIENT_PORT);
        self.context.dialer.change(&target, &identity.tls, change).await?;
        Ok(1)
    }

    async fn annotate<K>(&self, name: &str, uid: &Uid, annotations: &BTreeMap<&'static str, String>) -> Result<usize, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + DeserializeOwned + Clone + Debug,
    {
        let no_labels: BTreeMap<&str, &str> = BTreeMap::new();
        annotate(&self.api::<K>(), name, uid, &no_labels, annotations).await?;
        Ok(1)
    }

    async fn adopt_secret(&self, name: &str, uid: &Uid) -> Result<usize, StepError> {
        let secrets = self.api::<Secret>();
        let secret = KeySecret::get(&secrets, name).await?;
        let Some(mut secret) = secret.filter(|secret| Uid::of(&secret.0.metadata).as_ref() == Some(uid)) else { return Ok(0) };
        let annotations = secret.0.metadata.annotations.get_or_insert_default();
        annotations.extend(objects::retained(self.cluster, name.to_owned()).annotations.into_iter().flatten());
        secret.replace(&secrets).await?;
        Ok(1)
    }

    async fn delete(&self, kind: Deletable, name: &str, uid: &Uid) -> Result<usize, StepError> {
        let existed = match kind {
            Deletable::DisruptionBudget => delete(&self.api::<PodDisruptionBudget>(), name, uid).await?,
            Deletable::Claim => delete(&self.api::<PersistentVolumeClaim>(), name, uid).await?,
            Deletable::StatefulSet => delete(&self.api::<StatefulSet>(), name, uid).await?,
            Deletable::Pod => delete(&self.api::<Pod>(), name, uid).await?,
        };
        Ok(existed.into())
    }

    /// If Kubernetes does not change the pod while it runs, that is remembered, and the plan restarts the member.
    async fn resize(&self, member: &MemberName, uid: &Uid, resources: &Resources) -> Result<usize, StepError> {
        match resize(&self.api::<Pod>(), &self.cluster.names.pod(member), uid, CONTAINER, resources).await? {
            Resized::Accepted => Ok(1),
            Resized::Impossible(words) => {
                self.desired.refuse(uid, &words, self.now);
                Err(StepError::Pending(format!(
                    "{member} will be restarted, because Kubernetes does not change it while it runs: {words}"
                )))
            }
        }
    }

    async fn evict(&self, member: &MemberName, uid: &Uid, fresh: &Fresh) -> Result<usize, StepError> {
        let pod = self.cluster.names.pod(member);
        match evict(&self.api::<Pod>(), &pod, uid).await? {
            Eviction::Accepted => Ok(1),
            Eviction::Disallowed => {
                let others = self.other_budgets(member, fresh).await?;
                if others.iter().any(never_allows) {
                    return Err(self.hindered(member, Hindrance::Never, &others));
                }
                let named: Vec<_> = others.iter().map(|budget| format!(" {}", budget.name_any())).collect();
                let message = format!("the disruption budget{} does not allow a disruption of {member}", named.concat());
                Err(StepError::Pending(message))
            }
            Eviction::SeveralBudgets => {
                let others = self.other_budgets(member, fresh).await?;
                Err(self.hindered(member, Hindrance::Several, &others))
            }
        }
    }

    /// The disruption budgets that select the pod of a member, but for the cluster's own.
    async fn other_budgets(&self, member: &MemberName, fresh: &Fresh) -> Result<Vec<PodDisruptionBudget>, StepError> {
        let labels = fresh.pods.get(member).and_then(|pod| pod.metadata.labels.as_ref());
        let mut budgets = budgets_of(&self.api(), labels.unwrap_or(&BTreeMap::new())).await?;
        budgets.retain(|budget| budget.name_any() != self.cluster.names.disruption_budget());
        Ok(budgets)
    }

    fn hindered(&self, member: &MemberName, by: Hindrance, others: &[PodDisruptionBudget]) -> StepError {
        let others: Vec<_> = others.iter().map(ResourceExt::name_any).collect();
        StepError::Budgets {
            member: member.clone(),
            by,
            namespace: self.cluster.names.namespace().into(),
            others: others.join(" "),
        }
    }
}
