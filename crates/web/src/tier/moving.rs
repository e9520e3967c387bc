//! Databases, and then what apps are made of, go to other persistence boxes when theirs is about to go.
//!
//! Their box holds each of them, carries its file over, and has the record say where it lives from then on. Writes are
//! refused meanwhile, and reads too from the moment that somebody else may take the first write; whoever asks is told to try
//! again in a moment. Whatever breaks before the record has changed leaves the database where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use base::limits::{ARRIVALS_MAX, BEAT_EVERY, DATABASE_PIECE_BYTES, DATABASE_PIECE_TIME_MAX};
use base::{BoxId, DatabaseId, Digest, Role, TenantId};
use bytes::Bytes;
use persist::{Arriving, Database, Held, MoveError, ProposeError};
use serde::{Deserialize, Serialize};
use state::{Actor, Boxes, Command, Record};
use tokio::time::MissedTickBehavior;

use super::{CallError, Far, Method, Raw, hears};
use crate::cloud::Cloud;

/// Databases of this box that somebody else may have by now.
pub(crate) type Moving = Arc<ArcSwap<BTreeSet<DatabaseId>>>;

/// Databases that are on their way here.
#[derive(Default)]
pub(crate) struct Arrivals(Mutex<BTreeMap<DatabaseId, (BoxId, Arriving)>>);

/// A part of a database's file. With the last one comes the digest of all.
#[derive(Debug, Serialize, Deserialize)]
struct Piece {
    tenant: TenantId,
    database: DatabaseId,
    from: u64,
    bytes: Raw,
    whole: Option<Digest>,
}

