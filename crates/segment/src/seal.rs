//! Seals: what an operator bakes into an image, so that its boxes trust this operator alone, and can show that they are
//! this operator's.
//!
//! A seal holds the operator's public key and a key pair of its own, which the operator signed. A box with the seal obeys
//! that operator and nobody else. In an introduction it signs the transcript with the seal's key: the operator sees that
//! the box was started from its image, and needs to compare no words.
//!
//! Whoever steals the image can make boxes that look like the operator's until the seal ends. So a seal ends, is another
//! one for each image, and can be told from the next by its key; where that isn't enough, compare words.

use base::{BoxId, Digest, Timestamp};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::identity::{Context, Identity, IdentityError, is_signed};

/// What is baked in. Secret: its file is read by the box alone.
#[derive(Clone, Debug)]
pub struct Seal {
    identity: Identity,
    promise: Promise,
}

/// The operator's word for a seal's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    pub operator: BoxId,
    pub key: BoxId,
    pub until: Timestamp,
    signature: String,
}

/// What a sealed box shows in an introduction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealProof {
    pub promise: Promise,
    signature: String,
}

/// A seal as its file has it.
#[derive(Serialize, Deserialize)]
struct File {
    promise: Promise,
    /// PKCS#8 in base64.
    secret: String,
}

/// Text that is not a seal.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("this is no seal: make one with `firm operator seal --out FILE`")]
    Malformed,
    #[error("the seal's parts don't belong together: make a new one with `firm operator seal --out FILE`")]
    Broken,
    #[error("the seal's key can't be made")]
    Key(#[source] IdentityError),
}

/// Why a box's seal says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealDoubt {
    #[error("its seal is another operator's")]
    OtherOperator,
    #[error("its seal was not signed by the operator whom it names")]
    NotPromised,
    #[error("its seal ended at {0}")]
    Ended(Timestamp),
    #[error("it shows a seal that it doesn't hold")]
    NotHeld,
}

impl Promise {
    fn text(key: BoxId, until: Timestamp) -> Vec<u8> {
        format!("{key} {}", until.0).into_bytes()
    }

    fn holds(&self) -> bool {
        let signature = BASE64.decode(self.signature.as_bytes()).unwrap_or_default();
        is_signed(self.operator, Context::Seal, &Self::text(self.key, self.until), &signature)
    }
}

impl Seal {
    /// A fresh one, good until `until`.
    pub fn make(operator: &Identity, until: Timestamp) -> Result<Self, SealError> {
        let identity = Identity::generate().map_err(SealError::Key)?;
        let key = identity.id();
        let signature = BASE64.encode(&operator.sign(Context::Seal, &Promise::text(key, until)));
        Ok(Self { identity, promise: Promise { operator: operator.id(), key, until, signature } })
    }

    /// As the file has it.
    pub fn to_text(&self) -> Result<String, SealError> {
        let secret = BASE64.encode(&self.identity.to_pkcs8().map_err(SealError::Key)?);
        let file = File { promise: self.promise.clone(), secret };
        serde_json::to_string_pretty(&file).map_err(|_| SealError::Malformed)
    }

    pub fn from_text(text: &str) -> Result<Self, SealError> {
        let file: File = serde_json::from_str(text).map_err(|_| SealError::Malformed)?;
        let secret = BASE64.decode(file.secret.as_bytes()).map_err(|_| SealError::Malformed)?;
        let identity = Identity::from_pkcs8(&secret).ok_or(SealError::Malformed)?;
        if identity.id() != file.promise.key || !file.promise.holds() {
            return Err(SealError::Broken);
        }
        Ok(Self { identity, promise: file.promise })
    }

    /// Whom the box obeys.
    #[must_use]
    pub fn operator(&self) -> BoxId {
        self.promise.operator
    }

    /// When it ends: what it promised until then stays as it is.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.promise.until
    }

    /// Shows the seal within one introduction; it says nothing in another.
    #[must_use]
    pub fn prove(&self, transcript: &Digest) -> SealProof {
        let signature = BASE64.encode(&self.identity.sign(Context::Sealed, transcript.as_bytes()));
        SealProof { promise: self.promise.clone(), signature }
    }
}

impl SealProof {
    /// Was the box that shows this started from an image that `operator` sealed?
    pub fn check(&self, operator: BoxId, transcript: &Digest, now: Timestamp) -> Result<(), SealDoubt> {
        if self.promise.operator != operator {
            return Err(SealDoubt::OtherOperator);
        }
        if !self.promise.holds() {
            return Err(SealDoubt::NotPromised);
        }
        if self.promise.until < now {
            return Err(SealDoubt::Ended(self.promise.until));
        }
        let signature = BASE64.decode(self.signature.as_bytes()).unwrap_or_default();
        if is_signed(self.promise.key, Context::Sealed, transcript.as_bytes(), &signature) {
            Ok(())
        } else {
            Err(SealDoubt::NotHeld)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Timestamp = Timestamp(2_000);
    const NOW: Timestamp = Timestamp(1_000);

    #[test]
    fn a_seal_holds_for_its_operator_and_one_introduction() {
        let [operator, other] = [(), ()].map(|()| Identity::generate().expect("made"));
        let seal = Seal::make(&operator, LATER).expect("made");
        let seal = Seal::from_text(&seal.to_text().expect("text")).expect("read");
        let (this, another) = (Digest::of(b"this"), Digest::of(b"another"));
        let proof = seal.prove(&this);
        assert_eq!(proof.check(operator.id(), &this, NOW), Ok(()));
        assert_eq!(proof.check(operator.id(), &another, NOW), Err(SealDoubt::NotHeld), "a replay");
        assert_eq!(proof.check(other.id(), &this, NOW), Err(SealDoubt::OtherOperator));
        assert_eq!(proof.check(operator.id(), &this, Timestamp(2_001)), Err(SealDoubt::Ended(LATER)));
    }

    #[test]
    fn a_rogue_can_make_no_seal_of_its_own() {
        let [operator, rogue] = [(), ()].map(|()| Identity::generate().expect("made"));
        let this = Digest::of(b"this");
        // It signs a key of its own and puts the operator's name on it; or stretches the life of a real one.
        let mut forged = Seal::make(&rogue, LATER).expect("made");
        forged.promise.operator = operator.id();
        assert_eq!(forged.prove(&this).check(operator.id(), &this, NOW), Err(SealDoubt::NotPromised));
        let mut stretched = Seal::make(&operator, NOW).expect("made");
        stretched.promise.until = LATER;
        assert_eq!(stretched.prove(&this).check(operator.id(), &this, NOW), Err(SealDoubt::NotPromised));
        // It shows a promise that it overheard.
        let overheard = Seal::make(&operator, LATER).expect("made");
        let without = Seal { identity: rogue, promise: overheard.promise };
        assert_eq!(without.prove(&this).check(operator.id(), &this, NOW), Err(SealDoubt::NotHeld));
        assert!(matches!(Seal::from_text(&without.to_text().expect("text")), Err(SealError::Broken)));
    }

    #[test]
    fn other_text_is_no_seal() {
        for text in ["", "{}", "[seal]", "{\"promise\":null,\"secret\":\"\"}"] {
            assert!(matches!(Seal::from_text(text), Err(SealError::Malformed)), "{text}");
        }
    }
}
