//! Waiting for conditions, and running programs.

use std::{
    ffi::OsStr,
    fs,
    panic::Location,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::sleep,
};

/// How often a condition is checked.
const POLL: Duration = Duration::from_millis(200);

/// Waits until the condition returns a value. Otherwise it returns what it observed.
#[track_caller]
pub fn until<T, F>(what: &str, within: Duration, mut condition: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Result<T, String>>,
{
    let at = Location::caller();
    async move {
        let deadline = Instant::now() + within;
        loop {
            match condition().await {
                Ok(value) => return value,
                Err(seen) if Instant::now() >= deadline => panic!("{at}: not within {within:?}: {what}; last seen: {seen}"),
                Err(_) => sleep(POLL).await,
            }
        }
    }
}

/// The result of a program.
#[derive(Debug)]
pub struct Ran {
    command: String,
    pub ok: bool,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its output. It must have succeeded.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.ok, "{} failed: {}{}", self.command, self.out, self.err);
        self.out
    }
    /// Its output. It must have failed.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(!self.ok, "{} should have failed and printed: {}{}", self.command, self.out, self.err);
        format!("{}{}", self.out, self.err)
    }
    /// Its output as a `Result`, for conditions.
    pub fn result(self) -> Result<String, String> {
        if self.ok { Ok(self.out) } else { Err(format!("{}{}", self.out, self.err)) }
    }
}

/// Runs a program to its end.
pub async fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Ran {
    run_with(program, arguments, "").await
}

/// Runs a program to its end, with this input.
pub async fn run_with<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = S>,
    input: impl AsRef<[u8]>,
) -> Ran {
    let arguments: Vec<S> = arguments.into_iter().collect();
    let shown: Vec<_> = arguments.iter().map(|argument| argument.as_ref().to_string_lossy()).collect();
    let command = format!("{} {}", program.as_ref().to_string_lossy(), shown.join(" "));
    let mut child = Command::new(program.as_ref())
        .args(&arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|e| panic!("{command}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    // A program that does not read all of its input reports the problem itself.
    let feed = async move { drop(stdin.write_all(input.as_ref()).await) };
    let limit = Duration::from_secs(150);
    let (output, ()) = tokio::time::timeout(limit, async { tokio::join!(child.wait_with_output(), feed) })
        .await
        .unwrap_or_else(|_| panic!("{command}: not done within {limit:?}"));
    let output = output.unwrap_or_else(|e| panic!("{command}: {e}"));
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { command, ok: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
}

/// The repository.
pub fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The folder with the cluster's programs.
fn bin() -> PathBuf {
    let kubeconfig: PathBuf = std::env::var_os("KUBECONFIG").expect("KUBECONFIG is not set: run this by `make e2e`").into();
    kubeconfig.parent().unwrap().join("bin")
}

/// `etcdctl` of the default version of clusters.
pub async fn etcdctl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    run(bin().join("etcd-3.6.16/etcdctl"), arguments).await
}

/// The first lines of output of a program that does not end by itself.
pub async fn first_lines(program: &str, arguments: &[String], count: usize) -> String {
    let program = if program == "etcdctl" { bin().join("etcd-3.6.16/etcdctl") } else { program.into() };
    let mut child = Command::new(program).args(arguments).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut text = String::new();
    for _ in 0..count {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await;
        let Ok(Ok(Some(line))) = line else { panic!("{arguments:?} printed {text:?} and then {line:?}") };
        text = text + &line + "\n";
    }
    text
}

pub async fn kubectl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    run("kubectl", arguments).await
}

pub async fn openssl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    run("openssl", arguments).await
}

/// The process of this name in the pod with this uid. The uid is part of the name of its cgroup.
pub fn process(name: &str, pod_uid: &str) -> String {
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_it = |process: &String| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        read("comm").trim() == name && read("cgroup").replace('_', "-").contains(pod_uid)
    };
    processes.filter(|name| name.bytes().all(|b| b.is_ascii_digit())).find(is_it).expect("the pod has such a process")
}
