//! The types of conditions, and the reasons of conditions and events. They are part of the API: a change of one belongs in the
//! changelog.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// An enum of words. The text of each, which is written into objects, is its name.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$word_doc:meta])* $word:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$word_doc])* $word,)*
        }

        impl $type {
            /// All words, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$word),*];

            /// The text that is written into objects.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$word => stringify!($word),)*
                }
            }

            /// The word with this text.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// The types of conditions.
    ConditionType {
        /// `EtcdCluster`: a quorum of voters is healthy.
        Available,
        /// `EtcdCluster`: a change is in progress or pending.
        Progressing,
        /// `EtcdCluster`: something needs attention.
        Degraded,
        /// `EtcdCluster`: every member presents the certificates of its Secret.
        CertificatesReady,
        /// `EtcdCluster`: it is as its spec says. `EtcdUser`: its Secret holds a certificate that the cluster accepts.
        Ready,
    }
}

words! {
    /// The reasons of conditions and events. `docs/troubleshooting.md` explains each; a test compares the two lists.
    Reason {
        // Available.
        /// A quorum of voters is healthy.
        QuorumHealthy,
        /// The cluster has not been bootstrapped yet.
        Bootstrapping,
        /// Fewer than a quorum of voters are healthy, and nothing shows that etcd has a quorum.
        QuorumLost,
        /// etcd has a quorum, but fewer than a quorum of voters can be reached and are healthy.
        MembersUnreachable,

        // Any condition.
        /// The spec is invalid.
        InvalidSpec,
        /// Objects under the cluster's names belong to someone else.
        NameTaken,
        /// A deleted cluster of this name left data that does not fit together.
        LeftoverData,
        /// A cluster of this name was deleted without the objects that it owns.
        LeftoverObjects,
        /// Nothing is changed; `Available` says why.
        Blocked,
        /// `spec.paused` is true.
        Paused,
        /// The operator panicked while it reconciled the object: a bug.
        InternalError,

        // Progressing.
        /// No changes are pending.
        UpToDate,
        /// Objects are being brought up to date.
        ApplyingObjects,
        /// Members are not healthy yet.
        WaitingForMembers,
        /// The cluster grows.
        ScalingUp,
        /// A member was added as a learner and has to start.
        Joining,
        /// A learner copies the data.
        CatchingUp,
        /// The cluster shrinks.
        ScalingDown,
        /// What is left of a removed member is being deleted.
        RemovingMember,
        /// A member is being replaced.
        ReplacingMember,
        /// Members are restarted one after the other.
        RollingRestart,
        /// The resources of pods are changed while they run, one after the other.
        Resizing,
        /// The volume of a member is being expanded.
        ExpandingVolume,
        /// Members are being given a higher minor version.
        Upgrading,
        /// Members are being given a lower minor version.
        Downgrading,
        /// A certificate authority is being replaced by another one.
        RotatingCA,
        /// The cluster is being recovered from the data of one member.
        Recovering,

        // Degraded.
        /// Nothing needs attention.
        Healthy,
        /// A member that was started is not healthy.
        MemberDown,
        /// A member has too little memory.
        OOMKilled,
        /// etcd reports errors or alarms.
        EtcdReportsErrors,
        /// The members are in another etcd cluster than the one that was bootstrapped.
        ClusterIDChanged,
        /// A member lost its PersistentVolumeClaim.
        ClaimLost,
        /// A PersistentVolumeClaim lost the annotations that identify its member.
        AnnotationsLost,
        /// etcd lists a member that the operator did not add.
        UnknownMember,
        /// A request names a member that does not exist.
        MemberNotFound,
        /// A member cannot be added.
        CannotScaleUp,
        /// A member cannot be removed.
        CannotScaleDown,
        /// A member cannot be replaced.
        CannotReplace,
        /// A member cannot be restarted.
        CannotRestart,
        /// The resources of a member's pod are not changed.
        CannotResize,
        /// The volume of a member cannot be expanded.
        CannotExpandVolume,
        /// The quota of the spec is smaller than what a database takes.
        QuotaTooSmall,
        /// The version cannot be changed to that of the spec.
        CannotChangeVersion,
        /// A certificate authority cannot be rotated.
        CannotRotate,
        /// A request to rotate names an unknown domain.
        InvalidRotationRequest,
        /// A request to recover the cluster was refused.
        RecoveryRefused,
        /// Others change a field of an object each time that it is applied.
        FieldOverwritten,
        /// The API server refused a request.
        KubernetesRefused,
        /// etcd refused a request.
        EtcdRefused,
        /// A certificate could not be issued.
        IssuingFailed,
        /// The authority of an external issuer expires soon.
        CAExpiresSoon,
        /// The operator's clock and the API server's differ.
        ClockSkew,

        // CertificatesReady, some of them also Degraded.
        /// Every member serves its current certificates.
        CertificatesServed,
        /// It is not confirmed yet that members serve their certificates.
        Confirming,
        /// A member does not present its new certificates yet.
        NotServedYet,
        /// Certificates are being issued.
        Issuing,
        /// Certificates are being requested from an external issuer.
        RequestingCertificates,
        /// An external issuer has not answered yet.
        WaitingForIssuer,
        /// An external issuer's authority cannot be used.
        IssuerUnusable,
        /// Members refuse a certificate of the authority that signs for clients: the operator's own one, or, during a rotation, the
        /// one of the next authority.
        CertificateRefused,
        /// An external issuer did not sign what was requested.
        IssuerFailed,
        /// An external issuer signs with another authority than before.
        IssuerCAChanged,
        /// Both domains would have the same authority.
        SharedCA,
        /// cert-manager is not installed.
        CertManagerMissing,
        /// The Secret of a certificate authority is missing or was changed.
        CALost,
        /// A certificate authority has expired.
        CAExpired,

        // Events, and reasons of Progressing during a step.
        /// The certificate authorities of a domain were created.
        CACreated,
        /// Certificates were issued.
        CertificatesIssued,
        /// Adopting what a deleted cluster of this name left.
        Adopting,
        /// Adopted what a deleted cluster of this name left.
        Adopted,
        /// Recording which members have started.
        RecordingMembers,
        /// Recorded which members have started.
        MembersRecorded,
        /// Revoking certificates.
        RevokingCertificates,
        /// Revoked certificates.
        CertificatesRevoked,
        /// The alarm NOSPACE is about to be disarmed.
        DisarmingAlarm,
        /// The alarm NOSPACE was disarmed: no database is full any more.
        AlarmDisarmed,
        /// The downgrade of etcd was enabled, so that members of the version before can start.
        DowngradeEnabled,
        /// A downgrade that is not desired was canceled.
        DowngradeCanceled,
        /// A rotation that was requested has started.
        RotationStarted,
        /// The next certificate authority is being prepared.
        PreparingCA,
        /// The next certificate authority is trusted before it signs.
        CAPrepared,
        /// The next certificate authority is about to sign.
        SwitchingCA,
        /// The next certificate authority signs now.
        CASwitched,
        /// The active certificate authority, whose certificates members refuse, is about to be replaced.
        ReplacingCA,
        /// The active certificate authority, whose certificates members refused, was replaced by the next one.
        CAReplaced,
        /// The previous certificate authority is being removed from all trust bundles.
        DroppingCA,
        /// The previous certificate authority is no longer in any trust bundle.
        CADropped,
        /// A rotation is being completed.
        FinishingRotation,
        /// A rotation is complete.
        RotationFinished,
        /// Expired certificate authorities are being replaced.
        RenewingCA,
        /// Expired certificate authorities were replaced.
        CARenewed,
        /// Adding a learner.
        AddingLearner,
        /// Added a learner.
        LearnerAdded,
        /// Promoting a learner to a voter.
        PromotingLearner,
        /// Promoted a learner to a voter.
        LearnerPromoted,
        /// Removed a member.
        MemberRemoved,
        /// Removing a member that someone else added and that never started.
        RemovingUnstartedMember,
        /// Removed a member that someone else added and that never started.
        UnstartedMemberRemoved,
        /// Moving leadership to another member.
        MovingLeader,
        /// Moved leadership to another member.
        LeaderMoved,
        /// Deleting the PodDisruptionBudget.
        DeletingDisruptionBudget,
        /// Deleted the PodDisruptionBudget.
        DisruptionBudgetDeleted,
        /// Deleting the StatefulSet of a removed member.
        DeletingStatefulSet,
        /// Deleted the StatefulSet of a removed member.
        StatefulSetDeleted,
        /// Deleting the PersistentVolumeClaim of a removed member.
        DeletingClaim,
        /// Deleted the PersistentVolumeClaim of a removed member.
        ClaimDeleted,
        /// Discarding the data of members in favor of one.
        DiscardingData,
        /// Discarded the data of members in favor of one.
        DataDiscarded,
        /// Restarting a member.
        RestartingMember,
        /// A member's pod was removed so that it is created again.
        PodRestarted,
        /// The resources of a member's pod are changed while it runs.
        PodResized,
        /// A restarted member is healthy again.
        MemberRestarted,
        /// A restart makes the cluster unavailable, because it has no redundancy.
        NoRedundancy,
        /// The cluster was recovered from the data of one member.
        Recovered,
        /// This version of the operator cannot read the object.
        Unreadable,
        /// The API server does not accept the status.
        StatusNotAccepted,

        // EtcdUser.
        /// The Secret holds a valid certificate.
        Issued,
        /// A certificate was issued.
        CertificateIssued,
        /// The certificates are revoked, or about to be.
        Revoked,
        /// The `EtcdCluster` does not exist.
        ClusterNotFound,
        /// The `EtcdCluster` has no certificate authority yet.
        ClusterNotReady,
        /// The `EtcdCluster` is paused.
        ClusterPaused,
        /// Another `EtcdUser` has this Secret.
        SecretNameTaken,
        /// Another `EtcdUser` has this common name.
        CommonNameTaken,
    }
}

/// The condition of this type, if it has been reported.
pub fn condition(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

/// Whether a condition that was reported is True.
pub fn is_true(condition: &Condition) -> bool {
    condition.status == "True"
}

/// The reason of a condition that was reported; `None` if this version of the operator has no such reason. The last status is all that a
/// pass knows of the one before, so what has to outlast a pass and follows from no object is read here.
pub fn reason_of(condition: &Condition) -> Option<Reason> {
    Reason::parse(&condition.reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("AsWanted"), None);
    }
}
