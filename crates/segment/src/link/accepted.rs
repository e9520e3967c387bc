//! The answering end: who comes is judged, counted and welcomed; each call is handed to the handler, and its answer sent
//! when it is there, in any order.

use std::any::Any;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base::BoxId;
use base::limits::{LINK_BACKOFF_MIN, LINK_CALL_TIME_MAX, LINK_FRAMES_PER_TURN, LINKS_ACCEPTED_MAX, LINKS_PER_BOX_MAX};
use bytes::Bytes;
use futures_util::FutureExt as _;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::call::Refused;
use super::frame::{Frame, Head};
use super::wire::{Broken, Wire, buffered, prepare};
use super::{Caller, Class, Core, tls};
use crate::authority::{Distrust, Subject};

/// Accepts until the links are closed.
pub(super) async fn serve<H, F>(core: Arc<Core>, listener: TcpListener, handler: Arc<H>)
where
    H: Fn(Caller, u16, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Refused>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls::server(&core.beliefs, &core.shown));
    let mut epoch = core.epoch.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            closed = epoch.wait_for(|epoch| epoch.is_closed) => {
                drop(closed);
                return;
            }
        };
        match accepted {
            Ok((socket, from)) => {
                // It ends with its connection, and that when the links are closed.
                tokio::spawn(greet(core.clone(), acceptor.clone(), socket, from, handler.clone()));
            }
            Err(error) => {
                // Out of descriptors, mostly: others must end before this goes on.
                tracing::warn!(%error, "a link can't be accepted");
                sleep(LINK_BACKOFF_MIN).await;
            }
        }
    }
}

/// Why who came wasn't welcomed.
#[derive(Debug, thiserror::Error)]
enum Turned {
    #[error("too many connections, or too many that failed")]
    Away,
    #[error("the handshake failed")]
    Handshake(#[source] std::io::Error),
    #[error("the handshake took longer than {0:?}")]
    Slow(Duration),
    #[error("it names no class of ours")]
    Class,
    #[error("it is not believed")]
    Distrusted(#[source] Distrust),
    #[error("the box {id} has {LINKS_PER_BOX_MAX} connections already")]
    Many { id: BoxId },
}

async fn greet<H, F>(core: Arc<Core>, acceptor: TlsAcceptor, socket: TcpStream, from: SocketAddr, handler: Arc<H>)
where
    H: Fn(Caller, u16, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Refused>> + Send + 'static,
{
    let talk = match welcome(&core, &acceptor, socket, from, handler).await {
        Ok(talk) => talk,
        Err(why) => return tracing::debug!(%from, why = base::chain(&why), "a link was not accepted"),
    };
    let id = talk.subject.id;
    let broken = talk.run().await;
    tracing::debug!(%from, %id, why = base::chain(&broken), "an accepted link ended");
}

async fn welcome<'core, H>(
    core: &'core Arc<Core>,
    acceptor: &TlsAcceptor,
    socket: TcpStream,
    from: SocketAddr,
    handler: Arc<H>,
) -> Result<Talk<'core, H>, Turned> {
    let entered = core.doors.enter(from.ip(), Instant::now());
    let is_full = core.accepted_in_all.load(Ordering::Relaxed) >= LINKS_ACCEPTED_MAX;
    let Some(handshake) = entered.filter(|_| !is_full) else {
        // Reset rather than closed, so that a flood leaves nothing behind.
        let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        return Err(Turned::Away);
    };
    let max = core.pace.handshake_max;
    let shaken = async {
        prepare(&socket, &core.pace)?;
        acceptor.accept(buffered(socket)).await
    };
    let stream = match timeout(max, shaken).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            handshake.failed(Instant::now());
            return Err(Turned::Handshake(error));
        }
        Err(_) => {
            handshake.failed(Instant::now());
            return Err(Turned::Slow(max));
        }
    };
    drop(handshake);
    let class = Class::of_protocol(stream.get_ref().1.alpn_protocol()).ok_or(Turned::Class)?;
    let mut wire = Wire::new(stream.into(), class.body_bytes_max());
    let certificate = wire.certificate().expect("TLS asked for one and would have ended without");
    let subject = core.beliefs.judge(&certificate).map_err(Turned::Distrusted)?;
    let place = Place::take(core, subject.id)?;
    wire.push(&Head::welcome(), Bytes::new());
    let (done, is_done) = mpsc::channel(class.calls_max());
    Ok(Talk {
        core,
        _place: place,
        class,
        wire,
        subject: Arc::new(subject),
        certificate,
        handler,
        running: 0,
        done,
        is_done,
    })
}

