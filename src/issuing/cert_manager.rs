//! cert-manager's `CertificateRequests`: asking for a certificate and reading the answer.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use kube::{
    Api, CustomResource, ResourceExt,
    api::DeleteParams,
    core::{ObjectMeta, Status},
};
use serde::{Deserialize, Serialize};

use super::{Desk, IssueError};
use crate::{
    cluster::{
        build,
        observed::{NoOffer, Offered, fingerprint},
        plan::{Inquiry, inquiry},
        validate::ValidatedCluster,
    },
    k8s::{WriteError, post, reason},
    names::Names,
    pki::{self, Certificate, Domain, Issuer, LeafSpec, Offer, PrivateKey, Spread, Stale, Usage, stale},
};

/// What of a `CertificateRequest` matters here (cert-manager.io/v1).
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
    /// Who is to sign.
    pub issuer_ref: IssuerRef,
    /// The wanted life, as Go writes durations.
    pub duration: Option<String>,
    /// What it is to be for.
    #[serde(default)]
    pub usages: Vec<String>,
}

/// A reference to an issuer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IssuerRef {
    /// Its name.
    pub name: String,
    /// Its kind.
    #[serde(default)]
    pub kind: String,
    /// The API group of that.
    #[serde(default)]
    pub group: String,
}

/// What became of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRequestStatus {
    /// `Ready`, `Approved`, `Denied`, `InvalidRequest`. Here no field of theirs but these is read, and others may lack them.
    #[serde(default)]
    pub conditions: Vec<RequestCondition>,
    /// The leaf, and perhaps those above it, in PEM.
    pub certificate: Option<ByteString>,
    /// The authority, or the root, in PEM.
    pub ca: Option<ByteString>,
}

/// A condition of a request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RequestCondition {
    /// Which.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// In a word.
    #[serde(default)]
    pub reason: String,
    /// In words.
    #[serde(default)]
    pub message: String,
}

/// How long a request stands that came to nothing, before another one is made. Who has mended the issuer and does not want to wait
/// deletes it.
pub const RETRY: SignedDuration = SignedDuration::from_mins(5);

/// What came of a request.
pub enum Answer {
    /// It was signed: the certificates, and what is above them.
    Signed(Vec<u8>, Vec<u8>),
    /// It has not been answered.
    Awaited(String),
    /// It will not be signed.
    Refused(String),
}

impl CertificateRequest {
    /// What came of it.
    pub fn answer(&self) -> Answer {
        let status = self.status.clone().unwrap_or_default();
        let condition = |kind: &str| status.conditions.iter().find(|condition| condition.type_ == kind);
        let is_true = |kind| condition(kind).filter(|condition: &&RequestCondition| condition.status == "True");
        let since = self.creation_timestamp().map(|at| format!("since {:.0}", at.0)).unwrap_or_default();
        let name = self.name_any();
        if let Some(why) = is_true("Denied").or_else(|| is_true("InvalidRequest")) {
            return Answer::Refused(format!("it refused CertificateRequest {name}: {}", why.message));
        }
        match condition("Ready") {
            Some(ready) if ready.status == "True" => {
                let certificate = status.certificate.map(|bytes| bytes.0).unwrap_or_default();
                Answer::Signed(certificate, status.ca.map(|bytes| bytes.0).unwrap_or_default())
            }
            Some(ready) if ready.reason == "Failed" || ready.reason == "Denied" => {
                Answer::Refused(format!("it refused CertificateRequest {name}: {}", ready.message))
            }
            Some(ready) => Answer::Awaited(format!("CertificateRequest {name} waits {since}: {}", ready.message)),
            None => Answer::Awaited(format!("nobody has looked at CertificateRequest {name} {since}")),
        }
    }

    /// The life that was asked for.
    fn life(&self) -> SignedDuration {
        let seconds = self.spec.duration.as_deref().and_then(|text| text.strip_suffix('s')?.parse().ok());
        seconds.map_or(SignedDuration::MAX, SignedDuration::from_secs)
    }

    /// Whether it has been there for so long that another one may have another answer.
    pub fn is_old(&self, now: Timestamp) -> bool {
        self.creation_timestamp().is_none_or(|made| now.duration_since(made.0) >= RETRY)
    }
}

