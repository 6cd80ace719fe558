use std::ops::Range;

use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStateWaiting, ContainerStatus, PodCondition, ResourceRequirements},
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{Condition, Time},
    },
};
use kube::runtime::events::{Event, EventType};
use proptest::prelude::*;

use super::{Input, report};
use crate::{
    api::{self, ClientAuth, ConditionType, EtcdClusterStatus, MemberRole, MemberStatus, Reason},
    cluster::{
        facts::Facts,
        fixtures::{CLUSTER_ID, Fixture, SECOND, names},
        observed::Probe,
        outcome::{Decision, Outcome},
        status::metrics,
        validate::Invalid,
    },
    etcd::Progress,
    ids::{ClusterId, MemberId, Uid},
    member_pod::running_since,
    metrics::ClusterState,
    names::{annotation as key, member_key},
    pki::{Domain, Phase},
    reporting::{event::event, note::Note, publish::Report},
};

const ONE: &str = "replicas: 1";
const THREE: &str = "{}";

fn condition(report: &Report, kind: ConditionType) -> &Condition {
    api::condition(&report.status.conditions, kind).unwrap()
}

/// Status and reason of each condition, in the order of the status.
fn conditions(report: &Report) -> [(&str, &str); 4] {
    let kinds = [ConditionType::Available, ConditionType::Progressing, ConditionType::Degraded, ConditionType::CertificatesReady];
    kinds.map(|kind| {
        let condition = condition(report, kind);
        (condition.status.as_str(), condition.reason.as_str())
    })
}

fn reasons(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.reason.as_str()).collect()
}

fn note(event: &Event) -> &str {
    event.note.as_deref().unwrap()
}

/// The report of a cluster whose spec is invalid.
fn report_invalid(fixture: &Fixture, problem: &str) -> Report {
    let uid = Uid::of(&fixture.cluster.metadata).unwrap();
    let (names, observed, now) = (&names(), &fixture.observed, fixture.now);
    let facts = &Facts::of(names, &uid, observed, now);
    let decision = &Decision::Invalid(Invalid(vec![problem.into()]));
    report(&Input { cluster: &fixture.cluster, observed, facts, decision, outcome: &Outcome::default(), now })
}

/// The metrics after a pass that reports this status.
fn state(fixture: &mut Fixture, status: &EtcdClusterStatus) -> ClusterState {
    let decision = Decision::Planned(fixture.valid(), fixture.plan());
    metrics::state(status, &fixture.observed, &decision)
}

fn set_not_ready(fixture: &mut Fixture, ordinal: u32) {
    let conditions = fixture.pod(ordinal).status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0] = PodCondition { type_: "Ready".into(), status: "False".into(), ..PodCondition::default() };
}

#[test]
fn a_new_cluster_reports_its_pending_members_and_certificates() {
    let mut fixture = Fixture::new(THREE);
    let first = fixture.pass().report;
    assert_eq!(
        conditions(&first),
        [("False", "Bootstrapping"), ("True", "WaitingForMembers"), ("False", "Healthy"), ("False", "Issuing")]
    );
    assert_eq!(reasons(&first.events), Vec::<&str>::new(), "there is nothing to announce yet");
    assert_eq!(first.status.ready.as_deref(), Some("0/3"));
    let second = fixture.pass().report;
    let progress = &condition(&second, ConditionType::Progressing).message;
    assert_eq!(progress, "demo-0: it has no pod yet; demo-1: it has no pod yet; demo-2: it has no pod yet");
    let issuing = &condition(&second, ConditionType::CertificatesReady).message;
    assert!(
        issuing.contains("issuing certificates in Secret demo-1-tls: server.crt, peer.crt, client.crt (does not exist)"),
        "{issuing}"
    );
}

#[test]
fn a_healthy_cluster_is_announced_once() {
    let mut fixture = Fixture::new(THREE);
    let mut announced = vec![];
    for _ in 0..10 {
        announced.extend(fixture.pass().report.events);
    }
    assert_eq!(reasons(&announced), ["QuorumHealthy"]);
    let report = fixture.report();
    assert_eq!(
        conditions(&report),
        [("True", "QuorumHealthy"), ("False", "UpToDate"), ("False", "Healthy"), ("True", "CertificatesServed")]
    );
    let status = &report.status;
    assert_eq!((status.ready.as_deref(), status.ready_replicas, status.replicas), (Some("3/3"), 3, 3));
    assert_eq!(status.cluster_id, Some(CLUSTER_ID));
    assert_eq!(status.endpoints, ["https://demo.ns.svc:2379"]);
    assert_eq!(
        status.selector.as_deref(),
        Some("app.kubernetes.io/instance=demo,app.kubernetes.io/managed-by=etcd-warden,app.kubernetes.io/name=etcd")
    );
    let member = &status.members[1];
    assert_eq!((member.name.as_str(), member.id, member.role), ("demo-1", Some(MemberId(0xa1)), Some(MemberRole::Follower)));
    assert_eq!((member.db_size.as_deref(), member.version.as_deref()), (Some("1Mi"), Some("3.6.16")));
    assert_eq!(member.certificate_expires, Some(Time("2026-05-30T12:00:01Z".parse().unwrap())));
    assert_eq!(status.members[0].role, Some(MemberRole::Leader));
    let certificates = status.certificates.as_ref().unwrap();
    assert_eq!(certificates.client.as_ref().unwrap().active.name, "demo client 0a1b2c3d 1");
    assert_eq!(certificates.peer.as_ref().unwrap().next.name, "demo peer 0a1b2c3d 2");
}

