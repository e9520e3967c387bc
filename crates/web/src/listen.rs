//! Sockets: a listener a core for each port, connections that stay on their core, and a drain that cuts nothing.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base::chain;
use base::limits::{
    CONNECTIONS_PER_CORE_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, HEADERS_TIME_MAX, IDLE_TIME_MAX,
    STREAMS_PER_CONNECTION_MAX, TLS_HANDSHAKE_TIME_MAX,
};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use crate::cloud::Cloud;
use crate::front::{Core, Peer, Scheme, serve};
use crate::tls::{self, TlsError};

/// Connections that the kernel holds for a core that is busy.
const BACKLOG: i32 = 4_096;
/// How often a draining node looks whether it is done.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
/// A request that was sent before its client could know of the drain arrives within this; it is refused with an
/// answer, not with a closed connection.
const DRAIN_GRACE: Duration = Duration::from_millis(250);

/// Why the node doesn't listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("address {0} is taken by another program")]
    Taken(SocketAddr),
    #[error("address {address} can't be listened on")]
    Bind {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS can't be set up")]
    Tls(#[source] TlsError),
    #[error("a core's thread can't be started")]
    Thread(#[source] io::Error),
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// What a core is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Finish what is under way; refuse what is new, politely.
    Draining,
    Stopped,
}

/// The serving node.
pub struct Node {
    cloud: Arc<Cloud>,
    phase: watch::Sender<Phase>,
    cores: Vec<JoinHandle<()>>,
    /// What goes on beside the requests: following the record, sweeping.
    beside: [tokio::task::JoinHandle<()>; 2],
}

impl Node {
    /// Listens and serves. On return every port answers.
    pub fn start(cloud: Arc<Cloud>) -> Result<Self, ListenError> {
        let settings = &cloud.settings;
        let tls =
            tls::server_config(Arc::clone(&cloud.authority), Arc::clone(&cloud.router)).map_err(ListenError::Tls)?;
        for address in [settings.tls, settings.plain] {
            probe(address)?;
        }
        let phase = watch::Sender::new(Phase::Serving);
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let mut cores = Vec::with_capacity(count);
        for number in 0..count {
            let listeners = (listen(settings.tls)?, listen(settings.plain)?);
            let core = cloud.clone();
            let (tls, phase) = (Arc::clone(&tls), phase.subscribe());
            let run = move || run_core(number, core, listeners, tls, phase);
            cores.push(thread::Builder::new().name(format!("core-{number}")).spawn(run).map_err(ListenError::Thread)?);
        }
        let beside = [tokio::spawn(Arc::clone(&cloud).follow()), tokio::spawn(crate::sweep::sweep(Arc::clone(&cloud)))];
        Ok(Self { cloud, phase, cores, beside })
    }

    /// Refuses what is new, finishes what is under way, but waits no longer than `patience`. Gives what was cut.
    pub async fn drain(self, patience: Duration) -> usize {
        self.cloud.drain();
        self.phase.send_replace(Phase::Draining);
        let done = async {
            while self.cloud.under_way() > 0 {
                tokio::time::sleep(DRAIN_LOOK).await;
            }
        };
        let cut = match tokio::time::timeout(patience, done).await {
            Ok(()) => 0,
            Err(_) => self.cloud.under_way(),
        };
        self.phase.send_replace(Phase::Stopped);
        let cores = self.cores;
        let joined =
            tokio::task::spawn_blocking(move || cores.into_iter().filter_map(|core| core.join().err()).count());
        if joined.await.is_ok_and(|panicked| panicked > 0) {
            tracing::error!("a core's thread had panicked");
        }
        for task in self.beside {
            task.abort();
        }
        self.cloud.store.databases.close();
        self.cloud.store.logs.close();
        self.cloud.store.record.close();
        cut
    }
}

/// With `SO_REUSEPORT` two nodes of one user would share a port and its requests; this finds the other one first.
fn probe(address: SocketAddr) -> Result<(), ListenError> {
    match StdListener::bind(address) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ListenError::Taken(address)),
        Err(source) => Err(ListenError::Bind { address, source }),
    }
}

fn listen(address: SocketAddr) -> Result<StdListener, ListenError> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(StdListener::from(socket))
    };
    bind().map_err(|source| ListenError::Bind { address, source })
}

