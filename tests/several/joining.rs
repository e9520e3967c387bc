//! Blank boxes become one cloud, which is one to its users whichever box they come to.

use std::time::{Duration, Instant};

use crate::lab::{ALL, AUTH, KEEPERS, Lab, WEB, eventually};

#[test]
fn six_blank_boxes_become_one_cloud() {
    let began = Instant::now();
    let mut lab = Lab::up(ALL.len());
    // Segment a says G'day; across the router somebody says where to knock.
    let told = lab.json(&["boxes", "--at", lab.v4(4), "--at", lab.v4(5), "--at", lab.v4(6)]);
    for number in ALL {
        let boxes = told["boxes"].as_array().expect("an array of boxes");
        let seen = boxes.iter().find(|it| it["name"] == lab.name(number));
        let seen = seen.unwrap_or_else(|| panic!("b{number} isn't seen: {told:#}"));
        assert_eq!((&seen["state"], &seen["sealed"]), (&"blank".into(), &true.into()));
    }
    let looked = began.elapsed();

    let told = lab.firmed("persistence", &KEEPERS);
    assert_eq!(told.as_array().map(Vec::len), Some(KEEPERS.len()), "each box that was named is told of: {told:#}");
    lab.firmed("web", &WEB);
    lab.firmed("auth", &[AUTH]);
    lab.push_page("hello", "one");
    for number in WEB {
        eventually(&format!("b{number} serves"), || lab.page(number, "hello") == "one");
    }
    eprintln!(
        "six boxes serve a pushed app after {:.1} s, of which {:.1} s were looking who there is",
        began.elapsed().as_secs_f64(),
        looked.as_secs_f64()
    );
    lab.is_one(&ALL);
    let view = lab.view(AUTH).expect("any box tells how the cloud is");
    let parts = |part: &str| {
        let boxes = view["boxes"].as_array().expect("an array of boxes").iter();
        boxes.filter(|it| it["record"] == part).count()
    };
    assert_eq!((parts("leads"), parts("votes"), parts("follows")), (1, 2, 3), "{view:#}");

    // Data is one for all: what is written through one web box is read through the other, whichever box holds it.
    lab.push_kv("notes");
    for (round, (writes, reads)) in [(WEB[0], WEB[1]), (WEB[1], WEB[0])].into_iter().enumerate() {
        let value = format!("round-{round}");
        eventually(&format!("b{writes} writes"), || {
            lab.kv(None, writes, "notes", &format!("op=set&key=k&value={value}")).is_ok()
        });
        assert_eq!(
            lab.kv(None, reads, "notes", "op=get&key=k"),
            Ok(value.into()),
            "b{reads} reads what b{writes} wrote"
        );
    }

    // The next release is on every web box soon after it was said to be.
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        let says = format!("release {round}");
        lab.push_page("hello", &says);
        let pushed = Instant::now();
        for number in WEB {
            eventually(&format!("b{number} serves {says}"), || lab.page(number, "hello") == says);
        }
        slowest = slowest.max(pushed.elapsed());
    }
    eprintln!("a release was on both web boxes {} ms after its push returned, or sooner", slowest.as_millis());
}

#[test]
fn a_push_to_any_box_is_served_by_every_web_box() {
    let lab = Lab::six();
    for number in ALL {
        let app = format!("by-b{number}");
        let pushed = lab.push_page_at(number, &app, &app);
        assert_eq!(pushed.code, 0, "b{number}: {}{}", pushed.stdout, pushed.stderr);
        for web in WEB {
            eventually(&format!("b{web} serves what b{number} took"), || lab.page(web, &app) == app);
        }
    }
    lab.is_one(&ALL);
}
