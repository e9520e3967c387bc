//! The boxes that the cloud is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::{BoxAdmit, BoxView, CloudView, NearbyView, RecordPart, VitalsView};
use base::limits::{BOX_DRAIN_TIME_MAX, BOX_SILENCE, VOTERS_TIME_MAX};
use base::{BoxId, Role};
use http::StatusCode;
use persist::record::Standing;
use state::{Admission, Boxes, CloudBox, Command};

use super::{Answer, Call, Refusal, detached, done, json};
use crate::tier::Heard;

/// How often it is looked whether a box that goes still counts.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) async fn box_list(call: Call) -> Answer {
    let boxes = held(&call)?;
    let vitals = call.cloud.vitals().await;
    let standing = call.cloud.store.record.standing();
    let views = boxes.boxes.values().map(|it| view(it, &boxes, &standing, &vitals)).collect();
    json(&CloudView {
        cloud: boxes.cloud,
        name: boxes.name.clone(),
        domain: boxes.domain.clone(),
        operators: boxes.operators.iter().copied().collect(),
        leader: standing.leader,
        boxes: views,
        nearby: nearby(&boxes, &vitals),
    })
}

pub(crate) async fn box_admit(call: Call) -> Answer {
    let BoxAdmit { id, roles, labels, order, warrant } = call.json()?;
    let view = detached(call, async move |call| {
        // A box that was wiped must not be taken for the voter that it was: it would deny what it promised.
        let is_joined = held(call)?.boxes.get(&id).is_some_and(|it| it.joined.is_some());
        if !is_joined {
            forgotten(call, id).await?;
        }
        call.propose(Command::BoxAdmit { admission: Admission { id, roles, labels, order, warrant } }).await?;
        let boxes = held(call)?;
        let it = boxes.boxes.get(&id).ok_or_else(|| Refusal::no_such("box", id.long_name().as_str()))?;
        Ok(view(it, &boxes, &call.cloud.store.record.standing(), &BTreeMap::new()))
    })
    .await?;
    json(&view)
}

pub(crate) async fn box_remove(call: Call) -> Answer {
    let is_asked = |name: &'static str| match call.asked(name) {
        None | Some("false") => Ok(false),
        Some("true" | "") => Ok(true),
        Some(_) => Err(Refusal::parameter(name, "it is true or false")),
    };
    let (evict, lose_data) = (is_asked("evict")?, is_asked("lose_data")?);
    let named: String = call.param("box")?;
    detached(call, async move |call| {
        let boxes = held(call)?;
        let id = named_box(&boxes, &named)?.id;
        if call.cloud.far.as_ref().is_some_and(|far| far.tier.me() == id) {
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                "ask_another",
                format!("this is {named} itself, and a box can't see the cloud do without it"),
            )
            .help("ask another box of the cloud"));
        }
        if evict {
            call.propose(Command::BoxEvict { id, lose_data }).await?;
            return Ok(());
        }
        if boxes.boxes.get(&id).is_some_and(|it| it.roles.has(Role::Persistence)) {
            successor_lives(call, &boxes, id).await?;
        }
        call.propose(Command::BoxDrain { id }).await?;
        no_member(call, id, lose_data).await?;
        if !lose_data && boxes.boxes.get(&id).is_some_and(|it| it.joined.is_some() && it.roles.has(Role::Persistence)) {
            drained(call, id).await?;
        }
        call.propose(Command::BoxLeave { id, lose_data }).await?;
        Ok(())
    })
    .await?;
    done()
}

