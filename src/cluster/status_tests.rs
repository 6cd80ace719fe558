use jiff::SignedDuration;
use k8s_openapi::api::core::v1::PodCondition;
use proptest::prelude::*;

use super::*;
use crate::{
    api::ClientAuth,
    cluster::fixtures::{SECOND, World, names},
    names::member_key,
    pki::{Domain, Phase},
};

const ONE: &str = "replicas: 1";
const THREE: &str = "{}";

fn condition<'a>(report: &'a Report, kind: &str) -> &'a Condition {
    api::condition(&report.status.conditions, kind).unwrap()
}

/// Status and reason of each condition, in the order of the status.
fn conditions(report: &Report) -> [(&str, &str); 4] {
    [kind::AVAILABLE, kind::PROGRESSING, kind::DEGRADED, kind::CERTIFICATES_READY].map(|kind| {
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

fn not_ready(world: &mut World, ordinal: u32) {
    let conditions = world.pod(ordinal).status.as_mut().unwrap().conditions.as_mut().unwrap();
    conditions[0] = PodCondition { type_: "Ready".into(), status: "False".into(), ..PodCondition::default() };
}

#[test]
fn a_cluster_that_starts_says_what_it_waits_for() {
    let mut world = World::new(THREE);
    let first = world.pass().report;
    assert_eq!(
        conditions(&first),
        [("False", "Starting"), ("True", "WaitingForMembers"), ("False", "Healthy"), ("False", "Issuing")]
    );
    assert_eq!(reasons(&first.events), Vec::<&str>::new(), "nothing to tell yet");
    assert_eq!(first.status.ready.as_deref(), Some("0/3"));
    let second = world.pass().report;
    let waits = &condition(&second, kind::PROGRESSING).message;
    assert_eq!(waits, "demo-0: it has no pod yet; demo-1: it has no pod yet; demo-2: it has no pod yet");
    let issuing = &condition(&second, kind::CERTIFICATES_READY).message;
    assert!(
        issuing.contains("being issued in Secret demo-1-tls: server.crt, peer.crt, client.crt (does not exist)"),
        "{issuing}"
    );
}

#[test]
fn a_cluster_that_serves_says_so_once() {
    let mut world = World::new(THREE);
    let mut told = vec![];
    for _ in 0..10 {
        told.extend(world.pass().report.events);
    }
    assert_eq!(reasons(&told), ["QuorumServes", "Served"]);
    let report = world.report();
    assert_eq!(conditions(&report), [("True", "QuorumServes"), ("False", "AsWanted"), ("False", "Healthy"), ("True", "Served")]);
    let status = &report.status;
    assert_eq!((status.ready.as_deref(), status.ready_replicas, status.replicas), (Some("3/3"), 3, 3));
    assert_eq!(status.cluster_id.as_deref(), Some("c1"));
    assert_eq!(status.endpoints, ["https://demo.ns.svc:2379"]);
    assert_eq!(
        status.selector.as_deref(),
        Some("app.kubernetes.io/instance=demo,app.kubernetes.io/managed-by=etcd-warden,app.kubernetes.io/name=etcd")
    );
    let member = &status.members[1];
    assert_eq!((member.name.as_str(), member.id.as_deref(), member.role.as_deref()), ("demo-1", Some("a1"), Some("Follower")));
    assert_eq!((member.db_size.as_deref(), member.version.as_deref()), (Some("1Mi"), Some("3.6.16")));
    assert_eq!(member.certificate_expires.as_deref(), Some("2026-05-30T12:00:01Z"));
    assert_eq!(status.members[0].role.as_deref(), Some("Leader"));
    let certificates = status.certificates.as_ref().unwrap();
    assert_eq!(certificates.client.as_ref().unwrap().active.name, "demo client 0a1b2c3d 1");
    assert_eq!(certificates.peer.as_ref().unwrap().next.name, "demo peer 0a1b2c3d 2");
}

#[test]
fn an_idle_pass_changes_nothing() {
    let mut world = World::founded(THREE);
    let before = world.observed.status.clone();
    for _ in 0..5 {
        world.now += SignedDuration::from_hours(100);
        let report = world.report();
        assert_eq!(report.status, before);
        assert_eq!(reasons(&report.events), Vec::<&str>::new());
    }
}

#[test]
fn a_member_that_is_down_is_told_of_once() {
    let mut world = World::founded(THREE);
    not_ready(&mut world, 2);
    world.silent.insert(names().member(2));
    let down = world.pass().report;
    assert_eq!(
        conditions(&down),
        [("True", "QuorumServes"), ("True", "WaitingForMembers"), ("True", "MemberDown"), ("True", "Served")]
    );
    assert_eq!(condition(&down, kind::AVAILABLE).message, "2 of 3 voters serve");
    assert_eq!(condition(&down, kind::DEGRADED).message, "demo-2: connection refused");
    assert_eq!(reasons(&down.events), ["MemberDown"]);
    assert!(matches!(down.events[0].type_, EventType::Warning));
    assert_eq!(down.status.ready.as_deref(), Some("2/3"));
    let member = &down.status.members[2];
    assert_eq!((member.ready, member.role.as_deref(), member.id.as_deref()), (false, None, Some("a2")));
    assert_eq!(member.message.as_deref(), Some("connection refused"));
    assert_eq!(reasons(&world.pass().report.events), Vec::<&str>::new());

    world.silent.clear();
    world.pod(2).status.as_mut().unwrap().conditions.as_mut().unwrap()[0].status = "True".into();
    let up = world.pass().report;
    assert_eq!(reasons(&up.events), ["Healthy"]);
    assert!(matches!(up.events[0].type_, EventType::Normal));
}

#[test]
fn a_pod_that_is_about_to_be_ready_is_no_member_that_is_down() {
    let mut world = World::founded(THREE);
    let plan = world.plan();
    not_ready(&mut world, 2);
    let since = crate::cluster::observed::running_since(world.pod(2)).unwrap();
    for (seconds, degraded) in [(14, ("False", "Healthy")), (15, ("True", "MemberDown"))] {
        world.now = since + SignedDuration::from_secs(seconds);
        assert_eq!(conditions(&world.report_on(&plan, &Acted::default()))[2], degraded, "after {seconds} s");
    }
}

/// The voter that has just got its vote was never ready, and is one of two.
#[test]
fn a_quorum_is_not_lost_by_a_pod_that_is_about_to_be_ready() {
    let mut world = World::founded("replicas: 2");
    let plan = world.plan();
    not_ready(&mut world, 1);
    let since = crate::cluster::observed::running_since(world.pod(1)).unwrap();
    for (seconds, available) in [(14, ("True", "QuorumServes")), (15, ("False", "NoQuorum"))] {
        world.now = since + SignedDuration::from_secs(seconds);
        assert_eq!(conditions(&world.report_on(&plan, &Acted::default()))[0], available, "after {seconds} s");
    }
}

/// A learner is never ready, and it may take long to catch up.
#[test]
fn a_quorum_is_not_lost_by_a_learner_that_has_just_got_its_vote() {
    let mut world = World::founded("replicas: 2");
    world.now += SignedDuration::from_hours(1);
    let plan = world.plan();
    not_ready(&mut world, 1);
    let voted = world.now;
    world.observed.status.members[1] =
        MemberStatus { ready: false, role: Some("Learner".into()), ..world.observed.status.members[1].clone() };
    for (seconds, available) in [(0, ("True", "QuorumServes")), (14, ("True", "QuorumServes")), (15, ("False", "NoQuorum"))] {
        world.now = voted + SignedDuration::from_secs(seconds);
        let report = world.report_on(&plan, &Acted::default());
        assert_eq!(conditions(&report)[0], available, "after {seconds} s");
        world.observed.status = report.status;
    }
    // One that was ready is down as soon as it is not.
    world.observed.status.members[1].since = Some(world.now.to_string());
    assert_eq!(conditions(&world.report_on(&plan, &Acted::default()))[0], ("True", "QuorumServes"));
    let now = world.now;
    world.pod(1).status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time = Some(Time(now));
    assert_eq!(conditions(&world.report_on(&plan, &Acted::default()))[0], ("False", "NoQuorum"));
}

#[test]
fn a_restart_needs_no_attention_unless_it_takes_long() {
    let mut world = World::founded(THREE);
    world.now += SignedDuration::from_hours(1);
    world.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "now".to_owned())].into());
    let mut restarted = vec![];
    for _ in 0..200 {
        let report = world.pass().report;
        assert_eq!(conditions(&report)[2], ("False", "Healthy"), "{}", condition(&report, kind::DEGRADED).message);
        if !world.silent.is_empty() {
            assert_eq!(conditions(&report)[1], ("True", "Restarting"), "{}", condition(&report, kind::PROGRESSING).message);
        }
        // Each member takes a while to come.
        if world.taken.last().is_some_and(|step| step.starts_with("RestartMember")) {
            let name = world.taken.pop().unwrap().split_off("RestartMember ".len());
            world.silent.insert(names().parse_member(&name).unwrap());
            restarted.push(world.now);
        } else if restarted.last().is_some_and(|at| world.now.duration_since(*at) > SECOND * 20) {
            world.silent.clear();
        }
    }
    assert_eq!(restarted.len(), 3);

    // Long after.
    world.taken.clear();
    world.now += SignedDuration::from_hours(1);
    world.silent.insert(names().member(1));
    assert_eq!(conditions(&world.pass().report)[2], ("True", "MemberDown"));
    world.silent.clear();
    world.pass();
    world.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "again".to_owned())].into());
    for _ in 0..10 {
        if world.taken.is_empty() {
            world.pass();
        }
    }
    let restarted = world.taken.last().unwrap().strip_prefix("RestartMember ").unwrap();
    world.silent.insert(names().parse_member(restarted).unwrap());
    for seconds in 0..65 {
        let degraded = conditions(&world.pass().report)[2].0 == "True";
        assert_eq!(degraded, seconds >= 60, "after {seconds} s");
    }
}

