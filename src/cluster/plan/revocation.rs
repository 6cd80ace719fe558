//! Plans the revocation of certificates.

use std::collections::BTreeSet;

use super::{changes::Changes, input::Input};
use crate::{
    cluster::steps::Revoke,
    pki::{Domain, Holder},
};

/// Revokes the certificates of users that no longer exist and of members that were removed, and restores revocation lists that
/// are incomplete.
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
    (!holders.is_empty() || !is_complete).then(|| Revoke { domain, holders: holders.into_iter().collect() })
}

fn no_longer_exists(input: &Input, holder: &Holder) -> bool {
    match holder {
        Holder::User { uid, .. } => !input.observed.users.contains(uid),
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
