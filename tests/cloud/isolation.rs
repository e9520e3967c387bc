//! Hostile tenants: what they try, and that nobody else notices. Hostile visitors are in `visitors.rs`.
//!
//! The probe (`tests/guests/probe`) is the hostile tenant. While it misbehaves, another tenant's app must go on
//! answering, correctly; how fast is printed, and no test's business.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Node, Reply, arg, eventually, guest_project, guest_with, site};

/// A second tenant, with a probe of its own as `app`.
#[track_caller]
pub(crate) fn rival(node: &Node, app: &str) {
    node.json(&["tenant", "add", "rival"]);
    let project = guest_project("probe", "");
    node.json(&["push", arg(project.path()), "--app", app, "--tenant", "rival"]);
}

fn rival_url(node: &Node, app: &str) -> String {
    format!("https://{app}.rival.localhost:{}/", node.tls_port())
}

/// The probe as `app` of the first tenant, with `more` in its manifest.
#[track_caller]
pub(crate) fn probe(node: &Node, app: &str, more: &str) -> String {
    node.push(guest_project("probe", more).path(), app);
    node.url(app)
}

/// What may stand in a query.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }).collect()
}

/// Waits until the log has a line of this request with `text` in it.
#[track_caller]
fn logged(node: &Node, app: &str, request: &str, text: &str) {
    let lines = || node.json(&["logs", "--app", app, "--request", request]);
    let has = |lines: &Value| {
        let mut lines = lines.as_array().into_iter().flatten();
        lines.any(|line| line["text"].as_str().is_some_and(|said| said.contains(text)))
    };
    let begun = Instant::now();
    while !has(&lines()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "no line of {request} says `{text}`: {}", lines());
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn request_id(reply: &Reply) -> &str {
    reply.header("x-request-id").unwrap_or_else(|| panic!("no request id: {:?}", reply.headers))
}

/// Does `work` while another tenant's app is asked again and again, and must answer each time as it should.
#[track_caller]
fn undisturbed<T>(node: &Node, bystander: &str, what: &str, work: impl FnOnce() -> T) -> T {
    /// However it ends, the asking does too.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let (mut asked, mut slowest) = (0_u32, Duration::ZERO);
            // At least once, and once after it is over.
            loop {
                let last = over.load(Ordering::Relaxed);
                let begun = Instant::now();
                let value = format!("{asked}");
                let set = node.get(&format!("{bystander}kv?bucket=probe&op=set&key=asked&value={value}"));
                assert_eq!(set.expect(200).json(), json!({ "ok": null }), "while {what}");
                let got = node.get(&format!("{bystander}kv?bucket=probe&op=get&key=asked"));
                assert_eq!(got.expect(200).json(), json!({ "ok": value }), "while {what}");
                slowest = slowest.max(begun.elapsed());
                asked += 1;
                if last {
                    return (asked, slowest);
                }
            }
        });
        let ended = Over(&over);
        let done = work();
        drop(ended);
        match asking.join() {
            Ok((asked, slowest)) => {
                eprintln!("figure: {what}: the other tenant wrote and read {asked} times, {slowest:?} at the most");
            }
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
        done
    })
}

// ---- what one tenant may learn of another ----

