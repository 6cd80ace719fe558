use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{CustomResource, KubeSchema, core::Rule};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Duration, EtcdClusterStatus, EtcdSpec, TlsSpec,
    duration::duration_rule,
    etcd::gates_of_3_6,
    quantity::{fits, positive_quantity},
};
use crate::etcd::{RELEASES, supported};

/// The longest name of an `EtcdCluster`. A label of the pods consists of the StatefulSet's name and a hash of up to eleven
/// characters, and may have at most 63. The StatefulSet's name is that of the cluster, `-` and an ordinal of up to two digits.
pub const MAX_NAME_LENGTH: usize = 49;

/// A secured etcd cluster. The operator issues every certificate from the cluster's own certificate authorities, runs the members
/// with TLS on every port for clients and peers, and keeps them in the state that the spec describes.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "etcd-warden.dev",
    version = "v1alpha1",
    kind = "EtcdCluster",
    plural = "etcdclusters",
    shortname = "etcd",
    category = "all",
    category = "etcd-warden",
    namespaced,
    derive = "PartialEq",
    status = "EtcdClusterStatus",
    scale = r#"{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas","labelSelectorPath":".status.selector"}"#,
    doc = "A secured etcd cluster. The operator issues every certificate from the cluster's own certificate authorities, runs the members with TLS on every port for clients and peers, and keeps them in the state that the spec describes.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.ready","description":"The number of healthy members and of desired members"}"#,
    printcolumn = r#"{"name":"Available","type":"string","jsonPath":".status.conditions[?(@.type==\"Available\")].status","description":"Whether a quorum is healthy"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.conditions[?(@.type==\"Progressing\")].reason","description":"What is in progress or pending"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.version","description":"The version of etcd that all members run"}"#,
    printcolumn = r#"{"name":"Change","type":"string","jsonPath":".status.change","description":"From what to what the running members are being changed"}"#,
    printcolumn = r#"{"name":"Certs","type":"string","jsonPath":".status.certificates.expires","description":"When the first certificate of any member expires, unless it is renewed before"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Available\")].reason"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Available\")].message"}"#,
    validation = Rule::new("self.metadata.name.size() <= 49").message("metadata.name is too long for the objects made from it: 49 characters at most"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name becomes a Service's name: it must begin with a letter and end with a letter or digit, and hold only lower case letters, digits and -")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = one_minor_at_a_time(),
    validation = no_other_minor_in_pods(),
    validation = Rule::new("!self.version.startsWith('3.5.') || !has(self.etcd.featureGates) || self.etcd.featureGates.size() == 0").message("spec.etcd.featureGates: etcd 3.5 has no feature gates"),
    validation = gates_of_3_6(),
    validation = Rule::new("!has(self.image.tag) || !self.image.tag.matches('^v[0-9]+[.][0-9]+[.][0-9]+$') || self.image.tag == 'v' + self.version").message("spec.image.tag names another version of etcd than spec.version: set both, or leave the tag out"),
    validation = Rule::new("!has(self.storage.emptyDir) || self.replicas >= 3 || self.storage.emptyDir.acceptDataLoss").message("with spec.storage.emptyDir and fewer than 3 replicas all data is lost with one pod: set spec.storage.emptyDir.acceptDataLoss to true if it may be lost"),
    validation = room_in_pods(),
    validation = room_in_memory()
)]
pub struct EtcdClusterSpec {
    /// The number of members, 1 to 9. A cluster of 3 members tolerates the failure of one, of 5 the failure of two, of 7 of
    /// three, of 9 of four. A cluster of one member is unavailable whenever its pod is. An even number tolerates no more failures
    /// than the odd number below it. Members are added and removed one at a time.
    #[serde(default = "default_replicas")]
    #[x_kube(validation = Rule::new("self >= 1 && self <= 9").message("must be 1 to 9"))]
    pub replicas: i32,
    /// The version of etcd, such as 3.6.16, without a `v`: 3.5.32 or newer, 3.6.4 or newer, or 3.7. It determines the flags that
    /// members are started with, and the tag of the image unless `image.tag` is set. After a change members are restarted one at a
    /// time. It can be changed to any patch, and by one minor version up or down; see `status.upgrade`.
    #[serde(default = "default_version")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("!self.startsWith('v')").message("write the version without the v, like 3.6.16"))]
    #[x_kube(validation = Rule::new("self.startsWith('v') || self.matches('^(0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})$')").message("must be a version of three numbers, like 3.6.16"))]
    #[x_kube(validation = supported_version())]
    pub version: String,
    /// The storage of each member's data.
    #[serde(default)]
    pub storage: StorageSpec,
    /// The container image of etcd.
    #[serde(default)]
    pub image: ImageSpec,
    /// Certificates and TLS. Every port for clients and peers uses TLS; there is no plaintext mode.
    #[serde(default)]
    pub tls: TlsSpec,
    /// Settings of etcd itself. After a change members are restarted one at a time.
    #[serde(default)]
    pub etcd: EtcdSpec,
    /// The pods of the members. After a change members are restarted one at a time. Labels and annotations are changed without a restart,
    /// resources where Kubernetes resizes pods.
    #[serde(default)]
    pub pod: PodSpec,
    /// The Service for clients.
    #[serde(default)]
    pub service: ServiceSpec,
    /// When a member that does not recover by itself is replaced.
    #[serde(default)]
    pub repair: RepairSpec,
    /// While true, the operator changes nothing of this cluster and renews no certificates. It still reports the cluster's state.
    #[serde(default)]
    pub paused: bool,
}

