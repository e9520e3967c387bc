//! One request, from its parsed head to its answer.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use base::limits::{HEADER_FIELDS_MAX, REFUSED_BODY_BYTES_MAX, REFUSED_BODY_TIME_MAX, URL_BYTES_MAX};
use base::{Timestamp, chain};
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::answer::{Body, Page, Served, redirect};
use crate::assets;
use crate::cloud::Cloud;
use crate::code::{self, Buckets};
use crate::observe::{Observer, Seen};
use crate::router::{Router, Site, SiteRoute, SiteTarget};
use crate::turns::{Turns, Whose};
use crate::{files, gate, manage, rules};

/// What one core holds.
pub(crate) struct Core {
    /// Its place among the cores.
    pub number: usize,
    pub cloud: Arc<Cloud>,
    pub assets: assets::Cache,
    pub buckets: Arc<Buckets>,
    pub observer: Rc<Observer>,
    pub turns: Rc<Turns>,
    router: RefCell<Cache<Arc<ArcSwap<Router>>, Arc<Router>>>,
}

/// A request's body, for whoever wants it to take.
pub(crate) type Unread<'a> = &'a mut Option<Incoming>;

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
    Tls {
        name: Option<Arc<str>>,
    },
}

impl Core {
    /// Must be called on the core's `LocalSet`.
    pub(crate) fn new(number: usize, cloud: Arc<Cloud>, turns: Rc<Turns>) -> Result<Self, getrandom::Error> {
        let router = RefCell::new(Cache::new(Arc::clone(&cloud.router)));
        let buckets = Arc::new(Buckets(cloud.store.databases.clone()));
        let observer = Rc::new(Observer::new(number, &cloud)?);
        Ok(Self { number, cloud, assets: assets::Cache::new(), buckets, observer, turns, router })
    }

    fn router(&self) -> Arc<Router> {
        Arc::clone(self.router.borrow_mut().load())
    }
}

/// Answers one request. It never fails: what goes wrong is an answer too.
pub(crate) async fn serve(core: Rc<Core>, peer: Peer, request: Request<Incoming>) -> Served {
    let router = core.router();
    let mut seen = core.observer.begin(&request);
    let (parts, body) = request.into_parts();
    let mut unread = Some(body);
    let mut answer = route(&core, &router, &peer, Request::from_parts(parts, &mut unread), &mut seen).await;
    if let Some(body) = unread.filter(|body| !body.is_end_stream()) {
        discard(body).await;
    }
    let id = HeaderValue::from_str(&seen.id.text).expect("hexadecimal digits");
    answer.headers_mut().insert("x-request-id", id);
    let answer = core.observer.answered(seen, answer);
    core.turns.answer_soon().await;
    Ok(answer)
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

async fn route<'r>(
    core: &Rc<Core>,
    router: &'r Router,
    peer: &Peer,
    request: Request<Unread<'_>>,
    seen: &mut Seen<'r>,
) -> Response<Body> {
    let id = &Arc::clone(&seen.id.text);
    if core.cloud.is_draining() {
        return draining(request.version(), id);
    }
    let url_bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if url_bytes > URL_BYTES_MAX {
        let help = format!("It has {url_bytes} bytes, and {URL_BYTES_MAX} are the most.");
        return Page { status: StatusCode::URI_TOO_LONG, said: "The address is too long.", help: &help }.answer(id);
    }
    if let Some(page) = head_fault(&request) {
        return last(page.answer(id), request.version());
    }
    let Some(authority) = authority(&request) else {
        let help = "Send one Host header with the name of the site, and no other one in its place.";
        let page = Page { status: StatusCode::BAD_REQUEST, said: "The request names no host, or two.", help };
        return last(page.answer(id), request.version());
    };
    let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
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
        seen.enter_api();
        core.turns.work_for(Whose::House).await;
        // In a place of its own, as a component's answer is: what a file's answer doesn't need isn't moved along with it.
        return Box::pin(manage::serve(core, request, id)).await;
    }
    if *request.method() == Method::CONNECT {
        // A 2xx to it would turn the connection into a tunnel, with nothing at its other end.
        let page =
            Page { status: StatusCode::NOT_IMPLEMENTED, said: "This is no proxy.", help: "Send a request to a site." };
        return last(page.answer(id), request.version());
    }
    let Some(site) = router.site(&host) else {
        let said = format!("No app answers at {host}.");
        return Page { status: StatusCode::NOT_FOUND, said: &said, help: "Check the address." }.answer(id);
    };
    core.observer.enter(seen, site, peer.address.ip(), &request);
    core.turns.work_for(Whose::Tenant(site.tenant)).await;
    if !site.public {
        // What opens a private stage must not cross a network in the clear.
        if peer.scheme == Scheme::Plain {
            return to_tls(core, &host, &request, id);
        }
        let now: Timestamp = SystemTime::now().into();
        if let Err(answer) = gate::check(site, &core.cloud.record(), now, &request, id) {
            return *answer;
        }
    }
    site_answer(core, peer, site, &authority, request, seen).await
}

