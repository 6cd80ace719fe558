//! The changes of a pass between planning and writing: which leaves they need, which of them are held, and which were issued.

use std::collections::BTreeMap;

use super::write::SecretState;
use crate::{
    certificates::{
        leaf::SignedBy,
        requests::{IssuedLeaf, LeafRequest, SecretChange},
    },
    pki::Domain,
};

/// A leaf of a change: the position of the change in the plan, and that of the leaf in the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeafId {
    /// The position of the change.
    pub change: usize,
    /// The position of the leaf.
    pub leaf: usize,
}

/// The requests to one authority of one domain.
pub type Requests = BTreeMap<LeafId, LeafRequest>;

/// A Secret that is going to be written.
struct Draft {
    change: SecretChange<(LeafId, LeafRequest)>,
    state: SecretState,
}

/// The Secrets that are going to be written together.
#[derive(Default)]
pub struct Batch(Vec<Draft>);

impl Batch {
    /// Adds the change at this position of the plan.
    pub fn add(&mut self, position: usize, change: &SecretChange, state: SecretState) {
        let identify = |(leaf, request): (usize, &LeafRequest)| (LeafId { change: position, leaf }, request.clone());
        let leaves = change.leaves.iter().enumerate().map(identify).collect();
        self.0.push(Draft { change: change.clone().with_leaves(leaves), state });
    }

    /// The leaves of an authority of a domain that are still needed.
    pub fn requests(&self, domain: Domain, signed_by: SignedBy) -> Requests {
        let leaves = self.0.iter().flat_map(|draft| &draft.change.leaves);
        leaves.filter(|(_, request)| request.domain == domain && request.signed_by == signed_by).cloned().collect()
    }

    /// Whether a leaf is still needed.
    pub fn needs(&self, id: LeafId) -> bool {
        self.0.iter().any(|draft| draft.change.leaves.iter().any(|(other, _)| *other == id))
    }

    /// Removes the leaves that cannot be issued now. A Secret that does not exist yet is not created without all of its leaves.
    pub fn hold(&mut self, is_held: impl Fn(LeafId) -> bool) {
        self.0.retain_mut(|draft| {
            let planned = draft.change.leaves.len();
            draft.change.leaves.retain(|(id, _)| !is_held(*id));
            draft.change.leaves.len() == planned || draft.change.can_be_partial()
        });
    }

    /// The changes with the leaves that were issued for them.
    pub fn complete(self, mut issued: BTreeMap<LeafId, IssuedLeaf>) -> Vec<(SecretChange<IssuedLeaf>, SecretState)> {
        let complete = |Draft { change, state }: Draft| {
            let leaves = change.leaves.iter().filter_map(|(id, _)| issued.remove(id)).collect();
            (change.with_leaves(leaves), state)
        };
        self.0.into_iter().map(complete).collect()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::{
        certificates::leaf::LeafKeys,
        pki::{Holder, LeafSpec, ReissueReason, Usage},
    };

    fn change(version: Option<&str>, files: &[&str]) -> SecretChange {
        let leaf = |domain, certificate, private_key| LeafRequest {
            domain,
            signed_by: SignedBy::Active,
            spec: LeafSpec {
                common_name: "any".into(),
                dns_names: [].into(),
                ip_addresses: [].into(),
                optional: [].into(),
                usage: Usage::Both,
                duration: SignedDuration::from_hours(1),
            },
            keys: LeafKeys { certificate, private_key },
            holder: Holder::Operator,
            why: ReissueReason::Missing,
            signed_now: true,
        };
        SecretChange {
            version: version.map(str::to_owned),
            leaves: vec![
                leaf(Domain::Client, "server.crt", "server.key"),
                leaf(Domain::Peer, "peer.crt", "peer.key"),
                leaf(Domain::Client, "client.crt", "client.key"),
            ],
            files: files.iter().map(|key| ((*key).to_owned(), vec![])).collect(),
            name: "any".into(),
            type_: "Opaque",
            labels: BTreeMap::new(),
            obsolete: vec![],
        }
    }

    /// The certificates that remain to be issued in each change, in which all of these positions are held.
    fn remaining(changes: &[SecretChange], held: &[usize]) -> Vec<(usize, Vec<&'static str>)> {
        let mut batch = Batch::default();
        for (position, change) in changes.iter().enumerate() {
            batch.add(position, change, SecretState::Missing);
        }
        batch.hold(|id| held.contains(&id.leaf));
        let names = |draft: &Draft| draft.change.leaves.iter().map(|(_, leaf)| leaf.keys.certificate).collect();
        let position = |draft: &Draft| draft.change.leaves.first().map_or(usize::MAX, |(id, _)| id.change);
        batch.0.iter().map(|draft| (position(draft), names(draft))).collect()
    }

    #[test]
    fn only_a_new_secret_waits_for_all_of_its_leaves() {
        let changes = [change(None, &["ca.crt"]), change(Some("7"), &[])];
        assert_eq!(remaining(&changes, &[1]), [(1, vec!["server.crt", "client.crt"])]);
        assert_eq!(remaining(&changes, &[]).len(), 2);
        // Without leaves something must remain to be written.
        assert_eq!(remaining(&changes, &[0, 1, 2]), []);
        assert_eq!(remaining(&[change(Some("7"), &["ca.crt"])], &[0, 1, 2]), [(usize::MAX, vec![])]);
    }

    #[test]
    fn leaves_are_identified_by_change_and_position() {
        let mut batch = Batch::default();
        batch.add(4, &change(None, &[]), SecretState::Missing);
        let ids: Vec<_> = batch.requests(Domain::Client, SignedBy::Active).into_keys().map(|id| (id.change, id.leaf)).collect();
        assert_eq!(ids, [(4, 0), (4, 2)]);
        assert!(batch.needs(LeafId { change: 4, leaf: 1 }) && !batch.needs(LeafId { change: 3, leaf: 1 }));
        batch.hold(|id| id.leaf == 1);
        assert!(batch.requests(Domain::Client, SignedBy::Active).is_empty() && !batch.needs(LeafId { change: 4, leaf: 0 }));
    }
}
