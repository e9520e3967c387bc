//! Knocking at a box: how somebody who isn't of its cloud speaks with it. An operator with a blank box, a box that was
//! told to join with a box of the cloud.
//!
//! TLS 1.3 with X25519MLKEM768, in which both sides prove an Ed25519 key (raw public keys, RFC 7250): the line is private
//! and each knows the other's key. That it is the *right* key shows an introduction: each draws a nonce, the visitor
//! commits to its own before it sees the box's, and both make [`ProofWords`] of keys and nonces. Somebody in between has
//! other keys, hence other words. A sealed box needs none: it signs the same transcript with its seal.
//!
//! An introduction is remembered for a while on both sides, so that words which were read from a console hold in the
//! command that comes after. It belongs to the two keys: nobody else's visit finds it.

mod door;
mod tls;
mod visit;
mod wire;

use base::limits::FOREIGN_WORDS_CHARS_MAX;
use base::{BoxId, CloudId, Digest, Name, Roles, Timestamp};
use firming::{Order, Standing};
use serde::{Deserialize, Serialize};

use crate::identity::{Context, is_signed};
use crate::seal::SealProof;
use crate::words::ProofWords;

pub use door::{Caller, Door, DoorError, Porter};
pub use tls::TlsSetupError;
use visit::Nonce;
pub use visit::{Remembered, Visit, VisitError};

/// What a box tells of itself to whoever knocks. Its key was proven; the rest is its word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub id: BoxId,
    /// The build that runs there.
    pub version: String,
    /// blank, firming, firm or resetting.
    pub standing: String,
    /// Why nothing moves, if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_name: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
    pub hardware: Hardware,
    /// When the box started.
    pub since: Timestamp,
}

/// What a box is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Hardware {
    pub cores: u32,
    /// Bytes.
    pub memory: u64,
    /// Bytes of each disk that may hold data.
    pub disks: Vec<u64>,
}

impl About {
    /// What a box says of itself, bounded and without anything that steers a terminal. None where it is no box's.
    fn cleaned(mut self) -> Option<Self> {
        let known = Standing::is_word(&self.standing);
        self.version = plain(&self.version);
        self.why = self.why.as_deref().map(plain);
        self.hardware.disks.truncate(DISKS_TOLD_MAX);
        known.then_some(self)
    }
}

/// Disks that a box tells of. Over multicast they are one text of 255 bytes, and the size of a disk has 14 at the most.
pub(crate) const DISKS_TOLD_MAX: usize = 16;

/// Words of somebody else: one line, so many characters at the most, nothing that a terminal obeys.
fn plain(text: &str) -> String {
    let shown = text.chars().take(FOREIGN_WORDS_CHARS_MAX);
    shown.map(|ch| if ch.is_control() || is_odd(ch) { '\u{fffd}' } else { ch }).collect()
}

/// Marks that turn the direction of writing or take no room: what is read isn't what is there.
fn is_odd(ch: char) -> bool {
    matches!(ch, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// What may be asked once both are introduced.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Who are you?
    About,
    /// Do this. Signed by the visitor over this introduction's transcript, so that it can't be said twice.
    Order { order: SignedOrder },
    /// A box that was told to join asks to be let in. Its links are listened for there.
    Join { order: firming::OrderId, addresses: Vec<std::net::SocketAddr> },
    /// A box that was told to be something else says goodbye, as what it was by this order: its cloud may have let it in
    /// again, as what it will be.
    Leave { order: firming::OrderId },
    /// An operator asks the cloud for what the command line needs to speak with it. The wish is the cloud's own matter.
    Access {
        #[serde(default)]
        wish: serde_json::Value,
    },
}

/// The text that was signed, as it was signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignedOrder {
    pub text: String,
    pub signature: String,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    About(Box<About>),
    /// The order is on the box's disk.
    Taken,
    /// What the joiner gets; its shape is the cloud's own.
    Joined(serde_json::Value),
    /// The cloud does without it.
    Left,
    Access(serde_json::Value),
    Refused(Refused),
}

/// Why not. `code` is for programs, `words` for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{words}")]
pub struct Refused {
    pub code: RefusedCode,
    pub words: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusedCode {
    /// Asking again changes nothing.
    No,
    /// It may be otherwise in a moment.
    NotNow,
    /// The cloud has put the one who asks out for good.
    Evicted,
}

impl Refused {
    pub fn no(words: impl Into<String>) -> Self {
        Self { code: RefusedCode::No, words: words.into() }
    }

    pub fn not_now(words: impl Into<String>) -> Self {
        Self { code: RefusedCode::NotNow, words: words.into() }
    }
}

/// What both sides know after an introduction, and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The other side's key, which it proved.
    pub with: BoxId,
    /// Of both keys and both nonces.
    pub transcript: Digest,
    pub words: ProofWords,
}

impl Introduction {
    fn new(with: BoxId, visitor: BoxId, host: BoxId, visitor_nonce: &Nonce, host_nonce: &Nonce) -> Self {
        let bytes = [
            b"firmament introduction 1\0".as_slice(),
            &visitor.0,
            &host.0,
            visitor_nonce.as_bytes(),
            host_nonce.as_bytes(),
        ]
        .concat();
        let transcript = Digest::of(&bytes);
        Self { with, transcript, words: ProofWords::of(&transcript) }
    }
}

/// What a visitor shows of its nonce before it shows the nonce.
fn commitment(visitor: BoxId, nonce: &Nonce) -> Digest {
    Digest::of(&[b"firmament commitment 1\0".as_slice(), &visitor.0, nonce.as_bytes()].concat())
}

/// The visitor's first words.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    commitment: Digest,
}

/// The box's.
#[derive(Debug, Serialize, Deserialize)]
struct Welcome {
    nonce: Nonce,
}

/// The visitor opens what it committed to.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    nonce: Nonce,
}

/// The box shows its seal, if it has one.
#[derive(Debug, Serialize, Deserialize)]
struct Introduced {
    seal: Option<SealProof>,
}

/// The bytes of an order that are signed: what is wanted, in this introduction and no other.
fn signed_bytes(text: &str, transcript: &Digest) -> Vec<u8> {
    [transcript.as_bytes().as_slice(), text.as_bytes()].concat()
}

/// Reads an order that `caller` signed in this very introduction.
pub fn read_order(signed: &SignedOrder, introduction: &Introduction) -> Result<Order, Refused> {
    let signature = data_encoding::BASE64.decode(signed.signature.as_bytes()).unwrap_or_default();
    if !is_signed(introduction.with, Context::Order, &signed_bytes(&signed.text, &introduction.transcript), &signature)
    {
        return Err(Refused::no("the order isn't signed by the one who brings it, for this introduction"));
    }
    serde_json::from_str(&signed.text).map_err(|error| {
        Refused::no(format!("the order can't be read ({error}): are the box and the program of one version?"))
    })
}

#[cfg(test)]
mod tests;
