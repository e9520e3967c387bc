//! Static files: which file a path means, and how it is sent.

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use state::manifest::StaticFolder;

use crate::answer::{Body, BodyError, Page, redirect};
use crate::assets::AssetsError;
use crate::front::Core;
use crate::router::Site;

const CACHE_DEFAULT: HeaderValue = HeaderValue::from_static("public, max-age=0, must-revalidate");

/// On a private stage: a cache on the way would show to everybody what the gate shows to members.
const CACHE_PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// What a path means in a folder.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// This file, with this status.
    File(String, StatusCode),
    /// The same thing has a better address: the path as it was asked for, with this in place of its end.
    Elsewhere(String),
    Nothing,
}

/// What is asked of a folder.
pub(crate) struct Asked<'a> {
    pub site: &'a Site,
    pub files: &'a HashMap<String, api::File>,
    pub folder: &'a StaticFolder,
    /// The whole path of the request, and where below the route's prefix it goes on.
    pub path: &'a str,
    pub below: usize,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub request: &'a str,
}

/// Answers from a static folder.
pub(crate) async fn answer(core: &Rc<Core>, asked: Asked<'_>) -> Response<Body> {
    if asked.method != Method::GET && asked.method != Method::HEAD {
        let page =
            Page { status: StatusCode::METHOD_NOT_ALLOWED, said: "A file can only be read.", help: "Use GET or HEAD." };
        let mut answer = page.answer(asked.request);
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let below = &asked.path[asked.below..];
    // `/docs` becomes `/docs/`: relative links of its page would otherwise lead out of it.
    let meant = match meaning(asked.files, asked.folder, below) {
        Meaning::File(..) if asked.below > 0 && below.is_empty() => Meaning::Elsewhere("/".to_owned()),
        meant => meant,
    };
    match meant {
        Meaning::File(path, status) => send(core, &asked, &path, status).await,
        Meaning::Elsewhere(end) => {
            let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
            let to = format!("{}{end}{query}", &asked.path[..asked.below]);
            redirect(StatusCode::PERMANENT_REDIRECT, &to).unwrap_or_else(|| nothing(asked.request))
        }
        Meaning::Nothing => nothing(asked.request),
    }
}

fn nothing(request: &str) -> Response<Body> {
    let page = Page { status: StatusCode::NOT_FOUND, said: "There is nothing here.", help: "Check the address." };
    page.answer(request)
}

/// Finds the file of `below`, the part of the path after the route's prefix, still percent-encoded.
fn meaning(files: &HashMap<String, api::File>, folder: &StaticFolder, below: &str) -> Meaning {
    // A path that isn't UTF-8, or that climbs, can't be in the index; the look-up is a map's, never the disk's.
    let Ok(decoded) = percent_decode_str(below).decode_utf8() else { return Meaning::Nothing };
    let path = decoded.trim_start_matches('/');
    let has = |path: &str| files.contains_key(path);
    let raw = below.trim_start_matches('/');
    if folder.clean_urls {
        if has(path) && (path == "index.html" || path.ends_with("/index.html")) {
            return Meaning::Elsewhere(format!("/{}", raw.trim_end_matches("index.html")));
        }
        if let Some(stem) = path.strip_suffix(".html").filter(|_| has(path)) {
            let shadowed = has(stem) || has(&format!("{stem}/index.html"));
            if !shadowed {
                return Meaning::Elsewhere(format!("/{}", raw.trim_end_matches(".html")));
            }
        }
    }
    if has(path) {
        return Meaning::File(path.to_owned(), StatusCode::OK);
    }
    if path.is_empty() || path.ends_with('/') {
        let index = format!("{path}index.html");
        if has(&index) {
            return Meaning::File(index, StatusCode::OK);
        }
        let page = format!("{}.html", path.trim_end_matches('/'));
        if folder.clean_urls && !path.is_empty() && has(&page) {
            return Meaning::Elsewhere(format!("/{}", raw.trim_end_matches('/')));
        }
    } else {
        let page = format!("{path}.html");
        if folder.clean_urls && has(&page) {
            return Meaning::File(page, StatusCode::OK);
        }
        if has(&format!("{path}/index.html")) {
            return Meaning::Elsewhere(format!("/{raw}/"));
        }
    }
    if folder.spa && has("index.html") {
        return Meaning::File("index.html".to_owned(), StatusCode::OK);
    }
    let not_found = folder.not_found.as_deref().unwrap_or("404.html");
    if has(not_found) { Meaning::File(not_found.to_owned(), StatusCode::NOT_FOUND) } else { Meaning::Nothing }
}

async fn send(core: &Rc<Core>, asked: &Asked<'_>, path: &str, status: StatusCode) -> Response<Body> {
    let file = &asked.files[path];
    let etag = HeaderValue::try_from(format!("\"{}\"", &file.digest.hex()[..32])).expect("hexadecimal digits");
    let mut answer = Response::new(Body::empty());
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type(path));
    headers.insert(header::CACHE_CONTROL, if asked.site.public { cache(asked.folder) } else { CACHE_PRIVATE });
    headers.insert(header::ETAG, etag.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::OK {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if asked.headers.get(header::IF_NONE_MATCH).is_some_and(|wanted| names(wanted, &etag)) {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
            return answer;
        }
    }
    *answer.status_mut() = status;
    let range = match range(asked, file.size, &etag) {
        Some(Ok(range)) if status == StatusCode::OK => {
            let shown = format!("bytes {}-{}/{}", range.start, range.end - 1, file.size);
            answer.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::try_from(shown).expect("digits"));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            range
        }
        Some(Err(())) if status == StatusCode::OK => {
            let shown = format!("bytes */{}", file.size);
            answer.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::try_from(shown).expect("digits"));
            *answer.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return answer;
        }
        _ => 0..file.size,
    };
    if asked.method == Method::HEAD {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
        return answer;
    }
    match body(core, asked.site, file, range).await {
        Ok(body) => *answer.body_mut() = body,
        Err(error) if matches!(error.downcast_ref(), Some(AssetsError::NoRoom)) => {
            let page = Page {
                status: StatusCode::SERVICE_UNAVAILABLE,
                said: "Too many large files are being sent just now.",
                help: "Try again in a moment.",
            };
            let mut answer = page.answer(asked.request);
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("20"));
            return answer;
        }
        Err(error) => {
            tracing::error!(request = asked.request, path, "a file can't be read: {error}");
            let page = Page {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                said: "This file can't be read just now.",
                help: "Try again; if it stays, tell whoever runs the site.",
            };
            return page.answer(asked.request);
        }
    }
    answer
}

