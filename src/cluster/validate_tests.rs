use jiff::SignedDuration;
use proptest::prelude::*;

use super::{Invalid, validate};
use crate::{
    certificates::lifetimes::Lifetimes,
    cluster::{fixtures::cluster, validated::ValidatedCluster},
    etcd::Version,
};

fn check(spec: &str) -> Result<ValidatedCluster, Invalid> {
    validate(&cluster(spec), "cluster.local")
}

/// The problem of a spec that must have exactly one.
fn only_problem(spec: &str) -> String {
    let Invalid(problems) = check(spec).expect_err(spec);
    assert_eq!(problems.len(), 1, "{spec}: {problems:?}");
    problems[0].clone()
}

#[test]
fn a_volume_in_the_pod_has_room_for_the_database_and_may_be_lost_only_if_that_is_accepted() {
    let spec = |replicas: u8, volume: &str, memory: &str| {
        format!(
            "{{ replicas: {replicas}, storage: {{ emptyDir: {{ {volume} }} }}, pod: {{ resources: {{ limits: {{ {memory} }} }} }} }}"
        )
    };
    for (spec, part) in [
        (spec(2, "sizeLimit: 4Gi", ""), "acceptDataLoss"),
        (spec(3, "sizeLimit: 4Gb", ""), "is not a size"),
        (spec(3, "sizeLimit: 2495Mi", ""), "at least spec.etcd.quotaBackendSize (2Gi) and 448Mi"),
        (spec(3, "medium: Memory, sizeLimit: 4Gi", "memory: 4Gi"), "at least spec.storage.emptyDir.sizeLimit (4Gi) and 256Mi"),
        ("storage: { storageClassName: fast, emptyDir: { sizeLimit: 4Gi } }".into(), "either emptyDir or storageClassName"),
    ] {
        assert!(only_problem(&spec).contains(part), "{spec}: {}", only_problem(&spec));
    }
    for spec in [
        spec(1, "sizeLimit: 4Gi, acceptDataLoss: true", ""),
        spec(3, "sizeLimit: 2496Mi", "memory: 1Gi"),
        spec(3, "medium: Memory, sizeLimit: 4Gi", "memory: 4352Mi"),
        spec(3, "medium: Memory, sizeLimit: 4Gi", ""),
    ] {
        assert!(check(&spec).is_ok(), "{spec}");
        assert!(!check(&spec).unwrap().retains());
    }
}

#[test]
fn every_default_is_valid() {
    let valid = check("{}").unwrap();
    assert_eq!((valid.replicas, valid.release.version.to_string().as_str()), (3, "3.6.16"));
    assert_eq!(valid.release.image, "gcr.io/etcd-development/etcd:v3.6.16");
    let hours = SignedDuration::from_hours;
    assert_eq!(valid.lifetimes.client, Lifetimes { authority: hours(43_800), leaf: hours(2160) });
    assert_eq!(valid.lifetimes.client, valid.lifetimes.peer);
    assert_eq!((valid.etcd.heartbeat_interval, valid.etcd.election_timeout, valid.etcd.quota), (100, 1000, 2 << 30));
    assert!(valid.retains() && !valid.paused);
}

