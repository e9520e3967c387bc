//! A guest that does what its path says, so that tests can hold the cloud to its promises about hostile ones.
//!
//! | path | does |
//! | --- | --- |
//! | `/` | says hello |
//! | `/again` | how many requests this instance has seen: 1, always |
//! | `/loop` | computes for ever |
//! | `/recurse` | calls itself for ever |
//! | `/bomb` | takes memory for ever |
//! | `/fill?mib=` | fills so many mebibytes again and again, each time with one instruction |
//! | `/trap` | traps |
//! | `/trap-mid-stream` | promises 20 bytes, sends 10, then traps |
//! | `/trap-unmeasured` | the same, but promises no length |
//! | `/mute` | returns without answering |
//! | `/exit` | exits |
//! | `/answer?status=&header=NAME:VALUE&body=` | that; `header` may come again. Refused ones are left out |
//! | `/hoard?what=fields\|cas` | makes the host keep things for it, as many as it lets: `{"held", "refused"}` |
//! | `/sleep?ms=` | waits |
//! | `/env`, `/config?key=` | the environment; one configuration value, or all of them without `key` |
//! | `/echo` | sends the request's body back as it comes in |
//! | `/count` | how many bytes the request's body has, once all have come |
//! | `/headers` | the request's head, as JSON |
//! | `/sse?n=&ms=` | `n` server-sent events, `ms` apart |
//! | `/big?bytes=` | a response of that size |
//! | `/fetch?url=` | what another server answers: `{"status", "body"}`, or `{"error"}` |
//! | `/kv?bucket=&op=get\|set\|delete\|exists\|list&key=&value=` | one operation: `{"ok"}`, or `{"error"}` |
//! | `/log?line=&n=`, `/err?line=&n=` | lines to standard output and error |
//! | `/clock`, `/random` | both clocks; 16 bytes in hex |
//! | `/files`, `/connect?address=`, `/resolve?name=` | how many folders it was given; what a TCP connection or a look-up says |

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam, Scheme,
};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

mod granted {
    wit_bindgen::generate!({ path: "wit", world: "probe", generate_all });
    pub use wasi::config::store as config;
    pub use wasi::keyvalue::store as keyvalue;
}
use granted::wasi::keyvalue::atomics;
use granted::{config, keyvalue};

/// What one write to a stream may hold, by wasi:io.
const WRITE_BYTES_MAX: usize = 4096;

static SEEN: AtomicU32 = AtomicU32::new(0);

struct Probe;
wasip2::http::proxy::export!(Probe);

impl wasip2::exports::http::incoming_handler::Guest for Probe {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
        let target = request.path_with_query().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query = Query(query);
        match path {
            "/" => text(out, "hello from the probe\n"),
            "/again" => text(out, &seen.to_string()),
            "/loop" => loop {
                std::hint::black_box(seen);
            },
            "/recurse" => text(out, &deeper(u64::from(seen)).to_string()),
            "/bomb" => bomb(),
            "/fill" => fill(query.number("mib")),
            "/trap" => core::arch::wasm32::unreachable(),
            "/trap-mid-stream" => trap_mid_stream(out, &[("content-length", "20")]),
            "/trap-unmeasured" => trap_mid_stream(out, &[]),
            "/mute" => {}
            "/exit" => wasip2::cli::exit::exit(Err(())),
            "/answer" => told(out, &query),
            "/hoard" => answer(out, &hoard(&query.text("what"))),
            "/sleep" => {
                sleep(query.number("ms"));
                text(out, "slept\n");
            }
            "/env" => answer(out, &json!(map(wasip2::cli::environment::get_environment()))),
            "/config" => answer(out, &configured(&query)),
            "/echo" => echo(&request, out),
            "/count" => text(out, &count(&request).to_string()),
            "/headers" => answer(out, &head(&request)),
            "/sse" => events(out, query.number("n"), query.number("ms")),
            "/big" => big(out, query.number("bytes")),
            "/fetch" => answer(out, &fetch(&query.text("url")).unwrap_or_else(error)),
            "/kv" => answer(out, &kv(&query).unwrap_or_else(error)),
            "/log" => lines(out, &wasip2::cli::stdout::get_stdout(), &query),
            "/err" => lines(out, &wasip2::cli::stderr::get_stderr(), &query),
            "/clock" => answer(out, &clocks()),
            "/random" => text(out, &hex(&wasip2::random::random::get_random_bytes(16))),
            "/files" => answer(out, &json!(wasip2::filesystem::preopens::get_directories().len())),
            "/connect" => answer(out, &connect(&query.text("address")).unwrap_or_else(error)),
            "/resolve" => answer(out, &resolve(&query.text("name")).unwrap_or_else(error)),
            _ => send(respond(out, 404, &[("content-type", "text/plain")]), b"no such probe\n"),
        }
    }
}

