//! What a box may be told, and what it keeps of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base::limits::{BOX_LABELS_MAX, DOORS_MAX, LINK_PORT_AFTER, OPERATORS_MAX, SIGHTING_ADDRESSES_MAX};
use base::{BoxId, CloudId, Domain, Name, Roles, Timestamp};
use serde::{Deserialize, Serialize};

/// 16 random bytes in hexadecimal, drawn by the one who gave the order. An order that comes twice is one order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub String);

/// What an operator tells one box. Whoever hands it on has checked who signed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub id: OrderId,
    /// The box that it is for. All others refuse it.
    pub to: BoxId,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Be wiped, then be this.
    Firm(Box<Assignment>),
    /// Be wiped, then be blank.
    Reset,
}

/// What a box was told to be, and by which order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Task {
    pub order: OrderId,
    pub assignment: Box<Assignment>,
}

/// What a box is to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub cloud: CloudId,
    /// What people call the cloud.
    pub name: Name,
    pub roles: Roles,
    pub way: Way,
    /// Where the box stands, for those who spread things: `rack = "7"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whose orders the box takes from now on.
    pub operators: Vec<BoxId>,
    /// What the box shows others of its cloud, who wonder whether an operator gave it its roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warrant: Option<Warrant>,
}

/// An operator's signature for a box's key and roles in a cloud.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Warrant {
    pub by: BoxId,
    /// Ed25519, in base64.
    pub signature: String,
}

/// How the box comes into the cloud.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It is the cloud's first: it makes its authority and its record.
    Found {
        /// Apps answer at APP.TENANT.DOMAIN, the API at api.DOMAIN.
        domain: String,
        /// The cloud's first tenant.
        tenant: Name,
    },
    /// It asks at these doors, in turn. The box behind a door proves that it has this key before it is believed.
    Join { doors: Vec<Door> },
}

/// A persistence box, and where to knock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Door {
    pub id: BoxId,
    pub addresses: Vec<SocketAddr>,
}

impl Door {
    /// The door of a box whose links are listened for there.
    #[must_use]
    pub fn beside(id: BoxId, links: &[SocketAddr]) -> Self {
        Self { id, addresses: links.iter().copied().map(Self::address_beside).collect() }
    }

    /// Where one knocks at a box whose links are listened for there.
    #[must_use]
    pub fn address_beside(link: SocketAddr) -> SocketAddr {
        SocketAddr::new(link.ip(), link.port().saturating_sub(LINK_PORT_AFTER))
    }
}

/// What a box is once it is firm.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    pub cloud: CloudId,
    pub name: Name,
    pub roles: Roles,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub operators: Vec<BoxId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warrant: Option<Warrant>,
    /// The order that it followed.
    pub order: OrderId,
    pub since: Timestamp,
}

/// All that a box keeps of its state between two starts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nobody's, or nobody's any more. Holds no data.
    #[default]
    Blank,
    /// It took an order and isn't there yet. Its data belongs to nobody and is wiped before anything else.
    Firming {
        task: Task,
        since: Timestamp,
    },
    Firm(Membership),
    /// On its way out: whatever happens, its data goes.
    Resetting {
        then: Then,
        /// Its key goes too: an evicted box comes back as another one.
        new_key: bool,
        /// What it leaves, so that it can say goodbye once more.
        left: Option<Membership>,
    },
}

/// What comes after the wiping.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    Blank,
    Firm(Task),
}

/// Why an order was not taken. The box is as it was.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("the order is for {wanted}, and this box is {found}")]
    OtherBox { wanted: BoxId, found: BoxId },
    #[error("this box's seal names another operator: it takes orders from that key's holder only")]
    OtherSeal,
    #[error("this box belongs to cloud {0}, and the key that signed the order is none of its operators'")]
    OtherCloud(Name),
    #[error("this box is firming for another operator: try again when it is done")]
    OtherOperator,
    #[error("this box is {0} of cloud {1}: reset it first, or change its roles through its cloud")]
    FirmAlready(Roles, Name),
    #[error("the box can't write it down: {0}")]
    Unwritten(String),
    #[error("another order came before this one was written down")]
    Overtaken,
    #[error("an order to join names no door to knock at")]
    NoDoor,
    #[error("the order would leave the box without an operator")]
    NoOperator,
    #[error("the order names {found} {what}, and {max} are the most")]
    TooMany { what: &'static str, found: usize, max: usize },
    #[error(
        "the order has a label that is no label: keys and values are lower-case letters, digits and single hyphens"
    )]
    Label,
    #[error("the order's domain is none: write a name such as cloud.example, or localhost")]
    Domain,
}