/// Between the end of the last pod and the next one that its StatefulSet makes, no pod tells of a restart.
#[test]
fn a_member_that_is_restarted_may_have_no_pod_for_a_moment() {
    let asked: [fn(&mut World); 3] = [
        |world| world.cluster.metadata.annotations = Some([(key::RESTARTED_AT.to_owned(), "now".to_owned())].into()),
        |world| world.cluster.spec.tls.client.client_auth = ClientAuth::None,
        |world| world.cluster.metadata.annotations = Some([(key::ROTATE_CA.to_owned(), "peer".to_owned())].into()),
    ];
    for ask in asked {
        let mut world = World::founded(THREE);
        world.now += SignedDuration::from_hours(1);
        ask(&mut world);
        let mut gone = 0;
        for _ in 0..100 {
            world.pass();
            if world.taken.pop().is_some_and(|step| step.starts_with("RestartMember")) {
                gone += 1;
                let plan = plan::plan(&world.valid(), &world.observed, world.now);
                let report = world.report_on(&plan, &Acted::default());
                assert_eq!(conditions(&report)[2], ("False", "Healthy"));
                let message = &condition(&report, kind::PROGRESSING).message;
                assert!(message.contains("is being restarted: it has no pod yet"), "{message}");
            }
        }
        // In a rotation twice: to believe the new authority, and to forget the old one.
        assert!(gone == 3 || gone == 6, "{gone}");
    }
}