/// The leaf that was signed for a key, if it is what was asked for and of the authority `active`, and that one's certificate as the
/// issuer has it: it may have been renewed.
///
/// # Errors
/// What is wrong with it.
pub fn check(
    signed: (&[u8], &[u8]),
    key: &PrivateKey,
    spec: &LeafSpec,
    active: &Certificate,
    now: Timestamp,
) -> Result<(Certificate, Certificate), Wrong> {
    let wrong = |why: pki::PkiError| Wrong::Leaf(format!("its certificate cannot be used: {why}"));
    let (leaf, offer) = Offer::of_answer(signed.0, signed.1, now).map_err(wrong)?;
    match stale(Some(Ok(&leaf)), Some(key.public_digest()), spec, active, Spread::default(), now) {
        None => {}
        Some(Stale::WrongIssuer) => return Err(Wrong::Authority(offer.authority.common_name().to_owned())),
        Some(why) => return Err(Wrong::Leaf(format!("the certificate that it signed {why}"))),
    }
    pki::verify(&leaf, active, now).map_err(wrong)?;
    Ok((leaf, offer.authority))
}

/// What is wrong with a certificate.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is not what was asked for.
    Leaf(String),
    /// The authority of this name has signed it.
    Authority(String),
}

impl Desk<'_> {
    /// The requests of the cluster's namespace.
    pub(super) fn requests(&self) -> Api<CertificateRequest> {
        Api::namespaced(self.client.clone(), self.names.namespace())
    }

    /// The request of this name, which is made if it is not there.
    pub(super) async fn request(
        &self,
        name: &str,
        issuer: &Issuer,
        spec: &LeafSpec,
        key: &PrivateKey,
    ) -> Result<CertificateRequest, IssueError> {
        let refused = |error| WriteError::of(format!("CertificateRequest {name}"), error);
        if let Some(there) = find(&self.requests(), name).await.map_err(refused)? {
            return Ok(there);
        }
        let Issuer::CertManager { name: issuer, kind, group } = issuer else {
            return Err(IssueError::AuthorityChanged(name.to_owned()));
        };
        let request = spec.request(key).map_err(|source| IssueError::Pki { name: name.to_owned(), source })?;
        let mut usages = vec!["digital signature".to_owned()];
        usages.extend((spec.usage != Usage::Client).then(|| "server auth".to_owned()));
        usages.extend((spec.usage != Usage::Server).then(|| "client auth".to_owned()));
        let spec = CertificateRequestSpec {
            request: ByteString(request.into_bytes()),
            issuer_ref: IssuerRef { name: issuer.clone(), kind: kind.clone(), group: group.clone() },
            duration: Some(format!("{}s", spec.duration.as_secs())),
            usages,
        };
        let metadata = ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.names.namespace().to_owned()),
            labels: Some(build::selector(self.names.cluster())),
            owner_references: Some(vec![self.owner.clone()]),
            ..ObjectMeta::default()
        };
        match self.requests().create(&post(), &CertificateRequest { metadata, spec, status: None }).await {
            Ok(made) => Ok(made),
            Err(kube::Error::Api(status)) if is_unknown_kind(&status) => Err(IssueError::NoCertManager),
            Err(error) => Err(refused(error).into()),
        }
    }

    /// Deletes a request. That it stays is no harm.
    pub(super) async fn delete_request(&self, name: &str) {
        if let Err(error) = self.requests().delete(name, &DeleteParams::default()).await {
            tracing::debug!(name, error = reason(&error), "a CertificateRequest was not deleted");
        }
    }

    /// Asks the issuer of a cluster by which authority it signs, for a certificate of this life, or forgets what it said.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn inquire(&self, cluster: &ValidatedCluster, inquired: Inquiry, life: SignedDuration) -> Result<(), IssueError> {
        match inquired {
            Inquiry::Ask(domain) => {
                let issuer = cluster.issuer(domain);
                let name = inquiry_name(self.names, domain, issuer);
                // Nobody will ever show it, so the key is not kept.
                let key = PrivateKey::generate().map_err(|source| IssueError::Pki { name: name.clone(), source })?;
                self.request(&name, issuer, &inquiry(cluster, domain, life), &key).await.map(drop)
            }
            Inquiry::Forget(domain) => {
                self.delete_request(&inquiry_name(self.names, domain, cluster.issuer(domain))).await;
                Ok(())
            }
        }
    }
}

