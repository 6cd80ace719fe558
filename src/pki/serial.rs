//! Serial numbers.

use std::{fmt, str::FromStr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::error::PkiError;

/// What RFC 5280 allows at most, in octets; other authorities use it all.
const OCTETS: usize = 20;

/// The serial number of a certificate. Written as hexadecimal digits in lower case, two for each octet.
///
/// Those made here are 128 random bits: etcd compares the serial alone with a revocation list, so it must be unique over all
/// authorities that a member trusts.
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

    /// From the octets of a number that is not negative, the most significant first.
    pub(super) fn from_octets(octets: &[u8]) -> Option<Self> {
        let digits = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
        let mut all = [0; OCTETS];
        all.get_mut(OCTETS.checked_sub(digits.len())?..)?.copy_from_slice(digits);
        Some(Self(all))
    }

    /// From the content of a DER integer, if it is not negative.
    pub(super) fn from_der_integer(octets: &[u8]) -> Option<Self> {
        octets.first().filter(|first| **first < 0x80).and_then(|_| Self::from_octets(octets))
    }

    /// All octets, the most significant first, without those that are zero in front; at least one.
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
    fn serials_are_read_back() -> Result<(), PkiError> {
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
    fn what_is_none_is_refused() {
        for text in ["", "0", "0x1", "+1", "-1", " 1", "éé", &"ab".repeat(21)] {
            assert_eq!(text.parse::<Serial>(), Err(PkiError::Serial(text.into())));
        }
        assert!(serde_json::from_str::<Serial>("\"x\"").is_err());
    }

    #[test]
    fn der_integers_have_a_sign() {
        assert_eq!(Serial::from_der_integer(&[0x80]), None);
        assert_eq!(Serial::from_der_integer(&[]), None);
        assert_eq!(Serial::from_der_integer(&[0, 0x80]).map(|serial| serial.to_string()), Some("80".into()));
    }
}
