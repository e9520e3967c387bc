//! The calling end: a task for each way that dials when somebody asks, sends what waits, and hands answers to whom they
//! belong.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::limits::{LINK_CALL_TIME_MAX, LINK_CALLS_WAITING_MAX, LINK_FRAMES_PER_TURN};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

use super::call::{Ask, Refused, Reply, Unknown, Unreachable};
use super::dial::{Backoff, Reached, by_chance, dial};
use super::frame::{Frame, Head};
use super::wire::{Broken, Wire};
use super::{Admission, Class, Core, DialError, Pace, Way};
use crate::authority::{Distrust, Subject};

/// How a line stands, for people.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) address: Option<SocketAddr>,
    pub(super) shown: u64,
    pub(super) connections: u64,
    pub(super) why: Option<String>,
}

impl Standing {
    fn up(&mut self, reached: &Reached) {
        let connections = self.connections + 1;
        *self = Self { address: Some(reached.address), shown: reached.shown, connections, why: None };
    }

    fn down(&mut self, why: String) {
        *self = Self { connections: self.connections, why: Some(why), ..Self::default() };
    }
}

/// Why a line talks no more on a connection.
enum End {
    /// Nobody can ask any more.
    Dropped,
    Idle,
    Broken(Broken),
}

/// Carries the calls of one way until the line is taken from the map.
pub(super) async fn run(
    core: Arc<Core>,
    way: Way,
    mut asks: mpsc::Receiver<Ask>,
    bytes_waiting: Arc<AtomicUsize>,
    standing: Arc<Mutex<Standing>>,
) {
    let stands = || standing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut backoff = Backoff::new();
    while let Some(first) = asks.recv().await {
        bytes_waiting.fetch_sub(first.body.len(), Ordering::Relaxed);
        if let Some(why) = backoff.why_not_yet() {
            first.fail(Unreachable::Lately(why));
            continue;
        }
        let reached = match dial(&core, way.to, way.class).await {
            Ok(reached) => reached,
            Err(error) => {
                tracing::debug!(to = %way.to, class = ?way.class, error = base::chain(&error), "not reached");
                stands().down(base::chain(&error));
                let why = Arc::new(error);
                backoff.failed(&core, why.clone());
                first.fail(Unreachable::Dial(why.clone()));
                // Who waited for the same dial shares its end; who comes later is told that it was tried.
                for _ in 0..LINK_CALLS_WAITING_MAX {
                    let Ok(ask) = asks.try_recv() else { break };
                    bytes_waiting.fetch_sub(ask.body.len(), Ordering::Relaxed);
                    ask.fail(Unreachable::Dial(why.clone()));
                }
                continue;
            }
        };
        stands().up(&reached);
        let mut talk = Talk::new(way.class, reached);
        talk.send(first, Instant::now());
        let end = talk_on(&core, way, &mut talk, &mut asks, &bytes_waiting, &standing).await;
        let why = match &end {
            End::Dropped => base::chain(&Broken::Ended),
            End::Idle => "nobody called for long".to_owned(),
            End::Broken(broken) => base::chain(broken),
        };
        talk.fail(&why);
        stands().down(why.clone());
        match end {
            End::Dropped => return,
            End::Idle => {}
            // One that ends before it answered anything is no better than one that isn't reached.
            End::Broken(_) if !talk.has_answered => {
                let address = talk.address;
                backoff.failed(&core, Arc::new(DialError::Unwelcome { address, why }));
            }
            End::Broken(_) => backoff.succeeded(),
        }
    }
}

/// A connection that is dialled in the background.
type Redial<'a> = Pin<Box<dyn Future<Output = Reached> + Send + 'a>>;

