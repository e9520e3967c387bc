//! A box, its operator, and a rogue between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use base::Timestamp;
use firming::{OrderId, What};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;
use crate::identity::Identity;
use crate::seal::{Seal, SealDoubt};

const NOW: Timestamp = Timestamp(1_000);
const LATER: Timestamp = Timestamp(2_000);

/// Tells the test what it was told.
struct Ear {
    id: BoxId,
    words: mpsc::UnboundedSender<(BoxId, ProofWords)>,
    orders: Mutex<Vec<Order>>,
}

impl Porter for Ear {
    fn introduced(&self, caller: &Caller) {
        let _ = self.words.send((caller.introduction.with, caller.introduction.words));
    }

    async fn answer(&self, caller: &Caller, call: Call) -> Result<Reply, Refused> {
        match call {
            Call::About => Ok(Reply::About(Box::new(About {
                id: self.id,
                version: "0".to_owned(),
                standing: "blank".to_owned(),
                why: None,
                cloud: None,
                cloud_name: None,
                roles: None,
                hardware: Hardware::default(),
                since: NOW,
            }))),
            Call::Order { order } => {
                let order = read_order(&order, &caller.introduction)?;
                self.orders.lock().expect("no panic").push(order);
                Ok(Reply::Taken)
            }
            Call::Join { .. } | Call::Leave { .. } => Err(Refused::not_now("later")),
            Call::Access { .. } => Err(Refused::no("never")),
        }
    }
}

struct Host {
    identity: Identity,
    address: SocketAddr,
    words: mpsc::UnboundedReceiver<(BoxId, ProofWords)>,
}

fn unknown(_: BoxId) -> Option<Remembered> {
    None
}

fn identity() -> Identity {
    Identity::generate().expect("made")
}

async fn host(seal: Option<Seal>) -> Host {
    host_as(identity(), seal).await
}

async fn host_as(identity: Identity, seal: Option<Seal>) -> Host {
    let (words, told) = mpsc::unbounded_channel();
    let ear = Ear { id: identity.id(), words, orders: Mutex::default() };
    let door = Door::open((Ipv4Addr::LOCALHOST, 0).into(), identity.clone(), seal, ear).await.expect("it opens");
    let address = door.address().expect("it listens");
    tokio::spawn(door.serve());
    Host { identity, address, words: told }
}

fn order(to: BoxId) -> Order {
    Order { id: OrderId("1".to_owned()), to, what: What::Reset }
}

#[tokio::test]
async fn both_see_the_same_words_and_an_order_is_taken() {
    let mut host = host(None).await;
    let operator = identity();
    let mut visit = Visit::knock(host.address, &operator, Some(host.identity.id()), unknown).await.expect("let in");
    let (who, words) = host.words.recv().await.expect("told");
    assert_eq!((who, words), (operator.id(), visit.introduction().words));
    assert_eq!(visit.about().await.expect("told").id, host.identity.id());
    visit.order(&order(host.identity.id())).await.expect("taken");
    assert!(visit.seal(NOW).is_none());
    let refused = visit.join(OrderId("1".to_owned()), Vec::new()).await;
    assert!(matches!(refused, Err(VisitError::Refused(Refused { code: RefusedCode::NotNow, .. }))));
    // The line goes on after a refusal.
    assert!(visit.about().await.is_ok());
}

#[tokio::test]
async fn words_are_the_same_again_for_the_same_two_and_others_for_all_else() {
    let mut host = host(None).await;
    let id = host.identity.id();
    let (operator, other) = (identity(), identity());
    let first = Visit::knock(host.address, &operator, Some(id), unknown).await.expect("let in");
    let (words, kept) = (first.introduction().words, first.remember());
    let again = Visit::knock(host.address, &operator, Some(id), |_| Some(kept)).await.expect("let in");
    assert_eq!(again.introduction().words, words);
    host.words.recv().await.expect("told once");
    assert!(host.words.try_recv().is_err(), "and not again");
    // Somebody who stole what the operator keeps, but not its key, is another visitor.
    let thief = Visit::knock(host.address, &other, Some(id), |_| Some(kept)).await.expect("let in");
    assert_ne!(thief.introduction().words, words);
    let fresh = Visit::knock(host.address, &operator, Some(id), unknown).await.expect("let in");
    assert_ne!(fresh.introduction().words, words);
    // Both introductions hold, for a program that knocks twice at once.
    let late = Visit::knock(host.address, &operator, Some(id), |_| Some(kept)).await.expect("let in");
    assert_eq!(late.introduction().words, words);
}

