//! An operator in this process that is killed before and after each of its changes, and started again each time.
//!
//! A change is a request to the API server that writes, or a call that changes etcd's members. The first operator that is about
//! to make a change is killed before it; the second one is killed after the change, before the answer arrives; the third one is
//! not killed. So operators are killed at every change in order, and still make progress.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::http::{Method, Request, Response, header::CONTENT_TYPE};
use etcd_warden::{
    controllers,
    etcd::{self, Change, DialError, Dialer, EtcdError, MemberList, Progress, StatusAnswer, Target, Tls, VersionMetrics},
    http::Readiness,
    ids::MemberId,
    metrics::Metrics,
};
use futures::future::BoxFuture;
use kube::{
    Config,
    client::{Body, ClientBuilder},
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use crate::namespace::Operator;

/// The changes at which operators were killed.
#[derive(Default)]
pub struct Kills {
    /// The changes since the last completed step. After a step the same change counts as a new one.
    before: BTreeSet<String>,
    after: BTreeSet<String>,
    /// The number of kills at each kind of change.
    count: BTreeMap<String, u32>,
}

impl Kills {
    pub fn total(&self) -> u32 {
        self.count.values().sum()
    }
    /// Whether operators were killed at changes of this kind.
    pub fn at(&self, kind: &str) -> bool {
        self.count.contains_key(kind)
    }
    pub fn summary(&self) -> String {
        let words: Vec<_> = self.count.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!("{} kills: {}", self.total(), words.join(", "))
    }
}

/// Runs operators for a namespace, one after the other, until `done` resolves.
pub async fn kill_at_each_change(namespace: &str, done: impl Future<Output = ()>) -> Kills {
    let kills: Arc<Mutex<Kills>> = Arc::default();
    let runs = async {
        loop {
            let run = Run { kills: Arc::clone(&kills), killed: CancellationToken::new() };
            operate(namespace, &run).await;
        }
    };
    tokio::select! {
        () = runs => {}
        () = done => {}
    }
    std::mem::take(&mut *kills.lock().unwrap())
}

/// Runs an operator, without killing it, until `done` resolves.
pub async fn operate_until<T>(namespace: &str, done: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let client = kube::Client::try_from(config().await).unwrap();
    tokio::select! {
        done = done => done,
        () = controllers::run(options(namespace, client, Arc::new(etcd::Client::default()), stop)) => unreachable!("it is never stopped"),
    }
}

/// Runs an operator that uses every authority of an issuer, whether or not it is acceptable, until `done` resolves.
pub async fn operate_without_judgement<T>(namespace: &str, done: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let client = kube::Client::try_from(config().await).unwrap();
    let options = options(namespace, client, Arc::new(etcd::Client::default()), stop);
    tokio::select! {
        done = done => done,
        () = controllers::run(controllers::Options { judges_authorities: false, ..options }) => unreachable!("it is never stopped"),
    }
}

async fn operate(namespace: &str, run: &Run) {
    // The watches are tasks of their own.
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let client = ClientBuilder::try_from(config().await).unwrap().with_layer(run).build();
    tokio::select! {
        () = controllers::run(options(namespace, client, Arc::new(run.clone()), stop)) => {}
        () = run.killed.cancelled() => {}
    }
}

/// The configuration of a client with the permissions that the chart grants.
async fn config() -> Config {
    let mut config = Config::infer().await.unwrap();
    config.auth_info.impersonate = Some(format!("system:serviceaccount:{0}:etcd-warden", Operator::NAMESPACE));
    config
}

fn options(namespace: &str, client: kube::Client, dialer: Arc<dyn Dialer>, stop: CancellationToken) -> controllers::Options {
    controllers::Options {
        client,
        dialer,
        namespaces: vec![namespace.to_owned()],
        cluster_domain: "cluster.local".into(),
        metrics: Arc::new(Metrics::new()),
        readiness: Readiness::default(),
        judges_authorities: true,
        stop,
    }
}

/// One run of the operator, until it is killed: a layer around its client, and its dialer.
#[derive(Clone)]
struct Run {
    kills: Arc<Mutex<Kills>>,
    killed: CancellationToken,
}

/// A change that the operator is about to make.
struct Point {
    /// The kind of the change, such as `apply statefulsets`.
    kind: String,
    /// The kind and the object.
    of: String,
    /// Whether it is a step or part of one: it cannot be undone.
    step: bool,
}

impl Point {
    fn of_request(request: &Request<Body>) -> Option<Self> {
        let dry_run = request.uri().query().is_some_and(|query| query.contains("dryRun=All"));
        if request.method() == Method::GET || dry_run {
            return None;
        }
        let path = request.uri().path();
        let within = path.split_once("/namespaces/").map_or(path, |(_, within)| within);
        let mut parts = within.split('/').skip(1);
        let (resource, _, sub) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        let content = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "replace",
            Method::DELETE => "delete",
            _ if content.contains("apply") => "apply",
            _ => "merge",
        };
        let kind =
            [Some(format!("{verb} {resource}")), sub.map(str::to_owned)].into_iter().flatten().collect::<Vec<_>>().join("/");
        let step = matches!(kind.as_str(), "create pods/eviction" | "merge persistentvolumeclaims") || verb == "delete";
        Some(Self { of: format!("{kind} {path}"), kind, step })
    }

    fn of_change(change: &Change) -> Self {
        let of = format!("etcd {change:?}");
        let kind = of.split([' ', '{']).take(2).collect::<Vec<_>>().join(" ");
        Self { kind, of, step: true }
    }
}

