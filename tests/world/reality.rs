//! The model of etcd against etcd: the same scenarios on both must end the same, action by action.

use std::{
    fs::File,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use etcd_warden::etcd::{Class, EtcdError, Version};

use crate::{
    etcd::{Boot, Etcd, Millis, Place, Start},
    rng::Rng,
};

/// What is done in a scenario. Changes of the members are sent to the leader.
#[derive(Clone, Debug)]
enum Act {
    /// So many members bootstrap a cluster and are healthy.
    Bootstrap(Place),
    Stop(Place),
    Wipe(Place),
    /// A member starts, and is healthy or ends.
    Start(Place, &'static [Place], Mode),
    /// A member that runs ends by itself.
    Ends(Place),
    /// The members that run have a leader, and know each other for long enough for etcd to count on them.
    Settle,
    /// This member leads: leadership is moved to it if another one leads.
    Lead(Place),
    Add(Place),
    Promote(Place),
    /// The same, again and again until the learner has caught up.
    PromoteInTime(Place),
    Remove(Place),
    MoveLeader(Place),
    Write,
    /// The places of the voters and of the learners.
    List,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    New,
    Existing,
}

use Act::*;
use Mode::*;

const SCENARIOS: &[(&str, &[Act])] = &[
    (
        "one grows to three",
        &[
            Bootstrap(1),
            Write,
            Add(1),
            Promote(1),
            Start(1, &[0, 1], Existing),
            PromoteInTime(1),
            Settle,
            Add(2),
            Start(2, &[0, 1, 2], Existing),
            PromoteInTime(2),
            List,
            Settle,
            Write,
        ],
    ),
    (
        "with one of three down no member is added and only the one that is down is removed",
        &[Bootstrap(3), Settle, Lead(0), Stop(2), Settle, Add(3), Remove(1), Remove(2), List, Add(3), List],
    ),
    ("with one of five down a learner is added", &[Bootstrap(5), Settle, Lead(0), Stop(4), Settle, Add(5), List]),
    ("at most one learner is added, and one member for each URL", &[Bootstrap(3), Settle, Add(3), Settle, Add(3), Add(4), List]),
    (
        "a member that has just come back does not count yet",
        &[Bootstrap(3), Settle, Lead(0), Stop(1), Start(1, &[1], Existing), Add(3), Remove(2)],
    ),
    ("one of two is removed", &[Bootstrap(2), Settle, Lead(0), Remove(1), Ends(1), List, Write]),
    ("the one of two that is down is not removed, because there is no quorum", &[Bootstrap(2), Settle, Lead(0), Stop(1), List]),
    ("a learner does not lead, and a voter does", &[Bootstrap(3), Settle, Lead(0), Add(3), MoveLeader(3), MoveLeader(1), Write]),
    (
        "a joiner needs the list that there is",
        &[
            Bootstrap(2),
            Settle,
            Add(2),
            Start(2, &[0, 2], Existing),
            Start(2, &[0, 1, 3], Existing),
            Start(2, &[2], Existing),
            Start(2, &[0, 1, 2], Existing),
            PromoteInTime(2),
            List,
        ],
    ),
    (
        "a member without its data does not start alone, and does not bootstrap a cluster",
        &[Bootstrap(3), Settle, Write, Stop(2), Wipe(2), Start(2, &[2], Existing), Start(2, &[0, 1, 2], New), Write],
    ),
    (
        "a member without its data ends if it starts with the whole list",
        &[Bootstrap(3), Settle, Lead(0), Write, Write, Stop(2), Wipe(2), Start(2, &[0, 1, 2], Existing), Write],
    ),
    (
        "but it runs, and votes on what it forgot, if another one leads by then",
        &[Bootstrap(3), Settle, Lead(2), Write, Stop(2), Settle, Wipe(2), Start(2, &[0, 1, 2], Existing), Write, List],
    ),
    (
        "a removed member ends, and does not come back with its data",
        &[Bootstrap(3), Settle, Lead(0), Remove(2), Ends(2), Start(2, &[2], Existing), List, Write],
    ),
    (
        "a member that is removed while it is down does not come back",
        &[Bootstrap(3), Settle, Lead(0), Stop(2), Settle, Remove(2), Start(2, &[2], Existing), List],
    ),
    (
        "all come back with their data",
        &[
            Bootstrap(3),
            Settle,
            Write,
            Stop(0),
            Stop(1),
            Stop(2),
            Start(0, &[0], Existing),
            Start(1, &[1], Existing),
            Start(2, &[2], Existing),
            Settle,
            Write,
            List,
        ],
    ),
    (
        "the name of a removed member is taken by a new one",
        &[
            Bootstrap(3),
            Settle,
            Lead(0),
            Stop(2),
            Settle,
            Remove(2),
            Wipe(2),
            Add(2),
            Start(2, &[0, 1, 2], Existing),
            PromoteInTime(2),
            List,
        ],
    ),
    (
        "a joining member takes the ID of a removed one from a peer that is behind",
        &[
            Bootstrap(5),
            Settle,
            Lead(1),
            Stop(0),
            Stop(4),
            Settle,
            Remove(4),
            Add(4),
            Wipe(4),
            Stop(1),
            Stop(2),
            Stop(3),
            Start(0, &[0], Existing),
            Start(4, &[0, 1, 2, 3, 4], Existing),
            Start(1, &[1], Existing),
            Start(2, &[2], Existing),
            Start(3, &[3], Existing),
            Ends(4),
            List,
        ],
    ),
];

/// Both sides.
trait Side {
    fn act(&mut self, act: &Act) -> String;
}

fn describe(result: Result<(), Class>) -> String {
    result.map_or_else(|class| format!("{class:?}"), |()| "done".into())
}

/// The places of voters and learners.
fn listing(mut members: Vec<(Place, bool)>) -> String {
    members.sort_unstable();
    format!("{members:?}")
}

struct Model {
    etcd: Etcd,
    now: Millis,
    rng: Rng,
}

/// The model is compared within one version.
const VERSION: Version = Version { major: 3, minor: 6, patch: 16 };

impl Model {
    fn wait(&mut self, millis: Millis, mut until: impl FnMut(&mut Etcd) -> bool) -> bool {
        let end = self.now + millis;
        while self.now < end {
            if until(&mut self.etcd) {
                return true;
            }
            self.now += 100;
            self.etcd.tick(self.now, &mut self.rng);
        }
        false
    }

    fn start(&mut self, place: Place, list: &[Place], mode: Mode) -> String {
        let start = Start {
            token: 1,
            list: list.to_vec(),
            new: mode == New,
            forced: false,
            version: VERSION,
            snapshots: false,
            in_pod: false,
            is_refused: false,
        };
        match self.etcd.start(place, place.into(), &start, self.now) {
            Boot::Ends(_) => "ends".into(),
            // It is silent until there is a quorum.
            Boot::Runs if self.wait(3_000, |etcd| etcd.processes.get(&place).is_none_or(|p| p.serving)) => {
                if self.etcd.processes.contains_key(&place) { "runs" } else { "ends" }.into()
            }
            Boot::Runs => "silent".into(),
        }
    }

    fn id(&self, place: Place) -> u64 {
        self.etcd.best().iter().find(|m| m.place == place).map_or(0, |m| m.id)
    }
}

impl Side for Model {
    fn act(&mut self, act: &Act) -> String {
        let now = self.now;
        let leader = self.etcd.leader.unwrap_or_default();
        match act {
            Bootstrap(count) => {
                let list: Vec<_> = (0..*count).collect();
                for place in &list {
                    self.etcd.start(
                        *place,
                        (*place).into(),
                        &Start {
                            token: 1,
                            list: list.clone(),
                            new: true,
                            forced: false,
                            version: VERSION,
                            snapshots: false,
                            in_pod: false,
                            is_refused: false,
                        },
                        now,
                    );
                }
                let all = self.wait(20_000, |etcd| etcd.processes.values().all(|process| process.serving));
                assert!(all, "the model bootstraps a cluster");
                "done".into()
            }
            Stop(place) => {
                self.etcd.stop(*place);
                "done".into()
            }
            Wipe(place) => {
                self.etcd.lose((*place).into());
                "done".into()
            }
            Start(place, list, mode) => self.start(*place, list, *mode),
            Ends(place) => self.wait(20_000, |etcd| !etcd.processes.contains_key(place)).to_string(),
            Settle => {
                self.wait(7_000, |_| false);
                self.etcd.leader.is_some().to_string()
            }
            Lead(place) => {
                if leader != *place {
                    let id = self.id(*place);
                    self.etcd.move_leader(leader, id, now).expect("a healthy voter leads");
                }
                "done".into()
            }
            Add(place) => describe(self.etcd.add_learner(leader, *place, now)),
            Promote(place) => describe(self.etcd.promote(leader, self.id(*place), now)),
            PromoteInTime(place) => {
                let id = self.id(*place);
                let mut last = Err(Class::Other);
                self.wait(20_000, |etcd| {
                    last = etcd.promote(leader, id, now);
                    last != Err(Class::LearnerNotReady)
                });
                describe(last)
            }
            Remove(place) => describe(self.etcd.remove(leader, self.id(*place), now)),
            MoveLeader(place) => describe(self.etcd.move_leader(leader, self.id(*place), now)),
            Write => self.wait(10_000, |etcd| etcd.write(now)).to_string(),
            List => {
                self.wait(3_000, |_| false);
                let members = self.etcd.members();
                members.map_or("no quorum".into(), |members| listing(members.iter().map(|m| (m.place, m.learner)).collect()))
            }
        }
    }
}

struct Real {
    dir: tempfile::TempDir,
    version: String,
    ports: Vec<[u16; 2]>,
    running: Vec<(Place, Child)>,
}

impl Drop for Real {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(40);

fn until<T>(within: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if began.elapsed() > within {
            return None;
        }
        sleep(Duration::from_millis(50));
    }
}

impl Real {
    fn new(version: &str) -> Self {
        let ports = (0..6).map(|_| free_ports()).collect();
        Self { dir: tempfile::tempdir().expect("a directory"), version: version.into(), ports, running: vec![] }
    }

    fn program(&self, name: &str) -> PathBuf {
        let set = std::env::var_os("ETCD_WARDEN_CLUSTER").filter(|path| !path.is_empty()).map(PathBuf::from);
        let root =
            set.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/etcd-warden/cluster"));
        let path = root.join(format!("bin/etcd-{}", self.version)).join(name);
        assert!(path.exists(), "{} is missing: run `make cluster-programs`", path.display());
        path
    }

    fn url(&self, place: Place, port: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[usize::from(place)][port])
    }

    fn spawn(&mut self, place: Place, list: &[Place], mode: Mode) {
        let (client, peer) = (self.url(place, 0), self.url(place, 1));
        let initial: Vec<_> = list.iter().map(|place| format!("m{place}={}", self.url(*place, 1))).collect();
        let log = File::options().create(true).append(true).open(self.dir.path().join(format!("m{place}.log"))).expect("a log");
        let child = Command::new(self.program("etcd"))
            .current_dir(self.dir.path())
            .args(["--unsafe-no-fsync", "--log-level=warn", "--initial-cluster-token=reality"])
            .arg(format!("--name=m{place}"))
            .arg(format!("--data-dir=m{place}"))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster={}", initial.join(",")))
            .arg(format!("--initial-cluster-state={}", if mode == New { "new" } else { "existing" }))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.running.push((place, child));
    }

    fn stop(&mut self, place: Place) {
        let at = self.running.iter().position(|(other, _)| *other == place).expect("it runs");
        let (_, mut child) = self.running.remove(at);
        child.kill().and_then(|()| child.wait()).expect("it is killed");
    }

    /// Whether the process has ended by itself; then it is forgotten.
    fn has_ended(&mut self, place: Place) -> bool {
        let Some(at) = self.running.iter().position(|(other, _)| *other == place) else { return true };
        let ended = self.running[at].1.try_wait().expect("it is ours").is_some();
        if ended {
            self.running.remove(at);
        }
        ended
    }

    fn etcdctl(&self, place: Place, args: &[&str]) -> Result<String, Class> {
        let output = Command::new(self.program("etcdctl"))
            .args([format!("--endpoints={}", self.url(place, 0)), "--command-timeout=5s".into()])
            .args(args)
            .output()
            .expect("etcdctl runs");
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let message = said.lines().rev().find_map(|line| Some(line[line.find("etcdserver: ")?..].to_owned()));
        Err(message.map_or(Class::Timeout, |message| EtcdError::from(tonic::Status::unknown(message)).class()))
    }

    fn status(&self, place: Place) -> Option<(u64, u64)> {
        let said = self.etcdctl(place, &["endpoint", "status", "-w=json"]).ok()?;
        let read: serde_json::Value = serde_json::from_str(&said).ok()?;
        let status = &read[0]["Status"];
        Some((status["header"]["member_id"].as_u64()?, status["leader"].as_u64().unwrap_or_default()))
    }

    fn leader(&self) -> Option<Place> {
        let leads = |place: &Place| self.status(*place).is_some_and(|(id, leader)| id == leader);
        self.running.iter().map(|(place, _)| *place).find(leads)
    }

    fn members(&self, at: Place) -> Option<Vec<(u64, Place, bool)>> {
        let said = self.etcdctl(at, &["member", "list", "-w=json"]).ok()?;
        let read: serde_json::Value = serde_json::from_str(&said).ok()?;
        let place = |url: &str| (0..6).find(|place| self.url(*place, 1) == url);
        let member = |m: &serde_json::Value| {
            Some((m["ID"].as_u64()?, place(m["peerURLs"][0].as_str()?)?, m["isLearner"].as_bool().unwrap_or_default()))
        };
        read["members"].as_array()?.iter().map(member).collect()
    }

    fn change(&self, args: &[&str], of: Option<Place>) -> Result<(), Class> {
        let leader = until(PATIENCE, || self.leader()).expect("a member leads");
        let listed = of.and_then(|of| self.members(leader)?.into_iter().find(|m| m.1 == of));
        let id = listed.map(|m| format!("{:x}", m.0));
        let args: Vec<_> = args.iter().copied().chain(id.as_deref()).collect();
        self.etcdctl(leader, &args).map(drop)
    }
}

impl Side for Real {
    fn act(&mut self, act: &Act) -> String {
        match act {
            Bootstrap(count) => {
                let list: Vec<_> = (0..*count).collect();
                for place in &list {
                    self.spawn(*place, &list, New);
                }
                let all = || list.iter().all(|place| self.status(*place).is_some_and(|(_, leader)| leader != 0)).then_some(());
                until(PATIENCE, all).expect("a cluster is bootstrapped");
                "done".into()
            }
            Stop(place) => {
                self.stop(*place);
                "done".into()
            }
            Wipe(place) => {
                std::fs::remove_dir_all(self.dir.path().join(format!("m{place}"))).expect("it has data");
                "done".into()
            }
            Start(place, list, mode) => {
                self.spawn(*place, list, *mode);
                // One that ends may seem to run for a moment.
                let mut answers = 0;
                let within = Duration::from_secs(12);
                let came = until(within, || {
                    if self.has_ended(*place) {
                        return Some("ends");
                    }
                    answers += u32::from(self.status(*place).is_some());
                    (answers > 3).then_some("runs")
                });
                came.unwrap_or("silent").into()
            }
            Ends(place) => until(PATIENCE, || self.has_ended(*place).then_some(())).is_some().to_string(),
            Settle => {
                let leader = until(Duration::from_secs(15), || self.leader());
                sleep(Duration::from_millis(6_500));
                leader.is_some().to_string()
            }
            Lead(place) => {
                let id = self.status(*place).expect("it answers").0;
                let leader = until(PATIENCE, || self.leader()).expect("a member leads");
                if leader != *place {
                    self.etcdctl(leader, &["move-leader", &format!("{id:x}")]).expect("a healthy voter leads");
                }
                "done".into()
            }
            Add(place) => {
                let (name, url) = (format!("m{place}"), format!("--peer-urls={}", self.url(*place, 1)));
                describe(self.change(&["member", "add", &name, "--learner", &url], None))
            }
            Promote(place) => describe(self.change(&["member", "promote"], Some(*place))),
            PromoteInTime(place) => {
                let attempt =
                    || Some(self.change(&["member", "promote"], Some(*place))).filter(|r| *r != Err(Class::LearnerNotReady));
                describe(until(PATIENCE, attempt).unwrap_or(Err(Class::LearnerNotReady)))
            }
            Remove(place) => describe(self.change(&["member", "remove"], Some(*place))),
            MoveLeader(place) => describe(self.change(&["move-leader"], Some(*place))),
            Write => {
                let at = self.running[0].0;
                until(Duration::from_secs(10), || self.etcdctl(at, &["put", "key", "value"]).ok()).is_some().to_string()
            }
            List => {
                let places: Vec<_> = self.running.iter().map(|(place, _)| *place).collect();
                let found = until(Duration::from_secs(4), || places.iter().find_map(|place| self.members(*place)));
                found.map_or("no quorum".into(), |found| listing(found.into_iter().map(|m| (m.1, m.2)).collect()))
            }
        }
    }
}

/// Ports that are free, each given out once.
fn free_ports() -> [u16; 2] {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    std::array::from_fn(|_| {
        loop {
            let next = std::process::id().wrapping_mul(128).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(10_000 + next % 20_000).expect("it is below 30,000");
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return port;
            }
        }
    })
}

