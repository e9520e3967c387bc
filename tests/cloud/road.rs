//! The whole road: from a folder of source to answers over TLS, streams, logs, and back again.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Lines, Node, Reply, app, guest_project, guest_with, python, run, site};

/// The versions that a browser may speak, as curl is told them.
const VERSIONS: [(&str, &str); 2] = [("--http1.1", "HTTP/1.1"), ("--http2", "HTTP/2")];

/// Pushes a sample app from its source, and says how long it took.
#[track_caller]
fn push_source(node: &Node, name: &str) -> Value {
    let source = app(name);
    let begun = Instant::now();
    let pushed = node.push(&source, name);
    eprintln!("figure: push of apps/{name} from source: {:.1} s", begun.elapsed().as_secs_f64());
    assert_eq!((pushed["url"].as_str(), pushed["release"].as_str()), (Some(node.url(name).as_str()), Some("r1")));
    assert_eq!((&pushed["stage"], &pushed["public"]), (&json!("live"), &json!(true)));
    pushed
}

/// Asks over both versions of HTTP.
#[track_caller]
fn both(node: &Node, args: &[&str], check: impl Fn(Reply)) {
    for (flag, version) in VERSIONS {
        let reply = node.curl(&[&[flag], args].concat());
        assert_eq!((reply.version.as_str(), reply.curl), (version, 0), "{args:?}: {}", reply.failed);
        assert!(reply.header("x-request-id").is_some_and(|id| id.len() == 16), "{:?}", reply.headers);
        check(reply);
    }
}

// ---- the sample apps ----

#[test]
fn the_static_app() {
    let node = Node::start();
    push_source(&node, "site");
    let url = node.url("site");
    both(&node, &[&url], |reply| {
        let reply = reply.expect(200);
        assert!(reply.text().contains("<h1>It’s up.</h1>"));
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    });
    both(&node, &[&format!("{url}style.css")], |reply| {
        assert!(reply.expect(200).header("content-type").is_some_and(|kind| kind.starts_with("text/css")));
    });
    both(&node, &[&format!("{url}nowhere")], |reply| {
        assert_eq!(reply.expect(404).header("content-type"), Some("text/html; charset=utf-8"));
    });
    // What configures the app is no part of it.
    both(&node, &[&format!("{url}firm.toml")], |reply| drop(reply.expect(404)));
}

#[test]
fn the_rust_app() {
    let node = Node::start();
    push_source(&node, "guestbook");
    let url = node.url("guestbook");
    for (number, (flag, _)) in VERSIONS.iter().enumerate() {
        let name = format!("name=Ada+{number}");
        let posted =
            node.curl(&[flag, "--data", &name, "--data", "message=<b>hello</b>", &format!("{url}entries")]).expect(303);
        assert_eq!(posted.header("location"), Some("/"));
        let log =
            node.json(&["logs", "--app", "guestbook", "--request", posted.header("x-request-id").expect("an id")]);
        assert!(texts(&log).contains(&format!("signed by \"Ada {number}\"")), "{log}");
    }
    both(&node, &[&format!("{url}entries")], |reply| {
        let entries = reply.expect(200).json();
        assert_eq!(entries.as_array().map(Vec::len), Some(2));
        assert_eq!(entries[1], json!({ "name": "Ada 0", "message": "<b>hello</b>" }));
    });
    both(&node, &[&url], |reply| {
        let page = reply.expect(200).text();
        assert!(page.contains("<b>Ada 1</b> &lt;b&gt;hello&lt;/b&gt;"), "{page}");
    });
    both(&node, &["--data", "name=", &format!("{url}entries")], |reply| drop(reply.expect(400)));
}

