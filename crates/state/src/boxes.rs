//! The cloud's boxes in the record: which there are, what each is to be, and which are out for good.
//!
//! A box comes in in two steps: an operator *admits* a key, then the box that holds it *joins*. Nothing else brings a box
//! in, and a key that was evicted never comes back: its machine may, with a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use base::limits::{BOX_ADDRESSES_MAX, BOX_LABELS_MAX, BOXES_EVICTED_MAX, BOXES_MAX, OPERATORS_MAX};
use base::{BoxId, CloudId, DatabaseId, Name, Role, Roles, Timestamp};
use serde::{Deserialize, Serialize};

use crate::apply::{Outcome, Refusal, room, short};
use crate::command::{Applied, Entry, Event};
use crate::record::{Record, Signed};

/// What the cloud is, and all its boxes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boxes {
    pub cloud: CloudId,
    pub name: Name,
    /// Apps are found at `app.tenant.DOMAIN`.
    pub domain: String,
    /// Whose orders boxes take.
    pub operators: BTreeSet<BoxId>,
    pub boxes: BTreeMap<BoxId, Arc<CloudBox>>,
    /// Keys that never come back.
    pub evicted: BTreeMap<BoxId, Timestamp>,
    /// Which persistence box holds which database.
    pub homes: BTreeMap<DatabaseId, BoxId>,
}

/// A box of the cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudBox {
    pub id: BoxId,
    /// Its own name, or its long name where another box of the cloud has that already.
    pub name: Name,
    pub roles: Roles,
    /// Where it stands: failure domains are told by these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub admitted: Timestamp,
    /// The order that it was given: a box that brings another one is refused.
    pub order: String,
    /// None until it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joined: Option<Timestamp>,
    /// An operator's word for its key and roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warrant: Option<Signed>,
    /// Where its links are listened for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<SocketAddr>,
    /// It is about to go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// A box as it is admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    pub id: BoxId,
    pub roles: Roles,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub order: String,
    /// An operator's word for its key and roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warrant: Option<Signed>,
}

impl Boxes {
    /// Those that have come and hold this role.
    pub fn with(&self, role: Role) -> impl Iterator<Item = &Arc<CloudBox>> {
        self.boxes.values().filter(move |it| it.joined.is_some() && it.roles.has(role))
    }

    /// May links be had with this box? It was admitted, and isn't out.
    pub fn is_member(&self, id: BoxId) -> bool {
        self.boxes.contains_key(&id)
    }

    /// The box that holds a database. None of a database that there isn't.
    pub fn home(&self, database: DatabaseId) -> Option<BoxId> {
        self.homes.get(&database).copied()
    }

    /// Gives a new database to the persistence box that holds fewest. There is always one: the last one stays.
    pub(crate) fn settle(&mut self, database: DatabaseId) {
        let held = |id: BoxId| self.homes.values().filter(|home| **home == id).count();
        let stays = self.with(Role::Persistence).filter(|it| !it.leaving);
        let least = stays.map(|it| it.id).min_by_key(|id| (held(*id), *id));
        if let Some(home) = least {
            self.homes.insert(database, home);
        }
    }

    fn name_for(&self, id: BoxId) -> Name {
        let short = id.name();
        let taken = self.boxes.values().any(|held| held.id != id && held.name == short);
        if taken { id.long_name() } else { short }
    }
}

fn changed() -> Applied {
    Applied { events: vec![Event::BoxesChanged], ..Applied::default() }
}

fn bounded(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    addresses.iter().copied().take(BOX_ADDRESSES_MAX).collect()
}

