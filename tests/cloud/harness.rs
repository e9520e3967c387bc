//! What the end-to-end tests stand on: a node in a folder of its own, the command line and curl against it, and
//! the apps and guests that are pushed.
//!
//! A node is a child process that ends by its own id, at the latest when its [`Node`] is dropped. What it said is
//! shown when the test panics. Nothing here sleeps for a time and hopes: [`eventually`] waits for a fact.

#![allow(dead_code, reason = "each file of tests uses its part")]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use studio::build::{Grants, Kind, Tools, component};
use tempfile::TempDir;

use crate::waiting::{eventually_within, free_port};

/// The binary under test.
pub(crate) const FIRM: &str = env!("CARGO_BIN_EXE_firm");
/// The repository.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// What a fact may take to become true.
const FACT_TIME_MAX: Duration = Duration::from_secs(20);
/// What a node may take to start or stop on a machine that is busy with other tests.
const NODE_TIME_MAX: Duration = Duration::from_mins(1);
/// What one request of curl's may take, in seconds.
const CURL_SECONDS_MAX: &str = "120";
/// How often a node is started again on other ports, when somebody took those that were free a moment ago.
const STARTS_MAX: usize = 5;

/// Waits until `fact` is true, 20 s at the most.
#[track_caller]
pub(crate) fn eventually(what: &str, fact: impl FnMut() -> bool) {
    eventually_within(FACT_TIME_MAX, what, fact);
}

// ---- a node ----

/// One `firm up`, with a folder, ports, contexts and a data directory of its own.
pub(crate) struct Node {
    /// `data/`, `config/`, `share/`, `stderr`.
    root: TempDir,
    data: PathBuf,
    args: Vec<String>,
    /// Descriptors that it may have, where it may not have as many as the tests.
    descriptors: Option<u32>,
    ports: (u16, u16),
    child: Option<Child>,
    pid: u32,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments of `firm up`.
    #[track_caller]
    pub(crate) fn start_with(args: &[&str]) -> Self {
        Self::start_as(None, args)
    }

    /// With no more than so many descriptors.
    #[track_caller]
    pub(crate) fn start_within(descriptors: u32, args: &[&str]) -> Self {
        Self::start_as(Some(descriptors), args)
    }

    #[track_caller]
    fn start_as(descriptors: Option<u32>, args: &[&str]) -> Self {
        let root = tempfile::Builder::new().prefix("firm-node-").tempdir().expect("a folder for the node");
        for folder in ["config", "share", "data"] {
            fs::create_dir(root.path().join(folder)).expect("a folder for the node");
        }
        let args = args.iter().map(ToString::to_string).collect();
        let data = root.path().join("data");
        let mut node = Self { root, data, args, descriptors, ports: (0, 0), child: None, pid: 0 };
        for _ in 0..STARTS_MAX {
            node.ports = (free_port(), free_port());
            match node.launch() {
                Ok(_) => return node,
                Err(said) if said.contains("is taken") => {}
                Err(said) => panic!("the node doesn't start: {said}"),
            }
        }
        panic!("no free ports were found in {STARTS_MAX} attempts");
    }

    /// Starts the node that was stopped or killed again: same data, same ports. Gives the time until it served.
    #[track_caller]
    pub(crate) fn restart(&mut self) -> Duration {
        self.kill9();
        self.launch().unwrap_or_else(|said| panic!("the node doesn't start again: {said}"))
    }

