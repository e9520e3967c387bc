//! What this box answers to the others about the record.
//!
//! A box speaks for itself alone: whoever votes or leads in another's name is refused. What openraft would take for
//! granted, and stop over, is looked at before it gets there: foreign bytes never stop a box.

use std::sync::{Arc, Mutex, PoisonError};

use base::BoxId;
use base::limits::{
    COMMANDS_REMEMBERED, FOLLOW_WAIT, FOLLOWERS_WAITING_MAX, PROPOSALS_FORWARDED_MAX, RECORD_SNAPSHOT_BYTES_MAX,
};
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::{AppendEntriesRequest, ClientWriteResult};
use tokio::sync::{Semaphore, oneshot};

use super::applied::State;
use super::desk::{Desk, Group, Leader, too_long};
use super::log::Log;
use super::network::{piece_of, text_of};
use super::peers::Trust;
use super::responder::Told;
use super::types::{LogId, Member, Proposal, Snapshot, Types, Vote, term_of};
use super::voters::{self, Members};
use super::wire::{self, Call, Part, Reply};

/// Answers the calls of other boxes.
pub(super) struct Answers {
    desk: Arc<Desk>,
    group: Group,
    log: Log,
    arriving: Mutex<Option<Arriving>>,
    offered: Mutex<Option<(LogId, Arc<str>)>>,
    forwarded: Semaphore,
    following: Semaphore,
}

/// A snapshot of which some parts are here.
struct Arriving {
    from: Member,
    last: LogId,
    text: String,
}

impl Answers {
    pub(super) fn new(desk: Arc<Desk>, group: Group, log: Log) -> Self {
        Self {
            desk,
            group,
            log,
            arriving: Mutex::default(),
            offered: Mutex::default(),
            forwarded: Semaphore::new(PROPOSALS_FORWARDED_MAX),
            following: Semaphore::new(FOLLOWERS_WAITING_MAX),
        }
    }

    pub(super) async fn answer(&self, from: BoxId, message: &[u8]) -> Bytes {
        let reply = match wire::read::<Call>(message) {
            Ok(call) => self.reply(Member(from), call).await.unwrap_or_else(Reply::Refused),
            Err(error) => Reply::Refused(error.to_string()),
        };
        wire::reply(&reply)
    }

    async fn reply(&self, from: Member, call: Call) -> Result<Reply, String> {
        let trust = self.trust(from);
        let wanted = match call {
            Call::Propose(_) | Call::Follow { .. } | Call::Fetch { .. } => Trust::Follower,
            _ => Trust::Voter,
        };
        if trust < wanted {
            return Err(format!("{from} may not ask this: it isn't known as a box that may"));
        }
        match call {
            Call::Append(request) => self.append(from, request).await,
            Call::Vote(request) => {
                own(from, &request.vote)?;
                self.group.vote(request).await.map(Reply::Vote).map_err(|error| error.to_string())
            }
            Call::PreVote(request) => {
                own(from, &request.vote)?;
                self.group.pre_vote(request).await.map(Reply::Vote).map_err(|error| error.to_string())
            }
            Call::Lead(request) => {
                own(from, request.from_leader())?;
                self.group.handle_transfer_leader(request).await.map(Reply::Lead).map_err(|error| error.to_string())
            }
            Call::Part(part) => self.part(from, part).await,
            Call::Propose(proposal) => self.propose(proposal).await,
            Call::SetMembers(wanted) => self.set_members(wanted).await,
            Call::Follow { after } => self.follow(after).await,
            Call::Fetch { last, from } => self.fetch(last, from).await,
        }
    }

    /// Members vote by what the group decided, unless their key is dead; all others are what the cloud says.
    fn trust(&self, who: Member) -> Trust {
        let trust = self.desk.peers.trust(who.0);
        let membership = self.desk.out.membership();
        let is_member = membership.nodes().any(|(member, ())| *member == who);
        if is_member && trust != Trust::None { Trust::Voter } else { trust }
    }

