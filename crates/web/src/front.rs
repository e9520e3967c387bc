//! One request, from its parsed head to its answer.
//!
//! Most answers are there at once: a file of which the core has the bytes, a page of the box's own. They are made in one
//! go, without a future that would be moved from hand to hand ([`Visit::route`]). What has to be waited for is told by
//! [`Wait`], and only then a [`Visit`] is put into a future of its own ([`Visit::later`]).

mod head;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use base::limits::{REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX, URL_BYTES_MAX};
use base::{Digest, Role, Timestamp, chain};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::answer::{Body, Page, redirect};
use crate::assets;
use crate::cloud::Cloud;
use crate::code::{self, Buckets};
use crate::observe::{IdText, Observer, Seen};
use crate::router::{Router, Site, SiteRoute, SiteTarget};
use crate::rules::{self, Matched};
use crate::throttle::Quota;
use crate::turns::{Turns, Whose, others_first};
use crate::{files, gate, manage};
use head::{Host, REQUEST_ID};

/// What one core holds.
pub(crate) struct Core {
    /// Its place among the cores.
    pub number: usize,
    pub cloud: Arc<Cloud>,
    pub assets: assets::Cache,
    pub buckets: Arc<Buckets>,
    pub observer: Rc<Observer>,
    pub turns: Rc<Turns>,
    sites: RefCell<Sites>,
}

/// A site, as a core has it: to hand it on costs no write to a cache line that other cores want too.
pub(crate) struct Here(Arc<Site>);

impl Deref for Here {
    type Target = Arc<Site>;

    fn deref(&self) -> &Arc<Site> {
        &self.0
    }
}

/// The sites that a core was asked for since the router changed.
struct Sites {
    router: Cache<Arc<ArcSwap<Router>>, Arc<Router>>,
    /// The router that they are of.
    of: Arc<Router>,
    known: HashMap<Box<str>, Rc<Here>>,
}

impl Sites {
    fn new(router: &Arc<ArcSwap<Router>>) -> Self {
        Self { router: Cache::new(Arc::clone(router)), of: router.load_full(), known: HashMap::new() }
    }

    fn of_host(&mut self, host: &str) -> Option<Rc<Here>> {
        let router = self.router.load();
        if !Arc::ptr_eq(router, &self.of) {
            self.of = Arc::clone(router);
            self.known.clear();
        }
        if let Some(known) = self.known.get(host) {
            return Some(Rc::clone(known));
        }
        let here = Rc::new(Here(Arc::clone(self.of.site(host)?)));
        self.known.insert(host.into(), Rc::clone(&here));
        Some(here)
    }
}

/// Where a connection came from, and how.
pub(crate) struct Peer {
    pub address: SocketAddr,
    pub scheme: Scheme,
    /// The host that was asked for last.
    last_host: RefCell<Option<Rc<Host>>>,
    /// Its address as apps are told it, since the first was.
    told: OnceCell<HeaderValue>,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, scheme: Scheme) -> Self {
        Self { address, scheme, last_host: RefCell::default(), told: OnceCell::new() }
    }

    fn client(&self) -> HeaderValue {
        self.told.get_or_init(|| head::client(self.address.ip())).clone()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Plain,
    /// With the name that the visitor asked for in the handshake.
    Tls {
        name: Option<Box<str>>,
    },
}

impl Core {
    /// Must be called on the core's `LocalSet`.
    pub(crate) fn new(number: usize, cloud: Arc<Cloud>, turns: Rc<Turns>) -> Result<Self, getrandom::Error> {
        let sites = RefCell::new(Sites::new(&cloud.router));
        let buckets = Arc::new(Buckets { here: cloud.store.databases.clone(), far: cloud.far.clone() });
        let observer = Rc::new(Observer::new(number, &cloud)?);
        Ok(Self { number, cloud, assets: assets::Cache::new(), buckets, observer, turns, sites })
    }
}

/// The answer to one request, when others that can go on have done so. It never fails: what goes wrong is an answer too.
pub(crate) enum Serving {
    /// It is there. The core's others come first, once ([`Turns::answer_soon`]).
    Made(Rc<Core>, Response<Body>),
    Ready(Response<Body>),
    Waits(Pin<Box<dyn Future<Output = Response<Body>>>>),
    Done,
}

