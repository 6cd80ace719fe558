//! The operator itself: its chart, its restarts and its leader election. These scenarios run alone.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_warden::{
    api::EtcdCluster,
    names::authority_key,
    pki::{Authority, Certificate, Domain},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::Deployment,
    coordination::v1::Lease,
    core::v1::{Namespace, Pod, Secret},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use crate::{
    certificates::like,
    harness::Scenario,
    namespace::{Identity, Operator, TIMEOUT, TestNamespace},
    rotation::make_authorities,
    tools::{kubectl, run, until},
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(restart_writes_nothing).alone(),
        scenario!(stopped_while_a_pod_fails).alone(),
        scenario!(stopped_until_all_certificates_expired).alone(),
        scenario!(leader_killed).alone(),
        scenario!(upgraded_and_uninstalled).alone(),
        scenario!(limited_to_namespaces).alone().long(),
    ]
}

const NAMESPACE: &str = Operator::NAMESPACE;

/// After a restart the operator finds everything up to date and writes nothing.
async fn restart_writes_nothing(ns: Arc<TestNamespace>) {
    ns.cluster_and_user("demo", 3, json!({})).await;
    let before = versions(&ns).await;
    kubectl(["-n", NAMESPACE, "rollout", "restart", "deployment/etcd-warden"]).await.success();
    kubectl(["-n", NAMESPACE, "rollout", "status", "deployment/etcd-warden", "--timeout=120s"]).await.success();
    let leader = until_leader(&ns, None).await;
    // The new leader has reconciled the cluster once its metrics contain it.
    until("the new leader has reconciled the cluster", TIMEOUT, || async {
        let metrics = metrics(&ns, &leader).await?;
        let is_reported = metrics.lines().any(|line| line.contains(&format!("namespace=\"{}\"", ns.name)));
        if is_reported { Ok(()) } else { Err("its metrics do not name it".to_owned()) }
    })
    .await;
    assert_eq!(versions(&ns).await, before);
    let answers = metrics(&ns, &leader).await.unwrap();
    assert!(!answers.contains("PRIVATE"), "no key in the metrics");
}

/// Without an operator clusters continue, and Kubernetes recreates failed pods.
async fn stopped_while_a_pod_fails(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    user.etcdctl(["put", "a", "b"]).await.success();
    stop(&ns).await;
    let before = ns.incarnation("demo-1-0").await;
    ns.kill("demo-1-0").await;
    until("the pod is recreated", TIMEOUT, || async {
        let pod = ns.get::<Pod>("demo-1-0").await.ok_or("it is gone")?;
        let uid = pod.uid().unwrap_or_default();
        if before.starts_with(&uid) { Err("it is the old one".to_owned()) } else { Ok(()) }
    })
    .await;
    until_all_healthy(&ns, &user).await;
    assert_eq!(user.etcdctl(["get", "a", "--print-value-only"]).await.success(), "b\n");
    scale(2).await;
    ns.until_ready("demo").await;
}

