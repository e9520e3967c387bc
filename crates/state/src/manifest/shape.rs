//! What keeps a text from being a manifest: it is no TOML, has keys that aren't known, lacks one, or has a value of another
//! kind.
//!
//! serde stops at the first of these. So what is at fault is taken out of the document and the rest is read again, until
//! that is a manifest: whoever wrote three wrong things is told of three. What only follows from a fault that was told
//! is no fault of its own ([`Taken::leaves_open`]).

use std::fmt;
use std::ops::Range;

use base::limits::MANIFEST_FAULTS_MAX;
use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

use super::Manifest;

/// What was made of a text.
pub(super) struct Read {
    /// None where the text is no TOML, or more is wrong with it than is told at once.
    pub manifest: Option<Manifest>,
    pub misshapen: Vec<Misshapen>,
    /// What the manifest lacks, for it was misshapen.
    pub taken: Vec<Taken>,
}

/// A fault of shape, and where it lies in the text.
pub(super) struct Misshapen {
    pub said: String,
    pub help: Option<String>,
    pub span: Option<Range<usize>>,
}

/// A key, or an entry of a list, that was taken out of the document.
pub(super) struct Taken {
    path: Vec<Step>,
    /// Where it lies in the text, whose lists have all of their entries.
    named: Vec<Step>,
    /// The key that was likely meant by one that isn't known.
    meant: Option<&'static str>,
    /// It was a component or a static folder, or all of them, or may have been meant so.
    is_part: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Entry(usize),
}

/// A path as faults name it: `route[1].path`.
struct Path<'a>(&'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if depth == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Entry(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

impl Taken {
    /// Where the manifest lacks this, may there be another fault at `at` for that reason alone?
    pub(super) fn leaves_open(&self, at: &str) -> bool {
        let Some((last, around)) = self.path.split_last() else { return true };
        let around = Path(around).to_string();
        // Routes name parts.
        (self.is_part && at.starts_with("route"))
            || at == around
            // What follows in the list has another number now.
            || (matches!(last, Step::Entry(_)) && at.starts_with(&around))
    }

    /// Is it because of this that a table at `path` lacks `key`?
    fn lacks(&self, path: &[Step], key: &str) -> bool {
        let around = self.path.split_last().filter(|(_, around)| *around == path);
        around.is_some_and(|(last, _)| self.meant == Some(key) || *last == Step::Key(key.to_owned()))
    }
}

/// Reads all of it that can be read.
pub(super) fn read(text: &str) -> Read {
    let mut read = Read { manifest: None, misshapen: Vec::new(), taken: Vec::new() };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        read.misshapen = no_toml(text, &errors);
        return read;
    }
    let mut left = document.clone();
    // What was taken out may leave another fault in the same place, and each fault takes something out.
    for _ in 0..=2 * MANIFEST_FAULTS_MAX {
        let error = match Manifest::deserialize(Deserializer::from(left.clone())) {
            Ok(manifest) => {
                read.manifest = Some(manifest);
                return read;
            }
            Err(error) => error,
        };
        if read.misshapen.len() == MANIFEST_FAULTS_MAX {
            let said = format!("there are more faults than these {MANIFEST_FAULTS_MAX}");
            let help = Some("mend these first".to_owned());
            read.misshapen.push(Misshapen { said, help, span: None });
            return read;
        }
        let mut path = error.span().and_then(|span| path_of(left.get_ref(), &span)).unwrap_or_default();
        // serde takes a list for a table whose keys are left out, and finds the fault in its first entry.
        if matches!(path.last(), Some(Step::Entry(_))) && !is_list(&path[..path.len() - 1]) {
            path.pop();
        }
        let mut meant = None;
        let named = named(&path, &read.taken);
        if let Some((fault, likely)) = told(text, &error, (&path, &named), left.get_ref(), &read.taken) {
            meant = likely;
            if fault.span.is_none() || read.misshapen.iter().all(|told| told.span != fault.span) {
                read.misshapen.push(fault);
            }
        }
        let is_part = match &*path {
            [_] if error.message().starts_with(UNKNOWN) => {
                at(left.get_ref(), &path).is_some_and(|value| value.is_table() || value.is_array())
            }
            [Step::Key(key), rest @ ..] => (key == "components" || key == "static") && rest.len() <= 1,
            _ => false,
        };
        if !take(left.get_mut(), &path) {
            return read;
        }
        read.taken.push(Taken { path, named, meant, is_part });
    }
    read
}

