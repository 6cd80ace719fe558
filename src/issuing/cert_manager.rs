//! cert-manager's `CertificateRequests`: requesting a certificate and reading the answer.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client, CustomResource, ResourceExt,
    api::{DeleteParams, Preconditions},
    core::Status,
};
use serde::{Deserialize, Serialize};

use super::{error::IssueError, recipient::Recipient};
use crate::{
    certificates::{
        issuers::{IssuerAnswer, IssuerProblem},
        probes::ProbeSpec,
    },
    digest::fingerprint,
    kubernetes::{
        apply::post,
        error::{WriteError, reason},
        ownership::{describe_owner, is_controlled_by},
    },
    names::Names,
    pki::{
        self, Certificate, Domain, ExternalAuthority, Issuer, KeyDigest, LeafSpec, PkiError, PrivateKey, ReissueReason,
        RenewalJitter, Usage, digest_of_request, reissue_reason,
    },
};

/// The fields of a `CertificateRequest` that matter here (cert-manager.io/v1).
#[derive(CustomResource, Clone, Debug, Serialize, Deserialize)]
#[kube(
    group = "cert-manager.io",
    version = "v1",
    kind = "CertificateRequest",
    namespaced,
    status = "CertificateRequestStatus",
    schema = "disabled"
)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRequestSpec {
    /// PKCS#10 in PEM.
    pub request: ByteString,
    /// The issuer that has to sign.
    pub issuer_ref: IssuerRef,
    /// The desired lifetime, in Go's notation.
    pub duration: Option<String>,
    /// The key usages.
    #[serde(default)]
    pub usages: Vec<String>,
}

/// A reference to an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRef {
    /// Its name.
    pub name: String,
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// The API group of the kind.
    #[serde(default)]
    pub group: String,
}

/// The state of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRequestStatus {
    /// `Ready`, `Approved`, `Denied`, `InvalidRequest`. No other fields of conditions are read, and other controllers may omit them.
    #[serde(default)]
    pub conditions: Vec<RequestCondition>,
    /// The leaf, which intermediate certificates may follow, in PEM.
    pub certificate: Option<ByteString>,
    /// The authority, or the root, in PEM.
    pub ca: Option<ByteString>,
}

/// A condition of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RequestCondition {
    /// Its type.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The reason.
    #[serde(default)]
    pub reason: String,
    /// The message.
    #[serde(default)]
    pub message: String,
}

/// How long a request that was not fulfilled is kept before it is replaced by another one. A user who has repaired the issuer can
/// delete it to try again at once.
pub const RETRY: SignedDuration = SignedDuration::from_mins(5);

/// The state of a request.
pub enum RequestState {
    /// It was signed.
    Signed(SignedAnswer),
    /// It has not been answered yet.
    Pending(String),
    /// It will not be signed.
    Refused(String),
}

/// The answer of an issuer to a request that it signed, in PEM.
#[derive(Default)]
pub struct SignedAnswer {
    /// The leaf, which intermediate certificates may follow.
    pub certificates: Vec<u8>,
    /// The authority, or the root.
    pub ca: Vec<u8>,
}

/// What identifies a request: another one of its name has another uid.
pub struct RequestId {
    name: String,
    uid: Option<String>,
}

/// The kind and name of a request.
fn describe(name: &str) -> String {
    format!("CertificateRequest {name}")
}

impl IssuerRef {
    /// The reference to an issuer of cert-manager.
    fn of(issuer: &Issuer) -> Option<Self> {
        match issuer {
            Issuer::CertManager { name, kind, group } => {
                Some(Self { name: name.clone(), kind: kind.clone(), group: group.clone() })
            }
            Issuer::BuiltIn | Issuer::CaSecret { .. } => None,
        }
    }
}

/// The key usages of a leaf in cert-manager's words.
fn usages(usage: Usage) -> Vec<String> {
    let mut usages = vec!["digital signature".to_owned()];
    usages.extend((usage != Usage::Client).then(|| "server auth".to_owned()));
    usages.extend((usage != Usage::Server).then(|| "client auth".to_owned()));
    usages
}

