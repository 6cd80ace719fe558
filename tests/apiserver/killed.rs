//! The operator is killed before or after each of its writes, and the next one continues.

use std::collections::BTreeMap;

use etcd_warden::{
    names::{authority_key, member_key, tls_key},
    pki::{Domain, Ledger},
};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::json;

use crate::{
    namespace::{Operator, TestNamespace},
    state::{bytes, certificate, check_complete, names},
    tap::{Kill, Tap},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_a_write() {
    kill_at_every_write(Kill::Before, "before", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_write() {
    kill_at_every_write(Kill::After, "after", 1).await;
}

/// Bootstraps a cluster for each of the writes that this takes.
async fn kill_at_every_write(kill: fn(usize) -> Kill, name: &str, replicas: i32) {
    let ns = TestNamespace::new(&format!("{name}-none")).await;
    let operator = bootstrap(&ns, Tap::default(), replicas).await;
    let writes = operator.tap.writes().len();
    operator.stop().await;
    assert!(writes > 20, "{writes} writes");
    stream::iter(1..=writes)
        .for_each_concurrent(8, |count| async move {
            let ns = TestNamespace::new(&format!("{name}-{count}")).await;
            let tap = Tap::killed_at(kill(count));
            // It may need fewer writes this time.
            let first = tokio::select! {
                operator = bootstrap(&ns, tap.clone(), replicas) => operator,
                () = tap.killed() => return next_operator_continues(&ns, None).await,
            };
            next_operator_continues(&ns, Some(first)).await;
        })
        .await;
}

/// Bootstraps a cluster with one user.
async fn bootstrap(ns: &TestNamespace<'_>, tap: Tap, replicas: i32) -> Operator {
    ns.cluster("demo", json!({ "replicas": replicas })).await;
    ns.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    let operator = ns.operator_with(tap);
    ns.bootstrapped("demo").await;
    ns.user_reports("app", "Issued").await;
    operator.quiet(1).await;
    operator
}

/// The operator was killed: existing objects must be consistent, and the next operator completes them.
async fn next_operator_continues(ns: &TestNamespace<'_>, first: Option<Operator>) {
    if let Some(operator) = first {
        operator.kill().await;
    }
    let left = authorities(ns).await;
    all_certificates_are_recorded(ns).await;
    let next = ns.operator();
    ns.bootstrapped("demo").await;
    ns.user_reports("app", "Issued").await;
    check_complete(ns, "demo").await;
    let now = authorities(ns).await;
    for (name, certificates) in left {
        assert_eq!(now[&name], certificates, "{name} was recreated");
    }
    let conflicts = next.tap.answered(409);
    assert!(conflicts.len() < 6, "{conflicts:#?}");
    next.stop().await;
}

/// The certificates of the existing authorities.
async fn authorities(ns: &TestNamespace<'_>) -> BTreeMap<String, [Vec<u8>; 2]> {
    let names = names(ns, "demo");
    let mut all = BTreeMap::new();
    for name in [names.client_authority(), names.peer_authority()] {
        if let Some(secret) = ns.api::<Secret>().get_opt(&name).await.unwrap() {
            all.insert(name, [authority_key::ACTIVE_CRT, authority_key::NEXT_CRT].map(|key| bytes(&secret, key).to_vec()));
        }
    }
    all
}

async fn all_certificates_are_recorded(ns: &TestNamespace<'_>) {
    let names = names(ns, "demo");
    // The leaves and the ledger are read together, so that a later ledger entry does not count.
    let secrets = ns.api::<Secret>().list(&kube::api::ListParams::default()).await.unwrap();
    for (domain, keys) in [
        (Domain::Client, [member_key::SERVER_CRT, member_key::CLIENT_CRT, tls_key::CRT].as_slice()),
        (Domain::Peer, [member_key::PEER_CRT].as_slice()),
    ] {
        let name = if domain == Domain::Client { names.client_authority() } else { names.peer_authority() };
        let ledger = secrets.iter().find(|secret| secret.name_any() == name);
        let ledger = ledger.map(|secret| Ledger::from_json(bytes(secret, authority_key::LEDGER)).unwrap()).unwrap_or_default();
        for secret in &secrets {
            for key in keys.iter().filter(|key| !bytes(secret, key).is_empty()) {
                let serial = certificate(secret, key).serial();
                assert!(ledger.entries().any(|issued| issued.serial == serial), "{}: {key}", secret.name_any());
            }
        }
    }
}
