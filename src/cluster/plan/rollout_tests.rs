//! Restarting members.

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetStatus},
        core::v1::{ContainerState, ContainerStateRunning, ContainerStateWaiting},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use crate::{
    api::{PullPolicy, Reason},
    cluster::{
        fixtures::{SECOND, World, names, objects},
        observed::ObservedMember,
        plan::tests::{Change, ONE, annotate, assert_up_to_date, bootstrapped, changes, delete_claim, notes, pass_until, scale},
        steps::Step,
    },
    kubernetes::ownership::annotation,
    names::annotation as key,
};

/// A member whose image could not be pulled, after its StatefulSet has changed.
fn unstarted() -> World {
    let mut world = World::new(ONE);
    for _ in 0..3 {
        world.pass();
    }
    world.plan();
    world.kubelet = false;
    let member = world.member(0);
    let set = member.stateful_set.as_mut().unwrap();
    set.metadata.generation = Some(2);
    set.status = Some(StatefulSetStatus {
        observed_generation: Some(2),
        update_revision: Some("new".into()),
        ..StatefulSetStatus::default()
    });
    let pod = member.pod.as_mut().unwrap();
    pod.metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), "old".into());
    let status = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
    let waiting = ContainerStateWaiting { reason: Some("ImagePullBackOff".into()), message: None };
    status.state = Some(ContainerState { waiting: Some(waiting), ..ContainerState::default() });
    world
}

fn plans_restart(world: &mut World) -> bool {
    matches!(world.changes().step, Some(Step::RestartMember(_)))
}

/// A service mesh adds its container before that of etcd. Its arguments are not those of etcd.
#[test]
fn a_container_that_others_added_is_no_reason_for_a_restart() {
    let mut world = bootstrapped(3);
    for _ in 0..10 {
        world.inject_sidecars();
        world.pass();
    }
    assert_eq!(world.taken, Vec::<String>::new());
    assert_up_to_date(&mut world);
    // Its own restarts and its own image count for nothing either.
    annotate(&mut world, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        world.inject_sidecars();
        world.pass();
    }
    world.taken.retain(|step| step.starts_with("RestartMember"));
    assert_eq!(world.taken.len(), 3, "{:?}", world.taken);
    assert_up_to_date(&mut world);
}

/// A policy that rewrites the registry of images, as Kyverno's does.
fn use_mirror(set: &mut StatefulSet) {
    let image = set.spec.template.spec.as_mut().unwrap().containers[0].image.as_mut().unwrap();
    if !image.starts_with("mirror/") {
        image.insert_str(0, "mirror/");
    }
}

/// A cluster whose StatefulSets a policy has changed.
fn mirrored() -> World {
    let mut world = bootstrapped(3);
    world.webhook = Some(use_mirror);
    world.cluster.spec.image.pull_policy = PullPolicy::Always;
    world.pass();
    world
}

#[test]
fn a_field_that_a_webhook_rewrites_is_reported_and_not_fought() {
    let mut world = mirrored();
    for _ in 0..10 {
        let changes = world.pass().changes();
        assert_eq!(objects(&changes), Vec::<String>::new());
        assert_eq!(changes.problems.len(), 3);
        let message = &changes.problems[0].message;
        let field = "StatefulSet demo-0: each time that etcd-warden applies spec.template.spec.containers[etcd].image \
                     (\"mirror/gcr.io/etcd-development/etcd:v3.6.16\" instead of \"gcr.io/etcd-development/etcd:v3.6.16\")";
        assert!(message.starts_with(field), "{message}");
        assert!(changes.problems.iter().all(|note| note.reason == Reason::FieldOverwritten));
    }
    // A change by hand of another field is reverted nevertheless.
    world.member(1).stateful_set.as_mut().unwrap().spec.service_name = Some("other".into());
    assert_eq!(objects(&world.pass().changes()), ["StatefulSet demo-1"]);
    assert_eq!(objects(&world.pass().changes()), Vec::<String>::new());
    // It is tried again after a while. Without the policy that helps.
    world.webhook = None;
    world.now += SECOND * 600;
    assert_eq!(objects(&world.pass().changes()), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);
    assert_up_to_date(&mut world);
}

