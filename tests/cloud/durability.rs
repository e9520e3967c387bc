//! What was acknowledged survives, whenever the node dies; and when it is asked to go, it goes without cutting anybody.
//!
//! `kill -9` shows that nothing acknowledged waits in the process's memory. That it isn't in the kernel's alone either
//! only a loss of power would show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{FIRM, Lines, Node, Ran, arg, eventually, guest_project, guest_with, python, run, site};

/// Ends the node at once, from beside those who still speak to it.
fn kill(node: &Node) {
    let pid = Pid::from_raw(i32::try_from(node.pid()).expect("a process id")).expect("a process id isn't 0");
    kill_process(pid, Signal::KILL).expect("the node runs");
}

/// Runs writers until `enough` of their writes were acknowledged, kills the node, and starts it again.
///
/// A writer is given its number and the number of its write, and says whether it was acknowledged.
fn killed_amid(node: &mut Node, writers: usize, enough: usize, write: impl Fn(&Node, usize, usize) -> bool + Sync) {
    let (acknowledged, dead) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for writer in 0..writers {
            let (node, acknowledged, dead, write) = (&*node, &acknowledged, &dead, &write);
            scope.spawn(move || {
                for number in 0.. {
                    if dead.load(Ordering::Acquire) {
                        return;
                    }
                    if write(node, writer, number) {
                        acknowledged.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        eventually("enough was acknowledged", || acknowledged.load(Ordering::Acquire) >= enough);
        kill(node);
        dead.store(true, Ordering::Release);
    });
    node.restart();
}

// ---- kill -9 ----

#[test]
fn values_survive_a_kill() {
    let mut node = Node::start();
    node.push(guest_project("probe", "").path(), "probe");
    let held = Mutex::new(BTreeMap::new());
    for round in 0..3 {
        killed_amid(&mut node, 4, 60, |node, writer, number| {
            let (key, value) = (format!("{round}-{writer}-{number}"), format!("value-{number}"));
            let url = format!("{}kv?bucket=probe&op=set&key={key}&value={value}", node.url("probe"));
            let reply = node.get(&url);
            let done = reply.status == 200 && reply.curl == 0 && reply.json() == json!({ "ok": null });
            if done {
                held.lock().expect("no writer panics").insert(key, value);
            }
            done
        });
        let url = node.url("probe");
        let listed = node.get(&format!("{url}kv?bucket=probe&op=list")).expect(200).json();
        let listed: BTreeSet<&str> = listed["ok"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let held = held.lock().expect("no writer panics");
        let lost: Vec<_> = held.keys().filter(|key| !listed.contains(key.as_str())).collect();
        assert!(lost.is_empty(), "of {} acknowledged values these are lost: {lost:?}", held.len());
        for (key, value) in held.iter().take(10) {
            assert_eq!(node.get(&format!("{url}kv?bucket=probe&op=get&key={key}")).json(), json!({ "ok": value }));
        }
    }
}

/// What was acknowledged, to be found again.
#[derive(Default)]
struct Held {
    /// The newest release of each app, and its page.
    releases: BTreeMap<String, (String, String)>,
    secrets: BTreeMap<String, String>,
    tokens: Vec<String>,
    /// None where the last change was not answered: whether it was made is unknown.
    variable: Option<String>,
}

const SECRETS: usize = 60;

fn secret_name(number: usize) -> String {
    format!("SECRET_{}", number % SECRETS)
}

#[test]
fn releases_secrets_and_tokens_survive_a_kill() {
    let mut node = Node::start();
    let secrets: Vec<String> = (0..SECRETS).map(secret_name).collect();
    let manifest = format!(
        "[components.app]\nsource = \"app.wasm\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n\
         [bindings]\nkv = [\"probe\"]\nsecrets = {secrets:?}\n"
    );
    node.push(guest_with("probe", &manifest).path(), "probe");
    let (operator, held) = (node.operator_token(), Mutex::new(Held::default()));
    for round in 0..2 {
        killed_amid(&mut node, 4, 120, |node, writer, number| {
            let name = format!("{round}x{number}");
            match writer {
                0 => push_one(node, &held, &name, number),
                1 => set_one_secret(node, &held, &operator, &name, number),
                2 => make_one_token(node, &held, &operator, &name),
                _ => set_the_variable(node, &held, &operator, &name),
            }
        });
        held.lock().expect("no writer panics").is_found(&node);
        assert_eq!(node.firm(&["status"]).code, 0);
        // What half a push had uploaded is gone.
        let incoming = std::fs::read_dir(node.dir().join("incoming")).expect("it is there").count();
        assert_eq!(incoming, 0);
    }
}

fn push_one(node: &Node, held: &Mutex<Held>, name: &str, number: usize) -> bool {
    let (folder, app, text) = edition(name, number);
    let ran = node.firm(&["push", arg(folder.path()), "--app", &app, "--json"]);
    if ran.code == 0 {
        let pushed: Value = serde_json::from_str(&ran.stdout).expect("one object");
        let release = pushed["release"].as_str().expect("a number").to_owned();
        held.lock().expect("no writer panics").releases.insert(app, (release, text));
    }
    ran.code == 0
}

fn set_one_secret(node: &Node, held: &Mutex<Held>, operator: &str, value: &str, number: usize) -> bool {
    let name = secret_name(number);
    let path = format!("/v1/tenants/main/apps/probe/stages/live/secrets/{name}");
    let done = node.api(operator, "PUT", &path, Some(json!({ "value": value }))).status == 200;
    let secrets = &mut held.lock().expect("no writer panics").secrets;
    if done {
        secrets.insert(name, value.to_owned());
    } else {
        // Whether it was set is unknown.
        secrets.remove(&name);
    }
    done
}

fn make_one_token(node: &Node, held: &Mutex<Held>, operator: &str, label: &str) -> bool {
    let asked = json!({ "label": label, "grant": "read" });
    let reply = node.api(operator, "POST", "/v1/tenants/main/tokens", Some(asked));
    let done = (200..300).contains(&reply.status) && reply.curl == 0;
    if done {
        let secret = reply.json()["secret"].as_str().expect("a secret").to_owned();
        held.lock().expect("no writer panics").tokens.push(secret);
    }
    done
}

fn set_the_variable(node: &Node, held: &Mutex<Held>, operator: &str, value: &str) -> bool {
    let path = "/v1/tenants/main/apps/probe/stages/live/env";
    let done = node.api(operator, "PATCH", path, Some(json!({ "changes": { "LAST": value } }))).status == 200;
    held.lock().expect("no writer panics").variable = done.then(|| value.to_owned());
    done
}

impl Held {
    /// Asks the node for all of it.
    #[track_caller]
    fn is_found(&self, node: &Node) {
        let Self { releases, secrets, tokens, variable } = self;
        eprintln!(
            "figure: after a kill: {} apps, {} secrets, {} tokens to find",
            releases.len(),
            secrets.len(),
            tokens.len()
        );
        for (app, (release, text)) in releases {
            let ledger = node.json(&["releases", "--app", app]);
            let ledger = ledger.as_array().expect("an array");
            assert!(
                ledger.iter().any(|made| made["release"] == release.as_str()),
                "{app} has lost {release}: {ledger:?}"
            );
            // A push that was not answered may have been made all the same, and then it is what runs.
            let running = ledger.iter().find(|made| made["running"] == true).expect("one runs");
            let served = node.get(&node.url(app)).expect(200).text();
            assert!(
                &served == text || running["release"] != release.as_str(),
                "{app} runs {release} and serves `{served}`"
            );
            if app == COMPONENT {
                assert!(node.get(&format!("{}app/echo", node.url(app))).expect(404).text().contains("nothing here"));
            }
        }
        let told = node.get(&format!("{}config", node.url("probe"))).expect(200).json();
        for (secret, value) in secrets {
            assert_eq!(told[secret], value.as_str(), "{secret}");
        }
        for token in tokens {
            assert_eq!(node.api(token, "GET", "/v1/whoami", None).status, 200);
        }
        if let Some(last) = variable {
            assert_eq!(node.get(&format!("{}env", node.url("probe"))).expect(200).json()["LAST"], last.as_str());
        }
    }
}

/// The app among those that `edition` pushes which has a component.
const COMPONENT: &str = "site-1";

/// What the next push brings: a page, or every third time a component with a page beside it.
fn edition(name: &str, number: usize) -> (tempfile::TempDir, String, String) {
    let text = format!("edition {name}");
    let app = format!("site-{}", number % 3);
    let folder = if app == COMPONENT {
        let folder = guest_with(
            "p3hello",
            "[components.app]\nsource = \"app.wasm\"\n[static.pages]\ndir = \"pages\"\n\
             [[route]]\npath = \"/app\"\ncomponent = \"app\"\n[[route]]\npath = \"/\"\nstatic = \"pages\"\n",
        );
        let pages = folder.path().join("pages");
        std::fs::create_dir(&pages).and_then(|()| std::fs::write(pages.join("index.html"), &text)).expect("a page");
        folder
    } else {
        site(&[("index.html", &text)])
    };
    (folder, app, text)
}

// ---- SIGTERM ----

/// A probe that may take its time.
fn patient() -> tempfile::TempDir {
    guest_with(
        "probe",
        "[components.app]\nsource = \"app.wasm\"\ntimeout = \"10m\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n[bindings]\nkv = [\"probe\"]\n",
    )
}

/// curl found nobody, was turned away before it had sent its request, or was not answered at all.
const REFUSED: [i32; 6] = [
    7,  // nobody listens
    16, // HTTP/2: the connection went before the request was taken
    35, // nobody shook hands
    52, // closed without a byte
    55, // couldn't be sent
    56, // reset
];

#[test]
fn a_drain_finishes_what_is_under_way_and_refuses_what_is_new() {
    const EVENTS: usize = 12;
    for flag in ["--http1.1", "--http2"] {
        let mut node = Node::start();
        node.push(patient().path(), "probe");
        let url = node.url("probe");
        let stream = Lines::of(node.curl_command().args(["--fail", flag, &format!("{url}sse?n={EVENTS}&ms=250")]));
        stream.until("event 0");
        node.signal_terminate();
        eventually("new requests are refused", || {
            let reply = node.get(&url);
            match reply.status {
                503 => {
                    assert!(
                        reply.header("retry-after").is_some() && reply.text().contains("going down"),
                        "{}",
                        reply.text()
                    );
                    true
                }
                0 => {
                    assert!(REFUSED.contains(&reply.curl), "curl {}: {}", reply.curl, reply.failed);
                    true
                }
                // The signal is on its way.
                status => {
                    assert_eq!(status, 200);
                    false
                }
            }
        });
        stream.until(&format!("event {}", EVENTS - 1));
        assert!(stream.wait().success(), "{flag}: the stream was cut");
        let status = node.wait();
        assert!(status.success(), "{status}: {}", node.stderr());
        assert!(!node.stderr().contains("of --drain"), "{}", node.stderr());
        node.restart();
        node.get(&node.url("probe")).expect(200);
    }
}

#[test]
fn a_drain_waits_for_a_request_that_is_half_sent() {
    let mut node = Node::start();
    node.push(patient().path(), "probe");
    let (host, port) = ("probe.main.localhost", node.tls_port().to_string());
    let client = Lines::of(python("h2_client.py").arg(node.authority()).args([host, &port, "across_a_drain"]));
    client.until("halfway");
    let status = node.terminate();
    assert!(status.success() && !node.stderr().contains("of --drain"), "{status}: {}", node.stderr());
    client.until("across_a_drain");
    assert!(client.wait().success());
}

#[test]
fn a_drain_has_a_deadline() {
    let mut node = Node::start_with(&["--drain", "1s"]);
    node.push(patient().path(), "probe");
    // It would take longer than a node may take to end in these tests.
    let stream = Lines::of(node.curl_command().args(["--fail", &format!("{}sse?n=500&ms=1000", node.url("probe"))]));
    stream.until("event 0");
    let status = node.terminate();
    assert!(status.success(), "{status}: {}", node.stderr());
    assert!(node.stderr().contains("1 connection was cut"), "{}", node.stderr());
    while stream.next().is_some() {}
    assert!(!stream.wait().success(), "curl took half a stream for a whole one");
}

#[test]
fn idle_connections_don_t_hold_a_drain_up() {
    let mut node = Node::start_with(&["--drain", "10m"]);
    node.push(site(&[("index.html", "idle")]).path(), "idle");
    // One that has said nothing, and one that waits for its next request.
    let silent = std::net::TcpStream::connect(("127.0.0.1", node.tls_port())).expect("the node listens");
    let mut waiting = std::net::TcpStream::connect(("127.0.0.1", node.plain_port())).expect("the node listens");
    let request = format!("GET / HTTP/1.1\r\nhost: idle.main.localhost:{}\r\n\r\n", node.plain_port());
    std::io::Write::write_all(&mut waiting, request.as_bytes()).expect("the node reads");
    let mut answer = [0; 12];
    std::io::Read::read_exact(&mut waiting, &mut answer).expect("the node answers");
    assert_eq!(&answer, b"HTTP/1.1 308");
    // Bounded by the harness far below ten minutes.
    let status = node.terminate();
    assert!(status.success(), "{status}: {}", node.stderr());
    drop((silent, waiting));
}

#[test]
fn a_restart_under_load_cuts_nobody() {
    let mut node = Node::start();
    node.push(patient().path(), "probe");
    for flag in ["--http1.1", "--http2"] {
        let (served, done) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..4 {
                let (node, served, done) = (&node, &served, &done);
                scope.spawn(move || {
                    while !done.load(Ordering::Acquire) {
                        let reply = node.curl(&[flag, &format!("{}big?bytes=200000", node.url("probe"))]);
                        match (reply.status, reply.curl) {
                            (200, 0) => {
                                assert_eq!(reply.body.len(), 200_000);
                                served.fetch_add(1, Ordering::AcqRel);
                            }
                            (503, 0) => {}
                            (0, curl) => assert!(REFUSED.contains(&curl), "curl {curl}: {}", reply.failed),
                            (status, curl) => panic!("{flag}: {status} was cut, curl {curl}: {}", reply.failed),
                        }
                    }
                });
            }
            eventually("there is load", || served.load(Ordering::Acquire) >= 20);
            node.signal_terminate();
            eventually("the node is gone", || !running(node.pid()));
            done.store(true, Ordering::Release);
        });
        let status = node.wait();
        assert!(status.success(), "{status}: {}", node.stderr());
        assert!(!node.stderr().contains("of --drain"), "{}", node.stderr());
        node.restart();
        node.get(&node.url("probe")).expect(200);
    }
}

/// Is it more than a zombie?
fn running(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

// ---- starting ----

/// What `firm up` says when it doesn't start, beside the node.
fn refused_start(node: &Node, dir: &std::path::Path, ports: (u16, u16)) -> Ran {
    let mut command = node.command();
    command.args(["up", "--dir"]).arg(dir).args(["--port", &ports.0.to_string(), "--http-port", &ports.1.to_string()]);
    run(&mut command, b"")
}

#[test]
fn a_start_that_can_t_be_says_why() {
    let node = Node::start();
    let other = tempfile::tempdir().expect("a folder");
    let free =
        || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();

    let port = free();
    let one = refused_start(&node, other.path(), (port, port));
    assert_eq!(one.code, 2, "{}", one.stderr);
    assert!(one.stderr.contains(&format!("--port and --http-port are both {port}")), "{}", one.stderr);

    let taken = refused_start(&node, other.path(), (node.tls_port(), free()));
    let port = node.tls_port();
    assert_eq!(taken.code, 1, "{}", taken.stderr);
    assert!(taken.stderr.contains(&format!("127.0.0.1:{port} is taken")), "{}", taken.stderr);
    assert!(taken.stderr.contains("help:") && taken.stderr.contains("--port"), "{}", taken.stderr);

    let locked = refused_start(&node, node.dir(), (free(), free()));
    assert_eq!(locked.code, 1, "{}", locked.stderr);
    assert!(
        locked.stderr.contains(&node.pid().to_string()) && locked.stderr.contains(node.dir().to_str().expect("UTF-8")),
        "{}",
        locked.stderr
    );

    let file = other.path().join("file");
    std::fs::write(&file, "x").expect("a file");
    let no_folder = refused_start(&node, &file, (free(), free()));
    assert_eq!(no_folder.code, 1, "{}", no_folder.stderr);
    assert!(no_folder.stderr.contains(file.to_str().expect("UTF-8")), "{}", no_folder.stderr);

    // None of them did the first one any harm.
    assert_eq!(node.firm(&["status"]).code, 0);
    let nobody =
        run(Command::new(FIRM).args(["status"]).env("XDG_CONFIG_HOME", other.path()).env_remove("FIRM_ADDRESS"), b"");
    assert_eq!(nobody.code, 3, "{}", nobody.stderr);
}

#[test]
fn status_of_a_cloud_that_is_gone() {
    let mut node = Node::start();
    node.kill9();
    let gone = node.firm(&["status"]);
    assert_eq!(gone.code, 3, "{}", gone.stderr);
    assert!(gone.stderr.contains("firm up"), "{}", gone.stderr);
    node.restart();
    assert_eq!(node.firm(&["status"]).code, 0);
}

#[test]
fn a_thousand_apps_start() {
    const APPS: usize = 1_000;
    const HANDS: usize = 4;
    let mut node = Node::start();
    let folder = site(&[("index.html", "one of many")]);
    node.push(folder.path(), "app-0");
    let operator = node.operator_token();
    // The rest names the file that is there already.
    let first = node.json(&["releases", "--app", "app-0"]);
    let content = first[0]["content"].as_str().expect("a digest").to_owned();
    let index: Value = serde_json::from_slice(&std::fs::read(chunk(&node, &content)).expect("the index is a chunk"))
        .expect("it is JSON");
    let push = json!({ "manifest": first[0]["manifest"], "index": index });
    thread::scope(|scope| {
        for hand in 0..HANDS {
            let (node, operator, push) = (&node, &operator, &push);
            scope.spawn(move || {
                for number in (1..APPS).filter(|number| number % HANDS == hand) {
                    let mut push = push.clone();
                    push["manifest"]["app"] = json!(format!("app-{number}"));
                    node.api(operator, "POST", &format!("/v1/tenants/main/apps/app-{number}/releases"), Some(push))
                        .expect(201);
                }
            });
        }
    });
    for how in ["after kill -9", "after SIGTERM"] {
        if how == "after SIGTERM" {
            let status = node.terminate();
            assert!(status.success(), "{status}: {}", node.stderr());
        }
        let took = node.restart();
        eprintln!("figure: start with {APPS} apps {how}: {:.3} s", took.as_secs_f64());
        for number in [0, 1, APPS / 2, APPS - 1] {
            assert_eq!(node.get(&node.url(&format!("app-{number}"))).expect(200).text(), "one of many");
        }
    }
    assert_eq!(node.json(&["status"])["apps"], APPS);
}

/// Where a chunk of the first tenant's lies.
fn chunk(node: &Node, digest: &str) -> std::path::PathBuf {
    let tenants = std::fs::read_dir(node.dir().join("chunks")).expect("there are chunks");
    let found = tenants.map_while(Result::ok).map(|tenant| tenant.path().join(digest)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("chunk {digest} is nowhere"))
}
