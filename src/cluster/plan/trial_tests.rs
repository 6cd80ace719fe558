use k8s_openapi::api::core::v1::Pod;

use crate::{
    api::{ConditionType, IssuerSpec, Reason, condition},
    certificates::issuers::IssuerProbe,
    cluster::{
        facts::trust::peer_leaf_of,
        fixtures::{Fixture, Pass, names},
        observed::Trial,
        plan::{
            changes::Plan,
            issuers::{
                RETRY,
                tests::{authority, ca_secret, cert_manager, set_issuer},
            },
            rotation::tests::{DAY, ROTATION, domain, request, settle, transitions},
        },
    },
    names::{annotation as key, member_key, tls_key},
    pki::{Authority, Domain, Phase},
    reporting::note::Note,
};

/// A cluster of which a domain is changed to an authority that members refuse. It is as far as it gets.
fn changed_to_a_refused_authority(of: Domain) -> Fixture {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.unacceptable.insert("servers only".into());
    change_to(&mut fixture, of, "servers only");
    fixture
}

/// Changes a domain to an authority of this name in a Secret, and makes passes until it is as far as it gets.
fn change_to(fixture: &mut Fixture, of: Domain, name: &str) {
    set_issuer(fixture, of, ca_secret("company"));
    let external = authority(name, fixture);
    fixture.set_external(of, external, vec![]);
    for _ in 0..300 {
        fixture.pass();
        fixture.check_trust(&[], &[]);
    }
}

/// The one problem, which certificates have too.
fn refusal(fixture: &mut Fixture) -> String {
    let changes = fixture.changes();
    let refusals =
        |notes: &[Note]| notes.iter().filter(|note| note.reason == Reason::CertificateRefused).cloned().collect::<Vec<_>>();
    let (problems, certificates) = (refusals(&changes.problems), refusals(&changes.certificates));
    assert_eq!(problems, certificates);
    assert_eq!(problems.len(), 1);
    problems[0].message.clone()
}

