//! The StatefulSet of a member, with the pod that runs etcd.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy},
        core::v1::{
            Affinity, Capabilities, ConfigMapKeySelector, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
            HTTPGetAction, Lifecycle, LifecycleHandler, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodAffinityTerm,
            PodAntiAffinity, PodReadinessGate, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements,
            SeccompProfile, SecretVolumeSource, SecurityContext, SleepAction, Volume, VolumeMount, WeightedPodAffinityTerm,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    metadata::owned,
    paths::{DATA_DIR, PROGRAM, TLS_DIR},
    pod_metadata::{PodMetadata, is_own_annotation},
    pod_template,
};
use crate::{
    api::{ClientAuth, CompactionMode, FEATURE_GATES, LogLevel, Medium, PullPolicy, StorageSpec, TlsVersion, UserIds},
    cluster::{
        release::Release,
        validated::{EtcdSettings, ValidatedCluster},
    },
    digest::fingerprint,
    etcd::Version,
    member_pod::etcd_container,
    names::{
        CLIENT_PORT, CONTAINER, DATA_VOLUME as DATA, METRICS_PORT, MemberName, PEER_PORT, annotation, bootstrap_key, label,
        member_key,
    },
};

/// User and group of [`UserIds::Fixed`].
const UID: i64 = 65532;
/// The pause between the deletion of a pod and the signal to etcd.
const PRE_STOP: SignedDuration = SignedDuration::from_secs(2);
/// The time for what has no limit of its own: writing the database to disk, and the kubelet's work. With etcd's default election
/// timeout the grace period is Kubernetes' default of 30 s.
const MARGIN: SignedDuration = SignedDuration::from_secs(14);

/// How long a pod may take to stop before its process is killed, in whole seconds.
///
/// When etcd is told to stop, it waits for the open streams of its clients (watches, leases that are kept alive) for 5 s + 2 x the
/// election timeout. Then a leader hands over its leadership, for which it has the same time (`server/embed/etcd.go`,
/// `stopServers`; `server/config/config.go`, `ReqTimeout`). A leader that is killed before that leaves its clients without a leader
/// for an election timeout.
pub fn grace_period(etcd: &EtcdSettings) -> SignedDuration {
    let election = SignedDuration::from_millis_i128(etcd.election_timeout);
    let request = SignedDuration::from_secs(5) + election * 2;
    let period = PRE_STOP + request * 2 + MARGIN;
    SignedDuration::from_secs(period.as_secs() + i64::from(period.subsec_nanos() > 0))
}

/// The StatefulSet of one member with this release. `bundles` names the authorities in its trust bundles.
///
/// Each member has its own, so that it has its own keys, volume and version, and so that any member can be removed, not only the
/// one with the highest ordinal. It is a StatefulSet rather than a pod, so that Kubernetes recreates the pod while the operator
/// is down.
pub fn stateful_set(cluster: &ValidatedCluster, member: &MemberName, release: &Release, bundles: &str) -> StatefulSet {
    stateful_set_with(cluster, member, release, bundles, empty_dir(&cluster.storage))
}

/// The same with the data in this volume of the pod, or in that of the member's claim.
pub fn stateful_set_with(
    cluster: &ValidatedCluster,
    member: &MemberName,
    release: &Release,
    bundles: &str,
    in_pod: Option<EmptyDirVolumeSource>,
) -> StatefulSet {
    let mut template = pod_template::merged(template(cluster, member, release, bundles), &cluster.template);
    let volumes = template.spec.iter_mut().flat_map(|spec| spec.volumes.iter_mut().flatten());
    if let Some(volume) = volumes.into_iter().find(|volume| volume.name == DATA) {
        *volume = data_volume(cluster, member, in_pod);
    }
    let labels = label::of_member(cluster.names.cluster(), member);
    let mut metadata = owned(cluster, member.to_string());
    metadata.labels = Some(labels.clone());
    StatefulSet {
        metadata,
        spec: StatefulSetSpec {
            service_name: Some(cluster.names.peer_service()),
            replicas: Some(1),
            // Applying never restarts a pod: a restart is a step of the plan.
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".into()), rolling_update: None }),
            pod_management_policy: Some("Parallel".into()),
            revision_history_limit: Some(1),
            selector: LabelSelector { match_labels: Some(labels), ..LabelSelector::default() },
            template: with_digest(template),
            ..StatefulSetSpec::default()
        },
        status: None,
    }
}