impl Standing {
    /// Is this one of the words that [`Standing::word`] gives?
    #[must_use]
    pub fn is_word(text: &str) -> bool {
        ["blank", "firming", "firm", "resetting"].contains(&text)
    }

    /// One word for lists.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Blank => "blank",
            Self::Firming { .. } => "firming",
            Self::Firm(_) => "firm",
            Self::Resetting { .. } => "resetting",
        }
    }

    #[must_use]
    pub fn membership(&self) -> Option<&Membership> {
        match self {
            Self::Firm(membership) => Some(membership),
            _ => None,
        }
    }

    /// May the holder of `signer` give this box orders? `seal` is the one key that a sealed image trusts.
    ///
    /// An unsealed blank box takes its first order from anybody who introduced themselves to it: its console tells
    /// whoever stands there the proof words of each. From then on it obeys its operators alone.
    pub fn obeys(&self, seal: Option<BoxId>, signer: BoxId) -> Result<(), NotTaken> {
        let among = |operators: &[BoxId]| operators.contains(&signer) || seal == Some(signer);
        match self {
            Self::Firm(membership) | Self::Resetting { left: Some(membership), .. } => {
                if among(&membership.operators) {
                    Ok(())
                } else {
                    Err(NotTaken::OtherCloud(membership.name.clone()))
                }
            }
            Self::Firming { task, .. } | Self::Resetting { then: Then::Firm(task), .. } => {
                if among(&task.assignment.operators) { Ok(()) } else { Err(NotTaken::OtherOperator) }
            }
            Self::Blank | Self::Resetting { .. } => match seal {
                Some(operator) if operator != signer => Err(NotTaken::OtherSeal),
                _ => Ok(()),
            },
        }
    }
}

/// Can a cloud's own names lie in it?
#[must_use]
pub fn is_cloud_domain(text: &str) -> bool {
    text == "localhost" || text.parse::<Domain>().is_ok()
}

/// Characters of an Ed25519 signature in base64.
const SIGNATURE_CHARS_MAX: usize = 88;

impl Assignment {
    /// What an order says is its operator's, and an operator may be anybody: it is bounded before it is kept.
    pub fn check(&self) -> Result<(), NotTaken> {
        let room = |what, found, max| if found > max { Err(NotTaken::TooMany { what, found, max }) } else { Ok(()) };
        if self.operators.is_empty() {
            return Err(NotTaken::NoOperator);
        }
        room("operators", self.operators.len(), OPERATORS_MAX)?;
        room("labels", self.labels.len(), BOX_LABELS_MAX)?;
        let signature = self.warrant.as_ref().map_or(0, |warrant| warrant.signature.len());
        room("characters of a signature", signature, SIGNATURE_CHARS_MAX)?;
        if self.labels.iter().flat_map(|(key, value)| [key, value]).any(|text| text.parse::<Name>().is_err()) {
            return Err(NotTaken::Label);
        }
        match &self.way {
            Way::Found { domain, .. } if !is_cloud_domain(domain) => Err(NotTaken::Domain),
            Way::Found { .. } => Ok(()),
            Way::Join { doors } => {
                room("doors", doors.len(), DOORS_MAX)?;
                let addresses = doors.iter().map(|door| door.addresses.len()).sum();
                room("addresses", addresses, DOORS_MAX * SIGHTING_ADDRESSES_MAX)?;
                if addresses == 0 { Err(NotTaken::NoDoor) } else { Ok(()) }
            }
        }
    }
}

impl Task {
    /// Does it make a box of this cloud another box of the same cloud?
    #[must_use]
    pub fn is_of(&self, membership: &Membership) -> bool {
        self.assignment.cloud == membership.cloud && matches!(self.assignment.way, Way::Join { .. })
    }

    /// What the box is, once this is done.
    #[must_use]
    pub fn membership(&self, since: Timestamp) -> Membership {
        let Assignment { cloud, name, roles, labels, operators, warrant, way: _ } = self.assignment.as_ref().clone();
        Membership { cloud, name, roles, labels, operators, warrant, order: self.order.clone(), since }
    }
}