struct Query<'a>(&'a str);

impl Query<'_> {
    fn get(&self, wanted: &str) -> Option<String> {
        form_urlencoded::parse(self.0.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
    }

    fn text(&self, wanted: &str) -> String {
        self.get(wanted).unwrap_or_default()
    }

    fn number(&self, wanted: &str) -> u64 {
        self.text(wanted).parse().unwrap_or(1)
    }
}

#[expect(unconditional_recursion, reason = "this is what it is for")]
fn deeper(depth: u64) -> u64 {
    // Used after the call, so that it can't become a loop.
    std::hint::black_box(deeper(std::hint::black_box(depth + 1)) + depth)
}

fn bomb() {
    let mut held = Vec::new();
    loop {
        // Written to, so that it is more than addresses.
        held.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&held);
    }
}

fn fill(mib: u64) {
    let mut held = vec![0_u8; usize::try_from(mib).expect("it fits the memory") << 20];
    for byte in (0..=u8::MAX).cycle() {
        std::hint::black_box(&mut held).fill(byte);
    }
}

fn trap_mid_stream(out: ResponseOutparam, headers: &[(&str, &str)]) {
    let body = respond(out, 200, headers);
    write(&body.write().expect("the body is new"), b"0123456789");
    // Long enough for them to be on their way.
    sleep(100);
    core::arch::wasm32::unreachable()
}

fn told(out: ResponseOutparam, query: &Query) {
    let fields = Fields::new();
    for (name, header) in form_urlencoded::parse(query.0.as_bytes()) {
        if name == "header"
            && let Some((name, value)) = header.split_once(':')
        {
            // What the host refuses is what the tests want to know of, from the answer.
            let _ = fields.append(name, value.as_bytes());
        }
    }
    let response = OutgoingResponse::new(fields);
    let status = query.text("status").parse().unwrap_or(200);
    response.set_status_code(status).expect("the test asks for a status that there is");
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    send(body, query.text("body").as_bytes());
}

/// Takes and takes what costs the guest a handle and the host memory.
fn hoard(what: &str) -> Value {
    /// More than any bound on handles.
    const TRIES: usize = 20_000;
    let mut refused = None;
    let held = match what {
        "fields" => {
            let value = vec![b'x'; 30_000];
            let mut held = Vec::new();
            while held.len() < TRIES && refused.is_none() {
                let fields = Fields::new();
                refused = (0..2).find_map(|_| fields.append("x", &value).err()).map(|failure| format!("{failure:?}"));
                held.push(fields);
            }
            held.len()
        }
        "cas" => {
            let bucket = keyvalue::open("probe").expect("it is bound");
            bucket.set("large", &vec![b'x'; 1 << 20]).expect("a value may be that long");
            let mut held = Vec::new();
            while held.len() < TRIES && refused.is_none() {
                match atomics::Cas::new(&bucket, "large") {
                    Ok(cas) => held.push(cas),
                    Err(failure) => refused = Some(format!("{failure:?}")),
                }
            }
            held.len()
        }
        other => panic!("there is no {other} to hoard"),
    };
    json!({ "held": held, "refused": refused })
}

fn sleep(ms: u64) {
    wasip2::clocks::monotonic_clock::subscribe_duration(ms * 1_000_000).block();
}