#[tokio::test]
async fn who_stands_between_shows_other_words_on_either_side() {
    let mut host = host(None).await;
    let mut rogue = self::host(None).await;
    let operator = identity();
    // The operator reaches the rogue, who reaches the box at the same time.
    let seen = Visit::knock(rogue.address, &operator, None, unknown).await.expect("let in").introduction().words;
    let passed_on = Visit::knock(host.address, &rogue.identity, None, unknown).await.expect("let in");
    let (_, shown) = host.words.recv().await.expect("told");
    assert_eq!(shown, passed_on.introduction().words);
    assert_ne!(seen, shown);
    assert_eq!(rogue.words.recv().await.expect("told").1, seen);
}

#[tokio::test]
async fn a_box_that_answers_in_anothers_name_is_noticed_in_the_handshake() {
    let rogue = host(None).await;
    let wanted = identity().id();
    let visit = Visit::knock(rogue.address, &identity(), Some(wanted), unknown).await;
    assert!(matches!(visit, Err(VisitError::NotTheBox { .. })), "{visit:?}");
}

#[tokio::test]
async fn a_rogue_that_changes_its_nonce_gets_no_second_guess() {
    // It saw the operator's nonce in a first visit, and has searched meanwhile for a nonce of its own that makes the words
    // on the true box's console. A new process of the same key has forgotten the first nonce, as the rogue pretends to.
    let first = host(None).await;
    let operator = identity();
    let visit = Visit::knock(first.address, &operator, None, unknown).await.expect("let in");
    let mut second = host_as(first.identity.clone(), None).await;
    let again = Visit::knock(second.address, &operator, Some(first.identity.id()), |_| Some(visit.remember())).await;
    let again = again.expect("introduced anew");
    assert_ne!(again.remember(), visit.remember());
    assert_ne!(again.remember().visitor, visit.remember().visitor, "a nonce that was seen is used again");
    // The visit that was broken off was never introduced: one entry on the console.
    assert_eq!(second.words.recv().await.expect("told").1, again.introduction().words);
    assert!(second.words.try_recv().is_err());
}

#[tokio::test]
async fn an_order_holds_in_its_own_introduction_alone() {
    let host = host(None).await;
    let operator = identity();
    let mut visit = Visit::knock(host.address, &operator, None, unknown).await.expect("let in");
    let text = serde_json::to_string(&order(host.identity.id())).expect("JSON");
    let signature = |identity: &Identity, transcript: &Digest, text: &str| {
        let bytes = signed_bytes(text, transcript);
        data_encoding::BASE64.encode(&identity.sign(crate::identity::Context::Order, &bytes))
    };
    let transcript = visit.introduction().transcript;
    let other = Visit::knock(host.address, &identity(), None, unknown).await.expect("let in").introduction().transcript;
    let refused = [
        ("overheard in another visit", text.clone(), signature(&operator, &other, &text)),
        ("signed by somebody else", text.clone(), signature(&identity(), &transcript, &text)),
        ("changed on the way", text.replace("reset", "firm"), signature(&operator, &transcript, &text)),
        ("not signed", text.clone(), String::new()),
    ];
    for (what, text, signature) in refused {
        let answer = visit.ask(&Call::Order { order: SignedOrder { text, signature } }).await;
        assert!(matches!(answer, Err(VisitError::Refused(Refused { code: RefusedCode::No, .. }))), "{what}");
    }
    let signature = signature(&operator, &transcript, &text);
    let taken = visit.ask(&Call::Order { order: SignedOrder { text, signature } }).await;
    assert!(matches!(taken, Ok(Reply::Taken)));
}

#[tokio::test]
async fn a_sealed_box_shows_its_seal_to_its_operator() {
    let operator = identity();
    let seal = Seal::make(&operator, LATER).expect("made");
    let host = host(Some(seal)).await;
    let visit = Visit::knock(host.address, &operator, None, unknown).await.expect("let in");
    assert_eq!(visit.seal(NOW), Some(Ok(())));
    let stranger = Visit::knock(host.address, &identity(), None, unknown).await.expect("let in");
    assert_eq!(stranger.seal(NOW), Some(Err(SealDoubt::OtherOperator)));
    // Who stands between can't pass the seal on: it is shown for the box's own introduction.
    let proof = stranger.seal.clone().expect("shown");
    assert_eq!(proof.check(operator.id(), &visit.introduction().transcript, NOW), Err(SealDoubt::NotHeld));
}

