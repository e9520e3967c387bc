use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::AtomicBool;

use base::limits::{CERTIFICATE_LIFE, CLOCK_SKEW_MAX};
use base::{Role, Roles, Timestamp};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use super::frame::{Frame, Head};
use super::wire::{Broken, Wire, buffered};
use super::*;
use crate::authority::{Authority, draw_cloud};

mod bounds;
mod hands;
mod hostile;
mod turning;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

/// A clock that tests set.
#[derive(Clone)]
struct Hand(Arc<AtomicU64>);

impl Hand {
    fn at(now: Timestamp) -> Self {
        Self(Arc::new(AtomicU64::new(now.0)))
    }

    fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

fn before(from: Timestamp, span: Duration) -> Timestamp {
    Timestamp(from.0 - u64::try_from(span.as_millis()).expect("small"))
}

/// A cloud of boxes in one process. Its record evicts whom the test says.
struct Cloud {
    authority: Authority,
    trust: Trust,
    evicted: Arc<Mutex<HashSet<BoxId>>>,
    pace: Pace,
}

/// A box of it.
struct Box1 {
    identity: Identity,
    links: Links,
    clock: Hand,
}

impl Box1 {
    fn id(&self) -> BoxId {
        self.identity.id()
    }
}

/// As nodes have it, but nobody waits between a failure and the next try, and certificates turn at once.
fn quick() -> Pace {
    let ms = Duration::from_millis;
    Pace { backoff_min: ms(1), backoff_max: ms(4), redial_spread: ms(1), ..Pace::of_limits() }
}

impl Cloud {
    fn new() -> Self {
        Self::with(quick())
    }

    fn with(pace: Pace) -> Self {
        let authority = Authority::found(draw_cloud().expect("random bytes"), NOW).expect("made");
        let trust = Trust::new(authority.root().clone());
        Self { authority, trust, evicted: Arc::default(), pace }
    }

    fn admission(&self) -> impl Admission + use<> {
        let evicted = self.evicted.clone();
        move |subject: &Subject| !evicted.lock().expect("no test panics with it").contains(&subject.id)
    }

    fn evict(&self, id: BoxId) {
        self.evicted.lock().expect("no test panics with it").insert(id);
    }

    fn issue(&self, id: BoxId) -> Certificate {
        self.authority.issue(id, &Roles::solo(), NOW).expect("issued")
    }

    fn a_box(&self) -> Box1 {
        let (identity, clock) = (Identity::generate().expect("a key"), Hand::at(NOW));
        let certificate = self.issue(identity.id());
        let links = Links::new(&identity, &certificate, self.trust.clone(), self.admission(), clock.clone(), self.pace)
            .expect("a believed certificate");
        Box1 { identity, links, clock }
    }

    /// A box that answers, and one that has its address.
    async fn pair<H, F>(&self, handler: H) -> (Box1, Box1)
    where
        H: Fn(Caller, u16, Bytes) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Bytes, Refused>> + Send + 'static,
    {
        let (caller, answers) = (self.a_box(), self.a_box());
        let address = listen(&answers.links, handler).await;
        caller.links.set_addresses(answers.id(), vec![address]).expect("an address");
        (caller, answers)
    }

    /// What a box believes and shows, for those who speak TLS by hand.
    fn beliefs(&self) -> Arc<Beliefs> {
        Arc::new(Beliefs {
            trust: ArcSwap::from_pointee(self.trust.clone()),
            admission: Arc::new(self.admission()),
            clock: Arc::new(Hand::at(NOW)),
        })
    }
}

async fn listen<H, F>(links: &Links, handler: H) -> SocketAddr
where
    H: Fn(Caller, u16, Bytes) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Bytes, Refused>> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let links = links.clone();
    tokio::spawn(async move { links.serve(listener, handler).await });
    address
}

