//! Members that have their data in their pods.

use proptest::prelude::*;

use super::tests::{annotate, assert_up_to_date, changes, notes, pass_until, scale};
use crate::{
    api::{ConditionType, EmptyDirSpec, Reason, condition},
    cluster::{
        fixtures::{Fixture, names},
        observed::ObservedMember,
    },
    names::annotation as key,
    pki::Domain,
};

const IN_PODS: &str = "storage: { emptyDir: { sizeLimit: 4Gi } }";

fn bootstrapped(spec: &str) -> Fixture {
    let mut fixture = Fixture::bootstrapped(spec);
    fixture.taken.clear();
    fixture
}

/// Makes passes until nothing is to be done, and returns the smallest number of healthy voters.
fn settle(fixture: &mut Fixture) -> usize {
    let mut least = fixture.healthy_members();
    for _ in 0..900 {
        let before = fixture.observed.status.clone();
        let pass = fixture.pass();
        least = least.min(fixture.healthy_members());
        if pass.is_idle() && pass.report.status == before && fixture.changes().progress.is_empty() {
            break;
        }
    }
    assert_up_to_date(fixture);
    least
}

/// Its StatefulSet creates another one, with an empty volume.
fn delete_pod(fixture: &mut Fixture, ordinal: u32) {
    fixture.member(ordinal).pod = None;
}

fn empty_dir() -> EmptyDirSpec {
    serde_saphyr::from_str("sizeLimit: 4Gi").unwrap()
}

fn are_in_pods(fixture: &Fixture) -> Vec<bool> {
    fixture.observed.members.values().map(ObservedMember::is_in_pod).collect()
}

#[test]
fn there_are_no_claims_and_the_statefulsets_record_which_pods_have_the_data() {
    for spec in [IN_PODS, "{ replicas: 1, storage: { emptyDir: { medium: Memory, sizeLimit: 4Gi, acceptDataLoss: true } } }"] {
        let mut fixture = bootstrapped(spec);
        assert_up_to_date(&mut fixture);
        assert!(fixture.observed.members.values().all(|member| member.claim.is_none() && member.has_pod_with_data()));
    }
}

#[test]
fn a_deleted_pod_is_a_lost_member_and_is_replaced() {
    for (leads, lost) in [(0, 1), (1, 1)] {
        let mut fixture = bootstrapped(IN_PODS);
        fixture.leader = fixture.id(leads);
        let id = fixture.id(lost);
        delete_pod(&mut fixture, lost);
        settle(&mut fixture);
        assert_ne!(fixture.id(lost), id);
        let expected = ["RemoveMember", "DeleteStatefulSet", "AddLearner", "Promote"].map(|step| format!("{step} demo-{lost}"));
        assert_eq!(changes(&fixture), expected);
    }
}

#[test]
fn without_a_majority_of_the_pods_nothing_is_started_again() {
    let mut fixture = bootstrapped(IN_PODS);
    fixture.allows_outage = true;
    for ordinal in [1, 2] {
        delete_pod(&mut fixture, ordinal);
    }
    for _ in 0..10 {
        let pass = fixture.pass();
        assert!(pass.is_idle(), "{:?}", pass.plan);
    }
    let available = |fixture: &mut Fixture| {
        let status = fixture.pass().report.status;
        condition(&status.conditions, ConditionType::Available).unwrap().message.clone()
    };
    let message = available(&mut fixture);
    assert!(message.contains("save the data of demo-0") && !message.contains("recover-from"), "{message}");
    annotate(&mut fixture, key::RECOVER_FROM, "demo-0");
    for _ in 0..30 {
        fixture.pass();
    }
    let said = notes(&fixture.changes().problems, Reason::RecoveryRefused).join("; ");
    assert!(said.contains("the data of demo-0 is in its pod"), "{said}");
    delete_pod(&mut fixture, 0);
    fixture.pass();
    let message = available(&mut fixture);
    assert!(message.contains("delete the EtcdCluster, and create it again"), "{message}");
    assert!(fixture.taken.is_empty(), "{:?}", fixture.taken);
}

/// The versions that the members run.
fn running(fixture: &Fixture) -> Vec<String> {
    fixture.observed.members.values().filter_map(|member| Some(member.version()?.to_string())).collect()
}

fn restarts(fixture: &Fixture) -> usize {
    fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count()
}

#[test]
fn another_patch_of_etcd_replaces_the_members() {
    let mut fixture = bootstrapped(IN_PODS);
    fixture.cluster.spec.version = "3.6.17".into();
    assert_eq!(settle(&mut fixture), 3);
    assert_eq!((running(&fixture), restarts(&fixture)), (vec!["3.6.17".to_owned(); 3], 0));
}

