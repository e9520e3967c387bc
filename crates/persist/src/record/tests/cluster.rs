//! Groups of keepers on a network in memory that loses, delays and repeats what it carries, is cut in two or in one
//! direction, and whose boxes are killed and started again from their disks.

#![expect(clippy::print_stderr, reason = "the seed of a failed run must be seen, and how long a failover took")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::limits::{COMMANDS_PER_SNAPSHOT, PROPOSE_TIME_MAX};
use openraft::async_runtime::watch::WatchReceiver as _;
use proptest::prelude::*;
use tempfile::TempDir;

use super::super::types::{LogEntry, Payload, Vote};
use super::super::wire::{Call, Reply};
use super::*;

/// Long enough for two elections, and for a sync where others build: 17 s were seen.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

pub(super) fn id(number: u8) -> BoxId {
    BoxId([number; BoxId::BYTES])
}

/// Random numbers that a seed decides (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

fn voting(voters: BTreeSet<BoxId>) -> Members {
    Members { voters, learners: BTreeSet::new() }
}

struct Weather {
    dice: Dice,
    /// In this direction nothing arrives.
    cut: HashSet<(BoxId, BoxId)>,
    lost_percent: u64,
    twice_percent: u64,
    delay_ms_max: u64,
}

/// What happens to one call.
struct Fate {
    delay: Duration,
    is_lost: bool,
    is_answer_lost: bool,
    comes_twice: bool,
}

/// The boxes that run, and what is between them.
pub(super) struct Net {
    weather: Mutex<Weather>,
    running: Mutex<BTreeMap<BoxId, Keeper>>,
    /// Calls that were made, by who made them.
    calls: Mutex<BTreeMap<BoxId, u64>>,
    strangers: Mutex<BTreeSet<BoxId>>,
}

impl Net {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let weather =
            Weather { dice: Dice(seed), cut: HashSet::new(), lost_percent: 0, twice_percent: 0, delay_ms_max: 0 };
        Arc::new(Self {
            weather: Mutex::new(weather),
            running: Mutex::default(),
            calls: Mutex::default(),
            strangers: Mutex::default(),
        })
    }

    fn fate(&self, from: BoxId, to: BoxId) -> Fate {
        *self.calls.lock().expect("whole").entry(from).or_default() += 1;
        let mut weather = self.weather.lock().expect("whole");
        let delay = weather.delay_ms_max + 1;
        let (lost, twice) = (weather.lost_percent, weather.twice_percent);
        Fate {
            delay: Duration::from_millis(weather.dice.below(delay)),
            is_lost: weather.cut.contains(&(from, to)) || weather.dice.percent(lost),
            is_answer_lost: weather.cut.contains(&(to, from)) || weather.dice.percent(lost),
            comes_twice: weather.dice.percent(twice),
        }
    }

    pub(super) fn keeper(&self, who: BoxId) -> Option<Keeper> {
        self.running.lock().expect("whole").get(&who).cloned()
    }

    fn all(&self) -> Vec<(BoxId, Keeper)> {
        self.running.lock().expect("whole").iter().map(|(id, keeper)| (*id, keeper.clone())).collect()
    }

    pub(super) fn add(&self, who: BoxId, keeper: Keeper) {
        self.running.lock().expect("whole").insert(who, keeper);
    }

    pub(super) fn remove(&self, who: BoxId) -> Option<Keeper> {
        self.running.lock().expect("whole").remove(&who)
    }

    /// Nothing goes from one of `these` to one of `those`.
    pub(super) fn cut(&self, these: &[BoxId], those: &[BoxId]) {
        let mut weather = self.weather.lock().expect("whole");
        for from in these {
            weather.cut.extend(those.iter().filter(|to| *to != from).map(|to| (*from, *to)));
        }
    }

    pub(super) fn cut_both_ways(&self, these: &[BoxId], those: &[BoxId]) {
        self.cut(these, those);
        self.cut(those, these);
    }

    pub(super) fn heal(&self) {
        let mut weather = self.weather.lock().expect("whole");
        weather.cut.clear();
        (weather.lost_percent, weather.twice_percent, weather.delay_ms_max) = (0, 0, 0);
    }

    fn calls_of(&self, who: BoxId) -> u64 {
        self.calls.lock().expect("whole").get(&who).copied().unwrap_or(0)
    }

    fn link(self: &Arc<Self>, me: BoxId) -> Arc<dyn Peers> {
        Arc::new(Link { me, net: Arc::clone(self) })
    }
}

