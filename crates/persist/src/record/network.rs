//! How openraft reaches the other members: over [`Peers`].

use std::sync::Arc;
use std::time::Duration;

use base::limits::{RECORD_CALL_TIME, RECORD_LIGHT_BYTES_MAX, RECORD_SNAPSHOT_CALL_TIME, RECORD_SNAPSHOT_PIECE_BYTES};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};

use super::applied::State;
use super::peers::{PeerError, Peers, Weight};
use super::types::{Member, Snapshot, Types, Vote};
use super::wire::{self, Call, Part, Reply};

#[derive(Clone)]
pub(super) struct Network {
    pub(super) me: Member,
    pub(super) peers: Arc<dyn Peers>,
}

/// The way to one member.
pub(super) struct Link {
    me: Member,
    to: Member,
    peers: Arc<dyn Peers>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: Member, (): &()) -> Link {
        Link { me: self.me, to, peers: Arc::clone(&self.peers) }
    }
}

/// Asks, and understands the answer.
pub(super) async fn ask(peers: &dyn Peers, to: Member, call: &Call, within: Duration) -> Result<Reply, AskError> {
    let message = wire::write(call)?;
    let weight = match call {
        // What comes back may be much.
        Call::Follow { .. } | Call::Fetch { .. } => Weight::Heavy,
        _ if message.len() > RECORD_LIGHT_BYTES_MAX => Weight::Heavy,
        _ => Weight::Light,
    };
    let answer = tokio::time::timeout(within, peers.call(to.0, message, weight, within)).await;
    // Its own deadline is the same; that it keeps it isn't for us to believe.
    let answer = answer.unwrap_or(Err(PeerError::TimedOut))?;
    match wire::read(&answer)? {
        Reply::Refused(why) => Err(AskError::Refused(why)),
        reply => Ok(reply),
    }
}

/// A call that brought nothing to go on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Wire(#[from] wire::WireError),
    #[error("the box refused: {0}")]
    Refused(String),
}

impl Link {
    async fn ask(&self, action: RPCTypes, call: &Call, within: Duration) -> Result<Reply, RPCError<Types>> {
        ask(&*self.peers, self.to, call, within).await.map_err(|error| match error {
            AskError::Peer(PeerError::TimedOut) => {
                RPCError::Timeout(Timeout { action, id: self.me, target: self.to, timeout: within })
            }
            // openraft asks again after a while, and not at once.
            error => RPCError::Unreachable(Unreachable::new(&error)),
        })
    }

    fn unexpected(reply: &Reply) -> RPCError<Types> {
        RPCError::Network(NetworkError::from_string(format!("the box answered something else: {reply:?}")))
    }

    /// Sends the snapshot in parts, each when the one before it has arrived.
    async fn send(&self, vote: Vote, snapshot: Snapshot) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let Some(last) = snapshot.meta.last_log_id else {
            return Err(StreamingError::Network(NetworkError::from_string("the snapshot is of nothing")));
        };
        let text = text_of(snapshot.snapshot).await.map_err(|error| {
            StreamingError::Network(NetworkError::from_string(format!(
                "the snapshot can't be written as JSON: {error}"
            )))
        })?;
        let mut from = 0;
        loop {
            let piece = piece_of(&text, from).unwrap_or_default().to_owned();
            let part = Part { vote, last, from, total: text.len() as u64, text: piece };
            match self.ask(RPCTypes::InstallSnapshot, &Call::Part(part), RECORD_SNAPSHOT_CALL_TIME).await? {
                Reply::Part { from: next } => from = next,
                Reply::Installed(response) => return Ok(response),
                other => return Err(Self::unexpected(&other).into()),
            }
        }
    }
}

/// A state as it travels. Written beside the thread that raft runs on: a large one takes a while.
pub(super) async fn text_of(state: Arc<State>) -> Result<Arc<str>, String> {
    let written = tokio::task::spawn_blocking(move || serde_json::to_string(&*state)).await;
    written.map_err(|error| error.to_string())?.map(Into::into).map_err(|error| error.to_string())
}

/// The piece that begins at this byte. None where there is none.
pub(super) fn piece_of(text: &str, from: u64) -> Option<&str> {
    let rest = text.get(usize::try_from(from).ok()?..)?;
    Some(&rest[..rest.floor_char_boundary(RECORD_SNAPSHOT_PIECE_BYTES)])
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        // A heartbeat is late when the next is due. Entries wait for the other's disk.
        let within = if request.entries.is_empty() { option.hard_ttl() } else { RECORD_CALL_TIME };
        match self.ask(RPCTypes::AppendEntries, &Call::Append(request), within).await? {
            Reply::Append(response) => Ok(response),
            other => Err(Self::unexpected(&other)),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, &Call::Vote(request), RECORD_CALL_TIME).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(Self::unexpected(&other)),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        _: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::Vote, &Call::PreVote(request), RECORD_CALL_TIME).await? {
            Reply::Vote(response) => Ok(response),
            other => Err(Self::unexpected(&other)),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.ask(RPCTypes::TransferLeader, &Call::Lead(request), RECORD_CALL_TIME).await? {
            Reply::Lead(response) => Ok(response),
            other => Err(Self::unexpected(&other)),
        }
    }
}
