use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};

use super::*;
use crate::{
    api::{self, CaSecret, CertManagerIssuer, IssuerSpec},
    cluster::{
        fixtures::World,
        plan::rotation::tests::{DAY, Mishaps, age, age_with, config, domain, settle, settle_with, steps, wish},
    },
    names::{annotation as key, member_key},
    pki::Authority,
};

fn ca_secret(name: &str) -> IssuerSpec {
    IssuerSpec { ca_secret: Some(CaSecret { name: name.into() }), cert_manager: None }
}

fn cert_manager(name: &str) -> IssuerSpec {
    let issuer = CertManagerIssuer { name: name.into(), kind: "Issuer".into(), group: "cert-manager.io".into() };
    IssuerSpec { ca_secret: None, cert_manager: Some(issuer) }
}

/// What a domain's certificates are to be issued by.
fn choose(world: &mut World, of: Domain, issuer: IssuerSpec) {
    let tls = &mut world.cluster.spec.tls;
    match of {
        Domain::Client => tls.client.issuer = issuer,
        Domain::Peer => tls.peer.issuer = issuer,
    }
    // What was known of the issuer before is nothing that is looked at any more.
    world.observed.offers.remove(&of);
}

fn authority(name: &str, world: &World) -> Authority {
    Authority::create(name, DAY * 3650, world.now).unwrap()
}

/// A cluster whose clients' authority in a Secret ends after a month.
fn founded_by_a_short_authority() -> World {
    let mut world = World::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let short = Authority::create("short", DAY * 30, world.now).unwrap();
    world.bring(Domain::Client, short, vec![]);
    settle(&mut world, &[], &[]);
    world
}

/// An authority below an offline root, and that.
fn below_a_root(name: &str, world: &World) -> (Authority, Vec<Certificate>) {
    let params = |name: &str, constraints| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(constraints);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.use_authority_key_identifier_extension = true;
        let date = |at: Timestamp| time::OffsetDateTime::from_unix_timestamp(at.as_second()).unwrap();
        (params.not_before, params.not_after) = (date(world.now - DAY), date(world.now + DAY * 3650));
        params
    };
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = params("an offline root", BasicConstraints::Unconstrained);
    let certificate = root.self_signed(&root_key).unwrap();
    let issuer = rcgen::Issuer::from_params(&root, &root_key);
    let below = params(name, BasicConstraints::Constrained(0)).signed_by(&key, &issuer).unwrap();
    let root = Certificate::from_der(certificate.der()).unwrap();
    let below = Certificate::from_der(below.der()).unwrap();
    let key = key.serialize_pem();
    (Authority::load(below.pem().as_bytes(), key.as_bytes()).unwrap(), vec![root])
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.certificates.iter().chain(&plan.problems).map(|note| note.reason).collect()
}

/// The files of the first member.
fn file(world: &World, key: &str) -> Vec<u8> {
    world.observed.members.values().next().unwrap().secret.as_ref().unwrap().data[key].clone()
}

#[test]
fn a_cluster_is_founded_by_an_authority_below_an_offline_root() {
    let mut world = World::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let plan = world.plan();
    assert_eq!(plan.authorities.len(), 1, "the peer domain has the built-in one");
    assert!(plan.secrets.is_empty(), "nothing is issued before both are there");
    let (company, root) = below_a_root("company", &world);
    world.bring(Domain::Client, company, root.clone());
    settle(&mut world, &[], &[]);
    let status = domain(&world, Domain::Client);
    assert_eq!((status.active.name.as_str(), status.next.name.as_str()), ("company", "company"));
    assert_eq!(status.active.issuer.as_deref(), Some("the authority in Secret company"));
    assert_eq!(domain(&world, Domain::Peer).active.issuer, None);
    assert_eq!(
        world.trusted(member_key::CLIENT_CA).into_iter().collect::<Vec<_>>(),
        ["company"],
        "and nobody else below its root"
    );
    assert!(config(&world).ends_with(root[0].pem().as_bytes()), "clients may verify up to the root");
    let shown = file(&world, member_key::SERVER_CRT);
    let shown = crate::pki::read_bundle(&shown).unwrap();
    assert_eq!(shown.iter().map(Certificate::common_name).collect::<Vec<_>>(), ["etcd-warden:server", "company"]);
    // Years in which nothing becomes of it but renewals.
    let taken = world.taken.len();
    let known = [config(&world)];
    age(&mut world, DAY * 600, &[], &known);
    assert!(steps(&world, taken).is_empty(), "{:?}", steps(&world, taken));
}

