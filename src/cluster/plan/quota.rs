//! The quota of the databases: it is not lowered to less than they take. With such a quota etcd would raise the alarm NOSPACE and refuse every
//! write. Until there is room for it, members keep the quota that they have; what else is changed takes effect.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::{changes::Changes, input::Input};
use crate::{
    api::Reason,
    cluster::{facts::claims::largest_database, observed::ObservedMember, settings::Settings, validated::ValidatedCluster},
    kubernetes::{ownership::annotation, quantity},
    names::annotation as key,
};

/// The field.
const QUOTA: &str = "etcd.quotaBackendSize";

/// The cluster with the quota that its members have, and why it is not that of the spec; `None` if the quota is not lowered, or there is
/// room for the new one.
pub fn kept(input: &Input) -> Option<(ValidatedCluster, Changes)> {
    let desired = input.cluster.etcd.quota;
    let (largest, size) = largest_database(input.observed).filter(|(_, size)| *size >= desired)?;
    let (text, quota) = input.observed.members.values().filter_map(recorded).max_by_key(|(_, quota)| *quota)?;
    if quota <= desired {
        return None;
    }
    let mut cluster = input.cluster.clone();
    let wanted = cluster.settings.get(QUOTA).unwrap_or_default();
    let message = format!(
        "spec.{QUOTA} is {wanted}, but the database of {largest} takes up to {}: with this quota etcd would refuse every write, so members \
         keep {text}. Compact and defragment them, or set a larger quota",
        quantity::rounded(size)
    );
    cluster.settings = cluster.settings.with(QUOTA, &text);
    cluster.recorded = cluster.release.recorded_with(&cluster.settings);
    cluster.etcd.quota = quota;
    Some((cluster, Changes::default().problem(Reason::QuotaTooSmall, message)))
}

/// The quota that a member has, or that its next pod has.
fn recorded(member: &ObservedMember) -> Option<(String, i64)> {
    let template = || member.stateful_set.as_ref()?.spec.template.metadata.as_ref();
    let meta = member.pod.as_ref().map(|pod| &pod.metadata).or_else(template)?;
    let text = Settings::parse(annotation(meta, key::SETTINGS)?)?.get(QUOTA)?.to_owned();
    let bytes = quantity::bytes(&Quantity(text.clone()))?;
    Some((text, bytes))
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
