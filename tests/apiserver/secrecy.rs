//! Private keys are in Secrets and nowhere else.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use etcd_warden::{
    api::EtcdCluster,
    cache,
    issuing::cert_manager::CertificateRequest,
    kubernetes::secret::is_private,
    names::{annotation, authority_key, tls_key},
    pki::{Authority, digest_of_private_pem},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, events::v1::Event},
};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    issuers::{self, Behavior, Issuer},
    namespace::{TestNamespace, until},
    state::everything,
};

/// Every private key of the namespace, as PEM.
async fn keys(ns: &TestNamespace<'_>) -> Vec<Vec<u8>> {
    let secrets = ns.api::<Secret>().list(&ListParams::default()).await.unwrap();
    let keys = secrets.into_iter().flat_map(|secret| secret.data.unwrap_or_default());
    keys.filter(|(name, _)| is_private(name)).map(|(_, ByteString(value))| value).collect()
}

#[tokio::test]
async fn the_cache_contains_no_private_keys() {
    let ns = TestNamespace::new("kept").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.bootstrapped("demo").await;
    ns.user_reports("app", "Issued").await;
    operator.stop().await;

    let ((clusters, _clusters), (users, _users)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let stop = CancellationToken::new();
    let scope = cache::start(&ns.client, Some(&ns.name), &cache::Triggers { clusters, users }, &stop).await;
    // The Secrets are listed once, and then a change is watched.
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "a": "b" } } }));
    for secret in ["demo-0-tls", "demo-client-ca"] {
        ns.api::<Secret>().patch(secret, &PatchParams::default(), &patch).await.map(|_| ()).unwrap();
    }
    until("the changes are in the cache", async || {
        let changed = scope.secrets.state().iter().filter(|secret| secret.annotations().contains_key("a")).count();
        (changed == 2).then_some(())
    })
    .await;
    let digests: Vec<_> = keys(&ns).await.iter().map(|key| digest_of_private_pem(key).unwrap().to_hex()).collect();
    // Two for each domain's authorities, three for the member, one for the operator and one for the user.
    assert_eq!(digests.len(), 9);
    let mut kept = 0;
    for secret in scope.secrets.state() {
        for (name, ByteString(value)) in secret.data.iter().flatten() {
            let text = String::from_utf8_lossy(value);
            assert!(!text.contains("PRIVATE"), "{}: {name}", secret.name_any());
            if is_private(name) {
                assert!(digests.iter().any(|digest| *digest == text), "{}: {name}", secret.name_any());
                kept += 1;
            }
        }
    }
    assert_eq!(kept, 9);
    stop.cancel();
}

/// Rotates the authorities of the cluster `demo`, at first to one with a wrong key, and lets another cluster wait for an issuer.
/// Returns every key that existed at any time.
async fn with_issuers(ns: &TestNamespace<'_>) -> Vec<Vec<u8>> {
    let clusters = ns.api::<EtcdCluster>();
    let mut all = keys(ns).await;
    let authority = |name| Authority::create(name, SignedDuration::from_hours(50_000), Timestamp::now()).unwrap();
    let (company, other) = (authority("company"), authority("other"));
    let data = |key: &Authority| {
        let certificate = ByteString(company.certificate().pem().into());
        json!({ "data": { tls_key::CRT: certificate, tls_key::KEY: ByteString(key.key_pem().into()) } })
    };
    ns.create::<Secret>("company", data(&other)).await.unwrap();
    let choose = json!({ "spec": { "tls": { "client": { "issuer": { "caSecret": { "name": "company" } } } } } });
    clusters.patch("demo", &PatchParams::default(), &Patch::Merge(choose)).await.map(drop).unwrap();
    ns.reports("demo", "CertificatesReady", "IssuerUnusable").await;
    all.extend(keys(ns).await);
    let patch = Patch::Merge(data(&company));
    ns.api::<Secret>().patch("company", &PatchParams::default(), &patch).await.map(drop).unwrap();
    let request = Patch::Merge(json!({ "metadata": { "annotations": { annotation::ROTATE_CA: "peer" } } }));
    clusters.patch("demo", &PatchParams::default(), &request).await.map(drop).unwrap();
    until("both domains rotate", async || {
        let certificates = clusters.get("demo").await.unwrap().status?.certificates?;
        certificates.client?.phase.zip(certificates.peer?.phase)
    })
    .await;

    let issuer = Issuer::new(ns).await;
    ns.cluster("theirs", issuers::spec()).await;
    let pending = until("keys wait for their certificates", async || {
        let authority = ns.api::<Secret>().get_opt("theirs-client-ca").await.unwrap()?;
        authority.data?.keys().any(|key| key.starts_with(authority_key::PENDING)).then_some(())
    });
    issuer.during(Behavior::Silent, pending).await;
    all.extend(keys(ns).await);
    issuer.during(Behavior::Correct, ns.bootstrapped("theirs")).await;
    all.extend(keys(ns).await);
    all
}

/// The real program runs with the most verbose log.
#[tokio::test]
async fn no_key_is_in_a_log_or_in_an_object() {
    for format in ["json", "text"] {
        let ns = TestNamespace::new("log").await;
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_etcd-warden"))
            .args(["run", "--leader-elect=false", "--http-address=127.0.0.1:0", "--log-filter=trace"])
            .args(["--log-format", format, "--watch-namespaces", &ns.name])
            .env("KUBECONFIG", ns.server.kubeconfig())
            .stdin(Stdio::null())
            .stderr(File::create(log.path()).unwrap())
            .spawn()
            .unwrap();
        ns.cluster("demo", json!({ "replicas": 1 })).await;
        ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
        ns.bootstrapped("demo").await;
        ns.user_reports("app", "Issued").await;
        ns.delete::<Secret>("app-etcd-tls").await;
        ns.reports("demo", "Progressing", "WaitingForMembers").await;
        let keys = Box::pin(with_issuers(&ns)).await;
        assert!(Command::new("kill").arg(program.id().to_string()).status().unwrap().success());
        let ended = until("the program ends", async || program.try_wait().unwrap()).await;
        assert!(ended.success(), "{ended}");

        let log = std::fs::read_to_string(log.path()).unwrap();
        assert!(log.contains("leading") || log.contains("all objects have been read once"), "{log}");
        assert!(log.contains("TRACE"), "trace messages are logged");
        let mut texts = vec![log];
        for ((kind, _), object) in everything(&ns).await {
            if kind != "Secret" {
                texts.push(serde_json::to_string(&object).unwrap());
            }
        }
        for cluster in ns.api::<EtcdCluster>().list(&ListParams::default()).await.unwrap() {
            texts.push(serde_json::to_string(&cluster).unwrap());
        }
        for request in ns.api::<CertificateRequest>().list(&ListParams::default()).await.unwrap() {
            texts.push(serde_json::to_string(&request).unwrap());
        }
        for event in ns.api::<Event>().list(&ListParams::default()).await.unwrap() {
            texts.push(serde_json::to_string(&event).unwrap());
        }
        let mut traces = vec!["PRIVATE KEY".to_owned(), BASE64.encode("-----BEGIN PRIVATE")];
        for key in keys {
            // The middle of the key: in PEM, in base64 as in the API, and as printed bytes.
            let pem = String::from_utf8(key.clone()).unwrap();
            traces.push(pem.lines().nth(1).unwrap()[20..60].to_owned());
            traces.push(BASE64.encode(&key)[60..120].to_owned());
            traces.push(key[60..80].iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
        }
        for text in &texts {
            for trace in &traces {
                assert!(!text.contains(trace), "{trace}: {text}");
            }
        }
    }
}