#[tokio::test]
async fn a_flood_from_one_address_is_shut_out_and_garbage_harms_nothing() {
    use base::limits::{KNOCKS_PER_ADDRESS_AT_ONCE, KNOCKS_PER_ADDRESS_BURST};
    let host = host(None).await;
    let mut lines = Vec::new();
    for _ in 0..KNOCKS_PER_ADDRESS_AT_ONCE {
        lines.push(TcpStream::connect(host.address).await.expect("connected"));
    }
    // One more than may be in at once: closed without a word.
    let mut more = TcpStream::connect(host.address).await.expect("connected");
    assert_eq!(more.read(&mut [0; 1]).await.unwrap_or(0), 0);
    for line in &mut lines {
        line.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("sent");
        // A TLS alert, and the end.
        let mut answer = Vec::new();
        let _ = line.read_to_end(&mut answer).await;
        assert!(answer.len() < 16, "{answer:?}");
    }
    assert!(Visit::knock(host.address, &identity(), None, unknown).await.is_ok(), "others are let in again");
    let mut refused = false;
    for _ in 0..2 * KNOCKS_PER_ADDRESS_BURST {
        let mut line = TcpStream::connect(host.address).await.expect("connected");
        line.write_all(b"x").await.expect("sent");
        drop(line.shutdown().await);
        let mut answer = Vec::new();
        refused |= line.read_to_end(&mut answer).await.is_err() || answer.is_empty();
    }
    assert!(refused, "an address may come as often as it likes");
}

#[tokio::test]
async fn who_introduces_themselves_without_end_pushes_out_nobody_but_themselves() {
    use base::limits::INTRODUCTIONS_PER_ADDRESS_MAX;
    let mut kept = super::door::tests_kept();
    let key = |number: u8| (BoxId([number; 32]), Digest::of(&[number]));
    let nonce = |number: u8| format!("{number:02x}").repeat(16).parse::<Nonce>().expect("a nonce");
    let (operator, commitment) = key(255);
    kept.add(operator, commitment, nonce(255), [10, 0, 0, 1].into());
    for number in 0..200 {
        let (rogue, commitment) = key(number);
        kept.add(rogue, commitment, nonce(number), [10, 0, 0, 66].into());
    }
    assert_eq!(kept.find(operator, commitment), Some(nonce(255)));
    let left = (0..200).filter(|number| kept.find(key(*number).0, key(*number).1).is_some()).count();
    assert_eq!(left, INTRODUCTIONS_PER_ADDRESS_MAX);
}

#[test]
fn what_a_rogue_says_of_itself_steers_nothing() {
    let about = |standing: &str, why: &str| About {
        id: BoxId([1; 32]),
        version: "0\u{1b}[2J".to_owned(),
        standing: standing.to_owned(),
        why: Some(why.to_owned()),
        cloud: None,
        cloud_name: None,
        roles: None,
        hardware: Hardware { disks: vec![1; 1000], ..Hardware::default() },
        since: NOW,
    };
    assert!(about("blank\nsweet-pike firm", "").cleaned().is_none());
    let cleaned =
        about("blank", &format!("a\nwarning: run this\u{1b}]0;x\u{7}\u{202e}{}", "x".repeat(100_000))).cleaned();
    let cleaned = cleaned.expect("a box");
    let why = cleaned.why.expect("it says why");
    assert!(!why.contains(['\n', '\u{1b}', '\u{7}', '\u{202e}']) && why.chars().count() == 400, "{why}");
    assert!(!cleaned.version.contains('\u{1b}'));
    assert_eq!(cleaned.hardware.disks.len(), DISKS_TOLD_MAX);
}

#[tokio::test]
async fn broken_frames_end_the_visit_and_no_more() {
    let host = host(None).await;
    for frame in [
        &[0, 0, 0, 2, b'{', b'}'][..],
        &[255, 255, 255, 255][..],
        &[0, 0, 0, 4, b'n', b'u', b'l', b'l'][..],
        &[0, 0, 0, 0][..],
    ] {
        let (mut stream, _) = visit::connect(host.address, &identity(), None).await.expect("connected");
        stream.write_all(frame).await.expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{frame:?}");
    }
    assert!(Visit::knock(host.address, &identity(), None, unknown).await.is_ok());
}
