//! Issuing a user's certificate and writing its Secret.

use jiff::Timestamp;
use kube::{Api, Resource, ResourceExt};

use super::{
    plan::{ObservedUser, Obstacle, UserChange},
    status::UserOutcome,
};
use crate::{
    api::{EtcdUser, Reason},
    context::Context,
    ids::Uid,
    issuing::{self, Issuance, IssueError, Recipient},
    kubernetes::error::WriteError,
    names::label,
    pki::PerDomain,
    reporting::note::Note,
};

/// Issues the certificate that a change requests, and writes the Secret.
pub async fn issue(
    context: &Context,
    user: &EtcdUser,
    observed: &ObservedUser,
    change: UserChange,
    now: Timestamp,
) -> UserOutcome {
    let Some(owner) = user.controller_owner_ref(&()) else { return UserOutcome::Conflict };
    // The certificate of a user that no longer exists would have to be revoked at once.
    match exists(context, user, observed).await {
        Ok(true) => {}
        Ok(false) => return UserOutcome::Conflict,
        Err(error) => return failure(&error.into()),
    }
    let recipient = Recipient {
        names: &observed.names,
        uid: &observed.uid,
        owner: &owner,
        labels: label::of_cluster(observed.names.cluster()),
        probes: change.probes,
        authorities: PerDomain { client: observed.authority.as_ref(), peer: None },
    };
    outcome(&issuing::issue(context, &recipient, &[change.secret], now).await)
}

/// Whether the user still exists.
async fn exists(context: &Context, user: &EtcdUser, observed: &ObservedUser) -> Result<bool, WriteError> {
    let name = user.name_any();
    let users: Api<EtcdUser> = Api::namespaced(context.client.clone(), observed.names.namespace());
    let existing = users.get_metadata_opt(&name).await.map_err(|e| WriteError::of(format!("EtcdUser {name}"), e))?;
    Ok(existing.and_then(|existing| Uid::of(&existing.metadata)).as_ref() == Some(&observed.uid))
}

fn outcome(issuance: &Issuance) -> UserOutcome {
    match (issuance.errors.first(), issuance.written.first()) {
        // The trust bundle may have been written although the certificate could not be issued.
        (Some(error), _) => failure(error),
        (None, Some(change)) => UserOutcome::Written(change.leaves.first().map(|leaf| leaf.why.clone())),
        // An earlier pass created the Secret, which the watch has not reported yet.
        (None, None) => UserOutcome::Conflict,
    }
}

fn failure(error: &IssueError) -> UserOutcome {
    let note = |reason| Note::new(reason, error.to_string());
    match error {
        IssueError::AuthorityChanged(_) | IssueError::Write(WriteError::Conflict(_)) => UserOutcome::Conflict,
        IssueError::Write(WriteError::Foreign { .. }) => UserOutcome::Blocked(Obstacle::Refused(note(Reason::NameTaken))),
        IssueError::Pending { .. } | IssueError::OtherAuthority { .. } => {
            UserOutcome::Blocked(Obstacle::Suspended(note(Reason::WaitingForIssuer)))
        }
        IssueError::Pki { .. }
        | IssueError::ClockSkew { .. }
        | IssueError::Issuer { .. }
        | IssueError::NoCertManager
        | IssueError::Write(WriteError::Refused { .. }) => UserOutcome::Failed(error.to_string()),
    }
}