#[test]
fn tenants_share_nothing_but_the_box() {
    let node = Node::start();
    let ours = probe(&node, "shop", "");
    rival(&node, "shop");
    let theirs = rival_url(&node, "shop");
    let kv = |url: &str, op: &str, bucket: &str, value: &str| {
        node.get(&format!("{url}kv?bucket={}&op={op}&key=secret&value={value}", encode(bucket))).expect(200).json()
    };
    kv(&ours, "set", "probe", "ours");
    kv(&theirs, "set", "probe", "theirs");
    assert_eq!(kv(&ours, "get", "probe", ""), json!({ "ok": "ours" }));
    assert_eq!(kv(&theirs, "get", "probe", ""), json!({ "ok": "theirs" }));

    // Whatever a guest calls it, what isn't bound isn't there.
    let databases: Vec<String> = walk(node.dir()).into_iter().filter(|path| path.contains("databases")).collect();
    assert!(databases.len() >= 2, "{databases:?}");
    let mut names: Vec<String> = [
        "",
        " ",
        "probe ",
        " probe",
        "Probe",
        "PROBE",
        "probe\0",
        "probe\n",
        "\0",
        "*",
        "%",
        "_",
        "prob_",
        "default",
        "../probe",
        "../../rival/probe",
        "rival/probe",
        "rival/shop/probe",
        "main/shop/probe",
        "/etc/passwd",
        "..",
        ".",
        "probe/../probe",
        "probe'--",
        "probe' OR '1'='1",
        "\"probe\"",
        "probe;DROP TABLE kv",
        "sqlite_master",
        "main.probe",
        "рrobe",
        "pro\u{200b}be",
        "pro\u{301}be",
        "ｐｒｏｂｅ",
        "probe\u{202e}",
        "💥",
    ]
    .map(str::to_owned)
    .into();
    names.extend((0..12).map(|number| number.to_string()));
    names.extend(["p".repeat(41), "p".repeat(8_000)]);
    // The names of the files themselves, whole and in part.
    for path in &databases {
        names.push(path.clone());
        names.extend(Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    for name in &names {
        for url in [&ours, &theirs] {
            for op in ["get", "set", "delete", "list"] {
                let answer = kv(url, op, name, "stolen");
                assert!(
                    answer["error"].as_str().is_some_and(|said| said.contains("NoSuchStore")),
                    "{name:?} {op}: {answer}"
                );
            }
        }
    }
    assert_eq!(kv(&ours, "get", "probe", ""), json!({ "ok": "ours" }));
    assert_eq!(kv(&theirs, "get", "probe", ""), json!({ "ok": "theirs" }));

    // A cursor is a guest's text too.
    for cursor in ["", "\0", "'", "zzz", "../"] {
        let listed = node.get(&format!("{ours}kv?bucket=probe&op=list&cursor={}", encode(cursor))).expect(200).json();
        let keys = listed["ok"].as_array().unwrap_or_else(|| panic!("{cursor:?}: {listed}"));
        assert!(keys.iter().all(|key| key == "secret"), "{cursor:?}: {listed}");
    }
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found
}

#[test]
fn configuration_is_seen_by_its_own_stage_alone() {
    let node = Node::start();
    let bound = "[stages.next.env]\nGREETING = \"next\"\n";
    let project = guest_project("probe", bound);
    let manifest = fs::read_to_string(project.path().join("firm.toml")).expect("it was just written");
    let manifest = manifest.replace("kv = [\"probe\"]", "kv = [\"probe\"]\nsecrets = [\"KEY\"]");
    fs::write(project.path().join("firm.toml"), manifest).expect("the project is ours");
    let push = |tenant: &str, app: &str, stage: &str| {
        node.json(&["push", arg(project.path()), "--app", app, "--stage", stage, "--tenant", tenant]);
    };
    node.json(&["tenant", "add", "rival"]);
    let places =
        [("main", "shop", "live"), ("main", "shop", "next"), ("main", "other", "live"), ("rival", "shop", "live")];
    for (tenant, app, stage) in places {
        push(tenant, app, stage);
        let value = format!("{tenant} {app} {stage}");
        let set = node.firm_with(
            &["--tenant", tenant, "secret", "set", "KEY", "--stdin", "--app", app, "--stage", stage],
            &[],
            &value,
        );
        assert_eq!(set.code, 0, "{}", set.stderr);
        // A secret that no manifest binds reaches nobody.
        let set = node.firm_with(
            &["--tenant", tenant, "secret", "set", "UNBOUND", "--stdin", "--app", app, "--stage", stage],
            &[],
            "no",
        );
        assert_eq!(set.code, 0, "{}", set.stderr);
    }
    let bearer = format!("authorization: Bearer {}", node.operator_token());
    for (tenant, app, stage) in places {
        let host = if stage == "live" { app.to_owned() } else { format!("{stage}--{app}") };
        let url = format!("https://{host}.{tenant}.localhost:{}/", node.tls_port());
        let get = |path: &str| node.curl(&["-H", &bearer, &format!("{url}{path}")]).expect(200).json();
        let greeting = if stage == "live" { "G'day" } else { "next" };
        assert_eq!(get("config"), json!({ "KEY": format!("{tenant} {app} {stage}"), "GREETING": greeting }));
        // Secrets aren't in the environment, which much more of a program looks at; nor is anything of the box's.
        assert_eq!(get("env"), json!({ "GREETING": greeting }));
        for key in ["UNBOUND", "key", "KEY\0", "rival/KEY", "shop/next/KEY", "../KEY", "", "PATH", "FIRM_TOKEN"] {
            assert_eq!(get(&format!("config?key={}", encode(key))), json!(null), "{key:?}");
        }
    }
    // Nor is it anywhere on the disk in the clear.
    for path in walk(node.dir()) {
        let bytes = fs::read(&path).unwrap_or_default();
        assert!(!bytes.windows(15).any(|part| part == b"rival shop live"), "{path} has a secret in the clear");
    }
}

// ---- the way out ----

#[test]
fn requests_go_out_only_where_the_manifest_says_and_never_inside() {
    let node = Node::start();
    let listed = [
        "127.0.0.1",
        "127.0.0.1:9000",
        "127.1",
        "0.0.0.0",
        "0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.1",
        "localhost",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "3232235521",
    ];
    let hosts = listed.map(|host| format!("\"{host}\"")).join(", ");
    let url = probe(&node, "out", &format!("[outbound]\nhosts = [{hosts}]\n"));
    let fetch = |target: &str| node.get(&format!("{url}fetch?url={}", encode(target))).expect(200);

    for target in [
        "http://example.com/",
        "https://example.com:8443/x",
        "http://127.0.0.2/",
        "http://127.0.0.1:9001/",
        "https://localhost:9000/",
    ] {
        let reply = fetch(target);
        assert_eq!(reply.json()["error"], "ErrorCode::HttpRequestDenied", "{target}");
        let host = target.split("//").nth(1).and_then(|rest| rest.split('/').next()).expect("a host");
        logged(&node, "out", request_id(&reply), &format!("add \"{host}\" to `hosts` under [outbound] in firm.toml"));
    }
    // No pattern can name them, so they are refused like any host that isn't listed.
    for target in [
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[fd00::1]/",
    ] {
        assert_eq!(fetch(target).json()["error"], "ErrorCode::HttpRequestDenied", "{target}");
    }
    for target in [
        "http://user@127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://127.0.0.1:0/",
        "http://127.0.0.1:99999/",
        "http:///",
        "file://etc/passwd",
    ] {
        let answer = fetch(target).json();
        assert!(answer["error"].is_string(), "{target}: {answer}");
    }
    // Listed, and not of the public internet, however it is written and whatever it resolves by.
    for host in listed.into_iter().chain(["LOCALHOST", "localhost.", "127.0.0.1."]) {
        let target = format!("http://{host}/");
        let reply = fetch(&target);
        let said = reply.json()["error"].as_str().unwrap_or_default().to_owned();
        // Some resolvers know only some spellings of a number.
        assert!(said.contains("DestinationIpProhibited") || said.contains("DnsError"), "{target}: {said}");
        if said.contains("DestinationIpProhibited") {
            logged(&node, "out", request_id(&reply), "is not an address of the public internet");
        }
    }
    for certain in ["127.0.0.1", "localhost", "169.254.169.254", "127.0.0.1:9000"] {
        let answer = fetch(&format!("http://{certain}/")).json();
        assert_eq!(answer["error"], "ErrorCode::DestinationIpProhibited", "{certain}");
    }
    // The box's own API is inside too.
    let port = node.tls_port();
    let url = probe(&node, "out", &format!("[outbound]\nhosts = [\"127.0.0.1:{port}\", \"api.localhost:{port}\"]\n"));
    for host in ["127.0.0.1", "api.localhost"] {
        let answer = node
            .get(&format!("{url}fetch?url={}", encode(&format!("https://{host}:{port}/v1/health"))))
            .expect(200)
            .json();
        assert!(answer["error"].is_string(), "{host}: {answer}");
    }
    // What can't be a host is no manifest.
    for wrong in ["http://127.0.0.1", "[::1]", "127.0.0.1/x", "*", "a b", "::1"] {
        let project = guest_project("probe", &format!("[outbound]\nhosts = [\"{wrong}\"]\n"));
        let ran = node.firm(&["push", arg(project.path()), "--app", "out"]);
        assert!(ran.code != 0 && ran.stderr.contains("is not a host"), "{wrong}: {}", ran.stderr);
    }
}

#[test]
fn an_operators_exception_is_one_address_and_port() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has free ports");
    let port = |listener: &TcpListener| listener.local_addr().expect("it listens").port();
    let (open, shut) = (port(&listener), port(&other));
    // Ends with the test's process; it holds nothing of the node's.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            let mut head = String::new();
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                head += &line;
                line.clear();
            }
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{head}", head.len());
            // Whoever asked may be gone.
            let _ = reader.into_inner().write_all(answer.as_bytes());
        }
    });
    let node = Node::start_with(&["--allow-private", &format!("127.0.0.1:{open}")]);
    let hosts = format!("[outbound]\nhosts = [\"127.0.0.1:{open}\", \"127.0.0.1:{shut}\", \"localhost:{open}\"]\n");
    let url = probe(&node, "out", &hosts);
    let fetch = |target: String| node.get(&format!("{url}fetch?url={}", encode(&target))).expect(200).json();
    let answer = fetch(format!("http://127.0.0.1:{open}/a/b?c"));
    assert_eq!(answer["status"], 200, "{answer}");
    let head = answer["body"].as_str().unwrap_or_default().to_lowercase();
    assert!(
        head.starts_with("get /a/b?c http/1.1\r\n") && head.contains(&format!("host: 127.0.0.1:{open}\r\n")),
        "{head}"
    );
    assert!(
        !head.contains("x-request-id") && !head.contains("forwarded"),
        "nothing of the visitor's goes out by itself: {head}"
    );
    assert_eq!(fetch(format!("http://127.0.0.1:{shut}/"))["error"], "ErrorCode::DestinationIpProhibited");
    // The exception is the operator's; the list is still the manifest's.
    let url = probe(&node, "unlisted", "");
    let answer =
        node.get(&format!("{url}fetch?url={}", encode(&format!("http://127.0.0.1:{open}/")))).expect(200).json();
    assert_eq!(answer["error"], "ErrorCode::HttpRequestDenied");
}

