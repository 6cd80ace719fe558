use std::{collections::BTreeSet, str};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::CLIENT_REFRESH;
use crate::{
    api::{ClientAuth, ConditionType, DomainStatus, Reason, condition},
    certificates::secret::CachedSecret,
    cluster::{
        fixtures::{Pass, World, names, reasons},
        plan::changes::RequestEvent,
    },
    kubernetes::{cached::Cached, secret::SecretView},
    member_pod::etcd_container,
    names::{annotation as key, authority_key, member_key, tls_key},
    pki::{Authority, Certificate, Domain, Phase, Serial, crl_serials},
};

/// A day.
pub const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Requests that the authorities of these domains are rotated.
pub fn request(world: &mut World, domains: &str) {
    world.cluster.metadata.annotations.get_or_insert_default().insert(key::ROTATE_CA.into(), domains.into());
}

/// The reported status of a domain.
pub fn domain(world: &World, domain: Domain) -> DomainStatus {
    world.observed.reported_domain(domain).unwrap().clone()
}

/// The generations of the active and the next authority.
fn generations(status: &DomainStatus) -> [String; 2] {
    [&status.active, &status.next].map(|authority| authority.name.rsplit(' ').next().unwrap().to_owned())
}

/// The steps that were taken, from this index on.
pub fn steps(world: &World, from: usize) -> Vec<String> {
    world.taken[from..].to_vec()
}

/// The steps that were taken, from this index on, except for restarts and moves of leadership.
pub fn transitions(world: &World, from: usize) -> Vec<String> {
    steps(world, from).into_iter().filter(|step| !step.contains("Restart") && !step.contains("Move")).collect()
}

/// The steps of a rotation in phases.
pub const ROTATION: [&str; 4] = ["PrepareCA", "SwitchCA", "DropCA", "FinishRotation"];

/// Makes passes until nothing is planned. Checks after each that all members and clients trust each other.
pub fn settle(world: &mut World, clients: &[Certificate], bundles: &[Vec<u8>]) -> Vec<Pass> {
    settle_with(world, clients, bundles, &mut RandomFaults::default())
}

/// The same, while faults are injected.
pub fn settle_with(world: &mut World, clients: &[Certificate], bundles: &[Vec<u8>], faults: &mut RandomFaults) -> Vec<Pass> {
    let mut passes = vec![];
    for _ in 0..400 {
        faults.inject(world);
        let pass = world.pass();
        world.check_trust(clients, bundles);
        let planned = pass.plan.changes().unwrap();
        let done = planned.is_empty()
            && planned.progress.is_empty()
            && planned.certificates.is_empty()
            && (world.silent.is_empty() || faults.0.is_none());
        passes.push(pass);
        if done {
            return passes;
        }
    }
    panic!("never settles: {:#?}", world.plan());
}

/// Advances time in steps, so that certificates are renewed.
pub fn advance_time(world: &mut World, time: SignedDuration, clients: &[Certificate], bundles: &[Vec<u8>]) {
    advance_time_with(world, time, clients, bundles, &mut RandomFaults::default());
}

/// The same, while faults are injected.
pub fn advance_time_with(
    world: &mut World,
    time: SignedDuration,
    clients: &[Certificate],
    bundles: &[Vec<u8>],
    faults: &mut RandomFaults,
) {
    let until = world.now + time;
    while world.now < until {
        world.now = until.min(world.now + DAY * 25);
        // Before the operator makes a pass.
        world.check_trust(clients, bundles);
        settle_with(world, clients, bundles, faults);
    }
}

/// Random faults of members, the same in each run: a pod is recreated, so that it starts with other bundles than the others, or a
/// member does not answer for some time. There are none by default.
#[derive(Default)]
pub struct RandomFaults(Option<u64>);

impl RandomFaults {
    /// Injects faults.
    pub fn enabled() -> Self {
        Self(Some(1))
    }