impl CertificateRequest {
    /// Its state.
    pub fn state(&self) -> RequestState {
        let status = self.status.clone().unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
        let is_true = |kind| condition(kind).filter(|condition: &&RequestCondition| condition.status == "True");
        let since = self.creation_timestamp().map(|at| format!(" since {:.0}", at.0)).unwrap_or_default();
        let name = self.name_any();
        if let Some(why) = is_true("Denied").or_else(|| is_true("InvalidRequest")) {
            return RequestState::Refused(format!("it refused CertificateRequest {name}: {}", why.message));
        }
        match condition("Ready") {
            Some(ready) if ready.status == "True" => RequestState::Signed(SignedAnswer {
                certificates: status.certificate.map(|bytes| bytes.0).unwrap_or_default(),
                ca: status.ca.map(|bytes| bytes.0).unwrap_or_default(),
            }),
            Some(ready) if ready.reason == "Failed" || ready.reason == "Denied" => {
                RequestState::Refused(format!("it refused CertificateRequest {name}: {}", ready.message))
            }
            Some(ready) => RequestState::Pending(format!("CertificateRequest {name} is pending{since}: {}", ready.message)),
            None => RequestState::Pending(format!("no controller has processed CertificateRequest {name}{since}")),
        }
    }

    /// What is different if this owner does not control the request, or it does not request what the owner would request: from this
    /// issuer, for these usages and, if it is known, this private key.
    fn difference(&self, owner: &OwnerReference, issuer: &Issuer, usage: Usage, key: Option<KeyDigest>) -> Option<String> {
        let IssuerRef { name, kind, group } = &self.spec.issuer_ref;
        if !is_controlled_by(&self.metadata, &owner.uid) {
            Some(describe_owner(&self.metadata))
        } else if IssuerRef::of(issuer).as_ref() != Some(&self.spec.issuer_ref) {
            Some(format!("it requests a certificate from {kind}.{group} {name} instead of {issuer}"))
        } else if self.spec.usages != usages(usage) {
            Some(format!("it requests the usages {}", self.spec.usages.join(", ")))
        } else if key.is_some_and(|key| !self.is_for(key)) {
            Some("it requests a certificate for another private key".to_owned())
        } else {
            None
        }
    }

    fn is_for(&self, key: KeyDigest) -> bool {
        digest_of_request(&self.spec.request.0) == Some(key)
    }

    /// Checks that nothing is different. Every user that may create requests in the namespace can create one of this name.
    ///
    /// # Errors
    /// [`WriteError::Foreign`] with what is different.
    fn check_own(&self, owner: &OwnerReference, issuer: &Issuer, usage: Usage, key: Option<KeyDigest>) -> Result<(), WriteError> {
        let foreign = |why| WriteError::Foreign { object: describe(&self.name_any()), owner: format!("{why}. Delete it") };
        self.difference(owner, issuer, usage, key).map_or(Ok(()), |why| Err(foreign(why)))
    }

    /// What is different in a request that this owner has created with this private key. It is outdated then: the issuer has been changed
    /// since.
    ///
    /// # Errors
    /// [`WriteError::Foreign`] if someone else has created it.
    fn why_outdated(
        &self,
        owner: &OwnerReference,
        issuer: &Issuer,
        usage: Usage,
        key: KeyDigest,
    ) -> Result<Option<String>, WriteError> {
        if is_controlled_by(&self.metadata, &owner.uid) && self.is_for(key) {
            return Ok(self.difference(owner, issuer, usage, Some(key)));
        }
        self.check_own(owner, issuer, usage, Some(key)).map(|()| None)
    }

    /// The state of a request that is outdated for this reason: whatever its answer is, another request takes its place.
    pub fn replaced_state(&self, why: &str) -> RequestState {
        let (name, minutes) = (describe(&self.name_any()), RETRY.as_mins());
        RequestState::Pending(format!(
            "{name} is outdated: {why}. It is replaced {minutes} minutes after its creation, or at once if it is deleted"
        ))
    }

