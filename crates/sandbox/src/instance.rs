//! One instance: made, put requests to, and let go.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use base::Digest;
use base::limits::{GUEST_CALL_BYTES_MAX, TRAP_FRAMES_MAX};
use http::header::HOST;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, Uri};
use tokio::sync::oneshot;
use wasmtime::{AsContextMut, Store, Trap, WasmBacktrace};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::p2::bindings::Proxy as Proxy02;
use wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use wasmtime_wasi_http::p3::bindings::Service as Proxy03;
use wasmtime_wasi_http::{WasiBody, WasiHttpView, p2, p3};

use crate::cell::{Body, Cell, Visit, Voice};
use crate::clock::Clock;
use crate::engine::Engines;
use crate::fault::Fault;
use crate::gone::Gone;
use crate::guest::Guest;
use crate::limiter::{Budget, Limiter, Refused};
use crate::memory::Making;
use crate::outbound::Network;
use crate::pressure::Pressure;
use crate::program::{Program, Proxy};
use crate::reuse::Registry;
use crate::watch::Report;

/// A response, or the error code that the guest answered with.
pub(crate) type Answer = Result<Response<WasiBody>, String>;

/// What all instances stand on.
pub(crate) struct Ground {
    pub(crate) engines: Arc<Engines>,
    pub(crate) network: Arc<Network>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) registry: Registry,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) gone: Gone,
    pub(crate) clock: Clock,
}

/// What a run needs.
pub(crate) struct Run {
    pub(crate) ground: Arc<Ground>,
    pub(crate) program: Arc<Program>,
    pub(crate) cell: Arc<Cell>,
    pub(crate) visit: Visit,
    pub(crate) request: Request<Body>,
    pub(crate) answer: oneshot::Sender<Answer>,
    /// Resolves when the response's body is done with.
    pub(crate) body_gone: oneshot::Receiver<()>,
    pub(crate) report: Arc<Report>,
}

/// An instance that can be put requests to, one after another.
pub(crate) struct Live {
    store: Store<Guest>,
    handler: Handler,
    component: Digest,
    /// Requests that it has answered.
    pub(crate) served: u32,
}

enum Handler {
    Http02(Proxy02),
    Http03(Proxy03),
}

/// The road of one request through an instance: one that waits, or a fresh one. It ends with the guest's last task;
/// its faults are in the report.
pub(crate) async fn run(run: Run) {
    let Run { ground, program, cell, visit, request, answer, body_gone, report } = run;
    let core = visit.core;
    let share = &cell.share;
    let mut live = match cell.reuse.as_ref().and_then(|list| list.take(core)) {
        Some(mut live) if live.component == program.component() => {
            report.note_memory(live.store.data().limiter.memory());
            live.store.data_mut().begin(visit, &report);
            live.store.set_epoch_deadline(1);
            report.note_reused();
            live
        }
        other => {
            if let Some(other) = other {
                ground.gone.let_go_of(share, Box::new(other));
            }
            match make(&ground, &program, &cell, visit, &report).await {
                Some(live) => live,
                None => return,
            }
        }
    };
    let ended = match &live.handler {
        Handler::Http02(proxy) => http02(&mut live.store, proxy, request, answer, &report).await,
        Handler::Http03(service) => http03(&mut live.store, service, request, (answer, body_gone), &report).await,
    };
    if let Err(broken) = ended {
        conclude(&live.store, &broken, &report);
        return ground.gone.let_go(share, live, &report);
    }
    let gone = match &cell.reuse {
        Some(list) if report.is_answered() => {
            live.store.data_mut().end();
            live.served += 1;
            ground.registry.keep(list, core, live, (&ground.gone, share))
        }
        _ => Some(live),
    };
    if let Some(live) = gone {
        ground.gone.let_go(share, live, &report);
    }
}

/// A fresh instance; `None` when it can't be made, and the report has the reason.
async fn make(
    ground: &Arc<Ground>,
    program: &Program,
    cell: &Cell,
    visit: Visit,
    report: &Arc<Report>,
) -> Option<Live> {
    // An instance that stays will speak for other requests, while this one's report is still read.
    let voice = match &cell.reuse {
        Some(_) => Voice::new(Arc::clone(&cell.log), Arc::clone(&visit.request)),
        None => report.voice(),
    };
    let limiter = Limiter::new(cell.memory, &ground.budget, &cell.share);
    report.note_memory(limiter.memory());
    let mut guest = Guest::new(cell, voice, &ground.network, limiter);
    guest.begin(visit, report);
    let mut store = Store::new(ground.engines.of(program.flavour()), guest);
    store.limiter(|guest| &mut guest.limiter);
    store.set_hostcall_fuel(GUEST_CALL_BYTES_MAX);
    // The watch counts the time; here the core's other tasks get their turn.
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    let (making, made) = match &program.proxy {
        Proxy::Http02(proxy) => {
            let (making, made) = making(program, cell, proxy.instantiate_async(&mut store)).await;
            (making, made.map(Handler::Http02))
        }
        Proxy::Http03(service) => {
            let (making, made) = making(program, cell, service.instantiate_async(&mut store)).await;
            (making, made.map(Handler::Http03))
        }
    };
    match made {
        Ok(handler) => return Some(Live { store, handler, component: program.component(), served: 0 }),
        Err(_) if making.was_refused() => drop(report.fault(Fault::Busy)),
        Err(error) => conclude(&store, &Broken::Start(error), report),
    }
    // What it did before it broke may be much.
    ground.gone.let_go(&cell.share, store, report);
    None
}

