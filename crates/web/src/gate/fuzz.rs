//! Fuzz target of the gate: what opens it never reaches an app.

use proptest::prelude::*;

use super::*;
use crate::fuzzing::{fuzz, mutated, mutated_text};

const WORDS: &[&str] =
    &["__Host-firm-pass", "firm-pass", "firm_", "=", ";", ",", " ", "\t", "\"", "&", "Bearer ", "\u{fc}", "%3D"];

/// The names of a header's cookies, as an app may read them.
fn cookie_names(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b';')
        .map(|pair| pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii())
}

#[test]
fn an_app_never_sees_a_token_or_a_pass() {
    let seeds = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let authorization = mutated(seeds(&["Bearer firm_0707070707070707_abc", "Basic eA==", "Bearer theirs"]), WORDS);
    let cookie = mutated(seeds(&["a=1; __Host-firm-pass=secret; b=2", "session=1", "__Host-firm-pass=x"]), WORDS);
    let header = prop_oneof![
        authorization.prop_map(|value| (header::AUTHORIZATION, value)),
        cookie.prop_map(|value| (header::COOKIE, value)),
    ];
    fuzz("credentials", &proptest::collection::vec(header, 1..4), |headers| {
        let mut held = HeaderMap::new();
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                held.append(name, value);
            }
        }
        let _ = bearer(&held);
        let before = held.clone();
        strip(&mut held);
        for value in held.get_all(header::AUTHORIZATION) {
            let mut words = value.as_bytes().split(|byte| b" \t,".contains(byte));
            prop_assert!(!words.any(|word| word.starts_with(b"firm_")), "{value:?}");
        }
        for value in held.get_all(header::COOKIE) {
            prop_assert!(!cookie_names(value.as_bytes()).any(|name| name == b"__Host-firm-pass"), "{value:?}");
        }
        // Whose cookies hold no pass gets them as they were sent.
        let clean = |value: &&HeaderValue| !cookie_names(value.as_bytes()).any(|name| name == b"__Host-firm-pass");
        for value in before.get_all(header::COOKIE).iter().filter(clean) {
            prop_assert!(held.get_all(header::COOKIE).iter().any(|kept| kept == value), "{value:?} is gone");
        }
        Ok(())
    });
}

#[test]
fn the_pass_is_taken_off_the_query() {
    let seeds = ["firm-pass=secret", "a=1&firm-pass=x&b=2", "firm-passer=1", "a=firm-pass=1"];
    fuzz("queries with a pass", &mutated_text(&seeds, WORDS), |query| {
        if let Some((_, rest)) = take_pass(&query) {
            prop_assert!(!rest.split('&').any(|pair| pair.starts_with("firm-pass=")), "{rest}");
            prop_assert!(rest.len() < query.len());
        }
        Ok(())
    });
}

#[test]
fn a_link_leads_to_its_own_host() {
    let paths = ["/", "/a/b", "//evil.example/", "/\\evil.example", "/%0d%0aset-cookie:x"];
    fuzz("share links", &mutated_text(&paths, &["/", "\\", ".", "%0d%0a", "\r\n", "\t", "?", "#", ":", "@"]), |path| {
        // A request's path has been read by then.
        let Ok(asked) = path.parse::<http::Uri>() else { return Ok(()) };
        let Some(answer) = enter(asked.path(), "", "pass", 1) else { return Ok(()) };
        let to = answer.headers()[header::LOCATION].to_str().unwrap_or("/");
        // Browsers read a backslash as a slash.
        let read = to.replace('\\', "/");
        prop_assert!(read.starts_with('/') && !read.starts_with("//"), "{to:?}");
        Ok(())
    });
}
