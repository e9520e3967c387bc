//! The thread that writes all logs.
//!
//! ```text
//!   logs/TENANT/APP/new.jsonl   what is written to; when full it becomes
//!   logs/TENANT/APP/old.jsonl   and the one before is gone
//!   logs/TENANT/APP/faults/…    the same for faults
//!   logs/TENANT/APP/access/…    and for access lines
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use base::limits::{LOG_FILE_BYTES_MAX, LOG_FILES_OPEN_MAX, LOG_LINES_WAITING_MAX};
use base::{AppId, TenantId};
use tokio::sync::broadcast;

use super::gate::Gates;
use super::{Book, Kind, Line};
use crate::disk::{self, Room};

/// How long a writer that owes notices waits for lines before it writes them.
const NOTICE_TIME: Duration = Duration::from_secs(1);
/// Messages that are handled before the files are written.
const MESSAGES_PER_WRITE: usize = 1_024;

pub(super) enum Message {
    Line(Book, Line),
    Batch(Vec<(Book, Line)>),
    /// Lines were dropped; a notice is owed.
    Owed,
    Tail {
        tenant: TenantId,
        app: AppId,
        answer: SyncSender<io::Result<Shown>>,
    },
    Follow {
        tenant: TenantId,
        app: AppId,
        answer: SyncSender<(io::Result<Shown>, broadcast::Receiver<Arc<Line>>)>,
    },
    Drop {
        tenant: TenantId,
        app: Option<AppId>,
        answer: SyncSender<()>,
    },
    Close,
}

/// An app's log at one moment: its open files and how far they are written.
pub(super) struct Shown {
    /// What was said, the faults and the access lines.
    pub newest_first: [Vec<(File, u64)>; 3],
}

pub(super) fn dir(root: &Path, tenant: TenantId, app: AppId) -> PathBuf {
    root.join(tenant.to_string()).join(app.to_string())
}

fn book_dir(root: &Path, book: Book) -> PathBuf {
    let dir = dir(root, book.tenant, book.app);
    match book.kind {
        Kind::Said => dir,
        Kind::Fault => dir.join("faults"),
        Kind::Access => dir.join("access"),
    }
}

pub(super) struct Writer {
    root: PathBuf,
    room: Room,
    gates: Arc<Gates>,
    /// Batches that wait.
    batches: Arc<AtomicUsize>,
    open: HashMap<Book, AppLog>,
    followers: HashMap<(TenantId, AppId), broadcast::Sender<Arc<Line>>>,
    /// Rounds so far: the log that is oldest by it is closed first.
    rounds: u64,
    /// The last write failed, and the operator was told.
    failing: bool,
}

impl Writer {
    pub(super) fn new(root: PathBuf, room: Room, gates: Arc<Gates>, batches: Arc<AtomicUsize>) -> Self {
        let (open, followers) = (HashMap::new(), HashMap::new());
        Self { root, room, gates, batches, open, followers, rounds: 0, failing: false }
    }

