//! Users wait for their cluster, are refused, are issued certificates, and are revoked when they are deleted.

use etcd_warden::{
    api::EtcdUser,
    names::{authority_key, member_key, tls_key},
    pki::{Domain, Serial, crl_serials},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ResourceQuota, Secret},
};
use kube::{
    ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    namespace::{TestNamespace, until},
    state::{Issuing, bytes, certificate, check_complete},
};

fn of(field: &str, value: &str) -> Value {
    json!({ "clusterRef": { "name": "demo" }, field: value })
}

async fn serial(ns: &TestNamespace<'_>, secret: &str) -> Serial {
    certificate(&ns.api::<Secret>().get(secret).await.unwrap(), tls_key::CRT).serial()
}

#[tokio::test]
async fn a_user_waits_for_its_cluster() {
    let ns = TestNamespace::new("waits").await;
    let operator = ns.operator();
    ns.user("app", of("commonName", "Some App")).await;
    let waits = ns.user_reports("app", "ClusterNotFound").await;
    assert!(waits.message.contains("there is no EtcdCluster demo in this namespace"), "{}", waits.message);
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.user_reports("app", "Issued").await;
    ns.bootstrapped("demo").await;
    check_complete(&ns, "demo").await;
    let user = ns.api::<EtcdUser>().get("app").await.unwrap().status.unwrap();
    let leaf = certificate(&ns.api::<Secret>().get("app-etcd-tls").await.unwrap(), tls_key::CRT);
    assert_eq!(leaf.common_name(), "Some App");
    assert_eq!(user.common_name.as_deref(), Some("Some App"));
    assert_eq!(user.secret_name.as_deref(), Some("app-etcd-tls"));
    assert_eq!(user.serial, Some(leaf.serial().to_string()));
    assert!(leaf.client_auth() && !leaf.server_auth() && leaf.dns_names().is_empty() && !leaf.is_ca());
    operator.stop().await;
}

/// X.520 counts characters, not octets, and so does the API server.
#[tokio::test]
async fn a_common_name_may_have_64_characters_of_more_than_one_octet() {
    let ns = TestNamespace::new("utf8").await;
    let operator = ns.operator();
    let name = "ä".repeat(64);
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.user("app", of("commonName", &name)).await;
    ns.user_reports("app", "Issued").await;
    let leaf = certificate(&ns.api::<Secret>().get("app-etcd-tls").await.unwrap(), tls_key::CRT);
    assert_eq!(leaf.common_name(), name);
    let status = ns.api::<EtcdUser>().get("app").await.unwrap().status.unwrap();
    assert_eq!(status.common_name, Some(name));
    operator.quiet(2).await;
    let now = certificate(&ns.api::<Secret>().get("app-etcd-tls").await.unwrap(), tls_key::CRT);
    assert_eq!(now, leaf, "it is not issued again");
    operator.stop().await;
}

