use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{
    api::Reason,
    cluster::{
        fixtures::{Fixture, Growth, SECOND, objects},
        plan::tests::{ONE, annotate, assert_up_to_date, changes, notes},
    },
    names::annotation as key,
};

const CLASS: &str = "persistentvolumeclaims \"data-demo-0\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
const QUOTA: &str = "persistentvolumeclaims \"data-demo-0\" is forbidden: exceeded quota: team, requested: requests.storage=8Gi, used: requests.storage=24Gi, limited: requests.storage=30Gi";

fn bootstrapped(spec: &str) -> Fixture {
    let mut fixture = Fixture::bootstrapped(spec);
    fixture.taken.clear();
    fixture
}

fn resize(fixture: &mut Fixture, size: &str) {
    fixture.cluster.spec.storage.size = Quantity(size.into());
}

fn capacities(fixture: &Fixture) -> Vec<String> {
    (0..3).map(|ordinal| fixture.capacity(ordinal)).collect()
}

#[test]
fn volumes_are_expanded_one_after_the_other_and_no_member_is_restarted() {
    let mut fixture = bootstrapped("{}");
    resize(&mut fixture, "16Gi");
    let mut seen = vec![];
    while !fixture.is_idle() || !fixture.changes().progress.is_empty() {
        seen.push(capacities(&fixture));
        fixture.pass();
    }
    seen.push(capacities(&fixture));
    seen.dedup();
    assert_eq!(seen, [["8Gi", "8Gi", "8Gi"], ["16Gi", "8Gi", "8Gi"], ["16Gi", "16Gi", "8Gi"], ["16Gi", "16Gi", "16Gi"]]);
    assert!(fixture.taken.is_empty(), "{:?}", fixture.taken);
    assert_up_to_date(&mut fixture);
}

#[test]
fn the_next_volume_waits_until_the_one_before_has_its_size() {
    let mut fixture = bootstrapped("{}");
    fixture.growth = Growth::Ignored;
    resize(&mut fixture, "16Gi");
    for _ in 0..10 {
        fixture.pass();
    }
    let plan = fixture.changes();
    assert!(plan.is_empty(), "{:?}", objects(&plan));
    let expected = "the volume of PersistentVolumeClaim data-demo-0 is being expanded from 8Gi to 16Gi";
    assert_eq!(notes(&plan.progress, Reason::ExpandingVolume), [expected]);
    assert_eq!(plan.change.as_deref(), Some("storage.size 8Gi -> 16Gi (0/3)"));
    // The way back: the API server does not accept the old size any more, and the volumes have it.
    resize(&mut fixture, "8Gi");
    fixture.pass();
    assert!(fixture.changes().progress.is_empty());
    resize(&mut fixture, "16Gi");
    // Other work goes on.
    annotate(&mut fixture, key::REPLACE, "demo-2");
    for _ in 0..40 {
        fixture.pass();
    }
    assert_eq!(changes(&fixture)[0], "RemoveMember demo-2");
    assert_eq!(fixture.capacity(2), "16Gi", "a new member has the new size at once");
}

#[test]
fn the_volume_of_a_member_that_is_down_is_expanded_first() {
    let mut fixture = bootstrapped("{}");
    fixture.stop(2);
    fixture.growth = Growth::Ignored;
    resize(&mut fixture, "16Gi");
    assert_eq!(objects(&fixture.changes()), ["PersistentVolumeClaim data-demo-2"]);
}

#[test]
fn a_member_is_restarted_if_its_file_system_is_expanded_only_at_a_start() {
    let mut fixture = bootstrapped("{}");
    fixture.growth = Growth::AtStart;
    fixture.leader = fixture.id(2);
    resize(&mut fixture, "16Gi");
    let mut passes = 0;
    while fixture.taken.is_empty() {
        fixture.pass();
        passes += 1;
    }
    assert!(passes > 60, "the kubelet had {passes} s to do it while the pod runs");
    assert_eq!(fixture.taken, ["RestartMember demo-0"]);
    for _ in 0..600 {
        fixture.pass();
    }
    assert_eq!(fixture.taken[1..], ["RestartMember demo-1", "MoveLeader demo-2", "RestartMember demo-2"]);
    assert_eq!(capacities(&fixture), ["16Gi"; 3]);
    assert_up_to_date(&mut fixture);
}

