//! The management API from outside, made from its own table: every endpoint × every kind of caller, its methods and
//! spellings, and what schemathesis makes of its description.
//!
//! An endpoint that is added to [`api::ENDPOINTS`] is tried here without a line more. Only a parameter of a new name
//! needs a value, and its absence fails the tests.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use api::{Body, ENDPOINTS, Endpoint, Method, Needs, Operation};
use base::Digest;
use serde_json::{Value, json};
use state::Grant;

use crate::harness::{self, Node, Reply, arg, cache, eventually, site};

/// The grants that a tenant's token may have, smallest first.
const GRANTS: [Grant; 4] = [Grant::Visit, Grant::Read, Grant::Deploy, Grant::Own];

/// A node with two tenants: `main`, who has an app with a stage, and `other`.
struct World {
    node: Node,
    operator: String,
    /// Of `main`, one for each of [`GRANTS`].
    members: Vec<(Grant, String)>,
    other_owner: String,
    expired: String,
    revoked: String,
    /// Ids of a member's and of an operator's token that nobody uses: what a revocation is tried on.
    spare: String,
    spare_operator: String,
}

impl World {
    fn new() -> Self {
        let node = Node::start();
        let operator = node.operator_token();
        let folder = site(&[("index.html", "G'day")]);
        node.push(folder.path(), "hello");
        node.json(&["push", arg(folder.path()), "--app", "hello", "--stage", "beta"]);
        node.api(&operator, "POST", "/v1/tenants", Some(json!({ "tenant": "other" }))).expect(201);
        let made = |tenant: &str, body: Value| {
            let made = node.api(&operator, "POST", &format!("/v1{tenant}/tokens"), Some(body)).expect(201).json();
            let text = |key: &str| made[key].as_str().expect("it is text").to_owned();
            (text("token"), text("secret"))
        };
        let main = "/tenants/main";
        let members = GRANTS
            .map(|grant| (grant, made(main, json!({ "label": "member", "grant": grant })).1))
            .into_iter()
            .collect();
        let other_owner = made("/tenants/other", json!({ "label": "other", "grant": "own" })).1;
        let expired = made(main, json!({ "label": "expires", "grant": "own", "expires_in": 1 })).1;
        let (id, revoked) = made(main, json!({ "label": "revoked", "grant": "own" }));
        node.api(&operator, "DELETE", &format!("/v1/tenants/main/tokens/{id}"), None).expect(200);
        let spare = made(main, json!({ "label": "spare", "grant": "read" })).0;
        let spare_operator = made("", json!({ "label": "spare", "grant": "operate" })).0;
        eventually("the token has expired", || node.api(&expired, "GET", "/v1/whoami", None).status == 401);
        Self { node, operator, members, other_owner, expired, revoked, spare, spare_operator }
    }

    /// A parameter's value that is there, so that a call that must be refused would do something.
    fn present(&self, endpoint: &Endpoint, name: &str) -> String {
        match name {
            "tenant" => "main".into(),
            "app" => "hello".into(),
            "stage" => "beta".into(),
            "token" if matches!(endpoint.needs, Needs::Operator) => self.spare_operator.clone(),
            "token" => self.spare.clone(),
            "digest" => Digest::of(CHUNK).hex(),
            "secret" => "API_KEY".into(),
            "domain" => "shop.example".into(),
            "box" => "amber-otter".into(),
            name => panic!("`{name}` is a new parameter: give it a value in World::present and World::absent"),
        }
    }

    /// And one that isn't there, so that a call that is allowed takes nothing away from the next.
    fn absent(endpoint: &Endpoint, name: &str) -> String {
        match name {
            "tenant" if matches!(endpoint.needs, Needs::Member(_)) => "main".into(),
            "tenant" => "nobody".into(),
            "app" | "stage" => "absent".into(),
            "token" => "00000000000000aa".into(),
            "digest" => Digest::of(b"absent").hex(),
            "secret" => "ABSENT".into(),
            "domain" => "absent.example".into(),
            "box" => "absent-otter".into(),
            name => panic!("`{name}` is a new parameter: give it a value in World::present and World::absent"),
        }
    }