#[test]
fn issuers_are_changed_while_everybody_believes_everybody() {
    for of in [Domain::Client, Domain::Peer] {
        let mut world = World::founded("{}");
        let mut generation = 0;
        for (issuer, name) in [
            (ca_secret("company"), "the authority in Secret company"),
            (cert_manager("pki"), "Issuer pki"),
            (cert_manager("other"), "Issuer other"),
            (ca_secret("company"), "the authority in Secret company"),
            (IssuerSpec::default(), "the built-in issuer"),
            (cert_manager("pki"), "Issuer pki"),
            (IssuerSpec::default(), "the built-in issuer"),
        ] {
            generation += 1;
            let taken = world.taken.len();
            let built_in = issuer == IssuerSpec::default();
            choose(&mut world, of, issuer);
            let wanted = format!("theirs {generation}");
            if !built_in {
                let theirs = authority(&wanted, &world);
                world.bring(of, theirs, vec![]);
            }
            settle(&mut world, &[], &[]);
            let what: Vec<_> =
                steps(&world, taken).into_iter().filter(|step| !step.contains("Restart") && !step.contains("Move")).collect();
            assert_eq!(what, ["PrepareRotation", "SwitchIssuer", "DropAuthority", "FinishRotation"], "{of} to {name}");
            let status = domain(&world, of);
            assert_eq!(status.active.issuer.as_deref().unwrap_or("the built-in issuer"), name);
            assert!(status.retiring.is_empty() && status.phase.is_none());
            assert_eq!(status.active == status.next, !built_in);
            assert!(built_in || status.active.name == wanted);
            world.now += RETRY;
            settle(&mut world, &[], &[]);
            assert!(world.plan().is_empty(), "nothing is left of it: {:#?}", world.plan());
        }
    }
}

#[test]
fn a_secret_that_holds_another_authority_starts_a_rotation() {
    let mut world = World::new("{tls: {peer: {issuer: {caSecret: {name: company}}}}}");
    let first = authority("first", &world);
    world.bring(Domain::Peer, first, vec![]);
    settle(&mut world, &[], &[]);
    let second = authority("second", &world);
    world.bring(Domain::Peer, second, vec![]);
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Peer).active.name, "second");
    assert_eq!(world.trusted(member_key::PEER_CA).into_iter().collect::<Vec<_>>(), ["second"]);
}

#[test]
fn a_secret_that_is_gone_or_useless_is_told_of_and_its_authority_goes_on() {
    let mut world = World::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let company = authority("company", &world);
    world.bring(Domain::Client, company, vec![]);
    settle(&mut world, &[], &[]);
    let offer = world.observed.offers[&Domain::Client].clone();
    let gone = Offered { asked: None, answer: Err(NoOffer::Unusable("there is no such Secret".into())) };
    world.observed.offers.insert(Domain::Client, gone);
    world.now += DAY * 61;
    for _ in 0..10 {
        world.pass();
        world.check_trust(&[], &[]);
    }
    let report = world.report();
    let certificates = api::condition(&report.status.conditions, "CertificatesReady").unwrap();
    assert_eq!((certificates.status.as_str(), certificates.reason.as_str()), ("False", "IssuerUnusable"));
    assert!(certificates.message.contains("there is no such Secret"), "{}", certificates.message);
    assert!(world.plan().secrets.is_empty(), "what was due has been renewed");
    world.observed.offers.insert(Domain::Client, offer);
    settle(&mut world, &[], &[]);
}

