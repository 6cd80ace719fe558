//! The results of the stages of a pass, from which the status is reported.

use std::sync::Arc;

use super::{
    plan::changes::{Changes, Plan},
    requests::Request,
    validate::Invalid,
    validated::ValidatedCluster,
};
use crate::{api::Reason, issuing::IssueError, kubernetes::error::WriteError, names::MemberName, reporting::note::Note};

/// What the pure stages decided.
pub enum Decision {
    /// The spec is invalid, so nothing is changed.
    Invalid(Invalid),
    /// The spec is valid, and this is the plan.
    Planned(Arc<ValidatedCluster>, Plan),
}

impl Decision {
    /// The cluster, if its spec is valid.
    pub fn cluster(&self) -> Option<&ValidatedCluster> {
        match self {
            Self::Invalid(_) => None,
            Self::Planned(cluster, _) => Some(cluster),
        }
    }

    /// The plan, if the spec is valid.
    pub fn plan(&self) -> Option<&Plan> {
        match self {
            Self::Invalid(_) => None,
            Self::Planned(_, plan) => Some(plan),
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
        let Self { done, disruptions, pending, failed, issuers, completed, version, again } = other;
        self.done.extend(done);
        self.disruptions.extend(disruptions);
        self.pending.extend(pending);
        self.failed.extend(failed);
        self.issuers.extend(issuers.into_iter().filter(|note| !self.issuers.contains(note)).collect::<Vec<_>>());
        self.completed.extend(completed);
        self.version = version.or(self.version.take());
        self.again |= again;
    }

    /// Records that a write failed.
    pub fn write_failed(&mut self, error: &WriteError) {
        match error {
            WriteError::Conflict(_) => self.again = true,
            WriteError::Foreign { .. } => self.failed.push(Note::new(Reason::NameTaken, error.to_string())),
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
