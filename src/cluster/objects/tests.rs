use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde_json::Value;

use super::{
    Claimed, StartState, bootstrap, ca_config, claim, client_service, disruption_budget, is_redundant, peer_service, retained,
    stateful_set,
};
use crate::{
    cluster::{fixtures::cluster, validate::validate, validated::ValidatedCluster},
    names::annotation,
};

const EVERYTHING: &str = r#"
replicas: 5
version: 3.7.1
storage: {size: 20Gi, storageClassName: fast, retention: Delete}
image:
  repository: registry.example.com:5000/etcd
  tag: v3.7.1-mirror
  digest: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
  pullPolicy: Always
  pullSecrets: [{name: registry}]
tls:
  cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
  client:
    authority: {duration: 8760h}
    certificate: {duration: 24h}
    extraSANs: {dnsNames: [etcd.example.com], ipAddresses: ["2001:db8::7", 203.0.113.7]}
etcd:
  heartbeatInterval: 250ms
  electionTimeout: 2500ms
  quotaBackendSize: 4Gi
  autoCompaction: {mode: Revision, retention: "10000"}
  logLevel: warn
  featureGates: {PriorityRequest: true, TxnModeWriteWithSharedBuffer: false}
  extraArgs: {max-txn-ops: "512"}
pod:
  resources: {requests: {cpu: 500m, memory: 1Gi}}
  affinity: {}
  nodeSelector: {disk: ssd}
  tolerations: [{key: dedicated, operator: Exists}]
  topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
  priorityClassName: important
  labels: {team: storage, app.kubernetes.io/instance: not-this}
  annotations: {note: mine, etcd-warden.dev/bundles: not-this}
  userIDs: Assigned
  template:
    metadata: {annotations: {proxy: injected}}
    spec:
      runtimeClassName: gvisor
      containers: [{name: etcd, env: [{name: GOMAXPROCS, value: "2"}]}, {name: proxy, image: "proxy:1"}]
service:
  type: LoadBalancer
  loadBalancerClass: example.com/internal
  labels: {team: storage, app.kubernetes.io/name: not-this}
  annotations: {metallb.example/pool: one}
"#;

fn valid(spec: &str) -> ValidatedCluster {
    validate(&cluster(spec), "cluster.local").unwrap()
}

/// All objects of a cluster, as they are applied.
fn all(cluster: &ValidatedCluster) -> BTreeMap<String, Value> {
    let mut objects = BTreeMap::new();
    let mut put = |kind: &str, object: &dyn erased::Object| {
        let value = object.value();
        objects.insert(format!("{kind} {}", value["metadata"]["name"].as_str().unwrap()), value);
    };
    let members: BTreeMap<_, _> = (0..cluster.replicas).map(|ordinal| (cluster.names.member(ordinal), StartState::New)).collect();
    put("Service", &client_service(cluster));
    put("Service", &peer_service(cluster));
    put("ConfigMap", &ca_config(cluster, "the bundle\n".into()));
    put("ConfigMap", &bootstrap(cluster, &members));
    if is_redundant(cluster, members.len()) {
        let budget = disruption_budget(cluster, members.len());
        put("PodDisruptionBudget", &budget);
    }
    // The others differ only in their names.
    let first = cluster.names.member(0);
    put("PersistentVolumeClaim", &claim(cluster, &first, &Claimed::of(&cluster.storage)));
    put("StatefulSet", &stateful_set(cluster, &first, &cluster.release, "digest"));
    objects
}

mod erased {
    use super::{Serialize, Value};

    /// Anything that can be serialized.
    pub trait Object {
        fn value(&self) -> Value;
    }
    impl<T: Serialize> Object for T {
        fn value(&self) -> Value {
            serde_json::to_value(self).unwrap()
        }
    }
}

#[test]
fn objects_of_the_default_spec() {
    insta::assert_yaml_snapshot!(all(&valid("{}")));
}

#[test]
fn objects_of_one_member() {
    insta::assert_yaml_snapshot!(all(&valid("{replicas: 1}")));
}

#[test]
fn objects_of_a_spec_that_sets_everything() {
    insta::assert_yaml_snapshot!(all(&valid(EVERYTHING)));
}

