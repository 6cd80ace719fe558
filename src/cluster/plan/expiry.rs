//! CAs of external issuers that expire soon. Only the user can replace them, so it is reported in time.

use jiff::{SignedDuration, Timestamp};

use super::{changes::Changes, input::Input};
use crate::{
    api::Reason,
    certificates::{authorities::Authorities, secret::leaf_keys},
    pki::{self, Certificate, Domain, Issuer},
    reporting::note::Note,
};

/// The part of a CA's lifetime, in tenths, that is left when the first warning comes. cert-manager renews a CA when a third is left by
/// default, and that is noticed before.
const TENTHS: i32 = 3;
/// How long before a CA expires the first warning comes at the earliest.
const EARLIEST: SignedDuration = SignedDuration::from_hours(365 * 24);

/// Warns of a CA of an external issuer that expires soon, or of one above it, unless a newer one is known.
pub fn plan(input: &Input, domain: Domain, authorities: &Authorities) -> Changes {
    let (active, issuer) = (&authorities.active, &authorities.issuers.active);
    if *issuer == Issuer::BuiltIn
        || authorities.next != *active
        || authorities.rotation.is_some()
        || has_newer(input, domain, active)
    {
        return Changes::default();
    }
    let ending = path(active, &authorities.ancestors).into_iter().filter(|ca| input.now >= warn_at(ca));
    let ending = ending.min_by_key(|ca| ca.not_after()).or_else(|| is_cut_short(input, domain, authorities).then_some(active));
    let note = |ca| Note::new(Reason::CAExpiresSoon, message(input, domain, authorities, ca));
    Changes { upcoming: ending.map(note).into_iter().collect(), ..Changes::default() }
}

/// When the first warning comes that a CA expires.
fn warn_at(ca: &Certificate) -> Timestamp {
    let lifetime = ca.not_after().duration_since(ca.not_before());
    let ahead = (lifetime / 10 * TENTHS).min(EARLIEST);
    ca.not_after().checked_sub(ahead).unwrap_or(ca.not_before())
}

/// Whether the issuer is known to have a CA that expires later.
fn has_newer(input: &Input, domain: Domain, active: &Certificate) -> bool {
    let answer = input.observed.issuer_answers[domain].as_ref().and_then(|answer| answer.authority.as_ref().ok());
    answer.is_some_and(|answer| answer.authority != *active && answer.authority.not_after() > active.not_after())
}

/// A CA and those above it.
fn path<'a>(ca: &'a Certificate, ancestors: &'a [Certificate]) -> Vec<&'a Certificate> {
    let mut path = vec![ca];
    while let Some(parent) = path.last().and_then(|top| pki::parent(top, ancestors)).filter(|parent| !path.contains(parent)) {
        path.push(parent);
    }
    path
}

/// Whether a certificate that the operator has signed with the CA of a user is valid for a shorter time than desired, because the
/// CA expires.
fn is_cut_short(input: &Input, domain: Domain, authorities: &Authorities) -> bool {
    let (active, desired) = (&authorities.active, input.cluster.lifetimes[domain].leaf);
    let secrets = input.observed.members.values().filter_map(|member| member.secret.as_ref());
    let mut leaves = secrets.flat_map(|secret| leaf_keys(domain).iter().filter_map(|key| secret.certificate(key)?.ok()));
    authorities.issuers.active.has_key()
        && leaves.any(|leaf| {
            let lifetime = leaf.not_after().duration_since(leaf.not_before());
            leaf.not_after() >= active.not_after() && lifetime < desired - desired / 10 && leaf.is_signed_by(active)
        })
}

fn message(input: &Input, domain: Domain, authorities: &Authorities, ending: &Certificate) -> String {
    let (active, issuer) = (&authorities.active, &authorities.issuers.active);
    let what = if ending == active {
        format!("the {domain} CA {:?}", active.common_name())
    } else {
        format!("CA {:?}, which is above the {domain} CA {:?},", ending.common_name(), active.common_name())
    };
    let mend = match issuer {
        Issuer::CaSecret { name } => {
            let namespace = input.facts.names.namespace();
            format!(
                "Put a renewed or another CA into Secret {name}, with `kubectl -n {namespace} create secret generic {name} \
                 --from-file=tls.crt --from-file=tls.key --from-file=ca.crt --dry-run=client -o yaml | kubectl apply -f -`"
            )
        }
        _ => format!("Renew the CA that {issuer} signs with"),
    };
    let end = ending.not_after();
    format!("{what} expires at {end:.0}, no certificate of it is valid for longer, and {issuer} has no newer one. {mend}")
}

#[cfg(test)]
#[path = "expiry_tests.rs"]
mod tests;