    /// What identifies it.
    pub fn id(&self) -> RequestId {
        RequestId { name: self.name_any(), uid: self.uid() }
    }

    /// The requested lifetime.
    fn lifetime(&self) -> SignedDuration {
        let seconds = self.spec.duration.as_deref().and_then(|text| text.strip_suffix('s')?.parse().ok());
        seconds.map_or(SignedDuration::MAX, SignedDuration::from_secs)
    }

    /// Whether it has existed for so long that another one may be answered differently.
    pub fn is_old(&self, now: Timestamp) -> bool {
        self.creation_timestamp().is_none_or(|created| now.duration_since(created.0) >= RETRY)
    }
}

/// The request for a leaf.
pub struct Requested {
    /// The request.
    pub request: CertificateRequest,
    /// Why it is not the one that would be created now, if it is outdated.
    pub outdated: Option<String>,
}

/// What is wrong with a certificate that an issuer signed.
#[derive(Debug, PartialEq, Eq)]
pub enum Invalid {
    /// It is not what was requested.
    Leaf(String),
    /// It was signed by another authority, which has this name.
    Authority(String),
}

/// The leaf that was signed for a private key, if it is what was requested and signed by the authority `active`; and the issuer's
/// current certificate of that authority, which may have been renewed.
///
/// # Errors
/// What is wrong with it.
pub fn check_leaf(
    answer: &SignedAnswer,
    key: &PrivateKey,
    spec: &LeafSpec,
    active: &Certificate,
    now: Timestamp,
) -> Result<(Certificate, Certificate), Invalid> {
    let unusable = |why: PkiError| Invalid::Leaf(format!("its certificate cannot be used: {why}"));
    let (leaf, external) = ExternalAuthority::of_answer(&answer.certificates, &answer.ca, now).map_err(unusable)?;
    match reissue_reason(Some(Ok(&leaf)), Some(key.public_digest()), spec, active, true, RenewalJitter::default(), now) {
        None => {}
        Some(ReissueReason::WrongIssuer) => return Err(Invalid::Authority(external.authority.common_name().to_owned())),
        Some(why) => return Err(Invalid::Leaf(format!("the certificate that it signed {why}"))),
    }
    pki::verify(&leaf, active, now).map_err(unusable)?;
    Ok((leaf, external.authority))
}

/// The authority that signed the answer to a probe, if it signed what was requested.
fn check_probe(answer: &SignedAnswer, domain: Domain, spec: &LeafSpec, now: Timestamp) -> Result<ExternalAuthority, String> {
    let answered = ExternalAuthority::of_answer(&answer.certificates, &answer.ca, now);
    let (leaf, external) = answered.map_err(|e| format!("its answer cannot be used: {e}"))?;
    let (key, jitter) = (Some(leaf.key_digest()), RenewalJitter::default());
    match reissue_reason(Some(Ok(&leaf)), key, spec, &external.authority, true, jitter, now) {
        // The answer is kept as long as its request exists.
        None | Some(ReissueReason::Due) => {}
        Some(ReissueReason::WrongIssuer) if leaf.authority_key_id().is_none() => {
            return Err("the certificate that it signed has no authority key identifier".into());
        }
        Some(why) => return Err(format!("the certificate that it signed {why}")),
    }
    let permitted = spec.within(external.path());
    external.check(domain, &permitted).map_err(|e| e.to_string())?;
    // A member's certificate does not have the names that the authority may not sign for, so this one alone is not acceptable.
    if permitted == *spec {
        pki::verify(&leaf, &external.authority, now).map_err(|e| e.to_string())?;
    }
    Ok(external)
}

/// Requests certificates from cert-manager.
pub struct CertManager<'a> {
    requests: Api<CertificateRequest>,
    recipient: &'a Recipient<'a>,
}

