//! Who votes on the record: how the voters are chosen, and how the group gets from some to others.

use std::collections::{BTreeMap, BTreeSet};

use base::BoxId;
use base::limits::{VOTERS_MAX, VOTERS_TIME_MAX};
use openraft::ChangeMembers;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use serde::{Deserialize, Serialize};

use super::desk::Group;
use super::types::{Member, Types};

/// A persistence box, as one that may vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: BoxId,
    /// Where it fails together with others: a rack, a room. Boxes without one fail alone.
    pub label: Option<String>,
    /// Whether it answers. Its link's opinion of a minute, not of a moment: a voter that is changed for a hiccup is
    /// changed back after it.
    pub is_reachable: bool,
    /// Whether it votes now.
    pub is_voter: bool,
}

/// Chooses the voters: one of one or two boxes, three of three or four, five of more, as an even number survives no more
/// losses than the odd one below it.
///
/// Those that can be reached first, as many failure labels as there are, then those that vote already; the smallest id
/// decides what is left. The choice of what was chosen is the same again.
#[must_use]
pub fn voters_of(candidates: &[Candidate]) -> BTreeSet<BoxId> {
    let candidates: BTreeMap<BoxId, &Candidate> =
        candidates.iter().map(|candidate| (candidate.id, candidate)).collect();
    let wanted = match candidates.len() {
        0 => 0,
        1 | 2 => 1,
        3 | 4 => 3,
        _ => VOTERS_MAX,
    };
    let mut chosen = BTreeSet::new();
    let mut per_label: BTreeMap<&str, usize> = BTreeMap::new();
    while chosen.len() < wanted {
        let crowd = |candidate: &Candidate| {
            candidate.label.as_deref().map_or(0, |label| per_label.get(label).copied().unwrap_or(0))
        };
        let best = candidates
            .values()
            .filter(|candidate| !chosen.contains(&candidate.id))
            .min_by_key(|candidate| (!candidate.is_reachable, crowd(candidate), !candidate.is_voter, candidate.id))
            .expect("there are more candidates than are wanted");
        if let Some(label) = &best.label {
            *per_label.entry(label).or_default() += 1;
        }
        chosen.insert(best.id);
    }
    chosen
}

/// The boxes that keep the record: those that vote, and those that are told everything and stand by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    pub voters: BTreeSet<BoxId>,
    pub learners: BTreeSet<BoxId>,
}

/// Why the voters are not those that were wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetVotersError {
    #[error("a group has 1 to {VOTERS_MAX} voters, and {0} were named")]
    Count(usize),
    #[error("there is no leader who could change the voters: they are as they were")]
    NoLeader,
    #[error("another change of the voters is under way: try again in a moment")]
    Busy,
    #[error("the change took too long: a new voter may not be reachable, and it goes on when it is")]
    Late,
    #[error("whether the voters were changed is unknown: look at `firm status`")]
    Unknown,
    #[error("the box holds no vote and knows of no leader that can be asked")]
    Unreachable,
    #[error("the voters were not changed: {0}")]
    Refused(String),
}

/// Makes these the members of the group that this box leads. New voters first learn what the others know; those that only
/// learn are waited for by nobody.
pub(super) async fn set(group: &Group, wanted: Members) -> Result<(), SetVotersError> {
    if wanted.voters.is_empty() || wanted.voters.len() > VOTERS_MAX {
        return Err(SetVotersError::Count(wanted.voters.len()));
    }
    tokio::time::timeout(VOTERS_TIME_MAX, change(group, wanted)).await.map_err(|_| SetVotersError::Late)?
}

async fn change(group: &Group, wanted: Members) -> Result<(), SetVotersError> {
    let members = |ids: BTreeSet<BoxId>| ids.into_iter().map(Member).collect::<BTreeSet<_>>();
    let (voters, learners) = (members(wanted.voters), members(wanted.learners));
    let (voting, learning) = now(group);
    for new in voters.difference(&voting) {
        // It returns when the newcomer has what the others have.
        group.add_learner(*new, (), true).await.map_err(refused)?;
    }
    for new in learners.iter().filter(|new| !voting.contains(new) && !learning.contains(new)) {
        group.add_learner(*new, (), false).await.map_err(refused)?;
    }
    if voters != voting {
        // Whoever votes no more learns on.
        group.change_membership(voters, true).await.map_err(refused)?;
    }
    let left: BTreeSet<Member> = now(group).1.difference(&learners).copied().collect();
    if !left.is_empty() {
        group.change_membership(ChangeMembers::RemoveNodes(left), false).await.map_err(refused)?;
    }
    Ok(())
}

