//! What is derived from the spec of each cluster, cached until the spec changes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use super::{
    validate::{Invalid, validate},
    validated::ValidatedCluster,
};
use crate::{
    api::{CompletedRequestStatus, EtcdCluster},
    kubernetes::desired::Desired,
};

/// The specs of all clusters.
#[derive(Default)]
pub struct Specs(Mutex<HashMap<(String, String), Spec>>);

/// The uid, the generation, the annotations, and the requests that were completed.
type Version = (Option<String>, Option<i64>, BTreeMap<String, String>, Vec<CompletedRequestStatus>);

/// One version of a cluster's spec and requests.
#[derive(Clone)]
pub struct Spec {
    version: Version,
    /// The validated cluster, or the problems of the spec.
    pub cluster: Result<Arc<ValidatedCluster>, Invalid>,
    /// The desired objects, derived from the spec.
    pub desired: Arc<Desired>,
}

impl Spec {
    /// The current version. `desired` is a cache for what is derived from it.
    pub fn of(cluster: &EtcdCluster, domain: &str, desired: Arc<Desired>) -> Self {
        Self { version: version(cluster), cluster: validate(cluster, domain).map(Arc::new), desired }
    }
}

fn version(cluster: &EtcdCluster) -> Version {
    // The generation counts only changes of the spec; requests are annotations.
    let completed = cluster.status.as_ref().map(|status| status.requests.clone()).unwrap_or_default();
    (cluster.uid(), cluster.metadata.generation, cluster.annotations().clone(), completed)
}

impl Specs {
    /// The spec of a cluster. `domain` is the DNS domain of the Kubernetes cluster.
    pub fn of(&self, cluster: &EtcdCluster, domain: &str) -> Spec {
        let id = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        let version = version(cluster);
        let mut specs = self.lock();
        if let Some(spec) = specs.get(&id).filter(|spec| spec.version == version) {
            return spec.clone();
        }
        let spec = Spec::of(cluster, domain, Arc::default());
        specs.insert(id, spec.clone());
        spec
    }

    /// Removes the spec of a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.lock().remove(&(namespace.to_owned(), cluster.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), Spec>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
