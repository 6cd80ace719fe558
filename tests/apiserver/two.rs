//! Two operators act at the same time, which leader election makes unlikely but not impossible.

use etcd_warden::{
    ids::Uid,
    kubernetes::{
        apply,
        object::{Object, ObjectVersion},
    },
};
use futures::future::join_all;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::api::{DeleteParams, ListParams, ObjectMeta};
use serde_json::json;

use crate::{namespace::TestNamespace, state::check_complete};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_do_no_harm() {
    // It is repeated, because the order of writes is random.
    join_all((0..5).map(|_| async {
        let ns = TestNamespace::new("two").await;
        let operators = [ns.operator(), ns.operator()];
        ns.cluster("demo", json!({})).await;
        ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
        ns.bootstrapped("demo").await;
        ns.user_reports("app", "Issued").await;
        for operator in &operators {
            operator.quiet(1).await;
        }
        let written = check_complete(&ns, "demo").await;

        // Every Secret was created once, so no authority was replaced.
        let secrets = ns.api::<Secret>().list(&ListParams::default()).await.unwrap().items.len();
        let made = operators.iter().flat_map(|operator| operator.tap.answered(201));
        let made = made.filter(|seen| seen.writes() && seen.method == "POST" && seen.path.ends_with("/secrets")).count();
        assert_eq!((secrets, made), (7, 7));
        // At worst both have issued all certificates, and half of them were never used.
        assert!(written.client <= 2 * 8 && written.peer <= 2 * 3, "{written:?}");
        for operator in operators {
            // Each of the 18 objects may have been created by the other one first. The status is written again and again.
            let (statuses, objects): (Vec<_>, Vec<_>) =
                operator.tap.answered(409).into_iter().partition(|seen| seen.path.ends_with("/status"));
            assert!(objects.len() <= 18 && statuses.len() < 10, "{objects:#?} {statuses:#?}");
            let writes = operator.tap.writes().len();
            assert!(writes < 80, "{writes} writes");
            operator.stop().await;
        }
    }))
    .await;
}

/// A plan may be executed late, by an operator that was suspended and does not know about later changes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_plan_does_not_overwrite_newer_versions() {
    let ns = TestNamespace::new("late").await;
    let (api, uid) = (ns.api::<ConfigMap>(), Uid::from("uid-of-demo"));
    let config = |state: &str| ConfigMap {
        metadata: ObjectMeta {
            name: Some("demo-bootstrap".into()),
            owner_references: Some(vec![OwnerReference {
                api_version: "etcd-warden.dev/v1alpha1".into(),
                kind: "EtcdCluster".into(),
                name: "demo".into(),
                uid: "uid-of-demo".into(),
                controller: Some(true),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        data: Some([("demo-0.state".to_owned(), state.to_owned())].into()),
        ..ConfigMap::default()
    };
    let apply = async |seen: Option<&ConfigMap>, state: &str| {
        let object = Object { seen: seen.and_then(|seen| ObjectVersion::of(&seen.metadata)), ..Object::new(&config(state)) };
        apply::apply(&ns.client, &ns.name, &object, &uid).await.map(drop).map_err(|error| error.to_string())
    };
    let there = async || api.get("demo-bootstrap").await.unwrap();
    let state = |config: &ConfigMap| config.data.as_ref().unwrap()["demo-0.state"].clone();
    let changed = Err("ConfigMap demo-bootstrap has changed meanwhile".to_owned());

    // If two find no object, one creates it.
    let both = futures::join!(apply(None, "one"), apply(None, "other"));
    assert_eq!([&both.0, &both.1].into_iter().filter(|made| made.is_ok()).count(), 1, "{both:?}");
    assert_eq!([both.0, both.1].into_iter().find(Result::is_err), Some(changed.clone()));
    let first = there().await;
    // If two have seen the same version, one changes it.
    assert_eq!(apply(Some(&first), "changed").await, Ok(()));
    assert_eq!(apply(Some(&first), "late").await, changed);
    let second = there().await;
    assert_eq!(state(&second), "changed");
    // A deleted object is not created again by an operator that has seen it.
    api.delete("demo-bootstrap", &DeleteParams::default()).await.unwrap();
    assert_eq!(apply(Some(&second), "late").await, changed);
    assert!(api.get_opt("demo-bootstrap").await.unwrap().is_none());
    // An object that belongs to others is reported as such.
    api.create(
        &apply::post(),
        &ConfigMap { metadata: ObjectMeta { owner_references: None, ..config("").metadata }, ..config("theirs") },
    )
    .await
    .unwrap();
    assert_eq!(
        apply(None, "late").await,
        Err("ConfigMap demo-bootstrap cannot be used: it was not created by etcd-warden".to_owned())
    );
    assert_eq!(state(&there().await), "theirs");
}