    fn call(&self, token: &str, endpoint: &Endpoint, path: &str) -> Reply {
        let method = endpoint.method.as_str();
        let reply = match endpoint.request {
            Body::None => self.node.api(token, method, path, None),
            Body::Bytes => self.node.api_bytes(token, method, path, "application/octet-stream", Some(CHUNK)),
            _ => self.node.api(token, method, path, Some(body(endpoint.operation))),
        };
        assert_eq!(reply.curl, 0, "{method} {path}: {} {}", reply.failed, reply.text());
        reply
    }

    /// Every change counts one up.
    fn index(&self) -> u64 {
        let status = self.node.api(&self.operator, "GET", "/v1/status", None).expect(200).json();
        status["record_index"].as_u64().expect("a number")
    }

    fn present_path(&self, endpoint: &Endpoint) -> String {
        filled(endpoint, |name| self.present(endpoint, name))
    }
}

const CHUNK: &[u8] = b"a chunk of nobody's";

/// A body that would do something, where `{}` wouldn't.
fn body(operation: Operation) -> Value {
    match operation {
        Operation::BoxAdmit => json!({ "id": "a".repeat(52), "roles": "web", "order": "intruder" }),
        Operation::TenantCreate => json!({ "tenant": "intruder" }),
        Operation::TenantChange => json!({ "limit": { "rate": "1000/s" } }),
        Operation::TokenCreate => json!({ "label": "intruder", "grant": "own" }),
        Operation::OperatorTokenCreate => json!({ "label": "intruder", "grant": "operate" }),
        Operation::ChunksMissing => json!({ "chunks": [] }),
        Operation::ReleaseCreate => json!({ "manifest": {}, "index": {} }),
        Operation::EnvChange => json!({ "changes": { "INTRUDER": "1" } }),
        Operation::SecretSet => json!({ "value": "intruder" }),
        _ => json!({}),
    }
}

/// The endpoint's path with its parameters' values.
fn filled(endpoint: &Endpoint, value: impl Fn(&str) -> String) -> String {
    endpoint
        .path_parameters()
        .fold(endpoint.path.to_owned(), |path, name| path.replace(&format!("{{{name}}}"), &value(name)))
}

fn named(endpoint: &Endpoint, who: &str) -> String {
    format!("{} {} as {who}", endpoint.method.as_str(), endpoint.path)
}

fn is_denied(reply: &Reply) -> bool {
    [401, 403].contains(&reply.status)
}

#[test]
fn who_may_not_is_refused_and_changes_nothing() {
    let world = World::new();
    let before = world.index();
    let unknown = [
        ("nobody", ""),
        ("a guesser", "firm_00000000000000aa_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("somebody with another cloud's token", "ghp_16C7e42F292c6912E7710c838347Ae178B4a"),
        ("the holder of an expired token", &world.expired),
        ("the holder of a revoked token", &world.revoked),
    ];
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.needs != Needs::Nothing) {
        let mut callers: Vec<(&str, &str, u16)> = unknown.iter().map(|(who, token)| (*who, *token, 401)).collect();
        let too_little = |needs: Grant| world.members.iter().filter(move |(grant, _)| *grant < needs);
        match endpoint.needs {
            Needs::Nothing | Needs::Token => {}
            Needs::Member(needs) => {
                callers.push(("another tenant's owner", &world.other_owner, 403));
                callers.extend(too_little(needs).map(|(_, token)| ("a member with too little", token.as_str(), 403)));
            }
            Needs::Operator => {
                callers.push(("another tenant's owner", &world.other_owner, 403));
                callers.extend(too_little(Grant::Operate).map(|(_, token)| ("a member", token.as_str(), 403)));
            }
        }
        let path = world.present_path(endpoint);
        for (who, token, status) in callers {
            let reply = world.call(token, endpoint, &path);
            let code = if status == 401 { "unauthorised" } else { "forbidden" };
            assert_eq!((reply.status, reply.json()["code"].as_str()), (status, Some(code)), "{}", named(endpoint, who));
            assert_eq!(reply.header("www-authenticate").is_some(), status == 401, "{}", named(endpoint, who));
        }
    }
    assert_eq!(world.index(), before, "a refused call changed the record");
}

