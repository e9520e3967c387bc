//! What auth boxes and operators sign: the bytes of a token, of a box's warrant, of an operator's wish for access.
//!
//! Each begins with its kind and its cloud, and each part has a length that is told or fixed: no two things have the same
//! bytes.

use base::{BoxId, CloudId, Roles, Timestamp};
use state::Token;

/// That this token is the cloud's. Its label isn't in it: it gives no right.
#[must_use]
pub fn token_word(cloud: CloudId, token: &Token) -> Vec<u8> {
    let mut bytes = kind(b"token", cloud);
    bytes.extend(token.id.0.to_be_bytes());
    let tenant = token.tenant.map(|tenant| tenant.0);
    for part in [tenant, token.expires.map(|expires| expires.0)] {
        bytes.push(u8::from(part.is_some()));
        bytes.extend(part.unwrap_or(0).to_be_bytes());
    }
    bytes.extend(token.hash.as_bytes());
    bytes.extend(token.grant.to_string().as_bytes());
    bytes
}

/// That the box with this key may have these roles.
#[must_use]
pub fn warrant_word(cloud: CloudId, id: BoxId, roles: &Roles) -> Vec<u8> {
    let mut bytes = kind(b"warrant", cloud);
    bytes.extend(id.0);
    bytes.extend(roles.to_string().as_bytes());
    bytes
}

/// That whoever brings this may be given an operator's token, made for the box at whose door it was asked for.
#[must_use]
pub fn access_word(cloud: CloudId, door: BoxId, at: Timestamp, nonce: [u8; 16]) -> Vec<u8> {
    let mut bytes = kind(b"access", cloud);
    bytes.extend(door.0);
    bytes.extend(at.0.to_be_bytes());
    bytes.extend(nonce);
    bytes
}

fn kind(kind: &[u8], cloud: CloudId) -> Vec<u8> {
    [b"firmament ", kind, b" 1\0", &cloud.0].concat()
}

#[cfg(test)]
mod tests {
    use base::{Digest, TenantId, TokenId};
    use state::Grant;

    use super::*;

    const CLOUD: CloudId = CloudId([5; 16]);

    fn token() -> Token {
        Token {
            id: TokenId(1),
            tenant: Some(TenantId(2)),
            grant: Grant::Read,
            label: "ada".to_owned(),
            hash: Digest::of(b"secret"),
            created: Timestamp(3),
            expires: None,
            signed: None,
        }
    }

    #[test]
    fn whatever_gives_a_right_changes_the_word() {
        let word = token_word(CLOUD, &token());
        let others = [
            Token { id: TokenId(2), ..token() },
            Token { tenant: None, ..token() },
            Token { tenant: Some(TenantId(3)), ..token() },
            Token { grant: Grant::Own, ..token() },
            Token { hash: Digest::of(b"another"), ..token() },
            Token { expires: Some(Timestamp(9)), ..token() },
        ];
        for other in others {
            assert_ne!(token_word(CLOUD, &other), word, "{other:?}");
        }
        assert_ne!(token_word(CloudId([6; 16]), &token()), word);
        assert_eq!(token_word(CLOUD, &Token { label: "bob".to_owned(), ..token() }), word);
    }

    #[test]
    fn one_thing_s_word_is_no_other_s() {
        let id = BoxId([1; 32]);
        let solo = warrant_word(CLOUD, id, &Roles::solo());
        assert_ne!(solo, warrant_word(CLOUD, id, &base::Role::Auth.into()));
        assert_ne!(solo, warrant_word(CLOUD, BoxId([2; 32]), &Roles::solo()));
        let access = access_word(CLOUD, id, Timestamp(1), [0; 16]);
        assert_ne!(access, access_word(CLOUD, id, Timestamp(2), [0; 16]));
        assert!(!solo.starts_with(&access[..20]) && !access.starts_with(&solo[..20]));
    }
}
