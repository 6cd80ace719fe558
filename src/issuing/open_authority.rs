//! The current version of an authorities' Secret, read in order to sign and to record.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use zeroize::Zeroize;

use super::{error::IssueError, write::put};
use crate::{
    certificates::{
        authority_secret::unknown_serials,
        leaf::SignedBy,
        requests::{LeafRequest, pending_key},
    },
    kubernetes::secret::KeySecret,
    names::authority_key,
    pki::{
        self, Authority, Certificate, Issuer, Issuers, Ledger, PkiError, PrivateKey, Serial, crl_serials, read_bundle,
        sign_crl_without_key,
    },
};

/// The current version of an authorities' Secret. It has no `Debug`.
pub struct OpenAuthority {
    name: String,
    secret: KeySecret,
    /// The active authority, whether or not it signs.
    active: Certificate,
    /// The authority that signs.
    pub signing: Certificate,
    /// Its issuer.
    pub issuer: Issuer,
    /// The authority that signs, with its private key, unless the issuer keeps that.
    pub key: Option<Authority>,
    /// The intermediate certificates that are presented with its leaves.
    pub chain: Vec<Certificate>,
    /// The certificates that were issued.
    pub ledger: Ledger,
}

impl OpenAuthority {
    /// Reads it, and checks that the active authority has this subject key identifier.
    ///
    /// # Errors
    /// [`IssueError::AuthorityChanged`] if it does not.
    pub async fn read(secrets: &Api<Secret>, name: &str, expected: &[u8], signed_by: SignedBy) -> Result<Self, IssueError> {
        let pki = |source| IssueError::Pki { name: name.to_owned(), source };
        let changed = || IssueError::AuthorityChanged(name.to_owned());
        let secret = KeySecret::get(secrets, name).await?.ok_or_else(changed)?;
        let active = Certificate::from_pem(secret.bytes(authority_key::ACTIVE_CRT)).map_err(pki)?;
        if active.subject_key_id() != Some(expected) {
            return Err(changed());
        }
        let issuers = Issuers::from_json(secret.bytes(authority_key::ISSUERS)).map_err(pki)?;
        let (issuer, [certificate, key]) = match signed_by {
            SignedBy::Active => (issuers.active, ACTIVE),
            SignedBy::Next => (issuers.next, [authority_key::NEXT_CRT, authority_key::NEXT_KEY]),
        };
        let (certificate, key) = (secret.bytes(certificate), secret.bytes(key));
        let key = issuer.has_key().then(|| Authority::load(certificate, key)).transpose().map_err(pki)?;
        let signing = Certificate::from_pem(certificate).map_err(pki)?;
        let ancestors = read_bundle(secret.bytes(authority_key::ANCESTORS_CRT)).map_err(pki)?;
        let ledger = Ledger::from_json(secret.bytes(authority_key::LEDGER)).map_err(pki)?;
        let chain = pki::presented_chain(&signing, &ancestors);
        Ok(Self { name: name.to_owned(), chain, secret, active, signing, issuer, key, ledger })
    }

    /// The error of its contents.
    pub fn error(&self, source: PkiError) -> IssueError {
        IssueError::Pki { name: self.name.clone(), source }
    }

    /// The error of a Secret that has changed since something was signed.
    pub fn changed(&self) -> IssueError {
        IssueError::AuthorityChanged(self.name.clone())
    }

    /// The serials on the revocation list.
    fn listed(&self) -> BTreeSet<Serial> {
        crl_serials(self.secret.bytes(authority_key::CRL)).unwrap_or_default()
    }

    /// How many revoked certificates the revocation list lacks.
    pub fn missing_from_list(&self) -> usize {
        let listed = self.listed();
        self.ledger.revoked().filter(|(serial, _)| !listed.contains(serial)).count()
    }

    /// Writes the ledger, and a new revocation list if the serials on it differ from the desired ones.
    ///
    /// # Errors
    /// If the Secret has changed since it was read.
    pub async fn write(mut self, secrets: &Api<Secret>, now: Timestamp) -> Result<(), IssueError> {
        let listed = self.listed();
        // This must precede the removal of expired entries from the ledger, which would then count as unknown serials.
        let mut desired = unknown_serials(&listed, &self.ledger, now);
        self.ledger.prune(now);
        desired.extend(self.ledger.revoked());
        let ledger = self.ledger.to_json().map_err(|source| self.error(source))?;
        put(&mut self.secret, authority_key::LEDGER, ledger);
        if !desired.keys().eq(&listed) {
            // Whatever signs the leaves, the active authority signs the list. Its key is missing if an issuer keeps it, or if it is
            // lost and being replaced.
            let [certificate, key] = ACTIVE.map(|key| self.secret.bytes(key));
            let crl = match Authority::load(certificate, key) {
                Ok(authority) => authority.sign_crl(desired, now),
                Err(_) => sign_crl_without_key(desired, self.active.not_after(), now),
            };
            let crl = crl.map_err(|source| self.error(source))?;
            put(&mut self.secret, authority_key::CRL, crl);
        }
        self.replace(secrets).await
    }

    /// Writes it without touching ledger and revocation list.
    ///
    /// # Errors
    /// If the Secret has changed since it was read.
    pub async fn replace(self, secrets: &Api<Secret>) -> Result<(), IssueError> {
        Ok(self.secret.replace(secrets).await?)
    }

    /// The private key of a leaf that was or is requested from the issuer. An unreadable one is replaced like a missing one.
    pub fn pending(&self, request: &LeafRequest) -> Option<PrivateKey> {
        PrivateKey::from_pem(self.secret.bytes(&pending(request))).ok()
    }

    /// Stores the private key of a leaf that is going to be requested from the issuer.
    pub fn add_pending(&mut self, request: &LeafRequest, key: &PrivateKey) {
        put(&mut self.secret, &pending(request), key.pem().to_vec());
    }

    /// Removes the private key of a leaf that was requested from the issuer.
    pub fn remove_pending(&mut self, request: &LeafRequest) {
        self.take_pending(&pending(request));
    }

    /// Removes the private key of a leaf under this key of the Secret, and returns it if it is readable.
    pub fn take_pending(&mut self, name: &str) -> Option<PrivateKey> {
        let mut removed = self.secret.0.data.as_mut()?.remove(name)?;
        let key = PrivateKey::from_pem(&removed.0).ok();
        removed.0.zeroize();
        key
    }
}

fn pending(request: &LeafRequest) -> String {
    pending_key(&request.holder, request.keys.certificate)
}

/// The keys of the Secret for the active authority and its private key.
const ACTIVE: [&str; 2] = [authority_key::ACTIVE_CRT, authority_key::ACTIVE_KEY];
