//! Reaching a box: its addresses one after another, a little apart, and the first that proves to be it is kept
//! (after RFC 8305).

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use base::BoxId;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls::CertificateError;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::frame::Frame;
use super::wire::{Broken, Wire, buffered, prepare};
use super::{Admission, Class, Core, tls};
use crate::authority::Subject;

/// Why a box could not be dialled: what the last of its addresses said.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no address of it is known")]
    NoAddress,
    #[error("{address} can't be connected to")]
    Connect {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("who is at {address} is not to be believed: {why}")]
    Distrusted { address: SocketAddr, why: String },
    #[error("{address} and this box could not agree; if it says that the certificate is the matter, it is this box's")]
    Handshake {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{address} gave no welcome: {why}")]
    Unwelcome { address: SocketAddr, why: String },
    #[error("{address} took longer than {max:?}")]
    Slow { address: SocketAddr, max: Duration },
    #[error("no address of it answered within {0:?}")]
    Time(Duration),
}

/// A connection to the box that was wanted, which said welcome.
pub(super) struct Reached {
    pub(super) wire: Wire,
    pub(super) subject: Subject,
    pub(super) certificate: Vec<u8>,
    pub(super) address: SocketAddr,
    /// How often this box had shown a new certificate when the dial began.
    pub(super) shown: u64,
    /// Asked again for each call.
    pub(super) admission: Arc<dyn Admission>,
}

pub(super) async fn dial(core: &Core, to: BoxId, class: Class) -> Result<Reached, DialError> {
    let max = core.pace.dial_max;
    timeout(max, race(core, to, class)).await.unwrap_or(Err(DialError::Time(max)))
}

async fn race(core: &Core, to: BoxId, class: Class) -> Result<Reached, DialError> {
    let mut next = addresses(core, to).into_iter();
    let (mut tries, mut last, mut is_due) = (FuturesUnordered::new(), DialError::NoAddress, true);
    loop {
        if std::mem::take(&mut is_due) {
            match next.next() {
                Some(address) => tries.push(reach(core, to, class, address)),
                None if tries.is_empty() => return Err(last),
                None => {}
            }
        }
        tokio::select! {
            tried = tries.next() => match tried {
                Some(Ok(reached)) => {
                    keep(core, to, reached.address);
                    return Ok(reached);
                }
                Some(Err(error)) => {
                    last = error;
                    is_due = true;
                }
                None => is_due = true,
            },
            () = sleep(core.pace.dial_stagger), if next.len() > 0 => is_due = true,
        }
    }
}

/// All addresses of a box, the one that worked last before the others.
fn addresses(core: &Core, to: BoxId) -> Vec<SocketAddr> {
    let addresses = core.addresses.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(known) = addresses.get(&to) else { return Vec::new() };
    let others = known.all.iter().copied().filter(|address| Some(*address) != known.good);
    known.good.into_iter().chain(others).collect()
}

fn keep(core: &Core, to: BoxId, address: SocketAddr) {
    let mut addresses = core.addresses.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = addresses.get_mut(&to)
        && known.all.contains(&address)
    {
        known.good = Some(address);
    }
}

async fn reach(core: &Core, to: BoxId, class: Class, address: SocketAddr) -> Result<Reached, DialError> {
    let max = core.pace.handshake_max;
    timeout(max, shake_hands(core, to, class, address)).await.unwrap_or(Err(DialError::Slow { address, max }))
}

async fn shake_hands(core: &Core, to: BoxId, class: Class, address: SocketAddr) -> Result<Reached, DialError> {
    let connected = |source| DialError::Connect { address, source };
    let socket = TcpStream::connect(address).await.map_err(connected)?;
    prepare(&socket, &core.pace).map_err(connected)?;
    // Read before the handshake: a certificate that is renewed meanwhile makes this connection an old one.
    let shown = core.epoch.borrow().shown;
    let connector = TlsConnector::from(tls::client(&core.beliefs, &core.shown, to, class));
    // Whom we want is in the verifier; this name is neither sent nor looked at.
    let name = ServerName::IpAddress(address.ip().into());
    let stream = connector.connect(name, buffered(socket)).await.map_err(|source| distrusted(address, source))?;
    let mut wire = Wire::new(stream.into(), class.body_bytes_max());
    let unwelcome = |why: String| DialError::Unwelcome { address, why };
    if Class::of_protocol(wire.protocol()) != Some(class) {
        return Err(unwelcome("it speaks another protocol".to_owned()));
    }
    let certificate = wire.certificate().ok_or_else(|| unwelcome("it showed no certificate".to_owned()))?;
    let subject =
        core.beliefs.judge(&certificate).map_err(|why| DialError::Distrusted { address, why: base::chain(&why) })?;
    // In TLS 1.3 we are done before the other side has judged us: only its welcome says that it did.
    welcomed(&mut wire).await.map_err(|why| unwelcome(base::chain(&why)))?;
    Ok(Reached { wire, subject, certificate, address, shown, admission: core.beliefs.admission.clone() })
}

async fn welcomed(wire: &mut Wire) -> Result<(), Broken> {
    loop {
        match wire.take()? {
            Some(Frame::Welcome) => return Ok(()),
            Some(_) => return Err(Broken::Turn),
            None => poll_fn(|cx| wire.poll_read(cx)).await?,
        }
    }
}

/// What rustls says, in the words of whoever judged.
fn distrusted(address: SocketAddr, source: io::Error) -> DialError {
    let tls = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(other))) => {
            DialError::Distrusted { address, why: base::chain(&*other.0) }
        }
        _ => DialError::Handshake { address, source },
    }
}

/// How long a line waits after each dial that fails.
pub(super) struct Backoff {
    failures: u32,
    last: Option<(tokio::time::Instant, Arc<DialError>)>,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { failures: 0, last: None }
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// Notes a failure and says how long to wait.
    pub(super) fn failed(&mut self, core: &Core, why: Arc<DialError>) -> Duration {
        let doubled = core.pace.backoff_min.saturating_mul(1 << self.failures.min(16));
        let wait = less_by_chance(doubled.min(core.pace.backoff_max));
        self.failures += 1;
        self.last = Some((tokio::time::Instant::now() + wait, why));
        wait
    }

    /// Why it isn't dialled yet, if it isn't.
    pub(super) fn why_not_yet(&self) -> Option<Arc<DialError>> {
        let (until, why) = self.last.as_ref()?;
        (tokio::time::Instant::now() < *until).then(|| why.clone())
    }
}

/// Between a half and all of `span`: what failed together must not come back together.
fn less_by_chance(span: Duration) -> Duration {
    span / 2 + by_chance(span / 2)
}

/// Between nothing and `span`.
pub(super) fn by_chance(span: Duration) -> Duration {
    let mut bytes = [0; 4];
    // Without chance there is no spread, which is a pity and no fault.
    let part = getrandom::fill(&mut bytes).map_or(0, |()| u32::from_le_bytes(bytes));
    span.mul_f64(f64::from(part) / f64::from(u32::MAX))
}
