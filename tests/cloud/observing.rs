//! What the cloud sees of requests: access lines, figures, traces, spans. Read with Prometheus's own parser and with
//! OpenTelemetry's own messages.

use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::harness::{Lines, Node, Reply, arg, eventually, guest_project, python_of, run, site};
use crate::isolation::{probe, request_id};

/// An app of files that keeps its access lines.
fn files(access_log: &str) -> tempfile::TempDir {
    let manifest = format!(
        "app = \"files\"\n{access_log}\n[static.site]\ndir = \".\"\n[[route]]\npath = \"/\"\nstatic = \"site\"\n"
    );
    site(&[("index.html", "G'day from a file"), ("firm.toml", &manifest)])
}

/// The access lines of an app, once there are so many.
#[track_caller]
fn access_lines(node: &Node, app: &str, count: usize) -> Vec<Value> {
    let lines = || node.json(&["logs", "--app", app, "--stream", "access"]);
    let held = |lines: &Value| lines.as_array().map_or(0, Vec::len);
    eventually("all requests have their lines", || held(&lines()) >= count);
    let lines = lines();
    assert_eq!(held(&lines), count, "{lines}");
    lines.as_array().cloned().unwrap_or_default()
}

fn text(line: &Value) -> &str {
    line["text"].as_str().expect("a line has text")
}

