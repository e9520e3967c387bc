//! What is wrong is refused with a clear word, and leaves everything as it was: the app that runs, the ledger, the disk.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use base::Digest;
use base::limits::{API_BODY_BYTES_MAX, CHUNK_BYTES_MAX, COMPONENT_BYTES_MAX};
use serde_json::{Value, json};

use crate::harness::{Node, Ran, Reply, arg, eventually, guest, guest_project, guest_with, site};

// ---- a client of the API that is made by hand, and not well-meant ----

/// A manifest that serves a static folder.
fn static_manifest() -> Value {
    json!({ "static": { "site": { "dir": "." } }, "route": [{ "path": "/", "static": "site" }] })
}

fn component_manifest(kv: &[&str]) -> Value {
    json!({
        "components": { "app": { "source": "app.wasm" } }, "route": [{ "path": "/", "component": "app" }], "bindings": { "kv": kv },
    })
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).hex()
}

/// A file of an index, in chunks of 1 MiB.
fn file(bytes: &[u8]) -> Value {
    let chunks: Vec<Value> =
        bytes.chunks(1 << 20).map(|chunk| json!({ "digest": digest(chunk), "size": chunk.len() })).collect();
    json!({ "digest": digest(bytes), "size": bytes.len(), "chunks": chunks })
}

fn put(node: &Node, digest: &str, bytes: &[u8]) -> Reply {
    let path = format!("/v1/tenants/main/chunks/{digest}");
    node.api_bytes(&node.operator_token(), "PUT", &path, "application/octet-stream", Some(bytes))
}

fn upload(node: &Node, bytes: &[u8]) {
    for chunk in bytes.chunks(1 << 20) {
        drop(put(node, &digest(chunk), chunk).expect(200));
    }
}

fn release(node: &Node, app: &str, push: Value) -> Reply {
    node.api(&node.operator_token(), "POST", &format!("/v1/tenants/main/apps/{app}/releases"), Some(push))
}

/// Uploads a component and asks for a release of it.
fn push_component(node: &Node, app: &str, wasm: &[u8], manifest: &Value) -> Reply {
    upload(node, wasm);
    release(node, app, json!({ "manifest": manifest, "index": { "components": { "app": file(wasm) } } }))
}

/// Refused with this status and code, and with an answer of the usual shape.
#[track_caller]
fn refused(reply: &Reply, status: u16, code: &str) {
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    assert_eq!((reply.status, problem["code"].as_str()), (status, Some(code)), "{}{}", reply.failed, reply.text());
    assert!(problem["message"].as_str().is_some_and(|said| !said.is_empty()), "{problem}");
    assert_eq!(problem["request"].as_str(), reply.header("x-request-id"), "{problem}");
}

// ---- what must be as it was ----

/// An app that runs, and all that a failed push could have changed of it.
struct Before {
    ledger: Value,
    stages: Value,
    page: String,
}

impl Before {
    #[track_caller]
    fn of(node: &Node, app: &str) -> Self {
        let page = node.get(&node.url(app)).expect(200).text();
        Self { ledger: node.json(&["releases", "--app", app]), stages: node.json(&["stages", "--app", app]), page }
    }

    #[track_caller]
    fn is_still(&self, node: &Node, app: &str) {
        let after = Self::of(node, app);
        assert_eq!((&after.ledger, &after.stages, &after.page), (&self.ledger, &self.stages, &self.page));
        no_leftovers(node);
    }
}

/// Nothing half written lies about. What is whole and unused is the sweep's.
#[track_caller]
fn no_leftovers(node: &Node) {
    eventually("no half-written file is left", || unfinished(node.dir()).is_empty());
}

fn unfinished(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(unfinished(&path));
        } else if path.extension().is_some_and(|end| end == "tmp" || end == "new") {
            found.push(path);
        }
    }
    found
}

/// A static site that runs as `app`.
#[track_caller]
fn running(node: &Node, app: &str) -> Before {
    node.push(site(&[("index.html", "the first")]).path(), app);
    Before::of(node, app)
}

