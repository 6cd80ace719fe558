use std::{collections::BTreeSet, str};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use super::CLIENT_REFRESH;
use crate::{
    api::{ClientAuth, ConditionType, DomainStatus, Reason, condition},
    certificates::secret::CachedSecret,
    cluster::{
        fixtures::{Fixture, Pass, names, reasons},
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
pub fn request(fixture: &mut Fixture, domains: &str) {
    fixture.cluster.metadata.annotations.get_or_insert_default().insert(key::ROTATE_CA.into(), domains.into());
}

/// The reported status of a domain.
pub fn domain(fixture: &Fixture, domain: Domain) -> DomainStatus {
    fixture.observed.reported_domain(domain).unwrap().clone()
}

/// The generations of the active and the next authority.
fn generations(status: &DomainStatus) -> [String; 2] {
    [&status.active, &status.next].map(|authority| authority.name.rsplit(' ').next().unwrap().to_owned())
}

/// The steps that were taken, from this index on.
pub fn steps(fixture: &Fixture, from: usize) -> Vec<String> {
    fixture.taken[from..].to_vec()
}

/// The steps that were taken, from this index on, except for restarts and moves of leadership.
pub fn transitions(fixture: &Fixture, from: usize) -> Vec<String> {
    steps(fixture, from).into_iter().filter(|step| !step.contains("Restart") && !step.contains("Move")).collect()
}

/// The steps of a rotation in phases.
pub const ROTATION: [&str; 4] = ["PrepareCA", "SwitchCA", "DropCA", "FinishRotation"];

/// Makes passes until nothing is planned. Checks after each that all members and clients trust each other.
pub fn settle(fixture: &mut Fixture, clients: &[Certificate], bundles: &[Vec<u8>]) -> Vec<Pass> {
    settle_with(fixture, clients, bundles, &mut RandomFaults::default())
}

/// The same, while faults are injected.
pub fn settle_with(fixture: &mut Fixture, clients: &[Certificate], bundles: &[Vec<u8>], faults: &mut RandomFaults) -> Vec<Pass> {
    let mut passes = vec![];
    for _ in 0..400 {
        faults.inject(fixture);
        let pass = fixture.pass();
        fixture.check_trust(clients, bundles);
        let planned = pass.plan.changes().unwrap();
        let done = planned.is_empty()
            && planned.progress.is_empty()
            && planned.certificates.is_empty()
            && (fixture.silent.is_empty() || faults.0.is_none());
        passes.push(pass);
        if done {
            return passes;
        }
    }
    panic!("never settles: {:#?}", fixture.plan());
}

/// Advances time in steps, so that certificates are renewed.
pub fn advance_time(fixture: &mut Fixture, time: SignedDuration, clients: &[Certificate], bundles: &[Vec<u8>]) {
    advance_time_with(fixture, time, clients, bundles, &mut RandomFaults::default());
}

/// The same, while faults are injected.
pub fn advance_time_with(
    fixture: &mut Fixture,
    time: SignedDuration,
    clients: &[Certificate],
    bundles: &[Vec<u8>],
    faults: &mut RandomFaults,
) {
    let until = fixture.now + time;
    while fixture.now < until {
        fixture.now = until.min(fixture.now + DAY * 25);
        // Before the operator makes a pass.
        fixture.check_trust(clients, bundles);
        settle_with(fixture, clients, bundles, faults);
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

    fn inject(&mut self, fixture: &mut Fixture) {
        let Some(state) = &mut self.0 else { return };
        let mut random_below = |limit: usize| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*state >> 33).unwrap() % limit
        };
        // Only one member at a time is affected: two of three stay healthy.
        if !fixture.silent.is_empty() {
            if random_below(8) == 0 {
                fixture.silent.clear();
            }
            return;
        }
        let ordinals = fixture.ordinals();
        let ordinal = ordinals[random_below(ordinals.len())];
        match random_below(16) {
            0 => fixture.member(ordinal).pod = None,
            1 => drop(fixture.silent.insert(names().member(ordinal))),
            _ => {}
        }
    }
}

/// The trust bundle for clients.
pub fn client_bundle(fixture: &Fixture) -> Vec<u8> {
    fixture.observed.ca_config.as_ref().unwrap().data.as_ref().unwrap()["ca.crt"].clone().into_bytes()
}

#[test]
fn the_next_authority_becomes_active_on_schedule_without_restarts() {
    let mut fixture = Fixture::bootstrapped("{}");
    let before = client_bundle(&fixture);
    let pods = |fixture: &Fixture| -> Vec<_> {
        fixture.observed.members.values().map(|member| member.pod.as_ref().unwrap().metadata.uid.clone()).collect()
    };
    let (old_pods, old) = (pods(&fixture), domain(&fixture, Domain::Client));
    assert_eq!(generations(&old), ["1", "2"]);
    // P = (43800 - 2160 - 1080) / 2 hours.
    let due = SignedDuration::from_hours(20_280);
    advance_time(&mut fixture, due - DAY, &[], std::slice::from_ref(&before));
    let clients = [fixture.observed.operator.as_ref().unwrap().certificate("tls.crt").unwrap().unwrap()]
        .map(|leaf| Certificate::clone(&leaf));
    assert_eq!(generations(&domain(&fixture, Domain::Client)), ["1", "2"], "a day before");
    let taken = fixture.taken.len();
    advance_time(&mut fixture, DAY, &clients, &[before]);
    assert_eq!(steps(&fixture, taken), ["SwitchCA", "SwitchCA"]);
    assert_eq!(pods(&fixture), old_pods, "no member was restarted");
    for of in [Domain::Client, Domain::Peer] {
        let now = domain(&fixture, of);
        assert_eq!(generations(&now), ["2", "3"]);
        assert_eq!(now.retiring.len(), 1, "its certificates are accepted until they expire");
        assert_eq!(now.phase, None);
    }
    assert!(fixture.is_idle());
    // Members trust the third authority after their next restart, which happens at the latest after half of the time until it
    // signs.
    let taken = fixture.taken.len();
    let known = [client_bundle(&fixture)];
    advance_time(&mut fixture, due / 2 - DAY, &[], &known);
    assert_eq!(pods(&fixture), old_pods, "{:?}", steps(&fixture, taken));
    advance_time(&mut fixture, DAY * 2, &[], &known);
    let restarts = steps(&fixture, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 3, "{:?}", steps(&fixture, taken));
    assert_ne!(pods(&fixture), old_pods);
}

/// Years without intervention. At every moment all members and clients trust each other: clients with any unexpired certificate,
/// and with any `ca.crt` that they have read within the time for which an authority signs.
#[test]
fn trust_is_never_interrupted_for_years() {
    let mut faults = RandomFaults::enabled();
    let mut fixture = Fixture::bootstrapped(
        "{tls: {client: {authority: {duration: 8760h}, certificate: {duration: 2160h}}, peer: {authority: {duration: 10000h}, certificate: {duration: 2000h}}}}",
    );
    // (8760 - 2160 - 1080) / 2 hours.
    let refresh_period = SignedDuration::from_hours(2760);
    let mut clients: Vec<Certificate> = vec![];
    // Each with the time at which it could last be read.
    let mut bundles: Vec<(Timestamp, Vec<u8>)> = vec![];
    let mut most_bundles = 0;
    let end = fixture.now + SignedDuration::from_hours(24 * 365 * 4);
    let mut active_generations = BTreeSet::new();
    while fixture.now < end {
        fixture.now += DAY * 5;
        let leaf = Certificate::clone(&fixture.observed.operator.as_ref().unwrap().certificate("tls.crt").unwrap().unwrap());
        if clients.last() != Some(&leaf) {
            clients.push(leaf);
        }
        clients.retain(|leaf| leaf.not_after() >= fixture.now);
        let (now, read) = (fixture.now, client_bundle(&fixture));
        match bundles.last_mut() {
            Some((at, bundle)) if *bundle == read => *at = now,
            _ => bundles.push((now, read)),
        }
        bundles.retain(|(read, _)| now.duration_since(*read) <= refresh_period);
        most_bundles = most_bundles.max(bundles.len());
        let bundle_data: Vec<_> = bundles.iter().map(|(_, bundle)| bundle.clone()).collect();
        fixture.check_trust(&clients, &bundle_data);
        settle_with(&mut fixture, &clients, &bundle_data, &mut faults);
        active_generations.insert(generations(&domain(&fixture, Domain::Client))[0].clone());
    }
    assert!(most_bundles > 1, "some clients have an older bundle");
    assert!(active_generations.len() >= 8, "a rotation every 115 days or so: {active_generations:?}");
    let status = domain(&fixture, Domain::Client);
    assert!(status.retiring.len() <= 3, "{:?}", status.retiring);
}

#[test]
fn after_a_requested_rotation_the_previous_authorities_are_no_longer_trusted() {
    for of in [Domain::Client, Domain::Peer] {
        let mut fixture = Fixture::bootstrapped("{}");
        let bundle = if of == Domain::Client { member_key::CLIENT_CA } else { member_key::PEER_CA };
        let taken = fixture.taken.len();
        request(&mut fixture, &of.to_string());
        let passes = settle(&mut fixture, &[], &[]);
        assert_eq!(transitions(&fixture, taken), ROTATION);
        let restarts = steps(&fixture, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
        assert_eq!(
            restarts,
            6,
            "{:?}: each member once to trust the new authority and once to stop trusting the old one",
            steps(&fixture, taken)
        );
        let status = domain(&fixture, of);
        assert_eq!(generations(&status), ["3", "4"], "the authority that was next may be compromised too");
        assert!(status.retiring.is_empty() && status.phase.is_none());
        assert_eq!(fixture.trusted(bundle).len(), 2);
        assert!(fixture.trusted(bundle).iter().all(|name| name.ends_with('3') || name.ends_with('4')));
        let annotations = fixture.cluster.metadata.annotations.clone().unwrap();
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
        assert_eq!(generations(&domain(&fixture, of.other())), ["1", "2"], "the other domain is unchanged");
    }
}

#[test]
fn a_rotation_waits_for_a_member_that_cannot_be_confirmed_and_reports_it() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        let mut fixture = Fixture::bootstrapped("{}");
        request(&mut fixture, "peer");
        while domain(&fixture, Domain::Peer).phase.map(Phase::as_str) != Some(phase) {
            fixture.pass();
        }
        fixture.silent.insert(names().member(1));
        for _ in 0..60 {
            fixture.pass();
        }
        assert_eq!(domain(&fixture, Domain::Peer).phase.map(Phase::as_str), Some(phase));
        let report = fixture.report();
        let progressing = condition(&report.status.conditions, ConditionType::Progressing).unwrap();
        let missing = progressing.message.split_once("waiting for: ").map(|(_, missing)| missing).unwrap_or_default();
        assert!(missing.contains("demo-1"), "{phase}: {}", progressing.message);
        fixture.silent.clear();
        settle(&mut fixture, &[], &[]);
        assert_eq!(generations(&domain(&fixture, Domain::Peer)), ["3", "4"]);
    }
}