#[test]
fn claims_have_an_owner_only_if_they_are_deleted_with_the_cluster() {
    for (retention, owned) in [("Retain", false), ("Delete", true)] {
        let cluster = valid(&format!("{{storage: {{retention: {retention}}}}}"));
        let meta = claim(&cluster, &cluster.names.member(0), &Claimed::of(&cluster.storage)).metadata;
        assert_eq!(meta.owner_references.is_some(), owned, "{retention}");
        let mut annotations = meta.annotations.unwrap();
        assert_eq!(annotations.remove(annotation::STORAGE).unwrap(), r#"{"size":"8Gi"}"#);
        assert_eq!(annotations[annotation::CLUSTER_UID], cluster.uid.as_str());
        // Argo CD leaves alone what another object owns. Of what no object owns it would delete the data.
        let argo = ["argocd.argoproj.io/sync-options", "argocd.argoproj.io/compare-options"].map(|key| annotations.get(key));
        let kept = [Some("Prune=false,Delete=false"), Some("IgnoreExtraneous")];
        assert_eq!(argo.map(|value| value.map(String::as_str)), if owned { [None, None] } else { kept }, "{retention}");
        let secret = retained(&cluster, cluster.names.client_authority());
        assert_eq!(secret.annotations, Some(annotations), "{retention}");
    }
}

#[test]
fn a_disruption_budget_protects_a_quorum() {
    let cluster = valid("{}");
    assert!(!is_redundant(&cluster, 1));
    assert!(!is_redundant(&valid("{replicas: 2}"), 2), "neither member may be evicted, now or later");
    for (voters, quorum) in [(2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
        let kept = disruption_budget(&cluster, voters).spec.and_then(|spec| spec.min_available);
        assert!(is_redundant(&cluster, voters) && kept == Some(IntOrString::Int(quorum)));
    }
}

#[test]
fn a_pod_may_take_as_long_to_stop_as_etcd_takes_while_clients_watch() {
    // The limits of `spec.etcd.electionTimeout`, and a value that is no whole number of seconds.
    for (setting, election, expected) in
        [("50ms, heartbeatInterval: 10ms", 50, 27), ("1s", 1000, 30), ("2500ms", 2500, 36), ("50s", 50_000, 226)]
    {
        let cluster = valid(&format!("{{etcd: {{electionTimeout: {setting}}}}}"));
        let spec = stateful_set(&cluster, &cluster.names.member(0), &cluster.release, "").spec.template.spec.unwrap();
        let pause = spec.containers[0].lifecycle.as_ref().unwrap().pre_stop.as_ref().unwrap().sleep.as_ref().unwrap().seconds;
        let period = spec.termination_grace_period_seconds.unwrap();
        assert_eq!(period, expected, "{setting}");
        assert!((period - pause) * 1000 >= 5000 + 2 * election + 5000, "{setting}");
    }
}

#[test]
fn every_label_fits_with_the_longest_name() {
    let mut long = cluster("{replicas: 7}");
    long.metadata.name = Some("d".repeat(49));
    let cluster = validate(&long, "cluster.local").unwrap();
    let member = cluster.names.member(99);
    // The controller adds a hash of up to ten characters to the StatefulSet's name in a label of the pod.
    assert!(stateful_set(&cluster, &member, &cluster.release, "").metadata.name.unwrap().len() + 11 <= 63);
    assert!(cluster.names.peer_service().len() <= 63 && cluster.names.pod(&member).len() <= 63);
}

#[test]
fn only_what_the_spec_sets_becomes_an_optional_flag() {
    let arguments = |spec: &str| {
        let cluster = valid(spec);
        stateful_set(&cluster, &cluster.names.member(0), &cluster.release, "").spec.template.spec.unwrap().containers[0]
            .args
            .clone()
            .unwrap()
    };
    let optional = ["--tls-min-version", "--cipher-suites", "--log-level", "--feature-gates"];
    let found = |spec: &str| -> Vec<String> {
        arguments(spec).into_iter().filter(|argument| optional.iter().any(|flag| argument.starts_with(flag))).collect()
    };
    assert!(found("{etcd: {logLevel: info}}").is_empty());
    assert_eq!(found("{tls: {minVersion: TLS1.3}, etcd: {logLevel: debug}}"), ["--tls-min-version=TLS1.3", "--log-level=debug"]);
    assert_eq!(
        found("{version: 3.6.16, etcd: {featureGates: {SetMemberLocalAddr: false, CompactHashCheck: true}}}"),
        ["--feature-gates=CompactHashCheck=true,SetMemberLocalAddr=false"]
    );
    let suites = "[TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]";
    assert_eq!(
        found(&format!("{{tls: {{cipherSuites: {suites}}}}}")),
        ["--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]
    );
}
