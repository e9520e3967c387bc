//! Spans to the operator's collector: OTLP over HTTP, in its JSON form (opentelemetry-proto 1.3 and later).
//!
//! One span a sampled request, whose id is the request's. They wait in a bounded queue for one task that sends them
//! by the message. A collector that is slow or away costs spans, which are counted, and never a request.
//!
//! A span tells the route, not the path: paths are the tenants' visitors' business, and the request's id leads to the
//! app's access line where the tenant keeps those.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::limits::{
    EXPORT_ANSWER_BYTES_MAX, EXPORT_ATTEMPTS_MAX, EXPORT_CLOSE_TIME_MAX, EXPORT_TIME_MAX, SPANS_PER_EXPORT_MAX,
    SPANS_WAIT_MAX, SPANS_WAITING_MAX,
};
use base::{Name, ReleaseNo, TenantId, chain};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{End, Trace};
use crate::router::Site;

/// Where spans go, and of how many requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    endpoint: Uri,
    sample: f64,
}

/// What can't be a collector's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtlpError {
    #[error("`{0}` is not the address of a collector: write it as in http://127.0.0.1:4318")]
    Address(String),
    #[error("spans are sent over plain http alone: run a collector on this box or network, and have it forward them")]
    Https,
    #[error("`{0}` is not a share of requests: write a number between 0 and 1, such as 0.01")]
    Share(String),
}

impl Otlp {
    /// `endpoint` is the base to which the specification adds `v1/traces`.
    pub fn new(endpoint: &str, sample: f64) -> Result<Self, OtlpError> {
        let wrong = || OtlpError::Address(endpoint.chars().take(200).collect());
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(OtlpError::Https),
            _ => return Err(wrong()),
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
        if uri.query().is_some() {
            return Err(wrong());
        }
        let port = &authority.as_str()[authority.host().len()..];
        if !port.is_empty() && port.trim_start_matches(':').parse::<u16>().is_err() {
            return Err(wrong());
        }
        let path = uri.path().trim_end_matches('/');
        // Whoever copied the whole address means the same.
        let path = path.strip_suffix("/v1/traces").unwrap_or(path);
        let endpoint = format!("http://{authority}{path}/v1/traces").parse().map_err(|_| wrong())?;
        if !(0.0..=1.0).contains(&sample) {
            return Err(OtlpError::Share(sample.to_string()));
        }
        Ok(Self { endpoint, sample })
    }
}

/// The way to the collector: what the box holds of it.
pub(crate) struct Export {
    spans: Spans,
    waiting: Mutex<Option<mpsc::Receiver<Ended>>>,
    otlp: Otlp,
}

/// What puts spans into the queue.
#[derive(Clone)]
pub(super) struct Spans {
    queue: mpsc::Sender<Ended>,
    /// Ids at or below it are sampled: they are random, so this is a share.
    up_to: u64,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    dropped: AtomicU64,
}

/// The task that sends.
pub struct Exporter {
    task: tokio::task::JoinHandle<()>,
    queue: mpsc::Sender<Ended>,
}

impl Export {
    pub(crate) fn new(otlp: Otlp) -> Self {
        let (queue, waiting) = mpsc::channel(SPANS_WAITING_MAX);
        let spans = Spans { queue, up_to: threshold(otlp.sample), counts: Arc::default() };
        Self { spans, waiting: Mutex::new(Some(waiting)), otlp }
    }

    pub(super) fn spans(&self) -> Spans {
        self.spans.clone()
    }

    /// Spans that were sent, and that were dropped.
    pub(super) fn counts(&self) -> (u64, u64) {
        let Counts { sent, dropped } = &*self.spans.counts;
        (sent.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed))
    }

    /// Begins to send. Must be called on a tokio runtime, and does nothing the second time.
    pub(crate) fn start(&self) -> Option<Exporter> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let sending = send_all(self.otlp.endpoint.clone(), waiting, Arc::clone(&self.spans.counts));
        Some(Exporter { task: tokio::spawn(sending), queue: self.spans.queue.clone() })
    }
}

/// Ids are even over all numbers but zero. Those up to it are `share` of them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of u64::MAX fits, and `as` saturates"
)]
#[expect(clippy::cast_precision_loss, reason = "a share needs no 64 bits")]
fn threshold(share: f64) -> u64 {
    (share * u64::MAX as f64) as u64
}

