//! Sealing: AES-256-GCM under a key, bound to what the bytes are for.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use data_encoding::HEXLOWER;
use state::Sealed;

/// A 256-bit key: the box's own, or a tenant's.
#[derive(Clone)]
pub struct Key([u8; 32]);

/// Why sealed bytes stay shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("the sealed bytes are damaged")]
    Malformed,
    #[error("the sealed bytes don't open with this key, or were sealed for something else")]
    Refused,
}

const NONCE_BYTES: usize = 12;

impl Key {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Another key, for another purpose.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.0)
    }

    /// Encrypts `plain`. It opens only with the same `purpose`: a sealed secret copied to another name is refused.
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Sealed {
        let mut bytes = plain.to_vec();
        let nonce = self
            .cipher()
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut bytes)
            .expect("AES-GCM seals anything under 64 GiB");
        Sealed(HEXLOWER.encode(nonce.as_ref()) + &HEXLOWER.encode(&bytes))
    }

    /// Decrypts what [`seal`](Self::seal) made with this key and purpose.
    pub fn open(&self, purpose: &str, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        let bytes = HEXLOWER.decode(sealed.0.as_bytes()).map_err(|_| OpenError::Malformed)?;
        let (nonce, cipher) = bytes.split_at_checked(NONCE_BYTES).ok_or(OpenError::Malformed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| OpenError::Malformed)?;
        let mut cipher = cipher.to_vec();
        let plain = self
            .cipher()
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut cipher)
            .map_err(|_| OpenError::Refused)?;
        Ok(plain.to_vec())
    }

    fn cipher(&self) -> RandomizedNonceKey {
        RandomizedNonceKey::new(&AES_256_GCM, &self.0).expect("the key has 32 bytes")
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_sealed_opens_for_its_purpose_alone(plain: Vec<u8>, purpose in ".{0,20}", other in ".{0,20}") {
            let key = Key::from_bytes([1; 32]);
            let sealed = key.seal(&purpose, &plain);
            prop_assert_eq!(key.open(&purpose, &sealed), Ok(plain));
            if other != purpose {
                prop_assert_eq!(key.open(&other, &sealed), Err(OpenError::Refused));
            }
            prop_assert_eq!(Key::from_bytes([2; 32]).open(&purpose, &sealed), Err(OpenError::Refused));
        }

        #[test]
        fn no_text_panics(text in "[0-9a-fx]{0,80}") {
            prop_assert!(Key::from_bytes([1; 32]).open("", &Sealed(text)).is_err());
        }
    }
}