#[test]
fn an_authority_whose_certificates_are_refused_never_signs() {
    for (of, who) in
        [(Domain::Client, "(BadCertificate): a client certificate of CA"), (Domain::Peer, "and is not connected to demo-")]
    {
        let mut fixture = changed_to_a_refused_authority(of);
        assert_eq!(domain(&fixture, of).active.issuer, None, "the previous authority still signs");
        assert_eq!(domain(&fixture, of).phase.map(Phase::as_str), Some("Distributing"));
        assert!(fixture.observed.list.is_ok(), "the operator keeps its identity, and there is a quorum");
        let message = refusal(&mut fixture);
        let patch = format!(r#"--type merge -p '{{"spec":{{"tls":{{"{of}":{{"issuer":null}}}}}}}}'"#);
        for part in [who, "\"servers only\" of the CA in Secret company", "kubectl -n ns patch etcdcluster demo", &patch] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn only_one_member_is_tried() {
    let mut fixture = changed_to_a_refused_authority(Domain::Client);
    let restarted = fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarted, 1, "no other is restarted for an authority that the first one refuses: {:?}", fixture.taken);
    fixture = changed_to_a_refused_authority(Domain::Peer);
    assert_eq!(fixture.healthy_members(), 2, "only one member presents a leaf of the authority");
    assert!(fixture.changes().step.is_none());
}

#[test]
fn a_refused_authority_is_taken_back_with_the_spec() {
    for of in Domain::ALL {
        let mut fixture = changed_to_a_refused_authority(of);
        let taken = fixture.taken.len();
        set_issuer(&mut fixture, of, IssuerSpec::default());
        settle(&mut fixture, &[], &[]);
        assert_eq!(transitions(&fixture, taken), ROTATION);
        for key in [member_key::CLIENT_CA, member_key::PEER_CA] {
            assert!(!fixture.trusted(key).contains("servers only"));
        }
    }
}

#[test]
fn a_refused_authority_is_taken_back_to_the_authority_in_a_secret() {
    for of in Domain::ALL {
        let mut fixture = Fixture::bootstrapped("{}");
        let company = || ca_secret("company");
        set_issuer(&mut fixture, of, company());
        let good = authority("good", &fixture);
        let pem = (good.certificate().pem().to_owned(), good.key_pem().to_vec());
        fixture.set_external(of, good, vec![]);
        settle(&mut fixture, &[], &[]);
        fixture.unacceptable.insert("servers only".into());
        let refused = authority("servers only", &fixture);
        fixture.set_external(of, refused, vec![]);
        for _ in 0..300 {
            fixture.pass();
        }
        assert!(refusal(&mut fixture).contains("Give the CA in Secret company a CA whose certificates are accepted"));
        let good = Authority::load(pem.0.as_bytes(), &pem.1).unwrap();
        fixture.set_external(of, good, vec![]);
        settle(&mut fixture, &[], &[]);
        assert_eq!(domain(&fixture, of).active.name, "good");
    }
}

#[test]
fn a_refused_authority_is_replaced_by_the_next_good_one() {
    for of in Domain::ALL {
        let mut fixture = changed_to_a_refused_authority(of);
        let good = authority("good", &fixture);
        fixture.set_external(of, good, vec![]);
        settle(&mut fixture, &[], &[]);
        assert_eq!(domain(&fixture, of).active.name, "good");
    }
}

/// A domain whose authority an issuer of cert-manager has, and then another one that members refuse. It is as far as it gets. The first one is
/// returned.
fn refused_by_cert_manager(of: Domain) -> (Fixture, Authority) {
    let mut fixture = Fixture::bootstrapped("{}");
    set_issuer(&mut fixture, of, cert_manager("pki"));
    let good = authority("good", &fixture);
    let previous = Authority::load(good.certificate().pem().as_bytes(), good.key_pem()).unwrap();
    fixture.set_external(of, good, vec![]);
    settle(&mut fixture, &[], &[]);
    fixture.unacceptable.insert("servers only".into());
    let refused = authority("servers only", &fixture);
    fixture.set_external(of, refused, vec![]);
    // The next renewal shows that the issuer has another authority.
    fixture.now += DAY * 61;
    for _ in 0..300 {
        fixture.pass();
        fixture.check_trust(&[], &[]);
    }
    assert!(refusal(&mut fixture).contains("Give Issuer pki a CA whose certificates are accepted, such as the previous one"));
    (fixture, previous)
}

#[test]
fn the_issuer_of_a_refused_authority_is_asked_until_it_has_another_one() {
    for (of, is_previous) in Domain::ALL.into_iter().flat_map(|of| [(of, true), (of, false)]) {
        let (mut fixture, previous) = refused_by_cert_manager(of);
        // The passes are a second apart.
        let passes: Vec<_> = (0..300).map(|_| fixture.pass()).collect();
        let is_asked = |pass: &&Pass| {
            pass.plan
                .changes()
                .is_some_and(|changes| changes.issuer_probes.iter().any(|probe| matches!(probe, IssuerProbe::Request(_))))
        };
        let asked = passes.iter().filter(is_asked).count();
        assert!((3..=5).contains(&asked), "{of}: {asked} times");
        let is_blamed =
            |pass: &Pass| pass.plan.changes().unwrap().problems.iter().any(|note| note.reason == Reason::CannotRotate);
        assert!(!passes.iter().any(is_blamed), "nobody has asked for a rotation");
        let taken = fixture.taken.len();
        let other = authority("another", &fixture);
        // The member that tries the refused peer authority needs a certificate that the others accept, and so the previous authority.
        let is_stranded = of == Domain::Peer && !is_previous;
        if is_stranded {
            fixture.set_external(of, other, vec![]);
            for _ in 0..100 {
                fixture.pass();
                fixture.check_trust(&[], &[]);
            }
            assert!(fixture.taken[taken..].is_empty(), "{:?}", &fixture.taken[taken..]);
            refusal(&mut fixture);
            fixture.set_external(of, previous, vec![]);
        } else {
            fixture.set_external(of, if is_previous { previous } else { other }, vec![]);
        }
        fixture.now += RETRY;
        settle(&mut fixture, &[], &[]);
        assert_eq!(domain(&fixture, of).active.name, if is_previous || is_stranded { "good" } else { "another" });
        fixture.now += RETRY;
        settle(&mut fixture, &[], &[]);
        assert!(fixture.is_idle(), "the issuer is not asked any more: {:#?}", fixture.plan());
    }
}

#[test]
fn the_issuer_of_an_authority_with_which_a_member_does_not_start_is_asked_until_it_has_another_one() {
    for of in Domain::ALL {
        let mut fixture = Fixture::bootstrapped("{}");
        fixture.unreadable.insert("odd".into());
        set_issuer(&mut fixture, of, cert_manager("pki"));
        let odd = authority("odd", &fixture);
        fixture.set_external(of, odd, vec![]);
        for _ in 0..300 {
            fixture.pass();
        }
        assert!(suspicion(&mut fixture).unwrap().contains("CA \"odd\" of Issuer pki"));
        let good = authority("good", &fixture);
        fixture.set_external(of, good, vec![]);
        fixture.now += RETRY;
        settle(&mut fixture, &[], &[]);
        assert_eq!((domain(&fixture, of).active.name.as_str(), fixture.healthy_members()), ("good", 3));
    }
}

#[test]
fn a_refused_built_in_authority_is_replaced_on_request() {
    for of in Domain::ALL {
        let mut fixture = Fixture::bootstrapped("{}");
        let refused = fixture.valid().authority_name(of, 3);
        fixture.unacceptable.insert(refused);
        request(&mut fixture, of.as_str());
        for _ in 0..300 {
            fixture.pass();
        }
        assert!(refusal(&mut fixture).contains(&format!("annotate etcdcluster demo --overwrite etcd-warden.dev/rotate-ca={of}")));
        request(&mut fixture, &format!("{of}@2"));
        settle(&mut fixture, &[], &[]);
        assert!(domain(&fixture, of).phase.is_none());
    }
}

#[test]
fn a_peer_authority_signs_for_all_only_once_a_restarted_member_has_rejoined() {
    let mut fixture = Fixture::bootstrapped("{}");
    request(&mut fixture, "peer");
    let mut rejoined = false;
    for _ in 0..300 {
        let switched = fixture.taken.iter().any(|step| step == "SwitchCA");
        assert!(rejoined || !switched, "the next authority signs before a member has rejoined with it");
        fixture.pass();
        fixture.check_trust(&[], &[]);
        let next = fixture.observed.authorities.peer.as_ref().unwrap().authorities().unwrap().next.clone();
        rejoined |= fixture.observed.members.values().any(|member| {
            let started = member.pod.as_ref().is_some_and(|pod| peer_leaf_of(&pod.metadata).any(|of| of == next.fingerprint()));
            started && member.is_healthy() && matches!(&member.active_peers, Some(Ok(peers)) if peers.len() == 2)
        });
    }
    assert!(rejoined && domain(&fixture, Domain::Peer).phase.is_none());
    let restarts = fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 6, "the member that is tried is one that has to be restarted anyway");
}

#[test]
fn a_cluster_of_one_has_nobody_to_refuse_its_peer_certificate() {
    let mut fixture = Fixture::bootstrapped("replicas: 1");
    let taken = fixture.taken.len();
    request(&mut fixture, "peer");
    settle(&mut fixture, &[], &[]);
    assert_eq!(transitions(&fixture, taken), ROTATION);
}

#[test]
fn with_two_members_a_refused_peer_certificate_costs_the_quorum_and_is_replaced_without_it() {
    let mut fixture = Fixture::bootstrapped("replicas: 2");
    fixture.allows_outage = true;
    let refused = fixture.valid().authority_name(Domain::Peer, 3);
    fixture.unacceptable.insert(refused);
    let taken = fixture.taken.len();
    request(&mut fixture, "peer");
    for _ in 0..200 {
        fixture.pass();
    }
    let restarts = fixture.taken[taken..].iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!(restarts, 2, "each member once: {:?}", &fixture.taken[taken..]);
    assert!(refusal(&mut fixture).contains("rotate-ca=peer@"));
    request(&mut fixture, "peer@2");
    settle(&mut fixture, &[], &[]);
    assert!(domain(&fixture, Domain::Peer).phase.is_none());
}

#[test]
fn the_operator_has_a_certificate_of_the_next_authority_only_while_it_is_tried() {
    let mut fixture = Fixture::bootstrapped("{}");
    request(&mut fixture, "client");
    let mut tried = false;
    for _ in 0..300 {
        let switched = fixture.taken.iter().any(|step| step == "SwitchCA");
        fixture.pass();
        let has = fixture.observed.operator.as_ref().unwrap().data.contains_key(tls_key::NEXT_KEY);
        let accepted = fixture.observed.members.values().any(|member| member.trial == Some(Trial::Accepted));
        tried |= accepted;
        assert!(tried || !switched, "the next authority signs before a member has accepted it");
        assert!(!has || domain(&fixture, Domain::Client).phase.is_some());
    }
    let operator = fixture.observed.operator.as_ref().unwrap();
    assert!(tried && !operator.data.contains_key(tls_key::NEXT_CRT) && !operator.data.contains_key(tls_key::NEXT_KEY));
}

#[test]
fn a_port_that_the_operator_cannot_reach_is_named() {
    let mut fixture = Fixture::bootstrapped("{}");
    fixture.hides_metrics = true;
    request(&mut fixture, "peer");
    for _ in 0..100 {
        fixture.pass();
    }
    assert_eq!(domain(&fixture, Domain::Peer).phase.map(Phase::as_str), Some("Distributing"));
    let changes = fixture.changes();
    let missing = &changes.progress.iter().find(|note| note.reason == Reason::RotatingCA).unwrap().message;
    assert!(missing.contains("demo-0 cannot be reached on port 2381: no connection within 2 s;"), "{missing}");
    assert!(missing.contains("a NetworkPolicy must let the operator reach port 2381 of the members"), "{missing}");
    fixture.hides_metrics = false;
    settle(&mut fixture, &[], &[]);
    assert!(domain(&fixture, Domain::Peer).phase.is_none());
}

/// A cluster of which a domain is changed to an authority with which etcd does not start. It is as far as it gets.
fn changed_to_an_unreadable_authority(of: Domain, spec: &str) -> Fixture {
    let mut fixture = Fixture::bootstrapped(spec);
    fixture.allows_outage = fixture.cluster.spec.replicas < 3;
    fixture.unreadable.insert("odd".into());
    fixture.taken.clear();
    change_to(&mut fixture, of, "odd");
    fixture
}

/// The words about an authority that may be why a member does not start.
fn suspicion(fixture: &mut Fixture) -> Option<String> {
    let changes = fixture.changes();
    let mut found = changes.problems.into_iter().filter(|note| note.reason == Reason::MemberDown);
    let first = found.next();
    assert!(found.next().is_none());
    first.map(|note| note.message)
}

#[test]
fn an_authority_with_which_a_member_does_not_start_is_named() {
    for of in Domain::ALL {
        let mut fixture = changed_to_an_unreadable_authority(of, "{}");
        assert_eq!((fixture.healthy_members(), domain(&fixture, of).phase.map(Phase::as_str)), (2, Some("Distributing")));
        let restarted: Vec<_> = fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).collect();
        assert_eq!(restarted.len(), 1, "no other is restarted, and this one only once: {restarted:?}");
        let member = restarted[0].strip_prefix("RestartMember ").unwrap().to_owned();
        let message = suspicion(&mut fixture).unwrap();
        let patch = format!(
            r#"kubectl -n ns patch etcdcluster demo --type merge -p '{{"spec":{{"tls":{{"{of}":{{"issuer":null}}}}}}}}'"#
        );
        for part in [member.as_str(), "CA \"odd\" of the CA in Secret company", &format!("logs {member}-0 --previous"), &patch] {
            assert!(message.contains(part), "{message}");
        }
        let report = fixture.report();
        let degraded = condition(&report.status.conditions, ConditionType::Degraded).unwrap();
        let ended = format!("{member}: its container is waiting: CrashLoopBackOff: it ended with exit code 1");
        assert_eq!(degraded.reason, "MemberDown");
        assert!(degraded.message.contains(&message) && degraded.message.contains(&ended), "{}", degraded.message);
    }
}

