use crate::cluster::{
    fixtures::{member_id, names},
    plan::tests::bootstrapped,
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
