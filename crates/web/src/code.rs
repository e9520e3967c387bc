//! Tenants' code: from a route to an instance, and what that instance is lent.

mod store;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use base::limits::{
    INSTANCES_PER_TENANT_MAX, REQUEST_BODY_BYTES_MAX, TRANSFER_BYTES_PER_SECOND_MIN, WAITING_PER_PLACE_MAX,
};
use base::{AppId, Digest, Name, ReleaseNo, TenantId, chain};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use persist::{Line, Logs};
use sandbox::{BodyError, Cell, Fault, LoadError, Program, Reuse, Stream, Visit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::ahead;
use crate::answer::{Body, Page};
use crate::front::Core;
use crate::listen;
use crate::observe::IdText;
use crate::observe::Mark;
use crate::router::{Code, Site};
use crate::upload::{Cut, Fate, Upload};

pub(crate) use store::{Buckets, refused};

/// Lets so many requests of a component run at once, and a bounded number wait.
pub(crate) struct Turnstile {
    places: u32,
    free: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// Counts as waiting while it lives, so that a visitor who leaves doesn't count for ever.
struct Waits<'a>(&'a AtomicU32);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a request didn't get through the turnstile.
#[derive(Debug, PartialEq, Eq)]
enum TurnedAway {
    /// Too many wait already.
    Full,
    /// It waited as long as it may run.
    Late,
}

impl Turnstile {
    pub(crate) fn new(places: u32) -> Self {
        let free = Arc::new(Semaphore::new(usize::try_from(places).unwrap_or(usize::MAX)));
        Self { places, free, waiting: AtomicU32::new(0) }
    }

    pub(crate) fn places(&self) -> u32 {
        self.places
    }

    async fn enter(&self, patience: Duration) -> Result<OwnedSemaphorePermit, TurnedAway> {
        if let Ok(place) = Arc::clone(&self.free).try_acquire_owned() {
            return Ok(place);
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        if before >= self.places.saturating_mul(WAITING_PER_PLACE_MAX) {
            return Err(TurnedAway::Full);
        }
        match tokio::time::timeout(patience, Arc::clone(&self.free).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(TurnedAway::Late),
        }
    }
}

/// An app's log, as its instances write to it.
pub(crate) struct AppLog {
    logs: Logs,
    tenant: TenantId,
    app: AppId,
    stage: Name,
    release: ReleaseNo,
}

impl AppLog {
    pub(crate) fn new(logs: &Logs, site: &Site) -> Self {
        let Site { tenant, app, stage, release, .. } = site;
        Self { logs: logs.clone(), tenant: *tenant, app: *app, stage: stage.clone(), release: *release }
    }
}

impl sandbox::Log for AppLog {
    fn line(&self, request: &str, stream: Stream, text: &str) {
        let line = Line {
            at: SystemTime::now().into(),
            stage: self.stage.clone(),
            release: self.release,
            request: Some(request.to_owned()),
            stream: match stream {
                Stream::Stdout => persist::Stream::Stdout,
                Stream::Stderr => persist::Stream::Stderr,
                Stream::Fault => persist::Stream::Fault,
            },
            text: text.to_owned(),
        };
        self.logs.write(self.tenant, self.app, line);
    }
}

/// Puts a request to a component.
pub(crate) async fn answer(
    core: &Rc<Core>,
    site: &Arc<Site>,
    code: &Code,
    component: Digest,
    request: &mut Request<Option<Incoming>>,
    id: &IdText,
) -> Response<Body> {
    let cell = code.cell.get_or_init(|| Arc::new(cell(core, site, code)));
    if request.body().as_ref().is_some_and(|body| body.size_hint().lower() > REQUEST_BODY_BYTES_MAX) {
        return cut_off(Cut::Long, id);
    }
    let refuse = |status, said, why: &str| {
        cell.log.line(id, Stream::Fault, why);
        Page { status, said, help: "Try again in a moment." }.answer(id)
    };
    let place = match code.turnstile.enter(code.timeout).await {
        Ok(place) => place,
        Err(TurnedAway::Full) => {
            let why = format!(
                "{} requests run and {WAITING_PER_PLACE_MAX} times as many wait: refused",
                code.turnstile.places()
            );
            return unavailable(refuse(StatusCode::SERVICE_UNAVAILABLE, "This app is busy.", &why));
        }
        Err(TurnedAway::Late) => {
            let why = format!("no place came free within {:?}: refused", code.timeout);
            return unavailable(refuse(StatusCode::SERVICE_UNAVAILABLE, "This app is busy.", &why));
        }
    };
    let Ok(share) = Arc::clone(&site.instances).try_acquire_owned() else {
        let why = format!(
            "{INSTANCES_PER_TENANT_MAX} requests run in the tenant's apps together, its share of the box: refused"
        );
        return unavailable(refuse(StatusCode::SERVICE_UNAVAILABLE, "This app is busy.", &why));
    };
    let program = match program(core, site, code, component).await {
        Ok(program) => program,
        Err(why) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, "This app can't be started.", &why),
    };
    let visit = Visit { request: Arc::from(&**id), core: core.number, permit: Some(Box::new((place, share))) };
    let head_only = *request.method() == Method::HEAD;
    let shares_its_domain = request.uri().host().is_some_and(|host| core.cloud.is_own(host));
    let (parts, body) = std::mem::take(request).into_parts();
    let body = body.filter(|body| !body.is_end_stream()).map(Upload::new);
    let fate = body.as_ref().map(Upload::fate);
    let body = body.map(|body| body.map_err(body_error).boxed_unsync());
    let request = Request::from_parts(parts, body.unwrap_or_default());
    let turns = Rc::clone(&core.turns);
    let go_on = |rest| tokio::task::spawn_local(turns.rest_in_turn(rest));
    let handled = core.cloud.sandbox.handle(&program, cell, visit, request, go_on).await;
    if let Some(cut) = fate.as_ref().and_then(Fate::cut) {
        // Whatever the app made of half a request: the visitor hears what was wrong with it.
        return cut_off(cut, id);
    }
    match handled {
        Ok(answer) => {
            let (mut parts, body) = answer.into_parts();
            if parts.status.is_informational() {
                let why = format!(
                    "it answered with status {}, which only announces an answer: refused",
                    parts.status.as_u16()
                );
                return refuse(StatusCode::BAD_GATEWAY, "This app failed.", &why);
            }
            strip_hop_by_hop(&mut parts.headers);
            if shares_its_domain {
                keep_cookies_at_home(&mut parts.headers);
            }
            if parts.status == StatusCode::NO_CONTENT {
                parts.headers.remove(header::CONTENT_LENGTH);
            }
            // Whatever the app writes: over HTTP/2 a body here would be a violation of the protocol.
            let no_body = head_only || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
            Response::from_parts(parts, if no_body { Body::empty() } else { Body::Guest(body) })
        }
        Err(fault) => failed(&fault, id),
    }
}

/// What the release's instances are lent.
fn cell(core: &Core, site: &Site, code: &Code) -> Cell {
    Cell {
        tenant: site.tenant,
        database: site.database.id,
        kv: Arc::clone(&site.kv),
        env: Arc::clone(&site.env),
        config: Arc::clone(&site.config),
        outbound: Arc::clone(&site.outbound),
        memory: code.memory,
        share: Arc::clone(&site.memory),
        cpu: code.cpu,
        timeout: code.timeout,
        log: Arc::new(AppLog::new(&core.cloud.store.logs, site)),
        store: Arc::clone(&core.buckets) as Arc<dyn sandbox::KeyValue>,
        reuse: code.reuse.then(|| Reuse::new(listen::cores())),
    }
}

/// A body that wasn't read to its end. The rest may still come, and is nobody's next request.
fn cut_off(cut: Cut, id: &str) -> Response<Body> {
    let (status, said, help) = match cut {
        Cut::Slow => (
            StatusCode::REQUEST_TIMEOUT,
            "The request came too slowly.",
            format!("Send at least {TRANSFER_BYTES_PER_SECOND_MIN} bytes a second."),
        ),
        Cut::Long => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "The request is too long.",
            format!("Its body may have {REQUEST_BODY_BYTES_MAX} bytes."),
        ),
        Cut::Broken => (StatusCode::BAD_REQUEST, "The request's body is damaged.", "Send it again.".to_owned()),
    };
    Page { status, said, help: &help }.answer(id)
}

