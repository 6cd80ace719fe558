use std::collections::BTreeSet;

use jiff::SignedDuration;

use super::*;
use crate::{
    cluster::fixtures::{Pass, World, names},
    names::authority_key,
    pki::{Authority, Serial},
};

pub const DAY: SignedDuration = SignedDuration::from_hours(24);

pub fn wish(world: &mut World, domains: &str) {
    world.cluster.metadata.annotations.get_or_insert_default().insert(key::ROTATE_CA.into(), domains.into());
}

pub fn domain(world: &World, domain: Domain) -> DomainStatus {
    reported(&world.observed, domain).unwrap().clone()
}

fn names_of(status: &DomainStatus) -> [String; 2] {
    [&status.active, &status.next].map(|authority| authority.name.rsplit(' ').next().unwrap().to_owned())
}

pub fn steps(world: &World, from: usize) -> Vec<String> {
    world.taken[from..].to_vec()
}

/// Passes until nothing is planned, with everybody believing everybody after each.
pub fn settle(world: &mut World, clients: &[Certificate], bundles: &[Vec<u8>]) -> Vec<Pass> {
    settle_with(world, clients, bundles, &mut Mishaps::default())
}

/// The same while mishaps befall the members.
pub fn settle_with(world: &mut World, clients: &[Certificate], bundles: &[Vec<u8>], mishaps: &mut Mishaps) -> Vec<Pass> {
    let mut passes = vec![];
    for _ in 0..400 {
        mishaps.befall(world);
        let pass = world.pass();
        world.check_trust(clients, bundles);
        let planned = &pass.plan;
        let done = planned.is_empty()
            && planned.waits.is_empty()
            && planned.certificates.is_empty()
            && (world.silent.is_empty() || mishaps.0.is_none());
        passes.push(pass);
        if done {
            return passes;
        }
    }
    panic!("never settles: {:#?}", world.plan());
}

/// Time goes by, in which certificates are renewed.
pub fn age(world: &mut World, time: SignedDuration, clients: &[Certificate], bundles: &[Vec<u8>]) {
    age_with(world, time, clients, bundles, &mut Mishaps::default());
}

/// The same while mishaps befall the members.
pub fn age_with(world: &mut World, time: SignedDuration, clients: &[Certificate], bundles: &[Vec<u8>], mishaps: &mut Mishaps) {
    let until = world.now + time;
    while world.now < until {
        world.now = until.min(world.now + DAY * 25);
        // Before the operator has looked.
        world.check_trust(clients, bundles);
        settle_with(world, clients, bundles, mishaps);
    }
}

/// What befalls members now and then, the same each time: a pod is made anew, so that it starts with other bundles than its fellows, or
/// a member does not answer for a while. None by default.
#[derive(Default)]
pub struct Mishaps(Option<u64>);

impl Mishaps {
    pub fn begin() -> Self {
        Self(Some(1))
    }

    fn befall(&mut self, world: &mut World) {
        let Some(state) = &mut self.0 else { return };
        let mut below = |limit: usize| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*state >> 33).unwrap() % limit
        };
        // One at a time: two of three go on.
        if !world.silent.is_empty() {
            if below(8) == 0 {
                world.silent.clear();
            }
            return;
        }
        let ordinals = world.ordinals();
        let ordinal = ordinals[below(ordinals.len())];
        match below(16) {
            0 => world.member(ordinal).pod = None,
            1 => drop(world.silent.insert(names().member(ordinal))),
            _ => {}
        }
    }
}

pub fn config(world: &World) -> Vec<u8> {
    world.observed.ca_config.as_ref().unwrap().data.as_ref().unwrap()["ca.crt"].clone().into_bytes()
}

