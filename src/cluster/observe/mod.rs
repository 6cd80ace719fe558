//! Observation: the objects of a cluster, from the watches, and the answers of its members.

mod issuers;
mod members;
mod objects;
mod refusals;
mod volumes;

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::{
    dial::member_list,
    observed::{Observed, Probe, name_of},
};
use crate::{
    api::EtcdCluster,
    certificates::secret::CachedSecret,
    context::Context,
    etcd::Version,
    identity::{self, Identity},
    names::{Names, member_key},
    pki::Domain,
};

/// The time limit for asking members, one after the other, for the member list. Together with the time limit for their statuses
/// it keeps a pass well under the 30 seconds within which the status must report a change.
const LIST_TIMEOUT: Duration = Duration::from_secs(6);

/// Observes a cluster. Also returns the identity with which its members were asked.
pub async fn observe(context: &Context, cluster: &EtcdCluster, names: &Names, now: Timestamp) -> (Observed, Option<Identity>) {
    let mut observed = objects::read(context, cluster, names);
    observed.issuer_answers = issuers::answers(context, cluster, names, now).await;
    objects::read_unwatched_claims(context, names, &mut observed).await;
    refusals::find(context, names, &mut observed).await;
    let own = observed.operator.as_ref().map(|secret| (secret, &identity::OPERATOR));
    let identity = match own.or_else(|| of_member(&observed, now).map(|secret| (secret, &identity::MEMBER))) {
        None => Err("the operator has no client certificate for it".to_owned()),
        Some((secret, keys)) => context.identities.of(&context.client, names, secret, keys).await,
    };
    match &identity {
        Err(problem) => {
            observed.list = Err(problem.clone());
            for member in observed.members.values_mut().filter(|member| member.pod.is_some()) {
                member.etcd = Probe::Skipped(format!("it was not asked: {problem}"));
            }
        }
        Ok(identity) => {
            ask(context, names, &mut observed, identity, now).await;
            if observed.changes_minor(Version::parse(&cluster.spec.version)) {
                members::ask_versions(context, names, &mut observed, identity).await;
            }
            // A duration that is invalid is reported, and nothing follows from it.
            let lost_node = cluster.spec.repair.lost_node.length().unwrap_or_default();
            volumes::find_nodes(context, &mut observed, lost_node, now).await;
        }
    }
    (observed, identity.ok())
}

/// The Secret of a member, for its client certificate. If the operator's own is lost together with the authority that signed it, this one
/// is still accepted, and members can be asked and restarted to trust another authority.
fn of_member(observed: &Observed, now: Timestamp) -> Option<&CachedSecret> {
    let is_valid = |secret: &&CachedSecret| {
        let leaf = secret.certificate(member_key::CLIENT_CRT).and_then(Result::ok);
        leaf.is_some_and(|leaf| leaf.not_before() <= now && now < leaf.not_after())
    };
    let secrets = observed.members.values().filter_map(|member| member.secret.as_ref());
    secrets.filter(|_| observed.has_come_up()).find(is_valid)
}

async fn ask(context: &Context, names: &Names, observed: &mut Observed, identity: &Identity, now: Timestamp) {
    members::ask(context, names, observed, identity, now).await;
    let list = timeout(LIST_TIMEOUT, member_list(context, names, members::answering(observed), identity)).await;
    observed.list = list.unwrap_or_else(|_| Err("no member returned a member list that a quorum confirmed in time".into()));
    if observed.list.is_err() && observed.has_come_up() {
        members::ask_progress(context, names, observed).await;
    }
    if observed.is_rotating(Domain::Peer) {
        members::ask_peers(context, names, observed).await;
    }
    // A member may be listed before it has any object.
    if let Ok(list) = &observed.list {
        for name in list.members.iter().filter_map(|listed| name_of(names, list, listed)) {
            let found = objects::read_member(context, names, &name);
            observed.members.entry(name).or_insert(found);
        }
    }
}
