//! A request's body on its way to an app: no longer than one may be, and no slower.
//!
//! Only the time counts in which somebody waits for the visitor. An app that takes its time over what came, or a stream
//! whose window is full, makes nobody slow.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use base::limits::{REQUEST_BODY_BYTES_MAX, TRANSFER_BYTES_PER_SECOND_MIN, TRANSFER_GRACE};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Duration, Instant, Sleep};

/// Bytes that must come in each grace that is waited for them.
const BYTES_PER_GRACE: u64 = TRANSFER_BYTES_PER_SECOND_MIN * TRANSFER_GRACE.as_secs();

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Why the rest of a body isn't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the body came too slowly: fewer than {BYTES_PER_GRACE} bytes in {TRANSFER_GRACE:?}")]
    Slow,
    #[error("the body has more than {REQUEST_BODY_BYTES_MAX} bytes")]
    Long,
    /// Its chunks are none, or the visitor is gone.
    #[error("the body broke off")]
    Broken,
}

/// Whether a body was cut, for those who no longer hold it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate(Arc<AtomicU8>);

impl Fate {
    pub(crate) fn cut(&self) -> Option<Cut> {
        [Cut::Slow, Cut::Long, Cut::Broken].into_iter().find(|cut| self.0.load(Ordering::Relaxed) == *cut as u8 + 1)
    }

    fn seal(&self, cut: Cut) -> Cut {
        self.0.store(cut as u8 + 1, Ordering::Relaxed);
        cut
    }
}

pub(crate) struct Upload<B> {
    body: B,
    fate: Fate,
    /// What may still come.
    left: u64,
    pace: Pace,
    /// Runs out when the grace does. Made when it is waited for the first time: most bodies come with their head.
    grace: Option<Pin<Box<Sleep>>>,
}

impl<B> Upload<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, fate: Fate::default(), left: REQUEST_BODY_BYTES_MAX, pace: Pace::default(), grace: None }
    }

    pub(crate) fn fate(&self) -> Fate {
        self.fate.clone()
    }
}

impl<B> Body for Upload<B>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Unpin,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { body, fate, left, pace, grace } = self.get_mut();
        let Poll::Ready(next) = Pin::new(body).poll_frame(cx) else {
            let end = pace.wait(Instant::now());
            let grace = grace.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
            if grace.deadline() != end {
                grace.as_mut().reset(end);
            }
            return grace.as_mut().poll(cx).map(|()| Some(Err(fate.seal(Cut::Slow).into())));
        };
        let bytes = match &next {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |bytes| bytes.len() as u64),
            Some(Err(_)) => {
                fate.seal(Cut::Broken);
                0
            }
            None => 0,
        };
        pace.count(bytes);
        let Some(less) = left.checked_sub(bytes) else { return Poll::Ready(Some(Err(fate.seal(Cut::Long).into()))) };
        *left = less;
        Poll::Ready(next.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How fast it comes while it is waited for.
#[derive(Debug, Default)]
struct Pace {
    /// What came since the last grace began, and how long it was waited for.
    came: u64,
    waited: Duration,
    waits: Option<Instant>,
}

impl Pace {
    /// Something came.
    fn count(&mut self, bytes: u64) {
        self.came += bytes;
        if self.waits.is_some() {
            self.waited_until(Instant::now());
        }
    }

    fn waited_until(&mut self, now: Instant) {
        if let Some(since) = self.waits.take() {
            self.waited += now.saturating_duration_since(since);
        }
    }

    /// Nothing came yet. Gives when the wait ends.
    fn wait(&mut self, now: Instant) -> Instant {
        if self.came >= BYTES_PER_GRACE {
            // A fast start earns no right to be slow later on: what came is counted for one grace.
            *self = Self::default();
        }
        let since = *self.waits.get_or_insert(now);
        since + TRANSFER_GRACE.saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for pieces of `bytes`, each for `wait`, and says after how many it was too slow.
    fn pieces(bytes: u64, wait: Duration) -> Option<usize> {
        let (mut pace, mut now) = (Pace::default(), Instant::now());
        for piece in 0..1_000 {
            if pace.wait(now) < now + wait {
                return Some(piece);
            }
            now += wait;
            pace.waited_until(now);
            pace.count(bytes);
            // The app thinks about it for an hour: that is nobody's slowness.
            now += Duration::from_hours(1);
        }
        None
    }

    #[test]
    fn a_least_rate_is_asked_over_each_grace() {
        let second = Duration::from_secs(1);
        assert_eq!(pieces(500, second), None);
        assert_eq!(pieces(499, second), Some(20));
        assert_eq!(pieces(1, second), Some(20));
        assert_eq!(pieces(10_000, TRANSFER_GRACE), None);
        assert_eq!(pieces(9_999, TRANSFER_GRACE), Some(1));
        assert_eq!(pieces(1_000_000, TRANSFER_GRACE + second), Some(0));
    }

    #[test]
    fn what_came_fast_earns_no_right_to_be_slow() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.count(1 << 30);
        assert_eq!(pace.wait(now), now + TRANSFER_GRACE);
        pace.waited_until(now + TRANSFER_GRACE);
        pace.count(1);
        assert_eq!(pace.wait(now + TRANSFER_GRACE), now + TRANSFER_GRACE);
    }

    #[tokio::test]
    async fn a_body_may_be_so_long_and_no_longer() {
        use http_body_util::BodyExt as _;
        let whole = Bytes::from(vec![0; 1 << 20]);
        for (more, wanted) in [(0, None), (1, Some(Cut::Long))] {
            let pieces = usize::try_from(REQUEST_BODY_BYTES_MAX >> 20).expect("a hundred");
            let pieces = std::iter::repeat_n(whole.clone(), pieces).chain([whole.slice(..more)]);
            let pieces = pieces.map(|bytes| Ok::<_, std::io::Error>(Frame::data(bytes)));
            let mut upload = Upload::new(http_body_util::StreamBody::new(futures_util::stream::iter(pieces)));
            let fate = upload.fate();
            while let Some(Ok(_)) = upload.frame().await {}
            assert_eq!(fate.cut(), wanted);
        }
    }
}
