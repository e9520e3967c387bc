//! Finds the project at a path: its manifest as written in `firm.toml`, completed by what the folder holds.
//!
//! What is plain from the folder need not be written: a static site needs no `firm.toml` at all, and an app of
//! one component or one static folder needs no route. Nothing is implied where two readings are possible.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use base::Name;
use base::limits::MANIFEST_BYTES_MAX;
use state::Manifest;
use state::manifest::{Component, Fault, ManifestError, Route, StaticFolder, parse, text};

use crate::build::{Kind, detect};

/// The manifest's file name.
pub const MANIFEST: &str = "firm.toml";

/// A folder and what it deploys.
#[derive(Clone, Debug)]
pub struct Project {
    /// What the manifest's paths are relative to.
    pub root: PathBuf,
    /// Complete: what wasn't written is implied.
    pub manifest: Manifest,
    /// `firm.toml` as it was read, to point into; none where all of it is implied.
    text: Option<String>,
    /// How errors name the manifest.
    file: String,
}

/// Why there is no project.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("there is no `{}`\n  help: name a folder with a project, or a .wasm file", .0.display())]
    Missing(PathBuf),
    #[error("`{}` can't be read", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}` is a file, and not a component\n  help: name its folder, or a .wasm file", .0.display())]
    File(PathBuf),
    #[error("{0}")]
    Manifest(ManifestError),
    #[error(
        "`{}` holds nothing to deploy\n  help: it needs one of firm.toml, index.html, package.json, Cargo.toml and pyproject.toml; \
         start with: firm new NAME", .0.display()
    )]
    Empty(PathBuf),
    #[error("`{}` holds no source, only what was built\n  help: push that: firm push {}", folder.display(), folder.join(wasm).display())]
    Built { folder: PathBuf, wasm: String },
    #[error(
        "{file} names nothing to deploy, and beside it is no index.html, package.json, Cargo.toml or pyproject.toml\n  help: add to \
         {file}\n\n    {example}"
    )]
    NoPart { file: String, example: String },
    #[error(
        "no route leads to the app's {what}\n --> {file}\n  help: add a route for each, such as\n\n    [[route]]\n    path = \"/\"\n    {example}"
    )]
    NoRoute { file: String, what: String, example: String },
    #[error("the app has no name\n  help: {0}")]
    NoApp(String),
}

impl Project {
    /// The project at `path`: a folder, a `firm.toml`, or a built component.
    pub fn find(path: &Path) -> Result<Self, ProjectError> {
        let about = fs::metadata(path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => ProjectError::Missing(path.to_owned()),
            _ => ProjectError::Read { path: path.to_owned(), source },
        })?;
        if about.is_dir() {
            return Self::in_folder(path);
        }
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match (path.file_name().and_then(|name| name.to_str()), detect(path)) {
            (Some(MANIFEST), _) => Self::in_folder(folder),
            (Some(name), Some(Kind::Wasm)) => Ok(Self::implied(folder, name, Kind::Wasm)),
            _ => Err(ProjectError::File(path.to_owned())),
        }
    }

    fn in_folder(root: &Path) -> Result<Self, ProjectError> {
        let Some((mut manifest, text, file)) = read(root)? else {
            return detect(root).map(|kind| Self::implied(root, ".", kind)).ok_or_else(|| match built(root) {
                Some(wasm) => ProjectError::Built { folder: root.to_owned(), wasm },
                None => ProjectError::Empty(root.to_owned()),
            });
        };
        if manifest.components.is_empty() && manifest.statics.is_empty() {
            let kind = detect(root).ok_or_else(|| no_part(root, &file))?;
            imply_part(&mut manifest, ".", kind);
        }
        if manifest.routes.is_empty() {
            imply_route(&mut manifest, &file)?;
        }
        Ok(Self { root: root.to_owned(), manifest, text: Some(text), file })
    }

    fn implied(root: &Path, source: &str, kind: Kind) -> Self {
        let mut manifest = Manifest::default();
        imply_part(&mut manifest, source, kind);
        let file = format!("{} (implied: there is no such file)", shown(root).display());
        imply_route(&mut manifest, &file).expect("one part was just implied");
        Self { root: root.to_owned(), manifest, text: None, file }
    }

    /// The app's name: `told`, or else the manifest's.
    pub fn app(&self, told: Option<&Name>) -> Result<Name, ProjectError> {
        told.or(self.manifest.app.as_ref()).cloned().ok_or_else(|| nameless(&self.root, "firm push"))
    }

    /// What the cloud found wrong with the manifest, shown where it stands in the file.
    #[must_use]
    pub fn explain(&self, faults: &[Fault]) -> Option<ManifestError> {
        ManifestError::of(faults, self.text.as_deref().unwrap_or_default(), &self.file)
    }
}