/// One box's end of the network.
pub(super) struct Link {
    pub(super) me: BoxId,
    pub(super) net: Arc<Net>,
}

impl Peers for Link {
    fn call(&self, to: BoxId, message: Bytes, _: Weight, within: Duration) -> Answer {
        let (me, net) = (self.me, Arc::clone(&self.net));
        let fate = net.fate(me, to);
        Box::pin(async move {
            let carried = async {
                tokio::time::sleep(fate.delay).await;
                if fate.is_lost {
                    return None;
                }
                let keeper = net.keeper(to).ok_or(PeerError::Unreachable);
                let keeper = match keeper {
                    Ok(keeper) => keeper,
                    Err(error) => return Some(Err(error)),
                };
                let answer = keeper.answer(me, message.clone()).await;
                if fate.comes_twice {
                    keeper.answer(me, message).await;
                }
                (!fate.is_answer_lost).then_some(Ok(answer))
            };
            let waited = tokio::time::timeout(within, async {
                match carried.await {
                    Some(answer) => answer,
                    None => std::future::pending().await,
                }
            });
            waited.await.unwrap_or(Err(PeerError::TimedOut))
        })
    }

    fn trust(&self, who: BoxId) -> Trust {
        if self.net.strangers.lock().expect("whole").contains(&who) { Trust::None } else { Trust::Voter }
    }
}

/// Some boxes with their disks.
pub(super) struct Cluster {
    pub(super) net: Arc<Net>,
    dirs: BTreeMap<BoxId, TempDir>,
}

impl Cluster {
    /// `count` boxes that all vote.
    pub(super) async fn of(count: u8, seed: u64) -> Self {
        let mut cluster = Self { net: Net::new(seed), dirs: BTreeMap::new() };
        for number in 1..=count {
            cluster.dirs.insert(id(number), tempfile::tempdir().expect("a temporary directory"));
            cluster.start(id(number)).await;
        }
        if count > 1 {
            cluster.keeper(1).set_members(voting(cluster.ids().into_iter().collect())).await.expect("all are there");
        }
        cluster
    }

    pub(super) fn ids(&self) -> Vec<BoxId> {
        self.dirs.keys().copied().collect()
    }

    /// Starts a box from its disk. Box 1 is the one that founded the group.
    pub(super) async fn start(&self, who: BoxId) {
        let start = if who == id(1) { Start::Found } else { Start::Join };
        let group = Group { me: who, start, peers: self.net.link(who) };
        let dir = self.dirs[&who].path().to_owned();
        // A sync may take seconds where others build, and all of a test's boxes share its thread.
        let keeper =
            tokio::task::spawn_blocking(move || Keeper::open_in_group(&dir, group).expect("its disk is whole"));
        self.net.add(who, keeper.await.expect("it is opened"));
    }

    pub(super) async fn kill(&self, who: BoxId) {
        if let Some(keeper) = self.net.remove(who) {
            tokio::task::spawn_blocking(move || keeper.crash()).await.expect("it ends");
        }
    }

    pub(super) fn keeper(&self, number: u8) -> Keeper {
        self.net.keeper(id(number)).expect("it runs")
    }

    /// Who leads with a quorum behind it, when somebody among `these` does.
    pub(super) async fn leader_among(&self, these: &[BoxId]) -> BoxId {
        until(|| {
            these.iter().copied().find(|who| {
                let standing = self.net.keeper(*who).map(|keeper| keeper.standing());
                standing.is_some_and(|standing| standing.part == Part::Leader && standing.leader == Some(*who))
            })
        })
        .await
    }

    pub(super) async fn leader(&self) -> BoxId {
        self.leader_among(&self.ids()).await
    }

