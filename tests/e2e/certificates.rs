//! Certificates are valid, are renewed, and are replaced without an effect on clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Instant,
};

use etcd_warden::{
    api::{ConditionType, EtcdCluster, EtcdUser, condition},
    names::{authority_key, member_key, tls_key},
    pki::{Authority, Certificate, Domain, LeafSpec, Usage},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::PostParams;
use serde_json::json;

use crate::{
    harness::Scenario,
    namespace::{Identity, TIMEOUT, TestNamespace},
    rotation,
    tools::{openssl, until},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        // It measures, so nothing else should run at the same time.
        scenario!(renewals_without_failed_writes).alone(),
        scenario!(every_leaf_verifies),
        scenario!(leaves_are_renewed),
        scenario!(authority_lost),
    ]
}

/// Checked with `openssl`: every leaf verifies against the trust bundle and revocation list of its domain and not of the other
/// one; every key belongs to its certificate and to no other.
async fn every_leaf_verifies(ns: Arc<TestNamespace>) {
    ns.cluster_and_user("demo", 3, json!({})).await;
    let mut keys = BTreeSet::new();
    let mut held = vec![];
    for name in ["demo-0-tls", "demo-1-tls", "demo-2-tls"] {
        let folder = ns.write(name, &ns.secret(name).await);
        for (crt, key, domain, purpose) in [
            (member_key::SERVER_CRT, member_key::SERVER_KEY, "client", "sslserver"),
            (member_key::PEER_CRT, member_key::PEER_KEY, "peer", "sslserver"),
            (member_key::PEER_CRT, member_key::PEER_KEY, "peer", "sslclient"),
            (member_key::CLIENT_CRT, member_key::CLIENT_KEY, "client", "sslclient"),
        ] {
            let other = if domain == "client" { "peer" } else { "client" };
            verify(&folder, crt, domain, purpose).await.unwrap();
            verify(&folder, crt, other, purpose).await.expect_err("verifies in the other domain");
            held.push(fits(&folder.join(crt), &folder.join(key)).await);
        }
        held.dedup();
        for pem in ns.secret(name).await.values() {
            let text = String::from_utf8_lossy(pem);
            assert!(text.matches("PRIVATE KEY").count() <= 2, "more than one key in an entry of {name}");
        }
    }
    let bundle = ns.write("demo-0-tls", &BTreeMap::new());
    for name in ["app-etcd-tls", "demo-operator-tls"] {
        let folder = ns.write(name, &ns.secret(name).await);
        let ca = bundle.join(member_key::CLIENT_CA).display().to_string();
        openssl(["verify", "-purpose", "sslclient", "-CAfile", &ca, &folder.join(tls_key::CRT).display().to_string()])
            .await
            .success();
        held.push(fits(&folder.join(tls_key::CRT), &folder.join(tls_key::KEY)).await);
        assert_eq!(ns.secret(name).await[tls_key::CA], std::fs::read(&ca).unwrap());
    }
    for key in &held {
        assert!(keys.insert(key.clone()), "two leaves have one key");
    }
    assert_eq!(held.len(), 3 * 3 + 2);
}

/// Verifies a leaf against a domain's bundle and revocation list.
async fn verify(folder: &Path, crt: &str, domain: &str, purpose: &str) -> Result<String, String> {
    let path = |name: String| folder.join(name).display().to_string();
    let (bundle, crl) = (path(format!("{domain}-ca.crt")), path(format!("{domain}.crl")));
    let pem = path(format!("{domain}.crl.pem"));
    openssl(["crl", "-inform", "DER", "-in", &crl, "-out", &pem]).await.success();
    let flags = ["verify", "-x509_strict", "-crl_check", "-purpose", purpose, "-CAfile", &bundle, "-CRLfile", &pem];
    openssl(flags.into_iter().map(str::to_owned).chain([path(crt.into())])).await.result()
}

