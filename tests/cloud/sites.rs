//! What people expect of a serious server's files: encodings, caches that keep them, redirects and fields from the
//! manifest; and throttles that say what is left.

use std::fs;

use base::Digest;
use serde_json::{Value, json};

use crate::harness::{Node, Reply, arg, guest_project, site};
use crate::isolation::probe;

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

/// A page that is worth an encoding.
fn page() -> String {
    (0..200).fold(String::new(), |page, line| page + &format!("<p>G'day for the {line}th time</p>\n"))
}

fn asked(node: &Node, encodings: &str, more: &[&str], url: &str) -> Reply {
    let field = format!("accept-encoding: {encodings}");
    node.curl(&[&["-H", &field], more, &[url]].concat())
}

#[test]
fn files_come_in_the_encoding_that_is_asked_for() {
    let node = Node::start();
    let page = page();
    let folder = site(&[("index.html", &page), ("small.txt", "small"), ("404.html", &page)]);
    node.push(folder.path(), "site");
    let url = node.url("site");

    let plain = node.get(&url).expect(200);
    assert_eq!((plain.text(), plain.header("content-encoding")), (page.clone(), None));
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    let mut tags = vec![plain.header("etag").expect("a tag").to_owned()];
    for encoding in ["br", "zstd", "gzip"] {
        for version in VERSIONS {
            let reply = asked(&node, encoding, &[version], &url).expect(200);
            assert_eq!(reply.header("content-encoding"), Some(encoding));
            assert_eq!(reply.header("vary"), Some("accept-encoding"));
            assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
            assert_eq!(reply.header("content-length"), Some(&*reply.body.len().to_string()));
            assert!(reply.body.len() * 3 < page.len(), "{encoding}: {}", reply.body.len());
            // curl unpacks it: neither end is ours.
            assert_eq!(asked(&node, encoding, &[version, "--compressed"], &url).expect(200).text(), page);
        }
        let whole = asked(&node, encoding, &[], &url).expect(200);
        let tag = whole.header("etag").expect("a tag").to_owned();
        assert!(!tags.contains(&tag), "each has its own: {tag} {tags:?}");

        // What is conditional, and what is a part, is about the encoded bytes.
        let held = format!("if-none-match: {tag}");
        let kept = asked(&node, encoding, &["-H", &held], &url).expect(304);
        assert_eq!((kept.header("etag"), kept.header("vary")), (Some(&*tag), Some("accept-encoding")));
        assert_eq!((kept.header("content-encoding"), kept.body.len()), (None, 0));
        node.curl(&["-H", &held, &url]).expect(200);
        asked(&node, encoding, &["-H", &format!("if-match: {tag}")], &url).expect(200);
        let refused = node.curl(&["-H", &format!("if-match: {tag}"), &url]).expect(412);
        assert_eq!(refused.header("cache-control"), Some("no-store"), "the file may be kept, and not this");
        let part = asked(&node, encoding, &["-r", "5-9"], &url).expect(206);
        assert_eq!(part.body, whole.body[5..10]);
        assert_eq!(part.header("content-range"), Some(&*format!("bytes 5-9/{}", whole.body.len())));
        let part = asked(&node, encoding, &["-r", "5-9", "-H", &format!("if-range: {}", tags[0])], &url).expect(200);
        assert_eq!(part.body, whole.body);
        let refused = asked(&node, encoding, &["-r", "100000-"], &url).expect(416);
        assert_eq!(refused.header("cache-control"), Some("no-store"));
        let head = asked(&node, encoding, &["--head", "-r", "0-1"], &url).expect(200);
        assert_eq!(head.header("content-length"), whole.header("content-length"));
        tags.push(tag);
    }
    for (wish, wanted) in [
        ("br;q=0.5, gzip", Some("gzip")),
        ("deflate", None),
        ("identity, br;q=0.5", None),
        ("GZIP;q=1.0", Some("gzip")),
    ] {
        assert_eq!(asked(&node, wish, &[], &url).expect(200).header("content-encoding"), wanted, "{wish}");
    }
    let refused = asked(&node, "identity;q=0", &[], &url).expect(406);
    assert_eq!(refused.header("vary"), Some("accept-encoding"));
    let lost = asked(&node, "br", &["--compressed"], &format!("{url}nothing")).expect(404);
    assert_eq!((lost.text(), lost.header("content-encoding")), (page.clone(), Some("br")));
    let small = asked(&node, "br", &[], &format!("{url}small.txt")).expect(200);
    assert_eq!((small.text().as_str(), small.header("vary")), ("small", None));

    // The sweep and a restart leave them as they are.
    let mut node = node;
    node.restart();
    assert_eq!(asked(&node, "br", &["--compressed"], &url).expect(200).text(), page);
}