/// The request of this name, if it is there.
async fn find(requests: &Api<CertificateRequest>, name: &str) -> Result<Option<CertificateRequest>, kube::Error> {
    match requests.get_opt(name).await {
        Err(kube::Error::Api(status)) if is_unknown_kind(&status) => Ok(None),
        other => other,
    }
}

/// Whether it is the kind that the API server does not know. An object that is not there is no answer to a request to make one.
fn is_unknown_kind(status: &Status) -> bool {
    status.code == 404 && !status.message.contains("namespaces")
}

/// The name of the request by which an issuer is asked for its authority.
fn inquiry_name(names: &Names, domain: Domain, issuer: &Issuer) -> String {
    let digest = fingerprint([("issuer", format!("{issuer:?}").as_bytes())].into_iter());
    format!("{}-authority-{}", names.authority(domain), &digest[..8])
}

/// The name of the request for a leaf with this key.
pub(super) fn request_name(names: &Names, domain: Domain, key: &PrivateKey) -> String {
    format!("{}-{}", names.authority(domain), &key.public_digest().to_hex()[..16])
}

/// What the issuer of a cluster has said of its authority, if it has been asked.
pub async fn find_offer(
    requests: &Api<CertificateRequest>,
    cluster: &ValidatedCluster,
    domain: Domain,
    now: Timestamp,
) -> Option<Offered> {
    let there = match find(requests, &inquiry_name(&cluster.names, domain, cluster.issuer(domain))).await {
        Ok(there) => there?,
        Err(error) => return Some(Offered { asked: None, answer: Err(NoOffer::Unusable(reason(&error))) }),
    };
    let answer = match there.answer() {
        Answer::Awaited(why) => Err(NoOffer::Awaited(why)),
        Answer::Refused(why) => Err(NoOffer::Unusable(why)),
        Answer::Signed(certificates, above) => {
            judge(&certificates, &above, &inquiry(cluster, domain, there.life()), now).map_err(NoOffer::Unusable)
        }
    };
    Some(Offered { asked: Some(there.creation_timestamp().map_or(now, |at| at.0)), answer })
}

