//! Validated spec -> Kubernetes objects. Pure: `act` applies what is built here.

mod claim;
mod config_maps;
mod disruption_budget;
mod metadata;
mod paths;
mod pod_metadata;
mod pod_template;
mod services;
mod stateful_set;

pub use claim::{ClaimSource, Claimed, claim, class_of, requested_size};
pub use config_maps::{StartState, bootstrap, ca_config, start_state};
pub use disruption_budget::{disruption_budget, is_redundant};
pub use metadata::{is_retention_outdated, owned, retained, set_retention};
pub use pod_metadata::{MetadataChanges, PodMetadata};
pub use pod_template::{parse as parse_template, reads_resources};
pub use services::{client_service, peer_service};
pub use stateful_set::{
    empty_dir, forced, grace_period, is_forced, runs_like, stateful_set, stateful_set_with, stopped, template_problems,
};

#[cfg(test)]
mod tests;
