//! Lowering the quota.

use crate::{
    api::Reason,
    cluster::{
        fixtures::Fixture,
        observed::Probe,
        plan::tests::{bootstrapped, notes},
    },
};

const MIB: i64 = 1 << 20;

fn restarts(fixture: &Fixture) -> usize {
    fixture.taken.iter().filter(|step| step.starts_with("RestartMember")).count()
}

fn flags(fixture: &Fixture) -> Vec<&str> {
    let sets = fixture.observed.members.values().filter_map(|member| member.stateful_set.as_ref());
    let arguments = sets.flat_map(|set| set.spec.template.spec.as_ref().unwrap().containers[0].args.iter().flatten());
    arguments.filter_map(|argument| argument.strip_prefix("--quota-backend-bytes=")).collect()
}

/// A quota below the size of a database would make etcd refuse every write at once.
#[test]
fn the_quota_is_not_lowered_below_what_a_database_takes() {
    let mut fixture = bootstrapped(3);
    fixture.db_size = 1000 * MIB;
    fixture.cluster.spec.etcd.quota_backend_size.0 = "512Mi".into();
    for _ in 0..20 {
        fixture.pass();
    }
    assert_eq!((restarts(&fixture), flags(&fixture)), (0, vec!["2147483648"; 3]));
    let problems = notes(&fixture.changes().problems, Reason::QuotaTooSmall);
    let expected = "spec.etcd.quotaBackendSize is 512Mi, but the database of demo-2 takes up to 1Gi: with this quota etcd would refuse \
                    every write, so members keep 2Gi. Compact and defragment the databases, or set a larger quota";
    assert_eq!(problems, [expected]);
    // The message does not change with every write.
    fixture.db_size += MIB;
    assert_eq!(notes(&fixture.changes().problems, Reason::QuotaTooSmall), problems);

    // Other changes of the same edit take effect.
    fixture.cluster.spec.etcd.election_timeout.0 = "2s".into();
    for _ in 0..60 {
        fixture.pass();
    }
    assert_eq!((restarts(&fixture), flags(&fixture)), (3, vec!["2147483648"; 3]));

    // There is room now.
    fixture.db_size = 100 * MIB;
    for _ in 0..60 {
        fixture.pass();
    }
    assert_eq!((restarts(&fixture), flags(&fixture)), (6, vec!["536870912"; 3]));
    assert_eq!(fixture.changes().problems, []);
}

/// A database that grows over a quota that its members have is no reason to give them another one.
#[test]
fn a_quota_that_members_have_already_stays() {
    let mut fixture = bootstrapped(3);
    fixture.db_size = 3000 * MIB;
    for _ in 0..10 {
        fixture.pass();
    }
    assert_eq!((restarts(&fixture), flags(&fixture)), (0, vec!["2147483648"; 3]));
    assert_eq!(notes(&fixture.changes().problems, Reason::QuotaTooSmall), [] as [&str; 0]);
}

/// With less room than that, an alarm would not be disarmed.
#[test]
fn a_lower_quota_leaves_room_for_a_twentieth_of_it() {
    for (database, restarted) in [(973, 0), (972, 3)] {
        let mut fixture = bootstrapped(3);
        fixture.db_size = database * MIB;
        fixture.cluster.spec.etcd.quota_backend_size.0 = "1Gi".into();
        for _ in 0..40 {
            fixture.pass();
        }
        assert_eq!(restarts(&fixture), restarted, "{database}Mi");
    }
}

/// Once there was room for the old quota only, a restart of the only member must not bring the new one.
#[test]
fn the_quota_stays_while_the_size_of_a_database_is_not_known() {
    let mut fixture = bootstrapped(1);
    fixture.db_size = 1000 * MIB;
    fixture.cluster.spec.etcd.quota_backend_size.0 = "512Mi".into();
    for _ in 0..3 {
        fixture.pass();
    }
    fixture.member(0).etcd = Probe::Unreachable("connection refused".into());
    let plan = fixture.plan_on(&fixture.observed);
    let changes = plan.changes().unwrap();
    assert!(changes.stateful_sets.is_empty(), "{:?}", changes.stateful_sets.keys());
    let problems = notes(&changes.problems, Reason::QuotaTooSmall).join("; ");
    assert!(
        problems.contains("demo-0 does not answer, so the size of its database is not known, so members keep 2Gi"),
        "{problems}"
    );
}
