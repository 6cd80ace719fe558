//! Certificates, keys and revocation lists, checked with a path validator and the openssl command.

#![allow(clippy::unwrap_used, clippy::unwrap_in_result, clippy::panic, reason = "a panic is how a test fails")]

use std::{collections::BTreeSet, fs, path::Path, process::Command, time::Duration};

use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, RevokedCertificate, X509Certificate};

use super::*;

const YEARS: SignedDuration = SignedDuration::from_hours(43_800);
const QUARTER: SignedDuration = SignedDuration::from_hours(2160);
const SECOND: SignedDuration = SignedDuration::from_secs(1);
const HOST: &str = "demo-0-0.demo-peers.ns.svc";

fn now() -> Timestamp {
    "2026-03-01T12:00:00.75Z".parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn authority(name: &str) -> Authority {
    Authority::create(name, YEARS, now()).unwrap()
}

pub(super) fn spec() -> LeafSpec {
    LeafSpec {
        common_name: "etcd-warden:peer".into(),
        dns_names: [HOST, "demo-peers.ns.svc"].map(str::to_owned).into(),
        ip_addresses: ["127.0.0.1", "::1"].map(|address| address.parse().unwrap()).into(),
        optional: BTreeSet::new(),
        usage: Usage::Both,
        duration: QUARTER,
    }
}

fn why(leaf: &Leaf, spec: &LeafSpec, issuer: &Authority, now: Timestamp) -> Option<ReissueReason> {
    reissue_reason(
        Some(Ok(&leaf.certificate)),
        Some(leaf.key.public_digest()),
        spec,
        issuer.certificate(),
        RenewalJitter::default(),
        now,
    )
}

/// Path validation as by a TLS server for clients, or by a client for servers.
fn verify(leaf: &Certificate, bundle: &str, usage: webpki::KeyUsage, at: Timestamp) -> Result<(), webpki::Error> {
    let authorities = read_bundle(bundle.as_bytes()).unwrap();
    let trusted: Vec<CertificateDer> = authorities.iter().map(|authority| authority.der().into()).collect();
    let anchors: Vec<_> = trusted.iter().map(|der| webpki::anchor_from_trusted_cert(der).unwrap()).collect();
    let der = leaf.der().into();
    let leaf = webpki::EndEntityCert::try_from(&der)?;
    let at = UnixTime::since_unix_epoch(Duration::from_secs(at.as_second().try_into().unwrap()));
    leaf.verify_for_usage(&[webpki::ring::ECDSA_P256_SHA256], &anchors, &[], at, usage, None, None).map(drop)
}

/// Runs openssl. Returns whether it succeeded, and its output.
pub(super) fn openssl(dir: &Path, arguments: &str) -> (bool, String) {
    let result = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    let output = String::from_utf8_lossy(&result.stdout).into_owned() + &String::from_utf8_lossy(&result.stderr);
    (result.status.success(), output)
}

#[test]
fn leaves_verify_against_their_own_bundle_only() {
    let (client, next, peer) = (authority("client 1"), authority("client 2"), authority("peer 1"));
    let bundles = (bundle([client.certificate(), next.certificate()]), bundle([peer.certificate()]));
    for (usage, server, both) in [(Usage::Server, true, false), (Usage::Client, false, false), (Usage::Both, true, true)] {
        for issuer in [&client, &next] {
            let leaf = issuer.issue(&LeafSpec { usage, ..spec() }, now()).unwrap().certificate;
            assert_eq!((leaf.server_auth(), leaf.client_auth()), (server || both, !server || both));
            for (purpose, good) in
                [(webpki::KeyUsage::server_auth(), leaf.server_auth()), (webpki::KeyUsage::client_auth(), leaf.client_auth())]
            {
                assert_eq!(verify(&leaf, &bundles.0, purpose, now()).is_ok(), good, "{usage:?}");
                let refused = verify(&leaf, &bundles.1, purpose, now()).err();
                assert_eq!(refused == Some(webpki::Error::UnknownIssuer), good, "{usage:?}: {refused:?}");
                assert!(refused.is_some(), "{usage:?}");
            }
        }
    }
    let leaf = client.issue(&spec(), now()).unwrap().certificate;
    assert!(leaf.is_signed_by(client.certificate()));
    assert!(!leaf.is_signed_by(next.certificate()) && !leaf.is_signed_by(peer.certificate()));
    let (der, name) = (leaf.der().into(), |name: &'static str| ServerName::try_from(name).unwrap());
    let entity = webpki::EndEntityCert::try_from(&der).unwrap();
    for good in [HOST, "demo-peers.ns.svc", "127.0.0.1", "::1"] {
        assert!(entity.verify_is_valid_for_subject_name(&name(good)).is_ok(), "{good}");
    }
    assert!(entity.verify_is_valid_for_subject_name(&name("demo-1-0.demo-peers.ns.svc")).is_err());
    // It is valid from 5 minutes before its creation to its last second.
    for (moment, good) in [
        (leaf.not_before() - SECOND, false),
        (leaf.not_before(), true),
        (leaf.not_after(), true),
        (leaf.not_after() + SECOND, false),
    ] {
        assert_eq!(verify(&leaf, &bundles.0, webpki::KeyUsage::server_auth(), moment).is_ok(), good, "{moment}");
    }
}

#[test]
fn an_authority_with_the_same_name_is_another_one() {
    let (one, other) = (authority("same"), authority("same"));
    let leaf = one.issue(&spec(), now()).unwrap();
    assert!(!leaf.certificate.is_signed_by(other.certificate()));
    assert_eq!(why(&leaf, &spec(), &other, now()), Some(ReissueReason::WrongIssuer));
    // The right issuer name and key identifier are not enough: here the signature, which is at the end, is invalid.
    let mut forged = leaf.certificate.der().to_vec();
    *forged.last_mut().unwrap() ^= 1;
    assert!(!Certificate::from_der(&forged).unwrap().is_signed_by(one.certificate()));
}

#[test]
fn authorities_have_the_expected_extensions_and_can_be_loaded() {
    let created = authority("demo client 1");
    let certificate = created.certificate();
    assert!(certificate.is_ca() && certificate.subject_key_id().is_some_and(|id| id.len() == 20));
    assert_eq!((certificate.common_name(), certificate.not_before()), ("demo client 1", at("2026-03-01T11:55:00Z")));
    assert_eq!(certificate.not_after(), at("2031-02-28T12:00:00Z"));
    let (_, read) = X509Certificate::from_der(certificate.der()).unwrap();
    let constraints = read.basic_constraints().unwrap().unwrap();
    assert_eq!((constraints.critical, constraints.value.ca, constraints.value.path_len_constraint), (true, true, Some(0)));
    let usage = read.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign() && usage.value.digital_signature());

    let loaded = Authority::load(certificate.pem().as_bytes(), created.key_pem()).unwrap();
    assert_eq!((loaded.certificate(), loaded.key_pem()), (certificate, created.key_pem()));
    assert!(loaded.issue(&spec(), now()).unwrap().certificate.is_signed_by(certificate));

    let pem = certificate.pem().as_bytes();
    let other = authority("other");
    assert_eq!(Authority::load(pem, other.key_pem()).err(), Some(PkiError::KeyDoesNotFit));
    assert_eq!(Authority::load(pem, b"").err(), Some(PkiError::Count { expected: "PRIVATE KEY", found: 0 }));
    assert_eq!(Authority::load(created.key_pem(), pem).err(), Some(label("PRIVATE KEY")));
    let leaf = created.issue(&spec(), now()).unwrap();
    let refused = Authority::load(leaf.certificate.pem().as_bytes(), leaf.key.pem()).err();
    assert!(matches!(refused, Some(PkiError::NotAuthority(_))), "{refused:?}");
}

#[test]
fn leaves_have_the_specified_contents() {
    let issuer = authority("demo peer 1");
    let leaf = issuer.issue(&spec(), now()).unwrap();
    let certificate = &leaf.certificate;
    assert_eq!((certificate.dns_names(), certificate.ip_addresses()), (&spec().dns_names, &spec().ip_addresses));
    assert_eq!(certificate.common_name(), "etcd-warden:peer");
    assert_eq!((certificate.is_ca(), certificate.key_digest()), (false, leaf.key.public_digest()));
    assert_eq!(certificate.authority_key_id(), issuer.certificate().subject_key_id());
    assert!(certificate.subject_key_id().is_some());
    assert_eq!((certificate.not_before(), certificate.not_after()), (at("2026-03-01T11:55:00Z"), at("2026-05-30T12:00:00Z")));
    assert_eq!(certificate.renew_at(), at("2026-04-30T11:58:20Z"));
    let (_, read) = X509Certificate::from_der(certificate.der()).unwrap();
    let usage = read.key_usage().unwrap().unwrap();
    assert_eq!((usage.critical, usage.value.flags), (true, 1));
    assert_eq!(Certificate::from_pem(certificate.pem().as_bytes()).as_ref(), Ok(certificate));
    // A client certificate has no names.
    let client = LeafSpec { dns_names: BTreeSet::new(), ip_addresses: BTreeSet::new(), usage: Usage::Client, ..spec() };
    let leaf = issuer.issue(&client, now()).unwrap();
    assert_eq!(why(&leaf, &client, &issuer, now()), None);

    for (broken, error) in [
        (LeafSpec { common_name: String::new(), ..spec() }, PkiError::Name(String::new())),
        (LeafSpec { dns_names: ["é".to_owned()].into(), ..spec() }, PkiError::Name("é".into())),
        (LeafSpec { duration: SignedDuration::ZERO, ..spec() }, PkiError::Lifetime),
        (LeafSpec { duration: SignedDuration::MAX, ..spec() }, PkiError::Lifetime),
    ] {
        assert_eq!(issuer.issue(&broken, now()).err(), Some(error));
    }
}

#[test]
fn no_leaf_is_valid_outside_of_its_authority() {
    let issuer = authority("demo peer 1");
    let (begin, end) = (issuer.certificate().not_before(), issuer.certificate().not_after());
    for (moment, not_before, not_after) in [
        (begin, begin, begin + QUARTER),
        (begin + BACKDATING - SECOND, begin, begin + BACKDATING - SECOND + QUARTER),
        (begin + BACKDATING + SECOND, begin + SECOND, begin + BACKDATING + SECOND + QUARTER),
        (end - QUARTER - SECOND, end - QUARTER - SECOND - BACKDATING, end - SECOND),
        (end - QUARTER, end - QUARTER - BACKDATING, end),
        (end - QUARTER + SECOND, end - QUARTER + SECOND - BACKDATING, end),
        (end - SECOND, end - SECOND - BACKDATING, end),
    ] {
        let leaf = issuer.issue(&spec(), moment).unwrap().certificate;
        assert_eq!((leaf.not_before(), leaf.not_after()), (not_before, not_after), "{moment}");
    }
    for moment in [begin - SECOND, end, end + SECOND] {
        let refused = Some(PkiError::AuthorityNotValid { not_before: begin, not_after: end });
        assert_eq!(issuer.issue(&spec(), moment).err(), refused);
        assert_eq!(issuer.sign_crl([], moment).err(), refused);
    }
}

#[test]
fn reissue_reasons_are_found() {
    let (issuer, desired) = (authority("demo peer 1"), spec());
    let leaf = issuer.issue(&desired, now()).unwrap();
    let (certificate, key) = (&leaf.certificate, Some(leaf.key.public_digest()));
    let ca = issuer.certificate();
    assert_eq!(why(&leaf, &desired, &issuer, now()), None);
    assert_eq!(reissue_reason(None, key, &desired, ca, RenewalJitter::default(), now()), Some(ReissueReason::Missing));
    let error = PkiError::Pem("it is not text");
    assert_eq!(
        reissue_reason(Some(Err(&error)), key, &desired, ca, RenewalJitter::default(), now()),
        Some(ReissueReason::Unreadable(error.to_string()))
    );
    let other = PrivateKey::generate().unwrap().public_digest();
    for key in [None, Some(other)] {
        assert_eq!(
            reissue_reason(Some(Ok(certificate)), key, &desired, ca, RenewalJitter::default(), now()),
            Some(ReissueReason::KeyDoesNotFit)
        );
    }
    assert_eq!(why(&leaf, &desired, &authority("demo peer 2"), now()), Some(ReissueReason::WrongIssuer));
    let hours = SignedDuration::from_hours;
    let other_use = || ReissueReason::Usage("client auth was requested, server auth and client auth were given".into());
    for (changed, reason) in [
        (LeafSpec { dns_names: [HOST.to_owned()].into(), ..spec() }, Some(ReissueReason::Names)),
        (LeafSpec { ip_addresses: BTreeSet::new(), ..spec() }, Some(ReissueReason::Names)),
        (LeafSpec { usage: Usage::Client, ..spec() }, Some(other_use())),
        (LeafSpec { common_name: "other".into(), ..spec() }, Some(ReissueReason::CommonName)),
        (LeafSpec { duration: hours(2159), ..spec() }, Some(ReissueReason::TooLong)),
        (LeafSpec { duration: hours(4320), ..spec() }, None),
        // The most urgent reason is returned.
        (LeafSpec { usage: Usage::Client, duration: hours(1), ..spec() }, Some(other_use())),
    ] {
        assert_eq!(why(&leaf, &changed, &issuer, now()), reason, "{changed:?}");
    }
    let (begin, due, end) = (certificate.not_before(), certificate.renew_at(), certificate.not_after());
    let nanosecond = SignedDuration::from_nanos(1);
    for (moment, reason) in [
        (begin - SECOND, Some(ReissueReason::Expired)),
        (begin, None),
        (due - SECOND, None),
        (due - nanosecond, None),
        (due, Some(ReissueReason::Due)),
        (end, Some(ReissueReason::Due)),
        (end + nanosecond, Some(ReissueReason::Expired)),
        (end + SECOND, Some(ReissueReason::Expired)),
    ] {
        assert_eq!(why(&leaf, &desired, &issuer, moment), reason, "{moment}");
    }
    // A minute of slack is allowed, and not a second more.
    for (shorter, reason) in [(60, None), (61, Some(ReissueReason::TooLong))] {
        let changed = LeafSpec { duration: QUARTER - SignedDuration::from_secs(shorter), ..spec() };
        assert_eq!(why(&leaf, &changed, &issuer, now()), reason, "{shorter}");
    }
    let authority_as_leaf = reissue_reason(Some(Ok(ca)), Some(ca.key_digest()), &desired, ca, RenewalJitter::default(), now());
    assert_eq!(authority_as_leaf, Some(ReissueReason::Names));
    assert_eq!(format!("the certificate {}", ReissueReason::Due), "the certificate is due for renewal");
}

#[test]
fn more_uses_than_requested_are_taken_where_they_give_nothing_away() {
    let issuer = authority("demo peer 1");
    let nameless = || LeafSpec { dns_names: [].into(), ip_addresses: [].into(), ..spec() };
    let named = |name: &str| LeafSpec { common_name: name.into(), ..nameless() };
    for (desired, given, good) in [
        (spec(), Usage::Both, true),
        (LeafSpec { usage: Usage::Server, ..spec() }, Usage::Both, true),
        (LeafSpec { usage: Usage::Server, ..spec() }, Usage::Client, false),
        (spec(), Usage::Server, false),
        (spec(), Usage::Client, false),
        (LeafSpec { usage: Usage::Client, ..nameless() }, Usage::Both, true),
        (LeafSpec { usage: Usage::Client, ..nameless() }, Usage::Server, false),
        (LeafSpec { usage: Usage::Client, ..named("app") }, Usage::Both, true),
        (LeafSpec { usage: Usage::Client, ..named("team:app 1.2") }, Usage::Both, true),
        // Clients could take these for a server's.
        (LeafSpec { usage: Usage::Client, ..spec() }, Usage::Both, false),
        (LeafSpec { usage: Usage::Client, ip_addresses: spec().ip_addresses, ..nameless() }, Usage::Both, false),
        (LeafSpec { usage: Usage::Client, ..named("demo-client.ns.svc") }, Usage::Both, false),
        (LeafSpec { usage: Usage::Client, ..named("*.ns.svc") }, Usage::Both, false),
        (LeafSpec { usage: Usage::Client, ..named("LocalHost") }, Usage::Both, false),
    ] {
        let leaf = issuer.issue(&LeafSpec { usage: given, ..desired.clone() }, now()).unwrap();
        let reason = why(&leaf, &desired, &issuer, now());
        assert_eq!(reason.is_none(), good, "{desired:?}: {reason:?}");
        assert!(good || matches!(reason, Some(ReissueReason::Usage(_))), "{desired:?}: {reason:?}");
    }
}

#[test]
fn a_leaf_that_ends_with_its_authority_is_not_reissued_in_a_loop() {
    let issuer = authority("demo peer 1");
    let end = issuer.certificate().not_after();
    let sixth = QUARTER / 6;
    // A leaf that expires a sixth of the desired duration before its authority is renewed once more. A leaf that expires a second
    // later is not.
    let last = issuer.issue(&spec(), end - QUARTER - sixth).unwrap();
    assert_eq!(why(&last, &spec(), &issuer, last.certificate.renew_at()), Some(ReissueReason::Due));
    assert_eq!(
        renewal(&last.certificate, QUARTER, issuer.certificate(), RenewalJitter::default()),
        Some(last.certificate.renew_at())
    );
    let over = issuer.issue(&spec(), end - QUARTER - sixth + SECOND).unwrap();
    assert_eq!(why(&over, &spec(), &issuer, over.certificate.renew_at()), None);
    assert_eq!(why(&over, &spec(), &issuer, over.certificate.not_after()), None);
    assert_eq!(renewal(&over.certificate, QUARTER, issuer.certificate(), RenewalJitter::default()), None);
    // If they are checked every day for 5 years, leaves of 90 days are issued about thirty times and never expire.
    let mut leaf = issuer.issue(&spec(), now()).unwrap();
    let (mut moment, mut count) = (now(), 1);
    while moment < end {
        match why(&leaf, &spec(), &issuer, moment) {
            None => {}
            Some(ReissueReason::Due) => (leaf, count) = (issuer.issue(&spec(), moment).unwrap(), count + 1),
            other => panic!("{other:?} at {moment}"),
        }
        moment += SignedDuration::from_hours(24);
    }
    assert!((30..=32).contains(&count), "{count}");
}

#[test]
fn leaves_shorter_than_desired_are_renewed_until_their_authority_expires() {
    let issuer = authority("demo peer 1");
    let end = issuer.certificate().not_after();
    let hour = SignedDuration::from_hours(1);
    let given = LeafSpec { duration: hour * 24, ..spec() };
    // The authority has less time left than a sixth of the desired duration.
    let mut moment = end - hour * 240;
    let (mut leaf, mut count) = (issuer.issue(&given, moment).unwrap(), 1);
    while moment < end - hour * 4 {
        match why(&leaf, &spec(), &issuer, moment) {
            None => {}
            Some(ReissueReason::Due) => (leaf, count) = (issuer.issue(&given, moment).unwrap(), count + 1),
            other => panic!("{other:?} at {moment}"),
        }
        moment += hour;
    }
    assert!((14..=16).contains(&count), "{count}");
}

#[test]
fn leaves_shorter_than_the_backdating_are_not_due_at_once() {
    let issuer = authority("demo peer 1");
    for seconds in [1, 60, 150, 300] {
        let desired = LeafSpec { duration: SignedDuration::from_secs(seconds), ..spec() };
        let issued_at = at("2026-03-01T12:00:00Z");
        let leaf = issuer.issue(&desired, issued_at).unwrap();
        assert_eq!(why(&leaf, &desired, &issuer, issued_at), None, "{seconds}");
        assert_eq!(why(&leaf, &desired, &issuer, leaf.certificate.not_after()), Some(ReissueReason::Due), "{seconds}");
    }
}

/// The error of a block with this label in place of a certificate.
fn label(found: &str) -> PkiError {
    PkiError::Label { expected: "CERTIFICATE", found: found.into() }
}

#[test]
fn texts_with_other_content_are_refused() {
    let issuer = authority("demo peer 1");
    let leaf = issuer.issue(&spec(), now()).unwrap();
    let (pem, key) = (leaf.certificate.pem(), String::from_utf8(leaf.key.pem().to_vec()).unwrap());
    let both = format!("{pem}{}", issuer.certificate().pem());
    assert_eq!(Certificate::from_pem(both.as_bytes()), Err(PkiError::Count { expected: "CERTIFICATE", found: 2 }));
    assert_eq!(read_bundle(both.as_bytes()), Ok(vec![leaf.certificate.clone(), issuer.certificate().clone()]));
    assert_eq!(bundle([&leaf.certificate, issuer.certificate()]), both);
    for text in [format!("{key}{pem}"), format!("{pem}{key}")] {
        assert_eq!(Certificate::from_pem(text.as_bytes()), Err(label("PRIVATE KEY")));
        assert_eq!(read_bundle(text.as_bytes()), Err(label("PRIVATE KEY")));
    }
    let mut longer = leaf.certificate.der().to_vec();
    longer.push(0);
    assert_eq!(Certificate::from_der(&longer), Err(PkiError::Certificate("there is data after it".into())));
    // A certificate that is truncated anywhere leads to an error and never to a panic.
    for length in 0..leaf.certificate.der().len() {
        assert!(Certificate::from_der(&leaf.certificate.der()[..length]).is_err(), "{length}");
    }
    assert!(Certificate::from_pem(key.replace("PRIVATE KEY", "CERTIFICATE").as_bytes()).is_err());
}

#[test]
fn certificates_that_never_expire_are_read() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.not_after = time::OffsetDateTime::from_unix_timestamp(253_402_300_799).unwrap();
    let certificate = Certificate::from_der(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap();
    assert_eq!(certificate.not_after(), Timestamp::MAX);
    assert!(certificate.renew_at() > at("7000-01-01T00:00:00Z") && certificate.renew_at() < Timestamp::MAX);
    // No extension limits its usages.
    assert!(certificate.server_auth() && certificate.client_auth());
}

#[test]
fn the_ledger_can_be_read_back_and_is_pruned() {
    let issuer = authority("demo client 1");
    let mut ledger = Ledger::default();
    assert_eq!(ledger.to_json().unwrap(), b"[]");
    let user = |name: &str, uid: &str| Holder::User { name: name.into(), uid: uid.into() };
    let holders = [Holder::Operator, Holder::Member { name: "demo-0".into() }, user("app", "1"), user("app", "2")];
    let leaves: Vec<_> = holders.iter().map(|_| issuer.issue(&spec(), now()).unwrap().certificate).collect();
    for (leaf, holder) in leaves.iter().zip(&holders) {
        ledger.record(leaf, holder.clone());
    }
    let first = |issued: &Issued| issued.holder == user("app", "1");
    assert_eq!((ledger.revoke(first, now()), ledger.revoke(first, now() + SECOND)), (1, 0));
    // If it is recorded again, the time of its revocation does not change.
    ledger.record(&leaves[2], Holder::Operator);
    let revoked = vec![(leaves[2].serial(), at("2026-03-01T12:00:00Z"))];
    assert_eq!(ledger.revoked().collect::<Vec<_>>(), revoked);
    let json = ledger.to_json().unwrap();
    assert_eq!(Ledger::from_json(&json).as_ref(), Ok(&ledger));
    assert_eq!(Ledger::from_json(&json).unwrap().to_json().unwrap(), json);
    let serials: Vec<_> = ledger.entries().map(|issued| issued.serial).collect();
    assert!(serials.is_sorted() && serials.len() == 4);

    // The persisted form, which later versions must be able to read.
    let text = br#"[{"serial":"0a","holder":"operator","notAfter":"2026-05-30T12:00:00Z"},{"serial":"0b","holder":{"member":{"name":"demo-0"}},"notAfter":"2026-05-30T12:00:01Z"},{"serial":"0c","holder":{"user":{"name":"app","uid":"1"}},"notAfter":"2026-05-30T12:00:00Z","revoked":"2026-03-01T12:00:00Z"}]"#;
    let mut ledger = Ledger::from_json(text).unwrap();
    assert_eq!(ledger.to_json().unwrap(), text);
    for (moment, left) in [("2026-05-30T13:00:00Z", 3), ("2026-05-30T13:00:01Z", 1), ("2026-05-30T13:00:02Z", 0)] {
        ledger.prune(at(moment));
        assert_eq!((ledger.entries().count(), ledger.revoked().count()), (left, left / 3), "{moment}");
    }
    for broken in ["", "{}", "[{}]", r#"[{"serial":"x","holder":"operator","notAfter":"2026-05-30T12:00:00Z"}]"#] {
        assert!(matches!(Ledger::from_json(broken.as_bytes()), Err(PkiError::Ledger(_))), "{broken}");
    }
}

#[test]
fn revocation_lists_contain_the_revoked_serials() {
    let issuer = authority("demo client 1");
    let empty = issuer.sign_crl([], now()).unwrap();
    assert_eq!(crl_serials(&empty), Ok(BTreeSet::new()));
    let serials = ["ff", "01", &"f0".repeat(20)].map(|text| text.parse::<Serial>().unwrap());
    let der = issuer.sign_crl(serials.map(|serial| (serial, now())), now()).unwrap();
    assert_eq!(crl_serials(&der), Ok(serials.into()));
    assert_eq!(crl_serials(&issuer.sign_crl([(serials[0], now()); 2], now()).unwrap()).map(|all| all.len()), Ok(1));

    let (_, list) = x509_parser::parse_x509_crl(&der).unwrap();
    let order: Vec<_> = list.iter_revoked_certificates().map(RevokedCertificate::raw_serial_as_string).collect();
    assert_eq!(order[..2], ["01".to_owned(), "00:ff".to_owned()]);
    assert_eq!(list.version(), Some(x509_parser::x509::X509Version::V2));
    assert_eq!(list.last_update().timestamp(), now().as_second());
    assert_eq!(list.next_update().map(|time| time.timestamp()), Some(issuer.certificate().not_after().as_second()));
    assert_eq!(list.crl_number().map(ToString::to_string), Some(now().as_second().to_string()));
    let (_, certificate) = X509Certificate::from_der(issuer.certificate().der()).unwrap();
    assert!(list.verify_signature(certificate.public_key()).is_ok());
    assert_eq!(list.issuer().as_raw(), certificate.subject().as_raw());

    for broken in [&b""[..], b"-----BEGIN X509 CRL-----", &der[1..], &[&der[..], &[0]].concat()] {
        assert!(matches!(crl_serials(broken), Err(PkiError::RevocationList(_))));
    }
}

#[test]
fn openssl_accepts_and_refuses_the_same_certificates() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (issuer, other) = (authority("demo client 1"), authority("demo peer 1"));
    let leaves = [(); 2].map(|()| issuer.issue(&spec(), now()).unwrap());
    let crl = issuer.sign_crl([(leaves[1].certificate.serial(), now())], now()).unwrap();
    fs::write(dir.join("ca.crt"), bundle([other.certificate(), issuer.certificate()])).unwrap();
    fs::write(dir.join("other.crt"), bundle([other.certificate()])).unwrap();
    fs::write(dir.join("good.crt"), leaves[0].certificate.pem()).unwrap();
    fs::write(dir.join("good.key"), leaves[0].key.pem()).unwrap();
    fs::write(dir.join("revoked.crt"), leaves[1].certificate.pem()).unwrap();
    fs::write(dir.join("ca.crl"), &crl).unwrap();
    fs::write(dir.join("empty.crl"), issuer.sign_crl([], now()).unwrap()).unwrap();

    let (ok, output) = openssl(dir, "crl -inform DER -in ca.crl -noout -text -CAfile ca.crt");
    assert!(ok && output.contains("verify OK") && output.contains("Version 2 (0x1)"), "{output}");
    assert!(output.to_lowercase().contains(&leaves[1].certificate.serial().to_string()), "{output}");
    let (ok, output) = openssl(dir, "crl -inform DER -in empty.crl -out empty.pem -CAfile ca.crt");
    assert!(ok && output.contains("verify OK"), "{output}");
    let (ok, output) = openssl(dir, "crl -inform DER -in ca.crl -out crl.pem");
    assert!(ok, "{output}");

    let verify = format!("verify -x509_strict -attime {} -verify_hostname {HOST}", now().as_second());
    for (arguments, good) in [
        ("-purpose sslserver -CAfile ca.crt good.crt", true),
        ("-purpose sslclient -CAfile ca.crt good.crt", true),
        ("-CAfile other.crt good.crt", false),
        ("-crl_check -CRLfile crl.pem -CAfile ca.crt good.crt", true),
        ("-crl_check -CRLfile crl.pem -CAfile ca.crt revoked.crt", false),
        ("-crl_check -CRLfile empty.pem -CAfile ca.crt revoked.crt", true),
    ] {
        let (ok, output) = openssl(dir, &format!("{verify} {arguments}"));
        assert_eq!(ok, good, "{arguments}: {output}");
    }
    let (ok, output) = openssl(dir, "pkey -in good.key -noout -text");
    assert!(ok && output.contains("prime256v1"), "{output}");
}