#[test]
fn an_idle_pass_changes_nothing() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let before = fixture.observed.status.clone();
    for _ in 0..5 {
        fixture.now += SignedDuration::from_hours(100);
        let report = fixture.report();
        assert_eq!(report.status, before);
        assert_eq!(reasons(&report.events), Vec::<&str>::new());
    }
}

#[test]
fn a_member_that_is_down_is_announced_once() {
    let mut fixture = Fixture::bootstrapped(THREE);
    set_not_ready(&mut fixture, 2);
    fixture.silent.insert(names().member(2));
    let down = fixture.pass().report;
    assert_eq!(
        conditions(&down),
        [("True", "QuorumHealthy"), ("True", "WaitingForMembers"), ("True", "MemberDown"), ("True", "CertificatesServed")]
    );
    assert_eq!(condition(&down, ConditionType::Available).message, "2 of 3 voters are healthy");
    assert_eq!(condition(&down, ConditionType::Degraded).message, "demo-2: connection refused");
    assert_eq!(reasons(&down.events), ["MemberDown"]);
    assert!(matches!(down.events[0].type_, EventType::Warning));
    assert_eq!(down.status.ready.as_deref(), Some("2/3"));
    let member = &down.status.members[2];
    assert_eq!((member.ready, member.role, member.id), (false, None, Some(MemberId(0xa2))));
    assert_eq!(member.message.as_deref(), Some("connection refused"));
    assert_eq!(reasons(&fixture.pass().report.events), Vec::<&str>::new());

    fixture.silent.clear();
    fixture.pod(2).status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
    let up = fixture.pass().report;
    assert_eq!(reasons(&up.events), ["Healthy"]);
    assert!(matches!(up.events[0].type_, EventType::Normal));
}

/// With `@` for good; without, as long as the annotation exists and for two hours.
#[test]
fn completed_requests_are_remembered() {
    let remembered = |fixture: &Fixture| {
        let requests = fixture.observed.status.requests.iter();
        requests.map(|request| format!("{}={}", request.name, request.value)).collect::<Vec<_>>()
    };
    let set = |fixture: &mut Fixture, value: Option<&str>| {
        let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
        annotations.remove(key::REPLACE);
        annotations.extend(value.map(|value| (key::REPLACE.to_owned(), value.to_owned())));
    };
    let replaced = |fixture: &Fixture| fixture.taken.iter().filter(|step| *step == "RemoveMember demo-1").count();
    for (value, other) in [("demo-1", "demo-1@2"), ("demo-1@1", "demo-1")] {
        let mut fixture = Fixture::bootstrapped(THREE);
        fixture.taken.clear();
        set(&mut fixture, Some(value));
        fixture.settle();
        assert_eq!((replaced(&fixture), remembered(&fixture)), (1, vec![format!("replace={value}")]));
        assert_eq!(fixture.cluster.metadata.annotations, Some([].into()));
        // The manifest is applied again, and is there for a long time.
        set(&mut fixture, Some(value));
        fixture.settle();
        fixture.now += SignedDuration::from_hours(3);
        fixture.settle();
        assert_eq!((replaced(&fixture), remembered(&fixture)), (1, vec![format!("replace={value}")]));
        let message = condition(&fixture.report(), ConditionType::Progressing).message.clone();
        assert!(message.contains(&format!("annotation replace={value} was completed before")), "{message}");
        // Without the annotation a request without @ is forgotten.
        set(&mut fixture, None);
        fixture.settle();
        assert_eq!(remembered(&fixture).is_empty(), !value.contains('@'));
        set(&mut fixture, Some(other));
        fixture.settle();
        assert_eq!((replaced(&fixture), remembered(&fixture)), (2, vec![format!("replace={other}")]));
    }
}

fn container(fixture: &mut Fixture, ordinal: u32) -> &mut ContainerStatus {
    &mut fixture.pod(ordinal).status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0]
}

/// Marks the last end of a member's container as caused by its memory limit of 8Mi.
fn set_out_of_memory(fixture: &mut Fixture, ordinal: u32) {
    fixture.crash(ordinal);
    let claim = fixture.member(ordinal).claim.as_mut().unwrap();
    claim.status.get_or_insert_default().phase = Some("Bound".into());
    let pod = fixture.pod(ordinal);
    let limits = Some([("memory".to_owned(), Quantity("8Mi".into()))].into());
    pod.spec.as_mut().unwrap().containers[0].resources = Some(ResourceRequirements { limits, ..ResourceRequirements::default() });
    let last = container(fixture, ordinal).last_state.as_mut().unwrap().terminated.as_mut().unwrap();
    (last.exit_code, last.reason) = (137, Some("OOMKilled".into()));
}

#[test]
fn too_little_memory_is_reported_even_of_a_member_that_has_never_started() {
    let message =
        "demo-0: its container is waiting: CrashLoopBackOff: it ended with exit code 137 (OOMKilled: its memory limit is 8Mi)";
    for bootstrapped in [true, false] {
        let mut fixture = if bootstrapped { Fixture::bootstrapped(ONE) } else { Fixture::new(ONE) };
        while fixture.observed.members.values().all(|member| member.pod.is_none()) {
            fixture.pass();
        }
        fixture.kubelet = false;
        set_not_ready(&mut fixture, 0);
        set_out_of_memory(&mut fixture, 0);
        if !bootstrapped {
            fixture.member(0).claim.as_mut().unwrap().metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
        }
        let report = fixture.report();
        assert_eq!(conditions(&report)[2], ("True", "OOMKilled"));
        assert_eq!(condition(&report, ConditionType::Degraded).message, message);
        assert_eq!(report.status.members[0].message.as_deref(), message.strip_prefix("demo-0: "));
    }
}

