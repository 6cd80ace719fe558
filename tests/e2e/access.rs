//! Only clients with a valid certificate have access to a cluster.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use etcd_warden::{
    api::{EtcdCluster, EtcdUser, MemberRole},
    etcd::Class,
    names::{label, member_key},
    pki::{Authority, Certificate, LeafSpec, Usage},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    harness::Scenario,
    namespace::{Identity, TIMEOUT, TestNamespace, value},
    tools::{etcdctl, run, until},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(three_members), scenario!(one_member), scenario!(refused_connections)]
}

/// Status, objects and client access of a cluster of three members.
async fn three_members(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    has_status(&ns, 3).await;
    has_objects(&ns, 3).await;
    put_get_watch(&user).await;

    let exec = ["exec", "demo-0-0", "--", "etcdctl", "endpoint", "status", "--cluster", "-w", "json"];
    let statuses: Value = serde_json::from_str(&ns.kubectl(exec).await.success()).unwrap();
    assert_eq!(statuses.as_array().map(Vec::len), Some(3), "{statuses}");

    json_gateway(&ns, &user).await;
    let namespace = &ns.name;
    for service in ["demo", "demo-peers"] {
        let discovery = format!("--discovery-srv={service}.{namespace}.svc.cluster.local");
        let mut arguments = user.flags();
        arguments.extend([discovery, "get".into(), "greeting".into(), "--print-value-only".into()]);
        assert_eq!(etcdctl(&arguments).await.success(), "hello\n", "by SRV of {service}");
    }
}

async fn one_member(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    has_status(&ns, 1).await;
    has_objects(&ns, 1).await;
    put_get_watch(&user).await;
    let listed = ns.kubectl(["get", "etcd"]).await.success();
    let row: Vec<_> = listed.lines().last().unwrap_or_default().split_whitespace().collect();
    let leaves = ns.secret("demo-0-tls").await;
    let end = |crt| Certificate::from_pem(&leaves[crt]).unwrap().not_after();
    let first = [member_key::SERVER_CRT, member_key::PEER_CRT, member_key::CLIENT_CRT].map(end).into_iter().min().unwrap();
    assert_eq!(ns.status("demo").await.certificates.unwrap().expires, Some(Time(first)));
    assert_eq!(row[..6], ["demo", "1/1", "True", "UpToDate", "3.6.16", &first.to_string()], "{listed}");
}

async fn has_status(ns: &TestNamespace, replicas: usize) {
    let status = ns.status("demo").await;
    assert_eq!(status.ready, Some(format!("{replicas}/{replicas}")));
    assert_eq!(status.endpoints, [format!("https://demo.{}.svc:2379", ns.name)]);
    assert!(status.cluster_id.is_some());
    let names: Vec<_> = status.members.iter().map(|member| member.name.clone()).collect();
    assert_eq!(names, (0..replicas).map(|ordinal| format!("demo-{ordinal}")).collect::<Vec<_>>());
    for member in &status.members {
        assert!(member.ready && member.id.is_some() && member.certificate_expires.is_some(), "{member:?}");
        assert_eq!(member.version.as_deref(), Some("3.6.16"));
    }
    let leaders = status.members.iter().filter(|member| member.role == Some(MemberRole::Leader)).count();
    assert_eq!(leaders, 1);
    let certificates = status.certificates.expect("certificates are in the status");
    let [client, peer] = [certificates.client.unwrap(), certificates.peer.unwrap()];
    let authorities = [client.active.key_id, client.next.key_id, peer.active.key_id, peer.next.key_id];
    let distinct: std::collections::BTreeSet<_> = authorities.iter().filter(|id| !id.is_empty()).collect();
    assert_eq!(distinct.len(), 4, "two authorities in each domain");

    // A new cluster has the condition without an event; only the end of a fault is announced by one.
    ns.until_condition("demo", "CertificatesReady", "True", "CertificatesServed", TIMEOUT).await;
    let events = ns.events("demo").await;
    for reason in ["CACreated", "CertificatesIssued", "MembersRecorded", "QuorumHealthy"] {
        assert!(events.iter().any(|(r, _)| r == reason), "no event {reason} among {events:?}");
    }
}