/// What is wrong with a head that the parsers of both protocols let pass.
fn head_fault(request: &Request<Unread<'_>>) -> Option<Page<'static>> {
    if request.headers().len() > HEADER_FIELDS_MAX {
        let said = "The request has too many header fields.";
        let help = "Send fewer: cookies of other sites on this domain may be among them.";
        return Some(Page { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, said, help });
    }
    let is_open = request.body().as_ref().is_some_and(|body| !body.is_end_stream());
    let coding = request.headers().get(header::TRANSFER_ENCODING).filter(|_| is_open)?;
    // RFC 9112, 6.1. An app would be given what is still packed, and take it for the body.
    (!coding.as_bytes().eq_ignore_ascii_case(b"chunked")).then_some(Page {
        status: StatusCode::NOT_IMPLEMENTED,
        said: "The request comes in a transfer coding that is not known here.",
        help: "Send it in chunks, or with its length.",
    })
}

/// Apps answer requests; there is no interface yet by which one could be given the connection (docs/decisions/0011).
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The API speaks over TLS only: a token must not cross a network in the clear, even where apps may be served so.
fn is_api(core: &Core, peer: &Peer, host: &str) -> bool {
    let by_address = host.parse::<IpAddr>().is_ok() || host.starts_with('[');
    peer.scheme != Scheme::Plain && (by_address || host == core.cloud.api_host())
}

/// What a site answers: throttled, perhaps sent elsewhere, and with the manifest's fields.
async fn site_answer(
    core: &Rc<Core>,
    peer: &Peer,
    site: &Arc<Site>,
    authority: &Authority,
    request: Request<Unread<'_>>,
    seen: &Seen<'_>,
) -> Response<Body> {
    let id = &seen.id.text;
    let path = request.uri().path();
    let route = site.route(path);
    let limits = route.map_or(&site.limits, |route| &route.limits);
    let quota = match limits.admit(&core.cloud.throttles, peer.address.ip()) {
        Ok(quota) => quota,
        Err(too_many) => return too_many.answer(id),
    };
    let matched = rules::matching(site, path);
    let mut answer = match (rules::redirect(site, request.uri()), route) {
        (Some(answer), _) => answer,
        (None, Some(route)) => route_answer(core, peer, site, route, authority, request, seen).await,
        (None, None) => {
            let help = "The app has no route for this path.";
            Page { status: StatusCode::NOT_FOUND, said: "There is nothing here.", help }.answer(id)
        }
    };
    rules::apply(site, matched, &mut answer);
    quota.tell(answer.headers_mut());
    answer
}

async fn route_answer(
    core: &Rc<Core>,
    peer: &Peer,
    site: &Arc<Site>,
    route: &SiteRoute,
    authority: &Authority,
    mut request: Request<Unread<'_>>,
    seen: &Seen<'_>,
) -> Response<Body> {
    let id = &seen.id.text;
    let assets = match core.assets.assets(&core.cloud.store.chunks, site.tenant, site.content).await {
        Ok(assets) => assets,
        Err(error) => return unreadable(site, &chain(&error), id),
    };
    gate::strip(request.headers_mut());
    match &route.target {
        SiteTarget::Static(folder) => {
            let Some(files) = assets.statics.get(&folder.name) else {
                return unreadable(site, "a static folder is missing", id);
            };
            let asked = files::Asked {
                site,
                files,
                folder,
                path: request.uri().path(),
                below: route.prefix.len(),
                query: request.uri().query(),
                method: request.method(),
                headers: request.headers(),
                request: id,
            };
            files::answer(core, asked).await
        }
        SiteTarget::Component(code) => {
            let Some(component) = assets.components.get(&code.name) else {
                return unreadable(site, "a component is missing", id);
            };
            if asks_for_websocket(request.headers()) {
                let help = "Ask with plain requests; events from the app come as server-sent events.";
                let said = "Apps here don't speak WebSocket.";
                return Page { status: StatusCode::NOT_IMPLEMENTED, said, help }.answer(id);
            }
            forwarded(peer, authority, &mut request, id);
            core.observer.hand_on(seen, request.headers_mut());
            Box::pin(code::answer(core, site, code, *component, request, id)).await
        }
    }
}

fn unreadable(site: &Site, why: &str, id: &str) -> Response<Body> {
    tracing::error!(request = id, app = %site.name, stage = %site.stage, release = %site.release, "the release can't be read: {why}");
    let help = "Try again; if it stays, tell whoever runs the site.";
    Page { status: StatusCode::INTERNAL_SERVER_ERROR, said: "This app can't be read just now.", help }.answer(id)
}

fn draining(version: http::Version, id: &str) -> Response<Body> {
    let page = Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        said: "This box is going down.",
        help: "Try again in a moment.",
    };
    let mut answer = page.answer(id);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    last(answer, version)
}

