//! Lists the files of a static folder, by the path that visitors will use.
//!
//! Published is every regular file below the folder, but for:
//! - whatever starts with a dot (`.git`, `.env`, `.firm` …), except `.well-known`;
//! - `firm.toml` and `node_modules` at the top of the folder.
//!
//! A symbolic link is followed while it stays in the folder and doesn't lead to something of that list.
//! Everything else is refused by name before a byte is read: what leads out of the folder, what is no file
//! (a socket or pipe would block for ever), what no URL can name, and what is over the limits.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use base::Bytes;
use base::limits::{ASSET_PATH_BYTES_MAX, FILE_BYTES_MAX, RELEASE_BYTES_MAX, RELEASE_FILES_MAX};
use walkdir::{DirEntry, WalkDir};

use crate::project::MANIFEST;

/// A file to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asset {
    /// Below the folder, with `/` between its parts.
    pub path: String,
    pub file: PathBuf,
    pub size: u64,
}

/// What a release holds so far, against its limits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    files: usize,
    bytes: u64,
}

/// Why a folder can't be published.
#[derive(Debug, thiserror::Error)]
pub enum AssetsError {
    #[error("the static folder `{}` is missing\n  help: build it first, or correct `dir` in firm.toml", .0.display())]
    Missing(PathBuf),
    #[error("the static folder `{}` is not a folder\n  help: correct `dir` in firm.toml", .0.display())]
    NotAFolder(PathBuf),
    #[error("`{}` can't be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "`{}` leads out of the folder that is published, to `{}`\n  help: replace the link by a copy of what it points at",
        link.display(), target.display()
    )]
    Outside { link: PathBuf, target: PathBuf },
    #[error(
        "`{}` leads to `{}`, which is never published\n  help: replace the link by a copy, if it is meant for everybody",
        link.display(), target.display()
    )]
    Hidden { link: PathBuf, target: PathBuf },
    #[error("`{}` leads to itself or to nothing\n  help: remove the link", .0.display())]
    Link(PathBuf),
    #[error("`{}` is neither a file nor a folder\n  help: remove it, or publish another folder", .0.display())]
    Special(PathBuf),
    #[error("`{}` has a name that is not UTF-8, or has control characters or a backslash\n  help: rename it", .0.display())]
    Name(PathBuf),
    #[error("`{path}` is a path of {} bytes, more than {ASSET_PATH_BYTES_MAX}\n  help: shorten it", path.len())]
    Long { path: String },
    #[error(
        "`{}` has {size} bytes; a file of a release has {} at the most\n  help: keep large files elsewhere, or move it out of the folder",
        path.display(), Bytes(FILE_BYTES_MAX)
    )]
    Large { path: PathBuf, size: u64 },
    #[error(
        "the release has more than {RELEASE_FILES_MAX} files: `{}` is one too many\n  help: is the right folder published?", .0.display()
    )]
    Files(PathBuf),
    #[error(
        "the release has more than {} in all: `{}` is too much\n  help: is the right folder published?",
        Bytes(RELEASE_BYTES_MAX), .0.display()
    )]
    Bytes(PathBuf),
}

impl Tally {
    /// Counts one more file in, or says which limit it breaks.
    pub fn count(&mut self, path: &Path, size: u64) -> Result<(), AssetsError> {
        if size > FILE_BYTES_MAX {
            return Err(AssetsError::Large { path: path.to_owned(), size });
        }
        self.files += 1;
        self.bytes += size;
        if self.files > RELEASE_FILES_MAX {
            return Err(AssetsError::Files(path.to_owned()));
        }
        if self.bytes > RELEASE_BYTES_MAX {
            return Err(AssetsError::Bytes(path.to_owned()));
        }
        Ok(())
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The files of `dir`, a folder of the project at `root`, in order of their names.
pub fn list(root: &Path, dir: &str, tally: &mut Tally) -> Result<Vec<Asset>, AssetsError> {
    // Components leave out the dots in the middle, which errors would show.
    let folder: PathBuf = root.join(dir).components().collect();
    let real = real_folder(root, &folder)?;
    let mut assets = Vec::new();
    let mut walk = WalkDir::new(&folder).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| unreadable(&folder, error))?;
        if entry.depth() == 0 {
            continue;
        }
        if is_hidden(entry.file_name(), entry.depth() == 1) {
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
            continue;
        }
        if entry.path_is_symlink() {
            check_link(&real, entry.path())?;
        }
        if !entry.file_type().is_dir() {
            assets.push(asset(&folder, &entry, tally)?);
        }
    }
    Ok(assets)
}

