//! Changing the resources of running pods.

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::{
    api::{EtcdClusterSpec, Reason},
    cluster::{
        fixtures::{Fixture, Resizes, names},
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
fn small() -> Fixture {
    let mut fixture = Fixture::bootstrapped(&format!("pod: {{ resources: {SMALL} }}"));
    fixture.taken.clear();
    fixture
}

fn set(fixture: &mut Fixture, yaml: &str) {
    fixture.cluster.spec.pod.resources = resources(yaml);
}

fn passes(fixture: &mut Fixture) {
    for _ in 0..60 {
        fixture.pass();
    }
}

/// How often a step was taken.
fn taken(fixture: &Fixture, step: &str) -> usize {
    fixture.taken.iter().filter(|taken| taken.starts_with(step)).count()
}

/// The uids of the pods.
fn uids(fixture: &Fixture) -> Vec<String> {
    let pods = fixture.observed.members.values().map(|member| member.pod.as_ref().unwrap());
    pods.map(|pod| pod.metadata.uid.clone().unwrap()).collect()
}

/// The members whose pods are being changed.
fn resizing(fixture: &Fixture) -> Vec<String> {
    let is_resizing = |member: &crate::cluster::observed::ObservedMember| {
        member.pod.as_ref().is_some_and(|pod| pod.metadata.annotations.as_ref().unwrap().contains_key(key::RESIZING))
    };
    fixture.observed.members.iter().filter(|(_, member)| is_resizing(member)).map(|(name, _)| name.to_string()).collect()
}

/// The memory limits in the specs of the pods.
fn limits(fixture: &Fixture) -> Vec<String> {
    let pods = fixture.observed.members.values().map(|member| member.pod.as_ref().unwrap().spec.as_ref().unwrap());
    let limit = |resources: &ResourceRequirements| resources.limits.as_ref().unwrap()["memory"].0.clone();
    pods.map(|spec| limit(spec.containers[0].resources.as_ref().unwrap())).collect()
}

/// Nothing is left to do, and pods and templates agree.
#[track_caller]
fn assert_settled(fixture: &mut Fixture, memory: &str) {
    let report = fixture.report().status;
    let progressing = report.conditions.iter().find(|condition| condition.type_ == "Progressing").unwrap();
    assert_eq!((progressing.status.as_str(), progressing.message.as_str()), ("False", "no changes pending"));
    assert!(fixture.is_idle());
    assert_eq!((limits(fixture), resizing(fixture)), (vec![memory.to_owned(); 3], vec![]));
    for member in fixture.observed.members.values() {
        let (pod, set) = (member.pod.as_ref().unwrap(), member.stateful_set.as_ref().unwrap());
        let template = set.spec.template.metadata.as_ref().unwrap().annotations.as_ref().unwrap();
        assert_eq!(pod.metadata.annotations.as_ref().unwrap()[key::SETTINGS], template[key::SETTINGS]);
    }
}

#[test]
fn pods_are_changed_while_they_run_one_after_the_other_and_the_leader_last() {
    let mut fixture = small();
    let (before, leader) = (uids(&fixture), format!("ResizeMember {}", names().member(0)));
    assert_eq!(fixture.leader, crate::cluster::fixtures::member_id(&names().member(0)));
    set(&mut fixture, LARGE);
    let mut changes = vec![];
    for _ in 0..60 {
        changes.extend(fixture.pass().report.status.change);
        assert!(resizing(&fixture).len() <= 1, "{:?}", resizing(&fixture));
    }
    assert_eq!((uids(&fixture), fixture.taken.len(), fixture.taken.last()), (before, 3, Some(&leader)), "{:?}", fixture.taken);
    changes.dedup();
    assert_eq!(changes, ["pod.resources (0/3)", "pod.resources (1/3)", "pod.resources (2/3)"]);
    assert_settled(&mut fixture, "512Mi");
    // The next pods have them as well.
    fixture.member(1).pod = None;
    passes(&mut fixture);
    assert_settled(&mut fixture, "512Mi");
}

#[test]
fn what_kubernetes_does_not_change_while_it_runs_is_restarted() {
    for resizes in [
        Resizes::Refused("the server could not find the requested resource"),
        Resizes::Not("PodResizePending", "Infeasible", "not with the static policy"),
    ] {
        let mut fixture = small();
        let before = uids(&fixture);
        fixture.resizes = resizes;
        set(&mut fixture, LARGE);
        let mut said = vec![];
        for _ in 0..60 {
            let pass = fixture.pass();
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
        assert!(uids(&fixture).iter().all(|uid| !before.contains(uid)));
        assert_eq!(taken(&fixture, "RestartMember"), 3, "{:?}", fixture.taken);
        fixture.resizes = Resizes::Done;
        passes(&mut fixture);
        assert_settled(&mut fixture, "512Mi");
    }
}

#[test]
fn a_node_without_room_is_waited_for() {
    let mut fixture = small();
    let before = uids(&fixture);
    fixture.resizes = Resizes::Not("PodResizePending", "Deferred", "Node didn't have enough resource: cpu");
    set(&mut fixture, LARGE);
    passes(&mut fixture);
    assert_eq!(
        (fixture.taken.as_slice(), resizing(&fixture)),
        (["ResizeMember demo-1".to_owned()].as_slice(), vec!["demo-1".to_owned()])
    );
    let said = notes(&fixture.changes().progress, Reason::Resizing);
    assert!(said[1].starts_with("the node of demo-1 does not have them now: Node didn't have enough resource: cpu."), "{said:?}");
    // There is room.
    fixture.resizes = Resizes::Done;
    fixture.pod(1).status.as_mut().unwrap().observed_generation = Some(1);
    passes(&mut fixture);
    assert_eq!((uids(&fixture), taken(&fixture, "RestartMember")), (before, 0));
    assert_settled(&mut fixture, "512Mi");
}

#[test]
fn resources_that_cannot_be_given_stop_at_the_first_member_and_are_taken_back() {
    let mut fixture = small();
    let before = uids(&fixture);
    fixture.resizes =
        Resizes::Not("PodResizeInProgress", "Error", "cannot decrease memory limits: limit (4194304) below usage (20971520)");
    set(&mut fixture, "{ requests: { cpu: 100m }, limits: { memory: 4Mi } }");
    passes(&mut fixture);
    assert_eq!(limits(&fixture), ["256Mi", "4Mi", "256Mi"]);
    let problems = notes(&fixture.changes().problems, Reason::CannotResize);
    let expected = "demo-1 is not given the resources of the spec: cannot decrease memory limits: limit below usage.";
    assert!(problems[0].starts_with(expected), "{problems:?}");
    // A restart that is requested gives them.
    let mut restarted = small();
    restarted.resizes = fixture.resizes;
    set(&mut restarted, "{ requests: { cpu: 100m }, limits: { memory: 4Mi } }");
    passes(&mut restarted);
    let annotations = restarted.cluster.metadata.annotations.get_or_insert_default();
    annotations.insert(key::RESTARTED_AT.into(), "now".into());
    passes(&mut restarted);
    assert_eq!(taken(&restarted, "RestartMember"), 3, "{:?}", restarted.taken);
    assert_settled(&mut restarted, "4Mi");

    fixture.resizes = Resizes::Done;
    set(&mut fixture, SMALL);
    passes(&mut fixture);
    assert_eq!((uids(&fixture), taken(&fixture, "ResizeMember"), fixture.taken.len()), (before, 2, 2), "{:?}", fixture.taken);
    assert_settled(&mut fixture, "256Mi");
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
        let mut fixture = small();
        edit(&mut fixture.cluster.spec);
        set(&mut fixture, LARGE);
        passes(&mut fixture);
        assert_eq!((taken(&fixture, "ResizeMember"), taken(&fixture, "RestartMember")), (0, 3), "{:?}", fixture.taken);
        assert_settled(&mut fixture, "512Mi");
    }
    let mut fixture = small();
    let template =
        "{ spec: { containers: [{ name: etcd, resizePolicy: [{ resourceName: memory, restartPolicy: RestartContainer }] }] } }";
    fixture.cluster.spec.pod.template = serde_saphyr::from_str(template).unwrap();
    passes(&mut fixture);
    fixture.taken.clear();
    set(&mut fixture, LARGE);
    passes(&mut fixture);
    assert_eq!((taken(&fixture, "ResizeMember"), taken(&fixture, "RestartMember")), (0, 3), "{:?}", fixture.taken);
    assert_settled(&mut fixture, "512Mi");
}

/// The kubelet would start its container only after minutes.
#[test]
fn a_member_that_crashes_is_restarted_with_more_memory() {
    let mut fixture = small();
    fixture.crash(1);
    fixture.pass();
    set(&mut fixture, LARGE);
    for _ in 0..60 {
        fixture.pass();
        if taken(&fixture, "RestartMember demo-1") > 0 {
            fixture.silent.clear();
        }
    }
    assert_eq!(fixture.taken.iter().filter(|step| !step.starts_with("MoveLeader")).count(), 3, "{:?}", fixture.taken);
    assert_eq!((taken(&fixture, "RestartMember demo-1"), taken(&fixture, "ResizeMember")), (1, 2), "{:?}", fixture.taken);
    assert_settled(&mut fixture, "512Mi");
}

#[test]
fn members_whose_data_is_in_their_pods_are_not_replaced() {
    let storage = "storage: { emptyDir: { sizeLimit: 4Gi } }";
    let mut fixture = Fixture::bootstrapped(&format!("{{ {storage}, pod: {{ resources: {SMALL} }} }}"));
    fixture.taken.clear();
    let before = uids(&fixture);
    set(&mut fixture, LARGE);
    passes(&mut fixture);
    assert_eq!((uids(&fixture), taken(&fixture, "ResizeMember"), fixture.taken.len()), (before, 3, 3), "{:?}", fixture.taken);
    assert_settled(&mut fixture, "512Mi");
}

#[test]
fn a_change_is_completed_or_taken_back_wherever_the_operator_dies() {
    for (goes_back, expected) in [(false, "512Mi"), (true, "256Mi")] {
        for after in 0..14 {
            let mut fixture = small();
            let before = uids(&fixture);
            set(&mut fixture, LARGE);
            fixture.dies_after = Some(after);
            (0..30).for_each(|_| drop(fixture.pass()));
            fixture.dies_after = None;
            if goes_back {
                set(&mut fixture, SMALL);
            }
            passes(&mut fixture);
            assert_eq!((uids(&fixture), taken(&fixture, "RestartMember")), (before, 0), "{after}: {:?}", fixture.taken);
            assert_settled(&mut fixture, expected);
        }
    }
}
