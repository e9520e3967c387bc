//! A guest book: whoever comes by leaves a name and a line.

use serde::{Deserialize, Serialize};
use wstd::http::{Body, Method, Request, Response, Result, StatusCode, error::Context};
use wstd::io::AsyncWrite;

mod keyvalue {
    wit_bindgen::generate!({ path: "wit", generate_all });
    pub use wasi::keyvalue::store::*;
}

/// A form that is longer was not typed by a person.
const FORM_BYTES_MAX: u64 = 8 * 1024;

/// The page shows the newest entries only, so that it stays one page.
const ENTRIES_SHOWN: usize = 100;

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    message: String,
}

// Called once for every request, each time in a fresh instance: statics keep nothing, the bucket does.
#[wstd::http_server]
async fn main(mut request: Request<Body>) -> Result<Response<Body>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/") => answer(StatusCode::OK, "text/html; charset=utf-8", page(&entries()?)),
        (&Method::GET, "/entries") => answer(StatusCode::OK, "application/json", serde_json::to_string(&entries()?)?),
        (&Method::POST, "/entries") => {
            let body = request.body_mut();
            // Chunked bodies don't say their length; browsers' forms do.
            if body.content_length().is_none_or(|length| length > FORM_BYTES_MAX) {
                return answer(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "that is too long".into());
            }
            let Some(entry) = parse(body.contents().await?) else {
                return answer(StatusCode::BAD_REQUEST, "text/plain", "name and message, please".into());
            };
            add(&entry)?;
            log(&entry).await?;
            // See Other: reloading the page that follows doesn't post again.
            Ok(Response::builder().status(StatusCode::SEE_OTHER).header("location", "/").body(Body::empty())?)
        }
        _ => answer(StatusCode::NOT_FOUND, "text/plain", "there is nothing here".into()),
    }
}

fn answer(status: StatusCode, content_type: &str, body: String) -> Result<Response<Body>> {
    Ok(Response::builder().status(status).header("content-type", content_type).body(body.into())?)
}

fn parse(form: &[u8]) -> Option<Entry> {
    let field = |wanted: &str| {
        let (_, value) = form_urlencoded::parse(form).find(|(name, _)| name == wanted)?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    Some(Entry { name: field("name")?, message: field("message")? })
}

/// Every entry is a key of its own, so that two people who write at the same moment both find their line.
/// Keys start with the time, so that sorting them sorts the entries; the random end tells apart equal times.
fn add(entry: &Entry) -> Result<()> {
    let now = std::time::SystemTime::from(wstd::time::SystemTime::now());
    let millis = now.duration_since(std::time::SystemTime::UNIX_EPOCH)?.as_millis();
    let mut random = [0; 8];
    wstd::rand::get_random_bytes(&mut random);
    let key = format!("{millis:013}-{:016x}", u64::from_le_bytes(random));
    bucket()?.set(&key, &serde_json::to_vec(entry)?).context("storing an entry")
}

/// The newest entries, newest first.
fn entries() -> Result<Vec<Entry>> {
    let bucket = bucket()?;
    let mut keys = Vec::new();
    let mut cursor = None;
    loop {
        let page = bucket.list_keys(cursor.as_deref()).context("listing entries")?;
        keys.extend(page.keys);
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort_unstable_by(|one, other| other.cmp(one));
    keys.truncate(ENTRIES_SHOWN);

    let mut entries = Vec::with_capacity(keys.len());
    for key in keys {
        // A key may go between listing and reading; then it is simply not shown.
        if let Some(value) = bucket.get(&key).context("reading an entry")? {
            entries.push(serde_json::from_slice(&value)?);
        }
    }
    Ok(entries)
}

/// The bucket exists because firm.toml binds it under this name.
fn bucket() -> Result<keyvalue::Bucket> {
    keyvalue::open("guestbook").context("opening the bucket")
}

/// One line for `firm logs -f`. Only the name: a log is no place for what people wrote.
async fn log(entry: &Entry) -> Result<()> {
    // Quoted, so that a name with a line break in it can't make up a line of its own.
    let line = format!("signed by {:?}\n", entry.name);
    Ok(wstd::io::stdout().write_all(line.as_bytes()).await?)
}

fn page(entries: &[Entry]) -> String {
    let list: String = entries
        .iter()
        .map(|entry| format!("<li><b>{}</b> {}</li>\n", escape(&entry.name), escape(&entry.message)))
        .collect();
    include_str!("page.html").replace("{entries}", &list)
}

/// Visitors' text, made harmless between tags and inside quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}
