//! Validated spec + what there is + the time -> what is to be done. Pure.
//!
//! A plan holds only what differs from what there is: of a cluster that is as it should be, it is empty. Everything in it may
//! be done again without harm but the one [`Step`], which is checked again on fresh reads before it is taken.

mod adoption;
mod certificates;
mod drift;
mod evidence;
mod holds;
mod issuers;
mod members;
mod membership;
mod recheck;
mod recovery;
mod restart;
mod rotation;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::Duration,
};

pub use adoption::Left;
use adoption::Verdict;
pub use certificates::{AuthorityState, authority_of, changed_files, member_leaves, request_leaf};
pub use drift::{Built, Object, ObjectVersion, owner as owner_in_words};
pub use issuers::{Inquiry, Source, inquiry};
use jiff::{SignedDuration, Timestamp};
pub use members::{has_never_served, is_stuck, why_not_ready};
use membership::Roster;
pub use membership::is_ongoing;
pub use recheck::{Fresh, NotNow, change, leader, recheck};
pub use recovery::{RECOVERING, is_current, is_stopped, lost_in_words, pod_bears_flag, progress_in_words, template_bears_flag};
pub use restart::outage;
pub use rotation::{Rotate, Salvage, Turn, believes_nobody};

use super::{observed::Observed, validate::ValidatedCluster};
use crate::{
    names::MemberName,
    pki::{Domain, Holder, LeafSpec, Stale, Usage},
};

/// What is to be done in one pass.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Why nothing is done at all.
    pub refused: Option<Note>,
    /// Before the first object is made: everything that will be, none of which may be someone else's.
    pub preflight: Vec<Object>,
    /// The authorities to make.
    pub authorities: Vec<AuthorityRequest>,
    /// The Secrets to make or to change.
    pub secrets: Vec<SecretChange>,
    /// The objects to apply, in this order.
    pub objects: Vec<Object>,
    /// The pods to annotate.
    pub pods: Vec<PodNote>,
    /// The wishes of the user's that are over.
    pub wishes: Vec<EndedWish>,
    /// The one deed that can't be taken back.
    pub step: Option<Step>,
    /// The members that are down because they are being restarted.
    pub restarting: BTreeSet<MemberName>,
    /// What is awaited.
    pub waits: Vec<Note>,
    /// What is wrong.
    pub problems: Vec<Note>,
    /// What keeps certificates from being as they should be.
    pub certificates: Vec<Note>,
    /// What there is to say of certificates that are as they should be.
    pub remarks: Vec<String>,
    /// What is to be done to learn of issuers' authorities.
    pub inquiries: Vec<Inquiry>,
    /// When to look again, if nothing happens before.
    pub next_check: Duration,
}

impl Plan {
    /// Whether the StatefulSet of a member is about to be changed.
    fn changes_set(&self, member: &MemberName) -> bool {
        self.objects.iter().any(|object| object.resource.kind == "StatefulSet" && object.name == member.as_str())
    }

    /// Whether Secrets are about to be changed, which comes before what depends on them.
    fn changes_secrets(&self) -> bool {
        self.secrets.iter().any(SecretChange::is_written_now)
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.authorities.is_empty()
            && self.secrets.is_empty()
            && self.objects.is_empty()
            && self.pods.is_empty()
            && self.wishes.is_empty()
            && self.inquiries.is_empty()
            && self.step.is_none()
    }
}

/// A wish of the user's, an annotation of the cluster, that is over or of which a part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedWish {
    /// The annotation's name.
    pub annotation: &'static str,
    /// What is left of it. `None`: it is taken off.
    pub left: Option<String>,
    /// What is told, if nothing else tells it.
    pub told: Option<Note>,
    /// Whether it is told as a warning, because the wish was not fulfilled.
    pub warns: bool,
}

impl EndedWish {
    /// One that is taken off.
    fn new(annotation: &'static str) -> Self {
        Self { annotation, left: None, told: None, warns: false }
    }
    /// One of which there is this to tell.
    fn told(self, reason: &'static str, message: impl Into<String>) -> Self {
        Self { told: Some(Note::new(reason, message)), ..self }
    }
}

