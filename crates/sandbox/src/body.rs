//! The body of a response: whole, or while its instance is still running.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_LENGTH;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::watch::Report;

/// What a guest has written, all of it.
pub(crate) struct Whole(VecDeque<Frame<Bytes>>);

impl Whole {
    pub(crate) fn new(frames: VecDeque<Frame<Bytes>>) -> Self {
        Self(frames)
    }
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        // With trailers it has to be sent in pieces, or they have no place.
        if self.0.iter().any(Frame::is_trailers) {
            return SizeHint::default();
        }
        SizeHint::with_exact(self.0.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum())
    }
}

/// What a guest writes, until it ends, breaks, or its reader goes away.
///
/// - It ends as the guest ended it: the instance may go on, within its time, to do what it does after answering.
/// - The instance faults: the body breaks off with an error, so that the connection is cut rather than ended.
/// - Dropped before its end, the visitor has gone: the instance is stopped.
pub(crate) struct Streaming {
    /// What it wrote before it first waited.
    first: VecDeque<Frame<Bytes>>,
    inner: WasiBody,
    report: Arc<Report>,
    /// Bytes that `content-length` promised and that haven't come yet. At zero the reader may stop reading.
    missing: Option<u64>,
    /// Nothing more is wanted of the instance.
    ended: bool,
    /// Dropped when the body is done with, for an instance that must stay until then.
    gone: Option<oneshot::Sender<()>>,
    guest: JoinHandle<()>,
}

impl Streaming {
    pub(crate) fn new(
        first: VecDeque<Frame<Bytes>>,
        inner: WasiBody,
        head: &http::response::Parts,
        head_only: bool,
        report: Arc<Report>,
        gone: oneshot::Sender<()>,
        guest: JoinHandle<()>,
    ) -> Self {
        let length = head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let bodiless = head_only || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let missing = if bodiless { Some(0) } else { length };
        Self { first, inner, report, missing, ended: false, gone: Some(gone), guest }
    }

    fn end(&mut self) {
        self.ended = true;
        self.gone = None;
    }
}

impl http_body::Body for Streaming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        // Before looking at anything, so that no fault goes unnoticed in between.
        self.report.register(cx);
        let next = match self.first.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.inner).poll_frame(cx),
        };
        let frame = match next {
            Poll::Pending if !self.report.has_fault() => return Poll::Pending,
            Poll::Pending => None,
            Poll::Ready(frame) => frame,
        };
        match frame {
            Some(Ok(frame)) => {
                self.report.gave(&frame);
                if let (Some(missing), Some(data)) = (self.missing, frame.data_ref()) {
                    self.missing = Some(missing.saturating_sub(data.len() as u64));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if !self.report.has_fault() {
                    self.report.line(&format!("the response broke off: {error}"));
                }
                self.end();
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.end();
                // An instance that is stopped drops its end of the body, which looks like the body's own end.
                let broken = self.report.has_fault();
                let error = || Err(Error::InternalError(Some("the response broke off".to_owned())));
                Poll::Ready(broken.then(error))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || (self.first.is_empty() && self.inner.is_end_stream() && !self.report.has_fault())
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_empty() { self.inner.size_hint() } else { SizeHint::default() }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        let read = self.ended || self.missing == Some(0) || (self.first.is_empty() && self.inner.is_end_stream());
        if !read {
            self.guest.abort();
        }
    }
}
