//! What the watches know about a user and its cluster.

use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::plan::{ObservedUser, competes};
use crate::{
    api::EtcdUser,
    context::Context,
    ids::Uid,
    names::{Names, user_secret},
};

/// The observed state; `None` if the user itself has no uid.
pub fn observe(context: &Context, user: &EtcdUser) -> Option<ObservedUser> {
    let scope = &context.scope;
    let namespace = user.namespace().unwrap_or_default();
    let cluster = &user.spec.cluster_ref.name;
    let names = Names::new(cluster, &namespace, &context.domain);
    let cluster = scope.clusters.get(&ObjectRef::new(cluster).within(&namespace));
    let is_other =
        |other: &EtcdUser| other.metadata.namespace == user.metadata.namespace && other.metadata.uid != user.metadata.uid;
    let users = scope.users.like(user);
    let others = users.iter().filter_map(|other| other.0.as_ref().ok()).filter(|other| is_other(other) && competes(user, other));
    Some(ObservedUser {
        uid: Uid::of(&user.metadata)?,
        cluster: cluster.and_then(|cluster| cluster.0.as_ref().ok().cloned()),
        authority: scope.secret(&namespace, &names.client_authority()),
        secret: scope.secret(&namespace, &user_secret(user)),
        others: others.cloned().collect(),
        names,
    })
}
