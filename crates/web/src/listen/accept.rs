//! Who is let in: a place on the core for each connection, and so many connections for each client address.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base::limits::{ACCEPTS_PER_TURN_MAX, REFUSALS_TOLD_EVERY};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_rustls::TlsAcceptor;

use super::clients::Clients;
use super::connection::serve_connection;
use super::pulse::Pulses;
use super::wire::Wire;
use crate::front::Core;
use crate::turns::{Whose, others_first};

/// What stands behind one listening socket of a core.
pub(super) struct Door {
    pub core: Rc<Core>,
    pub tls: Option<TlsAcceptor>,
    /// The core's places, shared by its doors.
    pub room: Arc<Semaphore>,
    pub clients: Arc<Clients>,
    pub pulses: Rc<Pulses>,
}

impl Door {
    /// A place on the core. Where there is none, those leave who have been idle for longest.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(place) = Arc::clone(&self.room).try_acquire_owned() {
            return Some(place);
        }
        let left = self.pulses.make_room();
        tracing::debug!("all places of a core are taken: {left} idle connections are cut");
        // None is idle, perhaps: the kernel's backlog holds what comes, and refuses beyond it.
        Arc::clone(&self.room).acquire_owned().await.ok()
    }
}

/// Lets in whom there is a place for.
pub(super) async fn accept(listener: StdListener, door: Door) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("a listener can't be used: {error}"),
    };
    let refused = Refused::default();
    for number in 1_usize.. {
        if number.is_multiple_of(ACCEPTS_PER_TURN_MAX) {
            others_first().await;
            // Each lot is a new piece of work.
            door.core.turns.work_for(Whose::Newcomers).await;
        }
        // No place, no accept.
        let Some(place) = door.place().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => enter(&door, stream, address, place, &refused),
            // Out of descriptors, most likely: others must close before the next can be had.
            Err(error) => {
                tracing::warn!("a connection can't be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn enter(door: &Door, stream: TcpStream, address: SocketAddr, place: OwnedSemaphorePermit, refused: &Refused) {
    let Some(counted) = door.clients.enter(address.ip()) else {
        door.core.observer.refused();
        return refused.count(address);
    };
    let (core, tls, pulse) = (Rc::clone(&door.core), door.tls.clone(), door.pulses.add());
    let turns = Rc::clone(&door.core.turns);
    tokio::task::spawn_local(turns.in_turn(async move {
        let open = core.observer.connected();
        // A connection that comes while the node drains is answered, but not waited for.
        let under_way = (!core.cloud.is_draining()).then(|| core.cloud.count());
        serve_connection(Rc::clone(&core), Wire::new(stream, &pulse), address, tls, pulse).await;
        drop((open, under_way, counted, place));
    }));
}

/// Clients that hold as many connections as they may, and came again: told of now and then, not each time.
#[derive(Default)]
struct Refused {
    count: Cell<u64>,
    told: Cell<Option<Instant>>,
}

impl Refused {
    fn count(&self, address: SocketAddr) {
        self.count.set(self.count.get() + 1);
        if self.told.get().is_none_or(|told| told.elapsed() >= REFUSALS_TOLD_EVERY) {
            let count = self.count.take();
            self.told.set(Some(Instant::now()));
            tracing::warn!(
                "{count} connections refused: their clients hold as many as --connections-per-client allows; the last was {}",
                address.ip()
            );
        }
    }
}

/// Looks at the core's connections once a second.
pub(super) async fn look_after(pulses: Rc<Pulses>) {
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    // After a standstill nobody is later than the clock says.
    every_second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every_second.tick().await;
        let cut = pulses.tick();
        if !cut.is_empty() {
            tracing::debug!("connections were cut: {cut:?}");
        }
    }
}
