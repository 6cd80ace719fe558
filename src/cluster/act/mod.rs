//! Acting: a plan -> writes. First the idempotent writes, then the one step.

mod effects;
mod fresh;
mod members;
mod objects;
mod secrets;
mod step;

use std::mem::discriminant;

use futures::future::join_all;
use jiff::Timestamp;

use super::{
    observed::Observed,
    outcome::Outcome,
    plan::changes::{Changes, Plan, Write},
    validated::ValidatedCluster,
};
use crate::{api::EtcdCluster, context::Context, identity::Identity, kubernetes::desired::Desired};

/// Executes plans.
pub struct Actor<'a> {
    /// What every pass needs.
    pub context: &'a Context,
    /// The `EtcdCluster` that the pass started with.
    pub object: &'a EtcdCluster,
    /// The cluster.
    pub cluster: &'a ValidatedCluster,
    /// What is derived from the desired state, and what became of it.
    pub desired: &'a Desired,
    /// What existed at the beginning of the pass.
    pub observed: &'a Observed,
    /// The operator's identity as a client of the members, if it has one.
    pub identity: Option<&'a Identity>,
    /// The time of the pass.
    pub now: Timestamp,
}

impl Actor<'_> {
    /// Executes a plan.
    pub async fn act(&self, plan: &Plan) -> Outcome {
        match plan {
            Plan::Blocked(_) => Outcome::default(),
            Plan::Adopt(step) => self.step(step).await,
            Plan::Change(changes) => self.change(changes).await,
        }
    }

    /// Makes the writes in order; writes of one kind are made concurrently.
    async fn change(&self, changes: &Changes) -> Outcome {
        let mut outcome = self.preflight(&changes.preflight).await;
        if !outcome.failed.is_empty() {
            return outcome;
        }
        for kind in changes.in_order().chunk_by(|one, other| discriminant(one) == discriminant(other)) {
            for result in join_all(kind.iter().map(|write| self.write(*write))).await {
                outcome.merge(result);
            }
            // The operator that creates the bootstrap ConfigMap decides which members bootstrap the cluster. If another operator
            // did, the rest of the plan is wrong.
            let is_bootstrapping = !changes.preflight.is_empty();
            let failed = outcome.again || is_bootstrapping && !outcome.failed.is_empty();
            if failed && matches!(kind, [Write::Bootstrap(_)]) {
                break;
            }
        }
        outcome
    }

    async fn write(&self, write: Write<'_>) -> Outcome {
        match write {
            Write::Bootstrap(object) | Write::Object(object) | Write::StatefulSet(object) => self.apply(object).await,
            Write::Expand(object) => self.expand(object).await,
            Write::IssuerProbe(probe) => self.probe_issuer(probe).await,
            Write::Authorities(request) => self.create_authorities(request).await,
            Write::Retention(domain) => self.set_retention(domain).await,
            Write::Secrets(changes) => self.issue(changes).await,
            Write::Pod(patch) => self.patch_pod(patch).await,
            Write::RaftEntry(member) => self.advance(member).await,
            Write::Completed(requests) => self.complete(requests).await,
            Write::Step(step) => self.step(step).await,
        }
    }
}
