//! The tree checks itself: its crate edges, docs, limits, words and licences are what they claim to be.
//!
//! Each check says what to do. `make docs` writes the generated files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;

/// Lines of a source file. Past it, ask what two things it is.
const FILE_LINES_MAX: usize = 900;

/// Licences that what we ship may be under, by SPDX id. All let anybody use and change it, and ask for no more than
/// their own text. The data licence is that of the browsers' list of authorities.
const LICENCES: [&str; 13] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

// ---- the tree ----

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the crate lies two folders below the root")
}

/// Every file below `folder` that ends so, as a path from the root; what builds and installs leave is passed over.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, end: &str, found: &mut Vec<PathBuf>) {
        let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        for entry in entries {
            let path = entry.expect("an entry of a folder of ours").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if ["target", "node_modules", ".git", ".venv"].contains(&name) {
                continue;
            }
            if path.is_dir() {
                walk(&path, end, found);
            } else if name.ends_with(end) {
                found.push(path);
            }
        }
    }
    let (root, mut found) = (root(), Vec::new());
    let start = root.join(folder);
    if start.is_dir() {
        walk(&start, end, &mut found);
    }
    let mut found: Vec<PathBuf> =
        found.iter().map(|path| path.strip_prefix(&root).expect("it lies below the root").to_owned()).collect();
    found.sort();
    found
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tree's own Rust: crates, tests, and the apps that people copy.
fn rust() -> Vec<PathBuf> {
    ["crates", "tests", "apps"].iter().flat_map(|folder| files(folder, ".rs")).collect()
}

fn docs() -> Vec<PathBuf> {
    files("", ".md")
}

fn none(faults: &[String], what_to_do: &str) {
    assert!(faults.is_empty(), "\n{}\n\n{what_to_do}\n", faults.join("\n"));
}

/// Is `word` in `text`, and not as a part of a longer one?
fn has_word(text: &str, word: &str) -> bool {
    let part = |ch: char| ch.is_alphanumeric() || ch == '_';
    text.match_indices(word).any(|(at, _)| {
        let goes_on = word.ends_with(part) && text[at + word.len()..].starts_with(part);
        !text[..at].ends_with(part) && !goes_on
    })
}

// ---- Markdown ----

/// Some text and the number of its line.
type Numbered = (usize, String);

/// What a document shows as code: the spans in backticks, and the lines of its blocks.
fn code(text: &str) -> (Vec<Numbered>, Vec<Numbered>) {
    let (mut spans, mut lines) = (Vec::new(), Vec::new());
    let mut fenced = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            lines.push((number, line.trim().to_owned()));
        } else {
            spans.extend(line.split('`').skip(1).step_by(2).map(|span| (number, span.to_owned())));
        }
    }
    (spans, lines)
}

/// The `[text](target)` of a document outside its code, and their lines.
fn links(text: &str) -> Vec<Numbered> {
    let (mut found, mut fenced) = (Vec::new(), false);
    for (number, line) in (1..).zip(text.lines()) {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        found.extend(targets.map(|target| (number, target.to_owned())));
    }
    found
}

/// The anchors that a document's headings make.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |heading: &str| {
        let kept = heading.trim_start_matches('#').trim().to_lowercase();
        kept.chars().filter(|ch| ch.is_alphanumeric() || " -_".contains(*ch)).collect::<String>().replace(' ', "-")
    };
    headings.map(slug).collect()
}

// ---- crates ----

/// The crates of ARCHITECTURE.md's table, each with those that it may use.
fn crate_table() -> BTreeMap<String, BTreeSet<String>> {
    let text = read("ARCHITECTURE.md");
    let rows =
        text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2).take_while(|line| line.starts_with('|'));
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [name, _, uses] = cells[..] else { panic!("ARCHITECTURE.md's crate table has three columns: {row}") };
        (names(name).remove(0), names(uses).into_iter().collect())
    })
    .collect()
}

