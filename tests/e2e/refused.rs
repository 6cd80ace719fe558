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
    operator,
    rotation::{refresh, status},
    tools::until,
    world::{TIMEOUT, World},
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
async fn refused_clients(world: Arc<World>) {
    Box::pin(refused(world, Domain::Client)).await;
}

/// The peer authority: one member is restarted with a certificate of it, and the others refuse its connections.
async fn refused_peers(world: Arc<World>) {
    Box::pin(refused(world, Domain::Peer)).await;
}

/// The client authority, after an earlier version made it the active one without a trial: no member accepts the operator or a client.
async fn clients_locked_out(world: Arc<World>) {
    Box::pin(lost(world, Domain::Client)).await;
}

/// The peer authority, after the same and after the previous one is no longer trusted: the first member that is restarted does not
/// rejoin.
async fn peers_divided(world: Arc<World>) {
    Box::pin(lost(world, Domain::Peer)).await;
}

/// Makes the next authority the active one, as earlier versions did without a trial, and takes the change back when members refuse it.
async fn lost(world: Arc<World>, domain: Domain) {
    let company = Company::new(&world);
    let uses = ["keyUsage=critical,keyCertSign,cRLSign", "extendedKeyUsage=serverAuth"];
    company.authority("servers-only", &P256, None, &uses).await;
    company.publish(&world, "company", "servers-only", &[]).await;
    let app = world.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&app).await;
    operator::stop(&world).await;
    let changes = async {
        issuer(&world, domain, json!({ "caSecret": { "name": "company" } })).await;
        world.until_condition("demo", "CertificatesReady", "False", "CertificateRefused", TIMEOUT * 3).await;
        // Earlier versions restarted all members to trust it. With a peer authority the first one does not rejoin.
        for member in ["demo-0", "demo-1", "demo-2"].into_iter().filter(|_| domain == Domain::Client) {
            world.kill(&format!("{member}-0")).await;
            until("it trusts the authority", TIMEOUT, || trusting(&world, domain, member)).await;
        }
    };
    operate_without_judgement(&world.namespace, Box::pin(changes)).await;
    let (phases, [kind, status, reason]) = match domain {
        Domain::Client => (vec![activated()], ["Available", "False", "CertificateRefused"]),
        Domain::Peer => (vec![activated(), Change::Drop], ["Degraded", "True", ""]),
    };
    change_authorities(&world, domain, phases).await;
    let heals = async {
        let message = world.until_condition("demo", kind, status, reason, TIMEOUT * 4).await;
        world.measure(format!("after an earlier version: {message}"));
        let began = Instant::now();
        issuer(&world, domain, json!(null)).await;
        let now = until_signed_by(&world, domain, &format!("demo {domain}")).await;
        assert_eq!(now.active.issuer, None);
        world.measure(format!("healed in {:.1} s", began.elapsed().as_secs_f32()));
    };
    operate_without_judgement(&world.namespace, Box::pin(heals)).await;
    operator::scale(2).await;
    let app = world.user_identity("app").await;
    app.accepted(&world.names("demo").client_host()).await.unwrap();
    let figures = writers.stop().await.checked(&app).await;
    world.measure(format!("{domain}: {figures}"));
    figures.assert_nothing_lost();
}

/// Whether a member runs that has started with the next authority in its trust bundle.
async fn trusting(world: &World, domain: Domain, member: &str) -> Result<(), String> {
    let secret = world.secret(&world.names("demo").authority(domain)).await;
    let next = Certificate::from_pem(&secret[authority_key::NEXT_CRT]).unwrap();
    let pod = world.get::<Pod>(&format!("{member}-0")).await.ok_or("it has no pod")?;
    let trusted = pod.annotations().get(annotation::BUNDLES).is_some_and(|bundles| bundles.contains(next.fingerprint()));
    let is_ready = world.status("demo").await.members.iter().any(|status| status.name == member && status.ready);
    if trusted && is_ready { Ok(()) } else { Err(format!("trusts it: {trusted}, is ready: {is_ready}")) }
}