#[test]
fn a_field_that_a_webhook_rewrites_blocks_neither_restarts_nor_rotations() {
    let mut world = mirrored();
    annotate(&mut world, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        world.pass();
    }
    let restarts = |world: &World| world.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts(&world), 3, "{:?}", world.taken);
    annotate(&mut world, key::ROTATE_CA, "peer");
    for _ in 0..400 {
        world.pass();
    }
    assert!(world.taken.iter().any(|step| step.starts_with("FinishRotation")), "{:?}", world.taken);
}

/// Otherwise it would be restarted again and again.
#[test]
fn a_member_is_not_restarted_if_its_template_has_lost_what_the_restart_is_for() {
    let mut world = bootstrapped(3);
    world.webhook = Some(|set| {
        set.spec.template.metadata.as_mut().unwrap().annotations.as_mut().unwrap().remove(key::RESTARTED_AT);
    });
    annotate(&mut world, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        world.pass();
    }
    assert_eq!(world.taken, Vec::<String>::new());
    assert!(world.changes().problems[0].message.contains("spec.template.metadata.annotations[etcd-warden.dev/restarted-at]"));
}

/// Its answer to the write is as desired, but it is changed again later.
#[test]
fn a_controller_that_changes_a_field_again_and_again_is_not_fought_for_ever() {
    let mut world = bootstrapped(3);
    let change = |world: &mut World| use_mirror(world.member(0).stateful_set.as_mut().unwrap());
    for _ in 0..5 {
        change(&mut world);
        assert_eq!(objects(&world.pass().changes()), ["StatefulSet demo-0"]);
    }
    change(&mut world);
    let changes = world.pass().changes();
    assert_eq!((objects(&changes), changes.problems[0].reason), (vec![], Reason::FieldOverwritten));
    // By hand, it is done less often.
    let mut world = bootstrapped(3);
    for _ in 0..20 {
        change(&mut world);
        assert_eq!(objects(&world.pass().changes()), ["StatefulSet demo-0"]);
        world.now += SECOND * 600;
    }
}

/// A container that a service mesh adds may have to start before that of etcd.
#[test]
fn a_pod_whose_added_container_cannot_start_is_recreated_from_a_changed_template() {
    let stuck = |etcd_has_run: bool| {
        let mut world = unstarted();
        world.inject_sidecars();
        let statuses = world.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0].state = statuses[1].state.take();
        if etcd_has_run {
            statuses[1].state =
                Some(ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() });
        }
        plans_restart(&mut world)
    };
    assert!(stuck(false));
    assert!(!stuck(true));
}

/// It may already run although the kubelet has not reported it yet, and the quorum may need it.
#[test]
fn a_pod_that_is_being_created_is_not_restarted() {
    for reason in ["ContainerCreating", "PodInitializing"] {
        let mut world = unstarted();
        assert!(plans_restart(&mut world));
        let status = &mut world.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
        status.state.as_mut().unwrap().waiting.as_mut().unwrap().reason = Some(reason.into());
        assert!(!plans_restart(&mut world), "{reason}");
    }
}

/// It runs, but neither the operator nor the kubelet has ever found it serving.
#[test]
fn a_pod_that_has_never_served_is_recreated_from_a_changed_template() {
    let silent = || {
        let mut world = unstarted();
        let since = Time(world.now - SECOND * 60);
        let running = ContainerStateRunning { started_at: Some(since) };
        let pod = world.pod(0);
        let container = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
        container.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
        pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
        world.silent.insert(names().member(0));
        world
    };
    assert!(plans_restart(&mut silent()));
    let changes: [(&str, Change); 4] = [
        ("its template is the same", |w| {
            w.pod(0).metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), "new".into());
        }),
        ("it has served", |w| {
            w.pod(0).metadata.annotations.as_mut().unwrap().insert(key::TLS_CONFIRMED.into(), "some".into());
        }),
        ("it has just started", |w| w.now -= SECOND),
        ("it serves", |w| w.silent.clear()),
    ];
    for (why_not, change) in changes {
        let mut world = silent();
        change(&mut world);
        assert!(!plans_restart(&mut world), "{why_not}");
    }
    // The kubelet's clock is behind that of the operator, which has just seen it start.
    let mut world = silent();
    assert!(plans_restart(&mut world));
    world.member(0).seen_running = SECOND * 59;
    let plan = world.plan_on(&world.observed);
    assert!(plan.step().is_none(), "{plan:?}");
}

