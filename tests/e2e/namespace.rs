//! The namespace of a scenario, and helpers.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use etcd_warden::{
    api::{ConditionType, EtcdCluster, EtcdClusterStatus, EtcdUser, Reason, condition},
    etcd::{self, Class, DialError, Dialer, StatusAnswer, Target, Tls},
    names::{Names, tls_key},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{Namespace, Pod, Secret},
        events::v1::Event,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tools::{Ran, etcdctl, kubectl, root, run, run_with, until};

/// The label of a scenario's namespace: the name of the scenario.
const LABEL: &str = "etcd-warden-e2e";
/// Long enough for a cluster to be bootstrapped on a loaded machine.
pub const TIMEOUT: Duration = Duration::from_secs(150);

/// A scenario's namespace.
pub struct TestNamespace {
    pub client: Client,
    pub name: String,
    scenario: String,
    files: TempDir,
    measured: Mutex<Vec<String>>,
}

/// Removes the namespaces of earlier runs.
pub async fn remove_namespaces(client: &Client) {
    let api: Api<Namespace> = Api::all(client.clone());
    for namespace in api.list(&ListParams::default().labels(LABEL)).await.unwrap() {
        drop(api.delete(&namespace.name_any(), &DeleteParams::default()).await);
    }
}

impl TestNamespace {
    pub async fn create(client: Client, scenario: &str) -> Self {
        let label = scenario.replace("::", ".");
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {
                "generateName": format!("{}-", scenario.rsplit("::").next().unwrap().replace('_', "-")),
                "labels": { LABEL: label, "pod-security.kubernetes.io/enforce": "restricted" },
            }
        }))
        .unwrap();
        let made = Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
        Self {
            client,
            name: made.name_any(),
            scenario: scenario.into(),
            files: TempDir::new().unwrap(),
            measured: Mutex::default(),
        }
    }

    /// Deletes the namespace without waiting.
    pub async fn remove(&self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.delete(&self.name, &DeleteParams::default()).await.unwrap();
    }

    /// Records a line to be printed at the end.
    pub fn measure(&self, line: String) {
        self.measured.lock().unwrap().push(line);
    }

    pub fn measured(&self) -> Vec<String> {
        self.measured.lock().unwrap().clone()
    }

    /// Where the files of the scenario are kept.
    pub fn folder(&self) -> PathBuf {
        root().join("target/e2e").join(&self.scenario)
    }

    /// Writes the objects, events and logs of the namespace and the operator's log to files, without the contents of Secrets.
    pub async fn dump(&self) {
        let folder = self.folder();
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, ran: Ran| fs::write(folder.join(name), ran.out + &ran.err).unwrap();
        let kinds = "etcdclusters,etcdusers,statefulsets,pods,services,configmaps,persistentvolumeclaims,poddisruptionbudgets";
        write("objects.yaml", self.kubectl(["get", kinds, "-o", "yaml"]).await);
        write("secrets.txt", self.kubectl(["get", "secrets", "--show-labels"]).await);
        write("events.txt", self.kubectl(["get", "events.events.k8s.io", "-o", "wide"]).await);
        let operator = ["-n", Operator::NAMESPACE, "logs", "-l", "app.kubernetes.io/name=etcd-warden", "--prefix", "--tail=-1"];
        write("operator.log", kubectl(operator).await);
        for pod in self.api::<Pod>().list(&ListParams::default()).await.unwrap() {
            let name = pod.name_any();
            write(&format!("{name}.log"), self.kubectl(["logs", &name, "--all-containers"]).await);
            let before = self.kubectl(["logs", &name, "--previous"]).await;
            if before.ok {
                write(&format!("{name}.previous.log"), before);
            }
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub fn names(&self, cluster: &str) -> Names {
        Names::new(cluster, &self.name, "cluster.local")
    }

    /// The client URL of each member of the cluster `demo`.
    pub fn member_endpoints(&self, count: u32) -> Vec<String> {
        let names = self.names("demo");
        (0..count).map(|ordinal| names.client_url(&names.member(ordinal))).collect()
    }

    /// `kubectl` in the namespace.
    pub async fn kubectl<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        kubectl(["-n", &self.name].into_iter().chain(arguments)).await
    }

    /// `kubectl apply` of a text, as a user would.
    pub async fn apply(&self, manifest: &str) -> Ran {
        run_with("kubectl", ["-n", &self.name, "apply", "-f", "-"], manifest).await
    }

    /// Creates an object with this spec, without the defaults of our types.
    pub async fn try_create<K>(&self, name: &str, spec: Value) -> Result<(), kube::Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let resource = ApiResource::erase::<K>(&());
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &self.name, &resource);
        let mut object = DynamicObject::new(name, &resource);
        object.data = json!({ "spec": spec });
        api.create(&PostParams::default(), &object).await.map(drop)
    }

    /// Creates a small cluster that retains no data, with further fields of its spec.
    pub async fn create_cluster(&self, name: &str, replicas: u32, more: Value) {
        let mut spec = json!({ "replicas": replicas, "storage": { "size": "1Gi", "retention": "Delete" } });
        merge(&mut spec, more);
        self.try_create::<EtcdCluster>(name, spec).await.unwrap();
    }

    pub async fn create_user(&self, name: &str, cluster: &str) {
        self.try_create::<EtcdUser>(name, json!({ "clusterRef": { "name": cluster } })).await.unwrap();
    }

    /// Creates a cluster and a user, and waits for both. Returns the identity of the user.
    pub async fn cluster_and_user(&self, name: &str, replicas: u32, more: Value) -> Identity {
        self.create_cluster(name, replicas, more).await;
        self.create_user("app", name).await;
        self.until_ready(name).await;
        self.user_identity("app").await
    }

    pub async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>().get_opt(name).await.unwrap()
    }

    /// Changes an object as `kubectl patch --type=merge` would.
    pub async fn patch<K>(&self, name: &str, patch: Value)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let parameters = PatchParams { field_manager: Some("e2e".into()), ..PatchParams::default() };
        self.api::<K>().patch(name, &parameters, &Patch::Merge(patch)).await.unwrap();
    }

    pub async fn delete<K>(&self, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        self.api::<K>().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Deletes a pod without a grace period.
    pub async fn kill(&self, pod: &str) {
        self.api::<Pod>().delete(pod, &DeleteParams::default().grace_period(0)).await.unwrap();
    }

    pub async fn status(&self, cluster: &str) -> EtcdClusterStatus {
        self.get::<EtcdCluster>(cluster).await.and_then(|cluster| cluster.status).unwrap_or_default()
    }

    /// Waits until a condition of a cluster has this status, and this reason if one is given; returns its message.
    #[track_caller]
    pub fn until_condition(
        &self,
        cluster: &str,
        kind: &str,
        status: &str,
        reason: &str,
        within: Duration,
    ) -> impl Future<Output = String> {
        let what = format!("{cluster}: {kind}={status} {reason}");
        let kind = ConditionType::parse(kind).unwrap_or_else(|| panic!("{kind} is not a type of conditions"));
        assert!(reason.is_empty() || Reason::parse(reason).is_some(), "{reason} is not a reason");
        let waiting = move || async move {
            let conditions = self.status(cluster).await.conditions;
            match condition(&conditions, kind) {
                Some(c) if c.status == status && (reason.is_empty() || c.reason == reason) => Ok(c.message.clone()),
                _ => Err(conditions_text(&conditions)),
            }
        };
        let at = std::panic::Location::caller();
        async move { until(&format!("{what} ({at})"), within, waiting).await }
    }

    /// The status, if every member is healthy, no changes are pending and nothing needs attention; otherwise the conditions.
    pub async fn ready(&self, cluster: &str) -> Result<EtcdClusterStatus, String> {
        let cluster = self.get::<EtcdCluster>(cluster).await.ok_or("it is gone")?;
        let status = cluster.status.unwrap_or_default();
        let is = |kind, expected: &str| condition(&status.conditions, kind).is_some_and(|c| c.status == expected);
        let all = status.ready.as_deref() == Some(&format!("{0}/{0}", cluster.spec.replicas));
        let current = status.observed_generation == cluster.metadata.generation;
        if all
            && current
            && is(ConditionType::Available, "True")
            && is(ConditionType::CertificatesReady, "True")
            && is(ConditionType::Progressing, "False")
            && is(ConditionType::Degraded, "False")
        {
            return Ok(status);
        }
        Err(format!("{:?} {}", status.ready, conditions_text(&status.conditions)))
    }

    /// Waits until [`TestNamespace::ready`].
    #[track_caller]
    pub fn until_ready(&self, cluster: &str) -> impl Future<Output = EtcdClusterStatus> {
        let at = std::panic::Location::caller();
        async move { until(&format!("{cluster} is ready ({at})"), TIMEOUT, || self.ready(cluster)).await }
    }

    /// Waits until the condition of a user has this status, and this reason if one is given; returns its message.
    pub async fn until_user(&self, user: &str, status: &str, reason: &str) -> String {
        assert!(reason.is_empty() || Reason::parse(reason).is_some(), "{reason} is not a reason");
        until(&format!("EtcdUser {user}: Ready={status} {reason}"), TIMEOUT, || async {
            let status_of = self.get::<EtcdUser>(user).await.and_then(|user| user.status).unwrap_or_default();
            match condition(&status_of.conditions, ConditionType::Ready) {
                Some(c) if c.status == status && (reason.is_empty() || c.reason == reason) => Ok(c.message.clone()),
                _ => Err(conditions_text(&status_of.conditions)),
            }
        })
        .await
    }

    /// The reasons and notes of the events about an object.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events = self.api::<Event>().list(&ListParams::default()).await.unwrap();
        let about = |event: &Event| event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name));
        events.into_iter().filter(about).map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default())).collect()
    }

    /// Checks that no event about an object has this reason.
    pub async fn has_no_event(&self, name: &str, reason: &str) {
        assert!(Reason::parse(reason).is_some(), "{reason} is not a reason");
        let events = self.events(name).await;
        assert!(!events.iter().any(|(other, _)| other == reason), "{events:?}");
    }

    /// The contents of a Secret.
    pub async fn secret(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let secret = self.get::<Secret>(name).await.unwrap_or_else(|| panic!("there is no Secret {name}"));
        secret.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
    }

    /// Writes contents to files in a folder of this name.
    pub fn write(&self, folder: &str, contents: &BTreeMap<String, Vec<u8>>) -> PathBuf {
        let folder = self.files.path().join(folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in contents {
            // The file is renamed, so that it is never read incomplete.
            let new = folder.join(format!(".{name}"));
            fs::write(&new, content).unwrap();
            fs::rename(new, folder.join(name)).unwrap();
        }
        folder
    }

    /// Waits for a user's certificate and returns the identity in its Secret.
    pub async fn user_identity(&self, user: &str) -> Identity {
        self.until_user(user, "True", "").await;
        self.identity(&format!("{user}-etcd-tls")).await
    }

    /// The identity in a Secret of type kubernetes.io/tls.
    pub async fn identity(&self, secret: &str) -> Identity {
        let contents = self.secret(secret).await;
        let endpoint = contents.get(tls_key::ENDPOINTS).map(|text| String::from_utf8(text.clone()).unwrap());
        let folder = self.write(secret, &contents);
        Identity {
            ca: folder.join(tls_key::CA),
            pair: Some((folder.join(tls_key::CRT), folder.join(tls_key::KEY))),
            endpoint: endpoint.unwrap_or_default(),
        }
    }

    /// Identifies the current container of a pod: the pod's uid and the container's ID.
    pub async fn incarnation(&self, pod: &str) -> String {
        let pod = self.get::<Pod>(pod).await.expect("the pod exists");
        let statuses = pod.status.unwrap_or_default().container_statuses.unwrap_or_default();
        format!("{} {:?}", pod.metadata.uid.unwrap(), statuses.first().and_then(|status| status.container_id.clone()))
    }
}