/// The storage of the members' data. Each member has a PersistentVolumeClaim of its own, or keeps its data in its pod (`emptyDir`).
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.emptyDir) || !has(self.storageClassName)").message("emptyDir and storageClassName exclude each other: the data is in the pods, or in volumes of a StorageClass"))]
pub struct StorageSpec {
    /// The size of each member's PersistentVolumeClaim; it is not used with `emptyDir`. It should be at least twice
    /// `etcd.quotaBackendSize`. If it becomes larger, the volumes are expanded one after the other, if the StorageClass allows it. If it
    /// becomes smaller, the members are replaced one after the other; it is
    /// not carried out if it is not enough for the data (`CannotReplace`).
    #[serde(default = "default_storage_size")]
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = positive_quantity())]
    pub size: Quantity,
    /// The name of the StorageClass. The default is the default StorageClass of Kubernetes. After a change the members are replaced one
    /// after the other, each by a new one that has copied all data before the old one is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// Whether the PersistentVolumeClaims and the Secrets of the certificate authorities are kept when the `EtcdCluster` is
    /// deleted. With `emptyDir` nothing is kept.
    #[serde(default)]
    pub retention: Retention,
    /// Keeps the data of each member in its pod instead of a PersistentVolumeClaim. **A deleted pod is a lost member:** it is replaced by
    /// a new one that copies the data from the others, and so is a member that has to be restarted. If more than half of the pods are
    /// lost at the same time, all data is lost. After a change the members are replaced one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirSpec>,
}

/// Data that is kept in the pods.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirSpec {
    /// Where it is: on the disk of the node (empty), or in memory (`Memory`). Memory counts against the memory limit of the pod, and
    /// does not survive a reboot of the node.
    #[serde(default)]
    pub medium: Medium,
    /// The most space that it may take. A pod that takes more is evicted, so it must be at least `etcd.quotaBackendSize` and 448Mi for the
    /// write-ahead log; for a defragmentation it should be twice the quota.
    #[schemars(extend("maxLength" = 32))]
    #[x_kube(validation = positive_quantity())]
    pub size_limit: Quantity,
    /// Has to be true with one or two members, of which none can be lost: then all data is lost.
    #[serde(default)]
    pub accept_data_loss: bool,
}

