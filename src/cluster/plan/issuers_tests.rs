use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::RETRY;
use crate::{
    api::{CaSecret, CertManagerIssuer, ConditionType, Duration, IssuerSpec, Reason, condition},
    certificates::issuers::{IssuerAnswer, IssuerProbe, IssuerProblem},
    cluster::{
        fixtures::{Fixture, reasons},
        plan::{
            changes::Changes,
            rotation::tests::{
                DAY, ROTATION, RandomFaults, advance_time, advance_time_with, client_bundle, domain, request, settle,
                settle_with, steps, transitions,
            },
        },
    },
    names::{annotation as key, member_key},
    pki::{Authority, Certificate, Domain, ExternalAuthority, Phase, read_bundle},
    reporting::publish::Report,
};

pub fn ca_secret(name: &str) -> IssuerSpec {
    IssuerSpec { ca_secret: Some(CaSecret { name: name.into() }), cert_manager: None }
}

pub fn cert_manager(name: &str) -> IssuerSpec {
    let issuer = CertManagerIssuer { name: name.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    IssuerSpec { ca_secret: None, cert_manager: Some(issuer) }
}

/// Sets the issuer of a domain.
pub fn set_issuer(fixture: &mut Fixture, of: Domain, issuer: IssuerSpec) {
    let tls = &mut fixture.cluster.spec.tls;
    match of {
        Domain::Client => tls.client.issuer = issuer,
        Domain::Peer => tls.peer.issuer = issuer,
    }
    // What the previous issuer answered no longer matters.
    fixture.observed.issuer_answers[of] = None;
}

pub fn authority(name: &str, fixture: &Fixture) -> Authority {
    Authority::create(name, DAY * 3650, fixture.now).unwrap()
}

/// A cluster whose client authority comes from a Secret and expires after a month.
fn bootstrapped_with_short_lived_authority() -> Fixture {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let short = Authority::create("short", DAY * 30, fixture.now).unwrap();
    fixture.set_external(Domain::Client, short, vec![]);
    settle(&mut fixture, &[], &[]);
    fixture
}

/// An intermediate authority that an offline root issued, and the root. They are valid for these many days.
pub fn authority_below(name: &str, days: i32, root_days: i32, fixture: &Fixture) -> (Authority, Certificate) {
    let params = |name: &str, constraints, days: i32| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(constraints);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let date = |at: Timestamp| time::OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
        (params.not_before, params.not_after) = (date(fixture.now - DAY), date(fixture.now + DAY * days));
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params("an offline root", BasicConstraints::Unconstrained, root_days);
    let certificate = root.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&root, &root_key);
    let intermediate = params(name, BasicConstraints::Constrained(0), days).signed_by(&key, &issuer).unwrap();
    let root = Certificate::from_der(certificate.der()).unwrap();
    let intermediate = Certificate::from_der(intermediate.der()).unwrap();
    let key = key.serialize_pem();
    (Authority::load(intermediate.pem().as_bytes(), key.as_bytes()).unwrap(), root)
}

/// An intermediate authority that an offline root issued, and the root. Both are valid for ten years.
fn intermediate_authority(name: &str, fixture: &Fixture) -> (Authority, Vec<Certificate>) {
    let (authority, root) = authority_below(name, 3650, 3650, fixture);
    (authority, vec![root])
}

/// The reasons of the notes about certificates that are not ready, and of the problems.
fn problem_reasons(changes: &Changes) -> Vec<Reason> {
    [reasons(&changes.certificates), reasons(&changes.problems)].concat()
}

/// Status, reason and message of the condition `CertificatesReady`.
fn certificates_ready(report: &Report) -> (&str, &str, &str) {
    let certificates_ready = condition(&report.status.conditions, ConditionType::CertificatesReady).unwrap();
    (&certificates_ready.status, &certificates_ready.reason, &certificates_ready.message)
}

/// An answer that makes an issuer unusable.
fn unusable(why: &str) -> IssuerAnswer {
    IssuerAnswer { requested_at: None, authority: Err(IssuerProblem::Unusable(why.into())) }
}

/// A file in the Secret of the first member.
fn member_file(fixture: &Fixture, key: &str) -> Vec<u8> {
    fixture.observed.members.values().next().unwrap().secret.as_ref().unwrap().data[key].clone()
}

