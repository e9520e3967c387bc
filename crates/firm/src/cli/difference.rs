//! What running one release in the place of another changes, a line for each thing.

use std::collections::{BTreeMap, BTreeSet};

use api::ReleaseView;
use serde::Serialize;
use serde_json::Value;

use super::releases::origin;
use super::when;

/// One thing that differs. Absent on a side means that it isn't there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    /// `content`, `source`, `env.GREETING`, or a path of the manifest.
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl Difference {
    pub(super) fn line(&self) -> String {
        let Self { what, from, to } = self;
        match (from, to) {
            (Some(from), Some(to)) => format!("~ {what}: {from} → {to}"),
            (None, Some(to)) => format!("+ {what}: {to}"),
            (Some(from), None) => format!("- {what}: {from}"),
            (None, None) => what.clone(),
        }
    }
}

/// Everything that differs: what the release is made of first, then its variables, then the rest of the manifest.
pub(super) fn differences(from: &ReleaseView, to: &ReleaseView) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |what: &str, from: Option<String>, to: Option<String>| {
        if from != to {
            found.push(Difference { what: what.to_owned(), from, to });
        }
    };
    compare("content", Some(from.content.short()), Some(to.content.short()));
    compare("source", from.source.clone(), to.source.clone());
    let variables: BTreeSet<&String> = from.manifest.env.keys().chain(to.manifest.env.keys()).collect();
    for name in variables {
        let value = |release: &ReleaseView| release.manifest.env.get(name).map(|value| format!("{value:?}"));
        compare(&format!("env.{name}"), value(from), value(to));
    }
    let (before, after) = (flat(from), flat(to));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys {
        compare(key, before.get(key).cloned(), after.get(key).cloned());
    }
    found
}

/// A release in a line.
pub(super) fn described(release: &ReleaseView) -> String {
    let made = when::ago(release.at, when::now());
    format!("{} ({}, {made}, by {})", release.release, origin(&release.origin), release.by)
}

/// The manifest without variables, each value under its path. Lists of plain values stay one value.
fn flat(release: &ReleaseView) -> BTreeMap<String, String> {
    let mut manifest = release.manifest.clone();
    manifest.env.clear();
    let mut values = BTreeMap::new();
    if let Ok(value) = serde_json::to_value(&manifest) {
        flatten("", &value, &mut values);
    }
    values
}

fn flatten(at: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                flatten(&at, value, into);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (index, value) in items.iter().enumerate() {
                flatten(&format!("{at}[{index}]"), value, into);
            }
        }
        // An empty manifest says nothing.
        Value::Object(_) if at.is_empty() => {}
        value => {
            into.insert(at.to_owned(), value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use base::{Digest, ReleaseNo, Timestamp};
    use expect_test::expect;

    use super::*;

    fn release(no: u32, content: &[u8], manifest: &str) -> ReleaseView {
        ReleaseView {
            release: ReleaseNo(no),
            stage: "live".parse().expect("a name"),
            running: false,
            at: Timestamp(0),
            by: "ci".into(),
            origin: state::Origin::Push,
            content: Digest::of(content),
            source: Some(format!("rev{no}")),
            manifest: state::manifest::parse(manifest, "firm.toml").expect("the test wrote it"),
        }
    }

    #[test]
    fn a_rollback_says_all_that_it_changes() {
        let old = "app = \"shop\"\n[components.app]\nmemory = \"64MiB\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n\
                   [bindings]\nkv = [\"carts\"]\n[env]\nGREETING = \"G'day\"\nOLD = \"1\"\n";
        let new = "app = \"shop\"\n[components.app]\nmemory = \"128MiB\"\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n\
                   [[route]]\npath = \"/api\"\ncomponent = \"app\"\nlimit = { rate = \"10/s\" }\n\
                   [bindings]\nkv = [\"carts\", \"users\"]\n[env]\nGREETING = \"Hello\"\nNEW = \"a b\"\n";
        let lines: Vec<_> =
            differences(&release(2, b"2", new), &release(1, b"1", old)).iter().map(Difference::line).collect();
        expect![[r#"
            ~ content: 813e9b729141 → d63bd9a826af
            ~ source: rev2 → rev1
            ~ env.GREETING: "Hello" → "G'day"
            - env.NEW: "a b"
            + env.OLD: "1"
            ~ bindings.kv: ["carts","users"] → ["carts"]
            ~ components.app.memory: "128MiB" → "64MiB"
            - route[1].component: "app"
            - route[1].limit.per: "app"
            - route[1].limit.rate: "10/s"
            - route[1].path: "/api""#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn nothing_differs_from_itself() {
        let release = release(1, b"1", "[static.site]\n");
        assert_eq!(differences(&release, &release), []);
    }
}
