//! Turns at the compiler.
//!
//! A component can be written so that it takes the compiler as long as one may. Whoever pushes such things must not
//! keep the others from pushing: a tenant compiles one component at a time, and next comes, of those who wait, the
//! tenant that has had least of the compiler lately.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base::TenantId;
use base::limits::{COMPILES_AT_ONCE, COMPILES_WAITING_MAX, COMPILES_WAITING_PER_TENANT_MAX};
use tokio::sync::oneshot;

/// After so long what a tenant has had counts half.
const FORGETTING: Duration = Duration::from_mins(1);
/// What is less than this is forgotten, so that only tenants who compile now are remembered.
const FORGOTTEN: Duration = Duration::from_millis(1);

/// Too many wait already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

#[derive(Default)]
pub(super) struct Turns(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Who has a turn, and since when.
    running: HashMap<TenantId, Instant>,
    /// In the order in which they came.
    waiting: VecDeque<(TenantId, oneshot::Sender<Turn>)>,
    spent: HashMap<TenantId, Spent>,
}

/// Time at the compiler, as it counted at some moment.
#[derive(Clone, Copy)]
struct Spent {
    time: Duration,
    at: Instant,
}

impl Spent {
    fn now(self, now: Instant) -> Duration {
        let halvings = now.saturating_duration_since(self.at).as_secs_f64() / FORGETTING.as_secs_f64();
        self.time.mul_f64(0.5_f64.powf(halvings))
    }
}

/// One turn; the next one's begins when it is dropped.
pub(super) struct Turn {
    tenant: TenantId,
    state: Arc<Mutex<State>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.end(self.tenant, now);
        let begun = state.begin(&self.state, now);
        drop(state);
        // One that has gone meanwhile gives its turn back, which needs the lock.
        for (sender, turn) in begun {
            drop(sender.send(turn));
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Turns {
    /// Turns that are taken, and those who wait for one.
    pub(super) fn taken(&self) -> (usize, usize) {
        let state = lock(&self.0);
        (state.running.len(), state.waiting.iter().filter(|(_, waits)| !waits.is_closed()).count())
    }

    /// Waits for a turn of `tenant`.
    pub(super) async fn turn(&self, tenant: TenantId) -> Result<Turn, Full> {
        let (sender, turn) = oneshot::channel();
        let begun = {
            let mut state = lock(&self.0);
            state.waiting.retain(|(_, waits)| !waits.is_closed());
            let own = state.waiting.iter().filter(|(waits, _)| *waits == tenant).count();
            if state.waiting.len() >= COMPILES_WAITING_MAX || own >= COMPILES_WAITING_PER_TENANT_MAX {
                return Err(Full);
            }
            state.waiting.push_back((tenant, sender));
            state.begin(&self.0, Instant::now())
        };
        for (sender, turn) in begun {
            drop(sender.send(turn));
        }
        Ok(turn.await.expect("who waits is given a turn, and senders live as long as they wait"))
    }
}

impl State {
    fn end(&mut self, tenant: TenantId, now: Instant) {
        let Some(since) = self.running.remove(&tenant) else { return };
        self.spent.retain(|_, spent| spent.now(now) > FORGOTTEN);
        let spent = self.spent.entry(tenant).or_insert(Spent { time: Duration::ZERO, at: now });
        *spent = Spent { time: spent.now(now) + now.saturating_duration_since(since), at: now };
    }

    /// Begins the turns that can be begun.
    fn begin(&mut self, shared: &Arc<Mutex<Self>>, now: Instant) -> Vec<(oneshot::Sender<Turn>, Turn)> {
        let mut begun = Vec::new();
        while self.running.len() < COMPILES_AT_ONCE {
            let spent = |tenant| self.spent.get(tenant).map_or(Duration::ZERO, |spent| spent.now(now));
            let may = self.waiting.iter().enumerate().filter(|(_, (tenant, _))| !self.running.contains_key(tenant));
            // Of those who have had as much, the first: `min_by_key` takes it.
            let Some((place, _)) = may.min_by_key(|(_, (tenant, _))| spent(tenant)) else { break };
            let Some((tenant, sender)) = self.waiting.remove(place) else { break };
            self.running.insert(tenant, now);
            begun.push((sender, Turn { tenant, state: Arc::clone(shared) }));
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who gets a turn, in order, when these wait while one of tenant 0 runs.
    async fn order(spent: &[(u64, u64)], waiting: &[u64]) -> Vec<u64> {
        let turns = Arc::new(Turns::default());
        {
            let mut state = lock(&turns.0);
            for (tenant, seconds) in spent {
                let spent = Spent { time: Duration::from_secs(*seconds), at: Instant::now() };
                state.spent.insert(TenantId(*tenant), spent);
            }
        }
        let mut held = Vec::new();
        for busy in 0..u64::try_from(COMPILES_AT_ONCE).expect("it is small") {
            held.push(turns.turn(TenantId(1_000 + busy)).await.expect("there is room"));
        }
        let had = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for tenant in waiting.iter().copied() {
            let (turns, had) = (Arc::clone(&turns), Arc::clone(&had));
            tasks.push(tokio::spawn(async move {
                let turn = turns.turn(TenantId(tenant)).await.expect("there is room");
                had.lock().expect("nobody panics").push(tenant);
                tokio::task::yield_now().await;
                drop(turn);
            }));
            tokio::task::yield_now().await;
        }
        // One place is enough to see the order.
        drop(held.pop());
        for task in tasks {
            task.await.expect("it doesn't panic");
        }
        drop(held);
        let had = had.lock().expect("nobody panics");
        had.clone()
    }

    #[tokio::test]
    async fn who_had_least_is_next() {
        assert_eq!(order(&[(1, 100), (2, 10)], &[1, 2, 3]).await, [3, 2, 1]);
    }

    #[tokio::test]
    async fn equals_come_in_order_and_take_turns() {
        assert_eq!(order(&[], &[1, 2, 3]).await, [1, 2, 3]);
        let had = order(&[], &[1, 1, 1, 2]).await;
        assert_eq!(had.iter().position(|tenant| *tenant == 2), Some(1), "{had:?}");
    }

    #[tokio::test]
    async fn a_tenant_has_one_turn_at_a_time_and_few_wait() {
        let turns = Arc::new(Turns::default());
        let first = turns.turn(TenantId(1)).await.expect("it is free");
        let waiting: Vec<_> = (0..COMPILES_WAITING_PER_TENANT_MAX)
            .map(|_| {
                let turns = Arc::clone(&turns);
                tokio::spawn(async move { turns.turn(TenantId(1)).await.is_ok() })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(turns.turn(TenantId(1)).await.is_err());
        assert!(turns.turn(TenantId(2)).await.is_ok(), "the other place is free for others");
        drop(first);
        for task in waiting {
            assert!(task.await.expect("it doesn't panic"));
        }
    }

    #[tokio::test]
    async fn who_leaves_while_waiting_blocks_nobody() {
        let turns = Turns::default();
        let first = turns.turn(TenantId(1)).await.expect("it is free");
        assert!(tokio::time::timeout(Duration::ZERO, turns.turn(TenantId(1))).await.is_err(), "it waits");
        drop(first);
        assert!(turns.turn(TenantId(1)).await.is_ok());
        assert!(lock(&turns.0).running.is_empty());
    }

    #[test]
    fn what_was_had_is_forgotten() {
        let at = Instant::now();
        let spent = Spent { time: Duration::from_mins(2), at };
        assert_eq!(spent.now(at), Duration::from_mins(2));
        assert_eq!(spent.now(at + FORGETTING), Duration::from_mins(1));
    }
}