    fn inject(&mut self, world: &mut World) {
        let Some(state) = &mut self.0 else { return };
        let mut random_below = |limit: usize| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*state >> 33).unwrap() % limit
        };
        // Only one member at a time is affected: two of three stay healthy.
        if !world.silent.is_empty() {
            if random_below(8) == 0 {
                world.silent.clear();
            }
            return;
        }
        let ordinals = world.ordinals();
        let ordinal = ordinals[random_below(ordinals.len())];
        match random_below(16) {
            0 => world.member(ordinal).pod = None,
            1 => drop(world.silent.insert(names().member(ordinal))),
            _ => {}
        }
    }
}

/// The trust bundle for clients.
pub fn client_bundle(world: &World) -> Vec<u8> {
    world.observed.ca_config.as_ref().unwrap().data.as_ref().unwrap()["ca.crt"].clone().into_bytes()
}

#[test]
fn the_next_authority_becomes_active_on_schedule_without_restarts() {
    let mut world = World::bootstrapped("{}");
    let before = client_bundle(&world);
    let pods = |world: &World| -> Vec<_> {
        world.observed.members.values().map(|member| member.pod.as_ref().unwrap().metadata.uid.clone()).collect()
    };
    let (old_pods, old) = (pods(&world), domain(&world, Domain::Client));
    assert_eq!(generations(&old), ["1", "2"]);
    // P = (43800 - 2160 - 1080) / 2 hours.
    let due = SignedDuration::from_hours(20_280);
    advance_time(&mut world, due - DAY, &[], std::slice::from_ref(&before));
    let clients = [world.observed.operator.as_ref().unwrap().certificate("tls.crt").unwrap().unwrap()]
        .map(|leaf| Certificate::clone(&leaf));
    assert_eq!(generations(&domain(&world, Domain::Client)), ["1", "2"], "a day before");
    let taken = world.taken.len();
    advance_time(&mut world, DAY, &clients, &[before]);
    assert_eq!(steps(&world, taken), ["SwitchCA", "SwitchCA"]);
    assert_eq!(pods(&world), old_pods, "no member was restarted");
    for of in [Domain::Client, Domain::Peer] {
        let now = domain(&world, of);
        assert_eq!(generations(&now), ["2", "3"]);
        assert_eq!(now.retiring.len(), 1, "its certificates are accepted until they expire");
        assert_eq!(now.phase, None);
    }
    assert!(world.is_idle());
    // Members trust the third authority after their next restart, which happens at the latest after half of the time until it
    // signs.
    let taken = world.taken.len();
    let known = [client_bundle(&world)];
    advance_time(&mut world, due / 2 - DAY, &[], &known);
    assert_eq!(pods(&world), old_pods, "{:?}", steps(&world, taken));
    advance_time(&mut world, DAY * 2, &[], &known);
    let restarts = steps(&world, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 3, "{:?}", steps(&world, taken));
    assert_ne!(pods(&world), old_pods);
}

