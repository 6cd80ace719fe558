use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use crate::{
    api::{EtcdClusterStatus, Reason},
    cluster::{
        fixtures::{Fixture, names},
        observed::{Observed, ObservedMember},
        plan::changes::Plan,
        steps::{Adopt, LeftoverKind, Step},
    },
    names::{annotation as key, authority_key},
    pki::Domain,
};

const NEW: &str = "another-uid";

/// A new cluster that finds the claims and CA Secrets of a deleted cluster of the same name, which had this many members.
fn with_leftovers(replicas: i32) -> Fixture {
    let mut fixture = Fixture::bootstrapped(&format!("replicas: {replicas}"));
    fixture.taken.clear();
    fixture.cluster.metadata.uid = Some(NEW.into());
    fixture.cluster.status = None;
    let claims = |member: ObservedMember| ObservedMember { claim: member.claim, ..ObservedMember::default() };
    let before = std::mem::take(&mut fixture.observed);
    fixture.observed = Observed {
        authorities: before.authorities,
        members: before.members.into_iter().map(|(name, member)| (name, claims(member))).collect(),
        ..Observed::default()
    };
    fixture
}

/// `kubectl delete etcd demo --cascade=orphan`: the garbage collector removes the owner references, and everything goes on. Then a new
/// cluster of this name is created.
fn with_orphans(replicas: i32) -> Fixture {
    let mut fixture = Fixture::bootstrapped(&format!("replicas: {replicas}"));
    fixture.taken.clear();
    fixture.cluster.metadata.uid = Some(NEW.into());
    fixture.cluster.status = None;
    let observed = &mut fixture.observed;
    observed.status = EtcdClusterStatus::default();
    observed.client_service.iter_mut().for_each(|object| object.metadata.owner_references = None);
    observed.peer_service.iter_mut().for_each(|object| object.metadata.owner_references = None);
    observed.disruption_budget.iter_mut().for_each(|object| object.metadata.owner_references = None);
    observed.ca_config.iter_mut().for_each(|object| object.metadata.owner_references = None);
    observed.bootstrap.iter_mut().for_each(|object| object.metadata.owner_references = None);
    observed.operator.iter_mut().for_each(|secret| secret.meta.owner_references = None);
    for member in observed.members.values_mut() {
        member.stateful_set.iter_mut().for_each(|object| object.metadata.owner_references = None);
        if let Some(secret) = &mut member.secret {
            secret.meta.owner_references = None;
            secret.meta.annotations = Some([(key::WRITTEN_AT.to_owned(), "2026-03-01T12:00:00Z".to_owned())].into());
        }
    }
    if let Some(secret) = &mut observed.operator {
        secret.meta.annotations = Some([(key::WRITTEN_AT.to_owned(), "2026-03-01T12:00:00Z".to_owned())].into());
    }
    fixture
}

#[test]
fn objects_of_a_cluster_that_was_deleted_without_them_are_named_with_the_command_that_removes_them() {
    let mut fixture = with_orphans(3);
    let blocked = fixture.blocked();
    assert_eq!(blocked.reason, Reason::LeftoverObjects);
    let (_, command) = blocked.message.split_once('`').unwrap();
    let (command, _) = command.split_once('`').unwrap();
    let mut named: Vec<_> = command.strip_prefix("kubectl -n ns delete ").unwrap().split(' ').collect();
    assert_eq!(named[..3], ["statefulset/demo-0", "statefulset/demo-1", "statefulset/demo-2"], "no pod is created again");
    named.sort_unstable();
    assert_eq!(
        named,
        [
            "configmap/demo-bootstrap",
            "configmap/demo-ca",
            "poddisruptionbudget/demo",
            "secret/demo-0-tls",
            "secret/demo-1-tls",
            "secret/demo-2-tls",
            "secret/demo-operator-tls",
            "service/demo",
            "service/demo-peers",
            "statefulset/demo-0",
            "statefulset/demo-1",
            "statefulset/demo-2",
        ],
        "neither claims nor CAs"
    );
    // An object of others is reported as such, even if there are orphans.
    fixture.observed.client_service.as_mut().unwrap().metadata.annotations = None;
    let others = fixture.blocked();
    assert_eq!(others.reason, Reason::NameTaken);
    assert!(others.message.starts_with("Service demo cannot be used: it was not created by etcd-warden."), "{}", others.message);
}

