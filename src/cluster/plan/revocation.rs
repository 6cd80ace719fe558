//! Plans the revocation of certificates.

use std::collections::BTreeSet;

use super::{changes::Changes, input::Input, trial};
use crate::{
    certificates::{authorities::Authorities, requests::pending_key, secret::leaf_keys},
    cluster::{leaves, steps::Revoke},
    names::{authority_key, tls_key},
    pki::{Domain, Holder},
};

/// Revokes the certificates of users that no longer exist and of members that were removed, and restores revocation lists that
/// are incomplete. Removes private keys of certificates that an external issuer was asked for meanwhile.
pub fn plan(input: &Input) -> Changes {
    Domain::ALL.into_iter().find_map(|domain| revoke(input, domain)).map(Changes::step).unwrap_or_default()
}

fn revoke(input: &Input, domain: Domain) -> Option<Revoke> {
    // A lost or expired authority cannot sign a list. No leaf outlives its authority.
    let authorities = input.facts.authorities.state[domain].ready().filter(|authorities| authorities.is_in_force(input.now))?;
    let live = authorities.ledger.entries().filter(|issued| issued.revoked.is_none()).map(|issued| &issued.holder);
    let holders: BTreeSet<_> = live.filter(|holder| no_longer_exists(input, holder)).cloned().collect();
    // A list that was edited or restored from a backup may lack revoked certificates.
    let is_complete = authorities.ledger.revoked().all(|(serial, _)| authorities.listed.contains(&serial));
    let pending = unused_keys(input, domain, authorities);
    let is_needed = !holders.is_empty() || !is_complete || !pending.is_empty();
    is_needed.then(|| Revoke { domain, holders: holders.into_iter().collect(), pending })
}

/// Where the Secret of a user has its certificate.
const CLIENT_LEAF: &[&str] = &[tls_key::CRT];

/// Where the Secret of a domain has private keys of certificates that no member, no user and not the operator waits for. An issuer that never
/// answers would let them accumulate.
fn unused_keys(input: &Input, domain: Domain, authorities: &Authorities) -> Vec<String> {
    let (Some(secret), Some(roster)) = (&input.observed.authorities[domain], &input.facts.roster) else { return vec![] };
    let mut unused: BTreeSet<&String> = secret.data.keys().filter(|key| key.starts_with(authority_key::PENDING)).collect();
    if unused.is_empty() {
        return vec![];
    }
    let members = input.observed.members.keys().filter(|name| roster.lists(name));
    let members = members.map(|name| (Holder::Member { name: name.to_string() }, leaf_keys(domain)));
    let users = input.observed.users.iter().map(|(uid, name)| Holder::User { name: name.clone(), uid: uid.clone() });
    let users = users.filter(|_| domain == Domain::Client).map(|holder| (holder, CLIENT_LEAF));
    for (holder, certificates) in members.chain(users) {
        for certificate in certificates {
            unused.remove(&pending_key(&holder, certificate));
        }
    }
    // While the next authority is tried, it has two.
    let own = leaves::of_operator(input.cluster, trial::is_due(authorities));
    for leaf in own.iter().filter(|leaf| leaf.domain == domain) {
        unused.remove(&pending_key(&Holder::Operator, leaf.keys.certificate));
    }
    unused.into_iter().cloned().collect()
}

fn no_longer_exists(input: &Input, holder: &Holder) -> bool {
    match holder {
        Holder::User { uid, .. } => !input.observed.users.contains_key(uid),
        Holder::Member { name } => {
            let (roster, member) = (input.facts.roster.as_ref(), input.facts.names.parse_member(name));
            roster.zip(member).is_some_and(|(roster, member)| !roster.lists(&member))
        }
        Holder::Operator => false,
    }
}

#[cfg(test)]
#[path = "revocation_tests.rs"]
mod tests;
