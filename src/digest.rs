//! Digests of public contents.

use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};

/// The number of octets of a fingerprint: enough to be unique within a cluster, and short enough to be read by people.
const OCTETS: usize = 8;

/// A short digest of named contents, in hexadecimal digits. Lengths are included, so that moving a part of a name into its
/// content changes the digest.
pub fn fingerprint<'a>(parts: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut context = Context::new(&SHA256);
    for (name, content) in parts {
        for part in [name.as_bytes(), content] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    HEXLOWER.encode(&context.finish().as_ref()[..OCTETS])
}

/// Octets as lower-case hexadecimal digits, as in status fields.
pub fn hex(octets: &[u8]) -> String {
    HEXLOWER.encode(octets)
}

/// Whether a text is the result of [`hex`] for these octets.
pub fn is_hex(text: &str, octets: &[u8]) -> bool {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let is_written = |(pair, octet): (&[u8; 2], &u8)| *pair == [octet >> 4, octet & 15].map(|digit| DIGITS[usize::from(digit)]);
    rest.is_empty() && pairs.len() == octets.len() && pairs.iter().zip(octets).all(is_written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_compared_with_octets() {
        assert_eq!(hex(&[0x0a, 0xff]), "0aff");
        assert!(is_hex("0aff", &[0x0a, 0xff]));
        for other in ["0AFF", "aff", "0aff0", "0afe", ""] {
            assert!(!is_hex(other, &[0x0a, 0xff]), "{other}");
        }
    }
}