fn crates() -> BTreeSet<String> {
    let dir = fs::read_dir(root().join("crates")).expect("there are crates");
    dir.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn crate_edges_are_those_of_the_table() {
    let (table, crates) = (crate_table(), crates());
    let mut faults = Vec::new();
    if table.keys().cloned().collect::<BTreeSet<_>>() != crates {
        faults.push(format!("the table has {:?}, crates/ has {crates:?}", table.keys()));
    }
    for name in &crates {
        let manifest: toml::Table = read(format!("crates/{name}/Cargo.toml")).parse().expect("cargo read it before");
        let of = |section: &str| -> BTreeSet<String> {
            let keys = manifest.get(section).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
            keys.filter(|key| crates.contains(*key)).cloned().collect()
        };
        let edges: BTreeSet<String> = ["dependencies", "build-dependencies"].into_iter().flat_map(of).collect();
        let allowed = table.get(name).cloned().unwrap_or_default();
        for edge in edges.difference(&allowed) {
            faults.push(format!("{name} depends on {edge}, and the table doesn't say that it may"));
        }
        for edge in of("dev-dependencies").difference(&allowed) {
            faults.push(format!("{name}'s tests depend on {edge}, and the table doesn't say that they may"));
        }
        for edge in allowed.difference(&edges) {
            faults.push(format!("the table says that {name} uses {edge}, and its Cargo.toml doesn't name it"));
        }
        let sources: Vec<String> = files(&format!("crates/{name}/src"), ".rs").iter().map(read).collect();
        for edge in &edges {
            if !sources.iter().any(|source| has_word(source, &format!("{edge}::"))) {
                faults.push(format!("{name} depends on {edge}, and nothing in it says `{edge}::`"));
            }
        }
    }
    none(
        &faults,
        "Take the edge out of the Cargo.toml; or, if the design is to change, change ARCHITECTURE.md's table.",
    );
}

/// docs/decisions/0009-dependencies.md says why each was taken.
#[test]
fn every_dependency_is_used_and_explained() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("cargo read it before");
    let named = manifest["workspace"]["dependencies"].as_table().expect("a table of dependencies");
    let (page, crates) = (read("docs/decisions/0009-dependencies.md"), crates());
    let manifests: Vec<String> = files("crates", "Cargo.toml").iter().map(read).collect();
    let mut faults = Vec::new();
    for name in named.keys().filter(|name| !crates.contains(*name)) {
        if !manifests.iter().any(|manifest| {
            manifest
                .lines()
                .any(|line| line.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(['.', ' '])))
        }) {
            faults.push(format!("no crate uses {name}"));
        }
        if !page.contains(&format!("`{name}`")) {
            faults.push(format!("{name} isn't explained"));
        }
    }
    none(&faults, "Take it out of Cargo.toml, or say in docs/decisions/0009-dependencies.md why it was taken.");
}

// ---- documents ----

#[test]
fn paths_in_the_docs_exist() {
    const OURS: [&str; 7] = [".ci/", "apps/", "bench/", "crates/", "docs/", "tests/", "tools/"];
    const SOURCES: [&str; 5] = [".rs", ".md", ".py", ".js", ".json"];
    let mut faults = Vec::new();
    for doc in docs() {
        let text = read(&doc);
        for (line, span) in code(&text).0 {
            let path = span.split(':').next().unwrap_or_default();
            let is_path = !path.contains(char::is_whitespace)
                && !path.contains(['…', '*', '{', '<', '$'])
                && path.contains('/')
                && !path.starts_with('/')
                && (OURS.iter().any(|folder| path.starts_with(folder))
                    || SOURCES.iter().any(|end| path.ends_with(end)));
            let beside = root().join(&doc).with_file_name(path);
            if is_path && !root().join(path).exists() && !beside.exists() {
                faults.push(format!("{}:{line}: there is no `{path}`", doc.display()));
            }
        }
    }
    none(&faults, "Name what is there now, or take the sentence out.");
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut faults = Vec::new();
    for doc in docs() {
        let text = read(&doc);
        for (line, target) in links(&text) {
            if target.starts_with("https://") || target.starts_with("http://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { root().join(&doc) } else { root().join(&doc).with_file_name(path) };
            let held = anchor.is_empty() || fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor));
            if !file.exists() || !held {
                faults.push(format!("{}:{line}: ({target}) leads nowhere", doc.display()));
            }
        }
    }
    none(&faults, "Mend the link, or write the page.");
}

