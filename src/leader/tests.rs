use axum::http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tower_test::mock::{self, Handle, SendResponse};

use super::*;
use crate::http::Readiness;

type Server = Handle<Request<Body>, Response<Body>>;

fn lease(holder: Option<&str>, seconds: Option<i32>) -> Lease {
    let spec = LeaseSpec { holder_identity: holder.map(Into::into), lease_duration_seconds: seconds, ..LeaseSpec::default() };
    Lease { metadata: ObjectMeta::default(), spec: Some(spec) }
}

fn stored(holder: Option<&str>, version: &str) -> Value {
    json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "warden", "namespace": "ns", "resourceVersion": version },
        "spec": { "holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 4 } })
}

fn status(code: StatusCode, reason: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16() })
}

#[test]
fn a_lease_is_taken_only_if_it_is_free_or_has_expired() {
    let since = Instant::now();
    let (no, me, other, long) =
        (None, lease(Some("me"), Some(15)), lease(Some("other"), Some(15)), lease(Some("other"), Some(60)));
    let (free, empty, bare) = (lease(None, Some(15)), lease(Some(""), None), lease(Some("other"), None));
    let (odd, none) = (lease(Some("other"), Some(-1)), Lease::default());
    for (what, lease, after, want) in [
        ("missing", no, 0, Decision::Create),
        ("released", Some(&free), 0, Decision::Take),
        ("released with an empty name", Some(&empty), 0, Decision::Take),
        ("without a spec", Some(&none), 0, Decision::Take),
        ("just seen", Some(&other), 0, Decision::Wait),
        ("almost expired", Some(&other), 14, Decision::Wait),
        ("expired", Some(&other), 15, Decision::Take),
        ("a longer duration", Some(&long), 59, Decision::Wait),
        ("a longer duration, expired", Some(&long), 60, Decision::Take),
        ("without a duration", Some(&bare), 14, Decision::Wait),
        ("without a duration, expired", Some(&bare), 15, Decision::Take),
        ("an invalid duration", Some(&odd), 14, Decision::Wait),
        ("held by another process with our identity", Some(&me), 14, Decision::Wait),
    ] {
        assert_eq!(decide(lease, since, since + Duration::from_secs(after)), want, "{what}");
    }
}

#[test]
fn the_leader_resigns_before_a_candidate_may_take_over() {
    assert_eq!(LEASE.as_secs(), u64::try_from(LEASE_SECONDS).unwrap());
    assert!(DEADLINE < LEASE);
    // Three attempts, each started after the timeout of the previous one.
    assert!(RENEW + 3 * TRY <= DEADLINE && RETRY <= TRY);
}

#[test]
fn acquisitions_and_renewals_are_recorded() {
    let [first, second, third] = [1, 2, 3].map(|s| Timestamp::from_second(s).unwrap());
    let taken = held(Lease::default(), "a", first);
    let renewed = held(taken.clone(), "a", second);
    let stolen = held(renewed.clone(), "b", third);
    let freed = held(released(stolen.clone()), "a", third);
    for (lease, holder, acquired, at, transitions) in [
        (taken, "a", first, first, 0),
        (renewed, "a", first, second, 0),
        (stolen, "b", third, third, 1),
        (freed, "a", third, third, 2),
    ] {
        let spec = lease.spec.unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some(holder));
        assert_eq!((spec.acquire_time, spec.renew_time), (Some(MicroTime(acquired)), Some(MicroTime(at))));
        assert_eq!(spec.lease_transitions, Some(transitions));
        assert_eq!(spec.lease_duration_seconds, Some(15));
    }
}

fn elector() -> (Elector, Server) {
    let (service, server) = mock::pair::<Request<Body>, Response<Body>>();
    (Elector::new(Client::new(service, "ns"), "ns", "warden", "me"), server)
}

/// The next request, and the handle to answer it.
async fn next(server: &mut Server, method: Method) -> (Value, SendResponse<Response<Body>>) {
    let (request, answer) = server.next_request().await.expect("a request");
    assert_eq!(request.method(), method);
    assert!(request.uri().path().starts_with("/apis/coordination.k8s.io/v1/namespaces/ns/leases"));
    let body = request.into_body().collect_bytes().await.unwrap();
    (serde_json::from_slice(&body).unwrap_or_default(), answer)
}

fn answer(to: SendResponse<Response<Body>>, code: StatusCode, body: &Value) {
    to.send_response(Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap());
}

#[track_caller]
fn is_written(body: &Value, holder: Option<&str>, version: Option<&str>) {
    assert_eq!(body["spec"]["holderIdentity"].as_str(), holder);
    assert_eq!(body["metadata"]["resourceVersion"].as_str(), version);
}