/// The same template with a digest of what a pod gets only when it is created.
fn with_digest(mut template: PodTemplateSpec) -> PodTemplateSpec {
    let Some(meta) = &mut template.metadata else { return template };
    let annotations = meta.annotations.get_or_insert_default();
    let left_out = [annotation::FROM_SPEC, annotation::SETTINGS, annotation::TEMPLATE];
    let own = annotations.iter().filter(|(key, _)| is_own_annotation(key) && !left_out.contains(&key.as_str()));
    let own = serde_json::to_vec(&own.collect::<BTreeMap<_, _>>()).unwrap_or_default();
    let mut spec = template.spec.clone().unwrap_or_default();
    if let Some(etcd) = spec.containers.iter_mut().find(|container| container.name == CONTAINER) {
        etcd.resources = None;
    }
    let spec = serde_json::to_vec(&spec).unwrap_or_default();
    let digest = fingerprint([("annotations", own.as_slice()), ("spec", spec.as_slice())].into_iter());
    annotations.insert(annotation::TEMPLATE.into(), digest);
    template
}

/// The same StatefulSet, scaled to zero.
#[must_use]
pub fn stopped(mut set: StatefulSet) -> StatefulSet {
    set.spec.replicas = Some(0);
    set
}

/// Makes etcd start as a cluster of one: it drops all other members from its data (`server/etcdserver/bootstrap.go`).
const FORCE: &str = "--force-new-cluster";

/// A readiness gate whose condition is never set: a pod with it is never ready.
const UNFORCED: &str = "etcd-warden.dev/unforced";

/// The same StatefulSet with a pod that starts as a cluster of one with the data that it has. The flag is an argument, because
/// the arguments of a pod are immutable and visible: if no pod and no template has the flag, no member starts this way.
///
/// The Service sends no clients to such a pod. A lone member acknowledges a write once it is in its log, but records it as
/// committed only with the next write. If its container restarts before that, it starts with the flag again and drops all entries
/// that are not recorded as committed (etcd 3.6 `server/etcdserver/bootstrap.go`, raft `MustSync`).
#[must_use]
pub fn forced(mut set: StatefulSet) -> StatefulSet {
    if let Some(spec) = &mut set.spec.template.spec {
        spec.readiness_gates = Some(vec![PodReadinessGate { condition_type: UNFORCED.into() }]);
        for container in &mut spec.containers {
            container.args.get_or_insert_default().push(FORCE.into());
        }
    }
    set
}

/// Whether a pod, or the pods of a template, start as a cluster of one.
pub fn is_forced(spec: Option<&PodSpec>) -> bool {
    spec.and_then(etcd_container).is_some_and(|container| container.args.iter().flatten().any(|arg| arg == FORCE))
}

/// Whether etcd runs in a pod with the image and the arguments of a template. [`forced`] makes no difference.
pub fn runs_like(pod: Option<&PodSpec>, template: Option<&PodSpec>) -> bool {
    let process = |spec: Option<&PodSpec>| {
        let container = etcd_container(spec?)?;
        let arguments: BTreeSet<String> = container.args.iter().flatten().filter(|arg| *arg != FORCE).cloned().collect();
        Some((container.image.clone(), arguments))
    };
    process(pod) == process(template)
}

