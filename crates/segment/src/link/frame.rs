//! The frames that a link is made of, as bytes. No I/O.
//!
//! ```text
//! length  u32  bytes after this field, little-endian as all numbers here
//! kind    u8
//! call    id u64, method u16, milliseconds left u32, body
//! answer  id u64, body
//! refused id u64, code u16, words (UTF-8)
//! busy    id u64                 nothing happened
//! lost    id u64                 it may have happened, and there is no answer
//! ping, pong, welcome            nothing more
//! ```
//!
//! A length is held to its bound before anything is kept for it. What isn't a frame ends the connection: after it,
//! nobody knows where the next one begins.

use base::limits::{LINK_COPIED_BYTES_MAX, LINK_REFUSAL_BYTES_MAX};
use bytes::{Buf as _, Bytes, BytesMut};

/// One frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    Call { id: u64, method: u16, left_ms: u32, body: Bytes },
    Answer { id: u64, body: Bytes },
    Refused { id: u64, code: u16, words: String },
    Busy { id: u64 },
    Lost { id: u64 },
    Ping,
    Pong,
    Welcome,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {bytes} bytes, and {max} is the most")]
    Long { bytes: usize, max: usize },
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    #[error("a frame of kind {kind} with {bytes} bytes")]
    Size { kind: u8, bytes: usize },
    #[error("a refusal whose words are no UTF-8")]
    Words,
}

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const REFUSED: u8 = 3;
const BUSY: u8 = 4;
const LOST: u8 = 5;
const PING: u8 = 6;
const PONG: u8 = 7;
const WELCOME: u8 = 8;

const LENGTH_BYTES: usize = 4;
/// A call has the longest head: kind, id, method, milliseconds.
pub(super) const HEAD_BYTES_MAX: usize = 1 + 8 + 2 + 4;

/// The bytes of a frame before its body.
pub(super) struct Head {
    bytes: [u8; LENGTH_BYTES + HEAD_BYTES_MAX],
    len: usize,
}

impl Head {
    pub(super) fn call(id: u64, method: u16, left_ms: u32, body: usize) -> Self {
        Self::new(CALL).put(&id.to_le_bytes()).put(&method.to_le_bytes()).put(&left_ms.to_le_bytes()).before(body)
    }

    pub(super) fn answer(id: u64, body: usize) -> Self {
        Self::new(ANSWER).put(&id.to_le_bytes()).before(body)
    }

    pub(super) fn refused(id: u64, code: u16, words: usize) -> Self {
        Self::new(REFUSED).put(&id.to_le_bytes()).put(&code.to_le_bytes()).before(words)
    }

    pub(super) fn busy(id: u64) -> Self {
        Self::new(BUSY).put(&id.to_le_bytes()).before(0)
    }

    pub(super) fn lost(id: u64) -> Self {
        Self::new(LOST).put(&id.to_le_bytes()).before(0)
    }

    pub(super) fn ping() -> Self {
        Self::new(PING).before(0)
    }

    pub(super) fn pong() -> Self {
        Self::new(PONG).before(0)
    }

    pub(super) fn welcome() -> Self {
        Self::new(WELCOME).before(0)
    }

    fn new(kind: u8) -> Self {
        let mut bytes = [0; LENGTH_BYTES + HEAD_BYTES_MAX];
        bytes[LENGTH_BYTES] = kind;
        Self { bytes, len: LENGTH_BYTES + 1 }
    }

    fn put(mut self, bytes: &[u8]) -> Self {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
        self
    }

    /// Writes the length of the frame, `body` bytes of which come after this head.
    fn before(mut self, body: usize) -> Self {
        let length = u32::try_from(self.len - LENGTH_BYTES + body).expect("bodies are bounded far below 4 GiB");
        self.bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        self
    }
}

