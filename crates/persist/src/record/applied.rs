//! What the committed entries have led to: the record, who votes, and which proposals were applied lately. Pure.
//!
//! *Never twice.* A proposal may be told to the group more than once, when its proposer doesn't know what became of it.
//! The ids of the last [`COMMANDS_REMEMBERED`] commands are part of the state, so a copy is skipped by every box alike.
//! One that comes later than that many commands after its proposer made it can't be told from a copy, and is skipped too.

use std::collections::{HashSet, VecDeque};

use base::limits::COMMANDS_REMEMBERED;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};
use state::{Applied, Record, Refusal};

use super::types::{LogEntry, LogId, Membership, Proposal, ProposalId, SnapshotMeta, StoredMembership};

/// Everything that a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// The last entry that led here.
    pub(super) last: Option<LogId>,
    pub(super) membership: StoredMembership,
    recent: Recent,
    pub(super) record: Record,
}

/// What an entry with a command came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Applied(Result<Applied, Refusal>),
    /// It is too late to tell whether an earlier copy of it was applied.
    TooLate,
}

impl State {
    /// A state that begins with what a lone box has: nobody else took part in it.
    pub(super) fn founded(record: Record, at: LogId, membership: Membership) -> Self {
        let membership = StoredMembership::new(Some(at), membership);
        Self { last: Some(at), membership, recent: Recent::default(), record }
    }

    /// The same, with somebody else as its voters: only for one that nobody else has.
    pub(super) fn with_voters(self, membership: Membership) -> Self {
        Self { membership: StoredMembership::new(self.last, membership), ..self }
    }

    /// Takes the next committed entry. None where it holds no command, or a copy of one that was applied.
    pub(super) fn apply(&mut self, entry: &LogEntry) -> Option<(ProposalId, Outcome)> {
        self.last = Some(entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                None
            }
            EntryPayload::Normal(proposal) => self.apply_command(proposal).map(|outcome| (proposal.id, outcome)),
        }
    }

    fn apply_command(&mut self, proposal: &Proposal) -> Option<Outcome> {
        if self.recent.has(proposal.id) {
            return None;
        }
        if self.record.index() >= proposal.known.saturating_add(COMMANDS_REMEMBERED) {
            return Some(Outcome::TooLate);
        }
        self.recent.push(proposal.id);
        Some(Outcome::Applied(self.record.apply(&proposal.entry)))
    }

    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    pub(super) fn index(&self) -> u64 {
        self.last.map_or(0, |last| last.index)
    }
}

/// The ids of the commands that were applied last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<ProposalId>", into = "Vec<ProposalId>")]
struct Recent {
    order: VecDeque<ProposalId>,
    all: HashSet<ProposalId>,
}

impl Recent {
    fn has(&self, id: ProposalId) -> bool {
        self.all.contains(&id)
    }

    fn push(&mut self, id: ProposalId) {
        self.order.push_back(id);
        self.all.insert(id);
        while self.order.len() as u64 > COMMANDS_REMEMBERED {
            let oldest = self.order.pop_front().expect("it is longer than nothing");
            self.all.remove(&oldest);
        }
    }
}

impl From<Vec<ProposalId>> for Recent {
    fn from(ids: Vec<ProposalId>) -> Self {
        let mut recent = Self::default();
        for id in ids {
            recent.push(id);
        }
        recent
    }
}

impl From<Recent> for Vec<ProposalId> {
    fn from(recent: Recent) -> Self {
        recent.order.into()
    }
}

#[cfg(test)]
mod tests {
    use base::{Name, Timestamp};
    use state::{Actor, Command, Entry, Sealed};

    use super::super::types::{Payload, log_id};
    use super::*;

    fn entry(index: u64, id: u64, known: u64) -> LogEntry {
        let name: Name = format!("t{id}").parse().expect("a test's name");
        let command = Command::TenantCreate { name, key: Sealed(String::new()) };
        let entry = Entry { at: Timestamp(1), by: Actor::Box, command };
        let proposal = Proposal::new(ProposalId([0, id]), known, entry).expect("JSON");
        LogEntry { log_id: log_id(1, index), payload: Payload::Normal(proposal) }
    }

    #[test]
    fn a_copy_is_skipped_also_after_a_snapshot() {
        let mut state = State::default();
        assert!(matches!(state.apply(&entry(1, 7, 0)), Some((_, Outcome::Applied(Ok(_))))));
        let text = serde_json::to_string(&state).expect("JSON");
        let mut state: State = serde_json::from_str(&text).expect("it was just written");
        assert!(state.apply(&entry(2, 7, 0)).is_none());
        assert_eq!((state.record.index(), state.index()), (1, 2), "the copy has its place in the log alone");
    }

    #[test]
    fn a_copy_that_nobody_remembers_is_too_late() {
        let mut state = State::default();
        for number in 0..=COMMANDS_REMEMBERED {
            state.apply(&entry(number, number, number));
        }
        assert!(!state.recent.has(ProposalId([0, 0])), "the first is forgotten");
        assert!(matches!(state.apply(&entry(9_999, 0, 0)), Some((_, Outcome::TooLate))));
        assert!(state.apply(&entry(9_999, 1, 1)).is_none(), "the second isn't");
        assert_eq!(state.record.index(), COMMANDS_REMEMBERED + 1);
    }
}
