//! Passes: what opens one private stage until a moment, without a token. A share link carries one, and the
//! cookie that it turns into is the same.

use base::{DatabaseId, Timestamp};
use data_encoding::BASE64URL_NOPAD;

use crate::Key;

/// A pass for one stage, named by its data set. Deleting the stage or its app ends it: what is made later under the
/// same name has another data set, and ids are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    pub stage: DatabaseId,
    pub expires: Timestamp,
}

/// Why a pass doesn't open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    #[error("this is not a pass for this stage")]
    Invalid,
    #[error("the pass expired")]
    Expired,
}

const PURPOSE: &str = "Firmament 2026-11 share pass";

impl Pass {
    /// The pass as text for a link or cookie: its end and its proof.
    pub fn sign(&self, tenant: &Key) -> String {
        let mut bytes = self.expires.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.proof(tenant).as_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn proof(&self, tenant: &Key) -> blake3::Hash {
        let mut message = self.stage.0.to_be_bytes().to_vec();
        message.extend_from_slice(&self.expires.0.to_be_bytes());
        blake3::keyed_hash(&tenant.derive(PURPOSE), &message)
    }

    /// Is `text` a pass for this stage, now? Gives its end.
    pub fn verify(tenant: &Key, stage: DatabaseId, now: Timestamp, text: &str) -> Result<Timestamp, PassError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| PassError::Invalid)?;
        let bytes: [u8; 40] = bytes.try_into().map_err(|_| PassError::Invalid)?;
        let (expires, proof) = bytes.split_at(8);
        let expires = Timestamp(u64::from_be_bytes(expires.try_into().expect("split at 8")));
        let proof: [u8; 32] = proof.try_into().expect("40 less 8 is 32");
        // `blake3::Hash` compares in constant time.
        let claimed = Self { stage, expires };
        if claimed.proof(tenant) != blake3::Hash::from_bytes(proof) {
            return Err(PassError::Invalid);
        }
        if expires <= now { Err(PassError::Expired) } else { Ok(expires) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGE: DatabaseId = DatabaseId(1);

    #[test]
    fn a_pass_opens_its_stage_until_its_end() {
        let key = Key::from_bytes([1; 32]);
        let end = Timestamp(1_000);
        let text = Pass { stage: STAGE, expires: end }.sign(&key);
        let verify = |key: &Key, stage, now| Pass::verify(key, stage, Timestamp(now), &text);
        assert_eq!(verify(&key, STAGE, 999), Ok(end));
        assert_eq!(verify(&key, STAGE, 1_000), Err(PassError::Expired));
        assert_eq!(verify(&key, DatabaseId(2), 999), Err(PassError::Invalid));
        assert_eq!(verify(&Key::from_bytes([2; 32]), STAGE, 999), Err(PassError::Invalid));
    }

    #[test]
    fn a_longer_life_can_t_be_written_in() {
        let key = Key::from_bytes([1; 32]);
        let text = Pass { stage: STAGE, expires: Timestamp(1) }.sign(&key);
        let mut bytes = BASE64URL_NOPAD.decode(text.as_bytes()).expect("just encoded");
        bytes[0] = 0xff;
        let forged = BASE64URL_NOPAD.encode(&bytes);
        assert_eq!(Pass::verify(&key, STAGE, Timestamp(0), &forged), Err(PassError::Invalid));
    }
}
