//! Random histories with a power cut anywhere.

use std::net::SocketAddr;

use base::limits::{BOX_LABELS_MAX, DOORS_MAX, OPERATORS_MAX};
use base::{CloudId, Name, Role, Roles};
use proptest::prelude::*;

use super::*;
use crate::{Assignment, Door, OrderId, Way};

const ME: BoxId = BoxId([7; 32]);
const OPERATOR: BoxId = BoxId([1; 32]);

fn assignment(cloud: u8) -> Assignment {
    let address: SocketAddr = "10.0.0.1:7741".parse().expect("an address");
    Assignment {
        cloud: CloudId([cloud; 16]),
        name: "hut".parse::<Name>().expect("a name"),
        roles: Roles::from(Role::Web),
        way: Way::Join { doors: vec![Door { id: BoxId([9; 32]), addresses: vec![address] }] },
        labels: std::collections::BTreeMap::new(),
        operators: vec![OPERATOR],
        warrant: None,
    }
}

fn firm(number: u8) -> Order {
    Order { id: OrderId(number.to_string()), to: ME, what: What::Firm(Box::new(assignment(number))) }
}

fn reset(number: u8) -> Order {
    Order { id: OrderId(number.to_string()), to: ME, what: What::Reset }
}

/// A box whose steps are taken in a model of its disk.
struct Model {
    machine: Firming,
    disk: Standing,
    /// Whose data lies there: the order by which it came.
    data: Option<OrderId>,
    keys: u32,
    node: Option<OrderId>,
    now: Timestamp,
}

#[derive(Clone, Debug)]
enum Deed {
    /// The next step works, fails, or the power goes in its middle.
    Step(Outcome),
    Order(u8),
    Reset(u8),
    Change(u8),
    Evict,
    Die,
    Cut,
    Later(u32),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Works,
    Fails,
    Refused,
    CutBefore,
    CutAfter,
}

impl Model {
    fn new() -> Self {
        Self {
            machine: Firming::restart(ME, Standing::Blank),
            disk: Standing::Blank,
            data: None,
            keys: 0,
            node: None,
            now: Timestamp(1_000_000),
        }
    }

    fn cut(&mut self) {
        self.node = None;
        self.machine = Firming::restart(ME, self.disk.clone());
    }

    fn step(&mut self, outcome: Outcome) {
        let step = self.machine.next();
        if outcome == Outcome::CutBefore {
            return self.cut();
        }
        if outcome == Outcome::Fails && matches!(step, Step::Write(_)) {
            return self.machine.happened(Happened::NotWritten("the disk is full".to_owned()), self.now);
        }
        if outcome == Outcome::Fails && !matches!(step, Step::Listen | Step::Wait { .. }) {
            return self.machine.happened(Happened::Failed("it didn't work".to_owned()), self.now);
        }
        let happened = match step {
            Step::Write(standing) => {
                self.disk = standing;
                Happened::Written
            }
            Step::Leave(_) => Happened::Left,
            Step::Wipe { key } => {
                assert_eq!(self.node, None, "wiped under a node that runs");
                self.data = None;
                self.keys += u32::from(key);
                Happened::Wiped
            }
            Step::Enter(task) => {
                assert_eq!(self.data, None, "a box enters a cloud with another's data");
                if outcome == Outcome::Refused {
                    Happened::Refused("not you".to_owned())
                } else {
                    self.data = Some(task.order);
                    Happened::Entered
                }
            }
            Step::Run(membership) => {
                assert_eq!(self.data.as_ref(), Some(&membership.order), "a node runs on what isn't its own");
                self.node = Some(membership.order);
                self.machine.runs();
                if outcome == Outcome::CutAfter {
                    self.cut();
                }
                return;
            }
            Step::Stop => {
                self.node = None;
                Happened::Stopped
            }
            Step::Wait { until, .. } => {
                self.now = self.now.max(until);
                Happened::Tick
            }
            Step::Listen => return,
        };
        if outcome == Outcome::CutAfter {
            return self.cut();
        }
        self.machine.happened(happened, self.now);
    }

    fn check(&self) {
        if self.disk == Standing::Blank {
            assert_eq!(self.data, None, "a blank box holds data");
            assert_eq!(self.node, None, "a blank box runs a node");
        }
    }

    /// Everything works from now on.
    fn settle(&mut self) {
        for _ in 0..40 {
            if self.machine.next() == Step::Listen {
                return;
            }
            self.step(Outcome::Works);
            self.check();
        }
        panic!("it never comes to rest: {:?}", self.machine);
    }

