//! Clients that write without pause, as etcd's own do: each write is tried again until it succeeds, and has failed when it has
//! not succeeded 5 s after its first try.

use std::{
    fmt, fs, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, task::JoinHandle, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use crate::{tools::until, world::Identity};

/// A write that has not succeeded by then has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A try that takes longer is given up for another one.
const TRY: Duration = Duration::from_secs(1);

/// Two writers at work: one keeps its connection until a write fails, the other makes one for each write. Who connects reads its
/// files anew.
pub struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Figures>>,
}

/// What came of writing.
#[derive(Debug, Default)]
pub struct Figures {
    pub written: u32,
    pub failed: u32,
    failed_tries: u32,
    slowest: Duration,
    acknowledged: Vec<(String, u32)>,
}

impl Writers {
    /// Starts them, and returns when each has written once.
    pub async fn start(user: &Identity) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = vec![];
        for (name, fresh) in [("kept", false), ("fresh", true)] {
            let user = user.clone();
            let stop = Arc::clone(&stop);
            until("the first write", crate::world::PATIENCE, || async {
                if put(&mut connect(&user), name, 0).await { Ok(()) } else { Err("it failed".to_owned()) }
            })
            .await;
            tasks.push(tokio::spawn(write(user, name, fresh, stop)));
        }
        Self { stop, tasks }
    }

    /// Ends them, and adds up what came of it.
    pub async fn stop(self) -> Figures {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Figures::default();
        for task in self.tasks {
            let figures = task.await.unwrap();
            all.written += figures.written;
            all.failed += figures.failed;
            all.failed_tries += figures.failed_tries;
            all.slowest = all.slowest.max(figures.slowest);
            all.acknowledged.extend(figures.acknowledged);
        }
        all
    }
}

impl Figures {
    /// How many of the writes that were acknowledged are not there any more: each writer's numbers count up.
    pub async fn missing(&self, user: &Identity) -> u32 {
        let mut missing = 0;
        for (key, last) in &self.acknowledged {
            let held = user.etcdctl(["get", key, "--print-value-only"]).await.success();
            missing += last.saturating_sub(held.trim().parse().unwrap());
        }
        missing
    }

    /// Every write that was acknowledged is there: each key holds the last one.
    pub async fn nothing_is_lost(&self, user: &Identity) {
        for (key, last) in &self.acknowledged {
            let held = user.etcdctl(["get", key, "--print-value-only"]).await.success();
            let held: u32 = held.trim().parse().unwrap();
            // One that was not acknowledged may have been written after it.
            assert!(held >= *last, "{key} holds {held}, and {last} was acknowledged");
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.slowest.as_millis();
        write!(
            f,
            "{} writes, {} failed, {} failed first tries, slowest {slowest} ms",
            self.written, self.failed, self.failed_tries
        )
    }
}

async fn write(user: Identity, name: &str, fresh: bool, stop: Arc<AtomicBool>) -> Figures {
    let mut figures = Figures::default();
    let mut client = connect(&user);
    let mut last = 0;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let number = last + 1;
        if fresh {
            client = connect(&user);
        }
        let mut written = put(&mut client, name, number).await;
        if !written {
            figures.failed_tries += 1;
        }
        while !written && began.elapsed() < PATIENCE {
            client = connect(&user);
            written = put(&mut client, name, number).await;
        }
        figures.slowest = figures.slowest.max(began.elapsed());
        if written {
            figures.written += 1;
            last = number;
        } else {
            figures.failed += 1;
        }
        // So that the machine has something left for etcd.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    figures.acknowledged.push((name.to_owned(), last));
    figures
}

async fn put(channel: &mut Channel, key: &str, value: u32) -> bool {
    let write = async {
        let channel = etcd_client::Channel::Tonic(channel.clone());
        let mut client = etcd_client::Client::from_channel(channel, None).await?;
        client.put(key, value.to_string(), None).await
    };
    timeout(TRY, write).await.is_ok_and(|written| written.is_ok())
}

/// What a client's files say. They may be just being written, so that a certificate and a key do not fit.
fn configuration(user: &Identity) -> Result<ClientConfig, Box<dyn std::error::Error>> {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_file_iter(&user.ca)? {
        roots.add(authority?)?;
    }
    let (crt, key) = user.pair.as_ref().unwrap();
    let chain = CertificateDer::pem_file_iter(crt)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&fs::read(key)?)?;
    Ok(ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key)?)
}

/// A channel that connects when it is used, and again when its connection is gone.
fn connect(user: &Identity) -> Channel {
    let mut config = (0..1000).find_map(|_| configuration(user).ok()).expect("the files of a client");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let host = user.endpoint.strip_prefix("https://").unwrap().strip_suffix(":2379").unwrap().to_owned();
    let connect = tower::service_fn(move |_| {
        let (connector, host) = (connector.clone(), host.clone());
        async move {
            let tcp = TcpStream::connect((host.as_str(), 2379)).await?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, tcp).await?))
        }
    });
    Endpoint::from_shared(user.endpoint.clone()).unwrap().connect_with_connector_lazy(connect)
}
