//! The record as openraft's state machine, and whom it tells.
//!
//! Every box learns what became of a command by applying it: who proposed it here is answered from here, whoever led the
//! group. So an answer never runs ahead of the record that its asker reads.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use base::limits::{COMMANDS_PER_SNAPSHOT, RECORD_LOG_BYTES_MAX};
use futures_util::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder};
use state::{Applied, Event, Record};
use tokio::sync::{Notify, OwnedSemaphorePermit, broadcast, oneshot, watch};
use tokio::time::Instant;

use super::applied::{Outcome, State};
use super::types::{LogEntry, LogId, Payload, Proposal, ProposalId, Snapshot, SnapshotMeta, StoredMembership, Types};
use super::writer::Writer;
use super::{Batch, ProposeError};

/// A proposal of this box's that waits to be applied here.
pub(super) struct Waiting {
    pub(super) proposal: Proposal,
    pub(super) answer: oneshot::Sender<Result<Applied, ProposeError>>,
    pub(super) deadline: Instant,
    /// Times that it was handed to a leader who hasn't said that it didn't take it.
    pub(super) open: u32,
    /// Its place among those that may wait.
    pub(super) _place: OwnedSemaphorePermit,
}

/// Whom the record tells what happens to it. Lives as long as the record's thread.
pub(super) struct Outward {
    published: Arc<ArcSwap<Record>>,
    news: broadcast::Sender<Arc<Batch>>,
    waiting: Mutex<HashMap<ProposalId, Waiting>>,
    /// In the order of their deadlines. Those that were answered stay until theirs.
    deadlines: Mutex<VecDeque<(Instant, ProposalId)>>,
    applied: watch::Sender<Option<LogId>>,
    membership: Mutex<StoredMembership>,
    /// The last snapshot that is on the disk.
    snapshot: Mutex<Option<Arc<State>>>,
    /// The log is long enough to be cut.
    pub(super) long: Notify,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outward {
    pub(super) fn new(published: Arc<ArcSwap<Record>>, news: broadcast::Sender<Arc<Batch>>) -> Self {
        Self {
            published,
            news,
            waiting: Mutex::default(),
            deadlines: Mutex::default(),
            applied: watch::channel(None).0,
            membership: Mutex::default(),
            snapshot: Mutex::default(),
            long: Notify::new(),
        }
    }

    pub(super) fn wait(&self, waiting: Waiting) {
        let (id, deadline) = (waiting.proposal.id, waiting.deadline);
        locked(&self.waiting).insert(id, waiting);
        locked(&self.deadlines).push_back((deadline, id));
    }

    /// Does something with a proposal that still waits.
    pub(super) fn with<T>(&self, id: ProposalId, what: impl FnOnce(&mut Waiting) -> T) -> Option<T> {
        locked(&self.waiting).get_mut(&id).map(what)
    }

    pub(super) fn answer(&self, id: ProposalId, answer: Result<Applied, ProposeError>) {
        let waiting = locked(&self.waiting).remove(&id);
        if let Some(waiting) = waiting {
            // Whoever no longer waits learns it from the record.
            let _ = waiting.answer.send(answer);
        }
    }

    pub(super) fn any_waits(&self) -> bool {
        !locked(&self.waiting).is_empty()
    }

    /// Everybody who waits, to be told how it ended.
    pub(super) fn take_all(&self) -> Vec<Waiting> {
        locked(&self.waiting).drain().map(|(_, waiting)| waiting).collect()
    }

    /// When the time of the first is over that still waits.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let (mut deadlines, waiting) = (locked(&self.deadlines), locked(&self.waiting));
        while deadlines.front().is_some_and(|(_, id)| !waiting.contains_key(id)) {
            deadlines.pop_front();
        }
        deadlines.front().map(|(deadline, _)| *deadline)
    }

    /// The record's index, by what was applied here.
    pub(super) fn index(&self) -> u64 {
        self.published.load().index()
    }

    /// Those whose time is over.
    pub(super) fn take_overdue(&self, now: Instant) -> Vec<Waiting> {
        let mut deadlines = locked(&self.deadlines);
        let mut overdue = Vec::new();
        while let Some((deadline, id)) = deadlines.front().copied()
            && deadline <= now
        {
            deadlines.pop_front();
            overdue.extend(locked(&self.waiting).remove(&id));
        }
        overdue
    }

    pub(super) fn applied(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    pub(super) fn membership(&self) -> StoredMembership {
        locked(&self.membership).clone()
    }

    pub(super) fn snapshot(&self) -> Option<Arc<State>> {
        locked(&self.snapshot).clone()
    }

    fn publish(&self, state: &State, events: Vec<Event>) {
        let record = Arc::new(state.record.clone());
        locked(&self.membership).clone_from(&state.membership);
        self.published.store(Arc::clone(&record));
        // Nobody watching is fine.
        let _ = self.news.send(Arc::new(Batch { record, events: events.into(), anew: false }));
    }

    /// The record is another one than the last by more than events tell.
    fn publish_anew(&self, state: &State) {
        let record = Arc::new(state.record.clone());
        locked(&self.membership).clone_from(&state.membership);
        self.published.store(Arc::clone(&record));
        let _ = self.news.send(Arc::new(Batch { record, events: Arc::default(), anew: true }));
    }
}

/// The state that all committed entries have led to, and its last snapshot.
pub(super) struct Machine {
    state: State,
    out: Arc<Outward>,
    writer: Writer,
    since_snapshot: u64,
    log_bytes: usize,
}

impl Machine {
    pub(super) fn new(snapshot: Option<State>, out: Arc<Outward>, writer: Writer) -> Self {
        let state = snapshot.clone().unwrap_or_default();
        *locked(&out.snapshot) = snapshot.map(Arc::new);
        out.publish(&state, Vec::new());
        out.applied.send_replace(state.last);
        Self { state, out, writer, since_snapshot: 0, log_bytes: 0 }
    }

