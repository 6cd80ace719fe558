//! Leader election on a real Lease.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use etcd_warden::{
    http::Readiness,
    leader::{DEADLINE, Elector, LEASE, Leadership},
};
use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use tokio_util::sync::CancellationToken;

use crate::{
    namespace::{TestNamespace, until},
    server,
};

/// The lease's name.
const NAME: &str = "etcd-warden";

/// Waits until a candidate leads.
async fn lead(client: Client, namespace: &str, identity: &str) -> Leadership {
    let readiness = Readiness::default();
    let elector = Elector::new(client, namespace, NAME, identity);
    elector.acquire(&CancellationToken::new(), &readiness.gate("lease")).await.unwrap()
}

fn leases(ns: &TestNamespace<'_>) -> Api<Lease> {
    ns.api()
}

async fn holder(ns: &TestNamespace<'_>) -> Option<String> {
    leases(ns).get(NAME).await.unwrap().spec?.holder_identity
}

/// Takes the lease in the name of another process.
async fn steal(ns: &TestNamespace<'_>) {
    until("the lease is stolen", async || {
        let mut lease = leases(ns).get(NAME).await.unwrap();
        lease.spec.as_mut().unwrap().holder_identity = Some("thief".into());
        leases(ns).replace(NAME, &PostParams::default(), &lease).await.ok()
    })
    .await;
}

#[tokio::test]
async fn there_is_one_leader_at_a_time() {
    let ns = TestNamespace::new("election").await;
    let leading = AtomicU32::new(0);
    // Each leads twice and releases the lease.
    join_all(["a", "b", "c"].map(|name| {
        let (ns, leading) = (&ns, &leading);
        async move {
            for _ in 0..2 {
                let leadership = lead(ns.server.client(), &ns.name, name).await;
                assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead");
                assert_eq!(holder(ns).await.as_deref(), Some(name));
                assert_eq!(leading.fetch_sub(1, Ordering::SeqCst), 1, "two lead");
                leadership.release().await;
            }
        }
    }))
    .await;
    let lease = leases(&ns).get(NAME).await.unwrap().spec.unwrap();
    assert_eq!((lease.holder_identity, lease.lease_transitions), (None, Some(5)));
}

#[tokio::test]
async fn a_candidate_leads_within_seconds_after_a_release() {
    let ns = TestNamespace::new("release").await;
    let first = lead(ns.client.clone(), &ns.name, "first").await;
    let readiness = Readiness::default();
    let standby = readiness.gate("lease");
    let second = Elector::new(ns.server.client(), &ns.name, NAME, "second");
    let stop = CancellationToken::new();
    let waiting = second.acquire(&stop, &standby);
    tokio::pin!(waiting);
    tokio::select! {
        _ = &mut waiting => panic!("two lead"),
        () = until("the second stands by", async || readiness.awaited().is_empty().then_some(())) => {}
    }
    first.release().await;
    let released = Instant::now();
    let second = waiting.await.unwrap();
    assert!(released.elapsed() < Duration::from_secs(5), "{:?}", released.elapsed());
    assert_eq!(holder(&ns).await.as_deref(), Some("second"));
    second.release().await;
}

#[tokio::test]
async fn a_stolen_lease_is_lost_and_not_released() {
    let ns = TestNamespace::new("stolen").await;
    let leadership = lead(ns.client.clone(), &ns.name, "robbed").await;
    steal(&ns).await;
    let stolen = Instant::now();
    leadership.lost().await;
    assert!(stolen.elapsed() < DEADLINE, "{:?}", stolen.elapsed());
    leadership.release().await;
    assert_eq!(holder(&ns).await.as_deref(), Some("thief"));
}

#[tokio::test]
async fn a_deleted_lease_is_lost() {
    let ns = TestNamespace::new("deleted").await;
    let leadership = lead(ns.client.clone(), &ns.name, "robbed").await;
    ns.delete::<Lease>(NAME).await;
    leadership.lost().await;
    assert!(leases(&ns).get_opt(NAME).await.unwrap().is_none());
}

#[tokio::test]
async fn leadership_is_lost_without_the_api_server_before_another_leads() {
    let server = server::isolated().await;
    let ns = TestNamespace::on(&server, "silence").await;
    let first = lead(ns.client.clone(), &ns.name, "first").await;
    let began = Instant::now();
    server.signal("STOP");
    first.lost().await;
    let lost = Instant::now();
    server.signal("CONT");
    assert!(lost - began < DEADLINE + Duration::from_secs(1), "{:?}", lost - began);
    assert!(lost - began > DEADLINE / 2, "a short outage is tolerated: {:?}", lost - began);
    // A new candidate does not know how old the lease is.
    let came = Instant::now();
    let second = lead(server.client(), &ns.name, "second").await;
    assert!(came.elapsed() >= LEASE, "{:?}", came.elapsed());
    second.release().await;
}
