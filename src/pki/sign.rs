//! Signing in the name of an authority.
//!
//! rcgen encodes the authority's name again, from a map that holds one value of each attribute type. Verifiers compare the names'
//! octets, so the issuer has to be the authority's subject, octet for octet: what rcgen writes gets that name and is signed here.

use rcgen::{CertificateParams, KeyIdMethod, KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};

use super::{
    certificate::Certificate,
    error::PkiError,
    tlv::{BIT_STRING, SEQUENCE, element, elements, inside},
};

/// A key that leaves the signature empty.
pub(super) struct Unsigned<'a>(&'a KeyPair);

impl PublicKeyData for Unsigned<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for Unsigned<'_> {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![])
    }
}

/// An issuer for what [`sign`] is going to sign: with the authority's key identifier, and with any name.
pub(super) fn placeholder<'a>(authority: &Certificate, key: &'a KeyPair) -> rcgen::Issuer<'static, Unsigned<'a>> {
    let id = authority.subject_key_id().unwrap_or_default().to_vec();
    let mut params = CertificateParams::default();
    params.key_identifier_method = KeyIdMethod::PreSpecified(id);
    rcgen::Issuer::new(params, Unsigned(key))
}

/// The DER of a certificate or revocation list of an authority, from one that was created with [`placeholder`].
///
/// # Errors
/// [`PkiError::Sign`].
pub(super) fn sign(unsigned: &[u8], authority: &Certificate, key: &KeyPair) -> Result<Vec<u8>, PkiError> {
    let unexpected = || PkiError::Sign("what is to be signed is not of the expected form".into());
    let outer = inside(unsigned, SEQUENCE).ok_or_else(unexpected)?;
    let [contents, algorithm, _] = outer[..] else { return Err(unexpected()) };
    let subject = authority.subject_der()?;
    // Before the issuer are the version, the serial number of a certificate, and the algorithm of the signature: the first SEQUENCE.
    let mut fields: Vec<&[u8]> = elements(contents.content).ok_or_else(unexpected)?.iter().map(|field| field.whole).collect();
    let algorithm_at = fields.iter().position(|field| field.first() == Some(&SEQUENCE)).ok_or_else(unexpected)?;
    *fields.get_mut(algorithm_at + 1).ok_or_else(unexpected)? = &subject;
    let contents = element(SEQUENCE, &fields);
    let signature = key.sign(&contents)?;
    Ok(element(SEQUENCE, &[&contents, algorithm.whole, &element(BIT_STRING, &[&[0], &signature])]).to_vec())
}
