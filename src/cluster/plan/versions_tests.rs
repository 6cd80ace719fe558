//! Changing the version, one minor at a time.

use k8s_openapi::{api::apps::v1::StatefulSet, apimachinery::pkg::apis::meta::v1::Time};

use crate::{
    api::Reason,
    cluster::{
        fixtures::{Fixture, names},
        observed::{ObservedMember, Probe},
        plan::tests::{annotate, bootstrapped, notes},
    },
    etcd::{Member, Version, VersionMetrics},
    ids::MemberId,
    member_pod::etcd_container,
    names::annotation as key,
    pki::Domain,
};

/// Has the cluster run this version.
fn change(fixture: &mut Fixture, version: &str) {
    fixture.cluster.spec.version = version.into();
}

/// The versions that the members run.
fn running(fixture: &Fixture) -> Vec<String> {
    let status = |member: &ObservedMember| member.etcd.status().map(|status| status.version.clone());
    fixture.observed.members.values().filter_map(status).collect()
}

/// Passes until this holds.
#[track_caller]
fn until(fixture: &mut Fixture, mut holds: impl FnMut(&mut Fixture) -> bool) {
    for _ in 0..300 {
        if holds(fixture) {
            return;
        }
        fixture.pass();
    }
    let changes = fixture.changes();
    panic!("{:?} {:?} {changes:?}", running(fixture), fixture.taken);
}

/// What is in progress.
fn progress(fixture: &mut Fixture) -> String {
    let changes = fixture.changes();
    [Reason::Upgrading, Reason::Downgrading].iter().flat_map(|reason| notes(&changes.progress, *reason)).collect()
}

/// Until all members run this version, and nothing is planned any more.
fn settle(fixture: &mut Fixture, version: &str) {
    until(fixture, |fixture| running(fixture) == [version; 3] && fixture.changes().is_empty());
}

fn restarts(fixture: &Fixture, from: usize) -> Vec<&str> {
    fixture.taken[from..].iter().filter_map(|step| step.strip_prefix("RestartMember ")).collect()
}

#[test]
fn another_patch_restarts_each_member_once() {
    let mut fixture = bootstrapped(3);
    let taken = fixture.taken.len();
    change(&mut fixture, "3.6.17");
    settle(&mut fixture, "3.6.17");
    assert_eq!(restarts(&fixture, taken).len(), 3, "{:?}", &fixture.taken[taken..]);
}

#[test]
fn minors_go_up_and_down_one_at_a_time() {
    let mut fixture = bootstrapped(3);
    let taken = fixture.taken.len();
    change(&mut fixture, "3.7.3");
    settle(&mut fixture, "3.7.3");
    // Each is restarted twice: 3.7 needs a snapshot that 3.6 writes when it starts again.
    assert_eq!(restarts(&fixture, taken).len(), 6, "{:?}", &fixture.taken[taken..]);
    for version in ["3.6.16", "3.5.35", "3.6.16"] {
        let taken = fixture.taken.len();
        change(&mut fixture, version);
        settle(&mut fixture, version);
        assert_eq!(restarts(&fixture, taken).len(), 3, "{:?}", &fixture.taken[taken..]);
    }
    let enabled = fixture.taken.iter().filter(|step| step.starts_with("EnableDowngrade")).count();
    assert_eq!(enabled, 2, "{:?}", fixture.taken);
    assert_eq!(fixture.agreed.downgrade, None);
}

/// While one member is down because it is being prepared, the others are still to be.
#[test]
fn templates_are_written_once_for_the_preparation_and_once_for_the_version() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.7.3");
    let mut written = vec![];
    until(&mut fixture, |fixture| {
        written.extend(fixture.changes().stateful_sets.into_keys());
        running(fixture) == ["3.7.3"; 3] && fixture.changes().is_empty()
    });
    written.sort();
    let twice: Vec<_> = (0..3).flat_map(|ordinal| [names().member(ordinal), names().member(ordinal)]).collect();
    assert_eq!(written, twice);
}

#[test]
fn a_downgrade_is_taken_back_before_and_after_the_first_member() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.5.35");
    until(&mut fixture, |fixture| fixture.agreed.downgrade == Some(5));
    change(&mut fixture, "3.6.16");
    until(&mut fixture, |fixture| fixture.agreed.downgrade.is_none());
    settle(&mut fixture, "3.6.16");
    assert!(fixture.taken.iter().any(|step| step == "CancelDowngrade"), "{:?}", fixture.taken);

    change(&mut fixture, "3.5.35");
    until(&mut fixture, |fixture| running(fixture).iter().any(|version| version == "3.5.35"));
    change(&mut fixture, "3.6.16");
    settle(&mut fixture, "3.6.16");
    assert_eq!(fixture.agreed.downgrade, None);
}

