//! The effect of new certificates, of a new CA, of a rolling restart and of an upgrade on clients, with manual steps and with the operator.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use etcd_warden::{api::EtcdCluster, pki::Domain};
use serde_json::json;

use crate::{
    harness::Scenario,
    members::restart,
    namespace::{Identity, TIMEOUT, TestNamespace},
    rotation::{refresh, rotate, served, status, try_status, until_renewed},
    tools::{Ran, kubectl, root, run, until},
    versions::{set_version, until_version},
    watcher::Watchers,
    writer::Writers,
};

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario!(by_hand).bench(),
        scenario!(by_the_operator).bench(),
        scenario!(restarted_while_clients_watch).bench(),
        scenario!(restarted_in_turn).bench(),
        scenario!(upgraded_in_turn).bench(),
    ]
}

/// The manually created cluster of `hack/bench/baseline`, whose members must be restarted for a new CA.
struct Hand {
    namespace: String,
    files: PathBuf,
}

impl Hand {
    async fn create(ns: &TestNamespace, version: &str) -> Self {
        let hand = Self { namespace: format!("{}-hand", ns.name), files: ns.write("hand", &BTreeMap::new()) };
        let folder = hand.files.display().to_string();
        run(root().join("hack/bench/pki"), [&folder, &hand.namespace]).await.success();
        run(root().join("hack/bench/baseline"), [&hand.namespace, "1Gi", &folder, version]).await.success();
        hand
    }

    fn user(&self) -> Identity {
        Identity {
            ca: self.files.join("ca.crt"),
            pair: Some((self.files.join("demo-0.crt"), self.files.join("demo-0.key"))),
            endpoint: format!("https://clients.{}.svc:2379", self.namespace),
        }
    }

    async fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        kubectl(["-n", &self.namespace].into_iter().chain(arguments)).await
    }

    /// Creates certificates with the existing CA or a new one, and writes them into the Secret.
    async fn reissue(&self, folder: &Path) {
        run(root().join("hack/bench/pki"), [&folder.display().to_string(), &self.namespace]).await.success();
        let mut files = vec![];
        for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            if name == "ca.crt" || name.starts_with("demo-") {
                files.push(format!("--from-file={}", file.display()));
            }
        }
        let mut arguments = vec!["-n", &self.namespace, "create", "secret", "generic", "tls", "--dry-run=client", "-o", "yaml"];
        arguments.extend(files.iter().map(String::as_str));
        let manifest = kubectl(arguments).await.success();
        crate::tools::run_with("kubectl", ["-n", &self.namespace, "replace", "-f", "-"], &manifest).await.success();
    }

    /// Changes the StatefulSet or its pods, and waits until all pods have followed.
    async fn change<const N: usize>(&self, arguments: [&str; N]) {
        self.kubectl(arguments).await.success();
        self.ready().await;
    }

    async fn remove(self) {
        kubectl(["delete", "namespace", &self.namespace, "--wait=true"]).await.success();
    }

    async fn ready(&self) {
        self.kubectl(["rollout", "status", "statefulset/demo", "--timeout=150s"]).await.success();
        self.kubectl(["wait", "--for=condition=Ready", "pod", "-l", "app=demo", "--timeout=150s"]).await.success();
    }
}

/// New certificates of the same CA with a rolling restart, then of another CA with a restart of all members, which do not trust
/// both CAs.
async fn by_hand(ns: Arc<TestNamespace>) {
    let hand = Hand::create(&ns, "3.6.16").await;
    let user = hand.user();

    let writers = Writers::start(&user).await;
    let began = Instant::now();
    let renewed = ns.write("renewed", &read(&hand.files, &["ca.crt", "ca.key"]));
    hand.reissue(&renewed).await;
    hand.change(["rollout", "restart", "statefulset/demo"]).await;
    let took = began.elapsed().as_secs_f32();
    ns.measure(format!("new certificates by a rolling restart, {took:.0} s: {}", writers.stop().await.checked(&user).await));

    let writers = Writers::start(&user).await;
    let began = Instant::now();
    let other = ns.write("other", &BTreeMap::new());
    hand.reissue(&other).await;
    ns.write("hand", &read(&other, &["ca.crt", "demo-0.crt", "demo-0.key"]));
    hand.change(["delete", "pod", "-l", "app=demo", "--wait=true"]).await;
    let took = began.elapsed().as_secs_f32();
    ns.measure(format!("a new authority by restarting all, {took:.0} s: {}", writers.stop().await.checked(&user).await));
    hand.remove().await;
}

fn read(folder: &Path, files: &[&str]) -> BTreeMap<String, Vec<u8>> {
    files.iter().map(|file| ((*file).to_owned(), fs::read(folder.join(file)).unwrap())).collect()
}

