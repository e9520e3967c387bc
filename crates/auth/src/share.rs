//! Passes: what opens one private stage until a moment, without a token. A share link carries one, and the
//! cookie that it turns into is the same.

use base::{AppId, Timestamp};
use data_encoding::BASE64URL_NOPAD;

use crate::Key;

/// A pass for one stage of one app. Deleting the app or the stage ends it; an app of the same name made later has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass<'a> {
    pub app: AppId,
    pub stage: &'a str,
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

impl Pass<'_> {
    /// The pass as text for a link or cookie: its end and its proof.
    pub fn sign(&self, tenant: &Key) -> String {
        let mut bytes = self.expires.0.to_be_bytes().to_vec();
        bytes.extend_from_slice(self.proof(tenant).as_bytes());
        BASE64URL_NOPAD.encode(&bytes)
    }

    fn proof(&self, tenant: &Key) -> blake3::Hash {
        let mut message = self.app.0.to_be_bytes().to_vec();
        message.extend_from_slice(&self.expires.0.to_be_bytes());
        // Last, as the one part of no fixed length.
        message.extend_from_slice(self.stage.as_bytes());
        blake3::keyed_hash(&tenant.derive(PURPOSE), &message)
    }

    /// Is `text` a pass for this stage, now? Gives its end.
    pub fn verify(tenant: &Key, app: AppId, stage: &str, now: Timestamp, text: &str) -> Result<Timestamp, PassError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| PassError::Invalid)?;
        let bytes: [u8; 40] = bytes.try_into().map_err(|_| PassError::Invalid)?;
        let (expires, proof) = bytes.split_at(8);
        let expires = Timestamp(u64::from_be_bytes(expires.try_into().expect("split at 8")));
        let proof: [u8; 32] = proof.try_into().expect("40 less 8 is 32");
        // `blake3::Hash` compares in constant time.
        let claimed = Pass { app, stage, expires };
        if claimed.proof(tenant) != blake3::Hash::from_bytes(proof) {
            return Err(PassError::Invalid);
        }
        if expires <= now { Err(PassError::Expired) } else { Ok(expires) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_opens_its_stage_until_its_end() {
        let key = Key::from_bytes([1; 32]);
        let end = Timestamp(1_000);
        let text = Pass { app: AppId(1), stage: "redesign", expires: end }.sign(&key);
        let verify = |key: &Key, app, stage, now| Pass::verify(key, AppId(app), stage, Timestamp(now), &text);
        assert_eq!(verify(&key, 1, "redesign", 999), Ok(end));
        assert_eq!(verify(&key, 1, "redesign", 1_000), Err(PassError::Expired));
        assert_eq!(verify(&key, 2, "redesign", 999), Err(PassError::Invalid));
        assert_eq!(verify(&key, 1, "other", 999), Err(PassError::Invalid));
        assert_eq!(verify(&Key::from_bytes([2; 32]), 1, "redesign", 999), Err(PassError::Invalid));
    }

    #[test]
    fn a_longer_life_can_t_be_written_in() {
        let key = Key::from_bytes([1; 32]);
        let text = Pass { app: AppId(1), stage: "a", expires: Timestamp(1) }.sign(&key);
        let mut bytes = BASE64URL_NOPAD.decode(text.as_bytes()).expect("just encoded");
        bytes[0] = 0xff;
        let forged = BASE64URL_NOPAD.encode(&bytes);
        assert_eq!(Pass::verify(&key, AppId(1), "a", Timestamp(0), &forged), Err(PassError::Invalid));
    }
}
