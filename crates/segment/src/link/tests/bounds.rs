//! What waits, how long and how much: each end of it provoked.

use std::sync::atomic::AtomicUsize;

use base::limits::{LINK_BULK_CALLS_MAX, LINKS_PER_BOX_MAX};

use super::*;

/// A handler that says how many calls it has begun, and ends none before the gate is opened.
#[derive(Clone)]
struct Gate {
    begun: Arc<AtomicUsize>,
    open: Arc<tokio::sync::Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { begun: Arc::default(), open: Arc::new(tokio::sync::Semaphore::new(0)) }
    }

    fn handler(&self) -> impl Fn(Caller, u16, Bytes) -> Answer + Send + Sync + 'static + use<> {
        let gate = self.clone();
        move |_, _, body| {
            let gate = gate.clone();
            Box::pin(async move {
                gate.begun.fetch_add(1, Ordering::SeqCst);
                gate.open.acquire().await.expect("never closed").forget();
                Ok(body)
            })
        }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn open(&self, count: usize) {
        self.open.add_permits(count);
    }
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Bytes, Refused>> + Send>>;

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_unknown_and_its_handler_dropped() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let cloud = Cloud::new();
    let (is_dropped, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
    let (dropped, told) = (is_dropped.clone(), left.clone());
    let (caller, answers) = cloud
        .pair(move |caller: Caller, _, _| {
            let dropped = Dropped(dropped.clone());
            let left = caller.deadline.saturating_duration_since(Instant::now()).as_millis();
            told.store(left.try_into().expect("a minute at the most"), Ordering::SeqCst);
            async move {
                let _dropped = dropped;
                std::future::pending().await
            }
        })
        .await;
    let deadline = Instant::now() + Duration::from_millis(300);
    let late = caller.links.call(answers.id(), Class::Data, 1, Bytes::new(), deadline).await;
    assert!(matches!(late, Err(CallError::Unknown { why: Unknown::Deadline, .. })), "{late:?}");
    assert!((1..=301).contains(&left.load(Ordering::SeqCst)), "{left:?} ms are left");
    until("the handler is dropped", || is_dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_call_that_could_not_be_sent_in_time_has_not_happened() {
    let cloud = Cloud::new();
    // Somebody who takes connections and says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let (caller, to) = (cloud.a_box(), cloud.a_box());
    caller.links.set_addresses(to.id(), vec![silent.local_addr().expect("bound")]).expect("an address");
    let deadline = Instant::now() + Duration::from_millis(50);
    let late = caller.links.call(to.id(), Class::Data, 1, Bytes::new(), deadline).await;
    assert!(matches!(late, Err(CallError::Unreachable { why: Unreachable::Deadline, .. })), "{late:?}");
}

#[tokio::test]
async fn a_call_nobody_waits_for_is_never_begun() {
    let cloud = Cloud::new();
    let gate = Gate::new();
    let (caller, answers) = cloud.pair(gate.handler()).await;
    let all: Vec<_> = (0..LINK_BULK_CALLS_MAX).map(|_| caller.call(&answers, Class::Bulk, b"")).collect();
    let late = async {
        until("all places are taken", || gate.begun() == LINK_BULK_CALLS_MAX).await;
        // It waits here for a place, and gives up.
        let deadline = Instant::now() + Duration::from_millis(20);
        let late = caller.links.call(answers.id(), Class::Bulk, 1, Bytes::new(), deadline).await;
        assert!(matches!(late, Err(CallError::Unreachable { why: Unreachable::Deadline, .. })), "{late:?}");
        gate.open(LINK_BULK_CALLS_MAX);
    };
    let (answered, ()) = tokio::join!(futures_util::future::join_all(all), late);
    assert!(answered.iter().all(Result::is_ok));
    gate.open(1);
    caller.call(&answers, Class::Bulk, b"").await.expect("answered");
    assert_eq!(gate.begun(), LINK_BULK_CALLS_MAX + 1);
}

#[tokio::test]
async fn more_calls_than_may_wait_are_refused_at_once() {
    let cloud = Cloud::new();
    let gate = Gate::new();
    let (caller, answers) = cloud.pair(gate.handler()).await;
    let room = LINK_BULK_CALLS_MAX + LINK_CALLS_WAITING_MAX;
    // The first goes alone, so that all others find the connection.
    let mut calls = tokio::task::JoinSet::new();
    let links = caller.links.clone();
    let call = |links: Links, to| async move { links.call(to, Class::Bulk, 1, Bytes::new(), soon()).await };
    calls.spawn(call(links.clone(), answers.id()));
    until("the first is there", || gate.begun() == 1).await;
    for _ in 1..LINK_BULK_CALLS_MAX {
        calls.spawn(call(links.clone(), answers.id()));
    }
    until("all places are taken", || gate.begun() == LINK_BULK_CALLS_MAX).await;
    for _ in 0..LINK_CALLS_WAITING_MAX {
        calls.spawn(call(links.clone(), answers.id()));
    }
    let is_full = || caller.links.lines.map.load().values().all(|line| line.asks.capacity() == 0);
    until("as many wait as may", is_full).await;
    let busy = call(links, answers.id()).await;
    assert!(matches!(busy, Err(CallError::Busy { .. })), "{busy:?}");
    assert_eq!(caller.links.busy(), 1);
    gate.open(room);
    while let Some(answered) = calls.join_next().await {
        answered.expect("no panic").expect("answered");
    }
    assert_eq!(gate.begun(), room);
}

#[tokio::test]
async fn more_bytes_than_may_wait_are_refused_at_once() {
    let cloud = Cloud::new();
    // Nothing takes them: the other side says nothing.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let (caller, to) = (cloud.a_box(), cloud.a_box());
    caller.links.set_addresses(to.id(), vec![silent.local_addr().expect("bound")]).expect("an address");
    let body = Bytes::from(vec![0; LINK_CONTROL_BYTES_MAX]);
    let id = to.id();
    let mut calls = tokio::task::JoinSet::new();
    // The first is taken to dial for, the others wait.
    for _ in 0..=LINK_CONTROL_BYTES_WAITING_MAX / LINK_CONTROL_BYTES_MAX {
        let (links, body) = (caller.links.clone(), body.clone());
        calls.spawn(async move { links.call(id, Class::Control, 1, body, soon()).await });
        tokio::task::yield_now().await;
    }
    let busy = caller.links.call(id, Class::Control, 1, body, soon()).await;
    assert!(matches!(busy, Err(CallError::Busy { .. })), "{busy:?}");
    caller.links.drop_box(id);
    let one = caller.links.busy();
    assert_eq!(one, 1);
}

#[tokio::test]
async fn who_has_more_in_flight_than_agreed_hears_that_nothing_happened() {
    let cloud = Cloud::new();
    let gate = Gate::new();
    let (caller, answers) = cloud.pair(gate.handler()).await;
    let mut wire = by_hand(&cloud, &caller, &answers, Class::Bulk).await.expect("welcome");
    for id in 0..=LINK_BULK_CALLS_MAX {
        say(&mut wire, &Head::call(id as u64, 1, 60_000, 0), b"").await;
    }
    let busy = hear(&mut wire).await.expect("a frame");
    assert_eq!(busy, Frame::Busy { id: LINK_BULK_CALLS_MAX as u64 });
    assert_eq!(gate.begun(), LINK_BULK_CALLS_MAX);
    // One that has no time left isn't begun either.
    gate.open(1);
    assert!(matches!(hear(&mut wire).await, Ok(Frame::Answer { .. })));
    say(&mut wire, &Head::call(100, 1, 0, 0), b"").await;
    assert_eq!(hear(&mut wire).await.expect("a frame"), Frame::Busy { id: 100 });
    assert_eq!(gate.begun(), LINK_BULK_CALLS_MAX);
}

/// A connection of `caller` to `answers` that the test speaks on itself.
async fn by_hand(cloud: &Cloud, caller: &Box1, answers: &Box1, class: Class) -> Result<Wire, String> {
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    knock(address, tls::client(&cloud.beliefs(), &shown, answers.id(), class), class).await
}

#[tokio::test]
async fn a_body_and_an_answer_have_a_bound() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(async |_, _, _| Ok(vec![0; LINK_CONTROL_BYTES_MAX + 1].into())).await;
    let body = Bytes::from(vec![0; LINK_CONTROL_BYTES_MAX + 1]);
    let long = caller.links.call(answers.id(), Class::Control, 1, body, soon()).await;
    assert!(matches!(long, Err(CallError::TooLong { .. })), "{long:?}");
    let lost = caller.call(&answers, Class::Control, b"").await;
    assert!(matches!(lost, Err(CallError::Unknown { why: Unknown::Lost, .. })), "{lost:?}");
}

#[tokio::test]
async fn what_is_nowhere_is_unreachable() {
    let cloud =
        Cloud::with(Pace { backoff_min: Duration::from_mins(1), backoff_max: Duration::from_mins(1), ..quick() });
    let (caller, to) = (cloud.a_box(), cloud.a_box());
    let nowhere = caller.call(&to, Class::Data, b"").await;
    let Err(CallError::Unreachable { why: Unreachable::Dial(why), .. }) = &nowhere else { panic!("{nowhere:?}") };
    assert!(matches!(**why, DialError::NoAddress));
    // A port that nobody listens on.
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port").local_addr().expect("bound");
    caller.links.set_addresses(to.id(), vec![gone]).expect("an address");
    let refused = caller.call(&to, Class::Data, b"").await;
    let Err(CallError::Unreachable { why: Unreachable::Dial(why), .. }) = &refused else { panic!("{refused:?}") };
    assert!(matches!(**why, DialError::Connect { .. }), "{why}");
    // The next is told at once what was tried.
    let lately = caller.call(&to, Class::Data, b"").await;
    assert!(matches!(lately, Err(CallError::Unreachable { why: Unreachable::Lately(_), .. })), "{lately:?}");
    assert!(caller.links.states()[0].why.as_deref().is_some_and(|why| why.contains("can't be connected to")));
    let many = vec![gone; LINK_ADDRESSES_MAX + 1];
    assert!(matches!(caller.links.set_addresses(to.id(), many), Err(LinksError::Addresses { .. })));
}

#[tokio::test]
async fn a_box_that_comes_back_is_reached_again() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    // It restarts on another port.
    answers.links.close();
    until("its connections end", || caller.links.states()[0].address.is_none()).await;
    let restarted = Links::new(
        &answers.identity,
        &cloud.issue(answers.id()),
        cloud.trust.clone(),
        cloud.admission(),
        answers.clock.clone(),
        cloud.pace,
    )
    .expect("believed");
    let address = listen(&restarted, echo).await;
    let old = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    caller.links.set_addresses(answers.id(), vec![old, address]).expect("addresses");
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    // The one that worked is tried first from here on.
    assert_eq!(caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].good, Some(address));
}

