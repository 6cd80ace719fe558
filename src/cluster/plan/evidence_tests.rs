use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{ContainerStateRunning, PersistentVolumeClaimStatus, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    cluster::{
        fixtures::{Fixture, SECOND, names},
        observed::VolumeNode,
    },
    etcd,
    ids::MemberId,
    names::annotation,
};

fn bootstrapped(spec: &str) -> Fixture {
    let mut fixture = Fixture::bootstrapped(spec);
    fixture.taken.clear();
    fixture
}

fn removals(fixture: &Fixture) -> Vec<&str> {
    fixture.taken.iter().map(String::as_str).filter(|step| step.starts_with("Remove")).collect()
}

/// Makes passes for this long.
fn run_for(fixture: &mut Fixture, time: SignedDuration) {
    for _ in 0..20 {
        fixture.pass();
        fixture.now += time / 20 - SECOND;
    }
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

#[test]
fn a_member_in_a_crash_loop_is_replaced_after_the_configured_time() {
    for (spec, limit) in [("{}", 10), ("repair: { crashLoop: 3m }", 3)] {
        let mut fixture = bootstrapped(spec);
        fixture.crash(1);
        run_for(&mut fixture, MINUTE * (limit - 1));
        assert_eq!(removals(&fixture), Vec::<&str>::new());
        run_for(&mut fixture, MINUTE * 2);
        assert_eq!(removals(&fixture), ["RemoveMember demo-1"]);
        fixture.silent.clear();
        fixture.settle();
        assert_eq!(fixture.ordinals(), [0, 1, 2]);
    }
}

/// A service mesh adds its container before that of etcd: neither its state nor its arguments say anything about etcd.
#[test]
fn a_crash_loop_is_recognized_behind_a_container_that_others_added() {
    let mut fixture = bootstrapped("{}");
    fixture.inject_sidecars();
    fixture.crash(1);
    run_for(&mut fixture, MINUTE * 12);
    assert_eq!(removals(&fixture), ["RemoveMember demo-1"]);
    let mut differs = bootstrapped("{}");
    differs.inject_sidecars();
    differs.crash(1);
    differs.pod(1).spec.as_mut().unwrap().containers[1].args.as_mut().unwrap().push("--nonsense".into());
    run_for(&mut differs, MINUTE * 30);
    assert_eq!(removals(&differs), Vec::<&str>::new());
}

fn set_waiting_reason(fixture: &mut Fixture, reason: &str) {
    let status = fixture.pod(1).status.as_mut().unwrap();
    let container = &mut status.container_statuses.as_mut().unwrap()[0];
    container.state.as_mut().unwrap().waiting.as_mut().unwrap().reason = Some(reason.into());
}

#[test]
fn a_member_that_may_be_down_for_another_reason_is_not_replaced() {
    type Change = fn(&mut Fixture);
    let changes: [Change; 10] = [
        // Its image cannot be pulled, or its volume is not attached: the crash was long ago.
        |fixture| set_waiting_reason(fixture, "ImagePullBackOff"),
        |fixture| set_waiting_reason(fixture, "ContainerCreating"),
        // The kubelet killed it, because it was slow to start.
        |fixture| {
            let status = fixture.pod(1).status.as_mut().unwrap();
            let container = &mut status.container_statuses.as_mut().unwrap()[0];
            container.last_state.as_mut().unwrap().terminated.as_mut().unwrap().exit_code = 137;
        },
        // Out of memory.
        |fixture| {
            let status = fixture.pod(1).status.as_mut().unwrap();
            let container = &mut status.container_statuses.as_mut().unwrap()[0];
            let last = container.last_state.as_mut().unwrap().terminated.as_mut().unwrap();
            last.reason = Some("OOMKilled".into());
        },
        // Its settings differ from those of the healthy members.
        |fixture| fixture.pod(1).spec.as_mut().unwrap().containers[0].image = Some("newer".into()),
        |fixture| {
            let arguments = fixture.pod(1).spec.as_mut().unwrap().containers[0].args.as_mut().unwrap();
            arguments.push("--nonsense".into());
        },
        // They differ in what is not seen of its container, or it trusts another CA.
        |fixture| drop(fixture.pod(1).metadata.annotations.as_mut().unwrap().insert(annotation::SETTINGS.into(), "{}".into())),
        |fixture| drop(fixture.pod(1).metadata.annotations.as_mut().unwrap().insert(annotation::BUNDLES.into(), "other".into())),
        // It runs at the moment.
        |fixture| {
            let status = fixture.pod(1).status.as_mut().unwrap();
            let container = &mut status.container_statuses.as_mut().unwrap()[0];
            container.state.as_mut().unwrap().running = Some(ContainerStateRunning::default());
        },
        |fixture| {
            let status = fixture.pod(1).status.as_mut().unwrap();
            status.container_statuses.as_mut().unwrap()[0].restart_count = 2;
        },
    ];
    for change in changes {
        let mut fixture = bootstrapped("{}");
        fixture.crash(1);
        change(&mut fixture);
        run_for(&mut fixture, MINUTE * 30);
        assert_eq!(removals(&fixture), Vec::<&str>::new());
    }
}

#[test]
fn a_member_that_is_only_down_is_never_replaced() {
    let mut fixture = bootstrapped("{}");
    fixture.stop(1);
    run_for(&mut fixture, MINUTE * 600);
    fixture.stop(1);
    fixture.silent.insert(names().member(1));
    run_for(&mut fixture, MINUTE * 600);
    assert_eq!(removals(&fixture), Vec::<&str>::new());
}

#[test]
fn the_down_time_starts_again_after_the_member_was_healthy() {
    let mut fixture = bootstrapped("{}");
    for _ in 0..4 {
        fixture.crash(1);
        run_for(&mut fixture, MINUTE * 6);
        fixture.silent.clear();
        fixture.pod(1).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state.as_mut().unwrap().running =
            Some(ContainerStateRunning { started_at: Some(Time(fixture.now)) });
        run_for(&mut fixture, MINUTE);
    }
    assert_eq!(removals(&fixture), Vec::<&str>::new());
}

/// No node accepts its pod.
fn unschedulable(fixture: &mut Fixture, ordinal: u32, volume_node: VolumeNode) {
    let unscheduled = PodCondition { type_: "PodScheduled".into(), status: "False".into(), ..PodCondition::default() };
    let status = fixture.pod(ordinal).status.as_mut().unwrap();
    status.container_statuses = None;
    status.conditions.as_mut().unwrap().push(unscheduled);
    fixture.silent.insert(names().member(ordinal));
    fixture.member(ordinal).volume_node = volume_node;
}

#[test]
fn a_member_is_replaced_if_its_node_is_gone_and_not_if_it_exists() {
    for (volume_node, removed) in
        [(VolumeNode::Gone("its node is gone".into()), true), (VolumeNode::Exists, false), (VolumeNode::Unknown, false)]
    {
        let mut fixture = bootstrapped("{}");
        unschedulable(&mut fixture, 2, volume_node);
        run_for(&mut fixture, SECOND * 50);
        assert_eq!(removals(&fixture), Vec::<&str>::new(), "the minute is not over");
        run_for(&mut fixture, MINUTE);
        assert_eq!(removals(&fixture).len(), usize::from(removed));
    }
}

#[test]
fn members_whose_nodes_are_gone_stay_if_the_quorum_needs_them() {
    let mut fixture = bootstrapped("{}");
    for ordinal in [1, 2] {
        unschedulable(&mut fixture, ordinal, VolumeNode::Gone("its node is gone".into()));
    }
    run_for(&mut fixture, MINUTE * 60);
    assert_eq!(removals(&fixture), Vec::<&str>::new());
}

#[test]
fn a_member_whose_volume_is_gone_is_replaced_once_it_stops() {
    let mut fixture = bootstrapped("{}");
    let status = PersistentVolumeClaimStatus { phase: Some("Lost".into()), ..PersistentVolumeClaimStatus::default() };
    fixture.member(0).claim.as_mut().unwrap().status = Some(status);
    run_for(&mut fixture, MINUTE);
    assert_eq!(removals(&fixture), Vec::<&str>::new(), "it is healthy");
    fixture.stop(0);
    run_for(&mut fixture, MINUTE);
    assert_eq!(removals(&fixture), ["RemoveMember demo-0"]);
}

#[test]
fn an_unknown_member_that_never_starts_is_removed_after_the_configured_time() {
    for (is_learner, name, removed) in [(false, "", true), (true, "", true), (false, "theirs", false), (true, "theirs", false)] {
        let mut fixture = bootstrapped("repair: { unstarted: 5m }");
        fixture.etcd.push(etcd::Member {
            id: MemberId(0xbad),
            name: name.into(),
            peer_urls: vec!["https://elsewhere:2380".into()],
            is_learner,
        });
        run_for(&mut fixture, MINUTE * 4);
        assert_eq!(removals(&fixture), Vec::<&str>::new());
        let unknown = &fixture.observed.status.unknown_members;
        assert_eq!((unknown.len(), unknown[0].id, unknown[0].name.as_str()), (1, MemberId(0xbad), name));
        run_for(&mut fixture, MINUTE * 60);
        assert_eq!(removals(&fixture).len(), usize::from(removed));
        assert_eq!(fixture.observed.status.unknown_members.len(), usize::from(!removed));
    }
}
