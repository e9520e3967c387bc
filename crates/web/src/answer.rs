//! Answers: the body type of this crate, and the pages that the box itself speaks.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::observe::Watched;

/// Why a body broke off half-way.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer.
pub(crate) enum Body {
    /// Whole and in memory. `None` once sent.
    Full(Option<Bytes>),
    /// A file's bytes as they are read; so many are left.
    Counted { bytes: Pin<Box<dyn Stream<Item = Result<Bytes, BodyError>>>>, left: u64 },
    /// As long as it lasts.
    Lines(Pin<Box<dyn Stream<Item = Bytes>>>),
    /// What a component says.
    Guest(sandbox::Body),
    /// One of these, followed to its end.
    Watched(Box<Watched>),
}

impl Body {
    pub(crate) fn empty() -> Self {
        Self::Full(None)
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Counted { bytes, left } => bytes.as_mut().poll_next(cx).map(|next| {
                next.map(|bytes| {
                    let bytes = bytes?;
                    *left = left.saturating_sub(bytes.len() as u64);
                    Ok(Frame::data(bytes))
                })
            }),
            Self::Lines(lines) => lines.as_mut().poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes)))),
            Self::Guest(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Watched(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_none(),
            Self::Counted { left, .. } => *left == 0,
            Self::Lines(_) => false,
            Self::Guest(body) => body.is_end_stream(),
            Self::Watched(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Counted { left, .. } => SizeHint::with_exact(*left),
            Self::Lines(_) => SizeHint::default(),
            Self::Guest(body) => body.size_hint(),
            Self::Watched(body) => body.size_hint(),
        }
    }
}

/// What the box says when there is no app to say it.
pub(crate) struct Page<'a> {
    pub status: StatusCode,
    /// What happened.
    pub said: &'a str,
    /// What the visitor can do about it.
    pub help: &'a str,
}

impl Page<'_> {
    /// A small page that needs nothing from elsewhere. `request` finds the log line.
    pub(crate) fn answer(&self, request: &str) -> Response<Body> {
        let Self { status, said, help } = self;
        let (said, help) = (escape(said), escape(help));
        let html = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
             <title>{status}</title><style>body{{font:16px/1.5 system-ui;max-width:36em;margin:15vh auto;padding:0 1em}}\
             small{{color:#767676}}</style><h1>{said}</h1><p>{help}</p><p><small>{status} · request {request}</small></p>\n"
        );
        let mut answer = Response::new(Body::from(Bytes::from(html)));
        *answer.status_mut() = *status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }
}

/// An answer without a body, to elsewhere. `None` when `to` can't stand in a header.
pub(crate) fn redirect(status: StatusCode, to: &str) -> Option<Response<Body>> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::LOCATION, HeaderValue::from_str(to).ok()?);
    Some(answer)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_escape_what_they_quote() {
        let page = Page { status: StatusCode::NOT_FOUND, said: "<script>", help: "\"&" };
        let Body::Full(Some(bytes)) = page.answer("7").into_body() else { panic!("a page is in memory") };
        let html = String::from_utf8(bytes.to_vec()).expect("it was a String");
        assert!(html.contains("<h1>&lt;script&gt;</h1><p>&quot;&amp;</p>"), "{html}");
    }
}