/// Years without intervention. At every moment all members and clients trust each other: clients with any unexpired certificate,
/// and with any `ca.crt` that they have read within the time for which an authority signs.
#[test]
fn trust_is_never_interrupted_for_years() {
    let mut faults = RandomFaults::enabled();
    let mut world = World::bootstrapped(
        "{tls: {client: {authority: {duration: 8760h}, certificate: {duration: 2160h}}, peer: {authority: {duration: 10000h}, certificate: {duration: 2000h}}}}",
    );
    // (8760 - 2160 - 1080) / 2 hours.
    let refresh_period = SignedDuration::from_hours(2760);
    let mut clients: Vec<Certificate> = vec![];
    // Each with the time at which it could last be read.
    let mut bundles: Vec<(Timestamp, Vec<u8>)> = vec![];
    let mut most_bundles = 0;
    let end = world.now + SignedDuration::from_hours(24 * 365 * 4);
    let mut active_generations = BTreeSet::new();
    while world.now < end {
        world.now += DAY * 5;
        let leaf = Certificate::clone(&world.observed.operator.as_ref().unwrap().certificate("tls.crt").unwrap().unwrap());
        if clients.last() != Some(&leaf) {
            clients.push(leaf);
        }
        clients.retain(|leaf| leaf.not_after() >= world.now);
        let (now, read) = (world.now, client_bundle(&world));
        match bundles.last_mut() {
            Some((at, bundle)) if *bundle == read => *at = now,
            _ => bundles.push((now, read)),
        }
        bundles.retain(|(read, _)| now.duration_since(*read) <= refresh_period);
        most_bundles = most_bundles.max(bundles.len());
        let bundle_data: Vec<_> = bundles.iter().map(|(_, bundle)| bundle.clone()).collect();
        world.check_trust(&clients, &bundle_data);
        settle_with(&mut world, &clients, &bundle_data, &mut faults);
        active_generations.insert(generations(&domain(&world, Domain::Client))[0].clone());
    }
    assert!(most_bundles > 1, "some clients have an older bundle");
    assert!(active_generations.len() >= 8, "a rotation every 115 days or so: {active_generations:?}");
    let status = domain(&world, Domain::Client);
    assert!(status.retiring.len() <= 3, "{:?}", status.retiring);
}

#[test]
fn after_a_requested_rotation_the_previous_authorities_are_no_longer_trusted() {
    for of in [Domain::Client, Domain::Peer] {
        let mut world = World::bootstrapped("{}");
        let bundle = if of == Domain::Client { member_key::CLIENT_CA } else { member_key::PEER_CA };
        let taken = world.taken.len();
        request(&mut world, &of.to_string());
        let passes = settle(&mut world, &[], &[]);
        assert_eq!(transitions(&world, taken), ROTATION);
        let restarts = steps(&world, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
        assert_eq!(
            restarts,
            6,
            "{:?}: each member once to trust the new authority and once to stop trusting the old one",
            steps(&world, taken)
        );
        let status = domain(&world, of);
        assert_eq!(generations(&status), ["3", "4"], "the authority that was next may be compromised too");
        assert!(status.retiring.is_empty() && status.phase.is_none());
        assert_eq!(world.trusted(bundle).len(), 2);
        assert!(world.trusted(bundle).iter().all(|name| name.ends_with('3') || name.ends_with('4')));
        let annotations = world.cluster.metadata.annotations.clone().unwrap();
        assert!(!annotations.contains_key(key::ROTATE_CA), "the request is complete once the rotation has started");
        let completed = passes.iter().filter_map(|pass| pass.plan.changes()).flat_map(|changes| &changes.completed);
        let accepted = completed.filter_map(|request| match &request.event {
            Some(RequestEvent::Accepted(note)) => Some(note.reason),
            Some(RequestEvent::Refused(_)) | None => None,
        });
        assert_eq!(accepted.collect::<Vec<_>>(), [Reason::RotationStarted]);
        let phases: Vec<_> = passes
            .iter()
            .filter_map(|pass| {
                let status = pass.report.status.certificates.clone().unwrap();
                status.domain(of).unwrap().phase
            })
            .collect();
        let mut in_order = phases.clone();
        in_order.dedup();
        assert_eq!(in_order, [Phase::Distributing, Phase::Reissuing, Phase::Dropping]);
        assert_eq!(generations(&domain(&world, of.other())), ["1", "2"], "the other domain is unchanged");
    }
}

#[test]
fn a_rotation_waits_for_a_member_that_cannot_be_confirmed_and_reports_it() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        let mut world = World::bootstrapped("{}");
        request(&mut world, "peer");
        while domain(&world, Domain::Peer).phase.map(Phase::as_str) != Some(phase) {
            world.pass();
        }
        world.silent.insert(names().member(1));
        for _ in 0..60 {
            world.pass();
        }
        assert_eq!(domain(&world, Domain::Peer).phase.map(Phase::as_str), Some(phase));
        let report = world.report();
        let progressing = condition(&report.status.conditions, ConditionType::Progressing).unwrap();
        let missing = progressing.message.split_once("waiting for: ").map(|(_, missing)| missing).unwrap_or_default();
        assert!(missing.contains("demo-1"), "{phase}: {}", progressing.message);
        world.silent.clear();
        settle(&mut world, &[], &[]);
        assert_eq!(generations(&domain(&world, Domain::Peer)), ["3", "4"]);
    }
}

