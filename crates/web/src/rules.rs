//! The manifest's redirects and header fields, as they meet a request and its answer.

use base::limits::HEADER_RULES_MAX;
use http::{HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use state::manifest::{HeaderRule, Pattern};

use crate::answer::{self, Body};
use crate::files::CACHE_PRIVATE;
use crate::router::{Site, is_the_cloud_s};

/// Fields that tell caches what to keep.
const CACHING: [&str; 4] = ["cache-control", "cdn-cache-control", "expires", "surrogate-control"];

/// A rule of the manifest's, ready to apply.
pub(crate) struct Fields {
    path: Pattern,
    set: Vec<(HeaderName, HeaderValue)>,
    /// Set where the answer is what was asked for: a fault must not be kept for a year.
    caching: Vec<(HeaderName, HeaderValue)>,
    remove: Vec<HeaderName>,
}

/// The rules that are about a request, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Matched(u64);

const _: () = assert!(HEADER_RULES_MAX <= 64, "each rule has a bit in `Matched`");

impl Fields {
    /// On a private stage nothing is said of caches: what members see would be kept for everybody.
    pub(crate) fn new(rule: &HeaderRule, public: bool) -> Self {
        let name = |name: &String| HeaderName::try_from(name.as_str()).ok();
        let is_caching = |name: &HeaderName| CACHING.contains(&name.as_str());
        let pairs =
            rule.set.iter().filter_map(|(field, value)| Some((name(field)?, HeaderValue::try_from(value).ok()?)));
        let (caching, set): (Vec<_>, _) = pairs.partition(|(name, _)| is_caching(name));
        let remove = rule.remove.iter().filter_map(name).filter(|name| public || !is_caching(name)).collect();
        Self { path: rule.path.clone(), set, caching: if public { caching } else { Vec::new() }, remove }
    }
}

/// The rules that are about `path`, of which this is the plain spelling if it has another ([`plain`]).
pub(crate) fn matching(site: &Site, path: &str, plain: Option<&str>) -> Matched {
    if site.fields.is_empty() || is_the_cloud_s(path) {
        return Matched::default();
    }
    let path = plain.unwrap_or(path);
    // Written as it is, `/about.html` is sent to `/about` where addresses are clean. Spelled otherwise it is answered, and
    // is the same file.
    let clean = path.strip_suffix("index.html").filter(|start| start.ends_with('/')).or(path.strip_suffix(".html"));
    let clean = clean.filter(|_| plain.is_some());
    let meant = |rule: &Pattern| rule.matches(path) || clean.is_some_and(|clean| rule.matches(clean));
    let bits = site.fields.iter().enumerate().filter(|(_, rule)| meant(&rule.path));
    Matched(bits.fold(0, |bits, (at, _)| bits | 1 << at))
}

/// A path without percent signs and doubled slashes, where it is spelled with them: what a folder's file is found by, and what
/// an app that decodes paths sees. So no other spelling gets around a rule or a route.
pub(crate) fn plain(path: &str) -> Option<String> {
    if !path.contains('%') && !path.contains("//") {
        return None;
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    let mut single = String::with_capacity(decoded.len());
    for letter in decoded.chars() {
        if letter != '/' || !single.ends_with('/') {
            single.push(letter);
        }
    }
    Some(single)
}

/// What stands in a path as it is.
const IN_PATHS: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Sends a request to the plain spelling of its path. `None` where it has that already.
pub(crate) fn respelled(plain: &str, uri: &Uri) -> Option<Response<Body>> {
    let path = utf8_percent_encode(plain, &IN_PATHS).to_string();
    if path == uri.path() {
        return None;
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    answer::redirect(StatusCode::PERMANENT_REDIRECT, &format!("{path}{query}"))
}

/// What members see of a private stage isn't for caches that others share, whatever the app says of it.
pub(crate) fn keep_private(answer: &mut Response<Body>) {
    let headers = answer.headers_mut();
    let mut said = headers.get_all(header::CACHE_CONTROL).iter();
    if !said.any(|value| value.as_bytes().to_ascii_lowercase().windows(8).any(|word| word == b"no-store")) {
        headers.insert(header::CACHE_CONTROL, CACHE_PRIVATE);
    }
    for name in CACHING.iter().filter(|name| **name != "cache-control") {
        headers.remove(*name);
    }
}

/// Lays the rules over an answer.
pub(crate) fn apply(site: &Site, matched: Matched, answer: &mut Response<Body>) {
    if matched == Matched::default() {
        return;
    }
    let status = answer.status();
    let may_be_kept = status.is_success() || status.is_redirection();
    let headers = answer.headers_mut();
    for (at, rule) in site.fields.iter().enumerate() {
        if matched.0 >> at & 1 == 0 {
            continue;
        }
        for name in &rule.remove {
            headers.remove(name);
        }
        let caching = if may_be_kept { &rule.caching[..] } else { &[] };
        for (name, value) in rule.set.iter().chain(caching) {
            headers.insert(name, value.clone());
        }
    }
}

/// Where the manifest sends a request, if it does.
pub(crate) fn redirect(site: &Site, uri: &Uri) -> Option<Response<Body>> {
    if site.redirects.is_empty() || is_the_cloud_s(uri.path()) {
        return None;
    }
    let found = |rule: &state::manifest::Redirect| Some((rule.target(uri.path(), uri.query())?, rule.status));
    let (to, status) = site.redirects.iter().find_map(found)?;
    answer::redirect(StatusCode::from_u16(status).ok()?, &to)
}
