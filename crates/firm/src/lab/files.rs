//! A lab's folder: what lies in it, and who may be its keeper.
//!
//! | file | what |
//! | --- | --- |
//! | `lab.json` | the lab as it was last written down, whole or not at all |
//! | `lab.sock` | where the keeper takes orders |
//! | `lab.log` | what a detached keeper said |
//! | `b1/` | the disk of box 1 |
//! | `b1.log`, `b1.out` | what it said: standard error, and its console |
//!
//! The keeper holds a lock on the folder itself, so that there is never a second one, and none that is believed to be
//! there after a crash.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base::{BoxId, Digest};

use super::{Lab, LabError};

const STATE: &str = "lab.json";
const SOCKET: &str = "lab.sock";
const LOG: &str = "lab.log";

/// A folder that is a lab's, or may become one.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

/// Held by the keeper of the lab in a folder.
#[derive(Debug)]
pub struct Lock {
    /// Closing it lets the folder go.
    _folder: File,
}

fn fault<'a>(path: &'a Path, doing: &'static str) -> impl FnOnce(io::Error) -> LabError + 'a {
    move |source| LabError::File { path: path.to_owned(), doing, source }
}

impl Folder {
    /// The folder at a path, made where it isn't there: nobody else's business.
    pub fn make(path: &Path) -> Result<Self, LabError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault(path, "made"))?;
        let path = path.canonicalize().map_err(fault(path, "found"))?;
        Ok(Self(path))
    }

    /// The folder at a path, where a lab is looked for.
    pub fn open(path: &Path) -> Result<Self, LabError> {
        match path.canonicalize() {
            Ok(path) => Ok(Self(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(LabError::None { path: path.to_owned() }),
            Err(error) => Err(fault(path, "found")(error)),
        }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Of the folder's path: two labs share one with 2^-24.
    #[must_use]
    pub fn id(&self) -> String {
        Digest::of(self.0.as_os_str().as_encoded_bytes()).hex()[..6].to_owned()
    }

    /// The disk of a box.
    #[must_use]
    pub fn disk(&self, number: u8) -> PathBuf {
        self.0.join(format!("b{number}"))
    }

    /// What a box says to its log.
    #[must_use]
    pub fn log(&self, number: u8) -> PathBuf {
        self.0.join(format!("b{number}.log"))
    }

    /// What a box shows on its console.
    #[must_use]
    pub fn console(&self, number: u8) -> PathBuf {
        self.0.join(format!("b{number}.out"))
    }

    /// What a detached keeper says.
    #[must_use]
    pub fn keeper_log(&self) -> PathBuf {
        self.0.join(LOG)
    }

    /// Who a box is, once it has written that down.
    #[must_use]
    pub fn identity(&self, number: u8) -> Option<BoxId> {
        let text = fs::read_to_string(self.disk(number).join("box/id")).ok()?;
        text.trim().parse().ok()
    }

    /// The path of the socket for this process: through a descriptor of the folder, because a socket's own path has
    /// 107 bytes at the most (unix(7)). The descriptor must be open while it is used.
    pub fn socket(&self) -> Result<(File, PathBuf), LabError> {
        let folder = File::open(&self.0).map_err(fault(&self.0, "opened"))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd()));
        Ok((folder, path))
    }

    /// Makes this process the keeper. None where there is one.
    pub fn lock(&self) -> Result<Option<Lock>, LabError> {
        let folder = File::open(&self.0).map_err(fault(&self.0, "opened"))?;
        match folder.try_lock() {
            Ok(()) => Ok(Some(Lock { _folder: folder })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(fault(&self.0, "locked")(error)),
        }
    }

    /// The lab that was last written down here.
    pub fn read(&self) -> Result<Option<Lab>, LabError> {
        let path = self.0.join(STATE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| LabError::State { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fault(&path, "read")(error)),
        }
    }

    /// Writes it down, whole or not at all. The machine's crash needn't be survived: no lab does.
    pub fn write(&self, lab: &Lab) -> Result<(), LabError> {
        let path = self.0.join(STATE);
        let written = tempfile::NamedTempFile::new_in(&self.0).and_then(|mut file| {
            serde_json::to_writer_pretty(&mut file, lab)?;
            file.flush()?;
            file.persist(&path).map_err(|error| error.error)
        });
        written.map(drop).map_err(fault(&path, "written"))
    }

    /// Is there anything in it that no lab has put there?
    pub fn holds_other_things(&self) -> Result<bool, LabError> {
        let entries = fs::read_dir(&self.0).map_err(fault(&self.0, "listed"))?;
        let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
        let names: Vec<_> = names.collect::<Result<_, _>>().map_err(fault(&self.0, "listed"))?;
        let is_lab = names.iter().any(|name| name == STATE);
        Ok(!is_lab && names.iter().any(|name| name != LOG))
    }

    /// Takes away the disks and logs of these boxes.
    pub fn wipe_boxes(&self, numbers: impl Iterator<Item = u8>) -> Result<(), LabError> {
        for number in numbers {
            let disk = self.disk(number);
            gone(fs::remove_dir_all(&disk)).map_err(fault(&disk, "removed"))?;
            for file in [self.log(number), self.console(number)] {
                gone(fs::remove_file(&file)).map_err(fault(&file, "removed"))?;
            }
        }
        Ok(())
    }

    /// Takes away what the keeper put there for itself, its state at last: until then everything is found again.
    pub fn wipe_keeper(&self) -> Result<(), LabError> {
        for name in [SOCKET, LOG, STATE] {
            let path = self.0.join(name);
            gone(fs::remove_file(&path)).map_err(fault(&path, "removed"))?;
        }
        Ok(())
    }

    /// Takes away the socket of a keeper that has gone.
    pub fn wipe_socket(&self) -> Result<(), LabError> {
        let path = self.0.join(SOCKET);
        gone(fs::remove_file(&path)).map_err(fault(&path, "removed"))
    }
}

/// What isn't there needn't be removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn lab(folder: &Folder) -> Lab {
        Lab {
            id: folder.id(),
            net: None,
            rootless: false,
            keeper: None,
            segments: Vec::new(),
            boxes: BTreeMap::new(),
            cuts: BTreeSet::new(),
            slow: Vec::new(),
        }
    }

    #[test]
    fn a_folder_of_others_is_not_taken() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::make(&root.path().join("lab")).expect("it can be made");
        assert!(!folder.holds_other_things().expect("it can be listed"));
        fs::write(folder.keeper_log(), "").expect("it can be written");
        assert!(!folder.holds_other_things().expect("it can be listed"));
        fs::write(folder.path().join("thesis"), "").expect("it can be written");
        assert!(folder.holds_other_things().expect("it can be listed"));
        folder.write(&lab(&folder)).expect("it can be written");
        assert!(!folder.holds_other_things().expect("it can be listed"), "it was a lab's before");
    }

    #[test]
    fn wiping_leaves_what_others_put_there() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::make(root.path()).expect("it is there");
        folder.write(&lab(&folder)).expect("it can be written");
        fs::create_dir(folder.disk(1)).expect("it can be made");
        fs::write(folder.disk(1).join("x"), "").expect("it can be written");
        fs::write(folder.log(1), "").expect("it can be written");
        fs::write(folder.path().join("b10"), "mine").expect("it can be written");
        folder.wipe_boxes([1, 2].into_iter()).expect("they can be removed");
        folder.wipe_keeper().expect("it can be removed");
        let left: Vec<_> =
            fs::read_dir(folder.path()).expect("it is there").flatten().map(|one| one.file_name()).collect();
        assert_eq!(left, ["b10"]);
    }

    #[test]
    fn there_is_one_keeper() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = Folder::make(root.path()).expect("it is there");
        let lock = folder.lock().expect("it can be locked");
        assert!(lock.is_some());
        assert!(folder.lock().expect("it can be asked").is_none());
        drop(lock);
        assert!(folder.lock().expect("it can be locked").is_some());
    }
}
