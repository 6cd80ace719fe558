//! The certificate authorities of the external issuers that a spec names.

use futures::future::join;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource};

use crate::{
    api::EtcdCluster,
    certificates::{
        issuers::{IssuerAnswer, IssuerProblem},
        probes::{ProbeSpec, issuer_probe},
    },
    context::Context,
    issuing::issuer_answer,
    kubernetes::secret::KeySecret,
    names::{Names, tls_key},
    pki::{Authority, Domain, ExternalAuthority, Issuer, LeafSpec, PerDomain, PrivateKey},
};

/// What the issuers answer about their authorities. The issuers are asked even if the spec is invalid.
pub async fn answers(context: &Context, cluster: &EtcdCluster, names: &Names, now: Timestamp) -> PerDomain<Option<IssuerAnswer>> {
    let answer = async |domain: Domain| {
        let leaf = issuer_probe(names, &cluster.spec, domain, TRIAL);
        match cluster.spec.tls.issuer(domain).issuer() {
            Issuer::BuiltIn => None,
            Issuer::CaSecret { name } => {
                let secrets: Api<Secret> = Api::namespaced(context.client.clone(), names.namespace());
                let trial = context.judges_authorities.then_some(&leaf);
                let authority = ca_secret(&secrets, &name, domain, trial, now).await;
                Some(IssuerAnswer { requested_at: None, authority: authority.map_err(IssuerProblem::Unusable) })
            }
            issuer @ Issuer::CertManager { .. } => {
                let owner = cluster.controller_owner_ref(&())?;
                issuer_answer(&context.client, names, domain, &ProbeSpec { issuer, owner, leaf }, now).await
            }
        }
    };
    let (client, peer) = join(answer(Domain::Client), answer(Domain::Peer)).await;
    PerDomain { client, peer }
}

/// The lifetime of a certificate that an authority signs as a trial.
const TRIAL: SignedDuration = SignedDuration::from_hours(1);

/// The authority in a user's Secret. It is read in every pass: it does not have the operator's labels, so it is not watched.
async fn ca_secret(
    secrets: &Api<Secret>,
    name: &str,
    domain: Domain,
    trial: Option<&LeafSpec>,
    now: Timestamp,
) -> Result<ExternalAuthority, String> {
    let secret = KeySecret::get(secrets, name).await.map_err(|e| e.to_string())?;
    let secret = secret.ok_or_else(|| "there is no such Secret".to_owned())?;
    for key in [tls_key::CRT, tls_key::KEY] {
        if secret.bytes(key).is_empty() {
            return Err(format!("{key} is missing"));
        }
    }
    let external =
        ExternalAuthority::of_secret(secret.bytes(tls_key::CRT), secret.bytes(tls_key::KEY), secret.bytes(tls_key::CA), now)
            .map_err(|e| e.to_string())?;
    let key = PrivateKey::of_certificate(secret.bytes(tls_key::KEY), &external.authority);
    let key = key.map_err(|e| format!("{}: {e}", tls_key::KEY))?;
    let authority = Authority::of(external.authority.clone(), key).map_err(|e| e.to_string())?;
    // It must be able to sign a certificate that everybody accepts before any member is restarted to trust it.
    if let Some(trial) = trial {
        let trial = trial.within(external.path());
        external.check(domain, &trial).map_err(|e| e.to_string())?;
        authority.issue(&trial, now).map_err(|e| e.to_string())?;
    }
    Ok(external)
}