/// The first member and one that joins. One restart of its container may be part of a usual start.
#[test]
fn a_member_that_has_never_started_and_ends_again_and_again_is_reported() {
    for joins in [false, true] {
        let mut fixture = if joins { Fixture::bootstrapped(ONE) } else { Fixture::new(ONE) };
        fixture.cluster.spec.replicas = if joins { 2 } else { 1 };
        let ordinal = u32::from(joins);
        let name = names().member(ordinal);
        while fixture.observed.members.get(&name).is_none_or(|member| member.pod.is_none()) {
            assert_eq!(conditions(&fixture.pass().report)[2], ("False", "Healthy"));
        }
        fixture.kubelet = false;
        let claim = fixture.member(ordinal).claim.as_mut().unwrap();
        claim.status.get_or_insert_default().phase = Some("Bound".into());
        claim.metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
        let running = container(&mut fixture, ordinal).state.clone();
        set_not_ready(&mut fixture, ordinal);
        fixture.crash(ordinal);
        let ended = container(&mut fixture, ordinal).last_state.as_mut().unwrap().terminated.as_mut().unwrap();
        (ended.exit_code, ended.message) = (1, Some("starting\nlistener failed: x509: malformed certificate\n".into()));
        for (restarts, degraded) in [(1, ("False", "Healthy")), (2, ("True", "MemberDown"))] {
            container(&mut fixture, ordinal).restart_count = restarts;
            assert_eq!(conditions(&fixture.report())[2], degraded, "after {restarts} restarts");
        }
        let ended = "ended with exit code 1 (listener failed: x509: malformed certificate)";
        let message = format!("{name}: its container is waiting: CrashLoopBackOff: it {ended}");
        let report = fixture.pass().report;
        assert_eq!(condition(&report, ConditionType::Degraded).message, message);
        assert_eq!(reasons(&report.events).iter().filter(|reason| **reason == "MemberDown").count(), 1);
        // It is started once more, and ends soon.
        container(&mut fixture, ordinal).state = running;
        fixture.now = running_since(fixture.pod(ordinal)).unwrap() + SignedDuration::from_secs(59);
        let report = fixture.pass().report;
        assert_eq!(conditions(&report)[2], ("True", "MemberDown"));
        let message = &condition(&report, ConditionType::Degraded).message;
        assert!(message.ends_with(&format!("; its container last {ended}")), "{message}");
        assert!(reasons(&report.events).iter().all(|reason| *reason != "MemberDown"));
        // It may be reading its data or catching up.
        assert_eq!(conditions(&fixture.report())[2], ("False", "Healthy"));
    }
}

#[test]
fn a_member_whose_first_container_is_not_started_for_long_is_reported() {
    let mut fixture = Fixture::new(ONE);
    while fixture.observed.members.values().all(|member| member.pod.is_none()) {
        fixture.pass();
    }
    fixture.kubelet = false;
    set_not_ready(&mut fixture, 0);
    let claim = fixture.member(0).claim.as_mut().unwrap();
    claim.status.get_or_insert_default().phase = Some("Bound".into());
    claim.metadata.annotations.as_mut().unwrap().remove(key::MEMBER_ID);
    let waiting = ContainerStateWaiting { reason: Some("ImagePullBackOff".into()), message: None };
    container(&mut fixture, 0).state = Some(ContainerState { waiting: Some(waiting), ..ContainerState::default() });
    let created = fixture.now;
    fixture.pod(0).metadata.creation_timestamp = Some(Time(created));
    for (seconds, degraded) in [(299, ("False", "Healthy")), (300, ("True", "MemberDown"))] {
        fixture.now = created + SignedDuration::from_secs(seconds);
        assert_eq!(conditions(&fixture.report())[2], degraded, "after {seconds} s");
    }
}

#[test]
fn what_keeps_certificates_from_being_issued_needs_attention() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let plan = fixture.plan();
    let issuers = vec![Note::new(Reason::IssuerFailed, "it refused"), Note::new(Reason::WaitingForIssuer, "it has not answered")];
    let report = fixture.report_on(&plan, &Outcome { issuers, ..Outcome::default() });
    assert_eq!(condition(&report, ConditionType::Degraded).message, "it refused");
    assert_eq!(condition(&report, ConditionType::Degraded).reason, "IssuerFailed");
}

/// By a quota, an admission policy or `OpenShift`'s security context constraints.
#[test]
fn a_refused_pod_is_reported_with_the_words_of_the_api_server() {
    let words = "pods \"demo-0-0\" is forbidden: failed quota: team: must specify limits.memory for: etcd";
    for bootstrapped in [true, false] {
        let mut fixture = if bootstrapped { Fixture::bootstrapped(ONE) } else { Fixture::new(ONE) };
        fixture.kubelet = false;
        while fixture.observed.members.values().all(|member| member.stateful_set.is_none()) {
            fixture.pass();
        }
        fixture.stop(0);
        assert_ne!(conditions(&fixture.report())[2].1, "KubernetesRefused");
        fixture.member(0).refusal = Some(words.into());
        let report = fixture.report();
        assert_eq!(conditions(&report)[2], ("True", "KubernetesRefused"));
        assert_eq!(condition(&report, ConditionType::Degraded).message, format!("demo-0: its pod is refused: {words}"));
        assert_eq!(report.status.members[0].message, Some(format!("its pod is refused: {words}")));
    }
}