#[tokio::test]
async fn an_address_that_says_nothing_is_passed_by() {
    let pace = Pace { dial_stagger: Duration::from_millis(10), ..quick() };
    let cloud = Cloud::with(pace);
    let (caller, answers) = cloud.pair(echo).await;
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let good = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let all = vec![silent.local_addr().expect("bound"), good];
    caller.links.set_addresses(answers.id(), all).expect("addresses");
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    assert_eq!(caller.links.states()[0].address, Some(good));
}

#[tokio::test]
async fn a_link_that_nobody_uses_ends_and_comes_back() {
    let ms = Duration::from_millis;
    let pace = Pace { idle_max: ms(30), ping_after: ms(20), ..quick() };
    let cloud = Cloud::with(pace);
    let (caller, answers) = cloud.pair(echo).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    until("it ends", || answers.links.accepted() == 0).await;
    caller.call(&answers, Class::Data, b"").await.expect("answered");
}

#[tokio::test]
async fn a_quiet_link_is_kept_by_signs_of_life() {
    let ms = Duration::from_millis;
    let pace = Pace { ping_after: ms(20), silence_max: ms(500), ..quick() };
    let cloud = Cloud::with(pace);
    let gate = Gate::new();
    let (caller, answers) = cloud.pair(gate.handler()).await;
    // One call that takes far longer than silence may last, with nothing else to say.
    let slow = caller.call(&answers, Class::Data, b"slow");
    let wait = async {
        until("it is begun", || gate.begun() == 1).await;
        sleep(ms(1500)).await;
        gate.open(1);
    };
    let (slow, ()) = tokio::join!(slow, wait);
    assert_eq!(slow.expect("answered"), "slow");
    assert_eq!(caller.links.states()[0].connections, 1);
}