fn configured(query: &Query) -> Value {
    let failed = |failure: config::Error| json!({ "error": format!("{failure:?}") });
    match query.get("key") {
        Some(key) => config::get(&key).map_or_else(failed, |value| json!(value)),
        None => config::get_all().map_or_else(failed, |all| json!(map(all))),
    }
}

fn head(request: &IncomingRequest) -> Value {
    let headers = request.headers().entries().into_iter();
    json!({
        "method": method(&request.method()),
        "path": request.path_with_query(),
        "authority": request.authority(),
        "headers": headers.map(|(name, value)| json!([name, String::from_utf8_lossy(&value)])).collect::<Vec<_>>(),
    })
}

fn method(method: &Method) -> String {
    match method {
        Method::Other(name) => name.clone(),
        // "Method::Get"
        known => format!("{known:?}").rsplit(':').next().unwrap_or_default().to_uppercase(),
    }
}

fn echo(request: &IncomingRequest, out: ResponseOutparam) {
    let incoming = request.consume().expect("nobody else reads the body");
    let body = respond(out, 200, &[("content-type", "application/octet-stream")]);
    {
        let from = incoming.stream().expect("nobody else reads the body");
        let to = body.write().expect("the body is new");
        while let Ok(piece) = from.blocking_read(64 * 1024) {
            write(&to, &piece);
        }
    }
    OutgoingBody::finish(body, None).expect("no length was promised");
}

/// A body that breaks off is as long as what came of it.
fn count(request: &IncomingRequest) -> usize {
    let incoming = request.consume().expect("nobody else reads the body");
    let from = incoming.stream().expect("nobody else reads the body");
    let mut bytes = 0;
    while let Ok(piece) = from.blocking_read(64 * 1024) {
        bytes += piece.len();
    }
    bytes
}

fn events(out: ResponseOutparam, n: u64, ms: u64) {
    let body = respond(out, 200, &[("content-type", "text/event-stream"), ("cache-control", "no-store")]);
    {
        let stream = body.write().expect("the body is new");
        for event in 0..n {
            if event > 0 {
                sleep(ms);
            }
            write(&stream, format!("id: {event}\ndata: event {event}\n\n").as_bytes());
        }
    }
    OutgoingBody::finish(body, None).expect("no length was promised");
}

fn big(out: ResponseOutparam, bytes: u64) {
    let body = respond(out, 200, &[("content-type", "application/octet-stream")]);
    {
        let stream = body.write().expect("the body is new");
        let piece = [b'x'; WRITE_BYTES_MAX];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(WRITE_BYTES_MAX as u64);
            if stream.blocking_write_and_flush(&piece[..usize::try_from(now).expect("it is at most a piece")]).is_err()
            {
                return; // the visitor has gone
            }
            left -= now;
        }
    }
    OutgoingBody::finish(body, None).expect("no length was promised");
}

fn fetch(url: &str) -> Result<Value, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no scheme")?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let request = OutgoingRequest::new(Fields::new());
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    request.set_scheme(Some(&scheme)).map_err(|()| "bad scheme")?;
    request.set_authority(Some(authority)).map_err(|()| "bad authority")?;
    request.set_path_with_query(Some(path)).map_err(|()| "bad path")?;
    let future = wasip2::http::outgoing_handler::handle(request, None).map_err(|code| format!("{code:?}"))?;
    future.subscribe().block();
    let answered = future.get().ok_or("the future lied")?.map_err(|()| "asked twice")?;
    let response = answered.map_err(|code| format!("{code:?}"))?;
    let body = response.consume().map_err(|()| "the body is gone")?;
    let bytes = read(&body.stream().map_err(|()| "the stream is gone")?)?;
    Ok(json!({ "status": response.status(), "body": String::from_utf8_lossy(&bytes) }))
}