async fn lead(elector: Elector, server: &mut Server) -> Leadership {
    let acquire =
        tokio::spawn(async move { elector.acquire(&CancellationToken::new(), &Readiness::default().gate("lease")).await });
    let (_, get) = next(server, Method::GET).await;
    answer(get, StatusCode::OK, &stored(None, "7"));
    let (body, put) = next(server, Method::PUT).await;
    is_written(&body, Some("me"), Some("7"));
    answer(put, StatusCode::OK, &stored(Some("me"), "8"));
    acquire.await.unwrap().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_fails_to_create_the_lease_stands_by() {
    let (elector, mut server) = elector();
    let (stop, readiness) = (CancellationToken::new(), Readiness::default());
    let standby = readiness.gate("lease");
    let acquire = tokio::spawn({
        let stop = stop.clone();
        async move { elector.acquire(&stop, &standby).await.is_some() }
    });
    let (_, get) = next(&mut server, Method::GET).await;
    answer(get, StatusCode::INTERNAL_SERVER_ERROR, &status(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
    let (_, get) = next(&mut server, Method::GET).await;
    assert_eq!(readiness.awaited(), ["lease"]);
    answer(get, StatusCode::NOT_FOUND, &status(StatusCode::NOT_FOUND, "NotFound"));
    let (body, post) = next(&mut server, Method::POST).await;
    is_written(&body, Some("me"), None);
    answer(post, StatusCode::CONFLICT, &status(StatusCode::CONFLICT, "AlreadyExists"));
    let (_, get) = next(&mut server, Method::GET).await;
    assert!(readiness.awaited().is_empty());
    answer(get, StatusCode::OK, &stored(Some("other"), "1"));
    let _ = next(&mut server, Method::GET).await;
    stop.cancel();
    assert!(!acquire.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_expired_lease_is_taken_over_and_no_other() {
    let (elector, mut server) = elector();
    let began = Instant::now();
    let acquire =
        tokio::spawn(async move { elector.acquire(&CancellationToken::new(), &Readiness::default().gate("lease")).await });
    // The holder renews the lease once.
    for version in ["1", "1", "2", "2", "2", "2", "2", "2", "2", "2"] {
        let (_, get) = next(&mut server, Method::GET).await;
        answer(get, StatusCode::OK, &stored(Some("other"), version));
    }
    let (_, get) = next(&mut server, Method::GET).await;
    answer(get, StatusCode::OK, &stored(Some("other"), "2"));
    let (body, put) = next(&mut server, Method::PUT).await;
    is_written(&body, Some("me"), Some("2"));
    assert_eq!(body["spec"]["leaseTransitions"], 5);
    assert!(began.elapsed() >= POLL * 2 + LEASE);
    answer(put, StatusCode::OK, &stored(Some("me"), "3"));
    assert!(acquire.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_leader_renews_its_last_version_of_the_lease_and_releases_it() {
    let (elector, mut server) = elector();
    let leadership = lead(elector, &mut server).await;
    let began = Instant::now();
    for (version, next_version) in [("8", "9"), ("9", "10")] {
        let (body, put) = next(&mut server, Method::PUT).await;
        is_written(&body, Some("me"), Some(version));
        answer(put, StatusCode::OK, &stored(Some("me"), next_version));
    }
    assert_eq!(began.elapsed().as_secs(), 2 * RENEW.as_secs());
    let release = tokio::spawn(leadership.release());
    let (body, put) = next(&mut server, Method::PUT).await;
    is_written(&body, None, Some("10"));
    answer(put, StatusCode::OK, &stored(None, "11"));
    release.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn leadership_is_lost_on_a_conflict_only_if_another_process_holds_the_lease() {
    let (elector, mut server) = elector();
    let leadership = lead(elector, &mut server).await;
    for (holder, version) in [("me", "20"), ("other", "30")] {
        let (_, put) = next(&mut server, Method::PUT).await;
        answer(put, StatusCode::CONFLICT, &status(StatusCode::CONFLICT, "Conflict"));
        let (_, get) = next(&mut server, Method::GET).await;
        answer(get, StatusCode::OK, &stored(Some(holder), version));
        if holder == "me" {
            let (body, put) = next(&mut server, Method::PUT).await;
            is_written(&body, Some("me"), Some("20"));
            answer(put, StatusCode::OK, &stored(Some("me"), "21"));
        }
    }
    leadership.lost().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_answers_resigns_at_its_deadline() {
    let (elector, mut server) = elector();
    let began = Instant::now();
    let leadership = lead(elector, &mut server).await;
    let silent = tokio::spawn(async move {
        let mut unanswered = vec![];
        while let Some(request) = server.next_request().await {
            unanswered.push(request);
        }
    });
    leadership.lost().await;
    let after = began.elapsed();
    assert!(after >= RENEW && after <= DEADLINE + Duration::from_millis(2), "{after:?}");
    silent.abort();
}

#[tokio::test(start_paused = true)]
async fn leadership_is_lost_if_the_lease_is_deleted() {
    let (elector, mut server) = elector();
    let leadership = lead(elector, &mut server).await;
    let (_, put) = next(&mut server, Method::PUT).await;
    answer(put, StatusCode::NOT_FOUND, &status(StatusCode::NOT_FOUND, "NotFound"));
    leadership.lost().await;
}