#[test]
fn a_cluster_is_bootstrapped_with_an_authority_of_an_offline_root() {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let changes = fixture.changes();
    assert_eq!(changes.authorities.len(), 1, "the peer domain has a built-in authority");
    assert!(changes.secrets.is_empty(), "no leaf is issued before both authorities exist");
    let (company, root) = intermediate_authority("company", &fixture);
    fixture.set_external(Domain::Client, company, root.clone());
    settle(&mut fixture, &[], &[]);
    let status = domain(&fixture, Domain::Client);
    assert_eq!((status.active.name.as_str(), status.next.name.as_str()), ("company", "company"));
    assert_eq!(status.active.issuer.as_deref(), Some("the CA in Secret company"));
    assert_eq!(domain(&fixture, Domain::Peer).active.issuer, None);
    assert_eq!(
        fixture.trusted(member_key::CLIENT_CA).into_iter().collect::<Vec<_>>(),
        ["company"],
        "no other authority that its root issued is trusted"
    );
    assert!(client_bundle(&fixture).ends_with(root[0].pem().as_bytes()), "clients may verify up to the root");
    let presented = read_bundle(&member_file(&fixture, member_key::SERVER_CRT)).unwrap();
    assert_eq!(presented.iter().map(Certificate::common_name).collect::<Vec<_>>(), ["etcd-warden:server", "company"]);
    // For years certificates are renewed, and nothing else happens.
    let taken = fixture.taken.len();
    let known = [client_bundle(&fixture)];
    advance_time(&mut fixture, DAY * 600, &[], &known);
    assert!(steps(&fixture, taken).is_empty(), "{:?}", steps(&fixture, taken));
}

#[test]
fn changing_the_issuer_never_interrupts_trust() {
    for of in [Domain::Client, Domain::Peer] {
        let mut fixture = Fixture::bootstrapped("{}");
        let mut generation = 0;
        for (issuer, name) in [
            (ca_secret("company"), "the CA in Secret company"),
            (cert_manager("pki"), "Issuer pki"),
            (cert_manager("other"), "Issuer other"),
            (ca_secret("company"), "the CA in Secret company"),
            (IssuerSpec::default(), "the built-in issuer"),
            (cert_manager("pki"), "Issuer pki"),
            (IssuerSpec::default(), "the built-in issuer"),
        ] {
            generation += 1;
            let taken = fixture.taken.len();
            let built_in = issuer == IssuerSpec::default();
            set_issuer(&mut fixture, of, issuer);
            let desired = format!("external {generation}");
            if !built_in {
                let external = authority(&desired, &fixture);
                fixture.set_external(of, external, vec![]);
            }
            settle(&mut fixture, &[], &[]);
            assert_eq!(transitions(&fixture, taken), ROTATION, "{of} to {name}");
            let status = domain(&fixture, of);
            assert_eq!(status.active.issuer.as_deref().unwrap_or("the built-in issuer"), name);
            assert!(status.retiring.is_empty() && status.phase.is_none());
            assert_eq!(status.active == status.next, !built_in);
            assert!(built_in || status.active.name == desired);
            fixture.now += RETRY;
            settle(&mut fixture, &[], &[]);
            assert!(fixture.is_idle(), "nothing is left of the previous issuer: {:#?}", fixture.plan());
        }
    }
}

#[test]
fn a_new_authority_in_the_secret_starts_a_rotation() {
    let mut fixture = Fixture::new("{tls: {peer: {issuer: {caSecret: {name: company}}}}}");
    let first = authority("first", &fixture);
    fixture.set_external(Domain::Peer, first, vec![]);
    settle(&mut fixture, &[], &[]);
    let second = authority("second", &fixture);
    fixture.set_external(Domain::Peer, second, vec![]);
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Peer).active.name, "second");
    assert_eq!(fixture.trusted(member_key::PEER_CA).into_iter().collect::<Vec<_>>(), ["second"]);
}

#[test]
fn a_missing_or_unusable_secret_is_reported_and_its_authority_still_signs() {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let company = authority("company", &fixture);
    fixture.set_external(Domain::Client, company, vec![]);
    settle(&mut fixture, &[], &[]);
    let missing = Some(unusable("there is no such Secret"));
    let answer = std::mem::replace(&mut fixture.observed.issuer_answers.client, missing);
    fixture.now += DAY * 61;
    for _ in 0..10 {
        fixture.pass();
        fixture.check_trust(&[], &[]);
    }
    let report = fixture.report();
    let (status, reason, message) = certificates_ready(&report);
    assert_eq!((status, reason), ("False", "IssuerUnusable"));
    assert!(message.contains("there is no such Secret"), "{message}");
    assert!(fixture.changes().secrets.is_empty(), "certificates that were due have been renewed");
    fixture.observed.issuer_answers.client = answer;
    settle(&mut fixture, &[], &[]);
}