#[test]
fn what_a_driver_fails_to_do_can_be_taken_back_in_part() {
    let mut fixture = bootstrapped("{}");
    fixture.growth = Growth::AtMost("12Gi");
    resize(&mut fixture, "16Gi");
    for _ in 0..5 {
        fixture.pass();
    }
    let plan = fixture.changes();
    assert!(plan.is_empty(), "{:?}", objects(&plan));
    let said = notes(&plan.problems, Reason::CannotExpandVolume);
    assert!(said[0].contains("data-demo-0 was not expanded to 16Gi: that is too large"), "{said:?}");
    resize(&mut fixture, "10Gi");
    fixture.settle();
    assert_eq!(capacities(&fixture), ["10Gi"; 3]);
    assert_up_to_date(&mut fixture);
}

#[test]
fn a_refused_expansion_is_said_once_and_tried_again_after_a_while() {
    for (words, parts) in [
        (CLASS, vec![CLASS, "StorageClass fast", "Set allowVolumeExpansion to true", "etcd-warden.dev/replace=demo-0"]),
        (QUOTA, vec![QUOTA]),
    ] {
        let mut fixture = bootstrapped("storage: { storageClassName: fast }");
        fixture.growth = Growth::Refused(words);
        resize(&mut fixture, "16Gi");
        for _ in 0..3 {
            assert_eq!(objects(&fixture.pass().changes()).len(), 1);
        }
        let plan = fixture.changes();
        assert!(plan.is_empty() && plan.progress.is_empty(), "{plan:?}");
        let said = notes(&plan.problems, Reason::CannotExpandVolume);
        assert!(said.len() == 1 && said[0].contains("data-demo-0, data-demo-1, data-demo-2"), "{said:?}");
        assert!(parts.iter().all(|part| said[0].contains(part)), "{said:?}");
        assert_eq!(said[0].contains("allowVolumeExpansion"), words == CLASS);
        // Other work goes on.
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        fixture.settle();
        assert_eq!(changes(&fixture).iter().filter(|step| step.starts_with("RestartMember")).count(), 3);
        fixture.now += SECOND * 600;
        fixture.growth = Growth::Online;
        fixture.settle();
        assert_eq!(capacities(&fixture), ["16Gi"; 3]);
        assert_up_to_date(&mut fixture);
    }
}

#[test]
fn a_claim_that_was_expanded_by_hand_keeps_its_size() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let by_hand = |fixture: &mut Fixture, size: &str| {
        let spec = fixture.member(0).claim.as_mut().unwrap().spec.as_mut().unwrap();
        spec.resources.as_mut().unwrap().requests = Some([("storage".to_owned(), Quantity(size.into()))].into());
    };
    by_hand(&mut fixture, "100Gi");
    fixture.settle();
    assert_eq!(fixture.capacity(0), "100Gi");
    for size in ["16Gi", "100Gi", "102400Mi"] {
        resize(&mut fixture, size);
        fixture.settle();
        assert!(fixture.is_idle());
        assert_eq!(fixture.capacity(0), "100Gi");
    }
}

#[test]
fn a_claim_of_an_earlier_version_is_taken_for_one_of_the_current_spec() {
    let mut fixture = Fixture::bootstrapped("{}");
    for ordinal in 0..3 {
        fixture.member(ordinal).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::STORAGE);
    }
    fixture.settle();
    assert_up_to_date(&mut fixture);
    let recorded = fixture.member(0).claim.as_ref().unwrap().metadata.annotations.as_ref().unwrap()[key::STORAGE].clone();
    assert_eq!(recorded, r#"{"size":"8Gi"}"#);
}