#[track_caller]
fn fails(ran: &Ran, words: &[&str]) {
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    for word in words {
        assert!(ran.stderr.contains(word), "`{word}` is not in: {}", ran.stderr);
    }
}

// ---- components ----

#[test]
fn a_component_that_can_t_run_is_refused_with_what_to_do() {
    let node = Node::start();
    let before = running(&node, "shop");
    let probe = fs::read(guest("probe")).expect("it was built");
    let push = |wasm: &[u8], manifest: Value| push_component(&node, "shop", wasm, &manifest);

    let reply = push(b"hello, I am no WebAssembly", component_manifest(&[]));
    refused(&reply, 422, "wrong_component");
    assert!(reply.text().contains("not WebAssembly"), "{}", reply.text());
    let reply = push(b"\0asm\x01\0\0\0", component_manifest(&[]));
    refused(&reply, 422, "wrong_component");
    assert!(
        reply.text().contains("core WebAssembly module") && reply.text().contains("wasm32-wasip2"),
        "{}",
        reply.text()
    );
    for length in [4, 7, 8, 9, 100, 1_000, probe.len() / 2, probe.len() - 1] {
        let reply = push(&probe[..length], component_manifest(&["probe"]));
        refused(&reply, 422, "wrong_component");
    }
    let reply = push(&component_that_imports("acme:thing/api@1.0.0"), component_manifest(&[]));
    refused(&reply, 422, "wrong_component");
    assert!(
        reply.text().contains("`acme:thing/api@1.0.0`") && reply.text().contains("build it without"),
        "{}",
        reply.text()
    );
    // A name that a terminal would obey, and one without an end.
    for name in ["acme:thing/\u{1b}[2J", &"a".repeat(20_000)] {
        let reply = push(&component_that_imports(name), component_manifest(&[]));
        refused(&reply, 422, "wrong_component");
        assert!(reply.body.len() < 8_000 && !reply.text().contains('\u{1b}'), "{}", reply.text());
    }
    let reply = push(&probe, component_manifest(&[]));
    refused(&reply, 422, "wrong_manifest");
    let faults = reply.json()["faults"].clone();
    assert_eq!(faults.as_array().map(Vec::len), Some(1), "{faults}");
    assert_eq!(faults[0]["at"], "bindings.kv");
    assert!(faults[0]["help"].as_str().is_some_and(|help| help.contains("kv = [")), "{faults}");
    before.is_still(&node, "shop");

    // The same through the command line.
    let manifest =
        "app = \"shop\"\n[components.app]\nsource = \"app.wasm\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    let ran = node.firm(&["push", arg(guest_with("probe", manifest).path())]);
    fails(&ran, &["wasi:keyvalue/", "kv = [", "[bindings]"]);
    let project = site(&[("firm.toml", manifest)]);
    fs::write(project.path().join("app.wasm"), component_that_imports("acme:thing/api@1.0.0"))
        .expect("the project is ours");
    fails(&node.firm(&["push", arg(project.path())]), &["acme:thing/api@1.0.0", "help:"]);
    before.is_still(&node, "shop");
}

/// The smallest component with an import.
fn component_that_imports(name: &str) -> Vec<u8> {
    fn number(mut left: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(left & 0x7f).expect("seven bits");
            left >>= 7;
            bytes.push(if left == 0 { low } else { low | 0x80 });
            if left == 0 {
                return bytes;
            }
        }
    }
    let mut import = vec![1, 0];
    import.extend(number(name.len()));
    import.extend(name.as_bytes());
    import.extend([5, 0]);
    let mut wasm = b"\0asm\x0d\0\x01\0\x07\x03\x01\x42\0\x0a".to_vec();
    wasm.extend(number(import.len()));
    wasm.extend(import);
    wasm
}

