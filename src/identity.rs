//! The client certificate with which the operator connects to the members of a cluster.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client};

use crate::{
    etcd::Tls,
    kubernetes::secret::{KeySecret, SecretView},
    names::{Names, member_key, tls_key},
};

/// The keys of a Secret that hold a client certificate, its private key and the trust bundle.
pub struct IdentityKeys {
    ca: &'static str,
    certificate: &'static str,
    private_key: &'static str,
}

/// Those of the operator's own Secret.
pub const OPERATOR: IdentityKeys = IdentityKeys { ca: tls_key::CA, certificate: tls_key::CRT, private_key: tls_key::KEY };

/// Those of a member's Secret. Its certificate is for etcdctl in the member's pod.
pub const MEMBER: IdentityKeys =
    IdentityKeys { ca: member_key::CLIENT_CA, certificate: member_key::CLIENT_CRT, private_key: member_key::CLIENT_KEY };

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
pub struct Identities(Mutex<Kept>);

/// The identities with the versions of the Secrets that they are from, by namespace and cluster.
type Kept = HashMap<(String, String), (Version, Identity)>;

/// The name and the resource version of a Secret.
type Version = (Option<String>, Option<String>);

impl Identities {
    /// Removes the identity for a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.kept().remove(&(namespace.to_owned(), cluster.to_owned()));
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity in a Secret. `secret` is the cached version, without its private key.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn of(&self, client: &Client, names: &Names, secret: &SecretView, keys: &IdentityKeys) -> Result<Identity, String> {
        let id = (names.namespace().to_owned(), names.cluster().to_owned());
        let version_of = |meta: &ObjectMeta| -> Version { (meta.name.clone(), meta.resource_version.clone()) };
        let version = version_of(&secret.meta);
        if let Some((of, identity)) = self.kept().get(&id)
            && *of == version
        {
            return Ok(identity.clone());
        }
        let secrets: Api<Secret> = Api::namespaced(client.clone(), names.namespace());
        let name = secret.meta.name.as_deref().unwrap_or_default();
        let secret = KeySecret::get(&secrets, name).await.map_err(|e| e.to_string())?;
        let secret = secret.ok_or_else(|| format!("Secret {name} does not exist"))?;
        let read = |crt, key| {
            let tls = Tls::new(secret.bytes(keys.ca), Some((secret.bytes(crt), secret.bytes(key))));
            tls.map(Arc::new).map_err(|e| e.to_string())
        };
        let has_trial = !secret.bytes(tls_key::NEXT_CRT).is_empty();
        let trial = has_trial.then(|| read(tls_key::NEXT_CRT, tls_key::NEXT_KEY));
        let identity = Identity { tls: read(keys.certificate, keys.private_key)?, trial };
        self.kept().insert(id, (version_of(&secret.0.metadata), identity.clone()));
        Ok(identity)
    }
}