#[test]
fn a_rotation_continues_after_the_operator_dies_at_any_write() {
    for of in Domain::ALL {
        let mut fixture = Fixture::bootstrapped("{}");
        let taken = fixture.taken.len();
        request(&mut fixture, &of.to_string());
        // After no write, after one, after two, and so on. The status is written last.
        for writes in (0..5).cycle().take(600) {
            fixture.dies_after = Some(writes);
            fixture.pass();
            fixture.check_trust(&[], &[]);
        }
        assert!(fixture.deaths > 50, "{}", fixture.deaths);
        settle(&mut fixture, &[], &[]);
        assert_eq!(transitions(&fixture, taken), ROTATION, "each once");
        assert_eq!(generations(&domain(&fixture, of)), ["3", "4"]);
    }
}

/// Authorities are recognized by the status. If it were two transitions behind, they would not be.
#[test]
fn a_rotation_makes_only_one_transition_while_the_status_cannot_be_written() {
    let rotation = |steps: Vec<String>| steps.into_iter().filter(|step| ROTATION.contains(&step.as_str())).collect::<Vec<_>>();
    for (phase, next) in [None, Some("Distributing"), Some("Reissuing"), Some("Dropping")].into_iter().zip(ROTATION) {
        let mut fixture = Fixture::bootstrapped("{}");
        let begin = fixture.taken.len();
        request(&mut fixture, "peer");
        while domain(&fixture, Domain::Peer).phase.map(Phase::as_str) != phase {
            fixture.pass();
        }
        let (taken, status) = (fixture.taken.len(), fixture.observed.status.clone());
        for _ in 0..200 {
            fixture.pass();
            fixture.observed.status = status.clone();
            fixture.cluster.status = Some(status.clone());
        }
        assert_eq!(rotation(steps(&fixture, taken)), [next]);
        settle(&mut fixture, &[], &[]);
        assert_eq!(rotation(steps(&fixture, begin)), ROTATION);
        assert_eq!(generations(&domain(&fixture, Domain::Peer)), ["3", "4"]);
    }
}