impl<'a> CertManager<'a> {
    /// A client that requests certificates for this recipient.
    pub fn new(client: &Client, recipient: &'a Recipient<'a>) -> Self {
        Self { requests: Api::namespaced(client.clone(), recipient.names.namespace()), recipient }
    }

    /// The request for a leaf with this private key, which is created if it does not exist. One of a previous issuer is outdated.
    ///
    /// # Errors
    /// [`IssueError::NoCertManager`] if cert-manager is not installed, [`WriteError::Foreign`] if there is another request of this name.
    pub async fn request(&self, name: &str, issuer: &Issuer, spec: &LeafSpec, key: &PrivateKey) -> Result<Requested, IssueError> {
        let owner = self.recipient.owner;
        let Some(request) = self.find(name).await? else {
            return Ok(Requested { request: self.create(name, owner, issuer, spec, key).await?, outdated: None });
        };
        let outdated = request.why_outdated(owner, issuer, spec.usage, key.public_digest())?;
        Ok(Requested { request, outdated })
    }

    async fn find(&self, name: &str) -> Result<Option<CertificateRequest>, WriteError> {
        find(&self.requests, name).await.map_err(|error| WriteError::of(describe(name), error))
    }

    async fn create(
        &self,
        name: &str,
        owner: &OwnerReference,
        issuer: &Issuer,
        spec: &LeafSpec,
        key: &PrivateKey,
    ) -> Result<CertificateRequest, IssueError> {
        let Some(issuer_ref) = IssuerRef::of(issuer) else {
            return Err(IssueError::AuthorityChanged(name.to_owned()));
        };
        let request = spec.request(key).map_err(|source| IssueError::Pki { name: name.to_owned(), source })?;
        let spec = CertificateRequestSpec {
            request: ByteString(request.into_bytes()),
            issuer_ref,
            duration: Some(format!("{}s", spec.duration.as_secs())),
            usages: usages(spec.usage),
        };
        let metadata = ObjectMeta {
            owner_references: Some(vec![owner.clone()]),
            ..self.recipient.metadata(name, self.recipient.labels.clone())
        };
        match self.requests.create(&post(), &CertificateRequest { metadata, spec, status: None }).await {
            Ok(created) => Ok(created),
            Err(kube::Error::Api(status)) if is_unknown_kind(&status) => Err(IssueError::NoCertManager),
            Err(error) => Err(WriteError::of(describe(name), error).into()),
        }
    }

    /// Deletes a request. A failure is harmless and only logged.
    pub async fn delete(&self, RequestId { name, uid }: &RequestId) {
        let preconditions = Preconditions { uid: uid.clone(), resource_version: None };
        let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        if let Err(error) = self.requests.delete(name, &parameters).await {
            tracing::debug!(name, error = reason(&error), "a CertificateRequest was not deleted");
        }
    }

    /// Requests a certificate that reveals the authority of an issuer.
    ///
    /// # Errors
    /// If the request cannot be created.
    pub async fn probe(&self, domain: Domain, probe: &ProbeSpec) -> Result<(), IssueError> {
        let name = probe_name(self.recipient.names, domain, &probe.issuer);
        if let Some(existing) = self.find(&name).await? {
            return Ok(existing.check_own(&probe.owner, &probe.issuer, probe.leaf.usage, None)?);
        }
        // The certificate will never be presented, so its private key is not kept.
        let key = PrivateKey::generate().map_err(|source| IssueError::Pki { name: name.clone(), source })?;
        self.create(&name, &probe.owner, &probe.issuer, &probe.leaf, &key).await.map(drop)
    }

    /// Removes a probe and its answer. A failure is harmless and only logged.
    pub async fn discard_probe(&self, domain: Domain, probe: &ProbeSpec) {
        let is_own = |request: &CertificateRequest| is_controlled_by(&request.metadata, &probe.owner.uid);
        self.discard_if(&probe_name(self.recipient.names, domain, &probe.issuer), is_own).await;
    }

