//! Fuzz target of a push's body: what is let through is a release that can be laid down and served.

use std::collections::BTreeMap;

use api::Chunk;
use proptest::prelude::*;

use super::*;
use crate::fuzzing::{fuzz, mutated_text};

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-1",
    "0",
    "1e999",
    "18446744073709551615",
    "\"\"",
    "\"..\"",
    "\"/\"",
    "\"../x\"",
    "\"a//b\"",
    "\\u0000",
    "\\ud800",
    "\\\\",
    "\"size\":0",
    "\"size\":4194305",
    "\"chunks\":[]",
    "\"site\"",
    "\"app\"",
    "\"components\":{}",
];

fn file(bytes: &[u8]) -> File {
    let digest = Digest::of(bytes);
    File {
        digest,
        size: bytes.len() as u64,
        chunks: vec![Chunk { digest, size: bytes.len() as u64 }],
        encodings: BTreeMap::new(),
    }
}

/// A push of two files and a component, as JSON.
fn push() -> String {
    let name = |text: &str| -> Name { text.parse().expect("a test's name") };
    let text = "[components.app]\n[static.site]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n";
    let files = [("index.html", &b"<!doctype html>"[..]), ("css/site.css", b"body {}")];
    let statics = files.into_iter().map(|(path, bytes)| (path.to_owned(), file(bytes))).collect();
    let index = Index {
        statics: BTreeMap::from([(name("site"), statics)]),
        components: BTreeMap::from([(name("app"), file(b"component"))]),
    };
    let manifest = state::manifest::parse(text, "firm.toml").expect("it is well formed");
    serde_json::to_string(&Push { stage: None, manifest, index, source: None }).expect("a push is plain data")
}

#[test]
fn a_push_is_whole_or_refused() {
    let whole = push();
    assert!(
        check(&serde_json::from_str(&whole).expect("it was just written")).is_ok(),
        "the whole push is let through"
    );
    fuzz("pushes", &mutated_text(&[&whole, "{\"manifest\":{},\"index\":{}}"], WORDS), |text| {
        let Ok(push) = serde_json::from_str::<Push>(&text) else { return Ok(()) };
        if check(&push).is_err() {
            return Ok(());
        }
        prop_assert!(push.manifest.faults().is_empty());
        for path in push.index.statics.values().flat_map(BTreeMap::keys) {
            prop_assert!(!path.is_empty() && path.len() <= ASSET_PATH_BYTES_MAX, "{path:?}");
            prop_assert!(!path.split('/').any(|part| ["", ".", ".."].contains(&part)), "{path:?}");
            prop_assert!(!path.contains(|ch: char| ch == '\\' || ch.is_control()), "{path:?}");
        }
        for file in push.index.files() {
            let sum: u128 = file.chunks.iter().map(|chunk| u128::from(chunk.size)).sum();
            prop_assert_eq!(sum, u128::from(file.size));
            prop_assert!(file.chunks.iter().all(|chunk| (1..=CHUNK_BYTES_MAX as u64).contains(&chunk.size)));
        }
        Ok(())
    });
}
