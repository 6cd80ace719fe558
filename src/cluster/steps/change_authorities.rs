//! Changing the certificate authorities of a domain.

use super::{
    check::{Check, RecheckError, ensure},
    definition::Definition,
    effect::Effect,
    fresh::Read,
};
use crate::{
    api::Reason,
    certificates::transition::{Change, Transition},
    cluster::facts::trust::trusted_by,
};

/// Changes the authorities of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeAuthorities(pub Box<Transition>);

impl Definition for ChangeAuthorities {
    fn name(&self) -> &'static str {
        match &self.0.change {
            Change::Prepare { .. } => "PrepareCA",
            Change::Switch { .. } => "SwitchCA",
            Change::Replace { .. } => "ReplaceCA",
            Change::Drop => "DropCA",
            Change::Finish => "FinishRotation",
            Change::Renew { .. } => "RenewCA",
        }
    }
    fn progressing(&self) -> Reason {
        match &self.0.change {
            Change::Prepare { .. } => Reason::PreparingCA,
            Change::Switch { .. } => Reason::SwitchingCA,
            Change::Replace { .. } => Reason::ReplacingCA,
            Change::Drop => Reason::DroppingCA,
            Change::Finish => Reason::FinishingRotation,
            Change::Renew { .. } => Reason::RenewingCA,
        }
    }
    fn done(&self) -> Reason {
        match &self.0.change {
            Change::Prepare { .. } => Reason::CAPrepared,
            Change::Switch { .. } => Reason::CASwitched,
            Change::Replace { .. } => Reason::CAReplaced,
            Change::Drop => Reason::CADropped,
            Change::Finish => Reason::RotationFinished,
            Change::Renew { .. } => Reason::CARenewed,
        }
    }
    fn describe(&self) -> String {
        let domain = self.0.domain;
        match &self.0.change {
            Change::Prepare { next, .. } => {
                format!("starting a rotation of the {domain} CA: adding {:?} to all trust bundles", next.common_name())
            }
            Change::Switch { .. } => format!("switching to the next {domain} CA"),
            Change::Replace { .. } => format!("replacing the {domain} CA, whose certificates members refuse"),
            Change::Drop => format!("removing the previous {domain} CAs from all trust bundles"),
            Change::Finish => format!("completing the rotation of the {domain} CA"),
            Change::Renew { .. } => format!("replacing the {domain} CAs, which have expired"),
        }
    }
    fn reads(&self) -> Vec<Read> {
        vec![Read::Members]
    }

    /// An authority signs only once every running member trusts it, as long as the previous one can sign. Whether the authorities
    /// are still those that the plan was made for is checked when they are written.
    fn recheck(&mut self, check: &Check) -> Result<(), RecheckError> {
        let Transition { domain, seen, change, .. } = &*self.0;
        if let (Some([_, next]), Change::Switch { immediately: false, .. }) = (seen, change) {
            for (name, pod) in &check.fresh.pods {
                let trusts = trusted_by(&pod.metadata, *domain).any(|name| name == next);
                // Nothing connects to a removed member. In a rotation in phases its objects are deleted only after this step.
                let is_removed = check.listed(name).is_ok_and(|listed| listed.is_none());
                ensure(trusts || is_removed, || format!("{name} has not started with the next {domain} CA"))?;
            }
        }
        Ok(())
    }

    fn effects(&self, _: &Check) -> Vec<Effect> {
        vec![Effect::ChangeAuthorities(self.0.clone())]
    }
    fn describe_done(&self, _: &Check, _: usize) -> String {
        let domain = self.0.domain;
        match &self.0.change {
            Change::Prepare { next, .. } => {
                format!("a rotation of the {domain} CA has started: {:?} is trusted before it signs", next.common_name())
            }
            Change::Switch { .. } => format!("the new {domain} CA signs certificates now"),
            Change::Replace { .. } => format!(
                "members refused the certificates of the {domain} CA, which the next one has replaced; they are restarted to trust it"
            ),
            Change::Drop => {
                format!(
                    "all {domain} certificates are signed by the new CA; members are restarted to stop trusting the previous one"
                )
            }
            Change::Finish => format!("the {domain} CA has been rotated: no member trusts or presents the previous one"),
            Change::Renew { .. } => {
                format!("all {domain} CAs had expired and were replaced; members are restarted to trust the new ones")
            }
        }
    }
}
