//! Issuers of cert-manager's that do not do what they are asked for. The tests answer in its place.

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
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    state::{bytes, certificate},
    world::{World, until_ok},
};

/// How an issuer treats requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It does as it is asked.
    Right,
    /// Somebody who is to approve of requests denies them.
    Denied,
    /// It says nothing.
    Silent,
    /// It signs by another authority than before.
    OtherAuthority,
    /// It leaves out names and addresses.
    Nameless,
    /// It leaves out what the certificate is for.
    Useless,
    /// It gives a day and no more.
    Short,
}

/// An issuer, and cert-manager, for one namespace.
pub struct Issuer<'a> {
    world: &'a World<'a>,
    authority: Authority,
    other: Authority,
    /// What must never be handed out, in PEM.
    wrong: Mutex<Vec<String>>,
}

/// The spec of a cluster whose clients' certificates this issuer signs.
pub fn spec() -> Value {
    json!({ "replicas": 1, "tls": { "client": { "issuer": { "certManager": { "name": "company" } } } } })
}

impl<'a> Issuer<'a> {
    /// One for a world, where the API server knows of cert-manager's requests from now on.
    pub async fn new(world: &'a World<'a>) -> Self {
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
        world.server.apply_crd(&serde_json::from_value(crd).unwrap()).await;
        let authority = |name| Authority::create(name, SignedDuration::from_hours(50_000), Timestamp::now()).unwrap();
        Self { world, authority: authority("company"), other: authority("other"), wrong: Mutex::default() }
    }

    /// The requests that there are, without those by which the operator asks for the authority.
    async fn requests(&self) -> BTreeMap<String, CertificateRequest> {
        let all = self.world.api::<CertificateRequest>().list(&ListParams::default()).await.unwrap();
        all.into_iter().map(|request| (request.name_any(), request)).filter(|(name, _)| !is_inquiry(name)).collect()
    }

    /// Has requests answered while something else goes on. Who asks for the authority gets it.
    pub async fn during<T>(&self, manner: Manner, other: impl Future<Output = T>) -> T {
        let answering = async {
            let mut tick = tokio::time::interval(Duration::from_millis(100));
            loop {
                tick.tick().await;
                for request in self.world.api::<CertificateRequest>().list(&ListParams::default()).await.unwrap() {
                    let manner = if is_inquiry(&request.name_any()) { Manner::Right } else { manner };
                    if request.status.is_none() && manner != Manner::Silent {
                        self.answer(&request, manner).await;
                    }
                }
            }
        };
        tokio::select! {
            result = other => result,
            () = answering => unreachable!("it never ends"),
        }
    }

    async fn answer(&self, request: &CertificateRequest, manner: Manner) {
        let condition = |kind: &str, reason: &str, message: &str| json!([{ "type": kind, "status": "True", "reason": reason, "message": message }]);
        let status = if manner == Manner::Denied {
            json!({ "conditions": condition("Denied", "Policy", "not for etcd") })
        } else {
            let (leaf, authority) = self.sign(request, manner);
            json!({
                "conditions": condition("Ready", "Issued", "signed"),
                "certificate": ByteString(leaf.into_bytes()), "ca": ByteString(authority.pem().into()),
            })
        };
        let (requests, patch) = (self.world.api::<CertificateRequest>(), Patch::Merge(json!({ "status": status })));
        let answered = requests.patch_status(&request.name_any(), &PatchParams::default(), &patch).await;
        // The operator may have deleted it meanwhile.
        drop(answered);
    }

    fn sign(&self, request: &CertificateRequest, manner: Manner) -> (String, &Certificate) {
        let by = if manner == Manner::OtherAuthority { &self.other } else { &self.authority };
        let mut asked = CertificateSigningRequestParams::from_pem(std::str::from_utf8(&request.spec.request.0).unwrap()).unwrap();
        let params = &mut asked.params;
        let life = request.spec.duration.as_deref().and_then(|text| text.strip_suffix('s')).unwrap().parse().unwrap();
        let life = if manner == Manner::Short { 86_400 } else { life };
        let now = OffsetDateTime::from_unix_timestamp(Timestamp::now().as_second()).unwrap();
        (params.not_before, params.not_after) = (now - time::Duration::minutes(5), now + time::Duration::seconds(life));
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let has = |usage: &str| request.spec.usages.iter().any(|other| other == usage);
        for (usage, purpose) in
            [("server auth", ExtendedKeyUsagePurpose::ServerAuth), ("client auth", ExtendedKeyUsagePurpose::ClientAuth)]
        {
            params.extended_key_usages.extend((has(usage) && manner != Manner::Useless).then_some(purpose));
        }
        let named = !params.subject_alt_names.is_empty();
        if manner == Manner::Nameless {
            params.subject_alt_names.clear();
        }
        let key = KeyPair::from_pem(std::str::from_utf8(by.key_pem()).unwrap()).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_der(&by.certificate().der().into(), key).unwrap();
        let pem = asked.signed_by(&issuer).unwrap().pem();
        if matches!(manner, Manner::OtherAuthority | Manner::Useless) || manner == Manner::Nameless && named {
            // As the operator would write it.
            let read = Certificate::from_pem(pem.as_bytes()).unwrap();
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(read.pem().to_owned());
        }
        (pem, by.certificate())
    }

