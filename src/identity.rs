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

/// The operator's client certificate for one cluster, with its private key and trust bundle.
#[derive(Clone)]
pub struct Identity(pub Arc<Tls>);

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
        let (crt, key) = (secret.bytes(tls_key::CRT), secret.bytes(tls_key::KEY));
        let tls = Tls::new(secret.bytes(tls_key::CA), Some((crt, key))).map_err(|e| e.to_string())?;
        let identity = Identity(Arc::new(tls));
        let version = secret.0.metadata.resource_version.clone().unwrap_or_default();
        self.kept().insert(id, (version, identity.clone()));
        Ok(identity)
    }
}