#[test]
fn a_guest_has_no_files_no_sockets_no_names_and_a_coarse_clock() {
    let node = Node::start();
    let url = probe(&node, "probe", "");
    let get = |path: &str| node.get(&format!("{url}{path}")).expect(200).json();
    assert_eq!(get("files"), json!(0));
    for address in ["127.0.0.1:22".to_owned(), format!("127.0.0.1:{}", node.tls_port()), "1.1.1.1:53".to_owned()] {
        assert!(get(&format!("connect?address={address}"))["error"].is_string(), "{address}");
    }
    for name in ["localhost", "example.com", "127.0.0.1"] {
        // A literal is no look-up: it may come back as itself.
        let answer = get(&format!("resolve?name={name}"));
        assert!(answer["error"].is_string() || name == "127.0.0.1", "{name}: {answer}");
    }
    let (first, second) = (get("clock"), get("clock"));
    for clock in [&first, &second] {
        assert_eq!(clock["wall"]["nanoseconds"].as_u64().expect("a number") % 1_000_000, 0, "{clock}");
        let monotonic = clock["monotonic"].as_u64().expect("a number");
        // It tells how long the instance lives, not the box.
        assert!(monotonic % 1_000_000 == 0 && monotonic < 60_000_000_000, "{clock}");
    }
    assert_eq!(node.get(&format!("{url}again")).text(), "1", "an instance sees one request");
    let random = |path: &str| node.get(&format!("{url}{path}")).expect(200).text();
    assert_ne!(random("random"), random("random"));
}

