//! The sandbox itself: what is shared by all cores, and the road of one request through it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use base::limits::{MEMORY_LOOK, RESPONSE_AT_ONCE_BYTES_MAX, RESPONSE_AT_ONCE_PIECES_MAX};
use base::{Digest, TenantId};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;
use wasmtime_wasi_http::WasiBody;

use crate::artifact::{Artifacts, Keep};
use crate::body::{Streaming, Whole};
use crate::cell::{Body, BodyError, Cell, Visit, Voice};
use crate::clock::{self, Ticker};
use crate::compile::{CompileError, Compiled, Compiler, Compilers};
use crate::engine::{Engines, Linkers};
use crate::fault::Fault;
use crate::gone::Gone;
use crate::instance::{self, Ground};
use crate::limiter::Budget;
use crate::memory::{Memories, Stacks};
use crate::outbound::Network;
use crate::pressure::Pressure;
use crate::program::{LoadError, Program, Programs};
use crate::reuse::Registry;
use crate::watch::{Report, Watched};

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where compiled components are kept: made if missing, readable by this user only.
    pub artifacts: PathBuf,
    pub compiler: Compiler,
    /// Addresses that outgoing requests may reach although they are private: the operator's exceptions.
    pub private_hosts: Vec<SocketAddr>,
    /// Bytes of linear memory that all instances may have together.
    pub memory: u64,
    /// Bytes of its own that the process may use. Beyond it instances are stopped, of the largest tenant first.
    pub process_memory: u64,
}

