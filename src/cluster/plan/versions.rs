//! Which release each member's next pod runs, while the version of the cluster is being changed.
//!
//! Another patch takes effect at once, and members are restarted for it as for any other setting. Another minor version is given to one
//! member after the other, each when it is ready for it; until then the member's template keeps the release that it has, so that a pod
//! which is recreated meanwhile runs that one.
//!
//! | | before the first member | before each member |
//! | --- | --- | --- |
//! | one minor up | nothing else is in progress, all run a patch from which etcd can be upgraded, the cluster version is theirs, and each has written the raft snapshot that the new minor needs | the one before runs the new version and is healthy |
//! | one minor down | the same but for the last two, and then etcd's downgrade API is called | the cluster version on all members and its own storage version are the lower one, and the one before is healthy |
//!
//! A new minor reaches members by restarts, and a member whose data is in its pod is never restarted. So the data is in volumes first.
//!
//! A change that is reverted half way is a change in the other direction: etcd cannot tell them apart either. A downgrade that is
//! enabled and no longer desired is canceled first. The cluster version is the lowest that a member runs, so members that run the higher
//! one can go back without the API as long as one runs the lower one.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{api::core::v1::PodSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{changes::Changes, input::Input, storage};
use crate::{
    api::Reason,
    cluster::{
        facts::{
            ongoing::ongoing_since,
            pods::{has_never_served, is_stuck},
            roster::{Roster, RosterEntry, first},
        },
        observed::ObservedMember,
        release::Release,
        steps::{CancelDowngrade, EnableDowngrade, Step},
    },
    etcd::Version,
    kubernetes::{ownership::annotation, pod::is_terminating},
    member_pod::etcd_container,
    names::{MemberName, annotation as key},
    pki::Domain,
};

/// The releases of the members.
#[derive(Default)]
pub struct Versions {
    /// The members that do not get the release of the spec yet, and what they have.
    held: BTreeMap<MemberName, Release>,
    /// The release with which a new member starts.
    of_new: Option<Release>,
    /// Whether the user has to change the spec first.
    is_refused: bool,
    /// Notes about the change, and the next step.
    pub changes: Changes,
}

impl Versions {
    /// Whether a healthy member will be restarted with another release. Then its other settings change with that restart.
    pub fn will_restart(&self, name: &MemberName, member: &ObservedMember) -> bool {
        !self.is_refused && member.is_healthy() && self.held.contains_key(name)
    }

    /// The release of a member's next pod, if it is not that of the spec.
    pub fn held(&self, name: &MemberName, member: Option<&ObservedMember>) -> Option<&Release> {
        let is_new = member.is_none_or(|member| member.stateful_set.is_none());
        self.held.get(name).or_else(|| self.of_new.as_ref().filter(|_| is_new))
    }
}

/// A member with its release: that of the pod that answers, or else that of the template from which the next one is created.
struct Placed<'a> {
    name: &'a MemberName,
    member: &'a ObservedMember,
    release: Release,
}

impl Placed<'_> {
    /// `to` is the version of the spec.
    fn of<'a>(name: &'a MemberName, member: &'a ObservedMember, to: Version) -> Option<Placed<'a>> {
        let template = &member.stateful_set.as_ref()?.spec.template;
        let version = member.version();
        let pod = member.pod.as_deref().filter(|pod| version.is_some() && !is_terminating(pod));
        // An older operator has not recorded it.
        let image = |spec: Option<&PodSpec>| etcd_container(spec?)?.image.clone();
        let release = |meta: Option<&ObjectMeta>, spec: Option<&PodSpec>| {
            let recorded = meta.and_then(Release::recorded);
            recorded.or_else(|| Release::running(&image(spec)?, version?))
        };
        let mut release = pod
            .and_then(|pod| release(Some(&pod.metadata), pod.spec.as_ref()))
            .or_else(|| release(template.metadata.as_ref(), template.spec.as_ref()))?;
        // A member whose turn to be prepared has not come yet goes on being prepared while another one is down.
        let next = template.metadata.as_ref().and_then(Release::recorded);
        if next.is_some_and(|next| next.version == release.version && next.prepares == Some(to.minor)) {
            release.prepares = Some(to.minor);
        }
        Some(Placed { name, member, release })
    }

    /// The minor version that it runs, or else the one that its next pod runs.
    fn running(&self) -> u32 {
        self.member.version().unwrap_or(self.release.version).minor
    }

    /// Whether it does not run its release yet, or is not healthy with it.
    fn is_starting(&self) -> bool {
        self.running() != self.release.version.minor || !self.member.is_healthy()
    }

    /// The version that is in the image of its release. A pod that is being deleted may have been created from an older template.
    fn in_image(&self) -> Option<Version> {
        self.member.pod.as_deref().filter(|pod| !is_terminating(pod)).and(self.member.version())
    }

    /// That version, if its minor is another one than that of the release.
    fn other_version(&self) -> Option<Version> {
        self.in_image().filter(|version| version.minor != self.release.version.minor)
    }

    /// Whether its pod was never ready.
    fn has_never_served(&self) -> bool {
        let pod = self.member.pod.as_deref();
        pod.is_some_and(has_never_served) && self.member.etcd.status().is_none()
    }
}