#[test]
fn an_issuer_that_cannot_be_used_keeps_nobody_from_anything_else() {
    let mut world = World::founded("{}");
    choose(&mut world, Domain::Client, ca_secret("company"));
    let useless = Offered { asked: None, answer: Err(NoOffer::Unusable("it may not sign for these names".into())) };
    world.observed.offers.insert(Domain::Client, useless);
    wish(&mut world, "peer");
    world.cluster.spec.replicas = 5;
    for _ in 0..400 {
        world.pass();
        world.check_trust(&[], &[]);
    }
    assert_eq!(world.etcd.len(), 5);
    let (client, peer) = (domain(&world, Domain::Client), domain(&world, Domain::Peer));
    assert!(peer.active.name.ends_with('3') && peer.phase.is_none(), "{peer:?}");
    assert!(client.active.name.ends_with('1') && client.phase.is_none(), "{client:?}");
    let report = world.report();
    let told = api::condition(&report.status.conditions, "CertificatesReady").unwrap();
    assert_eq!((told.status.as_str(), told.reason.as_str()), ("False", "IssuerUnusable"));
    assert!(told.message.contains("it may not sign for these names"), "{}", told.message);
}

#[test]
fn certificates_of_an_authority_that_is_not_trusted_yet_are_held_back() {
    let mut world = World::new("{tls: {client: {issuer: {certManager: {name: pki}}}}}");
    let first = authority("first", &world);
    world.bring(Domain::Client, first, vec![]);
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.issuer.as_deref(), Some("Issuer pki"));
    world.now += RETRY;
    settle(&mut world, &[], &[]);
    assert!(world.observed.offers.is_empty(), "what it was asked for is not needed any more");
    let second = authority("second", &world);
    world.bring(Domain::Client, second, vec![]);
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(domain(&world, Domain::Client).active.name, "first", "nobody knows, until something is to be signed");
    world.now += DAY * 61;
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.name, "second");
}

#[test]
fn one_authority_for_both_domains_is_refused() {
    let mut world = World::founded("{}");
    let shared = authority("shared", &world);
    let again = Authority::load(shared.certificate().pem().as_bytes(), shared.key_pem()).unwrap();
    for (of, issuer, theirs) in [(Domain::Client, ca_secret("one"), shared), (Domain::Peer, cert_manager("two"), again)] {
        choose(&mut world, of, issuer);
        world.bring(of, theirs, vec![]);
        if of == Domain::Client {
            settle(&mut world, &[], &[]);
        }
    }
    let taken = world.taken.len();
    for _ in 0..20 {
        world.pass();
    }
    assert!(steps(&world, taken).is_empty());
    let plan = world.plan();
    assert_eq!(reasons(&plan), ["SameAuthority"]);
    assert!(plan.certificates[0].message.contains("Choose another issuer for the peer domain"), "{:?}", plan.certificates);
    // Its user has corrected the issuer, and it is asked again after a while.
    let other = authority("another", &world);
    world.bring(Domain::Peer, other, vec![]);
    world.now += RETRY;
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Peer).active.name, "another");
}

#[test]
fn a_new_cluster_with_one_authority_for_both_is_not_made() {
    let mut world = World::new("{tls: {client: {issuer: {caSecret: {name: one}}}, peer: {issuer: {caSecret: {name: two}}}}}");
    let shared = authority("shared", &world);
    let again = Authority::load(shared.certificate().pem().as_bytes(), shared.key_pem()).unwrap();
    world.bring(Domain::Client, shared, vec![]);
    world.bring(Domain::Peer, again, vec![]);
    let plan = world.plan();
    assert_eq!(reasons(&plan), ["SameAuthority", "SameAuthority"]);
    assert!(plan.authorities.is_empty() && plan.secrets.is_empty());
}

