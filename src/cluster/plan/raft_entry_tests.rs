//! Members that wait for an entry of raft's log.

use crate::{
    cluster::{
        fixtures::{Fixture, names},
        plan::tests::{bootstrapped, pass_until, scale},
    },
    names::MemberName,
};

/// The member that is asked for an entry, and whether the status says so of the waiting member.
fn asked(fixture: &mut Fixture, waiting: u32) -> (Option<MemberName>, bool) {
    let plan = fixture.changes();
    let name = names().member(waiting);
    let is_said = |message: &str| message.starts_with(name.as_str()) && message.contains("it may wait for the next write");
    (plan.raft_entry.clone(), plan.progress.iter().any(|note| is_said(&note.message)))
}

#[test]
fn the_leader_is_asked_in_each_pass_until_a_new_member_answers() {
    let mut fixture = bootstrapped(3);
    fixture.leader = fixture.id(1);
    scale(&mut fixture, 5);
    let (leader, new) = (names().member(1), names().member(3));
    fixture.silent.insert(new.clone());
    pass_until(&mut fixture, "AddLearner demo-3");
    assert_eq!(asked(&mut fixture, 3), (None, false), "it does not run yet");
    for _ in 0..10 {
        fixture.pass();
    }
    assert!(fixture.member(3).pod.is_some());
    for _ in 0..3 {
        assert_eq!(asked(&mut fixture, 3), (Some(leader.clone()), true));
        assert!(!fixture.pass().is_idle());
    }
    fixture.silent.remove(&new);
    assert_eq!(asked(&mut fixture, 3), (None, false));
    pass_until(&mut fixture, "Promote demo-3");
}

#[test]
fn nothing_is_asked_of_a_cluster_whose_members_answer_or_are_down() {
    let mut fixture = bootstrapped(3);
    assert_eq!(asked(&mut fixture, 2).0, None);
    fixture.stop(2);
    assert_eq!(asked(&mut fixture, 2).0, None, "it has no pod");
    let mut fixture = bootstrapped(3);
    fixture.crash(2);
    assert_eq!(asked(&mut fixture, 2).0, None, "its container does not run");
    let mut fixture = bootstrapped(3);
    fixture.silent.insert(names().member(2));
    assert_eq!(asked(&mut fixture, 2).0, None, "its pod is ready, so it has served before");
}
