//! How the boxes of a cloud are: each tells whoever leads the record once a second, and whoever wants to know asks there.
//!
//! So a box sends one small call a second however many there are, and who is dead is known to the one who chooses voters.
//! Where nobody leads, each tells all persistence boxes it knows: the next leader has heard of everybody when it begins.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::limits::{
    BEAT_EVERY, BEAT_TIME_MAX, CONCERN_CHARS_MAX, CONCERNS_TOLD_MAX, NEARBY_ADDRESSES_MAX, NEARBY_TOLD_MAX,
};
use base::{BoxId, Role, Timestamp};
use bytes::Bytes;
use persist::record::Part;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use super::Method;
use crate::cloud::Cloud;

/// What a box says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vitals {
    pub(crate) version: String,
    /// When its node started.
    pub(crate) since: Timestamp,
    /// Commands that its record holds.
    pub(crate) record_index: u64,
    pub(crate) draining: bool,
    /// It is about to go, and others have all that it held.
    pub(crate) drained: bool,
    pub(crate) concerns: Vec<String>,
    /// Blank boxes that it hears, and where they say to be.
    pub(crate) nearby: Vec<(BoxId, Vec<SocketAddr>)>,
}

/// What was heard, and how long ago.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) vitals: Vitals,
    pub(crate) ago: Duration,
}

impl Heard {
    pub(crate) fn millis_ago(&self) -> u64 {
        u64::try_from(self.ago.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What the others said last. Of boxes of the cloud alone, so there are no more than those.
#[derive(Default)]
pub(crate) struct Beats(Mutex<BTreeMap<BoxId, (Vitals, Instant)>>);

impl Beats {
    fn heard(&self, from: BoxId, vitals: Vitals) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(from, (vitals, Instant::now()));
    }

    pub(crate) fn all(&self) -> BTreeMap<BoxId, Heard> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = |(id, (vitals, at)): (&BoxId, &(Vitals, Instant))| {
            (*id, Heard { vitals: vitals.clone(), ago: at.elapsed() })
        };
        heard.iter().map(one).collect()
    }

    pub(crate) fn ago(&self, id: BoxId) -> Option<Duration> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).map(|(_, at)| at.elapsed())
    }

    /// Those that are of the cloud no more.
    fn retain(&self, is_there: impl Fn(BoxId) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| is_there(*id));
    }
}

impl Cloud {
    fn own_vitals(&self) -> Vitals {
        let mut nearby = self.far.as_ref().map(|far| far.tier.nearby()).unwrap_or_default();
        nearby.truncate(NEARBY_TOLD_MAX);
        for (_, addresses) in &mut nearby {
            addresses.truncate(NEARBY_ADDRESSES_MAX);
        }
        let concerns = self.concerns().into_iter().take(CONCERNS_TOLD_MAX);
        Vitals {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since: self.since,
            record_index: self.record().index(),
            draining: self.is_draining(),
            drained: self.drained.load(Ordering::Acquire),
            concerns: concerns.map(|concern| concern.chars().take(CONCERN_CHARS_MAX).collect()).collect(),
            nearby,
        }
    }

    /// Tells whoever should know that this box lives, for as long as it does.
    pub(crate) async fn beat(self: Arc<Self>) {
        let Some(far) = self.far.clone() else { return std::future::pending().await };
        let mut every = tokio::time::interval(BEAT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let me = far.tier.me();
            let vitals = self.own_vitals();
            let body: Bytes = match postcard::to_allocvec(&vitals) {
                Ok(body) => body.into(),
                Err(error) => {
                    tracing::error!("a box's vitals can't be written: {error}");
                    continue;
                }
            };
            self.beats.heard(me, vitals);
            let Some(boxes) = far.known.load_full() else { continue };
            self.beats.retain(|id| boxes.boxes.contains_key(&id));
            let to: Vec<BoxId> = match self.store.record.standing().leader {
                Some(leader) => vec![leader],
                None => boxes.with(Role::Persistence).map(|it| it.id).collect(),
            };
            let told = to.into_iter().filter(|to| *to != me).map(|to| {
                let told = far.tier.ask(to, Method::Beat, body.clone(), BEAT_TIME_MAX);
                async move {
                    if let Err(error) = told.await {
                        tracing::debug!(to = %to.name(), "a beat wasn't heard: {error}");
                    }
                }
            });
            futures_util::future::join_all(told).await;
        }
    }

    /// How the boxes are, as whoever leads has heard; as this box has, where nobody leads or it can't be asked.
    pub(crate) async fn vitals(&self) -> BTreeMap<BoxId, Heard> {
        let Some(far) = &self.far else { return BTreeMap::new() };
        let leader = self.store.record.standing().leader.filter(|leader| *leader != far.tier.me());
        let asked = match leader {
            Some(leader) => far.tier.ask(leader, Method::Vitals, Bytes::new(), BEAT_TIME_MAX).await.ok(),
            None => None,
        };
        let told = asked.and_then(|told| postcard::from_bytes::<Vec<(BoxId, u64, Vitals)>>(&told).ok());
        let mut all = match told {
            Some(told) => told
                .into_iter()
                .map(|(id, ago, vitals)| (id, Heard { vitals, ago: Duration::from_millis(ago) }))
                .collect(),
            None => self.beats.all(),
        };
        all.insert(far.tier.me(), Heard { vitals: self.own_vitals(), ago: Duration::ZERO });
        all
    }

    /// Answers what is asked about how boxes are. None where something else is asked.
    pub(crate) fn answer_beat(&self, from: BoxId, method: Method, body: &[u8]) -> Option<Result<Bytes, String>> {
        let far = self.far.as_ref()?;
        let is_member = || far.known.load().as_ref().is_some_and(|boxes| boxes.is_member(from));
        match method {
            Method::Beat if is_member() => Some(match postcard::from_bytes::<Vitals>(body) {
                Ok(vitals) => {
                    self.beats.heard(from, vitals);
                    Ok(Bytes::new())
                }
                Err(error) => Err(format!("no vitals: {error}")),
            }),
            Method::Vitals if is_member() => {
                let all: Vec<_> =
                    self.beats.all().into_iter().map(|(id, heard)| (id, heard.millis_ago(), heard.vitals)).collect();
                Some(postcard::to_allocvec(&all).map(Bytes::from).map_err(|error| error.to_string()))
            }
            Method::Beat | Method::Vitals => Some(Err(format!("{} is no box of this cloud", from.long_name()))),
            _ => None,
        }
    }

    /// Does this box lead the record?
    pub(crate) fn leads(&self) -> bool {
        self.store.record.standing().part == Part::Leader
    }
}