fn kv(query: &Query) -> Result<Value, String> {
    let failed = |failure: keyvalue::Error| format!("{failure:?}");
    let bucket = keyvalue::open(&query.text("bucket")).map_err(failed)?;
    let key = query.text("key");
    let ok = match query.text("op").as_str() {
        "get" => json!(bucket.get(&key).map_err(failed)?.map(|value| String::from_utf8_lossy(&value).into_owned())),
        "set" => json!(bucket.set(&key, query.text("value").as_bytes()).map_err(failed)?),
        "delete" => json!(bucket.delete(&key).map_err(failed)?),
        "exists" => json!(bucket.exists(&key).map_err(failed)?),
        "list" => {
            let (mut keys, mut cursor) = (Vec::new(), query.get("cursor"));
            loop {
                let page = bucket.list_keys(cursor.as_deref()).map_err(failed)?;
                keys.extend(page.keys);
                cursor = page.cursor;
                if cursor.is_none() {
                    break json!(keys);
                }
            }
        }
        other => return Err(format!("no operation {other:?}")),
    };
    Ok(json!({ "ok": ok }))
}

fn lines(out: ResponseOutparam, to: &OutputStream, query: &Query) {
    let (line, n) = (query.text("line"), query.number("n"));
    for _ in 0..n {
        write(to, format!("{line}\n").as_bytes());
    }
    text(out, &format!("{n} written\n"));
}

fn clocks() -> Value {
    let wall = wasip2::clocks::wall_clock::now();
    json!({
        "wall": { "seconds": wall.seconds, "nanoseconds": wall.nanoseconds },
        "monotonic": wasip2::clocks::monotonic_clock::now(),
    })
}

fn connect(address: &str) -> Result<Value, String> {
    use wasip2::sockets::network::{ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress};
    let address: std::net::SocketAddrV4 = address.parse().map_err(|_| "no IPv4 address with a port")?;
    let [a, b, c, d] = address.ip().octets();
    let remote = IpSocketAddress::Ipv4(Ipv4SocketAddress { port: address.port(), address: (a, b, c, d) });
    let failed = |code: ErrorCode| format!("{code:?}");
    let socket = wasip2::sockets::tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).map_err(failed)?;
    let network = wasip2::sockets::instance_network::instance_network();
    socket.start_connect(&network, remote).map_err(failed)?;
    socket.subscribe().block();
    socket.finish_connect().map_err(failed)?;
    Ok(json!({ "ok": "connected" }))
}

fn resolve(name: &str) -> Result<Value, String> {
    use wasip2::sockets::ip_name_lookup::resolve_addresses;
    let network = wasip2::sockets::instance_network::instance_network();
    let failed = |code: wasip2::sockets::network::ErrorCode| format!("{code:?}");
    let stream = resolve_addresses(&network, name).map_err(failed)?;
    stream.subscribe().block();
    let address = stream.resolve_next_address().map_err(failed)?;
    Ok(json!({ "ok": format!("{address:?}") }))
}

fn respond(out: ResponseOutparam, status: u16, headers: &[(&str, &str)]) -> OutgoingBody {
    let fields = Fields::new();
    for (name, value) in headers {
        fields.append(name, value.as_bytes()).expect("the probe's own headers are well formed");
    }
    let response = OutgoingResponse::new(fields);
    response.set_status_code(status).expect("the probe's own statuses are well formed");
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    body
}

fn text(out: ResponseOutparam, text: &str) {
    send(respond(out, 200, &[("content-type", "text/plain")]), text.as_bytes());
}

fn answer(out: ResponseOutparam, value: &Value) {
    send(respond(out, 200, &[("content-type", "application/json")]), value.to_string().as_bytes());
}

fn send(body: OutgoingBody, bytes: &[u8]) {
    write(&body.write().expect("the body is new"), bytes);
    OutgoingBody::finish(body, None).expect("no length was promised");
}

fn error(text: String) -> Value {
    json!({ "error": text })
}

fn write(stream: &OutputStream, bytes: &[u8]) {
    for piece in bytes.chunks(WRITE_BYTES_MAX) {
        if stream.blocking_write_and_flush(piece).is_err() {
            return; // whoever read it has gone
        }
    }
}

fn read(stream: &InputStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(64 * 1024) {
            Ok(piece) => bytes.extend(piece),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(failure)) => return Err(failure.to_debug_string()),
        }
    }
}

fn map(pairs: Vec<(String, String)>) -> std::collections::BTreeMap<String, String> {
    pairs.into_iter().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
