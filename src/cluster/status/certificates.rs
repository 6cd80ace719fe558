//! The condition `CertificatesReady`, and the certificates in the status.

use jiff::Timestamp;

use super::Input;
use crate::{
    api::{AuthorityStatus, CertificatesStatus, ConditionType, DomainStatus, MemberStatus, Reason, condition, reason_of},
    certificates::{secret::CachedSecret, state::AuthorityState},
    cluster::{
        facts::readiness::refusing,
        observed::{Observed, ObservedMember},
        outcome::Decision,
    },
    digest::hex,
    kubernetes::{ownership::annotation, pod::is_terminating},
    names::annotation as key,
    pki::{Certificate, Domain, Issuer},
    reporting::{
        condition::{Announced, Finding, seconds},
        note::{Note, messages},
    },
};

fn certificates_ready(is_true: bool, note: Note, announced: Announced) -> Finding {
    Finding { kind: ConditionType::CertificatesReady, is_true, note, announced }
}

/// The condition `CertificatesReady`.
pub fn finding(input: &Input) -> Finding {
    let Input { observed, decision, outcome, .. } = input;
    if let Decision::Invalid(_) = decision {
        let note = Note::new(Reason::InvalidSpec, "no certificates are issued, because the spec is invalid; see Degraded");
        return certificates_ready(false, note, Announced::Silently);
    }
    if decision.blocked().is_some() {
        let note = Note::new(Reason::Blocked, "no certificates are issued; see Available");
        return certificates_ready(false, note, Announced::Silently);
    }
    if let Some(lost) = decision.changes().and_then(|changes| changes.lost.first()) {
        return certificates_ready(false, lost.clone(), Announced::AsWarning);
    }
    let planned = decision.changes().map(|changes| changes.certificates.as_slice()).unwrap_or_default();
    let refused = refusing(observed).map(|message| Note::new(Reason::CertificateRefused, message));
    // The notes about what issuers have not signed say more than the planned requests.
    let notes: Vec<_> = refused.iter().chain(&outcome.issuers).chain(planned).collect();
    if let Some(first) = notes.first() {
        let announced = if is_fault(first.reason) { Announced::AsWarning } else { Announced::Silently };
        return certificates_ready(false, Note::new(first.reason, messages(notes.iter().copied())), announced);
    }
    if observed.members.is_empty() {
        return certificates_ready(false, Note::new(Reason::Confirming, "there are no members yet"), Announced::Silently);
    }
    let remarks = decision.changes().map(|changes| changes.remarks.as_slice()).unwrap_or_default();
    let with_remarks = |message: String| [message].into_iter().chain(remarks.iter().cloned()).collect::<Vec<_>>().join("; ");
    let unconfirmed = observed.members.iter().filter(|(_, member)| !is_confirmed(member));
    let unconfirmed: Vec<_> = unconfirmed.map(|(name, _)| name.to_string()).collect();
    if !unconfirmed.is_empty() {
        let message = format!("have not presented the certificates of their Secrets yet: {}", unconfirmed.join(", "));
        return certificates_ready(false, Note::new(Reason::Confirming, with_remarks(message)), Announced::Silently);
    }
    let note = Note::new(Reason::CertificatesServed, with_remarks("every member presents the certificates of its Secret".into()));
    // Every renewal ends like this, so only the end of a fault gets an event.
    let before = condition(&observed.status.conditions, ConditionType::CertificatesReady);
    let was_fault = before.and_then(reason_of).is_some_and(is_fault);
    certificates_ready(true, note, if was_fault { Announced::Normally } else { Announced::Silently })
}

/// Whether a member was confirmed to serve its current certificates.
fn is_confirmed(member: &ObservedMember) -> bool {
    let pod = member.pod.as_ref().filter(|pod| !is_terminating(pod));
    let confirmed = pod.and_then(|pod| annotation(&pod.metadata, key::TLS_CONFIRMED));
    member.secret.as_ref().is_some_and(|secret| confirmed == Some(secret.fingerprint()))
}

/// What the user has to correct before certificates can be issued.
pub fn faults<'a>(input: &'a Input) -> impl Iterator<Item = &'a Note> {
    let changes = input.decision.changes();
    let lost = changes.into_iter().flat_map(|changes| &changes.lost);
    let planned = changes.into_iter().flat_map(|changes| &changes.certificates);
    input.outcome.issuers.iter().chain(lost).chain(planned).filter(|note| is_fault(note.reason))
}

/// Whether a reason is a fault that the user has to correct. It follows from the reason, because the last status has nothing else.
fn is_fault(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::CALost
            | Reason::CertificateRefused
            | Reason::IssuerUnusable
            | Reason::IssuerFailed
            | Reason::SharedCA
            | Reason::CertManagerMissing
    )
}

/// When the first certificate of a member expires.
pub fn expiry(secret: &CachedSecret) -> Option<Timestamp> {
    Domain::ALL.into_iter().filter_map(|domain| secret.expiry(domain)).min()
}

/// When the first certificate of a domain that a member serves expires.
pub fn first_expiry(observed: &Observed, domain: Domain) -> Option<Timestamp> {
    observed.members.values().filter_map(|member| member.secret.as_ref()?.expiry(domain)).min()
}

/// The certificates in the status.
pub fn status(input: &Input, members: &[MemberStatus]) -> Option<CertificatesStatus> {
    let Input { observed, facts, .. } = input;
    let domain = |domain: Domain| {
        let expires = first_expiry(observed, domain).map(seconds);
        // The reported authorities change only by a transition. A difference reveals that the Secret was changed by hand.
        match &facts.authorities.state[domain] {
            AuthorityState::Ready(authorities) => Some(DomainStatus {
                active: authority(&authorities.active, &authorities.issuers.active),
                next: authority(&authorities.next, &authorities.issuers.next),
                retiring: authorities.retiring.iter().map(|retiring| authority(retiring, &Issuer::BuiltIn)).collect(),
                phase: authorities.rotation.map(|rotation| rotation.phase),
                phase_since: authorities.rotation.map(|rotation| seconds(rotation.since)),
                expires,
            }),
            AuthorityState::Absent | AuthorityState::Lost(_) => {
                observed.reported_domain(domain).map(|old| DomainStatus { expires, ..old.clone() })
            }
        }
    };
    let status = CertificatesStatus {
        expires: members.iter().filter_map(|member| member.certificate_expires.clone()).min(),
        client: domain(Domain::Client),
        peer: domain(Domain::Peer),
    };
    (status != CertificatesStatus::default()).then_some(status)
}

fn authority(certificate: &Certificate, issuer: &Issuer) -> AuthorityStatus {
    AuthorityStatus {
        issuer: (*issuer != Issuer::BuiltIn).then(|| issuer.to_string()),
        name: certificate.common_name().to_owned(),
        key_id: certificate.subject_key_id().map(hex).unwrap_or_default(),
        expires: seconds(certificate.not_after()),
    }
}