/// Begins to answer a request.
pub(crate) fn serve(core: &Rc<Core>, peer: &Rc<Peer>, request: Request<Incoming>) -> Serving {
    let request = request.map(Some);
    let seen = core.observer.begin(&request, core.turns.begun());
    let mut visit = Visit { core: Rc::clone(core), peer: Rc::clone(peer), request, seen, host: None, site: None };
    match visit.route() {
        Ok(answer) if visit.has_read_all() => Serving::Made(Rc::clone(core), visit.end(answer)),
        Ok(answer) => Serving::Waits(Box::pin(visit.discard(answer))),
        Err(wait) => Serving::Waits(Box::pin(visit.later(wait))),
    }
}

impl Future for Serving {
    type Output = Response<Body>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        match std::mem::replace(&mut *self, Self::Done) {
            Self::Made(core, answer) => {
                if !core.turns.answers_soon() {
                    return Poll::Ready(answer);
                }
                *self = Self::Ready(answer);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Self::Ready(answer) => Poll::Ready(answer),
            Self::Waits(mut later) => {
                let polled = later.as_mut().poll(cx);
                if polled.is_pending() {
                    *self = Self::Waits(later);
                }
                polled
            }
            Self::Done => unreachable!("an answer is asked for until it is there, and no longer"),
        }
    }
}

/// One request on its way.
struct Visit {
    core: Rc<Core>,
    peer: Rc<Peer>,
    /// Its body, until somebody takes it.
    request: Request<Option<Incoming>>,
    seen: Seen,
    host: Option<Rc<Host>>,
    site: Option<At>,
}

/// Where a request is in a site.
struct At {
    site: Rc<Here>,
    /// The number of its route, if it has one.
    route: Option<usize>,
    /// What was told by its throttles, and the manifest's rules that are about it: once it has passed.
    passed: Option<(Quota, Matched)>,
}

/// What an answer waits for.
enum Wait {
    /// The API's answer.
    Api,
    /// Others have their turns.
    Turn,
    /// The index of the release is read.
    Assets,
    /// The bytes of a file are.
    File(Box<files::Unread>),
    /// An instance answers.
    Code(Digest),
}

type Step = Result<Response<Body>, Wait>;

impl Visit {
    fn id(&self) -> &IdText {
        &self.seen.id.text
    }

