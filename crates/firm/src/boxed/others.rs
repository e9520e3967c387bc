//! The other boxes of the cloud, reached over links: what the record, the tenants' data and the box itself ask of them.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base::limits::{LINK_ADDRESSES_MAX, LINK_LANES_MAX, RENEW_TIME_MAX};
use base::{BoxId, Role, Timestamp};
use bytes::Bytes;
use persist::record::{Answer, PeerError, Peers, Trust, Weight};
use segment::authority::{Subject, SystemClock};
use segment::identity::{Context, is_signed_text};
use segment::link::{CallError, Caller, Class, Pace, Refused};
use segment::{Certificate, Clock as _, Gday, Identity, Links};
use state::Boxes;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use web::{Answered, Cloud, Known, Method, Tier, TierError};

use super::papers::{Papers, PapersError};

/// A box asks one that holds the authority for its next certificate. What [`Method`] doesn't number is the box's own.
const RENEW: u16 = 64;
/// The record's calls have connections of their own.
const RECORD_LANE: usize = LINK_LANES_MAX as usize - 1;

/// What a refusal of a call is about.
const REFUSED: u16 = 1;

/// The others, and this box's papers.
pub(super) struct Others {
    me: BoxId,
    identity: Identity,
    operators: BTreeSet<BoxId>,
    links: Links,
    known: Known,
    papers: Mutex<Papers>,
    node: PathBuf,
    /// Links have a runtime of their own, so that neither a core nor the record waits for them.
    handle: Handle,
    evicted: watch::Sender<bool>,
    /// The segment's ear; none where the box says no G'day.
    gday: Option<Arc<Gday>>,
}

thread_local! {
    /// Which connections this thread's calls take: a thread's calls aren't handed from core to core.
    static LANE: Cell<Option<usize>> = const { Cell::new(None) };
}
static LANES: AtomicUsize = AtomicUsize::new(0);

fn lane() -> usize {
    LANE.with(|lane| {
        lane.get().unwrap_or_else(|| {
            let drawn = LANES.fetch_add(1, Ordering::Relaxed) % RECORD_LANE;
            lane.set(Some(drawn));
            drawn
        })
    })
}

/// The runtime that links run on.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("links").enable_all().build()
}

impl Others {
    pub(super) fn new(
        identity: &Identity,
        operators: BTreeSet<BoxId>,
        papers: Papers,
        node: PathBuf,
        known: &Known,
        handle: Handle,
        gday: Option<Arc<Gday>>,
    ) -> Result<Arc<Self>, segment::link::LinksError> {
        let admitted = Arc::clone(known);
        let admission = move |subject: &Subject| admits(&admitted, subject);
        let (certificate, trust) = (&papers.certificate, papers.trust.clone());
        let links = Links::new(identity, certificate, trust, admission, SystemClock, Pace::of_limits())?;
        let others = Self {
            me: identity.id(),
            identity: identity.clone(),
            operators,
            links,
            known: Arc::clone(known),
            papers: Mutex::new(papers),
            node,
            handle,
            evicted: watch::Sender::new(false),
            gday,
        };
        if let Some(boxes) = known.load_full() {
            others.know(&boxes);
        }
        Ok(Arc::new(others))
    }