#[test]
fn a_rotation_continues_after_the_operator_dies_at_any_write() {
    for of in Domain::ALL {
        let mut world = World::bootstrapped("{}");
        let taken = world.taken.len();
        request(&mut world, &of.to_string());
        // After no write, after one, after two, and so on. The status is written last.
        for writes in (0..5).cycle().take(600) {
            world.dies_after = Some(writes);
            world.pass();
            world.check_trust(&[], &[]);
        }
        assert!(world.deaths > 50, "{}", world.deaths);
        settle(&mut world, &[], &[]);
        assert_eq!(transitions(&world, taken), ROTATION, "each once");
        assert_eq!(generations(&domain(&world, of)), ["3", "4"]);
    }
}

/// Authorities are recognized by the status. If it were two transitions behind, they would not be.
#[test]
fn a_rotation_makes_only_one_transition_while_the_status_cannot_be_written() {
    let rotation = |steps: Vec<String>| steps.into_iter().filter(|step| ROTATION.contains(&step.as_str())).collect::<Vec<_>>();
    for (phase, next) in [None, Some("Distributing"), Some("Reissuing"), Some("Dropping")].into_iter().zip(ROTATION) {
        let mut world = World::bootstrapped("{}");
        let begin = world.taken.len();
        request(&mut world, "peer");
        while domain(&world, Domain::Peer).phase.map(Phase::as_str) != phase {
            world.pass();
        }
        let (taken, status) = (world.taken.len(), world.observed.status.clone());
        for _ in 0..200 {
            world.pass();
            world.observed.status = status.clone();
            world.cluster.status = Some(status.clone());
        }
        assert_eq!(rotation(steps(&world, taken)), [next]);
        settle(&mut world, &[], &[]);
        assert_eq!(rotation(steps(&world, begin)), ROTATION);
        assert_eq!(generations(&domain(&world, Domain::Peer)), ["3", "4"]);
    }
}

#[test]
fn clients_are_given_time_and_a_rotation_waits_for_users() {
    let mut world = World::bootstrapped("{}");
    request(&mut world, "client");
    let started = world.now;
    while domain(&world, Domain::Client).phase.map(Phase::as_str) != Some("Reissuing") {
        world.pass();
    }
    assert!(world.now.duration_since(started) >= CLIENT_REFRESH, "kubelets need time to give clients the new ca.crt");
    let outdated = SecretView::default().into();
    world.observed.user_secrets.insert("app".into(), outdated);
    for _ in 0..200 {
        world.pass();
    }
    assert_eq!(domain(&world, Domain::Client).phase.map(Phase::as_str), Some("Reissuing"));
    let progress: Vec<_> = world.changes().progress.into_iter().map(|note| note.message).collect();
    assert!(progress.iter().any(|message| message.contains("EtcdUser app")), "{progress:?}");
    world.observed.user_secrets.clear();
    settle(&mut world, &[], &[]);
    assert_eq!(domain(&world, Domain::Client).phase, None);
}

