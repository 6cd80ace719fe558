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
        fixtures::{Fixture, SECOND, names, objects},
        observed::ObservedMember,
        plan::tests::{Change, ONE, annotate, assert_up_to_date, bootstrapped, changes, delete_claim, notes, pass_until, scale},
        steps::Step,
    },
    kubernetes::ownership::annotation,
    names::annotation as key,
};

/// A member whose image could not be pulled, after its StatefulSet has changed.
fn unstarted() -> Fixture {
    let mut fixture = Fixture::new(ONE);
    for _ in 0..3 {
        fixture.pass();
    }
    fixture.plan();
    fixture.kubelet = false;
    let member = fixture.member(0);
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
    fixture
}

fn plans_restart(fixture: &mut Fixture) -> bool {
    matches!(fixture.changes().step, Some(Step::RestartMember(_)))
}

/// A service mesh adds its container before that of etcd. Its arguments are not those of etcd.
#[test]
fn a_container_that_others_added_is_no_reason_for_a_restart() {
    let mut fixture = bootstrapped(3);
    for _ in 0..10 {
        fixture.inject_sidecars();
        fixture.pass();
    }
    assert_eq!(fixture.taken, Vec::<String>::new());
    assert_up_to_date(&mut fixture);
    // Its own restarts and its own image count for nothing either.
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        fixture.inject_sidecars();
        fixture.pass();
    }
    fixture.taken.retain(|step| step.starts_with("RestartMember"));
    assert_eq!(fixture.taken.len(), 3, "{:?}", fixture.taken);
    assert_up_to_date(&mut fixture);
}

/// A policy that rewrites the registry of images, as Kyverno's does.
fn use_mirror(set: &mut StatefulSet) {
    let image = set.spec.template.spec.as_mut().unwrap().containers[0].image.as_mut().unwrap();
    if !image.starts_with("mirror/") {
        image.insert_str(0, "mirror/");
    }
}

/// A cluster whose StatefulSets a policy has changed.
fn mirrored() -> Fixture {
    let mut fixture = bootstrapped(3);
    fixture.webhook = Some(use_mirror);
    fixture.cluster.spec.image.pull_policy = PullPolicy::Always;
    fixture.pass();
    fixture
}

#[test]
fn a_field_that_a_webhook_rewrites_is_reported_and_not_fought() {
    let mut fixture = mirrored();
    for _ in 0..10 {
        let changes = fixture.pass().changes();
        assert_eq!(objects(&changes), Vec::<String>::new());
        assert_eq!(changes.problems.len(), 3);
        let message = &changes.problems[0].message;
        let field = "StatefulSet demo-0: each time that etcd-warden applies spec.template.spec.containers[etcd].image \
                     (\"mirror/gcr.io/etcd-development/etcd:v3.6.16\" instead of \"gcr.io/etcd-development/etcd:v3.6.16\")";
        assert!(message.starts_with(field), "{message}");
        assert!(changes.problems.iter().all(|note| note.reason == Reason::FieldOverwritten));
    }
    // A change by hand of another field is reverted nevertheless.
    fixture.member(1).stateful_set.as_mut().unwrap().spec.service_name = Some("other".into());
    assert_eq!(objects(&fixture.pass().changes()), ["StatefulSet demo-1"]);
    assert_eq!(objects(&fixture.pass().changes()), Vec::<String>::new());
    // It is tried again after a while. Without the policy that helps.
    fixture.webhook = None;
    fixture.now += SECOND * 600;
    assert_eq!(objects(&fixture.pass().changes()), ["StatefulSet demo-0", "StatefulSet demo-1", "StatefulSet demo-2"]);
    assert_up_to_date(&mut fixture);
}

#[test]
fn a_field_that_a_webhook_rewrites_blocks_neither_restarts_nor_rotations() {
    let mut fixture = mirrored();
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        fixture.pass();
    }
    let restarts = |fixture: &Fixture| fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts(&fixture), 3, "{:?}", fixture.taken);
    annotate(&mut fixture, key::ROTATE_CA, "peer");
    for _ in 0..400 {
        fixture.pass();
    }
    assert!(fixture.taken.iter().any(|step| step.starts_with("FinishRotation")), "{:?}", fixture.taken);
}

/// Otherwise it would be restarted again and again.
#[test]
fn a_member_is_not_restarted_if_its_template_has_lost_what_the_restart_is_for() {
    let mut fixture = bootstrapped(3);
    fixture.webhook = Some(|set| {
        set.spec.template.metadata.as_mut().unwrap().annotations.as_mut().unwrap().remove(key::RESTARTED_AT);
    });
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        fixture.pass();
    }
    assert_eq!(fixture.taken, Vec::<String>::new());
    assert!(fixture.changes().problems[0].message.contains("spec.template.metadata.annotations[etcd-warden.dev/restarted-at]"));
}

