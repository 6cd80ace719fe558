//! Answers of issuers, and the names of requests.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use time::OffsetDateTime;

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

/// What an authority signs if it is asked for [`spec`] with this key, and lets it begin and end at these times.
fn dated(by: &Authority, key: &PrivateKey, begin: Timestamp, end: Timestamp) -> Certificate {
    let mut asked = CertificateSigningRequestParams::from_pem(&spec().request(key).unwrap()).unwrap();
    let date = |at: Timestamp| OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
    let params = &mut asked.params;
    (params.not_before, params.not_after) = (date(begin), date(end));
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let own = KeyPair::from_pem(std::str::from_utf8(by.key_pem()).unwrap()).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(&by.certificate().der().into(), own).unwrap();
    Certificate::from_der(asked.signed_by(&issuer).unwrap().der()).unwrap()
}

#[test]
fn a_certificate_may_begin_before_it_was_requested_but_not_end_later_than_was_desired() {
    let (issuer, key, desired) = (authority("pki"), PrivateKey::generate().unwrap(), spec().duration);
    let too_long = format!("the certificate that it signed {}", ReissueReason::TooLong);
    // AWS Private CA lets certificates begin an hour earlier, others at midnight.
    for back in
        [SignedDuration::ZERO, SignedDuration::from_mins(60), SignedDuration::from_hours(24), SignedDuration::from_hours(72)]
    {
        for (longer, is_accepted) in [(SignedDuration::ZERO, true), (SignedDuration::from_mins(7), false)] {
            let leaf = dated(&issuer, &key, now() - back, now() + desired + longer);
            let answer = answer(&leaf, issuer.certificate());
            let checked = check_leaf(&answer, &key, &spec(), issuer.certificate(), now()).map(drop);
            let expected = if is_accepted { Ok(()) } else { Err(Invalid::Leaf(too_long.clone())) };
            assert_eq!(checked, expected, "{back} {longer}");
            // It is renewed as if it began when it was signed, and never issued again before.
            let due = now() + desired * 2 / 3;
            for (at, reason) in [
                (now() + SignedDuration::from_hours(1), None),
                (due - SignedDuration::from_mins(5), None),
                (due, Some(ReissueReason::Due)),
            ] {
                let digest = Some(key.public_digest());
                let why =
                    reissue_reason(Some(Ok(&leaf)), digest, &spec(), issuer.certificate(), true, RenewalJitter::default(), at);
                assert!(!is_accepted || why == reason, "{back}: {why:?} at {at}");
            }
            let probed = check_probe(&answer, Domain::Client, &spec(), now()).map(drop);
            assert_eq!(probed, if is_accepted { Ok(()) } else { Err(too_long.clone()) }, "{back} {longer}");
        }
    }
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

/// An authority as another program makes it, valid now, with its key.
fn foreign(change: impl FnOnce(&mut CertificateParams)) -> (Certificate, KeyPair) {
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    let at = OffsetDateTime::from_unix_timestamp(now().as_second()).unwrap();
    (params.not_before, params.not_after) = (at - time::Duration::days(1), at + time::Duration::days(3650));
    params.distinguished_name.push(DnType::CommonName, "company");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    (Certificate::from_der(params.self_signed(&key).unwrap().der()).unwrap(), key)
}

/// What such an authority signs if it is asked for [`spec`]. It does not check whether anyone accepts it.
fn signed_by((authority, key): &(Certificate, KeyPair)) -> Certificate {
    let mut params = CertificateParams::new(["demo.ns.svc", "localhost", "127.0.0.1"].map(str::to_owned)).unwrap();
    let at = OffsetDateTime::from_unix_timestamp(now().as_second()).unwrap();
    (params.not_before, params.not_after) = (at, at + time::Duration::days(30));
    params.distinguished_name.push(DnType::CommonName, spec().common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let issuer = rcgen::Issuer::from_ca_cert_der(&authority.der().into(), key).unwrap();
    let signed = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    Certificate::from_der(signed.der()).unwrap()
}

#[test]
fn the_authority_of_an_issuer_is_judged_before_it_is_trusted() {
    let check =
        |by: &(Certificate, KeyPair), domain| check_probe(&answer(&signed_by(by), &by.0), domain, &spec(), now()).map(drop);
    let servers_only = foreign(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let unknown = foreign(|params| {
        let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4, 5], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    });
    for domain in Domain::ALL {
        assert_eq!(check(&foreign(|_| {}), domain), Ok(()), "{domain}");
        for (authority, why) in [
            (&servers_only, "has an extendedKeyUsage without clientAuth"),
            (&unknown, "has the critical extension 1.2.3.4.5, which they do not know"),
        ] {
            let said = check(authority, domain).unwrap_err();
            let expected = format!("etcd and clients in Go would refuse it: \"company\" {why}");
            assert!(said.starts_with(&expected) && said.contains("have it issued"), "{domain}: {said}");
        }
    }
}

fn company(name: &str) -> Issuer {
    Issuer::CertManager { name: name.into(), kind: "Issuer".into(), group: "cert-manager.io".into() }
}

fn owner(uid: &str) -> OwnerReference {
    let (api_version, kind) = ("etcd-warden.dev/v1alpha1".into(), "EtcdCluster".into());
    let (name, uid) = ("demo".into(), uid.into());
    OwnerReference { api_version, kind, name, uid, controller: Some(true), block_owner_deletion: None }
}

/// A request for a leaf with this private key.
fn own_request(key: &PrivateKey) -> CertificateRequest {
    let spec = CertificateRequestSpec {
        request: ByteString(spec().request(key).unwrap().into_bytes()),
        issuer_ref: IssuerRef { name: "pki".into(), kind: "Issuer".into(), group: "cert-manager.io".into() },
        duration: None,
        usages: ["digital signature", "server auth", "client auth"].map(str::to_owned).into(),
    };
    let metadata = ObjectMeta { name: Some("one".into()), owner_references: Some(vec![owner("ours")]), ..ObjectMeta::default() };
    CertificateRequest { metadata, spec, status: None }
}

#[test]
fn a_request_is_ours_only_if_owner_issuer_usages_and_key_are() {
    let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    // What the key of a probe is, is not known later.
    let for_leaf = |request: &CertificateRequest, key: &PrivateKey| {
        request.check_own(&owner("ours"), &company("pki"), Usage::Both, Some(key.public_digest()))
    };
    let for_probe = |request: &CertificateRequest| request.check_own(&owner("ours"), &company("pki"), Usage::Both, None);
    let foreign = |why: &str| Err(format!("CertificateRequest one cannot be used: {why}. Delete it"));
    let text = |result: Result<(), WriteError>| result.map_err(|error| error.to_string());

    let ours = own_request(&key);
    assert_eq!((text(for_leaf(&ours, &key)), text(for_probe(&ours))), (Ok(()), Ok(())));
    // A request that the operator has created with this key is replaced if it is for another issuer or other usages.
    let outdated = |request: &CertificateRequest, key: &PrivateKey| {
        let why = request.why_outdated(&owner("ours"), &company("pki"), Usage::Both, key.public_digest());
        why.map_err(|error| error.to_string())
    };
    assert_eq!(outdated(&ours, &key), Ok(None));

    let change = |change: fn(&mut CertificateRequest)| {
        let mut request = ours.clone();
        change(&mut request);
        request
    };
    let uncontrolled =
        |request: &mut CertificateRequest| request.metadata.owner_references.as_mut().unwrap()[0].controller = None;
    let theirs = "it belongs to EtcdCluster demo (uid theirs)";
    for (request, why) in [
        (change(|request| request.metadata.owner_references = None), "it was not created by etcd-warden"),
        (change(|request| request.metadata.owner_references = Some(vec![owner("theirs")])), theirs),
        (change(uncontrolled), "it belongs to EtcdCluster demo (uid ours)"),
        (
            change(|request| request.spec.issuer_ref.name = "other".into()),
            "it requests a certificate from Issuer.cert-manager.io other instead of Issuer pki",
        ),
        (
            change(|request| request.spec.issuer_ref.kind = "ClusterIssuer".into()),
            "it requests a certificate from ClusterIssuer.cert-manager.io pki instead of Issuer pki",
        ),
        (
            change(|request| request.spec.issuer_ref.group = "example.com".into()),
            "it requests a certificate from Issuer.example.com pki instead of Issuer pki",
        ),
        (change(|request| drop(request.spec.usages.pop())), "it requests the usages digital signature, server auth"),
        (
            change(|request| request.spec.usages.push("code signing".into())),
            "it requests the usages digital signature, server auth, client auth, code signing",
        ),
    ] {
        assert_eq!(text(for_leaf(&request, &key)), foreign(why));
        assert_eq!(text(for_probe(&request)), foreign(why));
        let is_ours = why.starts_with("it requests");
        assert_eq!(outdated(&request, &key), if is_ours { Ok(Some(why.to_owned())) } else { foreign(why).map(|()| None) });
        assert!(outdated(&request, &other).is_err(), "it is for another private key");
    }

    let for_another_key = "it requests a certificate for another private key";
    assert_eq!(text(for_leaf(&ours, &other)), foreign(for_another_key));
    assert_eq!(outdated(&ours, &other), foreign(for_another_key).map(|()| None));
    for unreadable in [b"".to_vec(), b"no request".to_vec()] {
        let mut request = ours.clone();
        request.spec.request = ByteString(unreadable);
        assert_eq!(text(for_leaf(&request, &key)), foreign(for_another_key));
    }
    // An issuer that is not cert-manager's requests nothing.
    assert!(ours.check_own(&owner("ours"), &Issuer::BuiltIn, Usage::Both, None).is_err());
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
