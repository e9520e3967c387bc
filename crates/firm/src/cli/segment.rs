//! The segment as the command line sees it: who said G'day, who they prove to be, and which words we share.
//!
//! What others said is never shown as a fact: a box is listed as what it proved to be when we knocked.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, DirBuilder};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::limits::{
    ADDRESS_LOOK_TIME_MAX, BOX_LOOK_TIME_MAX, BOXES_KNOCKED_AT_ONCE, BOXES_LOOK_TIME_MAX, INTRODUCTIONS_REMEMBERED_MAX,
    KNOCK_PORT,
};
use base::{BoxId, CloudId, Name, Roles};
use firming::Warrant;
use futures_util::StreamExt as _;
use segment::identity::{Context, write_private};
use segment::knock::{About, Remembered, VisitError};
use segment::{Gday, Identity, Visit};
use serde::{Deserialize, Serialize};

use super::contexts;
use super::exit::Exit;
use super::failure::{Failure, Outcome};
use super::when;

/// The operator's key, and what is remembered of boxes.
pub(super) struct Operator {
    pub(super) identity: Identity,
    pub(super) path: PathBuf,
    introductions: PathBuf,
    remembered: BTreeMap<BoxId, Introduced>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Introduced {
    at: u64,
    with: Remembered,
    /// This operator compared its words, or checked its seal, and firmed it.
    #[serde(default)]
    mine: bool,
}

impl Operator {
    /// The key in the user's configuration, made where there is none.
    pub(super) fn open() -> Outcome<Self> {
        let folder = contexts::folder()?;
        let file = |path: &Path, error: &dyn std::error::Error| {
            Failure::new(Exit::Refused, format!("`{}`: {}", path.display(), base::chain(error)))
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| file(&folder, &error))?;
        let path = folder.join("operator.key");
        let identity = Identity::open(&path).map_err(|error| {
            Failure::of(Exit::Refused, &error).help(
                "it is the key by which boxes know you, and boxes that are firm obey it alone: don't remove it before \
                 you have looked for a copy",
            )
        })?;
        let introductions = folder.join("introductions.json");
        // What can't be read is forgotten: boxes are introduced anew.
        let remembered =
            fs::read(&introductions).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Ok(Self { identity, path, introductions, remembered })
    }

    /// Was this box firmed by this operator?
    pub(super) fn knows(&self, id: BoxId) -> bool {
        self.remembered.get(&id).is_some_and(|introduced| introduced.mine)
    }

    /// The box was trusted, and firmed.
    pub(super) fn claim(&mut self, id: BoxId) {
        if let Some(introduced) = self.remembered.get_mut(&id) {
            introduced.mine = true;
        }
        self.write();
    }

    /// Keeps what was learnt: the latest of it, and the boxes that are this operator's.
    fn remember(&mut self, visits: impl IntoIterator<Item = (BoxId, Remembered)>) {
        let at = when::now().0;
        for (id, with) in visits {
            let mine = self.knows(id);
            self.remembered.insert(id, Introduced { at, with, mine });
        }
        while self.remembered.len() > INTRODUCTIONS_REMEMBERED_MAX {
            let oldest = self.remembered.iter().min_by_key(|(_, introduced)| (introduced.mine, introduced.at));
            let oldest = oldest.map(|(id, _)| *id).expect("there are too many");
            self.remembered.remove(&oldest);
        }
        self.write();
    }

    /// Without it the next words are others; that is all.
    fn write(&self) {
        if let Ok(text) = serde_json::to_vec(&self.remembered) {
            let _ = write_private(&self.introductions, &text);
        }
    }

    /// This operator's word for a box's key and roles in a cloud.
    pub(super) fn warrant(&self, cloud: CloudId, id: BoxId, roles: &Roles) -> Warrant {
        let signature = self.identity.sign_text(Context::Word, &auth::warrant_word(cloud, id, roles));
        Warrant { by: self.identity.id(), signature }
    }

    /// This operator's wish for a token, at the door of that box.
    pub(super) fn wish(&self, cloud: CloudId, door: BoxId) -> Outcome<serde_json::Value> {
        let nonce = random()?;
        let (by, at) = (self.identity.id(), when::now());
        let signature = self.identity.sign_text(Context::Word, &auth::access_word(cloud, door, at, nonce));
        let wish = web::AccessWish { at, nonce, by, signature };
        serde_json::to_value(&wish).map_err(|error| Failure::new(Exit::Refused, error.to_string()))
    }

