//! One call, from who asks to the connection that carries it, and what may come of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use base::BoxId;
use base::limits::LINK_REFUSAL_BYTES_MAX;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::dial::DialError;

/// What a handler says instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words} (code {code})")]
pub struct Refused {
    /// For the caller's code; its meaning is the method's.
    pub code: u16,
    /// For people; cut to [`LINK_REFUSAL_BYTES_MAX`].
    pub words: String,
}

impl Refused {
    pub fn new(code: u16, words: impl Into<String>) -> Self {
        let mut words = words.into();
        words.truncate(words.floor_char_boundary(LINK_REFUSAL_BYTES_MAX));
        Self { code, words }
    }
}

/// What came of a call in place of an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    #[error("the box {to} refused")]
    Refused {
        to: BoxId,
        #[source]
        refused: Refused,
    },
    /// Nothing happened: too much waits, here or there.
    #[error("the link to the box {to} has too much to do")]
    Busy { to: BoxId },
    /// Nothing happened: the call was never sent.
    #[error("the box {to} is not reached")]
    Unreachable {
        to: BoxId,
        #[source]
        why: Unreachable,
    },
    /// The call was sent, and may have been carried out.
    #[error("whether the box {to} did it is not known")]
    Unknown {
        to: BoxId,
        #[source]
        why: Unknown,
    },
    /// Nothing happened: the caller's own fault.
    #[error("a call of {bytes} bytes to the box {to}, and its class carries {max}")]
    TooLong { to: BoxId, bytes: usize, max: usize },
}

/// Why a call was never sent.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unreachable {
    #[error("no connection to it could be made")]
    Dial(#[source] Arc<DialError>),
    #[error("it could not be dialled a moment ago, and is dialled again soon")]
    Lately(#[source] Arc<DialError>),
    #[error("the connection was not there in time")]
    Deadline,
    #[error("the record admits it no more")]
    NotAdmitted,
    #[error("this box's links are closed, or were ended to that box")]
    Closed,
}

/// Why nobody knows what came of a call.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unknown {
    #[error("no answer came in time")]
    Deadline,
    #[error("the connection ended before the answer: {0}")]
    Broken(Arc<str>),
    #[error("its handler ended without an answer that could be sent")]
    Lost,
}

/// Whose move a call is: it can be taken back until a connection has taken it.
#[derive(Clone)]
pub(super) struct Held(Arc<AtomicU8>);

const WAITING: u8 = 0;
const SENT: u8 = 1;
const TAKEN_BACK: u8 = 2;

impl Held {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU8::new(WAITING)))
    }

    /// The connection's move. True if the caller still wants it.
    pub(super) fn send(&self) -> bool {
        self.0.compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The caller's move. True if nothing was sent and nothing will be.
    fn take_back(&self) -> bool {
        self.0.compare_exchange(WAITING, TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// A call that waits for its connection.
pub(super) struct Ask {
    pub(super) method: u16,
    pub(super) body: Bytes,
    pub(super) deadline: Instant,
    pub(super) held: Held,
    pub(super) reply: oneshot::Sender<Reply>,
}

impl Ask {
    pub(super) fn fail(self, why: Unreachable) {
        // Nobody may be waiting any more.
        let _ = self.reply.send(Reply::Unreachable(why));
    }
}

/// What a connection tells the caller.
pub(super) enum Reply {
    Answer(Bytes),
    Refused(Refused),
    Busy,
    Unreachable(Unreachable),
    Unknown(Unknown),
}

/// Waits until the deadline for what comes of a call.
pub(super) async fn wait(
    to: BoxId,
    deadline: Instant,
    held: &Held,
    answer: oneshot::Receiver<Reply>,
) -> Result<Bytes, CallError> {
    let unreachable = |why| CallError::Unreachable { to, why };
    let unknown = |why| CallError::Unknown { to, why };
    match timeout_at(deadline, answer).await {
        Ok(Ok(Reply::Answer(body))) => Ok(body),
        Ok(Ok(Reply::Refused(refused))) => Err(CallError::Refused { to, refused }),
        Ok(Ok(Reply::Busy)) => Err(CallError::Busy { to }),
        Ok(Ok(Reply::Unreachable(why))) => Err(unreachable(why)),
        Ok(Ok(Reply::Unknown(why))) => Err(unknown(why)),
        Err(_) if held.take_back() => Err(unreachable(Unreachable::Deadline)),
        Err(_) => Err(unknown(Unknown::Deadline)),
        // The line's task is gone with what it held.
        Ok(Err(_)) if held.take_back() => Err(unreachable(Unreachable::Closed)),
        Ok(Err(_)) => Err(unknown(Unknown::Broken("this box ended it".into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_sent_or_taken_back_and_never_both() {
        let held = Held::new();
        assert!(held.send() && !held.take_back() && !held.send());
        let held = Held::new();
        assert!(held.take_back() && !held.send());
    }

    #[test]
    fn long_words_are_cut_between_letters() {
        let refused = Refused::new(1, "ü".repeat(LINK_REFUSAL_BYTES_MAX));
        assert_eq!(refused.words.len(), LINK_REFUSAL_BYTES_MAX);
        let refused = Refused::new(1, format!("a{}", "ü".repeat(LINK_REFUSAL_BYTES_MAX)));
        assert_eq!(refused.words.len(), LINK_REFUSAL_BYTES_MAX - 1);
    }
}
