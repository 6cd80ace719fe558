//! Runs scenarios, and reports their results.

use std::{
    any::Any,
    env,
    panic::{self, PanicHookInfo},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::BoxFuture, stream};
use kube::Client;

use crate::namespace::{self, Operator, TestNamespace};

/// A scenario that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// A scenario.
pub struct Scenario {
    name: String,
    run: fn(Arc<TestNamespace>) -> BoxFuture<'static, ()>,
    alone: bool,
    when: When,
}

/// When a scenario runs if no names are given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    /// Always.
    Always,
    /// With `E2E_FULL=1`.
    Full,
    /// Never.
    Bench,
}

impl Scenario {
    pub fn new(module: &str, function: &str, run: fn(Arc<TestNamespace>) -> BoxFuture<'static, ()>) -> Self {
        let name = format!("{}::{function}", module.rsplit("::").next().unwrap_or(module));
        Self { name, run, alone: false, when: When::Always }
    }
    /// It changes the operator or measures, so nothing else may run.
    pub fn alone(self) -> Self {
        Self { alone: true, ..self }
    }
    /// It runs with `E2E_FULL=1` only.
    pub fn long(self) -> Self {
        Self { when: When::Full, ..self }
    }
    /// It measures, for `make bench`, which names it.
    pub fn bench(self) -> Self {
        Self { when: When::Bench, alone: true, ..self }
    }
}

struct Outcome {
    name: String,
    took: Duration,
    problem: Option<String>,
    measured: Vec<String>,
}

tokio::task_local! {
    static RUNNING: String;
}

/// Runs the scenarios that the arguments and the environment select.
pub fn run(scenarios: Vec<Scenario>) -> ExitCode {
    let selected: Vec<String> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let full = env::var("E2E_FULL").is_ok_and(|value| value == "1");
    let parallel = env::var("E2E_PARALLEL").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let chosen: Vec<Scenario> = scenarios
        .into_iter()
        .filter(|scenario| match selected.as_slice() {
            [] => match scenario.when {
                When::Always => true,
                When::Full => full,
                When::Bench => false,
            },
            selected => selected.iter().any(|part| scenario.name.contains(part)),
        })
        .collect();
    panic::set_hook(Box::new(report_panic));
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let outcomes = runtime.block_on(run_all(chosen, parallel));
    summary(&outcomes)
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let name = RUNNING.try_with(Clone::clone).unwrap_or_else(|_| "e2e".into());
    println!("{name}: {info}");
}

async fn run_all(chosen: Vec<Scenario>, parallel: usize) -> Vec<Outcome> {
    let client = Client::try_default().await.expect("no cluster: run this by `make e2e`");
    namespace::remove_namespaces(&client).await;
    Operator::install(&[]).await;
    let (alone, together): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|scenario| scenario.alone);
    let mut outcomes: Vec<_> =
        stream::iter(together).map(|scenario| run_one(&client, scenario)).buffer_unordered(parallel).collect().await;
    for scenario in alone {
        outcomes.push(run_one(&client, scenario).await);
        if outcomes.last().is_some_and(|outcome| outcome.problem.is_some()) {
            // The scenario may have left the operator in any state.
            Operator::install(&[]).await;
        }
    }
    outcomes
}

async fn run_one(client: &Client, scenario: Scenario) -> Outcome {
    let began = Instant::now();
    let ns = Arc::new(TestNamespace::create(client.clone(), &scenario.name).await);
    let body = RUNNING.scope(scenario.name.clone(), tokio::time::timeout(LIMIT, (scenario.run)(Arc::clone(&ns))));
    let problem = match tokio::spawn(body).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) => Some(format!("not done within {LIMIT:?}")),
        Err(error) => Some(error.try_into_panic().map_or_else(|e| e.to_string(), |payload| panic_message(&*payload))),
    };
    let took = began.elapsed();
    match &problem {
        None => ns.remove().await,
        Some(_) => ns.dump().await,
    }
    println!("{} {} ({:.1} s)", if problem.is_none() { "ok    " } else { "FAILED" }, scenario.name, took.as_secs_f32());
    Outcome { name: scenario.name, took, problem, measured: ns.measured() }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

fn summary(outcomes: &[Outcome]) -> ExitCode {
    println!();
    for outcome in outcomes {
        for line in &outcome.measured {
            println!("{}: {line}", outcome.name);
        }
    }
    let failed: Vec<_> = outcomes.iter().filter_map(|outcome| Some((outcome, outcome.problem.as_ref()?))).collect();
    for (outcome, problem) in &failed {
        println!(
            "\nFAILED {} after {:.1} s; see target/e2e/{}\n{problem}",
            outcome.name,
            outcome.took.as_secs_f32(),
            outcome.name
        );
    }
    println!("\n{} scenarios passed, {} failed", outcomes.len() - failed.len(), failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
