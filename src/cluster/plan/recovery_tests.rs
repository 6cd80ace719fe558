//! A lost quorum, and the way out of it. What must never happen is checked by the world itself: nobody runs beside one that is
//! forced, nobody that was given up starts again, nobody is added while anybody could be forced.

use super::*;
use crate::{
    cluster::fixtures::{Pass, World, names},
    names::annotation,
};

/// Of three or more members all but the first two are lost with their data, and the second is down.
fn lost(replicas: i32) -> World {
    let mut world = World::founded(&format!("replicas: {replicas}"));
    world.taken.clear();
    for ordinal in 2..u32::try_from(replicas).unwrap() {
        world.lose(ordinal);
    }
    world.stop(1);
    // Longer than an election takes.
    passes(&mut world, 12);
    assert_eq!(world.taken, Vec::<String>::new());
    world
}

fn passes(world: &mut World, count: usize) -> Pass {
    (1..count).for_each(|_| drop(world.pass()));
    world.pass()
}

fn wish(world: &mut World, value: &str) {
    world.cluster.metadata.annotations.get_or_insert_default().insert(annotation::RECOVER_FROM.into(), value.into());
}

fn is_wished(world: &World) -> bool {
    world.cluster.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(annotation::RECOVER_FROM))
}

fn condition(pass: &Pass, kind: &str) -> (String, String) {
    let condition = api::condition(&pass.report.status.conditions, kind).unwrap();
    (condition.reason.clone(), condition.message.clone())
}

/// The only reason against it, which changes nothing.
#[track_caller]
fn is_refused(world: &mut World, why: &str) {
    let pass = passes(world, 3);
    assert!(pass.plan.is_empty() && world.taken.is_empty(), "{:#?} {:?}", pass.plan, world.taken);
    let refusals: Vec<_> = pass.plan.problems.iter().filter(|note| note.reason == "RecoveryRefused").collect();
    assert!(matches!(refusals.as_slice(), [note] if note.message.contains(why)), "{:?}", pass.plan.problems);
    assert_eq!(condition(&pass, "Degraded").0, "RecoveryRefused");
    assert!(is_wished(world));
}

/// The wish comes to nothing, and is not kept for the day on which quorum is lost.
fn is_unwished(world: &mut World) {
    let pass = world.pass();
    let [wish] = &pass.plan.wishes[..] else { panic!("it is taken off: {:?}", pass.plan.wishes) };
    assert!(wish.warns && wish.left.is_none());
    let message = &wish.told.as_ref().unwrap().message;
    assert!(message.starts_with("there is a quorum, so nothing was touched") && pass.plan.step.is_none(), "{message}");
    assert!(!is_wished(world) && world.taken.is_empty(), "{:?}", world.taken);
    assert!(world.pass().plan.is_empty());
}

/// Its steps, but for what is written down and revoked.
fn changes(world: &World) -> Vec<&str> {
    let others = ["LockBootstrap", "Revoke"];
    world.taken.iter().map(String::as_str).filter(|step| !others.contains(step)).collect()
}

/// Everything is as wanted: so many members, of which the first is the one that there was, and nothing of the recovery is left.
fn is_whole(world: &mut World, id: u64) {
    world.settle();
    let plan = world.plan();
    assert!(plan.is_empty() && plan.waits.is_empty() && plan.problems.is_empty(), "{plan:#?}");
    let all: Vec<_> = (0..world.cluster.spec.replicas.unsigned_abs()).collect();
    assert_eq!((world.ordinals(), world.id(0)), (all, id));
    assert!(!is_wished(world) && !world.is_anyone_forced());
    assert!(world.observed.members.values().all(|member| member.serves() && given_up(member).is_none()));
}

#[test]
fn the_only_data_does_not_go_with_the_flag() {
    let mut world = lost(3);
    wish(&mut world, "demo-0");
    for _ in 0..40 {
        if is_wished(&world) {
            world.pass();
        }
    }
    assert!(!is_wished(&world) && world.is_anyone_forced());
    world.member(0).claim.as_mut().unwrap().metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now));
    let before = world.taken.len();
    let pass = passes(&mut world, 5);
    assert!(!world.taken[before..].iter().any(|step| step.starts_with("RestartMember")), "{:?}", world.taken);
    assert!(pass.plan.problems.iter().any(|note| note.reason == "CannotRestart"), "{:?}", pass.plan.problems);
}

