//! Members that wait for an entry of raft's log.

use crate::{
    cluster::{
        fixtures::{World, names},
        plan::tests::{bootstrapped, pass_until, scale},
    },
    names::MemberName,
};

/// The member that is asked for an entry, and whether the status says so of the waiting member.
fn asked(world: &mut World, waiting: u32) -> (Option<MemberName>, bool) {
    let plan = world.changes();
    let name = names().member(waiting);
    let is_said = |message: &str| message.starts_with(name.as_str()) && message.contains("it may wait for the next write");
    (plan.raft_entry.clone(), plan.progress.iter().any(|note| is_said(&note.message)))
}

#[test]
fn the_leader_is_asked_in_each_pass_until_a_new_member_answers() {
    let mut world = bootstrapped(3);
    world.leader = world.id(1);
    scale(&mut world, 5);
    let (leader, new) = (names().member(1), names().member(3));
    world.silent.insert(new.clone());
    pass_until(&mut world, "AddLearner demo-3");
    assert_eq!(asked(&mut world, 3), (None, false), "it does not run yet");
    for _ in 0..10 {
        world.pass();
    }
    assert!(world.member(3).pod.is_some());
    for _ in 0..3 {
        assert_eq!(asked(&mut world, 3), (Some(leader.clone()), true));
        assert!(!world.pass().is_idle());
    }
    world.silent.remove(&new);
    assert_eq!(asked(&mut world, 3), (None, false));
    pass_until(&mut world, "Promote demo-3");
}

#[test]
fn nothing_is_asked_of_a_cluster_whose_members_answer_or_are_down() {
    let mut world = bootstrapped(3);
    assert_eq!(asked(&mut world, 2).0, None);
    world.stop(2);
    assert_eq!(asked(&mut world, 2).0, None, "it has no pod");
    let mut world = bootstrapped(3);
    world.crash(2);
    assert_eq!(asked(&mut world, 2).0, None, "its container does not run");
    let mut world = bootstrapped(3);
    world.silent.insert(names().member(2));
    assert_eq!(asked(&mut world, 2).0, None, "its pod is ready, so it has served before");
}
