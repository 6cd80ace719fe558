use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{ContainerStateRunning, PersistentVolumeClaimStatus, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    cluster::{
        fixtures::{SECOND, World, names},
        observed::VolumeNode,
    },
    etcd,
    ids::MemberId,
    names::annotation,
};

fn bootstrapped(spec: &str) -> World {
    let mut world = World::bootstrapped(spec);
    world.taken.clear();
    world
}

fn removals(world: &World) -> Vec<&str> {
    world.taken.iter().map(String::as_str).filter(|step| step.starts_with("Remove")).collect()
}

/// Makes passes for this long.
fn run_for(world: &mut World, time: SignedDuration) {
    for _ in 0..20 {
        world.pass();
        world.now += time / 20 - SECOND;
    }
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

#[test]
fn a_member_in_a_crash_loop_is_replaced_after_the_configured_time() {
    for (spec, limit) in [("{}", 10), ("repair: { crashLoop: 3m }", 3)] {
        let mut world = bootstrapped(spec);
        world.crash(1);
        run_for(&mut world, MINUTE * (limit - 1));
        assert_eq!(removals(&world), Vec::<&str>::new());
        run_for(&mut world, MINUTE * 2);
        assert_eq!(removals(&world), ["RemoveMember demo-1"]);
        world.silent.clear();
        world.settle();
        assert_eq!(world.ordinals(), [0, 1, 2]);
    }
}

/// A service mesh adds its container before that of etcd: neither its state nor its arguments say anything about etcd.
#[test]
fn a_crash_loop_is_recognized_behind_a_container_that_others_added() {
    let mut world = bootstrapped("{}");
    world.inject_sidecars();
    world.crash(1);
    run_for(&mut world, MINUTE * 12);
    assert_eq!(removals(&world), ["RemoveMember demo-1"]);
    let mut differs = bootstrapped("{}");
    differs.inject_sidecars();
    differs.crash(1);
    differs.pod(1).spec.as_mut().unwrap().containers[1].args.as_mut().unwrap().push("--nonsense".into());
    run_for(&mut differs, MINUTE * 30);
    assert_eq!(removals(&differs), Vec::<&str>::new());
}

fn set_waiting_reason(world: &mut World, reason: &str) {
    let status = world.pod(1).status.as_mut().unwrap();
    let container = &mut status.container_statuses.as_mut().unwrap()[0];
    container.state.as_mut().unwrap().waiting.as_mut().unwrap().reason = Some(reason.into());
}

#[test]
fn a_member_that_may_be_down_for_another_reason_is_not_replaced() {
    type Change = fn(&mut World);
    let changes: [Change; 10] = [
        // Its image cannot be pulled, or its volume is not attached: the crash was long ago.
        |world| set_waiting_reason(world, "ImagePullBackOff"),
        |world| set_waiting_reason(world, "ContainerCreating"),
        // The kubelet killed it, because it was slow to start.
        |world| {
            let status = world.pod(1).status.as_mut().unwrap();
            let container = &mut status.container_statuses.as_mut().unwrap()[0];
            container.last_state.as_mut().unwrap().terminated.as_mut().unwrap().exit_code = 137;
        },
        // Out of memory.
        |world| {
            let status = world.pod(1).status.as_mut().unwrap();
            let container = &mut status.container_statuses.as_mut().unwrap()[0];
            let last = container.last_state.as_mut().unwrap().terminated.as_mut().unwrap();
            last.reason = Some("OOMKilled".into());
        },
        // Its settings differ from those of the healthy members.
        |world| world.pod(1).spec.as_mut().unwrap().containers[0].image = Some("newer".into()),
        |world| {
            let arguments = world.pod(1).spec.as_mut().unwrap().containers[0].args.as_mut().unwrap();
            arguments.push("--nonsense".into());
        },
        // They differ in what is not seen of its container, or it trusts another CA.
        |world| drop(world.pod(1).metadata.annotations.as_mut().unwrap().insert(annotation::SETTINGS.into(), "{}".into())),
        |world| drop(world.pod(1).metadata.annotations.as_mut().unwrap().insert(annotation::BUNDLES.into(), "other".into())),
        // It runs at the moment.
        |world| {
            let status = world.pod(1).status.as_mut().unwrap();
            let container = &mut status.container_statuses.as_mut().unwrap()[0];
            container.state.as_mut().unwrap().running = Some(ContainerStateRunning::default());
        },
        |world| {
            let status = world.pod(1).status.as_mut().unwrap();
            status.container_statuses.as_mut().unwrap()[0].restart_count = 2;
        },
    ];
    for change in changes {
        let mut world = bootstrapped("{}");
        world.crash(1);
        change(&mut world);
        run_for(&mut world, MINUTE * 30);
        assert_eq!(removals(&world), Vec::<&str>::new());
    }
}

#[test]
fn a_member_that_is_only_down_is_never_replaced() {
    let mut world = bootstrapped("{}");
    world.stop(1);
    run_for(&mut world, MINUTE * 600);
    world.stop(1);
    world.silent.insert(names().member(1));
    run_for(&mut world, MINUTE * 600);
    assert_eq!(removals(&world), Vec::<&str>::new());
}

#[test]
fn the_down_time_starts_again_after_the_member_was_healthy() {
    let mut world = bootstrapped("{}");
    for _ in 0..4 {
        world.crash(1);
        run_for(&mut world, MINUTE * 6);
        world.silent.clear();
        world.pod(1).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state.as_mut().unwrap().running =
            Some(ContainerStateRunning { started_at: Some(Time(world.now)) });
        run_for(&mut world, MINUTE);
    }
    assert_eq!(removals(&world), Vec::<&str>::new());
}

/// No node accepts its pod.
fn unschedulable(world: &mut World, ordinal: u32, volume_node: VolumeNode) {
    let unscheduled = PodCondition { type_: "PodScheduled".into(), status: "False".into(), ..PodCondition::default() };
    let status = world.pod(ordinal).status.as_mut().unwrap();
    status.container_statuses = None;
    status.conditions.as_mut().unwrap().push(unscheduled);
    world.silent.insert(names().member(ordinal));
    world.member(ordinal).volume_node = volume_node;
}

#[test]
fn a_member_is_replaced_if_its_node_is_gone_and_not_if_it_exists() {
    for (volume_node, removed) in
        [(VolumeNode::Gone("its node is gone".into()), true), (VolumeNode::Exists, false), (VolumeNode::Unknown, false)]
    {
        let mut world = bootstrapped("{}");
        unschedulable(&mut world, 2, volume_node);
        run_for(&mut world, SECOND * 50);
        assert_eq!(removals(&world), Vec::<&str>::new(), "the minute is not over");
        run_for(&mut world, MINUTE);
        assert_eq!(removals(&world).len(), usize::from(removed));
    }
}

#[test]
fn members_whose_nodes_are_gone_stay_if_the_quorum_needs_them() {
    let mut world = bootstrapped("{}");
    for ordinal in [1, 2] {
        unschedulable(&mut world, ordinal, VolumeNode::Gone("its node is gone".into()));
    }
    run_for(&mut world, MINUTE * 60);
    assert_eq!(removals(&world), Vec::<&str>::new());
}

#[test]
fn a_member_whose_volume_is_gone_is_replaced_once_it_stops() {
    let mut world = bootstrapped("{}");
    let status = PersistentVolumeClaimStatus { phase: Some("Lost".into()), ..PersistentVolumeClaimStatus::default() };
    world.member(0).claim.as_mut().unwrap().status = Some(status);
    run_for(&mut world, MINUTE);
    assert_eq!(removals(&world), Vec::<&str>::new(), "it is healthy");
    world.stop(0);
    run_for(&mut world, MINUTE);
    assert_eq!(removals(&world), ["RemoveMember demo-0"]);
}

#[test]
fn an_unknown_member_that_never_starts_is_removed_after_the_configured_time() {
    for (is_learner, name, removed) in [(false, "", true), (true, "", true), (false, "theirs", false), (true, "theirs", false)] {
        let mut world = bootstrapped("repair: { unstarted: 5m }");
        world.etcd.push(etcd::Member {
            id: MemberId(0xbad),
            name: name.into(),
            peer_urls: vec!["https://elsewhere:2380".into()],
            is_learner,
        });
        run_for(&mut world, MINUTE * 4);
        assert_eq!(removals(&world), Vec::<&str>::new());
        let unknown = &world.observed.status.unknown_members;
        assert_eq!((unknown.len(), unknown[0].id, unknown[0].name.as_str()), (1, MemberId(0xbad), name));
        run_for(&mut world, MINUTE * 60);
        assert_eq!(removals(&world).len(), usize::from(removed));
        assert_eq!(world.observed.status.unknown_members.len(), usize::from(!removed));
    }
}