/// The visitor's connection broke, its body came too slowly, or it is longer than one may be.
fn body_error(error: Box<dyn std::error::Error + Send + Sync>) -> BodyError {
    match error.downcast_ref::<Cut>() {
        Some(Cut::Slow) => BodyError::ConnectionReadTimeout,
        Some(Cut::Long) => BodyError::HttpRequestBodySize(Some(REQUEST_BODY_BYTES_MAX)),
        Some(Cut::Broken) | None => {
            error.downcast::<hyper::Error>().map_or(BodyError::HttpProtocolError, |error| (*error).into())
        }
    }
}

/// The mapped program; compiled where it isn't yet, or where an upgrade of the engine has made its artifact useless.
async fn program(core: &Rc<Core>, site: &Site, code: &Code, component: Digest) -> Result<Arc<Program>, String> {
    let sandbox = &core.cloud.sandbox;
    if let Some(program) = sandbox.loaded(site.tenant, component) {
        return Ok(program);
    }
    match sandbox.program(site.tenant, component).await {
        Ok(program) => return Ok(program),
        Err(LoadError::Missing(_) | LoadError::Damaged(_)) => {}
        Err(error) => return Err(chain(&error)),
    }
    tracing::info!(app = %site.name, component = %code.name, "compiling: there is no artifact for this engine");
    ahead::compiled(&core.cloud, site.tenant, site.content, component).await.map_err(|error| chain(&error))?;
    sandbox.program(site.tenant, component).await.map_err(|error| chain(&error))
}

