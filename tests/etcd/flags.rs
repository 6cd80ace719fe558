//! The flags that the operator sets, on each release of etcd: all are accepted, and what the operator refuses etcd refuses too.

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
};

use etcd_warden::{
    api::{EtcdCluster, EtcdClusterSpec, FEATURE_GATES, FLAGS_OF_3_6},
    cluster::{objects::stateful_set, validate::validate},
    etcd::{Client, Dialer},
};
use serde_json::{Value, json};

use super::{Cluster, Etcd, program, until};

const VERSIONS: [(&str, u32); 3] = [("3.5.35", 5), ("3.6.16", 6), ("3.7.3", 7)];

/// A spec that sets everything that becomes a flag.
fn everything(version: &str, minor: u32) -> Value {
    let gates: serde_json::Map<String, Value> =
        FEATURE_GATES.iter().filter(|gate| gate.since <= minor).map(|gate| (gate.name.to_owned(), true.into())).collect();
    json!({
        "version": version,
        "tls": { "cipherSuites": [
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        ] },
        "etcd": {
            "heartbeatInterval": "50ms", "electionTimeout": "1500ms", "quotaBackendSize": "16Mi", "logLevel": "warn",
            "autoCompaction": { "mode": "Revision", "retention": "1000" }, "featureGates": gates,
            "extraArgs": { "max-txn-ops": "512" },
        },
    })
}

/// The arguments of etcd in the pod of the first member.
fn arguments(spec: Value) -> Vec<String> {
    let spec: EtcdClusterSpec = serde_json::from_value(spec).unwrap();
    let mut cluster = EtcdCluster::new("demo", spec);
    (cluster.metadata.namespace, cluster.metadata.uid) = (Some("ns".into()), Some("uid".into()));
    let valid = validate(&cluster, "cluster.local").unwrap();
    let pod = stateful_set(&valid, &valid.names.member(0), &valid.release, "").spec.template.spec.unwrap();
    pod.containers[0].args.clone().unwrap()
}

/// Starts etcd with these arguments, on loopback and in a directory of the test.
fn start(cluster: &Cluster, version: &str, arguments: &[String], log: &str) -> Etcd {
    let dir = cluster.dir.path();
    let [client, peer] = cluster.ports[0];
    let [metrics] = super::free_ports();
    let local = |argument: &String| {
        argument
            .replace("/etc/etcd/tls", dir.to_str().unwrap())
            .replace("/var/lib/etcd", &format!("{}/{log}-data", dir.display()))
            .replace("demo-0-0.demo-peers.ns.svc", "127.0.0.1")
            .replace("//0.0.0.0", "//127.0.0.1")
            .replace(":2379", &format!(":{client}"))
            .replace(":2380", &format!(":{peer}"))
            .replace(":2381", &format!(":{metrics}"))
    };
    let path = dir.join(log);
    let child = Command::new(program(version, "etcd"))
        .args(arguments.iter().map(local))
        .env("ETCD_INITIAL_CLUSTER", format!("demo-0=https://127.0.0.1:{peer}"))
        .env("ETCD_INITIAL_CLUSTER_STATE", "new")
        .env("ETCD_INITIAL_CLUSTER_TOKEN", "token")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&path).unwrap())
        .spawn()
        .unwrap();
    Etcd { child, name: log.to_owned(), client_port: client, peer_port: peer, log: path }
}

fn prepare() -> Cluster {
    let cluster = Cluster::prepare(1);
    cluster.client_ca.leaf("member", 7).write(cluster.dir.path(), "client");
    fs::write(cluster.dir.path().join("peer.crl"), &cluster.peer_ca.revoke(&[]).0).unwrap();
    cluster
}

#[tokio::test]
async fn every_release_starts_with_all_flags_that_the_operator_sets() {
    for (version, minor) in VERSIONS {
        let tls_1_3 = json!({ "version": version, "tls": { "minVersion": "TLS1.3" }, "etcd": { "logLevel": "error" } });
        for (log, spec) in [("everything", everything(version, minor)), ("tls13", tls_1_3)] {
            let cluster = prepare();
            let member = start(&cluster, version, &arguments(spec), log);
            let tls = cluster.tls();
            let status = until(&format!("etcd {version} serves with {log}"), async || {
                Client::default().ask(&member.client(), &tls).await.ok()?.status.ok().filter(|status| status.leader.is_some())
            })
            .await;
            assert_eq!(status.version, version);
        }
    }
}

