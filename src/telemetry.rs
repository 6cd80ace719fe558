//! Logging.
//!
//! Secrets are not logged: no type that holds a private key has a `Debug` or a `Display`, and the log level of libraries is
//! capped regardless of the filter, because the body of a request or of an answer may be a Secret.

use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    EnvFilter,
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// The default filter.
pub const DEFAULT_FILTER: &str = "info,kube=warn,kube_client=warn,kube_runtime=warn,tower=warn,hyper=warn,rustls=warn";

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line, for machines.
    #[default]
    Json,
    /// Text, for people.
    Text,
}

/// Starts logging to stderr.
///
/// # Errors
/// When `filter` is not a filter of `tracing_subscriber`, such as `info,etcd_warden=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).parse(filter)?;
    let registry = tracing_subscriber::registry().with(filter).with(cap());
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    match format {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).init(),
        LogFormat::Text => registry.with(lines.with_ansi(io::stderr().is_terminal())).init(),
    }
    Ok(())
}

/// The highest log level of libraries. At `trace`, kube logs the API server's answers, and HTTP libraries log what they send.
fn cap() -> Targets {
    Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_target("kube_client", LevelFilter::DEBUG)
        .with_targets(["hyper", "hyper_util", "h2", "tonic", "tower_http", "rustls"].map(|library| (library, LevelFilter::INFO)))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().map_err(|_| io::ErrorKind::Other)?.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn libraries_never_log_request_bodies() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::registry()
            .with(EnvFilter::new("trace"))
            .with(cap())
            .with(tracing_subscriber::fmt::layer().with_writer(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!(target: "kube_client::client", "a Secret");
            tracing::debug!(target: "h2::codec", "a Secret");
            tracing::debug!(target: "kube_client::client", "a request");
            tracing::trace!(target: "etcd_warden", "a pass");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(!text.contains("a Secret"), "{text}");
        assert!(text.contains("a request") && text.contains("a pass"), "{text}");
    }

    #[test]
    fn the_default_filter_is_valid() {
        assert!(EnvFilter::builder().parse(DEFAULT_FILTER).is_ok());
    }
}