/// With one or two members there is no quorum then.
#[test]
fn an_authority_with_which_a_member_does_not_start_is_taken_back_with_the_spec() {
    for (of, replicas) in Domain::ALL.into_iter().flat_map(|of| [(of, 1), (of, 2), (of, 3)]) {
        let mut fixture = changed_to_an_unreadable_authority(of, &format!("replicas: {replicas}"));
        assert_eq!(fixture.has_quorum(), replicas == 3);
        let (taken, healthy) = (fixture.taken.len(), fixture.healthy_members());
        let stopped = fixture.taken[taken - 1].clone();
        assert!(stopped.starts_with("RestartMember"), "{:?}", fixture.taken);
        set_issuer(&mut fixture, of, IssuerSpec::default());
        let starts = (0..20).any(|_| {
            fixture.pass();
            fixture.healthy_members() > healthy
        });
        assert!(starts, "{} of {replicas}", fixture.healthy_members());
        assert_eq!(fixture.taken[taken..][..2], ["PrepareCA".to_owned(), stopped], "the member that does not start is restarted");
        settle(&mut fixture, &[], &[]);
        assert_eq!(transitions(&fixture, taken), ROTATION);
        for key in [member_key::CLIENT_CA, member_key::PEER_CA] {
            assert!(!fixture.trusted(key).contains("odd"));
        }
        assert_eq!(fixture.healthy_members(), replicas);
    }
}