#[test]
fn clients_are_given_time_and_a_rotation_waits_for_users() {
    let mut fixture = Fixture::bootstrapped("{}");
    request(&mut fixture, "client");
    let started = fixture.now;
    while domain(&fixture, Domain::Client).phase.map(Phase::as_str) != Some("Reissuing") {
        fixture.pass();
    }
    assert!(fixture.now.duration_since(started) >= CLIENT_REFRESH, "kubelets need time to give clients the new ca.crt");
    let outdated = SecretView::default().into();
    fixture.observed.user_secrets.insert("app".into(), outdated);
    for _ in 0..200 {
        fixture.pass();
    }
    assert_eq!(domain(&fixture, Domain::Client).phase.map(Phase::as_str), Some("Reissuing"));
    let progress: Vec<_> = fixture.changes().progress.into_iter().map(|note| note.message).collect();
    assert!(progress.iter().any(|message| message.contains("EtcdUser app")), "{progress:?}");
    fixture.observed.user_secrets.clear();
    settle(&mut fixture, &[], &[]);
    assert_eq!(domain(&fixture, Domain::Client).phase, None);
}

#[test]
fn clients_are_given_time_from_the_moment_their_secret_was_written() {
    let mut fixture = Fixture::bootstrapped("{}");
    request(&mut fixture, "client");
    while domain(&fixture, Domain::Client).phase.is_none() {
        fixture.pass();
    }
    // The write of its Secret was refused for some time, for example by a quota, and succeeds only now.
    fixture.now += SignedDuration::from_mins(10);
    fixture.pass();
    let mut secret = SecretView::default();
    secret.data.insert(tls_key::CA.into(), client_bundle(&fixture));
    secret.meta.annotations = Some([(key::WRITTEN_AT.to_owned(), fixture.now.to_string())].into());
    fixture.observed.user_secrets.insert("app".into(), secret.into());
    let written = fixture.now;
    while domain(&fixture, Domain::Client).phase.map(Phase::as_str) == Some("Distributing") {
        fixture.pass();
    }
    assert!(fixture.now.duration_since(written) >= CLIENT_REFRESH, "{}", fixture.now);
    assert!(fixture.now.duration_since(written) < CLIENT_REFRESH * 2, "{}", fixture.now);
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
            let other = Fixture::bootstrapped("{replicas: 1}").authority_secret(Domain::Client).clone().unwrap();
            secret.as_mut().unwrap().data.extend(other.data.clone());
        },
    ];
    for lose in lose {
        for of in [Domain::Client, Domain::Peer] {
            let mut fixture = Fixture::bootstrapped("{}");
            lose(fixture.authority_secret(of));
            for _ in 0..5 {
                fixture.pass();
            }
            let ready = condition(&fixture.observed.status.conditions, ConditionType::CertificatesReady).unwrap().clone();
            assert_eq!(ready.reason, Reason::CALost.as_str());
            assert!(ready.message.contains(&format!("{}={of}", key::ROTATE_CA)), "{}", ready.message);
            request(&mut fixture, &of.to_string());
            settle(&mut fixture, &[], &[]);
            assert_eq!(generations(&domain(&fixture, of)), ["3", "4"]);
            let ready = condition(&fixture.observed.status.conditions, ConditionType::CertificatesReady).unwrap();
            assert_eq!(ready.status, "True", "{}", ready.message);
        }
    }
}