#[test]
fn the_javascript_app() {
    let node = Node::start();
    push_source(&node, "js");
    let url = node.url("js");
    let kept = format!("{url}notes/one");
    both(&node, &["--request", "PUT", "--data", r#"{"text": "hello"}"#, &kept], |reply| drop(reply.expect(204)));
    both(&node, &[&kept], |reply| assert_eq!(reply.expect(200).json(), json!({ "text": "hello" })));
    both(&node, &[&format!("{url}notes")], |reply| assert_eq!(reply.expect(200).json(), json!(["one"])));
    both(&node, &["--request", "PUT", "--data", "{", &kept], |reply| drop(reply.expect(400)));
    both(&node, &[&url], |reply| assert_eq!(reply.expect(200).json()["greeting"], "G'day"));
    assert_eq!(node.get(&url).json()["visits"], 3);
    let log = node.json(&["logs", "--app", "js"]);
    assert_eq!(texts(&log).iter().filter(|text| *text == "stored one").count(), 2, "{log}");
    node.curl(&["--request", "DELETE", &kept]).expect(204);
    node.get(&kept).expect(404);
}

#[test]
fn the_python_app() {
    let node = Node::start();
    push_source(&node, "python");
    let url = node.url("python");
    let asked = node
        .curl(&["--data", r#"{"question": "Tea?", "choices": ["yes", "no"]}"#, &format!("{url}polls")])
        .expect(201)
        .json();
    let poll = format!("{url}{}", asked["poll"].as_str().expect("its path").trim_start_matches('/'));
    both(&node, &["--data", "yes", &poll], |reply| drop(reply.expect(204)));
    both(&node, &["--data", "perhaps", &poll], |reply| drop(reply.expect(404)));
    both(&node, &[&poll], |reply| {
        assert_eq!(reply.expect(200).json(), json!({ "question": "Tea?", "votes": { "yes": 2, "no": 0 } }));
    });
    both(&node, &[&url], |reply| assert_eq!(reply.expect(200).json()["message"], "G'day! POST a question to /polls"));
    let log = node.json(&["logs", "--app", "python"]);
    assert!(texts(&log).iter().any(|text| text.starts_with("asked ")), "{log}");
}

#[test]
fn a_wasi_0_3_guest() {
    let node = Node::start();
    node.push(guest_project("p3hello", "").path(), "p3");
    let url = node.url("p3");
    both(&node, &[&url], |reply| {
        assert_eq!(reply.expect(200).text(), format!("hello from WASI 0.3 at p3.main.localhost:{}\n", node.tls_port()));
    });
    both(&node, &["--data", "there and back", &format!("{url}echo")], |reply| {
        assert_eq!(reply.expect(200).text(), "there and back");
    });
    both(&node, &[&format!("{url}nothing")], |reply| drop(reply.expect(404)));
    for (flag, _) in VERSIONS {
        let lines = Lines::of(node.curl_command().args([flag, &format!("{url}slow")]));
        let came: Vec<_> = std::iter::from_fn(|| lines.next()).collect();
        assert_eq!(came.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(), ["line 1", "line 2", "line 3"]);
        apart(&came, 100);
    }
    try_out(&node, "p3", &["both_ways", "both_ways_http1"]);
}

// ---- streams ----

/// Lines that a guest sent `ms` apart didn't come all at once.
#[track_caller]
fn apart(came: &[(Instant, String)], ms: u64) {
    let (first, last) = (came.first().expect("there are lines").0, came.last().expect("there are lines").0);
    let gaps = u64::try_from(came.len() - 1).expect("they are few");
    // Half of it: the first may be late on a busy machine.
    assert!(last - first >= Duration::from_millis(ms * gaps / 2), "all came within {:?}", last - first);
}

/// Runs trials of `h2_client.py` against an app.
#[track_caller]
fn try_out(node: &Node, app: &str, trials: &[&str]) {
    let (authority, host, port) = (node.authority(), format!("{app}.main.localhost"), node.tls_port().to_string());
    let ran = run(python("h2_client.py").arg(authority).args([&host, &port]).args(trials), b"");
    assert_eq!((ran.code, ran.stdout.lines().collect::<Vec<_>>()), (0, trials.to_vec()), "{}", ran.stderr);
}

#[test]
fn streams_in_both_directions() {
    let node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    let url = node.url("probe");
    for (flag, _) in VERSIONS {
        let lines = Lines::of(node.curl_command().args([flag, &format!("{url}sse?n=4&ms=200")]));
        let came: Vec<_> = std::iter::from_fn(|| lines.next()).filter(|(_, line)| line.starts_with("data: ")).collect();
        assert_eq!(came.len(), 4);
        apart(&came, 200);
    }
    try_out(&node, "probe", &["both_ways", "both_ways_http1"]);
    // Larger than any buffer on the way.
    let sent = vec![b'y'; 3_000_000];
    for (flag, _) in VERSIONS {
        let reply = node.curl_with(&[flag, "--data-binary", "@-", &format!("{url}echo")], &sent).expect(200);
        assert!(reply.body == sent, "{} of {} bytes came back", reply.body.len(), sent.len());
    }
    both(&node, &[&format!("{url}big?bytes=2000000")], |reply| assert_eq!(reply.expect(200).body.len(), 2_000_000));
}

#[test]
fn http2_as_another_client_speaks_it() {
    let node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    try_out(&node, "probe", &["concurrent", "large", "first_before_last"]);
}

#[test]
fn what_breaks_off_is_seen_to_break_off() {
    let node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    for (flag, _) in VERSIONS {
        let reply = node.curl(&[flag, &format!("{}trap-mid-stream", node.url("probe"))]);
        assert_eq!((reply.status, reply.text().as_str()), (200, "0123456789"));
        assert_ne!(reply.curl, 0, "curl took half an answer for a whole one");
    }
    node.get(&node.url("probe")).expect(200);
}

// ---- static files ----

/// A folder without a manifest.
fn plain_folder() -> tempfile::TempDir {
    site(&[
        ("index.html", "<h1>home</h1>\n"),
        ("about.html", "<h1>about</h1>\n"),
        ("blog/index.html", "<h1>blog</h1>\n"),
        ("css/site.css", "body { margin: 0 }\n"),
        ("digits.txt", "0123456789"),
        ("404.html", "<h1>lost</h1>\n"),
        (".hidden", "not for visitors"),
    ])
}

#[test]
fn a_folder_without_a_manifest() {
    let node = Node::start();
    node.push(plain_folder().path(), "plain");
    let url = node.url("plain");
    let of = |path: &str| format!("{url}{path}");
    let home = node.get(&url).expect(200);
    let etag = home.header("etag").expect("an ETag").to_owned();
    assert_eq!(home.header("cache-control"), Some("public, max-age=0, must-revalidate"));
    assert_eq!(home.header("x-content-type-options"), Some("nosniff"));

    for held in [etag.clone(), format!("\"other\", W/{etag}"), "*".to_owned()] {
        both(&node, &["--header", &format!("if-none-match: {held}"), &url], |reply| {
            let reply = reply.expect(304);
            assert_eq!((reply.body.len(), reply.header("etag")), (0, Some(etag.as_str())));
        });
    }
    both(&node, &["--header", "if-none-match: \"other\"", &url], |reply| drop(reply.expect(200)));

    both(&node, &["--head", &of("digits.txt")], |reply| {
        let reply = reply.expect(200);
        assert_eq!((reply.header("content-length"), reply.header("accept-ranges")), (Some("10"), Some("bytes")));
    });
    for (range, status, part, shown) in [
        ("0-3", 206, "0123", "bytes 0-3/10"),
        ("7-", 206, "789", "bytes 7-9/10"),
        ("-2", 206, "89", "bytes 8-9/10"),
        ("3-99", 206, "3456789", "bytes 3-9/10"),
        ("10-", 416, "", "bytes */10"),
    ] {
        both(&node, &["--range", range, &of("digits.txt")], |reply| {
            let reply = reply.expect(status);
            assert_eq!((reply.text().as_str(), reply.header("content-range")), (part, Some(shown)), "{range}");
        });
    }
    // A part of another version than the one that the visitor holds would be patched into nonsense.
    both(&node, &["--range", "0-3", "--header", "if-range: \"old\"", &of("digits.txt")], |reply| {
        assert_eq!(reply.expect(200).text(), "0123456789");
    });

    for (path, status, to) in [
        ("about.html", 308, "/about"),
        ("index.html", 308, "/"),
        ("about/", 308, "/about"),
        ("blog", 308, "/blog/"),
        ("blog?a=b", 308, "/blog/?a=b"),
    ] {
        both(&node, &[&of(path)], |reply| assert_eq!(reply.expect(status).header("location"), Some(to), "{path}"));
    }
    both(&node, &[&of("about")], |reply| assert_eq!(reply.expect(200).text(), "<h1>about</h1>\n"));
    both(&node, &["--location", &of("blog")], |reply| assert_eq!(reply.expect(200).text(), "<h1>blog</h1>\n"));
    for path in ["nothing", ".hidden", "css", "%2e%2e/%2e%2e/etc/passwd", "..%2f..%2fetc%2fpasswd"] {
        both(&node, &["--path-as-is", &of(path)], |reply| {
            assert_eq!(reply.expect(404).text(), "<h1>lost</h1>\n", "{path}");
        });
    }
    both(&node, &["--request", "POST", &url], |reply| assert_eq!(reply.expect(405).header("allow"), Some("GET, HEAD")));
}

#[test]
fn plain_http_redirects_or_serves() {
    let folder = plain_folder();
    let node = Node::start();
    node.push(folder.path(), "plain");
    let reply = node.get(&format!("{}css/site.css?a=b", node.plain_url("plain"))).expect(308);
    assert_eq!(reply.header("location"), Some(format!("{}css/site.css?a=b", node.url("plain")).as_str()));
    drop(node);

    let node = Node::start_with(&["--serve-plain"]);
    node.push(folder.path(), "plain");
    assert_eq!(node.get(&node.plain_url("plain")).expect(200).text(), "<h1>home</h1>\n");
    node.get(&node.url("plain")).expect(200);
    // A token must not cross a network in the clear, whatever apps do.
    let reply = node.get(&format!("http://api.localhost:{}/v1/health", node.plain_port()));
    assert_ne!(reply.status, 200, "{}", reply.text());
}

#[test]
fn hosts_that_nobody_has() {
    let node = Node::start();
    node.get(&node.url("nobody")).expect(404);
    node.push(plain_folder().path(), "plain");
    // The certificate is for the name that was asked for; another host on that connection is another matter.
    node.curl(&["--http1.1", "--header", "host: nobody.main.localhost", &node.url("plain")]).expect(421);
    let ran = node.firm(&["status"]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

// ---- logs ----

fn texts(log: &Value) -> Vec<String> {
    let lines = log.as_array().expect("an array of lines");
    lines.iter().map(|line| line["text"].as_str().unwrap_or_default().trim_end().to_owned()).collect()
}

#[test]
fn a_trap_is_found_by_its_request() {
    let node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    let url = node.url("probe");
    let trapped = node.get(&format!("{url}trap")).expect(500);
    node.get(&format!("{url}trap")).expect(500);
    let id = trapped.header("x-request-id").expect("an id");
    assert!(trapped.text().contains(id), "the page names its request: {}", trapped.text());
    assert!(!trapped.text().contains("unreachable"), "a visitor learns no more than that: {}", trapped.text());
    let log = node.json(&["logs", "--app", "probe", "--request", id]);
    let lines = log.as_array().expect("an array");
    assert!(lines.iter().all(|line| line["request"] == id), "{log}");
    assert!(
        lines.iter().any(|line| line["stream"] == "fault" && line["text"].to_string().contains("unreachable")),
        "{log}"
    );
    let shown = node.firm(&["logs", "--app", "probe", "--request", id]);
    assert!(shown.code == 0 && shown.stdout.contains("fault"), "{}{}", shown.stdout, shown.stderr);
}

#[test]
fn what_a_guest_prints_is_in_its_log() {
    let node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    let url = node.url("probe");
    let said = node.get(&format!("{url}log?line=to+stdout&n=3")).expect(200);
    node.get(&format!("{url}err?line=to+stderr")).expect(200);
    let log = node.json(&["logs", "--app", "probe"]);
    let of = |stream: &str| {
        log.as_array().into_iter().flatten().filter(|line| line["stream"] == stream).cloned().collect::<Vec<_>>()
    };
    assert_eq!(texts(&json!(of("stdout"))), ["to stdout"; 3]);
    assert_eq!(texts(&json!(of("stderr"))), ["to stderr"]);
    assert!(of("stdout").iter().all(|line| line["request"].as_str() == said.header("x-request-id")));
    assert_eq!(node.json(&["logs", "--app", "probe", "-n", "1"]).as_array().map(Vec::len), Some(1));
    assert_eq!(node.json(&["logs", "--app", "probe", "--stage", "other"]), json!([]));
}

#[test]
fn a_log_is_followed() {
    let node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    let url = node.url("probe");
    node.get(&format!("{url}log?line=before")).expect(200);
    let lines = Lines::of(node.command().args(["logs", "-f", "--app", "probe"]));
    lines.until("before");
    for number in 0..3 {
        node.get(&format!("{url}log?line=number+{number}")).expect(200);
        lines.until(&format!("number {number}"));
    }
}

// ---- a second push ----

/// Every chunk file, by which inode it is: one that was written anew is another.
fn chunk_files(folder: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().map_while(Result::ok) {
        if entry.path().is_dir() {
            files.extend(chunk_files(&entry.path()));
        } else if let Ok(meta) = entry.metadata() {
            files.insert((entry.path(), meta.ino()));
        }
    }
    files
}

#[test]
fn an_unchanged_push_uploads_nothing_and_makes_no_release() {
    let node = Node::start();
    let project = guest_with(
        "probe",
        "[components.app]\nsource = \"app.wasm\"\n[static.files]\ndir = \"files\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n[[route]]\npath = \"/files\"\nstatic = \"files\"\n[bindings]\nkv = [\"probe\"]\n",
    );
    std::fs::create_dir(project.path().join("files")).expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(project.path().join("files").join(name), text).expect("a file");
    write("a.txt", "a");
    node.push(project.path(), "twice");
    let chunks = node.dir().join("chunks");
    let before = chunk_files(&chunks);
    assert!(before.len() >= 3, "{before:?}");

    let second = node.push(project.path(), "twice");
    assert_eq!((&second["release"], chunk_files(&chunks)), (&json!("r1"), before.clone()));
    assert_eq!(second["unchanged"], true);
    assert_eq!(node.json(&["releases", "--app", "twice"]).as_array().map(Vec::len), Some(1));

    // One file more costs that file and the index that names it.
    write("b.txt", "b");
    node.push(project.path(), "twice");
    let after = chunk_files(&chunks);
    assert!(before.is_subset(&after));
    assert_eq!(after.len(), before.len() + 2);
    assert_eq!(node.get(&format!("{}files/b.txt", node.url("twice"))).expect(200).text(), "b");
    // Nothing waits to be settled.
    assert!(chunk_files(&node.dir().join("incoming")).is_empty());
}