/// The folder itself, links resolved: it may not lead out of the project.
fn real_folder(root: &Path, folder: &Path) -> Result<PathBuf, AssetsError> {
    let real = fs::canonicalize(folder).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => AssetsError::Missing(folder.to_owned()),
        _ => AssetsError::Read { path: folder.to_owned(), source },
    })?;
    let project = fs::canonicalize(root).map_err(|source| AssetsError::Read { path: root.to_owned(), source })?;
    if !real.starts_with(&project) {
        return Err(AssetsError::Outside { link: folder.to_owned(), target: real });
    }
    if !real.is_dir() {
        return Err(AssetsError::NotAFolder(folder.to_owned()));
    }
    Ok(real)
}

fn is_hidden(name: &OsStr, at_top: bool) -> bool {
    let dotted = name.as_encoded_bytes().starts_with(b".") && name != ".well-known";
    dotted || (at_top && (name == MANIFEST || name == "node_modules"))
}

fn check_link(real: &Path, link: &Path) -> Result<(), AssetsError> {
    let target = fs::canonicalize(link).map_err(|_| AssetsError::Link(link.to_owned()))?;
    let Ok(within) = target.strip_prefix(real) else {
        return Err(AssetsError::Outside { link: link.to_owned(), target });
    };
    let mut parts = within.components().enumerate();
    if parts.any(|(depth, part)| is_hidden(part.as_os_str(), depth == 0)) {
        return Err(AssetsError::Hidden { link: link.to_owned(), target });
    }
    Ok(())
}

fn asset(folder: &Path, entry: &DirEntry, tally: &mut Tally) -> Result<Asset, AssetsError> {
    let file = entry.path();
    let about = entry.metadata().map_err(|error| unreadable(folder, error))?;
    if !about.is_file() {
        return Err(AssetsError::Special(file.to_owned()));
    }
    let path = published(folder, file).ok_or_else(|| AssetsError::Name(file.to_owned()))?;
    if path.len() > ASSET_PATH_BYTES_MAX {
        return Err(AssetsError::Long { path });
    }
    tally.count(file, about.len())?;
    Ok(Asset { path, file: file.to_owned(), size: about.len() })
}

/// `file` as visitors name it; none where they couldn't.
fn published(folder: &Path, file: &Path) -> Option<String> {
    let mut path = String::new();
    for part in file.strip_prefix(folder).ok()?.components() {
        let Component::Normal(name) = part else { return None };
        let name = name.to_str().filter(|name| !name.contains(|ch: char| ch.is_control() || ch == '\\'))?;
        if !path.is_empty() {
            path.push('/');
        }
        path.push_str(name);
    }
    Some(path)
}