#[test]
fn another_minor_of_etcd_waits_until_the_data_is_in_volumes() {
    let mut fixture = bootstrapped(IN_PODS);
    fixture.cluster.spec.version = "3.7.3".into();
    for _ in 0..20 {
        fixture.pass();
    }
    assert!(fixture.taken.is_empty(), "{:?}", fixture.taken);
    let said = notes(&fixture.changes().problems, Reason::CannotChangeVersion).join("; ");
    assert!(said.contains("unset that until all members run the new one"), "{said}");
    fixture.cluster.spec.storage.empty_dir = None;
    settle(&mut fixture);
    assert_eq!((are_in_pods(&fixture), running(&fixture)), (vec![false; 3], vec!["3.7.3".to_owned(); 3]));
    let is_kind = |kind: &'static str| move |step: &String| step.starts_with(kind);
    let replaced = fixture.taken.iter().rposition(is_kind("RemoveMember")).unwrap();
    assert!(replaced < fixture.taken.iter().position(is_kind("RestartMember")).unwrap(), "{:?}", fixture.taken);
}

/// New members run the lowest version, so a downgrade is completed by them.
#[test]
fn when_the_data_moves_into_the_pods_an_upgrade_waits_and_a_downgrade_is_completed() {
    for (version, lowest) in [("3.7.3", "3.6.16"), ("3.5.35", "3.5.35")] {
        let mut fixture = bootstrapped("{}");
        fixture.cluster.spec.version = version.into();
        let until = |fixture: &mut Fixture, holds: &dyn Fn(&Fixture) -> bool| {
            for _ in 0..300 {
                if holds(fixture) {
                    return;
                }
                fixture.pass();
            }
            panic!("{:?}: {:?}", running(fixture), fixture.taken);
        };
        until(&mut fixture, &|fixture| running(fixture).iter().any(|running| running == version));
        fixture.cluster.spec.storage.empty_dir = Some(empty_dir());
        until(&mut fixture, &|fixture| are_in_pods(fixture) == [true; 3] && fixture.healthy_members() == 3);
        let taken = fixture.taken.len();
        for _ in 0..30 {
            fixture.pass();
        }
        assert_eq!(running(&fixture), [lowest; 3]);
        assert!(fixture.taken[taken..].iter().all(|step| step.starts_with("Delete")), "{:?}", fixture.taken);
        let said = notes(&fixture.changes().problems, Reason::CannotChangeVersion).join("; ");
        assert_eq!(said.contains("unset that"), version != lowest, "{said}");
        fixture.cluster.spec.storage.empty_dir = None;
        settle(&mut fixture);
        assert_eq!((are_in_pods(&fixture), running(&fixture)), (vec![false; 3], vec![version.to_owned(); 3]));
    }
}

#[test]
fn a_restart_is_a_replacement_and_the_new_member_joins_first() {
    let one = "{ replicas: 1, storage: { emptyDir: { sizeLimit: 4Gi, acceptDataLoss: true } } }";
    for (spec, replicas) in [(one, 1), (IN_PODS, 3)] {
        let mut fixture = bootstrapped(spec);
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        assert_eq!(settle(&mut fixture), replicas);
        fixture.cluster.spec.etcd.extra_args.insert("max-txn-ops".into(), "512".into());
        assert_eq!(settle(&mut fixture), replicas);
        let count = |step: &str| fixture.taken.iter().filter(|taken| taken.starts_with(step)).count();
        assert_eq!((count("RemoveMember"), count("RestartMember")), (2 * replicas, 0), "{:?}", fixture.taken);
    }
}

#[test]
fn a_pod_that_is_lost_during_the_replacement_of_another_one_is_replaced() {
    let mut fixture = bootstrapped(IN_PODS);
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    pass_until(&mut fixture, "AddLearner demo-3");
    delete_pod(&mut fixture, 1);
    settle(&mut fixture);
    // The one that is replaced, and the new one before it has a vote.
    let mut fixture = bootstrapped(IN_PODS);
    fixture.leader = fixture.id(2);
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    pass_until(&mut fixture, "Promote demo-3");
    delete_pod(&mut fixture, 0);
    settle(&mut fixture);
}

