//! Members are added, removed, replaced and restarted in a fixture with etcd's rules. The fixture itself checks the safety rules at
//! every step.

use std::{collections::BTreeSet, fmt::Debug};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;

use super::{AT_ONCE, JUST_STARTED, SOON};
use crate::{
    api::{ConditionType, Reason, condition},
    cluster::{
        fixtures::{Fixture, names},
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
    let mut fixture = bootstrapped(1);
    scale_to(&mut fixture, 3);
    assert_eq!(changes(&fixture), ["AddLearner demo-1", "Promote demo-1", "AddLearner demo-2", "Promote demo-2"]);
}

#[test]
fn a_learner_starts_with_the_list_of_etcd_and_is_promoted_once_recorded() {
    let mut fixture = bootstrapped(1);
    scale(&mut fixture, 3);
    pass_until(&mut fixture, "AddLearner demo-1");
    fixture.pass();
    let data = fixture.observed.bootstrap.as_ref().unwrap().data.clone().unwrap();
    let url = |ordinal| names().initial_entry(&names().member(ordinal));
    assert_eq!(data["demo-1.cluster"], format!("{},{}", url(0), url(1)));
    assert_eq!((data["demo-1.state"].as_str(), data["demo-0.cluster"].clone()), ("existing", url(0)));
    pass_until(&mut fixture, "Promote demo-1");
    let before = fixture.taken.iter().position(|step| step == "RecordMembers").unwrap();
    let vote = fixture.taken.iter().position(|step| step == "Promote demo-1").unwrap();
    assert!(before < vote, "{:?}", fixture.taken);
}

#[test]
fn a_learner_is_asked_more_often_right_after_its_start() {
    let mut fixture = bootstrapped(1);
    scale(&mut fixture, 3);
    pass_until(&mut fixture, "AddLearner demo-1");
    let name = names().member(1);
    while fixture.observed.members.get(&name).is_none_or(|member| member.pod.is_none()) {
        fixture.pass();
    }
    fixture.observed.members.get_mut(&name).unwrap().etcd = Probe::Unreachable("connection refused".into());
    assert_eq!(fixture.plan_on(&fixture.observed).next_check(), AT_ONCE);
    fixture.now += JUST_STARTED;
    assert_eq!(fixture.plan_on(&fixture.observed).next_check(), SOON);
}

#[test]
fn a_cluster_can_be_scaled_from_any_size_to_any_other() {
    for from in 1..=9 {
        for replicas in (1..=9).filter(|replicas| *replicas != from) {
            let mut fixture = bootstrapped(from);
            assert_up_to_date(&mut fixture);
            scale_to(&mut fixture, replicas);
        }
    }
}

#[test]
fn scaling_down_removes_the_last_member_first_after_moving_leadership() {
    let mut fixture = bootstrapped(3);
    fixture.leader = fixture.id(2);
    scale_to(&mut fixture, 1);
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
    assert_eq!(changes(&fixture).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from(expected));
    assert_eq!(changes(&fixture)[..2], expected[..2]);
    assert_eq!(fixture.ordinals(), [0]);
}

#[test]
fn scaling_down_removes_an_unhealthy_member_first() {
    let mut fixture = bootstrapped(5);
    fixture.stop(1);
    scale(&mut fixture, 3);
    for _ in 0..40 {
        fixture.pass();
    }
    assert_eq!(fixture.ordinals(), [0, 2, 3]);
    assert_eq!(changes(&fixture)[0], "RemoveMember demo-1");
    fixture.down.clear();
    scale_to(&mut fixture, 4);
    assert_eq!(fixture.ordinals(), [0, 1, 2, 3], "the lowest free ordinal is used");
}

#[test]
fn a_change_of_replicas_while_scaling_takes_effect_at_the_next_step() {
    for passes in 0..24 {
        let mut fixture = bootstrapped(3);
        scale(&mut fixture, 5);
        for _ in 0..passes {
            fixture.pass();
        }
        scale_to(&mut fixture, [1, 2, 3][passes % 3]);
    }
    let mut fixture = bootstrapped(3);
    scale(&mut fixture, 5);
    pass_until(&mut fixture, "AddLearner demo-3");
    scale_to(&mut fixture, 3);
    assert_eq!(changes(&fixture), ["AddLearner demo-3", "RemoveMember demo-3", "DeleteClaim demo-3"]);
}

#[test]
fn no_member_is_added_or_removed_while_a_desired_member_is_down() {
    let mut fixture = bootstrapped(3);
    fixture.stop(0);
    scale(&mut fixture, 5);
    for _ in 0..10 {
        let plan = fixture.pass().changes();
        assert_eq!(plan.step, None);
        let reported = notes(&plan.problems, Reason::CannotScaleUp);
        assert!(reported.len() == 1 && reported[0].ends_with("replaced first (demo-0: it has no pod yet)"), "{reported:?}");
    }
    let deleting = fixture.member(1).pod.clone().map(|mut pod| {
        pod.spec.as_mut().unwrap().node_name = Some("n1".into());
        pod.metadata.deletion_timestamp = Some(Time(fixture.now));
        pod
    });
    fixture.member(0).pod = deleting;
    let reported = notes(&fixture.changes().problems, Reason::CannotScaleUp);
    assert!(reported[0].contains("(demo-0: its pod is being deleted on node n1"), "{reported:?}");
    let pod = fixture.member(0).pod.as_mut().unwrap();
    (pod.metadata.deletion_timestamp, pod.status) = (None, None);
    let reported = notes(&fixture.changes().problems, Reason::CannotScaleUp);
    assert!(reported[0].contains("; its node is n1"), "{reported:?}");
    fixture.member(0).pod = None;
    fixture.down.clear();
    fixture.settle();
    assert_up_to_date(&mut fixture);
}

#[test]
fn operations_in_progress_report_since_when() {
    let mut fixture = bootstrapped(3);
    fixture.silent.insert(names().member(0));
    scale(&mut fixture, 4);
    let since = fixture.now;
    fixture.pass();
    let expected = format!("from 3 to 4 members (since {since}); next: demo-3");
    assert_eq!(notes(&fixture.pass().changes().progress, Reason::ScalingUp), [expected]);
    fixture.silent.clear();
    fixture.catching_up = 5;
    pass_until(&mut fixture, "AddLearner demo-3");
    let since = fixture.now;
    for _ in 0..4 {
        fixture.pass();
    }
    let expected = format!("demo-3 is a learner (since {since})");
    assert_eq!(notes(&fixture.changes().progress, Reason::CatchingUp), [expected]);

    // An operation that follows immediately has its own start time.
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    fixture.catching_up = 0;
    while notes(&fixture.changes().progress, Reason::RollingRestart).is_empty()
        || !notes(&fixture.changes().progress, Reason::CatchingUp).is_empty()
    {
        fixture.pass();
    }
    let started = fixture.now;
    fixture.pass();
    let reported = notes(&fixture.changes().progress, Reason::RollingRestart).join("; ");
    assert!(reported.contains(&format!("(since {started})")), "{reported}");
}

/// The first note determines the reason that `kubectl get` shows.
#[test]
fn scaling_up_and_restarting_have_reasons_of_their_own() {
    let mut fixture = bootstrapped(3);
    let reason = |fixture: &mut Fixture| {
        let status = fixture.report().status;
        condition(&status.conditions, ConditionType::Progressing).map(|it| Reason::parse(&it.reason).unwrap()).unwrap()
    };
    let mut shown = vec![];
    fixture.catching_up = 3;
    scale(&mut fixture, 4);
    while !fixture.is_idle() || !fixture.changes().progress.is_empty() {
        shown.push(reason(&mut fixture));
        fixture.pass();
    }
    shown.dedup();
    // In between, its ID is recorded, in a pass that does nothing else.
    assert_eq!(
        shown,
        [Reason::ScalingUp, Reason::Joining, Reason::WaitingForMembers, Reason::CatchingUp, Reason::ApplyingObjects]
    );
    fixture.leader = fixture.id(0);
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    pass_until(&mut fixture, "RestartMember demo-1");
    fixture.pass();
    assert_eq!(reason(&mut fixture), Reason::RollingRestart);
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
        let mut fixture = bootstrapped(3);
        fixture.leader = fixture.id(leads);
        let old = fixture.member(lost).secret.clone().unwrap();
        let id = fixture.id(lost);
        fixture.lose(lost);
        fixture.settle();
        assert_up_to_date(&mut fixture);
        assert_ne!(fixture.id(lost), id);
        let expected = ["RemoveMember", "DeleteStatefulSet", "AddLearner", "Promote"].map(|step| format!("{step} demo-{lost}"));
        assert_eq!(changes(&fixture), expected);
        assert_eq!(fixture.taken.iter().filter(|step| *step == "Revoke").count(), 2, "one domain, then the other");
        for (keys, crl) in [
            ([member_key::SERVER_CRT, member_key::CLIENT_CRT].as_slice(), member_key::CLIENT_CRL),
            ([member_key::PEER_CRT].as_slice(), member_key::PEER_CRL),
        ] {
            for ordinal in 0..3 {
                let listed = crl_serials(&fixture.member(ordinal).secret.as_ref().unwrap().data[crl]).unwrap();
                for key in keys {
                    assert!(listed.contains(&old.certificate(key).unwrap().unwrap().serial()), "{key} is not on {crl}");
                }
            }
        }
    }
}