    /// Runs it until it says that it serves. `Err` is what it said instead.
    fn launch(&mut self) -> Result<Duration, String> {
        let stderr =
            File::options().create(true).append(true).open(self.stderr_path()).expect("a file for the node's words");
        let said_before = stderr.metadata().expect("the file is open").len();
        let begun = Instant::now();
        let mut command = match self.descriptors {
            None => self.command(),
            Some(most) => self.command_within(most),
        };
        let mut child = command
            .args(["up", "--json", "--listen", "127.0.0.1", "--dir"])
            .arg(self.dir())
            .args(["--port", &self.ports.0.to_string(), "--http-port", &self.ports.1.to_string()])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary was built with the tests");
        self.pid = child.id();
        let stdout = child.stdout.take().expect("it is piped");
        self.child = Some(child);
        let (sender, receiver) = channel();
        // Ends with the first line, or with the node.
        thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            // Nobody waits any more when the node was given up.
            let _ = sender.send(read.map(|_| line));
        });
        let line = receiver.recv_timeout(NODE_TIME_MAX);
        let took = begun.elapsed();
        if let Ok(Ok(line)) = line
            && let Ok(serving) = serde_json::from_str::<Value>(&line)
        {
            assert_eq!(serving["serving"], true, "{line}");
            return Ok(took);
        }
        self.kill9();
        let said = self.stderr();
        Err(said.get(usize::try_from(said_before).unwrap_or(0)..).unwrap_or_default().to_owned())
    }

    /// Ends it at once. Nothing of it runs on return.
    pub(crate) fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for its end.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal_terminate();
        self.wait()
    }

    /// SIGTERM alone.
    pub(crate) fn signal_terminate(&self) {
        let child = self.child.as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), Signal::TERM).expect("the node runs");
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the node runs");
        let deadline = Instant::now() + NODE_TIME_MAX;
        loop {
            if let Some(status) = child.try_wait().expect("it is a child of this process") {
                return status;
            }
            if Instant::now() > deadline {
                self.child = Some(child);
                panic!("the node didn't end within {NODE_TIME_MAX:?}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The command line against this node.
    pub(crate) fn firm(&self, args: &[&str]) -> Ran {
        self.firm_with(args, &[], "")
    }

    /// With further variables in its environment, such as `FIRM_TOKEN`, and something on its standard input.
    pub(crate) fn firm_with(&self, args: &[&str], env: &[(&str, &str)], stdin: &str) -> Ran {
        run(self.command().args(args).envs(env.iter().copied()), stdin.as_bytes())
    }

    /// What `firm … --json` answered.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        answered(args, &self.firm(&[args, &["--json"]].concat()))
    }

    /// Pushes a folder or component as `app`, and gives what `firm push --json` answered.
    #[track_caller]
    pub(crate) fn push(&self, path: &Path, app: &str) -> Value {
        self.json(&["push", arg(path), "--app", app])
    }

    /// `firm`, to be given arguments: in the node's folder and with its contexts.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(FIRM);
        command.current_dir(self.root.path());
        isolate(&mut command, self.root.path());
        command
    }

    /// The same with a limit on descriptors. The shell becomes the program, so the child's id is the node's.
    fn command_within(&self, descriptors: u32) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), FIRM]);
        command.current_dir(self.root.path());
        isolate(&mut command, self.root.path());
        command
    }

    /// curl, which trusts the node's authority and finds every host on loopback.
    #[track_caller]
    pub(crate) fn curl(&self, args: &[&str]) -> Reply {
        self.curl_with(args, b"")
    }

    /// With something on its standard input, for `--data-binary @-`.
    #[track_caller]
    pub(crate) fn curl_with(&self, args: &[&str], stdin: &[u8]) -> Reply {
        let heads = tempfile::NamedTempFile::new_in(self.root.path()).expect("a file for the headers");
        let mut command = self.curl_command();
        command.arg("--dump-header").arg(heads.path()).args(args);
        let output = run_raw(&mut command, stdin);
        let heads = fs::read(heads.path()).expect("the file is there");
        Reply::read(&String::from_utf8_lossy(&heads), output)
    }

    /// curl, to be given arguments: for what streams.
    pub(crate) fn curl_command(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(["--disable", "--silent", "--show-error", "--no-buffer", "--max-time", CURL_SECONDS_MAX]);
        command.args(["--noproxy", "*", "--connect-to", "::127.0.0.1:", "--cacert"]).arg(self.authority());
        command
    }

    #[track_caller]
    pub(crate) fn get(&self, url: &str) -> Reply {
        self.curl(&[url])
    }

    /// A request to the API. `path` starts with `/v1`; no token is sent when `token` is empty.
    #[track_caller]
    pub(crate) fn api(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let body = body.map(|body| body.to_string());
        self.api_bytes(token, method, path, "application/json", body.as_deref().map(str::as_bytes))
    }

    #[track_caller]
    pub(crate) fn api_bytes(&self, token: &str, method: &str, path: &str, kind: &str, body: Option<&[u8]>) -> Reply {
        let url = format!("https://api.localhost:{}{path}", self.ports.0);
        let (bearer, kind) = (format!("authorization: Bearer {token}"), format!("content-type: {kind}"));
        let mut args = vec!["--request", method];
        if !token.is_empty() {
            args.extend(["--header", &bearer]);
        }
        if body.is_some() {
            args.extend(["--header", &kind, "--data-binary", "@-"]);
        }
        args.push(&url);
        self.curl_with(&args, body.unwrap_or_default())
    }

    /// The address of an app's live stage, or of `STAGE--APP`.
    pub(crate) fn url(&self, app: &str) -> String {
        format!("https://{app}.main.localhost:{}/", self.ports.0)
    }

    /// The same over plain HTTP.
    pub(crate) fn plain_url(&self, app: &str) -> String {
        format!("http://{app}.main.localhost:{}/", self.ports.1)
    }

    pub(crate) fn operator_token(&self) -> String {
        fs::read_to_string(self.dir().join("operator.token")).expect("the node made it").trim().to_owned()
    }

    /// A new token of a tenant's.
    #[track_caller]
    pub(crate) fn token(&self, tenant: &str, grant: &str) -> String {
        let made = self.json(&["--tenant", tenant, "token", "create", "--grant", grant, "--label", grant]);
        made["secret"].as_str().expect("a secret").to_owned()
    }

    /// PEM of the authority that signed the node's certificates.
    pub(crate) fn authority(&self) -> PathBuf {
        self.dir().join("authority.pem")
    }

    /// The data directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.data
    }

    /// The folder around it, for the tests' own files.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn tls_port(&self) -> u16 {
        self.ports.0
    }

    pub(crate) fn plain_port(&self) -> u16 {
        self.ports.1
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// What it said so far, in all its lives.
    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(self.stderr_path()).unwrap_or_default()
    }

    fn stderr_path(&self) -> PathBuf {
        self.root.path().join("stderr")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill9();
        if thread::panicking() {
            eprintln!("---- what the node said ----\n{}----", self.stderr());
        }
    }
}