/// The planned adoption of the leftovers.
fn adoption(fixture: &mut Fixture) -> Adopt {
    match fixture.plan() {
        Plan::Adopt(Step::Adopt(adopt)) => adopt,
        other => panic!("nothing is adopted: {other:?}"),
    }
}

fn active_authority(fixture: &Fixture) -> Vec<u8> {
    fixture.observed.authorities.client.as_ref().unwrap().data[authority_key::ACTIVE_CRT].clone()
}

type Change<'a> = &'a dyn Fn(&mut Fixture);

/// Passes once and checks that the adoption is refused. Returns the message.
fn refusal(fixture: &mut Fixture) -> String {
    let before = format!("{:?}", fixture.observed.members.values().map(|member| &member.claim).collect::<Vec<_>>());
    let pass = fixture.pass();
    let blocked = pass.blocked().expect("the leftovers are inconsistent").clone();
    assert_eq!((blocked.reason, pass.plan.step()), (Reason::LeftoverData, None));
    assert!(pass.report.status.cluster_id.is_none() && pass.report.status.members.is_empty());
    let now = format!("{:?}", fixture.observed.members.values().map(|member| &member.claim).collect::<Vec<_>>());
    assert_eq!(before, now, "nothing is changed");
    blocked.message
}

#[test]
fn consistent_leftovers_are_adopted_with_data_and_authorities() {
    for (replicas, lost) in [(1, vec![]), (3, vec![]), (3, vec![1]), (5, vec![0, 4])] {
        let mut fixture = with_leftovers(replicas);
        let authority = active_authority(&fixture);
        let ids: BTreeMap<_, _> = fixture.etcd.iter().map(|member| (member.name.clone(), member.id)).collect();
        for ordinal in &lost {
            fixture.lose(*ordinal);
            fixture.observed.members.remove(&names().member(*ordinal));
        }
        assert!(!adoption(&mut fixture).objects.is_empty(), "nothing else is done before the adoption");
        fixture.settle();
        assert!(fixture.is_idle());
        assert_eq!(fixture.ordinals().len(), usize::try_from(replicas).unwrap());
        for member in &fixture.etcd {
            let ordinal = names().member_at(&member.peer_urls[0]).unwrap().ordinal();
            assert_eq!(ids[&member.name] == member.id, !lost.contains(&ordinal), "{} keeps its data", member.name);
        }
        assert_eq!(active_authority(&fixture), authority);
    }
}

#[test]
fn an_interrupted_adoption_continues() {
    for done in 0..4 {
        let mut fixture = with_leftovers(3);
        let objects = adoption(&mut fixture).objects;
        let (secret, claim) = (LeftoverKind::Secret, LeftoverKind::Claim);
        assert_eq!(objects.iter().map(|object| object.kind).collect::<Vec<_>>(), [secret, secret, claim, claim, claim]);
        for object in &objects[..done] {
            let claims = fixture.observed.members.values_mut().filter_map(|member| Some(&mut member.claim.as_mut()?.metadata));
            let authorities = &mut fixture.observed.authorities;
            let secrets = [&mut authorities.client, &mut authorities.peer];
            let mut metas = secrets.into_iter().map(|secret| &mut secret.as_mut().unwrap().meta).chain(claims);
            let meta = metas.find(|meta| meta.name.as_ref() == Some(&object.name)).unwrap();
            meta.annotations.as_mut().unwrap().insert(key::CLUSTER_UID.into(), NEW.into());
        }
        assert_eq!(adoption(&mut fixture).objects, objects[done..]);
        fixture.settle();
        assert_eq!(fixture.ordinals(), [0, 1, 2]);
    }
}

#[test]
fn an_adopted_cluster_is_scaled_afterwards() {
    for replicas in [1, 5] {
        let mut fixture = with_leftovers(3);
        fixture.cluster.spec.replicas = replicas;
        fixture.settle();
        assert_eq!(fixture.ordinals().len(), usize::try_from(replicas).unwrap());
        assert_eq!(fixture.taken[0], "Adopt");
    }
}

