//! Changing the resources of running pods.

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::{
    api::{EtcdClusterSpec, Reason},
    cluster::{
        fixtures::{Resizes, World, names},
        plan::tests::notes,
    },
    names::annotation as key,
};

const SMALL: &str = "{ requests: { cpu: 100m }, limits: { memory: 256Mi } }";
const LARGE: &str = "{ requests: { cpu: 200m }, limits: { memory: 512Mi } }";

fn resources(yaml: &str) -> ResourceRequirements {
    serde_saphyr::from_str(yaml).unwrap()
}

/// A cluster with small pods.
fn small() -> World {
    let mut world = World::bootstrapped(&format!("pod: {{ resources: {SMALL} }}"));
    world.taken.clear();
    world
}

fn set(world: &mut World, yaml: &str) {
    world.cluster.spec.pod.resources = resources(yaml);
}

fn passes(world: &mut World) {
    for _ in 0..60 {
        world.pass();
    }
}

/// How often a step was taken.
fn taken(world: &World, step: &str) -> usize {
    world.taken.iter().filter(|taken| taken.starts_with(step)).count()
}

/// The uids of the pods.
fn uids(world: &World) -> Vec<String> {
    let pods = world.observed.members.values().map(|member| member.pod.as_ref().unwrap());
    pods.map(|pod| pod.metadata.uid.clone().unwrap()).collect()
}

/// The members whose pods are being changed.
fn resizing(world: &World) -> Vec<String> {
    let is_resizing = |member: &crate::cluster::observed::ObservedMember| {
        member.pod.as_ref().is_some_and(|pod| pod.metadata.annotations.as_ref().unwrap().contains_key(key::RESIZING))
    };
    world.observed.members.iter().filter(|(_, member)| is_resizing(member)).map(|(name, _)| name.to_string()).collect()
}

/// The memory limits in the specs of the pods.
fn limits(world: &World) -> Vec<String> {
    let pods = world.observed.members.values().map(|member| member.pod.as_ref().unwrap().spec.as_ref().unwrap());
    let limit = |resources: &ResourceRequirements| resources.limits.as_ref().unwrap()["memory"].0.clone();
    pods.map(|spec| limit(spec.containers[0].resources.as_ref().unwrap())).collect()
}

/// Nothing is left to do, and pods and templates agree.
#[track_caller]
fn assert_settled(world: &mut World, memory: &str) {
    let report = world.report().status;
    let progressing = report.conditions.iter().find(|condition| condition.type_ == "Progressing").unwrap();
    assert_eq!((progressing.status.as_str(), progressing.message.as_str()), ("False", "no changes pending"));
    assert!(world.is_idle());
    assert_eq!((limits(world), resizing(world)), (vec![memory.to_owned(); 3], vec![]));
    for member in world.observed.members.values() {
        let (pod, set) = (member.pod.as_ref().unwrap(), member.stateful_set.as_ref().unwrap());
        let template = set.spec.template.metadata.as_ref().unwrap().annotations.as_ref().unwrap();
        assert_eq!(pod.metadata.annotations.as_ref().unwrap()[key::SETTINGS], template[key::SETTINGS]);
    }
}

#[test]
fn pods_are_changed_while_they_run_one_after_the_other_and_the_leader_last() {
    let mut world = small();
    let (before, leader) = (uids(&world), format!("ResizeMember {}", names().member(0)));
    assert_eq!(world.leader, crate::cluster::fixtures::member_id(&names().member(0)));
    set(&mut world, LARGE);
    let mut changes = vec![];
    for _ in 0..60 {
        changes.extend(world.pass().report.status.change);
        assert!(resizing(&world).len() <= 1, "{:?}", resizing(&world));
    }
    assert_eq!((uids(&world), world.taken.len(), world.taken.last()), (before, 3, Some(&leader)), "{:?}", world.taken);
    changes.dedup();
    assert_eq!(changes, ["pod.resources (0/3)", "pod.resources (1/3)", "pod.resources (2/3)"]);
    assert_settled(&mut world, "512Mi");
    // The next pods have them as well.
    world.member(1).pod = None;
    passes(&mut world);
    assert_settled(&mut world, "512Mi");
}

