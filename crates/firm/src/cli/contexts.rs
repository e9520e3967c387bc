//! The clouds that this user knows, and with which token: `contexts.toml` in the user's configuration.
//!
//! It holds secrets, so only its owner may read it. It is replaced in one step, under a lock, so that neither a
//! crash nor a second `firm` at the same time loses a context.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use api::Context;
use base::Name;
use serde::{Deserialize, Serialize};

const FILE: &str = "contexts.toml";

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// The one that commands use unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Name>,
    #[serde(default)]
    pub contexts: BTreeMap<Name, Context>,
}

/// Why the contexts can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ContextsError {
    #[error(
        "there is no place for the contexts: neither XDG_CONFIG_HOME nor HOME is set\n  help: set one of them, or FIRM_ADDRESS, FIRM_TOKEN and FIRM_AUTHORITY"
    )]
    NoHome,
    #[error("`{}` can't be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("`{}` is not a list of contexts\n  help: correct it, or remove it and run `firm up` or `firm context add` again", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("`{}` can't be written", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("the contexts can't be written as TOML")]
    Encode(#[source] toml::ser::Error),
}

/// Keeps a context under a name, in the place of an older one of that name. The first one is the current one.
///
/// Names the context that was current until then, if it is another.
pub fn register(name: &Name, context: Context, make_current: bool) -> Result<Option<Name>, ContextsError> {
    let folder = folder()?;
    let mut before = None;
    change(&folder, |contexts| {
        before.clone_from(&contexts.current);
        if make_current || contexts.contexts.is_empty() {
            contexts.current = Some(name.clone());
        }
        contexts.contexts.insert(name.clone(), context);
    })?;
    Ok(before.filter(|before| make_current && before != name))
}

/// Where this user's contexts are.
pub fn folder() -> Result<PathBuf, ContextsError> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("XDG_CONFIG_HOME")
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|config| config.join("firm"))
        .ok_or(ContextsError::NoHome)
}

/// The contexts in `folder`; none where nothing was written yet.
pub fn load(folder: &Path) -> Result<Contexts, ContextsError> {
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => toml::from_str(&text).map_err(|source| ContextsError::Parse { path, source: Box::new(source) }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contexts::default()),
        Err(source) => Err(ContextsError::Read { path, source }),
    }
}

/// Reads, changes and replaces the contexts in `folder`, alone.
pub fn change(folder: &Path, change: impl FnOnce(&mut Contexts)) -> Result<(), ContextsError> {
    let write = |source| ContextsError::Write { path: folder.join(FILE), source };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(write)?;
    // Let go when it is closed, at the latest by the end of the process.
    let lock = open_lock(&folder.join("contexts.lock")).map_err(write)?;
    lock.lock().map_err(write)?;
    let mut contexts = load(folder)?;
    change(&mut contexts);
    let text = toml::to_string(&contexts).map_err(ContextsError::Encode)?;
    replace(folder, text.as_bytes()).map_err(write)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(path)
}

fn replace(folder: &Path, text: &[u8]) -> io::Result<()> {
    // Somebody's configuration may be a link into their own repository: what it points at is replaced.
    let path = fs::canonicalize(folder.join(FILE)).unwrap_or_else(|_| folder.join(FILE));
    let within = path.parent().unwrap_or(folder);
    // A temporary file is its owner's alone from its first byte.
    let mut file = tempfile::NamedTempFile::new_in(within)?;
    file.write_all(text)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn context(token: &str) -> Context {
        Context {
            address: "127.0.0.1:8443".into(),
            also: vec!["10.0.0.8:443".into()],
            host: "api.firm.localhost".into(),
            authority: "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n".into(),
            token: token.into(),
            tenant: "acme".parse().expect("a name"),
        }
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    #[test]
    fn contexts_read_back_and_are_their_owner_s_alone() {
        let above = tempfile::tempdir().expect("a folder for the test");
        let folder = above.path().join("firm");
        assert_eq!(load(&folder).expect("nothing is there"), Contexts::default());
        for token in ["a", "b"] {
            change(&folder, |contexts| {
                contexts.contexts.insert(name(token), context(token));
                contexts.current = Some(name("b"));
            })
            .expect("it can be written");
        }
        let contexts = load(&folder).expect("it was just written");
        assert_eq!(contexts.contexts[&name("a")], context("a"));
        assert_eq!(contexts.current, Some(name("b")));
        let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&folder.join(FILE)), mode(&folder)), (0o600, 0o700));
    }

    #[test]
    fn no_change_is_lost_when_many_write() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let folder = folder.path();
                scope.spawn(move || {
                    change(folder, |contexts| {
                        contexts.contexts.insert(name(&format!("c{number}")), context("t"));
                    })
                    .expect("it can be written");
                });
            }
        });
        assert_eq!(load(folder.path()).expect("it was just written").contexts.len(), 8);
    }

    #[test]
    fn a_broken_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder for the test");
        fs::write(folder.path().join(FILE), "current = 7").expect("a file for the test");
        assert!(matches!(load(folder.path()), Err(ContextsError::Parse { .. })));
    }
}