/// Makes an instance, whose memories are the program's.
async fn making<T>(program: &Program, cell: &Cell, instantiate: impl Future<Output = T>) -> (Making, T) {
    let mut instantiate = pin!(instantiate);
    let mut making = Some(Making::new(&program.contents, &cell.share));
    poll_fn(|cx| {
        let begun = making.take().expect("it is given back below");
        let (begun, polled) = begun.during(|| instantiate.as_mut().poll(cx));
        match polled {
            Poll::Ready(made) => Poll::Ready((begun, made)),
            Poll::Pending => {
                making = Some(begun);
                Poll::Pending
            }
        }
    })
    .await
}

/// Gives a request's URI the scheme and host that HTTP/1.1 writes elsewhere.
///
/// # Errors
/// It names no host, or one that isn't.
pub(crate) fn address(request: &mut Request<Body>) -> Result<(), Fault> {
    let mut uri = std::mem::take(request.uri_mut()).into_parts();
    if uri.authority.is_none() {
        let host = request.headers().get(HOST).ok_or_else(|| Fault::BadRequest("it names no host".to_owned()))?;
        let host = Authority::try_from(host.as_bytes());
        uri.authority = Some(host.map_err(|error| Fault::BadRequest(format!("its host is wrong: {error}")))?);
    }
    uri.scheme.get_or_insert(http::uri::Scheme::HTTPS);
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Fault::BadRequest(error.to_string()))?;
    Ok(())
}

/// Where a run broke.
enum Broken {
    /// Before any of the guest's handler ran.
    Start(wasmtime::Error),
    Request(wasmtime::Error),
    Handler(wasmtime::Error),
}

async fn http02(
    store: &mut Store<Guest>,
    proxy: &Proxy02,
    request: Request<Body>,
    answer: oneshot::Sender<Answer>,
    report: &Arc<Report>,
) -> Result<(), Broken> {
    let scheme = if request.uri().scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
    let mut http = store.data_mut().http();
    let request = http.new_incoming_request(scheme, request).map_err(Broken::Request)?;
    let report = Arc::clone(report);
    let send = move |result: Result<_, p2::bindings::http::types::ErrorCode>| {
        report.note_answered();
        // Nobody may be waiting any more.
        let _ = answer.send(result.map_err(|code| format!("{code:?}")));
    };
    let outparam = http.new_response_outparam_from_callback(send).map_err(Broken::Request)?;
    proxy.wasi_http_incoming_handler().call_handle(store, request, outparam).await.map_err(Broken::Handler)
}

async fn http03(
    store: &mut Store<Guest>,
    service: &Proxy03,
    request: Request<Body>,
    (answer, body_gone): (oneshot::Sender<Answer>, oneshot::Receiver<()>),
    report: &Arc<Report>,
) -> Result<(), Broken> {
    let report = Arc::clone(report);
    let (request, received) = p3::Request::from_http(store.data_mut().http().hooks, request);
    let handled = store.run_concurrent(async move |accessor| {
        match service.handle(accessor, request).await? {
            Ok(response) => {
                report.note_answered();
                let response = accessor.with(|mut access| response.into_http(access.as_context_mut(), received))?;
                // Nobody may be waiting any more.
                let _ = answer.send(Ok(response));
            }
            Err(code) => {
                let _ = answer.send(Err(format!("{code:?}")));
                return Ok(());
            }
        }
        // The guest's tasks write the body, and go on after it if they like; and what a body passes on from a
        // request needs this loop until it's read, though no task may be left.
        poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
        let _ = body_gone.await;
        wasmtime::error::Ok(())
    });
    handled.await.and_then(|handled| handled).map_err(Broken::Handler)
}

/// Explains how a run ended, while its store is still there: a body that ends must find the fault reported.
fn conclude(store: &Store<Guest>, broken: &Broken, report: &Report) {
    let (Broken::Start(error) | Broken::Request(error) | Broken::Handler(error)) = broken;
    let limiter = &store.data().limiter;
    let fault = if let Some(refused) = limiter.refused() {
        match refused {
            Refused::Instance => Fault::OutOfMemory(limiter.memory_max()),
            Refused::Tenant | Refused::Box => Fault::BoxOutOfMemory,
        }
    } else {
        match broken {
            Broken::Request(error) => Fault::BadRequest(error.to_string()),
            Broken::Start(error) if !error.is::<WasmBacktrace>() => Fault::NoInstance(format!("{error:#}")),
            _ => Fault::Trap(explain(error)),
        }
    };
    report.fault_with(fault, &frames(error));
}

fn explain(error: &wasmtime::Error) -> String {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return format!("it exited with status {}", exit.0);
    }
    let why = match error.downcast_ref::<Trap>() {
        Some(trap) => trap.to_string(),
        None => error.root_cause().to_string(),
    };
    why.strip_prefix("wasm trap: ").map(str::to_owned).unwrap_or(why)
}

/// The guest's call stack, innermost first. Empty for a component without names: numbers help nobody.
fn frames(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else {
        return Vec::new();
    };
    if backtrace.frames().iter().all(|frame| frame.func_name().is_none()) {
        return Vec::new();
    }
    // The first line is a heading. Wasmtime demangles the names.
    backtrace.to_string().lines().skip(1).take(TRAP_FRAMES_MAX).map(str::to_owned).collect()
}