// ---- running wild ----

#[test]
fn a_guest_that_runs_wild_harms_itself_alone() {
    let node = Node::start();
    let url = probe(&node, "wild", "");
    rival(&node, "calm");
    let calm = rival_url(&node, "calm");
    let wild = [
        ("loop", 500, "CPU time"),
        ("recurse", 500, "trapped"),
        ("bomb", 500, "memory"),
        ("trap", 500, "trapped"),
        ("mute", 500, "without a response"),
        ("exit", 500, "exited"),
        ("sleep?ms=60000", 504, "took longer"),
        ("answer?status=100", 502, "status 100"),
        ("answer?status=101", 502, "status 101"),
    ];
    undisturbed(&node, &calm, "another runs wild", || {
        for (path, status, why) in wild {
            for version in ["--http1.1", "--http2"] {
                let reply = node.curl(&[version, &format!("{url}{path}")]).expect(status);
                let id = request_id(&reply);
                assert!(reply.text().contains(id), "the page names the request: {}", reply.text());
                // The visitor learns nothing of why; who runs the app does.
                assert!(!reply.text().contains(why), "{}", reply.text());
                logged(&node, "wild", id, why);
            }
        }
        assert_eq!(
            node.get(&url).expect(200).text(),
            "hello from the probe\n",
            "it is itself again with the next request"
        );
    });
}

