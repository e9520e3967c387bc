//! The box's side: who may knock how often, and what is remembered of it.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::limits::{
    INTRODUCE_TIME_MAX, INTRODUCTION_TIME_MAX, INTRODUCTIONS_KEPT_MAX, INTRODUCTIONS_PER_ADDRESS_MAX,
    KNOCK_ADDRESSES_MAX, KNOCK_ANSWER_TIME_MAX, KNOCK_CONNECT_TIME_MAX, KNOCKS_AT_ONCE, KNOCKS_PER_ADDRESS_AT_ONCE,
    KNOCKS_PER_ADDRESS_BURST, KNOCKS_PER_ADDRESS_EVERY, ORDERS_PER_VISIT_MAX, VISIT_TIME_MAX,
};
use base::{BoxId, Digest};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::wire::{self, FrameError};
use super::{
    Call, Hello, Introduced, Introduction, Nonce, Opened, Refused, Reply, TlsSetupError, Welcome, commitment, tls,
};
use crate::identity::Identity;
use crate::seal::Seal;

/// Who knocked.
#[derive(Clone, Debug)]
pub struct Caller {
    pub introduction: Introduction,
    pub address: SocketAddr,
}

/// What a box answers. Everything here is asked by strangers: they have proven a key, and nothing else.
pub trait Porter: Send + Sync + 'static {
    /// Somebody unknown was introduced: tell the words to whoever stands at the console.
    fn introduced(&self, caller: &Caller);

    fn answer(&self, caller: &Caller, call: Call) -> impl Future<Output = Result<Reply, Refused>> + Send;
}

/// Why a door can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    #[error("TLS can't be set up")]
    Setup(#[source] TlsSetupError),
    #[error("{address} can't be listened at")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl DoorError {
    /// Does somebody else listen there?
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
    }
}

/// Why a visit ended early. Nobody but the log hears of it.
#[derive(Debug, thiserror::Error)]
enum VisitFailure {
    #[error("no TLS")]
    Handshake(#[source] io::Error),
    #[error("it took too long")]
    Slow,
    #[error("it doesn't open what it committed to")]
    Commitment,
    #[error("it gives orders without end")]
    Orders,
    #[error("it ended before it was introduced")]
    Ended,
    #[error("the line")]
    Frame(#[source] FrameError),
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// Listens for those who knock.
pub struct Door<P> {
    listener: TcpListener,
    shared: Arc<Shared<P>>,
}

struct Shared<P> {
    porter: P,
    identity: Identity,
    seal: Option<Seal>,
    config: Arc<ServerConfig>,
    kept: Mutex<Kept>,
    crowd: Mutex<Crowd>,
}

impl<P: Porter> Door<P> {
    /// Listens at `address`. Must be called on a tokio runtime.
    pub async fn open(
        address: SocketAddr,
        identity: Identity,
        seal: Option<Seal>,
        porter: P,
    ) -> Result<Self, DoorError> {
        let config = tls::server(&identity).map_err(DoorError::Setup)?;
        let listener = TcpListener::bind(address).await.map_err(|source| DoorError::Listen { address, source })?;
        let (kept, crowd) = (Mutex::default(), Mutex::default());
        Ok(Self { listener, shared: Arc::new(Shared { porter, identity, seal, config, kept, crowd }) })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers whoever knocks, for as long as it is polled.
    pub async fn serve(self) {
        loop {
            let (stream, address) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: those that are open end soon.
                    tracing::warn!(%error, "nobody can be let in");
                    tokio::time::sleep(KNOCKS_PER_ADDRESS_EVERY).await;
                    continue;
                }
            };
            let Some(place) = Place::take(&self.shared, address.ip()) else { continue };
            let shared = Arc::clone(&self.shared);
            tokio::spawn(async move {
                let _place = place;
                match timeout(VISIT_TIME_MAX, shared.visit(stream, address)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%address, error = base::chain(&error), "a visit ended early"),
                    Err(_) => tracing::debug!(%address, "a visit took too long"),
                }
            });
        }
    }
}

impl<P: Porter> Shared<P> {
    async fn visit(&self, stream: TcpStream, address: SocketAddr) -> Result<(), VisitFailure> {
        let accepted = TlsAcceptor::from(Arc::clone(&self.config)).accept(stream);
        let mut stream = timeout(KNOCK_CONNECT_TIME_MAX, accepted)
            .await
            .map_err(|_| VisitFailure::Slow)?
            .map_err(VisitFailure::Handshake)?;
        let (_, connection) = stream.get_ref();
        let visitor = tls::proven(connection.peer_certificates()).ok_or(VisitFailure::Ended)?;
        let introduction = self.introduce(&mut stream, visitor, address).await?;
        let caller = Caller { introduction, address };
        let mut orders = 0;
        while let Some(call) = receive(&mut stream, KNOCK_ANSWER_TIME_MAX).await? {
            orders += u32::from(matches!(call, Call::Order { .. }));
            if orders > ORDERS_PER_VISIT_MAX {
                return Err(VisitFailure::Orders);
            }
            let reply = self.porter.answer(&caller, call).await.unwrap_or_else(Reply::Refused);
            send(&mut stream, &reply).await?;
        }
        Ok(())
    }