/// Why a database stays where it is, for now.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("no other persistence box is there to take it")]
    Nobody,
    #[error("its file")]
    File(#[source] MoveError),
    #[error("the box that is to have it")]
    Call(#[source] CallError),
    #[error("the record doesn't say so")]
    Propose(#[source] ProposeError),
    #[error("a task ended without an answer")]
    Lost,
}

impl Cloud {
    /// Sends away what lives here, while this box is about to go, for as long as the node lives.
    pub(crate) async fn tend_data(self: Arc<Self>) {
        let Some(far) = self.far.clone() else { return std::future::pending().await };
        let mut every = tokio::time::interval(BEAT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let record = self.record();
            let Some(boxes) = record.boxes() else { continue };
            let me = far.tier.me();
            if !boxes.boxes.get(&me).is_some_and(|it| it.leaving) {
                self.drained.store(false, Ordering::Release);
                continue;
            }
            let here: Vec<DatabaseId> =
                boxes.homes.iter().filter(|(_, home)| **home == me).map(|(database, _)| *database).collect();
            if here.is_empty() && !self.drained.load(Ordering::Acquire) {
                match crate::sweep::lay_away(&self).await {
                    Ok(()) => self.drained.store(true, Ordering::Release),
                    Err(why) => tracing::warn!("what apps are made of can't go to other boxes yet: {why}"),
                }
            }
            for id in here {
                let Some(tenant) = tenant_of(&record, id) else { continue };
                match self.send_away(&far, Database { tenant, id }).await {
                    Ok(to) => tracing::info!(database = id.0, to = %to.name(), "a database has gone to another box"),
                    Err(error) => {
                        tracing::warn!(database = id.0, "a database can't go yet: {}", base::chain(&error));
                    }
                }
            }
        }
    }

    async fn send_away(&self, far: &Far, db: Database) -> Result<BoxId, SendError> {
        let held = self.store.databases.hold(db).await.map_err(SendError::File)?;
        let sent = self.send(far, db, held.map(Arc::new)).await;
        if sent.is_err() {
            // It stays, and takes writes again.
            if let Err(error) = self.store.databases.release(db).await {
                tracing::error!(database = db.id.0, "a database takes no writes: {error}");
            }
        }
        let to = sent?;
        if let Err(error) = self.store.databases.drop_database(db).await {
            tracing::warn!(database = db.id.0, "a database that has gone can't be deleted: {error}");
        }
        far.moving.rcu(|moving| without(moving, db.id));
        Ok(to)
    }

    async fn send(&self, far: &Far, db: Database, held: Option<Arc<Held>>) -> Result<BoxId, SendError> {
        let record = self.record();
        let boxes = record.boxes().ok_or(SendError::Nobody)?;
        let mut failed = SendError::Nobody;
        for to in takers(boxes) {
            let carried = match &held {
                Some(held) => self.carry(far, db, held, to).await,
                // Nothing was ever written to it.
                None => Ok(()),
            };
            match carried {
                Ok(()) => {
                    self.hand_over(far, db.id, to).await?;
                    return Ok(to);
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn carry(&self, far: &Far, db: Database, held: &Arc<Held>, to: BoxId) -> Result<(), SendError> {
        let mut from = 0;
        loop {
            let source = Arc::clone(held);
            let read = tokio::task::spawn_blocking(move || {
                let bytes = source.piece(from, DATABASE_PIECE_BYTES)?;
                let is_last = from + bytes.len() as u64 >= source.bytes;
                let whole = if is_last { Some(source.digest()?) } else { None };
                Ok::<_, MoveError>((bytes, whole))
            });
            let (bytes, whole) = read.await.map_err(|_| SendError::Lost)?.map_err(SendError::File)?;
            let (length, is_last) = (bytes.len() as u64, whole.is_some());
            let piece = Piece { tenant: db.tenant, database: db.id, from, bytes: Raw(bytes.into()), whole };
            let () = far.call(to, Method::Database, &piece, DATABASE_PIECE_TIME_MAX).await.map_err(SendError::Call)?;
            if is_last {
                return Ok(());
            }
            from += length;
        }
    }

    /// From here on nobody is answered here: another may be written to. While nobody knows whether the record has changed, it
    /// stays so.
    async fn hand_over(&self, far: &Far, database: DatabaseId, to: BoxId) -> Result<(), SendError> {
        far.moving.rcu(|moving| {
            let mut moving = BTreeSet::clone(moving);
            moving.insert(database);
            moving
        });
        let command = Command::DatabaseMove { database, from: far.tier.me(), to };
        loop {
            match self.propose(Actor::Box, command.clone()).await {
                Ok(_) => return Ok(()),
                Err(ProposeError::Unknown) => tokio::time::sleep(BEAT_EVERY).await,
                Err(error) => {
                    far.moving.rcu(|moving| without(moving, database));
                    return Err(SendError::Propose(error));
                }
            }
        }
    }

    /// Takes a part of a database that comes here. The words of a refusal are for the other box's log.
    pub(crate) async fn answer_database(&self, from: BoxId, body: &[u8]) -> Result<Bytes, String> {
        let far = self.far.as_ref().ok_or("this cloud isn't made of boxes")?;
        let piece: Piece = postcard::from_bytes(body).map_err(|error| format!("no part of a database: {error}"))?;
        let db = Database { tenant: piece.tenant, id: piece.database };
        let me = far.tier.me();
        let may_come = |record: &Record| {
            record.boxes().is_some_and(|boxes| {
                boxes.home(db.id) == Some(from)
                    && boxes.boxes.get(&me).is_some_and(|it| it.roles.has(Role::Persistence) && !it.leaving)
            }) && tenant_of(record, db.id) == Some(db.tenant)
        };
        if !hears(self, may_come).await {
            return Err(format!("database {} isn't {}'s to send here", db.id, from.long_name()));
        }
        let waiting = || self.arrivals.0.lock().unwrap_or_else(PoisonError::into_inner);
        let arriving = {
            let mut waiting = waiting();
            let begun = waiting.remove(&db.id).filter(|(whose, _)| *whose == from && piece.from > 0);
            if begun.is_none() && waiting.len() >= ARRIVALS_MAX {
                return Err("too many databases are on their way here".to_owned());
            }
            begun.map(|(_, arriving)| arriving)
        };
        let databases = self.store.databases.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let mut arriving = match arriving {
                Some(arriving) => arriving,
                None => databases.receive(db)?,
            };
            arriving.take(piece.from, &piece.bytes.0)?;
            match piece.whole {
                Some(digest) => arriving.finish(digest).map(|()| None),
                None => Ok(Some(arriving)),
            }
        });
        let left = taken.await.map_err(|_| "the node is going down".to_owned())?;
        if let Some(arriving) = left.map_err(|error: MoveError| base::chain(&error))? {
            waiting().insert(db.id, (from, arriving));
        }
        Ok(Bytes::new())
    }
}

fn without(moving: &BTreeSet<DatabaseId>, database: DatabaseId) -> BTreeSet<DatabaseId> {
    moving.iter().copied().filter(|id| *id != database).collect()
}

/// Those that may have it, the one with the fewest first.
fn takers(boxes: &Boxes) -> Vec<BoxId> {
    let held = |id: BoxId| boxes.homes.values().filter(|home| **home == id).count();
    let mut takers: Vec<BoxId> = boxes.with(Role::Persistence).filter(|it| !it.leaving).map(|it| it.id).collect();
    takers.sort_by_key(|id| (held(*id), *id));
    takers
}

fn tenant_of(record: &Record, database: DatabaseId) -> Option<TenantId> {
    let has = |tenant: &&Arc<state::Tenant>| {
        tenant.apps.values().flat_map(|app| app.stages.values()).any(|stage| stage.database == database)
    };
    record.tenants().find(has).map(|tenant| tenant.id)
}

#[cfg(test)]
mod tests;