    async fn append(&self, from: Member, request: AppendEntriesRequest<Types>) -> Result<Reply, String> {
        own(from, &request.vote)?;
        self.check(&request)?;
        let response = self.group.append_entries(request).await.map_err(|error| error.to_string())?;
        if !matches!(response, openraft::raft::AppendEntriesResponse::HigherVote(_)) {
            self.desk.hear();
        }
        Ok(Reply::Append(response))
    }

    /// What a leader that keeps to the protocol never sends.
    fn check(&self, request: &AppendEntriesRequest<Types>) -> Result<(), String> {
        if !request.vote.committed {
            return Err("only a leader appends".to_owned());
        }
        let decided = self.log.committed();
        let denies = |id: &LogId| Some(id.index) <= decided.map(|id| id.index) && self.log.has(id) == Some(false);
        let mut before = request.prev_log_id;
        for id in before.iter().copied().chain(request.entries.iter().map(|entry| entry.log_id)) {
            if term_of(&id) > request.vote.leader_id.term {
                return Err("an entry is of a later term than its leader".to_owned());
            }
            if denies(&id) {
                return Err("an entry denies what was decided".to_owned());
            }
        }
        for entry in &request.entries {
            let follows = match before {
                None => entry.log_id.index == 0,
                Some(before) => entry.log_id.index == before.index + 1 && term_of(&entry.log_id) >= term_of(&before),
            };
            if !follows {
                return Err("the entries don't follow each other".to_owned());
            }
            before = Some(entry.log_id);
        }
        Ok(())
    }

    async fn part(&self, from: Member, part: Part) -> Result<Reply, String> {
        own(from, &part.vote)?;
        if !part.vote.committed || term_of(&part.last) > part.vote.leader_id.term {
            return Err("only a leader sends a snapshot, and of no later term than its own".to_owned());
        }
        if part.total > RECORD_SNAPSHOT_BYTES_MAX {
            return Err(format!("the snapshot has {} bytes, and {RECORD_SNAPSHOT_BYTES_MAX} is the most", part.total));
        }
        let Some(text) = self.collect(from, &part)? else {
            let here = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
            return Ok(Reply::Part { from: here.as_ref().map_or(0, |arriving| arriving.text.len() as u64) });
        };
        // Read beside the thread that raft runs on: a large one takes a while.
        let state = tokio::task::spawn_blocking(move || serde_json::from_str::<State>(&text)).await;
        let state = state.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        if state.last != Some(part.last) {
            return Err("the snapshot ends with another entry than was said".to_owned());
        }
        let decided = self.log.committed();
        if Some(part.last) > decided && Some(part.last.index) <= decided.map(|id| id.index) {
            return Err("the snapshot denies what was decided".to_owned());
        }
        self.desk.hear();
        let snapshot = Snapshot { meta: state.meta(), snapshot: Arc::new(state) };
        let installed = self.group.install_full_snapshot(part.vote, snapshot).await;
        installed.map(Reply::Installed).map_err(|error| error.to_string())
    }

    /// Puts the part to those before it. The whole text, once it is.
    fn collect(&self, from: Member, part: &Part) -> Result<Option<String>, String> {
        let mut here = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = here.as_ref().is_some_and(|arriving| arriving.from == from && arriving.last == part.last);
        if !goes_on || part.from == 0 {
            *here = Some(Arriving { from, last: part.last, text: String::new() });
        }
        let arriving = here.as_mut().expect("it was just put there where it was missing");
        if part.from != arriving.text.len() as u64 {
            return Ok(None);
        }
        arriving.text.push_str(&part.text);
        let length = arriving.text.len() as u64;
        if length > part.total || (part.text.is_empty() && length < part.total) {
            *here = None;
            return Err("the parts of the snapshot don't add up".to_owned());
        }
        Ok((length == part.total).then(|| here.take().expect("it is here").text))
    }

