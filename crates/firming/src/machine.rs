//! Standing and what happened in; the next step out.

use base::limits::{FIRMING_TIME_MAX, RETRY_WAIT_MAX, RETRY_WAIT_MIN};
use base::{BoxId, Timestamp};

use crate::{Membership, NotTaken, Order, Standing, Task, Then, What};

/// What to do next. Every step may be taken again after a crash in its middle.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Write this down so that a power cut finds the old one or this one. Then [`Happened::Written`].
    Write(Standing),
    /// Tell the cloud that the box goes, and wait no longer than is decent for what it says. Then [`Happened::Left`].
    Leave(Membership),
    /// Delete all that the box holds but its standing, and its key too where told. Then [`Happened::Wiped`].
    Wipe { key: bool },
    /// Found a cloud, or ask one at its doors to be let in, and lay what comes of it on the disk. Then
    /// [`Happened::Entered`], [`Happened::Refused`] or [`Happened::Failed`].
    Enter(Task),
    /// Run the node: [`Firming::runs`], or [`Happened::Failed`]. Then nothing for years, or [`Happened::Died`].
    Run(Membership),
    /// Stop the node: end what is under way first, in bounded time. Then [`Happened::Stopped`].
    Stop,
    /// Something went wrong; it is tried again at this time ([`Happened::Tick`]).
    Wait { until: Timestamp, why: String },
    /// Nothing, until an order comes.
    Listen,
}

/// What came of a step, or from outside.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Happened {
    Written,
    /// It couldn't be written: the disk has what it had.
    NotWritten(String),
    Left,
    Wiped,
    Entered,
    /// The cloud won't have the box, and asking again won't change that.
    Refused(String),
    /// It didn't work this time.
    Failed(String),
    /// The node that ran is no more.
    Died(String),
    Stopped,
    /// Time went by.
    Tick,
    /// The cloud has put the box out for good.
    Evicted,
}

/// Where the box is between two starts: what a crash forgets.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    /// As after a start.
    Fresh,
    /// This is to be written before anything else is done.
    Turning(Standing),
    /// The cloud was told that the box goes.
    Gone,
    /// Nothing is on the disk but the standing.
    Clean,
    Waiting {
        until: Timestamp,
        why: String,
    },
}

/// The machine.
#[derive(Clone, Debug)]
pub struct Firming {
    me: BoxId,
    standing: Standing,
    phase: Phase,
    /// The node runs, or has been told to.
    running: bool,
    /// Failures in a row.
    failures: u32,
    /// Why the box gave up its last order, for whoever asks.
    given_up: Option<String>,
}

impl Firming {
    /// After a start: `standing` is what the disk says.
    #[must_use]
    pub fn restart(me: BoxId, standing: Standing) -> Self {
        Self { me, standing, phase: Phase::Fresh, running: false, failures: 0, given_up: None }
    }

    /// What is on the disk.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// What is on the disk, or about to be: what is about to be written counts as there, so that a second order which comes
    /// meanwhile is looked at as if the first were done.
    #[must_use]
    pub fn ahead(&self) -> &Standing {
        match &self.phase {
            Phase::Turning(next) => next,
            _ => &self.standing,
        }
    }

