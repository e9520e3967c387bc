//! Apps' logs: what each said last, in two bounded files of JSON lines.
//!
//! [`Logs::write`] never waits: one thread writes the files. An app that says more than its share loses lines, and
//! the log says how many; so does a disk that is full. Lines are not synced: a loss of power may take the last
//! seconds, a process that is killed only what was queued.
//!
//! Faults and access lines have files and a share of their own each: they are as many as visitors like, and a crowd must
//! not push out what the app itself said. Whoever reads gets all, put together by their time.
//!
//! A look at a log goes through the writer, which hands out the open files as they are at that moment. So it sees
//! all that was written before, and a follower gets every line after, none twice and none between.

mod gate;
mod writer;

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use base::limits::{
    LOG_BATCHES_QUEUED_MAX, LOG_LINE_BYTES_MAX, LOG_LINES_QUEUED_MAX, LOG_REQUEST_BYTES_MAX, LOG_TAIL_LINES_MAX,
};
use base::{AppId, Name, ReleaseNo, TenantId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::disk::{self, Room};
use gate::{Gates, Pass};
use writer::{Message, Shown, Writer};

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// The app's standard output.
    Stdout,
    /// The app's standard error.
    Stderr,
    /// The cloud, about a request or the app that failed.
    Fault,
    /// The cloud, about a request that was answered: what an app's `access_log` asks for.
    Access,
}

/// One of an app's three logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Book {
    tenant: TenantId,
    app: AppId,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// What the app said, and how much of that was dropped.
    Said,
    Fault,
    Access,
}

impl Book {
    /// Where a line that was not yet dropped belongs.
    fn of(tenant: TenantId, app: AppId, line: &Line) -> Self {
        let kind = match line.stream {
            Stream::Stdout | Stream::Stderr => Kind::Said,
            Stream::Fault => Kind::Fault,
            Stream::Access => Kind::Access,
        };
        Self { tenant, app, kind }
    }
}

/// One line of an app's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    pub at: Timestamp,
    pub stage: Name,
    pub release: ReleaseNo,
    /// The id of the request it belongs to. Cut at [`LOG_REQUEST_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    pub stream: Stream,
    /// Cut at [`LOG_LINE_BYTES_MAX`], and then says how much is gone.
    pub text: String,
}

/// Which lines are meant: those that match all that is given here. All lines, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub stage: Option<Name>,
    pub release: Option<ReleaseNo>,
    pub request: Option<String>,
    pub stream: Option<Stream>,
    /// This moment and later.
    pub since: Option<Timestamp>,
}

impl Filter {
    pub fn matches(&self, line: &Line) -> bool {
        self.stage.as_ref().is_none_or(|stage| *stage == line.stage)
            && self.release.is_none_or(|release| release == line.release)
            && self.request.as_ref().is_none_or(|request| line.request.as_ref() == Some(request))
            && self.stream.is_none_or(|stream| stream == line.stream)
            && self.since.is_none_or(|since| since <= line.at)
    }
}

/// Why the logs can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the logs' directory {path} can't be made: check that its parent is writable")]
    Make {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the logs' thread can't be started")]
    Thread(#[source] io::Error),
}

/// Why a log can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{path} can't be read")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the node is going down")]
    Closed,
}

/// All logs of the box. Cheap to clone; all clones are one. The last to go closes them.
#[derive(Clone)]
pub struct Logs {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    gates: Arc<Gates>,
    /// None once the last one goes: the writer then ends.
    messages: Option<SyncSender<Message>>,
    /// Batches that wait among these.
    batches: Arc<AtomicUsize>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Logs {
    /// Opens `dir/logs`, and starts the writer. Blocks.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        Self::open_within(dir, Room::on(dir))
    }

    fn open_within(dir: &Path, room: Room) -> Result<Self, OpenError> {
        let root = dir.join("logs");
        disk::create_dir(&root).map_err(|source| OpenError::Make { path: root.clone(), source })?;
        let (messages, received) = sync_channel(LOG_LINES_QUEUED_MAX);
        let gates = Arc::new(Gates::default());
        let batches = Arc::new(AtomicUsize::new(0));
        let writer = Writer::new(root.clone(), room, Arc::clone(&gates), Arc::clone(&batches));
        let writer = std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(OpenError::Thread)?;
        let (messages, writer) = (Some(messages), Mutex::new(Some(writer)));
        Ok(Self { inner: Arc::new(Inner { root, gates, messages, batches, writer }) })
    }

