//! Probes: certificates that are requested from an external issuer only to learn its authority.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{contents, lifetimes::Lifetimes};
use crate::{
    api::EtcdClusterSpec,
    names::{Names, common_name},
    pki::{Domain, Issuer, LeafSpec, PerDomain},
};

/// A request that reveals the authority of an issuer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSpec {
    /// The issuer.
    pub issuer: Issuer,
    /// The cluster, which owns the request.
    pub owner: OwnerReference,
    /// The certificate, which will not be used.
    pub leaf: LeafSpec,
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
            contents::server(names, &member, &extra_names, &extra_addresses, lifetime)
        }
        Domain::Peer => contents::peer(names, &member, lifetime),
    };
    LeafSpec { common_name: common_name::ISSUER_PROBE.into(), ..leaf }
}

/// With which leaves these issuers of a cluster are probed.
pub fn issuer_probes(
    names: &Names,
    owner: &OwnerReference,
    spec: &EtcdClusterSpec,
    issuers: &PerDomain<Issuer>,
    lifetimes: &PerDomain<Lifetimes>,
) -> PerDomain<ProbeSpec> {
    PerDomain::from_fn(|domain| ProbeSpec {
        issuer: issuers[domain].clone(),
        owner: owner.clone(),
        leaf: issuer_probe(names, spec, domain, lifetimes[domain].leaf),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{certificates::contents::LOOPBACK, names::LOCALHOST};

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
