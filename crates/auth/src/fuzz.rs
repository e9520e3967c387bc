//! Fuzz targets of what opens doors: only the very text that was given out does.

use base::{DatabaseId, Timestamp, TokenId};
use proptest::prelude::*;
use state::{Actor, Command, Entry, Grant, Record, Sealed};

use crate::fuzzing::{fuzz, mutated_text};
use crate::{Key, Pass, identify, mint};

const NOW: Timestamp = Timestamp(1_000);

#[test]
fn no_other_text_is_the_token() {
    let minted = mint([7; 40]);
    let mut record = Record::default();
    let command = Command::TokenCreate {
        id: minted.id,
        tenant: None,
        grant: Grant::Operate,
        label: "operator".to_owned(),
        hash: minted.hash,
        expires: None,
        signed: None,
    };
    record.apply(&Entry { at: NOW, by: Actor::Box, command }).expect("the first token of a record");
    let empty = format!("firm_{}_", minted.id);
    let other = format!("firm_{}_{}", TokenId(0), "a".repeat(52));
    let words = &["firm_", "_", " ", "\0", "0707070707070707", "+", "-", "\u{2028}"];
    fuzz("tokens", &mutated_text(&[&minted.secret, &empty, &other], words), |text| {
        prop_assert_eq!(identify(&record, NOW, Some(&text)).is_ok(), text == minted.secret);
        Ok(())
    });
}

#[test]
fn no_other_text_is_the_pass() {
    let key = Key::from_bytes([1; 32]);
    let (stage, expires) = (DatabaseId(7), Timestamp(2_000));
    let text = Pass { stage, expires }.sign(&key);
    let elsewhere = Pass { stage: DatabaseId(8), expires }.sign(&key);
    let longer = Pass { stage, expires: Timestamp(u64::MAX) }.sign(&Key::from_bytes([2; 32]));
    fuzz("passes", &mutated_text(&[&text, &elsewhere, &longer], &["A", "=", "_", "-", "/", "+", "\n", " "]), |tried| {
        prop_assert_eq!(Pass::verify(&key, stage, NOW, &tried).is_ok(), tried == text);
        Ok(())
    });
}

#[test]
fn what_opens_is_what_was_sealed() {
    let key = Key::from_bytes([1; 32]);
    let sealed = key.seal("purpose", b"secret").0;
    let other = key.seal("another purpose", b"secret").0;
    fuzz("sealed secrets", &mutated_text(&[&sealed, &other], &["0", "ff", "F", "zz", " "]), |tried| {
        let same = tried == sealed;
        match key.open("purpose", &Sealed(tried)) {
            Ok(bytes) => prop_assert!(same && bytes == b"secret"),
            Err(_) => prop_assert!(!same),
        }
        Ok(())
    });
}