/// The leader raises the cluster version some seconds after all members run the higher version (etcd `server/etcdserver`,
/// `monitorVersions`). A member that got the lower version in between would end at each start.
#[test]
fn a_downgrade_right_after_an_upgrade_waits_for_the_cluster_version() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.5.35");
    let lower = Version { major: 3, minor: 5, patch: 0 };
    for member in fixture.observed.members.values_mut() {
        let Probe::Reached(_, Ok(status)) = &mut member.etcd else { panic!() };
        status.storage = Some(lower);
        member.versions = Some(Ok(VersionMetrics { cluster: Some(5), has_snapshot: false }));
    }
    let plan = fixture.plan_on(&fixture.observed);
    let changes = plan.changes().unwrap();
    assert!(changes.is_empty(), "{changes:?}");
    let waits = notes(&changes.progress, Reason::Downgrading).join("; ");
    assert!(waits.contains("waiting for the cluster version to be 3.6"), "{waits}");
}

/// Until it ends it answers with the version before, though its template has the new one.
#[test]
fn a_member_that_is_being_restarted_for_a_version_has_no_wrong_image() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.7.3");
    let given = |fixture: &Fixture| {
        let template =
            |set: &StatefulSet| etcd_container(set.spec.template.spec.as_ref().unwrap()).unwrap().image.clone().unwrap();
        let is_given = |(_, member): &(_, &ObservedMember)| template(member.stateful_set.as_ref().unwrap()).contains("3.7.3");
        fixture.observed.members.iter().find(is_given).map(|(name, _)| name.clone())
    };
    until(&mut fixture, |fixture| given(fixture).is_some());
    let name = given(&fixture).unwrap();
    let mut observed = fixture.observed.clone();
    let member = observed.members.get_mut(&name).unwrap();
    assert_eq!(member.etcd.status().unwrap().version, "3.6.16");
    member.pod.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(fixture.now));
    let plan = fixture.plan_on(&observed);
    let changes = plan.changes().unwrap();
    assert!(changes.problems.is_empty(), "{:?}", changes.problems);
    assert!(notes(&changes.progress, Reason::Upgrading).join("; ").contains("3.6.16 -> 3.7.3"), "{:?}", changes.progress);
}

/// A tag of one's own does not say what is in the image.
#[test]
fn an_image_of_another_patch_is_reported() {
    let mut fixture = bootstrapped(3);
    fixture.versions.insert(names().member(1), "3.6.15".into());
    let problems = notes(&fixture.changes().problems, Reason::CannotChangeVersion).join("; ");
    assert!(problems.starts_with("spec.version is 3.6.16, but image "), "{problems}");
    assert!(problems.ends_with("contains etcd 3.6.15, which demo-1 runs"), "{problems}");
}

#[test]
fn no_version_is_changed_while_there_is_an_unknown_member_or_a_rotation() {
    for rotates in [false, true] {
        let mut fixture = bootstrapped(3);
        if rotates {
            annotate(&mut fixture, key::ROTATE_CA, "client");
            until(&mut fixture, |fixture| fixture.observed.is_rotating(Domain::Client));
        } else {
            fixture.etcd.push(Member {
                id: MemberId(0x99),
                name: String::new(),
                peer_urls: vec!["https://other:2380".into()],
                is_learner: true,
            });
        }
        change(&mut fixture, "3.5.35");
        let expected = if rotates {
            "waiting for the CA rotation to be complete"
        } else {
            "waiting for member 99, which the operator did not add"
        };
        until(&mut fixture, |fixture| progress(fixture).contains(expected));
        assert!(!fixture.taken.iter().any(|step| step.starts_with("EnableDowngrade")), "{:?}", fixture.taken);
    }
}

/// A member that was removed long ago, in the store from which etcd 3.6 takes its list.
fn stray(is_learner: bool) -> Member {
    Member { id: MemberId(0x99), name: "gone".into(), peer_urls: vec!["https://gone:2380".into()], is_learner }
}