    /// All boxes that run have this record, or will.
    pub(super) async fn settled(&self) -> Arc<Record> {
        let all = self.net.all();
        let first = &all.first().expect("one runs").1;
        until(|| {
            let record = first.record();
            all.iter().all(|(_, keeper)| *keeper.record() == *record).then_some(record)
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Nobody answers any more, so nobody need be asked.
        for (who, keeper) in self.net.all() {
            self.net.remove(who);
            keeper.crash();
        }
    }
}

/// Waits for a fact.
pub(super) async fn until<T>(mut fact: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = fact() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "it doesn't come about");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What became of the commands of a test.
#[derive(Default)]
struct Ledger {
    taken: BTreeSet<String>,
    not_taken: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

impl Ledger {
    /// Nothing acknowledged is lost, nothing refused happened, and nothing happened twice.
    fn check(&self, record: &Record) {
        let there: BTreeSet<String> = record.tenants().map(|tenant| tenant.name.to_string()).collect();
        let lost: Vec<_> = self.taken.difference(&there).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let wrong: Vec<_> = self.not_taken.intersection(&there).collect();
        assert!(wrong.is_empty(), "told as not taken, and there: {wrong:?}");
        let known = &(&self.taken | &self.unknown) | &self.not_taken;
        assert!(there.is_subset(&known), "there is what nobody proposed");
        assert_eq!(record.index(), there.len() as u64, "a command was applied twice");
    }

    fn note(&mut self, name: String, outcome: &Result<Applied, ProposeError>) {
        match outcome {
            Ok(_) => self.taken.insert(name),
            Err(ProposeError::NoQuorum | ProposeError::Busy | ProposeError::Full) => self.not_taken.insert(name),
            Err(ProposeError::Unknown | ProposeError::Down { .. } | ProposeError::Closed) => self.unknown.insert(name),
            Err(error) => panic!("{name}: {error:?}"),
        };
    }
}

async fn write(net: Arc<Net>, writer: u64, seed: u64, done: Arc<AtomicU64>, stop: Arc<AtomicU64>) -> Ledger {
    let (mut ledger, mut dice) = (Ledger::default(), Dice(seed));
    for number in 0.. {
        if stop.load(Ordering::Relaxed) == 1 {
            break;
        }
        let all = net.all();
        let at = usize::try_from(dice.below(all.len().max(1) as u64)).expect("few");
        let Some((_, keeper)) = all.get(at) else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let name = format!("w{writer}-{number}");
        let start = Instant::now();
        let outcome = keeper.propose(tenant(&name)).await;
        let bound = PROPOSE_TIME_MAX + Duration::from_secs(2);
        assert!(start.elapsed() < bound, "{name} took {:?} to {outcome:?}", start.elapsed());
        // What was acknowledged on a box is in its record.
        if outcome.is_ok() {
            assert!(keeper.record().tenant_named(&name).is_some(), "{name} isn't where it was acknowledged");
        }
        // One that wasn't taken took a while: a few of them tell as much as many others.
        done.fetch_add(if outcome.is_ok() { 1 } else { 8 }, Ordering::Relaxed);
        ledger.note(name, &outcome);
    }
    ledger
}

/// A run of `count` boxes through whatever the seed brings.
async fn run(count: u8, seed: u64) {
    eprintln!("record cluster of {count}, seed {seed}");
    let cluster = Cluster::of(count, seed).await;
    let mut dice = Dice(seed ^ 0xdead);
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (net, done, stop) = (Arc::clone(&cluster.net), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(write(net, writer, seed.wrapping_add(writer), done, stop))
        })
        .collect();
    let ids = cluster.ids();
    for _ in 0..5 {
        let before = done.load(Ordering::Relaxed);
        let one = ids[usize::try_from(dice.below(u64::from(count))).expect("few")];
        let others: Vec<BoxId> = ids.iter().copied().filter(|other| *other != one).collect();
        match dice.below(6) {
            0 => cluster.net.cut_both_ways(&[one], &others),
            1 => cluster.net.cut(&[one], &others),
            2 => cluster.net.cut(&others, &[one]),
            3 => {
                let half = ids.len() / 2;
                cluster.net.cut_both_ways(&ids[..half], &ids[half..]);
            }
            4 => {
                let mut weather = cluster.net.weather.lock().expect("whole");
                (weather.lost_percent, weather.twice_percent, weather.delay_ms_max) = (15, 15, 30);
            }
            _ => {
                cluster.kill(one).await;
                cluster.start(one).await;
            }
        }
        // So many outcomes, whatever they are: each comes within a proposal's time.
        let enough = before + 4 + dice.below(20);
        until(|| (done.load(Ordering::Relaxed) >= enough).then_some(())).await;
        if dice.percent(75) {
            cluster.net.heal();
        }
    }
    cluster.net.heal();
    stop.store(1, Ordering::Relaxed);
    let mut ledger = Ledger::default();
    for writer in writers {
        let of = writer.await.expect("a writer");
        ledger.taken.extend(of.taken);
        ledger.not_taken.extend(of.not_taken);
        ledger.unknown.extend(of.unknown);
    }
    // After healing every box takes commands again.
    for who in &ids {
        let keeper = cluster.net.keeper(*who).expect("it runs");
        let name = format!("healed-{}", who.0[0]);
        let outcome = keeper.propose(tenant(&name)).await;
        assert!(outcome.is_ok(), "seed {seed}: {who} after healing: {outcome:?}, {:?}", keeper.standing());
        ledger.note(name, &outcome);
    }
    let record = cluster.settled().await;
    ledger.check(&record);
    // And what is on the disks is the same.
    for who in &ids {
        cluster.kill(*who).await;
        cluster.start(*who).await;
    }
    assert_eq!(*cluster.settled().await, *record, "seed {seed}");
    for who in ids {
        cluster.kill(who).await;
    }
}

/// They mostly wait: two cores carry so many.
const RUNS_AT_ONCE: usize = 16;

/// `RECORD_SEEDS` asks for more of them, `RECORD_SEED` for a certain one.
#[tokio::test]
async fn groups_lose_nothing_whatever_happens() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("RECORD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RECORD_SEEDS").unwrap_or(8),
    };
    let mut running = tokio::task::JoinSet::new();
    for (seed, count) in seeds.flat_map(|seed| [(seed, 3), (seed, 5)]) {
        if running.len() >= RUNS_AT_ONCE {
            running.join_next().await.expect("some run").expect("a run panicked");
        }
        running.spawn(run(count, seed));
    }
    while let Some(ended) = running.join_next().await {
        ended.expect("a run panicked");
    }
}

