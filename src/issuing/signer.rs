//! Signing leaves, recording them and revoking them.
//!
//! If the operator has the private key of the authority, it signs immediately. Otherwise it generates the private key of the
//! leaf, stores it, requests the certificate from the issuer, and uses the leaf once it is signed. If the operator is stopped in
//! between, the next pass finds the key and the answer.

use std::collections::BTreeMap;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::{
    batch::{LeafId, Requests},
    cert_manager::{CertManager, Invalid, RequestId, RequestState, Requested, check_leaf, request_name},
    error::IssueError,
    open_authority::OpenAuthority,
    recipient::Recipient,
};
use crate::{
    certificates::{
        leaf::SignedBy,
        probes::ProbeSpec,
        requests::{IssuedLeaf, LeafRequest},
    },
    kubernetes::error::WriteError,
    pki::{Authority, Certificate, Domain, Holder, Leaf, LeafSpec, PrivateKey},
};

/// How often writing an authorities' Secret is attempted on conflicts, each time on its current version.
const ATTEMPTS: usize = 5;

/// Signs the leaves of a cluster's domains.
pub struct Signer<'a> {
    recipient: &'a Recipient<'a>,
    secrets: Api<Secret>,
    cert_manager: CertManager<'a>,
    now: Timestamp,
}

/// What one authority of a domain signed, and what it did not. No leaf may be used before it is recorded.
pub struct Signed {
    domain: Domain,
    by: SignedBy,
    /// The authority that signed.
    authority: Certificate,
    /// The signed leaves.
    pub leaves: BTreeMap<LeafId, SignedLeaf>,
    /// Why the others cannot be issued now.
    pub held: BTreeMap<LeafId, IssueError>,
}

/// A signed leaf that is not recorded yet.
pub struct SignedLeaf {
    issued: IssuedLeaf,
    /// Its `CertificateRequest`, if an external issuer signed it.
    answers: Option<RequestId>,
}

/// The answer of an external issuer.
struct Answer {
    key: PrivateKey,
    /// The `CertificateRequest`.
    request: RequestId,
    /// Whether the request has existed for so long that another one may be answered differently.
    is_old: bool,
    /// Whether the request is for another issuer or other usages.
    is_outdated: bool,
    /// Whether the certificate of the issuer's authority differs from the trusted one.
    is_renewed: bool,
    leaf: Result<Certificate, IssueError>,
}

impl Answer {
    /// Whether the request was not fulfilled and has to be replaced by another one.
    fn is_useless(&self) -> bool {
        let is_refused = matches!(self.leaf, Err(IssueError::Issuer { .. } | IssueError::OtherAuthority { .. }));
        self.is_old && (self.is_outdated || is_refused)
    }

    /// Whether it shows that the issuer's authority is not the one that is trusted.
    fn reveals_other(&self) -> bool {
        self.is_renewed || matches!(self.leaf, Err(IssueError::OtherAuthority { .. }))
    }
}

type Answers = BTreeMap<LeafId, Result<Answer, IssueError>>;

impl<'a> Signer<'a> {
    /// A signer for this recipient.
    pub fn new(client: &'a Client, recipient: &'a Recipient<'a>, now: Timestamp) -> Self {
        Self { recipient, secrets: recipient.secrets(client), cert_manager: CertManager::new(client, recipient), now }
    }

    async fn open(&self, domain: Domain, signed_by: SignedBy) -> Result<OpenAuthority, IssueError> {
        let expected = self.recipient.observed_key_id(domain)?;
        OpenAuthority::read(&self.secrets, &self.recipient.names.authority(domain), expected, signed_by).await
    }

    /// Signs these leaves with an authority of a domain, each once. The active one must be the observed one. From an external
    /// issuer the leaves are requested.
    ///
    /// # Errors
    /// Why none of them can be issued.
    pub async fn sign(&self, domain: Domain, signed_by: SignedBy, requests: &Requests) -> Result<Signed, IssueError> {
        let authority = self.open(domain, signed_by).await?;
        authority.signing.check_valid_authority(self.now).map_err(|source| authority.error(source))?;
        let signed = Signed::new(domain, signed_by, authority.signing.clone());
        match &authority.key {
            Some(key) => Ok(self.sign_with(signed, &authority, key, requests)),
            None => self.request_all(signed, authority, requests).await,
        }
    }

