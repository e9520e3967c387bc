//! Boxes: who one is, what it is called, what it does.

mod words;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::as_text;
use crate::{Digest, Name};

/// A box, told by its Ed25519 public key (RFC 8032). Nothing else names one: hardware ids collide in the field.
///
/// Written in lower-case base32 without padding. That somebody says an id proves nothing; that a key was held is
/// what a link or an introduction proves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BoxId(pub [u8; BoxId::BYTES]);

/// Text that is not a box id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a box id: 52 of the letters a–z and digits 2–7 are wanted, as `firm boxes --json` shows them")]
pub struct BoxIdError(String);

impl BoxId {
    pub const BYTES: usize = 32;

    /// What people call it, such as `amber-otter`. Two boxes of a thousand share one now and then (65,536 names); then
    /// [`BoxId::long_name`] tells them apart.
    #[must_use]
    pub fn name(&self) -> Name {
        let digest = Digest::of(&self.0);
        let [adjective, animal, ..] = digest.as_bytes();
        format!("{}-{}", words::ADJECTIVES[usize::from(*adjective)], words::ANIMALS[usize::from(*animal)])
            .parse()
            .expect("a test reads all words as names")
    }

    /// The name and the id's first eight letters: 2^40 keys would have to be tried for a given one.
    #[must_use]
    pub fn long_name(&self) -> Name {
        format!("{}-{}", self.name(), &self.to_string()[..8]).parse().expect("a name, a hyphen and eight letters")
    }
}

impl fmt::Display for BoxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl fmt::Debug for BoxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BoxId({self})")
    }
}

impl FromStr for BoxId {
    type Err = BoxIdError;

    fn from_str(text: &str) -> Result<Self, BoxIdError> {
        from_base32(text).map(Self).ok_or_else(|| BoxIdError(text.chars().take(60).collect()))
    }
}

/// A cloud, told by 16 random bytes that were drawn when it was founded. Two clouds may have one name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloudId(pub [u8; CloudId::BYTES]);

/// Text that is not a cloud id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a cloud id: 26 of the letters a–z and digits 2–7 are wanted")]
pub struct CloudIdError(String);

impl CloudId {
    pub const BYTES: usize = 16;
}

impl fmt::Display for CloudId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl fmt::Debug for CloudId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CloudId({self})")
    }
}

impl FromStr for CloudId {
    type Err = CloudIdError;

    fn from_str(text: &str) -> Result<Self, CloudIdError> {
        from_base32(text).map(Self).ok_or_else(|| CloudIdError(text.chars().take(60).collect()))
    }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// The bytes, when `text` is what [`base32`] writes for them, to the letter.
fn from_base32<const N: usize>(text: &str) -> Option<[u8; N]> {
    let known = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    let bytes = known.then(|| BASE32_NOPAD.decode(text.to_ascii_uppercase().as_bytes()).ok())??;
    bytes.try_into().ok()
}

/// What a box does for its cloud.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds databases, chunks and the record.
    Persistence,
    /// Terminates TLS, serves files, runs tenants' code.
    Web,
    /// Holds the keys that sign tokens.
    Auth,
}

/// All roles of a box: one or more.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Roles(BTreeSet<Role>);

/// Text that names no roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: persistence, web, auth, several of them with commas, or solo, which is all three")]
pub struct RolesError(String);

impl Role {
    pub const ALL: [Self; 3] = [Self::Persistence, Self::Web, Self::Auth];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persistence => "persistence",
            Self::Web => "web",
            Self::Auth => "auth",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Roles {
    /// Every role: a whole cloud on one box.
    #[must_use]
    pub fn solo() -> Self {
        Self(Role::ALL.into())
    }

    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.0.contains(&role)
    }

    pub fn iter(&self) -> impl Iterator<Item = Role> + '_ {
        self.0.iter().copied()
    }
}

impl From<Role> for Roles {
    fn from(role: Role) -> Self {
        Self(BTreeSet::from([role]))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == Role::ALL.len() {
            return f.pad("solo");
        }
        let names: Vec<_> = self.iter().map(Role::as_str).collect();
        f.pad(&names.join(","))
    }
}

impl FromStr for Roles {
    type Err = RolesError;

    fn from_str(text: &str) -> Result<Self, RolesError> {
        if text == "solo" {
            return Ok(Self::solo());
        }
        let one = |word: &str| Role::ALL.into_iter().find(|role| role.as_str() == word);
        let roles: Option<BTreeSet<_>> = text.split(',').map(one).collect();
        roles.map(Self).ok_or_else(|| RolesError(text.chars().take(60).collect()))
    }
}

as_text! {
    BoxId, "^[a-z2-7]{52}$", "A box's Ed25519 public key in base32";
    CloudId, "^[a-z2-7]{26}$", "A cloud's id in base32";
    Roles, "^(solo|(persistence|web|auth)(,(persistence|web|auth)){0,2})$", "What a box does: persistence, web, auth, several with commas, or solo";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_word_makes_a_name_and_none_comes_twice() {
        let mut seen = HashSet::new();
        for word in words::ADJECTIVES.into_iter().chain(words::ANIMALS) {
            assert!(word.parse::<Name>().is_ok() && !word.contains('-'), "{word}");
            assert!(seen.insert(word), "{word} comes twice");
        }
        let longest = |words: &[&str]| words.iter().map(|word| word.len()).max().expect("there are words");
        assert!(longest(&words::ADJECTIVES) + longest(&words::ANIMALS) + 2 + 8 <= crate::limits::NAME_BYTES_MAX);
    }

    #[test]
    fn a_box_is_called_the_same_in_every_build() {
        // A change of the words or of how they are drawn would rename boxes that stand in racks.
        let names = [0_u8, 1, 255].map(|byte| BoxId([byte; 32]).long_name().to_string());
        assert_eq!(names, NAMES);
    }

    const NAMES: [&str; 3] = ["cosmic-sloth-aaaaaaaa", "nimble-bongo-aeaqcaib", "opal-coyote-77777777"];

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = BoxId([0xa7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        let upper = id.to_string().to_ascii_uppercase();
        for wrong in ["", "amber-otter", &id.to_string()[1..], &upper, &format!("{id}a")] {
            assert!(wrong.parse::<BoxId>().is_err(), "{wrong}");
        }
        // 52 letters hold 260 bits: the last four must be 0, or two texts would name one box.
        let trailing = format!("{}b", "a".repeat(51));
        assert!(trailing.parse::<BoxId>().is_err());
    }

    #[test]
    fn solo_is_all_roles() {
        assert_eq!("solo".parse(), Ok(Roles::solo()));
        assert_eq!("web,auth,persistence".parse::<Roles>().map(|roles| roles.to_string()), Ok("solo".to_owned()));
        assert_eq!("auth,web".parse::<Roles>().map(|roles| roles.to_string()), Ok("web,auth".to_owned()));
        for wrong in ["", "web,", "WEB", "web auth", "database"] {
            assert!(wrong.parse::<Roles>().is_err(), "{wrong}");
        }
    }
}