    async fn introduce(
        &self,
        stream: &mut TlsStream<TcpStream>,
        visitor: BoxId,
        address: SocketAddr,
    ) -> Result<Introduction, VisitFailure> {
        let hello: Hello = receive(stream, INTRODUCE_TIME_MAX).await?.ok_or(VisitFailure::Ended)?;
        let known = lock(&self.kept).nonce(visitor, hello.commitment);
        let nonce = match known {
            Some(nonce) => nonce,
            None => Nonce::draw().map_err(VisitFailure::Random)?,
        };
        send(stream, &Welcome { nonce }).await?;
        let opened: Opened = receive(stream, INTRODUCE_TIME_MAX).await?.ok_or(VisitFailure::Ended)?;
        if commitment(visitor, &opened.nonce) != hello.commitment {
            return Err(VisitFailure::Commitment);
        }
        let me = self.identity.id();
        let introduction = Introduction::new(visitor, visitor, me, &opened.nonce, &nonce);
        if known.is_none() {
            lock(&self.kept).keep(Remembered {
                visitor,
                commitment: hello.commitment,
                nonce,
                from: network_of(address.ip()),
                at: Instant::now(),
            });
            self.porter.introduced(&Caller { introduction: introduction.clone(), address });
        }
        let seal = self.seal.as_ref().map(|seal| seal.prove(&introduction.transcript));
        send(stream, &Introduced { seal }).await?;
        Ok(introduction)
    }
}

async fn send<T: serde::Serialize>(stream: &mut TlsStream<TcpStream>, message: &T) -> Result<(), VisitFailure> {
    wire::send(stream, message, KNOCK_ANSWER_TIME_MAX).await.map_err(VisitFailure::Frame)
}

async fn receive<T: serde::de::DeserializeOwned>(
    stream: &mut TlsStream<TcpStream>,
    within: Duration,
) -> Result<Option<T>, VisitFailure> {
    wire::receive(stream, within).await.map_err(VisitFailure::Frame)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Introductions that are remembered, the latest last. One visitor may have several: a program that knocks at two of a
/// box's addresses at once. Who introduces new keys without end pushes out those from their own address.
#[derive(Default)]
pub(super) struct Kept(VecDeque<Remembered>);

struct Remembered {
    visitor: BoxId,
    commitment: Digest,
    nonce: Nonce,
    from: IpAddr,
    at: Instant,
}

impl Kept {
    /// The nonce of an introduction that this visitor had before, if it commits to the same again.
    fn nonce(&mut self, visitor: BoxId, commitment: Digest) -> Option<Nonce> {
        self.0.retain(|kept| kept.at.elapsed() < INTRODUCTION_TIME_MAX);
        self.0.iter().find(|kept| kept.visitor == visitor && kept.commitment == commitment).map(|kept| kept.nonce)
    }

    fn keep(&mut self, fresh: Remembered) {
        let from = |kept: &Remembered| kept.from == fresh.from;
        if self.0.iter().filter(|kept| from(kept)).count() >= INTRODUCTIONS_PER_ADDRESS_MAX {
            let oldest = self.0.iter().position(from);
            self.0.remove(oldest.expect("there are many"));
        } else if self.0.len() == INTRODUCTIONS_KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(fresh);
    }
}

/// Who is here, and how often each address came.
#[derive(Default)]
struct Crowd {
    inside: u32,
    addresses: HashMap<IpAddr, Guest>,
}

struct Guest {
    inside: u32,
    /// When its allowance will be whole again.
    whole_at: Instant,
}

/// A visitor's place, given back when it goes.
struct Place<P> {
    shared: Arc<Shared<P>>,
    address: IpAddr,
}

impl<P> Place<P> {
    /// None when there is no room for one more, or the address came too often: the line is closed without a word.
    fn take(shared: &Arc<Shared<P>>, address: IpAddr) -> Option<Self> {
        let address = network_of(address);
        lock(&shared.crowd).let_in(address, Instant::now()).then(|| Self { shared: Arc::clone(shared), address })
    }
}

impl<P> Drop for Place<P> {
    fn drop(&mut self) {
        lock(&self.shared.crowd).let_out(self.address);
    }
}

impl Crowd {
    fn let_in(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.inside >= KNOCKS_AT_ONCE {
            return false;
        }
        if self.addresses.len() >= KNOCK_ADDRESSES_MAX {
            self.addresses.retain(|_, guest| guest.inside > 0 || guest.whole_at > now);
            if self.addresses.len() >= KNOCK_ADDRESSES_MAX && !self.addresses.contains_key(&address) {
                return false;
            }
        }
        let guest = self.addresses.entry(address).or_insert(Guest { inside: 0, whole_at: now });
        let used = guest.whole_at.saturating_duration_since(now);
        let allowance: Duration = KNOCKS_PER_ADDRESS_EVERY * KNOCKS_PER_ADDRESS_BURST;
        if guest.inside >= KNOCKS_PER_ADDRESS_AT_ONCE || used + KNOCKS_PER_ADDRESS_EVERY > allowance {
            return false;
        }
        guest.whole_at = now + used + KNOCKS_PER_ADDRESS_EVERY;
        guest.inside += 1;
        self.inside += 1;
        true
    }

    fn let_out(&mut self, address: IpAddr) {
        self.inside -= 1;
        if let Some(guest) = self.addresses.get_mut(&address) {
            guest.inside -= 1;
        }
    }
}

/// Beyond its own links one machine may have a whole /64 of IPv6. On them a /64 is everybody.
fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_unique_local() => IpAddr::V6(v6),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
impl Kept {
    pub(super) fn add(&mut self, visitor: BoxId, commitment: Digest, nonce: Nonce, from: IpAddr) {
        self.keep(Remembered { visitor, commitment, nonce, from, at: Instant::now() });
    }

    pub(super) fn find(&mut self, visitor: BoxId, commitment: Digest) -> Option<Nonce> {
        self.nonce(visitor, commitment)
    }
}

#[cfg(test)]
pub(super) fn tests_kept() -> Kept {
    Kept::default()
}
