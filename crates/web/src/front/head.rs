//! What a request's head says: whom it is for, what is wrong with it, and what an app is told of its road.

use std::net::IpAddr;
use std::rc::Rc;

use base::limits::HEADER_FIELDS_MAX;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body::Body as _;
use hyper::body::Incoming;

use super::{Peer, Scheme};
use crate::answer::Page;

/// Names a request in its answer, and to the app.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A host that is asked for.
pub(crate) struct Host {
    pub authority: Authority,
    /// In small letters, and without the dot that may stand at its end.
    pub name: Box<str>,
}

impl Host {
    fn new(authority: Authority) -> Self {
        let name = authority.host().trim_end_matches('.').to_ascii_lowercase().into();
        Self { authority, name }
    }
}

impl Peer {
    /// Whom the request is for. Most connections ask for one host again and again, and it is read once.
    pub(super) fn host<B>(&self, request: &Request<B>) -> Option<Rc<Host>> {
        let mut last = self.last_host.borrow_mut();
        if let Some(last) = &*last
            && says(request).is_some_and(|said| said == last.authority.as_str().as_bytes())
        {
            return Some(Rc::clone(last));
        }
        let host = Rc::new(Host::new(authority(request)?));
        *last = Some(Rc::clone(&host));
        Some(host)
    }
}

/// A client's address, as a field.
pub(super) fn client(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_canonical().to_string()).expect("an address is ASCII")
}

/// The host's bytes where it is said once.
fn says<B>(request: &Request<B>) -> Option<&[u8]> {
    let mut fields = request.headers().get_all(header::HOST).iter();
    match (request.uri().authority(), fields.next(), fields.next()) {
        (Some(target), None, None) => Some(target.as_str().as_bytes()),
        (None, Some(field), None) => Some(field.as_bytes()),
        _ => None,
    }
}

/// What is wrong with a head that the parsers of both protocols let pass.
pub(super) fn fault(request: &Request<Option<Incoming>>) -> Option<Page<'static>> {
    if request.headers().len() > HEADER_FIELDS_MAX {
        let said = "The request has too many header fields.";
        let help = "Send fewer: cookies of other sites on this domain may be among them.";
        return Some(Page { status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, said, help });
    }
    if !is_target(request) {
        let said = "The request is for what is no address of a site.";
        let help = "Ask for a path, as in /about, or for a whole address that begins with http:// or https://.";
        return Some(Page { status: StatusCode::BAD_REQUEST, said, help });
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

/// RFC 9112, 3.2: a host and port alone are CONNECT's target. And what has another scheme is asked of a proxy.
fn is_target<B>(request: &Request<B>) -> bool {
    let uri = request.uri();
    match uri.scheme() {
        None => uri.authority().is_none() || *request.method() == Method::CONNECT,
        Some(scheme) => *scheme == http::uri::Scheme::HTTPS || *scheme == http::uri::Scheme::HTTP,
    }
}

/// Apps answer requests; there is no interface yet by which one could be given the connection (docs/decisions/0011).
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    headers.get(header::UPGRADE).is_some_and(|wanted| wanted.as_bytes().eq_ignore_ascii_case(b"websocket"))
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
    if field.as_ref().is_some_and(|field| !has_port(field)) {
        return None;
    }
    let authority = match (request.uri().authority().cloned(), field) {
        // HTTP/1.1 has the target win. Two that disagree are somebody's attempt to be two visitors at once.
        (Some(target), Some(field)) => target.host().eq_ignore_ascii_case(field.host()).then_some(target)?,
        (target, field) => target.or(field)?,
    };
    (!authority.as_str().contains('@') && !authority.host().is_empty() && has_port(&authority)).then_some(authority)
}

/// Is what stands behind the host a port, or nothing? RFC 3986, 3.2.3: digits, which may be left out after the colon.
fn has_port(authority: &Authority) -> bool {
    let text = authority.as_str();
    // A user is refused elsewhere.
    let behind = &text[text.rfind('@').map_or(0, |at| at + 1) + authority.host().len()..];
    let Some(port) = behind.strip_prefix(':') else { return behind.is_empty() };
    port.bytes().all(|byte| byte.is_ascii_digit()) && (port.is_empty() || port.parse::<u16>().is_ok())
}

