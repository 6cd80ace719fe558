//! A cluster for the tests of its users: what a user's pass reads of it, and its client authorities, which sign.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        AuthorityStatus, CertificatesStatus, ConditionType, DomainStatus, EtcdCluster, EtcdClusterSpec, EtcdClusterStatus, Reason,
    },
    certificates::{
        authority_secret,
        fixtures::{watched, with_ledger, write, write_leaf},
        requests::SecretChange,
        secret::CachedSecret,
        transition::{AuthorityRequest, NewAuthority},
    },
    digest::hex,
    kubernetes::secret::SecretView,
    names::{Names, annotation as key, authority_key},
    pki::{Authority, Certificate, Domain},
    reporting::{
        condition::{Announced, Finding, seconds},
        note::Note,
    },
};

/// The uid of the cluster.
const UID: &str = "0a1b2c3d-0000-4000-8000-000000000001";

/// The names of the cluster's objects.
pub fn names() -> Names {
    Names::new("demo", "ns", "cluster.local")
}

/// A cluster that is available.
pub struct Fixture {
    /// The `EtcdCluster`, with its status.
    pub cluster: EtcdCluster,
    /// The Secret with its client authorities.
    pub authority: CachedSecret,
    /// The time.
    pub now: Timestamp,
    /// The active authority.
    signer: Authority,
}

impl Fixture {
    /// The cluster `demo` in the namespace `ns`, with the defaults of a spec.
    pub fn new() -> Self {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let (authority, signer) = authority(now);
        let mut cluster = EtcdCluster::new("demo", EtcdClusterSpec::default());
        cluster.metadata.namespace = Some("ns".into());
        cluster.metadata.uid = Some(UID.into());
        cluster.metadata.generation = Some(1);
        cluster.status = Some(status(&authority, now));
        Self { cluster, authority, now, signer }
    }

    /// Issues the requested leaves of a change into a Secret.
    pub fn issue(&mut self, secret: &mut SecretView, change: &SecretChange) {
        write(secret, change, "1".into());
        for request in &change.leaves {
            let leaf = self.signer.issue(&request.spec, self.now).unwrap();
            with_ledger(&mut self.authority, &self.signer, self.now, |ledger| {
                ledger.record(&leaf.certificate, request.holder.clone());
            });
            write_leaf(secret, request, &leaf);
        }
    }
}

/// The Secret of new client authorities, and the active one.
fn authority(now: Timestamp) -> (CachedSecret, Authority) {
    let built_in = |generation: u32| NewAuthority::BuiltIn {
        common_name: format!("demo client {generation}"),
        duration: SignedDuration::from_hours(43_800),
    };
    let (active, next) = (built_in(1), built_in(2));
    let request = AuthorityRequest { domain: Domain::Client, secret: names().client_authority(), active, next };
    let (data, keys) = watched(authority_secret::create(&request, None, now).unwrap());
    let signer = Authority::load(&data[authority_key::ACTIVE_CRT], &keys[authority_key::ACTIVE_KEY].0).unwrap();
    let mut secret = SecretView { type_: "Opaque".into(), data, ..SecretView::default() };
    secret.meta.annotations = Some([(key::CLUSTER_UID.to_owned(), UID.to_owned())].into());
    (secret.into(), signer)
}

fn status(secret: &CachedSecret, now: Timestamp) -> EtcdClusterStatus {
    let authorities = secret.authorities().unwrap();
    let authority = |certificate: &Certificate| AuthorityStatus {
        name: certificate.common_name().to_owned(),
        key_id: hex(certificate.subject_key_id().unwrap()),
        expires: seconds(certificate.not_after()),
        issuer: None,
    };
    let client = DomainStatus {
        active: authority(&authorities.active),
        next: authority(&authorities.next),
        retiring: vec![],
        phase: None,
        phase_since: None,
        expires: None,
    };
    let note = Note::new(Reason::QuorumHealthy, "a quorum answers");
    let available = Finding { kind: ConditionType::Available, is_true: true, note, announced: Announced::Silently };
    EtcdClusterStatus {
        conditions: vec![available.condition(None, Some(1), now)],
        certificates: Some(CertificatesStatus { client: Some(client), ..CertificatesStatus::default() }),
        ..EtcdClusterStatus::default()
    }
}
