//! Fuzz targets of what the record and the developer's file are read from.

use std::collections::BTreeMap;

use base::limits::{MANIFEST_BYTES_MAX, ROUTES_MAX};
use base::{Digest, Name, ReleaseNo, TenantId, Timestamp, TokenId};
use proptest::prelude::*;

use crate::fuzzing::{fuzz, mutated, mutated_text};
use crate::manifest::{ManifestError, Target, parse};
use crate::{Actor, Certificate, Command, Entry, Grant, Manifest, Record, Sealed};

const FULL: &str = include_str!("manifest/full.toml");
const SMALL: &str = "app = \"a\"\n[static.site]\n[[route]]\npath = \"/\"\nstatic = \"site\"\n";

const TOML: &[&str] = &[
    "[",
    "]",
    "[[route]]\n",
    "path = ",
    "\"/\"",
    "\"//\"",
    "\"/.firm\"",
    "\"/../\"",
    "\"..\"",
    "\"\"\"",
    "'''",
    "\\u0000",
    "\\n",
    "=",
    "{",
    "}",
    ",",
    "#",
    "\n",
    ".",
    "true",
    "-1",
    "18446744073709551616",
    "1e400",
    "0/s",
    "1/0s",
    "99999999999999999999/s",
    "10/5m",
    "1ns",
    "\u{e9}",
    "\u{202e}",
    "*.",
    "[stages.x.env]\n",
    "[components.app]\n",
    "memory = \"1GiB\"\n",
    "hosts = [\"*\"]\n",
];

/// What must hold of every manifest that may be deployed, whoever wrote it.
fn deployable(manifest: &Manifest) -> Result<(), TestCaseError> {
    prop_assert!(manifest.routes.len() <= ROUTES_MAX);
    for route in &manifest.routes {
        prop_assert!(route.path.starts_with('/') && !route.path.starts_with("/.firm"), "{:?}", route.path);
        prop_assert!(!route.path.split('/').any(|part| part == ".."), "{:?}", route.path);
        match route.target() {
            Some(Target::Component(name)) => prop_assert!(manifest.components.contains_key(name)),
            Some(Target::Static(name)) => prop_assert!(manifest.statics.contains_key(name)),
            None => return Err(TestCaseError::fail("a route goes nowhere")),
        }
    }
    let sources = manifest.components.values().map(|component| &component.source);
    for path in sources.chain(manifest.statics.values().map(|folder| &folder.dir)) {
        prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path:?}");
    }
    for stage in manifest.stages.keys() {
        prop_assert!(manifest.for_stage(stage).stages.is_empty());
    }
    let json = serde_json::to_vec(manifest).expect("a manifest is plain data");
    prop_assert_eq!(&serde_json::from_slice::<Manifest>(&json).expect("it was just written"), manifest);
    Ok(())
}

#[test]
fn a_manifest_is_read_or_refused() {
    fuzz("manifest", &mutated_text(&[FULL, SMALL], TOML), |text| match parse(&text, "firm.toml") {
        Ok(manifest) => {
            prop_assert!(text.len() <= MANIFEST_BYTES_MAX && manifest.faults().is_empty());
            deployable(&manifest)
        }
        Err(error) => {
            prop_assert!(!error.to_string().is_empty());
            Ok(())
        }
    });
}

#[test]
fn a_pushed_manifest_is_read_or_refused() {
    let manifest: Manifest = toml::from_str(FULL).expect("the state's own example");
    let json = serde_json::to_string(&manifest).expect("a manifest is plain data");
    fuzz("manifest as JSON", &mutated_text(&[&json, "{}"], JSON), |json| {
        let Ok(manifest) = serde_json::from_str::<Manifest>(&json) else { return Ok(()) };
        let faults = manifest.faults();
        // The side that has a text shows them in it, and it needn't be the one that the manifest came from.
        let shown = ManifestError::of(&faults, FULL, "firm.toml").map(|error| error.to_string());
        prop_assert_eq!(shown.is_some(), !faults.is_empty());
        if faults.is_empty() { deployable(&manifest) } else { Ok(()) }
    });
}

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "null",
    "true",
    "\"\"",
    ":",
    ",",
    "-1",
    "1e999",
    "18446744073709551615",
    "18446744073709551616",
    "\\u0000",
    "\\ud800",
    "\"tenant\":1",
    "\"stage\":\"live\"",
    "\"live\"",
    "\"a--b\"",
    "\"../..\"",
    "\"app\":\"shop\"",
    "\"release\":1",
    "\"to\":1",
    "\"at\":0",
    "\"by\":\"box\"",
    "[[[[[[[[[[[[[[[[",
];

