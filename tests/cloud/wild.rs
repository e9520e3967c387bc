//! Apps that run wild, of WASI 0.2 (`tests/guests/probe`) and 0.3 (`tests/guests/p3hello`): each harms itself alone.

use std::fs;
use std::time::Instant;

use crate::harness::{Node, eventually, guest_with};
use crate::isolation::{logged, probe, request_id, rival, rival_url, undisturbed, walk};

#[test]
fn a_guest_that_runs_wild_harms_itself_alone() {
    let node = Node::start();
    let url = probe(&node, "wild", "");
    rival(&node, "calm");
    let calm = rival_url(&node, "calm");
    let wild = [
        ("loop", 500, "CPU time"),
        ("recurse", 500, "trapped"),
        ("bomb", 500, "memory"),
        ("trap", 500, "trapped"),
        ("mute", 500, "without a response"),
        ("exit", 500, "exited"),
        ("sleep?ms=60000", 504, "took longer"),
        ("answer?status=100", 502, "status 100"),
        ("answer?status=101", 502, "status 101"),
    ];
    undisturbed(&node, &calm, "another runs wild", || {
        for (path, status, why) in wild {
            for version in ["--http1.1", "--http2"] {
                let reply = node.curl(&[version, &format!("{url}{path}")]).expect(status);
                let id = request_id(&reply);
                assert!(reply.text().contains(id), "the page names the request: {}", reply.text());
                // The visitor learns nothing of why; who runs the app does.
                assert!(!reply.text().contains(why), "{}", reply.text());
                logged(&node, "wild", id, why);
            }
        }
        assert_eq!(
            node.get(&url).expect(200).text(),
            "hello from the probe\n",
            "it is itself again with the next request"
        );
    });
}

#[test]
fn a_crowd_of_wild_requests_is_turned_away_in_bounds() {
    let node = Node::start();
    let manifest = "app = \"wild\"\n[components.app]\nsource = \"app.wasm\"\nconcurrency = 4\ncpu = \"100ms\"\ntimeout = \"2s\"\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    let project = guest_with("probe", manifest);
    node.push(project.path(), "wild");
    rival(&node, "calm");
    for path in ["loop", "sleep?ms=100"] {
        let codes = undisturbed(&node, &rival_url(&node, "calm"), &format!("a crowd asks for /{path}"), || {
            crowd(&node, path, 1_500)
        });
        let count = |status: &str| codes.iter().filter(|(code, _)| code == status).count();
        eprintln!(
            "figure: a crowd of {} at /{path}: 200 {}, 500 {}, 503 {}, 504 {}",
            codes.len(),
            count("200"),
            count("500"),
            count("503"),
            count("504")
        );
        assert_eq!(codes.len(), 1_500);
        for (code, id) in &codes {
            let right = if path == "loop" { ["500", "503", "504"].as_slice() } else { &["200", "503"] };
            assert!(right.contains(&code.as_str()) && id.len() == 16, "{code} {id}");
        }
        assert!(count("503") > 0, "4 run and 16 wait, so most of a crowd is turned away");
        // Each who was turned away finds why; but for lines over the bound of an app's log, which are counted.
        let turned: Vec<&String> = codes.iter().filter(|(code, _)| code == "503").map(|(_, id)| id).collect();
        for id in [turned[0], turned[turned.len() / 2]] {
            logged(&node, "wild", id, "refused");
        }
    }
    // And all places are free again.
    eventually("the app answers again", || node.get(&node.url("wild")).status == 200);
}