#[test]
fn an_author_s_own_encoding_is_sent() {
    let node = Node::start();
    let page = page();
    let folder = site(&[("index.html", "x"), ("a.js", &page), ("b.js", &page.replace("G'day", "Hello"))]);
    let at = |name: &str| folder.path().join(name);
    let packed = std::process::Command::new("gzip").args(["-1", "--keep"]).arg(at("a.js")).status();
    assert!(packed.is_ok_and(|status| status.success()), "gzip is part of every Debian");
    fs::copy(at("a.js.gz"), at("b.js.gz")).expect("it is the test's own");
    let pushed = node.push(folder.path(), "site");
    let url = node.url("site");
    let own = fs::read(at("a.js.gz")).expect("gzip made it");
    assert_eq!(asked(&node, "gzip", &[], &format!("{url}a.js")).expect(200).body, own);
    // One of another file is no encoding of this one, and the push says so.
    let other = asked(&node, "gzip", &["--compressed"], &format!("{url}b.js")).expect(200);
    assert!(other.text().contains("Hello") && other.header("content-encoding") == Some("gzip"), "{}", other.text());
    let warnings = pushed["warnings"].to_string();
    assert!(warnings.contains("`b.js.gz` doesn't unpack to `b.js`"), "{warnings}");

    // Pushed again without a change, it is the same release; nor is anything encoded or uploaded again.
    let again = node.push(folder.path(), "site");
    assert_eq!((&again["release"], &again["unchanged"]), (&json!("r1"), &json!(true)));
    let said = node.firm(&["push", arg(folder.path()), "--app", "site"]);
    assert!(said.stdout.contains("nothing changed: site runs r1 on live already"), "{}", said.stdout);
}

#[test]
fn an_encoding_that_can_t_be_one_is_refused() {
    let node = Node::start();
    let token = node.operator_token();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let path = format!("/v1/tenants/main/chunks/{digest}");
        node.api_bytes(&token, "PUT", &path, "application/octet-stream", Some(bytes)).expect(200);
        json!({ "digest": digest, "size": bytes.len() })
    };
    let (file, packed) = (put(b"a file of some length"), put(b"a smaller one"));
    let push = |encodings: Value| {
        let file = json!({ "digest": file["digest"], "size": file["size"], "chunks": [file], "encodings": encodings });
        let manifest = json!({ "static": { "site": {} }, "route": [{ "path": "/", "static": "site" }] });
        let index = json!({ "statics": { "site": { "index.html": file } } });
        let body = json!({ "manifest": manifest, "index": index });
        node.api(&token, "POST", "/v1/tenants/main/apps/site/releases", Some(body))
    };
    let (absent, digest) = (Digest::of(b"absent"), &packed["digest"]);
    for (why, status, encodings) in [
        ("as large as the file", 400, json!({ "br": { "digest": file["digest"], "size": file["size"] } })),
        ("empty", 400, json!({ "br": { "digest": digest, "size": 0 } })),
        ("of another size than its chunk", 400, json!({ "br": { "digest": digest, "size": 5 } })),
        ("not uploaded", 409, json!({ "br": { "digest": absent, "size": 5 } })),
        ("of chunks that are another's", 400, json!({ "br": { "digest": absent, "size": 13, "chunks": [packed] } })),
        ("of another sum", 400, json!({ "br": { "digest": digest, "size": 12, "chunks": [packed] } })),
        ("of no known coding", 400, json!({ "compress": packed })),
    ] {
        let reply = push(encodings);
        assert_eq!(reply.status, status, "{why}: {}", reply.text());
    }
    push(json!({ "br": packed })).expect(201);
    assert_eq!(asked(&node, "br", &[], &node.url("site")).expect(200).text(), "a smaller one");
    // As releases were before there were encodings.
    push(json!({})).expect(201);
    assert_eq!(asked(&node, "br", &[], &node.url("site")).expect(200).text(), "a file of some length");
}

