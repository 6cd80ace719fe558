//! Scenarios on a real Kubernetes, with the operator installed by its chart.
//!
//! It runs inside the cluster's network (`hack/cluster/enter`), after `hack/image` and `hack/cluster/load-tar`; `make e2e` does
//! all of it. Arguments are parts of the names of scenarios to run; without any, all run but the long ones, which `E2E_FULL=1` adds, and
//! the measurements of `make bench`. `E2E_PARALLEL` is how many run at the same time.
//!
//! Each scenario has a namespace of its own, which enforces the Pod Security Standard `restricted`. The namespace of a failed
//! scenario is kept, and its objects, events and logs are written to `target/e2e/`. Scenarios that change the operator run last
//! and alone.

#![recursion_limit = "256"] // the futures of scenarios nest deeply
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its progress")]

/// A [`harness::Scenario`] of an async function that takes its [`TestNamespace`].
macro_rules! scenario {
    ($function:path) => {
        $crate::harness::Scenario::new(module_path!(), stringify!($function), |ns| Box::pin($function(ns)))
    };
}

mod access;
mod bad_input;
mod bench;
mod certificates;
#[path = "../clients/mod.rs"]
mod clients;
mod drift;
mod evidence;
mod examples;
mod failpoint;
mod faults;
mod growing;
mod harness;
mod history;
mod issuers;
mod killed;
mod lifecycle;
mod manual_changes;
mod members;
mod namespace;
mod operator;
mod pods;
mod recovery;
mod refused;
mod resources;
mod rotation;
mod storage;
mod tools;
mod users;
mod versions;
mod watcher;
#[path = "../webhook/mod.rs"]
mod webhook;
mod writer;

use harness::Scenario;

fn main() -> std::process::ExitCode {
    // The longest scenarios start first.
    let themes = [
        versions::scenarios(),
        issuers::scenarios(),
        rotation::scenarios(),
        members::scenarios(),
        growing::scenarios(),
        storage::scenarios(),
        resources::scenarios(),
        pods::scenarios(),
        evidence::scenarios(),
        manual_changes::scenarios(),
        certificates::scenarios(),
        access::scenarios(),
        faults::scenarios(),
        examples::scenarios(),
        bad_input::scenarios(),
        lifecycle::scenarios(),
        users::scenarios(),
        drift::scenarios(),
        recovery::scenarios(),
        killed::scenarios(),
        refused::scenarios(),
        operator::scenarios(),
        bench::scenarios(),
    ];
    let scenarios: Vec<Scenario> = themes.into_iter().flatten().collect();
    harness::run(scenarios)
}
