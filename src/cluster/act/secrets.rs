//! Issuing certificates, creating authorities and probing issuers.

use k8s_openapi::api::core::v1::Secret;

use super::Actor;
use crate::{
    api::Reason,
    certificates::{issuers::IssuerProbe, probes::issuer_probes, requests::SecretChange, transition::AuthorityRequest},
    cluster::{objects, outcome::Outcome},
    issuing::{self, Recipient},
    kubernetes::{error::WriteError, ownership::belongs, secret::KeySecret},
    names::label,
    pki::Domain,
    reporting::note::Note,
};

impl Actor<'_> {
    /// The cluster, as the recipient of certificates.
    pub fn recipient(&self) -> Recipient<'_> {
        let Self { cluster, observed, object, .. } = self;
        Recipient {
            names: &cluster.names,
            uid: &cluster.uid,
            owner: &cluster.owner,
            labels: label::of_cluster(cluster.names.cluster()),
            probes: Some(issuer_probes(&cluster.names, &cluster.owner, &object.spec, &cluster.issuers, &cluster.lifetimes)),
            authorities: observed.authorities.as_ref().map(Option::as_ref),
        }
    }

    /// Requests a probe certificate that reveals the authority of an issuer, or deletes that request.
    pub async fn probe_issuer(&self, probe: IssuerProbe) -> Outcome {
        let mut outcome = Outcome::default();
        if let Err(error) = issuing::probe_issuer(self.context, &self.recipient(), probe).await {
            outcome.issuing_failed(&error);
        }
        outcome
    }

    /// Creates the first authorities of a domain.
    pub async fn create_authorities(&self, request: &AuthorityRequest) -> Outcome {
        let mut outcome = Outcome::default();
        let metadata = objects::retained(self.cluster, request.secret.clone());
        match issuing::create_authorities(self.context, &self.recipient(), request, metadata, self.now).await {
            Ok(false) => outcome.again = true,
            Ok(true) => outcome
                .done
                .push(Note::new(Reason::CACreated, format!("created the {} CAs in Secret {}", request.domain, request.secret))),
            Err(error) => outcome.issuing_failed(&error),
        }
        outcome
    }

    /// Makes a CA Secret stay when the cluster is deleted, or not stay any more.
    pub async fn set_retention(&self, domain: Domain) -> Outcome {
        let mut outcome = Outcome::default();
        let name = self.cluster.names.authority(domain);
        if let Err(error) = self.write_retention(&name).await {
            outcome.write_failed(&error);
        }
        outcome
    }

    async fn write_retention(&self, name: &str) -> Result<(), WriteError> {
        let secrets = self.api::<Secret>();
        let existing = KeySecret::get(&secrets, name).await?;
        let Some(mut secret) = existing.filter(|secret| belongs(&secret.0.metadata, &self.cluster.uid)) else { return Ok(()) };
        objects::set_retention(self.cluster, &mut secret.0.metadata);
        secret.replace(&secrets).await
    }

    /// Creates and changes Secrets with certificates.
    pub async fn issue(&self, changes: &[SecretChange]) -> Outcome {
        let mut outcome = Outcome::default();
        let issuance = issuing::issue(self.context, &self.recipient(), changes, self.now).await;
        outcome.again = issuance.already_written;
        for change in issuance.written.iter().filter(|change| !change.leaves.is_empty()) {
            let message = format!("issued certificates in Secret {}: {}", change.name, change.describe_leaves());
            outcome.done.push(Note::new(Reason::CertificatesIssued, message));
        }
        for error in &issuance.errors {
            outcome.issuing_failed(error);
        }
        outcome
    }
}
