//! A layer around a client that writes down every request, and can cut the operator off as its death would.

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

/// A request, and what was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// Whether the API server was asked what it would do, and not to do it.
    pub dry_run: bool,
    /// The answer's status; `None` where there was none.
    pub status: Option<u16>,
}

impl Seen {
    /// Whether it asks for a change.
    pub fn writes(&self) -> bool {
        self.method != Method::GET && !self.dry_run
    }
}

/// When the operator dies.
#[derive(Clone, Copy, Debug)]
pub enum Death {
    /// Having sent this many writes, before the next one leaves.
    Before(usize),
    /// Having sent this many writes, before the answer to the last one arrives.
    After(usize),
}

/// What is known of a client's requests. Its copies share it.
#[derive(Clone, Default)]
pub struct Tap {
    seen: Arc<Mutex<Vec<Seen>>>,
    death: Option<Death>,
    dead: CancellationToken,
}

impl Tap {
    /// One through which no request passes any more after `death`.
    pub fn mortal(death: Death) -> Self {
        Self { death: Some(death), ..Self::default() }
    }
    /// Resolves when no request passes any more.
    pub async fn dead(&self) {
        self.dead.cancelled().await;
    }
    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
    /// Every request so far that asks for a change.
    pub fn writes(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(Seen::writes).collect()
    }
    /// The requests that were answered with `status`.
    pub fn answered(&self, status: u16) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.status == Some(status)).collect()
    }

    /// Writes a request down; `None` if the operator is dead or dies of it, else where it is written and whether its answer arrives.
    fn record(&self, request: &Request<Body>) -> Option<(usize, bool)> {
        let mut seen = self.seen.lock().unwrap();
        if self.dead.is_cancelled() {
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
        let arrives = match self.death {
            Some(Death::Before(writes)) if nth > writes => {
                self.dead.cancel();
                return None;
            }
            Some(Death::After(last)) if writes && nth == last => false,
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
                tap.dead.cancel();
            }
            if tap.dead.is_cancelled() {
                std::future::pending::<()>().await;
            }
            answer
        })
    }
}
