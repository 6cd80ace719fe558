//! Signing leaves and revoking them.
//!
//! Where the operator holds the authority's key it signs at once. Where it does not, it makes the key of the leaf, stores it, asks
//! the issuer, and hands the leaf out when it is there: whoever dies in between, the next pass finds key and answer.

use std::collections::BTreeSet;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Api, Client};

use super::{
    IssueError,
    authorities::unknown,
    cert_manager::{self, Answer, Wrong, request_name},
};
use crate::{
    cluster::{
        observed::{fingerprint, hex},
        plan::{Inquiry, LeafRequest},
        validate::ValidatedCluster,
    },
    k8s::{KeySecret, WriteError},
    names::{Names, authority_key},
    pki::{
        self, Authority, Certificate, Domain, Issued, Issuer, Issuers, Leaf, Ledger, PkiError, PrivateKey, Serial, crl_serials,
        read_bundle, sign_crl_without_key,
    },
};

/// Where certificates are issued.
pub struct Desk<'a> {
    /// The API server.
    pub client: &'a Client,
    /// The names of the cluster's objects.
    pub names: &'a Names,
    /// The cluster, if its spec makes sense. If not, nobody is asked by which authority they sign.
    pub cluster: Option<&'a ValidatedCluster>,
    /// With whom requests to others go.
    pub owner: OwnerReference,
}

/// An authority's Secret as it is now.
struct Opened {
    secret: KeySecret,
    active: Certificate,
    issuer: Issuer,
    /// The active one with its key, where that is at hand.
    signer: Option<Authority>,
    /// What is shown with its leaves.
    chain: Vec<Certificate>,
    ledger: Ledger,
}

/// Attempts to write an authority's Secret when others write it too, each on what it then is.
const ATTEMPTS: usize = 5;

impl Opened {
    /// Reads it, and checks that the active authority is the one with the subject key identifier `expected`.
    async fn read(secrets: &Api<Secret>, name: &str, expected: &str) -> Result<Self, IssueError> {
        let pki = |source| IssueError::Pki { name: name.to_owned(), source };
        let changed = || IssueError::AuthorityChanged(name.to_owned());
        let secret = KeySecret::get(secrets, name).await?.ok_or_else(changed)?;
        let issuer = Issuers::from_json(secret.bytes(authority_key::ISSUERS)).map_err(pki)?.active;
        let (certificate, key) = (secret.bytes(authority_key::ACTIVE_CRT), secret.bytes(authority_key::ACTIVE_KEY));
        let signer = issuer.has_key().then(|| Authority::load(certificate, key)).transpose().map_err(pki)?;
        let active = Certificate::from_pem(certificate).map_err(pki)?;
        if active.subject_key_id().map(hex).as_deref() != Some(expected) {
            return Err(changed());
        }
        let above = read_bundle(secret.bytes(authority_key::ABOVE_CRT)).map_err(pki)?;
        let ledger = Ledger::from_json(secret.bytes(authority_key::LEDGER)).map_err(pki)?;
        Ok(Self { chain: pki::chain(&active, &above), secret, active, issuer, signer, ledger })
    }

    /// The serials on the revocation list.
    fn listed(&self) -> BTreeSet<Serial> {
        crl_serials(self.secret.bytes(authority_key::CRL)).unwrap_or_default()
    }

    /// Whether everything that is revoked is on the revocation list.
    fn lists_the_revoked(&self) -> bool {
        let listed = self.listed();
        self.ledger.revoked().all(|(serial, _)| listed.contains(&serial))
    }

    /// Writes the ledger back, and a new revocation list if other serials are to be on it now.
    async fn write(mut self, secrets: &Api<Secret>, now: Timestamp) -> Result<(), IssueError> {
        let name = self.secret.0.metadata.name.clone().unwrap_or_default();
        let pki = |source| IssueError::Pki { name: name.clone(), source };
        let listed = self.listed();
        // Before what has expired is dropped from the ledger, so that it is not taken for what it never knew.
        let mut wanted = unknown(&listed, &self.ledger, now);
        self.ledger.prune(now);
        wanted.extend(self.ledger.revoked());
        let ledger = self.ledger.to_json().map_err(pki)?;
        let data = self.secret.0.data.get_or_insert_default();
        data.insert(authority_key::LEDGER.into(), ByteString(ledger));
        if !wanted.keys().eq(&listed) {
            let crl = match &self.signer {
                Some(authority) => authority.sign_crl(wanted, now),
                None => sign_crl_without_key(wanted, self.active.not_after(), now),
            };
            data.insert(authority_key::CRL.into(), ByteString(crl.map_err(pki)?));
        }
        Ok(self.secret.replace(secrets).await?)
    }

