//! Static files: which file a path means, and how it is sent.

mod asked;
mod meaning;

use std::ops::Range;
use std::rc::Rc;

use api::Chunk;
use base::TenantId;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use state::manifest::StaticFolder;

use crate::answer::{Body, BodyError, Page, redirect};
use crate::assets::{AssetsError, Files, Prepared};
use crate::front::Core;
use crate::router::{Folder, Site};
use asked::{Chosen, Condition, choose, condition, range};
use meaning::{Meaning, meaning};

const CACHE_DEFAULT: HeaderValue = HeaderValue::from_static("public, max-age=0, must-revalidate");

/// A year, the longest that RFC 9111's readers agree on, and no question in between (RFC 8246).
const CACHE_IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// On a private stage: a cache on the way would show to everybody what the gate shows to members.
pub(crate) const CACHE_PRIVATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Fields of a usual answer, those of `front` and of the connection among them: the map is made large enough at once.
const FIELDS: usize = 10;

/// What is asked of a folder.
pub(crate) struct Asked<'a> {
    pub site: &'a Site,
    pub files: &'a Files,
    pub folder: &'a Folder,
    /// The whole path of the request, and where below the route's prefix it goes on.
    pub path: &'a str,
    pub below: usize,
    pub query: Option<&'a str>,
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    pub request: &'a str,
}

/// An answer whose bytes are to be read first.
pub(crate) struct Unread {
    answer: Response<Body>,
    tenant: TenantId,
    chunk: Chunk,
    part: Range<u64>,
    /// What it is called, for the box's log.
    path: Box<str>,
}

/// Answers from a static folder.
pub(crate) fn answer(core: &Rc<Core>, asked: &Asked<'_>) -> Result<Response<Body>, Box<Unread>> {
    if asked.method != Method::GET && asked.method != Method::HEAD {
        let page =
            Page { status: StatusCode::METHOD_NOT_ALLOWED, said: "A file can only be read.", help: "Use GET or HEAD." };
        let mut answer = page.answer(asked.request);
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(answer);
    }
    let below = &asked.path[asked.below..];
    match meaning(asked.files, &asked.folder.settings, below) {
        // `/docs` becomes `/docs/`: relative links of its page would otherwise lead out of it.
        Meaning::File(..) if asked.below > 0 && below.is_empty() => Ok(elsewhere(asked, "/")),
        Meaning::File(path, file, status) => send(core, asked, path, file, status),
        Meaning::Elsewhere(end) => Ok(elsewhere(asked, &end)),
        Meaning::Nothing => Ok(nothing(asked.request)),
    }
}

fn elsewhere(asked: &Asked<'_>, end: &str) -> Response<Body> {
    let query = asked.query.map(|query| format!("?{query}")).unwrap_or_default();
    let to = format!("{}{end}{query}", &asked.path[..asked.below]);
    let Some(mut answer) = redirect(StatusCode::PERMANENT_REDIRECT, &to) else { return nothing(asked.request) };
    // The next release may lead the other way: a browser that kept both would go round in a circle.
    answer.headers_mut().insert(header::CACHE_CONTROL, CACHE_DEFAULT);
    answer
}

fn nothing(request: &str) -> Response<Body> {
    let page = Page { status: StatusCode::NOT_FOUND, said: "There is nothing here.", help: "Check the address." };
    page.answer(request)
}

fn send(
    core: &Rc<Core>,
    asked: &Asked<'_>,
    path: &str,
    file: &Prepared,
    status: StatusCode,
) -> Result<Response<Body>, Box<Unread>> {
    let (encoding, sent) = match choose(file, asked.headers) {
        Chosen::Plain(plain) => (None, plain),
        Chosen::Encoded(encoding, encoded) => (Some(encoding), encoded),
        Chosen::Nothing => return Ok(unacceptable(asked.request)),
    };
    let mut answer = Response::new(Body::empty());
    let headers = answer.headers_mut();
    *headers = HeaderMap::with_capacity(FIELDS);
    headers.insert(header::CONTENT_TYPE, file.content_type.clone());
    headers.insert(header::CACHE_CONTROL, kept(asked, path, status));
    headers.insert(header::ETAG, sent.etag.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !file.encoded.is_empty() {
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.as_str()));
    }
    *answer.status_mut() = status;
    let mut part = 0..sent.size;
    if status == StatusCode::OK {
        answer.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        match condition(asked.headers, &sent.etag) {
            Condition::Send => {}
            Condition::NotModified => return Ok(bare(answer, StatusCode::NOT_MODIFIED)),
            Condition::Failed => return Ok(bare(answer, StatusCode::PRECONDITION_FAILED)),
        }
        // RFC 9110, 14.2: a range is asked of GET alone.
        let wanted = if asked.method == Method::GET { range(asked.headers, sent.size, &sent.etag) } else { None };
        if let Some(wanted) = wanted {
            let shown = match &wanted {
                Ok(range) => format!("bytes {}-{}/{}", range.start, range.end - 1, sent.size),
                Err(()) => format!("bytes */{}", sent.size),
            };
            answer.headers_mut().insert(header::CONTENT_RANGE, HeaderValue::try_from(shown).expect("digits"));
            let Ok(range) = wanted else { return Ok(bare(answer, StatusCode::RANGE_NOT_SATISFIABLE)) };
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            part = range;
        }
    }
    if asked.method == Method::HEAD {
        answer.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(sent.size));
        return Ok(answer);
    }
    let tenant = asked.site.tenant;
    *answer.body_mut() = match &*sent.chunks {
        [only] => match core.assets.held_chunk(tenant, only.digest) {
            Some(bytes) => match cut(&bytes, &part) {
                Ok(bytes) => bytes.into(),
                Err(error) => return Ok(unreadable(asked.request, path, &error)),
            },
            None => return Err(Box::new(Unread { answer, tenant, chunk: only.clone(), part, path: path.into() })),
        },
        chunks => pieces(core, tenant, chunks, &part),
    };
    Ok(answer)
}

