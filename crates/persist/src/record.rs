//! The durable record: a command is in the log on the disk before it is applied and answered.
//!
//! One thread owns the file and the record. It takes all commands that wait as one batch: one transaction, one
//! `fdatasync`, then [`Record::apply`] for each, then one new [`Arc<Record>`] for the readers, who never wait.
//!
//! [`Keeper::propose`] is the one seam through which the record changes, so that openraft can stand behind it
//! when boxes become many. Refused commands are in the log too: every box skips them alike.
//!
//! A log that fails once takes no more commands ([`ProposeError::Down`]): after a failed `fdatasync` nobody knows
//! what the disk holds, and going on would build on it. Readers keep the record as it was last published.

mod file;

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use base::limits::{
    COMMANDS_PER_APPEND_MAX, COMMANDS_PER_SNAPSHOT, COMMANDS_WAITING_MAX, RECORD_LOG_BYTES_MAX, RECORD_NEWS_WAITING_MAX,
};
use state::{Applied, Entry, Event, Record, Refusal};
use tokio::sync::{broadcast, oneshot};

pub use file::OpenError;
use file::{AppendError, RecordFile};

/// What became of a command, when it wasn't taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// The record said no; it is as it was.
    #[error("the record refused the command")]
    Refused(#[source] Refusal),
    /// Nothing happened: too many commands wait.
    #[error("too many commands wait for the record's log: try again in a moment")]
    Busy,
    /// Nothing happened: the log found no room. It goes on when there is some.
    #[error("the disk is full, so the command was not taken: make room where the data directory lies")]
    Full,
    /// Nothing happened: the node goes down.
    #[error("the node is going down and takes no more commands: try again when it is back")]
    Closed,
    /// The command couldn't be written down as JSON. Nothing happened.
    #[error("the command can't be written as JSON: {0}")]
    Unwritable(String),
    /// Whether it happened is unknown; the next start knows.
    #[error("the record's log failed: {cause}. Whether the command was taken shows when the node is started again")]
    Down { cause: Arc<str> },
}

/// The record and its log. Cheap to clone; all clones are one. The last to go closes it.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    /// None once the last keeper goes: the owner then ends.
    proposals: Option<SyncSender<Message>>,
    published: Arc<ArcSwap<Record>>,
    news: broadcast::WeakSender<Arc<Batch>>,
    ended: Arc<Ended>,
    owner: Mutex<Option<JoinHandle<()>>>,
}

/// How the owner ended: the cause, where its log failed. Nothing here, and no owner: it panicked.
type Ended = OnceLock<Option<Arc<str>>>;

enum Message {
    Propose(Proposal),
    Close,
}

struct Proposal {
    entry: Entry,
    /// The entry as the log stores it: written by the one who proposes, not by the thread that all wait for.
    text: String,
    answer: oneshot::Sender<Result<Applied, ProposeError>>,
}

/// What one append did.
struct Batch {
    record: Arc<Record>,
    events: Arc<[Event]>,
}

impl Keeper {
    /// Opens `dir/record.sqlite`, or makes it, and replays what the log holds since the last snapshot. Blocks.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let opened = RecordFile::open(dir)?;
        let published = Arc::new(ArcSwap::from_pointee(opened.record.clone()));
        let (news, _) = broadcast::channel(RECORD_NEWS_WAITING_MAX);
        let ended = Arc::new(Ended::new());
        let (proposals, received) = sync_channel(COMMANDS_WAITING_MAX);
        let inner_news = news.downgrade();
        let owner = Owner {
            file: opened.file,
            record: opened.record,
            since_snapshot: opened.log_entries,
            log_bytes: opened.log_bytes,
            published: Arc::clone(&published),
            news,
            ended: Arc::clone(&ended),
        };
        let owner = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || owner.run(&received))
            .map_err(OpenError::Thread)?;
        let inner =
            Inner { proposals: Some(proposals), published, news: inner_news, ended, owner: Mutex::new(Some(owner)) };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Asks the record to take a command. When this returns, what it says is on the disk.
    ///
    /// A caller who stops waiting doesn't take the command back.
    pub async fn propose(&self, entry: Entry) -> Result<Applied, ProposeError> {
        let text = serde_json::to_string(&entry).map_err(|error| ProposeError::Unwritable(error.to_string()))?;
        let (answer, answered) = oneshot::channel();
        let proposals = self.inner.proposals.as_ref().expect("taken only when the last keeper is dropped");
        match proposals.try_send(Message::Propose(Proposal { entry, text, answer })) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ProposeError::Busy),
            Err(TrySendError::Disconnected(_)) => return Err(self.inner.gone()),
        }
        // Without an answer the owner ended with the command in its hands or in its queue.
        answered.await.unwrap_or_else(|_| Err(self.inner.gone()))
    }

    /// The record after everything that was acknowledged so far. Never waits.
    pub fn record(&self) -> Arc<Record> {
        self.inner.published.load_full()
    }

    /// The record as it is now, and a watcher that tells all that happens to it from then on.
    pub fn subscribe(&self) -> (Arc<Record>, Watcher) {
        // First the ear, then the look: what happens between comes twice, and the index tells it apart.
        let news = self.inner.news.upgrade().map(|news| news.subscribe());
        let record = self.record();
        let watcher = Watcher { news, published: Arc::clone(&self.inner.published), seen: record.index() };
        (record, watcher)
    }

    /// Answers what waits, writes a snapshot, and takes no more commands. Blocks.
    pub fn close(&self) {
        if let Some(proposals) = &self.inner.proposals {
            // The owner that is gone already needs no telling.
            let _ = proposals.send(Message::Close);
        }
        self.inner.join();
    }
}

