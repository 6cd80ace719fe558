//! Authorities of external issuers, and whether they can be used.

use std::{cmp::Reverse, collections::VecDeque, slice};

use jiff::Timestamp;

use super::{
    acceptance::judge, authority::LeafSpec, certificate::Certificate, domain::Domain, error::PkiError,
    foreign_bundle::ForeignBundle, key::PrivateKey,
};

/// What is refused of an issuer whose authority has no key identifier, so that the certificates that it signs name none.
const NO_KEY_ID: &str = "its certificate has no subject key identifier, and the certificates that it signs do not name its key: create \
                         it again with the extension subjectKeyIdentifier=hash";

/// The certificates of an external authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalAuthority {
    /// The certificate of the authority that signs. Members trust only this authority, and not others with the same root.
    pub authority: Certificate,
    /// Its ancestors, each signed by the next one, up to the root. They are in the trust bundle of clients, because OpenSSL
    /// verifies up to a root.
    pub ancestors: Vec<Certificate>,
}

impl ExternalAuthority {
    /// The authority in a Secret. `certificates` (`tls.crt`) holds its certificate and optionally those of ancestors, `roots`
    /// (`ca.crt`) further ancestors, in any order. Its certificate is the one that belongs to `key` (`tls.key`), or the first one if
    /// none does. If it was renewed and `certificates` holds it several times, the one that expires last is taken.
    ///
    /// # Errors
    /// If a certificate that is needed is unreadable or has expired, or the authority may not sign, or its root is missing.
    pub fn of_secret(certificates: &[u8], key: &[u8], roots: &[u8], now: Timestamp) -> Result<Self, PkiError> {
        let read = |file: &str, text: &[u8]| {
            ForeignBundle::read(file, text).map_err(|problem| PkiError::Chain(format!("{file}: {problem}")))
        };
        let own = read("tls.crt", certificates)?;
        let authority = own.authority(key, now)?;
        let roots = read("ca.crt", roots)?;
        let (candidates, unreadable) =
            ([own.certificates, roots.certificates].concat(), [own.unreadable, roots.unreadable].concat());
        let external = Self::with_ancestors(authority, &candidates, now)?;
        let top = external.top();
        if !top.is_self_signed() {
            return Err(missing(top, &candidates, &unreadable));
        }
        Ok(external)
    }

    /// The leaf in an issuer's answer to a certificate request, and the authority that signed it. `certificates` holds the leaf
    /// and further certificates; one of those or of `roots` has signed the leaf.
    ///
    /// # Errors
    /// Those of [`ExternalAuthority::of_secret`], except that the root may be missing, which [`ExternalAuthority::check`] refuses for
    /// clients.
    pub fn of_answer(certificates: &[u8], roots: &[u8], now: Timestamp) -> Result<(Certificate, Self), PkiError> {
        let certificates = ForeignBundle::read("tls.crt", certificates)?;
        let nothing = certificates.is_without();
        let mut certificates = certificates.all()?.into_iter();
        let leaf = certificates.next().ok_or(nothing)?;
        let ForeignBundle { certificates: roots, unreadable, .. } = ForeignBundle::read("ca.crt", roots)?;
        let candidates: Vec<_> = certificates.chain(roots).collect();
        let complete = |external: &Self| external.top().is_self_signed();
        if let Some(authority) = latest(candidates.iter().filter(|candidate| leaf.is_below(candidate)), now) {
            check_key_id(&leaf, authority)?;
            let external = Self::with_ancestors(authority.clone(), &candidates, now)?;
            // What cannot be read may be the certificate that is missing.
            return match unreadable.into_iter().next().filter(|_| !complete(&external)) {
                None => Ok((leaf, external)),
                Some(why) => Err(PkiError::Chain(why)),
            };
        }
        let named: Vec<_> = candidates.iter().filter(|candidate| leaf.names_as_issuer(candidate)).collect();
        named.iter().try_for_each(|candidate| check_key(candidate))?;
        Err(PkiError::Chain(match (named.first(), unreadable.into_iter().next()) {
            (Some(authority), _) if !leaf.is_verifiable(authority) => {
                format!("it signs with {}, which is not supported: it must sign with {SIGNATURES}", leaf.signature_algorithm())
            }
            (Some(authority), _) => format!("CA {:?} came with the answer, but another key signed", authority.common_name()),
            (None, Some(why)) => why,
            (None, None) => "the certificate of the CA that signed did not come with the answer".into(),
        }))
    }

    /// An authority and its ancestors, as far as they are among the candidates: the shortest path to a root.
    fn with_ancestors(authority: Certificate, candidates: &[Certificate], now: Timestamp) -> Result<Self, PkiError> {
        check_authority(&authority, 0, now)?;
        check_key(&authority)?;
        // The paths that end with each certificate that was found, the shortest first.
        let (mut paths, mut problem) = (VecDeque::from([vec![authority.clone()]]), None);
        let (mut seen, mut longest) = (vec![authority.clone()], vec![]);
        while let Some(path) = paths.pop_front() {
            let Some(top) = path.last().cloned() else { continue };
            longest.clone_from(&path);
            if top.is_self_signed() {
                problem = check_root(&top).err();
                break;
            }
            let mut parents: Vec<_> = candidates.iter().filter(|candidate| top.may_be_below(candidate)).collect();
            parents.sort_by_key(|parent| (!parent.is_self_signed(), Reverse(parent.not_after())));
            for parent in parents {
                if seen.contains(parent) {
                    continue;
                }
                seen.push(parent.clone());
                match check_authority(parent, path.len(), now).and_then(|()| check_ancestor_key(parent)) {
                    Ok(()) => paths.push_back([path.as_slice(), slice::from_ref(parent)].concat()),
                    Err(why) => problem = problem.or(Some(why)),
                }
            }
        }
        problem.map_or_else(|| Ok(Self { authority, ancestors: longest.split_off(1) }), Err)
    }
}