/// The part of a file that was asked for. One chunk comes from memory; more are read as they are sent.
async fn body(core: &Rc<Core>, site: &Site, file: &api::File, range: Range<u64>) -> Result<Body, BodyError> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for chunk in &file.chunks {
        let (from, to) = (range.start.max(start), range.end.min(start + chunk.size));
        if from < to {
            pieces.push((chunk.digest, narrow(from - start)?..narrow(to - start)?));
        }
        start += chunk.size;
    }
    let read = |core: Rc<Core>, tenant, digest, part: Range<usize>| async move {
        let bytes = core.assets.chunk(&core.cloud.store.chunks, tenant, digest).await?;
        if part.end > bytes.len() {
            return Err("a chunk is shorter than the index says".into());
        }
        Ok::<Bytes, BodyError>(bytes.slice(part))
    };
    let tenant = site.tenant;
    match <[_; 1]>::try_from(pieces) {
        Ok([(digest, part)]) => Ok(read(Rc::clone(core), tenant, digest, part).await?.into()),
        Err(pieces) if pieces.is_empty() => Ok(Body::empty()),
        Err(pieces) => {
            let core = Rc::clone(core);
            let bytes = stream::unfold(pieces.into_iter(), move |mut pieces| {
                let core = Rc::clone(&core);
                async move {
                    let (digest, part) = pieces.next()?;
                    Some((read(core, tenant, digest, part).await, pieces))
                }
            });
            Ok(Body::Counted { bytes: Box::pin(bytes), left: range.end - range.start })
        }
    }
}

fn narrow(offset: u64) -> Result<usize, std::num::TryFromIntError> {
    usize::try_from(offset)
}

