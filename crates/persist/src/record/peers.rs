//! The other boxes of the cloud, as the record sees them: somebody to whom bytes can be sent, and who may be believed.
//!
//! What is sent is ours ([`super::wire`]); how it travels, and that it comes from whom it says, is the links' work.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use base::BoxId;
use bytes::Bytes;

/// Why a call brought no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It wasn't sent: there is no link to the box. It knows nothing of the call.
    #[error("the box can't be reached")]
    Unreachable,
    /// No answer came in time. The box may have done what it was asked, or do it yet.
    #[error("the box didn't answer in time")]
    TimedOut,
}

/// What another box may do to the record of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trust {
    /// Nothing: it isn't of the cloud, or was evicted.
    None,
    /// Read it, and propose: any firm box.
    Follower,
    /// Vote, lead and be believed: a persistence box.
    Voter,
}

/// How much a call carries, there or back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Some KiB: heartbeats, votes, a few commands. It must never wait behind anything heavy.
    Light,
    /// Up to [`RECORD_MESSAGE_BYTES_MAX`](base::limits::RECORD_MESSAGE_BYTES_MAX).
    Heavy,
}

/// The answer to a call, when it comes.
pub type Answer = Pin<Box<dyn Future<Output = Result<Bytes, PeerError>> + Send>>;

/// The links to the other boxes.
pub trait Peers: Send + Sync + 'static {
    /// Carries `message` to [`Keeper::answer`](super::Keeper::answer) of another box and brings its answer back. After
    /// `within` it gives up. Polled on the record's own thread: the future must not block, nor need a runtime's driver
    /// other than tokio's clock.
    fn call(&self, to: BoxId, message: Bytes, weight: Weight, within: Duration) -> Answer;

    /// What this box is in the cloud, by what is known here and now. Boxes that vote are believed whatever this says,
    /// unless it says [`Trust::None`]: an evicted box is nobody, even before the voters were changed.
    fn trust(&self, who: BoxId) -> Trust;
}

/// What a lone box has for peers.
pub(super) struct Nobody;

impl Peers for Nobody {
    fn call(&self, _: BoxId, _: Bytes, _: Weight, _: Duration) -> Answer {
        Box::pin(std::future::ready(Err(PeerError::Unreachable)))
    }

    fn trust(&self, _: BoxId) -> Trust {
        Trust::None
    }
}
