//! The projects that people start from: the sample apps of this tree, under a name of their own.
//!
//! They are embedded, so that `firm new` needs no network, and they are the same files that the tests build,
//! push and exercise. A folder that holds anything is never written into.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base::Name;

/// What a project starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    Static,
    JavaScript,
    Rust,
    Python,
}

/// Why there is no new project.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("`{}` is there already and not empty\n  help: choose another name, or remove the folder", .0.display())]
    Taken(PathBuf),
    #[error("`{}` can't be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Embeds files of a sample app.
macro_rules! app {
    ($app:literal: $($file:literal)*) => {
        &[$(($file, include_str!(concat!("../../../apps/", $app, "/", $file)))),*]
    };
}

type Files = &'static [(&'static str, &'static str)];

const STATIC: Files = app!("site": "README.md" "firm.toml" "public/404.html" "public/index.html" "public/style.css");
const JAVASCRIPT: Files = app!("js": "README.md" "firm.toml" "index.js" "package.json");
const RUST: Files = app!("guestbook": "Cargo.lock" "Cargo.toml" "README.md" "firm.toml" "src/lib.rs" "src/page.html" "wit/keyvalue.wit");
const PYTHON: Files = app!("python": "README.md" "app.py" "firm.toml" "pyproject.toml");

/// What builds leave behind.
const IGNORED: &str = ".firm/\nnode_modules/\ntarget/\n__pycache__/\n";

impl Template {
    pub const ALL: [Self; 4] = [Self::Static, Self::JavaScript, Self::Rust, Self::Python];

    /// As the command line calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::JavaScript => "js",
            Self::Rust => "rust",
            Self::Python => "python",
        }
    }

    /// What it is, in a line.
    #[must_use]
    pub fn summary(self) -> &'static str {
        match self {
            Self::Static => "a static site",
            Self::JavaScript => "a JSON API in JavaScript, with a key-value bucket",
            Self::Rust => "a guest book in Rust, with a key-value bucket",
            Self::Python => "a JSON API in Python, with a key-value bucket",
        }
    }

    /// The folder of the sample app, and the name that it has there.
    fn sample(self) -> (&'static str, &'static str, Files) {
        match self {
            Self::Static => ("site", "site", STATIC),
            Self::JavaScript => ("js", "notes", JAVASCRIPT),
            Self::Rust => ("guestbook", "guestbook", RUST),
            Self::Python => ("python", "polls", PYTHON),
        }
    }

    /// Its files, with the app called `app`.
    fn files(self, app: &Name) -> Vec<(&'static str, String)> {
        let (_, sample, files) = self.sample();
        files.iter().map(|(path, text)| (*path, renamed(path, text, sample, app))).collect()
    }
}

/// Writes a new project into `folder`, which must not hold anything.
pub fn create(template: Template, app: &Name, folder: &Path) -> Result<(), TemplateError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| TemplateError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    if fs::read_dir(folder).map_err(failed(folder))?.next().is_some() {
        return Err(TemplateError::Taken(folder.to_owned()));
    }
    let mut files = template.files(app);
    if template != Template::Static {
        files.push((".gitignore", IGNORED.to_owned()));
    }
    for (path, text) in files {
        let path = folder.join(path);
        let within = path.parent().expect("it was joined to a folder");
        fs::create_dir_all(within).map_err(failed(within))?;
        fs::write(&path, text).map_err(failed(&path))?;
    }
    Ok(())
}

/// `text` with the sample's name replaced where it is the app's or the package's, and nowhere else.
fn renamed(path: &str, text: &str, sample: &str, app: &Name) -> String {
    match path {
        "firm.toml" => text.replacen(&format!("app = \"{sample}\""), &format!("app = \"{app}\""), 1),
        "package.json" => text.replacen(&format!("\"name\": \"{sample}\""), &format!("\"name\": \"{app}\""), 1),
        "pyproject.toml" => text.replacen(&format!("name = \"{sample}\""), &format!("name = \"{app}\""), 1),
        "Cargo.toml" | "Cargo.lock" => {
            text.replacen(&format!("name = \"{sample}\""), &format!("name = \"{}\"", package(app)), 1)
        }
        _ => text.to_owned(),
    }
}

/// What Cargo lets a package be called: no digit in front, no keyword, and none of what it depends on.
fn package(app: &Name) -> String {
    let name = app.as_str();
    let line = format!("name = \"{name}\"");
    let lock = RUST.iter().find(|(path, _)| *path == "Cargo.lock").map_or("", |(_, text)| text);
    let depended_on = name != Template::Rust.sample().1 && lock.lines().any(|written| written == line);
    let taken = RESERVED.contains(&name) || depended_on || name.starts_with(|ch: char| ch.is_ascii_digit());
    if taken { format!("app-{name}") } else { name.to_owned() }
}

/// Rust's keywords, and the crates that the compiler brings along.
const RESERVED: [&str; 57] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "pub",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "union",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::project::Project;

    #[test]
    fn a_new_project_is_one_and_has_its_name() {
        for template in Template::ALL {
            let above = tempfile::tempdir().expect("a folder for the test");
            let folder = above.path().join("till");
            let app: Name = "till".parse().expect("a name");
            create(template, &app, &folder).expect("nothing is there");
            let project = Project::find(&folder).expect("a template is a project");
            assert_eq!(project.app(None).expect("a template has a name"), app, "{}", template.name());
            let (_, sample, files) = template.sample();
            for (path, _) in files {
                let text = fs::read_to_string(folder.join(path)).expect("it was just written");
                let left =
                    text.contains(&format!("name = \"{sample}\"")) || text.contains(&format!("app = \"{sample}\""));
                assert!(!left, "{path} of {}", template.name());
            }
        }
    }

    #[test]
    fn every_file_of_the_samples_is_embedded() {
        for template in Template::ALL {
            let (folder, _, files) = template.sample();
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../apps").join(folder);
            let left_behind = ["target", "node_modules", ".firm", "__pycache__", ".gitignore"];
            let held: BTreeSet<String> = walkdir::WalkDir::new(&root)
                .into_iter()
                .filter_entry(|entry| !left_behind.iter().any(|name| entry.file_name() == *name))
                .map(|entry| entry.expect("the tree can be read"))
                .filter(|entry| entry.file_type().is_file())
                .map(|entry| entry.path().strip_prefix(&root).expect("it lies below").display().to_string())
                .collect();
            let embedded: BTreeSet<String> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
            assert_eq!(embedded, held, "{folder}");
        }
    }

    #[test]
    fn nothing_is_written_over() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::write(folder.path().join("thesis.txt"), "").expect("a file for the test");
        let app = "till".parse().expect("a name");
        assert!(matches!(create(Template::Static, &app, folder.path()), Err(TemplateError::Taken(_))));
    }

    #[test]
    fn packages_have_names_that_cargo_takes() {
        for (app, expected) in [
            ("till", "till"),
            ("3d-shop", "app-3d-shop"),
            ("serde", "app-serde"),
            ("fn", "app-fn"),
            ("guestbook", "guestbook"),
        ] {
            assert_eq!(package(&app.parse().expect("a name")), expected);
        }
    }
}
