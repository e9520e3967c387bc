//! What one thread of databases did. Only that thread writes it, so nothing is locked and nothing contended.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::{Answer, KvError, Operation};

/// What operations are called in [`KvFigures::operations`].
const NAMES: [&str; 6] = ["get", "exists", "list", "set", "delete", "change"];

const GET: usize = 0;
const EXISTS: usize = 1;

/// What the databases did since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KvFigures {
    /// Operations that were performed, by what they are: `change` is an increment or a compare-and-swap. A batch is one.
    pub operations: [(&'static str, u64); NAMES.len()],
    /// Those among them that ended in an error.
    pub failed: u64,
    /// Database files that are open for reading and for writing now.
    pub open: [usize; 2],
}

impl KvFigures {
    /// So many were answered without a thread.
    pub(super) fn add_answered_from_memory(&mut self, gets: u64, exists: u64) {
        self.operations[GET].1 += gets;
        self.operations[EXISTS].1 += exists;
    }
}

#[derive(Default)]
pub(super) struct Tally {
    operations: [AtomicU64; NAMES.len()],
    failed: AtomicU64,
    open: [AtomicUsize; 2],
}

impl Tally {
    pub(super) fn performed(&self, operation: &Operation, outcome: &Result<Answer, KvError>) {
        let index = match operation {
            Operation::Get(_) => GET,
            Operation::Exists(_) => EXISTS,
            Operation::List(_) => 2,
            Operation::Set(_) => 3,
            Operation::Delete(_) => 4,
            Operation::Increment(..) | Operation::Swap { .. } => 5,
            Operation::Drop | Operation::Hold | Operation::Release => return,
        };
        one_more(&self.operations[index]);
        if outcome.is_err() {
            one_more(&self.failed);
        }
    }

    /// So many files are open, to read (0) or to write (1).
    pub(super) fn open(&self, lane: usize, files: usize) {
        self.open[lane].store(files, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, figures: &mut KvFigures) {
        for ((figure, count), name) in figures.operations.iter_mut().zip(&self.operations).zip(NAMES) {
            *figure = (name, figure.1 + count.load(Ordering::Relaxed));
        }
        figures.failed += self.failed.load(Ordering::Relaxed);
        for (figure, count) in figures.open.iter_mut().zip(&self.open) {
            *figure += count.load(Ordering::Relaxed);
        }
    }
}

/// Its thread alone writes it: no read-modify-write is needed.
fn one_more(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