/// Where data is that is kept in the pods.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Medium {
    /// On the disk of the node.
    #[default]
    #[serde(rename = "")]
    Disk,
    /// In memory.
    Memory,
}

/// The beginning of a CEL expression for whether `self` is written like a version.
const IS_VERSION: &str = "self.matches('^(0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})[.](0|[1-9][0-9]{0,3})$')";

fn supported_version() -> Rule {
    let releases: Vec<_> = RELEASES.iter().map(|release| format!("{}[.]{}", release.minor, at_least(release.oldest))).collect();
    Rule::new(format!("!{IS_VERSION} || self.matches('^3[.]({})$')", releases.join("|")))
        .message(format!("is not supported: {}", supported()).as_str())
}

/// A regular expression for the numbers from this one on, which has at most two digits.
fn at_least(number: u32) -> String {
    let (tens, ones) = (number / 10, number % 10);
    match (tens, ones) {
        (0, 0) => "[0-9]+".into(),
        (0, _) => format!("([{ones}-9]|[1-9][0-9]{{1,3}})"),
        (9, _) => format!("(9[{ones}-9]|[1-9][0-9]{{2,3}})"),
        _ => format!("({tens}[{ones}-9]|[{}-9][0-9]|[1-9][0-9]{{2,3}})", tens + 1),
    }
}

/// One minor version at a time, up or down.
fn one_minor_at_a_time() -> Rule {
    let far = RELEASES.iter().flat_map(|one| RELEASES.iter().map(move |other| (one.minor, other.minor)));
    let pairs = far.filter(|(one, other)| one.abs_diff(*other) > 1);
    let refused =
        pairs.map(|(one, other)| format!("(self.version.startsWith('3.{one}.') && oldSelf.version.startsWith('3.{other}.'))"));
    Rule::new(format!("!({})", refused.collect::<Vec<_>>().join(" || ")))
        .message("spec.version: upgrade or downgrade one minor version at a time: change to a version of the minor between first, and wait until status.version shows it")
}

/// A volume in a pod has room for the database and for the write-ahead log. What is no quantity above 0 is reported by other rules.
fn room_in_pods() -> Rule {
    Rule::new(fits("self.storage.emptyDir.sizeLimit", "self.etcd.quotaBackendSize", "448Mi", "has(self.storage.emptyDir)"))
        .message(
            "spec.storage.emptyDir.sizeLimit must be at least spec.etcd.quotaBackendSize and 448Mi for the write-ahead log, because a pod \
             that takes more is evicted, and its data is lost",
        )
}

/// A volume in memory counts against the memory limit of its pod.
fn room_in_memory() -> Rule {
    let applies = "has(self.storage.emptyDir) && self.storage.emptyDir.medium == 'Memory' && has(self.pod.resources.limits) && \
                   'memory' in self.pod.resources.limits";
    Rule::new(fits("self.pod.resources.limits['memory']", "self.storage.emptyDir.sizeLimit", "256Mi", applies)).message(
        "spec.pod.resources.limits.memory must be at least spec.storage.emptyDir.sizeLimit and 256Mi for etcd, because a volume in memory \
         counts against it",
    )
}

/// The new minor would reach members whose data is in their pods only by replacing each of them.
fn no_other_minor_in_pods() -> Rule {
    let same = RELEASES.iter().map(|release| {
        let minor = release.minor;
        format!("self.version.startsWith('3.{minor}.') == oldSelf.version.startsWith('3.{minor}.')")
    });
    let same = same.collect::<Vec<_>>().join(" && ");
    Rule::new(format!("!has(self.storage.emptyDir) && !has(oldSelf.storage.emptyDir) || {same}"))
        .message("spec.version: the minor version cannot be changed with spec.storage.emptyDir: unset that first, and change the version once all members have a volume")
}

