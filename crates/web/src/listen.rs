//! Sockets: a listener a core for each port, connections that stay on their core, and a drain that cuts nothing.
//!
//! What a visitor may take of a core is bounded where it connects (`accept.rs`, `clients.rs`), while it is connected
//! (`pulse.rs`), and in each protocol (`connection.rs`, `heads.rs`).

mod accept;
mod clients;
mod connection;
mod heads;
mod pulse;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base::limits::{
    CONNECTIONS_PER_CORE_MAX, KERNEL_UNSENT_BYTES, PEER_SILENCE_MAX, PEER_SILENCE_PROBE_EVERY, PEER_SILENCE_PROBES,
};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;
use tokio_rustls::TlsAcceptor;

use self::accept::{Door, accept, look_after};
use self::clients::Clients;
use self::pulse::Pulses;
use crate::cloud::Cloud;
use crate::front::Core;
use crate::tls::{self, TlsError};
use crate::turns::{SinceLook, Turns};
use crate::{ahead, sweep};

/// Connections that the kernel holds for a core that is busy.
const BACKLOG: i32 = 4_096;
/// How often a draining node looks whether it is done.
/// How often a node's cores are looked at.
const NODE_LOOK: Duration = Duration::from_secs(1);
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
    /// What goes on beside the requests: following the record first, sweeping, and what boxes do for each other.
    beside: Vec<tokio::task::JoinHandle<()>>,
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
        let clients = Clients::new(settings.connections_per_client);
        let count = cores();
        let mut cores = Vec::with_capacity(count);
        for number in 0..count {
            let listeners = (listen(settings.tls)?, listen(settings.plain)?);
            let core = cloud.clone();
            let (tls, clients, phase) = (Arc::clone(&tls), Arc::clone(&clients), phase.subscribe());
            let run = move || run_core(number, core, listeners, tls, clients, phase);
            cores.push(thread::Builder::new().name(format!("core-{number}")).spawn(run).map_err(ListenError::Thread)?);
        }
        let beside = vec![
            tokio::spawn(Arc::clone(&cloud).follow()),
            tokio::spawn(sweep::sweep(Arc::clone(&cloud))),
            tokio::spawn(ahead::ahead(Arc::clone(&cloud))),
            tokio::spawn(Arc::clone(&cloud).beat()),
            tokio::spawn(Arc::clone(&cloud).tend_voters()),
            tokio::spawn(Arc::clone(&cloud).tend_data()),
        ];
        Ok(Self { cloud, phase, cores, beside })
    }

    /// Waits until the node can't serve any more, and says why. It never does while all is well.
    pub async fn failed(&mut self) -> String {
        loop {
            tokio::select! {
                _ = &mut self.beside[0] => {
                    return "the record's log has failed: see the node's log for the cause".to_owned();
                }
                () = tokio::time::sleep(NODE_LOOK) => {
                    if self.cores.iter().any(JoinHandle::is_finished) {
                        return "a core's thread has ended: see the node's log for the cause".to_owned();
                    }
                }
            }
        }
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
        // Connections have these of their listener, and no system call of their own for them.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(KERNEL_UNSENT_BYTES)?;
        let keepalive = TcpKeepalive::new()
            .with_time(PEER_SILENCE_MAX)
            .with_interval(PEER_SILENCE_PROBE_EVERY)
            .with_retries(PEER_SILENCE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
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
    clients: Arc<Clients>,
    mut phase: watch::Receiver<Phase>,
) {
    let since_look = SinceLook::default();
    let looks = since_look.clone();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().on_thread_park(persist::desk::send).on_thread_unpark(move || looks.slept());
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("a core's runtime can't be made: {error}"),
    };
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let turns = Turns::new(since_look);
        tokio::task::spawn_local(Rc::clone(&turns).deal());
        tokio::task::spawn_local(persist::Desk::open().hand_out());
        let core = match Core::new(number, cloud, turns) {
            Ok(core) => Rc::new(core),
            Err(error) => return tracing::error!("a core gets no random bytes: {error}"),
        };
        let pulses = Rc::new(Pulses::default());
        let room = Arc::new(Semaphore::new(connections_per_core()));
        let (secure, plain) = listeners;
        for (listener, tls) in [(secure, Some(TlsAcceptor::from(tls))), (plain, None)] {
            let (core, room, pulses) = (Rc::clone(&core), Arc::clone(&room), Rc::clone(&pulses));
            let door = Door { core, tls, room, clients: Arc::clone(&clients), pulses };
            tokio::task::spawn_local(Rc::clone(&door.core.turns).in_turn(accept(listener, door)));
        }
        tokio::task::spawn_local(look_after(Rc::clone(&pulses)));
        let mut drains = phase.clone();
        tokio::task::spawn_local(async move {
            // An error says that the node is gone, and so it drains too.
            let _ = drains.wait_for(|phase| *phase != Phase::Serving).await;
            tokio::time::sleep(DRAIN_GRACE).await;
            pulses.drain();
        });
        // An error says that the node is gone without a word.
        let _ = phase.wait_for(|phase| *phase == Phase::Stopped).await;
    });
}

/// Cores that the node serves on, one thread each.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Connections may take half of the descriptors that this process may have: whoever opens them all must not keep the
/// box from its own files.
fn connections_per_core() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = files.and_then(|files| usize::try_from(files).ok()).unwrap_or(usize::MAX);
    // Each of the two doors holds a place for whoever comes next.
    CONNECTIONS_PER_CORE_MAX.min(files / 2 / cores()).max(2)
}