/// The network separates the operator and one member from the others, which go on.
#[test]
fn quorum_is_not_lost_while_the_pods_of_a_majority_are_ready() {
    let no_leader = Some(Ok(Progress { revision: 7, has_leader: false, is_learner: false }));
    for (ready, reason) in [(2, "MembersUnreachable"), (1, "QuorumLost")] {
        let mut fixture = Fixture::bootstrapped(THREE);
        let plan = fixture.plan();
        fixture.observed.list = Err("demo-0: sees no leader".into());
        for ordinal in 1..3 {
            fixture.member(ordinal).etcd = Probe::Unreachable("timed out".into());
        }
        let member = fixture.member(0);
        member.progress = no_leader.clone();
        let Probe::Reached(_, Ok(status)) = &mut member.etcd else { panic!() };
        status.leader = None;
        (0..3).filter(|ordinal| *ordinal == 0 || *ordinal > ready).for_each(|ordinal| set_not_ready(&mut fixture, ordinal));
        let report = fixture.report_on(&plan, &Outcome::default());
        assert_eq!(conditions(&report)[0], ("False", reason), "{ready} pods are ready");
        let message = &condition(&report, ConditionType::Available).message;
        let says = message.contains("etcd has a quorum, because the pods of demo-1, demo-2 are ready");
        assert_eq!(says, ready == 2, "{message}");
    }
}

#[test]
fn a_pod_that_its_kubelet_rejects_is_described() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let plan = fixture.plan();
    set_not_ready(&mut fixture, 1);
    fixture.member(1).etcd = Probe::Unreachable("its container does not run".into());
    let status = fixture.pod(1).status.as_mut().unwrap();
    status.phase = Some("Failed".into());
    status.reason = Some("OutOfmemory".into());
    status.message = Some("Pod was rejected: Node didn't have enough resource: memory.".into());
    status.container_statuses = None;
    let report = fixture.report_on(&plan, &Outcome::default());
    let message = &condition(&report, ConditionType::Degraded).message;
    let words = "OutOfmemory: Pod was rejected: Node didn't have enough resource: memory";
    assert_eq!(*message, format!("demo-1: its pod has failed: {words}"));
}

#[test]
fn an_end_because_of_memory_explains_only_what_follows_at_once() {
    for (seconds, reason) in [(59, "OOMKilled"), (60, "MemberDown")] {
        let mut fixture = Fixture::bootstrapped(THREE);
        let plan = fixture.plan();
        set_not_ready(&mut fixture, 1);
        let running = container(&mut fixture, 1).state.clone();
        set_out_of_memory(&mut fixture, 1);
        fixture.member(1).etcd = Probe::Unreachable("connection refused".into());
        container(&mut fixture, 1).state = running;
        fixture.now = running_since(fixture.pod(1)).unwrap() + SignedDuration::from_secs(seconds);
        let report = fixture.report_on(&plan, &Outcome::default());
        assert_eq!(conditions(&report)[2], ("True", reason), "after {seconds} s");
        let message = &condition(&report, ConditionType::Degraded).message;
        assert_eq!(
            message,
            "demo-1: connection refused; its container last ended with exit code 137 (OOMKilled: its memory limit is 8Mi)"
        );
    }
}

#[test]
fn a_member_whose_pod_is_about_to_be_ready_is_not_reported_as_down() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let plan = fixture.plan();
    set_not_ready(&mut fixture, 2);
    let since = running_since(fixture.pod(2)).unwrap();
    for (seconds, degraded) in [(14, ("False", "Healthy")), (15, ("True", "MemberDown"))] {
        fixture.now = since + SignedDuration::from_secs(seconds);
        assert_eq!(conditions(&fixture.report_on(&plan, &Outcome::default()))[2], degraded, "after {seconds} s");
    }
}

/// One of two voters was just promoted and has never been ready.
#[test]
fn a_voter_whose_pod_is_about_to_be_ready_counts_for_the_quorum() {
    let mut fixture = Fixture::bootstrapped("replicas: 2");
    let plan = fixture.plan();
    set_not_ready(&mut fixture, 1);
    let since = running_since(fixture.pod(1)).unwrap();
    for (seconds, available) in [(14, ("True", "QuorumHealthy")), (15, ("False", "MembersUnreachable"))] {
        fixture.now = since + SignedDuration::from_secs(seconds);
        assert_eq!(conditions(&fixture.report_on(&plan, &Outcome::default()))[0], available, "after {seconds} s");
    }
}

/// A learner is never ready, and may take long to catch up.
#[test]
fn a_voter_that_was_just_promoted_counts_for_the_quorum() {
    let mut fixture = Fixture::bootstrapped("replicas: 2");
    fixture.now += SignedDuration::from_hours(1);
    let plan = fixture.plan();
    set_not_ready(&mut fixture, 1);
    let promoted = fixture.now;
    fixture.observed.status.members[1] =
        MemberStatus { ready: false, role: Some(MemberRole::Learner), ..fixture.observed.status.members[1].clone() };
    for (seconds, available) in
        [(0, ("True", "QuorumHealthy")), (14, ("True", "QuorumHealthy")), (15, ("False", "MembersUnreachable"))]
    {
        fixture.now = promoted + SignedDuration::from_secs(seconds);
        let report = fixture.report_on(&plan, &Outcome::default());
        assert_eq!(conditions(&report)[0], available, "after {seconds} s");
        fixture.observed.status = report.status;
    }
    // A voter that was ready before is down as soon as it is not ready.
    fixture.observed.status.members[1].since = Some(Time(fixture.now));
    assert_eq!(conditions(&fixture.report_on(&plan, &Outcome::default()))[0], ("True", "QuorumHealthy"));
    let now = fixture.now;
    fixture.pod(1).status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(now));
    assert_eq!(conditions(&fixture.report_on(&plan, &Outcome::default()))[0], ("False", "MembersUnreachable"));
}

