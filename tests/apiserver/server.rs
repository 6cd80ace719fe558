//! A kube-apiserver and its etcd as processes on loopback.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use axum::http::Request;
use etcd_warden::api;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams},
    client::ClientBuilder,
    config::AuthInfo,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use crate::{namespace::until, tap::Tap};

/// The server that all tests share. Each test has a namespace of its own.
pub async fn shared() -> &'static Server {
    static SHARED: OnceCell<Server> = OnceCell::const_new();
    SHARED.get_or_init(Server::start).await
}

/// Another server for tests that would disturb others. They use it one after the other.
pub async fn isolated() -> MutexGuard<'static, Server> {
    static ISOLATED: OnceCell<Mutex<Server>> = OnceCell::const_new();
    ISOLATED.get_or_init(async || Mutex::new(Server::start().await)).await.lock().await
}

/// A running kube-apiserver with its etcd and the custom resources.
pub struct Server {
    dir: PathBuf,
    url: String,
    authority: Authority,
    /// Ends both programs when its input is closed, so whenever this process ends for any reason.
    _supervisor: Child,
}

impl Server {
    async fn start() -> Self {
        // The operator uses the cryptography provider ring. Another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::Builder::new().prefix("etcd-warden-apiserver-").tempdir().unwrap().keep();
        let authority = Authority::new();
        fs::write(dir.join("ca.crt"), &authority.pem).unwrap();
        authority.write(&dir, "apiserver", "");
        authority.write(&dir, "admin", "system:masters");
        let tokens = KeyPair::generate().unwrap();
        fs::write(dir.join("tokens.key"), tokens.serialize_pem()).unwrap();
        fs::write(dir.join("tokens.pub"), tokens.public_key_pem()).unwrap();
        let ports = free_ports();
        let url = format!("https://127.0.0.1:{}", ports[2]);
        let file = |name: &str| dir.join(name).display().to_string();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": url, "certificate-authority": file("ca.crt") } }],
            "users": [{ "name": "test", "user": { "client-certificate": file("admin.crt"), "client-key": file("admin.key") } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        fs::write(dir.join("kubeconfig"), kubeconfig.to_string()).unwrap();
        let supervisor = supervise(&dir, ports);
        let server = Self { dir, url, authority, _supervisor: supervisor };
        server.ready().await;
        server.install().await;
        server
    }

    async fn ready(&self) {
        let client = self.client();
        until("the API server is ready", async || {
            assert!(self.runs(), "a program ended by itself\n{}", self.logs());
            client.request_text(get("/readyz")).await.ok()
        })
        .await;
    }

    fn runs(&self) -> bool {
        let pids = ["etcd.pid", "apiserver.pid"].map(|file| fs::read_to_string(self.dir.join(file)).unwrap_or_default());
        pids.iter().all(|pid| pid.trim().is_empty() || Path::new("/proc").join(pid.trim()).exists())
    }

    fn logs(&self) -> String {
        let end = |name: &str| {
            let log = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            let skipped = log.lines().count().saturating_sub(20);
            log.lines().skip(skipped).fold(format!("--- {name}\n"), |text, line| text + line + "\n")
        };
        end("etcd.log") + &end("apiserver.log")
    }

    /// Installs the CRDs of this version of the operator.
    pub async fn install(&self) {
        for crd in api::crds().unwrap() {
            self.apply_crd(&crd).await;
        }
    }

    /// Applies a CRD and waits until the resource is served.
    pub async fn apply_crd(&self, crd: &CustomResourceDefinition) {
        let client = self.client();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        let name = crd.metadata.name.clone().unwrap();
        crds.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(crd)).await.unwrap();
        let path = format!("/apis/{}/{}/{}", crd.spec.group, crd.spec.versions[0].name, crd.spec.names.plural);
        until("the resource is served", async || client.request_text(get(&path)).await.ok()).await;
    }

    /// The configuration of the administrator's client.
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url.parse().unwrap());
        // As the operator's own client: a retried eviction would be refused for ever.
        config.default_retry = false;
        config.root_cert = Some(vec![self.authority.der.clone()]);
        config.auth_info = AuthInfo {
            client_certificate: Some(self.dir.join("admin.crt").display().to_string()),
            client_key: Some(self.dir.join("admin.key").display().to_string()),
            ..AuthInfo::default()
        };
        config
    }

    /// The administrator's client. It belongs to the runtime of the calling test.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// The administrator's client, whose requests go through `tap`.
    pub fn tapped(&self, tap: &Tap) -> Client {
        ClientBuilder::try_from(self.config()).unwrap().with_layer(tap).build()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Runs kubectl, which must succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let output = Command::new(program("kubectl")).env("KUBECONFIG", self.kubeconfig()).args(args).output().unwrap();
        assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sends a signal to the API server.
    pub fn signal(&self, signal: &str) {
        let pid = fs::read_to_string(self.dir.join("apiserver.pid")).unwrap();
        assert!(Command::new("kill").args(["-s", signal, pid.trim()]).status().unwrap().success());
    }
}