#[test]
fn an_unusable_issuer_blocks_nothing_else() {
    let mut fixture = Fixture::bootstrapped("{}");
    set_issuer(&mut fixture, Domain::Client, ca_secret("company"));
    fixture.observed.issuer_answers.client = Some(unusable("it may not sign for these names"));
    request(&mut fixture, "peer");
    fixture.cluster.spec.replicas = 5;
    for _ in 0..400 {
        fixture.pass();
        fixture.check_trust(&[], &[]);
    }
    assert_eq!(fixture.etcd.len(), 5);
    let (client, peer) = (domain(&fixture, Domain::Client), domain(&fixture, Domain::Peer));
    assert!(peer.active.name.ends_with('3') && peer.phase.is_none(), "{peer:?}");
    assert!(client.active.name.ends_with('1') && client.phase.is_none(), "{client:?}");
    let report = fixture.report();
    let (status, reason, message) = certificates_ready(&report);
    assert_eq!((status, reason), ("False", "IssuerUnusable"));
    assert!(message.contains("it may not sign for these names"), "{message}");
}

#[test]
fn certificates_of_an_authority_that_is_not_trusted_yet_are_not_installed() {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {certManager: {name: pki}}}}}");
    let first = authority("first", &fixture);
    fixture.set_external(Domain::Client, first, vec![]);
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.issuer.as_deref(), Some("Issuer pki"));
    fixture.now += RETRY;
    settle(&mut fixture, &[], &[]);
    let answers = &fixture.observed.issuer_answers;
    assert!(answers.iter().all(|(_, answer)| answer.is_none()), "the answer is no longer needed");
    let second = authority("second", &fixture);
    fixture.set_external(Domain::Client, second, vec![]);
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!(
        domain(&fixture, Domain::Client).active.name,
        "first",
        "the new authority is unknown until a leaf has to be signed"
    );
    fixture.now += DAY * 61;
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.name, "second");
}

#[test]
fn one_authority_for_both_domains_is_refused() {
    let mut fixture = Fixture::bootstrapped("{}");
    let shared = authority("shared", &fixture);
    let again = Authority::load(shared.certificate().pem().as_bytes(), shared.key_pem()).unwrap();
    for (of, issuer, external) in [(Domain::Client, ca_secret("one"), shared), (Domain::Peer, cert_manager("two"), again)] {
        set_issuer(&mut fixture, of, issuer);
        fixture.set_external(of, external, vec![]);
        if of == Domain::Client {
            settle(&mut fixture, &[], &[]);
        }
    }
    let taken = fixture.taken.len();
    for _ in 0..20 {
        fixture.pass();
    }
    assert!(steps(&fixture, taken).is_empty());
    let changes = fixture.changes();
    assert_eq!(problem_reasons(&changes), [Reason::SharedCA]);
    let message = &changes.certificates[0].message;
    assert!(message.contains("Choose another issuer for the peer domain"), "{message}");
    // The user has corrected the issuer, and it is asked again after a while.
    let other = authority("another", &fixture);
    fixture.set_external(Domain::Peer, other, vec![]);
    fixture.now += RETRY;
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Peer).active.name, "another");
}

#[test]
fn a_new_cluster_with_one_authority_for_both_domains_is_not_bootstrapped() {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {caSecret: {name: one}}}, peer: {issuer: {caSecret: {name: two}}}}}");
    let shared = authority("shared", &fixture);
    let again = Authority::load(shared.certificate().pem().as_bytes(), shared.key_pem()).unwrap();
    fixture.set_external(Domain::Client, shared, vec![]);
    fixture.set_external(Domain::Peer, again, vec![]);
    let changes = fixture.changes();
    assert_eq!(problem_reasons(&changes), [Reason::SharedCA, Reason::SharedCA]);
    assert!(changes.authorities.is_empty() && changes.secrets.is_empty());
}

