//! Fuzz target of what an app answers: its cookies stay at its own host.

use proptest::prelude::*;

use super::*;
use crate::fuzzing::{fuzz, mutated};

#[test]
fn no_cookie_leaves_its_host() {
    let seeds =
        ["a=1; Path=/; Domain=localhost; Secure", "a=1", "a=1;domain=.x", "Domain=a; Domain", "a=\"; Domain=x\""];
    let seeds: Vec<Vec<u8>> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    let words = &["Domain=", "domain", "DOMAIN", ";", "=", " ", "\t", "\"", ",", "\u{a0}", "%3B"];
    fuzz("cookies", &proptest::collection::vec(mutated(seeds, words), 1..4), |cookies| {
        let mut headers = HeaderMap::new();
        for cookie in &cookies {
            if let Ok(cookie) = HeaderValue::from_bytes(cookie) {
                headers.append(header::SET_COOKIE, cookie);
            }
        }
        let count = headers.len();
        keep_cookies_at_home(&mut headers);
        strip_hop_by_hop(&mut headers);
        prop_assert_eq!(headers.len(), count);
        for cookie in headers.get_all(header::SET_COOKIE) {
            // RFC 6265, 5.2: what stands before the first `;` is the cookie; then attributes, blanks around their names.
            for attribute in cookie.as_bytes().split(|byte| *byte == b';').skip(1) {
                let name = attribute.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
                prop_assert!(!name.eq_ignore_ascii_case(b"domain"), "{cookie:?}");
            }
        }
        Ok(())
    });
}