    /// Takes a line. Never waits: a line too many is dropped, and the log says so.
    ///
    /// The app's share is counted by the lines' own time.
    pub fn write(&self, tenant: TenantId, app: AppId, mut line: Line) {
        shorten(&mut line);
        let book = Book::of(tenant, app, &line);
        for line in self.admitted(book, line).into_iter().flatten() {
            if let Err(TrySendError::Full(Message::Line(book, line))) =
                self.messages().try_send(Message::Line(book, line))
            {
                self.inner.gates.lost(book, &line, 1);
            }
        }
    }

    /// Takes the lines of many apps in one go, at the most [`base::limits::LOG_BATCH_LINES_MAX`] of them: the writer is woken once for
    /// them all. Never waits.
    pub fn write_batch(&self, lines: Vec<(TenantId, AppId, Line)>) {
        let mut admitted = Vec::with_capacity(lines.len() + 1);
        for (tenant, app, mut line) in lines {
            shorten(&mut line);
            let book = Book::of(tenant, app, &line);
            admitted.extend(self.admitted(book, line).into_iter().flatten().map(|line| (book, line)));
        }
        if admitted.is_empty() {
            return;
        }
        let lost = if self.inner.batches.fetch_add(1, Ordering::Relaxed) < LOG_BATCHES_QUEUED_MAX {
            match self.messages().try_send(Message::Batch(admitted)) {
                Ok(()) => return,
                Err(TrySendError::Full(Message::Batch(lines)) | TrySendError::Disconnected(Message::Batch(lines))) => {
                    lines
                }
                Err(_) => unreachable!("what was not sent comes back"),
            }
        } else {
            admitted
        };
        self.inner.batches.fetch_sub(1, Ordering::Relaxed);
        for (book, line) in lost {
            self.inner.gates.lost(book, &line, 1);
        }
    }

    /// The notice that is due before the line, and the line, when it is within its share.
    fn admitted(&self, book: Book, line: Line) -> [Option<Line>; 2] {
        match self.inner.gates.admit(book, &line) {
            Pass::Yes => [None, Some(line)],
            Pass::After(notice) => [Some(notice), Some(line)],
            Pass::No { first } => {
                if first {
                    // The writer must know that it owes a notice, even when nothing more comes. One that has no
                    // room for this is awake.
                    let _ = self.messages().try_send(Message::Owed);
                }
                [None, None]
            }
        }
    }

