//! The permissions that the chart grants are sufficient, and there are no others.

use std::{path::Path, process::Command};

use etcd_warden::{api::EtcdUser, http::Readiness, leader::Elector};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::ListParams, client::ClientBuilder, config::AuthInfo};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    namespace::{Operator, TestNamespace, until},
    server::{self, program},
    state::check_complete,
    tap::Tap,
};

/// Installs the chart's service account and roles in this namespace, and returns a client with the operator's token.
pub async fn install(ns: &TestNamespace<'_>, tap: &Tap, values: &[&str]) -> Client {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/etcd-warden");
    let version = ns.client.apiserver_version().await.unwrap().git_version;
    let rendered = Command::new(program("helm"))
        .args(["template", "etcd-warden", &chart.display().to_string(), "--namespace", &ns.name])
        .args(["--show-only=templates/rbac.yaml", "--show-only=templates/serviceaccount.yaml"])
        .args(["--kube-version", &version])
        .args(values)
        .output()
        .unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rendered.stdout).unwrap();
    ns.server.kubectl(&["apply", "-f", &file.path().display().to_string()]);
    let token = ns.server.kubectl(&["-n", &ns.name, "create", "token", "etcd-warden"]);
    let mut config = ns.server.config();
    config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
    ClientBuilder::try_from(config).unwrap().with_layer(tap).build()
}

/// Lets the operator become the leader, bootstrap a cluster, issue a user's certificate and revoke it.
async fn check_rights(ns: &TestNamespace<'_>, client: Client, tap: Tap, namespaces: Vec<String>) {
    let elector = Elector::new(client.clone(), &ns.name, "etcd-warden", "test");
    let leadership = elector.acquire(&CancellationToken::new(), &Readiness::default().gate("lease")).await.unwrap();
    let operator = Operator::start(client, tap, namespaces);
    ns.cluster("demo", json!({})).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    ns.bootstrapped("demo").await;
    ns.user_reports("app", "Issued").await;
    check_complete(ns, "demo").await;
    ns.delete::<EtcdUser>("app").await;
    until("it is revoked", async || {
        let revoked = crate::state::Issuing::read(ns, "demo", etcd_warden::pki::Domain::Client).await.revoked;
        (revoked.len() == 1).then_some(())
    })
    .await;
    operator.quiet(1).await;
    let forbidden = operator.tap.answered(403);
    assert!(forbidden.is_empty(), "{forbidden:#?}");
    operator.stop().await;
    leadership.release().await;
}

#[tokio::test]
async fn all_namespaces_can_be_watched() {
    let server = server::isolated().await;
    let ns = TestNamespace::on(&server, "everywhere").await;
    let tap = Tap::default();
    let client = install(&ns, &tap, &[]).await;
    check_rights(&ns, client, tap, vec![]).await;
}

#[tokio::test]
async fn one_namespace_can_be_watched_without_access_to_others() {
    let ns = TestNamespace::new("here").await;
    let tap = Tap::default();
    let client = install(&ns, &tap, &["--set", &format!("watchNamespaces={{{}}}", ns.name)]).await;
    check_rights(&ns, client.clone(), tap, vec![ns.name.clone()]).await;
    for secrets in [Api::<Secret>::namespaced(client.clone(), "kube-system"), Api::all(client)] {
        let answer = secrets.list(&ListParams::default()).await.err();
        assert!(matches!(&answer, Some(kube::Error::Api(status)) if status.code == 403), "{answer:?}");
    }
}
