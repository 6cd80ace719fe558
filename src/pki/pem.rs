//! PEM, read strictly and wiped from memory.
//!
//! It is read strictly, because etcd does not start with a bundle that contains any other block (`NewCertPool` in its
//! `client/pkg/tlsutil`). It is wiped, because private keys are read and written here.

use std::str;

use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use super::{der::element, error::PkiError};

/// The label of a certificate.
pub(super) const CERTIFICATE: &str = "CERTIFICATE";
/// The label of a private key in PKCS#8.
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// The label of a private key in PKCS#8 that is encrypted.
pub(super) const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// What Windows writes in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// The end of a block and the beginning of the next one on one line, as `cat` leaves them if a file does not end with a newline.
const GLUED: &[u8] = b"----------BEGIN ";
/// How many dashes are on each side of a block's first and last line.
const DASHES: usize = 5;

/// How the content of a PKCS#7 `SignedData` begins in DER: with its object identifier.
const PKCS7: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// How the content of PKCS#12 begins in DER: with the version 3.
const PKCS12: &[u8] = &[0x02, 0x01, 0x03];

/// The number of characters in a line (RFC 7468), which encode 48 octets.
const LINE: usize = 64;

/// A block.
pub(super) struct Block {
    /// What it holds, such as `CERTIFICATE`.
    pub label: String,
    /// Its content.
    pub der: Zeroizing<Vec<u8>>,
}

/// The contents of all blocks of a text. The text may contain only blocks with this label and blank lines.
pub(super) fn blocks(text: &[u8], label: &'static str) -> Result<Vec<Zeroizing<Vec<u8>>>, PkiError> {
    str::from_utf8(text).map_err(|_| PkiError::Pem("it is not text"))?;
    let content = |block: Block| {
        if block.label == label { Ok(block.der) } else { Err(PkiError::Label { expected: label, found: block.label }) }
    };
    scan(text, false)?.into_iter().map(content).collect()
}

/// The blocks of a text that another program wrote. It may have text outside of the blocks (RFC 7468, 5.2), such as a byte order mark,
/// `Bag Attributes` or what `openssl x509 -text` prints, and header lines inside of them (RFC 1421).
///
/// # Errors
/// Why the text is not readable, and the command that mends it.
pub(super) fn foreign_blocks(text: &[u8]) -> Result<Vec<Block>, PkiError> {
    let blocks = scan(text, true)?;
    match text {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err(PkiError::Pem("it is UTF-16: convert it with iconv -f UTF-16 -t UTF-8")),
        [0x30, ..] if blocks.is_empty() => Err(PkiError::Pem(binary(text))),
        _ => Ok(blocks),
    }
}

/// What a text in DER is, and what mends it.
fn binary(text: &[u8]) -> &'static str {
    let begins_with = |octets: &[u8]| element(text).is_some_and(|((_, content), _)| content.starts_with(octets));
    if begins_with(PKCS7) {
        "it is PKCS#7 in DER: convert it with openssl pkcs7 -inform DER -print_certs"
    } else if begins_with(PKCS12) {
        "it is PKCS#12: convert it with openssl pkcs12 -nokeys for the certificates, and openssl pkcs12 -nocerts -nodes for the key"
    } else {
        "it is DER: convert it with openssl x509 -inform DER, or openssl pkey -inform DER for a key"
    }
}

/// The lines of a text. Where a foreign text has the end of a block and the beginning of the next one on one line, they are two.
fn lines(text: &[u8], foreign: bool) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| *octet == b'\n').flat_map(move |line| {
        let glued = line.windows(GLUED.len()).position(|octets| foreign && octets == GLUED);
        let (first, second) = line.split_at(glued.map_or(line.len(), |at| at + DASHES));
        [first, second]
    })
}

/// The blocks of a text that may be a foreign one.
fn scan(text: &[u8], foreign: bool) -> Result<Vec<Block>, PkiError> {
    let trim = |line| match <[u8]>::strip_prefix(line, BYTE_ORDER_MARK).filter(|_| foreign) {
        Some(rest) => rest.trim_ascii(),
        None if foreign => line.trim_ascii(),
        None => line.trim_ascii_end(),
    };
    let mut lines = lines(text, foreign).map(trim).filter(|line| !line.is_empty());
    let mut blocks = Vec::new();
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix(b"-----BEGIN ").and_then(|rest| rest.strip_suffix(b"-----")) else {
            if foreign {
                continue;
            }
            return Err(PkiError::Pem("there is text outside of the blocks"));
        };
        if label.windows(DASHES).any(|octets| octets == b"-----") {
            return Err(PkiError::Pem("a block is on one line: put its first and its last line on lines of their own"));
        }
        // The capacity is sufficient from the start, so that no reallocation leaves a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(text.len()));
        let mut is_encrypted = false;
        loop {
            let line = lines.next().ok_or(PkiError::Pem("a block has no end"))?;
            if let Some(ends) = line.strip_prefix(b"-----END ") {
                if ends.strip_suffix(b"-----") != Some(label) {
                    return Err(PkiError::Pem("a block ends as another kind than it begins"));
                }
                break;
            }
            if foreign && line.contains(&b':') {
                is_encrypted |= line.ends_with(b"ENCRYPTED");
            } else {
                body.extend_from_slice(line);
            }
        }
        let label = if is_encrypted { ENCRYPTED.into() } else { String::from_utf8_lossy(label).into_owned() };
        blocks.push(Block { label, der: decode(&body)? });
    }
    Ok(blocks)
}