/// The app that the manifest in `folder` names, for commands about an app that exists already.
///
/// They want nothing of it but the name: whoever is about to look for the reason of a fault in the app's log, or goes back
/// a release, isn't stopped by a key that is misspelled meanwhile.
pub fn app_of(folder: &Path) -> Result<Option<Name>, ProjectError> {
    match read(folder) {
        Ok(found) => Ok(found.and_then(|(manifest, ..)| manifest.app)),
        Err(ProjectError::Manifest(fault)) => match only_name(folder) {
            Some(name) => Ok(Some(name)),
            None => Err(ProjectError::Manifest(fault)),
        },
        Err(error) => Err(error),
    }
}

/// The name in a manifest that is TOML, whatever else stands there.
fn only_name(folder: &Path) -> Option<Name> {
    #[derive(serde::Deserialize)]
    struct OnlyName {
        app: Option<Name>,
    }
    let text = fs::read_to_string(folder.join(MANIFEST)).ok().filter(|text| text.len() <= MANIFEST_BYTES_MAX)?;
    toml::from_str::<OnlyName>(&text).ok()?.app
}

/// The first component that lies in the folder, ready to run.
fn built(folder: &Path) -> Option<String> {
    let names = fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| detect(&folder.join(name)) == Some(Kind::Wasm)).min()
}

/// A manifest that names no part, where the folder has none to imply. A component that was built isn't implied: beside it may
/// lie what it was built from.
fn no_part(root: &Path, file: &str) -> ProjectError {
    let example = match built(root) {
        Some(wasm) => format!("[components.app]\n    source = {wasm:?}"),
        None => "[static.site]\n    dir = \"public\"".to_owned(),
    };
    ProjectError::NoPart { file: file.to_owned(), example }
}

fn shown(root: &Path) -> PathBuf {
    root.components().filter(|part| part.as_os_str() != ".").collect::<PathBuf>().join(MANIFEST)
}

fn read(root: &Path) -> Result<Option<(Manifest, String, String)>, ProjectError> {
    let path = root.join(MANIFEST);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ProjectError::Read { path, source }),
    };
    let file = shown(root).display().to_string();
    let text = text(bytes, &file).map_err(ProjectError::Manifest)?;
    let manifest = parse(&text, &file).map_err(ProjectError::Manifest)?;
    Ok(Some((manifest, text, file)))
}

/// The name of the one part that a manifest doesn't have to write.
fn part_name(kind: Kind) -> Name {
    let name = if kind == Kind::Static { "site" } else { "app" };
    name.parse().expect("both are names")
}

fn imply_part(manifest: &mut Manifest, source: &str, kind: Kind) {
    let name = part_name(kind);
    if kind == Kind::Static {
        manifest.statics.insert(name, StaticFolder { dir: source.to_owned(), ..StaticFolder::default() });
    } else {
        manifest.components.insert(name, Component { source: source.to_owned(), ..Component::default() });
    }
}

/// Routes everything to the only part there is.
fn imply_route(manifest: &mut Manifest, file: &str) -> Result<(), ProjectError> {
    let mut components = manifest.components.keys();
    let mut statics = manifest.statics.keys();
    let (component, static_folder) = match (components.next(), components.next(), statics.next(), statics.next()) {
        (Some(component), None, None, _) => (Some(component.clone()), None),
        (None, _, Some(folder), None) => (None, Some(folder.clone())),
        (component, _, folder, _) => {
            let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
            let (code, files) =
                (count(manifest.components.len(), "component"), count(manifest.statics.len(), "static folder"));
            let example = match (component, folder) {
                (Some(component), _) => format!("component = \"{component}\""),
                (None, Some(folder)) => format!("static = \"{folder}\""),
                (None, None) => return Ok(()),
            };
            return Err(ProjectError::NoRoute { file: file.to_owned(), what: format!("{code} and {files}"), example });
        }
    };
    manifest.routes.push(Route { path: "/".to_owned(), component, static_folder, limit: None });
    Ok(())
}