    /// Removes the request for a leaf with this private key, if there is one. Its owner may be another than the recipient: a user's pass
    /// creates it, and a cluster's pass removes it once the user does not exist. A failure is harmless and only logged.
    pub async fn discard(&self, domain: Domain, key: &PrivateKey) {
        let is_own = |request: &CertificateRequest| request.is_for(key.public_digest());
        self.discard_if(&request_name(self.recipient.names, domain, key), is_own).await;
    }

    async fn discard_if(&self, name: &str, is_own: impl Fn(&CertificateRequest) -> bool) {
        match self.find(name).await {
            Ok(Some(existing)) if is_own(&existing) => self.delete(&existing.id()).await,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "a CertificateRequest was not discarded"),
        }
    }
}

/// The request of this name, if it exists.
async fn find(requests: &Api<CertificateRequest>, name: &str) -> Result<Option<CertificateRequest>, kube::Error> {
    match requests.get_opt(name).await {
        Err(kube::Error::Api(status)) if is_unknown_kind(&status) => Ok(None),
        other => other,
    }
}

/// Whether the API server does not know the kind. The creation of an object fails with 404 only for that reason, or if the
/// namespace does not exist.
fn is_unknown_kind(status: &Status) -> bool {
    status.code == 404 && status.details.as_ref().is_none_or(|details| details.kind != "namespaces")
}

/// The name of the request that reveals the authority of an issuer.
fn probe_name(names: &Names, domain: Domain, issuer: &Issuer) -> String {
    let digest = fingerprint([("issuer", issuer_text(issuer).as_bytes())].into_iter());
    format!("{}-authority-{}", names.authority(domain), &digest[..8])
}

/// The text of an issuer. Names of probes contain a digest of it and are persisted, so the text must never change. No name of an object,
/// kind or group has a character that would have to be escaped.
fn issuer_text(issuer: &Issuer) -> String {
    match issuer {
        Issuer::BuiltIn => "BuiltIn".to_owned(),
        Issuer::CaSecret { name } => format!("CaSecret {{ name: \"{name}\" }}"),
        Issuer::CertManager { name, kind, group } => {
            format!("CertManager {{ name: \"{name}\", kind: \"{kind}\", group: \"{group}\" }}")
        }
    }
}

/// The name of the request for a leaf with this private key.
pub fn request_name(names: &Names, domain: Domain, key: &PrivateKey) -> String {
    format!("{}-{}", names.authority(domain), &key.public_digest().to_hex()[..16])
}

/// What the answer to a probe says about the authority of a cert-manager issuer, if the issuer was probed.
pub async fn issuer_answer(
    client: &Client,
    names: &Names,
    domain: Domain,
    probe: &ProbeSpec,
    now: Timestamp,
) -> Option<IssuerAnswer> {
    let requests = Api::namespaced(client.clone(), names.namespace());
    let request = match find(&requests, &probe_name(names, domain, &probe.issuer)).await {
        Ok(request) => request?,
        Err(error) => {
            return Some(IssuerAnswer { requested_at: None, authority: Err(IssuerProblem::Unusable(reason(&error))) });
        }
    };
    if let Err(foreign) = request.check_own(&probe.owner, &probe.issuer, probe.leaf.usage, None) {
        return Some(IssuerAnswer { requested_at: None, authority: Err(IssuerProblem::Unusable(foreign.to_string())) });
    }
    let authority = match request.state() {
        RequestState::Pending(why) => Err(IssuerProblem::Pending(why)),
        RequestState::Refused(why) => Err(IssuerProblem::Unusable(why)),
        RequestState::Signed(answer) => {
            let spec = LeafSpec { duration: request.lifetime(), ..probe.leaf.clone() };
            check_probe(&answer, domain, &spec, now).map_err(IssuerProblem::Unusable)
        }
    };
    Some(IssuerAnswer { requested_at: Some(request.creation_timestamp().map_or(now, |at| at.0)), authority })
}

#[cfg(test)]
#[path = "cert_manager_tests.rs"]
mod tests;
