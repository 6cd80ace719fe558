//! Fresh reads before a step is taken.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Secret},
};
use kube::api::ListParams;

use super::Actor;
use crate::{
    api::EtcdUser,
    cluster::{
        dial,
        steps::{Fresh, LeftoverKind, Read},
    },
    ids::Uid,
    kubernetes::{error::WriteError, ownership::annotation},
    names::{CLIENT_PORT, MemberName, annotation as key, label},
};

impl Actor<'_> {
    /// Reads everything that a step asks for, in this order.
    ///
    /// # Errors
    /// If Kubernetes refuses a read. A member that does not answer is missing in the result instead.
    pub async fn read(&self, reads: &[Read]) -> Result<Fresh, WriteError> {
        let mut fresh = Fresh::default();
        for read in reads {
            match read {
                Read::Members => self.read_members(&mut fresh).await?,
                Read::EachVotersList => self.read_lists(&mut fresh).await,
                Read::ByName(member) => self.read_by_name(member, &mut fresh).await?,
                Read::Claim(member) => fresh.claim = self.claim(&self.cluster.names.claim(member)).await?,
                Read::Leftover(leftover) => fresh.leftovers.extend(match leftover.kind {
                    LeftoverKind::Claim => self.claim(&leftover.name).await?.map(|claim| claim.metadata),
                    LeftoverKind::Secret => {
                        let secret = self.api::<Secret>().get_metadata_opt(&leftover.name).await;
                        secret.map_err(|e| WriteError::of(leftover.describe(), e))?.map(|secret| secret.metadata)
                    }
                }),
                Read::User(name) => {
                    let user = self.api::<EtcdUser>().get_metadata_opt(name).await;
                    let user = user.map_err(|e| WriteError::of(format!("EtcdUser {name}"), e))?;
                    let user = user.filter(|user| annotation(&user.metadata, key::REVOKE).is_none());
                    fresh.users.extend(user.and_then(|user| Uid::of(&user.metadata)));
                }
            }
        }
        Ok(fresh)
    }

    async fn read_members(&self, fresh: &mut Fresh) -> Result<(), WriteError> {
        let names = &self.cluster.names;
        let own = ListParams::default().labels(&label::selector_text(names.cluster()));
        let pods = self.api::<Pod>().list(&own).await.map_err(|e| WriteError::of("the pods", e))?;
        let member = |pod: &Pod| names.parse_member(pod.metadata.labels.as_ref()?.get(label::MEMBER)?);
        fresh.pods.extend(pods.items.into_iter().filter_map(|pod| Some((member(&pod)?, pod.into()))));
        let sets = self.api::<StatefulSet>().list(&own).await.map_err(|e| WriteError::of("the StatefulSets", e))?;
        let member = |set: &StatefulSet| names.parse_member(set.metadata.name.as_deref()?);
        fresh.sets.extend(sets.items.into_iter().filter_map(|set| Some((member(&set)?, set.into()))));
        let Some(identity) = self.identity else { return Ok(()) };
        let requests = fresh.pods.iter().map(|(name, pod)| async move {
            let target = dial::target(names, name, pod, CLIENT_PORT);
            Some((name.clone(), self.context.dialer.ask(&target, &identity.tls).await.ok()?.status.ok()?))
        });
        let answers: BTreeMap<_, _> = join_all(requests).await.into_iter().flatten().collect();
        let answering = answers.iter().filter_map(|(name, status)| Some((name, &**fresh.pods.get(name)?, status)));
        fresh.list = dial::member_list(self.context, names, answering, identity).await.ok();
        fresh.answers = answers;
        Ok(())
    }

    async fn read_lists(&self, fresh: &mut Fresh) {
        let (names, Some(identity)) = (&self.cluster.names, self.identity) else { return };
        let pods = fresh.answers.keys().filter_map(|name| Some((name, fresh.pods.get(name)?)));
        let requests = pods.map(|(name, pod)| async move {
            let target = dial::target(names, name, pod, CLIENT_PORT);
            Some((name.clone(), self.context.dialer.members(&target, &identity.tls).await.ok()?))
        });
        let lists = join_all(requests).await.into_iter().flatten().collect();
        fresh.lists = lists;
    }

    async fn read_by_name(&self, member: &MemberName, fresh: &mut Fresh) -> Result<(), WriteError> {
        let name = self.cluster.names.pod(member);
        let pod = self.api::<Pod>().get_opt(&name).await.map_err(|e| WriteError::of(format!("Pod {name}"), e))?;
        fresh.pods.extend(pod.map(|pod| (member.clone(), pod.into())));
        let set = self.api::<StatefulSet>().get_opt(member.as_str()).await;
        let set = set.map_err(|e| WriteError::of(format!("StatefulSet {member}"), e))?;
        fresh.sets.extend(set.map(|set| (member.clone(), set.into())));
        Ok(())
    }

    async fn claim(&self, name: &str) -> Result<Option<PersistentVolumeClaim>, WriteError> {
        let claim = self.api::<PersistentVolumeClaim>().get_opt(name).await;
        claim.map_err(|e| WriteError::of(format!("PersistentVolumeClaim {name}"), e))
    }
}
