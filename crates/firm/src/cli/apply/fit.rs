//! Which box may have which place: is it free, is it trusted, does it have what is asked for?
//!
//! What isn't known of a box of the cloud, since it isn't seen at the moment, is never held against it: a box that is off
//! for an hour must not be replaced by one that happens to be on.

use std::collections::{BTreeMap, BTreeSet};

use base::limits::MEMORY_OF_WANTED_PERCENT_MIN;
use base::{BoxId, Bytes, Name};

use super::file::{CloudFile, Selector};
use super::model::{Cloud, Member, Seen, Standing};

/// A box that was seen, or is of the cloud, or both.
pub(super) struct Candidate<'a> {
    pub(super) id: BoxId,
    pub(super) name: Name,
    pub(super) seen: Option<&'a Seen>,
    pub(super) member: Option<&'a Member>,
    /// Of the places where it stands.
    pub(super) labels: BTreeMap<Name, Name>,
    pub(super) can: Can,
}

/// What can be done with a box.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Can {
    /// It is of the cloud.
    Serve,
    /// It was let in, and hasn't come.
    Come {
        why: String,
    },
    /// It is about to go, and what it is after that is to be seen.
    Leave,
    /// It may be told to join.
    Join,
    /// It might be, were it trusted.
    BeTrusted,
    Nothing {
        why: String,
    },
}

/// How a box meets a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    Yes,
    /// It isn't seen, so that nobody can tell.
    Unknown,
    /// What it lacks.
    No(String),
}

/// All boxes, by name.
pub(super) fn candidates<'a>(file: &CloudFile, seen: &'a [Seen], cloud: Option<&'a Cloud>) -> Vec<Candidate<'a>> {
    let mut by_id: BTreeMap<BoxId, &Seen> = BTreeMap::new();
    let mut copied = BTreeSet::new();
    for it in seen {
        // Whoever lists a key twice saw it in two places.
        if by_id.insert(it.id, it).is_some() {
            copied.insert(it.id);
        }
    }
    let members = cloud.map(|cloud| &cloud.boxes);
    let ids: BTreeSet<BoxId> = by_id.keys().chain(members.into_iter().flat_map(BTreeMap::keys)).copied().collect();
    let mut called: BTreeMap<Name, usize> = BTreeMap::new();
    for id in &ids {
        *called.entry(id.name()).or_default() += 1;
    }
    let candidate = |id: BoxId| {
        let seen = by_id.get(&id).copied();
        let member = members.and_then(|members| members.get(&id));
        let name = member.map(|it| it.name.clone()).or_else(|| seen.map(|it| it.name.clone()));
        let name = name.unwrap_or_else(|| id.long_name());
        // A short name that two boxes have is meant for the one that the cloud calls so.
        let (short, long) = (id.name(), id.long_name());
        let short = if called[&short] == 1 { &short } else { &name };
        let labels = file.labels_at(&[&name, short, &long], seen.and_then(|it| it.segment.as_deref()));
        let can = if copied.contains(&id) { twin(member) } else { can(id, seen, member, cloud) };
        Candidate { id, name, seen, member, labels, can }
    };
    let mut candidates: Vec<_> = ids.into_iter().map(candidate).collect();
    candidates.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
    candidates
}

fn twin(member: Option<&Member>) -> Can {
    let why = "has the key of another box: a disk was copied".to_owned();
    match member {
        Some(member) if member.leaving => Can::Leave,
        Some(member) if member.joined => Can::Serve,
        Some(_) => Can::Come { why },
        None => Can::Nothing { why },
    }
}

fn can(id: BoxId, seen: Option<&Seen>, member: Option<&Member>, cloud: Option<&Cloud>) -> Can {
    match member {
        Some(member) if member.leaving => return Can::Leave,
        Some(member) if member.joined => return Can::Serve,
        _ => {}
    }
    let Some(seen) = seen else {
        return Can::Come { why: "was let in and isn't seen: is it on, and on a segment or at a seed?".to_owned() };
    };
    let not = |why: String| if member.is_some() { Can::Come { why } } else { Can::Nothing { why } };
    if seen.has_twin {
        return twin(member);
    }
    if cloud.is_some_and(|cloud| cloud.evicted.contains(&id)) {
        return not("was put out of the cloud, and its key with it".to_owned());
    }
    let ours = seen.cloud.as_ref().is_some_and(|(id, _)| cloud.is_some_and(|cloud| cloud.id == *id));
    let of = || match &seen.cloud {
        Some((_, name)) if ours => format!("this cloud, {name}"),
        Some((_, name)) => format!("cloud {name}"),
        None => "another cloud".to_owned(),
    };
    let stuck = seen.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
    match seen.standing {
        Standing::Blank if seen.trusted => Can::Join,
        Standing::Blank => Can::BeTrusted,
        Standing::Firming => not(format!("is firming for {}{stuck}", of())),
        Standing::Firm if ours && member.is_none() => {
            not("says to be of this cloud, whose record has no such box".to_owned())
        }
        Standing::Firm => not(format!("is firm in {}", of())),
        Standing::Resetting => not(format!("is being reset{stuck}")),
    }
}