#[test]
fn a_crowd_of_wild_requests_is_turned_away_in_bounds() {
    let node = Node::start();
    let manifest = "app = \"wild\"\n[components.app]\nsource = \"app.wasm\"\nconcurrency = 4\ncpu = \"100ms\"\ntimeout = \"2s\"\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    let project = guest_with("probe", manifest);
    node.push(project.path(), "wild");
    rival(&node, "calm");
    for path in ["loop", "sleep?ms=100"] {
        let codes = undisturbed(&node, &rival_url(&node, "calm"), &format!("a crowd asks for /{path}"), || {
            crowd(&node, path, 1_500)
        });
        let count = |status: &str| codes.iter().filter(|(code, _)| code == status).count();
        eprintln!(
            "figure: a crowd of {} at /{path}: 200 {}, 500 {}, 503 {}, 504 {}",
            codes.len(),
            count("200"),
            count("500"),
            count("503"),
            count("504")
        );
        assert_eq!(codes.len(), 1_500);
        for (code, id) in &codes {
            let right = if path == "loop" { ["500", "503", "504"].as_slice() } else { &["200", "503"] };
            assert!(right.contains(&code.as_str()) && id.len() == 16, "{code} {id}");
        }
        assert!(count("503") > 0, "4 run and 16 wait, so most of a crowd is turned away");
        // Each who was turned away finds why; but for lines over the bound of an app's log, which are counted.
        let turned: Vec<&String> = codes.iter().filter(|(code, _)| code == "503").map(|(_, id)| id).collect();
        for id in [turned[0], turned[turned.len() / 2]] {
            logged(&node, "wild", id, "refused");
        }
    }
    // And all places are free again.
    eventually("the app answers again", || node.get(&node.url("wild")).status == 200);
}

