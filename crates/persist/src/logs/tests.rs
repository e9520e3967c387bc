use base::limits::{LOG_FILE_BYTES_MAX, LOG_LINES_PER_SECOND_MAX, LOG_LINES_WAITING_MAX};
use proptest::prelude::*;

use super::*;

const TENANT: TenantId = TenantId(1);
const APP: AppId = AppId(2);

fn opened() -> (tempfile::TempDir, Logs) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let logs = Logs::open(dir.path()).expect("it is new");
    (dir, logs)
}

fn line(second: u64, text: impl Into<String>) -> Line {
    Line {
        at: Timestamp(second * 1_000),
        stage: "live".parse().expect("a name"),
        release: ReleaseNo(3),
        request: None,
        stream: Stream::Stdout,
        text: text.into(),
    }
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

fn tail(logs: &Logs, count: usize) -> Vec<Line> {
    logs.tail(TENANT, APP, count, &Filter::default()).expect("the files are ours")
}

async fn next(follower: &mut Follower) -> String {
    match follower.next().await {
        Some(Followed::Line(line)) => line.text.clone(),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_line_is_stored_as_people_read_it() {
    let (dir, logs) = opened();
    logs.write(TENANT, APP, Line { request: Some("01J".to_owned()), stream: Stream::Stderr, ..line(1, "G'day\n") });
    assert_eq!(tail(&logs, 1).len(), 1);
    let stored = std::fs::read_to_string(dir.path().join("logs/1/2/new.jsonl")).expect("it was written");
    expect_test::expect![[r#"
        {"at":1000,"stage":"live","release":"r3","request":"01J","stream":"stderr","text":"G'day\n"}
    "#]]
    .assert_eq(&stored);
}

#[test]
fn the_tail_is_the_newest_that_match() {
    let (_dir, logs) = opened();
    for number in 0..10 {
        let stream = if number % 2 == 0 { Stream::Stdout } else { Stream::Fault };
        let request = Some(format!("q{}", number / 2));
        logs.write(TENANT, APP, Line { request, stream, ..line(number, number.to_string()) });
    }
    logs.write(TENANT, AppId(3), line(1, "another app's"));
    logs.write(TenantId(2), APP, line(1, "another tenant's"));
    assert_eq!(texts(&tail(&logs, 3)), ["7", "8", "9"]);
    let of = |filter| logs.tail(TENANT, APP, 100, &filter).expect("the files are ours");
    assert_eq!(texts(&of(Filter { stream: Some(Stream::Fault), ..Filter::default() })), ["1", "3", "5", "7", "9"]);
    assert_eq!(texts(&of(Filter { request: Some("q2".to_owned()), ..Filter::default() })), ["4", "5"]);
    assert_eq!(texts(&of(Filter { since: Some(Timestamp(8_000)), ..Filter::default() })), ["8", "9"]);
    assert_eq!(of(Filter { release: Some(ReleaseNo(4)), ..Filter::default() }), []);
    assert_eq!(of(Filter { stage: "other".parse().ok(), ..Filter::default() }), []);
    assert_eq!(logs.tail(TENANT, AppId(9), 5, &Filter::default()).expect("nothing is there"), []);
}

#[test]
fn logs_outlive_the_process_and_a_line_that_was_cut() {
    let (dir, logs) = opened();
    logs.write(TENANT, APP, line(1, "whole"));
    drop(logs);
    let path = dir.path().join("logs/1/2/new.jsonl");
    let mut stored = std::fs::read(&path).expect("closing wrote it");
    stored.extend_from_slice(b"{\"at\":1,\"st");
    std::fs::write(&path, stored).expect("the disk has room");
    let logs = Logs::open(dir.path()).expect("it was used before");
    logs.write(TENANT, APP, line(2, "next"));
    assert_eq!(texts(&tail(&logs, 9)), ["whole", "next"]);
}

#[test]
fn long_text_is_cut_and_says_so() {
    let (_dir, logs) = opened();
    let request = Some("r".repeat(LOG_REQUEST_BYTES_MAX + 1));
    logs.write(TENANT, APP, Line { request, ..line(1, "é".repeat(LOG_LINE_BYTES_MAX)) });
    let lines = tail(&logs, 1);
    let (text, rest) = lines[0].text.split_at(LOG_LINE_BYTES_MAX);
    assert_eq!(text, "é".repeat(LOG_LINE_BYTES_MAX / 2));
    assert_eq!(rest, format!(" … ({LOG_LINE_BYTES_MAX} bytes more were cut)"));
    assert_eq!(lines[0].request.as_ref().map(String::len), Some(LOG_REQUEST_BYTES_MAX));
}

#[tokio::test]
async fn a_follower_hears_every_line_once() {
    let (_dir, logs) = opened();
    let count = 3_000_u64;
    let writer = {
        let logs = logs.clone();
        std::thread::spawn(move || {
            for number in 0..count {
                logs.write(TENANT, APP, line(number / 1_000, number.to_string()));
                if number % 500 == 0 {
                    // Lets the writer keep pace: lines that find no room in its queue are another test's.
                    tail(&logs, 1);
                }
            }
        })
    };
    let filter = Filter::default();
    while tail(&logs, 1).is_empty() {}
    let (before, mut follower) = logs.follow(TENANT, APP, 10_000, filter).expect("the files are ours");
    let mut heard: Vec<u64> = before.iter().map(|line| line.text.parse().expect("a number")).collect();
    while heard.len() < usize::try_from(count).expect("small") {
        match follower.next().await.expect("the logs are open") {
            Followed::Line(line) => heard.push(line.text.parse().expect("a number")),
            // On a busy machine the writer may be a thousand lines ahead; that is told, not hidden.
            Followed::Missed(missed) => {
                let next = heard.len() as u64;
                heard.extend(next..next + missed);
            }
        }
    }
    writer.join().expect("no panic");
    assert_eq!(heard, (0..count).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed() {
    let (_dir, logs) = opened();
    let (_, mut follower) = logs.follow(TENANT, APP, 0, Filter::default()).expect("nothing is there");
    for number in 0..LOG_LINES_WAITING_MAX + 5 {
        logs.write(TENANT, APP, line(number as u64 / 1_000, number.to_string()));
    }
    tail(&logs, 1);
    assert_eq!(follower.next().await, Some(Followed::Missed(5)));
    assert_eq!(next(&mut follower).await, "5");
}

#[tokio::test]
async fn an_app_that_says_too_much_loses_lines_and_the_log_says_how_many() {
    let (_dir, logs) = opened();
    for number in 0..LOG_LINES_PER_SECOND_MAX + 7 {
        logs.write(TENANT, APP, line(1, number.to_string()));
        if number % 500 == 0 {
            tail(&logs, 1);
        }
    }
    logs.write(TENANT, AppId(3), line(1, "another app has its own share"));
    assert_eq!(logs.tail(TENANT, AppId(3), 9, &Filter::default()).expect("the files are ours").len(), 1);
    let (before, mut follower) = logs.follow(TENANT, APP, 1, Filter::default()).expect("the files are ours");
    assert_eq!(texts(&before), [(LOG_LINES_PER_SECOND_MAX - 1).to_string()]);
    // Nothing more is written: the notice comes by itself.
    let notice = "7 lines were dropped here: an app may write 2000 in a second";
    assert_eq!(next(&mut follower).await, notice);
    logs.write(TENANT, APP, line(2, "later"));
    assert_eq!(next(&mut follower).await, "later");
    for number in 0..=LOG_LINES_PER_SECOND_MAX {
        logs.write(TENANT, APP, line(3, number.to_string()));
        if number % 500 == 0 {
            tail(&logs, 1);
        }
    }
    logs.write(TENANT, APP, line(4, "next second"));
    let lines = tail(&logs, 2);
    assert_eq!(lines[0].stream, Stream::Fault);
    assert_eq!(texts(&lines), ["1 lines were dropped here: an app may write 2000 in a second", "next second"]);
}

#[tokio::test]
async fn a_dropped_app_leaves_nothing() {
    let (dir, logs) = opened();
    logs.write(TENANT, APP, line(1, "a"));
    logs.write(TENANT, AppId(3), line(1, "b"));
    logs.write(TenantId(2), AppId(4), line(1, "c"));
    let (_, mut follower) = logs.follow(TENANT, APP, 0, Filter::default()).expect("the files are ours");
    logs.drop_app(TENANT, APP);
    assert_eq!(follower.next().await, None);
    assert_eq!(tail(&logs, 9), []);
    let mut all = logs.all().expect("the directory is ours");
    all.sort_unstable();
    assert_eq!(all, [(TENANT, AppId(3)), (TenantId(2), AppId(4))]);
    logs.drop_tenant(TENANT);
    assert!(!dir.path().join("logs/1").exists());
    logs.close();
    assert!(matches!(logs.tail(TENANT, APP, 1, &Filter::default()), Err(ReadError::Closed)));
    logs.write(TENANT, APP, line(1, "after the end: nobody hears, and nothing happens"));
}

#[test]
fn a_log_that_cannot_be_written_harms_no_other() {
    let (dir, logs) = opened();
    std::fs::create_dir(dir.path().join("logs/1")).expect("the disk has room");
    std::fs::write(dir.path().join("logs/1/2"), "in the way").expect("the disk has room");
    logs.write(TENANT, APP, line(1, "lost"));
    logs.write(TENANT, AppId(3), line(1, "kept"));
    assert_eq!(texts(&logs.tail(TENANT, AppId(3), 9, &Filter::default()).expect("the files are ours")), ["kept"]);
    std::fs::remove_file(dir.path().join("logs/1/2")).expect("it was in the way");
    logs.write(TENANT, APP, line(2, "again"));
    let lines = tail(&logs, 9);
    assert_eq!(texts(&lines)[1..], ["again"], "after the notice of what was lost: {lines:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    /// Whatever the lines' sizes: two files within their bound, and what they hold is the end of what was said.
    #[test]
    fn rotation_keeps_the_newest(sizes in proptest::collection::vec(prop_oneof![0..200_usize, 0..LOG_LINE_BYTES_MAX], 2_000..6_000)) {
        let (dir, logs) = opened();
        for (number, size) in sizes.iter().enumerate() {
            // A quote is two bytes in JSON: the file's bound is on what is stored.
            logs.write(TENANT, APP, line(number as u64 / 1_000, format!("{number} {}", "\"".repeat(*size))));
            if number % 1_000 == 0 {
                tail(&logs, 1);
            }
        }
        let lines = tail(&logs, usize::MAX);
        let numbers: Vec<usize> = lines.iter().map(|line| line.text.split(' ').next().expect("one").parse().expect("a number")).collect();
        let first = numbers[0];
        prop_assert_eq!(numbers, (first..sizes.len()).collect::<Vec<_>>());
        let mut held = 0;
        for name in ["new.jsonl", "old.jsonl"] {
            let bytes = std::fs::metadata(dir.path().join("logs/1/2").join(name)).map_or(0, |meta| meta.len());
            prop_assert!(bytes <= LOG_FILE_BYTES_MAX);
            held += bytes;
        }
        let said: u64 = sizes.iter().map(|size| 2 * *size as u64).sum();
        prop_assert!(first == 0 || held > LOG_FILE_BYTES_MAX, "{held} of {said}");
    }
}

#[test]
fn access_lines_are_put_between_by_their_time_and_push_nothing_out() {
    let (dir, logs) = opened();
    let access = |at: u64, text: String| {
        let line = Line { at: Timestamp(at), stream: Stream::Access, ..line(0, text) };
        (TENANT, APP, line)
    };
    logs.write(TENANT, APP, line(1, "first"));
    // Of two cores, the later hands its lines on first.
    logs.write_batch(vec![access(2_500, "b".to_owned())]);
    logs.write_batch(vec![access(1_000, "a".to_owned())]);
    logs.write(TENANT, APP, line(2, "second"));
    logs.write(TENANT, APP, line(3, "third"));
    assert_eq!(texts(&tail(&logs, 9)), ["first", "a", "second", "b", "third"]);
    assert_eq!(texts(&tail(&logs, 2)), ["b", "third"]);
    let only = Filter { stream: Some(Stream::Access), ..Filter::default() };
    assert_eq!(texts(&logs.tail(TENANT, APP, 9, &only).expect("the files are ours")), ["a", "b"]);

    // A crowd in one second: beyond its share its lines are dropped, and the app's own are not.
    let crowd = LOG_LINES_PER_SECOND_MAX + 7;
    for number in 0..crowd {
        logs.write_batch(vec![access(4_000, number.to_string())]);
        if number % 50 == 0 {
            // Lets the writer keep pace.
            tail(&logs, 1);
        }
    }
    logs.write(TENANT, APP, line(4, "own"));
    assert_eq!(logs.dropped(), 7);
    logs.write_batch(vec![access(5_000, "later".to_owned())]);
    let lines = tail(&logs, 3);
    assert!(texts(&lines).contains(&"later"), "{lines:?}");
    assert!(tail(&logs, 10_000).iter().any(|line| line.text == "own"));
    assert!(
        tail(&logs, 10_000).iter().any(|line| line.text.starts_with("7 access lines were dropped here")),
        "the log says so"
    );
    assert!(dir.path().join("logs/1/2/access/new.jsonl").exists());
    logs.drop_app(TENANT, APP);
    assert_eq!(tail(&logs, 9), []);
    assert!(!dir.path().join("logs/1/2").exists());
}

#[test]
fn a_crowd_s_faults_push_out_nothing_that_the_app_said() {
    let (dir, logs) = opened();
    logs.write(TENANT, APP, line(1, "own"));
    for number in 0..LOG_LINES_PER_SECOND_MAX + 7 {
        logs.write(TENANT, APP, Line { stream: Stream::Fault, ..line(1, number.to_string()) });
        if number % 50 == 0 {
            // Lets the writer keep pace.
            tail(&logs, 1);
        }
    }
    logs.write(TENANT, APP, line(1, "own too"));
    assert_eq!(logs.dropped(), 7, "the faults beyond their share");
    let own = Filter { stream: Some(Stream::Stdout), ..Filter::default() };
    assert_eq!(texts(&logs.tail(TENANT, APP, 9, &own).expect("the files are ours")), ["own", "own too"]);
    logs.write(TENANT, APP, Line { stream: Stream::Fault, ..line(2, "later") });
    assert!(tail(&logs, 3).iter().any(|line| line.text.starts_with("7 faults were dropped here")), "the log says so");
    assert!(dir.path().join("logs/1/2/faults/new.jsonl").exists());
}

#[tokio::test]
async fn a_follower_hears_access_lines_too() {
    let (_dir, logs) = opened();
    let (_, mut follower) = logs.follow(TENANT, APP, 0, Filter::default()).expect("the files are ours");
    logs.write(TENANT, APP, line(1, "said"));
    logs.write_batch(vec![(TENANT, APP, Line { stream: Stream::Access, ..line(1, "seen") })]);
    assert_eq!(next(&mut follower).await, "said");
    assert_eq!(next(&mut follower).await, "seen");
}

#[test]
fn the_last_of_the_disk_is_not_for_lines() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let logs = Logs::open_within(dir.path(), Room::but(dir.path(), u64::MAX)).expect("it is new");
    logs.write(TENANT, APP, line(1, "one"));
    assert_eq!(texts(&tail(&logs, 9)), [""; 0]);
    assert_eq!(logs.dropped(), 1);
}
