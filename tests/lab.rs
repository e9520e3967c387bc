//! Drives `firm lab` from outside: namespaces, cables and processes are looked at with the system's own tools.
//!
//! Most boxes are a stand-in, `tests/lab/box.py`: what is tested here is the lab around them. Each test has a lab of its
//! own, so that they run side by side. Network namespaces are needed: with root, or without where users may make them;
//! where neither is so, each test fails with what `firm lab up` says.

#![expect(clippy::print_stderr, reason = "a test says what its lab looked like when it fails")]

#[path = "waiting.rs"]
mod waiting;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use waiting::eventually_within;

const FIRM: &str = env!("CARGO_BIN_EXE_firm");
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/lab");
/// What a fact may take to become true.
const FACT_TIME_MAX: Duration = Duration::from_secs(20);
/// How long nothing must come through before that is believed. What isn't cut takes a millisecond.
const SILENCE: &str = "0.4";

#[track_caller]
fn eventually(what: &str, fact: impl FnMut() -> bool) {
    eventually_within(FACT_TIME_MAX, what, fact);
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn ran(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().expect("the program is there");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

fn script(name: &str) -> PathBuf {
    Path::new(HERE).join(name).canonicalize().expect("it lies beside the tests")
}

// ---- a lab ----

/// A lab in a folder of its own, which is gone when it is dropped.
struct Lab {
    root: TempDir,
    /// Every namespace, by its box.
    namespaces: Vec<String>,
    keeper: Option<Child>,
}

impl Lab {
    fn folder() -> Self {
        let root = tempfile::Builder::new().prefix("firm-lab-").tempdir().expect("a folder for the lab");
        Self { root, namespaces: Vec::new(), keeper: None }
    }

    /// One that is up and detached.
    #[track_caller]
    fn up(args: &[&str]) -> Self {
        let mut lab = Self::folder();
        lab.bring_up(args);
        lab
    }

    #[track_caller]
    fn bring_up(&mut self, args: &[&str]) -> Value {
        let status = self.json(&[&["up", "--detach", "--program", arg(&script("box.py"))], args].concat());
        self.namespaces = boxes(&status).map(|one| text(&one["namespace"]).to_owned()).collect();
        status
    }

    /// One whose keeper is a child of the test.
    #[track_caller]
    fn in_foreground(&mut self, args: &[&str]) -> Value {
        let mut command = self.command();
        command.args(["up", "--json", "--program", arg(&script("box.py"))]).args(args);
        let stderr = fs::File::create(self.root.path().join("stderr")).expect("a file for its words");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("the binary was built with the tests");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it can be read");
        self.keeper = Some(child);
        let said = self.said();
        let status: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}{error}: {said}"));
        self.namespaces = boxes(&status).map(|one| text(&one["namespace"]).to_owned()).collect();
        status
    }

    /// What a keeper in the foreground said.
    fn said(&self) -> String {
        fs::read_to_string(self.root.path().join("stderr")).unwrap_or_default()
    }

    #[track_caller]
    fn keeper_ends(&mut self, signal: Signal) -> Option<i32> {
        let mut child = self.keeper.take().expect("it is in the foreground");
        kill_process(Pid::from_child(&child), signal).expect("it runs");
        let mut status = None;
        eventually("the keeper has ended", || {
            status = child.try_wait().expect("it is a child of this process");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("lab")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(FIRM);
        command.current_dir(self.root.path()).env("NO_COLOR", "1").env("FIRM_LAB_DIR", self.dir()).arg("lab");
        command.env("XDG_CONFIG_HOME", self.root.path()).env("XDG_DATA_HOME", self.root.path());
        command
    }

    fn firm(&self, args: &[&str]) -> Ran {
        ran(self.command().args(args))
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        let all = [&["--json"], args].concat();
        let Ran { code, stdout, stderr } = self.firm(&all);
        assert_eq!(code, 0, "firm lab {args:?}: {stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("firm lab {args:?} said {stdout}: {error}"))
    }

    /// What it says when it refuses.
    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let Ran { code, stdout, stderr } = self.firm(args);
        assert!(code > 0, "firm lab {args:?} wasn't refused: {stdout}{stderr}");
        stderr
    }

    fn client(&self, at: &str, args: &[&str]) -> Ran {
        let client = script("client.py");
        self.firm(&[&["exec", at, "--", "python3", arg(&client)], args].concat())
    }

    /// Can it connect, and how many milliseconds did the slowest of so many round trips take?
    fn round_trip(&self, at: &str, to: &str, seconds: &str, count: u32) -> Option<f64> {
        let Ran { code, stdout, .. } = self.client(at, &["connect", to, seconds, &count.to_string()]);
        (code == 0).then(|| stdout.trim().parse().expect("a number of milliseconds"))
    }

    #[track_caller]
    fn reaches(&self, at: &str, to: &str) {
        let Ran { code, stderr, .. } = self.client(at, &["connect", to, "10", "2"]);
        assert_eq!(code, 0, "{at} doesn't reach {to}: {stderr}");
    }

    #[track_caller]
    fn misses(&self, at: &str, to: &str) {
        assert!(self.round_trip(at, to, SILENCE, 1).is_none(), "{at} reaches {to}");
    }

    /// Says a word on the segment.
    #[track_caller]
    fn says(&self, at: &str, word: &str) {
        let Ran { code, stderr, .. } = self.client(at, &["say", word]);
        assert_eq!(code, 0, "{at} can't say {word}: {stderr}");
    }

    fn heard(&self, number: u8, word: &str) -> usize {
        let heard = fs::read_to_string(self.dir().join(format!("b{number}/heard"))).unwrap_or_default();
        heard.lines().filter(|line| line.starts_with(&format!("{word} "))).count()
    }

    #[track_caller]
    fn hears(&self, number: u8, word: &str) {
        eventually(&format!("b{number} hears {word} by IPv4 and IPv6"), || self.heard(number, word) == 2);
    }

    /// An address of a box, `v4` or `v6`.
    fn address(&self, number: usize, family: &str) -> String {
        let status = self.json(&["status"]);
        text(&boxes(&status).nth(number - 1).expect("there is such a box")[family]).to_owned()
    }

    /// What the names of all that it makes hold.
    fn id(&self) -> String {
        firm::lab::files::Folder::open(&self.dir()).expect("the lab's folder stays").id()
    }

    /// What of this lab is in the machine: namespaces, links, processes.
    fn left(&self) -> Vec<String> {
        let id = self.id();
        let netns = ran(Command::new("ip").args(["netns", "list"])).stdout;
        let links = ran(Command::new("ip").args(["-oneline", "link"])).stdout;
        let mut left: Vec<String> =
            netns.lines().chain(links.lines()).filter(|line| line.contains(&id)).map(str::to_owned).collect();
        for entry in fs::read_dir("/proc").expect("there is one").flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(arg(self.root.path())) {
                left.push(line);
            }
        }
        left
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        let mut left = Vec::new();
        let deadline = Instant::now() + FACT_TIME_MAX;
        while Instant::now() < deadline {
            left = self.left();
            if left.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("the lab left {left:#?}");
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir()).expect("the lab's folder stays").flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        files.sort();
        files
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() && !self.namespaces.is_empty() {
            eprintln!("---- the lab ----\n{}{}", self.firm(&["status"]).stdout, self.said());
            for number in 1..=self.namespaces.len() {
                let log = fs::read_to_string(self.dir().join(format!("b{number}.log"))).unwrap_or_default();
                eprintln!("---- b{number} ----\n{log}");
            }
        }
        // It may be down already.
        let _ = self.firm(&["down"]);
        if let Some(mut child) = self.keeper.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn boxes(status: &Value) -> impl Iterator<Item = &Value> {
    status["boxes"].as_array().expect("an array of boxes").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is a text"))
}

fn arg(path: &Path) -> &str {
    path.to_str().expect("paths of ours are UTF-8")
}

fn pid(status: &Value, number: usize) -> Option<u64> {
    boxes(status).nth(number - 1).expect("there is such a box")["pid"].as_u64()
}

fn runs(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

// ---- up and down ----

#[test]
fn a_lab_comes_up_and_leaves_nothing() {
    let mut lab = Lab::folder();
    let status = lab.bring_up(&["--boxes", "3", "--", "--port", "8443"]);
    assert_eq!(boxes(&status).count(), 3);
    let pids: Vec<u64> = (1..=3).map(|number| pid(&status, number).expect("it runs")).collect();
    assert!(pids.iter().all(|pid| runs(*pid)));
    assert!(lab.left().len() >= 5, "a namespace a box, the switch and the router: {:?}", lab.left());
    for one in boxes(&status) {
        let [adjective, animal] = text(&one["name"]).split('-').collect::<Vec<_>>()[..] else {
            panic!("{one} has a name of two words");
        };
        assert!(!adjective.is_empty() && !animal.is_empty());
    }
    let log = lab.firm(&["log", "b2"]).stdout;
    let disk = lab.dir().canonicalize().expect("it is there").join("b2");
    assert_eq!(log, format!("called with box --dir {} --port 8443\n", arg(&disk)));
    assert_eq!(lab.firm(&["log", "b2", "--console"]).stdout, "G'day\n");
    // By its name as well.
    let name = text(&boxes(&status).nth(1).expect("there are three")["name"]).to_owned();
    assert_eq!(lab.firm(&["log", &name]).stdout, log);

    let shown = lab.firm(&["status"]).stdout;
    assert!(shown.contains(&name) && shown.contains("running"), "{shown}");
    let down = lab.firm(&["down"]);
    assert_eq!((down.code, down.stdout.as_str()), (0, "✓ the lab is down: its 3 boxes with their disks\n"));
    assert!(!pids.iter().any(|pid| runs(*pid)));
    lab.nothing_is_left();
    assert!(lab.files().is_empty(), "{:?}", lab.files());
    assert!(lab.refused(&["down"]).contains("there is no lab in"));
}

#[test]
fn a_signal_ends_a_lab_in_order() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut lab = Lab::folder();
        lab.in_foreground(&["--boxes", "2"]);
        assert_eq!(lab.keeper_ends(signal), Some(0), "{}", lab.said());
        lab.nothing_is_left();
        assert!(lab.files().is_empty(), "{:?}", lab.files());
    }
}

#[test]
fn boxes_die_with_their_keeper_and_the_rest_is_taken_away_later() {
    let mut lab = Lab::folder();
    let status = lab.in_foreground(&["--boxes", "2"]);
    lab.json(&["cut", "b1", "b2"]);
    assert_eq!(lab.keeper_ends(Signal::KILL), None);
    eventually("the boxes are dead", || (1..=2).all(|number| !runs(pid(&status, number).expect("it ran"))));
    let said = lab.refused(&["status"]);
    assert!(said.contains("its keeper is gone") && said.contains("firm lab down"), "{said}");
    assert!(!lab.left().is_empty(), "its namespaces are there");
    lab.json(&["down"]);
    lab.nothing_is_left();

    // Or another lab in the same folder does it.
    lab.in_foreground(&["--boxes", "2"]);
    lab.keeper_ends(Signal::KILL);
    let status = lab.in_foreground(&["--boxes", "1"]);
    assert!(lab.said().contains("when it crashed"), "{}", lab.said());
    assert_eq!((boxes(&status).count(), status["cuts"].as_array().map(Vec::len)), (1, Some(0)));
    assert_eq!(lab.left().iter().filter(|line| line.contains("-b2")).count(), 0);
    assert_eq!(lab.keeper_ends(Signal::TERM), Some(0));
    lab.nothing_is_left();
}

#[test]
fn a_process_of_others_is_never_killed() {
    let mut lab = Lab::folder();
    lab.in_foreground(&["--boxes", "1"]);
    lab.keeper_ends(Signal::KILL);
    // As if the box's number had been given to another process since.
    let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat is there");
    let path = lab.dir().join("lab.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("it is JSON");
    state["boxes"]["1"]["process"]["pid"] = other.id().into();
    state["keeper"]["pid"] = other.id().into();
    fs::write(&path, state.to_string()).expect("it can be written");
    lab.json(&["down"]);
    assert!(other.try_wait().expect("it is a child of this process").is_none(), "it was none of the lab's");
    other.kill().expect("it runs");
    other.wait().expect("it is a child of this process");
}

#[test]
fn a_second_lab_in_the_folder_is_refused_and_one_beside_it_not() {
    let lab = Lab::up(&["--boxes", "1"]);
    for args in [&["up"][..], &["up", "--detach"]] {
        let said = lab.refused(args);
        assert!(said.contains("a lab is up in") && said.contains("firm lab down"), "{said}");
    }
    assert!(lab.json(&["status"])["boxes"][0]["pid"].is_u64(), "the first one is as it was");
    let other = Lab::up(&["--boxes", "1"]);
    assert_ne!(lab.address(1, "v4"), other.address(1, "v4"), "each has a net of its own");
    other.reaches("host", &other.address(1, "v4"));
    lab.reaches("host", &lab.address(1, "v4"));
    lab.misses("b1", &other.address(1, "v4"));
}

#[test]
fn a_folder_of_others_is_refused() {
    let lab = Lab::folder();
    fs::create_dir(lab.dir()).expect("it can be made");
    fs::write(lab.dir().join("thesis"), "mine").expect("it can be written");
    assert!(lab.refused(&["up"]).contains("holds other things"));
    assert_eq!(fs::read_to_string(lab.dir().join("thesis")).expect("it is there"), "mine");
}

#[test]
fn disks_are_kept_where_that_is_asked() {
    let mut lab = Lab::folder();
    let before = lab.bring_up(&["--boxes", "2", "--segments", "2"]);
    lab.json(&["cut", "b1", "b2"]);
    lab.json(&["down", "--keep"]);
    lab.nothing_is_left();
    assert_eq!(fs::read_to_string(lab.dir().join("b1/ended")).expect("it ended in order"), "in order\n");
    let said = lab.refused(&["up"]);
    assert!(said.contains("are kept in"), "{said}");
    assert!(lab.firm(&["log", "b1"]).stdout.contains("called with"), "the logs are there");
    let after = lab.bring_up(&["--keep"]);
    let told =
        |status: &Value| boxes(status).map(|one| (one["id"].clone(), one["segment"].clone())).collect::<Vec<_>>();
    assert_eq!(told(&before), told(&after));
    assert_eq!(after["cuts"].as_array().map(Vec::len), Some(0));
    lab.json(&["down", "--keep"]);
    lab.json(&["down"]);
    assert!(lab.files().is_empty(), "{:?}", lab.files());
}

#[test]
fn a_box_that_doesn_t_start_is_told_and_leaves_nothing() {
    let lab = Lab::folder();
    let program = lab.root.path().join("broken");
    fs::write(&program, "#!/bin/sh\necho no disk today >&2\nexit 7\n").expect("it can be written");
    ran(Command::new("chmod").args(["+x", arg(&program)]));
    let said = lab.refused(&["up", "--detach", "--program", arg(&program)]);
    assert!(said.contains("exit code 7") && said.contains("no disk today"), "{said}");
    lab.nothing_is_left();
    assert!(lab.files().is_empty(), "{:?}", lab.files());
}

// ---- boxes ----

#[test]
fn a_killed_box_starts_again_with_its_disk() {
    let lab = Lab::up(&["--boxes", "2"]);
    let before = lab.json(&["status"]);
    let after = lab.json(&["kill", "b1"]);
    assert!(!runs(pid(&before, 1).expect("it ran")));
    assert_eq!((pid(&after, 1), text(&after["boxes"][0]["ended"])), (None, "killed"));
    assert!(pid(&after, 2).is_some());
    assert!(!lab.dir().join("b1/ended").exists(), "its power was cut");
    lab.misses("b2", &lab.address(1, "v4"));
    assert!(lab.refused(&["kill", "b1"]).contains("b1 doesn't run"));
    let after = lab.json(&["start", "b1"]);
    assert!(runs(pid(&after, 1).expect("it runs")));
    assert_eq!(after["boxes"][0]["id"], before["boxes"][0]["id"], "it is the same box");
    lab.reaches("b2", &lab.address(1, "v4"));
    assert!(lab.refused(&["start", "b1"]).contains("b1 runs already"));
    assert!(lab.refused(&["kill", "b3"]).contains("there is no `b3` in this lab"));
}

#[test]
fn a_box_that_ends_by_itself_is_told() {
    let mut lab = Lab::folder();
    lab.in_foreground(&["--boxes", "2"]);
    let address = lab.address(1, "v4");
    assert_eq!(lab.client("b2", &["end", &address]).code, 0);
    eventually("the status shows it", || lab.json(&["status"])["boxes"][0]["ended"] == "exit code 3");
    assert!(lab.said().contains("b1 ended by itself: exit code 3"), "{}", lab.said());
    assert!(lab.firm(&["log", "b1"]).stdout.ends_with("told to end\n"));
    lab.json(&["start", "b1"]);
    lab.reaches("b2", &address);
}

#[test]
fn boxes_are_added_and_cloned() {
    let lab = Lab::up(&["--boxes", "1", "--segments", "2"]);
    assert_eq!(boxes(&lab.json(&["add", "--segment", "b"])).count(), 2);
    lab.reaches("b1", &lab.address(2, "v4"));
    let status = lab.json(&["clone", "b1"]);
    let ids: Vec<_> = boxes(&status).map(|one| &one["id"]).collect();
    assert!(ids[0].is_string() && ids[0] == ids[2] && ids[0] != ids[1], "{ids:?}");
    assert_eq!(status["boxes"][2]["clone_of"], "b1");
    lab.reaches("b3", &lab.address(1, "v4"));
    let name = text(&status["boxes"][0]["name"]).to_owned();
    assert!(lab.refused(&["kill", &name]).contains("is the name of b1 and b3"));
}

/// The boxes of this one are the binary itself.
#[test]
fn real_boxes_say_g_day_on_their_segment_and_a_copied_disk_is_told() {
    let mut lab = Lab::folder();
    let status = lab.json(&["up", "--detach", "--boxes", "3", "--segments", "2"]);
    lab.namespaces = boxes(&status).map(|one| text(&one["namespace"]).to_owned()).collect();
    let ids: Vec<_> = boxes(&status).map(|one| text(&one["id"]).to_owned()).collect();
    let seen = |at: &str| -> Vec<Value> {
        let Ran { code, stdout, stderr } = lab.firm(&["exec", at, "--", FIRM, "boxes", "--json"]);
        assert_eq!(code, 0, "{stdout}{stderr}");
        let told: Value = serde_json::from_str(&stdout).expect("it is JSON");
        told["boxes"].as_array().expect("an array of boxes").clone()
    };
    let seen_ids = |at: &str| {
        let mut ids: Vec<_> = seen(at).iter().map(|one| text(&one["id"]).to_owned()).collect();
        ids.sort();
        ids
    };
    let mut on_a = ids[..2].to_vec();
    on_a.sort();
    eventually("b1 and b2 are seen on segment a", || seen_ids("b1") == on_a);
    eventually("b3 is seen on segment b", || seen_ids("b3") == ids[2..]);
    assert!(lab.firm(&["log", "b1", "--console"]).stdout.contains(text(&status["boxes"][0]["name"])));

    lab.json(&["clone", "b1"]);
    let has_twin =
        |one: &Value| one["id"] == ids[0].as_str() && one["twins"].as_array().is_some_and(|all| all.len() == 1);
    eventually("the clone is told", || seen("b2").iter().any(has_twin));
    lab.json(&["down", "--keep"]);
    lab.nothing_is_left();
}

// ---- cables ----

#[test]
fn what_is_cut_hears_nothing_and_heals() {
    let lab = Lab::up(&["--boxes", "3"]);
    let status = lab.json(&["status"]);
    let of = |number: usize, family: &str| text(&status["boxes"][number - 1][family]).to_owned();
    for family in ["v4", "v6"] {
        lab.reaches("b1", &of(2, family));
    }
    let cut = lab.json(&["cut", "b1", "b2"]);
    assert_eq!(cut["cuts"].as_array().map(Vec::len), Some(2));
    for family in ["v4", "v6"] {
        lab.misses("b1", &of(2, family));
        lab.misses("b2", &of(1, family));
    }
    lab.says("b1", "cut");
    lab.hears(3, "cut");
    assert_eq!(lab.heard(2, "cut"), 0, "b3 has heard it, so it has been everywhere");
    lab.reaches("b3", &of(1, "v4"));
    lab.reaches("b3", &of(2, "v6"));

    lab.json(&["heal", "b2", "b1"]);
    lab.reaches("b1", &of(2, "v4"));
    lab.reaches("b2", &of(1, "v6"));

    // One way: what b1 sends is lost, what b2 sends arrives, so that no connection comes about.
    lab.json(&["cut", "b1", "b2", "--one-way"]);
    lab.misses("b1", &of(2, "v4"));
    lab.misses("b2", &of(1, "v4"));
    lab.says("b1", "deaf");
    lab.hears(3, "deaf");
    assert_eq!(lab.heard(2, "deaf"), 0);
    lab.says("b2", "loud");
    lab.hears(1, "loud");

    let shown = lab.firm(&["cut", "host,b3", "b1"]).stdout;
    assert!(shown.contains("cut b1 isn't heard by host, b2, b3"), "{shown}");
    lab.misses("host", &of(1, "v4"));
    let healed = lab.json(&["heal"]);
    assert_eq!(healed["cuts"].as_array().map(Vec::len), Some(0));
    lab.reaches("host", &of(1, "v4"));
    lab.reaches("b1", &of(2, "v4"));
    assert!(lab.refused(&["cut", "b1", "b1"]).contains("can't be cut from itself"));
    assert!(lab.refused(&["cut", "b1", "segment-b"]).contains("there is no segment b"));
}

#[test]
fn segments_are_joined_by_a_router_and_hear_only_themselves() {
    let lab = Lab::up(&["--boxes", "4", "--segments", "2"]);
    let status = lab.json(&["status"]);
    let of = |number: usize, family: &str| text(&status["boxes"][number - 1][family]).to_owned();
    let segments: Vec<_> = boxes(&status).map(|one| text(&one["segment"]).to_owned()).collect();
    assert_eq!(segments, ["a", "a", "b", "b"]);
    for family in ["v4", "v6"] {
        for (at, to) in [("b1", 4), ("b3", 2), ("host", 1), ("host", 3)] {
            lab.reaches(at, &of(to, family));
        }
    }
    lab.says("b1", "hello-a");
    lab.says("b3", "hello-b");
    for (number, word, other) in
        [(1, "hello-a", "hello-b"), (2, "hello-a", "hello-b"), (3, "hello-b", "hello-a"), (4, "hello-b", "hello-a")]
    {
        lab.hears(number, word);
        assert_eq!(lab.heard(number, other), 0, "b{number}");
    }
    lab.json(&["cut", "segment-a", "segment-b"]);
    for family in ["v4", "v6"] {
        lab.misses("b1", &of(3, family));
        lab.misses("b4", &of(2, family));
        lab.misses("host", &of(3, family));
        lab.reaches("b1", &of(2, family));
        lab.reaches("b3", &of(4, family));
    }
    lab.json(&["heal", "segment-a", "segment-b"]);
    lab.reaches("b1", &of(3, "v4"));
    // One box of the other segment, and no more than that.
    lab.json(&["cut", "b1", "b3"]);
    lab.misses("b1", &of(3, "v6"));
    lab.reaches("b1", &of(4, "v6"));
    lab.reaches("b2", &of(3, "v4"));
}

#[test]
fn a_slow_cable_delays_loses_and_heals() {
    const DELAY_MS: f64 = 60.0;
    let lab = Lab::up(&["--boxes", "4", "--segments", "2"]);
    let status = lab.json(&["status"]);
    let of = |number: usize, family: &str| text(&status["boxes"][number - 1][family]).to_owned();
    let trip = |at: &str, to: usize, family: &str| {
        lab.round_trip(at, &of(to, family), "20", 3).unwrap_or_else(|| panic!("{at} doesn't reach b{to}"))
    };
    assert!(trip("b1", 2, "v4") < DELAY_MS, "nothing is slow");
    let slow = lab.json(&["slow", "b1", "b2", "--delay", "60ms"]);
    assert_eq!(slow["slow"].as_array().map(Vec::len), Some(2));
    for family in ["v4", "v6"] {
        assert!(trip("b1", 2, family) >= 2.0 * DELAY_MS, "there and back");
        assert!(trip("b2", 1, family) >= 2.0 * DELAY_MS, "there and back");
        assert!(trip("b1", 3, family) < 2.0 * DELAY_MS, "others are as fast as before");
    }
    // Across the router, and all of one's.
    lab.json(&["slow", "b2", "b3", "--delay", "60ms"]);
    assert!(trip("b3", 2, "v6") >= 2.0 * DELAY_MS);
    lab.json(&["slow", "b4", "--delay", "60ms"]);
    assert!(trip("host", 4, "v4") >= 2.0 * DELAY_MS);
    // What is slow can be cut.
    lab.json(&["cut", "b1", "b2"]);
    lab.misses("b1", &of(2, "v4"));
    lab.json(&["heal"]);
    for (at, to) in [("b1", 2), ("b3", 2), ("host", 4)] {
        assert!(trip(at, to, "v4") < DELAY_MS, "{at} and b{to} are fast again");
    }
    assert_eq!(lab.left().iter().filter(|line| line.contains("lab relay")).count(), 0);
    // Multicast passes a slow cable too, and nothing does where all is lost.
    lab.json(&["slow", "b2", "--delay", "5ms"]);
    lab.says("b1", "slowly");
    lab.hears(2, "slowly");
    lab.json(&["slow", "b2", "--loss", "100%"]);
    lab.misses("b1", &of(2, "v4"));
    lab.json(&["heal", "b2"]);
    lab.reaches("b1", &of(2, "v4"));
    assert!(lab.refused(&["slow", "b1"]).contains("as fast as any"));
    assert!(lab.refused(&["slow", "b1", "--delay", "1m"]).contains("10 s and 100 % are the most"));
}

#[test]
fn a_flap_ends_where_it_began() {
    let lab = Lab::up(&["--boxes", "2", "--segments", "2"]);
    let status = lab.json(&["status"]);
    let of = |number: usize, family: &str| text(&status["boxes"][number - 1][family]).to_owned();
    let addresses = || {
        let shown = lab.firm(&["exec", "b1", "--", "ip", "-oneline", "address", "show", "dev", "eth0"]).stdout;
        let routes = lab.firm(&["exec", "b1", "--", "ip", "route"]).stdout;
        let mut lines: Vec<String> = shown.lines().chain(routes.lines()).map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = addresses();
    assert_eq!(before.iter().filter(|line| line.contains("inet")).count(), 3, "{before:?}");
    thread::scope(|scope| {
        scope.spawn(|| lab.json(&["flap", "b1", "--down", "300ms"]));
        // The keeper takes no other order meanwhile, so the namespace is looked into directly.
        let netns = &lab.namespaces[0];
        let inside =
            || ran(Command::new("ip").args(["-netns", netns, "-oneline", "link", "show", "dev", "eth0"])).stdout;
        eventually("it is down", || inside().contains("state DOWN"));
        eventually("it is up", || inside().contains("state UP"));
    });
    eventually("it has its addresses again", || addresses() == before);
    for family in ["v4", "v6"] {
        lab.reaches("b1", &of(2, family));
        lab.reaches("b2", &of(1, family));
    }
}

// ---- without root ----

/// Nothing of it is in the machine's own network, whoever makes it.
fn is_rootless(lab: &mut Lab) {
    let links = || ran(Command::new("ip").args(["-oneline", "link"])).stdout;
    let status = lab.bring_up(&["--boxes", "3", "--segments", "2", "--rootless"]);
    assert_eq!(status["rootless"], true);
    let id = lab.id();
    assert!(!links().contains(&id) && !ran(Command::new("ip").args(["netns", "list"])).stdout.contains(&id));
    let of = |number: usize| text(&status["boxes"][number - 1]["v4"]).to_owned();
    lab.reaches("b1", &of(3));
    lab.reaches("host", &of(1));
    lab.reaches("host", &of(3));
    assert!(lab.firm(&["exec", "host", "--", "ip", "link"]).stdout.contains(&id));
    lab.says("b1", "hello");
    lab.hears(2, "hello");
    assert_eq!(lab.heard(3, "hello"), 0);
    lab.json(&["cut", "b1", "b2"]);
    lab.misses("b1", &of(2));
    lab.json(&["heal"]);
    lab.json(&["kill", "b2"]);
    lab.json(&["start", "b2"]);
    lab.reaches("b1", &of(2));
}

#[test]
fn a_lab_needs_no_root_and_then_touches_nothing_of_the_machine() {
    let mut lab = Lab::folder();
    is_rootless(&mut lab);
    lab.json(&["down"]);
    lab.nothing_is_left();
    assert!(lab.files().is_empty(), "{:?}", lab.files());

    // Killed, it leaves only its files.
    lab.in_foreground(&["--boxes", "2", "--rootless"]);
    lab.keeper_ends(Signal::KILL);
    lab.nothing_is_left();
    lab.json(&["down"]);
    assert!(lab.files().is_empty(), "{:?}", lab.files());
}

/// Where the tests are root, somebody else is asked. Where they aren't, the test above has shown it already.
#[test]
fn another_user_s_lab_is_that_user_s() {
    if !geteuid().is_root() {
        return;
    }
    let root = tempfile::tempdir_in("/tmp").expect("a folder");
    ran(Command::new("chmod").args(["755", arg(root.path())]));
    // A folder of root's may be closed to others: the binary is copied, the stand-in too.
    let (firm, program, home) = (root.path().join("firm"), root.path().join("box.py"), root.path().join("home"));
    fs::copy(FIRM, &firm).expect("it can be copied");
    fs::copy(script("box.py"), &program).expect("it can be copied");
    fs::create_dir(&home).expect("it can be made");
    ran(Command::new("chown").args(["65534:65534", arg(&home)]));
    let nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", arg(&firm), "lab"]).args(args);
        let python = std::env::var("PATH").unwrap_or_default();
        command.current_dir(&home).env("PATH", format!("/usr/bin:{python}")).env("FIRM_LAB_DIR", home.join("lab"));
        ran(&mut command)
    };
    let up = nobody(&["up", "--boxes", "2", "--detach", "--json", "--program", arg(&program)]);
    let done = nobody(&["status", "--json"]);
    let seen = nobody(&["exec", "b1", "--", "ip", "-oneline", "link"]);
    let cut = nobody(&["cut", "b1", "b2"]);
    let down = nobody(&["down"]);
    assert_eq!(up.code, 0, "{}{}", up.stdout, up.stderr);
    let status: Value = serde_json::from_str(&done.stdout).expect("it is JSON");
    assert_eq!((status["rootless"].as_bool(), boxes(&status).count()), (Some(true), 2));
    assert!(seen.stdout.contains("eth0"), "{}{}", seen.stdout, seen.stderr);
    assert_eq!((cut.code, down.code), (0, 0), "{}{}", cut.stderr, down.stderr);
    assert!(!runs(pid(&status, 1).expect("it ran")));
}

#[test]
fn where_namespaces_can_t_be_made_it_is_said_why() {
    let lab = Lab::folder();
    // In a namespace in which no further one may be made.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" lab up --rootless";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script, FIRM]).env("FIRM_LAB_DIR", lab.dir());
    let Ran { code, stderr, .. } = ran(&mut command);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains("can't make network namespaces") && stderr.contains("user.max_user_namespaces"),
        "{stderr}"
    );
}