/// Answers with what it was asked, and the method.
async fn echo(_: Caller, method: u16, body: Bytes) -> Result<Bytes, Refused> {
    Ok([&method.to_le_bytes()[..], &body].concat().into())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

impl Box1 {
    async fn call(&self, to: &Box1, class: Class, body: &'static [u8]) -> Result<Bytes, CallError> {
        self.links.call(to.id(), class, 7, Bytes::from_static(body), soon()).await
    }
}

/// Waits for a fact.
async fn until(what: &str, fact: impl Fn() -> bool) {
    let deadline = soon();
    while !fact() {
        assert!(Instant::now() < deadline, "it never came true that {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// A connection by hand, up to the welcome.
async fn knock(address: SocketAddr, config: Arc<ClientConfig>, class: Class) -> Result<Wire, String> {
    let socket = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    greet(socket, config, class).await
}

async fn greet(socket: TcpStream, config: Arc<ClientConfig>, class: Class) -> Result<Wire, String> {
    let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
    let stream = TlsConnector::from(config).connect(name, buffered(socket)).await;
    let mut wire = Wire::new(stream.map_err(|error| error.to_string())?.into(), class.body_bytes_max());
    match hear(&mut wire).await {
        Ok(Frame::Welcome) => Ok(wire),
        Ok(other) => Err(format!("{other:?} in place of a welcome")),
        Err(broken) => Err(base::chain(&broken)),
    }
}

async fn hear(wire: &mut Wire) -> Result<Frame, Broken> {
    loop {
        if let Some(frame) = wire.take()? {
            return Ok(frame);
        }
        std::future::poll_fn(|cx| wire.poll_read(cx)).await?;
    }
}

async fn say(wire: &mut Wire, head: &Head, body: &[u8]) {
    wire.push(head, Bytes::copy_from_slice(body));
    write(wire).await.expect("written");
}

async fn write(wire: &mut Wire) -> Result<(), Broken> {
    std::future::poll_fn(|cx| {
        wire.poll_write(cx)?;
        if wire.is_flushed() { std::task::Poll::Ready(Ok(())) } else { std::task::Poll::Pending }
    })
    .await
}

#[tokio::test]
async fn a_call_is_answered_on_every_class() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    for class in Class::ALL {
        assert_eq!(caller.call(&answers, class, b"G'day").await.expect("answered"), &b"\x07\0G'day"[..]);
    }
    let body = Bytes::from(vec![0xa5; LINK_DATA_BYTES_MAX - 2]);
    let answer = caller.links.call(answers.id(), Class::Data, 7, body.clone(), soon()).await.expect("answered");
    assert!(answer[2..] == body);
    assert_eq!(answers.links.accepted(), 3);
    let states = caller.links.states();
    assert!(states.iter().all(|state| state.address.is_some() && state.why.is_none()), "{states:?}");
}

#[tokio::test]
async fn a_handler_learns_who_calls_and_what_it_refuses_arrives() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud
        .pair(async |caller: Caller, _, _| Err(Refused::new(403, format!("no, {}", caller.subject.spiffe_id()))))
        .await;
    let refused = caller.call(&answers, Class::Control, b"").await;
    let words = format!("no, spiffe://{}/box/{}", cloud.authority.cloud(), caller.id());
    let Err(CallError::Refused { refused, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(refused, Refused { code: 403, words });
}

#[tokio::test]
async fn calls_are_answered_in_any_order() {
    let cloud = Cloud::new();
    // The first to come is answered once the second was.
    let second = Arc::new(Notify::new());
    let (caller, answers) = cloud
        .pair(move |_, _, body: Bytes| {
            let second = second.clone();
            async move {
                match &body[..] {
                    b"first" => second.notified().await,
                    _ => second.notify_one(),
                }
                Ok(body)
            }
        })
        .await;
    let first = caller.call(&answers, Class::Data, b"first");
    let next = caller.call(&answers, Class::Data, b"second");
    let (first, next) = tokio::join!(first, next);
    assert_eq!((first.expect("answered"), next.expect("answered")), ("first".into(), "second".into()));
}

#[tokio::test]
async fn a_handler_that_panics_leaves_the_others_alone() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud
        .pair(async |_, _, body: Bytes| {
            if body.ends_with(b"later") {
                tokio::task::yield_now().await;
            }
            assert!(!body.starts_with(b"panic"), "as the test wants it");
            Ok(body)
        })
        .await;
    for body in [&b"panic"[..], b"panic later"] {
        let lost = caller.call(&answers, Class::Data, body).await;
        assert!(matches!(lost, Err(CallError::Unknown { why: Unknown::Lost, .. })), "{lost:?}");
    }
    assert_eq!(caller.call(&answers, Class::Data, b"well").await.expect("answered"), "well");
    assert_eq!(answers.links.accepted(), 1);
}

#[tokio::test]
async fn a_lane_is_a_connection_of_its_own() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    for lane in 0..2 * usize::from(LINK_LANES_MAX) {
        let links = caller.links.lane(lane);
        links.call(answers.id(), Class::Data, 1, Bytes::new(), soon()).await.expect("answered");
    }
    assert_eq!(answers.links.accepted(), usize::from(LINK_LANES_MAX));
}

#[test]
fn a_link_outlives_the_runtime_that_dialled_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let serving = runtime();
    let cloud = Cloud::new();
    let (caller, answers) = serving.block_on(cloud.pair(echo));
    let stop = Arc::new(Notify::new());
    std::thread::scope(|threads| {
        let stopped = stop.clone();
        threads.spawn(move || serving.block_on(stopped.notified()));
        for _ in 0..3 {
            let core = runtime();
            core.block_on(caller.call(&answers, Class::Data, b"")).expect("answered");
            // The task of the link goes with it.
            drop(core);
        }
        stop.notify_one();
    });
}

#[tokio::test]
async fn closed_links_carry_nothing_and_serve_nobody() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    answers.links.close();
    until("its connections end", || answers.links.accepted() == 0).await;
    caller.links.close();
    let closed = caller.call(&answers, Class::Data, b"").await;
    assert!(matches!(closed, Err(CallError::Unreachable { why: Unreachable::Closed, .. })), "{closed:?}");
}
