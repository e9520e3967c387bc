//! What is seen of requests: figures of all, lines and spans of some.
//!
//! [`Seen`] goes along with one request and notes whose it is; [`Observer::answered`] counts its answer, and follows the
//! body to its end where that isn't known at once. Nothing here waits, fails or turns a request away: what can't be kept
//! is counted as dropped.
//!
//! What it costs each request: two looks at the clock, an eighth of a hash for the id, and a few stores on a cache line
//! of this core's own. Lines and spans cost those who ask for them.

mod access;
mod export;
mod ids;
mod meter;
mod render;
mod trace;

use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};

use crate::answer::{Body, BodyError};
use crate::cloud::Cloud;
use crate::front::Here;
use access::{Asked, Waiting};
use export::{Span, Spans};
use ids::Ids;
use meter::CoreCounters;

pub(crate) use export::Export;
pub use export::{Exporter, Otlp};
pub(crate) use ids::{IdText, RequestId};
pub(crate) use meter::{Meter, Meters};
pub(crate) use render::render;
pub(crate) use trace::Trace;

/// Why an instance gave no answer, as the figures name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    Trap,
    Cpu,
    Time,
    Memory,
    NoResponse,
    Failed,
    Busy,
    BoxMemory,
    NoInstance,
    BadRequest,
}

impl FaultKind {
    const ALL: [(Self, &str); 10] = [
        (Self::Trap, "trap"),
        (Self::Cpu, "cpu"),
        (Self::Time, "time"),
        (Self::Memory, "memory"),
        (Self::NoResponse, "no_response"),
        (Self::Failed, "failed"),
        (Self::Busy, "busy"),
        (Self::BoxMemory, "box_memory"),
        (Self::NoInstance, "no_instance"),
        (Self::BadRequest, "bad_request"),
    ];
}

impl From<&sandbox::Fault> for FaultKind {
    fn from(fault: &sandbox::Fault) -> Self {
        use sandbox::Fault;
        match fault {
            Fault::Trap(_) => Self::Trap,
            Fault::OutOfCpu(_) => Self::Cpu,
            Fault::OutOfTime(_) => Self::Time,
            Fault::OutOfMemory(_) => Self::Memory,
            Fault::NoResponse => Self::NoResponse,
            Fault::Failed(_) => Self::Failed,
            Fault::Busy => Self::Busy,
            Fault::BoxOutOfMemory => Self::BoxMemory,
            Fault::NoInstance(_) => Self::NoInstance,
            Fault::BadRequest(_) => Self::BadRequest,
        }
    }
}

/// What made an answer of this box's own, told in its extensions: its status alone doesn't say, since apps choose
/// theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Throttled,
    Fault(FaultKind),
}

/// How an answer's body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// Nobody wants the rest.
    Cut,
    /// There is no rest, though there should be.
    Broken,
}

/// One core's part of it all.
pub(crate) struct Observer {
    core: usize,
    meters: Meters,
    ids: Ids,
    lines: Rc<Waiting>,
    spans: Option<Spans>,
}

/// A connection, for as long as it is open.
pub(crate) struct Connected(Rc<Observer>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.core().gone();
    }
}

/// What is noted of one request on its way. One that is dropped without an answer is a visitor who left.
pub(crate) struct Seen {
    pub id: RequestId,
    observer: Rc<Observer>,
    begun: Instant,
    pub head_only: bool,
    road: Road,
    line: Option<Asked>,
    span: Option<Box<Span>>,
}

/// Where a request led.
enum Road {
    Nowhere,
    Api,
    Site(Rc<Here>),
}

impl Observer {
    /// Must be called on the core's `LocalSet`.
    pub(crate) fn new(core: usize, cloud: &Cloud) -> Result<Self, getrandom::Error> {
        let lines = Waiting::new(cloud.store.logs.clone());
        tokio::task::spawn_local(Rc::clone(&lines).keep_handing_on());
        Ok(Self {
            core,
            meters: cloud.meters.clone(),
            ids: Ids::new()?,
            lines,
            spans: cloud.export.as_ref().map(Export::spans),
        })
    }

    fn core(&self) -> &CoreCounters {
        &self.meters.cores()[self.core]
    }

    /// Counts a connection, for as long as what this gives lives.
    pub(crate) fn connected(self: &Rc<Self>) -> Connected {
        self.core().connected();
        Connected(Rc::clone(self))
    }

    /// Counts a connection that was closed unheard: it spoke no TLS, or there are too many.
    pub(crate) fn refused(&self) {
        self.core().refused();
    }

    /// A request whose head came at `begun`.
    pub(crate) fn begin<B>(self: &Rc<Self>, request: &Request<B>, begun: Instant) -> Seen {
        Seen {
            id: self.ids.request(),
            observer: Rc::clone(self),
            begun,
            head_only: *request.method() == Method::HEAD,
            road: Road::Nowhere,
            line: None,
            span: None,
        }
    }

