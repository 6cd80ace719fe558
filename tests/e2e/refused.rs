//! A running cluster is changed to an authority whose certificates etcd refuses: one that may sign only for servers. The operator of
//! these scenarios does not judge authorities, because it would refuse this one before anything is changed. They run alone.

use std::{sync::Arc, time::Instant};

use etcd_warden::{
    certificates::{
        authority_secret,
        transition::{Change, NewAuthority, Transition},
    },
    names::{annotation, authority_key},
    pki::{Certificate, Domain, Phase},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{ResourceExt, api::PostParams};
use serde_json::json;

use crate::{
    failpoint::operate_without_judgement,
    harness::Scenario,
    issuers::{Company, P256, issuer, until_signed_by},
    namespace::{TIMEOUT, TestNamespace},
    operator,
    rotation::{refresh, status},
    tools::until,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(refused_clients).alone().long(),
        scenario!(refused_peers).alone().long(),
        scenario!(clients_locked_out).alone().long(),
        scenario!(peers_divided).alone().long(),
        scenario!(unreadable).alone().long(),
    ]
}

/// The client authority: members refuse the operator's certificate of it, and nothing is issued to clients.
async fn refused_clients(ns: Arc<TestNamespace>) {
    Box::pin(refused(ns, Domain::Client)).await;
}

/// The peer authority: one member is restarted with a certificate of it, and the others refuse its connections.
async fn refused_peers(ns: Arc<TestNamespace>) {
    Box::pin(refused(ns, Domain::Peer)).await;
}

/// The client authority, after an earlier version made it the active one without a trial: no member accepts the operator or a client.
async fn clients_locked_out(ns: Arc<TestNamespace>) {
    Box::pin(lost(ns, Domain::Client)).await;
}

/// The peer authority, after the same and after the previous one is no longer trusted: the first member that is restarted does not
/// rejoin.
async fn peers_divided(ns: Arc<TestNamespace>) {
    Box::pin(lost(ns, Domain::Peer)).await;
}

/// Makes the next authority the active one, as earlier versions did without a trial, and takes the change back when members refuse it.
async fn lost(ns: Arc<TestNamespace>, domain: Domain) {
    let company = Company::new(&ns);
    let uses = ["keyUsage=critical,keyCertSign,cRLSign", "extendedKeyUsage=serverAuth"];
    company.authority("servers-only", &P256, None, &uses).await;
    company.publish(&ns, "company", "servers-only", &[]).await;
    let app = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&app).await;
    operator::stop(&ns).await;
    let changes = async {
        issuer(&ns, domain, json!({ "caSecret": { "name": "company" } })).await;
        ns.until_condition("demo", "CertificatesReady", "False", "CertificateRefused", TIMEOUT * 3).await;
        // Earlier versions restarted all members to trust it. With a peer authority the first one does not rejoin.
        for member in ["demo-0", "demo-1", "demo-2"].into_iter().filter(|_| domain == Domain::Client) {
            ns.kill(&format!("{member}-0")).await;
            until("it trusts the authority", TIMEOUT, || trusting(&ns, domain, member)).await;
        }
    };
    operate_without_judgement(&ns.name, Box::pin(changes)).await;
    let (phases, [kind, status, reason]) = match domain {
        Domain::Client => (vec![activated()], ["Available", "False", "CertificateRefused"]),
        Domain::Peer => (vec![activated(), Change::Drop], ["Degraded", "True", ""]),
    };
    change_authorities(&ns, domain, phases).await;
    let heals = async {
        let message = ns.until_condition("demo", kind, status, reason, TIMEOUT * 4).await;
        ns.measure(format!("after an earlier version: {message}"));
        let began = Instant::now();
        issuer(&ns, domain, json!(null)).await;
        let now = until_signed_by(&ns, domain, &format!("demo {domain}")).await;
        assert_eq!(now.active.issuer, None);
        ns.measure(format!("healed in {:.1} s", began.elapsed().as_secs_f32()));
    };
    operate_without_judgement(&ns.name, Box::pin(heals)).await;
    operator::scale(2).await;
    let app = ns.user_identity("app").await;
    app.accepted(&ns.names("demo").client_host()).await.unwrap();
    let figures = writers.stop().await.checked(&app).await;
    ns.measure(format!("{domain}: {figures}"));
    figures.assert_nothing_lost();
}

/// Whether a member runs that has started with the next authority in its trust bundle.
async fn trusting(ns: &TestNamespace, domain: Domain, member: &str) -> Result<(), String> {
    let secret = ns.secret(&ns.names("demo").authority(domain)).await;
    let next = Certificate::from_pem(&secret[authority_key::NEXT_CRT]).unwrap();
    let pod = ns.get::<Pod>(&format!("{member}-0")).await.ok_or("it has no pod")?;
    let trusted = pod.annotations().get(annotation::BUNDLES).is_some_and(|bundles| bundles.contains(next.fingerprint()));
    let is_ready = ns.status("demo").await.members.iter().any(|status| status.name == member && status.ready);
    if trusted && is_ready { Ok(()) } else { Err(format!("trusts it: {trusted}, is ready: {is_ready}")) }
}