/// Over HTTP/1.1 the connection ends with this answer. Whatever stands behind a request that was refused for its form may
/// be a part of it.
fn last(mut answer: Response<Body>, version: http::Version) -> Response<Body> {
    if version < http::Version::HTTP_2 {
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The host and port that are asked for: one, however it is said (RFC 9112, 3.2; RFC 9113, 8.3.1), and without a user.
/// RFC 9110, 4.2.1: a host without a name is none.
fn authority<B>(request: &Request<B>) -> Option<Authority> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    let field = match (fields.next(), fields.next()) {
        (_, Some(_)) => return None,
        (None, None) => None,
        (Some(field), None) => Some(field.to_str().ok()?.parse::<Authority>().ok()?),
    };
    let authority = match (request.uri().authority().cloned(), field) {
        // HTTP/1.1 has the target win. Two that disagree are somebody's attempt to be two visitors at once.
        (Some(target), Some(field)) => target.host().eq_ignore_ascii_case(field.host()).then_some(target)?,
        (target, field) => target.or(field)?,
    };
    (!authority.as_str().contains('@') && !authority.host().is_empty()).then_some(authority)
}

fn to_tls<B>(core: &Core, host: &str, request: &Request<B>, id: &str) -> Response<Body> {
    let port = match core.cloud.settings.tls.port() {
        443 => String::new(),
        port => format!(":{port}"),
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    redirect(StatusCode::PERMANENT_REDIRECT, &format!("https://{host}{port}{path}")).unwrap_or_else(|| {
        Page { status: StatusCode::BAD_REQUEST, said: "The address can't be read.", help: "Use https." }.answer(id)
    })
}

/// Fields that tell an app how the visitor came, with `-` for `_`: WSGI and CGI make one of the two.
fn tells_of_the_road(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("x-forwarded-") || matches!(name.as_str(), "forwarded" | "x-real-ip" | "x-request-id")
}

/// Tells the app who asked and how. What a visitor wrote there itself is not believed.
fn forwarded<B>(peer: &Peer, authority: &Authority, request: &mut Request<B>, id: &str) {
    let scheme = if peer.scheme == Scheme::Plain { "http" } else { "https" };
    let headers: &mut HeaderMap = request.headers_mut();
    let believed_of_nobody: Vec<_> = headers.keys().filter(|name| tells_of_the_road(name.as_str())).cloned().collect();
    for name in believed_of_nobody {
        headers.remove(name);
    }
    let client = peer.address.ip().to_canonical().to_string();
    headers.insert("x-forwarded-for", HeaderValue::try_from(client).expect("an address is ASCII"));
    headers.insert("x-forwarded-proto", HeaderValue::from_static(scheme));
    headers.insert("x-request-id", HeaderValue::from_str(id).expect("hexadecimal digits"));
    // HTTP/1.1 requests mostly carry only a path, and any may claim a scheme; a component is told the address as it was.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let whole = http::Uri::builder().scheme(scheme).authority(authority.clone()).path_and_query(path).build();
    if let Ok(whole) = whole {
        *request.uri_mut() = whole;
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, hosts: &[&'static str]) -> Request<()> {
        let mut request = Request::builder().uri(target).body(()).expect("a request");
        for host in hosts {
            request.headers_mut().append(header::HOST, HeaderValue::from_static(host));
        }
        request
    }

    #[test]
    fn a_request_is_for_one_host() {
        for (target, hosts, wanted) in [
            ("/", &["a.example:81"][..], Some("a.example:81")),
            ("https://a.example/", &[], Some("a.example")),
            ("https://a.example/", &["A.example"], Some("a.example")),
            ("https://a.example:443/", &["a.example"], Some("a.example:443")),
            ("https://a.example/", &["b.example"], None),
            ("/", &["a.example", "a.example"], None),
            ("/", &["a.example", "b.example"], None),
            ("/", &["b.example@a.example"], None),
            ("/", &["a b"], None),
            ("/", &[":80"], None),
            ("/", &[], None),
        ] {
            let found = authority(&request(target, hosts));
            assert_eq!(found.as_ref().map(Authority::as_str), wanted, "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_visitor_s_word_on_its_road_is_not_believed() {
        let mut request = request("http://a.example/x?y", &[]);
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-for",
            "x-forwarded-port",
            "x_forwarded_for",
            "X-Real-IP",
            "x_request_id",
        ] {
            request
                .headers_mut()
                .append(header::HeaderName::try_from(name).expect("a name"), HeaderValue::from_static("spoofed"));
        }
        let address = SocketAddr::from(([192, 0, 2, 1], 1));
        let peer = Peer { address, scheme: Scheme::Tls { name: None } };
        let to = authority(&request).expect("it names one");
        forwarded(&peer, &to, &mut request, "7");
        assert_eq!(request.uri(), "https://a.example/x?y");
        assert_eq!(request.headers()["x-forwarded-for"], "192.0.2.1");
        assert!(request.headers().values().all(|value| value != "spoofed"), "{:?}", request.headers());
        assert_eq!(request.headers().len(), 3);
    }
}
