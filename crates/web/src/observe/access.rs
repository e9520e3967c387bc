//! Access lines: what an app's log keeps of a request, where its manifest asks for it.
//!
//! A line is written when the answer's body has ended, so that bytes and time are true. Lines wait on their core and go
//! to the log's writer by the batch: waking a thread for each would cost more than the line. All that a visitor chose is
//! bounded and escaped, so nobody writes a second line into the first.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use base::limits::{
    ACCESS_AGENT_BYTES_MAX, ACCESS_METHOD_BYTES_MAX, ACCESS_TARGET_BYTES_MAX, LOG_BATCH_LINES_MAX, LOG_BATCH_TIME_MAX,
};
use base::{AppId, TenantId};
use http::{HeaderValue, Request, StatusCode, header};
use persist::{Line, Logs, Stream};
use state::manifest::{AccessLog, AccessLogClient};
use tokio::sync::Notify;

use super::End;
use crate::gate;
use crate::router::Site;

/// The parts of a line that are known with the request.
pub(super) struct Asked {
    /// Method and path, then network and user agent.
    text: String,
    /// Where the second begins.
    client_at: usize,
}

impl Asked {
    /// None: the site keeps no access lines.
    pub(super) fn of<B>(site: &Site, client: IpAddr, request: &Request<B>) -> Option<Self> {
        let AccessLog::On { query, client: kept } = site.access_log else { return None };
        let mut text = String::with_capacity(192);
        escape(&mut text, request.method().as_str().as_bytes(), ACCESS_METHOD_BYTES_MAX);
        text.push(' ');
        let uri = request.uri();
        let target = match uri.query() {
            // A share link's pass opens a private stage to whoever reads it.
            Some(asked) if query => match gate::take_pass(asked) {
                Some((_, asked)) => Cow::Owned(format!("{}?{asked}", uri.path())),
                None => Cow::Borrowed(uri.path_and_query().map_or("/", |target| target.as_str())),
            },
            _ => Cow::Borrowed(uri.path()),
        };
        escape(&mut text, target.as_bytes(), ACCESS_TARGET_BYTES_MAX);
        let client_at = text.len();
        write_client(&mut text, client.to_canonical(), kept);
        text.push_str(" \"");
        let agent = request.headers().get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
        escape_spaced(&mut text, agent, ACCESS_AGENT_BYTES_MAX);
        text.push('"');
        Some(Self { text, client_at })
    }

    /// The whole line, now that the answer has ended.
    pub(super) fn line(&self, status: Option<StatusCode>, bytes: u64, took: Duration, end: End) -> String {
        let (asked, client) = self.text.split_at(self.client_at);
        let mut line = String::with_capacity(self.text.len() + 64);
        let (millis, rest) = (took.as_millis(), took.subsec_micros() % 1_000 / 10);
        let status = status.as_ref().map_or("-", StatusCode::as_str);
        write!(line, "{asked} {status} {bytes}B {millis}.{rest:02}ms {client}")
            .expect("writing to a String can't fail");
        line.push_str(match end {
            End::Whole => "",
            End::Cut => " cut: the visitor left",
            End::Broken => " broken off: the app failed",
        });
        line
    }
}

fn write_client(text: &mut String, client: IpAddr, kept: AccessLogClient) {
    let wrote = match (kept, client) {
        (AccessLogClient::None, _) => write!(text, "-"),
        (AccessLogClient::Whole, client) => write!(text, "{client}"),
        (AccessLogClient::Network, IpAddr::V4(client)) => {
            let [a, b, c, _] = client.octets();
            write!(text, "{a}.{b}.{c}.0/24")
        }
        (AccessLogClient::Network, IpAddr::V6(client)) => {
            let [a, b, c, ..] = client.segments();
            write!(text, "{}/48", std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0))
        }
    };
    wrote.expect("writing to a String can't fail");
}

/// At the most `max` bytes of what is foreign, as visible ASCII without quotes: the rest as `\xNN`.
fn escape(text: &mut String, foreign: &[u8], max: usize) {
    escape_but(text, foreign, max, |byte| byte.is_ascii_graphic());
}

/// The same, with spaces.
fn escape_spaced(text: &mut String, foreign: &[u8], max: usize) {
    escape_but(text, foreign, max, |byte| byte.is_ascii_graphic() || byte == b' ');
}