/// The files and the endpoint of a client.
#[derive(Clone, Debug)]
pub struct Identity {
    pub ca: PathBuf,
    pub pair: Option<(PathBuf, PathBuf)>,
    pub endpoint: String,
}

impl Identity {
    pub fn without_pair(&self) -> Self {
        Self { pair: None, ..self.clone() }
    }
    pub fn with_pair(&self, folder: &Path, crt: &str, key: &str) -> Self {
        Self { pair: Some((folder.join(crt), folder.join(key))), ..self.clone() }
    }
    pub fn at(&self, endpoint: impl Into<String>) -> Self {
        Self { endpoint: endpoint.into(), ..self.clone() }
    }

    /// `etcdctl` at the identity's endpoint.
    pub async fn etcdctl<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        let mut all = self.flags();
        if !self.endpoint.is_empty() {
            all.push(format!("--endpoints={}", self.endpoint));
        }
        all.extend(arguments.map(str::to_owned));
        etcdctl(all).await
    }

    /// Asks a member for its status, as the operator does. The answer has the leaf that it serves, and whether it accepts the
    /// identity.
    pub async fn ask(&self, host: &str) -> Result<StatusAnswer, DialError> {
        let pair = self.pair.as_ref().map(|(crt, key)| (fs::read(crt).unwrap(), fs::read(key).unwrap()));
        let pair = pair.as_ref().map(|(crt, key)| (crt.as_slice(), key.as_slice()));
        let tls = Tls::new(&fs::read(&self.ca).unwrap(), pair).unwrap();
        etcd::Client::default().ask(&Target::new(host, 2379), &tls).await
    }

    /// Whether a member accepts the identity; otherwise the class of the error.
    pub async fn accepted(&self, host: &str) -> Result<(), Class> {
        let answer = self.ask(host).await.unwrap_or_else(|e| panic!("{host} {e}"));
        answer.status.map(drop).map_err(|error| error.class())
    }

    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec![format!("--cacert={}", self.ca.display())];
        if let Some((crt, key)) = &self.pair {
            flags.extend([format!("--cert={}", crt.display()), format!("--key={}", key.display())]);
        }
        flags
    }
}

/// The operator that the chart installs.
pub struct Operator;

impl Operator {
    pub const NAMESPACE: &str = "etcd-warden-system";

    /// Installs or upgrades it with further arguments for `helm`, and waits until it is ready.
    pub async fn install(more: &[&str]) {
        let chart = root().join("charts/etcd-warden");
        // A changed annotation recreates the pods, so that they use the image that was loaded last.
        let run_id = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
        let annotation = format!("podAnnotations.e2e-run={run_id}");
        let mut arguments = vec!["upgrade", "--install", "etcd-warden", chart.to_str().unwrap(), "--namespace", Self::NAMESPACE];
        arguments.extend(["--create-namespace", "--take-ownership", "--wait", "--timeout=2m"]);
        arguments.extend(["--set=image.repository=etcd-warden,image.tag=dev,logFormat=text", "--set-string", &annotation]);
        arguments.extend(more);
        run("helm", arguments).await.success();
    }
}

/// Merges the fields of one value into another.
pub fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from,
    }
}

fn conditions_text(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> String {
    let words: Vec<_> = conditions.iter().map(|c| format!("{}={} {} ({})", c.type_, c.status, c.reason, c.message)).collect();
    words.join("; ")
}

/// A JSON value, for comparisons.
pub fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap()
}
