//! Proposals of this box on their way to whoever leads: by hand where this box does, else over a link.
//!
//! A proposal waits until this box has applied it, or until its time is over. Then its asker is told what is known: it
//! wasn't taken, if every leader that it was handed to said so; else nobody can tell.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use base::limits::{
    COMMANDS_WAITING_MAX, PROPOSE_LOOK, PROPOSE_TIME_MAX, RECORD_CALL_TIME, RECORD_ENTRY_BYTES_MAX, RECORD_LEASE,
    RECORD_RESERVED_BYTES,
};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::{Instant as _, Raft, RaftMetrics, ServerState};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::machine::{Machine, Outward, Waiting};
use super::network::{AskError, ask};
use super::peers::{PeerError, Peers};
use super::responder::Told;
use super::types::{Member, Proposal, ProposalId, Types};
use super::wire::{Call, Reply};
use super::writer::{Health, Writer};
use super::{Down, ProposeError};
use crate::disk::Room;

pub(super) type Group = Raft<Types, Machine>;

/// Where this box finds a leader.
pub(super) struct Desk {
    pub(super) me: Member,
    pub(super) peers: Arc<dyn Peers>,
    pub(super) out: Arc<Outward>,
    /// None on a box that only follows.
    pub(super) group: Option<Group>,
    /// Who leads, by what others said last.
    hint: Mutex<Option<Member>>,
    /// Whom a follower may ask before it knows any voter.
    first: Vec<Member>,
    pub(super) opened: Instant,
    /// When this box last heard from whom it believes to lead.
    heard: Mutex<Option<Instant>>,
    /// Proposals that have to look for a leader.
    turned: mpsc::Sender<ProposalId>,
    fullness: Fullness,
    pub(super) down: Down,
}

/// Whether the disk takes what is written to it.
pub(super) struct Fullness {
    room: Room,
    health: watch::Receiver<Health>,
}

impl Fullness {
    pub(super) fn of(dir: &Path, writer: &Writer) -> Self {
        Self { room: Room::but(dir, RECORD_RESERVED_BYTES), health: writer.health() }
    }

    fn is_full(&self) -> bool {
        matches!(*self.health.borrow(), Health::Full) || self.room.is_gone()
    }
}

/// Who leads, as far as this box knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leader {
    Me,
    Other(Member),
    Nobody,
}

impl Desk {
    pub(super) fn new(
        me: Member,
        peers: Arc<dyn Peers>,
        out: Arc<Outward>,
        group: Option<Group>,
        first: Vec<Member>,
        fullness: Fullness,
        down: Down,
    ) -> (Self, mpsc::Receiver<ProposalId>) {
        // Each waiting proposal is turned away by one leader at a time.
        let (turned, looking) = mpsc::channel(COMMANDS_WAITING_MAX);
        let (hint, heard) = (Mutex::default(), Mutex::default());
        (Self { me, peers, out, group, hint, first, opened: Instant::now(), heard, turned, fullness, down }, looking)
    }

    /// Begins to wait for a proposal, and hands it on.
    pub(super) async fn take(self: &Arc<Self>, waiting: Waiting) {
        let proposal = waiting.proposal.clone();
        let leads = self.leader() == Leader::Me;
        if leads && self.is_full() {
            let _ = waiting.answer.send(Err(ProposeError::Full));
            return;
        }
        self.out.wait(waiting);
        if leads {
            self.hand_in(proposal).await;
        } else {
            self.look(proposal.id);
        }
    }

    /// Gives it to the group that this box leads, or seems to.
    async fn hand_in(self: &Arc<Self>, proposal: Proposal) {
        let Some(group) = &self.group else { return };
        let id = proposal.id;
        if self.out.with(id, |waiting| waiting.open += 1).is_none() {
            return;
        }
        let desk = Arc::downgrade(self);
        let told = Told::new(move |outcome: ClientWriteResult<Types>| {
            // Taken and applied: then it is answered already.
            let Err(error) = outcome else { return };
            let Some(desk) = desk.upgrade() else { return };
            if let ClientWriteError::ForwardToLeader(to) = &error {
                desk.out.with(id, |waiting| waiting.open -= 1);
                desk.set_hint(to.leader_id);
            }
            // Each that waits is in this queue once, so there is room; one whose desk is gone is answered elsewhere.
            let _ = desk.turned.try_send(id);
        });
        if let Err(fatal) = group.client_write_ff(proposal, Some(told)).await {
            self.down.set(&format!("its group stopped: {fatal}"));
        }
    }

    /// Looks for a leader until it has found one for this proposal, in a task of its own.
    pub(super) fn look(self: &Arc<Self>, id: ProposalId) {
        let desk = Arc::clone(self);
        tokio::spawn(async move { desk.carry(id).await });
    }