#[test]
fn pods_that_are_older_than_their_templates_are_told_of() {
    let mut world = World::founded(THREE);
    let set = world.member(1).stateful_set.as_mut().unwrap();
    set.status.get_or_insert_default().update_revision = Some("new".into());
    for (made, told) in [("old", true), ("new", false)] {
        world.pod(1).metadata.labels.as_mut().unwrap().insert("controller-revision-hash".into(), made.into());
        let report = world.pass().report;
        let progressing = condition(&report, kind::PROGRESSING);
        assert_eq!((progressing.status.as_str(), progressing.reason.as_str()), ("False", "AsWanted"));
        assert_eq!(progressing.message.contains("the template of demo-1 is taken up at their next restart"), told);
    }
}

#[test]
fn growing_and_shrinking_need_no_attention() {
    let mut world = World::founded(THREE);
    for replicas in [5, 3, 1, 3] {
        world.cluster.spec.replicas = replicas;
        let ready = format!("{replicas}/{replicas}");
        let mut passes = 0;
        loop {
            let report = world.pass().report;
            assert_eq!(conditions(&report)[2], ("False", "Healthy"), "{}", condition(&report, kind::DEGRADED).message);
            if report.status.ready.as_ref() == Some(&ready) && conditions(&report)[1].0 == "False" {
                break;
            }
            passes += 1;
            assert!(passes < 200, "{:?}", conditions(&report));
        }
    }
}