    pub(super) async fn knock(&self, address: SocketAddr, wanted: Option<BoxId>) -> Result<Visit, VisitError> {
        let known = |id| self.remembered.get(&id).map(|introduced| introduced.with);
        Visit::knock(address, &self.identity, wanted, known).await
    }
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Failure::new(Exit::Refused, format!("the system gives no random bytes: {error}")))?;
    Ok(bytes)
}

/// A place to knock, and who is said to be there.
#[derive(Clone, Debug)]
struct Place {
    claimed: Option<BoxId>,
    addresses: Vec<SocketAddr>,
    interface: String,
}

/// A box that proved who it is.
pub(super) struct Found {
    pub(super) visit: Visit,
    pub(super) about: About,
    pub(super) address: SocketAddr,
    pub(super) interface: String,
    /// Other places at which a box proved the same key: a disk was copied.
    pub(super) twins: Vec<SocketAddr>,
}

/// What there is.
pub(super) struct Seen {
    pub(super) boxes: Vec<Found>,
    /// Who said G'day and didn't prove to be what they said, or said nothing more.
    pub(super) silent: Vec<Silent>,
    /// Sightings for which there was no room.
    pub(super) overheard: u64,
}

#[derive(Debug)]
pub(super) struct Silent {
    pub(super) claimed: Option<BoxId>,
    pub(super) address: SocketAddr,
    pub(super) why: String,
}

/// Where to look.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Where {
    /// Knock at this address too, with or without a port: for boxes of other segments; may be given again
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(super) at: Vec<SocketAddr>,
    /// How long to listen for boxes that say G'day; 0s for not at all
    #[arg(long, default_value = "2s")]
    pub(super) listen: base::Span,
}

/// An address with or without a port.
fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    text.parse()
        .or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, KNOCK_PORT)))
        .map_err(|_| format!("an address is an IP with or without a port, as in 10.0.0.7 or [fd00::7]:{KNOCK_PORT}"))
}

/// Listens, then knocks at everybody who was heard and at the addresses that were given. With `wanted` names it listens no
/// longer than until those boxes are heard, and knocks at no others.
pub(super) async fn look(operator: &mut Operator, place: &Where, wanted: &[&str]) -> Outcome<Seen> {
    let at = |address: &SocketAddr| Place { claimed: None, addresses: vec![*address], interface: "-".to_owned() };
    let given: Vec<Place> = place.at.iter().map(at).collect();
    let known: &Operator = operator;
    // Each address once, whoever names it: a rogue that names another's would have us knock there without end.
    let knocked = Mutex::new(HashSet::new());
    let is_there = |visits: &[Visited]| {
        let is_called = |name: &&str| visits.iter().any(|visited| visited.is(name));
        !wanted.is_empty() && wanted.iter().all(is_called)
    };
    let hearing =
        async { if place.listen.0.is_zero() { Ok((Vec::new(), 0)) } else { hear(place.listen.0, wanted).await } };
    let (mut visits, heard) = {
        let (mut visiting, mut hearing) = (pin!(visit_all(known, given, &knocked)), pin!(hearing));
        tokio::select! {
            visits = &mut visiting => {
                // Who answers where it was said to be needn't be listened for.
                let heard = if is_there(&visits) { Ok((Vec::new(), 0)) } else { hearing.await };
                (visits, heard)
            }
            heard = &mut hearing => (visiting.await, heard),
        }
    };
    let (places, overheard) = heard?;
    let claimed: Vec<_> = places.iter().map(|place| (place.claimed, place.addresses.first().copied())).collect();
    visits.extend(visit_all(known, places, &knocked).await);
    let (mut boxes, mut silent): (BTreeMap<BoxId, Found>, Vec<Silent>) = (BTreeMap::new(), Vec::new());
    for visited in visits {
        match visited.0 {
            Ok(found) => match boxes.get_mut(&found.about.id) {
                // One box that was heard on two interfaces, or a copy? It started once.
                Some(first) if first.about.since == found.about.since => {}
                Some(first) => first.twins.push(found.address),
                None => {
                    boxes.insert(found.about.id, found);
                }
            },
            Err(unheard) => silent.push(unheard),
        }
    }
    silent.retain(|silent| silent.claimed.is_none_or(|id| !boxes.contains_key(&id)));
    for (id, address) in claimed {
        let told =
            id.is_none_or(|id| boxes.contains_key(&id) || silent.iter().any(|silent| silent.claimed == Some(id)));
        if let (false, Some(address)) = (told, address) {
            let why = "nobody who answers there proves to be it".to_owned();
            silent.push(Silent { claimed: id, address, why });
        }
    }
    operator.remember(boxes.values().map(|found| (found.about.id, found.visit.remember())));
    let mut boxes: Vec<_> = boxes.into_values().collect();
    boxes.sort_by_key(|found| (found.about.standing.clone(), found.about.id.name()));
    Ok(Seen { boxes, silent, overheard })
}