#[test]
fn another_issuer_may_be_chosen_in_the_middle_of_a_rotation() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        let mut world = World::founded("{}");
        choose(&mut world, Domain::Client, ca_secret("wrong"));
        let wrong = authority("wrong", &world);
        world.bring(Domain::Client, wrong, vec![]);
        while domain(&world, Domain::Client).phase.as_deref() != Some(phase) {
            world.pass();
            world.check_trust(&[], &[]);
        }
        choose(&mut world, Domain::Client, ca_secret("right"));
        let right = authority("right", &world);
        world.bring(Domain::Client, right, vec![]);
        settle(&mut world, &[], &[]);
        assert_eq!(domain(&world, Domain::Client).active.name, "right", "{phase}");
        assert_eq!(world.trusted(member_key::CLIENT_CA).into_iter().collect::<Vec<_>>(), ["right"]);
    }
}

#[test]
fn a_rotation_that_is_asked_for_needs_another_authority_of_the_issuer() {
    for issuer in [ca_secret("company"), cert_manager("company")] {
        let mut world = World::founded("{}");
        choose(&mut world, Domain::Client, issuer);
        let company = authority("company", &world);
        world.bring(Domain::Client, company, vec![]);
        settle(&mut world, &[], &[]);
        wish(&mut world, "client");
        for _ in 0..20 {
            world.pass();
        }
        assert_eq!(domain(&world, Domain::Client).phase, None);
        assert_eq!(reasons(&world.plan()), ["CannotRotate"]);
        let other = authority("another", &world);
        world.bring(Domain::Client, other, vec![]);
        world.now += RETRY;
        settle(&mut world, &[], &[]);
        assert_eq!(domain(&world, Domain::Client).active.name, "another");
        assert!(!world.cluster.metadata.annotations.clone().unwrap().contains_key(key::ROTATE_CA));
    }
}

#[test]
fn an_authority_of_somebody_elses_that_expired_is_replaced_as_soon_as_there_is_another() {
    let mut world = founded_by_a_short_authority();
    world.now += DAY * 31;
    let expired = Offered { asked: None, answer: Err(NoOffer::Unusable("it has expired".into())) };
    world.observed.offers.insert(Domain::Client, expired);
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(domain(&world, Domain::Client).active.name, "short");
    assert!(reasons(&world.plan()).contains(&"IssuerUnusable"), "{:?}", world.plan().certificates);
    let degraded = world.report();
    let degraded = api::condition(&degraded.status.conditions, "Degraded").unwrap();
    assert_eq!(degraded.reason, "AuthorityExpired", "{}", degraded.message);
    let new = authority("new", &world);
    world.bring(Domain::Client, new, vec![]);
    // Nobody is believed by whom the operator could ask who leads.
    world.divided = true;
    for _ in 0..20 {
        world.pass();
    }
    world.divided = false;
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.name, "new");
}

#[test]
fn shorter_lives_than_asked_for_are_told_of() {
    for (issuer, told) in [(ca_secret("company"), false), (cert_manager("pki"), true)] {
        let mut world = World::founded("{}");
        choose(&mut world, Domain::Client, issuer);
        let company = authority("company", &world);
        world.bring(Domain::Client, company, vec![]);
        settle(&mut world, &[], &[]);
        assert!(world.plan().remarks.is_empty());
        // As if the issuer had not given what is wanted now.
        world.cluster.spec.tls.client.certificate.duration = api::Duration("8000h".into());
        let remark = "certificates of Issuer pki live for 2160 hours where 8000 are wanted now";
        assert_eq!(world.plan().remarks, if told { vec![remark] } else { vec![] });
        let report = world.report();
        let ready = api::condition(&report.status.conditions, "CertificatesReady").unwrap();
        assert_eq!((ready.status.as_str(), ready.message.contains(remark)), ("True", told), "{}", ready.message);
    }
}