#[test]
fn both_domains_are_rotated_while_the_cluster_is_scaled_up() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.cluster.spec.replicas = 5;
    request(&mut fixture, "client, peer");
    settle(&mut fixture, &[], &[]);
    assert_eq!(fixture.etcd.len(), 5);
    for of in [Domain::Client, Domain::Peer] {
        assert_eq!(generations(&domain(&fixture, of)), ["3", "4"]);
    }
}

#[test]
fn members_are_removed_and_replaced_in_every_phase() {
    for phase in ["Distributing", "Reissuing", "Dropping"] {
        for replicas in [3, 5] {
            let mut fixture = Fixture::bootstrapped("{replicas: 5}");
            request(&mut fixture, "peer");
            while domain(&fixture, Domain::Peer).phase.map(Phase::as_str) != Some(phase) {
                fixture.pass();
            }
            if replicas == 5 {
                let annotations = fixture.cluster.metadata.annotations.get_or_insert_default();
                annotations.insert(key::REPLACE.into(), "demo-1".into());
            }
            fixture.cluster.spec.replicas = replicas;
            settle(&mut fixture, &[], &[]);
            assert_eq!(generations(&domain(&fixture, Domain::Peer)), ["3", "4"], "{phase}");
            assert_eq!(fixture.etcd.len(), usize::try_from(replicas).unwrap(), "{phase}");
            assert!(replicas == 3 || fixture.taken.contains(&"RemoveMember demo-1".to_owned()), "{phase}");
        }
    }
}