#[test]
fn two_hundred_mutilated_components_harm_nobody() {
    /// What all seeds may take together; those left over are not tried.
    const TIME_MAX: Duration = Duration::from_secs(45);
    const SEEDS: u64 = 200;
    let node = Node::start();
    let before = running(&node, "calm");
    let probe = fs::read(guest("probe")).expect("it was built");
    let begun = Instant::now();
    let (mut tried, mut made) = (0, 0);
    for seed in 1..=SEEDS {
        if begun.elapsed() > TIME_MAX {
            break;
        }
        let wasm = mutilated(&probe, seed);
        let reply = push_component(&node, "wild", &wasm, &component_manifest(&["probe"]));
        match reply.status {
            // It may still be a component; then it runs, as well as it can.
            201 => {
                made += 1;
                let answer = node.get(&node.url("wild"));
                assert!([200, 500, 502, 504].contains(&answer.status), "seed {seed}: {}", answer.status);
            }
            // What it imports may have got another name.
            422 if reply.json()["code"] == "wrong_manifest" => {}
            _ => refused(&reply, 422, "wrong_component"),
        }
        tried += 1;
    }
    eprintln!("figure: {tried} mutilated components in {:?}, of which {made} still ran", begun.elapsed());
    before.is_still(&node, "calm");
    if made > 0 {
        assert_eq!(
            node.json(&["releases", "--app", "wild"]).as_array().map(Vec::len),
            Some(made),
            "only what was made is in the ledger"
        );
    }
}

/// A component with a few bytes changed, cut out, doubled or swapped; the same for the same seed.
fn mutilated(wasm: &[u8], seed: u64) -> Vec<u8> {
    // xorshift64*, Vigna 2016.
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = |below: usize| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        usize::try_from(state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits") % below
    };
    let mut wasm = wasm.to_vec();
    for _ in 0..=next(4) {
        // Half of them where the structure is.
        let at = if next(2) == 0 { 8 + next(2_000) } else { 8 + next(wasm.len() - 16) };
        match next(4) {
            0 => wasm[at] ^= 1 << next(8),
            1 => wasm[at] = u8::try_from(next(256)).expect("a byte"),
            2 => drop(wasm.drain(at..at + 1 + next(8))),
            _ => {
                let piece = wasm[at..at + 1 + next(8)].to_vec();
                let to = 8 + next(wasm.len() - 16);
                wasm.splice(to..to, piece);
            }
        }
    }
    wasm
}

// ---- folders ----

#[test]
fn a_folder_that_can_t_be_published_is_refused_before_it_is_read() {
    let node = Node::start();
    let before = running(&node, "shop");
    let push = |folder: &Path| {
        let begun = Instant::now();
        let ran = node.firm(&["push", arg(folder), "--app", "shop"]);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        ran
    };
    let sparse = |path: PathBuf, head: &[u8]| {
        let mut file = File::create(path).expect("the folder is ours");
        file.write_all(head).and_then(|()| file.set_len(10 << 30)).expect("a file may have holes");
    };
    let folder = site(&[("index.html", "x")]);
    sparse(folder.path().join("huge.bin"), b"");
    fails(&push(folder.path()), &["huge.bin", "10737418240 bytes", "help:"]);
    let component = site(&[(
        "firm.toml",
        "[components.app]\nsource = \"app.wasm\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n",
    )]);
    sparse(component.path().join("app.wasm"), b"\0asm\x0d\0\x01\0");
    fails(&push(component.path()), &["10737418240 bytes", "64MiB"]);

    for (name, target) in [
        ("passwd", "/etc/passwd"),
        ("up", "../../../../etc"),
        ("root", "/"),
        ("loop", "loop"),
        ("gone", "nothing-there"),
    ] {
        let folder = site(&[("index.html", "x")]);
        std::os::unix::fs::symlink(target, folder.path().join(name)).expect("the folder is ours");
        fails(&push(folder.path()), &[name, "help:"]);
    }
    // Through a link within the folder to what is never published.
    let folder = site(&[("index.html", "x"), (".env", "KEY=1")]);
    std::os::unix::fs::symlink(".env", folder.path().join("env.txt")).expect("the folder is ours");
    fails(&push(folder.path()), &["env.txt", "never published"]);
    let folder = site(&[("index.html", "x")]);
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("pipe")).status().expect("mkfifo is there");
    assert!(made.success());
    fails(&push(folder.path()), &["pipe", "neither a file nor a folder"]);
    for name in ["a\nb", "a\x1b[2Jb", "a\\b"] {
        let folder = site(&[("index.html", "x"), (name, "x")]);
        let ran = push(folder.path());
        fails(&ran, &["rename it"]);
    }
    before.is_still(&node, "shop");
}