async fn talk_on(
    core: &Arc<Core>,
    way: Way,
    talk: &mut Talk,
    asks: &mut mpsc::Receiver<Ask>,
    bytes_waiting: &AtomicUsize,
    standing: &Mutex<Standing>,
) -> End {
    let pace = &core.pace;
    let mut epoch = core.epoch.subscribe();
    let mut pulse = pulse(pace);
    let mut redial: Option<Redial<'_>> = None;
    // What changed between the handshake and the subscription is looked at as well.
    epoch.mark_changed();
    let (mut judged_at, mut expired_since) = (Instant::now(), None);
    loop {
        tokio::select! {
            end = poll_fn(|cx| talk.poll(Some((&mut *asks, bytes_waiting)), cx)) => return end,
            reached = async { redial.as_mut().expect("looked at only if there is one").await }, if redial.is_some() => {
                redial = None;
                standing.lock().unwrap_or_else(PoisonError::into_inner).up(&reached);
                let old = std::mem::replace(talk, Talk::new(way.class, reached));
                retire(core, old);
                expired_since = None;
                epoch.mark_changed();
            }
            changed = epoch.changed() => {
                // The line may have been taken from the map, whatever waits in it.
                if changed.is_err() || core.epoch.borrow().is_closed || asks.is_closed() {
                    return End::Dropped;
                }
                judged_at = Instant::now();
                let fresh = match judge(core, talk) {
                    Ok(fresh) => fresh,
                    Err(broken) => return End::Broken(broken),
                };
                if matches!(fresh, Fresh::Expired) {
                    let since = *expired_since.get_or_insert(judged_at);
                    if judged_at.duration_since(since) > pace.redial_spread + pace.judge_every {
                        return End::Broken(Broken::Expired);
                    }
                }
                if !matches!(fresh, Fresh::Yes) && redial.is_none() {
                    redial = Some(Box::pin(again(core, way)));
                }
            }
            _ = pulse.tick() => {
                let now = Instant::now();
                if let Err(broken) = talk.beat(pace, now) {
                    return End::Broken(broken);
                }
                if talk.waiting.is_empty() && now.duration_since(talk.asked_at) >= pace.idle_max {
                    return End::Idle;
                }
                if now.duration_since(judged_at) >= pace.judge_every {
                    epoch.mark_changed();
                }
            }
        }
    }
}

/// Is a connection what would be made today? One that isn't serves until another stands.
enum Fresh {
    Yes,
    /// This box shows a newer certificate.
    Renewed,
    /// The other side's ran out. It will have had a newer one for long, which this connection is too old to have seen.
    Expired,
}

fn judge(core: &Core, talk: &Talk) -> Result<Fresh, Broken> {
    match core.beliefs.judge(&talk.certificate) {
        Ok(_) if talk.shown == core.epoch.borrow().shown => Ok(Fresh::Yes),
        Ok(_) => Ok(Fresh::Renewed),
        Err(Distrust::Chain { source: webpki::Error::CertExpired { .. }, .. }) => Ok(Fresh::Expired),
        Err(why) => Err(Broken::Distrusted(base::chain(&why))),
    }
}

/// Dials until it is reached, beginning at a moment of its own.
async fn again(core: &Core, way: Way) -> Reached {
    sleep(by_chance(core.pace.redial_spread)).await;
    let mut backoff = Backoff::new();
    loop {
        match dial(core, way.to, way.class).await {
            Ok(reached) => return reached,
            Err(error) => {
                tracing::debug!(to = %way.to, error = base::chain(&error), "not dialled anew; the old connection serves");
                sleep(backoff.failed(core, Arc::new(error))).await;
            }
        }
    }
}

/// Lets a connection end once its calls are answered. Bounded by the longest deadline, and judged to the end.
fn retire(core: &Arc<Core>, mut old: Talk) {
    let core = core.clone();
    tokio::spawn(async move {
        let ended = timeout(LINK_CALL_TIME_MAX, answer_all(&core, &mut old)).await;
        let broken = ended.map_or(None, Result::err).map(|broken| base::chain(&broken));
        old.fail(broken.as_deref().unwrap_or("its certificate was renewed, and no answer came in time"));
    });
}

async fn answer_all(core: &Core, old: &mut Talk) -> Result<(), Broken> {
    let mut epoch = core.epoch.subscribe();
    let mut pulse = pulse(&core.pace);
    while !old.waiting.is_empty() {
        tokio::select! {
            end = poll_fn(|cx| old.poll_until_answered(cx)) => return end,
            changed = epoch.changed() => {
                if changed.is_err() || core.epoch.borrow().is_closed {
                    return Err(Broken::Ended);
                }
                judge(core, old)?;
            }
            _ = pulse.tick() => old.beat(&core.pace, Instant::now())?,
        }
    }
    Ok(())
}

/// When a connection looks whether the other side is there.
fn pulse(pace: &Pace) -> Interval {
    let mut pulse = interval((pace.ping_after / 2).max(Duration::from_millis(1)));
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pulse
}

/// A connection, and who waits for what on it.
struct Talk {
    class: Class,
    wire: Wire,
    subject: Subject,
    certificate: Vec<u8>,
    address: SocketAddr,
    shown: u64,
    waiting: HashMap<u64, oneshot::Sender<Reply>>,
    next_id: u64,
    asked_at: Instant,
    pinged_at: Instant,
    has_answered: bool,
    admission: Arc<dyn Admission>,
}

impl Talk {
    fn new(class: Class, reached: Reached) -> Self {
        let now = Instant::now();
        let Reached { wire, subject, certificate, address, shown, admission } = reached;
        Self {
            class,
            wire,
            subject,
            certificate,
            address,
            shown,
            waiting: HashMap::new(),
            next_id: 0,
            asked_at: now,
            pinged_at: now,
            has_answered: false,
            admission,
        }
    }