#[test]
fn external_authorities_can_issue() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, algorithm, subject) in [
        ("p384", "EC -pkeyopt ec_paramgen_curve:P-384", "/C=DE/O=Example/OU=Sites/CN=Example"),
        ("ed25519", "ED25519", "/CN=Example"),
        ("rsa", "RSA -pkeyopt rsa_keygen_bits:2048", "/O=Example/CN=Example"),
    ] {
        let (ok, output) = openssl(dir, &format!("genpkey -algorithm {algorithm} -out {name}.key"));
        assert!(ok, "{output}");
        let (ok, output) = openssl(dir, &format!("req -x509 -days 3650 -key {name}.key -subj {subject} -out {name}.crt"));
        assert!(ok, "{output}");
        let read = |end: &str| fs::read(dir.join(format!("{name}.{end}"))).unwrap();
        let issuer = Authority::load(&read("crt"), &read("key")).unwrap();
        // openssl created it just now; a test cannot set the clock of openssl.
        let moment = issuer.certificate().not_before() + SECOND;
        let leaf = issuer.issue(&spec(), moment).unwrap();
        assert_eq!(why(&leaf, &spec(), &issuer, moment), None, "{name}");
        fs::write(dir.join("leaf.crt"), leaf.certificate.pem()).unwrap();
        let (ok, output) = openssl(dir, &format!("verify -attime {} -CAfile {name}.crt leaf.crt", moment.as_second()));
        assert!(ok, "{name}: {output}");
        fs::write(dir.join("ca.crl"), issuer.sign_crl([(leaf.certificate.serial(), moment)], moment).unwrap()).unwrap();
        let (ok, output) = openssl(dir, &format!("crl -inform DER -in ca.crl -noout -CAfile {name}.crt"));
        assert!(ok && output.contains("verify OK"), "{name}: {output}");
        // The list contains the key identifier of the authority, and not one that is derived as for built-in authorities.
        let (ok, output) = openssl(dir, "crl -inform DER -in ca.crl -noout -text");
        let id: Vec<_> = leaf.certificate.authority_key_id().unwrap().iter().map(|octet| format!("{octet:02X}")).collect();
        assert!(ok && output.contains(&id.join(":")), "{name}: {output}");
    }
}