#[test]
fn a_wrong_manifest_is_shown_where_it_is_wrong() {
    let node = Node::start();
    let before = running(&node, "shop");
    let cases = [
        ("app = \"shop\"\n[static.site]\ndir = \".\"\nbogus = 1\n", ":4:1", "bogus"),
        ("app = \"Shop\"\n", ":1:7", "Shop"),
        ("app = shop\n", ":1:7", "shop"),
        (
            "app = \"shop\"\n[[route]]\npath = \"no-slash\"\nstatic = \"site\"\n[static.site]\ndir = \".\"\n",
            ":3:8",
            "no-slash",
        ),
        ("app = \"shop\"\n[[route]]\npath = \"/\"\nstatic = \"sight\"\n[static.site]\ndir = \".\"\n", ":4:10", "sight"),
        ("app = \"shop\"\n[static.site]\ndir = \"../..\"\n", ":3:7", "../.."),
        ("app = \"shop\"\n[static.site]\ndir = \"/etc\"\n", ":3:7", "/etc"),
        ("app = \"shop\"\n[static.site]\ndir = \".\"\n[limit]\nrate = \"fast\"\n", ":5:8", "fast"),
    ];
    for (manifest, place, word) in cases {
        let folder = site(&[("index.html", "x"), ("firm.toml", manifest)]);
        let ran = node.firm(&["push", arg(folder.path())]);
        fails(&ran, &[&format!("firm.toml{place}"), word]);
        let ran = node.firm(&["push", arg(folder.path()), "--json"]);
        assert_ne!(ran.code, 0);
        assert!(
            serde_json::from_str::<Value>(&ran.stderr).is_ok_and(|told| told["error"]["message"].is_string()),
            "{}",
            ran.stderr
        );
    }
    // Not text, too long, nested without end.
    for manifest in [
        format!("a = {}1{}", "[".repeat(50_000), "]".repeat(50_000)),
        "#".repeat(300 << 10),
        format!("a{} = 1", ".a".repeat(50_000)),
    ] {
        let folder = site(&[("index.html", "x"), ("firm.toml", &manifest)]);
        let ran = node.firm(&["push", arg(folder.path()), "--app", "shop"]);
        fails(&ran, &["error"]);
        assert!(ran.code == 1 || ran.code == 2, "{}: {}", ran.code, ran.stderr.chars().take(300).collect::<String>());
    }
    before.is_still(&node, "shop");
}

// ---- the API ----