#[test]
fn a_domain_whose_rotation_cannot_start_does_not_affect_the_other() {
    let mut fixture = Fixture::bootstrapped("{replicas: 1}");
    fixture.observed.status.certificates.as_mut().unwrap().peer.as_mut().unwrap().active.key_id = "00".into();
    fixture.cluster.status = Some(fixture.observed.status.clone());
    request(&mut fixture, "client,peer");
    for _ in 0..300 {
        fixture.pass();
    }
    assert_eq!(generations(&domain(&fixture, Domain::Client)), ["3", "4"], "once");
    assert_eq!(fixture.cluster.metadata.annotations.as_ref().unwrap()[key::ROTATE_CA], "peer");
    let reasons = reasons(&fixture.changes().problems);
    assert!(reasons.contains(&Reason::CannotRotate), "{reasons:?}");
}

#[test]
fn an_overdue_switch_is_made_later() {
    let mut fixture = Fixture::bootstrapped("{replicas: 1}");
    // So late that the authority that becomes active has less time left than usual.
    fixture.cluster.spec.paused = true;
    fixture.now += SignedDuration::from_hours(30_000);
    fixture.pass();
    fixture.cluster.spec.paused = false;
    for _ in 0..30 {
        fixture.pass();
    }
    advance_time(&mut fixture, SignedDuration::from_hours(20_000), &[], &[]);
    let status = domain(&fixture, Domain::Client);
    assert!(status.active.expires.0 > fixture.now, "{status:?}");
}

#[test]
fn the_next_authority_becomes_active_at_once_if_the_active_one_has_expired() {
    let mut fixture = Fixture::bootstrapped("{}");
    advance_time(&mut fixture, SignedDuration::from_hours(20_281), &[], &[]);
    assert_eq!(generations(&domain(&fixture, Domain::Peer)), ["2", "3"]);
    // No member has started with the third authority, and no pass is made until the second has expired.
    fixture.now += SignedDuration::from_hours(43_800 - 20_281 + 1);
    fixture.divided = true;
    let taken = fixture.taken.len();
    for _ in 0..20 {
        fixture.pass();
    }
    let order = steps(&fixture, taken);
    assert_eq!(order[..2], ["SwitchCA", "SwitchCA"], "{order:?}");
    assert_eq!(order.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "{order:?}");
    fixture.divided = false;
    settle(&mut fixture, &[], &[]);
    assert_eq!(generations(&domain(&fixture, Domain::Peer)), ["3", "4"]);
}

#[test]
fn no_member_is_added_while_no_certificates_can_be_issued() {
    let mut fixture = Fixture::bootstrapped("{}");
    *fixture.authority_secret(Domain::Peer) = None;
    fixture.cluster.spec.replicas = 5;
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!(fixture.etcd.len(), 3);
    request(&mut fixture, "peer");
    settle(&mut fixture, &[], &[]);
    assert_eq!((fixture.etcd.len(), generations(&domain(&fixture, Domain::Peer))), (5, ["3", "4"].map(str::to_owned)));
}

/// That of the CAs that exist stays, and no member is restarted for it.
#[test]
fn another_lifetime_is_that_of_the_cas_that_are_created_from_then_on() {
    let lifetime = |fixture: &Fixture| {
        let next = &fixture.observed.authorities.client.as_ref().unwrap().authorities().unwrap().next;
        next.not_after().duration_since(next.not_before()).as_hours()
    };
    let mut fixture = Fixture::bootstrapped("{}");
    let before = lifetime(&fixture);
    fixture.cluster.spec.tls.client.authority.duration.0 = "17520h".into();
    for _ in 0..10 {
        assert!(fixture.pass().is_idle(), "{:?}", fixture.taken);
    }
    assert_eq!(lifetime(&fixture), before);
    request(&mut fixture, "client");
    settle(&mut fixture, &[], &[]);
    assert_eq!(lifetime(&fixture), 17_520);
}

#[test]
fn a_request_that_names_something_else_is_reported_and_not_done_in_part() {
    for value in ["server", "client,server"] {
        let mut fixture = Fixture::bootstrapped("{}");
        request(&mut fixture, value);
        let changes = fixture.changes();
        assert_eq!(changes.problems[0].reason, Reason::InvalidRotationRequest);
        assert!(changes.step.is_none() && changes.completed.is_empty(), "{value}");
    }
}

