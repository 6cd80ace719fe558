use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};

use crate::{
    cluster::{
        fixtures::{World, names},
        observed::{Observed, ObservedMember, SecretView},
        plan::Step,
    },
    names::{annotation as key, authority_key},
};

const NEW: &str = "another-uid";

/// A cluster of this many members was deleted and has left its claims and authorities; one of its name is new.
fn left_by(replicas: i32) -> World {
    let mut world = World::founded(&format!("replicas: {replicas}"));
    world.taken.clear();
    world.cluster.metadata.uid = Some(NEW.into());
    world.cluster.status = None;
    let claims = |member: ObservedMember| ObservedMember { claim: member.claim, ..ObservedMember::default() };
    let before = std::mem::take(&mut world.observed);
    world.observed = Observed {
        client_authority: before.client_authority,
        peer_authority: before.peer_authority,
        members: before.members.into_iter().map(|(name, member)| (name, claims(member))).collect(),
        ..Observed::default()
    };
    world
}

type Change<'a> = &'a dyn Fn(&mut World);

fn refused(world: &mut World) -> String {
    let before = format!("{:?}", world.observed.members.values().map(|member| &member.claim).collect::<Vec<_>>());
    let pass = world.pass();
    let refused = pass.plan.refused.expect("it does not fit");
    assert_eq!((refused.reason, &pass.plan.step), ("DataLeft", &None));
    assert!(pass.report.status.cluster_id.is_none() && pass.report.status.members.is_empty());
    let now = format!("{:?}", world.observed.members.values().map(|member| &member.claim).collect::<Vec<_>>());
    assert_eq!(before, now, "nothing is touched");
    refused.message
}

#[test]
fn what_fits_is_taken_over_with_its_data_and_its_authorities() {
    for (replicas, lost) in [(1, vec![]), (3, vec![]), (3, vec![1]), (5, vec![0, 4])] {
        let mut world = left_by(replicas);
        let authority = world.observed.client_authority.as_ref().unwrap().data[authority_key::ACTIVE_CRT].clone();
        let ids: BTreeMap<_, _> = world.etcd.iter().map(|member| (member.name.clone(), member.id)).collect();
        for ordinal in &lost {
            world.lose(*ordinal);
            world.observed.members.remove(&names().member(*ordinal));
        }
        let first = world.plan();
        assert!(matches!(first.step, Some(Step::TakeOver { .. })) && first.objects.is_empty() && first.secrets.is_empty());
        world.settle();
        assert!(world.plan().is_empty());
        assert_eq!(world.ordinals().len(), usize::try_from(replicas).unwrap());
        for member in &world.etcd {
            let ordinal = names().member_at(&member.peer_urls[0]).unwrap().ordinal();
            assert_eq!(ids[&member.name] == member.id, !lost.contains(&ordinal), "{} keeps its data", member.name);
        }
        assert_eq!(world.observed.client_authority.as_ref().unwrap().data[authority_key::ACTIVE_CRT], authority);
    }
}

#[test]
fn taking_over_goes_on_where_it_was_interrupted() {
    for done in 0..4 {
        let mut world = left_by(3);
        let Some(Step::TakeOver { objects, .. }) = world.plan().step else { panic!("nothing to take over") };
        assert_eq!(objects.iter().map(|left| left.claim).collect::<Vec<_>>(), [false, false, true, true, true]);
        for left in &objects[..done] {
            let claims = world.observed.members.values_mut().filter_map(|member| Some(&mut member.claim.as_mut()?.metadata));
            let secrets = [&mut world.observed.client_authority, &mut world.observed.peer_authority];
            let mut metas = secrets.into_iter().map(|secret| &mut secret.as_mut().unwrap().meta).chain(claims);
            let meta = metas.find(|meta| meta.name.as_ref() == Some(&left.name)).unwrap();
            meta.annotations.as_mut().unwrap().insert(key::CLUSTER_UID.into(), NEW.into());
        }
        let Some(Step::TakeOver { objects: rest, .. }) = world.plan().step else { panic!("it does not go on") };
        assert_eq!(rest, objects[done..]);
        world.settle();
        assert_eq!(world.ordinals(), [0, 1, 2]);
    }
}