/// Whether data is kept when its cluster is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Retention {
    /// The PersistentVolumeClaims and the Secrets of the certificate authorities are kept.
    #[default]
    Retain,
    /// The PersistentVolumeClaims and the Secrets of the certificate authorities are deleted with the cluster.
    Delete,
}

/// The container image of etcd. If the repository, tag or digest changes, members are restarted one at a time.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// The repository, without a tag or digest.
    #[serde(default = "default_repository")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^([-A-Za-z0-9._:\\\\[\\\\]]+/)?[a-z0-9]([-a-z0-9._/]*[a-z0-9])?$')").message("must be a repository without tag or digest, such as registry.example.com/etcd"))]
    pub repository: String,
    /// The tag. The default is `v` followed by `version`. The image must contain that version of etcd, so a tag like `v3.6.16` must be that of
    /// `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][-A-Za-z0-9_.]*$')").message("must be an image's tag, such as v3.6.16"))]
    pub tag: Option<String>,
    /// The digest that the image must have, such as `sha256:...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("must be sha256: and 64 hexadecimal digits"))]
    pub digest: Option<String>,
    /// When the image is pulled: `IfNotPresent`, `Always` or `Never`. A change takes effect at the next start of each member.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Secrets in the cluster's namespace with credentials for the registry. A change takes effect at the next start of each
    /// member; one that cannot pull its image is restarted at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub pull_secrets: Vec<LocalObjectReference>,
}

/// When an image is pulled.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// If the node does not have the image yet.
    #[default]
    IfNotPresent,
    /// At every start of a container.
    Always,
    /// Never.
    Never,
}

/// The pods of the members. They comply with the `restricted` Pod Security Standard: they run as an unprivileged user, with a
/// read-only root file system and without a service account token.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The resource requests and limits of the etcd container. They are changed while the pods run, one after the other, where Kubernetes
    /// resizes pods (1.33 and newer by default); otherwise members are restarted.
    #[serde(default)]
    pub resources: ResourceRequirements,
    /// The affinity of the pods. By default the pods of a cluster prefer different nodes and zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Labels that a node must have to run the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How the pods are spread over nodes and zones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// The name of the pods' PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Additional labels of the pods. A change reaches running pods, without a restart. The operator's own labels
    /// (`app.kubernetes.io/name`, `/instance`, `/managed-by` and `etcd-warden.dev/*`) and those of the StatefulSet's controller take
    /// precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Additional annotations of the pods. A change reaches running pods, without a restart. The operator's own annotations
    /// (`etcd-warden.dev/*`) take precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Who chooses the user and the groups that etcd runs as: the operator (`Fixed`) or the platform (`Assigned`).
    #[serde(default, rename = "userIDs")]
    pub user_ids: UserIds,
    /// A part of a pod template, with `metadata` and `spec` as in a Deployment, which is merged into the pods' template: containers,
    /// volumes and variables by their names. It can add what has no field of its own: sidecars, init containers, volumes, environment
    /// variables, `runtimeClassName`, `hostAliases`, `dnsConfig` and so on. What the operator sets cannot be changed or removed: such a
    /// template is reported as `InvalidSpec`, with the path of the field. The operator does not check that what is added complies with
    /// a Pod Security Standard.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    #[schemars(schema_with = "any_object")]
    pub template: Map<String, Value>,
}

/// An object that the API server stores as it is.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Who chooses the user and the groups that etcd runs as. In both cases it must not be root.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserIds {
    /// User and group 65532 own the process and the volume.
    #[default]
    Fixed,
    /// The pod names neither user nor group, for platforms that refuse a pod which does and assign both themselves, such as
    /// `OpenShift`. Elsewhere the pod does not start, because the image of etcd would run as root.
    Assigned,
}

