//! By which authority the issuer signs that the spec names, where that is not the built-in one.

use jiff::{SignedDuration, Timestamp};

use super::{
    AWAITING, Note, Plan,
    certificates::{AuthorityState, authority_state, server_leaf},
};
use crate::{
    cluster::{
        observed::{Authorities, NoOffer, Observed, Offered, leaf_keys},
        validate::ValidatedCluster,
    },
    names::common_name,
    pki::{Certificate, Domain, Issuer, LeafSpec, Offer},
};

/// Where an authority comes from that is to be trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The operator makes it.
    Made,
    /// It is the one of this issuer.
    Offered(Issuer, Box<Offer>),
}

/// What is to be done to learn by which authority an issuer signs: it is asked for a certificate that nobody will use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inquiry {
    /// It is asked.
    Ask(Domain),
    /// Its answer is not needed any more, or should be another one by now.
    Forget(Domain),
}

/// How long the answer of an issuer stands that is of no use.
const RETRY: SignedDuration = SignedDuration::from_mins(1);
/// How often in the life of an authority its issuer is asked whether there is another one, once two thirds of it are over.
const LOOKS: i32 = 50;

/// What an issuer is asked for before its authority is trusted: what the leaves of servers have. Whoever changes that, or may not sign
/// it, would be found out only when everybody waits for it.
pub fn inquiry(cluster: &ValidatedCluster, domain: Domain, life: SignedDuration) -> LeafSpec {
    // Those of another member have another number in their names.
    let shown = server_leaf(cluster, domain, &cluster.names.member(0));
    LeafSpec { common_name: common_name::INQUIRY.into(), duration: life, ..shown }
}

/// The authority that is to come next in a domain, where that is another one than now, by what the spec says of its issuer. `anew` says
/// that the one that there is will not do even if the issuer has not changed.
pub fn successor(
    cluster: &ValidatedCluster,
    observed: &Observed,
    domain: Domain,
    there: Option<&Authorities>,
    anew: bool,
    now: Timestamp,
    plan: &mut Plan,
) -> Option<Source> {
    let wanted = cluster.issuer(domain);
    let is_theirs = there.is_some_and(|there| there.issuers.next == *wanted);
    if *wanted == Issuer::BuiltIn {
        return (anew || !is_theirs).then_some(Source::Made);
    }
    let is_ageing = there.is_some_and(|there| now >= there.active.renew_at());
    let Some(Offered { asked, answer }) = observed.offers.get(&domain) else {
        if anew || !is_theirs {
            plan.inquiries.push(Inquiry::Ask(domain));
            let message = format!("{wanted} is being asked by which authority it signs for the {domain} domain");
            plan.certificates.push(Note::new("WaitingForIssuer", message));
        } else if is_ageing {
            // Nothing else may be signed before its end, and so nothing would tell that the issuer has another one.
            plan.inquiries.push(Inquiry::Ask(domain));
        }
        return None;
    };
    let mut forget = |really: bool| plan.inquiries.extend((asked.is_some() && really).then_some(Inquiry::Forget(domain)));
    let is_old = asked.is_none_or(|asked| now.duration_since(asked) >= RETRY);
    let in_force = there.is_some_and(|there| is_theirs && there.is_in_force(now));
    let goes_on = if in_force { "; certificates go on being signed as before where that is possible" } else { "" };
    let (reason, message) = match answer {
        Ok(offer) if there.is_some_and(|there| is_theirs && holds(there, offer)) => {
            // While its end comes near it is asked again from time to time.
            let life = offer.authority.not_after().duration_since(offer.authority.not_before());
            let stands = asked.is_some_and(|asked| now.duration_since(asked) < (life / LOOKS).max(RETRY));
            forget(if is_ageing && !anew { !stands } else { is_old });
            if !anew {
                return None;
            }
            let name = offer.authority.common_name();
            let message =
                format!("the {domain} authority cannot be replaced: {wanted} still signs by {name:?}. Give it another authority");
            plan.problems.push(Note::new("CannotRotate", message));
            return None;
        }
        Ok(offer) => match other_domain(cluster, observed, domain, offer) {
            None => return Some(Source::Offered(wanted.clone(), Box::new(offer.clone()))),
            Some(other) => {
                forget(is_old);
                let name = offer.authority.common_name();
                let message = format!(
                    "{wanted} signs by {name:?}, which is an authority of the {other} domain too: every client could act as a member. \
                     Choose another issuer for the {domain} domain{goes_on}"
                );
                ("SameAuthority", message)
            }
        },
        Err(NoOffer::Awaited(why)) => {
            plan.next_check = plan.next_check.min(AWAITING);
            ("WaitingForIssuer", format!("waiting for {wanted} to sign for the {domain} domain: {why}"))
        }
        Err(NoOffer::Unusable(why)) => {
            forget(is_old);
            ("IssuerUnusable", format!("{wanted} cannot be used for the {domain} domain: {why}{goes_on}"))
        }
    };
    plan.certificates.push(Note::new(reason, message));
    None
}

