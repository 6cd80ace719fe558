//! The certificate authorities of both domains.

use jiff::Timestamp;

use crate::{
    certificates::{
        authorities::Authorities,
        state::{AuthorityState, authority_state},
    },
    cluster::observed::Observed,
    ids::Uid,
    names::Names,
    pki::PerDomain,
};

/// Facts about the authorities of both domains.
pub struct AuthorityFacts {
    /// The state of each domain's authorities.
    pub state: PerDomain<AuthorityState>,
    /// Whether certificates can be issued to a new member.
    pub can_issue: bool,
    /// Whether no authority is absent, lost or expired.
    pub in_force: bool,
}

impl AuthorityFacts {
    /// The facts about the authorities of a cluster.
    pub fn of(names: &Names, uid: &Uid, observed: &Observed, now: Timestamp) -> Self {
        let trusted = observed.members.values().any(|member| member.secret.is_some() || member.stateful_set.is_some());
        let state = PerDomain::from_fn(|domain| {
            let secret = observed.authorities[domain].as_ref();
            authority_state(secret, &names.authority(domain), observed.reported_domain(domain), uid, trusted)
        });
        let all = |predicate: &dyn Fn(&Authorities) -> bool| {
            state.iter().all(|(_, state)| state.ready().is_some_and(|authorities| predicate(authorities)))
        };
        // A domain may be changing its issuer because the old one no longer signs.
        let can_issue = all(&|authorities| authorities.can_sign(now) && !authorities.is_leaving_issuer());
        let in_force = all(&|authorities| authorities.is_in_force(now));
        Self { state, can_issue, in_force }
    }
}
