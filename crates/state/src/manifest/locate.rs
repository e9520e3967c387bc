//! From text to a manifest, and from a fault back to its line and column.

use std::fmt;
use std::ops::Range;

use base::limits::MANIFEST_BYTES_MAX;
use toml::de::{DeTable, DeValue};

use super::{Fault, Manifest};

/// A manifest that can't be used, shown the way a compiler shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    file: String,
    faults: Vec<Located>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Located {
    said: String,
    help: Option<String>,
    /// Line and column from 1, the line itself, and how many characters are meant.
    place: Option<(usize, usize, String, usize)>,
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            f.write_str(&fault.said)?;
            match &fault.place {
                Some((line, column, text, width)) => {
                    let gutter = line.to_string().len();
                    write!(f, "\n{:gutter$}--> {}:{line}:{column}", "", self.file)?;
                    // Repeated, not padded: a width that a format is given is 65,535 at the most, and a line may be longer.
                    let (before, meant) = (" ".repeat(column - 1), "^".repeat(*width));
                    write!(f, "\n{line} | {text}\n{:gutter$} | {before}{meant}", "")?;
                }
                None => write!(f, "\n --> {}", self.file)?,
            }
            if let Some(help) = &fault.help {
                write!(f, "\n  help: {help}")?;
            }
        }
        Ok(())
    }
}

/// Reads and validates a manifest. `file` is how the errors name it.
///
/// # Errors
/// Every fault that was found, each with its place in the text.
pub fn parse(text: &str, file: &str) -> Result<Manifest, ManifestError> {
    let refused = |faults| ManifestError { file: file.to_owned(), faults };
    if text.len() > MANIFEST_BYTES_MAX {
        let said = format!("the manifest has {} bytes, more than {MANIFEST_BYTES_MAX}", text.len());
        return Err(refused(vec![Located { said, help: None, place: None }]));
    }
    let manifest: Manifest = toml::from_str(text).map_err(|error| {
        let (said, help) = reworded(error.message(), error.span().and_then(|span| text.get(span)));
        let place = error.span().map(|span| place(text, &span));
        refused(vec![Located { said, help, place }])
    })?;
    ManifestError::of(&manifest.faults(), text, file).map_or(Ok(manifest), Err)
}

impl ManifestError {
    /// The faults, found in `text`; `None` when there are none.
    #[must_use]
    pub fn of(faults: &[Fault], text: &str, file: &str) -> Option<Self> {
        if faults.is_empty() {
            return None;
        }
        let table = DeTable::parse(text).ok();
        let located = |fault: &Fault| Located {
            said: format!("{}: {}", fault.at, fault.said),
            help: Some(fault.help.clone()),
            place: table.as_ref().and_then(|table| find(table.get_ref(), &fault.at)).map(|span| place(text, &span)),
        };
        Some(Self { file: file.to_owned(), faults: faults.iter().map(located).collect() })
    }
}

/// Keys that people write in the wrong table, and where each belongs.
const HOMES: [(&str, &str); 16] = [
    ("access_log", TOP),
    ("app", TOP),
    ("burst", THROTTLE),
    ("cache", FOLDER),
    ("clean_urls", FOLDER),
    ("concurrency", COMPONENT),
    ("cpu", COMPONENT),
    ("dir", FOLDER),
    ("immutable", FOLDER),
    ("limit", "above the first table of firm.toml for the whole app, or in a [[route]]"),
    ("memory", COMPONENT),
    ("not_found", FOLDER),
    ("rate", THROTTLE),
    ("reuse", COMPONENT),
    ("spa", FOLDER),
    ("timeout", COMPONENT),
];
const TOP: &str = "above the first table of firm.toml";
const COMPONENT: &str = "in [components.NAME]";
const FOLDER: &str = "in [static.NAME]";
const THROTTLE: &str = "in a limit, as in limit = { rate = \"100/s\", burst = 200 }";