#[test]
fn a_restart_is_not_degraded_unless_it_takes_long() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.now += SignedDuration::from_hours(1);
    fixture.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "now".to_owned())].into());
    let (mut restarted, mut events) = (vec![], vec![]);
    for _ in 0..200 {
        let mut report = fixture.pass().report;
        events.append(&mut report.events);
        assert_eq!(conditions(&report)[2], ("False", "Healthy"), "{}", condition(&report, ConditionType::Degraded).message);
        if !fixture.silent.is_empty() {
            assert_eq!(
                conditions(&report)[1],
                ("True", "RollingRestart"),
                "{}",
                condition(&report, ConditionType::Progressing).message
            );
        }
        // Each member takes a while to come back.
        if fixture.taken.last().is_some_and(|step| step.starts_with("RestartMember")) {
            let name = fixture.taken.pop().unwrap().split_off("RestartMember ".len());
            fixture.silent.insert(names().parse_member(&name).unwrap());
            restarted.push(fixture.now);
        } else if restarted.last().is_some_and(|at| fixture.now.duration_since(*at) > SECOND * 20) {
            fixture.silent.clear();
        }
    }
    assert_eq!(restarted.len(), 3);
    let back = events.iter().filter(|event| event.reason == "MemberRestarted");
    let mut back: Vec<_> = back.filter_map(|event| note(event).split_once(" is healthy again, ")).map(|(name, _)| name).collect();
    back.sort_unstable();
    assert_eq!(back, ["demo-0", "demo-1", "demo-2"], "one event for each restart");

    // Long after the restarts.
    fixture.taken.clear();
    fixture.now += SignedDuration::from_hours(1);
    fixture.silent.insert(names().member(1));
    assert_eq!(conditions(&fixture.pass().report)[2], ("True", "MemberDown"));
    fixture.silent.clear();
    let up = fixture.pass().report;
    assert_eq!(reasons(&up.events), ["Healthy"], "it was not restarted");
    fixture.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "again".to_owned())].into());
    for _ in 0..10 {
        if fixture.taken.is_empty() {
            fixture.pass();
        }
    }
    let restarted = fixture.taken.last().unwrap().strip_prefix("RestartMember ").unwrap();
    fixture.silent.insert(names().parse_member(restarted).unwrap());
    for seconds in 0..65 {
        let degraded = conditions(&fixture.pass().report)[2].0 == "True";
        assert_eq!(degraded, seconds >= 60, "after {seconds} s");
    }
}

/// Between the end of a pod and the creation of the next one, no pod shows that a member is being restarted.
#[test]
fn a_restarting_member_without_a_pod_is_not_degraded() {
    let requests: [fn(&mut Fixture); 3] = [
        |fixture| fixture.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "now".to_owned())].into()),
        |fixture| fixture.cluster.spec.tls.client.client_auth = ClientAuth::None,
        |fixture| fixture.cluster.metadata.annotations = Some([(key::ROTATE_CA.to_owned(), "peer".to_owned())].into()),
    ];
    for request in requests {
        let mut fixture = Fixture::bootstrapped(THREE);
        fixture.now += SignedDuration::from_hours(1);
        request(&mut fixture);
        let mut restarts = 0;
        for _ in 0..100 {
            fixture.pass();
            if fixture.taken.pop().is_some_and(|step| step.starts_with("RestartMember")) {
                restarts += 1;
                let plan = fixture.plan_on(&fixture.observed);
                let report = fixture.report_on(&plan, &Outcome::default());
                assert_eq!(conditions(&report)[2], ("False", "Healthy"));
                let message = &condition(&report, ConditionType::Progressing).message;
                assert!(message.contains("is restarting: it has no pod yet"), "{message}");
            }
        }
        // In a rotation each member is restarted twice: to trust the new authority, and to stop trusting the old one.
        assert!(restarts == 3 || restarts == 6, "{restarts}");
    }
}

#[test]
fn pods_that_are_older_than_their_templates_are_reported() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let set = fixture.member(1).stateful_set.as_mut().unwrap();
    set.status.get_or_insert_default().update_revision = Some("new".into());
    fixture.pod(1).metadata.annotations.as_mut().unwrap().insert(key::TEMPLATE.into(), "old".into());
    for (revision, is_reported) in [("old", true), ("new", false)] {
        fixture.pod(1).metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), revision.into());
        let report = fixture.pass().report;
        let progressing = condition(&report, ConditionType::Progressing);
        assert_eq!((progressing.status.as_str(), progressing.reason.as_str()), ("False", "UpToDate"));
        let outdated = "the pods of demo-1 are outdated and will be updated at their next restart";
        assert_eq!(progressing.message.contains(outdated), is_reported);
    }
}

/// Their labels are changed while they run, so they lack nothing. A pull policy is used when they start.
#[test]
fn pods_whose_labels_have_changed_are_not_outdated() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let outdated = "are outdated and will be updated at their next restart";
    let message = |fixture: &mut Fixture| {
        (0..5).for_each(|_| drop(fixture.pass()));
        condition(&fixture.pass().report, ConditionType::Progressing).message.clone()
    };
    fixture.cluster.spec.pod.labels.insert("team".into(), "a".into());
    assert_eq!(message(&mut fixture), "no changes pending");
    assert_eq!(fixture.pod(0).metadata.labels.as_ref().unwrap()["team"], "a");
    let set = fixture.member(0).stateful_set.clone().unwrap();
    let revision = set.status.as_ref().unwrap().update_revision.clone().unwrap();
    assert_ne!(fixture.pod(0).metadata.labels.as_ref().unwrap()["controller-revision-hash"], revision);
    fixture.cluster.spec.image.pull_policy = api::PullPolicy::Always;
    assert!(message(&mut fixture).contains(outdated));

    // Nor do they count in a rolling restart.
    let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
    annotations.insert(key::RESTARTED_AT.into(), "now".into());
    fixture.cluster.spec.pod.labels.insert("team".into(), "b".into());
    let (mut left, mut restarted) = (vec![], 0);
    for _ in 0..60 {
        let report = fixture.pass().report;
        let message = &condition(&report, ConditionType::Progressing).message;
        assert!(!message.contains(outdated), "{message}");
        left.extend(
            message.split_once(" of 3 members have yet to be restarted").map(|(before, _)| before.chars().last().unwrap()),
        );
        restarted = fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    }
    left.dedup();
    assert_eq!((left, restarted), (vec!['3', '2', '1'], 3));
}