#[test]
fn the_next_authority_takes_over_in_time_and_nobody_restarts() {
    let mut world = World::founded("{}");
    let before = config(&world);
    let pods = |world: &World| -> Vec<_> {
        world.observed.members.values().map(|member| member.pod.as_ref().unwrap().metadata.uid.clone()).collect()
    };
    let (old_pods, old) = (pods(&world), domain(&world, Domain::Client));
    assert_eq!(names_of(&old), ["1", "2"]);
    // P = (43800 - 2160 - 1080) / 2 hours.
    let due = SignedDuration::from_hours(20_280);
    age(&mut world, due - DAY, &[], std::slice::from_ref(&before));
    let clients = [world.observed.operator.as_ref().unwrap().certificate("tls.crt").unwrap().unwrap()]
        .map(|leaf| Certificate::clone(&leaf));
    assert_eq!(names_of(&domain(&world, Domain::Client)), ["1", "2"], "a day before");
    let taken = world.taken.len();
    age(&mut world, DAY, &clients, &[before]);
    assert_eq!(steps(&world, taken), ["SwitchIssuer", "SwitchIssuer"]);
    assert_eq!(pods(&world), old_pods, "nobody was restarted");
    for of in [Domain::Client, Domain::Peer] {
        let now = domain(&world, of);
        assert_eq!(names_of(&now), ["2", "3"]);
        assert_eq!(now.retiring.len(), 1, "what it signed is accepted until it expires");
        assert_eq!(now.phase, None);
    }
    assert!(world.plan().is_empty());
    // The bundles with the third are taken up at each member's next start, or after half of the time until it signs.
    let taken = world.taken.len();
    let known = [config(&world)];
    age(&mut world, due / 2 - DAY, &[], &known);
    assert_eq!(pods(&world), old_pods, "{:?}", steps(&world, taken));
    age(&mut world, DAY * 2, &[], &known);
    let restarts = steps(&world, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 3, "{:?}", steps(&world, taken));
    assert_ne!(pods(&world), old_pods);
}

/// Years in which nobody looks: at every moment everybody believes everybody, clients with any certificate that has not expired
/// and with any `ca.crt` that they have read within the time for which an authority signs.
#[test]
fn everybody_is_believed_for_years() {
    let mut mishaps = Mishaps::begin();
    let mut world = World::founded(
        "{tls: {client: {authority: {duration: 8760h}, certificate: {duration: 2160h}}, peer: {authority: {duration: 10000h}, certificate: {duration: 2000h}}}}",
    );
    // (8760 - 2160 - 1080) / 2 hours.
    let promise = SignedDuration::from_hours(2760);
    let mut clients: Vec<Certificate> = vec![];
    // Each with when it could be read last.
    let mut bundles: Vec<(Timestamp, Vec<u8>)> = vec![];
    let mut most = 0;
    let end = world.now + SignedDuration::from_hours(24 * 365 * 4);
    let mut seen = BTreeSet::new();
    while world.now < end {
        world.now += DAY * 5;
        let leaf = Certificate::clone(&world.observed.operator.as_ref().unwrap().certificate("tls.crt").unwrap().unwrap());
        if clients.last() != Some(&leaf) {
            clients.push(leaf);
        }
        clients.retain(|leaf| leaf.not_after() >= world.now);
        let (now, read) = (world.now, config(&world));
        match bundles.last_mut() {
            Some((at, bundle)) if *bundle == read => *at = now,
            _ => bundles.push((now, read)),
        }
        bundles.retain(|(read, _)| now.duration_since(*read) <= promise);
        most = most.max(bundles.len());
        let held: Vec<_> = bundles.iter().map(|(_, bundle)| bundle.clone()).collect();
        world.check_trust(&clients, &held);
        settle_with(&mut world, &clients, &held, &mut mishaps);
        seen.insert(names_of(&domain(&world, Domain::Client))[0].clone());
    }
    assert!(most > 1, "somebody has not read it since");
    assert!(seen.len() >= 8, "a rotation each 115 days or so, {seen:?}");
    let status = domain(&world, Domain::Client);
    assert!(status.retiring.len() <= 3, "{:?}", status.retiring);
}