#[test]
fn a_pod_that_cannot_start_is_recreated_from_a_changed_template() {
    assert!(plans_restart(&mut unstarted()));
    let mut ending = unstarted();
    ending.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = 1;
    assert!(plans_restart(&mut ending), "its container is in a crash loop");
    let changes: [(&str, Change); 6] = [
        ("its data would be lost with it", |w| {
            w.member(0).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(w.now));
        }),
        ("the template is the same", |w| {
            w.pod(0).metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), "new".into());
        }),
        ("its controller has not observed the change", |w| {
            w.member(0).stateful_set.as_mut().unwrap().metadata.generation = Some(3);
        }),
        ("it runs", |w| {
            let running = ContainerStateRunning::default();
            let container = &mut w.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
            container.state.as_mut().unwrap().running = Some(running);
        }),
        ("it is being deleted", |w| {
            w.pod(0).metadata.deletion_timestamp = Some(Time(w.now));
        }),
        ("the StatefulSet is about to change", |w| w.member(0).stateful_set.as_mut().unwrap().spec.replicas = Some(0)),
    ];
    for (why_not, change) in changes {
        let mut world = unstarted();
        change(&mut world);
        assert!(!plans_restart(&mut world), "{why_not}");
    }
}

// Restarting.

#[test]
fn an_image_of_another_version_stops_a_rolling_restart_at_the_first_member() {
    let mut world = bootstrapped(3);
    world.leader = world.id(0);
    annotate(&mut world, key::RESTARTED_AT, "now");
    pass_until(&mut world, "RestartMember demo-1");
    world.versions.insert(names().member(1), "3.6.15".into());
    for _ in 0..10 {
        world.pass();
    }
    let reported = notes(&world.changes().problems, Reason::CannotRestart);
    assert_eq!(
        reported,
        [
            "demo-1 runs etcd 3.6.15 since its restart, but spec.version is 3.6.16: no other member is restarted with that image. When it is fixed, set annotation etcd-warden.dev/restarted-at to another value"
        ]
    );
    assert_eq!(changes(&world), ["RestartMember demo-1"]);

    // The image is fixed.
    world.versions.clear();
    annotate(&mut world, key::RESTARTED_AT, "again");
    world.settle();
    assert_up_to_date(&mut world);

    // If all members run another version, a restart does not change that.
    annotate(&mut world, key::RESTARTED_AT, "once more");
    world.versions = (0..3).map(|ordinal| (names().member(ordinal), "3.6.15".into())).collect();
    world.settle();
    let plan = world.changes();
    assert!(plan.is_empty() && plan.progress.is_empty(), "{plan:?}");
    assert_eq!(notes(&plan.problems, Reason::CannotChangeVersion).len(), 1, "it is reported: {:?}", plan.problems);
    let restarted =
        |member: &ObservedMember| annotation(&member.pod.as_ref().unwrap().metadata, key::RESTARTED_AT) == Some("once more");
    assert!(world.observed.members.values().all(restarted));
}

#[test]
fn a_rolling_restart_begins_with_unhealthy_members_and_ends_with_the_leader() {
    let mut world = bootstrapped(3);
    world.leader = world.id(0);
    world.silent.insert(names().member(2));
    annotate(&mut world, key::RESTARTED_AT, "now");
    pass_until(&mut world, "RestartMember demo-2");
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(changes(&world), ["RestartMember demo-2"], "it is not healthy yet, and the others are not restarted");
    world.silent.clear();
    world.settle();
    assert_up_to_date(&mut world);
    assert_eq!(changes(&world), ["RestartMember demo-2", "RestartMember demo-1", "MoveLeader demo-0", "RestartMember demo-0"]);
}

#[test]
fn leadership_moves_to_the_voter_with_the_longest_log() {
    for (behind, expected) in [(None, 0), (Some(0), 1), (Some(1), 0)] {
        let mut world = bootstrapped(3);
        world.leader = world.id(2);
        if let Some(behind) = behind {
            world.revisions.insert(names().member(behind), 99);
        }
        scale(&mut world, 2);
        let Some(Step::MoveLeader(step)) = world.changes().step else { panic!("{:#?}", world.plan()) };
        assert_eq!((step.successor, step.to), (names().member(expected), world.id(expected)));
    }
}