    pub(super) fn papers(&self) -> Papers {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Answers the other boxes at this socket, until the links are closed.
    pub(super) fn serve(self: &Arc<Self>, listener: TcpListener, cloud: Arc<Cloud>) {
        let others = Arc::clone(self);
        let links = self.links.clone();
        self.handle.spawn(async move {
            let answer = move |caller: Caller, number: u16, body: Bytes| {
                let (others, cloud) = (Arc::clone(&others), Arc::clone(&cloud));
                async move {
                    let refused = |words: String| Refused::new(REFUSED, words);
                    match Method::of(number) {
                        Some(method) => cloud.answer(caller.subject.id, method, body).await.map_err(refused),
                        None if number == RENEW => others.issue(&caller.subject).map_err(refused),
                        None => Err(refused(format!("this build answers no call {number}"))),
                    }
                }
            };
            links.serve(listener, answer).await;
        });
    }

    /// Somebody who keeps the record said that this box is out.
    pub(super) fn is_out(&self) {
        self.evicted.send_replace(true);
    }

    /// Waits until it is known that the cloud has put this box out.
    pub(super) async fn evicted(&self) {
        // The sender lives as long as this does.
        let _ = self.evicted.subscribe().wait_for(|evicted| *evicted).await;
    }

    pub(super) fn close(&self) {
        self.links.close();
    }

    /// The next certificate of a box that shows a valid one.
    fn issue(&self, subject: &Subject) -> Result<Bytes, String> {
        let authority = self.papers().authority().map_err(|error| base::chain(&error))?;
        let authority = authority.ok_or("this box doesn't hold the cloud's authority")?;
        let certificate = authority.issue(subject.id, &subject.roles, SystemClock.now());
        let certificate = certificate.map_err(|error| base::chain(&error))?;
        serde_json::to_vec(&certificate).map(Bytes::from).map_err(|error| error.to_string())
    }

    /// Renews the certificate when half of its life is over, for as long as it is polled.
    pub(super) async fn renew(self: Arc<Self>) {
        let mut said = String::new();
        loop {
            let at = self.papers().certificate.renew_at();
            let now = SystemClock.now();
            // Clocks are set: the time that is left is looked at anew, and not waited for as a whole.
            tokio::time::sleep(at.since(now).min(RENEW_TIME_MAX)).await;
            if SystemClock.now() < at {
                continue;
            }
            match self.renewed().await {
                Ok(()) => {
                    said.clear();
                    tracing::info!("the box's certificate was renewed");
                }
                Err(why) if why == said => tokio::time::sleep(RENEW_TIME_MAX).await,
                Err(why) => {
                    tracing::warn!("the box's certificate can't be renewed: {why}");
                    said = why;
                    tokio::time::sleep(RENEW_TIME_MAX).await;
                }
            }
        }
    }

    async fn renewed(&self) -> Result<(), String> {
        let mut papers = self.papers();
        let now = SystemClock.now();
        let subject = papers.trust.judge(&papers.certificate.der, now).map_err(|error| base::chain(&error))?;
        papers.certificate = match papers.authority().map_err(|error| base::chain(&error))? {
            Some(authority) => authority.issue(self.me, &subject.roles, now).map_err(|error| base::chain(&error))?,
            None => self.ask_for_certificate().await?,
        };
        self.links.renew(&papers.certificate).map_err(|error| base::chain(&error))?;
        self.keep(|kept| kept.certificate = papers.certificate).map_err(|error| base::chain(&error))
    }

    async fn ask_for_certificate(&self) -> Result<Certificate, String> {
        let boxes = self.known.load_full().ok_or("no other box is known")?;
        let mut why = "no persistence box is known".to_owned();
        for it in boxes.with(Role::Persistence).filter(|it| it.id != self.me) {
            let deadline = Instant::now() + RENEW_TIME_MAX;
            match self.links.call(it.id, Class::Control, RENEW, Bytes::new(), deadline).await {
                Ok(answer) => return serde_json::from_slice(&answer).map_err(|error| error.to_string()),
                Err(error) => why = base::chain(&error),
            }
        }
        Err(why)
    }

    /// Changes the papers, here and on the disk.
    fn keep(&self, change: impl FnOnce(&mut Papers)) -> Result<(), PapersError> {
        let mut papers = self.papers.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut papers);
        papers.write(&self.node)
    }
}

/// Boxes that the record has, with the roles that it says. Before the record came, whoever keeps it.
fn admits(known: &Known, subject: &Subject) -> bool {
    let known = known.load();
    known.as_ref().is_some_and(|boxes| boxes.boxes.get(&subject.id).is_some_and(|it| it.roles == subject.roles))
}

impl Tier for Others {
    fn me(&self) -> BoxId {
        self.me
    }

    fn nearby(&self) -> Vec<(BoxId, Vec<SocketAddr>)> {
        let Some(gday) = &self.gday else { return Vec::new() };
        let is_far = |address: &SocketAddr| !matches!(address.ip(), IpAddr::V6(v6) if v6.is_unicast_link_local());
        let blank = gday.sightings().into_iter().filter(|sighting| sighting.claims.standing == "blank");
        blank.map(|it| (it.claims.id, it.addresses.into_iter().filter(is_far).collect())).collect()
    }

