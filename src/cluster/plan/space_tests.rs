use crate::{
    cluster::{
        fixtures::{member_id, names},
        plan::tests::bootstrapped,
        steps::Step,
    },
    ids::MemberId,
};

fn disarmed(world: &crate::cluster::fixtures::World) -> usize {
    world.taken.iter().filter(|step| *step == "DisarmAlarm").count()
}

/// After the quota was raised the alarm stays (bitnami/charts#18073). It is disarmed once no database is full any more, and not before.
#[test]
fn the_alarm_is_disarmed_once_every_member_has_room() {
    let mut world = bootstrapped(3);
    world.db_size = 2 << 30;
    world.alarms.insert(member_id(&names().member(1)));
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(disarmed(&world), 0, "the databases are full");
    world.cluster.spec.etcd.quota_backend_size.0 = "4Gi".into();
    for _ in 0..60 {
        world.pass();
        if disarmed(&world) > 0 {
            break;
        }
    }
    let restarts = world.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!((restarts, disarmed(&world), world.alarms.len()), (3, 1, 0), "{:?}", world.taken);
}

/// The quota of the spec is not the one that they have.
#[test]
fn room_is_compared_with_the_quota_that_members_keep() {
    let mut world = bootstrapped(3);
    world.db_size = 1 << 30;
    world.alarms.insert(member_id(&names().member(1)));
    world.cluster.spec.etcd.quota_backend_size.0 = "512Mi".into();
    let Some(Step::DisarmAlarm(disarm)) = world.changes().step else { panic!("{:?}", world.changes()) };
    assert_eq!(disarm.quota, 2 << 30);
}

/// It cannot be asked whether it has room, and would raise the alarm again.
#[test]
fn the_alarm_of_a_member_that_the_operator_did_not_add_stays() {
    let mut world = bootstrapped(3);
    world.alarms.insert(MemberId(0x99));
    for _ in 0..10 {
        world.pass();
    }
    assert_eq!(disarmed(&world), 0);
}