    /// Checks that nothing that will not do was handed out. Returns how many there were.
    async fn handed_out_nothing_wrong(&self) -> usize {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for secret in self.world.api::<Secret>().list(&ListParams::default()).await.unwrap() {
            for (key, ByteString(value)) in secret.data.iter().flatten() {
                let text = String::from_utf8_lossy(value);
                assert!(!wrong.iter().any(|pem| text.contains(pem)), "{}: {key}", secret.name_any());
            }
        }
        wrong.len()
    }
}

async fn no_member_has_half_of_its_secret(world: &World<'_>) {
    assert!(world.api::<Secret>().get_opt("demo-0-tls").await.unwrap().is_none());
}

fn is_inquiry(request: &str) -> bool {
    request.contains("-authority-")
}

fn later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_mins(10)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_issuer_should_not_have_signed_is_handed_to_nobody() {
    let cases = [
        (Manner::Denied, "IssuerFailed", "Issuer company cannot be used: it refused CertificateRequest demo-client-ca-", 0),
        (Manner::OtherAuthority, "IssuerCAChanged", "Issuer company signs with CA \"other\" now, which has to be trusted", 3),
        (Manner::Nameless, "IssuerFailed", "the certificate that it signed is for other names or addresses", 1),
        (Manner::Useless, "IssuerFailed", "the certificate that it signed is for other uses", 3),
    ];
    join_all(cases.map(|(manner, reason, message, wrong)| async move {
        let world = World::new("manner").await;
        let issuer = Issuer::new(&world).await;
        let operator = world.operator();
        world.cluster("demo", spec()).await;
        let names = async || issuer.requests().await.into_keys().collect::<BTreeSet<_>>();
        let asked = issuer
            .during(manner, async {
                let told = world.reports("demo", "CertificatesReady", reason).await;
                assert!(told.message.contains(message), "{manner:?}: {}", told.message);
                let asked = names().await;
                operator.passed(3).await;
                asked
            })
            .await;
        assert!(issuer.handed_out_nothing_wrong().await >= wrong, "{manner:?}");
        no_member_has_half_of_its_secret(&world).await;
        let before = names().await;
        assert!(!before.is_empty() && before.is_subset(&asked), "{manner:?}: it is not asked all the time");
        operator.stop().await;

        // Five minutes are over: another key is asked for, and the issuer has been mended.
        let operator = world.operator_by(later);
        issuer.during(Manner::Right, world.founded("demo")).await;
        assert!(names().await.is_disjoint(&before), "{manner:?}");
        issuer.handed_out_nothing_wrong().await;
        let secret = world.api::<Secret>().get("demo-0-tls").await.unwrap();
        for key in [member_key::SERVER_CRT, member_key::CLIENT_CRT] {
            assert!(certificate(&secret, key).is_signed_by(issuer.authority.certificate()), "{manner:?}: {key}");
        }
        operator.stop().await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_comes_after_the_one_that_asked_uses_the_answer() {
    let world = World::new("asked").await;
    let issuer = Issuer::new(&world).await;
    let operator = world.operator();
    world.cluster("demo", spec()).await;
    let asked = issuer
        .during(Manner::Silent, async {
            until_ok(async || {
                let told = world.reports("demo", "CertificatesReady", "WaitingForIssuer").await.message;
                let is_it = told.contains("waiting for Issuer company: no controller has processed CertificateRequest");
                let requests = issuer.requests().await;
                (is_it && requests.len() == 3).then_some(requests).ok_or_else(|| format!("three are asked for: {told}"))
            })
            .await
        })
        .await;
    no_member_has_half_of_its_secret(&world).await;
    operator.kill().await;
    for request in asked.values() {
        issuer.answer(request, Manner::Right).await;
    }
    let answers: Vec<_> =
        issuer.requests().await.into_values().map(|request| request.status.unwrap().certificate.unwrap().0).collect();
    let operator = world.operator();
    world.founded("demo").await;
    let member = world.api::<Secret>().get("demo-0-tls").await.unwrap();
    let own = world.api::<Secret>().get("demo-operator-tls").await.unwrap();
    for (secret, key) in [(&member, member_key::SERVER_CRT), (&member, member_key::CLIENT_CRT), (&own, tls_key::CRT)] {
        let leaf = certificate(secret, key);
        let is_it = |answer: &Vec<u8>| Certificate::from_pem(answer).unwrap() == leaf;
        assert!(answers.iter().any(is_it), "{key}");
    }
    assert!(issuer.requests().await.is_empty(), "what was answered is not left behind");
    let authority = world.api::<Secret>().get("demo-client-ca").await.unwrap();
    assert!(!authority.data.unwrap().keys().any(|key| key.starts_with("pending")), "nor are the keys");
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_life_than_was_asked_for_is_taken() {
    let world = World::new("short").await;
    let issuer = Issuer::new(&world).await;
    let operator = world.operator();
    world.cluster("demo", spec()).await;
    issuer.during(Manner::Short, world.founded("demo")).await;
    let secret = world.api::<Secret>().get("demo-0-tls").await.unwrap();
    let leaf = certificate(&secret, member_key::SERVER_CRT);
    assert!(leaf.not_after() < Timestamp::now() + SignedDuration::from_hours(25));
    let told = world.reports("demo", "CertificatesReady", "Confirming").await.message;
    assert!(told.contains("certificates of Issuer company are valid for 24 hours instead of the desired 2160"), "{told}");
    let taken = bytes(&secret, member_key::SERVER_CRT).to_vec();
    issuer.during(Manner::Short, operator.quiet(3)).await;
    let now = world.api::<Secret>().get("demo-0-tls").await.unwrap();
    assert_eq!(bytes(&now, member_key::SERVER_CRT), taken, "it is not asked for again and again");
    operator.stop().await;
}

/// What a Secret holds of an authority that may sign for these names only.
fn authority_for(names: &[&str]) -> Value {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    let now = OffsetDateTime::from_unix_timestamp(Timestamp::now().as_second()).unwrap();
    (params.not_before, params.not_after) = (now - time::Duration::days(1), now + time::Duration::days(3650));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let permitted_subtrees = names.iter().map(|name| GeneralSubtree::DnsName((*name).into())).collect();
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: vec![] });
    let certificate = params.self_signed(&key).unwrap();
    json!({ "type": "kubernetes.io/tls", "stringData": { "tls.crt": certificate.pem(), "tls.key": key.serialize_pem() } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_may_not_sign_for_all_names_signs_for_none() {
    let world = World::new("names").await;
    let operator = world.operator();
    world.create::<Secret>("company", authority_for(&["svc"])).await.unwrap();
    let spec = json!({ "replicas": 1, "tls": { "client": { "issuer": { "caSecret": { "name": "company" } } } } });
    world.cluster("demo", spec).await;
    let refused = "a certificate that it signed would not be accepted";
    let told = world.reports("demo", "CertificatesReady", "IssuerUnusable").await.message;
    assert!(told.contains(refused), "{told}");
    assert!(world.api::<Secret>().get_opt("demo-client-ca").await.unwrap().is_none());

    world.delete::<Secret>("company").await;
    world.create::<Secret>("company", authority_for(&["svc", "cluster.local", "localhost"])).await.unwrap();
    world.founded("demo").await;
    let secret = async |name| world.api::<Secret>().get(name).await.unwrap().data;
    let secrets = async || (secret("demo-client-ca").await, secret("demo-0-tls").await);
    let before = secrets().await;
    let clusters = world.api::<EtcdCluster>();
    let ask = async |names: &[&str]| {
        let patch = json!({ "spec": { "tls": { "client": { "extraSANs": { "dnsNames": names } } } } });
        clusters.patch("demo", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    ask(&["etcd.example.com"]).await;
    let told = world.reports("demo", "CertificatesReady", "IssuerFailed").await.message;
    assert!(told.contains(refused), "{told}");
    operator.passed(3).await;
    assert_eq!(secrets().await, before, "nothing is signed that nobody believes");
    ask(&[]).await;
    world.founded("demo").await;
    operator.stop().await;
}
