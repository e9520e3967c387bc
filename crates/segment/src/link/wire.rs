//! One connection's bytes: TLS below, frames above, and the signs of life between.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::limits::{LINK_READ_BYTES, LINK_UNSENT_BYTES_MAX};
use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncBufRead as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsStream;

use super::Pace;
use super::frame::{Frame, FrameError, Head, Inbox};
use super::outbox::Outbox;

/// A socket that TLS reads from in large pieces: it asks for 4 KiB at a time by itself.
pub(super) type Socket = BufReader<TcpStream>;

/// Why a connection ended.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the other side closed it")]
    Closed,
    #[error("it can't be read or written")]
    Io(#[source] Arc<io::Error>),
    #[error("the other side sent no frame")]
    Frame(#[from] FrameError),
    #[error("the other side sent a frame that was not its turn")]
    Turn,
    #[error("nothing was heard of the other side for {0:?}")]
    Silent(Duration),
    #[error("a frame of the other side didn't end")]
    Stuck,
    #[error("the other side is believed no more: {0}")]
    Distrusted(String),
    #[error("the other side's certificate ran out, and no other connection could be made")]
    Expired,
    #[error("this box ended it")]
    Ended,
}

pub(super) struct Wire {
    stream: TlsStream<Socket>,
    inbox: Inbox,
    outbox: Outbox,
    /// When something was last read.
    pub(super) read_at: Instant,
    /// When something was last written.
    pub(super) said_at: Instant,
    /// Since when a frame is awaited that has begun.
    frame_began: Option<Instant>,
}

impl Wire {
    pub(super) fn new(stream: TlsStream<Socket>, body_bytes_max: usize) -> Self {
        let now = Instant::now();
        Self {
            stream,
            inbox: Inbox::new(body_bytes_max),
            outbox: Outbox::new(),
            read_at: now,
            said_at: now,
            frame_began: None,
        }
    }

    /// The certificate that the other side showed.
    pub(super) fn certificate(&self) -> Option<Vec<u8>> {
        self.stream.get_ref().1.peer_certificates()?.first().map(|der| der.to_vec())
    }

    pub(super) fn protocol(&self) -> Option<&[u8]> {
        self.stream.get_ref().1.alpn_protocol()
    }

    pub(super) fn push(&mut self, head: &Head, body: Bytes) {
        self.outbox.push(head, body);
    }

    /// Bytes that are no frame, as a hostile other side sends them.
    #[cfg(test)]
    pub(super) fn push_raw(&mut self, bytes: Bytes) {
        self.outbox.push(&[], bytes);
    }

    #[cfg(test)]
    pub(super) fn is_flushed(&self) -> bool {
        self.outbox.is_flushed()
    }

    /// Bytes that wait to be written.
    pub(super) fn bytes_waiting(&self) -> usize {
        self.outbox.bytes()
    }

    /// The next whole frame of what was read.
    pub(super) fn take(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = self.inbox.take()?;
        self.frame_began = match frame {
            None if self.inbox.is_within_frame() => self.frame_began.or(Some(self.read_at)),
            _ => None,
        };
        Ok(frame)
    }

    /// Reads what is there, once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let broken = |error| Broken::Io(Arc::new(error));
        let bytes = ready!(Pin::new(&mut self.stream).poll_fill_buf(cx)).map_err(broken)?;
        if bytes.is_empty() {
            return Poll::Ready(Err(Broken::Closed));
        }
        self.inbox.push(bytes);
        let count = bytes.len();
        Pin::new(&mut self.stream).consume(count);
        self.read_at = Instant::now();
        Poll::Ready(Ok(()))
    }

    /// Writes what waits, as far as the other side reads.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), Broken> {
        let before = self.outbox.bytes();
        let done = self.outbox.poll_write(&mut self.stream, cx);
        if self.outbox.bytes() < before {
            self.said_at = Instant::now();
        }
        match done {
            Poll::Ready(Err(error)) => Err(Broken::Io(Arc::new(error))),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    /// Is the other side there, as far as one can tell? `silence_max` is what it may be quiet for; while it takes what
    /// waits for it, it is busy with that. What the kernel took says nothing: it takes for the dead as well.
    pub(super) fn check_life(&self, pace: &Pace, silence_max: Duration, now: Instant) -> Result<(), Broken> {
        let is_taking = self.outbox.bytes() > 0 && now.duration_since(self.said_at) < silence_max;
        if now.duration_since(self.read_at) >= silence_max && !is_taking {
            return Err(Broken::Silent(silence_max));
        }
        match self.frame_began {
            Some(began) if now.duration_since(began) >= pace.frame_max => Err(Broken::Stuck),
            _ => Ok(()),
        }
    }
}

/// Small frames leave at once, and the kernel gives up on a dead other side as soon as we do (RFC 5482 for what was sent,
/// keepalive for silence).
pub(super) fn prepare(socket: &TcpStream, pace: &Pace) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(pace.silence_max))?;
    socket.set_tcp_notsent_lowat(LINK_UNSENT_BYTES_MAX)?;
    let second = Duration::from_secs(1);
    let alive = TcpKeepalive::new().with_time(pace.ping_after.max(second)).with_interval(second).with_retries(3);
    socket.set_tcp_keepalive(&alive)
}

/// A socket as TLS takes it.
pub(super) fn buffered(socket: TcpStream) -> Socket {
    BufReader::with_capacity(LINK_READ_BYTES, socket)
}
