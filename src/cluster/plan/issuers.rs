//! The next authority of a domain, according to the issuer in the spec.

use jiff::SignedDuration;

use super::{
    changes::{Changes, PENDING},
    input::Input,
    reconnect, trial,
};
use crate::{
    api::Reason,
    certificates::{
        authorities::Authorities,
        issuers::{IssuerAnswer, IssuerProbe, IssuerProblem},
        secret::leaf_keys,
        transition::NewAuthority,
    },
    pki::{Certificate, Domain, ExternalAuthority, Issuer},
};

/// How long an answer that cannot be used is kept before the issuer is asked again.
pub(super) const RETRY: SignedDuration = SignedDuration::from_mins(1);
/// An authority's lifetime divided by this is the interval at which its issuer is asked for a new one, once two thirds of the
/// lifetime are over.
const REQUESTS_PER_LIFETIME: i32 = 50;

/// Where the next authority comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator creates it.
    BuiltIn,
    /// It is the authority of this issuer.
    External(Issuer, Box<ExternalAuthority>),
}

impl Source {
    /// The authority; a built-in one of this generation.
    pub fn authority(&self, input: &Input, domain: Domain, generation: u32) -> NewAuthority {
        match self {
            Self::BuiltIn => input.cluster.built_in_authority(domain, generation),
            Self::External(issuer, external) => NewAuthority::External(issuer.clone(), external.clone()),
        }
    }
}

/// The source of the next authority of a domain, if it differs from the existing one, and the changes and notes until it is
/// known. `required`: a new authority is needed even if the issuer has not changed.
pub fn successor(input: &Input, domain: Domain, existing: Option<&Authorities>, required: bool) -> (Option<Source>, Changes) {
    let Input { cluster, observed, now, .. } = input;
    let issuer = &cluster.issuers[domain];
    let is_same_issuer = existing.is_some_and(|existing| existing.issuers.next == *issuer);
    if *issuer == Issuer::BuiltIn {
        return ((required || !is_same_issuer).then_some(Source::BuiltIn), Changes::default());
    }
    let is_ageing = existing.is_some_and(|existing| *now >= existing.active.renew_at());
    let is_refused = existing.is_some_and(|existing| is_same_issuer && is_refused(input, domain, existing));
    let request = Changes { issuer_probes: vec![IssuerProbe::Request(domain)], ..Changes::default() };
    let Some(IssuerAnswer { requested_at, authority }) = &observed.issuer_answers[domain] else {
        return if required || !is_same_issuer {
            let message = format!("asking {issuer} which CA it signs with for the {domain} domain");
            (None, request.certificate(Reason::WaitingForIssuer, message))
        } else if is_ageing || is_refused {
            // Nothing else may have to be signed before it expires, or while members refuse what it signs, and so nothing else would
            // reveal that the issuer has a new authority.
            (None, request)
        } else {
            (None, Changes::default())
        };
    };
    let discard_if = |condition: bool| {
        let probes = (requested_at.is_some() && condition).then_some(IssuerProbe::Discard(domain));
        Changes { issuer_probes: probes.into_iter().collect(), ..Changes::default() }
    };
    let is_younger_than = |time: SignedDuration| requested_at.is_some_and(|at| now.duration_since(at) < time);
    let is_old = !is_younger_than(RETRY);
    let in_force = existing.is_some_and(|existing| is_same_issuer && existing.is_in_force(*now));
    let meanwhile = if in_force { "; where possible, certificates continue to be signed as before" } else { "" };
    match authority {
        Ok(external) if existing.is_some_and(|existing| is_same_issuer && is_next(existing, external)) => {
            if !required {
                // As the authority ages, its issuer is asked again at intervals; at short ones if members refuse it.
                let lifetime = external.authority.not_after().duration_since(external.authority.not_before());
                let is_outdated = if is_ageing && !is_refused {
                    !is_younger_than((lifetime / REQUESTS_PER_LIFETIME).max(RETRY))
                } else {
                    is_old
                };
                return (None, discard_if(is_outdated));
            }
            let name = external.authority.common_name();
            let message = format!(
                "the {domain} CA cannot be rotated: {issuer} still signs with CA {name:?}; configure the issuer with a new CA"
            );
            (None, discard_if(is_old).problem(Reason::CannotRotate, message))
        }
        Ok(external) if is_used_by_other_domain(input, domain, external) => {
            let (name, other) = (external.authority.common_name(), domain.other());
            let message = format!(
                "{issuer} signs with CA {name:?}, which is also a CA of the {other} domain: every client could act as a member. \
                 Choose another issuer for the {domain} domain{meanwhile}"
            );
            (None, discard_if(is_old).certificate(Reason::SharedCA, message))
        }
        Ok(external) if is_refused && existing.is_some_and(|existing| strands(input, existing, external)) => {
            let name = external.authority.common_name();
            let message = format!(
                "{issuer} signs with CA {name:?} now, which cannot take the place of the one that is refused: the member that tries that \
                 one needs a {domain} certificate of the previous CA. Give {issuer} the previous CA first"
            );
            (None, discard_if(is_old).certificate(Reason::IssuerUnusable, message))
        }
        Ok(external) => (Some(Source::External(issuer.clone(), Box::new(external.clone()))), Changes::default()),
        Err(IssuerProblem::Pending(why)) => {
            let message = format!("waiting for {issuer} to sign for the {domain} domain: {why}");
            (None, Changes::default().certificate(Reason::WaitingForIssuer, message).check_within(PENDING))
        }
        Err(IssuerProblem::Unusable(why)) => {
            let message = format!("{issuer} cannot be used for the {domain} domain: {why}{meanwhile}");
            (None, discard_if(is_old).certificate(Reason::IssuerUnusable, message))
        }
    }
}