#[test]
fn clients_are_given_time_from_the_moment_their_secret_was_written() {
    let mut world = World::bootstrapped("{}");
    request(&mut world, "client");
    while domain(&world, Domain::Client).phase.is_none() {
        world.pass();
    }
    // The write of its Secret was refused for some time, for example by a quota, and succeeds only now.
    world.now += SignedDuration::from_mins(10);
    world.pass();
    let mut secret = SecretView::default();
    secret.data.insert(tls_key::CA.into(), client_bundle(&world));
    secret.meta.annotations = Some([(key::WRITTEN_AT.to_owned(), world.now.to_string())].into());
    world.observed.user_secrets.insert("app".into(), secret.into());
    let written = world.now;
    while domain(&world, Domain::Client).phase.map(Phase::as_str) == Some("Distributing") {
        world.pass();
    }
    assert!(world.now.duration_since(written) >= CLIENT_REFRESH, "{}", world.now);
    assert!(world.now.duration_since(written) < CLIENT_REFRESH * 2, "{}", world.now);
}

#[test]
fn a_lost_authority_is_replaced_on_request() {
    let lose: [fn(&mut Option<CachedSecret>); 6] = [
        |secret| *secret = None,
        |secret| drop(secret.as_mut().unwrap().data.remove(authority_key::ACTIVE_KEY)),
        |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::LEDGER.into(), b"x".to_vec())),
        |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::ISSUERS.into(), b"x".to_vec())),
        |secret| drop(secret.as_mut().unwrap().data.insert(authority_key::ANCESTORS_CRT.into(), b"x".to_vec())),
        // A backup of another cluster: it can be read, but its authorities are not trusted.
        |secret| {
            let other = World::bootstrapped("{replicas: 1}").authority_secret(Domain::Client).clone().unwrap();
            secret.as_mut().unwrap().data.extend(other.data.clone());
        },
    ];
    for lose in lose {
        for of in [Domain::Client, Domain::Peer] {
            let mut world = World::bootstrapped("{}");
            lose(world.authority_secret(of));
            for _ in 0..5 {
                world.pass();
            }
            let ready = condition(&world.observed.status.conditions, ConditionType::CertificatesReady).unwrap().clone();
            assert_eq!(ready.reason, Reason::CALost.as_str());
            assert!(ready.message.contains(&format!("{}={of}", key::ROTATE_CA)), "{}", ready.message);
            request(&mut world, &of.to_string());
            settle(&mut world, &[], &[]);
            assert_eq!(generations(&domain(&world, of)), ["3", "4"]);
            let ready = condition(&world.observed.status.conditions, ConditionType::CertificatesReady).unwrap();
            assert_eq!(ready.status, "True", "{}", ready.message);
        }
    }
}

#[test]
fn both_domains_are_rotated_while_the_cluster_is_scaled_up() {
    let mut world = World::bootstrapped("{}");
    world.cluster.spec.replicas = 5;
    request(&mut world, "client, peer");
    settle(&mut world, &[], &[]);
    assert_eq!(world.etcd.len(), 5);
    for of in [Domain::Client, Domain::Peer] {
        assert_eq!(generations(&domain(&world, of)), ["3", "4"]);
    }
}

#[test]
fn members_are_removed_and_replaced_in_every_phase() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        for replicas in [3, 5] {
            let mut world = World::bootstrapped("{replicas: 5}");
            request(&mut world, "peer");
            while domain(&world, Domain::Peer).phase.map(Phase::as_str) != Some(phase) {
                world.pass();
            }
            if replicas == 5 {
                let annotations = world.cluster.metadata.annotations.get_or_insert_default();
                annotations.insert(key::REPLACE.into(), "demo-1".into());
            }
            world.cluster.spec.replicas = replicas;
            settle(&mut world, &[], &[]);
            assert_eq!(generations(&domain(&world, Domain::Peer)), ["3", "4"], "{phase}");
            assert_eq!(world.etcd.len(), usize::try_from(replicas).unwrap(), "{phase}");
            assert!(replicas == 3 || world.taken.contains(&"RemoveMember demo-1".to_owned()), "{phase}");
        }
    }
}