fn escape_but(text: &mut String, foreign: &[u8], max: usize, plain: impl Fn(u8) -> bool) {
    let kept = &foreign[..foreign.len().min(max)];
    if kept.iter().all(|byte| plain(*byte) && !b"\"\\".contains(byte)) {
        // Nearly always: one copy.
        text.push_str(std::str::from_utf8(kept).expect("it is ASCII"));
    } else {
        for byte in kept {
            if plain(*byte) && !b"\"\\".contains(byte) {
                text.push(char::from(*byte));
            } else {
                write!(text, "\\x{byte:02x}").expect("writing to a String can't fail");
            }
        }
    }
    if kept.len() < foreign.len() {
        text.push('…');
    }
}

/// The lines of one core that wait to be handed on.
pub(super) struct Waiting {
    logs: Logs,
    lines: RefCell<Vec<(TenantId, AppId, Line)>>,
    /// There is a first one.
    begun: Notify,
}

impl Waiting {
    pub(super) fn new(logs: Logs) -> Rc<Self> {
        Rc::new(Self { logs, lines: RefCell::default(), begun: Notify::new() })
    }

    /// Takes a line. Never waits.
    pub(super) fn push(&self, site: &Site, request: &str, text: String) {
        let line = Line {
            at: SystemTime::now().into(),
            stage: site.stage.clone(),
            release: site.release,
            request: Some(request.to_owned()),
            stream: Stream::Access,
            text,
        };
        let mut lines = self.lines.borrow_mut();
        lines.push((site.tenant, site.app, line));
        match lines.len() {
            1 => self.begun.notify_one(),
            LOG_BATCH_LINES_MAX => {
                drop(lines);
                self.hand_on();
            }
            _ => {}
        }
    }

    /// Comes for the lines that were too few for a batch, for as long as the core runs.
    pub(super) async fn keep_handing_on(self: Rc<Self>) {
        loop {
            self.begun.notified().await;
            tokio::time::sleep(LOG_BATCH_TIME_MAX).await;
            self.hand_on();
        }
    }

    fn hand_on(&self) {
        let lines = std::mem::take(&mut *self.lines.borrow_mut());
        if !lines.is_empty() {
            self.logs.write_batch(lines);
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(foreign: &[u8], max: usize) -> String {
        let mut text = String::new();
        escape(&mut text, foreign, max);
        text
    }

    #[test]
    fn nobody_writes_a_line_of_their_own() {
        assert_eq!(
            escaped(b"/a\"b\\c\nGET / 200\x1b[31m\xff\0", 99),
            r"/a\x22b\x5cc\x0aGET\x20/\x20200\x1b[31m\xff\x00"
        );
        assert_eq!(escaped(b"/abcdef", 3), "/ab…");
        let mut agent = String::new();
        escape_spaced(&mut agent, b"a \"b\"\t", 99);
        assert_eq!(agent, r"a \x22b\x22\x09");
    }

    #[test]
    fn a_client_is_its_network_unless_more_is_asked_for() {
        use AccessLogClient::{Network, None, Whole};
        let client = |address: &str, kept| {
            let mut text = String::new();
            write_client(&mut text, address.parse::<IpAddr>().expect("an address").to_canonical(), kept);
            text
        };
        assert_eq!(client("192.0.2.77", Network), "192.0.2.0/24");
        assert_eq!(client("2001:db8:1:2:3::4", Network), "2001:db8:1::/48");
        assert_eq!(client("::ffff:192.0.2.77", Network), "192.0.2.0/24");
        assert_eq!(client("2001:db8::4", Whole), "2001:db8::4");
        assert_eq!(client("192.0.2.77", None), "-");
    }

    #[test]
    fn a_line_says_how_the_answer_ended() {
        let asked = Asked { text: "GET /a192.0.2.0/24 \"curl\"".to_owned(), client_at: 6 };
        let took = Duration::from_micros(12_345);
        let line = |end| asked.line(Some(StatusCode::OK), 13, took, end);
        assert_eq!(line(End::Whole), "GET /a 200 13B 12.34ms 192.0.2.0/24 \"curl\"");
        assert_eq!(line(End::Cut), "GET /a 200 13B 12.34ms 192.0.2.0/24 \"curl\" cut: the visitor left");
        assert!(line(End::Broken).ends_with(" broken off: the app failed"));
        let unanswered = asked.line(None, 0, took, End::Cut);
        assert_eq!(unanswered, "GET /a - 0B 12.34ms 192.0.2.0/24 \"curl\" cut: the visitor left");
    }

    #[test]
    fn the_longest_line_is_not_cut_again() {
        let longest = 4 * (ACCESS_METHOD_BYTES_MAX + ACCESS_TARGET_BYTES_MAX + ACCESS_AGENT_BYTES_MAX) + 200;
        assert!(longest < base::limits::LOG_LINE_BYTES_MAX);
    }
}