/// Something to be said in the status: a reason in `PascalCase`, and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The reason of a condition or event.
    pub reason: &'static str,
    /// The message.
    pub message: String,
}

impl Note {
    /// A note.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// The authorities of a domain, to be made once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityRequest {
    /// The domain.
    pub domain: Domain,
    /// Where they come from.
    pub source: Source,
    /// The Secret that will hold them.
    pub secret: String,
    /// The common names of the active and the next one, if they are made.
    pub common_names: [String; 2],
    /// How long they are valid, if they are made.
    pub duration: SignedDuration,
}

/// A Secret with certificates that is to be made or changed. What it does not name stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretChange {
    /// Its name.
    pub name: String,
    /// The resourceVersion that the change was planned on, if it is there.
    pub version: Option<String>,
    /// Its type.
    pub type_: &'static str,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The leaves to issue.
    pub leaves: Vec<LeafRequest>,
    /// The public contents to write.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl SecretChange {
    /// Whether something of it is written in this pass, where nothing goes wrong: what others have to sign may take its time.
    pub fn is_written_now(&self) -> bool {
        // A new one is made as a whole.
        let is_new = self.version.is_none();
        let at_once = |leaf: &LeafRequest| leaf.at_once;
        if is_new { self.leaves.iter().all(at_once) } else { !self.files.is_empty() || self.leaves.iter().any(at_once) }
    }

    /// The same without these leaves, where there is something left and the Secret is there: neither bundles nor other leaves wait for
    /// an issuer.
    pub fn without(&self, held: impl Fn(&LeafRequest) -> bool) -> Option<Self> {
        let leaves: Vec<_> = self.leaves.iter().filter(|leaf| !held(leaf)).cloned().collect();
        let left = self.version.is_some() && !(self.files.is_empty() && leaves.is_empty());
        left.then(|| Self { leaves, ..self.clone() })
    }

    /// Its leaves and why they are issued: `server.crt, client.crt (is due for renewal)`.
    pub fn leaves_in_words(&self) -> String {
        let group = |leaves: &[LeafRequest]| {
            let names: Vec<_> = leaves.iter().map(|leaf| leaf.keys[0]).collect();
            format!("{} ({})", names.join(", "), leaves[0].why)
        };
        self.leaves.chunk_by(|one, other| one.why == other.why).map(group).collect::<Vec<_>>().join(", ")
    }
}

/// A leaf to be issued, with a new key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// Whose active authority signs it.
    pub domain: Domain,
    /// What it says.
    pub spec: LeafSpec,
    /// The keys in the Secret for the certificate and the private key.
    pub keys: [&'static str; 2],
    /// For whom it is recorded.
    pub holder: Holder,
    /// Why the one that is there will not do.
    pub why: Stale,
    /// Whether it is certain to be signed now, by the operator's own authority: nothing need wait for anybody else.
    pub at_once: bool,
}

impl LeafRequest {
    /// What it is for, in a word.
    pub fn kind(&self) -> &'static str {
        match (&self.holder, self.spec.usage) {
            (Holder::Operator, _) => "operator",
            (Holder::User { .. }, _) => "user",
            (Holder::Member { .. }, Usage::Server) => "server",
            (Holder::Member { .. }, Usage::Both) => "peer",
            (Holder::Member { .. }, Usage::Client) => "member",
        }
    }
}

/// Labels and annotations to be written to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNote {
    /// The pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The annotations.
    pub annotations: BTreeMap<String, String>,
}