/// The words of a command line up to where another one begins.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for ch in text.chars() {
        match (quote, ch) {
            (Some(open), ch) if ch == open => quote = None,
            (None, '"' | '\'') => quote = Some(ch),
            (None, '|' | '&' | ';' | '#' | '>' | '<' | ')' | '`' | ',' | ':') => break,
            (None, ch) if ch.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(ch),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// What of `words`, which follow `firm`, the command line doesn't have.
fn unknown_words(firm: &clap::Command, words: &[String]) -> Option<String> {
    let (mut command, mut is_value) = (firm.clone(), false);
    // What follows `--` is another command.
    for word in words.iter().take_while(|word| *word != "--") {
        if let Some(flag) = word.strip_prefix('-').filter(|flag| !flag.is_empty()) {
            let spelled = flag.split('=').next().unwrap_or_default();
            let is_it = |argument: &&clap::Arg| match spelled.strip_prefix('-') {
                Some(long) => argument.get_long() == Some(long),
                None => argument.get_short() == spelled.chars().next(),
            };
            let Some(argument) = command.get_arguments().find(is_it).or_else(|| firm.get_arguments().find(is_it))
            else {
                return Some(format!("`firm {}` has no flag `{word}`", command.get_name()));
            };
            is_value = argument.get_action().takes_values() && !word.contains('=');
        } else if std::mem::take(&mut is_value) || word.starts_with('[') {
            // What the flag before it takes, or a place for any.
        } else if let Some(inner) = command.find_subcommand(word) {
            command = inner.clone();
        } else if command.get_positionals().next().is_none() && !["…", "..."].contains(&word.as_str()) {
            return Some(format!("`{}` has no `{word}`", command.get_bin_name().unwrap_or("firm")));
        }
    }
    None
}

fn command_line() -> clap::Command {
    let mut firm = firm::cli::definition();
    firm.build();
    firm
}

#[test]
fn commands_in_the_docs_exist() {
    let firm = command_line();
    let mut faults = Vec::new();
    for doc in docs() {
        let (spans, lines) = code(&read(&doc));
        let spans = spans.into_iter().filter(|(_, span)| span.starts_with("firm "));
        for (line, text) in spans.chain(lines) {
            // The second word of `firm firm` is its command.
            let begins =
                |at: usize| !text[..at].ends_with(|ch: char| !" $(\"".contains(ch)) && !text[..at].ends_with("firm ");
            let calls = text.match_indices("firm ").filter(|(at, _)| begins(*at));
            for (at, _) in calls {
                // A comment after a command is prose.
                if !text[..at].contains('#')
                    && let Some(unknown) = unknown_words(&firm, &words(&text[at + 5..]))
                {
                    faults.push(format!("{}:{line}: {unknown}", doc.display()));
                }
            }
        }
    }
    none(&faults, "Write the command as `firm --help` spells it.");
}

/// Errors tell people what to call next; that must be there as well.
#[test]
fn commands_in_the_code_exist() {
    let firm = command_line();
    let mut faults = Vec::new();
    for file in files("crates", ".rs") {
        let text = read(&file);
        for (line, text) in (1..).zip(text.lines()) {
            for (at, _) in text.match_indices("firm ") {
                let before = text[..at].chars().next_back();
                let rest = &text[at + 5..];
                let first = rest.split(|ch: char| !ch.is_ascii_lowercase()).next().unwrap_or_default();
                let quoted = before == Some('`') && !rest.starts_with(['<', '{', '.', '-']);
                let called = firm.find_subcommand(first).is_some() && before.is_none_or(|ch| " `\"(".contains(ch));
                if !quoted && !called {
                    continue;
                }
                // What follows in the same text; of its words those that can be told: commands and long flags.
                let said = rest.split(['"', '`', '\\', '{', '(', ')', ']']).next().unwrap_or_default();
                let inner =
                    |word: &str| firm.find_subcommand(first).is_some_and(|first| first.find_subcommand(word).is_some());
                let said = words(said).into_iter().take_while(|word| word != "--");
                let told = said.map(|word| word.trim_end_matches('.').to_owned()).enumerate();
                let flags: Vec<String> = told
                    .filter(|(index, word)| *index == 0 || inner(word) || word.starts_with("--"))
                    // With `=`, so that what follows isn't taken for its value: that was left out.
                    .map(|(_, word)| if word.starts_with("--") && !word.contains('=') { word + "=" } else { word })
                    .collect();
                if let Some(unknown) = unknown_words(&firm, &flags) {
                    faults.push(format!("{}:{line}: {unknown}", file.display()));
                }
            }
        }
    }
    none(&faults, "Write the command as `firm --help` spells it.");
}

/// docs/security.md holds each claim by a test; a test that was renamed must not leave the claim alone.
#[test]
fn tests_named_in_the_docs_exist() {
    let sources: Vec<String> = rust().iter().map(read).collect();
    let mut faults = Vec::new();
    for doc in docs() {
        for (line, span) in code(&read(&doc)).0 {
            let is_test = span.matches('_').count() >= 3
                && span.chars().all(|ch| ch.is_ascii_lowercase() || ch.is_ascii_digit() || ch == '_');
            if is_test && !sources.iter().any(|source| source.contains(&format!("fn {span}("))) {
                faults.push(format!("{}:{line}: there is no test `{span}`", doc.display()));
            }
        }
    }
    none(&faults, "Name the test that holds it now; if none does, the claim is not true any more.");
}

#[test]
fn the_manifest_page_explains_every_key() {
    fn keys(schema: &serde_json::Value, found: &mut BTreeSet<String>) {
        match schema {
            serde_json::Value::Object(object) => {
                if let Some(properties) = object.get("properties").and_then(serde_json::Value::as_object) {
                    found.extend(properties.keys().cloned());
                }
                object.values().for_each(|value| keys(value, found));
            }
            serde_json::Value::Array(items) => items.iter().for_each(|value| keys(value, found)),
            _ => {}
        }
    }
    let page = read("docs/manifest.md");
    let mut wanted = BTreeSet::new();
    keys(state::Manifest::schema().as_value(), &mut wanted);
    assert!(wanted.contains("not_found"), "the schema has properties");
    let spans: BTreeSet<String> = code(&page).0.into_iter().map(|(_, span)| span).collect();
    let faults: Vec<String> =
        wanted.difference(&spans).map(|key| format!("docs/manifest.md doesn't explain `{key}`")).collect();
    none(&faults, "Say there what it does.");
    let example = read("crates/state/src/manifest/full.toml");
    assert!(
        page.contains(example.trim()),
        "docs/manifest.md shows crates/state/src/manifest/full.toml as it is: copy it there"
    );
}

#[test]
fn generated_files_are_current() {
    let docs = root().join("docs");
    let version = env!("CARGO_PKG_VERSION");
    let json = |value: &serde_json::Value| serde_json::to_string_pretty(value).expect("it is plain data") + "\n";
    expect_file![docs.join("cli.md")].assert_eq(&firm::cli::reference());
    expect_file![docs.join("openapi.json")].assert_eq(&json(&api::openapi(version)));
    expect_file![docs.join("firm.schema.json")].assert_eq(&json(state::Manifest::schema().as_value()));
    expect_file![docs.join("cloud.schema.json")].assert_eq(&json(firm::cli::cloud_schema().as_value()));
}

/// The last bench as docs/performance.md shows it, between two lines that mark it.
fn bench_table() -> String {
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&read("bench/results/latest.json")).expect("bench/run wrote it");
    let mut table = "| case | peer | ours | theirs | unit | ratio | bar | met |\n".to_owned();
    table += "| --- | --- | --: | --: | --- | --: | --: | --- |\n";
    for row in rows {
        let cell = |key: &str| match &row[key] {
            serde_json::Value::Null => "–".to_owned(),
            serde_json::Value::Bool(met) => if *met { "yes" } else { "no" }.to_owned(),
            serde_json::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let cells = ["case", "peer", "ours", "theirs", "unit", "ratio", "bar", "met"].map(cell);
        let _ = writeln!(table, "| {} |", cells.join(" | "));
    }
    table
}

#[test]
fn the_performance_page_shows_the_last_bench() {
    const BEGIN: &str = "<!-- the table of bench/results/latest.json, written by make docs -->\n";
    const END: &str = "<!-- end of the table -->\n";
    let (page, table) = (read("docs/performance.md"), bench_table());
    let (before, rest) = page.split_once(BEGIN).expect("docs/performance.md marks where the table begins");
    let (shown, after) = rest.split_once(END).expect("docs/performance.md marks where the table ends");
    if shown != table && std::env::var_os("UPDATE_EXPECT").is_some() {
        let page = [before, BEGIN, &table, END, after].concat();
        return fs::write(root().join("docs/performance.md"), page).expect("the page can be written");
    }
    assert_eq!(shown, table, "docs/performance.md doesn't show the last bench: make docs");
}

// ---- sources ----

#[test]
fn every_limit_says_why_and_is_used() {
    let text = ["limits.rs", "limits/boxes.rs"].map(|name| read(format!("crates/base/src/{name}"))).join("\n");
    let elsewhere: Vec<String> = rust().iter().filter(|path| !path.starts_with("crates/base")).map(read).collect();
    let (mut faults, mut explained) = (Vec::new(), false);
    for line in text.lines() {
        let Some(name) = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next()) else {
            // A comment explains the limits under it, up to the next line that is neither.
            explained = line.starts_with("///");
            continue;
        };
        if !explained {
            faults.push(format!("{name} has no comment, and stands under no group's"));
        }
        if !elsewhere.iter().any(|source| has_word(source, name)) {
            faults.push(format!("{name} bounds nothing: it is used nowhere outside base"));
        }
    }
    none(
        &faults,
        "In crates/base/src/limits.rs and below: write its arithmetic or its reason above it; use it or take it out.",
    );
}

