use std::fmt::Write as _;

use base::Timestamp;
use base::limits::{RELEASES_PER_APP_MAX, STAGE_HISTORY_MAX, STAGES_PER_APP_MAX};
use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::Actor;

fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

fn domain(text: &str) -> Domain {
    text.parse().expect("a test's domain")
}

fn sealed(text: &str) -> Sealed {
    Sealed(text.to_owned())
}

const TENANT: TenantId = TenantId(1);

fn entry(at: u64, command: Command) -> Entry {
    Entry { at: Timestamp(at), by: Actor::Token { id: TokenId(9), label: "ada".to_owned() }, command }
}

fn push(app: &str, stage: &str, content: &str) -> Command {
    let manifest = crate::manifest::parse("[env]\nGREETING = \"Hello\"\n", "firm.toml").expect("a test's manifest");
    Command::ReleaseCreate {
        tenant: TENANT,
        app: name(app),
        stage: name(stage),
        content: Digest::of(content.as_bytes()),
        manifest: Box::new(manifest),
        source: Some(format!("git {content}")),
    }
}

fn env(app: &str, stage: &str, variable: &str, value: Option<&str>) -> Command {
    let changes = BTreeMap::from([(variable.to_owned(), value.map(str::to_owned))]);
    Command::EnvChange { tenant: TENANT, app: name(app), stage: name(stage), changes }
}

fn promote(app: &str, from: &str, to: &str, release: Option<u32>) -> Command {
    Command::StagePromote {
        tenant: TENANT,
        app: name(app),
        from: name(from),
        to: name(to),
        release: release.map(ReleaseNo),
    }
}

fn rollback(app: &str, stage: &str, to: Option<u32>) -> Command {
    Command::StageRollback { tenant: TENANT, app: name(app), stage: name(stage), to: to.map(ReleaseNo), running: None }
}

fn rollback_seen(app: &str, stage: &str, to: u32, running: u32) -> Command {
    let (to, running) = (Some(ReleaseNo(to)), Some(ReleaseNo(running)));
    Command::StageRollback { tenant: TENANT, app: name(app), stage: name(stage), to, running }
}

fn secret(app: &str, stage: &str, variable: &str) -> Command {
    Command::SecretSet {
        tenant: TENANT,
        app: name(app),
        stage: name(stage),
        name: variable.to_owned(),
        value: sealed("00"),
    }
}

fn token(id: u64, tenant: Option<TenantId>, grant: Grant, expires: Option<u64>) -> Command {
    let (label, hash, expires) = ("laptop".to_owned(), Digest::of(b"secret"), expires.map(Timestamp));
    Command::TokenCreate { id: TokenId(id), tenant, grant, label, hash, expires, signed: None }
}

fn claim(app: &str, text: &str) -> Command {
    Command::DomainAdd { tenant: TENANT, app: name(app), domain: domain(text), certificate: None }
}

fn started() -> Record {
    let mut record = Record::default();
    let made = record.apply(&entry(0, Command::TenantCreate { name: name("acme"), key: sealed("00") }));
    assert_eq!(made.map(|applied| applied.tenant), Ok(Some(TENANT)));
    record
}

/// What a command did, in a line, and the stages as they are after it.
fn told(record: &Record, outcome: &Outcome) -> String {
    let mut said = match outcome {
        Ok(Applied { events, tenant, release }) => {
            let release = release.map(|release| format!(" {release}")).unwrap_or_default();
            let tenant = tenant.map(|tenant| format!(" tenant {tenant}")).unwrap_or_default();
            let events: Vec<String> = events.iter().map(event).collect();
            format!("done{release}{tenant} [{}]\n", events.join(", "))
        }
        Err(refusal) => format!("refused: {refusal}\n"),
    };
    for tenant in record.tenants() {
        for app in tenant.apps.values() {
            for stage in app.stages.values() {
                let running = app.running(stage.name.as_str());
                let runs = running.map_or("nothing".to_owned(), |release| {
                    format!("{} = {}", release.no, release.source.as_deref().unwrap_or("?"))
                });
                let seen = running.map(|release| release.effective().env).unwrap_or_default();
                writeln!(
                    said,
                    "  {}/{} runs {runs}, env {seen:?}, next env {:?}, database {}",
                    app.name, stage.name, stage.env, stage.database
                )
                .expect("a String");
            }
        }
    }
    said
}