/// The authority behind an answer to an inquiry, if it signs what it is asked for.
fn judge(certificates: &[u8], above: &[u8], spec: &LeafSpec, now: Timestamp) -> Result<Offer, String> {
    let (leaf, offer) = Offer::of_answer(certificates, above, now).map_err(|e| format!("its answer cannot be used: {e}"))?;
    match stale(Some(Ok(&leaf)), Some(leaf.key_digest()), spec, &offer.authority, Spread::default(), now) {
        // It stays for as long as its inquiry does.
        None | Some(Stale::Due) => {}
        Some(Stale::WrongIssuer) if leaf.authority_key_id().is_none() => {
            return Err("the certificate that it signed has no authority key identifier".into());
        }
        Some(why) => return Err(format!("the certificate that it signed {why}")),
    }
    pki::verify(&leaf, &offer.authority, now).map_err(|e| e.to_string())?;
    Ok(offer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::fixtures::World,
        pki::{Authority, bundle},
    };

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn spec() -> LeafSpec {
        LeafSpec { usage: Usage::Both, ..inquiry(&World::new("{}").valid(), Domain::Client, SignedDuration::from_hours(2160)) }
    }

    fn authority(name: &str) -> Authority {
        Authority::create(name, SignedDuration::from_hours(50_000), now()).unwrap()
    }

    /// What a request says of itself.
    fn request(conditions: &str, more: &str) -> CertificateRequest {
        let text = format!(
            "{{apiVersion: cert-manager.io/v1, kind: CertificateRequest, metadata: {{name: one, creationTimestamp: '2026-03-01T12:00:00Z'}}, \
             spec: {{request: '', issuerRef: {{name: pki}}}}, status: {{conditions: [{conditions}]{more}}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    #[test]
    fn an_issuer_that_signs_something_else_is_found_out() {
        let (active, other) = (authority("active"), authority("other"));
        let judge = |by: &Authority, signed: &LeafSpec| {
            let leaf = by.issue(signed, now()).unwrap();
            let certificates = bundle([&leaf.certificate]);
            let above = bundle([by.certificate()]);
            check((certificates.as_bytes(), above.as_bytes()), &leaf.key, &spec(), active.certificate(), now()).map(drop)
        };
        assert_eq!(judge(&active, &spec()), Ok(()));
        // It is taken, and renewed sooner.
        assert_eq!(judge(&active, &LeafSpec { duration: SignedDuration::from_hours(24), ..spec() }), Ok(()));
        assert_eq!(judge(&other, &spec()), Err(Wrong::Authority("other".into())));
        for (signed, why) in [
            (LeafSpec { dns_names: [].into(), ..spec() }, "is for other names or addresses"),
            (LeafSpec { ip_addresses: [].into(), ..spec() }, "is for other names or addresses"),
            (LeafSpec { usage: Usage::Client, ..spec() }, "is for other uses"),
            (LeafSpec { common_name: "else".into(), ..spec() }, "has another common name"),
            (LeafSpec { duration: SignedDuration::from_hours(8760), ..spec() }, "is valid for longer than wanted"),
        ] {
            let Err(Wrong::Leaf(problem)) = judge(&active, &signed) else { panic!("{why}") };
            assert!(problem.contains(why), "{problem}");
        }
        let leaf = active.issue(&spec(), now()).unwrap();
        let (certificates, above) = (bundle([&leaf.certificate]), bundle([active.certificate()]));
        let stranger = PrivateKey::generate().unwrap();
        let checked = check((certificates.as_bytes(), above.as_bytes()), &stranger, &spec(), active.certificate(), now());
        let Err(Wrong::Leaf(problem)) = checked else { panic!() };
        assert!(problem.contains("has no private key that fits"), "{problem}");
        let Err(Wrong::Leaf(_)) = check((b"", b""), &leaf.key, &spec(), active.certificate(), now()) else { panic!() };
    }

    #[test]
    fn answers_are_read() {
        let said = |conditions: &str, more: &str| match request(conditions, more).answer() {
            Answer::Signed(certificate, ca) => {
                format!("signed {} {}", String::from_utf8(certificate).unwrap(), String::from_utf8(ca).unwrap())
            }
            Answer::Awaited(why) => format!("awaited {why}"),
            Answer::Refused(why) => format!("refused {why}"),
        };
        assert!(said("", "").starts_with("awaited nobody has looked at CertificateRequest one since 2026-03-01T12:00:00Z"));
        let pending = "{type: Ready, status: 'False', reason: Pending, message: there is no issuer}";
        assert!(said(pending, "").contains("waits since 2026-03-01T12:00:00Z: there is no issuer"));
        let approved = "{type: Approved, status: 'True', reason: any, message: any}";
        let ready = "{type: Ready, status: 'True', reason: Issued, message: any}";
        assert_eq!(said(&format!("{approved}, {ready}"), ", certificate: bGVhZg==, ca: Y2E="), "signed leaf ca");
        for refused in [
            "{type: Denied, status: 'True', reason: any, message: not here}",
            "{type: InvalidRequest, status: 'True', reason: any, message: not here}",
            "{type: Ready, status: 'False', reason: Failed, message: not here}",
            "{type: Ready, status: 'False', reason: Denied, message: not here}",
        ] {
            assert_eq!(said(refused, ""), "refused it refused CertificateRequest one: not here", "{refused}");
        }
        assert!(!request("", "").is_old(now() + RETRY / 2));
        assert!(request("", "").is_old(now() + RETRY));
    }

    #[test]
    fn an_inquiry_tells_whose_authority_it_is() {
        let (issuer, alone) = (authority("issuer"), spec());
        let leaf = issuer.issue(&alone, now()).unwrap();
        let (certificates, above) = (bundle([&leaf.certificate]), bundle([issuer.certificate()]));
        let offer = judge(certificates.as_bytes(), above.as_bytes(), &alone, now()).unwrap();
        assert_eq!(offer.authority, *issuer.certificate());
        // cert-manager's self-signed issuer answers with the leaf as its own authority.
        assert!(judge(certificates.as_bytes(), certificates.as_bytes(), &alone, now()).is_err());
        let names = Names::new(&"n".repeat(49), "ns", "cluster.local");
        let issuer = Issuer::CertManager { name: "pki".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
        let key = PrivateKey::generate().unwrap();
        // Kubernetes allows for more, cert-manager makes labels of names.
        assert!(
            inquiry_name(&names, Domain::Client, &issuer).len() <= 253 && request_name(&names, Domain::Client, &key).len() <= 253
        );
    }
}