/// The volume in each pod that the spec asks for instead of a claim.
pub fn empty_dir(storage: &StorageSpec) -> Option<EmptyDirVolumeSource> {
    let spec = storage.empty_dir.as_ref()?;
    let medium = match spec.medium {
        Medium::Disk => None,
        Medium::Memory => Some("Memory".to_owned()),
    };
    Some(EmptyDirVolumeSource { medium, size_limit: Some(spec.size_limit.clone()), ..EmptyDirVolumeSource::default() })
}

fn data_volume(cluster: &ValidatedCluster, member: &MemberName, in_pod: Option<EmptyDirVolumeSource>) -> Volume {
    let claim = || PersistentVolumeClaimVolumeSource { claim_name: cluster.names.claim(member), read_only: None };
    let persistent_volume_claim = in_pod.is_none().then(claim);
    Volume { name: DATA.into(), persistent_volume_claim, empty_dir: in_pod, ..Volume::default() }
}

/// Why `spec.pod.template` cannot be merged into the operator's template.
pub fn template_problems(cluster: &ValidatedCluster) -> Vec<String> {
    pod_template::problems(&template(cluster, &cluster.names.member(0), &cluster.release, ""), &cluster.template)
}

/// The operator's own template.
fn template(cluster: &ValidatedCluster, member: &MemberName, release: &Release, bundles: &str) -> PodTemplateSpec {
    let [labels, mut annotations] = PodMetadata::of(cluster, member).of_template();
    annotations.insert(annotation::BUNDLES.into(), bundles.into());
    annotations.insert(annotation::SETTINGS.into(), release.recorded_with(&cluster.settings));
    annotations.extend(release.prepares.map(|minor| (annotation::PREPARED_FOR.into(), minor.to_string())));
    if let Some(at) = &cluster.requests.restarted_at {
        annotations.insert(annotation::RESTARTED_AT.into(), at.clone());
    }
    let volume = |name: &str| Volume { name: name.into(), ..Volume::default() };
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            automount_service_account_token: Some(false),
            // Otherwise Services named etcd-* would become environment variables that etcd warns about.
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(grace_period(&cluster.etcd).as_secs()),
            security_context: Some(security_context(cluster.pod.user_ids)),
            affinity: Some(cluster.pod.affinity.clone().unwrap_or_else(|| spread(cluster))),
            node_selector: Some(cluster.pod.node_selector.clone()).filter(|selector| !selector.is_empty()),
            tolerations: Some(cluster.pod.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
            topology_spread_constraints: Some(cluster.pod.topology_spread_constraints.clone()).filter(|list| !list.is_empty()),
            priority_class_name: cluster.pod.priority_class_name.clone(),
            image_pull_secrets: Some(
                cluster.pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect::<Vec<_>>(),
            )
            .filter(|secrets| !secrets.is_empty()),
            containers: vec![container(cluster, member, release)],
            volumes: Some(vec![
                data_volume(cluster, member, empty_dir(&cluster.storage)),
                Volume {
                    secret: Some(SecretVolumeSource {
                        secret_name: Some(cluster.names.member_secret(member)),
                        default_mode: Some(0o400),
                        ..SecretVolumeSource::default()
                    }),
                    ..volume("tls")
                },
            ]),
            ..PodSpec::default()
        }),
    }
}