/// The path in the text of what lies at `path` now that these are taken out.
fn named(path: &[Step], taken: &[Taken]) -> Vec<Step> {
    let mut named: Vec<Step> = Vec::with_capacity(path.len());
    for step in path {
        let mut step = step.clone();
        if let Step::Entry(index) = &mut step {
            let gone = taken.iter().filter_map(|taken| match taken.named.split_last() {
                Some((Step::Entry(gone), list)) if *list == *named => Some(*gone),
                _ => None,
            });
            let mut gone: Vec<usize> = gone.collect();
            gone.sort_unstable();
            for gone in gone {
                *index += usize::from(gone <= *index);
            }
        }
        named.push(step);
    }
    named
}

/// Where the innermost key or value lies that has this place in the text.
fn path_of(table: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    table.iter().find_map(|(key, value)| {
        let inner = within(value.get_ref(), span);
        let found = inner.or_else(|| (key.span() == *span || value.span() == *span).then(Vec::new))?;
        Some([vec![Step::Key(key.get_ref().to_string())], found].concat())
    })
}

fn within(value: &DeValue<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    match value {
        DeValue::Table(table) => path_of(table, span),
        DeValue::Array(entries) => entries.iter().enumerate().find_map(|(index, entry)| {
            let inner = within(entry.get_ref(), span);
            let found = inner.or_else(|| (entry.span() == *span).then(Vec::new))?;
            Some([vec![Step::Entry(index)], found].concat())
        }),
        _ => None,
    }
}

/// Does a manifest have a list there?
fn is_list(path: &[Step]) -> bool {
    let Some(Step::Key(key)) = path.last() else { return false };
    LISTS.contains(&&**key)
}