    pub(super) fn run(mut self, received: &Receiver<Message>) {
        let mut owed = false;
        loop {
            let first = if owed { received.recv_timeout(NOTICE_TIME) } else { received.recv().map_err(Into::into) };
            self.rounds += 1;
            let more = match first {
                Ok(first) => {
                    let messages = std::iter::once(first).chain(received.try_iter()).take(MESSAGES_PER_WRITE);
                    let mut more = true;
                    for message in messages {
                        owed |= matches!(message, Message::Owed);
                        more = self.handle(message);
                        if !more {
                            break;
                        }
                    }
                    more
                }
                Err(RecvTimeoutError::Timeout) => {
                    owed = false;
                    self.write_notices();
                    true
                }
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !more {
                self.write_notices();
            }
            owed |= self.write_all();
            if !more {
                return;
            }
        }
    }

    /// Does what the message says. False: it was the last.
    fn handle(&mut self, message: Message) -> bool {
        match message {
            Message::Line(book, line) => self.take(book, line),
            Message::Batch(lines) => {
                self.batches.fetch_sub(1, Ordering::Relaxed);
                for (book, line) in lines {
                    self.take(book, line);
                }
            }
            Message::Owed => {}
            // Whoever no longer waits for an answer has no use for it.
            Message::Tail { tenant, app, answer } => drop(answer.send(self.show(tenant, app))),
            Message::Follow { tenant, app, answer } => {
                let shown = self.show(tenant, app);
                let lines = self
                    .followers
                    .entry((tenant, app))
                    .or_insert_with(|| broadcast::channel(LOG_LINES_WAITING_MAX).0)
                    .subscribe();
                drop(answer.send((shown, lines)));
            }
            Message::Drop { tenant, app, answer } => {
                self.remove(tenant, app);
                let _ = answer.send(());
            }
            Message::Close => return false,
        }
        true
    }

    fn take(&mut self, book: Book, line: Line) {
        if let Err(error) = self.append(book, &line) {
            self.gates.lost(book, &line, 1);
            self.failed(&error);
        }
        let app = (book.tenant, book.app);
        if let Some(followers) = self.followers.get(&app)
            && followers.send(Arc::new(line)).is_err()
        {
            self.followers.remove(&app);
        }
    }

    /// Writes what a log holds back that is then closed.
    fn write_one(&mut self, book: Book, mut log: AppLog) {
        if let Err(error) = log.write(|line, count| self.gates.lost(book, line, count)) {
            self.failed(&error);
        }
    }

    fn append(&mut self, book: Book, line: &Line) -> io::Result<()> {
        if self.room.is_gone() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        if !self.open.contains_key(&book) {
            if self.open.len() >= LOG_FILES_OPEN_MAX
                && let Some(oldest) = self.open.iter().min_by_key(|(_, log)| log.used).map(|(key, _)| *key)
                && let Some(log) = self.open.remove(&oldest)
            {
                self.write_one(oldest, log);
            }
            let log = AppLog::open(book_dir(&self.root, book))?;
            self.open.insert(book, log);
        }
        let log = self.open.get_mut(&book).expect("it was there or just opened");
        log.used = self.rounds;
        log.append(line, &text, |line, count| self.gates.lost(book, line, count))
    }

    fn write_notices(&mut self) {
        for (book, notice) in self.gates.notices() {
            self.take(book, notice);
        }
    }

    /// Writes what the logs hold back. Says whether lines were lost by it.
    fn write_all(&mut self) -> bool {
        let mut failed = None;
        for (book, log) in &mut self.open {
            if let Err(error) = log.write(|line, count| self.gates.lost(*book, line, count)) {
                failed = Some(error);
            }
        }
        if let Some(error) = &failed {
            self.failed(error);
        } else {
            self.failing = false;
        }
        failed.is_some()
    }

    fn failed(&mut self, error: &io::Error) {
        // Once, and not for each line: the operator's own log may lie on the same disk.
        if !self.failing {
            tracing::error!(%error, path = %self.root.display(), "apps' logs can't be written; their lines are dropped");
            self.failing = true;
        }
    }

    fn show(&mut self, tenant: TenantId, app: AppId) -> io::Result<Shown> {
        let mut newest_first = [Vec::new(), Vec::new(), Vec::new()];
        for (kind, files) in [Kind::Said, Kind::Fault, Kind::Access].into_iter().zip(&mut newest_first) {
            let book = Book { tenant, app, kind };
            if let Some(log) = self.open.get_mut(&book) {
                log.write(|line, count| self.gates.lost(book, line, count))?;
            }
            let dir = book_dir(&self.root, book);
            for name in [NEW, OLD] {
                match File::open(dir.join(name)) {
                    Ok(file) => {
                        let bytes = file.metadata()?.len();
                        files.push((file, bytes));
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Shown { newest_first })
    }

    fn remove(&mut self, tenant: TenantId, app: Option<AppId>) {
        let meant = |owner: TenantId, held: AppId| owner == tenant && app.is_none_or(|app| held == app);
        self.open.retain(|book, _| !meant(book.tenant, book.app));
        self.followers.retain(|(owner, held), _| !meant(*owner, *held));
        self.gates.forget(tenant, app);
        let tenants = self.root.join(tenant.to_string());
        let path = app.map_or_else(|| tenants.clone(), |app| dir(&self.root, tenant, app));
        if let Err(error) = disk::or_gone(fs::remove_dir_all(&path)) {
            tracing::error!(%error, path = %path.display(), "a log can't be removed");
        }
        // It stays for as long as the tenant has another app that spoke.
        let _ = fs::remove_dir(tenants);
    }
}

const NEW: &str = "new.jsonl";
const OLD: &str = "old.jsonl";

/// The log of one app.
struct AppLog {
    dir: PathBuf,
    file: File,
    /// Bytes of the file.
    bytes: u64,
    /// Lines that the file doesn't have yet.
    pending: Vec<u8>,
    /// How many these are, and the last of them.
    count: u64,
    last: Option<Line>,
    used: u64,
}

impl AppLog {
    fn open(dir: PathBuf) -> io::Result<Self> {
        disk::create_dir(&dir)?;
        let (file, bytes) = open_new(&dir)?;
        Ok(Self { dir, file, bytes, pending: Vec::new(), count: 0, last: None, used: 0 })
    }

    fn append(&mut self, line: &Line, text: &[u8], lost: impl FnOnce(&Line, u64)) -> io::Result<()> {
        if self.bytes + (self.pending.len() + text.len()) as u64 > LOG_FILE_BYTES_MAX {
            self.write(lost)?;
            fs::rename(self.dir.join(NEW), self.dir.join(OLD))?;
            (self.file, self.bytes) = open_new(&self.dir)?;
        }
        self.pending.extend_from_slice(text);
        self.count += 1;
        let Line { at, stage, release, stream, .. } = line;
        let (stage, text) = (stage.clone(), String::new());
        self.last = Some(Line { at: *at, stage, release: *release, request: None, stream: *stream, text });
        Ok(())
    }

    /// Writes what is pending. Lines that find no room are lost, told to `lost`, and not kept for ever.
    fn write(&mut self, lost: impl FnOnce(&Line, u64)) -> io::Result<()> {
        let Some(newest) = self.last.take() else { return Ok(()) };
        let written = self.file.write_all(&self.pending);
        if written.is_err() {
            lost(&newest, self.count);
        }
        self.pending.clear();
        if written.is_err() {
            // What found room may end within a line: the next begins on its own.
            self.pending.push(b'\n');
        }
        self.count = 0;
        self.bytes = self.file.metadata()?.len();
        written
    }
}

/// The file to write to, and its size.
fn open_new(dir: &Path) -> io::Result<(File, u64)> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(dir.join(NEW))?;
    let mut bytes = file.metadata()?.len();
    if bytes > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            // A line was cut by a loss of power or a full disk: the next begins on its own.
            file.write_all(b"\n")?;
            bytes += 1;
        }
    }
    Ok((file, bytes))
}