#[test]
fn no_version_rises_while_members_list_other_members() {
    for is_learner in [false, true] {
        let mut fixture = Fixture::bootstrapped(r#"{"version": "3.5.35"}"#);
        let taken = fixture.taken.len();
        fixture.strays.insert(names().member(1), stray(is_learner));
        change(&mut fixture, "3.6.16");
        for _ in 0..20 {
            fixture.pass();
        }
        assert_eq!(running(&fixture), ["3.5.35"; 3]);
        assert_eq!(fixture.taken[taken..], [] as [&str; 0]);
        let problems = notes(&fixture.changes().problems, Reason::CannotChangeVersion).join("; ");
        let role = if is_learner { "lists as a learner" } else { "lists as a voter" };
        let expected = format!("demo-0 does not list member 99, and demo-1 {role} it");
        assert!(problems.ends_with(&expected), "{problems}");
        fixture.strays.clear();
        settle(&mut fixture, "3.6.16");
    }
}

#[test]
fn an_upgrade_stops_at_a_member_that_lists_other_members_and_is_taken_back() {
    let mut fixture = Fixture::bootstrapped(r#"{"version": "3.5.35"}"#);
    change(&mut fixture, "3.6.16");
    until(&mut fixture, |fixture| running(fixture).iter().any(|version| version == "3.6.16"));
    let runs = |(_, member): &(_, &ObservedMember)| member.version().is_some_and(|version| version.minor == 6);
    let first = fixture.observed.members.iter().find(runs).unwrap().0.clone();
    fixture.strays.insert(first, stray(false));
    for _ in 0..20 {
        fixture.pass();
    }
    assert_eq!(running(&fixture).iter().filter(|version| *version == "3.6.16").count(), 1);
    let problems = notes(&fixture.changes().problems, Reason::CannotChangeVersion).join("; ");
    assert!(problems.contains("the members do not list the same members"), "{problems}");
    change(&mut fixture, "3.5.35");
    settle(&mut fixture, "3.5.35");
}

/// Its storage has the cluster version, with which the lower version does not start.
#[test]
fn a_member_that_has_never_served_goes_back_at_once_unless_the_cluster_version_has_followed_it() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.7.3");
    until(&mut fixture, |fixture| running(fixture).iter().any(|version| version == "3.7.3"));
    let runs = |(_, member): &(_, &ObservedMember)| member.version().is_some_and(|version| version.minor == 7);
    let name = fixture.observed.members.iter().find(runs).map(|(name, _)| name.clone()).unwrap();
    change(&mut fixture, "3.6.16");
    for (cluster, goes_back) in [(6, true), (7, false)] {
        let mut observed = fixture.observed.clone();
        for member in observed.members.values_mut() {
            member.versions = Some(Ok(VersionMetrics { cluster: Some(cluster), has_snapshot: true }));
        }
        let member = observed.members.get_mut(&name).unwrap();
        member.etcd = Probe::Unreachable("connection refused".into());
        let pod = member.pod.as_mut().unwrap();
        pod.metadata.annotations.as_mut().unwrap().remove(key::TLS_CONFIRMED);
        for condition in pod.status.as_mut().unwrap().conditions.iter_mut().flatten() {
            condition.status = "False".into();
        }
        let plan = fixture.plan_on(&observed);
        let changes = plan.changes().unwrap();
        assert_eq!(
            changes.stateful_sets.contains_key(&name),
            goes_back,
            "the cluster version is 3.{cluster}: {:?}",
            changes.progress
        );
    }
}

#[test]
fn an_upgrade_is_taken_back_half_way_without_the_downgrade_api() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.7.3");
    until(&mut fixture, |fixture| running(fixture).iter().any(|version| version == "3.7.3"));
    let taken = fixture.taken.len();
    change(&mut fixture, "3.6.16");
    settle(&mut fixture, "3.6.16");
    // One goes back, and the others no longer write snapshots for the upgrade.
    assert_eq!(restarts(&fixture, taken).len(), 3, "{:?}", &fixture.taken[taken..]);
    assert!(!fixture.taken.iter().any(|step| step.starts_with("EnableDowngrade")), "{:?}", fixture.taken);
}

#[test]
fn a_minor_is_not_skipped_and_an_old_patch_is_not_upgraded() {
    for (from, to, part) in [
        ("3.5.35", "3.7.3", "demo-0 runs 3.5, and a minor version cannot be skipped: set spec.version to one of 3.6 first"),
        ("3.7.3", "3.5.35", "demo-0 runs 3.7, and a minor version cannot be skipped: set spec.version to one of 3.6 first"),
        ("3.6.4", "3.7.3", "demo-0 runs 3.6.4, from which etcd cannot be upgraded: set spec.version to 3.6.11 or newer first"),
    ] {
        let mut fixture = Fixture::bootstrapped(&format!("{{\"version\": \"{from}\"}}"));
        let taken = fixture.taken.len();
        change(&mut fixture, to);
        for _ in 0..20 {
            fixture.pass();
        }
        assert_eq!(running(&fixture), [from; 3]);
        assert_eq!(fixture.taken[taken..], [] as [&str; 0]);
        let problems = fixture.changes().problems;
        assert!(
            problems.iter().any(|note| note.reason == Reason::CannotChangeVersion && note.message.contains(part)),
            "{problems:?}"
        );
    }
}