fn unreadable(folder: &Path, error: walkdir::Error) -> AssetsError {
    let path = error.path().unwrap_or(folder).to_owned();
    let is_link = fs::symlink_metadata(&path).is_ok_and(|about| about.is_symlink());
    match error.into_io_error() {
        Some(source) if !is_link || source.kind() == io::ErrorKind::PermissionDenied => {
            AssetsError::Read { path, source }
        }
        // A link to nothing, to itself, or to a folder that it lies in.
        _ => AssetsError::Link(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn of(files: &[&str]) -> Self {
            let tree = Self(tempfile::tempdir().expect("a folder for the test"));
            for file in files {
                let path = tree.at(file);
                fs::create_dir_all(path.parent().expect("it lies in the tree")).expect("a folder for the test");
                fs::write(path, file).expect("a file for the test");
            }
            tree
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn link(self, link: &str, target: &str) -> Self {
            symlink(target, self.at(link)).expect("a link for the test");
            self
        }

        fn list(&self, dir: &str) -> Result<Vec<String>, AssetsError> {
            let assets = list(self.0.path(), dir, &mut Tally::default())?;
            Ok(assets.into_iter().map(|asset| asset.path).collect())
        }
    }

    #[test]
    fn what_is_private_stays() {
        let tree = Tree::of(&[
            "index.html",
            "css/site.css",
            "css/.hidden",
            ".env",
            ".git/config",
            ".firm/build/app.wasm",
            ".well-known/security.txt",
            "firm.toml",
            "node_modules/x/index.js",
            "docs/firm.toml",
            "docs/node_modules/y.js",
        ]);
        let expected =
            [".well-known/security.txt", "css/site.css", "docs/firm.toml", "docs/node_modules/y.js", "index.html"];
        assert_eq!(tree.list(".").expect("all of it can be listed"), expected);
    }

    #[test]
    fn links_within_the_folder_are_followed() {
        let tree = Tree::of(&["public/a/x.txt"]).link("public/b", "a").link("public/y.txt", "a/x.txt");
        assert_eq!(tree.list("public").expect("they stay within"), ["a/x.txt", "b/x.txt", "y.txt"]);
    }

    #[test]
    fn links_that_lead_out_are_named() {
        for target in ["/etc/passwd", "/etc", "../secret", ".."] {
            let tree = Tree::of(&["public/index.html", "secret"]).link("public/out", target);
            let error = tree.list("public").expect_err("it leads out");
            assert!(
                matches!(&error, AssetsError::Outside { link, .. } if link.ends_with("public/out")),
                "{target}: {error}"
            );
        }
        let tree = Tree::of(&["index.html"]).link("public", "/etc");
        assert!(matches!(tree.list("public"), Err(AssetsError::Outside { .. })));
    }

    #[test]
    fn links_to_what_is_private_are_refused() {
        let tree = Tree::of(&["index.html", ".env"]).link("env.txt", ".env");
        assert!(matches!(tree.list("."), Err(AssetsError::Hidden { .. })));
    }

    #[test]
    fn links_to_nothing_and_in_circles_are_refused() {
        assert!(matches!(Tree::of(&["a"]).link("b", "nowhere").list("."), Err(AssetsError::Link(_))));
        assert!(matches!(
            Tree::of(&["a"]).link("b", "b").list("."),
            Err(AssetsError::Link(_) | AssetsError::Read { .. })
        ));
        assert!(matches!(Tree::of(&["a/b/c"]).link("a/b/up", "../../a").list("."), Err(AssetsError::Link(_))));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let tree = Tree::of(&["index.html"]);
        let _socket = std::os::unix::net::UnixListener::bind(tree.at("socket")).expect("a socket for the test");
        assert!(matches!(tree.list("."), Err(AssetsError::Special(_))));
    }

    #[test]
    fn names_that_no_url_has_are_refused() {
        for name in [b"\xff.txt".as_slice(), b"a\nb", b"a\\b"] {
            let tree = Tree::of(&[]);
            fs::write(tree.0.path().join(OsStr::from_bytes(name)), "").expect("a file for the test");
            assert!(matches!(tree.list("."), Err(AssetsError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn a_huge_file_is_refused_unread() {
        let tree = Tree::of(&["index.html"]);
        let file = fs::File::create(tree.at("disk.img")).expect("a file for the test");
        file.set_len(10 << 30).expect("sparse files cost nothing");
        let error = tree.list(".").expect_err("it is over the limit").to_string();
        assert!(error.contains("disk.img") && error.contains("1GiB"), "{error}");
    }

    #[test]
    fn a_release_is_bounded_in_all() {
        let mut tally = Tally::default();
        let path = Path::new("x");
        for _ in 0..4 {
            tally.count(path, FILE_BYTES_MAX).expect("4 GiB are allowed");
        }
        assert!(matches!(tally.count(path, 1), Err(AssetsError::Bytes(_))));
        let mut tally = Tally { files: RELEASE_FILES_MAX, bytes: 0 };
        assert!(matches!(tally.count(path, 0), Err(AssetsError::Files(_))));
    }

    #[test]
    fn a_missing_folder_says_so() {
        assert!(matches!(Tree::of(&[]).list("public"), Err(AssetsError::Missing(_))));
        assert!(matches!(Tree::of(&["public"]).list("public"), Err(AssetsError::NotAFolder(_))));
    }
}
