//! What a box keeps under its directory: `box/` is its own and stays, `node/` is its cloud's and goes when it is wiped.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base::Name;
use firming::Standing;
use rustix::fs::{FlockOperation, flock};
use segment::identity::write_private;
use segment::{Identity, IdentityError};
use serde::{Deserialize, Serialize};

/// The format of `standing.json` that this build writes and reads.
const FORMAT: u32 = 1;

/// Why a box's directory can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("`{}` can't be read or written", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` is used by another box process: stop that one, or choose another one with --dir", path.display())]
    InUse { path: PathBuf },
    #[error("`{}` can't be read as what a box is: it was left as it is; to begin anew, move the whole directory away", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("`{}` has format {found}, and this build reads {FORMAT}: run the newer build that wrote it", path.display())]
    Newer { path: PathBuf, found: u32 },
    #[error(
        "`{}` holds a cloud's data, and there is no box/standing.json that says whose: put it back from a copy, or move \
         the data away",
        path.display()
    )]
    StandingGone { path: PathBuf },
    #[error("the box's key can't be opened")]
    Identity(#[source] IdentityError),
}

/// A file that gives its room to a standing when the disk is full: two of them, of the largest order that is taken.
const RESERVE: &str = "reserve";
const RESERVE_BYTES: usize = 128 << 10;

/// What the cloud was told when it was founded, and all its boxes are told when they join.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) domain: String,
    pub(super) tenant: Name,
    /// The cloud began on this box.
    #[serde(default = "yes")]
    pub(super) founder: bool,
}

/// Before clouds had several boxes each was its cloud's first.
fn yes() -> bool {
    true
}

#[derive(Serialize, Deserialize)]
struct Written {
    format: u32,
    standing: Standing,
}

/// The box's directory, locked.
pub(super) struct Disk {
    dir: PathBuf,
    _lock: File,
}