/// So many requests, as many at once as curl can. Their statuses and ids.
fn crowd(node: &Node, path: &str, count: u32) -> Vec<(String, String)> {
    let mark = if path.contains('?') { '&' } else { '?' };
    let mut command = node.curl_command();
    command.args(["--parallel", "--parallel-immediate", "--parallel-max", "300", "--http1.1", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %header{x-request-id}\n"]);
    command.arg(format!("{}{path}{mark}number=[1-{count}]", node.url("wild")));
    let ran = crate::harness::run(&mut command, b"");
    ran.stdout
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(code, id)| (code.to_owned(), id.to_owned()))
        .collect()
}

#[test]
fn what_the_host_keeps_for_a_guest_is_bounded() {
    let node = Node::start();
    let manifest = "app = \"hoard\"\n[components.app]\nsource = \"app.wasm\"\ncpu = \"20s\"\ntimeout = \"60s\"\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    node.push(guest_with("probe", manifest).path(), "hoard");
    rival(&node, "calm");
    for (what, held_max) in [("cas", 16), ("fields", 1_000)] {
        let reply = undisturbed(&node, &rival_url(&node, "calm"), &format!("another hoards {what}"), || {
            node.get(&format!("{}hoard?what={what}", node.url("hoard")))
        });
        eprintln!(
            "figure: hoarding {what}: {} {}, {} MiB at the most",
            reply.status,
            reply.text().trim(),
            peak_mib(&node)
        );
        if reply.status == 200 {
            let answer = reply.json();
            assert!(answer["held"].as_u64().is_some_and(|held| held <= held_max), "{answer}");
            assert!(answer["refused"].is_string(), "{answer}");
        }
    }
    assert!(peak_mib(&node) < 300, "{} MiB", peak_mib(&node));
}

#[test]
fn who_hoards_is_stopped_before_the_box_is_out_of_memory() {
    let node = Node::start_with(&["--guest-memory", "256MiB"]);
    let manifest = "app = \"wild\"\n[components.app]\nsource = \"app.wasm\"\ncpu = \"20s\"\ntimeout = \"60s\"\nmemory = \"2MiB\"\nconcurrency = 100\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    node.push(guest_with("probe", manifest).path(), "wild");
    rival(&node, "calm");
    // Each may make the host keep some 60 MiB of header fields; a hundred do so at once.
    let codes = undisturbed(&node, &rival_url(&node, "calm"), "a hundred others hoard", || {
        crowd(&node, "hoard?what=fields", 300)
    });
    let count = |status: &str| codes.iter().filter(|(code, _)| code == status).count();
    let (stopped, peak) = (count("503"), peak_mib(&node));
    eprintln!("figure: 300 that hoard: {} answered, {stopped} stopped, {peak} MiB at the most", count("200"));
    let (_, id) = codes.iter().find(|(code, _)| code == "503").expect("somebody was stopped");
    logged(&node, "wild", id, "memory");
    // What may be used is 640 MiB, and for a moment what was taken between two looks.
    assert!(peak < 1_500, "{peak} MiB");
}

/// The most memory that the node has had.
fn peak_mib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("the node runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

#[test]
fn an_answer_that_breaks_off_never_ends_cleanly() {
    let node = Node::start();
    let url = probe(&node, "half", "");
    for path in ["trap-mid-stream", "trap-unmeasured"] {
        for version in ["--http1.0", "--http1.1", "--http2"] {
            let reply = node.curl(&[version, &format!("{url}{path}")]);
            assert_eq!((reply.status, reply.text().as_str()), (200, "0123456789"), "{path} {version}");
            // An answer of HTTP/1.0 without a length ends where the connection does. That TLS breaks off rather than
            // ends tells a client that looks, which curl doesn't.
            let can_tell = version != "--http1.0" || path == "trap-mid-stream";
            assert!(reply.curl != 0 || !can_tell, "{path} over {version} ended as if it were whole");
            logged(&node, "half", request_id(&reply), "trapped");
        }
    }
    // More or less than was promised is no clean end either.
    for (promised, body) in [(3, "abcdef"), (9, "abcdef")] {
        for version in ["--http1.1", "--http2"] {
            let reply = node.curl(&[version, &format!("{url}answer?header=content-length:{promised}&body={body}")]);
            let whole = reply.curl == 0 && reply.status == 200;
            assert!(!whole, "{promised} bytes promised, {body} sent over {version}: {} {}", reply.status, reply.text());
        }
    }
    // Where no body may be, none is: the connection goes on.
    for version in ["--http1.1", "--http2"] {
        for status in [204, 304] {
            let reply = node.curl(&[version, &format!("{url}answer?status={status}&body=abc")]).expect(status);
            assert!(reply.curl == 0 && reply.body.is_empty(), "{status} {version}: {}", reply.failed);
        }
        let reply = node.curl(&[version, "--head", &url]).expect(200);
        assert_eq!(reply.curl, 0, "HEAD over {version}: {}", reply.failed);
        // The box's own pages too.
        let reply = node.curl(&[version, "--head", &node.url("nowhere")]).expect(404);
        assert_eq!(reply.curl, 0, "HEAD over {version}: {}", reply.failed);
        assert!(reply.header("content-length").is_some_and(|length| length != "0"), "as GET would have it");
    }
}

#[test]
fn floods_are_bounded() {
    let node = Node::start();
    let manifest = "app = \"flood\"\n[components.app]\nsource = \"app.wasm\"\ncpu = \"20s\"\ntimeout = \"60s\"\n\
                    [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n";
    node.push(guest_with("probe", manifest).path(), "flood");
    rival(&node, "calm");
    let calm = rival_url(&node, "calm");
    let line = "x".repeat(3_000);
    undisturbed(&node, &calm, "another floods its log", || {
        node.get(&format!("{}log?n=20000&line={line}", node.url("flood"))).expect(200);
    });
    // The next line after the flood tells how many were dropped.
    eventually("the log tells how many lines were dropped", || {
        node.get(&format!("{}log?line=after", node.url("flood"))).expect(200);
        let lines = node.json(&["logs", "--app", "flood", "-n", "10000"]);
        let mut lines = lines.as_array().expect("an array").iter();
        lines
            .any(|line| line["stream"] == "fault" && line["text"].as_str().is_some_and(|text| text.contains("dropped")))
    });
    let logs: u64 = walk(node.dir())
        .iter()
        .filter(|path| path.contains("/logs/"))
        .filter_map(|path| Some(fs::metadata(path).ok()?.len()))
        .sum();
    assert!(logs < 20 << 20, "{logs} bytes of logs");

    // A response of a gigabyte is streamed, not kept.
    let begun = Instant::now();
    let before = peak_mib(&node);
    let size = undisturbed(&node, &calm, "another answers with 256 MiB", || {
        let mut command = node.curl_command();
        command.args(["--output", "/dev/null", "--write-out", "%{size_download}"]).arg(format!(
            "{}big?bytes={}",
            node.url("flood"),
            256 << 20
        ));
        crate::harness::run(&mut command, b"").stdout
    });
    eprintln!(
        "figure: {size} bytes in {:?}; the node had {before} MiB before and {} at the most",
        begun.elapsed(),
        peak_mib(&node)
    );
    assert_eq!(size, (256 << 20).to_string());
    assert!(peak_mib(&node) < before + 128, "{} MiB", peak_mib(&node));
}

/// A guest of 0.3, on short terms.
fn wild3(node: &Node, more: &str) -> String {
    let manifest = format!(
        "app = \"wild3\"\n[components.app]\nsource = \"app.wasm\"\ncpu = \"300ms\"\ntimeout = \"2s\"\nmemory = \"64MiB\"\n{more}\n\
         [[route]]\npath = \"/\"\ncomponent = \"app\"\n"
    );
    node.push(guest_with("p3hello", &manifest).path(), "wild3");
    node.url("wild3")
}

#[test]
fn a_guest_of_0_3_that_runs_wild_harms_itself_alone() {
    let node = Node::start();
    let url = wild3(&node, "");
    rival(&node, "calm");
    let wild = [
        ("loop", 500, "CPU time"),
        ("recurse", 500, "trapped"),
        ("bomb", 500, "memory"),
        ("trap", 500, "trapped"),
        ("hang", 504, "took longer"),
        ("tables", 500, "trapped"),
    ];
    undisturbed(&node, &rival_url(&node, "calm"), "a guest of 0.3 runs wild", || {
        for (path, status, why) in wild {
            for version in ["--http1.1", "--http2"] {
                let reply = node.curl(&[version, &format!("{url}{path}")]).expect(status);
                let id = request_id(&reply);
                assert!(reply.text().contains(id), "the page names the request: {}", reply.text());
                logged(&node, "wild3", id, why);
            }
        }
        for version in ["--http1.1", "--http2"] {
            // Begun, and broken off: by a trap, by the end of its time.
            for (path, why) in [("trap-mid-stream", "trapped"), ("hang-mid-stream", "took longer")] {
                let reply = node.curl(&[version, &format!("{url}{path}")]);
                assert_eq!((reply.status, reply.text().as_str()), (200, "0123456789"), "{path} {version}");
                assert!(reply.curl != 0, "{path} over {version} ended as if it were whole");
                logged(&node, "wild3", request_id(&reply), why);
            }
            // A stream without an end, whose reader has enough.
            let reply = node.curl(&[version, "--max-time", "1", &format!("{url}endless")]);
            assert!(reply.status == 200 && !reply.body.is_empty(), "{}", reply.failed);
        }
        let hello = node.get(&url).expect(200).text();
        assert!(hello.starts_with("hello from WASI 0.3"), "{hello}");
        // What it does after its answer is bounded by the same time, and nobody waits for it.
        assert_eq!(node.get(&format!("{url}after")).expect(200).text(), "answered\n");
    });
    eventually("what it did after its answer was stopped", || {
        let lines = node.json(&["logs", "--app", "wild3", "-n", "1000"]);
        lines.as_array().is_some_and(|lines| {
            lines.iter().filter(|line| line["text"].as_str().is_some_and(|text| text.contains("took longer"))).count()
                >= 5
        })
    });
}

#[test]
fn instances_are_reused_where_the_manifest_says_so() {
    let node = Node::start();
    let manifest = |reuse: bool| {
        format!(
            "app = \"again\"\n[components.app]\nsource = \"app.wasm\"\nreuse = {reuse}\n\
             [bindings]\nkv = [\"probe\"]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n"
        )
    };
    // Each answer tells how many requests the instance had before; one connection stays on one core.
    let again = |url: &str| {
        let address = format!("{url}again?[1-20]");
        // An instance that was interrupted goes on after its answer, and is back when it has done.
        let reply = node.curl(&["--http1.1", "--rate", "50/s", &address]);
        assert_eq!(reply.status, 200);
        reply.text()
    };
    node.push(guest_with("probe", &manifest(true)).path(), "again");
    let url = node.url("again");
    let wanted: String = (1..=20).map(|number| number.to_string()).collect();
    assert_eq!(again(&url), wanted);
    // A change of a variable is a new release's: none of the old ones answers for it.
    node.json(&["env", "set", "COLOUR=blue", "--app", "again"]);
    assert_eq!(again(&url), wanted);
    let reply = node.get(&format!("{url}trap")).expect(500);
    logged(&node, "again", request_id(&reply), "trapped");
    // What ran wild is gone: where an instance answered, one traps, and whoever asks then gets a fresh one.
    let (before, trap, after) = (format!("{url}again"), format!("{url}trap"), format!("{url}again?[1-20]"));
    let reply = node.curl(&["--http1.1", "--rate", "50/s", &before, &trap, &after]).text();
    assert!(reply.ends_with(&wanted), "{reply}");
    node.push(guest_with("probe", &manifest(false)).path(), "again");
    assert_eq!(again(&url), "1".repeat(20));
}
