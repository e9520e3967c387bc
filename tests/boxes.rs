//! Boxes from outside: the real binary as a box, and as its operator's command line. On loopback, by address, without
//! multicast; what crosses a segment is in `tests/lab.rs`.

#![expect(clippy::print_stderr, reason = "a test says what its box said when it fails")]

#[path = "waiting.rs"]
mod waiting;

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use waiting::{eventually_within, free_port};

const FIRM: &str = env!("CARGO_BIN_EXE_firm");
const FACT_TIME_MAX: Duration = Duration::from_secs(40);

#[track_caller]
fn eventually(what: &str, fact: impl FnMut() -> bool) {
    eventually_within(FACT_TIME_MAX, what, fact);
}

/// A box process with a directory of its own, ended by its own id.
struct BoxUnderTest {
    dir: TempDir,
    seal: Option<PathBuf>,
    knock: u16,
    ports: (u16, u16),
    child: Option<Child>,
}

impl BoxUnderTest {
    fn start() -> Self {
        Self::start_with(None)
    }

    fn start_with(seal: Option<PathBuf>) -> Self {
        let dir = tempfile::Builder::new().prefix("firm-box-").tempdir().expect("a folder");
        let mut it = Self { dir, seal, knock: free_port(), ports: (free_port(), free_port()), child: None };
        it.power_on();
        it
    }

    fn power_on(&mut self) {
        let log = |name: &str| {
            let path = self.dir.path().join(name);
            File::options().create(true).append(true).open(path).expect("a file for its words")
        };
        let mut command = Command::new(FIRM);
        command
            .args(["box", "--no-gday", "--listen", "127.0.0.1", "--dir"])
            .arg(self.dir.path().join("disk"))
            .args(["--knock-port", &self.knock.to_string()])
            .args(["--port", &self.ports.0.to_string(), "--http-port", &self.ports.1.to_string()])
            .stdin(Stdio::null())
            .stdout(log("console"))
            .stderr(log("stderr"));
        if let Some(seal) = &self.seal {
            command.arg("--seal").arg(seal);
        }
        self.child = Some(command.spawn().expect("the binary was built with the tests"));
        eventually("the box listens", || std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.knock)).is_ok());
    }

    /// The power goes: no process of the box is left, and nothing was said.
    fn cut(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it is ours");
        }
    }

    fn at(&self) -> String {
        format!("127.0.0.1:{}", self.knock)
    }

    fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).expect("it is written")
    }

    fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
}

impl Drop for BoxUnderTest {
    fn drop(&mut self) {
        self.cut();
        if thread::panicking() {
            let said = fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default();
            eprintln!("---- the console\n{}---- the log\n{said}----", self.console());
        }
    }
}

/// A person with a configuration of their own.
struct Operator {
    home: TempDir,
}

impl Operator {
    fn new() -> Self {
        Self { home: tempfile::Builder::new().prefix("firm-operator-").tempdir().expect("a folder") }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(FIRM)
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.home.path())
            .stdin(Stdio::null())
            .output()
            .expect("the binary was built with the tests")
    }

    /// What it answers with `--json`.
    #[track_caller]
    fn told(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "firm {}: {}", arguments.join(" "), words(&output));
        serde_json::from_slice(&output.stdout).expect("it answers JSON")
    }

    /// How it refuses.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "firm {} was done: {}", arguments.join(" "), words(&output));
        words(&output)
    }

    #[track_caller]
    fn look(&self, at: &BoxUnderTest) -> Value {
        let told = self.told(&["boxes", "--listen", "0s", "--at", &at.at()]);
        assert_eq!(told["silent"], Value::Array(Vec::new()), "{told}");
        told["boxes"][0].clone()
    }

    #[track_caller]
    fn firm(&self, at: &BoxUnderTest) -> Value {
        let seen = self.look(at);
        let (name, words) = (text(&seen["name"]), text(&seen["words"]));
        self.told(&["firm", "solo", &name, "--words", &words, "--listen", "0s", "--at", &at.at()])
    }
}

fn words(output: &Output) -> String {
    [output.stdout.as_slice(), &output.stderr].map(String::from_utf8_lossy).concat()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is text")).to_owned()
}

fn site(folder: &Path, says: &str) {
    fs::create_dir_all(folder).expect("a folder");
    fs::write(folder.join("index.html"), says).expect("a file");
}