/// One of the connections that a box may have here.
struct Place<'a> {
    core: &'a Core,
    id: BoxId,
}

impl<'a> Place<'a> {
    fn take(core: &'a Core, id: BoxId) -> Result<Self, Turned> {
        let mut accepted = core.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let count = accepted.entry(id).or_insert(0);
        if *count >= LINKS_PER_BOX_MAX {
            return Err(Turned::Many { id });
        }
        *count += 1;
        core.accepted_in_all.fetch_add(1, Ordering::Relaxed);
        Ok(Self { core, id })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.core.accepted_in_all.fetch_sub(1, Ordering::Relaxed);
        let mut accepted = self.core.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = accepted.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                accepted.remove(&self.id);
            }
        }
    }
}

/// How a handler ended, for the call `id`.
enum Done {
    Answer(Bytes),
    Refused(Refused),
    Lost,
}

/// A connection that somebody dialled.
struct Talk<'a, H> {
    core: &'a Core,
    _place: Place<'a>,
    class: Class,
    wire: Wire,
    subject: Arc<Subject>,
    certificate: Vec<u8>,
    handler: Arc<H>,
    /// Handlers that run on in tasks of their own.
    running: usize,
    done: mpsc::Sender<(u64, Done)>,
    is_done: mpsc::Receiver<(u64, Done)>,
}

