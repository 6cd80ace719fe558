//! Certificates that are signed by external issuers: a CA in a Secret, and the real cert-manager.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Instant};

use etcd_warden::{
    api::{DomainStatus, EtcdCluster, EtcdUser},
    names::{member_key, tls_key},
    pki::{Authority, Certificate, Domain, read_bundle},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api,
    api::{DeleteParams, ObjectMeta, PostParams},
};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    namespace::{TIMEOUT, TestNamespace},
    rotation::{refresh, served, status, try_status, until_renewed},
    tools::{openssl, root, run, until},
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(client_issuer_changed).long(),
        scenario!(cert_manager),
        scenario!(ca_in_a_secret),
        scenario!(unusable_authorities),
        scenario!(authorities_of_other_programs),
        scenario!(authority_expired),
    ]
}

/// Authorities that are created with `openssl`.
pub struct Company {
    folder: PathBuf,
}

impl Company {
    pub fn new(ns: &TestNamespace) -> Self {
        Self { folder: ns.write("company", &BTreeMap::new()) }
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.folder.join(file)).unwrap()
    }

    /// Creates an authority: a root, or one that `above` signs.
    pub async fn authority(&self, name: &str, algorithm: &[&str], above: Option<&str>, extensions: &[&str]) {
        let (key, crt, subject) = (self.path(&format!("{name}.key")), self.path(&format!("{name}.crt")), format!("/CN={name}"));
        let generate = ["genpkey", "-out", &key, "-algorithm"].into_iter().chain(algorithm.iter().copied());
        openssl(generate).await.success();
        let mut request = vec!["req", "-x509", "-days", "3650", "-key", &key, "-subj", &subject, "-out", &crt];
        let above = above.map(|above| [self.path(&format!("{above}.crt")), self.path(&format!("{above}.key"))]);
        if let Some([crt, key]) = &above {
            request.extend(["-CA", crt, "-CAkey", key]);
        }
        let mut own = vec![];
        for extension in extensions {
            own.extend(["-addext", extension]);
        }
        openssl(request.into_iter().chain(own)).await.success();
    }

    /// Puts an authority into a Secret, which is created or replaced.
    pub async fn publish(&self, ns: &TestNamespace, secret: &str, authority: &str, above: &[&str]) {
        let mut data = BTreeMap::from([
            (tls_key::CRT, self.read(&format!("{authority}.crt"))),
            (tls_key::KEY, self.read(&format!("{authority}.key"))),
        ]);
        if !above.is_empty() {
            data.insert(tls_key::CA, above.iter().flat_map(|above| self.read(&format!("{above}.crt"))).collect());
        }
        publish(&ns.api(), secret, data).await;
    }
}

async fn publish(secrets: &Api<Secret>, name: &str, data: BTreeMap<&str, Vec<u8>>) {
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
        data: Some(data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect()),
        ..Secret::default()
    };
    if secrets.get_opt(name).await.unwrap().is_some() {
        secrets.replace(name, &PostParams::default(), &secret).await.unwrap();
    } else {
        secrets.create(&PostParams::default(), &secret).await.unwrap();
    }
}

/// The contents of a Secret with a root authority.
fn in_secret(authority: &Authority) -> BTreeMap<&'static str, Vec<u8>> {
    [(tls_key::CRT, authority.certificate().pem().as_bytes().to_vec()), (tls_key::KEY, authority.key_pem().to_vec())].into()
}

pub const P256: [&str; 3] = ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 3] = ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
const ISSUING: [&str; 2] = ["basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"];

pub async fn issuer(ns: &TestNamespace, domain: Domain, issuer: Value) {
    let patch = json!({ "spec": { "tls": { domain.to_string(): { "issuer": issuer } } } });
    ns.patch::<EtcdCluster>("demo", patch).await;
}