    fn sign_with(&self, mut signed: Signed, authority: &OpenAuthority, key: &Authority, requests: &Requests) -> Signed {
        for (id, request) in requests {
            match key.issue(&request.spec, self.now) {
                Ok(leaf) => signed.add(*id, request, leaf, None),
                Err(problem) => {
                    let error = IssueError::Issuer { issuer: authority.issuer.clone(), why: problem.to_string() };
                    signed.held.insert(*id, error);
                }
            }
        }
        signed
    }

    async fn request_all(&self, mut signed: Signed, authority: OpenAuthority, requests: &Requests) -> Result<Signed, IssueError> {
        let domain = signed.domain;
        let authority = self.store_keys(&signed, authority, requests).await?;
        let issuer = authority.issuer.clone();
        let answers = self.ask(&authority, domain, requests).await;
        self.discard_useless(authority, requests, &answers).await?;
        // The issuer's authority must be known and trusted before its leaves are presented, or before its previous certificate
        // expires.
        if let Some(probe) = self.recipient.probe(domain).filter(|probe| probe.issuer == issuer)
            && answers.values().flatten().any(Answer::reveals_other)
        {
            let duration = requests.values().map(|request| request.spec.duration).max().unwrap_or_default();
            let leaf = LeafSpec { duration, ..probe.leaf.clone() };
            self.cert_manager.probe(domain, &ProbeSpec { leaf, ..probe.clone() }).await?;
        }
        for (id, answer) in answers {
            match answer.and_then(|Answer { key, request, leaf, .. }| Ok((key, request, leaf?))) {
                Ok((key, request, certificate)) => {
                    signed.add(id, &requests[&id], Leaf { certificate, key, chain: vec![] }, Some(request));
                }
                Err(error) => {
                    signed.held.insert(id, error);
                }
            }
        }
        Ok(signed)
    }

    /// Stores a private key for each leaf that has none yet, before anything is requested with it.
    async fn store_keys(
        &self,
        signed: &Signed,
        mut authority: OpenAuthority,
        requests: &Requests,
    ) -> Result<OpenAuthority, IssueError> {
        let new: Vec<_> = requests.values().filter(|request| authority.pending(request).is_none()).collect();
        if new.is_empty() {
            return Ok(authority);
        }
        for request in new {
            let key = PrivateKey::generate().map_err(|source| authority.error(source))?;
            authority.add_pending(request, &key);
        }
        authority.replace(&self.secrets).await?;
        self.open(signed.domain, signed.by).await
    }

    /// Requests what has not been requested yet, and reads the answers.
    async fn ask(&self, authority: &OpenAuthority, domain: Domain, requests: &Requests) -> Answers {
        let ask = async |(id, request): (&LeafId, &LeafRequest)| (*id, self.ask_for(authority, domain, request).await);
        join_all(requests.iter().map(ask)).await.into_iter().collect()
    }

    async fn ask_for(&self, authority: &OpenAuthority, domain: Domain, request: &LeafRequest) -> Result<Answer, IssueError> {
        let key = authority.pending(request).ok_or_else(|| authority.changed())?;
        let name = request_name(self.recipient.names, domain, &key);
        let Requested { request: existing, outdated } =
            self.cert_manager.request(&name, &authority.issuer, &request.spec, &key).await?;
        let issuer = authority.issuer.clone();
        let (mut is_renewed, is_outdated) = (false, outdated.is_some());
        let state = outdated.map_or_else(|| existing.state(), |why| existing.replaced_state(&why));
        let leaf = match state {
            RequestState::Pending(why) => Err(IssueError::Pending { issuer, why }),
            RequestState::Refused(why) => Err(IssueError::Issuer { issuer, why }),
            RequestState::Signed(answer) => match check_leaf(&answer, &key, &request.spec, &authority.signing, self.now) {
                Ok((leaf, signer)) => {
                    is_renewed = signer != authority.signing;
                    Ok(leaf)
                }
                Err(Invalid::Leaf(why)) => Err(IssueError::Issuer { issuer, why }),
                Err(Invalid::Authority(name)) => Err(IssueError::OtherAuthority { issuer, name }),
            },
        };
        Ok(Answer { is_old: existing.is_old(self.now), is_outdated, key, request: existing.id(), is_renewed, leaf })
    }

