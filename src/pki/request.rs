//! Certificate signing requests (PKCS#10).

use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::{key::KeyDigest, pem};

/// The PEM label of a certificate signing request.
const LABEL: &str = "CERTIFICATE REQUEST";

/// The digest of the public key for which a request in PEM was made, if it is readable.
pub fn digest_of_request(text: &[u8]) -> Option<KeyDigest> {
    let der = pem::single(text, LABEL).ok()?;
    let (_, request) = X509CertificationRequest::from_der(&der).ok()?;
    Some(KeyDigest::of(request.certification_request_info.subject_pki.raw))
}
