//! Revocation lists.
//!
//! etcd reads the file at each connection and checks only the serial, and not the issuer, the signature or `nextUpdate`
//! (`client/pkg/transport/listener_tls.go`). Since 3.6 it must be DER.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use jiff::Timestamp;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevokedCertParams, SerialNumber};
use x509_parser::{prelude::FromDer, revocation_list::CertificateRevocationList};

use super::{
    authority::{Authority, date},
    error::PkiError,
    serial::Serial,
};

impl Authority {
    /// A list of revoked serials, DER, valid until the authority expires. It may be empty. Serials are ordered, but signatures are
    /// random: compare lists by [`crl_serials`].
    ///
    /// # Errors
    /// If the authority is not valid now.
    pub fn sign_crl(&self, revoked: impl IntoIterator<Item = (Serial, Timestamp)>, now: Timestamp) -> Result<Vec<u8>, PkiError> {
        self.check_valid(now)?;
        if !self.certificate().signs_lists() {
            return sign_crl_without_key(revoked, self.certificate().not_after(), now);
        }
        let revoked: BTreeMap<_, _> = revoked.into_iter().collect();
        let entry = |(serial, at): (&Serial, &Timestamp)| {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.octets()),
                revocation_time: date(*at)?,
                reason_code: None,
                invalidity_date: None,
            })
        };
        let params = CertificateRevocationListParams {
            this_update: date(now)?,
            next_update: date(self.certificate().not_after())?,
            // A later list must have a greater number, and earlier numbers are not known here.
            crl_number: SerialNumber::from(u64::try_from(now.as_second()).unwrap_or_default()),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_, PkiError>>()?,
            key_identifier_method: KeyIdMethod::PreSpecified(self.certificate().subject_key_id().unwrap_or_default().to_vec()),
        };
        self.sign(params.signed_by(&self.placeholder())?.der())
    }
}

/// The same list, signed with a new key that is not kept and valid until `end`: for an authority whose private key the operator
/// does not have, or that may not sign lists (keyUsage).
///
/// # Errors
/// If `end` is not after `now`.
pub fn sign_crl_without_key(
    revoked: impl IntoIterator<Item = (Serial, Timestamp)>,
    end: Timestamp,
    now: Timestamp,
) -> Result<Vec<u8>, PkiError> {
    Authority::create("etcd-warden revocation list", end.duration_since(now), now)?.sign_crl(revoked, now)
}

/// The serials on a revocation list in DER.
///
/// # Errors
/// [`PkiError::RevocationList`].
pub fn crl_serials(der: &[u8]) -> Result<BTreeSet<Serial>, PkiError> {
    let unreadable = |why: &dyn Display| PkiError::RevocationList(why.to_string());
    let (rest, list) = CertificateRevocationList::from_der(der).map_err(|error| unreadable(&error))?;
    if !rest.is_empty() {
        return Err(unreadable(&"there is data after it"));
    }
    list.iter_revoked_certificates()
        .map(|entry| {
            Serial::from_der_integer(entry.raw_serial()).ok_or_else(|| unreadable(&"a serial number is negative or too long"))
        })
        .collect()
}
