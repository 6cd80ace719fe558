//! A layer around a client that records every request, and can cut the operator off as if it were killed.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use axum::http::{Method, Request, Response};
use futures::future::BoxFuture;
use kube::client::Body;
use tokio_util::sync::CancellationToken;
use tower::{Layer, Service};

/// A request and the status of its answer.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// Whether it is a dry run.
    pub dry_run: bool,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
}

impl Seen {
    /// Whether it is a write.
    pub fn writes(&self) -> bool {
        self.method != Method::GET && !self.dry_run
    }
}

/// When the operator is killed.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// After this many writes, before the next one is sent.
    Before(usize),
    /// After this many writes were sent, before the answer to the last one arrives.
    After(usize),
}

/// The recorded requests of a client. Clones share them.
#[derive(Clone, Default)]
pub struct Tap {
    seen: Arc<Mutex<Vec<Seen>>>,
    kill: Option<Kill>,
    killed: CancellationToken,
}

impl Tap {
    /// A tap that blocks all requests after `kill`.
    pub fn killed_at(kill: Kill) -> Self {
        Self { kill: Some(kill), ..Self::default() }
    }
    /// Resolves when requests are blocked.
    pub async fn killed(&self) {
        self.killed.cancelled().await;
    }
    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
    /// Every write so far.
    pub fn writes(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::writes).collect()
    }
    /// The requests that were answered with `status`.
    pub fn answered(&self, status: u16) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.status == Some(status)).collect()
    }

    /// Records a request; `None` if it is blocked, else its index and whether its answer arrives.
    fn record(&self, request: &Request<Body>) -> Option<(usize, bool)> {
        let mut seen = self.seen.lock().unwrap();
        if self.killed.is_cancelled() {
            return None;
        }
        let new = Seen {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            dry_run: request.uri().query().is_some_and(|query| query.contains("dryRun=All")),
            status: None,
        };
        let nth = seen.iter().filter(|seen| seen.writes()).count() + usize::from(new.writes());
        let writes = new.writes();
        let arrives = match self.kill {
            Some(Kill::Before(writes)) if nth > writes => {
                self.killed.cancel();
                return None;
            }
            Some(Kill::After(last)) if writes && nth == last => false,
            _ => true,
        };
        seen.push(new);
        Some((seen.len() - 1, arrives))
    }
}

impl<S> Layer<S> for Tap {
    type Service = Tapped<S>;
    fn layer(&self, inner: S) -> Tapped<S> {
        Tapped { inner, tap: self.clone() }
    }
}

/// A service with a tap.
pub struct Tapped<S> {
    inner: S,
    tap: Tap,
}

impl<S, B> Service<Request<Body>> for Tapped<S>
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
        let Some((at, arrives)) = self.tap.record(&request) else { return Box::pin(std::future::pending()) };
        let (answer, tap) = (self.inner.call(request), self.tap.clone());
        let answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(answer);
        Box::pin(async move {
            let answer = answer.await;
            tap.seen.lock().unwrap()[at].status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            if !arrives {
                tap.killed.cancel();
            }
            if tap.killed.is_cancelled() {
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}
