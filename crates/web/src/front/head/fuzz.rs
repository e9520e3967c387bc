//! Fuzz target of what a visitor's head tells an app: which host is asked for, and what is believed of its road.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::fuzzing::{fuzz, mutated, mutated_text};

const NAMES: &[&str] =
    &["x-forwarded-for", "X_Forwarded_Proto", "forwarded", "x-real-ip", "x-request-id", "host", "accept"];
const HOSTS: &[&str] = &["a.example", "a.example:81", "[::1]:80", "user@a.example", "A.EXAMPLE.", "127.0.0.1"];
const WORDS: &[&str] = &[
    "-",
    "_",
    ":",
    "@",
    "[",
    "]",
    ".",
    "/",
    "\\",
    "?",
    "#",
    "%",
    "*",
    " ",
    "\t",
    ",",
    "x-forwarded-",
    "host",
    "a.example",
    "65536",
];

/// What CGI and its like make of a header's name, where two may become one.
fn as_cgi(name: &HeaderName) -> String {
    name.as_str().replace('_', "-")
}

#[test]
fn an_app_is_told_the_truth_about_the_road() {
    let targets: Vec<&str> = vec!["/", "/a?b=c", "https://a.example/x", "http://b.example:81", "//a.example/", "*"];
    let seeds = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let header = (mutated(seeds(NAMES), WORDS), mutated(seeds(HOSTS), WORDS));
    let inputs = (mutated_text(&targets, WORDS), mutated(seeds(HOSTS), WORDS), proptest::collection::vec(header, 0..6));
    let address = SocketAddr::from(([192, 0, 2, 1], 1));
    fuzz("a request's head", &inputs, |(target, host, headers)| {
        let Ok(mut request) = Request::builder().uri(target).body(()) else { return Ok(()) };
        if let Ok(host) = HeaderValue::from_bytes(&host) {
            request.headers_mut().append(header::HOST, host);
        }
        for (name, value) in headers {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&name), HeaderValue::from_bytes(&value)) {
                request.headers_mut().append(name, value);
            }
        }
        let hosts = request.headers().get_all(header::HOST).iter().count();
        let Some(to) = authority(&request) else { return Ok(()) };
        prop_assert!(hosts <= 1 && !to.as_str().contains('@') && !to.host().is_empty(), "{to}");
        let peer = Peer::new(address, Scheme::Plain);
        forwarded(&peer, &to, &mut request, HeaderValue::from_static("7"));
        let told = |wanted: &str| {
            let said = request.headers().iter().filter(|(name, _)| as_cgi(name) == wanted);
            said.map(|(_, value)| value.as_bytes().to_vec()).collect::<Vec<_>>()
        };
        prop_assert_eq!(told("x-forwarded-for"), [b"192.0.2.1"]);
        prop_assert_eq!(told("x-forwarded-proto"), [b"http"]);
        prop_assert_eq!(told("x-request-id"), [b"7"]);
        for name in ["forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-port"] {
            prop_assert!(told(name).is_empty(), "{name}");
        }
        if let Some(held) = request.uri().authority() {
            prop_assert_eq!(held, &to);
        }
        Ok(())
    });
}
