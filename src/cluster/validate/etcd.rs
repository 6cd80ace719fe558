//! Settings of etcd itself, checked as etcd checks them when it starts.

use super::problems::{Problems, check_duration};
use crate::{
    api::{CompactionMode, Duration, EtcdSpec, FEATURE_GATES, FLAGS_OF_3_6, LEAST_QUOTA, RESERVED_FLAGS},
    cluster::validated::EtcdSettings,
    etcd::Version,
    kubernetes::quantity,
};

/// The settings in the units of etcd's flags.
pub fn check(etcd: &EtcdSpec, version: Option<Version>, problems: &mut Problems) -> Option<EtcdSettings> {
    let heartbeat = check_duration("spec.etcd.heartbeatInterval", &etcd.heartbeat_interval, problems);
    let election = check_duration("spec.etcd.electionTimeout", &etcd.election_timeout, problems);
    let quota = check_quota(etcd, problems);
    check_arguments(etcd, version, problems);
    check_feature_gates(etcd, version, problems);
    check_compaction(etcd, problems);
    let (heartbeat, election) = (heartbeat?.as_millis(), election?.as_millis());
    if heartbeat < 10 || election < 5 * heartbeat || election > 50_000 {
        problems.add("spec.etcd.electionTimeout must be at least five times heartbeatInterval and at most 50s, heartbeatInterval at least 10ms");
    }
    Some(EtcdSettings {
        heartbeat_interval: heartbeat,
        election_timeout: election,
        quota: quota?,
        compaction: etcd.auto_compaction.clone(),
        log_level: etcd.log_level,
        feature_gates: etcd.feature_gates.clone(),
        extra_args: etcd.extra_args.clone(),
    })
}

fn check_quota(etcd: &EtcdSpec, problems: &mut Problems) -> Option<i64> {
    let text = &etcd.quota_backend_size.0;
    match quantity::bytes(&etcd.quota_backend_size) {
        None => problems.add(format!("spec.etcd.quotaBackendSize {text:?} is not a size: write it like 2Gi")),
        Some(_) if quantity::nano(text) < quantity::nano(LEAST_QUOTA) => {
            problems.add(format!("spec.etcd.quotaBackendSize is {text}: it must be at least {LEAST_QUOTA}"));
        }
        quota => return quota,
    }
    None
}

fn check_arguments(etcd: &EtcdSpec, version: Option<Version>, problems: &mut Problems) {
    for name in etcd.extra_args.keys() {
        let is_flag = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_flag {
            problems
                .add(format!("spec.etcd.extraArgs: {name:?} is not the name of a flag; write it without the dashes in front"));
        } else if let Some(reserved) = RESERVED_FLAGS.iter().find(|reserved| name.starts_with(reserved.prefix)) {
            problems.add(format!("spec.etcd.extraArgs: {name} is reserved: {}", reserved.why));
        } else if version.is_some_and(|version| version.minor >= 7) && name.starts_with("experimental-") {
            problems.add(format!("spec.etcd.extraArgs: etcd 3.7 and newer have no experimental flags: {name} has another name"));
        } else if version.is_some_and(|version| version.minor < 6) && FLAGS_OF_3_6.contains(&name.as_str()) {
            problems.add(format!("spec.etcd.extraArgs: {name} is new in etcd 3.6"));
        }
    }
}

fn check_feature_gates(etcd: &EtcdSpec, version: Option<Version>, problems: &mut Problems) {
    const FIELD: &str = "spec.etcd.featureGates";
    for (name, is_on) in &etcd.feature_gates {
        let Some(gate) = FEATURE_GATES.iter().find(|gate| gate.name == name) else {
            let known: Vec<_> = FEATURE_GATES.iter().map(|gate| gate.name).collect();
            problems.add(format!("{FIELD}: {name:?} is no feature gate of etcd; these are: {}", known.join(", ")));
            continue;
        };
        if let Some(version) = version.filter(|version| version.minor < gate.since) {
            problems.add(format!("{FIELD}: etcd 3.{} does not have {name}, which is new in 3.{}", version.minor, gate.since));
        }
        if let Some(flag) = gate.flag.filter(|flag| etcd.extra_args.contains_key(*flag)) {
            problems.add(format!("{FIELD}: {name} replaces the flag {flag}; remove that from spec.etcd.extraArgs"));
        }
        let needed = "LeaseCheckpoint";
        if *is_on && name == "LeaseCheckpointPersist" && etcd.feature_gates.get(needed) != Some(&true) {
            problems.add(format!("{FIELD}: {name} needs {needed}"));
        }
    }
}

/// etcd takes a duration as a number of revisions, and a number as hours. Neither is meant.
fn check_compaction(etcd: &EtcdSpec, problems: &mut Problems) {
    let retention = &etcd.auto_compaction.retention;
    let is_valid = match etcd.auto_compaction.mode {
        CompactionMode::Periodic => retention == "0" || Duration(retention.clone()).length().is_ok(),
        CompactionMode::Revision => retention.parse::<u64>().is_ok(),
    };
    if !is_valid {
        problems.add(format!(
            "spec.etcd.autoCompaction.retention {retention:?} does not fit the mode: a duration such as 5m for Periodic, a number of revisions for Revision"
        ));
    }
}