/// Takes away what the user's own settings would change, and keeps the tool cache.
fn isolate(command: &mut Command, root: &Path) {
    for name in ["DIR", "CONTEXT", "TENANT", "ADDRESS", "TOKEN", "AUTHORITY", "HOST"] {
        command.env_remove(format!("FIRM_{name}"));
    }
    command.env("XDG_CONFIG_HOME", root.join("config")).env("XDG_DATA_HOME", root.join("share"));
    command.env("FIRM_CACHE", cache()).env("NO_COLOR", "1");
}

// ---- what ran ----

/// A command that has ended. `code` is -1 where a signal ended it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What `firm … --json` answered, given these words.
#[track_caller]
pub(crate) fn answered(args: &[&str], ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "firm {args:?}: {}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("firm {args:?} printed {}: {error}", ran.stdout))
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: &mut Command, stdin: &[u8]) -> Ran {
    let output = run_raw(command, stdin);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

#[track_caller]
fn run_raw(command: &mut Command, stdin: &[u8]) -> std::process::Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be run: {error}"));
    let mut input = child.stdin.take().expect("it is piped");
    thread::scope(|scope| {
        scope.spawn(move || {
            // Who doesn't read it to the end had enough.
            let _ = input.write_all(stdin);
        });
        child.wait_with_output().expect("it is a child of this process")
    })
}

/// What curl got.
#[derive(Debug)]
pub(crate) struct Reply {
    /// 0 when there was no answer: see `failed`.
    pub(crate) status: u16,
    /// As in the status line: `HTTP/1.1`, `HTTP/2`.
    pub(crate) version: String,
    /// In order, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// curl's exit code, 0 when the whole answer came.
    pub(crate) curl: i32,
    /// What curl said of it.
    pub(crate) failed: String,
}

impl Reply {
    /// Reads the last of the heads: those before it were redirects followed, or 100 Continue.
    fn read(heads: &str, output: std::process::Output) -> Self {
        let text = heads.replace("\r\n", "\n");
        let head = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let mut lines = head.lines();
        let mut first = lines.next().unwrap_or_default().split(' ');
        let version = first.next().unwrap_or_default().to_owned();
        let status = first.next().and_then(|status| status.parse().ok()).unwrap_or(0);
        let header =
            |line: &str| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        Self {
            status,
            version,
            headers: lines.filter_map(header).collect(),
            body: output.stdout,
            curl: output.status.code().unwrap_or(-1),
            failed: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The first header of that name, in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{} answered no JSON: {}: {error}", self.status, self.text()))
    }

    /// Panics with the answer unless it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}{}\n{:?}", self.failed, self.text(), self.headers);
        self
    }
}

// ---- apps, guests and sites ----

/// A path as an argument.
pub(crate) fn arg(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// A copy of an app, in a folder that nobody else uses meanwhile.
///
/// The folder's path is the same in each run where it can be: cargo takes a package in another place for another
/// package, and would build it anew and keep the old one.
pub(crate) struct TempApp {
    folder: PathBuf,
    _held: File,
}

impl TempApp {
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Its path as an argument.
    pub(crate) fn arg(&self) -> &str {
        arg(&self.folder)
    }
}

impl Deref for TempApp {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.folder
    }
}

/// A fresh copy of `apps/NAME`.
pub(crate) fn app(name: &str) -> TempApp {
    copied(&Path::new(ROOT).join("apps").join(name), name)
}