#[test]
fn every_invalid_value_is_reported_with_what_to_do() {
    let long = format!("{}.example", "a".repeat(64));
    let long = format!("{{tls: {{client: {{extraSANs: {{dnsNames: [{long}]}}}}}}}}");
    let cases = [
        ("{replicas: 0}", "spec.replicas", "must be 1 to 9"),
        ("{replicas: 10}", "spec.replicas", "must be 1 to 9"),
        ("{replicas: -1}", "spec.replicas", "must be 1 to 9"),
        ("{version: latest}", "spec.version", "three numbers, like 3.6.16"),
        ("{version: ''}", "spec.version", "three numbers, like 3.6.16"),
        ("{version: '3.6'}", "spec.version", "three numbers, like 3.6.16"),
        ("{version: 3.6.16-rc.1}", "spec.version", "three numbers, like 3.6.16"),
        ("{version: v3.6.16}", "spec.version", "without the v"),
        ("{version: 3.5.31}", "spec.version", "3.5 from 3.5.32"),
        ("{version: 3.4.40}", "spec.version", "3.5 from 3.5.32"),
        ("{version: 3.8.0}", "spec.version", "3.7 from 3.7.0"),
        ("{version: 4.0.0}", "spec.version", "3.7 from 3.7.0"),
        ("{storage: {size: big}}", "spec.storage.size", "like 8Gi"),
        ("{storage: {size: '0'}}", "spec.storage.size", "like 8Gi"),
        ("{storage: {size: -1Gi}}", "spec.storage.size", "like 8Gi"),
        ("{tls: {client: {certificate: {duration: 90d}}}}", "spec.tls.client.certificate.duration", "write it like 2160h"),
        ("{tls: {client: {certificate: {duration: ''}}}}", "spec.tls.client.certificate.duration", "write it like 2160h"),
        ("{tls: {client: {certificate: {duration: 59m}}}}", "spec.tls.client.certificate.duration", "at least 1h"),
        ("{tls: {peer: {certificate: {duration: 0s}}}}", "spec.tls.peer.certificate.duration", "at least 1h"),
        ("{tls: {peer: {authority: {duration: soon}}}}", "spec.tls.peer.authority.duration", "write it like 2160h"),
        ("{tls: {peer: {authority: {duration: 8639h}}}}", "spec.tls.peer.authority.duration", "at least four times"),
        ("{tls: {client: {authority: {duration: 876001h}}}}", "spec.tls.client.authority.duration", "at most a hundred years"),
        ("{tls: {client: {extraSANs: {dnsNames: [Etcd.example]}}}}", "extraSANs.dnsNames", "a DNS name in lower case"),
        ("{tls: {client: {extraSANs: {dnsNames: ['a b']}}}}", "extraSANs.dnsNames", "a DNS name in lower case"),
        ("{tls: {client: {extraSANs: {dnsNames: ['']}}}}", "extraSANs.dnsNames", "a DNS name in lower case"),
        ("{tls: {client: {extraSANs: {dnsNames: ['a.*.example']}}}}", "extraSANs.dnsNames", "a DNS name in lower case"),
        (&long, "extraSANs.dnsNames", "a DNS name in lower case"),
        ("{tls: {client: {extraSANs: {dnsNames: [192.0.2.1]}}}}", "extraSANs.dnsNames", "write it into ipAddresses"),
        ("{tls: {client: {extraSANs: {ipAddresses: [192.0.2.256]}}}}", "extraSANs.ipAddresses", "not an IP address"),
        ("{tls: {client: {extraSANs: {ipAddresses: [192.0.2.0/24]}}}}", "extraSANs.ipAddresses", "not an IP address"),
        ("{etcd: {heartbeatInterval: fast}}", "spec.etcd.heartbeatInterval", "write it like"),
        ("{etcd: {heartbeatInterval: 9ms}}", "spec.etcd.electionTimeout", "heartbeatInterval at least 10ms"),
        ("{etcd: {electionTimeout: 499ms}}", "spec.etcd.electionTimeout", "at least five times"),
        ("{etcd: {electionTimeout: 51s}}", "spec.etcd.electionTimeout", "at most 50s"),
        ("{etcd: {quotaBackendSize: much}}", "spec.etcd.quotaBackendSize", "like 2Gi"),
        ("{etcd: {autoCompaction: {retention: often}}}", "spec.etcd.autoCompaction.retention", "such as 5m"),
        (
            "{etcd: {autoCompaction: {mode: Revision, retention: 5m}}}",
            "spec.etcd.autoCompaction.retention",
            "number of revisions",
        ),
        ("{etcd: {quotaBackendSize: 15Mi}}", "spec.etcd.quotaBackendSize", "at least 16Mi"),
        (
            "{etcd: {featureGates: {AllAlpha: true}}}",
            "spec.etcd.featureGates",
            "no feature gate of etcd; these are: CompactHashCheck",
        ),
        (
            "{etcd: {featureGates: {PriorityRequest: true}}}",
            "spec.etcd.featureGates",
            "etcd 3.6 does not have PriorityRequest, which is new in 3.7",
        ),
        ("{version: 3.5.35, etcd: {featureGates: {LeaseCheckpoint: true}}}", "spec.etcd.featureGates", "etcd 3.5 does not have"),
        ("{etcd: {featureGates: {LeaseCheckpointPersist: true}}}", "spec.etcd.featureGates", "needs LeaseCheckpoint"),
        (
            "{etcd: {featureGates: {CompactHashCheck: true}, extraArgs: {experimental-compact-hash-check-enabled: 'true'}}}",
            "spec.etcd.featureGates",
            "remove that from spec.etcd.extraArgs",
        ),
        ("{tls: {cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]}}", "spec.tls.cipherSuites", "HTTP/2 needs"),
        ("{tls: {cipherSuites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]}}", "spec.tls.cipherSuites", "have ECDSA keys"),
        (
            "{tls: {minVersion: TLS1.3, cipherSuites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]}}",
            "spec.tls.cipherSuites",
            "etcd does not start with them",
        ),
        (
            "{version: 3.7.3, etcd: {extraArgs: {experimental-corrupt-check-time: 1h}}}",
            "spec.etcd.extraArgs",
            "experimental-corrupt-check-time has another name",
        ),
        (
            "{version: 3.5.35, etcd: {extraArgs: {corrupt-check-time: 1h}}}",
            "spec.etcd.extraArgs",
            "corrupt-check-time is new in etcd 3.6",
        ),
        ("{etcd: {extraArgs: {--max-txn-ops: '1'}}}", "spec.etcd.extraArgs", "without the dashes"),
        ("{etcd: {extraArgs: {'': '1'}}}", "spec.etcd.extraArgs", "without the dashes"),
        ("{etcd: {extraArgs: {'max-txn-ops=1 --name': x}}}", "spec.etcd.extraArgs", "not the name of a flag"),
    ];
    for (spec, field, what_to_do) in cases {
        let message = only_problem(spec);
        assert!(message.contains(field) && message.contains(what_to_do), "{spec}: {message}");
    }
}

