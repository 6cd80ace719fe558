//! Answers of issuers, and the names of requests.

use super::*;
use crate::{
    names::common_name,
    pki::{Authority, bundle},
};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn spec() -> LeafSpec {
    LeafSpec {
        common_name: common_name::ISSUER_PROBE.into(),
        dns_names: ["demo.ns.svc".to_owned(), "localhost".to_owned()].into(),
        ip_addresses: [[127, 0, 0, 1].into()].into(),
        optional: [].into(),
        usage: Usage::Both,
        duration: SignedDuration::from_hours(2160),
    }
}

fn authority(name: &str) -> Authority {
    Authority::create(name, SignedDuration::from_hours(50_000), now()).unwrap()
}

fn answer(leaf: &Certificate, ca: &Certificate) -> SignedAnswer {
    SignedAnswer { certificates: bundle([leaf]).into_bytes(), ca: bundle([ca]).into_bytes() }
}

/// A request with this status.
fn request(conditions: &str, more: &str) -> CertificateRequest {
    let text = format!(
        "{{apiVersion: cert-manager.io/v1, kind: CertificateRequest, metadata: {{name: one, creationTimestamp: '2026-03-01T12:00:00Z'}}, \
         spec: {{request: '', issuerRef: {{name: pki}}}}, status: {{conditions: [{conditions}]{more}}}}}"
    );
    serde_saphyr::from_str(&text).unwrap()
}

#[test]
fn certificates_that_differ_from_the_request_are_refused() {
    let (active, other) = (authority("active"), authority("other"));
    let check = |by: &Authority, signed: &LeafSpec| {
        let leaf = by.issue(signed, now()).unwrap();
        check_leaf(&answer(&leaf.certificate, by.certificate()), &leaf.key, &spec(), active.certificate(), now()).map(drop)
    };
    assert_eq!(check(&active, &spec()), Ok(()));
    // A shorter lifetime is accepted; the certificate is renewed sooner.
    assert_eq!(check(&active, &LeafSpec { duration: SignedDuration::from_hours(24), ..spec() }), Ok(()));
    assert_eq!(check(&other, &spec()), Err(Invalid::Authority("other".into())));
    for (signed, reason) in [
        (LeafSpec { dns_names: [].into(), ..spec() }, ReissueReason::Names),
        (LeafSpec { ip_addresses: [].into(), ..spec() }, ReissueReason::Names),
        (
            LeafSpec { usage: Usage::Client, ..spec() },
            ReissueReason::Usage("server auth and client auth were requested, client auth was given".into()),
        ),
        (LeafSpec { common_name: "else".into(), ..spec() }, ReissueReason::CommonName),
        (LeafSpec { duration: SignedDuration::from_hours(8760), ..spec() }, ReissueReason::TooLong),
    ] {
        assert_eq!(check(&active, &signed), Err(Invalid::Leaf(format!("the certificate that it signed {reason}"))));
    }
    let leaf = active.issue(&spec(), now()).unwrap();
    let signed = answer(&leaf.certificate, active.certificate());
    let unknown = PrivateKey::generate().unwrap();
    let checked = check_leaf(&signed, &unknown, &spec(), active.certificate(), now());
    let Err(Invalid::Leaf(problem)) = checked else { panic!() };
    assert!(problem.contains(&ReissueReason::KeyDoesNotFit.to_string()), "{problem}");
    let nothing = check_leaf(&SignedAnswer::default(), &leaf.key, &spec(), active.certificate(), now());
    let Err(Invalid::Leaf(_)) = nothing else { panic!() };
}

#[test]
fn states_of_requests_are_read() {
    let state = |conditions: &str, more: &str| match request(conditions, more).state() {
        RequestState::Signed(SignedAnswer { certificates, ca }) => {
            format!("signed {} {}", String::from_utf8(certificates).unwrap(), String::from_utf8(ca).unwrap())
        }
        RequestState::Pending(why) => format!("pending {why}"),
        RequestState::Refused(why) => format!("refused {why}"),
    };
    assert!(state("", "").starts_with("pending no controller has processed CertificateRequest one since 2026-03-01T12:00:00Z"));
    let pending = "{type: Ready, status: 'False', reason: Pending, message: there is no issuer}";
    assert!(state(pending, "").contains("is pending since 2026-03-01T12:00:00Z: there is no issuer"));
    let approved = "{type: Approved, status: 'True', reason: any, message: any}";
    let ready = "{type: Ready, status: 'True', reason: Issued, message: any}";
    assert_eq!(state(&format!("{approved}, {ready}"), ", certificate: bGVhZg==, ca: Y2E="), "signed leaf ca");
    for refused in [
        "{type: Denied, status: 'True', reason: any, message: not here}",
        "{type: InvalidRequest, status: 'True', reason: any, message: not here}",
        "{type: Ready, status: 'False', reason: Failed, message: not here}",
        "{type: Ready, status: 'False', reason: Denied, message: not here}",
    ] {
        assert_eq!(state(refused, ""), "refused it refused CertificateRequest one: not here", "{refused}");
    }
    assert!(!request("", "").is_old(now() + RETRY / 2));
    assert!(request("", "").is_old(now() + RETRY));
}

#[test]
fn a_probe_reveals_the_authority() {
    let (issuer, leaf_spec) = (authority("issuer"), spec());
    let leaf = issuer.issue(&leaf_spec, now()).unwrap();
    let external = check_probe(&answer(&leaf.certificate, issuer.certificate()), Domain::Client, &leaf_spec, now()).unwrap();
    assert_eq!(external.authority, *issuer.certificate());
    // cert-manager's self-signed issuer answers with the leaf as its own authority.
    assert!(check_probe(&answer(&leaf.certificate, &leaf.certificate), Domain::Client, &leaf_spec, now()).is_err());
}

#[test]
fn names_are_short_enough_and_never_change() {
    let cert_manager = Issuer::CertManager { name: "pki".into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    assert_eq!(issuer_text(&cert_manager), "CertManager { name: \"pki\", kind: \"Issuer\", group: \"cert-manager.io\" }");
    let names = Names::new("demo", "ns", "cluster.local");
    assert_eq!(probe_name(&names, Domain::Client, &cert_manager), "demo-client-ca-authority-f7f1d976");
    let ca_secret = Issuer::CaSecret { name: "pki".into() };
    assert_eq!(probe_name(&names, Domain::Peer, &ca_secret), "demo-peer-ca-authority-15ad122e");
    assert_eq!(probe_name(&names, Domain::Peer, &Issuer::BuiltIn), "demo-peer-ca-authority-4b3b37ab");
    let names = Names::new(&"n".repeat(49), "ns", "cluster.local");
    let key = PrivateKey::generate().unwrap();
    // Kubernetes allows longer ones, but cert-manager makes labels of names.
    assert!(
        probe_name(&names, Domain::Client, &cert_manager).len() <= 253 && request_name(&names, Domain::Client, &key).len() <= 253
    );
}
