//! What the tests of several boxes stand on: a lab in a folder of its own, its operator, and visitors who stand beside any
//! of its boxes.
//!
//! Nothing here sleeps for a time and hopes: [`eventually`] waits for a fact. What a box said is shown when a test panics.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{FIRM, Ran, answered, arg, cache, guest_with, run, site};
use crate::waiting::eventually_within;

/// What a fact may take to become true on a machine that is busy with other tests: a lost box is noticed in seconds, and
/// what is behind asks again within some more.
const FACT_TIME_MAX: Duration = Duration::from_mins(1);
/// What one request of curl's may take, in seconds: longer than anything that the cloud itself waits for.
const CURL_SECONDS_MAX: &str = "30";
/// Lines of a box's log that are shown.
const LOG_LINES_MAX: usize = 40;

/// The boxes of [`Lab::six`]: more than half of those that keep the record are on segment a, one on segment b; a web box is on
/// each.
pub(crate) const KEEPERS: [usize; 3] = [1, 2, 4];
pub(crate) const WEB: [usize; 2] = [3, 5];
pub(crate) const AUTH: usize = 6;
pub(crate) const ALL: [usize; 6] = [1, 2, 3, 4, 5, 6];

/// Waits until `fact` is true.
#[track_caller]
pub(crate) fn eventually(what: &str, fact: impl FnMut() -> bool) {
    eventually_within(FACT_TIME_MAX, what, fact);
}

/// A box of the lab, by its key's name of now.
struct Place {
    name: String,
    v4: String,
}

/// A lab that is up, and gone when it is dropped.
pub(crate) struct Lab {
    root: TempDir,
    boxes: Vec<Place>,
    /// What proves its operator's commands to the cloud, once there is one.
    token: String,
}

