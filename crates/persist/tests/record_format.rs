//! The stored record, formats 1 and 2, as text that people can review.
//!
//! `fixtures/record-v1.sql` is a record with a snapshot and a log, as the first build made it; `fixtures/record-v2.sql` is
//! the same record as this test's `write` makes it. Every later build must read both. As long as the format is 2, it must
//! also write exactly the latter, but for the random ids of proposals: a change to what is stored shows here first, and is
//! either harmless to older builds (then renew the file by running this test with `UPDATE_EXPECT=1`) or needs a new
//! `state::FORMAT`, a new fixture beside these, and a reader of the old.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use base::{Digest, Domain, Name, ReleaseNo, TenantId, Timestamp, TokenId};
use expect_test::{expect, expect_file};
use persist::Keeper;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use state::{Actor, Ceiling, Certificate, Command, Entry, Grant, Sealed};

const TENANT: TenantId = TenantId(1);

fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

/// One of each command, so that each is in the fixture.
fn commands() -> Vec<Command> {
    let (tenant, app, live, redesign) = (TENANT, name("shop"), name("live"), name("redesign"));
    let manifest = include_str!("fixtures/manifest-v1.toml");
    let manifest = Box::new(state::manifest::parse(manifest, "firm.toml").expect("the first build took it"));
    let token = |id, tenant, grant| Command::TokenCreate {
        id: TokenId(id),
        tenant,
        grant,
        label: "laptop".to_owned(),
        hash: Digest::of(b"secret"),
        expires: Some(Timestamp(2_000_000_000_000)),
        signed: None,
    };
    let push = |stage: &Name, content: &[u8], source: Option<&str>| Command::ReleaseCreate {
        tenant,
        app: app.clone(),
        stage: stage.clone(),
        content: Digest::of(content),
        manifest: manifest.clone(),
        source: source.map(str::to_owned),
    };
    let env = |value: Option<&str>| Command::EnvChange {
        tenant,
        app: app.clone(),
        stage: live.clone(),
        changes: BTreeMap::from([("GREETING".to_owned(), value.map(str::to_owned))]),
    };
    let secret = |stage: &Name| Command::SecretSet {
        tenant,
        app: app.clone(),
        stage: stage.clone(),
        name: "API_KEY".to_owned(),
        value: Sealed("0102".to_owned()),
    };
    let domain: Domain = "shop.example".parse().expect("a domain");
    let other: Domain = "www.shop.example".parse().expect("a domain");
    let certificate = Certificate { chain: "-----BEGIN CERTIFICATE-----".to_owned(), key: Sealed("0304".to_owned()) };
    let claim = |domain: &Domain, certificate| Command::DomainAdd {
        tenant,
        app: app.clone(),
        domain: domain.clone(),
        certificate,
    };
    vec![
        Command::TenantCreate { name: name("acme"), key: Sealed("00ff".to_owned()) },
        token(1, None, Grant::Operate),
        token(2, Some(tenant), Grant::Deploy),
        push(&live, b"one", Some("git 1234567")),
        env(Some("G'day")),
        secret(&live),
        claim(&domain, Some(certificate)),
        push(&redesign, b"two", None),
        secret(&redesign),
        Command::StagePromote {
            tenant,
            app: app.clone(),
            from: redesign.clone(),
            to: live.clone(),
            release: Some(ReleaseNo(3)),
        },
        // Up to here the snapshot, from here the log.
        Command::StageRollback { tenant, app: app.clone(), stage: live.clone(), to: Some(ReleaseNo(2)), running: None },
        Command::StageRollback { tenant, app: app.clone(), stage: live.clone(), to: None, running: None },
        env(None),
        claim(&other, None),
        Command::DomainRemove { tenant, app: app.clone(), domain: other.clone() },
        Command::SecretDelete { tenant, app: app.clone(), stage: redesign.clone(), name: "API_KEY".to_owned() },
        Command::StageDelete { tenant, app: app.clone(), stage: redesign.clone() },
        Command::TokenRevoke { tenant: Some(tenant), id: TokenId(2) },
        Command::TenantCreate { name: name("acme"), key: Sealed(String::new()) },
        push(&name("draft"), b"three", None),
        Command::TenantCreate { name: name("other"), key: Sealed(String::new()) },
        push(&live, b"four", None),
        Command::AppDelete { tenant: TENANT, app: name("nothing") },
        Command::TenantDelete { tenant: TenantId(4) },
        Command::TenantLimit {
            tenant,
            ceiling: Some(Ceiling { rate: "500/s".parse().expect("a rate"), burst: Some(1_000) }),
        },
    ]
}