#[test]
fn the_issuer_can_be_changed_during_a_rotation() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        let mut fixture = Fixture::bootstrapped("{}");
        set_issuer(&mut fixture, Domain::Client, ca_secret("wrong"));
        let wrong = authority("wrong", &fixture);
        fixture.set_external(Domain::Client, wrong, vec![]);
        while domain(&fixture, Domain::Client).phase.map(Phase::as_str) != Some(phase) {
            fixture.pass();
            fixture.check_trust(&[], &[]);
        }
        set_issuer(&mut fixture, Domain::Client, ca_secret("right"));
        let right = authority("right", &fixture);
        fixture.set_external(Domain::Client, right, vec![]);
        settle(&mut fixture, &[], &[]);
        assert_eq!(domain(&fixture, Domain::Client).active.name, "right", "{phase}");
        assert_eq!(fixture.trusted(member_key::CLIENT_CA).into_iter().collect::<Vec<_>>(), ["right"]);
    }
}

#[test]
fn a_requested_rotation_requires_a_new_authority_of_the_issuer() {
    for issuer in [ca_secret("company"), cert_manager("company")] {
        let mut fixture = Fixture::bootstrapped("{}");
        set_issuer(&mut fixture, Domain::Client, issuer);
        let company = authority("company", &fixture);
        fixture.set_external(Domain::Client, company, vec![]);
        settle(&mut fixture, &[], &[]);
        request(&mut fixture, "client");
        for _ in 0..20 {
            fixture.pass();
        }
        assert_eq!(domain(&fixture, Domain::Client).phase, None);
        assert_eq!(problem_reasons(&fixture.changes()), [Reason::CannotRotate]);
        let other = authority("another", &fixture);
        fixture.set_external(Domain::Client, other, vec![]);
        fixture.now += RETRY;
        settle(&mut fixture, &[], &[]);
        assert_eq!(domain(&fixture, Domain::Client).active.name, "another");
        assert!(!fixture.cluster.metadata.annotations.clone().unwrap().contains_key(key::ROTATE_CA));
    }
}

#[test]
fn an_expired_external_authority_is_replaced_once_the_issuer_has_a_new_one() {
    let mut fixture = bootstrapped_with_short_lived_authority();
    fixture.now += DAY * 31;
    fixture.observed.issuer_answers.client = Some(unusable("it has expired"));
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!(domain(&fixture, Domain::Client).active.name, "short");
    let changes = fixture.changes();
    assert!(problem_reasons(&changes).contains(&Reason::IssuerUnusable), "{:?}", changes.certificates);
    let report = fixture.report();
    let degraded = condition(&report.status.conditions, ConditionType::Degraded).unwrap();
    assert_eq!(degraded.reason, Reason::CAExpired.as_str(), "{}", degraded.message);
    let new = authority("new", &fixture);
    fixture.set_external(Domain::Client, new, vec![]);
    // The operator trusts no member, so it cannot ask for the leader.
    fixture.divided = true;
    for _ in 0..20 {
        fixture.pass();
    }
    fixture.divided = false;
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.name, "new");
}

#[test]
fn shorter_lifetimes_than_desired_are_reported() {
    for (issuer, is_reported) in [(ca_secret("company"), false), (cert_manager("pki"), true)] {
        let mut fixture = Fixture::bootstrapped("{}");
        set_issuer(&mut fixture, Domain::Client, issuer);
        let company = authority("company", &fixture);
        fixture.set_external(Domain::Client, company, vec![]);
        settle(&mut fixture, &[], &[]);
        assert!(fixture.changes().remarks.is_empty());
        // As if the issuer had not granted the desired lifetime.
        fixture.cluster.spec.tls.client.certificate.duration = Duration("8000h".into());
        let remark = "certificates of Issuer pki are valid for 2160 hours instead of the desired 8000";
        assert_eq!(fixture.changes().remarks, if is_reported { vec![remark] } else { vec![] });
        let report = fixture.report();
        let (status, _, message) = certificates_ready(&report);
        assert_eq!((status, message.contains(remark)), ("True", is_reported), "{message}");
    }
}