#[test]
fn a_rotation_that_is_asked_for_leaves_nobody_who_trusts_what_was_before() {
    for of in [Domain::Client, Domain::Peer] {
        let mut world = World::founded("{}");
        let bundle = if of == Domain::Client { member_key::CLIENT_CA } else { member_key::PEER_CA };
        let taken = world.taken.len();
        wish(&mut world, &of.to_string());
        let passes = settle(&mut world, &[], &[]);
        let what: Vec<_> =
            steps(&world, taken).into_iter().filter(|step| !step.contains("Restart") && !step.contains("Move")).collect();
        assert_eq!(what, ["PrepareRotation", "SwitchIssuer", "DropAuthority", "FinishRotation"]);
        let restarts = steps(&world, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
        assert_eq!(restarts, 6, "{:?} each once to know the new one and once to forget the old one", steps(&world, taken));
        let status = domain(&world, of);
        assert_eq!(names_of(&status), ["3", "4"], "the one that was next may be known too");
        assert!(status.retiring.is_empty() && status.phase.is_none());
        assert_eq!(world.trusted(bundle).len(), 2);
        assert!(world.trusted(bundle).iter().all(|name| name.ends_with('3') || name.ends_with('4')));
        let annotations = world.cluster.metadata.annotations.clone().unwrap();
        assert!(!annotations.contains_key(key::ROTATE_CA), "the wish is over as soon as it is stored");
        let told = passes.iter().flat_map(|pass| &pass.plan.wishes).filter_map(|wish| wish.told.as_ref());
        assert_eq!(told.map(|note| note.reason).collect::<Vec<_>>(), ["RotationBegun"]);
        let phases: Vec<_> = passes
            .iter()
            .filter_map(|pass| {
                let status = pass.report.status.certificates.clone().unwrap();
                if of == Domain::Client { status.client } else { status.peer }.unwrap().phase
            })
            .collect();
        let mut in_order = phases.clone();
        in_order.dedup();
        assert_eq!(in_order, ["Distributing", "Reissuing", "Dropping"]);
        let other = if of == Domain::Client { Domain::Peer } else { Domain::Client };
        assert_eq!(names_of(&domain(&world, other)), ["1", "2"], "the other domain is as it was");
    }
}

#[test]
fn a_rotation_waits_for_a_member_that_cannot_be_confirmed_and_says_so() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        let mut world = World::founded("{}");
        wish(&mut world, "peer");
        while domain(&world, Domain::Peer).phase.as_deref() != Some(phase) {
            world.pass();
        }
        world.silent.insert(names().member(1));
        for _ in 0..60 {
            world.pass();
        }
        assert_eq!(domain(&world, Domain::Peer).phase.as_deref(), Some(phase));
        let report = world.report();
        let progressing = crate::api::condition(&report.status.conditions, "Progressing").unwrap();
        let missing = progressing.message.split_once("missing: ").map(|(_, missing)| missing).unwrap_or_default();
        assert!(missing.contains("demo-1"), "{phase}: {}", progressing.message);
        world.silent.clear();
        settle(&mut world, &[], &[]);
        assert_eq!(names_of(&domain(&world, Domain::Peer)), ["3", "4"]);
    }
}

#[test]
fn a_rotation_goes_on_wherever_the_operator_dies() {
    for of in Domain::ALL {
        let mut world = World::founded("{}");
        let taken = world.taken.len();
        wish(&mut world, &of.to_string());
        // After no write, after one, after two, and so on: the status is written last.
        for writes in (0..5).cycle().take(600) {
            world.dies_after = Some(writes);
            world.pass();
            world.check_trust(&[], &[]);
        }
        assert!(world.deaths > 50, "{}", world.deaths);
        settle(&mut world, &[], &[]);
        let what: Vec<_> =
            steps(&world, taken).into_iter().filter(|step| !step.contains("Restart") && !step.contains("Move")).collect();
        assert_eq!(what, ["PrepareRotation", "SwitchIssuer", "DropAuthority", "FinishRotation"], "each once");
        assert_eq!(names_of(&domain(&world, of)), ["3", "4"]);
    }
}

