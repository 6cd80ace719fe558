//! What is judged: an authority, those above it, and the names that it is to sign for.

use x509_parser::{certificate::X509Certificate, extensions::X509Extension, oid_registry::Oid};

use crate::pki::{
    authority::LeafSpec,
    certificate::Certificate,
    constraints::{Name, NameConstraints, canonical},
    domain::Domain,
    error::PkiError,
};

/// An authority that is to sign the certificates of a domain.
pub(super) struct Case<'a> {
    /// The authority, and those above it, each signed by the next one.
    pub(super) links: Vec<Link<'a>>,
    /// The domain.
    pub(super) domain: Domain,
    /// The names of its leaves.
    pub(super) names: Vec<Name>,
    /// The subject of its leaves.
    pub(super) subject: Name,
}

/// One certificate of the chain.
pub(super) struct Link<'a> {
    /// It.
    pub(super) certificate: &'a Certificate,
    /// Its fields.
    pub(super) read: X509Certificate<'a>,
}

impl<'a> Case<'a> {
    /// The case of an authority and its ancestors, which is to sign such a leaf.
    ///
    /// # Errors
    /// If a certificate is not readable.
    pub(super) fn of(path: impl IntoIterator<Item = &'a Certificate>, domain: Domain, leaf: &LeafSpec) -> Result<Self, PkiError> {
        let link = |certificate: &'a Certificate| Ok(Link { certificate, read: certificate.read()? });
        let links = path.into_iter().map(link).collect::<Result<_, PkiError>>()?;
        Ok(Self { links, domain, names: leaf.names().collect(), subject: Name::common(&leaf.common_name) })
    }

    /// Whether the last certificate is a root. Verifiers that walk up to the root accept nothing else.
    pub(super) fn is_complete(&self) -> bool {
        self.links.last().is_some_and(|top| top.certificate.is_self_signed())
    }

    /// Those below a certificate of the chain, the nearest first.
    pub(super) fn below(&self, at: usize) -> impl Iterator<Item = &Link<'a>> {
        self.links[..at].iter().rev()
    }
}

impl<'a> Link<'a> {
    /// Whether subject and issuer have the same name.
    pub(super) fn is_self_issued(&self) -> bool {
        self.read.subject().as_raw() == self.read.issuer().as_raw()
            || canonical(self.read.subject().as_raw()) == canonical(self.read.issuer().as_raw())
    }

    /// An extension.
    pub(super) fn extension(&self, oid: &Oid<'_>) -> Option<&X509Extension<'a>> {
        self.read.extensions().iter().find(|extension| extension.oid == *oid)
    }

    /// The name constraints.
    pub(super) fn constraints(&self) -> Option<NameConstraints<'a>> {
        NameConstraints::of(&self.read)
    }
}