#[test]
fn without_a_quorum_nothing_is_claimed() {
    let mut world = World::founded(THREE);
    world.silent.extend([names().member(0), names().member(1)]);
    let report = world.pass().report;
    assert_eq!(conditions(&report)[0], ("False", "NoQuorum"));
    let message = &condition(&report, kind::AVAILABLE).message;
    for words in [
        format!("quorum is lost since {}", world.now - SECOND).split('.').next().unwrap(),
        "demo-1 has data, how far is not known (it does not listen on port 2381); demo-2 has data, up to revision 100",
    ] {
        assert!(message.contains(words), "{message}");
    }
    assert_eq!(reasons(&report.events), ["NoQuorum", "MemberDown"]);
    assert_eq!(report.status.cluster_id.as_deref(), Some("c1"), "what is known stays known");
    world.silent.clear();
    assert_eq!(reasons(&world.pass().report.events), ["QuorumServes", "Healthy"]);
}

#[test]
fn a_voter_that_nobody_knows_here_counts_and_is_named() {
    let mut world = World::founded(ONE);
    let plan = world.plan();
    let list = world.observed.list.as_mut().unwrap();
    for id in [0xb1, 0xb2] {
        let mut other = list.members[0].clone();
        (other.id, other.peer_urls) = (id, vec![format!("https://{id}.example:2380")]);
        list.members.push(other);
    }
    let report = world.report_on(&plan, &Acted::default());
    let available = condition(&report, kind::AVAILABLE);
    assert_eq!(available.status, "False");
    assert!(
        available
            .message
            .ends_with("etcd lists a member b1 that is not known here; etcd lists a member b2 that is not known here"),
        "{}",
        available.message
    );
}

#[test]
fn learners_are_no_voters() {
    let mut world = World::founded(THREE);
    let plan = world.plan();
    world.observed.list.as_mut().unwrap().members[2].is_learner = true;
    let report = world.report_on(&plan, &Acted::default());
    assert_eq!(condition(&report, kind::AVAILABLE).message, "2 of 2 voters serve");
}

#[test]
fn alarms_are_told() {
    let mut world = World::founded(THREE);
    let plan = world.plan();
    for member in world.observed.members.values_mut() {
        let crate::cluster::observed::Answer::Reached(_, Ok(status)) = &mut member.etcd else { panic!() };
        status.errors = vec!["memberID:160 alarm:NOSPACE ".into()];
    }
    let report = world.report_on(&plan, &Acted::default());
    let degraded = condition(&report, kind::DEGRADED);
    assert_eq!(
        (degraded.reason.as_str(), degraded.message.as_str()),
        ("EtcdComplains", "etcd reports memberID:160 alarm:NOSPACE")
    );
}

#[test]
fn another_cluster_id_is_a_fault() {
    let mut world = World::founded(THREE);
    let plan = world.plan();
    world.observed.list.as_mut().unwrap().cluster_id = 0xd2;
    let report = world.report_on(&plan, &Acted::default());
    assert_eq!(condition(&report, kind::DEGRADED).reason, "ClusterIDChanged");
    assert_eq!(report.status.cluster_id.as_deref(), Some("c1"));
}

#[test]
fn a_spec_that_makes_no_sense_is_told_and_the_cluster_still_reported() {
    let invalid = || Judgement::Invalid(Invalid(vec!["spec.replicas is 2: it must be 1 to 9".into()]));
    let mut world = World::new(THREE);
    let fresh = report(&world.cluster, &world.observed, &invalid(), &Acted::default(), world.now);
    assert_eq!(
        conditions(&fresh),
        [("False", "InvalidSpec"), ("False", "InvalidSpec"), ("True", "InvalidSpec"), ("False", "InvalidSpec")]
    );
    assert!(condition(&fresh, kind::AVAILABLE).message.contains("must be 1 to 9"));
    assert_eq!(reasons(&fresh.events), ["InvalidSpec"]);
    world = World::founded(THREE);
    let running = report(&world.cluster, &world.observed, &invalid(), &Acted::default(), world.now);
    assert_eq!(conditions(&running)[0], ("True", "QuorumServes"));
    assert_eq!(running.status.members.len(), 3);
}