/// All expected objects exist, each with its labels and its owner, and no others.
async fn has_objects(ns: &TestNamespace, replicas: usize) {
    let uid = ns.get::<EtcdCluster>("demo").await.unwrap().uid().unwrap();
    let members: Vec<_> = (0..replicas).map(|ordinal| format!("demo-{ordinal}")).collect();
    let secrets = members.iter().map(|member| format!("{member}-tls")).collect::<Vec<_>>();

    let services = managed::<Service>(ns, &uid).await;
    assert_eq!(names(&services), ["demo", "demo-peers"]);
    let ports = |service: &Service| -> BTreeMap<String, i32> {
        let ports = service.spec.as_ref().unwrap().ports.iter().flatten();
        ports.map(|port| (port.name.clone().unwrap(), port.port)).collect()
    };
    assert_eq!(ports(&services[0]), [("etcd-client-ssl".into(), 2379)].into());
    assert_eq!(ports(&services[1]), [("etcd-client-ssl".into(), 2379), ("etcd-server-ssl".into(), 2380)].into());
    assert_eq!(services[1].spec.as_ref().unwrap().cluster_ip.as_deref(), Some("None"));

    assert_eq!(names(&managed::<ConfigMap>(ns, &uid).await), ["demo-bootstrap", "demo-ca"]);
    assert_eq!(
        names(&managed::<PersistentVolumeClaim>(ns, &uid).await),
        members.iter().map(|m| format!("data-{m}")).collect::<Vec<_>>()
    );
    let sets = managed::<StatefulSet>(ns, &uid).await;
    assert_eq!(names(&sets), members);
    for set in &sets {
        let spec = &set.spec;
        assert_eq!(spec.replicas, Some(1));
        assert_eq!(spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()), Some("OnDelete"));
        assert_eq!(set.labels().get(label::MEMBER), Some(&set.name_any()));
    }
    let budgets = managed::<PodDisruptionBudget>(ns, &uid).await;
    if replicas == 1 {
        assert_eq!(budgets.len(), 0, "a PodDisruptionBudget would only keep its node from being drained");
    } else {
        assert_eq!(names(&budgets), ["demo"]);
        assert_eq!(value(&budgets[0])["spec"]["minAvailable"], json!(replicas / 2 + 1));
    }
    let all = managed::<Secret>(ns, "").await;
    let mut expected: Vec<_> = ["app-etcd-tls", "demo-client-ca", "demo-operator-tls", "demo-peer-ca"].map(str::to_owned).into();
    expected.extend(secrets);
    expected.sort();
    assert_eq!(names(&all), expected);
    for secret in &all {
        let name = secret.name_any();
        let expected =
            if ["app-etcd-tls", "demo-operator-tls"].contains(&name.as_str()) { "kubernetes.io/tls" } else { "Opaque" };
        assert_eq!(secret.type_.as_deref(), Some(expected), "{name}");
        let owner = if name == "app-etcd-tls" { "EtcdUser" } else { "EtcdCluster" };
        assert_eq!(secret.owner_references().first().map(|owner| owner.kind.as_str()), Some(owner), "{name}");
    }
    let user = ns.secret("app-etcd-tls").await;
    assert_eq!(user.keys().collect::<Vec<_>>(), ["ca.crt", "endpoints", "tls.crt", "tls.key"]);
}

/// The operator's objects of a kind, sorted by name. If a uid is given, the cluster with this uid must own them.
async fn managed<K>(ns: &TestNamespace, uid: &str) -> Vec<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + serde::de::DeserializeOwned
        + Clone
        + std::fmt::Debug,
{
    let api: Api<K> = ns.api();
    let mut all = api.list(&ListParams::default().labels(label::MANAGED)).await.unwrap().items;
    all.sort_by_key(ResourceExt::name_any);
    for object in &all {
        let labels = object.labels();
        assert_eq!(labels.get(label::NAME).map(String::as_str), Some(label::NAME_VALUE), "{}", object.name_any());
        assert_eq!(labels.get(label::INSTANCE).map(String::as_str), Some("demo"), "{}", object.name_any());
        let owner = object.owner_references().first().map(|owner| owner.uid.as_str());
        assert!(uid.is_empty() || owner == Some(uid), "{} is owned by {owner:?}", object.name_any());
    }
    all
}

