//! Clients that write without pause, as etcd's own do: each write is tried again until it succeeds, and has failed when it has
//! not succeeded 5 s after its first try.

use std::{
    collections::BTreeSet,
    error::Error,
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
/// Before the next try and the next write, so that the machine has something left for etcd.
const PAUSE: Duration = Duration::from_millis(5);

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
    /// Of these, how many were acknowledged all the same, by a last try that ended too late.
    late: u32,
    failed_tries: u32,
    /// Tries that failed because the connection that was kept had ended.
    pub broken: u32,
    slowest: Duration,
    /// The key of every write that was acknowledged: each has one of its own.
    acknowledged: BTreeSet<String>,
    /// Of these, how many are not there any more.
    lost: Option<usize>,
}

impl Writers {
    /// Starts them, and returns when each has written once.
    pub async fn start(user: &Identity) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = vec![];
        for (name, fresh) in [("kept", false), ("fresh", true)] {
            let user = user.clone();
            let stop = Arc::clone(&stop);
            // Those of others before it are none of its own.
            user.etcdctl(["del", &format!("{name}/"), "--prefix"]).await.success();
            until("the first write", crate::world::PATIENCE, || async {
                put(&mut connect(&user), &key(name, 0)).await.map_err(|failure| format!("{failure:?}"))
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
            all.late += figures.late;
            all.failed_tries += figures.failed_tries;
            all.broken += figures.broken;
            all.slowest = all.slowest.max(figures.slowest);
            all.acknowledged.extend(figures.acknowledged);
        }
        all
    }
}

impl Figures {
    /// Looks for every write that was acknowledged.
    pub async fn checked(mut self, user: &Identity) -> Self {
        let mut lost = self.acknowledged.clone();
        for name in ["kept/", "fresh/"] {
            for held in user.etcdctl(["get", name, "--prefix", "--keys-only"]).await.success().lines() {
                lost.remove(held);
            }
        }
        self.lost = Some(lost.len());
        self
    }

    /// Every write that was acknowledged is there.
    pub fn nothing_is_lost(&self) {
        assert_eq!(self.lost, Some(0), "{self}");
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slowest = self.slowest.as_millis();
        write!(f, "{} writes, {} failed", self.written, self.failed)?;
        if self.late > 0 {
            write!(f, " ({} late)", self.late)?;
        }
        if let Some(lost) = self.lost {
            write!(f, ", {lost} lost")?;
        }
        write!(f, ", {} failed first tries, {} connections broken, slowest {slowest} ms", self.failed_tries, self.broken)
    }
}

/// Why a try failed.
#[derive(Debug)]
enum Failure {
    /// The connection ended, or none could be made.
    Broken,
    /// etcd took too long, or said no.
    Refused,
}

/// The key of a writer's write of this number.
pub fn key(writer: &str, number: u32) -> String {
    format!("{writer}/{number:06}")
}

async fn write(user: Identity, name: &str, fresh: bool, stop: Arc<AtomicBool>) -> Figures {
    let mut figures = Figures { acknowledged: [key(name, 0)].into(), ..Figures::default() };
    let mut client = connect(&user);
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = Instant::now();
        let key = key(name, number);
        if fresh {
            client = connect(&user);
        }
        let mut written = put(&mut client, &key).await;
        if let Err(failure) = &written {
            figures.failed_tries += 1;
            figures.broken += u32::from(!fresh && matches!(failure, Failure::Broken));
        }
        while written.is_err() && began.elapsed() < PATIENCE {
            tokio::time::sleep(PAUSE).await;
            client = connect(&user);
            written = put(&mut client, &key).await;
        }
        let took = began.elapsed();
        figures.slowest = figures.slowest.max(took);
        // The last try may end after that.
        if written.is_ok() && took <= PATIENCE {
            figures.written += 1;
        } else {
            figures.failed += 1;
            figures.late += u32::from(written.is_ok());
        }
        if written.is_ok() {
            figures.acknowledged.insert(key);
        }
        tokio::time::sleep(PAUSE).await;
    }
    figures
}

async fn put(channel: &mut Channel, key: &str) -> Result<(), Failure> {
    let write = async {
        let channel = etcd_client::Channel::Tonic(channel.clone());
        let mut client = etcd_client::Client::from_channel(channel, None).await?;
        client.put(key, "", None).await
    };
    match timeout(TRY, write).await {
        Ok(Ok(_)) => Ok(()),
        // What etcd says has no cause on this side.
        Ok(Err(etcd_client::Error::GRpcStatus(status))) if status.source().is_none() => Err(Failure::Refused),
        Ok(Err(_)) => Err(Failure::Broken),
        Err(_) => Err(Failure::Refused),
    }
}

/// What a client's files say. They may be just being written, so that a certificate and a key do not fit.
fn configuration(user: &Identity) -> Result<ClientConfig, Box<dyn Error>> {
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