/// The signatures that leaves may have.
const SIGNATURES: &str = "ECDSA P-256 or P-384 with SHA-256 or SHA-384, Ed25519, or RSA with SHA-256, SHA-384 or SHA-512";

/// The certificate that is valid now and expires last; if none is valid now, the one that expires last.
fn latest<'a>(certificates: impl Iterator<Item = &'a Certificate>, now: Timestamp) -> Option<&'a Certificate> {
    certificates.max_by_key(|certificate| (certificate.check_valid_authority(now).is_ok(), certificate.not_after()))
}

impl ForeignBundle {
    /// The authority whose certificate belongs to a private key, or the first one if none does.
    fn authority(&self, key: &[u8], now: Timestamp) -> Result<Certificate, PkiError> {
        let belongs = |certificate: &&Certificate| PrivateKey::of_certificate(key, certificate).is_ok();
        let chosen = self.certificates.iter().find(belongs);
        // The certificate of the key may be one that cannot be read.
        let first = self.certificates.first().filter(|_| self.unreadable.is_empty());
        let chosen = chosen.or(first).ok_or_else(|| self.is_without())?;
        Ok(latest(self.certificates.iter().filter(|other| other.is_same_authority(chosen)), now).unwrap_or(chosen).clone())
    }
}

/// Why no certificate above this one is known.
fn missing(top: &Certificate, candidates: &[Certificate], unreadable: &[String]) -> PkiError {
    let (name, issuer) = (top.common_name(), top.issuer_name());
    let same_name = candidates.iter().any(|candidate| candidate != top && top.names_as_issuer(candidate));
    let why = if same_name { "; the certificate of that name there has another key" } else { "" };
    let missing = format!(
        "ca.crt does not hold the certificate of the CA that signed {name:?}: add the one whose subject is {issuer}{why}"
    );
    PkiError::Chain([slice::from_ref(&missing), unreadable].concat().join("; "))
}

impl ExternalAuthority {
    /// The authority and its ancestors, each signed by the next one.
    pub fn path(&self) -> impl Iterator<Item = &Certificate> {
        [&self.authority].into_iter().chain(&self.ancestors)
    }

    /// The highest of them that is known: the root, unless that is missing.
    fn top(&self) -> &Certificate {
        self.ancestors.last().unwrap_or(&self.authority)
    }

    /// Checks that all programs that verify certificates accept what the authority signs for the names of this leaf.
    ///
    /// # Errors
    /// [`PkiError::Refused`].
    pub fn check(&self, domain: Domain, leaf: &LeafSpec) -> Result<(), PkiError> {
        judge(self.path(), domain, leaf)
    }
}

/// Checks that an authority may sign now, with this many authorities between it and the leaf.
fn check_authority(authority: &Certificate, below: usize, now: Timestamp) -> Result<(), PkiError> {
    let name = authority.common_name();
    if !authority.is_ca() {
        return Err(PkiError::Chain(format!("{name:?} is not a CA certificate (basicConstraints)")));
    }
    if !authority.signs_certificates() {
        return Err(PkiError::Chain(format!("{name:?} may not sign certificates (keyUsage)")));
    }
    if authority.check_valid_authority(now).is_err() {
        let (from, to) = (authority.not_before(), authority.not_after());
        return Err(PkiError::Chain(format!("{name:?} is valid from {from} to {to} only")));
    }
    if authority.path_length().is_some_and(|longest| (longest as usize) < below) {
        return Err(PkiError::Chain(format!("{name:?} allows fewer CAs below it than the {below} of the chain (pathlen)")));
    }
    Ok(())
}

/// Checks that OpenSSL takes a root for one. It does not verify its signature, but has to know the algorithm.
fn check_root(root: &Certificate) -> Result<(), PkiError> {
    let refused = || {
        let (name, algorithm) = (root.common_name(), root.signature_algorithm());
        PkiError::Chain(format!(
            "{name:?} is signed with {algorithm}, so OpenSSL does not take it for a root: create its certificate again with the same key \
             and openssl req -x509 -sha256"
        ))
    };
    (!root.has_signature_unknown_to_openssl()).then_some(()).ok_or_else(refused)
}

/// Checks that a leaf can be told to be one of an authority: that it names the identifier of its key.
fn check_key_id(leaf: &Certificate, authority: &Certificate) -> Result<(), PkiError> {
    let is_named = authority.written_key_id().is_some() || leaf.authority_key_id() == authority.subject_key_id();
    is_named.then_some(()).ok_or(PkiError::NotAuthority(NO_KEY_ID))
}

/// Checks that the operator can sign with the key of an authority, and verify what it signed.
fn check_key(authority: &Certificate) -> Result<(), PkiError> {
    let kinds = "create a CA with a key of ECDSA P-256 or P-384, Ed25519, or RSA of at least 2048 bits";
    let refused = || {
        let (name, kind) = (authority.common_name(), authority.describe_key());
        PkiError::Chain(format!("the key of {name:?} is {kind}, which is not supported: {kinds}"))
    };
    authority.has_supported_key().then_some(()).ok_or_else(refused)
}

/// Checks that clients accept the key of an authority above the one that signs. Only OpenSSL looks at it, and knows more kinds.
fn check_ancestor_key(authority: &Certificate) -> Result<(), PkiError> {
    let refused = || {
        let (name, kind) = (authority.common_name(), authority.describe_key());
        PkiError::Chain(format!("the key of {name:?} is {kind}, which OpenSSL refuses: use a CA below a root with another key"))
    };
    (!authority.has_refused_key()).then_some(()).ok_or_else(refused)
}
