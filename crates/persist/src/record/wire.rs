//! What boxes say to each other about the record: one byte of version, then JSON.
//!
//! Entries travel as the JSON text that the log holds. All of it is foreign: it is bounded before it is read, and what
//! can't be understood is refused in words.

use base::limits::RECORD_MESSAGE_BYTES_MAX;
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::types::{LogEntry, LogId, Member, Proposal, Types, Vote};
use super::voters::Members;

/// A change that an older build would misunderstand raises it.
const VERSION: u8 = 1;

/// What one box asks of another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Lead(TransferLeaderRequest<Types>),
    /// A part of a snapshot that a leader sends.
    Part(Part),
    Propose(Proposal),
    SetMembers(Members),
    /// What was decided after this entry; waits for it.
    Follow {
        after: Option<LogId>,
    },
    /// The next part of the snapshot that ends with this entry.
    Fetch {
        last: LogId,
        from: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Part {
    /// The leader's.
    pub(super) vote: Vote,
    pub(super) last: LogId,
    pub(super) from: u64,
    pub(super) total: u64,
    pub(super) text: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    Lead(TransferLeaderResponse<Types>),
    /// Go on from here.
    Part {
        from: u64,
    },
    Installed(SnapshotResponse<Types>),
    /// The proposal is decided.
    Taken,
    /// Nothing was taken: ask that one, if one is known.
    NotLeader {
        leader: Option<Member>,
    },
    /// Nothing was taken: too much waits.
    Busy,
    /// Whether it was taken shows later.
    Unknown,
    VotersSet,
    Entries {
        entries: Vec<LogEntry>,
        leader: Option<Member>,
    },
    /// Nothing new. `current` says whether this box would know.
    Nothing {
        current: bool,
        leader: Option<Member>,
    },
    /// What was asked for is forgotten: fetch this snapshot first.
    Snapshot {
        last: Option<LogId>,
    },
    Fetched {
        total: u64,
        text: String,
    },
    /// Nothing was done, and why.
    Refused(String),
}

/// A message that can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("the message has {0} bytes, and {max} is the most", max = RECORD_MESSAGE_BYTES_MAX)]
    TooLong(usize),
    #[error("the message is of version {0:?}, and this build speaks {VERSION}: run one build on all boxes")]
    Version(Option<u8>),
    #[error("the message can't be understood: {0}")]
    Json(#[from] serde_json::Error),
}

pub(super) fn write(message: &impl Serialize) -> Result<Bytes, WireError> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, message)?;
    if bytes.len() > RECORD_MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong(bytes.len()));
    }
    Ok(bytes.into())
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    if bytes.len() > RECORD_MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong(bytes.len()));
    }
    match bytes.split_first() {
        Some((&VERSION, json)) => Ok(serde_json::from_slice(json)?),
        other => Err(WireError::Version(other.map(|(version, _)| *version))),
    }
}

/// A reply always can be written: what can't is refused in words.
pub(super) fn reply(reply: &Reply) -> Bytes {
    write(reply).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer to another box can't be written");
        write(&Reply::Refused(error.to_string())).expect("a short text is short JSON")
    })
}
