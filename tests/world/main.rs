//! A simulated world: the real code that plans and decides, against models of Kubernetes and of etcd, with faults.
//!
//! `make world` runs worlds of random seeds, `SEED=... make world` one of them with everything that happens. A run that fails
//! is shrunk before it is shown.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::unwrap_in_result, clippy::panic, reason = "a test fails by panicking")]
#![allow(missing_docs, clippy::cast_precision_loss, reason = "it is used here alone")]

mod actions;
mod certificates;
mod etcd;
mod invariants;
mod kubernetes;
mod observation;
mod operator;
mod reality;
mod rng;
mod run;
mod scenarios;
mod script;
mod versions;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use jiff::{SignedDuration, Timestamp};
use run::World;
use script::Script;

/// Most of what a pass costs is memory that is taken and given back.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A moment of a world as a time.
fn time(millis: etcd::Millis) -> Timestamp {
    *certificates::BEGIN + SignedDuration::from_millis(millis)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// How many worlds there are in `make test`, and the first of their seeds: what it says must not depend on the day.
const WORLDS: u64 = if cfg!(debug_assertions) { 100 } else { 100_000 };
const FIRST: u64 = 1;

#[test]
fn no_world_breaks() {
    if let Some(seed) = number("SEED") {
        let script = Script::new(seed);
        let world = World::run(&script, true);
        println!("{script:#?}\n{}\n{}", world.lines(), world.describe());
        if world.broken.is_empty() {
            return;
        }
        fail(script);
    }
    let today = || Timestamp::now().as_second().unsigned_abs() * 1_000_000;
    let count = number("N").unwrap_or(WORLDS);
    let first = number("FIRST").unwrap_or_else(|| if number("N").is_some() { today() } else { FIRST });
    println!("seeds {first} to {}", first + count - 1);
    let (next, passes, found) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    // Goes on after a world that breaks, and names each of them.
    let all = std::env::var_os("ALL").is_some();
    let began = Instant::now();
    let broken = thread::scope(|scope| {
        let work = || {
            while !found.load(Ordering::Relaxed) {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    break;
                }
                let script = Script::new(seed);
                let world = World::run(&script, false);
                passes.fetch_add(world.passes, Ordering::Relaxed);
                if !world.broken.is_empty() && all {
                    println!("seed {seed} breaks: {:?}", world.broken);
                } else if !world.broken.is_empty() {
                    found.store(true, Ordering::Relaxed);
                    return Some(script);
                }
            }
            None
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().expect("a world does not panic")).min_by_key(|script| script.seed)
    });
    let passes = passes.load(Ordering::Relaxed);
    println!(
        "{} worlds, {passes} passes in {:.1} s",
        next.load(Ordering::Relaxed).min(first + count) - first,
        began.elapsed().as_secs_f32()
    );
    if let Some(script) = broken {
        fail(script);
    }
}

/// Leaves out everything that is not needed for the failure, and shows the rest.
fn fail(mut script: Script) -> ! {
    let seed = script.seed;
    let fails = |script: &Script| !World::run(script, false).broken.is_empty();
    let mut at = 0;
    while at < script.events.len() {
        let mut less = script.clone();
        let (gap, _) = less.events.remove(at);
        if let Some((next, _)) = less.events.get_mut(at) {
            *next += gap;
        }
        if fails(&less) {
            script = less;
            at = 0;
        } else {
            at += 1;
        }
    }
    let world = World::run(&script, true);
    panic!(
        "seed {seed} breaks: {:?}\nshrunk to {script:#?}\n{}\n{}\nSEED={seed} make world shows it again, whole",
        world.broken,
        world.lines(),
        world.describe()
    );
}
