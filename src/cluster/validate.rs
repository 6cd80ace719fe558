//! Spec -> [`ValidatedCluster`]. Pure.
//!
//! The CRD's rules reject most invalid specs at apply time. The spec is checked again here, because it may have been stored under
//! older rules, and so that the following stages need no checks.

mod etcd;
mod problems;

use std::{collections::BTreeSet, net::IpAddr};

use jiff::SignedDuration;
use kube::Resource;

pub use problems::Invalid;
use problems::{Problems, check_duration};

use crate::{
    api::{
        Duration, ECDSA_SUITE, EtcdCluster, EtcdClusterSpec, HTTP2_SUITE, MAX_NAME_LENGTH, Medium, RepairSpec, TLS_1_3_SUITES,
        TlsSpec, TlsVersion,
    },
    certificates::{issuers::issuers, lifetimes::lifetimes},
    cluster::{
        objects,
        release::Release,
        requests::Requests,
        settings::Settings,
        validated::{Repair, ValidatedCluster, needed_in_pod},
    },
    etcd::{Version, supported},
    ids::Uid,
    kubernetes::quantity,
    names::Names,
    pki::PerDomain,
};

/// Validates the spec of a cluster. `domain` is the DNS domain of the Kubernetes cluster.
///
/// # Errors
/// All problems of the spec.
pub fn validate(cluster: &EtcdCluster, domain: &str) -> Result<ValidatedCluster, Invalid> {
    let mut name = Problems(vec![]);
    check_name(cluster.metadata.name.as_deref().unwrap_or_default(), &mut name);
    match validated(cluster, domain) {
        Ok(valid) if name.0.is_empty() => Ok(valid),
        Ok(_) => Err(Invalid(name.0)),
        Err(Invalid(problems)) => Err(Invalid(name.0.into_iter().chain(problems).collect())),
    }
}

/// Validates the spec of a cluster whatever its name is.
///
/// # Errors
/// All problems of the spec.
pub fn validated(cluster: &EtcdCluster, domain: &str) -> Result<ValidatedCluster, Invalid> {
    let mut problems = Problems(vec![]);
    let valid = checked(cluster, domain, &mut problems).filter(|_| problems.0.is_empty()).ok_or(Invalid(problems.0))?;
    // Whether the spec's template fits the operator's is known once that can be built.
    let problems: Vec<_> = objects::template_problems(&valid).iter().map(of_template).collect();
    if problems.is_empty() { Ok(valid) } else { Err(Invalid(problems)) }
}

fn of_template(problem: impl AsRef<str>) -> String {
    format!("spec.pod.template: {}", problem.as_ref())
}

/// The cluster, unless a part of it cannot be read. It may have problems nevertheless.
fn checked(cluster: &EtcdCluster, domain: &str, problems: &mut Problems) -> Option<ValidatedCluster> {
    let spec = &cluster.spec;
    let name = cluster.metadata.name.as_deref().unwrap_or_default();
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    if !(1..=9).contains(&spec.replicas) {
        problems.add(format!("spec.replicas is {}: it must be 1 to 9", spec.replicas));
    }
    let version = check_version(&spec.version, problems);
    let lifetimes = PerDomain::from_fn(|domain| problems.of(lifetimes(domain, &spec.tls)));
    let extra_names = check_names(&spec.tls.client.extra_sans.dns_names, problems);
    let extra_addresses = check_addresses(&spec.tls.client.extra_sans.ip_addresses, problems);
    let issuers = problems.of(issuers(&spec.tls));
    check_suites(&spec.tls, problems);
    let etcd = etcd::check(&spec.etcd, version, problems);
    let repair = check_repair(&spec.repair, problems);
    check_storage(spec, etcd.as_ref().map(|etcd| etcd.quota), problems);
    let template = objects::parse_template(&spec.pod.template);
    let template = template.map_err(|found| found.iter().for_each(|problem| problems.add(of_template(problem)))).ok();
    let (version, settings) = (version?, Settings::of(spec));
    Some(ValidatedCluster {
        names: Names::new(name, namespace, domain),
        uid: Uid::of(&cluster.metadata)?,
        owner: cluster.controller_owner_ref(&())?,
        replicas: spec.replicas.unsigned_abs(),
        release: Release::of(spec, version),
        pull_policy: spec.image.pull_policy,
        pull_secrets: spec.image.pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        storage: spec.storage.clone(),
        min_tls: spec.tls.min_version,
        cipher_suites: spec.tls.cipher_suites.clone(),
        client_auth: spec.tls.client.client_auth,
        lifetimes: lifetimes.both()?,
        issuers: issuers?,
        extra_names,
        extra_addresses,
        etcd: etcd?,
        pod: spec.pod.clone(),
        template: template?,
        recorded: settings.text(),
        settings,
        service: spec.service.clone(),
        repair: repair?,
        paused: spec.paused,
        requests: Requests::of(cluster),
    })
}