/// A line without its time, which nobody knows before.
fn timeless(line: &Value) -> String {
    let words = text(line).split(' ').map(|word| if word.ends_with("ms") { "-ms" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_request_leaves_a_line_where_it_is_asked_for() {
    let node = Node::start();
    node.push(files("").path(), "quiet");
    node.get(&node.url("quiet")).expect(200);
    let hint = node.firm(&["logs", "--app", "quiet"]);
    assert!(hint.stderr.contains("access_log = true"), "{}{}", hint.stdout, hint.stderr);
    // An id that is nobody's isn't found for another reason.
    let nobody_s = node.firm(&["logs", "--app", "quiet", "--request", "00ab"]);
    assert!(
        nobody_s.stderr.contains("a request 00ab") && !nobody_s.stderr.contains("access_log"),
        "{}",
        nobody_s.stderr
    );

    node.push(
        files("access_log = true\n[stages.whole]\naccess_log = { query = true, client = \"whole\" }").path(),
        "files",
    );
    let url = node.url("files");
    let agent = ["--user-agent", "a \"quoted\"\\ \t\u{e9} agent"];
    let first = node.curl(&[&agent[..], &[&format!("{url}?token=secret")]].concat()).expect(200);
    node.curl(&["--head", "--user-agent", "", &url]).expect(200);
    node.curl(&["--user-agent", "x", "--http1.1", &format!("{url}no\u{e9}\"where")]).expect(404);
    node.curl(&[
        "--user-agent",
        "x",
        "-H",
        &format!("If-None-Match: {}", first.header("etag").expect("an ETag")),
        &url,
    ])
    .expect(304);
    node.curl(&["--user-agent", "x", "--request", "POST", &url]).expect(405);
    let lines = access_lines(&node, "files", 5);
    let said: Vec<String> = lines.iter().map(timeless).collect();
    let page = |line: &str| line.split(' ').nth(3).and_then(|bytes| bytes.strip_suffix('B')?.parse::<u64>().ok());
    assert_eq!(said[0], "GET / 200 17B -ms 127.0.0.0/24 \"a \\x22quoted\\x22\\x5c \\x09\\xc3\\xa9 agent\"");
    assert_eq!(said[1], "HEAD / 200 0B -ms 127.0.0.0/24 \"\"");
    assert!(said[2].starts_with("GET /no%c3%a9\\x22where 404 "), "{}", said[2]);
    assert!(said[2].ends_with("-ms 127.0.0.0/24 \"x\""), "{}", said[2]);
    assert!(page(&said[2]).is_some_and(|bytes| bytes > 100), "{}", said[2]);
    assert_eq!(said[3], "GET / 304 0B -ms 127.0.0.0/24 \"x\"");
    assert!(said[4].starts_with("POST / 405 "), "{}", said[4]);
    assert_eq!(lines[0]["request"].as_str(), Some(request_id(&first)));
    assert_eq!((&lines[0]["stage"], &lines[0]["release"]), (&json!("live"), &json!("r1")));

    // A stage has its own mind, and what its gate refuses has a line too.
    node.json(&[
        "push",
        arg(files("[stages.whole]\naccess_log = { query = true, client = \"whole\" }").path()),
        "--app",
        "files",
        "--stage",
        "whole",
    ]);
    let whole = node.url("whole--files");
    node.curl(&["--user-agent", "x", &format!("{whole}?firm-pass=opens-it&a=b")]).expect(401);
    let member = format!("authorization: Bearer {}", node.token("main", "visit"));
    node.curl(&["--user-agent", "x", "-H", &member, &format!("{whole}?a=b")]).expect(200);
    let lines = access_lines(&node, "files", 7);
    assert!(text(&lines[5]).starts_with("GET /?a=b 401 "), "{}", lines[5]);
    assert_eq!(timeless(&lines[6]), "GET /?a=b 200 17B -ms 127.0.0.1 \"x\"");
}

#[test]
fn a_line_tells_how_an_answer_ended() {
    let node = Node::start();
    let url = probe(&node, "shop", "");
    // Keys of the manifest's top stand before its tables.
    let project = guest_project("probe", "");
    let manifest = std::fs::read_to_string(project.path().join("firm.toml")).expect("it has a manifest");
    std::fs::write(project.path().join("firm.toml"), format!("access_log = true\n{manifest}"))
        .expect("it can be written");
    node.push(project.path(), "shop");
    node.get(&format!("{url}again")).expect(200);
    let broken = node.get(&format!("{url}trap-mid-stream"));
    assert_ne!(broken.curl, 0, "the answer is cut: {}", broken.text());
    node.get(&format!("{url}trap")).expect(500);
    // A visitor who leaves in the middle of what is sent to him.
    let left = node.curl(&["--max-time", "1", "--limit-rate", "1k", &format!("{url}big?bytes=20000000")]);
    assert_ne!(left.curl, 0);
    // And one who doesn't stay for his answer.
    let gone = node.curl(&["--max-time", "1", &format!("{url}sleep?ms=4000")]);
    assert_ne!(gone.curl, 0);
    // A body of a told length is whole with its last byte.
    let echoed = node.curl(&["--data-binary", "0123456789", &format!("{url}echo")]).expect(200);
    // Events that are read to their end have all their bytes.
    let events = node.get(&format!("{url}sse?n=3&ms=50")).expect(200);
    let lines = access_lines(&node, "shop", 7);
    let ended = |start: &str| {
        let line =
            lines.iter().find(|line| text(line).starts_with(start)).unwrap_or_else(|| panic!("{start}: {lines:?}"));
        text(line).to_owned()
    };
    assert!(ended("GET /again 200 1B").ends_with('"'));
    assert!(ended("GET /trap-mid-stream 200 ").ends_with(" broken off: the app failed"));
    assert!(ended("GET /trap 500 ").ends_with('"'));
    assert!(ended("GET /big 200 ").ends_with(" cut: the visitor left"));
    assert!(ended(&format!("POST /echo 200 {}B ", echoed.body.len())).ends_with('"'));
    assert!(ended("GET /sleep - 0B ").ends_with(" cut: the visitor left"));
    assert!(ended(&format!("GET /sse 200 {}B ", events.body.len())).ends_with('"'));
    // The line stands with the fault, under the same id.
    let id = request_id(&broken);
    let log = node.json(&["logs", "--app", "shop", "--request", id]);
    let streams: HashSet<&str> =
        log.as_array().into_iter().flatten().filter_map(|line| line["stream"].as_str()).collect();
    assert_eq!(streams, HashSet::from(["access", "fault"]), "{log}");
}

#[test]
fn a_crowd_of_visitors_does_not_push_out_what_the_app_said() {
    let node = Node::start();
    let project =
        guest_project("probe", "[static.site]\ndir = \"public\"\n[[route]]\npath = \"/file\"\nstatic = \"site\"\n");
    let manifest = std::fs::read_to_string(project.path().join("firm.toml")).expect("it has a manifest");
    std::fs::write(project.path().join("firm.toml"), format!("access_log = true\n{manifest}"))
        .expect("it can be written");
    std::fs::create_dir(project.path().join("public")).expect("a folder");
    std::fs::write(project.path().join("public/index.html"), "x").expect("a file");
    node.push(project.path(), "shop");
    let url = node.url("shop");
    node.get(&format!("{url}log?line=precious&n=1")).expect(200);
    let said = || node.json(&["logs", "--app", "shop", "--stream", "stdout"]);
    eventually("the app's own line is there", || said().as_array().is_some_and(|lines| !lines.is_empty()));
    let before = said();
    // One curl on one connection: more than a second's share.
    node.curl(&["--output", "/dev/null", &format!("{url}file/?[1-6000]")]);
    let lines = || node.json(&["logs", "--app", "shop", "-n", "10000"]);
    eventually("most requests have their lines", || lines().as_array().is_some_and(|lines| lines.len() > 2_000));
    assert_eq!(said(), before);
    let figures = Figures::of(&node);
    let dropped = figures.sum("firm_log_lines_dropped_total", &[]);
    let shown = lines().as_array().map_or(0, Vec::len);
    eprintln!("6,000 requests, {shown} lines shown, {dropped} dropped");
}

// ---- figures ----

struct Figures {
    families: Value,
    samples: Vec<(String, Value, f64)>,
}

impl Figures {
    #[track_caller]
    fn of(node: &Node) -> Self {
        let reply = node.api(&node.operator_token(), "GET", "/metrics", None).expect(200);
        assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        let ran = run(&mut python_of("observe-python", "metrics_client.py"), &reply.body);
        assert_eq!(ran.code, 0, "{}\n{}", ran.stderr, reply.text());
        let parsed: Value = serde_json::from_str(&ran.stdout).expect("it prints JSON");
        let sample = |sample: &Value| {
            let name = sample[0].as_str().expect("a name").to_owned();
            (name, sample[1].clone(), sample[2].as_f64().expect("a number"))
        };
        let samples = parsed["samples"].as_array().into_iter().flatten().map(sample).collect();
        Self { families: parsed["families"].clone(), samples }
    }

    /// All samples of the name that have these labels, added up.
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is = |held: &Value| labels.iter().all(|(label, value)| held[*label] == *value);
        self.samples.iter().filter(|(held, with, _)| held == name && is(with)).map(|(_, _, value)| value).sum()
    }

    fn has(&self, labels: &[(&str, &str)]) -> bool {
        self.samples.iter().any(|(_, with, _)| labels.iter().all(|(label, value)| with[*label] == *value))
    }
}

fn same(a: f64, b: f64) -> bool {
    (a - b).abs() < f64::EPSILON
}

#[test]
fn figures_tell_what_happened_to_whom() {
    let node = Node::start();
    let url = probe(&node, "shop", "[limit]\nrate = \"8/h\"\n");
    node.push(files("").path(), "files");
    node.push(files("").path(), "idle");
    let of = |reply: Reply| u64::try_from(reply.body.len()).expect("small");
    let mut bytes = 0;
    for _ in 0..3 {
        bytes += of(node.get(&node.url("files")).expect(200));
    }
    bytes += of(node.get(&format!("{}absent", node.url("files"))).expect(404));
    node.curl(&["--head", &node.url("files")]).expect(200);
    node.get(&format!("{url}again")).expect(200);
    node.get(&format!("{url}trap")).expect(500);
    node.get(&format!("{url}loop")).expect(500);
    node.get(&format!("{url}kv?op=set&bucket=probe&key=a&value=b"));
    node.get(&format!("{url}kv?op=get&bucket=probe&key=a"));
    node.get(&format!("{url}trap-mid-stream"));
    for _ in 0..4 {
        node.get(&format!("{url}again"));
    }
    node.get(&format!("https://nobody.main.localhost:{}/", node.tls_port())).expect(404);

    let figures = Figures::of(&node);
    let files = [("tenant", "main"), ("app", "files"), ("stage", "live")];
    let shop = [("tenant", "main"), ("app", "shop"), ("stage", "live")];
    let count = |labels: &[(&str, &str)], class: &str| {
        figures.sum("firm_requests_total", &[labels, &[("class", class)]].concat())
    };
    assert!(same(count(&files, "2xx"), 4.0) && same(count(&files, "4xx"), 1.0), "{:?}", figures.samples);
    assert!(same(figures.sum("firm_answer_bytes_total", &files), f64::from(u32::try_from(bytes).expect("small"))));
    assert!(same(figures.sum("firm_request_seconds_count", &files), 5.0));
    assert!(same(figures.sum("firm_request_seconds_bucket", &[&files[..], &[("le", "+Inf")]].concat()), 5.0));
    assert!(figures.sum("firm_request_seconds_sum", &files) > 0.0);
    assert!(same(count(&shop, "5xx"), 2.0));
    assert!(same(figures.sum("firm_faults_total", &[&shop[..], &[("kind", "trap")]].concat()), 1.0));
    assert!(same(figures.sum("firm_faults_total", &[&shop[..], &[("kind", "cpu")]].concat()), 1.0));
    assert!(same(figures.sum("firm_answers_broken_total", &[&shop[..], &[("by", "app")]].concat()), 1.0));
    let throttled = figures.sum("firm_throttled_total", &shop);
    assert!(throttled >= 1.0 && same(throttled, count(&shop, "4xx")), "{throttled}");
    assert!(!figures.has(&[("app", "idle")]), "an app without traffic has no figures");
    assert!(figures.sum("firm_kv_operations_total", &[("operation", "set")]) >= 1.0);
    assert!(figures.sum("firm_kv_operations_total", &[("operation", "get")]) >= 1.0);
    assert!(figures.sum("firm_other_requests_total", &[("to", "nobody"), ("class", "4xx")]) >= 1.0);
    assert!(figures.sum("firm_other_requests_total", &[("to", "api"), ("class", "2xx")]) >= 3.0);
    assert!(figures.sum("firm_connections", &[]) >= 1.0, "the one that asks");
    assert!(figures.sum("firm_connections_accepted_total", &[]) >= 10.0);
    for above_zero in [
        "firm_record_index",
        "firm_databases_open",
        "firm_instances_max",
        "firm_disk_free_bytes",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
    ] {
        assert!(figures.sum(above_zero, &[]) > 0.0, "{above_zero}");
    }
    for (family, kind) in [
        ("firm_requests", "counter"),
        ("firm_request_seconds", "histogram"),
        ("firm_instances", "gauge"),
        ("firm_compiles_waiting", "gauge"),
        ("firm_log_lines_dropped", "counter"),
    ] {
        assert_eq!(figures.families[family], kind, "{}", figures.families);
    }

    // Figures outlive a release, and go with their app.
    node.push(self::files("access_log = true").path(), "files");
    node.get(&node.url("files")).expect(200);
    let figures = Figures::of(&node);
    assert!(same(figures.sum("firm_requests_total", &[&files[..], &[("class", "2xx")]].concat()), 5.0));
    node.json(&["apps", "delete", "files", "--yes"]);
    assert!(!Figures::of(&node).has(&files));
}

// ---- traces and spans ----

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn an_app_is_told_of_the_trace() {
    let node = Node::start();
    let url = format!("{}headers", probe(&node, "shop", ""));
    let told = |fields: &[&str]| {
        let args: Vec<&str> = fields.iter().flat_map(|field| ["-H", field]).chain([url.as_str()]).collect();
        let reply = node.curl(&args).expect(200);
        let head = reply.json();
        let values = |name: &str| -> Vec<String> {
            let pairs = head["headers"].as_array().into_iter().flatten();
            pairs.filter(|pair| pair[0] == name).filter_map(|pair| pair[1].as_str().map(str::to_owned)).collect()
        };
        (request_id(&reply).to_owned(), values("traceparent"), values("tracestate"))
    };
    let (id, parent, state) = told(&[]);
    let [parent] = &parent[..] else { panic!("one parent: {parent:?}") };
    assert!(parent.starts_with("00-") && parent.ends_with(&format!("-{id}-00")) && parent.len() == 55, "{parent}");
    assert!(state.is_empty());
    let visitor = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    let (id, parent, state) = told(&[&visitor, "tracestate: rojo=1", "tracestate: congo=t61rcWkgMzE"]);
    assert_eq!((parent, state), (vec![format!("00-{TRACE}-{id}-01")], vec!["rojo=1,congo=t61rcWkgMzE".to_owned()]));
    let (id, parent, state) = told(&[&visitor, &visitor, "tracestate: rojo=1"]);
    assert!(
        !parent[0].contains(TRACE) && parent[0].contains(&id) && parent.len() == 1 && state.is_empty(),
        "{parent:?}"
    );
    let (_, parent, state) = told(&["traceparent: 00-nonsense", "tracestate: a=b,a=c"]);
    assert!(parent.len() == 1 && parent[0].len() == 55 && state.is_empty(), "{parent:?} {state:?}");
}

#[test]
fn ids_tell_nothing_of_other_requests() {
    let node = Node::start();
    node.push(files("").path(), "files");
    let reply = node.curl(&["--dump-header", "-", "--output", "/dev/null", &format!("{}?[1-50]", node.url("files"))]);
    let heads = reply.text();
    let ids: Vec<u64> = heads
        .lines()
        .filter_map(|line| u64::from_str_radix(line.strip_prefix("x-request-id: ")?.trim(), 16).ok())
        .collect();
    assert_eq!(ids.len(), 50, "{heads}");
    let steps: HashSet<u64> = ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert!(steps.len() == 49 && steps.iter().all(|step| *step > 1 << 20), "{ids:?}");
}

/// A collector, and what it says.
fn collector(refusals: &str) -> (Lines, String) {
    let said = Lines::of(python_of("observe-python", "otlp_collector.py").arg(refusals));
    let (_, port) = said.next().expect("it says its port");
    (said, format!("http://127.0.0.1:{port}"))
}

fn span(said: &Lines) -> Value {
    let (_, line) = said.next().expect("it goes on");
    serde_json::from_str(&line).expect("a span is JSON")
}

#[test]
fn spans_reach_a_collector() {
    let (said, endpoint) = collector("1");
    let mut node = Node::start_with(&["--otlp", &endpoint, "--otlp-sample", "1"]);
    let url = probe(&node, "shop", "");
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-00");
    let reply = node.curl(&["-H", &parent, &format!("{url}headers?secret=1")]).expect(200);
    assert!(reply.text().contains(&format!("00-{TRACE}-{}-01", request_id(&reply))), "{}", reply.text());
    // The first message is refused, and comes again.
    assert!(span(&said)["refused"].is_u64());
    let first = span(&said);
    assert_eq!(first["trace"], TRACE);
    assert_eq!(first["span"].as_str(), Some(request_id(&reply)));
    assert_eq!(first["parent"], "00f067aa0ba902b7");
    assert_eq!((&first["name"], &first["kind"], &first["failed"]), (&json!("GET /"), &json!(2), &json!(false)));
    assert_eq!((&first["service"], &first["scope"]), (&json!("firmament"), &json!("firm")));
    assert!(
        first["nanos"].as_u64().is_some_and(|nanos| nanos > 0)
            && first["begun"].as_u64() > Some(1_700_000_000_000_000_000)
    );
    let attributes = &first["attributes"];
    for (name, wanted) in [
        ("firm.tenant", json!("main")),
        ("firm.app", json!("shop")),
        ("firm.stage", json!("live")),
        ("firm.release", json!("r1")),
        ("http.request.method", json!("GET")),
        ("http.route", json!("/")),
        ("http.response.status_code", json!("200")),
        ("http.response.body.size", json!(reply.body.len().to_string())),
    ] {
        assert_eq!(attributes[name], wanted, "{first}");
    }
    assert!(!first.to_string().contains("secret"), "{first}");
    let failed = node.curl(&["--request", "BREW", &format!("{url}trap")]).expect(500);
    let second = span(&said);
    assert_eq!((&second["name"], &second["failed"], &second["parent"]), (&json!("_OTHER /"), &json!(true), &json!("")));
    assert_eq!(second["span"].as_str(), Some(request_id(&failed)));
    assert!(same(Figures::of(&node).sum("firm_spans_sent_total", &[]), 2.0));
    // What waits when the node is told to stop is sent.
    let last = node.get(&format!("{url}again")).expect(200);
    assert!(node.terminate().success());
    assert_eq!(span(&said)["span"].as_str(), Some(request_id(&last)));
}

#[test]
fn a_collector_that_is_away_hurts_nobody() {
    // A port that takes connections and never answers, and one that nobody listens on.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let silent_port = silent.local_addr().expect("it listens").port();
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let closed_port = closed.local_addr().expect("it listens").port();
    drop(closed);
    for port in [silent_port, closed_port] {
        let node = Node::start_with(&["--otlp", &format!("http://127.0.0.1:{port}"), "--otlp-sample", "1"]);
        node.push(files("").path(), "files");
        // More than the queue and a message hold.
        let range = format!("{}?[1-5000]", node.url("files"));
        let reply = node.curl(&["--output", "/dev/null", "--write-out", "%{http_code}\n", &range]);
        assert_eq!(reply.text().lines().filter(|status| *status == "200").count(), 5_000);
        eventually("what finds no room is counted", || Figures::of(&node).sum("firm_spans_dropped_total", &[]) > 0.0);
    }
    let node = Node::start();
    for (address, said) in [("https://otel.example", "plain http"), ("nonsense", "http://127.0.0.1:4318")] {
        let ran = node.firm(&["up", "--otlp", address]);
        assert!(ran.code == 2 && ran.stderr.contains(said), "{}: {}", ran.code, ran.stderr);
    }
}
