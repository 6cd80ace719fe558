use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::{
    api::Reason,
    cluster::{
        fixtures::{Growth, SECOND, World, objects},
        plan::tests::{ONE, annotate, assert_up_to_date, changes, notes},
    },
    names::annotation as key,
};

const CLASS: &str = "persistentvolumeclaims \"data-demo-0\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
const QUOTA: &str = "persistentvolumeclaims \"data-demo-0\" is forbidden: exceeded quota: team, requested: requests.storage=8Gi, used: requests.storage=24Gi, limited: requests.storage=30Gi";

fn bootstrapped(spec: &str) -> World {
    let mut world = World::bootstrapped(spec);
    world.taken.clear();
    world
}

fn resize(world: &mut World, size: &str) {
    world.cluster.spec.storage.size = Quantity(size.into());
}

fn capacities(world: &World) -> Vec<String> {
    (0..3).map(|ordinal| world.capacity(ordinal)).collect()
}

#[test]
fn volumes_are_expanded_one_after_the_other_and_no_member_is_restarted() {
    let mut world = bootstrapped("{}");
    resize(&mut world, "16Gi");
    let mut seen = vec![];
    while !world.is_idle() || !world.changes().progress.is_empty() {
        seen.push(capacities(&world));
        world.pass();
    }
    seen.push(capacities(&world));
    seen.dedup();
    assert_eq!(seen, [["8Gi", "8Gi", "8Gi"], ["16Gi", "8Gi", "8Gi"], ["16Gi", "16Gi", "8Gi"], ["16Gi", "16Gi", "16Gi"]]);
    assert!(world.taken.is_empty(), "{:?}", world.taken);
    assert_up_to_date(&mut world);
}

#[test]
fn the_next_volume_waits_until_the_one_before_has_its_size() {
    let mut world = bootstrapped("{}");
    world.growth = Growth::Ignored;
    resize(&mut world, "16Gi");
    for _ in 0..10 {
        world.pass();
    }
    let plan = world.changes();
    assert!(plan.is_empty(), "{:?}", objects(&plan));
    let expected = "the volume of PersistentVolumeClaim data-demo-0 is being expanded from 8Gi to 16Gi";
    assert_eq!(notes(&plan.progress, Reason::ExpandingVolume), [expected]);
    assert_eq!(plan.change.as_deref(), Some("storage.size 8Gi -> 16Gi (0/3)"));
    // The way back: the API server does not accept the old size any more, and the volumes have it.
    resize(&mut world, "8Gi");
    world.pass();
    assert!(world.changes().progress.is_empty());
    resize(&mut world, "16Gi");
    // Other work goes on.
    annotate(&mut world, key::REPLACE, "demo-2");
    for _ in 0..40 {
        world.pass();
    }
    assert_eq!(changes(&world)[0], "RemoveMember demo-2");
    assert_eq!(world.capacity(2), "16Gi", "a new member has the new size at once");
}

#[test]
fn the_volume_of_a_member_that_is_down_is_expanded_first() {
    let mut world = bootstrapped("{}");
    world.stop(2);
    world.growth = Growth::Ignored;
    resize(&mut world, "16Gi");
    assert_eq!(objects(&world.changes()), ["PersistentVolumeClaim data-demo-2"]);
}

#[test]
fn a_member_is_restarted_if_its_file_system_is_expanded_only_at_a_start() {
    let mut world = bootstrapped("{}");
    world.growth = Growth::AtStart;
    world.leader = world.id(2);
    resize(&mut world, "16Gi");
    let mut passes = 0;
    while world.taken.is_empty() {
        world.pass();
        passes += 1;
    }
    assert!(passes > 60, "the kubelet had {passes} s to do it while the pod runs");
    assert_eq!(world.taken, ["RestartMember demo-0"]);
    for _ in 0..600 {
        world.pass();
    }
    assert_eq!(world.taken[1..], ["RestartMember demo-1", "MoveLeader demo-2", "RestartMember demo-2"]);
    assert_eq!(capacities(&world), ["16Gi"; 3]);
    assert_up_to_date(&mut world);
}

#[test]
fn what_a_driver_fails_to_do_can_be_taken_back_in_part() {
    let mut world = bootstrapped("{}");
    world.growth = Growth::AtMost("12Gi");
    resize(&mut world, "16Gi");
    for _ in 0..5 {
        world.pass();
    }
    let plan = world.changes();
    assert!(plan.is_empty(), "{:?}", objects(&plan));
    let said = notes(&plan.problems, Reason::CannotExpandVolume);
    assert!(said[0].contains("data-demo-0 was not expanded to 16Gi: that is too large"), "{said:?}");
    resize(&mut world, "10Gi");
    world.settle();
    assert_eq!(capacities(&world), ["10Gi"; 3]);
    assert_up_to_date(&mut world);
}

#[test]
fn a_refused_expansion_is_said_once_and_tried_again_after_a_while() {
    for (words, parts) in [
        (CLASS, vec![CLASS, "StorageClass fast", "Set allowVolumeExpansion to true", "etcd-warden.dev/replace=demo-0"]),
        (QUOTA, vec![QUOTA]),
    ] {
        let mut world = bootstrapped("storage: { storageClassName: fast }");
        world.growth = Growth::Refused(words);
        resize(&mut world, "16Gi");
        for _ in 0..3 {
            assert_eq!(objects(&world.pass().changes()).len(), 1);
        }
        let plan = world.changes();
        assert!(plan.is_empty() && plan.progress.is_empty(), "{plan:?}");
        let said = notes(&plan.problems, Reason::CannotExpandVolume);
        assert!(said.len() == 1 && said[0].contains("data-demo-0, data-demo-1, data-demo-2"), "{said:?}");
        assert!(parts.iter().all(|part| said[0].contains(part)), "{said:?}");
        assert_eq!(said[0].contains("allowVolumeExpansion"), words == CLASS);
        // Other work goes on.
        annotate(&mut world, key::RESTARTED_AT, "now");
        world.settle();
        assert_eq!(changes(&world).iter().filter(|step| step.starts_with("RestartMember")).count(), 3);
        world.now += SECOND * 600;
        world.growth = Growth::Online;
        world.settle();
        assert_eq!(capacities(&world), ["16Gi"; 3]);
        assert_up_to_date(&mut world);
    }
}

#[test]
fn a_claim_that_was_expanded_by_hand_keeps_its_size() {
    let mut world = World::bootstrapped(ONE);
    let by_hand = |world: &mut World, size: &str| {
        let spec = world.member(0).claim.as_mut().unwrap().spec.as_mut().unwrap();
        spec.resources.as_mut().unwrap().requests = Some([("storage".to_owned(), Quantity(size.into()))].into());
    };
    by_hand(&mut world, "100Gi");
    world.settle();
    assert_eq!(world.capacity(0), "100Gi");
    for size in ["16Gi", "100Gi", "102400Mi"] {
        resize(&mut world, size);
        world.settle();
        assert!(world.is_idle());
        assert_eq!(world.capacity(0), "100Gi");
    }
}

#[test]
fn a_claim_of_an_earlier_version_is_taken_for_one_of_the_current_spec() {
    let mut world = World::bootstrapped("{}");
    for ordinal in 0..3 {
        world.member(ordinal).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::STORAGE);
    }
    world.settle();
    assert_up_to_date(&mut world);
    let recorded = world.member(0).claim.as_ref().unwrap().metadata.annotations.as_ref().unwrap()[key::STORAGE].clone();
    assert_eq!(recorded, r#"{"size":"8Gi"}"#);
}
