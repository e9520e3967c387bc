use base::limits::{LOG_PAGE_BYTES_MAX, LOG_READERS_PER_TENANT_MAX};
use base::{Digest, ReleaseNo};

use super::*;
use crate::tier::town::{TENANT, Town, at, eventually, id, name, town};
use crate::tier::{CallError, Method};

/// A box that holds data and three that serve, with an app that has said nothing.
async fn serving() -> Town {
    let town = town(&["persistence", "web", "web", "web"]).await;
    town.release(Digest::of(b"content")).await;
    town
}

fn asked(town: &Town, tail: usize, stay: bool) -> Asked {
    let app = town.clouds[0].record().app(TENANT, "shop").expect("pushed").id;
    Asked { tenant: TENANT, app, app_name: name("shop"), filter: Filter::default(), tail, stay }
}

fn say(town: &Town, number: usize, seconds: u64, text: &str) {
    let line = Line {
        at: at(seconds),
        stage: name("live"),
        release: ReleaseNo(1),
        request: None,
        stream: Stream::Stdout,
        text: text.to_owned(),
    };
    town.clouds[number].store.logs.write(TENANT, asked(town, 0, false).app, line);
}

/// The text of what comes next.
async fn heard(log: &mut Merged) -> String {
    match log.next().await.expect("it goes on") {
        Told::Line(line) => line.text,
        Told::Missed(count) => format!("{count} missed"),
        Told::Notice(text) => format!("! {text}"),
        Told::End => "the end".to_owned(),
    }
}

async fn all(mut log: Merged) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(told) = log.next().await {
        texts.push(match told {
            Told::Line(line) => line.text,
            other => format!("{other:?}"),
        });
    }
    texts
}

#[tokio::test]
async fn the_newest_lines_of_all_boxes_stand_by_their_time_wherever_one_asks() {
    let town = serving().await;
    for second in 0..30 {
        say(&town, 1 + usize::try_from(second % 3).expect("small"), second, &second.to_string());
    }
    let wanted: Vec<_> = (23..30).map(|second| second.to_string()).collect();
    for number in 0..4 {
        let log = merged(Arc::clone(&town.clouds[number]), asked(&town, 7, false)).await.expect("read");
        assert_eq!(all(log).await, wanted, "asked on {number}");
    }
    let filter = Filter { since: Some(at(28)), ..Filter::default() };
    let log = merged(Arc::clone(&town.clouds[0]), Asked { filter, ..asked(&town, 100, false) }).await.expect("read");
    assert_eq!(all(log).await, ["28", "29"]);
    let log = merged(Arc::clone(&town.clouds[0]), asked(&town, 0, false)).await.expect("read");
    assert!(all(log).await.is_empty());
}

#[tokio::test]
async fn a_long_log_comes_page_by_page_and_leaves_no_reader_behind() {
    let town = serving().await;
    let (lines, bytes) = (3_000, 200);
    assert!(lines * bytes > 4 * LOG_PAGE_BYTES_MAX);
    for number in 0..lines {
        // So many a second as an app may say.
        let box_number = 1 + number % 2;
        say(&town, box_number, number as u64 / 1_000, &format!("{number:0200}"));
    }
    let log = merged(Arc::clone(&town.clouds[3]), asked(&town, lines, false)).await.expect("read");
    let mut texts = all(log).await;
    assert_eq!(texts.len(), lines);
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), lines, "a line came twice");
    assert!(town.asked(1, Method::Logs) > 4);
    for cloud in &town.clouds {
        let readers = &cloud.far.as_ref().expect("it is one of several").readers;
        assert_eq!(readers.count(), 0);
    }
}

#[tokio::test]
async fn who_stays_hears_every_box_and_those_that_come() {
    let town = town(&["persistence", "web", "web"]).await;
    town.release(Digest::of(b"content")).await;
    say(&town, 1, 1, "before");
    let mut log = merged(Arc::clone(&town.clouds[0]), asked(&town, 10, true)).await.expect("read");
    assert_eq!(heard(&mut log).await, "before");
    for round in 0..5 {
        for number in 0..3 {
            let text = format!("{round} of {number}");
            say(&town, number, 2, &text);
            assert_eq!(heard(&mut log).await, text);
        }
    }
    // A box with persistence alone runs no apps, and isn't asked; it comes back with another role.
    let order = "b".to_owned();
    let (roles, labels) = ("web".parse().expect("roles"), std::collections::BTreeMap::new());
    let admission = state::Admission { id: id(7), roles, labels, order: order.clone(), warrant: None };
    town.propose(state::Command::BoxAdmit { admission }).await;
    town.propose(state::Command::BoxJoin { id: id(7), order, addresses: Vec::new() }).await;
    let told = heard(&mut log).await;
    assert!(told.starts_with(&format!("! box {} gives no lines", id(7).name())), "{told}");
    say(&town, 1, 3, "goes on");
    assert_eq!(heard(&mut log).await, "goes on");
}

#[tokio::test]
async fn a_box_that_is_away_is_told_of_once_and_its_lines_come_when_it_is_back() {
    let town = serving().await;
    let mut log = merged(Arc::clone(&town.clouds[1]), asked(&town, 10, true)).await.expect("read");
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later").as_secs();
    say(&town, 2, now(), "one");
    assert_eq!(heard(&mut log).await, "one");
    town.cut(2);
    let lost = heard(&mut log).await;
    assert!(lost.starts_with("! box") && lost.contains("missing here until it does"), "{lost}");
    // Later than what was heard before, for a reader that is gone meanwhile is begun anew from there.
    say(&town, 2, now() + 60, "two");
    say(&town, 3, now(), "three");
    assert_eq!(heard(&mut log).await, "three");
    let readers = &town.clouds[2].far.as_ref().expect("it is one of several").readers;
    readers.forget();
    town.mend(2);
    let back = heard(&mut log).await;
    assert!(back.contains("answers again"), "{back}");
    assert_eq!(heard(&mut log).await, "two");
    say(&town, 2, now() + 61, "four");
    assert_eq!(heard(&mut log).await, "four");
}