    /// Takes what came, sends what waits, until neither goes on. Without `asks` no further call is taken.
    fn poll(&mut self, mut asks: Option<(&mut mpsc::Receiver<Ask>, &AtomicUsize)>, cx: &mut Context<'_>) -> Poll<End> {
        let mut frames = 0;
        loop {
            loop {
                match self.wire.take().map_err(Broken::from) {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        if let Err(broken) = self.hear(frame) {
                            return Poll::Ready(End::Broken(broken));
                        }
                    }
                    Err(broken) => return Poll::Ready(End::Broken(broken)),
                }
                frames += 1;
            }
            if let Some((asks, bytes_waiting)) = &mut asks {
                let now = Instant::now();
                while self.has_room() {
                    let Poll::Ready(ask) = asks.poll_recv(cx) else { break };
                    let Some(ask) = ask else { return Poll::Ready(End::Dropped) };
                    bytes_waiting.fetch_sub(ask.body.len(), Ordering::Relaxed);
                    if !self.admission.admits(&self.subject) {
                        ask.fail(Unreachable::NotAdmitted);
                        let why = Distrust::NotAdmitted { id: self.subject.id }.to_string();
                        return Poll::Ready(End::Broken(Broken::Distrusted(why)));
                    }
                    self.send(ask, now);
                }
            }
            let had_room = self.has_room();
            if let Err(broken) = self.wire.poll_write(cx) {
                return Poll::Ready(End::Broken(broken));
            }
            if asks.is_some() && !had_room && self.has_room() {
                continue;
            }
            if frames >= LINK_FRAMES_PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Err(broken) = ready!(self.wire.poll_read(cx)) {
                return Poll::Ready(End::Broken(broken));
            }
        }
    }

    /// Goes on until nobody waits for anything any more.
    fn poll_until_answered(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if let Poll::Ready(end) = self.poll(None, cx) {
            return Poll::Ready(match end {
                End::Broken(broken) => Err(broken),
                End::Dropped | End::Idle => Err(Broken::Ended),
            });
        }
        if self.waiting.is_empty() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Looks whether the other side is there. Either may be quiet for good reasons: it is asked for a sign, and given one.
    fn beat(&mut self, pace: &Pace, now: Instant) -> Result<(), Broken> {
        self.wire.check_life(pace, pace.silence_max, now)?;
        let quiet_since = self.wire.said_at.min(self.wire.read_at).max(self.pinged_at);
        if now.duration_since(quiet_since) >= pace.ping_after {
            self.pinged_at = now;
            self.wire.push(&Head::ping(), Bytes::new());
        }
        Ok(())
    }

    fn has_room(&mut self) -> bool {
        if self.wire.bytes_waiting() >= self.class.bytes_waiting_max() {
            return false;
        }
        if self.waiting.len() >= self.class.calls_max() {
            // Who gave up needs no place. The other side may hold theirs still, and says so.
            self.waiting.retain(|_, reply| !reply.is_closed());
        }
        self.waiting.len() < self.class.calls_max()
    }

    fn send(&mut self, ask: Ask, now: Instant) {
        // Who gave up, or is about to, isn't served: nothing happened.
        if ask.deadline <= now || ask.reply.is_closed() || !ask.held.send() {
            return;
        }
        let left = ask.deadline.duration_since(now).as_millis() + 1;
        let left_ms = u32::try_from(left).unwrap_or(u32::MAX);
        let id = self.next_id;
        self.next_id += 1;
        self.asked_at = now;
        self.wire.push(&Head::call(id, ask.method, left_ms, ask.body.len()), ask.body);
        self.waiting.insert(id, ask.reply);
    }

    fn hear(&mut self, frame: Frame) -> Result<(), Broken> {
        let (id, reply) = match frame {
            Frame::Answer { id, body } if body.len() <= self.class.body_bytes_max() => (id, Reply::Answer(body)),
            Frame::Refused { id, code, words } => (id, Reply::Refused(Refused::new(code, words))),
            Frame::Busy { id } => (id, Reply::Busy),
            Frame::Lost { id } => (id, Reply::Unknown(Unknown::Lost)),
            Frame::Pong => return Ok(()),
            Frame::Answer { .. } | Frame::Call { .. } | Frame::Ping | Frame::Welcome => return Err(Broken::Turn),
        };
        // An id that was never asked is no answer. One that nobody waits for any more came late.
        if id >= self.next_id {
            return Err(Broken::Turn);
        }
        self.has_answered = true;
        if let Some(waits) = self.waiting.remove(&id) {
            let _ = waits.send(reply);
        }
        Ok(())
    }

    /// Tells all who wait that nobody knows.
    fn fail(&mut self, why: &str) {
        let why: Arc<str> = why.into();
        for (_, waits) in self.waiting.drain() {
            let _ = waits.send(Reply::Unknown(Unknown::Broken(why.clone())));
        }
    }
}
