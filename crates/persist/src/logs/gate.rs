//! An app's share of log lines, and the notice of those that were dropped.
//!
//! Time is the lines' own, so there is no clock here. A notice goes out before the first line of a later second, or
//! when the writer has been idle, whichever is first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::limits::{LOG_GATES_MAX, LOG_LINES_PER_SECOND_MAX};
use base::{AppId, TenantId};

use super::{Book, Kind, Line, Stream};

#[derive(Default)]
pub(super) struct Gates {
    held: Mutex<HashMap<Book, Gate>>,
    /// Lines that were lost since the start.
    dropped: AtomicU64,
}

#[derive(Default)]
struct Gate {
    second: u64,
    admitted: u64,
    lost: u64,
    /// The last line that was lost, without its text: the notice stands in its place.
    last: Option<Line>,
}

/// May a line be written?
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pass {
    Yes,
    /// Yes, after this notice.
    After(Line),
    /// No. It was counted; `first` when it was the first since the last notice.
    No {
        first: bool,
    },
}

impl Gates {
    fn lock(&self) -> MutexGuard<'_, HashMap<Book, Gate>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admit(&self, book: Book, line: &Line) -> Pass {
        let mut gates = self.lock();
        if gates.len() >= LOG_GATES_MAX && !gates.contains_key(&book) {
            gates.retain(|_, gate| gate.lost > 0);
        }
        let gate = gates.entry(book).or_default();
        let second = line.at.0 / 1_000;
        if gate.second != second {
            (gate.second, gate.admitted) = (second, 0);
            gate.admitted += 1;
            return gate.notice(book.kind).map_or(Pass::Yes, Pass::After);
        }
        if gate.admitted < LOG_LINES_PER_SECOND_MAX {
            gate.admitted += 1;
            return Pass::Yes;
        }
        gate.lose(line, 1);
        self.dropped.fetch_add(1, Ordering::Relaxed);
        Pass::No { first: gate.lost == 1 }
    }

    /// Lines that were admitted got lost on the way; `line` is the last of them.
    pub(super) fn lost(&self, book: Book, line: &Line, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        self.lock().entry(book).or_default().lose(line, count);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// All notices that are owed.
    pub(super) fn notices(&self) -> Vec<(Book, Line)> {
        self.lock().iter_mut().filter_map(|(book, gate)| Some((*book, gate.notice(book.kind)?))).collect()
    }

    pub(super) fn forget(&self, tenant: TenantId, app: Option<AppId>) {
        self.lock().retain(|book, _| book.tenant != tenant || app.is_some_and(|app| app != book.app));
    }
}

impl Gate {
    fn lose(&mut self, line: &Line, count: u64) {
        let Line { at, stage, release, .. } = line;
        let (at, stage, release) = (*at, stage.clone(), *release);
        self.last = Some(Line { at, stage, release, request: None, stream: Stream::Fault, text: String::new() });
        self.lost += count;
    }

    fn notice(&mut self, kind: Kind) -> Option<Line> {
        let mut notice = self.last.take()?;
        let lost = std::mem::take(&mut self.lost);
        notice.text = match kind {
            Kind::Said => {
                format!("{lost} lines were dropped here: an app may write {LOG_LINES_PER_SECOND_MAX} in a second")
            }
            Kind::Fault | Kind::Access => {
                let what = if kind == Kind::Fault { "faults" } else { "access lines" };
                format!(
                    "{lost} {what} were dropped here: an app gets {LOG_LINES_PER_SECOND_MAX} in a second at the most"
                )
            }
        };
        Some(notice)
    }
}
