//! From text to a manifest, and from a fault back to its line and column.
//!
//! All that can be told of a text at once is: what is misshapen ([`shape`]), and what is wrong with the rest of it.

use std::fmt;
use std::ops::Range;

use base::limits::{MANIFEST_BYTES_MAX, MANIFEST_FAULTS_MAX};
use toml::de::{DeTable, DeValue};

use super::shape::{self, Misshapen};
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
    place: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// From 1, as the column, which counts characters.
    line: usize,
    column: usize,
    /// The line, or what of a long one stands around the column.
    shown: String,
    /// Characters of it before those that are meant, and how many these are.
    before: usize,
    meant: usize,
}

/// Characters of a line that are shown, and those of them that stand before what is meant.
const SHOWN_MAX: usize = 120;
const SHOWN_BEFORE_MAX: usize = 40;

impl Place {
    fn new(line: usize, column: usize, text: &str, meant: usize) -> Self {
        let skipped = if text.chars().count() > SHOWN_MAX { (column - 1).saturating_sub(SHOWN_BEFORE_MAX) } else { 0 };
        let mut shown: String = if skipped > 0 { "…".to_owned() } else { String::new() };
        let before = column - 1 - skipped + shown.chars().count();
        shown.extend(text.chars().skip(skipped).take(SHOWN_MAX));
        if text.chars().nth(skipped + SHOWN_MAX).is_some() {
            shown.push('…');
        }
        let meant = meant.min(shown.chars().count().saturating_sub(before)).max(1);
        Self { line, column, shown, before, meant }
    }
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
                Some(Place { line, column, shown, before, meant }) => {
                    let gutter = line.to_string().len();
                    write!(f, "\n{:gutter$}--> {}:{line}:{column}", "", self.file)?;
                    let (before, meant) = (" ".repeat(*before), "^".repeat(*meant));
                    write!(f, "\n{line} | {shown}\n{:gutter$} | {before}{meant}", "")?;
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
    let shape::Read { manifest, misshapen, taken } = shape::read(text);
    let mut faults: Vec<Located> = misshapen.into_iter().map(|fault| misplaced(fault, text)).collect();
    if let Some(manifest) = &manifest {
        let mut wrong = manifest.faults();
        wrong.retain(|fault| !taken.iter().any(|taken| taken.leaves_open(&fault.at)));
        faults.extend(located(&wrong, text));
    }
    match manifest {
        Some(manifest) if faults.is_empty() => Ok(manifest),
        _ => {
            // From top to bottom; what has no place comes last.
            faults
                .sort_by_key(|fault| fault.place.as_ref().map_or((usize::MAX, 0), |place| (place.line, place.column)));
            Err(refused(told_at_once(faults)))
        }
    }
}

fn misplaced(Misshapen { said, help, span }: Misshapen, text: &str) -> Located {
    Located { said, help, place: span.map(|span| place(text, &span)) }
}

/// The text of a manifest's bytes. `file` is how the errors name it.
///
/// # Errors
/// Where they cease to be UTF-8, and what they are likely instead.
pub fn text(bytes: Vec<u8>, file: &str) -> Result<String, ManifestError> {
    String::from_utf8(bytes).map_err(|error| {
        let (bytes, right) = (error.as_bytes(), error.utf8_error().valid_up_to());
        // Editors of Windows, and what its PowerShell redirects into a file, write UTF-16 with such a mark.
        let utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let (said, place) = if utf16 {
            ("the manifest is in UTF-16, not in UTF-8".to_owned(), None)
        } else {
            let before = std::str::from_utf8(&bytes[..right]).expect("it is UTF-8 up to there");
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            let line_end = bytes[right..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| right + end);
            let shown = String::from_utf8_lossy(&bytes[line_start..line_end]).trim_end().to_owned();
            let (line, column) = (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1);
            let said = format!("the manifest is not in UTF-8: the byte {:#04x} stands for nothing there", bytes[right]);
            (said, Some(Place::new(line, column, &shown, 1)))
        };
        let help = Some("save it in UTF-8, which every editor can: look for `encoding` where it saves".to_owned());
        ManifestError { file: file.to_owned(), faults: vec![Located { said, help, place }] }
    })
}

impl ManifestError {
    /// The faults, found in `text`; `None` when there are none.
    #[must_use]
    pub fn of(faults: &[Fault], text: &str, file: &str) -> Option<Self> {
        let faults = told_at_once(located(faults, text));
        (!faults.is_empty()).then(|| Self { file: file.to_owned(), faults })
    }
}

/// Each of the faults, with its place in `text`.
fn located(faults: &[Fault], text: &str) -> Vec<Located> {
    if faults.is_empty() {
        return Vec::new();
    }
    let table = DeTable::parse(text).ok();
    let located = |fault: &Fault| Located {
        said: format!("{}: {}", fault.at, fault.said),
        help: Some(fault.help.clone()),
        place: table.as_ref().and_then(|table| find(table.get_ref(), &fault.at)).map(|span| place(text, &span)),
    };
    faults.iter().map(located).collect()
}

/// No more than are told at once, and a word on the others.
fn told_at_once(mut faults: Vec<Located>) -> Vec<Located> {
    // One more may be such a word itself.
    if faults.len() > MANIFEST_FAULTS_MAX + 1 {
        let said = format!("there are {} more faults", faults.len() - MANIFEST_FAULTS_MAX);
        faults.truncate(MANIFEST_FAULTS_MAX);
        faults.push(Located { said, help: Some("mend these first".to_owned()), place: None });
    }
    faults
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

fn place(text: &str, span: &Range<usize>) -> Place {
    let start = text.floor_char_boundary(span.start);
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let column = text[line_start..start].chars().count() + 1;
    // What is meant may be the end of a line itself, which a line that ends in CR LF has behind its last character.
    let end = text.floor_char_boundary(span.end.min(line_start + line.len()).max(start));
    let width = text.get(start..end).map_or(1, |meant| meant.chars().count().max(1));
    Place::new(before.matches('\n').count() + 1, column, line, width)
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
    fn a_value_of_the_wrong_kind_is_answered_by_an_example() {
        check(
            "[components.app]\nmemory = 128\n",
            &expect![[r#"
                components.app.memory: a whole number stands where text in quotes belongs
                 --> firm.toml:2:10
                2 | memory = 128
                  |          ^^^
                  help: write it in quotes and with its unit, as in "128MiB""#]],
        );
        check(
            "limit = { rate = \"5/s\", burst = -5 }\n",
            &expect![[r#"
                limit.burst: `-5` is out of range
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
                limit: a list stands where a table belongs
                 --> firm.toml:1:1
                1 | [[limit]]
                  | ^^^^^^^^^
                  help: there is one of it at most, so that it has one pair of brackets: [limit]"]],
        );
    }

    #[test]
    fn all_that_is_misshapen_is_told_at_once() {
        check(
            "acces_log = true
[components.app]
memory = 128
reuse = \"true\"
[[route]]
pth = \"/\"
component = \"app\"
[[route]]
path = \"/b\"
static = \"nowhere\"
[limit]
per = \"ip\"
[bindings]
kv = \"x\"
",
            &expect![[r#"
                unknown key `acces_log`
                 --> firm.toml:1:1
                1 | acces_log = true
                  | ^^^^^^^^^
                  help: did you mean `access_log`?

                components.app.memory: a whole number stands where text in quotes belongs
                 --> firm.toml:3:10
                3 | memory = 128
                  |          ^^^
                  help: write it in quotes and with its unit, as in "128MiB"

                components.app.reuse: text stands where true or false belongs
                 --> firm.toml:4:9
                4 | reuse = "true"
                  |         ^^^^^^
                  help: write it without quotes: true

                unknown key `pth`
                 --> firm.toml:6:1
                6 | pth = "/"
                  | ^^^
                  help: did you mean `path`?

                limit: it has no `rate`
                  --> firm.toml:11:1
                11 | [limit]
                   | ^^^^^^^
                  help: add rate = "100/s"

                limit.per: `ip` is no choice here
                  --> firm.toml:12:7
                12 | per = "ip"
                   |       ^^^^
                  help: write "app" or "client"

                bindings.kv: text stands where a list belongs
                  --> firm.toml:14:6
                14 | kv = "x"
                   |      ^^^
                  help: write it in brackets: ["x"]"#]],
        );
    }

    #[test]
    fn what_follows_from_a_fault_is_no_fault() {
        // The route's component is the one of a key that isn't known.
        check(
            "[component.app]\n[[route]]\npath = \"/\"\ncomponent = \"app\"\n",
            &expect![[r"
            unknown key `component`
             --> firm.toml:1:2
            1 | [component.app]
              |  ^^^^^^^^^
              help: did you mean `components`?"]],
        );
        check(
            "[components.app]\n[[route]]\npath = \"/\"\ncomponent = 5\n",
            &expect![[r#"
            route[0].component: a whole number stands where text in quotes belongs
             --> firm.toml:4:13
            4 | component = 5
              |             ^
              help: write it in quotes: "5""#]],
        );
        // The second route is the only one of those that are left.
        check(
            "[static.site]\n[[route]]\nstatic = \"site\"\n[[route]]\npath = \"/b\"\nstatic = \"nowhere\"\n",
            &expect![[r#"
                route[0]: it has no `path`
                 --> firm.toml:2:1
                2 | [[route]]
                  | ^^^^^^^^^
                  help: add path = "/""#]],
        );
    }

    #[test]
    fn brackets_too_many_or_too_few_are_told() {
        check(
            "[route]\npath = \"/\"\n",
            &expect![[r"
            route: a table stands where a list belongs
             --> firm.toml:1:1
            1 | [route]
              | ^^^^^^^
              help: there may be more of it, so that it has two pairs of brackets: [[route]]"]],
        );
        check(
            "[[components.app]]\n[[static]]\n",
            &expect![[r"
            components.app: a list stands where a table belongs
             --> firm.toml:1:1
            1 | [[components.app]]
              | ^^^^^^^^^^^^^^^^^^
              help: there is one of it at most, so that it has one pair of brackets: [components.app]

            static: a list stands where a table belongs
             --> firm.toml:2:1
            2 | [[static]]
              | ^^^^^^^^^^
              help: each of it has a name, and one pair of brackets: [static.NAME]"]],
        );
    }

    #[test]
    fn entries_have_the_numbers_that_they_have_in_the_text() {
        let text = "[bindings]\nsecrets = [1, \"A\", 2]\n[static.s]\n[[route]]\npath = 1\n[[route]]\npath = \"/\"\nstatic = \"s\"\n[[route]]\nstatic = \"s\"\n[[route]]\npath = \"/b\"\nstatic = 5\n";
        let told = parse(text, "firm.toml").expect_err("there are five").to_string();
        for at in ["bindings.secrets[0]:", "bindings.secrets[2]:", "route[0].path:", "route[2]:", "route[3].static:"] {
            assert!(told.contains(at), "{at}\n{told}");
        }
    }

    #[test]
    fn a_long_line_is_shown_around_what_is_meant() {
        let line =
            format!("env = {{ {} }}\n", (0..50).map(|n| format!("A{n} = \"{n}\", ")).collect::<Vec<_>>().concat());
        check(
            &line.replace("\"25\"", "25").replace(",  }", " }"),
            &expect![[r#"
            env.A25: a whole number stands where text in quotes belongs
             --> firm.toml:1:295
            1 | …2 = "22", A23 = "23", A24 = "24", A25 = 25, A26 = "26", A27 = "27", A28 = "28", A29 = "29", A30 = "30", A31 = "31", A32 …
              |                                          ^^
              help: write it in quotes: "25""#]],
        );
        let many =
            format!("env = {{ {} }}\n", (0..5_000).map(|n| format!("A{n} = {n}")).collect::<Vec<_>>().join(", "));
        let told = parse(&many, "firm.toml").expect_err("they are numbers").to_string();
        assert!(told.len() < 20_000, "{} bytes", told.len());
    }

    #[test]
    fn other_faults_are_bounded_too() {
        let many = "[[redirect]]\nfrom = \"x\"\nto = \"/\"\n".repeat(100);
        let told = parse(&many, "firm.toml").expect_err("they begin with no slash").to_string();
        assert!(told.matches("firm.toml:").count() == MANIFEST_FAULTS_MAX, "{told}");
        assert!(told.ends_with("help: mend these first"), "{told}");
        let mixed = format!("k = 1\n{many}");
        let told = parse(&mixed, "firm.toml").expect_err("nor is there such a key").to_string();
        assert!(told.contains("there are 81 more faults"), "{told}");
    }

    #[test]
    fn more_faults_than_are_told_at_once_end_with_a_word() {
        let keys: Vec<_> = (0..2 * base::limits::MANIFEST_FAULTS_MAX).map(|number| format!("k{number} = 1")).collect();
        let many = keys.join("\n");
        let told = parse(&many, "firm.toml").expect_err("none of it is known").to_string();
        assert_eq!(told.matches("unknown key").count(), base::limits::MANIFEST_FAULTS_MAX);
        assert!(
            told.contains("there are more faults than these 20\n --> firm.toml\n  help: mend these first"),
            "{told}"
        );
    }

    #[test]
    fn a_text_that_is_no_toml_is_told_as_far_as_it_can_be_read() {
        check(
            "app = shop\naccess_log = yes\napp = \"a\"\nkv = [\"a\"\n[static.site]\ndir = \".\"\n",
            &expect![[r#"
            `shop` stands without quotes
             --> firm.toml:1:7
            1 | app = shop
              |       ^^^^
              help: write it in quotes: "shop"

            `yes` stands without quotes
             --> firm.toml:2:14
            2 | access_log = yes
              |              ^^^
              help: write true or false

            `app` stands here a second time
             --> firm.toml:3:1
            3 | app = "a"
              | ^^^
              help: keep one of the two

            a list has no end before this, or lacks a comma
             --> firm.toml:5:1
            5 | [static.site]
              | ^
              help: close it with `]`, or write a comma between its entries"#]],
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        let told = |bytes: &[u8]| text(bytes.to_vec(), "firm.toml").expect_err("it isn't UTF-8").to_string();
        expect![[r#"
            the manifest is not in UTF-8: the byte 0xe9 stands for nothing there
             --> firm.toml:2:9
            2 | b = "caf�"
              |         ^
              help: save it in UTF-8, which every editor can: look for `encoding` where it saves"#]]
        .assert_eq(&told(b"app = \"a\"\nb = \"caf\xe9\"\n"));
        expect![[r"
            the manifest is in UTF-16, not in UTF-8
             --> firm.toml
              help: save it in UTF-8, which every editor can: look for `encoding` where it saves"]]
        .assert_eq(&told(b"\xff\xfea\0"));
        assert_eq!(text("app = \"caf\u{e9}\"".into(), "firm.toml").as_deref(), Ok("app = \"caf\u{e9}\""));
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
                the text in quotes has no end
                 --> firm.toml:1:12
                1 | app = "shop
                  |            ^
                  help: close it with a quote, in the same line"#]],
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
