//! The leaf certificates of a cluster and their contents.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::SignedDuration;

use super::validated::ValidatedCluster;
use crate::{
    api::EtcdClusterSpec,
    certificates::leaf::{DesiredLeaf, LeafKeys, SignedBy},
    issuing::ProbeSpec,
    names::{LOCALHOST, MemberName, Names, common_name, member_key, tls_key},
    pki::{Domain, LeafSpec, PerDomain, Usage},
};

/// The addresses that every server certificate is valid for.
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The leaf that a member presents on the port of a domain.
fn server(cluster: &ValidatedCluster, domain: Domain, member: &MemberName) -> LeafSpec {
    let duration = cluster.lifetimes[domain].leaf;
    match domain {
        Domain::Client => client_server(&cluster.names, member, &cluster.extra_names, &cluster.extra_addresses, duration),
        Domain::Peer => peer(&cluster.names, member, duration),
    }
}

fn client_server(
    names: &Names,
    member: &MemberName,
    extra_names: &BTreeSet<String>,
    extra_addresses: &BTreeSet<IpAddr>,
    duration: SignedDuration,
) -> LeafSpec {
    LeafSpec {
        common_name: common_name::SERVER.into(),
        dns_names: names.server_sans(member).into_iter().chain(extra_names.iter().cloned()).collect(),
        ip_addresses: extra_addresses.iter().copied().chain(LOOPBACK).collect(),
        optional: optional(extra_names, extra_addresses),
        usage: Usage::Server,
        duration,
    }
}

/// The names of a member's own host, except for those that the administrator asked for. They are for people who run etcdctl in the
/// pod: neither the operator nor a member or a probe needs them, so an authority that is for the names of the Kubernetes cluster
/// only can be used.
fn optional(extra_names: &BTreeSet<String>, extra_addresses: &BTreeSet<IpAddr>) -> BTreeSet<String> {
    let name = (!extra_names.contains(LOCALHOST)).then(|| LOCALHOST.to_owned());
    let addresses = LOOPBACK.iter().filter(|address| !extra_addresses.contains(address)).map(ToString::to_string);
    name.into_iter().chain(addresses).collect()
}

fn peer(names: &Names, member: &MemberName, duration: SignedDuration) -> LeafSpec {
    LeafSpec {
        common_name: common_name::PEER.into(),
        dns_names: names.peer_sans(member).into_iter().collect(),
        ip_addresses: BTreeSet::new(),
        optional: BTreeSet::new(),
        usage: Usage::Both,
        duration,
    }
}

/// A probe leaf that is requested from an external issuer before its authority is trusted. It has the same fields as the leaves
/// of members: otherwise an issuer that alters or rejects them would be noticed only during a rotation.
///
/// It is derived from a spec that may be invalid: invalid addresses are left out.
pub fn issuer_probe(names: &Names, spec: &EtcdClusterSpec, domain: Domain, lifetime: SignedDuration) -> LeafSpec {
    // The names of other members differ only in their ordinals.
    let member = names.member(0);
    let leaf = match domain {
        Domain::Client => {
            let extra = &spec.tls.client.extra_sans;
            let extra_names = extra.dns_names.iter().cloned().collect();
            let extra_addresses = extra.ip_addresses.iter().filter_map(|address| address.parse().ok()).collect();
            client_server(names, &member, &extra_names, &extra_addresses, lifetime)
        }
        Domain::Peer => peer(names, &member, lifetime),
    };
    LeafSpec { common_name: common_name::ISSUER_PROBE.into(), ..leaf }
}

/// With which leaves the issuers of a cluster are probed.
pub fn issuer_probes(cluster: &ValidatedCluster, spec: &EtcdClusterSpec) -> PerDomain<ProbeSpec> {
    PerDomain::from_fn(|domain| ProbeSpec {
        issuer: cluster.issuers[domain].clone(),
        owner: cluster.owner.clone(),
        leaf: issuer_probe(&cluster.names, spec, domain, cluster.lifetimes[domain].leaf),
    })
}

/// The leaf of a client of this cluster.
fn client(cluster: &ValidatedCluster, common_name: &str) -> LeafSpec {
    LeafSpec {
        common_name: common_name.into(),
        dns_names: BTreeSet::new(),
        ip_addresses: BTreeSet::new(),
        optional: BTreeSet::new(),
        usage: Usage::Client,
        duration: cluster.lifetimes.client.leaf,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_in_extra_sans_are_not_optional() {
        let names = Names::new("demo", "ns", "cluster.local");
        let optional = |extra: &str| {
            let spec = format!("{{tls: {{client: {{extraSANs: {extra}}}}}}}");
            let spec: EtcdClusterSpec = serde_saphyr::from_str(&spec).unwrap();
            let leaf = issuer_probe(&names, &spec, Domain::Client, SignedDuration::from_hours(1));
            assert!(leaf.dns_names.contains(LOCALHOST) && LOOPBACK.iter().all(|address| leaf.ip_addresses.contains(address)));
            leaf.optional.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(optional("{dnsNames: [etcd.example.com], ipAddresses: ['127.0.0.2']}"), "127.0.0.1 ::1 localhost");
        assert_eq!(optional("{dnsNames: [localhost]}"), "127.0.0.1 ::1");
        assert_eq!(optional("{dnsNames: [localhost], ipAddresses: ['127.0.0.1', '0:0:0:0:0:0:0:1']}"), "");
    }
}