#[test]
fn authorities_are_rotated_though_no_pod_is_restarted() {
    for domain in ["client", "peer"] {
        let mut fixture = bootstrapped(IN_PODS);
        annotate(&mut fixture, key::ROTATE_CA, domain);
        assert_eq!(settle(&mut fixture), 3, "{domain}");
        let finished = fixture.observed.status.certificates.as_ref().unwrap();
        assert!([&finished.client, &finished.peer].into_iter().flatten().all(|domain| domain.phase.is_none()));
        let removed = fixture.taken.iter().filter(|step| step.starts_with("RemoveMember")).count();
        // Each is replaced to trust the new CA, and to trust the previous one no longer; and one by a member that tries a peer certificate.
        assert_eq!(removed, if domain == "peer" { 7 } else { 6 }, "{:?}", fixture.taken);
    }
}

/// The quota is not lowered below what a database takes, so a volume for the lower quota is too small.
#[test]
fn members_keep_volumes_for_the_quota_that_they_keep() {
    let mut fixture = bootstrapped(IN_PODS);
    fixture.db_size = 1_200 << 20;
    fixture.cluster.spec.etcd.quota_backend_size.0 = "1Gi".into();
    fixture.cluster.spec.storage.empty_dir.as_mut().unwrap().size_limit.0 = "1472Mi".into();
    for _ in 0..30 {
        fixture.pass();
    }
    assert_eq!(changes(&fixture), [] as [&str; 0]);
    let refused = notes(&fixture.changes().problems, Reason::CannotReplace).join("; ");
    assert!(refused.contains("no member gets a volume of 1472Mi (spec.storage.emptyDir.sizeLimit)"), "{refused}");

    // One that is lost is replaced by one with a volume like those of the others.
    delete_pod(&mut fixture, 1);
    for _ in 0..60 {
        fixture.pass();
    }
    assert_eq!(fixture.healthy_members(), 3, "{:?}", fixture.taken);
    let size = |member: &ObservedMember| member.volume_in_pod().unwrap().size_limit.clone().unwrap().0;
    assert!(fixture.observed.members.values().all(|member| size(member) == "4Gi"));

    fixture.db_size = 100 << 20;
    settle(&mut fixture);
    assert!(fixture.observed.members.values().all(|member| size(member) == "1472Mi"));
}

/// The member that was added to trust the next CA refuses what that signs. It stays as the one that shows it.
#[test]
fn no_member_is_added_again_and_again_to_try_a_refused_ca() {
    for replicas in [1, 2, 3] {
        let mut fixture = bootstrapped(&format!(
            "{{ replicas: {replicas}, storage: {{ emptyDir: {{ sizeLimit: 4Gi, acceptDataLoss: true }} }} }}"
        ));
        annotate(&mut fixture, key::ROTATE_CA, "client");
        for _ in 0..60 {
            let next = fixture.observed.authorities.client.as_ref().unwrap().authorities().unwrap().next.common_name().to_owned();
            if fixture.observed.is_rotating(Domain::Client) {
                fixture.unacceptable.insert(next);
            }
            fixture.pass();
        }
        let taken = fixture.taken.len();
        for _ in 0..60 {
            fixture.pass();
        }
        assert_eq!(fixture.taken[taken..], [] as [&str; 0], "{:?}", fixture.taken);
        assert_eq!(fixture.ordinals().len(), replicas);
        let degraded = condition(&fixture.observed.status.conditions, ConditionType::Degraded).unwrap();
        assert_eq!(degraded.reason, Reason::CertificateRefused.as_str());

        fixture.unacceptable.clear();
        annotate(&mut fixture, key::ROTATE_CA, "client@2");
        settle(&mut fixture);
    }
}

#[test]
fn a_certificate_of_the_next_ca_is_tried_whichever_pod_is_lost() {
    for lost in [0, 1, 2] {
        for passes in (1..90).step_by(8) {
            let mut fixture = bootstrapped(IN_PODS);
            annotate(&mut fixture, key::ROTATE_CA, "peer");
            for _ in 0..passes {
                fixture.pass();
            }
            let is_spare = fixture.healthy_members() == fixture.ordinals().len() && fixture.ordinals().contains(&lost);
            if is_spare && fixture.ordinals().len() > 2 {
                delete_pod(&mut fixture, lost);
            }
            settle(&mut fixture);
            let finished = fixture.observed.status.certificates.as_ref().unwrap();
            assert!(finished.peer.as_ref().is_some_and(|domain| domain.phase.is_none()), "{lost} after {passes} passes");
        }
    }
}