impl<H, F> Talk<'_, H>
where
    H: Fn(Caller, u16, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Refused>> + Send + 'static,
{
    async fn run(mut self) -> Broken {
        let pace = &self.core.pace;
        let mut epoch = self.core.epoch.subscribe();
        epoch.mark_changed();
        let mut pulse = interval((pace.ping_after / 2).max(Duration::from_millis(1)));
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut judged_at = Instant::now();
        loop {
            tokio::select! {
                broken = poll_fn(|cx| self.poll(cx)) => return broken,
                changed = epoch.changed() => {
                    if changed.is_err() || self.core.epoch.borrow().is_closed {
                        return Broken::Ended;
                    }
                    judged_at = Instant::now();
                    if let Err(why) = self.core.beliefs.judge(&self.certificate) {
                        return Broken::Distrusted(base::chain(&why));
                    }
                }
                _ = pulse.tick() => {
                    let now = Instant::now();
                    // The dialler gives a sign in half of this.
                    if let Err(broken) = self.wire.check_life(pace, pace.silence_max * 2, now) {
                        return broken;
                    }
                    if now.duration_since(judged_at) >= pace.judge_every {
                        epoch.mark_changed();
                    }
                }
            }
        }
    }

    /// Takes what came and sends what is answered, until neither goes on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        let mut frames = 0;
        loop {
            while let Poll::Ready(Some((id, done))) = self.is_done.poll_recv(cx) {
                self.running -= 1;
                self.say(id, done);
            }
            while self.has_room() {
                match self.wire.take().map_err(Broken::from) {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        if let Err(broken) = self.hear(frame, cx) {
                            return Poll::Ready(broken);
                        }
                    }
                    Err(broken) => return Poll::Ready(broken),
                }
                frames += 1;
                if frames >= LINK_FRAMES_PER_TURN {
                    break;
                }
            }
            let had_room = self.has_room();
            if let Err(broken) = self.wire.poll_write(cx) {
                return Poll::Ready(broken);
            }
            if frames >= LINK_FRAMES_PER_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.has_room() {
                // Whoever doesn't read is not read from: the write wakes this task when they do.
                return Poll::Pending;
            }
            if !had_room {
                continue;
            }
            if let Err(broken) = ready!(self.wire.poll_read(cx)) {
                return Poll::Ready(broken);
            }
        }
    }

    fn has_room(&self) -> bool {
        self.wire.bytes_waiting() < self.class.bytes_waiting_max()
    }

    fn hear(&mut self, frame: Frame, cx: &mut Context<'_>) -> Result<(), Broken> {
        match frame {
            Frame::Call { id, method, left_ms, body } if body.len() <= self.class.body_bytes_max() => {
                if !self.core.beliefs.admission.admits(&self.subject) {
                    return Err(Broken::Distrusted(Distrust::NotAdmitted { id: self.subject.id }.to_string()));
                }
                let left = Duration::from_millis(left_ms.into()).min(LINK_CALL_TIME_MAX);
                self.begin(id, method, body, self.wire.read_at + left, cx);
                Ok(())
            }
            Frame::Ping => {
                self.wire.push(&Head::pong(), Bytes::new());
                Ok(())
            }
            _ => Err(Broken::Turn),
        }
    }

    /// Polls the handler once, here. Most have their answer at hand; the others go on in a task of their own, which
    /// outlives the connection but not the deadline.
    fn begin(&mut self, id: u64, method: u16, body: Bytes, deadline: Instant, cx: &mut Context<'_>) {
        // Nobody waits for it any more, or too many run: nothing happened.
        if deadline <= Instant::now() || self.running >= self.class.calls_max() {
            return self.wire.push(&Head::busy(id), Bytes::new());
        }
        let caller = Caller { subject: self.subject.clone(), class: self.class, deadline };
        let handler = self.handler.clone();
        let answer = AssertUnwindSafe(async move { handler(caller, method, body).await }).catch_unwind();
        let mut answer = Box::pin(answer);
        if let Poll::Ready(ended) = answer.as_mut().poll(cx) {
            return self.say(id, done(method, ended));
        }
        self.running += 1;
        let over = self.done.clone();
        tokio::spawn(wait_for(id, method, deadline, answer, over));
    }

    fn say(&mut self, id: u64, done: Done) {
        match done {
            Done::Answer(body) if body.len() <= self.class.body_bytes_max() => {
                self.wire.push(&Head::answer(id, body.len()), body);
            }
            Done::Answer(body) => {
                tracing::error!(bytes = body.len(), class = ?self.class, "an answer is too long for its class");
                self.wire.push(&Head::lost(id), Bytes::new());
            }
            Done::Refused(refused) => {
                let Refused { code, words } = Refused::new(refused.code, refused.words);
                self.wire.push(&Head::refused(id, code, words.len()), words.into());
            }
            Done::Lost => self.wire.push(&Head::lost(id), Bytes::new()),
        }
    }
}

/// What a handler left: its answer, or what it panicked with.
type Ended = Result<Result<Bytes, Refused>, Box<dyn Any + Send>>;

async fn wait_for(
    id: u64,
    method: u16,
    deadline: Instant,
    answer: Pin<Box<impl Future<Output = Ended>>>,
    over: mpsc::Sender<(u64, Done)>,
) {
    let done = timeout_at(deadline, answer).await.map_or(Done::Lost, |ended| done(method, ended));
    // The connection may be gone.
    let _ = over.send((id, done)).await;
}

fn done(method: u16, ended: Ended) -> Done {
    match ended {
        Ok(Ok(body)) => Done::Answer(body),
        Ok(Err(refused)) => Done::Refused(refused),
        Err(_) => {
            tracing::error!(method, "a handler of a link panicked");
            Done::Lost
        }
    }
}
