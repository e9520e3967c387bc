//! `cloud.toml`: what a cloud is to be.
//!
//! Whoever has six boxes names them or counts them; whoever has two hundred says once where each segment or rack is
//! (`[[place]]`) and how many boxes each tier needs of which hardware (`[[boxes]]`). A fault is told with its line and with
//! what to write there: what is misshapen in each entry at once, and what is wrong between them once they have a shape.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use base::limits::{
    BOX_LABELS_MAX, BOXES_MAX, CLOUD_FILE_BYTES_MAX, CLOUD_GROUPS_MAX, CLOUD_PLACES_MAX, CLOUD_SEEDS_MAX,
    DOMAINS_PER_APP_MAX, KNOCK_PORT, MANIFEST_BYTES_MAX, SEGMENT_NAME_CHARS_MAX, TENANTS_MAX,
};
use base::{Bytes, Domain, Name, Role, Roles};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use state::Ceiling;
use state::manifest::{Fault, ManifestError};
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// A whole cloud.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CloudFile {
    /// What the cloud is called, and the context for it.
    pub(crate) cloud: Name,
    /// Apps answer at APP.TENANT.DOMAIN, the API at api.DOMAIN. It is chosen once, when the cloud is founded.
    #[serde(default = "localhost")]
    pub(crate) domain: String,
    /// Addresses to knock at besides listening: boxes of other segments.
    #[serde(default)]
    #[schemars(with = "Vec<String>", length(max = CLOUD_SEEDS_MAX))]
    pub(crate) seeds: Vec<Seed>,
    /// Which boxes do what. Where a box fits several entries, the earlier one has it.
    #[serde(default)]
    #[schemars(length(min = 1, max = CLOUD_GROUPS_MAX))]
    pub(crate) boxes: Vec<Group>,
    /// Where boxes stand.
    #[serde(default)]
    #[schemars(length(max = CLOUD_PLACES_MAX))]
    pub(crate) place: Vec<Place>,
    /// Who rents.
    #[serde(default)]
    pub(crate) tenant: BTreeMap<Name, Tenant>,
}

fn localhost() -> String {
    "localhost".to_owned()
}

/// Boxes that do the same: so many of those that fit, or these.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Group {
    /// What they do: persistence, web, auth, several with commas, or solo, which is all three.
    pub(crate) roles: Roles,
    /// How many. Either this or `names`.
    #[serde(default)]
    #[schemars(range(min = 1, max = BOXES_MAX))]
    pub(crate) count: Option<u32>,
    /// Which, by the names on their consoles. Either this or `count`.
    #[serde(default)]
    pub(crate) names: Vec<Name>,
    /// What a box must have to be counted in.
    #[serde(default, rename = "where")]
    pub(crate) selector: Selector,
    /// Labels that they get, besides those of where they stand.
    #[serde(default)]
    pub(crate) labels: BTreeMap<Name, Name>,
    /// The label over whose values they are spread first, then over segments. `segment`, unless told.
    #[serde(default)]
    pub(crate) spread: Option<Name>,
}

/// What a box must have. Numbers and sizes are the least that will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Selector {
    #[serde(default)]
    pub(crate) cores: Option<u32>,
    /// A box that has nine tenths of it counts: firmware and kernel keep some of what was bought.
    #[serde(default)]
    pub(crate) memory: Option<Bytes>,
    /// The size of a disk.
    #[serde(default)]
    pub(crate) disk: Option<Bytes>,
    /// How many disks of that size. One, unless told.
    #[serde(default)]
    pub(crate) disks: Option<u32>,
    /// The segment that it is on.
    #[serde(default)]
    pub(crate) segment: Option<String>,
    /// Labels of the place where it stands.
    #[serde(default)]
    pub(crate) labels: BTreeMap<Name, Name>,
}

/// Where some boxes stand. A later place wins over an earlier one, and labels of `[[boxes]]` over both.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// What distinguishes it, as in rack = "7".
    pub(crate) labels: BTreeMap<Name, Name>,
    /// All boxes of this segment stand here.
    #[serde(default)]
    pub(crate) segment: Option<String>,
    /// These boxes stand here.
    #[serde(default)]
    pub(crate) boxes: Vec<Name>,
}