#[tokio::test]
async fn names_are_unique() {
    let ns = TestNamespace::new("names").await;
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    let operator = ns.operator();
    ns.user_reports("app", "Issued").await;
    // The older user has precedence, and creation times are whole seconds.
    until("another second has begun", async || {
        let made = ns.api::<EtcdUser>().get("app").await.unwrap().creation_timestamp().unwrap().0;
        (jiff::Timestamp::now().as_second() > made.as_second()).then_some(())
    })
    .await;
    ns.user("same-name", of("commonName", "app")).await;
    let mut same = of("commonName", "other");
    same["secretName"] = "app-etcd-tls".into();
    ns.user("same-secret", same).await;
    ns.user("authority", of("secretName", "demo-client-ca")).await;
    let taken = ns.user_reports("same-name", "CommonNameTaken").await;
    assert!(taken.message.contains("EtcdUser app has the common name app already"), "{}", taken.message);
    let taken = ns.user_reports("same-secret", "SecretNameTaken").await;
    assert!(taken.message.contains("EtcdUser app has the Secret app-etcd-tls already"), "{}", taken.message);
    let taken = ns.user_reports("authority", "NameTaken").await;
    assert!(taken.message.contains("Secret demo-client-ca cannot be used"), "{}", taken.message);
    let secrets = ns.api::<Secret>().list_metadata(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(secrets.items.len(), 5);
    let kept = serial(&ns, "app-etcd-tls").await;
    operator.quiet(4).await;
    assert_eq!(serial(&ns, "app-etcd-tls").await, kept);
    operator.stop().await;
}

#[tokio::test]
async fn a_secret_that_belongs_to_others_is_never_overwritten() {
    let ns = TestNamespace::new("theirs").await;
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    let data = json!({ "type": "Opaque", "stringData": { "mine": "mine" } });
    let mut labelled = data.clone();
    labelled["metadata"] = json!({ "labels": {
        "app.kubernetes.io/managed-by": "etcd-warden", "app.kubernetes.io/instance": "demo", "etcd-warden.dev/user": "b",
    } });
    let theirs: [Secret; 2] = [ns.create("a-etcd-tls", data).await.unwrap(), ns.create("b-etcd-tls", labelled).await.unwrap()];
    let operator = ns.operator();
    ns.bootstrapped("demo").await;
    for user in ["a", "b"] {
        ns.user(user, json!({ "clusterRef": { "name": "demo" } })).await;
    }
    for user in ["a", "b"] {
        let taken = ns.user_reports(user, "NameTaken").await;
        assert!(taken.message.contains(&format!("Secret {user}-etcd-tls cannot be used")), "{}", taken.message);
    }
    operator.quiet(2).await;
    for secret in theirs {
        let now: Secret = ns.api().get(&secret.name_any()).await.unwrap();
        assert_eq!(now.resource_version(), secret.resource_version());
        ns.delete::<Secret>(&secret.name_any()).await;
    }
    for user in ["a", "b"] {
        ns.user_reports(user, "Issued").await;
    }
    check_complete(&ns, "demo").await;
    operator.stop().await;
}

#[tokio::test]
async fn no_certificate_is_signed_for_a_secret_that_a_quota_refuses() {
    let ns = TestNamespace::new("quota").await;
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    let operator = ns.operator();
    ns.bootstrapped("demo").await;
    // Admission reads the status, which no controller writes here.
    let none = json!({ "hard": { "secrets": "0" }, "used": { "secrets": "0" } });
    ns.create::<ResourceQuota>("none", json!({ "spec": { "hard": { "secrets": "0" } } })).await.unwrap();
    let patch = Patch::Merge(json!({ "status": none }));
    ns.api::<ResourceQuota>().patch_status("none", &PatchParams::default(), &patch).await.unwrap();
    let written = async || {
        let client = Issuing::read(&ns, "demo", Domain::Client).await.written();
        (client, Issuing::read(&ns, "demo", Domain::Peer).await.written())
    };
    // The quota takes effect once the watch of the admission controller has reported it.
    until("secrets are refused", async || {
        let secret = Secret { metadata: ObjectMeta { name: Some("probe".into()), ..ObjectMeta::default() }, ..Secret::default() };
        ns.api().create(&PostParams { dry_run: true, ..PostParams::default() }, &secret).await.err()
    })
    .await;
    let before = written().await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.delete::<Secret>("demo-0-tls").await;
    let refused = ns.user_reports("app", "IssuingFailed").await;
    assert!(refused.message.contains("exceeded quota: none"), "{}", refused.message);
    let refused = ns.reports("demo", "Degraded", "KubernetesRefused").await;
    assert!(refused.message.contains("exceeded quota: none"), "{}", refused.message);
    operator.wait_for_passes(3).await;
    assert_eq!(written().await, before);
    ns.delete::<ResourceQuota>("none").await;
    ns.user_reports("app", "Issued").await;
    ns.bootstrapped("demo").await;
    check_complete(&ns, "demo").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_deleted_user_is_revoked_and_a_new_one_of_the_same_name_is_not() {
    let ns = TestNamespace::new("revoked").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    for user in ["app", "stays"] {
        ns.user(user, json!({ "clusterRef": { "name": "demo" } })).await;
        ns.user_reports(user, "Issued").await;
    }
    ns.bootstrapped("demo").await;
    let (old, other) = (serial(&ns, "app-etcd-tls").await, serial(&ns, "stays-etcd-tls").await);

    ns.delete::<EtcdUser>("app").await;
    let member = async || ns.api::<Secret>().get("demo-0-tls").await.unwrap();
    until("it is on the member's revocation list", async || {
        crl_serials(bytes(&member().await, member_key::CLIENT_CRL)).unwrap().contains(&old).then_some(())
    })
    .await;
    // The garbage collector, which would delete the Secret, does not run here.
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    let taken = ns.user_reports("app", "NameTaken").await;
    assert!(taken.message.contains("it belongs to EtcdUser app"), "{}", taken.message);
    ns.delete::<Secret>("app-etcd-tls").await;
    ns.user_reports("app", "Issued").await;
    operator.quiet(1).await;
    check_complete(&ns, "demo").await;

    let issuing = Issuing::read(&ns, "demo", Domain::Client).await;
    let new = serial(&ns, "app-etcd-tls").await;
    assert_ne!(new, old);
    assert_eq!(issuing.revoked, [old].into());
    assert_eq!(serial(&ns, "stays-etcd-tls").await, other);
    operator.stop().await;

    // A user that is deleted while no operator runs is revoked too.
    ns.delete::<EtcdUser>("stays").await;
    let operator = ns.operator();
    until("it is revoked", async || {
        let revoked = Issuing::read(&ns, "demo", Domain::Client).await.revoked;
        (revoked == [old, other].into()).then_some(())
    })
    .await;
    operator.stop().await;
}

#[tokio::test]
async fn the_expiry_of_a_users_certificate_is_a_metric_while_the_user_exists() {
    let ns = TestNamespace::new("expiry").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.user_reports("app", "Issued").await;
    let series = format!("etcd_warden_user_certificate_expiry_timestamp_seconds{{namespace=\"{}\",user=\"app\"}}", ns.name);
    until("the series exists", async || operator.has_series(&series).then_some(())).await;
    ns.delete::<EtcdUser>("app").await;
    until("the series is removed", async || (!operator.has_series(&series)).then_some(())).await;
    operator.stop().await;
}

#[tokio::test]
async fn revocation_lists_are_restored_and_expired_serials_removed() {
    let ns = TestNamespace::new("lists").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    operator.stop().await;

    // A serial of a user that was deleted long ago.
    let (serial, secrets) = (Serial::random().unwrap(), ns.api::<Secret>());
    let (expired, issuing) = (Timestamp::now() - SignedDuration::from_hours(2), Issuing::read(&ns, "demo", Domain::Client).await);
    let mut ledger: Vec<Value> = serde_json::from_slice(&issuing.ledger.to_json().unwrap()).unwrap();
    let holder = json!({ "user": { "name": "gone", "uid": "gone" } });
    ledger.push(json!({ "serial": serial, "holder": holder, "notAfter": expired, "revoked": expired }));
    let crl = issuing.active.sign_crl([(serial, expired)], Timestamp::now()).unwrap();
    let data = json!({
        authority_key::LEDGER: ByteString(serde_json::to_vec(&ledger).unwrap()), authority_key::CRL: ByteString(crl),
    });
    let patch = Patch::Merge(json!({ "data": data }));
    secrets.patch("demo-client-ca", &PatchParams::default(), &patch).await.map(drop).unwrap();
    let operator = ns.operator();
    until("the member has the list", async || {
        let member = secrets.get("demo-0-tls").await.unwrap();
        crl_serials(bytes(&member, member_key::CLIENT_CRL)).unwrap().contains(&serial).then_some(())
    })
    .await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.user_reports("app", "Issued").await;
    let issuing = Issuing::read(&ns, "demo", Domain::Client).await;
    assert!(!issuing.ledger.knows(serial) && issuing.revoked.is_empty(), "{:?}", issuing.revoked);

    // Without the file etcd would refuse every client.
    let none = Patch::Merge(json!({ "data": { member_key::CLIENT_CRL: null, member_key::PEER_CRL: null } }));
    secrets.patch("demo-0-tls", &PatchParams::default(), &none).await.map(drop).unwrap();
    until("the lists are restored", async || {
        let member = secrets.get("demo-0-tls").await.unwrap();
        let is_there = |key| !bytes(&member, key).is_empty();
        (is_there(member_key::CLIENT_CRL) && is_there(member_key::PEER_CRL)).then_some(())
    })
    .await;
    operator.quiet(1).await;
    check_complete(&ns, "demo").await;
    operator.stop().await;
}
