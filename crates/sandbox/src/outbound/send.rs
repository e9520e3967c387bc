//! Sending a guest's request: one connection a request, to an address that was checked.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use base::limits::{
    GUEST_BODY_PIECE_BYTES_MAX, GUEST_BODY_PIECES_WAITING_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX,
    OUTBOUND_AT_ONCE_MAX, OUTBOUND_CONNECT_TIME_MAX,
};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, timeout};
use tokio_rustls::TlsConnector;
use wasmtime_wasi_http::{
    DEFAULT_FORBIDDEN_HEADERS, Error, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpHooks,
};

use super::address::is_public;
use super::{Outbound, Target};
use crate::cell::{Stream, Voice};

/// How long an answer, or the next piece of it, may take if the guest doesn't say. The request's own deadline
/// mostly comes first.
const ANSWER_TIME_DEFAULT: Duration = Duration::from_mins(10);

/// What all guests' requests share: whom TLS trusts, and the operator's exceptions.
pub(crate) struct Network {
    tls: TlsConnector,
    private: Vec<SocketAddr>,
}

impl Network {
    /// # Errors
    /// TLS can't be set up.
    pub(crate) fn new(private: Vec<SocketAddr>) -> Result<Self, rustls::Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: TlsConnector::from(Arc::new(config)), private })
    }

    fn allows(&self, address: SocketAddr) -> bool {
        is_public(address.ip()) || self.private.contains(&address)
    }
}

/// One instance's way out.
#[derive(Clone)]
pub(crate) struct Sender {
    network: Arc<Network>,
    outbound: Arc<Outbound>,
    voice: Arc<Voice>,
    open: Arc<Semaphore>,
}

/// The answer, and the connection's work that must go on while its body is read.
type Sent = (Response<WasiBody>, Box<dyn Future<Output = Result<(), Error>> + Send>);

/// What a guest may neither read nor say. As it comes it is put together anew for each field.
static FORBIDDEN_FIELDS: LazyLock<[HeaderName; 9]> = LazyLock::new(|| DEFAULT_FORBIDDEN_HEADERS);

/// The same, as wasmtime wants it for later.
static FORBIDDEN_FILTER: LazyLock<ForbiddenHeaderFilter> =
    LazyLock::new(|| Arc::new(|name| FORBIDDEN_FIELDS.contains(name)));

impl WasiHttpHooks for Sender {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        FORBIDDEN_FIELDS.contains(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::clone(&FORBIDDEN_FILTER)
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Result<Sent, Error>> + Send> {
        let sender = self.clone();
        Box::new(async move { sender.send(request, options.unwrap_or_default()).await })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        GUEST_BODY_PIECE_BYTES_MAX
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        GUEST_BODY_PIECES_WAITING_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        GUEST_BODY_PIECE_BYTES_MAX
    }

    fn p2_error_from_hyper(
        &mut self,
        error: &hyper::Error,
    ) -> wasmtime_wasi_http::p2::bindings::http::types::ErrorCode {
        use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
        if error.is_incomplete_message() { ErrorCode::HttpResponseIncomplete } else { ErrorCode::HttpProtocolError }
    }

    fn p3_error_from_hyper(
        &mut self,
        error: &hyper::Error,
    ) -> wasmtime_wasi_http::p3::bindings::http::types::ErrorCode {
        use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
        if error.is_incomplete_message() { ErrorCode::HttpResponseIncomplete } else { ErrorCode::HttpProtocolError }
    }
}

impl Sender {
    pub(crate) fn new(network: Arc<Network>, outbound: Arc<Outbound>, voice: Arc<Voice>) -> Self {
        Self { network, outbound, voice, open: Arc::new(Semaphore::new(OUTBOUND_AT_ONCE_MAX)) }
    }

    fn refuse(&self, target: &Target, why: &str) {
        let Target { host, port, .. } = target;
        let line = format!("a request to {host}:{port} was refused: {why}");
        self.voice.line(Stream::Fault, &line);
    }