impl Record {
    pub(crate) fn cloud_found(
        &mut self,
        entry: &Entry,
        (cloud, name, domain): (CloudId, &Name, &str),
        operators: &BTreeSet<BoxId>,
        first: &Admission,
        addresses: &[SocketAddr],
    ) -> Outcome {
        if self.boxes.is_some() {
            return Err(Refusal::FoundedAlready);
        }
        if operators.is_empty() {
            return Err(Refusal::NoOperators);
        }
        room("operators", operators.len() - 1, OPERATORS_MAX)?;
        if !first.roles.has(Role::Persistence) {
            return Err(Refusal::LastPersistence(first.id.name()));
        }
        let mut boxes = Boxes {
            cloud,
            name: name.clone(),
            domain: domain.to_owned(),
            operators: operators.clone(),
            boxes: BTreeMap::new(),
            evicted: BTreeMap::new(),
            homes: BTreeMap::new(),
        };
        let mut one = admitted(&boxes, entry, first)?;
        one.joined = Some(entry.at);
        one.addresses = bounded(addresses);
        boxes.boxes.insert(first.id, Arc::new(one));
        // What a lone box had is the cloud's, and lies where it lay.
        for database in self.databases() {
            boxes.homes.insert(database, first.id);
        }
        self.boxes = Some(Arc::new(boxes));
        Ok(changed())
    }

    /// The same admission again changes nothing; another one of a box that hasn't come yet replaces the first.
    pub(crate) fn box_admit(&mut self, entry: &Entry, admission: &Admission) -> Outcome {
        let boxes = self.boxes_mut()?;
        if boxes.evicted.contains_key(&admission.id) {
            return Err(Refusal::Evicted(admission.id.long_name()));
        }
        match boxes.boxes.get(&admission.id) {
            Some(held) if held.order == admission.order => return Ok(Applied::default()),
            Some(held) if held.joined.is_some() => {
                return Err(Refusal::BoxThere { name: held.name.clone(), roles: held.roles.clone() });
            }
            Some(_) => {}
            None => room("boxes", boxes.boxes.len(), BOXES_MAX)?,
        }
        let it = admitted(boxes, entry, admission)?;
        boxes.boxes.insert(admission.id, Arc::new(it));
        Ok(changed())
    }

    /// A box that was told to join has come. Coming twice is coming once: it may have been cut off before it heard.
    pub(crate) fn box_join(&mut self, entry: &Entry, id: BoxId, order: &str, addresses: &[SocketAddr]) -> Outcome {
        let boxes = self.boxes_mut()?;
        if boxes.evicted.contains_key(&id) {
            return Err(Refusal::Evicted(id.long_name()));
        }
        let it = boxes.boxes.get_mut(&id).ok_or_else(|| Refusal::NotAdmitted(id.long_name()))?;
        if it.order != order {
            return Err(Refusal::NotAdmitted(id.long_name()));
        }
        let addresses = bounded(addresses);
        if it.joined.is_some() && it.addresses == addresses {
            return Ok(Applied::default());
        }
        let it = Arc::make_mut(it);
        it.joined = it.joined.or(Some(entry.at));
        it.addresses = addresses;
        Ok(changed())
    }

    /// The box is elsewhere by now.
    pub(crate) fn box_moved(&mut self, id: BoxId, addresses: &[SocketAddr]) -> Outcome {
        let boxes = self.boxes_mut()?;
        let it = boxes.boxes.get_mut(&id).ok_or_else(|| Refusal::NoBox(id.long_name()))?;
        let addresses = bounded(addresses);
        if it.addresses == addresses {
            return Ok(Applied::default());
        }
        Arc::make_mut(it).addresses = addresses;
        Ok(changed())
    }

    /// Out, and its key for good. What databases it holds is lost only where that was said; apps find empty ones then.
    pub(crate) fn box_evict(&mut self, entry: &Entry, id: BoxId, lose_data: bool) -> Outcome {
        let boxes = self.boxes_mut()?;
        if boxes.evicted.contains_key(&id) {
            return Ok(Applied::default());
        }
        boxes.may_go(id, lose_data)?;
        room("evicted boxes", boxes.evicted.len(), BOXES_EVICTED_MAX)?;
        boxes.evicted.insert(id, entry.at);
        boxes.remove(id);
        Ok(changed())
    }

    /// It takes nothing new from here on, and goes when others keep the record without it.
    pub(crate) fn box_drain(&mut self, id: BoxId) -> Outcome {
        let boxes = self.boxes_mut()?;
        boxes.may_go(id, true)?;
        let it = boxes.boxes.get_mut(&id).ok_or_else(|| Refusal::NoBox(id.long_name()))?;
        if it.leaving {
            return Ok(Applied::default());
        }
        Arc::make_mut(it).leaving = true;
        Ok(changed())
    }