#[test]
fn what_is_lost_and_what_to_do_is_told_once() {
    let mut world = lost(3);
    world.revisions.insert(names().member(0), 123);
    let pass = passes(&mut world, 2);
    let (reason, message) = condition(&pass, "Available");
    assert_eq!(reason, "NoQuorum");
    for words in [
        "quorum is lost since 2026-03-01T12:00:",
        "demo-0 has data, up to revision 123; demo-1 has data, how far is not known (it has no pod yet); \
         demo-2 has no data (PersistentVolumeClaim data-demo-2 is gone)",
        "Of 3 members 2 have data: the cluster serves again, with nothing lost, as soon as 2 of those that have data run",
        "If no more can come back: `kubectl -n ns annotate etcd demo etcd-warden.dev/recover-from=demo-0` makes a new cluster",
    ] {
        assert!(message.contains(words), "{message}");
    }
    let members: Vec<_> = pass.report.status.members.iter().map(|member| member.progress.clone()).collect();
    assert_eq!(members, [Some("revision 123".into()), None, None]);
    // It stays as it is, to the second.
    let later = passes(&mut world, 30);
    assert_eq!(later.report.status, pass.report.status);
    assert!(later.report.events.is_empty() && later.plan.is_empty());

    world.lose(1);
    let message = condition(&passes(&mut world, 2), "Available").1;
    assert!(message.contains("Of 3 members 1 have data: those that have data are no quorum"), "{message}");
    world.lose(0);
    let message = condition(&passes(&mut world, 2), "Available").1;
    assert!(message.ends_with("No data is left to recover from"), "{message}");
}

#[test]
fn the_most_advanced_is_the_one_to_recover_from() {
    let mut world = lost(5);
    world.down.clear();
    world.revisions.insert(names().member(1), 101);
    let message = condition(&passes(&mut world, 2), "Available").1;
    assert!(message.contains("recover-from=demo-1`"), "{message}");
    world.revisions.clear();
    let message = condition(&passes(&mut world, 2), "Available").1;
    assert!(message.contains("recover-from=demo-0`"), "{message}");
}

#[test]
fn a_survivor_becomes_a_cluster_of_one_and_grows() {
    for replicas in [2, 3, 5] {
        let mut world = lost(replicas);
        let id = world.id(0);
        wish(&mut world, "demo-0");
        world.down.clear();
        world.down.insert(names().member(1));
        let mut told: Vec<String> = vec![];
        for _ in 0..40 {
            let pass = world.pass();
            let (reason, message) = condition(&pass, "Progressing");
            let words = if reason == "Recovering" { message } else { reason };
            if words.starts_with("demo-0 is a cluster of one") {
                // Its container may start once more, and then forget what it told clients.
                assert_eq!(condition(&pass, "Available").0, "NoQuorum");
                assert!(!world.observed.members[&names().member(0)].pod_ready());
            }
            if told.last() != Some(&words) {
                told.push(words);
            }
        }
        world.down.clear();
        is_whole(&mut world, id);
        let told = told.join("\n");
        let phases =
            ["stopping all members but demo-0", "giving up the data", "starting demo-0 alone", "demo-0 is a cluster of one"];
        let mut from = 0;
        for phase in phases {
            from += told[from..].find(phase).unwrap_or_else(|| panic!("{phase} comes next in {told}"));
        }
        let begun: Vec<_> = changes(&world).into_iter().take(2).collect();
        assert_eq!(begun, ["GiveUp for demo-0", "RestartMember demo-0"]);
        let restarts = world.taken.iter().filter(|step| *step == "RestartMember demo-0").count();
        assert_eq!(restarts, 2, "with the flag and without it: {:?}", world.taken);
    }
}

#[test]
fn who_comes_back_late_does_not_start_again() {
    let mut world = lost(5);
    let id = world.id(0);
    wish(&mut world, "demo-0");
    for _ in 0..60 {
        world.pass();
        // Its node is there again, and its claim as it was.
        if world.taken.iter().any(|step| step.starts_with("GiveUp")) {
            world.down.clear();
        }
    }
    is_whole(&mut world, id);
}