#[test]
fn fewer_or_more_members_than_there_were_come_and_go_afterwards() {
    for replicas in [1, 5] {
        let mut world = left_by(3);
        world.cluster.spec.replicas = replicas;
        world.settle();
        assert_eq!(world.ordinals().len(), usize::try_from(replicas).unwrap());
        assert_eq!(world.taken[0], "TakeOver");
    }
}

#[test]
fn anything_else_is_refused_in_words() {
    let owner = OwnerReference { uid: "old".into(), ..OwnerReference::default() };
    let claim = |world: &mut World, ordinal: u32| world.observed.members[&names().member(ordinal)].claim.clone().unwrap();
    let put = |world: &mut World, ordinal: u32, claim| {
        world.observed.members.get_mut(&names().member(ordinal)).unwrap().claim = Some(claim);
    };
    let annotated = |world: &mut World, ordinal: u32, key: &str, value: Option<&str>| {
        let mut changed = claim(world, ordinal);
        let annotations = changed.metadata.annotations.as_mut().unwrap();
        match value {
            Some(value) => drop(annotations.insert(key.into(), value.into())),
            None => drop(annotations.remove(key)),
        }
        put(world, ordinal, changed);
    };
    let changes: [(&str, Change); 11] = [
        ("only 1 of the 3 members that it had have their claims; missing are data-demo-0, data-demo-2", &|world| {
            world.observed.members.remove(&names().member(0));
            world.observed.members.remove(&names().member(2));
        }),
        ("Secret demo-client-ca is missing", &|world| world.observed.client_authority = None),
        ("Secret demo-peer-ca is missing", &|world| world.observed.peer_authority = None),
        ("Secret demo-peer-ca: ", &|world| {
            let secret: &mut SecretView = world.observed.peer_authority.as_mut().unwrap();
            secret.data.insert(authority_key::ACTIVE_CRT.into(), b"nonsense".to_vec());
        }),
        ("PersistentVolumeClaim data-demo-1 is being deleted", &|world| {
            let mut going = claim(world, 1);
            going.metadata.deletion_timestamp = Some(Time(world.now));
            put(world, 1, going);
        }),
        ("PersistentVolumeClaim data-demo-1 is being deleted", &|world| {
            let mut kept = claim(world, 1);
            kept.metadata.owner_references = Some(vec![owner.clone()]);
            put(world, 1, kept);
        }),
        ("PersistentVolumeClaim data-demo-2 is not of an EtcdCluster", &|world| annotated(world, 2, key::CLUSTER_UID, None)),
        ("they are of different clusters", &|world| annotated(world, 2, key::CLUSTER_UID, Some("third"))),
        ("the data of PersistentVolumeClaim data-demo-1 was given up for that of demo-0", &|world| {
            annotated(world, 1, key::GIVEN_UP_FOR, Some("demo-0"));
        }),
        ("the data of different clusters", &|world| annotated(world, 0, key::CLUSTER_ID, Some("beef"))),
        ("it is not written on PersistentVolumeClaim data-demo-0", &|world| annotated(world, 0, key::MEMBER_ID, None)),
    ];
    for (words, change) in changes {
        let mut world = left_by(3);
        change(&mut world);
        let message = refused(&mut world);
        assert!(message.contains(words), "{words}: {message}");
        assert!(message.contains("kubectl -n ns delete pvc,secret"), "{message}");
    }
}

#[test]
fn a_claim_of_one_that_had_been_removed_is_taken_over_and_deleted() {
    let mut world = left_by(3);
    let id = world.id(2);
    // It was removed from etcd, and the cluster was deleted before its claim was.
    world.etcd.retain(|member| member.id != id);
    world.cluster.spec.replicas = 2;
    world.settle();
    assert_eq!(world.ordinals(), [0, 1]);
    assert!(world.taken.contains(&"DeleteClaim demo-2".to_owned()), "{:?}", world.taken);
}
