//! The quota of the databases: it is not lowered to less than they take. With such a quota etcd would raise the alarm NOSPACE and refuse every
//! write. Until there is room for it, members keep the quota that they have; what else is changed takes effect.

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta};

use super::{changes::Changes, input::Input};
use crate::{
    api::Reason,
    cluster::{
        facts::{claims::largest_database, space::has_room},
        observed::ObservedMember,
        settings::Settings,
        validated::ValidatedCluster,
    },
    kubernetes::{ownership::annotation, quantity},
    names::annotation as key,
};

/// The field.
const QUOTA: &str = "etcd.quotaBackendSize";

/// The cluster with the quota that its members have, and why it is not that of the spec; `None` if the quota is not lowered, or there is
/// room for the new one.
pub fn kept(input: &Input) -> Option<(ValidatedCluster, Changes)> {
    let desired = input.cluster.etcd.quota;
    let (text, quota) = input.observed.members.values().filter_map(recorded).max_by_key(|(_, quota)| *quota)?;
    if quota <= desired {
        return None;
    }
    let why = why_kept(input, desired)?;
    let mut cluster = input.cluster.clone();
    let wanted = cluster.settings.get(QUOTA).unwrap_or_default();
    let message = format!(
        "spec.{QUOTA} is {wanted}, but {why}, so members keep {text}. Compact and defragment the databases, or set a larger quota"
    );
    cluster.settings = cluster.settings.with(QUOTA, &text);
    cluster.recorded = cluster.release.recorded_with(&cluster.settings);
    cluster.etcd.quota = quota;
    Some((cluster, Changes::default().problem(Reason::QuotaTooSmall, message)))
}

/// Why there may be no room for a quota. The database of a member that does not answer, for example because it is being restarted, may have
/// any size; once it was known that there is room, the templates have the new quota.
fn why_kept(input: &Input, quota: i64) -> Option<String> {
    if let Some((name, size)) = largest_database(input.observed).filter(|(_, size)| !has_room(*size, quota)) {
        let size = quantity::rounded(size);
        return Some(format!("the database of {name} takes up to {size}: with this quota etcd would refuse every write"));
    }
    let is_unknown = |member: &ObservedMember| {
        let is_decided = in_template(member).is_none_or(|(_, planned)| planned <= quota);
        member.has_started() && member.etcd.status().is_none() && !is_decided
    };
    let (name, _) = input.observed.members.iter().find(|(_, member)| is_unknown(member))?;
    Some(format!("{name} does not answer, so the size of its database is not known"))
}

/// The quota that a member has, or that its next pod has.
fn recorded(member: &ObservedMember) -> Option<(String, i64)> {
    member.pod.as_ref().and_then(|pod| in_settings(&pod.metadata)).or_else(|| in_template(member))
}

/// The quota that the next pod of a member has.
fn in_template(member: &ObservedMember) -> Option<(String, i64)> {
    in_settings(member.stateful_set.as_ref()?.spec.template.metadata.as_ref()?)
}

fn in_settings(meta: &ObjectMeta) -> Option<(String, i64)> {
    let text = Settings::parse(annotation(meta, key::SETTINGS)?)?.get(QUOTA)?.to_owned();
    let bytes = quantity::bytes(&Quantity(text.clone()))?;
    Some((text, bytes))
}

#[cfg(test)]
#[path = "quota_tests.rs"]
mod tests;
