//! Cables are cut between boxes of one cloud: who answers what meanwhile is the table of docs/partitions.md, row by row, and
//! when they are whole again there is one truth, which has everything that was acknowledged.
//!
//! The page is read, so there is one table. A row that isn't so fails with what was seen.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::lab::{ALL, AUTH, KEEPERS, Lab, WEB, eventually};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/partitions.md");
/// What a row may take to become true after its cut: an election, and until a silent line is known to be cut.
const ROW_TIME_MAX: Duration = Duration::from_mins(1);
/// Who can't do what he is asked says so within this, and doesn't wait for cables.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// Nearly all of a row is waiting, so that several labs share them.
const LABS_AT_ONCE: usize = 3;
/// The names of the page: who leads the record, who else keeps it, the web boxes of segments a and b, and auth.
const NAMES: [&str; 6] = ["L", "P", "Q", "V", "W", "A"];

/// A row of the page: what is cut, and what is so then.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    cut: String,
    seen: Seen,
}

/// The cells, as the page writes them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    files: String,
    reads: String,
    writes: String,
    pushes: String,
    boxes: String,
}

fn rows() -> Vec<Row> {
    let page = fs::read_to_string(PAGE).expect("the page is there");
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let table = page.lines().skip_while(|line| !line.starts_with("| cut |")).take_while(|line| line.starts_with('|'));
    table
        .skip(2)
        .map(|line| match <[String; 6]>::try_from(cells(line)) {
            Ok([cut, files, reads, writes, pushes, boxes]) => {
                Row { cut, seen: Seen { files, reads, writes, pushes, boxes } }
            }
            Err(cells) => panic!("a row has six cells, and not {cells:?}"),
        })
        .collect()
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Seen { files, reads, writes, pushes, boxes } = &self.seen;
        write!(f, "| {} | {files} | {reads} | {writes} | {pushes} | {boxes} |", self.cut)
    }
}

/// The last page that was answered for, and those after it of which nobody knows.
type Pages = (Option<String>, Vec<String>);

/// A cloud whose rows are tried, and what it acknowledged.
struct Tried {
    lab: Lab,
    /// The app whose database lives on a box that keeps the record.
    apps: BTreeMap<usize, String>,
    /// Writes that were answered for: app, key.
    written: Mutex<Vec<(String, String)>>,
    /// By app: the last page that was answered for, and those after it of which nobody knows.
    pushed: Mutex<BTreeMap<String, Pages>>,
    counted: Mutex<u64>,
}

impl Tried {
    fn new() -> Self {
        let lab = Lab::six();
        let mut apps = BTreeMap::new();
        for number in 0..KEEPERS.len() {
            let app = format!("kv-{number}");
            let before = lab.databases(AUTH);
            lab.push_kv(&app);
            eventually("its database has a home", || {
                let grown = lab
                    .databases(AUTH)
                    .into_iter()
                    .find(|(number, held)| before.iter().any(|(earlier, had)| earlier == number && had < held));
                grown.is_some_and(|(number, _)| apps.insert(number, app.clone()).is_none())
            });
        }
        assert_eq!(apps.len(), KEEPERS.len(), "each keeps one database: {apps:?}");
        lab.push_page("hello", "G'day");
        for web in WEB {
            eventually(&format!("b{web} serves files"), || lab.page(web, "hello") == "G'day");
            for app in apps.values() {
                let seed = || lab.kv(Some(web), web, app, "op=set&key=seed&value=seed");
                eventually(&format!("b{web} runs {app}"), || seed().is_ok());
            }
        }
        Self { lab, apps, written: Mutex::default(), pushed: Mutex::default(), counted: Mutex::default() }
    }

    fn next(&self) -> u64 {
        let mut counted = self.counted.lock().expect("nobody panicked with it");
        *counted += 1;
        *counted
    }

    /// Makes one of these lead: whoever else does is cut off from the others until they have chosen.
    fn lead(&self, wanted: &[usize]) -> usize {
        loop {
            let leader = self.lab.led(AUTH);
            if wanted.contains(&leader) {
                return leader;
            }
            let others = KEEPERS.into_iter().filter(|number| *number != leader).map(|number| format!("b{number}"));
            self.lab.cut(&format!("b{leader}"), &others.collect::<Vec<_>>().join(","), false);
            eventually("another one leads", || {
                KEEPERS
                    .into_iter()
                    .filter(|number| *number != leader)
                    .any(|number| self.lab.leader(number).is_some_and(|now| now != leader))
            });
            self.lab.heal();
            self.lab.is_one(&ALL);
        }
    }