impl Disk {
    /// Opens the directory, or makes it. Blocks.
    pub(super) fn open(dir: &Path) -> Result<Self, DiskError> {
        let own = dir.join("box");
        let file = |path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&own).map_err(file(&own))?;
        let path = own.join("lock");
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(file(&path))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                let disk = Self { dir: dir.to_owned(), _lock: lock };
                disk.reserve();
                Ok(disk)
            }
            Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskError::InUse { path: dir.to_owned() }),
            Err(error) => Err(file(&path)(error.into())),
        }
    }

    fn own(&self, name: &str) -> PathBuf {
        self.dir.join("box").join(name)
    }

    /// Where the node keeps its data.
    pub(super) fn node(&self) -> PathBuf {
        self.dir.join("node")
    }

    /// The box's key, made where there is none. `id` has its public half for whoever looks.
    pub(super) fn identity(&self) -> Result<Identity, DiskError> {
        let identity = Identity::open(&self.own("identity.key")).map_err(DiskError::Identity)?;
        let path = self.own("id");
        fs::write(&path, format!("{}\n", identity.id())).map_err(|source| DiskError::File { path, source })?;
        Ok(identity)
    }

    pub(super) fn standing(&self) -> Result<Standing, DiskError> {
        let path = self.own("standing.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A box that was never told anything has no data either.
                let holds = fs::read_dir(self.node()).is_ok_and(|mut entries| entries.next().is_some());
                return if holds { Err(DiskError::StandingGone { path: self.node() }) } else { Ok(Standing::Blank) };
            }
            Err(source) => return Err(DiskError::File { path, source }),
        };
        // The format first: a newer build's standing may not even be readable.
        let format = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|value| value.get("format")?.as_u64())
            .and_then(|format| u32::try_from(format).ok());
        if let Some(found) = format.filter(|format| *format > FORMAT) {
            return Err(DiskError::Newer { path, found });
        }
        let written: Written = serde_json::from_str(&text).map_err(|source| DiskError::Malformed { path, source })?;
        Ok(written.standing)
    }

    /// What this returns for is on the disk. A full disk has room for it: that is what the reserve is for.
    pub(super) fn write_standing(&self, standing: &Standing) -> Result<(), DiskError> {
        let path = self.own("standing.json");
        let written = Written { format: FORMAT, standing: standing.clone() };
        let text = serde_json::to_vec_pretty(&written)
            .map_err(|source| DiskError::Malformed { path: path.clone(), source })?;
        let result = match write_private(&path, &text) {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                // Where there is none the second try says so.
                let _ = fs::remove_file(self.own(RESERVE));
                write_private(&path, &text)
            }
            result => result,
        };
        self.reserve();
        result.map_err(|source| DiskError::File { path, source })
    }

    /// Takes room for the next standing, where there is any.
    fn reserve(&self) {
        let path = self.own(RESERVE);
        if fs::metadata(&path).is_ok_and(|found| found.len() == RESERVE_BYTES as u64) {
            return;
        }
        // Written to, and not only made long: a hole is no room.
        if let Err(error) = write_private(&path, &vec![0x66; RESERVE_BYTES]) {
            tracing::warn!(%error, "there is no room to keep in reserve: a full disk may keep this box from being reset");
        }
    }

    /// Deletes the node's data, and the box's key where told. What it returns for is gone from the disk.
    pub(super) fn wipe(&self, key: bool) -> Result<(), DiskError> {
        let node = self.node();
        let file = |path: &Path, source| DiskError::File { path: path.to_owned(), source };
        let gone = |path: &Path, removed: io::Result<()>| match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|source| file(path, source)),
        };
        // What is in it first: the folder itself may be where a disk of its own is mounted, and stays then.
        match fs::read_dir(&node) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry.map_err(|source| file(&node, source))?;
                    let path = entry.path();
                    let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                    gone(&path, if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) })?;
                }
                match fs::remove_dir(&node) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                    removed => gone(&node, removed)?,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(file(&node, source)),
        }
        if key {
            for name in ["identity.key", "id"] {
                let path = self.own(name);
                gone(&path, fs::remove_file(&path))?;
            }
        }
        for dir in [self.dir.clone(), self.dir.join("box")] {
            File::open(&dir).and_then(|dir| dir.sync_all()).map_err(|source| file(&dir, source))?;
        }
        self.reserve();
        Ok(())
    }

    /// The node's directory, made where it is missing.
    pub(super) fn make_node(&self) -> Result<PathBuf, DiskError> {
        let node = self.node();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&node);
        made.map_err(|source| DiskError::File { path: node.clone(), source })?;
        Ok(node)
    }

    /// Lays down what the node starts from.
    pub(super) fn write_setup(&self, setup: &Setup) -> Result<(), DiskError> {
        let node = self.make_node()?;
        let file = |path: &Path, source| DiskError::File { path: path.to_owned(), source };
        let path = node.join("setup.json");
        let text = serde_json::to_vec(setup).map_err(|source| DiskError::Malformed { path: path.clone(), source })?;
        write_private(&path, &text).map_err(|source| file(&path, source))
    }

    pub(super) fn setup(&self) -> Result<Setup, DiskError> {
        let path = self.node().join("setup.json");
        let text = fs::read(&path).map_err(|source| DiskError::File { path: path.clone(), source })?;
        serde_json::from_slice(&text).map_err(|source| DiskError::Malformed { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wiped_box_keeps_its_key_unless_told_and_nothing_of_the_node() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path()).expect("opened");
        let id = disk.identity().expect("made").id();
        let setup = Setup { domain: "localhost".to_owned(), tenant: "main".parse().expect("a name"), founder: true };
        disk.write_setup(&setup).expect("written");
        assert!(disk.setup().is_ok());
        disk.wipe(false).expect("wiped");
        assert!(disk.setup().is_err() && !disk.node().exists());
        assert_eq!(disk.identity().expect("read").id(), id);
        disk.wipe(true).expect("wiped");
        disk.wipe(true).expect("wiped again");
        assert_ne!(disk.identity().expect("made").id(), id);
    }

    #[test]
    fn data_without_a_standing_is_nobodys_to_wipe() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path()).expect("opened");
        fs::create_dir(disk.node()).expect("made");
        assert!(disk.standing().is_ok(), "an empty folder, such as a mounted disk's, is no data");
        fs::write(disk.node().join("record.sqlite"), "x").expect("written");
        assert!(matches!(disk.standing(), Err(DiskError::StandingGone { .. })));
    }

    #[test]
    fn one_process_has_a_box() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = Disk::open(folder.path()).expect("opened");
        assert!(matches!(Disk::open(folder.path()), Err(DiskError::InUse { .. })));
        drop(first);
        assert!(Disk::open(folder.path()).is_ok());
    }

    #[test]
    fn a_standing_that_can_t_be_read_is_told_and_left_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path()).expect("opened");
        assert_eq!(disk.standing().expect("blank"), Standing::Blank);
        disk.write_standing(&Standing::Blank).expect("written");
        assert_eq!(disk.standing().expect("read"), Standing::Blank);
        let path = folder.path().join("box/standing.json");
        for (text, newer) in [("{", false), ("{\"format\":1,\"standing\":\"odd\"}", false), ("{\"format\":2}", true)] {
            fs::write(&path, text).expect("written");
            let error = disk.standing().expect_err("it can't be read");
            assert_eq!(matches!(error, DiskError::Newer { found: 2, .. }), newer, "{error}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        }
    }
}