#[test]
fn an_index_that_lies_makes_no_release() {
    let node = Node::start();
    let before = running(&node, "shop");
    let (page, other) = (b"<p>second".as_slice(), b"other".as_slice());
    upload(&node, page);
    upload(&node, other);
    let with = |files: Value| {
        release(&node, "shop", json!({ "manifest": static_manifest(), "index": { "statics": { "site": files } } }))
    };

    for path in [
        "../up",
        "a/../../up",
        "/etc/passwd",
        "..",
        ".",
        "a/./b",
        "a//b",
        "a/",
        "",
        "a\\b",
        "..\\up",
        "a\0b",
        "a\nb",
        "a\u{1b}b",
        &"a".repeat(1_025),
    ] {
        let mut files = json!({ "index.html": file(page) });
        files[path] = file(page);
        refused(&with(files), 400, "wrong_path");
    }
    let lie = |change: &dyn Fn(&mut Value)| {
        let mut file = file(page);
        change(&mut file);
        with(json!({ "index.html": file }))
    };
    refused(&lie(&|file| file["size"] = json!(1)), 400, "wrong_index");
    refused(&lie(&|file| file["size"] = json!(u64::MAX)), 400, "too_large");
    refused(&lie(&|file| file["digest"] = json!(digest(other))), 400, "wrong_index");
    refused(&lie(&|file| file["chunks"] = json!([])), 400, "wrong_index");
    // The sum is right, and what it is made of isn't.
    let sizes = |digests: [&[u8]; 2], sizes: [u64; 2]| {
        json!({ "digest": digest(b"whatever"), "size": sizes[0] + sizes[1], "chunks": [
            { "digest": digest(digests[0]), "size": sizes[0] }, { "digest": digest(digests[1]), "size": sizes[1] },
        ] })
    };
    for (digests, lengths) in [([page, other], [8, 6]), ([page, other], [5, 9]), ([page, page], [9, 5])] {
        refused(&with(json!({ "index.html": sizes(digests, lengths) })), 400, "wrong_index");
    }
    refused(&lie(&|file| file["chunks"][0]["size"] = json!(0)), 400, "wrong_index");
    refused(&lie(&|file| file["chunks"][0]["size"] = json!(-1)), 400, "wrong_body");
    refused(&lie(&|file| file["chunks"][0]["digest"] = json!("../../../../box.key")), 400, "wrong_body");
    refused(&with(json!({ "index.html": file(b"never uploaded") })), 409, "chunks_missing");
    // Another tenant's chunk is missing like one that nobody has.
    node.json(&["tenant", "add", "rival"]);
    let theirs = b"the rival's own".as_slice();
    let path = format!("/v1/tenants/rival/chunks/{}", digest(theirs));
    drop(node.api_bytes(&node.operator_token(), "PUT", &path, "application/octet-stream", Some(theirs)).expect(200));
    refused(&with(json!({ "index.html": file(theirs) })), 409, "chunks_missing");
    let asked = node.api(
        &node.operator_token(),
        "POST",
        "/v1/tenants/main/chunks/missing",
        Some(json!({ "chunks": [digest(theirs)] })),
    );
    assert_eq!(asked.expect(200).json()["missing"], json!([digest(theirs)]));

    // The manifest and the index name the same things.
    let index = |index: Value| release(&node, "shop", json!({ "manifest": static_manifest(), "index": index }));
    refused(&index(json!({})), 400, "wrong_index");
    refused(&index(json!({ "statics": { "site": {}, "more": {} } })), 400, "wrong_index");
    refused(&index(json!({ "statics": { "site": {} }, "components": { "app": file(page) } })), 400, "wrong_index");
    // Its component is not the file that it says.
    let mut wasm = file(page);
    wasm["chunks"] = json!([{ "digest": digest(page), "size": 4 }, { "digest": digest(other), "size": 5 }]);
    let pushed = release(
        &node,
        "shop",
        json!({ "manifest": component_manifest(&[]), "index": { "components": { "app": wasm } } }),
    );
    refused(&pushed, 400, "wrong_index");
    let mut wasm = file(page);
    wasm["size"] = json!(COMPONENT_BYTES_MAX + 1);
    let pushed = release(
        &node,
        "shop",
        json!({ "manifest": component_manifest(&[]), "index": { "components": { "app": wasm } } }),
    );
    refused(&pushed, 400, "too_large");
    before.is_still(&node, "shop");
}