/// serde's words for the mistakes that people make most, said so that they know what to write. `meant` is the text
/// that the words are about.
fn reworded(message: &str, meant: Option<&str>) -> (String, Option<String>) {
    let Some((unknown, expected)) =
        message.strip_prefix("unknown field `").and_then(|rest| rest.split_once("`, expected "))
    else {
        return reworded_value(message.lines().next().unwrap_or(message), meant);
    };
    if let Some((_, home)) = HOMES.iter().find(|(key, _)| *key == unknown) {
        return (format!("`{unknown}` does not belong here"), Some(format!("write it {home}")));
    }
    let names: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let nearest =
        names.iter().copied().min_by_key(|name| distance(unknown, name)).filter(|name| distance(unknown, name) <= 2);
    let help = match nearest {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("write one of: {}", names.join(", ")),
    };
    (format!("unknown key `{unknown}`"), Some(help))
}

/// The same for a value of the wrong kind.
fn reworded_value(message: &str, meant: Option<&str>) -> (String, Option<String>) {
    let wanted_text = message.starts_with("invalid type") && message.ends_with("expected a string");
    let help = match meant {
        Some(number) if wanted_text && number.bytes().all(|byte| byte.is_ascii_digit()) => Some(format!(
            "write it in quotes: \"{number}\". A size, a time or a rate has its unit too, as in \"{number}MiB\", \"{number}s\" or \
             \"{number}/s\""
        )),
        Some(word @ ("true" | "false")) if wanted_text => Some(format!("write it in quotes: \"{word}\"")),
        Some(list) if message.starts_with("invalid type") && list.starts_with("[[") => Some(format!(
            "there is one of it at most, so that it has one pair of brackets: {}",
            list.replace("[[", "[").replace("]]", "]")
        )),
        _ if message.contains("expected u32") => Some(format!("write a whole number from 1 to {}", u32::MAX)),
        _ => None,
    };
    (message.to_owned(), help)
}

/// Levenshtein's distance, over bytes: keys are short and ASCII.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let cost = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// Follows a path such as `route[1].path` through the document, as far as it goes.
fn find(table: &DeTable<'_>, path: &str) -> Option<Range<usize>> {
    let mut steps = path.split('.').flat_map(|step| {
        let mut parts = step.split('[');
        let key = parts.next().map(str::to_owned);
        key.into_iter().chain(parts.map(|index| index.trim_end_matches(']').to_owned()))
    });
    let first = steps.next()?;
    let (key, mut value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == first)?;
    let mut span = key.span();
    for step in steps {
        let next = match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().find(|(key, _)| key.get_ref().as_ref() == step).map(|(key, value)| (key.span(), value))
            }
            DeValue::Array(values) => {
                step.parse::<usize>().ok().and_then(|index| values.get(index)).map(|value| (value.span(), value))
            }
            _ => None,
        };
        let Some((at, inner)) = next else { return Some(span) };
        span = at;
        value = inner;
    }
    // A scalar is what is wrong itself; a table or a list is better shown by its key.
    let scalar = !matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
    Some(if scalar { value.span() } else { span })
}

