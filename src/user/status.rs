//! What came of a pass -> status and events. Pure.

use jiff::Timestamp;
use kube::runtime::events::{Event, EventType};

use super::{Observed, common_name, secret_name};
use crate::{
    api::{self, EtcdUser, EtcdUserStatus},
    cluster::{
        plan::Note,
        status::{Finding, event},
    },
    names::tls_key,
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

/// What is to be told.
pub struct Report {
    /// The status.
    pub status: EtcdUserStatus,
    /// The events, to be published once the status is written.
    pub events: Vec<Event>,
}

/// The type of the one condition.
pub const READY: &str = "Ready";

/// What is to be told of a pass.
pub fn report(user: &EtcdUser, observed: &Observed, outcome: &Outcome, now: Timestamp) -> Report {
    let old = user.status.clone().unwrap_or_default();
    let ours = |secret: &&crate::cluster::observed::SecretView| {
        crate::cluster::observed::belongs(&secret.meta, user.metadata.uid.as_deref().unwrap_or_default())
    };
    let leaf = observed.secret.as_ref().filter(ours).and_then(|secret| secret.certificate(tls_key::CRT)?.ok());
    let usable = leaf.as_ref().is_some_and(|leaf| leaf.not_after() > now);
    let secret = secret_name(user);
    let (holds, note, warns) = match outcome {
        Outcome::Refused(note) => (false, note.clone(), Some(true)),
        Outcome::Waiting(note) => (false, note.clone(), Some(false)),
        Outcome::Held(note) => (usable, note.clone(), Some(true)),
        Outcome::Failed(problem) => (usable, Note::new("IssuingFailed", problem.clone()), Some(true)),
        Outcome::Ready => {
            (true, Note::new("Issued", format!("Secret {secret} holds a certificate for {}", common_name(user))), None)
        }
        Outcome::Issued(_) | Outcome::Conflict if usable => {
            (true, Note::new("Issued", format!("Secret {secret} holds a certificate for {}", common_name(user))), None)
        }
        Outcome::Issued(_) | Outcome::Conflict => {
            (false, Note::new("Issuing", format!("the certificate in Secret {secret} is being issued")), None)
        }
    };
    let finding = Finding { kind: READY, holds, note, warns };
    let before = api::condition(&old.conditions, READY);
    let mut events: Vec<_> = finding.change(before).into_iter().collect();
    if let Outcome::Issued(Some(why)) = outcome {
        let message = format!("issued a certificate for {} in Secret {secret}: the certificate {why}", common_name(user));
        events.push(event(EventType::Normal, &Note::new("CertificateIssued", message)));
    }
    let status = EtcdUserStatus {
        observed_generation: user.metadata.generation,
        conditions: vec![finding.condition(before, user.metadata.generation, now)],
        common_name: Some(common_name(user)),
        secret_name: Some(secret),
        serial: leaf.as_ref().map(|leaf| leaf.serial().to_string()),
        certificate_expires: leaf.as_ref().map(|leaf| leaf.not_after().to_string()),
    };
    Report { status, events }
}