/// What came of a visit.
struct Visited(Result<Found, Silent>);

impl Visited {
    fn is(&self, called: &str) -> bool {
        self.0.as_ref().is_ok_and(|found| is_called(found.about.id, called))
    }
}

/// Visits many at once, and no longer than is decent. A place whose addresses somebody else named too was visited there.
async fn visit_all(operator: &Operator, places: Vec<Place>, knocked: &Mutex<HashSet<SocketAddr>>) -> Vec<Visited> {
    futures_util::stream::iter(places)
        .map(|place| async move { tokio::time::timeout(BOX_LOOK_TIME_MAX, visit(operator, place, knocked)).await })
        .buffer_unordered(BOXES_KNOCKED_AT_ONCE)
        .take_until(tokio::time::sleep(BOXES_LOOK_TIME_MAX))
        .filter_map(|visited| std::future::ready(visited.ok().flatten().map(Visited)))
        .collect()
        .await
}

/// Everybody who says G'day within some time, and how many there was no room for.
async fn hear(time: Duration, wanted: &[&str]) -> Outcome<(Vec<Place>, u64)> {
    let gday = Gday::start().map_err(|error| {
        Failure::of(Exit::Refused, &error).help("say where boxes are, and don't listen: --at ADDRESS --listen 0s")
    })?;
    let is_wanted = |id: BoxId| wanted.is_empty() || wanted.iter().any(|wanted| is_called(id, wanted));
    let all_heard = || {
        let heard = gday.sightings();
        let is_heard = |name: &&str| heard.iter().any(|sighting| is_called(sighting.claims.id, name));
        !wanted.is_empty() && wanted.iter().all(is_heard)
    };
    let mut changes = gday.changes();
    let heard = async {
        while !all_heard() {
            if changes.changed().await.is_err() {
                return;
            }
        }
        // Another with the same name, or the same key, may be a moment behind.
        tokio::time::sleep(SETTLE).await;
    };
    // What was heard until then is what there is.
    let _ = tokio::time::timeout(time, heard).await;
    let places = gday.sightings().into_iter().filter(|sighting| is_wanted(sighting.claims.id)).map(|sighting| Place {
        claimed: Some(sighting.claims.id),
        addresses: sighting.addresses,
        interface: sighting.interface,
    });
    Ok((places.collect(), gday.overheard()))
}

/// Tries those of a place's addresses in turn at which nobody has knocked. None when there is no such.
async fn visit(
    operator: &Operator,
    place: Place,
    knocked: &Mutex<HashSet<SocketAddr>>,
) -> Option<Result<Found, Silent>> {
    let mut failed = None;
    for address in place.addresses {
        if !knocked.lock().unwrap_or_else(PoisonError::into_inner).insert(address) {
            continue;
        }
        let visited = async {
            let mut visit = operator.knock(address, None).await?;
            let about = visit.about().await?;
            Ok::<_, VisitError>((visit, about))
        };
        let why = match tokio::time::timeout(ADDRESS_LOOK_TIME_MAX, visited).await {
            Ok(Ok((visit, about))) => {
                return Some(Ok(Found { visit, about, address, interface: place.interface, twins: Vec::new() }));
            }
            Ok(Err(error)) => base::chain(&error),
            Err(_) => format!("it doesn't answer within {} ms", ADDRESS_LOOK_TIME_MAX.as_millis()),
        };
        failed = Some(Err(Silent { claimed: place.claimed, address, why }));
    }
    failed
}

