//! Knocking at the cloud's doors: to be let in, to be given new papers, to say goodbye.

use std::net::SocketAddr;
use std::time::Duration;

use base::limits::SIGHTING_ADDRESSES_MAX;
use base::{BoxId, Timestamp};
use firming::{Door, Happened, OrderId, Task, Way};
use segment::authority::SystemClock;
use segment::knock::{RefusedCode, VisitError};
use segment::{Clock as _, Identity, Visit};
use state::CloudBox;
use tokio::time::timeout;

use super::disk::{Disk, Setup};
use super::node::Ports;
use super::papers::{Papers, Welcome};

/// What came of asking to be let in.
pub(super) enum Asked {
    Welcome(Box<Welcome>),
    /// For good.
    Evicted,
    /// Asking again changes nothing.
    Refused(String),
    /// This time.
    Failed(String),
}

/// The doors of those that keep the record, by where their links are.
pub(super) fn doors_of(boxes: &[CloudBox]) -> Vec<Door> {
    boxes.iter().map(|it| Door::beside(it.id, &it.addresses)).collect()
}

/// Asks at each door, at each of its addresses, until one lets this box in.
pub(super) async fn ask_in(identity: &Identity, doors: &[Door], order: &OrderId, ports: Ports) -> Asked {
    let mut why = "there is no door to knock at".to_owned();
    for (door, address) in places(doors, identity.id()) {
        let asked = async {
            let mut visit = Visit::knock(address, identity, Some(door), |_| None).await?;
            visit.join(order.clone(), ports.dialled()).await
        };
        match asked.await {
            Ok(given) => match Welcome::read(given) {
                Ok(welcome) => return Asked::Welcome(Box::new(welcome)),
                Err(error) => why = base::chain(&error),
            },
            Err(VisitError::Refused(refused)) => match refused.code {
                RefusedCode::Evicted => return Asked::Evicted,
                RefusedCode::No => return Asked::Refused(format!("{}: {refused}", door.name())),
                RefusedCode::NotNow => why = format!("{}: {refused}", door.name()),
            },
            Err(error) => why = base::chain(&error),
        }
    }
    Asked::Failed(why)
}

fn places(doors: &[Door], me: BoxId) -> impl Iterator<Item = (BoxId, SocketAddr)> + '_ {
    let others = doors.iter().filter(move |door| door.id != me);
    others.flat_map(|door| door.addresses.iter().take(SIGHTING_ADDRESSES_MAX).map(|address| (door.id, *address)))
}

/// Enters the cloud that the task names, and lays on the disk what comes of it.
pub(super) async fn enter(disk: &Disk, identity: &Identity, task: &Task, ports: Ports) -> Happened {
    let assignment = &task.assignment;
    let done = |result: Result<(), String>| match result {
        Ok(()) => Happened::Entered,
        Err(why) => Happened::Failed(why),
    };
    match &assignment.way {
        Way::Found { domain, tenant } => {
            let setup = Setup { domain: domain.clone(), tenant: tenant.clone(), founder: true };
            done(found(disk, identity.id(), task, &setup, SystemClock.now()))
        }
        Way::Join { doors } => match ask_in(identity, doors, &task.order, ports).await {
            Asked::Welcome(welcome) => {
                let checked = welcome.check(assignment.cloud, identity.id(), &assignment.roles, SystemClock.now());
                if let Err(error) = checked {
                    return Happened::Failed(base::chain(&error));
                }
                done(lay(disk, &welcome, task))
            }
            Asked::Evicted => Happened::Refused("the cloud has put this key out for good".to_owned()),
            Asked::Refused(why) => Happened::Refused(why),
            Asked::Failed(why) => Happened::Failed(why),
        },
    }
}

fn found(disk: &Disk, me: BoxId, task: &Task, setup: &Setup, now: Timestamp) -> Result<(), String> {
    let node = disk.make_node().map_err(|error| base::chain(&error))?;
    let it = &task.assignment;
    let papers = Papers::found(it.cloud, me, &it.roles, now).map_err(|error| base::chain(&error))?;
    papers.write(&node).map_err(|error| base::chain(&error))?;
    disk.write_setup(setup).map_err(|error| base::chain(&error))
}

fn lay(disk: &Disk, welcome: &Welcome, task: &Task) -> Result<(), String> {
    let node = disk.make_node().map_err(|error| base::chain(&error))?;
    let setup = welcome.lay(&node, &task.assignment.roles).map_err(|error| base::chain(&error))?;
    disk.write_setup(&setup).map_err(|error| base::chain(&error))
}

/// Says goodbye at one of the doors, and waits no longer than is decent: what the cloud doesn't hear it sees.
pub(super) async fn say_goodbye(identity: &Identity, papers: &Papers, order: &OrderId, within: Duration) {
    let doors = doors_of(&papers.first);
    let said = async {
        for (door, address) in places(&doors, identity.id()) {
            let left = async {
                let mut visit = Visit::knock(address, identity, Some(door), |_| None).await?;
                visit.leave(order.clone()).await
            };
            match left.await {
                Ok(()) => return,
                Err(error @ VisitError::Refused(_)) => {
                    tracing::warn!("{} doesn't let this box go, which goes: {}", door.name(), base::chain(&error));
                }
                Err(error) => tracing::debug!("{} doesn't hear goodbye: {}", door.name(), base::chain(&error)),
            }
        }
    };
    if timeout(within, said).await.is_err() {
        tracing::warn!("nobody heard this box say goodbye in time");
    }
}