/// A deed that can't be taken back or touches quorum. There is at most one in a pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write down on their claims who these members are, now that they have been seen started, so that none of them can ever
    /// found a cluster again.
    LockBootstrap {
        /// etcd's ID of the cluster.
        cluster_id: u64,
        /// The members, etcd's IDs of them, and the uids of their claims.
        members: Vec<(MemberName, u64, String)>,
    },
    /// Put every certificate of these holders, who are gone, on the revocation list, and whoever else is missing there.
    Revoke {
        /// The domain.
        domain: Domain,
        /// Users or members.
        holders: Vec<Holder>,
    },
    /// Change the authorities of a domain.
    Rotate(Box<Rotate>),
    /// Make what a deleted cluster of this name has left the cluster's own.
    TakeOver {
        /// The objects, in the order in which they are taken over.
        objects: Vec<Left>,
        /// The uid of the deleted cluster.
        from: String,
    },
    /// Add a member without a vote.
    AddLearner {
        /// The member.
        member: MemberName,
    },
    /// Give a learner its vote.
    Promote {
        /// The member.
        member: MemberName,
        /// etcd's ID of it.
        id: u64,
    },
    /// Remove a member from etcd's list. Its ID never comes back.
    RemoveMember {
        /// The member.
        member: MemberName,
        /// etcd's ID of it.
        id: u64,
    },
    /// Remove a member that somebody else added and that has never started.
    RemoveUnstarted {
        /// etcd's ID of it.
        id: u64,
    },
    /// Make another voter the leader.
    MoveLeader {
        /// The leader.
        member: MemberName,
        /// etcd's ID of it.
        from: u64,
        /// etcd's ID of the next leader.
        to: u64,
        /// The next leader.
        successor: MemberName,
    },
    /// Delete the disruption budget, which a cluster without redundancy has no use for.
    DeleteBudget {
        /// Its uid.
        uid: String,
    },
    /// Delete the StatefulSet of a member that etcd does not list any more.
    DeleteStatefulSet {
        /// The member.
        member: MemberName,
        /// The uid of the StatefulSet.
        uid: String,
    },
    /// Delete the claim of a member that etcd does not list any more, and the data with it.
    DeleteClaim {
        /// The member.
        member: MemberName,
        /// The uid of the claim.
        uid: String,
    },
    /// Write on the claims of these members that their data was given up: none of them is started with it again.
    GiveUp {
        /// For whose data.
        survivor: MemberName,
        /// The members, and the uids of their claims.
        claims: Vec<(MemberName, String)>,
    },
    /// Let the pod of a member be made anew.
    RestartMember {
        /// The member.
        member: MemberName,
        /// The uid of its pod.
        pod_uid: String,
    },
}

impl Step {
    /// Its name, for metrics and events.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LockBootstrap { .. } => "LockBootstrap",
            Self::Revoke { .. } => "Revoke",
            Self::TakeOver { .. } => "TakeOver",
            Self::AddLearner { .. } => "AddLearner",
            Self::Promote { .. } => "Promote",
            Self::RemoveMember { .. } => "RemoveMember",
            Self::Rotate(rotate) => match rotate.turn {
                Turn::Prepare => "PrepareRotation",
                Turn::Switch => "SwitchIssuer",
                Turn::Drop => "DropAuthority",
                Turn::Finish => "FinishRotation",
                Turn::Renew => "RenewAuthorities",
            },
            Self::RemoveUnstarted { .. } => "RemoveUnstarted",
            Self::MoveLeader { .. } => "MoveLeader",
            Self::DeleteBudget { .. } => "DeleteBudget",
            Self::DeleteStatefulSet { .. } => "DeleteStatefulSet",
            Self::DeleteClaim { .. } => "DeleteClaim",
            Self::GiveUp { .. } => "GiveUp",
            Self::RestartMember { .. } => "RestartMember",
        }
    }

    /// The members whose data is lost by it.
    pub fn data_of(&self) -> Vec<&MemberName> {
        match self {
            Self::DeleteClaim { member, .. } => vec![member],
            Self::GiveUp { claims, .. } => claims.iter().map(|(member, _)| member).collect(),
            _ => vec![],
        }
    }

    /// What is being done, in words.
    pub fn in_words(&self) -> String {
        let list = |names: Vec<&dyn Display>| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::LockBootstrap { members, .. } => {
                format!("writing down that {} started", list(members.iter().map(|(name, ..)| name as &dyn Display).collect()))
            }
            Self::Revoke { domain, holders } if holders.is_empty() => {
                format!("making the revocation list of the {domain} domain anew, which is not as written down")
            }
            Self::Revoke { holders, .. } => format!(
                "revoking the certificates of those who are gone: {}",
                list(holders.iter().map(|holder| holder as &dyn Display).collect())
            ),
            Self::Rotate(rotate) => rotate.in_words(),
            Self::TakeOver { objects, .. } => format!(
                "taking over what a deleted EtcdCluster of this name has left: {}",
                objects.iter().map(Left::describe).collect::<Vec<_>>().join(", ")
            ),
            Self::AddLearner { member } => format!("adding {member} as a learner"),
            Self::Promote { member, .. } => format!("giving {member} its vote, once it has caught up"),
            Self::RemoveMember { member, .. } => format!("removing {member} from the members"),
            Self::RemoveUnstarted { id } => {
                format!("removing member {id:x}, which was added by somebody else and has never started")
            }
            Self::MoveLeader { member, successor, .. } => format!("making {successor} the leader in place of {member}"),
            Self::DeleteBudget { .. } => "deleting the disruption budget, as there is no redundancy to guard".into(),
            Self::DeleteStatefulSet { member, .. } => format!("deleting the StatefulSet of {member}, which has been removed"),
            Self::DeleteClaim { member, .. } => format!("deleting the claim of {member}, which has been removed"),
            Self::GiveUp { survivor, claims } => format!(
                "giving up the data of {} for that of {survivor}",
                list(claims.iter().map(|(name, _)| name as &dyn Display).collect())
            ),
            Self::RestartMember { member, .. } => format!("making anew the pod of {member}"),
        }
    }
}