    fn know(&self, boxes: &Arc<Boxes>) {
        if boxes.evicted.contains_key(&self.me) {
            self.evicted.send_replace(true);
            return;
        }
        let mut linked: Vec<BoxId> = self.links.boxes();
        for it in boxes.boxes.values().filter(|it| it.id != self.me) {
            linked.retain(|id| *id != it.id);
            let addresses = it.addresses.iter().copied().take(LINK_ADDRESSES_MAX).collect();
            if let Err(error) = self.links.set_addresses(it.id, addresses) {
                tracing::warn!("a box's addresses can't be kept: {}", base::chain(&error));
            }
        }
        for gone in linked {
            self.links.drop_box(gone);
        }
        self.links.judge_all();
        let first: Vec<_> = boxes.with(Role::Persistence).map(|it| it.as_ref().clone()).collect();
        if !first.is_empty()
            && first != self.papers().first
            && let Err(error) = self.keep(|kept| kept.first = first)
        {
            tracing::warn!("who keeps the record can't be written down: {}", base::chain(&error));
        }
    }

    fn vouch(&self, word: &[u8]) -> String {
        self.identity.sign_text(Context::Word, word)
    }

    fn is_vouched(&self, by: BoxId, word: &[u8], signature: &str) -> bool {
        is_signed_text(by, Context::Word, word, signature)
    }

    fn operators(&self) -> &BTreeSet<BoxId> {
        &self.operators
    }

    fn has_auth(&self) -> bool {
        self.papers().has_auth
    }

    fn keep_auth(&self) {
        if let Err(error) = self.keep(|kept| kept.has_auth = true) {
            tracing::error!("it can't be written down that tokens are made by auth boxes: {}", base::chain(&error));
        }
    }

    fn ask(&self, to: BoxId, method: Method, body: Bytes, within: Duration) -> Answered {
        let class = class_of(method);
        let links = self.links.lane(lane());
        let deadline = Instant::now() + within;
        let asked = async move {
            links.call(to, class, method.number(), body, deadline).await.map_err(|error| match error {
                CallError::Refused { refused, .. } => TierError::Refused(refused.words),
                CallError::Busy { .. } => TierError::Busy,
                CallError::Unknown { .. } => TierError::Unknown(base::chain(&error)),
                CallError::Unreachable { .. } | CallError::TooLong { .. } => {
                    TierError::Unreachable(base::chain(&error))
                }
            })
        };
        Box::pin(asked)
    }
}

/// Which calls may carry how much.
fn class_of(method: Method) -> Class {
    match method {
        Method::Record | Method::Beat | Method::Mint => Class::Control,
        Method::Data | Method::Vitals | Method::ChunksHeld | Method::ChunksSettle | Method::Logs => Class::Data,
        Method::DataOfMany | Method::Chunk | Method::ChunksPut | Method::Database => Class::Bulk,
    }
}

impl Peers for Others {
    fn call(&self, to: BoxId, message: Bytes, weight: Weight, within: Duration) -> Answer {
        let links = self.links.lane(RECORD_LANE);
        let class = match weight {
            Weight::Light => Class::Control,
            Weight::Heavy => Class::Bulk,
        };
        // The record's thread drives no sockets.
        let called = self.handle.spawn(async move {
            links.call(to, class, Method::Record.number(), message, Instant::now() + within).await
        });
        Box::pin(async move {
            match called.await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(CallError::Unknown { .. })) | Err(_) => Err(PeerError::TimedOut),
                Ok(Err(error)) => {
                    tracing::debug!(to = %to.name(), "the record's call: {}", base::chain(&error));
                    Err(PeerError::Unreachable)
                }
            }
        })
    }

    fn trust(&self, who: BoxId) -> Trust {
        let known = self.known.load();
        match known.as_ref().and_then(|boxes| boxes.boxes.get(&who)) {
            Some(it) if it.roles.has(Role::Persistence) => Trust::Voter,
            Some(_) => Trust::Follower,
            None => Trust::None,
        }
    }
}

/// Nothing is known yet.
pub(super) fn nothing_known() -> Known {
    Arc::new(ArcSwapOption::empty())
}

/// Has the certificate's time come? Then the box asks for a new one before it starts.
pub(super) fn is_over(certificate: &Certificate, now: Timestamp) -> bool {
    now >= certificate.expires_at
}
