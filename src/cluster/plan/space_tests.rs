use crate::{
    cluster::{
        fixtures::{member_id, names},
        plan::tests::bootstrapped,
        steps::Step,
    },
    ids::MemberId,
};

fn disarmed(fixture: &crate::cluster::fixtures::Fixture) -> usize {
    fixture.taken.iter().filter(|step| *step == "DisarmAlarm").count()
}

/// After the quota was raised the alarm stays (bitnami/charts#18073). It is disarmed once no database is full any more, and not before.
#[test]
fn the_alarm_is_disarmed_once_every_member_has_room() {
    let mut fixture = bootstrapped(3);
    fixture.db_size = 2 << 30;
    fixture.alarms.insert(member_id(&names().member(1)));
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!(disarmed(&fixture), 0, "the databases are full");
    fixture.cluster.spec.etcd.quota_backend_size.0 = "4Gi".into();
    for _ in 0..60 {
        fixture.pass();
        if disarmed(&fixture) > 0 {
            break;
        }
    }
    let restarts = fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count();
    assert_eq!((restarts, disarmed(&fixture), fixture.alarms.len()), (3, 1, 0), "{:?}", fixture.taken);
}

/// The quota of the spec is not the one that they have.
#[test]
fn room_is_compared_with_the_quota_that_members_keep() {
    let mut fixture = bootstrapped(3);
    fixture.db_size = 1 << 30;
    fixture.alarms.insert(member_id(&names().member(1)));
    fixture.cluster.spec.etcd.quota_backend_size.0 = "512Mi".into();
    let Some(Step::DisarmAlarm(disarm)) = fixture.changes().step else { panic!("{:?}", fixture.changes()) };
    assert_eq!(disarm.quota, 2 << 30);
}

/// It cannot be asked whether it has room, and would raise the alarm again.
#[test]
fn the_alarm_of_a_member_that_the_operator_did_not_add_stays() {
    let mut fixture = bootstrapped(3);
    fixture.alarms.insert(MemberId(0x99));
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!(disarmed(&fixture), 0);
}
