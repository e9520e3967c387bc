//! G'day: boxes of a segment hear of each other, without a server and without configuration.
//!
//! DNS-SD (RFC 6763) over multicast DNS (RFC 6762) on every interface, IPv4 and IPv6, as `_firmament._tcp`, so that
//! others' tools see boxes too. What is heard is a hint of where to knock: anybody on a segment can say anything. So a
//! sighting has a *claimed* id, is forgotten with its time to live, and there is room for a named number of them.
//!
//! Each start of a box draws a mark. Two marks with one id that both answer are two boxes with one key: a disk was copied.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::limits::{GDAY_CACHE_MAX, GDAY_INTERFACE_CHECK, KNOCK_PORT, SIGHTING_ADDRESSES_MAX, SIGHTINGS_MAX};
use base::{BoxId, CloudId, Name, Roles};
use firming::Standing;
use mdns_sd::{Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::watch;

use crate::knock::{DISKS_TOLD_MAX, Hardware};

const SERVICE: &str = "_firmament._tcp.local.";
/// How often the thread that listens looks whether it should end.
const TURN: Duration = Duration::from_millis(200);

/// Why nothing is heard.
#[derive(Debug, thiserror::Error)]
pub enum GdayError {
    #[error("multicast DNS can't be started (UDP port 5353)")]
    Start(#[source] mdns_sd::Error),
    #[error("the box can't be announced")]
    Announce(#[source] mdns_sd::Error),
    #[error("the thread that listens can't be started")]
    Thread(#[source] std::io::Error),
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// Four random bytes in hexadecimal, drawn at each start.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Mark(String);

/// What a box says of itself to the whole segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    pub id: BoxId,
    /// blank, firming, firm or resetting.
    pub standing: String,
    pub cloud: Option<(CloudId, Name)>,
    pub roles: Option<Roles>,
    pub hardware: Hardware,
    /// Where it listens for those who knock.
    pub port: u16,
}

/// A box that said G'day. Nothing of it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    pub claims: Announcement,
    pub mark: Mark,
    /// Where to knock, the likeliest first.
    pub addresses: Vec<SocketAddr>,
    /// The interface it was heard on.
    pub interface: String,
}

/// The ear, and the voice of a box that has one.
pub struct Gday {
    daemon: Mutex<ServiceDaemon>,
    mark: Mark,
    said: Mutex<Option<Announcement>>,
    heard: Arc<Heard>,
    changes: watch::Receiver<u64>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    sightings: Mutex<Sightings>,
    ended: std::sync::atomic::AtomicBool,
}

#[derive(Default)]
struct Sightings {
    /// By the full name of the service, which has id and mark in it.
    known: BTreeMap<String, Sighting>,
    /// Were some not kept, for want of room?
    overheard: u64,
}

impl Gday {
    /// Begins to listen. Nothing is said before [`Gday::say`].
    pub fn start() -> Result<Self, GdayError> {
        let mut mark = [0; 4];
        getrandom::fill(&mut mark).map_err(GdayError::Random)?;
        let daemon = daemon()?;
        let heard = Arc::<Heard>::default();
        let (changed, changes) = watch::channel(0);
        let browsed = daemon.browse(SERVICE).map_err(GdayError::Start)?;
        let listener = {
            let (heard, daemon) = (Arc::clone(&heard), daemon.clone());
            std::thread::Builder::new()
                .name("gday".to_owned())
                .spawn(move || listen(&daemon, browsed, &heard, &changed))
                .map_err(GdayError::Thread)?
        };
        Ok(Self {
            daemon: Mutex::new(daemon),
            mark: Mark(data_encoding::HEXLOWER.encode(&mark)),
            said: Mutex::default(),
            heard,
            changes,
            listener: Some(listener),
        })
    }

    /// Tells the segment who is here, now and whenever somebody asks, until something else is said.
    pub fn say(&self, announcement: Announcement) -> Result<(), GdayError> {
        let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.as_ref() == Some(&announcement) {
            return Ok(());
        }
        daemon.register(service(&announcement, &self.mark)?).map_err(GdayError::Announce)?;
        *said = Some(announcement);
        Ok(())
    }

    /// The mark of this start.
    #[must_use]
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Everybody who is heard at present, oneself among them.
    #[must_use]
    pub fn sightings(&self) -> Vec<Sighting> {
        let sightings = self.heard.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        sightings.known.values().cloned().collect()
    }

    /// Sightings for which there was no room: somebody floods the segment.
    #[must_use]
    pub fn overheard(&self) -> u64 {
        self.heard.sightings.lock().unwrap_or_else(PoisonError::into_inner).overheard
    }

    /// Changes whenever the sightings do.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

impl Drop for Gday {
    /// Says goodbye, so that nobody has to wait for a time to live to end.
    fn drop(&mut self) {
        self.heard.ended.store(true, std::sync::atomic::Ordering::Release);
        let daemon = self.daemon.get_mut().unwrap_or_else(PoisonError::into_inner);
        let said = self.said.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(said) = said
            && let Ok(service) = service(&said, &self.mark)
            && let Ok(gone) = daemon.unregister(service.get_fullname())
        {
            let _ = gone.recv_timeout(TURN);
        }
        if let Ok(ended) = daemon.shutdown() {
            let _ = ended.recv_timeout(TURN);
        }
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn daemon() -> Result<ServiceDaemon, GdayError> {
    let daemon = ServiceDaemon::new().map_err(GdayError::Start)?;
    daemon.set_ip_check_interval(GDAY_INTERFACE_CHECK).map_err(GdayError::Start)?;
    Ok(daemon)
}

fn listen(daemon: &ServiceDaemon, mut browsed: Receiver<ServiceEvent>, heard: &Heard, changed: &watch::Sender<u64>) {
    let mut checked = Instant::now();
    while !heard.ended.load(std::sync::atomic::Ordering::Acquire) {
        let lost = match browsed.recv_timeout(TURN) {
            Ok(event) => {
                let mut sightings = heard.sightings.lock().unwrap_or_else(PoisonError::into_inner);
                if sightings.take(event) {
                    changed.send_modify(|number| *number += 1);
                }
                false
            }
            // The library ends a subscription whose reader is slower than what comes: a flood.
            Err(_) => browsed.is_disconnected(),
        };
        let full = checked.elapsed() > GDAY_FLOOD_CHECK && {
            checked = Instant::now();
            is_flooded(daemon)
        };
        if !lost && !full {
            continue;
        }
        tracing::warn!("somebody floods the segment with names: what was heard is forgotten, and asked for anew");
        std::thread::sleep(TURN);
        // Stopping drops what was cached.
        let _ = daemon.stop_browse(SERVICE);
        heard.sightings.lock().unwrap_or_else(PoisonError::into_inner).known.clear();
        changed.send_modify(|number| *number += 1);
        match daemon.browse(SERVICE) {
            Ok(again) => browsed = again,
            Err(error) => {
                tracing::error!(%error, "boxes can't be listened for any more");
                return;
            }
        }
    }
}

/// Does the library hold more than a segment's boxes could have said? It keeps every record that it hears.
fn is_flooded(daemon: &ServiceDaemon) -> bool {
    let Ok(metrics) = daemon.get_metrics() else { return false };
    let Ok(metrics) = metrics.recv_timeout(TURN) else { return false };
    let cached: i64 = metrics.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, number)| number).sum();
    cached > GDAY_CACHE_MAX
}

impl Sightings {
    /// Did anything change?
    fn take(&mut self, event: ServiceEvent) -> bool {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let Some(sighting) = sighting(&service) else { return false };
                let name = service.fullname.to_ascii_lowercase();
                if !self.known.contains_key(&name) && self.known.len() >= SIGHTINGS_MAX {
                    self.overheard += 1;
                    return false;
                }
                self.known.insert(name, sighting.clone()).as_ref() != Some(&sighting)
            }
            ServiceEvent::ServiceRemoved(_, name) => self.known.remove(&name.to_ascii_lowercase()).is_some(),
            _ => false,
        }
    }
}

fn service(said: &Announcement, mark: &Mark) -> Result<ServiceInfo, GdayError> {
    let hardware = &said.hardware;
    let disks: Vec<_> = hardware.disks.iter().take(DISKS_TOLD_MAX).map(u64::to_string).collect();
    let mut properties = HashMap::from([
        ("id".to_owned(), said.id.to_string()),
        ("mark".to_owned(), mark.0.clone()),
        ("standing".to_owned(), said.standing.clone()),
        ("cores".to_owned(), hardware.cores.to_string()),
        ("memory".to_owned(), hardware.memory.to_string()),
        ("disks".to_owned(), disks.join(",")),
    ]);
    if let Some((cloud, name)) = &said.cloud {
        properties.insert("cloud".to_owned(), cloud.to_string());
        properties.insert("name".to_owned(), name.to_string());
    }
    if let Some(roles) = &said.roles {
        properties.insert("roles".to_owned(), roles.to_string());
    }
    // Its own name among all boxes and all starts: nothing to probe for, and no conflict to resolve.
    let instance = format!("{}-{}", said.id.long_name(), mark.0);
    let host = format!("{instance}.local.");
    let mut service = ServiceInfo::new(SERVICE, &instance, &host, "", said.port, properties)
        .map_err(GdayError::Announce)?
        .enable_addr_auto();
    service.set_requires_probe(false);
    Ok(service)
}

const GDAY_FLOOD_CHECK: Duration = Duration::from_secs(10);

/// None for what is no box's announcement.
fn sighting(service: &ResolvedService) -> Option<Sighting> {
    let text = |key| service.get_property_val_str(key);
    let standing = text("standing").filter(|standing| Standing::is_word(standing))?;
    let mark = text("mark").filter(|mark| mark.len() == 8 && mark.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    let cloud = text("cloud").zip(text("name")).and_then(|(id, name)| Some((id.parse().ok()?, name.parse().ok()?)));
    let disks = text("disks").unwrap_or_default().split(',').filter_map(|disk| disk.parse().ok());
    let number = |key| text(key).and_then(|number| number.parse().ok());
    let hardware = Hardware {
        cores: number("cores").and_then(|cores| u32::try_from(cores).ok()).unwrap_or_default(),
        memory: number("memory").unwrap_or_default(),
        disks: disks.take(DISKS_TOLD_MAX).collect(),
    };
    let claims = Announcement {
        id: text("id")?.parse().ok()?,
        standing: standing.to_owned(),
        cloud,
        roles: text("roles").and_then(|roles| roles.parse().ok()),
        hardware,
        port: service.port,
    };
    let mut addresses: Vec<_> =
        service.addresses.iter().filter_map(|address| knockable(address, service.port)).collect();
    addresses.sort_by_key(|address| (liking(address.ip()), *address));
    addresses.truncate(SIGHTING_ADDRESSES_MAX);
    if addresses.is_empty() {
        return None;
    }
    Some(Sighting { claims, mark: Mark(mark.to_owned()), addresses, interface: interface(service) })
}

fn knockable(address: &ScopedIp, port: u16) -> Option<SocketAddr> {
    let usable = |ip: IpAddr| !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified();
    match address {
        ScopedIp::V4(v4) => Some(SocketAddr::new((*v4.addr()).into(), port)).filter(|address| usable(address.ip())),
        ScopedIp::V6(v6) => {
            let scope = if v6.addr().is_unicast_link_local() { v6.scope_id().index } else { 0 };
            usable((*v6.addr()).into()).then(|| SocketAddrV6::new(*v6.addr(), port, 0, scope).into())
        }
        _ => None,
    }
}

/// What is likeliest to be reached: an address that was given or drawn on purpose, then one that is always there.
fn liking(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(v4) if !v4.is_link_local() => 0,
        IpAddr::V6(v6) if !v6.is_unicast_link_local() => 1,
        IpAddr::V6(_) => 2,
        IpAddr::V4(_) => 3,
    }
}

fn interface(service: &ResolvedService) -> String {
    let named = service.addresses.iter().find_map(|address| match address {
        ScopedIp::V4(v4) => v4.interface_ids().first().map(|interface| interface.name.clone()),
        ScopedIp::V6(v6) => Some(v6.scope_id().name.clone()),
        _ => None,
    });
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| "-".to_owned())
}

impl Announcement {
    /// What a box says whose door is where doors are.
    #[must_use]
    pub fn blank(id: BoxId, hardware: Hardware) -> Self {
        Self { id, standing: "blank".to_owned(), cloud: None, roles: None, hardware, port: KNOCK_PORT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Announcement {
        Announcement {
            standing: "firm".to_owned(),
            cloud: Some((CloudId([3; 16]), "hut".parse().expect("a name"))),
            roles: Some(Roles::solo()),
            ..Announcement::blank(BoxId([5; 32]), Hardware { cores: 8, memory: 1 << 34, disks: vec![1 << 40, 1 << 41] })
        }
    }

    fn mark() -> Mark {
        Mark("00c0ffee".to_owned())
    }

    #[test]
    fn what_was_said_is_what_is_heard() {
        let service = ServiceInfo::new(
            SERVICE,
            "x",
            "x.local.",
            "10.0.0.5,fe80::5,127.0.0.1,fd77::5",
            7741,
            service(&said(), &mark()).expect("made").get_properties().clone().into_property_map_str(),
        );
        let heard = sighting(&service.expect("made").as_resolved_service()).expect("a box");
        assert_eq!((heard.claims, heard.mark), (said(), mark()));
        let hosts: Vec<_> = heard.addresses.iter().map(|address| address.ip().to_string()).collect();
        assert_eq!(hosts, ["10.0.0.5", "fd77::5", "fe80::5"]);
    }

    #[test]
    fn what_no_box_says_is_not_heard() {
        let right = service(&said(), &mark()).expect("made").get_properties().clone().into_property_map_str();
        for (key, wrong) in
            [("id", "amber-otter"), ("id", ""), ("standing", "friendly"), ("mark", "zz"), ("mark", "00c0ffee00c0ffee")]
        {
            let mut properties = right.clone();
            properties.insert(key.to_owned(), wrong.to_owned());
            let service = ServiceInfo::new(SERVICE, "x", "x.local.", "10.0.0.5", 7741, properties).expect("made");
            assert!(sighting(&service.as_resolved_service()).is_none(), "{key}={wrong}");
        }
        // A box that says where it isn't can't be knocked at.
        let service = ServiceInfo::new(SERVICE, "x", "x.local.", "127.0.0.1,224.0.0.1", 7741, right).expect("made");
        assert!(sighting(&service.as_resolved_service()).is_none());
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let mut sightings = Sightings::default();
        let right = service(&said(), &mark()).expect("made").get_properties().clone().into_property_map_str();
        for number in 0..SIGHTINGS_MAX + 3 {
            let instance = format!("rogue-{number}");
            let service = ServiceInfo::new(SERVICE, &instance, "x.local.", "10.0.0.5", 7741, right.clone());
            let resolved = service.expect("made").as_resolved_service();
            sightings.take(ServiceEvent::ServiceResolved(Box::new(resolved)));
        }
        assert_eq!((sightings.known.len(), sightings.overheard), (SIGHTINGS_MAX, 3));
        let first = format!("Rogue-0.{SERVICE}");
        assert!(sightings.take(ServiceEvent::ServiceRemoved(SERVICE.to_owned(), first)));
        assert_eq!(sightings.known.len(), SIGHTINGS_MAX - 1);
    }
}