const RULES: &str = r#"
[[redirect]]
from = "/old/*"
to = "/new/*"
status = 301

[[redirect]]
from = "/away/*"
to = "https://example.com/from/*?fixed=1"
status = 302

[[redirect]]
from = "/gone"
to = "/?why=gone#top"

[[redirect]]
from = "/root/*"
to = "/*"

[[header]]
path = "/*"
set = { x-frame-options = "DENY", X-Powered-By = "firm" }

[[header]]
path = "/admin*"
set = { content-security-policy = "default-src 'none'", cache-control = "public, max-age=9" }
remove = ["x-powered-by", "x-from-the-app"]
"#;

/// What holds for static folders and components alike.
fn rules_hold(node: &Node, app: &str) {
    let url = node.url(app);
    let of = |path: &str| format!("{url}{path}");
    for (path, status, to) in [
        ("old/a/b%20c?d=e", 301, "/new/a/b%20c?d=e"),
        ("old/", 301, "/new/"),
        ("away/x", 302, "https://example.com/from/x?fixed=1"),
        ("away/@evil.example", 302, "https://example.com/from/@evil.example?fixed=1"),
        ("gone", 308, "/?why=gone#top"),
        // Never to another host.
        ("root//evil.example", 308, "/evil.example"),
        ("root/%5cevil.example", 308, "/%5cevil.example"),
        ("root/x?y", 308, "/x?y"),
    ] {
        for version in VERSIONS {
            let reply = node.curl(&[version, "--path-as-is", &of(path)]).expect(status);
            assert_eq!(reply.header("location"), Some(to), "{path}");
            assert_eq!(reply.header("x-frame-options"), Some("DENY"), "{path}");
        }
    }
    // However the path is spelt that leads there.
    for path in ["admin", "%61dmin", "/admin", "admin/"] {
        let reply = node.curl(&["--path-as-is", "--location", &of(path)]);
        assert_eq!(reply.header("content-security-policy"), Some("default-src 'none'"), "{path}: {}", reply.status);
        assert_eq!(reply.header("x-powered-by"), None, "{path}");
    }
    let home = node.get(&url).expect(200);
    assert_eq!((home.header("x-powered-by"), home.header("content-security-policy")), (Some("firm"), None));
    assert_eq!(home.headers.iter().filter(|(name, _)| name == "x-request-id").count(), 1);
    // The cloud's own paths are nobody's to send elsewhere.
    assert_eq!(node.get(&of(".firm/x")).expect(404).header("x-frame-options"), None);
}