/// Writes the record into `dir/kept`, and into `dir/left` what a process leaves that is killed at the end.
async fn write(dir: &Path) {
    let (kept, left) = (dir.join("kept"), dir.join("left"));
    for dir in [&kept, &left] {
        std::fs::create_dir(dir).expect("a temporary directory");
    }
    let mut keeper = Keeper::open(&kept).expect("it is new");
    for (number, command) in (0..).zip(commands()) {
        if number == 10 {
            keeper.close();
            keeper = Keeper::open(&kept).expect("it was closed");
        }
        let by = match number {
            0 => Actor::Box,
            _ => Actor::Token { id: TokenId(1), label: "laptop".to_owned() },
        };
        // Some are refused, and are in the log nevertheless.
        let _ = keeper.propose(Entry { at: Timestamp(1_700_000_000_000 + number), by, command }).await;
    }
    for file in ["record.sqlite", "record.sqlite-wal"] {
        std::fs::copy(kept.join(file), left.join(file)).expect("SQLite has both open");
    }
}

/// The text with small numbers for the random ids of proposals, which are pairs of numbers; nothing else in it is one.
fn numbered(text: &str, ids: &mut Vec<String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('[') {
        let (before, from) = rest.split_at(at + 1);
        out.push_str(before);
        let end = from.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(from.len());
        let pair = &from[..end];
        let is_pair = pair.split(',').count() == 2 && pair.split(',').all(|number| !number.is_empty());
        rest = if is_pair && from[end..].starts_with(']') {
            let known = ids.iter().position(|id| id == pair).unwrap_or_else(|| {
                ids.push(pair.to_owned());
                ids.len() - 1
            });
            write!(out, "0,{}", known + 1).expect("a String");
            &from[end..]
        } else {
            from
        };
    }
    out + rest
}

/// A table's row, as it would be with small numbers for ids.
fn normal(table: &str, row: &mut [Cell], ids: &mut Vec<String>) {
    let hashed = match (table, &mut *row) {
        ("log", [Cell::Number(index), Cell::Number(term), Cell::Text(text), _]) => {
            *text = numbered(text, ids);
            format!("{index} {term} {text}")
        }
        ("snapshot", [_, _, Cell::Text(text), _]) => {
            *text = numbered(text, ids);
            text.clone()
        }
        _ => return,
    };
    *row.last_mut().expect("a row of four") = Cell::Text(Digest::of(hashed.as_bytes()).hex());
}

enum Cell {
    Number(i64),
    Text(String),
}

