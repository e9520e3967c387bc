//! The sandbox itself: what is shared by all cores, and the road of one request through it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use base::limits::EPOCH_TICK;
use base::{Digest, TenantId};
use futures_util::FutureExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::artifact::{Artifacts, Keep};
use crate::body::Streaming;
use crate::cell::{Body, Cell};
use crate::compile::{CompileError, Compiled, Compiler, Compilers};
use crate::engine;
use crate::fault::Fault;
use crate::guest::Guest;
use crate::instance;
use crate::outbound::{Network, Sender};
use crate::program::{LoadError, Program, Programs};
use crate::watch::{Report, Watched};

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where compiled components are kept: made if missing, readable by this user only.
    pub artifacts: PathBuf,
    pub compiler: Compiler,
    /// Addresses that outgoing requests may reach although they are private: the operator's exceptions.
    pub private_hosts: Vec<SocketAddr>,
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
    #[error("the thread that ticks for the guests can't be started")]
    Ticker(#[source] io::Error),
}

/// Runs and compiles components. Cheap to clone, shared by all cores.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    engine: Engine,
    linker: Linker<Guest>,
    artifacts: Arc<Artifacts>,
    compilers: Compilers,
    programs: Programs,
    network: Arc<Network>,
    _ticker: Ticker,
}

impl Sandbox {
    /// Reserves the pool's address space, opens the folder and starts the ticker. Maps no program.
    ///
    /// # Errors
    /// The folder or the compiler can't be used, or the machine refuses memory or a thread.
    pub fn new(options: Options) -> Result<Self, StartError> {
        let Options { artifacts, compiler, private_hosts } = options;
        let engine = engine::runner().map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let linker = engine::linker(&engine).map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let opened = Artifacts::open(artifacts.clone(), engine::fingerprint(&engine));
        let artifacts = opened.map_err(|cause| StartError::Artifacts { path: artifacts, cause })?;
        let program = compiler.program.clone();
        let compilers = Compilers::new(compiler).map_err(|cause| StartError::Compiler { path: program, cause })?;
        Ok(Self(Arc::new(Inner {
            linker,
            artifacts: Arc::new(artifacts),
            compilers,
            programs: Programs::new(),
            network: Arc::new(Network::new(private_hosts).map_err(StartError::Tls)?),
            _ticker: Ticker::start(engine.clone()).map_err(StartError::Ticker)?,
            engine,
        })))
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
        let Inner { engine, linker, artifacts, programs, .. } = &*self.0;
        programs.load(engine, linker, artifacts, (tenant, component))
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

    /// Puts `request` to a fresh instance of `program`.
    ///
    /// The scheme of its URI tells the guest how the visitor came, `https` if it has none; its authority or its
    /// `Host` tells for whom. Dropping this future stops the instance, and so does dropping the response's body
    /// before its end. Must be called on a tokio runtime with time and I/O; one thread is enough.
    ///
    /// # Errors
    /// The [`Fault`], which is in the app's log by then. A fault after the response has begun is in the log
    /// too, and breaks the body off with an error.
    pub async fn handle(
        &self,
        program: &Program,
        cell: Cell,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Fault> {
        let report = Report::new(&cell);
        instance::address(&mut request).map_err(|fault| report.fault(fault))?;
        let head_only = request.method() == Method::HEAD;
        let sender = Sender::new(
            Arc::clone(&self.0.network),
            Arc::clone(&cell.outbound),
            Arc::clone(&cell.log),
            Arc::clone(&cell.request),
        );
        let (cpu, time) = (cell.cpu, cell.timeout);
        let (answer, answered) = oneshot::channel();
        let (body_gone, gone) = oneshot::channel();
        let run = instance::Run { guest: Guest::new(cell, sender), request, answer, body_gone: gone };
        let guest = instance::run(&self.0.engine, &program.proxy, run, Arc::clone(&report));
        let mut guest = Box::pin(Watched::new(guest, cpu, time, Arc::clone(&report)));
        let (response, running) = first_answer(&mut guest, answered, &report).await?;
        if !running {
            return whole(response, &report);
        }
        let guest = tokio::spawn(guest);
        let (head, inner) = response.into_parts();
        let body = Streaming::new(inner, &head, head_only, report, body_gone, guest);
        Ok(Response::from_parts(head, body.boxed_unsync()))
    }
}

/// Runs the guest until it answers. Tells whether it is still running then.
///
/// A guest that answers without ever waiting is done by then, and costs no task of its own.
async fn first_answer(
    guest: &mut Pin<Box<Watched>>,
    mut answered: oneshot::Receiver<instance::Answer>,
    report: &Arc<Report>,
) -> Result<(Response<Body>, bool), Fault> {
    let (answer, running) = std::future::poll_fn(|cx| {
        let running = guest.as_mut().poll(cx).is_pending();
        match Pin::new(&mut answered).poll(cx) {
            Poll::Ready(answer) => Poll::Ready((answer, running)),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    match answer {
        Ok(Ok(response)) => Ok((response, running)),
        Ok(Err(code)) => Err(report.fault(Fault::Failed(code))),
        // The guest is gone, and its end of the channel with it.
        Err(_) => Err(report.fault(Fault::NoResponse)),
    }
}

/// A response whose instance is gone, and so all there. One that broke was not begun to be sent: it's a fault.
fn whole(response: Response<Body>, report: &Report) -> Result<Response<Body>, Fault> {
    if let Some(fault) = report.found() {
        return Err(fault);
    }
    let (head, body) = response.into_parts();
    // All of it is in memory; tokio's habit of making a busy task wait now and then must not hide that.
    let body = match tokio::task::unconstrained(body.collect()).now_or_never() {
        Some(Ok(body)) => body,
        Some(Err(error)) => return Err(report.fault(Fault::Failed(error.to_string()))),
        None => return Err(report.fault(Fault::Failed("it left its response's body unfinished".to_owned()))),
    };
    // One piece without trailers has a length that can be told.
    let body = match body.trailers() {
        None => Full::new(body.to_bytes()).map_err(|never| match never {}).boxed_unsync(),
        Some(_) => body.map_err(|never| match never {}).boxed_unsync(),
    };
    Ok(Response::from_parts(head, body))
}

/// The clock of all guests: advances the engine's epoch every `EPOCH_TICK`.
struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: Engine) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("guest-ticks".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(EPOCH_TICK);
                engine.increment_epoch();
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can't have panicked, and there would be nothing to do about it.
            let _ = thread.join();
        }
    }
}
