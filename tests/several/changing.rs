//! Boxes leave, become something else, and are put out, while their cloud goes on.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::harness::{arg, run};
use crate::lab::{ALL, AUTH, KEEPERS, Lab, WEB, eventually};

/// A box that keeps the record and holds a database.
fn holder(lab: &Lab) -> usize {
    let held = lab.databases(AUTH);
    held.into_iter().find(|(_, held)| *held > 0).expect("a box holds a database").0
}

fn others(number: usize) -> Vec<usize> {
    ALL.into_iter().filter(|it| *it != number).collect()
}

fn is_in(lab: &Lab, asked: usize, name: &str) -> bool {
    let view = lab.view(asked).expect("a box tells how its cloud is");
    view["boxes"].as_array().expect("an array of boxes").iter().any(|it| it["name"] == name)
}

#[test]
fn a_box_that_is_reset_leaves_and_may_come_again() {
    let mut lab = Lab::six();
    lab.push_page("hello", "G'day");
    lab.push_kv("notes");
    lab.serve_both();
    let leaves = |lab: &Lab, number: usize| {
        let ran = lab.reset(number, &[]);
        assert_eq!(ran.code, 0, "b{number}: {}{}", ran.stdout, ran.stderr);
        assert_eq!(lab.standing(number), "blank");
        assert!(!lab.disk(number).join("node").exists(), "a blank box holds data");
        lab.is_one(&others(number));
        assert!(!is_in(lab, AUTH, lab.name(number)), "b{number} is still of the cloud");
        lab.push_page("hello", "without it");
        for web in WEB.into_iter().filter(|web| *web != number) {
            eventually(&format!("b{web} serves on"), || lab.page(web, "hello") == "without it");
            assert_eq!(lab.kv(None, web, "notes", "op=get&key=k"), Ok("kept".into()));
        }
    };
    leaves(&lab, WEB[1]);
    lab.firmed("web", &[WEB[1]]);
    lab.is_one(&ALL);
    eventually("the box serves again", || lab.page(WEB[1], "hello") == "without it");
    assert_eq!(lab.kv(None, WEB[1], "notes", "op=get&key=k"), Ok("kept".into()));

    // One that holds data sends it elsewhere first; it may be the one that leads.
    let goes = holder(&lab);
    leaves(&lab, goes);
    lab.firmed("persistence", &[goes]);
    lab.is_one(&ALL);
    lab.push_page("hello", "all of them");
    for web in WEB {
        eventually(&format!("b{web} serves on"), || lab.page(web, "hello") == "all of them");
    }
}

