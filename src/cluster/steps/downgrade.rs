//! Etcd's downgrade API: enabling and canceling.

use super::{
    check::{Check, Others, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    etcd::{Change, Version},
};

/// Enables a downgrade to the minor version before: the cluster version and the storage version of each member are lowered, and then
/// members of that version may be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnableDowngrade {
    /// The minor version, of etcd 3.
    pub to: u32,
}

impl Definition for EnableDowngrade {
    fn name(&self) -> &'static str {
        "EnableDowngrade"
    }
    fn progressing(&self) -> Reason {
        Reason::Downgrading
    }
    fn done(&self) -> Reason {
        Reason::DowngradeEnabled
    }
    fn describe(&self) -> String {
        format!("enabling the downgrade to etcd 3.{}", self.to)
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// All voters must be healthy and run the version above: a member that comes back with another version would not start.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Others { all, healthy } = check.voters(None)?;
        ensure(all == healthy, || format!("only {healthy} of {all} voters are healthy"))?;
        ensure(check.list()?.members.iter().all(|member| !member.is_learner), || "there is a learner".into())?;
        for (name, status) in &check.fresh.answers {
            let runs = Version::parse(&status.version).is_some_and(|version| version.minor == self.to + 1);
            ensure(runs, || format!("{name} runs etcd {}", status.version))?;
            ensure(status.downgrade.is_none(), || "a downgrade is enabled already".into())?;
        }
        Ok(())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::EnableDowngrade { to: self.to })]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        format!("enabled the downgrade to etcd 3.{}", self.to)
    }
}

/// Cancels a downgrade that is not desired. Members that run the lower version already go on as in an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelDowngrade;

impl Definition for CancelDowngrade {
    fn name(&self) -> &'static str {
        "CancelDowngrade"
    }
    fn progressing(&self) -> Reason {
        Reason::Upgrading
    }
    fn done(&self) -> Reason {
        Reason::DowngradeCanceled
    }
    fn describe(&self) -> String {
        "canceling the downgrade that is enabled".into()
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let desired = check.cluster.release.version.minor;
        let mut targets = check.fresh.answers.values().filter_map(|status| status.downgrade);
        ensure(targets.any(|target| target.minor != desired), || "no downgrade is enabled".into())
    }
    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeMembers(Change::CancelDowngrade)]
    }
    fn describe_done(&self, check: &Check, _: usize) -> String {
        format!("canceled the downgrade that was enabled, because spec.version is {}", check.cluster.release.version)
    }
}
