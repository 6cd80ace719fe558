//! The client certificate with which the operator connects to the members of a cluster.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use crate::{
    etcd::Tls,
    kubernetes::secret::{KeySecret, SecretView},
    names::{Names, tls_key},
};

/// The operator's client certificates for one cluster, with their private keys and the trust bundle.
#[derive(Clone)]
pub struct Identity {
    /// The one that it uses.
    pub tls: Arc<Tls>,
    /// During a rotation, one that the next authority signed, or why it cannot be used. Members are tried with it.
    pub trial: Option<Result<Arc<Tls>, String>>,
}

/// The identities by namespace and cluster. Each is kept until its Secret changes, because it is expensive to create.
#[derive(Default)]
pub struct Identities(Mutex<HashMap<(String, String), (String, Identity)>>);

impl Identities {
    /// Removes the identity for a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.kept().remove(&(namespace.to_owned(), cluster.to_owned()));
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(String, String), (String, Identity)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity in a Secret. `secret` is the cached version, without its private key.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn of(&self, client: &Client, names: &Names, secret: &SecretView) -> Result<Identity, String> {
        let id = (names.namespace().to_owned(), names.cluster().to_owned());
        let version = secret.meta.resource_version.clone().unwrap_or_default();
        if let Some((of, identity)) = self.kept().get(&id)
            && *of == version
        {
            return Ok(identity.clone());
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), names.namespace());
        let secret = KeySecret::get(&secrets, &names.operator_secret()).await.map_err(|e| e.to_string())?;
        let secret = secret.ok_or_else(|| format!("Secret {} does not exist", names.operator_secret()))?;
        let read = |crt, key| {
            let tls = Tls::new(secret.bytes(tls_key::CA), Some((secret.bytes(crt), secret.bytes(key))));
            tls.map(Arc::new).map_err(|e| e.to_string())
        };
        let has_trial = !secret.bytes(tls_key::NEXT_CRT).is_empty();
        let trial = has_trial.then(|| read(tls_key::NEXT_CRT, tls_key::NEXT_KEY));
        let identity = Identity { tls: read(tls_key::CRT, tls_key::KEY)?, trial };
        let version = secret.0.metadata.resource_version.clone().unwrap_or_default();
        self.kept().insert(id, (version, identity.clone()));
        Ok(identity)
    }
}