fn security_context(ids: UserIds) -> PodSecurityContext {
    let id = match ids {
        UserIds::Fixed => Some(UID),
        UserIds::Assigned => None,
    };
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: id,
        run_as_group: id,
        fs_group: id,
        // Changing the owner of every file at each start of a large volume takes minutes.
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// Members of one cluster prefer different nodes and zones.
fn spread(cluster: &ValidatedCluster) -> Affinity {
    let term = |weight, key: &str| WeightedPodAffinityTerm {
        weight,
        pod_affinity_term: PodAffinityTerm {
            label_selector: Some(LabelSelector {
                match_labels: Some(label::of_cluster(cluster.names.cluster())),
                ..LabelSelector::default()
            }),
            topology_key: key.into(),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                term(100, "kubernetes.io/hostname"),
                term(50, "topology.kubernetes.io/zone"),
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn container(cluster: &ValidatedCluster, member: &MemberName, release: &Release) -> Container {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.into()),
        container_port: number.into(),
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let mount = |name: &str, path: &str, read_only| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only,
        ..VolumeMount::default()
    };
    let pull_policy = match cluster.pull_policy {
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Always => "Always",
        PullPolicy::Never => "Never",
    };
    Container {
        name: CONTAINER.into(),
        image: Some(release.image.clone()),
        image_pull_policy: Some(pull_policy.into()),
        command: Some(vec![PROGRAM.into()]),
        args: Some(arguments(cluster, member, release)),
        env: Some(environment(cluster, member)),
        ports: Some(vec![port("client", CLIENT_PORT), port("peer", PEER_PORT), port("metrics", METRICS_PORT)]),
        resources: Some(cluster.pod.resources.clone()).filter(|resources| *resources != ResourceRequirements::default()),
        // The startup and liveness probes do not need quorum: /livez reads locally. A defragmentation blocks it until it ends,
        // and a member that was down for long replays its log before it answers.
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(600), ..probe("/livez") }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            timeout_seconds: Some(15),
            failure_threshold: Some(6),
            ..probe("/livez")
        }),
        // A restarted member is waited for, so it is asked often; an election of a leader must not make it unready.
        readiness_probe: Some(Probe {
            period_seconds: Some(1),
            timeout_seconds: Some(3),
            failure_threshold: Some(4),
            ..probe("/readyz")
        }),
        lifecycle: Some(Lifecycle {
            // With this pause, Services stop routing to the pod before etcd closes its ports. The image has no shell for a sleep
            // command.
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: PRE_STOP.as_secs() }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        // If it ends with an error, its status has the end of its log, and the condition quotes it.
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![mount(DATA, DATA_DIR, None), mount("tls", TLS_DIR, Some(true))]),
        ..Container::default()
    }
}

fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(METRICS_PORT.into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

/// Values that every start of a container must read again are environment variables; all others are flags. etcd refuses to start
/// with both a flag and its variable.
fn environment(cluster: &ValidatedCluster, member: &MemberName) -> Vec<EnvVar> {
    let from_config = |name: &str, key: String| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector { name: cluster.names.bootstrap_config(), key, optional: None }),
            ..EnvVarSource::default()
        }),
        value: None,
    };
    let file = |name: &str, key: &str| EnvVar { name: name.into(), value: Some(format!("{TLS_DIR}/{key}")), value_from: None };
    vec![
        from_config("ETCD_INITIAL_CLUSTER", bootstrap_key::cluster(member)),
        from_config("ETCD_INITIAL_CLUSTER_STATE", bootstrap_key::state(member)),
        from_config("ETCD_INITIAL_CLUSTER_TOKEN", bootstrap_key::TOKEN.into()),
        // With these variables `kubectl exec demo-0-0 -- etcdctl ...` needs no TLS flags. Endpoints are not set, so that the user
        // can choose them: etcdctl refuses both a flag and its variable.
        file("ETCDCTL_CACERT", member_key::CLIENT_CA),
        file("ETCDCTL_CERT", member_key::CLIENT_CRT),
        file("ETCDCTL_KEY", member_key::CLIENT_KEY),
    ]
}

