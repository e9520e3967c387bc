//! Ids: numbers that the record allots once and never again, whatever happens to names.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::text::as_text;

macro_rules! numbered {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

numbered! {
    /// A tenant. Everything below the router is named by one; there is no way to call it without.
    TenantId;
    /// An app. A new app of an old name has a new id.
    AppId;
    /// One stage's data set. Stages never share one.
    DatabaseId;
}

/// The number of a release within its app, counted from 1 and written `r7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReleaseNo(pub u32);

/// Text that is not a release number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a release: write r and its number, as in r7")]
pub struct ReleaseNoError(String);

impl fmt::Display for ReleaseNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

impl FromStr for ReleaseNo {
    type Err = ReleaseNoError;

    fn from_str(text: &str) -> Result<Self, ReleaseNoError> {
        text.strip_prefix('r')
            .filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(Self)
            .ok_or_else(|| ReleaseNoError(text.chars().take(40).collect()))
    }
}

/// What names a token in lists and logs: 8 random bytes in hexadecimal. Not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TokenId(pub u64);

/// Text that is not a token id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a token id: 16 hexadecimal digits are wanted, as `firm token list` shows them")]
pub struct TokenIdError(String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = TokenIdError;

    fn from_str(text: &str) -> Result<Self, TokenIdError> {
        Some(text)
            .filter(|text| text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .map(Self)
            .ok_or_else(|| TokenIdError(text.chars().take(40).collect()))
    }
}

as_text! {
    ReleaseNo, "^r[0-9]+$", "The number of a release within its app";
    TokenId, "^[0-9a-f]{16}$", "What names a token in lists and logs; not secret";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_written_with_an_r() {
        assert_eq!(ReleaseNo(7).to_string(), "r7");
        assert_eq!("r7".parse(), Ok(ReleaseNo(7)));
        for wrong in ["7", "r", "r-1", "r+1", "r99999999999", "R7", ""] {
            assert!(wrong.parse::<ReleaseNo>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn token_ids_keep_their_leading_zeros() {
        let id = TokenId(0xab);
        assert_eq!(id.to_string(), "00000000000000ab");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!("+0000000000000ab".parse::<TokenId>().is_err());
    }
}
