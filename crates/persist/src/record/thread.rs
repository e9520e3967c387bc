//! The record's thread: opens, runs the group or follows it, and closes.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use base::BoxId;
use base::limits::{
    COMMANDS_KEPT_AFTER_SNAPSHOT, COMMANDS_PER_APPEND_MAX, COMMANDS_PER_MESSAGE_MAX, COMMANDS_WAITING_MAX,
    PROPOSE_LOOK, RECORD_CALLS_WAITING_MAX, RECORD_ELECTION_TIME_MAX, RECORD_ELECTION_TIME_MIN, RECORD_HEARTBEAT,
    RECORD_LONE_HEARTBEAT, RECORD_NEWS_WAITING_MAX, VOTERS_TIME_MAX,
};
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Config, SnapshotPolicy};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::answer::Answers;
use super::desk::{Desk, Fullness, Group, Leader};
use super::file::{OpenError, Opened, Owner, RecordFile};
use super::follower::Follower;
use super::log::Log;
use super::machine::{Machine, Outward, Waiting};
use super::network::{AskError, Network, ask};
use super::peers::{PeerError, Peers};
use super::types::{Member, ProposalId};
use super::voters::{self, Members, SetVotersError};
use super::wire::{self, Call, Reply};
use super::writer::{Health, Order, Writer};
use super::{Batch, Down, Inner, Keeper};

/// What a keeper asks of the thread.
pub(super) enum Message {
    Propose(Waiting),
    SetMembers {
        wanted: Members,
        answer: oneshot::Sender<Result<(), SetVotersError>>,
    },
    Close,
    #[cfg(test)]
    Crash,
}

/// A call of another box.
pub(super) struct Incoming {
    pub(super) from: BoxId,
    pub(super) message: Bytes,
    pub(super) answer: oneshot::Sender<Bytes>,
}

/// Everything that the thread begins with.
struct Setup {
    dir: PathBuf,
    opened: Opened,
    owner: Owner,
    me: Member,
    peers: Arc<dyn Peers>,
    first: Vec<Member>,
    published: Arc<ArcSwap<state::Record>>,
    news: broadcast::Sender<Arc<Batch>>,
    down: Down,
    messages: mpsc::Receiver<Message>,
    calls: mpsc::Receiver<Incoming>,
}