/// The Service for clients. It has the name of the cluster and port 2379.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.loadBalancerClass) || self.type == 'LoadBalancer'").message("loadBalancerClass is only for type LoadBalancer"))]
#[x_kube(validation = Rule::new("self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass)").message("Kubernetes does not change the loadBalancerClass of a Service: set another type first, and then LoadBalancer with the other class"))]
pub struct ServiceSpec {
    /// The type of the Service. Names and addresses that clients outside Kubernetes connect to must be listed in
    /// `tls.client.extraSANs`.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// The implementation of the load balancer, such as `example.com/internal`. The default is that of the platform. It can be changed
    /// only together with `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub load_balancer_class: Option<String>,
    /// Additional labels of the Service. The operator's own labels take precedence.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Additional annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// When a member is replaced by a new one of the same name, which copies all data from the others. The data of the replaced
/// member is deleted. Therefore a member is replaced only on evidence that it cannot recover; a pod that is slow or cannot be
/// scheduled is not evidence. Members are replaced one at a time, and only while the other healthy members are a quorum without
/// it. If a PersistentVolumeClaim or its volume is lost, the member is replaced without waiting.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairSpec {
    /// How long a member must have been down before it is replaced because its container is in a crash loop, while another member with
    /// the same settings is healthy, so that its data must be the cause. It should be longer than a full disk or an outage of the storage usually lasts, because these can cause
    /// a crash loop too.
    #[serde(default = "default_crash_loop")]
    #[x_kube(validation = repair_time())]
    pub crash_loop: Duration,
    /// How long a member must have been down before it is replaced because its volume's node is lost: the Node was deleted or has the
    /// taint `node.kubernetes.io/out-of-service`. Both mean that the node will not come back.
    #[serde(default = "default_lost_node")]
    #[x_kube(validation = repair_time())]
    pub lost_node: Duration,
    /// How long a member that the operator did not add may exist without ever having started before it is removed. Such a voter
    /// counts toward the quorum, and such a learner keeps other learners from being added. A member that has started is never
    /// removed.
    #[serde(default = "default_unstarted")]
    #[x_kube(validation = repair_time())]
    pub unstarted: Duration,
}

fn repair_time() -> Rule {
    duration_rule(&["self"], "duration(self) >= duration('10s')").message("must be at least 10s")
}

/// The type of a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reachable from within Kubernetes.
    #[default]
    ClusterIP,
    /// Reachable also through a port of every node.
    NodePort,
    /// Reachable also through a load balancer.
    LoadBalancer,
}

fn default_replicas() -> i32 {
    3
}
fn default_version() -> String {
    "3.6.16".into()
}
fn default_storage_size() -> Quantity {
    Quantity("8Gi".into())
}
fn default_repository() -> String {
    "gcr.io/etcd-development/etcd".into()
}
fn default_crash_loop() -> Duration {
    Duration("10m".into())
}
fn default_lost_node() -> Duration {
    Duration("1m".into())
}
fn default_unstarted() -> Duration {
    Duration("10m".into())
}

impl Default for EtcdClusterSpec {
    fn default() -> Self {
        Self {
            replicas: default_replicas(),
            version: default_version(),
            storage: StorageSpec::default(),
            image: ImageSpec::default(),
            tls: TlsSpec::default(),
            etcd: EtcdSpec::default(),
            pod: PodSpec::default(),
            service: ServiceSpec::default(),
            repair: RepairSpec::default(),
            paused: false,
        }
    }
}
impl Default for StorageSpec {
    fn default() -> Self {
        Self { size: default_storage_size(), storage_class_name: None, retention: Retention::default(), empty_dir: None }
    }
}
impl Default for ImageSpec {
    fn default() -> Self {
        Self {
            repository: default_repository(),
            tag: None,
            digest: None,
            pull_policy: PullPolicy::default(),
            pull_secrets: vec![],
        }
    }
}
impl Default for RepairSpec {
    fn default() -> Self {
        Self { crash_loop: default_crash_loop(), lost_node: default_lost_node(), unstarted: default_unstarted() }
    }
}