/// The restarted member is not healthy, and the cluster is scaled down meanwhile.
#[test]
fn a_bad_template_stops_at_the_first_member_even_if_the_cluster_is_scaled_down() {
    for (from, replicas) in [(5, 3), (5, 1), (3, 1), (3, 2), (2, 1)] {
        let mut world = bootstrapped(from);
        world.leader = world.id(0);
        annotate(&mut world, key::RESTARTED_AT, "now");
        pass_until(&mut world, "RestartMember demo-1");
        world.silent.insert(names().member(1));
        scale(&mut world, replicas);
        for _ in 0..20 {
            let before = world.taken.len();
            world.pass();
            for step in &world.taken[before..] {
                assert!(!step.starts_with("RestartMember") && !step.starts_with("RemoveMember"), "{:?}", world.taken);
            }
        }
        // Longer than a restart may take.
        world.now += SECOND * 60;
        let plan = world.changes();
        if from > 2 {
            let reported = notes(&plan.problems, Reason::CannotScaleDown).join("");
            assert!(reported.starts_with("demo-1 was restarted and is not healthy"), "{reported}");
        }
        // The request is removed, or the member is fixed.
        if replicas < 3 && from > 2 {
            world.cluster.metadata.annotations = None;
            pass_until(&mut world, "RemoveMember demo-1");
        }
        world.silent.clear();
        world.settle();
        assert_up_to_date(&mut world);
    }
}

#[test]
fn each_member_is_confirmed_before_the_next_is_restarted() {
    let mut world = bootstrapped(5);
    annotate(&mut world, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        let before = world.taken.len();
        let plan = world.changes();
        world.pass();
        if world.taken.len() > before && world.taken[before].starts_with("RestartMember") {
            assert!(plan.certificates.is_empty() && plan.pods.is_empty() && objects(&plan).is_empty(), "{plan:#?}");
        }
    }
    assert_up_to_date(&mut world);
    assert_eq!(world.taken.iter().filter(|step| step.starts_with("RestartMember")).count(), 5);
    let pods = world.observed.members.values().map(|m| m.pod.as_ref().unwrap().metadata.annotations.clone().unwrap());
    assert!(pods.into_iter().all(|annotations| annotations[key::RESTARTED_AT] == "now"));
}

#[test]
fn clusters_without_redundancy_are_restarted_too() {
    for replicas in [1, 2] {
        let mut world = bootstrapped(replicas);
        annotate(&mut world, key::RESTARTED_AT, "now");
        world.settle();
        assert_up_to_date(&mut world);
        assert_eq!(
            world.taken.iter().filter(|step| step.starts_with("RestartMember")).count(),
            usize::try_from(replicas).unwrap()
        );
    }
}

#[test]
fn a_restart_never_loses_data_that_the_quorum_needs() {
    for replicas in [1, 2] {
        let mut world = bootstrapped(replicas);
        delete_claim(&mut world, 0);
        world.leader = world.id(0);
        annotate(&mut world, key::RESTARTED_AT, "now");
        for _ in 0..10 {
            let plan = world.pass().changes();
            let reported = notes(&plan.problems, Reason::ClaimLost).join("");
            assert!(
                reported.contains("as soon as its pod ends") && reported.contains("etcd-warden.dev/replace=demo-0"),
                "{reported}"
            );
        }
        assert!(!world.taken.iter().any(|step| step == "RestartMember demo-0"), "{:?}", world.taken);
        let plan = world.changes();
        assert_eq!(notes(&plan.problems, Reason::CannotRestart).len(), 1, "{:?}", plan.problems);
    }
}

#[test]
fn a_rolling_restart_waits_until_scaling_is_complete() {
    let mut world = bootstrapped(3);
    annotate(&mut world, key::RESTARTED_AT, "now");
    scale(&mut world, 4);
    world.settle();
    assert_up_to_date(&mut world);
    let promoted = world.taken.iter().position(|step| step == "Promote demo-3").unwrap();
    let restarted = world.taken.iter().position(|step| step.starts_with("RestartMember")).unwrap();
    assert!(promoted < restarted);
    assert_eq!(world.taken.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "demo-3 was new");
}