#[test]
fn a_claim_that_is_being_deleted_is_not_waited_for() {
    let mut world = lost(3);
    let at = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.now);
    world.member(1).claim.as_mut().unwrap().metadata.deletion_timestamp = Some(at);
    wish(&mut world, "demo-0");
    passes(&mut world, 6);
    assert_eq!(changes(&world)[..1], ["RestartMember demo-0"]);
}

#[test]
fn nothing_is_forced_while_a_claim_cannot_be_read() {
    let mut world = lost(3);
    let id = world.id(0);
    // It has lost its labels, and the API server does not answer.
    let claim = world.member(1).claim.take();
    world.member(1).claim_unread = true;
    wish(&mut world, "demo-0");
    let pass = passes(&mut world, 20);
    assert_eq!(world.taken, Vec::<String>::new());
    let (reason, message) = condition(&pass, "Progressing");
    assert_eq!(reason, "Recovering");
    assert!(message.contains("the claims of demo-1 cannot be read"), "{message}");
    world.member(1).claim = claim;
    world.member(1).claim_unread = false;
    passes(&mut world, 20);
    world.down.clear();
    is_whole(&mut world, id);
}

#[test]
fn nothing_is_forced_while_another_may_run() {
    let mut world = lost(3);
    world.down.clear();
    world.down.insert(names().member(2));
    world.silent.insert(names().member(1));
    world.stuck.insert(names().member(1));
    world.silent.insert(names().member(0));
    passes(&mut world, 2);
    wish(&mut world, "demo-0,force");
    let pass = passes(&mut world, 20);
    assert_eq!(world.taken, Vec::<String>::new());
    let (reason, message) = condition(&pass, "Progressing");
    assert_eq!(reason, "Recovering");
    assert!(message.contains("pod demo-1-0"), "{message}");
    let available = condition(&pass, "Available").1;
    assert!(available.ends_with("It is being recovered: see Progressing"), "{available}");
    // Until then it can be undone.
    world.cluster.metadata.annotations = None;
    passes(&mut world, 2);
    let replicas = |world: &mut World, ordinal| world.member(ordinal).stateful_set.as_ref().unwrap().spec.replicas;
    assert_eq!((replicas(&mut world, 0), replicas(&mut world, 1)), (Some(1), Some(1)));
    wish(&mut world, "demo-0,force");
    passes(&mut world, 5);
    world.stuck.clear();
    world.silent.clear();
    let id = world.id(0);
    passes(&mut world, 20);
    world.down.clear();
    is_whole(&mut world, id);
}

#[test]
fn a_wish_that_makes_no_sense_is_refused() {
    let with = |value: &str, set: &dyn Fn(&mut World), why: &str| {
        let mut world = lost(5);
        set(&mut world);
        passes(&mut world, 2);
        wish(&mut world, value);
        is_refused(&mut world, why);
    };
    let mut world = lost(3);
    for name in ["demo-7", "demo-2", "nonsense", "other-0", "", ",force", "demo-0,please"] {
        wish(&mut world, name);
        is_refused(&mut world, "is no member with data");
    }
    let further = |world: &mut World| {
        world.down.clear();
        world.revisions.insert(names().member(1), 101);
    };
    with(
        "demo-0",
        &further,
        "demo-1 got further, to revision 101; demo-0 has 100. If that is to be lost, set it to demo-0,force",
    );
    let silent = |world: &mut World| {
        world.down.clear();
        world.silent.insert(names().member(1));
    };
    with("demo-0", &silent, "demo-1 runs, and how far it got cannot be read: it does not listen on port 2381");
    let unread = |world: &mut World| world.silent.extend([names().member(0)]);
    with("demo-0", &unread, "how far demo-0 got cannot be read");
    with("demo-1", &|_| {}, "how far demo-1 got cannot be read: it has no pod yet");
    with("demo-0", &|world| world.cluster.spec.paused = true, "spec.paused is true");
}