#[test]
fn every_source_says_what_it_is() {
    let says = |path: &PathBuf| {
        // The tests of one module, in a file beside it: what they are of, its head says already.
        let is_tests = path.file_name().is_some_and(|name| name == "tests.rs");
        let text = read(path);
        let mut lines = text.lines().skip_while(|line| line.starts_with("#!["));
        is_tests || text.trim().is_empty() || lines.next().is_some_and(|line| line.starts_with("//!"))
    };
    let faults: Vec<String> = rust().iter().filter(|path| !says(path)).map(|path| path.display().to_string()).collect();
    none(&faults, "Open the file with `//!`: what it does, what it refuses, why it is so.");
}

#[test]
fn no_source_is_empty_or_endless() {
    let mut faults = Vec::new();
    for path in rust() {
        let lines = read(&path).lines().count();
        if lines == 0 || lines > FILE_LINES_MAX {
            faults.push(format!("{} has {lines} lines", path.display()));
        }
    }
    none(&faults, &format!("Past {FILE_LINES_MAX} lines ask what two things it is; remove what is empty."));
}

#[test]
fn nothing_is_left_undone() {
    // Written so that this file doesn't hold them itself.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let calls =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[ig", "nore"), concat!(".unwrap", "()")];
    let mut faults = Vec::new();
    for path in rust() {
        for (number, line) in (1..).zip(read(&path).lines()) {
            let found = words
                .iter()
                .find(|word| has_word(line, word))
                .or_else(|| calls.iter().find(|call| line.contains(**call)));
            if let Some(found) = found {
                faults.push(format!("{}:{number}: {found}", path.display()));
            }
        }
    }
    none(&faults, "Do it now, or open an issue; instead of unwrapping, say with `expect` why it holds.");
}