#[test]
fn short_certificates_are_renewed_in_time_until_their_authority_expires() {
    let mut fixture = Fixture::bootstrapped("{replicas: 1}");
    set_issuer(&mut fixture, Domain::Client, cert_manager("pki"));
    // For half of its lifetime, it has less than a sixth of the desired leaf lifetime left.
    let short = Authority::create("short", DAY * 30, fixture.now).unwrap();
    let end = short.certificate().not_after();
    fixture.set_external(Domain::Client, short, vec![]);
    fixture.max_lifetime = DAY * 2;
    settle(&mut fixture, &[], &[]);
    while fixture.now < end - DAY {
        fixture.now += DAY / 3;
        fixture.check_trust(&[], &[]);
        settle(&mut fixture, &[], &[]);
    }
}

#[test]
fn an_issuer_that_no_longer_signs_can_be_replaced() {
    for (issuer, name) in [(cert_manager("pki"), "Issuer pki"), (ca_secret("company"), "the CA in Secret company")] {
        let mut fixture = Fixture::bootstrapped("{}");
        set_issuer(&mut fixture, Domain::Client, issuer);
        let external = authority("external", &fixture);
        fixture.set_external(Domain::Client, external, vec![]);
        settle(&mut fixture, &[], &[]);
        fixture.refusing.insert(name.into());
        fixture.now += DAY * 61;
        for _ in 0..20 {
            fixture.pass();
            fixture.check_trust(&[], &[]);
        }
        let peer = |fixture: &Fixture| {
            let leaf =
                fixture.observed.members.values().next().unwrap().secret.as_ref().unwrap().certificate(member_key::PEER_CRT);
            leaf.unwrap().unwrap().not_before()
        };
        assert!(peer(&fixture) > fixture.now - DAY, "certificates that the operator signs are still renewed");
        set_issuer(&mut fixture, Domain::Client, IssuerSpec::default());
        settle(&mut fixture, &[], &[]);
        assert_eq!(domain(&fixture, Domain::Client).active.issuer, None);
    }
}

#[test]
fn a_healthy_member_is_not_replaced_while_no_certificates_can_be_issued() {
    let mut fixture = Fixture::bootstrapped("{}");
    set_issuer(&mut fixture, Domain::Client, cert_manager("pki"));
    let external = authority("external", &fixture);
    fixture.set_external(Domain::Client, external, vec![]);
    settle(&mut fixture, &[], &[]);
    set_issuer(&mut fixture, Domain::Client, IssuerSpec::default());
    while domain(&fixture, Domain::Client).phase.is_none() {
        fixture.pass();
    }
    fixture.cluster.metadata.annotations = Some([(key::REPLACE.to_owned(), "demo-1".to_owned())].into());
    fixture.pass();
    let waiting = "once a new member can be given certificates";
    let is_reported = fixture.changes().progress.iter().any(|note| note.message.contains(waiting));
    assert!(is_reported && !fixture.taken.contains(&"RemoveMember demo-1".to_owned()), "{:?}", fixture.taken);
    while !fixture.taken.contains(&"RemoveMember demo-1".to_owned()) {
        fixture.pass();
    }
    assert_eq!(domain(&fixture, Domain::Client).active.issuer, None);
    settle(&mut fixture, &[], &[]);
    assert_eq!(fixture.etcd.len(), 3);
}

#[test]
fn the_issuer_can_be_changed_before_the_cluster_is_bootstrapped() {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {certManager: {name: pki}}}}}");
    let external = authority("external", &fixture);
    fixture.set_external(Domain::Client, external, vec![]);
    fixture.refusing.insert("Issuer pki".into());
    for _ in 0..20 {
        fixture.pass();
    }
    assert!(fixture.observed.members.values().all(|member| member.secret.is_none()), "no certificate, no member");
    set_issuer(&mut fixture, Domain::Client, IssuerSpec::default());
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.issuer, None);
    assert_eq!(fixture.observed.status.ready.as_deref(), Some("3/3"));
}