    /// Lines that were dropped since the start, of all apps.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.inner.gates.dropped()
    }

    /// The last `count` lines that match, the oldest first. Sees every line whose `write` returned before. Blocks.
    pub fn tail(&self, tenant: TenantId, app: AppId, count: usize, filter: &Filter) -> Result<Vec<Line>, ReadError> {
        let (answer, answered) = sync_channel(1);
        self.tell(Message::Tail { tenant, app, answer })?;
        let shown = answered.recv().map_err(|_| ReadError::Closed)?;
        self.read(shown.map_err(|source| self.unreadable(tenant, app, source))?, tenant, app, count, filter)
    }

    /// The same, and every line from then on: none twice, and none is missing between. Blocks.
    pub fn follow(
        &self,
        tenant: TenantId,
        app: AppId,
        count: usize,
        filter: Filter,
    ) -> Result<(Vec<Line>, Follower), ReadError> {
        let (answer, answered) = sync_channel(1);
        self.tell(Message::Follow { tenant, app, answer })?;
        let (shown, lines) = answered.recv().map_err(|_| ReadError::Closed)?;
        let before =
            self.read(shown.map_err(|source| self.unreadable(tenant, app, source))?, tenant, app, count, &filter)?;
        Ok((before, Follower { lines, filter }))
    }

    /// Removes the app's log. Its followers get no more. Blocks.
    pub fn drop_app(&self, tenant: TenantId, app: AppId) {
        self.drop_logs(tenant, Some(app));
    }

    /// Removes the logs of all the tenant's apps. Blocks.
    pub fn drop_tenant(&self, tenant: TenantId) {
        self.drop_logs(tenant, None);
    }

    /// Writes what waits and takes nothing more. Blocks.
    pub fn close(&self) {
        let _ = self.tell(Message::Close);
        self.inner.join();
    }

    /// The apps that have a log.
    pub(crate) fn all(&self) -> io::Result<Vec<(TenantId, AppId)>> {
        let mut all = Vec::new();
        for tenant in disk::numbered(&self.inner.root, "")? {
            let apps = disk::numbered(&self.inner.root.join(tenant.to_string()), "")?;
            all.extend(apps.into_iter().map(|app| (TenantId(tenant), AppId(app))));
        }
        Ok(all)
    }

    fn messages(&self) -> &SyncSender<Message> {
        self.inner.messages.as_ref().expect("taken only when the last one is dropped")
    }

    fn tell(&self, message: Message) -> Result<(), ReadError> {
        self.messages().send(message).map_err(|_| ReadError::Closed)
    }

    fn drop_logs(&self, tenant: TenantId, app: Option<AppId>) {
        let (answer, answered) = sync_channel(1);
        if self.tell(Message::Drop { tenant, app, answer }).is_ok() {
            // A writer that ends meanwhile leaves the rest to the next start.
            let _ = answered.recv();
        }
    }

    fn unreadable(&self, tenant: TenantId, app: AppId, source: io::Error) -> ReadError {
        ReadError::Read { path: writer::dir(&self.inner.root, tenant, app), source }
    }

    fn read(
        &self,
        shown: Shown,
        tenant: TenantId,
        app: AppId,
        count: usize,
        filter: &Filter,
    ) -> Result<Vec<Line>, ReadError> {
        let count = count.min(LOG_TAIL_LINES_MAX);
        let [said, faults, access] = shown.newest_first.map(|files| {
            let mut lines = Vec::new();
            for (file, bytes) in files {
                if lines.len() < count {
                    read_back(file, bytes, count, filter, &mut lines)
                        .map_err(|source| self.unreadable(tenant, app, source))?;
                }
            }
            Ok(lines)
        });
        let mut access: Vec<Line> = access?;
        // They come by the batch, each core's on its own: those of the same moment may stand a batch apart.
        access.sort_by_key(|line| Reverse(line.at));
        let mut lines = newest_first(newest_first(said?, faults?, count), access, count);
        lines.reverse();
        Ok(lines)
    }
}

/// The newest `count` of two logs that each begin with their newest line. Each keeps its own order.
fn newest_first(said: Vec<Line>, of_it: Vec<Line>, count: usize) -> Vec<Line> {
    let (mut said, mut of_it) = (said.into_iter().peekable(), of_it.into_iter().peekable());
    let next = || match (said.peek(), of_it.peek()) {
        // A request's fault, and its access line, stands behind all that was said in it.
        (Some(a), Some(b)) if b.at >= a.at => of_it.next(),
        (None, Some(_)) => of_it.next(),
        _ => said.next(),
    };
    std::iter::from_fn(next).take(count).collect()
}

/// Reads a file's lines, the last first, until there are `count`. A line that was cut by a loss of power is left out.
fn read_back(file: File, bytes: u64, count: usize, filter: &Filter, lines: &mut Vec<Line>) -> io::Result<()> {
    let mut text = Vec::new();
    file.take(bytes).read_to_end(&mut text)?;
    let found = text
        .rsplit(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .filter(|line| filter.matches(line));
    lines.extend(found.take(count - lines.len()));
    Ok(())
}

fn shorten(line: &mut Line) {
    if line.text.len() > LOG_LINE_BYTES_MAX {
        let kept = line.text.floor_char_boundary(LOG_LINE_BYTES_MAX);
        let cut = line.text.len() - kept;
        line.text.truncate(kept);
        write!(line.text, " … ({cut} bytes more were cut)").expect("writing to a String can't fail");
    }
    if let Some(request) = &mut line.request {
        request.truncate(request.floor_char_boundary(LOG_REQUEST_BYTES_MAX));
    }
}

impl Inner {
    fn join(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer
            && writer.join().is_err()
        {
            tracing::error!("the logs' thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.messages = None;
        self.join();
    }
}

/// What a follower hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    Line(Arc<Line>),
    /// It was too slow, and missed so many lines here, whether they match or not.
    Missed(u64),
}

/// Hears the lines of one app as they are written.
pub struct Follower {
    lines: broadcast::Receiver<Arc<Line>>,
    filter: Filter,
}

impl Follower {
    /// The next line that matches; waits for it. None: the app was deleted, or the node goes down.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            match self.lines.recv().await {
                Ok(line) if self.filter.matches(&line) => return Some(Followed::Line(line)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => return Some(Followed::Missed(missed)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