#[tokio::test]
async fn bulk_never_stands_before_control() {
    let cloud = Cloud::new();
    let (gate, control) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (bulk, counted) = (gate.handler(), control.clone());
    let (caller, answers) = cloud
        .pair(move |caller: Caller, method, body| {
            if caller.class == Class::Control {
                counted.fetch_add(1, Ordering::SeqCst);
                return Box::pin(async move { Ok(body) }) as Answer;
            }
            bulk(caller, method, body)
        })
        .await;
    let large = Bytes::from(vec![0x5a; LINK_BULK_BYTES_MAX]);
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..2 * LINK_BULK_CALLS_MAX {
        let (links, large, to) = (caller.links.clone(), large.clone(), answers.id());
        flood.spawn(async move { links.call(to, Class::Bulk, 1, large, soon()).await });
    }
    until("bulk is under way", || gate.begun() > 0).await;
    // No bulk call is answered before the gate opens, and that is after all of these.
    for _ in 0..200 {
        caller.call(&answers, Class::Control, b"vote").await.expect("answered");
    }
    assert_eq!(control.load(Ordering::SeqCst), 200);
    gate.open(2 * LINK_BULK_CALLS_MAX);
    let mut answered = 0;
    while let Some(bulk) = flood.join_next().await {
        // Sixteen of them are more than may wait: some hear so at once.
        match bulk.expect("no panic") {
            Ok(body) => {
                assert!(body == large);
                answered += 1;
            }
            Err(error) => assert!(matches!(error, CallError::Busy { .. }), "{error:?}"),
        }
    }
    assert!(answered > 0);
}