#[test]
fn a_manifest_with_faults_is_refused_with_all_of_them() {
    let node = Node::start();
    let before = running(&node, "shop");
    let with = |manifest: Value| {
        release(&node, "shop", json!({ "manifest": manifest, "index": { "statics": { "site": {} } } }))
    };
    let manifest = json!({
        "static": { "site": { "dir": "../up", "not_found": "/etc/passwd", "cache": "a\nb: c" } },
        "route": [{ "path": "x", "static": "site" }, { "path": "/a", "static": "none" }, { "path": "/.firm", "static": "site" }, { "path": "/b" }],
        "outbound": { "hosts": ["http://x"] }, "env": { "1A": "" }, "bindings": { "secrets": ["a b"] },
    });
    let reply = with(manifest);
    refused(&reply, 422, "wrong_manifest");
    let faults = reply.json()["faults"].as_array().cloned().unwrap_or_default();
    let places: Vec<&str> = faults.iter().filter_map(|fault| fault["at"].as_str()).collect();
    for at in [
        "static.site.dir",
        "static.site.not_found",
        "static.site.cache",
        "route[0].path",
        "route[1].static",
        "route[2].path",
        "route[3]",
        "outbound.hosts",
        "env.1A",
        "bindings.secrets",
    ] {
        assert!(places.contains(&at), "{at} is not among {places:?}");
    }
    assert!(faults.iter().all(|fault| fault["said"].is_string() && fault["help"].is_string()));
    let routes: Vec<Value> = (0..300).map(|number| json!({ "path": format!("/{number}"), "static": "site" })).collect();
    refused(&with(json!({ "static": { "site": { "dir": "." } }, "route": routes })), 422, "wrong_manifest");
    // However many there are, few are told.
    let routes = vec![json!({ "path": "x" }); 10_000];
    let reply = with(json!({ "route": routes }));
    refused(&reply, 422, "wrong_manifest");
    assert_eq!(reply.json()["faults"].as_array().map(Vec::len), Some(base::limits::MANIFEST_FAULTS_MAX));
    // Megabytes of it are refused before they are read.
    refused(&with(json!({ "route": vec![json!({ "path": "/" }); 300_000] })), 400, "too_large");
    // Within every single bound, and too large all the same.
    let env: serde_json::Map<String, Value> =
        (0..20).map(|number| (format!("A{number}"), json!("x".repeat(30_000)))).collect();
    let mut large = static_manifest();
    large["env"] = Value::Object(env);
    refused(&with(large), 400, "too_large");
    // More variables than a stage may ever have don't reach the record.
    let many: serde_json::Map<String, Value> = (0..600).map(|number| (format!("A{number}"), json!(""))).collect();
    let path = "/v1/tenants/main/apps/shop/stages/live/env";
    let reply = node.api(&node.operator_token(), "PATCH", path, Some(json!({ "changes": many })));
    refused(&reply, 400, "too_many");
    // What nobody knows is no key.
    let mut unknown = static_manifest();
    unknown["privileged"] = json!(true);
    refused(&with(unknown), 400, "wrong_body");
    before.is_still(&node, "shop");
}

