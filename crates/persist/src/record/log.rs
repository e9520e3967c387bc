//! openraft's log on our file: reads come from memory, writes go to the writer.
//!
//! The log is cut at [`COMMANDS_PER_SNAPSHOT`](base::limits::COMMANDS_PER_SNAPSHOT) entries or
//! [`RECORD_LOG_BYTES_MAX`](base::limits::RECORD_LOG_BYTES_MAX), so all of it fits in memory, and no follower's lag ever
//! makes the writer read.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::limits::{COMMANDS_PER_MESSAGE_MAX, RECORD_MESSAGE_ENTRIES_BYTES};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};

use super::file::{Change, Row};
use super::types::{LogEntry, LogId, Types, Vote};
use super::writer::{Done, Order, Writer};

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(super) struct Log {
    held: Arc<Mutex<Held>>,
    writer: Writer,
}

#[derive(Default)]
struct Held {
    entries: BTreeMap<u64, (LogEntry, usize)>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Log {
    /// What the file held.
    pub(super) fn new(
        entries: Vec<(LogEntry, usize)>,
        purged: Option<LogId>,
        vote: Option<Vote>,
        committed: Option<LogId>,
        writer: Writer,
    ) -> Self {
        let entries = entries.into_iter().map(|(entry, bytes)| (entry.log_id.index, (entry, bytes))).collect();
        let held = Held { entries, purged, vote, committed };
        Self { held: Arc::new(Mutex::new(held)), writer }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(super) fn committed(&self) -> Option<LogId> {
        self.held().committed
    }

    /// The entries from `from` up to `to`, both inclusive, as many as one message carries.
    ///
    /// None where `from` is forgotten, and only a snapshot helps.
    pub(super) fn some(&self, from: u64, to: u64) -> Option<Vec<LogEntry>> {
        let held = self.held();
        if held.purged.is_some_and(|purged| from <= purged.index) {
            return None;
        }
        if from > to {
            return Some(Vec::new());
        }
        Some(fitting(held.entries.range(from..=to)))
    }

    /// Whether the log has, or had, this very entry. None where it was forgotten or isn't there.
    pub(super) fn has(&self, id: &LogId) -> Option<bool> {
        let held = self.held();
        if let Some((entry, _)) = held.entries.get(&id.index) {
            return Some(entry.log_id == *id);
        }
        held.purged.filter(|purged| purged.index == id.index).map(|purged| purged == *id)
    }

    /// Appends decided entries: a follower's way. On return they are on the disk.
    pub(super) async fn append_decided(&self, entries: Vec<LogEntry>) -> io::Result<()> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(()) };
        let rows = self.hold(entries)?;
        self.writer.order(Order::Change(Change::Append(rows), Done::Nobody)).await?;
        self.decide(last).await
    }

    /// Everything up to here is decided. On return that is on the disk.
    pub(super) async fn decide(&self, upto: LogId) -> io::Result<()> {
        self.held().committed = Some(upto);
        self.writer.make(Change::Committed(upto)).await
    }

    /// Takes away what isn't decided: a follower has nobody who would.
    pub(super) async fn drop_undecided(&self) -> io::Result<()> {
        let after = self.committed().map(|id| id.index);
        let dropped = {
            let mut held = self.held();
            let from = after.map_or(0, |after| after + 1);
            held.entries.split_off(&from)
        };
        if dropped.is_empty() { Ok(()) } else { self.writer.make(Change::Truncate(after)).await }
    }

    /// Forgets what a snapshot holds, whether or not the log has it.
    pub(super) async fn forget(&self, upto: LogId) -> io::Result<()> {
        {
            let mut held = self.held();
            held.entries = held.entries.split_off(&(upto.index + 1));
            held.purged = held.purged.max(Some(upto));
        }
        self.writer.order(Order::Change(Change::Purge(upto), Done::Nobody)).await
    }

    /// Forgets what a snapshot up to `index` holds, but its last entries.
    pub(super) async fn keep_behind(&self, index: u64, kept: u64) -> io::Result<()> {
        let upto =
            index.checked_sub(kept).and_then(|upto| self.held().entries.get(&upto).map(|(entry, _)| entry.log_id));
        match upto {
            Some(upto) => self.forget(upto).await,
            None => Ok(()),
        }
    }

    fn hold(&self, entries: impl IntoIterator<Item = LogEntry>) -> io::Result<Vec<Row>> {
        let mut held = self.held();
        let mut rows = Vec::new();
        for entry in entries {
            let row = Row::of(&entry).map_err(io::Error::other)?;
            held.entries.insert(entry.log_id.index, (entry, row.text.len()));
            rows.push(row);
        }
        Ok(rows)
    }
}

/// As many as one message carries, and always the first.
fn fitting<'a>(entries: impl Iterator<Item = (&'a u64, &'a (LogEntry, usize))>) -> Vec<LogEntry> {
    let mut room = RECORD_MESSAGE_ENTRIES_BYTES;
    let mut taken = Vec::new();
    for (_, (entry, bytes)) in entries.take(COMMANDS_PER_MESSAGE_MAX) {
        if *bytes > room && !taken.is_empty() {
            break;
        }
        room = room.saturating_sub(*bytes);
        taken.push(entry.clone());
    }
    taken
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<LogEntry>> {
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        // BTreeMap takes no range that ends before it begins.
        let from = match range.0 {
            Bound::Included(from) => from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let empty = match range.1 {
            Bound::Included(to) => to < from,
            Bound::Excluded(to) => to <= from,
            Bound::Unbounded => false,
        };
        if empty {
            return Ok(Vec::new());
        }
        Ok(self.held().entries.range(range).map(|(_, (entry, _))| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.held().vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<LogEntry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        Ok(fitting(self.held().entries.range(start..end)))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let held = self.held();
        let last = held.entries.values().next_back().map(|(entry, _)| entry.log_id);
        Ok(LogState { last_purged_log_id: held.purged, last_log_id: last.or(held.purged) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.writer.make(Change::Vote(*vote)).await?;
        self.held().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.held().committed = committed;
        match committed {
            Some(id) => self.writer.order(Order::Committed(id)).await,
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.held().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows = self.hold(entries)?;
        self.writer.order(Order::Change(Change::Append(rows), Done::Raft(callback))).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let after = last.map(|id| id.index);
        self.held().entries.split_off(&after.map_or(0, |after| after + 1));
        self.writer.make(Change::Truncate(after)).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.forget(upto).await
    }
}