/// A renewal, then a CA rotation in both domains.
async fn by_the_operator(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let refreshing = refresh(Arc::clone(&ns));
    let before = served(&ns, &user, 2).await;
    let writers = Writers::start(&user).await;
    let began = Instant::now();
    let shorter = json!({ "certificate": { "duration": "2000h" } });
    ns.patch::<EtcdCluster>("demo", json!({ "spec": { "tls": { "client": shorter, "peer": shorter } } })).await;
    until_renewed(&ns, &user, 2, &before).await;
    ns.until_ready("demo").await;
    ns.measure(format!(
        "new certificates, {:.0} s: {}",
        began.elapsed().as_secs_f32(),
        writers.stop().await.checked(&user).await
    ));

    let before = [status(&ns, Domain::Client).await, status(&ns, Domain::Peer).await];
    let writers = Writers::start(&user).await;
    let began = Instant::now();
    rotate(&ns, "client,peer").await;
    for (domain, before) in [Domain::Client, Domain::Peer].into_iter().zip(before) {
        until("the rotation is complete", TIMEOUT * 4, || async {
            let now = try_status(&ns, domain).await?;
            let over = now.phase.is_none() && now.active.key_id != before.active.key_id && now.retiring.is_empty();
            if over { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }
    ns.until_ready("demo").await;
    let took = began.elapsed().as_secs_f32();
    ns.measure(format!("new authorities in both domains, {took:.0} s: {}", writers.stop().await.checked(&user).await));
    refreshing.abort();
}

/// A rolling restart, first without and then with clients that watch at every member.
async fn restarted_while_clients_watch(ns: Arc<TestNamespace>) {
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let writers = Writers::start(&user).await;
    restart(&ns, "without").await;
    ns.measure(format!("a rolling restart: {}", writers.stop().await.checked(&user).await));

    let watchers = Watchers::start(&user, &ns.member_endpoints(3)).await;
    let writers = Writers::start(&user).await;
    restart(&ns, "with").await;
    let figures = writers.stop().await.checked(&user).await;
    let seen = watchers.stop(&figures).await;
    ns.measure(format!("a rolling restart while clients watch: {figures}; {seen}"));
}

/// How often a restart and an upgrade are measured.
const ROUNDS: usize = 3;

/// The times of one kind of change, in seconds, and what became of the writes.
#[derive(Default)]
struct Rolled {
    times: Vec<f32>,
    written: u32,
    failed: u32,
}

impl Rolled {
    /// Measures a change while clients write.
    async fn measure(&mut self, user: &Identity, change: impl Future<Output = ()>) {
        let writers = Writers::start(user).await;
        let began = Instant::now();
        change.await;
        self.times.push(began.elapsed().as_secs_f32());
        let figures = writers.stop().await.checked(user).await;
        figures.assert_nothing_lost();
        self.written += figures.written;
        self.failed += figures.failed;
    }

    fn median(&mut self) -> f32 {
        self.times.sort_by(f32::total_cmp);
        self.times[self.times.len() / 2]
    }
}

/// Prints both, and their ratio.
fn compare(ns: &TestNamespace, what: &str, mut by_hand: Rolled, mut ours: Rolled) {
    let (manual, own) = (by_hand.median(), ours.median());
    ns.measure(format!(
        "{what}, median of {ROUNDS}: by hand {manual:.1} s, {} of {} writes failed; by the operator {own:.1} s, {} of {} writes failed; \
         operator / by hand {:.2}",
        by_hand.failed,
        by_hand.written,
        ours.failed,
        ours.written,
        own / manual
    ));
    assert_eq!(ours.failed, 0, "{what} by the operator");
}

/// A rolling restart of three members: in turn by the StatefulSet of the manual manifests, which restarts a pod as soon as the one before
/// is ready, and by the operator.
async fn restarted_in_turn(ns: Arc<TestNamespace>) {
    let (mut by_hand, mut ours) = (Rolled::default(), Rolled::default());
    let user = ns.cluster_and_user("demo", 3, json!({})).await;
    let hand = Hand::create(&ns, "3.6.16").await;
    for round in 0..ROUNDS {
        let change = hand.change(["rollout", "restart", "statefulset/demo"]);
        by_hand.measure(&hand.user(), change).await;
        ours.measure(&user, restart(&ns, &format!("round {round}"))).await;
    }
    hand.remove().await;
    compare(&ns, "a rolling restart", by_hand, ours);
}

/// An upgrade of three members, likewise.
async fn upgraded_in_turn(ns: Arc<TestNamespace>) {
    const FROM: &str = "3.5.35";
    const TO: &str = "3.6.16";
    let (mut by_hand, mut ours) = (Rolled::default(), Rolled::default());
    let user = ns.cluster_and_user("demo", 3, json!({ "version": FROM })).await;
    for _ in 0..ROUNDS {
        let hand = Hand::create(&ns, FROM).await;
        let image = format!("etcd=gcr.io/etcd-development/etcd:v{TO}");
        by_hand.measure(&hand.user(), hand.change(["set", "image", "statefulset/demo", &image])).await;
        hand.remove().await;
        let change = async {
            set_version(&ns, TO).await;
            until_version(&ns, TO).await;
        };
        ours.measure(&user, change).await;
        set_version(&ns, FROM).await;
        until_version(&ns, FROM).await;
    }
    compare(&ns, "an upgrade", by_hand, ours);
}