/// Flags that are left out where the spec does not set them. `version` is that of the member.
fn options(cluster: &ValidatedCluster, version: Version) -> Vec<(&'static str, String)> {
    let mut flags = vec![];
    if cluster.min_tls == TlsVersion::V13 {
        flags.push(("tls-min-version", "TLS1.3".into()));
    }
    if !cluster.cipher_suites.is_empty() {
        let suites: Vec<_> = cluster.cipher_suites.iter().map(|suite| suite.as_str()).collect();
        flags.push(("cipher-suites", suites.join(",")));
    }
    if cluster.etcd.log_level != LogLevel::default() {
        flags.push(("log-level", cluster.etcd.log_level.as_str().into()));
    }
    let is_known = |name: &str| FEATURE_GATES.iter().any(|gate| gate.name == name && gate.since <= version.minor);
    let gates = cluster.etcd.feature_gates.iter().filter(|(name, _)| is_known(name));
    let gates: Vec<_> = gates.map(|(name, is_on)| format!("{name}={is_on}")).collect();
    if !gates.is_empty() {
        flags.push(("feature-gates", gates.join(",")));
    }
    flags
}

fn arguments(cluster: &ValidatedCluster, member: &MemberName, release: &Release) -> Vec<String> {
    let version = release.version;
    let file = |key: &str| format!("{TLS_DIR}/{key}");
    let etcd = &cluster.etcd;
    let mut flags: Vec<(&str, String)> = vec![
        ("name", member.to_string()),
        // A subdirectory of the volume, because a file system may have lost+found in its root.
        ("data-dir", format!("{DATA_DIR}/member-data")),
        // For a wildcard address of either family, Go listens on both families (net, favoriteAddrFamily).
        ("listen-client-urls", format!("https://0.0.0.0:{CLIENT_PORT}")),
        ("listen-peer-urls", format!("https://0.0.0.0:{PEER_PORT}")),
        ("listen-metrics-urls", format!("http://0.0.0.0:{METRICS_PORT}")),
        ("advertise-client-urls", cluster.names.client_url(member)),
        ("initial-advertise-peer-urls", cluster.names.peer_url(member)),
        ("cert-file", file(member_key::SERVER_CRT)),
        ("key-file", file(member_key::SERVER_KEY)),
        // The certificate that the member's JSON gateway presents to the member itself: a server leaf must not be used by a
        // client.
        ("client-cert-file", file(member_key::CLIENT_CRT)),
        ("client-key-file", file(member_key::CLIENT_KEY)),
        ("peer-client-cert-auth", "true".into()),
        ("peer-trusted-ca-file", file(member_key::PEER_CA)),
        ("peer-cert-file", file(member_key::PEER_CRT)),
        ("peer-key-file", file(member_key::PEER_KEY)),
        ("peer-crl-file", file(member_key::PEER_CRL)),
        ("peer-cert-allowed-hostname", cluster.names.peer_host().to_owned()),
        ("heartbeat-interval", etcd.heartbeat_interval.to_string()),
        ("election-timeout", etcd.election_timeout.to_string()),
        ("quota-backend-bytes", etcd.quota.to_string()),
        (
            "auto-compaction-mode",
            match etcd.compaction.mode {
                CompactionMode::Periodic => "periodic".into(),
                CompactionMode::Revision => "revision".into(),
            },
        ),
        ("auto-compaction-retention", etcd.compaction.retention.clone()),
    ];
    // A certificate of the peer domain with the host name above identifies a member. Checking the member's address against DNS as
    // well proves nothing more, and fails until DNS has the address of a new pod (`client/pkg/transport`, `checkCertSAN`).
    flags.extend(version.release().map(|release| (release.skip_address_check, "true".into())));
    if cluster.client_auth == ClientAuth::Required {
        // `trusted-ca-file` alone would already make etcd require client certificates (client/pkg/transport, ServerConfig).
        flags.push(("client-cert-auth", "true".into()));
        flags.push(("trusted-ca-file", file(member_key::CLIENT_CA)));
        flags.push(("client-crl-file", file(member_key::CLIENT_CRL)));
    }
    // Usually it is written every 10,000 entries.
    flags.extend(release.prepares.map(|_| ("snapshot-count", "5".into())));
    flags.extend(options(cluster, version));
    let own = flags.into_iter().map(|(name, value)| format!("--{name}={value}"));
    own.chain(etcd.extra_args.iter().map(|(name, value)| format!("--{name}={value}"))).collect()
}