    /// Who is called what in a row.
    fn called(&self, cut: &str) -> BTreeMap<&'static str, usize> {
        let leader = self.lead(if cut.ends_with("(L on b)") { &[KEEPERS[2]] } else { &KEEPERS[..2] });
        let mut others = KEEPERS.into_iter().filter(|number| *number != leader);
        let mut other = || others.next().expect("two others keep the record");
        BTreeMap::from([("L", leader), ("P", other()), ("Q", other()), ("V", WEB[0]), ("W", WEB[1]), ("A", AUTH)])
    }

    fn cut(&self, cut: &str, called: &BTreeMap<&str, usize>) {
        let cut = cut.split(" (").next().unwrap_or_default();
        if cut == "nothing" {
            return;
        }
        for one in cut.split(", ") {
            let (is_one_way, between) = if one.contains('→') { (true, '→') } else { (false, '/') };
            let (from, to) = one.split_once(between).unwrap_or_else(|| panic!("`{one}` is no cut"));
            let place = |names: &str| match names.trim() {
                "segment a" => "segment-a".to_owned(),
                "segment b" => "segment-b".to_owned(),
                names => names.split(' ').map(|name| format!("b{}", called[name])).collect::<Vec<_>>().join(","),
            };
            self.lab.cut(&place(from), &place(to), is_one_way);
        }
    }

    /// Asks everybody everything, at once: each by somebody who stands beside the box that is asked.
    fn see(&self, called: &BTreeMap<&str, usize>) -> Seen {
        let lab = &self.lab;
        thread::scope(|scope| {
            let files = WEB.map(|web| {
                scope.spawn(move || {
                    let got = lab.get(Some(web), web, "hello", "/");
                    (web, got.status == 200 && got.body == "G'day")
                })
            });
            let of = |web| self.apps.iter().map(move |(home, app)| (web, *home, app.as_str()));
            let data: Vec<(usize, usize, &str)> = WEB.into_iter().flat_map(of).collect();
            let read = move |web: usize, app: &str| lab.kv(Some(web), web, app, "op=get&key=seed") == Ok("seed".into());
            let reads = data.iter().copied().map(|(web, home, app)| scope.spawn(move || (web, home, read(web, app))));
            let reads: Vec<_> = reads.collect();
            let writes = data.iter().copied();
            let writes = writes.map(|(web, home, app)| scope.spawn(move || (web, home, self.write(web, app))));
            let writes: Vec<_> = writes.collect();
            let pushes = ALL.map(|number| scope.spawn(move || (number, self.push(number))));
            let boxes = scope.spawn(|| {
                let doors = lab.doors(&ALL);
                let args: Vec<&str> = ["boxes"].into_iter().chain(doors.iter().map(String::as_str)).collect();
                lab.json(&args)["boxes"].as_array().map_or(0, Vec::len)
            });
            let joined = |list: Vec<thread::ScopedJoinHandle<'_, (usize, usize, bool)>>| {
                list.into_iter().map(|it| it.join().expect("it asks")).collect::<Vec<_>>()
            };
            Seen {
                files: listed(called, &["V", "W"], &files.map(|it| it.join().expect("it asks"))),
                reads: by_web(called, &joined(reads)),
                writes: by_web(called, &joined(writes)),
                pushes: listed(called, &NAMES, &pushes.map(|it| it.join().expect("it asks"))),
                boxes: boxes.join().expect("it asks").to_string(),
            }
        })
    }

    fn write(&self, web: usize, app: &str) -> bool {
        let key = format!("k{}", self.next());
        let is_done = self.lab.kv(Some(web), web, app, &format!("op=set&key={key}&value={key}")).is_ok();
        if is_done {
            self.written.lock().expect("nobody panicked with it").push((app.to_owned(), key));
        }
        is_done
    }

    fn push(&self, number: usize) -> bool {
        let app = format!("page-b{number}");
        let says = format!("{app}, {}", self.next());
        let is_done = self.lab.push_page_at(number, &app, &says).code == 0;
        let mut pushed = self.pushed.lock().expect("nobody panicked with it");
        let (acknowledged, unknown) = pushed.entry(app).or_default();
        if is_done {
            (*acknowledged, *unknown) = (Some(says), Vec::new());
        } else {
            unknown.push(says);
        }
        is_done
    }

    /// Everything that was answered for since this was last asked is there, at every web box.
    fn holds_what_it_acknowledged(&self) {
        let written = std::mem::take(&mut *self.written.lock().expect("nobody panicked with it"));
        let pushed = std::mem::take(&mut *self.pushed.lock().expect("nobody panicked with it"));
        let holds = |web: usize| {
            for (app, key) in &written {
                let read = || self.lab.kv(None, web, app, &format!("op=get&key={key}"));
                eventually(&format!("b{web} has {key} of {app}"), || read() == Ok(key.as_str().into()));
            }
            for (app, (acknowledged, unknown)) in &pushed {
                let Some(acknowledged) = acknowledged else { continue };
                eventually(&format!("b{web} serves {acknowledged}, or {unknown:?}"), || {
                    let page = self.lab.page(web, app);
                    page == *acknowledged || unknown.contains(&page)
                });
            }
        };
        thread::scope(|scope| {
            for web in WEB {
                let holds = &holds;
                scope.spawn(move || holds(web));
            }
        });
    }

    /// The row as it is: as the page says, where it becomes so and stays.
    fn tried(&self, row: &Row) -> Row {
        let called = self.called(&row.cut);
        self.cut(&row.cut, &called);
        let began = Instant::now();
        let mut in_succession = 0;
        let mut seen = Seen::default();
        // An answer that is on its way to change is seen at most once.
        while in_succession < 2 && began.elapsed() < ROW_TIME_MAX {
            let asked = Instant::now();
            seen = self.see(&called);
            assert!(asked.elapsed() < ANSWER_TIME_MAX, "{}: an answer took {:?}", row.cut, asked.elapsed());
            in_succession = if seen == row.seen { in_succession + 1 } else { 0 };
        }
        let took = began.elapsed().as_secs_f64();
        self.lab.heal();
        let healed = Instant::now();
        self.lab.is_one(&ALL);
        let one = healed.elapsed().as_secs_f64();
        self.holds_what_it_acknowledged();
        eprintln!("{}: so for the second time after {took:.1} s; of one mind {one:.1} s after it was healed", row.cut);
        Row { cut: row.cut.clone(), seen }
    }
}

