//! CAs are rotated while clients write: on schedule, on request, and after a loss.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use etcd_warden::{
    api::{DomainStatus, EtcdCluster, EtcdUser},
    cluster::{objects, validate::validate},
    names::{annotation, authority_key, member_key, tls_key},
    pki::{Authority, Certificate, Domain, Ledger, Phase, read_bundle},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::PostParams;
use serde_json::json;
use tokio::task::JoinHandle;

use crate::{
    certificates::put_leaves,
    harness::Scenario,
    history::Histories,
    members::incarnations,
    namespace::{Identity, TIMEOUT, TestNamespace},
    tools::{openssl, until},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(client_authority_leaked).long(),
        scenario!(client_authority_lost).long(),
        scenario!(twenty_renewals).long(),
        scenario!(peer_authority_leaked),
        scenario!(on_schedule),
        scenario!(peer_authority_lost),
        scenario!(revoked_by_annotation),
        scenario!(clients_without_certificates),
    ]
}

/// The lifetime of a CA of a default cluster.
const AUTHORITY: SignedDuration = SignedDuration::from_hours(43_800);
/// For how long it is the next CA: half of its lifetime minus one and a half lifetimes of a leaf (2160 h).
const TERM: SignedDuration = SignedDuration::from_hours(20_280);

/// The lifetime of a leaf of a default cluster or user.
const LEAF: SignedDuration = SignedDuration::from_hours(2160);

/// The leaves in a member's Secret, each with its domain and keys.
const MEMBER_LEAVES: [(Domain, [&str; 2]); 3] = [
    (Domain::Client, [member_key::SERVER_CRT, member_key::SERVER_KEY]),
    (Domain::Peer, [member_key::PEER_CRT, member_key::PEER_KEY]),
    (Domain::Client, [member_key::CLIENT_CRT, member_key::CLIENT_KEY]),
];
/// The leaf in the Secret of the operator or of a user.
const CLIENT_LEAF: [(Domain, [&str; 2]); 1] = [(Domain::Client, [tls_key::CRT, tls_key::KEY])];

/// A cluster whose CAs were created years ago: the next CA becomes the active one soon after the start. No member is restarted,
/// no write fails, and clients with the previous `ca.crt` and certificate are accepted.
async fn on_schedule(ns: Arc<TestNamespace>) {
    let user = with_authorities_of(&ns, Timestamp::now() - TERM + SignedDuration::from_secs(100)).await;
    let before = [status(&ns, Domain::Client).await, status(&ns, Domain::Peer).await];
    assert!(before.iter().all(|domain| domain.active.name.ends_with(" 1") && domain.next.name.ends_with(" 2")), "{before:?}");
    let mut incarnations = vec![];
    for pod in ["demo-0-0", "demo-1-0", "demo-2-0"] {
        incarnations.push((pod, ns.incarnation(pod).await));
    }
    // These writers do not read their Secret again.
    let writers = Writers::start(&user).await;
    for domain in [Domain::Client, Domain::Peer] {
        until("the next authority signs", TIMEOUT, || async {
            let now = try_status(&ns, domain).await?;
            if now.active.name.ends_with(" 2") && now.retiring.len() == 1 { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
    let began = Instant::now();
    until("every member serves a leaf of it", TIMEOUT, || async {
        let authority = ns.secret("demo-client-ca").await;
        let active = Certificate::from_pem(&authority[authority_key::ACTIVE_CRT]).unwrap();
        for ordinal in 0..3 {
            let leaf = try_served(&ns, &user, ordinal).await?;
            if !leaf.is_signed_by(&active) {
                return Err(format!("demo-{ordinal} serves a leaf of the previous CA"));
            }
        }
        Ok(())
    })
    .await;
    ns.measure(format!("served by all after {:.1} s", began.elapsed().as_secs_f32()));
    ns.until_ready("demo").await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("scheduled rotation of both domains: {figures}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
    for (pod, before) in incarnations {
        assert_eq!(ns.incarnation(pod).await, before, "{pod} was restarted");
    }
    let fresh = ns.identity("app-etcd-tls").await;
    assert_eq!(fresh.accepted(&ns.names("demo").client_host()).await, Ok(()));
}

/// A cluster of three members whose CAs were created at this time, and the identity of a user.
async fn with_authorities_of(ns: &TestNamespace, made: Timestamp) -> Identity {
    ns.create_cluster("demo", 3, json!({ "paused": true })).await;
    for domain in [Domain::Client, Domain::Peer] {
        make_authorities(ns, domain, made).await;
    }
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "paused": false } })).await;
    ns.until_ready("demo").await;
    ns.create_user("app", "demo").await;
    ns.user_identity("app").await
}

/// Creates the authorities of a domain as the operator does, but at another time.
pub async fn make_authorities(ns: &TestNamespace, domain: Domain, made: Timestamp) {
    let cluster = ns.get::<EtcdCluster>("demo").await.unwrap();
    let cluster = validate(&cluster, "cluster.local").unwrap();
    let [active, next] =
        [1, 2].map(|generation| Authority::create(&cluster.authority_name(domain, generation), AUTHORITY, made).unwrap());
    let data = [
        (authority_key::ACTIVE_CRT, active.certificate().pem().as_bytes().to_vec()),
        (authority_key::ACTIVE_KEY, active.key_pem().to_vec()),
        (authority_key::NEXT_CRT, next.certificate().pem().as_bytes().to_vec()),
        (authority_key::NEXT_KEY, next.key_pem().to_vec()),
        (authority_key::CRL, active.sign_crl([], Timestamp::now()).unwrap()),
        (authority_key::LEDGER, Ledger::default().to_json().unwrap()),
    ];
    let secret = Secret {
        metadata: objects::retained(&cluster, cluster.names.authority(domain)),
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect()),
        type_: Some("Opaque".into()),
        ..Secret::default()
    };
    ns.api::<Secret>().create(&PostParams::default(), &secret).await.unwrap();
}

