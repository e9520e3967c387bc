//! What openraft is told of our types, and what one entry of the log is.
//!
//! Terms are standard Raft's: one leader a term, so an entry is told by its term and its index. The index counts all
//! entries, also those that a new leader or a change of voters makes; [`Record::index`](state::Record::index) counts
//! commands alone.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use base::BoxId;
use openraft::{OptionalSend, RaftTypeConfig};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use state::Entry;

use super::applied::State;
use super::responder::Told;

/// The record's group, in openraft's terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Types;

type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, Member>;

impl RaftTypeConfig for Types {
    type D = Proposal;
    type R = ();
    type NodeId = Member;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = Told<T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type CommittedLeader = <LeaderId as openraft::vote::RaftLeaderId>::Committed;
pub(super) type LogId = openraft::LogId<CommittedLeader>;
pub(super) type Payload = openraft::EntryPayload<Proposal, Member, ()>;
pub(super) type LogEntry = openraft::Entry<CommittedLeader, Payload>;
pub(super) type Vote = openraft::Vote<LeaderId>;
pub(super) type Membership = openraft::Membership<Member, ()>;
pub(super) type StoredMembership = openraft::StoredMembership<CommittedLeader, Member, ()>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeader, Member, ()>;
pub(super) type Snapshot = openraft::Snapshot<CommittedLeader, Member, (), Arc<State>>;

/// A box as a member of the group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Member(pub(super) BoxId);

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
impl From<u64> for Member {
    fn from(number: u64) -> Self {
        let mut id = [0; BoxId::BYTES];
        id[..8].copy_from_slice(&number.to_be_bytes());
        Self(BoxId(id))
    }
}

/// A proposal's own number, drawn by the keeper that makes it: told twice, it is applied once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ProposalId(pub(super) [u64; 2]);

/// A command on its way into the log. It travels and is stored as the JSON text that its proposer wrote.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Proposal {
    pub(super) id: ProposalId,
    /// The record's index that its proposer knew: a copy that comes too late is told by it.
    pub(super) known: u64,
    pub(super) entry: Arc<Entry>,
    pub(super) text: Arc<str>,
}

impl Proposal {
    pub(super) fn new(id: ProposalId, known: u64, entry: Entry) -> Result<Self, serde_json::Error> {
        let text = serde_json::to_string(&entry)?;
        Ok(Self { id, known, entry: Arc::new(entry), text: text.into() })
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.id.0[0], self.id.0[1])
    }
}

#[derive(Serialize)]
struct Written<'a> {
    id: ProposalId,
    known: u64,
    entry: &'a RawValue,
}

#[derive(Deserialize)]
struct Read {
    id: ProposalId,
    known: u64,
    entry: Box<RawValue>,
}

impl Serialize for Proposal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry: &RawValue = serde_json::from_str(&self.text).map_err(serde::ser::Error::custom)?;
        Written { id: self.id, known: self.known, entry }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Read { id, known, entry } = Read::deserialize(deserializer)?;
        let text: Box<str> = entry.into();
        let entry = serde_json::from_str(&text).map_err(D::Error::custom)?;
        Ok(Self { id, known, entry: Arc::new(entry), text: text.into() })
    }
}

pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

pub(super) fn term_of(id: &LogId) -> u64 {
    id.committed_leader_id().term
}

/// One voter, and nobody else.
pub(super) fn alone(me: Member) -> Membership {
    Membership::new_with_defaults(vec![BTreeSet::from([me])], [])
}

/// Who this is, when nobody but this box votes.
pub(super) fn only_voter(membership: &Membership) -> Option<Member> {
    let mut voters = membership.voter_ids();
    voters.next().filter(|_| voters.next().is_none())
}