#[tokio::test]
async fn a_killed_leader_is_replaced_in_under_two_seconds() {
    let cluster = Cluster::of(3, 1).await;
    let mut took = Vec::new();
    for round in 0..5 {
        let leader = cluster.leader().await;
        cluster.settled().await;
        let other = cluster.ids().into_iter().find(|other| *other != leader).expect("three are there");
        cluster.kill(leader).await;
        let start = Instant::now();
        let keeper = cluster.net.keeper(other).expect("it runs");
        keeper.propose(tenant(&format!("after-{round}"))).await.expect("two of three live");
        took.push(start.elapsed());
        cluster.start(leader).await;
    }
    took.sort_unstable();
    eprintln!("a command after the leader's death took {took:?}");
    // A disk that is held up by others delays some of them, and that is not what is tested.
    assert!(took[took.len() / 2] < Duration::from_secs(2), "{took:?}");
}

#[tokio::test]
async fn a_leader_that_closes_hands_over() {
    let cluster = Cluster::of(3, 1).await;
    let leader = cluster.leader().await;
    cluster.settled().await;
    let other = cluster.ids().into_iter().find(|other| *other != leader).expect("three are there");
    let keeper = cluster.net.keeper(leader).expect("it runs");
    tokio::task::spawn_blocking(move || keeper.close()).await.expect("it closes");
    cluster.net.remove(leader);
    let start = Instant::now();
    let keeper = cluster.net.keeper(other).expect("it runs");
    keeper.propose(tenant("after")).await.expect("two of three live");
    eprintln!("a command after the leader's farewell took {:?}", start.elapsed());
}

#[tokio::test]
async fn a_minority_refuses_and_an_unknown_is_unknown() {
    let cluster = Cluster::of(3, 2).await;
    let leader = cluster.leader().await;
    cluster.settled().await;
    let others: Vec<BoxId> = cluster.ids().into_iter().filter(|other| *other != leader).collect();
    let lonely = cluster.net.keeper(leader).expect("it runs");
    cluster.net.cut_both_ways(&[leader], &others);
    // It still believes to lead, and may append: then nobody can tell.
    let start = Instant::now();
    let outcome = lonely.propose(tenant("in-between")).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown)), "{outcome:?}");
    // By now it knows that nobody is behind it.
    let outcome = lonely.propose(tenant("refused")).await;
    assert!(matches!(outcome, Err(ProposeError::NoQuorum)), "{outcome:?}");
    assert!(start.elapsed() < 2 * PROPOSE_TIME_MAX + Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(lonely.standing().leaderless.is_some(), "{:?}", lonely.standing());
    // The majority goes on, and after healing there is one truth.
    let busy = cluster.net.keeper(others[0]).expect("it runs");
    busy.propose(tenant("majority")).await.expect("two of three");
    cluster.net.heal();
    lonely.propose(tenant("healed")).await.expect("all are there");
    let record = cluster.settled().await;
    assert_eq!(names(&record), ["majority", "healed"]);
}