/// A tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tenant {
    /// What all its apps together may be asked. Left as it is, when absent.
    #[serde(default)]
    pub(crate) limit: Option<Ceiling>,
    /// Which app answers a domain. It is added once the app is there.
    #[serde(default)]
    pub(crate) domains: BTreeMap<Domain, Name>,
}

/// An address to knock at, with the port where none was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Seed(pub(crate) SocketAddr);

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let ip = || bare.parse().map(|ip| SocketAddr::new(ip, KNOCK_PORT));
        let wrong = |_| format!("`{}` is not an address", text.chars().take(80).collect::<String>());
        text.parse().or_else(|_| ip()).map(Self).map_err(wrong)
    }
}

impl TryFrom<String> for Seed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.port() == KNOCK_PORT { self.0.ip().fmt(f) } else { self.0.fmt(f) }
    }
}

/// A file that says no cloud.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CloudFileError {
    #[error(
        "{file} has {bytes} bytes, and {CLOUD_FILE_BYTES_MAX} are the most\n  help: count boxes rather than name them, and \
         add tenants with: firm tenant add"
    )]
    TooLong { file: String, bytes: usize },
    #[error(
        "{file} is not in UTF-8: line {line} has a byte {byte:#04x} that stands for nothing\n  help: save it in UTF-8; \
         editors have a setting for the encoding"
    )]
    NotText { file: String, line: usize, byte: u8 },
    #[error("{file} is no TOML from line {line} on: {said}")]
    NoToml { file: String, line: usize, said: String },
    /// Each fault with its line and what to write.
    #[error("{0}")]
    Faulty(ManifestError),
}

impl CloudFile {
    /// Reads and checks the bytes of a file. `file` is how the errors name it.
    pub(crate) fn read(bytes: Vec<u8>, file: &str) -> Result<Self, CloudFileError> {
        if bytes.len() > CLOUD_FILE_BYTES_MAX {
            return Err(CloudFileError::TooLong { file: file.to_owned(), bytes: bytes.len() });
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let (bytes, right) = (error.as_bytes(), error.utf8_error().valid_up_to());
            let before = std::str::from_utf8(&bytes[..right]).expect("it is UTF-8 up to there");
            let line = before.matches('\n').count() + 1;
            CloudFileError::NotText { file: file.to_owned(), line, byte: bytes[right] }
        })?;
        Self::parse(&text, file)
    }

    fn parse(text: &str, file: &str) -> Result<Self, CloudFileError> {
        let table = DeTable::parse(text).map_err(|error| no_toml(text, file, &error))?;
        let root = Spanned::new(0..text.len(), DeValue::Table(table.get_ref().clone()));
        let faults = match Self::deserialize(ValueDeserializer::from(root)) {
            Ok(read) => match read.faults() {
                none if none.is_empty() => return Ok(read),
                faults => faults,
            },
            Err(error) => misshapen(table.get_ref(), &error),
        };
        let told = ManifestError::of(&faults, text, file).expect("what can't be read has a fault");
        Err(CloudFileError::Faulty(told))
    }

    /// The JSON Schema of `cloud.toml`, for editors.
    pub(crate) fn schema() -> schemars::Schema {
        schemars::schema_for!(CloudFile)
    }

    /// The labels of the places where a box stands that is called one of `names`, on `segment` where that is known.
    pub(crate) fn labels_at(&self, names: &[&Name], segment: Option<&str>) -> BTreeMap<Name, Name> {
        let stands = |place: &&Place| {
            let by_segment = place.segment.is_some() && place.segment.as_deref() == segment;
            by_segment || place.boxes.iter().any(|called| names.contains(&called))
        };
        self.place.iter().filter(stands).flat_map(|place| place.labels.clone()).collect()
    }
}