fn copied(from: &Path, name: &str) -> TempApp {
    let above = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cloud");
    fs::create_dir_all(&above).expect("a folder for the copies");
    for number in 0.. {
        let lock = File::options()
            .create(true)
            .append(true)
            .open(above.join(format!("{name}-{number}.lock")))
            .expect("a lock");
        if lock.try_lock().is_err() {
            continue;
        }
        let folder = above.join(format!("{name}-{number}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("an old copy goes");
        }
        copy(from, &folder);
        return TempApp { folder, _held: lock };
    }
    unreachable!("the numbers don't end")
}

/// Copies a folder, without what builds left in it and with the files' times, by which cargo knows them.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder for a copy");
    for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
        let entry = entry.expect("the folder can be read");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if [".firm", "node_modules", "target", "__pycache__"]
            .iter()
            .any(|left| path.file_name() == Some(OsStr::new(left)))
        {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).expect("a file can be copied");
            let time = entry.metadata().and_then(|meta| meta.modified()).expect("a file has a time");
            File::options()
                .append(true)
                .open(&to)
                .and_then(|file| file.set_modified(time))
                .expect("a copy takes a time");
        }
    }
}

/// The component of `tests/guests/NAME`, built once for all tests of this process.
pub(crate) fn guest(name: &str) -> PathBuf {
    static BUILT: Mutex<Option<(TempApp, HashMap<String, PathBuf>)>> = Mutex::new(None);
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let (sources, built) =
        built.get_or_insert_with(|| (copied(&Path::new(ROOT).join("tests/guests"), "guests"), HashMap::new()));
    if let Some(path) = built.get(name) {
        return path.clone();
    }
    let grants = Grants { kv: true, config: true };
    let tools = Tools { cache: cache().join("tools") };
    let path = component(&sources.path().join(name), Kind::Rust, &grants, &tools, &mut |_| {})
        .unwrap_or_else(|error| panic!("guest {name}: {error}"));
    built.insert(name.to_owned(), path.clone());
    path
}

/// A project with the built guest, and its own manifest followed by `more`.
pub(crate) fn guest_project(name: &str, more: &str) -> TempDir {
    let manifest = fs::read_to_string(Path::new(ROOT).join("tests/guests").join(name).join("firm.toml"))
        .expect("it has a manifest");
    guest_with(name, &format!("{}\n{more}", manifest.replace("source = \".\"", "source = \"app.wasm\"")))
}

/// A project with the built guest, as `app.wasm`, and this manifest.
pub(crate) fn guest_with(name: &str, manifest: &str) -> TempDir {
    let project = site(&[("firm.toml", manifest)]);
    fs::copy(guest(name), project.path().join("app.wasm")).expect("the guest can be copied");
    project
}

/// A folder with these files.
pub(crate) fn site(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::Builder::new().prefix("firm-site-").tempdir().expect("a folder for the site");
    for (path, text) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().expect("it is below the folder")).expect("a folder of the site");
        fs::write(path, text).expect("a file of the site");
    }
    folder
}

/// A script of these tests with the Python that `tools/install test` made, to be given arguments.
pub(crate) fn python(script: &str) -> Command {
    python_of("test-python", script)
}

/// The same with another of its environments.
pub(crate) fn python_of(environment: &str, script: &str) -> Command {
    let python = cache().join(environment).join("bin/python");
    assert!(python.is_file(), "{} is missing\n  help: tools/install test", python.display());
    let mut command = Command::new(python);
    // Scripts that use each other would leave their compiled forms beside them.
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command.arg(Path::new(ROOT).join("tests/cloud").join(script));
    command
}

/// `$FIRM_CACHE`, as `tools/env` sets it.
pub(crate) fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("FIRM_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?.join("firmament")));
    cache.expect("HOME is set")
}

// ---- what streams ----

/// A command whose output is read line by line while it runs. It ends by its own id when this is dropped.
pub(crate) struct Lines {
    child: Child,
    lines: std::sync::mpsc::Receiver<(Instant, String)>,
}

impl Lines {
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it can be run");
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line and when it came; none when the output has ended.
    #[track_caller]
    pub(crate) fn next(&self) -> Option<(Instant, String)> {
        match self.lines.recv_timeout(FACT_TIME_MAX) {
            Ok(line) => Some(line),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => None,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("no line came within {FACT_TIME_MAX:?}"),
        }
    }

    /// Lines until one contains `text`.
    #[track_caller]
    pub(crate) fn until(&self, text: &str) -> String {
        loop {
            let (_, line) = self.next().unwrap_or_else(|| panic!("the output ended before `{text}`"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it is a child of this process")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