#[test]
fn a_second_request_during_a_rotation_starts_no_second_rotation() {
    let mut fixture = Fixture::bootstrapped("{}");
    request(&mut fixture, "peer");
    for _ in 0..4 {
        fixture.pass();
    }
    request(&mut fixture, "peer");
    settle(&mut fixture, &[], &[]);
    assert_eq!(generations(&domain(&fixture, Domain::Peer)), ["3", "4"]);
}

#[test]
fn an_authority_signs_only_once_every_member_has_started_with_it() {
    let mut fixture = Fixture::bootstrapped("{replicas: 1}");
    let pods = fixture.observed.members.values_mut().map(|member| member.pod.as_mut().unwrap());
    for pod in pods {
        pod.metadata.annotations.as_mut().unwrap().remove(key::BUNDLES);
    }
    let taken = fixture.taken.len();
    advance_time(&mut fixture, SignedDuration::from_hours(20_281), &[], &[]);
    let order = steps(&fixture, taken);
    let switch = order.iter().position(|step| step == "SwitchCA").unwrap();
    let restarts = order[..switch].iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 1, "{order:?}");
}

#[test]
fn revocations_survive_a_scheduled_switch_of_the_authority() {
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let mut fixture = Fixture::bootstrapped("{replicas: 1}");
    let listed = |fixture: &mut Fixture| {
        let crl = fixture.authority_secret(Domain::Client).as_ref().unwrap().data[authority_key::CRL].clone();
        crl_serials(&crl).unwrap()
    };
    let foreign = Authority::create("other", DAY * 3000, now).unwrap();
    let unknown = Serial::random().unwrap();
    let crl = foreign.sign_crl([(unknown, now)], now).unwrap();
    fixture.authority_secret(Domain::Client).as_mut().unwrap().data.insert(authority_key::CRL.into(), crl);
    advance_time(&mut fixture, SignedDuration::from_hours(20_281), &[], &[]);
    assert!(
        listed(&mut fixture).contains(&unknown),
        "after a scheduled switch, serials that the ledger does not have stay revoked"
    );
    request(&mut fixture, "client");
    settle(&mut fixture, &[], &[]);
    assert!(!listed(&mut fixture).contains(&unknown), "the authority that signed it is no longer trusted");
}

#[test]
fn client_authentication_changes_one_member_at_a_time() {
    let mut fixture = Fixture::bootstrapped("{}");
    let requiring_certificates = |fixture: &Fixture| {
        let pods = fixture.observed.members.values().filter_map(|member| member.pod.as_ref());
        let requires = |pod: &&Cached<Pod>| {
            let arguments = etcd_container(pod.spec.as_ref().unwrap()).unwrap().args.as_ref().unwrap();
            arguments.iter().any(|argument| argument == "--client-cert-auth=true")
        };
        pods.filter(requires).count()
    };
    for (auth, expected) in [(ClientAuth::None, 0), (ClientAuth::Required, 3)] {
        fixture.cluster.spec.tls.client.client_auth = auth;
        let taken = fixture.taken.len();
        settle(&mut fixture, &[], &[]);
        assert_eq!(requiring_certificates(&fixture), expected);
        let restarts = steps(&fixture, taken).iter().filter(|step| step.starts_with("RestartMember")).count();
        assert_eq!(restarts, 3, "{:?}", steps(&fixture, taken));
    }
}

#[test]
fn expired_authorities_and_certificates_are_all_replaced() {
    let mut fixture = Fixture::bootstrapped("{}");
    let before = domain(&fixture, Domain::Client);
    fixture.now += SignedDuration::from_hours(43_801);
    let taken = fixture.taken.len();
    fixture.divided = true;
    for _ in 0..20 {
        fixture.pass();
    }
    let order = steps(&fixture, taken);
    assert_eq!(order[..2], ["RenewCA", "RenewCA"], "{order:?}");
    assert_eq!(order.iter().filter(|step| step.starts_with("RestartMember")).count(), 3, "{order:?}");
    fixture.divided = false;
    settle(&mut fixture, &[], &[]);
    let now = domain(&fixture, Domain::Client);
    assert!(now.phase.is_none() && now.active.key_id != before.active.key_id);
    assert_eq!(generations(&now), ["3", "4"]);
}
