//! The only place where private keys are generated and authorities sign.
//!
//! The order is always: sign a leaf, record it in the ledger of the authorities' Secret, write it into its Secret. So every leaf
//! that was written is in the ledger and can be revoked, no matter when the operator is stopped. Before that, a dry run shows
//! whether the API server accepts the Secret, because entries stay in the ledger until they expire.

mod authorities;
mod batch;
pub mod cert_manager;
mod error;
mod open_authority;
mod recipient;
mod signer;
mod write;

use std::{collections::BTreeMap, mem};

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use crate::{
    certificates::{
        issuers::IssuerProbe,
        leaf::SignedBy,
        requests::{IssuedLeaf, SecretChange},
    },
    context::Context,
    issuing::{
        batch::Batch,
        cert_manager::CertManager,
        signer::Signer,
        write::{SecretState, rehearse, secret_state, write},
    },
    kubernetes::error::WriteError,
    pki::{Domain, Holder},
};

pub use authorities::{change_authorities, check_clock, create_authorities};
pub use cert_manager::issuer_answer;
pub use error::IssueError;
pub use recipient::Recipient;

/// The outcome of [`issue`].
#[derive(Debug, Default)]
pub struct Issuance {
    /// The changes that were written, with the leaves that were issued for them, in the order of the plan.
    pub written: Vec<SecretChange>,
    /// Whether an earlier pass already created one of the Secrets, which the watch has not reported yet.
    pub already_written: bool,
    /// Why something was not issued or not written.
    pub errors: Vec<IssueError>,
}

/// Creates and changes Secrets with leaves. Each leaf is signed once; all leaves of a domain are recorded by one write of its ledger
/// before the first Secret is written.
///
/// A leaf that cannot be issued now is left out, and a Secret that would be created is not created without it. If the leaves of a
/// whole domain cannot be issued, nothing is written.
pub async fn issue(context: &Context, recipient: &Recipient<'_>, changes: &[SecretChange], now: Timestamp) -> Issuance {
    let mut issuance = Issuance::default();
    let secrets = recipient.secrets(&context.client);
    let batch = prepare(&secrets, recipient, changes, &mut issuance).await;
    let signer = Signer::new(&context.client, recipient, now);
    let ready = match sign(&signer, batch, &mut issuance.errors).await {
        Ok(ready) => ready,
        Err(error) => {
            issuance.errors.push(error);
            return issuance;
        }
    };
    let writes = ready.into_iter().map(async |(change, state)| {
        let result = write(&secrets, recipient, &change, state, now).await;
        let requests = change.leaves.iter().map(|leaf| leaf.request.clone()).collect();
        result.map(|()| change.with_leaves(requests))
    });
    for result in join_all(writes).await {
        match result {
            Ok(change) => issuance.written.push(change),
            Err(error) => issuance.errors.push(error.into()),
        }
    }
    for leaf in issuance.written.iter().flat_map(|change| &change.leaves) {
        context.metrics.leaf_issued(leaf.kind());
    }
    issuance
}

/// Reads the Secrets that are to be written, and checks that the API server accepts those that need leaves.
async fn prepare(secrets: &Api<Secret>, recipient: &Recipient<'_>, changes: &[SecretChange], issuance: &mut Issuance) -> Batch {
    let state = async |change: &SecretChange| {
        let state = secret_state(secrets, recipient, change).await?;
        if !change.leaves.is_empty() {
            rehearse(secrets, recipient, change, &state).await?;
        }
        Ok::<_, WriteError>(state)
    };
    let states = join_all(changes.iter().map(state)).await;
    let mut batch = Batch::default();
    for (position, (change, state)) in changes.iter().zip(states).enumerate() {
        match state {
            Ok(SecretState::UpToDate) => issuance.already_written = true,
            Ok(state) => batch.add(position, change, state),
            Err(error) => issuance.errors.push(error.into()),
        }
    }
    batch
}

/// Signs the leaves of all domains and records them. All are signed before the first is recorded: if a leaf of one domain cannot
/// be issued, the leaves of the other domain for the same Secret need not be recorded.
async fn sign(
    signer: &Signer<'_>,
    mut batch: Batch,
    errors: &mut Vec<IssueError>,
) -> Result<Vec<(SecretChange<IssuedLeaf>, SecretState)>, IssueError> {
    let mut results = vec![];
    let by = |domain| [SignedBy::Active, SignedBy::Next].map(|signed_by| (domain, signed_by));
    for (domain, signed_by) in Domain::ALL.into_iter().flat_map(by) {
        let requests = batch.requests(domain, signed_by);
        if requests.is_empty() {
            continue;
        }
        let mut result = signer.sign(domain, signed_by, &requests).await?;
        let held = mem::take(&mut result.held);
        batch.hold(|id| held.contains_key(&id));
        errors.extend(held.into_values());
        results.push(result);
    }
    let mut issued = BTreeMap::new();
    for mut result in results {
        result.leaves.retain(|id, _| batch.needs(*id));
        issued.append(&mut signer.record(result).await?);
    }
    Ok(batch.complete(issued))
}

/// Requests a certificate that reveals the authority of the issuer in the cluster's spec, or removes the answer.
///
/// # Errors
/// If the request cannot be created.
pub async fn probe_issuer(context: &Context, recipient: &Recipient<'_>, probe: IssuerProbe) -> Result<(), IssueError> {
    let cert_manager = CertManager::new(&context.client, recipient);
    let (IssuerProbe::Request(domain) | IssuerProbe::Discard(domain)) = probe;
    let Some(spec) = recipient.probe(domain) else { return Ok(()) };
    match probe {
        IssuerProbe::Request(_) => cert_manager.probe(domain, spec).await,
        IssuerProbe::Discard(_) => {
            cert_manager.discard_probe(domain, spec).await;
            Ok(())
        }
    }
}

/// Revokes every certificate of these holders in a domain, adds missing serials to the revocation list, and removes these pending
/// private keys. Returns how many certificates were revoked.
///
/// # Errors
/// [`IssueError::AuthorityChanged`] if the active authority is not the observed one.
pub async fn revoke(
    context: &Context,
    recipient: &Recipient<'_>,
    domain: Domain,
    holders: &[Holder],
    pending: &[String],
    now: Timestamp,
) -> Result<usize, IssueError> {
    Signer::new(&context.client, recipient, now).revoke(domain, holders, pending).await
}