#[test]
fn a_refusal_is_told_once_and_claims_nothing_that_is_left() {
    let mut world = World::founded(ONE);
    world.cluster.metadata.uid = Some("another".into());
    world.cluster.status = None;
    world.observed.status = EtcdClusterStatus::default();
    let refused = world.pass().report;
    assert_eq!(conditions(&refused), [("False", "NameTaken"), ("False", "Refused"), ("True", "NameTaken"), ("False", "Refused")]);
    assert_eq!(reasons(&refused.events), ["NameTaken"], "one event, not one for each condition");
    let status = &refused.status;
    assert_eq!((&status.cluster_id, &status.certificates, status.members.len()), (&None, &None, 0));
    assert_eq!(reasons(&world.pass().report.events), Vec::<&str>::new());
    let invalid = Judgement::Invalid(Invalid(vec!["wrong".into()]));
    let status = report(&world.cluster, &world.observed, &invalid, &Acted::default(), world.now).status;
    assert_eq!((&status.cluster_id, &status.certificates, status.members.len()), (&None, &None, 0), "a bad spec neither");
}

#[test]
fn a_paused_cluster_says_so_and_goes_on_reporting() {
    let mut world = World::founded(ONE);
    world.cluster.spec.paused = true;
    let paused = world.pass().report;
    assert_eq!(conditions(&paused), [("True", "QuorumServes"), ("False", "Paused"), ("False", "Healthy"), ("True", "Served")]);
    assert_eq!(reasons(&paused.events), ["Paused"]);
    world.silent.insert(names().member(0));
    assert_eq!(conditions(&world.pass().report)[0], ("False", "NoQuorum"));
}

#[test]
fn a_lost_authority_is_told_and_stays_reported() {
    let mut world = World::founded(ONE);
    let before = world.observed.status.certificates.clone();
    *world.authority_secret(Domain::Client) = None;
    let lost = world.pass().report;
    assert_eq!(
        conditions(&lost),
        [("True", "QuorumServes"), ("False", "AsWanted"), ("True", "AuthorityLost"), ("False", "AuthorityLost")]
    );
    assert_eq!(reasons(&lost.events), ["AuthorityLost"]);
    assert!(note(&lost.events[0]).contains("Secret demo-client-ca is gone") && note(&lost.events[0]).contains("Restore"));
    assert_eq!(lost.status.certificates, before, "so that the one that is put back is known to be the right one");
}

#[test]
fn times_of_transitions_move_with_the_status_alone() {
    let mut world = World::founded(THREE);
    let at = |report: &Report, kind: &str| condition(report, kind).last_transition_time.0;
    let since = at(&world.report(), kind::AVAILABLE);
    world.now += SECOND * 100;
    world.silent.insert(names().member(2));
    let down = world.pass().report;
    assert_eq!(at(&down, kind::AVAILABLE), since, "another message is no transition");
    assert_eq!(at(&down, kind::DEGRADED), world.now - SECOND);
    world.cluster.metadata.generation = Some(2);
    world.silent.insert(names().member(1));
    let report = world.report();
    assert_eq!(at(&report, kind::AVAILABLE), world.now);
    assert_eq!(at(&report, kind::DEGRADED), world.now - SECOND);
    assert!(report.status.conditions.iter().all(|condition| condition.observed_generation == Some(2)));
    world.now += SignedDuration::from_millis(1234);
    assert_eq!(at(&world.report(), kind::AVAILABLE).subsec_nanosecond(), 0, "the API keeps whole seconds");
}

#[test]
fn what_was_done_is_one_event_for_each_reason() {
    let mut world = World::founded(ONE);
    let plan = world.plan();
    let acted = Acted {
        done: vec![
            Note::new("CertificatesIssued", "issued a"),
            Note::new("Revoke", "revoked c"),
            Note::new("CertificatesIssued", "issued b"),
        ],
        failed: vec![Note::new("KubernetesRefused", "no"), Note::new("KubernetesRefused", "not so")],
        again: false,
        ..Acted::default()
    };
    let report = world.report_on(&plan, &acted);
    assert_eq!(reasons(&report.done), ["CertificatesIssued", "Revoke"]);
    assert_eq!(note(&report.done[0]), "issued a; issued b");
    assert_eq!(reasons(&report.events), ["KubernetesRefused"]);
    assert_eq!(condition(&report, kind::DEGRADED).message, "no; not so");
}