#[tokio::test]
async fn an_unknown_may_be_taken() {
    let cluster = Cluster::of(3, 3).await;
    let leader = cluster.leader().await;
    cluster.settled().await;
    let asker = cluster.ids().into_iter().find(|other| *other != leader).expect("three are there");
    // What it says arrives; what it is answered doesn't, and neither does the log.
    cluster.net.cut(&cluster.ids(), &[asker]);
    let keeper = cluster.net.keeper(asker).expect("it runs");
    let outcome = keeper.propose(tenant("unheard")).await;
    assert!(matches!(outcome, Err(ProposeError::Unknown)), "{outcome:?}");
    cluster.net.heal();
    let record = cluster.settled().await;
    assert_eq!((names(&record), record.index()), (vec!["unheard"], 1), "told again and again, and applied once");
}

#[tokio::test]
async fn voters_come_and_go() {
    let mut cluster = Cluster::of(1, 4).await;
    cluster.keeper(1).propose(tenant("one")).await.expect("it is alone");
    for number in 2..=5 {
        cluster.dirs.insert(id(number), tempfile::tempdir().expect("a temporary directory"));
        cluster.start(id(number)).await;
    }
    let all: BTreeSet<BoxId> = cluster.ids().into_iter().collect();
    let three: BTreeSet<BoxId> = (1..=3).map(id).collect();
    cluster.keeper(1).set_members(voting(three.clone())).await.expect("all are there");
    assert_eq!(cluster.keeper(1).standing().voters.into_keys().collect::<BTreeSet<_>>(), three);
    // Any member may be asked.
    cluster.keeper(3).set_members(voting(all.clone())).await.expect("all are there");
    cluster.settled().await;
    let leader = cluster.leader().await;
    // A dead voter is left out while a quorum lives.
    let dead = cluster.ids().into_iter().find(|other| *other != leader).expect("five are there");
    cluster.kill(dead).await;
    let four: BTreeSet<BoxId> = all.iter().copied().filter(|other| *other != dead).collect();
    let keeper = cluster.net.keeper(leader).expect("it runs");
    keeper.set_members(voting(four.clone())).await.expect("four of five live");
    // A leader that is left out steps down, and another leads.
    let left: BTreeSet<BoxId> = four.iter().copied().filter(|other| *other != leader).collect();
    keeper.set_members(voting(left.clone())).await.expect("all are there");
    let left: Vec<BoxId> = left.into_iter().collect();
    let next = cluster.leader_among(&left).await;
    assert_ne!(next, leader);
    let keeper = cluster.net.keeper(next).expect("it runs");
    keeper.propose(tenant("two")).await.expect("three of three");
    assert_eq!(names(&keeper.record()), ["one", "two"]);
    let nonsense = keeper.set_members(voting(BTreeSet::new())).await;
    assert!(matches!(nonsense, Err(SetVotersError::Count(0))), "{nonsense:?}");
}