#[test]
fn certificates_that_live_shorter_than_wanted_are_renewed_in_time_until_their_authority_ends() {
    let mut world = World::founded("{replicas: 1}");
    choose(&mut world, Domain::Client, cert_manager("pki"));
    // Less than a sixth of what is wanted is left of it for half of its life.
    let short = Authority::create("short", DAY * 30, world.now).unwrap();
    let end = short.certificate().not_after();
    world.bring(Domain::Client, short, vec![]);
    world.longest = DAY * 2;
    settle(&mut world, &[], &[]);
    while world.now < end - DAY {
        world.now += DAY / 3;
        world.check_trust(&[], &[]);
        settle(&mut world, &[], &[]);
    }
}

#[test]
fn an_issuer_that_signs_nothing_can_be_left() {
    for (issuer, name) in [(cert_manager("pki"), "Issuer pki"), (ca_secret("company"), "the authority in Secret company")] {
        let mut world = World::founded("{}");
        choose(&mut world, Domain::Client, issuer);
        let theirs = authority("theirs", &world);
        world.bring(Domain::Client, theirs, vec![]);
        settle(&mut world, &[], &[]);
        world.refusing.insert(name.into());
        world.now += DAY * 61;
        for _ in 0..20 {
            world.pass();
            world.check_trust(&[], &[]);
        }
        let peer = |world: &World| {
            let leaf = world.observed.members.values().next().unwrap().secret.as_ref().unwrap().certificate(member_key::PEER_CRT);
            leaf.unwrap().unwrap().not_before()
        };
        assert!(peer(&world) > world.now - DAY, "what the operator signs itself is renewed all the same");
        choose(&mut world, Domain::Client, IssuerSpec::default());
        settle(&mut world, &[], &[]);
        assert_eq!(domain(&world, Domain::Client).active.issuer, None);
    }
}

#[test]
fn who_serves_is_not_replaced_while_no_other_could_be_given_certificates() {
    let mut world = World::founded("{}");
    choose(&mut world, Domain::Client, cert_manager("pki"));
    let theirs = authority("theirs", &world);
    world.bring(Domain::Client, theirs, vec![]);
    settle(&mut world, &[], &[]);
    choose(&mut world, Domain::Client, IssuerSpec::default());
    while domain(&world, Domain::Client).phase.is_none() {
        world.pass();
    }
    world.cluster.metadata.annotations = Some([(key::REPLACE.to_owned(), "demo-1".to_owned())].into());
    world.pass();
    let told = world.plan().waits.iter().any(|note| note.message.contains("as soon as another can be given certificates"));
    assert!(told && !world.taken.contains(&"RemoveMember demo-1".to_owned()), "{:?}", world.taken);
    while !world.taken.contains(&"RemoveMember demo-1".to_owned()) {
        world.pass();
    }
    assert_eq!(domain(&world, Domain::Client).active.issuer, None);
    settle(&mut world, &[], &[]);
    assert_eq!(world.etcd.len(), 3);
}

#[test]
fn a_cluster_that_could_not_be_founded_can_have_another_issuer() {
    let mut world = World::new("{tls: {client: {issuer: {certManager: {name: pki}}}}}");
    let theirs = authority("theirs", &world);
    world.bring(Domain::Client, theirs, vec![]);
    world.refusing.insert("Issuer pki".into());
    for _ in 0..20 {
        world.pass();
    }
    assert!(world.observed.members.values().all(|member| member.secret.is_none()), "no certificate, no member");
    choose(&mut world, Domain::Client, IssuerSpec::default());
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.issuer, None);
    assert_eq!(world.observed.status.ready.as_deref(), Some("3/3"));
}

#[test]
fn an_issuer_is_asked_for_another_authority_before_the_one_that_there_is_ends() {
    let mut world = World::founded("{}");
    choose(&mut world, Domain::Client, cert_manager("pki"));
    // No leaf is ever due: none could outlive those that there are.
    let short = Authority::create("short", DAY * 90, world.now).unwrap();
    world.bring(Domain::Client, short, vec![]);
    settle(&mut world, &[], &[]);
    let second = Authority::create("second", DAY * 90, world.now + DAY * 50).unwrap();
    world.now += DAY * 55;
    world.bring(Domain::Client, second, vec![]);
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.name, "short");
    let asked = |world: &mut World, passes| -> usize {
        (0..passes).map(|_| world.pass().plan.inquiries.iter().filter(|inquiry| matches!(inquiry, Inquiry::Ask(_))).count()).sum()
    };
    world.now += DAY * 7;
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.name, "second");
    // While there is no other one, it is asked once in a while and nothing else is done.
    world.now += DAY * 60;
    settle(&mut world, &[], &[]);
    assert_eq!(asked(&mut world, 50), 0);
    world.now += DAY * 2;
    assert_eq!(asked(&mut world, 50), 1);
}