/// Why a sandbox can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the folder {} for compiled components can't be used", .path.display())]
    Artifacts {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the compiler {} can't be opened", .path.display())]
    Compiler {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    #[error("the WebAssembly engine can't be set up: {0}")]
    Engine(String),
    #[error("TLS for outgoing requests can't be set up")]
    Tls(#[source] rustls::Error),
    #[error("a thread beside the guests can't be started")]
    Thread(#[source] io::Error),
}

/// Runs and compiles components. Cheap to clone, shared by all cores.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    ground: Arc<Ground>,
    linkers: Linkers,
    artifacts: Arc<Artifacts>,
    compilers: Compilers,
    programs: Programs,
    /// What looks how much memory is used, and lets go the instances that have waited too long.
    _memory: Every,
    _ticker: Ticker,
}

impl Sandbox {
    /// Reserves the pool's address space, opens the folder and starts the ticker. Maps no program.
    ///
    /// # Errors
    /// The folder or the compiler can't be used, or the machine refuses memory or a thread.
    pub fn new(options: Options) -> Result<Self, StartError> {
        let Options { artifacts, compiler, private_hosts, memory, process_memory } = options;
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let (memories, stacks) = (Arc::new(Memories::new(cores)), Arc::new(Stacks::new(cores)));
        let engines = Engines::new(&memories, &stacks).map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let linkers = Linkers::new(&engines).map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let opened = Artifacts::open(artifacts.clone(), engines.fingerprint());
        let artifacts = opened.map_err(|cause| StartError::Artifacts { path: artifacts, cause })?;
        let program = compiler.program.clone();
        let compilers = Compilers::new(compiler).map_err(|cause| StartError::Compiler { path: program, cause })?;
        let network = Arc::new(Network::new(private_hosts).map_err(StartError::Tls)?);
        let budget = Budget::new(memory);
        let registry = Registry::new(Arc::clone(&budget));
        let pressure = Arc::new(Pressure::new(process_memory));
        let gone = Gone::start(Arc::clone(&pressure)).map_err(StartError::Thread)?;
        let engines = Arc::new(engines);
        let ticking = Arc::clone(&engines);
        let (clock, ticker) = clock::start(move || ticking.tick()).map_err(StartError::Thread)?;
        let ground = Arc::new(Ground { engines, network, budget, registry, pressure, gone, clock });
        let looking = Arc::clone(&ground);
        let memory = Every::start("guest-memory", MEMORY_LOOK, move || {
            looking.pressure.look();
            if looking.pressure.is_high() {
                memories.release();
                stacks.release();
            }
            looking.registry.retire(looking.pressure.is_high());
        });
        let memory = memory.map_err(StartError::Thread)?;
        let (artifacts, programs) = (Arc::new(artifacts), Programs::new());
        Ok(Self(Arc::new(Inner { ground, linkers, artifacts, compilers, programs, _memory: memory, _ticker: ticker })))
    }

    /// Validates and compiles `wasm` in the compile process, unless its artifact is there already.
    ///
    /// If the caller goes away the process is killed and nothing is left behind.
    ///
    /// # Errors
    /// What is wrong with the component, or why it wasn't looked at.
    pub async fn compile(&self, tenant: TenantId, wasm: &[u8]) -> Result<Compiled, CompileError> {
        self.0.compilers.compile(&self.0.artifacts, tenant, wasm).await
    }

    /// Is its artifact there? Not, where that can't be read: [`Self::compile`] then says why. Reads one small file.
    #[must_use]
    pub fn is_compiled(&self, tenant: TenantId, component: Digest) -> bool {
        self.0.artifacts.find(tenant, component).is_ok_and(|found| found.is_some())
    }

    /// Compilations that run now, and pushes that wait for one.
    #[must_use]
    pub fn compiling(&self) -> (usize, usize) {
        self.0.compilers.queue()
    }

    /// The program, if it is mapped already. Takes one short lock.
    #[must_use]
    pub fn loaded(&self, tenant: TenantId, component: Digest) -> Option<Arc<Program>> {
        self.0.programs.get(tenant, component)
    }

    /// Maps the program, unless it is. Blocks for the disk: tens of milliseconds for a JavaScript component.
    ///
    /// # Errors
    /// [`LoadError::Missing`] and [`LoadError::Damaged`] ask for [`Self::compile`].
    pub fn load(&self, tenant: TenantId, component: Digest) -> Result<Arc<Program>, LoadError> {
        let Inner { ground, linkers, artifacts, programs, .. } = &*self.0;
        programs.load(&ground.engines, linkers, artifacts, (tenant, component))
    }

    /// [`Self::loaded`], else [`Self::load`] on a thread of its own.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn program(&self, tenant: TenantId, component: Digest) -> Result<Arc<Program>, LoadError> {
        if let Some(program) = self.loaded(tenant, component) {
            return Ok(program);
        }
        let sandbox = self.clone();
        let loading = tokio::task::spawn_blocking(move || sandbox.load(tenant, component));
        loading
            .await
            .unwrap_or_else(|panicked| Err(LoadError::Unreadable { component, cause: io::Error::other(panicked) }))
    }

    /// Removes what was compiled and is in nobody's `keep` any more, once it is `older_than` a push lasts, and gives
    /// how much that was. Instances that run go on. Blocks for the disk.
    ///
    /// # Errors
    /// The files can't be read or removed.
    pub fn sweep(&self, keep: &Keep, older_than: Duration) -> io::Result<usize> {
        let gone = self.0.artifacts.sweep(keep, older_than)?;
        for (tenant, component) in &gone {
            self.0.programs.remove(*tenant, *component);
        }
        Ok(gone.len())
    }

    /// Puts `request` to an instance of `program`: a fresh one, or one that waits in the cell's list.
    ///
    /// The scheme of its URI tells the guest how the visitor came, `https` if it has none; its authority or its
    /// `Host` tells for whom. What the instance still does when it has answered is given to `go_on`, to run as a task
    /// of its own, in the caller's turns. Dropping this future stops the instance, and so does dropping the response's body
    /// before its end. Must be called on a tokio runtime with time and I/O; one thread is enough.
    ///
    /// # Errors
    /// The [`Fault`], which is in the app's log by then. A fault after the response has begun is in the log
    /// too, and breaks the body off with an error.
    pub async fn handle(
        &self,
        program: &Arc<Program>,
        cell: &Arc<Cell>,
        visit: Visit,
        mut request: Request<Body>,
        go_on: impl FnOnce(Watched) -> Task<()>,
    ) -> Result<Response<Body>, Fault> {
        self.0.ground.pressure.knows(&cell.share);
        let report = Report::new(Voice::new(Arc::clone(&cell.log), Arc::clone(&visit.request)), &cell.share);
        instance::address(&mut request).map_err(|fault| report.fault(fault))?;
        let head_only = request.method() == Method::HEAD;
        let (answer, answered) = oneshot::channel();
        let (body_gone, gone) = oneshot::channel();
        let run = instance::run(instance::Run {
            ground: Arc::clone(&self.0.ground),
            program: Arc::clone(program),
            cell: Arc::clone(cell),
            visit,
            request,
            answer,
            body_gone: gone,
            report: Arc::clone(&report),
        });
        let guest = Watched::new(Box::pin(run), Arc::clone(cell), Arc::clone(&self.0.ground), Arc::clone(&report));
        let answer = respond(guest, answered, body_gone, head_only, Arc::clone(&report), go_on).await;
        if answer.is_err()
            && report.is_reused()
            && let Some(list) = &cell.reuse
            && list.failed()
        {
            report.line(
                "it was the second request or a later one to this instance: from now on each gets a fresh one. If the \
                 component can't answer twice, take `reuse` out of firm.toml; the next release tries again",
            );
        }
        answer
    }

    /// Linear memory that all instances have together, in bytes, and how many of them wait for a request.
    #[must_use]
    pub fn held(&self) -> (u64, usize) {
        (self.0.ground.budget.used(), self.0.ground.registry.count())
    }
}

/// Runs the guest until it has answered, and then for as long as it goes on without waiting: most are done by then,
/// and a response that is whole needs no task of its own and can tell its length.
async fn respond(
    mut guest: Watched,
    mut answered: oneshot::Receiver<instance::Answer>,
    body_gone: oneshot::Sender<()>,
    head_only: bool,
    report: Arc<Report>,
    go_on: impl FnOnce(Watched) -> Task<()>,
) -> Result<Response<Body>, Fault> {
    let (answer, mut running) = std::future::poll_fn(|cx| {
        let running = Pin::new(&mut guest).poll(cx).is_pending();
        match Pin::new(&mut answered).poll(cx) {
            Poll::Ready(answer) => Poll::Ready((answer, running)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    let (head, mut body) = match answer {
        Ok(Ok(response)) => response.into_parts(),
        Ok(Err(code)) => return Err(report.fault(Fault::Failed(code))),
        // The guest is gone, and its end of the channel with it.
        Err(_) => return Err(report.fault(Fault::NoResponse)),
    };
    let mut first = VecDeque::new();
    let read = std::future::poll_fn(|cx| Poll::Ready(read_on(&mut guest, &mut running, &mut body, &mut first, cx)));
    let more = match tokio::task::unconstrained(read).await {
        Ok(more) => more,
        // Nothing has been sent yet, so the visitor needn't see half of it.
        Err(error) => return Err(report.fault(Fault::Failed(error.to_string()))),
    };
    if let Some(fault) = report.found() {
        return Err(fault);
    }
    if more && !running {
        return Err(report.fault(Fault::Failed("it left its response's body unfinished".to_owned())));
    }
    let body = if more {
        let guest = go_on(guest);
        Streaming::new(first, body, &head, head_only, report, body_gone, guest).boxed_unsync()
    } else {
        drop(body_gone);
        if running {
            end(guest, go_on).await;
        }
        Whole::new(first).boxed_unsync()
    };
    Ok(Response::from_parts(head, body))
}

/// Lets the guest and its body's reader take turns for as long as one of them gets on. Gives whether there is more to
/// come.
fn read_on(
    guest: &mut Watched,
    running: &mut bool,
    body: &mut WasiBody,
    first: &mut VecDeque<Frame<Bytes>>,
    cx: &mut Context<'_>,
) -> Result<bool, BodyError> {
    let mut bytes = 0;
    loop {
        let mut moved = false;
        while let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            let Some(frame) = frame.transpose()? else { return Ok(false) };
            bytes += frame.data_ref().map_or(0, Bytes::len);
            first.push_back(frame);
            if bytes > RESPONSE_AT_ONCE_BYTES_MAX || first.len() >= RESPONSE_AT_ONCE_PIECES_MAX {
                // Whoever streams is polled again by its task.
                return Ok(true);
            }
            moved = true;
        }
        if !*running || !moved {
            return Ok(true);
        }
        *running = Pin::new(&mut *guest).poll(cx).is_pending();
    }
}

/// Its answer is whole. What it still does, it does on its own, within its time.
async fn end(mut guest: Watched, go_on: impl FnOnce(Watched) -> Task<()>) {
    let running = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut guest).poll(cx).is_pending())).await;
    if running {
        go_on(guest);
    }
}

/// A thread that does one thing again and again.
struct Every {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Every {
    fn start(name: &str, period: Duration, work: impl Fn() + Send + 'static) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::park_timeout(period);
                work();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Every {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It can't have panicked, and there would be nothing to do about it.
            let _ = thread.join();
        }
    }
}