#[test]
fn what_kubernetes_does_not_change_while_it_runs_is_restarted() {
    for resizes in [
        Resizes::Refused("the server could not find the requested resource"),
        Resizes::Not("PodResizePending", "Infeasible", "not with the static policy"),
    ] {
        let mut world = small();
        let before = uids(&world);
        world.resizes = resizes;
        set(&mut world, LARGE);
        let mut said = vec![];
        for _ in 0..60 {
            let pass = world.pass();
            let degraded = pass.report.status.conditions.iter().find(|condition| condition.type_ == "Degraded").unwrap();
            assert_eq!(degraded.status, "False", "{}", degraded.message);
            said.extend(notes(&pass.changes().progress, Reason::RollingRestart));
        }
        let expected = match resizes {
            Resizes::Refused(words) => words,
            _ => "not with the static policy",
        };
        let first = "3 of 3 members have yet to be restarted";
        assert!(said.iter().all(|message| !message.starts_with(first)), "the others are not tried before: {said:?}");
        let expected = format!(
            "1 of 3 members have yet to be restarted (pod.resources); Kubernetes does not change demo-1 while it runs: {expected}"
        );
        assert_eq!(said[0], expected);
        assert!(uids(&world).iter().all(|uid| !before.contains(uid)));
        assert_eq!(taken(&world, "RestartMember"), 3, "{:?}", world.taken);
        world.resizes = Resizes::Done;
        passes(&mut world);
        assert_settled(&mut world, "512Mi");
    }
}

#[test]
fn a_node_without_room_is_waited_for() {
    let mut world = small();
    let before = uids(&world);
    world.resizes = Resizes::Not("PodResizePending", "Deferred", "Node didn't have enough resource: cpu");
    set(&mut world, LARGE);
    passes(&mut world);
    assert_eq!(
        (world.taken.as_slice(), resizing(&world)),
        (["ResizeMember demo-1".to_owned()].as_slice(), vec!["demo-1".to_owned()])
    );
    let said = notes(&world.changes().progress, Reason::Resizing);
    assert!(said[1].starts_with("the node of demo-1 does not have them now: Node didn't have enough resource: cpu."), "{said:?}");
    // There is room.
    world.resizes = Resizes::Done;
    world.pod(1).status.as_mut().unwrap().observed_generation = Some(1);
    passes(&mut world);
    assert_eq!((uids(&world), taken(&world, "RestartMember")), (before, 0));
    assert_settled(&mut world, "512Mi");
}

#[test]
fn resources_that_cannot_be_given_stop_at_the_first_member_and_are_taken_back() {
    let mut world = small();
    let before = uids(&world);
    world.resizes =
        Resizes::Not("PodResizeInProgress", "Error", "cannot decrease memory limits: limit (4194304) below usage (20971520)");
    set(&mut world, "{ requests: { cpu: 100m }, limits: { memory: 4Mi } }");
    passes(&mut world);
    assert_eq!(limits(&world), ["256Mi", "4Mi", "256Mi"]);
    let problems = notes(&world.changes().problems, Reason::CannotResize);
    let expected = "demo-1 is not given the resources of the spec: cannot decrease memory limits: limit below usage.";
    assert!(problems[0].starts_with(expected), "{problems:?}");
    // A restart that is requested gives them.
    let mut restarted = small();
    restarted.resizes = world.resizes;
    set(&mut restarted, "{ requests: { cpu: 100m }, limits: { memory: 4Mi } }");
    passes(&mut restarted);
    let annotations = restarted.cluster.metadata.annotations.get_or_insert_default();
    annotations.insert(key::RESTARTED_AT.into(), "now".into());
    passes(&mut restarted);
    assert_eq!(taken(&restarted, "RestartMember"), 3, "{:?}", restarted.taken);
    assert_settled(&mut restarted, "4Mi");

    world.resizes = Resizes::Done;
    set(&mut world, SMALL);
    passes(&mut world);
    assert_eq!((uids(&world), taken(&world, "ResizeMember"), world.taken.len()), (before, 2, 2), "{:?}", world.taken);
    assert_settled(&mut world, "256Mi");
}