#[test]
fn authorities_that_may_not_sign_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(openssl(dir, "genpkey -algorithm ED25519 -out ca.key").0);
    let key = fs::read(dir.join("ca.key")).unwrap();
    for (extension, good) in [
        ("keyUsage=keyCertSign", true),
        ("keyUsage=digitalSignature", false),
        ("subjectKeyIdentifier=none", true),
        ("basicConstraints=CA:FALSE", false),
    ] {
        let (ok, output) = openssl(dir, &format!("req -x509 -days 9 -key ca.key -subj /CN=x -addext {extension} -out ca.crt"));
        assert!(ok, "{output}");
        let loaded = Authority::load(&fs::read(dir.join("ca.crt")).unwrap(), &key).map(drop);
        assert!(if good { loaded.is_ok() } else { matches!(loaded, Err(PkiError::NotAuthority(_))) }, "{extension}: {loaded:?}");
    }
}

#[test]
fn a_leaf_is_not_reissued_in_its_current_window() {
    let (issuer, leaf_of) = (authority("ca"), |issuer: &Authority, at| issuer.issue(&spec(), at).unwrap());
    // A leaf that will be renewed, and one that expires together with its issuer.
    let late = issuer.certificate().not_after() - QUARTER / 3;
    for leaf in [leaf_of(&issuer, now()), leaf_of(&issuer, late)] {
        let window = current_window(&leaf.certificate, QUARTER, issuer.certificate(), RenewalJitter::default());
        for edge in [window.start, window.end] {
            for moment in [edge - SECOND, edge, edge + SECOND] {
                let reason = why(&leaf, &spec(), &issuer, moment);
                // In its last second it is valid, but outside of the window.
                let last = moment == leaf.certificate.not_after();
                assert_eq!(window.contains(&moment), reason.is_none() && !last, "{moment}: {reason:?}, {window:?}");
            }
        }
    }
}