#[test]
fn who_may_is_never_turned_away() {
    let world = World::new();
    for endpoint in ENDPOINTS {
        let mut callers = vec![("an operator", world.operator.as_str())];
        match endpoint.needs {
            Needs::Nothing => {
                callers.extend([("nobody", ""), ("a guesser", "nonsense"), ("a revoked token", &world.revoked)]);
            }
            Needs::Token => {
                callers.extend([("a visitor", world.members[0].1.as_str()), ("another tenant's", &world.other_owner)]);
            }
            Needs::Member(needs) => {
                let enough = world.members.iter().filter(|(grant, _)| *grant >= needs);
                callers.extend(enough.map(|(_, token)| ("a member", token.as_str())));
            }
            Needs::Operator => {}
        }
        for (who, token) in callers {
            let reads = endpoint.method == Method::Get;
            let path = if reads {
                world.present_path(endpoint)
            } else {
                filled(endpoint, |name| World::absent(endpoint, name))
            };
            let reply = world.call(token, endpoint, &path);
            assert!(
                !is_denied(&reply) && reply.status != 0,
                "{}: {}{}",
                named(endpoint, who),
                reply.text(),
                reply.failed
            );
            assert!(reply.status < 500, "{}: {}", named(endpoint, who), reply.text());
            // This cloud is `firm up`, which has no boxes to tell of.
            let wanted = if endpoint.operation == Operation::BoxList { 409 } else { 200 };
            assert!(!reads || reply.status == wanted, "{}: {}", named(endpoint, who), reply.text());
        }
    }
}

/// Names must not be found out by asking for them.
#[test]
fn a_tenant_that_is_not_there_looks_like_somebody_else_s() {
    let world = World::new();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.path_parameters().any(|name| name == "tenant")) {
        let asked = |tenant: &str| {
            let path =
                filled(endpoint, |name| if name == "tenant" { tenant.into() } else { world.present(endpoint, name) });
            let reply = world.call(&world.other_owner, endpoint, &path);
            let mut said = reply.json();
            said["request"].take();
            // Whose its token is, and what it asked for itself, are no news to the caller.
            let message = said["message"].as_str().unwrap_or_default().to_owned();
            let told = format!("of tenant `other`, and `{tenant}` was asked for");
            assert!(message.contains(&told) || matches!(endpoint.needs, Needs::Operator), "{message}");
            said["message"] = message.replace(&format!("`{tenant}`"), "`NAME`").into();
            (reply.status, said)
        };
        assert_eq!(asked("main"), asked("nobody"), "{}", named(endpoint, "another tenant's owner"));
    }
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let world = World::new();
    let before = world.index();
    let paths: BTreeSet<&str> = ENDPOINTS.iter().map(|endpoint| endpoint.path).collect();
    for path in paths {
        let rows: Vec<&Endpoint> = ENDPOINTS.iter().filter(|endpoint| endpoint.path == path).collect();
        let mut allowed: BTreeSet<&str> = rows.iter().map(|row| row.method.as_str()).collect();
        if allowed.contains("GET") {
            allowed.insert("HEAD");
        }
        let asked = world.present_path(rows[0]);
        for method in
            ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].into_iter().filter(|method| !allowed.contains(method))
        {
            let reply = world.node.api(&world.operator, method, &asked, None);
            assert_eq!(reply.status, 405, "{method} {path}: {}", reply.text());
            let said: BTreeSet<&str> = reply.header("allow").unwrap_or_default().split(", ").collect();
            assert_eq!(said, allowed, "{method} {path}");
        }
    }
    assert_eq!(world.index(), before);
}