/// What stands for no TOML. The manifest's reader says such things well, and looks no further than the first of them.
fn no_toml(text: &str, file: &str, error: &toml::de::Error) -> CloudFileError {
    let small = || (text.len() <= MANIFEST_BYTES_MAX).then(|| state::manifest::parse(text, file).err()).flatten();
    if let Some(told) = small() {
        return CloudFileError::Faulty(told);
    }
    let before = error.span().map_or(0, |span| text.floor_char_boundary(span.start));
    let line = text[..before].matches('\n').count() + 1;
    let said = error.message().lines().next().unwrap_or_default().to_owned();
    CloudFileError::NoToml { file: file.to_owned(), line, said }
}

// ---- what is misshapen ----

/// How each key is written.
const EXAMPLES: [(&str, &str); 21] = [
    ("cloud", "cloud = \"hut\""),
    ("domain", "domain = \"hut.example\""),
    ("seeds", "seeds = [\"10.1.0.7\", \"[fd00::7]:7741\"]"),
    ("boxes", "[[boxes]], and below it roles = \"web\" and count = 2"),
    ("place", "[[place]], and below it segment = \"a\" and labels = { rack = \"7\" }"),
    ("tenant", "[tenant.acme], and below it limit = { rate = \"500/s\" }"),
    ("roles", "roles = \"web\", or persistence, auth, several with commas, or solo"),
    ("count", "count = 3"),
    ("names", "names = [\"amber-otter\", \"brisk-heron\"]"),
    ("where", "where = { cores = 2, memory = \"4GiB\", disk = \"20GiB\" }"),
    ("cores", "cores = 2"),
    ("memory", "memory = \"4GiB\""),
    ("disk", "disk = \"20GiB\""),
    ("disks", "disks = 2"),
    ("segment", "segment = \"a\""),
    ("labels", "labels = { rack = \"7\" }"),
    ("spread", "spread = \"rack\""),
    ("domains", "domains = { \"shop.example\" = \"shop\" }"),
    ("limit", "limit = { rate = \"500/s\", burst = 1000 }"),
    ("rate", "rate = \"500/s\""),
    ("burst", "burst = 1000"),
];

fn example(key: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(known, _)| *known == key).map(|(_, example)| *example)
}

/// What is wrong with each part of a file that can't be read: serde stops at the first fault of all, so each part is
/// read alone.
fn misshapen(table: &DeTable<'_>, whole: &toml::de::Error) -> Vec<Fault> {
    let mut faults = Vec::new();
    // From top to bottom, as people mend it.
    let mut keys: Vec<_> = table.iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in keys {
        let at = key.get_ref().as_ref();
        match at {
            "cloud" => part::<Name>(at, value, &mut faults),
            "domain" => part::<String>(at, value, &mut faults),
            "seeds" => entries::<Seed>(at, value, &mut faults),
            "boxes" => entries::<Group>(at, value, &mut faults),
            "place" => entries::<Place>(at, value, &mut faults),
            "tenant" => match value.get_ref() {
                DeValue::Table(tenants) => {
                    for (name, tenant) in tenants {
                        let name = name.get_ref().as_ref();
                        match name.parse::<Name>() {
                            Ok(_) => part::<Tenant>(&format!("tenant.{name}"), tenant, &mut faults),
                            Err(error) => faults.push(fault(&format!("tenant.{name}"), error.to_string(), "tenant")),
                        }
                    }
                }
                _ => part::<BTreeMap<Name, Tenant>>(at, value, &mut faults),
            },
            _ => faults.push(Fault {
                at: at.to_owned(),
                said: "there is no such key".to_owned(),
                help: "write one of: cloud, domain, seeds, boxes, place, tenant".to_owned(),
            }),
        }
    }
    if !table.keys().any(|key| key.get_ref() == "cloud") {
        faults.push(fault("cloud", "it is missing, and says which cloud this is".to_owned(), "cloud"));
    }
    if faults.is_empty() {
        faults.push(fault("cloud", whole.message().lines().next().unwrap_or_default().to_owned(), "cloud"));
    }
    faults
}