#[test]
fn a_thousand_holders_do_not_renew_in_one_minute() {
    let issuer = authority("ca");
    let leaf = issuer.issue(&spec(), now()).unwrap().certificate;
    let life = leaf.not_after().duration_since(leaf.not_before());
    let at = |holder: u32| renewal(&leaf, QUARTER, issuer.certificate(), RenewalJitter::of(&holder.to_string())).unwrap();
    let times: BTreeSet<_> = (0..1000).map(at).collect();
    assert!(times.len() > 200, "{}", times.len());
    let (first, last) = (*times.first().unwrap(), *times.last().unwrap());
    assert!(last <= leaf.renew_at() && first >= leaf.renew_at() - life / 20, "{first} to {last}");
    assert!(last.duration_since(first) > life / 25);
    assert_eq!(at(7), at(7), "the jitter of a holder is constant");
}

/// Creates an authority and its key with `openssl`. The authority `parent` signs it.
fn below(dir: &Path, name: &str, parent: &str, algorithm: &str, extensions: &str) {
    for command in [
        format!("genpkey -algorithm {algorithm} -out {name}.key"),
        format!(
            "req -x509 -days 3650 -key {name}.key -CA {parent}.crt -CAkey {parent}.key -subj /CN={name} -addext basicConstraints=critical,{extensions} -addext keyUsage=keyCertSign -out {name}.crt"
        ),
    ] {
        let (ok, output) = openssl(dir, &command);
        assert!(ok, "{output}");
    }
}

