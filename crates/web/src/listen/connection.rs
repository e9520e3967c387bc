//! One connection, from its first byte to its last.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use base::chain;
use base::limits::{
    CONNECTION_WINDOW_BYTES, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, STREAM_SEND_BYTES, STREAM_WINDOW_BYTES,
    STREAMS_PER_CONNECTION_MAX, TLS_HANDSHAKE_TIME_MAX,
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::heads::{Framing, Heads};
use super::pulse::{Order, Piece, Pulse, UnderWay};
use super::wire::Wire;
use crate::answer::{Body, BodyError};
use crate::front::{Core, Peer, Scheme, Serving, serve};
use crate::turns::Turns;

/// A head is read whole into this, and what is written is gathered in as much.
const BUFFER_BYTES: usize = HEADER_BYTES_MAX;

/// Serves it to its end, in TLS where there is an acceptor.
pub(super) async fn serve_connection(
    core: Rc<Core>,
    mut wire: Wire,
    address: std::net::SocketAddr,
    tls: Option<TlsAcceptor>,
    pulse: Rc<Pulse>,
) {
    let Some(tls) = tls else {
        pulse.speaks(false);
        http1(core, &mut wire, Peer::new(address, Scheme::Plain), &pulse).await;
        return leave(wire, &pulse).await;
    };
    // An order to cut counts before there is a session too: a flood of half handshakes makes room like any other.
    let handshake = pin!(tokio::time::timeout(TLS_HANDSHAKE_TIME_MAX, tls.accept(wire)));
    let mut stream = match obeying(&pulse, handshake).await {
        Some(Ok(Ok(stream))) => stream,
        Some(Ok(Err(error))) => {
            core.observer.refused();
            return tracing::debug!(%address, "no TLS: {error}");
        }
        Some(Err(_)) => {
            core.observer.refused();
            return tracing::debug!(%address, "the TLS handshake took too long");
        }
        None => return,
    };
    let (_, session) = stream.get_ref();
    let name = session.server_name().map(|name| name.to_ascii_lowercase().into());
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    pulse.speaks(is_http2);
    let peer = Peer::new(address, Scheme::Tls { name });
    if is_http2 {
        http2(core, &mut stream, peer, &pulse).await;
    } else {
        http1(core, &mut stream, peer, &pulse).await;
    }
    leave(stream.into_inner().0, &pulse).await;
}

async fn leave(wire: Wire, pulse: &Pulse) {
    match pulse.order() {
        Order::Cut(_) => wire.cut(),
        Order::Serve | Order::Finish => wire.close().await,
    }
}

async fn http1(core: Rc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, pulse: &Rc<Pulse>) {
    let framing = Rc::new(Cell::new(Framing::Head));
    let heads = Heads::new(stream, Rc::clone(&framing));
    let (held, peer) = (Rc::clone(pulse), Rc::new(peer));
    let service = service_fn(move |request: Request<Incoming>| {
        let under_way = Some(UnderWay::begin(&held));
        let length = request.body().size_hint().exact();
        framing.set(match length {
            None => Framing::Open,
            Some(0) => Framing::Head,
            Some(length) => Framing::Body(length),
        });
        Answering { serving: serve(&core, &peer, request), under_way, ends: length.is_none() }
    });
    let connection = http1::Builder::new()
        // Its timer would be one a request; the pulse has the same limit for nothing.
        .header_read_timeout(None)
        .max_headers(HEADER_FIELDS_MAX)
        // The bound of a head. That of the buffer isn't: it is looked at between two reads, and one read may bring more.
        .max_header_size(HEADER_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(TokioIo::new(heads), service);
    to_its_end(pulse, connection, http1::Connection::graceful_shutdown).await;
}

async fn http2(core: Rc<Core>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: Peer, pulse: &Rc<Pulse>) {
    let (held, turns, peer) = (Rc::clone(pulse), Rc::clone(&core.turns), Rc::new(peer));
    let service = service_fn(move |request| {
        let under_way = Some(UnderWay::begin(&held));
        let answering = Answering { serving: serve(&core, &peer, request), under_way, ends: false };
        let pulse = Rc::clone(&held);
        async move { answering.await.map(|answer| answer.map(|body| InStream { body, pulse })) }
    });
    let connection = http2::Builder::new(OnThisCore(turns))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).expect("32 KiB fit"))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    to_its_end(pulse, connection, http2::Connection::graceful_shutdown).await;
}

/// Runs a connection until it ends or is cut, and tells it to finish when it shall.
async fn to_its_end<C>(pulse: &Pulse, connection: C, finish: impl Fn(Pin<&mut C>))
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut finishes = false;
    let run = poll_fn(|cx| {
        if pulse.order() == Order::Finish && !finishes {
            finishes = true;
            finish(connection.as_mut());
        }
        connection.as_mut().poll(cx)
    });
    match obeying(pulse, pin!(run)).await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!("a connection ended: {}", chain(&error)),
        None => tracing::debug!("a connection was cut: {:?}", pulse.order()),
    }
}

/// Until it is done, or the connection is cut.
async fn obeying<F: Future>(pulse: &Pulse, mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        if matches!(pulse.order(), Order::Cut(_)) {
            return Poll::Ready(None);
        }
        pulse.wakes(cx.waker());
        future.as_mut().poll(cx).map(Some)
    })
    .await
}

/// A request that is under way, until there is an answer, whose body takes that over.
struct Answering {
    serving: Serving,
    under_way: Option<UnderWay>,
    /// The connection ends with it.
    ends: bool,
}

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { serving, under_way, ends } = &mut *self;
        let mut answer = std::task::ready!(Pin::new(serving).poll(cx));
        if *ends {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let mut under_way = under_way.take().expect("it is answered once");
        under_way.answered();
        Poll::Ready(Ok(answer.map(|body| Answer { body, _under_way: under_way })))
    }
}

/// An answer's body, whose request is under way for as long as there is more of it.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer in a stream of HTTP/2, whose bytes are counted until they leave it.
struct InStream {
    body: Answer,
    pulse: Rc<Pulse>,
}

impl HttpBody for InStream {
    type Data = Piece;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, BodyError>>> {
        let Self { body, pulse } = self.get_mut();
        let counted = |frame: Frame<Bytes>| frame.map_data(|bytes| Piece::new(bytes, pulse));
        Pin::new(body).poll_frame(cx).map(|next| next.map(|frame| frame.map(counted)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Runs HTTP/2 streams on the core of their connection, each in its own turn.
#[derive(Clone)]
struct OnThisCore(Rc<Turns>);

impl<F> Executor<F> for OnThisCore
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        let stream = Rc::clone(&self.0).stream_in_turn(future);
        tokio::task::spawn_local(async move {
            stream.await;
        });
    }
}