    /// As [`look`](Self::look), after a while: a leader that just said no would say it again.
    pub(super) fn look_again(self: &Arc<Self>, id: ProposalId) {
        let desk = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(PROPOSE_LOOK).await;
            desk.carry(id).await;
        });
    }

    async fn carry(self: &Arc<Self>, id: ProposalId) {
        let mut asked = 0;
        // Ends when it is answered, by whoever applied it or saw that its time is over.
        while let Some((proposal, deadline)) = self.out.with(id, |waiting| {
            if waiting.open == 0 {
                // No copy of it is anywhere: it may as well be made now, by a box that was far behind.
                waiting.proposal.known = self.out.index();
            }
            (waiting.proposal.clone(), waiting.deadline)
        }) {
            let to = match self.leader() {
                Leader::Me => {
                    self.hand_in(proposal).await;
                    // It comes back by `turned` where it wasn't taken.
                    return;
                }
                Leader::Other(leader) => leader,
                Leader::Nobody => match self.anybody(asked) {
                    Some(somebody) if self.group.is_none() => somebody,
                    _ => {
                        tokio::time::sleep(PROPOSE_LOOK).await;
                        continue;
                    }
                },
            };
            asked += 1;
            let within = RECORD_CALL_TIME.min(deadline.saturating_duration_since(Instant::now()));
            self.out.with(id, |waiting| waiting.open += 1);
            let answer = ask(&*self.peers, to, &Call::Propose(proposal), within).await;
            match answer {
                // It comes with the log.
                Ok(Reply::Taken) => return,
                Ok(Reply::NotLeader { leader }) => {
                    self.not_taken(id);
                    self.set_hint(leader.filter(|leader| *leader != to));
                }
                Ok(Reply::Busy) => {
                    self.not_taken(id);
                    // One that another leader may have taken isn't refused by this one.
                    if self.out.with(id, |waiting| waiting.open) == Some(0) {
                        return self.out.answer(id, Err(ProposeError::Busy));
                    }
                }
                Err(AskError::Peer(PeerError::Unreachable) | AskError::Refused(_)) => {
                    self.not_taken(id);
                    self.forget_hint(to);
                }
                // Whatever else it says, it may have taken it. Told again, it is applied once.
                Ok(_) | Err(_) => self.forget_hint(to),
            }
            tokio::time::sleep(PROPOSE_LOOK).await;
        }
    }

    /// No command is taken by the group while its leader's disk has no room.
    pub(super) fn is_full(&self) -> bool {
        self.fullness.is_full()
    }

    fn not_taken(&self, id: ProposalId) {
        self.out.with(id, |waiting| waiting.open -= 1);
    }

    /// Tells those whose time is over.
    pub(super) fn give_up(&self) {
        for waiting in self.out.take_overdue(Instant::now()) {
            let error = if waiting.open == 0 { ProposeError::NoQuorum } else { ProposeError::Unknown };
            let _ = waiting.answer.send(Err(error));
        }
    }

    pub(super) fn leader(&self) -> Leader {
        let Some(group) = &self.group else {
            return self.hint().map_or(Leader::Nobody, Leader::Other);
        };
        let metrics = group.server_metrics();
        let metrics = metrics.borrow_watched();
        match metrics.current_leader {
            Some(me) if me == self.me && metrics.state == ServerState::Leader => Leader::Me,
            Some(other) if other != self.me => Leader::Other(other),
            _ => self.hint().filter(|other| *other != self.me).map_or(Leader::Nobody, Leader::Other),
        }
    }

    /// Somebody who may know who leads, another at each time.
    pub(super) fn anybody(&self, turn: usize) -> Option<Member> {
        let membership = self.out.membership();
        let mut all: Vec<Member> = membership.voter_ids().collect();
        for first in &self.first {
            if !all.contains(first) {
                all.push(*first);
            }
        }
        all.retain(|member| *member != self.me);
        (!all.is_empty()).then(|| all[turn % all.len()])
    }

    pub(super) fn votes(&self) -> bool {
        self.group.is_some() && self.out.membership().voter_ids().any(|voter| voter == self.me)
    }

    pub(super) fn hint(&self) -> Option<Member> {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_hint(&self, leader: Option<Member>) {
        *self.hint.lock().unwrap_or_else(PoisonError::into_inner) = leader;
    }

    /// This one doesn't lead, or can't be asked.
    fn forget_hint(&self, who: Member) {
        let mut hint = self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        if *hint == Some(who) {
            *hint = None;
        }
    }

    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn heard(&self) -> Option<Instant> {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this box would know of what was decided a moment ago.
    pub(super) fn is_current(&self) -> bool {
        self.group.as_ref().is_some_and(|group| is_led(&group.metrics().borrow_watched(), self.heard()))
    }
}

/// Whether a quorum is behind whom this box follows or is.
pub(super) fn is_led(metrics: &RaftMetrics<Types>, heard: Option<Instant>) -> bool {
    match metrics.state {
        ServerState::Leader => {
            let voters: Vec<Member> = metrics.membership_config.voter_ids().collect();
            voters == [metrics.id] || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() < RECORD_LEASE)
        }
        ServerState::Follower | ServerState::Learner => {
            metrics.current_leader.is_some() && heard.is_some_and(|at| at.elapsed() < RECORD_LEASE)
        }
        ServerState::Candidate | ServerState::Shutdown => false,
    }
}

/// Time that a proposal waits from now on.
pub(super) fn deadline() -> Instant {
    Instant::now() + PROPOSE_TIME_MAX
}

/// What no log may hold.
pub(super) fn too_long(proposal: &Proposal) -> bool {
    proposal.text.len() > RECORD_ENTRY_BYTES_MAX
}
