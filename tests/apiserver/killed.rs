//! The operator dies, before any of its writes or having sent it, and the next one goes on.

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
    state::{bytes, certificate, names, whole},
    tap::{Death, Tap},
    world::{Operator, World},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_a_write() {
    at_every_write(Death::Before, "before", 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_write() {
    at_every_write(Death::After, "after", 1).await;
}

/// Founds a cluster for each of the writes that this takes.
async fn at_every_write(death: fn(usize) -> Death, name: &str, replicas: i32) {
    let world = World::new(&format!("{name}-none")).await;
    let operator = found(&world, Tap::default(), replicas).await;
    let writes = operator.tap.writes().len();
    operator.stop().await;
    assert!(writes > 20, "{writes} writes");
    stream::iter(1..=writes)
        .for_each_concurrent(8, |count| async move {
            let world = World::new(&format!("{name}-{count}")).await;
            let tap = Tap::mortal(death(count));
            // It may be done with fewer writes this time.
            let first = tokio::select! {
                operator = found(&world, tap.clone(), replicas) => operator,
                () = tap.dead() => return go_on(&world, None).await,
            };
            go_on(&world, Some(first)).await;
        })
        .await;
}

/// Has a cluster founded with one user.
async fn found(world: &World<'_>, tap: Tap, replicas: i32) -> Operator {
    world.cluster("demo", json!({ "replicas": replicas })).await;
    world.user("app", json!({ "clusterRef": { "name": "demo" } })).await;
    let operator = world.operator_with(tap);
    world.founded("demo").await;
    world.user_reports("app", "Issued").await;
    operator.quiet(1).await;
    operator
}

/// The operator is dead: what there is must be sound already, and the next one makes it whole.
async fn go_on(world: &World<'_>, first: Option<Operator>) {
    if let Some(operator) = first {
        operator.kill().await;
    }
    let left = authorities(world).await;
    everything_held_is_written_down(world).await;
    let next = world.operator();
    world.founded("demo").await;
    world.user_reports("app", "Issued").await;
    whole(world, "demo").await;
    let now = authorities(world).await;
    for (name, certificates) in left {
        assert_eq!(now[&name], certificates, "{name} was made anew");
    }
    let conflicts = next.tap.answered(409);
    assert!(conflicts.len() < 6, "{conflicts:#?}");
    next.stop().await;
}

/// The certificates of the authorities that there are.
async fn authorities(world: &World<'_>) -> BTreeMap<String, [Vec<u8>; 2]> {
    let names = names(world, "demo");
    let mut all = BTreeMap::new();
    for name in [names.client_authority(), names.peer_authority()] {
        if let Some(secret) = world.api::<Secret>().get_opt(&name).await.unwrap() {
            all.insert(name, [authority_key::ACTIVE_CRT, authority_key::NEXT_CRT].map(|key| bytes(&secret, key).to_vec()));
        }
    }
    all
}

async fn everything_held_is_written_down(world: &World<'_>) {
    let names = names(world, "demo");
    // The certificates first: what is written down afterwards does not count.
    let secrets = world.api::<Secret>().list(&kube::api::ListParams::default()).await.unwrap();
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
