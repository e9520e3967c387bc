//! Kills a process that writes, again and again, and looks whether everything that it was told is durable is there.
//!
//! The child is this same test binary, told by an environment variable to write instead of to test.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use base::{DatabaseId, Name, TenantId, Timestamp};
use persist::{Database, Store};
use state::{Actor, Entry, Sealed};

const DIR: &str = "PERSIST_KILL_DIR";
const DATABASE: Database = Database { tenant: TenantId(1), id: DatabaseId(1) };
const WRITERS: u64 = 8;
const ROUNDS: u64 = 6;

fn name(text: &str) -> Name {
    text.parse().expect("a test's name")
}

/// Proposes and sets for ever, and prints each thing that was acknowledged.
async fn write_for_ever(dir: &Path) {
    let store = Store::open(dir).expect("nobody else has it");
    let start = store.record.record().index();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (record, databases) = (store.record.clone(), store.databases.clone());
        writers.spawn(async move {
            for number in 0_u64.. {
                let text = format!("{start}-{writer}-{number}");
                let command = state::Command::TenantCreate { name: name(&text), key: Sealed(String::new()) };
                record.propose(Entry { at: Timestamp(0), by: Actor::Box, command }).await.expect("the name is new");
                say(&format!("record {text}"));
                databases.set(DATABASE, &name("b"), &text, text.clone().into()).await.expect("there is room");
                say(&format!("database {text}"));
                databases.increment(DATABASE, &name("b"), "count", 1).await.expect("a number");
                say("count");
            }
        });
    }
    writers.join_all().await;
}

/// One write a line, so that a line that was begun is told by its missing end.
fn say(what: &str) {
    std::io::stdout().lock().write_all(format!("\n{what}.").as_bytes()).expect("the parent reads");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    if let Some(dir) = std::env::var_os(DIR) {
        write_for_ever(Path::new(&dir)).await;
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut record, mut database, mut count) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().expect("this is it"))
            .args(["--exact", "nothing_acknowledged_is_lost_to_kill_9", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this binary runs");
        // A different moment each round, by what was done and not by a clock.
        let enough = 20 + 2_711 * round % 1_500;
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut killed = false;
        for (seen, line) in (0..).zip(output.split(b'\n')) {
            let line = line.expect("a pipe");
            if seen > enough && !killed {
                child.kill().expect("it is ours");
                // What it said until then is still in the pipe, and counts.
                killed = true;
            }
            let Some(said) = line.strip_suffix(b".").and_then(|line| std::str::from_utf8(line).ok()) else { continue };
            match said.split_once(' ') {
                Some(("record", text)) => record.push(text.to_owned()),
                Some(("database", text)) => database.push(text.to_owned()),
                _ => count += u64::from(said == "count"),
            }
        }
        child.wait().expect("it is ours");
        assert!(killed, "the child ended by itself");

        let store = Store::open(dir.path()).expect("a killed process leaves it usable");
        let held = store.record.record();
        for text in &record {
            assert!(held.tenant_named(text).is_some(), "round {round}: tenant {text} of {} is lost", record.len());
        }
        for texts in database.chunks(100) {
            let values = store.databases.get_many(DATABASE, &name("b"), texts.to_vec()).await.expect("it is whole");
            for (text, value) in texts.iter().zip(values) {
                assert_eq!(value.as_deref(), Some(text.as_bytes()), "round {round}: key {text}");
            }
        }
        let counted = store.databases.get(DATABASE, &name("b"), "count").await.expect("it is whole");
        let counted: u64 = counted
            .map_or(0, |text| std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).expect("a number"));
        // Those in flight at each kill may have happened without being told.
        let in_flight = WRITERS * (round + 1);
        assert!(
            (count..=count + in_flight).contains(&counted),
            "round {round}: {counted} counted, {count} acknowledged"
        );
        store.close();
    }
    assert!(record.len() > 100 && database.len() > 100, "too little was written to prove anything");
}