/// Checks that a key belongs to a certificate, and returns the public key.
async fn fits(crt: &Path, key: &Path) -> String {
    let of_crt = openssl(["x509", "-noout", "-pubkey", "-in", crt.to_str().unwrap()]).await.success();
    let of_key = openssl(["pkey", "-pubout", "-in", key.to_str().unwrap()]).await.success();
    assert_eq!(of_crt, of_key, "{}", crt.display());
    of_crt
}

/// A leaf with any problem is replaced and the new one is served, without a restart.
async fn leaves_are_renewed(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    let incarnation = ns.incarnation("demo-0-0").await;

    let before = served(&ns, &user).await;
    // The validity starts five minutes ago, so five of its seven minutes are over.
    let server = (Domain::Client, [member_key::SERVER_CRT, member_key::SERVER_KEY]);
    put_leaves(&ns, "demo-0-tls", &[server], Timestamp::now(), SignedDuration::from_mins(2)).await;
    renewed(&ns, &user, &before, "due").await;

    let before = served(&ns, &user).await;
    ns.delete::<Secret>("demo-0-tls").await;
    renewed(&ns, &user, &before, "Secret deleted").await;

    let before = served(&ns, &user).await;
    ns.patch::<Secret>("demo-0-tls", json!({ "stringData": { "server.key": "edited" } })).await;
    renewed(&ns, &user, &before, "key edited").await;

    let before = served(&ns, &user).await;
    let tls = |field| json!({ "spec": { "tls": { "client": field } } });
    ns.patch::<EtcdCluster>("demo", tls(json!({ "certificate": { "duration": "48h" } }))).await;
    renewed(&ns, &user, &before, "shorter life").await;
    let leaf = served(&ns, &user).await;
    assert!(leaf.not_after().duration_since(leaf.not_before()) < SignedDuration::from_hours(49));

    let sans = json!({ "extraSANs": { "dnsNames": ["etcd.example.com"], "ipAddresses": ["203.0.113.7"] } });
    ns.patch::<EtcdCluster>("demo", tls(sans)).await;
    renewed(&ns, &user, &leaf, "other names").await;
    let leaf = served(&ns, &user).await;
    assert!(leaf.dns_names().contains("etcd.example.com") && leaf.ip_addresses().contains(&"203.0.113.7".parse().unwrap()));
    assert_eq!(ns.incarnation("demo-0-0").await, incarnation, "the container was restarted");
    let events = ns.events("demo").await;
    let issued = events.iter().filter(|(reason, _)| reason == "CertificatesIssued").count();
    assert!(issued >= 6, "{events:?}");

    // The user's certificate is renewed, too.
    let crt = ns.secret("app-etcd-tls").await[tls_key::CRT].clone();
    ns.delete::<Secret>("app-etcd-tls").await;
    until_user_secret_restored(&ns, &crt).await;
    let crt = ns.secret("app-etcd-tls").await[tls_key::CRT].clone();
    ns.patch::<Secret>("app-etcd-tls", json!({ "stringData": { "tls.crt": "edited", "ca.crt": "edited" } })).await;
    until_user_secret_restored(&ns, &crt).await;
    let crt = ns.secret("app-etcd-tls").await[tls_key::CRT].clone();
    ns.patch::<EtcdUser>("app", json!({ "spec": { "certificate": { "duration": "2h" } } })).await;
    until_user_secret_restored(&ns, &crt).await;
    // The user's previous certificate was not revoked and is accepted until it expires.
    assert_eq!(user.accepted(&ns.names("demo").client_host()).await, Ok(()));
}

async fn served(ns: &TestNamespace, user: &Identity) -> Certificate {
    rotation::served(ns, user, 0).await
}