/// The operator was stopped until all leaves had expired, and then every pod was restarted: no member trusts another. The started
/// operator recovers the cluster without help.
async fn stopped_until_all_certificates_expired(ns: Arc<TestNamespace>) {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    ns.create_cluster("demo", 3, json!({ "paused": true })).await;
    for domain in [Domain::Client, Domain::Peer] {
        make_authorities(&ns, domain, Timestamp::now() - days(100)).await;
    }
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "paused": false } })).await;
    ns.until_ready("demo").await;
    ns.create_user("app", "demo").await;
    let user = ns.user_identity("app").await;
    user.etcdctl(["put", "a", "b"]).await.success();
    stop(&ns).await;

    let pairs = [
        ("server.crt", "server.key", "demo-client-ca"),
        ("client.crt", "client.key", "demo-client-ca"),
        ("peer.crt", "peer.key", "demo-peer-ca"),
        ("tls.crt", "tls.key", "demo-client-ca"),
    ];
    for secret in ["demo-0-tls", "demo-1-tls", "demo-2-tls", "demo-operator-tls", "app-etcd-tls"] {
        let there = ns.secret(secret).await;
        let mut expired = serde_json::Map::new();
        for (crt, key, authority) in pairs.iter().filter(|(crt, ..)| there.contains_key(*crt)) {
            let authority = ns.secret(authority).await;
            let authority =
                Authority::load(&authority[authority_key::ACTIVE_CRT], &authority[authority_key::ACTIVE_KEY]).unwrap();
            let old = Certificate::from_pem(&there[*crt]).unwrap();
            let leaf = authority.issue(&like(&old, days(90)), Timestamp::now() - days(91)).unwrap();
            expired.insert((*crt).into(), leaf.certificate.pem().into());
            expired.insert((*key).into(), String::from_utf8(leaf.key.pem().to_vec()).unwrap().into());
        }
        ns.patch::<Secret>(secret, json!({ "stringData": expired })).await;
    }
    for pod in ["demo-0-0", "demo-1-0", "demo-2-0"] {
        ns.kill(pod).await;
    }
    // A certificate that is still valid does not help.
    until("no client is served", TIMEOUT, || async {
        let ran = user.etcdctl(["get", "a", "--command-timeout=2s"]).await.result();
        if ran.is_err() { Ok(()) } else { Err("it answers".to_owned()) }
    })
    .await;
    let began = Instant::now();
    scale(2).await;
    until("it serves again", TIMEOUT, || async {
        let user = ns.identity("app-etcd-tls").await;
        user.etcdctl(["get", "a", "--print-value-only", "--command-timeout=2s"]).await.result().map(drop)
    })
    .await;
    ns.measure(format!("everything expired: serves {:.1} s after the operator was started", began.elapsed().as_secs_f32()));
    ns.until_ready("demo").await;
    let user = ns.user_identity("app").await;
    assert_eq!(user.etcdctl(["get", "a", "--print-value-only"]).await.success(), "b\n");
    let events = ns.events("demo").await;
    let is_renewal = |(reason, note): &(String, String)| reason == "CertificatesIssued" && note.contains("has expired");
    assert!(events.iter().any(is_renewal), "{events:?}");
}

