//! Issuers of cert-manager that do not sign as requested. The tests answer in place of cert-manager.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use etcd_warden::{
    api::EtcdCluster,
    issuing::cert_manager::CertificateRequest,
    names::{member_key, tls_key},
    pki::{Authority, Certificate},
};
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    namespace::{TestNamespace, until_ok},
    state::{bytes, certificate},
};

/// How an issuer treats requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// It signs as requested.
    Correct,
    /// An approver denies the requests.
    Denied,
    /// It does not answer.
    Silent,
    /// It signs with another authority than before.
    OtherAuthority,
    /// Its certificates have no names and addresses.
    WithoutNames,
    /// Its certificates are for e-mail only.
    OtherUsages,
    /// Its certificates are for servers and clients, whatever was requested, as those of Vault's default roles.
    AllUsages,
    /// Its certificates are valid for one day.
    ShortLifetime,
    /// Its certificates begin an hour before they are requested, as those of AWS Private CA.
    Backdated,
    /// It signs, probes too, with an authority that is for servers only.
    ServersOnly,
}

/// The issuers, and cert-manager, for one namespace. The issuer `other` has another authority than the rest.
pub struct Issuer<'a> {
    ns: &'a TestNamespace<'a>,
    authority: Authority,
    other: Authority,
    servers_only: Authority,
    /// Certificates that must never be used, in PEM.
    wrong: Mutex<Vec<String>>,
}

/// The name of an issuer with another authority.
pub const OTHER: &str = "other";

/// The spec of a cluster whose client certificates the issuer `company` signs.
pub fn spec() -> Value {
    spec_with("company")
}

/// The spec of a cluster whose client certificates an issuer signs.
pub fn spec_with(issuer: &str) -> Value {
    json!({ "replicas": 1, "tls": { "client": { "issuer": { "certManager": { "name": issuer } } } } })
}

