//! Secrets: without their private keys in the cache, and with their private keys when one is needed.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::Api;
use zeroize::Zeroize;

use super::{apply::post, error::WriteError};
use crate::{
    panics,
    pki::{self, KeyDigest},
};

/// A Secret without its private keys.
#[derive(Clone, Debug, Default)]
pub struct SecretView {
    /// Its metadata.
    pub meta: ObjectMeta,
    /// Its type.
    pub type_: String,
    /// Its contents. In place of a private key there is [`KeyDigest::to_hex`] of its public half, or nothing if it is unreadable.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl SecretView {
    /// The view of a Secret whose private keys were removed by [`redact`].
    pub fn new(secret: &Secret) -> Self {
        Self {
            meta: secret.metadata.clone(),
            type_: secret.type_.clone().unwrap_or_default(),
            data: secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        }
    }

    /// The digest that stands for the private key under a key.
    pub fn key_digest(&self, key: &str) -> Option<KeyDigest> {
        KeyDigest::from_hex(std::str::from_utf8(self.data.get(key)?).ok()?)
    }
}

/// Whether a key of a Secret holds a private key.
pub fn is_private(key: &str) -> bool {
    key.strip_suffix(".key").is_some()
}

/// Replaces the private keys in a Secret by digests, which show whether a key belongs to a certificate.
pub fn redact(secret: &mut Secret) {
    for (key, ByteString(value)) in secret.data.iter_mut().flatten() {
        if is_private(key) {
            // A panic would end the watch of all Secrets, and this private key would be kept.
            let digest = panics::caught_in(|| pki::digest_of_private_pem(value)).ok().flatten();
            let digest = digest.map(|digest| digest.to_hex().into_bytes());
            value.zeroize();
            *value = digest.unwrap_or_default();
        }
    }
}

/// A Secret with its private keys, which are wiped when it is dropped. It has no `Debug`.
pub struct KeySecret(pub Secret);

impl Drop for KeySecret {
    fn drop(&mut self) {
        for value in self.0.data.iter_mut().flat_map(|data| data.values_mut()) {
            value.0.zeroize();
        }
    }
}

impl KeySecret {
    /// Reads a Secret; `None` if it does not exist.
    pub async fn get(api: &Api<Secret>, name: &str) -> Result<Option<Self>, WriteError> {
        let secret = api.get_opt(name).await.map_err(|e| WriteError::of(format!("Secret {name}"), e))?;
        Ok(secret.map(Self))
    }

    /// Creates it.
    pub async fn create(self, api: &Api<Secret>) -> Result<(), WriteError> {
        let created = api.create(&post(), &self.0).await.map_err(|e| WriteError::of(self.describe(), e))?;
        drop(Self(created));
        Ok(())
    }

    /// Replaces it, if it has not changed since it was read.
    pub async fn replace(self, api: &Api<Secret>) -> Result<(), WriteError> {
        let name = self.0.metadata.name.clone().unwrap_or_default();
        let replaced = api.replace(&name, &post(), &self.0).await.map_err(|e| WriteError::of_change(self.describe(), e))?;
        drop(Self(replaced));
        Ok(())
    }

    /// Its kind and name, for messages.
    pub fn describe(&self) -> String {
        format!("Secret {}", self.0.metadata.name.as_deref().unwrap_or_default())
    }

    /// The bytes under a key; empty if there are none.
    pub fn bytes(&self, key: &str) -> &[u8] {
        self.0.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_private_key_is_kept() -> Result<(), pki::PkiError> {
        let key = pki::PrivateKey::generate()?;
        let digest = key.public_digest().to_hex();
        let data = [("tls.key", key.pem().to_vec()), ("other.key", b"nonsense".to_vec()), ("tls.crt", b"public".to_vec())];
        let data = data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect();
        let mut secret = Secret { data: Some(data), ..Secret::default() };
        redact(&mut secret);
        let data = secret.data.unwrap_or_default();
        assert_eq!(data["tls.key"].0, digest.into_bytes());
        assert!(data["other.key"].0.is_empty());
        assert_eq!(data["tls.crt"].0, b"public");
        Ok(())
    }
}