#[test]
fn changes_that_are_no_leaf_and_no_object_are_named_too() {
    let mut world = World::founded(ONE);
    world.pod(0).metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
    let report = world.report();
    assert_eq!(condition(&report, kind::PROGRESSING).message, "bringing up to date: Pod demo-0-0");
    assert_eq!(conditions(&report)[3], ("False", "NotConfirmed"));
    assert_eq!(condition(&report, kind::CERTIFICATES_READY).message, "not yet seen to serve their certificates: demo-0");
}

#[test]
fn the_metrics_tell_what_the_status_does() {
    let mut world = World::founded(THREE);
    world.silent.insert(names().member(1));
    let report = world.report();
    let state = metrics(&report.status, &world.observed);
    assert!(
        state.available && state.client.expiry.is_some() && state.peer.expiry.is_some() && state.client.authorities[1].is_some()
    );
    assert_eq!((state.ready, state.wanted), (2, 3));
}

/// Of every certificate there is, and which one expires first.
#[test]
fn what_expires_first_is_told_everywhere() {
    let mut world =
        World::founded("{replicas: 3, tls: {client: {certificate: {duration: 240h}}, peer: {certificate: {duration: 24h}}}}");
    let hours = |hours| SignedDuration::from_hours(hours);
    let founded =
        world.observed.members.values().filter_map(|member| member.secret.as_ref()?.certificate(member_key::PEER_CRT)?.ok());
    let founded = founded.map(|leaf| leaf.not_after()).min().unwrap() - hours(24);
    // One member's are renewed, so that the others' end sooner.
    world.now += hours(8);
    world.member(0).secret = None;
    world.settle();
    let status = world.report().status;
    let state = metrics(&status, &world.observed);
    assert_eq!((state.peer.expiry, state.client.expiry), (Some(founded + hours(24)), Some(founded + hours(240))));
    assert_eq!(state.operator_expiry, Some(founded + hours(240)));
    let all = status.certificates.clone().unwrap();
    assert_eq!(all.expires.clone(), Some((founded + hours(24)).to_string()));
    assert_eq!(all.client.unwrap().expires, Some((founded + hours(240)).to_string()));
    let members: Vec<_> = status.members.iter().map(|member| member.certificate_expires.clone().unwrap()).collect();
    assert!(members[0] > members[1] && members[1] == members[2], "{members:?}");
    world.observed.operator = None;
    assert_eq!(metrics(&status, &world.observed).operator_expiry, None);
}

#[test]
fn the_phase_of_a_rotation_is_told() {
    let mut world = World::founded(ONE);
    world.cluster.metadata.annotations.get_or_insert_default().insert(key::ROTATE_CA.into(), "peer".into());
    let mut phases = vec![];
    for _ in 0..200 {
        let status = world.pass().report.status;
        let state = metrics(&status, &world.observed);
        assert_eq!(state.client.phase, None);
        phases.push(state.peer.phase);
    }
    phases.dedup();
    let [distributing, reissuing, dropping] = Phase::ALL.map(Some);
    assert_eq!(phases, [None, distributing, reissuing, dropping, None]);
}

#[test]
fn sizes_are_rounded_up_to_a_power_of_two() {
    const MI: i64 = 1 << 20;
    for (bytes, text) in [
        (-1, "1Mi"),
        (0, "1Mi"),
        (MI, "1Mi"),
        (MI + 1, "2Mi"),
        (3 * MI, "4Mi"),
        (512 * MI, "512Mi"),
        (513 * MI, "1Gi"),
        (1025 * MI, "2Gi"),
        (8 << 30, "8Gi"),
    ] {
        assert_eq!(rounded(bytes), text, "{bytes}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn notes_fit_into_events(text in "\\PC{900,1200}") {
        let event = event(EventType::Normal, &Note::new("Reason", text.clone()));
        let note = event.note.unwrap();
        prop_assert!(note.len() <= 1024);
        prop_assert!(text.starts_with(note.trim_end_matches("...")) || text == note);
    }
}