#[test]
fn a_body_that_isn_t_what_it_should_be_is_refused() {
    let node = Node::start();
    let before = running(&node, "shop");
    let token = node.operator_token();
    let releases = "/v1/tenants/main/apps/shop/releases";
    let post = |path: &str, body: &[u8]| node.api_bytes(&token, "POST", path, "application/json", Some(body));

    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let deep_object = format!("{{\"manifest\":{}1{}}}", "{\"a\":".repeat(50_000), "}".repeat(50_000));
    for body in ["", "{", "null", "[]", "\"x\"", "1e999", "{\"stage\":\"live\"}", "\u{feff}{}", &deep, &deep_object] {
        refused(&post(releases, body.as_bytes()), 400, "wrong_body");
    }
    refused(&post(releases, b"{\"manifest\":\"\xff\"}"), 400, "wrong_body");
    for (path, body) in [
        ("/v1/tenants", json!({ "tenant": "x", "admin": true })),
        ("/v1/tenants", json!({ "tenant": "../x" })),
        ("/v1/tenants", json!({ "tenant": "X" })),
        ("/v1/tenants/main/tokens", json!({ "label": "x", "grant": "own", "tenant": "rival" })),
        ("/v1/tenants/main/tokens", json!({ "label": "x", "grant": "everything" })),
        ("/v1/tenants/main/chunks/missing", json!({ "chunks": ["zz"] })),
        ("/v1/tenants/main/apps/shop/stages/live/promote", json!({ "to": "next", "force": true })),
    ] {
        refused(&post(path, body.to_string().as_bytes()), 400, "wrong_body");
    }
    refused(&post("/v1/tenants/main/tokens", b"{\"label\":\"x\",\"grant\":\"operate\"}"), 400, "wrong_grant");
    // A key that comes twice would let two readers see two bodies.
    refused(&post("/v1/tenants", b"{\"tenant\":\"a\",\"tenant\":\"b\"}"), 400, "wrong_body");

    let large = vec![b' '; API_BODY_BYTES_MAX + 1];
    refused(&post(releases, &large), 413, "too_large");
    let chunk = vec![b'x'; CHUNK_BYTES_MAX + 1];
    refused(&put(&node, &digest(&chunk), &chunk), 413, "too_large");
    refused(&put(&node, &digest(b"a"), b"b"), 400, "wrong_chunk");
    refused(&put(&node, &digest(b"a"), b""), 400, "wrong_chunk");
    for odd in ["zz", "..%2f..%2fbox.key", "%00", &"a".repeat(63), &"a".repeat(65), "%ff"] {
        refused(&put(&node, odd, b"x"), 400, "wrong_parameter");
    }
    // A body that unpacks to something else is not the body that was checked.
    for coding in ["gzip", "br", "zstd", "identity", "gzip, gzip"] {
        let url = format!("https://api.localhost:{}/v1/tenants/main/chunks/{}", node.tls_port(), digest(b"x"));
        let (bearer, coding) = (format!("authorization: Bearer {token}"), format!("content-encoding: {coding}"));
        let reply = node
            .curl_with(&["-X", "PUT", "-H", &bearer, "-H", &coding, "--data-binary", "@-", &url], b"\x1f\x8b\x08\0");
        refused(&reply, 415, "compressed");
    }
    // Nobody's body is kept who may not send it, and a long one isn't even read.
    let path = format!("/v1/tenants/main/chunks/{}", digest(&chunk));
    refused(&node.api_bytes("", "PUT", &path, "application/octet-stream", Some(b"x")), 401, "unauthorised");
    let reply = node.api_bytes("", "PUT", &path, "application/octet-stream", Some(&chunk));
    assert!(reply.status == 401 || reply.status == 0, "{}", reply.status);
    // Names in paths are names.
    for name in ["..%2fmain", "%2e%2e", "a%00", "a--b", "A", "%c3%a9"] {
        let reply = node.api(
            &token,
            "POST",
            &format!("/v1/tenants/main/apps/{name}/releases"),
            Some(json!({ "manifest": static_manifest(), "index": { "statics": { "site": {} } } })),
        );
        refused(&reply, 400, "wrong_parameter");
    }
    before.is_still(&node, "shop");
    assert_eq!(node.json(&["tenant", "list"]).as_array().map(Vec::len), Some(1), "none of it made a tenant");
}

// ---- two at once, and one who goes away ----

#[test]
fn two_pushes_at_once_make_two_whole_releases() {
    let node = Node::start();
    let before = running(&node, "shop");
    let texts = ["left", "right"];
    let sites = texts.map(|text| {
        let files: Vec<(String, String)> =
            (0..200).map(|number| (format!("{number}.txt"), format!("{text} {number}"))).collect();
        let files: Vec<(&str, &str)> =
            files.iter().map(|(path, text)| (path.as_str(), text.as_str())).chain([("index.html", text)]).collect();
        site(&files)
    });
    let pushed: Vec<Value> = thread::scope(|scope| {
        let pushes: Vec<_> = sites.iter().map(|site| scope.spawn(|| node.push(site.path(), "shop"))).collect();
        pushes.into_iter().map(|push| push.join().expect("both are pushed")).collect()
    });
    let mut releases: Vec<&str> = pushed.iter().filter_map(|pushed| pushed["release"].as_str()).collect();
    releases.sort_unstable();
    assert_eq!(releases, ["r2", "r3"]);
    let ledger = node.json(&["releases", "--app", "shop"]);
    let ledger = ledger.as_array().expect("an array");
    assert_eq!(ledger.len(), before.ledger.as_array().map_or(0, Vec::len) + 2);
    let running: Vec<&Value> = ledger.iter().filter(|release| release["running"] == true).collect();
    assert_eq!((running.len(), &running[0]["release"]), (1, &json!("r3")));
    // What runs is one of the two, all of it.
    let url = node.url("shop");
    let text = node.get(&url).expect(200).text();
    let last = pushed.iter().position(|pushed| pushed["release"] == "r3").expect("one of them");
    assert_eq!(text, texts[last]);
    for number in [0, 77, 199] {
        assert_eq!(node.get(&format!("{url}{number}.txt")).expect(200).text(), format!("{text} {number}"));
    }
    no_leftovers(&node);
}