impl Exporter {
    /// Sends what waits, for a moment, and ends. Every core should have ended before.
    pub async fn close(mut self) {
        // The box holds a sender to its end, so the task must be told that nothing more comes. A queue that has no room
        // for that won't be empty in a moment either.
        let _ = self.queue.try_send(Ended::Last);
        if tokio::time::timeout(EXPORT_CLOSE_TIME_MAX, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Spans {
    pub(super) fn wants(&self, request: u64) -> bool {
        request <= self.up_to
    }

    pub(super) fn put(&self, ended: Ended) {
        if self.queue.try_send(ended).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A request that goes on, to be told of.
pub(super) struct Span {
    id: u64,
    trace: Trace,
    begun: SystemTime,
    method: &'static str,
    route: String,
    tenant: Name,
    tenant_id: TenantId,
    app: Name,
    stage: Name,
    release: ReleaseNo,
}

/// What the queue holds.
pub(super) enum Ended {
    Span {
        span: Box<Span>,
        status: Option<StatusCode>,
        bytes: u64,
        took: Duration,
        end: End,
    },
    /// Nothing comes after this.
    Last,
}

impl Span {
    pub(super) fn begin<B>(id: u64, trace: Trace, site: &Site, request: &Request<B>, begun: SystemTime) -> Self {
        let route = site.route(request.uri().path()).map(|route| site.routes[route].prefix.as_str());
        Self {
            id,
            trace,
            begun,
            method: known(request.method()),
            route: route.map(|prefix| if prefix.is_empty() { "/" } else { prefix }).unwrap_or_default().to_owned(),
            tenant: site.meter.tenant_name.clone(),
            tenant_id: site.tenant,
            app: site.name.clone(),
            stage: site.stage.clone(),
            release: site.release,
        }
    }

    pub(super) fn trace(&self) -> Trace {
        self.trace
    }

    pub(super) fn end(self: Box<Self>, status: Option<StatusCode>, bytes: u64, took: Duration, end: End) -> Ended {
        Ended::Span { span: self, status, bytes, took, end }
    }

    /// As OTLP's JSON has it: ids in hexadecimal, times and 64-bit numbers as text, enums as numbers.
    fn told(&self, status: Option<StatusCode>, bytes: u64, took: Duration, end: End) -> Value {
        const SERVER: u8 = 2;
        const FAILED: u8 = 2;
        const UNSET: u8 = 0;
        let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        let number = |key: &str, value: u64| json!({ "key": key, "value": { "intValue": value.to_string() } });
        // A visitor who leaves is no failure of ours.
        let failed = status.is_some_and(|status| status.is_server_error()) || end == End::Broken;
        let mut span = json!({
            "traceId": format!("{:032x}", self.trace.id),
            "spanId": format!("{:016x}", self.id),
            "name": format!("{} {}", self.method, self.route).trim_end(),
            "kind": SERVER,
            "startTimeUnixNano": nanos(self.begun).to_string(),
            "endTimeUnixNano": nanos(self.begun + took).to_string(),
            "attributes": [
                text("http.request.method", self.method),
                text("http.route", &self.route),
                number("http.response.body.size", bytes),
                text("firm.tenant", self.tenant.as_str()),
                number("firm.tenant_id", self.tenant_id.0),
                text("firm.app", self.app.as_str()),
                text("firm.stage", self.stage.as_str()),
                text("firm.release", &self.release.to_string()),
            ],
            "status": { "code": if failed { FAILED } else { UNSET } },
        });
        if let (Some(status), Some(attributes)) = (status, span["attributes"].as_array_mut()) {
            attributes.push(number("http.response.status_code", status.as_u16().into()));
        }
        if let Some(parent) = self.trace.parent {
            span["parentSpanId"] = format!("{parent:016x}").into();
        }
        span
    }
}

/// A method is whatever a visitor writes, as long as a head may be. One that nobody knows is `_OTHER`, which is the
/// convention's word: spans stay small, and their names few.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| method == *known).unwrap_or("_OTHER")
}

fn nanos(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

/// A message: `ExportTraceServiceRequest`.
fn message(spans: &[Value]) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message<'a> {
        resource_spans: [ResourceSpans<'a>; 1],
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct ResourceSpans<'a> {
        resource: Value,
        scope_spans: [ScopeSpans<'a>; 1],
    }
    #[derive(Serialize)]
    struct ScopeSpans<'a> {
        scope: Value,
        spans: &'a [Value],
    }
    let version = env!("CARGO_PKG_VERSION");
    let resource = json!({ "attributes": [
        { "key": "service.name", "value": { "stringValue": "firmament" } },
        { "key": "service.version", "value": { "stringValue": version } },
    ] });
    let scope_spans = [ScopeSpans { scope: json!({ "name": "firm", "version": version }), spans }];
    let message = Message { resource_spans: [ResourceSpans { resource, scope_spans }] };
    serde_json::to_vec(&message).expect("a message is plain data")
}

/// Sends until the last one.
async fn send_all(endpoint: Uri, mut waiting: mpsc::Receiver<Ended>, counts: Arc<Counts>) {
    let mut failing = false;
    let mut last = false;
    while !last {
        let mut taken = Vec::with_capacity(SPANS_PER_EXPORT_MAX);
        if waiting.recv_many(&mut taken, SPANS_PER_EXPORT_MAX).await == 0 {
            return;
        }
        let until = tokio::time::Instant::now() + SPANS_WAIT_MAX;
        while taken.len() < SPANS_PER_EXPORT_MAX && !taken.iter().any(|ended| matches!(ended, Ended::Last)) {
            let room = SPANS_PER_EXPORT_MAX - taken.len();
            if !matches!(tokio::time::timeout_at(until, waiting.recv_many(&mut taken, room)).await, Ok(1..)) {
                break;
            }
        }
        let mut spans = Vec::with_capacity(taken.len());
        for ended in taken {
            match ended {
                Ended::Span { span, status, bytes, took, end } => spans.push(span.told(status, bytes, took, end)),
                Ended::Last => last = true,
            }
        }
        if spans.is_empty() {
            continue;
        }
        let count = spans.len() as u64;
        match deliver(&endpoint, message(&spans).into()).await {
            Ok(()) => {
                counts.sent.fetch_add(count, Ordering::Relaxed);
                failing = false;
            }
            Err(why) => {
                counts.dropped.fetch_add(count, Ordering::Relaxed);
                // Once, and not for each message.
                if !failing {
                    tracing::warn!(%endpoint, "spans can't be delivered, and are dropped until they can: {why}");
                }
                failing = true;
            }
        }
    }
}

/// Tries a few times, where the collector says or may mean that trying again helps.
async fn deliver(endpoint: &Uri, message: Bytes) -> Result<(), String> {
    let mut pause = Duration::from_secs(1);
    for attempt in 1.. {
        let why = match tokio::time::timeout(EXPORT_TIME_MAX, post(endpoint, message.clone())).await {
            Ok(Ok(status)) if status.is_success() => return Ok(()),
            // The specification's list of what may be tried again.
            Ok(Ok(status)) if ![429, 502, 503, 504].contains(&status.as_u16()) => {
                return Err(format!("the collector answered {status}"));
            }
            Ok(Ok(status)) => format!("the collector answered {status}"),
            Ok(Err(why)) => why,
            Err(_) => format!("the collector took longer than {EXPORT_TIME_MAX:?}"),
        };
        if attempt >= EXPORT_ATTEMPTS_MAX {
            return Err(why);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    unreachable!("the attempts are counted")
}

/// One request on a connection of its own: it is one a second at the most but under load.
async fn post(endpoint: &Uri, message: Bytes) -> Result<StatusCode, String> {
    let authority = endpoint.authority().expect("it was checked when it was read");
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await.map_err(|error| chain(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| chain(&error))?;
    let request = Request::post(endpoint.path())
        .header(header::HOST, authority.as_str())
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(message))
        .map_err(|error| error.to_string())?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        // Read, so that the collector isn't cut off; what it says beyond the status changes nothing.
        let _ = Limited::new(answer.into_body(), EXPORT_ANSWER_BYTES_MAX).collect().await;
        Ok(status)
    };
    // The connection ends with the exchange, which owns its one sender; why it did is in the exchange's own error.
    let (status, _) = futures_util::future::join(exchange, connection).await;
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_an_address_and_a_share() {
        let path = |text: &str| Otlp::new(text, 0.5).map(|otlp| otlp.endpoint.to_string());
        assert_eq!(path("http://127.0.0.1:4318").as_deref(), Ok("http://127.0.0.1:4318/v1/traces"));
        assert_eq!(path("http://otel.example/in/").as_deref(), Ok("http://otel.example/in/v1/traces"));
        assert_eq!(path("http://[::1]:4318/v1/traces").as_deref(), Ok("http://[::1]:4318/v1/traces"));
        assert_eq!(path("https://otel.example"), Err(OtlpError::Https));
        for wrong in ["", "http://x:99999", "127.0.0.1:4318", "/v1", "ftp://x", "http://a@b", "http://x/?y"] {
            assert_eq!(path(wrong), Err(OtlpError::Address(wrong.to_owned())), "{wrong}");
        }
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(matches!(Otlp::new("http://x", wrong), Err(OtlpError::Share(_))), "{wrong}");
        }
    }

    #[test]
    fn a_share_is_one_of_random_ids() {
        assert_eq!((threshold(0.0), threshold(1.0)), (0, u64::MAX));
        let half = threshold(0.5);
        assert!((u64::MAX / 2 - (1 << 12)..=u64::MAX / 2 + (1 << 12)).contains(&half), "{half}");
    }

    #[tokio::test]
    async fn a_full_queue_drops_and_counts() {
        let export = Export::new(Otlp::new("http://127.0.0.1:9", 1.0).expect("an address"));
        for _ in 0..SPANS_WAITING_MAX + 3 {
            export.spans.put(Ended::Last);
        }
        assert_eq!(export.counts(), (0, 3));
    }
}
