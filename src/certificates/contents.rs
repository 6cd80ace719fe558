//! The contents of leaf certificates: names, usages and lifetimes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::SignedDuration;

use crate::{
    names::{LOCALHOST, MemberName, Names, common_name},
    pki::{LeafSpec, Usage},
};

/// The addresses that every server certificate is valid for.
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The leaf that a member presents on the port for clients, with the additional names and addresses of the spec.
pub fn server(
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

/// The leaf that a member presents to the other members, as a server and as a client.
pub fn peer(names: &Names, member: &MemberName, duration: SignedDuration) -> LeafSpec {
    LeafSpec {
        common_name: common_name::PEER.into(),
        dns_names: names.peer_sans(member).into_iter().collect(),
        ip_addresses: BTreeSet::new(),
        optional: BTreeSet::new(),
        usage: Usage::Both,
        duration,
    }
}

/// The leaf of a client.
pub fn client(common_name: impl Into<String>, duration: SignedDuration) -> LeafSpec {
    LeafSpec {
        common_name: common_name.into(),
        dns_names: BTreeSet::new(),
        ip_addresses: BTreeSet::new(),
        optional: BTreeSet::new(),
        usage: Usage::Client,
        duration,
    }
}
