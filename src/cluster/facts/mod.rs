//! Facts derived from an observation, independent of the spec. They are computed once per pass; planners and the status read
//! them. Pure.

pub(crate) mod authorities;
pub(crate) mod claims;
pub(crate) mod containers;
pub(crate) mod foreign;
mod last_words;
pub(crate) mod lost_quorum;
pub(crate) mod ongoing;
pub(crate) mod pods;
pub(crate) mod readiness;
pub(crate) mod resize;
pub(crate) mod roster;
pub(crate) mod space;
pub(crate) mod trust;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;

use self::{authorities::AuthorityFacts, foreign::ForeignObject, roster::Roster};
use super::observed::Observed;
use crate::{ids::Uid, kubernetes::ownership::belongs, names::Names};

/// Facts derived from an observation.
pub struct Facts<'a> {
    /// The names of the cluster's objects.
    pub names: &'a Names,
    /// The uid of the `EtcdCluster`.
    pub uid: &'a Uid,
    /// Whether the bootstrap of the cluster has begun: then its members are those that were recorded, not those that the spec
    /// desires.
    pub is_bootstrapped: bool,
    /// The bootstrap ConfigMap, if it belongs to the cluster.
    pub bootstrap: Option<&'a ConfigMap>,
    /// etcd's members, if a quorum confirmed the list and it is that of the cluster that was bootstrapped.
    pub roster: Option<Roster<'a>>,
    /// The certificate authorities.
    pub authorities: AuthorityFacts,
    /// Objects under the cluster's names that do not belong to it.
    pub foreign: Vec<ForeignObject>,
}

impl<'a> Facts<'a> {
    /// The facts about the cluster with these names and this uid.
    pub fn of(names: &'a Names, uid: &'a Uid, observed: &'a Observed, now: Timestamp) -> Self {
        let bootstrap = observed.bootstrap.as_deref().filter(|config| belongs(&config.metadata, uid));
        // Only the cluster's own objects count, not those that another cluster of this name left or that are still being deleted
        // with it.
        let has_own_data = observed
            .members
            .values()
            .any(|member| member.has_started() && member.record().is_some_and(|record| belongs(record, uid)));
        Self {
            names,
            uid,
            is_bootstrapped: observed.has_come_up() || bootstrap.is_some() || has_own_data,
            bootstrap,
            roster: Roster::read(names, observed),
            authorities: AuthorityFacts::of(names, uid, observed, now),
            foreign: foreign::find_objects(names, uid, observed),
        }
    }
}
