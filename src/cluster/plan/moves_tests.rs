use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use proptest::prelude::*;

use crate::{
    api::Reason,
    cluster::{
        fixtures::{Fixture, names},
        plan::tests::{annotate, assert_up_to_date, bootstrapped, changes, notes, pass_until, scale},
    },
    names::annotation as key,
};

fn class(fixture: &mut Fixture, class: &str) {
    fixture.cluster.spec.storage.storage_class_name = Some(class.into());
}

fn resize(fixture: &mut Fixture, size: &str) {
    fixture.cluster.spec.storage.size = Quantity(size.into());
}

fn classes(fixture: &Fixture) -> Vec<Option<String>> {
    let claims = fixture.observed.members.values().map(|member| member.claim.as_ref().unwrap());
    claims.map(|claim| claim.spec.as_ref().unwrap().storage_class_name.clone()).collect()
}

/// Makes passes until nothing is to be done, and returns the smallest number of healthy voters.
fn settle(fixture: &mut Fixture) -> usize {
    let mut least = fixture.healthy_members();
    for _ in 0..400 {
        let before = fixture.observed.status.clone();
        let pass = fixture.pass();
        least = least.min(fixture.healthy_members());
        if pass.is_idle() && pass.report.status == before {
            break;
        }
    }
    assert_up_to_date(fixture);
    least
}

#[test]
fn another_minor_of_etcd_waits_until_the_members_are_replaced() {
    let mut fixture = bootstrapped(3);
    class(&mut fixture, "fast");
    fixture.cluster.spec.version = "3.7.3".into();
    settle(&mut fixture);
    assert!(classes(&fixture).iter().all(|class| class.as_deref() == Some("fast")));
    let versions: Vec<_> = fixture.observed.members.values().map(|member| member.version().unwrap().to_string()).collect();
    assert_eq!(versions, ["3.7.3"; 3]);
    let is_kind = |kind: &'static str| move |step: &String| step.starts_with(kind);
    let replaced = fixture.taken.iter().rposition(is_kind("RemoveMember")).unwrap();
    assert!(replaced < fixture.taken.iter().position(is_kind("RestartMember")).unwrap(), "{:?}", fixture.taken);
}

#[test]
fn members_with_another_class_are_replaced_one_after_the_other_and_the_new_one_joins_first() {
    for replicas in [1, 2, 3, 5] {
        let mut fixture = bootstrapped(replicas);
        class(&mut fixture, "fast");
        let least = settle(&mut fixture);
        assert_eq!(least, usize::try_from(replicas).unwrap(), "there are never fewer healthy voters");
        assert!(classes(&fixture).iter().all(|class| class.as_deref() == Some("fast")));
        let count = |step: &str| fixture.taken.iter().filter(|taken| taken.starts_with(step)).count();
        let all = usize::try_from(replicas).unwrap();
        assert_eq!((count("AddLearner"), count("Promote"), count("RemoveMember"), count("RestartMember")), (all, all, all, 0));
        assert!(count("MoveLeader") <= 1, "{:?}", fixture.taken);
    }
    let mut fixture = bootstrapped(3);
    fixture.leader = fixture.id(0);
    class(&mut fixture, "fast");
    assert_eq!(fixture.changes().change.as_deref(), Some("storage.storageClassName the default -> fast (0/3)"));
    settle(&mut fixture);
    let steps = changes(&fixture).into_iter().filter(|step| !step.starts_with("Delete")).collect::<Vec<_>>();
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
    let mut fixture = bootstrapped(3);
    resize(&mut fixture, "4Gi");
    assert_eq!(settle(&mut fixture), 3);
    assert_eq!(fixture.ordinals().into_iter().map(|ordinal| fixture.capacity(ordinal)).collect::<Vec<_>>(), ["4Gi"; 3]);
}

#[test]
fn a_volume_that_is_too_small_for_the_data_is_refused_and_a_new_member_gets_the_old_size() {
    let mut fixture = bootstrapped(3);
    resize(&mut fixture, "400Mi");
    for _ in 0..5 {
        fixture.pass();
    }
    let plan = fixture.changes();
    let said = notes(&plan.problems, Reason::CannotReplace);
    assert!(said.len() == 1 && said[0].contains("has up to 1Mi") && said[0].contains("448Mi"), "{said:?}");
    assert!(plan.is_empty() && plan.progress.is_empty(), "{plan:?}");
    scale(&mut fixture, 4);
    fixture.settle();
    assert_eq!(fixture.capacity(3), "8Gi");
    // It is possible now.
    resize(&mut fixture, "512Mi");
    assert_eq!(settle(&mut fixture), 4);
    assert_eq!(fixture.ordinals().into_iter().map(|ordinal| fixture.capacity(ordinal)).collect::<Vec<_>>(), ["512Mi"; 4]);
}