#[test]
fn the_ancestors_of_an_intermediate_authority_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for root in ["root", "unknown"] {
        assert!(openssl(dir, &format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out {root}.key")).0);
        let (ok, output) = openssl(dir, &format!("req -x509 -days 3650 -key {root}.key -subj /CN={root} -out {root}.crt"));
        assert!(ok, "{output}");
    }
    below(dir, "middle", "root", "ED25519", "CA:TRUE,pathlen:1");
    below(dir, "issuing", "middle", "RSA -pkeyopt rsa_keygen_bits:2048", "CA:TRUE,pathlen:0");
    // The authority that signs it allows no other authority below itself (pathlen).
    below(dir, "toolow", "issuing", "ED25519", "CA:TRUE");
    below(dir, "leaf", "middle", "ED25519", "CA:FALSE");
    let read = |names: &str| -> Vec<u8> {
        names.split_whitespace().flat_map(|name| fs::read(dir.join(format!("{name}.crt"))).unwrap()).collect()
    };
    let moment = Certificate::from_pem(&read("issuing")).unwrap().not_before() + SECOND;
    for (certificates, roots) in
        [("issuing", "root middle"), ("issuing middle", "root"), ("issuing middle root", ""), ("issuing", "unknown middle root")]
    {
        let external = ExternalAuthority::of_secret(&read(certificates), b"", &read(roots), moment).unwrap();
        assert_eq!(external.authority.common_name(), "issuing");
        let ancestors: Vec<_> = external.ancestors.iter().map(Certificate::common_name).collect();
        assert_eq!(ancestors, ["middle", "root"], "{certificates}, {roots}");
        let presented: Vec<_> =
            presented_chain(&external.authority, &external.ancestors).iter().map(|one| one.common_name().to_owned()).collect();
        assert_eq!(presented, ["issuing", "middle"], "not the root");
    }
    for (certificates, roots, at, why) in [
        ("", "root", moment, "there is no certificate"),
        ("issuing", "", moment, "ca.crt does not hold the certificate of the CA that signed \"issuing\""),
        ("issuing", "middle", moment, "ca.crt does not hold the certificate of the CA that signed \"middle\""),
        ("issuing middle", "unknown", moment, "signed \"middle\""),
        ("leaf", "middle root", moment, "\"leaf\" is not a CA certificate"),
        ("toolow", "issuing middle root", moment, "\"issuing\" allows fewer CAs below it than the 1 of the chain"),
        ("issuing", "middle root", moment + SignedDuration::from_hours(24 * 3651), "is valid from"),
    ] {
        let problem = ExternalAuthority::of_secret(&read(certificates), b"", &read(roots), at).unwrap_err().to_string();
        assert!(problem.contains(why), "{certificates}, {roots}: {problem}");
    }
    let key = fs::read(dir.join("issuing.key")).unwrap();
    let with_key = [read("issuing"), key.clone()].concat();
    let problem = ExternalAuthority::of_secret(&with_key, b"", &read("middle root"), moment).unwrap_err().to_string();
    assert!(problem.starts_with("tls.crt: holds a block of another kind than CERTIFICATE"), "{problem}");

    // Its leaves are accepted by peers that trust only it, and by peers that trust only the root and receive the intermediate
    // certificates.
    let external = ExternalAuthority::of_secret(&read("issuing"), b"", &read("middle root"), moment).unwrap();
    let authority = Authority::load(&read("issuing"), &key).unwrap();
    let leaf = authority.issue(&spec(), moment).unwrap();
    assert_eq!(super::verify(&leaf.certificate, &external.authority, moment), Ok(()));
    assert!(super::verify(&leaf.certificate, &Certificate::from_pem(&read("unknown")).unwrap(), moment).is_err());
    let leaf = Leaf { chain: presented_chain(&external.authority, &external.ancestors), ..leaf };
    fs::write(dir.join("presented.pem"), leaf.pem()).unwrap();
    fs::write(dir.join("own.pem"), leaf.certificate.pem()).unwrap();
    let (ok, output) =
        openssl(dir, &format!("verify -attime {} -CAfile root.crt -untrusted presented.pem own.pem", moment.as_second()));
    assert!(ok, "{output}");
    // It may not sign revocation lists, so another key signs them.
    let serial = leaf.certificate.serial();
    assert_eq!(crl_serials(&authority.sign_crl([(serial, moment)], moment).unwrap()).unwrap(), [serial].into());
}

#[test]
fn an_authority_that_may_not_sign_the_names_cannot_issue() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(openssl(dir, "genpkey -algorithm ED25519 -out ca.key").0);
    let (svc, cluster) = ("permitted;DNS:.svc", "permitted;DNS:.svc,permitted;DNS:.cluster.local");
    let local = format!("{cluster},permitted;DNS:localhost");
    let inner = ["demo.ns.svc", "demo.ns.svc.cluster.local", "localhost"];
    let more = ["demo.ns.svc", "demo.ns.svc.cluster.local", "localhost", "etcd.example.com"];
    for (constraint, names, good) in [
        (svc, &inner[..1], true),
        (svc, &inner, false),
        (cluster, &inner, false),
        (&local, &inner, true),
        (&local, &more, false),
        ("permitted;DNS:example.com", &inner, false),
        ("excluded;DNS:.svc", &inner, false),
    ] {
        let request =
            format!("req -x509 -days 3650 -key ca.key -subj /CN=ca -addext nameConstraints=critical,{constraint} -out ca.crt");
        let (ok, output) = openssl(dir, &request);
        assert!(ok, "{output}");
        let text = fs::read(dir.join("ca.crt")).unwrap();
        let authority = Authority::load(&text, &fs::read(dir.join("ca.key")).unwrap()).unwrap();
        let moment = authority.certificate().not_before() + SECOND;
        let spec = LeafSpec { dns_names: names.iter().map(|name| (*name).into()).collect(), ..spec() };
        let problem = authority.issue(&spec, moment).err().map(|problem| problem.to_string());
        assert_eq!(problem.is_none(), good, "{constraint}, {names:?}: {problem:?}");
        assert!(problem.is_none_or(|problem| problem.contains("not for DNS:") || problem.contains("not for IP:")));
    }
}