/// The leader is killed without releasing the lease. Another process takes over, and there are never two leaders.
async fn leader_killed(ns: Arc<TestNamespace>) {
    ns.create_cluster("demo", 1, json!({})).await;
    ns.until_ready("demo").await;
    let first = until_leader(&ns, None).await;
    let transitions = lease(&ns).await.and_then(|lease| lease.spec?.lease_transitions);
    let process = process_of(&ns, &first).await;
    let began = Instant::now();
    run("kill", ["-9", &process]).await.success();
    // The restarted container has the same pod name, but waits like any other candidate.
    let mut holders = vec![first.clone()];
    until("another process leads", TIMEOUT, || {
        let seen = holders.last().cloned();
        let ns = &ns;
        async move {
            let holder = holder(ns).await;
            match holder {
                Some(holder) if Some(&holder) != seen.as_ref() => Ok(holder),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
    let took = began.elapsed();
    let second = holder(&ns).await.unwrap();
    holders.push(second.clone());
    ns.measure(format!("a killed leader is replaced after {:.1} s", took.as_secs_f32()));
    assert!(took >= Duration::from_secs(5), "taken from a leader that may have acted: {took:?}");
    assert!(took < Duration::from_secs(25), "{took:?}");
    let now = lease(&ns).await.and_then(|lease| lease.spec?.lease_transitions);
    assert_eq!(now, transitions.map(|count| count + 1), "the lease went from {first} to {second} and nowhere else");
    // The new leader reconciles clusters.
    ns.delete::<k8s_openapi::api::core::v1::Service>("demo-peers").await;
    until("the Service is back", TIMEOUT, || async {
        ns.get::<k8s_openapi::api::core::v1::Service>("demo-peers").await.map(drop).ok_or_else(|| "it is gone".to_owned())
    })
    .await;
}

/// A change of the chart's values does not affect clusters. After an uninstall the clusters and the CRDs are kept, and a new
/// release manages them.
async fn upgraded_and_uninstalled(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 1, json!({})).await;
    let before = versions(&ns).await;
    let crd = [
        "get",
        "crd",
        "etcdclusters.etcd-warden.dev",
        "-o",
        "jsonpath={.spec.versions[0].schema.openAPIV3Schema.properties.spec.properties.paused.type}",
    ];
    // The CRD is changed to one that an older release might have installed.
    let older = json!({ "metadata": { "annotations": { "example.com/of": "an older release" } } }).to_string();
    kubectl(["patch", "crd", "etcdclusters.etcd-warden.dev", "--type=merge", "-p", &older]).await.success();
    let drop_column = json!([{ "op": "remove", "path": "/spec/versions/0/additionalPrinterColumns/0" }]).to_string();
    kubectl(["patch", "crd", "etcdclusters.etcd-warden.dev", "--type=json", "-p", &drop_column]).await.success();
    let columns =
        ["get", "crd", "etcdclusters.etcd-warden.dev", "-o", "jsonpath={.spec.versions[0].additionalPrinterColumns[*].name}"];
    assert!(!kubectl(columns).await.success().starts_with("Ready"));

    Operator::install(&["--set=replicaCount=1,logLevel=debug,resources.requests.cpu=11m,metrics.service.enabled=true"]).await;
    assert!(kubectl(columns).await.success().starts_with("Ready"), "the upgrade did not bring its CRD");
    assert_eq!(kubectl(crd).await.success(), "boolean");
    let deployment = operator_deployment(&ns).await;
    assert_eq!(deployment.spec.replicas, Some(1));
    assert!(serde_json::to_string(&deployment).unwrap().contains("11m"));
    until_leader(&ns, None).await;

    run("helm", ["uninstall", "etcd-warden", "--namespace", NAMESPACE, "--wait", "--timeout=2m"]).await.success();
    assert_eq!(kubectl(crd).await.success(), "boolean", "the CRDs are kept");
    user.etcdctl(["put", "without", "operator"]).await.success();
    assert_eq!(versions(&ns).await, before, "neither the upgrade nor the end of the operator wrote anything");
    let left =
        kubectl(["get", "clusterrole,clusterrolebinding", "-l", "app.kubernetes.io/instance=etcd-warden", "-o", "name"]).await;
    assert_eq!(left.success(), "", "roles are left");

    Operator::install(&[]).await;
    ns.delete::<k8s_openapi::api::core::v1::Service>("demo-peers").await;
    ns.until_ready("demo").await;
    until("the new release works", TIMEOUT, || async {
        ns.get::<k8s_openapi::api::core::v1::Service>("demo-peers").await.map(drop).ok_or_else(|| "no Service".to_owned())
    })
    .await;
}

/// A release for one namespace manages only that one, and may not read Secrets of others.
async fn limited_to_namespaces(ns: Arc<TestNamespace>) {
    run("helm", ["uninstall", "etcd-warden", "--namespace", NAMESPACE, "--wait", "--timeout=2m"]).await.success();
    let namespaces: Api<Namespace> = Api::all(ns.client.clone());
    let other = TestNamespace::create(ns.client.clone(), "operator::limited_to_namespaces_other").await;
    let watch = format!("--set=watchNamespaces={{{}}}", ns.name);
    Operator::install(&[&watch]).await;
    ns.create_cluster("demo", 1, json!({})).await;
    other.create_cluster("demo", 1, json!({})).await;
    ns.until_ready("demo").await;
    assert!(other.get::<etcd_warden::api::EtcdCluster>("demo").await.unwrap().status.is_none());
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:etcd-warden");
    let may = async |namespace: &str| kubectl(["auth", "can-i", "get", "secrets", "-n", namespace, &account]).await.out;
    assert_eq!(may(&ns.name).await, "yes\n");
    assert_eq!(may(&other.name).await, "no\n");
    namespaces.delete(&other.name, &DeleteParams::default()).await.unwrap();
    run("helm", ["uninstall", "etcd-warden", "--namespace", NAMESPACE, "--wait", "--timeout=2m"]).await.success();
    Operator::install(&[]).await;
}

/// The resourceVersions of all objects in the namespace.
async fn versions(ns: &TestNamespace) -> BTreeMap<String, String> {
    let kinds =
        "etcdclusters,etcdusers,statefulsets,pods,services,configmaps,secrets,persistentvolumeclaims,poddisruptionbudgets";
    let listed: Value = serde_json::from_str(&ns.kubectl(["get", kinds, "-o", "json"]).await.success()).unwrap();
    let of = |object: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"])), text(&object["metadata"]["resourceVersion"]))
    };
    listed["items"].as_array().unwrap().iter().map(of).collect()
}

async fn operator_deployment(ns: &TestNamespace) -> Deployment {
    Api::namespaced(ns.client.clone(), NAMESPACE).get("etcd-warden").await.unwrap()
}

async fn operator_pods(ns: &TestNamespace) -> Vec<Pod> {
    let api: Api<Pod> = Api::namespaced(ns.client.clone(), NAMESPACE);
    api.list(&ListParams::default().labels("app.kubernetes.io/name=etcd-warden")).await.unwrap().items
}

/// Kills the operators, without starting others.
pub async fn kill(ns: &TestNamespace) {
    scale(0).await;
    for pod in operator_pods(ns).await {
        let pods = Api::<Pod>::namespaced(ns.client.clone(), NAMESPACE);
        drop(pods.delete(&pod.name_any(), &DeleteParams::default().grace_period(0)).await);
    }
    stop(ns).await;
}

/// Stops the operators, and waits until they have ended.
pub async fn stop(ns: &TestNamespace) {
    scale(0).await;
    until("no operator runs", TIMEOUT, || async {
        let pods = operator_pods(ns).await;
        if pods.is_empty() { Ok(()) } else { Err(format!("{} pods", pods.len())) }
    })
    .await;
}

pub async fn scale(replicas: u32) {
    let replicas = format!("--replicas={replicas}");
    kubectl(["-n", NAMESPACE, "scale", "deployment/etcd-warden", &replicas]).await.success();
}

async fn lease(ns: &TestNamespace) -> Option<Lease> {
    Api::<Lease>::namespaced(ns.client.clone(), NAMESPACE).get_opt("etcd-warden").await.unwrap()
}

async fn holder(ns: &TestNamespace) -> Option<String> {
    lease(ns).await?.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

/// Waits until an existing pod other than `not` leads.
async fn until_leader(ns: &TestNamespace, not: Option<&str>) -> String {
    until("an operator leads", TIMEOUT, || async {
        let pods: Vec<_> = operator_pods(ns).await.iter().map(ResourceExt::name_any).collect();
        match holder(ns).await {
            Some(holder) if pods.contains(&holder) && Some(holder.as_str()) != not => Ok(holder),
            other => Err(format!("{other:?} leads of {pods:?}")),
        }
    })
    .await
}

/// The metrics of an operator's pod.
async fn metrics(ns: &TestNamespace, pod: &str) -> Result<String, String> {
    let api: Api<Pod> = Api::namespaced(ns.client.clone(), NAMESPACE);
    let address = api.get(pod).await.map_err(|e| e.to_string())?.status.and_then(|status| status.pod_ip).ok_or("no address")?;
    let host = if address.contains(':') { format!("[{address}]") } else { address };
    run("curl", ["-sS", "--max-time", "5", &format!("http://{host}:8080/metrics")]).await.result()
}

/// The operator's process in a pod.
async fn process_of(ns: &TestNamespace, pod: &str) -> String {
    let api: Api<Pod> = Api::namespaced(ns.client.clone(), NAMESPACE);
    let uid = api.get(pod).await.unwrap().uid().unwrap();
    crate::tools::process("etcd-warden", &uid)
}

/// Waits until every member is healthy according to etcdctl.
async fn until_all_healthy(ns: &TestNamespace, user: &Identity) {
    let names = ns.names("demo");
    let members: Vec<_> = (0..3).map(|ordinal| names.client_url(&names.member(ordinal))).collect();
    let all = user.at(members.join(","));
    until("every member serves", TIMEOUT, || async {
        all.etcdctl(["endpoint", "health", "--command-timeout=3s"]).await.result()
    })
    .await;
}