#[tokio::test]
async fn who_stands_by_is_told_everything_and_votes_when_wanted() {
    let mut cluster = Cluster::of(1, 11).await;
    cluster.keeper(1).propose(tenant("one")).await.expect("it is alone");
    cluster.dirs.insert(id(2), tempfile::tempdir().expect("a temporary directory"));
    cluster.start(id(2)).await;
    let stands_by = Members { voters: [id(1)].into(), learners: [id(2)].into() };
    cluster.keeper(1).set_members(stands_by.clone()).await.expect("a learner is waited for by nobody");
    cluster.keeper(1).set_members(stands_by).await.expect("it is so already");
    let second = cluster.keeper(2);
    until(|| (names(&second.record()) == ["one"]).then_some(())).await;
    assert_eq!(second.standing().part, Part::Learner);
    // What it proposes is decided by the one who votes.
    second.propose(tenant("two")).await.expect("the voter lives");
    assert_eq!(names(&cluster.keeper(1).record()), ["one", "two"]);
    // They change places: whoever votes no more is told on.
    let turned = Members { voters: [id(2)].into(), learners: [id(1)].into() };
    cluster.keeper(1).set_members(turned).await.expect("both are there");
    second.propose(tenant("three")).await.expect("it votes");
    let first = cluster.keeper(1);
    until(|| (names(&first.record()) == ["one", "two", "three"]).then_some(())).await;
    // Who leads may do so without a vote, until it goes.
    for standing in [first.standing(), second.standing()] {
        assert_eq!((standing.voters.into_keys().collect(), standing.learners), (vec![id(2)], [id(1)].into()));
    }
}

#[tokio::test]
async fn a_removed_voter_disturbs_nobody() {
    let cluster = Cluster::of(4, 5).await;
    let leader = cluster.leader().await;
    cluster.settled().await;
    let removed = cluster.ids().into_iter().find(|other| *other != leader).expect("four are there");
    let left: BTreeSet<BoxId> = cluster.ids().into_iter().filter(|other| *other != removed).collect();
    let stay: Vec<BoxId> = left.iter().copied().collect();
    // It never hears that it was removed, and asks for votes.
    cluster.net.cut(&stay, &[removed]);
    let keeper = cluster.net.keeper(leader).expect("it runs");
    keeper.set_members(voting(left)).await.expect("three of four");
    let term = keeper.standing().term;
    let before = cluster.net.calls_of(removed);
    until(|| (cluster.net.calls_of(removed) >= before + 12).then_some(())).await;
    // Heard as well: it is told, and asks no more.
    cluster.net.heal();
    for number in 0..20 {
        keeper.propose(tenant(&format!("calm-{number}"))).await.expect("nobody disturbs");
    }
    let standing = keeper.standing();
    assert_eq!((standing.term, standing.leader), (term, Some(leader)));
}

#[tokio::test]
async fn a_box_that_was_away_for_long_catches_up_by_a_snapshot() {
    let cluster = Cluster::of(3, 6).await;
    let leader = cluster.leader().await;
    let away = cluster.ids().into_iter().find(|other| *other != leader).expect("three are there");
    cluster.kill(away).await;
    let keeper = cluster.net.keeper(leader).expect("it runs");
    many(&keeper, COMMANDS_PER_SNAPSHOT + 300).await;
    // The log is cut behind it.
    let desk = keeper.inner.desk.upgrade().expect("it runs");
    until(|| desk.group.as_ref()?.metrics().borrow_watched().purged.filter(|purged| purged.index > 300)).await;
    drop(desk);
    cluster.start(away).await;
    cluster.settled().await;
}

/// So many commands, many at once.
pub(super) async fn many(keeper: &Keeper, count: u64) {
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..count {
        if waiting.len() >= 400 {
            waiting.join_next().await.expect("some wait").expect("it was taken");
        }
        let keeper = keeper.clone();
        waiting.spawn(async move { add(&keeper, &format!("many-{number}")).await });
    }
    waiting.join_all().await;
}

#[tokio::test]
async fn a_lone_box_founds_a_group_with_what_it_has() {
    let net = Net::new(7);
    let (first, second) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let keeper = Keeper::open(first.path()).expect("it is new");
    add(&keeper, "lone").await;
    keeper.close();
    let open = |dir: &TempDir, number, start| {
        Keeper::open_in_group(dir.path(), Group { me: id(number), start, peers: net.link(id(number)) })
    };
    let error = open(&first, 1, Start::Join).err().expect("it has a record");
    assert!(matches!(error, OpenError::OfALoneBox { .. }), "{error:?}");
    let founder = open(&first, 1, Start::Found).expect("it was closed");
    assert_eq!(names(&founder.record()), ["lone"]);
    net.add(id(1), founder.clone());
    let joiner = open(&second, 2, Start::Join).expect("it is new");
    net.add(id(2), joiner.clone());
    founder.set_members(voting([id(1), id(2)].into())).await.expect("both are there");
    add(&joiner, "both").await;
    assert_eq!(names(&joiner.record()), ["lone", "both"]);
    for number in [1, 2] {
        let keeper = net.remove(id(number)).expect("it runs");
        tokio::task::spawn_blocking(move || keeper.close()).await.expect("it closes");
    }
    let error = Keeper::open(first.path()).err().expect("it is no lone box any more");
    assert!(matches!(error, OpenError::OfAGroup { .. }), "{error:?}");
}