impl std::ops::Deref for Head {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What came and isn't taken yet.
pub(super) struct Inbox {
    bytes: BytesMut,
    frame_bytes_max: usize,
}

impl Inbox {
    /// For frames whose bodies have `body_bytes_max` at the most.
    pub(super) fn new(body_bytes_max: usize) -> Self {
        Self { bytes: BytesMut::new(), frame_bytes_max: HEAD_BYTES_MAX + body_bytes_max.max(LINK_REFUSAL_BYTES_MAX) }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Has a frame begun that isn't whole?
    pub(super) fn is_within_frame(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// The next whole frame.
    pub(super) fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.frame_bytes_max {
            return Err(FrameError::Long { bytes: length, max: self.frame_bytes_max });
        }
        if self.bytes.len() < LENGTH_BYTES + length {
            // A frame longer than what is there gets its place at once, or it would be copied again and again.
            self.bytes.reserve(LENGTH_BYTES + length - self.bytes.len());
            return Ok(None);
        }
        self.bytes.advance(LENGTH_BYTES);
        let frame = if length <= LINK_COPIED_BYTES_MAX {
            // A small body must not hold on to all that came with it.
            let frame = parse(Bytes::copy_from_slice(&self.bytes[..length]));
            self.bytes.advance(length);
            frame
        } else {
            parse(self.bytes.split_to(length).freeze())
        };
        if self.bytes.is_empty() {
            self.bytes.clear();
        }
        frame.map(Some)
    }
}

fn parse(mut frame: Bytes) -> Result<Frame, FrameError> {
    let bytes = frame.len();
    let Some(&kind) = frame.first() else { return Err(FrameError::Size { kind: 0, bytes }) };
    let (least, most) = match kind {
        CALL => (HEAD_BYTES_MAX, usize::MAX),
        ANSWER => (9, usize::MAX),
        REFUSED => (11, 11 + LINK_REFUSAL_BYTES_MAX),
        BUSY | LOST => (9, 9),
        PING | PONG | WELCOME => (1, 1),
        kind => return Err(FrameError::Kind(kind)),
    };
    if !(least..=most).contains(&bytes) {
        return Err(FrameError::Size { kind, bytes });
    }
    frame.advance(1);
    Ok(match kind {
        CALL => {
            Frame::Call { id: frame.get_u64_le(), method: frame.get_u16_le(), left_ms: frame.get_u32_le(), body: frame }
        }
        ANSWER => Frame::Answer { id: frame.get_u64_le(), body: frame },
        REFUSED => Frame::Refused {
            id: frame.get_u64_le(),
            code: frame.get_u16_le(),
            words: String::from_utf8(frame.into()).map_err(|_| FrameError::Words)?,
        },
        BUSY => Frame::Busy { id: frame.get_u64_le() },
        LOST => Frame::Lost { id: frame.get_u64_le() },
        PING => Frame::Ping,
        PONG => Frame::Pong,
        _ => Frame::Welcome,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fuzzing::{fuzz, mutated};

    const BODY_MAX: usize = 8192;

    fn written(frame: &Frame) -> Vec<u8> {
        let (head, body): (Head, &[u8]) = match frame {
            Frame::Call { id, method, left_ms, body } => (Head::call(*id, *method, *left_ms, body.len()), body),
            Frame::Answer { id, body } => (Head::answer(*id, body.len()), body),
            Frame::Refused { id, code, words } => (Head::refused(*id, *code, words.len()), words.as_bytes()),
            Frame::Busy { id } => (Head::busy(*id), &[]),
            Frame::Lost { id } => (Head::lost(*id), &[]),
            Frame::Ping => (Head::ping(), &[]),
            Frame::Pong => (Head::pong(), &[]),
            Frame::Welcome => (Head::welcome(), &[]),
        };
        [&head, body].concat()
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let body = || proptest::collection::vec(any::<u8>(), 0..BODY_MAX).prop_map(Bytes::from);
        prop_oneof![
            (any::<u64>(), any::<u16>(), any::<u32>(), body()).prop_map(|(id, method, left_ms, body)| Frame::Call {
                id,
                method,
                left_ms,
                body
            }),
            (any::<u64>(), body()).prop_map(|(id, body)| Frame::Answer { id, body }),
            (any::<u64>(), any::<u16>(), "[a-z ü]{0,80}").prop_map(|(id, code, words)| Frame::Refused {
                id,
                code,
                words
            }),
            any::<u64>().prop_map(|id| Frame::Busy { id }),
            any::<u64>().prop_map(|id| Frame::Lost { id }),
            Just(Frame::Ping),
            Just(Frame::Pong),
            Just(Frame::Welcome),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in proptest::collection::vec(any_frame(), 1..12),
            cuts in proptest::collection::vec(1..3000_usize, 1..64),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(written).collect();
            let (mut inbox, mut seen, mut rest) = (Inbox::new(BODY_MAX), Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                let (part, after) = rest.split_at(rest.len().min(*cut));
                inbox.push(part);
                rest = after;
                while let Some(frame) = inbox.take().expect("whole frames") {
                    seen.push(frame);
                }
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(!inbox.is_within_frame());
        }
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_kept() {
        let mut inbox = Inbox::new(BODY_MAX);
        inbox.push(&u32::MAX.to_le_bytes());
        assert!(matches!(inbox.take(), Err(FrameError::Long { .. })));
        assert!(inbox.bytes.capacity() < 1 << 20);
        let mut inbox = Inbox::new(BODY_MAX);
        inbox.push(&Head::answer(1, BODY_MAX + HEAD_BYTES_MAX));
        assert!(matches!(inbox.take(), Err(FrameError::Long { .. })));
    }

    #[test]
    fn heads_without_their_fields_are_refused() {
        let of = |bytes: &[u8]| {
            let mut inbox = Inbox::new(BODY_MAX);
            inbox.push(bytes);
            inbox.take()
        };
        assert_eq!(of(&[0, 0, 0, 0]), Err(FrameError::Size { kind: 0, bytes: 0 }));
        assert_eq!(of(&[1, 0, 0, 0, 9]), Err(FrameError::Kind(9)));
        assert_eq!(of(&[2, 0, 0, 0, CALL, 0]), Err(FrameError::Size { kind: CALL, bytes: 2 }));
        assert_eq!(of(&[2, 0, 0, 0, PING, 0]), Err(FrameError::Size { kind: PING, bytes: 2 }));
        assert_eq!(of(&[&Head::refused(1, 2, 1)[..], &[0xff]].concat()), Err(FrameError::Words));
        assert_eq!(of(&[1, 0, 0]), Ok(None));
    }

    #[test]
    fn no_bytes_make_the_inbox_fail_or_grow() {
        let body = Bytes::from(vec![7; 5000]);
        let seeds = [
            Frame::Call { id: 1, method: 2, left_ms: 3, body: body.clone() },
            Frame::Answer { id: 4, body },
            Frame::Refused { id: 5, code: 6, words: "no".to_owned() },
            Frame::Busy { id: 7 },
            Frame::Ping,
            Frame::Welcome,
        ];
        let mut seeds: Vec<Vec<u8>> = seeds.iter().map(written).collect();
        seeds.push(seeds.concat());
        fuzz("link frames", &mutated(seeds, &["\u{1}", "\u{0}\u{0}\u{0}", "\u{10}\u{27}"]), |input| {
            let mut inbox = Inbox::new(BODY_MAX);
            for part in input.chunks(1000) {
                inbox.push(part);
                loop {
                    match inbox.take() {
                        Ok(Some(frame)) => {
                            prop_assert!(written(&frame).len() <= LENGTH_BYTES + HEAD_BYTES_MAX + BODY_MAX);
                        }
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
                prop_assert!(inbox.bytes.len() <= LENGTH_BYTES + HEAD_BYTES_MAX + BODY_MAX + 1000);
            }
            Ok(())
        });
    }
}