/// When a cluster with nothing to do is looked at again: members that stop answering are found within twice this.
const IDLE: Duration = Duration::from_secs(12);
/// When something is awaited.
const AWAITING: Duration = Duration::from_secs(2);
/// When a member is about to serve a new certificate or to join.
const CONFIRMING: Duration = Duration::from_secs(1);

/// What is to be done for a cluster.
pub fn plan(cluster: &ValidatedCluster, observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan { next_check: IDLE, ..Plan::default() };
    if let Some(refusal) = members::refuse(cluster, observed) {
        plan.refused = Some(refusal);
        return plan;
    }
    match adoption::judge(cluster, observed) {
        Verdict::Nothing => {}
        Verdict::Refused(refusal) => {
            plan.refused = Some(refusal);
            return plan;
        }
        Verdict::Fits(step) => {
            plan.waits.push(Note::new("TakingOver", step.in_words()));
            plan.step = Some(step);
            plan.next_check = AWAITING;
            return plan;
        }
    }
    let recovery = recovery::plan(cluster, observed, now, &mut plan);
    let roster = Roster::read(cluster, observed);
    let roster = roster.as_ref();
    let members = members::known(cluster, observed, roster);
    members::plan_objects(cluster, observed, &members, &mut plan);
    certificates::plan(cluster, observed, &members, now, &mut plan);
    members::plan_stateful_sets(cluster, observed, &members, &recovery, &mut plan);
    members::leave_foreign(cluster, observed, &mut plan);
    certificates::plan_confirmation(cluster, observed, now, &mut plan);
    members::plan_pod_labels(cluster, observed, &mut plan);
    let wanted = restart::Wanted::of(cluster, observed, now);
    plan.restarting = restart::restarting(observed, &wanted, now);
    // What guards data comes first: a step that fails is planned again, and must not keep that one from being taken.
    plan.step = members::lock_bootstrap(cluster, observed)
        .or_else(|| certificates::revoke(cluster, observed, roster, now))
        .or_else(|| members::delete_budget(cluster, observed))
        .or_else(|| members::restart_stuck(observed, now, &plan))
        .or_else(|| rotation::restart_unbelieving(observed, &plan))
        .or_else(|| recovery.step.clone())
        .or_else(|| rotation::step(cluster, observed, now, &mut plan))
        .or_else(|| membership::step(cluster, observed, roster.filter(|_| !recovery.is_exclusive)?, &wanted, now, &mut plan));
    // After what goes on, of which this is a part.
    members::note_waits(observed, &members, &recovery, &mut plan);
    if !plan.is_empty() || !plan.waits.is_empty() {
        plan.next_check = plan.next_check.min(AWAITING);
    }
    plan
}

#[cfg(test)]
mod tests;