fn place(text: &str, span: &Range<usize>) -> (usize, usize, String, usize) {
    let start = text.floor_char_boundary(span.start);
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let column = text[line_start..start].chars().count() + 1;
    // What is meant may be the end of a line itself, which a line that ends in CR LF has behind its last character.
    let end = text.floor_char_boundary(span.end.min(line_start + line.len()).max(start));
    let width = text.get(start..end).map_or(1, |meant| meant.chars().count().max(1));
    (before.matches('\n').count() + 1, column, line.to_owned(), width)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &Expect) {
        let said = match parse(text, "firm.toml") {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&said);
    }

    #[test]
    fn a_manifest_with_everything_is_fine() {
        let text = include_str!("full.toml");
        check(text, &expect!["fine"]);
        let manifest = parse(text, "firm.toml").expect("checked above");
        let json = serde_json::to_string(&manifest).expect("a manifest is plain data");
        assert_eq!(serde_json::from_str::<Manifest>(&json).expect("it was just written"), manifest);
    }

    #[test]
    fn an_empty_manifest_is_fine() {
        check("", &expect!["fine"]);
    }

    #[test]
    fn a_misspelt_key_is_named_with_what_was_meant() {
        check(
            "app = \"shop\"\n\n[[rout]]\npath = \"/\"\n",
            &expect![[r"
            unknown key `rout`
             --> firm.toml:3:3
            3 | [[rout]]
              |   ^^^^
              help: did you mean `route`?"]],
        );
    }

    #[test]
    fn a_key_in_the_wrong_table_is_told_where_it_belongs() {
        check(
            "[static.site]\naccess_log = true\n",
            &expect![[r"
            `access_log` does not belong here
             --> firm.toml:2:1
            2 | access_log = true
              | ^^^^^^^^^^
              help: write it above the first table of firm.toml"]],
        );
        check(
            "reuse = true\n",
            &expect![[r"
            `reuse` does not belong here
             --> firm.toml:1:1
            1 | reuse = true
              | ^^^^^
              help: write it in [components.NAME]"]],
        );
    }

    #[test]
    fn each_home_is_one_of_the_manifest() {
        let schema = serde_json::to_string(Manifest::schema().as_value()).expect("a schema is plain data");
        for (key, _) in HOMES {
            assert!(schema.contains(&format!("\"{key}\":{{")), "the manifest has no `{key}`");
        }
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_answered_by_an_example() {
        check(
            "[components.app]\nmemory = 128\n",
            &expect![[r#"
                invalid type: integer `128`, expected a string
                 --> firm.toml:2:10
                2 | memory = 128
                  |          ^^^
                  help: write it in quotes: "128". A size, a time or a rate has its unit too, as in "128MiB", "128s" or "128/s""#]],
        );
        check(
            "limit = { rate = \"5/s\", burst = -5 }\n",
            &expect![[r#"
            invalid value: integer `-5`, expected u32
             --> firm.toml:1:33
            1 | limit = { rate = "5/s", burst = -5 }
              |                                 ^^
              help: write a whole number from 1 to 4294967295"#]],
        );
        check(
            "limit = { rate = \"0/s\" }\n",
            &expect![[r#"
            `0/s` is not a rate: its count and its period begin at 1, as in 1/s or 10/5m
             --> firm.toml:1:18
            1 | limit = { rate = "0/s" }
              |                  ^^^^^"#]],
        );
        check(
            "[[limit]]\nrate = \"5/s\"\n",
            &expect![[r"
                invalid type: map, expected a string
                 --> firm.toml:1:1
                1 | [[limit]]
                  | ^^^^^^^^^
                  help: there is one of it at most, so that it has one pair of brackets: [limit]"]],
        );
    }

    #[test]
    fn a_wrong_size_is_shown_where_it_stands() {
        check(
            "[components.app]\nmemory = \"lots\"\n",
            &expect![[r#"
            `lots` is not a size: write a whole number and B, KiB, MiB or GiB, as in 128MiB
             --> firm.toml:2:10
            2 | memory = "lots"
              |          ^^^^^^"#]],
        );
    }

    #[test]
    fn a_route_to_nowhere_says_what_to_add() {
        check(
            "[static.site]\n[[route]]\npath = \"/\"\nstatic = \"pages\"\n",
            &expect![[r#"
            route[0].static: there is no static folder `pages`
             --> firm.toml:4:10
            4 | static = "pages"
              |          ^^^^^^^
              help: add [static.pages], or name one of: site"#]],
        );
    }

    #[test]
    fn a_path_out_of_the_project_is_refused() {
        check(
            "[static.site]\ndir = \"../../etc\"\n",
            &expect![[r#"
            static.site.dir: `../../etc` lies outside the project
             --> firm.toml:2:7
            2 | dir = "../../etc"
              |       ^^^^^^^^^^^
              help: write a path relative to firm.toml, without `..`"#]],
        );
    }

    #[test]
    fn a_fault_behind_a_very_long_line_is_shown() {
        let error = parse(&format!("app = \"{}\" x", "a".repeat(70_000)), "firm.toml").expect_err("it is no TOML");
        assert!(
            error.to_string().contains("--> firm.toml:1:700"),
            "{}",
            error.to_string().lines().next().unwrap_or("")
        );
    }

    #[test]
    fn a_fault_at_the_end_of_a_line_of_windows_is_shown() {
        check(
            "app = \"shop\r\n",
            &expect![[r#"
            invalid basic string, expected `"`
             --> firm.toml:1:13
            1 | app = "shop
              |             ^"#]],
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n\u{e9}]{0,200}") {
            if let Err(error) = parse(&text, "firm.toml") {
                let _ = error.to_string();
            }
        }
    }
}
