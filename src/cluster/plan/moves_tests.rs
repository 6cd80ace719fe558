use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;

use crate::{
    api::Reason,
    cluster::{
        fixtures::{World, names},
        plan::tests::{annotate, assert_up_to_date, bootstrapped, changes, notes, pass_until, scale},
    },
    names::annotation as key,
};

fn class(world: &mut World, class: &str) {
    world.cluster.spec.storage.storage_class_name = Some(class.into());
}

fn resize(world: &mut World, size: &str) {
    world.cluster.spec.storage.size = Quantity(size.into());
}

fn classes(world: &World) -> Vec<Option<String>> {
    let claims = world.observed.members.values().map(|member| member.claim.as_ref().unwrap());
    claims.map(|claim| claim.spec.as_ref().unwrap().storage_class_name.clone()).collect()
}

/// Makes passes until nothing is to be done, and returns the smallest number of healthy voters.
fn settle(world: &mut World) -> usize {
    let mut least = world.healthy_members();
    for _ in 0..400 {
        let before = world.observed.status.clone();
        let pass = world.pass();
        least = least.min(world.healthy_members());
        if pass.is_idle() && pass.report.status == before {
            break;
        }
    }
    assert_up_to_date(world);
    least
}

#[test]
fn another_minor_of_etcd_waits_until_the_members_are_replaced() {
    let mut world = bootstrapped(3);
    class(&mut world, "fast");
    world.cluster.spec.version = "3.7.3".into();
    settle(&mut world);
    assert!(classes(&world).iter().all(|class| class.as_deref() == Some("fast")));
    let versions: Vec<_> = world.observed.members.values().map(|member| member.version().unwrap().to_string()).collect();
    assert_eq!(versions, ["3.7.3"; 3]);
    let is_kind = |kind: &'static str| move |step: &String| step.starts_with(kind);
    let replaced = world.taken.iter().rposition(is_kind("RemoveMember")).unwrap();
    assert!(replaced < world.taken.iter().position(is_kind("RestartMember")).unwrap(), "{:?}", world.taken);
}

