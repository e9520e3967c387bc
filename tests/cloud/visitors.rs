//! Rogue visitors: what they claim, smuggle and overfill, against the real socket.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::harness::{Node, arg, guest_project, site};
use crate::isolation::{probe, request_id, rival};

#[test]
fn what_a_visitor_claims_is_not_believed() {
    let node = Node::start_with(&["--serve-plain"]);
    let url = probe(&node, "shop", "");
    rival(&node, "shop");
    let (port, plain) = (node.tls_port(), node.plain_port());
    let claims = [
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "x-forwarded-for: 7.7.7.7",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Port: 1",
        "Forwarded: for=6.6.6.6;host=evil.example",
        "X-Real-IP: 6.6.6.6",
        "X-Request-Id: spoofed",
        "x_request_id: spoofed",
    ];
    let claims: Vec<&str> = claims.iter().flat_map(|claim| ["-H", claim]).collect();
    for (base, scheme) in [(url.clone(), "https"), (node.plain_url("shop"), "http")] {
        let reply = node.curl(&[&claims[..], &[&format!("{base}headers")]].concat()).expect(200);
        let head = reply.json();
        let text = head.to_string();
        for claim in ["6.6.6.6", "7.7.7.7", "evil.example", "gopher", "spoofed"] {
            assert!(!text.contains(claim), "{claim}: {text}");
        }
        let values = |name: &str| {
            let pairs = head["headers"].as_array().into_iter().flatten();
            pairs.filter(|pair| pair[0] == name).map(|pair| pair[1].clone()).collect::<Vec<_>>()
        };
        assert_eq!(values("x-forwarded-for"), [json!("127.0.0.1")]);
        assert_eq!(values("x-forwarded-proto"), [json!(scheme)]);
        assert_eq!(values("x-request-id"), [json!(request_id(&reply))]);
    }

    // What a visitor says is about its connection goes no further, but for what the app is told of the road.
    let said = "Connection: keep-alive, X-Hop, X-Forwarded-For, X-Request-Id";
    let claims = ["--http1.1", "-H", said, "-H", "X-Hop: secret", "-H", "X-Stays: yes"];
    let reply = node.curl(&[&claims[..], &[&format!("{url}headers")]].concat()).expect(200);
    let text = reply.json().to_string();
    assert!(!text.contains("x-hop") && !text.contains("secret") && text.contains("x-stays"), "{text}");
    assert!(text.contains("x-forwarded-for") && text.contains(request_id(&reply)), "{text}");

    // The name of the handshake and the name of the request are one, or there is no answer.
    for version in ["--http1.1", "--http2"] {
        for host in ["shop.rival.localhost", "api.localhost", "127.0.0.1", "evil.example"] {
            node.curl(&[version, "-H", &format!("Host: {host}:{port}"), &url]).expect(421);
        }
        for host in ["shop.main.localhost.", "SHOP.main.LOCALHOST", "shop.main.localhost"] {
            node.curl(&[version, "-H", &format!("Host: {host}:{port}"), &url]).expect(200);
        }
        node.curl(&[version, "-H", &format!("Host: evil@shop.main.localhost:{port}"), &url]).expect(400);
    }
    // The API is nowhere in the clear, by whatever name.
    for host in ["api.localhost", "127.0.0.1", "localhost"] {
        let reply =
            node.curl(&["-H", &format!("Host: {host}"), &format!("http://127.0.0.1:{plain}/v1/health")]).expect(404);
        assert!(!reply.text().contains("serving"), "{}", reply.text());
    }
    assert_eq!(node.get(&format!("https://127.0.0.1:{port}/v1/health")).expect(200).json()["serving"], true);
}

