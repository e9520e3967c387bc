//! Visitors who mean harm, with attackers' tools: each limit of the front end at its limit, floods, and slowness.
//!
//! What is wrong with a single request is tried in `smuggling.rs` and `visitors.rs`.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use base::limits::{CONNECTIONS_PER_CLIENT_DEFAULT, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, URL_BYTES_MAX};

use crate::harness::{Node, cache, eventually, guest_with, python, run};
use crate::isolation::rival;

/// The probe at `/`, and files at `/files`: a small one, and eight that are too large for a core's cache.
const MANIFEST: &str = r#"
app = "shop"
[components.app]
source = "app.wasm"
memory = "64MiB"
timeout = "60s"
[static.files]
dir = "files"
[[route]]
path = "/"
component = "app"
[[route]]
path = "/files"
static = "files"
[bindings]
kv = ["probe"]
"#;
const LARGE_FILES: u8 = 8;
const LARGE_FILE_BYTES: usize = 8_000_000;

/// More of the same with `FIRM_TEST_LONG`.
fn is_long() -> bool {
    std::env::var_os("FIRM_TEST_LONG").is_some_and(|set| set == "1")
}

/// A node with [`MANIFEST`].
#[track_caller]
fn target(args: &[&str]) -> Node {
    let node = Node::start_with(&[&["--serve-plain"], args].concat());
    push(&node);
    node
}

#[track_caller]
fn push(node: &Node) {
    let project = guest_with("probe", MANIFEST);
    let files = project.path().join("files");
    fs::create_dir(&files).expect("the folder is ours");
    fs::write(files.join("index.html"), "small").expect("the folder is ours");
    let mut state = 1_u64;
    let mut random = || {
        // Chunks that are alike would be one chunk.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    for number in 0..LARGE_FILES {
        let bytes: Vec<u8> = (0..LARGE_FILE_BYTES).map(|_| random()).collect();
        fs::write(files.join(format!("large{number}.bin")), bytes).expect("the folder is ours");
    }
    node.push(project.path(), "shop");
}

/// Runs a script against the node, and shows its figures.
#[track_caller]
fn script(node: &Node, script: &str, args: &[&str]) {
    let mut command = python(script);
    command.arg(node.authority()).args(["shop.main.localhost", &node.tls_port().to_string()]).args(args);
    let ran = run(&mut command, b"");
    eprintln!("figure: {script}:\n{}", ran.stdout);
    assert_eq!(ran.code, 0, "{script}: {}{}", ran.stdout, ran.stderr);
    assert!(!node.stderr().contains("panicked"), "{}", node.stderr());
}

/// The status of the only answer to these bytes, and whether the connection was closed behind it.
fn status(node: &Node, bytes: &[u8]) -> (Option<u16>, bool) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.plain_port())).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a time limit");
    stream.write_all(bytes).expect("what is refused is taken off the wire all the same");
    let mut got = Vec::new();
    let closed = stream.read_to_end(&mut got).is_ok();
    let text = String::from_utf8_lossy(&got);
    assert!(text.matches("HTTP/1.1 ").count() <= 1, "{text}");
    (text.split(' ').nth(1).and_then(|status| status.parse().ok()), closed)
}

#[test]
fn who_announces_a_body_that_is_refused_is_spared_it() {
    let node = target(&[]);
    let post = |host: &str, path: &str| {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
        status(&node, head.as_bytes())
    };
    // The only answer is the last, and the body's place on the wire is nobody's.
    assert_eq!(post("nowhere.main.localhost", "/"), (Some(404), true));
    assert_eq!(post("shop.main.localhost", "/files/index.html"), (Some(405), true));
}

#[test]
fn a_head_may_be_so_large_and_no_larger() {
    let node = target(&[]);
    // However it is cut into packets.
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: shop.main.localhost\r\nX: ";
        format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4)).into_bytes()
    };
    assert_eq!(status(&node, &head(HEADER_BYTES_MAX)), (Some(200), false));
    for bytes in [HEADER_BYTES_MAX + 1, 2 * HEADER_BYTES_MAX - 1, 3 * HEADER_BYTES_MAX] {
        assert_eq!(status(&node, &head(bytes)), (Some(431), true), "{bytes} bytes");
    }
    let fields = |count: usize| {
        let fields = (1..count).map(|number| format!("X{number}: y\r\n")).collect::<Vec<_>>().concat();
        format!("GET / HTTP/1.1\r\nHost: shop.main.localhost\r\n{fields}\r\n").into_bytes()
    };
    assert_eq!(status(&node, &fields(HEADER_FIELDS_MAX)), (Some(200), false));
    assert_eq!(status(&node, &fields(HEADER_FIELDS_MAX + 1)), (Some(431), true));
    let url = node.url("shop");
    for version in ["--http1.1", "--http2"] {
        // curl sends three fields of its own over HTTP/1.1, and two over HTTP/2: the host is none there.
        let own = if version == "--http2" { 2 } else { 3 };
        for (count, wanted) in [(HEADER_FIELDS_MAX, 200), (HEADER_FIELDS_MAX + 1, 431)] {
            let fields: Vec<String> =
                (own..count).flat_map(|number| ["-H".to_owned(), format!("x{number}: y")]).collect();
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            node.curl(&[&[version, &url], &fields[..]].concat()).expect(wanted);
        }
        for (bytes, wanted) in [(URL_BYTES_MAX, 200), (URL_BYTES_MAX + 1, 414)] {
            node.curl(&[version, &format!("{url}?{}", "a".repeat(bytes - 2))]).expect(wanted);
        }
        // RFC 9113 counts 32 bytes more for each field, and curl's own are some.
        node.curl(&[version, "-H", &format!("x: {}", "a".repeat(HEADER_BYTES_MAX - 1_000)), &url]).expect(200);
        let reply = node.curl(&[version, "-H", &format!("x: {}", "a".repeat(HEADER_BYTES_MAX)), &url]);
        reply.expect(431);
    }
}

