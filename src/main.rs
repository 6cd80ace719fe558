//! The operator's process: its arguments, its signals, and how it starts and stops.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{ArgAction, Args, Parser, Subcommand};
use etcd_warden::{
    api, controllers, etcd, host,
    http::{self, Readiness},
    kubernetes::error::chain,
    leader::{Elector, Leadership},
    metrics::Metrics,
    panics,
    telemetry::{self, LogFormat},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tower::{timeout::TimeoutLayer, util::MapRequestLayer};

/// How long the controllers may take to stop. Releasing the lease takes less than four seconds more, so the process exits within
/// ten.
const STOP: Duration = Duration::from_secs(6);

/// A Kubernetes operator for secured etcd clusters
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator
    Run(Box<RunArgs>),
    /// Print the definitions of the custom resources as YAML
    Crd {
        /// Write each to a file in this directory instead
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print how a change of each field of a cluster takes effect, as a table in Markdown
    Fields,
    /// Print the version
    Version,
}

#[derive(Args)]
struct RunArgs {
    /// The namespaces to watch, separated by commas; all when empty
    #[arg(long, env = "ETCD_WARDEN_WATCH_NAMESPACES", value_delimiter = ',', default_value = "")]
    watch_namespaces: Vec<String>,
    /// The DNS domain of the Kubernetes cluster [default: that in /etc/resolv.conf, else cluster.local]
    #[arg(long, env = "ETCD_WARDEN_CLUSTER_DOMAIN")]
    cluster_domain: Option<String>,
    /// Whether to act only while holding a lease, so that several replicas can run
    #[arg(long, env = "ETCD_WARDEN_LEADER_ELECT", default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    leader_elect: bool,
    /// The lease's namespace [default: that of the service account, else of the kubeconfig's context, else default]
    #[arg(long, env = "ETCD_WARDEN_NAMESPACE")]
    namespace: Option<String>,
    /// The lease's name
    #[arg(long, env = "ETCD_WARDEN_LEASE_NAME", default_value = "etcd-warden")]
    lease_name: String,
    /// The name of this process in the lease [default: the host's name and random digits]
    #[arg(long, env = "ETCD_WARDEN_IDENTITY")]
    identity: Option<String>,
    /// Where /healthz, /readyz and /metrics are served [default: [::]:8080, without IPv6 0.0.0.0:8080]
    #[arg(long, env = "ETCD_WARDEN_HTTP_ADDRESS")]
    http_address: Option<SocketAddr>,
    /// The format of log lines
    #[arg(long, env = "ETCD_WARDEN_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// What is logged: comma-separated levels and target=level
    #[arg(long, env = "ETCD_WARDEN_LOG_FILTER", default_value = telemetry::DEFAULT_FILTER)]
    log_filter: String,
}

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the log filter is invalid")]
    LogFilter(#[from] tracing_subscriber::filter::ParseError),
    #[error("another cryptography provider is already installed")]
    Crypto,
    #[error("neither a service account nor a kubeconfig can be used")]
    Config(#[source] kube::Error),
    #[error("cannot serve HTTP")]
    Http(#[source] io::Error),
    #[error("cannot receive signals")]
    Signals(#[source] io::Error),
    #[error("leadership was lost; another operator may be acting")]
    LeadershipLost,
    #[error("passes did not end within {} s", STOP.as_secs())]
    Stuck,
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("cannot print the definitions")]
    Print(#[from] serde_saphyr::ser::Error),
    #[error("cannot generate the definitions")]
    Crds(#[source] serde_json::Error),
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => start(*args),
        Command::Crd { dir } => print_crds(dir.as_deref()),
        Command::Fields => {
            print!("{}", api::table());
            Ok(())
        }
        Command::Version => {
            println!("etcd-warden {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = chain(&error);
            if tracing::dispatcher::has_been_set() {
                tracing::error!("{text}");
            } else {
                eprintln!("etcd-warden: {text}");
            }
            ExitCode::FAILURE
        }
    }
}

fn start(args: RunArgs) -> Result<(), Error> {
    telemetry::init(args.log_format, &args.log_filter)?;
    panics::observe();
    rustls::crypto::ring::default_provider().install_default().map_err(|_| Error::Crypto)?;
    // Two threads are enough, because passes mostly wait for answers, and each thread costs memory.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(Error::Runtime)?;
    let result = runtime.block_on(run(args));
    // A process that lost the lease must not wait for anything.
    runtime.shutdown_background();
    result
}

async fn run(args: RunArgs) -> Result<(), Error> {
    let stop = stop_on_signals().map_err(Error::Signals)?;
    let (metrics, readiness) = (Arc::new(Metrics::new()), Readiness::default());
    let client = client(&metrics).await?;
    // A name that ends with a dot is refused by the TLS clients of several languages.
    let given_domain = given(args.cluster_domain).map(|domain| domain.trim_end_matches('.').to_owned());
    let cluster_domain = given_domain.unwrap_or_else(cluster_domain);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), cluster_domain, "starting");

    let standby = args.leader_elect.then(|| readiness.gate("lease"));
    let listener = http::bind(args.http_address).await.map_err(Error::Http)?;
    // Probes are answered until the process exits, also while it stops.
    let http = tokio::spawn(http::serve(listener, readiness.clone(), metrics.clone(), CancellationToken::new()));

    let leadership = match &standby {
        Some(standby) => {
            let namespace = given(args.namespace).unwrap_or_else(|| client.default_namespace().to_owned());
            let identity = given(args.identity).unwrap_or_else(identity);
            match Elector::new(client.clone(), &namespace, &args.lease_name, &identity).acquire(&stop, standby).await {
                Some(leadership) => Some(leadership),
                None => return Ok(()),
            }
        }
        None => None,
    };
    metrics.leading(true);
    let namespaces = args.watch_namespaces.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let operator = controllers::run(controllers::Options {
        client,
        dialer: Arc::new(etcd::Client::default()),
        namespaces,
        cluster_domain,
        metrics,
        readiness,
        judges_authorities: true,
        stop: stop.clone(),
    });
    tokio::select! {
        // The loss of the lease has precedence.
        biased;
        () = lost(leadership.as_ref()) => return Err(Error::LeadershipLost),
        () = operator => {}
        served = http => return Err(Error::Http(served.err().map_or(io::ErrorKind::ConnectionAborted.into(), io::Error::other))),
        // The lease is not released, because a pass may still be running. It expires.
        () = late(&stop) => return Err(Error::Stuck),
    }
    if let Some(leadership) = leadership {
        leadership.release().await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// The value of an argument. An empty environment variable counts as not set.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

/// How long the API server may take to start its answer: its own limit for a request. Without a timeout, a dead connection would
/// block the passes of an object forever.
const ANSWER: Duration = Duration::from_secs(60);

/// A client of the API server whose requests are counted.
async fn client(metrics: &Arc<Metrics>) -> Result<kube::Client, Error> {
    let mut config = kube::Config::infer().await.map_err(|error| Error::Config(kube::Error::InferConfig(error)))?;
    // Passes are repeated anyway, with fresh observations. Retries of an eviction that a PodDisruptionBudget refuses would block
    // a pass for many seconds.
    config.default_retry = false;
    let metrics = metrics.clone();
    let count = MapRequestLayer::new(move |request: ::http::Request<kube::client::Body>| {
        metrics.requested(request.method());
        request
    });
    let builder = kube::client::ClientBuilder::try_from(config).map_err(Error::Config)?;
    Ok(builder.with_layer(&TimeoutLayer::new(ANSWER)).with_layer(&count).build())
}

async fn lost(leadership: Option<&Leadership>) {
    match leadership {
        Some(leadership) => leadership.lost().await,
        None => std::future::pending().await,
    }
}

async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(STOP).await;
}

/// A token that SIGTERM and SIGINT cancel.
fn stop_on_signals() -> io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

/// The host name, which is the pod's name, and random digits, which differ after a restart of the container.
fn identity() -> String {
    let random = ring::rand::generate(&ring::rand::SystemRandom::new()).map_or(0, |random| u32::from_be_bytes(random.expose()));
    format!("{}_{random:08x}", host::name().unwrap_or_default())
}

fn cluster_domain() -> String {
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    parse_cluster_domain(&resolv).unwrap_or("cluster.local").to_owned()
}

/// The cluster domain in a resolv.conf that the kubelet wrote: its search list contains `svc.<domain>`.
fn parse_cluster_domain(resolv: &str) -> Option<&str> {
    let mut lines = resolv.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let search = lines.find(|line| line.first() == Some(&"search"))?;
    let domain = search.iter().find_map(|name| name.strip_prefix("svc."))?.trim_end_matches('.');
    (!domain.is_empty()).then_some(domain)
}

fn print_crds(dir: Option<&Path>) -> Result<(), Error> {
    for crd in api::crds().map_err(Error::Crds)? {
        let yaml =
            format!("# Generated by `etcd-warden crd` from src/api: do not edit.\n---\n{}", serde_saphyr::to_string(&crd)?);
        match dir.map(|dir| dir.join(format!("{}.yaml", crd.spec.names.plural))) {
            Some(path) => fs::write(&path, yaml).map_err(|error| Error::Write(path, error))?,
            None => print!("{yaml}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_cluster_domain_is_read_from_the_search_list() {
        let pod = "search ns.svc.example.org svc.example.org example.org\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(parse_cluster_domain(pod), Some("example.org"));
        assert_eq!(parse_cluster_domain("nameserver 1.1.1.1\nsearch\tsvc.k8s.corp. k8s.corp.\n"), Some("k8s.corp"));
        for other in ["", "search", "search lan", "search svc.", "nameserver 10.96.0.10", "searchsvc.x"] {
            assert_eq!(parse_cluster_domain(other), None, "{other}");
        }
    }

    #[test]
    fn two_processes_have_different_identities() {
        assert_ne!(identity(), identity());
    }
}