/// Its answer to the write is as desired, but it is changed again later.
#[test]
fn a_controller_that_changes_a_field_again_and_again_is_not_fought_for_ever() {
    let mut fixture = bootstrapped(3);
    let change = |fixture: &mut Fixture| use_mirror(fixture.member(0).stateful_set.as_mut().unwrap());
    for _ in 0..5 {
        change(&mut fixture);
        assert_eq!(objects(&fixture.pass().changes()), ["StatefulSet demo-0"]);
    }
    change(&mut fixture);
    let changes = fixture.pass().changes();
    assert_eq!((objects(&changes), changes.problems[0].reason), (vec![], Reason::FieldOverwritten));
    // By hand, it is done less often.
    let mut fixture = bootstrapped(3);
    for _ in 0..20 {
        change(&mut fixture);
        assert_eq!(objects(&fixture.pass().changes()), ["StatefulSet demo-0"]);
        fixture.now += SECOND * 600;
    }
}

/// A container that a service mesh adds may have to start before that of etcd.
#[test]
fn a_pod_whose_added_container_cannot_start_is_recreated_from_a_changed_template() {
    let stuck = |etcd_has_run: bool| {
        let mut fixture = unstarted();
        fixture.inject_sidecars();
        let statuses = fixture.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0].state = statuses[1].state.take();
        if etcd_has_run {
            statuses[1].state =
                Some(ContainerState { running: Some(ContainerStateRunning::default()), ..ContainerState::default() });
        }
        plans_restart(&mut fixture)
    };
    assert!(stuck(false));
    assert!(!stuck(true));
}

/// It may already run although the kubelet has not reported it yet, and the quorum may need it.
#[test]
fn a_pod_that_is_being_created_is_not_restarted() {
    for reason in ["ContainerCreating", "PodInitializing"] {
        let mut fixture = unstarted();
        assert!(plans_restart(&mut fixture));
        let status = &mut fixture.pod(0).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
        status.state.as_mut().unwrap().waiting.as_mut().unwrap().reason = Some(reason.into());
        assert!(!plans_restart(&mut fixture), "{reason}");
    }
}

/// It runs, but neither the operator nor the kubelet has ever found it serving.
#[test]
fn a_pod_that_has_never_served_is_recreated_from_a_changed_template() {
    let silent = || {
        let mut fixture = unstarted();
        let since = Time(fixture.now - SECOND * 60);
        let running = ContainerStateRunning { started_at: Some(since) };
        let pod = fixture.pod(0);
        let container = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
        container.state = Some(ContainerState { running: Some(running), ..ContainerState::default() });
        pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
        fixture.silent.insert(names().member(0));
        fixture
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
        let mut fixture = silent();
        change(&mut fixture);
        assert!(!plans_restart(&mut fixture), "{why_not}");
    }
    // The kubelet's clock is behind that of the operator, which has just seen it start.
    let mut fixture = silent();
    assert!(plans_restart(&mut fixture));
    fixture.member(0).seen_running = SECOND * 59;
    let plan = fixture.plan_on(&fixture.observed);
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
        let mut fixture = unstarted();
        change(&mut fixture);
        assert!(!plans_restart(&mut fixture), "{why_not}");
    }
}

// Restarting.

#[test]
fn an_image_of_another_version_stops_a_rolling_restart_at_the_first_member() {
    let mut fixture = bootstrapped(3);
    fixture.leader = fixture.id(0);
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    pass_until(&mut fixture, "RestartMember demo-1");
    fixture.versions.insert(names().member(1), "3.6.15".into());
    for _ in 0..10 {
        fixture.pass();
    }
    let reported = notes(&fixture.changes().problems, Reason::CannotRestart);
    assert_eq!(
        reported,
        [
            "demo-1 runs etcd 3.6.15 since its restart, but spec.version is 3.6.16: no other member is restarted with that image. When it is fixed, set annotation etcd-warden.dev/restarted-at to another value"
        ]
    );
    assert_eq!(changes(&fixture), ["RestartMember demo-1"]);

    // The image is fixed.
    fixture.versions.clear();
    annotate(&mut fixture, key::RESTARTED_AT, "again");
    fixture.settle();
    assert_up_to_date(&mut fixture);

    // If all members run another version, a restart does not change that.
    annotate(&mut fixture, key::RESTARTED_AT, "once more");
    fixture.versions = (0..3).map(|ordinal| (names().member(ordinal), "3.6.15".into())).collect();
    fixture.settle();
    let plan = fixture.changes();
    assert!(plan.is_empty() && plan.progress.is_empty(), "{plan:?}");
    assert_eq!(notes(&plan.problems, Reason::CannotChangeVersion).len(), 1, "it is reported: {:?}", plan.problems);
    let restarted =
        |member: &ObservedMember| annotation(&member.pod.as_ref().unwrap().metadata, key::RESTARTED_AT) == Some("once more");
    assert!(fixture.observed.members.values().all(restarted));
}

#[test]
fn a_rolling_restart_begins_with_unhealthy_members_and_ends_with_the_leader() {
    let mut fixture = bootstrapped(3);
    fixture.leader = fixture.id(0);
    fixture.silent.insert(names().member(2));
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    pass_until(&mut fixture, "RestartMember demo-2");
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!(changes(&fixture), ["RestartMember demo-2"], "it is not healthy yet, and the others are not restarted");
    fixture.silent.clear();
    fixture.settle();
    assert_up_to_date(&mut fixture);
    assert_eq!(changes(&fixture), ["RestartMember demo-2", "RestartMember demo-1", "MoveLeader demo-0", "RestartMember demo-0"]);
}

