//! An object that this version cannot read, or that an older CRD accepted, is reported and does not affect others.

use etcd_warden::{
    api::{self, EtcdUser},
    names::{member_key, tls_key},
    pki::{Domain, Holder},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{apps::v1::StatefulSet, core::v1::Secret, events::v1::Event},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    namespace::{TestNamespace, until},
    server::{self, Server},
    state::{Issuing, certificate, check_complete, everything},
};

/// Replaces the CRDs by ones that accept everything, as those of another version might.
async fn accept_everything(server: &Server) {
    for mut crd in api::crds().unwrap() {
        let anything = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        crd.spec.versions[0].schema = Some(serde_json::from_value(json!({ "openAPIV3Schema": anything })).unwrap());
        let crds: Api<CustomResourceDefinition> = Api::all(server.client());
        crds.patch(&crd.name_any(), &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.unwrap();
    }
}

/// The objects of a custom resource, which may be unreadable.
fn any(ns: &TestNamespace<'_>, kind: &str) -> Api<DynamicObject> {
    let plural = format!("{}s", kind.to_lowercase());
    let resource = ApiResource {
        group: api::GROUP.into(),
        version: "v1alpha1".into(),
        api_version: format!("{}/v1alpha1", api::GROUP),
        kind: kind.into(),
        plural,
    };
    Api::namespaced_with(ns.client.clone(), &ns.name, &resource)
}

/// Creates an object as soon as the CRD accepts it.
async fn create_unchecked(ns: &TestNamespace<'_>, kind: &str, name: &str, spec: Value) {
    let object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": format!("{}/v1alpha1", api::GROUP), "kind": kind, "metadata": { "name": name }, "spec": spec,
    }))
    .unwrap();
    until("it is accepted", async || any(ns, kind).create(&PostParams::default(), &object).await.ok()).await;
}

/// Waits until there is an event with this reason about an object.
async fn event_about(ns: &TestNamespace<'_>, name: &str, reason: &str) -> Event {
    until(&format!("there is the event {reason} about {name}"), async || {
        let events = ns.api::<Event>().list(&ListParams::default()).await.unwrap();
        let about = |event: &Event| event.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some(name);
        events.into_iter().find(|event| about(event) && event.reason.as_deref() == Some(reason))
    })
    .await
}

/// Whether the API server writes a status although a rule about the stored spec does not hold, which it does from 1.33 on.
async fn writes_any_status(ns: &TestNamespace<'_>) -> bool {
    ns.minor().await >= 33
}

/// Why a stored spec is invalid: in the status, or in an event if that cannot be written.
async fn why_invalid(ns: &TestNamespace<'_>, kind: &str, name: &str) -> String {
    if !writes_any_status(ns).await {
        return event_about(ns, name, "StatusNotAccepted").await.note.unwrap();
    }
    match kind {
        "EtcdUser" => ns.user_reports(name, "InvalidSpec").await.message,
        _ => ns.reports(name, "Degraded", "InvalidSpec").await.message,
    }
}

#[tokio::test]
async fn unreadable_objects_are_reported_and_do_not_affect_others() {
    let server = server::isolated().await;
    let ns = TestNamespace::on(&server, "unreadable").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1 })).await;
    for user in ["app", "other"] {
        ns.user(user, json!({ "clusterRef": { "name": "demo" } })).await;
        ns.user_reports(user, "Issued").await;
    }
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    operator.stop().await;

    accept_everything(&server).await;
    create_unchecked(&ns, "EtcdCluster", "strange", json!({ "replicas": 1, "image": { "pullPolicy": "Sometimes" } })).await;
    create_unchecked(&ns, "EtcdUser", "odd", json!({ "clusterRef": "demo" })).await;
    create_unchecked(&ns, "EtcdUser", "admin", json!({ "clusterRef": { "name": "demo" }, "commonName": "root" })).await;
    create_unchecked(&ns, "EtcdUser", "brief", json!({ "clusterRef": { "name": "demo" }, "certificate": { "duration": "5m" } }))
        .await;
    create_unchecked(&ns, "EtcdCluster", "many", json!({ "replicas": 10, "version": "v3" })).await;
    // Rules about names are evaluated at each write of a status.
    create_unchecked(&ns, "EtcdCluster", "1st", json!({})).await;
    let patch = Patch::Merge(json!({ "spec": { "certificate": { "duration": 7 } } }));
    any(&ns, "EtcdUser").patch("app", &PatchParams::default(), &patch).await.unwrap();
    server.install().await;

    let before = everything(&ns).await;
    let operator = ns.operator();
    for name in ["strange", "odd", "app"] {
        let event = event_about(&ns, name, "Unreadable").await;
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        assert!(event.note.unwrap().contains("cannot read the object and does not change anything"));
    }
    let invalid = why_invalid(&ns, "EtcdCluster", "many").await;
    assert!(invalid.contains("spec.replicas is 10") && invalid.contains("without the v"), "{invalid}");
    if writes_any_status(&ns).await {
        ns.reports("many", "Available", "InvalidSpec").await;
    }
    let invalid = why_invalid(&ns, "EtcdUser", "admin").await;
    assert!(invalid.contains("the operator's own"), "{invalid}");
    let invalid = why_invalid(&ns, "EtcdUser", "brief").await;
    assert!(invalid.contains("at least 1h"), "{invalid}");
    let event = event_about(&ns, "1st", "StatusNotAccepted").await;
    assert!(event.note.unwrap().contains("InvalidSpec"));

    // Others are not affected.
    ns.cluster("next", json!({ "replicas": 1 })).await;
    ns.user("late", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.bootstrapped("next").await;
    ns.user_reports("late", "Issued").await;
    check_complete(&ns, "next").await;
    operator.quiet(4).await;
    let now = everything(&ns).await;
    let of =
        |name: &str| now.values().filter(|o| o.labels().get("app.kubernetes.io/instance").is_some_and(|i| i == name)).count();
    assert_eq!([of("strange"), of("many"), of("1st")], [0, 0, 0]);
    assert!(before.keys().all(|id| now.contains_key(id)));
    // An unreadable user still exists, and its certificate is not revoked.
    let client = Issuing::read(&ns, "demo", Domain::Client).await;
    let leaf = certificate(&ns.api::<Secret>().get("app-etcd-tls").await.unwrap(), tls_key::CRT);
    let written = client.ledger.entries().find(|issued| issued.serial == leaf.serial()).unwrap();
    assert!(matches!(&written.holder, Holder::User { name, .. } if name == "app"));
    assert!(client.revoked.is_empty());

    // Once corrected, they are reconciled again.
    let corrected = Patch::Merge(json!({ "spec": { "image": { "pullPolicy": "Always" } } }));
    any(&ns, "EtcdCluster").patch("strange", &PatchParams::default(), &corrected).await.unwrap();
    let corrected = Patch::Merge(json!({ "spec": { "certificate": { "duration": "7h" } } }));
    any(&ns, "EtcdUser").patch("app", &PatchParams::default(), &corrected).await.unwrap();
    ns.bootstrapped("strange").await;
    ns.user_reports("app", "Issued").await;
    operator.stop().await;
}

