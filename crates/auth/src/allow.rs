//! From a token's text to a caller, and from a caller to yes or no.

use std::sync::Arc;

use base::{TenantId, Timestamp};
use state::{Actor, Grant, Record, Token};

/// Somebody whose token is in the record and valid now.
#[derive(Clone, Debug)]
pub struct Caller(Arc<Token>);

/// What a request wants, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// To be known.
    Known,
    /// This grant with this tenant.
    Member(TenantId, Grant),
    /// To operate the cloud.
    Operator,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no token was sent")]
    NoToken,
    /// Unknown, revoked and wrong are one: a guesser learns nothing.
    #[error("the token is not valid")]
    Invalid,
    #[error("the token expired at {0}")]
    Expired(Timestamp),
    /// So is another tenant's thing and a thing that doesn't exist, to who may see neither.
    #[error("the token belongs to another tenant")]
    OtherTenant,
    #[error("the token grants `{has}`, and this needs `{needs}`")]
    TooLittle { has: Grant, needs: Grant },
}

impl Caller {
    pub fn token(&self) -> &Token {
        &self.0
    }

    /// How the record names the caller.
    pub fn actor(&self) -> Actor {
        Actor::Token { id: self.0.id, label: self.0.label.clone() }
    }

    pub fn is_operator(&self) -> bool {
        self.0.grant == Grant::Operate
    }
}

/// Who sent this token?
pub fn identify(record: &Record, now: Timestamp, text: Option<&str>) -> Result<Caller, Denied> {
    let (id, hash) = crate::token::read(text.ok_or(Denied::NoToken)?).ok_or(Denied::Invalid)?;
    let token = record.token(id).ok_or(Denied::Invalid)?;
    // `blake3::Hash` compares in constant time.
    if blake3::Hash::from_bytes(*token.hash.as_bytes()) != hash {
        return Err(Denied::Invalid);
    }
    match token.expires {
        Some(expires) if expires <= now => Err(Denied::Expired(expires)),
        _ => Ok(Caller(Arc::clone(token))),
    }
}

/// May the caller?
pub fn may(caller: &Caller, wants: Wants) -> Result<(), Denied> {
    let token = caller.token();
    let (tenant, needs) = match wants {
        Wants::Known => return Ok(()),
        Wants::Operator => (None, Grant::Operate),
        Wants::Member(tenant, needs) => (Some(tenant), needs),
    };
    if token.grant == Grant::Operate {
        return Ok(());
    }
    if tenant.is_some() && token.tenant != tenant {
        return Err(Denied::OtherTenant);
    }
    if token.grant < needs { Err(Denied::TooLittle { has: token.grant, needs }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use base::TokenId;
    use state::{Command, Entry, Sealed};

    use super::*;
    use crate::mint;

    const NOW: Timestamp = Timestamp(1_000);

    fn record(tenants: &[&str], tokens: &[(u8, Option<u64>, Grant, Option<Timestamp>)]) -> Record {
        let mut record = Record::default();
        let mut apply = |command| {
            record.apply(&Entry { at: NOW, by: Actor::Box, command }).expect("the test's commands are right");
        };
        for name in tenants {
            apply(Command::TenantCreate { name: name.parse().expect("a name"), key: Sealed(String::new()) });
        }
        for (seed, tenant, grant, expires) in tokens {
            let minted = mint([*seed; 40]);
            apply(Command::TokenCreate {
                id: minted.id,
                tenant: tenant.map(TenantId),
                grant: *grant,
                label: format!("token {seed}"),
                hash: minted.hash,
                expires: *expires,
                signed: None,
            });
        }
        record
    }

    fn secret(seed: u8) -> String {
        mint([seed; 40]).secret
    }

    #[test]
    fn only_the_right_secret_in_time_is_known() {
        let record = record(&["acme"], &[(1, Some(1), Grant::Read, None), (2, Some(1), Grant::Read, Some(NOW))]);
        assert!(identify(&record, NOW, Some(&secret(1))).is_ok());
        let outcome = |text: Option<&str>| identify(&record, NOW, text).expect_err("it must be refused");
        assert_eq!(outcome(None), Denied::NoToken);
        assert_eq!(outcome(Some("nonsense")), Denied::Invalid);
        assert_eq!(outcome(Some(&secret(3))), Denied::Invalid);
        assert_eq!(outcome(Some(&secret(2))), Denied::Expired(NOW));
        let mut wrong = secret(1);
        wrong.pop();
        assert_eq!(outcome(Some(&wrong)), Denied::Invalid);
        let id = TokenId(0x0101_0101_0101_0101);
        assert_eq!(outcome(Some(&format!("firm_{id}_"))), Denied::Invalid);
    }

    #[test]
    fn a_grant_holds_for_its_own_tenant_only() {
        let record = record(&["acme", "zeta"], &[(1, Some(1), Grant::Deploy, None), (2, None, Grant::Operate, None)]);
        let member = identify(&record, NOW, Some(&secret(1))).expect("valid");
        let operator = identify(&record, NOW, Some(&secret(2))).expect("valid");
        assert_eq!(may(&member, Wants::Known), Ok(()));
        assert_eq!(may(&member, Wants::Member(TenantId(1), Grant::Read)), Ok(()));
        assert_eq!(may(&member, Wants::Member(TenantId(1), Grant::Deploy)), Ok(()));
        let too_little = |needs| Err(Denied::TooLittle { has: Grant::Deploy, needs });
        assert_eq!(may(&member, Wants::Member(TenantId(1), Grant::Own)), too_little(Grant::Own));
        assert_eq!(may(&member, Wants::Member(TenantId(2), Grant::Visit)), Err(Denied::OtherTenant));
        assert_eq!(may(&member, Wants::Operator), too_little(Grant::Operate));
        for wants in [Wants::Operator, Wants::Member(TenantId(2), Grant::Own)] {
            assert_eq!(may(&operator, wants), Ok(()));
        }
    }
}
