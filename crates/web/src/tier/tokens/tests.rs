//! Boxes whose signatures are a digest: who is believed, and who isn't.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base::{CloudId, Name, TokenId};
use state::{Admission, Entry};

use super::super::{Answered, Tier};
use super::*;

const KEEPER: BoxId = BoxId([1; 32]);
const AUTH: BoxId = BoxId([2; 32]);
const OTHER: BoxId = BoxId([3; 32]);
const OPERATOR: BoxId = BoxId([9; 32]);
const CLOUD: CloudId = CloudId([5; 16]);

struct Toy {
    me: BoxId,
    operators: BTreeSet<BoxId>,
    kept: AtomicBool,
}

/// What the holder of a key says to a word. In earnest only the holder could.
fn said(by: BoxId, word: &[u8]) -> String {
    Digest::of(&[by.0.as_slice(), word].concat()).to_string()
}

impl Tier for Toy {
    fn me(&self) -> BoxId {
        self.me
    }

    fn nearby(&self) -> Vec<(BoxId, Vec<SocketAddr>)> {
        Vec::new()
    }

    fn know(&self, _: &Arc<Boxes>) {}

    fn vouch(&self, word: &[u8]) -> String {
        said(self.me, word)
    }

    fn is_vouched(&self, by: BoxId, word: &[u8], signature: &str) -> bool {
        said(by, word) == signature
    }

    fn operators(&self) -> &BTreeSet<BoxId> {
        &self.operators
    }

    fn has_auth(&self) -> bool {
        self.kept.load(Ordering::Acquire)
    }

    fn keep_auth(&self) {
        self.kept.store(true, Ordering::Release);
    }

    fn ask(&self, _: BoxId, _: Method, _: Bytes, _: Duration) -> Answered {
        Box::pin(std::future::ready(Err(TierError::Busy)))
    }
}

fn far(me: BoxId) -> Far {
    let tier = Arc::new(Toy { me, operators: BTreeSet::from([OPERATOR]), kept: AtomicBool::new(false) });
    Far::new(tier, Role::Auth.into(), Arc::new(ArcSwapOption::empty()))
}

fn apply(record: &mut Record, command: Command) {
    record.apply(&Entry { at: Timestamp(record.index() + 1), by: Actor::Box, command }).expect("it is in order");
}

fn admission(id: BoxId, roles: &str, by: BoxId) -> Admission {
    let roles: base::Roles = roles.parse().expect("roles");
    let signature = said(by, &warrant_word(CLOUD, id, &roles));
    Admission { id, roles, labels: BTreeMap::new(), order: "a".to_owned(), warrant: Some(Signed { by, signature }) }
}

fn founded() -> Record {
    let mut record = Record::default();
    let name: Name = "hut".parse().expect("a name");
    apply(
        &mut record,
        Command::CloudFound {
            cloud: CLOUD,
            name,
            domain: "localhost".to_owned(),
            operators: BTreeSet::from([OPERATOR]),
            first: admission(KEEPER, "persistence", OPERATOR),
            addresses: Vec::new(),
        },
    );
    record
}

fn join(record: &mut Record, id: BoxId, warranted_by: BoxId) {
    apply(record, Command::BoxAdmit { admission: admission(id, "auth", warranted_by) });
    apply(record, Command::BoxJoin { id, order: "a".to_owned(), addresses: Vec::new() });
}

/// An operator's token in the record, with this box's word for it or nobody's.
fn token(record: &mut Record, id: u64, by: Option<BoxId>) -> Arc<Token> {
    let bare = Token {
        id: TokenId(id),
        tenant: None,
        grant: Grant::Operate,
        label: "ada".to_owned(),
        hash: Digest::of(&id.to_be_bytes()),
        created: Timestamp(0),
        expires: None,
        signed: None,
    };
    let signed = by.map(|by| Signed { by, signature: said(by, &token_word(CLOUD, &bare)) });
    let Token { id, tenant, grant, label, hash, expires, .. } = bare;
    apply(record, Command::TokenCreate { id, tenant, grant, label, hash, expires, signed });
    record.token(id).expect("just made").clone()
}

fn sign(record: &mut Record, tokens: Vec<Arc<Token>>, by: BoxId) {
    for token in tokens {
        let before = token.signed.as_ref().map(|signed| signed.by);
        let signed = Signed { by, signature: said(by, &token_word(CLOUD, &token)) };
        apply(record, Command::TokenSign { id: token.id, before, signed });
    }
}