/// Takes what lies at `path` out of the table; false where nothing does.
fn take(table: &mut DeTable<'_>, path: &[Step]) -> bool {
    let Some((Step::Key(wanted), rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        let held = table.keys().find(|key| key.get_ref() == wanted).cloned();
        return held.is_some_and(|key| table.remove(&key).is_some());
    }
    let found = table.iter_mut().find(|(key, _)| key.get_ref() == wanted);
    found.is_some_and(|(_, value)| take_within(value.get_mut(), rest))
}

fn take_within(value: &mut DeValue<'_>, path: &[Step]) -> bool {
    match (value, path) {
        (DeValue::Table(table), path) => take(table, path),
        (DeValue::Array(entries), [Step::Entry(index)]) => {
            let before = std::mem::replace(entries, DeArray::new());
            *entries = before.into_iter().enumerate().filter(|(at, _)| at != index).map(|(_, entry)| entry).collect();
            true
        }
        (DeValue::Array(entries), [Step::Entry(index), rest @ ..]) => {
            entries.get_mut(*index).is_some_and(|entry| take_within(entry.get_mut(), rest))
        }
        _ => false,
    }
}

fn at<'t, 'i>(table: &'t DeTable<'i>, path: &[Step]) -> Option<&'t DeValue<'i>> {
    let (Step::Key(first), rest) = path.split_first()? else { return None };
    let value = table.iter().find(|(key, _)| key.get_ref() == first)?.1.get_ref();
    rest.iter().try_fold(value, |value, step| match (value, step) {
        (DeValue::Table(table), Step::Key(wanted)) => {
            table.iter().find(|(key, _)| key.get_ref() == wanted).map(|(_, value)| value.get_ref())
        }
        (DeValue::Array(entries), Step::Entry(index)) => entries.get(*index).map(Spanned::get_ref),
        _ => None,
    })
}

// ---- in our words ----

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

/// What a table can't do without, by an example.
const NEEDED: [(&str, &str); 4] =
    [("from", "from = \"/old/*\""), ("path", "path = \"/\""), ("rate", "rate = \"100/s\""), ("to", "to = \"/new/*\"")];

/// What may be there several times.
const LISTS: [&str; 8] = ["header", "hosts", "immutable", "kv", "redirect", "remove", "route", "secrets"];

const UNKNOWN: &str = "unknown field `";

/// A text that is no TOML. What can't be read as far as its end makes whatever follows look wrong, which isn't told.
fn no_toml(text: &str, errors: &[Error]) -> Vec<Misshapen> {
    let mut errors: Vec<&Error> = errors.iter().collect();
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    let mut told = Vec::new();
    for error in errors.into_iter().take(MANIFEST_FAULTS_MAX) {
        let meant = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let (said, help, goes_on) = no_toml_said(error.message(), meant);
        told.push(Misshapen { said, help, span: error.span() });
        if !goes_on {
            break;
        }
    }
    told
}

/// What is said of it, and whether it ends where it stands.
fn no_toml_said(message: &str, meant: &str) -> (String, Option<String>, bool) {
    let is = |start: &str| message.starts_with(start);
    let (said, help) = if is("string values must be quoted") {
        let is_switch = ["yes", "no", "on", "off", "true", "false"].iter().any(|word| word.eq_ignore_ascii_case(meant));
        let help =
            if is_switch { "write true or false".to_owned() } else { format!("write it in quotes: \"{meant}\"") };
        return (format!("`{meant}` stands without quotes"), Some(help), true);
    } else if is("duplicate key") {
        return (format!("`{meant}` stands here a second time"), Some("keep one of the two".to_owned()), true);
    } else if is("key with no value") {
        ("this key has no value", "write it as in key = \"value\"")
    } else if is("invalid basic string") && meant.trim().is_empty() {
        ("the text in quotes has no end", "close it with a quote, in the same line")
    } else if is("missing comma between array elements") || is("unclosed array") {
        ("a list has no end before this, or lacks a comma", "close it with `]`, or write a comma between its entries")
    } else if is("missing key for inline table element")
        || is("missing comma between key-value pairs")
        || is("unclosed inline table")
    {
        (
            "a table in braces has no end before this, or lacks a comma",
            "close it with `}`, or write a comma between its keys",
        )
    } else {
        return (message.lines().next().unwrap_or(message).to_owned(), None, false);
    };
    (said.to_owned(), Some(help.to_owned()), false)
}

/// What is said of an error, and the key that was likely meant; nothing where it only follows from what was taken before.
fn told(
    text: &str,
    error: &Error,
    (path, named): (&[Step], &[Step]),
    table: &DeTable<'_>,
    taken: &[Taken],
) -> Option<(Misshapen, Option<&'static str>)> {
    let (message, span) = (error.message(), error.span());
    let meant = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
    let mut likely = None;
    let (said, help) = if let Some(unknown) = message.strip_prefix(UNKNOWN) {
        unknown_key(unknown, &mut likely)
    } else if let Some(key) = quoted(message, "missing field `") {
        if taken.iter().any(|taken| taken.lacks(path, key)) {
            return None;
        }
        let example = NEEDED.iter().find(|(needed, _)| *needed == key).map(|(_, example)| format!("add {example}"));
        (format!("{}: it has no `{key}`", Path(named)), example)
    } else if let Some(variant) = message.strip_prefix("unknown variant `") {
        let (variant, expected) = variant.split_once("`, expected ").unwrap_or((variant, ""));
        let choices = ticked(expected).map(|choice| format!("\"{choice}\"")).collect::<Vec<_>>().join(" or ");
        (format!("{}: `{variant}` is no choice here", Path(named)), Some(format!("write {choices}")))
    } else if let Some((wrong, wanted)) =
        message.split_once(", expected ").filter(|(wrong, _)| wrong.starts_with("invalid "))
    {
        let found = at(table, path);
        wrong_value(named, wrong, wanted.lines().next().unwrap_or(wanted), found, meant)
    } else if message.starts_with("wanted ") {
        // What a choice is made with is a word; serde doesn't say which ones there are.
        wrong_value(named, "", "a word in quotes", at(table, path), meant)
    } else {
        (message.lines().next().unwrap_or(message).to_owned(), None)
    };
    Some((Misshapen { said, help, span }, likely))
}

fn quoted<'m>(message: &'m str, start: &str) -> Option<&'m str> {
    message.strip_prefix(start)?.split('`').next()
}

