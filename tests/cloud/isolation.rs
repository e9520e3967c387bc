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

use crate::harness::{Node, Reply, arg, eventually, guest_project, site};

/// A second tenant, with a probe of its own as `app`.
#[track_caller]
pub(crate) fn rival(node: &Node, app: &str) {
    node.json(&["tenant", "add", "rival"]);
    let project = guest_project("probe", "");
    node.json(&["push", arg(project.path()), "--app", app, "--tenant", "rival"]);
}

pub(crate) fn rival_url(node: &Node, app: &str) -> String {
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
pub(crate) fn logged(node: &Node, app: &str, request: &str, text: &str) {
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
pub(crate) fn undisturbed<T>(node: &Node, bystander: &str, what: &str, work: impl FnOnce() -> T) -> T {
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
pub(crate) fn walk(folder: &Path) -> Vec<String> {
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
