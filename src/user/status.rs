//! What came of a pass -> status and events. Pure.

use jiff::Timestamp;
use kube::{ResourceExt, runtime::events::EventType};

use super::{Observed, common_name, secret_name};
use crate::{
    api::{self, EtcdUser, EtcdUserStatus},
    cluster::{
        observed::{belongs, hex},
        plan::Note,
        status::{Finding, Report, event},
    },
    names::{annotation, tls_key},
    pki::Certificate,
};

/// What came of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Somebody must change something.
    Refused(Note),
    /// Something is awaited.
    Waiting(Note),
    /// Nothing can be issued for now; what there is goes on.
    Held(Note),
    /// The Secret was written, because of this if a certificate was issued.
    Issued(Option<String>),
    /// Something changed meanwhile; the next pass goes on.
    Conflict,
    /// It could not be done.
    Failed(String),
    /// All is as it should be.
    Ready,
}

/// The type of the one condition.
pub const READY: &str = "Ready";

/// What is to be told of a pass.
pub fn report(user: &EtcdUser, observed: &Observed, outcome: &Outcome, now: Timestamp) -> Report<EtcdUserStatus> {
    let old = user.status.clone().unwrap_or_default();
    let uid = user.metadata.uid.as_deref().unwrap_or_default();
    let ours = observed.secret.as_ref().filter(|secret| belongs(&secret.meta, uid));
    let leaf = ours.and_then(|secret| secret.certificate(tls_key::CRT)?.ok());
    let usable = leaf.as_ref().is_some_and(|leaf| leaf.not_after() > now && is_trusted(leaf, observed));
    let secret = secret_name(user);
    let issued = || Note::new("Issued", format!("Secret {secret} holds a certificate for {}", common_name(user)));
    let (holds, note, warns) = match outcome {
        Outcome::Refused(note) => (false, note.clone(), Some(true)),
        Outcome::Waiting(note) => (false, note.clone(), Some(false)),
        Outcome::Held(note) => (usable, note.clone(), Some(true)),
        Outcome::Failed(problem) => (usable, Note::new("IssuingFailed", problem.clone()), Some(true)),
        Outcome::Ready => (true, issued(), None),
        Outcome::Issued(_) | Outcome::Conflict if usable => (true, issued(), None),
        Outcome::Issued(_) | Outcome::Conflict => {
            (false, Note::new("Issuing", format!("the certificate in Secret {secret} is being issued")), None)
        }
    };
    let finding = Finding { kind: READY, holds, note, warns };
    let before = api::condition(&old.conditions, READY);
    let events = finding.change(before).into_iter().collect();
    let done = if let Outcome::Issued(Some(why)) = outcome {
        let message = format!("issued a certificate for {} in Secret {secret}: the certificate {why}", common_name(user));
        vec![event(EventType::Normal, &Note::new("CertificateIssued", message))]
    } else {
        vec![]
    };
    let status = EtcdUserStatus {
        observed_generation: user.metadata.generation,
        conditions: vec![finding.condition(before, user.metadata.generation, now)],
        common_name: Some(common_name(user)),
        secret_name: Some(secret),
        serial: leaf.as_ref().map(|leaf| leaf.serial().to_string()),
        certificate_expires: leaf.as_ref().map(|leaf| leaf.not_after().to_string()),
    };
    Report { status, events, done }
}

/// When the certificate expires that a status tells of, if it is meant to be renewed: not where it is revoked or its cluster is gone.
pub fn expiry(user: &EtcdUser, observed: &Observed, status: &EtcdUserStatus) -> Option<Timestamp> {
    let is_wanted = observed.cluster.is_some() && !user.annotations().contains_key(annotation::REVOKE);
    status.certificate_expires.as_ref().filter(|_| is_wanted).and_then(|at| at.parse().ok())
}

/// Whether the members of the cluster trust the authority that signed a leaf.
fn is_trusted(leaf: &Certificate, observed: &Observed) -> bool {
    let status = observed.cluster.as_ref().and_then(|cluster| cluster.status.as_ref()?.certificates.as_ref()?.client.as_ref());
    let signer = leaf.authority_key_id().map(hex);
    status.is_some_and(|domain| {
        let mut trusted = [&domain.active, &domain.next].into_iter().chain(&domain.retiring);
        trusted.any(|authority| Some(&authority.key_id) == signer.as_ref())
    })
}
