//! A guest's stdout and stderr, cut into lines for the app's log.
//!
//! Nothing is buffered but the line that isn't finished, and of that `LOG_LINE_BYTES_MAX` bytes at the most.
//! What a guest writes is text if it is UTF-8; other bytes become `�`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use base::limits::LOG_LINE_BYTES_MAX;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::cell::{Stream, Voice};

/// What the end of a cut line says.
const CUT: &str = " … (cut)";

/// Splits bytes into lines.
#[derive(Default)]
struct Lines {
    /// The line so far, never longer than a line may be.
    partial: Vec<u8>,
    /// Bytes of this line were dropped.
    cut: bool,
}

impl Lines {
    fn write(&mut self, mut bytes: &[u8], mut line: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.extend(&bytes[..end]);
            self.finish(&mut line);
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes);
    }

    fn extend(&mut self, bytes: &[u8]) {
        let room = LOG_LINE_BYTES_MAX - CUT.len() - self.partial.len();
        self.cut |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn finish(&mut self, line: &mut impl FnMut(&str)) {
        if self.partial.last() == Some(&b'\r') && !self.cut {
            self.partial.pop();
        }
        let text = String::from_utf8_lossy(&self.partial);
        if self.cut {
            // The cut may have split a character, and `�` is longer than what it stands for.
            let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
            let end = text.floor_char_boundary(LOG_LINE_BYTES_MAX - CUT.len());
            line(&format!("{}{CUT}", &text[..end]));
        } else {
            line(&text[..text.floor_char_boundary(LOG_LINE_BYTES_MAX)]);
        }
        self.partial.clear();
        self.cut = false;
    }

    /// The last line, if it has no line end.
    fn end(&mut self, mut line: impl FnMut(&str)) {
        if !self.partial.is_empty() || self.cut {
            self.finish(&mut line);
        }
    }
}

/// One stream of one instance. Handles that a guest asks for share the unfinished line.
#[derive(Clone)]
pub(crate) struct Stdio(Arc<Inner>);

struct Inner {
    voice: Arc<Voice>,
    stream: Stream,
    lines: Mutex<Lines>,
}

impl Stdio {
    pub(crate) fn new(voice: Arc<Voice>, stream: Stream) -> Self {
        Self(Arc::new(Inner { voice, stream, lines: Mutex::default() }))
    }

    /// The request is over: what it left unfinished is its last line, not the next request's first.
    pub(crate) fn end(&self) {
        let Inner { voice, stream, lines } = &*self.0;
        lines.lock().unwrap_or_else(PoisonError::into_inner).end(|line| voice.line(*stream, line));
    }

    fn put(&self, bytes: &[u8]) {
        let Inner { voice, stream, lines } = &*self.0;
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.write(bytes, |line| voice.line(*stream, line));
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Self { voice, stream, lines } = self;
        let lines = lines.get_mut().unwrap_or_else(PoisonError::into_inner);
        lines.end(|line| voice.line(*stream, line));
    }
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.put(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl OutputStream for Stdio {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.put(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}

impl Pollable for Stdio {
    fn ready<'a, 'b>(&'a mut self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(writes: &[&[u8]]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for bytes in writes {
            lines.write(bytes, |line| out.push(line.to_owned()));
        }
        lines.end(|line| out.push(line.to_owned()));
        out
    }

    #[test]
    fn lines_are_put_together_across_writes() {
        assert_eq!(split(&[b"one\ntw", b"o\r\n\nthree"]), ["one", "two", "", "three"]);
        assert_eq!(split(&[b"one\n"]), ["one"]);
        assert!(split(&[b""]).is_empty());
    }

    #[test]
    fn a_long_line_is_cut_and_says_so() {
        let long = "é".repeat(LOG_LINE_BYTES_MAX);
        let lines = split(&[long.as_bytes(), b"\nnext"]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with(CUT) && lines[0].len() <= LOG_LINE_BYTES_MAX, "{}", lines[0].len());
        assert!(lines[0].starts_with("éé") && !lines[0].contains('\u{fffd}'));
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn bytes_that_are_no_text_stay_within_the_bound() {
        let lines = split(&[&vec![0xff; LOG_LINE_BYTES_MAX - CUT.len()]]);
        assert!(lines[0].len() <= LOG_LINE_BYTES_MAX);
    }

    proptest::proptest! {
        #[test]
        fn no_line_is_longer_than_the_bound(
            writes in proptest::collection::vec(
                proptest::collection::vec(proptest::prelude::any::<u8>(), 0..LOG_LINE_BYTES_MAX), 0..5),
        ) {
            let writes: Vec<&[u8]> = writes.iter().map(Vec::as_slice).collect();
            for line in split(&writes) {
                assert!(line.len() <= LOG_LINE_BYTES_MAX && !line.contains('\n'));
            }
        }
    }
}