fn event(event: &Event) -> String {
    match event {
        Event::AppChanged { app, .. } => format!("changed {app}"),
        Event::DatabaseDropped { database, .. } => format!("database {database} dropped"),
        Event::AppDropped { app, .. } => format!("app {app} dropped"),
        Event::TenantDropped { tenant } => format!("tenant {tenant} dropped"),
        Event::ReleaseDropped { content, .. } => format!("release of {} dropped", content.short()),
        Event::DomainsChanged => "domains changed".to_owned(),
        Event::BoxesChanged => "boxes changed".to_owned(),
    }
}

fn check(commands: impl IntoIterator<Item = Command>, expected: &Expect) {
    let mut record = started();
    let mut said = String::new();
    for (number, command) in (1..).zip(commands) {
        let outcome = record.apply(&entry(number, command));
        write!(said, "{number}. {}", told(&record, &outcome)).expect("a String");
    }
    expected.assert_eq(&said);
}

#[test]
fn a_rollback_that_was_overtaken_is_refused() {
    let pushes = [push("shop", "live", "one"), push("shop", "live", "two"), push("shop", "live", "three")];
    let mut record = started();
    for (number, command) in (1..).zip(pushes) {
        record.apply(&entry(number, command)).expect("pushes are taken");
    }
    let overtaken = record.apply(&entry(4, rollback_seen("shop", "live", 1, 2)));
    assert!(
        matches!(overtaken, Err(Refusal::Overtaken { running: ReleaseNo(3), wanted: ReleaseNo(2), .. })),
        "{overtaken:?}"
    );
    assert_eq!(
        record.apply(&entry(5, rollback_seen("shop", "live", 1, 3))).map(|applied| applied.release),
        Ok(Some(ReleaseNo(1)))
    );
}

#[test]
fn a_push_of_what_runs_makes_no_release() {
    let mut record = started();
    let mut at = 0;
    let mut apply = |record: &mut Record, command| {
        at += 1;
        let applied = record.apply(&entry(at, command)).expect("nothing is wrong with it");
        (applied.release.map(|release| release.0), applied.events.len())
    };
    assert_eq!(apply(&mut record, push("shop", "live", "one")), (Some(1), 1));
    assert_eq!(apply(&mut record, push("shop", "live", "one")), (Some(1), 0));
    // Variables and other stages make a difference, and so does what came in between.
    assert_eq!(apply(&mut record, push("shop", "next", "one")), (Some(2), 1));
    assert_eq!(apply(&mut record, env("shop", "live", "A", Some("1"))), (Some(3), 1));
    assert_eq!(apply(&mut record, push("shop", "live", "one")), (Some(3), 0));
    assert_eq!(apply(&mut record, push("shop", "live", "two")), (Some(4), 1));
    assert_eq!(apply(&mut record, push("shop", "live", "one")), (Some(5), 1));
    assert_eq!(apply(&mut record, rollback("shop", "live", Some(4))), (Some(4), 1));
    assert_eq!(apply(&mut record, push("shop", "live", "two")), (Some(4), 0));
    assert_eq!(record.app(TENANT, "shop").map(|app| app.stages[&name("live")].history.len()), Some(5));
}