/// What the next member waits for.
enum Wait {
    /// Something that ends by itself or that is reported elsewhere.
    For(String),
    /// Members that have to be restarted with the version that they run, so that they write a snapshot of raft's log.
    Prepared(BTreeSet<MemberName>),
    /// A member that was restarted for that has not written it yet: it is written after some entries.
    Snapshot(MemberName),
    /// A step.
    Step(Step),
    /// The user.
    Refused(String),
}

/// A change of the minor version.
struct Change<'a> {
    input: &'a Input<'a>,
    roster: &'a Roster<'a>,
    /// All members that have a template.
    members: Vec<Placed<'a>>,
    to: Version,
    /// To which version a downgrade is enabled.
    downgrade: Option<Version>,
}

/// Decides which release each member gets.
pub fn plan(input: &Input) -> Versions {
    let answers = |member: &ObservedMember| member.etcd.status().is_some();
    if !input.observed.has_come_up() && !input.observed.members.values().any(answers) {
        return Versions::default();
    }
    let to = input.cluster.release.version;
    let members: Vec<_> = input.observed.members.iter().filter_map(|(name, member)| Placed::of(name, member, to)).collect();
    let downgrade = input.observed.members.values().find_map(|member| member.etcd.status()?.downgrade);
    // It may also have come with a snapshot, because it is part of the data.
    let has_quorum = input.facts.roster.is_some();
    let cancel = downgrade.filter(|target| has_quorum && target.minor != to.minor).map(|_| Step::from(CancelDowngrade));
    let Some(other) = members.iter().find(|placed| placed.release.version.minor != to.minor) else {
        let changes = Changes { step: cancel, ..wrong_image(&members, to) };
        return Versions { changes, ..Versions::default() };
    };
    let reason = if other.release.version < to { Reason::Upgrading } else { Reason::Downgrading };
    let done = members.iter().filter(|placed| placed.running() == to.minor && placed.member.is_healthy()).count();
    let since = ongoing_since(input.observed, reason);
    let (from, all) = (other.release.version, members.len());
    let (change, short) =
        (format!("etcd {from} -> {to}, {done} of {all} members{since}"), format!("version {from} -> {to} ({done}/{all})"));
    let mut versions = before_the_next(input, &members);
    let next = match (&input.facts.roster, cancel) {
        (None, _) => Err(Wait::For("a quorum".into())),
        (Some(_), Some(step)) => Err(Wait::Step(step)),
        (Some(roster), None) => Change { input, roster, members, to, downgrade }.next().cloned(),
    };
    let note =
        |what: &str| Changes { change: Some(short.clone()), ..Changes::default().progress(reason, format!("{change}; {what}")) };
    versions.changes = match next {
        Ok(name) => {
            versions.held.remove(&name);
            note(&format!("next: {name}"))
        }
        Err(Wait::For(what)) => note(&format!("waiting for {what}")),
        Err(Wait::Step(step)) => Changes { step: Some(step.clone()), ..note(&step.describe()) },
        Err(Wait::Prepared(members)) => {
            let names: Vec<_> = members.iter().map(MemberName::as_str).collect();
            let what = format!("every member to write a snapshot of raft's log, for which it is restarted: {}", names.join(", "));
            let releases = versions.held.iter_mut().filter(|(name, _)| members.contains(name));
            releases.for_each(|(_, release)| release.prepares = Some(to.minor));
            note(&format!("waiting for {what}"))
        }
        Err(Wait::Snapshot(name)) => {
            let leader = input.facts.roster.iter().flat_map(|roster| &roster.voters).find(|(_, voter)| voter.leads());
            let raft_entry = leader.map(|(leader, _)| leader.clone());
            Changes { raft_entry, ..note(&format!("waiting for {name} to write a snapshot of raft's log")) }
        }
        Err(Wait::Refused(why)) => {
            versions.is_refused = true;
            Changes::default().problem(Reason::CannotChangeVersion, format!("spec.version is {to}, but {why}"))
        }
    };
    versions
}