/// An authority that etcd cannot read: the first member that is restarted to trust it does not start, and the others are not restarted.
async fn unreadable(ns: Arc<TestNamespace>) {
    let company = Company::new(&ns);
    let key_id = "subjectKeyIdentifier=critical,DER:04:14:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14";
    company.authority("odd", &P256, None, &[key_id]).await;
    company.publish(&ns, "company", "odd", &[]).await;
    let app = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&app).await;
    operator::stop(&ns).await;
    let changes = async {
        issuer(&ns, Domain::Peer, json!({ "caSecret": { "name": "company" } })).await;
        let message = ns.until_condition("demo", "Degraded", "True", "MemberDown", TIMEOUT * 3).await;
        ns.measure(format!("a member that cannot read its trust bundle: {message}"));
        ns.until_condition("demo", "Available", "True", "QuorumHealthy", TIMEOUT).await;
        let began = Instant::now();
        issuer(&ns, Domain::Peer, json!(null)).await;
        let now = until_signed_by(&ns, Domain::Peer, "demo peer").await;
        assert_eq!(now.active.issuer, None);
        ns.measure(format!("taken back in {:.1} s", began.elapsed().as_secs_f32()));
    };
    operate_without_judgement(&ns.name, Box::pin(changes)).await;
    operator::scale(2).await;
    let figures = writers.stop().await.checked(&app).await;
    ns.measure(figures.to_string());
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// The next authority becomes the active one.
fn activated() -> Change {
    let next = NewAuthority::BuiltIn { common_name: "unused".into(), duration: SignedDuration::from_hours(24) };
    Change::Switch { next, immediately: false }
}

/// Makes these changes of a domain's authorities, one after the other. No operator runs.
async fn change_authorities(ns: &TestNamespace, domain: Domain, changes: Vec<Change>) {
    let secrets = ns.api::<Secret>();
    let name = ns.names("demo").authority(domain);
    let mut secret = secrets.get(&name).await.unwrap();
    let contents = secret.data.as_mut().unwrap();
    for change in changes {
        let transition = Transition { domain, secret: name.clone(), seen: None, change };
        assert!(authority_secret::apply(contents, &transition, None, Timestamp::now()).unwrap());
    }
    secrets.replace(&name, &PostParams::default(), &secret).await.unwrap();
}

async fn refused(ns: Arc<TestNamespace>, domain: Domain) {
    operator::stop(&ns).await;
    operate_without_judgement(&ns.name.clone(), Box::pin(change_and_take_back(ns, domain))).await;
    operator::scale(2).await;
}

async fn change_and_take_back(ns: Arc<TestNamespace>, domain: Domain) {
    let company = Company::new(&ns);
    let uses = ["keyUsage=critical,keyCertSign,cRLSign", "extendedKeyUsage=serverAuth"];
    company.authority("servers-only", &P256, None, &uses).await;
    company.authority("good", &P256, None, &uses[..1]).await;
    company.publish(&ns, "company", "servers-only", &[]).await;
    let app = ns.cluster_and_user("demo", 3, json!({})).await;
    let before = status(&ns, domain).await;
    let writers = Writers::start(&app).await;
    let refreshing = refresh(Arc::clone(&ns));

    let began = Instant::now();
    let changed = || issuer(&ns, domain, json!({ "caSecret": { "name": "company" } }));
    changed().await;
    let message = ns.until_condition("demo", "CertificatesReady", "False", "CertificateRefused", TIMEOUT * 3).await;
    ns.measure(format!("refused {:.1} s after the change", began.elapsed().as_secs_f32()));
    assert!(message.contains("servers-only") && message.contains("the CA in Secret company"), "{message}");
    let command = format!(r"kubectl -n {} patch etcdcluster demo --type merge -p ", ns.name);
    assert!(message.contains(&command) && message.contains(r#""issuer":null"#), "{message}");
    ns.until_condition("demo", "Available", "True", "QuorumHealthy", TIMEOUT).await;
    let now = status(&ns, domain).await;
    assert_eq!((now.active, now.phase.map(Phase::as_str)), (before.active, Some("Distributing")), "it does not sign for all");
    app.accepted(&ns.names("demo").client_host()).await.unwrap();

    // The spec is taken back.
    let began = Instant::now();
    issuer(&ns, domain, json!(null)).await;
    let now = until_signed_by(&ns, domain, &format!("demo {domain}")).await;
    assert_eq!(now.active.issuer, None);
    ns.measure(format!("taken back in {:.1} s", began.elapsed().as_secs_f32()));

    // The next good authority takes its place.
    changed().await;
    ns.until_condition("demo", "CertificatesReady", "False", "CertificateRefused", TIMEOUT * 3).await;
    company.publish(&ns, "company", "good", &[]).await;
    let began = Instant::now();
    let now = until_signed_by(&ns, domain, "good").await;
    assert_eq!(now.active.issuer.as_deref(), Some("the CA in Secret company"));
    ns.measure(format!("replaced by a good CA in {:.1} s", began.elapsed().as_secs_f32()));
    let figures = writers.stop().await;
    refreshing.abort();
    let figures = figures.checked(&ns.user_identity("app").await).await;
    ns.measure(format!("{domain}: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}
