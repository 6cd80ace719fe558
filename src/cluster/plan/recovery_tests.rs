//! A lost quorum, and the recovery from it. The fixture itself checks the safety rules: no member runs beside a forced one, no
//! member whose data was discarded starts again, and no member is added while one could be forced.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;
use crate::{
    cluster::{
        facts::{Facts, lost_quorum, pods::discarded_for},
        fixtures::{Fixture, Pass, names},
    },
    etcd::Progress,
    ids::MemberId,
    kubernetes::desired::Desired,
    names::annotation as key,
};

/// A cluster in which the second member is down and all after it have lost their data.
fn with_lost_quorum(replicas: i32) -> Fixture {
    let mut fixture = Fixture::bootstrapped(&format!("replicas: {replicas}"));
    fixture.taken.clear();
    for ordinal in 2..u32::try_from(replicas).unwrap() {
        fixture.lose(ordinal);
    }
    fixture.stop(1);
    // Longer than an election takes.
    passes(&mut fixture, 12);
    assert_eq!(fixture.taken, Vec::<String>::new());
    fixture
}

fn passes(fixture: &mut Fixture, count: usize) -> Pass {
    (1..count).for_each(|_| drop(fixture.pass()));
    fixture.pass()
}

fn request(fixture: &mut Fixture, value: &str) {
    fixture.cluster.metadata.annotations.get_or_insert_default().insert(key::RECOVER_FROM.into(), value.into());
}

fn is_requested(fixture: &Fixture) -> bool {
    fixture.cluster.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key::RECOVER_FROM))
}

fn reported(pass: &Pass, kind: ConditionType) -> (Reason, String) {
    let condition = condition(&pass.report.status.conditions, kind).unwrap();
    (Reason::parse(&condition.reason).unwrap(), condition.message.clone())
}

/// Checks that the request is refused for this reason, and that nothing is changed.
#[track_caller]
fn assert_refused(fixture: &mut Fixture, why: &str) {
    let pass = passes(fixture, 3);
    assert!(pass.is_idle() && fixture.taken.is_empty(), "{:#?} {:?}", pass.plan, fixture.taken);
    assert_eq!(reported(&pass, ConditionType::Degraded).0, Reason::RecoveryRefused);
    let problems = pass.changes().problems;
    let refusals: Vec<_> = problems.iter().filter(|note| note.reason == Reason::RecoveryRefused).collect();
    assert!(matches!(refusals.as_slice(), [note] if note.message.contains(why)), "{problems:?}");
    assert!(is_requested(fixture));
}

/// Checks that the request is refused and removed, so that it does not take effect when the quorum is lost later.
fn assert_refused_and_removed(fixture: &mut Fixture) {
    let changes = fixture.pass().changes();
    let [completed] = &changes.completed[..] else { panic!("it is removed: {:?}", changes.completed) };
    let CompletedRequest { remaining: None, event: Some(RequestEvent::Refused(note)), .. } = completed else {
        panic!("{completed:?}")
    };
    let message = &note.message;
    assert!(message.starts_with("there is a quorum, so nothing was changed") && changes.step.is_none(), "{message}");
    assert!(!is_requested(fixture) && fixture.taken.is_empty(), "{:?}", fixture.taken);
    assert!(fixture.pass().is_idle());
}

/// The steps that were taken, except those that only record and revoke.
fn changes(fixture: &Fixture) -> Vec<&str> {
    let others = ["RecordMembers", "Revoke"];
    fixture.taken.iter().map(String::as_str).filter(|step| !others.contains(step)).collect()
}

/// Checks that everything is up to date: all members exist, the first is the survivor, and no trace of the recovery is left.
fn assert_recovered(fixture: &mut Fixture, id: MemberId) {
    fixture.settle();
    let plan = fixture.changes();
    assert!(plan.is_empty() && plan.progress.is_empty() && plan.problems.is_empty(), "{plan:#?}");
    let all: Vec<_> = (0..fixture.cluster.spec.replicas.unsigned_abs()).collect();
    assert_eq!((fixture.ordinals(), fixture.id(0)), (all, id));
    assert!(!is_requested(fixture) && !fixture.is_any_forced());
    assert!(fixture.observed.members.values().all(|member| member.is_healthy() && discarded_for(member).is_none()));
}