#[test]
fn a_recorded_id_is_compared_by_value() {
    let mut fixture = bootstrapped(3);
    let id = fixture.id(1);
    let claim = fixture.member(1).claim.as_mut().unwrap();
    claim.metadata.annotations.as_mut().unwrap().insert(key::MEMBER_ID.into(), format!("{:020X}", id.0));
    fixture.stop(1);
    for _ in 0..10 {
        assert_eq!(fixture.pass().changes().step, None);
    }
}

#[test]
fn two_of_five_are_replaced() {
    let mut fixture = bootstrapped(5);
    fixture.lose(1);
    fixture.lose(3);
    fixture.settle();
    assert_up_to_date(&mut fixture);
    assert_eq!(fixture.ordinals(), [0, 1, 2, 3, 4]);
}

#[test]
fn nothing_is_done_without_quorum() {
    let mut fixture = bootstrapped(3);
    fixture.lose(1);
    fixture.lose(2);
    for _ in 0..10 {
        let pass = fixture.pass();
        assert!(pass.is_idle(), "{:?}", pass.plan);
        let available = condition(&pass.report.status.conditions, ConditionType::Available).unwrap();
        assert_eq!((available.status.as_str(), available.reason.as_str()), ("False", Reason::QuorumLost.as_str()));
        assert_eq!(notes(&pass.changes().problems, Reason::ClaimLost).len(), 2);
    }
    assert_eq!(changes(&fixture), Vec::<&str>::new());
}

