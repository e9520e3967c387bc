//! The socket of a connection, which tells the connection's pulse what goes over it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use base::limits::{LINGER_BYTES_MAX, LINGER_TIME_MAX};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

use super::pulse::Pulse;

/// What has at the most so many bytes is copied together before it is written: to have the kernel gather it takes longer.
const COPIED_TOGETHER_BYTES_MAX: usize = 1024;

/// Lies below TLS: what a visitor sends to keep a session alive is seen for what it is, and what a full session
/// can't write too.
pub(super) struct Wire {
    stream: TcpStream,
    pulse: Rc<Pulse>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, pulse: &Rc<Pulse>) -> Self {
        Self { stream, pulse: Rc::clone(pulse) }
    }

    /// Closes so that the last answer arrives: whoever still sends when the socket is gone is sent a reset, which may
    /// overtake the answer. What comes is taken off the wire for a moment, and thrown away.
    pub(super) async fn close(mut self) {
        let read = async {
            self.stream.shutdown().await?;
            let (mut left, mut unwanted) = (LINGER_BYTES_MAX, [0; 4096]);
            while left > 0 && !self.pulse.has_ended() {
                let read = self.stream.read(&mut unwanted).await?;
                self.pulse.came(read);
                left = left.saturating_sub(read);
            }
            io::Result::Ok(())
        };
        // Late or broken, it is closed all the same.
        let _ = tokio::time::timeout(LINGER_TIME_MAX, read).await;
    }

    /// Closes at once. What the visitor didn't take isn't kept for it by the kernel either.
    pub(super) fn cut(self) {
        if let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)) {
            tracing::debug!("a connection is gone already: {error}");
        }
    }
}

/// None where they are too long.
fn copied_together<'a>(bufs: &[IoSlice<'_>], room: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut length = 0;
    for buf in bufs {
        let end = length + buf.len();
        room.get_mut(length..end)?.copy_from_slice(buf);
        length = end;
    }
    Some(&room[..length])
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() && room > 0 {
            self.pulse.came(buf.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.pulse.went(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut together = [0; COPIED_TOGETHER_BYTES_MAX];
        let stream = Pin::new(&mut self.stream);
        let polled = match copied_together(bufs, &mut together) {
            Some(bytes) => stream.poll_write(cx, bytes),
            None => stream.poll_write_vectored(cx, bufs),
        };
        self.pulse.went(&polled);
        polled
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

    #[test]
    fn what_is_short_is_copied_together() {
        let mut room = [0; 8];
        let mut copied = |bufs: &[&[u8]]| {
            let bufs: Vec<_> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
            copied_together(&bufs, &mut room).map(<[u8]>::to_vec)
        };
        assert_eq!(copied(&[b"head", b"", b"body"]).as_deref(), Some(&b"headbody"[..]));
        assert_eq!(copied(&[b"a"]).as_deref(), Some(&b"a"[..]));
        assert_eq!(copied(&[]).as_deref(), Some(&b""[..]));
        assert_eq!(copied(&[b"head", b"body", b"!"]), None);
    }
}