#[test]
fn what_opens_a_private_stage_stays_outside_of_it() {
    let node = Node::start_with(&["--serve-plain"]);
    let project = guest_project("probe", "");
    node.json(&["push", arg(project.path()), "--app", "shop", "--stage", "next"]);
    node.push(project.path(), "shop");
    node.json(&["tenant", "add", "rival"]);
    let url = node.url("next--shop");
    let headers = format!("{url}headers");
    node.get(&headers).expect(401);
    // Another tenant's member is a stranger.
    let stranger = format!("authorization: Bearer {}", node.token("rival", "own"));
    node.curl(&["-H", &stranger, &headers]).expect(401);

    let member = format!("authorization: Bearer {}", node.token("main", "visit"));
    let reply = node.curl(&[
        "-H",
        &member,
        "-H",
        "authorization: Bearer firm_0000000000000000_x",
        "-H",
        "cookie: a=1; __Host-firm-pass=x; b=2",
        &headers,
    ]);
    let seen = reply.expect(200).json().to_string();
    assert!(!seen.contains("firm_") && !seen.contains("firm-pass") && seen.contains("a=1; b=2"), "{seen}");
    // An app's own credentials are its own.
    let reply = node.curl(&["-H", "authorization: Bearer theirs", &format!("{}headers", node.url("shop"))]).expect(200);
    assert!(reply.text().contains("Bearer theirs"), "{}", reply.text());
    // Nor does a member's token reach the live app, where it opens nothing.
    let reply = node.curl(&["-H", &member, &format!("{}headers", node.url("shop"))]).expect(200);
    assert!(!reply.text().contains("firm_"), "{}", reply.text());

    let share = node.json(&["stages", "share", "next", "--app", "shop"]);
    let link = share["url"].as_str().expect("a link").replacen("/?", "/headers?x=1&", 1);
    let entered = node.get(&link).expect(303);
    assert_eq!(entered.header("location"), Some("/headers?x=1"));
    let cookie = entered.header("set-cookie").expect("a pass").to_owned();
    assert!(
        cookie.starts_with("__Host-firm-pass=")
            && cookie.contains("HttpOnly")
            && cookie.contains("Secure")
            && !cookie.contains("Domain"),
        "{cookie}"
    );
    let pass = cookie.split(';').next().expect("a pair").to_owned();
    let seen = node.curl(&["-H", &format!("cookie: {pass}"), &headers]).expect(200).json().to_string();
    assert!(!seen.contains("firm-pass"), "{seen}");
    // The pass opens its own stage, as it was signed, over TLS.
    node.json(&["push", arg(project.path()), "--app", "shop", "--stage", "other"]);
    node.curl(&["-H", &format!("cookie: {pass}"), &node.url("other--shop")]).expect(401);
    let mut forged = pass.clone();
    let last = forged.pop().expect("it has a last letter");
    forged.push(if last == 'A' { 'Q' } else { 'A' });
    node.curl(&["-H", &format!("cookie: {forged}"), &headers]).expect(401);
    let plain = node.curl(&["-H", &member, &format!("{}headers", node.plain_url("next--shop"))]).expect(308);
    assert!(
        plain.header("location").is_some_and(|to| to.starts_with("https://next--shop.main.localhost:")),
        "{:?}",
        plain.headers
    );

    // What a private stage shows stays out of caches.
    let files = site(&[
        ("index.html", "x"),
        ("404.html", "nothing"),
        (
            "firm.toml",
            "app = \"files\"\n[static.site]\ndir = \".\"\ncache = \"public, max-age=99\"\n[[route]]\npath = \"/\"\nstatic = \"site\"\n",
        ),
    ]);
    node.json(&["push", arg(files.path()), "--app", "files", "--stage", "next"]);
    let reply = node.curl(&["-H", &member, &node.url("next--files")]).expect(200);
    assert_eq!(reply.header("cache-control"), Some("private, no-cache"));
    node.json(&["promote", "next", "--app", "files"]);
    let url = node.url("files");
    assert_eq!(node.get(&url).expect(200).header("cache-control"), Some("public, max-age=99"));
    let lost = node.get(&format!("{url}lost")).expect(404);
    let ask_again = Some("public, max-age=0, must-revalidate");
    assert_eq!(lost.header("cache-control"), ask_again, "the next release may have it");
}