#[test]
fn a_box_is_firmed_serves_and_is_reset() {
    let (it, operator) = (BoxUnderTest::start(), Operator::new());
    let seen = operator.look(&it);
    assert_eq!(seen["state"], "blank");
    let (name, words) = (text(&seen["name"]), text(&seen["words"]));
    assert!(it.console().contains(&words), "the console shows other words than {words}");
    let id = fs::read_to_string(it.disk().join("box/id")).expect("it is written");
    assert_eq!(id.trim(), text(&seen["id"]));

    let told = operator.firm(&it);
    assert_eq!((&told["state"], &told["roles"], &told["context"]), (&"firm".into(), &"solo".into(), &"cloud".into()));
    let folder = operator.home.path().join("site");
    site(&folder, "G'day");
    let pushed = operator.told(&["push", &folder.to_string_lossy(), "--app", "hello"]);
    let url = text(&pushed["url"]);
    let host = url.trim_start_matches("https://").split([':', '/']).next().expect("a host").to_owned();
    let served = Command::new("curl")
        .args(["-ksS", "--resolve", &format!("{host}:{}:127.0.0.1", it.ports.0)])
        .arg(format!("https://{host}:{}/", it.ports.0))
        .output()
        .expect("curl is installed");
    assert_eq!(String::from_utf8_lossy(&served.stdout), "G'day", "{}", String::from_utf8_lossy(&served.stderr));
    let seen = operator.look(&it);
    assert_eq!(text(&seen["words"]), words, "the words changed between two commands");
    // Who was called away before the box was firm, or lost the context, says it once more.
    let file = operator.home.path().join(".config/firm/contexts.toml");
    fs::remove_file(&file).expect("it was written");
    assert_eq!(operator.firm(&it)["context"], "cloud");
    assert!(file.exists());
    // Another cloud is another thing.
    let other = ["firm", "solo", &name, "--cloud", "other", "--words", &words, "--listen", "0s", "--at", &it.at()];
    let said = operator.refused(&other);
    assert!(said.contains("reset it first"), "{said}");

    let told = operator.told(&["reset", &name, "--yes", "--listen", "0s", "--at", &it.at()]);
    assert_eq!((&told["state"], &told["context"]), (&"blank".into(), &"cloud".into()));
    assert!(!it.disk().join("node").exists(), "a blank box holds data");
    assert_eq!(operator.look(&it)["id"], seen["id"], "a reset box is the same box");
    // And once more from the start.
    assert_eq!(operator.firm(&it)["state"], "firm");
}

