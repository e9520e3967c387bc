//! What there is: the boxes that were seen, and the cloud as it is.
//!
//! Whoever looks fills these in; a plan takes them for facts. So what a box merely says of itself must not get here as
//! trust: `trusted` is what the operator's program knows, by a seal or by words that were compared.

use std::collections::{BTreeMap, BTreeSet};

use base::{BoxId, CloudId, Domain, Name, Roles};
use segment::knock::Hardware;
use state::Ceiling;

/// A box that proved its key when it was knocked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) id: BoxId,
    /// Its name, or its long name where another box that was seen has that too.
    pub(crate) name: Name,
    pub(crate) standing: Standing,
    /// Why it doesn't move, in its own words.
    pub(crate) why: Option<String>,
    /// The cloud that it is of, or is on its way to.
    pub(crate) cloud: Option<(CloudId, Name)>,
    pub(crate) roles: Option<Roles>,
    pub(crate) hardware: Hardware,
    /// What the segment is called that it was seen on, as `firm boxes` shows it. None of one at a seed's address.
    pub(crate) segment: Option<String>,
    /// Its seal is this operator's, or its words were compared, or this operator firmed it.
    pub(crate) trusted: bool,
    /// Another box proved the same key: a disk was copied.
    pub(crate) has_twin: bool,
}

/// Where a box stands on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Blank,
    Firming,
    Firm,
    Resetting,
}

impl Standing {
    const ALL: [(Self, &str); 4] =
        [(Self::Blank, "blank"), (Self::Firming, "firming"), (Self::Firm, "firm"), (Self::Resetting, "resetting")];

    /// From the word that a box says.
    pub(crate) fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == word).map(|(standing, _)| standing)
    }
}

/// The cloud, as its record has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cloud {
    pub(crate) id: CloudId,
    pub(crate) name: Name,
    pub(crate) domain: String,
    pub(crate) boxes: BTreeMap<BoxId, Member>,
    /// Keys that never come back. Those that aren't known of are refused by the cloud itself.
    pub(crate) evicted: BTreeSet<BoxId>,
    pub(crate) tenants: BTreeMap<Name, Renter>,
    pub(crate) domains: BTreeMap<Domain, Claim>,
}

/// A box that was let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: Name,
    pub(crate) roles: Roles,
    pub(crate) labels: BTreeMap<String, String>,
    /// Did it come?
    pub(crate) joined: bool,
    /// It is about to go.
    pub(crate) leaving: bool,
}

/// A tenant as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Renter {
    pub(crate) limit: Option<Ceiling>,
    pub(crate) apps: BTreeSet<Name>,
}

/// Whose app answers a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) tenant: Name,
    pub(crate) app: Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_box_is_known() {
        for (standing, word) in Standing::ALL {
            assert!(firming::Standing::is_word(word));
            assert_eq!(Standing::of(word), Some(standing));
        }
        assert_eq!(Standing::of("bored"), None);
    }
}
