//! The results of the stages of a pass, from which the status is reported.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    facts::Facts,
    maintained::Maintained,
    observed::Observed,
    plan::{
        self,
        changes::{Changes, Plan},
        input::Input,
    },
    requests::Request,
    specs::Spec,
    validate::Invalid,
    validated::ValidatedCluster,
};
use crate::{
    api::{EtcdCluster, Reason},
    issuing::IssueError,
    kubernetes::{desired::Desired, error::WriteError},
    names::MemberName,
    reporting::note::Note,
};

/// What the pure stages decided.
pub enum Decision {
    /// The spec is invalid, and the cluster does not exist yet: nothing is done.
    Invalid(Invalid),
    /// The spec is invalid. This is known of the cluster, and this is the plan that keeps its certificates valid.
    Maintained(Invalid, Arc<ValidatedCluster>, Plan),
    /// The spec is valid, and this is the plan.
    Planned(Arc<ValidatedCluster>, Plan),
}

impl Decision {
    /// Decides about a cluster. `domain` is the DNS domain of the Kubernetes cluster.
    pub fn of(spec: Spec, object: &EtcdCluster, domain: &str, observed: &Observed, facts: &Facts, now: Timestamp) -> Self {
        let Spec { cluster, desired, .. } = spec;
        let invalid = match cluster {
            Ok(cluster) => {
                let plan = plan::plan(&Input { cluster: &cluster, desired: &desired, observed, facts, now });
                return Self::Planned(cluster, plan);
            }
            Err(invalid) => invalid,
        };
        let Some(Maintained { cluster, observed }) = Maintained::of(object, domain, observed, facts) else {
            return Self::Invalid(invalid);
        };
        // What is desired follows from what exists, which may have changed since the last pass.
        let desired = Desired::default();
        let plan = plan::maintain(&Input { cluster: &cluster, desired: &desired, observed: &observed, facts, now });
        Self::Maintained(invalid, cluster, plan)
    }

    /// The cluster, if its spec is valid.
    pub fn cluster(&self) -> Option<&ValidatedCluster> {
        match self {
            Self::Invalid(_) | Self::Maintained(..) => None,
            Self::Planned(cluster, _) => Some(cluster),
        }
    }

    /// The problems of the spec, if it is invalid.
    pub fn invalid(&self) -> Option<&Invalid> {
        match self {
            Self::Invalid(invalid) | Self::Maintained(invalid, ..) => Some(invalid),
            Self::Planned(..) => None,
        }
    }

    /// The plan, if there is one.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Self::Invalid(_) => None,
            Self::Maintained(_, _, plan) | Self::Planned(_, plan) => Some(plan),
        }
    }

    /// The plan that is executed, and the cluster that it is for.
    pub fn executed(&self) -> Option<(&ValidatedCluster, &Plan)> {
        match self {
            Self::Invalid(_) => None,
            Self::Maintained(_, cluster, plan) | Self::Planned(cluster, plan) => {
                (!cluster.paused).then_some((cluster.as_ref(), plan))
            }
        }
    }

    /// The planned changes.
    pub fn changes(&self) -> Option<&Changes> {
        self.plan().and_then(Plan::changes)
    }

    /// Why the plan changes nothing.
    pub fn blocked(&self) -> Option<&Note> {
        match self.plan() {
            Some(Plan::Blocked(note)) => Some(note),
            _ => None,
        }
    }

    /// Whether a member is down because it is being restarted.
    pub fn is_restarting(&self, member: &MemberName) -> bool {
        self.changes().is_some_and(|changes| changes.restarting.contains(member))
    }
}

/// The result of a plan.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was done.
    pub done: Vec<Note>,
    /// What was done that disrupts clients.
    pub disruptions: Vec<Note>,
    /// Why the step is postponed.
    pub pending: Vec<Note>,
    /// What failed.
    pub failed: Vec<Note>,
    /// The first failure because another object has a name of the cluster.
    pub name_taken: Option<String>,
    /// Which requests external issuers have not signed yet, or refuse to sign.
    pub issuers: Vec<Note>,
    /// The requests that were completed.
    pub completed: Vec<Request>,
    /// The version of the `EtcdCluster` from which the annotations of completed requests were removed.
    pub version: Option<String>,
    /// Whether an object changed after it was observed, so that the next pass should come soon.
    pub again: bool,
}

impl Outcome {
    /// Adds the result of another part of the plan.
    pub fn merge(&mut self, other: Self) {
        let Self { done, disruptions, pending, failed, name_taken, issuers, completed, version, again } = other;
        self.done.extend(done);
        self.disruptions.extend(disruptions);
        self.pending.extend(pending);
        self.failed.extend(failed);
        self.name_taken = self.name_taken.take().or(name_taken);
        self.issuers.extend(issuers.into_iter().filter(|note| !self.issuers.contains(note)).collect::<Vec<_>>());
        self.completed.extend(completed);
        self.version = version.or(self.version.take());
        self.again |= again;
    }

    /// Records that a write failed.
    pub fn write_failed(&mut self, error: &WriteError) {
        match error {
            WriteError::Conflict(_) => self.again = true,
            WriteError::Foreign { .. } => {
                self.failed.push(Note::new(Reason::NameTaken, error.to_string()));
                self.name_taken.get_or_insert_with(|| error.to_string());
            }
            WriteError::Refused { .. } => self.failed.push(Note::new(Reason::KubernetesRefused, error.to_string())),
        }
    }

    /// Records that a certificate was not issued.
    pub fn issuing_failed(&mut self, error: &IssueError) {
        match error {
            IssueError::Write(error) => self.write_failed(error),
            IssueError::AuthorityChanged(_) => self.again = true,
            IssueError::Pki { .. } => self.failed.push(Note::new(Reason::IssuingFailed, error.to_string())),
            IssueError::Pending { .. } => self.issuer(Reason::WaitingForIssuer, error),
            IssueError::OtherAuthority { .. } => self.issuer(Reason::IssuerCAChanged, error),
            IssueError::Issuer { .. } => self.issuer(Reason::IssuerFailed, error),
            IssueError::NoCertManager => self.issuer(Reason::CertManagerMissing, error),
            IssueError::ClockSkew { .. } => self.failed.push(Note::new(Reason::ClockSkew, error.to_string())),
        }
    }

    fn issuer(&mut self, reason: Reason, error: &IssueError) {
        let note = Note::new(reason, error.to_string());
        // An issuer gives the same answer for each certificate.
        if !self.issuers.contains(&note) {
            self.issuers.push(note);
        }
    }
}