/// Reads what an answer needs, and gives it.
pub(crate) async fn read(core: &Core, unread: Unread, request: &str) -> Response<Body> {
    let Unread { mut answer, tenant, chunk, part, path } = unread;
    match read_chunk(core, tenant, &chunk, part).await {
        Ok(bytes) => *answer.body_mut() = bytes.into(),
        Err(error) if matches!(error.downcast_ref(), Some(AssetsError::NoRoom)) => return crowded(request),
        Err(error) => return unreadable(request, &path, &error),
    }
    answer
}

/// An answer about a file, without it: what describes bytes that aren't sent goes.
fn bare(mut answer: Response<Body>, status: StatusCode) -> Response<Body> {
    *answer.status_mut() = status;
    answer.headers_mut().remove(header::CONTENT_TYPE);
    answer.headers_mut().remove(header::CONTENT_ENCODING);
    if status != StatusCode::NOT_MODIFIED {
        // How long the file may be kept says nothing of a refusal.
        answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}

fn unacceptable(request: &str) -> Response<Body> {
    let page = Page {
        status: StatusCode::NOT_ACCEPTABLE,
        said: "This file isn't there in an encoding that you take.",
        help: "Ask without `identity;q=0` in Accept-Encoding.",
    };
    let mut answer = page.answer(request);
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    answer
}

/// Larger files than memory has room for are being sent.
fn crowded(request: &str) -> Response<Body> {
    let page = Page {
        status: StatusCode::SERVICE_UNAVAILABLE,
        said: "Too many large files are being sent just now.",
        help: "Try again in a moment.",
    };
    let mut answer = page.answer(request);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("20"));
    answer
}

fn unreadable(request: &str, path: &str, error: &BodyError) -> Response<Body> {
    tracing::error!(request, path, "a file can't be read: {error}");
    let page = Page {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        said: "This file can't be read just now.",
        help: "Try again; if it stays, tell whoever runs the site.",
    };
    page.answer(request)
}

/// The part of a file of many chunks that was asked for: they are read as they are sent.
fn pieces(core: &Rc<Core>, tenant: TenantId, chunks: &[Chunk], range: &Range<u64>) -> Body {
    let mut pieces = Vec::new();
    let mut start = 0;
    for chunk in chunks {
        let (from, to) = (range.start.max(start), range.end.min(start + chunk.size));
        if from < to {
            pieces.push((chunk.clone(), from - start..to - start));
        }
        start += chunk.size;
    }
    if pieces.is_empty() {
        return Body::empty();
    }
    let core = Rc::clone(core);
    let bytes = stream::unfold(pieces.into_iter(), move |mut pieces| {
        let core = Rc::clone(&core);
        async move {
            let (chunk, part) = pieces.next()?;
            Some((read_chunk(&core, tenant, &chunk, part).await, pieces))
        }
    });
    Body::Counted { bytes: Box::pin(bytes), left: range.end - range.start }
}

async fn read_chunk(core: &Core, tenant: TenantId, chunk: &Chunk, part: Range<u64>) -> Result<Bytes, BodyError> {
    cut(&core.assets.chunk(&core.cloud.chunks, tenant, chunk.digest).await?, &part)
}

fn cut(bytes: &Bytes, part: &Range<u64>) -> Result<Bytes, BodyError> {
    let part = usize::try_from(part.start)?..usize::try_from(part.end)?;
    if part.end > bytes.len() {
        return Err("a chunk is shorter than the index says".into());
    }
    Ok(bytes.slice(part))
}

/// The type of a file, by its name.
pub(crate) fn content_type(path: &str) -> String {
    let guess = mime_guess::from_path(path).first_raw().unwrap_or("application/octet-stream");
    let text =
        guess.starts_with("text/") || matches!(guess, "application/javascript" | "application/json" | "image/svg+xml");
    if text { format!("{guess}; charset=utf-8") } else { guess.to_owned() }
}

/// The `Cache-Control` of a folder's files.
pub(crate) fn cache(folder: &StaticFolder, public: bool) -> HeaderValue {
    if !public {
        return CACHE_PRIVATE;
    }
    folder.cache.as_deref().and_then(|cache| HeaderValue::from_str(cache).ok()).unwrap_or(CACHE_DEFAULT)
}

/// How long this file may be kept.
fn kept(asked: &Asked<'_>, path: &str, status: StatusCode) -> HeaderValue {
    let Folder { settings, cache, .. } = asked.folder;
    if status != StatusCode::OK {
        // The next release may have what was asked for.
        return CACHE_DEFAULT;
    }
    let never_changes = settings.immutable.iter().any(|pattern| pattern.matches(path));
    if never_changes { CACHE_IMMUTABLE } else { cache.clone() }
}

#[cfg(test)]
mod fuzz;