/// Who votes, and who only learns.
fn now(group: &Group) -> (BTreeSet<Member>, BTreeSet<Member>) {
    let metrics = group.server_metrics();
    let metrics = metrics.borrow_watched();
    let membership = &metrics.membership_config;
    (membership.voter_ids().collect(), membership.membership().learner_ids().collect())
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> SetVotersError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => SetVotersError::NoLeader,
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => SetVotersError::Unknown,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
        )) => SetVotersError::Busy,
        other => SetVotersError::Refused(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let one = (any::<u8>(), proptest::option::of("[abc]"), any::<bool>(), any::<bool>());
        let one = one.prop_map(|(id, label, is_reachable, is_voter)| Candidate {
            id: BoxId([id; BoxId::BYTES]),
            label,
            is_reachable,
            is_voter,
        });
        proptest::collection::btree_map(any::<u8>(), one, 0..12).prop_map(|all| {
            all.into_iter().map(|(id, candidate)| Candidate { id: BoxId([id; BoxId::BYTES]), ..candidate }).collect()
        })
    }

    fn chosen_of<'a>(all: &'a [Candidate], chosen: &BTreeSet<BoxId>) -> Vec<&'a Candidate> {
        all.iter().filter(|candidate| chosen.contains(&candidate.id)).collect()
    }

    proptest! {
        #[test]
        fn the_choice_is_odd_of_the_candidates_and_the_same_in_any_order(all in candidates()) {
            let chosen = voters_of(&all);
            prop_assert_eq!(chosen.len(), match all.len() { 0 => 0, 1 | 2 => 1, 3 | 4 => 3, _ => 5 });
            let mut turned = all.clone();
            turned.reverse();
            prop_assert_eq!(voters_of(&turned), chosen.clone());
            prop_assert_eq!(chosen_of(&all, &chosen).len(), chosen.len());
        }

        #[test]
        fn nobody_is_left_out_for_one_who_can_not_be_reached(all in candidates()) {
            let chosen = voters_of(&all);
            let dead_votes = chosen_of(&all, &chosen).iter().any(|candidate| !candidate.is_reachable);
            let alive_left = all.iter().any(|candidate| candidate.is_reachable && !chosen.contains(&candidate.id));
            prop_assert!(!(dead_votes && alive_left));
        }

        #[test]
        fn what_was_chosen_is_chosen_again(all in candidates()) {
            let chosen = voters_of(&all);
            let again: Vec<Candidate> = all
                .iter()
                .map(|candidate| Candidate { is_voter: chosen.contains(&candidate.id), ..candidate.clone() })
                .collect();
            prop_assert_eq!(voters_of(&again), chosen);
        }

        #[test]
        fn no_label_has_two_voters_more_than_one_that_could_have_them(all in candidates()) {
            let all: Vec<Candidate> = all.into_iter().map(|candidate| Candidate { is_reachable: true, ..candidate }).collect();
            let chosen = voters_of(&all);
            let labels = |candidates: Vec<&Candidate>| {
                let mut count: BTreeMap<String, usize> = BTreeMap::new();
                for candidate in candidates {
                    // Without a label it fails alone.
                    *count.entry(candidate.label.clone().unwrap_or_else(|| candidate.id.to_string())).or_default() += 1;
                }
                count
            };
            let (there, voting) = (labels(all.iter().collect()), labels(chosen_of(&all, &chosen)));
            for (label, votes) in &voting {
                for (other, boxes) in &there {
                    let has = voting.get(other).copied().unwrap_or(0);
                    prop_assert!(has == *boxes || *votes <= has + 1, "{label} has {votes}, {other} has {has} of {boxes}");
                }
            }
        }

        #[test]
        fn a_voter_stays_where_nothing_speaks_against_it(ids in proptest::collection::btree_set(any::<u8>(), 5..9), keep in any::<proptest::sample::Index>()) {
            let ids: Vec<u8> = ids.into_iter().collect();
            let at = keep.index(ids.len());
            let all: Vec<Candidate> = ids
                .iter()
                .enumerate()
                .map(|(number, id)| Candidate { id: BoxId([*id; BoxId::BYTES]), label: None, is_reachable: true, is_voter: number == at })
                .collect();
            prop_assert!(voters_of(&all).contains(&all[at].id));
        }
    }
}