#[tokio::test]
async fn strangers_and_impostors_are_refused() {
    let cluster = Cluster::of(3, 8).await;
    let keeper = cluster.keeper(1);
    let (stranger, member) = (id(9), id(2));
    cluster.net.strangers.lock().expect("whole").insert(stranger);
    let ask = async |from, call: &Call| {
        let answer = keeper.answer(from, wire::write(call).expect("JSON")).await;
        wire::read::<Reply>(&answer).expect("an answer")
    };
    let vote = |term, who| Vote::new(term, Member(who));
    let request = |term, who| Call::Vote(openraft::raft::VoteRequest::new(vote(term, who), None));
    let refused = |reply: &Reply| matches!(reply, Reply::Refused(_));
    let term = keeper.standing().term;
    for reply in [
        ask(stranger, &request(99, stranger)).await,
        ask(stranger, &Call::Follow { after: None }).await,
        ask(stranger, &Call::SetMembers(voting([stranger].into()))).await,
        // A member that votes in another's name.
        ask(member, &request(99, id(3))).await,
    ] {
        assert!(refused(&reply), "{reply:?}");
    }
    // A member whose key is dead.
    cluster.net.strangers.lock().expect("whole").insert(member);
    assert!(refused(&ask(member, &request(99, member)).await));
    cluster.net.strangers.lock().expect("whole").remove(&member);
    // What no leader sends: entries that don't follow each other, that deny what was decided, that are of no term yet.
    add(&keeper, "decided").await;
    let committed = Vote::new_committed(term + 1, Member(member));
    let blank = |term, index| LogEntry { log_id: log_id(term, index), payload: Payload::Blank };
    for (before, entries) in [
        (Some(log_id(term, 1)), vec![blank(term, 7)]),
        (Some(log_id(1, 0)), vec![blank(term + 1, 1)]),
        (Some(log_id(term + 9, 50)), vec![]),
        (None, vec![blank(term + 1, 0)]),
    ] {
        let request =
            openraft::raft::AppendEntriesRequest { vote: committed, prev_log_id: before, entries, leader_commit: None };
        let reply = ask(member, &Call::Append(request)).await;
        assert!(refused(&reply), "{reply:?}");
    }
    add(&keeper, "still-well").await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn foreign_bytes_are_refused_in_words(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), version in any::<bool>(), cut in any::<proptest::sample::Index>(), flip in any::<u8>()) {
        let call = Call::Append(openraft::raft::AppendEntriesRequest {
            vote: Vote::new_committed(1, Member(id(1))),
            prev_log_id: Some(log_id(1, 1)),
            entries: vec![LogEntry { log_id: log_id(1, 2), payload: Payload::Blank }],
            leader_commit: None,
        });
        let good = wire::write(&call).expect("JSON");
        if version {
            bytes = good.to_vec();
            let at = cut.index(bytes.len());
            bytes[at] ^= flip | 1;
        }
        // Whatever comes out, it comes out.
        let _ = wire::read::<Call>(&bytes);
        prop_assert!(wire::read::<Call>(&good[..cut.index(good.len())]).is_err());
    }
}

#[tokio::test]
async fn a_keeper_survives_foreign_bytes() {
    let cluster = Cluster::of(1, 9).await;
    let keeper = cluster.keeper(1);
    let mut dice = Dice(9);
    for _ in 0..500 {
        let length = dice.below(200);
        let mut bytes: Vec<u8> = (0..length).map(|_| u8::try_from(dice.below(256)).expect("a byte")).collect();
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        let answer = keeper.answer(id(2), bytes.into()).await;
        let reply: Reply = wire::read(&answer).expect("an answer");
        assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    }
    let long = vec![1; base::limits::RECORD_MESSAGE_BYTES_MAX + 1];
    let reply: Reply = wire::read(&keeper.answer(id(2), long.into()).await).expect("an answer");
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    add(&keeper, "still-well").await;
}
