//! How a change of each field of an `EtcdCluster` takes effect on a running cluster: the one table of it.
//!
//! The operator restarts members for the fields that say so here, a test checks that every field of the CRD has a row, and the
//! table in docs/reference.md is generated from it.

/// How a change of a field takes effect on a running cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Without a restart.
    Live,
    /// Members are restarted one at a time. The value is compared in this form.
    Restart(Form),
    /// The pods are changed one at a time while they run, where Kubernetes does it; otherwise members are restarted. The value is compared in
    /// this form.
    InPlace(Form),
    /// Members are replaced one at a time: a new one is added and has copied all data before an old one is removed.
    Replace,
    /// A CA rotation, in which members are restarted one at a time.
    Rotation,
}

/// Which values of a field are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Only those that are written in the same way.
    Plain,
    /// Quantities that are the same number: `1Gi` and `1024Mi`.
    Quantity,
    /// Durations of the same length: `1s` and `1000ms`.
    Duration,
}

/// A field, with all fields below it.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its path below `spec`.
    pub path: &'static str,
    /// How a change takes effect.
    pub effect: Effect,
    /// What a user should know about it, as a sentence without a full stop. It may be empty.
    pub note: &'static str,
}

const fn row(path: &'static str, effect: Effect, note: &'static str) -> Field {
    Field { path, effect, note }
}

const RESTART: Effect = Effect::Restart(Form::Plain);

/// All fields. None is below another one.
pub const FIELDS: &[Field] = &[
    row("replicas", Effect::Live, "members are added and removed one at a time"),
    row("version", RESTART, "by one minor version at a time, up or down; with storage.emptyDir to another patch only"),
    row(
        "storage.size",
        Effect::Live,
        "volumes are expanded one after the other, if their StorageClass allows it; for a smaller size members are replaced",
    ),
    row("storage.storageClassName", Effect::Replace, ""),
    row("storage.retention", Effect::Live, ""),
    row("storage.emptyDir.medium", Effect::Replace, "also if `storage.emptyDir` is set or unset"),
    row("storage.emptyDir.sizeLimit", Effect::Replace, ""),
    row("storage.emptyDir.acceptDataLoss", Effect::Live, ""),
    row("image.repository", RESTART, ""),
    row("image.tag", RESTART, ""),
    row("image.digest", RESTART, ""),
    row(
        "image.pullPolicy",
        Effect::Live,
        "used at the next start of each member; one that cannot pull its image is restarted at once",
    ),
    row(
        "image.pullSecrets",
        Effect::Live,
        "used at the next start of each member; one that cannot pull its image is restarted at once",
    ),
    row("tls.minVersion", RESTART, ""),
    row("tls.cipherSuites", RESTART, ""),
    row("tls.client.issuer", Effect::Rotation, ""),
    row("tls.client.authority.duration", Effect::Live, "from the next CA on"),
    row("tls.client.certificate.duration", Effect::Live, "a shorter one at once, a longer one from the next renewal on"),
    row("tls.client.clientAuth", RESTART, ""),
    row("tls.client.extraSANs", Effect::Live, "new certificates are issued"),
    row("tls.peer.issuer", Effect::Rotation, ""),
    row("tls.peer.authority.duration", Effect::Live, "from the next CA on"),
    row("tls.peer.certificate.duration", Effect::Live, "a shorter one at once, a longer one from the next renewal on"),
    row("etcd.heartbeatInterval", Effect::Restart(Form::Duration), ""),
    row("etcd.electionTimeout", Effect::Restart(Form::Duration), ""),
    row(
        "etcd.quotaBackendSize",
        Effect::Restart(Form::Quantity),
        "not to less than a database takes; other changes do not wait for it",
    ),
    row("etcd.autoCompaction.mode", RESTART, ""),
    row("etcd.autoCompaction.retention", RESTART, ""),
    row("etcd.logLevel", RESTART, ""),
    row("etcd.featureGates", RESTART, ""),
    row("etcd.extraArgs", RESTART, ""),
    row(
        "pod.resources",
        Effect::InPlace(Form::Quantity),
        "one pod after the other, where Kubernetes resizes pods (1.33 and newer by default); otherwise restart",
    ),
    row("pod.affinity", RESTART, ""),
    row("pod.nodeSelector", RESTART, ""),
    row("pod.tolerations", RESTART, ""),
    row("pod.topologySpreadConstraints", RESTART, ""),
    row("pod.priorityClassName", RESTART, ""),
    row("pod.labels", Effect::Live, "what others add to a pod stays"),
    row("pod.annotations", Effect::Live, "what others add to a pod stays"),
    row("pod.userIDs", RESTART, ""),
    row("pod.template", RESTART, ""),
    row("service.type", Effect::Live, ""),
    row(
        "service.loadBalancerClass",
        Effect::Live,
        "while the type is LoadBalancer, a change is refused, because Kubernetes refuses it",
    ),
    row("service.labels", Effect::Live, ""),
    row("service.annotations", Effect::Live, ""),
    row("repair", Effect::Live, ""),
    row("paused", Effect::Live, ""),
];

impl Effect {
    /// How values are compared, if pods record which one they have.
    pub fn recorded(self) -> Option<Form> {
        match self {
            Self::Restart(form) | Self::InPlace(form) => Some(form),
            Self::Live | Self::Replace | Self::Rotation => None,
        }
    }

    /// How it is called in the reference.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Live | Self::InPlace(_) => "live",
            Self::Restart(_) => "restart",
            Self::Replace => "replace",
            Self::Rotation => "restart, in a CA rotation",
        }
    }
}

/// The table of the reference, in Markdown.
pub fn table() -> String {
    let rows = FIELDS.iter().map(|field| format!("| `{}` | {} | {} |\n", field.path, field.effect.describe(), field.note));
    ["| field | a change takes effect | |\n| --- | --- | --- |\n".to_owned()].into_iter().chain(rows).collect()
}