fn content_type(path: &str) -> HeaderValue {
    let guess = mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream");
    let text =
        guess.starts_with("text/") || matches!(guess, "application/javascript" | "application/json" | "image/svg+xml");
    let named = if text { format!("{guess}; charset=utf-8") } else { guess.to_owned() };
    HeaderValue::try_from(named).unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

fn cache(folder: &StaticFolder) -> HeaderValue {
    folder.cache.as_deref().and_then(|cache| HeaderValue::from_str(cache).ok()).unwrap_or(CACHE_DEFAULT)
}

/// RFC 9110, 13.1.2: a list of tags, weak ones compared as strong, or `*`.
fn names(wanted: &HeaderValue, etag: &HeaderValue) -> bool {
    let (Ok(wanted), Ok(etag)) = (wanted.to_str(), etag.to_str()) else { return false };
    wanted.split(',').map(str::trim).any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// RFC 9110, 14.2: one range of bytes, or none to speak of. Several at once are answered with the whole, as is
/// a range that `If-Range` has overtaken. `Err` when it lies outside.
fn range(asked: &Asked<'_>, size: u64, etag: &HeaderValue) -> Option<Result<Range<u64>, ()>> {
    let wanted = asked.headers.get(header::RANGE)?.to_str().ok()?;
    if asked.headers.get(header::IF_RANGE).is_some_and(|held| held != etag) {
        return None;
    }
    parse_range(wanted, size)
}

fn parse_range(wanted: &str, size: u64) -> Option<Result<Range<u64>, ()>> {
    let (first, last) = wanted.strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(number(last)?)..size,
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.is_empty() || range.start >= size { Err(()) } else { Ok(range) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn folder(spa: bool) -> StaticFolder {
        StaticFolder { spa, ..StaticFolder::default() }
    }

    fn files(paths: &[&str]) -> HashMap<String, api::File> {
        let file = api::File { digest: base::Digest::of(b""), size: 0, chunks: Vec::new() };
        paths.iter().map(|path| ((*path).to_owned(), file.clone())).collect()
    }

    fn check(path: &str, wanted: &Meaning) {
        let files = files(&["index.html", "about.html", "blog/index.html", "a b.txt", "css/site.css", "404.html"]);
        assert_eq!(meaning(&files, &folder(false), path), *wanted, "{path}");
    }

    #[test]
    fn paths_mean_what_people_expect() {
        let ok = |path: &str| Meaning::File(path.to_owned(), StatusCode::OK);
        let elsewhere = |path: &str| Meaning::Elsewhere(path.to_owned());
        check("/", &ok("index.html"));
        check("", &ok("index.html"));
        check("/index.html", &elsewhere("/"));
        check("/about", &ok("about.html"));
        check("/about.html", &elsewhere("/about"));
        check("/about/", &elsewhere("/about"));
        check("/blog", &elsewhere("/blog/"));
        check("/blog/", &ok("blog/index.html"));
        check("/blog/index.html", &elsewhere("/blog/"));
        check("/a%20b.txt", &ok("a b.txt"));
        check("/css/site.css", &ok("css/site.css"));
    }

    #[test]
    fn what_isn_t_there_is_not_found_whatever_it_climbs() {
        for path in ["/nothing", "/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/css/..%2findex.html", "/%00", "/css"]
        {
            check(path, &Meaning::File("404.html".to_owned(), StatusCode::NOT_FOUND));
        }
        check("/%ff", &Meaning::Nothing);
    }

    #[test]
    fn a_single_page_app_answers_every_path() {
        let wanted = Meaning::File("index.html".to_owned(), StatusCode::OK);
        assert_eq!(meaning(&files(&["index.html", "404.html"]), &folder(true), "/deep/link"), wanted);
    }

    #[test]
    fn a_redirect_never_leaves_the_site() {
        let files = files(&["evil.example/index.html", "index.html"]);
        for path in ["//evil.example", "//index.html", "/\\evil.example"] {
            if let Meaning::Elsewhere(to) = meaning(&files, &folder(false), path) {
                assert!(to.starts_with('/') && !to.starts_with("//"), "{path} → {to}");
            }
        }
    }

    #[test]
    fn ranges_are_read_as_the_rfc_has_them() {
        assert_eq!(parse_range("bytes=0-4", 10), Some(Ok(0..5)));
        assert_eq!(parse_range("bytes=5-", 10), Some(Ok(5..10)));
        assert_eq!(parse_range("bytes=-3", 10), Some(Ok(7..10)));
        assert_eq!(parse_range("bytes=-30", 10), Some(Ok(0..10)));
        assert_eq!(parse_range("bytes=0-99", 10), Some(Ok(0..10)));
        assert_eq!(parse_range("bytes=10-", 10), Some(Err(())));
        assert_eq!(parse_range("bytes=-0", 10), Some(Err(())));
        for ignored in ["bytes=4-2", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-2"] {
            assert_eq!(parse_range(ignored, 10), None, "{ignored}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics_or_finds_what_isn_t_there(path in "[/.%a-z0-9]{0,40}") {
            let files = files(&["index.html", "a/index.html", "b.html"]);
            if let Meaning::File(found, _) = meaning(&files, &folder(true), &path) {
                prop_assert!(files.contains_key(&found));
            }
        }

        #[test]
        fn a_range_lies_within_the_file(text in "bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Some(Ok(range)) = parse_range(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
