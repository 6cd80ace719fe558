//! An authority that was changed or deleted is reported and never recreated, and its certificates stay in use.

use etcd_warden::names::authority_key;
use futures::future::join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    namespace::{TestNamespace, until},
    state::check_complete,
};

#[tokio::test]
async fn a_lost_authority_is_reported_and_can_be_restored_from_a_backup() {
    let ns = TestNamespace::new("authority").await;
    let operator = ns.operator();
    let data = |key: &str, value: Value| json!({ "data": { key: value } });
    let cases: [(&str, &str, Option<Value>, &str); 7] = [
        ("deleted", "client-ca", None, "is missing, or has lost its labels"),
        ("emptied", "peer-ca", Some(json!({ "data": null })), "active.crt is missing"),
        ("keyless", "client-ca", Some(data(authority_key::ACTIVE_KEY, Value::Null)), "active.key is missing"),
        ("edited", "client-ca", Some(data(authority_key::ACTIVE_CRT, json!("bWluZQ=="))), "active.crt: "),
        ("ledgerless", "client-ca", Some(data(authority_key::LEDGER, Value::Null)), "issued.json: "),
        ("listless", "peer-ca", Some(data(authority_key::CRL, json!("bWluZQ=="))), "ca.crl: "),
        ("other", "peer-ca", Some(json!("the client domain's")), "other CAs than the members trust"),
    ];
    for (name, ..) in &cases {
        ns.cluster(name, json!({ "replicas": 1 })).await;
    }
    for (name, ..) in &cases {
        ns.bootstrapped(name).await;
    }
    operator.quiet(7).await;
    join_all(cases.map(|(name, authority, change, problem)| {
        let ns = &ns;
        async move {
            let secrets = ns.api::<Secret>();
            let authority = format!("{name}-{authority}");
            let mut backup = secrets.get(&authority).await.unwrap();
            let member = secrets.get(&format!("{name}-0-tls")).await.unwrap();
            match &change {
                None => ns.delete::<Secret>(&authority).await,
                Some(Value::String(_)) => {
                    let other = secrets.get(&format!("{name}-client-ca")).await.unwrap();
                    let patch = Patch::Merge(json!({ "data": other.data }));
                    secrets.patch(&authority, &PatchParams::default(), &patch).await.map(|_| ()).unwrap();
                }
                Some(patch) => {
                    secrets.patch(&authority, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ()).unwrap();
                }
            }
            let lost = ns.reports(name, "CertificatesReady", "CALost").await;
            assert!(lost.message.contains(&format!("Secret {authority}")) && lost.message.contains(problem), "{}", lost.message);
            ns.reports(name, "Degraded", "CALost").await;
            let now = secrets.get(&format!("{name}-0-tls")).await.unwrap();
            assert_eq!(now.resource_version(), member.resource_version(), "{name}");
            assert_eq!(secrets.get_opt(&authority).await.unwrap().is_none(), change.is_none(), "{name}");

            backup.metadata.resource_version = None;
            backup.metadata.uid = None;
            if change.is_none() {
                secrets.create(&PostParams::default(), &backup).await.map(|_| ()).unwrap();
            } else {
                until("the backup is restored", async || secrets.replace(&authority, &PostParams::default(), &backup).await.ok())
                    .await;
            }
            ns.bootstrapped(name).await;
            check_complete(ns, name).await;
            let now = secrets.get(&format!("{name}-0-tls")).await.unwrap();
            assert_eq!(now.resource_version(), member.resource_version(), "{name}");
        }
    }))
    .await;
    operator.stop().await;
}

fn years_later() -> Timestamp {
    Timestamp::now() + SignedDuration::from_hours(24 * 365 * 6)
}

#[tokio::test]
async fn authorities_that_have_expired_only_by_the_operators_clock_are_kept() {
    let ns = TestNamespace::new("clock").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    ns.bootstrapped("demo").await;
    operator.quiet(2).await;
    operator.stop().await;
    let version = async |name: &str| ns.api::<Secret>().get(name).await.unwrap().resource_version();
    let names = ["demo-client-ca", "demo-peer-ca", "demo-0-tls"];
    let before = join_all(names.map(version)).await;
    let operator = ns.operator_with_clock(years_later);
    let condition = ns.reports("demo", "Degraded", "ClockSkew").await;
    assert!(condition.message.contains("has expired by the operator's clock"), "{}", condition.message);
    operator.wait_for_passes(3).await;
    assert_eq!(join_all(names.map(version)).await, before);
    operator.stop().await;
    // With the right clock the operator continues.
    let operator = ns.operator();
    ns.bootstrapped("demo").await;
    assert_eq!(join_all(names.map(version)).await, before);
    operator.stop().await;
}