/// The status is what an authority is known by: with one that is two turns behind nobody would know it any more.
#[test]
fn a_rotation_takes_one_turn_and_no_more_while_the_status_cannot_be_written() {
    const TURNS: [&str; 4] = ["PrepareRotation", "SwitchIssuer", "DropAuthority", "FinishRotation"];
    let turns = |steps: Vec<String>| steps.into_iter().filter(|step| TURNS.contains(&step.as_str())).collect::<Vec<_>>();
    for (phase, turn) in [None, Some("Distributing"), Some("Reissuing"), Some("Dropping")].into_iter().zip(TURNS) {
        let mut world = World::founded("{}");
        let begin = world.taken.len();
        wish(&mut world, "peer");
        while domain(&world, Domain::Peer).phase.as_deref() != phase {
            world.pass();
        }
        let (taken, told) = (world.taken.len(), world.observed.status.clone());
        for _ in 0..200 {
            world.pass();
            world.observed.status = told.clone();
            world.cluster.status = Some(told.clone());
        }
        assert_eq!(turns(steps(&world, taken)), [turn]);
        settle(&mut world, &[], &[]);
        assert_eq!(turns(steps(&world, begin)), TURNS);
        assert_eq!(names_of(&domain(&world, Domain::Peer)), ["3", "4"]);
    }
}

#[test]
fn clients_are_given_time_and_users_are_waited_for() {
    let mut world = World::founded("{}");
    wish(&mut world, "client");
    let begun = world.now;
    while domain(&world, Domain::Client).phase.as_deref() != Some("Reissuing") {
        world.pass();
    }
    assert!(world.now.duration_since(begun) >= CLIENTS, "kubelets need time to give clients the new ca.crt");
    let stale = crate::cluster::observed::SecretView::default().into();
    world.observed.user_secrets.insert("app".into(), stale);
    for _ in 0..200 {
        world.pass();
    }
    assert_eq!(domain(&world, Domain::Client).phase.as_deref(), Some("Reissuing"));
    let waits: Vec<_> = world.plan().waits.into_iter().map(|note| note.message).collect();
    assert!(waits.iter().any(|message| message.contains("EtcdUser app")), "{waits:?}");
    world.observed.user_secrets.clear();
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).phase, None);
}

#[test]
fn who_has_read_a_secret_is_known_by_when_it_was_written() {
    let mut world = World::founded("{}");
    wish(&mut world, "client");
    while domain(&world, Domain::Client).phase.is_none() {
        world.pass();
    }
    // Its Secret was refused for long, by a quota for example, and is written just now.
    world.now += SignedDuration::from_mins(10);
    world.pass();
    let mut secret = crate::cluster::observed::SecretView::default();
    secret.data.insert(tls_key::CA.into(), config(&world));
    secret.meta.annotations = Some([(key::WRITTEN_AT.to_owned(), world.now.to_string())].into());
    world.observed.user_secrets.insert("app".into(), secret.into());
    let written = world.now;
    while domain(&world, Domain::Client).phase.as_deref() == Some("Distributing") {
        world.pass();
    }
    assert!(world.now.duration_since(written) >= CLIENTS, "{}", world.now);
    assert!(world.now.duration_since(written) < CLIENTS * 2, "{}", world.now);
}

#[test]
fn a_lost_authority_is_healed_when_its_user_asks_for_it() {
    let lose: [fn(&mut Option<SeenSecret>); 6] = [
        |secret| *secret = None,
        |secret| drop(secret.as_mut().unwrap().data.remove(authority_key::ACTIVE_KEY)),
        |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::LEDGER.into(), b"x".to_vec())),
        |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::ISSUERS.into(), b"x".to_vec())),
        |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::ABOVE_CRT.into(), b"x".to_vec())),
        // A backup of another cluster's, whole and of no use.
        |secret| {
            let other = World::founded("{replicas: 1}").authority_secret(Domain::Client).clone().unwrap();
            secret.as_mut().unwrap().data.extend(other.data.clone());
        },
    ];
    for lose in lose {
        for of in [Domain::Client, Domain::Peer] {
            let mut world = World::founded("{}");
            lose(world.authority_secret(of));
            for _ in 0..5 {
                world.pass();
            }
            let told = crate::api::condition(&world.observed.status.conditions, "CertificatesReady").unwrap().clone();
            assert_eq!(told.reason, "AuthorityLost");
            assert!(told.message.contains(&format!("{}={of}", key::ROTATE_CA)), "{}", told.message);
            wish(&mut world, &of.to_string());
            settle(&mut world, &[], &[]);
            assert_eq!(names_of(&domain(&world, of)), ["3", "4"]);
            let ready = crate::api::condition(&world.observed.status.conditions, "CertificatesReady").unwrap();
            assert_eq!(ready.status, "True", "{}", ready.message);
        }
    }
}

