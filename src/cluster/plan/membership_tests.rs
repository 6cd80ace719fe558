//! Members are added, removed, replaced and restarted in a world with etcd's rules. The world itself checks the safety rules at
//! every step.

use std::{collections::BTreeSet, fmt::Debug};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::{AT_ONCE, JUST_STARTED, SOON};
use crate::{
    api::{ConditionType, Reason, condition},
    cluster::{
        fixtures::{World, names},
        observed::Probe,
        plan::tests::{annotate, assert_up_to_date, bootstrapped, changes, delete_claim, notes, pass_until, scale, scale_to},
    },
    etcd,
    ids::MemberId,
    names::{annotation as key, member_key},
    pki::crl_serials,
};

// Scaling.

#[test]
fn scaling_up_adds_one_learner_after_the_other() {
    let mut world = bootstrapped(1);
    scale_to(&mut world, 3);
    assert_eq!(changes(&world), ["AddLearner demo-1", "Promote demo-1", "AddLearner demo-2", "Promote demo-2"]);
}

#[test]
fn a_learner_starts_with_the_list_of_etcd_and_is_promoted_once_recorded() {
    let mut world = bootstrapped(1);
    scale(&mut world, 3);
    pass_until(&mut world, "AddLearner demo-1");
    world.pass();
    let data = world.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
    let url = |ordinal| names().initial_entry(&names().member(ordinal));
    assert_eq!(data["demo-1.cluster"], format!("{},{}", url(0), url(1)));
    assert_eq!((data["demo-1.state"].as_str(), data["demo-0.cluster"].clone()), ("existing", url(0)));
    pass_until(&mut world, "Promote demo-1");
    let before = world.taken.iter().position(|step| step == "RecordMembers").unwrap();
    let vote = world.taken.iter().position(|step| step == "Promote demo-1").unwrap();
    assert!(before < vote, "{:?}", world.taken);
}

#[test]
fn a_learner_is_asked_more_often_right_after_its_start() {
    let mut world = bootstrapped(1);
    scale(&mut world, 3);
    pass_until(&mut world, "AddLearner demo-1");
    let name = names().member(1);
    while world.observed.members.get(&name).is_none_or(|member| member.pod.is_none()) {
        world.pass();
    }
    world.observed.members.get_mut(&name).unwrap().etcd = Probe::Unreachable("connection refused".into());
    assert_eq!(world.plan_on(&world.observed).next_check(), AT_ONCE);
    world.now += JUST_STARTED;
    assert_eq!(world.plan_on(&world.observed).next_check(), SOON);
}

#[test]
fn a_cluster_can_be_scaled_from_any_size_to_any_other() {
    for from in 1..=9 {
        for replicas in (1..=9).filter(|replicas| *replicas != from) {
            let mut world = bootstrapped(from);
            assert_up_to_date(&mut world);
            scale_to(&mut world, replicas);
        }
    }
}