/// What came back over one connection: answers counted by their status lines, and whether it was closed.
fn raw(node: &Node, bytes: &[u8]) -> (usize, String, bool) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.plain_port())).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a time limit");
    // It may be closed before all is sent.
    let _ = stream.write_all(bytes);
    let mut got = Vec::new();
    let closed = match stream.read_to_end(&mut got) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    let text = String::from_utf8_lossy(&got).into_owned();
    (text.matches("HTTP/1.1 ").count() + text.matches("HTTP/1.0 ").count(), text, closed)
}

#[test]
fn requests_are_never_smuggled() {
    let node = Node::start_with(&["--serve-plain"]);
    probe(&node, "shop", "");
    let host = "Host: shop.main.localhost\r\n";
    // What a smuggler wants answered, behind each.
    let smuggled = format!("GET /headers HTTP/1.1\r\n{host}X-Smuggled: yes\r\n\r\n");
    let post = |fields: &str, body: &str| format!("POST /echo HTTP/1.1\r\n{host}{fields}\r\n{body}");

    let refused = [
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 5\r\n", "abcde")),
        ("a list of lengths", post("Content-Length: 3, 3\r\n", "abc")),
        ("a signed length", post("Content-Length: +3\r\n", "abc")),
        ("a negative length", post("Content-Length: -1\r\n", "abc")),
        ("a hexadecimal length", post("Content-Length: 0x3\r\n", "abc")),
        ("a space before the colon", post("Content-Length : 3\r\n", "abc")),
        ("an unknown coding", post("Transfer-Encoding: xchunked\r\n", "3\r\nabc\r\n0\r\n\r\n")),
        ("chunked, and then something", post("Transfer-Encoding: chunked, identity\r\n", "3\r\nabc\r\n0\r\n\r\n")),
        ("a folded coding", post("Transfer-Encoding:\r\n chunked\r\n", "3\r\nabc\r\n0\r\n\r\n")),
        ("a folded field", format!("GET /again HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n")),
        ("a bare CR", format!("GET /again HTTP/1.1\r\n{host}X: a\rY: b\r\n\r\n")),
        ("a NUL", format!("GET /again HTTP/1.1\r\n{host}X: a\0b\r\n\r\n")),
        ("a space in a name", format!("GET /again HTTP/1.1\r\n{host}X Y: a\r\n\r\n")),
        ("a space in the target", format!("GET /a b HTTP/1.1\r\n{host}\r\n")),
        (
            "chunks in HTTP/1.0",
            format!("POST /echo HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        ),
        ("no host", "GET /again HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned()),
        ("two hosts", format!("GET /again HTTP/1.1\r\n{host}Host: evil.example\r\nConnection: close\r\n\r\n")),
        ("the same host twice", format!("GET /again HTTP/1.1\r\n{host}{host}Connection: close\r\n\r\n")),
        (
            "a target for another host",
            format!("GET http://evil.example/again HTTP/1.1\r\n{host}Connection: close\r\n\r\n"),
        ),
        (
            "a host with a user",
            "GET /again HTTP/1.1\r\nHost: evil@shop.main.localhost\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        (
            "a host with a port that is none",
            "GET /again HTTP/1.1\r\nHost: shop.main.localhost:evil\r\nConnection: close\r\n\r\n".to_owned(),
        ),
        ("a host for a target", format!("GET shop.main.localhost:80 HTTP/1.1\r\n{host}\r\n")),
        ("a target of another scheme", format!("GET ftp://shop.main.localhost/again HTTP/1.1\r\n{host}\r\n")),
        ("HTTP/0.9", "GET /again\r\n".to_owned()),
        ("HTTP/2 in words", format!("GET /again HTTP/2.0\r\n{host}\r\n")),
    ];
    for (what, request) in refused {
        let (answers, text, closed) = raw(&node, format!("{request}{smuggled}").as_bytes());
        assert!(
            answers == 1 && closed && text.starts_with("HTTP/1.1 400"),
            "{what}: {answers} answers, closed: {closed}\n{text}"
        );
        assert!(!text.contains("x-smuggled"), "{what}: {text}");
    }
    // Both framings.
    let both = [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 500\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ];
    // Broken chunks: whoever reads them hears of it, and the connection ends.
    let broken = [
        "3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n",
        "3;a\nb\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcX\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "-1\r\nabc\r\n0\r\n\r\n",
    ]
    .map(|body| post("Transfer-Encoding: chunked\r\n", body));
    let long = post("Transfer-Encoding: chunked\r\n", &format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(100_000)));
    for request in both.into_iter().chain(broken).chain([long]) {
        let (answers, text, closed) = raw(&node, format!("{request}{smuggled}").as_bytes());
        let shown = request.replace('a', "").escape_debug().to_string();
        assert!(
            answers <= 1 && closed && !text.contains("x-smuggled"),
            "{shown}: {answers} answers, closed: {closed}\n{text}"
        );
    }
    // What is in order stays in order: a body that nobody read is not the next request.
    let inner = format!("GET /headers HTTP/1.1\r\n{host}X-Smuggled: yes\r\n\r\n");
    let unread = format!(
        "POST /again HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n{inner}GET /random HTTP/1.1\r\n{host}\r\n",
        inner.len()
    );
    let (answers, text, _) = raw(&node, unread.as_bytes());
    assert!(answers == 2 && !text.contains("x-smuggled"), "{answers}\n{text}");
    // A tunnel has nowhere to lead.
    let (answers, text, _) =
        raw(&node, format!("CONNECT shop.main.localhost:443 HTTP/1.1\r\n{host}\r\n{smuggled}").as_bytes());
    assert!(text.starts_with("HTTP/1.1 501") && answers <= 2, "{text}");
    // Nor is a connection changed to another protocol.
    let (_, text, _) = raw(&node, format!("GET /again HTTP/1.1\r\n{host}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n").as_bytes());
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "hello from the probe\n");
}

#[test]
fn heads_are_bounded() {
    let node = Node::start_with(&["--serve-plain"]);
    let url = probe(&node, "shop", "");
    for version in ["--http1.1", "--http2"] {
        node.curl(&[version, &format!("{url}again?{}", "a".repeat(9_000))]).expect(414);
        node.curl(&[version, &format!("{url}again?{}", "a".repeat(7_000))]).expect(200);
        let long = format!("x: {}", "a".repeat(80_000));
        let reply = node.curl(&[version, "-H", &long, &format!("{url}again")]);
        // Over HTTP/2 a head of more than twice the bound is worth no answer.
        assert!(reply.status == 431 || (version == "--http2" && reply.curl != 0), "{version}: {}", reply.status);
    }
    let host = "Host: shop.main.localhost\r\n";
    let many = (0..200).map(|number| format!("x{number}: y")).collect::<Vec<_>>().join("\r\n");
    let (answers, text, closed) = raw(&node, format!("GET /again HTTP/1.1\r\n{host}{many}\r\n\r\n").as_bytes());
    assert!(answers == 1 && closed && text.starts_with("HTTP/1.1 431"), "{text}");
    let endless = format!("GET /again HTTP/1.1\r\n{host}{}", "x: y\r\n".repeat(20_000));
    let (answers, text, closed) = raw(&node, endless.as_bytes());
    assert!(answers <= 1 && closed && (text.is_empty() || text.starts_with("HTTP/1.1 431")), "{text}");
    // A body that is longer than one may be doesn't reach the app. (Over HTTP/2 curl's one byte of 200 MB breaks the
    // protocol, and is answered as that.)
    let reply = node.curl(&[
        "--http1.1",
        "-H",
        "content-length: 200000000",
        "-H",
        "expect:",
        "--data-binary",
        "x",
        "--max-time",
        "3",
        &format!("{url}echo"),
    ]);
    reply.expect(413);
    assert_eq!(node.get(&url).expect(200).text(), "hello from the probe\n");
}