#[tokio::test]
async fn etcd_refuses_what_the_operator_refuses() {
    let gates = |gates: &str| format!("--feature-gates={gates}");
    let suite = "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384".to_owned();
    for (version, minor) in VERSIONS {
        let plain = arguments(json!({ "version": version }));
        let mut refused = vec![
            (vec![gates("Nothing=true")], if minor == 5 { "not defined: -feature-gates" } else { "unrecognized feature gate" }),
            (vec!["--cipher-suites=TLS_NOTHING".to_owned()], "unexpected TLS cipher suite"),
            (vec![suite.clone(), "--tls-min-version=TLS1.3".to_owned()], "cipher suites cannot be configured"),
            (vec![suite.clone()], "missing an HTTP/2-required AES_128_GCM_SHA256 cipher"),
            (vec!["--log-level=everything".to_owned()], "unrecognized level"),
        ];
        if minor == 6 {
            refused.push((vec![gates("PriorityRequest=true")], "unrecognized feature gate"));
            let both = vec![gates("InitialCorruptCheck=true"), "--experimental-initial-corrupt-check=true".to_owned()];
            refused.push((both, "cannot specify both flags"));
        }
        if minor > 5 {
            refused.push((vec![gates("LeaseCheckpointPersist=true")], "requires enabling feature gate LeaseCheckpoint"));
        }
        for (flags, words) in refused {
            let cluster = prepare();
            let all: Vec<_> = plain.iter().chain(&flags).cloned().collect();
            let mut member = start(&cluster, version, &all, "refused");
            until(&format!("etcd {version} ends with {flags:?}"), async || member.child.try_wait().unwrap()).await;
            let log = fs::read_to_string(&member.log).unwrap();
            assert!(log.contains(words), "etcd {version} {flags:?}: {log}");
        }
    }
}

#[test]
fn the_table_of_feature_gates_is_that_of_each_release() {
    for (version, minor) in VERSIONS {
        let help = Command::new(program(version, "etcd")).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap() + &String::from_utf8(help.stderr).unwrap();
        // Options are: / AllAlpha=true|false (ALPHA - default=false) / ...
        let line =
            |line: &str| line.trim().split_once("=true|false").map(|(name, _)| name.rsplit(' ').next().unwrap().to_owned());
        let mut found: BTreeSet<_> = help.lines().filter_map(line).collect();
        found.retain(|name| !name.starts_with("All"));
        let known: BTreeSet<_> =
            FEATURE_GATES.iter().filter(|gate| gate.since <= minor).map(|gate| gate.name.to_owned()).collect();
        assert_eq!(found, known, "etcd {version}");
    }
}

/// Whether a release of etcd has a flag. It ends at once, because the value is none of the flag's, or because it has no data directory.
fn has_flag(version: &str, flag: &str) -> bool {
    let output = Command::new(program(version, "etcd"))
        .arg(format!("--{flag}="))
        .args(["--data-dir=/proc/none", "--name=none", "--config-file=/proc/none"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    !text.contains(&format!("flag provided but not defined: -{flag}"))
}

#[test]
fn flags_that_were_renamed_exist_in_the_releases_for_which_they_are_accepted() {
    for flag in FLAGS_OF_3_6 {
        let has: Vec<_> = VERSIONS.iter().map(|(version, _)| has_flag(version, flag)).collect();
        assert_eq!(has, [false, true, true], "{flag}");
    }
    for flag in ["experimental-corrupt-check-time", "experimental-initial-corrupt-check"] {
        let has: Vec<_> = VERSIONS.iter().map(|(version, _)| has_flag(version, flag)).collect();
        assert_eq!(has, [true, true, false], "{flag}");
    }
    assert!(VERSIONS.iter().all(|(version, _)| has_flag(version, "max-txn-ops")));
}