/// So many requests, as many at once as curl can. Their statuses and ids.
fn crowd(node: &Node, path: &str, count: u32) -> Vec<(String, String)> {
    let mark = if path.contains('?') { '&' } else { '?' };
    let mut command = node.curl_command();
    command.args(["--parallel", "--parallel-immediate", "--parallel-max", "300", "--http1.1", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %header{x-request-id}\n"]);
    command.arg(format!("{}{path}{mark}number=[1-{count}]", node.url("wild")));
    let ran = crate::harness::run(&mut command, b"");
    ran.stdout
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(code, id)| (code.to_owned(), id.to_owned()))
        .collect()
}

#[test]
fn what_the_host_keeps_for_a_guest_is_bounded() {
    let node = Node::start();
    let manifest = "app = \"hoard\"\n[components.app]\nsource = \"app.wasm\"\ncpu = \"20s\"\ntimeout = \"60s\"\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    node.push(guest_with("probe", manifest).path(), "hoard");
    rival(&node, "calm");
    for (what, held_max) in [("cas", 16), ("fields", 1_000)] {
        let reply = undisturbed(&node, &rival_url(&node, "calm"), &format!("another hoards {what}"), || {
            node.get(&format!("{}hoard?what={what}", node.url("hoard")))
        });
        eprintln!(
            "figure: hoarding {what}: {} {}, {} MiB at the most",
            reply.status,
            reply.text().trim(),
            peak_mib(&node)
        );
        if reply.status == 200 {
            let answer = reply.json();
            assert!(answer["held"].as_u64().is_some_and(|held| held <= held_max), "{answer}");
            assert!(answer["refused"].is_string(), "{answer}");
        }
    }
    assert!(peak_mib(&node) < 300, "{} MiB", peak_mib(&node));
}

/// The most memory that the node has had.
fn peak_mib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn an_answer_that_breaks_off_never_ends_cleanly() {
    let node = Node::start();
    let url = probe(&node, "half", "");
    for path in ["trap-mid-stream", "trap-unmeasured"] {
        for version in ["--http1.0", "--http1.1", "--http2"] {
            let reply = node.curl(&[version, &format!("{url}{path}")]);
            assert_eq!((reply.status, reply.text().as_str()), (200, "0123456789"), "{path} {version}");
            // An answer of HTTP/1.0 without a length ends where the connection does. That TLS breaks off rather than
            // ends tells a client that looks, which curl doesn't.
            let can_tell = version != "--http1.0" || path == "trap-mid-stream";
            assert!(reply.curl != 0 || !can_tell, "{path} over {version} ended as if it were whole");
            logged(&node, "half", request_id(&reply), "trapped");
        }
    }
    // More or less than was promised is no clean end either.
    for (promised, body) in [(3, "abcdef"), (9, "abcdef")] {
        for version in ["--http1.1", "--http2"] {
            let reply = node.curl(&[version, &format!("{url}answer?header=content-length:{promised}&body={body}")]);
            let whole = reply.curl == 0 && reply.status == 200;
            assert!(!whole, "{promised} bytes promised, {body} sent over {version}: {} {}", reply.status, reply.text());
        }
    }
    // Where no body may be, none is: the connection goes on.
    for version in ["--http1.1", "--http2"] {
        for status in [204, 304] {
            let reply = node.curl(&[version, &format!("{url}answer?status={status}&body=abc")]).expect(status);
            assert!(reply.curl == 0 && reply.body.is_empty(), "{status} {version}: {}", reply.failed);
        }
        let reply = node.curl(&[version, "--head", &url]).expect(200);
        assert_eq!(reply.curl, 0, "HEAD over {version}: {}", reply.failed);
    }
}

#[test]
fn floods_are_bounded() {
    let node = Node::start();
    let manifest = "app = \"flood\"\n[components.app]\nsource = \"app.wasm\"\ncpu = \"20s\"\ntimeout = \"60s\"\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    node.push(guest_with("probe", manifest).path(), "flood");
    rival(&node, "calm");
    let calm = rival_url(&node, "calm");
    let line = "x".repeat(3_000);
    undisturbed(&node, &calm, "another floods its log", || {
        node.get(&format!("{}log?n=20000&line={line}", node.url("flood"))).expect(200);
    });
    // The next line after the flood tells how many were dropped.
    eventually("the log tells how many lines were dropped", || {
        node.get(&format!("{}log?line=after", node.url("flood"))).expect(200);
        let lines = node.json(&["logs", "--app", "flood", "-n", "10000"]);
        let mut lines = lines.as_array().expect("an array").iter();
        lines
            .any(|line| line["stream"] == "fault" && line["text"].as_str().is_some_and(|text| text.contains("dropped")))
    });
    let logs: u64 = walk(node.dir())
        .iter()
        .filter(|path| path.contains("/logs/"))
        .filter_map(|path| Some(fs::metadata(path).ok()?.len()))
        .sum();
    assert!(logs < 20 << 20, "{logs} bytes of logs");

    // A response of a gigabyte is streamed, not kept.
    let begun = Instant::now();
    let before = peak_mib(&node);
    let size = undisturbed(&node, &calm, "another answers with 256 MiB", || {
        let mut command = node.curl_command();
        command.args(["--output", "/dev/null", "--write-out", "%{size_download}"]).arg(format!(
            "{}big?bytes={}",
            node.url("flood"),
            256 << 20
        ));
        crate::harness::run(&mut command, b"").stdout
    });
    eprintln!(
        "figure: {size} bytes in {:?}; the node had {before} MiB before and {} at the most",
        begun.elapsed(),
        peak_mib(&node)
    );
    assert_eq!(size, (256 << 20).to_string());
    assert!(peak_mib(&node) < before + 128, "{} MiB", peak_mib(&node));
}

// ---- what an app says of itself ----

#[test]
fn an_app_speaks_for_its_own_host_alone() {
    let node = Node::start();
    let url = probe(&node, "shop", "");
    let say = |version: &str, headers: &[&str]| {
        let query = headers.iter().map(|header| encode(header)).collect::<Vec<_>>().join("&header=");
        node.curl(&[version, &format!("{url}answer?body=x&header={query}")])
    };
    for version in ["--http1.1", "--http2"] {
        // A cookie for the parent would be sent to every other tenant's app, and to the API.
        let set = [
            "a=1; Path=/; Domain=localhost; Secure",
            "b=2;domain=.main.localhost",
            "c=3; DOMAIN = shop.main.localhost; HttpOnly",
            "d=4",
        ];
        let reply =
            say(version, &set.map(|cookie| format!("set-cookie:{cookie}")).each_ref().map(String::as_str)).expect(200);
        let cookies: Vec<&str> =
            reply.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value.as_str()).collect();
        assert_eq!(cookies, ["a=1; Path=/; Secure", "b=2", "c=3; HttpOnly", "d=4"]);

        let reply = say(version, &["x-request-id:spoofed", "x-request-id:again"]).expect(200);
        let ids: Vec<_> = reply.headers.iter().filter(|(name, _)| name == "x-request-id").collect();
        assert!(ids.len() == 1 && ids[0].1.len() == 16, "{ids:?}");

        let hops = [
            "connection:close",
            "keep-alive:timeout=1",
            "upgrade:h2c",
            "proxy-connection:close",
            "te:trailers",
            "trailer:x",
            "transfer-encoding:gzip",
        ];
        let reply = say(version, &hops).expect(200);
        assert_eq!((reply.curl, reply.text().as_str()), (0, "x"), "{}", reply.failed);
        for hop in hops {
            let (name, value) = hop.split_once(':').expect("written above");
            assert!(!reply.headers.iter().any(|(held, said)| held == name && said == value), "{hop} over {version}");
        }
        // Two answers in one, if a line end got through.
        let split = [
            "a:b\r\nset-cookie: stolen=1",
            "a:b\nset-cookie: stolen=1",
            "a:b\rset-cookie: stolen=1",
            "a:b\0c",
            "a b:c",
            "a\r\nb:c",
            ":x",
        ];
        let reply = say(version, &split).expect(200);
        assert!(reply.header("set-cookie").is_none() && reply.header("a").is_none(), "{:?}", reply.headers);
        // Two lengths never reach the wire.
        let reply = say(version, &["content-length:1", "content-length:500"]);
        assert!(reply.headers.iter().filter(|(name, _)| name == "content-length").count() <= 1, "{:?}", reply.headers);
    }
    // At a domain of the tenant's own, its cookies are its own business.
    node.json(&["domain", "add", "shop.example", "--app", "shop"]);
    let url = format!(
        "https://shop.example:{}/answer?header={}",
        node.tls_port(),
        encode("set-cookie:a=1; Domain=shop.example")
    );
    eventually("the domain answers", || node.curl(&["--insecure", &url]).status == 200);
    assert_eq!(node.curl(&["--insecure", &url]).header("set-cookie"), Some("a=1; Domain=shop.example"));
}