/// A life of a record, with one of each command.
fn life() -> Vec<Entry> {
    let name = |text: &str| -> Name { text.parse().expect("a test's name") };
    let (tenant, app, live, next) = (TenantId(1), name("shop"), name("live"), name("next"));
    let manifest: Box<Manifest> = Box::new(toml::from_str(FULL).expect("the state's own example"));
    let release = |stage: &Name| Command::ReleaseCreate {
        tenant,
        app: app.clone(),
        stage: stage.clone(),
        content: Digest::of(b"content"),
        manifest: manifest.clone(),
        source: None,
    };
    let (a, l) = (app.clone(), live.clone());
    let domain: base::Domain = "shop.example".parse().expect("a domain");
    let certificate = Certificate { chain: "chain".to_owned(), key: Sealed("00".to_owned()) };
    let commands = vec![
        Command::TenantCreate { name: name("acme"), key: Sealed("00".to_owned()) },
        Command::TokenCreate {
            id: TokenId(7),
            tenant: Some(tenant),
            grant: Grant::Deploy,
            label: "ci".to_owned(),
            hash: Digest::of(b"token"),
            expires: Some(Timestamp(9)),
            signed: None,
        },
        release(&live),
        release(&next),
        Command::StagePromote { tenant, app: app.clone(), from: next.clone(), to: live.clone(), release: None },
        Command::StageRollback { tenant, app: app.clone(), stage: live.clone(), to: Some(ReleaseNo(1)), running: None },
        Command::EnvChange {
            tenant,
            app: a,
            stage: l,
            changes: BTreeMap::from([("A".to_owned(), Some("1".to_owned()))]),
        },
        Command::SecretSet {
            tenant,
            app: app.clone(),
            stage: live.clone(),
            name: "API_KEY".to_owned(),
            value: Sealed("01".to_owned()),
        },
        Command::SecretDelete { tenant, app: app.clone(), stage: live, name: "API_KEY".to_owned() },
        Command::DomainAdd { tenant, app: app.clone(), domain: domain.clone(), certificate: Some(certificate) },
        Command::DomainRemove { tenant, app: app.clone(), domain },
        Command::StageDelete { tenant, app: app.clone(), stage: next },
        Command::AppDelete { tenant, app },
        Command::TokenRevoke { tenant: Some(tenant), id: TokenId(7) },
        Command::TenantDelete { tenant },
    ];
    commands.into_iter().map(|command| Entry { at: Timestamp(1), by: Actor::Box, command }).collect()
}

/// Entries out of order and garbled: each is applied or refused, counts as one, and leaves a record that can be
/// written down and read again.
#[test]
fn an_entry_is_applied_or_refused() {
    let life = life();
    let texts: Vec<Vec<u8>> =
        life.iter().map(|entry| serde_json::to_vec(entry).expect("an entry is plain data")).collect();
    let inputs = proptest::collection::vec(mutated(texts, JSON), 1..4);
    let mut grown = Record::default();
    for entry in &life[..6] {
        grown.apply(entry).expect("the life is in order");
    }
    fuzz("record's entries", &inputs, |texts| {
        let mut record = grown.clone();
        for text in texts {
            let Ok(entry) = serde_json::from_slice::<Entry>(&text) else { continue };
            let before = record.clone();
            if record.apply(&entry).is_err() {
                // A refusal changes the count and nothing else.
                prop_assert_eq!(&Record { index: before.index + 1, ..before.clone() }, &record);
            }
            prop_assert_eq!(record.index(), before.index() + 1);
        }
        let json = serde_json::to_vec(&record).expect("a record is plain data");
        prop_assert_eq!(&serde_json::from_slice::<Record>(&json).expect("it was just written"), &record);
        Ok(())
    });
}
