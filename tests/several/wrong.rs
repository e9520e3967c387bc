//! What a rogue on the segment can do to a cloud of several boxes by knocking at its doors: nothing. None of it gets as far as
//! the record's log.
//!
//! The rogue is this process. It must stand on segment a, where only root's labs have this machine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base::limits::{BEAT_EVERY, BOX_MOVED_LOOK, KNOCK_PORT, KNOCKS_AT_ONCE, LINK_PORT_AFTER};
use base::{BoxId, CloudId, Roles};
use firming::{Assignment, Door, Order, OrderId, Way, What};
use segment::knock::{RefusedCode, VisitError};
use segment::{Identity, Visit};
use serde_json::{Value, json};

use crate::harness::FIRM;
use crate::lab::{ALL, AUTH, KEEPERS, Lab, WEB, eventually};

/// Visitors of the flood who knock at a box at once, and how often each of them does.
const FLOODERS: u32 = KNOCKS_AT_ONCE * 2;
const FLOODS: u32 = 8;
/// What a rogue waits for one answer.
const VISIT_TIME_MAX: Duration = Duration::from_secs(20);

fn rogue() -> Identity {
    Identity::generate().expect("the system gives random bytes")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn door(lab: &Lab, number: usize) -> SocketAddr {
    format!("{}:{KNOCK_PORT}", lab.v4(number)).parse().expect("an address")
}

fn drawn(text: &str) -> OrderId {
    OrderId(text.repeat(32))
}

/// Asks a box to be let in, as one whose links are here.
async fn join(door: SocketAddr, identity: &Identity, order: OrderId) -> Result<Value, VisitError> {
    let here = SocketAddr::new(door.ip(), KNOCK_PORT + LINK_PORT_AFTER);
    let asked = async { Visit::knock(door, identity, None, |_| None).await?.join(order, vec![here]).await };
    tokio::time::timeout(VISIT_TIME_MAX, asked).await.unwrap_or(Err(VisitError::Silent { address: door }))
}

/// What the record holds, which all boxes agree on, once the boxes themselves have nothing more to say: an auth box signs the
/// tokens that it finds, and who has another address tells it, each at its next look.
#[track_caller]
fn index(lab: &Lab) -> u64 {
    let looks = 2 * BEAT_EVERY.max(BOX_MOVED_LOOK);
    let (mut held, mut since) = (None, Instant::now());
    eventually("the record is quiet", || {
        lab.is_one(&ALL);
        let (_, now, _) = lab.truth(AUTH).expect("a box tells how its cloud is");
        if held.as_ref() != Some(&now) {
            (held, since) = (Some(now), Instant::now());
        }
        since.elapsed() > looks
    });
    held.and_then(|held| held.as_u64()).expect("a number of commands")
}

fn code(result: Result<Value, VisitError>) -> Option<RefusedCode> {
    match result {
        Ok(given) => panic!("it was let in, and given {given}"),
        Err(VisitError::Refused(refused)) => Some(refused.code),
        Err(_) => None,
    }
}

/// Has the cloud let a box in with this key and order.
#[track_caller]
fn admit(lab: &Lab, id: BoxId, order: &OrderId) {
    let admission = json!({ "id": id, "roles": "web", "order": order });
    let told = lab.send(AUTH, "/v1/boxes", &admission).expect("an operator may admit a box");
    assert_eq!(told["id"], json!(id), "{told}");
}

#[test]
fn nobody_is_let_in_whom_no_operator_admitted() {
    let lab = Lab::six();
    let (runtime, before) = (runtime(), index(&lab));
    let stranger = rogue();
    for number in KEEPERS {
        let refused = runtime.block_on(join(door(&lab, number), &stranger, drawn("ab")));
        assert_eq!(code(refused), Some(RefusedCode::NotNow), "b{number}");
    }
    // Boxes that keep no record let nobody in at all.
    for number in WEB.into_iter().chain([AUTH]) {
        let refused = runtime.block_on(join(door(&lab, number), &stranger, drawn("ab")));
        assert_eq!(code(refused), Some(RefusedCode::NotNow), "b{number}");
    }
    assert_eq!(index(&lab), before, "a stranger got as far as the record");

    // One who was admitted comes with the order that he was given, or not at all.
    let expected = rogue();
    admit(&lab, expected.id(), &drawn("cd"));
    let before = index(&lab);
    for number in KEEPERS {
        for order in [drawn("ab"), OrderId(String::new()), OrderId("cd".repeat(4_000))] {
            let refused = runtime.block_on(join(door(&lab, number), &expected, order));
            assert_eq!(code(refused), Some(RefusedCode::NotNow), "b{number}");
        }
        let thief = runtime.block_on(join(door(&lab, number), &stranger, drawn("cd")));
        assert_eq!(code(thief), Some(RefusedCode::NotNow), "the order is another box's");
    }
    assert_eq!(index(&lab), before, "a wrong order got as far as the record");
    let welcome = runtime.block_on(join(door(&lab, KEEPERS[0]), &expected, drawn("cd")));
    let welcome = welcome.expect("with the right one he is let in, so that the refusals above are about something");
    // A web box gets a certificate, and no key that makes them.
    assert!(welcome["papers"]["certificate"].is_object(), "{welcome}");
    assert!(welcome["papers"]["authority"].is_null(), "a web box is given the cloud's authority");

    // Put out, his key is dead at every door.
    let name = expected.id().name();
    lab.json(&["evict", name.as_str(), "--yes"]);
    let before = index(&lab);
    for number in KEEPERS {
        for order in [drawn("cd"), drawn("ef")] {
            let refused = runtime.block_on(join(door(&lab, number), &expected, order));
            assert_eq!(code(refused), Some(RefusedCode::Evicted), "b{number}");
        }
    }
    assert_eq!(index(&lab), before, "an evicted key got as far as the record");
    let admission = json!({ "id": expected.id(), "roles": "web", "order": drawn("ef") });
    assert_eq!(lab.send(AUTH, "/v1/boxes", &admission), None, "an evicted key was admitted");
}

#[test]
fn a_forged_order_brings_no_box_into_the_cloud() {
    let lab = Lab::six();
    let before = index(&lab);
    let (runtime, stranger) = (runtime(), rogue());
    let view = lab.view(AUTH).expect("a box tells how its cloud is");
    let cloud: CloudId = view["cloud"].as_str().expect("it has an id").parse().expect("an id");
    let forged = |to: BoxId| Order {
        id: drawn("ab"),
        to,
        what: What::Firm(Box::new(Assignment {
            cloud,
            name: "cloud".parse().expect("a name"),
            roles: "web".parse::<Roles>().expect("roles"),
            way: Way::Join {
                doors: KEEPERS
                    .map(|number| Door { id: id(&view, lab.name(number)), addresses: vec![door(&lab, number)] })
                    .to_vec(),
            },
            labels: std::collections::BTreeMap::new(),
            operators: vec![stranger.id()],
            warrant: None,
        })),
    };
    let order = async |address: SocketAddr| {
        let mut visit = Visit::knock(address, &stranger, None, |_| None).await?;
        let order = forged(visit.introduction().with);
        visit.order(&order).await
    };
    // Boxes that are sealed, or somebody's already, don't obey.
    for number in ALL {
        let refused = runtime.block_on(order(door(&lab, number))).expect_err("it obeys a stranger");
        assert!(matches!(refused, VisitError::Refused(_)), "b{number}: {refused:?}");
    }
    // A blank one without a seal does, and its cloud doesn't want it.
    let disk = lab.root().join("unsealed");
    let mut unsealed = lab.beside(Some(AUTH), FIRM);
    unsealed.args(["box", "--no-gday", "--knock-port", "7751", "--port", "8443", "--http-port", "8080", "--dir"]);
    let mut unsealed = unsealed.arg(&disk).spawn().expect("the binary was built with the tests");
    // It lies beside a box on segment b, which this machine reaches by the router.
    let address: SocketAddr = format!("{}:7751", lab.v4(AUTH)).parse().expect("an address");
    let about = || {
        let asked = async { Visit::knock(address, &stranger, None, |_| None).await?.about().await };
        runtime.block_on(asked).ok()
    };
    eventually("the box without a seal listens", || about().is_some());
    runtime.block_on(order(address)).expect("whoever comes first is its operator");
    eventually("its cloud has refused it", || {
        let why = about().and_then(|about| about.why).unwrap_or_default();
        why.contains("no operator has admitted this box")
    });
    assert_eq!(about().map(|about| about.standing), Some("firming".to_owned()));
    assert_eq!(index(&lab), before, "a forged order got as far as the record");
    unsealed.kill().expect("it runs");
    unsealed.wait().expect("it is a child of this process");
}

fn id(view: &Value, name: &str) -> BoxId {
    let it = view["boxes"].as_array().expect("an array of boxes").iter().find(|it| it["name"] == name);
    it.expect("it is of the cloud")["id"].as_str().expect("it has an id").parse().expect("an id")
}

#[test]
fn a_flood_of_strangers_keeps_nobody_out() {
    let mut lab = Lab::up(ALL.len() + 1);
    lab.firmed("persistence", &KEEPERS);
    lab.firmed("web", &WEB);
    lab.firmed("auth", &[AUTH]);
    let before = index(&lab);
    let doors = KEEPERS.map(|number| door(&lab, number));
    let flood = std::thread::spawn(move || {
        runtime().block_on(async {
            let visitors = (0..FLOODERS).map(|number| async move {
                let (identity, mut refused) = (rogue(), 0);
                for round in 0..FLOODS {
                    let door = doors[(number + round) as usize % doors.len()];
                    refused += u32::from(code(join(door, &identity, drawn("ab")).await).is_some());
                }
                refused
            });
            futures_util::future::join_all(visitors).await.into_iter().sum::<u32>()
        })
    });
    lab.push_page("hello", "G'day");
    let late = ALL.len() + 1;
    lab.firmed("web", &[late]);
    let refused = flood.join().expect("no stranger was let in");
    let all: Vec<usize> = ALL.into_iter().chain([late]).collect();
    lab.is_one(&all);
    eventually("the box that came meanwhile serves", || lab.page(late, "hello") == "G'day");
    let after = index(&lab);
    eprintln!("{refused} of {} strangers' visits were answered, with no", FLOODERS * FLOODS);
    assert!(refused > 0, "nobody was flooded");
    // An app with its release, and a box that was admitted and came.
    assert_eq!(after, before + 3, "a stranger got as far as the record");
}
