//! Stages and the ledger: who sees a private stage, what it shares with the live one, and the way back.

use std::fs;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Node, Ran, Reply, arg, eventually, guest_with, site};

/// A probe with a secret and a variable that differs by stage.
const PROBE: &str = r#"
[components.app]
source = "app.wasm"
[[route]]
path = "/"
component = "app"
[bindings]
kv = ["probe"]
secrets = ["API_KEY"]
[env]
COLOUR = "blue"
[stages.beta.env]
COLOUR = "green"
"#;

#[track_caller]
fn push_to(node: &Node, path: &Path, app: &str, stage: &str) -> Value {
    node.json(&["push", arg(path), "--app", app, "--stage", stage])
}

/// The address of an app's stage.
fn staged(node: &Node, app: &str, stage: &str) -> String {
    node.url(&format!("{stage}--{app}"))
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}")
}

/// A folder with one page.
fn page(text: &str) -> tempfile::TempDir {
    site(&[("index.html", text)])
}

// ---- the gate ----

#[test]
fn a_private_stage_opens_to_members() {
    let node = Node::start();
    let pushed = push_to(&node, page("draft").path(), "shop", "beta");
    let url = staged(&node, "shop", "beta");
    assert_eq!((pushed["url"].as_str(), &pushed["public"]), (Some(url.as_str()), &json!(false)));

    let closed = node.get(&url).expect(401);
    assert!(closed.header("www-authenticate").is_some_and(|way| way.starts_with("Bearer")));
    assert!(!closed.text().contains("draft"));
    let visitor = node.token("main", "visit");
    assert_eq!(node.curl(&["--header", &bearer(&visitor), &url]).expect(200).text(), "draft");
    node.curl(&["--header", &bearer(&node.operator_token()), &url]).expect(200);

    // Neither a stranger's token, nor none that was ever one, nor one that was revoked.
    node.json(&["tenant", "add", "other"]);
    let stranger = node.token("other", "own");
    for token in [stranger.as_str(), "firm_0000000000000000_nonsense", "nonsense"] {
        node.curl(&["--header", &bearer(token), &url]).expect(401);
    }
    let id = visitor.split('_').nth(1).expect("a token names its id");
    node.json(&["token", "revoke", id, "--yes"]);
    node.curl(&["--header", &bearer(&visitor), &url]).expect(401);

    // A stage that isn't there tells no more than that, and live is everybody's.
    node.get(&staged(&node, "shop", "gamma")).expect(404);
    push_to(&node, page("open").path(), "shop", "live");
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "open");
}

/// Follows a share link as a browser does: with a cookie jar.
fn visit(node: &Node, jar: &Path, url: &str) -> Reply {
    node.curl(&["--cookie-jar", arg(jar), "--cookie", arg(jar), "--location", url])
}