/// `ETCD=3.5.35` runs another release.
#[test]
fn etcd_and_its_model_agree() {
    let version = std::env::var("ETCD").unwrap_or_else(|_| "3.6.16".into());
    let filter = std::env::var("SCENARIO").unwrap_or_default();
    let mut differ = vec![];
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|(name, _)| name.contains(&filter)).collect();
    for some in scenarios.chunks(4) {
        std::thread::scope(|scope| {
            let run = |(name, acts): &(&'static str, &'static [Act])| {
                let (mut real, mut model) = (Real::new(&version), Model { etcd: Etcd::default(), now: 0, rng: Rng::new(1) });
                let mut differ = vec![];
                for act in *acts {
                    let began = Instant::now();
                    let (real, model) = (real.act(act), model.act(act));
                    println!("{name}: {act:?}: {real} in {:.1} s", began.elapsed().as_secs_f32());
                    if real != model {
                        differ.push(format!("{name}: {act:?}: etcd {real}, the model {model}"));
                    }
                }
                differ
            };
            let threads: Vec<_> = some.iter().map(|scenario| scope.spawn(move || run(scenario))).collect();
            differ.extend(threads.into_iter().flat_map(|thread| thread.join().expect("a scenario runs to its end")));
        });
    }
    assert!(differ.is_empty(), "etcd {version} and its model differ:\n{}", differ.join("\n"));
}
