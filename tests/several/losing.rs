//! Boxes lose their power, one after the other and many at once.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::arg;
use crate::lab::{ALL, AUTH, KEEPERS, Lab, WEB, eventually};

/// What a command gets to be refused while nobody can do it.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(15);

#[test]
fn commands_flow_again_after_the_leader_lost_its_power() {
    let lab = Lab::six();
    lab.push_page("hello", "before");
    let leader = lab.led(AUTH);
    let mut tries = 0;
    lab.kill(leader);
    let killed = Instant::now();
    eventually("commands flow again", || {
        tries += 1;
        lab.try_push_page("hello", "after").code == 0
    });
    eprintln!("a push was done {:.1} s after the leader was killed, at try {tries}", killed.elapsed().as_secs_f64());
    for number in WEB {
        eventually(&format!("b{number} serves it"), || lab.page(number, "hello") == "after");
    }
    assert_ne!(lab.led(AUTH), leader);
    let left: Vec<usize> = ALL.into_iter().filter(|number| *number != leader).collect();
    lab.is_one(&left);

    lab.start(leader);
    lab.is_one(&ALL);
    lab.push_page("hello", "all");
    for number in WEB {
        eventually(&format!("b{number} serves it"), || lab.page(number, "hello") == "all");
    }
}

#[test]
fn web_boxes_serve_on_while_nobody_keeps_the_record() {
    let lab = Lab::six();
    lab.push_page("hello", "G'day");
    lab.push_kv("notes");
    lab.serve_both();
    for number in KEEPERS {
        lab.kill(number);
    }
    let serve = |number: usize| {
        lab.page(number, "hello") == "G'day" && lab.page(number, "notes").starts_with("hello from the probe")
    };
    for number in WEB {
        assert!(serve(number), "b{number} serves on");
        let refused = lab.kv(None, number, "notes", "op=get&key=k").expect_err("nobody holds the data");
        assert!(refused.contains("can't be reached") || refused.contains("took too long"), "{refused}");
    }
    let asked = Instant::now();
    let refused = lab.try_push_page("hello", "never");
    let took = asked.elapsed();
    assert_ne!(refused.code, 0, "{}", refused.stdout);
    assert!(refused.stderr.contains("persistence boxes"), "{}", refused.stderr);
    assert!(took < REFUSAL_TIME_MAX, "it took {took:?} to refuse: {}", refused.stderr);
    eprintln!("a push without persistence boxes is refused after {:.1} s", took.as_secs_f64());

    // One that starts now has its record from its own disk.
    lab.kill(WEB[0]);
    lab.start(WEB[0]);
    eventually("the box that was started again serves", || serve(WEB[0]));

    for number in KEEPERS {
        lab.start(number);
    }
    lab.is_one(&ALL);
    for number in WEB {
        assert_eq!(lab.kv(None, number, "notes", "op=get&key=k"), Ok("kept".into()), "what was written is there");
        assert_eq!(lab.page(number, "hello"), "G'day", "what was refused wasn't done");
    }
    lab.push_page("hello", "again");
    for number in WEB {
        eventually(&format!("b{number} serves it"), || lab.page(number, "hello") == "again");
    }
}

#[test]
fn only_the_killed_web_boxes_own_requests_fail() {
    let lab = Lab::six();
    lab.push_page("hello", "G'day");
    for number in WEB {
        eventually(&format!("b{number} serves"), || lab.page(number, "hello") == "G'day");
    }
    // Visitors of both boxes; when one of them fails they end, once they have asked the other another thousand times.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/several/visitors.py");
    let mut visitors = lab.beside(None, "python3");
    visitors.arg(&script).args([
        "--authority",
        arg(&lab.authority()),
        "--host",
        "hello.main.localhost",
        "--first",
        "200",
        "--more",
        "1000",
    ]);
    visitors.args(WEB.map(|number| lab.v4(number).to_owned())).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut visitors = visitors.spawn().expect("python3 is installed");
    let mut lines = BufReader::new(visitors.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("it says more").expect("it is text");
    assert_eq!(next(), "all are answered");
    lab.kill(WEB[1]);
    let told: Value = serde_json::from_str(&next()).expect("it ends with figures");
    visitors.wait().expect("it is a child of this process");
    eprintln!("web box killed under load: {told}");
    let of = |number: usize, what: &str| told[lab.v4(number)][what].as_u64().expect("a number");
    assert_eq!(of(WEB[0], "failed"), 0, "{told}");
    assert!(of(WEB[0], "answered") > 1_000 && of(WEB[1], "cut_off") > 0, "{told}");
    assert!(of(WEB[1], "cut_off") <= 4, "each of four visitors had one request in flight: {told}");

    lab.start(WEB[1]);
    eventually("the killed box serves again", || lab.page(WEB[1], "hello") == "G'day");
}