/// Whether this is what there is, and what stands above it too.
fn holds(there: &Authorities, offer: &Offer) -> bool {
    let has = |above: &Certificate| {
        let is = |theirs: &Certificate| theirs.key_digest() == above.key_digest() && theirs.not_after() >= above.not_after();
        there.above.iter().any(is)
    };
    there.next == offer.authority && offer.above.iter().all(has)
}

/// The other domain, if it trusts an authority with the same key or is about to, or one of them stands above the other: whoever believes the
/// one above believes what the one below has signed.
fn other_domain(cluster: &ValidatedCluster, observed: &Observed, domain: Domain, offer: &Offer) -> Option<Domain> {
    let same = |one: &Certificate, two: &Certificate| one.key_digest() == two.key_digest();
    let among = |one: &Certificate, many: &[Certificate]| many.iter().any(|other| same(one, other));
    let is = |theirs: &Certificate, above: &[Certificate]| {
        same(theirs, &offer.authority) || among(theirs, &offer.above) || among(&offer.authority, above)
    };
    let has = |other: &Domain| {
        let offered = observed.offers.get(other).and_then(|offered| offered.answer.as_ref().ok());
        let trusts = |all: &Authorities| all.trusted().any(|one| is(one, &all.above));
        offered.is_some_and(|offered| is(&offered.authority, &offered.above))
            || matches!(authority_state(cluster, observed, *other), AuthorityState::Ready(all) if trusts(&all))
    };
    Domain::ALL.into_iter().filter(|other| *other != domain).find(has)
}

/// What is to be said of issuers that give shorter lives than they are asked for: renewals come as often as that.
pub fn remarks(cluster: &ValidatedCluster, observed: &Observed) -> Vec<String> {
    let remark = |domain: Domain| {
        let AuthorityState::Ready(authorities) = authority_state(cluster, observed, domain) else { return None };
        let issuer = &authorities.issuers.active;
        // What the operator signs is as it was asked for then.
        if issuer.has_key() {
            return None;
        }
        let wanted = cluster.lives(domain).leaf;
        let keys = leaf_keys(domain);
        let leaves = observed.members.values().filter_map(|member| member.secret.as_ref());
        let leaves = leaves.flat_map(|secret| keys.iter().filter_map(|key| secret.certificate(key)?.ok()));
        // One that ends with its authority is not the issuer's doing.
        let short = leaves
            .filter(|leaf| leaf.is_signed_by(&authorities.active) && leaf.not_after() < authorities.active.not_after())
            .map(|leaf| leaf.not_after().duration_since(leaf.not_before()))
            .filter(|life| *life < wanted - wanted / 10)
            .min()?;
        let (short, wanted) = (short.as_hours(), wanted.as_hours());
        Some(format!("certificates of {issuer} live for {short} hours where {wanted} are wanted now"))
    };
    Domain::ALL.into_iter().filter_map(remark).collect()
}

#[cfg(test)]
#[path = "issuers_tests.rs"]
mod tests;