#[test]
fn the_only_data_is_not_lost_by_a_restart_without_the_flag() {
    let mut fixture = with_lost_quorum(3);
    request(&mut fixture, "demo-0");
    for _ in 0..40 {
        if is_requested(&fixture) {
            fixture.pass();
        }
    }
    assert!(!is_requested(&fixture) && fixture.is_any_forced());
    fixture.member(0).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(fixture.now));
    let before = fixture.taken.len();
    let pass = passes(&mut fixture, 5);
    assert!(!fixture.taken[before..].iter().any(|step| step.starts_with("RestartMember")), "{:?}", fixture.taken);
    let problems = pass.changes().problems;
    assert!(problems.iter().any(|note| note.reason == Reason::CannotRestart), "{problems:?}");
}

#[test]
fn a_lost_quorum_is_reported_once_with_what_to_do() {
    let mut fixture = with_lost_quorum(3);
    fixture.revisions.insert(names().member(0), 123);
    let pass = passes(&mut fixture, 2);
    let (reason, message) = reported(&pass, ConditionType::Available);
    assert_eq!(reason, Reason::QuorumLost);
    for words in [
        "quorum has been lost since 2026-03-01T12:00:",
        "demo-0 has data up to revision 123; demo-1 has data, but its revision is unknown (it has no pod yet); \
         demo-2 has no data (PersistentVolumeClaim data-demo-2 is missing)",
        "2 of 3 members have data: the cluster becomes available again without loss as soon as 2 of them run",
        "If no other member can come back: `kubectl -n ns annotate etcd demo etcd-warden.dev/recover-from=demo-0` creates a new cluster",
    ] {
        assert!(message.contains(words), "{message}");
    }
    let members: Vec<_> = pass.report.status.members.iter().map(|member| member.progress.clone()).collect();
    assert_eq!(members, [Some("revision 123".into()), None, None]);
    // Later passes report exactly the same status.
    let later = passes(&mut fixture, 30);
    assert_eq!(later.report.status, pass.report.status);
    assert!(later.report.events.is_empty() && later.is_idle());

    fixture.lose(1);
    let message = reported(&passes(&mut fixture, 2), ConditionType::Available).1;
    assert!(message.contains("1 of 3 members have data: that is no quorum"), "{message}");
    fixture.lose(0);
    let message = reported(&passes(&mut fixture, 2), ConditionType::Available).1;
    assert!(message.ends_with("No data is left to recover from"), "{message}");
}

#[test]
fn recovery_from_the_most_recent_data_is_recommended() {
    let mut fixture = with_lost_quorum(5);
    fixture.down.clear();
    fixture.revisions.insert(names().member(1), 101);
    let message = reported(&passes(&mut fixture, 2), ConditionType::Available).1;
    assert!(message.contains("recover-from=demo-1`"), "{message}");
    fixture.revisions.clear();
    let message = reported(&passes(&mut fixture, 2), ConditionType::Available).1;
    assert!(message.contains("recover-from=demo-0`"), "{message}");
}