#[test]
fn head_is_get_without_the_content() {
    let world = World::new();
    let bearer = format!("authorization: Bearer {}", world.operator);
    // Of boxes `firm up` has none to tell.
    let reads = |endpoint: &&Endpoint| endpoint.method == Method::Get && endpoint.operation != Operation::BoxList;
    for endpoint in ENDPOINTS.iter().filter(reads) {
        let path = world.present_path(endpoint);
        let url = format!("https://api.localhost:{}{path}", world.node.tls_port());
        for version in ["--http1.1", "--http2"] {
            let head = world.node.curl(&[version, "--head", "--header", &bearer, &url]);
            let get = world.node.curl(&[version, "--header", &bearer, &url]);
            assert_eq!((head.status, head.curl), (200, 0), "{version} {path}: {}", head.failed);
            assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
            // The figures count these very requests.
            if let Some(length) = head.header("content-length").filter(|_| path != "/metrics") {
                assert_eq!(length, get.body.len().to_string(), "{path}");
            }
        }
    }
    assert_eq!(
        world.node.curl(&["--head", &format!("https://api.localhost:{}/v1/whoami", world.node.tls_port())]).status,
        401
    );
}

#[test]
fn a_path_is_read_one_way_only() {
    let world = World::new();
    let asked = |path: &str| {
        let reply = world.node.api(&world.operator, "GET", path, None);
        (reply.status, reply.json()["code"].as_str().map(str::to_owned))
    };
    assert_eq!(asked("/v1/tenants/m%61in/apps/h%65llo").0, 200, "what is encoded without need is decoded once");
    for endpoint in ENDPOINTS {
        let path = world.present_path(endpoint);
        assert_eq!(asked(&format!("{path}/")), (404, Some("no_such_endpoint".into())), "{path}/");
    }
    for (path, code) in [
        ("/", "no_such_endpoint"),
        ("/v1", "no_such_endpoint"),
        ("/v2/health", "no_such_endpoint"),
        ("/V1/health", "no_such_endpoint"),
        ("/v1//health", "no_such_endpoint"),
        ("/v1/tenants//apps", "no_such_endpoint"),
        ("/v1/tenants/main%2Fapps", "wrong_method"),
        ("/v1/tenants/main%2Fapps/apps", "no_such_tenant"),
        ("/v1/tenants/main%2561/apps", "no_such_tenant"),
        ("/v1/tenants/Main/apps", "no_such_tenant"),
        ("/v1/tenants/%00/apps", "no_such_tenant"),
        ("/v1/tenants/%ff/apps", "wrong_parameter"),
        ("/v1/tenants/main/apps/%2e%2e%2fhello", "wrong_parameter"),
        ("/v1/tenants/main/apps/hello%20", "wrong_parameter"),
        ("/v1/tenants/main/apps/nothing", "no_such_app"),
    ] {
        assert_eq!(asked(path).1.as_deref(), Some(code), "{path}");
    }
}

#[test]
fn a_body_is_taken_as_it_is_described() {
    let world = World::new();
    let before = world.index();
    let promote = "/v1/tenants/main/apps/hello/stages/beta/promote";
    let kind = "application/json";
    for (said, body) in [
        ("nothing", &b""[..]),
        ("no JSON", b"{"),
        ("a struct as an array", b"[null, null]"),
        ("a text", b"\"to\""),
        ("a field that isn't there", b"{\"too\": \"live\"}"),
        ("a wrong type", b"{\"to\": 7}"),
        ("two objects", b"{}{}"),
        ("not UTF-8", b"{\"to\": \"\xff\"}"),
    ] {
        let reply = world.node.api_bytes(&world.operator, "POST", promote, kind, Some(body));
        assert_eq!(
            (reply.status, reply.json()["code"].as_str()),
            (400, Some("wrong_body")),
            "{said}: {}",
            reply.text()
        );
    }
    let url = format!("https://api.localhost:{}{promote}", world.node.tls_port());
    let bearer = format!("authorization: Bearer {}", world.operator);
    let encoded = ["--header", &bearer, "--header", "content-encoding: gzip", "--data-binary", "{}", &url];
    assert_eq!(world.node.curl(&encoded).status, 415);
    let tokens = "/v1/tenants/main/tokens";
    for life in [json!(0), json!(-1), json!(1.5), json!("1d")] {
        let body = json!({ "label": "x", "grant": "read", "expires_in": life });
        assert_eq!(world.node.api(&world.operator, "POST", tokens, Some(body)).status, 400, "{life}");
    }
    assert_eq!(world.index(), before);
    // The longest life that can be written is one that doesn't end, not one that ended long ago.
    let body = json!({ "label": "x", "grant": "read", "expires_in": u64::MAX });
    let made = world.node.api(&world.operator, "POST", tokens, Some(body)).expect(201).json();
    world.node.api(made["secret"].as_str().expect("a secret"), "GET", "/v1/whoami", None).expect(200);
}

