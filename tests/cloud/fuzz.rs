//! Garbled requests against the real socket: what is answered is a file of the site or a refusal, an app hears of
//! nobody but the truth, and the box stays up.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fuzzing::{fuzz, mutated};
use crate::harness::{Node, site};
use crate::isolation::probe;

/// A request that still lacks something is not waited for longer than this.
const PATIENCE: Duration = Duration::from_millis(100);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What heads are made of, and what has been used to break them.
const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n ",
    "\0",
    ": ",
    ":",
    " ",
    "\t",
    "GET ",
    "HEAD ",
    "POST ",
    " HTTP/1.0",
    " HTTP/1.1",
    " HTTP/2.0",
    "\r\n\r\nGET / HTTP/1.1\r\n",
    "Host: shop.main.localhost\r\n",
    "Host: evil.example\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: -1\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: identity, chunked\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: websocket\r\n",
    "X-Forwarded-For: 6.6.6.6\r\n",
    "x_forwarded_for: 6.6.6.6\r\n",
    "Forwarded: for=6.6.6.6\r\n",
    "X-Request-Id: 6.6.6.6\r\n",
    "Cookie: __Host-firm-pass=6.6.6.6\r\n",
    "Authorization: Bearer firm_6.6.6.6_x\r\n",
    "Range: bytes=0-4\r\n",
    "Range: bytes=-18446744073709551615\r\n",
    "If-Range: \"x\"\r\n",
    "If-None-Match: *\r\n",
    "If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
    "Accept-Encoding: gzip\r\n",
    "%2e%2e/",
    "%2F",
    "%00",
    "%ff",
    "../",
    "//",
    "\\",
    "?",
    "#",
    "\u{fc}",
];

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// The first answer on a connection of its own; none when there came none that is whole.
fn ask(node: &Node, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.plain_port())).expect("the box listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("any time will do");
    // It may be refused before all of it was sent.
    let _ = stream.write_all(request).and_then(|()| stream.write_all(b"\r\n\r\n"));
    let mut held = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        if let Some(answer) = whole(&held) {
            return Some(answer);
        }
        assert!(held.len() < ANSWER_BYTES_MAX, "nothing here answers so much");
        match stream.read(&mut piece) {
            Ok(0) => return whole(&held),
            Ok(read) => held.extend_from_slice(&piece[..read]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            // Reset: there was more of it than anybody wanted to read.
            Err(_) => return None,
        }
    }
}

/// The answer, once all of it is there.
fn whole(held: &[u8]) -> Option<Answer> {
    let end = held.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&held[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
    let headers: HashMap<String, String> = lines.filter_map(pair).collect();
    let rest = &held[end + 4..];
    if status == 100 {
        return whole(rest);
    }
    // An app's answer comes in chunks, and those of these tests in one.
    let body = if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        let (size, rest) = rest.split_at(rest.windows(2).position(|window| window == b"\r\n")?);
        let size = usize::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok()?;
        rest.get(2..2 + size)?
    } else {
        let length = headers.get("content-length").map_or(0, |length| length.parse().expect("a length is digits"));
        // HEAD and 304 tell a length and send nothing: an empty body passes for whole.
        if rest.is_empty() { rest } else { rest.get(..length)? }
    };
    Some(Answer { status, headers, body: body.to_vec() })
}

fn seeds(app: &str, paths: &[&str]) -> Vec<Vec<u8>> {
    let head = |path: &&str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: {app}.main.localhost\r\n{more}Connection: close\r\n").into_bytes()
    };
    paths
        .iter()
        .flat_map(|path| {
            [head(path, ""), head(path, "Range: bytes=2-5\r\nIf-None-Match: \"x\"\r\n"), head(path, "Cookie: a=1\r\n")]
        })
        .collect()
}

#[test]
fn garbled_requests_for_files_get_files_or_refusals() {
    let node = Node::start_with(&["--serve-plain"]);
    let files = [
        ("index.html", "<title>index</title>"),
        ("about.html", "<title>about</title>"),
        ("a b.txt", "a b"),
        ("404.html", "none"),
    ];
    node.push(site(&files).path(), "site");
    fuzz("requests for files", &mutated(seeds("site", &["/", "/about", "/a%20b.txt", "/none"]), WORDS), |request| {
        let Some(Answer { status, headers, body }) = ask(&node, &request) else { return Ok(()) };
        prop_assert!(status < 500 || [501, 505].contains(&status), "{status}: {}", String::from_utf8_lossy(&body));
        let text = String::from_utf8_lossy(&body).into_owned();
        match status {
            200 if !body.is_empty() && !headers.contains_key("content-encoding") => {
                prop_assert!(files.iter().any(|(_, held)| *held == text), "{text}");
            }
            206 if !body.is_empty() => {
                let range = headers["content-range"].strip_prefix("bytes ").and_then(|range| range.split_once('/'));
                let (from, to) = range.and_then(|(range, _)| range.split_once('-')).expect("a range of bytes");
                let (from, to): (usize, usize) = (from.parse().expect("digits"), to.parse().expect("digits"));
                prop_assert!(files.iter().any(|(_, held)| held.get(from..=to) == Some(&text)), "{from}-{to}: {text}");
            }
            _ => {}
        }
        Ok(())
    });
    node.get(&node.plain_url("site")).expect(200);
}

#[test]
fn an_app_behind_garbled_requests_hears_the_truth() {
    let node = Node::start_with(&["--serve-plain"]);
    probe(&node, "shop", "");
    fuzz("requests to an app", &mutated(seeds("shop", &["/headers"]), WORDS), |request| {
        let Some(Answer { status: 200, body, .. }) = ask(&node, &request) else { return Ok(()) };
        let Ok(told) = serde_json::from_slice::<Value>(&body) else { return Ok(()) };
        let Some(headers) = told["headers"].as_array() else { return Ok(()) };
        let values = |wanted: &str| {
            let name = |pair: &&Value| pair[0].as_str().is_some_and(|name| name.replace('_', "-") == wanted);
            headers.iter().filter(name).map(|pair| pair[1].clone()).collect::<Vec<_>>()
        };
        prop_assert_eq!(values("x-forwarded-for"), [json!("127.0.0.1")]);
        prop_assert_eq!(values("x-forwarded-proto"), [json!("http")]);
        prop_assert!(values("x-request-id").len() == 1 && values("forwarded").is_empty(), "{told}");
        let authority = told["authority"].as_str().unwrap_or_default();
        let host = authority.split(':').next().unwrap_or_default().trim_end_matches('.');
        prop_assert!(host.eq_ignore_ascii_case("shop.main.localhost"), "{told}");
        // As an app reads them: cookies between semicolons, credentials as words.
        for (name, ends) in [("cookie", &[';'][..]), ("authorization", &[' ', '\t', ','][..])] {
            for value in values(name) {
                let text = value.as_str().unwrap_or_default().to_owned();
                let ours =
                    |part: &str| ["__Host-firm-pass=", "firm_"].iter().any(|start| part.trim().starts_with(start));
                prop_assert!(!text.split(ends).any(ours), "{text}");
            }
        }
        Ok(())
    });
    node.get(&node.plain_url("shop")).expect(200);
}
