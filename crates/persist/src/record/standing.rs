//! How the record's group stands, for `firm status`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::BoxId;
use base::limits::{FOLLOW_WAIT, RECORD_CALL_TIME};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, RaftMetrics, ServerState};
use tokio::time::Instant;

use super::desk::{Desk, is_led};
use super::types::{LogId, Member, Types};

/// What this box is in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Leader,
    /// It votes, and follows the leader.
    Voter,
    /// It asks for votes.
    Candidate,
    /// It is told everything, and doesn't vote (yet, or any more).
    Learner,
    /// It keeps a copy, as web and auth boxes do.
    Follower,
    /// It was closed, or its log failed.
    Gone,
}

/// How the group stands, as this box sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub part: Part,
    pub term: u64,
    /// Who leads; none where no leader has been heard of lately, or this one leads without a quorum.
    pub leader: Option<BoxId>,
    /// Where there is none: for how long.
    pub leaderless: Option<Duration>,
    /// The last entry that is decided, by what this box knows, and the last that it has applied.
    pub committed: u64,
    pub applied: u64,
    /// Who votes, and how many entries behind each of them is. Only the leader knows the latter.
    pub voters: BTreeMap<BoxId, Option<u64>>,
    /// Who is told everything, and has no vote.
    pub learners: BTreeSet<BoxId>,
}

impl Standing {
    pub(super) fn gone() -> Self {
        Self {
            part: Part::Gone,
            term: 0,
            leader: None,
            leaderless: None,
            committed: 0,
            applied: 0,
            voters: BTreeMap::new(),
            learners: BTreeSet::new(),
        }
    }
}

impl Desk {
    pub(super) fn standing(&self) -> Standing {
        match &self.group {
            Some(group) => of_member(&group.metrics().borrow_watched(), self.me, self.heard(), self.opened),
            None => self.of_follower(),
        }
    }

    fn of_follower(&self) -> Standing {
        let silent = self.heard().unwrap_or(self.opened).elapsed();
        let applied = *self.out.applied().borrow();
        let is_led = silent < FOLLOW_WAIT + RECORD_CALL_TIME;
        Standing {
            part: Part::Follower,
            term: applied.as_ref().map_or(0, super::types::term_of),
            leader: self.hint().filter(|_| is_led).map(|leader| leader.0),
            leaderless: (!is_led).then_some(silent),
            committed: index(applied),
            applied: index(applied),
            voters: self.out.membership().voter_ids().map(|voter| (voter.0, None)).collect(),
            learners: self.out.membership().membership().learner_ids().map(|learner| learner.0).collect(),
        }
    }
}

fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

fn of_member(metrics: &RaftMetrics<Types>, me: Member, heard: Option<Instant>, opened: Instant) -> Standing {
    let is_led = is_led(metrics, heard);
    let since = match metrics.state {
        ServerState::Leader => metrics.last_quorum_acked.map(|at| at.elapsed()),
        _ => heard.map(|at| at.elapsed()),
    };
    let last = metrics.last_log_index.unwrap_or(0);
    let lag = |voter: &Member| {
        let matched = metrics.replication.as_ref()?.get(voter)?;
        Some(last.saturating_sub(index(*matched)))
    };
    let part = match metrics.state {
        ServerState::Learner => Part::Learner,
        ServerState::Follower => Part::Voter,
        ServerState::Candidate => Part::Candidate,
        ServerState::Leader => Part::Leader,
        ServerState::Shutdown => Part::Gone,
    };
    Standing {
        part,
        term: metrics.current_term,
        leader: metrics.current_leader.filter(|_| is_led).map(|leader| leader.0),
        leaderless: (!is_led).then(|| since.unwrap_or_else(|| opened.elapsed())),
        committed: index(metrics.local_committed),
        applied: index(metrics.last_applied),
        voters: metrics
            .membership_config
            .voter_ids()
            .map(|voter| (voter.0, if voter == me && part == Part::Leader { Some(0) } else { lag(&voter) }))
            .collect(),
        learners: metrics.membership_config.membership().learner_ids().map(|learner| learner.0).collect(),
    }
}