/// Reports a member that runs another version than its image should contain.
fn wrong_image(members: &[Placed], to: Version) -> Changes {
    let given = members.iter().filter(|placed| placed.release.version == to);
    let mut versions = given.filter_map(|placed| Some((placed, placed.in_image()?)));
    let Some((wrong, version)) = versions.find(|(_, version)| *version != to) else { return Changes::default() };
    let message =
        format!("spec.version is {to}, but image {} contains etcd {version}, which {} runs", wrong.release.image, wrong.name);
    Changes::default().problem(Reason::CannotChangeVersion, message)
}

/// The releases as long as no further member gets the one of the spec.
fn before_the_next(input: &Input, members: &[Placed]) -> Versions {
    let to = input.cluster.release.version;
    // A new member starts with the lowest version that a member runs with which it is healthy, or else that was not given yet.
    let settled = members.iter().filter(|placed| !placed.is_starting());
    let waiting = || members.iter().filter(|placed| placed.release.version.minor != to.minor);
    let lowest =
        settled.min_by_key(|placed| placed.release.version).or_else(|| waiting().min_by_key(|placed| placed.release.version));
    let lowest = lowest.map(|placed| placed.release.clone());
    // A member with which a change began without success goes back at once to what all ran before. If none has ever answered, the spec of a
    // cluster that was created on the data of another one may have had a version that does not fit the data: then members end at once.
    let before = input.observed.status.version.as_deref().and_then(Version::parse);
    let none_answers = members.iter().all(|placed| placed.member.etcd.status().is_none());
    let ends = |placed: &Placed| none_answers && placed.member.pod.as_deref().is_some_and(is_stuck);
    let is_taken_back = |placed: &Placed| before.map_or_else(|| ends(placed), |before| before.minor == to.minor);
    // Once the cluster version is the one that it was given, its data may have it too.
    let is_agreed = |placed: &Placed| {
        let metrics = input.observed.members.values().filter_map(|member| member.versions.as_ref()?.as_ref().ok());
        placed.release.version > to && metrics.into_iter().any(|metrics| metrics.cluster == Some(placed.release.version.minor))
    };
    let is_free = |placed: &Placed| placed.has_never_served() && is_taken_back(placed) && !is_agreed(placed);
    let is_held = |placed: &&Placed| placed.release.version.minor != to.minor && !is_free(placed);
    let held = members.iter().filter(is_held).map(|placed| (placed.name.clone(), placed.release.clone())).collect();
    Versions { held, of_new: lowest, ..Versions::default() }
}

