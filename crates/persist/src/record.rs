//! The durable record: a command is in the log on the disks of more than half of the voters before it is applied and
//! answered.
//!
//! [`Keeper::propose`] is the one seam through which the record changes. Behind it stands openraft: a lone box is a group
//! of one voter, the persistence boxes of a cloud are one of up to five, and every other box follows what they decide.
//! Refused commands are in the log too: every box skips them alike.
//!
//! ```text
//!   propose ──→ desk ──→ who leads ──→ log (writer: one transaction, one sync for all that wait)
//!                                       │ decided
//!   answer  ←── machine (every box applies, publishes, and answers those who proposed on it) ←──┘
//! ```
//!
//! One thread, `record`, runs all of it on a runtime of its own, so that no core of the web's is disturbed; a second,
//! `record-log`, owns the file. Readers take one new [`Arc<Record>`] and never wait.
//!
//! A log that fails once takes no more commands ([`ProposeError::Down`]): after a failed `fdatasync` nobody knows
//! what the disk holds, and going on would build on it. Readers keep the record as it was last published.

mod answer;
mod applied;
mod desk;
mod file;
mod follower;
mod log;
mod machine;
mod network;
mod peers;
mod responder;
mod standing;
mod thread;
mod types;
mod voters;
mod wire;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use base::BoxId;
use bytes::Bytes;
use state::{Applied, Entry, Event, Record, Refusal};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot};

use desk::{Desk, deadline, too_long};
pub use file::OpenError;
use file::Owner;
use machine::Waiting;
pub use peers::{Answer, PeerError, Peers, Trust, Weight};
pub use standing::{Part, Standing};
use thread::Message;
use types::{Member, Proposal, ProposalId};
pub use voters::{Candidate, Members, SetVotersError, voters_of};

/// A lone box has no key that anybody knows it by.
const LONE: Member = Member(BoxId([0; BoxId::BYTES]));

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
    /// Nothing happened: more than half of the voters can't be reached, or this box reaches none that leads them.
    #[error("the command was not taken: too few of the cloud's persistence boxes can be reached to decide it")]
    NoQuorum,
    /// Nobody can tell whether it happened. It happens once or not at all.
    #[error(
        "whether the command was taken is unknown, as the persistence boxes stopped answering meanwhile: look before \
         you try again"
    )]
    Unknown,
    /// Nothing happened: the node goes down.
    #[error("the node is going down and takes no more commands: try again when it is back")]
    Closed,
    /// The command couldn't be written down as JSON. Nothing happened.
    #[error("the command can't be written as JSON: {0}")]
    Unwritable(String),
    /// Nothing happened: the log holds no command of that size.
    #[error("the command has {bytes} bytes as JSON, and {max} is the most", max = base::limits::RECORD_ENTRY_BYTES_MAX)]
    TooLong { bytes: usize },
    /// Whether it happened is unknown; the next start knows.
    #[error("the record's log failed: {cause}. Whether the command was taken shows when the node is started again")]
    Down { cause: Arc<str> },
}

/// A box's place in the group of its cloud's persistence boxes.
pub struct Group {
    pub me: BoxId,
    pub start: Start,
    pub peers: Arc<dyn Peers>,
}

/// How a box without a record comes to one. One that has a record goes on with it either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The cloud begins here. What a lone box kept in this directory becomes the cloud's.
    Found,
    /// The others will tell: [`Keeper::set_members`] on one of them makes this box one of the members.
    Join,
}

/// The record and its log. Cheap to clone; all clones are one. The last to go closes it.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    /// None once the last keeper goes: the thread then ends.
    proposals: Option<mpsc::Sender<Message>>,
    calls: mpsc::Sender<thread::Incoming>,
    /// Places for calls of other boxes that wait for their answer.
    call_places: Semaphore,
    /// Places for proposals that wait.
    places: Arc<Semaphore>,
    /// Drawn once; each proposal has the next number.
    drawn: [u64; 2],
    number: std::sync::atomic::AtomicU64,
    published: Arc<ArcSwap<Record>>,
    news: broadcast::WeakSender<Arc<Batch>>,
    desk: Weak<Desk>,
    down: Down,
    owner: Mutex<Option<JoinHandle<()>>>,
}

/// How the thread ended: the cause, where its log failed. Nothing here, and no thread: it panicked.
type Ended = OnceLock<Option<Arc<str>>>;

/// What ends the record's thread before it is closed.
#[derive(Clone, Default)]
struct Down {
    ended: Arc<Ended>,
    told: Arc<Notify>,
}

impl Down {
    /// The first cause is the one that is told.
    fn set(&self, cause: &str) {
        let _ = self.ended.set(Some(cause.into()));
        self.told.notify_one();
    }

    fn close(&self) {
        let _ = self.ended.set(None);
    }

    /// What to tell about a command that nobody answered.
    fn error(&self) -> ProposeError {
        match self.ended.get() {
            Some(None) => ProposeError::Closed,
            Some(Some(cause)) => ProposeError::Down { cause: Arc::clone(cause) },
            None => ProposeError::Down { cause: "its thread panicked".into() },
        }
    }
}

/// What one append did.
struct Batch {
    record: Arc<Record>,
    events: Arc<[Event]>,
    /// It did more than the events tell.
    anew: bool,
}

