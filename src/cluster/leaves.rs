//! The leaf certificates of a cluster.

use super::validated::ValidatedCluster;
use crate::{
    certificates::{
        contents,
        leaf::{DesiredLeaf, LeafKeys, SignedBy},
    },
    names::{MemberName, common_name, member_key, tls_key},
    pki::{Domain, LeafSpec},
};

/// The leaf that a member presents on the port of a domain.
fn server(cluster: &ValidatedCluster, domain: Domain, member: &MemberName) -> LeafSpec {
    let duration = cluster.lifetimes[domain].leaf;
    match domain {
        Domain::Client => contents::server(&cluster.names, member, &cluster.extra_names, &cluster.extra_addresses, duration),
        Domain::Peer => contents::peer(&cluster.names, member, duration),
    }
}

/// The leaf of a client of this cluster.
fn client(cluster: &ValidatedCluster, common_name: &str) -> LeafSpec {
    contents::client(common_name, cluster.lifetimes.client.leaf)
}

/// The three leaves of a member, the peer leaf signed by this authority.
pub fn of_member(cluster: &ValidatedCluster, member: &MemberName, peer: SignedBy) -> Vec<DesiredLeaf> {
    let leaf = |domain, spec, certificate, private_key| {
        let signed_by = if domain == Domain::Peer { peer } else { SignedBy::Active };
        DesiredLeaf { domain, signed_by, spec, keys: LeafKeys { certificate, private_key } }
    };
    let server = |domain| server(cluster, domain, member);
    vec![
        leaf(Domain::Client, server(Domain::Client), member_key::SERVER_CRT, member_key::SERVER_KEY),
        leaf(Domain::Peer, server(Domain::Peer), member_key::PEER_CRT, member_key::PEER_KEY),
        leaf(Domain::Client, client(cluster, common_name::MEMBER), member_key::CLIENT_CRT, member_key::CLIENT_KEY),
    ]
}

/// The client certificate of the operator; with `trial` also one of the next authority.
pub fn of_operator(cluster: &ValidatedCluster, trial: bool) -> Vec<DesiredLeaf> {
    let leaf = |signed_by, certificate, private_key| {
        let keys = LeafKeys { certificate, private_key };
        DesiredLeaf { domain: Domain::Client, signed_by, spec: client(cluster, common_name::OPERATOR), keys }
    };
    let own = leaf(SignedBy::Active, tls_key::CRT, tls_key::KEY);
    let next = trial.then(|| leaf(SignedBy::Next, tls_key::NEXT_CRT, tls_key::NEXT_KEY));
    [own].into_iter().chain(next).collect()
}