    pub(super) fn last(&self) -> Option<LogId> {
        self.state.last
    }

    /// Applies decided entries, publishes what they led to, then answers who waited for them.
    pub(super) fn take(&mut self, entries: &[LogEntry]) {
        let mut batch = Progress::default();
        for entry in entries {
            self.take_one(entry, &mut batch);
        }
        self.finish(batch);
    }

    fn take_one(&mut self, entry: &LogEntry, batch: &mut Progress) {
        let before = self.state.record.index();
        let outcome = self.state.apply(entry);
        batch.commands += self.state.record.index() - before;
        self.since_snapshot += 1;
        if let Payload::Normal(proposal) = &entry.payload {
            self.log_bytes += proposal.text.len();
        }
        let Some((id, outcome)) = outcome else { return };
        let answer = match outcome {
            Outcome::Applied(applied) => applied.map_err(ProposeError::Refused),
            Outcome::TooLate => Err(ProposeError::Unknown),
        };
        if let Ok(applied) = &answer {
            batch.events.extend(applied.events.iter().cloned());
        }
        batch.answers.push((id, answer));
    }

    fn finish(&mut self, batch: Progress) {
        if batch.commands > 0 {
            self.out.publish(&self.state, batch.events);
        } else {
            locked(&self.out.membership).clone_from(&self.state.membership);
        }
        self.out.applied.send_replace(self.state.last);
        for (id, answer) in batch.answers {
            self.out.answer(id, answer);
        }
        if self.since_snapshot >= COMMANDS_PER_SNAPSHOT || self.log_bytes >= RECORD_LOG_BYTES_MAX {
            // A snapshot that fails is tried again a whole log later: the log has it all.
            (self.since_snapshot, self.log_bytes) = (0, 0);
            self.out.long.notify_one();
        }
    }

    /// Whether there is anything that the last snapshot hasn't.
    pub(super) fn has_news(&self) -> bool {
        self.out.snapshot().is_none_or(|snapshot| snapshot.record.index() < self.state.record.index())
    }

    pub(super) fn builder(&self) -> Builder {
        Builder { state: Arc::new(self.state.clone()), out: Arc::clone(&self.out), writer: self.writer.clone() }
    }

    /// Becomes what another box was. On return it is on the disk.
    pub(super) async fn become_state(&mut self, state: Arc<State>) -> io::Result<()> {
        if !self.writer.snapshot(Arc::clone(&state)).await? {
            return Err(io::Error::other("the snapshot that another box sent can't be written"));
        }
        self.state.clone_from(&state);
        (self.since_snapshot, self.log_bytes) = (0, 0);
        *locked(&self.out.snapshot) = Some(state);
        self.out.publish_anew(&self.state);
        self.out.applied.send_replace(self.state.last);
        Ok(())
    }
}

#[derive(Default)]
struct Progress {
    commands: u64,
    events: Vec<Event>,
    answers: Vec<(ProposalId, Result<Applied, ProposeError>)>,
}

/// Writes one snapshot.
pub(super) struct Builder {
    state: Arc<State>,
    out: Arc<Outward>,
    writer: Writer,
}

impl Builder {
    /// Where it can't be written, the last one stays: then the log isn't cut, and nothing is lost.
    pub(super) async fn build(self) -> io::Result<Arc<State>> {
        let written = self.writer.snapshot(Arc::clone(&self.state)).await?;
        let mut current = locked(&self.out.snapshot);
        if written && current.as_ref().is_none_or(|current| current.last < self.state.last) {
            *current = Some(self.state);
        }
        current.clone().ok_or_else(|| io::Error::other("the record's first snapshot can't be written"))
    }
}

fn snapshot_of(state: Arc<State>) -> Snapshot {
    Snapshot { meta: state.meta(), snapshot: state }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Arc<State>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let builder = Self { state: Arc::clone(&self.state), out: Arc::clone(&self.out), writer: self.writer.clone() };
        builder.build().await.map(snapshot_of)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = Arc<State>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.state.last, self.state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<(LogEntry, Option<ApplyResponder<Types>>)>> + Unpin + OptionalSend,
    {
        let (mut batch, mut told) = (Progress::default(), Vec::new());
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.take_one(&entry, &mut batch);
            told.extend(responder);
        }
        self.finish(batch);
        for responder in told {
            responder.send(());
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, _meta: &SnapshotMeta, snapshot: Arc<State>) -> io::Result<()> {
        self.become_state(snapshot).await
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.out.snapshot().map(snapshot_of))
    }
}
