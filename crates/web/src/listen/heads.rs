//! What may not stand in the head of an HTTP/1 request, though the parser would let it pass.
//!
//! hyper takes a lone LF for the end of a line, and believes `Transfer-Encoding` where a `Content-Length` contradicts
//! it. RFC 9112 allows both (2.2, 6.3), and both are how one request is made to look like two to a proxy and a
//! server that differ. So they are refused here, without a parser of our own: the bytes on their way to hyper are looked
//! through, and where such a form is found its last byte is made a NUL, for which hyper itself answers 400 and closes.
//!
//! To know which bytes are a head, no more than one head is let through at a time: what came behind it is held
//! back until hyper has said how long the request's body is. After a body in chunks nobody but hyper knows where
//! the next head begins, so the connection ends with its answer ([`Framing::Open`]).

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LENGTH: &[u8] = b"content-length:";
const CODING: &[u8] = b"transfer-encoding:";
/// The start of a line is kept over a read's end, as far as it can still become one of these.
const START_BYTES: usize = CODING.len();

/// What the bytes that come next are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Head,
    /// So many bytes of a body, then a head.
    Body(u64),
    /// A body in chunks, and no head after it.
    Open,
}

/// The bytes of an HTTP/1 connection, looked through.
pub(super) struct Heads<S> {
    stream: S,
    framing: Rc<Cell<Framing>>,
    line: Line,
    /// What came behind a head.
    held: BytesMut,
}

/// The line of a head that is being read, and what the lines before it were.
#[derive(Debug, Default)]
struct Line {
    start: [u8; START_BYTES],
    /// How long it is so far. `start` has its first bytes.
    length: usize,
    last: u8,
    /// A line that isn't empty has been read.
    begun: bool,
    lengths: usize,
    codings: usize,
}

impl Line {
    fn take(&mut self, bytes: &[u8]) {
        if let Some(room) = self.start.get_mut(self.length..) {
            let count = room.len().min(bytes.len());
            room[..count].copy_from_slice(&bytes[..count]);
        }
        self.length += bytes.len();
        self.last = bytes.last().copied().unwrap_or(self.last);
    }

    fn starts_with(&self, name: &[u8]) -> bool {
        self.length >= name.len() && self.start[..name.len()].eq_ignore_ascii_case(name)
    }

    /// The line has come to its LF. `Some` says that it was the last one; a refused one stays a part of the head.
    fn end(&mut self, feed: &mut u8) -> bool {
        if self.last != b'\r' {
            *feed = 0;
        } else if self.length == 1 {
            // Empty lines before a request are no end of one.
            if self.begun {
                *self = Self::default();
                return true;
            }
        } else {
            self.begun = true;
            self.lengths += usize::from(self.starts_with(LENGTH));
            self.codings += usize::from(self.starts_with(CODING));
            if self.lengths + self.codings > 1 {
                *feed = 0;
            }
        }
        (self.length, self.last) = (0, 0);
        false
    }

    /// Looks through what came of a head. Gives where it ends, if it does.
    fn look(&mut self, bytes: &mut [u8]) -> Option<usize> {
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &bytes[start..]) {
            let feed = start + length;
            self.take(&bytes[start..feed]);
            if self.end(&mut bytes[feed]) {
                return Some(feed + 1);
            }
            start = feed + 1;
        }
        self.take(&bytes[start..]);
        None
    }
}

impl<S> Heads<S> {
    /// `framing` is set by whoever sees the parsed requests.
    pub(super) fn new(stream: S, framing: Rc<Cell<Framing>>) -> Self {
        Self { stream, framing, line: Line::default(), held: BytesMut::new() }
    }
}

/// How many of these bytes may pass now.
fn admit(framing: &Cell<Framing>, line: &mut Line, bytes: &mut [u8]) -> usize {
    match framing.get() {
        Framing::Open => bytes.len(),
        Framing::Head => line.look(bytes).unwrap_or(bytes.len()),
        Framing::Body(left) => {
            let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let left = left - count as u64;
            framing.set(if left == 0 { Framing::Head } else { Framing::Body(left) });
            count
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heads<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, framing, line, held } = &mut *self;
        if !held.is_empty() {
            let count = held.len().min(buf.remaining());
            let count = admit(framing, line, &mut held[..count]);
            buf.put_slice(&held[..count]);
            held.advance(count);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(stream).poll_read(cx, buf);
        let bytes = &mut buf.filled_mut()[before..];
        let count = admit(framing, line, bytes);
        if count < bytes.len() {
            held.extend_from_slice(&bytes[count..]);
            buf.set_filled(before + count);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heads<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What passes of these reads while nothing but heads comes, and where the first head ends.
    fn passed(reads: &[&str]) -> (String, Option<usize>) {
        let (mut line, mut text, mut end) = (Line::default(), String::new(), None);
        for read in reads {
            let mut bytes = read.as_bytes().to_vec();
            end = end.or(line.look(&mut bytes).map(|end| text.len() + end));
            text.push_str(std::str::from_utf8(&bytes).expect("it was text"));
        }
        (text, end)
    }

    const PLAIN: &str = "\r\nGET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";

    #[test]
    fn what_is_in_order_passes_however_it_is_cut() {
        for cut in 0..=PLAIN.len() {
            let (left, right) = PLAIN.split_at(cut);
            assert_eq!(passed(&[left, right]), (PLAIN.to_owned(), Some(PLAIN.len())), "cut at {cut}");
        }
        let bytes: Vec<String> = PLAIN.chars().map(String::from).collect();
        let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
        assert_eq!(passed(&bytes), (PLAIN.to_owned(), Some(PLAIN.len())));
    }

    #[test]
    fn what_is_refused_is_refused_however_it_is_cut() {
        for refused in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-ENCODING: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding:chunked\r\nX: y\r\ncontent-length:3\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            for cut in 0..=refused.len() {
                let (left, right) = refused.split_at(cut);
                let (text, _) = passed(&[left, right]);
                assert!(text.contains('\0'), "{refused:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_lies_behind_a_head_waits_for_the_body_s_length() {
        let framing = Cell::new(Framing::Head);
        let mut line = Line::default();
        let mut bytes = b"POST / HTTP/1.1\r\n\r\na\nbGET / HTTP/1.1\n\r\n".to_vec();
        assert_eq!(admit(&framing, &mut line, &mut bytes), 19);
        framing.set(Framing::Body(3));
        assert_eq!(admit(&framing, &mut line, &mut bytes[19..]), 3);
        assert_eq!(framing.get(), Framing::Head);
        admit(&framing, &mut line, &mut bytes[22..]);
        assert_eq!(bytes, b"POST / HTTP/1.1\r\n\r\na\nbGET / HTTP/1.1\0\r\n");
    }
}