#[test]
fn a_share_link_opens_a_stage_for_a_while() {
    let node = Node::start();
    push_to(&node, page("draft").path(), "shop", "beta");
    push_to(&node, page("secret").path(), "shop", "gamma");
    let url = staged(&node, "shop", "beta");
    let jar = node.root().join("jar");
    let link = node.json(&["stages", "--app", "shop", "share", "beta", "--expires", "1h"])["url"]
        .as_str()
        .expect("a link")
        .to_owned();

    let entered = node.get(&link).expect(303);
    assert_eq!(entered.header("location"), Some("/"), "the pass doesn't stay in the address");
    let cookie = entered.header("set-cookie").expect("a cookie");
    for part in ["__Host-firm-pass=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert_eq!(visit(&node, &jar, &link).expect(200).text(), "draft");
    assert_eq!(visit(&node, &jar, &url).expect(200).text(), "draft");
    node.get(&url).expect(401);

    // It opens no other stage, and nothing when it was altered.
    let pass = link.split_once("firm-pass=").expect("the link carries a pass").1;
    for stage in ["gamma", "beta"] {
        let altered = if stage == "beta" { format!("{}x", &pass[..pass.len() - 1]) } else { pass.to_owned() };
        node.get(&format!("{}?firm-pass={altered}", staged(&node, "shop", stage))).expect(401);
        node.curl(&["--cookie", &format!("__Host-firm-pass={altered}"), &staged(&node, "shop", stage)]).expect(401);
    }
    // What another cookie holds takes it from nobody.
    let held = cookie.split(';').next().expect("its name and value");
    node.curl(&["--http1.1", "-H", &format!("cookie: x=\u{fc}; {held}"), &url]).expect(200);
    // The rest of the address survives.
    let to = node.get(&format!("{url}a/b?c=d&firm-pass={pass}&e=f")).expect(303);
    assert_eq!(to.header("location"), Some("/a/b?c=d&e=f"));

    let short = node.json(&["stages", "--app", "shop", "share", "beta", "--expires", "1s"])["url"]
        .as_str()
        .expect("a link")
        .to_owned();
    let pass = short.split_once("firm-pass=").expect("the link carries a pass").1;
    eventually("an expired link is refused", || node.get(&short).status == 401);
    node.curl(&["--cookie", &format!("__Host-firm-pass={pass}"), &url]).expect(401);
}

#[test]
fn an_app_never_sees_what_opened_its_gate() {
    let node = Node::start();
    let project = guest_with("probe", PROBE);
    push_to(&node, project.path(), "probe", "beta");
    push_to(&node, project.path(), "probe", "live");
    let headers = |reply: Reply| reply.expect(200).json()["headers"].as_array().cloned().unwrap_or_default();
    let of = |headers: &[Value], name: &str| {
        headers
            .iter()
            .filter(|header| header[0] == name)
            .map(|header| header[1].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    let token = node.token("main", "visit");
    let link = node.json(&["stages", "--app", "probe", "share", "beta"])["url"].as_str().expect("a link").to_owned();
    // Nor does it say who may keep what members see.
    let said = format!("{}answer?header=cache-control:public&header=expires:tomorrow", staged(&node, "probe", "beta"));
    let reply = node.curl(&["-H", &format!("authorization: Bearer {token}"), &said]).expect(200);
    assert_eq!((reply.header("cache-control"), reply.header("expires")), (Some("private, no-cache"), None));
    let pass = link.split_once("firm-pass=").expect("the link carries a pass").1.to_owned();
    let secret = token.rsplit('_').next().expect("a token has a secret").to_owned();

    for url in [staged(&node, "probe", "beta"), node.url("probe")] {
        let seen = headers(node.curl(&["--header", &bearer(&token), "--cookie", "a=b", &format!("{url}headers")]));
        assert_eq!((of(&seen, "authorization"), of(&seen, "cookie")), (Vec::new(), vec!["a=b".to_owned()]));
        assert!(!json!(seen).to_string().contains(&secret), "{seen:?}");
    }
    let cookies = format!("a=b; __Host-firm-pass={pass}; c=d");
    let seen = headers(node.curl(&["--cookie", &cookies, &format!("{}headers", staged(&node, "probe", "beta"))]));
    assert_eq!(of(&seen, "cookie"), ["a=b; c=d"]);
    assert!(!json!(seen).to_string().contains(&pass), "{seen:?}");

    // An app's own tokens are its own affair.
    let seen = headers(node.curl(&["--header", &bearer("its-own"), &format!("{}headers", node.url("probe"))]));
    assert_eq!(of(&seen, "authorization"), ["Bearer its-own"]);
    // Nor is it told who asks by anybody but the cloud.
    let forged = [
        "--header",
        "x-forwarded-for: 1.2.3.4",
        "--header",
        "x-request-id: forged",
        "--header",
        "forwarded: for=1.2.3.4",
    ];
    let seen = headers(node.curl(&[&forged[..], &[&format!("{}headers", node.url("probe"))]].concat()));
    assert_eq!(
        (of(&seen, "x-forwarded-for"), of(&seen, "x-forwarded-proto")),
        (vec!["127.0.0.1".to_owned()], vec!["https".to_owned()])
    );
    assert!(of(&seen, "forwarded").is_empty() && of(&seen, "x-request-id") != ["forged"], "{seen:?}");
}

// ---- what a stage has of its own ----

/// A node with the probe on live and on beta, and how to ask each of them.
struct Two {
    node: Node,
    project: tempfile::TempDir,
    token: String,
}

impl Two {
    fn start() -> Self {
        let node = Node::start();
        let project = guest_with("probe", PROBE);
        push_to(&node, project.path(), "probe", "live");
        push_to(&node, project.path(), "probe", "beta");
        let token = node.token("main", "visit");
        Self { node, project, token }
    }

    #[track_caller]
    fn ask(&self, stage: &str, path: &str) -> Value {
        let url = if stage == "live" { self.node.url("probe") } else { staged(&self.node, "probe", stage) };
        self.node.curl(&["--header", &bearer(&self.token), &format!("{url}{path}")]).expect(200).json()
    }
}

#[test]
fn a_stage_has_its_own_data() {
    let two = Two::start();
    let kv = |stage: &str, rest: &str| two.ask(stage, &format!("kv?bucket=probe&key=who&{rest}"));
    kv("live", "op=set&value=live");
    assert_eq!(kv("beta", "op=get"), json!({ "ok": null }));
    kv("beta", "op=set&value=beta");
    assert_eq!((kv("live", "op=get"), kv("beta", "op=get")), (json!({ "ok": "live" }), json!({ "ok": "beta" })));
    kv("beta", "op=delete");
    assert_eq!(kv("live", "op=get"), json!({ "ok": "live" }));

    // A promotion brings code to the live stage's data, not the other stage's data to it.
    kv("beta", "op=set&value=beta");
    two.node.json(&["promote", "beta", "--app", "probe"]);
    assert_eq!(kv("live", "op=get"), json!({ "ok": "live" }));

    // Who deletes a stage deletes its data, and its name may be used again.
    two.node.json(&["stages", "--app", "probe", "delete", "beta", "--yes"]);
    two.node.get(&staged(&two.node, "probe", "beta")).expect(404);
    push_to(&two.node, two.project.path(), "probe", "beta");
    assert_eq!(kv("beta", "op=get"), json!({ "ok": null }));
    assert_eq!(kv("live", "op=get"), json!({ "ok": "live" }));
    assert_ne!(two.node.firm(&["stages", "--app", "probe", "delete", "live", "--yes"]).code, 0, "live stays");
}

#[test]
fn a_secret_is_for_its_stage_s_code_alone() {
    const SECRET: &str = "correct horse battery staple";
    let two = Two::start();
    let node = &two.node;
    let missing = node.json(&["secret", "--app", "probe"]);
    assert_eq!(missing, json!({ "set": [], "missing": ["API_KEY"], "unbound": [] }));
    let ran = node.firm_with(&["secret", "set", "API_KEY", "--stdin", "--app", "probe"], &[], &format!("{SECRET}\n"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(!format!("{ran:?}").contains(SECRET) && !ran.stderr.contains("no code gets"), "{}", ran.stderr);

    // No push and no restart: the next request has it.
    assert_eq!(two.ask("live", "config?key=API_KEY"), json!(SECRET));
    assert_eq!(two.ask("beta", "config?key=API_KEY"), Value::Null);
    // Variables are told there too, each stage's own.
    assert_eq!(two.ask("beta", "config"), json!({ "COLOUR": "green" }));
    assert!(!two.ask("live", "env").to_string().contains(SECRET), "a secret is no variable");
    for args in [&["secret"][..], &["secret", "list"], &["releases"], &["stages"], &["env"]] {
        let ran = node.firm(&[args, &["--app", "probe", "--json"]].concat());
        assert!(ran.code == 0 && !ran.stdout.contains(SECRET), "{args:?}: {}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(node.json(&["secret", "--app", "probe"]), json!({ "set": ["API_KEY"], "missing": [], "unbound": [] }));
    assert!(!holds(node.dir(), SECRET.as_bytes()), "it lies unsealed in the data directory");

    // A secret that the manifest doesn't bind is kept and not shown, and who sets it is told.
    let ran = node.firm_with(&["secret", "set", "OTHER", "--stdin", "--app", "probe"], &[], "x");
    assert!(ran.code == 0 && ran.stderr.contains("no code gets OTHER yet"), "{}", ran.stderr);
    assert_eq!(node.json(&["secret", "--app", "probe"])["unbound"], json!(["OTHER"]));
    assert_eq!(two.ask("live", "config"), json!({ "API_KEY": SECRET, "COLOUR": "blue" }));
    // Promotion takes none along, in either direction.
    node.json(&["promote", "live", "--to", "beta", "--app", "probe"]);
    assert_eq!(two.ask("beta", "config?key=API_KEY"), Value::Null);
    node.json(&["secret", "delete", "API_KEY", "--app", "probe", "--yes"]);
    assert_eq!(two.ask("live", "config?key=API_KEY"), Value::Null);
    let nothing = node.firm_with(&["secret", "set", "API_KEY", "--app", "probe"], &[], SECRET);
    assert_eq!(nothing.code, 2, "without --stdin it is asked for on a terminal only");
}

/// Is `needle` in any file below?
fn holds(folder: &Path, needle: &[u8]) -> bool {
    fs::read_dir(folder).expect("the folder can be read").map_while(Result::ok).any(|entry| {
        if entry.path().is_dir() {
            return holds(&entry.path(), needle);
        }
        let bytes = fs::read(entry.path()).unwrap_or_default();
        bytes.windows(needle.len()).any(|window| window == needle)
    })
}

// ---- the ledger ----

fn releases(node: &Node, app: &str) -> Vec<Value> {
    node.json(&["releases", "--app", app]).as_array().cloned().expect("an array")
}

#[test]
fn variables_change_without_a_build() {
    let two = Two::start();
    let node = &two.node;
    assert_eq!(
        (&two.ask("live", "env")["COLOUR"], &two.ask("beta", "env")["COLOUR"]),
        (&json!("blue"), &json!("green"))
    );
    let made = node.json(&["env", "set", "COLOUR=red", "MOOD=fine=", "--app", "probe"]);
    assert_eq!(made["release"], "r3");
    assert_eq!(two.ask("live", "env"), json!({ "COLOUR": "red", "MOOD": "fine=" }));
    assert_eq!(two.ask("beta", "env"), json!({ "COLOUR": "green" }));
    let ledger = releases(node, "probe");
    assert_eq!(
        (&ledger[0]["release"], &ledger[0]["origin"], &ledger[0]["running"]),
        (&json!("r3"), &json!({ "env": "r1" }), &json!(true))
    );
    assert_eq!(ledger[0]["content"], ledger[2]["content"], "the same content");
    assert_eq!(
        ledger[0]["manifest"]["env"],
        json!({ "COLOUR": "red", "MOOD": "fine=" }),
        "a release remembers its variables"
    );
    assert_eq!(
        node.json(&["env", "--app", "probe"]),
        json!({ "set": { "COLOUR": "red", "MOOD": "fine=" }, "manifest": {} })
    );

    // What was set stays over a push, and the manifest's shows again when it is taken away.
    push_to(node, two.project.path(), "probe", "live");
    assert_eq!(two.ask("live", "env")["COLOUR"], "red");
    node.json(&["env", "unset", "COLOUR", "--app", "probe"]);
    assert_eq!(two.ask("live", "env"), json!({ "COLOUR": "blue", "MOOD": "fine=" }));
    // What isn't there can't be taken away, be it a variable or a secret.
    for args in [&["env", "unset", "NOBODY"][..], &["secret", "delete", "NOBODY", "--yes"]] {
        let ran = node.firm(&[args, &["--app", "probe"]].concat());
        assert_eq!(ran.code, 5, "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_promotion_runs_the_same_content_on_the_other_stage() {
    let node = Node::start();
    push_to(&node, page("one").path(), "shop", "live");
    push_to(&node, page("two").path(), "shop", "beta");
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "one");
    assert_eq!(
        node.firm(&["promote", "beta", "--app", "shop", "--release", "r1"]).code,
        1,
        "beta runs another release"
    );
    let promoted = node.json(&["promote", "beta", "--app", "shop"]);
    assert_eq!(
        (&promoted["stage"], &promoted["release"], &promoted["public"]),
        (&json!("live"), &json!("r3"), &json!(true))
    );
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "two");
    let ledger = releases(&node, "shop");
    assert_eq!(ledger[0]["origin"], json!({ "promote": "r2" }));
    assert_eq!(ledger[0]["content"], ledger[1]["content"]);
    // It can be taken back like a push.
    node.json(&["rollback", "--app", "shop", "--yes"]);
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), "one");
    assert_eq!(node.firm(&["promote", "nowhere", "--app", "shop"]).code, 5);
}

#[test]
fn a_rollback_restores_files_and_variables() {
    let node = Node::start();
    let project = guest_with(
        "probe",
        "[components.app]\nsource = \"app.wasm\"\n[static.pages]\ndir = \"pages\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n\
         [[route]]\npath = \"/pages\"\nstatic = \"pages\"\n[bindings]\nkv = [\"probe\"]\n[env]\nEDITION = \"first\"\n",
    );
    let write = |path: &str, text: &str| {
        let path = project.path().join(path);
        fs::create_dir_all(path.parent().expect("it is below")).and_then(|()| fs::write(path, text)).expect("a file");
    };
    write("pages/a.txt", "first");
    write("pages/only-first.txt", "first");
    node.push(project.path(), "book");
    let manifest = fs::read_to_string(project.path().join("firm.toml")).expect("it was written");
    write("firm.toml", &manifest.replace("first", "second"));
    write("pages/a.txt", "second");
    fs::remove_file(project.path().join("pages/only-first.txt")).expect("it was written");
    node.push(project.path(), "book");
    node.json(&["env", "set", "EXTRA=third", "--app", "book"]);

    let url = node.url("book");
    let seen = || {
        let get = |path: &str| node.get(&format!("{url}{path}"));
        (get("env").expect(200).json(), get("pages/a.txt").expect(200).text(), get("pages/only-first.txt").status)
    };
    assert_eq!(seen(), (json!({ "EDITION": "second", "EXTRA": "third" }), "second".to_owned(), 404));
    let kept = node.get(&format!("{url}kv?bucket=probe&op=set&key=k&value=kept")).expect(200);
    assert_eq!(kept.json(), json!({ "ok": null }));

    let back = node.json(&["rollback", "--app", "book", "--to", "r1", "--yes"]);
    assert_eq!((&back["release"], &back["from"], &back["stage"]), (&json!("r1"), &json!("r3"), &json!("live")));
    let changes: Vec<&str> =
        back["changes"].as_array().into_iter().flatten().filter_map(|change| change["what"].as_str()).collect();
    for what in ["content", "env.EDITION", "env.EXTRA"] {
        assert!(changes.contains(&what), "{changes:?}");
    }
    assert_eq!(seen(), (json!({ "EDITION": "first" }), "first".to_owned(), 200));
    assert_eq!(
        node.get(&format!("{url}kv?bucket=probe&op=get&key=k")).json(),
        json!({ "ok": "kept" }),
        "data stays as it is"
    );
    // The way forward is a rollback too.
    node.json(&["rollback", "--app", "book", "--to", "r3", "--yes"]);
    assert_eq!(seen(), (json!({ "EDITION": "second", "EXTRA": "third" }), "second".to_owned(), 404));
}

#[test]
fn rollback_says_how_it_ended_by_its_exit_code() {
    let node = Node::start();
    let code = |ran: Ran| ran.code;
    assert_eq!(code(node.firm(&["rollback", "--app", "shop", "--yes"])), 5, "no such app");
    node.push(page("one").path(), "shop");
    assert_eq!(code(node.firm(&["rollback", "--app", "shop", "--yes"])), 5, "nothing before the first");
    node.push(page("two").path(), "shop");
    let unanswered = node.firm(&["rollback", "--app", "shop"]);
    assert_eq!(unanswered.code, 2, "nobody is there to ask");
    assert!(
        unanswered.stdout.contains("content") && unanswered.stderr.contains("--yes"),
        "{}{}",
        unanswered.stdout,
        unanswered.stderr
    );
    assert_eq!(node.get(&node.url("shop")).text(), "two", "and nothing has changed");
    assert_eq!(code(node.firm(&["rollback", "--app", "shop", "--to", "r9", "--yes"])), 5);
    assert_eq!(code(node.firm(&["rollback", "--app", "shop", "--to", "r2", "--yes"])), 1, "it runs already");
    assert_eq!(code(node.firm(&["rollback", "--app", "shop", "--stage", "beta", "--yes"])), 5);
    let reader = node.token("main", "read");
    assert_eq!(code(node.firm_with(&["rollback", "--app", "shop", "--yes"], &[("FIRM_TOKEN", &reader)], "")), 4);
    assert_eq!(code(node.firm(&["rollback", "--app", "shop", "--yes"])), 0);
    assert_eq!(node.get(&node.url("shop")).text(), "one");
}

#[test]
fn the_ledger_remembers_who_when_and_what() {
    let node = Node::start();
    let made = node.json(&["token", "create", "--grant", "deploy", "--label", "the pipeline"]);
    let token = made["secret"].as_str().expect("a secret");
    let folder = page("one");
    let before =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is after 1970").as_millis();
    let ran = node.firm_with(&["push", arg(folder.path()), "--app", "shop"], &[("FIRM_TOKEN", token)], "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    node.push(page("two").path(), "shop");
    let ledger = releases(&node, "shop");
    assert_eq!((&ledger[1]["by"], &ledger[0]["by"]), (&json!("the pipeline"), &json!("the box's operator")));
    assert!(u128::from(ledger[1]["at"].as_u64().expect("a time")) >= before);
    assert!(ledger[0]["at"].as_u64() >= ledger[1]["at"].as_u64());
    assert_ne!(ledger[0]["content"], ledger[1]["content"]);
    assert_eq!((&ledger[0]["running"], &ledger[1]["running"]), (&json!(true), &json!(false)));
    // The same files are the same digest, whoever pushes them from wherever.
    node.push(page("one").path(), "shop");
    assert_eq!(releases(&node, "shop")[0]["content"], ledger[1]["content"]);
    // It is for people too.
    let table = node.firm(&["releases", "--app", "shop"]);
    assert!(table.code == 0 && table.stdout.contains("the pipeline"), "{}{}", table.stdout, table.stderr);
}

#[test]
fn pushes_at_once_leave_one_ledger() {
    const PUSHES: usize = 6;
    let node = Node::start();
    let texts: Vec<String> = (0..PUSHES).map(|number| format!("edition {number}")).collect();
    let folders: Vec<_> = texts.iter().map(|text| page(text)).collect();
    let pushed: Vec<Value> = thread::scope(|scope| {
        let pushes: Vec<_> = folders.iter().map(|folder| scope.spawn(|| node.push(folder.path(), "shop"))).collect();
        pushes.into_iter().map(|push| push.join().expect("a push panicked")).collect()
    });
    let ledger = releases(&node, "shop");
    let numbers: Vec<&str> = ledger.iter().filter_map(|release| release["release"].as_str()).collect();
    assert_eq!(numbers, ["r6", "r5", "r4", "r3", "r2", "r1"]);
    let running: Vec<&Value> = ledger.iter().filter(|release| release["running"] == true).collect();
    assert!(running.len() == 1 && running[0]["release"] == "r6", "{running:?}");
    // Each was told its own number, and what serves is what the last one brought.
    let last = pushed.iter().position(|push| push["release"] == "r6").expect("somebody made r6");
    assert_eq!(node.get(&node.url("shop")).expect(200).text(), texts[last]);
    for (number, push) in pushed.iter().enumerate() {
        let release = push["release"].as_str().expect("a number");
        if number != last {
            node.json(&["rollback", "--app", "shop", "--to", release, "--yes"]);
            assert_eq!(node.get(&node.url("shop")).expect(200).text(), texts[number], "{release}");
        }
    }
}