impl<'a> Issuer<'a> {
    /// An issuer for a ns. The API server serves CertificateRequests from now on.
    pub async fn new(ns: &'a TestNamespace<'a>) -> Self {
        let schema = json!({ "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } });
        let version = json!({
            "name": "v1", "served": true, "storage": true, "schema": schema, "subresources": { "status": {} },
        });
        let names = json!({
            "kind": "CertificateRequest", "listKind": "CertificateRequestList",
            "plural": "certificaterequests", "singular": "certificaterequest",
        });
        let crd = json!({
            "metadata": {
                "name": "certificaterequests.cert-manager.io",
                "annotations": { "api-approved.kubernetes.io": "unapproved, a stand-in for tests" },
            },
            "spec": { "group": "cert-manager.io", "scope": "Namespaced", "names": names, "versions": [version] },
        });
        ns.server.apply_crd(&serde_json::from_value(crd).unwrap()).await;
        let authority = |name| Authority::create(name, SignedDuration::from_hours(50_000), Timestamp::now()).unwrap();
        let (servers_only, key) = foreign_authority(|params| {
            params.distinguished_name.push(DnType::CommonName, "servers only");
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let servers_only = Authority::load(servers_only.as_bytes(), key.as_bytes()).unwrap();
        Self { ns, authority: authority("company"), other: authority("other"), servers_only, wrong: Mutex::default() }
    }

    /// The existing requests, without probes.
    pub async fn requests(&self) -> BTreeMap<String, CertificateRequest> {
        let all = self.ns.api::<CertificateRequest>().list(&ListParams::default()).await.unwrap();
        all.into_iter().map(|request| (request.name_any(), request)).filter(|(name, _)| !is_probe(name)).collect()
    }

    /// Answers requests until `other` is done. Probes are answered correctly, except by [`Behavior::ServersOnly`].
    pub async fn during<T>(&self, behavior: Behavior, other: impl Future<Output = T>) -> T {
        let answering = async {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                for request in self.ns.api::<CertificateRequest>().list(&ListParams::default()).await.unwrap() {
                    let is_correct = is_probe(&request.name_any()) && behavior != Behavior::ServersOnly;
                    let behavior = if is_correct { Behavior::Correct } else { behavior };
                    if request.status.is_none() && behavior != Behavior::Silent {
                        self.answer(&request, behavior).await;
                    }
                }
            }
        };
        tokio::select! {
            result = other => result,
            () = answering => unreachable!("it runs forever"),
        }
    }

    async fn answer(&self, request: &CertificateRequest, behavior: Behavior) {
        let condition = |kind: &str, reason: &str, message: &str| json!([{ "type": kind, "status": "True", "reason": reason, "message": message }]);
        let status = if behavior == Behavior::Denied {
            json!({ "conditions": condition("Denied", "Policy", "not for etcd") })
        } else {
            let (leaf, authority) = self.sign(request, behavior);
            json!({
                "conditions": condition("Ready", "Issued", "signed"),
                "certificate": ByteString(leaf.into_bytes()), "ca": ByteString(authority.pem().into()),
            })
        };
        let (requests, patch) = (self.ns.api::<CertificateRequest>(), Patch::Merge(json!({ "status": status })));
        let answered = requests.patch_status(&request.name_any(), &PatchParams::default(), &patch).await;
        // The operator may have deleted the request.
        drop(answered);
    }

    fn sign(&self, request: &CertificateRequest, behavior: Behavior) -> (String, &Certificate) {
        let by = match behavior {
            Behavior::OtherAuthority => &self.other,
            Behavior::ServersOnly => &self.servers_only,
            _ if request.spec.issuer_ref.name == OTHER => &self.other,
            _ => &self.authority,
        };
        let mut asked = CertificateSigningRequestParams::from_pem(std::str::from_utf8(&request.spec.request.0).unwrap()).unwrap();
        let params = &mut asked.params;
        let life = request.spec.duration.as_deref().and_then(|text| text.strip_suffix('s')).unwrap().parse().unwrap();
        let life = if behavior == Behavior::ShortLifetime { 86_400 } else { life };
        let now = OffsetDateTime::from_unix_timestamp(Timestamp::now().as_second()).unwrap();
        let back = time::Duration::minutes(if behavior == Behavior::Backdated { 60 } else { 5 });
        (params.not_before, params.not_after) = (now - back, now + time::Duration::seconds(life));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let has = |usage: &str| request.spec.usages.iter().any(|other| other == usage);
        for (usage, purpose) in
            [("server auth", ExtendedKeyUsagePurpose::ServerAuth), ("client auth", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            params.extended_key_usages.push(match behavior {
                Behavior::OtherUsages => ExtendedKeyUsagePurpose::EmailProtection,
                Behavior::AllUsages => purpose,
                _ if has(usage) => purpose,
                _ => continue,
            });
        }
        let named = !params.subject_alt_names.is_empty();
        if behavior == Behavior::WithoutNames {
            params.subject_alt_names.clear();
        }
        let key = KeyPair::from_pem(std::str::from_utf8(by.key_pem()).unwrap()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_der(&by.certificate().der().into(), key).unwrap();
        let pem = asked.signed_by(&issuer).unwrap().pem();
        if matches!(behavior, Behavior::OtherAuthority | Behavior::OtherUsages) || behavior == Behavior::WithoutNames && named {
            self.must_not_be_used(pem.as_bytes());
        }
        (pem, by.certificate())
    }

    /// Remembers a certificate in PEM that must never be used, in the form in which the operator would write it.
    fn must_not_be_used(&self, pem: &[u8]) {
        let read = Certificate::from_pem(pem).unwrap();
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(read.pem().to_owned());
    }

    /// Checks that no wrong certificate is in a Secret. Returns how many were signed.
    async fn check_no_wrong_certificate_is_used(&self) -> usize {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for secret in self.ns.api::<Secret>().list(&ListParams::default()).await.unwrap() {
            for (key, ByteString(value)) in secret.data.iter().flatten() {
                let text = String::from_utf8_lossy(value);
                assert!(!wrong.iter().any(|pem| text.contains(pem)), "{}: {key}", secret.name_any());
            }
        }
        wrong.len()
    }
}

async fn no_member_has_an_incomplete_secret(ns: &TestNamespace<'_>) {
    assert!(ns.api::<Secret>().get_opt("demo-0-tls").await.unwrap().is_none());
}

fn is_probe(request: &str) -> bool {
    request.contains("-authority-")
}

/// A clock by which requests of now are old.
pub fn later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_certificates_of_an_issuer_are_never_used() {
    let cases = [
        (Behavior::Denied, "IssuerFailed", "Issuer company cannot be used: it refused CertificateRequest demo-client-ca-", 0),
        (Behavior::OtherAuthority, "IssuerCAChanged", "Issuer company signs with CA \"other\" now, which has to be trusted", 3),
        (Behavior::WithoutNames, "IssuerFailed", "the certificate that it signed is for other names or addresses", 1),
        (Behavior::OtherUsages, "IssuerFailed", "the certificate that it signed is for other uses: ", 3),
    ];
    join_all(cases.map(|(behavior, reason, message, wrong)| async move {
        let ns = TestNamespace::new("behavior").await;
        let issuer = Issuer::new(&ns).await;
        let operator = ns.operator();
        ns.cluster("demo", spec()).await;
        let names = async || issuer.requests().await.into_keys().collect::<BTreeSet<_>>();
        let asked = issuer
            .during(behavior, async {
                let condition = ns.reports("demo", "CertificatesReady", reason).await;
                assert!(condition.message.contains(message), "{behavior:?}: {}", condition.message);
                let asked = names().await;
                operator.wait_for_passes(3).await;
                asked
            })
            .await;
        assert!(issuer.check_no_wrong_certificate_is_used().await >= wrong, "{behavior:?}");
        no_member_has_an_incomplete_secret(&ns).await;
        let before = names().await;
        assert!(!before.is_empty() && before.is_subset(&asked), "{behavior:?}: no other requests are created");
        operator.stop().await;

        // After five minutes certificates are requested again with other keys, and the issuer has been repaired.
        let operator = ns.operator_with_clock(later);
        issuer.during(Behavior::Correct, ns.bootstrapped("demo")).await;
        assert!(names().await.is_disjoint(&before), "{behavior:?}");
        issuer.check_no_wrong_certificate_is_used().await;
        let secret = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
        for key in [member_key::SERVER_CRT, member_key::CLIENT_CRT] {
            assert!(certificate(&secret, key).is_signed_by(issuer.authority.certificate()), "{behavior:?}: {key}");
        }
        operator.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_someone_else_created_is_never_used() {
    let ns = TestNamespace::new("foreign").await;
    let issuer = Issuer::new(&ns).await;
    let requests = ns.api::<CertificateRequest>();
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    let probe = until_ok(async || {
        let all = requests.list(&ListParams::default()).await.unwrap();
        all.into_iter().find(|request| is_probe(&request.name_any())).ok_or("the issuer is not probed yet".to_owned())
    });
    let mut foreign = issuer.during(Behavior::Silent, probe).await;
    operator.kill().await;
    let name = foreign.name_any();
    requests.delete(&name, &DeleteParams::default()).await.unwrap();

    // It has the name of the probe, and is signed by the authority of another issuer.
    foreign.metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
    foreign.spec.issuer_ref.name = "theirs".into();
    foreign.status = None;
    let created = requests.create(&PostParams::default(), &foreign).await.unwrap();
    issuer.answer(&created, Behavior::OtherAuthority).await;
    let operator = ns.operator();
    let condition = ns.reports("demo", "CertificatesReady", "IssuerUnusable").await;
    let expected = format!("CertificateRequest {name} cannot be used: it was not created by etcd-warden. Delete it");
    assert!(condition.message.contains(&expected), "{}", condition.message);
    operator.wait_for_passes(3).await;
    assert!(ns.api::<Secret>().get_opt("demo-client-ca").await.unwrap().is_none(), "no CA is created");
    let unchanged = requests.get(&name).await.unwrap();
    assert_eq!((unchanged.uid(), unchanged.metadata.deletion_timestamp), (created.uid(), None), "it is not deleted either");

    // The same with the uid of the cluster as its owner: only the issuer tells it apart.
    operator.kill().await;
    requests.delete(&name, &DeleteParams::default()).await.unwrap();
    let cluster = ns.api::<EtcdCluster>().get("demo").await.unwrap();
    foreign.metadata.owner_references = Some(vec![cluster.controller_owner_ref(&()).unwrap()]);
    let created = requests.create(&PostParams::default(), &foreign).await.unwrap();
    issuer.answer(&created, Behavior::OtherAuthority).await;
    let operator = ns.operator();
    let expected =
        format!("CertificateRequest {name} cannot be used: it requests a certificate from Issuer.cert-manager.io theirs");
    until_ok(async || {
        let condition = ns.reports("demo", "CertificatesReady", "IssuerUnusable").await;
        if condition.message.contains(&expected) { Ok(()) } else { Err(condition.message) }
    })
    .await;
    assert!(ns.api::<Secret>().get_opt("demo-client-ca").await.unwrap().is_none(), "no CA is created");
    requests.delete(&name, &DeleteParams::default()).await.ok();
    issuer.during(Behavior::Correct, ns.bootstrapped("demo")).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_for_another_private_key_is_never_used() {
    let ns = TestNamespace::new("key").await;
    let issuer = Issuer::new(&ns).await;
    let requests = ns.api::<CertificateRequest>();
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    let asked = until_ok(async || {
        let requests = issuer.requests().await;
        (requests.len() == 3).then_some(requests).ok_or_else(|| "three are requested".to_owned())
    });
    let asked = issuer.during(Behavior::Silent, asked).await;
    operator.kill().await;

    // Owner, issuer, names and usages are those of the operator's request: only the private key is another one.
    let serves = |request: &&CertificateRequest| request.spec.usages.iter().any(|usage| usage == "server auth");
    let mut foreign = asked.values().find(serves).unwrap().clone();
    let name = foreign.name_any();
    requests.delete(&name, &DeleteParams::default()).await.unwrap();
    let of_operator = std::str::from_utf8(&foreign.spec.request.0).unwrap().to_owned();
    let of_operator = CertificateSigningRequestParams::from_pem(&of_operator).unwrap().params;
    let other = of_operator.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    foreign.spec.request = ByteString(other.pem().unwrap().into_bytes());
    foreign.metadata = ObjectMeta {
        name: Some(name.clone()),
        labels: foreign.metadata.labels.take(),
        owner_references: foreign.metadata.owner_references.take(),
        ..ObjectMeta::default()
    };
    foreign.status = None;
    let created = requests.create(&PostParams::default(), &foreign).await.unwrap();
    issuer.answer(&created, Behavior::Correct).await;
    let answered = requests.get(&name).await.unwrap();
    issuer.must_not_be_used(&answered.status.unwrap().certificate.unwrap().0);

    let operator = ns.operator();
    let expected =
        format!("CertificateRequest {name} cannot be used: it requests a certificate for another private key. Delete it");
    issuer
        .during(Behavior::Correct, async {
            let condition = ns.reports("demo", "Degraded", "NameTaken").await;
            assert!(condition.message.contains(&expected), "{}", condition.message);
            operator.wait_for_passes(3).await;
        })
        .await;
    assert_eq!(issuer.check_no_wrong_certificate_is_used().await, 1);
    no_member_has_an_incomplete_secret(&ns).await;
    let unchanged = requests.get(&name).await.unwrap();
    assert_eq!((unchanged.uid(), unchanged.metadata.deletion_timestamp), (created.uid(), None), "it is not deleted");

    requests.delete(&name, &DeleteParams::default()).await.unwrap();
    issuer.during(Behavior::Correct, ns.bootstrapped("demo")).await;
    assert_eq!(issuer.check_no_wrong_certificate_is_used().await, 1);
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_a_request_of_a_killed_operator_is_used() {
    let ns = TestNamespace::new("asked").await;
    let issuer = Issuer::new(&ns).await;
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    let asked = issuer
        .during(Behavior::Silent, async {
            until_ok(async || {
                let message = ns.reports("demo", "CertificatesReady", "WaitingForIssuer").await.message;
                let is_it = message.contains("waiting for Issuer company: no controller has processed CertificateRequest");
                let requests = issuer.requests().await;
                (is_it && requests.len() == 3).then_some(requests).ok_or_else(|| format!("three are requested: {message}"))
            })
            .await
        })
        .await;
    no_member_has_an_incomplete_secret(&ns).await;
    operator.kill().await;
    for request in asked.values() {
        issuer.answer(request, Behavior::Correct).await;
    }
    let answers: Vec<_> =
        issuer.requests().await.into_values().map(|request| request.status.unwrap().certificate.unwrap().0).collect();
    let operator = ns.operator();
    ns.bootstrapped("demo").await;
    let member = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    let own = ns.api::<Secret>().get("demo-operator-tls").await.unwrap();
    for (secret, key) in [(&member, member_key::SERVER_CRT), (&member, member_key::CLIENT_CRT), (&own, tls_key::CRT)] {
        let leaf = certificate(secret, key);
        let is_it = |answer: &Vec<u8>| Certificate::from_pem(answer).unwrap() == leaf;
        assert!(answers.iter().any(is_it), "{key}");
    }
    assert!(issuer.requests().await.is_empty(), "answered requests are deleted");
    let authority = ns.api::<Secret>().get("demo-client-ca").await.unwrap();
    assert!(!authority.data.unwrap().keys().any(|key| key.starts_with("pending")), "their keys are deleted");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_lifetime_than_requested_is_accepted() {
    let ns = TestNamespace::new("short").await;
    let issuer = Issuer::new(&ns).await;
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    issuer.during(Behavior::ShortLifetime, ns.bootstrapped("demo")).await;
    let secret = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    let leaf = certificate(&secret, member_key::SERVER_CRT);
    assert!(leaf.not_after() < Timestamp::now() + SignedDuration::from_hours(25));
    let message = ns.reports("demo", "CertificatesReady", "Confirming").await.message;
    assert!(message.contains("certificates of Issuer company are valid for 24 hours instead of the desired 2160"), "{message}");
    let taken = bytes(&secret, member_key::SERVER_CRT).to_vec();
    issuer.during(Behavior::ShortLifetime, operator.quiet(3)).await;
    let now = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    assert_eq!(bytes(&now, member_key::SERVER_CRT), taken, "it is not requested again");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_that_begin_before_they_are_requested_are_accepted() {
    let ns = TestNamespace::new("backdated").await;
    let issuer = Issuer::new(&ns).await;
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    issuer.during(Behavior::Backdated, ns.bootstrapped("demo")).await;
    let secret = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    let leaf = certificate(&secret, member_key::SERVER_CRT);
    assert!(leaf.not_before() < Timestamp::now() - SignedDuration::from_mins(59));
    let taken = bytes(&secret, member_key::SERVER_CRT).to_vec();
    issuer.during(Behavior::Backdated, operator.quiet(3)).await;
    let now = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    assert_eq!(bytes(&now, member_key::SERVER_CRT), taken, "it is not requested again");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_usages_than_requested_are_accepted() {
    let ns = TestNamespace::new("usages").await;
    let issuer = Issuer::new(&ns).await;
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    issuer.during(Behavior::AllUsages, ns.bootstrapped("demo")).await;
    let secret = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    for key in [member_key::SERVER_CRT, member_key::CLIENT_CRT] {
        let leaf = certificate(&secret, key);
        assert!(leaf.server_auth() && leaf.client_auth(), "{key}");
    }
    let taken = bytes(&secret, member_key::CLIENT_CRT).to_vec();
    issuer.during(Behavior::AllUsages, operator.quiet(3)).await;
    let now = ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    assert_eq!(bytes(&now, member_key::CLIENT_CRT), taken, "it is not requested again");
    operator.stop().await;
}

/// An authority as another program makes it, and its private key, in PEM.
fn foreign_authority(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    let now = OffsetDateTime::from_unix_timestamp(Timestamp::now().as_second()).unwrap();
    (params.not_before, params.not_after) = (now - time::Duration::days(1), now + time::Duration::days(3650));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// The contents of a Secret with an authority that may sign only for these names.
fn authority_for(names: &[&str]) -> Value {
    let (certificate, key) = foreign_authority(|params| {
        let permitted_subtrees = names.iter().map(|name| GeneralSubtree::DnsName((*name).into())).collect();
        params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    });
    json!({ "type": "kubernetes.io/tls", "stringData": { "tls.crt": certificate, "tls.key": key } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_etcd_would_refuse_is_never_trusted() {
    let ns = TestNamespace::new("refused").await;
    let issuer = Issuer::new(&ns).await;
    let operator = ns.operator();
    ns.cluster("demo", spec()).await;
    let refused = issuer.during(Behavior::ServersOnly, async {
        let condition = ns.reports("demo", "CertificatesReady", "IssuerUnusable").await;
        operator.wait_for_passes(3).await;
        condition
    });
    let message = refused.await.message;
    let expected = "etcd and clients in Go would refuse it: \"servers only\" has an extendedKeyUsage without clientAuth";
    assert!(message.contains(expected), "{message}");
    assert!(ns.api::<Secret>().get_opt("demo-client-ca").await.unwrap().is_none(), "no CA is created");
    assert!(issuer.requests().await.is_empty(), "no certificate is requested");
    no_member_has_an_incomplete_secret(&ns).await;

    // The issuer has another authority now. It is probed again at once if the request is deleted.
    let requests = ns.api::<CertificateRequest>();
    for request in requests.list(&ListParams::default()).await.unwrap() {
        requests.delete(&request.name_any(), &DeleteParams::default()).await.unwrap();
    }
    issuer.during(Behavior::Correct, ns.bootstrapped("demo")).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_may_not_sign_for_all_names_is_refused() {
    let ns = TestNamespace::new("names").await;
    let operator = ns.operator();
    ns.create::<Secret>("company", authority_for(&["svc"])).await.unwrap();
    let spec = json!({ "replicas": 1, "tls": { "client": { "issuer": { "caSecret": { "name": "company" } } } } });
    ns.cluster("demo", spec).await;
    let message = ns.reports("demo", "CertificatesReady", "IssuerUnusable").await.message;
    assert!(message.contains("may sign for DNS:svc only, and so not for DNS:demo"), "{message}");
    assert!(ns.api::<Secret>().get_opt("demo-client-ca").await.unwrap().is_none());

    ns.delete::<Secret>("company").await;
    // It may not sign for `localhost`, which is left out.
    ns.create::<Secret>("company", authority_for(&["svc", "cluster.local"])).await.unwrap();
    ns.bootstrapped("demo").await;
    let secret = async |name| ns.api::<Secret>().get(name).await.unwrap().data;
    let secrets = async || (secret("demo-client-ca").await, secret("demo-0-tls").await);
    let before = secrets().await;
    let clusters = ns.api::<EtcdCluster>();
    let ask = async |names: &[&str]| {
        let patch = json!({ "spec": { "tls": { "client": { "extraSANs": { "dnsNames": names } } } } });
        clusters.patch("demo", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    ask(&["etcd.example.com"]).await;
    let message = ns.reports("demo", "CertificatesReady", "IssuerFailed").await.message;
    assert!(message.contains("may sign for DNS:svc, DNS:cluster.local only, and so not for DNS:etcd.example.com"), "{message}");
    operator.wait_for_passes(3).await;
    assert_eq!(secrets().await, before, "no certificate is signed that would not be accepted");
    ask(&[]).await;
    ns.bootstrapped("demo").await;
    operator.stop().await;
}