#[test]
fn nothing_is_ordered_before_the_box_is_known() {
    let (it, operator) = (BoxUnderTest::start(), Operator::new());
    let name = text(&operator.look(&it)["name"]);
    let order = |more: &[&str]| {
        let at = it.at();
        operator.refused(&[&["firm", "solo", &name, "--listen", "0s", "--at", &at], more].concat())
    };
    let said = order(&["--words", "abandon ability able about"]);
    assert!(said.contains("somebody stands between"), "{said}");
    let said = order(&[]);
    assert!(said.contains("compared by nobody"), "{said}");
    let said = order(&["--words", "river candle"]);
    assert!(said.contains("proof words are 4 words"), "{said}");
    assert_eq!(operator.look(&it)["state"], "blank");
    let said = operator.refused(&["firm", "solo", "dapper-dodo-x", "--listen", "0s", "--at", &it.at()]);
    assert!(said.contains("no box here is called dapper-dodo-x") && said.contains(&name), "{said}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let told = operator.told(&["boxes", "--listen", "0s", "--at", &nobody]);
    assert_eq!(told["boxes"], Value::Array(Vec::new()));
    assert!(text(&told["silent"][0]["why"]).contains("nobody answers"), "{told}");
}

#[test]
fn a_box_obeys_its_operator_and_no_stranger() {
    let (it, operator, stranger) = (BoxUnderTest::start(), Operator::new(), Operator::new());
    operator.firm(&it);
    let name = text(&stranger.look(&it)["name"]);
    let at = it.at();
    let reset = ["reset", &name, "--yes", "--listen", "0s", "--at", &at];
    let said = stranger.refused(&reset);
    assert!(said.contains("compared by nobody"), "{said}");
    let words = text(&stranger.look(&it)["words"]);
    let said = stranger.refused(&[&reset[..], &["--words", &words]].concat());
    assert!(said.contains("none of cloud cloud's operators'"), "{said}");
    let said = stranger.refused(&[&reset[..], &["--words", &words, "--force"]].concat());
    assert!(said.contains("none of its operators'"), "{said}");
    assert_eq!(stranger.look(&it)["state"], "firm");
}

#[test]
fn a_sealed_box_is_its_operators_from_the_start() {
    let (operator, stranger) = (Operator::new(), Operator::new());
    let seal = operator.home.path().join("seal.json");
    operator.told(&["operator", "seal", "--out", &seal.to_string_lossy()]);
    let it = BoxUnderTest::start_with(Some(seal));
    let seen = stranger.look(&it);
    assert_eq!(seen["sealed"], false);
    assert!(text(&seen["seal_doubt"]).contains("another operator's"), "{seen}");
    let (name, words) = (text(&seen["name"]), text(&seen["words"]));
    // Even with the right words: the box itself refuses.
    let said = stranger.refused(&["firm", "solo", &name, "--words", &words, "--listen", "0s", "--at", &it.at()]);
    assert!(said.contains("takes orders from that key's holder only"), "{said}");
    assert_eq!(operator.look(&it)["sealed"], true);
    // No words, no question, no touch.
    let told = operator.told(&["firm", "solo", &name, "--listen", "0s", "--at", &it.at()]);
    assert_eq!(told["state"], "firm");
}

#[test]
fn a_power_cut_at_any_moment_ends_in_blank_or_firm() {
    let (mut it, operator) = (BoxUnderTest::start(), Operator::new());
    let mut ends = (0, 0);
    for round in 0..24_u64 {
        let seen = operator.look(&it);
        let (name, words, was) = (text(&seen["name"]), text(&seen["words"]), text(&seen["state"]));
        let at = it.at();
        let mut order = Command::new(FIRM);
        order.env_clear().env("HOME", operator.home.path()).stdin(Stdio::null()).stdout(Stdio::null());
        order.stderr(Stdio::null());
        if was == "blank" {
            order.args(["firm", "solo", &name, "--words", &words]);
        } else {
            order.args(["reset", &name, "--yes"]);
        }
        let mut order =
            order.args(["--listen", "0s", "--at", &at, "--timeout", "1s"]).spawn().expect("the binary was built");
        // From before the order comes in to after all is done, in steps that have nothing to do with its own.
        thread::sleep(Duration::from_millis(17 * round));
        it.cut();
        it.power_on();
        let _ = order.kill();
        order.wait().expect("it is ours");
        eventually("the box is blank or firm", || {
            let state = text(&operator.look(&it)["state"]);
            ["blank", "firm"].contains(&state.as_str())
        });
        match text(&operator.look(&it)["state"]).as_str() {
            "blank" => {
                ends.0 += 1;
                assert!(!it.disk().join("node").exists(), "a blank box holds data");
            }
            _ => ends.1 += 1,
        }
    }
    eprintln!("{} ended blank, {} firm", ends.0, ends.1);
    assert!(ends.0 > 0 && ends.1 > 0, "{ends:?}: the cuts all fell on one side");
    // And it still does what it is told.
    if operator.look(&it)["state"] == "firm" {
        let name = text(&operator.look(&it)["name"]);
        operator.told(&["reset", &name, "--yes", "--listen", "0s", "--at", &it.at()]);
    }
    assert_eq!(operator.firm(&it)["state"], "firm");
}

#[test]
fn two_boxes_with_one_key_are_told_apart_and_told_of() {
    let (mut it, operator) = (BoxUnderTest::start(), Operator::new());
    let name = text(&operator.look(&it)["name"]);
    it.cut();
    let mut copy = BoxUnderTest::start();
    copy.cut();
    fs::copy(it.disk().join("box/identity.key"), copy.disk().join("box/identity.key")).expect("copied");
    it.power_on();
    copy.power_on();
    let both = ["--listen", "0s", "--at", &it.at(), "--at", &copy.at()];
    let told = operator.told(&[&["boxes"], &both[..]].concat());
    assert_eq!(told["boxes"].as_array().map(Vec::len), Some(1), "{told}");
    assert_eq!(told["boxes"][0]["twins"].as_array().map(Vec::len), Some(1), "{told}");
    let said = operator.refused(&[&["firm", "solo", &name], &both[..]].concat());
    assert!(said.contains("two boxes have the key"), "{said}");
    // As the words say: a new key, and there are two boxes.
    copy.cut();
    fs::remove_file(copy.disk().join("box/identity.key")).expect("removed");
    copy.power_on();
    let told = operator.told(&[&["boxes"], &both[..]].concat());
    assert_eq!(told["boxes"].as_array().map(Vec::len), Some(2), "{told}");
}
