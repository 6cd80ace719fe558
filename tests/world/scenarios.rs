//! Scenarios as text: a command a line, and beside it the recorded trace, so that one page shows what happens.
//!
//! Each file in `tests/world/scenarios` is a scenario: `#` begins a comment, the first command is `members N` or `bootstrap N`, and
//! after each further command the world becomes as desired again. `cargo insta review` shows what has changed in a trace.

use std::{fs, path::Path};

use crate::{
    run::World,
    script::{Event, Storage},
};

/// The versions that scenarios change to.
const VERSIONS: [&str; 4] = ["3.5.35", "3.6.16", "3.6.17", "3.7.3"];

/// Where members have their data.
fn storage(words: &[&str]) -> Option<Storage> {
    Some(match words {
        [] => Storage::DEFAULT,
        ["in-pods"] => Storage::Pods { memory: false },
        ["in-memory"] => Storage::Pods { memory: true },
        ["size", size] => Storage::Claims { size: size.parse().ok()?, class: None },
        ["class", "fast"] => Storage::Claims { size: 8, class: Some("fast") },
        _ => return None,
    })
}

/// The event of a command.
fn event(command: &str) -> Option<Event> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let number = |text: &str| text.parse().ok();
    let millis = |text: &str| Some(text.parse::<i64>().ok()? * 1_000);
    Some(match words.as_slice() {
        ["scale", replicas] => Event::Scale(number(replicas)?),
        ["version", version] => Event::Version(VERSIONS.into_iter().find(|known| known == version)?),
        ["quota", mebibytes] => Event::Quota(mebibytes.parse().ok()?),
        ["flag", kind @ ("refused" | "accepted")] => Event::Flag { is_refused: *kind == "refused" },
        ["storage", words @ ..] => Event::Storage(storage(words)?),
        ["memory", mebibytes] => Event::Memory(mebibytes.parse().ok()?),
        ["restart"] => Event::Restart(1),
        ["replace", member] => Event::Replace(number(member)?),
        ["delete-pod", member] => Event::KillPod(number(member)?),
        ["lose-claim", member] => Event::LoseClaim(number(member)?),
        ["wipe-volume", member] => Event::Wipe(number(member)?),
        ["node-down", member, seconds] => Event::NodeDown(number(member)?, millis(seconds)?),
        ["remove-by-hand", member] => Event::RemoveByHand(number(member)?),
        ["add-unknown", kind @ ("learner" | "voter")] => Event::AddUnknown { learner: *kind == "learner" },
        ["lose-all-but", member] => Event::LoseAllBut(number(member)?),
        ["rotate-ca", "client"] => Event::Rotate("client"),
        ["rotate-ca", "peer"] => Event::Rotate("peer"),
        ["rotate-ca", "client,peer"] => Event::Rotate("client,peer"),
        ["rotate-ca", "client", "refused"] => Event::RotateRefused("client"),
        ["rotate-ca", "peer", "refused"] => Event::RotateRefused("peer"),
        ["days", days] => Event::Days(days.parse().ok()?),
        ["nobody-writes"] => Event::Quiet,
        ["recreate"] => Event::Recreate,
        ["kill-operator", actions] => Event::Die { operator: 0, after: number(actions)? },
        _ => return None,
    })
}

/// What happens in a scenario.
fn play(scenario: &str) -> String {
    let mut commands = scenario.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first: Vec<&str> = commands.next().expect("a scenario has commands").split_whitespace().collect();
    let [begin @ ("members" | "bootstrap"), replicas, storage @ ..] = first.as_slice() else {
        panic!("it begins with members or bootstrap")
    };
    let storage = self::storage(storage).expect("it says where the data is");
    let mut world = World::begin(replicas.parse().expect("a number"), storage, *begin == "bootstrap", 1);
    // Nothing else goes on between two actions of the operator.
    world.calm = true;
    world.record(false);
    if *begin == "bootstrap" {
        world.heal();
    }
    for command in commands {
        let event = event(command).unwrap_or_else(|| panic!("there is no command {command:?}"));
        let trace = world.trace.as_mut().expect("it is recorded");
        trace.lines.push(format!("\n> {command}"));
        trace.since = world.now;
        world.happen(&event);
        // The operator may die after its next actions.
        world.go(1_000);
        world.heal();
    }
    assert_eq!(world.broken, Vec::<String>::new(), "{}", world.lines());
    world.lines()
}

#[test]
fn scenarios() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/world/scenarios");
    let files = fs::read_dir(&folder).expect("the scenarios").map(|entry| entry.expect("a file").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    files.sort();
    assert!(!files.is_empty(), "there are scenarios");
    for path in files {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name");
        let trace = play(&fs::read_to_string(&path).expect("a scenario"));
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(&folder);
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, trace));
    }
}