/// What a visitor hears of a fault: that it happened, and the id by which the log tells the rest.
fn failed(fault: &Fault, id: &str) -> Response<Body> {
    let (status, said) = match fault {
        Fault::OutOfTime(_) => (StatusCode::GATEWAY_TIMEOUT, "This app took too long."),
        Fault::Busy | Fault::BoxOutOfMemory => (StatusCode::SERVICE_UNAVAILABLE, "This box is busy."),
        Fault::BadRequest(_) => (StatusCode::BAD_REQUEST, "This request can't be put to the app."),
        Fault::Trap(_)
        | Fault::OutOfCpu(_)
        | Fault::OutOfMemory(_)
        | Fault::NoResponse
        | Fault::Failed(_)
        | Fault::NoInstance(_) => (StatusCode::INTERNAL_SERVER_ERROR, "This app failed."),
    };
    let mut answer =
        Page { status, said, help: "Whoever runs it finds the reason in its log under the request below." }.answer(id);
    answer.extensions_mut().insert(Mark::Fault(fault.into()));
    if status == StatusCode::SERVICE_UNAVAILABLE { unavailable(answer) } else { answer }
}

fn unavailable(mut answer: Response<Body>) -> Response<Body> {
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    answer
}

/// A guest speaks of its answer, not of the connection.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const NAMES: [HeaderName; 7] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
    ];
    // Hardly any answer has one, and looking at the few fields that it has is cheaper than looking for each of these.
    if headers.keys().any(|name| NAMES.contains(name)) {
        for name in NAMES {
            headers.remove(name);
        }
    }
}

const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// Within the cloud's own domain a cookie stays at the host that set it. With `Domain` an app could put one into
/// every other tenant's app, and none of them could tell. Scripts in a page still can, until browsers
/// know the domain for a public suffix. `Clear-Site-Data` goes: of cookies it clears those of the whole domain, every
/// tenant's, for whoever visits one app.
fn keep_cookies_at_home(headers: &mut HeaderMap) {
    if headers.contains_key(CLEAR_SITE_DATA) {
        headers.remove(CLEAR_SITE_DATA);
    }
    if !headers.contains_key(header::SET_COOKIE) {
        return;
    }
    let is_domain = |attribute: &[u8]| {
        let name = attribute.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"domain")
    };
    let kept = |cookie: &HeaderValue| {
        let mut parts = cookie.as_bytes().split(|byte| *byte == b';');
        let first = parts.next().unwrap_or_default();
        let kept = [first].into_iter().chain(parts.filter(|part| !is_domain(part))).collect::<Vec<_>>().join(&b';');
        HeaderValue::from_bytes(&kept).ok()
    };
    let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().filter_map(kept).collect();
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        headers.append(header::SET_COOKIE, cookie);
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_stays_at_the_host_that_set_it() {
        for (set, wanted) in [
            ("a=1; Path=/; Domain=localhost; Secure", "a=1; Path=/; Secure"),
            ("a=1;domain=.acme.localhost", "a=1"),
            ("a=1; \tDOMAIN =x; Domain=y;Domain", "a=1"),
            ("Domain=kept; Path=/domain", "Domain=kept; Path=/domain"),
            ("a=\"; Domain=x\"", "a=\""),
            ("a=1; Subdomain=x; SameSite=Lax", "a=1; Subdomain=x; SameSite=Lax"),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::SET_COOKIE, HeaderValue::from_static("first=1"));
            headers.append(header::SET_COOKIE, HeaderValue::from_static(set));
            headers.append("clear-site-data", HeaderValue::from_static("\"cookies\""));
            keep_cookies_at_home(&mut headers);
            assert!(!headers.contains_key("clear-site-data"));
            let held: Vec<_> = headers.get_all(header::SET_COOKIE).iter().collect();
            assert_eq!(held, ["first=1", wanted], "{set}");
        }
    }

    #[tokio::test]
    async fn a_turnstile_lets_so_many_in_and_so_many_wait() {
        let turnstile = Arc::new(Turnstile::new(1));
        let inside = turnstile.enter(Duration::ZERO).await.expect("it is free");
        assert_eq!(turnstile.enter(Duration::from_millis(1)).await.err(), Some(TurnedAway::Late));
        let waiting: Vec<_> = (0..WAITING_PER_PLACE_MAX)
            .map(|_| {
                let turnstile = Arc::clone(&turnstile);
                tokio::spawn(async move { turnstile.enter(Duration::from_secs(9)).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(turnstile.enter(Duration::from_secs(9)).await.err(), Some(TurnedAway::Full));
        drop(inside);
        for task in waiting {
            assert!(task.await.expect("it doesn't panic"));
        }
        assert_eq!(turnstile.waiting.load(Ordering::Relaxed), 0);
    }
}
