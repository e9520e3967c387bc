//! A box that keeps the record without a vote: web and auth boxes.
//!
//! It asks a persistence box for what was decided after the last entry it has, and waits there for more. What comes is
//! written to its own `record.sqlite`, then applied, so it starts and serves on without any persistence box. Where the
//! other has forgotten what it needs, it fetches the other's snapshot in parts.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use base::limits::{
    FOLLOW_LOOK, FOLLOW_LOOK_MAX, FOLLOW_WAIT, RECORD_CALL_TIME, RECORD_SNAPSHOT_BYTES_MAX, RECORD_SNAPSHOT_CALL_TIME,
};
use futures_util::FutureExt as _;

use super::applied::State;
use super::desk::Desk;
use super::log::Log;
use super::machine::Machine;
use super::network::{AskError, ask};
use super::peers::PeerError;
use super::types::{LogEntry, LogId, Member};
use super::wire::{Call, Reply};

/// Keeps up with the group.
pub(super) struct Follower {
    desk: Arc<Desk>,
    log: Log,
    machine: Machine,
    /// Whose turn it is to be asked.
    turn: usize,
}

/// Why a box that was asked was of no use.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the box answered something else")]
    Unexpected,
    #[error("the entries that came don't follow what is here")]
    Gap,
    #[error("the snapshot that came can't be used: {0}")]
    Snapshot(String),
    /// The disk's fault, which is the end of this box's record.
    #[error("what came can't be written")]
    Write(#[source] io::Error),
}

impl Follower {
    /// Applies what the file has of the log.
    pub(super) fn new(desk: Arc<Desk>, log: Log, mut machine: Machine) -> Self {
        let mut from = machine.last().map_or(0, |last| last.index + 1);
        let to = log.committed().map_or(0, |id| id.index);
        while let Some(entries) = log.some(from, to)
            && let Some(last) = entries.last()
        {
            from = last.log_id.index + 1;
            machine.take(&entries);
        }
        Self { desk, log, machine, turn: 0 }
    }

    /// For ever; an error is the disk's. The caller ends it between two steps by dropping it.
    pub(super) async fn run(&mut self) -> io::Result<Infallible> {
        self.log.drop_undecided().await?;
        let mut wait = FOLLOW_LOOK;
        loop {
            let Some(from) = self.desk.anybody(self.turn) else {
                // Nobody to ask, and no way to learn of somebody.
                return std::future::pending().await;
            };
            match self.step(from).await {
                Ok(true) => {
                    wait = FOLLOW_LOOK;
                    if self.desk.out.long.notified().now_or_never().is_some() {
                        self.cut().await?;
                    }
                }
                Ok(false) => self.turn = self.turn.wrapping_add(1),
                Err(FollowError::Write(error)) => return Err(error),
                Err(error) => {
                    if !matches!(error, FollowError::Ask(AskError::Peer(PeerError::Unreachable))) {
                        tracing::warn!(%from, error = base::chain(&error), "a box can't be followed: asking the next");
                    }
                    self.turn = self.turn.wrapping_add(1);
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(FOLLOW_LOOK_MAX);
                }
            }
        }
    }

    /// Asks once. False where another box may know more.
    async fn step(&mut self, from: Member) -> Result<bool, FollowError> {
        let after = self.machine.last();
        let reply = ask(&*self.desk.peers, from, &Call::Follow { after }, FOLLOW_WAIT + RECORD_CALL_TIME).await?;
        match reply {
            Reply::Entries { entries, leader } => {
                self.heard(leader);
                self.take(entries).await?;
                Ok(true)
            }
            Reply::Nothing { current, leader } => {
                if current {
                    self.heard(leader);
                } else {
                    tokio::time::sleep(FOLLOW_LOOK).await;
                }
                Ok(current)
            }
            Reply::Snapshot { last: Some(last) } => {
                let state = self.fetch(from, last).await?;
                self.machine.become_state(state).await.map_err(FollowError::Write)?;
                self.log.decide(last).await.map_err(FollowError::Write)?;
                self.log.forget(last).await.map_err(FollowError::Write)?;
                Ok(true)
            }
            Reply::Snapshot { last: None } | Reply::Busy => {
                tokio::time::sleep(FOLLOW_LOOK).await;
                Ok(false)
            }
            _ => Err(FollowError::Unexpected),
        }
    }

    fn heard(&self, leader: Option<Member>) {
        self.desk.hear();
        self.desk.set_hint(leader);
    }

    async fn take(&mut self, entries: Vec<LogEntry>) -> Result<(), FollowError> {
        let mut before = self.machine.last();
        for entry in &entries {
            let follows = before.is_none_or(|before| entry.log_id > before);
            if entry.log_id.index != before.map_or(0, |before| before.index + 1) || !follows {
                return Err(FollowError::Gap);
            }
            before = Some(entry.log_id);
        }
        self.log.append_decided(entries.clone()).await.map_err(FollowError::Write)?;
        self.machine.take(&entries);
        Ok(())
    }

    async fn fetch(&self, from: Member, last: LogId) -> Result<Arc<State>, FollowError> {
        if Some(last.index) <= self.machine.last().map(|last| last.index) {
            return Err(FollowError::Snapshot("it is older than what is here".to_owned()));
        }
        let mut text = String::new();
        loop {
            let call = Call::Fetch { last, from: text.len() as u64 };
            match ask(&*self.desk.peers, from, &call, RECORD_SNAPSHOT_CALL_TIME).await? {
                Reply::Fetched { total, .. } if total > RECORD_SNAPSHOT_BYTES_MAX => {
                    return Err(FollowError::Snapshot(format!("it has {total} bytes")));
                }
                Reply::Fetched { total, text: piece } => {
                    text.push_str(&piece);
                    let length = text.len() as u64;
                    if length > total || (piece.is_empty() && length < total) {
                        return Err(FollowError::Snapshot("its parts don't add up".to_owned()));
                    }
                    if length == total {
                        break;
                    }
                }
                Reply::Snapshot { .. } => return Err(FollowError::Snapshot("there is a newer one by now".to_owned())),
                _ => return Err(FollowError::Unexpected),
            }
        }
        let read = tokio::task::spawn_blocking(move || serde_json::from_str::<State>(&text)).await;
        let state = read.map_err(|error| FollowError::Snapshot(error.to_string()))?;
        let state = state.map_err(|error| FollowError::Snapshot(error.to_string()))?;
        if state.last != Some(last) {
            return Err(FollowError::Snapshot("it ends with another entry than was said".to_owned()));
        }
        Ok(Arc::new(state))
    }

    /// Writes a snapshot, and forgets the log that it holds.
    pub(super) async fn cut(&mut self) -> io::Result<()> {
        let state = self.machine.builder().build().await?;
        match state.last {
            Some(last) => self.log.forget(last).await,
            None => Ok(()),
        }
    }

    pub(super) fn has_news(&self) -> bool {
        self.machine.has_news()
    }
}