#[test]
fn a_domain_whose_rotation_cannot_start_does_not_affect_the_other() {
    let mut world = World::bootstrapped("{replicas: 1}");
    world.observed.status.certificates.as_mut().unwrap().peer.as_mut().unwrap().active.key_id = "00".into();
    world.cluster.status = Some(world.observed.status.clone());
    request(&mut world, "client,peer");
    for _ in 0..300 {
        world.pass();
    }
    assert_eq!(generations(&domain(&world, Domain::Client)), ["3", "4"], "once");
    assert_eq!(world.cluster.metadata.annotations.as_ref().unwrap()[key::ROTATE_CA], "peer");
    let reasons = reasons(&world.changes().problems);
    assert!(reasons.contains(&Reason::CannotRotate), "{reasons:?}");
}

#[test]
fn an_overdue_switch_is_made_later() {
    let mut world = World::bootstrapped("{replicas: 1}");
    // So late that the authority that becomes active has less time left than usual.
    world.cluster.spec.paused = true;
    world.now += SignedDuration::from_hours(30_000);
    world.pass();
    world.cluster.spec.paused = false;
    for _ in 0..30 {
        world.pass();
    }
    advance_time(&mut world, SignedDuration::from_hours(20_000), &[], &[]);
    let status = domain(&world, Domain::Client);
    assert!(status.active.expires.0 > world.now, "{status:?}");
}

#[test]
fn the_next_authority_becomes_active_at_once_if_the_active_one_has_expired() {
    let mut world = World::bootstrapped("{}");
    advance_time(&mut world, SignedDuration::from_hours(20_281), &[], &[]);
    assert_eq!(generations(&domain(&world, Domain::Peer)), ["2", "3"]);
    // No member has started with the third authority, and no pass is made until the second has expired.
    world.now += SignedDuration::from_hours(43_800 - 20_281 + 1);
    world.divided = true;
    let taken = world.taken.len();
    for _ in 0..20 {
        world.pass();
    }
    let order = steps(&world, taken);
    assert_eq!(order[..2], ["SwitchCA", "SwitchCA"], "{order:?}");
    assert_eq!(order.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "{order:?}");
    world.divided = false;
    settle(&mut world, &[], &[]);
    assert_eq!(generations(&domain(&world, Domain::Peer)), ["3", "4"]);
}

#[test]
fn no_member_is_added_while_no_certificates_can_be_issued() {
    let mut world = World::bootstrapped("{}");
    *world.authority_secret(Domain::Peer) = None;
    world.cluster.spec.replicas = 5;
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(world.etcd.len(), 3);
    request(&mut world, "peer");
    settle(&mut world, &[], &[]);
    assert_eq!((world.etcd.len(), generations(&domain(&world, Domain::Peer))), (5, ["3", "4"].map(str::to_owned)));
}

/// That of the CAs that exist stays, and no member is restarted for it.
#[test]
fn another_lifetime_is_that_of_the_cas_that_are_created_from_then_on() {
    let lifetime = |world: &World| {
        let next = &world.observed.authorities.client.as_ref().unwrap().authorities().unwrap().next;
        next.not_after().duration_since(next.not_before()).as_hours()
    };
    let mut world = World::bootstrapped("{}");
    let before = lifetime(&world);
    world.cluster.spec.tls.client.authority.duration.0 = "17520h".into();
    for _ in 0..10 {
        assert!(world.pass().is_idle(), "{:?}", world.taken);
    }
    assert_eq!(lifetime(&world), before);
    request(&mut world, "client");
    settle(&mut world, &[], &[]);
    assert_eq!(lifetime(&world), 17_520);
}

#[test]
fn a_request_that_names_something_else_is_reported_and_not_done_in_part() {
    for value in ["server", "client,server"] {
        let mut world = World::bootstrapped("{}");
        request(&mut world, value);
        let changes = world.changes();
        assert_eq!(changes.problems[0].reason, Reason::InvalidRotationRequest);
        assert!(changes.step.is_none() && changes.completed.is_empty(), "{value}");
    }
}