impl Candidate<'_> {
    /// Is it called so? Its name in the cloud is nobody else's; a name that it merely has may be.
    pub(super) fn is_called(&self, name: &Name) -> bool {
        self.name == *name || self.id.long_name() == *name || self.id.name() == *name
    }

    /// Bytes of all its disks.
    pub(super) fn disk(&self) -> u64 {
        self.seen.map_or(0, |seen| seen.hardware.disks.iter().fold(0, |sum, disk| sum.saturating_add(*disk)))
    }

    pub(super) fn fit(&self, selector: &Selector, file: &CloudFile) -> Fit {
        let mut lacks = Vec::new();
        let mut unknown = false;
        // A box of the cloud that was knocked at by its address, without being heard, is on a segment all the same.
        let is_placed = self.seen.is_some_and(|seen| seen.segment.is_some() || self.can != Can::Serve);
        for (key, wanted) in &selector.labels {
            match self.label(key) {
                Some(value) if value == wanted.as_str() => {}
                Some(value) => lacks.push(format!("stands at {key}={value}, {key}={wanted} is wanted")),
                None if !is_placed && file.place.iter().any(|place| place.segment.is_some()) => unknown = true,
                None => lacks.push(format!("stands nowhere that has {key}={wanted}")),
            }
        }
        match self.seen {
            Some(seen) if is_placed => lacks.extend(lacking(selector, seen)),
            Some(seen) => {
                lacks.extend(lacking(&Selector { segment: None, ..selector.clone() }, seen));
                unknown |= selector.segment.is_some();
            }
            None => unknown |= Selector { labels: BTreeMap::new(), ..selector.clone() } != Selector::default(),
        }
        match (lacks.is_empty(), unknown) {
            (false, _) => Fit::No(lacks.join("; ")),
            (true, true) => Fit::Unknown,
            (true, false) => Fit::Yes,
        }
    }

    /// What the file says of where it stands, else what it was given when it joined.
    pub(super) fn label(&self, key: &Name) -> Option<&str> {
        let joined = || self.member.filter(|member| member.joined);
        let given = || joined().and_then(|member| member.labels.get(key.as_str())).map(String::as_str);
        self.labels.get(key).map(Name::as_str).or_else(given)
    }
}

/// What a box that was seen lacks.
fn lacking(selector: &Selector, seen: &Seen) -> Vec<String> {
    let Selector { cores, memory, disk, disks, segment, labels: _ } = selector;
    let hardware = &seen.hardware;
    let mut lacks = Vec::new();
    if let Some(wanted) = cores.filter(|wanted| hardware.cores < *wanted) {
        lacks.push(format!("has {}, {} wanted", some(u64::from(hardware.cores), "core"), are(u64::from(wanted))));
    }
    if let Some(wanted) = memory
        && u128::from(hardware.memory) * 100 < u128::from(wanted.0) * u128::from(MEMORY_OF_WANTED_PERCENT_MIN)
    {
        lacks.push(format!("has {} of memory, {wanted} are wanted", size(hardware.memory)));
    }
    if disk.is_some() || disks.is_some() {
        let least = disk.map_or(0, |disk| disk.0);
        let found = hardware.disks.iter().filter(|size| **size >= least).count() as u64;
        let wanted = u64::from(disks.unwrap_or(1));
        if found < wanted {
            let of = disk.map_or_else(String::new, |disk| format!(" of {disk} or more"));
            lacks.push(format!("has {}{of}, {} wanted", some(found, "disk"), are(wanted)));
        }
    }
    if let Some(wanted) = segment
        && seen.segment.as_ref() != Some(wanted)
    {
        let is = seen
            .segment
            .as_ref()
            .map_or_else(|| "is at a seed's address".to_owned(), |on| format!("is on segment {on}"));
        lacks.push(format!("{is}, segment {wanted} is wanted"));
    }
    lacks
}

fn some(number: u64, what: &str) -> String {
    match number {
        0 => format!("no {what}"),
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

fn are(number: u64) -> String {
    if number == 1 { "1 is".to_owned() } else { format!("{number} are") }
}

/// To the nearest GiB, or MiB below one.
fn size(bytes: u64) -> Bytes {
    let unit: u64 = if bytes >= 1 << 30 { 1 << 30 } else { 1 << 20 };
    Bytes((bytes.saturating_add(unit / 2) / unit).saturating_mul(unit))
}