#[test]
fn the_status_says_how_far_a_change_of_the_version_is() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.5.35");
    let mut seen = vec![];
    until(&mut fixture, |fixture| {
        let status = &fixture.observed.status;
        let upgrade = status.upgrade.as_ref();
        let shown = upgrade.map(|it| format!("{} -> {} ({}/{})", it.from, it.to, it.updated, it.members));
        let shown = (status.version.clone().unwrap(), shown);
        seen.extend(Some(shown.clone()).filter(|shown| seen.last() != Some(shown)));
        fixture.changes().is_empty() && shown.1.is_none() && seen.len() > 1
    });
    let going = |updated: u32| ("3.6.16".to_owned(), Some(format!("3.6.16 -> 3.5.35 ({updated}/3)")));
    let (before, after) = (("3.6.16".to_owned(), None), ("3.5.35".to_owned(), None));
    assert_eq!(seen, [before, going(0), going(1), going(2), after]);
}

/// For example with an image of one's own, on the data of a cluster that was made by hand.
#[test]
fn a_release_that_is_not_known_is_reported_and_not_touched() {
    let mut fixture = bootstrapped(3);
    fixture.versions = (0..3).map(|ordinal| (names().member(ordinal), "3.9.1".to_owned())).collect();
    let taken = fixture.taken.len();
    for (version, words) in [
        ("3.6.16", "contains etcd 3.9.1, which demo-0 runs"),
        ("3.7.3", "demo-0 runs 3.9, and a minor version cannot be skipped: set spec.version to one of 3.8 first"),
    ] {
        change(&mut fixture, version);
        for _ in 0..20 {
            fixture.pass();
        }
        assert_eq!(fixture.taken[taken..], [] as [&str; 0], "{version}");
        let problems = notes(&fixture.changes().problems, Reason::CannotChangeVersion).join("; ");
        assert!(problems.contains(words), "{version}: {problems}");
    }
}

#[test]
fn the_version_changes_once_a_requested_replacement_is_complete() {
    let mut fixture = bootstrapped(3);
    annotate(&mut fixture, key::REPLACE, "demo-1");
    until(&mut fixture, |fixture| fixture.taken.iter().any(|step| step.starts_with("AddLearner")));
    change(&mut fixture, "3.5.35");
    settle(&mut fixture, "3.5.35");
    let at = |kind: &str| fixture.taken.iter().position(|step| step.starts_with(kind)).unwrap();
    assert!(at("RemoveMember demo-1") < at("EnableDowngrade"), "{:?}", fixture.taken);
}

#[test]
fn a_minor_with_which_no_member_starts_stops_at_the_first_and_is_taken_back() {
    let mut fixture = bootstrapped(3);
    change(&mut fixture, "3.5.35");
    settle(&mut fixture, "3.5.35");
    change(&mut fixture, "3.6.16");
    until(&mut fixture, |fixture| running(fixture).iter().any(|version| version == "3.6.16"));
    let first = fixture.observed.members.iter().find(|(_, member)| member.etcd.status().is_some_and(|s| s.version == "3.6.16"));
    let first = first.unwrap().0.clone();
    fixture.silent.insert(first.clone());
    for _ in 0..60 {
        fixture.pass();
    }
    let others = running(&fixture);
    assert_eq!(others, ["3.5.35"; 2], "the others are not restarted");
    let progress = progress(&mut fixture);
    assert!(progress.contains(&format!("waiting for {first} to be healthy with etcd 3.6.16")), "{progress}");
    fixture.silent.clear();
    change(&mut fixture, "3.5.35");
    settle(&mut fixture, "3.5.35");
}

#[test]
fn without_a_quorum_the_version_does_not_change() {
    let mut fixture = bootstrapped(3);
    fixture.silent.extend([names().member(1), names().member(2)]);
    fixture.allows_outage = true;
    for _ in 0..5 {
        fixture.pass();
    }
    let taken = fixture.taken.len();
    change(&mut fixture, "3.7.3");
    for _ in 0..20 {
        fixture.pass();
    }
    assert_eq!(fixture.taken[taken..], [] as [&str; 0]);
    assert!(progress(&mut fixture).contains("waiting for a quorum"));
}