#[test]
fn optional_names_are_left_out_where_the_authority_may_not_sign_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    assert!(openssl(dir, "genpkey -algorithm ED25519 -out ca.key").0);
    let names = ["demo.ns.svc", "localhost"].map(str::to_owned);
    let optional = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
    let spec = LeafSpec { dns_names: names.into(), optional, ..spec() };
    for (constraint, dns, ip) in [
        ("permitted;DNS:svc", "demo.ns.svc", "127.0.0.1 ::1"),
        ("permitted;DNS:svc,excluded;IP:127.0.0.0/255.0.0.0", "demo.ns.svc", "::1"),
        ("excluded;DNS:localhost", "demo.ns.svc", "127.0.0.1 ::1"),
        ("permitted;IP:127.0.0.0/255.0.0.0", "demo.ns.svc localhost", "127.0.0.1"),
        ("permitted;DNS:localhost", "demo.ns.svc localhost", "127.0.0.1 ::1"),
        ("permitted;email:example.com", "demo.ns.svc localhost", "127.0.0.1 ::1"),
    ] {
        let request =
            format!("req -x509 -days 3650 -key ca.key -subj /CN=ca -addext nameConstraints=critical,{constraint} -out ca.crt");
        let (ok, output) = openssl(dir, &request);
        assert!(ok, "{output}");
        let authority = Certificate::from_pem(&fs::read(dir.join("ca.crt")).unwrap()).unwrap();
        let within = spec.within([&authority]);
        let dns_names: Vec<_> = within.dns_names.into_iter().collect();
        let ip_addresses: Vec<_> = within.ip_addresses.iter().map(ToString::to_string).collect();
        assert_eq!((dns_names.join(" ").as_str(), ip_addresses.join(" ").as_str()), (dns, ip), "{constraint}");
        let required = LeafSpec { optional: BTreeSet::new(), ..spec.clone() };
        assert_eq!(required.within([&authority]), required, "{constraint}");
    }
    assert_eq!(spec.within([authority("any").certificate()]), spec);
}