impl Run {
    /// Whether a change is made; otherwise the operator is killed before it.
    fn enter(&self, point: &Point) -> bool {
        let mut kills = self.kills.lock().unwrap();
        if self.killed.is_cancelled() {
            return false;
        }
        let first = kills.before.insert(point.of.clone());
        if first {
            *kills.count.entry(point.kind.clone()).or_default() += 1;
            self.killed.cancel();
        }
        !first
    }

    /// Whether the answer to a change arrives; otherwise the operator is killed after the change.
    fn leave(&self, point: &Point) -> bool {
        let mut kills = self.kills.lock().unwrap();
        if self.killed.is_cancelled() {
            return false;
        }
        let first = kills.after.insert(point.of.clone());
        if first {
            *kills.count.entry(point.kind.clone()).or_default() += 1;
            self.killed.cancel();
        }
        if point.step {
            kills.before.clear();
            kills.after.clear();
        }
        !first
    }
}

impl<S> Layer<S> for Run {
    type Service = Interruptible<S>;
    fn layer(&self, inner: S) -> Interruptible<S> {
        Interruptible { inner, run: self.clone() }
    }
}

/// A client whose requests can be interrupted.
struct Interruptible<S> {
    inner: S,
    run: Run,
}

impl<S, B> Service<Request<Body>> for Interruptible<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(point) = Point::of_request(&request) else { return Box::pin(self.inner.call(request)) };
        if !self.run.enter(&point) {
            return Box::pin(std::future::pending());
        }
        let (answer, run) = (self.inner.call(request), self.run.clone());
        Box::pin(async move {
            let answer = answer.await;
            let made = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
            if made && !run.leave(&point) {
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}

impl Dialer for Run {
    fn ask<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>> {
        Box::pin(async { etcd::Client::default().ask(target, tls).await })
    }

    fn members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        Box::pin(async { etcd::Client::default().members(target, tls).await })
    }

    fn own_members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        Box::pin(async { etcd::Client::default().own_members(target, tls).await })
    }

    fn change<'a>(&'a self, target: &'a Target, tls: &'a Tls, change: &'a Change) -> BoxFuture<'a, Result<(), EtcdError>> {
        Box::pin(async move {
            let point = Point::of_change(change);
            if !self.enter(&point) {
                std::future::pending::<()>().await;
            }
            let answer = etcd::Client::default().change(target, tls, change).await;
            if answer.is_ok() && !self.leave(&point) {
                std::future::pending::<()>().await;
            }
            answer
        })
    }

    fn advance<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<(), EtcdError>> {
        Box::pin(async { etcd::Client::default().advance(target, tls).await })
    }

    fn progress<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>> {
        Box::pin(async { etcd::Client::default().progress(target).await })
    }

    fn versions<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<VersionMetrics, EtcdError>> {
        Box::pin(async { etcd::Client::default().versions(target).await })
    }

    fn active_peers<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<BTreeSet<MemberId>, EtcdError>> {
        Box::pin(async { etcd::Client::default().active_peers(target).await })
    }

    fn served<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>> {
        Box::pin(async { etcd::Client::default().served(target, tls).await })
    }
}