fn run_core(
    number: usize,
    cloud: Arc<Cloud>,
    listeners: (StdListener, StdListener),
    tls: Arc<ServerConfig>,
    mut phase: watch::Receiver<Phase>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("a core's runtime can't be made: {error}"),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let core = match Core::new(number, cloud) {
            Ok(core) => Rc::new(core),
            Err(error) => return tracing::error!("a core gets no random bytes: {error}"),
        };
        let room = Arc::new(Semaphore::new(connections_per_core()));
        let (secure, plain) = listeners;
        for (listener, tls) in [(secure, Some(TlsAcceptor::from(tls))), (plain, None)] {
            let (core, room, phase) = (Rc::clone(&core), Arc::clone(&room), phase.clone());
            tokio::task::spawn_local(accept(core, listener, tls, room, phase));
        }
        // An error says that the node is gone without a word.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
    });
}

/// Connections may take half of the descriptors that this process may have: whoever opens them all must not keep the
/// box from its own files.
fn connections_per_core() -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    CONNECTIONS_PER_CORE_MAX.min(files / 2 / cores).max(1)
}

async fn accept(
    core: Rc<Core>,
    listener: StdListener,
    tls: Option<TlsAcceptor>,
    room: Arc<Semaphore>,
    phase: watch::Receiver<Phase>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("a listener can't be used: {error}"),
    };
    loop {
        // No place, no accept: the kernel's backlog holds what comes, and refuses beyond it.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let (core, tls, phase) = (Rc::clone(&core), tls.clone(), phase.clone());
                tokio::task::spawn_local(async move {
                    connection(core, stream, address, tls, phase).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely: others must close before the next can be had.
            Err(error) => {
                tracing::warn!("a connection can't be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(
    core: Rc<Core>,
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    phase: watch::Receiver<Phase>,
) {
    let _open = core.observer.connected();
    // A connection that comes while the node drains is answered, but not waited for.
    let _under_way = (!core.cloud.is_draining()).then(|| core.cloud.count());
    if let Err(error) = stream.set_nodelay(true) {
        return tracing::debug!("a connection is gone already: {error}");
    }
    let Some(tls) = tls else {
        let peer = Peer { address, scheme: Scheme::Plain };
        return http1(core, stream, peer, phase).await;
    };
    let stream = match tokio::time::timeout(TLS_HANDSHAKE_TIME_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            core.observer.refused();
            return tracing::debug!(%address, "no TLS: {error}");
        }
        Err(_) => {
            core.observer.refused();
            return tracing::debug!(%address, "the TLS handshake took too long");
        }
    };
    let (_, session) = stream.get_ref();
    let name = session.server_name().map(|name| name.to_ascii_lowercase().into());
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let peer = Peer { address, scheme: Scheme::Tls { name } };
    if is_http2 { http2(core, stream, peer, phase).await } else { http1(core, stream, peer, phase).await }
}

async fn http1(
    core: Rc<Core>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
    phase: watch::Receiver<Phase>,
) {
    let service = service_fn(move |request| serve(Rc::clone(&core), peer.clone(), request));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIME_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drains(phase) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {}", chain(&error));
    }
}

async fn http2(
    core: Rc<Core>,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    peer: Peer,
    phase: watch::Receiver<Phase>,
) {
    let service = service_fn(move |request| serve(Rc::clone(&core), peer.clone(), request));
    let connection = hyper::server::conn::http2::Builder::new(OnThisCore)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(u32::try_from(HEADER_BYTES_MAX).expect("32 KiB fit"))
        .keep_alive_interval(IDLE_TIME_MAX)
        .keep_alive_timeout(HEADERS_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = drains(phase) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("a connection ended: {}", chain(&error));
    }
}

/// Comes back when the node drains, and what was on its way has come.
async fn drains(mut phase: watch::Receiver<Phase>) {
    // An error says that the node is gone, and so it drains too.
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
    tokio::time::sleep(DRAIN_GRACE).await;
}

/// Runs HTTP/2 streams on the core of their connection.
#[derive(Clone, Copy, Debug)]
struct OnThisCore;

impl<F> Executor<F> for OnThisCore
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