/// Takes out the fields that the visitor's connection is about by its own word (RFC 9110, 7.6.1). `Connection` itself
/// never reaches an app. The words that nearly every request has there name no field that does.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    const COMMON: [&[u8]; 3] = [b"keep-alive", b"close", b"upgrade"];
    let is_common = |said: &HeaderValue| COMMON.iter().any(|common| said.as_bytes().eq_ignore_ascii_case(common));
    // A list of nothing has no memory.
    let lists: Vec<HeaderValue> =
        headers.get_all(header::CONNECTION).iter().filter(|said| !is_common(said)).cloned().collect();
    for name in lists.iter().flat_map(|list| list.as_bytes().split(|byte| *byte == b',')) {
        if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
            headers.remove(name);
        }
    }
}

/// RFC 9113, 8.2.3: HTTP/2 may send each cookie in a field of its own, and who reads one field is to find them all.
fn join_cookies(headers: &mut HeaderMap) {
    let fields = headers.get_all(header::COOKIE);
    if fields.iter().nth(1).is_none() {
        return;
    }
    let fields: Vec<&[u8]> = fields.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&fields.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Fields that tell an app how the visitor came. WSGI and CGI make one of `-` and `_`.
fn tells_of_the_road(name: &str) -> bool {
    let is = |wanted: &str, said: &str| {
        said.len() == wanted.len() && said.bytes().zip(wanted.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
    };
    let all_of_it = ["forwarded", "x-real-ip", "x-request-id"].iter().any(|wanted| is(wanted, name));
    all_of_it || name.get(..FORWARDED.len()).is_some_and(|start| is(FORWARDED, start))
}

/// What the names of most of these fields begin with.
const FORWARDED: &str = "x-forwarded-";

/// Tells the app who asked and how. What a visitor wrote there itself is not believed.
pub(super) fn forwarded<B>(peer: &Peer, authority: &Authority, request: &mut Request<B>, id: HeaderValue) {
    let scheme = if peer.scheme == Scheme::Plain { Told::PLAIN } else { Told::TLS };
    let headers: &mut HeaderMap = request.headers_mut();
    // Before our own fields are there: no visitor takes those away.
    strip_hop_by_hop(headers);
    join_cookies(headers);
    if headers.keys().any(|name| tells_of_the_road(name.as_str())) {
        let believed_of_nobody: Vec<_> =
            headers.keys().filter(|name| tells_of_the_road(name.as_str())).cloned().collect();
        for name in believed_of_nobody {
            headers.remove(name);
        }
    }
    headers.insert(FORWARDED_FOR, peer.client());
    headers.insert(FORWARDED_PROTO, scheme.field);
    headers.insert(REQUEST_ID, id);
    // HTTP/1.1 requests mostly carry only a path, and any may claim a scheme; a component is told the address as it was.
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme.scheme);
    parts.authority = Some(authority.clone());
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).expect("it has all of its parts");
}

/// A scheme, as a field and in an address.
struct Told {
    field: HeaderValue,
    scheme: http::uri::Scheme,
}