pub async fn status(ns: &TestNamespace, domain: Domain) -> DomainStatus {
    try_status(ns, domain).await.unwrap()
}

pub async fn try_status(ns: &TestNamespace, domain: Domain) -> Result<DomainStatus, String> {
    let certificates = ns.status("demo").await.certificates.unwrap_or_default();
    certificates.domain(domain).cloned().ok_or_else(|| format!("the status has no {domain} domain"))
}

pub async fn served(ns: &TestNamespace, user: &Identity, ordinal: u32) -> Certificate {
    try_served(ns, user, ordinal).await.unwrap()
}

/// The handshake fails while the kubelet has updated only one of certificate and key.
pub async fn try_served(ns: &TestNamespace, user: &Identity, ordinal: u32) -> Result<Certificate, String> {
    let names = ns.names("demo");
    let answer = user.ask(&names.member_host(&names.member(ordinal))).await.map_err(|error| error.to_string())?;
    Certificate::from_der(&answer.served).map_err(|error| error.to_string())
}

/// Waits until a member serves another leaf than `before`.
pub async fn until_renewed(ns: &TestNamespace, user: &Identity, ordinal: u32, before: &Certificate) {
    until("another leaf is served", TIMEOUT, || async {
        let now = try_served(ns, user, ordinal).await?;
        if now.serial() == before.serial() { Err("the old one is served".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// The key of the peer CA was leaked.
async fn peer_authority_leaked(ns: Arc<TestNamespace>) {
    leaked(&ns, Domain::Peer).await;
}

/// The key of the client CA was leaked.
async fn client_authority_leaked(ns: Arc<TestNamespace>) {
    leaked(&ns, Domain::Client).await;
}

/// A CA rotation on request, with clients that write and read their Secrets again, as from a mounted volume. Afterwards no member
/// trusts or uses the previous CA.
async fn leaked(ns: &Arc<TestNamespace>, domain: Domain) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let (bundle, leaf, key) = match domain {
        Domain::Client => (member_key::CLIENT_CA, member_key::CLIENT_CRT, member_key::CLIENT_KEY),
        Domain::Peer => (member_key::PEER_CA, member_key::PEER_CRT, member_key::PEER_KEY),
    };
    let stolen = ns.write("stolen", &ns.secret("demo-0-tls").await);
    let before = status(ns, domain).await;
    let writers = Writers::start(&user).await;
    let histories = Histories::start(&user).await;
    let refreshing = refresh(Arc::clone(ns));
    let began = Instant::now();
    rotate(ns, &domain.to_string()).await;
    let seen = Mutex::new(vec![]);
    until("the rotation is complete", TIMEOUT * 4, || async {
        let now = try_status(ns, domain).await?;
        if let Some(phase) = now.phase
            && !seen.lock().unwrap().contains(&phase)
        {
            ns.measure(format!("{phase:?} after {:.1} s", began.elapsed().as_secs_f32()));
            seen.lock().unwrap().push(phase);
        }
        let over = now.phase.is_none() && now.active.key_id != before.active.key_id;
        if over && now.retiring.is_empty() { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    ns.measure(format!("the {domain} authority rotated in {:.1} s", began.elapsed().as_secs_f32()));
    let history = histories.stop(ns).await;
    let figures = writers.stop().await;
    refreshing.abort();
    let figures = figures.checked(&ns.user_identity("app").await).await;
    ns.measure(format!("rotation of the {domain} authority: {figures}; {history}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
    assert_eq!(seen.into_inner().unwrap(), Phase::ALL);

    let port = if domain == Domain::Client { 2379 } else { 2380 };
    for ordinal in 0..3 {
        let files = ns.write("now", &ns.secret(&format!("demo-{ordinal}-tls")).await);
        let authorities = read_bundle(&std::fs::read(files.join(bundle)).unwrap()).unwrap();
        assert_eq!(authorities.len(), 2);
        let names = ns.names("demo");
        let host = names.member_host(&names.member(ordinal));
        // With TLS 1.2 the handshake fails if the server refuses the client certificate.
        let dial = async |ca: &std::path::Path, folder: &std::path::Path| {
            let path = |name: &str| folder.join(name).display().to_string();
            let at = format!("{host}:{port}");
            let (ca, leaf, key) = (ca.join(bundle).display().to_string(), path(leaf), path(key));
            let flags =
                ["s_client", "-connect", &at, "-tls1_2", "-verify_return_error", "-CAfile", &ca, "-cert", &leaf, "-key", &key];
            openssl(flags).await.result()
        };
        dial(&files, &files).await.unwrap();
        dial(&files, &stolen).await.expect_err("an old leaf is accepted");
        dial(&stolen, &files).await.expect_err("an old leaf is served");
    }
}

pub async fn rotate(ns: &TestNamespace, domains: &str) {
    ns.patch::<EtcdCluster>("demo", json!({ "metadata": { "annotations": { annotation::ROTATE_CA: domains } } })).await;
}

/// Keeps a client's files up to date with its Secret, as a kubelet does.
pub fn refresh(ns: Arc<TestNamespace>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            ns.identity("app-etcd-tls").await;
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        }
    })
}

/// The peer CA is lost permanently.
async fn peer_authority_lost(ns: Arc<TestNamespace>) {
    lost_and_replaced(&ns, Domain::Peer).await;
}

/// The client CA is lost permanently, and the operator's certificate with it.
async fn client_authority_lost(ns: Arc<TestNamespace>) {
    lost_and_replaced(&ns, Domain::Client).await;
}

/// A lost CA is replaced on request, with clients that write and read their Secrets again, as from a mounted volume. No write
/// fails.
async fn lost_and_replaced(ns: &Arc<TestNamespace>, domain: Domain) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let before = status(ns, domain).await;
    let writers = Writers::start(&user).await;
    let refreshing = refresh(Arc::clone(ns));
    ns.delete::<Secret>(&format!("demo-{domain}-ca")).await;
    ns.until_condition("demo", "CertificatesReady", "False", "CALost", TIMEOUT).await;
    if domain == Domain::Client {
        // No CA can sign another one. The operator uses that of a member.
        ns.delete::<Secret>("demo-operator-tls").await;
    }
    let began = Instant::now();
    rotate(ns, &domain.to_string()).await;
    until("another CA signs", TIMEOUT * 4, || async {
        let now = try_status(ns, domain).await?;
        if now.phase.is_none() && now.active.key_id != before.active.key_id { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    ns.until_condition("demo", "CertificatesReady", "True", "", TIMEOUT).await;
    ns.measure(format!("the {domain} authority that was lost replaced in {:.1} s", began.elapsed().as_secs_f32()));
    let figures = writers.stop().await;
    refreshing.abort();
    let figures = figures.checked(&ns.user_identity("app").await).await;
    ns.measure(format!("loss of the {domain} authority: {figures}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
    let events = ns.events("demo").await;
    for reason in ["CAPrepared", "CASwitched", "CADropped", "RotationFinished"] {
        assert!(events.iter().any(|(other, _)| other == reason), "no event {reason}: {events:?}");
    }
}

/// Twenty times all leaves of three members, of the operator and of a user become due and are renewed, and no write fails.
async fn twenty_renewals(ns: Arc<TestNamespace>) {
    let user = with_authorities_of(&ns, Timestamp::now() - LEAF).await;
    // This identity has no files that are refreshed.
    let anyone = user.without_pair();
    let pods = incarnations(&ns).await;
    let writers = Writers::start(&user).await;
    let refreshing = refresh(Arc::clone(&ns));
    let members = ["demo-0-tls", "demo-1-tls", "demo-2-tls"].map(|secret| (secret, &MEMBER_LEAVES[..]));
    let all = members.into_iter().chain([("demo-operator-tls", &CLIENT_LEAF[..]), ("app-etcd-tls", &CLIENT_LEAF[..])]);
    let all: Vec<_> = all.collect();
    for _ in 0..20 {
        // More than two thirds of the lifetime are over.
        let made = Timestamp::now() - LEAF / 10 * 7;
        for (secret, leaves) in &all {
            put_leaves(&ns, secret, leaves, made, LEAF).await;
        }
        until("all leaves are renewed", TIMEOUT, || async {
            for (secret, leaves) in &all {
                let there = ns.secret(secret).await;
                let is_old = |crt: &str| Certificate::from_pem(&there[crt]).unwrap().not_before() < made;
                if let Some((_, [crt, _])) = leaves.iter().find(|(_, [crt, _])| is_old(crt)) {
                    return Err(format!("{crt} in {secret} is the one that is due"));
                }
            }
            Ok(())
        })
        .await;
        until("every member serves its new leaf", TIMEOUT, || async {
            for (ordinal, (secret, _)) in (0..).zip(members) {
                let there = ns.secret(secret).await;
                if try_served(&ns, &anyone, ordinal).await?.pem().as_bytes() != there[member_key::SERVER_CRT] {
                    return Err(format!("demo-{ordinal} serves an old one"));
                }
            }
            Ok(())
        })
        .await;
        ns.until_ready("demo").await;
    }
    let figures = writers.stop().await;
    refreshing.abort();
    let figures = figures.checked(&ns.user_identity("app").await).await;
    ns.measure(format!("20 renewals: {figures}"));
    assert_eq!((figures.failed, figures.broken), (0, 0), "{figures}");
    assert_eq!(incarnations(&ns).await, pods, "no member is restarted");
    figures.assert_nothing_lost();
}

/// A user with the annotation for revocation is refused by every member within seconds, and gets a new certificate once the
/// annotation is removed.
async fn revoked_by_annotation(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let stolen = ns.write("stolen", &ns.secret("app-etcd-tls").await);
    let stolen = user.with_pair(&stolen, tls_key::CRT, tls_key::KEY);
    let began = Instant::now();
    ns.patch::<EtcdUser>("app", json!({ "metadata": { "annotations": { annotation::REVOKE: "" } } })).await;
    let names = ns.names("demo");
    for ordinal in 0..3 {
        let host = names.member_host(&names.member(ordinal));
        until("it is refused", TIMEOUT, || async {
            if stolen.accepted(&host).await.is_ok() { Err(format!("{host} accepts it")) } else { Ok(()) }
        })
        .await;
    }
    let took = began.elapsed();
    ns.measure(format!("refused everywhere after {:.1} s", took.as_secs_f32()));
    assert!(took.as_secs() < 15, "{took:?}");
    let message = ns.until_user("app", "False", "Revoked").await;
    assert!(message.contains(annotation::REVOKE), "{message}");
    ns.patch::<EtcdUser>("app", json!({ "metadata": { "annotations": { annotation::REVOKE: null } } })).await;
    let user = ns.user_identity("app").await;
    until("it is served again", TIMEOUT, || async {
        let user = ns.identity("app-etcd-tls").await;
        user.accepted(&names.client_host()).await.map_err(|class| format!("{class:?}"))
    })
    .await;
    assert!(stolen.accepted(&names.client_host()).await.is_err());
    drop(user);
}

/// Client certificates become optional and then required again, without an effect on clients that have one.
async fn clients_without_certificates(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let anyone = user.without_pair();
    let names = ns.names("demo");
    let hosts: Vec<_> = (0..3).map(|ordinal| names.member_host(&names.member(ordinal))).collect();
    let writers = Writers::start(&user).await;
    for (auth, served) in [("None", true), ("Required", false)] {
        let began = Instant::now();
        ns.patch::<EtcdCluster>("demo", json!({ "spec": { "tls": { "client": { "clientAuth": auth } } } })).await;
        until(&format!("clientAuth is {auth}"), TIMEOUT, || async {
            for host in &hosts {
                let answer = anyone.ask(host).await.map_err(|error| error.to_string())?;
                if answer.status.is_ok() != served {
                    return Err(format!("{host}: {:?}", answer.status));
                }
            }
            Ok(())
        })
        .await;
        ns.until_ready("demo").await;
        ns.measure(format!("clientAuth {auth} after {:.1} s", began.elapsed().as_secs_f32()));
    }
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("client certificates switched off and on: {figures}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
    ns.has_no_event("demo", "MemberDown").await;
}