    /// Removes requests that were not fulfilled. The next pass requests the leaves again, with other private keys.
    async fn discard_useless(
        &self,
        mut authority: OpenAuthority,
        requests: &Requests,
        answers: &Answers,
    ) -> Result<(), IssueError> {
        let answers = answers.iter().filter_map(|(id, answer)| Some((id, answer.as_ref().ok()?)));
        let useless: Vec<_> = answers.filter(|(_, answer)| answer.is_useless()).collect();
        if useless.is_empty() {
            return Ok(());
        }
        for (id, _) in &useless {
            authority.remove_pending(&requests[id]);
        }
        authority.replace(&self.secrets).await?;
        join_all(useless.iter().map(|(_, answer)| self.cert_manager.delete(&answer.request))).await;
        Ok(())
    }

    /// Records signed leaves in the ledger. Only recorded leaves are used, so that they can be revoked.
    ///
    /// # Errors
    /// If the authority is no longer the one that signed, or the ledger cannot be written. Then none of them may be used.
    pub async fn record(&self, signed: Signed) -> Result<BTreeMap<LeafId, IssuedLeaf>, IssueError> {
        let Signed { domain, by, authority: issuing, leaves, .. } = signed;
        if leaves.is_empty() {
            return Ok(BTreeMap::new());
        }
        let chain = self.update(domain, by, |authority| {
            if authority.signing != issuing {
                return Err(authority.changed());
            }
            for SignedLeaf { issued: IssuedLeaf { request, leaf }, answers } in leaves.values() {
                if answers.is_some() {
                    // If the stored key is missing, the leaf is already in use or was discarded.
                    let pending = authority.pending(request).map(|key| key.public_digest());
                    if pending != Some(leaf.key.public_digest()) {
                        return Err(authority.changed());
                    }
                    authority.remove_pending(request);
                }
                authority.ledger.record(&leaf.certificate, request.holder.clone());
            }
            Ok(Some(authority.chain.clone()))
        });
        let chain = chain.await?.unwrap_or_default();
        let answered = leaves.values().filter_map(|leaf| leaf.answers.as_ref());
        join_all(answered.map(|request| self.cert_manager.delete(request))).await;
        let issued = leaves.into_iter().map(|(id, SignedLeaf { mut issued, .. })| {
            issued.leaf.chain.clone_from(&chain);
            (id, issued)
        });
        Ok(issued.collect())
    }

    /// Revokes every certificate of these holders in a domain, adds missing serials to the revocation list, and removes these pending
    /// private keys and what was requested for them. Returns how many certificates were revoked or added to the list.
    ///
    /// # Errors
    /// If the active authority is not the observed one, or nothing could be written.
    pub async fn revoke(&self, domain: Domain, holders: &[Holder], pending: &[String]) -> Result<usize, IssueError> {
        let revoked = self.update(domain, SignedBy::Active, |authority| {
            let revoked = authority.ledger.revoke(|issued| holders.contains(&issued.holder), self.now);
            let changed = revoked.max(authority.missing_from_list());
            let unused: Vec<_> = pending.iter().filter_map(|name| authority.take_pending(name)).collect();
            Ok((changed > 0 || !unused.is_empty()).then_some((changed, unused)))
        });
        let (changed, unused) = revoked.await?.unwrap_or_default();
        join_all(unused.iter().map(|key| self.cert_manager.discard(domain, key))).await;
        Ok(changed)
    }

    /// Changes the ledger of a domain and writes it. On a conflict the change is repeated on the current version. If `change`
    /// returns `None`, nothing is written.
    async fn update<T>(
        &self,
        domain: Domain,
        signed_by: SignedBy,
        change: impl Fn(&mut OpenAuthority) -> Result<Option<T>, IssueError>,
    ) -> Result<Option<T>, IssueError> {
        let mut attempt = 1;
        loop {
            let mut authority = self.open(domain, signed_by).await?;
            let Some(result) = change(&mut authority)? else { return Ok(None) };
            match authority.write(&self.secrets, self.now).await {
                Ok(()) => return Ok(Some(result)),
                Err(IssueError::Write(WriteError::Conflict(_))) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

impl Signed {
    fn new(domain: Domain, signed_by: SignedBy, authority: Certificate) -> Self {
        Self { domain, by: signed_by, authority, leaves: BTreeMap::new(), held: BTreeMap::new() }
    }

    fn add(&mut self, id: LeafId, request: &LeafRequest, leaf: Leaf, answers: Option<RequestId>) {
        self.leaves.insert(id, SignedLeaf { issued: IssuedLeaf { request: request.clone(), leaf }, answers });
    }
}