/// Waits until a rotation to the authority of this name is complete.
pub async fn until_signed_by(ns: &TestNamespace, domain: Domain, name: &str) -> DomainStatus {
    let now = until(&format!("{name} is the {domain} authority"), TIMEOUT * 4, || async {
        let now = try_status(ns, domain).await?;
        let over = now.phase.is_none() && now.retiring.is_empty() && now.active.name.contains(name);
        if over { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await;
    ns.until_ready("demo").await;
    now
}

/// A cluster that is bootstrapped with an RSA authority below an offline root. Then its peer CA is changed to one in a Secret, to
/// another one in that Secret, and back to the built-in one. No write fails.
async fn ca_in_a_secret(ns: Arc<TestNamespace>) {
    let company = Company::new(&ns);
    company.authority("root", &RSA, None, &[]).await;
    company.authority("issuing", &RSA, Some("root"), &ISSUING).await;
    company.authority("neighbour", &P256, Some("root"), &ISSUING).await;
    let example = fs::read_to_string(root().join("examples/cluster-ca-secret.yaml")).unwrap();
    ns.apply(&example).await.success();
    let message = ns.until_condition("demo", "CertificatesReady", "False", "IssuerUnusable", TIMEOUT).await;
    assert!(message.contains("there is no such Secret"), "{message}");
    company.publish(&ns, "etcd-clients", "issuing", &["root"]).await;
    ns.create_user("app", "demo").await;
    ns.until_ready("demo").await;
    let user = ns.user_identity("app").await;

    // OpenSSL verifies with only the offline root, and with the user's `ca.crt`.
    let names = ns.names("demo");
    let (crt, key) = user.pair.clone().unwrap();
    let (crt, key, at) = (crt.display().to_string(), key.display().to_string(), format!("{}:2379", names.client_host()));
    for ca in [company.path("root.crt"), user.ca.display().to_string()] {
        let flags = ["s_client", "-connect", &at, "-verify_return_error", "-CAfile", &ca, "-cert", &crt, "-key", &key];
        openssl(flags).await.success();
    }
    // Members trust only this authority, and not others with the same root.
    let files = ns.secret("demo-0-tls").await;
    let trusted = read_bundle(&files[member_key::CLIENT_CA]).unwrap();
    assert_eq!(trusted.iter().map(Certificate::common_name).collect::<Vec<_>>(), ["issuing"]);
    company.authority("mallory", &P256, Some("neighbour"), &["basicConstraints=CA:FALSE", "extendedKeyUsage=clientAuth"]).await;
    let chain = [company.read("mallory.crt"), company.read("neighbour.crt")].concat();
    let mallory =
        ns.write("mallory", &[("tls.crt".to_owned(), chain), ("tls.key".to_owned(), company.read("mallory.key"))].into());
    let mallory = user.with_pair(&mallory, tls_key::CRT, tls_key::KEY);
    assert!(mallory.accepted(&names.client_host()).await.is_err(), "a client of another CA with the same root is accepted");

    company.authority("peers", &P256, None, &[]).await;
    company.authority("peers-later", &P256, None, &[]).await;
    company.publish(&ns, "etcd-peers", "peers", &[]).await;
    let writers = Writers::start(&user).await;
    let began = Instant::now();
    issuer(&ns, Domain::Peer, json!({ "caSecret": { "name": "etcd-peers" } })).await;
    let now = until_signed_by(&ns, Domain::Peer, "peers").await;
    assert_eq!(now.active.issuer.as_deref(), Some("the CA in Secret etcd-peers"));
    ns.measure(format!("from the built-in issuer to a Secret in {:.1} s", began.elapsed().as_secs_f32()));
    let began = Instant::now();
    company.publish(&ns, "etcd-peers", "peers-later", &[]).await;
    until_signed_by(&ns, Domain::Peer, "peers-later").await;
    ns.measure(format!("to another authority in that Secret in {:.1} s", began.elapsed().as_secs_f32()));
    issuer(&ns, Domain::Peer, json!({ "caSecret": null })).await;
    let now = until_signed_by(&ns, Domain::Peer, "demo peer").await;
    assert_eq!(now.active.issuer, None);
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("three changes of the issuer: {figures}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
    let ledger = ns.secret("demo-peer-ca").await;
    assert!(!ledger.contains_key("above.crt") && !ledger.contains_key("issuers.json"), "its files are removed");

    // If its Secret is deleted, this is only reported.
    ns.delete::<Secret>("etcd-clients").await;
    let message = ns.until_condition("demo", "CertificatesReady", "False", "IssuerUnusable", TIMEOUT).await;
    assert!(message.contains("certificates continue to be signed as before"), "{message}");
    ns.create_user("later", "demo").await;
    ns.user_identity("later").await.accepted(&names.client_host()).await.unwrap();
    company.publish(&ns, "etcd-clients", "issuing", &["root"]).await;
    ns.until_ready("demo").await;
}

/// Authorities that Go or the operator would refuse, with a part of the reason.
async fn refused_authorities(company: &Company) -> Vec<(&'static str, &'static str)> {
    let key_id = "DER:04:14:01:02:03:04:05:06:07:08:09:0a:0b:0c:0d:0e:0f:10:11:12:13:14";
    let all = [
        ("elsewhere", "nameConstraints=critical,permitted;DNS:example.com".to_owned(), "may sign for DNS:example.com only"),
        ("servers", "extendedKeyUsage=serverAuth".to_owned(), "has an extendedKeyUsage without clientAuth"),
        ("users", "extendedKeyUsage=clientAuth".to_owned(), "has an extendedKeyUsage without serverAuth"),
        ("private", "1.2.3.4=critical,DER:05:00".to_owned(), "has the critical extension 1.2.3.4"),
        ("odd", format!("subjectKeyIdentifier=critical,{key_id}"), "has subjectKeyIdentifier as a critical extension"),
    ];
    for (name, extension, _) in &all {
        company.authority(name, &P256, None, &[extension.as_str()]).await;
    }
    all.map(|(name, _, why)| (name, why)).into()
}

/// Unusable authorities are refused with a reason, before anything is changed.
async fn unusable_authorities(ns: Arc<TestNamespace>) {
    let company = Company::new(&ns);
    company.authority("root", &P256, None, &[]).await;
    company.authority("good", &P256, Some("root"), &ISSUING).await;
    company.authority("other", &P256, Some("root"), &ISSUING).await;
    company.authority("leaf", &P256, Some("root"), &["basicConstraints=CA:FALSE"]).await;
    company.authority("below", &P256, Some("good"), &ISSUING).await;
    let day = SignedDuration::from_hours(24);
    let old = Authority::create("old", day, Timestamp::now() - day * 2).unwrap();
    let app = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&app).await;
    issuer(&ns, Domain::Peer, json!({ "caSecret": { "name": "company" } })).await;
    let statuses = async || [status(&ns, Domain::Client).await, status(&ns, Domain::Peer).await];
    let before = statuses().await;
    let encrypt = ["pkey", "-in", &company.path("good.key"), "-aes128", "-passout", "pass:secret"];
    let encrypted = openssl(encrypt).await.success().into_bytes();
    let pair = |crt: &str, key: &str| {
        [(tls_key::CRT, company.read(&format!("{crt}.crt"))), (tls_key::KEY, company.read(&format!("{key}.key")))]
    };
    let with_ca =
        |crt: &str, key: &str, ca: Vec<u8>| -> BTreeMap<_, _> { pair(crt, key).into_iter().chain([(tls_key::CA, ca)]).collect() };
    let (root, key) = (company.read("root.crt"), company.read("root.key"));
    let cases = [
        (with_ca("good", "good", vec![]), "ca.crt does not hold the certificate of the CA that signed"),
        (with_ca("good", "other", root.clone()), "the private key does not belong to the certificate"),
        (with_ca("leaf", "leaf", root.clone()), "is not a CA certificate"),
        (with_ca("below", "below", [company.read("good.crt"), root.clone()].concat()), "allows fewer CAs below it"),
        (with_ca("good", "good", [root.clone(), key].concat()), "holds a block of another kind than CERTIFICATE: a private key"),
        (
            BTreeMap::from([pair("good", "good")[0].clone(), (tls_key::KEY, encrypted), (tls_key::CA, root.clone())]),
            "decrypt it with openssl pkey -in tls.key",
        ),
        (BTreeMap::from([pair("good", "good")[0].clone()]), "tls.key is missing"),
        (in_secret(&old), "is valid from"),
    ];
    for (data, why) in cases {
        publish(&ns.api(), "company", data).await;
        until(why, TIMEOUT, || async {
            let message = ns.until_condition("demo", "CertificatesReady", "False", "IssuerUnusable", TIMEOUT).await;
            if message.contains(why) { Ok(()) } else { Err(message) }
        })
        .await;
    }
    // What those who verify would refuse, in both domains.
    for (name, why) in refused_authorities(&company).await {
        for domain in Domain::ALL {
            let secret = format!("{name}-{domain}");
            company.publish(&ns, &secret, name, &[]).await;
            issuer(&ns, domain, json!({ "caSecret": { "name": secret } })).await;
        }
        until(why, TIMEOUT, || async {
            let message = ns.until_condition("demo", "CertificatesReady", "False", "IssuerUnusable", TIMEOUT).await;
            if message.matches(why).count() == 2 { Ok(()) } else { Err(message) }
        })
        .await;
    }
    issuer(&ns, Domain::Client, json!({ "caSecret": null })).await;
    issuer(&ns, Domain::Peer, json!({ "caSecret": { "name": "company" } })).await;
    for (now, before) in statuses().await.into_iter().zip(before) {
        assert_eq!((now.active, now.phase), (before.active, None), "nothing has begun");
    }
    let figures = writers.stop().await.checked(&app).await;
    ns.measure(format!("refused beforehand: {figures}"));
    figures.assert_nothing_lost();
    assert_eq!(figures.failed, 0, "{figures}");
    // The same authority for both domains.
    publish(&ns.api(), "company", with_ca("good", "good", root.clone())).await;
    publish(&ns.api(), "again", with_ca("good", "good", root)).await;
    until_signed_by(&ns, Domain::Peer, "good").await;
    issuer(&ns, Domain::Client, json!({ "caSecret": { "name": "again" } })).await;
    let message = ns.until_condition("demo", "CertificatesReady", "False", "SharedCA", TIMEOUT).await;
    assert!(message.contains("every client could act as a member"), "{message}");
    let both = json!({ "spec": { "tls": { "client": { "issuer": { "caSecret": { "name": "company" } } } } } }).to_string();
    let refusal = ns.kubectl(["patch", "etcdcluster", "demo", "--type=merge", "-p", &both]).await.failure();
    assert!(refusal.contains("must have issuers of their own"), "{refusal}");
    issuer(&ns, Domain::Client, json!({ "caSecret": null })).await;
    ns.until_ready("demo").await;
}

/// Authorities and keys in the forms of Active Directory, kubeadm and cert-manager: subjects with an attribute twice and with two
/// attributes in one part, a self-signature with SHA-512, keys in SEC1 and PKCS#1.
async fn authorities_of_other_programs(ns: Arc<TestNamespace>) {
    let company = Company::new(&ns);
    for (name, algorithm, subject) in
        [("clients", P256, "/DC=com/DC=example/CN=clients"), ("peers", RSA, "/O=Example/OU=IT+CN=peers")]
    {
        let (key, crt) = (company.path(&format!("{name}.key")), company.path(&format!("{name}.crt")));
        openssl(["genpkey", "-out", &key, "-algorithm"].into_iter().chain(algorithm)).await.success();
        let usage = "keyUsage=critical,keyCertSign,cRLSign";
        let request =
            ["req", "-x509", "-sha512", "-days", "3650", "-key", &key, "-subj", subject, "-addext", usage, "-out", &crt];
        openssl(request).await.success();
        let traditional = match name {
            "clients" => {
                let parameters = openssl(["ecparam", "-name", "prime256v1"]).await.success();
                parameters + &openssl(["ec", "-in", &key]).await.success()
            }
            _ => openssl(["rsa", "-in", &key, "-traditional"]).await.success(),
        };
        fs::write(&key, traditional).unwrap();
        company.publish(&ns, name, name, &[]).await;
    }
    let issuer = |name: &str| json!({ "issuer": { "caSecret": { "name": name } } });
    ns.create_cluster("demo", 3, json!({ "tls": { "client": issuer("clients"), "peer": issuer("peers") } })).await;
    ns.create_user("app", "demo").await;
    ns.until_ready("demo").await;
    let user = ns.user_identity("app").await;
    user.etcdctl(["put", "a", "b"]).await.success();
    let (crt, key) = user.pair.clone().unwrap();
    let (crt, key, ca) = (crt.display().to_string(), key.display().to_string(), user.ca.display().to_string());
    let at = format!("{}:2379", ns.names("demo").client_host());
    openssl(["s_client", "-connect", &at, "-verify_return_error", "-CAfile", &ca, "-cert", &crt, "-key", &key]).await.success();
}

/// An external authority that expires before its successor exists. No certificate is valid then, and members are restarted once
/// there is a new authority.
async fn authority_expired(ns: Arc<TestNamespace>) {
    let publish_made = async |name: &str, life: SignedDuration| {
        publish(&ns.api(), "company", in_secret(&Authority::create(name, life, Timestamp::now()).unwrap())).await;
    };
    publish_made("short", SignedDuration::from_secs(60)).await;
    let secret = json!({ "tls": { "client": { "issuer": { "caSecret": { "name": "company" } } } } });
    ns.create_cluster("demo", 1, secret).await;
    ns.until_condition("demo", "Available", "True", "QuorumHealthy", TIMEOUT).await;
    let message = ns.until_condition("demo", "Degraded", "True", "CAExpiresSoon", TIMEOUT).await;
    assert!(message.contains("create secret generic company"), "{message}");
    let message = ns.until_condition("demo", "Degraded", "True", "CAExpired", TIMEOUT).await;
    assert!(message.contains("Secret company"), "{message}");
    // No client is accepted, but raft runs.
    let message = ns.until_condition("demo", "Available", "False", "MembersUnreachable", TIMEOUT).await;
    assert!(message.contains("Do not recover"), "{message}");
    ns.has_no_event("demo", "QuorumLost").await;
    publish_made("long", SignedDuration::from_hours(9999)).await;
    until_signed_by(&ns, Domain::Client, "long").await;
    ns.create_user("app", "demo").await;
    let user = ns.user_identity("app").await;
    user.etcdctl(["put", "a", "b"]).await.success();
}

/// cert-manager is installed after the cluster was created, and issuers after that, one of them unusable at first. Then an issuer
/// changes its CA, a ClusterIssuer is used, and the built-in issuer again. No write fails.
async fn cert_manager(ns: Arc<TestNamespace>) {
    let program = root().join("hack/cluster/cert-manager");
    // It may be left from an earlier run.
    run(&program, ["remove"]).await.success();
    let example = fs::read_to_string(root().join("examples/cluster-cert-manager.yaml")).unwrap();
    let (issuers, cluster) = example.rsplit_once("---\n").unwrap();
    ns.apply(cluster).await.success();
    let message = ns.until_condition("demo", "CertificatesReady", "False", "CertManagerMissing", TIMEOUT).await;
    assert!(message.contains("install cert-manager"), "{message}");
    run(&program, [] as [&str; 0]).await.success();
    ns.until_condition("demo", "CertificatesReady", "False", "WaitingForIssuer", TIMEOUT).await;

    let company = Company::new(&ns);
    for name in ["clients", "peers", "peers-later", "everywhere"] {
        company.authority(name, &P256, None, &["keyUsage=critical,keyCertSign,cRLSign"]).await;
    }
    company.publish(&ns, "etcd-clients", "clients", &[]).await;
    company.publish(&ns, "etcd-peers", "peers", &[]).await;
    // A self-signed issuer has no CA.
    let alone = "apiVersion: cert-manager.io/v1\nkind: Issuer\nmetadata: {name: etcd-clients}\nspec: {selfSigned: {}}\n";
    ns.apply(alone).await.success();
    ns.until_condition("demo", "CertificatesReady", "False", "IssuerUnusable", TIMEOUT).await;
    ns.kubectl(["delete", "issuers.cert-manager.io", "etcd-clients"]).await.success();
    let began = Instant::now();
    ns.apply(issuers).await.success();
    ns.create_user("app", "demo").await;
    ns.until_ready("demo").await;
    ns.measure(format!("ready {:.1} s after its issuers", began.elapsed().as_secs_f32()));
    let user = ns.user_identity("app").await;
    let now = [status(&ns, Domain::Client).await, status(&ns, Domain::Peer).await];
    assert_eq!(now.each_ref().map(|domain| domain.active.name.as_str()), ["clients", "peers"]);
    assert_eq!(now[0].active.issuer.as_deref(), Some("Issuer etcd-clients"));
    until("requests are deleted when they are no longer needed", TIMEOUT, || async {
        let left = ns.kubectl(["get", "certificaterequests.cert-manager.io", "-o", "name"]).await.success();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    for secret in ["demo-client-ca", "demo-peer-ca"] {
        let keys: Vec<_> = ns.secret(secret).await.into_keys().filter(|key| key.strip_suffix(".key").is_some()).collect();
        assert!(keys.is_empty(), "{secret} holds {keys:?}");
    }

    // A deleted user is revoked, although the operator has no CA key to sign the revocation list.
    ns.create_user("gone", "demo").await;
    let gone = ns.user_identity("gone").await;
    let host = ns.names("demo").client_host();
    gone.accepted(&host).await.unwrap();
    ns.delete::<EtcdUser>("gone").await;
    until("it is refused", TIMEOUT, || async {
        if gone.accepted(&host).await.is_ok() { Err("it is accepted".to_owned()) } else { Ok(()) }
    })
    .await;

    let writers = Writers::start(&user).await;
    // A renewal without a change of the CA, then one that reveals that the issuer has changed its CA.
    let before = served(&ns, &user, 0).await;
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "tls": { "client": { "certificate": { "duration": "2000h" } } } } })).await;
    until_renewed(&ns, &user, 0, &before).await;
    ns.until_ready("demo").await;
    company.publish(&ns, "etcd-peers", "peers-later", &[]).await;
    let began = Instant::now();
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "tls": { "peer": { "certificate": { "duration": "2000h" } } } } })).await;
    until_signed_by(&ns, Domain::Peer, "peers-later").await;
    ns.measure(format!("to another authority of the issuer in {:.1} s", began.elapsed().as_secs_f32()));
    // A ClusterIssuer has no namespace, so its name is unique, and its Secret is in cert-manager's namespace.
    let (everywhere, secrets) = (&ns.name, Api::<Secret>::namespaced(ns.client.clone(), "cert-manager"));
    let pair = [(tls_key::CRT, company.read("everywhere.crt")), (tls_key::KEY, company.read("everywhere.key"))];
    publish(&secrets, everywhere, pair.into()).await;
    let of_all = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "ClusterIssuer",
        "metadata": { "name": everywhere }, "spec": { "ca": { "secretName": everywhere } },
    });
    ns.apply(&of_all.to_string()).await.success();
    let began = Instant::now();
    issuer(&ns, Domain::Peer, json!({ "certManager": { "name": everywhere, "kind": "ClusterIssuer" } })).await;
    let now = until_signed_by(&ns, Domain::Peer, "everywhere").await;
    assert_eq!(now.active.issuer, Some(format!("ClusterIssuer {everywhere}")));
    ns.measure(format!("to a ClusterIssuer in {:.1} s", began.elapsed().as_secs_f32()));
    issuer(&ns, Domain::Peer, json!({ "certManager": null })).await;
    until_signed_by(&ns, Domain::Peer, "demo peer").await;
    ns.kubectl(["delete", "clusterissuers.cert-manager.io", everywhere]).await.success();
    secrets.delete(everywhere, &DeleteParams::default()).await.unwrap();
    let figures = writers.stop().await.checked(&user).await;
    ns.measure(format!("with cert-manager: {figures}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
}

/// The issuer of client certificates is changed, while clients write and read their Secrets again, as from a mounted volume.
async fn client_issuer_changed(ns: Arc<TestNamespace>) {
    let company = Company::new(&ns);
    company.authority("root", &RSA, None, &[]).await;
    company.authority("issuing", &RSA, Some("root"), &ISSUING).await;
    company.publish(&ns, "etcd-clients", "issuing", &["root"]).await;
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    let refreshing = refresh(Arc::clone(&ns));
    issuer(&ns, Domain::Client, json!({ "caSecret": { "name": "etcd-clients" } })).await;
    until_signed_by(&ns, Domain::Client, "issuing").await;
    let figures = writers.stop().await;
    refreshing.abort();
    let figures = figures.checked(&ns.user_identity("app").await).await;
    ns.measure(format!("the clients' issuer changed: {figures}"));
    assert_eq!(figures.failed, 0, "{figures}");
    figures.assert_nothing_lost();
}
