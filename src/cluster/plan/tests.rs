//! The plan as a whole, and what the tests of planners share.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::PersistentVolumeClaim,
    apimachinery::pkg::{apis::meta::v1::Time, util::intstr::IntOrString},
};
use proptest::prelude::*;

use crate::{
    api::Reason,
    certificates::{
        leaf::{LeafKeys, SignedBy},
        requests::{LeafRequest, SecretChange},
    },
    cluster::{
        fixtures::{Fixture, names},
        plan::changes::{Changes, IDLE},
    },
    kubernetes::secret::SecretView,
    names::{annotation as key, bootstrap_key, member_key, tls_key},
    pki::{Domain, Holder, LeafSpec, ReissueReason, Usage},
    reporting::note::Note,
};

// Revocation.

/// A cluster that has issued a certificate to a user.
pub(super) fn with_user(uid: &str) -> Fixture {
    let mut fixture = Fixture::bootstrapped(ONE);
    let leaf = LeafRequest {
        domain: Domain::Client,
        signed_by: SignedBy::Active,
        spec: LeafSpec {
            common_name: "app".into(),
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
            optional: BTreeSet::new(),
            usage: Usage::Client,
            duration: days(90),
        },
        keys: LeafKeys { certificate: tls_key::CRT, private_key: tls_key::KEY },
        holder: Holder::User { name: "app".into(), uid: uid.into() },
        why: ReissueReason::Missing,
        signed_now: true,
    };
    let change = SecretChange {
        name: "app-etcd-tls".into(),
        version: None,
        type_: "kubernetes.io/tls",
        labels: BTreeMap::new(),
        leaves: vec![leaf],
        files: BTreeMap::new(),
        obsolete: vec![],
    };
    fixture.issue(&mut SecretView::default(), &change);
    fixture
}

pub(super) const ONE: &str = "replicas: 1";

/// A change of a fixture.
pub(super) type Change = fn(&mut Fixture);

