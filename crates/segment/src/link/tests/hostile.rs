//! What a peer may do that isn't ours: a rogue on the segment without a certificate, and a stolen box with one.

use std::time::Duration;

use base::limits::LINK_HANDSHAKES_PER_ADDRESS_MAX;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::fuzzing::{fuzz, mutated};
use crate::link::frame::HEAD_BYTES_MAX;

/// A box whose side of the link the test speaks: it welcomes, and then does `what` with each connection.
async fn stolen<F>(cloud: &Cloud, caller: &Box1, what: impl Fn(Wire) -> F + Send + 'static) -> Box1
where
    F: Future<Output = ()> + Send + 'static,
{
    let me = cloud.a_box();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    caller.links.set_addresses(me.id(), vec![listener.local_addr().expect("bound")]).expect("an address");
    let config = tls::server(&me.links.core.beliefs, &me.links.core.shown);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(stream) = TlsAcceptor::from(config.clone()).accept(buffered(socket)).await else { continue };
            let mut wire = Wire::new(stream.into(), LINK_DATA_BYTES_MAX);
            wire.push(&Head::welcome(), Bytes::new());
            if write(&mut wire).await.is_ok() {
                tokio::spawn(what(wire));
            }
        }
    });
    me
}

/// Hears the first call and gives its id.
async fn heard_call(wire: &mut Wire) -> u64 {
    match hear(wire).await {
        Ok(Frame::Call { id, .. }) => id,
        other => panic!("{other:?} in place of a call"),
    }
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_an_answer_leaves_the_call_unknown() {
    let cloud = Cloud::new();
    let caller = cloud.a_box();
    let stolen = stolen(&cloud, &caller, async |mut wire| {
        let id = heard_call(&mut wire).await;
        // Half of what it says is coming.
        wire.push(&Head::answer(id, 1000), Bytes::from_static(&[0; 500]));
        let _ = write(&mut wire).await;
    })
    .await;
    let cut = caller.call(&stolen, Class::Data, b"").await;
    assert!(matches!(cut, Err(CallError::Unknown { why: Unknown::Broken(_), .. })), "{cut:?}");
}

#[tokio::test]
async fn a_connection_cut_in_the_middle_of_a_call_begins_nothing() {
    let cloud = Cloud::new();
    let begun = Arc::new(AtomicBool::new(false));
    let noted = begun.clone();
    let (caller, answers) = cloud
        .pair(move |_, _, body| {
            noted.fetch_or(body != "whole", Ordering::SeqCst);
            async { Ok(body) }
        })
        .await;
    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let config = tls::client(&cloud.beliefs(), &shown, answers.id(), Class::Data);
    let mut wire = knock(address, config, Class::Data).await.expect("welcome");
    say(&mut wire, &Head::call(0, 1, 1000, 1000), &[0; 500]).await;
    drop(wire);
    until("it ends", || answers.links.accepted() == 0).await;
    assert!(!begun.load(Ordering::SeqCst));
    caller.call(&answers, Class::Data, b"whole").await.expect("answered");
}

#[tokio::test]
async fn answers_that_nobody_asked_for_end_the_link() {
    type Says = fn(u64) -> (Head, &'static [u8]);
    let wrong: [(&str, Says); 5] = [
        ("an id that was never asked", |id| (Head::answer(id + 1, 0), b"")),
        ("the last id of all", |_| (Head::answer(u64::MAX, 0), b"")),
        ("a call from the side that answers", |id| (Head::call(id, 1, 1000, 0), b"")),
        ("a second welcome", |_| (Head::welcome(), b"")),
        ("an answer too long for the class", |id| (Head::answer(id, LINK_DATA_BYTES_MAX + HEAD_BYTES_MAX), b"")),
    ];
    for (what, says) in wrong {
        let cloud = Cloud::new();
        let caller = cloud.a_box();
        let stolen = stolen(&cloud, &caller, move |mut wire| async move {
            let id = heard_call(&mut wire).await;
            let (head, body) = says(id);
            wire.push(&head, Bytes::from_static(body));
            let _ = write(&mut wire).await;
            // It stays: it is the caller who ends it.
            while hear(&mut wire).await.is_ok() {}
        })
        .await;
        let ended = caller.call(&stolen, Class::Data, b"").await;
        assert!(matches!(ended, Err(CallError::Unknown { why: Unknown::Broken(_), .. })), "{what}: {ended:?}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_twice_or_late_hurts_nobody() {
    let cloud = Cloud::new();
    let caller = cloud.a_box();
    let stolen = stolen(&cloud, &caller, async |mut wire| {
        while let Ok(frame) = hear(&mut wire).await {
            let Frame::Call { id, .. } = frame else { continue };
            for _ in 0..3 {
                wire.push(&Head::answer(id, 1), Bytes::from_static(b"a"));
            }
            if write(&mut wire).await.is_err() {
                return;
            }
        }
    })
    .await;
    for _ in 0..100 {
        assert_eq!(caller.call(&stolen, Class::Data, b"").await.expect("answered"), "a");
    }
    assert_eq!(caller.links.states()[0].connections, 1);
}

#[tokio::test]
async fn who_accepts_and_never_says_anything_is_given_up() {
    let ms = Duration::from_millis;
    let cloud = Cloud::with(Pace { handshake_max: ms(50), ping_after: ms(20), silence_max: ms(100), ..quick() });
    // Before the handshake.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let (caller, to) = (cloud.a_box(), cloud.a_box());
    caller.links.set_addresses(to.id(), vec![silent.local_addr().expect("bound")]).expect("an address");
    let slow = caller.call(&to, Class::Data, b"").await;
    let Err(CallError::Unreachable { why: Unreachable::Dial(why), .. }) = &slow else { panic!("{slow:?}") };
    assert!(matches!(**why, DialError::Slow { .. }), "{why}");

    // After it: it reads all, and answers nothing, no sign of life either.
    let stolen = stolen(&cloud, &caller, async |mut wire| while hear(&mut wire).await.is_ok() {}).await;
    let given_up = caller.call(&stolen, Class::Control, b"").await;
    let Err(CallError::Unknown { why: Unknown::Broken(why), .. }) = &given_up else { panic!("{given_up:?}") };
    assert!(why.contains("nothing was heard"), "{why}");

    // And one that dials, and says nothing.
    let (caller, answers) = cloud.pair(echo).await;
    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let config = tls::client(&cloud.beliefs(), &shown, answers.id(), Class::Data);
    let mut wire = knock(address, config, Class::Data).await.expect("welcome");
    assert!(hear(&mut wire).await.is_err());
    assert_eq!(answers.links.accepted(), 0);
}

#[tokio::test]
async fn a_frame_that_never_ends_is_given_up() {
    let ms = Duration::from_millis;
    let cloud = Cloud::with(Pace { frame_max: ms(50), ping_after: ms(20), ..quick() });
    let (caller, answers) = cloud.pair(echo).await;
    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let config = tls::client(&cloud.beliefs(), &shown, answers.id(), Class::Data);
    let mut wire = knock(address, config, Class::Data).await.expect("welcome");
    let trickle = async {
        wire.push(&Head::call(0, 1, 1000, 1000), Bytes::new());
        while write(&mut wire).await.is_ok() {
            sleep(ms(5)).await;
            wire.push(&Head::ping(), Bytes::new());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), trickle).await.expect("it is cut off");
    until("it is gone", || answers.links.accepted() == 0).await;
}

#[tokio::test]
async fn a_flood_from_one_address_leaves_the_others_their_door() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    // Without a word, each holds a place for as long as a handshake may last.
    let mut held = Vec::new();
    for _ in 0..LINK_HANDSHAKES_PER_ADDRESS_MAX {
        held.push(TcpStream::connect(address).await.expect("connected"));
    }
    // All of them got in, and the next is turned away at once.
    let mut next = TcpStream::connect(address).await.expect("connected");
    let read = next.read(&mut [0; 1]).await;
    assert!(matches!(&read, Ok(0)) || read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));

    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    let config = tls::client(&cloud.beliefs(), &shown, answers.id(), Class::Control);
    let elsewhere = TcpSocket::new_v4().expect("a socket");
    elsewhere.bind((Ipv4Addr::new(127, 0, 0, 2), 0).into()).expect("another address");
    let elsewhere = elsewhere.connect(address).await.expect("connected");
    greet(elsewhere, config, Class::Control).await.expect("welcome");

    drop(held);
    until("the flood's places are free", || answers.links.core.doors.under_way() == 0).await;
}

#[tokio::test]
async fn who_sends_garbage_again_and_again_is_turned_away_unheard() {
    let cloud = Cloud::new();
    let (caller, answers) = cloud.pair(echo).await;
    // A link that stands isn't touched by what others do from its address.
    caller.call(&answers, Class::Data, b"").await.expect("answered");
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let mut alerts = 0;
    loop {
        let mut socket = TcpStream::connect(address).await.expect("connected");
        let mut answer = Vec::new();
        let _ = socket.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let _ = socket.read_to_end(&mut answer).await;
        if answer.is_empty() {
            break;
        }
        // TLS's alert: it was heard.
        alerts += 1;
        assert!(alerts < 100_000, "it is heard for ever");
    }
    assert!(alerts > 0);
    caller.call(&answers, Class::Data, b"").await.expect("answered");
}

#[test]
fn no_frames_of_a_stolen_box_hurt_the_side_that_answers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let cloud = Cloud::new();
    let (caller, answers) = runtime.block_on(cloud.pair(echo));
    let good = runtime.block_on(cloud_caller(&cloud, &caller, &answers));
    let shown = Arc::new(Shown::new(&caller.identity, &cloud.issue(caller.id())).expect("a key"));
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    let config = tls::client(&cloud.beliefs(), &shown, answers.id(), Class::Data);
    let seeds = seeds();
    fuzz("a stolen box that calls", &mutated(seeds, &["\u{1}", "\u{0}\u{0}"]), |input| {
        runtime.block_on(async {
            let mut wire = knock(address, config.clone(), Class::Data).await.expect("welcome");
            // Whatever is in it, it goes out as one body without a head of ours.
            wire.push_raw(Bytes::from(input.0.clone()));
            let _ = write(&mut wire).await;
            drop(wire);
        });
        let answer = runtime.block_on(good.call(&answers, Class::Data, b"still there"));
        prop_assert!(answer.is_ok(), "{:?}", answer);
        Ok(())
    });
    runtime.block_on(until("its connections end", || answers.links.accepted() <= 1));
}

async fn cloud_caller(cloud: &Cloud, caller: &Box1, answers: &Box1) -> Box1 {
    let good = cloud.a_box();
    let address = caller.links.core.addresses.lock().expect("held by nobody")[&answers.id()].all[0];
    good.links.set_addresses(answers.id(), vec![address]).expect("an address");
    good.call(answers, Class::Data, b"").await.expect("answered");
    good
}

#[test]
fn no_frames_of_a_stolen_box_hurt_the_side_that_calls() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let cloud = Cloud::new();
    let caller = cloud.a_box();
    let input = Arc::new(Mutex::new(Bytes::new()));
    let says = input.clone();
    let stolen = runtime.block_on(stolen(&cloud, &caller, move |mut wire| {
        let input = says.lock().expect("no test panics with it").clone();
        async move {
            let _ = hear(&mut wire).await;
            wire.push_raw(input);
            let _ = write(&mut wire).await;
        }
    }));
    fuzz("a stolen box that answers", &mutated(seeds(), &["\u{2}", "\u{0}\u{0}"]), |tried| {
        *input.lock().expect("no test panics with it") = Bytes::from(tried.0.clone());
        // Whatever it says, the caller hears one of the outcomes, and the next call has its own.
        let answer = runtime.block_on(caller.call(&stolen, Class::Data, b"well?"));
        let never_sent = matches!(&answer, Err(CallError::Unreachable { why: Unreachable::Deadline, .. }));
        prop_assert!(!never_sent, "{:?}", answer);
        Ok(())
    });
}

fn seeds() -> Vec<Vec<u8>> {
    let call = |id, body: &[u8]| [&Head::call(id, 7, 1000, body.len())[..], body].concat();
    let answer = |id, body: &[u8]| [&Head::answer(id, body.len())[..], body].concat();
    let mut seeds = vec![
        call(0, b"one"),
        [call(0, b"one"), call(1, &[7; 5000]), Head::ping().to_vec()].concat(),
        answer(0, b"one"),
        [answer(0, &[9; 6000]), Head::busy(1).to_vec(), Head::lost(0).to_vec(), Head::pong().to_vec()].concat(),
        [&Head::refused(0, 1, 2)[..], b"no"].concat(),
    ];
    seeds.push(seeds.concat());
    seeds
}
