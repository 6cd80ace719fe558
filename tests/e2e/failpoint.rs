//! An operator in this process that is killed before and after everything that it changes, and started again each time.
//!
//! A change is a request to the API server that writes, or a call that changes etcd's members. The first time that an operator is
//! about to make one, it dies and the change is not made; the next one dies when the change has been made, before its answer
//! arrives; the third gets through. So one run dies at every change in the order in which they are made, and still gets on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::http::{Method, Request, Response, header::CONTENT_TYPE};
use etcd_warden::{
    controllers,
    etcd::{self, Change, DialError, Dialer, EtcdError, MemberList, Progress, StatusAnswer, Target, Tls},
    http::Readiness,
    metrics::Metrics,
};
use futures::future::BoxFuture;
use kube::{
    Config,
    client::{Body, ClientBuilder},
};
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

use crate::world::Operator;

/// Where operators have died.
#[derive(Default)]
pub struct Deaths {
    /// Since the last step that took effect: after it the same change is another one.
    before: BTreeSet<String>,
    after: BTreeSet<String>,
    /// How often at each kind of change.
    count: BTreeMap<String, u32>,
}

impl Deaths {
    pub fn total(&self) -> u32 {
        self.count.values().sum()
    }
    /// Whether operators have died at changes of this kind.
    pub fn at(&self, kind: &str) -> bool {
        self.count.contains_key(kind)
    }
    pub fn in_words(&self) -> String {
        let words: Vec<_> = self.count.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        format!("{} deaths: {}", self.total(), words.join(", "))
    }
}

/// Runs operators for a namespace, one after the other, until `done` resolves.
pub async fn kill_everywhere(namespace: &str, done: impl Future<Output = ()>) -> Deaths {
    let deaths: Arc<Mutex<Deaths>> = Arc::default();
    let lives = async {
        loop {
            let life = Life { deaths: Arc::clone(&deaths), dead: CancellationToken::new() };
            operate(namespace, &life).await;
        }
    };
    tokio::select! {
        () = lives => {}
        () = done => {}
    }
    std::mem::take(&mut *deaths.lock().unwrap())
}

/// Runs an operator that nobody kills until `done` resolves.
pub async fn operate_until<T>(namespace: &str, done: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let client = kube::Client::try_from(config().await).unwrap();
    tokio::select! {
        done = done => done,
        () = controllers::run(options(namespace, client, Arc::new(etcd::Client::default()), stop)) => unreachable!("nobody stops it"),
    }
}

async fn operate(namespace: &str, life: &Life) {
    // What it watches with are tasks of their own.
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let client = ClientBuilder::try_from(config().await).unwrap().with_layer(life).build();
    tokio::select! {
        () = controllers::run(options(namespace, client, Arc::new(life.clone()), stop)) => {}
        () = life.dead.cancelled() => {}
    }
}

/// The API server, with the rights that the chart gives.
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
        stop,
    }
}

/// One start of the operator: a layer around its client, and its dialer.
#[derive(Clone)]
struct Life {
    deaths: Arc<Mutex<Deaths>>,
    dead: CancellationToken,
}

/// Something that the operator is about to change.
struct Point {
    /// What kind of change, such as `apply statefulsets`.
    kind: String,
    /// Of what.
    of: String,
    /// Whether it is a step or part of one: it can't be taken back.
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

impl Life {
    /// Whether a change is made, or the operator dies before it.
    fn enter(&self, point: &Point) -> bool {
        let mut deaths = self.deaths.lock().unwrap();
        if self.dead.is_cancelled() {
            return false;
        }
        let first = deaths.before.insert(point.of.clone());
        if first {
            *deaths.count.entry(point.kind.clone()).or_default() += 1;
            self.dead.cancel();
        }
        !first
    }

    /// A change has been made: whether its answer arrives, or the operator dies of it.
    fn leave(&self, point: &Point) -> bool {
        let mut deaths = self.deaths.lock().unwrap();
        if self.dead.is_cancelled() {
            return false;
        }
        let first = deaths.after.insert(point.of.clone());
        if first {
            *deaths.count.entry(point.kind.clone()).or_default() += 1;
            self.dead.cancel();
        }
        if point.step {
            deaths.before.clear();
            deaths.after.clear();
        }
        !first
    }
}

impl<S> Layer<S> for Life {
    type Service = Mortal<S>;
    fn layer(&self, inner: S) -> Mortal<S> {
        Mortal { inner, life: self.clone() }
    }
}

/// The way to the API server of one life.
struct Mortal<S> {
    inner: S,
    life: Life,
}

impl<S, B> Service<Request<Body>> for Mortal<S>
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
        if !self.life.enter(&point) {
            return Box::pin(std::future::pending());
        }
        let (answer, life) = (self.inner.call(request), self.life.clone());
        Box::pin(async move {
            let answer = answer.await;
            let made = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
            if made && !life.leave(&point) {
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}

impl Dialer for Life {
    fn ask<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<StatusAnswer, DialError>> {
        Box::pin(async { etcd::Client::default().ask(target, tls).await })
    }

    fn members<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<MemberList, EtcdError>> {
        Box::pin(async { etcd::Client::default().members(target, tls).await })
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

    fn progress<'a>(&'a self, target: &'a Target) -> BoxFuture<'a, Result<Progress, EtcdError>> {
        Box::pin(async { etcd::Client::default().progress(target).await })
    }

    fn served<'a>(&'a self, target: &'a Target, tls: &'a Tls) -> BoxFuture<'a, Result<Vec<u8>, DialError>> {
        Box::pin(async { etcd::Client::default().served(target, tls).await })
    }
}