#[tokio::test]
async fn a_log_without_one_box_says_so_and_ends() {
    let town = serving().await;
    for number in 1..4 {
        say(&town, number, u64::try_from(number).expect("small"), &number.to_string());
    }
    town.cut(2);
    let texts = all(merged(Arc::clone(&town.clouds[0]), asked(&town, 10, false)).await.expect("read")).await;
    assert_eq!(texts[..2], ["1", "3"]);
    assert!(texts.len() == 3 && texts[2].contains("so they are missing here:"), "{texts:?}");
}

#[tokio::test]
async fn a_deleted_app_has_nothing_more_to_say() {
    let town = serving().await;
    let mut log = merged(Arc::clone(&town.clouds[1]), asked(&town, 10, true)).await.expect("read");
    say(&town, 2, 1, "last");
    assert_eq!(heard(&mut log).await, "last");
    town.propose(state::Command::AppDelete { tenant: TENANT, app: name("shop") }).await;
    assert_eq!(log.next().await, None);
}

/// What a box asks of another's log, without what makes a log of it.
async fn put(town: &Town, from: usize, to: usize, ask: &Ask) -> Result<Reply, CallError> {
    let far = town.clouds[from].far.as_ref().expect("it is one of several");
    far.call(id(to), Method::Logs, ask, LOG_BOXES_LOOK * 5).await
}

fn begin(town: &Town, stay: bool) -> Ask {
    let Asked { tenant, app, filter, .. } = asked(town, 0, stay);
    Ask::Begin { tenant, app, wanted: (&filter).into(), tail: 10, stay }
}

#[tokio::test]
async fn a_page_that_got_lost_is_given_again_and_to_nobody_else() {
    let town = serving().await;
    let Ok(Reply::Begun { reader: Some(reader), past: 0, .. }) = put(&town, 1, 2, &begin(&town, true)).await else {
        panic!("a reader is opened")
    };
    say(&town, 2, 1, "a line");
    for _ in 0..2 {
        let reply = put(&town, 1, 2, &Ask::Next { reader, page: 1 }).await;
        let Ok(Reply::Page { items, end: false }) = reply else { panic!("{reply:?}") };
        assert!(matches!(&items[..], [Item::Line(line)] if line.contains("a line")), "{items:?}");
    }
    for (from, page) in [(3, 1), (1, 3), (1, 0)] {
        let reply = put(&town, from, 2, &Ask::Next { reader, page }).await;
        assert!(matches!(reply, Ok(Reply::Gone)), "page {page} for {from}: {reply:?}");
    }
    // While one waits for a page, another question for it is told so.
    let next = Ask::Next { reader, page: 2 };
    let (waited, busy) = tokio::join!(put(&town, 1, 2, &next), put(&town, 1, 2, &next));
    assert!(matches!(waited, Ok(Reply::Page { .. })) && matches!(busy, Ok(Reply::Busy)), "{busy:?}");
    // One who stops waiting takes nothing with him.
    let stopped = async {
        let next = Ask::Next { reader, page: 3 };
        tokio::select! {
            biased;
            _ = put(&town, 1, 2, &next) => panic!("nothing was said"),
            () = tokio::task::yield_now() => {}
        }
    };
    stopped.await;
    say(&town, 2, 2, "another");
    let mut last = Vec::new();
    let mut page = 3;
    while last.is_empty() {
        let reply = put(&town, 1, 2, &Ask::Next { reader, page }).await;
        let Ok(Reply::Page { items, .. }) = reply else { panic!("{reply:?}") };
        (last, page) = (items, page + 1);
    }
    assert!(matches!(&last[..], [Item::Line(line)] if line.contains("another")), "{last:?}");
}

#[tokio::test]
async fn so_many_of_a_tenant_read_and_no_more() {
    let town = serving().await;
    for _ in 0..LOG_READERS_PER_TENANT_MAX {
        assert!(matches!(put(&town, 1, 2, &begin(&town, true)).await, Ok(Reply::Begun { .. })));
    }
    assert!(matches!(put(&town, 1, 2, &begin(&town, true)).await, Ok(Reply::Busy)));
    let readers = &town.clouds[2].far.as_ref().expect("it is one of several").readers;
    assert_eq!(readers.count(), LOG_READERS_PER_TENANT_MAX);
    // Those that nobody asks are let go.
    eventually("the readers are gone", || {
        readers.expire();
        readers.count() == 0
    })
    .await;
    assert!(matches!(put(&town, 1, 2, &begin(&town, true)).await, Ok(Reply::Begun { .. })));
}

#[tokio::test]
async fn a_log_of_what_there_isn_t_makes_nothing() {
    let town = serving().await;
    let Ask::Begin { wanted, .. } = begin(&town, true) else { unreachable!("it is one") };
    let ask = Ask::Begin { tenant: TENANT, app: AppId(99), wanted, tail: 10, stay: true };
    assert!(matches!(put(&town, 1, 2, &ask).await, Ok(Reply::Gone)));
    assert!(!town.dirs[2].path().join("logs/1/99").exists());
    let readers = &town.clouds[2].far.as_ref().expect("it is one of several").readers;
    assert_eq!(readers.count(), 0);
}