#[test]
fn a_second_request_during_a_rotation_starts_no_second_rotation() {
    let mut world = World::bootstrapped("{}");
    request(&mut world, "peer");
    for _ in 0..4 {
        world.pass();
    }
    request(&mut world, "peer");
    settle(&mut world, &[], &[]);
    assert_eq!(generations(&domain(&world, Domain::Peer)), ["3", "4"]);
}

#[test]
fn an_authority_signs_only_once_every_member_has_started_with_it() {
    let mut world = World::bootstrapped("{replicas: 1}");
    let pods = world.observed.members.values_mut().map(|member| member.pod.as_mut().unwrap());
    for pod in pods {
        pod.metadata.annotations.as_mut().unwrap().remove(key::BUNDLES);
    }
    let taken = world.taken.len();
    advance_time(&mut world, SignedDuration::from_hours(20_281), &[], &[]);
    let order = steps(&world, taken);
    let switch = order.iter().position(|step| step == "SwitchCA").unwrap();
    let restarts = order[..switch].iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 1, "{order:?}");
}

#[test]
fn revocations_survive_a_scheduled_switch_of_the_authority() {
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let mut world = World::bootstrapped("{replicas: 1}");
    let listed = |world: &mut World| {
        let crl = world.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::CRL].clone();
        crl_serials(&crl).unwrap()
    };
    let foreign = Authority::create("other", DAY * 3000, now).unwrap();
    let unknown = Serial::random().unwrap();
    let crl = foreign.sign_crl([(unknown, now)], now).unwrap();
    world.authority_secret(Domain::Client).as_mut().unwrap().data.insert(authority_key::CRL.into(), crl);
    advance_time(&mut world, SignedDuration::from_hours(20_281), &[], &[]);
    assert!(
        listed(&mut world).contains(&unknown),
        "after a scheduled switch, serials that the ledger does not have stay revoked"
    );
    request(&mut world, "client");
    settle(&mut world, &[], &[]);
    assert!(!listed(&mut world).contains(&unknown), "the authority that signed it is no longer trusted");
}

#[test]
fn client_authentication_changes_one_member_at_a_time() {
    let mut world = World::bootstrapped("{}");
    let requiring_certificates = |world: &World| {
        let pods = world.observed.members.values().filter_map(|member| member.pod.as_ref());
        let requires = |pod: &&Cached<Pod>| {
            let arguments = etcd_container(pod.spec.as_ref().unwrap()).unwrap().args.as_ref().unwrap();
            arguments.iter().any(|argument| argument == "--client-cert-auth=true")
        };
        pods.filter(requires).count()
    };
    for (auth, expected) in [(ClientAuth::None, 0), (ClientAuth::Required, 3)] {
        world.cluster.spec.tls.client.client_auth = auth;
        let taken = world.taken.len();
        settle(&mut world, &[], &[]);
        assert_eq!(requiring_certificates(&world), expected);
        let restarts = steps(&world, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
        assert_eq!(restarts, 3, "{:?}", steps(&world, taken));
    }
}

#[test]
fn expired_authorities_and_certificates_are_all_replaced() {
    let mut world = World::bootstrapped("{}");
    let before = domain(&world, Domain::Client);
    world.now += SignedDuration::from_hours(43_801);
    let taken = world.taken.len();
    world.divided = true;
    for _ in 0..20 {
        world.pass();
    }
    let order = steps(&world, taken);
    assert_eq!(order[..2], ["RenewCA", "RenewCA"], "{order:?}");
    assert_eq!(order.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "{order:?}");
    world.divided = false;
    settle(&mut world, &[], &[]);
    let now = domain(&world, Domain::Client);
    assert!(now.phase.is_none() && now.active.key_id != before.active.key_id);
    assert_eq!(generations(&now), ["3", "4"]);
}