/// What a visitor got.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// 0 when there was no answer.
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Lab {
    /// So many blank boxes on two segments, started with this operator's seal.
    #[track_caller]
    pub(crate) fn up(boxes: usize) -> Self {
        let root = tempfile::Builder::new().prefix("firm-several-").tempdir().expect("a folder for the lab");
        let mut lab = Self { root, boxes: Vec::new(), token: String::new() };
        let seal = lab.root.path().join("seal.json");
        Self::done(lab.command().args(["operator", "seal", "--out", arg(&seal)]));
        let boxes = boxes.to_string();
        let up = ["lab", "up", "--boxes", &boxes, "--segments", "2", "--seal", arg(&seal), "--detach"];
        Self::done(lab.command().args(up));
        lab.look();
        lab
    }

    /// Six blank boxes on two segments, and one cloud of them: [`KEEPERS`], [`WEB`] and [`AUTH`].
    #[track_caller]
    pub(crate) fn six() -> Self {
        let mut lab = Self::up(ALL.len());
        lab.firmed("persistence", &KEEPERS);
        lab.firmed("web", &WEB);
        lab.firmed("auth", &[AUTH]);
        lab.is_one(&ALL);
        lab
    }

    /// Reads who is there. A box that was wiped with its key has another name.
    #[track_caller]
    pub(crate) fn look(&mut self) {
        let status = self.json(&["lab", "status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let boxes = status["boxes"].as_array().expect("an array of boxes").iter();
        self.boxes = boxes.map(|it| Place { name: text(&it["name"]), v4: text(&it["v4"]) }).collect();
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Where the lab keeps a box's disk.
    pub(crate) fn disk(&self, number: usize) -> PathBuf {
        self.root.path().join("lab").join(format!("b{number}"))
    }

    pub(crate) fn name(&self, number: usize) -> &str {
        &self.boxes[number - 1].name
    }

    pub(crate) fn v4(&self, number: usize) -> &str {
        &self.boxes[number - 1].v4
    }

    /// The number of the box that is called so.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> usize {
        self.boxes.iter().position(|it| it.name == name).unwrap_or_else(|| panic!("no box is called {name}")) + 1
    }

    /// `firm`, to be given arguments: in the lab's folder, with its operator's key and contexts.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(FIRM);
        let root = self.root.path();
        for name in ["CONTEXT", "TENANT", "ADDRESS", "TOKEN", "AUTHORITY", "HOST"] {
            command.env_remove(format!("FIRM_{name}"));
        }
        command.current_dir(root).env("NO_COLOR", "1").env("FIRM_LAB_DIR", root.join("lab")).env("FIRM_CACHE", cache());
        command.env("XDG_CONFIG_HOME", root.join("config")).env("XDG_DATA_HOME", root.join("share"));
        command
    }

    /// A program in a box's network, or in this machine's place on segment a where there is none.
    pub(crate) fn beside(&self, number: Option<usize>, program: &str) -> Command {
        let at = number.map_or_else(|| "host".to_owned(), |number| format!("b{number}"));
        let mut command = self.command();
        command.args(["lab", "exec", &at, "--", program]);
        command
    }

    #[track_caller]
    fn done(command: &mut Command) -> Ran {
        let ran = run(command, b"");
        assert_eq!(ran.code, 0, "{command:?}: {}{}", ran.stdout, ran.stderr);
        ran
    }

    /// The operator's command, given on segment a.
    pub(crate) fn firm(&self, args: &[&str]) -> Ran {
        let mut command = if args[0] == "lab" { self.command() } else { self.beside(None, FIRM) };
        run(command.args(args), b"")
    }

    /// What `firm … --json` answered.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        answered(args, &self.firm(&[args, &["--json"]].concat()))
    }

    /// Waits until every web box serves the page `hello` and has written `kept` under `k` of the app `notes`.
    #[track_caller]
    pub(crate) fn serve_both(&self) {
        for number in WEB {
            eventually(&format!("b{number} serves"), || self.page(number, "hello") == "G'day");
            eventually(&format!("b{number} runs code"), || {
                self.kv(None, number, "notes", "op=set&key=k&value=kept").is_ok()
            });
        }
    }

    // ---- what happens to boxes ----

    #[track_caller]
    pub(crate) fn kill(&self, number: usize) {
        self.json(&["lab", "kill", &format!("b{number}")]);
    }

    #[track_caller]
    pub(crate) fn start(&self, number: usize) {
        self.json(&["lab", "start", &format!("b{number}")]);
    }

    /// Nothing passes between the places any more, or only from the second to the first.
    #[track_caller]
    pub(crate) fn cut(&self, one: &str, other: &str, one_way: bool) {
        let mut args = vec!["lab", "cut", one, other];
        args.extend(one_way.then_some("--one-way"));
        self.json(&args);
    }

    #[track_caller]
    pub(crate) fn heal(&self) {
        self.json(&["lab", "heal"]);
    }

    // ---- the operator ----

    /// Where these boxes are knocked at: without listening, since boxes of another lab may be heard here as well.
    pub(crate) fn doors(&self, numbers: &[usize]) -> Vec<String> {
        let mut doors = vec!["--listen".to_owned(), "0s".to_owned()];
        doors.extend(numbers.iter().flat_map(|number| ["--at".to_owned(), self.v4(*number).to_owned()]));
        doors
    }

    /// Tells boxes what they are.
    #[track_caller]
    pub(crate) fn firmed(&mut self, roles: &str, numbers: &[usize]) -> Value {
        let doors = self.doors(numbers);
        let mut args = vec!["firm", roles, "--yes"];
        args.extend(numbers.iter().map(|number| self.name(*number)));
        args.extend(doors.iter().map(String::as_str));
        let told = self.json(&args);
        self.learn();
        told
    }

    /// Makes boxes blank.
    pub(crate) fn reset(&self, number: usize, more: &[&str]) -> Ran {
        let doors = self.doors(&[number]);
        let mut args = vec!["reset", self.name(number), "--yes"];
        args.extend(more);
        args.extend(doors.iter().map(String::as_str));
        self.firm(&args)
    }

    /// How a box stands by its own word: `blank`, `firm`, …; empty while it doesn't answer.
    pub(crate) fn standing(&self, number: usize) -> String {
        let doors = self.doors(&[number]);
        let args: Vec<&str> = ["boxes"].into_iter().chain(doors.iter().map(String::as_str)).collect();
        self.json(&args)["boxes"][0]["state"].as_str().unwrap_or_default().to_owned()
    }

    /// What the operator's commands show to the cloud, for requests that no command makes.
    fn learn(&mut self) {
        if !self.token.is_empty() {
            return;
        }
        let file = self.root.path().join("config/firm/contexts.toml");
        let text = fs::read_to_string(file).expect("founding a cloud writes it");
        let contexts: toml::Table = text.parse().expect("it is TOML");
        let context = &contexts["contexts"]["cloud"];
        let held = |key: &str| context[key].as_str().expect("a context has it").to_owned();
        self.token = held("token");
        fs::write(self.authority(), held("authority")).expect("a file of the test's");
    }

    /// PEM of the authority that signed the names that visitors see.
    pub(crate) fn authority(&self) -> PathBuf {
        self.root.path().join("authority.pem")
    }

    // ---- visitors ----

    /// curl, beside a box or on segment a, which finds every host at box `to`.
    fn curl(&self, from: Option<usize>, to: usize) -> Command {
        let mut command = self.beside(from, "curl");
        command.args(["--disable", "--silent", "--show-error", "--max-time", CURL_SECONDS_MAX, "--noproxy", "*"]);
        command.args(["--write-out", "\n%{http_code}", "--connect-to", &format!("::{}:443", self.v4(to))]);
        command.arg("--cacert").arg(self.authority());
        command
    }

    /// What somebody at box `from`, or on segment a, gets from box `to`.
    pub(crate) fn get(&self, from: Option<usize>, to: usize, app: &str, path: &str) -> Answer {
        answer(self.curl(from, to).arg(format!("https://{app}.main.localhost{path}")))
    }

    /// What an app's page is at a box, for a visitor on segment a.
    pub(crate) fn page(&self, to: usize, app: &str) -> String {
        let got = self.get(None, to, app, "/");
        if got.status == 200 { got.body } else { format!("{}: {}", got.status, got.body) }
    }

    /// One operation of a KV app's, by whoever is beside `from`, at box `to`: what it gave, or how it was refused.
    pub(crate) fn kv(&self, from: Option<usize>, to: usize, app: &str, operation: &str) -> Result<Value, String> {
        let got = self.get(from, to, app, &format!("/kv?bucket=probe&{operation}"));
        let told: Value = serde_json::from_str(&got.body).unwrap_or(Value::Null);
        match told.get("ok") {
            Some(ok) if got.status == 200 => Ok(ok.clone()),
            _ => Err(format!("{}: {}", got.status, got.body)),
        }
    }

    /// What a box tells of the cloud. None while it doesn't.
    pub(crate) fn api(&self, from: Option<usize>, to: usize, path: &str) -> Option<Value> {
        let mut curl = self.curl(from, to);
        curl.args(["--header", &format!("authorization: Bearer {}", self.token)]);
        let got = answer(curl.arg(format!("https://api.localhost{path}")));
        (got.status == 200).then(|| serde_json::from_str(&got.body).ok()).flatten()
    }

    /// Posts something to a box's API, as the operator. None where it is refused.
    pub(crate) fn send(&self, to: usize, path: &str, body: &Value) -> Option<Value> {
        let mut curl = self.curl(None, to);
        curl.args([
            "--header",
            &format!("authorization: Bearer {}", self.token),
            "--header",
            "content-type: application/json",
        ]);
        let got = answer(curl.args(["--data-binary", &body.to_string()]).arg(format!("https://api.localhost{path}")));
        [200, 201].contains(&got.status).then(|| serde_json::from_str(&got.body).ok()).flatten()
    }

    /// How the cloud is, as a box tells who is beside it.
    pub(crate) fn view(&self, number: usize) -> Option<Value> {
        self.api(Some(number), number, "/v1/boxes")
    }

    /// Who leads the record, as a box sees it.
    pub(crate) fn leader(&self, asked: usize) -> Option<usize> {
        let view = self.view(asked)?;
        let boxes = view["boxes"].as_array()?;
        let leads = boxes.iter().find(|it| !view["leader"].is_null() && it["id"] == view["leader"])?;
        Some(self.number(leads["name"].as_str()?))
    }

    /// Who leads, once somebody does.
    #[track_caller]
    pub(crate) fn led(&self, asked: usize) -> usize {
        let mut leader = None;
        eventually("somebody leads the record", || {
            leader = self.leader(asked);
            leader.is_some()
        });
        leader.expect("it was waited for")
    }

    /// What a box's record holds, and who leads it: equal on two boxes that have the same truth.
    pub(crate) fn truth(&self, number: usize) -> Option<(Value, Value, Value)> {
        let view = self.view(number)?;
        let boxes = view["boxes"].as_array()?;
        let me = boxes.iter().find(|it| it["name"] == self.name(number))?;
        let index = me["vitals"]["record_index"].clone();
        let apps = self.api(Some(number), number, "/v1/tenants/main/apps")?;
        (!view["leader"].is_null()).then(|| (view["leader"].clone(), index, apps))
    }

    /// Waits until these boxes have one record, know who leads it, and that one hears all of them.
    #[track_caller]
    pub(crate) fn is_one(&self, numbers: &[usize]) {
        let mut seen = String::new();
        let what = "the boxes are of one mind";
        let deadline = Instant::now() + FACT_TIME_MAX;
        loop {
            let truths: Vec<_> = numbers.iter().map(|number| self.truth(*number)).collect();
            let is_same = truths.iter().all(|truth| truth.is_some() && *truth == truths[0]);
            let view = self.view(numbers[0]).unwrap_or_default();
            let heard = |number: &usize| {
                let boxes = view["boxes"].as_array().into_iter().flatten();
                let it = boxes.into_iter().find(|it| it["name"] == self.name(*number));
                it.and_then(|it| it["vitals"]["heard_ms_ago"].as_u64()).is_some_and(|ago| ago < 3_000)
            };
            if is_same && numbers.iter().all(heard) {
                return;
            }
            seen.clear();
            write!(seen, "{truths:#?}\n{view:#}").expect("a string takes text");
            assert!(Instant::now() < deadline, "it took more than {FACT_TIME_MAX:?} until {what}: {seen}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    // ---- apps ----

    /// A page that says so, pushed through any box that takes it.
    pub(crate) fn try_push_page(&self, app: &str, says: &str) -> Ran {
        let folder = site(&[("index.html", says)]);
        self.firm(&["push", arg(folder.path()), "--app", app])
    }

    #[track_caller]
    pub(crate) fn push_page(&self, app: &str, says: &str) {
        let ran = self.try_push_page(app, says);
        assert_eq!(ran.code, 0, "{app} isn't pushed: {}{}", ran.stdout, ran.stderr);
    }

    /// A page pushed by somebody beside a box, through that box alone.
    pub(crate) fn push_page_at(&self, number: usize, app: &str, says: &str) -> Ran {
        let folder = site(&[("index.html", says)]);
        let mut command = self.beside(Some(number), FIRM);
        command.env("FIRM_ADDRESS", format!("{}:443", self.v4(number))).env("FIRM_HOST", "api.localhost");
        command.env("FIRM_TOKEN", &self.token).env("FIRM_AUTHORITY", self.authority()).env("FIRM_TENANT", "main");
        run(command.args(["push", arg(folder.path()), "--app", app]), b"")
    }

    /// The guest that does what its path says, as an app with a database of its own.
    #[track_caller]
    pub(crate) fn push_kv(&self, app: &str) {
        let project = guest_with("probe", KV);
        let ran = self.firm(&["push", arg(project.path()), "--app", app]);
        assert_eq!(ran.code, 0, "{app} isn't pushed: {}{}", ran.stdout, ran.stderr);
    }

    /// How many databases each box holds, by its number.
    #[track_caller]
    pub(crate) fn databases(&self, asked: usize) -> Vec<(usize, u64)> {
        let view = self.view(asked).expect("a box tells how its cloud is");
        let boxes = view["boxes"].as_array().expect("an array of boxes").iter();
        boxes
            .filter_map(|it| {
                let number = self.boxes.iter().position(|place| it["name"] == place.name)? + 1;
                Some((number, it["databases"].as_u64().unwrap_or_default()))
            })
            .collect()
    }
}

/// The least that the guest needs. What it asks of a database that can't be reached is given up soon.
const KV: &str = r#"
app = "probe"

[components.app]
source = "app.wasm"
memory = "64MiB"
timeout = "3s"

[[route]]
path = "/"
component = "app"

[bindings]
kv = ["probe"]
"#;

/// What curl got, with the status in its last line.
fn answer(curl: &mut Command) -> Answer {
    let ran = run(curl, b"");
    let (body, status) = ran.stdout.rsplit_once('\n').unwrap_or(("", "0"));
    let status = status.trim().parse().unwrap_or(0);
    Answer { status, body: if status == 0 { ran.stderr } else { body.to_owned() } }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- the lab ----\n{}", self.firm(&["lab", "status"]).stdout);
            for number in 1..=self.boxes.len() {
                let log = fs::read_to_string(self.root.path().join(format!("lab/b{number}.log"))).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines.len().saturating_sub(LOG_LINES_MAX);
                eprintln!("---- b{number} ----\n{}", lines[last..].join("\n"));
            }
        }
        // The test has said what it had to say.
        let _ = self.command().args(["lab", "down"]).stdin(Stdio::null()).output();
    }
}