#[test]
fn inconsistent_leftovers_are_refused_with_a_reason() {
    let claim = |fixture: &mut Fixture, ordinal: u32| fixture.observed.members[&names().member(ordinal)].claim.clone().unwrap();
    let put = |fixture: &mut Fixture, ordinal: u32, claim| {
        fixture.observed.members.get_mut(&names().member(ordinal)).unwrap().claim = Some(claim);
    };
    let annotated = |fixture: &mut Fixture, ordinal: u32, key: &str, value: Option<&str>| {
        let mut changed = claim(fixture, ordinal);
        let annotations = changed.metadata.annotations.as_mut().unwrap();
        match value {
            Some(value) => drop(annotations.insert(key.into(), value.into())),
            None => drop(annotations.remove(key)),
        }
        put(fixture, ordinal, changed);
    };
    let changes: [(&str, Change); 9] = [
        ("only 1 of its 3 members have their claims; missing are data-demo-0, data-demo-2", &|fixture| {
            fixture.observed.members.remove(&names().member(0));
            fixture.observed.members.remove(&names().member(2));
        }),
        ("Secret demo-client-ca is missing", &|fixture| fixture.observed.authorities.client = None),
        ("Secret demo-peer-ca is missing", &|fixture| fixture.observed.authorities.peer = None),
        ("Secret demo-peer-ca: ", &|fixture| {
            let secret = fixture.authority_secret(Domain::Peer).as_mut().unwrap();
            secret.data.insert(authority_key::ACTIVE_CRT.into(), b"nonsense".to_vec());
        }),
        ("PersistentVolumeClaim data-demo-2 did not belong to an EtcdCluster", &|fixture| {
            annotated(fixture, 2, key::CLUSTER_UID, None);
        }),
        ("they belonged to different clusters", &|fixture| annotated(fixture, 2, key::CLUSTER_UID, Some("third"))),
        ("the data of PersistentVolumeClaim data-demo-1 was discarded to recover the cluster from demo-0", &|fixture| {
            annotated(fixture, 1, key::DISCARDED_FOR, Some("demo-0"));
        }),
        ("the data of different clusters", &|fixture| annotated(fixture, 0, key::CLUSTER_ID, Some("beef"))),
        ("PersistentVolumeClaim data-demo-0 lacks the annotations that identify its member", &|fixture| {
            annotated(fixture, 0, key::MEMBER_ID, None);
        }),
    ];
    for (words, change) in changes {
        let mut fixture = with_leftovers(3);
        change(&mut fixture);
        let message = refusal(&mut fixture);
        assert!(message.contains(words), "{words}: {message}");
        assert!(message.contains("kubectl -n ns delete --wait=false pvc,secret"), "{message}");
    }
}

/// They are gone by themselves soon. A command that removes them could be run when a new cluster has claims under these names.
#[test]
fn leftovers_that_are_being_deleted_are_waited_for() {
    let owner = OwnerReference { uid: "old".into(), ..OwnerReference::default() };
    let changes: [fn(&mut ObjectMeta, &OwnerReference, Timestamp); 2] = [
        |meta, _, now| meta.deletion_timestamp = Some(Time(now)),
        |meta, owner, _| meta.owner_references = Some(vec![owner.clone()]),
    ];
    for change in changes {
        let mut fixture = with_leftovers(3);
        let now = fixture.now;
        let claim = &mut fixture.observed.members.get_mut(&names().member(1)).unwrap().claim;
        change(&mut claim.as_mut().unwrap().metadata, &owner, now);
        let message = refusal(&mut fixture);
        assert!(message.ends_with("waits until nothing is left of it: PersistentVolumeClaim data-demo-1"), "{message}");
    }
}

#[test]
fn the_claim_of_a_removed_member_is_adopted_and_deleted() {
    let mut fixture = with_leftovers(3);
    let id = fixture.id(2);
    // It was removed from etcd, and the cluster was deleted before its claim was.
    fixture.etcd.retain(|member| member.id != id);
    fixture.cluster.spec.replicas = 2;
    fixture.settle();
    assert_eq!(fixture.ordinals(), [0, 1]);
    assert!(fixture.taken.contains(&"DeleteClaim demo-2".to_owned()), "{:?}", fixture.taken);
}