#[test]
fn scaling_is_not_degraded() {
    let mut fixture = Fixture::bootstrapped(THREE);
    for replicas in [5, 3, 1, 3] {
        fixture.cluster.spec.replicas = replicas;
        let ready = format!("{replicas}/{replicas}");
        let mut passes = 0;
        loop {
            let report = fixture.pass().report;
            assert_eq!(conditions(&report)[2], ("False", "Healthy"), "{}", condition(&report, ConditionType::Degraded).message);
            if report.status.ready.as_ref() == Some(&ready) && conditions(&report)[1].0 == "False" {
                break;
            }
            passes += 1;
            assert!(passes < 200, "{:?}", conditions(&report));
        }
    }
}

#[test]
fn the_data_of_each_member_is_reported_without_quorum() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.silent.extend([names().member(0), names().member(1)]);
    let report = fixture.pass().report;
    assert_eq!(conditions(&report)[0], ("False", "QuorumLost"));
    let message = &condition(&report, ConditionType::Available).message;
    for words in [
        format!("quorum has been lost since {}", fixture.now - SECOND).split('.').next().unwrap(),
        "demo-1 has data, but its revision is unknown (it does not listen on port 2381); demo-2 has data up to revision 100",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(reasons(&report.events), ["QuorumLost", "MemberDown"]);
    assert_eq!(report.status.cluster_id, Some(CLUSTER_ID), "it is kept in the status");
    fixture.silent.clear();
    assert_eq!(reasons(&fixture.pass().report.events), ["QuorumHealthy", "Healthy"]);
}

#[test]
fn an_unknown_voter_counts_and_is_reported() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let plan = fixture.plan();
    let list = fixture.observed.list.as_mut().unwrap();
    for id in [0xb1, 0xb2] {
        let mut other = list.members[0].clone();
        (other.id, other.peer_urls) = (MemberId(id), vec![format!("https://{id}.example:2380")]);
        list.members.push(other);
    }
    let report = fixture.report_on(&plan, &Outcome::default());
    let available = condition(&report, ConditionType::Available);
    assert_eq!(available.status, "False");
    let both = "etcd lists a member b1 that the operator did not add; etcd lists a member b2 that the operator did not add";
    assert!(available.message.contains(both), "{}", available.message);
}

#[test]
fn learners_are_not_voters() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let plan = fixture.plan();
    fixture.observed.list.as_mut().unwrap().members[2].is_learner = true;
    let report = fixture.report_on(&plan, &Outcome::default());
    assert_eq!(condition(&report, ConditionType::Available).message, "2 of 2 voters are healthy");
}

/// The members `refusing` refuse the operator's certificate.
fn refuse(fixture: &mut Fixture, refusing: Range<u32>) {
    for ordinal in refusing {
        let member = fixture.member(ordinal);
        let Probe::Reached(leaf, _) = member.etcd.clone() else { panic!() };
        member.etcd = Probe::Refused(Some(leaf), "refuses the operator's certificate: BadCertificate".into());
    }
}

#[test]
fn a_cluster_that_refuses_the_operator_is_neither_available_nor_healthy() {
    let mut fixture = Fixture::bootstrapped(THREE);
    refuse(&mut fixture, 0..3);
    fixture.observed.list = Err("no member answers".into());
    let plan = fixture.plan_on(&fixture.observed);
    let report = fixture.report_on(&plan, &Outcome::default());
    for kind in [ConditionType::Available, ConditionType::CertificatesReady, ConditionType::Degraded] {
        let found = condition(&report, kind);
        let status = if kind == ConditionType::Degraded { "True" } else { "False" };
        assert_eq!((found.status.as_str(), found.reason.as_str()), (status, "CertificateRefused"), "{kind:?}");
        assert!(
            found.message.contains("demo-0 refuses the operator's certificate: BadCertificate; demo-1 "),
            "{}",
            found.message
        );
    }
    assert!(!condition(&report, ConditionType::Available).message.contains("quorum"));
    assert!(report.events.iter().all(|event| event.reason == "CertificateRefused"));
}

#[test]
fn a_quorum_that_accepts_the_operator_is_available_whoever_refuses() {
    let mut fixture = Fixture::bootstrapped(THREE);
    refuse(&mut fixture, 0..1);
    let plan = fixture.plan_on(&fixture.observed);
    let report = fixture.report_on(&plan, &Outcome::default());
    assert_eq!(condition(&report, ConditionType::Available).message, "2 of 3 voters are healthy");
    for kind in [ConditionType::CertificatesReady, ConditionType::Degraded] {
        assert_eq!(condition(&report, kind).reason, "CertificateRefused", "{kind:?}");
    }
}