#[test]
fn redirects_and_fields_are_those_of_the_manifest() {
    let node = Node::start();
    let manifest = format!(
        "[static.site]\ndir = \"public\"\nimmutable = [\"assets/**\"]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n{RULES}\n\
         [[header]]\npath = \"/about\"\nset = {{ x-about = \"yes\" }}\n\
         [[header]]\npath = \"/deep/page.txt\"\nset = {{ x-deep = \"yes\" }}\n\
         [[route]]\npath = \"/deep\"\nstatic = \"site\"\n"
    );
    let page = page();
    let folder = site(&[
        ("firm.toml", &manifest),
        ("public/index.html", "home"),
        ("public/admin.html", "admin"),
        ("public/about.html", "about"),
        ("public/page.txt", "page"),
        ("public/assets/app-1f3a.js", &page),
    ]);
    node.push(folder.path(), "site");
    rules_hold(&node, "site");
    let url = node.url("site");
    // No spelling of a file's address gets around the rules for it.
    for path in ["about", "%61bout", "about%2ehtml", "about%2Ehtm%6c", "/about"] {
        let reply = node.curl(&["--path-as-is", &format!("{url}{path}")]).expect(200);
        assert_eq!((reply.text(), reply.header("x-about")), ("about".to_owned(), Some("yes")), "{path}");
    }
    for path in ["deep/page.txt", "deep//page.txt", "deep/%2fpage.txt", "/deep///page.txt"] {
        let reply = node.curl(&["--path-as-is", &format!("{url}{path}")]);
        assert!(reply.status == 404 || reply.header("x-deep") == Some("yes"), "{path}: {}", reply.status);
    }
    let moved = node.get(&format!("{url}about.html")).expect(308);
    assert_eq!(moved.header("cache-control"), Some("public, max-age=0, must-revalidate"), "it may lead back one day");
    let admin = node.get(&format!("{url}admin")).expect(200);
    assert_eq!(admin.header("cache-control"), Some("public, max-age=9"));
    // What is lost isn't kept, whatever the rule says: it may be there tomorrow.
    let lost = node.get(&format!("{url}admin-lost")).expect(404);
    assert_eq!(lost.header("cache-control"), Some("no-store"));

    let asset = format!("{url}assets/app-1f3a.js");
    let year = Some("public, max-age=31536000, immutable");
    for encoding in ["identity", "br"] {
        let reply = asked(&node, encoding, &[], &asset).expect(200);
        assert_eq!(reply.header("cache-control"), year, "{encoding}");
        let held = format!("if-none-match: {}", reply.header("etag").expect("a tag"));
        assert_eq!(asked(&node, encoding, &["-H", &held], &asset).expect(304).header("cache-control"), year);
    }
    assert_eq!(node.get(&url).header("cache-control"), Some("public, max-age=0, must-revalidate"));
    let lost = node.get(&format!("{url}assets/lost.js")).expect(404);
    assert_ne!(lost.header("cache-control"), year);

    // On a private stage nothing is kept for others, whatever the manifest says.
    node.json(&["push", arg(folder.path()), "--app", "site", "--stage", "next"]);
    let member = format!("authorization: Bearer {}", node.token("main", "visit"));
    let next = node.url("next--site");
    for path in ["", "assets/app-1f3a.js", "admin", "old/x"] {
        let reply = node.curl(&["-H", &member, &format!("{next}{path}")]);
        assert_eq!(reply.header("cache-control"), Some("private, no-cache"), "{path}: {}", reply.status);
    }
}

#[test]
fn no_spelling_gets_around_a_route() {
    let node = Node::start();
    let manifest = "[static.all]\ndir = \"pub\"\n[static.dl]\ndir = \"pub/download\"\n[[route]]\npath = \"/\"\nstatic = \"all\"\n\
                    [[route]]\npath = \"/download\"\nstatic = \"dl\"\nlimit = { rate = \"1/h\", burst = 1, per = \"client\" }\n";
    let folder = site(&[("firm.toml", manifest), ("pub/index.html", "home"), ("pub/download/f.txt", "file")]);
    node.push(folder.path(), "site");
    let of = |path: &str| format!("{}{path}", node.url("site"));
    node.get(&of("download/f.txt")).expect(200);
    node.get(&of("download/f.txt")).expect(429);
    for path in ["%64ownload/f.txt", "/download/f.txt", "download%2ff.txt", "%2fdownload/f.txt", "/%64ownload//f.txt"] {
        node.curl(&["--path-as-is", &of(path)]).expect(429);
    }
    // Nobody is sent anywhere but to the same path, spelled plainly.
    let fresh = Node::start();
    fresh.push(folder.path(), "site");
    let reply = fresh.curl(&["--path-as-is", &format!("{}%64ownload//f.txt?a=%62", fresh.url("site"))]).expect(308);
    assert_eq!(reply.header("location"), Some("/download/f.txt?a=%62"));
    // What isn't another route's stays as it is.
    fresh.curl(&["--path-as-is", &format!("{}%69ndex.html", fresh.url("site"))]).expect(200);
}

#[test]
fn components_are_under_the_same_rules() {
    let node = Node::start();
    let url = probe(&node, "probe", RULES);
    rules_hold(&node, "probe");
    let answer = "answer?header=x-powered-by:php&header=x-frame-options:ALLOW&header=x-from-the-app:1&body=x";
    let reply = node.get(&format!("{url}{answer}")).expect(200);
    assert_eq!((reply.header("x-powered-by"), reply.header("x-frame-options")), (Some("firm"), Some("DENY")));
    assert_eq!(reply.header("x-from-the-app"), Some("1"));
}