    /// Has nobody left any of the body on the wire?
    fn has_read_all(&self) -> bool {
        self.request.body().as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn page(&self, status: StatusCode, said: &str, help: &str) -> Response<Body> {
        Page { status, said, help }.answer(self.id())
    }

    /// An answer with which the connection ends, over HTTP/1.1. Whatever stands behind a request that was refused for its
    /// form may be a part of it.
    fn last(&self, mut answer: Response<Body>) -> Response<Body> {
        if self.request.version() < http::Version::HTTP_2 {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    /// What goes on once something has been waited for.
    async fn later(mut self, mut wait: Wait) -> Response<Body> {
        let answer = loop {
            let step = match wait {
                Wait::Api => {
                    others_first().await;
                    Ok(manage::serve(&self.core, &mut self.request, &self.seen.id.text).await)
                }
                Wait::Turn => {
                    others_first().await;
                    self.enter()
                }
                Wait::Assets => self.read_assets().await,
                Wait::File(unread) => Ok(files::read(&self.core, *unread, self.id()).await),
                Wait::Code(component) => Ok(self.run(component).await),
            };
            match step {
                Ok(answer) => break answer,
                Err(next) => wait = next,
            }
        };
        self.discard(answer).await
    }

    /// Ends the visit when what nobody wants of its body is off the wire.
    async fn discard(mut self, answer: Response<Body>) -> Response<Body> {
        // Who waits to be told to go on with the body isn't: to read it would tell him.
        let announced = self.request.headers().contains_key(header::EXPECT);
        if let Some(body) = self.request.body_mut().take().filter(|body| !announced && !body.is_end_stream()) {
            discard(body).await;
        }
        let core = Rc::clone(&self.core);
        let answer = self.end(answer);
        core.turns.answer_soon().await;
        answer
    }

    /// Lays over the answer what every one of the site's has, and counts it.
    fn end(self, mut answer: Response<Body>) -> Response<Body> {
        if let Some(At { site, passed, .. }) = self.site {
            if !site.public {
                rules::keep_private(&mut answer);
            }
            if let Some((quota, matched)) = passed {
                rules::apply(&site, matched, &mut answer);
                quota.tell(answer.headers_mut());
            }
        }
        if self.seen.head_only && !answer.body().is_end_stream() {
            // The same answer without its content (RFC 9110, 9.3.2). Over HTTP/2 whatever is there would be sent.
            if let Some(bytes) = answer.body().size_hint().exact() {
                answer.headers_mut().entry(header::CONTENT_LENGTH).or_insert(HeaderValue::from(bytes));
            }
            *answer.body_mut() = Body::empty();
        }
        answer.headers_mut().insert(REQUEST_ID, self.seen.id.text.header());
        self.core.observer.answered(self.seen, &mut answer);
        answer
    }

    /// Finds out whom the request is for.
    fn route(&mut self) -> Step {
        let core = Rc::clone(&self.core);
        if core.cloud.is_draining() {
            let mut answer =
                self.page(StatusCode::SERVICE_UNAVAILABLE, "This box is going down.", "Try again in a moment.");
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            return Ok(self.last(answer));
        }
        let url_bytes = self.request.uri().path_and_query().map_or(0, |path| path.as_str().len());
        if url_bytes > URL_BYTES_MAX {
            let help = format!("It has {url_bytes} bytes, and {URL_BYTES_MAX} are the most.");
            return Ok(self.page(StatusCode::URI_TOO_LONG, "The address is too long.", &help));
        }
        if let Some(page) = head::fault(&self.request) {
            return Ok(self.last(page.answer(self.id())));
        }
        let Some(host) = self.peer.host(&self.request) else {
            let help = "Send one Host header with the name of the site, and no other one in its place.";
            let said = "The request names no host, or two.";
            return Ok(self.last(self.page(StatusCode::BAD_REQUEST, said, help)));
        };
        if let Scheme::Tls { name: Some(name) } = &self.peer.scheme
            && *name != host.name
        {
            let said = "The connection was made for another host.";
            return Ok(self.page(StatusCode::MISDIRECTED_REQUEST, said, "Open a new connection for this host."));
        }
        if self.peer.scheme == Scheme::Plain && !core.cloud.settings.serve_plain {
            return Ok(self.to_tls(&host));
        }
        if is_api(&core, &self.peer, &host.name) {
            self.seen.enter_api();
            let _ = core.turns.works_for(Whose::House);
            return Err(Wait::Api);
        }
        if *self.request.method() == Method::CONNECT {
            // A 2xx to it would turn the connection into a tunnel, with nothing at its other end.
            let answer = self.page(StatusCode::NOT_IMPLEMENTED, "This is no proxy.", "Send a request to a site.");
            return Ok(self.last(answer));
        }
        if core.cloud.far.as_ref().is_some_and(|far| !far.roles.has(Role::Web)) {
            let help = "The cloud's web boxes do: the site's name should lead to one of them.";
            return Ok(self.page(StatusCode::MISDIRECTED_REQUEST, "This box serves no apps.", help));
        }
        let Some(site) = core.sites.borrow_mut().of_host(&host.name) else {
            let said = format!("No app answers at {}.", host.name);
            return Ok(self.page(StatusCode::NOT_FOUND, &said, "Check the address."));
        };
        core.observer.enter(&mut self.seen, &site, self.peer.address.ip(), &self.request);
        let whose = Whose::Tenant(site.tenant);
        self.host = Some(host);
        self.site = Some(At { site, route: None, passed: None });
        if core.turns.works_for(whose) { Err(Wait::Turn) } else { self.enter() }
    }

    fn to_tls(&self, host: &Host) -> Response<Body> {
        let port = match self.core.cloud.settings.tls.port() {
            443 => String::new(),
            port => format!(":{port}"),
        };
        let path = self.request.uri().path_and_query().map_or("/", |path| path.as_str());
        let to = format!("https://{}{port}{path}", host.name);
        redirect(StatusCode::PERMANENT_REDIRECT, &to)
            .unwrap_or_else(|| self.page(StatusCode::BAD_REQUEST, "The address can't be read.", "Use https."))
    }

    fn at(&mut self) -> &mut At {
        self.site.as_mut().expect("the site is known from here on")
    }

    /// Past the gate and the throttles, and to where the manifest's redirects lead.
    fn enter(&mut self) -> Step {
        let site = Rc::clone(&self.at().site);
        if !site.public {
            // What opens a private stage must not cross a network in the clear.
            if self.peer.scheme == Scheme::Plain {
                let host = self.host.as_ref().expect("its site was found by it");
                return Ok(self.to_tls(host));
            }
            let now: Timestamp = SystemTime::now().into();
            if let Err(answer) = gate::check(&site, &self.core.cloud, now, &self.request, self.id()) {
                return Ok(*answer);
            }
        }
        let path = self.request.uri().path();
        let route = site.route(path);
        let plain = rules::plain(path);
        // A file, and an app that decodes paths, may be found by a spelling that leads to another route, with other throttles.
        let meant = plain.as_deref().map_or(route, |plain| site.route(plain));
        let limits = meant.map_or(&site.limits, |route| &site.routes[route].limits);
        let quota = match limits.admit(&self.core.cloud.throttles, self.peer.address.ip()) {
            Ok(quota) => quota,
            Err(too_many) => return Ok(too_many.answer(self.id())),
        };
        let matched = rules::matching(&site, path, plain.as_deref());
        let at = self.at();
        at.route = route;
        at.passed = Some((quota, matched));
        if let Some(answer) = rules::redirect(&site, self.request.uri()) {
            return Ok(answer);
        }
        if meant != route
            && let Some(answer) = plain.and_then(|plain| rules::respelled(&plain, self.request.uri()))
        {
            return Ok(answer);
        }
        if route.is_none() {
            return Ok(self.page(
                StatusCode::NOT_FOUND,
                "There is nothing here.",
                "The app has no route for this path.",
            ));
        }
        match self.core.assets.held(site.tenant, site.content) {
            Some(assets) => self.answer_from(&assets),
            None => Err(Wait::Assets),
        }
    }

    async fn read_assets(&mut self) -> Step {
        let site = Rc::clone(&self.at().site);
        match self.core.assets.assets(&self.core.cloud.chunks, site.tenant, site.content).await {
            Ok(assets) => self.answer_from(&assets),
            Err(error) => Ok(self.unreadable(&site, &chain(&error))),
        }
    }

    fn answer_from(&mut self, assets: &assets::Assets) -> Step {
        gate::strip(self.request.headers_mut());
        let At { site, route, .. } = self.site.as_ref().expect("the site is known from here on");
        let SiteRoute { prefix, target, .. } = &site.routes[route.expect("it has one by now")];
        match target {
            SiteTarget::Static(folder) => {
                let Some(files) = assets.statics.get(&folder.name) else {
                    return Ok(self.unreadable(site, "a static folder is missing"));
                };
                let asked = files::Asked {
                    site,
                    files,
                    folder,
                    path: self.request.uri().path(),
                    below: prefix.len(),
                    query: self.request.uri().query(),
                    method: self.request.method(),
                    headers: self.request.headers(),
                    request: self.id(),
                };
                files::answer(&self.core, &asked).map_err(Wait::File)
            }
            SiteTarget::Component(code) => {
                let Some(component) = assets.components.get(&code.name) else {
                    return Ok(self.unreadable(site, "a component is missing"));
                };
                if head::asks_for_websocket(self.request.headers()) {
                    let help = "Ask with plain requests; events from the app come as server-sent events.";
                    return Ok(self.page(StatusCode::NOT_IMPLEMENTED, "Apps here don't speak WebSocket.", help));
                }
                Err(Wait::Code(*component))
            }
        }
    }

    async fn run(&mut self, component: Digest) -> Response<Body> {
        let Self { core, peer, request, seen, host, site } = self;
        let At { site, route, .. } = site.as_ref().expect("the site is known from here on");
        let SiteTarget::Component(code) = &site.routes[route.expect("it has one by now")].target else {
            unreachable!("only a component is waited for so");
        };
        let host = host.as_ref().expect("its site was found by it");
        head::forwarded(peer, &host.authority, request, seen.id.text.header());
        core.observer.hand_on(seen, request.headers_mut());
        code::answer(core, site, code, component, request, &seen.id.text).await
    }

    fn unreadable(&self, site: &Site, why: &str) -> Response<Body> {
        tracing::error!(request = &**self.id(), app = %site.name, stage = %site.stage, release = %site.release, "the release can't be read: {why}");
        let help = "Try again; if it stays, tell whoever runs the site.";
        self.page(StatusCode::INTERNAL_SERVER_ERROR, "This app can't be read just now.", help)
    }
}

/// Takes a body that nobody wants off the wire, while it is small: a client that still sends may miss its answer.
async fn discard(mut body: Incoming) {
    let read = async {
        let mut left = REFUSED_BODY_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(less) => left = less,
                None => break,
            }
        }
    };
    // Late or broken, it is answered all the same.
    let _ = tokio::time::timeout(REFUSED_BODY_TIME_MAX, read).await;
}

/// The API speaks over TLS only: a token must not cross a network in the clear, even where apps may be served so.
fn is_api(core: &Core, peer: &Peer, host: &str) -> bool {
    let by_address = || host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    peer.scheme != Scheme::Plain && (host == core.cloud.api_host() || by_address())
}

#[cfg(test)]
mod roles;
