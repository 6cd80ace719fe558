//! What is wrong with one object or one namespace takes nothing from others.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use etcd_warden::{
    etcd::{Change, Client, DialError, Dialer, EtcdError, MemberList, Progress, StatusAnswer, Target, Tls, VersionMetrics},
    ids::MemberId,
    names::label,
};
use futures::future::BoxFuture;
use k8s_openapi::api::{core::v1::Pod, events::v1::Event};
use kube::api::{ListParams, Patch, PatchParams};
use serde_json::json;

use crate::{
    namespace::{Operator, TestNamespace, until},
    rights,
    tap::Tap,
};

/// What happens when a member is asked for its status, as long as it is wrong.
#[derive(Clone, Copy)]
enum Fault {
    /// The operator panics.
    Bug,
    /// There is never an answer.
    Hang,
}

/// Connections to members with a fault.
struct Faulty {
    fault: Fault,
    is_wrong: AtomicBool,
    client: Client,
}

impl Faulty {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { fault, is_wrong: true.into(), client: Client::default() })
    }
}

impl Dialer for Faulty {
    fn ask<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>> {
        Box::pin(async move {
            match self.fault {
                Fault::Bug if self.is_wrong.load(Ordering::Relaxed) => panic!("a bug that {target} reveals"),
                Fault::Hang if self.is_wrong.load(Ordering::Relaxed) => std::future::pending().await,
                _ => self.client.ask(target, tls).await,
            }
        })
    }

    fn members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        self.client.members(target, tls)
    }

    fn own_members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        self.client.own_members(target, tls)
    }

    fn change<'a>(&'a self, target: &'a Target, tls: &'a Tls, change: &'a Change) -> BoxFuture<'a, Result<(), EtcdError>> {
        self.client.change(target, tls, change)
    }

    fn advance<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<(), EtcdError>> {
        self.client.advance(target, tls)
    }

    fn versions<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<VersionMetrics, EtcdError>> {
        self.client.versions(target)
    }

    fn active_peers<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<BTreeSet<MemberId>, EtcdError>> {
        self.client.active_peers(target)
    }

    fn progress<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>> {
        self.client.progress(target)
    }

    fn served<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>> {
        self.client.served(target, tls)
    }
}

/// Makes a pod of the only member of a cluster appear to run, so that the operator asks it.
async fn run_pod(ns: &TestNamespace<'_>, cluster: &str) {
    let labels =
        json!({ "app.kubernetes.io/managed-by": "etcd-warden", label::INSTANCE: cluster, label::MEMBER: format!("{cluster}-0") });
    let pod = format!("{cluster}-0-0");
    let containers = json!([{ "name": "etcd", "image": "etcd" }]);
    ns.create::<Pod>(&pod, json!({ "metadata": { "labels": labels }, "spec": { "nodeName": "none", "containers": containers } }))
        .await
        .unwrap();
    let status = json!({
        "podIP": "127.0.0.1", "phase": "Running",
        "containerStatuses": [{
            "name": "etcd", "image": "etcd", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
        }],
    });
    let patch = Patch::Merge(json!({ "status": status }));
    ns.api::<Pod>().patch_status(&pod, &PatchParams::default(), &patch).await.unwrap();
}

/// An operator that reconciles a cluster and a user that are new.
async fn check_others(ns: &TestNamespace<'_>, name: &str) {
    ns.cluster(name, json!({ "replicas": 1 })).await;
    ns.user(name, json!({ "clusterRef": { "name": name } })).await;
    ns.bootstrapped(name).await;
    ns.user_reports(name, "Issued").await;
}

#[tokio::test]
async fn a_bug_that_one_object_reveals_is_reported_and_stops_no_other() {
    let ns = TestNamespace::new("bug").await;
    let faulty = Faulty::new(Fault::Bug);
    let operator = ns.operator_with_dialer(faulty.clone());
    check_others(&ns, "demo").await;
    run_pod(&ns, "demo").await;
    let degraded = ns.reports("demo", "Degraded", "InternalError").await.message;
    for words in ["bug in etcd-warden", "panicked at tests/apiserver/neighbors.rs", "https://github.com/", "kubectl logs"] {
        assert!(degraded.contains(words), "{words} is not in {degraded}");
    }
    // Everybody may read it.
    assert!(!degraded.contains("reveals"), "{degraded}");
    until("there is an event", async || {
        let events = ns.api::<Event>().list(&ListParams::default()).await.unwrap();
        let is_about = |event: &Event| event.regarding.as_ref().and_then(|it| it.name.as_deref()) == Some("demo");
        events.into_iter().find(|event| is_about(event) && event.reason.as_deref() == Some("InternalError"))
    })
    .await;
    until("it is counted", async || {
        operator.has_series(r#"etcd_warden_reconciles_total{kind="EtcdCluster",outcome="panic"}"#).then_some(())
    })
    .await;
    check_others(&ns, "other").await;

    // It goes on as soon as the bug does not show.
    faulty.is_wrong.store(false, Ordering::Relaxed);
    ns.reports("demo", "Degraded", "Healthy").await;
    operator.stop().await;
}

#[tokio::test]
async fn clusters_whose_members_hang_take_no_time_from_others() {
    let ns = TestNamespace::new("hang").await;
    let operator = ns.operator_with_dialer(Faulty::new(Fault::Hang));
    // More than passes begin at the same time.
    let hanging: Vec<_> = (0..20).map(|n| format!("hang-{n}")).collect();
    for name in &hanging {
        ns.cluster(name, json!({ "replicas": 1 })).await;
    }
    for name in &hanging {
        ns.bootstrapped(name).await;
        run_pod(&ns, name).await;
    }
    check_others(&ns, "other").await;
    operator.stop().await;
}

#[tokio::test]
async fn a_namespace_that_cannot_be_read_stops_no_other() {
    let (here, there) = (TestNamespace::new("readable").await, TestNamespace::new("unreadable").await);
    let watched = [here.name.clone(), there.name.clone(), "does-not-exist".to_owned()];
    let tap = Tap::default();
    let client = rights::install(&here, &tap, &["--set", &format!("watchNamespaces={{{}}}", here.name)]).await;
    let operator = Operator::start(client, tap, watched.to_vec());
    check_others(&here, "demo").await;
    assert!(operator.readiness.awaited().is_empty(), "{:?}", operator.readiness.awaited());
    assert_eq!(operator.readiness.unread(), ["does-not-exist", &there.name]);
    let unread = |namespace: &str| format!(r#"etcd_warden_namespace_read{{namespace="{namespace}"}} 0"#);
    assert!(operator.has_series(&unread(&there.name)) && !operator.has_series(&unread(&here.name)));

    // It is reconciled as soon as it can be read.
    let both = format!("watchNamespaces={{{},{}}}", here.name, there.name);
    rights::install(&here, &Tap::default(), &["--set", &both]).await;
    check_others(&there, "demo").await;
    assert_eq!(operator.readiness.unread(), ["does-not-exist"]);
    operator.stop().await;
}