#[test]
fn both_domains_at_once_and_in_the_middle_of_growing() {
    let mut world = World::founded("{}");
    world.cluster.spec.replicas = 5;
    wish(&mut world, "client, peer");
    settle(&mut world, &[], &[]);
    assert_eq!(world.etcd.len(), 5);
    for of in [Domain::Client, Domain::Peer] {
        assert_eq!(names_of(&domain(&world, of)), ["3", "4"]);
    }
}

#[test]
fn members_go_and_are_replaced_in_every_phase() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        for replicas in [3, 5] {
            let mut world = World::founded("{replicas: 5}");
            wish(&mut world, "peer");
            while domain(&world, Domain::Peer).phase.as_deref() != Some(phase) {
                world.pass();
            }
            if replicas == 5 {
                let annotations = world.cluster.metadata.annotations.get_or_insert_default();
                annotations.insert(key::REPLACE.into(), "demo-1".into());
            }
            world.cluster.spec.replicas = replicas;
            settle(&mut world, &[], &[]);
            assert_eq!(names_of(&domain(&world, Domain::Peer)), ["3", "4"], "{phase}");
            assert_eq!(world.etcd.len(), usize::try_from(replicas).unwrap(), "{phase}");
            assert!(replicas == 3 || world.taken.contains(&"RemoveMember demo-1".to_owned()), "{phase}");
        }
    }
}

#[test]
fn of_two_domains_the_one_that_cannot_begin_does_not_keep_the_other_rotating() {
    let mut world = World::founded("{replicas: 1}");
    world.observed.status.certificates.as_mut().unwrap().peer.as_mut().unwrap().active.key_id = "00".into();
    world.cluster.status = Some(world.observed.status.clone());
    wish(&mut world, "client,peer,pear");
    for _ in 0..300 {
        world.pass();
    }
    assert_eq!(names_of(&domain(&world, Domain::Client)), ["3", "4"], "once");
    assert_eq!(world.cluster.metadata.annotations.as_ref().unwrap()[key::ROTATE_CA], "peer,pear");
    let plan = world.plan();
    let reasons: Vec<_> = plan.problems.iter().map(|note| note.reason).collect();
    assert!(reasons.contains(&"CannotRotate") && reasons.contains(&"NoSuchDomain"), "{reasons:?}");
}

#[test]
fn a_succession_that_was_late_is_made_up_for() {
    let mut world = World::founded("{replicas: 1}");
    // So late that the one that then becomes the active one has not the time left that it would have had.
    world.cluster.spec.paused = true;
    world.now += SignedDuration::from_hours(30_000);
    world.pass();
    world.cluster.spec.paused = false;
    for _ in 0..30 {
        world.pass();
    }
    age(&mut world, SignedDuration::from_hours(20_000), &[], &[]);
    let status = domain(&world, Domain::Client);
    assert!(status.active.expires.parse::<Timestamp>().unwrap() > world.now, "{status:?}");
}

#[test]
fn the_next_one_takes_over_at_once_where_the_active_one_has_expired() {
    let mut world = World::founded("{}");
    age(&mut world, SignedDuration::from_hours(20_281), &[], &[]);
    assert_eq!(names_of(&domain(&world, Domain::Peer)), ["2", "3"]);
    // Nobody has started with the third, and nobody looks until the second has ended.
    world.now += SignedDuration::from_hours(43_800 - 20_281 + 1);
    world.divided = true;
    let taken = world.taken.len();
    for _ in 0..20 {
        world.pass();
    }
    let order = steps(&world, taken);
    assert_eq!(order[..2], ["SwitchIssuer", "SwitchIssuer"], "{order:?}");
    assert_eq!(order.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "{order:?}");
    world.divided = false;
    settle(&mut world, &[], &[]);
    assert_eq!(names_of(&domain(&world, Domain::Peer)), ["3", "4"]);
}

