//! What waits to be written to a connection: all of it goes to TLS at once, so that many small frames are one record.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base::limits::{LINK_COPIED_BYTES_MAX, LINK_PIECES_PER_WRITE, LINK_READ_BYTES};
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Frames in the order in which they were pushed. Its owner bounds it: it pushes no more while [`Outbox::bytes`] is
/// beyond the class's bound.
pub(super) struct Outbox {
    /// Whole pieces, before `tail`.
    pieces: VecDeque<Bytes>,
    /// Where small frames are put one after another.
    tail: BytesMut,
    bytes: usize,
    is_flushed: bool,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self { pieces: VecDeque::new(), tail: BytesMut::new(), bytes: 0, is_flushed: true }
    }

    pub(super) fn push(&mut self, head: &[u8], body: Bytes) {
        self.bytes += head.len() + body.len();
        self.tail.extend_from_slice(head);
        if body.len() <= LINK_COPIED_BYTES_MAX {
            self.tail.extend_from_slice(&body);
        } else {
            self.seal();
            self.pieces.push_back(body);
        }
        // One piece never grows without end while a slow reader is waited for.
        if self.tail.len() > LINK_READ_BYTES {
            self.seal();
        }
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Is all of it with the kernel?
    #[cfg(test)]
    pub(super) fn is_flushed(&self) -> bool {
        self.bytes == 0 && self.is_flushed
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(self.tail.split().freeze());
        }
    }

    /// Writes and flushes until nothing waits, or the other side must read first.
    pub(super) fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.bytes > 0 {
            let written = if self.pieces.is_empty() {
                ready!(Pin::new(&mut *io).poll_write(cx, &self.tail))?
            } else {
                let mut slices = [IoSlice::new(&[]); LINK_PIECES_PER_WRITE];
                let last: &[u8] = &self.tail;
                let all = self.pieces.iter().map(|piece| &piece[..]).chain([last]);
                let mut count = 0;
                for (slice, piece) in slices.iter_mut().zip(all) {
                    *slice = IoSlice::new(piece);
                    count += 1;
                }
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_flushed = false;
            self.advance(written);
        }
        if !self.is_flushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while written > 0 {
            let Some(piece) = self.pieces.front_mut() else {
                self.tail.advance(written);
                break;
            };
            let part = written.min(piece.len());
            piece.advance(part);
            written -= part;
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        if self.tail.is_empty() {
            // Keeps its place for the next frames.
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Takes a few bytes at a time.
    struct Narrow {
        taken: Vec<u8>,
        width: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let part = bytes.len().min(self.width);
            self.taken.extend_from_slice(&bytes[..part]);
            Poll::Ready(Ok(part))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_was_pushed_is_written_in_order_however_narrow_the_way() {
        for width in [1, 7, 5000, 1 << 20] {
            let (mut outbox, mut wanted) = (Outbox::new(), Vec::new());
            for (number, size) in (0_u8..).zip([0, 10, LINK_COPIED_BYTES_MAX, LINK_COPIED_BYTES_MAX + 1, 70_000, 3]) {
                let body = vec![number; size];
                outbox.push(&[0xfe, number], body.clone().into());
                wanted.extend([0xfe, number]);
                wanted.extend(body);
            }
            assert_eq!(outbox.bytes(), wanted.len());
            let mut narrow = Narrow { taken: Vec::new(), width };
            poll_fn(|cx| outbox.poll_write(&mut narrow, cx)).await.expect("written");
            assert_eq!(outbox.bytes(), 0);
            assert!(narrow.taken == wanted, "width {width}");
        }
    }
}