#[test]
fn members_with_another_class_are_replaced_one_after_the_other_and_the_new_one_joins_first() {
    for replicas in [1, 2, 3, 5] {
        let mut world = bootstrapped(replicas);
        class(&mut world, "fast");
        let least = settle(&mut world);
        assert_eq!(least, usize::try_from(replicas).unwrap(), "there are never fewer healthy voters");
        assert!(classes(&world).iter().all(|class| class.as_deref() == Some("fast")));
        let count = |step: &str| world.taken.iter().filter(|taken| taken.starts_with(step)).count();
        let all = usize::try_from(replicas).unwrap();
        assert_eq!((count("AddLearner"), count("Promote"), count("RemoveMember"), count("RestartMember")), (all, all, all, 0));
        assert!(count("MoveLeader") <= 1, "{:?}", world.taken);
    }
    let mut world = bootstrapped(3);
    world.leader = world.id(0);
    class(&mut world, "fast");
    assert_eq!(world.changes().change.as_deref(), Some("storage.storageClassName the default -> fast (0/3)"));
    settle(&mut world);
    let steps = changes(&world).into_iter().filter(|step| !step.starts_with("Delete")).collect::<Vec<_>>();
    let expected = [
        "AddLearner demo-3",
        "Promote demo-3",
        "RemoveMember demo-1",
        "AddLearner demo-1",
        "Promote demo-1",
        "RemoveMember demo-2",
        "AddLearner demo-2",
        "Promote demo-2",
        "MoveLeader demo-0",
        "RemoveMember demo-0",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn a_smaller_volume_is_one_of_a_new_member() {
    let mut world = bootstrapped(3);
    resize(&mut world, "4Gi");
    assert_eq!(settle(&mut world), 3);
    assert_eq!(world.ordinals().into_iter().map(|ordinal| world.capacity(ordinal)).collect::<Vec<_>>(), ["4Gi"; 3]);
}

#[test]
fn a_volume_that_is_too_small_for_the_data_is_refused_and_a_new_member_gets_the_old_size() {
    let mut world = bootstrapped(3);
    resize(&mut world, "400Mi");
    for _ in 0..5 {
        world.pass();
    }
    let plan = world.changes();
    let said = notes(&plan.problems, Reason::CannotReplace);
    assert!(said.len() == 1 && said[0].contains("has up to 1Mi") && said[0].contains("448Mi"), "{said:?}");
    assert!(plan.is_empty() && plan.progress.is_empty(), "{plan:?}");
    scale(&mut world, 4);
    world.settle();
    assert_eq!(world.capacity(3), "8Gi");
    // It is possible now.
    resize(&mut world, "512Mi");
    assert_eq!(settle(&mut world), 4);
    assert_eq!(world.ordinals().into_iter().map(|ordinal| world.capacity(ordinal)).collect::<Vec<_>>(), ["512Mi"; 4]);
}

#[test]
fn nothing_is_replaced_while_a_member_is_down() {
    let mut world = bootstrapped(3);
    world.stop(1);
    world.pass();
    class(&mut world, "fast");
    for _ in 0..10 {
        assert_eq!(world.pass().changes().step, None);
    }
    let plan = world.changes();
    assert_eq!(notes(&plan.problems, Reason::CannotReplace).len(), 1, "{plan:?}");
    world.down.clear();
    settle(&mut world);
    // Nor is the one that goes down meanwhile removed for that.
    let mut world = bootstrapped(3);
    class(&mut world, "fast");
    pass_until(&mut world, "RemoveMember demo-1");
    pass_until(&mut world, "Promote demo-1");
    world.stop(3);
    for _ in 0..20 {
        world.pass();
    }
    assert_eq!(world.ordinals(), [0, 1, 2, 3]);
    world.down.clear();
    settle(&mut world);
}

#[test]
fn a_change_that_is_taken_back_halfway_is_undone() {
    for passes in (0..50).step_by(3) {
        let mut world = bootstrapped(3);
        class(&mut world, "fast");
        for _ in 0..passes {
            world.pass();
        }
        world.cluster.spec.storage.storage_class_name = None;
        assert!(settle(&mut world) >= 3, "after {passes} passes");
        assert!(classes(&world).iter().all(Option::is_none), "after {passes} passes");
    }
}

#[test]
fn a_lost_member_is_replaced_as_ever_while_others_have_to_change() {
    let mut world = bootstrapped(3);
    class(&mut world, "fast");
    pass_until(&mut world, "AddLearner demo-3");
    world.lose(1);
    settle(&mut world);
    assert!(classes(&world).iter().all(|class| class.as_deref() == Some("fast")));
}

#[derive(Clone, Debug)]
enum Fault {
    Class(bool),
    Scale(i32),
    Lose(usize),
    Stop(usize),
    Repair,
    Replace(u32),
    Restart(u8),
    LoseStep,
    Die(usize),
    Pass(usize),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        3 => any::<bool>().prop_map(Fault::Class),
        1 => (1..5).prop_map(Fault::Scale),
        1 => (0..5_usize).prop_map(Fault::Lose),
        1 => (0..5_usize).prop_map(Fault::Stop),
        2 => Just(Fault::Repair),
        1 => (0..5_u32).prop_map(Fault::Replace),
        1 => any::<u8>().prop_map(Fault::Restart),
        1 => Just(Fault::LoseStep),
        1 => (0..6_usize).prop_map(Fault::Die),
        8 => (1..12_usize).prop_map(Fault::Pass),
    ];
    prop::collection::vec(fault, 1..14)
}

fn inject(world: &mut World, fault: &Fault) {
    match fault {
        Fault::Class(is_fast) => world.cluster.spec.storage.storage_class_name = is_fast.then(|| "fast".into()),
        Fault::Scale(replicas) => scale(world, *replicas),
        Fault::Lose(position) | Fault::Stop(position) => {
            // The others are a quorum without it.
            let Some(ordinal) = world.ordinals().get(*position).copied() else { return };
            let voters = world.ordinals().len();
            if world.healthy_members() == voters && voters > 2 {
                if matches!(fault, Fault::Lose(_)) { world.lose(ordinal) } else { world.stop(ordinal) }
            }
        }
        Fault::Repair => world.down.clear(),
        Fault::Replace(ordinal) => annotate(world, key::REPLACE, names().member(*ordinal).as_str()),
        Fault::Restart(at) => annotate(world, key::RESTARTED_AT, &at.to_string()),
        Fault::LoseStep => world.loses_next_step = true,
        Fault::Die(writes) => {
            world.dies_after = Some(*writes);
            for _ in 0..4 {
                world.pass();
            }
            world.dies_after = None;
        }
        Fault::Pass(passes) => (0..*passes).for_each(|_| drop(world.pass())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn storage_converges_after_any_faults(replicas in 1..5, faults in faults()) {
        let mut world = bootstrapped(replicas);
        for fault in &faults {
            inject(&mut world, fault);
        }
        world.down.clear();
        world.loses_next_step = false;
        for _ in 0..100 {
            world.pass();
        }
        if let Some(annotations) = &mut world.cluster.metadata.annotations {
            annotations.remove(key::REPLACE);
        }
        settle(&mut world);
        let desired = world.cluster.spec.storage.storage_class_name.clone();
        prop_assert!(classes(&world).iter().all(|class| *class == desired));
    }
}