#[test]
fn what_speaks_against_it_can_be_overruled_but_not_a_quorum() {
    let mut world = lost(5);
    world.down.clear();
    world.revisions.insert(names().member(1), 101);
    let id = world.id(0);
    passes(&mut world, 2);
    wish(&mut world, "demo-0,force");
    is_whole(&mut world, id);

    let mut world = World::founded("replicas: 3");
    world.taken.clear();
    for value in ["demo-0", "demo-0,force", "demo-9"] {
        wish(&mut world, value);
        is_unwished(&mut world);
    }
    // Again after it was done: nothing is touched.
    let mut world = lost(3);
    let id = world.id(0);
    wish(&mut world, "demo-0");
    passes(&mut world, 30);
    world.down.clear();
    is_whole(&mut world, id);
    world.taken.clear();
    wish(&mut world, "demo-0,force");
    is_unwished(&mut world);
}

#[test]
fn a_majority_that_runs_may_only_have_lost_sight_of_each_other() {
    let mut world = World::founded("replicas: 3");
    world.taken.clear();
    world.pass();
    // All run, and no list is had.
    let members = world.etcd.clone();
    world.observed.list = Err("sees no leader".into());
    let mut plan = Plan::default();
    for member in world.observed.members.values_mut() {
        member.progress = Some(Ok(Progress { revision: 7, has_leader: false, is_learner: false }));
    }
    // What the kubelets see outweighs all.
    wish(&mut world, "demo-0,force");
    super::plan(&world.valid(), &world.observed, world.now, &mut plan);
    assert!(plan.problems[0].message.contains("the pod of demo-0 is ready"), "{:?}", plan.problems);
    for member in world.observed.members.values_mut() {
        member.pod.as_mut().unwrap().status.as_mut().unwrap().conditions = None;
    }
    let mut plan = Plan::default();
    wish(&mut world, "demo-0");
    let recovery = super::plan(&world.valid(), &world.observed, world.now, &mut plan);
    assert!(recovery.step.is_none() && recovery.stopped.is_empty() && recovery.forced.is_none());
    assert!(plan.problems[0].message.contains("3 of 3 members run, which are a quorum as soon as they find each other"));
    // One that sees a leader speaks for itself, and no force overrules that.
    world.member(1).progress = Some(Ok(Progress { revision: 7, has_leader: true, is_learner: false }));
    wish(&mut world, "demo-0,force");
    let mut plan = Plan::default();
    let recovery = super::plan(&world.valid(), &world.observed, world.now, &mut plan);
    assert!(recovery.stopped.is_empty());
    assert!(plan.problems[0].message.contains("demo-1 sees a leader"), "{:?}", plan.problems);
    assert!(lost_in_words(&names(), &world.observed, false).ends_with("nothing is to be recovered"));
    assert_eq!(world.etcd, members);
}

#[test]
fn an_election_is_waited_for() {
    let mut world = World::founded("replicas: 3");
    world.taken.clear();
    world.stop(1);
    world.stop(2);
    wish(&mut world, "demo-0");
    let pass = passes(&mut world, 5);
    assert!(pass.plan.is_empty(), "{:?}", pass.plan);
    assert!(condition(&pass, "Progressing").1.contains("demo-0 becomes a cluster of one if quorum stays lost for 10 s"));
    world.down.clear();
    passes(&mut world, 2);
    wish(&mut world, "demo-0");
    is_unwished(&mut world);
}

#[test]
fn whatever_is_lost_on_the_way_it_goes_on_from_what_there_is() {
    // Every step fails once, containers end at every moment, the wish is taken off at every moment.
    for at in 1..11 {
        for fault in [at % 4, (at + 1) % 4] {
            let mut world = lost(3);
            let id = world.id(0);
            wish(&mut world, "demo-0");
            for pass in 0..60 {
                if pass == at {
                    match fault {
                        0 => world.lossy = true,
                        1 => world.restart_container(0),
                        2 => drop(std::mem::take(&mut world.member(0).pod)),
                        _ => world.cluster.metadata.annotations = None,
                    }
                }
                if pass == at + 6 && fault == 3 {
                    assert!(world.observed.members.values().all(|member| given_up(member).is_none() || !bears_flag(member)));
                    if world.plan().waits.iter().any(|wait| wait.message.contains("set annotation"))
                        || world.observed.list.is_err()
                    {
                        wish(&mut world, "demo-0");
                    }
                }
                world.pass();
            }
            world.down.clear();
            is_whole(&mut world, id);
        }
    }
}