#[test]
fn members_join_the_first_one_and_none_bootstraps_the_cluster_twice() {
    let mut fixture = Fixture::new(IN_PODS);
    let states = |fixture: &Fixture| -> Vec<(String, String)> {
        let data = fixture.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
        data.into_iter().filter(|(key, _)| key.ends_with("state")).collect()
    };
    fixture.pass();
    assert_eq!(states(&fixture).len(), 1, "{:?}", states(&fixture));
    fixture.settle();
    assert!(states(&fixture).iter().all(|(_, state)| state == "existing"), "{:?}", states(&fixture));
    assert_eq!(changes(&fixture), ["AddLearner demo-1", "Promote demo-1", "AddLearner demo-2", "Promote demo-2"]);
    // Those that bootstrap a cluster together have claims, whatever the spec has become meanwhile.
    let mut fixture = Fixture::new("{}");
    fixture.pass();
    fixture.cluster.spec.storage.empty_dir = Some(empty_dir());
    settle(&mut fixture);
    assert_eq!(are_in_pods(&fixture), [true; 3]);
    assert!(fixture.taken.iter().any(|step| step.starts_with("DeleteClaim")), "{:?}", fixture.taken);
}

#[test]
fn data_moves_between_claims_and_pods_by_replacing_members() {
    let mut fixture = bootstrapped("{}");
    fixture.cluster.spec.storage.empty_dir = Some(empty_dir());
    assert_eq!(settle(&mut fixture), 3);
    assert_eq!(are_in_pods(&fixture), [true; 3]);
    fixture.cluster.spec.storage.empty_dir.as_mut().unwrap().size_limit.0 = "8Gi".into();
    assert_eq!(settle(&mut fixture), 3);
    fixture.cluster.spec.storage.empty_dir = None;
    assert_eq!(settle(&mut fixture), 3);
    assert_eq!(are_in_pods(&fixture), [false; 3]);
    // It is reverted halfway.
    for passes in (1..40).step_by(6) {
        let mut fixture = bootstrapped("{}");
        fixture.cluster.spec.storage.empty_dir = Some(empty_dir());
        for _ in 0..passes {
            fixture.pass();
        }
        fixture.cluster.spec.storage.empty_dir = None;
        assert_eq!(settle(&mut fixture), 3, "after {passes} passes");
        assert_eq!(are_in_pods(&fixture), [false; 3]);
    }
}

#[derive(Clone, Debug)]
enum Fault {
    Lose(usize),
    Scale(i32),
    Restart(u8),
    InPods(bool),
    Replace(u32),
    LoseStep,
    Die(usize),
    Pass(usize),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        3 => (0..5_usize).prop_map(Fault::Lose),
        1 => (3..5).prop_map(Fault::Scale),
        2 => any::<u8>().prop_map(Fault::Restart),
        1 => any::<bool>().prop_map(Fault::InPods),
        1 => (0..4_u32).prop_map(Fault::Replace),
        1 => Just(Fault::LoseStep),
        2 => (0..6_usize).prop_map(Fault::Die),
        8 => (1..12_usize).prop_map(Fault::Pass),
    ];
    prop::collection::vec(fault, 1..12)
}

fn inject(fixture: &mut Fixture, fault: &Fault) {
    match fault {
        Fault::Lose(position) => {
            // The others are a quorum without it.
            let voters = fixture.ordinals();
            if let Some(ordinal) = voters.get(*position).filter(|_| voters.len() > 2 && fixture.healthy_members() == voters.len())
            {
                delete_pod(fixture, *ordinal);
            }
        }
        Fault::Scale(replicas) => scale(fixture, *replicas),
        Fault::Restart(at) => annotate(fixture, key::RESTARTED_AT, &at.to_string()),
        Fault::InPods(are) => fixture.cluster.spec.storage.empty_dir = are.then(empty_dir),
        Fault::Replace(ordinal) => annotate(fixture, key::REPLACE, names().member(*ordinal).as_str()),
        Fault::LoseStep => fixture.loses_next_step = true,
        Fault::Die(writes) => {
            fixture.dies_after = Some(*writes);
            (0..4).for_each(|_| drop(fixture.pass()));
            fixture.dies_after = None;
        }
        Fault::Pass(passes) => (0..*passes).for_each(|_| drop(fixture.pass())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    /// The fixture checks that no member starts under its old ID without its data, and that quorum is never lost.
    #[test]
    fn members_converge_after_any_faults(faults in faults()) {
        let mut fixture = bootstrapped(IN_PODS);
        for fault in &faults {
            inject(&mut fixture, fault);
        }
        fixture.loses_next_step = false;
        (0..100).for_each(|_| drop(fixture.pass()));
        if let Some(annotations) = &mut fixture.cluster.metadata.annotations {
            annotations.remove(key::REPLACE);
        }
        settle(&mut fixture);
        let desired = fixture.cluster.spec.storage.empty_dir.is_some();
        prop_assert!(are_in_pods(&fixture).into_iter().all(|is_in_pod| is_in_pod == desired));
    }
}