/// What stands between backticks.
fn ticked(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `rest` is serde's sentence from the key on.
fn unknown_key(rest: &str, likely: &mut Option<&'static str>) -> (String, Option<String>) {
    let (unknown, expected) = rest.split_once("`, expected ").unwrap_or((rest.trim_end_matches('`'), ""));
    if let Some((_, home)) = HOMES.iter().find(|(key, _)| *key == unknown) {
        return (format!("`{unknown}` does not belong here"), Some(format!("write it {home}")));
    }
    let names: Vec<&str> = ticked(expected).collect();
    let nearest =
        names.iter().copied().min_by_key(|name| distance(unknown, name)).filter(|name| distance(unknown, name) <= 2);
    let help = match nearest {
        Some(name) => {
            *likely = NEEDED.iter().map(|(needed, _)| *needed).find(|needed| *needed == name);
            format!("did you mean `{name}`?")
        }
        None => format!("write one of: {}", names.join(", ")),
    };
    (format!("unknown key `{unknown}`"), Some(help))
}

/// A value of another kind than what belongs there. `wrong` and `wanted` are serde's words, `meant` is what stands there.
fn wrong_value(
    path: &[Step],
    wrong: &str,
    wanted: &str,
    found: Option<&DeValue<'_>>,
    meant: &str,
) -> (String, Option<String>) {
    let place = Path(path);
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let numbers = match wanted {
        "u32" => Some(format!("write a whole number from 1 to {}", u32::MAX)),
        "u16" => Some("write 301, 302, 303, 307 or 308".to_owned()),
        _ => None,
    };
    if wrong.starts_with("invalid value") && numbers.is_some() {
        return (format!("{place}: `{meant}` is out of range"), numbers);
    }
    let kind = match found {
        Some(DeValue::Integer(_)) => "a whole number",
        Some(DeValue::Float(_)) => "a number with a point",
        Some(DeValue::Boolean(_)) => "true or false",
        Some(DeValue::Datetime(_)) => "a date",
        Some(DeValue::Array(_)) => "a list",
        Some(DeValue::Table(_)) => "a table",
        Some(DeValue::String(_)) | None => "text",
    };
    let brackets = matches!(found, Some(DeValue::Array(_))) && meant.starts_with("[[");
    let belongs = match wanted {
        _ if brackets => "a table",
        "a string" => "text in quotes",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "u32" | "u16" => "a whole number",
        "a map" => "a table",
        wanted if wanted.starts_with("struct ") => "a table",
        wanted => wanted,
    };
    let named = path.iter().all(|step| matches!(step, Step::Key(_)));
    let help = match (found, belongs) {
        (Some(DeValue::Integer(_)), "text in quotes") if is_digits(meant) => Some(with_unit(path, meant)),
        (_, "a word in quotes") => Some(match path.last() {
            Some(Step::Key(key)) if key == "per" => "write \"app\" or \"client\"".to_owned(),
            _ => "write \"network\", \"whole\" or \"none\"".to_owned(),
        }),
        _ if brackets => Some(match path {
            [Step::Key(key)] if key == "components" || key == "static" => {
                format!("each of it has a name, and one pair of brackets: [{key}.NAME]")
            }
            _ => format!(
                "there is one of it at most, so that it has one pair of brackets: {}",
                meant.replace("[[", "[").replace("]]", "]")
            ),
        }),
        (Some(DeValue::Array(_) | DeValue::Table(_)), "text in quotes") => {
            Some("write one value, in quotes".to_owned())
        }
        (Some(_), "text in quotes") => Some(format!("write it in quotes: \"{meant}\"")),
        (Some(DeValue::String(word)), "true or false") if matches!(word.as_ref(), "true" | "false") => {
            Some(format!("write it without quotes: {word}"))
        }
        (_, "true or false") => Some("write true or false, without quotes".to_owned()),
        (Some(DeValue::String(word)), "a whole number") if is_digits(word) => {
            Some(format!("write it without quotes: {word}"))
        }
        (_, "a whole number") => numbers,
        (Some(DeValue::Table(_)), "a list") if meant.starts_with('[') => {
            Some(format!("there may be more of it, so that it has two pairs of brackets: [{meant}]"))
        }
        (Some(DeValue::String(_)), "a list") => Some(format!("write it in brackets: [{meant}]")),
        (_, "a list") => Some("write it in brackets, as in [\"a\", \"b\"]".to_owned()),
        (_, "a table") if named => Some(format!("write it as a table, which begins with [{place}]")),
        (_, "a table") => Some("write it in braces, as in { name = \"value\" }".to_owned()),
        _ => None,
    };
    (format!("{place}: {kind} stands where {belongs} belongs"), help)
}

/// A number that must be text, for it has a unit, or is a name.
fn with_unit(path: &[Step], number: &str) -> String {
    let unit = match path.last() {
        Some(Step::Key(key)) if key == "memory" => "MiB",
        Some(Step::Key(key)) if key == "cpu" || key == "timeout" => "s",
        Some(Step::Key(key)) if key == "rate" => "/s",
        _ => return format!("write it in quotes: \"{number}\""),
    };
    format!("write it in quotes and with its unit, as in \"{number}{unit}\"")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_home_is_one_of_the_manifest() {
        let schema = serde_json::to_string(Manifest::schema().as_value()).expect("a schema is plain data");
        for (key, _) in HOMES.iter().chain(&NEEDED) {
            assert!(schema.contains(&format!("\"{key}\":{{")), "the manifest has no `{key}`");
        }
    }
}
