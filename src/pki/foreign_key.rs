//! Private keys as other programs write them: PKCS#1, SEC1 and PKCS#8, in PEM, with other blocks and text around them.

use zeroize::Zeroizing;

use super::{
    certificate::Certificate,
    error::PkiError,
    key::PrivateKey,
    pem::{self, Block},
    tlv::{Element, INTEGER, OCTET_STRING, SEQUENCE, element, elements, inside},
};

/// The object identifier of keys that are used with every RSA scheme (1.2.840.113549.1.1.1).
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// The parameters of that algorithm.
const NULL: &[u8] = &[0x05, 0x00];
/// The object identifier of keys on elliptic curves (1.2.840.10045.2.1).
const EC: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// The object identifier of Ed25519 (1.3.101.112).
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// The explicit tag of the public key in SEC1.
const PUBLIC_KEY: u8 = 0xa1;
/// The most bits that the modulus of an RSA key that signs may have: `ring`'s limit.
const LARGEST_RSA: usize = 4096;

/// The private part of a key.
enum Secret<'a> {
    /// The number of an elliptic curve's key. The certificate says which curve, and has the public key.
    Ec(&'a [u8]),
    /// A key in PKCS#1.
    Rsa(&'a [u8]),
    /// The seed of an Ed25519 key.
    Ed25519(&'a [u8]),
}

impl PrivateKey {
    /// The private key of a certificate, from a text that holds one block with a private key. What else the text contains does not
    /// matter: other blocks, such as `EC PARAMETERS`, and text around them, such as `Bag Attributes`. A public key in it does not
    /// matter either: it is that of the certificate.
    ///
    /// # Errors
    /// [`PkiError::KeyDoesNotFit`], or why the key cannot be read or used.
    pub fn of_certificate(text: &[u8], certificate: &Certificate) -> Result<Self, PkiError> {
        let block = private_block(text)?;
        let der = match Secret::read(&block.der)? {
            Secret::Ec(number) => ec(number, certificate)?,
            Secret::Rsa(key) => pkcs8(&[RSA, NULL], key),
            Secret::Ed25519(seed) => pkcs8(&[ED25519], &element(OCTET_STRING, &[seed])),
        };
        let key = Self::from_pem(pem::encode(&der, pem::PRIVATE_KEY)?.as_bytes());
        let key = key.map_err(|error| if error == PkiError::Key { PkiError::KeyDoesNotFit } else { error })?;
        if key.public_digest() != certificate.key_digest() {
            return Err(PkiError::KeyDoesNotFit);
        }
        Ok(key)
    }
}

/// The only block of a text that holds a private key.
fn private_block(text: &[u8]) -> Result<Block, PkiError> {
    let mut keys: Vec<_> =
        pem::foreign_blocks(text)?.into_iter().filter(|block| block.label.ends_with(pem::PRIVATE_KEY)).collect();
    let mend = |label: &str| match label {
        "ENCRYPTED PRIVATE KEY" => "it is encrypted: decrypt it with openssl pkey -in tls.key -out decrypted.key".to_owned(),
        "OPENSSH PRIVATE KEY" => {
            "it is in the format of OpenSSH: convert it with ssh-keygen -p -N '' -m PKCS8 -f tls.key".to_owned()
        }
        "DSA PRIVATE KEY" => "a DSA key cannot sign TLS certificates: create a CA with another key".to_owned(),
        other => {
            format!("it holds a block {other}, which is not known: convert it with openssl pkey -in tls.key -out converted.key")
        }
    };
    match (keys.pop(), keys.len()) {
        (None, _) => Err(PkiError::Count { expected: pem::PRIVATE_KEY, found: 0 }),
        (Some(block), 0) if ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"].contains(&block.label.as_str()) => Ok(block),
        (Some(block), 0) => Err(PkiError::ForeignKey(mend(&block.label))),
        (_, others) => Err(PkiError::ForeignKey(format!(
            "holds {} PRIVATE KEY blocks where one is expected: leave only that of the CA in tls.key (openssl pkey -in tls.key -out first.key \
             writes the first one)",
            others + 1
        ))),
    }
}

impl<'a> Secret<'a> {
    /// Reads a key in PKCS#8, SEC1 or PKCS#1.
    fn read(der: &'a [u8]) -> Result<Self, PkiError> {
        let fields = inside(der, SEQUENCE).ok_or_else(unreadable)?;
        let [version, algorithm, key, ..] = fields[..] else { return Self::read_traditional(der) };
        if (version.tag, algorithm.tag, key.tag) != (INTEGER, SEQUENCE, OCTET_STRING) {
            return Self::read_traditional(der);
        }
        let kind = elements(algorithm.content).and_then(|parts| parts.first().map(|part| part.whole)).ok_or_else(unreadable)?;
        match kind {
            EC | RSA => Self::read_traditional(key.content),
            ED25519 => match elements(key.content).ok_or_else(unreadable)?[..] {
                [Element { tag: OCTET_STRING, content, .. }] => Ok(Self::Ed25519(content)),
                _ => Err(unreadable()),
            },
            _ => Err(PkiError::ForeignKey("its kind is not supported: it must be ECDSA P-256 or P-384, Ed25519, or RSA".into())),
        }
    }

    /// Reads a key in SEC1 or PKCS#1, which differ in what follows the version.
    fn read_traditional(der: &'a [u8]) -> Result<Self, PkiError> {
        let fields = inside(der, SEQUENCE).ok_or_else(unreadable)?;
        match fields.iter().map(|field| (field.tag, field.content)).collect::<Vec<_>>()[..] {
            [(INTEGER, _), (OCTET_STRING, number), ..] => Ok(Self::Ec(number)),
            [(INTEGER, _), (INTEGER, modulus), (INTEGER, exponent), ..] => {
                check_rsa(modulus, exponent)?;
                Ok(Self::Rsa(der))
            }
            _ => Err(unreadable()),
        }
    }
}

fn unreadable() -> PkiError {
    PkiError::ForeignKey("the block is not a private key in PKCS#8, PKCS#1 or SEC1".into())
}

/// Checks that an RSA key with this modulus and public exponent can sign here.
fn check_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), PkiError> {
    let bits = modulus.iter().skip_while(|octet| **octet == 0).count() * 8;
    let small = exponent.len() < 3;
    let why = if bits > LARGEST_RSA {
        format!("RSA keys of more than {LARGEST_RSA} bits cannot sign here, and this one has {bits}")
    } else if small {
        "its RSA public exponent is less than 65537".to_owned()
    } else {
        return Ok(());
    };
    Err(PkiError::ForeignKey(format!(
        "{why}: create a CA with a key of openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096"
    )))
}

/// A key in PKCS#8.
fn pkcs8(algorithm: &[&[u8]], key: &[u8]) -> Zeroizing<Vec<u8>> {
    element(SEQUENCE, &[&element(INTEGER, &[&[0]]), &element(SEQUENCE, algorithm), &element(OCTET_STRING, &[key])])
}

/// An elliptic curve's key in PKCS#8, with the curve and the public key of a certificate. Whether they belong together is checked
/// when the key is loaded.
fn ec(number: &[u8], certificate: &Certificate) -> Result<Zeroizing<Vec<u8>>, PkiError> {
    let key_info = certificate.key_info()?;
    let Some([algorithm, public]) = inside(&key_info, SEQUENCE).and_then(|fields| <[_; 2]>::try_from(fields).ok()) else {
        return Err(PkiError::KeyDoesNotFit);
    };
    // An uncompressed point: the octet 4 and two coordinates, each as long as the number. Before it is the count of unused bits.
    let length = public.content.len().saturating_sub(2) / 2;
    let digits = &number[number.iter().take_while(|octet| **octet == 0).count()..];
    let zeros = vec![0; length.checked_sub(digits.len()).ok_or(PkiError::KeyDoesNotFit)?];
    let (version, number) = (element(INTEGER, &[&[1]]), element(OCTET_STRING, &[&zeros, digits]));
    let key = element(SEQUENCE, &[&version, &number, &element(PUBLIC_KEY, &[public.whole])]);
    Ok(pkcs8(&[algorithm.content], &key))
}