    async fn send(self, mut request: Request<WasiBody>, options: RequestOptions) -> Result<Sent, Error> {
        let target = Target::of(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
        if request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        if !self.outbound.allows(&target) {
            self.refuse(&target, &format!("add \"{}\" to `hosts` under [outbound] in firm.toml", target.pattern()));
            return Err(Error::HttpRequestDenied);
        }
        let Ok(permit) = Arc::clone(&self.open).try_acquire_owned() else {
            self.refuse(&target, &format!("{OUTBOUND_AT_ONCE_MAX} are open, which is all that one request may have"));
            return Err(Error::ConnectionLimitReached);
        };
        address_to(&mut request, &target)?;
        let patience = options.connect_timeout.unwrap_or(OUTBOUND_CONNECT_TIME_MAX).min(OUTBOUND_CONNECT_TIME_MAX);
        let connected = timeout(patience, self.connect(&target)).await.map_err(|_| Error::ConnectionTimeout)?;
        let (mut connection, io) = connected?;
        let mut io = Some(io);
        let answered = timeout(
            options.first_byte_timeout.unwrap_or(ANSWER_TIME_DEFAULT),
            answer(connection.send_request(request), &mut io),
        );
        let response = answered.await.map_err(|_| Error::ConnectionReadTimeout)??;
        let rest = async move { if let Some(io) = io { io.await } else { Ok(()) } };
        let patience = options.between_bytes_timeout.unwrap_or(ANSWER_TIME_DEFAULT);
        let response = response.map(|body| {
            let late = Box::pin(tokio::time::sleep(patience));
            Answer { body, patience, late, _permit: permit }.boxed_unsync()
        });
        Ok((response, Box::new(rest)))
    }

    /// A connection to one of the target's addresses that may be reached.
    async fn connect(&self, target: &Target) -> Result<(http1::SendRequest<WasiBody>, Io), Error> {
        let addresses = self.resolve(target).await?;
        let mut failed = Error::DestinationNotFound;
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // A failure costs latency, nothing else.
                    let _ = stream.set_nodelay(true);
                    return self.handshake(target, stream).await;
                }
                Err(error) => failed = connect_error(error),
            }
        }
        Err(failed)
    }

    /// The target's addresses that may be reached, in the resolver's order.
    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        let found: Vec<SocketAddr> = match target.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, target.port)],
            Err(_) => tokio::net::lookup_host((target.host.as_str(), target.port))
                .await
                .map_err(|error| Error::DnsError { rcode: Some(error.to_string()), info_code: None })?
                .collect(),
        };
        let (allowed, refused): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| self.network.allows(*address));
        match refused.first() {
            Some(address) if allowed.is_empty() => {
                let why = format!("{} is not an address of the public internet", address.ip());
                self.refuse(target, &why);
                Err(Error::DestinationIpProhibited)
            }
            None if allowed.is_empty() => Err(Error::DestinationNotFound),
            _ => Ok(allowed),
        }
    }

    async fn handshake(&self, target: &Target, stream: TcpStream) -> Result<(http1::SendRequest<WasiBody>, Io), Error> {
        if !target.tls {
            return http(stream).await;
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
        http(self.network.tls.connect(name, stream).await.map_err(tls_error)?).await
    }
}

/// The work of a connection.
type Io = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

async fn http<S>(stream: S) -> Result<(http1::SendRequest<WasiBody>, Io), Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (connection, io) = http1::Builder::new()
        .max_headers(HEADER_FIELDS_MAX)
        // An answer's headers must fit; twice the size leaves room for the start of its body.
        .max_buf_size(HEADER_BYTES_MAX * 2)
        .handshake(TokioIo::new(stream))
        .await?;
    Ok((connection, Box::pin(async move { io.await.map_err(Error::from) })))
}

/// Waits for the answer's head while the connection does its work. `io` is `None` once that has ended.
async fn answer(
    response: impl Future<Output = hyper::Result<Response<Incoming>>>,
    io: &mut Option<Io>,
) -> Result<Response<Incoming>, Error> {
    let mut response = pin!(response);
    poll_fn(|cx| {
        if let Poll::Ready(answered) = response.as_mut().poll(cx) {
            return Poll::Ready(answered.map_err(Error::from));
        }
        let Some(work) = io else {
            return Poll::Pending;
        };
        match work.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => {
                *io = None;
                response.as_mut().poll(cx).map_err(Error::from)
            }
        }
    })
    .await
}

/// On the wire a request names its path and its host apart, and the host is the one that was checked.
fn address_to(request: &mut Request<WasiBody>, target: &Target) -> Result<(), Error> {
    let authority = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?;
    let text = if target.port == target.scheme_port() { authority.host() } else { authority.as_str() };
    let host = HeaderValue::from_str(text).map_err(|_| Error::HttpRequestUriInvalid)?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let uri = Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = uri;
    *request.version_mut() = http::Version::HTTP_11;
    Ok(())
}

fn connect_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Error::DestinationUnavailable,
        _ => Error::Connect(error),
    }
}

fn tls_error(error: io::Error) -> Error {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => Error::TlsCertificateError,
        Some(_) => Error::TlsProtocolError,
        None => Error::Tls(error),
    }
}

/// The body of an answer. The place among the open requests is free again when it's gone.
struct Answer {
    body: Incoming,
    patience: Duration,
    late: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                let next = Instant::now() + self.patience;
                self.late.as_mut().reset(next);
                Poll::Ready(frame.map(|frame| frame.map_err(Error::from)))
            }
            Poll::Pending => self.late.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
