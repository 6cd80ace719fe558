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

/// The readiness of the operator: it is ready when every gate is open. A namespace that cannot be read does not close one, because
/// all others are reconciled.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    closed: BTreeSet<&'static str>,
    unread: BTreeSet<String>,
}

impl Readiness {
    /// A new, closed gate. While it is closed, `/readyz` shows its name, such as `caches`.
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { readiness: self.clone(), name };
        gate.close();
        gate
    }

    /// The names of the gates that are closed.
    pub fn awaited(&self) -> Vec<&'static str> {
        self.state().closed.iter().copied().collect()
    }

    /// Records whether the objects of a namespace can be read. `/readyz` shows those of which not.
    pub fn read(&self, namespace: &str, is_read: bool) {
        let unread = &mut self.state().unread;
        if is_read {
            unread.remove(namespace);
        } else {
            unread.insert(namespace.to_owned());
        }
    }

    /// The namespaces that cannot be read.
    pub fn unread(&self) -> Vec<String> {
        self.state().unread.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Sets of names are valid at any time, also after a panic.
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
        self.readiness.state().closed.remove(self.name);
    }

    /// Closes it.
    pub fn close(&self) {
        self.readiness.state().closed.insert(self.name);
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
    let (status, mut text): (_, String) = match readiness.awaited() {
        pending if pending.is_empty() => (StatusCode::OK, "ok\n".into()),
        pending => (StatusCode::SERVICE_UNAVAILABLE, format!("pending: {}\n", pending.join(", "))),
    };
    let unread = readiness.unread();
    if !unread.is_empty() {
        text = format!("{text}namespaces that cannot be read: {}\n", unread.join(", "));
    }
    (status, text)
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
        let namespaces = readiness.clone();
        let (caches, crds) = (readiness.gate("caches"), readiness.gate("crds"));
        let server = tokio::spawn(serve(listener, readiness, Arc::new(Metrics::new()), stop.clone()));

        assert!(fetch(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("pending: caches, crds\n"), "{answer}");
        crds.open();
        assert!(fetch(address, "/readyz").await.ends_with("pending: caches\n"));
        caches.open();
        assert!(fetch(address, "/readyz").await.starts_with("HTTP/1.1 200"));
        namespaces.read("b", false);
        namespaces.read("a", false);
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\nnamespaces that cannot be read: a, b\n"), "{answer}");
        namespaces.read("a", true);
        caches.close();
        let answer = fetch(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("namespaces that cannot be read: b\n"), "{answer}");
        let answer = fetch(address, "/metrics").await;
        assert!(answer.contains("application/openmetrics-text") && answer.ends_with("# EOF\n"), "{answer}");

        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