    /// Said again it changes nothing: the box that gives it may not have heard that it is done.
    pub(crate) fn database_move(&mut self, database: DatabaseId, from: BoxId, to: BoxId) -> Outcome {
        let boxes = self.boxes_mut()?;
        let takes = |it: &Arc<CloudBox>| it.joined.is_some() && it.roles.has(Role::Persistence) && !it.leaving;
        match boxes.homes.get(&database) {
            Some(home) if *home == to => Ok(Applied::default()),
            Some(home) if *home == from && boxes.boxes.get(&to).is_some_and(takes) => {
                boxes.homes.insert(database, to);
                Ok(changed())
            }
            _ => Err(Refusal::NoMove),
        }
    }

    /// Gone in order: it may come again with the key that it has.
    pub(crate) fn box_leave(&mut self, id: BoxId, lose_data: bool) -> Outcome {
        let boxes = self.boxes_mut()?;
        boxes.may_go(id, lose_data)?;
        boxes.remove(id);
        Ok(changed())
    }

    /// A new database needs a home where the cloud is made of boxes.
    pub(crate) fn settle(&mut self, database: DatabaseId) {
        if let Some(boxes) = &mut self.boxes {
            Arc::make_mut(boxes).settle(database);
        }
    }

    /// Databases that are gone have none.
    pub(crate) fn unsettle(&mut self, events: &[Event]) {
        let Some(boxes) = &mut self.boxes else { return };
        let gone = |event: &Event| match event {
            Event::DatabaseDropped { database, .. } => Some(*database),
            _ => None,
        };
        for database in events.iter().filter_map(gone) {
            Arc::make_mut(boxes).homes.remove(&database);
        }
    }

    fn boxes_mut(&mut self) -> Result<&mut Boxes, Refusal> {
        self.boxes.as_mut().map(Arc::make_mut).ok_or(Refusal::NotFounded)
    }
}

impl Boxes {
    /// Is the record still kept by somebody without this box, and all data held?
    fn may_go(&self, id: BoxId, lose_data: bool) -> Result<(), Refusal> {
        let held = self.boxes.get(&id).ok_or_else(|| Refusal::NoBox(id.long_name()))?;
        let stays = self.with(Role::Persistence).any(|it| it.id != id && !it.leaving);
        if held.joined.is_some() && held.roles.has(Role::Persistence) && !stays {
            return Err(Refusal::LastPersistence(held.name.clone()));
        }
        let signs = |role: Role| self.with(role).any(|it| it.id != id && !it.leaving);
        if held.joined.is_some() && held.roles.has(Role::Auth) && !signs(Role::Auth) {
            return Err(Refusal::LastAuth(held.name.clone()));
        }
        let databases = self.homes.values().filter(|home| **home == id).count();
        if databases > 0 && !lose_data {
            return Err(Refusal::HoldsData { name: held.name.clone(), databases });
        }
        Ok(())
    }

    /// What it held is looked for elsewhere from now on, and found empty.
    fn remove(&mut self, id: BoxId) {
        self.boxes.remove(&id);
        let lost: Vec<_> = self.homes.iter().filter(|(_, home)| **home == id).map(|(database, _)| *database).collect();
        for database in lost {
            self.settle(database);
        }
    }
}

fn admitted(boxes: &Boxes, entry: &Entry, admission: &Admission) -> Result<CloudBox, Refusal> {
    room("labels of a box", admission.labels.len().saturating_sub(1), BOX_LABELS_MAX)?;
    for text in admission.labels.iter().flat_map(|(key, value)| [key, value]) {
        if text.parse::<Name>().is_err() {
            return Err(Refusal::Label(text.chars().take(40).collect()));
        }
    }
    Ok(CloudBox {
        id: admission.id,
        name: boxes.name_for(admission.id),
        roles: admission.roles.clone(),
        labels: admission.labels.clone(),
        admitted: entry.at,
        order: admission.order.chars().take(ORDER_CHARS_MAX).collect(),
        joined: None,
        warrant: admission.warrant.as_ref().map(short).transpose()?,
        addresses: Vec::new(),
        leaving: false,
    })
}