#[test]
fn scaling_down_removes_the_last_member_first_after_moving_leadership() {
    let mut world = bootstrapped(3);
    world.leader = world.id(2);
    scale_to(&mut world, 1);
    let expected = [
        "MoveLeader demo-2",
        "RemoveMember demo-2",
        "DeleteStatefulSet demo-2",
        "DeleteClaim demo-2",
        "RemoveMember demo-1",
        "DeleteBudget",
        "DeleteStatefulSet demo-1",
        "DeleteClaim demo-1",
    ];
    assert_eq!(changes(&world).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    assert_eq!(changes(&world)[..2], expected[..2]);
    assert_eq!(world.ordinals(), [0]);
}

#[test]
fn scaling_down_removes_an_unhealthy_member_first() {
    let mut world = bootstrapped(5);
    world.stop(1);
    scale(&mut world, 3);
    for _ in 0..40 {
        world.pass();
    }
    assert_eq!(world.ordinals(), [0, 2, 3]);
    assert_eq!(changes(&world)[0], "RemoveMember demo-1");
    world.down.clear();
    scale_to(&mut world, 4);
    assert_eq!(world.ordinals(), [0, 1, 2, 3], "the lowest free ordinal is used");
}

#[test]
fn a_change_of_replicas_while_scaling_takes_effect_at_the_next_step() {
    for passes in 0..24 {
        let mut world = bootstrapped(3);
        scale(&mut world, 5);
        for _ in 0..passes {
            world.pass();
        }
        scale_to(&mut world, [1, 2, 3][passes % 3]);
    }
    let mut world = bootstrapped(3);
    scale(&mut world, 5);
    pass_until(&mut world, "AddLearner demo-3");
    scale_to(&mut world, 3);
    assert_eq!(changes(&world), ["AddLearner demo-3", "RemoveMember demo-3", "DeleteClaim demo-3"]);
}

#[test]
fn no_member_is_added_or_removed_while_a_desired_member_is_down() {
    let mut world = bootstrapped(3);
    world.stop(0);
    scale(&mut world, 5);
    for _ in 0..10 {
        let plan = world.pass().changes();
        assert_eq!(plan.step, None);
        let reported = notes(&plan.problems, Reason::CannotScaleUp);
        assert!(reported.len() == 1 && reported[0].ends_with("replaced first (demo-0: it has no pod yet)"), "{reported:?}");
    }
    let deleting = world.member(1).pod.clone().map(|mut pod| {
        pod.spec.as_mut().unwrap().node_name = Some("n1".into());
        pod.metadata.deletion_timestamp = Some(Time(world.now));
        pod
    });
    world.member(0).pod = deleting;
    let reported = notes(&world.changes().problems, Reason::CannotScaleUp);
    assert!(reported[0].contains("(demo-0: its pod is being deleted on node n1"), "{reported:?}");
    let pod = world.member(0).pod.as_mut().unwrap();
    (pod.metadata.deletion_timestamp, pod.status) = (None, None);
    let reported = notes(&world.changes().problems, Reason::CannotScaleUp);
    assert!(reported[0].contains("; its node is n1"), "{reported:?}");
    world.member(0).pod = None;
    world.down.clear();
    world.settle();
    assert_up_to_date(&mut world);
}

#[test]
fn operations_in_progress_report_since_when() {
    let mut world = bootstrapped(3);
    world.silent.insert(names().member(0));
    scale(&mut world, 4);
    let since = world.now;
    world.pass();
    let expected = format!("from 3 to 4 members (since {since}); next: demo-3");
    assert_eq!(notes(&world.pass().changes().progress, Reason::ScalingUp), [expected]);
    world.silent.clear();
    world.catching_up = 5;
    pass_until(&mut world, "AddLearner demo-3");
    let since = world.now;
    for _ in 0..4 {
        world.pass();
    }
    let expected = format!("demo-3 is a learner (since {since})");
    assert_eq!(notes(&world.changes().progress, Reason::CatchingUp), [expected]);

    // An operation that follows immediately has its own start time.
    annotate(&mut world, key::RESTARTED_AT, "now");
    world.catching_up = 0;
    while notes(&world.changes().progress, Reason::RollingRestart).is_empty()
        || !notes(&world.changes().progress, Reason::CatchingUp).is_empty()
    {
        world.pass();
    }
    let started = world.now;
    world.pass();
    let reported = notes(&world.changes().progress, Reason::RollingRestart).join("; ");
    assert!(reported.contains(&format!("(since {started})")), "{reported}");
}

/// The first note determines the reason that `kubectl get` shows.
#[test]
fn scaling_up_and_restarting_have_reasons_of_their_own() {
    let mut world = bootstrapped(3);
    let reason = |world: &mut World| {
        let status = world.report().status;
        condition(&status.conditions, ConditionType::Progressing).map(|it| Reason::parse(&it.reason).unwrap()).unwrap()
    };
    let mut shown = vec![];
    world.catching_up = 3;
    scale(&mut world, 4);
    while !world.is_idle() || !world.changes().progress.is_empty() {
        shown.push(reason(&mut world));
        world.pass();
    }
    shown.dedup();
    // In between, its ID is recorded, in a pass that does nothing else.
    assert_eq!(
        shown,
        [Reason::ScalingUp, Reason::Joining, Reason::WaitingForMembers, Reason::CatchingUp, Reason::ApplyingObjects]
    );
    world.leader = world.id(0);
    annotate(&mut world, key::RESTARTED_AT, "now");
    pass_until(&mut world, "RestartMember demo-1");
    world.pass();
    assert_eq!(reason(&mut world), Reason::RollingRestart);
}

#[test]
fn an_even_number_of_members_is_reported() {
    for (replicas, expected) in [
        (3, "3 of 3 voters are healthy"),
        (4, "4 of 4 voters are healthy; an even number of members (4) tolerates no more failures than 3"),
    ] {
        let status = bootstrapped(replicas).report().status;
        assert_eq!(condition(&status.conditions, ConditionType::Available).unwrap().message, expected);
    }
}

// Replacing.

#[test]
fn a_member_that_lost_its_claim_is_replaced_and_its_certificates_are_revoked() {
    for (lost, leads) in [(1, 0), (0, 0), (2, 1)] {
        let mut world = bootstrapped(3);
        world.leader = world.id(leads);
        let old = world.member(lost).secret.clone().unwrap();
        let id = world.id(lost);
        world.lose(lost);
        world.settle();
        assert_up_to_date(&mut world);
        assert_ne!(world.id(lost), id);
        let expected = ["RemoveMember", "DeleteStatefulSet", "AddLearner", "Promote"].map(|step| format!("{step} demo-{lost}"));
        assert_eq!(changes(&world), expected);
        assert_eq!(world.taken.iter().filter(|step| *step == "Revoke").count(), 2, "one domain, then the other");
        for (keys, crl) in [
            ([member_key::SERVER_CRT, member_key::CLIENT_CRT].as_slice(), member_key::CLIENT_CRL),
            ([member_key::PEER_CRT].as_slice(), member_key::PEER_CRL),
        ] {
            for ordinal in 0..3 {
                let listed = crl_serials(&world.member(ordinal).secret.as_ref().unwrap().data[crl]).unwrap();
                for key in keys {
                    assert!(listed.contains(&old.certificate(key).unwrap().unwrap().serial()), "{key} is not on {crl}");
                }
            }
        }
    }
}

#[test]
fn a_recorded_id_is_compared_by_value() {
    let mut world = bootstrapped(3);
    let id = world.id(1);
    let claim = world.member(1).claim.as_mut().unwrap();
    claim.metadata.annotations.as_mut().unwrap().insert(key::MEMBER_ID.into(), format!("{:020X}", id.0));
    world.stop(1);
    for _ in 0..10 {
        assert_eq!(world.pass().changes().step, None);
    }
}

#[test]
fn two_of_five_are_replaced() {
    let mut world = bootstrapped(5);
    world.lose(1);
    world.lose(3);
    world.settle();
    assert_up_to_date(&mut world);
    assert_eq!(world.ordinals(), [0, 1, 2, 3, 4]);
}

#[test]
fn nothing_is_done_without_quorum() {
    let mut world = bootstrapped(3);
    world.lose(1);
    world.lose(2);
    for _ in 0..10 {
        let pass = world.pass();
        assert!(pass.is_idle(), "{:?}", pass.plan);
        let available = condition(&pass.report.status.conditions, ConditionType::Available).unwrap();
        assert_eq!((available.status.as_str(), available.reason.as_str()), ("False", Reason::QuorumLost.as_str()));
        assert_eq!(notes(&pass.changes().problems, Reason::ClaimLost).len(), 2);
    }
    assert_eq!(changes(&world), Vec::<&str>::new());
}

#[test]
fn a_member_is_not_replaced_if_that_would_cost_the_quorum() {
    // Three of five are healthy: a dead member may be removed, but not a healthy one that the user names.
    let mut world = bootstrapped(5);
    world.stop(1);
    world.stop(2);
    annotate(&mut world, key::REPLACE, "demo-3");
    let assert_cannot_replace = |world: &mut World, cause: &str| {
        for _ in 0..5 {
            let plan = world.pass().changes();
            assert_eq!(plan.step, None);
            let reported = notes(&plan.problems, Reason::CannotReplace);
            assert!(reported.len() == 1 && reported[0].contains(cause), "{reported:?}");
        }
    };
    assert_cannot_replace(&mut world, "but only 2 of the 4 others are healthy: removing it would cost the quorum");
    world.down.remove(&names().member(2));
    assert_cannot_replace(
        &mut world,
        "but it is healthy, and only 3 of the 4 others are: those that are down must come back or be replaced first",
    );
    let mut world = bootstrapped(1);
    annotate(&mut world, key::REPLACE, "demo-0");
    assert_cannot_replace(&mut world, "but it is the only voter. Set spec.replicas to 3 first");
}

#[test]
fn a_member_is_replaced_once_on_request() {
    for member in ["demo-0", "demo-2"] {
        let mut world = bootstrapped(3);
        world.pass();
        annotate(&mut world, key::REPLACE, member);
        world.settle();
        assert_up_to_date(&mut world);
        assert_eq!(world.cluster.metadata.annotations.as_ref().and_then(|a| a.get(key::REPLACE)), None);
        assert_eq!(world.taken.iter().filter(|step| step.starts_with("RemoveMember")).count(), 1);
    }
}

#[test]
fn a_healthy_member_is_replaced_only_after_a_lost_one() {
    let mut world = bootstrapped(3);
    world.lose(2);
    annotate(&mut world, key::REPLACE, "demo-1");
    for _ in 0..60 {
        world.pass();
        assert!(world.ordinals().len() > 1, "{:?}", world.taken);
    }
    world.settle();
    assert_up_to_date(&mut world);
    let removed: Vec<_> = world.taken.iter().filter(|step| step.starts_with("RemoveMember")).collect();
    assert_eq!(removed, ["RemoveMember demo-2", "RemoveMember demo-1"]);
}

#[test]
fn a_learner_that_cannot_start_is_replaced_on_request() {
    let mut world = bootstrapped(1);
    scale(&mut world, 2);
    world.down.insert(names().member(1));
    pass_until(&mut world, "AddLearner demo-1");
    for _ in 0..5 {
        world.pass();
    }
    annotate(&mut world, key::REPLACE, "demo-1");
    pass_until(&mut world, "RemoveMember demo-1");
    world.down.clear();
    world.settle();
    assert_up_to_date(&mut world);
}

#[test]
fn a_request_that_names_no_member_is_reported() {
    for name in ["demo-7", "nonsense", "other-0"] {
        let mut world = bootstrapped(3);
        annotate(&mut world, key::REPLACE, name);
        let plan = world.pass().changes();
        assert!(plan.is_empty());
        let reported = notes(&plan.problems, Reason::MemberNotFound);
        assert!(reported.len() == 1 && reported[0].contains(name), "{reported:?}");
    }
}

#[test]
fn a_member_that_was_removed_by_hand_is_replaced_and_its_data_is_deleted() {
    let mut world = bootstrapped(3);
    let id = world.id(1);
    world.etcd.retain(|member| member.id != id);
    world.settle();
    assert_up_to_date(&mut world);
    assert_eq!(changes(&world), ["DeleteStatefulSet demo-1", "DeleteClaim demo-1", "AddLearner demo-1", "Promote demo-1"]);
}

#[test]
fn an_unknown_member_is_reported_and_left_alone() {
    for is_learner in [false, true] {
        let mut world = bootstrapped(3);
        let unknown = etcd::Member {
            id: MemberId(0xbad),
            name: "theirs".into(),
            peer_urls: vec!["https://elsewhere:2380".into()],
            is_learner,
        };
        world.etcd.push(unknown);
        scale(&mut world, 4);
        for _ in 0..10 {
            let plan = world.pass().changes();
            assert_eq!(plan.step, None);
            assert!(notes(&plan.problems, Reason::UnknownMember)[0].contains("bad (theirs) at https://elsewhere:2380"));
            assert_eq!(notes(&plan.problems, Reason::CannotScaleUp).len(), 1);
        }
        assert_eq!(world.etcd.len(), 4);

        scale(&mut world, 3);
        annotate(&mut world, key::RESTARTED_AT, "now");
        // The template is applied first.
        world.pass();
        let plan = world.pass().changes();
        let reported = notes(&plan.progress, Reason::RollingRestart).join("; ");
        let waits = reported.contains("once all 4 voters are healthy (bad: the operator did not add it and does not ask it)");
        assert_eq!((plan.step.is_none(), waits), (!is_learner, !is_learner), "{reported}");
    }
}

#[test]
fn scaling_down_keeps_members_whose_claims_are_not_being_deleted() {
    let mut world = bootstrapped(3);
    delete_claim(&mut world, 0);
    scale(&mut world, 1);
    pass_until(&mut world, "RemoveMember demo-2");
    assert!(world.taken.iter().any(|step| step == "RemoveMember demo-0"), "{:?}", world.taken);
    assert_eq!(world.ordinals(), [1]);
}

// All faults combined.

#[derive(Clone, Debug)]
enum Fault {
    Scale(i32),
    Lose(usize),
    Stop(usize),
    Silence(usize),
    Repair,
    Restart(u8),
    Replace(u32),
    RemoveByHand(usize),
    LoseStep,
    Pass(usize),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let fault = prop_oneof![
        3 => (1..6).prop_map(Fault::Scale),
        2 => (0..9_usize).prop_map(Fault::Lose),
        2 => (0..9_usize).prop_map(Fault::Stop),
        1 => (0..9_usize).prop_map(Fault::Silence),
        2 => Just(Fault::Repair),
        1 => any::<u8>().prop_map(Fault::Restart),
        1 => (0..6_u32).prop_map(Fault::Replace),
        1 => (0..9_usize).prop_map(Fault::RemoveByHand),
        2 => Just(Fault::LoseStep),
        8 => (1..8_usize).prop_map(Fault::Pass),
    ];
    prop::collection::vec(fault, 1..14)
}

/// The voter at this position, if the others that have their data are a quorum without it.
fn expendable_voter(world: &World, position: usize) -> Option<u32> {
    let voters = world.ordinals();
    let ordinal = *voters.get(position)?;
    let has_claim = |ordinal: &u32| {
        let member = &world.observed.members.get(&names().member(*ordinal));
        member.is_some_and(|member| member.claim.is_some())
    };
    let others = voters.iter().filter(|other| **other != ordinal && has_claim(other)).count();
    (others > voters.len() / 2).then_some(ordinal)
}

fn inject(world: &mut World, fault: &Fault) {
    match fault {
        Fault::Scale(replicas) => scale(world, *replicas),
        Fault::Lose(position) => {
            if let Some(ordinal) = expendable_voter(world, *position) {
                world.lose(ordinal);
            }
        }
        Fault::Stop(position) => {
            if let Some(ordinal) = world.ordinals().get(*position).copied() {
                world.stop(ordinal);
            }
        }
        Fault::Silence(position) => {
            if let Some(ordinal) = world.ordinals().get(*position).copied() {
                world.silent.insert(names().member(ordinal));
            }
        }
        Fault::Repair => {
            world.down.clear();
            world.silent.clear();
        }
        Fault::Restart(at) => annotate(world, key::RESTARTED_AT, &at.to_string()),
        Fault::Replace(ordinal) => annotate(world, key::REPLACE, &format!("demo-{ordinal}")),
        Fault::RemoveByHand(position) => {
            if let Some(ordinal) = expendable_voter(world, *position).filter(|_| world.has_quorum()) {
                let id = world.id(ordinal);
                world.etcd.retain(|member| member.id != id);
            }
        }
        Fault::LoseStep => world.loses_next_step = true,
        Fault::Pass(passes) => {
            for _ in 0..*passes {
                world.pass();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn members_converge_to_the_desired_state_after_any_faults(replicas in 1..6, faults in faults()) {
        let mut world = bootstrapped(replicas);
        for fault in &faults {
            inject(&mut world, fault);
        }
        inject(&mut world, &Fault::Repair);
        world.loses_next_step = false;
        // A request that names no member is kept and reported.
        world.settle();
        if let Some(annotations) = &mut world.cluster.metadata.annotations {
            annotations.remove(key::REPLACE);
        }
        world.settle();
        assert_up_to_date(&mut world);
        prop_assert!(world.pass().is_idle());
    }
}