#[test]
fn nothing_is_replaced_while_a_member_is_down() {
    let mut fixture = bootstrapped(3);
    fixture.stop(1);
    fixture.pass();
    class(&mut fixture, "fast");
    for _ in 0..10 {
        assert_eq!(fixture.pass().changes().step, None);
    }
    let plan = fixture.changes();
    assert_eq!(notes(&plan.problems, Reason::CannotReplace).len(), 1, "{plan:?}");
    fixture.down.clear();
    settle(&mut fixture);
    // Nor is the one that goes down meanwhile removed for that.
    let mut fixture = bootstrapped(3);
    class(&mut fixture, "fast");
    pass_until(&mut fixture, "RemoveMember demo-1");
    pass_until(&mut fixture, "Promote demo-1");
    fixture.stop(3);
    for _ in 0..20 {
        fixture.pass();
    }
    assert_eq!(fixture.ordinals(), [0, 1, 2, 3]);
    fixture.down.clear();
    settle(&mut fixture);
}

#[test]
fn a_change_that_is_taken_back_halfway_is_undone() {
    for passes in (0..50).step_by(3) {
        let mut fixture = bootstrapped(3);
        class(&mut fixture, "fast");
        for _ in 0..passes {
            fixture.pass();
        }
        fixture.cluster.spec.storage.storage_class_name = None;
        assert!(settle(&mut fixture) >= 3, "after {passes} passes");
        assert!(classes(&fixture).iter().all(Option::is_none), "after {passes} passes");
    }
}

#[test]
fn a_lost_member_is_replaced_as_ever_while_others_have_to_change() {
    let mut fixture = bootstrapped(3);
    class(&mut fixture, "fast");
    pass_until(&mut fixture, "AddLearner demo-3");
    fixture.lose(1);
    settle(&mut fixture);
    assert!(classes(&fixture).iter().all(|class| class.as_deref() == Some("fast")));
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

fn inject(fixture: &mut Fixture, fault: &Fault) {
    match fault {
        Fault::Class(is_fast) => fixture.cluster.spec.storage.storage_class_name = is_fast.then(|| "fast".into()),
        Fault::Scale(replicas) => scale(fixture, *replicas),
        Fault::Lose(position) | Fault::Stop(position) => {
            // The others are a quorum without it.
            let Some(ordinal) = fixture.ordinals().get(*position).copied() else { return };
            let voters = fixture.ordinals().len();
            if fixture.healthy_members() == voters && voters > 2 {
                if matches!(fault, Fault::Lose(_)) { fixture.lose(ordinal) } else { fixture.stop(ordinal) }
            }
        }
        Fault::Repair => fixture.down.clear(),
        Fault::Replace(ordinal) => annotate(fixture, key::REPLACE, names().member(*ordinal).as_str()),
        Fault::Restart(at) => annotate(fixture, key::RESTARTED_AT, &at.to_string()),
        Fault::LoseStep => fixture.loses_next_step = true,
        Fault::Die(writes) => {
            fixture.dies_after = Some(*writes);
            for _ in 0..4 {
                fixture.pass();
            }
            fixture.dies_after = None;
        }
        Fault::Pass(passes) => (0..*passes).for_each(|_| drop(fixture.pass())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn storage_converges_after_any_faults(replicas in 1..5, faults in faults()) {
        let mut fixture = bootstrapped(replicas);
        for fault in &faults {
            inject(&mut fixture, fault);
        }
        fixture.down.clear();
        fixture.loses_next_step = false;
        for _ in 0..100 {
            fixture.pass();
        }
        if let Some(annotations) = &mut fixture.cluster.metadata.annotations {
            annotations.remove(key::REPLACE);
        }
        settle(&mut fixture);
        let desired = fixture.cluster.spec.storage.storage_class_name.clone();
        prop_assert!(classes(&fixture).iter().all(|class| *class == desired));
    }
}
