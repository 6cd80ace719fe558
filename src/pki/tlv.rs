//! DER elements, read without copies and written into memory that is wiped.
//!
//! The libraries that write DER leave copies of private keys behind, and those that sign certificates encode names again, which may change them.

use x509_parser::asn1_rs::{Any, FromDer};
use zeroize::Zeroizing;

/// The tag of an INTEGER.
pub(super) const INTEGER: u8 = 0x02;
/// The tag of a BIT STRING.
pub(super) const BIT_STRING: u8 = 0x03;
/// The tag of an OCTET STRING.
pub(super) const OCTET_STRING: u8 = 0x04;
/// The tag of a SEQUENCE.
pub(super) const SEQUENCE: u8 = 0x30;

/// An element.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    /// Its identifier octet. Tags of several octets do not occur in what is read here.
    pub tag: u8,
    /// All its octets.
    pub whole: &'a [u8],
    /// Its content.
    pub content: &'a [u8],
}

/// The elements of which a text consists, `None` if it is not DER.
pub(super) fn elements(mut der: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut all = Vec::new();
    while let Some(tag) = der.first() {
        let (rest, any) = Any::from_der(der).ok()?;
        all.push(Element { tag: *tag, whole: &der[..der.len() - rest.len()], content: any.data });
        der = rest;
    }
    Some(all)
}

/// The elements of a text that is one element with this tag.
pub(super) fn inside(der: &[u8], tag: u8) -> Option<Vec<Element<'_>>> {
    match elements(der)?[..] {
        [outer] if outer.tag == tag => elements(outer.content),
        _ => None,
    }
}

/// An element with this tag whose content are these parts, one after the other.
pub(super) fn element(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let octets = length.to_be_bytes();
    let significant = &octets[octets.iter().take_while(|octet| **octet == 0).count()..];
    // The capacity is sufficient from the start, so that no reallocation leaves a copy behind.
    let mut all = Zeroizing::new(Vec::with_capacity(2 + significant.len() + length));
    all.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => all.push(short),
        // A length has at most 8 octets.
        _ => {
            all.push(0x80 | u8::try_from(significant.len()).unwrap_or_default());
            all.extend_from_slice(significant);
        }
    }
    for part in parts {
        all.extend_from_slice(part);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_can_be_read_back() {
        for length in [0, 1, 127, 128, 255, 256, 65535, 65536] {
            let content = vec![7; length];
            let written = element(OCTET_STRING, &[&content[..length / 2], &content[length / 2..]]);
            assert_eq!(written.capacity(), written.capacity().max(written.len()), "it was never reallocated");
            let read = elements(&written).unwrap_or_default();
            assert!(matches!(read[..], [one] if one.tag == OCTET_STRING && one.content == content && one.whole == *written));
        }
        let two = element(SEQUENCE, &[&element(INTEGER, &[&[5]]), &element(OCTET_STRING, &[b"x"])]);
        let read = inside(&two, SEQUENCE).unwrap_or_default();
        assert!(matches!(read[..], [number, text] if number.content == [5] && text.content == b"x"));
    }

    #[test]
    fn other_octets_are_no_elements() {
        let good = element(SEQUENCE, &[&element(INTEGER, &[&[5]])]);
        for broken in [&good[..good.len() - 1], &[0x30, 0x81], &[0x30, 0x80, 0, 0]] {
            assert!(elements(broken).is_none(), "{broken:?}");
        }
        assert!(inside(&good, OCTET_STRING).is_none() && inside(&[], SEQUENCE).is_none());
        assert!(inside(&[good.as_slice(), good.as_slice()].concat(), SEQUENCE).is_none());
    }
}
