//! Who makes tokens: auth boxes, and in a cloud that has one nobody else.
//!
//! A token carries an auth box's signature, and every box checks it before it believes the token. That a box is an auth box
//! says its warrant, which an operator signed, and whose word an operator's is says this box's own order: so neither a web
//! box nor those that keep the record can make a token that others take. Until the first auth box comes tokens have no
//! signature; it signs those that there are, and from then on each box remembers that tokens have one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use auth::{Caller, Denied, Minted, Wants, access_word, identify, may, token_word, warrant_word};
use base::limits::{ACCESS_WISHES_REMEMBERED, BEAT_EVERY, CLOCK_SKEW_MAX, MINT_TIME_MAX, TOKENS_CHECKED_MAX};
use base::{BoxId, Digest, Role, TenantId, Timestamp};
use bytes::Bytes;
use hashlink::LruCache;
use persist::ProposeError;
use serde::{Deserialize, Serialize};
use state::{Actor, Boxes, Command, Grant, Record, Signed, Token};

use super::{Far, Method, TierError};
use crate::cloud::{Cloud, mint_token};

/// Whose tokens are believed.
pub(crate) struct Makers {
    /// Auth boxes whose warrant is an operator's.
    believed: ArcSwap<BTreeSet<BoxId>>,
    /// The boxes that this was made from.
    of: Mutex<Option<Arc<Boxes>>>,
    /// Tokens without a signature are no tokens.
    wanted: AtomicBool,
    /// What was checked lately and is right.
    checked: Mutex<LruCache<Digest, ()>>,
    /// One at a time signs anew.
    signing: tokio::sync::Mutex<()>,
    wishes: Mutex<VecDeque<[u8; 16]>>,
}

/// A token that somebody wants made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) tenant: Option<TenantId>,
    pub(crate) grant: Grant,
    pub(crate) label: String,
    pub(crate) expires: Option<Timestamp>,
}

/// An operator's signed wish for a token of its own, made at one box's door.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessWish {
    pub at: Timestamp,
    pub nonce: [u8; 16],
    /// The operator's key and signature.
    pub by: BoxId,
    pub signature: String,
}

/// Why somebody may have a token made.
#[derive(Debug, Serialize, Deserialize)]
enum Proof {
    /// The token that they sent.
    Bearer(String),
    Operator(AccessWish),
}

#[derive(Debug, Serialize, Deserialize)]
struct MintAsk {
    proof: Proof,
    wish: Wish,
}