#[test]
fn a_survivor_becomes_a_cluster_of_one_and_is_scaled_up() {
    for replicas in [2, 3, 5] {
        let mut fixture = with_lost_quorum(replicas);
        let id = fixture.id(0);
        request(&mut fixture, "demo-0");
        fixture.down.clear();
        fixture.down.insert(names().member(1));
        let mut seen: Vec<String> = vec![];
        for _ in 0..40 {
            let pass = fixture.pass();
            let (reason, message) = reported(&pass, ConditionType::Progressing);
            let words = if reason == Reason::Recovering { message } else { reason.to_string() };
            if words.starts_with("demo-0 is a cluster of one") {
                // Its container may be restarted with the flag, and then lose writes that it acknowledged.
                assert_eq!(reported(&pass, ConditionType::Available).0, Reason::QuorumLost);
                assert!(!fixture.observed.members[&names().member(0)].pod_ready());
            }
            if seen.last() != Some(&words) {
                seen.push(words);
            }
        }
        fixture.down.clear();
        assert_recovered(&mut fixture, id);
        let seen = seen.join("\n");
        let phases =
            ["stopping all members but demo-0", "discarding the data", "starting demo-0 alone", "demo-0 is a cluster of one"];
        let mut from = 0;
        for phase in phases {
            from += seen[from..].find(phase).unwrap_or_else(|| panic!("{phase} comes next in {seen}"));
        }
        let begun: Vec<_> = changes(&fixture).into_iter().take(2).collect();
        assert_eq!(begun, ["DiscardData for demo-0", "RestartMember demo-0"]);
        let restarts = fixture.taken.iter().filter(|step| *step == "RestartMember demo-0").count();
        assert_eq!(restarts, 2, "with the flag and without it: {:?}", fixture.taken);
        let last = fixture.taken.iter().rposition(|step| step == "RestartMember demo-0").unwrap();
        let is_deletion = |step: &String| ["DeleteStatefulSet", "DeleteClaim"].iter().any(|name| step.starts_with(name));
        let deletions = fixture.taken[..last].iter().filter(|step| is_deletion(step)).count();
        assert!(
            deletions > 0 && !fixture.taken[last..].iter().any(is_deletion),
            "they are deleted before it: {:?}",
            fixture.taken
        );
    }
}

#[test]
fn a_discarded_member_that_comes_back_does_not_start() {
    let mut fixture = with_lost_quorum(5);
    let id = fixture.id(0);
    request(&mut fixture, "demo-0");
    for _ in 0..60 {
        fixture.pass();
        // Its node has come back, with its claim unchanged.
        if fixture.taken.iter().any(|step| step.starts_with("DiscardData")) {
            fixture.down.clear();
        }
    }
    assert_recovered(&mut fixture, id);
}

#[test]
fn recovery_does_not_wait_for_a_claim_that_is_being_deleted() {
    let mut fixture = with_lost_quorum(3);
    let at = Time(fixture.now);
    fixture.member(1).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(at);
    request(&mut fixture, "demo-0");
    passes(&mut fixture, 6);
    assert_eq!(changes(&fixture)[..1], ["RestartMember demo-0"]);
}

#[test]
fn no_member_is_forced_while_a_claim_cannot_be_read() {
    let mut fixture = with_lost_quorum(3);
    let id = fixture.id(0);
    // It has lost its labels, and the API server does not answer.
    let claim = fixture.member(1).claim.take();
    fixture.member(1).claim_unread = true;
    request(&mut fixture, "demo-0");
    let pass = passes(&mut fixture, 20);
    assert_eq!(fixture.taken, Vec::<String>::new());
    let (reason, message) = reported(&pass, ConditionType::Progressing);
    assert_eq!(reason, Reason::Recovering);
    assert!(message.contains("the PersistentVolumeClaims of demo-1 cannot be read"), "{message}");
    fixture.member(1).claim = claim;
    fixture.member(1).claim_unread = false;
    passes(&mut fixture, 20);
    fixture.down.clear();
    assert_recovered(&mut fixture, id);
}

#[test]
fn no_member_is_forced_while_another_may_run() {
    let mut fixture = with_lost_quorum(3);
    fixture.down.clear();
    fixture.down.insert(names().member(2));
    fixture.silent.insert(names().member(1));
    fixture.stuck.insert(names().member(1));
    fixture.silent.insert(names().member(0));
    passes(&mut fixture, 2);
    request(&mut fixture, "demo-0,force");
    let pass = passes(&mut fixture, 20);
    assert_eq!(fixture.taken, Vec::<String>::new());
    let (reason, message) = reported(&pass, ConditionType::Progressing);
    assert_eq!(reason, Reason::Recovering);
    assert!(message.contains("pod demo-1-0"), "{message}");
    let available = reported(&pass, ConditionType::Available).1;
    assert!(available.ends_with("The cluster is being recovered: see Progressing"), "{available}");
    // Until then it can be undone.
    fixture.cluster.metadata.annotations = None;
    passes(&mut fixture, 2);
    let replicas = |fixture: &mut Fixture, ordinal| fixture.member(ordinal).stateful_set.as_ref().unwrap().spec.replicas;
    assert_eq!((replicas(&mut fixture, 0), replicas(&mut fixture, 1)), (Some(1), Some(1)));
    request(&mut fixture, "demo-0,force");
    passes(&mut fixture, 5);
    fixture.stuck.clear();
    fixture.silent.clear();
    let id = fixture.id(0);
    passes(&mut fixture, 20);
    fixture.down.clear();
    assert_recovered(&mut fixture, id);
}