fn fault(at: &str, said: String, key: &str) -> Fault {
    // A place lists its boxes by name.
    let example = if at.starts_with("place[") && key == "boxes" { example("names") } else { example(key) };
    let help = example.map_or_else(
        || "look what may stand there in docs/cloud-toml.md".to_owned(),
        |example| format!("write it as in {}", example.replacen("names =", &format!("{key} ="), 1)),
    );
    Fault { at: at.to_owned(), said, help }
}

fn entries<T: DeserializeOwned>(at: &str, value: &Spanned<DeValue<'_>>, faults: &mut Vec<Fault>) {
    match value.get_ref() {
        DeValue::Array(entries) => {
            for (index, entry) in entries.iter().enumerate() {
                part::<T>(&format!("{at}[{index}]"), entry, faults);
            }
        }
        other => faults.push(fault(at, format!("{} stands where a list belongs", kind(other)), at)),
    }
}

fn part<T: DeserializeOwned>(at: &str, value: &Spanned<DeValue<'_>>, faults: &mut Vec<Fault>) {
    let Err(error) = T::deserialize(ValueDeserializer::from(value.clone())) else { return };
    let mut path = at.to_owned();
    let found = error.span().and_then(|span| deeper(value, &span, &mut path)).unwrap_or(value.get_ref());
    faults.push(worded(&path, error.message(), found));
}