fn names<K: ResourceExt>(objects: &[K]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

async fn put_get_watch(user: &Identity) {
    user.etcdctl(["put", "greeting", "hello"]).await.success();
    assert_eq!(user.etcdctl(["get", "greeting", "--print-value-only"]).await.success(), "hello\n");
    // The watch starts at an old revision, so that it returns an event at once.
    let mut watch = user.flags();
    watch.push(format!("--endpoints={}", user.endpoint));
    watch.extend(["watch", "greeting", "--rev=1"].map(str::to_owned));
    let first = crate::tools::first_lines("etcdctl", &watch, 3).await;
    assert_eq!(first, "PUT\ngreeting\nhello\n");
}

/// HTTP clients put and get through the JSON gateway, with the same certificate.
async fn json_gateway(ns: &TestNamespace, user: &Identity) {
    let (crt, key) = user.pair.as_ref().unwrap();
    let ask = async |path: &str, body: Value| {
        let arguments = ["-sS", "--fail-with-body", "--cacert", user.ca.to_str().unwrap(), "--cert", crt.to_str().unwrap()];
        let url = format!("{}/v3/kv/{path}", user.endpoint);
        let more = ["--key", key.to_str().unwrap(), "-d", &body.to_string(), &url].map(str::to_owned);
        run("curl", arguments.map(str::to_owned).into_iter().chain(more)).await.success()
    };
    // base64 of `gateway` and `hello`
    ask("put", json!({ "key": "Z2F0ZXdheQ==", "value": "aGVsbG8=" })).await;
    let answer: Value = serde_json::from_str(&ask("range", json!({ "key": "Z2F0ZXdheQ==" })).await).unwrap();
    assert_eq!(answer["kvs"][0]["value"], "aGVsbG8=", "{answer} in {}", ns.name);
}

/// Clients without a certificate of the client CA are refused, and a revoked client is refused by every member within seconds.
async fn refused_connections(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let names = ns.names("demo");
    let member = names.member(0);
    let (host, client, peer) = (names.member_host(&member), names.client_url(&member), names.peer_url(&member));
    assert_eq!(user.accepted(&host).await, Ok(()));
    user.without_pair().at(&client).etcdctl(["get", "x", "--command-timeout=3s"]).await.failure();

    let stranger = ns.write("stranger", &stranger());
    let tls = ns.write("demo-0-tls", &ns.secret("demo-0-tls").await);
    for (who, identity) in [
        ("no certificate", user.without_pair()),
        ("a stranger", user.with_pair(&stranger, "tls.crt", "tls.key")),
        ("a peer", user.with_pair(&tls, member_key::PEER_CRT, member_key::PEER_KEY)),
        ("a server", user.with_pair(&tls, member_key::SERVER_CRT, member_key::SERVER_KEY)),
    ] {
        assert_eq!(identity.accepted(&host).await, Err(Class::CertificateRefused), "{who}");
    }

    // On 2380 only members are accepted. That members accept each other is shown by the quorum.
    let (crt, key) = user.pair.clone().unwrap();
    let ca = tls.join(member_key::PEER_CA).display().to_string();
    for (who, pair) in [
        ("no certificate", None),
        ("the user", Some((crt, key))),
        ("the member's client", Some((tls.join(member_key::CLIENT_CRT), tls.join(member_key::CLIENT_KEY)))),
        ("a stranger", Some((stranger.join("tls.crt"), stranger.join("tls.key")))),
    ] {
        let mut arguments =
            vec!["-sS".into(), "--max-time".into(), "5".into(), "--cacert".into(), ca.clone(), format!("{peer}/version")];
        if let Some((crt, key)) = pair {
            arguments.extend(["--cert".into(), crt.display().to_string(), "--key".into(), key.display().to_string()]);
        }
        let ran = run("curl", arguments).await;
        assert!(!ran.ok, "{who} is answered on 2380: {ran:?}");
    }
    let log = ns.kubectl(["logs", "demo-0-0"]).await.success();
    let refused = |words: &str| log.lines().filter(|line| line.contains("on peer endpoint") && line.contains(words)).count();
    assert!(refused("didn't provide a certificate") >= 1 && refused("failed to verify certificate") == 3, "{log}");

    for (port, url) in [(2379, &client), (2380, &peer)] {
        let plain = format!("{}/health", url.replace("https:", "http:"));
        let ran = run("curl", ["-sS", "--fail", "--max-time", "5", &plain]).await;
        assert!(!ran.ok, "plaintext on {port} is answered: {}", ran.out);
    }
    revoked(&ns, &user).await;
}

/// Deletes the user, and measures how long each member still accepts its certificate.
async fn revoked(ns: &TestNamespace, user: &Identity) {
    let names = ns.names("demo");
    let began = Instant::now();
    ns.delete::<EtcdUser>("app").await;
    let refused = (0..3).map(|ordinal| {
        let host = names.member_host(&names.member(ordinal));
        async move {
            until("a revoked certificate is refused", TIMEOUT, || async {
                match user.accepted(&host).await {
                    Ok(()) => Err("it is accepted".to_owned()),
                    // etcd closes the connection without an alert.
                    Err(Class::Unavailable) => Ok(()),
                    Err(other) => panic!("refused as {other:?}"),
                }
            })
            .await;
            began.elapsed()
        }
    });
    let slowest = futures::future::join_all(refused).await.into_iter().max().unwrap();
    ns.measure(format!("revoked: refused at every member {:.1} s after the EtcdUser was deleted", slowest.as_secs_f32()));
    assert!(slowest.as_secs() < 15, "{slowest:?}");
    assert!(ns.events("demo").await.iter().any(|(reason, _)| reason == "CertificatesRevoked"));
}

/// A client certificate of an untrusted authority, with the operator's common name.
fn stranger() -> BTreeMap<String, Vec<u8>> {
    let now = Timestamp::now();
    let authority = Authority::create("another authority", SignedDuration::from_hours(24), now).unwrap();
    let spec = LeafSpec {
        common_name: "root".into(),
        dns_names: [].into(),
        ip_addresses: [].into(),
        optional: [].into(),
        usage: Usage::Client,
        duration: SignedDuration::from_hours(1),
    };
    let leaf = authority.issue(&spec, now).unwrap();
    let pair = [("tls.crt", leaf.certificate.pem().as_bytes().to_vec()), ("tls.key", leaf.key.pem().to_vec())];
    pair.into_iter().map(|(key, content)| (key.to_owned(), content)).collect()
}
