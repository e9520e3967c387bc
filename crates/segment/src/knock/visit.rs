//! The visitor's side.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use base::limits::{KNOCK_ANSWER_TIME_MAX, KNOCK_CONNECT_TIME_MAX};
use base::{BoxId, Digest, Timestamp};
use data_encoding::HEXLOWER;
use firming::{Order, OrderId};
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::wire::{self, FrameError};
use super::{
    About, Call, Hello, Introduced, Introduction, Opened, Refused, Reply, SignedOrder, TlsSetupError, Welcome,
    commitment, plain, signed_bytes, tls,
};
use crate::identity::{Context, Identity};
use crate::seal::{SealDoubt, SealProof};

/// 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Nonce([u8; 16]);

impl Nonce {
    pub(super) fn draw() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(…)")
    }
}

impl FromStr for Nonce {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or("a nonce is 32 hexadecimal digits")
    }
}

impl Serialize for Nonce {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a visit came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    #[error("nobody answers at {address}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{address} doesn't answer within {}s", KNOCK_CONNECT_TIME_MAX.as_secs())]
    Silent { address: SocketAddr },
    #[error("what answers at {address} is not the box that is wanted, or has too many visitors, or is no box")]
    NotTheBox {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("no TLS can be set up")]
    Setup(#[source] TlsSetupError),
    #[error("the box at {address} broke off")]
    Line {
        address: SocketAddr,
        #[source]
        source: FrameError,
    },
    #[error("the box at {address} ended the visit: it may have too many visitors, so try again in a moment")]
    Ended { address: SocketAddr },
    #[error("the box at {address} answers something else than it was asked")]
    Confused { address: SocketAddr },
    #[error("the box refuses")]
    Refused(#[source] Refused),
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// What a visitor keeps of an introduction, so that its words are the same next time.
///
/// Both nonces: with the visitor's alone, a rogue who has seen it once could search at leisure, until the next visit, for
/// one of its own that makes the words it wants. So a box that answers with another nonce is introduced anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub(super) visitor: Nonce,
    host: Nonce,
}

/// A visit: a line to one box, both introduced.
#[derive(Debug)]
pub struct Visit {
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    identity: Identity,
    introduction: Introduction,
    nonces: Remembered,
    pub(super) seal: Option<SealProof>,
}

impl Visit {
    /// Knocks and is introduced. `wanted` is the box that it must be, where one is known; `known` gives what was kept of
    /// an earlier introduction to a box. Where that box remembers too, the words are the same; otherwise it is
    /// introduced anew.
    pub async fn knock(
        address: SocketAddr,
        identity: &Identity,
        wanted: Option<BoxId>,
        known: impl Fn(BoxId) -> Option<Remembered>,
    ) -> Result<Self, VisitError> {
        let (stream, host) = connect(address, identity, wanted).await?;
        let fresh = || Nonce::draw().map_err(VisitError::Random);
        let Some(kept) = known(host) else {
            let visit = Self::introduce(stream, address, identity, host, fresh()?, None).await?;
            return visit.ok_or(VisitError::Confused { address });
        };
        if let Some(visit) = Self::introduce(stream, address, identity, host, kept.visitor, Some(kept.host)).await? {
            return Ok(visit);
        }
        let (stream, host) = connect(address, identity, Some(host)).await?;
        let visit = Self::introduce(stream, address, identity, host, fresh()?, None).await?;
        visit.ok_or(VisitError::Confused { address })
    }

    /// None when the box doesn't answer with the nonce that is expected; ours stays unopened then.
    async fn introduce(
        mut stream: TlsStream<TcpStream>,
        address: SocketAddr,
        identity: &Identity,
        host: BoxId,
        nonce: Nonce,
        expected: Option<Nonce>,
    ) -> Result<Option<Self>, VisitError> {
        let me = identity.id();
        send(&mut stream, address, &Hello { commitment: commitment(me, &nonce) }).await?;
        let welcome: Welcome = receive(&mut stream, address).await?;
        if expected.is_some_and(|expected| expected != welcome.nonce) {
            return Ok(None);
        }
        send(&mut stream, address, &Opened { nonce }).await?;
        let introduced: Introduced = receive(&mut stream, address).await?;
        Ok(Some(Self {
            stream,
            address,
            identity: identity.clone(),
            introduction: Introduction::new(host, me, host, &nonce, &welcome.nonce),
            nonces: Remembered { visitor: nonce, host: welcome.nonce },
            seal: introduced.seal,
        }))
    }

    /// What to keep, for the same words next time.
    #[must_use]
    pub fn remember(&self) -> Remembered {
        self.nonces
    }

    /// Whom the visit is with, and the words for it.
    #[must_use]
    pub fn introduction(&self) -> &Introduction {
        &self.introduction
    }

    /// Does the box show that it was started from an image that this operator sealed? None for a box without a seal.
    #[must_use]
    pub fn seal(&self, now: Timestamp) -> Option<Result<(), SealDoubt>> {
        let transcript: &Digest = &self.introduction.transcript;
        self.seal.as_ref().map(|seal| seal.check(self.identity.id(), transcript, now))
    }

    /// What the box says of itself.
    pub async fn about(&mut self) -> Result<About, VisitError> {
        match self.ask(&Call::About).await? {
            Reply::About(about) if about.id == self.introduction.with => about.cleaned(),
            _ => None,
        }
        .ok_or(VisitError::Confused { address: self.address })
    }

    /// Tells the box what to do. When this returns, it is on the box's disk.
    pub async fn order(&mut self, order: &Order) -> Result<(), VisitError> {
        let text = serde_json::to_string(order)
            .map_err(|error| VisitError::Line { address: self.address, source: FrameError::Malformed(error) })?;
        let bytes = signed_bytes(&text, &self.introduction.transcript);
        let signature = data_encoding::BASE64.encode(&self.identity.sign(Context::Order, &bytes));
        match self.ask(&Call::Order { order: SignedOrder { text, signature } }).await? {
            Reply::Taken => Ok(()),
            _ => Err(VisitError::Confused { address: self.address }),
        }
    }

    /// Asks to be let in, as the order said.
    pub async fn join(&mut self, order: OrderId, addresses: Vec<SocketAddr>) -> Result<serde_json::Value, VisitError> {
        match self.ask(&Call::Join { order, addresses }).await? {
            Reply::Joined(answer) => Ok(answer),
            _ => Err(VisitError::Confused { address: self.address }),
        }
    }

    /// Says goodbye.
    pub async fn leave(&mut self, order: OrderId) -> Result<(), VisitError> {
        match self.ask(&Call::Leave { order }).await? {
            Reply::Left => Ok(()),
            _ => Err(VisitError::Confused { address: self.address }),
        }
    }

    /// Asks for what the command line needs.
    pub async fn access(&mut self, wish: serde_json::Value) -> Result<serde_json::Value, VisitError> {
        match self.ask(&Call::Access { wish }).await? {
            Reply::Access(answer) => Ok(answer),
            _ => Err(VisitError::Confused { address: self.address }),
        }
    }

    pub(super) async fn ask(&mut self, call: &Call) -> Result<Reply, VisitError> {
        send(&mut self.stream, self.address, call).await?;
        match receive(&mut self.stream, self.address).await? {
            Reply::Refused(refused) => Err(VisitError::Refused(Refused { words: plain(&refused.words), ..refused })),
            reply => Ok(reply),
        }
    }
}

/// A private line, and the key that the other end proved.
pub(super) async fn connect(
    address: SocketAddr,
    identity: &Identity,
    wanted: Option<BoxId>,
) -> Result<(TlsStream<TcpStream>, BoxId), VisitError> {
    let config = tls::client(identity, wanted).map_err(VisitError::Setup)?;
    let connected = async {
        let stream = TcpStream::connect(address).await.map_err(|source| VisitError::Unreachable { address, source })?;
        // The name is neither sent nor looked at.
        let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let connected = TlsConnector::from(config).connect(name, stream).await;
        connected.map_err(|source| VisitError::NotTheBox { address, source })
    };
    let stream = timeout(KNOCK_CONNECT_TIME_MAX, connected).await.map_err(|_| VisitError::Silent { address })??;
    let (_, connection) = stream.get_ref();
    let host = tls::proven(connection.peer_certificates()).ok_or(VisitError::Confused { address })?;
    Ok((stream, host))
}

async fn send<T: Serialize>(
    stream: &mut TlsStream<TcpStream>,
    address: SocketAddr,
    message: &T,
) -> Result<(), VisitError> {
    wire::send(stream, message, KNOCK_ANSWER_TIME_MAX).await.map_err(|source| VisitError::Line { address, source })
}

async fn receive<T: DeserializeOwned>(stream: &mut TlsStream<TcpStream>, address: SocketAddr) -> Result<T, VisitError> {
    match wire::receive(stream, KNOCK_ANSWER_TIME_MAX).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(VisitError::Ended { address }),
        // With TLS 1.3 the box's refusal of our key comes after our first message.
        Err(FrameError::Broken(source)) if source.kind() == io::ErrorKind::InvalidData => {
            Err(VisitError::NotTheBox { address, source })
        }
        Err(source) => Err(VisitError::Line { address, source }),
    }
}