#[test]
fn alarms_are_reported() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let plan = fixture.plan();
    for member in fixture.observed.members.values_mut() {
        let Probe::Reached(_, Ok(status)) = &mut member.etcd else { panic!() };
        status.errors = vec!["memberID:160 alarm:NOSPACE ".into()];
    }
    let report = fixture.report_on(&plan, &Outcome::default());
    let degraded = condition(&report, ConditionType::Degraded);
    assert_eq!(degraded.reason, "EtcdReportsErrors");
    assert!(degraded.message.starts_with("demo-0 has raised the alarm NOSPACE: "), "{}", degraded.message);
    // It does not answer any more, and the others still know its name.
    fixture.member(0).etcd = Probe::Unreachable("connection refused".into());
    let report = fixture.report_on(&plan, &Outcome::default());
    let message = &condition(&report, ConditionType::Degraded).message;
    assert!(message.contains("demo-0 has raised the alarm NOSPACE: "), "{message}");
}

#[test]
fn a_changed_cluster_id_is_degraded() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let plan = fixture.plan();
    fixture.observed.list.as_mut().unwrap().cluster_id = ClusterId(0xd2);
    let report = fixture.report_on(&plan, &Outcome::default());
    assert_eq!(condition(&report, ConditionType::Degraded).reason, "ClusterIDChanged");
    assert_eq!(report.status.cluster_id, Some(CLUSTER_ID));
}

#[test]
fn a_cluster_with_an_invalid_spec_is_still_reported() {
    let problem = "spec.replicas is 2: it must be 1 to 9";
    let mut fixture = Fixture::new(THREE);
    let fresh = report_invalid(&fixture, problem);
    assert_eq!(
        conditions(&fresh),
        [("False", "InvalidSpec"), ("False", "InvalidSpec"), ("True", "InvalidSpec"), ("False", "InvalidSpec")]
    );
    assert!(condition(&fresh, ConditionType::Available).message.contains("must be 1 to 9"));
    assert_eq!(reasons(&fresh.events), ["InvalidSpec"]);
    fixture = Fixture::bootstrapped(THREE);
    let running = report_invalid(&fixture, problem);
    assert_eq!(conditions(&running)[0], ("True", "QuorumHealthy"));
    assert_eq!(running.status.members.len(), 3);
}

#[test]
fn a_blocked_cluster_is_announced_once_and_reports_no_leftovers() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.cluster.metadata.uid = Some("another".into());
    fixture.cluster.status = None;
    fixture.observed.status = EtcdClusterStatus::default();
    let blocked = fixture.pass().report;
    assert_eq!(conditions(&blocked), [("False", "NameTaken"), ("False", "Blocked"), ("True", "NameTaken"), ("False", "Blocked")]);
    assert_eq!(reasons(&blocked.events), ["NameTaken"], "one event, not one for each condition");
    let status = &blocked.status;
    assert_eq!((&status.cluster_id, &status.certificates, status.members.len()), (&None, &None, 0));
    assert_eq!(reasons(&fixture.pass().report.events), Vec::<&str>::new());
    let status = report_invalid(&fixture, "wrong").status;
    assert_eq!(
        (&status.cluster_id, &status.certificates, status.members.len()),
        (&None, &None, 0),
        "with an invalid spec as well"
    );
}

#[test]
fn a_paused_cluster_is_still_reported() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.cluster.spec.paused = true;
    let paused = fixture.pass().report;
    assert_eq!(
        conditions(&paused),
        [("True", "QuorumHealthy"), ("False", "Paused"), ("False", "Healthy"), ("True", "CertificatesServed")]
    );
    assert_eq!(reasons(&paused.events), ["Paused"]);
    fixture.silent.insert(names().member(0));
    assert_eq!(conditions(&fixture.pass().report)[0], ("False", "QuorumLost"));
}

#[test]
fn a_lost_authority_is_reported_and_stays_in_the_status() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let before = fixture.observed.status.certificates.clone();
    let secret = fixture.authority_secret(Domain::Client).take();
    let lost = fixture.pass().report;
    assert_eq!(conditions(&lost), [("True", "QuorumHealthy"), ("False", "UpToDate"), ("True", "CALost"), ("False", "CALost")]);
    assert_eq!(reasons(&lost.events), ["CALost"]);
    assert!(note(&lost.events[0]).contains("Secret demo-client-ca is missing") && note(&lost.events[0]).contains("Restore"));
    assert_eq!(lost.status.certificates, before, "it is kept, so that a restored authority is recognized");
    *fixture.authority_secret(Domain::Client) = secret;
    let restored = fixture.pass().report;
    assert_eq!(conditions(&restored)[3], ("True", "CertificatesServed"));
    assert_eq!(reasons(&restored.events), ["Healthy", "CertificatesServed"], "the end of a fault is announced");
}

#[test]
fn times_that_a_clock_ahead_reported_are_corrected() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.now += SignedDuration::from_hours(1);
    fixture.silent.extend([names().member(0), names().member(1)]);
    let ahead = fixture.pass().report;
    let at = |report: &Report| condition(report, ConditionType::Available).last_transition_time.0;
    fixture.now -= SignedDuration::from_mins(30);
    let corrected = fixture.pass().report;
    assert!(at(&ahead) > fixture.now && at(&corrected) < fixture.now);
    let since = |report: &Report| report.status.members.iter().map(|member| member.since.as_ref().unwrap().0).max().unwrap();
    assert!(since(&ahead) > fixture.now && since(&corrected) < fixture.now);
    let again = fixture.pass().report;
    assert_eq!((at(&again), since(&again)), (at(&corrected), since(&corrected)));
}

