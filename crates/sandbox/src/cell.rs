//! What an instance may see and do, and for which request.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{DatabaseId, Name, TenantId};

use crate::keyvalue::KeyValue;
use crate::limiter::Share;
use crate::outbound::Outbound;
use crate::reuse::Reuse;

/// The body of a request to a component and of its answer: any `http_body::Body<Data = Bytes>` that is
/// `Send`, boxed. From hyper: `incoming.map_err(BodyError::from).boxed_unsync()`.
pub type Body = wasmtime_wasi_http::WasiBody;

/// Why a body broke off: `From<hyper::Error>` and `From<Infallible>` exist.
pub use wasmtime_wasi_http::Error as BodyError;

/// What the caller counts requests by; dropped when the instance has done with one, which may be after its response.
pub type Permit = Box<dyn Any + Send>;

/// What the instances of one component of one release may do and see: nothing else exists for them.
pub struct Cell {
    /// Whose code runs. Buckets are looked up under this tenant only.
    pub tenant: TenantId,
    /// The stage's data set.
    pub database: DatabaseId,
    /// The buckets that the manifest grants. Any other name is `no-such-store`.
    pub kv: Arc<BTreeSet<Name>>,
    /// What `wasi:cli/environment` tells.
    pub env: Arc<[(String, String)]>,
    /// What `wasi:config/store` tells: env and secrets.
    pub config: Arc<BTreeMap<String, String>>,
    /// The hosts that outgoing requests may go to.
    pub outbound: Arc<Outbound>,
    /// Bytes of linear memory, all memories of the instance together.
    pub memory: u64,
    /// What the tenant's instances have of the box's memory.
    pub share: Arc<Share>,
    /// CPU time from instantiation to the end of the response body.
    pub cpu: Duration,
    /// Wall time of the same. After it the body breaks off and the instance is gone.
    pub timeout: Duration,
    /// The app's log.
    pub log: Arc<dyn Log>,
    /// The databases.
    pub store: Arc<dyn KeyValue>,
    /// Where instances wait for the cell's next request. `None`: each request has a fresh one.
    pub reuse: Option<Arc<Reuse>>,
}

/// One request's visit to a cell.
pub struct Visit {
    /// The request's id, handed to [`Log::line`] along with each line.
    pub request: Arc<str>,
    /// The core that it is answered on.
    pub core: usize,
    /// Held until the instance has done with the request.
    pub permit: Option<Permit>,
}

/// The app's log, and the request that an instance is answering just now.
pub(crate) struct Voice {
    log: Arc<dyn Log>,
    request: Mutex<Arc<str>>,
}

impl Voice {
    pub(crate) fn new(log: Arc<dyn Log>, request: Arc<str>) -> Arc<Self> {
        Arc::new(Self { log, request: Mutex::new(request) })
    }

    pub(crate) fn line(&self, stream: Stream, text: &str) {
        let request = Arc::clone(&self.request.lock().unwrap_or_else(PoisonError::into_inner));
        self.log.line(&request, stream, text);
    }

    /// From now on the instance answers this request.
    pub(crate) fn speak_for(&self, request: Arc<str>) {
        *self.request.lock().unwrap_or_else(PoisonError::into_inner) = request;
    }
}

/// Where a line of an app's log came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    Stdout,
    Stderr,
    /// The sandbox itself: why an instance was stopped, or what it was refused.
    Fault,
}

/// An app's log. It must not block: it is called between two steps of a guest on the core's own thread.
pub trait Log: Send + Sync {
    /// One line without its line end, at the most `LOG_LINE_BYTES_MAX` bytes, written by `request`'s instance.
    fn line(&self, request: &str, stream: Stream, text: &str);
}