/// The names of those of whom it is true: `all`, `none`, `all but L`, or each.
fn listed(called: &BTreeMap<&str, usize>, names: &[&str], are: &[(usize, bool)]) -> String {
    let is = |name: &&&str| are.iter().any(|(number, is)| *is && called[**name] == *number);
    let (those, others): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| is(name));
    match (those.len(), others.len()) {
        (_, 0) => "all".to_owned(),
        (0, _) => "none".to_owned(),
        (2.., 1) => format!("all but {}", others[0]),
        _ => those.join(" "),
    }
}

/// Which web box reaches the databases of which boxes.
fn by_web(called: &BTreeMap<&str, usize>, are: &[(usize, usize, bool)]) -> String {
    let of = |web: &str| {
        let mine = are.iter().filter(|(number, ..)| called[web] == *number);
        listed(called, &["L", "P", "Q"], &mine.map(|(_, home, is)| (*home, *is)).collect::<Vec<_>>())
    };
    match (of("V"), of("W")) {
        (v, w) if v == w => v,
        (v, w) => format!("V: {v}; W: {w}"),
    }
}

#[test]
fn what_a_cut_leaves_is_what_the_page_says() {
    let rows = rows();
    assert!(rows.len() >= 12, "the page has lost rows: {rows:#?}");
    let left = Mutex::new(rows.iter().enumerate());
    let tried = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..LABS_AT_ONCE {
            scope.spawn(|| {
                let cloud = Tried::new();
                loop {
                    let next = left.lock().expect("nobody panicked with it").next();
                    let Some((number, row)) = next else { return };
                    let seen = cloud.tried(row);
                    tried.lock().expect("nobody panicked with it").insert(number, seen);
                }
            });
        }
    });
    let tried = tried.into_inner().expect("nobody panicked with it");
    let wrong: Vec<String> = rows
        .iter()
        .enumerate()
        .filter(|(number, row)| tried[number] != **row)
        .map(|(number, row)| format!("the page: {row}\nin truth: {}", tried[&number]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