/// Waits until the member serves another leaf, which is the one in its Secret, and measures that.
async fn renewed(ns: &TestNamespace, user: &Identity, before: &Certificate, why: &str) {
    let began = Instant::now();
    until(&format!("another leaf is served: {why}"), TIMEOUT, || async {
        let now = rotation::try_served(ns, user, 0).await?;
        // One that is due may be served for a moment, until the operator has seen it.
        let is_due = now.not_after().duration_since(Timestamp::now()) < SignedDuration::from_hours(1);
        if now.serial() == before.serial() || is_due { Err("the old one is served".to_owned()) } else { Ok(()) }
    })
    .await;
    let took = began.elapsed().as_secs_f32();
    ns.until_ready("demo").await;
    let secret = ns.secret("demo-0-tls").await;
    assert_eq!(secret[member_key::SERVER_CRT], served(ns, user).await.pem().as_bytes());
    ns.measure(format!("{why}: served after {took:.1} s"));
}

/// Replaces leaves in a Secret by ones with the same contents, signed by the operator's own authorities, that were issued at
/// `made` and are valid for `duration`.
pub async fn put_leaves(
    ns: &TestNamespace,
    secret: &str,
    leaves: &[(Domain, [&str; 2])],
    made: Timestamp,
    duration: SignedDuration,
) {
    let there = ns.secret(secret).await;
    let mut data = BTreeMap::new();
    for (domain, [crt, key]) in leaves {
        let authority = ns.secret(&format!("demo-{domain}-ca")).await;
        let authority = Authority::load(&authority[authority_key::ACTIVE_CRT], &authority[authority_key::ACTIVE_KEY]).unwrap();
        let leaf = authority.issue(&like(&Certificate::from_pem(&there[*crt]).unwrap(), duration), made).unwrap();
        data.insert(crt, leaf.certificate.pem().to_owned());
        data.insert(key, String::from_utf8(leaf.key.pem().to_vec()).unwrap());
    }
    ns.patch::<Secret>(secret, json!({ "stringData": data })).await;
}

/// The contents of a leaf that replaces another one.
pub fn like(old: &Certificate, duration: SignedDuration) -> LeafSpec {
    LeafSpec {
        common_name: old.common_name().into(),
        dns_names: old.dns_names().clone(),
        ip_addresses: old.ip_addresses().clone(),
        optional: [].into(),
        usage: match (old.server_auth(), old.client_auth()) {
            (true, true) => Usage::Both,
            (true, false) => Usage::Server,
            _ => Usage::Client,
        },
        duration,
    }
}

async fn until_user_secret_restored(ns: &TestNamespace, before: &[u8]) {
    until("the user has another certificate", TIMEOUT, || async {
        let Some(secret) = ns.get::<Secret>("app-etcd-tls").await else { return Err("no Secret".to_owned()) };
        let data = secret.data.unwrap_or_default();
        let crt = data.get(tls_key::CRT).map(|crt| crt.0.clone()).unwrap_or_default();
        if crt == before {
            Err("it is still the old one".to_owned())
        } else {
            Certificate::from_pem(&crt).map(drop).map_err(|e| e.to_string())
        }
    })
    .await;
    let user = ns.identity("app-etcd-tls").await;
    assert_eq!(user.accepted(&ns.names("demo").client_host()).await, Ok(()));
}

/// An authority that was deleted or changed is reported and never recreated. After it is restored from a backup, the cluster is
/// ready again.
async fn authority_lost(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    let status = ns.status("demo").await.certificates;
    for domain in ["client", "peer"] {
        let name = format!("demo-{domain}-ca");
        let backup = ns.get::<Secret>(&name).await.unwrap();
        let leaves = ns.secret("demo-0-tls").await;

        ns.delete::<Secret>(&name).await;
        lost(&ns, &user, &format!("Secret {name} is missing, or has lost its labels")).await;
        assert!(ns.get::<Secret>(&name).await.is_none(), "a new one was created");

        restore(&ns, &name, &backup, true).await;
        ns.until_ready("demo").await;

        let empty = json!({ "data": { "active.crt": null, "active.key": null } });
        ns.patch::<Secret>(&name, empty).await;
        lost(&ns, &user, &format!("Secret {name}: active.crt is missing")).await;
        restore(&ns, &name, &backup, false).await;
        ns.until_ready("demo").await;

        // A valid authority that members do not trust is reported, too.
        let other = Authority::create("another", SignedDuration::from_hours(48), Timestamp::now()).unwrap();
        let pair = json!({ "stringData": { "active.crt": other.certificate().pem(), "active.key": String::from_utf8_lossy(other.key_pem()) } });
        ns.patch::<Secret>(&name, pair).await;
        lost(&ns, &user, "holds other CAs than the members trust").await;
        restore(&ns, &name, &backup, false).await;
        ns.until_ready("demo").await;
        assert_eq!(ns.secret("demo-0-tls").await, leaves, "leaves are kept");
        assert_eq!(ns.secret(&name).await, world_data(&backup));
    }
    let after = ns.status("demo").await.certificates;
    assert_eq!(after, status, "the authorities are the same");
}