/// A request for a path.
pub fn get(path: &str) -> Request<Vec<u8>> {
    Request::get(path).body(vec![]).unwrap()
}

/// Starts both programs from a shell that ends them and removes their files when this process ends.
fn supervise(dir: &Path, [clients, peers, api]: [u16; 3]) -> Child {
    let script = format!(
        "'{etcd}' --data-dir=etcd --unsafe-no-fsync --log-level=warn --listen-client-urls=http://127.0.0.1:{clients} \
        --advertise-client-urls=http://127.0.0.1:{clients} --listen-peer-urls=http://127.0.0.1:{peers} >etcd.log 2>&1 </dev/null &
        echo $! >etcd.pid
        '{apiserver}' --etcd-servers=http://127.0.0.1:{clients} --bind-address=127.0.0.1 --secure-port={api} \
        --endpoint-reconciler-type=none --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC \
        --disable-admission-plugins=ServiceAccount --client-ca-file=ca.crt --tls-cert-file=apiserver.crt \
        --tls-private-key-file=apiserver.key --service-account-issuer=https://tests --service-account-key-file=tokens.pub \
        --service-account-signing-key-file=tokens.key >apiserver.log 2>&1 </dev/null &
        echo $! >apiserver.pid
        cat >/dev/null
        kill -9 $(jobs -p)
        wait
        rm -rf '{dir}'",
        etcd = program("etcd-3.6.16/etcd").display(),
        apiserver = program("kube-apiserver").display(),
        dir = dir.display(),
    );
    let mut bash = Command::new("bash");
    bash.current_dir(dir).args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // It is in a process group of its own, so that an interrupt from the terminal does not end it before the programs.
    bash.process_group(0).spawn().unwrap()
}

/// A program of the test cluster.
pub fn program(name: &str) -> PathBuf {
    let root = std::env::var_os("ETCD_WARDEN_CLUSTER")
        .filter(|v| !v.is_empty())
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache/etcd-warden/cluster"), PathBuf::from);
    let path = root.join("bin").join(name);
    assert!(path.exists(), "{} is missing: run `make cluster-programs`", path.display());
    path
}

/// Free ports. They are below Linux' range of ports for outgoing connections; the process ID makes ports of concurrent test
/// processes differ.
fn free_ports<const N: usize>() -> [u16; N] {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    std::array::from_fn(|_| {
        loop {
            let next = std::process::id().wrapping_mul(64).wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed));
            let port = u16::try_from(10_000 + next % 20_000).unwrap();
            if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return port;
            }
        }
    })
}

/// The authority of the API server's own certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let signed = params.self_signed(&key).unwrap();
        Self { pem: signed.pem(), der: signed.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate for loopback and for the user `name` in `group`, and its key.
    fn write(&self, dir: &Path, name: &str, group: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        fs::write(dir.join(format!("{name}.crt")), params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