#[test]
fn a_manifest_can_t_say_what_isn_t_its_own() {
    let node = Node::start();
    let rule = |text: &str| format!("[static.site]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n{text}");
    let header = |set: &str| rule(&format!("[[header]]\npath = \"/*\"\nset = {{ {set} }}\n"));
    let redirect = |from: &str, to: &str| rule(&format!("[[redirect]]\nfrom = \"{from}\"\nto = \"{to}\"\n"));
    for (manifest, place, said) in [
        (header("set-cookie = \"a=1; Domain=localhost\""), ":7:", "cookies"),
        (header("Content-Length = \"1\""), ":7:", "isn't the manifest's to change"),
        (header("transfer-encoding = \"chunked\""), ":7:", "the connection"),
        (header("x-request-id = \"1\""), ":7:", "log"),
        (header("x-a = \"b\\r\\nset-cookie: c=1\""), ":7:", "no header may carry"),
        (header("\"x a\" = \"b\""), ":7:", "can't name a header field"),
        (redirect("/a", "/a"), ":7:", "again and again"),
        (redirect("/a/*", "/a/b/*"), ":7:", "again and again"),
        (redirect("/*", "/b"), ":7:", "again and again"),
        (redirect("/a", "//evil.example"), ":7:", "nowhere"),
        (redirect("/a", "javascript:alert(1)"), ":7:", "nowhere"),
        (redirect("/a/*", "https://example.com*"), ":7:", "nowhere"),
        (redirect("/a", "/b/*"), ":7:", "stands for nothing"),
        (redirect("/.firm/x", "/b"), ":6:", "kept for the cloud"),
        (redirect("a", "/b"), ":6:", "is not a path"),
        (rule("[[redirect]]\nfrom = \"/a\"\nto = \"/b\"\nstatus = 200\n"), ":8:", "redirects nobody"),
    ] {
        let folder = site(&[("firm.toml", &manifest), ("index.html", "x")]);
        let ran = node.firm(&["push", arg(folder.path()), "--app", "site"]);
        assert!(ran.code != 0 && ran.stderr.contains(place) && ran.stderr.contains(said), "{manifest}\n{}", ran.stderr);
        // The cloud says the same to whom has no `firm`.
        let manifest: Value = toml_json(&manifest);
        let body = json!({ "manifest": manifest, "index": { "statics": { "site": {} } } });
        let reply = node.api(&node.operator_token(), "POST", "/v1/tenants/main/apps/site/releases", Some(body));
        assert!(reply.status == 422 && reply.text().contains("wrong_manifest"), "{manifest}: {}", reply.text());
    }
}

fn toml_json(text: &str) -> Value {
    let table: toml::Table = text.parse().expect("it is TOML");
    serde_json::to_value(table).expect("it has no dates")
}

#[test]
fn throttles_tell_what_is_left() {
    let node = Node::start();
    // The issue's own line.
    let sample = "limit = { rate = \"100/s\", burst = 200, per = \"client\" }\n";
    let manifest = format!(
        "{sample}[static.site]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n[[route]]\npath = \"/few\"\nstatic = \"site\"\nlimit = {{ rate = \"2/d\" }}\n"
    );
    let folder = site(&[("firm.toml", &manifest), ("index.html", "x")]);
    node.push(folder.path(), "site");
    let url = node.url("site");
    let few = format!("{url}few/");
    let reply = node.get(&url).expect(200);
    assert_eq!(reply.header("ratelimit-policy"), Some("\"app\";q=200;w=2"));
    assert_eq!(reply.header("ratelimit"), Some("\"app\";r=199;t=1"));
    for left in [1, 0] {
        let reply = node.get(&few).expect(200);
        assert_eq!(reply.header("ratelimit-policy"), Some("\"app\";q=200;w=2, \"route\";q=2;w=86400"));
        assert!(
            reply.header("ratelimit").is_some_and(|told| told.contains(&format!("\"route\";r={left};t=4"))),
            "{:?}",
            reply.headers
        );
    }
    // A push is no way around a count.
    fs::write(folder.path().join("more.txt"), "more").expect("it is the test's own");
    node.push(folder.path(), "site");
    let refused = node.get(&few).expect(429);
    assert_eq!(refused.header("ratelimit-policy"), Some("\"route\";q=2;w=86400"));
    let wait = refused.header("retry-after").expect("how long").to_owned();
    assert!((40_000..=43_200).contains(&wait.parse().unwrap_or(0)), "{wait}");
    assert_eq!(refused.header("ratelimit"), Some(&*format!("\"route\";r=0;t={wait}")));
    assert!(refused.text().contains("This part of the app takes 2/d requests"), "{}", refused.text());
    node.get(&url).expect(200);
    // An app without throttles says nothing of any.
    let folder = site(&[("index.html", "x")]);
    node.push(folder.path(), "free");
    assert_eq!(node.get(&node.url("free")).expect(200).header("ratelimit"), None);
}

