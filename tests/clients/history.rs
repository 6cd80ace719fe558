//! Clients that get, put and compare-and-swap few keys and record each attempt, and the check that what they saw is linearizable:
//! as if there were one copy of each key, and each operation took effect at one moment between its call and its return.
//!
//! No attempt is repeated. One without an answer is recorded as such: it may have taken effect, then or later, or never.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use etcd_client::{Client, Compare, CompareOp, Error, Txn, TxnOp, TxnOpResponse};
use serde::Serialize;
use tokio::{
    process::Command,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::transport::Channel;

const CLIENTS: usize = 4;
const KEYS: usize = 5;
/// The first part of all keys.
pub const PREFIX: &str = "register/";
/// An attempt that takes longer has no answer.
const TRY: Duration = Duration::from_secs(1);
/// The pause after each attempt, which leaves the machine time for etcd: about 50 attempts per second in all.
const PAUSE: Duration = Duration::from_millis(70);
/// After this number of attempts a client opens another connection, so that all members are asked.
const KEPT: u64 = 20;

/// Opens a connection. It is given a number, which grows by one each time a client calls it.
pub type Connect = Arc<dyn Fn(usize) -> Channel + Send + Sync>;

/// Clients that record what they do.
pub struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<Operation>>,
}

/// What all clients use.
struct Shared {
    connect: Connect,
    began: Instant,
    stop: AtomicBool,
    answered: AtomicUsize,
}

/// An attempt of a client. The value "" means that the key does not exist.
#[derive(Clone, Debug, Default, Serialize)]
struct Operation {
    client: usize,
    kind: Kind,
    key: String,
    /// What a put or a compare-and-swap writes. Each value is written once.
    value: String,
    /// What a compare-and-swap compares with.
    expected: String,
    answered: bool,
    /// Whether a compare-and-swap wrote its value.
    swapped: bool,
    /// What a get returned, or a compare-and-swap that did not swap.
    result: String,
    /// In nanoseconds since the start of the clients.
    call: u64,
    r#return: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    #[default]
    Get,
    Put,
    /// Compare-and-swap.
    Cas,
}

impl Clients {
    /// Starts the clients. The keys must not exist.
    pub fn start(connect: Connect) -> Self {
        let (stop, answered) = (AtomicBool::default(), AtomicUsize::default());
        let shared = Arc::new(Shared { connect, began: Instant::now(), stop, answered });
        let tasks = (0..CLIENTS).map(|client| work(client, Arc::clone(&shared))).collect();
        Self { shared, tasks }
    }

    /// How many operations have an answer.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Stops the clients when each has made its last attempt, and writes what they did to a file. At least one half of it must have
    /// an answer: without answers any history is linearizable.
    pub async fn stop(self, file: &Path) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = self.tasks.join_all().await.concat();
        all.sort_by_key(|operation| operation.call);
        let lines: Vec<_> = all.iter().map(|operation| serde_json::to_string(operation).unwrap() + "\n").collect();
        fs::write(file, lines.concat()).unwrap();
        let answered = self.shared.answered.load(Ordering::Relaxed);
        assert!(2 * answered > all.len(), "{answered} of {} operations have an answer: {}", all.len(), file.display());
    }
}

/// Checks the history in a file with the Go program in `tests/linearizability`. Returns the number of operations and of those without
/// an answer, or what is wrong.
pub async fn check(file: &Path) -> Result<String, String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/linearizability");
    let ran = Command::new("go").args(["run", "-C", source, "."]).arg(file).kill_on_drop(true).output().await.unwrap();
    let [out, errors] = [&ran.stdout, &ran.stderr].map(|bytes| String::from_utf8_lossy(bytes).trim_end().to_owned());
    if ran.status.success() { Ok(out) } else { Err(format!("{}: {out}\n{errors}", file.display())) }
}

impl Operation {
    /// The operation with this number of a client, which knows these values of the keys.
    fn choose(client: usize, number: u64, known: &[String; KEYS]) -> (usize, Self) {
        let mut hasher = DefaultHasher::new();
        (client, number).hash(&mut hasher);
        let random = usize::try_from(hasher.finish() % 1000).unwrap();
        let at = random % KEYS;
        let kind = [Kind::Get, Kind::Put, Kind::Cas, Kind::Cas][random / KEYS % 4];
        let mut operation = Self { client, kind, key: format!("{PREFIX}{at}"), ..Self::default() };
        if kind != Kind::Get {
            operation.value = format!("{client}-{number}");
        }
        if kind == Kind::Cas {
            operation.expected.clone_from(&known[at]);
        }
        (at, operation)
    }

    /// Makes the attempt, and records the answer.
    async fn attempt(&mut self, channel: Channel) -> Result<(), Error> {
        let mut client = Client::from_channel(etcd_client::Channel::Tonic(channel), None).await?;
        match self.kind {
            Kind::Get => self.result = held(&client.get(self.key.as_str(), None).await?),
            Kind::Put => drop(client.put(self.key.as_str(), self.value.as_str(), None).await?),
            Kind::Cas => {
                let key = self.key.as_str();
                let compare = if self.expected.is_empty() {
                    Compare::create_revision(key, CompareOp::Equal, 0)
                } else {
                    Compare::value(key, CompareOp::Equal, self.expected.as_str())
                };
                let (put, get) = (TxnOp::put(key, self.value.as_str(), None), TxnOp::get(key, None));
                let answer = client.txn(Txn::new().when([compare]).and_then([put]).or_else([get])).await?;
                self.swapped = answer.succeeded();
                if let Some(TxnOpResponse::Get(got)) = answer.op_responses().first() {
                    self.result = held(got);
                }
            }
        }
        self.answered = true;
        Ok(())
    }

    /// The value of the key after an attempt with an answer.
    fn left(&self) -> &String {
        if self.kind == Kind::Put || self.swapped { &self.value } else { &self.result }
    }
}

fn held(got: &etcd_client::GetResponse) -> String {
    got.kvs().first().map(|kv| kv.value_str().unwrap().to_owned()).unwrap_or_default()
}

async fn work(client: usize, shared: Arc<Shared>) -> Vec<Operation> {
    let now = || u64::try_from(shared.began.elapsed().as_nanos()).unwrap();
    let mut connections = client..;
    let mut channel = None;
    let mut known = [const { String::new() }; KEYS];
    let mut all = vec![];
    for number in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        if number % KEPT == 0 {
            channel = None;
        }
        let (at, mut operation) = Operation::choose(client, number, &known);
        let open = channel.get_or_insert_with(|| (shared.connect)(connections.next().unwrap())).clone();
        operation.call = now();
        // What takes too long has no answer.
        let _ = timeout(TRY, operation.attempt(open)).await;
        operation.r#return = now();
        if operation.answered {
            known[at].clone_from(operation.left());
            shared.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            channel = None;
        }
        all.push(operation);
        sleep(PAUSE).await;
    }
    all
}
