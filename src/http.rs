//! The operator's own HTTP server: `/healthz`, `/readyz` and `/metrics`.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// The port when no address is given.
pub const DEFAULT_PORT: u16 = 8080;

/// The readiness of the operator: it is ready when every gate is open.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

impl Readiness {
    /// A new, closed gate. While it is closed, `/readyz` shows its name, such as `caches`.
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { readiness: self.clone(), name };
        gate.close();
        gate
    }

    /// The names of the gates that are closed.
    pub fn awaited(&self) -> Vec<&'static str> {
        self.closed().iter().copied().collect()
    }

    fn closed(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        // A set of names is valid at any time, also after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition for readiness.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    name: &'static str,
}

impl Gate {
    /// Opens it.
    pub fn open(&self) {
        self.readiness.closed().remove(self.name);
    }

    /// Closes it.
    pub fn close(&self) {
        self.readiness.closed().insert(self.name);
    }
}

/// Listens on `address`; without one on [`DEFAULT_PORT`] of every address, IPv6 and IPv4 if the node has both.
pub async fn bind(address: Option<SocketAddr>) -> io::Result<TcpListener> {
    if let Some(address) = address {
        return TcpListener::bind(address).await;
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, DEFAULT_PORT)).await {
        // Only IPv4 is used on a kernel without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => TcpListener::bind((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT)).await,
        bound => bound,
    }
}

/// Serves until it is stopped; requests that have begun are answered.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, router(readiness, metrics)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(ready(&readiness))))
        .route("/metrics", get(move || std::future::ready(scrape(&metrics))))
}

fn ready(readiness: &Readiness) -> (StatusCode, String) {
    match readiness.awaited() {
        pending if pending.is_empty() => (StatusCode::OK, "ok\n".into()),
        pending => (StatusCode::SERVICE_UNAVAILABLE, format!("pending: {}\n", pending.join(", "))),
    }
}

fn scrape(metrics: &Metrics) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], metrics.encode())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn fetch(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn health_readiness_and_metrics_are_served_until_stopped() {
        let listener = bind(Some((Ipv4Addr::LOCALHOST, 0).into())).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let (caches, crds) = (readiness.gate("caches"), readiness.gate("crds"));
        let server = tokio::spawn(serve(listener, readiness, Arc::new(Metrics::new()), stop.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("pending: caches, crds\n"), "{answer}");
        crds.open();
        assert!(fetch(address, "/readyz").await.ends_with("pending: caches\n"));
        caches.open();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        caches.close();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("application/openmetrics-text") && answer.ends_with("# EOF\n"), "{answer}");

        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