/// The content of the only block of a text.
pub(super) fn single(text: &[u8], label: &'static str) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let mut blocks = blocks(text, label)?;
    match (blocks.len(), blocks.pop()) {
        (1, Some(block)) => Ok(block),
        (found, _) => Err(PkiError::Count { expected: label, found }),
    }
}

fn decode(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let mut der = Zeroizing::new(vec![0; base64::decoded_len_estimate(body.len())]);
    let length = STANDARD.decode_slice(body, &mut der).map_err(|_| PkiError::Pem("a block is not base64"))?;
    der.truncate(length);
    Ok(der)
}

/// One block in PEM, which ends with a newline.
pub(super) fn encode(der: &[u8], label: &str) -> Result<Zeroizing<String>, PkiError> {
    let lines = der.len().div_ceil(LINE / 4 * 3);
    let mut text = Zeroizing::new(String::with_capacity(lines * (LINE + 1) + 2 * (label.len() + 18)));
    let mut line = Zeroizing::new([0; LINE]);
    for part in ["-----BEGIN ", label, "-----\n"] {
        text.push_str(part);
    }
    for octets in der.chunks(LINE / 4 * 3) {
        let length = STANDARD.encode_slice(octets, &mut *line).map_err(|_| PkiError::Pem("a line is too long"))?;
        text.extend(line[..length].iter().copied().map(char::from));
        text.push('\n');
    }
    for part in ["-----END ", label, "-----\n"] {
        text.push_str(part);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_blocks_can_be_read_back() -> Result<(), PkiError> {
        for length in [0, 1, 2, 3, 47, 48, 49, 96, 500] {
            let der: Vec<u8> = (0..length).map(|i| u8::try_from(i % 251).unwrap_or_default()).collect();
            let text = encode(&der, CERTIFICATE)?;
            assert!(text.lines().all(|line| line.len() <= LINE), "{length}");
            assert_eq!(*single(text.as_bytes(), CERTIFICATE)?, der);
            // The text was never reallocated.
            assert!(text.capacity() >= text.len() && text.capacity() <= text.len() + LINE, "{length}");
        }
        Ok(())
    }

    #[test]
    fn blocks_of_other_programs_are_read() -> Result<(), PkiError> {
        let text = b"\n-----BEGIN CERTIFICATE-----\r\nAAEC\r\nAwQF\r\n-----END CERTIFICATE-----";
        assert_eq!(*single(text, CERTIFICATE)?, [0, 1, 2, 3, 4, 5]);
        assert_eq!(blocks(b"", CERTIFICATE)?.len(), 0);
        Ok(())
    }

    #[test]
    fn glued_blocks_of_other_programs_are_read() -> Result<(), PkiError> {
        let block = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----";
        let all = foreign_blocks(format!("{block}{block}{block}").as_bytes())?;
        assert!(all.len() == 3 && all.iter().all(|block| block.label == CERTIFICATE && *block.der == [0, 1, 2]));
        Ok(())
    }

    #[test]
    fn binary_files_are_told_apart() {
        let why = |octets: &[u8]| foreign_blocks(octets).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(why(&[&[0x30, 13][..], PKCS7, &[0xa0, 0]].concat()).contains("openssl pkcs7 -inform DER"));
        assert!(why(&[&[0x30, 5][..], PKCS12, &[0x30, 0]].concat()).contains("openssl pkcs12 -nokeys"));
        assert!(why(&[0x30, 0]).contains("openssl x509 -inform DER"));
    }

    #[test]
    fn other_texts_are_refused() {
        let block = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        let label = |found: &str| PkiError::Label { expected: CERTIFICATE, found: found.into() };
        for (text, why) in [
            (String::new(), PkiError::Count { expected: CERTIFICATE, found: 0 }),
            (format!("{block}{block}"), PkiError::Count { expected: CERTIFICATE, found: 2 }),
            (block.replace("CERTIFICATE", "PRIVATE KEY"), label(PRIVATE_KEY)),
            (format!("{block}{}", block.replace("CERTIFICATE", "PRIVATE KEY")), label(PRIVATE_KEY)),
            (block.replace("CERTIFICATE", "CERTIFICATE "), label("CERTIFICATE ")),
            (
                format!("{block}{block}").replace("-----\n-----BEGIN", "----------BEGIN"),
                PkiError::Pem("a block ends as another kind than it begins"),
            ),
            (
                block.replace("-----\nAAEC\n", "-----AAEC"),
                PkiError::Pem("a block is on one line: put its first and its last line on lines of their own"),
            ),
            (format!("subject: me\n{block}"), PkiError::Pem("there is text outside of the blocks")),
            (format!("{block}x"), PkiError::Pem("there is text outside of the blocks")),
            (block.replace("AAEC", "AAE"), PkiError::Pem("a block is not base64")),
            (block.replace("AAEC", "Proc-Type: 4,ENCRYPTED\nAAEC"), PkiError::Pem("a block is not base64")),
            (block.replace("END CERTIFICATE", "END KEY"), PkiError::Pem("a block ends as another kind than it begins")),
            (block[..40].to_owned(), PkiError::Pem("a block has no end")),
        ] {
            assert_eq!(single(text.as_bytes(), CERTIFICATE).err(), Some(why), "{text}");
        }
        assert_eq!(single(&[0xff, 0xfe], CERTIFICATE).err(), Some(PkiError::Pem("it is not text")));
    }
}
