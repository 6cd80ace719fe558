//! The outcome of a pass -> status and events. Pure.

use jiff::Timestamp;
use kube::{ResourceExt, runtime::events::EventType};

use super::plan::{ObservedUser, Obstacle};
use crate::{
    api::{ConditionType, EtcdUser, EtcdUserStatus, Reason, condition, is_true, reason_of},
    digest::is_hex,
    kubernetes::ownership::belongs,
    names::{annotation as key, tls_key, user_common_name, user_secret},
    pki::{Certificate, ReissueReason},
    reporting::{
        condition::{Announced, Finding, seconds},
        event::event,
        note::Note,
        publish::Report,
    },
};

/// The outcome of a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserOutcome {
    /// No certificate was issued.
    Blocked(Obstacle),
    /// The Secret was written, with a new certificate if there is a reason for one.
    Written(Option<ReissueReason>),
    /// Something changed since the plan was made. The next pass continues.
    Conflict,
    /// The Secret could not be written.
    Failed(String),
    /// The Secret is up to date.
    Ready,
}

/// The status of a user, and the events about the pass.
pub fn report(user: &EtcdUser, observed: &ObservedUser, outcome: &UserOutcome, now: Timestamp) -> Report<EtcdUserStatus> {
    let secret = observed.secret.as_ref().filter(|secret| belongs(&secret.meta, &observed.uid));
    let leaf = secret.and_then(|secret| secret.certificate(tls_key::CRT)?.ok());
    let is_accepted = leaf.as_ref().is_some_and(|leaf| leaf.not_after() > now && is_trusted(leaf, observed));
    let finding = ready(user, outcome, is_accepted, is_refused(observed));
    let before = user.status.as_ref().and_then(|status| condition(&status.conditions, ConditionType::Ready));
    let generation = user.metadata.generation;
    let status = EtcdUserStatus {
        observed_generation: generation,
        conditions: vec![finding.condition(before, generation, now)],
        common_name: Some(user_common_name(user)),
        secret_name: Some(user_secret(user)),
        serial: leaf.as_ref().map(|leaf| leaf.serial().to_string()),
        certificate_expires: leaf.as_ref().map(|leaf| seconds(leaf.not_after())),
    };
    let done = match outcome {
        UserOutcome::Written(Some(why)) => {
            let (name, secret) = (user_common_name(user), user_secret(user));
            let message = format!("issued a certificate for {name} in Secret {secret}: the certificate {why}");
            vec![event(EventType::Normal, &Note::new(Reason::CertificateIssued, message))]
        }
        _ => vec![],
    };
    Report { status, events: finding.event(before).into_iter().collect(), done }
}

/// The report of a pass that failed because of a bug: everything else stays as it was reported last.
pub fn bug(user: &EtcdUser, note: Note, now: Timestamp) -> Report<EtcdUserStatus> {
    let mut status = user.status.clone().unwrap_or_default();
    let before = condition(&status.conditions, ConditionType::Ready).cloned();
    let is_true = before.as_ref().is_some_and(is_true);
    let finding = Finding { kind: ConditionType::Ready, is_true, note, announced: Announced::AsWarning };
    status.conditions = vec![finding.condition(before.as_ref(), user.metadata.generation, now)];
    Report { status, events: finding.event(before.as_ref()).into_iter().collect(), done: vec![] }
}

/// Whether the members refuse the operator's certificate, so that a certificate of the same authority does not get in either.
fn is_refused(observed: &ObservedUser) -> bool {
    let status = observed.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
    let available = status.and_then(|status| condition(&status.conditions, ConditionType::Available));
    available.and_then(reason_of) == Some(Reason::CertificateRefused)
}

/// The condition `Ready`. `is_accepted` says whether the Secret holds a certificate that the members should accept, and `is_refused`
/// whether they refuse those of its authority.
fn ready(user: &EtcdUser, outcome: &UserOutcome, is_accepted: bool, is_refused: bool) -> Finding {
    let secret = user_secret(user);
    let issued = || {
        let message = format!("Secret {secret} holds a certificate for {}", user_common_name(user));
        if is_refused {
            let message = format!(
                "{message}, but the members refuse certificates of its CA; see condition Available of EtcdCluster {}",
                user.spec.cluster_ref.name
            );
            return (false, Note::new(Reason::CertificateRefused, message), Announced::AsWarning);
        }
        (true, Note::new(Reason::Issued, message), Announced::Silently)
    };
    let (is_true, note, announced) = match outcome {
        UserOutcome::Blocked(Obstacle::Refused(note)) => (false, note.clone(), Announced::AsWarning),
        UserOutcome::Blocked(Obstacle::Waiting(note)) => (false, note.clone(), Announced::Normally),
        UserOutcome::Blocked(Obstacle::Suspended(note)) => (is_accepted, note.clone(), Announced::AsWarning),
        UserOutcome::Failed(problem) => (is_accepted, Note::new(Reason::IssuingFailed, problem.clone()), Announced::AsWarning),
        UserOutcome::Ready => issued(),
        UserOutcome::Written(_) | UserOutcome::Conflict if is_accepted => issued(),
        UserOutcome::Written(_) | UserOutcome::Conflict => {
            let message = format!("the certificate in Secret {secret} is being issued");
            (false, Note::new(Reason::Issuing, message), Announced::Silently)
        }
    };
    Finding { kind: ConditionType::Ready, is_true, note, announced }
}

/// When the certificate in a status expires; `None` if it will not be renewed, because it is revoked or its cluster no longer exists.
pub fn expiry(user: &EtcdUser, observed: &ObservedUser, status: &EtcdUserStatus) -> Option<Timestamp> {
    let is_renewed = observed.cluster.is_some() && !user.annotations().contains_key(key::REVOKE);
    status.certificate_expires.as_ref().filter(|_| is_renewed).map(|expires| expires.0)
}

/// Whether the members of the cluster trust the authority that signed a leaf.
fn is_trusted(leaf: &Certificate, observed: &ObservedUser) -> bool {
    let status = observed.cluster.as_ref().and_then(|cluster| cluster.status.as_ref());
    let domain = status.and_then(|status| status.certificates.as_ref()?.client.as_ref());
    domain.zip(leaf.authority_key_id()).is_some_and(|(domain, signer)| {
        let mut trusted = [&domain.active, &domain.next].into_iter().chain(&domain.retiring);
        trusted.any(|authority| is_hex(&authority.key_id, signer))
    })
}