    fn deed(&mut self, deed: &Deed) {
        match deed {
            Deed::Step(outcome) => self.step(*outcome),
            Deed::Order(number) => {
                if self.machine.standing().obeys(None, OPERATOR).is_ok() {
                    let _ = self.machine.order(firm(*number), self.now);
                }
            }
            Deed::Reset(number) => {
                if self.machine.standing().obeys(None, OPERATOR).is_ok() {
                    let _ = self.machine.order(reset(*number), self.now);
                }
            }
            Deed::Change(number) => {
                if self.machine.standing().obeys(None, OPERATOR).is_ok() {
                    let what = What::Firm(Box::new(assignment(1)));
                    let order = Order { id: OrderId(number.to_string()), to: ME, what };
                    let _ = self.machine.order(order, self.now);
                }
            }
            Deed::Evict => self.machine.happened(Happened::Evicted, self.now),
            Deed::Die => {
                if self.node.take().is_some() {
                    self.machine.happened(Happened::Died("it panicked".to_owned()), self.now);
                }
            }
            Deed::Cut => self.cut(),
            Deed::Later(seconds) => {
                self.now = Timestamp(self.now.0 + u64::from(*seconds) * 1000);
                self.machine.happened(Happened::Tick, self.now);
            }
        }
        self.check();
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Works),
        1 => Just(Outcome::Fails),
        1 => Just(Outcome::Refused),
        1 => Just(Outcome::CutBefore),
        1 => Just(Outcome::CutAfter),
    ]
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        12 => outcome().prop_map(Deed::Step),
        2 => (0..3_u8).prop_map(Deed::Order),
        1 => (10..12_u8).prop_map(Deed::Reset),
        1 => (20..22_u8).prop_map(Deed::Change),
        1 => Just(Deed::Evict),
        1 => Just(Deed::Die),
        1 => Just(Deed::Cut),
        1 => (1..2000_u32).prop_map(Deed::Later),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn whatever_happens_a_box_ends_blank_or_firm_on_its_own_data(deeds in prop::collection::vec(deed(), 0..60)) {
        let mut model = Model::new();
        for deed in &deeds {
            model.deed(deed);
        }
        model.settle();
        prop_assert_eq!(&model.disk, model.machine.standing());
        match &model.disk {
            Standing::Blank => prop_assert!(model.data.is_none() && model.node.is_none()),
            Standing::Firm(membership) => prop_assert_eq!(model.node.as_ref(), Some(&membership.order)),
            between => prop_assert!(false, "it rests in between: {:?}", between),
        }
    }

    #[test]
    fn an_order_that_was_answered_for_holds_through_a_cut(
        before in prop::collection::vec(deed(), 0..40),
        after in prop::collection::vec(outcome().prop_filter("it may be refused", |it| *it != Outcome::Refused), 0..20),
    ) {
        let mut model = Model::new();
        for deed in &before {
            model.deed(deed);
        }
        model.settle();
        model.deed(&Deed::Reset(10));
        model.settle();
        prop_assert_eq!(&model.disk, &Standing::Blank);
        prop_assert_eq!(model.machine.order(firm(5), model.now), Ok(()));
        model.step(Outcome::Works);
        for outcome in after {
            model.step(outcome);
            model.check();
        }
        model.settle();
        let order = model.disk.membership().map(|membership| membership.order.clone());
        prop_assert_eq!(order, Some(OrderId("5".to_owned())));
    }

    #[test]
    fn an_evicted_box_comes_back_with_another_key(cuts in prop::collection::vec(outcome(), 0..20)) {
        let mut model = Model::new();
        model.deed(&Deed::Order(1));
        model.settle();
        let keys = model.keys;
        model.deed(&Deed::Evict);
        model.step(Outcome::Works);
        for outcome in cuts {
            model.step(outcome);
            model.check();
        }
        model.settle();
        prop_assert_eq!(&model.disk, &Standing::Blank);
        prop_assert!(model.keys > keys);
    }
}

#[test]
fn a_box_obeys_its_own_operators_alone() {
    let stranger = BoxId([2; 32]);
    let mut model = Model::new();
    assert_eq!(model.disk.obeys(None, stranger), Ok(()), "an unsealed blank box is anybody's");
    assert_eq!(model.disk.obeys(Some(OPERATOR), stranger), Err(NotTaken::OtherSeal));
    model.deed(&Deed::Order(1));
    model.step(Outcome::Works);
    assert_eq!(model.disk.obeys(None, stranger), Err(NotTaken::OtherOperator));
    model.settle();
    assert!(matches!(model.disk.obeys(None, stranger), Err(NotTaken::OtherCloud(_))));
    assert_eq!(model.disk.obeys(None, OPERATOR), Ok(()));
    model.deed(&Deed::Reset(10));
    model.step(Outcome::Works);
    assert!(model.disk.obeys(None, stranger).is_err(), "a box that is being reset is still its operator's");
}