    /// The request is for this site: what its lines and spans say of it is taken down now.
    pub(crate) fn enter<B>(&self, seen: &mut Seen, site: &Rc<Here>, client: IpAddr, request: &Request<B>) {
        seen.road = Road::Site(Rc::clone(site));
        seen.line = Asked::of(site, client, request);
        if self.spans.as_ref().is_some_and(|spans| spans.wants(seen.id.number)) {
            let trace = Trace::of(request.headers(), &self.ids);
            seen.span = Some(Box::new(Span::begin(seen.id.number, trace, site, request, SystemTime::now())));
        }
    }

    /// Tells an app of the trace that its request belongs to.
    pub(crate) fn hand_on(&self, seen: &Seen, headers: &mut HeaderMap) {
        let trace = seen.span.as_ref().map_or_else(|| Trace::of(headers, &self.ids), |span| span.trace());
        trace.hand_on(headers, seen.id.number, seen.span.is_some());
    }

    /// Counts the answer, at its end where that is now, and else when its body has ended.
    pub(crate) fn answered(&self, mut seen: Seen, answer: &mut Response<Body>) {
        let (status, mark) = (answer.status(), answer.extensions().get::<Mark>().copied());
        let head_only = seen.head_only;
        let site = match std::mem::replace(&mut seen.road, Road::Nowhere) {
            Road::Nowhere => return self.counted(self.meters.nobody(), status),
            Road::Api => return self.counted(self.meters.api(), status),
            Road::Site(site) => site,
        };
        let counters = site.meter.counters(self.core);
        counters.begun(status, mark);
        if let (Body::Full(bytes), None, None) = (answer.body(), &seen.line, &seen.span) {
            let bytes = bytes.as_ref().filter(|_| !head_only).map_or(0, Bytes::len) as u64;
            return counters.ended(bytes, seen.begun.elapsed(), End::Whole);
        }
        let notes = Some(seen.notes(site, Some(status)));
        let length = answer.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let body = std::mem::replace(answer.body_mut(), Body::empty());
        let length = length.or_else(|| body.size_hint().exact());
        *answer.body_mut() = Body::Watched(Box::new(Watched { body, head_only, length, bytes: 0, notes }));
    }

    fn counted(&self, cores: &meter::Cores, status: StatusCode) {
        cores[self.core].begun(status, None);
    }
}

impl Seen {
    /// The request is the API's.
    pub(crate) fn enter_api(&mut self) {
        self.road = Road::Api;
    }

    fn notes(&mut self, site: Rc<Here>, status: Option<StatusCode>) -> Notes {
        Notes {
            observer: Rc::clone(&self.observer),
            site,
            id: self.id.clone(),
            begun: self.begun,
            status,
            line: self.line.take(),
            span: self.span.take(),
        }
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        if let Road::Site(site) = std::mem::replace(&mut self.road, Road::Nowhere) {
            self.notes(site, None).tell(0, End::Cut);
        }
    }
}

/// A body that is followed to its end.
pub(crate) struct Watched {
    body: Body,
    head_only: bool,
    /// What was announced, where anything was.
    length: Option<u64>,
    bytes: u64,
    /// None once it has ended.
    notes: Option<Notes>,
}

/// What is to be told at the end.
struct Notes {
    observer: Rc<Observer>,
    site: Rc<Here>,
    id: RequestId,
    begun: Instant,
    /// None where the visitor left before there was one.
    status: Option<StatusCode>,
    line: Option<Asked>,
    span: Option<Box<Span>>,
}

impl Notes {
    fn tell(self, bytes: u64, end: End) {
        let Self { observer, site, id, begun, status, line, span } = self;
        let took: Duration = begun.elapsed();
        site.meter.counters(observer.core).ended(bytes, took, end);
        if let Some(line) = line {
            observer.lines.push(&site, &id.text, line.line(status, bytes, took, end));
        }
        if let (Some(span), Some(spans)) = (span, &observer.spans) {
            spans.put(span.end(status, bytes, took, end));
        }
    }
}

impl Watched {
    fn end(&mut self, end: End) {
        if let Some(notes) = self.notes.take() {
            notes.tell(self.bytes, end);
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &next {
            Some(Ok(frame)) => self.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(_)) => self.end(End::Broken),
            None => self.end(End::Whole),
        }
        Poll::Ready(next)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // hyper doesn't ask further once all that was announced has come or the body says that this was all, nor at all
        // where a HEAD wants none.
        let whole = self.head_only || self.length == Some(self.bytes) || self.body.is_end_stream();
        self.end(if whole { End::Whole } else { End::Cut });
    }
}