#[test]
fn nobody_is_added_who_could_not_be_given_certificates() {
    let mut world = World::founded("{}");
    *world.authority_secret(Domain::Peer) = None;
    world.cluster.spec.replicas = 5;
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(world.etcd.len(), 3);
    wish(&mut world, "peer");
    settle(&mut world, &[], &[]);
    assert_eq!((world.etcd.len(), names_of(&domain(&world, Domain::Peer))), (5, ["3", "4"].map(str::to_owned)));
}

#[test]
fn a_wish_that_names_no_domain_is_told() {
    let mut world = World::founded("{}");
    wish(&mut world, "server");
    let plan = world.plan();
    assert_eq!(plan.problems[0].reason, "NoSuchDomain");
    assert!(plan.step.is_none() && plan.wishes.is_empty());
}

#[test]
fn one_that_is_asked_for_again_meanwhile_is_the_same() {
    let mut world = World::founded("{}");
    wish(&mut world, "peer");
    for _ in 0..4 {
        world.pass();
    }
    wish(&mut world, "peer");
    settle(&mut world, &[], &[]);
    assert_eq!(names_of(&domain(&world, Domain::Peer)), ["3", "4"]);
}

#[test]
fn a_member_is_never_shown_an_issuer_that_it_was_not_made_with() {
    let mut world = World::founded("{replicas: 1}");
    let pods = world.observed.members.values_mut().map(|member| member.pod.as_mut().unwrap());
    for pod in pods {
        pod.metadata.annotations.as_mut().unwrap().remove(key::BUNDLES);
    }
    let taken = world.taken.len();
    age(&mut world, SignedDuration::from_hours(20_281), &[], &[]);
    let order = steps(&world, taken);
    let switch = order.iter().position(|step| step == "SwitchIssuer").unwrap();
    let restarts = order[..switch].iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 1, "{order:?}");
}

#[test]
fn revocations_outlast_a_change_of_the_issuer() {
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let mut world = World::founded("{replicas: 1}");
    let listed = |world: &mut World| {
        let crl = world.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::CRL].clone();
        crate::pki::crl_serials(&crl).unwrap()
    };
    let foreign = Authority::create("other", DAY * 3000, now).unwrap();
    let strange = Serial::random().unwrap();
    let crl = foreign.sign_crl([(strange, now)], now).unwrap();
    world.authority_secret(Domain::Client).as_mut().unwrap().data.insert(authority_key::CRL.into(), crl);
    age(&mut world, SignedDuration::from_hours(20_281), &[], &[]);
    assert!(listed(&mut world).contains(&strange), "scheduled: what the ledger never knew stays revoked");
    wish(&mut world, "client");
    settle(&mut world, &[], &[]);
    assert!(!listed(&mut world).contains(&strange), "nobody trusts any more who signed it");
}

#[test]
fn who_may_be_a_client_changes_one_member_at_a_time() {
    let mut world = World::founded("{}");
    let asking = |world: &World| {
        let pods = world.observed.members.values().filter_map(|member| member.pod.as_ref());
        pods.filter(|pod| crate::cluster::build::asks_clients(pod.spec.as_ref()) == Some(true)).count()
    };
    for (auth, then) in [(crate::api::ClientAuth::None, 0), (crate::api::ClientAuth::Required, 3)] {
        world.cluster.spec.tls.client.client_auth = auth;
        let taken = world.taken.len();
        settle(&mut world, &[], &[]);
        assert_eq!(asking(&world), then);
        let restarts = steps(&world, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
        assert_eq!(restarts, 3, "{:?}", steps(&world, taken));
    }
}

#[test]
fn after_everything_has_expired_all_is_made_anew() {
    let mut world = World::founded("{}");
    let before = domain(&world, Domain::Client);
    world.now += SignedDuration::from_hours(43_801);
    let taken = world.taken.len();
    world.divided = true;
    for _ in 0..20 {
        world.pass();
    }
    let order = steps(&world, taken);
    assert_eq!(order[..2], ["RenewAuthorities", "RenewAuthorities"], "{order:?}");
    assert_eq!(order.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "{order:?}");
    world.divided = false;
    settle(&mut world, &[], &[]);
    let now = domain(&world, Domain::Client);
    assert!(now.phase.is_none() && now.active.key_id != before.active.key_id);
    assert_eq!(names_of(&now), ["3", "4"]);
}