/// Follows `value` down to what lies at `span`, and writes the way there to `path`.
fn deeper<'v, 'i>(
    value: &'v Spanned<DeValue<'i>>,
    span: &std::ops::Range<usize>,
    path: &mut String,
) -> Option<&'v DeValue<'i>> {
    let before = path.len();
    let inner: Vec<(String, std::ops::Range<usize>, &Spanned<DeValue<'i>>)> = match value.get_ref() {
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (format!(".{}", key.get_ref()), key.span(), value)).collect()
        }
        DeValue::Array(values) => {
            values.iter().enumerate().map(|(at, value)| (format!("[{at}]"), value.span(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (step, key, value) in inner {
        path.push_str(&step);
        if key == *span {
            return Some(value.get_ref());
        }
        if let Some(found) = deeper(value, span, path) {
            return Some(found);
        }
        path.truncate(before);
    }
    (value.span() == *span).then_some(value.get_ref())
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// serde's sentence in our words, with an example of what belongs there.
fn worded(path: &str, message: &str, found: &DeValue<'_>) -> Fault {
    let ticked = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let line = message.lines().next().unwrap_or_default();
    // The nearest key on the way that is one of ours: a label's own key is its writer's.
    let keys = path.rsplit('.').map(|step| step.split('[').next().unwrap_or_default());
    let key = keys.clone().find(|key| example(key).is_some()).unwrap_or_default();
    if let Some(rest) = line.strip_prefix("unknown field `") {
        let expected = rest.split_once('`').map_or("", |(_, expected)| expected);
        let help = format!("write one of: {}", ticked(expected).join(", "));
        return Fault { at: path.to_owned(), said: "there is no such key".to_owned(), help };
    }
    if let Some(rest) = line.strip_prefix("missing field `") {
        let missing = rest.trim_end_matches('`');
        return fault(path, format!("it has no `{missing}`"), missing);
    }
    if line.starts_with("invalid type") {
        return fault(path, format!("{} doesn't belong here", kind(found)), key);
    }
    if line.starts_with("invalid value") {
        let number = found.as_integer().map_or_else(|| "it".to_owned(), |number| format!("`{}`", number.as_str()));
        return fault(path, format!("{number} is out of range"), key);
    }
    fault(path, line.to_owned(), key)
}

// ---- what is wrong with what could be read ----

#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn say(&mut self, at: impl Into<String>, said: impl Into<String>, help: impl Into<String>) {
        self.0.push(Fault { at: at.into(), said: said.into(), help: help.into() });
    }

    fn count(&mut self, at: &str, found: usize, max: usize) {
        if found > max {
            self.say(at, format!("there are {found}, and {max} are the most"), format!("leave {} out", found - max));
        }
    }

    fn segment(&mut self, at: &str, segment: Option<&String>) {
        let odd = |text: &String| {
            text.is_empty() || text.chars().count() > SEGMENT_NAME_CHARS_MAX || text.chars().any(char::is_control)
        };
        if segment.is_some_and(odd) {
            self.say(at, "it is no segment's name", "write it as `firm boxes` shows it");
        }
    }
}

impl CloudFile {
    fn faults(&self) -> Vec<Fault> {
        let mut faults = Faults::default();
        if !firming::is_cloud_domain(&self.domain) {
            let said = format!("`{}` is not a domain", self.domain.chars().take(80).collect::<String>());
            faults.say("domain", said, "write a name such as hut.example, or leave it out");
        }
        faults.count("seeds", self.seeds.len(), CLOUD_SEEDS_MAX);
        self.group_faults(&mut faults);
        self.place_faults(&mut faults);
        self.tenant_faults(&mut faults);
        faults.0
    }

    fn group_faults(&self, faults: &mut Faults) {
        faults.count("boxes", self.boxes.len(), CLOUD_GROUPS_MAX);
        if !self.boxes.iter().any(|group| group.roles.has(Role::Persistence)) {
            let help = "add [[boxes]] with roles = \"persistence\" and count = 3, or roles = \"solo\" and count = 1";
            faults.say("boxes", "no box keeps the cloud's data", help);
        }
        let all: usize = self.boxes.iter().map(Group::places).fold(0, usize::saturating_add);
        if all > BOXES_MAX {
            faults.say("boxes", format!("{all} boxes are more than the {BOXES_MAX} of a cloud"), "count fewer");
        }
        let mut named: BTreeMap<&Name, usize> = BTreeMap::new();
        for (index, group) in self.boxes.iter().enumerate() {
            let at = format!("boxes[{index}]");
            match (group.count, group.names.is_empty()) {
                (None, true) => {
                    faults.say(
                        &at,
                        "it says neither how many nor which",
                        "add count = 3, or names = [\"amber-otter\"]",
                    );
                }
                (Some(_), false) => faults.say(&at, "it says both how many and which", "take `count` or `names` out"),
                (Some(0), true) => {
                    faults.say(format!("{at}.count"), "no box at all", "write 1 or more, or take the entry out");
                }
                (Some(_), true) | (None, false) => {}
            }
            if !group.names.is_empty() && group.selector != Selector::default() {
                let help = "take `where` out, or count boxes rather than name them";
                faults.say(format!("{at}.where"), "boxes that are named are not chosen", help);
            }
            for name in &group.names {
                if let Some(first) = named.insert(name, index) {
                    let said = format!("{name} is named in boxes[{first}] already");
                    faults.say(
                        format!("{at}.names"),
                        said,
                        "name it once: roles = \"persistence,web\" gives it several",
                    );
                }
            }
            self.label_faults(&at, group, faults);
            faults.segment(&format!("{at}.where.segment"), group.selector.segment.as_ref());
        }
    }

    /// What is chosen or spread by must be known before a box is anything: so a place has to give it.
    fn label_faults(&self, at: &str, group: &Group, faults: &mut Faults) {
        let give = |key: &Name, value: &Name| format!("say where: [[place]] with labels = {{ {key} = \"{value}\" }}");
        for (key, value) in &group.selector.labels {
            if !self.place.iter().any(|place| place.labels.get(key) == Some(value)) {
                let said = format!("no place has the label {key}={value}");
                faults.say(format!("{at}.where.labels"), said, give(key, value));
            }
        }
        if let Some(key) = group.spread.as_ref().filter(|key| key.as_str() != SEGMENT)
            && !self.place.iter().any(|place| place.labels.contains_key(key))
        {
            let help =
                format!("say where boxes stand: [[place]] with labels = {{ {key} = \"7\" }}; or leave `spread` out");
            faults.say(format!("{at}.spread"), format!("no place has a label {key}"), help);
        }
        for key in group.labels.keys() {
            if let Some(by) = self.boxes.iter().position(|other| other.selector.labels.contains_key(key)) {
                let said = format!(
                    "boxes[{by}] chooses by the label {key}, so that it can't be given to those who are chosen"
                );
                faults.say(format!("{at}.labels"), said, "give it in a [[place]]");
            }
        }
    }

    fn place_faults(&self, faults: &mut Faults) {
        faults.count("place", self.place.len(), CLOUD_PLACES_MAX);
        let mut told: BTreeMap<(&Name, &Name), (&Name, usize)> = BTreeMap::new();
        for (index, place) in self.place.iter().enumerate() {
            let at = format!("place[{index}]");
            if place.labels.is_empty() {
                faults.say(&at, "it has no label", "add labels = { rack = \"7\" }, or take the place out");
            }
            if place.segment.is_none() && place.boxes.is_empty() {
                faults.say(&at, "nobody stands there", "add segment = \"a\", or boxes = [\"amber-otter\"]");
            }
            faults.segment(&format!("{at}.segment"), place.segment.as_ref());
            for (name, (key, value)) in
                place.boxes.iter().flat_map(|name| place.labels.iter().map(move |label| (name, label)))
            {
                if let Some((other, first)) = told.insert((name, key), (value, index))
                    && other != value
                {
                    let said = format!("{name} has {key}={value} here and {key}={other} in place[{first}]");
                    faults.say(format!("{at}.boxes"), said, "keep it in one of them");
                }
            }
        }
        let places = self.place.iter().flat_map(|place| place.labels.keys());
        let keys: BTreeSet<&Name> = places.chain(self.boxes.iter().flat_map(|group| group.labels.keys())).collect();
        if keys.len() > BOX_LABELS_MAX {
            let said = format!("there are {} kinds of labels, and a box has room for {BOX_LABELS_MAX}", keys.len());
            faults.say("place", said, "leave those out that say no more than others");
        }
    }

    fn tenant_faults(&self, faults: &mut Faults) {
        faults.count("tenant", self.tenant.len(), TENANTS_MAX);
        let mut taken: BTreeMap<&Domain, &Name> = BTreeMap::new();
        for (name, tenant) in &self.tenant {
            let at = format!("tenant.{name}");
            if tenant.limit.as_ref().is_some_and(|limit| limit.burst == Some(0)) {
                let help = "write 1 or more, or leave it out";
                faults.say(format!("{at}.limit.burst"), "a burst of 0 lets nothing through", help);
            }
            let at = format!("{at}.domains");
            let mut of_app: BTreeMap<&Name, usize> = BTreeMap::new();
            for (domain, app) in &tenant.domains {
                if domain.is_within(&self.domain) {
                    let said = format!("{domain} lies within the cloud's own domain {}", self.domain);
                    faults.say(&at, said, "take it out: every app has its name there already");
                }
                if let Some(other) = taken.insert(domain, name) {
                    faults.say(&at, format!("{domain} is {other}'s already"), "keep it with one of them");
                }
                *of_app.entry(app).or_default() += 1;
            }
            for (app, domains) in of_app {
                if domains > DOMAINS_PER_APP_MAX {
                    let said = format!("{app} has {domains} domains, and {DOMAINS_PER_APP_MAX} are the most");
                    faults.say(&at, said, "spread them over several apps");
                }
            }
        }
    }
}

/// What `spread` is over, unless it says otherwise. No label is called so where it is meant.
pub(crate) const SEGMENT: &str = "segment";

impl Group {
    /// How many boxes it wants.
    pub(crate) fn places(&self) -> usize {
        self.count.map_or(self.names.len(), |count| usize::try_from(count).unwrap_or(usize::MAX))
    }
}

/// As it stands in the file, without its braces.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, memory, disk, disks, segment, labels } = self;
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key} = \"{value}\"")).collect();
        let all = [
            cores.map(|cores| format!("cores = {cores}")),
            memory.map(|memory| format!("memory = \"{memory}\"")),
            disk.map(|disk| format!("disk = \"{disk}\"")),
            disks.map(|disks| format!("disks = {disks}")),
            segment.as_ref().map(|segment| format!("segment = {}", quoted(segment))),
            (!labels.is_empty()).then(|| format!("labels = {{ {} }}", labels.join(", "))),
        ];
        f.write_str(&all.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