#[test]
fn an_issuer_is_asked_for_a_new_authority_before_the_existing_one_expires() {
    let mut fixture = Fixture::bootstrapped("{}");
    set_issuer(&mut fixture, Domain::Client, cert_manager("pki"));
    // No leaf is ever due for renewal, because a new one could not outlive the existing ones.
    let short = Authority::create("short", DAY * 90, fixture.now).unwrap();
    fixture.set_external(Domain::Client, short, vec![]);
    settle(&mut fixture, &[], &[]);
    let second = Authority::create("second", DAY * 90, fixture.now + DAY * 50).unwrap();
    fixture.now += DAY * 55;
    fixture.set_external(Domain::Client, second, vec![]);
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.name, "short");
    let requested = |fixture: &mut Fixture, passes| -> usize {
        let probes = (0..passes).flat_map(|_| fixture.pass().changes().issuer_probes);
        probes.filter(|probe| matches!(probe, IssuerProbe::Request(_))).count()
    };
    fixture.now += DAY * 7;
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.name, "second");
    // While the issuer has no new authority, it is asked at intervals, and nothing else is done.
    fixture.now += DAY * 60;
    settle(&mut fixture, &[], &[]);
    assert_eq!(requested(&mut fixture, 50), 0);
    fixture.now += DAY * 2;
    assert_eq!(requested(&mut fixture, 50), 1);
}

#[test]
fn an_expired_authority_is_replaced_by_one_created_before_the_expiry() {
    let mut fixture = bootstrapped_with_short_lived_authority();
    // No pass was made between its creation and the expiry of the old authority.
    let new = Authority::create("new", DAY * 3650, fixture.now + DAY * 20).unwrap();
    fixture.now += DAY * 31;
    fixture.set_external(Domain::Client, new, vec![]);
    fixture.divided = true;
    for _ in 0..20 {
        fixture.pass();
    }
    fixture.divided = false;
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).active.name, "new");
}

#[test]
fn authorities_of_one_issuing_chain_are_refused_for_both_domains() {
    for swap in [false, true] {
        let mut fixture = Fixture::bootstrapped("{}");
        let (intermediate, root) = intermediate_authority("intermediate", &fixture);
        // Its key is not needed: only the issuing chain matters.
        let root_only = ExternalAuthority { authority: root[0].clone(), ancestors: vec![] };
        let [one, two] = if swap { [Domain::Peer, Domain::Client] } else { [Domain::Client, Domain::Peer] };
        set_issuer(&mut fixture, one, ca_secret("intermediate"));
        fixture.set_external(one, intermediate, root);
        settle(&mut fixture, &[], &[]);
        set_issuer(&mut fixture, two, ca_secret("root"));
        fixture.observed.issuer_answers[two] = Some(IssuerAnswer { requested_at: None, authority: Ok(root_only) });
        assert_eq!(problem_reasons(&fixture.changes()), [Reason::SharedCA], "{two} has the root of {one}");
    }
}

#[test]
fn a_renewed_root_reaches_clients_without_a_restart() {
    let mut fixture = Fixture::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let (company, root) = intermediate_authority("company", &fixture);
    let again = Authority::load(company.certificate().pem().as_bytes(), company.key_pem()).unwrap();
    fixture.set_external(Domain::Client, company, vec![]);
    settle(&mut fixture, &[], &[]);
    let taken = fixture.taken.len();
    fixture.set_external(Domain::Client, again, root.clone());
    settle(&mut fixture, &[], &[]);
    assert!(client_bundle(&fixture).ends_with(root[0].pem().as_bytes()));
    assert_eq!(steps(&fixture, taken), ROTATION, "no member is restarted");
}

/// For years issuers and their authorities change repeatedly. At every moment all members and clients trust each other.
#[test]
fn trust_is_never_interrupted_for_years_while_issuers_change() {
    let mut faults = RandomFaults::enabled();
    let mut fixture = Fixture::bootstrapped("{}");
    let mut active_issuers = std::collections::BTreeSet::new();
    for year in 0..12 {
        let of = Domain::ALL[year % 2];
        let issuer =
            [IssuerSpec::default(), ca_secret("one"), cert_manager("two"), cert_manager("three")][year / 2 * 7 % 4].clone();
        // The other domain keeps its own issuer.
        let issuer =
            if of == Domain::Peer && issuer != IssuerSpec::default() { ca_secret(&format!("peer {year}")) } else { issuer };
        let built_in = issuer == IssuerSpec::default();
        set_issuer(&mut fixture, of, issuer);
        if !built_in {
            let external = authority(&format!("external {year}"), &fixture);
            fixture.set_external(of, external, vec![]);
        }
        settle_with(&mut fixture, &[], &[], &mut faults);
        let known = [client_bundle(&fixture)];
        advance_time_with(&mut fixture, DAY * 150, &[], &known, &mut faults);
        active_issuers.insert(domain(&fixture, of).active.issuer);
    }
    assert!(active_issuers.len() > 4, "{active_issuers:?}");
}