    /// The key of a leaf that the issuer is being asked for.
    fn pending(&self, request: &LeafRequest) -> Option<PrivateKey> {
        let key = self.secret.bytes(&pending_key(request));
        // One that cannot be read is one that is not there: another takes its place.
        PrivateKey::from_pem(key).ok()
    }

    fn forget(&mut self, request: &LeafRequest) {
        if let Some(mut key) = self.secret.0.data.as_mut().and_then(|data| data.remove(&pending_key(request))) {
            zeroize::Zeroize::zeroize(&mut key.0);
        }
    }
}

/// Where the key of a leaf is kept until it is signed.
fn pending_key(request: &LeafRequest) -> String {
    let holder = format!("{:?}", request.holder);
    authority_key::pending(&fingerprint([(request.keys[0], holder.as_bytes())].into_iter()))
}

/// What came of a request to an issuer.
struct Asked {
    key: PrivateKey,
    name: String,
    is_old: bool,
    /// Whether the authority has another certificate than the one that is trusted.
    is_renewed: bool,
    leaf: Result<Certificate, IssueError>,
}

impl Desk<'_> {
    /// The Secrets of the cluster's namespace.
    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), self.names.namespace())
    }

    async fn open(&self, domain: Domain, expected: &str) -> Result<Opened, IssueError> {
        Opened::read(&self.secrets(), &self.names.authority(domain), expected).await
    }

    fn pki(&self, domain: Domain) -> impl Fn(PkiError) -> IssueError {
        let name = self.names.authority(domain);
        move |source| IssueError::Pki { name: name.clone(), source }
    }

    /// What keeps each of these leaves from being issued now by the active authority, whose subject key identifier must be
    /// `expected`. What others have to sign is asked for.
    ///
    /// # Errors
    /// What keeps all of them.
    pub async fn prepare(
        &self,
        domain: Domain,
        expected: &str,
        requests: &[&LeafRequest],
        now: Timestamp,
    ) -> Result<Vec<Option<IssueError>>, IssueError> {
        let opened = self.open(domain, expected).await?;
        opened.active.check_valid_authority(now).map_err(self.pki(domain))?;
        if let Some(authority) = &opened.signer {
            let refused = |problem: PkiError| IssueError::Issuer { issuer: opened.issuer.clone(), why: problem.to_string() };
            return Ok(requests.iter().map(|request| authority.issue(&request.spec, now).err().map(refused)).collect());
        }
        let mut opened = self.make_pending(domain, expected, opened, requests).await?;
        let asked = self.ask(domain, &opened, requests, now).await;
        let useless = |asked: &Asked| {
            asked.is_old && matches!(asked.leaf, Err(IssueError::Issuer { .. } | IssueError::OtherAuthority { .. }))
        };
        // What came to nothing is asked for again, with another key.
        let old: Vec<_> = requests
            .iter()
            .zip(&asked)
            .filter_map(|(request, asked)| Some((request, asked.as_ref().ok().filter(|asked| useless(asked))?)))
            .collect();
        if !old.is_empty() {
            let names: Vec<_> = old.iter().map(|(_, asked)| asked.name.clone()).collect();
            for (request, _) in &old {
                opened.forget(request);
            }
            opened.secret.replace(&self.secrets()).await?;
            join_all(names.iter().map(|name| self.delete_request(name))).await;
        }
        let is_other = |asked: &Asked| matches!(asked.leaf, Err(IssueError::OtherAuthority { .. }));
        let is_wanted = |cluster: &&ValidatedCluster| *cluster.issuer(domain) == opened.issuer;
        if let Some(cluster) = self.cluster.filter(is_wanted)
            && asked.iter().flatten().any(|asked| asked.is_renewed || is_other(asked))
        {
            // Its authority must be known and trusted before what it signs is shown, or before the certificate of before ends.
            let life = requests.iter().map(|request| request.spec.duration).max().unwrap_or_default();
            self.inquire(cluster, Inquiry::Ask(domain), life).await?;
        }
        Ok(asked.into_iter().map(|asked| asked.and_then(|asked| asked.leaf).err()).collect())
    }

    /// Stores a key for each leaf that has none yet, before anybody hears of it.
    async fn make_pending(
        &self,
        domain: Domain,
        expected: &str,
        mut opened: Opened,
        requests: &[&LeafRequest],
    ) -> Result<Opened, IssueError> {
        let new: Vec<_> = requests.iter().filter(|request| opened.pending(request).is_none()).collect();
        if new.is_empty() {
            return Ok(opened);
        }
        for request in new {
            let key = PrivateKey::generate().map_err(self.pki(domain))?;
            opened.secret.0.data.get_or_insert_default().insert(pending_key(request), ByteString(key.pem().to_vec()));
        }
        opened.secret.replace(&self.secrets()).await?;
        self.open(domain, expected).await
    }

    async fn ask(
        &self,
        domain: Domain,
        opened: &Opened,
        requests: &[&LeafRequest],
        now: Timestamp,
    ) -> Vec<Result<Asked, IssueError>> {
        let ask = async |request: &&LeafRequest| {
            let secret = self.names.authority(domain);
            let key = opened.pending(request).ok_or(IssueError::AuthorityChanged(secret))?;
            let name = request_name(self.names, domain, &key);
            let there = self.request(&name, &opened.issuer, &request.spec, &key).await?;
            let issuer = opened.issuer.clone();
            let mut is_renewed = false;
            let leaf = match there.answer() {
                Answer::Awaited(why) => Err(IssueError::Awaited { issuer, why }),
                Answer::Refused(why) => Err(IssueError::Issuer { issuer, why }),
                Answer::Signed(certificates, above) => {
                    let checked = cert_manager::check((&certificates, &above), &key, &request.spec, &opened.active, now);
                    is_renewed = checked.as_ref().is_ok_and(|(_, authority)| *authority != opened.active);
                    checked.map(|(leaf, _)| leaf).map_err(|wrong| match wrong {
                        Wrong::Leaf(why) => IssueError::Issuer { issuer, why },
                        Wrong::Authority(name) => IssueError::OtherAuthority { issuer, name },
                    })
                }
            };
            Ok(Asked { is_old: there.is_old(now), key, name, is_renewed, leaf })
        };
        join_all(requests.iter().map(ask)).await
    }

    /// Issues leaves from the active authority of a domain, whose subject key identifier must be `expected`, and writes them down.
    /// They must have been prepared.
    ///
    /// # Errors
    /// When one of them cannot be issued; then none is.
    pub async fn issue(
        &self,
        domain: Domain,
        expected: &str,
        requests: &[&LeafRequest],
        now: Timestamp,
    ) -> Result<Vec<Leaf>, IssueError> {
        let mut attempt = 1;
        loop {
            let mut opened = self.open(domain, expected).await?;
            let mut leaves = vec![];
            let mut answered = vec![];
            if let Some(authority) = &opened.signer {
                for request in requests {
                    leaves.push(authority.issue(&request.spec, now).map_err(self.pki(domain))?);
                }
            } else {
                for asked in self.ask(domain, &opened, requests, now).await {
                    let Asked { key, name, leaf, .. } = asked?;
                    leaves.push(Leaf { certificate: leaf?, key, chain: vec![] });
                    answered.push(name);
                }
                for request in requests {
                    opened.forget(request);
                }
            }
            for (leaf, request) in leaves.iter_mut().zip(requests) {
                leaf.chain.clone_from(&opened.chain);
                opened.ledger.record(&leaf.certificate, request.holder.clone());
            }
            match opened.write(&self.secrets(), now).await {
                Ok(()) => {
                    join_all(answered.iter().map(|name| self.delete_request(name))).await;
                    return Ok(leaves);
                }
                Err(IssueError::Write(WriteError::Conflict(_))) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Revokes everything of a domain that `meant` tells, and makes the list anew if it lacks who was revoked before; returns how many
    /// certificates were revoked.
    ///
    /// # Errors
    /// When nothing could be written.
    pub async fn revoke(
        &self,
        domain: Domain,
        expected: &str,
        meant: impl Fn(&Issued) -> bool,
        now: Timestamp,
    ) -> Result<usize, IssueError> {
        let mut attempt = 1;
        loop {
            let mut opened = self.open(domain, expected).await?;
            let count = opened.ledger.revoke(&meant, now);
            if count == 0 && opened.lists_the_revoked() {
                return Ok(0);
            }
            match opened.write(&self.secrets(), now).await {
                Ok(()) => return Ok(count),
                Err(IssueError::Write(WriteError::Conflict(_))) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}
