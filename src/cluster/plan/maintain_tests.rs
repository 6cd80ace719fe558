//! The certificates of clusters with an invalid spec.

use crate::{
    api::{CaSecret, ConditionType, Duration, EtcdCluster, condition},
    cluster::{
        fixtures::Fixture,
        plan::{
            rotation::tests::advance_time,
            tests::{ONE, annotate, days, with_user},
        },
        steps::Revoke,
    },
    names::{annotation as key, authority_key, member_key},
    pki::{Certificate, Domain, Holder},
};

/// Makes the spec of a cluster one that an older version may have accepted.
fn spoil(cluster: &mut EtcdCluster) {
    let spec = &mut cluster.spec;
    spec.replicas = 12;
    spec.version = "v3".into();
    spec.storage.size.0 = "much".into();
    spec.tls.client.extra_sans.dns_names = vec!["Not A Name".into()];
    spec.tls.client.certificate.duration = Duration("5m".into());
    spec.etcd.extra_args.insert("--name".into(), "mine".into());
}

fn server(fixture: &mut Fixture, ordinal: u32) -> Certificate {
    fixture
        .member(ordinal)
        .secret
        .as_ref()
        .unwrap()
        .certificate(member_key::SERVER_CRT)
        .unwrap()
        .map(|leaf| Certificate::clone(&leaf))
        .unwrap()
}

#[test]
fn the_certificates_of_a_cluster_with_an_invalid_spec_are_renewed_for_years_and_nothing_else_is_changed() {
    let names = "extraSANs: { dnsNames: [etcd.example.com], ipAddresses: [192.0.2.1] }";
    let mut fixture = Fixture::bootstrapped(&format!("{{ replicas: 3, tls: {{ client: {{ {names} }} }} }}"));
    fixture.taken.clear();
    let sets = |fixture: &Fixture| -> Vec<_> {
        fixture.observed.members.values().map(|member| member.stateful_set.as_ref().map(|set| set.spec.clone())).collect()
    };
    let pods = |fixture: &Fixture| -> Vec<_> {
        fixture.observed.members.values().map(|member| member.pod.as_ref().unwrap().metadata.uid.clone()).collect()
    };
    let (first, before) = (server(&mut fixture, 0), (sets(&fixture), pods(&fixture)));
    spoil(&mut fixture.cluster);
    for (request, value) in [(key::RESTARTED_AT, "now"), (key::REPLACE, "demo-1"), (key::ROTATE_CA, "client")] {
        annotate(&mut fixture, request, value);
    }
    fixture.settle();
    assert_eq!(server(&mut fixture, 0), first, "it is not due");
    let report = fixture.report();
    let says = |kind| condition(&report.status.conditions, kind).map(|it| (it.status.as_str(), it.reason.as_str())).unwrap();
    assert_eq!(says(ConditionType::Degraded), ("True", "InvalidSpec"));
    assert_eq!(says(ConditionType::Progressing), ("False", "InvalidSpec"));
    assert_eq!(says(ConditionType::CertificatesReady), ("True", "CertificatesServed"));
    assert_eq!(says(ConditionType::Available), ("True", "QuorumHealthy"));
    let degraded = &condition(&report.status.conditions, ConditionType::Degraded).unwrap().message;
    assert!(degraded.contains("spec.replicas is 12") && degraded.contains("certificates are still issued"), "{degraded}");

    advance_time(&mut fixture, days(3 * 365), &[], &[]);
    assert_eq!(fixture.taken, ["SwitchCA", "SwitchCA"], "one for each domain, on schedule");
    assert_eq!((sets(&fixture), pods(&fixture)), before);
    for ordinal in 0..3 {
        let leaf = server(&mut fixture, ordinal);
        assert!(leaf.not_before() > first.not_after() && leaf.not_after() > fixture.now);
        assert_eq!((leaf.dns_names().contains("etcd.example.com"), leaf.dns_names().contains("Not A Name")), (true, false));
        assert!(leaf.ip_addresses().contains(&"192.0.2.1".parse().unwrap()));
    }
    assert_eq!(fixture.observed.members.len(), 3);
}

#[test]
fn users_of_a_cluster_with_an_invalid_spec_are_revoked() {
    let mut fixture = with_user("u1");
    spoil(&mut fixture.cluster);
    fixture.observed.users = [("u1".into(), "app".into())].into();
    assert!(fixture.is_idle(), "the user exists");
    fixture.observed.users.clear();
    let holders = vec![Holder::User { name: "app".into(), uid: "u1".into() }];
    assert_eq!(fixture.pass().changes().step, Some(Revoke { domain: Domain::Client, holders, pending: vec![] }.into()));
    fixture.settle();
    assert!(!fixture.member(0).secret.as_ref().unwrap().data[member_key::CLIENT_CRL].is_empty());
}

#[test]
fn the_issuer_of_a_cluster_with_an_invalid_spec_stays_the_same() {
    let mut fixture = Fixture::bootstrapped(ONE);
    let other = || Some(CaSecret { name: "other".into() });
    let tls = &mut fixture.cluster.spec.tls;
    (tls.client.issuer.ca_secret, tls.peer.issuer.ca_secret) = (other(), other());
    advance_time(&mut fixture, days(365), &[], &[]);
    let first = server(&mut fixture, 0);
    assert!(first.not_after() > fixture.now);
    for domain in Domain::ALL {
        let secret = fixture.observed.authorities[domain].as_ref().unwrap();
        assert!(!secret.data.contains_key(authority_key::ROTATION), "{domain}");
    }
}

#[test]
fn nothing_is_created_for_a_new_cluster_with_an_invalid_spec() {
    let mut fixture = Fixture::bootstrapped(ONE);
    spoil(&mut fixture.cluster);
    fixture.observed.authorities.peer = None;
    fixture.member(0).secret = None;
    let changes = fixture.changes();
    assert!(changes.authorities.is_empty() && changes.stateful_sets.is_empty() && changes.bootstrap.is_none());
    assert!(changes.secrets.iter().all(|change| change.name != "demo-0-tls"), "{:?}", changes.secrets);
}
