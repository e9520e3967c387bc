//! An app's log, as JSON lines: the newest so many, and what comes for who stays; of all boxes that run the app.

use std::sync::Arc;
use std::time::SystemTime;

use api::LogLine;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, header};
use persist::logs::Filter;
use persist::{Line, Stream};

use super::{Answer, Call, Refusal};
use crate::answer::Body;
use crate::tier::{self, Asked, Merged, Told};

/// The most lines of the past that one answer holds.
const TAIL_MAX: usize = 10_000;
const TAIL_DEFAULT: usize = 100;

pub(crate) async fn log_read(call: Call) -> Answer {
    let app = call.app()?;
    let tail = match call.asked("tail") {
        None => TAIL_DEFAULT,
        Some(text) => text.parse().map_err(|_| Refusal::parameter("tail", "it is not a number of lines"))?,
    };
    let stage = call.asked("stage").map(str::parse).transpose();
    let stream = match call.asked("stream") {
        None => None,
        Some("stdout") => Some(Stream::Stdout),
        Some("stderr") => Some(Stream::Stderr),
        Some("fault") => Some(Stream::Fault),
        Some("access") => Some(Stream::Access),
        Some(_) => return Err(Refusal::parameter("stream", "it is stdout, stderr, fault or access")),
    };
    let filter = Filter {
        stream,
        stage: stage.map_err(|error: base::NameError| Refusal::parameter("stage", &error.to_string()))?,
        request: call.asked("request").map(str::to_owned),
        ..Filter::default()
    };
    let follow = match call.asked("follow") {
        None | Some("false") => false,
        Some("" | "true") => true,
        Some(_) => return Err(Refusal::parameter("follow", "it is true or false")),
    };
    let asked = Asked {
        tenant: call.tenant(),
        app: app.id,
        app_name: app.name.clone(),
        filter,
        tail: tail.min(TAIL_MAX),
        stay: follow,
    };
    let log = tier::merged(Arc::clone(&call.cloud), asked).await.map_err(|error| Refusal::failed(error.into()))?;
    let mut answer = Response::new(Body::Lines(Box::pin(said(log))));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

/// The past, then what comes.
fn said(log: Merged) -> impl futures_util::Stream<Item = Bytes> {
    stream::unfold(log, |mut log| async move {
        let bytes = match log.next().await? {
            Told::Line(line) => text(line),
            Told::Missed(count) => {
                notice(format!("{count} lines came faster than you read and are not shown; the log has them"))
            }
            Told::Notice(text) => notice(text),
            Told::End => return None,
        };
        Some((bytes, log))
    })
}

fn text(line: Line) -> Bytes {
    let stream = match line.stream {
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
        Stream::Fault => "fault",
        Stream::Access => "access",
    };
    json(&LogLine {
        at: line.at,
        stage: line.stage.to_string(),
        release: line.release.to_string(),
        request: line.request.unwrap_or_default(),
        stream: stream.to_owned(),
        text: line.text,
    })
}

/// Told in the log's own form, so that a reader of it need not know another; in a stream of its own, so that nobody takes
/// it for the app's.
fn notice(text: String) -> Bytes {
    json(&LogLine {
        at: SystemTime::now().into(),
        stage: String::new(),
        release: String::new(),
        request: String::new(),
        stream: "notice".to_owned(),
        text,
    })
}

fn json(line: &LogLine) -> Bytes {
    let mut bytes = serde_json::to_vec(line).expect("a line is plain data");
    bytes.push(b'\n');
    bytes.into()
}