#[test]
fn the_served_description_is_the_one_in_the_docs() {
    let node = Node::start();
    let served = node.api("", "GET", "/v1/openapi.json", None).expect(200).json();
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json"))
        .expect("`make docs` wrote it");
    let written: Value = serde_json::from_str(&text).expect("`make docs` wrote it");
    assert_eq!(served, written, "`make docs` writes docs/openapi.json anew");
}

/// schemathesis reads the description and tries to find the box doing otherwise.
///
/// Some of its checks are left out. `positive_data_acceptance` wants that whatever fits the schema is taken, and a
/// manifest, a certificate or a chunk has rules that no schema says. `ignored_auth` is what the tests above do, row by
/// row. The rest have nothing to check: no headers are described.
#[test]
fn schemathesis_finds_nothing() {
    const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                          negative_data_rejection,unsupported_method,allow_header_conformance,use_after_free";
    /// Tries for each operation and phase; `FIRM_TEST_LONG` asks for more.
    const TRIES: &str = "10";
    const TRIES_LONG: &str = "300";
    let world = World::new();
    let program = cache().join("test-python/bin/schemathesis");
    assert!(program.is_file(), "{} is missing\n  help: tools/install test", program.display());
    // Names that are there, or it would hardly get past 404; but nothing that it may delete.
    let mut config =
        String::from("[parameters]\n\"path.tenant\" = \"main\"\n\"path.app\" = \"hello\"\n\"path.stage\" = \"beta\"\n");
    config += "\"query.follow\" = \"false\"\n";
    let spared = [
        ("tenant_delete", "tenant", "absent"),
        ("app_delete", "app", "absent"),
        ("stage_delete", "stage", "absent"),
        // It learns ids from answers, and would revoke its own token.
        ("operator_token_revoke", "token", &world.spare_operator),
    ];
    for (operation, parameter, value) in spared {
        let _ = write!(
            config,
            "\n[[operations]]\ninclude-operation-id = \"{operation}\"\nparameters = {{ \"path.{parameter}\" = \"{value}\" }}\n"
        );
    }
    let config_path = world.node.root().join("schemathesis.toml");
    fs::write(&config_path, config).expect("the node's folder can be written to");
    let long = std::env::var_os("FIRM_TEST_LONG").is_some();
    let mut command = Command::new(program);
    command.current_dir(world.node.root()).arg("--config-file").arg(config_path).arg("run");
    command.arg(format!("https://127.0.0.1:{}/v1/openapi.json", world.node.tls_port()));
    command.arg("--tls-verify").arg(world.node.authority());
    command.args(["--header", &format!("Authorization: Bearer {}", world.operator), "--checks", CHECKS]);
    command.args(["--phases", "examples,coverage,fuzzing", "--max-examples", if long { TRIES_LONG } else { TRIES }]);
    if !long {
        // The same tries each time: a find must not come and go.
        command.args(["--seed", "1"]);
    }
    command.args(["--request-timeout", "20", "--continue-on-failure", "--no-color"]);
    let ran = harness::run(&mut command, b"");
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}