#[tokio::test]
async fn certificates_are_renewed_and_revoked_although_a_newer_version_has_stricter_rules() {
    let server = server::isolated().await;
    let ns = TestNamespace::on(&server, "stricter").await;
    let operator = ns.operator();
    ns.cluster("demo", json!({ "replicas": 1, "tls": { "client": { "extraSANs": { "dnsNames": ["etcd.example.com"] } } } }))
        .await;
    for user in ["app", "gone"] {
        ns.user(user, json!({ "clusterRef": { "name": "demo" } })).await;
        ns.user_reports(user, "Issued").await;
    }
    ns.bootstrapped("demo").await;
    operator.quiet(1).await;
    operator.stop().await;
    let leaf = async |secret: &str, key: &str| certificate(&ns.api::<Secret>().get(secret).await.unwrap(), key);
    let (member, user) = (leaf("demo-0-tls", member_key::SERVER_CRT).await, leaf("app-etcd-tls", tls_key::CRT).await);
    let set = async || ns.api::<StatefulSet>().get("demo-0").await.unwrap().metadata.generation;
    let before = set().await;

    accept_everything(&server).await;
    let names = json!({ "client": { "extraSANs": { "dnsNames": ["Not A Name"] } } });
    let stored = Patch::Merge(json!({ "spec": { "replicas": 12, "version": "v3", "tls": names } }));
    any(&ns, "EtcdCluster").patch("demo", &PatchParams::default(), &stored).await.unwrap();
    let stored = Patch::Merge(json!({ "spec": { "certificate": { "duration": "5m" } } }));
    any(&ns, "EtcdUser").patch("app", &PatchParams::default(), &stored).await.unwrap();
    server.install().await;

    // Certificates of 90 days are renewed after 60.
    let operator = ns.operator_with_clock(|| Timestamp::now() + SignedDuration::from_hours(24 * 61));
    let degraded = why_invalid(&ns, "EtcdCluster", "demo").await;
    assert!(degraded.contains("spec.replicas is 12") && degraded.contains("certificates are still issued"), "{degraded}");
    for (secret, key, old) in [("demo-0-tls", member_key::SERVER_CRT, &member), ("app-etcd-tls", tls_key::CRT, &user)] {
        until(&format!("{secret} is renewed"), async || (leaf(secret, key).await.not_after() > old.not_after()).then_some(()))
            .await;
    }
    let renewed = leaf("demo-0-tls", member_key::SERVER_CRT).await;
    assert_eq!(renewed.dns_names(), member.dns_names());
    let invalid = why_invalid(&ns, "EtcdUser", "app").await;
    assert!(invalid.contains("at least 1h"), "{invalid}");
    let user = ns.api::<EtcdUser>().get("app").await.unwrap().status.unwrap();
    assert_eq!(user.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap().status, "True");
    ns.delete::<EtcdUser>("gone").await;
    // Its first certificate, and the second one if it was renewed before.
    until("it is revoked", async || (!Issuing::read(&ns, "demo", Domain::Client).await.revoked.is_empty()).then_some(())).await;
    assert_eq!(set().await, before);
    operator.stop().await;
}
