//! Applying objects, and annotating existing ones.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Resource, core::NamespaceResourceScope};

use super::Actor;
use crate::{
    api::{EtcdCluster, Reason},
    cluster::{
        outcome::Outcome,
        plan::changes::{CompletedRequest, PodPatch, RequestEvent},
    },
    kubernetes::{
        apply::{annotate, annotate_version, apply, preflight},
        error::WriteError,
        object::{Object, ObjectVersion},
    },
    reporting::note::Note,
};

impl Actor<'_> {
    /// The API for a kind in the cluster's namespace.
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.context.client.clone(), self.cluster.names.namespace())
    }

    /// Checks that no name is taken before the first object is created, so that a cluster is not created in part.
    pub async fn preflight(&self, objects: &[Object]) -> Outcome {
        let namespace = self.cluster.names.namespace();
        let check = |object| preflight(&self.context.client, namespace, object, &self.cluster.uid);
        let mut outcome = Outcome::default();
        for error in join_all(objects.iter().map(check)).await.into_iter().filter_map(Result::err) {
            outcome.write_failed(&error);
        }
        outcome
    }

    /// Applies an object.
    pub async fn apply(&self, object: &Object) -> Outcome {
        let mut outcome = Outcome::default();
        match apply(&self.context.client, self.cluster.names.namespace(), object, &self.cluster.uid).await {
            Ok(result) => self.desired.record(object, &result, self.now),
            Err(error) => outcome.write_failed(&error),
        }
        outcome
    }

    /// Writes a larger size to a claim. A refusal is remembered, and the plan reports it.
    pub async fn expand(&self, object: &Object) -> Outcome {
        let mut outcome = Outcome { again: true, ..Outcome::default() };
        match apply(&self.context.client, self.cluster.names.namespace(), object, &self.cluster.uid).await {
            Ok(result) => {
                self.desired.record(object, &result, self.now);
                let message = format!("{} will be expanded to {}", object.describe(), self.cluster.storage.size.0);
                outcome.done.push(Note::new(Reason::ExpandingVolume, message));
            }
            Err(error) => match error.refusal() {
                Some(words) => {
                    object.seen.iter().for_each(|seen| self.desired.refuse(&seen.uid, words, self.now));
                }
                None => outcome.write_failed(&error),
            },
        }
        outcome
    }

    /// Labels and annotates a pod.
    pub async fn patch_pod(&self, patch: &PodPatch) -> Outcome {
        let mut outcome = Outcome::default();
        let changes = &patch.changes;
        match annotate(&self.api::<Pod>(), &patch.pod, &patch.uid, &changes.labels, &changes.annotations).await {
            Ok(meta) => self.desired.record_fields(&meta, &changes.drift, &changes.left_in(&meta), self.now),
            Err(error) => outcome.write_failed(&WriteError::of_change(format!("Pod {}", patch.pod), error)),
        }
        outcome
    }

    /// Removes completed requests from the `EtcdCluster`, if it is still the version that the pass started with: the user may
    /// have made another request.
    pub async fn complete(&self, requests: &[CompletedRequest]) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(seen) = ObjectVersion::of(&self.object.metadata) else { return outcome };
        let name = self.cluster.names.cluster();
        let remaining: BTreeMap<_, _> = requests.iter().map(|request| (request.annotation, &request.remaining)).collect();
        match annotate_version(&self.api::<EtcdCluster>(), name, &seen, &remaining).await {
            Ok(version) => outcome.version = version,
            Err(error) => {
                outcome.write_failed(&WriteError::of_change(format!("EtcdCluster {name}"), error));
                return outcome;
            }
        }
        outcome.again = true;
        outcome.completed = requests.iter().flat_map(|request| request.requests.clone()).collect();
        for event in requests.iter().filter_map(|request| request.event.clone()) {
            match event {
                RequestEvent::Accepted(note) => outcome.done.push(note),
                RequestEvent::Refused(note) => outcome.disruptions.push(note),
            }
        }
        outcome
    }
}