#[test]
fn resources_that_are_changed_with_what_needs_a_restart_come_with_it() {
    for edit in [
        (|spec| spec.etcd.election_timeout.0 = "2s".into()) as fn(&mut EtcdClusterSpec),
        |spec| spec.version = "3.6.17".into(),
        // Its process reads that once.
        |spec| {
            let variable = "{ name: GOMEMLIMIT, valueFrom: { resourceFieldRef: { resource: limits.memory } } }";
            let template = format!("{{ spec: {{ containers: [{{ name: etcd, env: [{variable}] }}] }} }}");
            spec.pod.template = serde_saphyr::from_str(&template).unwrap();
        },
    ] {
        let mut world = small();
        edit(&mut world.cluster.spec);
        set(&mut world, LARGE);
        passes(&mut world);
        assert_eq!((taken(&world, "ResizeMember"), taken(&world, "RestartMember")), (0, 3), "{:?}", world.taken);
        assert_settled(&mut world, "512Mi");
    }
    let mut world = small();
    let template =
        "{ spec: { containers: [{ name: etcd, resizePolicy: [{ resourceName: memory, restartPolicy: RestartContainer }] }] } }";
    world.cluster.spec.pod.template = serde_saphyr::from_str(template).unwrap();
    passes(&mut world);
    world.taken.clear();
    set(&mut world, LARGE);
    passes(&mut world);
    assert_eq!((taken(&world, "ResizeMember"), taken(&world, "RestartMember")), (0, 3), "{:?}", world.taken);
    assert_settled(&mut world, "512Mi");
}

/// The kubelet would start its container only after minutes.
#[test]
fn a_member_that_crashes_is_restarted_with_more_memory() {
    let mut world = small();
    world.crash(1);
    world.pass();
    set(&mut world, LARGE);
    for _ in 0..60 {
        world.pass();
        if taken(&world, "RestartMember demo-1") > 0 {
            world.silent.clear();
        }
    }
    assert_eq!(world.taken.iter().filter(|step| !step.starts_with("MoveLeader")).count(), 3, "{:?}", world.taken);
    assert_eq!((taken(&world, "RestartMember demo-1"), taken(&world, "ResizeMember")), (1, 2), "{:?}", world.taken);
    assert_settled(&mut world, "512Mi");
}

#[test]
fn members_whose_data_is_in_their_pods_are_not_replaced() {
    let storage = "storage: { emptyDir: { sizeLimit: 4Gi } }";
    let mut world = World::bootstrapped(&format!("{{ {storage}, pod: {{ resources: {SMALL} }} }}"));
    world.taken.clear();
    let before = uids(&world);
    set(&mut world, LARGE);
    passes(&mut world);
    assert_eq!((uids(&world), taken(&world, "ResizeMember"), world.taken.len()), (before, 3, 3), "{:?}", world.taken);
    assert_settled(&mut world, "512Mi");
}

#[test]
fn a_change_is_completed_or_taken_back_wherever_the_operator_dies() {
    for (goes_back, expected) in [(false, "512Mi"), (true, "256Mi")] {
        for after in 0..14 {
            let mut world = small();
            let before = uids(&world);
            set(&mut world, LARGE);
            world.dies_after = Some(after);
            (0..30).for_each(|_| drop(world.pass()));
            world.dies_after = None;
            if goes_back {
                set(&mut world, SMALL);
            }
            passes(&mut world);
            assert_eq!((uids(&world), taken(&world, "RestartMember")), (before, 0), "{after}: {:?}", world.taken);
            assert_settled(&mut world, expected);
        }
    }
}