#[test]
fn unsafe_stays_in_the_sandbox_and_says_why_it_holds() {
    const BEFORE: usize = 12;
    let mut faults = Vec::new();
    for path in files("crates", ".rs") {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let code: String = code.split('"').step_by(2).collect();
            if !has_word(&code, "unsafe") {
                continue;
            }
            let place = format!("{}:{}", path.display(), index + 1);
            if !path.starts_with("crates/sandbox") {
                faults.push(format!("{place}: unsafe outside crates/sandbox"));
            }
            if !lines[index.saturating_sub(BEFORE)..=index].iter().any(|line| line.contains("SAFETY")) {
                faults.push(format!("{place}: no SAFETY comment in the {BEFORE} lines above it"));
            }
        }
    }
    none(&faults, "Do without, or do it in the sandbox; say in a SAFETY comment right above why it holds.");
}

// ---- licences ----

/// Does an SPDX expression leave us a choice of licences that are all allowed? `OR` binds less than `AND`.
fn is_permissive(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let holds = any(&tokens, &mut at);
    holds && at == tokens.len()
}

fn any(tokens: &[&str], at: &mut usize) -> bool {
    let mut holds = all(tokens, at);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        holds |= all(tokens, at);
    }
    holds
}

fn all(tokens: &[&str], at: &mut usize) -> bool {
    let mut holds = one(tokens, at);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one(tokens, at);
    }
    holds
}