#[test]
fn flags_that_the_operator_sets_are_reserved() {
    for (flag, why) in [
        ("name", "the operator names the members"),
        ("data-dir", "the data is on the member's volume"),
        ("listen-client-urls", "sets all addresses"),
        ("initial-cluster-state", "decides how members start"),
        ("force-new-cluster", "recover-from"),
        ("trusted-ca-file", "issues all certificates"),
        ("cert-file", "issues all certificates"),
        ("client-cert-auth", "set spec.tls.client.clientAuth"),
        ("client-crl-file", "issues all certificates"),
        ("peer-auto-tls", "issues all certificates"),
        ("unsafe-no-fsync", "lose data"),
        ("tls-min-version", "set spec.tls.minVersion"),
        ("tls-max-version", "set spec.tls.minVersion for the oldest"),
        ("quota-backend-bytes", "set spec.etcd.quotaBackendSize"),
        ("cipher-suites", "set spec.tls.cipherSuites"),
        ("auto-compaction-mode", "set spec.etcd.autoCompaction.mode"),
        ("auto-compaction-retention", "set spec.etcd.autoCompaction.retention"),
        ("log-level", "set spec.etcd.logLevel"),
        ("feature-gates", "set spec.etcd.featureGates"),
        ("experimental-peer-skip-client-san-verification", "issues all certificates"),
        ("discovery", "decides how members start"),
        ("auth-token", "not managed yet"),
        ("config-file", "ignores all other flags"),
    ] {
        let message = only_problem(&format!("{{etcd: {{extraArgs: {{{flag}: x}}}}}}"));
        assert!(message.contains(&format!("{flag} is reserved: ")) && message.contains(why), "{message}");
    }
    for flag in ["max-txn-ops", "snapshot-catchup-entries", "log-format", "metrics"] {
        let valid = check(&format!("{{etcd: {{extraArgs: {{{flag}: x}}}}}}")).unwrap();
        assert_eq!(valid.etcd.extra_args[flag], "x");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let Invalid(problems) = check("{replicas: 10, version: v3, storage: {size: x}}").unwrap_err();
    assert_eq!(problems.len(), 3);
    assert_eq!(Invalid(problems).to_string().matches("; ").count(), 2);
}

#[test]
fn names_that_are_invalid_for_services_are_refused() {
    let named = |name: &str| {
        let mut cluster = cluster("{}");
        cluster.metadata.name = Some(name.into());
        validate(&cluster, "cluster.local").map(drop).map_err(|invalid| invalid.to_string())
    };
    for name in ["1demo", "de.mo", "Demo", "demo-", "", "-demo", "d\u{e9}mo"] {
        assert!(named(name).unwrap_err().contains("must begin with a letter"), "{name}");
    }
    assert_eq!(named(&"d".repeat(49)), Ok(()));
    assert!(named(&"d".repeat(50)).unwrap_err().contains("49 characters at most"));
    assert_eq!(named("d"), Ok(()));
}

#[test]
fn limits_are_inclusive() {
    for spec in [
        "{version: 3.5.32}",
        "{version: 3.7.0}",
        "{tls: {peer: {authority: {duration: 4h}, certificate: {duration: 1h}}}}",
        "{tls: {client: {authority: {duration: 876000h}}}}",
        "{tls: {client: {extraSANs: {dnsNames: ['*.example.com', localhost], ipAddresses: ['2001:db8::1']}}}}",
        "{etcd: {heartbeatInterval: 10ms, electionTimeout: 50ms}}",
        "{etcd: {electionTimeout: 50s}}",
        "{etcd: {autoCompaction: {retention: '0'}}}",
        "{etcd: {quotaBackendSize: 16Mi}}",
        "{version: 3.7.3, etcd: {featureGates: {PriorityRequest: true, FastLeaseKeepAlive: false}}}",
        "{etcd: {autoCompaction: {mode: Revision, retention: '10000'}}}",
        "{storage: {size: 1.5Gi}}",
        "{storage: {size: '1e9'}}",
        "{etcd: {quotaBackendSize: '256E6'}}",
    ] {
        assert!(check(spec).is_ok(), "{spec}: {:?}", check(spec).err());
    }
}

#[test]
fn quantities_with_an_exponent_are_read() {
    for quota in ["256e6", "256E6", "0.256e9", "256M", "256000000"] {
        let valid = check(&format!("{{storage: {{size: '1e9'}}, etcd: {{quotaBackendSize: '{quota}'}}}}")).unwrap();
        assert_eq!(valid.etcd.quota, 256_000_000, "{quota}");
    }
    let message = only_problem("{storage: {size: '1e-1'}}");
    assert!(message.contains("spec.storage.size"), "{message}");
}

#[test]
fn images_are_named_by_tag_and_digest() {
    let digest = format!("sha256:{}", "0".repeat(64));
    let image = |spec: &str| check(spec).unwrap().release.image;
    assert_eq!(image("{image: {repository: r.example:5000/etcd}}"), "r.example:5000/etcd:v3.6.16");
    assert_eq!(image("{image: {repository: e, tag: mine}}"), "e:mine");
    assert_eq!(image(&format!("{{image: {{repository: e, digest: '{digest}'}}}}")), format!("e:v3.6.16@{digest}"));
}

#[test]
fn versions_are_ordered_by_number() {
    let version = |text| Version::parse(text).unwrap();
    assert!(version("3.10.0") > version("3.9.9") && version("3.6.16") > version("3.6.9"));
    for text in ["3", "3.6.", "3.6.1.2", "3.6.-1", "3.6.+1", " 3.6.1", "3.6.99999"] {
        assert_eq!(Version::parse(text), None, "{text:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_spec_causes_a_panic(
        replicas in any::<i32>(),
        texts in prop::collection::vec(prop_oneof![any::<String>(), "[0-9]{0,20}(\\.[0-9]{0,12})?(h|m|s|ms|Ki|Gi|Pi|m|k)?", "v?[0-9]{1,5}\\.[0-9]\\.[0-9]{1,11}"], 17),
    ) {
        let mut cluster = cluster("{}");
        let spec = &mut cluster.spec;
        spec.replicas = replicas;
        let mut text = texts.into_iter();
        let mut next = || text.next().unwrap_or_default();
        spec.version = next();
        spec.storage.size.0 = next();
        spec.etcd.quota_backend_size.0 = next();
        for duration in [
            &mut spec.etcd.heartbeat_interval,
            &mut spec.etcd.election_timeout,
            &mut spec.tls.client.authority.duration,
            &mut spec.tls.client.certificate.duration,
            &mut spec.tls.peer.authority.duration,
            &mut spec.tls.peer.certificate.duration,
        ] {
            duration.0 = next();
        }
        spec.tls.client.extra_sans.dns_names = vec![next()];
        spec.tls.client.extra_sans.ip_addresses = vec![next()];
        spec.etcd.auto_compaction.retention = next();
        spec.etcd.extra_args = [(next(), next())].into();
        spec.etcd.feature_gates = [(next(), true)].into();
        cluster.metadata.name = Some(next());
        if let Err(Invalid(problems)) = validate(&cluster, "cluster.local") {
            prop_assert!(!problems.is_empty());
        }
    }
}
