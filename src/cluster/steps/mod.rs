//! Steps: changes that cannot be undone or that touch the quorum. There is at most one in a pass.
//!
//! A plan is made from caches, which lag, and from answers that may be seconds old; meanwhile another operator may have acted. So
//! a step declares what has to be read again, decides only on that whether it is safe, and only then takes effect. The reason for
//! the step comes from the plan and is not checked again.
//!
//! Everything about a step is in its file: its data, its texts, what it reads, its precondition and its effects. To add one, add
//! the file and its line in [`steps!`]. Effects are few and general; `act` and the simulated world execute the same effects in
//! the same order.

mod add_learner;
mod adopt;
mod change_authorities;
mod check;
mod definition;
mod delete;
mod disarm_alarm;
mod discard_data;
mod downgrade;
mod effect;
mod fresh;
mod leftover;
mod move_leader;
mod promote;
mod record_members;
mod remove_member;
mod remove_unstarted;
mod resize_member;
mod restart_member;
mod revoke;

pub use add_learner::AddLearner;
pub use adopt::Adopt;
pub use change_authorities::ChangeAuthorities;
pub use check::{Check, RecheckError};
pub use definition::Definition;
pub use delete::{DeleteBudget, DeleteClaim, DeleteStatefulSet};
pub use disarm_alarm::DisarmAlarm;
pub use discard_data::DiscardData;
pub use downgrade::{CancelDowngrade, EnableDowngrade};
pub use effect::{Deletable, Effect};
pub use fresh::{Fresh, Read};
pub use leftover::{Leftover, LeftoverKind, is_leftover};
pub use move_leader::MoveLeader;
pub use promote::Promote;
pub use record_members::{RecordMembers, StartedMember};
pub use remove_member::RemoveMember;
pub use remove_unstarted::RemoveUnstarted;
pub use resize_member::ResizeMember;
pub use restart_member::RestartMember;
pub use revoke::Revoke;

use crate::{cluster::validated::ValidatedCluster, ids::ClusterId};

/// Declares the steps: each is a variant with the data of its own type.
macro_rules! steps {
    ($($step:ident),* $(,)?) => {
        /// A change that cannot be undone or that touches the quorum.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each is documented where it is defined")]
        pub enum Step {
            $($step($step),)*
        }

        impl Step {
            /// Its definition.
            pub fn definition(&self) -> &dyn Definition {
                match self {
                    $(Self::$step(step) => step,)*
                }
            }

            fn definition_mut(&mut self) -> &mut dyn Definition {
                match self {
                    $(Self::$step(step) => step,)*
                }
            }
        }

        $(impl From<$step> for Step {
            fn from(step: $step) -> Self {
                Self::$step(step)
            }
        })*
    };
}

steps! {
    AddLearner,
    Adopt,
    CancelDowngrade,
    ChangeAuthorities,
    DeleteBudget,
    DeleteClaim,
    DeleteStatefulSet,
    DisarmAlarm,
    DiscardData,
    EnableDowngrade,
    MoveLeader,
    Promote,
    RecordMembers,
    RemoveMember,
    RemoveUnstarted,
    ResizeMember,
    RestartMember,
    Revoke,
}

impl Step {
    /// Its name, for metrics and logs.
    pub fn name(&self) -> &'static str {
        self.definition().name()
    }

    /// What is being done.
    pub fn describe(&self) -> String {
        self.definition().describe()
    }

    /// Checks the step on fresh reads, and returns the part of it that is still right. `known` is the ID of the cluster that was
    /// bootstrapped.
    ///
    /// # Errors
    /// Why it is no longer right.
    pub fn recheck(&self, cluster: &ValidatedCluster, known: Option<ClusterId>, fresh: &Fresh) -> Result<Self, RecheckError> {
        let mut step = self.clone();
        step.definition_mut().recheck(&Check::new(cluster, known, fresh))?;
        Ok(step)
    }
}

#[cfg(test)]
mod tests;