/// Whether members refuse what the next or the active authority signs. Another one that the issuer is given replaces it.
fn is_refused(input: &Input, domain: Domain, existing: &Authorities) -> bool {
    trial::is_refused(input, domain, existing) || reconnect::is_refused(input, domain, existing)
}

/// Whether the member that tries a refused authority would get no certificate that the others accept if this authority came next: the
/// issuer no longer signs with the active one, and none trusts this one yet.
fn strands(input: &Input, existing: &Authorities, external: &ExternalAuthority) -> bool {
    trial::is_presented(input, existing) && !existing.can_sign(input.now) && external.authority != existing.active
}

/// Whether an external authority is already the next one, with all of its ancestors.
fn is_next(existing: &Authorities, external: &ExternalAuthority) -> bool {
    let has = |ancestor: &Certificate| {
        let covers = |own: &Certificate| own.key_digest() == ancestor.key_digest() && own.not_after() >= ancestor.not_after();
        existing.ancestors.iter().any(covers)
    };
    existing.next == external.authority && external.ancestors.iter().all(has)
}

/// Whether the other domain trusts, or is about to trust, an authority with the same key, or one of the two is an ancestor of the
/// other: a verifier that trusts an ancestor accepts what its descendants sign.
fn is_used_by_other_domain(input: &Input, domain: Domain, external: &ExternalAuthority) -> bool {
    let other = domain.other();
    let same = |one: &Certificate, two: &Certificate| one.key_digest() == two.key_digest();
    let among = |one: &Certificate, many: &[Certificate]| many.iter().any(|other| same(one, other));
    let is_related = |theirs: &Certificate, ancestors: &[Certificate]| {
        same(theirs, &external.authority) || among(theirs, &external.ancestors) || among(&external.authority, ancestors)
    };
    let desired = input.observed.issuer_answers[other].as_ref().and_then(|answer| answer.authority.as_ref().ok());
    let trusted = input.facts.authorities.state[other].ready();
    desired.is_some_and(|desired| is_related(&desired.authority, &desired.ancestors))
        || trusted.is_some_and(|trusted| trusted.trusted().any(|authority| is_related(authority, &trusted.ancestors)))
}

/// Remarks about external issuers whose certificates have a shorter lifetime than desired and are renewed more often.
pub fn remarks(input: &Input) -> Vec<String> {
    let remark = |domain: Domain| {
        let authorities = input.facts.authorities.state[domain].ready()?;
        let issuer = &authorities.issuers.active;
        // Certificates that the operator signs have the lifetime that was desired at the time.
        if issuer.has_key() {
            return None;
        }
        let desired = input.cluster.lifetimes[domain].leaf;
        let secrets = input.observed.members.values().filter_map(|member| member.secret.as_ref());
        let leaves = secrets.flat_map(|secret| leaf_keys(domain).iter().filter_map(|key| secret.certificate(key)?.ok()));
        // A leaf that expires with its authority is not the issuer's choice.
        let cut_short = |leaf: &Certificate| leaf.not_after() >= authorities.active.not_after();
        let shortest = leaves
            .filter(|leaf| leaf.is_signed_by(&authorities.active) && !cut_short(leaf))
            .map(|leaf| leaf.not_after().duration_since(leaf.not_before()))
            .filter(|lifetime| *lifetime < desired - desired / 10)
            .min()?;
        let (shortest, desired) = (shortest.as_hours(), desired.as_hours());
        Some(format!("certificates of {issuer} are valid for {shortest} hours instead of the desired {desired}"))
    };
    Domain::ALL.into_iter().filter_map(remark).collect()
}

#[cfg(test)]
#[path = "issuers_tests.rs"]
pub(super) mod tests;