#[test]
fn a_box_changes_its_role_in_one_call_while_the_cloud_answers() {
    let mut lab = Lab::six();
    lab.push_kv("notes");
    // Another than the one that holds the data which is asked for: while data is on its way its app has to ask again.
    let held = holder(&lab);
    let changes = KEEPERS.into_iter().find(|number| *number != held).expect("three keep the record");
    lab.push_page("hello", "G'day");
    lab.serve_both();
    let (name, doors) = (lab.name(changes).to_owned(), lab.doors(&[changes]));
    let (is_done, failed, answered) = (AtomicBool::new(false), AtomicBool::new(false), AtomicBool::new(false));
    let told = thread::scope(|scope| {
        for number in WEB {
            let (lab, is_done, failed, answered) = (&lab, &is_done, &failed, &answered);
            scope.spawn(move || {
                while !is_done.load(Ordering::Relaxed) {
                    let (page, value) = (lab.page(number, "hello"), lab.kv(None, number, "notes", "op=get&key=k"));
                    if page == "G'day" && value == Ok("kept".into()) {
                        answered.store(true, Ordering::Relaxed);
                    } else {
                        eprintln!("b{number} meanwhile: {page} {value:?}");
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
        eventually("visitors are answered", || answered.load(Ordering::Relaxed));
        let mut args = vec!["firm", "web", name.as_str(), "--yes", "--json"];
        args.extend(doors.iter().map(String::as_str));
        let told = lab.firm(&args);
        is_done.store(true, Ordering::Relaxed);
        told
    });
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    assert!(!failed.load(Ordering::Relaxed), "a visitor of another box noticed");
    lab.look();
    assert_eq!(lab.name(changes), name, "a box that changes its role keeps its key");
    lab.is_one(&ALL);
    eventually("it is a web box like the others", || lab.page(changes, "hello") == "G'day");
    assert_eq!(lab.kv(None, changes, "notes", "op=get&key=k"), Ok("kept".into()));
    lab.push_page("hello", "after");
    for number in WEB.into_iter().chain([changes]) {
        eventually(&format!("b{number} serves what comes next"), || lab.page(number, "hello") == "after");
    }
    // And back, which is one call as well.
    lab.firmed("persistence", &[changes]);
    lab.is_one(&ALL);
}

#[test]
fn each_box_that_holds_data_may_go_and_come_in_turn() {
    let mut lab = Lab::six();
    lab.push_page("hello", "G'day");
    lab.push_kv("notes");
    for number in WEB {
        eventually(&format!("b{number} runs code"), || {
            lab.kv(None, number, "notes", "op=set&key=k&value=kept").is_ok()
        });
    }
    for number in KEEPERS {
        let ran = lab.reset(number, &[]);
        assert_eq!(ran.code, 0, "b{number}: {}{}", ran.stdout, ran.stderr);
        lab.firmed("persistence", &[number]);
        lab.is_one(&ALL);
    }
    // Web boxes that have no copy of anything find all that was ever acknowledged.
    for number in WEB {
        let ran = lab.reset(number, &[]);
        assert_eq!(ran.code, 0, "b{number}: {}{}", ran.stdout, ran.stderr);
        lab.firmed("web", &[number]);
        eventually(&format!("b{number} has the page"), || lab.page(number, "hello") == "G'day");
        eventually(&format!("b{number} has the value"), || {
            lab.kv(None, number, "notes", "op=get&key=k") == Ok("kept".into())
        });
    }
}

#[test]
fn an_evicted_box_wipes_itself_whenever_it_comes_back() {
    let mut lab = Lab::six();
    lab.push_page("hello", "G'day");
    let lost = WEB[1];
    let key = |lab: &Lab| fs::read_to_string(lab.disk(lost).join("box/id")).unwrap_or_default();
    let (old_name, old_key) = (lab.name(lost).to_owned(), key(&lab));
    lab.kill(lost);
    let copy = lab.root().join("copy");
    let copied = run(Command::new("cp").args(["-a", arg(&lab.disk(lost)), arg(&copy)]), b"");
    assert_eq!(copied.code, 0, "{}", copied.stderr);
    let told = lab.json(&["evict", &old_name, "--yes"]);
    assert_eq!(told["evicted"], old_name.as_str());
    lab.is_one(&others(lost));
    assert!(!is_in(&lab, AUTH, &old_name));

    let comes_back_blank = |lab: &mut Lab| {
        lab.start(lost);
        eventually("it has found out, and has another key", || {
            let now = key(lab);
            !now.is_empty() && now != old_key && lab.standing(lost) == "blank"
        });
        assert!(!lab.disk(lost).join("node").exists(), "a blank box holds data");
        lab.look();
        assert_ne!(lab.name(lost), old_name);
    };
    comes_back_blank(&mut lab);

    // A copy of its disk doesn't bring it back either.
    lab.kill(lost);
    fs::remove_dir_all(lab.disk(lost)).expect("the disk is taken out");
    fs::rename(&copy, lab.disk(lost)).expect("an old one is put in");
    assert_eq!(key(&lab), old_key);
    comes_back_blank(&mut lab);
    lab.is_one(&others(lost));
    assert!(!is_in(&lab, AUTH, &old_name));

    // The machine is welcome, as the new box that it is.
    lab.firmed("web", &[lost]);
    lab.is_one(&ALL);
    eventually("it serves", || lab.page(lost, "hello") == "G'day");
}
