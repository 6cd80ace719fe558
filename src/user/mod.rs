//! One pass over an `EtcdUser`: observe -> validate -> plan -> act -> report, as for a cluster. The stages are in `plan.rs`
//! (validate and plan, pure) and `status.rs` (report, pure); this file observes, acts and writes.

mod plan;
mod status;

use std::time::Duration;

use futures::future::join;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource, ResourceExt, core::ObjectMeta, runtime::reflector::ObjectRef};

pub use plan::{Observed, Plan, common_name, plan, secret_name};
pub use status::{Outcome, expiry, report};

use crate::{
    api::EtcdUser,
    cluster::{
        Context,
        act::expected_authority,
        observed::SecretView,
        plan::{Note, SecretChange},
        validate::validate,
        write_report,
    },
    issuing::{self, Desk, IssueError, Target},
    k8s::WriteError,
    names::Names,
    pki::Domain,
};

/// One pass. Returns when the next one is due, if nothing happens before.
///
/// # Errors
/// When the status could not be written. Everything else that goes wrong is in the status.
pub async fn pass(context: &Context, user: &EtcdUser) -> Result<Duration, WriteError> {
    let now = (context.clock)();
    let observed = observe(context, user);
    let plan = plan(user, &observed, now);
    let outcome = match &plan {
        Plan::Refused(note) => Outcome::Refused(note.clone()),
        Plan::Waiting(note) => Outcome::Waiting(note.clone()),
        Plan::Held(note) => Outcome::Held(note.clone()),
        Plan::Issue(change) => issue(context, user, &observed, change, now).await,
        Plan::Nothing => Outcome::Ready,
    };
    let report = report(user, &observed, &outcome, now);
    context.metrics.user(&user.namespace().unwrap_or_default(), &user.name_any(), expiry(user, &observed, &report.status));
    let stale = write_report(context, user, user.status.as_ref(), &report).await?;
    Ok(match (&outcome, &plan) {
        (Outcome::Issued(_) | Outcome::Conflict, _) => Duration::from_millis(500),
        _ if stale => Duration::from_millis(500),
        (Outcome::Held(_), Plan::Issue(_)) => Duration::from_secs(2),
        // It was tried. What was in the way may be nothing that is watched.
        (_, Plan::Issue(_)) => Duration::from_secs(10),
        // A renewal is due after hours at the earliest, and whatever a user waits for triggers a pass of its own.
        _ => Duration::from_secs(60),
    })
}

fn observe(context: &Context, user: &EtcdUser) -> Observed {
    let scope = &context.scope;
    let namespace = user.namespace().unwrap_or_default();
    let secret = |name: &str| {
        let secret = scope.secrets.get(&ObjectRef::new(name).within(&namespace))?;
        Some(SecretView::new(&secret).into())
    };
    let cluster_name = &user.spec.cluster_ref.name;
    let cluster = scope.clusters.get(&ObjectRef::new(cluster_name).within(&namespace));
    let names = Names::new(cluster_name, &namespace, &context.domain);
    let others = scope.users.state().into_iter().filter(|other| other.namespace().as_deref() == Some(&namespace));
    Observed {
        cluster: cluster.and_then(|cluster| cluster.0.as_ref().ok().cloned()),
        authority: secret(&names.client_authority()),
        secret: secret(&secret_name(user)),
        others: others.filter_map(|other| other.0.as_ref().ok().cloned()).filter(|other| other.uid() != user.uid()).collect(),
        names,
    }
}

async fn issue(context: &Context, user: &EtcdUser, observed: &Observed, change: &SecretChange, now: Timestamp) -> Outcome {
    match try_issue(context, user, observed, change, now).await {
        Ok(true) => {
            for leaf in &change.leaves {
                context.metrics.leaf_issued(leaf.kind());
            }
            Outcome::Issued(change.leaves.first().map(|leaf| leaf.why.to_string()))
        }
        Ok(false) | Err(IssueError::AuthorityChanged(_) | IssueError::Write(WriteError::Conflict(_))) => Outcome::Conflict,
        Err(IssueError::Write(error @ WriteError::Foreign { .. })) => Outcome::Refused(Note::new("NameTaken", error.to_string())),
        Err(error @ (IssueError::Awaited { .. } | IssueError::OtherAuthority { .. })) => {
            Outcome::Held(Note::new("WaitingForIssuer", error.to_string()))
        }
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn try_issue(
    context: &Context,
    user: &EtcdUser,
    observed: &Observed,
    change: &SecretChange,
    now: Timestamp,
) -> Result<bool, IssueError> {
    let namespace = user.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let users: Api<EtcdUser> = Api::namespaced(context.client.clone(), &namespace);
    let name = user.name_any();
    let uid = user.uid().unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(change.name.clone()),
        namespace: Some(namespace),
        owner_references: user.controller_owner_ref(&()).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    };
    // A certificate for a user who is gone would have to be revoked at once.
    let (target, there) = join(issuing::target(&secrets, change, &metadata, &uid), users.get_metadata_opt(&name)).await;
    let there = there.map_err(|e| WriteError::of(format!("EtcdUser {name}"), e))?;
    if there.and_then(|there| there.metadata.uid).as_ref() != Some(&uid) {
        return Ok(false);
    }
    let target = target?;
    if matches!(target, Target::Done) {
        return Ok(false);
    }
    let leaves = if change.leaves.is_empty() {
        vec![]
    } else {
        let changed = || IssueError::AuthorityChanged(observed.names.client_authority());
        let expected = expected_authority(observed.authority.as_ref()).ok_or_else(changed)?;
        let requests: Vec<_> = change.leaves.iter().collect();
        let owner = user.controller_owner_ref(&()).unwrap_or_default();
        let cluster = observed.cluster.as_ref().and_then(|cluster| validate(cluster, &context.domain).ok());
        let desk = Desk { client: &context.client, names: &observed.names, cluster: cluster.as_ref(), owner };
        if let Some(problem) = desk.prepare(Domain::Client, &expected, &requests, now).await?.into_iter().flatten().next() {
            if let Some(change) = change.without(|_| true) {
                issuing::write(&secrets, &change, target, vec![], metadata, now).await?;
            }
            return Err(problem);
        }
        desk.issue(Domain::Client, &expected, &requests, now).await?
    };
    issuing::write(&secrets, change, target, leaves, metadata, now).await?;
    Ok(true)
}