/// The file as SQL that makes it again.
fn dump(file: &Path) -> String {
    let connection = Connection::open(file).expect("it is there");
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).expect("a number");
    let mut sql = format!("PRAGMA application_id = {application};\n");
    let mut schema = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY rowid").expect("SQLite's own");
    let tables = schema.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("SQLite's own");
    let tables: Vec<(String, String)> = tables.collect::<Result<_, _>>().expect("text");
    let mut ids = Vec::new();
    for (table, created) in tables {
        writeln!(sql, "{created};").expect("a String");
        let mut rows = connection.prepare(&format!("SELECT * FROM {table} ORDER BY 1")).expect("it was just listed");
        let columns = rows.column_count();
        let mut rows = rows.query([]).expect("it was just listed");
        while let Some(row) = rows.next().expect("readable") {
            let value = |column| match row.get_ref(column).expect("within the columns") {
                ValueRef::Integer(number) => Cell::Number(number),
                ValueRef::Text(text) => Cell::Text(std::str::from_utf8(text).expect("text").to_owned()),
                other => panic!("the record stores no {other:?}"),
            };
            let mut values: Vec<Cell> = (0..columns).map(value).collect();
            if matches!(&values[..], [Cell::Text(key), ..] if key == "committed") {
                // A note that is written when there is time, and that a lone box doesn't need.
                continue;
            }
            normal(&table, &mut values, &mut ids);
            let value = |cell: Cell| match cell {
                Cell::Number(number) => number.to_string(),
                Cell::Text(text) => format!("'{}'", text.replace('\'', "''")),
            };
            let values: Vec<String> = values.into_iter().map(value).collect();
            writeln!(sql, "INSERT INTO {table} VALUES ({});", values.join(", ")).expect("a String");
        }
    }
    sql
}

#[tokio::test]
async fn this_build_writes_format_2() {
    assert_eq!(state::FORMAT, 2, "add a fixture of the new format, and keep reading the old ones");
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(dir.path()).await;
    expect_file!["fixtures/record-v2.sql"].assert_eq(&dump(&dir.path().join("left/record.sqlite")));
}

/// A file from its SQL.
fn file_of(sql: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let connection = Connection::open(dir.path().join("record.sqlite")).expect("it is new");
    connection.execute_batch(sql).expect("SQL that SQLite wrote");
    dir
}

const FORMAT_1: &str = include_str!("fixtures/record-v1.sql");
const FORMAT_2: &str = include_str!("fixtures/record-v2.sql");

#[test]
fn this_build_reads_format_1_and_format_2_alike() {
    for sql in [FORMAT_1, FORMAT_2] {
        let dir = file_of(sql);
        expect_record(&Keeper::open(dir.path()).expect("a format that was").record());
    }
}

#[tokio::test]
async fn format_1_becomes_format_2_and_goes_on() {
    let dir = file_of(FORMAT_1);
    let file = dir.path().join("record.sqlite");
    let keeper = Keeper::open(dir.path()).expect("the first format");
    let before = keeper.record();
    let command = Command::TenantCreate { name: name("newer"), key: Sealed(String::new()) };
    keeper.propose(Entry { at: Timestamp(1), by: Actor::Box, command }).await.expect("the name is new");
    keeper.close();
    let record = Keeper::open(dir.path()).expect("it was closed").record();
    assert_eq!(record.index(), before.index() + 1);
    let id = record.tenant_named("newer").expect("it was made").id;
    assert!(before.tenants().all(|tenant| tenant.id < id && record.tenant(tenant.id).is_some()));
    let connection = Connection::open(&file).expect("it was closed");
    let format: String = connection.query_row("SELECT value FROM meta", [], |row| row.get(0)).expect("the schema");
    assert_eq!(format, state::FORMAT.to_string());
}