/// Waits until nobody counts on the box that it was.
async fn forgotten(call: &Call, id: BoxId) -> Result<(), Refusal> {
    let gone = async {
        while is_member(call, id) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(VOTERS_TIME_MAX, gone).await.map_err(|_| {
        let said = format!("{} left a moment ago, and the others still count on it", id.name());
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_drained", said)
            .help("try again in a moment; if it stays so, see who is silent with `firm status`")
    })
}

/// Waits until the box says that others have all that it held.
async fn drained(call: &Call, id: BoxId) -> Result<(), Refusal> {
    let gone = async {
        while !call.cloud.vitals().await.get(&id).is_some_and(|heard| heard.vitals.drained) {
            tokio::time::sleep(LOOK * 4).await;
        }
    };
    tokio::time::timeout(BOX_DRAIN_TIME_MAX, gone).await.map_err(|_| {
        let said = format!("files and code that {} holds are still on their way to other boxes", id.name());
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_drained", said)
            .help("see who is silent with `firm status`, and try again: it goes on where it was")
    })
}

/// Somebody who lives keeps the record without this box: nothing is begun that only a dead one could end.
async fn successor_lives(call: &Call, boxes: &Boxes, id: BoxId) -> Result<(), Refusal> {
    let vitals = call.cloud.vitals().await;
    let lives = |it: &BoxId| vitals.get(it).is_some_and(|heard| heard.ago < BOX_SILENCE);
    let mut others = boxes.with(Role::Persistence).filter(|it| it.id != id && !it.leaving).map(|it| it.id).peekable();
    // Who is alone is refused by the record, in its own words.
    if others.peek().is_none() || others.any(|it| lives(&it)) {
        return Ok(());
    }
    let said = format!("no other box that could keep the record without {} answers", id.name());
    Err(Refusal::new(StatusCode::CONFLICT, "needed", said)
        .help("see who is silent with `firm status`, and start it first"))
}

/// Waits until the box neither votes on the record nor is told of it, and has sent away its data.
async fn no_member(call: &Call, id: BoxId, lose_data: bool) -> Result<(), Refusal> {
    let holds = || {
        let record = call.cloud.record();
        record.boxes().map_or(0, |boxes| boxes.homes.values().filter(|home| **home == id).count())
    };
    let gone = async {
        loop {
            let votes = || call.cloud.store.record.standing().voters.contains_key(&id);
            if if lose_data { !votes() } else { holds() == 0 && !is_member(call, id) } {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(BOX_DRAIN_TIME_MAX, gone).await.map_err(|_| {
        let said = match holds() {
            0 => format!("the other boxes don't keep the record without {} yet", id.name()),
            1 => format!("1 database of {} is still on its way to another box", id.name()),
            several => format!("{several} databases of {} are still on their way to other boxes", id.name()),
        };
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "not_drained", said)
            .help("see who is silent with `firm status`, and try again: it goes on where it was")
    })
}

fn is_member(call: &Call, id: BoxId) -> bool {
    let standing = call.cloud.store.record.standing();
    standing.voters.contains_key(&id) || standing.learners.contains(&id)
}

fn held(call: &Call) -> Result<Arc<Boxes>, Refusal> {
    call.cloud.record().boxes().cloned().ok_or_else(|| Refusal::from(state::Refusal::NotFounded))
}

/// By name, long name or id.
fn named_box<'a>(boxes: &'a Boxes, named: &str) -> Result<&'a Arc<CloudBox>, Refusal> {
    let is_it = |it: &&Arc<CloudBox>| {
        it.name.as_str() == named || it.id.long_name().as_str() == named || it.id.to_string() == named
    };
    boxes.boxes.values().find(is_it).ok_or_else(|| Refusal::no_such("box", named))
}

fn view(it: &CloudBox, boxes: &Boxes, standing: &Standing, vitals: &BTreeMap<BoxId, Heard>) -> BoxView {
    let voters: BTreeSet<&BoxId> = standing.voters.keys().collect();
    let record = if standing.leader == Some(it.id) {
        RecordPart::Leads
    } else if voters.contains(&it.id) {
        RecordPart::Votes
    } else if it.roles.has(Role::Persistence) {
        RecordPart::StandsBy
    } else {
        RecordPart::Follows
    };
    BoxView {
        id: it.id,
        name: it.name.clone(),
        roles: it.roles.clone(),
        labels: it.labels.clone(),
        addresses: it.addresses.clone(),
        joined: it.joined,
        leaving: it.leaving,
        databases: boxes.homes.values().filter(|home| **home == it.id).count() as u64,
        record,
        vitals: vitals.get(&it.id).map(|heard| VitalsView {
            heard_ms_ago: heard.millis_ago(),
            version: heard.vitals.version.clone(),
            since: heard.vitals.since,
            record_index: heard.vitals.record_index,
            draining: heard.vitals.draining,
            concerns: heard.vitals.concerns.clone(),
        }),
    }
}

/// What the boxes hear, each blank box once.
fn nearby(boxes: &Boxes, vitals: &BTreeMap<BoxId, Heard>) -> Vec<NearbyView> {
    let mut all: BTreeMap<BoxId, NearbyView> = BTreeMap::new();
    for (by, heard) in vitals {
        for (id, addresses) in &heard.vitals.nearby {
            if boxes.boxes.get(id).is_none_or(|it| it.joined.is_none()) {
                let view = || NearbyView { id: *id, addresses: addresses.clone(), heard_by: *by };
                all.entry(*id).or_insert_with(view);
            }
        }
    }
    all.into_values().collect()
}
