//! Users and their certificates.

use std::sync::Arc;

use etcd_warden::{api::EtcdUser, pki::Certificate};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::{
    harness::Scenario,
    namespace::{TIMEOUT, TestNamespace},
    tools::until,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![scenario!(waiting_and_conflicts)]
}

/// A user waits for its cluster. Of two users with the same name the older has precedence; the younger gets it once it is free.
async fn waiting_and_conflicts(ns: Arc<TestNamespace>) {
    ns.create_user("app", "demo").await;
    let message = ns.until_user("app", "False", "ClusterNotFound").await;
    assert!(message.contains("there is no EtcdCluster demo"), "{message}");
    ns.create_cluster("demo", 1, json!({})).await;
    ns.until_user("app", "True", "Issued").await;

    let of_demo = |more: serde_json::Value| {
        let mut spec = json!({ "clusterRef": { "name": "demo" } });
        crate::namespace::merge(&mut spec, more);
        spec
    };
    ns.try_create::<EtcdUser>("same-name", of_demo(json!({ "commonName": "app" }))).await.unwrap();
    let message = ns.until_user("same-name", "False", "CommonNameTaken").await;
    assert!(message.contains("EtcdUser app has the common name app already"), "{message}");
    ns.try_create::<EtcdUser>("same-secret", of_demo(json!({ "secretName": "app-etcd-tls" }))).await.unwrap();
    let message = ns.until_user("same-secret", "False", "SecretNameTaken").await;
    assert!(message.contains("EtcdUser app has the Secret app-etcd-tls already"), "{message}");

    let foreign: Secret =
        serde_json::from_value(json!({ "metadata": { "name": "mine" }, "stringData": { "tls.key": "x" } })).unwrap();
    let foreign = ns.api::<Secret>().create(&kube::api::PostParams::default(), &foreign).await.unwrap();
    ns.try_create::<EtcdUser>("conflict", of_demo(json!({ "secretName": "mine" }))).await.unwrap();
    let message = ns.until_user("conflict", "False", "").await;
    assert!(message.contains("Secret mine cannot be used: it was not created by etcd-warden"), "{message}");
    let after = ns.get::<Secret>("mine").await.unwrap();
    assert_eq!(after.metadata.resource_version, foreign.metadata.resource_version);

    // A user with `commonName` and `secretName`.
    ns.try_create::<EtcdUser>(
        "other",
        of_demo(json!({ "commonName": "payments", "secretName": "etcd", "certificate": { "duration": "2h" } })),
    )
    .await
    .unwrap();
    ns.until_user("other", "True", "Issued").await;
    let leaf = Certificate::from_pem(&ns.secret("etcd").await["tls.crt"]).unwrap();
    assert_eq!(leaf.common_name(), "payments");
    assert!(leaf.client_auth() && !leaf.server_auth());
    ns.until_ready("demo").await;
    ns.identity("etcd").await.etcdctl(["put", "a", "b"]).await.success();

    let refused = ns.user_identity("app").await;
    ns.delete::<EtcdUser>("app").await;
    ns.until_user("same-name", "True", "Issued").await;
    let host = ns.names("demo").client_host();
    until("the old certificate is refused", TIMEOUT, || async {
        if refused.accepted(&host).await.is_err() { Ok(()) } else { Err("accepted".into()) }
    })
    .await;
    assert_eq!(ns.user_identity("same-name").await.accepted(&host).await, Ok(()), "of the same name and not revoked");
}