fn check_name(name: &str, problems: &mut Problems) {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() > MAX_NAME_LENGTH {
        problems.add(format!("the name is too long for the objects made from it: {MAX_NAME_LENGTH} characters at most"));
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(label) || name.ends_with('-') {
        problems.add(
            "metadata.name becomes a Service's name: it must begin with a letter and end with a letter or digit, \
             and hold only lower case letters, digits and -",
        );
    }
}

fn check_version(text: &str, problems: &mut Problems) -> Option<Version> {
    let version = Version::parse(text);
    match version {
        None if text.starts_with('v') => problems.add(format!("spec.version is {text:?}: write it without the v, like 3.6.16")),
        None => problems.add(format!("spec.version is {text:?}: it must be three numbers, like 3.6.16")),
        Some(v) if v.is_supported() => {}
        Some(v) => {
            let why = v.release().map(|release| format!(", because {}", release.why)).unwrap_or_default();
            problems.add(format!("spec.version {v} is not supported{why}: {}", supported()));
        }
    }
    version
}

/// What etcd checks when it starts, or finds out at the first connection.
fn check_suites(tls: &TlsSpec, problems: &mut Problems) {
    let suites = &tls.cipher_suites;
    if suites.is_empty() {
        return;
    }
    let mut check = |is_fulfilled: bool, why: &str| {
        if !is_fulfilled {
            problems.add(format!("spec.tls.cipherSuites: {why}"));
        }
    };
    check(tls.min_version == TlsVersion::V12, TLS_1_3_SUITES);
    check(suites.iter().any(|suite| suite.is_for_http2()), HTTP2_SUITE);
    check(suites.iter().any(|suite| suite.is_for_ecdsa()), ECDSA_SUITE);
}

/// A container or a node takes this long to restart. A shorter time would treat a normal restart as a fault.
const SHORTEST_REPAIR: SignedDuration = SignedDuration::from_secs(10);

fn check_repair(spec: &RepairSpec, problems: &mut Problems) -> Option<Repair> {
    let mut check = |name: &str, duration: &Duration| {
        let field = format!("spec.repair.{name}");
        let length = check_duration(&field, duration, problems)?;
        if length < SHORTEST_REPAIR {
            problems.add(format!("{field} is {duration}: it must be at least 10s"));
        }
        Some(length)
    };
    let crash_loop = check("crashLoop", &spec.crash_loop);
    let lost_node = check("lostNode", &spec.lost_node);
    let unstarted = check("unstarted", &spec.unstarted);
    Some(Repair { crash_loop: crash_loop?, lost_node: lost_node?, unstarted: unstarted? })
}

/// What etcd needs beside a volume in memory, at the least.
const PROCESS: i64 = 256 << 20;

fn check_storage(spec: &EtcdClusterSpec, quota: Option<i64>, problems: &mut Problems) {
    let storage = &spec.storage;
    if quantity::bytes(&storage.size).is_none() {
        problems.add(format!("spec.storage.size {:?} is not a size: write it like 8Gi", storage.size.0));
    }
    let Some(volume) = &storage.empty_dir else { return };
    if storage.storage_class_name.is_some() {
        problems.add("spec.storage must have either emptyDir or storageClassName");
    }
    if spec.replicas < 3 && !volume.accept_data_loss {
        problems.add(
            "with spec.storage.emptyDir and fewer than 3 replicas all data is lost with one pod: set \
             spec.storage.emptyDir.acceptDataLoss to true if it may be lost",
        );
    }
    let limit = &volume.size_limit.0;
    let Some(bytes) = quantity::bytes(&volume.size_limit) else {
        problems.add(format!("spec.storage.emptyDir.sizeLimit {limit:?} is not a size: write it like 4Gi"));
        return;
    };
    if quota.is_some_and(|quota| bytes < needed_in_pod(quota)) {
        problems.add(format!(
            "spec.storage.emptyDir.sizeLimit is {limit}: it must be at least spec.etcd.quotaBackendSize ({}) and 448Mi for the \
             write-ahead log, because a pod that takes more is evicted, and its data is lost",
            spec.etcd.quota_backend_size.0
        ));
    }
    let memory = spec.pod.resources.limits.as_ref().and_then(|limits| limits.get("memory"));
    let is_in_memory = volume.medium == Medium::Memory;
    if let Some(memory) =
        memory.filter(|memory| is_in_memory && quantity::bytes(memory).is_none_or(|all| all < bytes.saturating_add(PROCESS)))
    {
        problems.add(format!(
            "spec.pod.resources.limits.memory is {}: a volume in memory counts against it, so it must be at least \
             spec.storage.emptyDir.sizeLimit ({limit}) and 256Mi for etcd",
            memory.0
        ));
    }
}

fn check_names(names: &[String], problems: &mut Problems) -> BTreeSet<String> {
    for name in names {
        let labels = name.strip_prefix("*.").unwrap_or(name);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if name.parse::<IpAddr>().is_ok() {
            problems.add(format!("spec.tls.client.extraSANs.dnsNames: {name:?} is an address: write it into ipAddresses"));
        } else if labels.len() > 253 || !labels.split('.').all(label) {
            problems.add(format!("spec.tls.client.extraSANs.dnsNames: {name:?} is not a DNS name in lower case"));
        }
    }
    names.iter().cloned().collect()
}

fn check_addresses(addresses: &[String], problems: &mut Problems) -> BTreeSet<IpAddr> {
    let parse = |text: &String| {
        let problem = format!("spec.tls.client.extraSANs.ipAddresses: {text:?} is not an IP address");
        text.parse().map_err(|_| problems.add(problem)).ok()
    };
    addresses.iter().filter_map(parse).collect()
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