    /// Why nothing moves, if nothing does: for whoever asks.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match &self.phase {
            Phase::Waiting { why, .. } => Some(why),
            _ => self.given_up.as_deref(),
        }
    }

    /// What to do next. Asking again without anything having happened gives the same step.
    #[must_use]
    pub fn next(&self) -> Step {
        match (&self.phase, &self.standing) {
            (Phase::Turning(next), _) => Step::Write(next.clone()),
            (Phase::Waiting { until, why }, _) => Step::Wait { until: *until, why: why.clone() },
            (Phase::Clean, Standing::Firming { task, .. }) => Step::Enter(task.clone()),
            (_, Standing::Firming { .. }) => Step::Wipe { key: false },
            (_, Standing::Firm(membership)) => {
                if self.running {
                    Step::Listen
                } else {
                    Step::Run(membership.clone())
                }
            }
            (_, Standing::Resetting { .. }) if self.running => Step::Stop,
            (Phase::Fresh, Standing::Resetting { left: Some(membership), .. }) => Step::Leave(membership.clone()),
            (_, Standing::Resetting { new_key, .. }) => Step::Wipe { key: *new_key },
            (_, Standing::Blank) => Step::Listen,
        }
    }

    /// Takes an order whose signer [`Standing::obeys`]. It holds once the step that follows, a [`Step::Write`], is done:
    /// answer the one who gave it only then.
    pub fn order(&mut self, order: Order, now: Timestamp) -> Result<(), NotTaken> {
        if order.to != self.me {
            return Err(NotTaken::OtherBox { wanted: order.to, found: self.me });
        }
        let task = match order.what {
            What::Reset => None,
            What::Firm(assignment) => {
                assignment.check()?;
                Some(Task { order: order.id, assignment })
            }
        };
        let next = match (task, self.ahead()) {
            // It came twice.
            (Some(task), Standing::Firming { task: held, .. }) if task.order == held.order => return Ok(()),
            (Some(task), Standing::Firm(membership)) if task.order == membership.order => return Ok(()),
            (None, Standing::Blank) => return Ok(()),
            // Its cloud has it be something else.
            (Some(task), Standing::Firm(membership)) if task.is_of(membership) => {
                Standing::Resetting { then: Then::Firm(task), new_key: false, left: Some(membership.clone()) }
            }
            (Some(_), Standing::Firm(membership)) => {
                return Err(NotTaken::FirmAlready(membership.roles.clone(), membership.name.clone()));
            }
            (Some(task), Standing::Blank | Standing::Firming { .. }) => Standing::Firming { task, since: now },
            (task, Standing::Resetting { new_key, left, .. }) => {
                Standing::Resetting { then: then(task), new_key: *new_key, left: left.clone() }
            }
            (None, Standing::Firming { .. }) => Standing::Resetting { then: Then::Blank, new_key: false, left: None },
            (None, Standing::Firm(membership)) => {
                Standing::Resetting { then: Then::Blank, new_key: false, left: Some(membership.clone()) }
            }
        };
        self.turn(next);
        Ok(())
    }

    /// Takes notice.
    pub fn happened(&mut self, what: Happened, now: Timestamp) {
        match (what, &self.standing) {
            (Happened::Written, _) => {
                if let Phase::Turning(next) = std::mem::replace(&mut self.phase, Phase::Fresh) {
                    self.standing = next;
                    self.failures = 0;
                }
            }
            (Happened::NotWritten(why), standing) => {
                // A box at rest stays as it is, and the order was not taken; one on its way tries again.
                let rests = self.running || *standing == Standing::Blank;
                self.phase = Phase::Fresh;
                if !rests {
                    self.wait(why, now);
                }
            }
            (Happened::Left, Standing::Resetting { .. }) => self.pass(Phase::Gone),
            (Happened::Wiped, Standing::Firming { .. }) => self.pass(Phase::Clean),
            (Happened::Wiped, Standing::Resetting { then, .. }) => {
                let next = match then {
                    Then::Blank => Standing::Blank,
                    Then::Firm(task) => Standing::Firming { task: task.clone(), since: now },
                };
                self.turn_unless_turning(next);
            }
            (Happened::Entered, Standing::Firming { task, .. }) => {
                let next = Standing::Firm(task.membership(now));
                self.turn_unless_turning(next);
            }
            (Happened::Refused(why), Standing::Firming { .. }) => self.give_up(why),
            (Happened::Failed(why), Standing::Firming { since, .. }) => {
                if now.since(*since) >= FIRMING_TIME_MAX {
                    self.give_up(why);
                } else {
                    self.wait(why, now);
                }
            }
            (Happened::Failed(why), _) => self.wait(why, now),
            (Happened::Died(why), _) => {
                self.running = false;
                self.wait(why, now);
            }
            (Happened::Stopped, _) => self.running = false,
            (Happened::Evicted, Standing::Firm(_)) => {
                // It isn't asked to say goodbye: nobody listens to it any more.
                let next = Standing::Resetting { then: Then::Blank, new_key: true, left: None };
                self.given_up = Some("its cloud has put this box out: it came back with a new key".to_owned());
                self.turn(next);
            }
            (Happened::Tick, _) => {
                if matches!(self.phase, Phase::Waiting { until, .. } if until <= now) {
                    self.phase = Phase::Fresh;
                }
            }
            // Said too late, about a standing that is no more.
            (Happened::Left | Happened::Wiped | Happened::Entered | Happened::Refused(_) | Happened::Evicted, _) => {}
        }
    }

    /// The node was started, as [`Step::Run`] said.
    pub fn runs(&mut self) {
        self.running = true;
        self.given_up = None;
    }

    fn turn(&mut self, next: Standing) {
        self.phase = Phase::Turning(next);
    }

    /// An order that came meanwhile goes before what the step would have led to.
    fn turn_unless_turning(&mut self, next: Standing) {
        if !matches!(self.phase, Phase::Turning(_)) {
            self.turn(next);
        }
    }

    fn pass(&mut self, phase: Phase) {
        if !matches!(self.phase, Phase::Turning(_)) {
            self.phase = phase;
        }
    }

    fn give_up(&mut self, why: String) {
        self.given_up = Some(why);
        self.turn_unless_turning(Standing::Resetting { then: Then::Blank, new_key: false, left: None });
    }

    fn wait(&mut self, why: String, now: Timestamp) {
        let wait = RETRY_WAIT_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        self.pass(Phase::Waiting { until: now.plus(wait), why });
    }
}

fn then(task: Option<Task>) -> Then {
    task.map_or(Then::Blank, Then::Firm)
}

#[cfg(test)]
mod tests;