#[test]
fn nobody_takes_anothers_host() {
    let node = Node::start();
    let port = node.tls_port();
    let url = probe(&node, "api", "");
    assert_eq!(node.get(&url).expect(200).text(), "hello from the probe\n", "an app may be called api");
    assert_eq!(node.get(&format!("https://api.localhost:{port}/v1/health")).expect(200).json()["serving"], true);
    node.json(&["tenant", "add", "rival"]);
    node.json(&["push", arg(site(&[("index.html", "rival")]).path()), "--app", "api", "--tenant", "rival"]);
    let add = |tenant: &str, domain: &str| node.firm(&["domain", "add", domain, "--app", "api", "--tenant", tenant]);
    for domain in ["api.localhost", "api.main.localhost", "x.localhost", "a.b.localhost"] {
        let ran = add("rival", domain);
        assert!(ran.code != 0 && ran.stderr.contains("own domain"), "{domain}: {}", ran.stderr);
    }
    for domain in [
        "localhost",
        "127.0.0.1",
        "api.localhost.",
        "API.LOCALHOST",
        "*.example.com",
        "a.b:443",
        "a/b.c",
        "[::1]",
        "shop.example..",
    ] {
        assert_ne!(add("rival", domain).code, 0, "{domain}");
    }
    assert_eq!(add("main", "shop.example").code, 0);
    let taken = add("rival", "shop.example");
    assert!(taken.code != 0 && taken.stderr.contains("taken"), "{}", taken.stderr);
    // The name `a--b` would be app b's stage a.
    for name in ["next--api", "a--b", "api.rival", "..", "-a", "A"] {
        let ran = node.firm(&["push", arg(site(&[("index.html", "x")]).path()), "--app", name]);
        assert_ne!(ran.code, 0, "{name}");
    }
    // What is kept for the cloud is no app's.
    for path in [".firm", ".firm/", ".firm/health", ".firm?x"] {
        node.get(&format!("{url}{path}")).expect(404);
    }
    let project = guest_project("probe", "[[route]]\npath = \"/.firm/x\"\ncomponent = \"app\"\n");
    let ran = node.firm(&["push", arg(project.path()), "--app", "api"]);
    assert!(ran.code != 0 && ran.stderr.contains("kept for the cloud"), "{}", ran.stderr);
}