#[test]
fn who_goes_away_half_way_leaves_nothing_behind() {
    let node = Node::start();
    let before = running(&node, "shop");
    // Random enough that no chunk is like another.
    let folder = site(&[("index.html", "the second")]);
    let mut bytes = vec![0; 64 << 20];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .expect("the system has random bytes");
    fs::write(folder.path().join("large.bin"), &bytes).expect("the folder is ours");
    let incoming = node.dir().join("incoming");
    let arrived = || {
        fs::read_dir(&incoming)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|tenant| fs::read_dir(tenant.path()).ok())
            .flatten()
            .count()
    };
    let mut push = node.command();
    let mut push = push
        .args(["push", arg(folder.path()), "--app", "shop"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be run");
    eventually("the first chunks have arrived", || arrived() > 2);
    push.kill().expect("it is a child of this process");
    push.wait().expect("it is a child of this process");
    before.is_still(&node, "shop");

    // In the middle of one body, of a chunk and of a release.
    let chunk = &bytes[..1 << 20];
    let targets = [("PUT", format!("chunks/{}", digest(chunk))), ("POST", "apps/shop/releases".to_owned())];
    for version in ["--http1.1", "--http2"] {
        for (method, path) in &targets {
            let url = format!("https://api.localhost:{}/v1/tenants/main/{path}", node.tls_port());
            let bearer = format!("authorization: Bearer {}", node.operator_token());
            let mut command = node.curl_command();
            command.args([version, "-X", method, "-T", "-", "-H", &bearer, "-H", "expect:", &url]);
            let mut half = command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("curl is there");
            let mut input = half.stdin.take().expect("it is piped");
            input.write_all(&chunk[..500_000]).and_then(|()| input.flush()).expect("curl reads it");
            // Sent, or on its way: it makes no difference to what must be true afterwards.
            half.kill().expect("it is a child of this process");
            half.wait().expect("it is a child of this process");
        }
    }
    before.is_still(&node, "shop");
    assert!(!node.dir().join("chunks").join("1").join(digest(chunk)).exists(), "half a chunk is none");

    // Gone while the box compiles: it is done whole, or not at all.
    let project = guest_project("probe", "");
    let mut push = node.command();
    let mut push = push
        .args(["push", arg(project.path()), "--app", "late"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be run");
    eventually("the component is being compiled", || {
        fs::read_dir(node.dir().join("artifacts")).into_iter().flatten().flatten().next().is_some()
    });
    push.kill().expect("it is a child of this process");
    push.wait().expect("it is a child of this process");
    // A change that was begun is finished, whoever asked for it.
    eventually("the release is made", || node.firm(&["releases", "--app", "late", "--json"]).code == 0);
    assert_eq!(node.get(&node.url("late")).expect(200).text(), "hello from the probe\n");
    before.is_still(&node, "shop");

    // And the same push, made to its end, is whole.
    node.push(folder.path(), "shop");
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "the second");
    let url = format!("{}large.bin", node.url("shop"));
    assert!(node.get(&url).expect(200).body == bytes, "what was uploaded in two tries is one file");
    no_leftovers(&node);
}