    async fn propose(&self, proposal: Proposal) -> Result<Reply, String> {
        if too_long(&proposal) {
            return Err("the command is too long".to_owned());
        }
        if self.desk.out.index() >= proposal.known.saturating_add(COMMANDS_REMEMBERED) {
            // It would be skipped as too late. Its box makes it anew when it has caught up.
            return Err("the box that proposes is too far behind".to_owned());
        }
        let Ok(_place) = self.forwarded.try_acquire() else { return Ok(Reply::Busy) };
        if self.desk.is_full() {
            return Ok(Reply::Busy);
        }
        let (told, outcome) = oneshot::channel::<ClientWriteResult<Types>>();
        let told = Told::new(move |outcome| drop(told.send(outcome)));
        self.group.client_write_ff(proposal, Some(told)).await.map_err(|error| error.to_string())?;
        Ok(match outcome.await {
            Ok(Ok(_)) => Reply::Taken,
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => Reply::NotLeader { leader: to.leader_id },
            Ok(Err(_)) | Err(_) => Reply::Unknown,
        })
    }

    async fn set_members(&self, wanted: Members) -> Result<Reply, String> {
        match voters::set(&self.group, wanted).await {
            Ok(()) => Ok(Reply::VotersSet),
            Err(voters::SetVotersError::NoLeader) => Ok(Reply::NotLeader { leader: self.leader() }),
            Err(voters::SetVotersError::Busy) => Ok(Reply::Busy),
            Err(error) => Err(error.to_string()),
        }
    }

    fn leader(&self) -> Option<Member> {
        match self.desk.leader() {
            Leader::Me => Some(self.desk.me),
            Leader::Other(other) => Some(other),
            Leader::Nobody => None,
        }
    }

    async fn follow(&self, after: Option<LogId>) -> Result<Reply, String> {
        let Ok(_place) = self.following.try_acquire() else { return Ok(Reply::Busy) };
        if let Some(after) = after
            && Some(after.index) <= self.log.committed().map(|committed| committed.index)
            && self.log.has(&after) == Some(false)
        {
            return Err("what this box follows is another record".to_owned());
        }
        let from = after.map_or(0, |after| after.index + 1);
        let mut applied = self.desk.out.applied();
        let news = applied.wait_for(|applied| applied.is_some_and(|applied| applied.index >= from));
        // A box that hears from no leader has nothing to wait for.
        let wait = if self.desk.is_current() { FOLLOW_WAIT } else { std::time::Duration::ZERO };
        let upto = match tokio::time::timeout(wait, news).await {
            Ok(Ok(applied)) => applied.expect("it waited for one").index,
            Ok(Err(_)) | Err(_) => {
                return Ok(Reply::Nothing { current: self.desk.is_current(), leader: self.leader() });
            }
        };
        Ok(match self.log.some(from, upto) {
            Some(entries) => Reply::Entries { entries, leader: self.leader() },
            None => Reply::Snapshot { last: self.desk.out.snapshot().and_then(|snapshot| snapshot.last) },
        })
    }

    async fn fetch(&self, last: LogId, from: u64) -> Result<Reply, String> {
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = if let Some((_, text)) = offered.filter(|(of, _)| *of == last) {
            text
        } else {
            let Some(snapshot) = self.desk.out.snapshot().filter(|snapshot| snapshot.last == Some(last)) else {
                // A newer one is there by now.
                return Ok(Reply::Snapshot { last: self.desk.out.snapshot().and_then(|snapshot| snapshot.last) });
            };
            let text = text_of(snapshot).await?;
            *self.offered.lock().unwrap_or_else(PoisonError::into_inner) = Some((last, Arc::clone(&text)));
            text
        };
        let piece = piece_of(&text, from).ok_or("the snapshot has no such part")?;
        Ok(Reply::Fetched { total: text.len() as u64, text: piece.to_owned() })
    }
}

/// A vote is its own box's.
fn own(from: Member, vote: &Vote) -> Result<(), String> {
    if vote.leader_id.voted_for == from { Ok(()) } else { Err(format!("{from} speaks for another box")) }
}