impl Told {
    const PLAIN: Self = Self { field: HeaderValue::from_static("http"), scheme: http::uri::Scheme::HTTP };
    const TLS: Self = Self { field: HeaderValue::from_static("https"), scheme: http::uri::Scheme::HTTPS };
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

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
            ("/", &["a.example:"], Some("a.example:")),
            ("/", &["[::1]:80"], Some("[::1]:80")),
            ("/", &["a.example:evil"], None),
            ("/", &["a.example:80a"], None),
            ("/", &["a.example:+80"], None),
            ("/", &["a.example:65536"], None),
            ("/", &["[::1]:evil"], None),
            ("https://a.example:evil/", &[], None),
            ("https://a.example/", &["a.example:evil"], None),
            ("/", &[], None),
        ] {
            let found = authority(&request(target, hosts));
            assert_eq!(found.as_ref().map(Authority::as_str), wanted, "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_an_address_of_the_web() {
        for (method, target, wanted) in [
            (Method::GET, "/", true),
            (Method::OPTIONS, "*", true),
            (Method::GET, "http://a.example/", true),
            (Method::GET, "https://a.example/", true),
            (Method::GET, "HTTPS://a.example/", true),
            (Method::CONNECT, "a.example:443", true),
            (Method::GET, "a.example:80", false),
            (Method::GET, "a.example", false),
            (Method::GET, "ftp://a.example/", false),
            (Method::POST, "gopher://a.example/", false),
        ] {
            let mut request = request(target, &[]);
            *request.method_mut() = method.clone();
            assert_eq!(is_target(&request), wanted, "{method} {target}");
        }
    }

    #[test]
    fn what_a_connection_is_about_doesn_t_reach_an_app() {
        let names = |connection: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for said in connection {
                headers.append(header::CONNECTION, HeaderValue::from_static(said));
            }
            for name in ["x-secret", "x-other", "cookie", "keep-alive"] {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static("1"));
                headers.append(HeaderName::from_static(name), HeaderValue::from_static("2"));
            }
            strip_hop_by_hop(&mut headers);
            let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            names.retain(|name| name != "connection");
            names.join(" ")
        };
        let all = "x-secret x-other cookie keep-alive";
        for common in [&[][..], &["keep-alive"], &["Close"], &["Upgrade"], &["keep-alive", "close"]] {
            assert_eq!(names(common), all, "{common:?}");
        }
        let unordered = |text: &str| {
            let mut words: Vec<_> = text.split(' ').map(str::to_owned).collect();
            words.sort();
            words
        };
        for (connection, wanted) in [
            (&["X-Secret"][..], "x-other cookie keep-alive"),
            (&["keep-alive, x-secret"], "x-other cookie"),
            (&["close", "x-secret ,\tX-OTHER,, cookie"], "keep-alive"),
            (&["a b, \"x-secret\", x-secret=1"], all),
        ] {
            assert_eq!(unordered(&names(connection)), unordered(wanted), "{connection:?}");
        }
    }

    #[test]
    fn an_app_finds_all_cookies_in_one_field() {
        for (sent, wanted) in
            [(&[][..], &[][..]), (&["a=1"], &["a=1"]), (&["a=1", "b=2; c=3", "d=4"], &["a=1; b=2; c=3; d=4"])]
        {
            let mut headers = HeaderMap::new();
            for cookie in sent {
                headers.append(header::COOKIE, HeaderValue::from_static(cookie));
            }
            join_cookies(&mut headers);
            assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), wanted);
        }
    }

    #[test]
    fn a_visitor_can_t_take_away_what_an_app_is_told() {
        let mut request = request("http://a.example/", &[]);
        request
            .headers_mut()
            .append(header::CONNECTION, HeaderValue::from_static("x-forwarded-for, x-forwarded-proto, x-request-id"));
        let peer = Peer::new(SocketAddr::from(([192, 0, 2, 1], 1)), Scheme::Plain);
        let to = authority(&request).expect("it names one");
        forwarded(&peer, &to, &mut request, HeaderValue::from_static("7"));
        for name in ["x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
            assert!(request.headers().contains_key(name), "{name}");
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
        let peer = Peer::new(address, Scheme::Tls { name: None });
        let to = authority(&request).expect("it names one");
        forwarded(&peer, &to, &mut request, HeaderValue::from_static("7"));
        assert_eq!(request.uri(), "https://a.example/x?y");
        assert_eq!(request.headers()["x-forwarded-for"], "192.0.2.1");
        assert!(request.headers().values().all(|value| value != "spoofed"), "{:?}", request.headers());
        assert_eq!(request.headers().len(), 3);
    }

    #[test]
    fn a_host_that_was_read_once_is_known_by_the_same_words_alone() {
        let peer = Peer::new(SocketAddr::from(([192, 0, 2, 1], 1)), Scheme::Plain);
        let name = |request: &Request<()>| peer.host(request).map(|host| host.name.to_string());
        for (target, hosts, wanted) in [
            ("/", &["A.example."][..], Some("a.example")),
            ("/", &["A.example."], Some("a.example")),
            ("/", &["A.example.", "A.example."], None),
            ("https://b.example/", &["A.example."], None),
            ("https://A.example./", &[], Some("a.example")),
            ("/", &["b.example"], Some("b.example")),
            ("/", &[], None),
            ("/", &["b.example"], Some("b.example")),
        ] {
            assert_eq!(name(&request(target, hosts)).as_deref(), wanted, "{target} {hosts:?}");
        }
    }
}