#[test]
fn a_refusal_names_the_certificate_and_what_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    for (name, parent, extension) in [
        ("servers", "servers", "extendedKeyUsage=serverAuth"),
        ("any", "any", "extendedKeyUsage=anyExtendedKeyUsage"),
        ("names", "names", "nameConstraints=critical,permitted;DNS:corp.example"),
        ("issuing", "names", "subjectKeyIdentifier=hash"),
    ] {
        let by = if parent == name { String::new() } else { format!(" -CA {parent}.crt -CAkey {parent}.key") };
        let request = format!("req -x509 -days 3650 -key {name}.key{by} -subj /CN={name} -addext {extension} -out {name}.crt");
        for command in [format!("genpkey -algorithm ED25519 -out {name}.key"), request] {
            let (ok, output) = openssl(dir, &command);
            assert!(ok, "{output}");
        }
    }
    let read = |name: &str| fs::read(dir.join(format!("{name}.crt"))).unwrap();
    let moment = Certificate::from_pem(&read("issuing")).unwrap().not_before() + SECOND;
    let check = |name: &str, roots: &[u8], domain| {
        let external = ExternalAuthority::of_secret(&read(name), b"", roots, moment).unwrap();
        external.check(domain, &spec()).err().map(|problem| problem.to_string())
    };
    for domain in Domain::ALL {
        let why = "etcd and clients in Go would refuse it: \"servers\" has an extendedKeyUsage without clientAuth, and they apply it to \
                   every certificate that it signs; have it issued without extendedKeyUsage, or with serverAuth and clientAuth";
        assert_eq!(check("servers", b"", domain).as_deref(), Some(why));
    }
    // Members stop at the authority that they trust; OpenSSL does not.
    assert_eq!((check("issuing", &read("names"), Domain::Peer), check("any", b"", Domain::Peer)), (None, None));
    for (problem, why) in [
        (
            check("issuing", &read("names"), Domain::Client),
            "\"names\" may sign for DNS:corp.example only, and so not for DNS:demo",
        ),
        (check("any", b"", Domain::Client), "clients that use OpenSSL would refuse it: \"any\" has an extendedKeyUsage"),
    ] {
        assert!(problem.as_ref().is_some_and(|problem| problem.contains(why)), "{problem:?}");
    }
}

#[test]
fn an_answer_reveals_the_authority() {
    let (issuer, other) = (authority("issuer"), authority("other"));
    let leaf = issuer.issue(&spec(), now()).unwrap().certificate;
    let answer = |certificates: &[&Certificate], roots: &[&Certificate]| {
        ExternalAuthority::of_answer(
            bundle(certificates.iter().copied()).as_bytes(),
            bundle(roots.iter().copied()).as_bytes(),
            now(),
        )
    };
    for (certificates, roots) in [
        (vec![&leaf], vec![issuer.certificate()]),
        (vec![&leaf, issuer.certificate()], vec![]),
        (vec![&leaf, other.certificate()], vec![issuer.certificate()]),
    ] {
        let (read, external) = answer(&certificates, &roots).unwrap();
        assert_eq!((&read, &external.authority), (&leaf, issuer.certificate()));
        assert!(external.ancestors.is_empty());
    }
    for (certificates, roots) in
        [(vec![], vec![issuer.certificate()]), (vec![&leaf], vec![other.certificate()]), (vec![&leaf], vec![])]
    {
        assert!(answer(&certificates, &roots).is_err());
    }
    // A self-signed leaf is not an authority.
    assert!(answer(&[&leaf], &[&leaf]).is_err());
}