impl Inner {
    /// What to tell about a command that the owner didn't answer.
    fn gone(&self) -> ProposeError {
        match self.ended.get() {
            Some(None) => ProposeError::Closed,
            Some(Some(cause)) => ProposeError::Down { cause: Arc::clone(cause) },
            None => ProposeError::Down { cause: "its thread panicked".into() },
        }
    }

    fn join(&self) {
        let owner = self.owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(owner) = owner
            && owner.join().is_err()
        {
            tracing::error!("the record's thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.proposals = None;
        self.join();
    }
}

/// Tells what happens to the record, for those who keep something derived from it.
pub struct Watcher {
    news: Option<broadcast::Receiver<Arc<Batch>>>,
    published: Arc<ArcSwap<Record>>,
    seen: u64,
}

/// What happened to the record.
#[derive(Clone, Debug)]
pub enum News {
    /// These events, in order, led to this record. Some commands, such as a token's, cause none.
    Changed { record: Arc<Record>, events: Arc<[Event]> },
    /// The watcher was too slow and events were lost: build everything anew from this record.
    Lagged { record: Arc<Record> },
}

impl Watcher {
    /// What happened next; waits for it. None once the keeper has closed or its log has failed.
    pub async fn next(&mut self) -> Option<News> {
        let news = self.news.as_mut()?;
        loop {
            match news.recv().await {
                Ok(batch) if batch.record.index() <= self.seen => {}
                Ok(batch) => {
                    self.seen = batch.record.index();
                    return Some(News::Changed {
                        record: Arc::clone(&batch.record),
                        events: Arc::clone(&batch.events),
                    });
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    // The record that comes next has all that is still queued.
                    *news = news.resubscribe();
                    let record = self.published.load_full();
                    self.seen = record.index();
                    return Some(News::Lagged { record });
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// The thread that owns the file and the record.
struct Owner {
    file: RecordFile,
    record: Record,
    since_snapshot: u64,
    log_bytes: usize,
    published: Arc<ArcSwap<Record>>,
    news: broadcast::Sender<Arc<Batch>>,
    ended: Arc<Ended>,
}

impl Owner {
    fn run(mut self, received: &Receiver<Message>) {
        let mut closing = false;
        while !closing && let Ok(message) = received.recv() {
            let mut batch = Vec::new();
            let mut next = Some(message);
            while let Some(message) = next.take() {
                match message {
                    Message::Propose(proposal) => batch.push(proposal),
                    Message::Close => closing = true,
                }
                if !closing && batch.len() < COMMANDS_PER_APPEND_MAX {
                    next = received.try_recv().ok();
                }
            }
            if let Err(cause) = self.take(batch) {
                tracing::error!(%cause, "the record's log failed: no more commands are taken");
                return;
            }
            if self.since_snapshot >= COMMANDS_PER_SNAPSHOT || self.log_bytes >= RECORD_LOG_BYTES_MAX {
                self.cut();
            }
        }
        if self.since_snapshot > 0 {
            self.cut();
        }
        let _ = self.ended.set(None);
    }

    /// Makes the batch durable, applies it, publishes the record, answers: in this order.
    fn take(&mut self, batch: Vec<Proposal>) -> Result<(), Arc<str>> {
        if batch.is_empty() {
            return Ok(());
        }
        let texts = batch.iter().map(|proposal| proposal.text.as_str());
        let refused = match self.file.append(self.record.index() + 1, texts) {
            Ok(()) => None,
            Err(error @ AppendError::Full { .. }) => {
                tracing::error!(error = base::chain(&error), "commands were not taken");
                Some((ProposeError::Full, Ok(())))
            }
            Err(error) => {
                let cause: Arc<str> = base::chain(&error).into();
                // First the reason, then the answers: nobody who is answered finds it missing.
                let _ = self.ended.set(Some(Arc::clone(&cause)));
                Some((ProposeError::Down { cause: Arc::clone(&cause) }, Err(cause)))
            }
        };
        if let Some((said, outcome)) = refused {
            for proposal in batch {
                let _ = proposal.answer.send(Err(said.clone()));
            }
            return outcome;
        }
        let mut events = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for Proposal { entry, text, answer } in batch {
            let outcome = self.record.apply(&entry).map_err(ProposeError::Refused);
            if let Ok(applied) = &outcome {
                events.extend(applied.events.iter().cloned());
            }
            self.since_snapshot += 1;
            self.log_bytes += text.len();
            answers.push((answer, outcome));
        }
        let record = Arc::new(self.record.clone());
        self.published.store(Arc::clone(&record));
        // Nobody watching is fine.
        let _ = self.news.send(Arc::new(Batch { record, events: events.into() }));
        for (answer, outcome) in answers {
            // Whoever no longer waits learns it from the record.
            let _ = answer.send(outcome);
        }
        Ok(())
    }

    /// Writes a snapshot and cuts the log. One that fails is tried again a whole log later: the log has it all.
    fn cut(&mut self) {
        if let Err(error) = self.file.snapshot(&self.record) {
            tracing::error!(
                error = base::chain(&error),
                "no snapshot of the record was written; its log has everything"
            );
        }
        self.since_snapshot = 0;
        self.log_bytes = 0;
    }
}

#[cfg(test)]
mod tests;