/// Characters of an order's id: 16 bytes in hexadecimal, and some to spare.
const ORDER_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use base::TokenId;

    use super::*;
    use crate::{Actor, Command};

    const FIRST: BoxId = BoxId([1; 32]);
    const OTHER: BoxId = BoxId([2; 32]);
    const OPERATOR: BoxId = BoxId([9; 32]);

    fn admission(id: BoxId, roles: &str, order: &str) -> Admission {
        Admission {
            id,
            roles: roles.parse().expect("roles"),
            labels: BTreeMap::from([("rack".to_owned(), "7".to_owned())]),
            order: order.to_owned(),
            warrant: None,
        }
    }

    fn apply(record: &mut Record, command: Command) -> Outcome {
        let by = Actor::Token { id: TokenId(1), label: "ada".to_owned() };
        record.apply(&Entry { at: Timestamp(record.index() + 1), by, command })
    }

    fn founded() -> Record {
        let mut record = Record::default();
        let command = Command::CloudFound {
            cloud: CloudId([5; 16]),
            name: "hut".parse().expect("a name"),
            domain: "localhost".to_owned(),
            operators: BTreeSet::from([OPERATOR]),
            first: admission(FIRST, "persistence", "a"),
            addresses: vec!["10.0.0.1:7742".parse().expect("an address")],
        };
        apply(&mut record, command.clone()).expect("founded");
        assert_eq!(apply(&mut record, command), Err(Refusal::FoundedAlready));
        record
    }

    fn admit(record: &mut Record, id: BoxId, roles: &str, order: &str) -> Outcome {
        apply(record, Command::BoxAdmit { admission: admission(id, roles, order) })
    }

    fn join(record: &mut Record, id: BoxId, order: &str) -> Outcome {
        let addresses = vec!["10.0.0.2:7742".parse().expect("an address")];
        apply(record, Command::BoxJoin { id, order: order.to_owned(), addresses })
    }

    #[test]
    fn a_box_comes_in_by_admission_and_its_order_alone() {
        let mut record = founded();
        assert_eq!(join(&mut record, OTHER, "b"), Err(Refusal::NotAdmitted(OTHER.long_name())));
        admit(&mut record, OTHER, "web", "b").expect("admitted");
        assert_eq!(join(&mut record, OTHER, "c"), Err(Refusal::NotAdmitted(OTHER.long_name())));
        let boxes = |record: &Record| record.boxes().cloned().expect("founded");
        assert_eq!(boxes(&record).with(Role::Web).count(), 0);
        join(&mut record, OTHER, "b").expect("joined");
        assert_eq!(join(&mut record, OTHER, "b"), Ok(Applied::default()), "coming twice is coming once");
        assert_eq!(boxes(&record).with(Role::Web).count(), 1);
        assert_eq!(admit(&mut record, OTHER, "web", "b"), Ok(Applied::default()));
        assert!(matches!(admit(&mut record, OTHER, "auth", "d"), Err(Refusal::BoxThere { .. })));
        let named = boxes(&record).boxes[&OTHER].name.clone();
        assert_eq!(named, OTHER.name());
    }

    #[test]
    fn an_evicted_key_never_comes_back_and_one_that_left_may() {
        let mut record = founded();
        for (order, command) in [
            ("b", Command::BoxLeave { id: OTHER, lose_data: false }),
            ("c", Command::BoxEvict { id: OTHER, lose_data: false }),
        ] {
            admit(&mut record, OTHER, "web", order).expect("admitted");
            join(&mut record, OTHER, order).expect("joined");
            apply(&mut record, command).expect("gone");
            assert!(!record.boxes().expect("founded").is_member(OTHER));
        }
        assert_eq!(admit(&mut record, OTHER, "web", "d"), Err(Refusal::Evicted(OTHER.long_name())));
        assert_eq!(join(&mut record, OTHER, "c"), Err(Refusal::Evicted(OTHER.long_name())));
        assert_eq!(apply(&mut record, Command::BoxEvict { id: OTHER, lose_data: false }), Ok(Applied::default()));
    }

    #[test]
    fn the_last_box_that_keeps_the_record_stays() {
        let mut record = founded();
        admit(&mut record, OTHER, "persistence,web", "b").expect("admitted");
        for command in
            [Command::BoxEvict { id: FIRST, lose_data: false }, Command::BoxLeave { id: FIRST, lose_data: false }]
        {
            assert_eq!(apply(&mut record, command), Err(Refusal::LastPersistence(FIRST.name())), "nobody else came");
        }
        join(&mut record, OTHER, "b").expect("joined");
        apply(&mut record, Command::BoxEvict { id: FIRST, lose_data: false }).expect("another keeps it");
    }

    #[test]
    fn databases_live_where_there_are_fewest_and_hold_their_box() {
        let mut record = founded();
        admit(&mut record, OTHER, "persistence", "b").expect("admitted");
        join(&mut record, OTHER, "b").expect("joined");
        apply(
            &mut record,
            Command::TenantCreate { name: "acme".parse().expect("a name"), key: crate::Sealed(String::new()) },
        )
        .expect("made");
        let tenant = record.tenants().next().expect("made").id;
        let manifest = crate::manifest::parse("", "firm.toml").expect("an empty manifest");
        let push = |stage: &str| Command::ReleaseCreate {
            tenant,
            app: "shop".parse().expect("a name"),
            stage: stage.parse().expect("a name"),
            content: base::Digest::of(stage.as_bytes()),
            manifest: Box::new(manifest.clone()),
            source: None,
        };
        for stage in ["live", "beta", "gamma", "delta"] {
            apply(&mut record, push(stage)).expect("pushed");
        }
        let homes = |record: &Record| {
            let boxes = record.boxes().expect("founded");
            [FIRST, OTHER].map(|id| boxes.homes.values().filter(|home| **home == id).count())
        };
        assert_eq!(homes(&record), [2, 2]);
        let held = Refusal::HoldsData { name: OTHER.name(), databases: 2 };
        for command in
            [Command::BoxLeave { id: OTHER, lose_data: false }, Command::BoxEvict { id: OTHER, lose_data: false }]
        {
            assert_eq!(apply(&mut record, command), Err(held.clone()));
        }
        // They may go to a box that stays, from the one that has them.
        let first = *record.boxes().expect("founded").homes.iter().find(|(_, home)| **home == OTHER).expect("two").0;
        let go = |from, to| Command::DatabaseMove { database: first, from, to };
        for (from, to) in [(FIRST, BoxId([4; 32])), (FIRST, FIRST), (OTHER, BoxId([4; 32]))] {
            assert_eq!(apply(&mut record, go(from, to)), Err(Refusal::NoMove), "{from:?} {to:?}");
        }
        apply(&mut record, go(OTHER, FIRST)).expect("it is that box's");
        assert_eq!(apply(&mut record, go(OTHER, FIRST)), Ok(Applied::default()), "said twice is said once");
        assert_eq!(homes(&record), [3, 1]);
        apply(&mut record, go(FIRST, OTHER)).expect("and back");
        let delete = |stage: &str| Command::StageDelete {
            tenant,
            app: "shop".parse().expect("a name"),
            stage: stage.parse().expect("a name"),
        };
        apply(&mut record, delete("beta")).expect("deleted");
        assert_eq!(homes(&record).iter().sum::<usize>(), 3, "a database that is gone has a home");
        apply(&mut record, Command::BoxEvict { id: OTHER, lose_data: true }).expect("said so");
        assert_eq!(homes(&record), [3, 0]);
    }

    #[test]
    fn a_box_that_is_about_to_go_takes_nothing_new_and_does_not_count() {
        let mut record = founded();
        admit(&mut record, OTHER, "persistence", "b").expect("admitted");
        join(&mut record, OTHER, "b").expect("joined");
        let drain = |id| Command::BoxDrain { id };
        apply(&mut record, drain(FIRST)).expect("another keeps the record");
        assert_eq!(apply(&mut record, drain(FIRST)), Ok(Applied::default()), "said twice is said once");
        assert_eq!(apply(&mut record, drain(OTHER)), Err(Refusal::LastPersistence(OTHER.name())));
        let mut boxes = record.boxes().expect("founded").as_ref().clone();
        for number in 0..4 {
            boxes.settle(DatabaseId(number));
        }
        assert!(boxes.homes.values().all(|home| *home == OTHER));
        apply(&mut record, Command::BoxLeave { id: FIRST, lose_data: false }).expect("it holds nothing");
        // It left in order, so its key may come again.
        admit(&mut record, FIRST, "web", "c").expect("admitted");
    }

    #[test]
    fn the_last_box_that_makes_tokens_stays() {
        let mut record = founded();
        let third = BoxId([3; 32]);
        for (id, order) in [(OTHER, "b"), (third, "c")] {
            admit(&mut record, id, "auth", order).expect("admitted");
            if id == OTHER {
                join(&mut record, id, order).expect("joined");
            }
        }
        let gone = |id| {
            [
                Command::BoxDrain { id },
                Command::BoxLeave { id, lose_data: true },
                Command::BoxEvict { id, lose_data: true },
            ]
        };
        for command in gone(OTHER) {
            assert_eq!(apply(&mut record, command), Err(Refusal::LastAuth(OTHER.name())), "another hasn't come yet");
        }
        join(&mut record, third, "c").expect("joined");
        apply(&mut record, Command::BoxEvict { id: OTHER, lose_data: false }).expect("another makes them");
    }

    #[test]
    fn what_a_lone_box_had_stays_where_it_is() {
        let mut record = Record::default();
        let name = |text: &str| text.parse().expect("a name");
        let key = crate::Sealed(String::new());
        apply(&mut record, Command::TenantCreate { name: name("acme"), key }).expect("made");
        let push = Command::ReleaseCreate {
            tenant: record.tenants().next().expect("made").id,
            app: "shop".parse().expect("a name"),
            stage: "live".parse().expect("a name"),
            content: base::Digest::of(b"content"),
            manifest: Box::new(crate::manifest::parse("", "firm.toml").expect("an empty manifest")),
            source: None,
        };
        apply(&mut record, push).expect("pushed");
        let found = Command::CloudFound {
            cloud: CloudId([5; 16]),
            name: name("hut"),
            domain: "localhost".to_owned(),
            operators: BTreeSet::from([OPERATOR]),
            first: admission(FIRST, "solo", "a"),
            addresses: Vec::new(),
        };
        apply(&mut record, found).expect("founded");
        assert_eq!(record.boxes().expect("founded").homes.values().copied().collect::<Vec<_>>(), [FIRST]);
    }

    #[test]
    fn what_a_box_brings_is_bounded() {
        let mut record = founded();
        let mut many = admission(OTHER, "web", "b");
        many.labels = (0..=BOX_LABELS_MAX).map(|number| (format!("l{number}"), "x".to_owned())).collect();
        assert!(matches!(apply(&mut record, Command::BoxAdmit { admission: many }), Err(Refusal::Full { .. })));
        let mut odd = admission(OTHER, "web", "b");
        odd.labels = BTreeMap::from([("rack".to_owned(), "\u{1b}[2J".to_owned())]);
        assert!(matches!(apply(&mut record, Command::BoxAdmit { admission: odd }), Err(Refusal::Label(_))));
        admit(&mut record, OTHER, "web", "b").expect("admitted");
        let addresses = vec!["10.0.0.2:7742".parse().expect("an address"); 100];
        apply(&mut record, Command::BoxJoin { id: OTHER, order: "b".to_owned(), addresses }).expect("joined");
        let held = record.boxes().expect("founded").boxes[&OTHER].addresses.len();
        assert_eq!(held, BOX_ADDRESSES_MAX);
    }

    #[test]
    fn a_record_without_boxes_reads_as_it_always_did() {
        let text = serde_json::to_string(&Record::default()).expect("JSON");
        assert!(!text.contains("boxes"), "{text}");
        let record = founded();
        let text = serde_json::to_string(&record).expect("JSON");
        assert_eq!(serde_json::from_str::<Record>(&text).expect("it reads"), record);
    }
}