#[tokio::test]
async fn who_reads_no_answers_is_not_read_from() {
    const CALLS: usize = 200;
    let cloud = Cloud::new();
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let large = Bytes::from(vec![1; LINK_DATA_BYTES_MAX]);
    let (caller, answers) = cloud
        .pair(move |caller: Caller, _, body| {
            let is_data = caller.class == Class::Data;
            counted.fetch_add(usize::from(is_data), Ordering::SeqCst);
            let large = large.clone();
            async move { Ok(if is_data { large } else { body }) }
        })
        .await;
    let mut wire = by_hand(&cloud, &caller, &answers, Class::Data).await.expect("welcome");
    for id in 0..CALLS as u64 {
        say(&mut wire, &Head::call(id, 1, 60_000, 0), b"").await;
    }
    // What may wait, what the sockets hold (a few MiB), and no more: the rest would begin if anything let it.
    let may_wait = LINK_DATA_BYTES_WAITING_MAX / LINK_DATA_BYTES_MAX + 1;
    until("what may wait does", || begun.load(Ordering::SeqCst) >= may_wait).await;
    for _ in 0..20 {
        caller.call(&answers, Class::Control, b"").await.expect("answered");
    }
    let held = begun.load(Ordering::SeqCst);
    assert!(held < CALLS / 2, "{held} of {CALLS} were begun");
    for _ in 0..CALLS {
        let heard = hear(&mut wire).await;
        assert!(matches!(&heard, Ok(Frame::Answer { .. })), "{:?}", heard.map(|_| "another frame"));
    }
}

#[tokio::test]
async fn a_box_has_so_many_connections_and_no_more() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    let mut held = Vec::new();
    for _ in 0..LINKS_PER_BOX_MAX {
        held.push(by_hand(&cloud, &caller, &answers, Class::Control).await.expect("welcome"));
    }
    assert!(by_hand(&cloud, &caller, &answers, Class::Control).await.is_err());
    // Another box isn't held to it.
    let other = cloud.a_box();
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    other.links.set_addresses(answers.id(), vec![address]).expect("an address");
    other.call(&answers, Class::Control, b"").await.expect("answered");
    drop(held);
    until("they are gone", || answers.links.accepted() == 1).await;
    by_hand(&cloud, &caller, &answers, Class::Control).await.expect("there is a place again");
}