#[test]
fn orders_that_make_no_sense_change_nothing() {
    let mut model = Model::new();
    let other = Order { to: BoxId([8; 32]), ..firm(1) };
    assert!(matches!(model.machine.order(other, model.now), Err(NotTaken::OtherBox { .. })));
    for (wrong, expected) in [(false, NotTaken::NoOperator), (true, NotTaken::NoDoor)] {
        let mut told = assignment(1);
        if wrong {
            told.way = Way::Join { doors: Vec::new() };
        } else {
            told.operators.clear();
        }
        let order = Order { what: What::Firm(Box::new(told)), ..firm(1) };
        assert_eq!(model.machine.order(order, model.now), Err(expected));
    }
    assert_eq!(model.machine.next(), Step::Listen);
    model.deed(&Deed::Order(1));
    model.settle();
    assert!(matches!(model.machine.order(firm(2), model.now), Err(NotTaken::FirmAlready(..))));
    assert_eq!(model.machine.order(firm(1), model.now), Ok(()), "the same order again is one order");
    assert_eq!(model.machine.next(), Step::Listen);
}

type Change = fn(&mut Assignment);

#[test]
fn an_absurd_order_is_refused_before_it_is_kept() {
    let mut model = Model::new();
    let absurd: [(&str, Change); 6] = [
        ("operators", |it| it.operators = vec![OPERATOR; OPERATORS_MAX + 1]),
        ("labels", |it| it.labels = (0..=BOX_LABELS_MAX).map(|n| (format!("l{n}"), "x".to_owned())).collect()),
        ("a label", |it| it.labels = [("rack".to_owned(), "\u{1b}[2J".to_owned())].into()),
        ("a domain", |it| it.way = Way::Found { domain: "a\n.b".to_owned(), tenant: it.name.clone() }),
        ("doors", |it| {
            it.way = Way::Join { doors: vec![Door { id: ME, addresses: Vec::new() }; DOORS_MAX + 1] };
        }),
        ("addresses", |it| {
            let address: SocketAddr = "10.0.0.1:1".parse().expect("an address");
            it.way = Way::Join { doors: vec![Door { id: ME, addresses: vec![address; 10_000] }] };
        }),
    ];
    for (what, make) in absurd {
        let mut told = assignment(1);
        make(&mut told);
        let order = Order { what: What::Firm(Box::new(told)), ..firm(1) };
        assert!(model.machine.order(order, model.now).is_err(), "{what}");
    }
    assert_eq!(model.machine.next(), Step::Listen);
}

#[test]
fn a_full_disk_leaves_a_box_as_it_is() {
    let mut model = Model::new();
    model.deed(&Deed::Order(1));
    model.settle();
    model.deed(&Deed::Reset(10));
    assert!(matches!(model.machine.next(), Step::Write(_)));
    model.step(Outcome::Fails);
    assert_eq!(model.machine.next(), Step::Listen, "it runs on");
    assert_eq!(model.node, Some(OrderId("1".to_owned())));
    model.deed(&Deed::Reset(10));
    model.settle();
    assert_eq!(model.disk, Standing::Blank);
}

#[test]
fn a_box_that_finds_no_door_goes_back_to_blank_and_says_why() {
    let mut model = Model::new();
    model.deed(&Deed::Order(1));
    model.step(Outcome::Works);
    let began = model.now;
    let mut tries = 0;
    while model.disk != Standing::Blank {
        let entering = matches!(model.machine.next(), Step::Enter(_));
        tries += u32::from(entering);
        model.step(if entering { Outcome::Fails } else { Outcome::Works });
        assert!(tries < 1000, "it never gives up");
    }
    assert!(model.now.since(began) >= FIRMING_TIME_MAX);
    assert!(tries > 10);
    assert_eq!(model.machine.why(), Some("it didn't work"));
}

#[test]
fn the_standing_reads_back_as_it_was_written() {
    let mut model = Model::new();
    let mut seen = vec![model.disk.clone()];
    model.deed(&Deed::Order(1));
    for deed in [Deed::Reset(10), Deed::Evict] {
        for _ in 0..8 {
            model.step(Outcome::Works);
            seen.push(model.disk.clone());
        }
        model.deed(&deed);
    }
    for standing in seen {
        let text = serde_json::to_string(&standing).expect("it is JSON");
        assert_eq!(serde_json::from_str::<Standing>(&text).expect("it reads"), standing);
    }
}