#[test]
fn an_invalid_or_unsafe_request_is_refused() {
    let with = |value: &str, set: &dyn Fn(&mut Fixture), why: &str| {
        let mut fixture = with_lost_quorum(5);
        set(&mut fixture);
        passes(&mut fixture, 2);
        request(&mut fixture, value);
        assert_refused(&mut fixture, why);
    };
    let mut fixture = with_lost_quorum(3);
    for name in ["demo-7", "demo-2", "nonsense", "other-0", "", ",force", "demo-0,please"] {
        request(&mut fixture, name);
        assert_refused(&mut fixture, "is not a member with data");
    }
    let more_recent = |fixture: &mut Fixture| {
        fixture.down.clear();
        fixture.revisions.insert(names().member(1), 101);
    };
    with(
        "demo-0",
        &more_recent,
        "demo-1 has data up to revision 101, and demo-0 only to 100. To recover anyway, set the annotation to demo-0,force",
    );
    let silent = |fixture: &mut Fixture| {
        fixture.down.clear();
        fixture.silent.insert(names().member(1));
    };
    with("demo-0", &silent, "demo-1 runs, and its revision is unknown: it does not listen on port 2381");
    let unread = |fixture: &mut Fixture| fixture.silent.extend([names().member(0)]);
    with("demo-0", &unread, "the revision of demo-0 is unknown");
    with("demo-1", &|_| {}, "the revision of demo-1 is unknown: it has no pod yet");
    with("demo-0", &|fixture| fixture.cluster.spec.paused = true, "spec.paused is true");
}

#[test]
fn force_overrules_a_refusal_but_not_a_quorum() {
    let mut fixture = with_lost_quorum(5);
    fixture.down.clear();
    fixture.revisions.insert(names().member(1), 101);
    let id = fixture.id(0);
    passes(&mut fixture, 2);
    request(&mut fixture, "demo-0,force");
    assert_recovered(&mut fixture, id);

    let mut fixture = Fixture::bootstrapped("replicas: 3");
    fixture.taken.clear();
    for value in ["demo-0", "demo-0,force", "demo-9"] {
        request(&mut fixture, value);
        assert_refused_and_removed(&mut fixture);
    }
    // A repeated request after a recovery changes nothing.
    let mut fixture = with_lost_quorum(3);
    let id = fixture.id(0);
    request(&mut fixture, "demo-0");
    passes(&mut fixture, 30);
    fixture.down.clear();
    assert_recovered(&mut fixture, id);
    fixture.taken.clear();
    request(&mut fixture, "demo-0,force");
    assert_refused_and_removed(&mut fixture);
}

/// Plans a recovery on the current observation. Returns why it is refused, and the recovery.
fn refusal(fixture: &Fixture) -> (String, Recovery) {
    let (cluster, observed, desired, now) = (&*fixture.valid(), &fixture.observed, &Desired::default(), fixture.now);
    let facts = &Facts::of(&cluster.names, &cluster.uid, observed, now);
    let recovery = super::plan(&Input { cluster, desired, observed, facts, now });
    let message = &recovery.changes.problems[0].message;
    (message.split_once("is refused, and nothing was changed: ").unwrap().1.to_owned(), recovery)
}