/// Opens the file and starts the thread; returns when it has the record.
pub(super) fn start(
    dir: &Path,
    owner: Owner,
    me: Member,
    peers: Arc<dyn Peers>,
    first: Vec<Member>,
) -> Result<Keeper, OpenError> {
    let opened = RecordFile::open(dir, owner)?;
    let mut drawn = [[0; 8]; 2];
    for half in &mut drawn {
        getrandom::fill(half).map_err(|error| OpenError::Thread(error.into()))?;
    }
    let published = Arc::new(ArcSwap::from_pointee(state::Record::default()));
    let (news, _) = broadcast::channel(RECORD_NEWS_WAITING_MAX);
    let (proposals, messages) = mpsc::channel(COMMANDS_WAITING_MAX);
    let (calls, incoming) = mpsc::channel(RECORD_CALLS_WAITING_MAX);
    let down = Down::default();
    let inner_news = news.downgrade();
    let setup = Setup {
        dir: dir.to_owned(),
        opened,
        owner,
        me,
        peers,
        first,
        published: Arc::clone(&published),
        news,
        down: down.clone(),
        messages,
        calls: incoming,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(OpenError::Thread)?;
    let (ready, readied) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("record".to_owned())
        .spawn(move || runtime.block_on(run(setup, &ready)))
        .map_err(OpenError::Thread)?;
    let desk = readied
        .recv()
        .unwrap_or_else(|_| Err(OpenError::Thread(std::io::Error::other("it panicked while it opened the record"))))?;
    let inner = Inner {
        proposals: Some(proposals),
        calls,
        call_places: Semaphore::new(RECORD_CALLS_WAITING_MAX),
        places: Arc::new(Semaphore::new(COMMANDS_WAITING_MAX)),
        drawn: drawn.map(u64::from_le_bytes),
        number: std::sync::atomic::AtomicU64::new(0),
        published,
        news: inner_news,
        desk,
        down,
        owner: Mutex::new(Some(thread)),
    };
    Ok(Keeper { inner: Arc::new(inner) })
}

type Ready = std::sync::mpsc::SyncSender<Result<Weak<Desk>, OpenError>>;

async fn run(setup: Setup, ready: &Ready) {
    let (intake, role, writing) = match open(setup).await {
        Ok(opened) => opened,
        Err(error) => {
            // Whoever opens waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let (down, writer) = (intake.desk.down.clone(), intake.log.writer().clone());
    let _ = ready.send(Ok(Arc::downgrade(&intake.desk)));
    intake.serve(role).await;
    // Where it failed it has ended already.
    let _ = writer.order(Order::Close).await;
    if writing.join().is_err() {
        down.set("the thread of its file panicked");
    }
    down.close();
}

/// What comes in at the record's thread.
struct Intake {
    desk: Arc<Desk>,
    log: Log,
    answers: Option<Arc<Answers>>,
    messages: mpsc::Receiver<Message>,
    calls: mpsc::Receiver<Incoming>,
    turned: mpsc::Receiver<ProposalId>,
}

/// What this box is to the record.
enum Role {
    Member(Group),
    Follower(Box<Follower>),
}

async fn open(setup: Setup) -> Result<(Intake, Role, JoinHandle<()>), OpenError> {
    let Setup { dir, opened, owner, me, peers, first, published, news, down, messages, calls } = setup;
    let is_member = owner != Owner::Follower;
    let decided = opened.decided(is_member.then_some(me));
    let Opened { file, state, log, vote, purged, .. } = opened;
    let (writer, writing) = Writer::start(file).map_err(OpenError::Thread)?;
    let fullness = Fullness::of(&dir, &writer);
    let log = Log::new(log, purged, vote, decided, writer.clone());
    let out = Arc::new(Outward::new(published, news));
    let machine = Machine::new(state, Arc::clone(&out), writer);
    if !is_member {
        let (desk, turned) = Desk::new(me, peers, out, None, first, fullness, down);
        let desk = Arc::new(desk);
        let follower = Follower::new(Arc::clone(&desk), log.clone(), machine);
        let intake = Intake { desk, log, answers: None, messages, calls, turned };
        return Ok((intake, Role::Follower(Box::new(follower)), writing));
    }
    let is_lone = matches!(owner, Owner::Lone(_));
    let config = config(is_lone).validate().map_err(|error| OpenError::Start(error.to_string()))?;
    let network = Network { me, peers: Arc::clone(&peers) };
    let group = Group::new(me, Arc::new(config), network, log.clone(), machine)
        .await
        .map_err(|error| OpenError::Start(error.to_string()))?;
    let votes_alone = {
        let metrics = group.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.voter_ids().eq([me])
    };
    if votes_alone {
        // It needn't wait for the clock: nobody else could lead.
        group.trigger().elect(false).await.map_err(|error| OpenError::Start(error.to_string()))?;
    }
    let (desk, turned) = Desk::new(me, peers, out, Some(group.clone()), first, fullness, down);
    let desk = Arc::new(desk);
    let answers = Some(Arc::new(Answers::new(Arc::clone(&desk), group.clone(), log.clone())));
    Ok((Intake { desk, log, answers, messages, calls, turned }, Role::Member(group), writing))
}

/// A lone box needs no clock but for its own first vote.
fn config(is_lone: bool) -> Config {
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).expect("limits are short");
    let heartbeat = if is_lone { RECORD_LONE_HEARTBEAT } else { RECORD_HEARTBEAT };
    let longer = if is_lone { 4 } else { 1 };
    Config {
        cluster_name: "record".to_owned(),
        heartbeat_interval: millis(heartbeat),
        election_timeout_min: longer * millis(RECORD_ELECTION_TIME_MIN),
        election_timeout_max: longer * millis(RECORD_ELECTION_TIME_MAX),
        enable_pre_vote: Some(true),
        // One that comes back asks again: its log may be older than what others decided meanwhile.
        enable_leader_restore: Some(false),
        // Ours are triggered by count and by bytes.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: COMMANDS_KEPT_AFTER_SNAPSHOT,
        // Whoever lags gets what the log has, and a snapshot only where it has not.
        replication_lag_threshold: u64::MAX,
        max_payload_entries: COMMANDS_PER_MESSAGE_MAX as u64,
        max_append_entries: Some(COMMANDS_PER_APPEND_MAX as u64),
        api_channel_size: Some(COMMANDS_WAITING_MAX as u64 + RECORD_CALLS_WAITING_MAX as u64),
        backoff: "50ms 100ms 200ms ..500ms".to_owned(),
        ..Config::default()
    }
}

/// How a thread is to end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Failed,
    #[cfg(test)]
    Crashed,
}

impl Intake {
    async fn serve(mut self, role: Role) {
        match role {
            Role::Member(group) => {
                let out = Arc::clone(&self.desk.out);
                let cutting = async {
                    loop {
                        out.long.notified().await;
                        if let Err(fatal) = group.trigger().snapshot().await {
                            return fatal.to_string();
                        }
                    }
                };
                let end = self.attend(cutting).await;
                self.leave(end, &group).await;
            }
            Role::Follower(mut follower) => {
                let end = {
                    let following = async {
                        match follower.run().await {
                            Ok(never) => match never {},
                            Err(error) => error.to_string(),
                        }
                    };
                    self.attend(following).await
                };
                if end == End::Closed
                    && follower.has_news()
                    && let Err(error) = follower.cut().await
                {
                    tracing::error!(%error, "the record's last snapshot wasn't written; its log has everything");
                }
            }
        }
        self.tell_all();
    }

    /// Takes what comes until it is told to end and nothing waits, or until it fails. `beside` fails with its cause.
    async fn attend(&mut self, beside: impl Future<Output = String>) -> End {
        let mut beside = pin!(beside);
        let mut health = self.log.writer().health();
        let told = Arc::clone(&self.desk.down.told);
        let mut closing = false;
        let mut batch = Vec::with_capacity(COMMANDS_PER_APPEND_MAX);
        loop {
            if closing && !self.desk.out.any_waits() {
                return End::Closed;
            }
            let deadline = self.desk.out.next_deadline();
            let overdue = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // While it closes, what is left may be answered at any moment.
            let left =
                async { if closing { tokio::time::sleep(PROPOSE_LOOK).await } else { std::future::pending().await } };
            tokio::select! {
                taken = self.messages.recv_many(&mut batch, COMMANDS_PER_APPEND_MAX), if !closing => {
                    // No keeper is left.
                    closing = taken == 0;
                    for message in batch.drain(..) {
                        match message {
                            Message::Propose(waiting) if !closing => self.desk.take(waiting).await,
                            Message::Propose(waiting) => {
                                let _ = waiting.answer.send(Err(super::ProposeError::Closed));
                            }
                            Message::SetMembers { wanted, answer } => self.set_members(wanted, answer),
                            Message::Close => closing = true,
                            #[cfg(test)]
                            Message::Crash => return End::Crashed,
                        }
                    }
                    if closing {
                        self.log.writer().hurry();
                    }
                }
                Some(call) = self.calls.recv() => self.answer(call),
                Some(id) = self.turned.recv() => self.desk.look_again(id),
                () = overdue => self.desk.give_up(),
                () = left => {}
                cause = &mut beside => {
                    self.desk.down.set(&cause);
                    return End::Failed;
                }
                _ = health.changed() => {
                    let now = health.borrow_and_update().clone();
                    if let Health::Failed(cause) = now {
                        self.desk.down.set(&cause);
                        return End::Failed;
                    }
                }
                () = told.notified() => return End::Failed,
            }
        }
    }

    fn answer(&self, call: Incoming) {
        let Incoming { from, message, answer } = call;
        let Some(answers) = &self.answers else {
            let _ = answer.send(wire::reply(&Reply::Refused("this box follows, and answers nobody".to_owned())));
            return;
        };
        let answers = Arc::clone(answers);
        tokio::spawn(async move {
            let reply = answers.answer(from, &message).await;
            // A box that no longer waits asks again.
            let _ = answer.send(reply);
        });
    }

    fn set_members(&self, wanted: Members, answer: oneshot::Sender<Result<(), SetVotersError>>) {
        let desk = Arc::clone(&self.desk);
        tokio::spawn(async move {
            let _ = answer.send(set_members(&desk, wanted).await);
        });
    }

    /// Leaves the group in order, or as it is.
    async fn leave(&self, end: End, group: &Group) {
        let last = if end == End::Closed {
            self.hand_over(group).await;
            let last = group.with_state_machine(|machine| {
                let builder = machine.has_news().then(|| machine.builder());
                Box::pin(async move { builder })
            });
            last.await
        } else {
            Ok(None)
        };
        #[cfg(test)]
        if end == End::Crashed {
            let _ = self.log.writer().order(Order::Crash).await;
        }
        // Its task is gone after this, however it ended.
        let _ = group.shutdown().await;
        let Ok(Some(builder)) = last else { return };
        let written = match builder.build().await {
            Ok(state) => self.log.keep_behind(state.index(), COMMANDS_KEPT_AFTER_SNAPSHOT).await,
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::error!(%error, "the record's last snapshot wasn't written; its log has everything");
        }
    }

    /// A leader that goes lets another lead at once.
    async fn hand_over(&self, group: &Group) {
        let next = {
            let metrics = group.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<Member> = metrics.membership_config.voter_ids().collect();
            let replication = metrics.replication.clone().unwrap_or_default();
            let ready =
                replication.into_iter().filter(|(member, _)| *member != self.desk.me && voters.contains(member));
            ready.max_by_key(|(_, last)| *last).map(|(member, _)| member)
        };
        let Some(next) = next.filter(|_| self.desk.leader() == Leader::Me) else { return };
        if group.trigger().transfer_leader(next).await.is_err() {
            return;
        }
        // It says so itself when the other leads; else the others find out by their clocks.
        let me = self.desk.me;
        let wait = group.wait(Some(RECORD_HEARTBEAT * 2));
        let _ = wait.metrics(|metrics| metrics.current_leader != Some(me), "another leads").await;
    }

    /// Tells everybody who still waits how it ended.
    fn tell_all(&mut self) {
        self.desk.down.close();
        let error = self.desk.down.error();
        for waiting in self.desk.out.take_all() {
            let _ = waiting.answer.send(Err(error.clone()));
        }
        self.messages.close();
        while let Ok(message) = self.messages.try_recv() {
            if let Message::Propose(waiting) = message {
                let _ = waiting.answer.send(Err(error.clone()));
            }
        }
    }
}

/// Changes the members through whoever leads.
async fn set_members(desk: &Arc<Desk>, wanted: Members) -> Result<(), SetVotersError> {
    let deadline = Instant::now() + VOTERS_TIME_MAX;
    let mut turn = 0;
    while Instant::now() < deadline {
        let to = match desk.leader() {
            Leader::Me => {
                let Some(group) = &desk.group else { return Err(SetVotersError::Unreachable) };
                match voters::set(group, wanted.clone()).await {
                    Err(SetVotersError::NoLeader) => {
                        tokio::time::sleep(PROPOSE_LOOK).await;
                        continue;
                    }
                    other => return other,
                }
            }
            Leader::Other(other) => other,
            Leader::Nobody => match desk.anybody(turn) {
                Some(somebody) => somebody,
                // The only voter will lead in a moment.
                None if desk.votes() => {
                    tokio::time::sleep(PROPOSE_LOOK).await;
                    continue;
                }
                None => return Err(SetVotersError::Unreachable),
            },
        };
        turn += 1;
        match ask(&*desk.peers, to, &Call::SetMembers(wanted.clone()), VOTERS_TIME_MAX).await {
            Ok(Reply::VotersSet) => return Ok(()),
            Ok(Reply::NotLeader { leader }) => desk.set_hint(leader.filter(|leader| *leader != to)),
            Ok(Reply::Busy) => return Err(SetVotersError::Busy),
            Err(AskError::Refused(why)) => return Err(SetVotersError::Refused(why)),
            Err(AskError::Peer(PeerError::Unreachable)) => desk.set_hint(None),
            Ok(_) | Err(_) => return Err(SetVotersError::Unknown),
        }
        tokio::time::sleep(PROPOSE_LOOK).await;
    }
    Err(SetVotersError::NoLeader)
}