/// The error of an app without a name, with a name to take: the folder's, where it is one.
pub fn nameless(root: &Path, command: &str) -> ProjectError {
    let folder = fs::canonicalize(root).ok();
    let name = folder.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).map(str::to_lowercase);
    // As it was typed: without the folder, the command would be about the one that the person is in.
    let (file, command) = if matches!(root.to_str(), Some("" | ".")) {
        ("firm.toml".to_owned(), command.to_owned())
    } else {
        (root.join("firm.toml").display().to_string(), format!("{command} {}", root.display()))
    };
    ProjectError::NoApp(match name.and_then(|name| name.parse::<Name>().ok()) {
        Some(name) => format!("write `app = \"{name}\"` in {file}, or: {command} --app {name}"),
        None => format!("write `app = \"…\"` in {file}, or: {command} --app NAME"),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[test]
    fn a_fault_elsewhere_in_the_manifest_leaves_the_app_its_name() {
        let name = |manifest: &str| app_of(folder(&[("firm.toml", manifest)]).path());
        let named = |manifest: &str| name(manifest).map(|app| app.map(|app| app.to_string())).ok();
        assert_eq!(named("app = \"shop\"\nrouts = 1\n"), Some(Some("shop".to_owned())));
        assert_eq!(named("app = \"shop\"\n[[route]]\npath = \"no slash\"\n"), Some(Some("shop".to_owned())));
        assert_eq!(named("app = \"No Name\"\n"), None);
        assert_eq!(named("app = \"shop\nroute = \n"), None, "this is no TOML");
        assert_eq!(named("routs = 1\n"), None);
    }

    /// A folder with these files.
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder for the test");
        for (path, text) in files {
            fs::write(folder.path().join(path), text).expect("a file for the test");
        }
        folder
    }

    fn check(files: &[(&str, &str)], expected: &Expect) {
        let folder = folder(files);
        let said = match Project::find(folder.path()) {
            Ok(project) => toml::to_string(&project.manifest).expect("a manifest is TOML"),
            Err(error) => format!("{error}\n"),
        };
        expected.assert_eq(&said.replace(&folder.path().display().to_string(), "~"));
    }

    #[test]
    fn a_folder_with_an_index_is_a_site() {
        check(
            &[("index.html", "G'day")],
            &expect![[r#"
            [static.site]
            dir = "."

            [[route]]
            path = "/"
            static = "site"
        "#]],
        );
    }

    #[test]
    fn source_code_is_a_component() {
        check(
            &[("package.json", "{}"), ("index.html", "")],
            &expect![[r#"
            [components.app]
            source = "."

            [[route]]
            path = "/"
            component = "app"
        "#]],
        );
    }

    #[test]
    fn a_manifest_without_parts_is_completed() {
        check(
            &[("firm.toml", "app = \"shop\"\n[env]\nA = \"b\"\n"), ("pyproject.toml", "")],
            &expect![[r#"
            app = "shop"

            [components.app]
            source = "."

            [[route]]
            path = "/"
            component = "app"

            [env]
            A = "b"
        "#]],
        );
    }

    #[test]
    fn the_only_part_gets_the_only_route() {
        check(
            &[("firm.toml", "[static.pages]\ndir = \"public\"\n")],
            &expect![[r#"
            [static.pages]
            dir = "public"

            [[route]]
            path = "/"
            static = "pages"
        "#]],
        );
    }

    #[test]
    fn of_two_parts_none_is_guessed() {
        check(
            &[("firm.toml", "[static.pages]\n[components.api]\n")],
            &expect![[r#"
            no route leads to the app's 1 component and 1 static folder
             --> ~/firm.toml
              help: add a route for each, such as

                [[route]]
                path = "/"
                component = "api"
        "#]],
        );
    }

    #[test]
    fn an_empty_folder_says_what_it_needs() {
        check(
            &[],
            &expect![[r"
            `~` holds nothing to deploy
              help: it needs one of firm.toml, index.html, package.json, Cargo.toml and pyproject.toml; start with: firm new NAME
        "]],
        );
    }

    #[test]
    fn a_manifest_that_names_nothing_says_what_to_add() {
        check(
            &[("firm.toml", ""), ("Shop.wasm", ""), ("Till.wasm", "")],
            &expect![[r#"
            ~/firm.toml names nothing to deploy, and beside it is no index.html, package.json, Cargo.toml or pyproject.toml
              help: add to ~/firm.toml

                [components.app]
                source = "Shop.wasm"
        "#]],
        );
        check(
            &[("firm.toml", "app = \"shop\"\n")],
            &expect![[r#"
            ~/firm.toml names nothing to deploy, and beside it is no index.html, package.json, Cargo.toml or pyproject.toml
              help: add to ~/firm.toml

                [static.site]
                dir = "public"
        "#]],
        );
    }

    #[test]
    fn a_folder_with_only_a_built_component_says_how_to_push_it() {
        check(
            &[("Shop.wasm", "")],
            &expect![[r"
            `~` holds no source, only what was built
              help: push that: firm push ~/Shop.wasm
        "]],
        );
    }

    #[test]
    fn a_manifest_that_is_no_text_is_shown_where_it_is_not() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::write(folder.path().join(MANIFEST), b"app = \"caf\xe9\"\n").expect("a file for the test");
        let said = Project::find(folder.path()).expect_err("it isn't UTF-8").to_string();
        expect![[r#"
            the manifest is not in UTF-8: the byte 0xe9 stands for nothing there
             --> ~/firm.toml:1:11
            1 | app = "caf�"
              |           ^
              help: save it in UTF-8, which every editor can: look for `encoding` where it saves"#]]
        .assert_eq(&said.replace(&folder.path().display().to_string(), "~"));
    }

    #[test]
    fn a_wrong_manifest_is_shown_where_it_is_wrong() {
        check(
            &[("firm.toml", "[static.site]\ndri = \"public\"\n")],
            &expect![[r#"
            unknown key `dri`
             --> ~/firm.toml:2:1
            2 | dri = "public"
              | ^^^
              help: did you mean `dir`?
        "#]],
        );
    }

    #[test]
    fn a_component_alone_is_a_project() {
        let folder = folder(&[("Shop.wasm", "")]);
        let project = Project::find(&folder.path().join("Shop.wasm")).expect("a .wasm file is a project");
        assert_eq!(project.manifest.components.values().next().map(|part| part.source.as_str()), Some("Shop.wasm"));
        assert_eq!(project.root, folder.path());
    }

    #[test]
    fn other_files_are_not_projects() {
        let folder = folder(&[("notes.txt", "")]);
        assert!(matches!(Project::find(&folder.path().join("notes.txt")), Err(ProjectError::File(_))));
        assert!(matches!(Project::find(&folder.path().join("nothing")), Err(ProjectError::Missing(_))));
    }

    #[test]
    fn the_cloud_s_faults_point_into_the_file() {
        let folder = folder(&[("firm.toml", "[static.site]\ncache = \"x\"\n")]);
        let project = Project::find(folder.path()).expect("it is well-formed");
        let fault = Fault { at: "static.site.cache".into(), said: "too odd".into(), help: "write less".into() };
        let shown = project.explain(&[fault]).expect("there is a fault").to_string();
        assert!(shown.contains("firm.toml:2:9"), "{shown}");
    }

    #[test]
    fn a_name_is_told_or_written_or_suggested() {
        let above = tempfile::tempdir().expect("a folder for the test");
        let root = above.path().join("Shop");
        fs::create_dir(&root).expect("a folder for the test");
        fs::write(root.join("index.html"), "").expect("a file for the test");
        let project = Project::find(&root).expect("it has an index.html");
        let told = "till".parse().expect("a name");
        assert_eq!(project.app(Some(&told)).expect("told"), told);
        expect![[r#"
            the app has no name
              help: write `app = "shop"` in ABOVE/Shop/firm.toml, or: firm push ABOVE/Shop --app shop"#]]
        .assert_eq(
            &project
                .app(None)
                .expect_err("nobody named it")
                .to_string()
                .replace(&above.path().display().to_string(), "ABOVE"),
        );
    }
}