#[test]
fn a_member_is_not_replaced_if_that_would_cost_the_quorum() {
    // Three of five are healthy: a dead member may be removed, but not a healthy one that the user names.
    let mut fixture = bootstrapped(5);
    fixture.stop(1);
    fixture.stop(2);
    annotate(&mut fixture, key::REPLACE, "demo-3");
    let assert_cannot_replace = |fixture: &mut Fixture, cause: &str| {
        for _ in 0..5 {
            let plan = fixture.pass().changes();
            assert_eq!(plan.step, None);
            let reported = notes(&plan.problems, Reason::CannotReplace);
            assert!(reported.len() == 1 && reported[0].contains(cause), "{reported:?}");
        }
    };
    assert_cannot_replace(&mut fixture, "but only 2 of the 4 others are healthy: removing it would cost the quorum");
    fixture.down.remove(&names().member(2));
    assert_cannot_replace(
        &mut fixture,
        "but it is healthy, and only 3 of the 4 others are: those that are down must come back or be replaced first",
    );
    let mut fixture = bootstrapped(1);
    annotate(&mut fixture, key::REPLACE, "demo-0");
    assert_cannot_replace(&mut fixture, "but it is the only voter. Set spec.replicas to 3 first");
}

#[test]
fn a_member_is_replaced_once_on_request() {
    for member in ["demo-0", "demo-2"] {
        let mut fixture = bootstrapped(3);
        fixture.pass();
        annotate(&mut fixture, key::REPLACE, member);
        fixture.settle();
        assert_up_to_date(&mut fixture);
        assert_eq!(fixture.cluster.metadata.annotations.as_ref().and_then(|a| a.get(key::REPLACE)), None);
        assert_eq!(fixture.taken.iter().filter(|step| step.starts_with("RemoveMember")).count(), 1);
    }
}

#[test]
fn a_healthy_member_is_replaced_only_after_a_lost_one() {
    let mut fixture = bootstrapped(3);
    fixture.lose(2);
    annotate(&mut fixture, key::REPLACE, "demo-1");
    for _ in 0..60 {
        fixture.pass();
        assert!(fixture.ordinals().len() > 1, "{:?}", fixture.taken);
    }
    fixture.settle();
    assert_up_to_date(&mut fixture);
    let removed: Vec<_> = fixture.taken.iter().filter(|step| step.starts_with("RemoveMember")).collect();
    assert_eq!(removed, ["RemoveMember demo-2", "RemoveMember demo-1"]);
}

#[test]
fn a_learner_that_cannot_start_is_replaced_on_request() {
    let mut fixture = bootstrapped(1);
    scale(&mut fixture, 2);
    fixture.down.insert(names().member(1));
    pass_until(&mut fixture, "AddLearner demo-1");
    for _ in 0..5 {
        fixture.pass();
    }
    annotate(&mut fixture, key::REPLACE, "demo-1");
    pass_until(&mut fixture, "RemoveMember demo-1");
    fixture.down.clear();
    fixture.settle();
    assert_up_to_date(&mut fixture);
}

#[test]
fn a_request_that_names_no_member_is_reported() {
    for name in ["demo-7", "nonsense", "other-0"] {
        let mut fixture = bootstrapped(3);
        annotate(&mut fixture, key::REPLACE, name);
        let plan = fixture.pass().changes();
        assert!(plan.is_empty());
        let reported = notes(&plan.problems, Reason::MemberNotFound);
        assert!(reported.len() == 1 && reported[0].contains(name), "{reported:?}");
    }
}