#[test]
fn a_tenant_s_ceiling_is_over_all_its_apps() {
    let mut node = Node::start();
    let generous = "limit = { rate = \"1000/s\" }\n[static.site]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n";
    let folder = site(&[("firm.toml", generous), ("index.html", "x")]);
    node.push(folder.path(), "one");
    node.push(guest_project("probe", "").path(), "two");
    node.json(&["push", arg(folder.path()), "--app", "one", "--stage", "next"]);
    node.json(&["tenant", "add", "other"]);
    node.json(&["--tenant", "other", "push", arg(folder.path()), "--app", "theirs"]);

    let set = node.firm(&["tenant", "limit", "main", "--rate", "4/d", "--burst", "3"]);
    assert!(set.stdout.contains("all apps of main together take 4/d, 3 at once"), "{}{}", set.stdout, set.stderr);
    let shown = |node: &Node| {
        let limit = node.json(&["tenant", "limit", "main"])["limit"].clone();
        assert_eq!(limit, node.json(&["tenant", "list"])[0]["limit"], "it is shown alike");
        limit
    };
    assert_eq!(shown(&node), json!({ "rate": "4/d", "burst": 3 }));
    assert!(node.firm(&["tenant", "list"]).stdout.contains("4/d, 3 at once"));

    let member = format!("authorization: Bearer {}", node.token("main", "visit"));
    let (one, two, next) = (node.url("one"), node.url("two"), node.url("next--one"));
    let first = node.get(&one).expect(200);
    // What is left of the ceiling would tell visitors of the tenant's other apps.
    assert_eq!(first.header("ratelimit-policy"), Some("\"app\";q=1000;w=1"));
    node.get(&two).expect(200);
    node.curl(&["-H", &member, &next]).expect(200);
    for url in [&one, &two, &next] {
        let reply = node.curl(&["-H", &member, url]).expect(429);
        assert!(reply.text().contains("All apps of this tenant together take 4/d"), "{}", reply.text());
        assert_eq!(reply.header("ratelimit-policy"), Some("\"tenant\";q=3;w=64800"));
        assert!(reply.header("retry-after").is_some());
    }
    // Nor does a new app, a new release or a redirect get around it; another tenant isn't concerned.
    fs::write(folder.path().join("more.txt"), "more").expect("it is the test's own");
    node.push(folder.path(), "one");
    node.push(folder.path(), "three");
    node.get(&one).expect(429);
    node.get(&node.url("three")).expect(429);
    let theirs = node.url("theirs").replace(".main.", ".other.");
    node.get(&theirs).expect(200);

    // It is the operator's alone, and stays when the node doesn't.
    let owner = node.token("main", "own");
    let change = json!({ "limit": null });
    node.api(&owner, "PATCH", "/v1/tenants/main", Some(change.clone())).expect(403);
    node.api(&node.operator_token(), "PATCH", "/v1/tenants/main", Some(json!({}))).expect(400);
    let none = json!({ "limit": { "rate": "1/s", "burst": 0 } });
    node.api(&node.operator_token(), "PATCH", "/v1/tenants/main", Some(none)).expect(400);
    node.restart();
    assert_eq!(shown(&node), json!({ "rate": "4/d", "burst": 3 }));
    for status in [200, 200, 200, 429] {
        node.get(&one).expect(status);
    }
    let gone = node.firm(&["tenant", "limit", "main", "--none"]);
    assert_eq!(gone.code, 0, "{}", gone.stderr);
    assert_eq!(shown(&node), Value::Null);
    for url in [&one, &two] {
        node.get(url).expect(200);
    }
    assert_eq!(node.firm(&["tenant", "limit", "nobody"]).code, 5, "there is no such tenant");
}