#[test]
fn a_damaged_format_1_is_named_and_left_as_it_is() {
    let dir = file_of(FORMAT_1);
    let file = dir.path().join("record.sqlite");
    let refused = |sql: &str| {
        Connection::open(&file).expect("it is there").execute_batch(sql).expect("a test's SQL");
        let before = std::fs::read(&file).expect("it is there");
        let error = Keeper::open(dir.path()).err().expect("it is damaged");
        assert_eq!(std::fs::read(&file).expect("it is there"), before, "nothing was overwritten");
        base::chain(&error).replace(&dir.path().display().to_string(), "DIR")
    };
    let gap = refused("UPDATE log SET idx = 90 WHERE idx = 20");
    let wrong = refused("UPDATE log SET idx = 20 WHERE idx = 90; UPDATE log SET entry = '{}' WHERE idx = 20");
    expect![[r"
        DIR/record.sqlite is damaged (log entry 20 is missing): it was left as it is; put a copy of it from a backup in its place
        DIR/record.sqlite is damaged (log entry 20 isn't what was written): it was left as it is; put a copy of it from a backup in its place
    "]].assert_eq(&format!("{gap}\n{wrong}\n"));
}

#[test]
fn only_a_founder_takes_over_format_1() {
    struct Nobody;
    impl persist::record::Peers for Nobody {
        fn call(
            &self,
            _: base::BoxId,
            _: bytes::Bytes,
            _: persist::record::Weight,
            _: std::time::Duration,
        ) -> persist::record::Answer {
            Box::pin(std::future::ready(Err(persist::record::PeerError::Unreachable)))
        }

        fn trust(&self, _: base::BoxId) -> persist::record::Trust {
            persist::record::Trust::None
        }
    }
    let dir = file_of(FORMAT_1);
    let open = |start| {
        let group = persist::record::Group { me: base::BoxId([7; 32]), start, peers: std::sync::Arc::new(Nobody) };
        Keeper::open_in_group(dir.path(), group)
    };
    let error = open(persist::record::Start::Join).err().expect("it is a lone box's");
    assert!(matches!(error, persist::record::OpenError::OfALoneBox { .. }), "{error:?}");
    expect_record(&open(persist::record::Start::Found).expect("a founder takes it over").record());
}

fn expect_record(record: &state::Record) {
    let mut said = format!("index {}\n", record.index());
    for token in record.tokens() {
        writeln!(said, "token {} {:?} {:?} {}", token.id, token.tenant, token.grant, token.label).expect("a String");
    }
    for (domain, claim) in record.domains() {
        let certificate = if claim.certificate.is_some() { "with" } else { "without" };
        writeln!(said, "domain {domain} {} {} {certificate} a certificate", claim.tenant, claim.app).expect("a String");
    }
    for tenant in record.tenants() {
        writeln!(said, "tenant {} {} {:?}", tenant.id, tenant.name, tenant.ceiling).expect("a String");
        for app in tenant.apps.values() {
            writeln!(said, "  app {} {}", app.id, app.name).expect("a String");
            for release in app.releases.values() {
                let (no, stage, origin) = (release.no, &release.stage, &release.origin);
                let (content, env) = (release.content.short(), &release.env);
                writeln!(said, "    {no} {stage} {origin:?} {content} {env:?} {:?}", release.source).expect("a String");
            }
            for stage in app.stages.values() {
                let secrets: Vec<&String> = stage.secrets.keys().collect();
                let history: Vec<String> =
                    stage.history.iter().map(|change| format!("{} {:?}", change.release, change.how)).collect();
                writeln!(said, "    {} runs {:?} on database {}", stage.name, stage.running, stage.database)
                    .expect("a String");
                writeln!(said, "      env {:?}, secrets {secrets:?}, history {history:?}", stage.env)
                    .expect("a String");
            }
        }
    }
    expect![[r#"
        index 25
        token 0000000000000001 None Operate laptop
        domain shop.example 1 shop with a certificate
        tenant 1 acme Some(Ceiling { rate: Rate { count: 500, period: 1s }, burst: Some(1000) })
          app 2 shop
            r1 live Push d33fb48ab5ad {} Some("git 1234567")
            r2 live Env(ReleaseNo(1)) d33fb48ab5ad {"GREETING": "G'day"} Some("git 1234567")
            r4 live Promote(ReleaseNo(3)) dc770fff53f5 {"GREETING": "G'day"} None
            r5 draft Push dbec0e689fb6 {} None
            r6 live Push 37392008a949 {} None
            draft runs Some(ReleaseNo(5)) on database 15
              env {}, secrets [], history ["r5 Push"]
            live runs Some(ReleaseNo(6)) on database 3
              env {}, secrets ["API_KEY"], history ["r1 Push", "r2 Env", "r4 Promote", "r2 Rollback", "r1 Rollback", "r6 Push"]
        tenant 16 other None
    "#]].assert_eq(&said);
}