#[test]
fn an_authority_with_which_a_member_does_not_start_is_replaced_by_the_next_good_one() {
    for of in Domain::ALL {
        let mut fixture = changed_to_an_unreadable_authority(of, "{}");
        let good = authority("good", &fixture);
        fixture.set_external(of, good, vec![]);
        settle(&mut fixture, &[], &[]);
        assert_eq!((domain(&fixture, of).active.name.as_str(), fixture.healthy_members()), ("good", 3));
    }
}

#[test]
fn an_authority_is_not_suspected_if_another_member_runs_with_it_or_memory_is_the_reason() {
    for of in Domain::ALL {
        let mut fixture = changed_to_an_unreadable_authority(of, "{}");
        assert!(suspicion(&mut fixture).is_some());
        fixture.kubelet = false;
        let ordinal = (0..3).find(|ordinal| fixture.cannot_read_bundles(&names().member(*ordinal))).unwrap();
        let plan = |fixture: &Fixture, change: &dyn Fn(&mut Pod)| {
            let mut observed = fixture.observed.clone();
            change(observed.members.get_mut(&names().member(ordinal)).unwrap().pod.as_mut().unwrap());
            let other = observed.members.get_mut(&names().member((ordinal + 1) % 3)).unwrap().pod.as_mut().unwrap();
            change(other);
            let Plan::Change(changes) = fixture.plan_on(&observed) else { panic!() };
            changes.problems.iter().any(|note| note.reason == Reason::MemberDown)
        };
        assert!(plan(&fixture, &|_| {}));
        let killed = |pod: &mut Pod| {
            let container = &mut pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0];
            let ended = container.last_state.as_mut().and_then(|last| last.terminated.as_mut());
            if let Some(ended) = ended {
                ended.reason = Some("OOMKilled".into());
            }
        };
        assert!(!plan(&fixture, &killed));
        let annotation = fixture.pod(ordinal).metadata.annotations.as_ref().unwrap()[key::BUNDLES].clone();
        let trusts = move |pod: &mut Pod| {
            pod.metadata.annotations.as_mut().unwrap().insert(key::BUNDLES.into(), annotation.clone());
        };
        assert!(!plan(&fixture, &trusts));
    }
}
