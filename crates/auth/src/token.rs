//! Tokens: `firm_<id>_<secret>`, where the id may be shown and the secret is 32 random bytes.

use std::sync::LazyLock;

use base::{Digest, TokenId};
use data_encoding::{Encoding, Specification};

/// Base 32 in lower case without padding: no letter that a terminal selects differently, no `_` or `-`.
static TEXT: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("32 different symbols make an encoding")
});

/// A new token: what its holder gets, and what the record keeps.
#[derive(Clone)]
pub struct Minted {
    pub id: TokenId,
    /// Shown once.
    pub secret: String,
    /// BLAKE3 of the secret's text.
    pub hash: Digest,
}

/// Makes a token of 40 random bytes: 8 name it, 32 prove it.
pub fn mint(random: [u8; 40]) -> Minted {
    let (id, proof) = random.split_at(8);
    let id = TokenId(u64::from_be_bytes(id.try_into().expect("split at 8")));
    let secret = format!("firm_{id}_{}", TEXT.encode(proof));
    let hash = Digest::of(secret.as_bytes());
    Minted { id, secret, hash }
}

/// The id that a token's text claims, and the hash to compare. `None` when the text is no token.
pub(crate) fn read(text: &str) -> Option<(TokenId, blake3::Hash)> {
    let (id, _) = text.strip_prefix("firm_")?.split_once('_')?;
    Some((id.parse().ok()?, blake3::hash(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_itself() {
        let minted = mint([7; 40]);
        assert!(minted.secret.starts_with("firm_0707070707070707_"));
        let (id, hash) = read(&minted.secret).expect("it was just minted");
        assert_eq!((id, Digest::from(hash)), (minted.id, minted.hash));
    }

    #[test]
    fn other_text_is_no_token() {
        for text in ["", "firm_", "firm_07_x", "firm_0707070707070707", "Firm_0707070707070707_x"] {
            assert!(read(text).is_none(), "{text}");
        }
    }
}
