//! One request, from its parsed head to its answer.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use base::limits::URL_BYTES_MAX;
use base::{Timestamp, chain};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use state::manifest::Throttle;

use crate::answer::{Body, Page, Served, redirect};
use crate::assets;
use crate::cloud::Cloud;
use crate::code::{self, Buckets};
use crate::router::{Router, Site, SiteRoute, SiteTarget};
use crate::throttle::{self, Verdict};
use crate::{files, gate, manage};

/// What one core holds.
pub(crate) struct Core {
    pub cloud: Arc<Cloud>,
    pub assets: assets::Cache,
    pub buckets: Arc<Buckets>,
    router: RefCell<Cache<Arc<ArcSwap<Router>>, Arc<Router>>>,
    /// Requests so far, over a random start: the next request's id.
    requests: Cell<u64>,
}

/// Where a connection came from, and how.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    pub scheme: Scheme,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Plain,
    /// With the name that the visitor asked for in the handshake.
    Tls { name: Option<Arc<str>> },
}

impl Core {
    pub(crate) fn new(cloud: Arc<Cloud>) -> Result<Self, getrandom::Error> {
        let router = RefCell::new(Cache::new(Arc::clone(&cloud.router)));
        let buckets = Arc::new(Buckets(cloud.store.databases.clone()));
        let requests = Cell::new(u64::from_be_bytes(crate::cloud::random()?));
        Ok(Self { cloud, assets: assets::Cache::new(), buckets, router, requests })
    }

    fn router(&self) -> Arc<Router> {
        Arc::clone(self.router.borrow_mut().load())
    }

    /// Not secret, only unlikely to come twice: a core starts at a random number and counts.
    fn request_id(&self) -> Arc<str> {
        let id = self.requests.get().wrapping_add(1);
        self.requests.set(id);
        format!("{id:016x}").into()
    }
}

/// Answers one request. It never fails: what goes wrong is an answer too.
pub(crate) async fn serve(core: Rc<Core>, peer: Peer, request: Request<Incoming>) -> Served {
    let id = core.request_id();
    let mut answer = route(&core, &peer, request, &id).await;
    let id = HeaderValue::from_str(&id).expect("hexadecimal digits");
    answer.headers_mut().insert("x-request-id", id);
    Ok(answer)
}

async fn route(core: &Rc<Core>, peer: &Peer, request: Request<Incoming>, id: &Arc<str>) -> Response<Body> {
    if core.cloud.is_draining() {
        return draining(request.version(), id);
    }
    let url_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if url_bytes > URL_BYTES_MAX {
        let help = format!("It has {url_bytes} bytes, and {URL_BYTES_MAX} are the most.");
        return Page { status: StatusCode::URI_TOO_LONG, said: "The address is too long.", help: &help }.answer(id);
    }
    let Some(host) = host(&request) else {
        let help = "Send a Host header with the name of the site.";
        return Page { status: StatusCode::BAD_REQUEST, said: "The request names no host.", help }.answer(id);
    };
    if let Scheme::Tls { name: Some(name) } = &peer.scheme
        && **name != *host
    {
        let help = "Open a new connection for this host.";
        let said = "The connection was made for another host.";
        return Page { status: StatusCode::MISDIRECTED_REQUEST, said, help }.answer(id);
    }
    if peer.scheme == Scheme::Plain && !core.cloud.settings.serve_plain {
        return to_tls(core, &host, &request, id);
    }
    if is_api(core, peer, &host) {
        return manage::serve(core, peer, request, id).await;
    }
    let router = core.router();
    let Some(site) = router.site(&host) else {
        let said = format!("No app answers at {host}.");
        return Page { status: StatusCode::NOT_FOUND, said: &said, help: "Check the address." }.answer(id);
    };
    let now: Timestamp = SystemTime::now().into();
    if let Err(answer) = gate::check(site, &core.cloud.record(), now, &request, id) {
        return *answer;
    }
    site_answer(core, peer, site, request, id).await
}

/// The API speaks over TLS only: a token must not cross a network in the clear, even where apps may be served so.
fn is_api(core: &Core, peer: &Peer, host: &str) -> bool {
    let by_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    peer.scheme != Scheme::Plain && (by_address || host == core.cloud.api_host())
}

