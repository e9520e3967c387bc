//! Who keeps the record: whoever leads it makes voters of the persistence boxes that live, as many as survive the most.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use base::limits::{BEAT_EVERY, BEAT_TIME_MAX, VOTER_SILENCE_MAX};
use base::{BoxId, Role};
use persist::record::{Candidate, Members, voters_of};
use state::Boxes;
use tokio::time::MissedTickBehavior;

use crate::cloud::Cloud;

/// The label that says which boxes fail together.
const FAILURE_LABEL: &str = "rack";

impl Cloud {
    /// Tends the voters for as long as the node lives: reads who there is and who votes, and mends the difference.
    pub(crate) async fn tend_voters(self: Arc<Self>) {
        let Some(far) = self.far.clone() else { return std::future::pending().await };
        let mut every = tokio::time::interval(BEAT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leads_since: Option<Instant> = None;
        let mut said = String::new();
        loop {
            every.tick().await;
            if !self.leads() {
                leads_since = None;
                continue;
            }
            let since = *leads_since.get_or_insert_with(Instant::now);
            let Some(boxes) = self.record().boxes().cloned() else { continue };
            let standing = self.store.record.standing();
            let now = Members { voters: standing.voters.into_keys().collect(), learners: standing.learners };
            let voting = &now.voters;
            let me = far.tier.me();
            let lives = |id: BoxId| {
                let ago = self.beats.ago(id);
                // Who votes isn't dead because a new leader hasn't heard of it yet.
                let is_new_here = voting.contains(&id) && since.elapsed() < VOTER_SILENCE_MAX;
                id == me || is_new_here || ago.is_some_and(|ago| ago < VOTER_SILENCE_MAX)
            };
            let wanted = wanted(&boxes, voting, lives, |id| id == me || self.beats.ago(id).is_some());
            if wanted.voters.is_empty() || wanted == now {
                continue;
            }
            match self.store.record.set_members(wanted.clone()).await {
                Ok(()) => {
                    said.clear();
                    let names: Vec<_> = wanted.voters.iter().map(|id| id.name().to_string()).collect();
                    tracing::info!(voters = names.join(" "), learners = wanted.learners.len(), "who keeps the record");
                }
                Err(error) => {
                    let now = error.to_string();
                    if now != said {
                        tracing::warn!("the voters are not those that are wanted: {now}");
                        said = now;
                    }
                    tokio::time::sleep(BEAT_TIME_MAX).await;
                }
            }
        }
    }
}

/// Whom the record should be kept by. Boxes that are not up yet are no candidates: a new voter is waited for.
fn wanted(
    boxes: &Boxes,
    voting: &BTreeSet<BoxId>,
    lives: impl Fn(BoxId) -> bool,
    is_heard: impl Fn(BoxId) -> bool,
) -> Members {
    let stays: Vec<_> = boxes.with(Role::Persistence).filter(|it| !it.leaving).collect();
    let candidates: Vec<Candidate> = stays
        .iter()
        .filter(|it| voting.contains(&it.id) || lives(it.id))
        .map(|it| Candidate {
            id: it.id,
            label: it.labels.get(FAILURE_LABEL).cloned(),
            is_reachable: lives(it.id),
            is_voter: voting.contains(&it.id),
        })
        .collect();
    let voters = voters_of(&candidates);
    let mut learners: BTreeSet<BoxId> =
        stays.iter().map(|it| it.id).filter(|id| !voters.contains(id) && is_heard(*id)).collect();
    // A box that goes is told on for as long as it has data to send away.
    let holds = |id: BoxId| boxes.homes.values().any(|home| *home == id);
    learners.extend(boxes.with(Role::Persistence).filter(|it| it.leaving && holds(it.id)).map(|it| it.id));
    Members { voters, learners }
}