#[test]
fn a_ceiling_is_set_and_taken_away() {
    let mut record = started();
    let limit = |rate: &str, burst| Ceiling { rate: rate.parse().expect("a rate"), burst };
    let set = |tenant, ceiling| entry(9, Command::TenantLimit { tenant, ceiling });
    for app in ["one", "two"] {
        record.apply(&entry(1, push(app, "live", "x"))).expect("a push is taken");
    }
    let first = limit("5/s", Some(9));
    // All apps get their routes anew, and nothing happens where nothing changes.
    for (ceiling, events) in
        [(Some(first.clone()), 2), (Some(first), 0), (Some(limit("5/s", None)), 2), (None, 2), (None, 0)]
    {
        let applied = record.apply(&set(TENANT, ceiling.clone())).expect("it is taken");
        assert_eq!(applied.events.len(), events, "{ceiling:?}");
        assert_eq!(record.tenant(TENANT).map(|tenant| &tenant.ceiling), Some(&ceiling));
    }
    assert_eq!(record.apply(&set(TENANT, Some(limit("5/s", Some(0))))), Err(Refusal::NoBurst));
    assert_eq!(record.apply(&set(TenantId(99), None)), Err(Refusal::NoTenant(TenantId(99))));
}

#[test]
fn the_life_of_an_app() {
    check(
        [
            push("shop", "live", "one"),
            env("shop", "live", "GREETING", Some("G'day")),
            push("shop", "redesign", "two"),
            promote("shop", "redesign", "live", Some(3)),
            rollback("shop", "live", None),
            rollback("shop", "live", None),
            rollback("shop", "live", None),
            rollback("shop", "live", Some(4)),
            env("shop", "live", "GREETING", None),
            Command::StageDelete { tenant: TENANT, app: name("shop"), stage: name("redesign") },
            Command::AppDelete { tenant: TENANT, app: name("shop") },
            push("shop", "live", "one again"),
        ],
        &expect![[r#"
            1. done r1 [changed shop]
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            2. done r2 [changed shop]
              shop/live runs r2 = git one, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
            3. done r3 [changed shop]
              shop/live runs r2 = git one, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            4. done r4 [changed shop]
              shop/live runs r4 = git two, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            5. done r2 [changed shop]
              shop/live runs r2 = git one, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            6. done r1 [changed shop]
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            7. refused: stage live of app shop has no earlier release to go back to
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            8. done r4 [changed shop]
              shop/live runs r4 = git two, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            9. done r5 [changed shop]
              shop/live runs r5 = git two, env {"GREETING": "Hello"}, next env {}, database 3
              shop/redesign runs r3 = git two, env {"GREETING": "Hello"}, next env {}, database 7
            10. done [changed shop, database 7 dropped, release of dc770fff53f5 dropped]
              shop/live runs r5 = git two, env {"GREETING": "Hello"}, next env {}, database 3
            11. done [changed shop, domains changed, app 2 dropped, database 3 dropped, release of d33fb48ab5ad dropped, release of d33fb48ab5ad dropped, release of dc770fff53f5 dropped, release of dc770fff53f5 dropped]
            12. done r1 [changed shop]
              shop/live runs r1 = git one again, env {"GREETING": "Hello"}, next env {}, database 13
        "#]],
    );
}

#[test]
fn a_stage_may_be_prepared_before_its_first_push() {
    check(
        [
            secret("shop", "live", "API_KEY"),
            env("shop", "live", "GREETING", Some("G'day")),
            rollback("shop", "live", None),
            promote("shop", "live", "other", None),
            push("shop", "live", "one"),
            rollback("shop", "live", None),
        ],
        &expect![[r#"
            1. done [changed shop]
              shop/live runs nothing, env {}, next env {}, database 3
            2. done []
              shop/live runs nothing, env {}, next env {"GREETING": "G'day"}, database 3
            3. refused: stage live of app shop runs nothing yet: push to it first
              shop/live runs nothing, env {}, next env {"GREETING": "G'day"}, database 3
            4. refused: stage live of app shop runs nothing yet: push to it first
              shop/live runs nothing, env {}, next env {"GREETING": "G'day"}, database 3
            5. done r1 [changed shop]
              shop/live runs r1 = git one, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
            6. refused: stage live of app shop has no earlier release to go back to
              shop/live runs r1 = git one, env {"GREETING": "G'day"}, next env {"GREETING": "G'day"}, database 3
        "#]],
    );
}

#[test]
fn each_refusal_names_its_object() {
    let tenant = TenantId(77);
    let in_another = |command: Command| match command {
        Command::ReleaseCreate { app, stage, content, manifest, source, .. } => {
            Command::ReleaseCreate { tenant, app, stage, content, manifest, source }
        }
        other => other,
    };
    let wrong_manifest = match push("shop", "live", "one") {
        Command::ReleaseCreate { tenant, app, stage, content, mut manifest, source } => {
            manifest.env.insert("not a name".to_owned(), String::new());
            Command::ReleaseCreate { tenant, app, stage, content, manifest, source }
        }
        other => other,
    };
    let delete_stage = |stage| Command::StageDelete { tenant: TENANT, app: name("shop"), stage: name(stage) };
    let long = "a".repeat(40);
    check(
        [
            Command::TenantCreate { name: name("acme"), key: sealed("") },
            Command::TenantDelete { tenant },
            in_another(push("shop", "live", "one")),
            wrong_manifest,
            push(&long, &long, "one"),
            promote("shop", "live", "other", None),
            push("shop", "live", "one"),
            promote("shop", "other", "live", None),
            promote("shop", "live", "live", None),
            promote("shop", "live", "other", Some(7)),
            rollback("shop", "other", None),
            rollback("shop", "live", None),
            rollback("shop", "live", Some(1)),
            rollback("shop", "live", Some(9)),
            delete_stage("live"),
            delete_stage("other"),
            env("shop", "live", "1X", Some("")),
            env("shop", "live", "X", Some("\0")),
            Command::SecretDelete {
                tenant: TENANT,
                app: name("shop"),
                stage: name("live"),
                name: "API_KEY".to_owned(),
            },
            Command::DomainRemove { tenant: TENANT, app: name("shop"), domain: domain("shop.example") },
            Command::AppDelete { tenant: TENANT, app: name("other") },
            token(1, None, Grant::Own, None),
            token(1, Some(TENANT), Grant::Operate, None),
            token(1, Some(tenant), Grant::Own, None),
            Command::TokenRevoke { tenant: None, id: TokenId(1) },
        ],
        &expect![[r#"
            1. refused: there is a tenant acme already
            2. refused: there is no tenant with id 77
            3. refused: there is no tenant with id 77
            4. refused: the manifest has a fault: env.not a name: `not a name` can't name a variable (use letters, digits and `_`, with no digit in front)
            5. refused: stage aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa and app aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa are together too long for a host name: shorten the stage's name
            6. refused: there is no app shop
            7. done r1 [changed shop]
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            8. refused: app shop has no stage other
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            9. refused: a stage can't be promoted to itself
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            10. refused: stage live of app shop runs r1 by now, not r7
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            11. refused: app shop has no stage other
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            12. refused: stage live of app shop has no earlier release to go back to
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            13. refused: stage live of app shop already runs r1
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            14. refused: app shop has no release r9 on stage live
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            15. refused: stage live is the app itself: delete the app instead
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            16. refused: app shop has no stage other
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            17. refused: `1X` can't name a variable
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            18. refused: the value of X is longer than 32768 bytes, or has a NUL
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            19. refused: stage live of app shop has no secret API_KEY
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            20. refused: app shop has no domain shop.example
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            21. refused: there is no app other
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            22. refused: an operator's token belongs to no tenant, and every other token to one
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            23. refused: an operator's token belongs to no tenant, and every other token to one
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            24. refused: there is no tenant with id 77
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
            25. refused: there is no token 0000000000000001
              shop/live runs r1 = git one, env {"GREETING": "Hello"}, next env {}, database 3
        "#]],
    );
}

#[test]
fn the_last_lasting_operator_stays() {
    let mut record = started();
    let revoke = |id| Command::TokenRevoke { tenant: None, id: TokenId(id) };
    for command in [
        token(1, None, Grant::Operate, None),
        token(2, None, Grant::Operate, Some(5)),
        token(3, None, Grant::Operate, None),
    ] {
        record.apply(&entry(1, command)).expect("the ids are new");
    }
    record.apply(&entry(1, revoke(1))).expect("3 stays");
    assert_eq!(record.apply(&entry(1, revoke(3))), Err(Refusal::LastOperator(TokenId(3))));
    record.apply(&entry(1, revoke(2))).expect("it expires anyway");
    assert_eq!(record.tokens().count(), 1);
}

#[test]
fn a_tenants_token_is_not_another_tenants() {
    let mut record = started();
    record.apply(&entry(1, token(1, Some(TENANT), Grant::Own, None))).expect("the id is new");
    for tenant in [None, Some(TenantId(2))] {
        let revoked = record.apply(&entry(2, Command::TokenRevoke { tenant, id: TokenId(1) }));
        assert_eq!(revoked, Err(Refusal::NoToken(TokenId(1))));
    }
    assert_eq!(
        record.apply(&entry(2, token(1, Some(TENANT), Grant::Visit, None))),
        Err(Refusal::TokenExists(TokenId(1)))
    );
}

#[test]
fn a_domain_belongs_to_one_app_until_that_lets_go() {
    let mut record = started();
    for command in [push("shop", "live", "one"), push("blog", "live", "two"), claim("shop", "shop.example")] {
        record.apply(&entry(1, command)).expect("nothing is in the way");
    }
    record.apply(&entry(2, claim("shop", "shop.example"))).expect("it may renew its certificate");
    assert_eq!(
        record.apply(&entry(2, claim("blog", "shop.example"))),
        Err(Refusal::DomainTaken(domain("shop.example")))
    );
    record.apply(&entry(3, Command::AppDelete { tenant: TENANT, app: name("shop") })).expect("it is there");
    record.apply(&entry(4, claim("blog", "shop.example"))).expect("it is free again");
    record.apply(&entry(5, Command::TenantDelete { tenant: TENANT })).expect("it is there");
    assert_eq!((record.domains().count(), record.tenants().count()), (0, 0));
}

#[test]
fn what_is_remembered_is_bounded_and_what_runs_is_never_forgotten() {
    let mut record = started();
    record.apply(&entry(1, push("shop", "old", "the oldest"))).expect("there is room");
    let mut dropped = 0;
    for number in 0..2 * RELEASES_PER_APP_MAX {
        let applied = record.apply(&entry(2, push("shop", "live", &number.to_string()))).expect("there is room");
        dropped += applied.events.iter().filter(|event| matches!(event, Event::ReleaseDropped { .. })).count();
    }
    let app = record.app(TENANT, "shop").expect("it was pushed");
    assert_eq!((app.releases.len(), dropped), (RELEASES_PER_APP_MAX, RELEASES_PER_APP_MAX + 1));
    assert_eq!(app.running("old").map(|release| release.no), Some(ReleaseNo(1)));
    assert_eq!(app.stages[&name("live")].history.len(), STAGE_HISTORY_MAX);
    for number in 2..STAGES_PER_APP_MAX {
        record.apply(&entry(3, push("shop", &format!("s{number}"), "x"))).expect("there is room");
    }
    let full = record.apply(&entry(4, push("shop", "one-more", "x")));
    assert_eq!(full, Err(Refusal::Full { what: "stages of an app", max: STAGES_PER_APP_MAX }));
}

#[test]
fn people_s_words_are_kept_as_long_as_a_ledger_shows_them() {
    let mut record = started();
    let Command::TokenCreate { id, tenant, grant, hash, expires, .. } = token(1, Some(TENANT), Grant::Read, None)
    else {
        unreachable!("it makes one")
    };
    let label = "é".repeat(LABEL_TEXT_BYTES_MAX);
    record
        .apply(&entry(1, Command::TokenCreate { id, tenant, grant, label, hash, expires, signed: None }))
        .expect("the id is new");
    let kept = &record.token(id).expect("just made").label;
    assert_eq!(kept.len(), LABEL_TEXT_BYTES_MAX);
}

/// Few names and numbers, so that commands meet.
fn any_command() -> impl Strategy<Value = Command> {
    let tenant = || (1..6_u64).prop_map(TenantId);
    let label = |choices: &'static [&'static str]| proptest::sample::select(choices).prop_map(name);
    let app = move || label(&["shop", "blog", "a-name-of-forty-bytes-which-is-the-most"]);
    let stage = move || label(&["live", "redesign", "a-stage-of-thirty-bytes-or-more"]);
    let no = || (1..9_u32).prop_map(ReleaseNo);
    let token = || (1..4_u64).prop_map(TokenId);
    let host = || proptest::sample::select(&["shop.example", "blog.example"][..]).prop_map(domain);
    let variable = || "(A|B|1|)[A-Z]?";
    let grant = proptest::sample::select(&[Grant::Visit, Grant::Read, Grant::Deploy, Grant::Own, Grant::Operate][..]);
    let manifest = proptest::sample::select(
        &["", "[env]\nA = \"a\"\n", "[static.site]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n"][..],
    )
    .prop_map(|text| Box::new(toml::from_str::<Manifest>(text).expect("a test's manifest")));
    prop_oneof![
        2 => (label(&["acme", "other"]), "[0-9a-f]{0,4}").prop_map(|(name, key)| Command::TenantCreate { name, key: Sealed(key) }),
        1 => tenant().prop_map(|tenant| Command::TenantDelete { tenant }),
        2 => (token(), proptest::option::of(tenant()), grant, ".{0,9}", proptest::option::of(any::<u64>()))
            .prop_map(|(id, tenant, grant, label, expires)| Command::TokenCreate {
                id, tenant, grant, label, hash: Digest::of(b""), expires: expires.map(Timestamp),
                signed: None,
            }),
        1 => (proptest::option::of(tenant()), token()).prop_map(|(tenant, id)| Command::TokenRevoke { tenant, id }),
        6 => (tenant(), app(), stage(), "[a-c]", manifest, proptest::option::of(".{0,300}"))
            .prop_map(|(tenant, app, stage, content, manifest, source)| Command::ReleaseCreate {
                tenant, app, stage, content: Digest::of(content.as_bytes()), manifest, source,
            }),
        3 => (tenant(), app(), stage(), stage(), proptest::option::of(no()))
            .prop_map(|(tenant, app, from, to, release)| Command::StagePromote { tenant, app, from, to, release }),
        3 => (tenant(), app(), stage(), proptest::option::of(no()))
            .prop_map(|(tenant, app, stage, to)| Command::StageRollback { tenant, app, stage, to, running: None }),
        1 => (tenant(), app(), stage()).prop_map(|(tenant, app, stage)| Command::StageDelete { tenant, app, stage }),
        2 => (tenant(), app(), stage(), proptest::collection::btree_map(variable(), proptest::option::of(".{0,9}"), 0..3))
            .prop_map(|(tenant, app, stage, changes)| Command::EnvChange { tenant, app, stage, changes }),
        1 => (tenant(), app(), stage(), variable()).prop_map(|(tenant, app, stage, name)| Command::SecretSet {
            tenant, app, stage, name, value: Sealed(String::new()),
        }),
        1 => (tenant(), app(), stage(), variable())
            .prop_map(|(tenant, app, stage, name)| Command::SecretDelete { tenant, app, stage, name }),
        1 => (tenant(), app(), host(), any::<bool>()).prop_map(|(tenant, app, domain, own)| Command::DomainAdd {
            tenant, app, domain, certificate: own.then(|| Certificate { chain: "PEM".to_owned(), key: Sealed(String::new()) }),
        }),
        1 => (tenant(), app(), host()).prop_map(|(tenant, app, domain)| Command::DomainRemove { tenant, app, domain }),
        1 => (tenant(), app()).prop_map(|(tenant, app)| Command::AppDelete { tenant, app }),
    ]
}

/// What every record must hold, whatever was asked of it.
fn sound(record: &Record) -> Result<(), TestCaseError> {
    let mut databases = Vec::new();
    for tenant in record.tenants() {
        prop_assert!(tenant.id.0 < record.next_id);
        for app in tenant.apps.values() {
            prop_assert!(app.id.0 < record.next_id && app.releases.len() <= RELEASES_PER_APP_MAX);
            for release in app.releases.values() {
                prop_assert!(release.no.0 < app.next_release);
            }
            for stage in app.stages.values() {
                databases.push(stage.database);
                prop_assert!(stage.database.0 < record.next_id && stage.history.len() <= STAGE_HISTORY_MAX);
                let Some(running) = stage.running else { continue };
                let release = app.releases.get(&running);
                prop_assert!(release.is_some_and(|release| release.stage == stage.name), "{running} on {}", stage.name);
                prop_assert_eq!(stage.history.back().map(|change| change.release), Some(running));
                prop_assert!(app.name.as_str().len() + stage.name.as_str().len() + 2 <= LABEL_BYTES_MAX);
            }
        }
    }
    let count = databases.len();
    databases.sort_unstable();
    databases.dedup();
    prop_assert_eq!(databases.len(), count, "no two stages share a database");
    for token in record.tokens() {
        prop_assert!(token.tenant.is_none_or(|tenant| record.tenant(tenant).is_some()));
        prop_assert_eq!(token.tenant.is_none(), token.grant == Grant::Operate);
    }
    for (domain, claim) in record.domains() {
        prop_assert!(record.app(claim.tenant, claim.app.as_str()).is_some(), "{domain} belongs to nobody");
    }
    Ok(())
}

fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    let json = serde_json::to_string(value).expect("plain data");
    serde_json::from_str(&json).expect("it was just written")
}

proptest! {
    #[test]
    fn any_commands_leave_the_record_sound(commands in proptest::collection::vec(any_command(), 0..60)) {
        let mut record = Record::default();
        // A box that stored every command and every record as JSON comes to the same.
        let mut stored = Record::default();
        for (number, command) in (0..).zip(commands) {
            let entry = entry(number, command);
            let read_back = through_json(&entry);
            prop_assert_eq!(&read_back, &entry);
            let before = record.clone();
            let outcome = record.apply(&entry);
            prop_assert_eq!(record.index(), before.index() + 1);
            if outcome.is_err() {
                let unchanged = Record { index: record.index, ..before };
                prop_assert_eq!(&record, &unchanged, "a refusal leaves no trace");
            }
            sound(&record)?;
            prop_assert_eq!(stored.apply(&read_back), outcome);
            stored = through_json(&stored);
            prop_assert_eq!(&stored, &record);
        }
    }

    /// Rolling back to a release brings back its content and variables, whatever happened since.
    #[test]
    fn a_rollback_restores_everything_but_secrets(
        before in proptest::option::of("[a-z]{1,5}"),
        since in proptest::collection::vec(prop_oneof![
            Just(push("shop", "live", "new")),
            "[a-z]{0,5}".prop_map(|value| env("shop", "live", "GREETING", Some(&value))),
            Just(env("shop", "live", "GREETING", None)),
            Just(secret("shop", "live", "KEY")),
            Just(rollback("shop", "live", None)),
        ], 0..20),
    ) {
        let mut record = started();
        record.apply(&entry(1, push("shop", "live", "old"))).expect("there is room");
        record.apply(&entry(1, env("shop", "live", "GREETING", before.as_deref()))).expect("there is room");
        let wanted = record.app(TENANT, "shop").and_then(|app| app.running("live")).expect("it was pushed").clone();
        for (number, command) in (2..).zip(since) {
            let _ = record.apply(&entry(number, command));
        }
        let secrets = record.app(TENANT, "shop").expect("it was pushed").stages[&name("live")].secrets.clone();
        match record.apply(&entry(99, rollback("shop", "live", Some(wanted.no.0)))) {
            Ok(_) | Err(Refusal::RunsAlready { .. }) => {}
            Err(refusal) => return Err(TestCaseError::fail(refusal.to_string())),
        }
        let app = record.app(TENANT, "shop").expect("it was pushed");
        prop_assert_eq!(app.running("live"), Some(&wanted));
        prop_assert_eq!(&app.stages[&name("live")].env, &wanted.env, "the next push starts from here");
        prop_assert_eq!(&app.stages[&name("live")].secrets, &secrets);
    }
}
