//! What one request's instance may see and do.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base::{DatabaseId, Name, TenantId};

use crate::keyvalue::KeyValue;
use crate::outbound::Outbound;

/// The body of a request to a component and of its answer: any `http_body::Body<Data = Bytes>` that is
/// `Send`, boxed. From hyper: `incoming.map_err(BodyError::from).boxed_unsync()`.
pub type Body = wasmtime_wasi_http::WasiBody;

/// Why a body broke off: `From<hyper::Error>` and `From<Infallible>` exist.
pub use wasmtime_wasi_http::Error as BodyError;

/// What the caller counts instances by; dropped when the instance is gone, which may be after its response.
pub type Permit = Box<dyn Any + Send>;

/// What one request's instance may do and see: nothing else exists for it.
pub struct Cell {
    /// Whose code runs. Buckets are looked up under this tenant only.
    pub tenant: TenantId,
    /// The stage's data set.
    pub database: DatabaseId,
    /// The request's id, handed to [`Log::line`] along with each line.
    pub request: Arc<str>,
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
    /// CPU time from instantiation to the end of the response body.
    pub cpu: Duration,
    /// Wall time of the same. After it the body breaks off and the instance is gone.
    pub timeout: Duration,
    /// The app's log.
    pub log: Arc<dyn Log>,
    /// The databases.
    pub store: Arc<dyn KeyValue>,
    /// Held while the instance lives.
    pub permit: Option<Permit>,
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