async fn lost(ns: &TestNamespace, user: &Identity, words: &str) {
    let message = until("the loss is reported", TIMEOUT, || async {
        let conditions = ns.status("demo").await.conditions;
        let found = condition(&conditions, ConditionType::CertificatesReady).unwrap();
        let is_reported = found.status == "False" && found.reason == "CALost" && found.message.contains(words);
        if is_reported { Ok(found.message.clone()) } else { Err(format!("{found:?}")) }
    })
    .await;
    assert!(message.contains("Restore the Secret from a backup"), "{message}");
    user.etcdctl(["put", "while", "lost"]).await.success();
    ns.until_condition("demo", "Available", "True", "", TIMEOUT).await;
}

/// Restores a backup, as `kubectl apply` would.
async fn restore(ns: &TestNamespace, name: &str, backup: &Secret, gone: bool) {
    let mut secret = backup.clone();
    secret.metadata.resource_version = None;
    secret.metadata.uid = None;
    secret.metadata.managed_fields = None;
    let api = ns.api::<Secret>();
    if gone {
        api.create(&PostParams::default(), &secret).await.unwrap();
    } else {
        api.replace(name, &PostParams::default(), &secret).await.unwrap();
    }
}

fn world_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    secret.data.iter().flatten().map(|(key, ByteString(value))| (key.clone(), value.clone())).collect()
}

/// Clients write without pause, one over a single connection and one with a new connection for each write, while every leaf is
/// renewed, names are added to server certificates and another user is revoked. No write fails and no connection is broken.
async fn renewals_without_failed_writes(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    ns.create_user("other", "demo").await;
    ns.user_identity("other").await;
    let pods = ["demo-0-0", "demo-1-0", "demo-2-0"];
    let mut incarnations = vec![];
    for pod in pods {
        incarnations.push(ns.incarnation(pod).await);
    }
    let writers = Writers::start(&user).await;
    let before = served(&ns, &user).await;
    let shorter = json!({ "certificate": { "duration": "1000h" } });
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "tls": { "client": shorter, "peer": shorter } } })).await;
    renewed(&ns, &user, &before, "all leaves of three members under writers").await;
    let before = served(&ns, &user).await;
    let sans = json!({ "extraSANs": { "dnsNames": ["etcd.example.com"] } });
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "tls": { "client": sans } } })).await;
    renewed(&ns, &user, &before, "another name under writers").await;
    assert!(served(&ns, &user).await.dns_names().contains("etcd.example.com"));
    ns.delete::<EtcdUser>("other").await;
    until("the other user is revoked", TIMEOUT, || async {
        let events = ns.events("demo").await;
        if events.iter().any(|(reason, _)| reason == "CertificatesRevoked") { Ok(()) } else { Err("no event".to_owned()) }
    })
    .await;
    ns.until_ready("demo").await;
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(figures.to_string());
    assert_eq!((figures.failed, figures.broken), (0, 0), "{figures}");
    assert!(figures.written > 20, "{figures}");
    figures.assert_nothing_lost();
    for (pod, before) in pods.into_iter().zip(incarnations) {
        assert_eq!(ns.incarnation(pod).await, before);
    }
}