#[test]
fn once_there_is_an_auth_box_nobody_else_makes_a_token() {
    let (far, mut record) = (far(AUTH), founded());
    let makers = Makers::new(Some(&far));
    let old = token(&mut record, 1, None);
    assert!(makers.look(&far, &record).is_empty(), "nobody may sign");
    assert!(makers.is_believed(&far, &record, &old));
    join(&mut record, AUTH, OPERATOR);
    let orphans = makers.look(&far, &record);
    assert_eq!(orphans, [old], "what there is gets the auth box's word");
    sign(&mut record, orphans, AUTH);
    assert!(makers.look(&far, &record).is_empty());
    let held = |record: &Record, id: u64| record.token(TokenId(id)).expect("held").clone();
    assert!(makers.is_believed(&far, &record, &held(&record, 1)), "who had a token keeps it");
    for (id, by) in [(2, None), (3, Some(KEEPER)), (4, Some(OPERATOR))] {
        let forged = token(&mut record, id, by);
        assert!(makers.look(&far, &record).is_empty(), "a forged token is signed");
        assert!(!makers.is_believed(&far, &record, &forged), "{by:?} makes a token");
    }
    let made = token(&mut record, 5, Some(AUTH));
    assert!(makers.is_believed(&far, &record, &made));
    // Its word for one token is none for another.
    let stretched = Token { grant: Grant::Own, ..made.as_ref().clone() };
    assert!(!makers.is_believed(&far, &record, &stretched));
}

#[test]
fn an_auth_box_without_an_operators_word_is_none() {
    let (far, mut record) = (far(KEEPER), founded());
    let makers = Makers::new(Some(&far));
    // Those that keep the record may write into it what they like, but not an operator's signature.
    join(&mut record, OTHER, KEEPER);
    token(&mut record, 1, Some(OTHER));
    makers.look(&far, &record);
    assert!(!far.tier.has_auth() && makers.is_believed(&far, &record, record.token(TokenId(1)).expect("held")));
    join(&mut record, AUTH, OPERATOR);
    token(&mut record, 2, Some(AUTH));
    makers.look(&far, &record);
    assert!(far.tier.has_auth());
    assert!(!makers.is_believed(&far, &record, record.token(TokenId(1)).expect("held")));
    assert!(makers.is_believed(&far, &record, record.token(TokenId(2)).expect("held")));
}

#[test]
fn a_record_that_forgets_its_auth_boxes_brings_nobody_back() {
    let (far, mut record) = (far(KEEPER), founded());
    let makers = Makers::new(Some(&far));
    join(&mut record, AUTH, OPERATOR);
    token(&mut record, 1, Some(AUTH));
    makers.look(&far, &record);
    // The record keeps its last auth box, so those that write it bring one of their own first.
    join(&mut record, OTHER, KEEPER);
    apply(&mut record, Command::BoxEvict { id: AUTH, lose_data: false });
    let forged = token(&mut record, 2, None);
    makers.look(&far, &record);
    assert!(!makers.is_believed(&far, &record, &forged));
    // After a start it is known from the disk.
    let again = Makers::new(Some(&far));
    again.look(&far, &record);
    assert!(!again.is_believed(&far, &record, &forged));
}

#[test]
fn tokens_of_an_auth_box_that_goes_get_the_word_of_one_that_stays() {
    let (far, mut record) = (far(AUTH), founded());
    let makers = Makers::new(Some(&far));
    join(&mut record, AUTH, OPERATOR);
    join(&mut record, OTHER, OPERATOR);
    let theirs = token(&mut record, 1, Some(OTHER));
    assert!(makers.look(&far, &record).is_empty());
    apply(&mut record, Command::BoxDrain { id: OTHER });
    let orphans = makers.look(&far, &record);
    assert_eq!(orphans, [theirs]);
    sign(&mut record, orphans, AUTH);
    apply(&mut record, Command::BoxLeave { id: OTHER, lose_data: false });
    assert!(makers.look(&far, &record).is_empty());
    assert!(makers.is_believed(&far, &record, record.token(TokenId(1)).expect("held")));
    // One that is put out at once: what it signed until then is taken over, what comes after isn't.
    apply(&mut record, Command::BoxAdmit { admission: admission(OTHER, "auth", OPERATOR) });
    apply(&mut record, Command::BoxJoin { id: OTHER, order: "a".to_owned(), addresses: Vec::new() });
    let theirs = token(&mut record, 2, Some(OTHER));
    makers.look(&far, &record);
    apply(&mut record, Command::BoxEvict { id: OTHER, lose_data: false });
    assert_eq!(makers.look(&far, &record), [theirs]);
    let late = token(&mut record, 3, Some(OTHER));
    assert!(makers.look(&far, &record).iter().all(|token| token.id != late.id), "the word of one that is out counts");
}