#[test]
fn transition_times_change_only_with_the_status() {
    let mut fixture = Fixture::bootstrapped(THREE);
    let at = |report: &Report, kind: ConditionType| condition(report, kind).last_transition_time.0;
    let since = at(&fixture.report(), ConditionType::Available);
    fixture.now += SECOND * 100;
    fixture.silent.insert(names().member(2));
    let down = fixture.pass().report;
    assert_eq!(at(&down, ConditionType::Available), since, "another message is no transition");
    assert_eq!(at(&down, ConditionType::Degraded), fixture.now - SECOND);
    fixture.cluster.metadata.generation = Some(2);
    fixture.silent.insert(names().member(1));
    let report = fixture.report();
    assert_eq!(at(&report, ConditionType::Available), fixture.now);
    assert_eq!(at(&report, ConditionType::Degraded), fixture.now - SECOND);
    assert!(report.status.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    fixture.now += SignedDuration::from_millis(1234);
    assert_eq!(at(&fixture.report(), ConditionType::Available).subsec_nanosecond(), 0, "the API keeps whole seconds");
}

#[test]
fn completed_work_has_one_event_for_each_reason() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let plan = fixture.plan();
    let outcome = Outcome {
        done: vec![
            Note::new(Reason::CertificatesIssued, "issued a"),
            Note::new(Reason::CertificatesRevoked, "revoked c"),
            Note::new(Reason::CertificatesIssued, "issued b"),
        ],
        failed: vec![Note::new(Reason::KubernetesRefused, "no"), Note::new(Reason::KubernetesRefused, "not so")],
        again: false,
        ..Outcome::default()
    };
    let report = fixture.report_on(&plan, &outcome);
    assert_eq!(reasons(&report.done), ["CertificatesIssued", "CertificatesRevoked"]);
    assert_eq!(note(&report.done[0]), "issued a; issued b");
    assert_eq!(reasons(&report.events), ["KubernetesRefused"]);
    assert_eq!(condition(&report, ConditionType::Degraded).message, "no; not so");
}

#[test]
fn patches_of_pods_are_reported() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.pod(0).metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    let report = fixture.report();
    assert_eq!(condition(&report, ConditionType::Progressing).message, "applying Pod demo-0-0");
    assert_eq!(conditions(&report)[3], ("False", "Confirming"));
    assert_eq!(
        condition(&report, ConditionType::CertificatesReady).message,
        "have not presented the certificates of their Secrets yet: demo-0"
    );
}

#[test]
fn metrics_match_the_status() {
    let mut fixture = Fixture::bootstrapped(THREE);
    fixture.silent.insert(names().member(1));
    let report = fixture.report();
    let state = state(&mut fixture, &report.status);
    let domains = state.domains;
    assert!(state.available && domains.client.expiry.is_some() && domains.peer.expiry.is_some());
    assert!(domains.client.authorities.is_some());
    assert_eq!((state.ready, state.desired), (2, 3));
}

/// The first expiry of each kind of certificate.
#[test]
fn the_first_expiry_is_reported_in_status_and_metrics() {
    let mut fixture = Fixture::bootstrapped(
        "{replicas: 3, tls: {client: {certificate: {duration: 240h}}, peer: {certificate: {duration: 24h}}}}",
    );
    let hours = |hours| SignedDuration::from_hours(hours);
    let leaves =
        fixture.observed.members.values().filter_map(|member| member.secret.as_ref()?.certificate(member_key::PEER_CRT)?.ok());
    let issued = leaves.map(|leaf| leaf.not_after()).min().unwrap() - hours(24);
    // The certificates of one member are renewed, so that those of the others expire sooner.
    fixture.now += hours(8);
    fixture.member(0).secret = None;
    fixture.settle();
    let status = fixture.report().status;
    let before = state(&mut fixture, &status);
    let expiry = [before.domains.peer, before.domains.client].map(|domain| domain.expiry);
    assert_eq!(expiry, [Some(issued + hours(24)), Some(issued + hours(240))]);
    assert_eq!(before.operator_expiry, Some(issued + hours(240)));
    let all = status.certificates.clone().unwrap();
    assert_eq!(all.expires.clone(), Some(Time(issued + hours(24))));
    assert_eq!(all.client.unwrap().expires, Some(Time(issued + hours(240))));
    let members: Vec<_> = status.members.iter().map(|member| member.certificate_expires.clone().unwrap().0).collect();
    assert!(members[0] > members[1] && members[1] == members[2], "{members:?}");
    fixture.observed.operator = None;
    assert_eq!(state(&mut fixture, &status).operator_expiry, None);
}

#[test]
fn the_phase_of_a_rotation_is_reported() {
    let mut fixture = Fixture::bootstrapped(ONE);
    fixture.cluster.metadata.annotations.get_or_insert_default().insert(key::ROTATE_CA.into(), "peer".into());
    let (mut phases, mut events) = (vec![], vec![]);
    for _ in 0..200 {
        let Report { status, events: new, .. } = fixture.pass().report;
        events.extend(new);
        let domains = state(&mut fixture, &status).domains;
        assert_eq!(domains.client.phase, None);
        phases.push(domains.peer.phase);
    }
    phases.dedup();
    let [distributing, reissuing, dropping] = Phase::ALL.map(Some);
    assert_eq!(phases, [None, distributing, reissuing, dropping, None]);
    // All certificates are replaced, most of them several times. What the rotation does is announced by itself.
    assert!(!reasons(&events).contains(&"CertificatesServed"), "{:?}", reasons(&events));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn notes_fit_into_events(text in "\\PC{900,1200}") {
        let event = event(EventType::Normal, &Note::new(Reason::Healthy, text.clone()));
        let note = event.note.unwrap();
        prop_assert!(note.len() <= 1024);
        prop_assert!(text.starts_with(note.trim_end_matches("...")) || text == note);
    }
}