async fn site_answer(
    core: &Rc<Core>,
    peer: &Peer,
    site: &Arc<Site>,
    mut request: Request<Incoming>,
    id: &Arc<str>,
) -> Response<Body> {
    let Some(route) = site.route(request.uri().path()) else {
        let help = "The app has no route for this path.";
        return Page { status: StatusCode::NOT_FOUND, said: "There is nothing here.", help }.answer(id);
    };
    let limits = [site.limit.as_ref().map(|limit| (limit, None)), route.limit.as_ref().map(|limit| (limit, Some(route)))];
    for (limit, route) in limits.into_iter().flatten() {
        if let Verdict::Wait(wait) = admit(core, peer, site, limit, route) {
            return too_many(limit, wait.as_secs_f64().ceil(), id);
        }
    }
    let assets = match core.assets.assets(&core.cloud.store.chunks, site.tenant, site.content).await {
        Ok(assets) => assets,
        Err(error) => return unreadable(site, &chain(&error), id),
    };
    gate::strip(request.headers_mut());
    match &route.target {
        SiteTarget::Static { name, folder } => {
            let Some(files) = assets.statics.get(name) else { return unreadable(site, "a static folder is missing", id) };
            let (parts, _) = request.into_parts();
            let asked = files::Asked {
                site,
                files,
                folder,
                path: parts.uri.path(),
                below: route.prefix.len(),
                query: parts.uri.query(),
                method: &parts.method,
                headers: &parts.headers,
                request: id,
            };
            files::answer(core, asked).await
        }
        SiteTarget::Component(code) => {
            let Some(component) = assets.components.get(&code.name) else {
                return unreadable(site, "a component is missing", id);
            };
            forwarded(peer, &mut request, id);
            code::answer(core, site, code, *component, request, id).await
        }
    }
}

fn admit(core: &Core, peer: &Peer, site: &Site, limit: &Throttle, route: Option<&SiteRoute>) -> Verdict {
    let key = throttle::Key {
        app: site.app,
        stage: site.stage.clone(),
        route: route.map(|route| route.prefix.clone()),
        client: throttle::client_key(limit, peer.address.ip()),
    };
    core.cloud.throttles.take(limit, key, Instant::now())
}

fn too_many(limit: &Throttle, wait: f64, id: &str) -> Response<Body> {
    let help = format!("This app takes {} requests. Try again in {wait} s.", limit.rate);
    let page = Page { status: StatusCode::TOO_MANY_REQUESTS, said: "Too many requests.", help: &help };
    let mut answer = page.answer(id);
    let wait = HeaderValue::try_from(format!("{wait}")).expect("digits");
    answer.headers_mut().insert(header::RETRY_AFTER, wait);
    answer
}

fn unreadable(site: &Site, why: &str, id: &str) -> Response<Body> {
    tracing::error!(request = id, app = %site.name, stage = %site.stage, release = %site.release, "the release can't be read: {why}");
    let help = "Try again; if it stays, tell whoever runs the site.";
    Page { status: StatusCode::INTERNAL_SERVER_ERROR, said: "This app can't be read just now.", help }.answer(id)
}

fn draining(version: http::Version, id: &str) -> Response<Body> {
    let page = Page { status: StatusCode::SERVICE_UNAVAILABLE, said: "This box is going down.", help: "Try again in a moment." };
    let mut answer = page.answer(id);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    if version < http::Version::HTTP_2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The host that is asked for, in lower case and without its port.
fn host(request: &Request<Incoming>) -> Option<String> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request.headers().get(header::HOST)?.to_str().ok()?,
    };
    let authority: http::uri::Authority = authority.parse().ok()?;
    Some(authority.host().trim_end_matches('.').to_ascii_lowercase())
}

fn to_tls(core: &Core, host: &str, request: &Request<Incoming>, id: &str) -> Response<Body> {
    let port = match core.cloud.settings.tls.port() {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    redirect(StatusCode::PERMANENT_REDIRECT, &format!("https://{host}{port}{path}")).unwrap_or_else(|| {
        Page { status: StatusCode::BAD_REQUEST, said: "The address can't be read.", help: "Use https." }.answer(id)
    })
}

/// Tells the app who asked and how. What a visitor wrote there itself is not believed.
fn forwarded(peer: &Peer, request: &mut Request<Incoming>, id: &str) {
    let scheme = if peer.scheme == Scheme::Plain { "http" } else { "https" };
    let headers: &mut HeaderMap = request.headers_mut();
    for name in ["forwarded", "x-forwarded-host", "x-real-ip"] {
        headers.remove(name);
    }
    let client = peer.address.ip().to_canonical().to_string();
    headers.insert("x-forwarded-for", HeaderValue::try_from(client).expect("an address is ASCII"));
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
    headers.insert("x-request-id", HeaderValue::from_str(id).expect("hexadecimal digits"));
    // HTTP/1.1 requests carry only a path; a component is told the whole address.
    if request.uri().scheme().is_none()
        && let Some(authority) = request.headers().get(header::HOST).and_then(|host| host.to_str().ok())
    {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let whole = http::Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
        if let Ok(whole) = whole {
            *request.uri_mut() = whole;
        }
    }
}
