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

/// What is known of the authorities of both domains.
pub struct AuthorityFacts {
    /// The authorities.
    pub state: PerDomain<AuthorityState>,
    /// Whether a new member could be given certificates.
    pub can_issue: bool,
    /// Whether none is lost or expired.
    pub in_force: bool,
}

impl AuthorityFacts {
    /// What is known of the authorities of a cluster.
    pub fn of(names: &Names, uid: &Uid, observed: &Observed, now: Timestamp) -> Self {
        let trusted = observed.members.values().any(|member| member.secret.is_some() || member.stateful_set.is_some());
        let state = PerDomain::from_fn(|domain| {
            let secret = observed.authorities[domain].as_ref();
            authority_state(secret, &names.authority(domain), observed.reported_domain(domain), uid, trusted)
        });
        let all = |holds: &dyn Fn(&Authorities) -> bool| {
            state.iter().all(|(_, state)| state.ready().is_some_and(|authorities| holds(authorities)))
        };
        // An issuer may be left because it does not sign.
        let can_issue = all(&|authorities| authorities.can_sign(now) && !authorities.is_leaving_issuer());
        let in_force = all(&|authorities| authorities.is_in_force(now));
        Self { state, can_issue, in_force }
    }
}