#[test]
fn an_authority_that_was_there_before_the_old_one_expired_takes_its_place() {
    let mut world = founded_by_a_short_authority();
    // Nobody looked while it was put there and the other one ended.
    let new = Authority::create("new", DAY * 3650, world.now + DAY * 20).unwrap();
    world.now += DAY * 31;
    world.bring(Domain::Client, new, vec![]);
    world.divided = true;
    for _ in 0..20 {
        world.pass();
    }
    world.divided = false;
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).active.name, "new");
}

#[test]
fn one_authority_above_the_other_is_refused() {
    for swap in [false, true] {
        let mut world = World::founded("{}");
        let (below, root) = below_a_root("below", &world);
        // Its key is nobody's: what matters is who stands above whom.
        let above = root[0].clone();
        let key = |certificate: &Certificate| Offer { authority: certificate.clone(), above: vec![] };
        let [one, two] = if swap { [Domain::Peer, Domain::Client] } else { [Domain::Client, Domain::Peer] };
        choose(&mut world, one, ca_secret("below"));
        world.bring(one, below, root);
        settle(&mut world, &[], &[]);
        choose(&mut world, two, ca_secret("above"));
        world.observed.offers.insert(two, Offered { asked: None, answer: Ok(key(&above)) });
        assert_eq!(reasons(&world.plan()), ["SameAuthority"], "{two} above {one}");
    }
}

#[test]
fn a_root_that_was_renewed_reaches_clients_without_a_restart() {
    let mut world = World::new("{tls: {client: {issuer: {caSecret: {name: company}}}}}");
    let (company, root) = below_a_root("company", &world);
    let again = Authority::load(company.certificate().pem().as_bytes(), company.key_pem()).unwrap();
    world.bring(Domain::Client, company, vec![]);
    settle(&mut world, &[], &[]);
    let taken = world.taken.len();
    world.bring(Domain::Client, again, root.clone());
    settle(&mut world, &[], &[]);
    assert!(config(&world).ends_with(root[0].pem().as_bytes()));
    let what = steps(&world, taken);
    assert_eq!(what, ["PrepareRotation", "SwitchIssuer", "DropAuthority", "FinishRotation"], "nobody is restarted");
}

/// Years in which issuers and their authorities change again and again: at every moment everybody believes everybody.
#[test]
fn everybody_is_believed_for_years_whoever_signs() {
    let mut mishaps = Mishaps::begin();
    let mut world = World::founded("{}");
    let mut seen = std::collections::BTreeSet::new();
    for year in 0..12 {
        let of = Domain::ALL[year % 2];
        let issuer =
            [IssuerSpec::default(), ca_secret("one"), cert_manager("two"), cert_manager("three")][year / 2 * 7 % 4].clone();
        // The other domain keeps its own.
        let issuer =
            if of == Domain::Peer && issuer != IssuerSpec::default() { ca_secret(&format!("peers {year}")) } else { issuer };
        let built_in = issuer == IssuerSpec::default();
        choose(&mut world, of, issuer);
        if !built_in {
            let theirs = authority(&format!("theirs {year}"), &world);
            world.bring(of, theirs, vec![]);
        }
        settle_with(&mut world, &[], &[], &mut mishaps);
        let known = [config(&world)];
        age_with(&mut world, DAY * 150, &[], &known, &mut mishaps);
        seen.insert(domain(&world, of).active.issuer);
    }
    assert!(seen.len() > 4, "{seen:?}");
}
