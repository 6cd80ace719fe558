//! Taking a step, if its precondition holds on fresh reads.

use super::Actor;
use crate::{
    api::Reason,
    cluster::{
        outcome::Outcome,
        steps::{Check, RecheckError, Step},
    },
    etcd::EtcdError,
    issuing::IssueError,
    kubernetes::error::WriteError,
    names::MemberName,
    reporting::note::Note,
};

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Its precondition does not hold at the moment.
    #[error("{0}")]
    Pending(String),
    /// Kubernetes refused it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An authority was not changed.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// Disruption budgets that are not the cluster's own keep Kubernetes from evicting a pod.
    #[error("{member} cannot be restarted: {by}: `kubectl -n {namespace} delete pdb {others}`")]
    Budgets {
        /// The member.
        member: MemberName,
        /// Why they do.
        by: Hindrance,
        /// Its namespace.
        namespace: String,
        /// The names of the budgets that are not the cluster's own, separated by spaces.
        others: String,
    },
    /// etcd refused it.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

/// Why disruption budgets that are not the cluster's own keep Kubernetes from evicting a pod.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum Hindrance {
    /// More than one selects the pod.
    #[error(
        "Kubernetes evicts no pod that more than one PodDisruptionBudget selects. Delete the others, or change their selectors"
    )]
    Several,
    /// One requires that none of its pods is ever disrupted.
    #[error("a PodDisruptionBudget that the operator did not create allows no disruption. Delete it, or have it allow one")]
    Never,
}

impl From<RecheckError> for StepError {
    fn from(error: RecheckError) -> Self {
        match error {
            RecheckError::Changed(why) => Self::Pending(why),
            RecheckError::InTheWay { object, owner } => WriteError::Foreign { object, owner }.into(),
        }
    }
}

impl Actor<'_> {
    /// Takes a step.
    pub async fn step(&self, planned: &Step) -> Outcome {
        let mut outcome = Outcome::default();
        let definition = planned.definition();
        let pending = |why: String| Note::new(definition.progressing(), format!("not yet: {why}"));
        match self.take(planned).await {
            Ok(done) => {
                outcome.again = true;
                if let Some(message) = done {
                    self.context.metrics.step(planned.name());
                    outcome.done.push(Note::new(definition.done(), message));
                    outcome.disruptions.extend(definition.cost(self.observed));
                }
            }
            Err(StepError::Pending(why)) => {
                tracing::info!(
                    namespace = self.cluster.names.namespace(),
                    name = self.cluster.names.cluster(),
                    step = planned.name(),
                    why,
                    "step not taken yet"
                );
                outcome.again = true;
                outcome.pending.push(pending(why));
            }
            Err(error @ StepError::Budgets { .. }) => {
                outcome.failed.push(Note::new(Reason::CannotRestart, error.to_string()));
            }
            Err(StepError::Write(error)) => outcome.write_failed(&error),
            Err(StepError::Issue(error)) => outcome.issuing_failed(&error),
            // For example, a learner has not caught up yet, or etcd requires connections that are at least 5 s old.
            Err(StepError::Etcd(error)) if error.class().is_transient() => {
                outcome.again = true;
                outcome.pending.push(pending(format!("etcd {error}")));
            }
            Err(StepError::Etcd(error)) => {
                outcome.failed.push(Note::new(Reason::EtcdRefused, format!("{}: {error}", planned.describe())));
            }
        }
        outcome
    }

    /// Takes a step, and describes what was done. `None`: an effect changed nothing, so the plan is outdated.
    async fn take(&self, planned: &Step) -> Result<Option<String>, StepError> {
        let fresh = self.read(&planned.definition().reads()).await?;
        let known = self.observed.status.cluster_id;
        let step = planned.recheck(self.cluster, known, &fresh)?;
        let check = Check::new(self.cluster, known, &fresh);
        let mut changed = 0;
        for effect in step.definition().effects(&check) {
            changed = self.execute(&effect, &fresh).await?;
            if changed == 0 {
                return Ok(None);
            }
        }
        Ok(Some(step.definition().describe_done(&check, changed)))
    }
}