#[test]
fn a_body_may_be_so_long_and_no_longer() {
    let node = target(&[]);
    let url = format!("{}count", node.url("shop"));
    let most = usize::try_from(base::limits::REQUEST_BODY_BYTES_MAX).expect("100 MiB fit");
    let mut whole = vec![b'x'; most + 1];
    // Too long as it says itself: refused before it is sent. Over HTTP/2 curl would break its word, and be reset for that.
    let length = format!("content-length: {}", most + 1);
    node.curl(&["--http1.1", "-H", "expect:", "-H", &length, "-d", "x", &url]).expect(413);
    for version in ["--http1.1", "--http2"] {
        // Too long as it turns out: 413, and where more is still being sent, curl may miss it.
        let reply = node.curl_with(&[version, "-X", "POST", "-T", "-", "-H", "expect:", &url], &whole);
        assert_eq!(reply.status, 413, "{version}: {}", reply.failed);
    }
    whole.truncate(most);
    let reply = node.curl_with(&["-X", "POST", "-T", "-", "-H", "expect:", &url], &whole);
    assert_eq!(reply.expect(200).text(), most.to_string());
}

#[test]
fn a_client_holds_so_many_connections() {
    const MOST: usize = 40;
    assert!(u32::try_from(MOST).expect("it fits") < CONNECTIONS_PER_CLIENT_DEFAULT);
    let node = target(&["--connections-per-client", &MOST.to_string()]);
    let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, node.plain_port())).expect("the node listens");
    let answers = |mut stream: &TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        let sent = stream.write_all(b"GET /files/ HTTP/1.1\r\nHost: shop.main.localhost\r\n\r\n");
        // Small enough to come in one piece.
        let mut answer = [0; 4096];
        sent.and_then(|()| stream.read(&mut answer)).is_ok() && answer.starts_with(b"HTTP/1.1 200")
    };
    let mut held = Vec::new();
    eventually("the connections of the push are gone, and so many are let in", || {
        held.clear();
        held.extend((0..MOST).map(|_| connect()));
        held.iter().all(answers)
    });
    assert!(!answers(&connect()), "one more is not");
    // Over TLS it is the same client.
    let reply = node.curl(&[&node.url("shop")]);
    assert!(reply.status == 0 && reply.curl != 0, "{}", reply.status);
    // Others are other clients.
    node.curl(&["--interface", "127.0.0.2", &node.url("shop")]).expect(200);
    // Who leaves makes room for itself.
    held.truncate(MOST / 2);
    eventually("there is room again", || answers(&connect()));
    assert!(held.iter().all(answers), "those who stayed were left alone");
    let said = node.stderr();
    assert!(said.contains("--connections-per-client") && said.contains("127.0.0.1"), "{said}");
}

#[test]
fn a_full_core_makes_room() {
    const DESCRIPTORS: u32 = 600;
    let node = Node::start_within(DESCRIPTORS, &["--serve-plain"]);
    push(&node);
    // Half of the descriptors are for connections: these are all of them, and more.
    let idle: Vec<TcpStream> = (0..DESCRIPTORS)
        .map(|_| {
            let mut stream =
                TcpStream::connect((Ipv4Addr::LOCALHOST, node.plain_port())).expect("the kernel's backlog has room");
            // Half a request each: who says nothing is let in as well.
            stream.write_all(b"GET / HTTP/1.1\r\n").expect("the connection is new");
            stream
        })
        .collect();
    // Nobody is asked to wait until they are given up.
    for _ in 0..20 {
        let reply = node.curl(&["--max-time", "5", "--interface", "127.0.0.2", &node.url("shop")]);
        assert_eq!(reply.status, 200, "{}", reply.failed);
    }
    drop(idle);
}

#[test]
fn floods_are_ended_or_bounded() {
    let node = target(&[]);
    rival(&node, "shop");
    script(&node, "attack.py", &[&node.pid().to_string(), "shop.rival.localhost"]);
}

#[test]
fn slow_visitors_are_cut_and_others_left_alone() {
    let node = target(&[]);
    let plain = node.plain_port().to_string();
    let mut args = vec![plain.as_str()];
    // The short one sees that the idle are left alone for 25 s, the long one that they are closed after 75 s too.
    args.extend(is_long().then_some("long"));
    script(&node, "slow.py", &args);
}

#[test]
fn slowhttptest_doesn_t_keep_others_waiting() {
    let node = target(&[]);
    rival(&node, "shop");
    let (pid, plain) = (node.pid().to_string(), node.plain_port().to_string());
    let (connections, seconds) = if is_long() { ("1020", "60") } else { ("1000", "6") };
    script(&node, "attack.py", &[&pid, "shop.rival.localhost", "slowhttptest", &plain, connections, seconds]);
}

#[test]
fn tls_is_what_a_scanner_wants() {
    let node = target(&[]);
    script(&node, "tls.py", &[]);
}

#[test]
fn a_websocket_is_refused_clearly() {
    let node = target(&[]);
    script(&node, "websocket.py", &[]);
}

#[test]
fn requests_that_two_servers_read_differently_are_refused() {
    let node = target(&[]);
    let mut command = python("smuggling.py");
    command.arg(node.authority()).args(["shop.main.localhost", &node.tls_port().to_string()]);
    command.arg(node.plain_port().to_string()).arg(cache().join("peers"));
    let ran = run(&mut command, b"");
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
    expect_test::expect_file!["../../docs/smuggling.md"].assert_eq(&ran.stdout);
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "hello from the probe\n");
}