/// Is the box called so: by its name, long name or id?
pub(super) fn is_called(id: BoxId, called: &str) -> bool {
    id.name().as_str() == called || id.long_name().as_str() == called || id.to_string() == called
}

impl Seen {
    /// Short names, but for boxes that share one.
    pub(super) fn names(&self) -> BTreeMap<BoxId, Name> {
        let ids: BTreeSet<BoxId> = self.boxes.iter().map(|found| found.about.id).collect();
        let shared = |name: &Name| ids.iter().filter(|id| id.name() == *name).count() > 1;
        ids.iter()
            .map(|id| {
                let name = id.name();
                (*id, if shared(&name) { id.long_name() } else { name })
            })
            .collect()
    }

    /// The one box that is called so: its name, long name or id.
    pub(super) fn take(&mut self, called: &str) -> Outcome<Found> {
        let which: Vec<_> = self
            .boxes
            .iter()
            .enumerate()
            .filter(|(_, found)| is_called(found.about.id, called))
            .map(|(at, _)| at)
            .collect();
        match which.as_slice() {
            [only] => {
                let found = self.boxes.remove(*only);
                if let Some(twin) = found.twins.first() {
                    return Err(Failure::new(
                        Exit::Refused,
                        format!("two boxes have the key of {called}: one at {}, one at {twin}", found.address),
                    )
                    .help(
                        "a disk was copied: on one of them stop the box, remove box/identity.key, and start it again",
                    ));
                }
                Ok(found)
            }
            [] => Err(self.nobody(called)),
            several => {
                let names: Vec<_> = several.iter().map(|at| self.boxes[*at].about.id.long_name().to_string()).collect();
                Err(Failure::usage(format!("{} boxes are called {called}", several.len()))
                    .help(format!("say which: {}", names.join(" or "))))
            }
        }
    }

    fn nobody(&self, called: &str) -> Failure {
        let claimed = self.silent.iter().find(|silent| silent.claimed.is_some_and(|id| is_called(id, called)));
        if called.parse::<Roles>().is_ok() {
            return Failure::usage(format!("`{called}` is a role, and stands where a box is named"))
                .help("first what it is to be, then the box: firm firm solo NAME");
        }
        if let Some(silent) = claimed {
            return Failure::new(
                Exit::Unreachable,
                format!("somebody at {} says to be {called}, but: {}", silent.address, silent.why),
            )
            .help("look at its console; if it shows another name or nothing, somebody else is on this segment");
        }
        let names: Vec<_> = self.names().into_values().map(|name| name.to_string()).collect();
        let help = if names.is_empty() {
            "no box answers on this segment: is one running (`firm box --dir DIR`)? From another segment: --at ADDRESS"
                .to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        Failure::new(Exit::NotFound, format!("no box here is called {called}")).help(help)
    }
}

/// What a segment gets to say more, once the box that is looked for was heard.
const SETTLE: Duration = Duration::from_millis(150);

/// How long `firm firm` and `firm reset` look again at a box that is on its way.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(150);

impl Found {
    /// Looks at the box anew. It may be another visit: a box that begins anew hangs up.
    pub(super) async fn again(&mut self, operator: &Operator) -> Result<About, VisitError> {
        if let Ok(about) = self.visit.about().await {
            self.about = about.clone();
            return Ok(about);
        }
        self.visit = operator.knock(self.address, Some(self.about.id)).await?;
        self.about = self.visit.about().await?;
        Ok(self.about.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_a_port() {
        for (text, read) in [
            ("10.0.0.7", "10.0.0.7:7741"),
            ("10.0.0.7:99", "10.0.0.7:99"),
            ("fd00::7", "[fd00::7]:7741"),
            ("[fd00::7]", "[fd00::7]:7741"),
            ("[fd00::7]:99", "[fd00::7]:99"),
        ] {
            assert_eq!(address(text).expect("an address").to_string(), read);
        }
        for wrong in ["", "amber-otter", "10.0.0", "10.0.0.7:0x"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
