//! Serial numbers.

use std::{fmt, str::FromStr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::error::PkiError;

/// The most octets that RFC 5280 allows. External authorities may use all of them.
const OCTETS: usize = 20;

/// The serial number of a certificate. It is written in lower-case hexadecimal digits, two for each octet.
///
/// Serials that are generated here are 128 random bits: etcd compares only the serial with a revocation list, so it must be
/// unique among all authorities that a member trusts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Serial([u8; OCTETS]);

impl Serial {
    /// 128 random bits.
    pub fn random() -> Result<Self, PkiError> {
        let mut octets = [0; OCTETS];
        SystemRandom::new().fill(&mut octets[OCTETS - 16..]).map_err(|_| PkiError::Random)?;
        Ok(Self(octets))
    }

    /// Reads the octets of a number that is not negative, the most significant first.
    pub(super) fn from_octets(octets: &[u8]) -> Option<Self> {
        let digits = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
        let mut all = [0; OCTETS];
        all.get_mut(OCTETS.checked_sub(digits.len())?..)?.copy_from_slice(digits);
        Some(Self(all))
    }

    /// Reads the content of a DER integer, if it is not negative. Of one that is longer than allowed only the last octets count:
    /// CAs have such serials, and only those of leaves are ever compared.
    pub(super) fn of_authority(octets: &[u8]) -> Option<Self> {
        let last = &octets[octets.len().saturating_sub(OCTETS)..];
        octets.first().filter(|first| **first < 0x80).and_then(|_| Self::from_octets(last))
    }

    /// Reads the content of a DER integer, if it is not negative.
    pub(super) fn from_der_integer(octets: &[u8]) -> Option<Self> {
        octets.first().filter(|first| **first < 0x80).and_then(|_| Self::from_octets(octets))
    }

    /// The octets, the most significant first, without leading zeros; at least one.
    pub(super) fn octets(&self) -> &[u8] {
        &self.0[self.0.iter().take(OCTETS - 1).take_while(|octet| **octet == 0).count()..]
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.octets()))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = PkiError;
    fn from_str(text: &str) -> Result<Self, PkiError> {
        let invalid = || PkiError::Serial(text.to_owned());
        let octets = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok().filter(|octets| !octets.is_empty());
        octets.and_then(|octets| Self::from_octets(&octets)).ok_or_else(invalid)
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

impl TryFrom<String> for Serial {
    type Error = PkiError;
    fn try_from(text: String) -> Result<Self, PkiError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_can_be_read_back() -> Result<(), PkiError> {
        let serial = Serial::random()?;
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_ne!(Serial::random()?, serial);
        assert!(serial.octets().len() <= 16);
        assert_eq!(serde_json::to_string(&serial).ok(), Some(format!("\"{serial}\"")));
        for text in ["00", "01", "ff", "0100", &"ab".repeat(20)] {
            assert_eq!(text.parse::<Serial>()?.to_string(), text);
        }
        assert_eq!("00AB".parse::<Serial>()?.to_string(), "ab");
        assert!("ff".parse::<Serial>()? < "0100".parse()?);
        Ok(())
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "0", "0x1", "+1", "-1", " 1", "éé", &"ab".repeat(21)] {
            assert_eq!(text.parse::<Serial>(), Err(PkiError::Serial(text.into())));
        }
        assert!(serde_json::from_str::<Serial>("\"x\"").is_err());
    }

    #[test]
    fn negative_der_integers_are_refused() {
        assert_eq!(Serial::from_der_integer(&[0x80]), None);
        assert_eq!(Serial::from_der_integer(&[]), None);
        assert_eq!(Serial::from_der_integer(&[0, 0x80]).map(|serial| serial.to_string()), Some("80".into()));
    }
}