fn one(tokens: &[&str], at: &mut usize) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let holds = any(tokens, at);
        *at += 1;
        return holds;
    }
    let mut licence = (*token).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        let _ = write!(licence, " WITH {}", tokens.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    LICENCES.contains(&licence.as_str())
}

#[test]
fn licence_expressions_are_understood() {
    for right in [
        "MIT",
        "MIT/Apache-2.0",
        "LGPL-2.1-or-later OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(is_permissive(right), "{right}");
    }
    for wrong in [
        "",
        "GPL-3.0",
        "MPL-2.0",
        "MIT AND AGPL-3.0",
        "Apache-2.0 WITH Commons-Clause",
        "MIT) OR MIT",
        "MIT Apache-2.0",
    ] {
        assert!(!is_permissive(wrong), "{wrong}");
    }
}

/// Covers what the binary links, what builds it, and what tests it: one list is simpler than three, and none of them
/// needs another licence today.
#[test]
fn dependencies_are_permissively_licensed() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--locked",
            "--offline",
            "--edges",
            "all",
            "--prefix",
            "none",
            "--format",
            "{p}|{l}",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs this test, so it can be run");
    assert!(tree.status.success(), "cargo tree: {}", String::from_utf8_lossy(&tree.stderr));
    let listed = String::from_utf8(tree.stdout).expect("package names are UTF-8");
    let packages: BTreeMap<&str, &str> =
        listed.lines().filter_map(|line| line.trim_end_matches(" (*)").split_once('|')).collect();
    assert!(packages.len() > 100, "cargo tree lists the dependencies:\n{listed}");
    let wrong = packages.iter().filter(|(_, licence)| !is_permissive(licence));
    let faults: Vec<String> = wrong.map(|(package, licence)| format!("{package}: `{licence}`")).collect();
    none(
        &faults,
        "Take another crate. A licence that is permissive and merely new here goes on the list in tests/house.rs.",
    );
}