impl<'a> Change<'a> {
    /// The member that gets the new release now.
    fn next(&self) -> Result<&'a MemberName, Wait> {
        self.in_volumes()?;
        if let Some(far) = self.members.iter().find(|placed| placed.running().abs_diff(self.to.minor) > 1) {
            let (name, minor) = (far.name, far.running());
            let between = if minor < self.to.minor { minor + 1 } else { minor - 1 };
            let why = format!(
                "{name} runs 3.{minor}, and a minor version cannot be skipped: set spec.version to one of 3.{between} first"
            );
            return Err(Wait::Refused(why));
        }
        if let Some((wrong, version)) = self.given().find_map(|placed| Some((placed, placed.other_version()?))) {
            return Err(Wait::Refused(format!(
                "image {} contains etcd {version}, which {} runs now",
                wrong.release.image, wrong.name
            )));
        }
        let has_begun =
            self.members.iter().any(|placed| [placed.running(), placed.release.version.minor].contains(&self.to.minor));
        if let Some(starting) = self.given().find(|placed| placed.is_starting()) {
            return Err(Wait::For(format!("{} to be healthy with etcd {}", starting.name, self.to)));
        }
        let waiting = self.members.iter().filter(|placed| placed.release.version.minor != self.to.minor);
        let voters = waiting.filter_map(|placed| self.roster.voters.get_key_value(placed.name));
        let Some((name, voter)) = first(voters) else { return Err(Wait::For("the learner to be promoted".into())) };
        if voter.member.version().is_some_and(|version| version.minor == self.to.minor) {
            // The image of its release contains this version.
            return Ok(name);
        }
        if voter.member.version().is_some_and(|version| version.minor > self.to.minor) || !self.is_up() {
            self.ready_for_lower(voter, name, has_begun)?;
            return Ok(name);
        }
        if !has_begun {
            self.settled()?;
        }
        self.list_the_same()?;
        if !has_begun {
            self.ready_for_higher()?;
        } else if self.to.release().is_some_and(|release| release.needs_snapshot)
            && matches!(&voter.member.versions, Some(Ok(metrics)) if !metrics.has_snapshot)
        {
            // It may have joined since the change began.
            return Err(Wait::Snapshot(name.clone()));
        }
        Ok(name)
    }

    /// Every member has its data in a volume. The API server cannot refuse it if only the storage is changed during a change of the version.
    fn in_volumes(&self) -> Result<(), Wait> {
        if self.input.cluster.storage.empty_dir.is_some() {
            return Err(Wait::Refused(
                "with spec.storage.emptyDir the minor version cannot be changed: unset that until all members run the new one"
                    .into(),
            ));
        }
        match self.members.iter().find(|placed| placed.member.is_in_pod()) {
            Some(placed) => Err(Wait::For(format!("{} to be replaced by a member with a volume", placed.name))),
            None => Ok(()),
        }
    }

    /// The members that were given the new minor version.
    fn given(&self) -> impl Iterator<Item = &Placed<'a>> {
        self.members.iter().filter(|placed| placed.release.version.minor == self.to.minor)
    }

    fn is_up(&self) -> bool {
        self.members.iter().any(|placed| placed.release.version.minor < self.to.minor)
    }

    /// Nothing else is in progress.
    fn settled(&self) -> Result<(), Wait> {
        let Self { input, roster, .. } = self;
        let is_rotating = |domain: &Domain| input.observed.is_rotating(*domain);
        let is_scaling = !roster.learners.is_empty() || roster.voters.len() != input.cluster.replicas as usize;
        if is_scaling || storage::moves_are_due(input, roster) {
            return Err(Wait::For("the change of the members".into()));
        }
        if let Some(unknown) = roster.unknown.first() {
            return Err(Wait::For(format!("member {}, which the operator did not add, to be removed", unknown.id)));
        }
        if !roster.all_healthy() {
            let silent = roster.describe_silent();
            return Err(Wait::For(format!("all {} voters to be healthy{silent}", roster.votes())));
        }
        if Domain::ALL.iter().any(is_rotating) {
            return Err(Wait::For("the CA rotation to be complete".into()));
        }
        Ok(())
    }

    /// All members list the same members in their own data. etcd 3.6 takes its list from another store than 3.5, and releases of 3.5 before
    /// 3.5.26 could leave members in that store which were removed long ago, or learners that were promoted. So it is checked before the
    /// first member and after each one.
    fn list_the_same(&self) -> Result<(), Wait> {
        let mut lists = vec![];
        for (name, voter) in self.roster.voters.iter().filter(|(_, voter)| voter.answers()) {
            match &voter.member.own_list {
                Some(Ok(list)) => lists.push((name, list)),
                Some(Err(problem)) => return Err(Wait::For(format!("the member list of {name}: {problem}"))),
                None => return Err(Wait::For(format!("the member list of {name}"))),
            }
        }
        let Some(((one, first), others)) = lists.split_first() else { return Ok(()) };
        let Some((other, difference)) = others.iter().find_map(|(name, list)| Some((name, first.difference(list)?))) else {
            return Ok(());
        };
        let [of_one, of_other] = difference.map(|entry| match entry {
            None => "does not list",
            Some(member) if member.is_learner => "lists as a learner",
            Some(_) => "lists as a voter",
        });
        let id = difference.into_iter().flatten().map(|member| member.id).next().unwrap_or_default();
        Err(Wait::Refused(format!(
            "the members do not list the same members: {one} {of_one} member {id}, and {other} {of_other} it"
        )))
    }

    /// Before the first member runs a higher version.
    fn ready_for_higher(&self) -> Result<(), Wait> {
        let running =
            || self.roster.voters.iter().filter_map(|(name, voter)| Some((name, voter.member, voter.member.version()?)));
        for (name, _, version) in running() {
            let Some(release) = version.release().filter(|release| version.patch < release.upgradable) else { continue };
            let why = format!(
                "{name} runs {version}, from which etcd cannot be upgraded: set spec.version to 3.{}.{} or newer first",
                release.minor, release.upgradable
            );
            return Err(Wait::Refused(why));
        }
        let mut unprepared = BTreeSet::new();
        for (name, member, version) in running() {
            let metrics = metrics(name, member)?;
            if metrics.cluster != Some(version.minor) {
                return Err(Wait::For(format!("the cluster version to be 3.{} on {name}", version.minor)));
            }
            // A snapshot that it wrote before says nothing: members of the version before may have made entries after it.
            let minor = self.to.minor.to_string();
            let is_prepared = member.pod.as_ref().is_some_and(|pod| annotation(&pod.metadata, key::PREPARED_FOR) == Some(&minor));
            if !self.to.release().is_some_and(|release| release.needs_snapshot) {
                continue;
            }
            if !is_prepared {
                unprepared.insert(name.clone());
            } else if !metrics.has_snapshot {
                return Err(Wait::Snapshot(name.clone()));
            }
        }
        if unprepared.is_empty() { Ok(()) } else { Err(Wait::Prepared(unprepared)) }
    }

    /// Before a member runs a lower version.
    fn ready_for_lower(&self, voter: &RosterEntry, name: &MemberName, has_begun: bool) -> Result<(), Wait> {
        let minor = self.to.minor;
        let is_agreed = self.downgrade.is_some() || has_begun;
        let answering = self.roster.voters.iter().filter(|(_, voter)| voter.answers());
        for (name, voter) in answering {
            if metrics(name, voter.member)?.cluster == Some(minor) {
                continue;
            }
            if !is_agreed {
                self.settled()?;
                let version = voter.member.version().and_then(Version::release);
                return Err(if version.is_some_and(|release| release.has_downgrade) {
                    Wait::Step(EnableDowngrade { to: minor }.into())
                } else {
                    Wait::Refused(format!("etcd {} has no downgrade", self.to))
                });
            }
            return Err(Wait::For(format!("the cluster version to be 3.{minor} on {name}")));
        }
        // All run the higher version, and the cluster version is about to follow. It never comes down by itself again, and a member with the
        // lower version would end at each start.
        if !is_agreed {
            return Err(Wait::For(format!("the cluster version to be 3.{}", minor + 1)));
        }
        // While it is down its storage may still have the version before, with which the lower one does not start.
        let storage = voter.member.etcd.status().and_then(|status| status.storage);
        if storage.is_none_or(|storage| storage.minor != minor) {
            return Err(Wait::For(format!("the storage version of {name} to be 3.{minor}")));
        }
        Ok(())
    }
}

fn metrics<'a>(name: &MemberName, member: &'a ObservedMember) -> Result<&'a crate::etcd::VersionMetrics, Wait> {
    match &member.versions {
        Some(Ok(metrics)) => Ok(metrics),
        Some(Err(problem)) => Err(Wait::For(format!("the metrics of {name}: {problem}"))),
        None => Err(Wait::For(format!("the metrics of {name}"))),
    }
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
