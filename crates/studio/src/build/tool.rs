//! Runs other people's build tools, and installs those that `firm` brings along.
//!
//! A tool's last lines are kept for the error, all others only pass by as progress. An installation is made in a
//! folder beside its place and renamed into it, under a lock: two pushes at once install once, and one that was
//! interrupted leaves nothing that looks finished. Its place is named by the digest of what it is made from, so a newer
//! `firm` never meets an older one's tools.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use super::{BuildError, Tools, file, write};

/// Lines of a failed tool's output in the error: a compiler's message with what leads to it, and still one screen.
const TAIL_LINES: usize = 40;

/// A longer line is cut: minified sources are quoted whole by some tools.
const LINE_CHARS_MAX: usize = 400;

/// Lines that wait between the tool and the progress bar. A tool that is faster waits for the bar.
const LINES_WAITING_MAX: usize = 256;

/// Variables of a surrounding `cargo` or shell that are about another build than the tenant's.
const FOREIGN: [&str; 8] = [
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "PYTHONHOME",
];

/// What becomes of what the tool prints to its standard output. Its standard error is always progress.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdout {
    Progress,
    Kept,
}

/// A command that runs in `folder`, without colours and without the settings of a build around this one.
pub(super) fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    command.env("NO_COLOR", "1").env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// Whether the program can be started at all. A failing one counts as missing: Debian's `python3 -m venv` exists
/// only to say what to install.
pub(super) fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

enum Line {
    Kept(String),
    Progress(String),
}

/// Runs the command to its end. Returns the lines that were to be kept.
pub(super) fn run(
    what: &'static str,
    command: &mut Command,
    stdout: Stdout,
    told: &mut dyn FnMut(&str),
) -> Result<Vec<String>, BuildError> {
    told(what);
    let shown = shown(command);
    let folder = command.get_current_dir().unwrap_or(Path::new(".")).to_owned();
    let not_started = |source| BuildError::ToolNotStarted { command: shown.clone(), folder: folder.clone(), source };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(not_started)?;

    let (sender, lines) = sync_channel(LINES_WAITING_MAX);
    let out = child.stdout.take().expect("the standard output was asked to be piped");
    let err = child.stderr.take().expect("the standard error was asked to be piped");
    let (mut kept, mut tail) = (Vec::new(), VecDeque::with_capacity(TAIL_LINES));
    let status = thread::scope(|scope| {
        let other = sender.clone();
        scope.spawn(move || {
            pass_on(out, &sender, |line| if stdout == Stdout::Kept { Line::Kept(line) } else { Line::Progress(line) });
        });
        scope.spawn(move || pass_on(err, &other, Line::Progress));
        // Ends when both threads have come to the end of the tool's output, which is when it and its children end.
        for line in lines {
            match line {
                Line::Kept(line) => kept.push(line),
                Line::Progress(line) => {
                    let line = line.trim_end().chars().take(LINE_CHARS_MAX).collect::<String>();
                    if !line.is_empty() {
                        told(line.trim_start());
                        if tail.len() == TAIL_LINES {
                            tail.pop_front();
                        }
                        tail.push_back(line);
                    }
                }
            }
        }
        child.wait()
    })
    .map_err(not_started)?;

    if status.success() {
        return Ok(kept);
    }
    Err(BuildError::ToolFailed { what, command: shown, folder, status, tail: tail.into() })
}

fn pass_on(output: impl Read, sender: &SyncSender<Line>, wrap: impl Fn(String) -> Line) {
    let mut output = BufReader::new(output);
    let mut bytes = Vec::new();
    // A tool whose output breaks off has ended, and its exit code says how.
    while output.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
        let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
        bytes.clear();
        if sender.send(wrap(line)).is_err() {
            return;
        }
    }
}

/// The command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Waits for the lock, and says so when somebody else has it. It is released when the file is closed.
pub(super) fn lock(path: &Path, told: &mut dyn FnMut(&str)) -> Result<File, BuildError> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(file("make", folder))?;
    }
    let lock = File::options().create(true).append(true).open(path).map_err(file("open", path))?;
    match lock.try_lock() {
        Ok(()) => return Ok(lock),
        Err(TryLockError::WouldBlock) => told("waiting for another build"),
        Err(TryLockError::Error(source)) => return Err(file("lock", path)(source)),
    }
    lock.lock().map_err(file("lock", path))?;
    Ok(lock)
}

/// A tool in the cache, installed if it isn't there yet: `files` are written into a folder, then `install` does the rest.
pub(super) fn installed(
    tools: &Tools,
    name: &str,
    files: &[(&str, &str)],
    told: &mut dyn FnMut(&str),
    install: impl FnOnce(&Path, &mut dyn FnMut(&str)) -> Result<(), BuildError>,
) -> Result<PathBuf, BuildError> {
    let place = tools.cache.join(format!("{name}-{}", digest(files)));
    if place.is_dir() {
        return Ok(place);
    }
    let _lock = lock(&tools.cache.join(format!("{name}.lock")), told)?;
    if place.is_dir() {
        return Ok(place);
    }
    // What an interrupted installation left: the lock says that nobody is at work on it.
    let work = tools.cache.join(format!("{name}.part"));
    if work.exists() {
        fs::remove_dir_all(&work).map_err(file("remove", &work))?;
    }
    fs::create_dir_all(&work).map_err(file("make", &work))?;
    for (name, text) in files {
        write(&work.join(name), text.as_bytes())?;
    }
    install(&work, told)?;
    fs::rename(&work, &place).map_err(file("make", &place))?;
    Ok(place)
}

/// Twelve hex digits tell apart far more versions than there will be.
fn digest(files: &[(&str, &str)]) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, text) in files {
        for part in [name, text] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    hasher.finalize().to_hex()[..12].to_owned()
}
