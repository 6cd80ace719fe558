//! Private keys, and the digest that represents one where the key itself is not needed.

use std::fmt;

use data_encoding::HEXLOWER;
use rcgen::{KeyPair, PublicKeyData};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::{error::PkiError, pem};

/// A private key in PKCS#8. It is wiped when dropped, and has no `Debug` and no `Display`.
pub struct PrivateKey {
    pem: Zeroizing<String>,
    digest: KeyDigest,
}

impl PrivateKey {
    /// A new key, ECDSA P-256, which every TLS client accepts.
    pub fn generate() -> Result<Self, PkiError> {
        Self::of(&Zeroizing::new(KeyPair::generate().map_err(|_| PkiError::Random)?))
    }

    /// The key of a text that holds one `PRIVATE KEY` block and nothing else.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        Self::of(&*key_pair(text)?)
    }

    /// One `PRIVATE KEY` block.
    pub fn pem(&self) -> &[u8] {
        self.pem.as_bytes()
    }

    /// The digest of its public key.
    pub fn public_digest(&self) -> KeyDigest {
        self.digest
    }

    fn of(pair: &KeyPair) -> Result<Self, PkiError> {
        let pem = pem::encode(pair.serialized_der(), pem::PRIVATE_KEY)?;
        Ok(Self { pem, digest: KeyDigest::of(&pair.subject_public_key_info()) })
    }
}

/// The key pair for signing. `ring` does not wipe its internal copies.
pub(super) fn key_pair(text: &[u8]) -> Result<Zeroizing<KeyPair>, PkiError> {
    let der = pem::single(text, pem::PRIVATE_KEY)?;
    KeyPair::try_from(der.as_slice()).map(Zeroizing::new).map_err(|_| PkiError::Key)
}

/// The SHA-256 of a public key in the form in which a certificate contains it (the DER of its `SubjectPublicKeyInfo`). It is also
/// used for the whole DER of certificates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    pub(super) fn of(der: &[u8]) -> Self {
        let mut octets = [0; 32];
        octets.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(octets)
    }

    /// 64 hexadecimal digits in lower case.
    pub fn to_hex(self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Reads what [`KeyDigest::to_hex`] wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({})", self.to_hex())
    }
}

/// The digest that replaces a private key in memory, if the text is a private key. Intermediate copies are wiped.
pub fn digest_of_private_pem(text: &[u8]) -> Option<KeyDigest> {
    Some(KeyDigest::of(&key_pair(text).ok()?.subject_public_key_info()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // An inherent constant takes precedence over that of a trait, but exists only if its bounds hold.
    struct Probe<T>(std::marker::PhantomData<T>);
    trait Shows {
        const DEBUG: bool = false;
        const DISPLAY: bool = false;
    }
    impl<T> Shows for Probe<T> {}
    impl<T: fmt::Debug> Probe<T> {
        const DEBUG: bool = true;
    }
    impl<T: fmt::Display> Probe<T> {
        const DISPLAY: bool = true;
    }
    // The probe detects both traits.
    const _: () = assert!(Probe::<KeyDigest>::DEBUG && Probe::<String>::DISPLAY);
    const _: () = assert!(!Probe::<PrivateKey>::DEBUG && !Probe::<PrivateKey>::DISPLAY);
    const _: () = assert!(!Probe::<crate::pki::Leaf>::DEBUG && !Probe::<crate::pki::Leaf>::DISPLAY);
    const _: () = assert!(!Probe::<crate::pki::Authority>::DEBUG && !Probe::<crate::pki::Authority>::DISPLAY);

    #[test]
    fn keys_can_be_read_back() -> Result<(), PkiError> {
        let key = PrivateKey::generate()?;
        assert!(key.pem().starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
        let again = PrivateKey::from_pem(key.pem())?;
        assert_eq!((again.pem(), again.public_digest()), (key.pem(), key.public_digest()));
        assert_eq!(digest_of_private_pem(key.pem()), Some(key.public_digest()));
        assert_ne!(PrivateKey::generate()?.public_digest(), key.public_digest());
        Ok(())
    }

    #[test]
    fn other_texts_are_refused() -> Result<(), PkiError> {
        let broken = pem::encode(&[0x30, 3, 2, 1, 0], pem::PRIVATE_KEY)?;
        assert_eq!(PrivateKey::from_pem(broken.as_bytes()).err(), Some(PkiError::Key));
        assert_eq!(digest_of_private_pem(broken.as_bytes()), None);
        assert_eq!(digest_of_private_pem(b""), None);
        Ok(())
    }

    #[test]
    fn digests_can_be_read_back() -> Result<(), PkiError> {
        let digest = PrivateKey::generate()?.public_digest();
        assert_eq!(KeyDigest::from_hex(&digest.to_hex()), Some(digest));
        for text in ["", "00", &"0".repeat(63), &"0".repeat(65), &"+0".repeat(32), &"é".repeat(32)] {
            assert_eq!(KeyDigest::from_hex(text), None, "{text}");
        }
        Ok(())
    }
}