#[test]
fn leadership_moves_to_the_voter_with_the_longest_log() {
    for (behind, expected) in [(None, 0), (Some(0), 1), (Some(1), 0)] {
        let mut fixture = bootstrapped(3);
        fixture.leader = fixture.id(2);
        if let Some(behind) = behind {
            fixture.revisions.insert(names().member(behind), 99);
        }
        scale(&mut fixture, 2);
        let Some(Step::MoveLeader(step)) = fixture.changes().step else { panic!("{:#?}", fixture.plan()) };
        assert_eq!((step.successor, step.to), (names().member(expected), fixture.id(expected)));
    }
}

/// The restarted member is not healthy, and the cluster is scaled down meanwhile.
#[test]
fn a_bad_template_stops_at_the_first_member_even_if_the_cluster_is_scaled_down() {
    for (from, replicas) in [(5, 3), (5, 1), (3, 1), (3, 2), (2, 1)] {
        let mut fixture = bootstrapped(from);
        fixture.leader = fixture.id(0);
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        pass_until(&mut fixture, "RestartMember demo-1");
        fixture.silent.insert(names().member(1));
        scale(&mut fixture, replicas);
        for _ in 0..20 {
            let before = fixture.taken.len();
            fixture.pass();
            for step in &fixture.taken[before..] {
                assert!(!step.starts_with("RestartMember") && !step.starts_with("RemoveMember"), "{:?}", fixture.taken);
            }
        }
        // Longer than a restart may take.
        fixture.now += SECOND * 60;
        let plan = fixture.changes();
        if from > 2 {
            let reported = notes(&plan.problems, Reason::CannotScaleDown).join("");
            assert!(reported.starts_with("demo-1 was restarted and is not healthy"), "{reported}");
        }
        // The request is removed, or the member is fixed.
        if replicas < 3 && from > 2 {
            fixture.cluster.metadata.annotations = None;
            pass_until(&mut fixture, "RemoveMember demo-1");
        }
        fixture.silent.clear();
        fixture.settle();
        assert_up_to_date(&mut fixture);
    }
}

#[test]
fn each_member_is_confirmed_before_the_next_is_restarted() {
    let mut fixture = bootstrapped(5);
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    for _ in 0..60 {
        let before = fixture.taken.len();
        let plan = fixture.changes();
        fixture.pass();
        if fixture.taken.len() > before && fixture.taken[before].starts_with("RestartMember") {
            assert!(plan.certificates.is_empty() && plan.pods.is_empty() && objects(&plan).is_empty(), "{plan:#?}");
        }
    }
    assert_up_to_date(&mut fixture);
    assert_eq!(fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count(), 5);
    let pods = fixture.observed.members.values().map(|m| m.pod.as_ref().unwrap().metadata.annotations.clone().unwrap());
    assert!(pods.into_iter().all(|annotations| annotations[key::RESTARTED_AT] == "now"));
}

#[test]
fn clusters_without_redundancy_are_restarted_too() {
    for replicas in [1, 2] {
        let mut fixture = bootstrapped(replicas);
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        fixture.settle();
        assert_up_to_date(&mut fixture);
        assert_eq!(
            fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count(),
            usize::try_from(replicas).unwrap()
        );
    }
}

#[test]
fn a_restart_never_loses_data_that_the_quorum_needs() {
    for replicas in [1, 2] {
        let mut fixture = bootstrapped(replicas);
        delete_claim(&mut fixture, 0);
        fixture.leader = fixture.id(0);
        annotate(&mut fixture, key::RESTARTED_AT, "now");
        for _ in 0..10 {
            let plan = fixture.pass().changes();
            let reported = notes(&plan.problems, Reason::ClaimLost).join("");
            assert!(
                reported.contains("as soon as its pod ends") && reported.contains("etcd-warden.dev/replace=demo-0"),
                "{reported}"
            );
        }
        assert!(!fixture.taken.iter().any(|step| step == "RestartMember demo-0"), "{:?}", fixture.taken);
        let plan = fixture.changes();
        assert_eq!(notes(&plan.problems, Reason::CannotRestart).len(), 1, "{:?}", plan.problems);
    }
}

#[test]
fn a_rolling_restart_waits_until_scaling_is_complete() {
    let mut fixture = bootstrapped(3);
    annotate(&mut fixture, key::RESTARTED_AT, "now");
    scale(&mut fixture, 4);
    fixture.settle();
    assert_up_to_date(&mut fixture);
    let promoted = fixture.taken.iter().position(|step| step == "Promote demo-3").unwrap();
    let restarted = fixture.taken.iter().position(|step| step.starts_with("RestartMember")).unwrap();
    assert!(promoted < restarted);
    assert_eq!(fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "demo-3 was new");
}