impl Keeper {
    /// Opens a lone box's `dir/record.sqlite`, or makes it, and replays what the log holds since the last snapshot.
    /// Blocks.
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        thread::start(dir, Owner::Lone(LONE), LONE, Arc::new(peers::Nobody), Vec::new())
    }

    /// As [`open`](Self::open), as one of a cloud's persistence boxes.
    pub fn open_in_group(dir: &Path, group: Group) -> Result<Self, OpenError> {
        let me = Member(group.me);
        let owner = match group.start {
            Start::Found => Owner::Founder { me, lone: LONE },
            Start::Join => Owner::Joiner { lone: LONE },
        };
        thread::start(dir, owner, me, group.peers, Vec::new())
    }

    /// As [`open`](Self::open), as a box that has no vote and keeps up with those that have. It asks `first` until it
    /// knows who votes. Serves what it has when nobody answers.
    pub fn follow(dir: &Path, me: BoxId, peers: Arc<dyn Peers>, first: &[BoxId]) -> Result<Self, OpenError> {
        let first = first.iter().copied().map(Member).collect();
        thread::start(dir, Owner::Follower, Member(me), peers, first)
    }

    /// Asks the record to take a command. When this returns, what it says is decided, on the disk of this box and in
    /// what [`record`](Self::record) gives.
    ///
    /// A caller who stops waiting doesn't take the command back.
    pub async fn propose(&self, entry: Entry) -> Result<Applied, ProposeError> {
        let inner = &self.inner;
        let proposal = Proposal::new(inner.next_id(), self.record().index(), entry)
            .map_err(|error| ProposeError::Unwritable(error.to_string()))?;
        if too_long(&proposal) {
            return Err(ProposeError::TooLong { bytes: proposal.text.len() });
        }
        let place = Arc::clone(&inner.places).try_acquire_owned().map_err(|_| ProposeError::Busy)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { proposal, answer, deadline: deadline(), open: 0, _place: place };
        let proposals = inner.proposals.as_ref().expect("taken only when the last keeper is dropped");
        match proposals.try_send(Message::Propose(waiting)) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(ProposeError::Busy),
            Err(TrySendError::Closed(_)) => return Err(inner.down.error()),
        }
        // Without an answer the thread ended with the command in its hands or in its queue.
        answered.await.unwrap_or_else(|_| Err(inner.down.error()))
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

    /// Answers another box, which is `from` by its link's word. Foreign bytes are refused in words.
    pub async fn answer(&self, from: BoxId, message: Bytes) -> Bytes {
        let Ok(_place) = self.inner.call_places.try_acquire() else { return wire::reply(&wire::Reply::Busy) };
        let (answer, answered) = oneshot::channel();
        match self.inner.calls.try_send(thread::Incoming { from, message, answer }) {
            Ok(()) => answered.await.unwrap_or_else(|_| wire::reply(&wire::Reply::Refused("it was closed".to_owned()))),
            Err(TrySendError::Full(_)) => wire::reply(&wire::Reply::Busy),
            Err(TrySendError::Closed(_)) => wire::reply(&wire::Reply::Refused("it was closed".to_owned())),
        }
    }

    /// Makes these boxes the members, through the leader wherever it is. New voters first learn what the others know; one
    /// that is dead can be left out while more than half of the others live. Returns when it is decided.
    pub async fn set_members(&self, wanted: Members) -> Result<(), SetVotersError> {
        let (answer, answered) = oneshot::channel();
        let proposals = self.inner.proposals.as_ref().expect("taken only when the last keeper is dropped");
        proposals.try_send(Message::SetMembers { wanted, answer }).map_err(|error| match error {
            TrySendError::Full(_) => SetVotersError::Busy,
            TrySendError::Closed(_) => SetVotersError::Refused("the record was closed".to_owned()),
        })?;
        answered.await.unwrap_or(Err(SetVotersError::Unknown))
    }

    /// How the group stands, as this box sees it. Never waits.
    pub fn standing(&self) -> Standing {
        self.inner.desk.upgrade().map_or_else(Standing::gone, |desk| desk.standing())
    }

    /// Answers what waits, writes a snapshot, and takes no more commands. Blocks.
    pub fn close(&self) {
        self.inner.end(Message::Close);
    }

    /// Ends as a process does that is killed: nothing that waits is written.
    #[cfg(test)]
    fn crash(&self) {
        self.inner.end(Message::Crash);
    }
}

impl Inner {
    fn next_id(&self) -> ProposalId {
        let number = self.number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ProposalId([self.drawn[0], self.drawn[1].wrapping_add(number)])
    }

    fn end(&self, how: Message) {
        if let Some(proposals) = &self.proposals {
            let mut how = how;
            // A full queue empties by itself, and a thread that is gone needs no telling.
            while let Err(TrySendError::Full(again)) = proposals.try_send(how) {
                how = again;
                std::thread::yield_now();
            }
        }
        self.join();
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
    /// Events were lost, as the watcher was too slow or the box was away for long: build everything anew from this
    /// record.
    Lagged { record: Arc<Record> },
}

impl Watcher {
    /// What happened next; waits for it. None once the keeper has closed or its log has failed.
    pub async fn next(&mut self) -> Option<News> {
        let news = self.news.as_mut()?;
        loop {
            match news.recv().await {
                Ok(batch) if batch.record.index() <= self.seen => {}
                Ok(batch) if batch.anew => {
                    self.seen = batch.record.index();
                    return Some(News::Lagged { record: Arc::clone(&batch.record) });
                }
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

#[cfg(test)]
mod tests;