#[test]
fn a_running_majority_may_only_be_partitioned() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    fixture.taken.clear();
    fixture.pass();
    // All members run, but no member list is available.
    let members = fixture.etcd.clone();
    fixture.observed.list = Err("sees no leader".into());
    for member in fixture.observed.members.values_mut() {
        member.progress = Some(Ok(Progress { revision: 7, has_leader: false, is_learner: false }));
    }
    // A ready pod proves that there is a quorum.
    request(&mut fixture, "demo-0,force");
    assert_eq!(refusal(&fixture).0, "the pod of demo-0 is ready, which requires a quorum");
    for member in fixture.observed.members.values_mut() {
        member.pod.as_mut().unwrap().status.as_mut().unwrap().conditions = None;
    }
    request(&mut fixture, "demo-0");
    let (why, recovery) = refusal(&fixture);
    assert!(recovery.step.is_none() && recovery.stopped.is_empty() && recovery.forced.is_none());
    assert!(why.contains("3 of 3 members run, and are a quorum as soon as they reach each other"), "{why}");
    // A member that sees a leader proves that there is a quorum, and `force` does not overrule that.
    fixture.member(1).progress = Some(Ok(Progress { revision: 7, has_leader: true, is_learner: false }));
    request(&mut fixture, "demo-0,force");
    let (why, recovery) = refusal(&fixture);
    assert!(recovery.stopped.is_empty());
    assert!(why.contains("demo-1 sees a leader"), "{why}");
    assert!(lost_quorum::describe(&names(), &fixture.observed, false).ends_with("do not recover"));
    assert_eq!(fixture.etcd, members);
}

#[test]
fn recovery_waits_for_a_possible_election() {
    let mut fixture = Fixture::bootstrapped("replicas: 3");
    fixture.taken.clear();
    fixture.stop(1);
    fixture.stop(2);
    request(&mut fixture, "demo-0");
    let pass = passes(&mut fixture, 5);
    assert!(pass.is_idle(), "{:?}", pass.plan);
    assert!(
        reported(&pass, ConditionType::Progressing)
            .1
            .contains("demo-0 becomes a cluster of one if the quorum stays lost for 10 s")
    );
    fixture.down.clear();
    passes(&mut fixture, 2);
    request(&mut fixture, "demo-0");
    assert_refused_and_removed(&mut fixture);
}

#[test]
fn recovery_waits_for_a_possible_election_of_the_configured_length() {
    let mut fixture = Fixture::bootstrapped("{replicas: 3, etcd: {electionTimeout: 50s}}");
    fixture.stop(1);
    fixture.stop(2);
    request(&mut fixture, "demo-0");
    let waits = |pass: &Pass| {
        let message = reported(pass, ConditionType::Progressing).1;
        message.contains("demo-0 becomes a cluster of one if the quorum stays lost for 108 s")
    };
    assert!(waits(&passes(&mut fixture, 100)));
    assert!(!waits(&passes(&mut fixture, 15)));
}

#[test]
fn an_interrupted_recovery_continues_from_what_exists() {
    // At each moment a step fails, a container restarts, a pod is deleted, or the request is removed.
    for at in 1..11 {
        for fault in [at % 4, (at + 1) % 4] {
            let mut fixture = with_lost_quorum(3);
            let id = fixture.id(0);
            request(&mut fixture, "demo-0");
            for pass in 0..60 {
                if pass == at {
                    match fault {
                        0 => fixture.loses_next_step = true,
                        1 => fixture.restart_container(0),
                        2 => drop(std::mem::take(&mut fixture.member(0).pod)),
                        _ => fixture.cluster.metadata.annotations = None,
                    }
                }
                if pass == at + 6 && fault == 3 {
                    assert!(
                        fixture.observed.members.values().all(|member| discarded_for(member).is_none() || !is_forced(member))
                    );
                    if fixture.changes().progress.iter().any(|wait| wait.message.contains("set annotation"))
                        || fixture.observed.list.is_err()
                    {
                        request(&mut fixture, "demo-0");
                    }
                }
                fixture.pass();
            }
            fixture.down.clear();
            assert_recovered(&mut fixture, id);
        }
    }
}