/// An authority that etcd cannot read: the first member that is restarted to trust it does not start, and the others are not restarted.
async fn unreadable(world: Arc<World>) {
    let company = Company::new(&world);
    let key_id = "subjectKeyIdentifier=critical,DER:04:14:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14";
    company.authority("odd", &P256, None, &[key_id]).await;
    company.publish(&world, "company", "odd", &[]).await;
    let app = world.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&app).await;
    operator::stop(&world).await;
    let changes = async {
        issuer(&world, Domain::Peer, json!({ "caSecret": { "name": "company" } })).await;
        let message = world.until_condition("demo", "Degraded", "True", "MemberDown", TIMEOUT * 3).await;
        world.measure(format!("a member that cannot read its trust bundle: {message}"));
        world.until_condition("demo", "Available", "True", "QuorumHealthy", TIMEOUT).await;
        let began = Instant::now();
        issuer(&world, Domain::Peer, json!(null)).await;
        let now = until_signed_by(&world, Domain::Peer, "demo peer").await;
        assert_eq!(now.active.issuer, None);
        world.measure(format!("taken back in {:.1} s", began.elapsed().as_secs_f32()));
    };
    operate_without_judgement(&world.namespace, Box::pin(changes)).await;
    operator::scale(2).await;
    let figures = writers.stop().await.checked(&app).await;
    world.measure(figures.to_string());
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}

/// The next authority becomes the active one.
fn activated() -> Change {
    let next = NewAuthority::BuiltIn { common_name: "unused".into(), duration: SignedDuration::from_hours(24) };
    Change::Switch { next, immediately: false }
}

/// Makes these changes of a domain's authorities, one after the other. No operator runs.
async fn change_authorities(world: &World, domain: Domain, changes: Vec<Change>) {
    let secrets = world.api::<Secret>();
    let name = world.names("demo").authority(domain);
    let mut secret = secrets.get(&name).await.unwrap();
    let contents = secret.data.as_mut().unwrap();
    for change in changes {
        let transition = Transition { domain, secret: name.clone(), seen: None, change };
        assert!(authority_secret::apply(contents, &transition, None, Timestamp::now()).unwrap());
    }
    secrets.replace(&name, &PostParams::default(), &secret).await.unwrap();
}

async fn refused(world: Arc<World>, domain: Domain) {
    operator::stop(&world).await;
    operate_without_judgement(&world.namespace.clone(), Box::pin(change_and_take_back(world, domain))).await;
    operator::scale(2).await;
}

async fn change_and_take_back(world: Arc<World>, domain: Domain) {
    let company = Company::new(&world);
    let uses = ["keyUsage=critical,keyCertSign,cRLSign", "extendedKeyUsage=serverAuth"];
    company.authority("servers-only", &P256, None, &uses).await;
    company.authority("good", &P256, None, &uses[..1]).await;
    company.publish(&world, "company", "servers-only", &[]).await;
    let app = world.cluster_and_user("demo", 3, json!({})).await;
    let before = status(&world, domain).await;
    let writers = Writers::start(&app).await;
    let refreshing = refresh(Arc::clone(&world));

    let began = Instant::now();
    let changed = || issuer(&world, domain, json!({ "caSecret": { "name": "company" } }));
    changed().await;
    let message = world.until_condition("demo", "CertificatesReady", "False", "CertificateRefused", TIMEOUT * 3).await;
    world.measure(format!("refused {:.1} s after the change", began.elapsed().as_secs_f32()));
    assert!(message.contains("servers-only") && message.contains("the CA in Secret company"), "{message}");
    let command = format!(r"kubectl -n {} patch etcdcluster demo --type merge -p ", world.namespace);
    assert!(message.contains(&command) && message.contains(r#""issuer":null"#), "{message}");
    world.until_condition("demo", "Available", "True", "QuorumHealthy", TIMEOUT).await;
    let now = status(&world, domain).await;
    assert_eq!((now.active, now.phase.map(Phase::as_str)), (before.active, Some("Distributing")), "it does not sign for all");
    app.accepted(&world.names("demo").client_host()).await.unwrap();

    // The spec is taken back.
    let began = Instant::now();
    issuer(&world, domain, json!(null)).await;
    let now = until_signed_by(&world, domain, &format!("demo {domain}")).await;
    assert_eq!(now.active.issuer, None);
    world.measure(format!("taken back in {:.1} s", began.elapsed().as_secs_f32()));

    // The next good authority takes its place.
    changed().await;
    world.until_condition("demo", "CertificatesReady", "False", "CertificateRefused", TIMEOUT * 3).await;
    company.publish(&world, "company", "good", &[]).await;
    let began = Instant::now();
    let now = until_signed_by(&world, domain, "good").await;
    assert_eq!(now.active.issuer.as_deref(), Some("the CA in Secret company"));
    world.measure(format!("replaced by a good CA in {:.1} s", began.elapsed().as_secs_f32()));
    let figures = writers.stop().await;
    refreshing.abort();
    let figures = figures.checked(&world.user_identity("app").await).await;
    world.measure(format!("{domain}: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
}