#[derive(Debug, Serialize, Deserialize)]
struct Made {
    id: base::TokenId,
    secret: String,
    hash: Digest,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
    #[error("the record doesn't take it")]
    Propose(#[source] ProposeError),
    #[error("no auth box of the cloud makes it: {0}")]
    NoAuth(String),
    #[error("the wish for access is nobody's who may: {0}")]
    Wish(&'static str),
}

impl Makers {
    pub(crate) fn new(far: Option<&Far>) -> Self {
        Self {
            believed: ArcSwap::default(),
            of: Mutex::default(),
            wanted: AtomicBool::new(far.is_some_and(|far| far.tier.has_auth())),
            checked: Mutex::new(LruCache::new(TOKENS_CHECKED_MAX)),
            signing: tokio::sync::Mutex::default(),
            wishes: Mutex::default(),
        }
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    fn is_believed(&self, far: &Far, record: &Record, token: &Token) -> bool {
        if !self.is_wanted() {
            return true;
        }
        let (Some(signed), Some(boxes)) = (&token.signed, record.boxes()) else { return false };
        self.believed.load().contains(&signed.by) && self.is_right(far, boxes, token, signed)
    }

    fn is_right(&self, far: &Far, boxes: &Boxes, token: &Token, signed: &Signed) -> bool {
        let word = token_word(boxes.cloud, token);
        let key = Digest::of(&[word.as_slice(), &signed.by.0, signed.signature.as_bytes()].concat());
        let checked = || self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked().get(&key).is_some() {
            return true;
        }
        let is_right = far.tier.is_vouched(signed.by, &word, &signed.signature);
        if is_right {
            checked().insert(key, ());
        }
        is_right
    }

    /// Who makes tokens by now, and whether they must be signed. Gives those that are this box's to sign: those that nobody
    /// has signed, before anybody's signature is wanted; and those of an auth box that goes or is gone.
    fn look(&self, far: &Far, record: &Record) -> Vec<Arc<Token>> {
        let Some(boxes) = record.boxes() else { return Vec::new() };
        let before = self.believed.load_full();
        {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            if of.as_ref().is_none_or(|of| !Arc::ptr_eq(of, boxes)) {
                *of = Some(Arc::clone(boxes));
                self.believed.store(Arc::new(believed(far, boxes)));
            }
        }
        let now = self.believed.load_full();
        let is_right = |token: &Token, signed: &Signed| self.is_right(far, boxes, token, signed);
        if !self.is_wanted() {
            let is_signed = |token: &Arc<Token>| {
                token.signed.as_ref().is_some_and(|signed| now.contains(&signed.by) && is_right(token, signed))
            };
            if record.tokens().any(is_signed) {
                far.tier.keep_auth();
                self.wanted.store(true, Ordering::Release);
            }
        }
        let me = far.tier.me();
        let is_leaving = |id: BoxId| boxes.boxes.get(&id).is_some_and(|it| it.leaving);
        if !now.contains(&me) || is_leaving(me) {
            return Vec::new();
        }
        let is_mine_to_sign = |token: &Token| match &token.signed {
            None => !self.is_wanted(),
            Some(signed) => {
                let goes = is_leaving(signed.by) || !now.contains(&signed.by);
                goes && before.contains(&signed.by) && is_right(token, signed)
            }
        };
        record.tokens().filter(|token| is_mine_to_sign(token)).cloned().collect()
    }
}

/// Boxes that an operator has made auth boxes.
fn believed(far: &Far, boxes: &Boxes) -> BTreeSet<BoxId> {
    let is_warranted = |id: BoxId, it: &state::CloudBox| {
        it.warrant.as_ref().is_some_and(|warrant| {
            let word = warrant_word(boxes.cloud, id, &it.roles);
            far.tier.operators().contains(&warrant.by) && far.tier.is_vouched(warrant.by, &word, &warrant.signature)
        })
    };
    let auth = boxes.boxes.iter().filter(|(_, it)| it.roles.has(Role::Auth) && it.joined.is_some());
    auth.filter(|(id, it)| is_warranted(**id, it)).map(|(id, _)| *id).collect()
}

impl Cloud {
    /// Who sent this token, if it is one that this cloud believes?
    pub(crate) fn identify(&self, record: &Record, now: Timestamp, text: Option<&str>) -> Result<Caller, Denied> {
        let caller = identify(record, now, text)?;
        if self.is_believed(record, caller.token()) { Ok(caller) } else { Err(Denied::Invalid) }
    }

    fn is_believed(&self, record: &Record, token: &Token) -> bool {
        self.far.as_ref().is_none_or(|far| self.makers.is_believed(far, record, token))
    }

    /// Takes notice of what the record says of auth boxes and tokens, and signs what is left to this box.
    pub(crate) fn show_makers(self: &Arc<Self>, record: &Record) {
        let Some(far) = &self.far else { return };
        let orphans = self.makers.look(far, record);
        if !orphans.is_empty() {
            tokio::spawn(Arc::clone(self).sign_anew(orphans));
        }
    }

    /// Signs them, and tries again for as long as the record has no quorum: nobody else would.
    async fn sign_anew(self: Arc<Self>, orphans: Vec<Arc<Token>>) {
        let _one = self.makers.signing.lock().await;
        for token in orphans {
            loop {
                let held = self.record();
                let (Some(now), Some(far), Some(boxes)) = (held.token(token.id), &self.far, held.boxes()) else {
                    break;
                };
                if now.signed != token.signed {
                    break;
                }
                let signed = Signed { by: far.tier.me(), signature: far.tier.vouch(&token_word(boxes.cloud, &token)) };
                let before = token.signed.as_ref().map(|signed| signed.by);
                let command = Command::TokenSign { id: token.id, before, signed };
                match self.propose(Actor::Box, command).await {
                    Ok(_) | Err(ProposeError::Refused(_) | ProposeError::Closed) => break,
                    Err(error) => {
                        tracing::warn!(token = %token.id, "a token can't be signed yet: {}", base::chain(&error));
                        tokio::time::sleep(BEAT_EVERY).await;
                    }
                }
            }
        }
    }

    /// Does this box make tokens that the cloud believes?
    fn makes_tokens(&self) -> bool {
        self.far.as_ref().is_none_or(|far| far.roles.has(Role::Auth)) || !self.makers.is_wanted()
    }

    /// Makes a token for whoever sent `bearer`, and may have it made: here, or at an auth box, which looks at that anew.
    pub(crate) async fn mint(&self, by: Actor, bearer: &str, wish: Wish) -> Result<Minted, MintError> {
        if self.makes_tokens() {
            return self.mint_here(by, wish).await;
        }
        self.ask_for_token(MintAsk { proof: Proof::Bearer(bearer.to_owned()), wish }).await
    }

    /// A fresh operator's token for the operator who asked at this box's door, in the place of those it had before.
    pub async fn operator_access(&self, wish: AccessWish) -> Result<Minted, MintError> {
        let label = operator_label(wish.by);
        if self.makes_tokens() {
            return self.operator_token(&label).await;
        }
        let mint = Wish { tenant: None, grant: Grant::Operate, label, expires: None };
        self.ask_for_token(MintAsk { proof: Proof::Operator(wish), wish: mint }).await
    }

    pub(crate) async fn mint_here(&self, by: Actor, wish: Wish) -> Result<Minted, MintError> {
        let minted = mint_token().map_err(MintError::Random)?;
        let Wish { tenant, grant, label, expires } = wish;
        let token = Token {
            id: minted.id,
            tenant,
            grant,
            label,
            hash: minted.hash,
            created: Timestamp(0),
            expires,
            signed: None,
        };
        let command = Command::TokenCreate {
            id: token.id,
            tenant,
            grant,
            hash: token.hash,
            expires,
            signed: self.signed(&token),
            label: token.label,
        };
        self.propose(by, command).await.map_err(MintError::Propose)?;
        Ok(minted)
    }

    /// This box's word for a token that it makes, where it is an auth box.
    pub(crate) fn signed(&self, token: &Token) -> Option<Signed> {
        let far = self.far.as_ref().filter(|far| far.roles.has(Role::Auth))?;
        let record = self.record();
        let boxes = record.boxes()?;
        Some(Signed { by: far.tier.me(), signature: far.tier.vouch(&token_word(boxes.cloud, token)) })
    }

    async fn ask_for_token(&self, ask: MintAsk) -> Result<Minted, MintError> {
        let no_auth = |why: &str| MintError::NoAuth(why.to_owned());
        let far = self.far.as_ref().ok_or_else(|| no_auth("the cloud isn't made of boxes"))?;
        let body: Bytes = postcard::to_allocvec(&ask).map_err(|error| no_auth(&error.to_string()))?.into();
        let mut why = "there is none".to_owned();
        for maker in self.makers.believed.load_full().iter() {
            match far.tier.ask(*maker, Method::Mint, body.clone(), MINT_TIME_MAX).await {
                Ok(made) => {
                    let Made { id, secret, hash } =
                        postcard::from_bytes(&made).map_err(|error| no_auth(&error.to_string()))?;
                    return Ok(Minted { id, secret, hash });
                }
                // Another would refuse it too, and one that may have made it must not be made again.
                Err(error @ (TierError::Refused(_) | TierError::Unknown(_))) => {
                    return Err(no_auth(&error.to_string()));
                }
                Err(error) => why = error.to_string(),
            }
        }
        Err(MintError::NoAuth(why))
    }

    /// Makes a token for another box, where what it brings gives the right to it.
    pub(crate) async fn answer_mint(&self, from: BoxId, body: &[u8]) -> Result<Bytes, String> {
        let far = self.far.as_ref().ok_or("this cloud isn't made of boxes")?;
        if !far.roles.has(Role::Auth) {
            return Err("this box makes no tokens".to_owned());
        }
        let MintAsk { proof, wish } = postcard::from_bytes(body).map_err(|error| format!("no wish: {error}"))?;
        let record = self.record();
        if !record.boxes().is_some_and(|boxes| boxes.is_member(from)) {
            return Err(format!("{} is no box of this cloud", from.long_name()));
        }
        let now: Timestamp = std::time::SystemTime::now().into();
        let minted = match proof {
            Proof::Bearer(text) => {
                let caller = self.identify(&record, now, Some(&text)).map_err(|denied| denied.to_string())?;
                let wants = match wish.tenant {
                    Some(tenant) => Wants::Member(tenant, Grant::Own),
                    None => Wants::Operator,
                };
                may(&caller, wants).map_err(|denied| denied.to_string())?;
                self.mint_here(caller.actor(), wish).await
            }
            Proof::Operator(asked) => {
                self.is_operators(from, &asked, &record, now).map_err(|error| error.to_string())?;
                self.operator_token(&operator_label(asked.by)).await
            }
        };
        let Minted { id, secret, hash } = minted.map_err(|error| base::chain(&error))?;
        postcard::to_allocvec(&Made { id, secret, hash }).map(Bytes::from).map_err(|error| error.to_string())
    }

    /// Is the wish an operator's, for that door, of this hour, and new?
    fn is_operators(&self, door: BoxId, wish: &AccessWish, record: &Record, now: Timestamp) -> Result<(), MintError> {
        let (Some(far), Some(boxes)) = (&self.far, record.boxes()) else {
            return Err(MintError::Wish("the cloud isn't made of boxes"));
        };
        if !far.tier.operators().contains(&wish.by) {
            return Err(MintError::Wish("the key is none of the cloud's operators'"));
        }
        let word = access_word(boxes.cloud, door, wish.at, wish.nonce);
        if !far.tier.is_vouched(wish.by, &word, &wish.signature) {
            return Err(MintError::Wish("it isn't signed by who it says, for that door"));
        }
        if now.since(wish.at).max(wish.at.since(now)) > CLOCK_SKEW_MAX {
            return Err(MintError::Wish("it is of another hour: are the clocks right?"));
        }
        let mut wishes = self.makers.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        if wishes.contains(&wish.nonce) {
            return Err(MintError::Wish("it was fulfilled already"));
        }
        if wishes.len() == ACCESS_WISHES_REMEMBERED {
            wishes.pop_front();
        }
        wishes.push_back(wish.nonce);
        Ok(())
    }
}

/// What the token of an operator is called, by its key.
fn operator_label(by: BoxId) -> String {
    format!("operator {}", by.long_name())
}

#[cfg(test)]
mod tests;