/// The leaves of a plan: each Secret with the keys of its certificates.
pub(super) type Leaves = Vec<(String, Vec<&'static str>)>;

pub(super) fn leaves(changes: &Changes) -> Leaves {
    let keys = |change: &SecretChange| change.leaves.iter().map(|leaf| leaf.keys.certificate).collect();
    changes.secrets.iter().map(|change| (change.name.clone(), keys(change))).collect()
}

pub(super) fn states(fixture: &Fixture) -> Vec<String> {
    let data = fixture.observed.bootstrap.as_ref().unwrap().data.as_ref().unwrap();
    data.iter().filter(|(key, _)| key.ends_with(bootstrap_key::STATE_SUFFIX)).map(|(_, state)| state.clone()).collect()
}

pub(super) fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// The annotations that are written to pods.
pub(super) fn annotations(changes: &Changes) -> Vec<&str> {
    changes.pods.iter().flat_map(|patch| patch.changes.annotations.keys()).map(String::as_str).collect()
}

/// `kubectl delete pvc` of a running member: the claim exists until its pod ends.
pub(super) fn delete_claim(fixture: &mut Fixture, ordinal: u32) {
    let at = Time(fixture.now);
    fixture.member(ordinal).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(at);
}

pub(super) fn bootstrapped(replicas: i32) -> Fixture {
    let mut fixture = Fixture::bootstrapped(&format!("replicas: {replicas}"));
    fixture.taken.clear();
    fixture
}

pub(super) fn scale(fixture: &mut Fixture, replicas: i32) {
    fixture.cluster.spec.replicas = replicas;
}

pub(super) fn annotate(fixture: &mut Fixture, key: &str, value: &str) {
    fixture.cluster.metadata.annotations.get_or_insert_default().insert(key.into(), value.into());
}

/// Makes passes until a step is taken.
pub(super) fn pass_until(fixture: &mut Fixture, step: &str) {
    for _ in 0..60 {
        fixture.pass();
        if fixture.taken.last().is_some_and(|last| last == step) {
            return;
        }
    }
    let plan = fixture.plan();
    panic!("{step} was never taken, but {:?}: {plan:#?}", fixture.taken);
}

/// The steps that were taken, except those that only record and revoke.
pub(super) fn changes(fixture: &Fixture) -> Vec<&str> {
    let others = ["RecordMembers", "Revoke"];
    fixture.taken.iter().map(String::as_str).filter(|step| !others.contains(step)).collect()
}

/// Whether nothing is changed and nothing reported.
fn is_quiet(plan: &Changes) -> bool {
    let Changes { progress, problems, upcoming, lost, certificates, .. } = plan;
    plan.is_empty() && [progress, problems, upcoming, lost, certificates].into_iter().all(Vec::is_empty)
}

/// Checks that everything is up to date, and that removed members have no objects left.
pub(super) fn assert_up_to_date(fixture: &mut Fixture) {
    let plan = fixture.changes();
    assert!(is_quiet(&plan), "{plan:#?}");
    let expected = usize::try_from(fixture.cluster.spec.replicas).unwrap();
    assert_eq!(fixture.ordinals().len(), expected);
    assert_eq!(fixture.etcd.len(), expected, "no learner is left");
    let names: Vec<_> = fixture.ordinals().into_iter().map(|ordinal| names().member(ordinal)).collect();
    assert_eq!(fixture.observed.members.keys().cloned().collect::<Vec<_>>(), names);
    assert!(fixture.observed.members.values().all(|member| member.is_healthy() && member.has_started()));
    let status = fixture.report().status;
    let replicas = fixture.cluster.spec.replicas;
    assert_eq!((status.replicas, status.ready_replicas), (replicas, replicas));
    let data = fixture.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
    assert_eq!(data.len(), 2 * expected + 1);
    for name in names {
        assert_eq!((data[&bootstrap_key::state(&name)].as_str()), "existing");
        assert!(!data[&bootstrap_key::cluster(&name)].contains(','), "{name} would join again");
    }
    let budget = fixture.observed.disruption_budget.as_ref().map(|budget| budget.spec.clone().unwrap().min_available.unwrap());
    let quorum = i32::try_from(expected / 2 + 1).unwrap();
    assert_eq!(budget, (expected > 2).then_some(IntOrString::Int(quorum)));
    // The certificates of removed members are revoked, and those of existing members are not.
    let authorities = fixture.observed.authorities.client.as_ref().unwrap().authorities().unwrap().clone();
    for issued in authorities.ledger.entries() {
        if let Holder::Member { name } = &issued.holder {
            let listed = fixture.ordinals().iter().any(|ordinal| format!("demo-{ordinal}") == *name);
            assert!(listed || issued.revoked.is_some(), "{name} still has a certificate that is not revoked");
        }
    }
    for member in fixture.observed.members.values() {
        let leaf = member.secret.as_ref().unwrap().certificate(member_key::SERVER_CRT).unwrap().unwrap();
        assert!(!authorities.ledger.is_revoked(leaf.serial()));
    }
}

/// Scales to this many members, and checks the result.
pub(super) fn scale_to(fixture: &mut Fixture, replicas: i32) {
    scale(fixture, replicas);
    fixture.settle();
    assert_up_to_date(fixture);
}

pub(super) fn notes(notes: &[Note], reason: Reason) -> Vec<String> {
    notes.iter().filter(|note| note.reason == reason).map(|note| note.message.clone()).collect()
}

#[test]
fn a_converged_cluster_is_not_changed_until_a_renewal_is_due() {
    let mut fixture = Fixture::bootstrapped("{}");
    for _ in 0..5 {
        fixture.now += days(11);
        let plan = fixture.changes();
        assert!(is_quiet(&plan), "{plan:?}");
        assert_eq!(plan.next_check(), IDLE);
    }
    fixture.now += days(6);
    assert_eq!(fixture.changes().secrets.len(), 4, "after two thirds of 90 days all leaves are due");
    fixture.settle();
    assert!(fixture.is_idle());
}

#[test]
fn a_plan_has_one_step_at_a_time() {
    let mut user = with_user("u1");
    // A bootstrapped cluster with a deleted user, and a claim that has lost its member ID.
    let claim: &mut PersistentVolumeClaim = user.member(0).claim.as_mut().unwrap();
    claim.metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
    assert_eq!(user.pass().changes().step.map(|step| step.name()), Some("RecordMembers"), "steps that protect data come first");
    assert_eq!(user.pass().changes().step.map(|step| step.name()), Some("Revoke"));
}

// Properties.

prop_compose! {
    fn specs()(
        replicas in 1..10_u32,
        minor in 5..8_u32,
        leaf in 1..200_u32,
        factor in 4..40_u32,
        retain in any::<bool>(),
        names in prop::collection::vec("[a-z]{1,8}\\.example", 0..3),
        addresses in prop::collection::vec(any::<std::net::IpAddr>(), 0..3),
        tolerate in prop::collection::vec("[a-z]{0,5}", 0..2),
        cpu in prop::option::of(prop::sample::select(vec!["0.5", "500m", "2", "1.25"])),
    ) -> serde_json::Value {
        let tolerations: Vec<_> = tolerate.iter().map(|key| serde_json::json!({"key": key, "operator": "Exists"})).collect();
        let certificates = serde_json::json!({
            "authority": {"duration": format!("{}h", leaf * factor)},
            "certificate": {"duration": format!("{leaf}h")},
        });
        let mut client = certificates.clone();
        client["extraSANs"] = serde_json::json!({"dnsNames": names, "ipAddresses": addresses});
        serde_json::json!({
            "replicas": replicas,
            "version": format!("3.{minor}.40"),
            "storage": {"retention": if retain { "Retain" } else { "Delete" }},
            "tls": {"client": client, "peer": certificates},
            "pod": {"tolerations": tolerations, "resources": {"requests": cpu.map(|cpu| serde_json::json!({"cpu": cpu}))}},
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_valid_cluster_converges_within_six_passes(spec in specs()) {
        let mut fixture = Fixture::new(&spec.to_string());
        let busy = fixture.settle();
        prop_assert!(busy <= 6, "{busy} passes");
        for _ in 0..3 {
            prop_assert!(fixture.pass().is_idle());
        }
    }
}