#[test]
fn a_member_that_was_removed_by_hand_is_replaced_and_its_data_is_deleted() {
    let mut fixture = bootstrapped(3);
    let id = fixture.id(1);
    fixture.etcd.retain(|member| member.id != id);
    fixture.settle();
    assert_up_to_date(&mut fixture);
    assert_eq!(changes(&fixture), ["DeleteStatefulSet demo-1", "DeleteClaim demo-1", "AddLearner demo-1", "Promote demo-1"]);
}

#[test]
fn an_unknown_member_is_reported_and_left_alone() {
    for is_learner in [false, true] {
        let mut fixture = bootstrapped(3);
        let unknown = etcd::Member {
            id: MemberId(0xbad),
            name: "theirs".into(),
            peer_urls: vec!["https://elsewhere:2380".into()],
            is_learner,
        };
        fixture.etcd.push(unknown);
        scale(&mut fixture, 4);
        for _ in 0..10 {
            let plan = fixture.pass().changes();
            assert_eq!(plan.step, None);
            assert!(notes(&plan.problems, Reason::UnknownMember)[0].contains("bad (theirs) at https://elsewhere:2380"));
            assert_eq!(notes(&plan.problems, Reason::CannotScaleUp).len(), 1);
        }
        assert_eq!(fixture.etcd.len(), 4);

        scale(&mut fixture, 3);
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        // The template is applied first.
        fixture.pass();
        let plan = fixture.pass().changes();
        let reported = notes(&plan.progress, Reason::RollingRestart).join("; ");
        let waits = reported.contains("once all 4 voters are healthy (bad: the operator did not add it and does not ask it)");
        assert_eq!((plan.step.is_none(), waits), (!is_learner, !is_learner), "{reported}");
    }
}

#[test]
fn scaling_down_keeps_members_whose_claims_are_not_being_deleted() {
    let mut fixture = bootstrapped(3);
    delete_claim(&mut fixture, 0);
    scale(&mut fixture, 1);
    pass_until(&mut fixture, "RemoveMember demo-2");
    assert!(fixture.taken.iter().any(|step| step == "RemoveMember demo-0"), "{:?}", fixture.taken);
    assert_eq!(fixture.ordinals(), [1]);
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
fn expendable_voter(fixture: &Fixture, position: usize) -> Option<u32> {
    let voters = fixture.ordinals();
    let ordinal = *voters.get(position)?;
    let has_claim = |ordinal: &u32| {
        let member = &fixture.observed.members.get(&names().member(*ordinal));
        member.is_some_and(|member| member.claim.is_some())
    };
    let others = voters.iter().filter(|other| **other != ordinal && has_claim(other)).count();
    (others > voters.len() / 2).then_some(ordinal)
}

fn inject(fixture: &mut Fixture, fault: &Fault) {
    match fault {
        Fault::Scale(replicas) => scale(fixture, *replicas),
        Fault::Lose(position) => {
            if let Some(ordinal) = expendable_voter(fixture, *position) {
                fixture.lose(ordinal);
            }
        }
        Fault::Stop(position) => {
            if let Some(ordinal) = fixture.ordinals().get(*position).copied() {
                fixture.stop(ordinal);
            }
        }
        Fault::Silence(position) => {
            if let Some(ordinal) = fixture.ordinals().get(*position).copied() {
                fixture.silent.insert(names().member(ordinal));
            }
        }
        Fault::Repair => {
            fixture.down.clear();
            fixture.silent.clear();
        }
        Fault::Restart(at) => annotate(fixture, key::RESTARTED_AT, &at.to_string()),
        Fault::Replace(ordinal) => annotate(fixture, key::REPLACE, &format!("demo-{ordinal}")),
        Fault::RemoveByHand(position) => {
            if let Some(ordinal) = expendable_voter(fixture, *position).filter(|_| fixture.has_quorum()) {
                let id = fixture.id(ordinal);
                fixture.etcd.retain(|member| member.id != id);
            }
        }
        Fault::LoseStep => fixture.loses_next_step = true,
        Fault::Pass(passes) => {
            for _ in 0..*passes {
                fixture.pass();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn members_converge_to_the_desired_state_after_any_faults(replicas in 1..6, faults in faults()) {
        let mut fixture = bootstrapped(replicas);
        for fault in &faults {
            inject(&mut fixture, fault);
        }
        inject(&mut fixture, &Fault::Repair);
        fixture.loses_next_step = false;
        // A request that names no member is kept and reported.
        fixture.settle();
        if let Some(annotations) = &mut fixture.cluster.metadata.annotations {
            annotations.remove(key::REPLACE);
        }
        fixture.settle();
        assert_up_to_date(&mut fixture);
        prop_assert!(fixture.pass().is_idle());
    }
}
